/* SPDX-License-Identifier: MIT */
/*
 * cache/: that buffers and pages are read and verified once however many ask (C1), stay while they
 * are held (C2), that memory is bounded (C3) and errors reach those who waited and nobody else
 * (C4); what is read in one request; and all of it at random against the known contents, with
 * several threads, with every allocation and every read failing once.
 *
 * The device and the files have contents that can be computed from the place, and count what is
 * read.
 *
 * Usage: cache [SEED]
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
#define THREADS 8u

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

static void run_threads(void *(*body)(void *), void *arg)
{
	pthread_t threads[THREADS];

	for (unsigned i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, body, arg) == 0);
	for (unsigned i = 0; i < THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

/*
 * One thread goes first, the others follow once its read has begun: so they find what it is reading
 * and wait for it.  Two that start at once could both miss it.
 */
static struct {
	_Atomic bool taken, reading;
} door;

static void door_reset(void)
{
	atomic_store(&door.taken, false);
	atomic_store(&door.reading, false);
}

static void door_pass(void)
{
	if (!atomic_exchange(&door.taken, true))
		return;
	while (!atomic_load(&door.reading))
		sched_yield();
}

/* ---- a device that counts -------------------------------------------------------------------- */

#define DISK_BYTES (8 * MIB)
#define DISK_UNIT 1024u /* smallest block */
#define DISK_UNITS (DISK_BYTES / DISK_UNIT)

/* Every 64 bytes of the disk tell their own offset. */
#define STAMP_EVERY 64u

struct toy_disk {
	struct dev dev;
	_Atomic uint32_t reads[DISK_UNITS];		      /* of each unit */
	_Atomic uint32_t bad_unit;			      /* one that cannot be read, or 0 */
	void (*gate)(struct toy_disk *disk, uint64_t offset); /* called in every read */
	struct cache *cache;
};

static uint64_t pattern(uint64_t file, uint64_t offset)
{
	return (offset ^ file << 48) * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

static void pattern_fill(uint8_t *to, uint64_t file, uint64_t offset, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += STAMP_EVERY) {
		uint64_t v = pattern(file, offset + i);

		memcpy(to + i, &v, 8);
	}
}

static bool pattern_is(const uint8_t *data, uint64_t file, uint64_t offset, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += STAMP_EVERY) {
		uint64_t v = pattern(file, offset + i);

		if (memcmp(data + i, &v, 8) != 0)
			return false;
	}
	return true;
}

static int toy_read(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		    uint64_t bytes)
{
	struct toy_disk *disk = container_of(d, struct toy_disk, dev);
	uint32_t bad = atomic_load(&disk->bad_unit);

	for (uint64_t unit = offset / DISK_UNIT; unit < (offset + bytes) / DISK_UNIT; unit++)
		atomic_fetch_add(&disk->reads[unit], 1);
	if (disk->gate != NULL)
		disk->gate(disk, offset);
	if (bad != 0 && bad >= offset / DISK_UNIT && bad < (offset + bytes) / DISK_UNIT)
		return fail(-EIO, "unit %u is bad", bad);
	for (int i = 0; i < iov_count; offset += iov[i].iov_len, i++)
		pattern_fill(iov[i].iov_base, 0, offset, iov[i].iov_len);
	return 0;
}

static void toy_close(struct dev *d UNUSED) {}

static const struct dev_ops toy_ops = { .name = "toy", .read = toy_read, .close = toy_close };

static struct toy_disk disk; /* large; one test uses it at a time */

static struct cache *new_cache(uint64_t budget, uint32_t block_size)
{
	struct cache *cache;

	memset(&disk, 0, sizeof(disk));
	dev_init(&disk.dev, &toy_ops, DISK_BYTES, NULL);
	assert_int_equal(cache_create(&disk.dev, budget, &cache), 0);
	cache_set_geometry(cache, block_size, DISK_BYTES / block_size);
	disk.cache = cache;
	return cache;
}

static uint64_t requests(void)
{
	return atomic_load(&disk.dev.stats.reads);
}

static struct cache_stats stats_of(struct cache *cache)
{
	struct cache_stats stats;

	cache_get_stats(cache, &stats);
	return stats;
}

/* ---- two kinds of block ---------------------------------------------------------------------- */

struct verify_counts {
	_Atomic uint32_t of_block[DISK_UNITS];
	_Atomic uint32_t all;
	bool refuse;
};

