/* SPDX-License-Identifier: MIT */
/*
 * fs/map_write.c and what is behind it, on images made by mke2fs, with the real journal and
 * allocator:
 *
 *  - Random inserts, conversions, removals and allocations on extent trees and block maps, with and
 *    without bigalloc, against a plain table of what each block should map to.  Each operation has
 *    a handle of its own with exactly map_credits().  Runs are taken one by one from all over the
 *    disk, so that trees get deep and every kind of split, join, growth and shrinking happens.
 *  - After each of them i_blocks and the count of free blocks are what the table and the nodes of
 *    the tree say; from time to time every node is looked at: keys, order, no empty ones.
 *  - The Nth allocation of a block, of memory, or the Nth record fails: nothing has changed and
 *    nothing leaks; a removal has done a part.
 *  - Big files go in steps of what a handle of a journal of 1,024 blocks may have.
 *  - Damaged trees without checksums: a change is made or refused.
 *  - Readers beside a writer are never told anything wrong.
 *  - In the end e2fsck finds nothing, debugfs lists the same blocks as the table, and so does the
 *    engine when it opens the image again.
 *
 * Usage: fs_map [SEED [OPERATIONS [PATTERN OF TESTS]]]
 */
#include "fs/map_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#undef fail /* ours is meant */

static uint64_t seed = 1;
static unsigned operations = 4000;
static char scratch[256];

static uint64_t rnd(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * UINT64_C(2685821657736338717);
}

static uint32_t rnd_below(uint64_t end)
{
	return (uint32_t)((rnd() >> 16) % end);
}

/* ---- what fails on demand -------------------------------------------------------------------- */

/* The nth of these calls from now on fails; the linker puts them before the real ones. */
static unsigned fail_nth, fail_counted;

static int fails(int err)
{
	fail_counted++;
	if (fail_nth == 0 || --fail_nth > 0)
		return 0;
	return fail(err, "made to fail");
}

int __real_balloc_alloc_meta(struct handle *h, struct uext4_fs *fs, struct inode *ip, blk_t goal,
			     uint32_t flags, blk_t *ret_blk);
int __wrap_balloc_alloc_meta(struct handle *h, struct uext4_fs *fs, struct inode *ip, blk_t goal,
			     uint32_t flags, blk_t *ret_blk);
int __wrap_balloc_alloc_meta(struct handle *h, struct uext4_fs *fs, struct inode *ip, blk_t goal,
			     uint32_t flags, blk_t *ret_blk)
{
	int err = fails(-ENOSPC);

	return err ? err : __real_balloc_alloc_meta(h, fs, ip, goal, flags, ret_blk);
}

int __real_balloc_alloc(struct uext4_fs *fs, const struct balloc_request *rq, struct blk_run *ret);
int __wrap_balloc_alloc(struct uext4_fs *fs, const struct balloc_request *rq, struct blk_run *ret);
int __wrap_balloc_alloc(struct uext4_fs *fs, const struct balloc_request *rq, struct blk_run *ret)
{
	int err = fails(-ENOSPC);

	return err ? err : __real_balloc_alloc(fs, rq, ret);
}

int __real_balloc_record(struct handle *h, struct uext4_fs *fs, const struct blk_run *run);
int __wrap_balloc_record(struct handle *h, struct uext4_fs *fs, const struct blk_run *run);
int __wrap_balloc_record(struct handle *h, struct uext4_fs *fs, const struct blk_run *run)
{
	int err = fails(-EIO);

	return err ? err : __real_balloc_record(h, fs, run);
}

int __real_buf_create(struct cache *cache, blk_t blk, const struct buf_ops *ops, uint64_t owner,
		      struct buf **ret_buf);
int __wrap_buf_create(struct cache *cache, blk_t blk, const struct buf_ops *ops, uint64_t owner,
		      struct buf **ret_buf);
int __wrap_buf_create(struct cache *cache, blk_t blk, const struct buf_ops *ops, uint64_t owner,
		      struct buf **ret_buf)
{
	int err = fails(-ENOMEM);

	return err ? err : __real_buf_create(cache, blk, ops, owner, ret_buf);
}

/* ---- images ---------------------------------------------------------------------------------- */

struct recipe {
	const char *name;
	unsigned mib;
	const char *options;
	bool extents;
	uint8_t journal; /* blocks as many as there have to be: 1,024 */
};

static const struct recipe recipes[] = {
	{ "ext4-1k", 64, "-t ext4 -b 1024", true, true },
	{ "ext4-1k-nocsum", 64, "-t ext4 -b 1024 -O ^metadata_csum,^64bit", true, false },
	{ "ext4-4k", 256, "-t ext4 -b 4096", true, true },
	{ "ext4-64k", 1024, "-t ext4 -b 65536 -O ^has_journal", true, false },
	{ "bigalloc-1k", 128, "-t ext4 -b 1024 -O bigalloc -C 8192", true, true },
	{ "bigalloc-4k", 256, "-t ext4 -b 4096 -O bigalloc,^has_journal -C 65536", true, false },
	{ "ext3-1k", 64, "-t ext3 -b 1024 -O large_file,huge_file", false, true },
	{ "ext2-4k", 256, "-t ext2 -b 4096 -O large_file", false, false },
};

static int run(const char *fmt, ...) PRINTF(1, 2);
static int run(const char *fmt, ...)
{
	char command[2048];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	status = system(command);
	return status == -1 || !WIFEXITED(status) ? -1 : WEXITSTATUS(status);
}

static int make_scratch(void **state)
{
	snprintf(scratch, sizeof(scratch), "%s/uext4-map-XXXXXX",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(scratch))
		return -1;
	return run("mkdir %s/tree && touch %s/tree/f %s/tree/g", scratch, scratch, scratch);
}

static int remove_scratch(void **state)
{
	return run("rm -rf %s", scratch);
}

/* ---- the table ------------------------------------------------------------------------------- */

struct entry {
	blk_t physical; /* 0: a hole */
	enum map_state state;
};

/* The parts of a file that are used: [first, first + count) has entries from `entry` on. */
struct window {
	lblk_t first;
	uint32_t count;
	struct entry *entries;
};

#define WINDOWS_MAX 4u

