/* SPDX-License-Identifier: MIT */
/*
 * Quota: what users, groups and projects use, against what the quota files say.
 *
 *  Q1  A block of a quota file is gone into once, so that a walk is no longer than the file.
 */
#include "fs/check_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <inttypes.h>

#define TYPES 3u
#define FILE_BYTES_MAX (1ull << 40)

static const char *const type_names[TYPES] = { "user", "group", "project" };
static const uint32_t magics[TYPES] = { QUOTA_MAGIC_USER, QUOTA_MAGIC_GROUP, QUOTA_MAGIC_PROJECT };

struct usage {
	uint32_t id;
	bool told; /* the file has a record of it */
	uint64_t bytes, inodes;
};

struct usages {
	struct usage *usage;
	size_t count, room;
	struct xarray index; /* id -> place, plus 1 */
};

struct check_quota {
	struct usages type[TYPES];
};

/* ---- what is used ---------------------------------------------------------------------------- */

static uint32_t quota_inum(const struct check *ck, unsigned type)
{
	const struct ext4_super_block *sb = &ck->fs->super;

	/* Two of the numbers are older than the third, and than the feature. */
	if (!geom_has_ro_compat(ck->g, EXT4_FEATURE_RO_COMPAT_QUOTA))
		return 0;
	switch (type) {
	case 0: return le32_get(sb->s_usr_quota_inum);
	case 1: return le32_get(sb->s_grp_quota_inum);
	default:
		if (!geom_has_ro_compat(ck->g, EXT4_FEATURE_RO_COMPAT_PROJECT))
			return 0;
		return le32_get(sb->s_prj_quota_inum);
	}
}

int check_quota_open(struct check *ck)
{
	if (!geom_has_ro_compat(ck->g, EXT4_FEATURE_RO_COMPAT_QUOTA))
		return 0;
	ck->quota = mem_zalloc(sizeof(*ck->quota));
	if (!ck->quota)
		return -ENOMEM;
	for (unsigned i = 0; i < TYPES; i++)
		xarray_init(&ck->quota->type[i].index);
	return 0;
}

void check_quota_close(struct check *ck)
{
	for (unsigned i = 0; ck->quota && i < TYPES; i++) {
		xarray_finish(&ck->quota->type[i].index);
		mem_free(ck->quota->type[i].usage);
	}
	mem_free(ck->quota);
}

static int usage_get(struct usages *u, uint32_t id, struct usage **ret)
{
	size_t at = (size_t)(uintptr_t)xarray_find(&u->index, id);
	int err;

	if (at == 0) {
		err = check_grow(&u->usage, u->count, &u->room, sizeof(*u->usage));
		if (err < 0)
			return err;
		at = ++u->count;
		u->usage[at - 1] = (struct usage){ .id = id };
		err = xarray_insert(&u->index, id, (void *)(uintptr_t)at);
		if (err < 0)
			return err;
	}
	*ret = &u->usage[at - 1];
	return 0;
}

static uint32_t owner_of(const struct check *ck, const struct ext4_inode *raw, unsigned type)
{
	uint32_t extra = 0;

	if (ck->g->inode_size > EXT4_GOOD_OLD_INODE_SIZE)
		extra = le16_get(raw->i_extra_isize);
	switch (type) {
	case 0: return le16_get(raw->i_uid) | (uint32_t)le16_get(raw->l_i_uid_high) << 16;
	case 1: return le16_get(raw->i_gid) | (uint32_t)le16_get(raw->l_i_gid_high) << 16;
	default: return EXT4_INODE_HAS(i_projid, extra) ? le32_get(raw->i_projid) : 0;
	}
}

int check_quota_add(struct check *ck, const struct ext4_inode *raw, uint64_t bytes, uint32_t inodes)
{
	for (unsigned type = 0; ck->quota && type < TYPES; type++) {
		struct usage *usage;
		int err;

		if (quota_inum(ck, type) == 0)
			continue;
		err = usage_get(&ck->quota->type[type], owner_of(ck, raw, type), &usage);
		if (err < 0)
			return err;
		usage->bytes += bytes;
		usage->inodes += inodes;
	}
	return 0;
}

/* ---- quota files ----------------------------------------------------------------------------- */

