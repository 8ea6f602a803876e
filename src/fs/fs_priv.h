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

/* For buf_ops.seal() of a block of an inode: as much of inode_verify_arg() as a seal needs. */
static inline struct verify_inode buf_owner_arg(const struct uext4_fs *fs, uint64_t owner)
{
	return (struct verify_inode){
		.geom = &fs->geom,
		.csum_seed = verify_inode_seed(&fs->geom, (uint32_t)(owner >> 32), (uint32_t)owner),
	};
}

/* map_read_buf() that, when it has to read, reads up to @ahead neighbours on disk as well. */
int map_read_buf_ahead(struct inode *ip, lblk_t logical, const struct buf_ops *ops, const void *arg,
		       uint32_t ahead, struct buf **ret_buf) MUST_CHECK;

/*
 * ---- inodes in memory: inode.c ----------------------------------------------------------------
 */

/*
 * An inode of which nobody knows yet, number @ino just allocated: raw is zeroed, the caller has the
 * one reference and fills it.  icache_publish() puts it into the table; -EFSCORRUPTED if the number
 * is in use there already.  Until then inode_discard() frees it.
 */
int inode_make(struct uext4_fs *fs, uint32_t ino, struct inode **ret_inode) MUST_CHECK;
int icache_publish(struct inode *ip) MUST_CHECK;
void inode_discard(struct inode *ip);
/* Out of the table, whoever asks for the number now reads it from disk; freed with the last put. */
void icache_unpublish(struct inode *ip);
/* i_blocks, in units of 512 bytes.  Requires raw_lock. */
uint64_t inode_sectors(const struct inode *ip);
/* The block of the inode table that holds @ip. */
int inode_table_buf(struct inode *ip, struct buf **ret_buf) MUST_CHECK;
/* As inode_get(), of an inode that may have no links: an orphan. */
int inode_get_orphan(struct uext4_fs *fs, uint32_t ino, struct inode **ret_inode) MUST_CHECK;
/* Inodes that have times to be stored, up to @max of them, each with a reference. */
size_t icache_find_dirty(struct icache *ic, struct inode **ret_inodes, size_t max);
/* Is an inode referenced that users can have? */
bool icache_in_use(struct icache *ic);
/* The next unreferenced inode that something remains to be done for, with a reference, or NULL. */
struct inode *icache_pop_todo(struct icache *ic);
bool icache_has_todo(const struct icache *ic);

/* Finishes an inode without links and references but the caller's, which it puts. */
int inode_delete(struct inode *ip) MUST_CHECK;

/* ---- the superblock: super.c, super_write.c -------------------------------------------------- */

/* Takes over the superblock on fs->dev. */
int super_load(struct uext4_fs *fs, const struct fs_options *options) MUST_CHECK;
/* The same after recovery: what was cached is forgotten. */
int super_reload(struct uext4_fs *fs, const struct fs_options *options) MUST_CHECK;
int super_journal_open(struct uext4_fs *fs, struct dev *external, struct journal **ret_journal)
	MUST_CHECK;
/* What a recovery has done. */
void super_fill_replayed(struct uext4_info *info, const struct journal_recovery *result);
/* Returns whether there is anything to recover. */
bool super_fill_journal_info(struct uext4_info *info, const struct journal *journal);
/* Fast commits behind the last transaction become part of the view (or of the image, to write). */
int super_recover_fast_commits(struct uext4_fs *fs, struct journal *journal, uint32_t next_tid,
			       const struct fs_options *options) MUST_CHECK;

/* All that a writable file system has; after a failure super_stop_writing() is called too. */
int super_start_writing(struct uext4_fs *fs, const struct fs_options *options) MUST_CHECK;
int super_stop_writing(struct uext4_fs *fs);
/*
 * With the log held: nothing of @fs is in memory any more but what does not depend on the image,
 * and nothing that was changed is left.
 */
void scope_forget(struct uext4_fs *fs);
/* What is derived from the image and kept in memory; also again, after a scope was cancelled. */
int super_start_parts(struct uext4_fs *fs) MUST_CHECK;
/* U1.  Only where the log is empty and nobody changes anything. */
int super_write_in_use(struct uext4_fs *fs) MUST_CHECK;
int super_write_clean(struct uext4_fs *fs) MUST_CHECK;
/* What fs_error() noted since the last time goes into @sb. */
void super_add_note(struct uext4_fs *fs, struct ext4_super_block *sb);

