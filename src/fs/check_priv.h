/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the verifier share: one check, its findings, and the tables it keeps.
 *
 * A pass gathers facts from one kind of thing and compares them with what earlier passes found:
 *
 *	super	superblock, descriptors; claims what groups are made of
 *	inode	every inode in use: fields, map, attributes; claims its blocks
 *	dir	entries: counts names, finds parents; hash trees
 *	links	directories hang together, link counts, orphans, shared attributes
 *	group	bitmaps and counts against what was claimed
 *	quota	usage against the quota files
 *
 *  K1  A problem of the image is a finding (check_problem()), never an error; an error ends the
 *      check: no memory, or the caller's wish.
 *  K2  Nothing read from the disk is believed before it is checked here or by disk/verify: what is
 *      damaged is told once and then left alone.
 *  K3  Memory: a bit a cluster and 8 bytes an inode for groups that are in use, some 50 bytes a
 *      directory, and what one directory's names need.
 *  K4  Every block of metadata is gone into once: whoever claims it second does not follow it.
 */
#ifndef FS_CHECK_PRIV_H
#define FS_CHECK_PRIV_H

#include "fs/check.h"
#include "fs/fs_priv.h"

/* ---- tables ---------------------------------------------------------------------------------- */

enum check_ino_state {
	CHECK_INO_USED = 1u << 0,
	CHECK_INO_ORPHAN = 1u << 1, /* on the orphan list or in the orphan file */
	CHECK_INO_EA = 1u << 2,	    /* holds the value of an attribute */
	CHECK_INO_SYSTEM = 1u << 3, /* journal and the like: it needs no name */
	CHECK_INO_LOOP = 1u << 4,   /* its map leads to blocks that are somebody else's (K4) */
};

struct check_ino {
	uint32_t names; /* entries that lead here */
	uint16_t links; /* i_links_count */
	uint8_t state;
	uint8_t type; /* S_IFMT >> 12; 0: not in use */
};

struct check_group {
	struct ext4_group_desc gd;
	bool usable;		/* its bitmaps and table lie where they may */
	uint32_t inos_count;	/* from the start of the table: the others are not initialised */
	struct check_ino *inos; /* NULL: none is in use so far */
	uint64_t *claimed;	/* a bit a cluster; NULL: none */
	uint32_t claimed_count;
	uint32_t static_count; /* of these, before any inode was looked at */
	uint32_t inodes_used, directories;
};

/* Blocks of the file system's own, which no inode has. */
struct check_static {
	blk_t start;
	uint32_t count;
	uint32_t group;
	const char *what;
};

struct check_dir {
	uint32_t ino, generation;
	uint32_t parent; /* by the entry that leads here; 0: none so far */
	uint32_t dotdot; /* what ".." says; 0: nothing */
	uint32_t blocks; /* i_size */
	uint32_t extents_count;
	size_t extents; /* index into check.dir_extents */
	bool indexed, is_inline;
	bool connected; /* to the root; or it was said that it is not */
	uint32_t visit; /* the walk that came here last */
};

struct check_xattr_block {
	blk_t blk;
	uint32_t refcount; /* h_refcount */
	uint32_t seen;
	uint32_t ea_inodes; /* how many values in other inodes it has */
	uint64_t ea_blocks; /* clusters of those, as quota counts them */
};

struct check_ea_inode {
	uint32_t ino;
	uint32_t hash, found_hash; /* as it says, and of its contents */
	uint64_t refcount;
	uint64_t seen;
	bool read;   /* found_hash is known */
	bool lustre; /* it has neither hash nor count */
};

struct check {
	struct uext4_fs *fs;
	const struct geom *g;
	const struct uext4_check_options *options;
	struct uext4_check_result result;
	struct check_group *groups;

	struct check_static *statics; /* sorted by start */
	size_t statics_count, statics_room;

	struct xarray shared; /* clusters with more than one owner */
	bool shared_overflow; /* there are more than it holds */

