/* SPDX-License-Identifier: MIT */
/*
 * The extent tree: finding.
 *
 * The root lies in i_block and was verified with its inode; every other node is verified when it is
 * read.  Called through map.c only, which holds map_lock.
 *
 * E1  A node's depth is its parent's minus one, so a walk is at most five nodes long whatever the
 *     disk says.
 * E2  A node's keys lie inside the range its parent gives it.  The cache verifies a block once for
 *     an inode, the tree may name it twice: so the borders are looked at again after each read.
 */
#include "fs/fs.h"

#include "base/diag.h"
#include "fs/fs_priv.h"

/* A part of the tree: the node at @blk and what is below. */
struct subtree {
	blk_t blk; /* 0: there is none */
	uint16_t depth;
	lblk_t first, end;
};

static int extent_node_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return verify_extent_node(arg, data, bytes, blk);
}

static const struct buf_ops extent_node_ops = { "extent block", extent_node_verify };

static const struct ext4_extent *node_extent(const struct ext4_extent_header *eh, uint32_t index)
{
	return (const struct ext4_extent *)(const void *)(eh + 1) + index;
}

static const struct ext4_extent_idx *node_index(const struct ext4_extent_header *eh, uint32_t index)
{
	return (const struct ext4_extent_idx *)(const void *)(eh + 1) + index;
}

/* The logical block of an entry: it comes first in both kinds. */
static lblk_t node_key(const struct ext4_extent_header *eh, uint32_t index)
{
	_Static_assert(offsetof(struct ext4_extent, ee_block) == 0 &&
			       offsetof(struct ext4_extent_idx, ei_block) == 0 &&
			       sizeof(struct ext4_extent) == sizeof(struct ext4_extent_idx),
		       "the keys of leaves and inner nodes lie alike");
	return le32_get(node_extent(eh, index)->ee_block);
}

/* How many entries start at or before @logical. */
static uint32_t node_search(const struct ext4_extent_header *eh, lblk_t logical)
{
	uint32_t low = 0, high = le16_get(eh->eh_entries);

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (node_key(eh, middle) <= logical)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* What lies below entry @index of the inner node @eh, whose own range ends at @end. */
static struct subtree node_child(const struct ext4_extent_header *eh, uint32_t index, lblk_t end)
{
	const struct ext4_extent_idx *ix = node_index(eh, index);

	return (struct subtree){
		.blk = (blk_t)le16_get(ix->ei_leaf_hi) << 32 | le32_get(ix->ei_leaf_lo),
		.depth = (uint16_t)(le16_get(eh->eh_depth) - 1),
		.first = node_key(eh, index),
		.end = index + 1 < le16_get(eh->eh_entries) ? node_key(eh, index + 1) : end,
	};
}

/* Reads the node of @sub; its buffer replaces the one in *@buf. */
static int node_read(struct inode *ip, const struct subtree *sub, struct buf **buf)
{
	const struct ext4_extent_header *eh;
	struct verify_inode vi;
	struct buf *node;
	uint16_t entries;
	int err;

	inode_verify_arg(ip, &vi);
	vi.depth = sub->depth;
	vi.first = sub->first;
	vi.end = sub->end;
	err = buf_read(ip->fs->cache, sub->blk, &extent_node_ops, inode_buf_owner(ip), &vi, 0,
		       &node);
	if (err < 0)
		return fail_in(err, "inode %u, extent tree", ip->ino);

	eh = (const void *)node->data;
	entries = le16_get(eh->eh_entries);
	if (le16_get(eh->eh_depth) != sub->depth ||
	    (entries > 0 &&
	     (node_key(eh, 0) < sub->first || node_key(eh, entries - 1u) >= sub->end))) {
		buf_put(node);
		return corrupt("inode %u, extent block %llu: not of the depth or range it is for",
			       ip->ino, (unsigned long long)sub->blk);
	}
	buf_put(*buf);
	*buf = node;
	return 0;
}

static bool extent_is_unwritten(const struct ext4_extent *ex)
{
	return le16_get(ex->ee_len) > EXT_INIT_MAX_LEN;
}

static uint32_t extent_count(const struct ext4_extent *ex)
{
	uint32_t len = le16_get(ex->ee_len);

	return len > EXT_INIT_MAX_LEN ? len - EXT_INIT_MAX_LEN : len;
}

/*
 * The first extent of @next, which is where a hole before it ends.  Usually that is the key of its
 * index entry, but an index may stay behind when its first extents are removed.
 */
static int neighbour_start(struct inode *ip, const struct subtree *next, lblk_t *ret_start)
{
	struct buf *buf BUF_SCOPE = NULL;
	struct subtree sub = *next;

	for (;;) {
		const struct ext4_extent_header *eh;
		int err;

		err = node_read(ip, &sub, &buf);
		if (err < 0)
			return err;
		eh = (const void *)buf->data;
		if (le16_get(eh->eh_entries) == 0) {
			*ret_start = next->first;
			return 0;
		}
		if (sub.depth == 0) {
			*ret_start = node_key(eh, 0);
			return 0;
		}
		sub = node_child(eh, 0, sub.end);
	}
}

/* @before: how many extents of the leaf start at or before @logical. */
static bool leaf_covers(const struct ext4_extent_header *eh, uint32_t before, lblk_t logical,
			lblk_t end, struct map_ext *ret_ext)
{
	const struct ext4_extent *ex;
	uint32_t skip;

	if (before == 0)
		return false;
	ex = node_extent(eh, before - 1);
	skip = logical - le32_get(ex->ee_block);
	if (skip >= extent_count(ex))
		return false;
	*ret_ext = (struct map_ext){
		.logical = logical,
		.count = (uint32_t)min_u64(extent_count(ex) - skip, end - logical),
		.physical = ((blk_t)le16_get(ex->ee_start_hi) << 32 | le32_get(ex->ee_start_lo)) +
			    skip,
		.state = extent_is_unwritten(ex) ? MAP_UNWRITTEN : MAP_WRITTEN,
	};
	return true;
}

int extent_find(struct inode *ip, lblk_t logical, struct map_ext *ret_ext)
{
	const struct ext4_extent_header *eh = (const void *)ip->raw->i_block;
	struct buf *buf BUF_SCOPE = NULL;
	struct subtree sub = { .end = UINT32_MAX };
	struct subtree next = { 0 }; /* what follows the leaf we come to */
	lblk_t hole_end = UINT32_MAX;
	uint32_t before;
	int err;

	while (le16_get(eh->eh_depth) > 0) {
		before = node_search(eh, logical);
		if (before < le16_get(eh->eh_entries))
			next = node_child(eh, before, sub.end);
		if (before == 0)
			goto hole;
		sub = node_child(eh, before - 1, sub.end);
		err = node_read(ip, &sub, &buf);
		if (err < 0)
			return err;
		eh = (const void *)buf->data;
	}

	before = node_search(eh, logical);
	if (leaf_covers(eh, before, logical, sub.end, ret_ext))
		return 0;
	if (before < le16_get(eh->eh_entries)) {
		hole_end = node_key(eh, before);
		next.blk = 0;
	}
hole:
	if (next.blk) {
		err = neighbour_start(ip, &next, &hole_end);
		if (err < 0)
			return err;
	}
	*ret_ext = (struct map_ext){ .logical = logical, .count = hole_end - logical };
	return 0;
}
