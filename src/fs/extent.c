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
#include "fs/map_priv.h"

#include "base/diag.h"

/* A part of the tree: the node at @blk and what is below. */
struct subtree {
	blk_t blk;
	uint16_t depth;
	lblk_t first, end;
};

static int extent_node_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return verify_extent_node(arg, data, bytes, blk);
}

const struct buf_ops extent_node_ops = { .name = "extent block", .verify = extent_node_verify };

struct map_ext extent_decode(const struct ext4_extent *ex)
{
	uint32_t len = le16_get(ex->ee_len);
	bool unwritten = len > EXT_INIT_MAX_LEN;

	return (struct map_ext){
		.logical = le32_get(ex->ee_block),
		.count = unwritten ? len - EXT_INIT_MAX_LEN : len,
		.physical = (blk_t)le16_get(ex->ee_start_hi) << 32 | le32_get(ex->ee_start_lo),
		.state = unwritten ? MAP_UNWRITTEN : MAP_WRITTEN,
	};
}

struct ext4_extent extent_encode(const struct map_ext *ext)
{
	uint32_t unwritten = ext->state == MAP_UNWRITTEN ? EXT_INIT_MAX_LEN : 0;

	return (struct ext4_extent){
		.ee_block = le32_make(ext->logical),
		.ee_len = le16_make((uint16_t)(ext->count + unwritten)),
		.ee_start_hi = le16_make((uint16_t)(ext->physical >> 32)),
		.ee_start_lo = le32_make((uint32_t)ext->physical),
	};
}