/* One quota file, open. */
struct quota_file {
	struct check *ck;
	unsigned type;
	uint32_t ino;
	struct map_ext *exts;
	size_t exts_count, exts_room;
	uint32_t blocks;     /* of QUOTA_BLOCK_BYTES */
	uint64_t *entered;   /* a bit a block: it was seen (Q1) */
	uint32_t free_blk;   /* head of the list of free blocks */
	uint32_t free_entry; /* and of those with room for a record */
	uint32_t with_room;  /* how many of those the tree leads to */
	uint32_t data_blk;   /* what data[] holds; 0: nothing */
	uint8_t data[QUOTA_BLOCK_BYTES];
};

static int file_extent(struct check_map *m, const struct map_ext *ext)
{
	struct quota_file *f = m->arg;
	int err;

	if (ext->state != MAP_WRITTEN)
		return 0;
	err = check_grow(&f->exts, f->exts_count, &f->exts_room, sizeof(*f->exts));
	if (err == 0)
		f->exts[f->exts_count++] = *ext;
	return err;
}

/* Block @blk of the file.  False: it was said why not. */
static bool file_read(struct quota_file *f, uint32_t blk, uint8_t *to)
{
	const struct geom *g = f->ck->g;
	uint64_t offset = (uint64_t)blk << QUOTA_BLOCK_BITS;
	lblk_t logical = (lblk_t)(offset >> g->block_bits);
	const size_t upper = map_ext_upper(f->exts, f->exts_count, logical);
	const struct map_ext *ext = upper > 0 ? &f->exts[upper - 1] : NULL;
	uint64_t place;

	if (blk >= f->blocks || !ext || logical - ext->logical >= ext->count) {
		check_problem(f->ck, "%s quota: there is no block %u", type_names[f->type], blk);
		return false;
	}
	place = ((ext->physical + (logical - ext->logical)) << g->block_bits) +
		(offset & (g->block_size - 1));
	return check_good(f->ck, dev_read(f->ck->fs->dev, place, to, QUOTA_BLOCK_BYTES));
}

/* Of a block that lies inside of the file. */
static bool is_seen(const struct quota_file *f, uint32_t blk)
{
	return f->entered[blk / 64] >> blk % 64 & 1;
}

/* The same, and it is from now on. */
static bool was_seen(struct quota_file *f, uint32_t blk)
{
	bool seen = is_seen(f, blk);

	f->entered[blk / 64] |= 1ull << blk % 64;
	return seen;
}

static bool check_header(struct quota_file *f)
{
	struct {
		struct v2_disk_dqheader head;
		struct v2_disk_dqinfo info;
	} start;
	uint8_t block[QUOTA_BLOCK_BYTES];

	if (!file_read(f, 0, block))
		return false;
	memcpy(&start, block, sizeof(start));
	if (le32_get(start.head.dqh_magic) != magics[f->type] ||
	    le32_get(start.head.dqh_version) != QUOTA_VERSION) {
		check_problem(f->ck, "%s quota: magic number is %08x, version %u",
			      type_names[f->type], le32_get(start.head.dqh_magic),
			      le32_get(start.head.dqh_version));
		return false;
	}
	if (le32_get(start.info.dqi_blocks) > f->blocks ||
	    le32_get(start.info.dqi_free_blk) >= f->blocks ||
	    le32_get(start.info.dqi_free_entry) >= f->blocks) {
		check_problem(f->ck,
			      "%s quota: %u blocks, lists from %u and %u, the file has %u blocks",
			      type_names[f->type], le32_get(start.info.dqi_blocks),
			      le32_get(start.info.dqi_free_blk),
			      le32_get(start.info.dqi_free_entry), f->blocks);
		return false;
	}
	f->free_blk = le32_get(start.info.dqi_free_blk);
	f->free_entry = le32_get(start.info.dqi_free_entry);
	return true;
}

/* ---- records --------------------------------------------------------------------------------- */

