/* SPDX-License-Identifier: MIT */
/*
 * The contents of regular files: how their pages are filled, reading, seeking, and where they lie.
 *
 * Every read goes through the page cache.  Where a byte comes from (a block, a hole, the inode
 * itself) is decided in one place, file_fill().
 *
 *  F1  A page holds zeros behind the end of the file, whatever lies on disk there.
 *  F2  Memory of the caller is touched with nothing held but references to pages (M7).
 *  F3  What lies behind the size is not read from disk, except within the last block.
 */
#include "ops/file_priv.h"

#include "base/diag.h"

#include <inttypes.h>

/* A call of this size is large enough to be one request of its own. */
#define LARGE_READ (128u * 1024)

/* What a sequential reader gets read ahead: a quarter of what it has behind it, within these. */
#define AHEAD_MIN (64u * 1024 / PAGE_BYTES)
#define AHEAD_MAX (256u * 1024 / PAGE_BYTES)

/* What one prefetch may start. */
#define PREFETCH_BYTES_MAX (64u * 1024 * 1024)
#define PREFETCH_RUNS_MAX 64u

struct file_shape file_shape(struct inode *ip)
{
	struct file_shape shape;

	rwlock_read(&ip->xattr_lock);
	shape.state = ip->state;
	shape.size = ip->size;
	rwlock_read_unlock(&ip->xattr_lock);
	return shape;
}

uint64_t file_size_max(struct inode *ip)
{
	const struct geom *g = &ip->fs->geom;

	uint64_t blocks = UINT32_MAX;

	/* An INLINE file shows no map yet. */
	if (ip->state != INODE_INLINE || !geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_EXTENTS))
		return map_size_max(ip);
	if (!geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_HUGE_FILE))
		blocks = min_u64(blocks, UINT32_MAX >> (g->block_bits - 9));
	return blocks << g->block_bits;
}

/* Bytes of a file that have one fate and, if written, lie together. */
struct file_run {
	enum map_state state;
	uint64_t end;	 /* in the file; always behind the byte that was asked for */
	uint64_t device; /* where that byte lies, if written */
};

/* The run from byte @offset on, of an inode in BLOCKS.  Reads metadata. */
static int run_at(struct inode *ip, uint64_t offset, struct file_run *ret_run)
{
	const struct geom *g = &ip->fs->geom;
	uint64_t logical = offset >> g->block_bits;
	struct map_ext ext;
	int err;

	if (logical >= UINT32_MAX) /* only if the size is wrong */
		return corrupt("inode %u: no file of 2^32 - 1 blocks has a byte %" PRIu64, ip->ino,
			       offset);
	err = map_read(ip, (lblk_t)logical, &ext);
	if (err < 0)
		return err;
	*ret_run = (struct file_run){
		.state = ext.state,
		.end = (logical + ext.count) << g->block_bits,
		.device = (ext.physical << g->block_bits) + (offset & (g->block_size - 1)),
	};
	return 0;
}

/* ---- filling pages --------------------------------------------------------------------------- */

/*
 * Pages to be filled, and a device request that grows as long as its bytes are neighbours on disk.
 */
struct fill {
	struct inode *ip;
	struct page *const *pages;
	uint64_t start, end;	/* the pages' bytes in the file */
	uint64_t offset, bytes; /* of the request, on the device */
	int pieces;
	struct iovec iov[DEV_IOV_MAX];
};

static int fill_submit(struct fill *fill)
{
	int err;

	if (fill->pieces == 0)
		return 0;
	err = dev_readv(fill->ip->fs->dev, fill->offset, fill->iov, fill->pieces);
	fill->pieces = 0;
	fill->bytes = 0;
	return err < 0 ? fail_in(err, "inode %u: data", fill->ip->ino) : 0;
}

static int fill_add(struct fill *fill, uint64_t offset, uint8_t *data, size_t bytes)
{
	struct iovec *last = &fill->iov[fill->pieces - (fill->pieces > 0)];
	int err;

	if (fill->pieces > 0 && offset == fill->offset + fill->bytes) {
		if ((uint8_t *)last->iov_base + last->iov_len == data) {
			last->iov_len += bytes;
			fill->bytes += bytes;
			return 0;
		}
		if (fill->pieces < DEV_IOV_MAX) {
			fill->iov[fill->pieces++] = (struct iovec){ data, bytes };
			fill->bytes += bytes;
			return 0;
		}
	}
	err = fill_submit(fill);
	if (err < 0)
		return err;
	fill->offset = offset;
	fill->bytes = bytes;
	fill->iov[fill->pieces++] = (struct iovec){ data, bytes };
	return 0;
}

