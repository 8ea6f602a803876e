/* SPDX-License-Identifier: MIT */
/*
 * cache/writeback.c and the pages that change: that what is marked dirty gets to the disk, and
 * nothing else does; that it stays in memory until then, also when writing fails, and every holder
 * hears of a failure once; that a page which changes while it is written is written again; that
 * dirty memory is bounded, and writers wait for room, or get the error if there will be none; all
 * of it with many threads.
 *
 * The file is an array in memory; its pages say how often they were changed.
 *
 * Usage: cache_write [SEED]
 */
#include "cache/cache_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#undef fail /* ours is meant */

#define MIB (1024u * 1024)
#define THREADS 6u
#define FILE_PAGES 1024u
#define PART_BYTES (1u << PAGE_PART_BITS)

static uint64_t seed = 1;

/* xorshift64*: the same numbers everywhere. */
static uint64_t rnd(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

static uint64_t rnd_below(uint64_t *state, uint64_t end)
{
	return (rnd(state) >> 16) % end;
}

/* In threads, where cmocka's assertions cannot be used. */
#define CHECK(x)                                                                              \
	do {                                                                                  \
		if (!(x)) {                                                                   \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #x); \
			abort();                                                              \
		}                                                                             \
	} while (0)

static int setup(void **state UNUSED)
{
	diag_clear();
	return 0;
}

static struct cache_stats stats_of(struct cache *cache)
{
	struct cache_stats stats;

	cache_get_stats(cache, &stats);
	return stats;
}

/* No buffers here, so no device. */
static struct cache *new_cache(uint64_t budget)
{
	struct cache *cache;

	assert_int_equal(cache_create(NULL, budget, &cache), 0);
	return cache;
}

/* ---- a file in memory ------------------------------------------------------------------------ */

struct toy_file {
	struct mapping m;
	uint8_t store[FILE_PAGES][PAGE_BYTES]; /* the disk */
	_Atomic uint32_t fills, writes, drops;
	_Atomic int32_t holds;
	unsigned trims;
	_Atomic uint64_t bad_read;  /* page plus one that cannot be read; 0: none */
	_Atomic uint64_t bad_write; /* the same; UINT64_MAX: all pages */
	_Atomic uint32_t promised;  /* parts of pages that are reserved */
	void (*in_write)(struct toy_file *file, struct page *page);
	pthread_rwlock_t shape; /* many threads: stands for the inode's lock */
	/* Many threads: what each page should say. */
	_Atomic uint64_t model[FILE_PAGES];
};

static struct toy_file *toy_of(struct mapping *m)
{
	return container_of(m, struct toy_file, m);
}

static int toy_fill(struct mapping *m, struct page *const *pages, size_t count)
{
	struct toy_file *file = toy_of(m);

	for (size_t i = 0; i < count; i++) {
		if (pages[i]->index + 1 == atomic_load(&file->bad_read))
			return fail(-EIO, "bad page");
		memcpy(pages[i]->data, file->store[pages[i]->index], PAGE_BYTES);
		atomic_fetch_add(&file->fills, 1);
	}
	return 0;
}

static int toy_write(struct toy_file *file, struct page *page, uint8_t parts)
{
	uint64_t bad = atomic_load(&file->bad_write);

	if (file->in_write != NULL)
		file->in_write(file, page);
	if (page->index + 1 == bad || bad == UINT64_MAX)
		return fail(-EIO, "page %llu cannot be written", (unsigned long long)page->index);
	/* Under its lock, as memory has no tearing that the sanitizer would allow. */
	page_lock(page);
	for (unsigned part = 0; part < 4; part++) {
		if (parts & 1u << part)
			memcpy(file->store[page->index] + part * PART_BYTES,
			       page->data + part * PART_BYTES, PART_BYTES);
	}
	page->reserved &= (uint8_t)~parts;
	page_unlock(page);
	atomic_fetch_add(&file->writes, 1);
	return 0;
}

/* Locks dirty pages that are not under writeback. */
static bool toy_start(struct page *page, bool wait, uint8_t *ret_parts)
{
	for (;;) {
		page_lock(page);
		if (!page_is_dirty(page))
			break;
		if (!page_is_writeback(page)) {
			pages_start_writeback(&page, ret_parts, 1);
			page_unlock(page);
			return true;
		}
		if (!wait)
			break;
		page_unlock(page);
		page_wait_writeback(page);
	}
	page_unlock(page);
	return false;
}

#define TOY_BATCH 7

static int toy_writepages(struct mapping *m, pgoff_t first, pgoff_t last, bool wait)
{
	struct page *found[TOY_BATCH], *pages[TOY_BATCH];
	uint8_t parts[TOY_BATCH];
	size_t count, started;
	int err = 0;

	while ((count = mapping_find_dirty(m, &first, last, found, TOY_BATCH)) > 0) {
		int failed = 0;

		started = 0;
		for (size_t i = 0; i < count; i++) {
			pages[started] = found[i];
			started += toy_start(found[i], wait && started == 0, &parts[started]);
		}
		for (size_t i = 0; i < started; i++)
			failed = first_error(failed, toy_write(toy_of(m), pages[i], parts[i]));
		if (started > 0)
			pages_end_writeback(pages, parts, started, failed);
		if (wait && started < count) /* what was under writeback, or nothing any more */
			first = found[0]->index + (started > 0 || !page_is_dirty(found[0]));
		err = first_error(err, failed);
		pages_put(found, count);
		if (failed < 0)
			first = found[count - 1]->index + 1;
	}
	return err;
}

static void toy_drop(struct mapping *m, struct page *page)
{
	atomic_fetch_add(&toy_of(m)->drops, 1);
	atomic_fetch_sub(&toy_of(m)->promised, (uint32_t)__builtin_popcount(page->reserved));
	page->reserved = 0;
}

static void toy_hold(struct mapping *m)
{
	atomic_fetch_add(&toy_of(m)->holds, 1);
}

static void toy_release(struct mapping *m)
{
	CHECK(atomic_fetch_sub(&toy_of(m)->holds, 1) > 0);
}

static bool toy_try_hold(struct mapping *m)
{
	toy_hold(m);
	return true;
}

static bool toy_try_lock(struct mapping *m)
{
	return toy_of(m)->trims++ % 2 == 0;
}

static void toy_unlock(struct mapping *m UNUSED) {}

static const struct mapping_ops toy_ops = {
	.fill = toy_fill,
	.writepages = toy_writepages,
	.drop = toy_drop,
	.hold = toy_hold,
	.release = toy_release,
	.try_hold = toy_try_hold,
	.try_lock = toy_try_lock,
	.unlock = toy_unlock,
};

/* Memory as a mapped file has it, and page tables that are one byte a page. */
struct toy_frames {
	struct frames f;
	uint8_t memory[FILE_PAGES][PAGE_BYTES];
	uint8_t pte[FILE_PAGES]; /* 0: none, 1: loads, 2: stores too */
	pgoff_t pinned;		 /* for stores, plus one */
	bool pin_ends;		 /* as soon as somebody has seen it */
	unsigned protects, discards;
	bool *destroyed;
};

static struct toy_frames *frames_of(struct frames *f)
{
	return container_of(f, struct toy_frames, f);
}

static uint8_t *toy_at(struct frames *f, pgoff_t index)
{
	return frames_of(f)->memory[index];
}

static int toy_resize(struct frames *f, pgoff_t pages)
{
	if (pages > FILE_PAGES)
		return -ENOMEM;
	atomic_store(&f->pages, pages);
	return 0;
}

static bool toy_pinned(struct frames *f, pgoff_t first, pgoff_t last, bool store UNUSED)
{
	pgoff_t pinned = frames_of(f)->pinned;
	bool is_pinned = pinned != 0 && pinned - 1 >= first && pinned - 1 <= last;

	if (is_pinned && frames_of(f)->pin_ends)
		frames_of(f)->pinned = 0;
	return is_pinned;
}

static void toy_protect(struct frames *f, pgoff_t first, size_t count)
{
	frames_of(f)->protects++;
	for (size_t i = first; i < first + count; i++) {
		if (!toy_pinned(f, i, i, true) && frames_of(f)->pte[i] == 2)
			frames_of(f)->pte[i] = 1;
	}
}

static void toy_discard(struct frames *f, pgoff_t first, size_t count)
{
	frames_of(f)->discards++;
	memset(frames_of(f)->pte + first, 0, count);
	memset(frames_of(f)->memory[first], 0, count * PAGE_BYTES);
}

static void toy_destroy(struct frames *f)
{
	*frames_of(f)->destroyed = true;
	free(frames_of(f));
}

static const struct frames_ops toy_frames_ops = {
	.at = toy_at,
	.resize = toy_resize,
	.protect = toy_protect,
	.discard = toy_discard,
	.pinned = toy_pinned,
	.destroy = toy_destroy,
};

static struct toy_frames *map_file(struct toy_file *file, pgoff_t pages, bool *destroyed)
{
	struct toy_frames *t = calloc(1, sizeof(*t));

	CHECK(t != NULL);
	t->f.ops = &toy_frames_ops;
	t->destroyed = destroyed;
	*destroyed = false;
	mapping_set_frames(&file->m, &t->f);
	CHECK(mapping_extend_frames(&file->m, pages) == 0);
	return t;
}

static struct toy_file *new_file(struct cache *cache)
{
	struct toy_file *file = calloc(1, sizeof(*file));

	CHECK(file != NULL);
	mapping_init(&file->m, cache, &toy_ops);
	CHECK(pthread_rwlock_init(&file->shape, NULL) == 0);
	return file;
}

static void free_file(struct toy_file *file)
{
	CHECK(atomic_load(&file->holds) == 0);
	mapping_finish(&file->m);
	free(file);
}

/* The page @index, locked and uptodate. */
static int grab_full(struct toy_file *file, pgoff_t index, struct page **ret_page)
{
	struct page *page;
	int err;

	err = page_grab(&file->m, index, &page);
	if (err < 0)
		return err;
	if (!page_is_uptodate(page)) {
		err = page_fill(&file->m, page);
		if (err < 0) {
			page_unlock_put(page);
			return err;
		}
	}
	*ret_page = page;
	return 0;
}

/* Puts @value at the head of each of @parts. */
static int change(struct toy_file *file, pgoff_t index, uint8_t parts, uint64_t value)
{
	struct page *page;
	int err;

	err = grab_full(file, index, &page);
	if (err < 0)
		return err;
	err = page_set_dirty(page, parts);
	for (unsigned part = 0; part < 4 && err == 0; part++) {
		if (parts & 1u << part)
			page_copy_in(page, part * PART_BYTES, &value, sizeof(value));
	}
	page_unlock_put(page);
	return err;
}

static uint64_t value_at(const uint8_t *page, unsigned part)
{
	uint64_t value;

	memcpy(&value, page + part * PART_BYTES, sizeof(value));
	return value;
}

static uint64_t stored(struct toy_file *file, pgoff_t index, unsigned part)
{
	return value_at(file->store[index], part);
}

static uint64_t cached(struct toy_file *file, pgoff_t index, unsigned part)
{
	struct page *page;
	uint64_t value;

	CHECK(pages_get(&file->m, index, 1, 0, &page) == 0);
	value = value_at(page->data, part);
	pages_put(&page, 1);
	return value;
}

static int flush(struct toy_file *file)
{
	return mapping_flush(&file->m, 0, UINT64_MAX);
}

/* ---- one thread ------------------------------------------------------------------------------ */

static void what_is_dirty_is_written(void **state UNUSED)
{
	struct cache *cache = new_cache(4 * MIB);
	struct toy_file *file = new_file(cache);

	assert_int_equal(flush(file), 0); /* nothing */
	assert_int_equal(change(file, 3, PAGE_ALL_PARTS, 33), 0);
	assert_int_equal(change(file, 4, 1u << 2, 44), 0);
	assert_int_equal(change(file, 900, 1, 99), 0);
	assert_int_equal(change(file, 900, 2, 98), 0);
	assert_int_equal(stats_of(cache).dirty_bytes, 3 * PAGE_BYTES);
	assert_int_equal(file->holds, 1);
	assert_int_equal(cached(file, 4, 2), 44);
	assert_int_equal(stored(file, 4, 2), 0);
	file->store[4][0] = 1; /* not a dirty part: it must not be overwritten */

	assert_int_equal(mapping_flush(&file->m, 4, 899), 0);
	assert_int_equal(file->writes, 1);
	assert_int_equal(stored(file, 4, 2), 44);
	assert_int_equal(file->store[4][0], 1);
	assert_int_equal(file->holds, 1);
	assert_int_equal(flush(file), 0);
	assert_int_equal(file->writes, 3);
	assert_int_equal(stored(file, 3, 0), 33);
	assert_int_equal(stored(file, 3, 3), 33);
	assert_int_equal(stored(file, 900, 0), 99);
	assert_int_equal(stored(file, 900, 1), 98);
	assert_int_equal(file->holds, 0);
	assert_false(mapping_is_dirty(&file->m));
	assert_int_equal(stats_of(cache).dirty_bytes, 0);
	assert_int_equal(flush(file), 0);
	assert_int_equal(file->writes, 3);
	free_file(file);
	cache_destroy(cache);
}

static void dirty_pages_are_not_evicted(void **state UNUSED)
{
	struct cache *cache = new_cache(MIB);
	struct toy_file *file = new_file(cache), *other = new_file(cache);

	for (pgoff_t i = 0; i < 100; i++)
		assert_int_equal(change(file, i, PAGE_ALL_PARTS, i + 1), 0);
	for (pgoff_t i = 0; i < FILE_PAGES; i++)
		(void)cached(other, i, 0);
	assert_int_equal(file->fills, 100);
	for (pgoff_t i = 0; i < 100; i++)
		assert_int_equal(cached(file, i, 3), i + 1);
	assert_int_equal(file->fills, 100);
	assert_int_equal(flush(file), 0);
	for (unsigned round = 0; round < 3; round++) {
		for (pgoff_t i = 0; i < FILE_PAGES; i++)
			(void)cached(other, i, 0);
	}
	assert_int_equal(cached(file, 50, 3), 51);
	assert_true(file->fills > 100); /* now they were */
	free_file(file);
	free_file(other);
	cache_destroy(cache);
}

static void grabbed_pages_are_made_or_found(void **state UNUSED)
{
	struct cache *cache = new_cache(8 * MIB);
	struct toy_file *file = new_file(cache);
	struct page *pages[PAGES_BATCH_MAX];

	assert_int_equal(cached(file, 10, 0), 0);
	assert_null(page_grab_present(&file->m, 11));
	assert_int_equal(pages_grab(&file->m, 0, PAGES_BATCH_MAX, pages), 0);
	assert_int_equal(file->fills, 1);
	for (pgoff_t i = 0; i < PAGES_BATCH_MAX; i++) {
		assert_int_equal(pages[i]->index, i);
		assert_true(page_lock_in(&file->m, pages[i]));
		assert_int_equal(page_is_uptodate(pages[i]), i == 10);
		page_unlock(pages[i]);
	}
	/* A reader finds out by himself what is in them. */
	file->store[11][0] = 7;
	assert_int_equal(cached(file, 11, 0), 7);
	assert_int_equal(file->fills, 2);
	/* One that cannot be read leaves the file, and a new one takes its place. */
	file->bad_read = 12 + 1;
	assert_true(page_lock_in(&file->m, pages[12]));
	assert_int_equal(page_fill(&file->m, pages[12]), -EIO);
	page_unlock(pages[12]);
	assert_false(page_lock_in(&file->m, pages[12]));
	file->bad_read = 0;
	assert_int_equal(change(file, 12, PAGE_ALL_PARTS, 5), 0);
	assert_int_equal(flush(file), 0);
	assert_int_equal(stored(file, 12, 0), 5);
	pages_put(pages, PAGES_BATCH_MAX);
	free_file(file);
	cache_destroy(cache);
}

/* Pages that were filled before they belong to a file. */
static void staged_pages_are_adopted_where_there_are_none(void **state UNUSED)
{
	struct cache *cache = new_cache(8 * MIB);
	struct toy_file *file = new_file(cache);
	struct page *staged[8];
	uint64_t bytes;

	(void)cached(file, 3, 0);
	assert_int_equal(pages_stage(cache, 8, staged), 0);
	bytes = stats_of(cache).bytes;
	for (uint64_t i = 0; i < 8; i++)
		memcpy(staged[i]->data, &i, sizeof(i));
	assert_int_equal(pages_adopt(&file->m, 3, staged + 3, 1), 0);
	assert_int_equal(pages_adopt(&file->m, 0, staged, 8), 3);
	for (pgoff_t i = 0; i < 3; i++) {
		assert_int_equal(page_set_dirty(staged[i], PAGE_ALL_PARTS), 0);
		if (i != 1)
			page_set_uptodate(staged[i]);
	}
	/* One is given up: who wants it reads it. */
	file->store[1][0] = 77;
	assert_int_equal(page_fill(&file->m, staged[1]), 0);
	page_set_uptodate(staged[1]);
	for (pgoff_t i = 0; i < 3; i++) {
		page_unlock_put(staged[i]);
		staged[i] = NULL;
	}
	assert_int_equal(cached(file, 1, 0), 77);
	assert_int_equal(cached(file, 2, 0), 2);
	assert_int_equal(flush(file), 0);
	assert_int_equal(stored(file, 2, 0), 2);
	pages_unstage(staged, 8);
	assert_int_equal(stats_of(cache).bytes, bytes);
	free_file(file);
	cache_destroy(cache); /* nothing is left over */
}

static void change_in_write(struct toy_file *file, struct page *page)
{
	file->in_write = NULL;
	assert_true(page_is_writeback(page));
	assert_false(page_is_dirty(page));
	assert_int_equal(change(file, page->index, 1u << 1, 1000), 0);
	assert_true(page_is_writeback(page) && page_is_dirty(page));
	file->store[page->index][0] = 0; /* so that a second write of part 0 is seen */
}

static void page_changed_in_writeback_is_written_again(void **state UNUSED)
{
	struct cache *cache = new_cache(MIB);
	struct toy_file *file = new_file(cache);

	assert_int_equal(change(file, 3, 1u << 3, 1), 0);
	file->in_write = change_in_write;
	assert_int_equal(mapping_flush(&file->m, 3, 3), 0);
	assert_int_equal(file->writes, 1);
	assert_true(mapping_is_dirty(&file->m));
	assert_int_equal(file->holds, 1);
	assert_int_equal(flush(file), 0);
	assert_int_equal(file->writes, 2);
	assert_int_equal(stored(file, 3, 1), 1000);
	assert_int_equal(stored(file, 3, 3), 1);
	assert_int_equal(file->holds, 0);
	free_file(file);
	cache_destroy(cache);
}

static void failed_write_keeps_data_and_tells_each_once(void **state UNUSED)
{
	struct cache *cache = new_cache(MIB);
	struct toy_file *file = new_file(cache);
	uint64_t early = mapping_error_now(&file->m), late, third = early;

	for (pgoff_t i = 0; i < 5; i++)
		assert_int_equal(change(file, i * 100, 1, i + 1), 0);
	assert_int_equal(mapping_error(&file->m, &early), 0);
	file->bad_write = 200 + 1;
	assert_int_equal(flush(file), -EIO);
	assert_non_null(strstr(diag_text(), "page 200"));
	late = mapping_error_now(&file->m);
	assert_int_equal(mapping_error(&file->m, &early), -EIO);
	assert_int_equal(mapping_error(&file->m, &early), 0);
	assert_int_equal(mapping_error(&file->m, &late), 0);
	assert_true(mapping_is_dirty(&file->m));
	assert_int_equal(cached(file, 200, 0), 3);
	assert_int_equal(flush(file), -EIO); /* still */
	assert_int_equal(mapping_error(&file->m, &late), -EIO);
	assert_int_equal(mapping_error(&file->m, &third), -EIO); /* twice, told once */
	assert_int_equal(mapping_error(&file->m, &third), 0);
	file->bad_write = 0;
	assert_int_equal(flush(file), 0);
	for (pgoff_t i = 0; i < 5; i++)
		assert_int_equal(stored(file, i * 100, 0), i + 1);
	assert_int_equal(mapping_error(&file->m, &late), 0);
	assert_int_equal(file->holds, 0);
	free_file(file);
	cache_destroy(cache);
}

/* ---- mapped files ---------------------------------------------------------------------------- */

static void mapped_pages_lie_in_their_frames(void **state UNUSED)
{
	struct cache *cache = new_cache(2 * MIB);
	struct toy_file *file = new_file(cache);
	struct toy_frames *t;
	struct page *page;
	bool gone;

	file->store[5][0] = 55;
	t = map_file(file, 100, &gone);
	assert_int_equal(pages_get(&file->m, 5, 1, 200, &page),
			 0); /* reads ahead up to the end only */
	assert_ptr_equal(page->data, t->memory[5]);
	assert_int_equal(page->data[0], 55);
	pages_put(&page, 1);
	assert_int_equal(mapping_extend_frames(&file->m, FILE_PAGES + 1), -ENOMEM);
	assert_int_equal(mapping_extend_frames(&file->m, 200), 0);
	assert_int_equal(cached(file, 150, 0), 0);

	/*
	 * A page that goes has no entry and no memory any more, before anybody makes it anew (FR1).
	 */
	assert_int_equal(change(file, 150, PAGE_ALL_PARTS, 7), 0);
	t->pte[150] = 2;
	mapping_drop(&file->m, 100, UINT64_MAX);
	mapping_cut_frames(&file->m, 100);
	assert_int_equal(t->pte[150], 0);
	assert_int_equal(t->memory[150][0], 0);
	assert_int_equal(t->pte[5], 0);
	free_file(file);
	assert_true(gone);
	cache_destroy(cache);
}

static void entries_are_protected_before_pages_are_clean(void **state UNUSED)
{
	struct cache *cache = new_cache(2 * MIB);
	struct toy_file *file = new_file(cache);
	struct toy_frames *t;
	bool gone;

	t = map_file(file, 100, &gone);
	for (pgoff_t i = 10; i < 13; i++) {
		assert_int_equal(change(file, i, PAGE_ALL_PARTS, i), 0);
		t->pte[i] = 2;
	}
	t->pinned = 11 + 1;
	assert_int_equal(flush(file), 0);
	assert_int_equal(t->pte[10], 1);
	assert_int_equal(t->pte[11], 2); /* stores go on there, so it stays dirty */
	assert_int_equal(t->pte[12], 1);
	assert_int_equal(stored(file, 11, 0), 11);
	assert_int_equal(stats_of(cache).dirty_bytes, PAGE_BYTES);
	memset(t->memory[11], 9, 8);
	/* A pin may end in the midst of it: what may be stored to is dirty even so. */
	t->pin_ends = true;
	assert_int_equal(flush(file), 0);
	assert_int_equal(t->pinned, 0);
	assert_true(t->pte[11] == 1 || stats_of(cache).dirty_bytes == PAGE_BYTES);
	assert_int_equal(flush(file), 0);
	assert_int_equal(t->pte[11], 1);
	assert_int_equal(file->store[11][0], 9);
	assert_int_equal(stats_of(cache).dirty_bytes, 0);
	free_file(file);
	cache_destroy(cache);
}

static void clean_mapped_pages_are_trimmed(void **state UNUSED)
{
	struct cache *cache = new_cache(1 * MIB);
	struct toy_file *file = new_file(cache);
	struct toy_frames *t;
	struct page *held;
	bool gone;

	t = map_file(file, FILE_PAGES, &gone);
	for (pgoff_t i = 0; i < FILE_PAGES; i++)
		(void)cached(file, i, 0);
	assert_true(stats_of(cache).bytes > 2 * MIB); /* reclaim does not touch them */
	assert_int_equal(change(file, 3, PAGE_ALL_PARTS, 33), 0);
	t->pte[3] = 2;
	t->pte[4] = 1;
	assert_int_equal(pages_get(&file->m, 5, 1, 0, &held), 0);
	for (int i = 0; i < 20; i++)
		cache_trim_frames(cache);
	assert_int_equal(t->pte[3], 2); /* dirty */
	assert_int_equal(t->pte[4], 0);
	assert_int_equal(value_at(held->data, 0), stored(file, 5, 0));
	assert_true(page_lock_in(&file->m, held));
	page_unlock(held);
	pages_put(&held, 1);
	assert_int_equal(cached(file, 3, 0), 33);
	/* Below the budget nothing is taken; asked for, all of it that can go. */
	assert_int_equal(flush(file), 0);
	(void)mapping_trim(&file->m, 0, UINT64_MAX, SIZE_MAX); /* the first turn takes marks away */
	assert_true(mapping_trim(&file->m, 0, UINT64_MAX, SIZE_MAX) > 0 || t->discards > 0);
	assert_int_equal(mapping_trim(&file->m, 0, UINT64_MAX, SIZE_MAX), 0);
	assert_int_equal(file->m.pages.count, 0);
	free_file(file);
	cache_destroy(cache);
}

static void dropped_pages_are_not_written(void **state UNUSED)
{
	struct cache *cache = new_cache(2 * MIB);
	struct toy_file *file = new_file(cache);
	struct page *held;

	for (pgoff_t i = 0; i < 300; i++) {
		assert_int_equal(change(file, i, 1, i + 1), 0);
		held = page_grab_present(&file->m, i);
		assert_non_null(held);
		held->reserved = 1;
		file->promised++;
		page_unlock_put(held);
	}
	assert_int_equal(pages_get(&file->m, 150, 1, 0, &held), 0);
	mapping_drop(&file->m, 100, UINT64_MAX);
	assert_int_equal(file->drops, 200);
	assert_int_equal(file->promised, 100);
	assert_int_equal(stats_of(cache).dirty_bytes, 100 * PAGE_BYTES);
	assert_false(page_lock_in(&file->m, held));
	assert_int_equal(value_at(held->data, 0), 151); /* who holds it still sees it */
	assert_int_equal(cached(file, 150, 0), 0);
	pages_put(&held, 1);
	assert_int_equal(flush(file), 0);
	assert_int_equal(stored(file, 99, 0), 100);
	assert_int_equal(stored(file, 100, 0), 0);
	assert_int_equal(change(file, 7, 1, 1), 0);
	mapping_drop(&file->m, 0, 99);
	assert_int_equal(file->holds, 0);
	assert_int_equal(cached(file, 7, 0), 8);
	free_file(file);
	cache_destroy(cache);
}

static void all_files_are_flushed(void **state UNUSED)
{
	struct cache *cache = new_cache(4 * MIB);
	struct toy_file *files[20];

	for (unsigned i = 0; i < 20; i++) {
		files[i] = new_file(cache);
		assert_int_equal(change(files[i], i, 1, i + 1), 0);
	}
	files[7]->bad_write = 7 + 1;
	assert_int_equal(cache_flush(cache), -EIO);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(stored(files[i], i, 0), i == 7 ? 0 : i + 1);
		assert_int_equal(files[i]->holds, i == 7);
	}
	files[7]->bad_write = 0;
	assert_int_equal(cache_flush(cache), 0);
	assert_int_equal(stored(files[7], 7, 0), 8);
	assert_int_equal(change(files[2], 2, 1, 9), 0);
	cache_drop_dirty(cache);
	assert_int_equal(stats_of(cache).dirty_bytes, 0);
	assert_int_equal(stored(files[2], 2, 0), 3);
	for (unsigned i = 0; i < 20; i++)
		free_file(files[i]);
	cache_destroy(cache);
}

