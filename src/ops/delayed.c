/* SPDX-License-Identifier: MIT */
/*
 * Promises: what a write takes of the free space before its data has a place.
 *
 * A part of a page that holds data for a hole is `reserved` (struct page).  Where a block is a page
 * or less and clusters are blocks, each block that is reserved stands for one promised cluster.
 * Elsewhere parts of several pages share a cluster: ip->delayed has an entry for each cluster with
 * reserved parts, which counts them and says whether a promise is kept for it.
 *
 *  D1  A part is reserved from the write that puts data into a hole until its block is mapped, or
 *      the data is thrown away.  While it is, the map is not asked again.
 *  D2  Who adds holds the page's lock, and reserve_lock where promises are shared: writers under
 *      the inode's lock, stores through mappings under `invalidate` shared.  Who makes a hole
 *      something else, but for writeback, holds both exclusive.  Writeback and truncation, which
 *      take away, hold the page's lock; delayed_lock keeps those of different pages apart.
 *  D3  A cluster without a promise that has an entry belongs to the file already, or is being
 *      written to.
 *  D4  The blocks of a block map come out of what is free, and there may be three for one of data.
 *      So each page with something reserved for such a file holds a promise for them too
 *      (RESERVED_MAP), which is given back right before the map is changed.  It is mostly too much:
 *      who meets -ENOSPC writes what is dirty and tries again.
 */
#include "ops/file_priv.h"

#include "base/mem.h"
#include "fs/quota.h"

/* D4: a bit of page.reserved beside those of the parts. */
#define RESERVED_MAP 0x10u
#define MAP_BLOCKS 3u

/* One entry of ip->delayed; by number of the cluster. */
struct delayed {
	uint32_t parts; /* reserved ones: blocks, or pages of a larger block */
	bool promised;
};

/* ---- promises -------------------------------------------------------------------------------- */

static int promise(struct inode *ip, uint64_t clusters, bool root)
{
	uint64_t blocks = clusters << ip->fs->geom.cluster_ratio_bits;
	int err;

	err = quota_reserve(ip, blocks);
	if (err < 0)
		return err;
	err = balloc_reserve(ip->fs, clusters, root);
	if (err < 0)
		quota_unreserve(ip, blocks);
	else
		atomic_fetch_add_explicit(&ip->delayed_blocks, blocks, memory_order_relaxed);
	return err;
}

/* The quota's part and ours; that of the free space was used up, or is given back. */
void delayed_used(struct inode *ip, uint64_t blocks)
{
	quota_unreserve(ip, blocks);
	atomic_fetch_sub_explicit(&ip->delayed_blocks, blocks, memory_order_relaxed);
}

static void take_back(struct inode *ip, uint64_t clusters)
{
	balloc_unreserve(ip->fs, clusters);
	delayed_used(ip, clusters << ip->fs->geom.cluster_ratio_bits);
}

static int promise_map(struct inode *ip, struct page *page, bool root)
{
	int err;

	if (inode_has_flag(ip, EXT4_EXTENTS_FL) || (page->reserved & RESERVED_MAP))
		return 0;
	err = balloc_reserve(ip->fs, MAP_BLOCKS, root);
	if (err == 0)
		page->reserved |= RESERVED_MAP;
	return err;
}

void delayed_release_map(struct inode *ip, struct page *page)
{
	if (!(page->reserved & RESERVED_MAP))
		return;
	page->reserved &= (uint8_t)~RESERVED_MAP;
	balloc_unreserve(ip->fs, MAP_BLOCKS);
}

/* Parts that were reserved are not so any more. */
static void clear_reserved(struct inode *ip, struct page *page, uint8_t parts)
{
	page->reserved &= (uint8_t)~parts;
	if (!(page->reserved & PAGE_ALL_PARTS))
		delayed_release_map(ip, page);
}

/* ---- shared promises ------------------------------------------------------------------------- */

static uint64_t cluster_of(const struct inode *ip, lblk_t logical)
{
	return logical >> ip->fs->geom.cluster_ratio_bits;
}

/* One more part, if the cluster has an entry. */
static bool add_to_entry(struct inode *ip, lblk_t logical)
{
	struct delayed *d;

	mutex_lock(&ip->delayed_lock);
	d = xarray_find(&ip->delayed, cluster_of(ip, logical));
	if (d != NULL)
		d->parts++;
	mutex_unlock(&ip->delayed_lock);
	return d != NULL;
}

