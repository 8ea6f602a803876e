/* SPDX-License-Identifier: MIT */
/*
 * POSIX meaning over fs/: paths, file contents.
 *
 * Buffers here are engine memory, except where a parameter is called `user`: such memory is touched
 * through user_copy_out() and user_copy_in() only, with nothing held.
 *
 * Calls that change are whole operations: they enter fs_write_begin(), take the locks, start their
 * handles, and leave nothing held.
 */
#ifndef OPS_OPS_H
#define OPS_OPS_H

#include "fs/fs.h"
#include "fs/map.h"

extern const struct mapping_ops file_mapping_ops;

/* As uext4_lookup() and uext4_resolve(). */
int namei_lookup(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 uint32_t *ret_ino) MUST_CHECK;
int namei_resolve(struct uext4_fs *fs, uint32_t start_ino, const char *path, uint32_t flags,
		  uint32_t *ret_ino) MUST_CHECK;

/* The target of symlink @ip into engine memory: -ERANGE, -EINVAL as uext4_readlink(). */
int symlink_read(struct inode *ip, void *buf, size_t size, size_t *ret_len) MUST_CHECK;
/*
 * The target of a symlink that is being made: shorter than a block.  Lock exclusive;
 * dir_init_credits().
 */
int symlink_init(struct handle *h, struct inode *ip, const void *target, size_t len) MUST_CHECK;

int file_read(struct inode *ip, void *user, size_t len, uint64_t offset, size_t *ret_read)
	MUST_CHECK;
void file_prefetch(struct inode *ip, uint64_t offset, uint64_t len);
int file_seek(struct inode *ip, uint64_t offset, enum uext4_seek what, uint64_t *ret_offset)
	MUST_CHECK;
int file_extents(struct inode *ip, uint64_t offset, uint64_t len, struct uext4_extent *extents,
		 size_t count, size_t *ret_count) MUST_CHECK;

/*
 * ---- changes: namei_write.c --------------------------------------------------------------------
 */

struct namei_new {
	struct inode_create attrs;
	uint16_t umask;
};
int namei_create(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 const struct namei_new *new, uint32_t *ret_ino) MUST_CHECK;
int namei_symlink(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		  const void *target, size_t target_len, const struct namei_new *new,
		  uint32_t *ret_ino) MUST_CHECK;
int namei_link(struct uext4_fs *fs, uint32_t ino, uint32_t dir_ino, const void *name,
	       size_t name_len) MUST_CHECK;
int namei_unlink(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len)
	MUST_CHECK;
int namei_rmdir(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len)
	MUST_CHECK;
int namei_rename(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 uint32_t new_dir_ino, const void *new_name, size_t new_name_len, uint32_t flags)
	MUST_CHECK;
/* The inode is referenced and on the orphan list. */
int namei_tmpfile(struct uext4_fs *fs, uint32_t dir_ino, const struct namei_new *new,
		  struct inode **ret_inode) MUST_CHECK;

/*
 * ---- changes: attr.c ---------------------------------------------------------------------------
 */

int attr_set(struct inode *ip, const struct uext4_attr *attr) MUST_CHECK;
int attr_xattr_set(struct inode *ip, const char *name, const void *value, size_t size,
		   uint32_t flags) MUST_CHECK;

/*
 * ---- changes: file_write.c, writeback.c, truncate.c --------------------------------------------
 */

enum file_write_flag {
	FILE_WRITE_APPEND = 1u << 0,
	FILE_WRITE_DIRECT = 1u << 1,
	FILE_WRITE_KILL_PRIV = 1u << 2, /* setuid, setgid, capabilities go */
	FILE_WRITE_CHECKED = 1u << 3,	/* capabilities are gone already */
};
/* *ret_offset: where it went (the end, with APPEND). */
int file_write(struct inode *ip, const void *user, size_t len, uint64_t offset, uint32_t flags,
	       size_t *ret_written, uint64_t *ret_offset) MUST_CHECK;
/*
 * Both ways.  Requires the inode's lock exclusive, inside of fs_write_begin().  -EAGAIN: what would
 * go is pinned; nothing was done, mapping_wait_unpinned() with nothing held.
 */
int file_set_size(struct inode *ip, uint64_t size) MUST_CHECK;
#define FILE_FALLOCATE_KILL_PRIV (1u << 31) /* beside uext4's flags: as FILE_WRITE_KILL_PRIV */
int file_fallocate(struct inode *ip, uint32_t flags, uint64_t offset, uint64_t len) MUST_CHECK;
/* Data and, unless only what reading needs is asked for, attributes; *error_seen as
 * mapping_error(). */
int file_fsync(struct inode *ip, bool data_only, uint64_t *error_seen) MUST_CHECK;
/* Any inode: its transaction is committed. */
int inode_fsync(struct inode *ip, bool data_only) MUST_CHECK;

#endif
