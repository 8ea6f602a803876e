/* SPDX-License-Identifier: MIT */
/*
 * Verifiers of the blocks that belong to the file system as a whole: group descriptors, bitmaps,
 * the MMP block, and the blocks of the orphan file.
 *
 * Free counts are not checked: nothing is computed from them but sums.
 *
 *  V1  A verifier reads the block it is given and nothing else, whatever the block says.
 *  V2  It holds against a block exactly what later code relies on, and what the kernel refuses too.
 */
#include <inttypes.h>

#include "disk/verify.h"
#include "disk/verify_priv.h"

#include "base/diag.h"

#define ORPHAN_FMT "orphan file, block %" PRIu64

/* ---- group descriptors ----------------------------------------------------------------------- */

bool desc_has_checksum(const struct geom *g)
{
	return geom_has_csum(g) || geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_GDT_CSUM);
}

uint16_t sum_group_desc(const struct geom *g, uint32_t group, const struct ext4_group_desc *gd)
{
	size_t at = offsetof(struct ext4_group_desc, bg_checksum);
	size_t behind = at + sizeof(gd->bg_checksum);
	const uint8_t *raw = (const uint8_t *)gd;
	le32 number = le32_make(group);
	uint32_t crc;
	uint16_t sum;

	if (geom_has_csum(g)) {
		crc = crc32c(crc32c_u32(g->csum_seed, group), raw, at);
		crc = crc32c_zeros(crc, sizeof(gd->bg_checksum));
		return (uint16_t)crc32c(crc, raw + behind, g->desc_size - behind);
	}
	/* Here the checksum itself is left out, not taken as zero. */
	sum = crc16(0xFFFF, g->uuid, sizeof(g->uuid));
	sum = crc16(sum, &number, sizeof(number));
	sum = crc16(sum, raw, at);
	return crc16(sum, raw + behind, g->desc_size - behind);
}

static int check_desc_checksum(const struct geom *g, uint32_t group,
			       const struct ext4_group_desc *gd)
{
	uint16_t found = le16_get(gd->bg_checksum);
	uint16_t wanted;

	if (!desc_has_checksum(g))
		return 0;
	wanted = sum_group_desc(g, group, gd);
	if (!checksum_fits(found, wanted))
		return bad_checksum("descriptor of group %u: checksum is %04x, should be %04x",
				    group, found, wanted);
	return 0;
}

int verify_group_desc(const struct geom *g, uint32_t group, const struct ext4_group_desc *gd)
{
	blk_t block_bitmap = le32_get(gd->bg_block_bitmap_lo);
	blk_t inode_bitmap = le32_get(gd->bg_inode_bitmap_lo);
	blk_t inode_table = le32_get(gd->bg_inode_table_lo);
	blk_t first = g->first_data_block, end = g->blocks;
	int err;

	assert(group < g->groups);
	err = check_desc_checksum(g, group, gd);
	if (err)
		return err;

	if (desc_is_wide(g)) {
		block_bitmap = u64_from_lo_hi(gd->bg_block_bitmap_lo, gd->bg_block_bitmap_hi);
		inode_bitmap = u64_from_lo_hi(gd->bg_inode_bitmap_lo, gd->bg_inode_bitmap_hi);
		inode_table = u64_from_lo_hi(gd->bg_inode_table_lo, gd->bg_inode_table_hi);
	}
	/* Without flex_bg a group keeps its own metadata. */
	if (!geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_FLEX_BG)) {
		first = geom_group_first_block(g, group);
		end = min_u64(g->blocks, first + g->blocks_per_group);
	}
	if (block_bitmap < first || block_bitmap >= end)
		return corrupt("descriptor of group %u: block bitmap at block %" PRIu64, group,
			       block_bitmap);
	if (inode_bitmap < first || inode_bitmap >= end)
		return corrupt("descriptor of group %u: inode bitmap at block %" PRIu64, group,
			       inode_bitmap);
	if (inode_table < first || inode_table >= end || g->inode_table_blocks > end - inode_table)
		return corrupt("descriptor of group %u: inode table of %u blocks at block %" PRIu64,
			       group, g->inode_table_blocks, inode_table);
	return 0;
}

