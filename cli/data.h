/* SPDX-License-Identifier: MIT */
/*
 * The contents of a file in an image: where they are, and out of it into a descriptor.
 */
#ifndef CLI_DATA_H
#define CLI_DATA_H

#include <stdbool.h>
#include <stdint.h>
#include <uext4.h>

#include "out.h"

enum { DATA_CHUNK = 256 * 1024 };

/* Bytes of a file that are stored: [start, end). */
struct data_range {
	uint64_t start;
	uint64_t end;
};

/*
 * The first stored range at or behind @offset, cut at @size.  Returns 1, 0 if only a hole is left,
 * or a negative errno, reported as a failure at @place.
 */
int data_next(struct place place, struct uext4_file *file, uint64_t offset, uint64_t size,
	      struct data_range *ret) UEXT4_MUST_CHECK;

/* Reads all of @len bytes; a file that ends too early is a failure too.  Reported at @place. */
int data_read(struct place place, struct uext4_file *file, void *buf, size_t len, uint64_t offset)
	UEXT4_MUST_CHECK;

/* Writes all of @buf, or returns a negative errno. */
int write_all(int fd, const void *buf, size_t len) UEXT4_MUST_CHECK;

enum data_holes {
	DATA_HOLES_KEEP, /* @fd is a new regular file: holes stay holes */
	DATA_HOLES_FILL, /* zeros are written, from where @fd stands */
};

/*
 * Copies the first @size bytes of the file to @fd, called @fd_name in messages.  Reports a failure
 * on either side and returns it.
 */
int data_copy(struct place place, struct uext4_file *file, uint64_t size, int fd,
	      const char *fd_name, enum data_holes holes) UEXT4_MUST_CHECK;

#endif
