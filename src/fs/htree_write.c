/* SPDX-License-Identifier: MIT */
/*
 * Hash trees as they grow: from a directory of one block, by splitting leaves, nodes and, at last,
 * the root.  They never shrink.
 *
 * Each step takes its new block first and then changes everything in memory, so that it happens or
 * does not: between steps the tree is right, and when a later step finds no space the tree has
 * another shape but holds what it held.  After a step the way down is looked for again.
 *
 *  W1  A leaf is split between two hashes where that is possible.  If it is not, both halves hold
 *      names of one hash, and the border has bit 0 set (htree.c).
 *  W2  A half has room for any entry: a leaf of 1012 bytes or more whose entries have at most 264
 *      is split near its middle.
 *  W3  One htree_add() takes at most three blocks: a leaf, and two of nodes and a root that gets a
 *      level.  (A node has room for more entries than the root: what a root held does not fill
 *      it.)
 */
#include "fs/dir.h"
#include "fs/fs_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "disk/seal.h"

#include <stdlib.h>

#define STEPS_MAX 8u /* W3: three steps, one of packing, one that adds; and some */

/* ---- nodes ----------------------------------------------------------------------------------- */

static uint32_t entries_max(const struct inode *ip, uint32_t entries_at)
{
	const struct geom *g = &ip->fs->geom;
	uint32_t bytes = g->block_size - entries_at;

	if (geom_has_csum(g))
		bytes -= (uint32_t)sizeof(struct dx_tail);
	return bytes / (uint32_t)sizeof(struct dx_entry);
}

static struct dx_entry *level_entries(const struct htree_level *l)
{
	return (void *)(l->buf->data + ((const uint8_t *)l->entries - l->buf->data));
}

/* They lie where the first entry has no hash. */
static struct dx_countlimit *counts_of(struct dx_entry *entries)
{
	return (void *)entries;
}

static bool level_is_full(const struct htree_level *l)
{
	return l->count >= le16_get(counts_of(level_entries(l))->limit);
}

static void set_count(struct dx_entry *entries, uint32_t count)
{
	counts_of(entries)->count = le16_make((uint16_t)count);
}

/* @entries_at: where they begin in a block. */
static void set_counts(const struct inode *ip, struct dx_entry *entries, uint32_t entries_at,
		       uint32_t count)
{
	counts_of(entries)->limit = le16_make((uint16_t)entries_max(ip, entries_at));
	set_count(entries, count);
}

/* Checksum, handle_dirty(). */
static void level_changed(struct handle *h, const struct htree *t, uint32_t index)
{
	struct buf *buf = t->level[index].buf;
	struct verify_inode vi;

	inode_verify_arg(t->ip, &vi);
	if (index == 0)
		seal_dx_root(&vi, buf->data);
	else
		seal_dx_node(&vi, buf->data);
	handle_dirty(h, buf);
}

/* Hashes from @hash on lie in @block: behind the entry by which the level is left. */
static void level_insert(struct htree_level *l, uint32_t hash, lblk_t block)
{
	struct dx_entry *entries = level_entries(l), *new = &entries[l->at + 1];

	assert(!level_is_full(l));
	memmove(new + 1, new, (l->count - l->at - 1) * sizeof(*new));
	*new = (struct dx_entry){ .hash = le32_make(hash), .block = le32_make(block) };
	set_count(entries, ++l->count);
}

/* A new node gets @count entries of another. */
static void node_fill(struct handle *h, struct inode *ip, struct buf *buf,
		      const struct dx_entry *from, uint32_t count)
{
	struct dx_node *node = (void *)buf->data;
	struct verify_inode vi;

	node->fake = (struct fake_dirent){
		.rec_len = dirent_rec_len_make(ip->fs->geom.block_size, ip->fs->geom.block_size),
	};
	memcpy(node->entries, from, count * sizeof(*from));
	set_counts(ip, node->entries, offsetof(struct dx_node, entries), count);
	inode_verify_arg(ip, &vi);
	seal_dx_node(&vi, buf->data);
	handle_dirty(h, buf);
}

/* ---- a tree begins --------------------------------------------------------------------------- */

