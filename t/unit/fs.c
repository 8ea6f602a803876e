/* SPDX-License-Identifier: MIT */
/*
 * fs/: maps, data inside inodes, attributes, directories, on a toy file system that is laid out in
 * memory by hand: 1 KiB blocks, one group in use, no checksums, so that damage reaches the code
 * behind the verifiers.
 *
 *  - Hashes of names against values that libext2fs gave.
 *  - Extent trees of every depth and block maps to the third level against a plain table, at each
 *    border.
 *  - Inline data, ACLs, attributes in their three places.
 *  - Directories of every layout: each name is found, each listing from each cookie gives each
 *    entry once, also where names share their hash and lie in several leaves; fast commits have the
 *    last word.
 *  - The Nth read and the Nth allocation fail: an error, no leak.
 *  - Bytes changed at random: an error or an answer, in bounded time (run under ASan).
 *
 * Usage: fs [SEED [ROUNDS]]
 */
#include "base/base.h"
#include "base/diag.h"
#include "base/mem.h"
#include "base/sum.h"
#include "fs/fs_priv.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static uint64_t seed = 1;
static unsigned rounds = 400;

static uint64_t rnd(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * UINT64_C(2685821657736338717);
}

/* ---- the toy --------------------------------------------------------------------------------- */

#define BLOCK 1024u
#define BLOCKS 40000u /* an extent of 32768 fits */
#define TABLE 5u
#define INODES 128u
#define INODE_BYTES 256u
#define EXTRA 32u
#define FIRST_FREE (TABLE + INODES * INODE_BYTES / BLOCK)
#define DATA_BLK 20000u /* what files map lies from here on and is never read */
#define GENERATION 77u

#define REG 0100644
#define DIR 0040755

struct toy {
	uint8_t *bytes;
	uint32_t free_blk;
	struct dev *fail; /* the filter on top, while open */
	struct uext4_fs *fs;
};

static void *blk_at(const struct toy *t, uint32_t blk)
{
	assert_true(blk < BLOCKS);
	return t->bytes + (size_t)blk * BLOCK;
}

static uint32_t new_blk(struct toy *t)
{
	assert_true(t->free_blk < DATA_BLK);
	memset(blk_at(t, t->free_blk), 0, BLOCK);
	return t->free_blk++;
}

static struct ext4_super_block *super_at(const struct toy *t)
{
	return (void *)(t->bytes + EXT4_SUPER_OFFSET);
}

static void toy_format(struct toy *t)
{
	struct ext4_super_block *sb;
	struct ext4_group_desc *gd;

	t->bytes = calloc(BLOCKS, BLOCK);
	assert_non_null(t->bytes);
	t->free_blk = FIRST_FREE;
	sb = super_at(t);
	sb->s_magic = le16_make(EXT4_SUPER_MAGIC);
	sb->s_state = le16_make(EXT4_VALID_FS);
	sb->s_rev_level = le32_make(EXT4_DYNAMIC_REV);
	sb->s_blocks_count_lo = le32_make(BLOCKS);
	sb->s_first_data_block = le32_make(1);
	sb->s_blocks_per_group = le32_make(8192);
	sb->s_clusters_per_group = le32_make(8192);
	sb->s_inodes_per_group = le32_make(INODES);
	sb->s_inodes_count = le32_make(INODES * 5);
	sb->s_inode_size = le16_make(INODE_BYTES);
	sb->s_first_ino = le32_make(11);
	sb->s_def_hash_version = DX_HASH_HALF_MD4;
	sb->s_flags = le32_make(EXT4_FLAGS_SIGNED_HASH);
	sb->s_feature_compat = le32_make(EXT4_FEATURE_COMPAT_DIR_INDEX |
					 EXT4_FEATURE_COMPAT_EXT_ATTR);
	sb->s_feature_incompat = le32_make(
		EXT4_FEATURE_INCOMPAT_FILETYPE | EXT4_FEATURE_INCOMPAT_EXTENTS |
		EXT4_FEATURE_INCOMPAT_INLINE_DATA | EXT4_FEATURE_INCOMPAT_EA_INODE |
		EXT4_FEATURE_INCOMPAT_LARGEDIR);
	for (unsigned i = 0; i < 16; i++)
		sb->s_uuid[i] = (uint8_t)(i * 11 + 3);
	for (unsigned i = 0; i < 4; i++)
		sb->s_hash_seed[i] = le32_make(0x01020304u * (i + 1));
	gd = blk_at(t, 2);
	gd->bg_block_bitmap_lo = le32_make(3);
	gd->bg_inode_bitmap_lo = le32_make(4);
	gd->bg_inode_table_lo = le32_make(TABLE);
}

static int no_fill(struct mapping *m, struct page *const *pages, size_t count)
{
	return -EIO;
}

static const struct mapping_ops no_files = { .fill = no_fill };

static void toy_open(struct toy *t)
{
	const struct fs_options options = { .cache_bytes = 1 << 20 };
	struct dev *ram;

	assert_int_equal(dev_ram_create(t->bytes, (uint64_t)BLOCKS * BLOCK, &ram), 0);
	assert_int_equal(dev_fail_create(ram, &t->fail), 0);
	assert_int_equal(fs_open(t->fail, &options, &no_files, &t->fs), 0);
}

static void toy_close(struct toy *t)
{
	fs_close(t->fs);
	t->fs = NULL;
}

/* To be looked at afresh, after bytes were changed. */
static void toy_reopen(struct toy *t)
{
	toy_close(t);
	toy_open(t);
}

static void toy_free(struct toy *t)
{
	if (t->fs)
		toy_close(t);
	free(t->bytes);
}

static struct ext4_inode *inode_at(const struct toy *t, uint32_t ino)
{
	return (void *)(t->bytes + TABLE * BLOCK + (size_t)(ino - 1) * INODE_BYTES);
}

static struct ext4_inode *new_inode(struct toy *t, uint32_t ino, uint16_t mode, uint32_t flags,
				    uint64_t size)
{
	struct ext4_inode *raw = inode_at(t, ino);

	memset(raw, 0, INODE_BYTES);
	raw->i_mode = le16_make(mode);
	raw->i_links_count = le16_make(1);
	raw->i_flags = le32_make(flags);
	raw->i_size_lo = le32_make((uint32_t)size);
	raw->i_size_high = le32_make((uint32_t)(size >> 32));
	raw->i_blocks_lo = le32_make(2);
	raw->i_extra_isize = le16_make(EXTRA);
	raw->i_generation = le32_make(GENERATION);
	return raw;
}

static struct inode *get(const struct toy *t, uint32_t ino)
{
	struct inode *ip = NULL;
	int err = inode_get(t->fs, ino, &ip);

	if (err < 0)
		print_error("inode %u: %s\n", ino, diag_text());
	assert_int_equal(err, 0);
	return ip;
}

/* ---- hashes ---------------------------------------------------------------------------------- */

/* 33 bytes that are negative as signed characters. */
#define HIGH                                                                   \
	"\200\201\202\203\204\205\206\207\210\211\212\213\214\215\216\217\220" \
	"\221\222\223\224\225\226\227\230\231\232\233\234\235\236\237\240"

