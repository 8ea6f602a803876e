/* SPDX-License-Identifier: MIT */
/*
 * What the disk may hold after a cut, from the log of a recording device (dev/record.h).
 *
 *  L1  A write is there for sure when a flush that began after the write was done has been done
 *      itself.  All other writes before the cut may be there, sector by sector (512 bytes), the
 *      later one on top.
 *  L2  The two sectors of the primary superblock are written together or not at all: its checksum
 *      is read before the journal, so that no order of writes could help, and the kernel has the
 *      same need.
 */
#include "crash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR 512u
#define SUPER_OFFSET 1024u

struct entry {
	const struct record_entry *e;
	const uint8_t *data;
	size_t done; /* of a write or flush: where in the log it was done; SIZE_MAX: never */
};

struct log {
	uint8_t *map;
	size_t map_bytes;
	struct entry *entries;
	size_t count;
	int disk_fd; /* what is there for sure */
	uint8_t *disk;
	uint64_t disk_bytes;
	size_t at;	   /* entries that have happened */
	size_t *unflushed; /* writes among them that are not there for sure, in order */
	struct progress progress;
	bool lose_flushes;
};

static void parse(struct log *l)
{
	const struct record_head *head = (const void *)l->map;
	size_t room = 1024, at = sizeof(*head);
	size_t *by_id;
	uint64_t last_id = 0;

	if (l->map_bytes < sizeof(*head) || head->magic != RECORD_MAGIC ||
	    head->device_bytes != l->disk_bytes)
		die("this is no log of that image");
	l->entries = must_alloc(room * sizeof(*l->entries));
	while (at + sizeof(struct record_entry) <= l->map_bytes) {
		struct entry e = { .e = (const void *)(l->map + at), .done = SIZE_MAX };

		if (l->count == room) {
			room *= 2;
			l->entries = realloc(l->entries, room * sizeof(*l->entries));
			if (!l->entries)
				die("out of memory");
		}
		at += sizeof(*e.e);
		e.data = l->map + at;
		if (e.e->kind == RECORD_WRITE)
			at += e.e->bytes;
		if (e.e->kind != RECORD_MARK && e.e->id > last_id)
			last_id = e.e->id;
		l->entries[l->count++] = e;
	}
	by_id = must_alloc((last_id + 1) * sizeof(*by_id));
	for (size_t i = 0; i < l->count; i++) {
		const struct record_entry *e = l->entries[i].e;

		if (e->kind == RECORD_WRITE || e->kind == RECORD_FLUSH)
			by_id[e->id] = i;
		else if (e->kind == RECORD_DONE || e->kind == RECORD_FLUSHED)
			l->entries[by_id[e->id]].done = i;
	}
	free(by_id);
}