static int add_entry(struct inode *ip, lblk_t logical, bool promised)
{
	struct delayed *d = mem_alloc(sizeof(*d));
	int err;

	if (d == NULL)
		return -ENOMEM;
	*d = (struct delayed){ .parts = 1, .promised = promised };
	mutex_lock(&ip->delayed_lock);
	err = xarray_insert(&ip->delayed, cluster_of(ip, logical), d); /* D2: nobody was faster */
	mutex_unlock(&ip->delayed_lock);
	if (err < 0)
		mem_free(d);
	return err;
}

/* A part of the hole at @logical becomes reserved. */
static int add_part_locked(struct inode *ip, lblk_t logical, bool root) REQUIRES(&ip->reserve_lock)
{
	uint32_t count;
	blk_t blk;
	int err;

	if (add_to_entry(ip, logical))
		return 0;
	err = map_find_cluster(ip, logical, &blk, &count);
	if (err == 0 && blk == 0)
		err = promise(ip, 1, root);
	if (err < 0)
		return err;
	err = add_entry(ip, logical, blk == 0);
	if (err < 0 && blk == 0)
		take_back(ip, 1);
	return err;
}

static int add_part(struct inode *ip, lblk_t logical, bool root)
{
	int err;

	mutex_lock(&ip->reserve_lock);
	err = add_part_locked(ip, logical, root);
	mutex_unlock(&ip->reserve_lock);
	return err;
}

/* One part less.  True if with the last one a promise is left over. */
static bool remove_part(struct inode *ip, lblk_t logical)
{
	uint64_t cluster = cluster_of(ip, logical);
	struct delayed *d;
	bool last, left_over;

	mutex_lock(&ip->delayed_lock);
	d = xarray_find(&ip->delayed, cluster);
	assert(d != NULL && d->parts > 0);
	last = --d->parts == 0;
	left_over = last && d->promised;
	if (last)
		(void)xarray_remove(&ip->delayed, cluster);
	mutex_unlock(&ip->delayed_lock);
	if (last)
		mem_free(d);
	return left_over;
}

bool delayed_is_promised(struct inode *ip, lblk_t logical)
{
	const struct delayed *d;
	bool promised;

	mutex_lock(&ip->delayed_lock);
	d = xarray_find(&ip->delayed, cluster_of(ip, logical));
	promised = d != NULL && d->promised;
	mutex_unlock(&ip->delayed_lock);
	return promised;
}

void delayed_set_promised(struct inode *ip, lblk_t logical, uint32_t blocks, bool promised)
{
	uint64_t last = cluster_of(ip, logical + blocks - 1);

	mutex_lock(&ip->delayed_lock);
	for (uint64_t at = cluster_of(ip, logical); at <= last; at++) {
		struct delayed *d = xarray_find(&ip->delayed, at);

		assert(d != NULL && d->promised != promised);
		d->promised = promised;
	}
	mutex_unlock(&ip->delayed_lock);
}

/* ---- parts of a page ------------------------------------------------------------------------- */

/* Those of @parts whose blocks are holes.  *@ext is what the map said last. */
static int find_holes(struct inode *ip, pgoff_t index, uint8_t parts, struct map_ext *ext,
		      uint8_t *ret_holes)
{
	const struct geom *g = &ip->fs->geom;
	unsigned step = parts_per_block(g);
	uint8_t holes = 0;

	for (unsigned part = 0; part < 4; part += step) {
		lblk_t logical = (lblk_t)part_block(g, index, part);
		int err;

		if (!(parts & 1u << part))
			continue;
		if (logical < ext->logical || logical - ext->logical >= ext->count) {
			err = map_read(ip, logical, ext);
			if (err < 0)
				return err;
		}
		if (ext->state == MAP_HOLE)
			holes |= (uint8_t)(((1u << step) - 1) << part);
	}
	*ret_holes = holes;
	return 0;
}

static uint64_t blocks_of(const struct geom *g, uint8_t parts)
{
	return (unsigned)__builtin_popcount(parts) / parts_per_block(g);
}

/* Shared promises for @holes of a page; all or none. */
static int reserve_shared(struct inode *ip, struct page *page, uint8_t holes, bool root)
{
	const struct geom *g = &ip->fs->geom;
	unsigned step = parts_per_block(g);

	for (unsigned part = 0; part < 4; part += step) {
		uint8_t bits = (uint8_t)(((1u << step) - 1) << part);
		int err;

		if (!(holes & bits))
			continue;
		err = add_part(ip, (lblk_t)part_block(g, page->index, part), root);
		if (err < 0) {
			delayed_drop(ip, page, holes & (uint8_t)((1u << part) - 1));
			return err;
		}
		page->reserved |= bits;
	}
	return 0;
}

