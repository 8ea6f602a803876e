/* SPDX-License-Identifier: MIT */
/*
 * What the files of mapping share: the two kinds of map behind map.c and map_write.c, nodes of
 * extent trees, paths through them, and one change of such a tree.
 *
 * All of it requires map_lock: shared to find, exclusive to change.
 */
#ifndef FS_MAP_PRIV_H
#define FS_MAP_PRIV_H

#include "fs/fs_priv.h"

/* ---- the two kinds; called by map.c and map_write.c only ------------------------------------- */

/* The whole extent, or as much of a hole as is known, that covers @logical. */
int extent_find(struct inode *ip, lblk_t logical, struct map_ext *ret_ext) MUST_CHECK;
int indirect_find(struct inode *ip, lblk_t logical, struct map_ext *ret_ext) MUST_CHECK;
/* Where block @logical would best lie, from what is mapped near it; 0: nothing is. */
int extent_goal(struct inode *ip, lblk_t logical, blk_t *ret_goal) MUST_CHECK;
int indirect_goal(struct inode *ip, lblk_t logical, blk_t *ret_goal) MUST_CHECK;

/*
 * Maps @ext, which is a hole, and records @run (NULL: there is nothing to record) in the same
 * breath; accounts for both and for what the map itself needed.  After an error nothing has
 * changed.  @flags, here and below: as balloc_alloc_meta()'s, for blocks of the map.
 */
int extent_insert(struct handle *h, struct inode *ip, const struct map_ext *ext,
		  const struct blk_run *run, uint32_t flags) MUST_CHECK;
int indirect_insert(struct handle *h, struct inode *ip, const struct map_ext *ext,
		    const struct blk_run *run, uint32_t flags) MUST_CHECK;
int extent_convert(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count,
		   enum map_state state, uint32_t flags) MUST_CHECK;
/*
 * Removes what is mapped in [@first, *@end) from the end; *@end becomes what remains to be done,
 * also after an error.  *@blocks is how many blocks the inode has lost.
 */
int extent_remove(struct handle *h, struct inode *ip, lblk_t first, lblk_t *end, uint64_t *blocks)
	MUST_CHECK;
int indirect_remove(struct handle *h, struct inode *ip, lblk_t first, lblk_t *end, uint64_t *blocks)
	MUST_CHECK;

/* Credits for one change but for the inode and the quota; the same for @extents of them. */
uint32_t extent_credits(const struct inode *ip, uint32_t extents);
uint32_t indirect_credits(const struct inode *ip, uint32_t extents);
/* The same for one step of a removal, with map_lock held. */
uint32_t extent_remove_credits(const struct inode *ip);
uint32_t indirect_remove_credits(void);

/* ---- map.c ----------------------------------------------------------------------------------- */

/* The map changes: what map_read() remembers of it is void. */
void map_cache_forget(struct inode *ip);
/* How many blocks a map of this kind has numbers for. */
uint64_t map_blocks_max(const struct inode *ip);
uint64_t indirect_blocks_max(const struct geom *g);

/* ---- accounts: map_write.c ------------------------------------------------------------------- */

/*
 * @blocks more will be the inode's: from here on its quota says so, and its buffer is in the
 * handle, so that map_settle() cannot fail.  With BALLOC_META limits do not matter: data was
 * promised before, and what its map needs must not keep it from its place.  map_uncharge(): they
 * will not.
 */
int map_charge(struct handle *h, struct inode *ip, uint64_t blocks, uint32_t flags) MUST_CHECK;
void map_uncharge(struct handle *h, struct inode *ip, uint64_t blocks);
/* What the handle has for the map: the quota's part of it comes last. */
uint32_t map_credits_left(const struct handle *h, const struct inode *ip);
/* The change is made: the inode has @blocks more, and is stored. */
int map_settle(struct handle *h, struct inode *ip, int64_t blocks) MUST_CHECK;

