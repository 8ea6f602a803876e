/* SPDX-License-Identifier: MIT */
/*
 * What the commands that change images share: names inside a directory, owners of new files, modes
 * as chmod(1) reads them.
 */
#ifndef CLI_WRITE_H
#define CLI_WRITE_H

#include <stdbool.h>
#include <stdint.h>
#include <uext4.h>

#include "image.h"

/* A name, which may or may not exist, in a directory of an image. */
struct slot {
	struct image *image;
	uint32_t dir;	  /* inode */
	char *path;	  /* whole, for messages; starts with '/' */
	const char *name; /* last component, inside path; "" for the root */
};

/*
 * Opens the image of @arg for writing and finds the directory that its last component is in.
 * Reported.  slot_finish() is due after success.
 */
int slot_open(const struct options *opts, const char *arg, struct slot *ret_slot) UEXT4_MUST_CHECK;
void slot_finish(struct slot *slot);
struct place slot_place(const struct slot *slot);
/* The inode that has the name now, no symlink followed: -ENOENT, not reported; others are. */
int slot_find(const struct slot *slot, uint32_t *ret_ino) UEXT4_MUST_CHECK;
/* A name in directory @dir of the same image, called @dir_path. */
void slot_below(struct slot *slot, struct image *image, uint32_t dir, const char *dir_path,
		const char *name);

/* New files belong to who runs the command. */
struct uext4_new new_file(uint32_t mode);

/*
 * The mode that @text, octal or as in "u+rw,go-w", makes of @mode; X looks at whether it is a
 * directory's.  -EINVAL: @text is no mode.
 */
int mode_apply(const char *text, uint32_t mode, uint32_t umask, uint32_t *ret_mode)
	UEXT4_MUST_CHECK;

/* Runs @fn on @target and, if @recursive, on all that is below it, directories first. */
typedef void (*each_fn)(void *arg, struct image *image, const char *path, uint32_t ino,
			const struct uext4_stat *st);
void for_each(struct target *target, bool recursive, each_fn fn, void *arg);

#endif
