/* SPDX-License-Identifier: MIT */
/*
 * From a superblock to the shape of the file system.
 *
 * Refuses what the kernel refuses to mount, and nothing else: images come from many tools and from
 * twenty-five years of kernels.  What geom_init() lets pass bounds every later loop, so each field
 * that a divisor, a shift or an allocation is computed from is checked here.  Policy (which
 * read-only-compatible features may be written, whether the journal must be replayed) is not
 * decided here.
 *
 *  G1  No divisor is 0 and no shift is wider than its type, whatever the superblock says.
 *  G2  Every block of every group lies on the device: blocks * block_size <= dev_bytes.
 *  G3  Inodes 1 to inodes fill the groups exactly: inodes = groups * inodes_per_group.
 */
#include <inttypes.h>
#include <stdio.h>

#include "disk/geom.h"
#include "disk/verify_priv.h"

#include "base/diag.h"

/* ---- features -------------------------------------------------------------------------------- */

/* As mke2fs and dumpe2fs spell them. */
static const char *const feature_names[3][32] = {
	{
		[0] = "dir_prealloc",
		[1] = "imagic_inodes",
		[2] = "has_journal",
		[3] = "ext_attr",
		[4] = "resize_inode",
		[5] = "dir_index",
		[6] = "lazy_bg",
		[8] = "snapshot_bitmap",
		[9] = "sparse_super2",
		[10] = "fast_commit",
		[11] = "stable_inodes",
		[12] = "orphan_file",
	},
	{
		[0] = "compression",
		[1] = "filetype",
		[2] = "needs_recovery",
		[3] = "journal_dev",
		[4] = "meta_bg",
		[6] = "extent",
		[7] = "64bit",
		[8] = "mmp",
		[9] = "flex_bg",
		[10] = "ea_inode",
		[12] = "dirdata",
		[13] = "metadata_csum_seed",
		[14] = "large_dir",
		[15] = "inline_data",
		[16] = "encrypt",
		[17] = "casefold",
	},
	{
		[0] = "sparse_super",
		[1] = "large_file",
		[3] = "huge_file",
		[4] = "uninit_bg",
		[5] = "dir_nlink",
		[6] = "extra_isize",
		[8] = "quota",
		[9] = "bigalloc",
		[10] = "metadata_csum",
		[11] = "replica",
		[12] = "read-only",
		[13] = "project",
		[14] = "shared_blocks",
		[15] = "verity",
		[16] = "orphan_present",
	},
};

const char *feature_name(unsigned set, unsigned bit)
{
	if (set >= ARRAY_SIZE(feature_names) || bit >= ARRAY_SIZE(feature_names[0]))
		return NULL;
	return feature_names[set][bit];
}

static int refuse_incompat(uint32_t unknown)
{
	char names[400] = "";
	size_t used = 0;

	for (unsigned bit = 0; bit < 32; bit++) {
		const char *name = feature_name(1, bit);
		int n;

		if (!(unknown & 1u << bit))
			continue;
		if (name)
			n = snprintf(names + used, sizeof(names) - used, " %s", name);
		else
			n = snprintf(names + used, sizeof(names) - used, " FEATURE_I%u", bit);
		if (n < 0 || (size_t)n >= sizeof(names) - used)
			break;
		used += (size_t)n;
	}
	return fail(-EOPNOTSUPP, "the file system uses unsupported features:%s", names);
}

static int check_features(const struct ext4_super_block *sb, struct geom *g)
{
	uint32_t unknown;

	g->compat = le32_get(sb->s_feature_compat);
	g->incompat = le32_get(sb->s_feature_incompat);
	g->ro_compat = le32_get(sb->s_feature_ro_compat);

	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_JOURNAL_DEV))
		return fail(-EOPNOTSUPP,
			    "this is the external journal of a file system (journal_dev)");
	unknown = g->incompat & ~GEOM_INCOMPAT_KNOWN;
	return unknown ? refuse_incompat(unknown) : 0;
}