int freeze_create(struct uext4_fs *fs) MUST_CHECK;
void freeze_destroy(struct freeze *f); /* NULL is fine */
bool fs_is_frozen(const struct uext4_fs *fs);

/* Has another host the file system in use (MMP)?  -EBUSY.  May wait for seconds. */
int mmp_check(struct uext4_fs *fs) MUST_CHECK;
/* The same, and it is ours up to mmp_release(), which is called after a failure too. */
int mmp_claim(struct uext4_fs *fs) MUST_CHECK;
void mmp_release(struct uext4_fs *fs);

/* In its buffer; requires super_lock, and a handle that has the buffer to change it. */
struct ext4_super_block *super_of(struct uext4_fs *fs) REQUIRES(&fs->super_lock);
/* Checksum, handle_dirty(). */
void super_changed(struct handle *h, struct uext4_fs *fs) REQUIRES(&fs->super_lock);

/* ---- orphans: orphan.c ----------------------------------------------------------------------- */

int orphan_open(struct uext4_fs *fs) MUST_CHECK; /* also after a failure orphan_close() is called */
void orphan_close(struct uext4_fs *fs);
bool orphan_file_is_empty(struct uext4_fs *fs) REQUIRES(&fs->super_lock);
/* @ip goes out of memory, though it is one: only after an error.  Nothing is held. */
void orphan_forget(struct inode *ip);

/* ---- the inode table: inode.c ---------------------------------------------------------------- */

extern const struct buf_ops inode_table_ops;

/* ---- rows of directory entries: dir_row.c ---------------------------------------------------- */

/*
 * Entries that were verified: a block without its checksum tail, or one part of an inline
 * directory.
 */
struct dirents {
	const uint8_t *data;
	uint32_t bytes;
	uint32_t block_size; /* how rec_len is to be read */
};

#define DIRENT_NONE UINT32_MAX

/* A record of a row, and the one in front of it; DIRENT_NONE: it is the first. */
struct dirent_place {
	uint32_t at, before;
};

/* An entry to be made; @type is what is stored (dirent_disk_type()). */
struct dirent_new {
	const void *name;
	uint32_t ino;
	uint8_t name_len;
	uint8_t type;
};

/*
 * The next entry in use at or behind *@at; *ret_at is its place, *@at the one behind it.  NULL:
 * none.
 */
const struct ext4_dir_entry_2 *dirents_next(const struct dirents *row, uint32_t *at,
					    uint32_t *ret_at);
/* False if @name is not there. */
bool dirents_find(const struct dirents *row, const void *name, size_t name_len,
		  struct dirent_place *ret_place);
static inline const struct ext4_dir_entry_2 *dirents_at(const struct dirents *row, uint32_t at)
{
	return (const void *)(row->data + at);
}
/* Does it hold anything but "." and ".."? */
bool dirents_are_empty(const struct dirents *row);

/*
 * Changes.  @data is where the bytes of a verified row lie, and stays one.
 *
 * A record with room for a name of @name_len bytes: false if there is none.
 */
bool dirents_find_room(const struct dirents *row, size_t name_len, uint32_t *ret_at);
/* Into the record that dirents_find_room() found. */
void dirents_insert(uint8_t *data, uint32_t block_size, uint32_t at,
		    const struct dirent_new *entry);
/* The entry at @at names another inode; its name stays. */
void dirents_set(uint8_t *data, uint32_t at, const struct dirent_new *entry);
/* Its room goes to the record in front; the first one stays as one that is not in use. */
void dirents_remove(uint8_t *data, uint32_t block_size, const struct dirent_place *place);
/* @bytes become one record that is not in use, or none if they are 0. */
void dirents_clear(uint8_t *data, uint32_t block_size, uint32_t bytes);
/* Records fill the first @end bytes; the last one gets what is left up to @bytes. */
void dirents_close(uint8_t *data, uint32_t block_size, uint32_t end, uint32_t bytes);
/* Moves all entries to the front, without gaps; the last one has all the room that is left. */
void dirents_pack(uint8_t *data, uint32_t block_size, uint32_t bytes);
/* Bytes that dirents_pack() would leave free. */
uint32_t dirents_free_bytes(const struct dirents *row);

static inline bool name_is_dot(const char *name, size_t len)
{
	return len == 1 && name[0] == '.';
}
static inline bool name_is_dotdot(const char *name, size_t len)
{
	return len == 2 && name[0] == '.' && name[1] == '.';
}

