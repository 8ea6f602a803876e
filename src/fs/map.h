/* SPDX-License-Identifier: MIT */
/*
 * Logical to physical blocks of an inode in state BLOCKS: finding, and changing.
 *
 * map.c is the only caller of extent.c and indirect.c.  Everything takes map_lock itself.  Changes
 * need a handle with map_credits() or more, store the inode (inode_store()), and keep i_blocks and
 * the quota right.
 *
 *  M1  What is handed out has count > 0, ends at or below UINT32_MAX, and lies inside the file
 *      system.
 *  M2  A block becomes visible (mapped, written) only when its bytes are on disk or in the same
 *      transaction: otherwise a crash shows the previous owner's.
 */
#ifndef FS_MAP_H
#define FS_MAP_H

#include "fs/balloc.h"

enum map_state { MAP_HOLE, MAP_UNWRITTEN, MAP_WRITTEN };

struct map_ext {
	lblk_t logical;
	uint32_t count; /* a hole behind the last extent reaches UINT32_MAX */
	blk_t physical; /* 0 for a hole */
	enum map_state state;
};

/* How many of @count sorted extents start at or before @logical. */
size_t map_ext_upper(const struct map_ext *exts, size_t count, lblk_t logical);

/*
 * The extent that covers @logical, from @logical on (logical == @logical), or the hole that starts
 * there.  The state must be BLOCKS.  Takes map_lock shared; reads metadata.
 */
int map_read(struct inode *ip, lblk_t logical, struct map_ext *ret_ext) MUST_CHECK;

/*
 * Block @logical of a directory, symlink or other metadata-like file as a buffer.  -EFSCORRUPTED
 * for a hole.  @arg is given to @ops' verify().
 */
int map_read_buf(struct inode *ip, lblk_t logical, const struct buf_ops *ops, const void *arg,
		 struct buf **ret_buf) MUST_CHECK;

/*
 * Enough for one call below: splits, balloc_record(), the inode, its quota, and the buffer that
 * map_add_buf() makes.
 */
uint32_t map_credits(const struct inode *ip);
/*
 * Enough for @extents of them in one handle, for a block map of together no more blocks
 * than a group has: less than that many times map_credits().
 */
uint32_t map_credits_for(const struct inode *ip, uint32_t extents);

/* Where block @logical would best lie, for balloc_request.goal; 0: there is nothing near it. */
int map_goal(struct inode *ip, lblk_t logical, blk_t *ret_goal) MUST_CHECK;

/* What one call can insert or convert. */
#define MAP_COUNT_MAX 32768u

/*
 * Blocks taken by balloc_alloc(), whose bytes are written: records them and maps [@logical, +count)
 * to them.  The range must be a hole.  @unwritten: they read as zeros (fallocate).
 * With bigalloc @run is whole clusters; of these only [@logical, +@count) is mapped, and a part of
 * a cluster that the file has already is mapped by map_insert_in_cluster() without allocation.
 * After an error nothing has changed, and the run is still the caller's.
 */
int map_insert(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count,
	       const struct blk_run *run, bool unwritten) MUST_CHECK;
/*
 * bigalloc: if the cluster of @logical, which is a hole, is the file's already, the block that
 * belongs to @logical (*ret_blk) and how many blocks from there on (*ret_count) up to the end of
 * the cluster or the next mapped block; *ret_blk 0: it is not.
 */
int map_find_cluster(struct inode *ip, lblk_t logical, blk_t *ret_blk, uint32_t *ret_count)
	MUST_CHECK;
int map_insert_in_cluster(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count,
			  blk_t physical, bool unwritten) MUST_CHECK;
/*
 * Unwritten blocks of [@logical, +@count), which must be one extent's, become written (their bytes
 * are on disk).
 */
int map_convert_written(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count)
	MUST_CHECK;
/* The other way: written blocks read as zeros from now on (FALLOC_FL_ZERO_RANGE). Extents only. */
int map_convert_unwritten(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count)
	MUST_CHECK;
/*
 * Removes and frees what is mapped in [@first, @first + @count), from the end, as far as the
 * handle's credits go, which it may all use: *ret_left is how many blocks from @first on remain to
 * be looked at (0: done).  The caller restarts the handle with map_credits(), better
 * map_credits_for() some, and calls again.  Block-mapped inodes included.  With less than
 * map_credits() left nothing happens.
 */
int map_remove(struct handle *h, struct inode *ip, lblk_t first, uint32_t count, uint32_t *ret_left)
	MUST_CHECK;
/* Allocates, records and maps one hole block of a directory or the like; its buffer is created. */
int map_add_buf(struct handle *h, struct inode *ip, lblk_t logical, const struct buf_ops *ops,
		struct buf **ret_buf) MUST_CHECK;
/*
 * Allocates [@logical, +@count) of a hole now (no delayed allocation): up to one run; *ret_ext is
 * what was mapped.  @unwritten as above: false only if the caller writes the bytes in this handle's
 * transaction before anybody can read them.  @flags: enum balloc_flag.
 */
int map_alloc(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count, bool unwritten,
	      uint32_t flags, struct map_ext *ret_ext) MUST_CHECK;
/*
 * An inode that was EMPTY, INLINE or FAST gets an empty map: root of a tree, or 15 zero pointers.
 */
void map_init(struct inode *ip);
/* The largest size a file with this map can have, in bytes. */
uint64_t map_size_max(const struct inode *ip);

#endif
