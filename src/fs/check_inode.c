/* SPDX-License-Identifier: MIT */
/*
 * Every inode of the tables: its fields, its map against its size and i_blocks, its attributes.
 *
 * Tables are read in long requests, the next one announced to the device while this one is looked
 * at.
 */
#include "fs/check_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "journal/journal.h"

#include <inttypes.h>

#define LARGE_FILE_BYTES (1ull << 31)

/* One inode while it is looked at. */
struct view {
	struct check *ck;
	uint32_t ino;
	const struct ext4_inode *raw;
	uint16_t type;
	uint32_t flags;
	uint64_t size;
	bool orphan;
	bool damaged; /* something was said that makes sums wrong */
	bool loop;    /* its map leads to blocks of others */

	/* found by walking its map */
	uint64_t clusters;     /* of data and map */
	uint64_t last_cluster; /* of data, plus 1 */
	lblk_t last_logical;   /* and where in the file it is, in clusters */
	lblk_t written_end;    /* behind the last written block */
	lblk_t mapped_end;     /* behind the last one */
	uint64_t mapped;       /* blocks */
	uint32_t extents;
	uint64_t unwritten;
	blk_t next_physical;
	size_t dir_extents; /* where those of a directory begin in check.dir_extents */
};

/* ---- fields ---------------------------------------------------------------------------------- */

uint16_t check_type(const struct ext4_inode *raw)
{
	return le16_get(raw->i_mode) & 0170000;
}

uint64_t check_size(const struct geom *g, const struct ext4_inode *raw)
{
	uint64_t size = le32_get(raw->i_size_lo);

	if (check_type(raw) == 0100000 || geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_LARGEDIR))
		size |= (uint64_t)le32_get(raw->i_size_high) << 32;
	return size;
}

blk_t check_file_acl(const struct geom *g, const struct ext4_inode *raw)
{
	blk_t blk = le32_get(raw->i_file_acl_lo);

	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_64BIT))
		blk |= (blk_t)le16_get(raw->l_i_file_acl_high) << 32;
	return blk;
}

static uint64_t sectors_of(const struct geom *g, const struct ext4_inode *raw)
{
	uint64_t sectors = le32_get(raw->i_blocks_lo);

	if (!geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_HUGE_FILE))
		return sectors;
	sectors |= (uint64_t)le16_get(raw->l_i_blocks_high) << 32;
	if (le32_get(raw->i_flags) & EXT4_HUGE_FILE_FL)
		sectors <<= g->block_bits - 9;
	return sectors;
}

static void check_flags(struct view *v)
{
	const struct geom *g = v->ck->g;

	if ((v->flags & EXT4_EXTENTS_FL) && !geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_EXTENTS))
		check_problem(v->ck, "inode %u: extents without the feature extent", v->ino);
	if ((v->flags & EXT4_INDEX_FL) && v->type != 0040000)
		check_problem(v->ck, "inode %u: the flag of indexed directories, mode %06o", v->ino,
			      le16_get(v->raw->i_mode));
	if ((v->flags & EXT4_INDEX_FL) && v->type == 0040000 &&
	    !geom_has_compat(g, EXT4_FEATURE_COMPAT_DIR_INDEX))
		check_problem(v->ck, "inode %u: indexed directory without the feature dir_index",
			      v->ino);
	if ((v->flags & EXT4_HUGE_FILE_FL) &&
	    !geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_HUGE_FILE))
		check_problem(v->ck, "inode %u: i_blocks in file system blocks without huge_file",
			      v->ino);
	if ((v->flags & EXT4_IMAGIC_FL) && !geom_has_compat(g, EXT4_FEATURE_COMPAT_IMAGIC_INODES))
		check_problem(v->ck, "inode %u: the flag imagic without the feature", v->ino);
	if ((v->flags & EXT4_VERITY_FL) && !geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_VERITY))
		check_problem(v->ck, "inode %u: the flag verity without the feature", v->ino);
	if (v->flags & (EXT4_ENCRYPT_FL | EXT4_CASEFOLD_FL))
		check_problem(v->ck, "inode %u: flags %08x without their feature", v->ino,
			      v->flags & (EXT4_ENCRYPT_FL | EXT4_CASEFOLD_FL));
	if ((v->flags & EXT4_EA_INODE_FL) && !geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_EA_INODE))
		check_problem(v->ck, "inode %u: the flag ea_inode without the feature", v->ino);
}

