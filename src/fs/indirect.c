/* SPDX-License-Identifier: MIT */
/*
 * The legacy block map of ext2 and ext3: 12 direct pointers in i_block, then one to a block of
 * pointers, one to a block of such blocks, and one level more.
 *
 * Nothing in these blocks tells what they are: all that can be verified is that every pointer is 0
 * or lies inside the file system.  That holds at every level, so a block that is named at two
 * levels is wrong data but no danger.  i_block itself was verified with its inode.  Called through
 * map.c only, which holds map_lock.
 *
 * B1  A run handed out lies in one block of pointers; a hole may reach over several slots of
 *     i_block.
 */
#include "fs/map_priv.h"

#include "base/diag.h"

static bool pointer_is_good(const struct geom *g, uint32_t pointer)
{
	return pointer == 0 || (pointer > g->first_data_block && pointer < g->blocks);
}

static int indirect_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	const struct verify_inode *vi = arg;
	const le32 *pointers = data;

	for (uint32_t i = 0; i < bytes / sizeof(*pointers); i++)
		if (!pointer_is_good(vi->geom, le32_get(pointers[i])))
			return corrupt("inode %u, indirect block %llu: pointer %u is block %u",
				       vi->ino, (unsigned long long)blk, i, le32_get(pointers[i]));
	return 0;
}

const struct buf_ops indirect_ops = { .name = "indirect block", .verify = indirect_verify };

/* How many pointers from @index on are 0. */
static uint32_t count_zeros(const le32 *pointers, uint32_t index, uint32_t pointers_count)
{
	uint32_t count = 0;

	while (index + count < pointers_count && le32_get(pointers[index + count]) == 0)
		count++;
	return count;
}

/* How many pointers from @index on name blocks in a row. */
static uint32_t count_run(const le32 *pointers, uint32_t index, uint32_t pointers_count)
{
	uint64_t first = le32_get(pointers[index]);
	uint32_t count = 1;

	while (index + count < pointers_count && le32_get(pointers[index + count]) == first + count)
		count++;
	return count;
}

bool indirect_place_find(const struct geom *g, lblk_t logical, struct indirect_place *ret)
{
	uint64_t rest = logical;

	if (logical < EXT4_NDIR_BLOCKS) {
		*ret = (struct indirect_place){ .slot = logical };
		return true;
	}
	rest -= EXT4_NDIR_BLOCKS;
	for (uint32_t level = 1; level <= 3; level++) {
		if (rest < indirect_span(g, level)) {
			*ret = (struct indirect_place){ EXT4_IND_BLOCK + level - 1, level, rest };
			return true;
		}
		rest -= indirect_span(g, level);
	}
	return false;
}

uint64_t indirect_blocks_max(const struct geom *g)
{
	uint64_t blocks = EXT4_NDIR_BLOCKS;

	for (uint32_t level = 1; level <= 3; level++)
		blocks += indirect_span(g, level);
	return min_u64(blocks, UINT32_MAX);
}

int indirect_read(struct inode *ip, blk_t blk, struct buf **ret_buf)
{
	struct verify_inode vi;
	int err;

	inode_verify_arg(ip, &vi);
	err = buf_read(ip->fs->cache, blk, &indirect_ops, inode_buf_owner(ip), &vi, 0, ret_buf);
	return err < 0 ? fail_in(err, "inode %u, block map", ip->ino) : 0;
}

static void hole(lblk_t logical, uint64_t count, struct map_ext *ret_ext)
{
	*ret_ext = (struct map_ext){
		.logical = logical,
		.count = (uint32_t)min_u64(count, UINT32_MAX - logical),
	};
}

/* The hole that begins under a slot of i_block that is 0, and goes on over those that are 0 too. */
static void root_hole(const struct inode *ip, lblk_t logical, const struct indirect_place *place,
		      struct map_ext *ret_ext)
{
	const struct geom *g = &ip->fs->geom;
	uint64_t count = indirect_span(g, place->level) - place->rest;
	uint32_t slot = place->slot + 1;