/* Where byte @at of the file goes, and how many bytes up to @end go there in one piece. */
static uint8_t *fill_place(const struct fill *fill, uint64_t at, uint64_t end, size_t *ret_bytes)
{
	const struct page *page = fill->pages[(at - fill->start) >> PAGE_BITS];
	size_t in_page = at & (PAGE_BYTES - 1);

	*ret_bytes = (size_t)min_u64(PAGE_BYTES - in_page, end - at);
	return page->data + in_page;
}

static void fill_zero(const struct fill *fill, uint64_t from, uint64_t to)
{
	size_t bytes;

	for (uint64_t at = from; at < to; at += bytes) {
		uint8_t *place = fill_place(fill, at, to, &bytes);

		memset(place, 0, bytes);
	}
}

/* The same from a block in memory, which is newer than the device. */
static void fill_copy(const struct fill *fill, uint64_t from, uint64_t to, const uint8_t *data)
{
	size_t bytes;

	for (uint64_t at = from; at < to; at += bytes) {
		uint8_t *place = fill_place(fill, at, to, &bytes);

		memcpy(place, data + (at - from), bytes);
	}
}

/* Bytes [@from, @to) of the file, which lie on the device from @offset on. */
static int fill_read(struct fill *fill, uint64_t from, uint64_t to, uint64_t offset)
{
	size_t bytes;
	int err;

	for (uint64_t at = from; at < to; at += bytes) {
		uint8_t *place = fill_place(fill, at, to, &bytes);

		err = fill_add(fill, offset + (at - from), place, bytes);
		if (err < 0)
			return err;
	}
	return 0;
}

/* A buffer that says what the block holds: see data_block_get() in writeback.c. */
static struct buf *newest_buf(const struct inode *ip, blk_t blk)
{
	struct buf *buf = buf_lookup(ip->fs->cache, blk);

	if (buf == NULL || file_is_journalled(ip) || txn_log_has(ip->fs->log, buf))
		return buf;
	buf_put(buf);
	return NULL;
}

/* Block by block, as what the log has not brought home is in buffers only. */
static int fill_read_journalled(struct fill *fill, uint64_t from, uint64_t to, uint64_t offset)
{
	const struct geom *g = &fill->ip->fs->geom;
	uint64_t end;
	int err = 0;

	for (uint64_t at = from; at < to && err == 0; at = end) {
		uint64_t place = offset + (at - from);
		size_t in_block = place & (g->block_size - 1);
		struct buf *buf = newest_buf(fill->ip, place >> g->block_bits);

		end = min_u64(to, at + g->block_size - in_block);
		if (buf != NULL)
			fill_copy(fill, at, end, buf->data + in_block);
		else
			err = fill_read(fill, at, end, place);
		buf_put(buf);
	}
	return err;
}

static int fill_from_blocks(struct fill *fill, uint64_t size)
{
	const struct geom *g = &fill->ip->fs->geom;
	/* Without overflow: a size near 2^64 ends behind any page there can be. */
	uint64_t blocks_end = size > fill->end ? fill->end : round_up_pow2(size, g->block_size);
	uint64_t end = min_u64(fill->end, blocks_end);
	uint64_t at = fill->start;
	struct file_run run;
	int err;

	while (at < end) { /* each turn gets one block further at least */
		err = run_at(fill->ip, at, &run);
		if (err < 0)
			return err;
		run.end = min_u64(run.end, end);
		if (run.state == MAP_WRITTEN &&
		    (file_is_journalled(fill->ip) || fill->ip->fs->in_scope))
			err = fill_read_journalled(fill, at, run.end, run.device);
		else if (run.state == MAP_WRITTEN)
			err = fill_read(fill, at, run.end, run.device);
		else
			fill_zero(fill, at, run.end);
		if (err < 0)
			return err;
		at = run.end;
	}
	err = fill_submit(fill);
	if (err < 0)
		return err;
	fill_zero(fill, max_u64(size, fill->start), fill->end); /* F1 */
	return 0;
}

static int fill_from_inode(struct fill *fill)
{
	size_t bytes;
	int err;

	for (uint64_t at = fill->start; at < fill->end; at += bytes) {
		uint8_t *place = fill_place(fill, at, fill->end, &bytes);

		err = inline_read(fill->ip, at, place, bytes);
		if (err < 0)
			return err;
	}
	return 0;
}

/*
 * An INLINE file that becomes BLOCKS meanwhile keeps the locks of its pages until it has
 * (file_inline.c); one that leaves EMPTY has no bytes yet.
 */
