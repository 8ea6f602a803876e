/* SPDX-License-Identifier: MIT */
/*
 * The superblock, the descriptors, and what block groups are made of.
 *
 * Claims what belongs to no inode: superblocks, descriptors and the room to add some, bitmaps,
 * inode tables, the MMP block.  Whatever geom_init() has checked already is not looked at again.
 */
#include "fs/check_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- the superblock -------------------------------------------------------------------------- */

static void super_fields(struct check *ck)
{
	const struct ext4_super_block *sb = &ck->fs->super;
	const struct geom *g = ck->g;
	uint64_t reserved = u64_from_lo_hi(sb->s_r_blocks_count_lo, sb->s_r_blocks_count_hi);

	if (!geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_64BIT))
		reserved = le32_get(sb->s_r_blocks_count_lo);
	if (reserved > g->blocks / 2)
		check_problem(ck, "superblock: %" PRIu64 " of %" PRIu64 " blocks are reserved",
			      reserved, g->blocks);
	if (ck->fs->super_blk <= 1 && le16_get(sb->s_block_group_nr) != 0 &&
	    le32_get(sb->s_rev_level) != EXT4_GOOD_OLD_REV)
		check_problem(ck, "superblock: the first one says that it is of group %u",
			      le16_get(sb->s_block_group_nr));
	if (le32_get(sb->s_first_data_block) != (g->block_size == 1024 && g->cluster_ratio == 1))
		check_problem(ck, "superblock: the first data block is %u",
			      le32_get(sb->s_first_data_block));
	if (le32_get(sb->s_rev_level) > EXT4_DYNAMIC_REV)
		check_problem(ck, "superblock: revision %u", le32_get(sb->s_rev_level));
	if (!geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_BIGALLOC) &&
	    le32_get(sb->s_clusters_per_group) != g->blocks_per_group)
		check_problem(ck, "superblock: %u clusters, but %u blocks per group, no bigalloc",
			      le32_get(sb->s_clusters_per_group), g->blocks_per_group);
	if (sb->s_log_groups_per_flex > 31)
		check_problem(ck, "superblock: s_log_groups_per_flex is %u",
			      sb->s_log_groups_per_flex);
	if (le16_get(sb->s_state) & EXT4_FC_REPLAY)
		check_problem(ck, "superblock: a fast-commit replay was not finished");
	if (geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_GDT_CSUM) && geom_has_csum(g))
		check_problem(ck, "superblock: both metadata_csum and uninit_bg are set");
	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_CSUM_SEED) && !geom_has_csum(g))
		check_problem(ck, "superblock: metadata_csum_seed without metadata_csum");
	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_META_BG) &&
	    geom_has_compat(g, EXT4_FEATURE_COMPAT_RESIZE_INODE))
		check_problem(ck, "superblock: both meta_bg and resize_inode are set");
	if (g->reserved_gdt_blocks > 0 && !geom_has_compat(g, EXT4_FEATURE_COMPAT_RESIZE_INODE))
		check_problem(ck, "superblock: %u reserved descriptor blocks without resize_inode",
			      g->reserved_gdt_blocks);
}

static void super_journal(struct check *ck)
{
	const struct ext4_super_block *sb = &ck->fs->super;
	static const uint8_t no_uuid[sizeof(sb->s_journal_uuid)];
	bool has = geom_has_compat(ck->g, EXT4_FEATURE_COMPAT_HAS_JOURNAL);
	uint32_t inum = le32_get(sb->s_journal_inum), dev = le32_get(sb->s_journal_dev);

	if (!has && (inum != 0 || dev != 0))
		check_problem(ck, "superblock: a journal (inode %u, device %u) without has_journal",
			      inum, dev);
	if (!has && geom_has_incompat(ck->g, EXT4_FEATURE_INCOMPAT_RECOVER))
		check_problem(ck, "superblock: needs_recovery without has_journal");
	if (has && inum == 0 && dev == 0)
		check_problem(ck, "superblock: has_journal, but it says nowhere where it is");
	if (inum != 0 && memcmp(sb->s_journal_uuid, no_uuid, sizeof(no_uuid)) != 0)
		check_problem(ck, "superblock: a journal in inode %u, and the name of another",
			      inum);
	if (inum != 0 && dev != 0)
		check_problem(ck, "superblock: a journal both in inode %u and on device %u", inum,
			      dev);
}

