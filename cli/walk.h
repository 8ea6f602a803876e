/* SPDX-License-Identifier: MIT */
/*
 * A directory tree of an image, entry by entry: the one walker behind ls, find, du, cp and export.
 *
 *	walk = walk_open(image, ino, "/etc", 0);
 *	while ((entry = walk_next(walk)))
 *		...
 *	walk_close(walk);
 *
 * A directory comes before what is in it (WALK_ENTRY) and, unless it was skipped, once more behind
 * it (WALK_LEAVE).  Names of one directory come in byte order, so that output is the same every
 * time; very large directories are sorted in parts, to bound memory.  Failures are reported here
 * (out.h) and the walk goes on with the rest.
 */
#ifndef CLI_WALK_H
#define CLI_WALK_H

#include <stddef.h>
#include <stdint.h>
#include <uext4.h>

#include "image.h"

enum walk_flag {
	/* Only the type in st.mode, and ino, are wanted: saves reading the inode where possible. */
	WALK_TYPE_ONLY = 1u << 0,
	/* Entries that are no directories are left out. */
	WALK_DIRS_ONLY = 1u << 1,
};

enum walk_kind { WALK_ENTRY, WALK_LEAVE };

/* Valid until the next call of walk_next(). */
struct walk_entry {
	enum walk_kind kind;
	unsigned depth;	  /* 0: where the walk started */
	const char *path; /* the path given at the start and the names below it */
	size_t path_len;
	const char *name; /* last component, inside path; for depth 0 the whole path */
	size_t name_len;
	uint32_t ino;
	struct uext4_stat st;
};

struct walk *walk_open(struct image *image, uint32_t ino, const char *path, uint32_t flags);

/* The next entry, or NULL at the end. */
const struct walk_entry *walk_next(struct walk *walk);

/* Do not enter the directory that was returned last. */
void walk_skip(struct walk *walk);

void walk_close(struct walk *walk);

#endif