static int toy_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	/* Counting is the one thing a test's verifier does beside verifying. */
	struct verify_counts *counts = *(struct verify_counts *const *)arg;

	atomic_fetch_add(&counts->of_block[blk], 1);
	atomic_fetch_add(&counts->all, 1);
	if (counts->refuse)
		return corrupt("block %llu is refused", (unsigned long long)blk);
	return pattern_is(data, 0, blk * bytes, bytes)
		       ? 0
		       : corrupt("block %llu is wrong", (unsigned long long)blk);
}

static const struct buf_ops red_ops = { .name = "red block", .verify = toy_verify };
static const struct buf_ops blue_ops = { .name = "blue block", .verify = toy_verify };

static struct verify_counts verify_counts;
static struct verify_counts *const verify_arg = &verify_counts;

static int read_red(struct cache *cache, blk_t blk, uint32_t ahead, struct buf **ret_buf)
{
	return buf_read(cache, blk, &red_ops, 0, &verify_arg, ahead, ret_buf);
}

static int setup(void **state UNUSED)
{
	memset(&verify_counts, 0, sizeof(verify_counts));
	diag_clear();
	return 0;
}

/* ---- buffers --------------------------------------------------------------------------------- */

static void buf_is_read_and_verified_once(void **state UNUSED)
{
	struct cache *cache = new_cache(4 * MIB, 4096);
	struct buf *a, *b;

	assert_int_equal(read_red(cache, 7, 0, &a), 0);
	assert_int_equal(read_red(cache, 7, 0, &b), 0);
	assert_ptr_equal(a, b);
	assert_int_equal(a->blk, 7);
	assert_int_equal(a->bytes, 4096);
	assert_true(pattern_is(a->data, 0, 7 * 4096, 4096));
	assert_int_equal(requests(), 1);
	assert_int_equal(verify_counts.all, 1);
	assert_int_equal(stats_of(cache).buffer_hits, 1);
	assert_int_equal(stats_of(cache).buffer_misses, 1);
	buf_put(a);
	buf_put(b);
	buf_put(NULL);
	cache_destroy(cache);
}

static void buf_of_every_block_size(void **state UNUSED)
{
	for (uint32_t size = 1024; size <= 65536; size *= 2) {
		struct cache *cache = new_cache(1 * MIB, size);

		for (blk_t blk = 0; blk < DISK_BYTES / size; blk++) {
			struct buf *buf;

			assert_int_equal(read_red(cache, blk, (uint32_t)blk % 5, &buf), 0);
			assert_int_equal(buf->bytes, size);
			assert_true(pattern_is(buf->data, 0, blk * size, size));
			buf_put(buf);
		}
		for (unsigned unit = 0; unit < DISK_UNITS; unit++)
			assert_int_equal(disk.reads[unit], 1);
		assert_true(stats_of(cache).bytes <= 1 * MIB);
		cache_destroy(cache);
	}
}

static void buf_outside_is_refused(void **state UNUSED)
{
	struct cache *cache = new_cache(1 * MIB, 4096);
	struct buf *buf = NULL;

	assert_int_equal(read_red(cache, DISK_BYTES / 4096, 0, &buf), -EFSCORRUPTED);
	assert_int_equal(read_red(cache, UINT64_MAX, 0, &buf), -EFSCORRUPTED);
	assert_null(buf);
	assert_non_null(strstr(diag_text(), "red block"));
	assert_int_equal(requests(), 0);
	cache_destroy(cache);
}

static void buf_is_verified_again_for_another_purpose(void **state UNUSED)
{
	struct cache *cache = new_cache(1 * MIB, 4096);
	static struct verify_counts refusing = { .refuse = true };
	static struct verify_counts *const refusing_arg = &refusing;
	struct buf *red, *blue = NULL;

	assert_int_equal(read_red(cache, 3, 0, &red), 0);
	/* Another owner, other ops: each once. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(buf_read(cache, 3, &red_ops, 9, &verify_arg, 0, &blue), 0);
		assert_ptr_equal(red, blue);
		buf_put(blue);
	}
	assert_int_equal(verify_counts.all, 2);
	assert_int_equal(buf_read(cache, 3, &blue_ops, 9, &verify_arg, 0, &blue), 0);
	buf_put(blue);
	assert_int_equal(verify_counts.all, 3);

	/* Who finds it bad does not spoil it for whom it is good. */
	blue = NULL;
	assert_int_equal(buf_read(cache, 3, &red_ops, 1, &refusing_arg, 0, &blue), -EFSCORRUPTED);
	assert_null(blue);
	assert_non_null(strstr(diag_text(), "is refused"));
	assert_int_equal(buf_read(cache, 3, &blue_ops, 9, &verify_arg, 0, &blue), 0);
	assert_int_equal(verify_counts.all, 3);
	assert_int_equal(requests(), 1);
	buf_put(blue);
	buf_put(red);
	cache_destroy(cache);
}

