/* SPDX-License-Identifier: MIT */
/*
 * Growable bytes, memory that cannot fail, and a map keyed by inode number.
 *
 * A command that runs out of memory has nothing sensible left to do: these functions say so and end
 * the process with exit status 1.  (The library never does that; only this program may.)
 */
#ifndef CLI_BUFFER_H
#define CLI_BUFFER_H

#include <stddef.h>
#include <stdint.h>

/* Memory that is there, or the process ends.  Freed with free(). */
void *must_alloc(size_t size) __attribute__((malloc, returns_nonnull));
void *must_resize(void *old, size_t count, size_t size) __attribute__((returns_nonnull));
char *must_copy(const char *text) __attribute__((malloc, returns_nonnull));
char *must_format(const char *fmt, ...) __attribute__((format(printf, 1, 2), returns_nonnull));

/* ---- bytes ---------------------------------------------------------------------------------- */

struct buffer {
	char *data; /* NULL until something was added */
	size_t len;
	size_t size; /* allocated */
};

void buffer_finish(struct buffer *buf);

/* Room for @more bytes behind buf->len; they become part of it with buf->len += n. */
char *buffer_room(struct buffer *buf, size_t more);

void buffer_add(struct buffer *buf, const void *bytes, size_t len);
void buffer_add_zeros(struct buffer *buf, size_t len);
void buffer_add_text(struct buffer *buf, const char *text);
void buffer_add_decimal(struct buffer *buf, uint64_t value);

/* Adds a NUL that does not count as contents, and returns the text. */
const char *buffer_text(struct buffer *buf);

/* ---- inode numbers -------------------------------------------------------------------------- */

/* Inode number 0 does not exist on disk and marks a free slot. */
struct inomap_slot {
	uint32_t ino;
	void *value;
};

/* Open addressing. */
struct inomap {
	struct inomap_slot *slots;
	size_t count;
	size_t size; /* 0 or a power of two */
};

void inomap_finish(struct inomap *map);

/* The slot of @ino, or NULL.  Valid until the next call that changes the map. */
struct inomap_slot *inomap_find(const struct inomap *map, uint32_t ino);

/* @ino (not 0) must not be in the map yet. */
void inomap_add(struct inomap *map, uint32_t ino, void *value);

/* @slot comes from inomap_find(); its value is the caller's to free. */
void inomap_remove(struct inomap *map, struct inomap_slot *slot);

#endif