/* ---- bitmaps --------------------------------------------------------------------------------- */

uint32_t sum_bitmap(const struct geom *g, const void *data, bool inode_bitmap)
{
	uint32_t bits = inode_bitmap ? g->inodes_per_group : g->clusters_per_group;

	return crc32c(g->csum_seed, data, bits / 8);
}

/* The bitmap of a group marked uninitialised was never written; there is nothing to verify. */
int verify_bitmap(const struct geom *g, uint32_t group, const struct ext4_group_desc *gd,
		  const void *data, bool inode_bitmap)
{
	uint32_t uninit = inode_bitmap ? EXT4_BG_INODE_UNINIT : EXT4_BG_BLOCK_UNINIT;
	le16 lo = inode_bitmap ? gd->bg_inode_bitmap_csum_lo : gd->bg_block_bitmap_csum_lo;
	uint32_t found = le16_get(lo), wanted;

	if (!geom_has_csum(g) || (le16_get(gd->bg_flags) & uninit))
		return 0;
	wanted = sum_bitmap(g, data, inode_bitmap);
	if (desc_is_wide(g)) {
		le16 hi = inode_bitmap ? gd->bg_inode_bitmap_csum_hi : gd->bg_block_bitmap_csum_hi;

		found |= (uint32_t)le16_get(hi) << 16;
	} else {
		wanted &= 0xFFFF;
	}
	if (!checksum_fits(found, wanted))
		return bad_checksum("%s bitmap of group %u: checksum is %08x, should be %08x",
				    inode_bitmap ? "inode" : "block", group, found, wanted);
	return 0;
}

/* ---- multiple mount protection --------------------------------------------------------------- */

uint32_t sum_mmp(const struct geom *g, const struct mmp_struct *mmp)
{
	return crc32c(g->csum_seed, mmp, offsetof(struct mmp_struct, mmp_checksum));
}

int verify_mmp(const struct geom *g, const void *data)
{
	const struct mmp_struct *mmp = data;
	uint32_t found = le32_get(mmp->mmp_checksum), wanted;

	if (le32_get(mmp->mmp_magic) != EXT4_MMP_MAGIC)
		return corrupt("MMP block: magic number is %08x", le32_get(mmp->mmp_magic));
	if (!geom_has_csum(g))
		return 0;
	wanted = sum_mmp(g, mmp);
	if (!checksum_fits(found, wanted))
		return bad_checksum("MMP block: checksum is %08x, should be %08x", found, wanted);
	return 0;
}

/* ---- orphan file ----------------------------------------------------------------------------- */

uint32_t sum_orphan_block(const struct verify_inode *vi, const void *data, blk_t blk)
{
	size_t bytes = vi->geom->block_size - sizeof(struct ext4_orphan_block_tail);

	return crc32c(crc32c_u64(vi->csum_seed, blk), data, bytes);
}

int verify_orphan_block(const struct verify_inode *vi, const void *data, blk_t blk)
{
	const struct geom *g = vi->geom;
	const le32 *inos = data;
	uint32_t count = (g->block_size - (uint32_t)sizeof(struct ext4_orphan_block_tail)) / 4;
	const struct ext4_orphan_block_tail *tail = (const void *)(inos + count);
	uint32_t found = le32_get(tail->ob_checksum), wanted;

	if (le32_get(tail->ob_magic) != EXT4_ORPHAN_BLOCK_MAGIC)
		return corrupt(ORPHAN_FMT ": magic number is %08x", blk, le32_get(tail->ob_magic));
	if (geom_has_csum(g)) {
		wanted = sum_orphan_block(vi, data, blk);
		if (!checksum_fits(found, wanted))
			return bad_checksum(ORPHAN_FMT ": checksum is %08x, should be %08x", blk,
					    found, wanted);
	}
	for (uint32_t i = 0; i < count; i++) {
		uint32_t ino = le32_get(inos[i]);

		if (ino != 0 && (ino < g->first_ino || ino > g->inodes))
			return corrupt(ORPHAN_FMT ": inode number %u", blk, ino);
	}
	return 0;
}
