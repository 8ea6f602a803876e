/* SPDX-License-Identifier: MIT */
/*
 * Writeback of file data: from dirty pages to blocks on the disk.
 *
 * Data before mapping (docs/ARCHITECTURE.md): blocks for what has none are taken in memory, the
 * data is written there, and then a handle lets the file have them and raises its size on disk.  A
 * crash in between finds the blocks free.
 *
 * The pages of a batch go through it together: collected and put under writeback; planned, as runs
 * of blocks that lie together; written, in requests as large as they can be; mapped.  Then each
 * page ends, with the error of its own runs.
 *
 *  B1  (M2 of fs/map.h) A run is mapped only after all of its data was written.  So nothing is left
 *      for a commit to write, and it takes no page's lock (M4).
 *  B2  What was promised is kept: allocation for reserved parts uses their promises.  After an
 *      error the promise is in force again, and the parts are dirty and reserved as before.
 *  B3  The size on disk never passes the size in memory, nor what was written behind the old one.
 *  B4  Where a block or cluster is shared by several pages (delayed.c), a file is written by one
 *      thread at a time: two would both find a hole and fill it.
 *  B5  No page lock is held while anything is read, written, or waited for.
 *  B6  Batches of several small files may be collected and planned one after the other before the
 *      first is written, so that files that lie side by side go in one request.  B1 holds for each.
 *
 * With data=journal the data does not go to the device but, with the mapping, into the handle; only
 * then is any of it in a transaction (S10, I13).
 */
#include "ops/file_priv.h"

#include "base/diag.h"

#include <inttypes.h>

/* Pages of one batch: 4 MiB. */
#define BATCH_PAGES 1024u
#define RUNS_MAX 256u
/* What one handle maps; more for less would keep commits out for long. */
#define RUNS_A_HANDLE 32u

enum run_kind {
	RUN_IN_PLACE,	/* written blocks are overwritten */
	RUN_UNWRITTEN,	/* they become written */
	RUN_NEW,	/* of a hole, just taken */
	RUN_IN_CLUSTER, /* of a hole, in a cluster that is the file's */
};

/* Blocks that lie together, in the file and on disk, and have one fate. */
struct run {
	enum run_kind kind;
	lblk_t logical;
	uint32_t count;
	blk_t physical;
	struct blk_run taken; /* RUN_NEW */
	bool promised;	      /* RUN_NEW: its promises were used */
	uint32_t done;	      /* blocks that are written, and mapped */
	int err;	      /* why not all */
};

/* Memory of a batch, or of several. */
struct batch_room {
	size_t pages_used, runs_used;
	struct page *pages[BATCH_PAGES];
	uint8_t parts[BATCH_PAGES];
	uint8_t reserved[BATCH_PAGES];
	int errs[BATCH_PAGES];
	struct run run[RUNS_MAX];
};

/* Neighbouring blocks with something dirty, all of them reserved, or none. */
struct span {
	lblk_t logical;
	uint32_t count;
	bool reserved;
};

/* A place among the dirty parts of a batch. */
struct cursor {
	size_t page;
	unsigned part;
};

struct batch {
	struct inode *ip;
	size_t count, pages_max;
	struct page **pages; /* ascending, under writeback, referenced */
	uint8_t *parts;	     /* what was dirty */
	uint8_t *reserved;   /* of these, what had no place */
	int *errs;	     /* of each page */
	int err;	     /* of none of them: the journal's */
	size_t runs, runs_max;
	struct run *run;
	struct cursor at; /* planned up to here, */
	struct span span; /* but for this */
};

/* An empty batch for up to @pages_max pages, and all the runs, that are left in @room. */
static void batch_init(struct batch *b, struct inode *ip, struct batch_room *room, size_t pages_max)
{
	size_t page = room->pages_used, run = room->runs_used;

	*b = (struct batch){
		.ip = ip,
		.pages_max = min_size(pages_max, BATCH_PAGES - page),
		.pages = room->pages + page,
		.parts = room->parts + page,
		.reserved = room->reserved + page,
		.errs = room->errs + page,
		.runs_max = RUNS_MAX - run,
		.run = room->run + run,
	};
}

/* ---- collecting ------------------------------------------------------------------------------ */

/*
 * Bytes behind the end that were stored through a mapping are not written: others, who make the
 * file larger, count on zeros there.  The page is protected, so no more of them come before it is
 * unlocked.
 */
static void zero_behind_end(struct inode *ip, struct page *page)
{
	uint64_t size;

	if (mapping_frames(&ip->pages) == NULL)
		return;
	size = file_shape(ip).size;
	if (page->index == size >> PAGE_BITS)
		page_zero(page, size & (PAGE_BYTES - 1), PAGE_BYTES - (size & (PAGE_BYTES - 1)));
}

/*
 * Of pages that were found dirty, those that are so, locked; *ret_busy: the first that others
 * write, and with @wait none behind it.
 */