static void test_hashes(void **state)
{
	static const uint32_t seeds[2][4] = {
		{ 0 },
		{ 0x67452301, 0xefcdab89, 0x67452301, 0xefcdab89 },
	};
	static const struct {
		uint8_t version, seed;
		const char *name;
		uint8_t name_len;
		uint32_t major, minor;
	} known[] = {
		{ 0, 0, "a", 1, 0xe74b53e2, 0x00000000 },
		{ 1, 0, "a", 1, 0xd5fa7d7a, 0xacb48187 },
		{ 2, 0, "a", 1, 0x6d0ea4c0, 0xc18922df },
		{ 3, 0, "a", 1, 0xe74b53e2, 0x00000000 },
		{ 1, 1, "a", 1, 0x35dc0cc4, 0x3f1dacef },
		{ 2, 1, "a", 1, 0x6d0ea4c0, 0xc18922df },
		{ 4, 1, "a", 1, 0x35dc0cc4, 0x3f1dacef },
		{ 5, 1, "a", 1, 0x6d0ea4c0, 0xc18922df },
		{ 0, 0, "lost+found", 10, 0x5e2aba24, 0x00000000 },
		{ 1, 0, "lost+found", 10, 0x591de422, 0x6ffc56e0 },
		{ 2, 0, "lost+found", 10, 0x2dbf9e80, 0xbfebee4f },
		{ 3, 0, "lost+found", 10, 0x5e2aba24, 0x00000000 },
		{ 1, 1, "lost+found", 10, 0x663bdc72, 0x562ef5d8 },
		{ 2, 1, "lost+found", 10, 0x2dbf9e80, 0xbfebee4f },
		{ 4, 1, "lost+found", 10, 0x663bdc72, 0x562ef5d8 },
		{ 5, 1, "lost+found", 10, 0x2dbf9e80, 0xbfebee4f },
		{ 0, 0, "caf\303\251 \377\200", 8, 0x29371b44, 0x00000000 },
		{ 1, 0, "caf\303\251 \377\200", 8, 0x9eb688ca, 0x63ffdd45 },
		{ 2, 0, "caf\303\251 \377\200", 8, 0x2766bc0c, 0xe4479631 },
		{ 3, 0, "caf\303\251 \377\200", 8, 0x682b6348, 0x00000000 },
		{ 4, 0, "caf\303\251 \377\200", 8, 0x5a2d1498, 0xf8a743ea },
		{ 5, 0, "caf\303\251 \377\200", 8, 0x4c724f74, 0x6b0863d6 },
		{ 1, 1, "caf\303\251 \377\200", 8, 0x8ffa3fc6, 0xf6b84409 },
		{ 2, 1, "caf\303\251 \377\200", 8, 0x2766bc0c, 0xe4479631 },
		{ 4, 1, "caf\303\251 \377\200", 8, 0x010a6392, 0x1d283c81 },
		{ 5, 1, "caf\303\251 \377\200", 8, 0x4c724f74, 0x6b0863d6 },
		{ 0, 0, "0123456789abcdef", 16, 0x415c16fe, 0x00000000 },
		{ 1, 0, "0123456789abcdef", 16, 0x8cb502b6, 0x5acf4f33 },
		{ 2, 0, "0123456789abcdef", 16, 0x5a0788b2, 0xefa4e711 },
		{ 3, 0, "0123456789abcdef", 16, 0x415c16fe, 0x00000000 },
		{ 4, 0, "0123456789abcdef", 16, 0x8cb502b6, 0x5acf4f33 },
		{ 5, 0, "0123456789abcdef", 16, 0x5a0788b2, 0xefa4e711 },
		{ 1, 1, "0123456789abcdef", 16, 0x26e743f8, 0x7133ce34 },
		{ 2, 1, "0123456789abcdef", 16, 0x5a0788b2, 0xefa4e711 },
		{ 4, 1, "0123456789abcdef", 16, 0x26e743f8, 0x7133ce34 },
		{ 5, 1, "0123456789abcdef", 16, 0x5a0788b2, 0xefa4e711 },
		{ 0, 0, "0123456789abcdef0", 17, 0x4d583fb0, 0x00000000 },
		{ 1, 0, "0123456789abcdef0", 17, 0x0e50885a, 0xfa9bdfab },
		{ 2, 0, "0123456789abcdef0", 17, 0x246062c0, 0xbee1dd77 },
		{ 3, 0, "0123456789abcdef0", 17, 0x4d583fb0, 0x00000000 },
		{ 4, 0, "0123456789abcdef0", 17, 0x0e50885a, 0xfa9bdfab },
		{ 5, 0, "0123456789abcdef0", 17, 0x246062c0, 0xbee1dd77 },
		{ 1, 1, "0123456789abcdef0", 17, 0x457ad888, 0x248442cd },
		{ 2, 1, "0123456789abcdef0", 17, 0x246062c0, 0xbee1dd77 },
		{ 4, 1, "0123456789abcdef0", 17, 0x457ad888, 0x248442cd },
		{ 5, 1, "0123456789abcdef0", 17, 0x246062c0, 0xbee1dd77 },
		{ 0, 0, HIGH, 33, 0x9102bed2, 0x00000000 },
		{ 1, 0, HIGH, 33, 0xd69eab84, 0xf25f6577 },
		{ 2, 0, HIGH, 33, 0x048f2316, 0xd06a6c68 },
		{ 3, 0, HIGH, 33, 0xa96ed0f4, 0x00000000 },
		{ 4, 0, HIGH, 33, 0x9585486c, 0x49f6a8e6 },
		{ 5, 0, HIGH, 33, 0x7db2f2d2, 0xb118da5b },
		{ 1, 1, HIGH, 33, 0x5fb1ec7c, 0xbdb9bfb8 },
		{ 2, 1, HIGH, 33, 0x048f2316, 0xd06a6c68 },
		{ 4, 1, HIGH, 33, 0xbc956a66, 0xd9bec8df },
		{ 5, 1, HIGH, 33, 0x7db2f2d2, 0xb118da5b },
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		struct dir_hash hash;

		assert_int_equal(dir_hash(known[i].version, seeds[known[i].seed], known[i].name,
					  known[i].name_len, &hash),
				 0);
		assert_int_equal(hash.major, known[i].major);
		assert_int_equal(hash.minor, known[i].minor);
	}
	for (unsigned version = DX_HASH_SIPHASH; version < 256; version++) {
		struct dir_hash hash;

		assert_int_equal(dir_hash((uint8_t)version, seeds[0], "a", 1, &hash),
				 -EFSCORRUPTED);
	}
}

/* ---- extent trees ---------------------------------------------------------------------------- */

#define EXT_INO 20u

/* The last and then the next extent: what map_read() is to answer, from the table alone. */
static struct map_ext expected_ext(const struct map_ext *table, size_t count, lblk_t logical)
{
	lblk_t end = UINT32_MAX;

	for (size_t i = 0; i < count; i++) {
		const struct map_ext *e = &table[i];

		if (e->logical > logical) {
			end = e->logical;
			break;
		}
		if (logical - e->logical < e->count)
			return (struct map_ext){ logical, e->count - (logical - e->logical),
						 e->physical + (logical - e->logical), e->state };
	}
	return (struct map_ext){ logical, end - logical, 0, MAP_HOLE };
}

/* One entry of a node: an extent, or a node below. */
struct tree_entry {
	lblk_t first;
	struct ext4_extent disk; /* or index: the two lie alike but for the second half */
};

static struct tree_entry extent_entry(const struct map_ext *e)
{
	uint32_t len = e->state == MAP_UNWRITTEN ? e->count + EXT_INIT_MAX_LEN : e->count;

	return (struct tree_entry){ e->logical,
				    { le32_make(e->logical), le16_make((uint16_t)len), le16_make(0),
				      le32_make((uint32_t)e->physical) } };
}

static void node_write(void *node, const struct tree_entry *entries, size_t count, uint32_t depth,
		       uint32_t max)
{
	struct ext4_extent_header *eh = node;

	*eh = (struct ext4_extent_header){ le16_make(EXT4_EXT_MAGIC), le16_make((uint16_t)count),
					   le16_make((uint16_t)max), le16_make((uint16_t)depth),
					   le32_make(0) };
	for (size_t i = 0; i < count; i++)
		memcpy((uint8_t *)(eh + 1) + i * sizeof(entries[i].disk), &entries[i].disk,
		       sizeof(entries[i].disk));
}

/*
 * An extent tree of exactly @depth over @table, with @width entries a node.  @stale: keys of index
 * entries lie that much before the first extent below, where the neighbour leaves room for it.
 */
static void tree_write(struct toy *t, struct ext4_inode *raw, const struct map_ext *table,
		       size_t count, uint32_t depth, size_t width, uint32_t stale)
{
	struct tree_entry *level = calloc(count, sizeof(*level));
	lblk_t before = 0;

	assert_non_null(level);
	for (size_t i = 0; i < count; i++)
		level[i] = extent_entry(&table[i]);
	for (uint32_t d = 0; d < depth; d++) {
		size_t nodes = 0;

		for (size_t i = 0; i < count; i += width, nodes++) {
			size_t n = min_size(width, count - i);
			uint32_t blk = new_blk(t);
			lblk_t first = level[i].first;

			node_write(blk_at(t, blk), level + i, n, d, (BLOCK - 12) / 12);
			if (d == 0 && i > 0)
				before = table[i - 1].logical + table[i - 1].count;
			if (d == 0)
				first -= (uint32_t)min_u64(stale, first - before);
			level[nodes] = (struct tree_entry){
				first,
				{ le32_make(first), le16_make((uint16_t)blk),
				  le16_make((uint16_t)(blk >> 16)), le32_make(0) },
			};
		}
		count = nodes;
	}
	assert_true(count <= 4);
	node_write(raw->i_block, level, count, depth, 4);
	free(level);
}

static void check_ext(struct inode *ip, const struct map_ext *table, size_t count, lblk_t logical)
{
	struct map_ext want, got;
	int err;

	if (logical == UINT32_MAX)
		return;
	want = expected_ext(table, count, logical);
	err = map_read(ip, logical, &got);
	if (err < 0)
		print_error("block %u: %s\n", logical, diag_text());
	assert_int_equal(err, 0);
	assert_int_equal(got.logical, logical);
	assert_int_equal(got.state, want.state);
	assert_int_equal(got.count, want.count);
	assert_int_equal(got.physical, want.physical);
}

static void check_all_borders(struct inode *ip, const struct map_ext *table, size_t count)
{
	check_ext(ip, table, count, 0);
	check_ext(ip, table, count, UINT32_MAX - 1);
	for (size_t i = 0; i < count; i++) {
		lblk_t end = table[i].logical + table[i].count;

		if (table[i].logical > 0)
			check_ext(ip, table, count, table[i].logical - 1);
		check_ext(ip, table, count, table[i].logical);
		check_ext(ip, table, count, table[i].logical + table[i].count / 2);
		check_ext(ip, table, count, end - 1);
		check_ext(ip, table, count, end);
		if (end < UINT32_MAX)
			check_ext(ip, table, count, end + 1);
	}
}

/* Extents of 1 to 4 blocks with holes of 0 to 3 before them; every third is unwritten. */
static size_t table_fill(struct map_ext *table, size_t count)
{
	lblk_t at = (lblk_t)(rnd() % 3);

	for (size_t i = 0; i < count; i++) {
		table[i] = (struct map_ext){ at, (uint32_t)(rnd() % 4 + 1),
					     DATA_BLK + rnd() % 10000,
					     i % 3 == 2 ? MAP_UNWRITTEN : MAP_WRITTEN };
		at += table[i].count + (uint32_t)(rnd() % 4);
	}
	return count;
}

static void test_extents(void **state)
{
	struct map_ext table[200];

	for (uint32_t depth = 0; depth <= EXT4_MAX_EXTENT_DEPTH; depth++) {
		for (uint32_t stale = 0; stale <= 2; stale += 2) {
			/*
			 * With @width entries in a node this many need @depth levels and fit below
			 * 4.
			 */
			size_t width = depth == 0 ? 4 : 2, count = 3;
			struct toy t = { 0 };
			struct inode *ip;

			for (uint32_t d = 0; d < depth; d++)
				count = count * width - 1;
			assert_true(count <= ARRAY_SIZE(table));
			table_fill(table, count);
			toy_format(&t);
			tree_write(&t, new_inode(&t, EXT_INO, REG, EXT4_EXTENTS_FL, BLOCK), table,
				   count, depth, width, stale);
			toy_open(&t);
			ip = get(&t, EXT_INO);
			check_all_borders(ip, table, count);
			inode_put(ip);
			toy_free(&t);
		}
	}
}

