/* SPDX-License-Identifier: MIT */
/*
 * What the files of the allocator share: balloc.c (who gets what), freespace.c (one group's free
 * clusters, and which group has how many together), prealloc.c (what is set aside), zones.c (where
 * the file system's own blocks lie), ialloc.c and group.c.
 *
 * Everything is counted in clusters from the first data block on; without bigalloc that is blocks.
 *
 *  G1  A group's bits in memory are 1 where the disk's are, and further where clusters were taken
 *      and not yet recorded, are set aside, or were freed in a transaction that has not committed.
 *  G2  avail + promised + claimed = free bits in memory + what is set aside.  Who claims first and
 *      then looks for bits finds them.
 *  G3  A bitmap is verified when it is read, and again against its descriptor and zones when its
 *      group is loaded.  A group that fails has no free clusters from then on.
 */
#ifndef FS_BALLOC_PRIV_H
#define FS_BALLOC_PRIV_H

#include "fs/balloc.h"
#include "fs/fs_priv.h"

#include "base/list.h"

/* A run in memory, inside one group. */
struct crun {
	uint64_t cluster;
	uint32_t count;
};

/* Flags of a group: those of its descriptor that count, and: */
#define GROUP_BLOCKS_BAD 0x10000u /* G3 */
#define GROUP_INODES_BAD 0x20000u
#define GROUP_LOADED 0x40000u /* bits is there: a hint */
#define GROUP_USED 0x80000u   /* of late: it stays loaded */

/* shared; all of it changes under the group's lock */
struct group {
	_Atomic uint32_t free;	  /* a: clusters whose bit in memory is 0 */
	_Atomic uint32_t largest; /* a: no more than this many of them lie together */
	_Atomic uint32_t inodes_free;
	_Atomic uint32_t dirs;
	_Atomic uint32_t flags;
	_Atomic uint32_t block_csum, inode_csum; /* of the bitmaps, as in the descriptor */
	uint32_t desc_tid;			 /* which transaction changed the descriptor last */
	uint32_t disk_free;			 /* clusters whose bit on disk is 0 */
	uint32_t first_free;			 /* loaded: no bit before it is 0 */
	uint64_t *bits;				 /* NULL: not loaded; behind the last cluster 1 */
};

/*
 * Which group has how many clusters together: of each group the class of its `largest` (see
 * fit_class()), of 64 groups the largest class, of 64 times 64, ...  Read without a lock, as a
 * hint.
 */
#define FIT_LEVELS_MAX 6u
struct fit {
	struct mutex lock; /* RANK_leaf: changes */
	unsigned levels;
	uint32_t count[FIT_LEVELS_MAX];
	_Atomic uint8_t *class[FIT_LEVELS_MAX];
};

/* Blocks of the file system itself: superblocks, descriptors, bitmaps, tables, the journal. */
struct zone {
	blk_t start;
	uint64_t count;
};

/* Freed in a transaction that has not committed (J4). */
struct freed {
	struct list link;
	tid_t tid;
	struct crun run;
};

#define PREALLOC_SHARDS 16u
#define LOCALITY_SLOTS 16u

struct prealloc_shard {
	struct mutex lock;		  /* RANK_leaf */
	struct list files GUARDED(&lock); /* of struct prealloc */
};

/* Where small files of one flex group go, one behind the other. */
struct locality {
	struct mutex lock; /* RANK_leaf */
	uint32_t flex GUARDED(&lock);
	struct crun rest GUARDED(&lock);
};

/* shared */
struct balloc {
	struct uext4_fs *fs;	 /* c */
	const struct geom *geom; /* c */
	struct group *groups;	 /* c */
	struct mutex *locks;	 /* c: of groups, each for many; RANK_group */
	uint32_t lock_mask;	 /* c */
	struct fit fit;
	_Atomic uint32_t loaded;		     /* a: groups */
	uint32_t loaded_max;			     /* c: as far as nothing is held in them */
	_Atomic uint32_t hand;			     /* a: of the clock that unloads groups */
	struct zone *zones;			     /* c */
	size_t zone_count;			     /* c */
	uint32_t flex_bits;			     /* c: groups of a flex group */
	int64_t floor_user, floor_root;		     /* c: what ordinary callers, and root, leave */
	uint32_t small_clusters;		     /* c: files up to this size are packed */
	uint32_t locality_clusters, window_clusters; /* c: what is set aside at once, at most */

	_Atomic int64_t avail;	      /* a: free and neither promised nor claimed (G2) */
	_Atomic uint64_t pending;     /* a: freed, but not yet committed */
	_Atomic uint64_t disk_free;   /* a */
	_Atomic uint32_t inodes_free; /* a */
	_Atomic uint32_t dirs;	      /* a */