static size_t lock_dirty(struct inode *ip, struct page *const *found, size_t count, bool wait,
			 struct page **locked, struct page **ret_busy)
{
	size_t n = 0;

	*ret_busy = NULL;
	for (size_t i = 0; i < count; i++) {
		if ((wait && *ret_busy != NULL) || !page_lock_in(&ip->pages, found[i])) {
			pages_put(&found[i], 1);
			continue;
		}
		if (page_is_dirty(found[i]) && !page_is_writeback(found[i])) {
			locked[n++] = found[i];
			continue;
		}
		if (page_is_dirty(found[i]) && *ret_busy == NULL)
			*ret_busy = found[i];
		page_unlock(found[i]);
		if (*ret_busy != found[i])
			pages_put(&found[i], 1);
	}
	return n;
}

/* Locked dirty pages join the batch, and are unlocked. */
static void start_pages(struct batch *b, struct page *const *pages, size_t count)
{
	size_t at = b->count;

	pages_start_writeback(pages, b->parts + at, count);
	for (size_t i = 0; i < count; i++, at++) {
		zero_behind_end(b->ip, pages[i]);
		b->reserved[at] = pages[i]->reserved & b->parts[at];
		b->errs[at] = 0;
		b->pages[at] = pages[i];
		page_unlock(pages[i]);
	}
	b->count = at;
}

#define FIND_MAX 64u

/*
 * Dirty pages from *@at on become the batch; *@at is moved behind them.  One that others are
 * writing is left out, or, with @wait, waited for, but not while this batch holds any: then the
 * batch ends there, so that no page is written twice, which could fail as often.
 */
static void batch_collect(struct batch *b, pgoff_t *at, pgoff_t last, bool wait)
{
	struct page *found[FIND_MAX], *locked[FIND_MAX], *busy;
	size_t count;

	while (b->count < b->pages_max) {
		count = mapping_find_dirty(&b->ip->pages, at, last, found,
					   min_size(FIND_MAX, b->pages_max - b->count));
		if (count == 0)
			return;
		count = lock_dirty(b->ip, found, count, wait, locked, &busy);
		start_pages(b, locked, count);
		if (busy == NULL)
			continue;
		if (wait)
			*at = busy->index; /* and what is behind it, once more */
		if (wait && b->count == 0)
			page_wait_writeback(busy);
		pages_put(&busy, 1);
		if (wait && b->count > 0)
			return;
	}
}

/* ---- planning -------------------------------------------------------------------------------- */

/*
 * The next block at or behind *@c with something dirty; *@c is moved behind all of its parts.
 * False: there are no more.
 */
static bool next_block(const struct batch *b, struct cursor *c, lblk_t *ret_block,
		       bool *ret_reserved)
{
	const struct geom *g = &b->ip->fs->geom;
	unsigned step = parts_per_block(g);

	for (; c->page < b->count; c->page++, c->part = 0) {
		for (; c->part < 4; c->part += step) {
			uint64_t block = part_block(g, b->pages[c->page]->index, c->part);

			if (!(b->parts[c->page] & 1u << c->part))
				continue;
			*ret_block = (lblk_t)block;
			*ret_reserved = b->reserved[c->page] & 1u << c->part;
			c->part += step;
			/* Further pages of a large block. */
			while (c->part >= 4 && c->page + 1 < b->count &&
			       part_block(g, b->pages[c->page + 1]->index, 0) == block) {
				c->page++;
				*ret_reserved |= b->reserved[c->page] != 0;
			}
			return true;
		}
	}
	return false;
}

static bool next_span(const struct batch *b, struct cursor *c, struct span *ret)
{
	struct cursor ahead = *c;
	bool reserved;
	lblk_t block;

	if (!next_block(b, &ahead, &ret->logical, &ret->reserved))
		return false;
	ret->count = 1;
	*c = ahead;
	while (next_block(b, &ahead, &block, &reserved) && block == ret->logical + ret->count &&
	       reserved == ret->reserved) {
		ret->count++;
		*c = ahead;
	}
	return true;
}

static struct run *add_run(struct batch *b, enum run_kind kind, lblk_t logical, uint32_t count,
			   blk_t physical)
{
	struct run *run = &b->run[b->runs++];

	*run = (struct run){
		.kind = kind, .logical = logical, .count = count, .physical = physical
	};
	return run;
}

/* Is the cluster of @logical being given to the file by an earlier run of this batch? */
static bool in_taken_cluster(const struct batch *b, lblk_t logical, blk_t *ret_blk)
{
	const uint32_t mask = b->ip->fs->geom.cluster_ratio - 1;

	for (size_t i = b->runs; i-- > 0;) {
		const struct run *run = &b->run[i];
		lblk_t start = run->logical & ~mask;

		if (run->kind != RUN_NEW)
			continue;
		if (logical < start || logical - start >= run->taken.count)
			return false;
		*ret_blk = run->taken.start + (logical - start);
		return true;
	}
	return false;
}

/*
 * How many of @count blocks of a hole have a promise like the first; without one only its cluster,
 * as further ones may be the file's (D3).
 */