static void test_extent_limits(void **state)
{
	const struct map_ext table[] = {
		{ 5, EXT_INIT_MAX_LEN, 6000, MAP_WRITTEN }, /* the longest */
		{ 5 + EXT_INIT_MAX_LEN, 1, 5000, MAP_UNWRITTEN },
		{ 100000, EXT_INIT_MAX_LEN - 1, 6000, MAP_UNWRITTEN }, /* the longest unwritten */
		{ UINT32_MAX - 2, 2, 7000, MAP_WRITTEN }, /* up to the last block of a file */
	};
	struct toy t = { 0 };
	struct map_ext ext;
	struct inode *ip;

	toy_format(&t);
	tree_write(&t, new_inode(&t, EXT_INO, REG, EXT4_EXTENTS_FL, BLOCK), table,
		   ARRAY_SIZE(table), 0, 4, 0);
	tree_write(&t, new_inode(&t, EXT_INO + 1, REG, EXT4_EXTENTS_FL, BLOCK), table, 0, 0, 4, 0);
	toy_open(&t);
	ip = get(&t, EXT_INO);
	check_all_borders(ip, table, ARRAY_SIZE(table));
	assert_int_equal(map_read(ip, UINT32_MAX, &ext), -EFSCORRUPTED);
	inode_put(ip);
	ip = get(&t, EXT_INO + 1);
	check_ext(ip, table, 0, 0);
	check_ext(ip, table, 0, 12345);
	inode_put(ip);
	toy_free(&t);
}

/* A node that its tree names twice: verified once, right in one place only. */
static void test_extent_node_shared(void **state)
{
	const struct map_ext table[] = {
		{ 0, 1, DATA_BLK, MAP_WRITTEN },
		{ 10, 1, DATA_BLK + 1, MAP_WRITTEN },
	};
	struct ext4_extent_idx *second;
	struct ext4_inode *raw;
	struct toy t = { 0 };
	struct map_ext ext;
	struct inode *ip;

	toy_format(&t);
	raw = new_inode(&t, EXT_INO, REG, EXT4_EXTENTS_FL, BLOCK);
	tree_write(&t, raw, table, 2, 1, 1, 0);
	second = (struct ext4_extent_idx *)(void *)((uint8_t *)raw->i_block + 24);
	second->ei_leaf_lo = le32_make(le32_get(second->ei_leaf_lo) - 1);
	toy_open(&t);
	ip = get(&t, EXT_INO);
	assert_int_equal(map_read(ip, 0, &ext), 0);
	assert_int_equal(map_read(ip, 10, &ext), -EFSCORRUPTED);
	inode_put(ip);
	toy_free(&t);
}

/* Extents of a fast commit stand in for the tree. */
static void test_extents_of_fast_commit(void **state)
{
	struct map_ext table[20];
	struct fc_inode fc = { .has_extents = true, .extents = table, .extents_count = 20 };
	struct toy t = { 0 };
	struct inode *ip;

	table_fill(table, 20);
	toy_format(&t);
	tree_write(&t, new_inode(&t, EXT_INO, REG, EXT4_EXTENTS_FL, BLOCK), NULL, 0, 0, 4, 0);
	toy_open(&t);
	ip = get(&t, EXT_INO);
	list_init(&fc.dirents);
	ip->fc = &fc;
	check_all_borders(ip, table, 20);
	fc.extents_count = 0;
	check_all_borders(ip, table, 0);
	ip->fc = NULL;
	inode_put(ip);
	toy_free(&t);
}

/* ---- block maps ------------------------------------------------------------------------------ */

#define POINTERS (BLOCK / 4)
#define IND_INO 21u

/* Makes block @logical of @raw lie at @physical, with the pointer blocks on the way. */
static void pointer_set(struct toy *t, struct ext4_inode *raw, uint64_t logical, uint32_t physical)
{
	uint64_t rest = logical, span = 1;
	uint32_t slot = (uint32_t)logical;
	le32 *pointer;

	if (logical >= EXT4_NDIR_BLOCKS) {
		rest -= EXT4_NDIR_BLOCKS;
		for (slot = EXT4_IND_BLOCK, span = POINTERS; rest >= span; slot++, span *= POINTERS)
			rest -= span;
	}
	pointer = &raw->i_block[slot];
	while (span > 1) {
		if (le32_get(*pointer) == 0)
			*pointer = le32_make(new_blk(t));
		span /= POINTERS;
		pointer = (le32 *)blk_at(t, le32_get(*pointer)) + rest / span;
		rest %= span;
	}
	*pointer = le32_make(physical);
}

static void test_indirect(void **state)
{
	static const uint64_t dind = 12 + POINTERS, tind = dind + POINTERS * POINTERS,
			      end = tind + (uint64_t)POINTERS * POINTERS * POINTERS;
	const uint64_t mapped[] = {
		0,
		1,
		5,
		11,
		12,
		13,
		12 + POINTERS - 1,
		dind,
		dind + 1,
		dind + POINTERS - 1,
		dind + POINTERS,
		dind + 7 * POINTERS,
		tind - 1,
		tind,
		tind + POINTERS * POINTERS - 1,
		tind + POINTERS * POINTERS,
		tind + 9 * POINTERS * POINTERS + 5,
		end - 1,
	};
	struct ext4_inode *raw;
	struct toy t = { 0 };
	struct inode *ip;
	size_t seen = 0, steps = 0;

	toy_format(&t);
	raw = new_inode(&t, IND_INO, REG, 0, BLOCK);
	for (size_t i = 0; i < ARRAY_SIZE(mapped); i++)
		pointer_set(&t, raw, mapped[i], DATA_BLK + (uint32_t)i);
	toy_open(&t);
	ip = get(&t, IND_INO);
	/* From extent to extent over the whole file: the table, and nothing else. */
	for (lblk_t at = 0; at < UINT32_MAX; steps++) {
		struct map_ext ext;

		assert_int_equal(map_read(ip, at, &ext), 0);
		assert_int_equal(ext.logical, at);
		if (ext.state == MAP_HOLE) {
			assert_true(seen == ARRAY_SIZE(mapped) ||
				    at + (uint64_t)ext.count <= mapped[seen]);
		} else {
			for (uint32_t i = 0; i < ext.count; i++, seen++) {
				assert_int_equal(mapped[seen], at + i);
				assert_int_equal(ext.physical + i, DATA_BLK + seen);
			}
		}
		at += ext.count;
	}
	assert_int_equal(seen, ARRAY_SIZE(mapped));
	assert_true(steps < 60); /* whole subtrees are skipped */
	/* A hole, from wherever it is looked at, ends before the next block. */
	for (unsigned i = 0; i < 2000; i++) {
		lblk_t at = (lblk_t)(rnd() % end);
		struct map_ext ext;

		assert_int_equal(map_read(ip, at, &ext), 0);
		for (size_t j = 0; ext.state == MAP_HOLE && j < ARRAY_SIZE(mapped); j++)
			assert_true(mapped[j] < at || mapped[j] >= at + (uint64_t)ext.count);
	}
	/* And beside each block. */
	for (size_t i = 0; i < ARRAY_SIZE(mapped); i++) {
		struct map_ext ext;

		for (int d = -1; d <= 1; d++) {
			uint64_t at = mapped[i] + (uint64_t)d;
			bool there = false;

			for (size_t j = 0; j < ARRAY_SIZE(mapped); j++)
				there |= mapped[j] == at;
			if (mapped[i] == 0 && d < 0)
				continue;
			assert_int_equal(map_read(ip, (lblk_t)at, &ext), 0);
			assert_int_equal(ext.state, there ? MAP_WRITTEN : MAP_HOLE);
		}
	}
	inode_put(ip);
	toy_free(&t);
}

/* Without any block, or with one far away: one hole, whatever is asked for. */
static void test_indirect_empty(void **state)
{
	const struct map_ext last = { 12 + POINTERS + POINTERS * POINTERS, 1, DATA_BLK,
				      MAP_WRITTEN };
	struct toy t = { 0 };
	struct inode *ip;

	toy_format(&t);
	new_inode(&t, IND_INO, REG, 0, BLOCK);
	pointer_set(&t, new_inode(&t, IND_INO + 1, REG, 0, BLOCK), last.logical, DATA_BLK);
	toy_open(&t);
	ip = get(&t, IND_INO + 1);
	check_ext(ip, &last, 1, 0);
	check_ext(ip, &last, 1, 11);
	check_ext(ip, &last, 1, 12);
	check_ext(ip, &last, 1, last.logical - 1);
	check_ext(ip, &last, 1, last.logical);
	inode_put(ip);
	ip = get(&t, IND_INO);
	check_ext(ip, NULL, 0, 0);
	check_ext(ip, NULL, 0, 11);
	check_ext(ip, NULL, 0, 300);
	check_ext(ip, NULL, 0, 70000);
	check_ext(ip, NULL, 0, 20000000);
	inode_put(ip);
	toy_free(&t);
}

static void test_indirect_bad_pointer(void **state)
{
	static const uint32_t bad[] = { 1, BLOCKS, UINT32_MAX };
	struct ext4_inode *raw;
	struct toy t = { 0 };
	struct map_ext ext;

	toy_format(&t);
	raw = new_inode(&t, IND_INO, REG, 0, BLOCK);
	pointer_set(&t, raw, 12, DATA_BLK);
	toy_open(&t);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct inode *ip;

		((le32 *)blk_at(&t, le32_get(raw->i_block[12])))[200] = le32_make(bad[i]);
		toy_reopen(&t);
		ip = get(&t, IND_INO);
		assert_int_equal(map_read(ip, 12, &ext), -EFSCORRUPTED);
		assert_non_null(strstr(diag_text(), "pointer 200"));
		inode_put(ip);
	}
	toy_free(&t);
}

/* ---- attributes ------------------------------------------------------------------------------ */

#define XATTR_INO 30u
#define EA_INO 31u
#define BODY_BYTES (INODE_BYTES - 128 - EXTRA - 4)

/* A row of attributes that is being written; values grow from its end downwards. */
struct row {
	uint8_t *first, *at;
	uint32_t base,
		value_at; /* where values count from, and the lowest one, relative to @first */
};

static struct ext4_xattr_entry *row_add(struct row *row, uint8_t index, const char *name,
					const void *value, uint32_t size)
{
	struct ext4_xattr_entry *e = (void *)row->at;
	size_t len = strlen(name);

	row->value_at -= (size + 3) & ~3u;
	assert_true(row->at + EXT4_XATTR_LEN(len) + 4 <= row->first + row->value_at);
	e->e_name_len = (uint8_t)len;
	e->e_name_index = index;
	e->e_value_offs = le16_make((uint16_t)(size ? row->value_at + row->base : 0));
	e->e_value_size = le32_make(size);
	memcpy(e->e_name, name, len);
	if (size)
		memcpy(row->first + row->value_at, value, size);
	row->at += EXT4_XATTR_LEN(len);
	return e;
}

