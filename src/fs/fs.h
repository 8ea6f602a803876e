/* SPDX-License-Identifier: MIT */
/*
 * ext4 proper: one open file system, its inodes, and what they hold.
 *
 * The types here are those of the concurrent engine; the functions are the reading half.  Locks are
 * taken in the order of sync/lockranks.h; each function says which it takes (none of them may be
 * held already) or requires.
 */
#ifndef FS_FS_H
#define FS_FS_H

#include "base/base.h"
#include "cache/cache.h"
#include "disk/geom.h"
#include "disk/verify.h"
#include "dev/dev.h"
#include "journal/journal.h"
#include "sync/sync.h"
#include "uext4.h" /* for its plain structs only: dirent, info, extent, time */

struct inode;
struct icache;
struct fc_view;
struct fc_inode;

/* ---- the file system: super.c, group.c, orphan.c ------------------------------------------- */

/* shared; all `c` but for what is behind pointers */
struct uext4_fs {
	struct dev *dev; /* c: owned; the overlay after a replay */
	struct cache *cache;
	struct icache *icache;
	struct geom geom;
	struct ext4_super_block super; /* c: as this view shows it (after replay) */
	struct fc_view *fc;	       /* c: what fast commits changed, or NULL */
	struct uext4_info info;	       /* c: computed at open */
	blk_t super_blk;	       /* c: which copy was read: descriptors are found from it */
	const struct mapping_ops *file_ops; /* c: filled in ops/ */
	struct mutex count_lock;	    /* RANK_leaf */
	bool counted GUARDED(&count_lock);  /* the sums below are known */
	uint64_t blocks_free GUARDED(&count_lock);
	uint32_t inodes_free GUARDED(&count_lock);
};

struct fs_options {
	uint64_t superblock; /* block number of a backup, 0: primary */
	uint32_t block_size; /* with superblock; 0: try all */
	uint64_t cache_bytes;
	bool norecovery; /* show it as it lies */
	bool nolock;	 /* do not look for other users (MMP) */
	struct dev
		*journal_dev; /* external journal, or NULL; the caller's, used during open only */
};

/*
 * Opens the file system on @dev, which it takes over, also when it fails.  @file_ops: how pages of
 * regular files are filled.  Reads superblock and, if dirty, the journal, which it replays into an
 * overlay.  Errors as uext4_open(); -ENOTRECOVERABLE: a journal is pending and cannot be replayed
 * (text says why).
 */
int fs_open(struct dev *dev, const struct fs_options *options, const struct mapping_ops *file_ops,
	    struct uext4_fs **ret_fs) MUST_CHECK;
void fs_close(struct uext4_fs *fs);

/* Group descriptor @group, verified; short descriptors are widened with zeros. */
int group_desc_read(struct uext4_fs *fs, uint32_t group, struct ext4_group_desc *ret) MUST_CHECK;

/* Sums of all descriptors, read once (no bitmap is). */
int group_count_free(struct uext4_fs *fs, uint64_t *ret_blocks, uint32_t *ret_inodes) MUST_CHECK;

/* As uext4_info(). */
void fs_info(struct uext4_fs *fs, struct uext4_info *ret);

/* As the kernel's statfs: overhead, reserved and free counts. */
int fs_statfs(struct uext4_fs *fs, uint32_t flags, struct uext4_statfs *ret) MUST_CHECK;

/* How many inodes the orphan list and the orphan file hold. */
int orphan_count(struct uext4_fs *fs, uint32_t *ret_count) MUST_CHECK;

/* ---- inodes: inode.c ----------------------------------------------------------------------- */

/*
 * Where a regular file's bytes are.  Moves EMPTY -> INLINE, EMPTY -> BLOCKS, INLINE -> BLOCKS and
 * never back.  Directories and symlinks use INLINE and BLOCKS with the same meaning; a fast symlink
 * is INODE_FAST (its target is in i_block), device nodes and the like are EMPTY.
 */
enum inode_state { INODE_EMPTY, INODE_INLINE, INODE_BLOCKS, INODE_FAST };

/* shared */
struct inode {
	struct uext4_fs *fs;   /* c */
	uint32_t ino;	       /* c */
	uint32_t generation;   /* c */
	uint32_t csum_seed;    /* c: verify_inode_seed() */
	uint16_t type;	       /* c: S_IFMT part of the mode */
	uint32_t refs;	       /* icache */
	uint8_t load;	       /* icache: enum inode_load */
	struct list hash_link; /* icache */
	struct list lru_link;  /* icache */