static uint32_t same_promise(struct inode *ip, lblk_t logical, uint32_t count, bool promised)
{
	const uint32_t ratio = ip->fs->geom.cluster_ratio;
	uint64_t at = ((uint64_t)logical & ~(uint64_t)(ratio - 1)) + ratio, end = logical + count;

	while (at < end && promised && delayed_is_promised(ip, (lblk_t)at))
		at += ratio;
	return (uint32_t)(min_u64(at, end) - logical);
}

/* Takes blocks for [@logical, +@count), a hole in clusters that are not the file's. */
static int plan_new(struct batch *b, lblk_t logical, uint32_t count, bool promised)
{
	struct inode *ip = b->ip;
	const uint32_t before = logical & (ip->fs->geom.cluster_ratio - 1);
	struct balloc_request rq = {
		.ip = ip,
		.logical = logical,
		.count = count,
		.flags = BALLOC_DATA | (promised ? BALLOC_RESERVED : BALLOC_ROOT),
		.file_blocks = (lblk_t)min_u64(UINT32_MAX, div_round_up(file_shape(ip).size,
									ip->fs->geom.block_size)),
	};
	struct blk_run taken;
	struct run *run;
	int err;

	err = map_goal(ip, logical, &rq.goal);
	if (err == 0)
		err = balloc_alloc(ip->fs, &rq, &taken);
	if (err < 0)
		return err;
	count = (uint32_t)min_u64(count, taken.count - before);
	run = add_run(b, RUN_NEW, logical, count, taken.start + before);
	run->taken = taken;
	run->promised = promised;
	if (promised && !delayed_is_simple(&ip->fs->geom))
		delayed_set_promised(ip, logical, count, false);
	return 0;
}

/* The first run of [@logical, +@count), a hole. */
static int plan_hole(struct batch *b, lblk_t logical, uint32_t count, bool reserved)
{
	struct inode *ip = b->ip;
	const uint32_t ratio = ip->fs->geom.cluster_ratio;
	uint32_t in_cluster;
	blk_t blk;
	bool promised;
	int err;

	if (delayed_is_simple(&ip->fs->geom))
		return plan_new(b, logical, count, reserved);
	if (ratio > 1) {
		in_cluster = ratio - (logical & (ratio - 1));
		if (!in_taken_cluster(b, logical, &blk)) {
			err = map_find_cluster(ip, logical, &blk, &in_cluster);
			if (err < 0)
				return err;
		}
		if (blk != 0) {
			(void)add_run(b, RUN_IN_CLUSTER, logical,
				      (uint32_t)min_u64(count, in_cluster), blk);
			return 0;
		}
	}
	promised = delayed_is_promised(ip, logical);
	return plan_new(b, logical, same_promise(ip, logical, count, promised), promised);
}

/* The first run of a span. */
static int plan_run(struct batch *b, lblk_t logical, uint32_t count, bool reserved)
{
	struct map_ext ext;
	int err;

	err = map_read(b->ip, logical, &ext);
	if (err < 0)
		return err;
	ext.count = (uint32_t)min_u64(ext.count, count);
	if (ext.state == MAP_HOLE)
		return plan_hole(b, logical, ext.count, reserved);
	(void)add_run(b, ext.state == MAP_WRITTEN ? RUN_IN_PLACE : RUN_UNWRITTEN, logical,
		      ext.count, ext.physical);
	return 0;
}

/* The pages of [@logical, +@count) get the error. */
static void fail_pages(struct batch *b, lblk_t logical, uint32_t count, int err)
{
	const unsigned bits = b->ip->fs->geom.block_bits;
	pgoff_t first = ((uint64_t)logical << bits) >> PAGE_BITS;
	pgoff_t last = ((((uint64_t)logical + count) << bits) - 1) >> PAGE_BITS;

	for (size_t i = 0; i < b->count; i++) {
		if (b->pages[i]->index >= first && b->pages[i]->index <= last)
			b->errs[i] = first_error(b->errs[i], err);
	}
}

/* Runs for what is dirty and was not planned before, as far as there is room. */
static void batch_plan(struct batch *b)
{
	struct span *span = &b->span;

	b->runs = 0;
	while (b->runs < b->runs_max && (span->count > 0 || next_span(b, &b->at, span))) {
		size_t before = b->runs;
		uint32_t planned;
		int err;

		err = plan_run(b, span->logical, span->count, span->reserved);
		if (err < 0) { /* the rest of the span will not do better */
			fail_pages(b, span->logical, span->count, err);
			planned = span->count;
		} else {
			assert(b->runs == before + 1);
			planned = b->run[before].count;
		}
		span->logical += planned;
		span->count -= planned;
	}
}

/* ---- writing --------------------------------------------------------------------------------- */

static const uint8_t zeros[PAGE_BYTES];