static struct row body_row(struct ext4_inode *raw)
{
	uint8_t *header = (uint8_t *)raw + 128 + EXTRA;
	le32 magic = le32_make(EXT4_XATTR_MAGIC);

	memcpy(header, &magic, sizeof(magic));
	return (struct row){ header + 4, header + 4, 0, BODY_BYTES };
}

static struct row block_row(struct toy *t, struct ext4_inode *raw)
{
	uint32_t blk = new_blk(t);
	struct ext4_xattr_header *h = blk_at(t, blk);

	h->h_magic = le32_make(EXT4_XATTR_MAGIC);
	h->h_refcount = le32_make(1);
	h->h_blocks = le32_make(1);
	raw->i_file_acl_lo = le32_make(blk);
	return (struct row){ (uint8_t *)(h + 1), (uint8_t *)(h + 1), sizeof(*h),
			     BLOCK - sizeof(*h) };
}

static void check_list(struct inode *ip, const char *want, size_t want_size)
{
	char buf[512];
	size_t size;

	assert_int_equal(xattr_list(ip, NULL, 0, &size), 0);
	assert_int_equal(size, want_size);
	assert_int_equal(xattr_list(ip, buf, sizeof(buf), &size), 0);
	assert_int_equal(size, want_size);
	assert_memory_equal(buf, want, size);
	if (want_size > 1)
		assert_int_equal(xattr_list(ip, buf, want_size - 1, &size), -ERANGE);
}

static void check_get(struct inode *ip, const char *name, const void *want, size_t want_size)
{
	static uint8_t buf[70000];
	size_t size;
	int err;

	assert_int_equal(xattr_get(ip, name, NULL, 0, &size), 0);
	assert_int_equal(size, want_size);
	err = xattr_get(ip, name, buf, sizeof(buf), &size);
	if (err < 0)
		print_error("%s: %s\n", name, diag_text());
	assert_int_equal(err, 0);
	assert_int_equal(size, want_size);
	assert_memory_equal(buf, want, size);
	if (want_size > 1)
		assert_int_equal(xattr_get(ip, name, buf, want_size - 1, &size), -ERANGE);
}

static void test_xattrs(void **state)
{
	static const char names[] =
		"user.body\0security.s\0trusted.block\0user.e\0user.both\0gnu.g";
	static const char *const absent[] = {
		"user.",
		"user.bod",
		"user.bodyy",
		"usr.x",
		"user",
		"",
		"system.data",
		"system.",
		"trusted.body",
		"lustre.l",
		"system.posix_acl_access",
		"system.posix_acl_accessx",
	};
	struct ext4_inode *raw;
	struct toy t = { 0 };
	struct inode *ip;
	struct row row;
	size_t size;

	toy_format(&t);
	raw = new_inode(&t, XATTR_INO, REG, 0, 0);
	row = body_row(raw);
	row_add(&row, EXT4_XATTR_INDEX_SYSTEM, "data", "hidden", 6);
	row_add(&row, EXT4_XATTR_INDEX_USER, "body", "inside", 6);
	row_add(&row, EXT4_XATTR_INDEX_SECURITY, "s", "\0\1", 2);
	row = block_row(&t, raw);
	row_add(&row, EXT4_XATTR_INDEX_USER, "body", "outside", 7); /* hidden by the body's */
	row_add(&row, EXT4_XATTR_INDEX_TRUSTED, "block", "t", 1);
	row_add(&row, EXT4_XATTR_INDEX_USER, "e", NULL, 0);
	row_add(&row, EXT4_XATTR_INDEX_LUSTRE, "l", "no", 2);
	row_add(&row, EXT4_XATTR_INDEX_ENCRYPTION, "c", "no", 2);
	row_add(&row, 99, "x", "no", 2);
	row_add(&row, EXT4_XATTR_INDEX_USER, "both", "1234567890", 10);
	row_add(&row, EXT4_XATTR_INDEX_HURD, "g", "hurd", 4);
	new_inode(&t, XATTR_INO + 5, REG, 0, 0); /* without any */
	toy_open(&t);
	ip = get(&t, XATTR_INO);
	check_list(ip, names, sizeof(names));
	check_get(ip, "user.body", "inside", 6);
	check_get(ip, "security.s", "\0\1", 2);
	check_get(ip, "trusted.block", "t", 1);
	check_get(ip, "user.e", "", 0);
	check_get(ip, "user.both", "1234567890", 10);
	check_get(ip, "gnu.g", "hurd", 4);
	for (size_t i = 0; i < ARRAY_SIZE(absent); i++)
		assert_int_equal(xattr_get(ip, absent[i], NULL, 0, &size), -ENODATA);
	inode_put(ip);
	ip = get(&t, XATTR_INO + 5);
	check_list(ip, "", 0);
	inode_put(ip);
	toy_free(&t);
}

static uint32_t test_name_hash(const char *name, uint32_t value_hash, bool is_signed)
{
	uint32_t hash = 0;

	for (; *name; name++)
		hash = (hash << 5 | hash >> 27) ^
		       (is_signed ? (uint32_t)(signed char)*name : (uint8_t)*name);
	return (hash << 16 | hash >> 16) ^ value_hash;
}

/* An inode with @size bytes as the value of user.@name, which is not ASCII. */
static void ea_write(struct toy *t, const char *name, uint32_t size, bool is_signed)
{
	const struct map_ext where = { 0, (size + BLOCK - 1) / BLOCK, 10000, MAP_WRITTEN };
	struct ext4_inode *raw = new_inode(t, EA_INO, REG, EXT4_EA_INODE_FL | EXT4_EXTENTS_FL,
					   size);
	uint8_t *value = blk_at(t, 10000);
	struct ext4_xattr_entry *e;
	struct row row;
	uint32_t hash;

	for (uint32_t i = 0; i < size; i++)
		value[i] = (uint8_t)rnd();
	hash = crc32c(crc32c(~0u, super_at(t)->s_uuid, 16), value, size);
	tree_write(t, raw, &where, 1, 0, 4, 0);
	raw->i_atime = le32_make(hash);
	raw = new_inode(t, XATTR_INO, REG, 0, 0);
	row = body_row(raw);
	e = row_add(&row, EXT4_XATTR_INDEX_USER, name, NULL, 0);
	e->e_value_size = le32_make(size);
	e->e_value_inum = le32_make(EA_INO);
	e->e_hash = le32_make(test_name_hash(name, hash, is_signed));
}

static void check_ea_fails(struct toy *t, const char *name)
{
	static uint8_t buf[70000];
	struct inode *ip;
	size_t size = 4711;
	int err;

	toy_reopen(t);
	ip = get(t, XATTR_INO);
	err = xattr_get(ip, name, buf, sizeof(buf), &size);
	assert_int_equal(err, -EFSCORRUPTED);
	assert_int_equal(size, 4711);
	inode_put(ip);
}

static void test_xattr_inode(void **state)
{
	static const uint32_t sizes[] = { 1, BLOCK, 5000, 65536 };
	static const char name[] = "caf\303\251", full[] = "user.caf\303\251";
	struct toy t = { 0 };
	struct ext4_inode *ea;
	struct inode *ip;

	toy_format(&t);
	toy_open(&t);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(sizes); i++) {
		ea_write(&t, name, sizes[i / 2], i & 1);
		toy_reopen(&t);
		ip = get(&t, XATTR_INO);
		check_list(ip, full, sizeof(full));
		check_get(ip, full, blk_at(&t, 10000), sizes[i / 2]);
		inode_put(ip);
	}

	ea = inode_at(&t, EA_INO);
	((uint8_t *)blk_at(&t, 10000))[60000] ^= 1; /* the value */
	check_ea_fails(&t, full);
	ea_write(&t, name, 5000, false);
	ea->i_flags = le32_make(EXT4_EXTENTS_FL); /* a file, not a value */
	check_ea_fails(&t, full);
	ea_write(&t, name, 5000, false);
	ea->i_size_lo = le32_make(5001);
	check_ea_fails(&t, full);
	ea_write(&t, name, 5000, false);
	ea->i_links_count = le16_make(0);
	check_ea_fails(&t, full);
	ea_write(&t, "other", 5000, false); /* of another name's entry */
	memcpy((uint8_t *)inode_at(&t, XATTR_INO) + 128 + EXTRA + 4 + 16, "OTHER", 5);
	check_ea_fails(&t, "user.OTHER");

	/* As Lustre made them: no hash, but the way back to the owner. */
	ea_write(&t, name, 5000, false);
	ea->i_atime = le32_make(1);
	ea->i_mtime = le32_make(XATTR_INO);
	toy_reopen(&t);
	ip = get(&t, XATTR_INO);
	check_get(ip, full, blk_at(&t, 10000), 5000);
	inode_put(ip);
	toy_free(&t);
}