/* ---- superblock ------------------------------------------------------------------------------ */

uint32_t sum_super(const struct ext4_super_block *sb)
{
	return crc32c(~0u, sb, offsetof(struct ext4_super_block, s_checksum));
}

static int check_checksum(const struct ext4_super_block *sb)
{
	uint32_t found = le32_get(sb->s_checksum);
	uint32_t wanted;

	if (!(le32_get(sb->s_feature_ro_compat) & EXT4_FEATURE_RO_COMPAT_METADATA_CSUM))
		return 0;
	if (sb->s_checksum_type != EXT4_CRC32C_CHKSUM)
		return corrupt("superblock: checksum type %u, not crc32c", sb->s_checksum_type);
	wanted = sum_super(sb);
	if (!checksum_fits(found, wanted))
		return bad_checksum("superblock: checksum is %08x, should be %08x", found, wanted);
	return 0;
}

static int init_blocks(const struct ext4_super_block *sb, struct geom *g)
{
	uint32_t log_block = le32_get(sb->s_log_block_size);
	uint32_t log_cluster = le32_get(sb->s_log_cluster_size);

	if (log_block > EXT4_MAX_BLOCK_LOG_SIZE - EXT4_MIN_BLOCK_LOG_SIZE)
		return corrupt("superblock: s_log_block_size is %u", log_block);
	g->block_bits = EXT4_MIN_BLOCK_LOG_SIZE + log_block;
	g->block_size = 1u << g->block_bits;

	g->blocks_per_group = le32_get(sb->s_blocks_per_group);
	if (!geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_BIGALLOC)) {
		if (log_cluster != log_block)
			return corrupt("superblock: clusters of 2^%u KiB, blocks of 2^%u KiB, "
				       "no bigalloc",
				       log_cluster, log_block);
		g->clusters_per_group = g->blocks_per_group;
	} else {
		if (log_cluster < log_block ||
		    log_cluster > EXT4_MAX_CLUSTER_LOG_SIZE - EXT4_MIN_BLOCK_LOG_SIZE)
			return corrupt("superblock: s_log_cluster_size is %u", log_cluster);
		g->cluster_ratio_bits = log_cluster - log_block;
		g->clusters_per_group = le32_get(sb->s_clusters_per_group);
	}
	g->cluster_ratio = 1u << g->cluster_ratio_bits;

	/* One block of bitmap describes a group. */
	if (g->clusters_per_group == 0 || g->clusters_per_group > g->block_size * 8)
		return corrupt("superblock: %u clusters per group", g->clusters_per_group);
	if (g->blocks_per_group != (uint64_t)g->clusters_per_group << g->cluster_ratio_bits)
		return corrupt("superblock: %u blocks but %u clusters (of %u blocks) per group",
			       g->blocks_per_group, g->clusters_per_group, g->cluster_ratio);

	g->reserved_gdt_blocks = le16_get(sb->s_reserved_gdt_blocks);
	if (g->reserved_gdt_blocks > g->block_size / 4)
		return corrupt("superblock: %u reserved descriptor blocks", g->reserved_gdt_blocks);
	return 0;
}