/* A device request that grows as long as its bytes are neighbours on disk. */
struct request {
	struct dev *dev;
	struct run *run;		  /* whose bytes are added */
	struct run *first_run, *last_run; /* those that have bytes in it; neighbours in memory */
	uint64_t offset, bytes;		  /* on the device */
	int pieces;
	struct iovec iov[DEV_IOV_MAX];
};

static void submit(struct request *rq)
{
	int err;

	if (rq->pieces == 0)
		return;
	err = dev_writev(rq->dev, rq->offset, rq->iov, rq->pieces);
	rq->pieces = 0;
	if (err < 0) {
		err = fail_in(err, "data at byte %" PRIu64, rq->offset);
		for (struct run *run = rq->first_run; run <= rq->last_run; run++)
			run->err = first_error(run->err, err);
	}
}

static void request_add(struct request *rq, uint64_t offset, const uint8_t *data, size_t bytes)
{
	struct iovec *last = &rq->iov[rq->pieces - (rq->pieces > 0)];

	if (rq->pieces > 0 && offset == rq->offset + rq->bytes &&
	    (const uint8_t *)last->iov_base + last->iov_len == data) {
		last->iov_len += bytes;
	} else {
		if (rq->pieces == DEV_IOV_MAX || offset != rq->offset + rq->bytes)
			submit(rq);
		if (rq->pieces == 0) {
			rq->first_run = rq->run;
			rq->offset = offset;
			rq->bytes = 0;
		}
		/* The pieces are only read. */
		rq->iov[rq->pieces++] = (struct iovec){ (void *)(uintptr_t)data, bytes };
	}
	rq->last_run = rq->run;
	rq->bytes += bytes;
}

/* Index of the first page of the batch at or behind @index, from *@hint on. */
static size_t find_page(const struct batch *b, size_t hint, pgoff_t index)
{
	while (hint < b->count && b->pages[hint]->index < index)
		hint++;
	return hint;
}

/*
 * The bytes of one run, page by page, and zeros where there is no page in the batch, unless that
 * would overwrite something.
 */
static void write_run(struct request *rq, const struct batch *b, const struct run *run,
		      size_t *page)
{
	const unsigned bits = b->ip->fs->geom.block_bits;
	uint64_t start = (uint64_t)run->logical << bits,
		 end = start + ((uint64_t)run->count << bits);

	for (uint64_t at = start; at < end;) {
		size_t in_page = at & (PAGE_BYTES - 1);
		size_t bytes = (size_t)min_u64(PAGE_BYTES - in_page, end - at);
		uint64_t place = (run->physical << bits) + (at - start);

		*page = find_page(b, *page, at >> PAGE_BITS);
		if (*page < b->count && b->pages[*page]->index == at >> PAGE_BITS)
			request_add(rq, place, b->pages[*page]->data + in_page, bytes);
		else if (run->kind != RUN_IN_PLACE)
			request_add(rq, place, zeros, bytes);
		at += bytes;
	}
}

static void request_add_batch(struct request *rq, struct batch *b)
{
	size_t page = 0;

	for (size_t i = 0; i < b->runs; i++) {
		rq->run = &b->run[i];
		write_run(rq, b, rq->run, &page);
	}
}

/* What is planned of some files of one file system. */
static void batches_write(struct batch *batches, size_t count)
{
	struct request rq;

	rq.dev = batches[0].ip->fs->dev;
	rq.pieces = 0;
	rq.bytes = rq.offset = 0;
	for (size_t i = 0; i < count; i++)
		request_add_batch(&rq, &batches[i]);
	submit(&rq);
}

/* ---- the size on disk ------------------------------------------------------------------------ */

#define LARGE_FILE_SIZE UINT64_C(0x7fffffff)

int file_need_large(struct handle *h, struct inode *ip, uint64_t size)
{
	if (size <= LARGE_FILE_SIZE ||
	    geom_has_ro_compat(&ip->fs->geom, EXT4_FEATURE_RO_COMPAT_LARGE_FILE))
		return 0;
	return fs_set_ro_compat(h, ip->fs, EXT4_FEATURE_RO_COMPAT_LARGE_FILE);
}

/*
 * B3; @end: of what was written.  Under the lock of the size: truncation changes both.  True if it
 * was raised.
 */
static bool raise_disk_size(struct inode *ip, uint64_t end, uint64_t *ret_size)
{
	bool raised;

	rwlock_write(&ip->xattr_lock);
	end = min_u64(end, ip->size);
	raised = end > inode_disk_size(ip);
	if (raised)
		inode_set_disk_size(ip, end);
	rwlock_write_unlock(&ip->xattr_lock);
	*ret_size = end;
	return raised;
}

static bool disk_size_is_behind(struct inode *ip, uint64_t end)
{
	return min_u64(end, file_shape(ip).size) > inode_disk_size(ip);
}

/* ---- mapping --------------------------------------------------------------------------------- */

static uint64_t run_end(const struct inode *ip, const struct run *run)
{
	return ((uint64_t)run->logical + run->count) << ip->fs->geom.block_bits;
}