/* The empty root of a tree whose one leaf is block 1, in a block that held "." and "..". */
static void root_fill(struct handle *h, struct inode *ip, struct buf *buf, uint32_t parent_ino)
{
	const struct geom *g = &ip->fs->geom;
	struct dx_root *root = (void *)buf->data;
	struct verify_inode vi;

	memset(root, 0, g->block_size);
	dir_fill_dots(ip, buf->data, parent_ino, g->block_size);
	root->info.hash_version = g->hash_version;
	root->info.info_length = sizeof(root->info);
	root->entries[0].block = le32_make(1);
	set_counts(ip, root->entries, offsetof(struct dx_root, entries), 1);
	inode_verify_arg(ip, &vi);
	seal_dx_root(&vi, buf->data);
	handle_dirty(h, buf);
}

/* All of @row but "." and "..", into the empty block @data. */
static void copy_entries(const struct dirents *row, uint8_t *data)
{
	const struct ext4_dir_entry_2 *de;
	uint32_t at = 0, place, end = 0;

	while ((de = dirents_next(row, &at, &place))) {
		uint32_t used = EXT4_DIR_ENTRY_BYTES(de->name_len);

		if (name_is_dot(de->name, de->name_len) || name_is_dotdot(de->name, de->name_len))
			continue;
		memcpy(data + end, de, used);
		((struct ext4_dir_entry_2 *)(void *)(data + end))->rec_len = dirent_rec_len_make(
			used, row->block_size);
		end += used;
	}
	dirents_close(data, row->block_size, end, row->bytes);
}

int htree_create(struct handle *h, struct inode *ip)
{
	struct buf *root BUF_SCOPE = NULL, *leaf BUF_SCOPE = NULL;
	struct dirent_place dotdot;
	struct dirents row;
	uint32_t parent_ino;
	lblk_t logical;
	int err;

	err = dir_read_leaf(ip, 0, 0, &root, &row);
	if (err < 0)
		return err;
	if (!dirents_find(&row, "..", 2, &dotdot))
		return corrupt("directory %u has no \"..\"", ip->ino);
	parent_ino = le32_get(dirents_at(&row, dotdot.at)->inode);
	err = handle_get_write(h, root);
	if (err == 0)
		err = dir_add_block(h, ip, &dir_leaf_ops, &leaf, &logical);
	if (err < 0)
		return err;
	assert(logical == 1);

	copy_entries(&row, leaf->data);
	handle_dirty_unsealed(h, leaf);
	root_fill(h, ip, root, parent_ino);
	inode_set_flags(ip, EXT4_INDEX_FL, 0);
	return dir_store(h, ip);
}

/* ---- leaves ---------------------------------------------------------------------------------- */

/* An entry of a leaf that is to be split. */
struct hashed {
	uint32_t hash;
	uint32_t at;
	uint32_t bytes;
};

static int hashed_compare(const void *a, const void *b)
{
	const struct hashed *left = a, *right = b;

	if (left->hash != right->hash)
		return left->hash < right->hash ? -1 : 1;
	return (left->at > right->at) - (left->at < right->at);
}

/* The entries of @row, by hash.  *ret (mem_free()) is as large as a block may need. */
static int hash_entries(const struct htree *t, const struct htree_leaf *leaf,
			const struct dirents *row, struct hashed **ret, uint32_t *ret_count)
{
	struct hashed *map = mem_calloc(row->bytes / EXT4_DIR_ENTRY_BYTES(1), sizeof(*map));
	const struct ext4_dir_entry_2 *de;
	uint32_t at = 0, place, count = 0;
	int err = 0;

	if (!map)
		return -ENOMEM;
	while (err == 0 && (de = dirents_next(row, &at, &place))) {
		struct dir_hash hash = { 0 };

		err = dir_hash(t->version, t->ip->fs->geom.hash_seed, de->name, de->name_len,
			       &hash);
		if (err == 0 && (hash.major < (leaf->lo & ~1u) || hash.major >= leaf->end))
			err = corrupt("directory %u: a name with hash %08x in the wrong leaf, %u",
				      t->ip->ino, hash.major, leaf->block);
		map[count++] = (struct hashed){
			.hash = hash.major,
			.at = place,
			.bytes = EXT4_DIR_ENTRY_BYTES(de->name_len),
		};
	}
	if (err < 0) {
		mem_free(map);
		return err;
	}
	qsort(map, count, sizeof(*map), hashed_compare);
	*ret = map;
	*ret_count = count;
	return 0;
}

