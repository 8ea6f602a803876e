/* SPDX-License-Identifier: MIT */
/*
 * write(2): the caller's bytes become dirty pages.
 *
 * Nothing is written to the disk here and, but for inline data, no handle is started: writeback.c
 * does both.  What can fail for lack of space fails here: blocks are promised (delayed.c) before
 * bytes go into a page that stands for a hole.
 *
 *  K1  The caller's memory is touched with nothing held (S5): his bytes are copied into staged
 *      pages first (cache.h).  A staged page that is written whole becomes the file's, where that
 *      has none.
 *  K2  A page is marked dirty before it changes, as that can fail; its size is raised before its
 *      lock is given up, so writeback never meets a dirty page behind the end.
 *  K3  One call is one write for others, up to PIECE_PAGES; a longer one is several.
 *  K4  Bytes between the old end and what is written read as zeros, from the disk too.
 */
#include "ops/file_priv.h"

#include "base/diag.h"
#include "fs/quota.h"

#include <inttypes.h>

#define PIECE_PAGES PAGES_BATCH_MAX
/* Pages that are locked together. */
#define BATCH_PAGES 16u

#define S_ISUID_BIT 04000u
#define S_ISGID_BIT 02000u
#define S_IXGRP_BIT 00010u

/* ---- the caller's bytes ---------------------------------------------------------------------- */

/* Bytes of one piece, from page 0 + skip on.  NULL: the page became the file's. */
struct staged {
	size_t skip, bytes;
	size_t count;
	struct page *pages[PIECE_PAGES];
};

/* K1.  @offset: where they will probably go. */
static int stage(struct inode *ip, const uint8_t *user, size_t bytes, uint64_t offset,
		 struct staged *ret)
{
	size_t done = 0;
	int err;

	ret->skip = offset & (PAGE_BYTES - 1);
	ret->bytes = min_size(bytes, PIECE_PAGES * PAGE_BYTES - ret->skip);
	ret->count = (ret->skip + ret->bytes + PAGE_BYTES - 1) / PAGE_BYTES;
	err = pages_stage(ip->fs->cache, ret->count, ret->pages);
	if (err < 0)
		return err;
	while (done < ret->bytes) {
		size_t at = (ret->skip + done) & (PAGE_BYTES - 1);
		size_t step = min_size(PAGE_BYTES - at, ret->bytes - done);

		user_copy_in(ret->pages[(ret->skip + done) / PAGE_BYTES]->data + at, user + done,
			     step);
		done += step;
	}
	return 0;
}

static void unstage(struct staged *s)
{
	pages_unstage(s->pages, s->count);
	s->count = 0;
}

/* Bytes [@from, +@bytes) of the piece into a locked page. */
static void copy_staged(const struct staged *s, size_t from, struct page *page, size_t at,
			size_t bytes)
{
	while (bytes > 0) {
		size_t place = s->skip + from, in_page = place & (PAGE_BYTES - 1);
		size_t step = min_size(PAGE_BYTES - in_page, bytes);

		page_copy_in(page, at, s->pages[place / PAGE_BYTES]->data + in_page, step);
		from += step;
		at += step;
		bytes -= step;
	}
}

/* ---- one batch of pages ---------------------------------------------------------------------- */

struct write {
	struct inode *ip;
	bool root;
	struct staged *staged;
	uint64_t start; /* where byte 0 of the piece goes */
	uint64_t at;	/* so far */
	uint64_t end;
};

/* Neighbouring pages, locked and referenced; they get what is written from write.at on. */
struct write_batch {
	size_t count;
	bool adopted; /* they were staged, and are written whole */
	bool cut;     /* some were given up: what was staged in them is lost */
	struct page *pages[BATCH_PAGES];
	uint8_t parts[BATCH_PAGES];
	uint8_t promised[BATCH_PAGES]; /* parts that were reserved before */
};

