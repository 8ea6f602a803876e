/* SPDX-License-Identifier: MIT */
/*
 * Growable bytes, memory that cannot fail, and a map keyed by inode number.
 *
 * B1  A failed allocation ends the process: no caller sees a half-built buffer.
 * B2  The map is at most half full, so that a search for a missing inode ends quickly.
 */
#include "buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * _exit() and not exit(): other threads may be running, and what lies in stdio's buffers must not
 * look like complete output.
 */
static void __attribute__((noreturn)) out_of_memory(void)
{
	static const char text[] = "uext4: out of memory\n";
	ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);

	(void)ignored;
	_exit(1);
}

void *must_alloc(size_t size)
{
	void *p = malloc(size ? size : 1);

	if (!p)
		out_of_memory();
	return p;
}

void *must_resize(void *old, size_t count, size_t size)
{
	void *p = reallocarray(old, count ? count : 1, size);

	if (!p)
		out_of_memory();
	return p;
}

char *must_copy(const char *text)
{
	size_t size = strlen(text) + 1;

	return memcpy(must_alloc(size), text, size);
}

char *must_format(const char *fmt, ...)
{
	va_list args;
	char *text;
	int len;

	va_start(args, fmt);
	len = vasprintf(&text, fmt, args);
	va_end(args);
	if (len < 0)
		out_of_memory();
	return text;
}

/* ---- bytes ---------------------------------------------------------------------------------- */

void buffer_finish(struct buffer *buf)
{
	free(buf->data);
	*buf = (struct buffer){ 0 };
}

char *buffer_room(struct buffer *buf, size_t more)
{
	size_t need;

	if (__builtin_add_overflow(buf->len, more, &need))
		out_of_memory();
	if (need > buf->size) {
		size_t size = buf->size > need / 2 ? buf->size * 2 : need;

		buf->data = must_resize(buf->data, size, 1);
		buf->size = size;
	}
	return buf->data + buf->len;
}

void buffer_add(struct buffer *buf, const void *bytes, size_t len)
{
	if (len == 0)
		return;
	memcpy(buffer_room(buf, len), bytes, len);
	buf->len += len;
}

void buffer_add_zeros(struct buffer *buf, size_t len)
{
	if (len == 0)
		return;
	memset(buffer_room(buf, len), 0, len);
	buf->len += len;
}

void buffer_add_text(struct buffer *buf, const char *text)
{
	buffer_add(buf, text, strlen(text));
}

void buffer_add_decimal(struct buffer *buf, uint64_t value)
{
	char digits[20];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	buffer_add(buf, digits + at, sizeof(digits) - at);
}

const char *buffer_text(struct buffer *buf)
{
	*buffer_room(buf, 1) = '\0';
	return buf->data;
}

/* ---- inode numbers -------------------------------------------------------------------------- */

static size_t inomap_home(const struct inomap *map, uint32_t ino)
{
	/* Multiplication by 2^32 / golden ratio: neighbours, which are the rule, spread out. */
	return (size_t)(uint32_t)(ino * 2654435769u) & (map->size - 1);
}

static struct inomap_slot *inomap_probe(const struct inomap *map, uint32_t ino)
{
	size_t i = inomap_home(map, ino);

	while (map->slots[i].ino && map->slots[i].ino != ino)
		i = (i + 1) & (map->size - 1);
	return &map->slots[i];
}

static void inomap_grow(struct inomap *map)
{
	struct inomap old = *map;

	map->size = old.size ? old.size * 2 : 64;
	map->slots = must_resize(NULL, map->size, sizeof(*map->slots));
	memset(map->slots, 0, map->size * sizeof(*map->slots));
	for (size_t i = 0; i < old.size; i++) {
		if (old.slots[i].ino)
			*inomap_probe(map, old.slots[i].ino) = old.slots[i];
	}
	free(old.slots);
}

void inomap_finish(struct inomap *map)
{
	free(map->slots);
	*map = (struct inomap){ 0 };
}

struct inomap_slot *inomap_find(const struct inomap *map, uint32_t ino)
{
	struct inomap_slot *slot;

	if (map->count == 0)
		return NULL;
	slot = inomap_probe(map, ino);
	return slot->ino ? slot : NULL;
}

void inomap_add(struct inomap *map, uint32_t ino, void *value)
{
	if (map->count >= map->size / 2)
		inomap_grow(map);
	*inomap_probe(map, ino) = (struct inomap_slot){ .ino = ino, .value = value };
	map->count++;
}

void inomap_remove(struct inomap *map, struct inomap_slot *slot)
{
	size_t mask = map->size - 1;
	size_t hole = (size_t)(slot - map->slots);

	/*
	 * Close the gap: an entry further along the run moves into it when its home is not between
	 * the gap and itself, for then a search would stop at the gap before reaching it.
	 */
	for (size_t i = (hole + 1) & mask; map->slots[i].ino; i = (i + 1) & mask) {
		size_t home = inomap_home(map, map->slots[i].ino);

		if (((i - home) & mask) >= ((i - hole) & mask)) {
			map->slots[hole] = map->slots[i];
			hole = i;
		}
	}
	map->slots[hole] = (struct inomap_slot){ 0 };
	map->count--;
}