/* Each allocation of a few changes fails once: nothing is marked by halves, nothing is lost. */
static void every_allocation_fails_once(void **state UNUSED)
{
	uint64_t nth = 0, failures = 0, counted;

	do {
		struct cache *cache = new_cache(MIB);
		struct toy_file *file = new_file(cache);
		struct page *pages[40];
		uint8_t parts[40];
		size_t count = 0;
		int err;

		nth++;
		(void)mem_fail_nth(nth);
		memset(parts, 1, sizeof(parts));
		err = change(file, 1000, 1, 1);
		assert_true(err == 0 || err == -ENOMEM);
		failures += err < 0;
		for (pgoff_t i = 0; i < ARRAY_SIZE(pages); i++) {
			if (grab_full(file, i * 20, &pages[count]) == 0)
				count++;
		}
		err = pages_set_dirty(pages, parts, count);
		assert_true(err == 0 || err == -ENOMEM);
		failures += err < 0;
		for (size_t i = 0; i < count; i++) {
			assert_int_equal(page_is_dirty(pages[i]), err == 0);
			page_unlock_put(pages[i]);
		}
		counted = mem_fail_nth(0);
		assert_int_equal(flush(file), 0);
		assert_int_equal(file->holds, 0);
		free_file(file);
		cache_destroy(cache);
	} while (counted >= nth);
	assert_true(failures > 3);
}

