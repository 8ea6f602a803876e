/* SPDX-License-Identifier: MIT */
/*
 * Is this block what it claims to be?  One function a kind of block: checksum first, then every
 * field on which later code relies.  A block that passed can be walked without further checks.
 *
 * Pure functions; safe from any thread.  0, -EFSBADCRC or -EFSCORRUPTED with text.
 */
#ifndef DISK_VERIFY_H
#define DISK_VERIFY_H

#include "disk/geom.h"

/* On whose behalf a block of an inode is checked: names it in messages and seeds its checksums. */
struct verify_inode {
	const struct geom *geom;
	uint32_t ino;
	uint32_t generation;
	uint32_t csum_seed; /* verify_inode_seed() */
	uint16_t depth;	    /* extent block: the eh_depth expected (parent's minus one) */
	lblk_t first;	    /* extent block: logical block of the parent's index entry */
	lblk_t end;	    /* extent block: the next index entry's logical block, or UINT32_MAX */
};

/* crc32c over inode number and generation: seeds the checksums of an inode's blocks. */
uint32_t verify_inode_seed(const struct geom *g, uint32_t ino, uint32_t generation);

/* The checksum @raw ought to bear, 32 bits or the lower 16; its i_extra_isize must be sane. */
uint32_t verify_inode_checksum(const struct geom *g, uint32_t ino, const struct ext4_inode *raw);

/*
 * Group descriptor @group as it lies on disk, @geom->desc_size bytes, which may be fewer or more
 * than the structure has: checksum (crc16 or crc32c), and bitmaps and table inside the file system,
 * without flex_bg inside the group.
 */
int verify_group_desc(const struct geom *g, uint32_t group, const struct ext4_group_desc *gd)
	MUST_CHECK;

/*
 * The inode as it lies in the table, @geom->inode_size bytes: checksum, i_extra_isize, type, size,
 * flags that exclude each other, root of the extent tree, and that the xattr area holds well-formed
 * entries.  An inode that is not in use (no links and no mode) passes.
 */
int verify_inode(const struct geom *g, uint32_t ino, const struct ext4_inode *raw) MUST_CHECK;

/*
 * An extent node (root of @bytes 60, or a whole block): header, order, no overlaps, inside the file
 * system, inside the parent's range; the checksum tail of a block.
 */
int verify_extent_node(const struct verify_inode *vi, const struct ext4_extent_header *eh,
		       uint32_t bytes, blk_t blk) MUST_CHECK;

/*
 * The entries in @bytes of a linear directory block (or inline part): rec_len chain exactly fills
 * it, names inside, inode numbers in range.  Checks the checksum tail when @has_tail.
 */
int verify_dirents(const struct verify_inode *vi, const void *data, uint32_t bytes, blk_t blk,
		   bool has_tail) MUST_CHECK;

/* An htree root (logical block 0) or inner node: limits, counts, order of hashes, checksum. */
int verify_dx_root(const struct verify_inode *vi, const void *data, blk_t blk) MUST_CHECK;
int verify_dx_node(const struct verify_inode *vi, const void *data, blk_t blk) MUST_CHECK;

/*
 * A row of xattr entries at @first, whose values lie at offsets from @base; all of it before @end:
 * names, offsets, sizes, no value overlapping the entries, terminated.
 */
int verify_xattr_entries(const struct geom *g, uint32_t ino, const void *first, const void *base,
			 const void *end) MUST_CHECK;

int verify_xattr_block(const struct geom *g, const void *data, blk_t blk) MUST_CHECK;
int verify_bitmap(const struct geom *g, uint32_t group, const struct ext4_group_desc *gd,
		  const void *data, bool inode_bitmap) MUST_CHECK;
int verify_orphan_block(const struct verify_inode *vi, const void *data, blk_t blk) MUST_CHECK;
int verify_mmp(const struct geom *g, const void *data) MUST_CHECK;

#endif