static void buf_ahead_is_one_request_and_unverified(void **state UNUSED)
{
	struct cache *cache = new_cache(4 * MIB, 1024);
	struct buf *buf;

	assert_int_equal(read_red(cache, 20, 0, &buf), 0);
	buf_put(buf);
	assert_int_equal(read_red(cache, 10, 100, &buf), 0); /* up to 20, which is here */
	buf_put(buf);
	assert_int_equal(requests(), 2);
	assert_int_equal(atomic_load(&disk.dev.stats.bytes_read), 11 * 1024);
	assert_int_equal(verify_counts.all, 2);
	for (blk_t blk = 10; blk <= 20; blk++) {
		assert_int_equal(read_red(cache, blk, 0, &buf), 0);
		assert_int_equal(verify_counts.of_block[blk], 1);
		buf_put(buf);
	}
	assert_int_equal(requests(), 2);

	/* Not behind the last block, and not more than a part of the budget. */
	assert_int_equal(read_red(cache, DISK_UNITS - 2, 100, &buf), 0);
	buf_put(buf);
	assert_int_equal(atomic_load(&disk.dev.stats.bytes_read), 13 * 1024);
	assert_int_equal(read_red(cache, 1000, UINT32_MAX, &buf), 0);
	buf_put(buf);
	assert_int_equal(requests(), 4);
	assert_true(atomic_load(&disk.dev.stats.bytes_read) <= 13 * 1024 + 4 * MIB / 8);
	cache_destroy(cache);
}

static void buf_ahead_may_fail(void **state UNUSED)
{
	struct cache *cache = new_cache(4 * MIB, 1024);
	struct buf *buf = NULL;

	disk.bad_unit = 13;
	assert_int_equal(read_red(cache, 10, 8, &buf), 0); /* together, then alone */
	buf_put(buf);
	assert_int_equal(requests(), 2);
	buf = NULL;
	assert_int_equal(read_red(cache, 13, 0, &buf), -EIO);
	assert_null(buf);
	assert_int_equal(read_red(cache, 14, 0, &buf), 0);
	buf_put(buf);
	disk.bad_unit = 0;
	assert_int_equal(read_red(cache, 13, 0, &buf), 0); /* C4 */
	buf_put(buf);
	cache_destroy(cache);
}

static void buf_forgotten_is_read_again(void **state UNUSED)
{
	struct cache *cache = new_cache(1 * MIB, 2048);
	struct buf *buf;

	for (int round = 1; round <= 3; round++) {
		for (blk_t blk = 0; blk < 100; blk++) {
			assert_int_equal(read_red(cache, blk, 7, &buf), 0);
			buf_put(buf);
			assert_int_equal(verify_counts.of_block[blk], round);
		}
		cache_forget_buffers(cache);
		cache_set_geometry(cache, 2048, DISK_BYTES / 2048 - 1);
	}
	cache_destroy(cache);
}

#define ONCE_BLOCKS 512u

static void *read_every_block(void *arg)
{
	struct cache *cache = arg;
	static _Atomic uint64_t thread;
	uint64_t r = seed + atomic_fetch_add(&thread, 1) * 77;

	for (unsigned i = 0; i < 4 * ONCE_BLOCKS; i++) {
		blk_t blk = i < 2 * ONCE_BLOCKS ? i % ONCE_BLOCKS : rnd_below(&r, ONCE_BLOCKS);
		struct buf *buf;

		CHECK(read_red(cache, blk, (uint32_t)rnd_below(&r, 4), &buf) == 0);
		CHECK(pattern_is(buf->data, 0, blk * 1024, 1024));
		buf_put(buf);
	}
	return NULL;
}

static void buf_is_read_once_by_many(void **state UNUSED)
{
	for (unsigned round = 1; round <= 10; round++) {
		struct cache *cache = new_cache(8 * MIB, 1024);

		run_threads(read_every_block, cache);
		for (unsigned blk = 0; blk < ONCE_BLOCKS; blk++) {
			assert_int_equal(disk.reads[blk], 1);
			assert_int_equal(verify_counts.of_block[blk], round);
		}
		cache_destroy(cache);
	}
}

/* The read goes on until everybody else has found the buffer and so will wait for it. */
static void gate_until_all_wait(struct toy_disk *d, uint64_t offset UNUSED)
{
	atomic_store(&door.reading, true);
	while (stats_of(d->cache).buffer_hits < THREADS - 1)
		sched_yield();
}