static int file_fill(struct mapping *m, struct page *const *pages, size_t count)
{
	struct inode *ip = container_of(m, struct inode, pages);
	struct file_shape shape = file_shape(ip);
	struct fill fill;

	fill.ip = ip;
	fill.pages = pages;
	fill.start = pages[0]->index << PAGE_BITS;
	fill.end = fill.start + ((uint64_t)count << PAGE_BITS);
	fill.offset = fill.bytes = 0;
	fill.pieces = 0;

	switch (shape.state) {
	case INODE_BLOCKS: return fill_from_blocks(&fill, shape.size);
	case INODE_INLINE: return fill_from_inode(&fill);
	default: /* a regular file is never FAST */
		assert(shape.state == INODE_EMPTY);
		fill_zero(&fill, fill.start, fill.end);
		return 0;
	}
}

static void file_drop(struct mapping *m, struct page *page)
{
	delayed_drop(container_of(m, struct inode, pages), page, PAGE_ALL_PARTS);
}

static void file_hold(struct mapping *m)
{
	inode_hold(container_of(m, struct inode, pages));
}

static bool file_try_hold(struct mapping *m)
{
	return inode_try_hold(container_of(m, struct inode, pages));
}

/* Writers hold the inode's lock, readers and faults `invalidate`. */
static NO_TSA bool file_try_lock(struct mapping *m)
{
	struct inode *ip = container_of(m, struct inode, pages);

	if (!rwlock_trywrite(&ip->lock))
		return false;
	if (rwlock_trywrite(&ip->invalidate))
		return true;
	rwlock_write_unlock(&ip->lock);
	return false;
}

static NO_TSA void file_unlock(struct mapping *m)
{
	struct inode *ip = container_of(m, struct inode, pages);

	rwlock_write_unlock(&ip->invalidate);
	rwlock_write_unlock(&ip->lock);
}

static void file_release(struct mapping *m)
{
	inode_release(container_of(m, struct inode, pages));
}

static void file_evict(struct mapping *m)
{
	inode_evict(container_of(m, struct inode, pages));
}

const struct mapping_ops file_mapping_ops = {
	.fill = file_fill,
	.writepages = file_writepages,
	.writepages_together = file_writepages_together,
	.drop = file_drop,
	.hold = file_hold,
	.try_hold = file_try_hold,
	.try_lock = file_try_lock,
	.unlock = file_unlock,
	.release = file_release,
	.evict = file_evict,
	.mkwrite = file_mkwrite,
	.retry_nospc = file_mkwrite_retry,
};

/* ---- read ------------------------------------------------------------------------------------ */

/*
 * How many pages behind [@offset, @offset + @len) are worth reading now.  Some for a reader that
 * goes on where the last one stopped (the first byte counts as that), the more the longer it has
 * been at it.
 */
static size_t ahead_of(struct inode *ip, uint64_t offset, uint64_t len, uint64_t size)
{
	uint64_t next, ahead, pages_behind;

	if (len >= LARGE_READ)
		return 0;
	next = atomic_load_explicit(&ip->read_next, memory_order_relaxed);
	atomic_store_explicit(&ip->read_next, offset + len, memory_order_relaxed);
	if (offset != next)
		return 0;
	ahead = max_u64(AHEAD_MIN, min_u64(AHEAD_MAX, offset / PAGE_BYTES / 4));
	pages_behind = ((size - 1) >> PAGE_BITS) - ((offset + len - 1) >> PAGE_BITS);
	return (size_t)min_u64(ahead, pages_behind);
}

static void copy_out(uint8_t *user, uint64_t offset, size_t bytes, struct page *const *pages)
{
	size_t in_page = offset & (PAGE_BYTES - 1);

	while (bytes > 0) {
		size_t step = min_size(PAGE_BYTES - in_page, bytes);

		user_copy_out(user, (*pages)->data + in_page, step);
		user += step;
		bytes -= step;
		in_page = 0;
		pages++;
	}
}

/*
 * The same of pages that others map: their bytes are looked at under their locks only, as the
 * memory of one that is cut off goes (M6), and nothing is locked while the caller's memory is
 * touched.
 */
static int copy_out_mapped(struct inode *ip, uint8_t *user, uint64_t offset, size_t bytes,
			   struct page *const *pages)
{
	size_t in_page = offset & (PAGE_BYTES - 1);
	uint8_t own[PAGE_BYTES];