struct log *log_open(const char *path, const uint8_t *base, uint64_t base_bytes)
{
	struct log *l = must_alloc(sizeof(*l));
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		die("%s: %s", path, strerror(errno));
	l->map_bytes = (size_t)st.st_size;
	l->map = mmap(NULL, l->map_bytes, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	l->disk_bytes = base_bytes;
	l->disk_fd = memfd_create("disk", MFD_CLOEXEC);
	if (l->map == MAP_FAILED || l->disk_fd < 0 || ftruncate(l->disk_fd, (off_t)base_bytes) < 0)
		die("%s: %s", path, strerror(errno));
	l->disk = mmap(NULL, base_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, l->disk_fd, 0);
	if (l->disk == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	memcpy(l->disk, base, base_bytes);
	parse(l);
	l->unflushed = must_alloc((l->count + 1) * sizeof(*l->unflushed));
	return l;
}

void log_close(struct log *l)
{
	munmap(l->map, l->map_bytes);
	munmap(l->disk, l->disk_bytes);
	close(l->disk_fd);
	free(l->entries);
	free(l->unflushed);
	free(l);
}

uint64_t log_flushes(const struct log *l)
{
	uint64_t count = 0;

	for (size_t i = 0; i < l->count; i++)
		count += l->entries[i].e->kind == RECORD_FLUSH;
	return count;
}

uint64_t log_writes(const struct log *l)
{
	uint64_t count = 0;

	for (size_t i = 0; i < l->count; i++)
		count += l->entries[i].e->kind == RECORD_WRITE;
	return count;
}

void log_print(const struct log *l, const struct work *w, size_t from, size_t to)
{
	static const char *const kinds[] = { "?", "write", "done", "flush", "flushed", "discard" };

	for (size_t i = from; i < to && i < l->count; i++) {
		const struct record_entry *e = l->entries[i].e;
		uint32_t thread = MARK_THREAD(e->id);

		if (e->kind != RECORD_MARK)
			fprintf(stderr, "    %zu: %s %llu, %llu bytes at %llu (block %llu)\n", i,
				kinds[e->kind], (unsigned long long)e->id,
				(unsigned long long)e->bytes, (unsigned long long)e->offset,
				(unsigned long long)(e->offset / w->block_size));
		else if (thread < w->threads)
			fprintf(stderr, "    %zu: %s of %u:%llu: %s\n", i,
				MARK_IS_END(e->id) ? "end" : "begin", thread,
				(unsigned long long)MARK_OP(e->id),
				w->workers[thread].texts[MARK_OP(e->id)]);
	}
}

void log_lose_flushes(struct log *l)
{
	l->lose_flushes = true;
}

/* ---- which cuts ----------------------------------------------------------------------------- */

static bool promises(const struct work *w, uint64_t mark)
{
	if (!w || !MARK_IS_END(mark))
		return false;
	for (size_t i = 0; i < w->promises_count; i++) {
		if (w->promises[i].thread == MARK_THREAD(mark) &&
		    w->promises[i].op == MARK_OP(mark))
			return true;
	}
	return false;
}

static int by_place(const void *a, const void *b)
{
	const struct cut *x = a, *y = b;

	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return x->seed < y->seed ? -1 : x->seed > y->seed;
}

struct cut *log_cuts(const struct log *l, const struct work *w, unsigned extra, uint64_t seed,
		     size_t *ret_count)
{
	struct cut *cuts = must_alloc((l->count + 1) * (3 + extra) * sizeof(*cuts));
	struct rng r = { mix64(seed) };
	size_t count = 0, last_flush = 0;

	for (size_t i = 0; i <= l->count; i++) {
		const struct record_entry *e = i < l->count ? l->entries[i].e : NULL;

		/* Behind the promise nothing that is not flushed has to be there. */
		if (i > 0 && l->entries[i - 1].e->kind == RECORD_MARK &&
		    promises(w, l->entries[i - 1].e->id))
			cuts[count++] = (struct cut){ .at = i, .seed = 0 };
		if (e && e->kind != RECORD_FLUSH)
			continue;
		/* Somewhere since the last flush, with some of what was written since. */
		for (unsigned n = 0; n < extra; n++)
			cuts[count++] = (struct cut){
				.at = last_flush + rnd_below(&r, i - last_flush + 1),
				.seed = rnd(&r) | 2,
			};
		cuts[count++] = (struct cut){ .at = i, .seed = 0 };
		cuts[count++] = (struct cut){ .at = i, .seed = 1 };
		last_flush = i + 1;
	}
	qsort(cuts, count, sizeof(*cuts), by_place);
	*ret_count = count;
	return cuts;
}

static struct promise *promise_of(struct work *w, uint64_t mark)
{
	for (size_t i = 0; i < w->promises_count; i++) {
		struct promise *p = &w->promises[i];

		if (p->all && p->thread == MARK_THREAD(mark) && p->op == MARK_OP(mark))
			return p;
	}
	return NULL;
}

void log_fill_promises(const struct log *l, struct work *w)
{
	uint64_t ended[CRASH_THREADS_MAX] = { 0 };

	for (size_t i = 0; i < l->count; i++) {
		const struct record_entry *e = l->entries[i].e;
		struct promise *p;

		if (e->kind != RECORD_MARK || MARK_THREAD(e->id) >= CRASH_THREADS_MAX)
			continue;
		if (MARK_IS_END(e->id)) {
			ended[MARK_THREAD(e->id)] = MARK_OP(e->id);
			continue;
		}
		p = promise_of(w, e->id);
		if (p)
			memcpy(p->k, ended, sizeof(ended));
	}
}

/* ---- the disk ------------------------------------------------------------------------------- */

static void flushed(struct log *l, size_t flush)
{
	size_t kept = 0;

	if (l->lose_flushes)
		return;
	for (size_t i = 0; i < l->progress.unflushed; i++) {
		const struct entry *w = &l->entries[l->unflushed[i]];

		if (w->done < flush)
			memcpy(l->disk + w->e->offset, w->data, w->e->bytes);
		else
			l->unflushed[kept++] = l->unflushed[i];
	}
	l->progress.unflushed = kept;
}

static void note_mark(struct log *l, uint64_t mark)
{
	uint32_t thread = MARK_THREAD(mark);

	if (thread >= CRASH_THREADS_MAX) {
		l->progress.ready = true;
		return;
	}
	if (MARK_IS_END(mark))
		l->progress.ended[thread] = MARK_OP(mark);
	else
		l->progress.begun[thread] = MARK_OP(mark);
}

static size_t flush_of(const struct log *l, size_t flushed_at)
{
	size_t i = flushed_at;

	while (l->entries[i].e->kind != RECORD_FLUSH ||
	       l->entries[i].e->id != l->entries[flushed_at].e->id)
		i--;
	return i;
}

static void advance(struct log *l, size_t to)
{
	for (; l->at < to; l->at++) {
		const struct record_entry *e = l->entries[l->at].e;

		switch (e->kind) {
		case RECORD_WRITE: l->unflushed[l->progress.unflushed++] = l->at; break;
		case RECORD_FLUSHED: flushed(l, flush_of(l, l->at)); break;
		case RECORD_MARK: note_mark(l, e->id); break;
		case RECORD_DISCARD: die("the log has a discard, which is not handled here"); break;
		default: break;
		}
	}
}

/* Sectors [@from, @to) of a write. */
static void put_sectors(uint8_t *disk, const struct entry *w, uint64_t from, uint64_t to)
{
	uint64_t start = from * SECTOR, end = to * SECTOR;

	if (end > w->e->bytes)
		end = w->e->bytes;
	if (start < end)
		memcpy(disk + w->e->offset + start, w->data + start, end - start);
}

/* L2: sector @s of the write is the second of the superblock, and the first is in it too. */
static bool follows_first(const struct entry *w, uint64_t s)
{
	return s > 0 && w->e->offset + s * SECTOR == SUPER_OFFSET + SECTOR;
}

static void put_some(uint8_t *disk, const struct entry *w, struct rng *r)
{
	uint64_t sectors = (w->e->bytes + SECTOR - 1) / SECTOR;
	bool put = false;

	for (uint64_t s = 0; s < sectors; s++) {
		if (!follows_first(w, s))
			put = rnd_one_in(r, 2);
		if (put)
			put_sectors(disk, w, s, s + 1);
	}
}

enum way {
	WAY_EACH,   /* each write is there or not */
	WAY_PREFIX, /* the first ones, and a part of the next */
	WAY_BUT,    /* all but one */
	WAY_ONLY,   /* one alone */
	WAY_TORN,   /* each sector is there or not */
	WAYS
};

static void put_unflushed(struct log *l, uint8_t *disk, uint64_t seed)
{
	struct rng r = { mix64(seed) };
	size_t count = l->progress.unflushed, chosen;
	enum way way;

	if (seed == 0 || count == 0)
		return;
	way = (enum way)rnd_below(&r, WAYS);
	chosen = rnd_below(&r, count);
	for (size_t i = 0; i < count; i++) {
		const struct entry *w = &l->entries[l->unflushed[i]];
		uint64_t sectors = (w->e->bytes + SECTOR - 1) / SECTOR;
		bool whole = seed == 1 || (way == WAY_EACH && rnd_one_in(&r, 2)) ||
			     (way == WAY_PREFIX && i < chosen) || (way == WAY_BUT && i != chosen) ||
			     (way == WAY_ONLY && i == chosen);

		if (whole)
			put_sectors(disk, w, 0, sectors);
		else if (way == WAY_TORN || (way == WAY_PREFIX && i == chosen))
			put_some(disk, w, &r);
	}
}

uint8_t *log_image(struct log *l, const struct cut *cut)
{
	uint8_t *disk;

	advance(l, cut->at);
	disk = mmap(NULL, l->disk_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, l->disk_fd, 0);
	if (disk == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	put_unflushed(l, disk, cut->seed);
	return disk;
}

const struct progress *log_progress(const struct log *l)
{
	return &l->progress;
}