static void check_fields(struct view *v)
{
	const struct ext4_inode *raw = v->raw;
	const struct geom *g = v->ck->g;
	uint32_t extra = 0;

	if (g->inode_size > EXT4_GOOD_OLD_INODE_SIZE)
		extra = le16_get(raw->i_extra_isize);
	if (extra != 0 && extra < 4)
		check_problem(v->ck, "inode %u: i_extra_isize is %u", v->ino, extra);
	if (le32_get(raw->i_dtime) != 0 && !v->orphan)
		check_problem(v->ck, "inode %u: in use, but it has a time of deletion", v->ino);
	if (le32_get(raw->i_obso_faddr) != 0)
		check_problem(v->ck, "inode %u: i_obso_faddr is %u", v->ino,
			      le32_get(raw->i_obso_faddr));
	if (!geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_64BIT) &&
	    le16_get(raw->l_i_file_acl_high) != 0)
		check_problem(v->ck, "inode %u: i_file_acl_high is %u without the feature 64bit",
			      v->ino, le16_get(raw->l_i_file_acl_high));
	if (!geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_HUGE_FILE) &&
	    le16_get(raw->l_i_blocks_high) != 0)
		check_problem(v->ck, "inode %u: i_blocks_high is %u without the feature huge_file",
			      v->ino, le16_get(raw->l_i_blocks_high));
	if (v->type != 0100000 && le32_get(raw->i_size_high) != 0 &&
	    !(v->type == 0040000 && geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_LARGEDIR)))
		check_problem(v->ck, "inode %u: i_size_high is %u", v->ino,
			      le32_get(raw->i_size_high));
	check_flags(v);
}

/* ---- maps ------------------------------------------------------------------------------------ */

static int view_node(struct check_map *m, blk_t blk, bool *ret_enter)
{
	struct view *v = m->arg;
	bool shared;
	int err;

	err = check_claim(v->ck, blk, 1, false, &shared);
	v->clusters++;
	if (shared)
		v->loop = v->damaged = true;
	*ret_enter = !shared;
	return err;
}

/* With bigalloc neighbours in the file may share a cluster, which is claimed once. */
static int claim_data(struct view *v, const struct map_ext *ext)
{
	const struct geom *g = v->ck->g;
	bool may_share = geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_SHARED_BLOCKS), shared;
	uint64_t first = check_cluster(v->ck, ext->physical);
	uint64_t last = check_cluster(v->ck, ext->physical + ext->count - 1);
	blk_t start = ext->physical;
	uint64_t count = ext->count;

	if ((ext->physical ^ ext->logical) & (g->cluster_ratio - 1)) {
		check_problem(v->ck,
			      "inode %u: block %u of it lies at %" PRIu64
			      ", elsewhere in its cluster",
			      v->ino, ext->logical, ext->physical);
		v->damaged = true;
	}
	if (first + 1 == v->last_cluster &&
	    ext->logical >> g->cluster_ratio_bits == v->last_logical) {
		blk_t behind = (first + 1) << g->cluster_ratio_bits;

		if (first == last)
			return 0;
		count -= behind - start;
		start = behind;
		first++;
	}
	v->clusters += last - first + 1;
	v->last_cluster = last + 1;
	v->last_logical = (ext->logical + ext->count - 1) >> g->cluster_ratio_bits;
	return check_claim(v->ck, start, count, may_share, &shared);
}

static int view_extent(struct check_map *m, const struct map_ext *ext)
{
	struct view *v = m->arg;
	struct check *ck = v->ck;
	int err;

	v->mapped_end = ext->logical + ext->count;
	if (ext->state == MAP_WRITTEN)
		v->written_end = v->mapped_end;
	else
		v->unwritten += ext->count;
	v->mapped += ext->count;
	v->extents += v->extents == 0 || ext->physical != v->next_physical;
	v->next_physical = ext->physical + ext->count;
	if (v->type == 0040000) {
		err = check_grow(&ck->dir_extents, ck->dir_extents_count, &ck->dir_extents_room,
				 sizeof(*ck->dir_extents));
		if (err < 0)
			return err;
		ck->dir_extents[ck->dir_extents_count++] = *ext;
	}
	return claim_data(v, ext);
}

