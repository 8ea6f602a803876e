/* SPDX-License-Identifier: MIT */
/*
 * Regular files whose data lies in the inode: writing, their size, and how they leave it.
 *
 * The state (EMPTY, INLINE, BLOCKS: S1, I1) and the capacity change only under the inode's lock,
 * exclusive, with a handle, the locks of the pages that hold the data, and xattr_lock.  Page 0
 * (and, with inodes larger than a page, those behind it) is the truth; the inode's body is its last
 * flushed image (S3).
 *
 *  N1  A write decides once: inline_prepare() makes the room or converts, and as the inode's lock
 *      is kept until the write is over, nobody changes that (S4, I3).  A write marks pages dirty;
 *      it neither copies to the inode nor cleans them (S8).
 *  N2  INLINE: size <= capacity.  The size in memory changes under the page's lock and xattr_lock;
 *      that on disk with the bytes, when they are flushed (S2, S7, I2).
 *  N3  Conversion takes blocks first, and writes the data there; then one handle empties the inode
 *      and maps them (S9).  A failure before that changes nothing (I10).
 *  N4  What is behind the size in a page is zeros whenever the size grows (S11, I12).
 *  N5  Pages are made uptodate, and memory is had, before the handle (M13, S12); they stay
 *      referenced, so they are still there when they are locked.
 *
 * An inode whose size is beyond its capacity (mke2fs -d makes them) is converted before anything
 * else; what is not there is a hole.
 */
#include "ops/file_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "fs/quota.h"

#define PAGES_MAX 16u /* of the largest inode */
#define RUNS_MAX 8u

/* ---- the pages that hold the data ------------------------------------------------------------ */

struct inline_pages {
	struct inode *ip;
	size_t count;
	struct page *pages[PAGES_MAX];
};

static void pages_release(struct inline_pages *ps)
{
	pages_put(ps->pages, ps->count);
	ps->count = 0;
}

/* Those of the first @bytes bytes: uptodate, referenced (N5). */
static int pages_hold(struct inode *ip, uint64_t bytes, struct inline_pages *ret)
{
	size_t count = (size_t)div_round_up(bytes, PAGE_BYTES);
	int err;

	ret->ip = ip;
	ret->count = 0;
	if (bytes > PAGES_MAX * PAGE_BYTES)
		return corrupt("inode %u: %llu bytes of inline data", ip->ino,
			       (unsigned long long)bytes);
	if (count == 0)
		return 0;
	err = mapping_extend_frames(&ip->pages, count); /* M8 */
	if (err == 0)
		err = pages_get(&ip->pages, 0, count, 0, ret->pages);
	if (err == 0)
		ret->count = count;
	return err;
}

static void pages_lock(struct inline_pages *ps)
{
	for (size_t i = 0; i < ps->count; i++)
		page_lock(ps->pages[i]);
}

static void pages_unlock(struct inline_pages *ps)
{
	for (size_t i = 0; i < ps->count; i++)
		page_unlock(ps->pages[i]);
}

/* Marks [@from, @to), from < to, of locked pages dirty. */
static int pages_mark(struct inline_pages *ps, uint64_t from, uint64_t to)
{
	static const uint8_t parts[PAGES_MAX] = {
		[0 ...(PAGES_MAX - 1)] = PAGE_ALL_PARTS,
	};
	size_t first = (size_t)(from >> PAGE_BITS), last = (size_t)((to - 1) >> PAGE_BITS);

	return pages_set_dirty(ps->pages + first, parts, last - first + 1);
}

/* N4: from @from to the end of the last page. */
static void pages_zero(struct inline_pages *ps, uint64_t from)
{
	pages_protect(ps->pages, ps->count); /* S11: no store is between the zeros and the size */
	for (size_t i = (size_t)(from >> PAGE_BITS); i < ps->count; i++) {
		size_t at = (size_t)max_u64(from, (uint64_t)i << PAGE_BITS) & (PAGE_BYTES - 1);

		page_zero(ps->pages[i], at, PAGE_BYTES - at);
	}
}

static void set_size(struct inode *ip, uint64_t size)
{
	rwlock_write(&ip->xattr_lock);
	ip->size = size;
	rwlock_write_unlock(&ip->xattr_lock);
}

