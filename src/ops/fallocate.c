/* SPDX-License-Identifier: MIT */
/*
 * fallocate(2): space for a file before its data, holes, and ranges of zeros.
 *
 * Inline files become BLOCKS first.  Block-mapped ones have no unwritten blocks, so only holes can
 * be made in them.
 *
 *  H1  Data in memory has its place before blocks are allocated beside it: what is dirty in the
 *      clusters of the range is written first.
 *  H2  The bytes of blocks that are only in part in the range become zeros through the page cache;
 *      whole blocks change in the map, with their pages thrown away before, under `invalidate`
 *      exclusive, so that nobody reads the old ones in between.
 *      Stores through mappings wait for it too, from the first look at the map on: they would
 *      promise places to what is no hole any more.
 *  H3  Each step leaves a state that is right for itself: a crash finds the range done in part.
 */
#include "ops/file_priv.h"

#include "base/diag.h"
#include "fs/quota.h"

/* Several removals share a handle where its credits allow. */
#define REMOVALS_A_HANDLE 8u

/* What is asked for. */
struct range {
	struct inode *ip;
	uint32_t flags;
	uint64_t start, end; /* bytes */
	bool unprivileged;
};

/* Blocks that are in it as a whole, [first, end); none if first >= end. */
struct whole {
	lblk_t first, end;
};

static struct whole whole_blocks(const struct range *r)
{
	const struct geom *g = &r->ip->fs->geom;

	return (struct whole){
		.first = (lblk_t)div_round_up(r->start, g->block_size),
		.end = (lblk_t)(r->end >> g->block_bits),
	};
}

/* ---- space ----------------------------------------------------------------------------------- */

static int allocate_hole(struct inode *ip, lblk_t logical, uint32_t count, uint32_t *ret_done)
{
	struct map_ext ext;
	struct handle *h;
	int err;

	err = handle_start(ip->fs->log, map_credits(ip), &h);
	if (err < 0)
		return err;
	err = map_alloc(h, ip, logical, count, true, BALLOC_DATA | BALLOC_ROOT, &ext);
	if (err == 0)
		*ret_done = ext.count;
	return first_error(err, handle_stop(h));
}

/* Every hole in the blocks that the range touches becomes unwritten. */
static int allocate_range(const struct range *r)
{
	const struct geom *g = &r->ip->fs->geom;
	uint64_t at = r->start >> g->block_bits, end = div_round_up(r->end, g->block_size);

	while (at < end) { /* each turn gets one block further at least */
		struct map_ext ext;
		uint32_t count;
		int err;

		err = map_read(r->ip, (lblk_t)at, &ext);
		if (err < 0)
			return err;
		count = (uint32_t)min_u64(ext.count, end - at);
		if (ext.state == MAP_HOLE)
			err = allocate_hole(r->ip, (lblk_t)at, count, &count);
		if (err < 0)
			return err;
		at += count;
	}
	return 0;
}

/* ---- zeros ----------------------------------------------------------------------------------- */

/* Does anything but zeros lie, or is to be written, at these parts? */
static int has_data(struct inode *ip, const struct page *page, uint8_t parts, uint64_t at,
		    bool *ret)
{
	struct map_ext ext;
	int err;

	*ret = true;
	if (page->dirty & parts)
		return 0;
	err = map_read(ip, (lblk_t)(at >> ip->fs->geom.block_bits), &ext);
	*ret = ext.state == MAP_WRITTEN;
	return err;
}

/* Bytes of one page in one block. */
static int zero_in_page(struct inode *ip, uint64_t at, uint64_t end)
{
	size_t from = at & (PAGE_BYTES - 1), to = from + (size_t)(end - at);
	uint8_t parts = parts_of(&ip->fs->geom, from, to);
	struct page *page;
	bool data;
	int err;

	err = file_grab_idle(ip, at >> PAGE_BITS, &page);
	if (err == 0)
		err = file_page_read(ip, page);
	if (err < 0)
		return err;
	err = has_data(ip, page, parts, at, &data);
	if (err == 0 && data)
		err = page_set_dirty(page, parts);
	if (err == 0)
		page_zero(page, from, to - from);
	page_unlock_put(page);
	return err;
}

