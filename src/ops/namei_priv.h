/* SPDX-License-Identifier: MIT */
/*
 * What the files of names share: the frame of an operation that changes directories, checks of who
 * may change what, and links.
 */
#ifndef OPS_NAMEI_PRIV_H
#define OPS_NAMEI_PRIV_H

#include "fs/dir.h"
#include "fs/xattr.h"
#include "ops/ops.h"

/* ---- one operation --------------------------------------------------------------------------- */

/*
 *	err = op_begin(&op, fs);
 *	if (err == 0) {
 *		do
 *			err = (locks, checks, op_start(), changes, handle_stop());
 *		while (op_again(&op, err));
 *		err = op_end(&op, err);
 *	}
 *
 * What a try did is undone when it fails, so it can be tried again.
 */
struct op {
	struct uext4_fs *fs;
	unsigned tries;
	bool sync; /* some directory says that its changes are synchronous */
	tid_t tid; /* the last handle's transaction */
};

int op_begin(struct op *op, struct uext4_fs *fs) MUST_CHECK;
/* Blocks that were freed are to be had after a commit.  Nothing but fs_write_begin() is held. */
bool op_again(struct op *op, int err);
int op_end(struct op *op, int err) MUST_CHECK;
/* @dir is about to be changed: its quota, and whether that is to be synchronous.  Locked. */
int op_use(struct op *op, struct inode *dir) MUST_CHECK;
/* op_use(), and a handle for changes of @dir (and others). */
int op_start(struct op *op, struct inode *dir, uint32_t credits, struct handle **ret_handle)
	MUST_CHECK;

/* ---- names and permissions; the directories are locked --------------------------------------- */

/* -EINVAL, -ENAMETOOLONG. */
int namei_check_name(const char *name, size_t len) MUST_CHECK;
/* A reference; -ENOTDIR. */
int namei_get_dir(struct uext4_fs *fs, uint32_t ino, struct inode **ret_dir) MUST_CHECK;
/* The inode of entry @name, with a reference.  -ENOENT, also of a directory that was removed. */
int namei_find_locked(struct inode *dir, const char *name, size_t len, struct inode **ret_ip)
	MUST_CHECK;
/* May a name be made in @dir, taken out of it?  -EPERM. */
int namei_may_add(struct inode *dir) MUST_CHECK;
int namei_may_remove(struct inode *dir, struct inode *ip) MUST_CHECK;
/* Would @ip, as an entry of @dir, be in another project than @dir wants?  -EXDEV. */
int namei_check_project(struct inode *dir, struct inode *ip) MUST_CHECK;
/* enum uext4_file_type of @ip. */
uint8_t namei_type(const struct inode *ip);

/* ---- links; in a handle ---------------------------------------------------------------------- */

/* Has @dir room for one more subdirectory?  -EMLINK. */
int namei_check_subdir(const struct inode *dir) MUST_CHECK;
/* One subdirectory more or less; the caller stores @dir. */
void namei_add_subdir(struct inode *dir);
void namei_drop_subdir(struct inode *dir);
/*
 * A name of @ip is gone: ctime, links, with the last one it is an orphan; a directory loses all at
 * once.  Lock exclusive.  Stores it; after a failure the caller has to abort the journal.
 */
int namei_drop_link(struct handle *h, struct inode *ip) MUST_CHECK;
#define NAMEI_DROP_CREDITS (INODE_STORE_CREDITS + ORPHAN_CREDITS)

/* ---- new inodes ------------------------------------------------------------------------------ */

struct newborn {
	struct inode_create attrs;
	struct acl_inherited acl;
	const void *target; /* of a symlink */
	size_t target_len;
};

/* What is inherited from @dir, which is locked; before the handle.  newborn_finish() always. */
int newborn_init(struct newborn *nb, struct inode *dir, const struct namei_new *new) MUST_CHECK;
void newborn_finish(struct newborn *nb);
uint32_t newborn_credits(const struct newborn *nb, struct inode *dir);
/* The inode, complete but for its name, locked, with a reference. */
int newborn_create(struct handle *h, struct inode *dir, const struct newborn *nb,
		   struct inode **ret_ip) MUST_CHECK;
/* It is not wanted: it goes, unlocked and put. */
void newborn_undo(struct handle *h, struct inode *ip);

#endif