/*
 * A backup that could stand in for the first superblock.  It is as old as the last time somebody
 * wrote all of them: only what never changes is compared.
 */
static void super_backup(struct check *ck, uint32_t number)
{
	const struct ext4_super_block *sb = &ck->fs->super, *copy = (const void *)ck->block;
	blk_t blk = geom_group_first_block(ck->g, number);

	if (!check_read(ck, blk, 1, ck->block))
		return;
	if (le16_get(copy->s_magic) != EXT4_SUPER_MAGIC ||
	    le32_get(copy->s_log_block_size) != le32_get(sb->s_log_block_size) ||
	    le32_get(copy->s_blocks_per_group) != le32_get(sb->s_blocks_per_group) ||
	    le32_get(copy->s_inodes_per_group) != le32_get(sb->s_inodes_per_group) ||
	    le32_get(copy->s_first_data_block) != le32_get(sb->s_first_data_block))
		check_problem(ck,
			      "group %u: the backup of the superblock in block %" PRIu64 " is none",
			      number, blk);
	else if (le32_get(sb->s_rev_level) != EXT4_GOOD_OLD_REV &&
		 le16_get(copy->s_block_group_nr) != (uint16_t)number)
		check_problem(ck, "group %u: its backup of the superblock says that it is of %u",
			      number, le16_get(copy->s_block_group_nr));
}

static void super_backups(struct check *ck)
{
	for (uint32_t number = 1; number < ck->g->groups; number++) {
		if (geom_group_has_super(ck->g, number))
			super_backup(ck, number);
	}
}

/* ---- descriptors ----------------------------------------------------------------------------- */

struct range {
	blk_t first, end;
};

/* Where a group's bitmaps and table may lie. */
static struct range group_range(const struct geom *g, uint32_t group)
{
	blk_t first = geom_group_first_block(g, group);

	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_FLEX_BG))
		return (struct range){ g->first_data_block, g->blocks };
	return (struct range){ first, min_u64(g->blocks, first + g->blocks_per_group) };
}

static bool in_range(const struct range *range, blk_t blk, uint64_t count)
{
	return blk >= range->first && blk < range->end && count <= range->end - blk;
}

static void group_flags(struct check *ck, uint32_t number, const struct ext4_group_desc *gd)
{
	const struct geom *g = ck->g;
	uint32_t flags = le16_get(gd->bg_flags);
	uint32_t unused = le16_get(gd->bg_itable_unused_lo) |
			  (uint32_t)le16_get(gd->bg_itable_unused_hi) << 16;
	bool lazy = geom_has_csum(g) || geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_GDT_CSUM);

	if (!lazy && ((flags & (EXT4_BG_INODE_UNINIT | EXT4_BG_BLOCK_UNINIT)) || unused != 0))
		check_problem(ck,
			      "descriptor of group %u: flags %04x and %u unused inodes without "
			      "checksums of groups",
			      number, flags, unused);
	else if (unused > g->inodes_per_group)
		check_problem(ck, "descriptor of group %u: %u of %u inodes are unused", number,
			      unused, g->inodes_per_group);
	if (number + 1 == g->groups && (flags & EXT4_BG_BLOCK_UNINIT) && lazy)
		check_problem(ck,
			      "descriptor of group %u: the last group's block bitmap is not "
			      "initialised",
			      number);
}

/* How much of the inode table was ever written. */
static uint32_t group_inodes(const struct geom *g, const struct ext4_group_desc *gd)
{
	uint32_t unused = le16_get(gd->bg_itable_unused_lo) |
			  (uint32_t)le16_get(gd->bg_itable_unused_hi) << 16;

	if (!geom_has_csum(g) && !geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_GDT_CSUM))
		return g->inodes_per_group;
	if (le16_get(gd->bg_flags) & EXT4_BG_INODE_UNINIT)
		return 0;
	return unused > g->inodes_per_group ? g->inodes_per_group : g->inodes_per_group - unused;
}