	struct mutex freed_lock;		/* RANK_leaf */
	struct list freed GUARDED(&freed_lock); /* of struct freed, by tid */
	struct prealloc_shard shard[PREALLOC_SHARDS];
	struct locality locality[LOCALITY_SLOTS];
};

/* ---- places: freespace.c --------------------------------------------------------------------- */

static inline uint64_t cluster_of(const struct geom *g, blk_t blk)
{
	return (blk - g->first_data_block) >> g->cluster_ratio_bits;
}
static inline blk_t cluster_blk(const struct geom *g, uint64_t cluster)
{
	return g->first_data_block + (cluster << g->cluster_ratio_bits);
}
static inline uint32_t cluster_group(const struct geom *g, uint64_t cluster)
{
	return (uint32_t)(cluster / g->clusters_per_group);
}
static inline uint32_t cluster_bit(const struct geom *g, uint64_t cluster)
{
	return (uint32_t)(cluster % g->clusters_per_group);
}
/* Whole clusters: with bigalloc half of one at the end of the file system is nobody's. */
uint32_t group_clusters(const struct geom *g, uint32_t group);

void group_lock(struct balloc *b, uint32_t group);
void group_unlock(struct balloc *b, uint32_t group);

/* ---- descriptors: group.c -------------------------------------------------------------------- */

/* The upper halves exist in descriptors of 64 bytes only. */
static inline bool desc_has_hi(const struct geom *g)
{
	return g->desc_size >= EXT4_MIN_DESC_SIZE_64BIT;
}
static inline uint32_t desc_get16(const struct geom *g, const le16 *lo, const le16 *hi)
{
	return le16_get(*lo) | (desc_has_hi(g) ? (uint32_t)le16_get(*hi) << 16 : 0);
}
static inline void desc_set16(const struct geom *g, le16 *lo, le16 *hi, uint32_t v)
{
	*lo = le16_make((uint16_t)v);
	if (desc_has_hi(g))
		*hi = le16_make((uint16_t)(v >> 16));
}
static inline blk_t desc_get32(const struct geom *g, const le32 *lo, const le32 *hi)
{
	return le32_get(*lo) | (desc_has_hi(g) ? (blk_t)le32_get(*hi) << 32 : 0);
}
static inline blk_t desc_block_bitmap(const struct geom *g, const struct ext4_group_desc *gd)
{
	return desc_get32(g, &gd->bg_block_bitmap_lo, &gd->bg_block_bitmap_hi);
}
static inline blk_t desc_inode_bitmap(const struct geom *g, const struct ext4_group_desc *gd)
{
	return desc_get32(g, &gd->bg_inode_bitmap_lo, &gd->bg_inode_bitmap_hi);
}
static inline blk_t desc_inode_table(const struct geom *g, const struct ext4_group_desc *gd)
{
	return desc_get32(g, &gd->bg_inode_table_lo, &gd->bg_inode_table_hi);
}

/* Do flags and itable_unused of descriptors mean anything? */
bool desc_has_flags(const struct geom *g);
/*
 * Descriptor @group of a file system that is being opened for writing, verified; the pointer is
 * into *ret_buf.
 */
int desc_read_first(struct uext4_fs *fs, uint32_t group, struct buf **ret_buf,
		    const struct ext4_group_desc **ret_gd) MUST_CHECK;

/* A group with its descriptor and one of its bitmaps, read and verified; no lock is held. */
struct group_bufs {
	uint32_t group;
	struct buf *desc_buf, *bitmap_buf;
	struct ext4_group_desc *gd;
};
int group_bufs_read(struct balloc *b, uint32_t group, bool inode_bitmap, struct group_bufs *ret)
	MUST_CHECK;
void group_bufs_put(struct group_bufs *gb);
#define GROUP_BUFS_SCOPE CLEANUP(group_bufs_put)
/*
 * With the group's lock held: both buffers enter the handle, and the bytes of a bitmap that was
 * never initialised become what they stand for.  After an error nothing has changed.
 */
int group_bufs_get_write(struct handle *h, struct balloc *b, struct group_bufs *gb,
			 bool inode_bitmap) MUST_CHECK;
/* After they changed. */
void group_bufs_dirty(struct handle *h, struct balloc *b, struct group_bufs *gb);

/* ---- the file system's own blocks: zones.c --------------------------------------------------- */

