/* SPDX-License-Identifier: MIT */
/* What the files of api/ share: handles, and how every call begins and ends. */
#ifndef API_API_PRIV_H
#define API_API_PRIV_H

/* What is declared here is all that leaves the library. */
#pragma GCC visibility push(default)
#include "uext4.h"
#pragma GCC visibility pop

#include "ops/ops.h"

struct uext4_file {
	struct inode *ip;		    /* c: referenced */
	uint32_t flags;			    /* c: enum uext4_file_flag */
	struct mutex lock;		    /* RANK_leaf */
	uint64_t error_seen GUARDED(&lock); /* mapping_error() */
};

/* The end of every call that can fail: nothing is held (A1), and an error has a text (A2). */
int api_end(int err);
/* The same for a call that may have put the last reference of something. */
int api_end_reap(struct uext4_fs *fs, int err);
/* The end of a call with bad arguments. */
int api_invalid(const char *what);
/* An inode that a user can have: the root, or one that is not reserved. */
int api_get_inode(struct uext4_fs *fs, uint32_t ino, struct inode **ret_inode) MUST_CHECK;
/* Before @fs is closed: nothing of it is mapped any more.  -EBUSY. */
int api_space_close(struct uext4_fs *fs) MUST_CHECK;
int api_file_create(struct inode *ip, uint32_t flags, struct uext4_file **ret_file) MUST_CHECK;

#endif
