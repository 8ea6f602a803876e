/* SPDX-License-Identifier: MIT */
/*
 * Directories as they are changed: entries come and go.  (Listing is dir_cursor.c's.)
 *
 * All of it requires the directory's `lock` exclusive and a handle with dir_credits(), stores the
 * directory's inode with new mtime, ctime and version, and keeps inline, linear and hashed
 * directories what they are, or lets them grow into the next kind: inline -> one block -> hashed
 * (with dir_index) -> deeper (three levels with large_dir).
 */
#ifndef FS_DIR_H
#define FS_DIR_H

#include "fs/fs.h"

/*
 * Does a hash tree lie over the blocks of @dir, and does the file system know of such trees?  Those
 * may have more subdirectories than a link count can say (dir_nlink).
 */
bool dir_is_indexed(const struct inode *dir);

/* Enough for the worst of the functions below, splits to the full depth included. */
uint32_t dir_credits(const struct inode *dir);

/* The same for dir_remove() and dir_replace(): a block, and the directory's inode. */
#define DIR_SET_CREDITS 2u
/* The same for dir_init(), of a directory that is to be made (or a symlink's block). */
uint32_t dir_init_credits(const struct uext4_fs *fs);

/* "." and ".." of a new directory: inline where that is possible, else a first block. */
int dir_init(struct handle *h, struct inode *dir, uint32_t parent_ino) MUST_CHECK;
/*
 * Adds an entry; @name must not be there (the caller looked, under the same lock).  @type: enum
 * uext4_file_type.  -ENOSPC: no block, or a tree that is full; nothing has changed then.
 */
int dir_add(struct handle *h, struct inode *dir, const void *name, size_t name_len, uint32_t ino,
	    uint8_t type) MUST_CHECK;
/* -ENOENT. */
int dir_remove(struct handle *h, struct inode *dir, const void *name, size_t name_len) MUST_CHECK;
/*
 * The entry @name names another inode.  -ENOENT.  Does not touch link counts.  If it is ".." the
 * times stay as they are: it is the directory that has moved, not what is in it.
 */
int dir_replace(struct handle *h, struct inode *dir, const void *name, size_t name_len,
		uint32_t ino, uint8_t type) MUST_CHECK;
/* Nothing but "." and "..".  Requires lock, shared or exclusive. */
int dir_is_empty(struct inode *dir, bool *ret_empty) MUST_CHECK;
/* As dir_find(), for who holds the lock (shared or exclusive) already. */
int dir_find_locked(struct inode *dir, const void *name, size_t name_len, uint32_t *ret_ino)
	MUST_CHECK;

#endif