/* H2: within one block, or two. */
static int zero_bytes(struct inode *ip, uint64_t at, uint64_t end)
{
	uint64_t unit = min_u64(PAGE_BYTES, ip->fs->geom.block_size), next;
	int err = 0;

	for (; at < end && err == 0; at = next) {
		next = min_u64(end, round_down_pow2(at, unit) + unit);
		err = zero_in_page(ip, at, next);
	}
	return err;
}

static int zero_edges(const struct range *r)
{
	const unsigned bits = r->ip->fs->geom.block_bits;
	struct whole w = whole_blocks(r);
	int err;

	if (w.first >= w.end)
		return zero_bytes(r->ip, r->start, r->end);
	err = zero_bytes(r->ip, r->start, (uint64_t)w.first << bits);
	return err < 0 ? err : zero_bytes(r->ip, (uint64_t)w.end << bits, r->end);
}

/* Requires `invalidate` exclusive. */
static void drop_whole(struct inode *ip, const struct whole *w)
{
	const unsigned bits = ip->fs->geom.block_bits;
	uint64_t start = (uint64_t)w->first << bits, end = (uint64_t)w->end << bits;
	uint64_t inner = round_up_pow2(start, PAGE_BYTES),
		 inner_end = round_down_pow2(end, PAGE_BYTES);

	if (inner > inner_end) { /* within one page */
		file_forget(ip, start, end);
		return;
	}
	if (start < inner)
		file_forget(ip, start, inner);
	if (inner < inner_end)
		mapping_drop(&ip->pages, inner >> PAGE_BITS, (inner_end >> PAGE_BITS) - 1);
	if (inner_end < end)
		file_forget(ip, inner_end, end);
}

/*
 * After drop_whole(), when the blocks could not be changed: where a page lies in them only in part
 * its zeros are in memory alone, and have to be written like others.  @err.
 */
static COLD int keep_zeros(struct inode *ip, const struct whole *w, int err)
{
	const unsigned bits = ip->fs->geom.block_bits;
	uint64_t start = (uint64_t)w->first << bits, end = (uint64_t)w->end << bits;
	uint64_t inner = min_u64(end, round_up_pow2(start, PAGE_BYTES));
	uint64_t inner_end = max_u64(inner, round_down_pow2(end, PAGE_BYTES));

	if (zero_bytes(ip, start, inner) < 0 || zero_bytes(ip, inner_end, end) < 0)
		txn_log_abort(ip->fs->log, err);
	return err;
}

/* ---- holes ----------------------------------------------------------------------------------- */

static int remove_whole(struct inode *ip, const struct whole *w)
{
	uint32_t credits = (uint32_t)min_u64(map_credits_for(ip, REMOVALS_A_HANDLE),
					     txn_log_credits_max(ip->fs->log) / 2);
	uint32_t left = w->end - w->first;
	struct handle *h;
	int err;

	if (credits < map_credits(ip))
		credits = map_credits(ip);
	err = handle_start(ip->fs->log, credits, &h);
	if (err < 0)
		return err;
	while (left > 0 && err == 0) {
		err = map_remove(h, ip, w->first, left, &left);
		if (err == 0 && left > 0)
			err = handle_restart(h, credits);
	}
	return first_error(err, handle_stop(h));
}

static int flush_clusters(struct inode *ip, const struct whole *w)
{
	const unsigned bits = ip->fs->geom.block_bits;
	int err;

	err = file_flush_cluster(ip, (uint64_t)w->first << bits, false);
	return err < 0 ? err : file_flush_cluster(ip, (uint64_t)w->end << bits, true);
}