/* ---- the flusher ----------------------------------------------------------------------------- */

static void wait_until_clean(struct cache *cache)
{
	for (unsigned i = 0; i < 10 * 1000 && stats_of(cache).dirty_bytes > 0; i++)
		sleep_ms(1);
	assert_int_equal(stats_of(cache).dirty_bytes, 0);
}

static void old_pages_are_written_by_themselves(void **state UNUSED)
{
	struct cache *cache = new_cache(MIB);
	struct toy_file *file = new_file(cache);
	uint64_t start;

	cache->dirty.age_ns = UINT64_C(50000000);
	assert_int_equal(cache_start_flusher(cache, 0), 0);
	sleep_ms(5); /* asleep */
	for (unsigned i = 0; i < 3; i++) {
		start = clock_mono_ns();
		assert_int_equal(change(file, 1, 1, i + 7), 0);
		wait_until_clean(cache);
		assert_true(clock_mono_ns() - start >= cache->dirty.age_ns);
		assert_int_equal(stored(file, 1, 0), i + 7);
	}
	cache_stop_flusher(cache);
	free_file(file);
	cache_destroy(cache);
}

static void dirty_memory_is_bounded(void **state UNUSED)
{
	struct cache *cache = new_cache(2 * MIB);
	struct toy_file *files[3];
	uint64_t most = 0;

	for (unsigned i = 0; i < 3; i++)
		files[i] = new_file(cache);
	assert_int_equal(cache_start_flusher(cache, MIB), 0);
	for (unsigned i = 0; i < 3 * FILE_PAGES; i++) {
		assert_int_equal(cache_throttle(cache), 0);
		assert_int_equal(change(files[i % 3], i / 3, PAGE_ALL_PARTS, i + 1), 0);
		most = max_u64(most, stats_of(cache).dirty_bytes);
	}
	assert_true(most <= MIB + PAGE_BYTES);
	assert_true(stats_of(cache).bytes <= 2 * MIB);
	cache_stop_flusher(cache);
	assert_int_equal(cache_throttle(cache), 0);
	assert_int_equal(cache_flush(cache), 0);
	for (unsigned i = 0; i < 3 * FILE_PAGES; i++)
		assert_int_equal(stored(files[i % 3], i / 3, 2), i + 1);
	for (unsigned i = 0; i < 3; i++)
		free_file(files[i]);
	cache_destroy(cache);
}

