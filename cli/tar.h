/* SPDX-License-Identifier: MIT */
/*
 * The pipeline behind `export`: pieces of an archive, made in parallel, written in order.
 *
 * One thread (the caller) walks the tree and says what the archive consists of, piece by piece.
 * Worker threads read attributes and contents into buffers that are the archive's bytes already,
 * and one thread writes the buffers in the order of the pieces.
 */
#ifndef CLI_TAR_H
#define CLI_TAR_H

#include <stdbool.h>
#include <stdint.h>
#include <uext4.h>

#include "image.h"
#include "pax.h"

/* Where the archive goes. */
/* Does libarchive have filter @name?  Complains if not. */
bool tar_can_compress(const char *name);

struct tar_output {
	int fd;
	const char *name;     /* for messages */
	const char *compress; /* a filter of libarchive, or NULL */
};

struct tar *tar_create(struct image *image, const struct tar_output *output);

/* A file whose contents are too large, or too full of holes, to be one piece. */
struct tar_file;
struct tar_file *tar_file_create(struct uext4_file *file, const char *path);
void tar_file_put(struct tar_file *file);

/* What the header of an entry is made from; the strings are copied. */
struct tar_entry {
	enum pax_type type;
	const char *path; /* in the image, for messages */
	const char *name; /* in the archive */
	const char *link; /* of PAX_HARDLINK; symlinks are read by the workers */
	uint32_t ino;
	struct uext4_stat st;
	uint64_t stored; /* bytes added by tar_add_data() and tar_add_bytes() */
	bool sparse;
	bool contents; /* the workers read all of the file: stored == st.size <= DATA_CHUNK */
};

/* These wait while too much is under way. */
void tar_add_entry(struct tar *tar, const struct tar_entry *entry);
void tar_add_data(struct tar *tar, struct tar_file *file, uint64_t offset, uint32_t len);
void tar_add_bytes(struct tar *tar, const void *bytes, size_t len);
void tar_add_zeros(struct tar *tar, uint64_t len);

/* False once writing has failed: no need to go on. */
bool tar_works(struct tar *tar);

/* Writes what is under way and the end of the archive.  False (reported) if not all was written. */
bool tar_finish(struct tar *tar);

#endif
