/* SPDX-License-Identifier: MIT */
/*
 * Space: free blocks and inodes, who gets them, and what is promised.
 *
 * Allocation has two steps, so that data can be written before anybody can see it: balloc_alloc()
 * takes blocks in memory; balloc_record() writes that into bitmap and descriptor within a handle.
 * In between the blocks are free on disk: a crash forgets them.
 *
 *  A1  A block is given to one owner: in memory at any time, and on disk from balloc_record() on.
 *  A2  Freed blocks are free on disk in the transaction that freed them, and in memory when it has
 *      committed (J4).  Without a journal too: copies of metadata that an earlier commit sends home
 *      may still be on their way to them.
 *  A3  The count of free clusters is exact: what is free in memory, less what is promised, is what
 *      can be had, to the last one.  What is set aside for a file that grows counts as free, and is
 *      taken back when nothing else is left.  ENOSPC changes nothing.
 *  A4  A run never crosses a group; so recording one costs BALLOC_CREDITS.
 *
 * What is free again only after a commit is not to be had before: whoever gets -ENOSPC outside of a
 * handle asks balloc_commit_helps(), and if so commits and tries again.
 */
#ifndef FS_BALLOC_H
#define FS_BALLOC_H

#include "fs/fs.h"

/* Blocks on the device; with bigalloc whole clusters. */
struct blk_run {
	blk_t start;
	uint32_t count;
};

#define BALLOC_CREDITS 2u /* bitmap and descriptor of one group */

enum balloc_flag {
	BALLOC_DATA = 1u << 0, /* of a regular file: per-inode preallocation may serve it */
	BALLOC_RESERVED =
		1u << 1,       /* was promised by balloc_reserve(): cannot fail for lack of space,
				      and uses the promise up */
	BALLOC_ROOT = 1u << 2, /* may use blocks reserved for root (s_resuid, s_resgid) */
	BALLOC_META = 1u << 3, /* may use the small reserve for the extent tree and the like, so
				      that writeback of reserved data cannot fail */
};

struct balloc_request {
	struct inode *ip; /* whose, for locality; NULL: nobody's */
	lblk_t logical;	  /* where in the file, for locality */
	blk_t goal;	  /* 0: chosen from ip and logical */
	uint32_t count;	  /* blocks wanted, at least 1 */
	uint32_t flags;
	/*
	 * How many blocks the file has, or will have, for what is set aside beside it; 0: it ends
	 * with these.
	 */
	lblk_t file_blocks;
};

/*
 * Takes between 1 and rq->count blocks, as many as lie together.  With bigalloc these are the whole
 * clusters that [rq->logical, +rq->count) touches, or the first of them: ret->start belongs to the
 * first block of rq->logical's cluster.  In memory only.  -ENOSPC; -ENOMEM.  A group whose bitmap
 * is damaged or cannot be read is passed over and reported once.  Reads bitmaps: may wait for I/O.
 * No rank from `group` on.
 */
int balloc_alloc(struct uext4_fs *fs, const struct balloc_request *rq, struct blk_run *ret)
	MUST_CHECK;
/*
 * For who knows which clusters he wants: takes those from @start on that are free, up to @count
 * blocks and to the end of the group.  ret->count 0: the first one is not free.
 */
int balloc_take(struct uext4_fs *fs, blk_t start, uint32_t count, struct blk_run *ret) MUST_CHECK;
/* Writes it down.  BALLOC_CREDITS.  After an error the run is still the caller's. */
int balloc_record(struct handle *h, struct uext4_fs *fs, const struct blk_run *run) MUST_CHECK;
/* Gives back what was not recorded.  @was_reserved: the promise is in force again. */
void balloc_cancel(struct uext4_fs *fs, const struct blk_run *run, bool was_reserved);
/*
 * Both steps for one metadata block.  @flags: BALLOC_META where data that was promised its place
 * would be lost without this block, and only there; BALLOC_ROOT.
 */
