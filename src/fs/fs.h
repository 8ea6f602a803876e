/* SPDX-License-Identifier: MIT */
/*
 * ext4 proper: one open file system, its inodes, and what they hold.
 *
 * This header is what reading needs, and inodes as they change; balloc.h, map.h, dir.h, xattr.h and
 * quota.h are the rest of the writing half.  Locks are taken in the order of sync/lockranks.h; each
 * function says which it takes (none of them may be held already) or requires.
 */
#ifndef FS_FS_H
#define FS_FS_H

#include "base/base.h"
#include "cache/cache.h"
#include "disk/geom.h"
#include "disk/verify.h"
#include "dev/dev.h"
#include "journal/handle.h"
#include "sync/sync.h"
#include "uext4.h" /* for its plain structs only: dirent, info, extent, time */

struct inode;
struct icache;
struct fc_view;
struct fc_inode;
struct balloc;
struct prealloc;
struct quota;
struct dquot;

/* ---- the file system: super.c, group.c, orphan.c ------------------------------------------- */

/*
 * What a commit says about file data.  ORDERED: it is on disk before what makes it visible; it is
 * how writeback works here (M2), so WRITEBACK is the same.  JOURNAL: data goes through the log.
 */
enum fs_data_mode { FS_DATA_ORDERED, FS_DATA_JOURNAL, FS_DATA_WRITEBACK };

/* What happens when the structure on disk turns out to be wrong: s_errors. */
enum fs_errors { FS_ERRORS_CONTINUE = 1, FS_ERRORS_RO = 2, FS_ERRORS_PANIC = 3 };

/* What has to be said of errors in the superblock (s_first_error_*, s_last_error_*). */
struct super_error {
	int64_t sec;
	uint32_t ino;
	blk_t blk;
	int err;
};
struct super_note {
	uint32_t count;
	struct super_error first, last;
};

/* Flushes of the device for data that no commit covers; see ops/fsync.c. */
struct data_flush {
	struct mutex lock;	       /* RANK_leaf */
	struct cond done;	       /* one ended */
	_Atomic uint64_t started;      /* a; changed under the lock: how many */
	uint64_t ended GUARDED(&lock); /* the number of the last one that succeeded */
	bool running GUARDED(&lock);
};

/* Who hears of mappings, in turns: vm/watch.c. */
struct map_watch {
	struct mutex lock; /* RANK_leaf */
	struct cond done;  /* a turn ended */
	bool calling GUARDED(&lock);
	uext4_map_hook hook; /* whose turn it is; NULL: nobody */
	void *arg;	      /* the same */
};

struct freeze;
struct vm_space;
struct orphan_file;
struct mmp;
struct xattr_share;

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

	/* The writing half; all NULL or 0 where the image is open for reading. */
	struct txn_log *log;   /* c: NULL: read-only; every change goes through it */
	struct balloc *balloc; /* c */
	struct quota *quota;   /* c: NULL without the features */
	bool writable; /* c: opened for writing; fs_check_writable() knows of errors since */
	enum fs_data_mode data_mode; /* c */
	bool delalloc;		     /* c */
	uint8_t *fast_tags; /* c: fast commits that are to be applied, while it is opened */
	size_t fast_bytes;
	uint32_t fast_tid; /* the transaction they stand for */
	bool in_scope;	   /* changes are made together; set where nobody else is inside: scope.c */
	uint64_t dirty_max_bytes; /* c: of the flusher */
	bool no_barrier;	  /* c: no flushes of the device */
	struct data_flush data_flush;
	uint16_t resuid, resgid; /* c: who may use the reserved blocks */
	struct mutex super_lock; /* RANK_super */
	/*
	 * The superblock's block, referenced while writable.  `super` above is what was read at
	 * open; what changes (orphans, features, counts) changes here, in a handle.
	 */
	struct buf *super_buf GUARDED(&super_lock);
	struct list orphans GUARDED(&super_lock); /* of struct inode: newest first, as on disk */
	struct orphan_file *orphan_file;	  /* c: NULL without one */
	struct mutex rename_lock;		  /* RANK_rename */
	struct freeze *freeze;			  /* c: freeze.c */
	/* a: mappings of its files, and pins; no scope begins while there are any */
	_Atomic uint32_t mapped;
	_Atomic uint32_t store_pins; /* a: pins for stores, which no freeze keeps out */
	struct map_watch map_watch;
	/* a: NULL until something is mapped first; api/ makes and destroys it */
	_Atomic(struct vm_space *) space;
	struct mmp *mmp;		 /* c: NULL without the feature */
	struct xattr_share *xattr_share; /* c */
	struct dev *journal_dev;	 /* c: owned; NULL: the journal is inside */
	enum fs_errors errors;		 /* c */
	_Atomic int error;		 /* a: the first that made it read-only */
	struct mutex note_lock;		 /* RANK_leaf */
	struct super_note note GUARDED(&note_lock);
};