/* ---- ranges of zeros ------------------------------------------------------------------------- */

static int unwrite(struct inode *ip, lblk_t logical, uint32_t count)
{
	struct handle *h;
	int err;

	err = handle_start(ip->fs->log, map_credits(ip), &h);
	if (err < 0)
		return err;
	err = map_convert_unwritten(h, ip, logical, count);
	return first_error(err, handle_stop(h));
}

/* Nothing in it is a hole. */
static int unwrite_whole(struct inode *ip, const struct whole *w)
{
	lblk_t at = w->first;

	while (at < w->end) {
		struct map_ext ext;
		uint32_t count;
		int err;

		err = map_read(ip, at, &ext);
		if (err < 0)
			return err;
		count = (uint32_t)min_u64(min_u64(ext.count, w->end - at), MAP_COUNT_MAX);
		if (ext.state == MAP_WRITTEN)
			err = unwrite(ip, at, count);
		if (err < 0)
			return err;
		at += count;
	}
	return 0;
}

/* ---- both ------------------------------------------------------------------------------------ */

/* What becomes of the whole blocks of a range. */
enum clear { CLEAR_TO_HOLE, CLEAR_TO_UNWRITTEN };

/*
 * M5: a page is pinned that goes, or of which blocks go, as stores into it do not ask for new ones;
 * as cuts_pinned() in truncate.c.
 */
static bool takes_pinned(const struct range *r)
{
	const unsigned bits = r->ip->fs->geom.block_bits;
	struct whole w = whole_blocks(r);

	return w.first < w.end &&
	       mapping_is_pinned(&r->ip->pages, ((uint64_t)w.first << bits) >> PAGE_BITS,
				 (((uint64_t)w.end << bits) - 1) >> PAGE_BITS);
}

/* Requires `invalidate` exclusive. */
static int clear_range(const struct range *r, enum clear what)
{
	struct whole w = whole_blocks(r);
	struct inode *ip = r->ip;
	int err;

	if (takes_pinned(r))
		return -EAGAIN;
	err = zero_edges(r);
	if (err < 0 || w.first >= w.end)
		return err;
	if (what == CLEAR_TO_HOLE)
		err = flush_clusters(ip, &w);
	if (err == 0)
		err = file_settle_size(ip);
	if (err < 0)
		return err;
	if (what == CLEAR_TO_HOLE)
		balloc_discard_prealloc(ip);
	drop_whole(ip, &w);
	err = what == CLEAR_TO_HOLE ? remove_whole(ip, &w) : unwrite_whole(ip, &w);
	return err < 0 ? keep_zeros(ip, &w, err) : 0;
}

/* As the kernel: not behind the page of the file's end. */
static int punch(struct range *r)
{
	struct inode *ip = r->ip;
	int err;

	if (r->start >= ip->size)
		return 0;
	if (r->end > ip->size)
		r->end = round_down_pow2(ip->size, PAGE_BYTES) + PAGE_BYTES;
	if (ip->state != INODE_BLOCKS) {
		err = inline_convert(ip, true);
		if (err < 0)
			return err;
	}
	rwlock_write(&ip->invalidate);
	err = clear_range(r, CLEAR_TO_HOLE);
	rwlock_write_unlock(&ip->invalidate);
	return err;
}

/* ---- the call -------------------------------------------------------------------------------- */

static bool has_unwritten(const struct inode *ip)
{
	return ip->state == INODE_BLOCKS
		       ? inode_has_flag(ip, EXT4_EXTENTS_FL)
		       : geom_has_incompat(&ip->fs->geom, EXT4_FEATURE_INCOMPAT_EXTENTS);
}