static int compare_record(struct quota_file *f, const struct v2r1_disk_dqblk *record)
{
	struct usages *u = &f->ck->quota->type[f->type];
	uint64_t bytes = le64_get(record->dqb_curspace);
	uint64_t inodes = le64_get(record->dqb_curinodes);
	uint32_t id = le32_get(record->dqb_id);
	struct usage *usage;
	int err;

	err = usage_get(u, id, &usage);
	if (err < 0)
		return err;
	usage->told = true;
	if (usage->bytes != bytes || usage->inodes != inodes)
		check_problem(f->ck,
			      "%s quota: %u uses %" PRIu64 " bytes and %" PRIu64
			      " inodes, its record says %" PRIu64 " and %" PRIu64,
			      type_names[f->type], id, usage->bytes, usage->inodes, bytes, inodes);
	return 0;
}

static bool record_is_used(const struct v2r1_disk_dqblk *record)
{
	static const struct v2r1_disk_dqblk unused;

	return memcmp(record, &unused, sizeof(unused)) != 0;
}

/* The block of records @blk into f->data.  Several ids may lead to it. */
static bool read_records(struct quota_file *f, uint32_t blk)
{
	struct qt_disk_dqdbheader head;
	struct v2r1_disk_dqblk record;
	uint32_t used = 0;

	f->data_blk = 0;
	if (!file_read(f, blk, f->data))
		return false;
	f->data_blk = blk;
	if (was_seen(f, blk))
		return true;
	memcpy(&head, f->data, sizeof(head));
	for (unsigned i = 0; i < QUOTA_RECORDS_PER_BLOCK; i++) {
		memcpy(&record, f->data + sizeof(head) + i * sizeof(record), sizeof(record));
		used += record_is_used(&record);
	}
	if (used != le16_get(head.dqdh_entries))
		check_problem(f->ck, "%s quota: block %u has %u records, it says %u",
			      type_names[f->type], blk, used, le16_get(head.dqdh_entries));
	f->with_room += used < QUOTA_RECORDS_PER_BLOCK;
	return true;
}

/* The record of @id in the block the tree leads to. */
static int check_record(struct quota_file *f, uint32_t id, uint32_t blk)
{
	const uint8_t *at = f->data + sizeof(struct qt_disk_dqdbheader);

	if (f->data_blk != blk && !read_records(f, blk))
		return 0;
	for (unsigned i = 0; i < QUOTA_RECORDS_PER_BLOCK; i++) {
		struct v2r1_disk_dqblk record;

		memcpy(&record, at + i * sizeof(record), sizeof(record));
		if (le32_get(record.dqb_id) == id && record_is_used(&record))
			return compare_record(f, &record);
	}
	check_problem(f->ck, "%s quota: block %u holds no record of %u", type_names[f->type], blk,
		      id);
	return 0;
}

struct node {
	uint32_t next;
	uint8_t refs[QUOTA_BLOCK_BYTES];
};

static bool enter(struct quota_file *f, uint32_t blk, struct node *node)
{
	node->next = 0;
	if (!file_read(f, blk, node->refs))
		return false;
	if (!was_seen(f, blk))
		return true;
	check_problem(f->ck, "%s quota: block %u is led to twice", type_names[f->type], blk);
	return false;
}

static int walk_tree(struct quota_file *f)
{
	struct node *nodes FREE_SCOPE = mem_alloc(QUOTA_DEPTH * sizeof(*nodes));
	uint32_t depth = 0, id = 0;

	if (!nodes)
		return -ENOMEM;
	if (!enter(f, QUOTA_ROOT_BLOCK, &nodes[0]))
		return 0;
	for (;;) {
		struct node *node = &nodes[depth];
		uint32_t shift = 8 * (QUOTA_DEPTH - 1 - depth);
		le32 ref;
		int err = 0;

		if (node->next == QUOTA_FANOUT) {
			if (depth-- == 0)
				return 0;
			continue;
		}
		memcpy(&ref, node->refs + node->next * sizeof(ref), sizeof(ref));
		id = (id & ~(uint32_t)((1ull << (shift + 8)) - 1)) | node->next << shift;
		node->next++;
		if (le32_get(ref) == 0)
			continue;
		if (depth + 1 == QUOTA_DEPTH)
			err = check_record(f, id, le32_get(ref));
		else
			depth += enter(f, le32_get(ref), node + 1);
		if (err < 0)
			return err;
	}
}