/* One file that cannot be written takes no room from others until it has all of it. */
static void writers_get_the_error_when_there_will_be_no_room(void **state UNUSED)
{
	struct cache *cache = new_cache(2 * MIB);
	struct toy_file *bad = new_file(cache), *good = new_file(cache);
	unsigned changed = 0;
	int err = 0;

	bad->bad_write = UINT64_MAX;
	assert_int_equal(cache_start_flusher(cache, MIB), 0);
	for (pgoff_t i = 0; i < 100; i++)
		assert_int_equal(change(bad, i, 1, 1), 0);
	for (pgoff_t i = 0; i < FILE_PAGES; i++) {
		assert_int_equal(cache_throttle(cache), 0);
		assert_int_equal(change(good, i, 1, i + 1), 0);
	}
	for (pgoff_t i = 100; i < FILE_PAGES && err == 0; i++) {
		err = cache_throttle(cache);
		if (err == 0)
			assert_int_equal(change(bad, i, 1, 1), 0);
		changed++;
	}
	assert_int_equal(err, -EIO);
	assert_non_null(strstr(diag_text(), "no room"));
	assert_true(changed > 100 && changed < 300);
	assert_int_equal(cache_throttle(cache), -EIO); /* at once */
	bad->bad_write = 0;
	while (cache_throttle(cache) < 0) /* until it is tried again */
		sleep_ms(10);
	cache_stop_flusher(cache);
	assert_int_equal(cache_flush(cache), 0);
	for (pgoff_t i = 0; i < 99 + changed; i++)
		assert_int_equal(stored(bad, i, 0), 1);
	free_file(bad);
	free_file(good);
	cache_destroy(cache);
}

