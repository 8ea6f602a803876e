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

/* namei_write.c */
int namei_create(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 const struct namei_new *new, uint32_t *ret_ino)
{
	return refuse("create");
}
int namei_symlink(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		  const void *target, size_t target_len, const struct namei_new *new,
		  uint32_t *ret_ino)
{
	return refuse("symlink");
}
int namei_link(struct uext4_fs *fs, uint32_t ino, uint32_t dir_ino, const void *name,
	       size_t name_len)
{
	return refuse("link");
}
int namei_unlink(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len)
{
	return refuse("unlink");
}
int namei_rmdir(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len)
{
	return refuse("rmdir");
}
int namei_rename(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 uint32_t new_dir_ino, const void *new_name, size_t new_name_len, uint32_t flags)
{
	return refuse("rename");
}
int namei_tmpfile(struct uext4_fs *fs, uint32_t dir_ino, const struct namei_new *new,
		  struct inode **ret_inode)
{
	return refuse("tmpfile");
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