	for (; bytes > 0; pages++) {
		size_t step = min_size(PAGE_BYTES - in_page, bytes);

		if (!page_lock_in(&ip->pages, *pages))
			return -EAGAIN;
		memcpy(own, (*pages)->data + in_page, step);
		page_unlock(*pages);
		user_copy_out(user, own, step);
		user += step;
		bytes -= step;
		in_page = 0;
	}
	return 0;
}

/*
 * Up to PAGES_BATCH_MAX pages' worth of [@at, @end): returns how many bytes were read, 0 at the end
 * of the file; -EAGAIN: nothing is said, as a page went meanwhile.
 */
static ssize_t read_batch(struct inode *ip, uint8_t *user, uint64_t at, uint64_t end, size_t ahead)
{
	struct page *pages[PAGES_BATCH_MAX];
	pgoff_t first = at >> PAGE_BITS;
	size_t count, bytes;
	bool mapped;
	int err;

	rwlock_read(&ip->invalidate);
	mapped = mapping_frames(&ip->pages) != NULL;
	if (mapped) /* behind it there is no memory */
		end = min_u64(end, file_shape(ip).size);
	if (at >= end) {
		rwlock_read_unlock(&ip->invalidate);
		return 0;
	}
	count = (size_t)min_u64(PAGES_BATCH_MAX, ((end - 1) >> PAGE_BITS) - first + 1);
	bytes = (size_t)(min_u64(end, (first + count) << PAGE_BITS) - at);
	err = pages_get(&ip->pages, first, count, ahead, pages);
	rwlock_read_unlock(&ip->invalidate);
	if (err < 0)
		return err;
	if (mapped)
		err = copy_out_mapped(ip, user, at, bytes, pages);
	else
		copy_out(user, at, bytes, pages); /* F2 */
	pages_put(pages, count);
	return err < 0 ? err : (ssize_t)bytes;
}

int file_read(struct inode *ip, void *user, size_t len, uint64_t offset, size_t *ret_read)
{
	uint64_t size = file_shape(ip).size, at = offset, end;
	size_t ahead;

	if (len == 0 || offset >= size) {
		*ret_read = 0;
		return 0;
	}
	end = offset + min_u64(len, size - offset);
	ahead = ahead_of(ip, offset, end - offset, size);

	while (at < end) {
		ssize_t got;

		cache_trim_frames(ip->fs->cache);
		got = read_batch(ip, (uint8_t *)user + (at - offset), at, end, ahead);

		if (got == -EAGAIN)
			continue;
		if (got < 0)
			return (int)got;
		if (got == 0)
			break;
		at += (uint64_t)got;
	}
	*ret_read = (size_t)(at - offset);
	return 0;
}

void file_prefetch(struct inode *ip, uint64_t offset, uint64_t len)
{
	struct file_shape shape = file_shape(ip);
	struct file_run run;
	uint64_t end;

	if (shape.state != INODE_BLOCKS || offset >= shape.size)
		return;
	end = offset + min_u64(min_u64(len, PREFETCH_BYTES_MAX), shape.size - offset);
	for (unsigned runs = 0; runs < PREFETCH_RUNS_MAX && offset < end; runs++) {
		if (run_at(ip, offset, &run) < 0)
			return; /* a hint; who reads there will hear of it */
		run.end = min_u64(run.end, end);
		if (run.state == MAP_WRITTEN)
			dev_prefetch(ip->fs->dev, run.device, run.end - offset);
		offset = run.end;
	}
}

/* ---- where the data is ----------------------------------------------------------------------- */

static int no_data_behind(uint64_t offset)
{
	return fail(-ENXIO, "there is no data at or behind offset %" PRIu64, offset);
}

/* Inline data is data up to its end, which is that of the file but for files mke2fs made. */
static int seek_inline(struct inode *ip, uint64_t offset, uint64_t size, bool want_data,
		       uint64_t *ret_offset)
{
	uint64_t end;
	int err;

	err = inline_data_end(ip, &end);
	if (err < 0)
		return err;
	if (want_data && offset >= end)
		return no_data_behind(offset);
	*ret_offset = want_data ? offset : min_u64(size, max_u64(offset, end));
	return 0;
}

