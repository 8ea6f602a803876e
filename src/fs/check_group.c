/* SPDX-License-Identifier: MIT */
/*
 * Groups: bitmaps against what was found to be in use, counts against bitmaps.
 */
#include "fs/check_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <inttypes.h>

#define RUNS_TOLD_MAX 4u /* of one bitmap */

/* What a bitmap is compared with. */
struct expected {
	const uint64_t *bits; /* NULL: all clear */
	uint32_t count;	      /* bits that stand for something; those behind are set */
	uint64_t first;	      /* what bit 0 stands for */
	uint32_t scale;	      /* how many blocks a bit stands for */
	const char *what;     /* "block", "inode" */
};

static bool bit_is_set(const uint64_t *bits, uint32_t bit)
{
	return bits && bits[bit / 64] >> bit % 64 & 1;
}

static bool byte_bit_is_set(const uint8_t *bytes, uint32_t bit)
{
	return bytes[bit / 8] >> bit % 8 & 1;
}

static uint64_t disk_word(const uint8_t *bytes, uint32_t bit)
{
	le64 word;

	memcpy(&word, bytes + bit / 8, sizeof(word));
	return le64_get(word);
}

/* The first bit from @at on where they differ, or e->count. */
static uint32_t find_difference(const struct expected *e, const uint8_t *bitmap, uint32_t at)
{
	while (at < e->count) {
		if (at % 64 == 0 && e->count - at >= 64 &&
		    disk_word(bitmap, at) == (e->bits ? e->bits[at / 64] : 0)) {
			at += 64;
			continue;
		}
		if (byte_bit_is_set(bitmap, at) != bit_is_set(e->bits, at))
			return at;
		at++;
	}
	return e->count;
}

static void tell_run(struct check *ck, uint32_t number, const struct expected *e, uint32_t from,
		     uint32_t to, bool marked)
{
	uint64_t first = e->first + (uint64_t)from * e->scale;
	uint64_t last = e->first + (uint64_t)to * e->scale - 1;
	const char *fault = marked ? "marked as in use, but nobody's"
				   : "in use, but marked as free";

	if (first == last)
		check_problem(ck, "group %u: %s %" PRIu64 " is %s", number, e->what, first, fault);
	else
		check_problem(ck, "group %u: %ss %" PRIu64 " to %" PRIu64 " are %s", number,
			      e->what, first, last, fault);
}

static void compare(struct check *ck, uint32_t number, const struct expected *e,
		    const uint8_t *bitmap)
{
	uint32_t runs = 0;

	for (uint32_t at = 0; (at = find_difference(e, bitmap, at)) < e->count;) {
		bool marked = byte_bit_is_set(bitmap, at);
		uint32_t from = at;

		if (runs++ == RUNS_TOLD_MAX) {
			check_problem(ck, "group %u: there are more such %ss", number, e->what);
			break;
		}
		while (at < e->count && byte_bit_is_set(bitmap, at) == marked &&
		       bit_is_set(e->bits, at) != marked)
			at++;
		tell_run(ck, number, e, from, at, marked);
	}
	for (uint32_t at = e->count; at < ck->g->block_size * 8; at++) {
		if (byte_bit_is_set(bitmap, at))
			continue;
		check_problem(ck, "group %u: bit %u of its %s bitmap, behind the end, is not set",
			      number, at, e->what);
		break;
	}
}

static bool lazy(const struct geom *g)
{
	return geom_has_csum(g) || geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_GDT_CSUM);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void check_blocks(struct check *ck, uint32_t number)
{
	const struct geom *g = ck->g;
	const struct check_group *group = &ck->groups[number];
	const struct ext4_group_desc *gd = &group->gd;
	blk_t first = geom_group_first_block(g, number);
	uint64_t blocks = min_u64(g->blocks_per_group, g->blocks - first);
	struct expected e = {
		.bits = group->claimed,
		.count = (uint32_t)div_round_up(blocks, g->cluster_ratio),
		.first = first,
		.scale = g->cluster_ratio,
		.what = "block",
	};
	uint32_t free_count = le16_get(gd->bg_free_blocks_count_lo) |
			      (uint32_t)le16_get(gd->bg_free_blocks_count_hi) << 16;

	ck->result.blocks_used += (uint64_t)group->claimed_count << g->cluster_ratio_bits;
	if (free_count != e.count - group->claimed_count)
		check_problem(ck, "group %u: %u free %s, its descriptor says %u", number,
			      e.count - group->claimed_count,
			      g->cluster_ratio > 1 ? "clusters" : "blocks", free_count);
	if (lazy(g) && (le16_get(gd->bg_flags) & EXT4_BG_BLOCK_UNINIT)) {
		if (group->claimed_count != group->static_count)
			check_problem(ck,
				      "group %u: blocks are in use, but its block bitmap is not "
				      "initialised",
				      number);
		return;
	}
	if (!group->usable ||
	    !check_read(ck, u64_from_lo_hi(gd->bg_block_bitmap_lo, gd->bg_block_bitmap_hi), 1,
			ck->block))
		return;
	check_good(ck, verify_bitmap(g, number, gd, ck->block, false));
	compare(ck, number, &e, ck->block);
}