struct fs_options {
	uint64_t superblock; /* block number of a backup, 0: primary */
	uint32_t block_size; /* with superblock; 0: try all */
	uint64_t cache_bytes;
	bool norecovery; /* show it as it lies */
	bool nolock;	 /* do not look for other users (MMP) */
	/*
	 * External journal, or NULL; the caller's, used during open only, or, when writing, until
	 * close.
	 */
	struct dev *journal_dev;
	/* for writing; the device is writable */
	bool write;
	enum fs_data_mode data_mode;
	bool nodelalloc;
	bool no_barrier;
	enum fs_errors errors;	     /* 0: as the superblock says */
	uint32_t commit_interval_ms; /* 0: default */
	uint64_t dirty_max_bytes;    /* 0: half of the cache */
};

/*
 * Opens the file system on @dev, which it takes over, also when it fails.  @file_ops: how pages of
 * regular files are filled.  Reads superblock and, if dirty, the journal, which it replays into an
 * overlay.  Errors as uext4_open(); -ENOTRECOVERABLE: a journal is pending and cannot be replayed
 * (text says why).
 */
int fs_open(struct dev *dev, const struct fs_options *options, const struct mapping_ops *file_ops,
	    struct uext4_fs **ret_fs) MUST_CHECK;
/*
 * Ends it: writes all that is dirty, commits, checkpoints, marks the image clean.  The first error
 * of that; @fs is gone all the same.  Nothing of it may be referenced.
 */
int fs_close(struct uext4_fs *fs);

/* 0; -EROFS if the image was opened for reading; the error after which it became read-only. */
int fs_check_writable(struct uext4_fs *fs) MUST_CHECK;
/*
 * The disk lies, and it was found while changing it: applies the error policy, notes it in the
 * superblock (s_error_count and the like), and returns @err.  Callable with anything held.
 */
int fs_error(struct uext4_fs *fs, int err, uint32_t ino, blk_t blk);
/* A feature that was not on is needed from now on (large_file, ...): sets it, in @h (1 credit). */
int fs_set_ro_compat(struct handle *h, struct uext4_fs *fs, uint32_t feature) MUST_CHECK;
int fs_set_compat(struct handle *h, struct uext4_fs *fs, uint32_t feature) MUST_CHECK;
/* Everything dirty is written and committed.  Nothing held. */
int fs_sync(struct uext4_fs *fs) MUST_CHECK;

/*
 * A modifying call is inside (rank freeze_write); waits while the image is frozen.  -EROFS as
 * fs_check_writable(), nothing is held then.
 */
int fs_write_begin(struct uext4_fs *fs) MUST_CHECK;
void fs_write_end(struct uext4_fs *fs);
/*
 * A write fault is inside (rank freeze_fault).  Never waits, so it is asked for with `space` held
 * too (M1): -EAGAIN while the image is frozen, then fs_wait_thawed() with nothing held; -EROFS as
 * fs_check_writable().
 */
int fs_fault_begin(struct uext4_fs *fs) MUST_CHECK;
void fs_fault_end(struct uext4_fs *fs);
void fs_wait_thawed(struct uext4_fs *fs);
/*
 * Several calls that are durable together or not at all (scope.c).  The caller has @fs for himself.
 * After a commit that failed, and after -E2BIG from any call, only cancel is possible.
 */
