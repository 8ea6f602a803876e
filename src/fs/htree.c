/* SPDX-License-Identifier: MIT */
/*
 * Hash trees over directories: going from a hash to the leaf with the names of that hash.
 *
 * Every node maps ranges of hashes to blocks of the directory; the root is block 0.  A name lies in
 * the leaf whose range its hash falls into.  When names of one hash fill more than a leaf, the
 * border between the two leaves is that hash with bit 0 set: both sides hold names of it.
 *
 * H1  Levels are at most three whatever the disk says.
 * H2  Ranges of a level lie inside the range of the entry above, ascending, and two of them share a
 *     border only if it is odd.  So a walk from leaf to leaf by ascending hashes ends, and comes to
 *     no node twice.
 * H3  As many leaves may share one hash as the directory has blocks, and no more.
 */
#include "fs/fs_priv.h"

#include "base/diag.h"

#define HASH_BEHIND_ALL (1ull << 32)
#define ROOT_VERSIONS 3u /* DX_HASH_LEGACY, HALF_MD4, TEA: as in s_def_hash_version */

/* ---- blocks ---------------------------------------------------------------------------------- */

static int root_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	const struct dx_root *root = data;

	/* A tree of another kind is none of ours; "." and ".." are entries in any case. */
	if (root->info.hash_version >= ROOT_VERSIONS)
		return verify_dirents(arg, data, bytes, blk, false);
	return verify_dx_root(arg, data, blk);
}

static int node_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return verify_dx_node(arg, data, blk);
}

const struct buf_ops htree_root_ops = { .name = "directory index root", .verify = root_verify };
const struct buf_ops htree_node_ops = { .name = "directory index block", .verify = node_verify };

bool htree_version(const struct geom *g, uint8_t disk_version, uint8_t *ret_version)
{
	if (disk_version >= ROOT_VERSIONS)
		return false;
	*ret_version = (uint8_t)(disk_version + (g->hash_unsigned ? DX_HASH_LEGACY_UNSIGNED : 0));
	return true;
}

/* ---- one level ------------------------------------------------------------------------------- */

static uint32_t entry_hash(const struct htree_level *l, uint32_t index)
{
	return index == 0 ? l->lo : le32_get(l->entries[index].hash);
}

/* Where the range of the entry ends by which @l is left. */
static uint64_t level_end(const struct htree_level *l)
{
	return l->at + 1 < l->count ? entry_hash(l, l->at + 1) : l->end;
}

static lblk_t level_block(const struct htree_level *l)
{
	return le32_get(l->entries[l->at].block) & DX_BLOCK_MASK;
}

static bool border_is_good(uint64_t before, uint64_t behind)
{
	return before < behind || (before == behind && (before & 1));
}

/* H2, around the entry by which @l is left. */
static int level_check(const struct htree *t, const struct htree_level *l)
{
	uint32_t lo = entry_hash(l, l->at);

	if ((l->at > 0 && !border_is_good(entry_hash(l, l->at - 1), lo)) ||
	    !border_is_good(lo, level_end(l)))
		return corrupt("directory %u, index block %llu: hashes out of order at entry %u",
			       t->ip->ino, (unsigned long long)l->buf->blk, l->at);
	return 0;
}

static void level_fill(struct htree_level *l, struct buf *buf, const struct dx_entry *entries,
		       uint32_t lo, uint64_t end)
{
	const struct dx_countlimit *counts = (const void *)entries;

	*l = (struct htree_level){
		.buf = buf,
		.entries = entries,
		.count = le16_get(counts->count),
		.lo = lo,
		.end = end,
	};
}

/* Leaves @l by the last entry whose range begins at or before @hash. */
static int level_search(const struct htree *t, struct htree_level *l, uint32_t hash)
{
	uint32_t low = 1, high = l->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (entry_hash(l, middle) <= hash)
			low = middle + 1;
		else
			high = middle;
	}
	l->at = low - 1;
	return level_check(t, l);
}

/* ---- paths ----------------------------------------------------------------------------------- */

int htree_open(struct inode *ip, struct htree *ret_tree, bool *ret_known)
{
	const struct dx_root *root;
	struct verify_inode vi;
	struct buf *buf;
	uint8_t version;
	int err;

	inode_verify_arg(ip, &vi);
	err = map_read_buf(ip, 0, &htree_root_ops, &vi, &buf);
	if (err < 0)
		return fail_in(err, "directory %u", ip->ino);
	root = (const void *)buf->data;
	if (!htree_version(&ip->fs->geom, root->info.hash_version, &version)) {
		buf_put(buf);
		*ret_known = false;
		return 0;
	}
	*ret_tree = (struct htree){
		.ip = ip,
		.version = version,
		.levels = root->info.indirect_levels + 1u,
	};
	assert(ret_tree->levels <= HTREE_LEVELS_MAX);
	level_fill(&ret_tree->level[0], buf, root->entries, 0, HASH_BEHIND_ALL);
	*ret_known = true;
	return 0;
}

