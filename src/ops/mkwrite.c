/* SPDX-License-Identifier: MIT */
/*
 * The first store into a page through a mapping (page_mkwrite of the kernel).
 *
 * A store cannot make a file larger.  So for data inside the inode it needs nothing but memory that
 * is there: no block, no handle, no conversion (S6), and so it works on a full file system too.  In
 * BLOCKS a hole gets a promise, as in a write; what has a place needs nothing.
 *
 *  MW1 The inode's lock is never taken (I6).  What of the state can change meanwhile changes under
 *      the page's lock (INLINE -> BLOCKS, sizes that grow over this page) or under `invalidate`
 *      exclusive (sizes that shrink, blocks that come and go without writeback).
 *  MW2 All parts of the page below the end of the file are dirty afterwards (P2), and no other: the
 *      rest of a larger block stays as it is.
 *  MW3 With data=journal the page joins a transaction when it is written back, as data of write(2)
 *      does: until then nothing on the disk knows of it.
 *  MW4 Without delayed allocation the page gets its block before the store is allowed: it is
 *      written once, by the handle of writeback, with no lock of a page held (a handle comes before
 *      a page).  Who must not wait is told before that; the promise is kept for who comes again.
 */
#include "ops/file_priv.h"

#include "base/diag.h"

/* MW2.  @size is behind the page's first byte. */
static uint8_t parts_below(const struct geom *g, const struct page *page, uint64_t size)
{
	uint64_t bytes = size - (page->index << PAGE_BITS);

	return parts_of(g, 0, (size_t)min_u64(bytes, PAGE_BYTES));
}

/* MW4: again when it has its blocks. */
static int allocate_now(struct inode *ip, struct page *page)
{
	int err;

	page_unlock(page);
	err = mapping_flush(&ip->pages, page->index, page->index);
	page_lock(page);
	return err < 0 ? err : -EAGAIN;
}

/* P2, in BLOCKS. */
static int dirty_parts(struct inode *ip, struct page *page, uint8_t parts, uint32_t flags)
{
	uint8_t promised = page->reserved;
	size_t done;
	int err;

	if ((flags & MKWRITE_IN_PLACE) && !delayed_has_place(ip, page, parts))
		return -EAGAIN;
	err = delayed_reserve(ip, &page, &parts, 1, !(flags & MKWRITE_UNPRIVILEGED), &done);
	if (err < 0)
		return err;
	err = page_set_dirty(page, parts);
	if (err < 0)
		delayed_drop(ip, page, parts & (uint8_t)~promised);
	return err;
}

static int mkwrite_blocks(struct inode *ip, struct page *page, uint64_t size, uint32_t flags)
{
	int err = dirty_parts(ip, page, parts_below(&ip->fs->geom, page, size), flags);

	if (err == 0 && page->reserved != 0 && !ip->fs->delalloc && !file_is_journalled(ip))
		return flags & MKWRITE_NOWAIT ? -EAGAIN : allocate_now(ip, page);
	return err;
}

int file_grow_pinned(struct inode *ip, uint64_t size)
{
	struct page *page;
	int err = 0;

	if ((ip->size & (PAGE_BYTES - 1)) == 0)
		return 0;
	page = page_grab_present(&ip->pages, ip->size >> PAGE_BITS);
	if (page == NULL)
		return 0;
	if (page_is_pinned_for_stores(page))
		err = dirty_parts(ip, page, parts_below(&ip->fs->geom, page, size), 0);
	page_unlock_put(page);
	return err;
}

int file_mkwrite(struct mapping *m, struct page *page, uint32_t flags)
{
	struct inode *ip = container_of(m, struct inode, pages);
	struct file_shape shape;
	int err;

	if (inode_has_flag(ip, EXT4_IMMUTABLE_FL | EXT4_VERITY_FL))
		return fail(-EPERM, "inode %u is immutable", ip->ino);
	shape = file_shape(ip); /* MW1 */
	assert(shape.state != INODE_EMPTY && shape.size > page->index << PAGE_BITS);
	if (shape.state == INODE_INLINE)
		err = page_set_dirty(page, PAGE_ALL_PARTS);
	else
		err = mkwrite_blocks(ip, page, shape.size, flags);
	if (err == 0)
		file_touch(ip);
	return err;
}

bool file_mkwrite_retry(struct mapping *m, int err, unsigned *tries)
{
	return file_retry_nospc(container_of(m, struct inode, pages), err, tries);
}