/* ---- many threads ---------------------------------------------------------------------------- */

#define WORLD_FILES 4u

/* shared */
struct world {
	struct cache *cache;
	struct toy_file *files[WORLD_FILES];
	_Atomic uint64_t threads;
	unsigned steps;
};

/* Counts a page up.  The model is changed under the page's lock too. */
static void world_change(struct toy_file *file, pgoff_t index)
{
	struct page *page;
	uint64_t value;

	CHECK(pthread_rwlock_rdlock(&file->shape) == 0);
	CHECK(grab_full(file, index, &page) == 0);
	value = value_at(page->data, 1);
	CHECK(value == atomic_load(&file->model[index]));
	value++;
	CHECK(page_set_dirty(page, PAGE_ALL_PARTS) == 0);
	page_copy_in(page, PART_BYTES, &value, sizeof(value));
	atomic_store(&file->model[index], value);
	page_unlock_put(page);
	CHECK(pthread_rwlock_unlock(&file->shape) == 0);
}

/* Under the page's lock: the sanitizer cannot know that a reader may see old or new bytes. */
static void world_read(struct toy_file *file, pgoff_t index)
{
	struct page *page;

	CHECK(pthread_rwlock_rdlock(&file->shape) == 0);
	CHECK(pages_get(&file->m, index, 1, 3, &page) == 0);
	page_lock(page);
	CHECK(value_at(page->data, 1) == atomic_load(&file->model[index]));
	page_unlock(page);
	pages_put(&page, 1);
	CHECK(pthread_rwlock_unlock(&file->shape) == 0);
}