int fs_scope_begin(struct uext4_fs *fs) MUST_CHECK;
int fs_scope_commit(struct uext4_fs *fs) MUST_CHECK;
int fs_scope_cancel(struct uext4_fs *fs) MUST_CHECK;

/* No modifying call is inside when it returns, everything is on disk, the log is empty. */
int fs_freeze(struct uext4_fs *fs) MUST_CHECK;
int fs_thaw(struct uext4_fs *fs) MUST_CHECK;
/* inode_reap(), at the end of every call of the API with nothing held; not while it is frozen. */
int fs_reap(struct uext4_fs *fs) MUST_CHECK;

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

enum inode_load { INODE_LOADING, INODE_READY, INODE_GONE };

/* What map_read() found last: map.c. */
struct map_cache {
	_Atomic uint32_t seq;	/* a: odd while the others change */
	_Atomic uint64_t range; /* a: first block and how many; none: nothing is remembered */
	_Atomic uint64_t place; /* a: state and physical block */
};

/* shared */
struct inode {
	struct uext4_fs *fs;   /* c */
	uint32_t ino;	       /* c */
	uint32_t generation;   /* c */
	uint32_t csum_seed;    /* c: verify_inode_seed() */
	uint16_t type;	       /* c: S_IFMT part of the mode */
	uint32_t refs;	       /* icache */
	enum inode_load load;  /* icache */
	struct list hash_link; /* icache */
	struct list lru_link;  /* icache */
	uint32_t holds;	       /* icache: of the cache, while pages are dirty */
	bool queued;	       /* icache: for inode_reap() */

	struct rwlock lock;	    /* RANK_inode */
	struct rwlock invalidate;   /* RANK_invalidate */
	struct rwlock xattr_lock;   /* RANK_xattr */
	struct rwlock map_lock;	    /* RANK_map */
	struct map_cache map_cache; /* a */
	struct mapping pages;	    /* regular files */
	_Atomic uint64_t read_next; /* a: where a sequential reader would go on; a hint */

	enum inode_state state; /* xattr_lock */
	/*
	 * The size in memory: changed under lock + xattr_lock, read under either.  raw->i_size is
	 * that on disk: it follows when the bytes are written.
	 */
	uint64_t size;
	const struct fc_inode *fc; /* c: fast-commit changes to extents or entries, or NULL */
	/*
	 * The inode as on disk, geom.inode_size bytes, verified.  i_block belongs to map_lock
	 * (BLOCKS) or xattr_lock (INLINE, FAST); the xattr area to xattr_lock; i_blocks to
	 * map_lock; i_size and times to raw_lock; the rest to lock.  Who changes a byte holds its
	 * lock exclusive and raw_lock; either suffices to read it.
	 */
	struct ext4_inode *raw;
	struct mutex raw_lock; /* RANK_raw */
	blk_t table_blk;       /* c: where it lies in the inode table */
	uint32_t table_offset; /* c: in that block */

	/* Of directories. */
	uint32_t dir_changes;	    /* lock: counts changes of entries; see dir_cursor.c */
	_Atomic uint32_t dir_found; /* a: block a name was found in; a hint */
	uint32_t dir_room;	    /* lock: block an entry was added to; a hint */

	/* The writing half. */
	_Atomic uint32_t flags;		 /* a: enum inode_flag */
	_Atomic uint32_t sync_tid;	 /* a: the transaction of the last inode_store() */
	_Atomic uint32_t datasync_tid;	 /* a: of the last one that fdatasync must wait for */
	_Atomic uint32_t writers;	 /* a: handles open for writing; at 0 preallocation ends */
	struct list orphan_link;	 /* super: in fs->orphans */
	uint32_t orphan_slot;		 /* super: its place in the orphan file, plus 1; 0: none */
	struct prealloc *prealloc;	 /* group.c's and balloc.c's own locks */
	_Atomic uint64_t flush_needed;	 /* a: of fs->data_flush, for data written in place */
	_Atomic uint32_t mappings;	 /* a: of it */
	bool watched;			 /* fs->map_watch, in a turn: the hook agreed */
	struct mutex writepages_lock;	 /* RANK_writepages */
	struct mutex reserve_lock;	 /* RANK_reserve */
	struct mutex delayed_lock;	 /* RANK_leaf */
	_Atomic uint64_t delayed_blocks; /* a: promised to data that has no place yet */
	/* See ops/delayed.c; nothing in it where blocks, clusters and pages do not share. */
	struct xarray delayed GUARDED(&delayed_lock);
	struct dquot *dquots[3]; /* quota: its owners, NULL: none is charged */
	uint64_t quota_promised; /* quota: bytes that delayed allocation was promised */
	bool quota_attached;	 /* quota: dquots[] are known */
};