/* Where in page @index the write begins and ends. */
static void range_in_page(const struct write *w, pgoff_t index, size_t *ret_from, size_t *ret_to)
{
	uint64_t start = index << PAGE_BITS;

	*ret_from = (size_t)(max_u64(start, w->at) - start);
	*ret_to = (size_t)(min_u64(start + PAGE_BYTES, w->end) - start);
}

/* Gives up the pages from @from on. */
static void batch_cut(struct write_batch *b, size_t from)
{
	for (size_t i = from; i < b->count; i++)
		page_unlock_put(b->pages[i]);
	b->count = from;
}

/* Whole pages that the file has not; true if there is one at least. */
static bool batch_adopt(struct write *w, struct write_batch *b)
{
	struct staged *s = w->staged;
	size_t place = s->skip + (size_t)(w->at - w->start);
	size_t whole = (size_t)min_u64(BATCH_PAGES, (w->end - w->at) / PAGE_BYTES);

	if ((w->at & (PAGE_BYTES - 1)) != 0 || (place & (PAGE_BYTES - 1)) != 0 || whole == 0)
		return false;
	b->count = pages_adopt(&w->ip->pages, w->at >> PAGE_BITS, s->pages + place / PAGE_BYTES,
			       whole);
	b->adopted = true;
	b->cut = false;
	for (size_t i = 0; i < b->count; i++) {
		b->pages[i] = s->pages[place / PAGE_BYTES + i];
		s->pages[place / PAGE_BYTES + i] = NULL;
		b->parts[i] = PAGE_ALL_PARTS;
	}
	return b->count > 0;
}

int file_page_read(struct inode *ip, struct page *page)
{
	int err;

	if (page_is_uptodate(page))
		return 0;
	if (page->index << PAGE_BITS >= ip->size) {
		page_zero(page, 0, PAGE_BYTES);
		page_set_uptodate(page);
		return 0;
	}
	err = page_fill(&ip->pages, page);
	if (err < 0)
		page_unlock_put(page);
	return err;
}

/* What a page keeps of its old bytes is read; what is beyond them is zeros. */
static int read_before_write(struct write *w, struct page *page, size_t from, size_t to)
{
	uint64_t start = page->index << PAGE_BITS;

	if (page_is_uptodate(page) || to - from == PAGE_BYTES)
		return 0;
	if (from > 0 || start + to < w->ip->size)
		return file_page_read(w->ip, page);
	page_zero(page, to, PAGE_BYTES - to);
	return 0;
}

/* Pages of the file as they are, or new ones. */
static int batch_grab(struct write *w, struct write_batch *b)
{
	const struct geom *g = &w->ip->fs->geom;
	pgoff_t first = w->at >> PAGE_BITS;
	size_t count = (size_t)min_u64(BATCH_PAGES, ((w->end - 1) >> PAGE_BITS) - first + 1);
	int err = 0;

	b->count = 0;
	b->adopted = false;
	b->cut = false;
	while (b->count < count && err == 0) {
		struct page *page;
		size_t from, to;

		/* The next may be one that can be adopted. */
		page = page_grab_present(&w->ip->pages, first + b->count);
		if (page == NULL && b->count > 0)
			break;
		if (page == NULL)
			err = page_grab(&w->ip->pages, first, &page);
		if (err < 0)
			break;
		range_in_page(w, page->index, &from, &to);
		err = read_before_write(w, page, from, to);
		if (err < 0)
			break;
		b->parts[b->count] = parts_of(g, from, to);
		b->pages[b->count++] = page;
	}
	return b->count > 0 ? 0 : err;
}

/* Reserves and marks; what cannot be had is cut off. */
static int batch_prepare(struct write *w, struct write_batch *b)
{
	size_t done;
	int err;

	for (size_t i = 0; i < b->count; i++)
		b->promised[i] = b->pages[i]->reserved;
	err = delayed_reserve(w->ip, b->pages, b->parts, b->count, w->root, &done);
	if (err == 0) {
		b->cut = b->adopted && done < b->count;
		batch_cut(b, done);
		err = pages_set_dirty(b->pages, b->parts, b->count);
		for (size_t i = 0; i < b->count && err < 0; i++)
			delayed_drop(w->ip, b->pages[i], b->parts[i] & (uint8_t)~b->promised[i]);
	}
	if (err < 0)
		batch_cut(b, 0); /* a page that is not uptodate is read by who wants it */
	return err;
}

