/* SPDX-License-Identifier: MIT */
/*
 * The hash tree of a directory: which block is a node, which a leaf, and what hashes a leaf may
 * have.
 *
 *  H1  Every block of the directory is led to once; so the walk is no longer than the directory.
 *  H2  Levels are at most HTREE_LEVELS_MAX, checked with the root.
 */
#include "fs/check_priv.h"

#include "base/diag.h"

#include <inttypes.h>

#define HASH_BEHIND_ALL (1ull << 32)

struct level {
	const struct dx_entry *entries;
	uint32_t count, next;
	uint32_t lo;  /* hashes below it: from it on, */
	uint64_t end; /* and below this */
};

struct tree {
	struct check_dir_reader *r;
	struct check_dx_block *blocks;
	struct verify_inode vi;
	struct level level[HTREE_LEVELS_MAX];
	uint32_t levels;
	bool good;
};

static uint32_t entry_hash(const struct level *l, uint32_t index)
{
	return index == 0 ? l->lo : le32_get(l->entries[index].hash);
}

static uint64_t entry_end(const struct level *l, uint32_t index)
{
	return index + 1 < l->count ? entry_hash(l, index + 1) : l->end;
}

/* Two neighbours share a border only if it is odd: a hash whose names fill more than a block. */
static bool borders_good(const struct level *l)
{
	for (uint32_t i = 0; i < l->count; i++) {
		uint64_t lo = entry_hash(l, i), end = entry_end(l, i);

		if (lo > end || (lo == end && !(lo & 1)) || (i > 0 && lo < l->lo))
			return false;
	}
	return true;
}

static void level_fill(struct level *l, const struct dx_entry *entries, uint32_t lo, uint64_t end)
{
	const struct dx_countlimit *counts = (const void *)entries;

	*l = (struct level){
		.entries = entries, .count = le16_get(counts->count), .lo = lo, .end = end
	};
}

static void bad(struct tree *t, const char *what, lblk_t logical)
{
	check_problem(t->r->ck, "directory %u, index: block %u %s", t->r->dir->ino, logical, what);
	t->good = false;
}

/* The node at @logical, into the level below @depth. */
static void enter(struct tree *t, uint32_t depth, lblk_t logical)
{
	const struct level *above = &t->level[depth];
	uint8_t *copy = t->r->ck->node[depth + 1];
	const struct dx_node *node = (const void *)copy;
	struct level *l = &t->level[depth + 1];
	const uint8_t *data;
	blk_t blk;

	*l = (struct level){ 0 };
	data = check_dir_block(t->r, logical, &blk);
	if (!data) {
		t->good = false;
		return;
	}
	memcpy(copy, data, t->vi.geom->block_size);
	if (!check_good(t->r->ck, verify_dx_node(&t->vi, copy, blk))) {
		t->good = false;
		return;
	}
	level_fill(l, node->entries, entry_hash(above, above->next - 1),
		   entry_end(above, above->next - 1));
	if (!borders_good(l)) {
		bad(t, "has hashes out of order or of its range", logical);
		l->count = 0;
	}
}

/* Goes on by the next entry of level @depth; the new depth. */
static uint32_t step(struct tree *t, uint32_t depth)
{
	struct level *l = &t->level[depth];
	uint32_t index = l->next++;
	lblk_t logical = le32_get(l->entries[index].block) & DX_BLOCK_MASK;
	struct check_dx_block *block;

	if (logical == 0 || logical >= t->r->dir->blocks) {
		bad(t, "is led to, but is not there", logical);
		return depth;
	}
	block = &t->blocks[logical];
	if (block->kind != CHECK_BLOCK_UNSEEN) {
		bad(t, "is led to twice", logical);
		return depth;
	}
	if (depth + 1 < t->levels) {
		block->kind = CHECK_BLOCK_NODE;
		enter(t, depth, logical);
		return depth + 1;
	}
	*block = (struct check_dx_block){
		.kind = CHECK_BLOCK_LEAF,
		.lo = entry_hash(l, index),
		.end = entry_end(l, index),
	};
	return depth;
}

static bool open_root(struct tree *t, uint8_t *ret_version)
{
	struct check *ck = t->r->ck;
	const struct dx_root *root = (const void *)ck->node[0];
	const uint8_t *data;
	blk_t blk;

	data = check_dir_block(t->r, 0, &blk);
	if (!data)
		return false;
	memcpy(ck->node[0], data, ck->g->block_size);
	if (!check_good(ck, verify_dx_root(&t->vi, root, blk)))
		return false;
	if (!htree_version(ck->g, root->info.hash_version, ret_version)) {
		check_problem(ck, "directory %u, index: hash version %u", t->r->dir->ino,
			      root->info.hash_version);
		return false;
	}
	t->levels = root->info.indirect_levels + 1u;
	t->blocks[0].kind = CHECK_BLOCK_ROOT;
	level_fill(&t->level[0], root->entries, 0, HASH_BEHIND_ALL);
	if (!borders_good(&t->level[0])) {
		bad(t, "has hashes out of order", 0);
		return false;
	}
	return true;
}

int check_htree(struct check_dir_reader *r, struct check_dx_block *blocks, uint8_t *ret_version,
		bool *ret_good)
{
	const struct check_dir *dir = r->dir;
	struct tree t = {
		.r = r,
		.blocks = blocks,
		.vi = { .geom = r->ck->g, .ino = dir->ino, .generation = dir->generation },
		.good = true,
	};
	uint32_t depth = 0;

	t.vi.csum_seed = verify_inode_seed(r->ck->g, dir->ino, dir->generation);
	*ret_good = false;
	if (dir->blocks == 0 || !open_root(&t, ret_version))
		return 0;
	while (depth > 0 || t.level[0].next < t.level[0].count) {
		if (t.level[depth].next >= t.level[depth].count)
			depth--;
		else
			depth = step(&t, depth);
	}
	for (lblk_t logical = 0; t.good && logical < dir->blocks; logical++) {
		if (blocks[logical].kind == CHECK_BLOCK_UNSEEN)
			bad(&t, "is not led to", logical);
	}
	*ret_good = t.good;
	return 0;
}
