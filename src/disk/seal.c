/* SPDX-License-Identifier: MIT */
/*
 * Puts checksums where the verifiers look for them.  What is summed up is said once, in the
 * sum_...() functions beside each verifier.
 */
#include "disk/seal.h"
#include "disk/verify_priv.h"

/* ---- the file system as a whole -------------------------------------------------------------- */

void seal_super(struct ext4_super_block *sb)
{
	if (le32_get(sb->s_feature_ro_compat) & EXT4_FEATURE_RO_COMPAT_METADATA_CSUM)
		sb->s_checksum = le32_make(sum_super(sb));
}

void seal_group_desc(const struct geom *g, uint32_t group, struct ext4_group_desc *gd)
{
	if (desc_has_checksum(g))
		gd->bg_checksum = le16_make(sum_group_desc(g, group, gd));
}

void seal_bitmap(const struct geom *g, struct ext4_group_desc *gd, const void *data,
		 bool inode_bitmap)
{
	le16 *lo = inode_bitmap ? &gd->bg_inode_bitmap_csum_lo : &gd->bg_block_bitmap_csum_lo;
	le16 *hi = inode_bitmap ? &gd->bg_inode_bitmap_csum_hi : &gd->bg_block_bitmap_csum_hi;
	uint32_t sum;

	if (!geom_has_csum(g))
		return;
	sum = sum_bitmap(g, data, inode_bitmap);
	*lo = le16_make((uint16_t)sum);
	if (desc_is_wide(g))
		*hi = le16_make((uint16_t)(sum >> 16));
}

void seal_mmp(const struct geom *g, struct mmp_struct *mmp)
{
	if (geom_has_csum(g))
		mmp->mmp_checksum = le32_make(sum_mmp(g, mmp));
}

/* ---- inodes ---------------------------------------------------------------------------------- */

/* As verify_inode_checksum(), but here the two halves can be made zero, and all summed at once. */
void seal_inode(const struct geom *g, uint32_t seed, struct ext4_inode *raw)
{
	uint32_t sum;

	if (!geom_has_csum(g))
		return;
	raw->l_i_checksum_lo = le16_make(0);
	if (inode_has_checksum_hi(g, raw))
		raw->i_checksum_hi = le16_make(0);
	sum = crc32c(seed, raw, g->inode_size);
	raw->l_i_checksum_lo = le16_make((uint16_t)sum);
	if (inode_has_checksum_hi(g, raw))
		raw->i_checksum_hi = le16_make((uint16_t)(sum >> 16));
}

void seal_extent_block(const struct verify_inode *vi, struct ext4_extent_header *eh)
{
	struct ext4_extent_tail *tail;
	size_t at;
	uint32_t sum;

	if (!geom_has_csum(vi->geom))
		return;
	sum = sum_extent_block(vi, eh, &at);
	assert(at + sizeof(*tail) <= vi->geom->block_size);
	tail = (void *)((uint8_t *)eh + at);
	tail->et_checksum = le32_make(sum);
}

void seal_xattr_block(const struct geom *g, void *data, blk_t blk)
{
	struct ext4_xattr_header *h = data;

	if (geom_has_csum(g))
		h->h_checksum = le32_make(sum_xattr_block(g, data, blk));
}

void seal_orphan_block(const struct verify_inode *vi, void *data, blk_t blk)
{
	struct ext4_orphan_block_tail *tail = (void *)((uint8_t *)data + vi->geom->block_size -
						       sizeof(*tail));

	tail->ob_magic = le32_make(EXT4_ORPHAN_BLOCK_MAGIC);
	if (geom_has_csum(vi->geom))
		tail->ob_checksum = le32_make(sum_orphan_block(vi, data, blk));
}

/* ---- directories ----------------------------------------------------------------------------- */

void seal_dirent_block(const struct verify_inode *vi, void *data)
{
	uint32_t bytes = vi->geom->block_size - (uint32_t)sizeof(struct ext4_dir_entry_tail);
	struct ext4_dir_entry_tail *tail = (void *)((uint8_t *)data + bytes);

	if (!geom_has_csum(vi->geom))
		return;
	*tail = (struct ext4_dir_entry_tail){
		.det_rec_len = le16_make(sizeof(*tail)),
		.det_reserved_ft = EXT4_FT_DIR_CSUM,
		.det_checksum = le32_make(sum_dirents(vi, data, bytes)),
	};
}

static void seal_dx(const struct verify_inode *vi, void *data, uint32_t at)
{
	struct dx_entry *entries = (void *)((uint8_t *)data + at);
	const struct dx_countlimit *cl = (const void *)entries;
	struct dx_tail *tail = (void *)(entries + le16_get(cl->limit));

	if (!geom_has_csum(vi->geom))
		return;
	assert(le16_get(cl->count) <= le16_get(cl->limit));
	assert((uint8_t *)(tail + 1) <= (uint8_t *)data + vi->geom->block_size);
	tail->dt_reserved = le32_make(0);
	tail->dt_checksum = le32_make(sum_dx(vi, data, at));
}

void seal_dx_root(const struct verify_inode *vi, void *data)
{
	seal_dx(vi, data, offsetof(struct dx_root, entries));
}

void seal_dx_node(const struct verify_inode *vi, void *data)
{
	seal_dx(vi, data, offsetof(struct dx_node, entries));
}
