/* SPDX-License-Identifier: MIT */
/*
 * Quota: usage of users, groups and projects, kept in hidden files (features quota, project) and
 * enforced where a limit is set.  Without the features everything here does nothing.
 *
 *  Q1  Usage changes in the transaction that changes what is used.
 *  Q2  What an operation may need of quota files was read before its handle was started
 *      (quota_load(), quota_prepare()): under locks nothing of them is mapped or read, and giving
 *      back cannot fail.
 *  Q3  Limits are those of the kernel: never above the hard one, above the soft one for as long as
 *      the grace time lasts.  What was promised (quota_reserve()) counts as used.
 *
 * Whom the owners of an inode are charged for is decided here: not for files of the file system's
 * own, nor for inodes that hold values of attributes, which their users are charged for.
 */
#ifndef FS_QUOTA_H
#define FS_QUOTA_H

#include "fs/fs.h"

#define QUOTA_TYPES 3u /* user, group, project */

/* Owners by their ids. */
struct quota_owner {
	uint32_t id[QUOTA_TYPES];
};

/* Credits for the usage of one inode's owners; 0 without quota. */
uint32_t quota_credits(const struct uext4_fs *fs);

/* Opens the quota files; at mount, before the first change.  finish: writes nothing. */
int quota_open(struct uext4_fs *fs) MUST_CHECK;
void quota_close(struct uext4_fs *fs);

/*
 * Finds, or makes, the records of owners; they stay in memory from then on.  Before a handle; no
 * rank from `invalidate` on.
 */
int quota_prepare(struct uext4_fs *fs, const struct quota_owner *owner) MUST_CHECK;
/* The same for the owners of @ip, who are charged for what it uses from now on. */
int quota_load(struct inode *ip) MUST_CHECK;
/* The second half of it, in a handle: the owners of a new inode, who were prepared. */
int quota_attach(struct inode *ip) MUST_CHECK;
/* When the inode leaves memory. */
void quota_unload(struct inode *ip);

/*
 * @blocks more (or, negative, fewer) are in use; -EDQUOT: nothing has changed.  Called with
 * map_lock held or not.  A negative number cannot fail but by an abort.
 */
int quota_charge_blocks(struct handle *h, struct inode *ip, int64_t blocks) MUST_CHECK;
/*
 * The same whatever the limits say: for blocks of the map, and in writeback, whose blocks were
 * promised.  The promise is given back behind it (quota_unreserve()).
 */
int quota_charge_promised(struct handle *h, struct inode *ip, uint64_t blocks) MUST_CHECK;
int quota_charge_inode(struct handle *h, struct inode *ip) MUST_CHECK;
/* One inode less.  Cannot fail but by an abort. */
void quota_release_inode(struct handle *h, struct inode *ip);
/*
 * A file that no owner is charged for, because its users are (ea_inode.c), becomes an ordinary one,
 * whatever the limits say, or the other way.  quota_load() came before.
 */
void quota_count_file(struct handle *h, struct inode *ip, bool counts);

/* Promises blocks to delayed allocation, without a handle.  -EDQUOT. */
int quota_reserve(struct inode *ip, uint64_t blocks) MUST_CHECK;
void quota_unreserve(struct inode *ip, uint64_t blocks);

/*
 * Owners change (chown, chproj): what the inode uses moves to @to, who were prepared.  -EDQUOT:
 * nothing has changed.  Takes xattr_lock and map_lock; 2 * quota_credits().
 */
int quota_transfer(struct handle *h, struct inode *ip, const struct quota_owner *to) MUST_CHECK;
/* The way back, where what followed failed: limits do not matter. */
int quota_transfer_back(struct handle *h, struct inode *ip, const struct quota_owner *to)
	MUST_CHECK;

#endif