static int walk_map(struct view *v)
{
	const struct geom *g = v->ck->g;
	struct check_map m = {
		.ck = v->ck,
		.raw = v->raw,
		.vi = { .geom = g, .ino = v->ino, .generation = le32_get(v->raw->i_generation) },
		.quiet = v->damaged, /* what is wrong with the root was said */
		.node = view_node,
		.extent = view_extent,
		.arg = v,
	};
	int err;

	m.vi.csum_seed = verify_inode_seed(g, v->ino, m.vi.generation);
	err = check_map_walk(&m);
	v->damaged |= m.damaged;
	return err;
}

/* ---- sizes ----------------------------------------------------------------------------------- */

/* How far three levels of pointers reach. */
static uint64_t block_map_bytes(const struct geom *g)
{
	uint64_t pointers = g->block_size / 4;
	uint64_t blocks = EXT4_NDIR_BLOCKS + pointers * (1 + pointers * (1 + pointers));

	return min_u64(blocks, UINT32_MAX) << g->block_bits;
}

static void check_regular(struct view *v)
{
	const struct geom *g = v->ck->g;
	uint64_t end = (uint64_t)v->written_end << g->block_bits;

	if (!(v->flags & (EXT4_EXTENTS_FL | EXT4_INLINE_DATA_FL)) && v->size > block_map_bytes(g))
		check_problem(v->ck, "inode %u: size is %" PRIu64 ", its map reaches to %" PRIu64,
			      v->ino, v->size, block_map_bytes(g));

	if (v->size >= LARGE_FILE_BYTES)
		v->ck->large_files++;
	/* Authenticity trees lie behind the end; a truncate that is not finished frees blocks. */
	if ((v->flags & EXT4_VERITY_FL) || v->orphan || v->damaged)
		return;
	/*
	 * The kernel may crash between giving an empty inline file its first block and its size:
	 * that block is no damage, for e2fsck either.
	 */
	if (end > round_up_pow2(max_u64(v->size, 1), g->block_size))
		check_problem(v->ck,
			      "inode %u: size is %" PRIu64 ", but blocks up to byte %" PRIu64
			      " are written",
			      v->ino, v->size, end);
}

static void check_directory(struct view *v)
{
	const struct geom *g = v->ck->g;
	uint64_t blocks = v->size >> g->block_bits;

	if (v->size % g->block_size != 0 || v->size == 0)
		check_problem(v->ck, "inode %u: directory of %" PRIu64 " bytes", v->ino, v->size);
	else if (!v->damaged && blocks != v->mapped_end && v->mapped_end > blocks)
		check_problem(v->ck, "inode %u: directory of %" PRIu64 " blocks, %u are mapped",
			      v->ino, blocks, v->mapped_end);
	else if (!v->damaged && blocks != v->mapped)
		check_problem(v->ck, "inode %u: directory of %" PRIu64 " blocks with holes", v->ino,
			      blocks);
	if (v->unwritten > 0)
		check_problem(v->ck, "inode %u: directory with blocks that were never written",
			      v->ino);
}

static void check_symlink(struct view *v)
{
	struct check *ck = v->ck;
	const uint8_t *target = (const uint8_t *)v->raw->i_block;
	size_t len;

	if (v->flags & EXT4_INLINE_DATA_FL)
		return;
	if (v->size >= EXT4_I_BLOCK_BYTES) {
		if (!v->damaged && (v->mapped != 1 || v->mapped_end != 1 || v->unwritten > 0))
			check_problem(ck,
				      "inode %u: symlink of %" PRIu64 " bytes in %" PRIu64
				      " blocks",
				      v->ino, v->size, v->mapped);
		if (v->damaged || v->mapped != 1 || v->size >= ck->g->block_size)
			return;
		if (!check_read(ck, v->next_physical - 1, 1, ck->block))
			return;
		target = ck->block;
	}
	len = strnlen((const char *)target, (size_t)v->size);
	if (v->size == 0 || len != v->size)
		check_problem(ck, "inode %u: symlink of %" PRIu64 " bytes, its target has %zu",
			      v->ino, v->size, len);
}