	struct check_dir *dirs; /* ascending by ino */
	size_t dirs_count, dirs_room;
	struct map_ext *dir_extents;
	size_t dir_extents_count, dir_extents_room;

	struct check_xattr_block *xattr_blocks;
	size_t xattr_blocks_count, xattr_blocks_room;
	struct xarray xattr_index; /* block -> index in xattr_blocks, plus 1 */
	struct check_ea_inode *ea_inodes;
	size_t ea_inodes_count, ea_inodes_room;
	struct xarray ea_index; /* inode -> index in ea_inodes, plus 1 */

	struct check_quota *quota; /* NULL without the feature */

	uint32_t orphans; /* entries of list and file */
	uint64_t large_files;

	uint8_t *node[EXT4_MAX_EXTENT_DEPTH + 1]; /* blocks on the way down a map */
	uint8_t *block;				  /* one more, for what needs just one */
	uint8_t *window;			  /* CHECK_WINDOW_BYTES, for long reads */
	enum uext4_check_pass pass;
};

#define CHECK_WINDOW_BYTES (1u << 20)

/* ---- findings: check.c ----------------------------------------------------------------------- */

void check_problem(struct check *ck, const char *fmt, ...) PRINTF(2, 3);
/* True if @err is 0; else its text is a finding. */
bool check_good(struct check *ck, int err);
/* A name from the disk for a message: at most 40 bytes, nothing unprintable. */
#define CHECK_NAME_BYTES 180u
const char *check_name(char buf[CHECK_NAME_BYTES], const void *name, size_t len);
/* -ECANCELED if the caller says so.  Call it every so often. */
int check_progress(struct check *ck, uint64_t done, uint64_t total) MUST_CHECK;
/* @count blocks from @blk on, which must lie inside the file system.  False: it was said why. */
bool check_read(struct check *ck, blk_t blk, uint32_t count, void *to);
/* Makes room for one more element in an array that grows. */
int check_grow(void *array_ptr, size_t count, size_t *room, size_t element_bytes) MUST_CHECK;

static inline const char *plural(uint64_t count)
{
	return count == 1 ? "" : "s";
}

/* The inode's entry; NULL: no such number, or its part of the table is not in use. */
struct check_ino *check_ino(struct check *ck, uint32_t ino);
/* The same, made if it is the first of its group; NULL: its part of the table is not in use. */
int check_ino_make(struct check *ck, uint32_t ino, struct check_ino **ret) MUST_CHECK;
/* False where the group's table could not be read: nothing is known of its inodes. */
bool check_ino_known(struct check *ck, uint32_t ino);
struct check_dir *check_dir_find(struct check *ck, uint32_t ino);
/* Its bytes, unverified, into @raw (inode_size bytes).  False: it was said why. */
bool check_raw(struct check *ck, uint32_t ino, struct ext4_inode *raw);

/* ---- claims: check_claim.c ------------------------------------------------------------------- */

/*
 * [@start, +@count), inside the file system, belongs to somebody.  *ret_shared: a part of it did
 * before, which is remembered as a problem unless it @may_share.
 */
int check_claim(struct check *ck, blk_t start, uint64_t count, bool may_share, bool *ret_shared)
	MUST_CHECK;
/* The same for what check_statics() knows: such may share a cluster among themselves. */
int check_claim_static(struct check *ck, const struct check_static *st) MUST_CHECK;
bool check_is_claimed(const struct check *ck, blk_t blk);
/* Says who has the blocks that have several owners.  After all inodes were seen. */
int check_shared(struct check *ck) MUST_CHECK;
static inline uint64_t check_cluster(const struct check *ck, blk_t blk)
{
	return blk >> ck->g->cluster_ratio_bits;
}

/* ---- superblock and descriptors: check_super.c ----------------------------------------------- */

