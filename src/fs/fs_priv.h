/* SPDX-License-Identifier: MIT */
/*
 * What the files of fs/ share among themselves: blocks of directories, rows of entries in them,
 * hash trees.
 */
#ifndef FS_FS_PRIV_H
#define FS_FS_PRIV_H

#include "fs/fs.h"
#include "fs/map.h"

/* ---- blocks of an inode ---------------------------------------------------------------------- */

/* For whom the cache verified a block of @ip: struct buf.owner. */
static inline uint64_t inode_buf_owner(const struct inode *ip)
{
	return (uint64_t)ip->ino << 32 | ip->generation;
}

/* map_read_buf() that, when it has to read, reads up to @ahead neighbours on disk as well. */
int map_read_buf_ahead(struct inode *ip, lblk_t logical, const struct buf_ops *ops, const void *arg,
		       uint32_t ahead, struct buf **ret_buf) MUST_CHECK;

/* ---- rows of directory entries: dir.c -------------------------------------------------------- */

/* Entries that were verified: a block, or one part of an inline directory. */
struct dirents {
	const uint8_t *data;
	uint32_t bytes;
	uint32_t block_size; /* how rec_len is to be read */
};

/*
 * The next entry in use at or behind *@at; *ret_at is its place, *@at the one behind it.  NULL:
 * none.
 */
const struct ext4_dir_entry_2 *dirents_next(const struct dirents *row, uint32_t *at,
					    uint32_t *ret_at);
/* 0 if @name is not there. */
uint32_t dirents_find(const struct dirents *row, const void *name, size_t name_len);

static inline bool name_is_dot(const char *name, size_t len)
{
	return len == 1 && name[0] == '.';
}
static inline bool name_is_dotdot(const char *name, size_t len)
{
	return len == 2 && name[0] == '.' && name[1] == '.';
}

/* enum uext4_file_type of an entry of @ip. */
uint8_t dirent_type(const struct inode *ip, const struct ext4_dir_entry_2 *de);

/*
 * Does a hash tree lie over the blocks of directory @ip, and does the file system know of such
 * trees?
 */
bool dir_is_indexed(const struct inode *ip);
/* How many blocks directory @ip has; what lies behind is not read. */
int dir_blocks(const struct inode *ip, uint32_t *ret_blocks) MUST_CHECK;
/* Inode number of "..".  -ENOENT if the directory has none.  Requires lock shared. */
int dir_parent(struct inode *ip, uint32_t *ret_ino) MUST_CHECK REQUIRES_SHARED(&ip->lock);
/* What fast commits say about @name in @ip, or NULL: nothing. */
const struct fc_dirent *dir_fc_find(const struct inode *ip, const void *name, size_t name_len);

/*
 * Block @logical, a leaf, as a row of entries, which is valid while *ret_buf is referenced.  @ahead
 * as for buf_read().
 */
int dir_read_leaf(struct inode *ip, lblk_t logical, uint32_t ahead, struct buf **ret_buf,
		  struct dirents *ret_row) MUST_CHECK;
/*
 * The same for a block of any kind: the root of a hash tree holds "." and "..", its nodes nothing.
 */
int dir_read_block(struct inode *ip, lblk_t logical, uint32_t ahead, struct buf **ret_buf,
		   struct dirents *ret_row) MUST_CHECK;

#define DIR_INLINE_PARTS 2u

/* Both rows of an INLINE directory.  Valid while xattr_lock, which must be held, is. */
int dir_inline_rows(struct inode *ip, struct dirents ret_rows[DIR_INLINE_PARTS])
	MUST_CHECK REQUIRES_SHARED(&ip->xattr_lock);

/* ---- hash trees: htree.c --------------------------------------------------------------------- */

#define HTREE_LEVELS_MAX 3u /* root included */

struct htree_level {
	struct buf *buf;
	const struct dx_entry *entries; /* [0] has no hash */
	uint32_t count;
	uint32_t at;  /* the entry we went down by */
	uint32_t lo;  /* hashes below: from it on, */
	uint64_t end; /* and below this; 2^32 is behind them all */
};

/* A path from the root to one leaf.  Opened by htree_open(), closed by htree_close(). */
struct htree {
	struct inode *ip;
	uint8_t version; /* DX_HASH_*, signedness folded in */
	uint32_t levels;
	struct htree_level level[HTREE_LEVELS_MAX];
};

/*
 * The names with lo <= hash < end lie in @block; an odd border means a hash that both sides share.
 */
struct htree_leaf {
	lblk_t block;
	uint32_t lo;
	uint64_t end;
};

/*
 * A version of hash names are sorted by, with signedness; false: one that this code does not know.
 */
bool htree_version(const struct geom *g, uint8_t disk_version, uint8_t *ret_version);

/*
 * Reads the root.  *ret_known false, and nothing is open: it uses a hash that is not known, the
 * directory has to be searched as if it had no tree.
 */
int htree_open(struct inode *ip, struct htree *ret_tree, bool *ret_known) MUST_CHECK;
void htree_close(struct htree *t);
/* Goes down to the leaf where names of @hash begin. */
int htree_seek(struct htree *t, uint32_t hash) MUST_CHECK;
/* On to the next leaf, which must exist (leaf.end < 2^32). */
int htree_next(struct htree *t) MUST_CHECK;
int htree_leaf(const struct htree *t, struct htree_leaf *ret_leaf) MUST_CHECK;
/* Inode number of @name, -ENOENT if it is not there. */
int htree_find(struct htree *t, const void *name, size_t name_len, uint32_t *ret_ino) MUST_CHECK;

extern const struct buf_ops htree_root_ops, htree_node_ops; /* arg: struct verify_inode */

#endif
