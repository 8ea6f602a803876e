/* SPDX-License-Identifier: MIT */
/*
 * The size of a regular file: truncation both ways.
 *
 *  T1  Shrinking: what is cut off the last block is zeros on disk first; then, in one handle, the
 *      inode is an orphan and its size on disk is the new one; then pages go, then blocks, in as
 *      many handles as it takes.  A crash in between is finished at the next mount (J11), and what
 *      failed in between before the file grows again (INODE_HALF_CUT).
 *  T2  Pages are thrown away only after their writeback, so nothing is on its way to a block that
 *      is freed, and the size in memory is lowered before, so nobody reads what is behind it.
 *  T3  Growing: what is behind the old end in its block is zeros on disk first.  All of it is one
 *      step for stores through mappings, which wait for `invalidate` (S11).
 *  T4  A cluster that data in memory counts on (delayed.c, D3) is not freed under it: that data is
 *      written first.
 *
 *  T5  What shrinks holds `invalidate` exclusive from the first zero to the last block that is
 *      freed: a store through a mapping comes before all of it, or finds what is left.
 *
 * All of it holds the inode's lock, exclusive, so no write makes a page dirty meanwhile.
 */
#include "ops/file_priv.h"

#include "base/diag.h"
#include "fs/quota.h"

#include <inttypes.h>

/* ---- sizes ----------------------------------------------------------------------------------- */

int file_check_size(struct inode *ip, uint64_t size)
{
	uint64_t most = file_size_max(ip);

	if (size > most)
		return fail(-EFBIG, "inode %u: a file of %" PRIu64 " bytes is the largest", ip->ino,
			    most);
	return 0;
}

/*
 * In memory and on disk, also if what is below was not written yet: that may be thrown away, and
 * then nobody would raise the size on disk any more.
 */
static void set_sizes(struct inode *ip, uint64_t size, uint64_t disk_size)
{
	rwlock_write(&ip->xattr_lock);
	ip->size = size;
	inode_set_disk_size(ip, disk_size);
	rwlock_write_unlock(&ip->xattr_lock);
}

/* Both sizes are @size, stored; or as they were. */
static int change_sizes(struct handle *h, struct inode *ip, uint64_t size)
{
	uint64_t old = ip->size, old_disk = inode_disk_size(ip);
	int err;

	err = file_need_large(h, ip, size);
	if (err < 0)
		return err;
	set_sizes(ip, size, size);
	inode_touch(ip, INODE_MTIME | INODE_CTIME);
	err = inode_store(h, ip);
	if (err < 0)
		set_sizes(ip, old, old_disk);
	return err;
}

static int store_size(struct inode *ip, uint64_t size)
{
	struct handle *h;
	int err;

	err = handle_start(ip->fs->log, FILE_SIZE_CREDITS, &h);
	if (err < 0)
		return err;
	err = change_sizes(h, ip, size);
	return first_error(err, handle_stop(h));
}

int file_settle_size(struct inode *ip)
{
	if (ip->state != INODE_BLOCKS || inode_disk_size(ip) >= ip->size)
		return 0;
	return store_size(ip, ip->size);
}

void file_touch(struct inode *ip)
{
	inode_touch(ip, INODE_MTIME | INODE_CTIME);
	atomic_fetch_or(&ip->flags, INODE_DIRTY_TIMES);
}

static int zero_tail_on_disk(struct inode *ip, uint64_t at, enum file_tail tail)
{
	const struct geom *g = &ip->fs->geom;
	uint64_t end = round_up_pow2(at, max_u64(g->block_size, PAGE_BYTES));
	bool dirty;
	int err;

	err = file_zero_tail(ip, at, tail, &dirty);
	if (err < 0 || !dirty)
		return err;
	return mapping_flush(&ip->pages, at >> PAGE_BITS, (end - 1) >> PAGE_BITS);
}

int file_grow(struct inode *ip, uint64_t size)
{
	int err;

	err = mapping_extend_frames(&ip->pages, div_round_up(size, PAGE_BYTES)); /* M8 */
	if (err < 0)
		return err;
	rwlock_write(&ip->invalidate);
	err = zero_tail_on_disk(ip, ip->size, FILE_TAIL_PAGE); /* T3 */
	if (err == 0)
		err = file_grow_pinned(ip, size);
	if (err == 0)
		err = store_size(ip, size);
	rwlock_write_unlock(&ip->invalidate);
	return err;
}

int file_fit_frames(struct inode *ip)
{
	struct frames *f = mapping_frames(&ip->pages);
	pgoff_t pages = div_round_up(ip->size, PAGE_BYTES);
	int err = 0;

	if (f == NULL || atomic_load(&f->pages) <= pages)
		return 0;
	/* Zeros in the rest of a block that is larger than a page. */
	if (ip->state == INODE_BLOCKS)
		err = mapping_flush(&ip->pages, pages, UINT64_MAX);
	rwlock_write(&ip->invalidate);
	mapping_drop(&ip->pages, pages, UINT64_MAX);
	mapping_cut_frames(&ip->pages, pages);
	rwlock_write_unlock(&ip->invalidate);
	return err;
}

/* ---- shrinking ------------------------------------------------------------------------------- */

int file_flush_cluster(struct inode *ip, uint64_t at, bool behind)
{
	const struct geom *g = &ip->fs->geom;
	uint64_t cluster = (uint64_t)g->block_size << g->cluster_ratio_bits;
	uint64_t start = round_down_pow2(at, cluster);

	if (g->cluster_ratio == 1 || start == at)
		return 0;
	return behind ? mapping_flush(&ip->pages, at >> PAGE_BITS,
				      (start + cluster - 1) >> PAGE_BITS)
		      : mapping_flush(&ip->pages, start >> PAGE_BITS, (at - 1) >> PAGE_BITS);
}