static void test_acl(void **state)
{
	static const uint8_t disk[] = {
		1, 0, 0, 0, 1, 0, 6,  0, 2, 0, 7,  0, 0xE8, 3, 0,  0, 4, 0,
		4, 0, 8, 0, 4, 0, 77, 0, 0, 0, 16, 0, 7,    0, 32, 0, 4, 0,
	};
	static const uint8_t want[] = {
		2,  0, 0, 0, 1,	  0,   6,   0,	 255, 255, 255, 255, 2,	  0,   7,   0,	 0xE8, 3,
		0,  0, 4, 0, 4,	  0,   255, 255, 255, 255, 8,	0,   4,	  0,   77,  0,	 0,    0,
		16, 0, 7, 0, 255, 255, 255, 255, 32,  0,   4,	0,   255, 255, 255, 255,
	};
	uint8_t buf[100], bad[sizeof(disk)];
	size_t size = 4711;
	struct toy t = { 0 };
	struct inode *ip;
	struct row row;

	assert_int_equal(acl_from_disk(disk, sizeof(disk), NULL, 0, &size), 0);
	assert_int_equal(size, sizeof(want));
	assert_int_equal(acl_from_disk(disk, sizeof(disk), buf, sizeof(want), &size), 0);
	assert_int_equal(size, sizeof(want));
	assert_memory_equal(buf, want, sizeof(want));
	size = 4711;
	assert_int_equal(acl_from_disk(disk, sizeof(disk), buf, sizeof(want) - 1, &size), -ERANGE);
	/* Cut off anywhere: an error, but at the borders of entries, and the empty one is none. */
	for (size_t cut = 0; cut < sizeof(disk); cut++) {
		bool border = cut == 8 || cut == 16 || cut == 20 || cut == 28 || cut == 32;
		int err = acl_from_disk(disk, cut, buf, sizeof(buf), &size);

		assert_int_equal(err, cut == 4 ? -ENODATA : border ? 0 : -EFSCORRUPTED);
	}
	memcpy(bad, disk, sizeof(bad));
	bad[0] = 2; /* no such version */
	assert_int_equal(acl_from_disk(bad, sizeof(bad), buf, sizeof(buf), &size), -EFSCORRUPTED);
	bad[0] = 1;
	bad[4] = 3; /* no such tag */
	assert_int_equal(acl_from_disk(bad, sizeof(bad), buf, sizeof(buf), &size), -EFSCORRUPTED);

	/* By its name. */
	toy_format(&t);
	row = body_row(new_inode(&t, XATTR_INO, REG, 0, 0));
	row_add(&row, EXT4_XATTR_INDEX_POSIX_ACL_ACCESS, "", disk, sizeof(disk));
	toy_open(&t);
	ip = get(&t, XATTR_INO);
	check_list(ip, "system.posix_acl_access", 24);
	check_get(ip, "system.posix_acl_access", want, sizeof(want));
	assert_int_equal(xattr_get(ip, "system.posix_acl_default", NULL, 0, &size), -ENODATA);
	inode_put(ip);
	toy_free(&t);
}

/* ---- inline data ----------------------------------------------------------------------------- */

#define INLINE_INO 40u

static void inline_write(struct toy *t, uint32_t ino, uint16_t mode, uint64_t size,
			 const uint8_t *data, uint32_t value_bytes)
{
	struct ext4_inode *raw = new_inode(t, ino, mode, EXT4_INLINE_DATA_FL, size);
	struct row row = body_row(raw);

	memcpy(raw->i_block, data, EXT4_I_BLOCK_BYTES);
	row_add(&row, EXT4_XATTR_INDEX_SYSTEM, "data", data + EXT4_I_BLOCK_BYTES, value_bytes);
}

static void test_inline(void **state)
{
	static const uint32_t sizes[] = { 0, 1, 59, 60, 61, 63, 64, 100 };
	uint8_t data[200], got[200], want[200];
	struct toy t = { 0 };
	struct inode *ip;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i + 1);
	toy_format(&t);
	toy_open(&t);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint32_t size = sizes[i];

		inline_write(&t, INLINE_INO, REG, size, data, size > 60 ? size - 60 : 0);
		toy_reopen(&t);
		ip = get(&t, INLINE_INO);
		memset(want, 0, sizeof(want));
		memcpy(want, data, size);
		for (uint32_t from = 0; from < 110; from++)
			for (uint32_t bytes = 0; bytes <= 90; bytes += 1 + bytes / 4) {
				memset(got, 0xAA, sizeof(got));
				assert_int_equal(inline_read(ip, from, got, bytes), 0);
				assert_memory_equal(got, want + from, bytes);
				assert_int_equal(got[bytes], 0xAA);
			}
		inode_put(ip);
	}
	/* Room for less than the size, as mke2fs -d leaves it: the rest is zeros. */
	inline_write(&t, INLINE_INO, REG, 90, data, 4);
	toy_reopen(&t);
	ip = get(&t, INLINE_INO);
	memset(want, 0, sizeof(want));
	memcpy(want, data, 64);
	assert_int_equal(inline_read(ip, 0, got, 100), 0);
	assert_memory_equal(got, want, 100);
	inode_put(ip);
	/* No attribute; both kinds of map at once: refused. */
	inline_write(&t, INLINE_INO, REG, 10, data, 0);
	((uint8_t *)inode_at(&t, INLINE_INO))[128 + EXTRA + 4 + 16] = 'D';
	toy_reopen(&t);
	assert_int_equal(inode_get(t.fs, INLINE_INO, &ip), -EFSCORRUPTED);
	toy_free(&t);
}

/* ---- directories ----------------------------------------------------------------------------- */

#define DIR_INO 50u
#define PARENT_INO 51u
#define NAMES_MAX 700

struct name {
	char text[EXT4_NAME_LEN + 1];
	uint32_t ino;
	uint8_t type;
	struct dir_hash hash;
};

struct names {
	struct name *name;
	size_t count;
};

static struct name *names_add(struct names *names, const char *text)
{
	struct name *n = &names->name[names->count];

	assert_true(names->count < NAMES_MAX);
	snprintf(n->text, sizeof(n->text), "%s", text);
	n->ino = 60 + (uint32_t)names->count % 60;
	n->type = (uint8_t)(names->count % 8);
	names->count++;
	return n;
}

static struct names names_make(size_t count)
{
	struct names names = { calloc(NAMES_MAX, sizeof(struct name)), 0 };
	char text[EXT4_NAME_LEN + 1];

	assert_non_null(names.name);
	for (size_t i = 0; i < count; i++) {
		int len = snprintf(text, sizeof(text), "%zu\303\251%c", i, (int)(rnd() % 255 + 1));

		if (text[len - 1] == '/')
			text[len - 1] = 'x';
		if (i % 10 == 9) {
			memset(text + len, 'y', i % 200);
			text[(size_t)len + i % 200] = '\0';
		}
		names_add(&names, text);
	}
	return names;
}

/*
 * Puts an entry at @at of a row that ends at @end, the record filling all of it; the place behind.
 */
static uint8_t *dirent_write(uint8_t *at, const uint8_t *end, const char *name, uint32_t ino,
			     uint8_t type)
{
	struct ext4_dir_entry_2 *de = (void *)at;
	size_t len = strlen(name);

	assert_true(at + EXT4_DIR_ENTRY_BYTES(len) <= end);
	de->inode = le32_make(ino);
	de->rec_len = le16_make((uint16_t)(end - at));
	de->name_len = (uint8_t)len;
	de->file_type = type;
	memcpy(de->name, name, len);
	return at + EXT4_DIR_ENTRY_BYTES(len);
}

/*
 * Writes names from @next on until @row is full or @max are in; some space stays behind deleted
 * entries.
 */
static size_t row_write(uint8_t *row, uint32_t bytes, bool dots, const struct names *names,
			size_t next, size_t max)
{
	const uint8_t *end = row + bytes;
	uint8_t *at = row, *last = NULL;

	memset(row, 0, bytes);
	if (dots) {
		dirent_write(at, end, ".", DIR_INO, EXT4_FT_DIR);
		((struct ext4_dir_entry_2 *)(void *)at)->rec_len = le16_make(12);
		at += 12;
		last = at;
		at = dirent_write(at, end, "..", PARENT_INO, EXT4_FT_DIR);
	}
	for (; max > 0 && next < names->count; next++, max--) {
		const struct name *n = &names->name[next];
		bool hole = bytes == BLOCK && rnd() % 8 == 0; /* a deleted entry before it */
		uint32_t need = EXT4_DIR_ENTRY_BYTES(strlen(n->text));

		if (hole)
			need += 16;
		if (at + need > end)
			break;
		if (last)
			((struct ext4_dir_entry_2 *)(void *)last)->rec_len = le16_make(
				(uint16_t)(at - last));
		if (hole) {
			dirent_write(at, end, "deleted", 0, 1);
			((struct ext4_dir_entry_2 *)(void *)at)->rec_len = le16_make(16);
			at += 16;
		}
		last = at;
		at = dirent_write(at, end, n->text, n->ino, n->type);
	}
	if (!last)
		((struct ext4_dir_entry_2 *)(void *)row)->rec_len = le16_make((uint16_t)bytes);
	return next;
}

/* The blocks of a directory lie in a row. */
static struct ext4_inode *dir_inode(struct toy *t, uint32_t flags, uint32_t first, uint32_t blocks)
{
	const struct map_ext where = { 0, blocks, first, MAP_WRITTEN };
	struct ext4_inode *raw = new_inode(t, DIR_INO, DIR, flags | EXT4_EXTENTS_FL,
					   (uint64_t)blocks * BLOCK);

	tree_write(t, raw, &where, 1, 0, 4, 0);
	return raw;
}

static void dir_write_linear(struct toy *t, const struct names *names)
{
	uint32_t first = t->free_blk;
	size_t next = 0;

	do {
		uint32_t blk = new_blk(t);

		next = row_write(blk_at(t, blk), BLOCK, blk == first, names, next, SIZE_MAX);
	} while (next < names->count);
	dir_inode(t, 0, first, t->free_blk - first);
}

static void dir_write_inline(struct toy *t, const struct names *names)
{
	uint8_t data[EXT4_I_BLOCK_BYTES + 60] = { 0 };
	le32 parent = le32_make(PARENT_INO);
	size_t next;

	memcpy(data, &parent, sizeof(parent));
	next = row_write(data + 4, 56, false, names, 0, SIZE_MAX);
	next = row_write(data + 60, 60, false, names, next, SIZE_MAX);
	assert_int_equal(next, names->count);
	inline_write(t, DIR_INO, DIR, sizeof(data), data, 60);
}

static int name_by_hash(const void *a, const void *b)
{
	const struct name *l = a, *r = b;
	int diff = (l->hash.major > r->hash.major) - (l->hash.major < r->hash.major);

	return diff != 0 ? diff : strcmp(l->text, r->text);
}

/* A node over @count blocks: fills @entries and leaves the hashes alone. */
static void dx_write(struct dx_entry *entries, const struct dx_entry *below, size_t count,
		     uint32_t limit)
{
	struct dx_countlimit cl = { le16_make((uint16_t)limit), le16_make((uint16_t)count) };

	assert_true(count <= limit);
	memcpy(entries, below, count * sizeof(*below));
	memcpy(&entries[0], &cl, sizeof(cl));
}

/*
 * A hash tree of @levels with few names a leaf and few entries a node; names that share their hash
 * are split over leaves.
 */