/* The inode's lock shared: what is inside of it stays so meanwhile (I15). */
static int seek_locked(struct inode *ip, uint64_t offset, enum uext4_seek what,
		       uint64_t *ret_offset)
{
	bool want_data = what == UEXT4_SEEK_DATA;
	struct file_shape shape;
	struct file_run run;
	uint64_t at = offset;
	int err;

	shape = file_shape(ip);
	if (offset >= shape.size)
		return fail(-ENXIO, "offset %" PRIu64 " lies behind the end of the file", offset);
	if (shape.state == INODE_INLINE)
		return seek_inline(ip, offset, shape.size, want_data, ret_offset);
	while (at < shape.size) { /* each turn gets one block further at least */
		err = run_at(ip, at, &run);
		if (err < 0)
			return err;
		if ((run.state == MAP_WRITTEN) == want_data) {
			*ret_offset = at;
			return 0;
		}
		at = run.end;
	}
	if (want_data)
		return no_data_behind(offset);
	*ret_offset = shape.size;
	return 0;
}

int file_seek(struct inode *ip, uint64_t offset, enum uext4_seek what, uint64_t *ret_offset)
{
	int err;

	/* What is dirty has no place yet. */
	err = mapping_flush(&ip->pages, offset >> PAGE_BITS, UINT64_MAX);
	if (err < 0)
		return err;
	rwlock_read(&ip->lock);
	err = seek_locked(ip, offset, what, ret_offset);
	rwlock_read_unlock(&ip->lock);
	return err;
}

/* Inline data as one extent that lies in the inode table (I15). */
static int inline_extent(struct inode *ip, uint64_t size, struct uext4_extent *ret_extent)
{
	uint32_t in_block;
	blk_t blk;
	int err;

	err = inode_place(ip->fs, ip->ino, &blk, &in_block);
	if (err < 0)
		return err;
	*ret_extent = (struct uext4_extent){
		.physical = (blk << ip->fs->geom.block_bits) + in_block +
			    offsetof(struct ext4_inode, i_block),
		.length = size,
		.flags = UEXT4_EXTENT_INLINE | UEXT4_EXTENT_LAST,
	};
	return 0;
}

static bool extent_continues(const struct uext4_extent *before, const struct uext4_extent *extent)
{
	return before->flags == extent->flags &&
	       before->logical + before->length == extent->logical &&
	       before->physical + before->length == extent->physical;
}

/*
 * The extents between blocks @at and @end.  Goes on over holes behind @end, to know whether the
 * last one found is the last of the file.
 */
static int block_extents(struct inode *ip, lblk_t at, lblk_t end, struct uext4_extent *extents,
			 size_t max, size_t *ret_count)
{
	unsigned block_bits = ip->fs->geom.block_bits;
	size_t count = 0;
	int err;

	while (at < UINT32_MAX && (at < end || count > 0)) {
		struct uext4_extent extent;
		struct map_ext ext;

		err = map_read(ip, at, &ext);
		if (err < 0)
			return err;
		if (ext.state == MAP_HOLE) {
			at += ext.count;
			continue;
		}
		if (at >= end)
			break;
		if (ext.count > end - at)
			ext.count = end - at;
		extent = (struct uext4_extent){
			.logical = (uint64_t)at << block_bits,
			.physical = ext.physical << block_bits,
			.length = (uint64_t)ext.count << block_bits,
			.flags = ext.state == MAP_UNWRITTEN ? UEXT4_EXTENT_UNWRITTEN : 0,
		};
		if (count > 0 && extent_continues(&extents[count - 1], &extent))
			extents[count - 1].length += extent.length;
		else if (count < max)
			extents[count++] = extent;
		else
			break;
		at += ext.count;
	}
	if (at == UINT32_MAX && count > 0)
		extents[count - 1].flags |= UEXT4_EXTENT_LAST;
	*ret_count = count;
	return 0;
}

int file_extents(struct inode *ip, uint64_t offset, uint64_t len, struct uext4_extent *extents,
		 size_t count, size_t *ret_count)
{
	const struct geom *g = &ip->fs->geom;
	uint64_t end, first = offset >> g->block_bits;
	struct file_shape shape;
	int err;

	if (!add_ok(offset, len, &end))
		end = UINT64_MAX;
	if (len == 0 || count == 0) {
		*ret_count = 0;
		return 0;
	}
	err = mapping_flush(&ip->pages, offset >> PAGE_BITS, (end - 1) >> PAGE_BITS);
	if (err < 0)
		return err;
	shape = file_shape(ip);
	if (shape.state == INODE_INLINE && offset < shape.size) {
		err = inline_extent(ip, shape.size, extents);
		if (err < 0)
			return err;
		*ret_count = 1;
		return 0;
	}
	if (shape.state != INODE_BLOCKS || first >= UINT32_MAX) {
		*ret_count = 0;
		return 0;
	}
	return block_extents(ip, (lblk_t)first,
			     (lblk_t)min_u64(UINT32_MAX, div_round_up(end, g->block_size)), extents,
			     count, ret_count);
}