/* Devices, fifos and sockets: i_block holds the number, and nothing else. */
static void check_special(struct view *v)
{
	bool is_device = v->type == 0020000 || v->type == 0060000;
	unsigned first = is_device ? (le32_get(v->raw->i_block[0]) ? 1 : 2) : 0;

	if (v->size != 0)
		check_problem(v->ck, "inode %u: special file of %" PRIu64 " bytes", v->ino,
			      v->size);
	if (v->flags & (EXT4_EXTENTS_FL | EXT4_IMMUTABLE_FL | EXT4_APPEND_FL))
		check_problem(v->ck, "inode %u: special file with flags %08x", v->ino, v->flags);
	for (unsigned i = first; i < EXT4_N_BLOCKS; i++) {
		if (le32_get(v->raw->i_block[i]) == 0)
			continue;
		check_problem(v->ck, "inode %u: special file, i_block[%u] is %u", v->ino, i,
			      le32_get(v->raw->i_block[i]));
		break;
	}
}

static void check_by_type(struct view *v)
{
	switch (v->type) {
	case 0100000: check_regular(v); break;
	case 0040000:
		/* One that was removed while somebody had it open has no size any more. */
		if (!(v->flags & EXT4_INLINE_DATA_FL) && !v->orphan)
			check_directory(v);
		break;
	case 0120000: check_symlink(v); break;
	case 0:
		if (v->size != 0 || le32_get(v->raw->i_size_high) != 0)
			check_problem(v->ck, "inode %u: %" PRIu64 " bytes of nothing", v->ino,
				      u64_from_lo_hi(v->raw->i_size_lo, v->raw->i_size_high));
		break;
	default: check_special(v);
	}
}

static void check_blocks(struct view *v, uint64_t clusters)
{
	const struct geom *g = v->ck->g;
	uint64_t wanted = clusters << g->cluster_ratio_bits << (g->block_bits - 9);
	uint64_t found = sectors_of(g, v->raw);

	if (found != wanted && !v->damaged)
		check_problem(v->ck,
			      "inode %u: i_blocks is %" PRIu64 ", it has %" PRIu64
			      " sectors of 512 bytes",
			      v->ino, found, wanted);
}

/* ---- special inodes -------------------------------------------------------------------------- */

static bool is_quota_file(const struct check *ck, uint32_t ino)
{
	const struct ext4_super_block *sb = &ck->fs->super;

	return (geom_has_ro_compat(ck->g, EXT4_FEATURE_RO_COMPAT_QUOTA) &&
		(ino == le32_get(sb->s_usr_quota_inum) || ino == le32_get(sb->s_grp_quota_inum))) ||
	       (geom_has_ro_compat(ck->g, EXT4_FEATURE_RO_COMPAT_PROJECT) &&
		ino == le32_get(sb->s_prj_quota_inum));
}

static bool is_orphan_file(const struct check *ck, uint32_t ino)
{
	return geom_has_compat(ck->g, EXT4_FEATURE_COMPAT_ORPHAN_FILE) &&
	       ino == le32_get(ck->fs->super.s_orphan_file_inum);
}

static bool is_journal(const struct check *ck, uint32_t ino)
{
	return geom_has_compat(ck->g, EXT4_FEATURE_COMPAT_HAS_JOURNAL) &&
	       ino == le32_get(ck->fs->super.s_journal_inum);
}

static bool is_resize(const struct check *ck, uint32_t ino)
{
	return ino == EXT4_RESIZE_INO && geom_has_compat(ck->g, EXT4_FEATURE_COMPAT_RESIZE_INODE);
}

/* A file that the superblock says is there. */
static bool is_needed(const struct check *ck, uint32_t ino)
{
	return is_quota_file(ck, ino) || is_orphan_file(ck, ino) || is_journal(ck, ino) ||
	       is_resize(ck, ino);
}

static bool is_reserved(const struct check *ck, uint32_t ino)
{
	return ino < ck->g->first_ino && ino != EXT4_ROOT_INO;
}

static bool is_system(const struct check *ck, uint32_t ino)
{
	return is_reserved(ck, ino) || is_needed(ck, ino);
}