/* A block for the map itself; *ret_buf is in the handle, zeroed.  The inode is not charged. */
int map_node_create(struct handle *h, struct inode *ip, blk_t goal, uint32_t flags,
		    const struct buf_ops *ops, struct buf **ret_buf) MUST_CHECK;
/* Frees block @blk of the map.  After an error nothing has changed.  Does not account. */
int map_node_free(struct handle *h, struct inode *ip, blk_t blk) MUST_CHECK;
/* The same where the map has let go of it already: waits for memory, and else aborts. */
void map_node_drop(struct handle *h, struct inode *ip, blk_t blk);
/* Frees blocks of the file's contents, whole clusters.  Does not account. */
int map_data_free(struct handle *h, struct inode *ip, blk_t start, uint32_t count) MUST_CHECK;
/* The contents are metadata for the journal: what is freed has to be revoked (J3). */
bool map_data_is_meta(const struct inode *ip);
/*
 * How many of the last of @count blocks from @blk on can be freed in one step: those in one group,
 * and of metadata, which is revoked block by block, no more than REVOKE_CREDITS are for.
 */
uint32_t map_free_count(const struct inode *ip, blk_t blk, uint32_t count);

/* Up to 126 (blocks of 1 KiB) freed blocks of metadata need a block of the log, or a part of it. */
#define REVOKE_CREDITS 1u

/* What a block costs the inode: with bigalloc a cluster. */
static inline uint32_t map_node_blocks(const struct inode *ip)
{
	return ip->fs->geom.cluster_ratio;
}

/* ---- block maps: indirect.c ------------------------------------------------------------------ */

extern const struct buf_ops indirect_ops; /* arg: struct verify_inode */

/* Where a block is in the map. */
struct indirect_place {
	uint32_t slot;	/* of i_block */
	uint32_t level; /* blocks of pointers below the slot */
	uint64_t rest;	/* blocks before it under the slot */
};

/* False: the map has no such block. */
bool indirect_place_find(const struct geom *g, lblk_t logical, struct indirect_place *ret);
/* Reads a block of pointers. */
int indirect_read(struct inode *ip, blk_t blk, struct buf **ret_buf) MUST_CHECK;

static inline uint32_t indirect_pointers(const struct geom *g)
{
	return g->block_size / (uint32_t)sizeof(le32);
}

/* Blocks one pointer stands for with @level blocks of pointers below it. */
static inline uint64_t indirect_span(const struct geom *g, uint32_t level)
{
	return UINT64_C(1) << (g->block_bits - 2) * level;
}

/* ---- nodes of extent trees: extent.c --------------------------------------------------------- */

extern const struct buf_ops extent_node_ops; /* arg: struct verify_inode */

static inline struct ext4_extent *extent_at(struct ext4_extent_header *eh, uint32_t index)
{
	return (struct ext4_extent *)(void *)(eh + 1) + index;
}

static inline struct ext4_extent_idx *extent_index_at(struct ext4_extent_header *eh, uint32_t index)
{
	return (struct ext4_extent_idx *)(void *)(eh + 1) + index;
}

/* The logical block of an entry: it comes first in both kinds. */
static inline lblk_t extent_key(struct ext4_extent_header *eh, uint32_t index)
{
	_Static_assert(offsetof(struct ext4_extent, ee_block) == 0 &&
			       offsetof(struct ext4_extent_idx, ei_block) == 0 &&
			       sizeof(struct ext4_extent) == sizeof(struct ext4_extent_idx),
		       "the keys of leaves and inner nodes lie alike");
	return le32_get(extent_at(eh, index)->ee_block);
}

static inline uint32_t extent_entries(const struct ext4_extent_header *eh)
{
	return le16_get(eh->eh_entries);
}

/* An entry of a leaf in host order, and back: no longer than an entry can say. */
struct map_ext extent_decode(const struct ext4_extent *ex);
struct ext4_extent extent_encode(const struct map_ext *ext);