static void *expect_eio(void *arg)
{
	struct buf *buf = NULL;

	door_pass();
	CHECK(read_red(arg, 5, 0, &buf) == -EIO);
	CHECK(buf == NULL);
	CHECK(strstr(diag_text(), "block 5") != NULL);
	return NULL;
}

static void buf_error_reaches_all_who_waited(void **state UNUSED)
{
	struct cache *cache = new_cache(1 * MIB, 1024);
	struct buf *buf;

	disk.bad_unit = 5;
	disk.gate = gate_until_all_wait;
	door_reset();
	run_threads(expect_eio, cache);
	assert_int_equal(disk.reads[5], 1);
	disk.bad_unit = 0;
	assert_int_equal(read_red(cache, 5, 0, &buf), 0);
	assert_int_equal(disk.reads[5], 2);
	buf_put(buf);
	cache_destroy(cache);
}

/* ---- files ----------------------------------------------------------------------------------- */

#define FILE_PAGES 2048u

struct toy_file {
	struct mapping m;
	uint64_t number;		    /* tells its contents from those of others */
	_Atomic uint32_t fills[FILE_PAGES]; /* of each page, successful ones */
	_Atomic uint32_t calls;
	_Atomic uint64_t bad_page; /* plus one; 0: none */
	bool gated;		   /* each fill waits until everybody else waits for its page */
	struct dev *dev;	   /* read at every fill, to fail with it; or NULL */
};

static int toy_fill(struct mapping *m, struct page *const *pages, size_t count)
{
	struct toy_file *file = container_of(m, struct toy_file, m);
	uint64_t bad = atomic_load(&file->bad_page);
	uint8_t unit[8];

	atomic_fetch_add(&file->calls, 1);
	atomic_store(&door.reading, true);
	while (file->gated && stats_of(m->cache).page_hits < THREADS - 1)
		sched_yield();
	for (size_t i = 0; i < count; i++) {
		if (pages[i]->index + 1 == bad)
			return fail(-EIO, "page %llu is bad", (unsigned long long)bad - 1);
	}
	if (file->dev != NULL) {
		int err = dev_read(file->dev, 0, unit, sizeof(unit));

		if (err < 0)
			return err;
	}
	for (size_t i = 0; i < count; i++) {
		atomic_fetch_add(&file->fills[pages[i]->index], 1);
		pattern_fill(pages[i]->data, file->number, pages[i]->index * PAGE_BYTES,
			     PAGE_BYTES);
	}
	return 0;
}

static const struct mapping_ops toy_mapping_ops = { .fill = toy_fill };

static struct toy_file *new_file(struct cache *cache, uint64_t number)
{
	struct toy_file *file = calloc(1, sizeof(*file));

	CHECK(file != NULL);
	mapping_init(&file->m, cache, &toy_mapping_ops);
	file->number = number;
	return file;
}

static void free_file(struct toy_file *file)
{
	mapping_finish(&file->m);
	free(file);
}

static bool pages_are_right(const struct toy_file *file, pgoff_t first, size_t count,
			    struct page *const *pages)
{
	for (size_t i = 0; i < count; i++) {
		if (pages[i]->index != first + i ||
		    !pattern_is(pages[i]->data, file->number, (first + i) * PAGE_BYTES, PAGE_BYTES))
			return false;
	}
	return true;
}

/* Gets, compares and puts. */
static int visit(struct toy_file *file, pgoff_t first, size_t count, size_t ahead)
{
	struct page *pages[PAGES_BATCH_MAX];
	int err = pages_get(&file->m, first, count, ahead, pages);

	if (err < 0)
		return err;
	CHECK(pages_are_right(file, first, count, pages));
	pages_put(pages, count);
	return 0;
}

static void pages_missing_neighbours_are_one_fill(void **state UNUSED)
{
	struct cache *cache = new_cache(8 * MIB, 1024);
	struct toy_file *file = new_file(cache, 1);

	assert_int_equal(visit(file, 10, 1, 0), 0);
	assert_int_equal(visit(file, 20, 2, 0), 0);
	assert_int_equal(file->calls, 2);
	/* 0-9, 11-19, 22-255 are missing. */
	assert_int_equal(visit(file, 0, PAGES_BATCH_MAX, 0), 0);
	assert_int_equal(file->calls, 5);
	assert_int_equal(visit(file, 0, PAGES_BATCH_MAX, 16), 0); /* nothing to read: no ahead */
	assert_int_equal(file->calls, 5);
	assert_int_equal(stats_of(cache).page_misses, 256);
	assert_int_equal(stats_of(cache).page_hits, 259);
	free_file(file);
	cache_destroy(cache);
}