static void group_take(struct check *ck, uint32_t number, const uint8_t *on_disk)
{
	const struct geom *g = ck->g;
	struct check_group *group = &ck->groups[number];
	struct ext4_group_desc *gd = &group->gd;
	struct range range = group_range(g, number);

	memcpy(gd, on_disk, min_size(g->desc_size, sizeof(*gd)));
	if (g->desc_size < EXT4_MIN_DESC_SIZE_64BIT)
		memset(&gd->bg_block_bitmap_hi, 0,
		       sizeof(*gd) - offsetof(struct ext4_group_desc, bg_block_bitmap_hi));
	check_good(ck, verify_group_desc(g, number,
					 (const struct ext4_group_desc *)(const void *)on_disk));
	/* A wrong checksum is no reason to look at nothing of the group. */
	group->usable =
		in_range(&range, u64_from_lo_hi(gd->bg_block_bitmap_lo, gd->bg_block_bitmap_hi),
			 1) &&
		in_range(&range, u64_from_lo_hi(gd->bg_inode_bitmap_lo, gd->bg_inode_bitmap_hi),
			 1) &&
		in_range(&range, u64_from_lo_hi(gd->bg_inode_table_lo, gd->bg_inode_table_hi),
			 g->inode_table_blocks);
	group_flags(ck, number, gd);
	group->inos_count = group->usable ? group_inodes(g, gd) : 0;
}

static int descriptors(struct check *ck)
{
	const struct geom *g = ck->g;

	for (uint32_t index = 0; index < g->desc_blocks; index++) {
		uint32_t first = index * g->desc_per_block;
		uint32_t count = (uint32_t)min_u64(g->desc_per_block, g->groups - first);
		blk_t blk = geom_desc_block(g, ck->fs->super_blk, index);

		if (blk >= g->blocks) {
			check_problem(ck, "block %u of the descriptors lies outside", index);
			continue;
		}
		if (!check_read(ck, blk, 1, ck->block))
			continue;
		for (uint32_t i = 0; i < count; i++)
			group_take(ck, first + i, ck->block + (size_t)i * g->desc_size);
	}
	return 0;
}

/* ---- counts ---------------------------------------------------------------------------------- */

/*
 * The kernel brings the superblock's counts up to date when it unmounts, and believes the
 * descriptors.
 */
static void super_counts(struct check *ck)
{
	const struct ext4_super_block *sb = &ck->fs->super;
	uint64_t clusters = 0, inodes = 0, blocks = le32_get(sb->s_free_blocks_count_lo);

	if (!(le16_get(sb->s_state) & EXT4_VALID_FS) || ck->fs->info.journal_dirty ||
	    ck->fs->super_blk > 1)
		return;
	if (geom_has_incompat(ck->g, EXT4_FEATURE_INCOMPAT_64BIT))
		blocks |= (uint64_t)le32_get(sb->s_free_blocks_count_hi) << 32;
	for (uint32_t i = 0; i < ck->g->groups; i++) {
		const struct ext4_group_desc *gd = &ck->groups[i].gd;

		clusters += le16_get(gd->bg_free_blocks_count_lo) |
			    (uint32_t)le16_get(gd->bg_free_blocks_count_hi) << 16;
		inodes += le16_get(gd->bg_free_inodes_count_lo) |
			  (uint32_t)le16_get(gd->bg_free_inodes_count_hi) << 16;
	}
	if (blocks != clusters << ck->g->cluster_ratio_bits)
		check_problem(ck, "superblock: %" PRIu64 " free blocks, the groups have %" PRIu64,
			      blocks, clusters << ck->g->cluster_ratio_bits);
	if (le32_get(sb->s_free_inodes_count) != inodes)
		check_problem(ck, "superblock: %u free inodes, the groups have %" PRIu64,
			      le32_get(sb->s_free_inodes_count), inodes);
}

/* ---- what groups are made of ----------------------------------------------------------------- */

static int add_static(struct check *ck, uint32_t group, blk_t start, uint64_t count,
		      const char *what)
{
	int err;

	if (count == 0)
		return 0;
	if (start >= ck->g->blocks || count > ck->g->blocks - start) {
		check_problem(ck,
			      "group %u: its %s (%" PRIu64 " blocks at %" PRIu64
			      ") crosses the end of the file system",
			      group, what, count, start);
		return 0;
	}
	err = check_grow(&ck->statics, ck->statics_count, &ck->statics_room, sizeof(*ck->statics));
	if (err < 0)
		return err;
	ck->statics[ck->statics_count++] = (struct check_static){
		.start = start,
		.count = (uint32_t)count,
		.group = group,
		.what = what,
	};
	return 0;
}