enum inode_flag {
	INODE_DIRTY_TIMES = 1u << 0, /* raw has times that inode_store() has not stored */
	INODE_UNLINKED = 1u << 1,    /* no links: goes with its last reference */
	INODE_DYING = 1u << 2,	     /* being deleted: nobody gets a reference any more */
	INODE_ORPHAN = 1u << 3,	     /* on the orphan list or in the orphan file */
	INODE_STUCK = 1u << 4,	     /* could not be deleted: fs->orphans holds a reference */
	INODE_LINKABLE = 1u << 5,    /* was made without a name, and may get one */
	INODE_HALF_CUT = 1u << 6,    /* blocks behind the end wait to be freed: ops/truncate.c */
};

/*
 * A reference to inode @ino, loaded and verified.  -EINVAL no such number; -ESTALE not in use;
 * -EFSBADCRC, -EFSCORRUPTED.  May wait for I/O; requires ranks below `buf` only.
 */
int inode_get(struct uext4_fs *fs, uint32_t ino, struct inode **ret_inode) MUST_CHECK;
void inode_put(struct inode *ip); /* NULL is fine; never evicts while a rank is held */

/* One more reference to one that is referenced. */
void inode_ref(struct inode *ip);
/*
 * mapping_ops' hold and release.  A held inode stays in memory, but a hold is no reference: an
 * inode without links and references is deleted though its pages are dirty, which are dropped then.
 */
void inode_hold(struct inode *ip);
/* False: it is about to leave memory, which it cannot before the caller gives up what keeps it. */
bool inode_try_hold(struct inode *ip);
void inode_release(struct inode *ip);
/* The same, and out of memory with it if nobody has it, nor is anything left to be done for it. */
void inode_evict(struct inode *ip);
/*
 * Finishes inodes whose last reference went while they had no links, in this thread.  No lock held.
 */
int inode_reap(struct uext4_fs *fs) MUST_CHECK;

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

/*
 * Locks of several inodes at once: the key of each is its part in the operation, then its number,
 * so that a parent comes before its child whatever their numbers are.  Two parents: the ancestor
 * first, else the smaller number, with rename_lock held.
 */
enum inode_part {
	INODE_PARENT,
	INODE_PARENT2,
	INODE_CHILD,
	INODE_CHILD2,
	INODE_EA,
	INODE_QUOTA, /* a quota file: whatever else is locked */
};

static inline void inode_lock(struct inode *ip, enum inode_part part) ACQUIRES(ip->lock)
{
	rwlock_write_as(&ip->lock, (uint64_t)part << 32 | ip->ino);
}
static inline void inode_unlock(struct inode *ip) RELEASES(ip->lock)
{
	rwlock_write_unlock(&ip->lock);
}

static inline uint32_t inode_flags(const struct inode *ip)
{
	/*
	 * Read by who holds the inode's lock, the map's, or none, while others change other flags.
	 */
	le32 flags = { __atomic_load_n(&ip->raw->i_flags.raw, __ATOMIC_RELAXED) };

	return le32_get(flags);
}