static void pages_ahead_come_in_the_same_fill(void **state UNUSED)
{
	struct cache *cache = new_cache(8 * MIB, 1024);
	struct toy_file *file = new_file(cache, 1);

	assert_int_equal(visit(file, 40, 1, 0), 0);
	assert_int_equal(visit(file, 0, 4, 16), 0); /* 0-19 */
	assert_int_equal(file->calls, 2);
	for (pgoff_t i = 0; i < 20; i++)
		assert_int_equal(file->fills[i], 1);
	assert_int_equal(visit(file, 4, 16, 100), 0);
	assert_int_equal(file->calls, 2);
	assert_int_equal(visit(file, 20, 1, 100), 0); /* 20-39: 40 is here */
	assert_int_equal(file->calls, 3);
	assert_int_equal(file->fills[39], 1);
	assert_int_equal(file->fills[40], 1);
	assert_int_equal(file->fills[41], 0);
	/* The most there can be at once. */
	assert_int_equal(visit(file, 100, PAGES_BATCH_MAX, SIZE_MAX), 0);
	assert_int_equal(file->calls, 4);
	free_file(file);
	cache_destroy(cache);
}

static void pages_error_is_that_of_one_page(void **state UNUSED)
{
	struct cache *cache = new_cache(8 * MIB, 1024);
	struct toy_file *file = new_file(cache, 1);

	file->bad_page = 30 + 1;
	assert_int_equal(visit(file, 20, 20, 0), -EIO);
	assert_non_null(strstr(diag_text(), "page 30 is bad"));
	assert_int_equal(visit(file, 20, 10, 0), 0); /* they were read on the way */
	for (pgoff_t i = 20; i < 30; i++)
		assert_int_equal(file->fills[i], 1);
	assert_int_equal(visit(file, 31, 9, 0), 0);
	assert_int_equal(visit(file, 0, 4, 40), 0); /* up to 19: 20 is here */
	/* What is only read ahead fails nobody, and is tried again by who wants it. */
	file->bad_page = 110 + 1;
	assert_int_equal(visit(file, 100, 2, 20), 0);
	assert_int_equal(visit(file, 102, 8, 0), 0);
	assert_int_equal(visit(file, 110, 1, 0), -EIO);
	file->bad_page = 0;
	assert_int_equal(visit(file, 100, 30, 0), 0);
	assert_int_equal(visit(file, 20, 20, 0), 0);
	for (pgoff_t i = 100; i < 130; i++)
		assert_int_equal(file->fills[i], 1);
	free_file(file);
	cache_destroy(cache);
}

static void *expect_page_eio(void *arg)
{
	door_pass();
	CHECK(visit(arg, 3, 1, 0) == -EIO);
	CHECK(diag_text()[0] != '\0');
	return NULL;
}

static void pages_error_reaches_all_who_waited(void **state UNUSED)
{
	struct cache *cache = new_cache(1 * MIB, 1024);
	struct toy_file *file = new_file(cache, 1);

	file->gated = true;
	door_reset();
	file->bad_page = 3 + 1;
	run_threads(expect_page_eio, file);
	assert_int_equal(file->calls, 1);
	file->gated = false;
	file->bad_page = 0;
	assert_int_equal(visit(file, 3, 1, 0), 0);
	assert_int_equal(file->calls, 2);
	free_file(file);
	cache_destroy(cache);
}

/* Overlapping batches in both directions: the order in which pages are locked matters. */
static void *read_whole_file(void *arg)
{
	struct toy_file *file = arg;
	static _Atomic uint64_t thread;
	uint64_t number = atomic_fetch_add(&thread, 1), r = seed + number * 99;

	for (unsigned i = 0; i < 100; i++) {
		pgoff_t at = i * (FILE_PAGES - PAGES_BATCH_MAX) / 99;
		pgoff_t first = number % 2 ? at : FILE_PAGES - PAGES_BATCH_MAX - at;

		CHECK(visit(file, first, 1 + rnd_below(&r, PAGES_BATCH_MAX), 0) == 0);
		CHECK(visit(file, rnd_below(&r, FILE_PAGES - 32), 1, rnd_below(&r, 32)) == 0);
	}
	return NULL;
}