/* How many entries stay in the leaf: half of it, by size (W2). */
static uint32_t choose_split(const struct hashed *map, uint32_t count, uint32_t bytes)
{
	uint32_t moved_bytes = 0, split = count;

	assert(count >= 2);
	while (split > 1 && moved_bytes + map[split - 1].bytes / 2 <= bytes / 2)
		moved_bytes += map[--split].bytes;
	return split;
}

/* The entries from @map on go from one leaf to an empty one. */
static void move_entries(const struct hashed *map, uint32_t count, const struct dirents *row,
			 uint8_t *from, uint8_t *to)
{
	uint32_t end = 0;

	for (uint32_t i = 0; i < count; i++) {
		struct ext4_dir_entry_2 *de = (void *)(to + end);

		memcpy(de, from + map[i].at, map[i].bytes);
		de->rec_len = dirent_rec_len_make(map[i].bytes, row->block_size);
		((struct ext4_dir_entry_2 *)(void *)(from + map[i].at))->inode = le32_make(0);
		end += map[i].bytes;
	}
	dirents_close(to, row->block_size, end, row->bytes);
	dirents_pack(from, row->block_size, row->bytes);
}

/* The leaf in @buf is full, the level above it is not. */
static int split_leaf(struct handle *h, struct htree *t, const struct htree_leaf *leaf,
		      struct buf *buf, const struct dirents *row)
{
	struct htree_level *above = &t->level[t->levels - 1];
	struct hashed *map FREE_SCOPE = NULL;
	struct buf *new BUF_SCOPE = NULL;
	uint32_t count, split, border;
	lblk_t logical;
	int err;

	err = hash_entries(t, leaf, row, &map, &count);
	if (err == 0)
		err = handle_get_write(h, buf);
	if (err == 0)
		err = handle_get_write(h, above->buf);
	if (err == 0)
		err = dir_add_block(h, t->ip, &dir_leaf_ops, &new, &logical);
	if (err < 0)
		return err;

	split = choose_split(map, count, row->bytes);
	border = map[split].hash;
	if (border == map[split - 1].hash)
		border |= 1; /* W1 */
	move_entries(map + split, count - split, row, buf->data, new->data);
	handle_dirty_unsealed(h, new);
	handle_dirty_unsealed(h, buf);
	level_insert(above, border, logical);
	level_changed(h, t, t->levels - 1);
	return 0;
}

/* ---- nodes and the root ---------------------------------------------------------------------- */

/* The node of level @index is full, the level above it is not. */
static int split_node(struct handle *h, struct htree *t, uint32_t index)
{
	struct htree_level *l = &t->level[index], *above = &t->level[index - 1];
	uint32_t stay = l->count / 2, hash = le32_get(l->entries[stay].hash);
	struct buf *new BUF_SCOPE = NULL;
	lblk_t logical;
	int err;

	err = handle_get_write(h, l->buf);
	if (err == 0)
		err = handle_get_write(h, above->buf);
	if (err == 0)
		err = dir_add_block(h, t->ip, &htree_node_ops, &new, &logical);
	if (err < 0)
		return err;
	node_fill(h, t->ip, new, l->entries + stay, l->count - stay);
	set_count(level_entries(l), stay);
	level_changed(h, t, index);
	level_insert(above, hash, logical);
	level_changed(h, t, index - 1);
	return 0;
}

