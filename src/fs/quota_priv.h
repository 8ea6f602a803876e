/* SPDX-License-Identifier: MIT */
/* What the accounts (quota.c) and the files they are kept in (quota_file.c) share. */
#ifndef FS_QUOTA_PRIV_H
#define FS_QUOTA_PRIV_H

#include "fs/fs_priv.h"
#include "fs/quota.h"

/* One limit on one kind of thing: bytes, or inodes. */
struct dquot_account {
	uint64_t used;
	uint64_t promised;
	uint64_t soft, hard; /* 0: none */
	uint64_t deadline;   /* seconds: when the grace above the soft limit ends; 0: it is kept */
};

/*
 * The record of one owner, in memory from the first use to the end.  All but what is constant under
 * the lock of struct quota.
 */
struct dquot {
	uint32_t id;	 /* c */
	uint8_t type;	 /* c */
	uint32_t offset; /* c: of the record in its buffer */
	struct buf *buf; /* c: referenced (Q2) */
	struct dquot_account bytes, inodes;
};

/* One quota file.  Its shape changes under the lock of its inode, INODE_QUOTA. */
struct quota_file {
	struct inode *ip;		    /* c: NULL: this type is not kept */
	uint8_t type;			    /* c */
	uint32_t grace_bytes, grace_inodes; /* c: seconds */
};

struct quota {
	struct uext4_fs *fs; /* c */
	struct quota_file file[QUOTA_TYPES];
	struct mutex lock;				  /* RANK_quota */
	struct xarray dquots[QUOTA_TYPES] GUARDED(&lock); /* id -> struct dquot */
};

/* quota_file.c */

extern const char *const quota_names[QUOTA_TYPES];
/* Verifies the header and takes the grace times from it. */
int quota_file_open(struct uext4_fs *fs, unsigned type, uint32_t ino, struct quota_file *f)
	MUST_CHECK;
/*
 * The record of @id, with a reference to its buffer; one that is not there is made (a handle of its
 * own).  Takes the inode's lock, INODE_QUOTA.
 */
int quota_file_find(struct quota_file *f, uint32_t id, struct buf **ret_buf, uint32_t *ret_offset)
	MUST_CHECK;

#endif