static void pages_are_filled_once_for_many(void **state UNUSED)
{
	for (unsigned round = 0; round < 5; round++) {
		struct cache *cache = new_cache(16 * MIB, 1024);
		struct toy_file *file = new_file(cache, 1);

		run_threads(read_whole_file, file);
		for (pgoff_t i = 0; i < FILE_PAGES; i++)
			assert_true(file->fills[i] <= 1);
		assert_int_equal(visit(file, FILE_PAGES - 256, 256, 0), 0);
		free_file(file);
		cache_destroy(cache);
	}
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void referenced_stays_in_place(void **state UNUSED)
{
	struct cache *cache = new_cache(1 * MIB, 4096);
	struct toy_file *file = new_file(cache, 1);
	struct page *held[8];
	struct buf *buf;
	const uint8_t *page_data, *buf_data;

	assert_int_equal(pages_get(&file->m, 0, 8, 0, held), 0);
	assert_int_equal(read_red(cache, 1, 0, &buf), 0);
	page_data = held[5]->data;
	buf_data = buf->data;
	for (pgoff_t i = 8; i < FILE_PAGES; i++)
		assert_int_equal(visit(file, i, 1, 0), 0);
	for (blk_t blk = 2; blk < DISK_BYTES / 4096; blk++) {
		struct buf *other;

		assert_int_equal(read_red(cache, blk, 0, &other), 0);
		buf_put(other);
	}
	assert_ptr_equal(held[5]->data, page_data);
	assert_ptr_equal(buf->data, buf_data);
	assert_true(pages_are_right(file, 0, 8, held));
	assert_true(pattern_is(buf_data, 0, 4096, 4096));
	pages_put(held, 8);
	buf_put(buf);
	assert_int_equal(visit(file, 0, 8, 0), 0);
	assert_int_equal(file->fills[5], 1);
	assert_int_equal(disk.reads[4], 1);
	free_file(file);
	cache_destroy(cache);
}

static void memory_is_bounded(void **state UNUSED)
{
	const uint64_t budget = 2 * MIB;
	struct cache *cache = new_cache(budget, 1024);
	struct toy_file *files[16];
	uint64_t r = seed, most = 0;

	for (unsigned i = 0; i < 16; i++)
		files[i] = new_file(cache, i + 1);
	for (unsigned i = 0; i < 1000 * 1000; i++) {
		struct toy_file *file = files[rnd_below(&r, 16)];
		struct buf *buf;

		if (i % 2 == 0) {
			assert_int_equal(visit(file, rnd_below(&r, 64), 1, 0), 0);
		} else {
			assert_int_equal(read_red(cache, rnd_below(&r, 4096), 3, &buf), 0);
			buf_put(buf);
		}
		if (i % 16 == 0)
			most = max_u64(most, stats_of(cache).bytes);
	}
	assert_true(most <= budget);
	assert_true(most > budget / 2);
	for (unsigned i = 0; i < 16; i++)
		free_file(files[i]);
	cache_destroy(cache);
}

static void memory_comes_back_after_a_burst(void **state UNUSED)
{
	const uint64_t budget = 1 * MIB;
	struct cache *cache = new_cache(budget, 1024);
	struct toy_file *file = new_file(cache, 1);
	struct page *pages[FILE_PAGES];
	struct buf *buf;

	for (size_t i = 0; i < FILE_PAGES; i += PAGES_BATCH_MAX)
		assert_int_equal(pages_get(&file->m, i, PAGES_BATCH_MAX, 0, pages + i), 0);
	assert_true(stats_of(cache).bytes > FILE_PAGES * PAGE_BYTES);
	assert_true(pages_are_right(file, 0, FILE_PAGES, pages));
	assert_int_equal(read_red(cache, 1, 0, &buf), 0);
	buf_put(buf);
	pages_put(pages, FILE_PAGES);
	for (blk_t blk = 0; blk < 2000; blk++) {
		assert_int_equal(read_red(cache, blk, 0, &buf), 0);
		buf_put(buf);
	}
	assert_true(stats_of(cache).bytes <= budget);
	free_file(file);
	cache_destroy(cache);
}

/* A file read once from end to end does not push out what is used all the time. */
static void stream_spares_what_is_used(void **state UNUSED)
{
	struct cache *cache = new_cache(2 * MIB, 1024);
	struct toy_file *hot = new_file(cache, 1), *stream = new_file(cache, 2);

	for (pgoff_t i = 0; i < FILE_PAGES - 8; i += 4) {
		assert_int_equal(visit(hot, 0, 64, 0), 0);
		assert_int_equal(visit(stream, i, 4, 4), 0);
	}
	for (pgoff_t i = 0; i < 64; i++)
		assert_int_equal(hot->fills[i], 1);
	for (pgoff_t i = 0; i < FILE_PAGES - 8; i++)
		assert_int_equal(stream->fills[i], 1);
	free_file(hot);
	free_file(stream);
	cache_destroy(cache);
}

/* ---- at random ------------------------------------------------------------------------------- */

#define WORLD_FILES 6u

/* shared */
struct world {
	struct cache *cache;
	struct toy_file *files[WORLD_FILES];
	_Atomic uint64_t threads;
	unsigned steps;
};

/* One operation; -EIO and -ENOMEM are passed on, wrong contents are not survived. */
static int world_step(struct world *w, uint64_t *r)
{
	static const struct buf_ops *const kinds[] = { &red_ops, &blue_ops };
	struct toy_file *file = w->files[rnd_below(r, WORLD_FILES)];
	struct cache *cache = w->cache;
	struct buf *bufs[4] = { NULL };
	int err = 0;

	if (rnd_below(r, 2) == 0) {
		size_t count = rnd_below(r, 8) == 0 ? PAGES_BATCH_MAX : 1 + rnd_below(r, 8);
		pgoff_t first = rnd_below(r, FILE_PAGES - 2 * PAGES_BATCH_MAX);

		return visit(file, first, count, rnd_below(r, 32));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bufs) && err == 0; i++)
		err = buf_read(cache, rnd_below(r, cache->blocks), kinds[rnd_below(r, 2)],
			       rnd_below(r, 3), &verify_arg, (uint32_t)rnd_below(r, 20), &bufs[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(bufs); i++) {
		CHECK(bufs[i] == NULL ||
		      pattern_is(bufs[i]->data, 0, bufs[i]->blk * bufs[i]->bytes, bufs[i]->bytes));
		buf_put(bufs[i]);
	}
	return err;
}

static void world_init(struct world *w, uint64_t budget, uint32_t block_size)
{
	memset(w, 0, sizeof(*w));
	w->cache = new_cache(budget, block_size);
	for (unsigned i = 0; i < WORLD_FILES; i++)
		w->files[i] = new_file(w->cache, i + 1);
}

static void world_finish(struct world *w)
{
	for (unsigned i = 0; i < WORLD_FILES; i++)
		free_file(w->files[i]);
	cache_destroy(w->cache);
}

static void random_operations(void **state UNUSED)
{
	static const uint32_t sizes[] = { 1024, 4096, 16384, 65536 };
	uint64_t r = seed;

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct world w;

		world_init(&w, MIB + rnd_below(&r, 4 * MIB), sizes[i]);
		for (unsigned step = 0; step < 5000; step++) {
			unsigned n = (unsigned)rnd_below(&r, WORLD_FILES);

			assert_int_equal(world_step(&w, &r), 0);
			if (step % 100 == 0) {
				free_file(w.files[n]);
				w.files[n] = new_file(w.cache, n + 1);
			}
			if (step % 1000 == 0)
				cache_forget_buffers(w.cache);
		}
		world_finish(&w);
	}
}

