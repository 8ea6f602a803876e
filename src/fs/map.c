/* SPDX-License-Identifier: MIT */
/*
 * Mapping of logical to physical blocks.
 *
 * The one way from "block 7 of this file" to "block 81920 of the device".  Chooses between the
 * extent tree, the legacy block map, and what fast commits said last.  Inline data has no mapping;
 * to ask for one is a bug of the caller.
 *
 * M1  What is handed out has count > 0, ends at or below UINT32_MAX, and lies inside the file
 *     system.
 */
#include "fs/fs_priv.h"

#include "base/diag.h"

/* The extents of a fast commit replace the tree: sorted, without overlaps, holes left out. */
static void fc_extents_find(const struct fc_inode *fc, lblk_t logical, struct map_ext *ret_ext)
{
	size_t low = 0, high = fc->extents_count; /* how many extents start at or before @logical */
	const struct map_ext *ext;
	uint32_t skip;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (fc->extents[middle].logical <= logical)
			low = middle + 1;
		else
			high = middle;
	}
	ext = low > 0 ? &fc->extents[low - 1] : NULL;
	if (!ext || logical - ext->logical >= ext->count) {
		lblk_t end = low < fc->extents_count ? fc->extents[low].logical : UINT32_MAX;

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

int map_read(struct inode *ip, lblk_t logical, struct map_ext *ret_ext)
{
	struct map_ext ext = { 0 };
	int err = 0;

	assert(ip->state == INODE_BLOCKS);
	if (logical == UINT32_MAX)
		return corrupt("inode %u: a file has at most 2^32 - 1 blocks", ip->ino);

	rwlock_read(&ip->map_lock);
	if (ip->fc && ip->fc->has_extents)
		fc_extents_find(ip->fc, logical, &ext);
	else if (inode_has_flag(ip, EXT4_EXTENTS_FL))
		err = extent_find(ip, logical, &ext);
	else
		err = indirect_find(ip, logical, &ext);
	rwlock_read_unlock(&ip->map_lock);
	if (err < 0)
		return err;

	assert(ext.logical == logical && ext.count > 0 && ext.count <= UINT32_MAX - logical);
	assert((ext.state == MAP_HOLE) == (ext.physical == 0));
	*ret_ext = ext;
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