/* ---- inodes ---------------------------------------------------------------------------------- */

/* Bits of the inodes in use; reserved ones always are. */
static uint32_t used_inodes(const struct check *ck, uint32_t number, uint64_t *bits)
{
	const struct check_group *group = &ck->groups[number];
	uint32_t count = 0;

	for (uint32_t i = 0; i < ck->g->inodes_per_group; i++) {
		uint64_t ino = (uint64_t)number * ck->g->inodes_per_group + i + 1;
		bool used = ino < ck->g->first_ino;

		if (!used && !group->inos)
			break;
		if (!used && i < group->inos_count)
			used = group->inos[i].state & CHECK_INO_USED;
		if (used) {
			bits[i / 64] |= 1ull << i % 64;
			count++;
		}
	}
	return count;
}

static void inode_counts(struct check *ck, uint32_t number, uint32_t used)
{
	const struct check_group *group = &ck->groups[number];
	const struct ext4_group_desc *gd = &group->gd;
	uint32_t free_count = le16_get(gd->bg_free_inodes_count_lo) |
			      (uint32_t)le16_get(gd->bg_free_inodes_count_hi) << 16;
	uint32_t dirs = le16_get(gd->bg_used_dirs_count_lo) |
			(uint32_t)le16_get(gd->bg_used_dirs_count_hi) << 16;

	if (free_count != ck->g->inodes_per_group - used)
		check_problem(ck, "group %u: %u free inodes, its descriptor says %u", number,
			      ck->g->inodes_per_group - used, free_count);
	if (dirs != group->directories)
		check_problem(ck, "group %u: %u directories, its descriptor says %u", number,
			      group->directories, dirs);
}

static void check_inode_bitmap(struct check *ck, uint32_t number, uint64_t *bits)
{
	const struct geom *g = ck->g;
	const struct ext4_group_desc *gd = &ck->groups[number].gd;
	struct expected e = {
		.bits = bits,
		.count = g->inodes_per_group,
		.first = (uint64_t)number * g->inodes_per_group + 1,
		.scale = 1,
		.what = "inode",
	};
	uint32_t used;

	if (!ck->groups[number].usable)
		return;
	memset(bits, 0, div_round_up(g->inodes_per_group, 64) * sizeof(*bits));
	used = used_inodes(ck, number, bits);
	ck->result.inodes += used;
	inode_counts(ck, number, used);
	if (lazy(g) && (le16_get(gd->bg_flags) & EXT4_BG_INODE_UNINIT)) {
		if (used > 0)
			check_problem(ck,
				      "group %u: inodes are in use, but its inode bitmap is not "
				      "initialised",
				      number);
		return;
	}
	if (!check_read(ck, u64_from_lo_hi(gd->bg_inode_bitmap_lo, gd->bg_inode_bitmap_hi), 1,
			ck->block))
		return;
	check_good(ck, verify_bitmap(g, number, gd, ck->block, true));
	compare(ck, number, &e, ck->block);
}

int check_groups(struct check *ck)
{
	uint64_t *bits FREE_SCOPE = mem_calloc(div_round_up(ck->g->inodes_per_group, 64),
					       sizeof(*bits));
	int err = 0;

	if (!bits)
		return -ENOMEM;
	for (uint32_t number = 0; err == 0 && number < ck->g->groups; number++) {
		check_blocks(ck, number);
		check_inode_bitmap(ck, number, bits);
		err = check_progress(ck, number + 1, ck->g->groups);
	}
	return err;
}