/* Requires `invalidate` exclusive. */
static int allocate_blocks(const struct range *r)
{
	struct inode *ip = r->ip;
	uint64_t unit = (uint64_t)ip->fs->geom.block_size << ip->fs->geom.cluster_ratio_bits;
	int err;

	err = mapping_flush(&ip->pages, round_down_pow2(r->start, unit) >> PAGE_BITS,
			    (round_up_pow2(r->end, unit) - 1) >> PAGE_BITS); /* H1 */
	if (err == 0)
		err = allocate_range(r);
	if (err == 0 && (r->flags & UEXT4_FALLOC_ZERO_RANGE))
		err = clear_range(r, CLEAR_TO_UNWRITTEN);
	return err;
}

/* Space, and with ZERO_RANGE zeros. */
static int allocate(const struct range *r)
{
	struct inode *ip = r->ip;
	int err = 0;

	if (ip->state != INODE_BLOCKS)
		err = inline_convert(ip, true);
	if (err < 0)
		return err;
	rwlock_write(&ip->invalidate);
	err = allocate_blocks(r);
	rwlock_write_unlock(&ip->invalidate);
	if (err == 0 && !(r->flags & UEXT4_FALLOC_KEEP_SIZE) && r->end > ip->size)
		err = file_grow(ip, r->end);
	return err;
}

static int fallocate_locked(struct range *r)
{
	struct inode *ip = r->ip;
	int err;

	if (inode_has_flag(ip, EXT4_IMMUTABLE_FL | EXT4_VERITY_FL))
		return fail(-EPERM, "inode %u is immutable", ip->ino);
	if (inode_has_flag(ip, EXT4_APPEND_FL) && (r->flags & ~(uint32_t)UEXT4_FALLOC_KEEP_SIZE))
		return fail(-EPERM, "inode %u is append-only", ip->ino);
	if (!(r->flags & UEXT4_FALLOC_PUNCH_HOLE) && !has_unwritten(ip))
		return fail(-EOPNOTSUPP, "inode %u: a block map has no unwritten blocks", ip->ino);
	err = file_check_size(ip, r->end);
	if (err == 0)
		err = quota_load(ip);
	if (err == 0)
		err = file_finish_cut(ip);
	if (err == 0)
		err = file_drop_privileges(ip, r->unprivileged);
	if (err == 0)
		err = r->flags & UEXT4_FALLOC_PUNCH_HOLE ? punch(r) : allocate(r);
	if (err == 0)
		file_touch(ip);
	return first_error(err, file_fit_frames(ip));
}

static int check_call(uint32_t flags, uint64_t offset, uint64_t len, uint64_t *ret_end)
{
	const uint32_t punch_flags = UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_KEEP_SIZE;

	if (len == 0)
		return fail(-EINVAL, "a range of no bytes");
	if ((flags & UEXT4_FALLOC_PUNCH_HOLE) && flags != punch_flags)
		return fail(-EOPNOTSUPP, "a hole keeps the size, and is nothing else");
	if (!add_ok(offset, len, ret_end) || *ret_end > INT64_MAX)
		return fail(-EFBIG, "no file is so large");
	return 0;
}

int file_fallocate(struct inode *ip, uint32_t flags, uint64_t offset, uint64_t len)
{
	struct range r = {
		.ip = ip,
		.flags = flags & ~FILE_FALLOCATE_KILL_PRIV,
		.start = offset,
		.unprivileged = flags & FILE_FALLOCATE_KILL_PRIV,
	};
	unsigned tries = 0;
	int err;

	err = check_call(r.flags, offset, len, &r.end);
	if (err < 0)
		return err;
	for (;;) {
		err = fs_write_begin(ip->fs);
		if (err < 0)
			return err;
		inode_lock(ip, INODE_CHILD);
		err = fallocate_locked(&r);
		inode_unlock(ip);
		fs_write_end(ip->fs);
		if (err == -EAGAIN) /* M5 */
			mapping_wait_unpinned(&ip->pages, offset >> PAGE_BITS,
					      (r.end - 1) >> PAGE_BITS);
		else if (!file_retry_nospc(ip, err, &tries))
			return err;
	}
}