/* ---- blocks of directories: dir.c ------------------------------------------------------------ */

/* enum uext4_file_type of an entry of @ip. */
uint8_t dirent_type(const struct inode *ip, const struct ext4_dir_entry_2 *de);

/* An entry in a directory with blocks.  Holds a reference to the block. */
struct dir_place {
	struct buf *buf;
	struct dirents row;
	lblk_t logical;
	struct dirent_place place;
};

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

/* Where @name, none of the dots, lies.  -ENOENT.  Requires lock, and state BLOCKS. */
int dir_place_find(struct inode *ip, const void *name, size_t name_len, struct dir_place *ret_place)
	MUST_CHECK;

extern const struct buf_ops dir_leaf_ops; /* arg: struct verify_inode */

/* ---- directories inside the inode: inline_dir.c ---------------------------------------------- */

#define DIR_INLINE_PARTS 2u

/* Both rows of an INLINE directory.  Valid while xattr_lock, which must be held, is. */
int dir_inline_rows(struct inode *ip, struct dirents ret_rows[DIR_INLINE_PARTS])
	MUST_CHECK REQUIRES_SHARED(&ip->xattr_lock);
/* These take xattr_lock, shared to read. */
int dir_inline_find(struct inode *ip, const void *name, size_t name_len, uint32_t *ret_ino)
	MUST_CHECK;
uint32_t dir_inline_parent(struct inode *ip);
int dir_inline_is_empty(struct inode *ip, bool *ret_empty) MUST_CHECK;

/*
 * Changes; they take xattr_lock exclusive, and store the inode.  Requires lock exclusive.
 *
 * An EMPTY directory becomes INLINE; -ENOSPC: there is no room for it, nothing has changed.
 */
int dir_inline_init(struct handle *h, struct inode *ip, uint32_t parent_ino) MUST_CHECK;
/* -ENOSPC: it does not fit inside. */
int dir_inline_add(struct handle *h, struct inode *ip, const struct dirent_new *entry) MUST_CHECK;
int dir_inline_remove(struct handle *h, struct inode *ip, const void *name, size_t name_len)
	MUST_CHECK;
/* ".." too. */
int dir_inline_replace(struct handle *h, struct inode *ip, const struct dirent_new *entry)
	MUST_CHECK;
/* INLINE -> BLOCKS, of one block.  -ENOSPC, -EDQUOT: nothing has changed. */
int dir_inline_convert(struct handle *h, struct inode *ip) MUST_CHECK;

/* ---- directories that change: dir_write.c ---------------------------------------------------- */

/* The type byte of an entry for an inode of enum uext4_file_type @type. */
uint8_t dirent_disk_type(const struct inode *ip, uint8_t type);
/* The next block of directory @ip, zeroed, in @h; the size has grown.  -ENOSPC, -EDQUOT. */
int dir_add_block(struct handle *h, struct inode *ip, const struct buf_ops *ops,
		  struct buf **ret_buf, lblk_t *ret_logical) MUST_CHECK;
/* inode_store(), where a failure has to abort the journal: the directory has changed. */
int dir_store(struct handle *h, struct inode *ip) MUST_CHECK;
/* "." and ".." into the empty block @buf, and room behind them up to @bytes. */
void dir_fill_dots(struct inode *ip, uint8_t *data, uint32_t parent_ino, uint32_t bytes);
/* How many bytes of a block are for entries. */
uint32_t dir_leaf_bytes(const struct inode *ip);

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
/* Where @name lies, -ENOENT if it is not there. */
int htree_find(struct htree *t, const void *name, size_t name_len, struct dir_place *ret_place)
	MUST_CHECK;

extern const struct buf_ops htree_root_ops, htree_node_ops; /* arg: struct verify_inode */

/* ---- hash trees that change: htree_write.c --------------------------------------------------- */

/*
 * A directory of one block gets a tree over what becomes its second block.  -ENOSPC: nothing has
 * changed.
 */
int htree_create(struct handle *h, struct inode *ip) MUST_CHECK;
/*
 * Adds an entry, which is not there.  -ENOSPC: no block, or the tree is full; it may have been
 * rebuilt then, with the same entries.
 */
int htree_add(struct handle *h, struct inode *ip, const struct dirent_new *entry) MUST_CHECK;
/* ".." of an indexed directory names another inode. */
int htree_set_parent(struct handle *h, struct inode *ip, uint32_t parent_ino) MUST_CHECK;

#endif
