/* SPDX-License-Identifier: MIT */
/*
 * One file as a line of `ls -l` or `find -ls`, or as a JSON object.
 */
#ifndef CLI_ROW_H
#define CLI_ROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "image.h"

enum row_flag {
	ROW_LONG = 1u << 0,
	ROW_INO = 1u << 1,
	ROW_BLOCKS = 1u << 2,
	ROW_HUMAN = 1u << 3,
	ROW_CLASSIFY = 1u << 4,
};

struct row {
	char *name; /* as shown */
	size_t name_len;
	char *path; /* inside the image */
	uint32_t ino;
	struct uext4_stat st; /* with neither ROW_LONG nor ROW_BLOCKS only the type in mode */
};

/* Rows that are printed together have columns of one width. */
struct rows {
	struct image *image;
	uint32_t flags;
	bool json;
	struct row *rows;
	size_t count;
	size_t size;
};

/* Adds a row (the strings are copied); prints what was collected once it is much. */
void rows_add(struct rows *rows, const char *name, size_t name_len, const char *path,
	      const struct uext4_stat *st);

/* Prints what is left and forgets it. */
void rows_flush(struct rows *rows);
void rows_finish(struct rows *rows);

#endif