static int reserve_page(struct inode *ip, struct page *page, uint8_t holes, bool root)
{
	int err;

	if (holes == 0)
		return 0;
	err = promise_map(ip, page, root);
	if (err == 0 && !delayed_is_simple(&ip->fs->geom)) {
		err = reserve_shared(ip, page, holes, root);
	} else if (err == 0) {
		err = promise(ip, blocks_of(&ip->fs->geom, holes), root);
		if (err == 0)
			page->reserved |= holes;
	}
	if (err < 0)
		clear_reserved(ip, page, 0);
	return err;
}

/* All at once, where that is one promise. */
static bool reserve_together(struct inode *ip, struct page *const *pages, const uint8_t *holes,
			     size_t count, bool root)
{
	uint64_t blocks = 0;

	if (!delayed_is_simple(&ip->fs->geom) || !inode_has_flag(ip, EXT4_EXTENTS_FL))
		return false;
	for (size_t i = 0; i < count; i++)
		blocks += blocks_of(&ip->fs->geom, holes[i]);
	if (blocks > 0 && promise(ip, blocks, root) < 0)
		return false;
	for (size_t i = 0; i < count; i++)
		pages[i]->reserved |= holes[i];
	return true;
}

/* Of @parts, those that have neither a place nor a promise (D1). */
static int find_new(struct inode *ip, const struct page *page, uint8_t parts, struct map_ext *ext,
		    uint8_t *ret_holes)
{
	/* What is dirty without being reserved has a place. */
	uint8_t unknown = parts & (uint8_t) ~(page->reserved | page->dirty);

	return find_holes(ip, page->index, unknown, ext, ret_holes);
}

bool delayed_has_place(struct inode *ip, const struct page *page, uint8_t parts)
{
	struct map_ext ext = { .count = 0 };
	uint8_t holes;

	return find_new(ip, page, parts, &ext, &holes) == 0 && holes == 0;
}

int delayed_reserve(struct inode *ip, struct page *const *pages, const uint8_t *parts, size_t count,
		    bool root, size_t *ret_done)
{
	struct map_ext ext = { .count = 0 };
	uint8_t holes[PAGES_BATCH_MAX];
	size_t done;
	int err = 0;

	assert(ip->state == INODE_BLOCKS && count > 0 && count <= PAGES_BATCH_MAX);
	for (size_t i = 0; i < count; i++) {
		err = find_new(ip, pages[i], parts[i], &ext, &holes[i]);
		if (err < 0)
			return err;
	}
	if (reserve_together(ip, pages, holes, count, root)) {
		*ret_done = count;
		return 0;
	}
	for (done = 0; done < count; done++) {
		err = reserve_page(ip, pages[done], holes[done], root);
		if (err < 0)
			break;
	}
	if (done == 0)
		return err;
	*ret_done = done;
	return 0;
}

void delayed_drop(struct inode *ip, struct page *page, uint8_t parts)
{
	const struct geom *g = &ip->fs->geom;
	unsigned step = parts_per_block(g);
	uint64_t clusters = 0;

	parts &= page->reserved;
	if (parts == 0)
		return;
	if (delayed_is_simple(g)) {
		clusters = blocks_of(g, parts);
	} else {
		for (unsigned part = 0; part < 4; part += step) {
			if (parts & 1u << part)
				clusters += remove_part(ip,
							(lblk_t)part_block(g, page->index, part));
		}
	}
	clear_reserved(ip, page, parts);
	if (clusters > 0)
		take_back(ip, clusters);
}

void delayed_done(struct inode *ip, struct page *page, uint8_t parts)
{
	const struct geom *g = &ip->fs->geom;
	unsigned step = parts_per_block(g);

	parts &= page->reserved;
	clear_reserved(ip, page, parts);
	if (delayed_is_simple(g))
		return;
	for (unsigned part = 0; part < 4; part += step) {
		/* Left over: its cluster became the file's by another way. */
		if ((parts & 1u << part) &&
		    remove_part(ip, (lblk_t)part_block(g, page->index, part)))
			take_back(ip, 1);
	}
}