	struct rwlock lock;	    /* RANK_inode */
	struct rwlock invalidate;   /* RANK_invalidate */
	struct rwlock xattr_lock;   /* RANK_xattr */
	struct rwlock map_lock;	    /* RANK_map */
	struct mapping pages;	    /* regular files */
	_Atomic uint64_t read_next; /* a: where a sequential reader would go on; a hint */

	enum inode_state state; /* xattr_lock */
	uint64_t size; /* atomic in effect: changed under lock + xattr_lock, read under either */
	const struct fc_inode *fc; /* c: fast-commit changes to extents or entries, or NULL */
	/*
	 * The inode as on disk, geom.inode_size bytes, verified.  i_block belongs to map_lock
	 * (BLOCKS) or xattr_lock (INLINE, FAST); the xattr area to xattr_lock; the rest to lock.
	 */
	struct ext4_inode *raw;
};

/*
 * A reference to inode @ino, loaded and verified.  -EINVAL no such number; -ESTALE not in use;
 * -EFSBADCRC, -EFSCORRUPTED.  May wait for I/O; requires ranks below `buf` only.
 */
int inode_get(struct uext4_fs *fs, uint32_t ino, struct inode **ret_inode) MUST_CHECK;
void inode_put(struct inode *ip); /* NULL is fine; never evicts while a rank is held */

static inline void inode_put_scope(struct inode **pp)
{
	inode_put(*pp);
}
#define INODE_SCOPE CLEANUP(inode_put_scope)

int icache_create(struct uext4_fs *fs, uint32_t inodes_max, struct icache **ret) MUST_CHECK;
void icache_destroy(struct icache *ic); /* all references must have been put */
/* Forgets every inode: after recovery.  None may be referenced. */
void icache_forget(struct icache *ic);
/* The same with inode @ino, if it is there. */
void icache_forget_one(struct icache *ic, uint32_t ino);

/* Attributes; takes lock and xattr_lock shared. */
void inode_stat(struct inode *ip, struct uext4_stat *ret);

static inline bool inode_has_flag(const struct inode *ip, uint32_t flag)
{
	return le32_get(ip->raw->i_flags) & flag;
}
static inline bool inode_is_reg(const struct inode *ip)
{
	return ip->type == 0100000;
}
static inline bool inode_is_dir(const struct inode *ip)
{
	return ip->type == 0040000;
}
static inline bool inode_is_lnk(const struct inode *ip)
{
	return ip->type == 0120000;
}
void inode_verify_arg(const struct inode *ip, struct verify_inode *ret);

/*
 * The bytes of inode @ino, verified, in use or not (an orphan is not): geom.inode_size of them into
 * @raw.
 */
int inode_read_raw(struct uext4_fs *fs, uint32_t ino, struct ext4_inode *raw) MUST_CHECK;

/* Where inode @ino lies: block of the table and offset in it. */
int inode_place(struct uext4_fs *fs, uint32_t ino, blk_t *ret_blk, uint32_t *ret_offset) MUST_CHECK;

/* ---- blocks of a file: map.c over extent.c and indirect.c ---------------------------------- */

enum map_state { MAP_HOLE, MAP_UNWRITTEN, MAP_WRITTEN };

struct map_ext {
	lblk_t logical;
	uint32_t count; /* a hole behind the last extent reaches UINT32_MAX */
	blk_t physical; /* 0 for a hole */
	enum map_state state;
};

/*
 * The extent that covers @logical, from @logical on (logical == @logical), or the hole that starts
 * there.  The state must be BLOCKS.  Takes map_lock shared; reads metadata.
 */
int map_read(struct inode *ip, lblk_t logical, struct map_ext *ret_ext) MUST_CHECK;

/* Private to map.c and its two halves: requires map_lock shared. */
int extent_find(struct inode *ip, lblk_t logical, struct map_ext *ret_ext) MUST_CHECK;
int indirect_find(struct inode *ip, lblk_t logical, struct map_ext *ret_ext) MUST_CHECK;

/*
 * Block @logical of a directory, symlink or other metadata-like file as a buffer.  -EFSCORRUPTED
 * for a hole.  @arg is given to @ops' verify().
 */