/* Back to what is on disk, which may be old: what was dropped is lost. */
static void world_drop(struct toy_file *file, pgoff_t first, pgoff_t last)
{
	CHECK(pthread_rwlock_wrlock(&file->shape) == 0);
	mapping_drop(&file->m, first, last);
	for (pgoff_t i = first; i <= last; i++)
		atomic_store(&file->model[i], stored(file, i, 1));
	CHECK(pthread_rwlock_unlock(&file->shape) == 0);
}

static void *world_thread(void *arg)
{
	struct world *w = arg;
	uint64_t r = seed + atomic_fetch_add(&w->threads, 1) * 1001;

	for (unsigned i = 0; i < w->steps; i++) {
		struct toy_file *file = w->files[rnd_below(&r, WORLD_FILES)];
		pgoff_t index = rnd_below(&r, FILE_PAGES - 64);
		uint64_t what = rnd_below(&r, 100);
		int err = 0;

		if (rnd_below(&r, 2) == 0)
			index = rnd_below(&r, 8); /* often the same */
		if (what < 60) {
			err = cache_throttle(w->cache);
			world_change(file, index);
		} else if (what < 90) {
			world_read(file, index);
		} else if (what < 94) {
			err = mapping_flush(&file->m, index, index + rnd_below(&r, 64));
		} else if (what < 97) {
			world_drop(file, index, index + rnd_below(&r, 64));
		} else if (what < 98) {
			err = cache_flush(w->cache);
		} else {
			atomic_store(&w->files[0]->bad_write, rnd_below(&r, FILE_PAGES));
		}
		CHECK(err == 0 || err == -EIO);
	}
	return NULL;
}

