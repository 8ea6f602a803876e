/* SPDX-License-Identifier: MIT */
/*
 * Quota: usage of users, groups and projects, kept in hidden files (features quota, project) and
 * enforced where a limit is set.  Without the features everything here does nothing.
 *
 *  Q1  Usage changes in the transaction that changes what is used.
 *  Q2  What an operation may need of quota files was read before its handle was started
 *      (quota_load()): under locks nothing of them is mapped or read.
 */
#ifndef FS_QUOTA_H
#define FS_QUOTA_H

#include "fs/fs.h"

#define QUOTA_TYPES 3u /* user, group, project */
/* Credits for the usage of one inode's owners; 0 without quota. */
uint32_t quota_credits(const struct uext4_fs *fs);

/* Opens the quota files; at mount, before the first change.  finish: writes nothing. */
int quota_open(struct uext4_fs *fs) MUST_CHECK;
void quota_close(struct uext4_fs *fs);

/* Finds, or makes, the records of @ip's owners.  Before a handle; no rank from `handle` on. */
int quota_load(struct inode *ip) MUST_CHECK;
/* Puts them: when the inode leaves memory. */
void quota_unload(struct inode *ip);

/*
 * @clusters more (or, negative, fewer) are in use, in bytes @blocks * block size; -EDQUOT: nothing
 * has changed.  Called by map.c with map_lock held.  quota_reserve: promised to delayed allocation,
 * without a handle; quota_claim turns the promise into use.
 */
int quota_charge_blocks(struct handle *h, struct inode *ip, int64_t blocks) MUST_CHECK;
int quota_charge_inode(struct handle *h, struct inode *ip) MUST_CHECK;
/* One inode less.  Cannot fail but by an abort. */
void quota_release_inode(struct handle *h, struct inode *ip);
/*
 * A file that no owner is charged for, because its users are (ea_inode.c), becomes an ordinary one,
 * whatever the limits say, or the other way.
 */
void quota_count_file(struct handle *h, struct inode *ip, bool counts);
int quota_reserve(struct inode *ip, uint64_t blocks) MUST_CHECK;
void quota_unreserve(struct inode *ip, uint64_t blocks);

/* Owners change (chown, chproj): usage moves.  Both loaded: @to are the new ids. */
struct quota_owner {
	uint32_t id[QUOTA_TYPES];
};
int quota_transfer(struct inode *ip, const struct quota_owner *to) MUST_CHECK;

#endif