int map_read_buf(struct inode *ip, lblk_t logical, const struct buf_ops *ops, const void *arg,
		 struct buf **ret_buf) MUST_CHECK;

/* ---- data inside the inode: inline.c ------------------------------------------------------- */

/*
 * Two pieces of an INLINE inode's data: i_block (60 bytes) and the value of system.data.  Requires
 * xattr_lock shared; valid while it is held.
 */
struct inline_parts {
	const uint8_t *part[2];
	uint32_t bytes[2];
};

int inline_find(struct inode *ip, struct inline_parts *ret)
	MUST_CHECK REQUIRES_SHARED(&ip->xattr_lock);
/*
 * Copies what lies in [@offset, @offset + @bytes) and inside the size; zeroes the rest.  Takes
 * xattr_lock.
 */
int inline_read(struct inode *ip, uint64_t offset, void *buf, size_t bytes) MUST_CHECK;
/* Where the bytes kept in the inode end: the size, or less (inline.c).  Takes xattr_lock. */
int inline_data_end(struct inode *ip, uint64_t *ret_end) MUST_CHECK;

/* ---- extended attributes: xattr.c, acl.c --------------------------------------------------- */

/* As uext4_xattr_list() and uext4_xattr_get(), into engine memory.  Take xattr_lock shared. */
int xattr_list(struct inode *ip, char *buf, size_t size, size_t *ret_size) MUST_CHECK;
int xattr_get(struct inode *ip, const char *name, void *buf, size_t size, size_t *ret_size)
	MUST_CHECK;
/* Finds an attribute inside the inode body.  Requires xattr_lock shared.  -ENODATA. */
int xattr_ibody_find(struct inode *ip, uint8_t index, const char *name, size_t name_len,
		     const uint8_t **ret_value, uint32_t *ret_size) MUST_CHECK;
/* An ACL as it lies on disk, in the form getxattr(2) gives it.  -ERANGE, -EFSCORRUPTED. */
int acl_from_disk(const void *disk, size_t disk_size, void *buf, size_t size, size_t *ret_size)
	MUST_CHECK;

/* ---- directories: dir.c, htree.c, hash.c --------------------------------------------------- */

/* The inode number of entry @name.  -ENOENT.  Takes lock shared. */
int dir_find(struct inode *ip, const void *name, size_t name_len, uint32_t *ret_ino) MUST_CHECK;

struct dir_cursor; /* one listing: a position and the batch behind it */
int dir_cursor_create(struct inode *ip, struct dir_cursor **ret) MUST_CHECK; /* takes a reference */
void dir_cursor_destroy(struct dir_cursor *dc);
/* As uext4_dir_read(), into engine memory.  Takes lock shared, then the cursor's. */
int dir_cursor_read(struct dir_cursor *dc, uint64_t cookie, struct uext4_dirent *entries,
		    size_t count, size_t *ret_count) MUST_CHECK;

struct dir_hash {
	uint32_t major, minor;
};
/* The hash of @name in @version (with signedness folded in).  -EFSCORRUPTED: unknown version. */
int dir_hash(uint8_t version, const uint32_t seed[4], const void *name, size_t name_len,
	     struct dir_hash *ret) MUST_CHECK;

/* ---- fast commits: fastcommit.c ------------------------------------------------------------ */

/* One directory entry that fast commits added (ino != 0) or removed (ino == 0). */
struct fc_dirent {
	struct list link;
	uint32_t ino;
	uint8_t type;
	uint8_t name_len;
	char name[];
};

/* What fast commits changed in one inode, beyond its raw bytes (which go to the overlay). */
struct fc_inode {
	uint32_t ino;
	bool has_extents;	 /* extents below replace the tree */
	struct map_ext *extents; /* sorted, no holes */
	size_t extents_count;
	struct list dirents; /* of struct fc_dirent, the last word on each name, each name once */
};

/*
 * Reads the tags of all fast commits into fs->fc and rewrites touched inodes in the overlay.
 * Called once at open, behind journal_recover(), before anybody else uses @fs.
 */
int fastcommit_replay(struct uext4_fs *fs, const uint8_t *tags, size_t bytes) MUST_CHECK;
const struct fc_inode *fastcommit_inode(const struct fc_view *view, uint32_t ino);
void fastcommit_destroy(struct fc_view *view); /* NULL is fine */

#endif
