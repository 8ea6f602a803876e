/* SPDX-License-Identifier: MIT */
/*
 * Extended attributes: rows of entries in inodes and blocks, the blocks that inodes share, and
 * values in inodes of their own.
 *
 * A block is read and checked when the first inode names it; each further one is counted, and once
 * all inodes were seen, h_refcount must be that number.  Inodes with values keep their number of
 * users in i_ctime and l_i_version, and a hash of the value in i_atime.
 */
#include "fs/check_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "base/sum.h"

#include <inttypes.h>

#define NAME_HASH_SHIFT 5
#define VALUE_HASH_SHIFT 16
#define SAME_NAME_MAX 256u /* entries of a row that are compared with each other */
#define VALUE_UNITS_MAX (65536u / EXT4_XATTR_PAD)

/* A verified row. */
struct row {
	struct check *ck;
	uint32_t ino;
	blk_t blk; /* 0: in the inode */
	uint32_t generation;
	const uint8_t *first, *base, *end;
};

static bool is_last(const uint8_t *at)
{
	return (at[0] | at[1] | at[2] | at[3]) == 0;
}

static const struct ext4_xattr_entry *entry_at(const uint8_t *at)
{
	return (const void *)at;
}

static const uint8_t *next_of(const uint8_t *at)
{
	return at + EXT4_XATTR_LEN(entry_at(at)->e_name_len);
}

#define row_for_each(at, row) for (const uint8_t *at = (row)->first; !is_last(at); at = next_of(at))

static void row_problem(const struct row *row, const struct ext4_xattr_entry *e, const char *what)
{
	char name[CHECK_NAME_BYTES];

	check_name(name, e->e_name, e->e_name_len);
	if (row->blk)
		check_problem(row->ck, "inode %u, xattr block %" PRIu64 ": attribute %u.\"%s\": %s",
			      row->ino, row->blk, e->e_name_index, name, what);
	else
		check_problem(row->ck, "inode %u: attribute %u.\"%s\": %s", row->ino,
			      e->e_name_index, name, what);
}

/* ---- values in other inodes ------------------------------------------------------------------ */

static int ea_entry(struct check *ck, uint32_t ino, struct check_ea_inode **ret)
{
	size_t index = (size_t)(uintptr_t)xarray_find(&ck->ea_index, ino);
	int err;

	if (index == 0) {
		err = check_grow(&ck->ea_inodes, ck->ea_inodes_count, &ck->ea_inodes_room,
				 sizeof(*ck->ea_inodes));
		if (err < 0)
			return err;
		index = ++ck->ea_inodes_count;
		ck->ea_inodes[index - 1] = (struct check_ea_inode){ .ino = ino };
		err = xarray_insert(&ck->ea_index, ino, (void *)(uintptr_t)index);
		if (err < 0)
			return err;
	}
	*ret = &ck->ea_inodes[index - 1];
	return 0;
}

/* Made by Lustre: it points back to its only user and has no hash and no count. */
static bool is_of_lustre(const struct row *row, const struct ext4_inode *raw)
{
	return le32_get(raw->i_mtime) == row->ino && le32_get(raw->i_generation) == row->generation;
}

static uint32_t entry_hash(const struct ext4_xattr_entry *e, bool is_signed)
{
	uint32_t hash = 0;

	for (uint32_t i = 0; i < e->e_name_len; i++) {
		uint8_t byte = (uint8_t)e->e_name[i];

		hash = hash << NAME_HASH_SHIFT ^ hash >> (32 - NAME_HASH_SHIFT) ^
		       (is_signed ? (uint32_t)(int8_t)byte : byte);
	}
	return hash;
}

static uint32_t hash_add(uint32_t hash, uint32_t word)
{
	return hash << VALUE_HASH_SHIFT ^ hash >> (32 - VALUE_HASH_SHIFT) ^ word;
}

/* The inode that holds the value of @e. */
static int check_value_inode(const struct row *row, const struct ext4_xattr_entry *e)
{
	struct check *ck = row->ck;
	uint32_t ino = le32_get(e->e_value_inum), value_hash;
	struct ext4_inode *raw FREE_SCOPE = mem_alloc(ck->g->inode_size);
	struct check_ea_inode *ea;
	int err;

	if (!raw)
		return -ENOMEM;
	err = ea_entry(ck, ino, &ea);
	if (err < 0)
		return err;
	ea->seen++;
	if (!check_ino_known(ck, ino) || !check_raw(ck, ino, raw))
		return 0;
	if (check_type(raw) != 0100000 || le16_get(raw->i_links_count) == 0 ||
	    !(le32_get(raw->i_flags) & EXT4_EA_INODE_FL) ||
	    check_size(ck->g, raw) != le32_get(e->e_value_size)) {
		row_problem(row, e, "its value is not where it says");
		return 0;
	}
	if (is_of_lustre(row, raw)) {
		ea->lustre = true;
		return 0;
	}
	value_hash = le32_get(raw->i_atime);
	if (le32_get(e->e_hash) != hash_add(entry_hash(e, false), value_hash) &&
	    le32_get(e->e_hash) != hash_add(entry_hash(e, true), value_hash))
		row_problem(row, e, "its hash does not fit the inode with its value");
	return 0;
}

