/* SPDX-License-Identifier: MIT */
/*
 * The counterpart of verify.h: after a block was changed, it gets the checksum that its verifier
 * asks for.  Without the feature that brings the checksum nothing is touched.
 *
 * Each is called with the block's bytes complete, behind the last change and before
 * handle_dirty(), or by buf_ops.seal().  Where a checksum lies in a tail, the whole tail is
 * written, so a new block needs nothing but its contents.  Pure functions; safe from any thread.
 */
#ifndef DISK_SEAL_H
#define DISK_SEAL_H

#include "disk/geom.h"
#include "disk/verify.h"

void seal_super(struct ext4_super_block *sb);
/* @gd as it lies on disk, @g->desc_size bytes. */
void seal_group_desc(const struct geom *g, uint32_t group, struct ext4_group_desc *gd);
/*
 * The checksum of a group's bitmap lies in its descriptor @gd (as on disk), which is to be sealed
 * itself behind that.
 */
void seal_bitmap(const struct geom *g, struct ext4_group_desc *gd, const void *data,
		 bool inode_bitmap);
/*
 * @raw as it lies in the table, @g->inode_size bytes; its i_extra_isize must be sane.  @seed is
 * verify_inode_seed().
 */
void seal_inode(const struct geom *g, uint32_t seed, struct ext4_inode *raw);

/* Blocks of an inode: @vi names it by geom, ino and csum_seed. */

/* A whole block, not the root; eh_max is right. */
void seal_extent_block(const struct verify_inode *vi, struct ext4_extent_header *eh);
/* A whole block of entries, which leave the last 12 bytes free (geom_has_csum()). */
void seal_dirent_block(const struct verify_inode *vi, void *data);
/* Count and limit are right; with checksums the limit leaves 8 bytes free. */
void seal_dx_root(const struct verify_inode *vi, void *data);
void seal_dx_node(const struct verify_inode *vi, void *data);
/* Writes the magic number too, also without checksums. */
void seal_orphan_block(const struct verify_inode *vi, void *data, blk_t blk);

void seal_xattr_block(const struct geom *g, void *data, blk_t blk);
void seal_mmp(const struct geom *g, struct mmp_struct *mmp);

#endif