/* B2. */
static void cancel_run(struct inode *ip, const struct run *run)
{
	if (run->kind != RUN_NEW)
		return;
	balloc_cancel(ip->fs, &run->taken, run->promised);
	if (run->promised && !delayed_is_simple(&ip->fs->geom))
		delayed_set_promised(ip, run->logical, run->count, true);
}

/* The pages of a run give back what was promised for blocks of the map. */
static void release_map(struct batch *b, const struct run *run)
{
	const unsigned bits = b->ip->fs->geom.block_bits;
	pgoff_t last = (run_end(b->ip, run) - 1) >> PAGE_BITS;

	for (size_t i = find_page(b, 0, ((uint64_t)run->logical << bits) >> PAGE_BITS);
	     i < b->count && b->pages[i]->index <= last; i++) {
		page_lock(b->pages[i]);
		delayed_release_map(b->ip, b->pages[i]);
		page_unlock(b->pages[i]);
	}
}

static int map_new(struct handle *h, struct inode *ip, const struct run *run)
{
	int err = map_insert(h, ip, run->logical, run->count, &run->taken, false);

	if (err == 0 && run->promised)
		delayed_used(ip, run->taken.count);
	return err;
}

static int map_run(struct handle *h, struct batch *b, const struct run *run)
{
	struct inode *ip = b->ip;

	if (run->kind == RUN_NEW && !inode_has_flag(ip, EXT4_EXTENTS_FL))
		release_map(b, run);
	switch (run->kind) {
	case RUN_UNWRITTEN: return map_convert_written(h, ip, run->logical, run->count);
	case RUN_NEW: return map_new(h, ip, run);
	case RUN_IN_CLUSTER:
		return map_insert_in_cluster(h, ip, run->logical, run->count, run->physical, false);
	default: return 0;
	}
}

/* A run in a cluster that an earlier one was to bring shares its fate. */
static void inherit_error(struct batch *b, size_t number)
{
	struct run *run = &b->run[number];

	for (size_t i = number; run->kind == RUN_IN_CLUSTER && run->err == 0 && i-- > 0;) {
		const struct run *other = &b->run[i];

		if (other->kind != RUN_NEW)
			continue;
		if (run->physical >= other->taken.start &&
		    run->physical - other->taken.start < other->taken.count)
			run->err = other->err;
		return;
	}
}

static void fail_runs(struct batch *b, size_t first, size_t end, int err)
{
	for (size_t i = first; i < end; i++) {
		b->run[i].err = first_error(b->run[i].err, err);
		cancel_run(b->ip, &b->run[i]);
	}
}

/* In one handle: runs [@first, @end), of which @changes change the map, and the size. */
static void map_in_handle(struct batch *b, size_t first, size_t end, uint32_t changes)
{
	struct inode *ip = b->ip;
	uint64_t written = 0, size;
	struct handle *h;
	bool stored = changes > 0;
	int err;

	err = handle_start(ip->fs->log,
			   (changes > 0 ? map_credits_for(ip, changes) : 0) + FILE_SIZE_CREDITS,
			   &h);
	if (err < 0) {
		fail_runs(b, first, end, err);
		return;
	}
	for (size_t i = first; i < end; i++) {
		struct run *run = &b->run[i];

		inherit_error(b, i);
		if (run->err == 0)
			run->err = map_run(h, b, run);
		if (run->err == 0) {
			run->done = run->count;
			written = max_u64(written, run_end(ip, run));
		} else {
			cancel_run(ip, run);
		}
	}
	if (raise_disk_size(ip, written, &size)) {
		err = inode_store(h, ip);
		err = first_error(err, file_need_large(h, ip, size));
		stored = true;
	}
	if (!stored)
		file_data_written(ip);
	err = first_error(err, handle_stop(h));
	b->err = first_error(b->err, err);
}

/* How many changes of the map one handle may have, in a small journal too. */
static uint32_t changes_max(struct inode *ip)
{
	uint32_t most = txn_log_credits_max(ip->fs->log) / 2, changes = RUNS_A_HANDLE;

	while (changes > 1 && map_credits_for(ip, changes) + FILE_SIZE_CREDITS > most)
		changes /= 2;
	return changes;
}

/* As many runs as go together: *ret_changes of them change the map. */
static size_t group_end(const struct batch *b, size_t first, uint32_t max, uint32_t *ret_changes)
{
	uint32_t changes = 0;
	size_t end;

	for (end = first; end < b->runs; end++) {
		if (b->run[end].kind == RUN_IN_PLACE)
			continue;
		if (changes == max)
			break;
		changes++;
	}
	*ret_changes = changes;
	return end;
}

/* Nothing is to be mapped. */
static void overwritten(struct batch *b, size_t first, size_t end)
{
	file_data_written(b->ip);
	for (size_t i = first; i < end; i++) {
		if (b->run[i].err == 0)
			b->run[i].done = b->run[i].count;
	}
}