static int init_inodes(const struct ext4_super_block *sb, struct geom *g)
{
	uint32_t room, want, min;

	if (le32_get(sb->s_rev_level) == EXT4_GOOD_OLD_REV) {
		g->inode_size = EXT4_GOOD_OLD_INODE_SIZE;
		g->first_ino = EXT4_GOOD_OLD_FIRST_INO;
	} else {
		g->inode_size = le16_get(sb->s_inode_size);
		g->first_ino = le32_get(sb->s_first_ino);
	}
	if (g->inode_size < EXT4_GOOD_OLD_INODE_SIZE || g->inode_size > g->block_size ||
	    !is_pow2(g->inode_size))
		return corrupt("superblock: inode size %u", g->inode_size);
	g->inodes_per_block = g->block_size / g->inode_size;

	/* One block of bitmap here too. */
	g->inodes_per_group = le32_get(sb->s_inodes_per_group);
	if (g->inodes_per_group < g->inodes_per_block || g->inodes_per_group > g->block_size * 8)
		return corrupt("superblock: %u inodes per group", g->inodes_per_group);
	g->inode_table_blocks = (uint32_t)div_round_up(g->inodes_per_group, g->inodes_per_block);

	if (g->inode_size == EXT4_GOOD_OLD_INODE_SIZE)
		return 0;
	room = g->inode_size - EXT4_GOOD_OLD_INODE_SIZE;
	g->extra_isize_want = sizeof(struct ext4_inode) - EXT4_GOOD_OLD_INODE_SIZE;
	if (geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE)) {
		want = le16_get(sb->s_want_extra_isize);
		min = le16_get(sb->s_min_extra_isize);
		if (want > room || min > room)
			return corrupt("superblock: s_want_extra_isize is %u, s_min_extra_isize %u",
				       want, min);
		g->extra_isize_want = (uint32_t)max_u64(g->extra_isize_want, max_u64(want, min));
	}
	return 0;
}

static int init_device_range(const struct ext4_super_block *sb, uint64_t dev_bytes, struct geom *g)
{
	uint64_t bytes;

	g->blocks = le32_get(sb->s_blocks_count_lo);
	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_64BIT))
		g->blocks = u64_from_lo_hi(sb->s_blocks_count_lo, sb->s_blocks_count_hi);
	g->first_data_block = le32_get(sb->s_first_data_block);

	if (g->first_data_block >= g->blocks)
		return corrupt("superblock: %" PRIu64 " blocks, the first data block is %" PRIu64,
			       g->blocks, g->first_data_block);
	if (g->first_data_block == 0 && g->block_size == 1024 && g->cluster_ratio == 1)
		return corrupt("superblock: first data block is 0 with clusters of 1024 bytes");
	if (!mul_ok(g->blocks, g->block_size, &bytes) || bytes > dev_bytes)
		return corrupt("truncated: the file system has %" PRIu64 " blocks of %u bytes, "
			       "the device %" PRIu64 " (%" PRIu64 " bytes)",
			       g->blocks, g->block_size, dev_bytes >> g->block_bits, dev_bytes);
	return 0;
}

static int init_groups(const struct ext4_super_block *sb, struct geom *g)
{
	uint64_t groups;

	g->desc_size = EXT4_MIN_DESC_SIZE;
	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_64BIT)) {
		g->desc_size = le16_get(sb->s_desc_size);
		if (g->desc_size < EXT4_MIN_DESC_SIZE_64BIT || g->desc_size > EXT4_MAX_DESC_SIZE ||
		    !is_pow2(g->desc_size))
			return corrupt("superblock: descriptor size %u", g->desc_size);
	}
	g->desc_per_block = g->block_size / g->desc_size;

	groups = div_round_up(g->blocks - g->first_data_block, g->blocks_per_group);
	if (groups > UINT32_MAX - g->desc_per_block)
		return corrupt("superblock: %" PRIu64 " groups", groups);
	g->groups = (uint32_t)groups;
	g->desc_blocks = (uint32_t)div_round_up(g->groups, g->desc_per_block);

	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_META_BG)) {
		g->first_meta_bg = le32_get(sb->s_first_meta_bg);
		if (g->first_meta_bg > g->desc_blocks)
			return corrupt(
				"superblock: s_first_meta_bg is %u, there are %u descriptor blocks",
				g->first_meta_bg, g->desc_blocks);
	}

	g->inodes = le32_get(sb->s_inodes_count);
	if (groups * g->inodes_per_group != g->inodes)
		return corrupt("superblock: %u inodes, but %u groups of %u inodes", g->inodes,
			       g->groups, g->inodes_per_group);
	if (g->first_ino < EXT4_GOOD_OLD_FIRST_INO || g->first_ino > g->inodes)
		return corrupt("superblock: s_first_ino is %u of %u inodes", g->first_ino,
			       g->inodes);
	return 0;
}