/* Reserved inodes that nobody needs are zero; those that are needed are regular files. */
static void check_system(struct view *v)
{
	struct check *ck = v->ck;
	bool needed = is_needed(ck, v->ino);

	if (needed && (v->type != 0100000 || le16_get(v->raw->i_links_count) != 1))
		check_problem(ck, "inode %u: a file of the file system's own, mode %06o, %u links",
			      v->ino, le16_get(v->raw->i_mode), le16_get(v->raw->i_links_count));
	if (needed && v->type == 0100000 && !is_resize(ck, v->ino) &&
	    (v->size == 0 || (v->flags & EXT4_INLINE_DATA_FL)))
		check_problem(ck, "inode %u: a file of the file system's own without contents",
			      v->ino);
	if (!needed && v->ino != EXT4_BAD_INO && v->ino != EXT4_BOOT_LOADER_INO &&
	    (v->type != 0 || le16_get(v->raw->i_links_count) != 0))
		check_problem(ck, "inode %u: reserved, but in use: mode %06o, %u links", v->ino,
			      le16_get(v->raw->i_mode), le16_get(v->raw->i_links_count));
	if (v->ino == EXT4_BOOT_LOADER_INO && v->type == 0040000)
		check_problem(ck, "inode %u: the boot loader is a directory", v->ino);
}

/* Where a journal lies. */
struct runs {
	struct journal_run *run;
	size_t count, room;
	lblk_t end;
	bool hole;
};

static int journal_extent(struct check_map *m, const struct map_ext *ext)
{
	struct runs *runs = m->arg;
	int err;

	if (ext->logical != runs->end || ext->state != MAP_WRITTEN)
		runs->hole = true;
	runs->end = ext->logical + ext->count;
	err = check_grow(&runs->run, runs->count, &runs->room, sizeof(*runs->run));
	if (err < 0)
		return err;
	runs->run[runs->count++] = (struct journal_run){ .logical = ext->logical,
							 .count = ext->count,
							 .physical = ext->physical };
	return 0;
}

static int check_journal_runs(struct check *ck, const struct runs *runs)
{
	struct journal_info info;
	struct journal *journal;
	int err;

	err = journal_open(ck->fs->dev, runs->run, runs->count, ck->g->block_size, &journal);
	if (err == -ENOMEM)
		return err;
	if (!check_good(ck, err))
		return 0;
	journal_get_info(journal, &info);
	journal_close(journal);
	if (info.start != 0 && !ck->fs->info.journal_dirty)
		check_problem(ck, "journal: it has something to be replayed, but needs_recovery "
				  "is not set");
	return 0;
}

/* Its own superblock is right, and it says that there is nothing to be done. */
static int check_journal(const struct view *of)
{
	struct check *ck = of->ck;
	struct runs runs = { 0 };
	struct check_map m = {
		.ck = ck,
		.raw = of->raw,
		.vi = { .geom = ck->g, .ino = of->ino },
		.quiet = true,
		.extent = journal_extent,
		.arg = &runs,
	};
	int err;

	m.vi.generation = le32_get(of->raw->i_generation);
	m.vi.csum_seed = verify_inode_seed(ck->g, of->ino, m.vi.generation);
	err = check_map_walk(&m);
	if (err == 0 && (runs.hole || m.damaged || runs.end != of->size >> ck->g->block_bits ||
			 runs.end < JBD2_MIN_JOURNAL_BLOCKS))
		check_problem(ck, "journal: inode %u has %" PRIu64 " bytes in %u blocks, or holes",
			      of->ino, of->size, runs.end);
	else if (err == 0)
		err = check_journal_runs(ck, &runs);
	mem_free(runs.run);
	return err;
}

/* ---- one inode ------------------------------------------------------------------------------- */

static int add_directory(struct view *v)
{
	struct check *ck = v->ck;
	int err;

	err = check_grow(&ck->dirs, ck->dirs_count, &ck->dirs_room, sizeof(*ck->dirs));
	if (err < 0)
		return err;
	ck->dirs[ck->dirs_count++] = (struct check_dir){
		.ino = v->ino,
		.generation = le32_get(v->raw->i_generation),
		.blocks = (uint32_t)min_u64(v->size >> ck->g->block_bits, v->mapped_end),
		.extents = v->dir_extents,
		.extents_count = (uint32_t)(ck->dir_extents_count - v->dir_extents),
		.indexed = v->flags & EXT4_INDEX_FL,
		.is_inline = v->flags & EXT4_INLINE_DATA_FL,
	};
	return 0;
}

static void count(struct view *v)
{
	struct uext4_check_result *result = &v->ck->result;

	result->fragmented += v->extents > 1 && v->type == 0100000;
	switch (v->type) {
	case 0100000: result->files++; break;
	case 0040000: result->directories++; break;
	case 0120000: result->symlinks++; break;
	default: result->special++;
	}
}