static void *world_thread(void *arg)
{
	struct world *w = arg;
	uint64_t number = atomic_fetch_add(&w->threads, 1), r = seed + number * 1001;
	struct toy_file *own = new_file(w->cache, 100 + number);

	for (unsigned i = 0; i < w->steps; i++) {
		int err = world_step(w, &r);

		CHECK(err == 0 || err == -EIO);
		/* Now and then something cannot be read, and files come and go. */
		if (i % 16 == 0) {
			atomic_store(&disk.bad_unit, (uint32_t)rnd_below(&r, DISK_UNITS));
			atomic_store(&w->files[0]->bad_page, rnd_below(&r, FILE_PAGES));
		}
		CHECK(visit(own, rnd_below(&r, 256), 1 + rnd_below(&r, 8), 8) == 0);
		if (i % 32 == 0) {
			free_file(own);
			own = new_file(w->cache, 100 + number);
		}
	}
	free_file(own);
	return NULL;
}

static void random_operations_of_many(void **state UNUSED)
{
	struct world w;

	world_init(&w, 2 * MIB, 1024);
	w.steps = 1500;
	run_threads(world_thread, &w);
	disk.bad_unit = 0;
	atomic_store(&w.files[0]->bad_page, 0);
	for (unsigned i = 0; i < WORLD_FILES; i++)
		assert_int_equal(visit(w.files[i], 0, PAGES_BATCH_MAX, 0), 0);
	world_finish(&w);
}

/* ---- faults ---------------------------------------------------------------------------------- */

/* What fails: the @nth allocation, or the @nth read of @dev if that is a failing device. */
struct fault {
	struct dev *dev;
	bool of_read;
	uint64_t nth;
	bool happened; /* there were that many */
};

static void fault_begin(struct fault *fault)
{
	if (fault->of_read) {
		dev_fail_nth_read(fault->dev, fault->nth);
		atomic_store(&fault->dev->stats.reads, 0);
	} else {
		(void)mem_fail_nth(fault->nth);
	}
}