static void batch_store(struct write *w, struct write_batch *b)
{
	uint64_t end = w->at;

	for (size_t i = 0; i < b->count; i++) {
		struct page *page = b->pages[i];
		size_t from, to;

		range_in_page(w, page->index, &from, &to);
		if (!b->adopted)
			copy_staged(w->staged,
				    (size_t)((page->index << PAGE_BITS) + from - w->start), page,
				    from, to - from);
		page_set_uptodate(page);
		end = (page->index << PAGE_BITS) + to;
	}
	if (end > w->ip->size) { /* K2 */
		rwlock_write(&w->ip->xattr_lock);
		w->ip->size = end;
		rwlock_write_unlock(&w->ip->xattr_lock);
	}
	w->at = end;
	batch_cut(b, 0);
}

/*
 * As far as it goes: w->at.  Where not all staged pages could be used the caller stages the rest
 * again.
 */
static int write_pages(struct write *w)
{
	struct write_batch b = { .cut = false };
	int err = 0;

	while (w->at < w->end && err == 0 && !b.cut) {
		if (!batch_adopt(w, &b))
			err = batch_grab(w, &b);
		if (err == 0)
			err = batch_prepare(w, &b);
		if (err == 0)
			batch_store(w, &b);
	}
	return err;
}

/* ---- the end of the file --------------------------------------------------------------------- */

void file_forget(struct inode *ip, uint64_t at, uint64_t end)
{
	size_t from = at & (PAGE_BYTES - 1), to = from + (size_t)(end - at);
	uint8_t parts = parts_of(&ip->fs->geom, from, to);
	struct page *page;

	for (;;) {
		page = page_grab_present(&ip->pages, at >> PAGE_BITS);
		if (page == NULL)
			return;
		if (!page_is_writeback(page))
			break;
		page_unlock(page);
		page_wait_writeback(page);
		pages_put(&page, 1);
	}
	page_protect(page); /* P2 */
	delayed_drop(ip, page, parts);
	page->dirty &= (uint8_t)~parts;
	if (page_is_uptodate(page))
		page_zero(page, from, to - from);
	page_unlock_put(page);
}

/* The block of byte @at, if it has a place or will have one, gets the zeros of this page too. */
static int dirty_tail(struct inode *ip, struct page *page, uint64_t at, bool *ret_dirty)
{
	const struct geom *g = &ip->fs->geom;
	size_t in_page = (size_t)(max_u64(at, page->index << PAGE_BITS) & (PAGE_BYTES - 1));
	uint8_t parts = parts_of(g, in_page, in_page + 1);
	struct map_ext ext;
	int err;

	if (page->reserved & parts)
		return 0; /* it is new: written whole, zeros where nothing else is */
	err = map_read(ip, (lblk_t)(at >> g->block_bits), &ext);
	if (err < 0 || ext.state != MAP_WRITTEN)
		return err;
	*ret_dirty = true;
	return page_set_dirty(page, parts);
}

int file_grab_idle(struct inode *ip, pgoff_t index, struct page **ret_page)
{
	int err;

	err = mapping_extend_frames(&ip->pages,
				    index + 1); /* with larger blocks behind the end, too */
	if (err < 0)
		return err;
	for (;;) {
		err = page_grab(&ip->pages, index, ret_page);

		if (err < 0 || !page_is_writeback(*ret_page))
			return err;
		page_unlock(*ret_page);
		page_wait_writeback(*ret_page);
		pages_put(ret_page, 1);
	}
}