/* A row to which zones are added in any order, and which is then sorted. */
struct zone_list {
	struct zone *zones;
	size_t count, room;
};
int zones_add(struct zone_list *list, blk_t start, uint64_t count) MUST_CHECK;
/* Superblock and descriptors of @group, as far as the layout says. */
int zones_add_group(struct zone_list *list, const struct geom *g, uint32_t group) MUST_CHECK;
/* Sorts and joins them.  -EFSCORRUPTED: two overlap. */
int zones_finish(struct zone_list *list) MUST_CHECK;
/* The first zone that ends behind @blk, or the end of the row. */
const struct zone *zones_from(const struct balloc *b, blk_t blk);
/* Does any of [@start, +@count) belong to one? */
bool zones_touch(const struct balloc *b, blk_t start, uint64_t count);

/* ---- bits of a row, as on disk and in memory: freespace.c ------------------------------------ */

/* Bitmaps on disk.  How many of [@first, +@count) are set. */
uint32_t bitmap_count(const uint8_t *data, uint32_t first, uint32_t count);
void bitmap_set(uint8_t *data, uint32_t first, uint32_t count);
void bitmap_clear(uint8_t *data, uint32_t first, uint32_t count);
/* The first 0 in [@first, @end), or @end; words of 64 bits are read whole. */
uint32_t bitmap_find_zero(const uint8_t *data, uint32_t first, uint32_t end);

/* The block bitmap of a group in which nothing but the file system's own blocks is in use. */
void bitmap_fill_uninit(const struct balloc *b, uint32_t group, uint8_t *data);

/* ---- free clusters of one group: freespace.c ------------------------------------------------- */

int fit_init(struct balloc *b) MUST_CHECK;
void fit_finish(struct balloc *b);
/* The class of groups whose largest run is @clusters; 0: none. */
unsigned fit_class(uint32_t clusters);
/* The smallest class all of whose groups have @clusters together, if `largest` is right. */
unsigned fit_class_of_all(uint32_t clusters);
/* The first group in [@first, @end) whose class is at least @class; @end: none. */
uint32_t fit_next(struct balloc *b, uint32_t first, uint32_t end, unsigned class);
/* After `free` or `largest` changed; group lock. */
void fit_update(struct balloc *b, uint32_t group);

/* How a run is looked for in a group. */
struct space_want {
	uint32_t bit;	/* from here on, then from the start */
	uint32_t count; /* this many, if so many lie together; else the largest run */
	uint32_t least; /* no fewer than this */
	bool exact;	/* at @bit, however few, or nowhere */
};
/*
 * Takes a run.  *ret_loaded: the bitmap had to be read.  -ENOSPC, without text: not here.
 * -EFSCORRUPTED and the like: the group is bad, which has been reported.  -ENOMEM.
 */
int space_take(struct balloc *b, uint32_t group, const struct space_want *want, struct crun *ret,
	       bool *ret_loaded) MUST_CHECK;
/* The bits become 0 again.  How many: all, or none in a group that is bad. */
uint32_t space_release(struct balloc *b, const struct crun *run) MUST_CHECK;
/* Loads the group if it is not; its lock is held on success. */
int space_lock_loaded(struct balloc *b, uint32_t group, bool *ret_loaded) MUST_CHECK;
/* Are all bits of the run 1?  Group lock, loaded. */
bool space_is_taken(const struct balloc *b, const struct crun *run);
/* G3: reports @err and gives the group up; no lock held. */
void group_set_bad(struct balloc *b, uint32_t group, uint32_t bad, int err);
/* If too many groups are loaded some go, as far as a short search finds any that can. */
void space_unload_some(struct balloc *b);
void space_free_all(struct balloc *b);

/* ---- what is set aside: prealloc.c ----------------------------------------------------------- */

void prealloc_init(struct balloc *b);
void prealloc_finish(struct balloc *b);
/*
 * Up to @count clusters that were set aside for cluster @logical of @ip.  False: none are;
 * *ret_room: so many clusters from @logical on have nothing set aside.
 */
bool prealloc_take(struct balloc *b, struct inode *ip, uint32_t logical, uint32_t count,
		   struct crun *ret, uint32_t *ret_room);
/* @run, taken, is set aside for the clusters from @logical on. */
void prealloc_put(struct balloc *b, struct inode *ip, uint32_t logical, const struct crun *run);

/*
 * @count clusters for a small file of flex group @flex.  False: fewer are left; *ret_goal: a good
 * place for the next window.
 */
bool locality_take(struct balloc *b, uint32_t flex, uint32_t count, struct crun *ret,
		   uint64_t *ret_goal);
/* @run, taken, is the next window. */
void locality_put(struct balloc *b, uint32_t flex, const struct crun *run);

/* Gives all of it back; how many clusters. */
uint64_t prealloc_discard_all(struct balloc *b);

#endif
