/* SPDX-License-Identifier: MIT */
/*
 * Mapping of logical to physical blocks.
 *
 * The one way from "block 7 of this file" to "block 81920 of the device".  Chooses between the
 * extent tree, the legacy block map, and what fast commits said last.  Inline data has no mapping;
 * to ask for one is a bug of the caller.
 *
 *  M1  What is handed out has count > 0, ends at or below UINT32_MAX, and lies inside the file
 *      system.
 *  M3  What map_read() remembers of an inode was true when map_lock was last free: it is put there
 *      under map_lock shared, and forgotten under map_lock exclusive before the map changes.  So
 *      who finds it without any lock has an answer that was right when he asked.
 */
#include "fs/map_priv.h"
#include "fs/quota.h"

#include "base/diag.h"

size_t map_ext_upper(const struct map_ext *exts, size_t count, lblk_t logical)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (exts[middle].logical <= logical)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The extents of a fast commit replace the tree: sorted, without overlaps, holes left out. */
static void fc_extents_find(const struct fc_inode *fc, lblk_t logical, struct map_ext *ret_ext)
{
	const size_t upper = map_ext_upper(fc->extents, fc->extents_count, logical);
	const struct map_ext *ext;
	uint32_t skip;

	ext = upper > 0 ? &fc->extents[upper - 1] : NULL;
	if (!ext || logical - ext->logical >= ext->count) {
		lblk_t end = upper < fc->extents_count ? fc->extents[upper].logical : UINT32_MAX;

		*ret_ext = (struct map_ext){ .logical = logical, .count = end - logical };
		return;
	}
	skip = logical - ext->logical;
	*ret_ext = (struct map_ext){
		.logical = logical,
		.count = ext->count - skip,
		.physical = ext->physical + skip,
		.state = ext->state,
	};
}

/* ---- what was found last (M3) ---------------------------------------------------------------- */

#define CACHE_STATE_SHIFT 62 /* of the second word; the physical block lies below */

/*
 * Two words under a counter that is odd while they are written.  Loads acquire and stores release,
 * so that whoever sees a new word sees the counter that goes with it.
 */
static bool cache_find(struct inode *ip, lblk_t logical, struct map_ext *ret_ext)
{
	struct map_cache *c = &ip->map_cache;
	uint32_t seq = atomic_load_explicit(&c->seq, memory_order_acquire);
	uint64_t range = atomic_load_explicit(&c->range, memory_order_acquire);
	uint64_t place = atomic_load_explicit(&c->place, memory_order_acquire);
	lblk_t first = (lblk_t)(range >> 32);

	if (logical - first >= (uint32_t)range || (seq & 1) ||
	    atomic_load_explicit(&c->seq, memory_order_relaxed) != seq)
		return false;
	*ret_ext = (struct map_ext){
		.logical = first,
		.count = (uint32_t)range,
		.physical = place & ((UINT64_C(1) << CACHE_STATE_SHIFT) - 1),
		.state = (enum map_state)(place >> CACHE_STATE_SHIFT),
	};
	return true;
}

static void cache_write(struct map_cache *c, uint64_t range, uint64_t place)
{
	uint32_t seq = atomic_load_explicit(&c->seq, memory_order_relaxed);

	/* If somebody else is at it, his is as good. */
	if ((seq & 1) || !atomic_compare_exchange_strong(&c->seq, &seq, seq + 1))
		return;
	atomic_store_explicit(&c->range, range, memory_order_release);
	atomic_store_explicit(&c->place, place, memory_order_release);
	atomic_store_explicit(&c->seq, seq + 2, memory_order_release);
}

static void cache_remember(struct inode *ip, const struct map_ext *ext)
{
	cache_write(&ip->map_cache, (uint64_t)ext->logical << 32 | ext->count,
		    ext->physical | (uint64_t)ext->state << CACHE_STATE_SHIFT);
}

void map_cache_forget(struct inode *ip)
{
	cache_write(&ip->map_cache, 0, 0); /* nobody else is at it: map_lock is exclusive */
}