/* The next record would go into the first of these. */
static void walk_with_room(struct quota_file *f)
{
	uint32_t blk = f->free_entry, before = 0, count = 0;

	while (blk != 0 && count < f->with_room) {
		struct qt_disk_dqdbheader head;

		if (!file_read(f, blk, f->data))
			return;
		memcpy(&head, f->data, sizeof(head));
		if (!is_seen(f, blk) || le16_get(head.dqdh_entries) >= QUOTA_RECORDS_PER_BLOCK ||
		    le32_get(head.dqdh_prev_free) != before)
			break;
		before = blk;
		blk = le32_get(head.dqdh_next_free);
		count++;
	}
	if (blk != 0 || count != f->with_room)
		check_problem(f->ck,
			      "%s quota: %u blocks have room for records, the list of them is "
			      "wrong at block %u",
			      type_names[f->type], f->with_room, blk);
}

/* Free blocks are nobody's: a new record would be put there. */
static void walk_free(struct quota_file *f)
{
	uint32_t blk = f->free_blk;

	while (blk != 0) {
		struct qt_disk_dqdbheader head;

		if (!file_read(f, blk, f->data))
			return;
		if (was_seen(f, blk)) {
			check_problem(f->ck, "%s quota: block %u is free and in use",
				      type_names[f->type], blk);
			return;
		}
		memcpy(&head, f->data, sizeof(head));
		blk = le32_get(head.dqdh_next_free);
	}
}

/* ---- one file -------------------------------------------------------------------------------- */

static int file_open(struct quota_file *f)
{
	struct check *ck = f->ck;
	struct ext4_inode *raw FREE_SCOPE = mem_alloc(ck->g->inode_size);
	struct check_map m = {
		.ck = ck, .raw = raw, .quiet = true, .extent = file_extent, .arg = f
	};
	uint64_t bytes;

	if (!raw)
		return -ENOMEM;
	if (!check_raw(ck, f->ino, raw))
		return 0;
	/* That it is no regular file is said with the inode. */
	if (check_type(raw) != 0100000 || !check_has_map(ck->g, raw))
		return 0;
	bytes = min_u64(check_size(ck->g, raw), FILE_BYTES_MAX);
	f->blocks = (uint32_t)min_u64(bytes >> QUOTA_BLOCK_BITS, UINT32_MAX);
	m.vi = (struct verify_inode){
		.geom = ck->g,
		.ino = f->ino,
		.generation = le32_get(raw->i_generation),
		.csum_seed = verify_inode_seed(ck->g, f->ino, le32_get(raw->i_generation)),
	};
	return check_map_walk(&m);
}

static int check_file(struct check *ck, unsigned type)
{
	const struct usages *u = &ck->quota->type[type];
	struct quota_file f = { .ck = ck, .type = type, .ino = quota_inum(ck, type) };
	const struct check_ino *entry = check_ino(ck, f.ino);
	int err;

	if (!entry || !(entry->state & CHECK_INO_USED) || (entry->state & CHECK_INO_LOOP)) {
		check_problem(ck, "%s quota: inode %u is not in use, or damaged", type_names[type],
			      f.ino);
		return 0;
	}
	err = file_open(&f);
	if (err == 0 && f.blocks > 0) {
		f.entered = mem_calloc(div_round_up(f.blocks, 64), sizeof(*f.entered));
		err = f.entered ? 0 : -ENOMEM;
	}
	if (err == 0 && f.blocks > 0 && check_header(&f)) {
		err = walk_tree(&f);
		walk_with_room(&f);
		walk_free(&f);
	}
	for (size_t i = 0; err == 0 && i < u->count; i++) {
		if (!u->usage[i].told && (u->usage[i].bytes != 0 || u->usage[i].inodes != 0))
			check_problem(ck,
				      "%s quota: %u uses %" PRIu64 " bytes and %" PRIu64
				      " inodes, but has no record",
				      type_names[type], u->usage[i].id, u->usage[i].bytes,
				      u->usage[i].inodes);
	}
	mem_free(f.entered);
	mem_free(f.exts);
	return err;
}

int check_quota_compare(struct check *ck)
{
	int err = 0;

	for (unsigned type = 0; err == 0 && ck->quota && type < TYPES; type++) {
		if (quota_inum(ck, type) != 0)
			err = check_file(ck, type);
		if (err == 0)
			err = check_progress(ck, type + 1, TYPES);
	}
	return err;
}