/* @b goes on where @a ends. */
static inline bool extent_joinable(const struct map_ext *a, const struct map_ext *b)
{
	return a->logical + a->count == b->logical && a->physical + a->count == b->physical &&
	       a->state == b->state;
}

/* How many blocks one entry can say. */
static inline uint32_t extent_count_max(enum map_state state)
{
	return state == MAP_UNWRITTEN ? EXT_INIT_MAX_LEN - 1 : EXT_INIT_MAX_LEN;
}

/* ---- paths: extent.c ------------------------------------------------------------------------- */

#define EXTENT_LEVELS (EXT4_MAX_EXTENT_DEPTH + 1)

struct extent_level {
	struct buf *buf;	       /* NULL: the root, which lies in the inode */
	struct ext4_extent_header *eh; /* in it */
	/* Of an inner node the entry we went down by; of a leaf how many begin at or before. */
	uint32_t at;
	lblk_t first, end; /* the range its parent gives it */
	bool writable;	   /* it is in the handle */
};

/* From the root, level 0, to a leaf, level `depth`. */
struct extent_path {
	struct inode *ip;
	uint32_t depth;
	struct extent_level level[EXTENT_LEVELS];
};

/* The path to the leaf where @logical is mapped or would be.  Closed also if this fails. */
int extent_path_open(struct inode *ip, lblk_t logical, struct extent_path *ret) MUST_CHECK;
void extent_path_close(struct extent_path *p);
/* Reads what entry @index of level @l leads to. */
int extent_child_read(struct extent_path *p, uint32_t l, uint32_t index, struct extent_level *ret)
	MUST_CHECK;
/* Is anything mapped in [@first, @end)? */
int extent_is_used(struct inode *ip, lblk_t first, lblk_t end, bool *ret_used) MUST_CHECK;

/* ---- one change of a tree: extent_edit.c ----------------------------------------------------- */

#define EXTENT_ADD_MAX 6u

/*
 * Entries [at, at + remove) of the leaf that `path` leads to give way to add[].  The caller opens
 * the path and sets these; then prepare(), which does all that may fail, and either apply(), which
 * cannot, or cancel().  Both end it and close the path.
 */
struct extent_edit {
	struct handle *h;
	struct extent_path path;
	uint32_t at, remove, add_count;
	struct ext4_extent add[EXTENT_ADD_MAX];
	blk_t goal; /* for new nodes */
	uint32_t flags;
	/* extent_edit.c's own */
	struct buf *fresh[EXTENT_LEVELS];
	uint32_t fresh_count, fresh_used;
	bool grows; /* the tree gets a level */
};

/* *ret_blocks: what the tree needs, charged by nobody yet. */
int extent_edit_prepare(struct extent_edit *e, uint64_t *ret_blocks) MUST_CHECK;
void extent_edit_apply(struct extent_edit *e);
void extent_edit_cancel(struct extent_edit *e);

/* The leaf, and above it what changes with the first entry of the leaf, may change from here on. */
int extent_path_write(struct handle *h, struct extent_path *p, bool first_changes) MUST_CHECK;
/* Entries [from, to) of a leaf go; the one before them, if it `shortens`, becomes `last`. */
struct extent_trim {
	uint32_t from, to;
	bool shortens;
	struct ext4_extent last;
};
/*
 * Does so; a leaf that becomes empty leaves the tree with what becomes empty above it.  *blocks
 * counts what is freed.
 */
void extent_leaf_trim(struct handle *h, struct extent_path *p, const struct extent_trim *trim,
		      uint64_t *blocks);
/*
 * Joins sparse nodes around @logical with their neighbours, and lets the root take in what fits, as
 * far as @credits go.  Nothing of it has to be: it has no errors.
 */
void extent_tree_join(struct handle *h, struct inode *ip, lblk_t logical, uint32_t credits,
		      uint64_t *blocks);

#endif