static void batch_map(struct batch *b)
{
	uint32_t max = changes_max(b->ip), changes;
	size_t end;

	for (size_t first = 0; first < b->runs; first = end) {
		end = group_end(b, first, max, &changes);
		if (changes > 0 || disk_size_is_behind(b->ip, run_end(b->ip, &b->run[end - 1])))
			map_in_handle(b, first, end, changes);
		else
			overwritten(b, first, end);
	}
}

/* ---- data=journal ---------------------------------------------------------------------------- */

static int data_verify(const void *data UNUSED, uint32_t bytes UNUSED, blk_t blk UNUSED,
		       const void *arg UNUSED)
{
	return 0;
}

static const struct buf_ops data_ops = { .name = "data block", .verify = data_verify };

/* Is all of block @logical in the batch, from page *@page on? */
static bool has_whole_block(const struct batch *b, size_t page, lblk_t logical)
{
	const unsigned bits = b->ip->fs->geom.block_bits;
	uint64_t first = ((uint64_t)logical << bits) >> PAGE_BITS;
	uint64_t pages = max_u64(1, (UINT64_C(1) << bits) >> PAGE_BITS);

	page = find_page(b, page, first);
	return page + pages <= b->count && b->pages[page]->index == first &&
	       b->pages[page + pages - 1]->index == first + pages - 1;
}

/* Brings what the batch has of block @logical into the buffer. */
static void copy_to_block(const struct batch *b, size_t *page, lblk_t logical, uint8_t *to)
{
	const unsigned bits = b->ip->fs->geom.block_bits;
	uint64_t start = (uint64_t)logical << bits, end = start + (UINT64_C(1) << bits);

	for (uint64_t at = start; at < end;) {
		size_t in_page = at & (PAGE_BYTES - 1);
		size_t bytes = (size_t)min_u64(PAGE_BYTES - in_page, end - at);

		*page = find_page(b, *page, at >> PAGE_BITS);
		if (*page < b->count && b->pages[*page]->index == at >> PAGE_BITS)
			memcpy(to + (at - start), b->pages[*page]->data + in_page, bytes);
		at += bytes;
	}
}

/*
 * Block @blk as it is now, to be changed in part: what this transaction has changed already, or
 * what is on the device.  A buffer that is older than that may say something else: only with
 * data=journal does everything that is written go through buffers.
 */
static int data_block_get(struct handle *h, struct uext4_fs *fs, blk_t blk, struct buf **ret_buf)
{
	struct buf *buf;
	int err;

	if (fs->data_mode == FS_DATA_JOURNAL) {
		err = buf_read(fs->cache, blk, &data_ops, 0, NULL, 0, &buf);
		if (err < 0)
			return err;
	} else {
		buf = buf_lookup(fs->cache, blk);
		if (buf != NULL && txn_log_has(fs->log, buf)) {
			*ret_buf = buf;
			return handle_get_write(h, buf);
		}
		buf_put(buf);
		err = buf_create(fs->cache, blk, &data_ops, 0, &buf);
		if (err < 0)
			return err;
		*ret_buf = buf;
		err = handle_get_create(h, buf); /* zeroes it */
		if (err == 0)
			err = dev_read(fs->dev, blk << fs->geom.block_bits, buf->data, buf->bytes);
		return err;
	}
	*ret_buf = buf;
	return handle_get_write(h, buf);
}

static int journal_block(struct handle *h, const struct batch *b, const struct run *run,
			 uint32_t number, size_t *page)
{
	struct cache *cache = b->ip->fs->cache;
	lblk_t logical = run->logical + number;
	blk_t blk = run->physical + number;
	struct buf *buf BUF_SCOPE = NULL;
	int err;

	if (run->kind == RUN_IN_PLACE && !has_whole_block(b, *page, logical)) {
		err = data_block_get(h, b->ip->fs, blk, &buf);
	} else {
		err = buf_create(cache, blk, &data_ops, 0, &buf);
		if (err == 0)
			err = handle_get_create(h, buf);
	}
	if (err < 0)
		return err;
	copy_to_block(b, page, logical, buf->data);
	handle_dirty(h, buf);
	return 0;
}

/*
 * The first @count blocks of a run, which is cut behind them: its data, then its mapping.  What is
 * in the log and not mapped in the end is forgotten.
 */
static int journal_run(struct handle *h, struct batch *b, struct run *run, size_t *page)
{
	uint32_t done = 0;
	int err = 0;

	while (done < run->count && err == 0) {
		err = journal_block(h, b, run, done, page);
		done += err == 0;
	}
	if (err == 0)
		err = map_run(h, b, run);
	if (err < 0 && run->kind != RUN_IN_PLACE) {
		while (done-- > 0) {
			int undo = handle_forget(h, run->physical + done);

			if (undo < 0)
				txn_log_abort(b->ip->fs->log, undo);
		}
	}
	return err;
}

