/* SPDX-License-Identifier: MIT */
/*
 * What xattr.c, xattr_area.c, xattr_write.c, ea_inode.c, acl.c and inline.c share: attributes as
 * they lie on disk.
 *
 * An area is where attributes lie: the end of an inode (the body), or a block.  It has a row of
 * entries at its front and their values at its end; xattr_area.c knows that and nothing else.
 */
#ifndef FS_XATTR_PRIV_H
#define FS_XATTR_PRIV_H

#include "fs/fs_priv.h"
#include "fs/xattr.h"

#define XATTR_NAME_BYTES_MAX 255u    /* of the whole name, as setxattr(2)'s */
#define XATTR_VALUE_BYTES_MAX 65536u /* as setxattr(2)'s */
#define XATTR_BLOCK_REFS_MAX 1024u   /* inodes that share a block */
#define INLINE_DATA_NAME "data"	     /* of the attribute system.data */
#define INLINE_DATA_NAME_LEN 4u

static inline bool xattr_has_ea_inode(const struct uext4_fs *fs)
{
	return geom_has_incompat(&fs->geom, EXT4_FEATURE_INCOMPAT_EA_INODE);
}

/* ---- names: xattr.c -------------------------------------------------------------------------- */

/* An attribute's name as it lies on disk. */
struct xattr_key {
	uint8_t index;
	const char *name;
	size_t name_len;
};

static inline bool xattr_key_is_inline_data(const struct xattr_key *key)
{
	return key->index == EXT4_XATTR_INDEX_SYSTEM && key->name_len == INLINE_DATA_NAME_LEN &&
	       memcmp(key->name, INLINE_DATA_NAME, INLINE_DATA_NAME_LEN) == 0;
}
static inline bool xattr_index_is_acl(uint8_t index)
{
	return index == EXT4_XATTR_INDEX_POSIX_ACL_ACCESS ||
	       index == EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT;
}
/* How many of the inode's attributes have values in other inodes.  Takes xattr_lock. */
int xattr_count_ea(struct inode *ip, uint32_t *ret_count) MUST_CHECK;
/* From the name as getxattr(2) spells it.  False: no attribute can have that name. */
bool xattr_key_parse(const char *name, struct xattr_key *ret);
/* "user." and the like, with nothing behind it. */
bool xattr_is_prefix_alone(const char *name);

/* ---- areas: xattr_area.c --------------------------------------------------------------------- */

struct xattr_area {
	uint8_t *base;	/* offsets of values count from here; NULL: there is no room for any */
	uint32_t first; /* of the first entry, from @base */
	uint32_t end;	/* behind the last byte */
	bool is_block;	/* entries are sorted, and have hashes over their values */
	bool is_blank;	/* it was never laid out: whatever lies there, there are no entries */
};

/* A row of entries, which was verified, or which was made here. */
struct xattr_row {
	const struct ext4_xattr_entry *first; /* NULL: there is none */
	const uint8_t *base;
};

bool xattr_entry_is_last(const struct ext4_xattr_entry *entry);
const struct ext4_xattr_entry *xattr_entry_next(const struct ext4_xattr_entry *entry);
static inline struct xattr_key xattr_entry_key(const struct ext4_xattr_entry *entry)
{
	return (struct xattr_key){ entry->e_name_index, entry->e_name, entry->e_name_len };
}

#define xattr_row_for_each(entry, row)                            \
	for (const struct ext4_xattr_entry *entry = (row)->first; \
	     entry && !xattr_entry_is_last(entry); entry = xattr_entry_next(entry))

const struct ext4_xattr_entry *xattr_row_find(const struct xattr_row *row,
					      const struct xattr_key *key);
/* Entries whose value is an inode of its own. */
uint32_t xattr_row_count_ea(const struct xattr_row *row);
struct xattr_row xattr_area_row(const struct xattr_area *area);
bool xattr_area_is_empty(const struct xattr_area *area);

/* The bytes of a block as an area. */
struct xattr_area xattr_block_area(const struct geom *g, void *data);
static inline struct ext4_xattr_header *xattr_block_header(void *data)
{
	return data;
}

/* What one entry becomes. */
struct xattr_edit {
	struct xattr_key key;
	bool remove;
	uint32_t size;	      /* of the value: */
	const void *value;    /* these bytes, */
	uint32_t value_bytes; /* so many, and zeros */
	uint32_t inum;	      /* the value is in this inode, */
	uint32_t hash;	      /* which has this hash */
	/* Values of a block stay behind this place: room for entries whose values are inodes. */
	uint32_t values_min;
};