/*
 * The first @bytes bytes as one row: those of the only page, or collected in @room.  The pages are
 * locked.
 */
static const uint8_t *pages_row(const struct inline_pages *ps, uint8_t *room)
{
	if (ps->count == 1)
		return ps->pages[0]->data;
	for (size_t i = 0; i < ps->count; i++)
		memcpy(room + i * PAGE_BYTES, ps->pages[i]->data, PAGE_BYTES);
	return room;
}

/* Memory for a row of more than one page; mem_free(). */
static int row_room(size_t count, uint8_t **ret_room)
{
	*ret_room = NULL;
	if (count < 2)
		return 0;
	*ret_room = mem_alloc(count * PAGE_BYTES);
	return *ret_room == NULL ? -ENOMEM : 0;
}

/* ---- writeback ------------------------------------------------------------------------------- */

/* Dirty pages of an INLINE file. */
struct flushing {
	size_t found, count;
	struct page *candidates[PAGES_MAX]; /* referenced */
	struct page *pages[PAGES_MAX];	    /* of these, those that are under writeback */
	uint8_t parts[PAGES_MAX];
	bool busy; /* one is being written by another thread, and dirty again */
};

static void flushing_lock(struct flushing *f)
{
	for (size_t i = 0; i < f->found; i++)
		page_lock(f->candidates[i]);
}

static void flushing_unlock(struct flushing *f)
{
	for (size_t i = 0; i < f->found; i++)
		page_unlock(f->candidates[i]);
}

static void flushing_start(struct flushing *f)
{
	for (size_t i = 0; i < f->found; i++) {
		struct page *page = f->candidates[i];

		if (!page_is_dirty(page))
			continue; /* written or thrown away meanwhile */
		if (page_is_writeback(page))
			f->busy = true;
		else
			f->pages[f->count++] = page;
	}
	pages_start_writeback(f->pages, f->parts, f->count);
}

/* The body as it is, with what the dirty pages say instead. */
static int collect_row(struct inode *ip, const struct flushing *f, uint8_t *room, uint32_t bytes)
	REQUIRES(&ip->xattr_lock)
{
	struct inline_parts parts;
	uint32_t at = 0;
	int err;

	err = inline_find(ip, &parts);
	if (err < 0)
		return err;
	for (unsigned i = 0; i < ARRAY_SIZE(parts.part) && at < bytes; i++) {
		uint32_t step = (uint32_t)min_u64(parts.bytes[i], bytes - at);

		if (step > 0)
			memcpy(room + at, parts.part[i], step);
		at += step;
	}
	for (size_t i = 0; i < f->count; i++) {
		uint64_t from = f->pages[i]->index << PAGE_BITS;

		if (from < bytes)
			memcpy(room + from, f->pages[i]->data, min_u64(PAGE_BYTES, bytes - from));
	}
	return 0;
}

/* S7, of locked pages. */
static int store_pages(struct handle *h, struct inode *ip, struct flushing *f, uint8_t *room)
	REQUIRES(&ip->xattr_lock)
{
	uint32_t size = (uint32_t)ip->size;
	int err = 0;

	flushing_start(f);
	if (f->count == 0)
		return 0;
	if (room == NULL) {
		assert(size <= PAGE_BYTES && f->pages[0]->index == 0);
		return inline_store(h, ip, f->pages[0]->data, size);
	}
	err = collect_row(ip, f, room, size);
	return err < 0 ? err : inline_store(h, ip, room, size);
}