static void dir_write_tree(struct toy *t, struct names *names, uint8_t version, uint32_t levels)
{
	struct dx_entry below[NAMES_MAX];
	uint32_t first = new_blk(t), seeds[4];
	struct dx_root *root = blk_at(t, first);
	size_t count = 0, next = 0;

	for (unsigned i = 0; i < 4; i++)
		seeds[i] = le32_get(super_at(t)->s_hash_seed[i]);
	for (size_t i = 0; i < names->count; i++)
		assert_int_equal(dir_hash(version, seeds, names->name[i].text,
					  strlen(names->name[i].text), &names->name[i].hash),
				 0);
	qsort(names->name, names->count, sizeof(*names->name), name_by_hash);
	while (next < names->count) {
		uint32_t hash = count == 0 ? 0 : names->name[next].hash.major, blk = new_blk(t);

		if (next > 0 && names->name[next - 1].hash.major == hash)
			hash |= 1;
		below[count++] = (struct dx_entry){ le32_make(hash), le32_make(blk - first) };
		next = row_write(blk_at(t, blk), BLOCK, false, names, next, 1 + rnd() % 5);
	}
	for (uint32_t level = 1; level < levels; level++) {
		size_t nodes = 0;

		for (size_t i = 0; i < count; nodes++) {
			size_t n = min_size(1 + rnd() % 9, count - i);
			uint32_t blk = new_blk(t);
			struct dx_node *node = blk_at(t, blk);

			node->fake.rec_len = le16_make(BLOCK);
			dx_write(node->entries, below + i, n, (BLOCK - 8) / 8);
			below[nodes] = (struct dx_entry){ below[i].hash, le32_make(blk - first) };
			i += n;
		}
		count = nodes;
	}
	row_write((uint8_t *)root, BLOCK, true, names, 0, 0);
	root->info = (struct dx_root_info){ .hash_version = (uint8_t)(version % 3),
					    .info_length = 8,
					    .indirect_levels = (uint8_t)(levels - 1) };
	dx_write(root->entries, below, count, (BLOCK - 32) / 8);
	dir_inode(t, EXT4_INDEX_FL, first, t->free_blk - first);
}

/* Index of the name, or SIZE_MAX. */
static size_t name_index(const struct names *names, const struct uext4_dirent *e)
{
	for (size_t i = 0; i < names->count; i++)
		if (strlen(names->name[i].text) == e->name_len &&
		    memcmp(names->name[i].text, e->name, e->name_len) == 0)
			return i;
	return SIZE_MAX;
}

static void check_entry(const struct names *names, const struct uext4_dirent *e, size_t position,
			uint8_t *seen)
{
	size_t i;

	assert_int_equal(e->name[e->name_len], 0);
	assert_int_equal(e->cookie >> 63, 0);
	if (position < 2) {
		assert_string_equal(e->name, position == 0 ? "." : "..");
		assert_int_equal(e->ino, position == 0 ? DIR_INO : PARENT_INO);
		assert_int_equal(e->cookie, position + 1);
		return;
	}
	i = name_index(names, e);
	assert_true(i != SIZE_MAX);
	assert_int_equal(seen[i], 0);
	seen[i] = 1;
	assert_int_equal(e->ino, names->name[i].ino);
	assert_int_equal(e->type, names->name[i].type);
}

/* Lists all in steps of @step; the cookies, "." and ".." included, into @cookies. */
static void check_listing(struct inode *ip, const struct names *names, size_t step,
			  uint64_t *cookies)
{
	struct uext4_dirent *entries = calloc(step, sizeof(*entries));
	uint8_t *seen = calloc(names->count + 1, 1);
	uint64_t cookie = 0;
	struct dir_cursor *dc;
	size_t got, total = 0;

	assert_int_equal(dir_cursor_create(ip, &dc), 0);
	for (;;) {
		int err = dir_cursor_read(dc, cookie, entries, step, &got);

		if (err < 0)
			print_error("%s\n", diag_text());
		assert_int_equal(err, 0);
		if (got == 0)
			break;
		assert_true(got <= step);
		for (size_t i = 0; i < got; i++) {
			assert_true(entries[i].cookie > cookie);
			cookie = entries[i].cookie;
			assert_true(total < names->count + 2);
			check_entry(names, &entries[i], total, seen);
			cookies[total++] = cookie;
		}
	}
	assert_int_equal(total, names->count + 2);
	/* The end stays the end. */
	assert_int_equal(dir_cursor_read(dc, INT64_MAX, entries, step, &got), 0);
	assert_int_equal(got, 0);
	assert_int_equal(dir_cursor_read(dc, UINT64_MAX, entries, step, &got), 0);
	assert_int_equal(got, 0);
	dir_cursor_destroy(dc);
	free(entries);
	free(seen);
}

/* Wherever a listing is taken up, and with whatever cursor, the next entry is the same. */
static void check_cookies(struct inode *ip, const uint64_t *cookies, size_t count)
{
	struct dir_cursor *dc, *fresh;
	struct uext4_dirent e;
	size_t got;

	assert_int_equal(dir_cursor_create(ip, &dc), 0);
	for (size_t n = 0; n < count; n++) {
		size_t i = (size_t)(rnd() % count);

		assert_int_equal(dir_cursor_read(dc, i == 0 ? 0 : cookies[i - 1], &e, 1, &got), 0);
		assert_int_equal(got, 1);
		assert_int_equal(e.cookie, cookies[i]);
		/* A cookie between two entries stands for nobody any more. */
		assert_int_equal(dir_cursor_read(dc, cookies[i] - 1, &e, 1, &got), 0);
		assert_int_equal(e.cookie, cookies[i]);
		if (n % 16)
			continue;
		assert_int_equal(dir_cursor_create(ip, &fresh), 0);
		assert_int_equal(dir_cursor_read(fresh, i == 0 ? 0 : cookies[i - 1], &e, 1, &got),
				 0);
		assert_int_equal(e.cookie, cookies[i]);
		dir_cursor_destroy(fresh);
	}
	dir_cursor_destroy(dc);
}

static void check_lookups(struct inode *ip, const struct names *names)
{
	uint32_t ino;

	for (size_t i = 0; i < names->count; i++) {
		const struct name *n = &names->name[i];
		char other[EXT4_NAME_LEN + 2];
		int err = dir_find(ip, n->text, strlen(n->text), &ino);

		if (err < 0)
			print_error("%s: %s\n", n->text, diag_text());
		assert_int_equal(err, 0);
		assert_int_equal(ino, n->ino);
		snprintf(other, sizeof(other), "%s~", n->text);
		if (strlen(other) <= EXT4_NAME_LEN)
			assert_int_equal(dir_find(ip, other, strlen(other), &ino), -ENOENT);
	}
	assert_int_equal(dir_find(ip, ".", 1, &ino), 0);
	assert_int_equal(ino, DIR_INO);
	assert_int_equal(dir_find(ip, "..", 2, &ino), 0);
	assert_int_equal(ino, PARENT_INO);
	assert_int_equal(dir_find(ip, "deleted", 7, &ino), -ENOENT);
}

static void check_dir(struct toy *t, const struct names *names)
{
	static const size_t steps[] = { 1, 2, 3, 7, 64, 1000 };
	uint64_t *first = calloc(names->count + 2, sizeof(*first));
	uint64_t *again = calloc(names->count + 2, sizeof(*again));
	struct inode *ip = get(t, DIR_INO);

	check_lookups(ip, names);
	check_listing(ip, names, 1, first);
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		check_listing(ip, names, steps[i], again);
		assert_memory_equal(first, again, (names->count + 2) * sizeof(*first));
	}
	check_cookies(ip, first, names->count + 2);
	inode_put(ip);
	free(first);
	free(again);
}

static void test_dir_linear(void **state)
{
	static const size_t counts[] = { 0, 1, 10, 300 };

	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		struct names names = names_make(counts[i]);
		struct toy t = { 0 };

		toy_format(&t);
		dir_write_linear(&t, &names);
		toy_open(&t);
		check_dir(&t, &names); /* with dir_index: in order of hashes if it is one block */
		super_at(&t)->s_feature_compat = le32_make(0);
		toy_reopen(&t);
		check_dir(&t, &names);
		toy_free(&t);
		free(names.name);
	}
}

static void test_dir_inline(void **state)
{
	static const char *const some[] = { "a", "bb", "ccc", "ddddd", "e", "f" };

	for (size_t count = 0; count <= ARRAY_SIZE(some); count++) {
		struct names names = names_make(0);
		struct toy t = { 0 };

		for (size_t i = 0; i < count; i++)
			names_add(&names, some[i]);
		toy_format(&t);
		dir_write_inline(&t, &names);
		toy_open(&t);
		check_dir(&t, &names);
		super_at(&t)->s_feature_compat = le32_make(0);
		toy_reopen(&t);
		check_dir(&t, &names);
		toy_free(&t);
		free(names.name);
	}
}

static void test_dir_tree(void **state)
{
	for (uint32_t levels = 1; levels <= HTREE_LEVELS_MAX; levels++) {
		for (uint8_t version = DX_HASH_LEGACY; version <= DX_HASH_TEA_UNSIGNED; version++) {
			struct names names = names_make(levels == 1 ? 60 : 600);
			struct toy t = { 0 };

			toy_format(&t);
			if (version >= DX_HASH_LEGACY_UNSIGNED)
				super_at(&t)->s_flags = le32_make(EXT4_FLAGS_UNSIGNED_HASH);
			dir_write_tree(&t, &names, version, levels);
			toy_open(&t);
			check_dir(&t, &names);
			toy_free(&t);
			free(names.name);
		}
	}
}

/* Names with the same legacy hash, which then fill several leaves, amid others. */
static const char *const colliding[] = {
	"ncW6XFA", "ndwkmq0", "neuNuyc", "neA9pLo", "nixI64z", "njbagB-", "nkUYosX", "nneBJUq",
	"nnKQB0g", "npk7W7Q", "nrOfl6l", "nskXo14", "nwl3ZHr", "ny4j5Oi", "nz9RVdE", "nCxNX0T",
	"nC_Pay6", "nEfaQKr", "nGnWUju", "nGBhgG7", "nH2Ae0O", "nJM6vFW", "nM85Huo", "nQDGJ8f",
};