int balloc_alloc_meta(struct handle *h, struct uext4_fs *fs, struct inode *ip, blk_t goal,
		      uint32_t flags, blk_t *ret_blk) MUST_CHECK;

enum balloc_free_flag {
	/*
	 * They held metadata: each is forgotten and revoked (J3).  Of a cluster only the blocks
	 * that were in use need be named.
	 */
	BALLOC_FREE_META = 1u << 0,
};
/*
 * Frees recorded blocks, whole clusters.  BALLOC_CREDITS a group touched.  What is not in use, or
 * is the file system's own, is -EFSCORRUPTED (reported).  After an error nothing has changed; if
 * the run lies in several groups and some were done, the journal is aborted.
 */
int balloc_free(struct handle *h, struct uext4_fs *fs, blk_t start, uint32_t count, uint32_t flags)
	MUST_CHECK;
uint32_t balloc_free_credits(const struct uext4_fs *fs, blk_t start, uint32_t count);

/*
 * Promises @clusters to delayed allocation: -ENOSPC if they are not there.  @root as BALLOC_ROOT.
 * Takes no lock.
 */
int balloc_reserve(struct uext4_fs *fs, uint64_t clusters, bool root) MUST_CHECK;
void balloc_unreserve(struct uext4_fs *fs, uint64_t clusters);

/* What statfs shows: free clusters, less promised ones; free inodes.  Exact. */
uint64_t balloc_free_clusters(struct uext4_fs *fs);
/* Are there clusters that a commit would set free?  They are in the sum above already. */
bool balloc_commit_helps(struct uext4_fs *fs);
uint32_t ialloc_free_inodes(struct uext4_fs *fs);

/* Per-inode preallocation ends: the last writer closed the file, or it is truncated or evicted. */
void balloc_discard_prealloc(struct inode *ip);

/* As txn_log_ops.committed: what was freed in @tid is free now. */
void balloc_committed(struct uext4_fs *fs, tid_t tid);

/* Everything above in memory; reads the descriptors once, no bitmap.  NULL is fine for destroy. */
int balloc_create(struct uext4_fs *fs) MUST_CHECK;
void balloc_destroy(struct uext4_fs *fs);
/* Sums for the superblock (s_free_blocks_count, s_free_inodes_count). */
void balloc_fill_super(struct uext4_fs *fs, struct ext4_super_block *sb);

/* ---- inodes: ialloc.c ------------------------------------------------------------------------ */

/* Inode bitmap, descriptor, a block bitmap that comes to life, a block of the table that does. */
#define IALLOC_CREDITS 4u

/*
 * A free inode number, marked in use in bitmap and descriptor.  Directories are spread (Orlov-like,
 * by flex group), files go near @parent (NULL: nowhere in particular).  Its place in the table is
 * an inode not in use, or zeros.  -ENOSPC.
 */
int ialloc_alloc(struct handle *h, struct uext4_fs *fs, struct inode *parent, bool is_dir,
		 uint32_t *ret_ino) MUST_CHECK;
int ialloc_free(struct handle *h, struct uext4_fs *fs, uint32_t ino, bool is_dir) MUST_CHECK;
/* Is the number in use? */
int ialloc_is_used(struct uext4_fs *fs, uint32_t ino, bool *ret_used) MUST_CHECK;
/*
 * As ialloc_alloc(), of number @ino, which is not in use.  Blocks of the table between those in use
 * and its own are zeroed, too, for further credits.
 */
int ialloc_take(struct handle *h, struct uext4_fs *fs, uint32_t ino, bool is_dir) MUST_CHECK;

/* ---- descriptors: group.c -------------------------------------------------------------------- */

/*
 * The buffer that holds descriptor @group and the place in it; nothing of it is verified, and it
 * changes under the group's lock.  The caller puts it.
 */
int group_desc_buf(struct uext4_fs *fs, uint32_t group, struct buf **ret_buf,
		   struct ext4_group_desc **ret_gd) MUST_CHECK;

#endif