/* A node gets what the full root holds, and the root leads to that. */
static int grow_root(struct handle *h, struct htree *t)
{
	struct htree_level *top = &t->level[0];
	struct dx_root *root = (void *)top->buf->data;
	struct buf *new BUF_SCOPE = NULL;
	lblk_t logical;
	int err;

	err = handle_get_write(h, top->buf);
	if (err == 0)
		err = dir_add_block(h, t->ip, &htree_node_ops, &new, &logical);
	if (err < 0)
		return err;
	node_fill(h, t->ip, new, top->entries, top->count);
	root->info.indirect_levels++;
	root->entries[0].block = le32_make(logical);
	set_count(root->entries, 1);
	level_changed(h, t, 0);
	return 0;
}

/* One step towards room for one more entry in the lowest level, which is full. */
static int make_room_above(struct handle *h, struct htree *t)
{
	uint32_t levels_max = HTREE_LEVELS_MAX;
	uint32_t full = t->levels - 1; /* the highest of those that are full, from below */

	if (!geom_has_incompat(&t->ip->fs->geom, EXT4_FEATURE_INCOMPAT_LARGEDIR))
		levels_max--;
	while (full > 0 && level_is_full(&t->level[full - 1]))
		full--;
	if (full > 0)
		return split_node(h, t, full);
	if (t->levels == levels_max)
		return fail(-ENOSPC, "directory %u: its index of %u levels is full", t->ip->ino,
			    t->levels);
	return grow_root(h, t);
}

/* ---- adding ---------------------------------------------------------------------------------- */

/* Puts @entry where it belongs, or makes a step towards that. */
static int add_step(struct handle *h, struct htree *t, const struct dirent_new *entry,
		    bool *ret_added)
{
	struct buf *buf BUF_SCOPE = NULL;
	struct htree_leaf leaf;
	struct dirents row;
	uint32_t at;
	bool found;
	int err;

	err = htree_leaf(t, &leaf);
	if (err == 0)
		err = dir_read_leaf(t->ip, leaf.block, 0, &buf, &row);
	if (err < 0)
		return err;
	found = dirents_find_room(&row, entry->name_len, &at);
	if (!found && dirents_free_bytes(&row) < EXT4_DIR_ENTRY_BYTES(entry->name_len)) {
		if (level_is_full(&t->level[t->levels - 1]))
			return make_room_above(h, t);
		return split_leaf(h, t, &leaf, buf, &row);
	}
	err = handle_get_write(h, buf);
	if (err < 0)
		return err;
	if (!found) {
		dirents_pack(buf->data, row.block_size, row.bytes);
		found = dirents_find_room(&row, entry->name_len, &at);
		assert(found);
	}
	dirents_insert(buf->data, row.block_size, at, entry);
	handle_dirty_unsealed(h, buf);
	*ret_added = true;
	return 0;
}

/* A tree with @hash looked up in it; -EOPNOTSUPP: one that is sorted by a hash we do not know. */
static int open_to_change(struct inode *ip, struct htree *ret_tree)
{
	bool known;
	int err;

	err = htree_open(ip, ret_tree, &known);
	if (err == 0 && !known)
		err = fail(-EOPNOTSUPP, "directory %u is sorted by a hash that is not known",
			   ip->ino);
	return err;
}

int htree_add(struct handle *h, struct inode *ip, const struct dirent_new *entry)
{
	bool added = false;
	int err = 0;

	for (unsigned step = 0; err == 0 && !added; step++) {
		struct dir_hash hash;
		struct htree tree;

		assert(step < STEPS_MAX);
		err = open_to_change(ip, &tree);
		if (err < 0)
			return err;
		err = dir_hash(tree.version, ip->fs->geom.hash_seed, entry->name, entry->name_len,
			       &hash);
		if (err == 0)
			err = htree_seek(&tree, hash.major);
		if (err == 0)
			err = add_step(h, &tree, entry, &added);
		htree_close(&tree);
	}
	return err;
}

int htree_set_parent(struct handle *h, struct inode *ip, uint32_t parent_ino)
{
	struct htree tree;
	int err;

	err = open_to_change(ip, &tree);
	if (err < 0)
		return err;
	err = handle_get_write(h, tree.level[0].buf);
	if (err == 0) {
		struct dx_root *root = (void *)tree.level[0].buf->data;

		root->dotdot.inode = le32_make(parent_ino);
		level_changed(h, &tree, 0);
	}
	htree_close(&tree);
	return err;
}