	for (; slot < EXT4_N_BLOCKS && le32_get(ip->raw->i_block[slot]) == 0; slot++)
		count += indirect_span(g,
				       slot < EXT4_NDIR_BLOCKS ? 0 : slot - EXT4_NDIR_BLOCKS + 1);
	hole(logical, slot == EXT4_N_BLOCKS ? UINT32_MAX : count, ret_ext);
}

static void written(lblk_t logical, const le32 *pointers, uint32_t index, uint32_t pointers_count,
		    struct map_ext *ret_ext)
{
	*ret_ext = (struct map_ext){
		.logical = logical,
		.count = (uint32_t)min_u64(count_run(pointers, index, pointers_count),
					   UINT32_MAX - logical),
		.physical = le32_get(pointers[index]),
		.state = MAP_WRITTEN,
	};
}

/* Goes down from pointer @blk with place.level blocks of pointers on the way. */
static int descend(struct inode *ip, lblk_t logical, struct indirect_place place, blk_t blk,
		   struct map_ext *ret_ext)
{
	const struct geom *g = &ip->fs->geom;
	const uint32_t pointers_count = indirect_pointers(g);
	struct buf *buf BUF_SCOPE = NULL;

	for (;;) {
		const le32 *pointers;
		uint32_t index;
		int err;

		buf_put(buf);
		buf = NULL;
		err = indirect_read(ip, blk, &buf);
		if (err < 0)
			return err;
		pointers = (const void *)buf->data;
		place.level--;
		index = (uint32_t)(place.rest / indirect_span(g, place.level));
		place.rest %= indirect_span(g, place.level);
		blk = le32_get(pointers[index]);
		if (blk == 0) {
			uint64_t zeros = count_zeros(pointers, index, pointers_count);

			hole(logical, zeros * indirect_span(g, place.level) - place.rest, ret_ext);
			return 0;
		}
		if (place.level == 0) {
			written(logical, pointers, index, pointers_count, ret_ext);
			return 0;
		}
	}
}

int indirect_find(struct inode *ip, lblk_t logical, struct map_ext *ret_ext)
{
	const struct geom *g = &ip->fs->geom;
	struct indirect_place place;
	blk_t blk;

	if (!indirect_place_find(g, logical, &place)) {
		hole(logical, UINT32_MAX, ret_ext);
		return 0;
	}
	blk = le32_get(ip->raw->i_block[place.slot]);
	if (blk == 0) {
		root_hole(ip, logical, &place, ret_ext);
		return 0;
	}
	if (place.level > 0)
		return descend(ip, logical, place, blk, ret_ext);
	written(logical, ip->raw->i_block, place.slot, EXT4_NDIR_BLOCKS, ret_ext);
	return 0;
}

/* The last pointer before @index that is not 0, or 0. */
static blk_t last_before(const le32 *pointers, uint32_t index)
{
	while (index > 0)
		if (le32_get(pointers[--index]) != 0)
			return le32_get(pointers[index]);
	return 0;
}

/* Behind the block before it that the same block of pointers names, else behind that block. */
int indirect_goal(struct inode *ip, lblk_t logical, blk_t *ret_goal)
{
	const struct geom *g = &ip->fs->geom;
	struct buf *buf BUF_SCOPE = NULL;
	struct indirect_place place;
	const le32 *pointers = ip->raw->i_block;
	uint32_t index;
	blk_t near = 0;

	if (!indirect_place_find(g, logical, &place))
		return fail(-EFBIG, "inode %u: a block map has no block %u", ip->ino, logical);
	for (index = place.slot; place.level > 0;) {
		blk_t blk = le32_get(pointers[index]), before = last_before(pointers, index);
		int err;

		if (blk == 0) {
			*ret_goal = before != 0 ? before : near;
			return 0;
		}
		near = blk + 1;
		buf_put(buf);
		buf = NULL;
		err = indirect_read(ip, blk, &buf);
		if (err < 0)
			return err;
		pointers = (const void *)buf->data;
		place.level--;
		index = (uint32_t)(place.rest / indirect_span(g, place.level));
		place.rest %= indirect_span(g, place.level);
	}
	if (last_before(pointers, index) != 0)
		near = last_before(pointers, index) + 1;
	*ret_goal = near;
	return 0;
}