/*
 * @to, which has the shape of @from and other memory, becomes @from with @edit done: entries in
 * their order, values packed to the end, every other byte zero.  An entry that is to be removed
 * must be there.  -ENOSPC; -EFSCORRUPTED: values share bytes, so that they do not fit side by side.
 */
int xattr_area_edit(const struct xattr_area *from, const struct xattr_edit *edit,
		    struct xattr_area *to) MUST_CHECK;
/*
 * The size of the largest value that @key could have in @area, a multiple of XATTR_PAD.  False: not
 * even an empty one fits.
 */
bool xattr_area_room(const struct xattr_area *area, const struct xattr_key *key, uint32_t *ret);
/* h_hash: by it inodes with the same attributes find each other.  0: not to be shared. */
uint32_t xattr_block_hash(const struct xattr_area *area);
/*
 * The row of a body moves @by bytes on in its memory, values stay, and offsets count from the new
 * place.  False: it does not fit, nothing has happened.
 */
bool xattr_area_shift(const struct xattr_area *area, uint32_t by) MUST_CHECK;
/* The same attributes with the same values, wherever those lie. */
bool xattr_area_equal(const struct xattr_area *a, const struct xattr_area *b);
/*
 * Hash of an entry over its name and the hash of its value; some kernels took characters as signed.
 */
uint32_t xattr_entry_hash(const struct xattr_key *key, const le32 *words, size_t count,
			  bool is_signed);

/* ---- the two places: xattr.c ----------------------------------------------------------------- */

/* The area inside the inode.  Requires xattr_lock. */
struct xattr_area xattr_body_area(const struct inode *ip);
extern const struct buf_ops xattr_block_ops; /* arg: struct geom */
/* i_file_acl. */
blk_t xattr_block_blk(const struct inode *ip);
/* The block @ip has, or NULL.  Requires xattr_lock, or lock exclusive. */
int xattr_block_read(struct inode *ip, struct buf **ret_buf) MUST_CHECK;

/* Puts @area, which was worked out, in place of the body's.  Requires xattr_lock exclusive. */
void xattr_body_install(struct inode *ip, const struct xattr_area *area);

/*
 * The target of an INLINE symlink moves into a block.  Starts a handle of its own; requires the
 * inode's lock exclusive.
 */
int inline_symlink_to_block(struct inode *ip) MUST_CHECK;

/* system.posix_acl_*: @value in the form of setxattr(2), NULL removes it. */
int acl_set(struct inode *ip, uint8_t index, const void *value, size_t size) MUST_CHECK;

/* ---- what is shared: xattr_share.c ----------------------------------------------------------- */

/*
 * Blocks by their h_hash, and inodes with values by the hash of the value: those that were met
 * lately, as candidates for sharing.  Both are counted references: to a block from inodes
 * (h_refcount), to an inode with a value from entries.  All of them change under one lock.
 *
 *  H1  A block that others may find is changed only in its number of references: who changes its
 *      entries takes it out first, and is its only user.
 *  H2  What is freed is taken out first.
 */
struct xattr_found {
	uint32_t count;
	uint64_t id[4]; /* block or inode */
};

enum xattr_share_kind { XATTR_SHARE_BLOCK, XATTR_SHARE_VALUE };

struct xattr_share; /* of one file system */
void xattr_share_lock(struct uext4_fs *fs);
void xattr_share_unlock(struct uext4_fs *fs);
/* The following require the lock. */
void xattr_share_add(struct uext4_fs *fs, enum xattr_share_kind kind, uint32_t hash, uint64_t id);
void xattr_share_remove(struct uext4_fs *fs, enum xattr_share_kind kind, uint32_t hash,
			uint64_t id);
void xattr_share_find(struct uext4_fs *fs, enum xattr_share_kind kind, uint32_t hash,
		      struct xattr_found *ret);

/* ---- the block: xattr_block.c ---------------------------------------------------------------- */

/* Its block, and the values that its entries name, count as an inode's, shared or not. */
struct xattr_usage {
	int64_t blocks, inodes;
};
int64_t xattr_cluster_blocks(const struct geom *g, uint64_t bytes);
/* Adds what @area brings with it, @sign times; a block by its being there, empty or not. */
void xattr_usage_count(const struct geom *g, const struct xattr_area *area, int sign,
		       struct xattr_usage *u);
/* As far as it is positive: -EDQUOT; taken back, or given back, by xattr_usage_release(). */
int xattr_usage_charge(struct handle *h, struct inode *ip, const struct xattr_usage *u) MUST_CHECK;
void xattr_usage_release(struct handle *h, struct inode *ip, const struct xattr_usage *u);

