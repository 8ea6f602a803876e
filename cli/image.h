/* SPDX-License-Identifier: MIT */
/*
 * Operands `IMAGE` and `IMAGE:/path`, and the one way to open an image.
 *
 * The functions that can fail report the failure themselves (out.h) before they return it.
 */
#ifndef CLI_IMAGE_H
#define CLI_IMAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uext4.h>

#include "cli.h"
#include "out.h"

enum image_use { IMAGE_READ, IMAGE_WRITE };

struct image {
	struct uext4_fs *fs;
	enum image_use use;
	char *name; /* as given */
	dev_t dev;  /* of the image file, to recognise it as a target */
	ino_t ino;
	struct image *next;
};

/* A file inside an image. */
struct target {
	struct image *image;
	char *path; /* from the image's root, starts with '/' */
	uint32_t ino;
};

/*
 * Splits @arg at the ":/" that leaves the longest existing image in front of it; without one, the
 * whole is the image and *ret_path is NULL.  Touches no image.  Free both.
 */
void operand_split(const char *arg, char **ret_image, char **ret_path);

/*
 * True if @arg names a place inside an image: it has a ":/" behind the name of an existing file
 * that is no directory, or of a kind of image that is reached by a URI.
 */
bool operand_is_inside(const char *arg);

/* Ends the process with a usage error if @args are none, or one names a path inside an image. */
void operands_are_images(const char *command, int count, char **args);

/*
 * Opens the image @name, once per process: the same name gives the same image.  One that is to be
 * written is opened so the first time.
 */
int image_open(const struct options *opts, const char *name, enum image_use use,
	       struct image **ret_image) UEXT4_MUST_CHECK;

enum target_follow { TARGET_FOLLOW, TARGET_NOFOLLOW };

/* Opens the image of @arg and finds the path in it ("/" if there is none). */
int target_open_for(const struct options *opts, const char *arg, enum target_follow follow,
		    enum image_use use, struct target *ret_target) UEXT4_MUST_CHECK;
/* The same to read it. */
int target_open(const struct options *opts, const char *arg, enum target_follow follow,
		struct target *ret_target) UEXT4_MUST_CHECK;
void target_finish(struct target *target);
struct place target_place(const struct target *target);

/* The last component of the target's path; "/" for the root. */
const char *target_name(const struct target *target);

/* Attributes of @ino, called @path in messages. */
int image_stat(struct image *image, uint32_t ino, const char *path, struct uext4_stat *ret_stat)
	UEXT4_MUST_CHECK;

/* The target of symlink @ino, and a NUL that is not counted, into @buf. */
int image_readlink(struct image *image, uint32_t ino, const char *path, struct buffer *buf)
	UEXT4_MUST_CHECK;

/* The names of its attributes, each with a NUL, and the value of one of them, into @buf. */
int image_xattr_names(struct image *image, uint32_t ino, const char *path, struct buffer *buf)
	UEXT4_MUST_CHECK;
int image_xattr_value(struct image *image, uint32_t ino, const char *path, const char *name,
		      struct buffer *buf) UEXT4_MUST_CHECK;

/* Where and how long partition @number of the disk @name is, in bytes. */
int partition_find(const char *name, unsigned number, uint64_t *ret_offset, uint64_t *ret_length)
	UEXT4_MUST_CHECK;

/* Closes all images that image_open() has opened. */
void images_close(void);

#endif