struct value_sum {
	uint64_t left; /* bytes */
	uint32_t crc;
	lblk_t next;
	bool hole, unread;
};

static int value_extent(struct check_map *m, const struct map_ext *ext)
{
	struct value_sum *sum = m->arg;
	const struct geom *g = m->ck->g;

	if (ext->logical != sum->next || ext->state != MAP_WRITTEN)
		sum->hole = true;
	sum->next = ext->logical + ext->count;
	for (uint32_t i = 0; i < ext->count && sum->left > 0 && !sum->hole; i++) {
		size_t bytes = (size_t)min_u64(sum->left, g->block_size);

		if (!check_read(m->ck, ext->physical + i, 1, m->ck->block)) {
			sum->unread = true;
			return 0;
		}
		sum->crc = crc32c(sum->crc, m->ck->block, bytes);
		sum->left -= bytes;
	}
	return 0;
}

/* Seed of the hashes of values: that of metadata_csum, but there without it as well. */
static uint32_t value_seed(const struct uext4_fs *fs)
{
	if (geom_has_incompat(&fs->geom, EXT4_FEATURE_INCOMPAT_CSUM_SEED))
		return le32_get(fs->super.s_checksum_seed);
	return crc32c(UINT32_MAX, fs->geom.uuid, sizeof(fs->geom.uuid));
}