/* The cookie of each name, from one listing. */
static void list_cookies(struct toy *t, const struct names *names, uint64_t *cookies)
{
	struct inode *ip = get(t, DIR_INO);
	struct uext4_dirent e;
	struct dir_cursor *dc;
	uint64_t cookie = 2;
	size_t got;

	assert_int_equal(dir_cursor_create(ip, &dc), 0);
	for (;;) {
		assert_int_equal(dir_cursor_read(dc, cookie, &e, 1, &got), 0);
		if (got == 0)
			break;
		cookie = e.cookie;
		cookies[name_index(names, &e)] = cookie;
	}
	dir_cursor_destroy(dc);
	inode_put(ip);
}

/*
 * A cookie depends on the name and on nothing else: not on other names of that hash, not on the
 * layout.
 */
static void test_dir_cookies_stable(void **state)
{
	for (uint8_t version = DX_HASH_LEGACY; version <= DX_HASH_TEA; version++) {
		struct names names = names_make(60);
		uint64_t *first = calloc(NAMES_MAX, sizeof(*first));
		uint64_t *again = calloc(NAMES_MAX, sizeof(*again));
		struct toy t = { 0 };

		for (size_t i = 0; i < ARRAY_SIZE(colliding); i++)
			names_add(&names, colliding[i]);
		toy_format(&t);
		super_at(&t)->s_def_hash_version = version;
		dir_write_tree(&t, &names, version,
			       2); /* sorts them by hash, so equal ones are neighbours */
		toy_open(&t);
		list_cookies(&t, &names, first);
		while (names.count > 10) {
			/*
			 * The first one goes, then they fit into fewer blocks, in the end into one.
			 */
			names.count--;
			memmove(&names.name[0], &names.name[1],
				names.count * sizeof(names.name[0]));
			memmove(&first[0], &first[1], names.count * sizeof(first[0]));
			if (names.count % 8 != 2)
				continue;
			t.free_blk = FIRST_FREE;
			if (names.count > 10)
				dir_write_tree(&t, &names, version, names.count > 30 ? 3 : 1);
			else
				dir_write_linear(&t, &names);
			toy_reopen(&t);
			list_cookies(&t, &names, again);
			assert_memory_equal(first, again, names.count * sizeof(first[0]));
		}
		toy_free(&t);
		free(names.name);
		free(first);
		free(again);
	}
}

static void test_dir_collisions(void **state)
{
	for (uint32_t levels = 1; levels <= HTREE_LEVELS_MAX; levels++) {
		for (unsigned round = 0; round < 20; round++) {
			struct names names = names_make(round * 7 % 60);
			struct toy t = { 0 };

			for (size_t i = 0; i < ARRAY_SIZE(colliding); i++)
				names_add(&names, colliding[i]);
			toy_format(&t);
			dir_write_tree(&t, &names, DX_HASH_LEGACY, levels);
			toy_open(&t);
			check_dir(&t, &names);
			toy_free(&t);
			free(names.name);
		}
	}
}

/* The same name twice, which only damage makes: each is listed, with a cookie of its own. */
static void test_dir_same_cookie(void **state)
{
	struct names names = names_make(3);
	struct uext4_dirent e[10];
	struct dir_cursor *dc;
	struct toy t = { 0 };
	struct inode *ip;
	uint64_t cookie = 0;
	size_t got, total = 0, twins = 0;

	for (size_t i = 0; i < 3; i++)
		names_add(&names, "twin");
	toy_format(&t);
	dir_write_linear(&t, &names);
	toy_open(&t);
	ip = get(&t, DIR_INO);
	assert_int_equal(dir_cursor_create(ip, &dc), 0);
	for (;;) {
		assert_int_equal(dir_cursor_read(dc, cookie, e, 1, &got), 0);
		if (got == 0)
			break;
		assert_true(e[0].cookie > cookie);
		cookie = e[0].cookie;
		twins += strcmp(e[0].name, "twin") == 0;
		total++;
	}
	assert_int_equal(total, 8);
	assert_int_equal(twins, 3);
	dir_cursor_destroy(dc);
	inode_put(ip);
	toy_free(&t);
	free(names.name);
}

/* Gives the last two ranges of @node the same hash; false: it has too few. */
static bool node_spoil(struct dx_node *node)
{
	const struct dx_countlimit *cl = (const void *)node->entries;
	uint16_t count = le16_get(cl->count);

	if (count < 3)
		return false;
	node->entries[count - 1].hash = node->entries[count - 2].hash;
	return true;
}

/*
 * A hash that is not known: searched and listed as if there were no tree.  Damage to the tree is
 * told.
 */
static void test_dir_tree_odd(void **state)
{
	struct names names = names_make(200);
	struct dx_root *root;
	struct dx_node *node;
	struct uext4_dirent e[4];
	struct dir_cursor *dc;
	struct toy t = { 0 };
	struct inode *ip;
	uint32_t ino, spoilt = 0;
	uint64_t cookie = 0;
	size_t got;
	le32 node0;
	int err;

	toy_format(&t);
	dir_write_tree(&t, &names, DX_HASH_HALF_MD4, 2);
	root = blk_at(&t, FIRST_FREE);
	root->info.hash_version = DX_HASH_SIPHASH;
	toy_open(&t);
	check_dir(&t, &names);

	root->info.hash_version = DX_HASH_HALF_MD4;
	node0 = root->entries[0].block;
	root->entries[0].block = le32_make(0x00FFFFFF); /* outside of the directory */
	toy_reopen(&t);
	ip = get(&t, DIR_INO);
	assert_int_equal(dir_find(ip, names.name[0].text, strlen(names.name[0].text), &ino),
			 -EFSCORRUPTED);
	assert_int_equal(dir_cursor_create(ip, &dc), 0);
	assert_int_equal(dir_cursor_read(dc, 0, e, 4, &got), 0);
	assert_int_equal(got, 2); /* "." and ".."; then the error */
	assert_int_equal(dir_cursor_read(dc, e[1].cookie, e, 4, &got), -EFSCORRUPTED);
	dir_cursor_destroy(dc);
	inode_put(ip);

	/* Two ranges that begin with the same hash: one of them would never be come to. */
	root->entries[0].block = node0;
	for (node = blk_at(&t, FIRST_FREE + le32_get(node0)); !node_spoil(node);)
		node = blk_at(&t, FIRST_FREE + le32_get(root->entries[++spoilt].block));
	toy_reopen(&t);
	ip = get(&t, DIR_INO);
	assert_int_equal(dir_cursor_create(ip, &dc), 0);
	for (err = 0, got = 1; err == 0 && got == 1; cookie = e[0].cookie)
		err = dir_cursor_read(dc, cookie, e, 1, &got);
	assert_int_equal(err, -EFSCORRUPTED);
	assert_non_null(strstr(diag_text(), "out of order"));
	dir_cursor_destroy(dc);
	inode_put(ip);

	/* One leaf in two places: in one of them its names have the wrong hashes. */
	node->entries[1].block = node->entries[2].block;
	toy_reopen(&t);
	ip = get(&t, DIR_INO);
	assert_int_equal(dir_cursor_create(ip, &dc), 0);
	for (cookie = 0, err = 0, got = 1; err == 0 && got == 1; cookie = e[0].cookie)
		err = dir_cursor_read(dc, cookie, e, 1, &got);
	assert_int_equal(err, -EFSCORRUPTED);
	assert_non_null(strstr(diag_text(), "a name with hash"));
	dir_cursor_destroy(dc);
	inode_put(ip);
	toy_free(&t);
	free(names.name);
}

static struct fc_dirent *fc_dirent_new(struct fc_inode *fc, const char *name, uint32_t ino,
				       uint8_t type)
{
	size_t len = strlen(name);
	struct fc_dirent *said = calloc(1, sizeof(*said) + len);

	assert_non_null(said);
	said->ino = ino;
	said->type = type;
	said->name_len = (uint8_t)len;
	memcpy(said->name, name, len);
	list_add_tail(&fc->dirents, &said->link);
	return said;
}

static void fc_finish(struct fc_inode *fc)
{
	list_for_each_safe(pos, &fc->dirents)
		free(list_entry(pos, struct fc_dirent, link));
}

/* Every third name was removed, every fifth leads elsewhere, and some are new. */
static void fc_change(struct fc_inode *fc, struct names *names)
{
	size_t kept = 0, count = names->count;
	char text[30];

	for (size_t i = 0; i < count; i++) {
		struct name *n = &names->name[i];

		if (i % 3 == 0) {
			fc_dirent_new(fc, n->text, 0, 0);
			continue;
		}
		if (i % 5 == 0) {
			n->ino = 99;
			n->type = 1;
			fc_dirent_new(fc, n->text, n->ino, n->type);
		}
		names->name[kept++] = *n;
	}
	names->count = kept;
	for (int i = 0; i < 20; i++) {
		struct name *n;

		snprintf(text, sizeof(text), "new%d", i);
		n = names_add(names, text);
		fc_dirent_new(fc, n->text, n->ino, n->type);
	}
}

static void test_dir_fast_commit(void **state)
{
	for (unsigned kind = 0; kind < 5; kind++) {
		struct names names = names_make(kind == 0 ? 0 : kind == 1 ? 15 : 300);
		struct fc_inode fc = { .ino = DIR_INO };
		struct toy t = { 0 };
		struct inode *ip;
		uint32_t ino;

		for (size_t i = 0; kind == 4 && i < ARRAY_SIZE(colliding); i++)
			names_add(&names, colliding[i]);
		list_init(&fc.dirents);
		toy_format(&t);
		if (kind >= 3)
			dir_write_tree(&t, &names, kind == 3 ? DX_HASH_TEA : DX_HASH_LEGACY, 2);
		else
			dir_write_linear(&t, &names);
		toy_open(&t);
		ip = get(&t, DIR_INO);
		ip->fc = &fc;
		fc_change(&fc, &names);
		if (kind == 0) {
			/* Made by a fast commit: no block, but "..". */
			fc.has_extents = true;
			fc_dirent_new(&fc, "..", PARENT_INO, 2);
		}
		check_dir(&t, &names);
		if (kind > 0) {
			char gone[EXT4_NAME_LEN + 1];
			const struct fc_dirent *said = list_entry(fc.dirents.next, struct fc_dirent,
								  link);

			memcpy(gone, said->name, said->name_len);
			assert_int_equal(dir_find(ip, gone, said->name_len, &ino), -ENOENT);
		}
		ip->fc = NULL;
		inode_put(ip);
		toy_free(&t);
		fc_finish(&fc);
		free(names.name);
	}
}