static int note_inode(struct view *v)
{
	struct check_group *group = &v->ck->groups[(v->ino - 1) / v->ck->g->inodes_per_group];
	struct check_ino *entry;
	int err;

	err = check_ino_make(v->ck, v->ino, &entry);
	if (err < 0)
		return err;
	entry->state |= CHECK_INO_USED | (v->orphan ? CHECK_INO_ORPHAN : 0) |
			(is_system(v->ck, v->ino) ? CHECK_INO_SYSTEM : 0) |
			(v->flags & EXT4_EA_INODE_FL ? CHECK_INO_EA : 0) |
			(v->loop ? CHECK_INO_LOOP : 0);
	entry->links = le16_get(v->raw->i_links_count);
	entry->type = (uint8_t)(v->type >> 12);
	group->inodes_used++;
	group->directories += v->type == 0040000;
	return 0;
}

/* Symlinks in the inode are left out by all who count usage: mke2fs, e2fsck, the engine. */
static bool is_charged(const struct view *v)
{
	if (v->type == 0120000 && (v->flags & EXT4_INLINE_DATA_FL))
		return false;
	return !is_system(v->ck, v->ino) && !(v->flags & EXT4_EA_INODE_FL);
}

static int check_contents(struct view *v)
{
	struct check_weight weight = { 0 };
	uint64_t clusters;
	int err = 0;

	if (is_resize(v->ck, v->ino))
		return check_resize_inode(v->ck, v->raw, &clusters);
	if (check_has_map(v->ck->g, v->raw))
		err = walk_map(v);
	if (err == 0)
		err = check_xattrs(v->ck, v->ino, v->raw, &weight);
	if (err < 0)
		return err;
	clusters = v->clusters + weight.clusters;
	check_blocks(v, clusters);
	check_by_type(v);
	if (is_journal(v->ck, v->ino) && v->type == 0100000 && !v->damaged)
		err = check_journal(v);
	if (err == 0 && (v->flags & EXT4_EA_INODE_FL))
		err = check_ea_inode(v->ck, v->ino, v->raw);
	if (err == 0 && is_charged(v))
		err = check_quota_add(v->ck, v->raw,
				      clusters << v->ck->g->cluster_ratio_bits
					       << v->ck->g->block_bits,
				      1 + weight.ea_inodes);
	return err;
}

static int check_used(struct check *ck, uint32_t ino, const struct ext4_inode *raw, bool orphan)
{
	struct view v = {
		.ck = ck,
		.ino = ino,
		.raw = raw,
		.type = check_type(raw),
		.flags = le32_get(raw->i_flags),
		.size = check_size(ck->g, raw),
		.orphan = orphan,
		.dir_extents = ck->dir_extents_count,
	};
	int err = verify_inode(ck->g, ino, raw);

	v.damaged = !check_good(ck, err) && err != -EFSBADCRC;
	check_fields(&v);
	if (is_system(ck, ino))
		check_system(&v);
	err = check_contents(&v);
	if (err == 0)
		err = note_inode(&v);
	if (err == 0 && v.type == 0040000)
		err = add_directory(&v);
	count(&v);
	return err;
}

/* ---- all inodes ------------------------------------------------------------------------------ */

static bool is_zero(const void *data, size_t bytes)
{
	const uint8_t *p = data;

	return p[0] == 0 && memcmp(p, p + 1, bytes - 1) == 0;
}

static bool has_contents(const struct ext4_inode *raw)
{
	return le16_get(raw->i_mode) != 0 || le32_get(raw->i_blocks_lo) != 0 ||
	       le16_get(raw->l_i_blocks_high) != 0 || le32_get(raw->i_size_lo) != 0 ||
	       le32_get(raw->i_size_high) != 0 || le32_get(raw->i_dtime) != 0 ||
	       le32_get(raw->i_file_acl_lo) != 0 || !is_zero(raw->i_block, sizeof(raw->i_block));
}

static bool is_orphan(struct check *ck, uint32_t ino)
{
	const struct check_ino *entry = check_ino(ck, ino);

	return entry && (entry->state & CHECK_INO_ORPHAN);
}

