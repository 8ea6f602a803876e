/* SPDX-License-Identifier: MIT */
/*
 * A tree to be copied into an image, from the host or from an image: one interface to both.
 *
 * Entries come as from a walk (walk.h): a directory before and behind what is in it, names of one
 * directory in byte order.  Failures are reported where they happen.
 */
#ifndef CLI_SOURCE_H
#define CLI_SOURCE_H

#include <stdbool.h>
#include <stdint.h>
#include <uext4.h>

#include "buffer.h"
#include "cli.h"
#include "data.h"
#include "image.h"
#include "walk.h"

struct source;

/* Valid until the next call of source_next(). */
struct source_entry {
	enum walk_kind kind;
	unsigned depth;
	const char *path;     /* for messages */
	const char *name;     /* last component; for depth 0 that of the operand */
	struct uext4_stat st; /* ino is a key for hard links only together with dev */
	uint64_t dev;
};

/* Opens what @arg names, IMAGE:/path or a path of the host; NULL: reported. */
struct source *source_open(const struct options *opts, const char *arg, bool follow);
void source_close(struct source *source);
/* The name for the copy; "" if the operand has none of its own ("/", ".", ".."). */
const char *source_name(const struct source *source);
/* Is it that image's file itself? */
bool source_is_image(const struct source *source, const struct image *image);

const struct source_entry *source_next(struct source *source);
void source_skip(struct source *source);

/* Of the entry returned last.  0, or a negative errno that was reported. */
int source_readlink(struct source *source, struct buffer *buf);
int source_xattr_names(struct source *source, struct buffer *buf);
int source_xattr_value(struct source *source, const char *name, struct buffer *buf);
/* Its contents: opened, read range by range, closed. */
int source_file_open(struct source *source);
int source_file_next(struct source *source, uint64_t offset, uint64_t size, struct data_range *ret);
int source_file_read(struct source *source, void *buf, size_t len, uint64_t offset);
void source_file_close(struct source *source);

#endif