struct world {
	const struct recipe *recipe;
	char path[512];
	struct uext4_fs *fs;
	struct inode *ip;
	uint32_t ratio;
	struct window windows[WINDOWS_MAX];
	unsigned window_count;
	uint64_t free_at_start; /* clusters */
	unsigned fragment;	/* percent of runs that are looked for all over the disk */
	bool commits;		/* now and then before an operation */
	uint32_t credits;	/* of the handle at hand */
	uint32_t credits_most;	/* that an operation used */
	unsigned memory_nth;	/* the allocation that fails inside of a handle; 0: none */
	bool was_cut;		/* removals stopped half-way: extents that could be one are two */
};

static int no_fill(struct mapping *m, struct page *const *pages, size_t count)
{
	return -EIO;
}

static const struct mapping_ops no_files = { .fill = no_fill };

/* A file without blocks would get its map when somebody writes to it. */
static void begin_map(struct world *w)
{
	struct handle *h;

	assert_int_equal(handle_start(w->fs->log, 10, &h), 0);
	rwlock_write(&w->ip->xattr_lock);
	map_init(w->ip);
	w->ip->state = INODE_BLOCKS;
	rwlock_write_unlock(&w->ip->xattr_lock);
	assert_int_equal(inode_store(h, w->ip), 0);
	assert_int_equal(handle_stop(h), 0);
}

static void world_open(struct world *w)
{
	const struct fs_options options = {
		.cache_bytes = 64 << 20,
		.write = true,
		.no_barrier = true,
	};
	struct dev *dev;
	int err;

	assert_int_equal(dev_file_open(w->path, 0, 0, DEV_FILE_WRITE, &dev), 0);
	err = fs_open(dev, &options, &no_files, &w->fs);
	if (err < 0)
		print_error("%s: %s\n", w->recipe->name, diag_text());
	assert_int_equal(err, 0);
	w->ratio = w->fs->geom.cluster_ratio;
	/* mke2fs -d makes lost+found, then the files. */
	assert_int_equal(inode_get(w->fs, w->fs->geom.first_ino + 1, &w->ip), 0);
	assert_true(inode_is_reg(w->ip));
	if (w->ip->state == INODE_EMPTY)
		begin_map(w);
}

static void add_window(struct world *w, uint64_t first, uint32_t count)
{
	struct window *win = &w->windows[w->window_count++];

	assert_true(w->window_count <= WINDOWS_MAX);
	*win = (struct window){ (lblk_t)first, count, calloc(count, sizeof(struct entry)) };
	assert_non_null(win->entries);
}

static void make_windows(struct world *w)
{
	const uint64_t p = w->fs->geom.block_size / 4;

	if (w->recipe->extents) {
		add_window(w, 0, 3000);
		add_window(w, 100000 - 37, 500);
		add_window(w, UINT32_MAX - 400, 400);
	} else {
		add_window(w, 0, 1200);
		add_window(w, 12 + p + p * p - 300, 700);
		add_window(w, 12 + p + p * p + 3 * p * p - 100, 300);
	}
}

static void world_make(struct world *w, const struct recipe *recipe)
{
	static unsigned worlds;

	*w = (struct world){ .recipe = recipe, .fragment = 60 };
	/* Each has a name of its own: an image that a failed test left open is locked. */
	snprintf(w->path, sizeof(w->path), "%s/%u-%s.img", scratch, worlds++, recipe->name);
	if (run("mke2fs -F -q -N 64 %s %s -d %s/tree %s %uM >/dev/null 2>&1", recipe->options,
		recipe->journal ? (strstr(recipe->options, "-b 1024") ? "-J size=1" : "-J size=4")
				: "",
		scratch, w->path, recipe->mib) != 0)
		skip();
	world_open(w);
	w->free_at_start = balloc_free_clusters(w->fs);
	make_windows(w);
}

static void world_close(struct world *w)
{
	int err;

	inode_put(w->ip);
	w->ip = NULL;
	err = fs_close(w->fs);
	if (err < 0)
		print_error("%s: closing: %s\n", w->recipe->name, diag_text());
	assert_int_equal(err, 0);
	w->fs = NULL;
}

static void world_free(struct world *w)
{
	if (w->fs)
		world_close(w);
	for (unsigned i = 0; i < w->window_count; i++)
		free(w->windows[i].entries);
	unlink(w->path);
}

/* The entry of @logical, or NULL: nothing is ever mapped there. */
static struct entry *entry_of(struct world *w, lblk_t logical)
{
	for (unsigned i = 0; i < w->window_count; i++) {
		struct window *win = &w->windows[i];

		if (logical >= win->first && logical - win->first < win->count)
			return &win->entries[logical - win->first];
	}
	return NULL;
}

