/* SPDX-License-Identifier: MIT */
/*
 * POSIX meaning over fs/: paths, file contents.
 *
 * Buffers here are engine memory, except where a parameter is called `user`: such memory is touched
 * through user_copy_out() only, with nothing held.
 */
#ifndef OPS_OPS_H
#define OPS_OPS_H

#include "fs/fs.h"

extern const struct mapping_ops file_mapping_ops;

/* As uext4_lookup() and uext4_resolve(). */
int namei_lookup(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 uint32_t *ret_ino) MUST_CHECK;
int namei_resolve(struct uext4_fs *fs, uint32_t start_ino, const char *path, uint32_t flags,
		  uint32_t *ret_ino) MUST_CHECK;

/* The target of symlink @ip into engine memory: -ERANGE, -EINVAL as uext4_readlink(). */
int symlink_read(struct inode *ip, void *buf, size_t size, size_t *ret_len) MUST_CHECK;

int file_read(struct inode *ip, void *user, size_t len, uint64_t offset, size_t *ret_read)
	MUST_CHECK;
void file_prefetch(struct inode *ip, uint64_t offset, uint64_t len);
int file_seek(struct inode *ip, uint64_t offset, enum uext4_seek what, uint64_t *ret_offset)
	MUST_CHECK;
int file_extents(struct inode *ip, uint64_t offset, uint64_t len, struct uext4_extent *extents,
		 size_t count, size_t *ret_count) MUST_CHECK;

#endif