static int flush_in_handle(struct inode *ip, struct flushing *f, uint8_t *room, bool *ret_done)
{
	struct handle *h;
	int err;

	err = handle_start(ip->fs->log, INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	flushing_lock(f);
	rwlock_write(&ip->xattr_lock);
	*ret_done = ip->state == INODE_INLINE;
	if (*ret_done)
		err = store_pages(h, ip, f, room);
	rwlock_write_unlock(&ip->xattr_lock);
	flushing_unlock(f);
	err = first_error(err, handle_stop(h));
	if (f->count > 0)
		pages_end_writeback(f->pages, f->parts, f->count, err);
	return err;
}

int inline_flush(struct inode *ip, bool wait, bool *ret_done)
{
	uint8_t *room FREE_SCOPE = NULL;
	struct flushing f;
	int err;

	*ret_done = true;
	err = row_room(div_round_up(ip->fs->geom.inode_size, PAGE_BYTES), &room);
	if (err < 0)
		return err;
	do { /* again only if the pages became dirty in between (I9) */
		pgoff_t first = 0;

		f.count = 0;
		f.busy = false;
		f.found = mapping_find_dirty(&ip->pages, &first, PAGES_MAX - 1, f.candidates,
					     PAGES_MAX);
		if (f.found == 0)
			return 0;
		for (size_t i = 0; i < f.found && wait; i++)
			page_wait_writeback(f.candidates[i]);
		err = flush_in_handle(ip, &f, room, ret_done);
		pages_put(f.candidates, f.found);
	} while (err == 0 && *ret_done && f.busy && wait);
	return err;
}

/* ---- writing, sizes -------------------------------------------------------------------------- */

/* Bytes [@skip, @skip + @bytes) of the row of pages @from come to @offset. */
static void copy_row(struct inline_pages *to, uint64_t offset, struct page *const *from,
		     size_t skip, size_t bytes)
{
	while (bytes > 0) {
		size_t source = skip & (PAGE_BYTES - 1), at = offset & (PAGE_BYTES - 1);
		size_t step = min_size(bytes, PAGE_BYTES - (source > at ? source : at));

		page_copy_in(to->pages[offset >> PAGE_BITS], at,
			     from[skip >> PAGE_BITS]->data + source, step);
		skip += step;
		offset += step;
		bytes -= step;
	}
}

int inline_write(struct inode *ip, struct page *const *from, size_t skip, size_t bytes,
		 uint64_t offset)
{
	uint64_t end = offset + bytes, old = ip->size;
	struct inline_pages ps;
	int err;

	err = pages_hold(ip, max_u64(end, old), &ps);
	if (err < 0)
		return err;
	pages_lock(&ps);
	err = pages_mark(&ps, min_u64(offset, old), end);
	if (err == 0) {
		if (end > old)
			pages_zero(&ps, old); /* N4 */
		copy_row(&ps, offset, from, skip, bytes);
		if (end > old)
			set_size(ip, end);
	}
	pages_unlock(&ps);
	pages_release(&ps);
	return err;
}

static int grow(struct inode *ip, uint64_t size)
{
	uint64_t old = ip->size;
	struct inline_pages ps;
	int err;

	err = pages_hold(ip, size, &ps);
	if (err < 0)
		return err;
	pages_lock(&ps);
	err = pages_mark(&ps, old, size);
	if (err == 0) {
		pages_zero(&ps, old);
		set_size(ip, size);
	}
	pages_unlock(&ps);
	pages_release(&ps);
	return err;
}

/* What is cut off goes from memory and body in one handle. */
static int shrink_in_handle(struct inline_pages *ps, uint8_t *room, uint32_t size)
{
	struct inode *ip = ps->ip;
	struct handle *h;
	int err;

	err = handle_start(ip->fs->log, INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	pages_lock(ps);
	rwlock_write(&ip->xattr_lock);
	err = inline_store(h, ip, pages_row(ps, room), size);
	if (err == 0)
		ip->size = size;
	rwlock_write_unlock(&ip->xattr_lock);
	if (err == 0)
		pages_zero(ps, size);
	pages_unlock(ps);
	return first_error(err, handle_stop(h));
}

static int shrink(struct inode *ip, uint32_t size)
{
	uint8_t *room FREE_SCOPE = NULL;
	struct inline_pages ps;
	int err;

	err = pages_hold(ip, max_u64(size, 1), &ps);
	if (err < 0)
		return err;
	err = row_room(ps.count, &room);
	rwlock_write(&ip->invalidate);
	if (err == 0 && mapping_is_pinned(&ip->pages, div_round_up(size, PAGE_BYTES), UINT64_MAX))
		err = -EAGAIN; /* M5 */
	if (err == 0)
		err = shrink_in_handle(&ps, room, size);
	if (err == 0)
		mapping_drop(&ip->pages, ps.count, UINT64_MAX);
	rwlock_write_unlock(&ip->invalidate);
	pages_release(&ps);
	return err;
}

int inline_set_size(struct inode *ip, uint64_t size)
{
	if (size > ip->size)
		return grow(ip, size);
	return size < ip->size ? shrink(ip, (uint32_t)size) : 0;
}

/* ---- out of the inode ------------------------------------------------------------------------ */

/* Blocks for what an INLINE file holds, not yet its. */
struct leaving {
	struct inode *ip;
	uint32_t blocks; /* of data, from the first on */
	uint64_t taken;	 /* of all runs, promised to the quota */
	size_t runs;
	struct {
		lblk_t logical;
		uint32_t count;
		struct blk_run taken;
	} run[RUNS_MAX];
};

static void leaving_cancel(struct leaving *l)
{
	for (size_t i = 0; i < l->runs; i++)
		balloc_cancel(l->ip->fs, &l->run[i].taken, false);
	l->runs = 0;
	quota_unreserve(l->ip, l->taken);
	l->taken = 0;
}

static int leaving_take(struct leaving *l, bool root)
{
	struct balloc_request rq = {
		.ip = l->ip,
		.flags = BALLOC_DATA | (root ? BALLOC_ROOT : 0),
	};
	int err = 0;

	l->runs = 0;
	while (rq.logical < l->blocks && err == 0) {
		struct blk_run *taken = &l->run[l->runs].taken;

		rq.count = l->blocks - rq.logical;
		err = l->runs < RUNS_MAX
			      ? balloc_alloc(l->ip->fs, &rq, taken)
			      : fail(-ENOSPC, "no place where inline data lies together");
		if (err < 0)
			break;
		l->run[l->runs].logical = rq.logical;
		l->run[l->runs++].count = (uint32_t)min_u64(rq.count, taken->count);
		rq.logical += taken->count;
		err = quota_reserve(l->ip, taken->count);
		if (err == 0)
			l->taken += taken->count;
	}
	if (err < 0)
		leaving_cancel(l);
	return err;
}

/* Bytes of one run go to the disk: those of the pages, zeros behind them. */
static int write_run(const struct inline_pages *ps, lblk_t logical, uint32_t count, blk_t blk)
{
	static const uint8_t zeros[PAGE_BYTES];
	struct uext4_fs *fs = ps->ip->fs;
	uint64_t at = (uint64_t)logical << fs->geom.block_bits;
	uint64_t end = at + ((uint64_t)count << fs->geom.block_bits);
	struct iovec iov[DEV_IOV_MAX];
	int pieces = 0;

	for (; at < end; pieces++) {
		size_t index = (size_t)(at >> PAGE_BITS), in_page = at & (PAGE_BYTES - 1);
		size_t bytes = (size_t)min_u64(PAGE_BYTES - in_page, end - at);
		const uint8_t *from = index < ps->count ? ps->pages[index]->data + in_page : zeros;

		/*
		 * The pieces are only read.  Of one run there are as many as of the largest inode.
		 */
		assert(pieces < DEV_IOV_MAX);
		iov[pieces] = (struct iovec){ (void *)(uintptr_t)from, bytes };
		at += bytes;
	}
	/* S10.  With data=journal a buffer would pass for the newer data. */
	for (uint32_t i = 0; i < count; i++)
		cache_forget_block(fs->cache, blk + i);
	return dev_writev(fs->dev, blk << fs->geom.block_bits, iov, pieces);
}

/* N3, from the writing on, with the pages locked. */
static int leave(struct handle *h, struct inline_pages *ps, struct leaving *l)
{
	struct inode *ip = l->ip;
	const struct geom *g = &ip->fs->geom;
	int err = 0;

	/* A store behind this asks again: what is a hole now gets a promise then (P2). */
	pages_protect(ps->pages, ps->count);
	for (size_t i = 0; i < l->runs && err == 0; i++)
		err = write_run(ps, l->run[i].logical, l->run[i].count, l->run[i].taken.start);
	rwlock_write(&ip->xattr_lock);
	if (err == 0)
		err = inline_remove(h, ip);
	if (err < 0) {
		rwlock_write_unlock(&ip->xattr_lock);
		leaving_cancel(l);
		return err;
	}
	/* From here on: only abort. */
	for (size_t i = 0; i < l->runs && err == 0; i++)
		err = map_insert(h, ip, l->run[i].logical, l->run[i].count, &l->run[i].taken,
				 false);
	quota_unreserve(ip, l->taken); /* they are charged now */
	if (err == 0) {
		inode_set_disk_size(ip, ip->size);
		err = inode_store(h, ip);
	}
	rwlock_write_unlock(&ip->xattr_lock);
	/* What is still dirty is what has a place. */
	for (size_t i = 0; i < ps->count; i++) {
		uint64_t start = (uint64_t)i << PAGE_BITS;
		uint64_t end = (uint64_t)l->blocks << g->block_bits;

		if (end < start + PAGE_BYTES)
			ps->pages[i]->dirty &= end <= start ? 0 : parts_of(g, 0, end - start);
	}
	if (err < 0)
		txn_log_abort(ip->fs->log, err);
	return err;
}

static int leave_inline(struct inode *ip, bool root)
{
	struct leaving l = { .ip = ip };
	struct inline_pages ps;
	struct handle *h;
	uint64_t end;
	int err;

	err = inline_data_end(ip, &end);
	if (err == 0)
		err = pages_hold(ip, max_u64(end, 1), &ps);
	if (err < 0)
		return err;
	l.blocks = (uint32_t)div_round_up(end, ip->fs->geom.block_size);
	err = leaving_take(&l, root);
	if (err == 0) {
		err = handle_start(ip->fs->log,
				   map_credits_for(ip, (uint32_t)l.runs + 1) + INODE_STORE_CREDITS,
				   &h);
		if (err < 0)
			leaving_cancel(&l);
	}
	if (err == 0) {
		pages_lock(&ps);
		err = leave(h, &ps, &l);
		pages_unlock(&ps);
		err = first_error(err, handle_stop(h));
	}
	pages_release(&ps);
	return err;
}

int inline_convert(struct inode *ip, bool root)
{
	if (ip->state == INODE_INLINE)
		return leave_inline(ip, root);
	/*
	 * No byte of it is anywhere, so nobody can be looking at one; the map is stored when used.
	 */
	assert(ip->state == INODE_EMPTY && ip->size == 0);
	rwlock_write(&ip->xattr_lock);
	map_init(ip);
	ip->state = INODE_BLOCKS;
	rwlock_write_unlock(&ip->xattr_lock);
	return 0;
}

/* ---- into the inode -------------------------------------------------------------------------- */

/* Is there room for @end bytes as it is, or could there be? */
enum room { ROOM_THERE, ROOM_POSSIBLE, ROOM_NEVER };

static int find_room(struct inode *ip, uint64_t end, enum room *ret)
{
	uint32_t now = 0, most = 0;
	int err = 0;

	rwlock_write(&ip->xattr_lock);
	if (ip->state == INODE_INLINE)
		err = inline_capacity(ip, &now);
	if (err == 0 && end > now)
		err = inline_capacity_max(ip, &most);
	rwlock_write_unlock(&ip->xattr_lock);
	if (err < 0)
		return err;
	if (ip->size > now) /* mke2fs -d */
		*ret = ROOM_NEVER;
	else if (ip->state == INODE_INLINE && end <= now)
		*ret = ROOM_THERE;
	else
		*ret = end <= most ? ROOM_POSSIBLE : ROOM_NEVER;
	return 0;
}

static int make_room(struct inode *ip, uint32_t end)
{
	struct inline_pages ps;
	struct handle *h;
	int err;

	err = pages_hold(ip, 1, &ps);
	if (err < 0)
		return err;
	err = handle_start(ip->fs->log, INODE_STORE_CREDITS, &h);
	if (err == 0) {
		pages_lock(&ps);
		rwlock_write(&ip->xattr_lock);
		err = inline_make_room(h, ip, end);
		rwlock_write_unlock(&ip->xattr_lock);
		pages_unlock(&ps);
		err = first_error(err, handle_stop(h));
	}
	pages_release(&ps);
	return err;
}

/* S3b: it is decided before the handle that does it, which has the credits for that. */
int inline_prepare(struct inode *ip, uint64_t end, bool root)
{
	enum room room = ROOM_NEVER;
	int err;

	if (ip->state == INODE_INLINE || inline_is_possible(ip->fs)) {
		err = find_room(ip, end, &room);
		if (err < 0 || room == ROOM_THERE)
			return err;
	}
	if (room == ROOM_POSSIBLE) {
		err = make_room(ip, (uint32_t)end);
		if (err != -ENOSPC)
			return err;
	}
	return inline_convert(ip, root);
}