/* ---- finding --------------------------------------------------------------------------------- */

/* The extent or hole around @logical. */
static int find_locked(struct inode *ip, lblk_t logical, struct map_ext *ret_ext)
{
	if (ip->fc && ip->fc->has_extents) {
		fc_extents_find(ip->fc, logical, ret_ext);
		return 0;
	}
	return inode_has_flag(ip, EXT4_EXTENTS_FL) ? extent_find(ip, logical, ret_ext)
						   : indirect_find(ip, logical, ret_ext);
}

int map_read(struct inode *ip, lblk_t logical, struct map_ext *ret_ext)
{
	struct map_ext ext = { 0 };
	uint32_t skip;
	int err = 0;

	assert(ip->state == INODE_BLOCKS);
	if (logical == UINT32_MAX)
		return corrupt("inode %u: a file has at most 2^32 - 1 blocks", ip->ino);

	if (!cache_find(ip, logical, &ext)) {
		rwlock_read(&ip->map_lock);
		err = find_locked(ip, logical, &ext);
		if (err == 0)
			cache_remember(ip, &ext);
		rwlock_read_unlock(&ip->map_lock);
	}
	if (err < 0)
		return err;

	skip = logical - ext.logical;
	assert(ext.count > skip && ext.count <= UINT32_MAX - ext.logical);
	assert((ext.state == MAP_HOLE) == (ext.physical == 0));
	*ret_ext = (struct map_ext){
		.logical = logical,
		.count = ext.count - skip,
		.physical = ext.state == MAP_HOLE ? 0 : ext.physical + skip,
		.state = ext.state,
	};
	return 0;
}

int map_read_buf_ahead(struct inode *ip, lblk_t logical, const struct buf_ops *ops, const void *arg,
		       uint32_t ahead, struct buf **ret_buf)
{
	struct map_ext ext;
	int err;

	err = map_read(ip, logical, &ext);
	if (err < 0)
		return err;
	if (ext.state != MAP_WRITTEN)
		return corrupt("inode %u: block %u of it is %s", ip->ino, logical,
			       ext.state == MAP_HOLE ? "a hole" : "not written");
	return buf_read(ip->fs->cache, ext.physical, ops, inode_buf_owner(ip), arg,
			(uint32_t)min_u64(ahead, ext.count - 1), ret_buf);
}

int map_read_buf(struct inode *ip, lblk_t logical, const struct buf_ops *ops, const void *arg,
		 struct buf **ret_buf)
{
	return map_read_buf_ahead(ip, logical, ops, arg, 0, ret_buf);
}

/* ---- what a change may cost, and what there is room for -------------------------------------- */

/*
 * Which kind of map the inode has, or will have when it gets one.  Asked without a lock, for an
 * estimate: whoever makes it another has the inode's lock, as does he who asks.
 */
static bool will_have_extents(const struct inode *ip)
{
	return inode_has_flag(ip, EXT4_EXTENTS_FL) || inode_has_flag(ip, EXT4_INLINE_DATA_FL);
}

uint32_t map_credits_for(const struct inode *ip, uint32_t extents)
{
	uint32_t credits = will_have_extents(ip) ? extent_credits(ip, extents)
						 : indirect_credits(ip, extents);

	return credits + INODE_STORE_CREDITS + quota_credits(ip->fs) + 1;
}

uint32_t map_credits(const struct inode *ip)
{
	return map_credits_for(ip, 1);
}

uint64_t map_blocks_max(const struct inode *ip)
{
	return inode_has_flag(ip, EXT4_EXTENTS_FL) ? UINT32_MAX
						   : indirect_blocks_max(&ip->fs->geom);
}

uint64_t map_size_max(const struct inode *ip)
{
	const struct geom *g = &ip->fs->geom;
	uint64_t blocks = map_blocks_max(ip);

	/* i_blocks must be able to count them, in units of 512 bytes. */
	if (!geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_HUGE_FILE))
		blocks = min_u64(blocks, UINT32_MAX >> (g->block_bits - 9));
	return blocks << g->block_bits;
}