/* Superblock, descriptors and the room behind them: in that order at the start of a group. */
static int add_head(struct check *ck, uint32_t number)
{
	const struct geom *g = ck->g;
	blk_t at = geom_group_first_block(g, number);
	bool has_super = geom_group_has_super(g, number);
	bool meta_bg = geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_META_BG);
	uint32_t meta = number / g->desc_per_block, place = number % g->desc_per_block;
	int err = 0;

	/* Blocks of 1 KiB counted from 0 (bigalloc): the boot block comes first. */
	if (number == 0 && g->block_size == 1024 && g->first_data_block == 0) {
		err = add_static(ck, number, at, 1, "boot block");
		at++;
	}
	if (err == 0 && has_super)
		err = add_static(ck, number, at, 1, "superblock");
	at += has_super;
	if (err < 0)
		return err;
	if (meta_bg && meta >= g->first_meta_bg) {
		if (place != 0 && place != 1 && place != g->desc_per_block - 1)
			return 0;
		return add_static(ck, number, at, 1, "descriptor block");
	}
	if (!has_super)
		return 0;
	err = add_static(ck, number, at, meta_bg ? g->first_meta_bg : g->desc_blocks,
			 "descriptors");
	at += meta_bg ? g->first_meta_bg : g->desc_blocks;
	if (err == 0 && !meta_bg)
		err = add_static(ck, number, at, g->reserved_gdt_blocks, "room for descriptors");
	return err;
}

static int add_group(struct check *ck, uint32_t number)
{
	const struct ext4_group_desc *gd = &ck->groups[number].gd;
	int err;

	err = add_head(ck, number);
	if (err < 0 || !ck->groups[number].usable)
		return err;
	err = add_static(ck, number, u64_from_lo_hi(gd->bg_block_bitmap_lo, gd->bg_block_bitmap_hi),
			 1, "block bitmap");
	if (err == 0)
		err = add_static(ck, number,
				 u64_from_lo_hi(gd->bg_inode_bitmap_lo, gd->bg_inode_bitmap_hi), 1,
				 "inode bitmap");
	if (err == 0)
		err = add_static(ck, number,
				 u64_from_lo_hi(gd->bg_inode_table_lo, gd->bg_inode_table_hi),
				 ck->g->inode_table_blocks, "inode table");
	return err;
}

static int add_mmp(struct check *ck)
{
	blk_t blk = le64_get(ck->fs->super.s_mmp_block);

	if (!geom_has_incompat(ck->g, EXT4_FEATURE_INCOMPAT_MMP))
		return 0;
	if (blk <= ck->g->first_data_block || blk >= ck->g->blocks) {
		check_problem(ck, "superblock: the MMP block is %" PRIu64, blk);
		return 0;
	}
	if (check_read(ck, blk, 1, ck->block))
		check_good(ck, verify_mmp(ck->g, ck->block));
	return add_static(ck, (uint32_t)((blk - ck->g->first_data_block) / ck->g->blocks_per_group),
			  blk, 1, "MMP block");
}

static int by_start(const void *a, const void *b)
{
	const struct check_static *left = a, *right = b;

	return (left->start > right->start) - (left->start < right->start);
}

static int claim_statics(struct check *ck)
{
	blk_t end = 0; /* of all before */
	size_t last = 0;

	qsort(ck->statics, ck->statics_count, sizeof(*ck->statics), by_start);
	for (size_t i = 0; i < ck->statics_count; i++) {
		const struct check_static *st = &ck->statics[i], *before = &ck->statics[last];
		int err;

		if (st->start < end)
			check_problem(ck,
				      "group %u: its %s at block %" PRIu64
				      " overlaps the %s of group %u",
				      st->group, st->what, st->start, before->what, before->group);
		if (st->start + st->count > end) {
			end = st->start + st->count;
			last = i;
		}
		err = check_claim_static(ck, st);
		if (err < 0)
			return err;
	}
	for (uint32_t number = 0; number < ck->g->groups; number++)
		ck->groups[number].static_count = ck->groups[number].claimed_count;
	return 0;
}