/* verify_inode() lets inodes pass that are not in use, but they have checksums all the same. */
static void check_unused_checksum(struct check *ck, uint32_t ino, const struct ext4_inode *raw)
{
	const struct geom *g = ck->g;
	bool is_large = g->inode_size > EXT4_GOOD_OLD_INODE_SIZE;
	uint32_t extra = is_large ? le16_get(raw->i_extra_isize) : 0, found;

	if (!geom_has_csum(g) || extra > g->inode_size - EXT4_GOOD_OLD_INODE_SIZE)
		return;
	found = le16_get(raw->l_i_checksum_lo);
	if (is_large && EXT4_INODE_HAS(i_checksum_hi, extra))
		found |= (uint32_t)le16_get(raw->i_checksum_hi) << 16;
	if (found != verify_inode_checksum(g, ino, raw))
		check_problem(ck, "inode %u: checksum is %08x, should be %08x", ino, found,
			      verify_inode_checksum(g, ino, raw));
}

/* No time, but the number of the next orphan: if the clock of that machine was not that early. */
static bool dtime_is_link(const struct check *ck, const struct ext4_inode *raw)
{
	return le32_get(raw->i_dtime) <= ck->g->inodes &&
	       le32_get(ck->fs->super.s_mkfs_time) > ck->g->inodes &&
	       le32_get(ck->fs->super.s_wtime) > ck->g->inodes;
}

static int check_one(struct check *ck, uint32_t ino, const struct ext4_inode *raw)
{
	bool orphan = is_orphan(ck, ino);

	if (le16_get(raw->i_links_count) != 0 || orphan || is_needed(ck, ino))
		return check_used(ck, ino, raw, orphan);
	if (is_zero(raw, ck->g->inode_size))
		return 0;
	/* Reserved ones are used without links, once they have something. */
	if (is_system(ck, ino) && has_contents(raw)) {
		if (le16_get(raw->i_mode) == 0)
			check_unused_checksum(ck, ino, raw);
		return check_used(ck, ino, raw, orphan);
	}
	check_unused_checksum(ck, ino, raw);
	if (le16_get(raw->i_mode) != 0 && le32_get(raw->i_dtime) == 0)
		check_problem(ck, "inode %u: deleted, but without a time of deletion", ino);
	else if (le16_get(raw->i_mode) != 0 && dtime_is_link(ck, raw))
		check_problem(ck, "inode %u: it was on the orphan list, and is lost", ino);
	return 0;
}

static int check_table(struct check *ck, uint32_t number)
{
	const struct geom *g = ck->g;
	const struct check_group *group = &ck->groups[number];
	blk_t table = u64_from_lo_hi(group->gd.bg_inode_table_lo, group->gd.bg_inode_table_hi);
	uint64_t bytes = (uint64_t)group->inos_count * g->inode_size, step;
	int err = 0;

	for (uint64_t at = 0; err == 0 && at < bytes; at += step) {
		uint64_t place = (table << g->block_bits) + at;
		uint32_t ino = number * g->inodes_per_group + (uint32_t)(at / g->inode_size) + 1;

		step = min_u64(CHECK_WINDOW_BYTES, bytes - at);
		if (at + step < bytes)
			dev_prefetch(ck->fs->dev, place + step,
				     min_u64(CHECK_WINDOW_BYTES, bytes - at - step));
		if (!check_good(ck, dev_read(ck->fs->dev, place, ck->window, (size_t)step)))
			continue;
		for (uint64_t i = 0; err == 0 && i < step; i += g->inode_size, ino++)
			err = check_one(ck, ino, (const void *)(ck->window + i));
	}
	return err;
}

static void check_needed(struct check *ck)
{
	const struct check_ino *root = check_ino(ck, EXT4_ROOT_INO);

	if (check_ino_known(ck, EXT4_ROOT_INO) && (!root || root->type != 0040000 >> 12))
		check_problem(ck, "inode %u: there is no root directory", EXT4_ROOT_INO);
	if (ck->large_files > 0 && !geom_has_ro_compat(ck->g, EXT4_FEATURE_RO_COMPAT_LARGE_FILE))
		check_problem(ck, "superblock: files of 2 GiB or more without the feature "
				  "large_file");
}

int check_inodes(struct check *ck)
{
	int err = 0;

	for (uint32_t number = 0; err == 0 && number < ck->g->groups; number++) {
		err = check_table(ck, number);
		if (err == 0)
			err = check_progress(ck, number + 1, ck->g->groups);
	}
	if (err == 0)
		check_needed(ck);
	return err;
}
