/* SPDX-License-Identifier: MIT */
/* What fuse.c and change.c share: the way from requests to the engine and back. */
#ifndef UEXT4_FUSE_FUSE_PRIV_H
#define UEXT4_FUSE_FUSE_PRIV_H

#include "mount_priv.h"

static inline struct server *server_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* Answers with an error, and tells the log of one that says the image is damaged. */
void reply_error(fuse_req_t req, int err, uint32_t ino);
/* The same, or success. */
void reply_status(fuse_req_t req, int err, uint32_t ino);
/* Answers with the entry of @ino, which was just made or linked in @dir, or with @err. */
void reply_new_entry(fuse_req_t req, int err, uint32_t ino, uint32_t dir);

/*
 * The kernel is to ask for the attributes of @node again, and for its pages, or a directory's
 * listing, of [@offset, @offset + @len); @len 0: all behind.
 */
void tell_old(const struct server *server, fuse_ino_t node, off_t offset, off_t len);
/* The kernel is to ask for the attributes of @node again; its pages stay. */
void tell_changed(const struct server *server, fuse_ino_t node);

bool xattr_is_hidden(const struct server *server, const char *name, bool is_privileged);
/* i_flags, changed to what FS_IOC_FSSETXATTR's flags say. */
uint32_t flags_with_xflags(uint32_t flags, uint32_t xflags);
/* FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR. */
int ioctl_set(const struct server *server, uint32_t ino, unsigned cmd, const void *in,
	      size_t in_size);

void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi);

/* ---- change.c -------------------------------------------------------------------------------- */

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void op_link(fuse_req_t req, fuse_ino_t node, fuse_ino_t parent, const char *name);
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	       const char *new_name, unsigned flags);
void op_forget(fuse_req_t req, fuse_ino_t node, uint64_t lookups);
void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void op_setattr(fuse_req_t req, fuse_ino_t node, struct stat *attr, int to_set,
		struct fuse_file_info *fi);
void op_setxattr(fuse_req_t req, fuse_ino_t node, const char *name, const char *value, size_t size,
		 int flags);
void op_removexattr(fuse_req_t req, fuse_ino_t node, const char *name);
void op_write(fuse_req_t req, fuse_ino_t node, const char *buf, size_t size, off_t offset,
	      struct fuse_file_info *fi);
void op_fallocate(fuse_req_t req, fuse_ino_t node, int mode, off_t offset, off_t len,
		  struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t node, int datasync, struct fuse_file_info *fi);
void op_fsyncdir(fuse_req_t req, fuse_ino_t node, int datasync, struct fuse_file_info *fi);

#endif