/* Blocks that one handle takes beside the credits of a mapping. */
static uint32_t journal_blocks_max(struct inode *ip)
{
	uint32_t most = txn_log_credits_max(ip->fs->log) / 2;
	uint32_t fixed = map_credits(ip) + FILE_SIZE_CREDITS;
	uint32_t ratio = ip->fs->geom.cluster_ratio;
	uint32_t blocks = most > fixed + ratio ? most - fixed : ratio;

	return (uint32_t)min_u64(blocks, 1024) & ~(ratio - 1);
}

/* The first part of @run that fits into a handle; @run becomes the rest. */
static struct run cut_run(struct inode *ip, struct run *run, uint32_t most)
{
	const uint32_t before = run->logical & (ip->fs->geom.cluster_ratio - 1);
	struct run head = *run;

	if (run->count > most - before)
		head.count = most - before;
	if (run->kind == RUN_NEW) {
		head.taken.count = (uint32_t)round_up_pow2(before + head.count,
							   ip->fs->geom.cluster_ratio);
		run->taken.start += head.taken.count;
		run->taken.count -= head.taken.count;
	}
	run->logical += head.count;
	run->physical += head.count;
	run->count -= head.count;
	return head;
}

/* After an error nothing of @run is mapped, and what was taken for it is given back. */
static int journal_in_handle(struct batch *b, struct run *run, size_t *page)
{
	struct inode *ip = b->ip;
	struct handle *h;
	uint64_t size;
	int err;

	err = handle_start(ip->fs->log, run->count + map_credits(ip) + FILE_SIZE_CREDITS, &h);
	if (err < 0) {
		cancel_run(ip, run);
		return err;
	}
	err = journal_run(h, b, run, page);
	if (err < 0) {
		cancel_run(ip, run);
	} else if (raise_disk_size(ip, run_end(ip, run), &size)) {
		b->err = first_error(b->err, inode_store(h, ip));
		b->err = first_error(b->err, file_need_large(h, ip, size));
	}
	/* What fdatasync has to wait for, though the inode may not have changed. */
	atomic_store(&ip->datasync_tid, handle_tid(h));
	atomic_store(&ip->sync_tid, handle_tid(h));
	b->err = first_error(b->err, handle_stop(h));
	return err;
}

static void batch_journal(struct batch *b)
{
	uint32_t most = journal_blocks_max(b->ip);
	size_t page = 0;

	for (size_t i = 0; i < b->runs; i++) {
		struct run *run = &b->run[i], rest = *run;

		inherit_error(b, i);
		while (rest.count > 0 && run->err == 0) {
			struct run head = cut_run(b->ip, &rest, most);

			run->err = journal_in_handle(b, &head, &page);
			if (run->err == 0)
				run->done += head.count;
		}
		if (rest.count > 0)
			cancel_run(b->ip, &rest);
	}
}

/* ---- ending ---------------------------------------------------------------------------------- */

/* Parts of page @index that lie in [@start, @end) of the file. */
static uint8_t parts_between(const struct geom *g, pgoff_t index, uint64_t start, uint64_t end)
{
	uint64_t page_start = index << PAGE_BITS;

	start = max_u64(start, page_start);
	end = min_u64(end, page_start + PAGE_BYTES);
	return start < end ? parts_of(g, start - page_start, end - page_start) : 0;
}

/* What a page learns of a run: that parts of it have places, or an error. */
static void settle_page(struct batch *b, size_t at, const struct run *run)
{
	const struct geom *g = &b->ip->fs->geom;
	uint64_t start = (uint64_t)run->logical << g->block_bits;
	uint64_t done = start + ((uint64_t)run->done << g->block_bits), end = run_end(b->ip, run);
	uint8_t parts = parts_between(g, b->pages[at]->index, start, done) & b->reserved[at];

	if (parts != 0) {
		page_lock(b->pages[at]);
		delayed_done(b->ip, b->pages[at], parts);
		page_unlock(b->pages[at]);
	}
	if (parts_between(g, b->pages[at]->index, done, end) & b->parts[at])
		b->errs[at] = first_error(b->errs[at], run->err);
}

static void batch_settle(struct batch *b)
{
	size_t first = 0;

	for (size_t i = 0; i < b->runs; i++) {
		const struct run *run = &b->run[i];
		pgoff_t last = (run_end(b->ip, run) - 1) >> PAGE_BITS;

		first = find_page(b, first,
				  ((uint64_t)run->logical << b->ip->fs->geom.block_bits) >>
					  PAGE_BITS);
		for (size_t at = first; at < b->count && b->pages[at]->index <= last; at++)
			settle_page(b, at, run);
	}
}

/* Returns the first error. */
static int batch_end(struct batch *b)
{
	int err = 0;
	size_t end;

	for (size_t first = 0; first < b->count; first = end) {
		for (end = first; end < b->count && b->errs[end] == b->errs[first]; end++)
			;
		pages_end_writeback(b->pages + first, b->parts + first, end - first,
				    b->errs[first]);
		err = first_error(err, b->errs[first]);
	}
	pages_put(b->pages, b->count);
	b->count = 0;
	return err;
}