static int statics(struct check *ck)
{
	int err = 0;

	for (uint32_t number = 0; err == 0 && number < ck->g->groups; number++)
		err = add_group(ck, number);
	if (err == 0)
		err = add_mmp(ck);
	return err < 0 ? err : claim_statics(ck);
}

int check_super(struct check *ck)
{
	int err;

	super_fields(ck);
	super_journal(ck);
	super_backups(ck);
	err = descriptors(ck);
	if (err < 0)
		return err;
	super_counts(ck);
	return statics(ck);
}

/* ---- the resize inode ------------------------------------------------------------------------ */

/* What reserved descriptor block number @index says: where its copies are. */
static void resize_row(struct check *ck, blk_t primary)
{
	const struct geom *g = ck->g;
	const le32 *row = (const void *)ck->node[1];
	uint32_t at = 0, room = g->block_size / 4;

	if (!check_read(ck, primary, 1, ck->node[1]))
		return;
	for (uint32_t group = 1; group < g->groups; group++) {
		blk_t copy = primary + (blk_t)group * g->blocks_per_group;

		if (!geom_group_has_super(g, group))
			continue;
		if (at >= room || le32_get(row[at]) != copy) {
			check_problem(ck,
				      "inode %u (resize): block %" PRIu64
				      " does not lead to its copy in group %u",
				      EXT4_RESIZE_INO, primary, group);
			return;
		}
		at++;
	}
	for (; at < room; at++) {
		if (le32_get(row[at]) != 0) {
			check_problem(ck,
				      "inode %u (resize): block %" PRIu64 " has pointer %u to "
				      "block %u",
				      EXT4_RESIZE_INO, primary, at, le32_get(row[at]));
			return;
		}
	}
}

static void resize_rows(struct check *ck, blk_t dind)
{
	const struct geom *g = ck->g;
	const le32 *rows = (const void *)ck->node[0];
	uint32_t room = g->block_size / 4;
	blk_t first = EXT4_SUPER_OFFSET / g->block_size + 1 + g->desc_blocks;

	if (!check_read(ck, dind, 1, ck->node[0]))
		return;
	for (uint32_t i = 0; i < room; i++) {
		/* Reserved block number i stands where it would among all descriptors. */
		uint32_t at = (g->desc_blocks + i) % room;
		blk_t wanted = i < g->reserved_gdt_blocks ? first + i : 0;

		if (le32_get(rows[at]) != wanted)
			check_problem(ck,
				      "inode %u (resize): entry %u is block %u, should be %" PRIu64,
				      EXT4_RESIZE_INO, at, le32_get(rows[at]), wanted);
		else if (wanted != 0)
			resize_row(ck, wanted);
	}
}

int check_resize_inode(struct check *ck, const struct ext4_inode *raw, uint64_t *ret_clusters)
{
	const struct geom *g = ck->g;
	uint32_t dind = le32_get(raw->i_block[EXT4_DIND_BLOCK]), copies = 0;
	bool shared;
	int err;

	for (uint32_t group = 1; group < g->groups; group++)
		copies += geom_group_has_super(g, group);
	*ret_clusters = 1 + (uint64_t)g->reserved_gdt_blocks * (1 + copies);
	for (unsigned i = 0; i < EXT4_N_BLOCKS; i++) {
		if (i != EXT4_DIND_BLOCK && le32_get(raw->i_block[i]) != 0)
			check_problem(ck, "inode %u (resize): i_block[%u] is %u", EXT4_RESIZE_INO,
				      i, le32_get(raw->i_block[i]));
	}
	if (check_type(raw) != 0100000 || le16_get(raw->i_links_count) != 1)
		check_problem(ck, "inode %u (resize): mode %06o, %u links", EXT4_RESIZE_INO,
			      le16_get(raw->i_mode), le16_get(raw->i_links_count));
	if (dind <= g->first_data_block || dind >= g->blocks) {
		check_problem(ck, "inode %u (resize): its block is %u", EXT4_RESIZE_INO, dind);
		return 0;
	}
	err = check_claim(ck, dind, 1, false, &shared);
	if (err == 0 && !shared)
		resize_rows(ck, dind);
	return err;
}