/* How many entries start at or before @logical. */
static uint32_t node_search(struct ext4_extent_header *eh, lblk_t logical)
{
	uint32_t low = 0, high = extent_entries(eh);

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (extent_key(eh, middle) <= logical)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* What lies below entry @index of the inner node @eh, whose own range ends at @end. */
static struct subtree node_child(struct ext4_extent_header *eh, uint32_t index, lblk_t end)
{
	const struct ext4_extent_idx *ix = extent_index_at(eh, index);

	return (struct subtree){
		.blk = (blk_t)le16_get(ix->ei_leaf_hi) << 32 | le32_get(ix->ei_leaf_lo),
		.depth = (uint16_t)(le16_get(eh->eh_depth) - 1),
		.first = extent_key(eh, index),
		.end = index + 1 < extent_entries(eh) ? extent_key(eh, index + 1) : end,
	};
}

static int node_read(struct inode *ip, const struct subtree *sub, struct buf **ret_buf)
{
	struct ext4_extent_header *eh;
	struct verify_inode vi;
	struct buf *node;
	uint32_t entries;
	int err;

	inode_verify_arg(ip, &vi);
	vi.depth = sub->depth;
	vi.first = sub->first;
	vi.end = sub->end;
	err = buf_read(ip->fs->cache, sub->blk, &extent_node_ops, inode_buf_owner(ip), &vi, 0,
		       &node);
	if (err < 0)
		return fail_in(err, "inode %u, extent tree", ip->ino);

	eh = (void *)node->data;
	entries = extent_entries(eh);
	if (le16_get(eh->eh_depth) != sub->depth ||
	    (entries > 0 && (extent_key(eh, 0) < sub->first ||
			     extent_key(eh, entries - 1u) >= sub->end))) { /* E2 */
		buf_put(node);
		return corrupt("inode %u, extent block %llu: not of the depth or range it is for",
			       ip->ino, (unsigned long long)sub->blk);
	}
	*ret_buf = node;
	return 0;
}

/* ---- paths ----------------------------------------------------------------------------------- */

int extent_child_read(struct extent_path *p, uint32_t l, uint32_t index, struct extent_level *ret)
{
	struct subtree sub = node_child(p->level[l].eh, index, p->level[l].end);
	struct buf *buf = NULL;
	int err;

	err = node_read(p->ip, &sub, &buf);
	if (err < 0)
		return err;
	*ret = (struct extent_level){
		.buf = buf,
		.eh = (void *)buf->data,
		.first = sub.first,
		.end = sub.end,
	};
	return 0;
}

void extent_path_close(struct extent_path *p)
{
	for (uint32_t l = 1; l <= p->depth; l++)
		buf_put(p->level[l].buf);
	p->depth = 0;
}

int extent_path_open(struct inode *ip, lblk_t logical, struct extent_path *ret)
{
	struct extent_path *p = ret;
	struct extent_level *level = &p->level[0];

	p->ip = ip;
	p->depth = 0; /* how far it is open */
	*level = (struct extent_level){ .eh = (void *)ip->raw->i_block, .end = UINT32_MAX };
	while (le16_get(level->eh->eh_depth) > 0) { /* E1 */
		uint32_t before = node_search(level->eh, logical);
		int err;

		level->at = before > 0 ? before - 1 : 0;
		err = extent_child_read(p, p->depth, level->at, level + 1);
		if (err < 0) {
			extent_path_close(p);
			return err;
		}
		level++;
		p->depth++;
	}
	level->at = node_search(level->eh, logical);
	return 0;
}

/* ---- finding --------------------------------------------------------------------------------- */

/*
 * Where the hole behind the last extent of the leaf ends: at the first extent of the next leaf.
 * Usually that is the key of its index entry, but an index may stay behind when its first extents
 * are removed.
 */
static int hole_end_behind(struct extent_path *p, lblk_t *ret_end)
{
	uint32_t l = p->depth;
	struct subtree sub;
	lblk_t key;

	do {
		if (l == 0) {
			*ret_end = UINT32_MAX;
			return 0;
		}
		l--;
	} while (p->level[l].at + 1 >= extent_entries(p->level[l].eh));
	sub = node_child(p->level[l].eh, p->level[l].at + 1, p->level[l].end);
	key = sub.first;

	for (;;) {
		struct buf *buf BUF_SCOPE = NULL;
		struct ext4_extent_header *eh;
		int err;

		err = node_read(p->ip, &sub, &buf);
		if (err < 0)
			return err;
		eh = (void *)buf->data;
		if (extent_entries(eh) == 0 || sub.depth == 0) {
			*ret_end = extent_entries(eh) == 0 ? key : extent_key(eh, 0);
			return 0;
		}
		sub = node_child(eh, 0, sub.end);
	}
}

static int leaf_find(struct extent_path *p, lblk_t logical, struct map_ext *ret_ext)
{
	struct extent_level *leaf = &p->level[p->depth];
	lblk_t hole_start = logical, hole_end;
	int err;

	if (leaf->at > 0) {
		struct map_ext ext = extent_decode(extent_at(leaf->eh, leaf->at - 1));

		ext.count = (uint32_t)min_u64(ext.count, leaf->end - ext.logical);
		if (logical - ext.logical < ext.count) {
			*ret_ext = ext;
			return 0;
		}
		hole_start = ext.logical + ext.count;
	}
	if (leaf->at < extent_entries(leaf->eh)) {
		hole_end = extent_key(leaf->eh, leaf->at);
	} else {
		err = hole_end_behind(p, &hole_end);
		if (err < 0)
			return err;
	}
	*ret_ext = (struct map_ext){ .logical = hole_start, .count = hole_end - hole_start };
	return 0;
}

int extent_find(struct inode *ip, lblk_t logical, struct map_ext *ret_ext)
{
	struct extent_path p;
	int err;

	err = extent_path_open(ip, logical, &p);
	if (err < 0)
		return err;
	err = leaf_find(&p, logical, ret_ext);
	extent_path_close(&p);
	return err;
}

int extent_is_used(struct inode *ip, lblk_t first, lblk_t end, bool *ret_used)
{
	while (first < end) {
		struct map_ext ext;
		int err;

		err = extent_find(ip, first, &ext);
		if (err < 0)
			return err;
		if (ext.state != MAP_HOLE) {
			*ret_used = true;
			return 0;
		}
		first = ext.logical + ext.count;
	}
	*ret_used = false;
	return 0;
}

/* As if the file lay in one piece with its neighbour, the one before if there is one. */
int extent_goal(struct inode *ip, lblk_t logical, blk_t *ret_goal)
{
	struct extent_path p;
	struct extent_level *leaf;
	blk_t goal = 0;
	int err;

	err = extent_path_open(ip, logical, &p);
	if (err < 0)
		return err;
	leaf = &p.level[p.depth];
	if (leaf->at > 0) {
		struct map_ext ext = extent_decode(extent_at(leaf->eh, leaf->at - 1));

		goal = ext.physical + (logical - ext.logical);
	} else if (extent_entries(leaf->eh) > 0) {
		struct map_ext ext = extent_decode(extent_at(leaf->eh, 0));

		goal = ext.physical - min_u64(ext.physical, ext.logical - logical);
	}
	extent_path_close(&p);
	*ret_goal = goal <= ip->fs->geom.first_data_block || goal >= ip->fs->geom.blocks ? 0 : goal;
	return 0;
}