static void random_operations_of_many(void **state UNUSED)
{
	struct world w = { .cache = new_cache(4 * MIB), .steps = 10000 };
	pthread_t threads[THREADS];

	for (unsigned i = 0; i < WORLD_FILES; i++)
		w.files[i] = new_file(w.cache);
	w.cache->dirty.age_ns = UINT64_C(20000000);
	assert_int_equal(cache_start_flusher(w.cache, MIB), 0);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, world_thread, &w), 0);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	cache_stop_flusher(w.cache);
	atomic_store(&w.files[0]->bad_write, 0);
	assert_int_equal(cache_flush(w.cache), 0);
	assert_int_equal(stats_of(w.cache).dirty_bytes, 0);
	for (unsigned i = 0; i < WORLD_FILES; i++) {
		for (pgoff_t page = 0; page < FILE_PAGES; page++)
			assert_int_equal(stored(w.files[i], page, 1), w.files[i]->model[page]);
		free_file(w.files[i]);
	}
	cache_destroy(w.cache);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(what_is_dirty_is_written, setup),
		cmocka_unit_test_setup(dirty_pages_are_not_evicted, setup),
		cmocka_unit_test_setup(grabbed_pages_are_made_or_found, setup),
		cmocka_unit_test_setup(staged_pages_are_adopted_where_there_are_none, setup),
		cmocka_unit_test_setup(page_changed_in_writeback_is_written_again, setup),
		cmocka_unit_test_setup(failed_write_keeps_data_and_tells_each_once, setup),
		cmocka_unit_test_setup(dropped_pages_are_not_written, setup),
		cmocka_unit_test_setup(all_files_are_flushed, setup),
		cmocka_unit_test_setup(every_allocation_fails_once, setup),
		cmocka_unit_test_setup(old_pages_are_written_by_themselves, setup),
		cmocka_unit_test_setup(dirty_memory_is_bounded, setup),
		cmocka_unit_test_setup(writers_get_the_error_when_there_will_be_no_room, setup),
		cmocka_unit_test_setup(mapped_pages_lie_in_their_frames, setup),
		cmocka_unit_test_setup(entries_are_protected_before_pages_are_clean, setup),
		cmocka_unit_test_setup(clean_mapped_pages_are_trimmed, setup),
		cmocka_unit_test_setup(random_operations_of_many, setup),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0);
	if (seed == 0)
		seed = 1;
	printf("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