static void fault_end(struct fault *fault)
{
	if (fault->of_read) {
		dev_fail_nth_read(fault->dev, 0);
		fault->happened = atomic_load(&fault->dev->stats.reads) >= fault->nth;
	} else {
		fault->happened = mem_fail_nth(0) >= fault->nth;
	}
}

/*
 * The same few operations each time, on a cache that is created, filled over its budget and
 * destroyed.
 */
static int fault_scenario(struct fault *fault)
{
	struct toy_file *file;
	struct cache *cache;
	struct buf *buf;
	int err, result = 0;

	fault_begin(fault);
	err = cache_create(fault->dev, MIB, &cache);
	if (err < 0) {
		fault_end(fault);
		return err;
	}
	cache_set_geometry(cache, 4096, DISK_BYTES / 4096);
	file = new_file(cache, 1);
	file->dev = fault->dev;
	for (pgoff_t i = 0; i < 512; i += 40) {
		err = visit(file, i, 33, 16);
		result = first_error(result, err);
		err = read_red(cache, i, 30, &buf);
		result = first_error(result, err);
		if (err == 0) {
			CHECK(pattern_is(buf->data, 0, buf->blk * 4096, 4096));
			buf_put(buf);
		}
	}
	fault_end(fault);

	/* Whatever failed before, nothing is stuck now. */
	CHECK(visit(file, 0, PAGES_BATCH_MAX, 0) == 0);
	for (blk_t blk = 0; blk < 512; blk += 10) {
		CHECK(read_red(cache, blk, 0, &buf) == 0);
		buf_put(buf);
	}
	free_file(file);
	cache_destroy(cache);
	return result;
}

static void every_allocation_fails_once(void **state UNUSED)
{
	struct fault fault = { .dev = &disk.dev };
	uint64_t failures = 0;

	cache_destroy(new_cache(MIB, 4096)); /* resets the disk */
	do {
		int err;

		fault.nth++;
		err = fault_scenario(&fault);
		assert_true(err == 0 || err == -ENOMEM);
		failures += err < 0;
	} while (fault.happened);
	/* At least for the cache itself and its first slab; later ones can be done without. */
	assert_true(failures > 3);
	assert_true(failures < fault.nth);
}

static void every_read_fails_once(void **state UNUSED)
{
	struct fault fault = { .of_read = true };
	uint64_t failures = 0;

	cache_destroy(new_cache(MIB, 4096));
	assert_int_equal(dev_fail_create(&disk.dev, &fault.dev), 0);
	do {
		int err;

		fault.nth++;
		err = fault_scenario(&fault);
		assert_true(err == 0 || err == -EIO);
		failures += err < 0;
	} while (fault.happened);
	/*
	 * What was read together is tried again for those that were asked for: nobody sees an
	 * error.
	 */
	assert_true(failures < fault.nth / 2);
	dev_close(fault.dev);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(buf_is_read_and_verified_once, setup),
		cmocka_unit_test_setup(buf_of_every_block_size, setup),
		cmocka_unit_test_setup(buf_outside_is_refused, setup),
		cmocka_unit_test_setup(buf_is_verified_again_for_another_purpose, setup),
		cmocka_unit_test_setup(buf_ahead_is_one_request_and_unverified, setup),
		cmocka_unit_test_setup(buf_ahead_may_fail, setup),
		cmocka_unit_test_setup(buf_forgotten_is_read_again, setup),
		cmocka_unit_test_setup(buf_is_read_once_by_many, setup),
		cmocka_unit_test_setup(buf_error_reaches_all_who_waited, setup),
		cmocka_unit_test_setup(pages_missing_neighbours_are_one_fill, setup),
		cmocka_unit_test_setup(pages_ahead_come_in_the_same_fill, setup),
		cmocka_unit_test_setup(pages_error_is_that_of_one_page, setup),
		cmocka_unit_test_setup(pages_error_reaches_all_who_waited, setup),
		cmocka_unit_test_setup(pages_are_filled_once_for_many, setup),
		cmocka_unit_test_setup(referenced_stays_in_place, setup),
		cmocka_unit_test_setup(memory_is_bounded, setup),
		cmocka_unit_test_setup(memory_comes_back_after_a_burst, setup),
		cmocka_unit_test_setup(stream_spares_what_is_used, setup),
		cmocka_unit_test_setup(random_operations, setup),
		cmocka_unit_test_setup(random_operations_of_many, setup),
		cmocka_unit_test_setup(every_allocation_fails_once, setup),
		cmocka_unit_test_setup(every_read_fails_once, setup),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0);
	if (seed == 0)
		seed = 1;
	printf("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