int check_ea_inode(struct check *ck, uint32_t ino, const struct ext4_inode *raw)
{
	struct value_sum sum = { .left = check_size(ck->g, raw), .crc = value_seed(ck->fs) };
	struct check_map m = {
		.ck = ck,
		.raw = raw,
		.vi = { .geom = ck->g, .ino = ino, .generation = le32_get(raw->i_generation) },
		.quiet = true,
		.extent = value_extent,
		.arg = &sum,
	};
	struct check_ea_inode *ea;
	int err;

	if (check_type(raw) != 0100000 || !check_has_map(ck->g, raw)) {
		check_problem(ck, "inode %u: holds the value of an attribute, but is no file", ino);
		return 0;
	}
	err = ea_entry(ck, ino, &ea);
	if (err < 0)
		return err;
	ea->refcount = (uint64_t)le32_get(raw->i_ctime) << 32 | le32_get(raw->l_i_version);
	ea->hash = le32_get(raw->i_atime);
	m.vi.csum_seed = verify_inode_seed(ck->g, ino, m.vi.generation);
	err = check_map_walk(&m);
	if (err < 0 || sum.unread || m.damaged)
		return err;
	if (sum.hole || sum.left > 0) {
		check_problem(ck, "inode %u: the value of an attribute with a hole", ino);
		return 0;
	}
	ea->read = true;
	ea->found_hash = sum.crc;
	return 0;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* The hash of an entry whose value lies beside it, padded with zeros to whole words. */
static bool hash_fits(const struct row *row, const struct ext4_xattr_entry *e)
{
	uint32_t found = le32_get(e->e_hash), words = (le32_get(e->e_value_size) + 3) / 4;
	const uint8_t *value = row->base + le16_get(e->e_value_offs);

	if (found == 0 && row->blk == 0)
		return true;
	for (unsigned is_signed = 0; is_signed < 2; is_signed++) {
		uint32_t hash = entry_hash(e, is_signed);

		for (uint32_t i = 0; i < words; i++) {
			le32 word; /* a value may begin anywhere */

			memcpy(&word, value + i * sizeof(word), sizeof(word));
			hash = hash_add(hash, le32_get(word));
		}
		if (hash == found)
			return true;
	}
	return false;
}

/* Marks the units of @e's value.  False: some were marked. */
static bool value_is_alone(uint64_t *units, const struct ext4_xattr_entry *e)
{
	uint32_t first = le16_get(e->e_value_offs) / EXT4_XATTR_PAD;
	uint32_t count = (le32_get(e->e_value_size) + EXT4_XATTR_PAD - 1) / EXT4_XATTR_PAD;
	bool alone = true;

	for (uint32_t i = first; i < first + count; i++) {
		alone &= !(units[i / 64] >> i % 64 & 1);
		units[i / 64] |= 1ull << i % 64;
	}
	return alone;
}

static int compare_names(const struct ext4_xattr_entry *a, const struct ext4_xattr_entry *b)
{
	if (a->e_name_index != b->e_name_index)
		return a->e_name_index < b->e_name_index ? -1 : 1;
	if (a->e_name_len != b->e_name_len)
		return a->e_name_len < b->e_name_len ? -1 : 1;
	return memcmp(a->e_name, b->e_name, a->e_name_len);
}

/* In a block names ascend: the kernel stops searching at the first larger one. */
static void check_order(const struct row *row)
{
	uint32_t entries = 0;

	row_for_each(at, row)
	{
		const uint8_t *behind = next_of(at);

		if (row->blk && !is_last(behind) &&
		    compare_names(entry_at(at), entry_at(behind)) >= 0)
			row_problem(row, entry_at(behind), "out of order, or there twice");
		entries++;
	}
	if (row->blk || entries > SAME_NAME_MAX)
		return;
	row_for_each(at, row)
	{
		for (const uint8_t *other = next_of(at); !is_last(other); other = next_of(other)) {
			if (compare_names(entry_at(at), entry_at(other)) == 0)
				row_problem(row, entry_at(other), "there twice");
		}
	}
}

static void check_acl(const struct row *row, const struct ext4_xattr_entry *e)
{
	size_t ignored;
	int err;

	if (e->e_name_index != EXT4_XATTR_INDEX_POSIX_ACL_ACCESS &&
	    e->e_name_index != EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT)
		return;
	err = acl_from_disk(row->base + le16_get(e->e_value_offs), le32_get(e->e_value_size), NULL,
			    0, &ignored);
	if (err < 0 && err != -ENODATA)
		row_problem(row, e, diag_text());
	diag_clear();
}

/* @weight: what the values in other inodes weigh; those in the row are part of inode or block. */
static int check_row(const struct row *row, struct check_weight *weight)
{
	const struct geom *g = row->ck->g;
	uint64_t units[VALUE_UNITS_MAX / 64] = { 0 };
	uint64_t cluster_bytes = (uint64_t)g->block_size << g->cluster_ratio_bits;
	int err;

	check_order(row);
	row_for_each(at, row)
	{
		const struct ext4_xattr_entry *e = entry_at(at);

		if (e->e_name_index == 0)
			row_problem(row, e, "there is no such kind");
		if (le32_get(e->e_value_inum) != 0) {
			err = check_value_inode(row, e);
			if (err < 0)
				return err;
			weight->clusters += div_round_up(le32_get(e->e_value_size), cluster_bytes);
			weight->ea_inodes++;
			continue;
		}
		if (le16_get(e->e_value_offs) > (size_t)(row->end - row->base))
			row_problem(row, e, "its empty value lies outside");
		if (le32_get(e->e_value_size) > 0 && !value_is_alone(units, e))
			row_problem(row, e, "its value overlaps another's");
		if (!hash_fits(row, e))
			row_problem(row, e, "its hash is wrong");
		check_acl(row, e);
	}
	return 0;
}

static int check_body(struct check *ck, uint32_t ino, const struct ext4_inode *raw,
		      struct check_weight *weight)
{
	const struct geom *g = ck->g;
	uint32_t extra = g->inode_size > EXT4_GOOD_OLD_INODE_SIZE ? le16_get(raw->i_extra_isize)
								  : 0;
	size_t at = EXT4_GOOD_OLD_INODE_SIZE + extra + sizeof(struct ext4_xattr_ibody_header);
	const uint8_t *bytes = (const uint8_t *)raw;
	const struct row row = {
		.ck = ck,
		.ino = ino,
		.generation = le32_get(raw->i_generation),
		.first = bytes + at,
		.base = bytes + at,
		.end = bytes + g->inode_size,
	};
	const struct ext4_xattr_ibody_header *h = (const void *)(bytes + at - sizeof(*h));

	if (extra == 0 || extra % 4 != 0 || at > g->inode_size ||
	    le32_get(h->h_magic) != EXT4_XATTR_MAGIC)
		return 0;
	/* What is wrong was said when the inode was verified. */
	if (verify_xattr_entries(g, ino, row.first, row.base, row.end) < 0) {
		diag_clear();
		return 0;
	}
	return check_row(&row, weight);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void check_block_hash(struct check *ck, blk_t blk, const uint8_t *data)
{
	const struct ext4_xattr_header *h = (const void *)data;
	uint32_t hash = 0;

	for (const uint8_t *at = (const uint8_t *)(h + 1); !is_last(at); at = next_of(at)) {
		if (le32_get(entry_at(at)->e_hash) == 0) {
			hash = 0;
			break;
		}
		hash = hash_add(hash, le32_get(entry_at(at)->e_hash));
	}
	if (le32_get(h->h_hash) != 0 && le32_get(h->h_hash) != hash)
		check_problem(ck, "xattr block %" PRIu64 ": hash is %08x, should be %08x", blk,
			      le32_get(h->h_hash), hash);
}

/* A block that no inode named before, into its entry. */
static int check_new_block(struct check *ck, uint32_t ino, const struct ext4_inode *raw,
			   struct check_xattr_block *entry)
{
	const struct ext4_xattr_header *h = (const void *)ck->block;
	const struct row row = {
		.ck = ck,
		.ino = ino,
		.blk = entry->blk,
		.generation = le32_get(raw->i_generation),
		.first = (const uint8_t *)(h + 1),
		.base = ck->block,
		.end = ck->block + ck->g->block_size,
	};
	struct check_weight weight = { 0 };
	bool shared;
	int err;

	err = check_claim(ck, entry->blk, 1, false, &shared);
	if (err < 0 || shared)
		return err;
	if (!check_read(ck, entry->blk, 1, ck->block))
		return 0;
	entry->refcount = le32_get(h->h_refcount);
	err = verify_xattr_block(ck->g, ck->block, entry->blk);
	if (err < 0) {
		check_problem(ck, "inode %u: %s", ino, diag_text());
		diag_clear();
		return 0;
	}
	check_block_hash(ck, entry->blk, ck->block);
	err = check_row(&row, &weight);
	entry->ea_blocks = weight.clusters;
	entry->ea_inodes = weight.ea_inodes;
	return err;
}

static int check_block(struct check *ck, uint32_t ino, const struct ext4_inode *raw, blk_t blk,
		       struct check_weight *weight)
{
	size_t index = (size_t)(uintptr_t)xarray_find(&ck->xattr_index, blk);
	struct check_xattr_block *entry;
	int err;

	if (index == 0) {
		err = check_grow(&ck->xattr_blocks, ck->xattr_blocks_count, &ck->xattr_blocks_room,
				 sizeof(*ck->xattr_blocks));
		if (err < 0)
			return err;
		index = ++ck->xattr_blocks_count;
		ck->xattr_blocks[index - 1] = (struct check_xattr_block){ .blk = blk };
		err = xarray_insert(&ck->xattr_index, blk, (void *)(uintptr_t)index);
		if (err == 0)
			err = check_new_block(ck, ino, raw, &ck->xattr_blocks[index - 1]);
		if (err < 0)
			return err;
	}
	entry = &ck->xattr_blocks[index - 1];
	entry->seen++;
	weight->clusters += 1 + entry->ea_blocks;
	weight->ea_inodes += entry->ea_inodes;
	return 0;
}

int check_xattrs(struct check *ck, uint32_t ino, const struct ext4_inode *raw,
		 struct check_weight *ret)
{
	blk_t blk = check_file_acl(ck->g, raw);
	int err;

	err = check_body(ck, ino, raw, ret);
	/* A block outside was said when the inode was verified. */
	if (err < 0 || blk <= ck->g->first_data_block || blk >= ck->g->blocks)
		return err;
	return check_block(ck, ino, raw, blk, ret);
}

/* ---- counts ---------------------------------------------------------------------------------- */

int check_xattr_counts(struct check *ck)
{
	for (size_t i = 0; i < ck->xattr_blocks_count; i++) {
		const struct check_xattr_block *entry = &ck->xattr_blocks[i];

		if (entry->refcount != entry->seen)
			check_problem(ck,
				      "xattr block %" PRIu64 ": %u inodes use it, its count is %u",
				      entry->blk, entry->seen, entry->refcount);
	}
	for (size_t i = 0; i < ck->ea_inodes_count; i++) {
		const struct check_ea_inode *ea = &ck->ea_inodes[i];
		const struct check_ino *entry = check_ino(ck, ea->ino);

		/* One that is not in use was said with the attribute that names it. */
		if (!entry || !(entry->state & CHECK_INO_EA) || ea->lustre)
			continue;
		if (ea->read && ea->found_hash != ea->hash)
			check_problem(ck,
				      "inode %u: the value of an attribute has hash %08x, not %08x",
				      ea->ino, ea->found_hash, ea->hash);
		if (ea->refcount != ea->seen)
			check_problem(ck,
				      "inode %u: %" PRIu64 " attributes have their value in it, "
				      "its count is %" PRIu64,
				      ea->ino, ea->seen, ea->refcount);
	}
	return 0;
}