void htree_close(struct htree *t)
{
	for (uint32_t i = 0; i < t->levels; i++) {
		buf_put(t->level[i].buf);
		t->level[i].buf = NULL;
	}
}

/* Is this a block of the directory behind its root? */
static int check_block(const struct htree *t, lblk_t logical)
{
	uint32_t blocks;
	int err;

	err = dir_blocks(t->ip, &blocks);
	if (err < 0)
		return err;
	if (logical == 0 || logical >= blocks)
		return corrupt("directory %u: its index leads to block %u of %u", t->ip->ino,
			       logical, blocks);
	return 0;
}

/* Reads the node that level @index - 1 leads to into level @index. */
static int level_read(struct htree *t, uint32_t index)
{
	struct htree_level *above = &t->level[index - 1], *l = &t->level[index];
	lblk_t logical = level_block(above);
	const struct dx_node *node;
	struct verify_inode vi;
	struct buf *buf;
	int err;

	err = check_block(t, logical);
	if (err < 0)
		return err;
	inode_verify_arg(t->ip, &vi);
	err = map_read_buf(t->ip, logical, &htree_node_ops, &vi, &buf);
	if (err < 0)
		return fail_in(err, "directory %u", t->ip->ino);

	buf_put(l->buf);
	node = (const void *)buf->data;
	level_fill(l, buf, node->entries, entry_hash(above, above->at), level_end(above));
	if (l->count > 1 && (entry_hash(l, 1) < l->lo || entry_hash(l, l->count - 1) > l->end))
		return corrupt("directory %u, index block %llu: hashes outside of its range",
			       t->ip->ino, (unsigned long long)buf->blk);
	return 0;
}

int htree_seek(struct htree *t, uint32_t hash)
{
	for (uint32_t i = 0; i < t->levels; i++) {
		int err = 0;

		if (i > 0)
			err = level_read(t, i);
		if (err == 0)
			err = level_search(t, &t->level[i], hash);
		if (err < 0)
			return err;
	}
	return 0;
}

int htree_next(struct htree *t)
{
	uint32_t i = t->levels - 1;
	int err;

	while (t->level[i].at + 1 >= t->level[i].count) {
		assert(i > 0);
		i--;
	}
	t->level[i].at++;
	err = level_check(t, &t->level[i]);
	for (i++; err == 0 && i < t->levels; i++) {
		err = level_read(t, i);
		if (err == 0)
			err = level_check(t, &t->level[i]);
	}
	return err;
}

int htree_leaf(const struct htree *t, struct htree_leaf *ret_leaf)
{
	const struct htree_level *l = &t->level[t->levels - 1];
	int err;

	err = check_block(t, level_block(l));
	if (err < 0)
		return err;
	*ret_leaf = (struct htree_leaf){
		.block = level_block(l),
		.lo = entry_hash(l, l->at),
		.end = level_end(l),
	};
	return 0;
}

int htree_find(struct htree *t, const void *name, size_t name_len, struct dir_place *ret_place)
{
	struct dir_hash hash;
	uint32_t blocks;
	int err;

	err = dir_hash(t->version, t->ip->fs->geom.hash_seed, name, name_len, &hash);
	if (err < 0)
		return err;
	err = dir_blocks(t->ip, &blocks);
	if (err < 0)
		return err;
	err = htree_seek(t, hash.major);
	if (err < 0)
		return err;

	for (uint32_t leaves = 0; leaves < blocks; leaves++) {
		struct htree_leaf leaf;
		struct dir_place found;

		err = htree_leaf(t, &leaf);
		if (err < 0)
			return err;
		err = dir_read_leaf(t->ip, leaf.block, 0, &found.buf, &found.row);
		if (err < 0)
			return err;
		if (dirents_find(&found.row, name, name_len, &found.place)) {
			found.logical = leaf.block;
			*ret_place = found;
			return 0;
		}
		buf_put(found.buf);
		if (leaf.end != (hash.major | 1u))
			return -ENOENT;
		err = htree_next(t);
		if (err < 0)
			return err;
	}
	return corrupt("directory %u: more leaves share hash %08x than there are blocks",
		       t->ip->ino, hash.major);
}