static bool is_mapped(struct world *w, lblk_t logical)
{
	const struct entry *e = entry_of(w, logical);

	return e && e->physical != 0;
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* The engine's map of the whole file is that of the table. */
static void check_map(struct world *w)
{
	for (lblk_t at = 0; at < UINT32_MAX;) {
		struct map_ext ext;
		int err = map_read(w->ip, at, &ext);

		if (err < 0)
			print_error("block %u: %s\n", at, diag_text());
		assert_int_equal(err, 0);
		assert_int_equal(ext.logical, at);
		for (unsigned i = 0; i < w->window_count; i++) {
			const struct window *win = &w->windows[i];
			lblk_t from = (lblk_t)max_u64(at, win->first);
			uint64_t to = min_u64((uint64_t)at + ext.count,
					      (uint64_t)win->first + win->count);

			for (lblk_t l = from; l < to; l++) {
				const struct entry *e = &win->entries[l - win->first];
				blk_t want = ext.state == MAP_HOLE ? 0 : ext.physical + (l - at);

				if (e->state != ext.state || e->physical != want)
					print_error("block %u: %d at %llu, should be %d at %llu\n",
						    l, ext.state, (unsigned long long)want,
						    e->state, (unsigned long long)e->physical);
				assert_int_equal(e->state, ext.state);
				assert_int_equal(e->physical, want);
			}
		}
		if (ext.state != MAP_HOLE) {
			assert_non_null(entry_of(w, at));
			assert_non_null(entry_of(w, at + ext.count - 1));
		}
		at += ext.count;
	}
}

struct shape {
	uint64_t nodes, leaves, extents;
	uint32_t depth;
};

/* All nodes below level @l of the path, whose depth is bounded: keys, and none is empty. */
static void walk_tree(struct extent_path *p, uint32_t l, bool cut, struct shape *shape)
{
	struct extent_level *level = &p->level[l];
	struct ext4_extent_header *eh = level->eh;
	uint32_t entries = extent_entries(eh);

	assert_true(l == 0 || entries > 0);
	if (le16_get(eh->eh_depth) == 0) {
		shape->leaves++;
		shape->extents += entries;
		for (uint32_t i = 0; i + 1 < entries; i++) {
			struct map_ext a = extent_decode(extent_at(eh, i));
			struct map_ext b = extent_decode(extent_at(eh, i + 1));

			assert_true(a.logical + a.count <= b.logical);
			assert_false(!cut && extent_joinable(&a, &b) &&
				     a.count + b.count <= extent_count_max(a.state));
		}
		return;
	}
	for (uint32_t i = 0; i < entries; i++) {
		assert_int_equal(extent_child_read(p, l, i, &p->level[l + 1]), 0);
		shape->nodes++;
		assert_int_equal(extent_key(eh, i), extent_key(p->level[l + 1].eh, 0));
		walk_tree(p, l + 1, cut, shape);
		buf_put(p->level[l + 1].buf);
	}
}

static uint64_t count_pointers(struct world *w, uint32_t blk, uint32_t level)
{
	struct buf *buf;
	uint64_t count = 1, used = 0;

	assert_int_equal(indirect_read(w->ip, blk, &buf), 0);
	for (uint32_t i = 0; i < indirect_pointers(&w->fs->geom); i++) {
		uint32_t pointer = le32_get(((const le32 *)(const void *)buf->data)[i]);

		used += pointer != 0;
		if (pointer != 0 && level > 1)
			count += count_pointers(w, pointer, level - 1);
	}
	assert_true(used > 0);
	buf_put(buf);
	return count;
}

/* How many blocks the map itself has; all of it is looked at. */
static struct shape check_nodes(struct world *w)
{
	struct ext4_extent_header *eh = (void *)w->ip->raw->i_block;
	struct shape shape = { 0 };

	if (w->recipe->extents) {
		struct extent_path p = { .ip = w->ip };

		p.level[0] = (struct extent_level){ .eh = eh, .end = UINT32_MAX };
		shape.depth = le16_get(eh->eh_depth);
		assert_true(extent_entries(eh) > 0 || shape.depth == 0);
		walk_tree(&p, 0, w->was_cut, &shape);
	} else {
		for (uint32_t level = 1; level <= 3; level++) {
			uint32_t blk = le32_get(w->ip->raw->i_block[11 + level]);

			if (blk != 0)
				shape.nodes += count_pointers(w, blk, level);
		}
	}
	return shape;
}

static uint64_t table_clusters(struct world *w)
{
	uint64_t count = 0;

	for (unsigned i = 0; i < w->window_count; i++) {
		const struct window *win = &w->windows[i];
		uint64_t last = 0;

		for (uint32_t j = 0; j < win->count; j++) {
			if (win->entries[j].physical == 0)
				continue;
			if (win->entries[j].physical / w->ratio != last)
				count++;
			last = win->entries[j].physical / w->ratio;
		}
	}
	return count;
}

/* Space: i_blocks, and what is free, are what the table and the nodes say. */
static void check_space(struct world *w)
{
	uint64_t clusters = table_clusters(w) + check_nodes(w).nodes;
	struct uext4_stat st;

	inode_stat(w->ip, &st);
	assert_int_equal(st.blocks, clusters * w->ratio * (w->fs->geom.block_size / 512));
	assert_int_equal(balloc_free_clusters(w->fs) + clusters, w->free_at_start);
}

/* ---- operations ------------------------------------------------------------------------------ */

/* The table gets what was mapped. */
static void table_set(struct world *w, lblk_t logical, uint32_t count, blk_t physical,
		      enum map_state state)
{
	for (uint32_t i = 0; i < count; i++) {
		struct entry *e = entry_of(w, logical + i);

		assert_non_null(e);
		e->state = state;
		e->physical = state == MAP_HOLE ? 0 : physical + i;
	}
}

/* Nothing is mapped in [@logical, +@count) now. */
static void table_clear(struct world *w, lblk_t logical, uint32_t count)
{
	for (unsigned i = 0; i < w->window_count; i++) {
		struct window *win = &w->windows[i];
		uint64_t from = max_u64(logical, win->first);
		uint64_t to = min_u64((uint64_t)logical + count, (uint64_t)win->first + win->count);

		if (from < to)
			memset(&win->entries[from - win->first], 0,
			       (to - from) * sizeof(struct entry));
	}
}

/* [*@logical, +*@count) inside of a window. */
static void pick(struct world *w, uint32_t count_max, lblk_t *logical, uint32_t *count)
{
	const struct window *win = &w->windows[rnd_below(w->window_count)];
	uint32_t at = rnd_below(win->count);

	*logical = win->first + at;
	*count = 1 + rnd_below(min_u64(count_max, win->count - at));
}

/* How many of @count blocks from @logical on are as the first one. */
static uint32_t alike(struct world *w, lblk_t logical, uint32_t count)
{
	const struct entry first = *entry_of(w, logical);
	uint32_t n = 1;

	while (n < count) {
		const struct entry *e = entry_of(w, logical + n);

		if (e->state != first.state ||
		    (first.physical != 0 && e->physical != first.physical + n))
			break;
		n++;
	}
	return n;
}

static struct handle *op_start(struct world *w)
{
	struct handle *h;

	/* In a new transaction every buffer costs its credit. */
	if (w->commits && rnd_below(4) == 0)
		assert_int_equal(txn_log_sync(w->fs->log), 0);
	w->credits = map_credits(w->ip);
	assert_int_equal(handle_start(w->fs->log, w->credits, &h), 0);
	mem_fail_nth(w->memory_nth);
	return h;
}

static void op_stop(struct world *w, struct handle *h)
{
	uint32_t used = w->credits - handle_credits(h);

	assert_true(handle_credits(h) <= w->credits);
	mem_fail_nth(0);
	w->credits_most = (uint32_t)max_u64(w->credits_most, used);
	assert_int_equal(handle_stop(h), 0);
}

/* A hole's blocks of [@logical, +@count) that can be taken together; as its users do it. */
static int op_insert(struct world *w, lblk_t logical, uint32_t count, bool unwritten)
{
	const uint32_t mask = w->ratio - 1;
	struct balloc_request rq = { .ip = w->ip, .logical = logical };
	enum map_state state = unwritten ? MAP_UNWRITTEN : MAP_WRITTEN;
	struct blk_run taken;
	struct handle *h;
	uint32_t n;
	blk_t blk;
	int err;

	count = alike(w, logical, count);
	assert_int_equal(map_find_cluster(w->ip, logical, &blk, &n), 0);
	if (blk != 0) {
		count = (uint32_t)min_u64(count, n);
		h = op_start(w);
		err = map_insert_in_cluster(h, w->ip, logical, count, blk, unwritten);
		op_stop(w, h);
		if (err == 0)
			table_set(w, logical, count, blk, state);
		return err;
	}
	/* Not into a cluster whose other end is mapped. */
	for (lblk_t l = logical; l < logical + count; l++)
		if ((l & mask) == 0 && l > logical) {
			assert_int_equal(map_find_cluster(w->ip, l, &blk, &n), 0);
			if (blk != 0)
				count = l - logical;
		}
	if (rnd_below(100) < w->fragment)
		rq.goal = 1 + rnd_below(w->fs->geom.blocks - 1);
	else if (map_goal(w->ip, logical, &rq.goal) < 0)
		return -EIO;
	rq.count = count;
	err = balloc_alloc(w->fs, &rq, &taken);
	if (err < 0)
		return err;
	count = (uint32_t)min_u64(count, taken.count - (logical & mask));
	assert_int_equal(taken.count, round_up_pow2((logical & mask) + count, w->ratio));
	h = op_start(w);
	err = map_insert(h, w->ip, logical, count, &taken, unwritten);
	op_stop(w, h);
	if (err < 0)
		balloc_cancel(w->fs, &taken, false);
	else
		table_set(w, logical, count, taken.start + (logical & mask), state);
	return err;
}

static int op_alloc(struct world *w, lblk_t logical, uint32_t count, bool unwritten)
{
	struct handle *h = op_start(w);
	struct map_ext ext;
	int err;

	err = map_alloc(h, w->ip, logical, count, unwritten, 0, &ext);
	op_stop(w, h);
	if (err < 0)
		return err;
	assert_int_equal(ext.logical, logical);
	assert_true(ext.count >= 1 && ext.count <= alike(w, logical, count));
	table_set(w, logical, ext.count, ext.physical, ext.state);
	return 0;
}

static int op_convert(struct world *w, lblk_t logical, uint32_t count, bool to_written)
{
	struct map_ext ext;
	struct handle *h;
	int err;

	assert_int_equal(map_read(w->ip, logical, &ext), 0);
	count = (uint32_t)min_u64(count, ext.count);
	h = op_start(w);
	err = to_written ? map_convert_written(h, w->ip, logical, count)
			 : map_convert_unwritten(h, w->ip, logical, count);
	op_stop(w, h);
	if (err == 0)
		table_set(w, logical, count, ext.physical,
			  to_written ? MAP_WRITTEN : MAP_UNWRITTEN);
	return err;
}

static int op_remove(struct world *w, lblk_t logical, uint32_t count)
{
	uint32_t left = count, rounds = 0;
	int err = 0;

	while (left > 0 && err == 0) {
		struct handle *h = op_start(w);
		uint32_t before = left;

		err = map_remove(h, w->ip, logical, left, &left);
		op_stop(w, h);
		if (err == 0) {
			assert_true(left <= before);
			/* A step that only cuts an extent is followed by one that removes. */
			assert_true(left < before || ++rounds <= 2);
			table_clear(w, logical + left, before - left);
		}
	}
	return err;
}

/* One random operation; 0, or the error it had. */
static int op_random(struct world *w, unsigned fill)
{
	lblk_t logical;
	uint32_t count;
	const struct entry *e;

	pick(w, rnd_below(4) == 0 ? 60 : 4, &logical, &count);
	e = entry_of(w, logical);
	if (rnd_below(100) >= fill)
		return op_remove(w, logical,
				 fill < 80 && rnd_below(100) == 0 ? UINT32_MAX - logical : count);
	switch (e->state) {
	case MAP_HOLE: {
		bool unwritten = w->recipe->extents && rnd_below(2);

		return rnd_below(3) ? op_insert(w, logical, count, unwritten)
				    : op_alloc(w, logical, count, unwritten);
	}
	case MAP_UNWRITTEN: return op_convert(w, logical, count, true);
	default:
		if (w->recipe->extents && rnd_below(3) == 0)
			return op_convert(w, logical, count, false);
		return 0;
	}
}

/* ---- the judges ------------------------------------------------------------------------------ */

/* e2fsck wants sizes that cover what is mapped. */
static void set_size(struct world *w)
{
	uint64_t blocks = 0;
	struct handle *h;

	for (unsigned i = 0; i < w->window_count; i++)
		for (uint32_t j = 0; j < w->windows[i].count; j++)
			if (w->windows[i].entries[j].physical != 0)
				blocks = (uint64_t)w->windows[i].first + j + 1;
	assert_int_equal(handle_start(w->fs->log, 10, &h), 0);
	w->ip->size = blocks * w->fs->geom.block_size;
	inode_set_disk_size(w->ip, w->ip->size);
	assert_int_equal(inode_store(h, w->ip), 0);
	assert_int_equal(handle_stop(h), 0);
}

/* One item of debugfs' list: "(12):3456", "(12-14[u]):3456-3458", "(ETB0):3456", "(IND):3456". */
static uint64_t check_item(struct world *w, const char *item)
{
	unsigned long long first, last, physical;
	const char *colon = strstr(item, "):");
	enum map_state state = colon && colon[-1] == ']' ? MAP_UNWRITTEN : MAP_WRITTEN;

	if (!colon || sscanf(colon, "):%llu", &physical) != 1)
		return 0;
	if (sscanf(item, "(%llu-%llu", &first, &last) != 2) {
		if (sscanf(item, "(%llu", &first) != 1)
			return 0; /* a block of the map */
		last = first;
	}
	for (unsigned long long l = first; l <= last; l++) {
		const struct entry *e = entry_of(w, (lblk_t)l);

		assert_non_null(e);
		assert_int_equal(e->physical, physical + (l - first));
		assert_int_equal(e->state, state);
	}
	return last - first + 1;
}

static void check_debugfs(struct world *w)
{
	char command[1024];
	char *line = NULL;
	size_t room = 0;
	bool blocks = false;
	uint64_t seen = 0, want = 0;
	FILE *f;

	snprintf(command, sizeof(command), "debugfs -R 'stat /f' %s 2>/dev/null", w->path);
	f = popen(command, "r");
	assert_non_null(f);
	while (getline(&line, &room, f) > 0) {
		if (strncmp(line, "BLOCKS:", 7) == 0 || strncmp(line, "EXTENTS:", 8) == 0)
			blocks = true;
		if (blocks)
			for (char *at = line; (at = strchr(at, '(')) != NULL; at++)
				seen += check_item(w, at);
	}
	free(line);
	pclose(f);
	for (unsigned i = 0; i < w->window_count; i++)
		for (uint32_t j = 0; j < w->windows[i].count; j++)
			want += w->windows[i].entries[j].physical != 0;
	assert_int_equal(seen, want);
}

/* Closes the image, and lets the others look at it. */
static void judge(struct world *w)
{
	int status;

	set_size(w);
	world_close(w);
	status = run("e2fsck -fn %s >%s/fsck 2>&1", w->path, scratch);
	if (status != 0)
		run("cat %s/fsck >&2", scratch);
	assert_int_equal(status, 0);
	check_debugfs(w);
	world_open(w);
	check_map(w);
	check_space(w);
}

/* ---- random operations ----------------------------------------------------------------------- */

static void one_round(struct world *w, unsigned count, unsigned fill, unsigned fragment)
{
	w->fragment = fragment;
	for (unsigned i = 0; i < count; i++) {
		int err = op_random(w, fill);

		if (err < 0)
			print_error("%s: %s\n", w->recipe->name, diag_text());
		assert_int_equal(err, 0);
		if (i % 16 == 0)
			check_space(w);
		if (i % 200 == 0)
			check_map(w);
	}
	check_map(w);
	check_space(w);
}

static void test_random(void **state)
{
	const struct recipe *recipe = *state;
	struct world w;
	struct shape shape;

	world_make(&w, recipe);
	one_round(&w, operations, 90, 95);
	shape = check_nodes(&w);
	print_message("# %s: %" PRIu64 " extents, %" PRIu64 " nodes, depth %u\n", recipe->name,
		      shape.extents, shape.nodes, shape.depth);
	judge(&w);
	w.commits = true;
	one_round(&w, operations / 2, 75, 90);
	judge(&w);
	w.commits = false;
	one_round(&w, operations / 2, 50, 20);
	judge(&w);
	/* To nothing: the tree is a root again. */
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(op_random(&w, 10), 0);
	assert_int_equal(op_remove(&w, 0, UINT32_MAX), 0);
	check_map(&w);
	check_space(&w);
	shape = check_nodes(&w);
	assert_int_equal(shape.nodes, 0);
	assert_int_equal(shape.depth, 0);
	print_message("# %s: at most %u credits used\n", recipe->name, w.credits_most);
	judge(&w);
	world_free(&w);
}

/* ---- what fails ------------------------------------------------------------------------------ */

static void check_failed(struct world *w, int err)
{
	assert_true(err == -ENOSPC || err == -EIO || err == -ENOMEM);
	assert_int_equal(txn_log_error(w->fs->log), 0);
	check_map(w);
	check_space(w);
}

static void test_failing(void **state)
{
	const struct recipe *recipe = *state;
	struct world w;
	unsigned failed = 0;

	world_make(&w, recipe);
	one_round(&w, operations / 4, 95, 95);
	for (unsigned i = 0; i < operations / 4; i++) {
		int err;

		w.fragment = rnd_below(100);
		fail_nth = 1 + rnd_below(3);
		err = op_random(&w, 90);
		fail_nth = 0;
		if (err < 0) {
			failed++;
			check_failed(&w, err);
		}
	}
	assert_true(failed > operations / 200);
	judge(&w);
	world_free(&w);
}

/* What a removal that failed has done: each block is what it was, or gone. */
static void table_follow(struct world *w)
{
	for (unsigned i = 0; i < w->window_count; i++) {
		struct window *win = &w->windows[i];

		for (uint32_t j = 0; j < win->count; j++) {
			struct map_ext ext;

			assert_int_equal(map_read(w->ip, win->first + j, &ext), 0);
			if (ext.state == MAP_HOLE)
				win->entries[j] = (struct entry){ 0 };
		}
	}
}

/* The same with memory. */
static void test_no_memory(void **state)
{
	const struct recipe *recipe = *state;
	struct world w;
	unsigned failed = 0;

	world_make(&w, recipe);
	one_round(&w, operations / 4, 95, 95);
	w.was_cut = true;
	for (unsigned i = 0; i < operations / 4; i++) {
		bool removes = rnd_below(2) == 0;
		int err;

		w.fragment = rnd_below(100);
		w.memory_nth = 1 + rnd_below(3);
		err = op_random(&w, removes ? 0 : 100);
		w.memory_nth = 0;
		mem_fail_nth(0);
		if (err < 0) {
			failed++;
			if (removes)
				table_follow(&w);
			check_failed(&w, err);
		}
	}
	print_message("# %s: %u failed\n", recipe->name, failed);
	assert_true(failed > operations / 200);
	judge(&w);
	world_free(&w);
}

/* A full disk: what cannot be had fails, and nothing is lost. */
static void test_full(void **state)
{
	const struct recipe *recipe = *state;
	struct world w;
	uint64_t held;
	unsigned failed = 0;

	world_make(&w, recipe);
	held = balloc_free_clusters(w.fs) - 200;
	while (balloc_reserve(w.fs, held, true) < 0) /* some are kept for metadata */
		held -= 100;
	w.free_at_start -= held;
	w.fragment = 90;
	for (unsigned i = 0; i < operations / 4; i++) {
		int err = op_random(&w, 85);

		if (err < 0) {
			failed++;
			check_failed(&w, err);
		}
	}
	assert_true(failed > 10);
	balloc_unreserve(w.fs, held);
	w.free_at_start += held;
	judge(&w);
	world_free(&w);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static void shuffle(uint32_t *order, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		order[i] = i;
	for (uint32_t i = count; i-- > 1;) {
		uint32_t j = rnd_below(i + 1), swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
}

/* Other windows than usual: one. */
static void one_window(struct world *w, uint32_t count)
{
	while (w->window_count > 0)
		free(w->windows[--w->window_count].entries);
	add_window(w, 0, count);
}

/* Every other block, in one order or another: as many extents as blocks. */
static void fill_every_other(struct world *w, uint32_t count, int order)
{
	for (uint32_t i = 0; i < count; i++) {
		lblk_t l = order > 0 ? 2 * i : 2 * (count - 1 - i);

		assert_int_equal(op_insert(w, l, 1, false), 0);
	}
}

/* Appending fills nodes up, as does prepending: there is no half-empty node. */
static void test_append(void **state)
{
	const uint32_t count = 1400, max = (1024 - 12) / 12;

	for (int order = -1; order <= 1; order += 2) {
		struct world w;
		struct shape shape;

		world_make(&w, &recipes[0]);
		fill_every_other(&w, count, order);
		shape = check_nodes(&w);
		assert_int_equal(shape.extents, count);
		assert_true(shape.leaves <= count / max + 2);
		check_map(&w);
		/* And the holes close: in the end it is one file in few pieces. */
		assert_int_equal(op_remove(&w, 0, UINT32_MAX), 0);
		assert_int_equal(check_nodes(&w).nodes, 0);
		judge(&w);
		world_free(&w);
	}
}

/* A tree of four levels, in random order, and back in the steps of a small journal. */
static void test_deep(void **state)
{
	const uint32_t count = 25000;
	struct shape shape;
	struct world w;
	uint32_t *order = calloc(count, sizeof(*order));

	assert_non_null(order);
	world_make(&w, &recipes[0]);
	one_window(&w, 2 * count);
	shuffle(order, count);
	w.fragment = 0;
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(op_insert(&w, 2 * order[i], 1, false), 0);
	shape = check_nodes(&w);
	print_message("# %" PRIu64 " extents, %" PRIu64 " nodes, depth %u\n", shape.extents,
		      shape.nodes, shape.depth);
	assert_int_equal(shape.depth, 3);
	check_map(&w);
	check_space(&w);
	judge(&w);
	/* Every hundredth block stays: the leaves are joined. */
	for (uint32_t i = 0; i < count; i++)
		if (i % 100 != 0)
			assert_int_equal(op_remove(&w, 2 * i, 1), 0);
	shape = check_nodes(&w);
	assert_int_equal(shape.extents, count / 100);
	assert_true(shape.leaves <= 12 && shape.depth <= 2);
	judge(&w);
	assert_int_equal(op_remove(&w, 0, UINT32_MAX), 0);
	assert_int_equal(check_nodes(&w).nodes, 0);
	judge(&w);
	free(order);
	world_free(&w);
}

/* Blocks that lie together, mapped in random order: in the end one extent in the root. */
static void test_merge(void **state)
{
	const uint32_t count = 3000;
	struct balloc_request rq = { .count = count };
	uint32_t *order = calloc(count, sizeof(*order));
	struct blk_run taken;
	struct world w;
	uint32_t depth_most = 0;

	assert_non_null(order);
	for (unsigned unwritten = 0; unwritten <= 1; unwritten++) {
		world_make(&w, &recipes[0]);
		rq.goal = 8193; /* the first block of a group, all of which is free */
		assert_int_equal(balloc_alloc(w.fs, &rq, &taken), 0);
		assert_int_equal(taken.count, count);
		shuffle(order, count);
		for (uint32_t i = 0; i < count; i++) {
			const struct blk_run one = { taken.start + order[i], 1 };
			struct handle *h = op_start(&w);

			assert_int_equal(map_insert(h, w.ip, order[i], 1, &one, unwritten), 0);
			op_stop(&w, h);
			table_set(&w, order[i], 1, one.start,
				  unwritten ? MAP_UNWRITTEN : MAP_WRITTEN);
			depth_most = (uint32_t)max_u64(depth_most, check_nodes(&w).depth);
		}
		assert_int_equal(check_nodes(&w).extents, 1);
		assert_int_equal(check_nodes(&w).nodes, 0);
		judge(&w);
		/* Unwritten ones become written in random order, with the same end. */
		for (uint32_t i = 0; unwritten && i < count; i++)
			assert_int_equal(op_convert(&w, order[i], 1, true), 0);
		assert_int_equal(check_nodes(&w).extents, 1);
		judge(&w);
		world_free(&w);
	}
	assert_int_equal(depth_most, 2);
	free(order);
}

/* Longer than an extent can say: pieces of the greatest length, and one more. */
static void test_long(void **state)
{
	static const struct recipe recipe = { "long", 1024, "-t ext4 -b 4096 -O ^has_journal", true,
					      false };
	struct world w;
	lblk_t at = 0;

	world_make(&w, &recipe);
	one_window(&w, 200000);
	while (at < 200000) {
		struct handle *h = op_start(&w);
		struct map_ext ext;
		uint32_t count = (uint32_t)min_u64(1 + rnd_below(20000), 200000 - at);

		assert_int_equal(map_alloc(h, w.ip, at, count, true, 0, &ext), 0);
		op_stop(&w, h);
		table_set(&w, at, ext.count, ext.physical, MAP_UNWRITTEN);
		at += ext.count;
	}
	check_map(&w);
	for (at = 0; at < 200000;) {
		struct map_ext ext;

		assert_int_equal(map_read(w.ip, at, &ext), 0);
		assert_int_equal(op_convert(&w, at, ext.count, true), 0);
		at += ext.count;
	}
	check_map(&w);
	judge(&w);
	/* And back: an unwritten extent is one block shorter than a written one. */
	for (at = 0; at < 200000;) {
		struct map_ext ext;

		assert_int_equal(map_read(w.ip, at, &ext), 0);
		assert_int_equal(op_convert(&w, at, ext.count, false), 0);
		at += ext.count;
	}
	judge(&w);
	assert_int_equal(op_remove(&w, 100, 150000), 0);
	judge(&w);
	world_free(&w);
}

/* ---- damaged maps ---------------------------------------------------------------------------- */

static void add_block(blk_t *blocks, uint32_t *count, uint32_t max, blk_t blk)
{
	for (uint32_t i = 0; i < *count; i++)
		if (blocks[i] == blk)
			return;
	if (*count < max)
		blocks[(*count)++] = blk;
}

/* The blocks on the way to every twentieth entry of the table. */
static uint32_t node_blocks(struct world *w, blk_t *blocks, uint32_t max)
{
	uint32_t count = 0;

	for (unsigned i = 0; i < w->window_count; i++) {
		const struct window *win = &w->windows[i];

		for (uint32_t j = 0; w->recipe->extents && j < win->count; j += 20) {
			struct extent_path p;

			assert_int_equal(extent_path_open(w->ip, win->first + j, &p), 0);
			for (uint32_t l = 1; l <= p.depth; l++)
				add_block(blocks, &count, max, p.level[l].buf->blk);
			extent_path_close(&p);
		}
	}
	for (unsigned i = 12; !w->recipe->extents && i < 15; i++) {
		struct buf *buf;

		if (le32_get(w->ip->raw->i_block[i]) == 0)
			continue;
		add_block(blocks, &count, max, le32_get(w->ip->raw->i_block[i]));
		assert_int_equal(indirect_read(w->ip, le32_get(w->ip->raw->i_block[i]), &buf), 0);
		for (uint32_t j = 0; i > 12 && j < indirect_pointers(&w->fs->geom); j++)
			if (((const le32 *)(const void *)buf->data)[j].raw != 0)
				add_block(blocks, &count, max,
					  le32_get(((const le32 *)(const void *)buf->data)[j]));
		buf_put(buf);
	}
	return count;
}

/* Small numbers, and such as other fields have: these get past the verifiers more often. */
static void damage(const char *path, const blk_t *blocks, uint32_t count, uint32_t block_size)
{
	FILE *f = fopen(path, "r+");

	assert_non_null(f);
	for (uint32_t n = 1 + rnd_below(4); n > 0; n--) {
		uint64_t block = blocks[rnd_below(count)] * block_size;
		uint32_t entry = 12 + 12 * rnd_below((block_size - 12) / 12);
		uint8_t bytes[12], from[12];
		uint32_t at = rnd_below(3) ? entry : 12 * rnd_below(4);

		assert_int_equal(fseek(f, (long)(block + at), SEEK_SET), 0);
		assert_int_equal(fread(bytes, 1, sizeof(bytes), f), sizeof(bytes));
		assert_int_equal(fseek(f, (long)(blocks[rnd_below(count)] * block_size + entry),
				       SEEK_SET),
				 0);
		assert_int_equal(fread(from, 1, sizeof(from), f), sizeof(from));
		switch (rnd_below(4)) {
		case 0: memcpy(bytes, from, sizeof(bytes)); break;
		case 1: bytes[rnd_below(12)] = (uint8_t)rnd_below(4); break;
		case 2: bytes[rnd_below(12)] ^= (uint8_t)(1u << rnd_below(8)); break;
		default: memcpy(bytes + 4, from + 4, 8); break;
		}
		assert_int_equal(fseek(f, (long)(block + at), SEEK_SET), 0);
		assert_int_equal(fwrite(bytes, 1, sizeof(bytes), f), sizeof(bytes));
	}
	fclose(f);
}

/* Any change is made or refused, in bounded time; what the map then says is nobody's promise. */
static void test_damaged(void **state)
{
	const struct recipe *recipe = *state;
	struct world w;
	char good[600];
	blk_t blocks[200];
	uint32_t count, refused = 0, made = 0;

	world_make(&w, recipe);
	one_round(&w, operations / 2, 95, 95);
	count = node_blocks(&w, blocks, ARRAY_SIZE(blocks));
	assert_true(count > 2);
	set_size(&w);
	world_close(&w);
	snprintf(good, sizeof(good), "%s.good", w.path);
	assert_int_equal(rename(w.path, good), 0);
	for (unsigned i = 0; i < operations / 20; i++) {
		assert_int_equal(run("cp --sparse=always %s %s", good, w.path), 0);
		damage(w.path, blocks, count, 1024);
		world_open(&w);
		for (unsigned j = 0; j < 60; j++) {
			lblk_t logical;
			uint32_t n;
			struct map_ext ext;
			struct handle *h = NULL;
			int err;

			pick(&w, rnd_below(4) ? 5 : 500, &logical, &n);
			err = handle_start(w.fs->log, map_credits(w.ip), &h);
			if (err < 0)
				break;
			switch (rnd_below(4)) {
			case 0: err = map_remove(h, w.ip, logical, n, &n); break;
			case 1: err = map_convert_written(h, w.ip, logical, n); break;
			case 2: err = map_convert_unwritten(h, w.ip, logical, n); break;
			default: err = map_alloc(h, w.ip, logical, n, rnd_below(2), 0, &ext); break;
			}
			refused += err == -EFSCORRUPTED;
			made += err == 0;
			if (handle_stop(h) < 0)
				break;
		}
		inode_put(w.ip);
		(void)!fs_close(w.fs);
		w.fs = NULL;
	}
	print_message("# %u changes, %u refused\n", made, refused);
	assert_true(made > 100 && refused > 100);
	unlink(good);
	world_free(&w);
}

/* ---- readers beside a writer ----------------------------------------------------------------- */

struct reading {
	struct world *w;
	_Atomic bool stop;
	_Atomic uint64_t reads;
};

/* In threads, where cmocka's assertions cannot be used. */
#define CHECK(x)                                                                              \
	do {                                                                                  \
		if (!(x)) {                                                                   \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #x); \
			abort();                                                              \
		}                                                                             \
	} while (0)

/* Even blocks stay what they are, and odd ones are never mapped to one of theirs. */
static void *reader(void *arg)
{
	struct reading *r = arg;
	uint64_t state = (uintptr_t)&r | 1;

	while (!atomic_load(&r->stop)) {
		struct map_ext ext;
		lblk_t l;

		state = state * UINT64_C(6364136223846793005) + 1;
		l = (lblk_t)((state >> 33) % 1000);
		CHECK(map_read(r->w->ip, l, &ext) == 0);
		CHECK(ext.logical == l && ext.count > 0);
		if (l % 2 == 0) {
			CHECK(ext.state == MAP_WRITTEN);
			CHECK(ext.physical == r->w->windows[0].entries[l].physical);
		} else {
			CHECK(ext.count == 1 || ext.state == MAP_WRITTEN);
		}
		atomic_fetch_add(&r->reads, 1);
	}
	return NULL;
}

static void test_readers(void **state)
{
	struct world w;
	struct reading r = { .w = &w };
	pthread_t threads[2];

	world_make(&w, &recipes[0]);
	w.fragment = 100;
	fill_every_other(&w, 501, 1);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader, &r), 0);
	for (unsigned i = 0; i < operations / 4 || atomic_load(&r.reads) < 1000; i++) {
		lblk_t l = 2 * rnd_below(500) + 1;

		if (is_mapped(&w, l))
			assert_int_equal(op_remove(&w, l, 1), 0);
		else
			assert_int_equal(op_insert(&w, l, 1, rnd_below(2)), 0);
	}
	atomic_store(&r.stop, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	check_map(&w);
	judge(&w);
	world_free(&w);
}

/* ---- metadata blocks ------------------------------------------------------------------------- */

static int verify_any(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return 0;
}

static const struct buf_ops any_ops = { .name = "block", .verify = verify_any };

/* Buffers of new blocks are zeroed, written with their transaction, and gone when removed. */
static void test_add_buf(void **state)
{
	const struct recipe *recipe = *state;
	struct world w;
	struct buf *buf;

	world_make(&w, recipe);
	for (lblk_t l = 0; l < 600; l++) {
		struct handle *h = op_start(&w);

		assert_int_equal(map_add_buf(h, w.ip, l, &any_ops, &buf), 0);
		for (uint32_t i = 0; i < buf->bytes; i++)
			assert_int_equal(buf->data[i], 0);
		memset(buf->data, (int)l & 255, buf->bytes);
		handle_dirty(h, buf);
		op_stop(&w, h);
		table_set(&w, l, 1, buf->blk, MAP_WRITTEN);
		buf_put(buf);
	}
	check_map(&w);
	judge(&w);
	for (lblk_t l = 0; l < 600; l++) {
		assert_int_equal(map_read_buf(w.ip, l, &any_ops, NULL, &buf), 0);
		assert_int_equal(buf->data[buf->bytes - 1], l & 255);
		buf_put(buf);
	}
	world_free(&w);
}

static void test_refusals(void **state)
{
	struct world w;
	struct handle *h;
	struct map_ext ext;

	world_make(&w, &recipes[6]); /* a block map */
	h = op_start(&w);
	assert_int_equal(map_alloc(h, w.ip, 0, 1, true, 0, &ext), -EOPNOTSUPP);
	assert_int_equal(map_convert_written(h, w.ip, 0, 1), -EOPNOTSUPP);
	assert_int_equal(map_alloc(h, w.ip, 12 + 256 + 65536 + 16777216, 1, false, 0, &ext),
			 -EFBIG);
	assert_int_equal(map_size_max(w.ip), UINT64_C(1024) * (12 + 256 + 65536 + 16777216));
	op_stop(&w, h);
	world_free(&w);

	world_make(&w, &recipes[0]);
	assert_int_equal(op_insert(&w, 10, 5, false), 0);
	h = op_start(&w);
	assert_int_equal(map_alloc(h, w.ip, 12, 1, false, 0, &ext), -EFSCORRUPTED);
	assert_int_equal(map_convert_written(h, w.ip, 9, 2), -EFSCORRUPTED);
	assert_int_equal(map_convert_written(h, w.ip, 11, 2), 0); /* it is */
	assert_int_equal(map_size_max(w.ip), (uint64_t)UINT32_MAX << 10);
	op_stop(&w, h);
	check_map(&w);
	world_free(&w);
}

int main(int argc, char **argv)
{
	static char names[64][64];
	struct CMUnitTest tests[64];
	size_t count = 0;

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	if (argc > 2)
		operations = (unsigned)strtoul(argv[2], NULL, 0);
	if (argc > 3)
		cmocka_set_test_filter(argv[3]);
	print_message("# seed %" PRIu64 "\n", seed);
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
		const struct {
			const char *name;
			void (*test)(void **state);
		} each[] = {
			{ "random", test_random },	 { "failing", test_failing },
			{ "no memory", test_no_memory }, { "full", test_full },
			{ "add_buf", test_add_buf },
		};

		for (size_t j = 0; j < ARRAY_SIZE(each); j++) {
			char *name = names[count];

			snprintf(name, sizeof(names[0]), "%s: %s", recipes[i].name, each[j].name);
			tests[count++] = (struct CMUnitTest){
				.name = name,
				.test_func = each[j].test,
				.initial_state = (void *)(uintptr_t)&recipes[i],
			};
		}
	}
	tests[count++] = (struct CMUnitTest){ "append", test_append, NULL, NULL, NULL };
	tests[count++] = (struct CMUnitTest){ "deep", test_deep, NULL, NULL, NULL };
	tests[count++] = (struct CMUnitTest){ "merge", test_merge, NULL, NULL, NULL };
	tests[count++] = (struct CMUnitTest){ "long", test_long, NULL, NULL, NULL };
	tests[count++] = (struct CMUnitTest){ "damaged tree", test_damaged, NULL, NULL,
					      (void *)(uintptr_t)&recipes[1] };
	tests[count++] = (struct CMUnitTest){ "damaged block map", test_damaged, NULL, NULL,
					      (void *)(uintptr_t)&recipes[6] };
	tests[count++] = (struct CMUnitTest){ "readers", test_readers, NULL, NULL, NULL };
	tests[count++] = (struct CMUnitTest){ "refusals", test_refusals, NULL, NULL, NULL };
	assert(count <= ARRAY_SIZE(tests));
	return _cmocka_run_group_tests("fs_map", tests, count, make_scratch, remove_scratch);
}