/* Are there blocks behind byte @size? */
static int has_blocks_behind(struct inode *ip, uint64_t size, bool *ret)
{
	uint64_t first = div_round_up(size, ip->fs->geom.block_size);
	struct map_ext ext;
	int err;

	*ret = false;
	if (first >= UINT32_MAX)
		return 0;
	err = map_read(ip, (lblk_t)first, &ext);
	if (err == 0)
		*ret = ext.state != MAP_HOLE || ext.logical + ext.count < UINT32_MAX;
	return err;
}

/* One handle: the new size, and the orphan, as more remains to be done. */
static int lower_size(struct inode *ip, uint64_t size)
{
	struct handle *h;
	int err;

	err = handle_start(ip->fs->log, ORPHAN_CREDITS + FILE_SIZE_CREDITS, &h);
	if (err < 0)
		return err;
	err = orphan_add(h, ip);
	if (err == 0)
		err = change_sizes(h, ip, size);
	return first_error(err, handle_stop(h));
}

static int end_orphan(struct inode *ip)
{
	struct handle *h;
	int err;

	/* Without links it stays one. */
	if (atomic_load(&ip->flags) & INODE_UNLINKED)
		return 0;
	err = handle_start(ip->fs->log, ORPHAN_CREDITS + INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	err = orphan_remove(h, ip);
	if (err == 0)
		err = inode_store_meta(h, ip);
	return first_error(err, handle_stop(h));
}

/*
 * M5: what is behind @size is pinned.  Who asks holds `invalidate` exclusive: a pin that comes
 * later finds the end of the file before it.
 */
static bool cuts_pinned(struct inode *ip, uint64_t size)
{
	return mapping_is_pinned(&ip->pages, div_round_up(size, PAGE_BYTES), UINT64_MAX);
}

/* What is behind the end, and then it is no orphan any more.  `invalidate` exclusive. */
static int free_behind(struct inode *ip)
{
	bool behind;
	int err;

	err = has_blocks_behind(ip, ip->size, &behind);
	if (err == 0 && behind)
		err = inode_free_blocks(ip, ip->size);
	if (err == 0)
		err = end_orphan(ip);
	if (err == 0)
		atomic_fetch_and(&ip->flags, ~(uint32_t)INODE_HALF_CUT);
	return err;
}

/* What of the last page lies in blocks that go. */
static void drop_rest_of_page(struct inode *ip, uint64_t size)
{
	uint64_t at = round_up_pow2(size, ip->fs->geom.block_size);
	uint64_t end = round_up_pow2(size, PAGE_BYTES);

	if (at < end)
		file_forget(ip, at, end);
}

/* T5.  `invalidate` exclusive. */
static int cut_blocks(struct inode *ip, uint64_t size)
{
	int err;

	if (cuts_pinned(ip, size))
		return -EAGAIN;
	err = file_flush_cluster(ip, size, false);
	if (err == 0)
		err = zero_tail_on_disk(ip, size, FILE_TAIL_BLOCK);
	if (err == 0)
		err = lower_size(ip, size);
	if (err < 0)
		return err;
	drop_rest_of_page(ip, size);
	/* Writeback that is under way may still map something: only then is the map final (T2). */
	mapping_drop(&ip->pages, div_round_up(size, PAGE_BYTES), UINT64_MAX);
	atomic_fetch_or(&ip->flags, INODE_HALF_CUT);
	return free_behind(ip);
}

int file_finish_cut(struct inode *ip)
{
	int err;

	if (likely(!(atomic_load(&ip->flags) & INODE_HALF_CUT)))
		return 0;
	rwlock_write(&ip->invalidate);
	err = free_behind(ip);
	rwlock_write_unlock(&ip->invalidate);
	return err;
}

static int shrink_blocks(struct inode *ip, uint64_t size)
{
	int err;

	balloc_discard_prealloc(ip);
	rwlock_write(&ip->invalidate);
	err = cut_blocks(ip, size);
	rwlock_write_unlock(&ip->invalidate);
	return err;
}

/* Also where the size does not change: what fallocate() put behind it goes. */
static int set_size_of_blocks(struct inode *ip, uint64_t size)
{
	bool behind;
	int err;

	if (size > ip->size)
		return file_grow(ip, size);
	if (size < ip->size)
		return shrink_blocks(ip, size);
	err = has_blocks_behind(ip, size, &behind);
	if (err == 0 && behind)
		return shrink_blocks(ip, size);
	file_touch(ip);
	return err;
}

static int set_size(struct inode *ip, uint64_t size)
{
	int err;

	err = file_check_size(ip, size);
	if (err == 0)
		err = quota_load(ip);
	if (err == 0)
		err = file_finish_cut(ip);
	if (err == 0 && (ip->state == INODE_INLINE || size > 0) && ip->state != INODE_BLOCKS)
		err = inline_prepare(ip, size, true);
	if (err < 0)
		return err;
	if (ip->state == INODE_BLOCKS)
		return set_size_of_blocks(ip, size);
	if (ip->state == INODE_INLINE)
		err = inline_set_size(ip, size);
	if (err == 0)
		file_touch(ip);
	return err;
}

int file_set_size(struct inode *ip, uint64_t size)
{
	int err = set_size(ip, size);

	return first_error(err, file_fit_frames(ip));
}