/* ---- everything at once ---------------------------------------------------------------------- */

#define SWEEP_DIR 52u /* inodes in use: see below */

/* A file system with some of everything above, in as few blocks as it takes. */
static void toy_of_everything(struct toy *t)
{
	struct names names = names_make(150), few = names_make(0);
	struct map_ext table[40];
	struct ext4_inode *raw;
	uint8_t data[200];
	struct row row;

	toy_format(t);
	ea_write(t, "big", 3000, false);
	raw = inode_at(t, XATTR_INO);
	row = block_row(t, raw);
	row_add(&row, EXT4_XATTR_INDEX_USER, "in a block", "0123456789", 10);
	row_add(&row, EXT4_XATTR_INDEX_POSIX_ACL_ACCESS, "", "\1\0\0\0\1\0\6\0", 8);
	memset(data, 'i', sizeof(data));
	inline_write(t, INLINE_INO, REG, 90, data, 30);
	table_fill(table, 40);
	tree_write(t, new_inode(t, EXT_INO, REG, EXT4_EXTENTS_FL, BLOCK), table, 40, 3, 3, 1);
	raw = new_inode(t, IND_INO, REG, 0, BLOCK);
	pointer_set(t, raw, 3, DATA_BLK);
	pointer_set(t, raw, 15, DATA_BLK + 1);
	pointer_set(t, raw, 400, DATA_BLK + 2);
	pointer_set(t, raw, 70000, DATA_BLK + 3);
	dir_write_tree(t, &names, DX_HASH_HALF_MD4, 3);
	memcpy(inode_at(t, SWEEP_DIR), inode_at(t, DIR_INO), INODE_BYTES);
	dir_write_linear(t, &names);
	memcpy(inode_at(t, SWEEP_DIR + 1), inode_at(t, DIR_INO), INODE_BYTES);
	names_add(&few, "one");
	names_add(&few, "two");
	dir_write_inline(t, &few);
	free(names.name);
	free(few.name);
}

static const uint32_t everything[] = {
	EXT_INO, IND_INO, XATTR_INO, EA_INO, INLINE_INO, DIR_INO, SWEEP_DIR, SWEEP_DIR + 1,
};

/* What came of one look at all of it: the first error, and how many entries directories had. */
struct sweep {
	int err;
	size_t entries;
};

static bool sweep_note(struct sweep *s, int err)
{
	if (err < 0 && err != -ENOENT && err != -ENODATA && s->err == 0)
		s->err = err;
	return err == 0;
}

static void sweep_map(struct sweep *s, struct inode *ip)
{
	lblk_t at = 0;

	for (unsigned step = 0; step < 3000 && at < UINT32_MAX; step++) {
		struct map_ext ext;

		if (!sweep_note(s, map_read(ip, at, &ext)))
			return;
		assert_true(ext.physical + ext.count <= BLOCKS || ext.state == MAP_HOLE);
		at += ext.count;
	}
}

static void sweep_dir(struct sweep *s, struct inode *ip)
{
	struct uext4_dirent e[8];
	struct dir_cursor *dc;
	uint64_t cookie = 0;
	size_t got;

	if (!sweep_note(s, dir_cursor_create(ip, &dc)))
		return;
	while (sweep_note(s, dir_cursor_read(dc, cookie, e, ARRAY_SIZE(e), &got)) && got > 0) {
		for (size_t i = 0; i < got; i++) {
			uint32_t ino;

			assert_true(e[i].cookie > cookie);
			assert_true(e[i].name_len > 0 && !memchr(e[i].name, '/', e[i].name_len));
			cookie = e[i].cookie;
			sweep_note(s, dir_find(ip, e[i].name, e[i].name_len, &ino));
		}
		s->entries += got;
		assert_true(s->entries < 100000);
	}
	dir_cursor_destroy(dc);
}

static void sweep_xattrs(struct sweep *s, struct inode *ip)
{
	char names[4096];
	uint8_t value[8192];
	size_t size, value_size;

	if (!sweep_note(s, xattr_list(ip, names, sizeof(names), &size)))
		return;
	for (size_t at = 0; at < size; at += strlen(names + at) + 1)
		sweep_note(s, xattr_get(ip, names + at, value, sizeof(value), &value_size));
}

static struct sweep sweep(const struct toy *t)
{
	struct sweep s = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(everything); i++) {
		struct inode *ip;
		uint8_t data[300];

		if (!sweep_note(&s, inode_get(t->fs, everything[i], &ip)))
			continue;
		sweep_xattrs(&s, ip);
		if (ip->state == INODE_BLOCKS)
			sweep_map(&s, ip);
		else if (ip->state == INODE_INLINE)
			sweep_note(&s, inline_read(ip, 10, data, sizeof(data)));
		if (inode_is_dir(ip))
			sweep_dir(&s, ip);
		inode_put(ip);
	}
	return s;
}

/* A listing gives out what came before the error, and then may succeed: no error is right too. */
static void test_every_read_fails_once(void **state)
{
	uint64_t reads, failed = 0;
	struct toy t = { 0 };

	toy_of_everything(&t);
	toy_open(&t);
	assert_int_equal(sweep(&t).err, 0);
	reads = dev_bottom_stats(t.fs->dev)->reads;
	toy_close(&t);
	for (uint64_t nth = 1; nth <= reads; nth++) {
		struct sweep s;

		toy_open(&t);
		dev_fail_nth_read(t.fail, nth);
		s = sweep(&t);
		toy_close(&t);
		assert_true(s.err == 0 || s.err == -EIO);
		failed += s.err == -EIO;
	}
	assert_true(failed > 30);
	toy_free(&t);
}

static void test_every_allocation_fails_once(void **state)
{
	uint64_t allocations, failed = 0;
	struct toy t = { 0 };

	toy_of_everything(&t);
	toy_open(&t);
	mem_fail_nth(0);
	assert_int_equal(sweep(&t).err, 0);
	allocations = mem_fail_nth(0);
	toy_close(&t);
	for (uint64_t nth = 1; nth <= allocations; nth++) {
		struct sweep s;

		toy_open(&t);
		mem_fail_nth(nth);
		s = sweep(&t);
		mem_fail_nth(0);
		toy_close(&t);
		assert_true(s.err == 0 || s.err == -ENOMEM);
		failed += s.err == -ENOMEM;
	}
	assert_true(failed > 10);
	toy_free(&t);
}

/* Changes one to eight bytes of what the inodes above are made of. */
static void damage(struct toy *t)
{
	size_t first = TABLE * BLOCK, size = (t->free_blk - TABLE) * BLOCK;

	for (unsigned i = 0, n = (unsigned)(rnd() % 8) + 1; i < n; i++) {
		size_t at = first + rnd() % size;
		uint8_t *byte = t->bytes + at;

		switch (rnd() % 4) {
		case 0: *byte ^= (uint8_t)(1u << rnd() % 8); break;
		case 1: *byte = (uint8_t)rnd(); break;
		case 2: *byte = rnd() & 1 ? 0 : 255; break;
		default: /* a piece of another block */
			memmove(byte, t->bytes + first + rnd() % (size - 64),
				min_size(32, first + size - at));
		}
	}
}

static void test_damage(void **state)
{
	struct toy t = { 0 };
	unsigned failed = 0;
	uint8_t *sound;
	size_t bytes;

	toy_of_everything(&t);
	bytes = (size_t)t.free_blk * BLOCK;
	sound = malloc(bytes);
	memcpy(sound, t.bytes, bytes);
	toy_open(&t);
	assert_int_equal(sweep(&t).err, 0);
	for (unsigned round = 0; round < rounds; round++) {
		uint64_t start = seed;
		struct sweep s;

		damage(&t);
		toy_reopen(&t);
		s = sweep(&t);
		failed += s.err != 0;
		if (s.err != 0 && s.err != -EFSCORRUPTED && s.err != -ESTALE && s.err != -E2BIG &&
		    s.err != -ERANGE)
			print_error("error %d, seed %" PRIu64 ": %s\n", s.err, start, diag_text());
		assert_true(s.err == 0 || s.err == -EFSCORRUPTED || s.err == -ESTALE ||
			    s.err == -E2BIG || s.err == -ERANGE);
		memcpy(t.bytes, sound, bytes);
	}
	assert_true(rounds < 50 || failed > rounds / 10);
	free(sound);
	toy_free(&t);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hashes),
		cmocka_unit_test(test_extents),
		cmocka_unit_test(test_extent_limits),
		cmocka_unit_test(test_extent_node_shared),
		cmocka_unit_test(test_extents_of_fast_commit),
		cmocka_unit_test(test_indirect),
		cmocka_unit_test(test_indirect_empty),
		cmocka_unit_test(test_indirect_bad_pointer),
		cmocka_unit_test(test_xattrs),
		cmocka_unit_test(test_xattr_inode),
		cmocka_unit_test(test_acl),
		cmocka_unit_test(test_inline),
		cmocka_unit_test(test_dir_linear),
		cmocka_unit_test(test_dir_inline),
		cmocka_unit_test(test_dir_tree),
		cmocka_unit_test(test_dir_collisions),
		cmocka_unit_test(test_dir_cookies_stable),
		cmocka_unit_test(test_dir_same_cookie),
		cmocka_unit_test(test_dir_tree_odd),
		cmocka_unit_test(test_dir_fast_commit),
		cmocka_unit_test(test_every_read_fails_once),
		cmocka_unit_test(test_every_allocation_fails_once),
		cmocka_unit_test(test_damage),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	if (argc > 2)
		rounds = (unsigned)strtoul(argv[2], NULL, 0);
	print_message("seed %" PRIu64 ", %u rounds\n", seed, rounds);
	return cmocka_run_group_tests_name("fs", tests, NULL, NULL);
}
