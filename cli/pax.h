/* SPDX-License-Identifier: MIT */
/*
 * Headers of a tar archive in POSIX pax format.
 *
 * Written here and not by libarchive, whose writer (3.6.2) gives times before 1970 with a fraction
 * the wrong value, cuts the names of sparse files at 100 bytes, and in binary mode makes GNU tar
 * warn about every entry.
 */
#ifndef CLI_PAX_H
#define CLI_PAX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uext4.h>

#include "buffer.h"

enum { PAX_BLOCK = 512 };

enum pax_type {
	PAX_FILE = '0',
	PAX_HARDLINK = '1',
	PAX_SYMLINK = '2',
	PAX_CHAR = '3',
	PAX_BLOCK_DEVICE = '4',
	PAX_DIRECTORY = '5',
	PAX_FIFO = '6',
};

struct pax_entry {
	enum pax_type type;
	const char *name; /* a directory's ends with '/' */
	size_t name_len;
	const char *link; /* of PAX_SYMLINK and PAX_HARDLINK */
	size_t link_len;
	const struct uext4_stat *st;
	uint64_t stored; /* bytes that follow the header, padding left out */
	bool sparse;	 /* what follows begins with a map, and the file's size is st->size */
};

/* Adds one record, "LENGTH KEY=VALUE\n", to what will be an entry's extended header. */
void pax_add_record(struct buffer *records, const char *key, const void *value, size_t len);

/* The record of attribute @name; of a POSIX ACL, its text.  False: the ACL makes no sense. */
bool pax_add_xattr(struct buffer *records, const char *name, const void *value, size_t len);

/* Adds the headers of @entry to @out; its own records come behind those collected in @records. */
void pax_add_header(struct buffer *out, const struct pax_entry *entry, struct buffer *records);

/* How many zeros fill the last block of @len bytes. */
size_t pax_padding(uint64_t len);

#endif