/* Bytes [@at, @end) as far as they lie in page @index; they begin in the block of @at. */
static int zero_page_tail(struct inode *ip, pgoff_t index, uint64_t at, uint64_t end, bool in_block,
			  bool *ret_dirty)
{
	uint64_t start = index << PAGE_BITS;
	size_t from = (size_t)(max_u64(at, start) - start);
	size_t to = (size_t)(min_u64(end, start + PAGE_BYTES) - start);
	struct page *page;
	int err;

	err = file_grab_idle(ip, index, &page);
	if (err == 0)
		err = file_page_read(ip, page);
	if (err < 0)
		return err;
	if (in_block)
		err = dirty_tail(ip, page, at, ret_dirty);
	if (err == 0) {
		page_protect(page); /* S11 */
		page_zero(page, from, to - from);
	}
	page_unlock_put(page);
	return err;
}

int file_zero_tail(struct inode *ip, uint64_t at, enum file_tail tail, bool *ret_dirty)
{
	uint64_t block_end = round_up_pow2(at, ip->fs->geom.block_size), end = block_end;
	int err = 0;

	*ret_dirty = false;
	if (tail == FILE_TAIL_PAGE)
		end = max_u64(end, round_up_pow2(at, PAGE_BYTES));
	for (pgoff_t index = at >> PAGE_BITS; index << PAGE_BITS < end && err == 0; index++)
		err = zero_page_tail(ip, index, at, end, block_end > at, ret_dirty);
	return err;
}

/* ---- one piece ------------------------------------------------------------------------------- */