static inline bool inode_has_flag(const struct inode *ip, uint32_t flag)
{
	return inode_flags(ip) & flag;
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

/*
 * ---- inodes that change: inode_write.c, orphan.c -----------------------------------------------
 */

#define INODE_STORE_CREDITS 1u

/*
 * Copies the raw inode, with its checksum, into its buffer in @h.  Everybody who changed raw calls
 * it in the handle of that change.  Takes raw_lock.  @datasync: fdatasync has to wait for it.
 */
int inode_store(struct handle *h, struct inode *ip) MUST_CHECK;
int inode_store_meta(struct handle *h, struct inode *ip) MUST_CHECK; /* not for fdatasync */
/* Times that changed in memory only (INODE_DIRTY_TIMES) are stored in a handle of its own. */
int inode_flush_times(struct inode *ip) MUST_CHECK;

/* Changes of raw under raw_lock, which the caller does not hold. */
enum inode_time {
	INODE_ATIME = 1u << 0,
	INODE_MTIME = 1u << 1,
	INODE_CTIME = 1u << 2,
	INODE_CRTIME = 1u << 3
};
/*
 * Sets the times named in @which to now, and counts i_version up if mtime or ctime is among them.
 */
void inode_touch(struct inode *ip, uint32_t which);
void inode_set_time(struct inode *ip, uint32_t which, struct uext4_time t);
void inode_set_mode(struct inode *ip, uint16_t permissions); /* 07777; the type stays */
void inode_set_owner(struct inode *ip, uint32_t uid, uint32_t gid);
void inode_set_links(struct inode *ip, uint32_t links);
uint32_t inode_links(const struct inode *ip);
uint32_t inode_projid(struct inode *ip);		   /* 0 where there are no projects */
void inode_set_disk_size(struct inode *ip, uint64_t size); /* raw i_size */
uint64_t inode_disk_size(struct inode *ip);
void inode_add_blocks(struct inode *ip, int64_t blocks); /* of the file system; i_blocks */
void inode_set_flags(struct inode *ip, uint32_t set, uint32_t clear); /* EXT4_*_FL */

struct inode_create {
	uint16_t mode; /* with type */
	uint32_t uid, gid, projid;
	uint32_t flags; /* EXT4_*_FL inherited */
	uint32_t rdev_major, rdev_minor;
};
#define INODE_CREATE_CREDITS (IALLOC_CREDITS + INODE_STORE_CREDITS)
/*
 * A new inode, stored, with one reference and the caller's lock on it (exclusive; parent's is
 * held). Its links are 1 (2 for a directory), its state EMPTY, or for a directory and where extents
 * are made BLOCKS with an empty map.  @dir: for its place and what is inherited.
 */
int inode_create(struct handle *h, struct inode *dir, const struct inode_create *attrs,
		 struct inode **ret_inode) MUST_CHECK;
/* What failed behind inode_create() in the same handle: the inode goes again, unlocked and put. */
void inode_create_undo(struct handle *h, struct inode *ip);

/*
 * On the orphan list, or in the orphan file (J11).  Idempotent.  Lock exclusive.  ORPHAN_CREDITS.
 */
#define ORPHAN_CREDITS 3u
int orphan_add(struct handle *h, struct inode *ip) MUST_CHECK;
int orphan_remove(struct handle *h, struct inode *ip) MUST_CHECK;
/* At open for writing: finishes what a crash left.  *ret_done counts. */
int orphan_process(struct uext4_fs *fs, uint32_t *ret_done) MUST_CHECK;
/* Frees all blocks behind byte @size of an inode in BLOCKS, restarting handles.  Lock exclusive. */
int inode_free_blocks(struct inode *ip, uint64_t size) MUST_CHECK;

/* Where inode @ino lies: block of the table and offset in it. */
int inode_place(struct uext4_fs *fs, uint32_t ino, blk_t *ret_blk, uint32_t *ret_offset) MUST_CHECK;

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
/*
 * When it is opened for writing: does what the tags say, in handles of their own.  Called with the
 * log held; after an error the caller discards what was changed.  -E2BIG: one transaction cannot
 * hold it.
 */
int fastcommit_apply(struct uext4_fs *fs, const uint8_t *tags, size_t bytes) MUST_CHECK;
const struct fc_inode *fastcommit_inode(const struct fc_view *view, uint32_t ino);
void fastcommit_destroy(struct fc_view *view); /* NULL is fine */

#endif