/*
 * In a scope (fs/scope.c) bytes that could be seen before must stay on the device until it commits.
 * New blocks nobody sees, if it does not.
 */
static bool overwrites_in_scope(const struct batch *b)
{
	if (!b->ip->fs->in_scope)
		return false;
	for (size_t i = 0; i < b->runs; i++) {
		if (b->run[i].kind == RUN_IN_PLACE)
			return true;
	}
	return false;
}

/* What was not planned before, and the end. */
static int batch_run(struct batch *b)
{
	for (;;) {
		batch_plan(b);
		if (b->runs == 0)
			break;
		if (file_is_journalled(b->ip) || overwrites_in_scope(b)) {
			batch_journal(b);
		} else {
			batches_write(b, 1);
			batch_map(b);
		}
		batch_settle(b);
	}
	return first_error(batch_end(b), b->err);
}

/* The disk lies about where the file is, or what is free. */
static int note_damage(struct inode *ip, int err)
{
	return err == -EFSCORRUPTED || err == -EFSBADCRC ? fs_error(ip->fs, err, ip->ino, 0) : err;
}

static int write_blocks(struct inode *ip, pgoff_t first, pgoff_t last, bool wait)
{
	struct batch_room room;
	struct batch b;
	int err = 0;

	room.pages_used = room.runs_used = 0;
	for (;;) {
		batch_init(&b, ip, &room, BATCH_PAGES);
		batch_collect(&b, &first, last, wait);
		if (b.count == 0)
			return err;
		err = first_error(err, batch_run(&b));
	}
}

/* B4 where it matters. */
static int write_blocks_alone(struct inode *ip, pgoff_t first, pgoff_t last, bool wait)
{
	int err;

	if (delayed_is_simple(&ip->fs->geom))
		return write_blocks(ip, first, last, wait);
	mutex_lock(&ip->writepages_lock);
	err = write_blocks(ip, first, last, wait);
	mutex_unlock(&ip->writepages_lock);
	return err;
}

static int written(struct inode *ip, int err)
{
	/* Whoever closed it while this was dirty has done the same, in vain. */
	if (atomic_load(&ip->writers) == 0)
		balloc_discard_prealloc(ip);
	return note_damage(ip, err);
}

int file_writepages(struct mapping *m, pgoff_t first, pgoff_t last, bool wait)
{
	struct inode *ip = container_of(m, struct inode, pages);
	bool done = false;
	int err;

	if (file_shape(ip).state == INODE_INLINE) {
		err = inline_flush(ip, wait, &done);
		if (done)
			return note_damage(ip, err);
	}
	return written(ip, write_blocks_alone(ip, first, last, wait));
}

/* ---- several files --------------------------------------------------------------------------- */

/* Of a file so many pages go together with those of others. */
#define TOGETHER_PAGES 64u

static bool may_go_together(struct inode *ip)
{
	return delayed_is_simple(&ip->fs->geom) && file_shape(ip).state == INODE_BLOCKS &&
	       !file_is_journalled(ip) && !ip->fs->in_scope;
}

/* The first files of a row, planned; returns how many, as far as there is room. */
static size_t plan_together(struct mapping *const *ms, size_t count, struct batch *batches,
			    struct batch_room *room)
{
	size_t n = 0;

	room->pages_used = room->runs_used = 0;
	for (; n < count && room->pages_used < BATCH_PAGES && room->runs_used < RUNS_MAX; n++) {
		struct batch *b = &batches[n];
		pgoff_t at = 0;

		batch_init(b, container_of(ms[n], struct inode, pages), room, TOGETHER_PAGES);
		if (!may_go_together(b->ip))
			continue;
		batch_collect(b, &at, UINT64_MAX, false);
		batch_plan(b);
		b->runs_max = b->runs; /* the rest of the room is for others */
		room->pages_used += b->count;
		room->runs_used += b->runs;
	}
	return n;
}

/* One of the files, whose planned runs were written: these are mapped, the rest goes alone. */
static int finish_together(struct mapping *m, struct batch *b)
{
	size_t count = b->count;
	int err;

	if (count == 0) /* others write it, or it could not go together */
		return file_writepages(m, 0, UINT64_MAX, false);
	batch_map(b);
	batch_settle(b);
	err = batch_run(b);
	if (count == b->pages_max)
		err = first_error(err, write_blocks(b->ip, 0, UINT64_MAX, false));
	return written(b->ip, err);
}

int file_writepages_together(struct mapping *const *ms, size_t count)
{
	struct batch batches[MAPPINGS_TOGETHER];
	struct batch_room room;
	int err = 0;

	assert(count <= MAPPINGS_TOGETHER);
	for (size_t done = 0, n; done < count; done += n) {
		n = plan_together(ms + done, count - done, batches, &room);
		batches_write(batches, n);
		for (size_t i = 0; i < n; i++)
			err = first_error(err, finish_together(ms[done + i], &batches[i]));
	}
	return err;
}
