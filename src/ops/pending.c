/* SPDX-License-Identifier: MIT */
/*
 * Operations that are not there yet: each refuses.  Whoever writes one takes it out of here; when
 * the last is written this file goes.
 */
#include "ops/ops.h"

#include "base/diag.h"

static int refuse(const char *what)
{
	return fail(-EOPNOTSUPP, "%s: not in this version", what);
}

/* file_write.c, truncate.c, writeback.c */
int file_write(struct inode *ip, const void *user, size_t len, uint64_t offset, uint32_t flags,
	       size_t *ret_written, uint64_t *ret_offset)
{
	return refuse("write");
}
int file_set_size(struct inode *ip, uint64_t size)
{
	return refuse("truncate");
}
int file_fallocate(struct inode *ip, uint32_t flags, uint64_t offset, uint64_t len)
{
	return refuse("fallocate");
}
int file_fsync(struct inode *ip, bool data_only, uint64_t *error_seen)
{
	return refuse("fsync");
}
int inode_fsync(struct inode *ip, bool data_only)
{
	return refuse("fsync");
}