enum xattr_block_step {
	XATTR_BLOCK_KEEP,
	XATTR_BLOCK_DROP,  /* there is none any more */
	XATTR_BLOCK_EDIT,  /* the inode is its only user */
	XATTR_BLOCK_SHARE, /* there is one just like it */
	XATTR_BLOCK_NEW
};

/* Credits: the blocks before and after, and one that comes or goes. */
#define XATTR_BLOCK_CREDITS (2 + BALLOC_CREDITS)
struct xattr_block_move {
	enum xattr_block_step step;
	struct buf *old, *target; /* referenced, or NULL; the second for SHARE and NEW */
	bool old_ends;		  /* nobody uses it any more */
	uint32_t hash;		  /* of what will be */
};
/* These require the lock of sharing and xattr_lock exclusive. */
/* How move->old comes to be @area. */
void xattr_block_decide(struct inode *ip, const struct xattr_area *area,
			struct xattr_block_move *move);
/* All that can fail of it, behind all else that can: it is not undone. */
int xattr_block_prepare(struct handle *h, struct inode *ip, struct xattr_block_move *move)
	MUST_CHECK;
/* From here on: only abort.  *ret_blk: the block the inode has from now on. */
void xattr_block_commit(struct handle *h, struct inode *ip, const struct xattr_area *area,
			const struct xattr_block_move *move, blk_t *ret_blk);
void xattr_block_set_blk(struct inode *ip, blk_t blk); /* i_file_acl */
/* Bytes of a block of its own were changed. */
void xattr_block_seal(struct handle *h, struct inode *ip, struct buf *buf);
/* Nobody finds it from here on (H1). */
void xattr_block_hide(struct inode *ip, const struct buf *buf);
uint32_t xattr_block_refs(const struct buf *buf);

/* ---- values in inodes of their own: ea_inode.c ----------------------------------------------- */

/* Seed of the hashes of such values: that of metadata_csum, but there without it as well. */
uint32_t ea_value_hash(const struct uext4_fs *fs, const void *data, size_t size);
/*
 * The inode @inum with a value of @size bytes of an attribute of @ip, with a reference.  While the
 * entry is there (xattr_lock) so is the inode, and while it is referenced so are its bytes.
 */
int ea_inode_get(struct inode *ip, uint32_t inum, uint32_t size, struct inode **ret_ea) MUST_CHECK;
/* Its value into @buf, checked against the entry's name and hash. */
int ea_inode_read(struct inode *ip, struct inode *ea, const struct xattr_key *key,
		  uint32_t entry_hash, void *buf) MUST_CHECK;

/*
 * An inode that holds @size bytes of @data: one that others use, or a new one, which is an orphan
 * until the first entry refers to it.  Starts handles of its own; requires ip->lock.
 */
int ea_inode_make(struct inode *ip, const void *data, uint32_t size, struct inode **ret_ea)
	MUST_CHECK;
/*
 * After an attempt that ended with @err: true if it is worth another, since a commit has set
 * something free.  *@tries starts at 0.  No rank from `commit` on.
 */
bool ea_commit_for_space(struct uext4_fs *fs, int err, unsigned *tries) MUST_CHECK;
/* The hash of its value. */
uint32_t ea_inode_hash(const struct inode *ea);

/* Entries of the body or of a block come and go, so the references to an inode change. */
struct ea_delta {
	uint32_t inum, size;
	int32_t refs;	  /* how many more; 0 is never prepared */
	struct inode *ea; /* referenced */
	uint64_t before, after;
};
/* Credits for a change in one of them, without and with its first or last reference. */
#define EA_DELTA_CREDITS INODE_STORE_CREDITS
#define EA_DELTA_ORPHAN_CREDITS (INODE_STORE_CREDITS + ORPHAN_CREDITS)
/*
 * All that can fail of it; an error leaves nothing to be undone.  @ip: whose entries they are.
 * The three require the lock of sharing, and quota_load(ea) where the last reference may go.
 */
int ea_delta_prepare(struct handle *h, struct inode *ip, struct ea_delta *d) MUST_CHECK;
void ea_delta_undo(struct handle *h, struct ea_delta *d);
/* From here on: only abort. */
void ea_delta_commit(struct handle *h, struct ea_delta *d);

/* Once this has succeeded, in this handle, inode_store() fails only by an abort. */
int xattr_reserve_store(struct handle *h, struct inode *ip) MUST_CHECK;

#endif