int check_super(struct check *ck) MUST_CHECK;
/* The inode that holds room for more descriptors: its map is like no other. */
int check_resize_inode(struct check *ck, const struct ext4_inode *raw, uint64_t *ret_clusters)
	MUST_CHECK;

/* ---- maps: check_map.c ----------------------------------------------------------------------- */

struct check_map {
	struct check *ck;
	const struct ext4_inode *raw;
	struct verify_inode vi;
	bool quiet; /* it was walked before: say nothing twice */
	/* A block of the map itself.  *ret_enter false: do not go into it.  NULL: go. */
	int (*node)(struct check_map *m, blk_t blk, bool *ret_enter);
	/* An extent, in logical order; those of a block map one run at a time. */
	int (*extent)(struct check_map *m, const struct map_ext *ext);
	void *arg;
	bool damaged; /* set by the walk: some of it could not be read */
};

bool check_has_map(const struct geom *g, const struct ext4_inode *raw);
int check_map_walk(struct check_map *m) MUST_CHECK;

/* ---- inodes: check_inode.c ------------------------------------------------------------------- */

int check_inodes(struct check *ck) MUST_CHECK;
uint16_t check_type(const struct ext4_inode *raw); /* S_IFMT part of the mode */
uint64_t check_size(const struct geom *g, const struct ext4_inode *raw);
blk_t check_file_acl(const struct geom *g, const struct ext4_inode *raw);

/* ---- attributes: check_xattr.c --------------------------------------------------------------- */

/* What the attributes of an inode weigh. */
struct check_weight {
	uint64_t clusters;  /* part of i_blocks */
	uint32_t ea_inodes; /* inodes the owner is charged for */
};

int check_xattrs(struct check *ck, uint32_t ino, const struct ext4_inode *raw,
		 struct check_weight *ret) MUST_CHECK;
int check_ea_inode(struct check *ck, uint32_t ino, const struct ext4_inode *raw) MUST_CHECK;
/* Counts of references, once all inodes were seen. */
int check_xattr_counts(struct check *ck) MUST_CHECK;

/* ---- directories: check_dir.c, check_htree.c ------------------------------------------------- */

int check_dirs(struct check *ck) MUST_CHECK;

/* What the hash tree says of one block of a directory. */
enum check_block_kind { CHECK_BLOCK_UNSEEN, CHECK_BLOCK_ROOT, CHECK_BLOCK_NODE, CHECK_BLOCK_LEAF };

struct check_dx_block {
	uint8_t kind;
	uint32_t lo; /* hashes of a leaf, as struct htree_leaf */
	uint64_t end;
};

/* Reads blocks of one directory. */
struct check_dir_reader {
	struct check *ck;
	const struct check_dir *dir;
	lblk_t first; /* what of it is in the window */
	uint32_t count;
};

/* Block @logical, valid until the next call.  NULL: a hole, or unreadable; it was said. */
const uint8_t *check_dir_block(struct check_dir_reader *r, lblk_t logical, blk_t *ret_blk);
/*
 * Goes through the tree and fills @blocks (dir->blocks of them).  *ret_good false: it cannot be
 * relied upon.
 */
int check_htree(struct check_dir_reader *r, struct check_dx_block *blocks, uint8_t *ret_version,
		bool *ret_good) MUST_CHECK;

/* ---- the rest -------------------------------------------------------------------------------- */

int check_connections(struct check *ck) MUST_CHECK; /* check_links.c */
int check_links(struct check *ck) MUST_CHECK;
int check_orphans(struct check *ck) MUST_CHECK; /* marks them; before the inodes are looked at */
int check_groups(struct check *ck) MUST_CHECK;	/* check_group.c */

int check_quota_open(struct check *ck) MUST_CHECK; /* check_quota.c */
int check_quota_add(struct check *ck, const struct ext4_inode *raw, uint64_t bytes, uint32_t inodes)
	MUST_CHECK;
int check_quota_compare(struct check *ck) MUST_CHECK;
void check_quota_close(struct check *ck);

#endif