/* What a write by somebody without privileges takes away. */
static int drop_mode_bits(struct inode *ip)
{
	uint16_t mode = le16_get(ip->raw->i_mode), kept = mode;
	struct handle *h;
	int err;

	kept &= (uint16_t)~S_ISUID_BIT;
	if (mode & S_IXGRP_BIT)
		kept &= (uint16_t)~S_ISGID_BIT;
	if (kept == mode)
		return 0;
	err = handle_start(ip->fs->log, INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	inode_set_mode(ip, kept & 07777);
	err = inode_store_meta(h, ip);
	return first_error(err, handle_stop(h));
}

int file_drop_privileges(struct inode *ip, bool unprivileged)
{
	int err = 0;

	if (unprivileged)
		err = drop_mode_bits(ip);
	if (err == 0 && xattr_has_capability(ip))
		err = xattr_drop_capability(ip);
	return err;
}

static int write_inline(struct write *w)
{
	int err = inline_write(w->ip, w->staged->pages, w->staged->skip, (size_t)(w->end - w->at),
			       w->at);

	if (err == 0)
		w->at = w->end;
	return err;
}

/*
 * K4.  The page of the old end is written before or with what is behind it.  Between its zeros and
 * the new size no store through a mapping comes into it: S11.
 */
static int write_behind_gap(struct write *w)
{
	bool dirty;
	int err;

	rwlock_write(&w->ip->invalidate);
	err = file_zero_tail(w->ip, w->ip->size, FILE_TAIL_PAGE, &dirty);
	if (err == 0)
		err = file_grow_pinned(w->ip, w->end);
	if (err == 0)
		err = write_pages(w);
	rwlock_write_unlock(&w->ip->invalidate);
	return err;
}

/* With the inode's lock held. */
static int write_locked(struct write *w, uint32_t flags)
{
	struct inode *ip = w->ip;
	uint64_t most = file_size_max(ip);
	int err;

	if (inode_has_flag(ip, EXT4_IMMUTABLE_FL | EXT4_VERITY_FL))
		return fail(-EPERM, "inode %u is immutable", ip->ino);
	if (w->start >= most)
		return fail(-EFBIG, "inode %u: a file of %" PRIu64 " bytes is the largest", ip->ino,
			    most);
	w->end = min_u64(w->end, most);
	err = quota_load(ip);
	if (err == 0)
		err = file_finish_cut(ip);
	if (err == 0 && (flags & (FILE_WRITE_KILL_PRIV | FILE_WRITE_CHECKED)) != FILE_WRITE_CHECKED)
		err = file_drop_privileges(ip, flags & FILE_WRITE_KILL_PRIV);
	if (err == 0 && ip->state != INODE_BLOCKS)
		err = inline_prepare(ip, max_u64(w->end, ip->size), w->root);
	if (err < 0)
		return err;
	err = mapping_extend_frames(&ip->pages, div_round_up(w->end, PAGE_BYTES)); /* M8 */
	if (err < 0)
		return err;
	if (ip->state == INODE_INLINE)
		err = write_inline(w);
	else if (w->start > ip->size)
		err = write_behind_gap(w);
	else
		err = write_pages(w);
	if (w->at > w->start)
		file_touch(ip);
	return err;
}

/* *ret_start: where it went; *ret_done: how much of it. */
static int write_piece(struct inode *ip, struct staged *staged, uint64_t offset, uint32_t flags,
		       uint64_t *ret_start, size_t *ret_done)
{
	struct write w = {
		.ip = ip,
		.root = !(flags & FILE_WRITE_KILL_PRIV),
		.staged = staged,
	};
	int err;

	err = fs_write_begin(ip->fs);
	if (err < 0)
		return err;
	inode_lock(ip, INODE_CHILD);
	w.start = w.at = flags & FILE_WRITE_APPEND ? ip->size : offset;
	w.end = w.start + staged->bytes;
	err = write_locked(&w, flags);
	err = first_error(err, file_fit_frames(ip));
	inode_unlock(ip);
	fs_write_end(ip->fs);
	*ret_start = w.start;
	*ret_done = (size_t)(w.at - w.start);
	return err;
}

/* ---- the call -------------------------------------------------------------------------------- */

static int stage_and_write(struct inode *ip, const uint8_t *user, size_t len, uint64_t offset,
			   uint32_t flags, uint64_t *ret_start, size_t *ret_done)
{
	struct staged staged;
	unsigned tries = 0;
	int err;

	*ret_done = 0;
	err = cache_throttle(ip->fs->cache);
	if (err < 0)
		return err;
	cache_trim_frames(ip->fs->cache);
	if (flags & FILE_WRITE_APPEND)
		offset = file_shape(ip).size;
	do {
		err = stage(ip, user, len, offset, &staged);
		if (err < 0)
			return err;
		err = write_piece(ip, &staged, offset, flags, ret_start, ret_done);
		unstage(&staged);
	} while (*ret_done == 0 && file_retry_nospc(ip, err, &tries));
	return err;
}

/* Blocks are wanted now, or the data on the device. */
static int write_through(struct inode *ip, uint64_t start, uint64_t end, uint32_t flags)
{
	bool allocate = !ip->fs->delalloc && !file_is_journalled(ip);

	if (start == end || !(allocate || (flags & FILE_WRITE_DIRECT)))
		return 0;
	return mapping_flush(&ip->pages, start >> PAGE_BITS, (end - 1) >> PAGE_BITS);
}

int file_write(struct inode *ip, const void *user, size_t len, uint64_t offset, uint32_t flags,
	       size_t *ret_written, uint64_t *ret_offset)
{
	uint64_t start = offset, first = offset, end;
	size_t done = 0, step;
	int err = 0;

	if (flags & FILE_WRITE_APPEND)
		offset = 0;
	if (len > 0 && (!add_ok(offset, len, &end) || end > INT64_MAX))
		return fail(-EFBIG, "no file reaches to %" PRIu64 " and %zu bytes", offset, len);
	while (done < len && err == 0) {
		err = stage_and_write(ip, (const uint8_t *)user + done, len - done, offset + done,
				      flags, &start, &step);
		if (done == 0 && step > 0)
			first = start;
		if (step > 0)
			err = first_error(err, write_through(ip, start, start + step, flags));
		done += step;
	}
	if (done == 0 && err < 0)
		return err;
	*ret_written = done;
	*ret_offset = first;
	return 0;
}
