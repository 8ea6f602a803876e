/* SPDX-License-Identifier: MIT */
/*
 * The shape of one file system, computed once from a verified superblock.
 *
 * Everything that bounds a loop or an index over disk data comes from here.  Pure functions of
 * their arguments; safe from any thread.
 */
#ifndef DISK_GEOM_H
#define DISK_GEOM_H

#include "disk/format.h"

struct geom {
	uint32_t block_size, block_bits;
	uint32_t cluster_ratio, cluster_ratio_bits; /* blocks a cluster: 1, 0 without bigalloc */
	uint32_t blocks_per_group, clusters_per_group, inodes_per_group;
	uint32_t inode_size, desc_size;
	uint32_t inodes_per_block, desc_per_block, inode_table_blocks; /* the last: a group */
	uint32_t groups;
	uint32_t desc_blocks; /* blocks of group descriptors */
	uint32_t first_meta_bg;
	uint32_t first_ino; /* first one that is not reserved */
	uint32_t inodes;
	blk_t first_data_block, blocks;
	uint32_t compat, incompat, ro_compat;
	uint32_t csum_seed; /* of metadata_csum and ea_inode; 0 without both */
	uint32_t hash_seed[4];
	uint8_t hash_version; /* s_def_hash_version */
	bool hash_unsigned;   /* s_flags: unsigned directory hash */
	uint32_t extra_isize_want;
	uint8_t uuid[16];
	uint16_t reserved_gdt_blocks;
	uint32_t backup_bgs[2]; /* sparse_super2 */
};

static inline bool geom_has_compat(const struct geom *g, uint32_t f)
{
	return g->compat & f;
}
static inline bool geom_has_incompat(const struct geom *g, uint32_t f)
{
	return g->incompat & f;
}
static inline bool geom_has_ro_compat(const struct geom *g, uint32_t f)
{
	return g->ro_compat & f;
}
static inline bool geom_has_csum(const struct geom *g)
{
	return geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_METADATA_CSUM);
}

/*
 * Verifies @sb (magic, checksum, every field that something is computed from) and fills the shape.
 * @dev_bytes: size of the device, which must hold the file system.
 * -EINVAL: no ext4 magic.  -EOPNOTSUPP: an incompatible feature this version does not know, named.
 * -EFSBADCRC, -EFSCORRUPTED.
 */
int geom_init(const struct ext4_super_block *sb, uint64_t dev_bytes, struct geom *ret) MUST_CHECK;

/*
 * The name of a feature as mke2fs spells it, or NULL.  @set: 0 compat, 1 incompat, 2 ro_compat;
 * @bit: the number of the bit, 0 to 31.
 */
const char *feature_name(unsigned set, unsigned bit);

#define GEOM_INCOMPAT_KNOWN                                                                        \
	(EXT4_FEATURE_INCOMPAT_FILETYPE | EXT4_FEATURE_INCOMPAT_RECOVER |                          \
	 EXT4_FEATURE_INCOMPAT_META_BG | EXT4_FEATURE_INCOMPAT_EXTENTS |                           \
	 EXT4_FEATURE_INCOMPAT_64BIT | EXT4_FEATURE_INCOMPAT_MMP | EXT4_FEATURE_INCOMPAT_FLEX_BG | \
	 EXT4_FEATURE_INCOMPAT_EA_INODE | EXT4_FEATURE_INCOMPAT_CSUM_SEED |                        \
	 EXT4_FEATURE_INCOMPAT_LARGEDIR | EXT4_FEATURE_INCOMPAT_INLINE_DATA)
#define GEOM_RO_COMPAT_KNOWN                                                       \
	(EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT4_FEATURE_RO_COMPAT_LARGE_FILE | \
	 EXT4_FEATURE_RO_COMPAT_BTREE_DIR | EXT4_FEATURE_RO_COMPAT_HUGE_FILE |     \
	 EXT4_FEATURE_RO_COMPAT_GDT_CSUM | EXT4_FEATURE_RO_COMPAT_DIR_NLINK |      \
	 EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE | EXT4_FEATURE_RO_COMPAT_QUOTA |       \
	 EXT4_FEATURE_RO_COMPAT_BIGALLOC | EXT4_FEATURE_RO_COMPAT_METADATA_CSUM |  \
	 EXT4_FEATURE_RO_COMPAT_READONLY | EXT4_FEATURE_RO_COMPAT_PROJECT |        \
	 EXT4_FEATURE_RO_COMPAT_SHARED_BLOCKS | EXT4_FEATURE_RO_COMPAT_VERITY |    \
	 EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT)

/* Where things lie.  @group < groups. */
blk_t geom_group_first_block(const struct geom *g, uint32_t group);
/*
 * The block of descriptors number @index (< desc_blocks), in every layout (meta_bg too).
 * @super_blk: the block that holds the superblock in use (primary: 0, with blocks of 1024 bytes 1);
 * a backup's leads to the backups of the descriptors.
 */
blk_t geom_desc_block(const struct geom *g, blk_t super_blk, uint32_t index);
bool geom_group_has_super(const struct geom *g, uint32_t group);

#endif