static void init_hashes(const struct ext4_super_block *sb, struct geom *g)
{
	memcpy(g->uuid, sb->s_uuid, sizeof(g->uuid));
	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_CSUM_SEED))
		g->csum_seed = le32_get(sb->s_checksum_seed);
	else if (geom_has_csum(g) || geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_EA_INODE))
		g->csum_seed = crc32c(~0u, g->uuid, sizeof(g->uuid));

	for (size_t i = 0; i < ARRAY_SIZE(g->hash_seed); i++)
		g->hash_seed[i] = le32_get(sb->s_hash_seed[i]);
	g->hash_version = sb->s_def_hash_version;
	g->hash_unsigned = le32_get(sb->s_flags) & EXT4_FLAGS_UNSIGNED_HASH;
	g->backup_bgs[0] = le32_get(sb->s_backup_bgs[0]);
	g->backup_bgs[1] = le32_get(sb->s_backup_bgs[1]);
}

int geom_init(const struct ext4_super_block *sb, uint64_t dev_bytes, struct geom *ret)
{
	struct geom g = { 0 };
	int err;

	if (le16_get(sb->s_magic) != EXT4_SUPER_MAGIC)
		return fail(-EINVAL, "not an ext2, ext3 or ext4 file system (no magic number)");
	err = check_checksum(sb);
	if (err)
		return err;
	err = check_features(sb, &g);
	if (err)
		return err;
	err = init_blocks(sb, &g);
	if (err)
		return err;
	err = init_inodes(sb, &g);
	if (err)
		return err;
	err = init_device_range(sb, dev_bytes, &g);
	if (err)
		return err;
	err = init_groups(sb, &g);
	if (err)
		return err;
	init_hashes(sb, &g);
	*ret = g;
	return 0;
}

/* ---- places ---------------------------------------------------------------------------------- */

blk_t geom_group_first_block(const struct geom *g, uint32_t group)
{
	assert(group < g->groups);
	return g->first_data_block + (blk_t)group * g->blocks_per_group;
}

static bool is_power_of(uint32_t v, uint32_t base)
{
	while (v % base == 0)
		v /= base;
	return v == 1;
}

bool geom_group_has_super(const struct geom *g, uint32_t group)
{
	assert(group < g->groups);
	if (group == 0)
		return true;
	if (geom_has_compat(g, EXT4_FEATURE_COMPAT_SPARSE_SUPER2))
		return group == g->backup_bgs[0] || group == g->backup_bgs[1];
	if (group == 1 || !geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER))
		return true;
	return is_power_of(group, 3) || is_power_of(group, 5) || is_power_of(group, 7);
}

/*
 * The descriptors of a meta group lie in its first group, with copies in its second and last, each
 * behind the group's superblock, if it has one.
 */
blk_t geom_desc_block(const struct geom *g, blk_t super_blk, uint32_t index)
{
	blk_t primary = g->block_size == 1024 ? 1 : 0;
	uint32_t group;
	blk_t blk;

	assert(index < g->desc_blocks);
	if (!geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_META_BG) || index < g->first_meta_bg)
		return super_blk + 1 + index;

	group = index * g->desc_per_block;
	if (super_blk != primary && group + 1 < g->groups)
		group++;
	blk = geom_group_first_block(g, group) + geom_group_has_super(g, group);
	/*
	 * Blocks of 1024 bytes counted from 0 (bigalloc): the boot block comes before the
	 * superblock.
	 */
	if (group == 0 && g->block_size == 1024 && g->first_data_block == 0)
		blk++;
	return blk;
}
