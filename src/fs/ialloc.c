/* SPDX-License-Identifier: MIT */
/*
 * Inodes: which number a new one gets.
 *
 * Directories are spread, so that each has room for its files around it (Orlov): those at the top
 * go to the flex group with the fewest directories that is not fuller than others, those below stay
 * near their parent while there is room.  Files go to their directory's flex group.
 *
 *  N1  Within a group the lowest free number is taken.  So the part of a table that was never used
 *      is always its end (itable_unused), and is reached block by block.
 *  N2  A block of a table that was never written (no INODE_ZEROED) is zeroed in the handle that
 *      takes its first inode: what lies there on disk is never seen.
 */
#include "fs/balloc_priv.h"

#include "base/diag.h"

/* Of the flex groups of a large file system so many are compared. */
#define COMPARED_MAX 256u

#define HASH_MULTIPLIER 0x9E3779B1u

uint32_t ialloc_free_inodes(struct uext4_fs *fs)
{
	return atomic_load(&fs->balloc->inodes_free);
}

/* ---- where to -------------------------------------------------------------------------------- */

/* Sums of a flex group; free clusters saturate nowhere near. */
struct flex_stats {
	uint64_t clusters;
	uint64_t inodes;
	uint64_t dirs;
};

static uint32_t flex_count(const struct balloc *b)
{
	return (uint32_t)((((uint64_t)b->geom->groups - 1) >> b->flex_bits) + 1);
}

static uint32_t flex_first(const struct balloc *b, uint32_t flex)
{
	return flex << b->flex_bits;
}

static uint32_t flex_end(const struct balloc *b, uint32_t flex)
{
	return (uint32_t)min_u64(((uint64_t)flex + 1) << b->flex_bits, b->geom->groups);
}

static struct flex_stats flex_sum(struct balloc *b, uint32_t flex)
{
	struct flex_stats st = { 0 };

	for (uint32_t i = flex_first(b, flex); i < flex_end(b, flex); i++) {
		st.clusters += atomic_load_explicit(&b->groups[i].free, memory_order_relaxed);
		st.inodes += atomic_load_explicit(&b->groups[i].inodes_free, memory_order_relaxed);
		st.dirs += atomic_load_explicit(&b->groups[i].dirs, memory_order_relaxed);
	}
	return st;
}

/* Averages of all flex groups. */
static struct flex_stats flex_average(struct balloc *b)
{
	int64_t avail = atomic_load(&b->avail);
	uint32_t count = flex_count(b);

	return (struct flex_stats){
		.clusters = (uint64_t)(avail > 0 ? avail : 0) / count,
		.inodes = atomic_load(&b->inodes_free) / count,
		.dirs = atomic_load(&b->dirs) / count,
	};
}

static uint32_t group_of_inode(const struct geom *g, uint32_t ino)
{
	return (ino - 1) / g->inodes_per_group;
}

/* At the top nothing tells which directories belong together. */
static bool is_top(const struct inode *parent)
{
	return !parent || parent->ino == EXT4_ROOT_INO || inode_has_flag(parent, EXT4_TOPDIR_FL);
}

/* An eighth less than the average is no reason to avoid a group. */
static uint64_t nearly(uint64_t average)
{
	return average - average / 8;
}

/*
 * The flex group with the fewest directories of those that have nearly average room; *ret untouched
 * if none has.
 */
static void spread_dir(struct balloc *b, struct flex_stats average, uint32_t *ret)
{
	uint32_t count = flex_count(b), compared = (uint32_t)min_u64(count, COMPARED_MAX);
	uint32_t flex = (uint32_t)(random_u64() % count);
	uint64_t fewest = UINT64_MAX;

	for (; compared > 0; compared--, flex = flex + 1 < count ? flex + 1 : 0) {
		struct flex_stats st = flex_sum(b, flex);

		if (st.inodes == 0 || st.inodes < nearly(average.inodes) ||
		    st.clusters < nearly(average.clusters) || st.dirs >= fewest)
			continue;
		fewest = st.dirs;
		*ret = flex;
	}
}

/* The first flex group from the parent's on that is not crowded, compared with the average. */
static void nest_dir(struct balloc *b, struct flex_stats average, uint32_t *ret)
{
	const struct geom *g = b->geom;
	uint64_t size = (uint64_t)(flex_end(b, 0) - flex_first(b, 0));
	uint64_t inodes_slack = g->inodes_per_group * size / 4;
	uint64_t clusters_slack = g->clusters_per_group * size / 4;
	uint64_t dirs_max = average.dirs + g->inodes_per_group * size / 16;
	uint64_t inodes_min = average.inodes > inodes_slack ? average.inodes - inodes_slack : 1;
	uint64_t clusters_min = average.clusters > clusters_slack
					? average.clusters - clusters_slack
					: 0;
	uint32_t count = flex_count(b), compared = (uint32_t)min_u64(count, COMPARED_MAX);
	uint32_t flex = *ret;

	for (; compared > 0; compared--, flex = flex + 1 < count ? flex + 1 : 0) {
		struct flex_stats st = flex_sum(b, flex);

		if (st.dirs < dirs_max && st.inodes >= inodes_min && st.clusters >= clusters_min) {
			*ret = flex;
			return;
		}
	}
}

/* The group to begin looking at. */
static uint32_t preferred_group(struct balloc *b, const struct inode *parent, bool is_dir)
{
	uint32_t group = parent ? group_of_inode(b->geom, parent->ino) : 0;
	uint32_t parent_flex = group >> b->flex_bits, flex = parent_flex;

	if (is_dir && is_top(parent))
		spread_dir(b, flex_average(b), &flex);
	else if (is_dir)
		nest_dir(b, flex_average(b), &flex);
	/* Without flex groups files of a full directory's group go where its number says. */
	else if (b->flex_bits == 0 && parent && atomic_load(&b->groups[group].inodes_free) == 0)
		return (uint32_t)((uint64_t)(parent->ino * HASH_MULTIPLIER) % b->geom->groups);
	return flex == parent_flex && !is_dir ? group : flex_first(b, flex);
}

/* ---- taking one ------------------------------------------------------------------------------ */

/*
 * Does the inode with number @index in its group begin a block of the table that was never
 * written?
 */
static bool is_fresh_table_block(const struct balloc *b, const struct group_bufs *gb,
				 uint32_t index)
{
	const struct geom *g = b->geom;
	uint32_t flags = atomic_load(&b->groups[gb->group].flags), unused, used;

	if (!desc_has_flags(g) || (flags & EXT4_BG_INODE_ZEROED))
		return false;
	unused = desc_get16(g, &gb->gd->bg_itable_unused_lo, &gb->gd->bg_itable_unused_hi);
	used = flags & EXT4_BG_INODE_UNINIT ? 0 : g->inodes_per_group - unused;
	return index / g->inodes_per_block >= div_round_up(used, g->inodes_per_block);
}

/* Numbers below the first one that is given away are in use, whatever the bitmap says. */
static uint32_t first_index(const struct balloc *b, uint32_t group)
{
	return group == 0 ? b->geom->first_ino - 1 : 0;
}

/* Group lock.  N1; inodes_per_group if there is none. */
static uint32_t lowest_free(const struct balloc *b, const struct group_bufs *gb)
{
	uint32_t first = first_index(b, gb->group);

	if (atomic_load(&b->groups[gb->group].flags) & EXT4_BG_INODE_UNINIT)
		return first;
	return bitmap_find_zero(gb->bitmap_buf->data, first, b->geom->inodes_per_group);
}

/* N2.  Group lock: whose first inode it is, is known only under it.  Reads nothing. */
static int zero_table_block(struct handle *h, struct balloc *b, const struct group_bufs *gb,
			    uint32_t index)
{
	blk_t blk = desc_inode_table(b->geom, gb->gd) + index / b->geom->inodes_per_block;
	struct buf *buf BUF_SCOPE = NULL;
	int err;

	err = buf_create(b->fs->cache, blk, &inode_table_ops, 0, &buf);
	if (err == 0)
		err = handle_get_create(h, buf);
	if (err == 0)
		handle_dirty(h, buf);
	return err;
}

/*
 * The kernel wants the blocks of a table in use to be marked so: with the first inode the block
 * bitmap comes to life.  @blocks: it, read beforehand.
 */
static int write_block_bitmap(struct handle *h, struct balloc *b, struct group_bufs *blocks)
{
	int err = group_bufs_get_write(h, b, blocks, false);

	if (err == 0)
		group_bufs_dirty(h, b, blocks);
	return err;
}

static bool block_bitmap_is_uninit(const struct balloc *b, uint32_t group)
{
	return atomic_load(&b->groups[group].flags) & EXT4_BG_BLOCK_UNINIT;
}

/* Group lock. */
static void take_inode(struct handle *h, struct balloc *b, struct group_bufs *gb, uint32_t index,
		       bool was_uninit, bool is_dir)
{
	const struct geom *g = b->geom;
	struct group *grp = &b->groups[gb->group];
	struct ext4_group_desc *gd = gb->gd;
	uint32_t used = 0;

	bitmap_set(gb->bitmap_buf->data, index, 1);
	desc_set16(g, &gd->bg_free_inodes_count_lo, &gd->bg_free_inodes_count_hi,
		   atomic_fetch_sub(&grp->inodes_free, 1) - 1);
	if (is_dir)
		desc_set16(g, &gd->bg_used_dirs_count_lo, &gd->bg_used_dirs_count_hi,
			   atomic_fetch_add(&grp->dirs, 1) + 1);
	if (desc_has_flags(g)) {
		if (!was_uninit)
			used = g->inodes_per_group -
			       desc_get16(g, &gd->bg_itable_unused_lo, &gd->bg_itable_unused_hi);
		if (index >= used)
			used = index + 1;
		desc_set16(g, &gd->bg_itable_unused_lo, &gd->bg_itable_unused_hi,
			   g->inodes_per_group - used);
	}
	group_bufs_dirty(h, b, gb);
}

/* Group lock. */
static int alloc_locked(struct handle *h, struct balloc *b, struct group_bufs *gb,
			struct group_bufs *blocks, uint32_t index, bool is_dir)
{
	bool uninit = atomic_load(&b->groups[gb->group].flags) & EXT4_BG_INODE_UNINIT;
	int err = 0;

	if (is_fresh_table_block(b, gb, index))
		err = zero_table_block(h, b, gb, index);
	if (err == 0 && block_bitmap_is_uninit(b, gb->group))
		err = write_block_bitmap(h, b, blocks);
	if (err == 0)
		err = group_bufs_get_write(h, b, gb, true);
	if (err == 0)
		take_inode(h, b, gb, index, uninit, is_dir);
	return err;
}

static bool is_damage(int err)
{
	return err == -EFSCORRUPTED || err == -EFSBADCRC || err == -EIO;
}

/* What taking an inode of @group needs.  Damage is reported, and is -ENOSPC without text. */
static int read_for_alloc(struct balloc *b, uint32_t group, struct group_bufs *gb,
			  struct group_bufs *blocks)
{
	int err = group_bufs_read(b, group, true, gb);

	/* What is initialised stays so. */
	if (err == 0 && block_bitmap_is_uninit(b, group))
		err = group_bufs_read(b, group, false, blocks);
	if (!is_damage(err))
		return err;
	group_set_bad(b, group, GROUP_INODES_BAD, err);
	return -ENOSPC;
}

/* An inode that its group has given away is gone from the file system's counters too. */
static void count_taken(struct balloc *b, bool is_dir)
{
	atomic_fetch_sub(&b->inodes_free, 1);
	if (is_dir)
		atomic_fetch_add(&b->dirs, 1);
}

/* A number of @group.  -ENOSPC, without text: none is free, or the group is damaged. */
static int alloc_in_group(struct handle *h, struct balloc *b, uint32_t group, bool is_dir,
			  uint32_t *ret_ino)
{
	struct group_bufs gb GROUP_BUFS_SCOPE = { 0 };
	struct group_bufs blocks GROUP_BUFS_SCOPE = { 0 };
	struct group *grp = &b->groups[group];
	uint32_t index, free;
	int err;

	if (atomic_load_explicit(&grp->inodes_free, memory_order_relaxed) == 0)
		return -ENOSPC;
	err = read_for_alloc(b, group, &gb, &blocks);
	if (err < 0)
		return err;
	group_lock(b, group);
	free = atomic_load(&grp->inodes_free); /* somebody else may have been faster */
	index = lowest_free(b, &gb);
	if (free > 0 && index < b->geom->inodes_per_group)
		err = alloc_locked(h, b, &gb, &blocks, index, is_dir);
	group_unlock(b, group);
	if (free > 0 && index == b->geom->inodes_per_group) {
		err = corrupt("inode bitmap of group %u is full, the descriptor says %u are free",
			      group, free);
		group_set_bad(b, group, GROUP_INODES_BAD, err);
		free = 0;
	}
	if (free == 0)
		return -ENOSPC;
	if (err < 0)
		return err;
	count_taken(b, is_dir);
	*ret_ino = group * b->geom->inodes_per_group + index + 1;
	return 0;
}

/* Groups of [@first, @end). */
static int alloc_in_range(struct handle *h, struct balloc *b, uint32_t first, uint32_t end,
			  bool is_dir, uint32_t *ret_ino)
{
	int err = -ENOSPC;

	for (uint32_t group = first; group < end && err == -ENOSPC; group++)
		err = alloc_in_group(h, b, group, is_dir, ret_ino);
	return err;
}

int ialloc_alloc(struct handle *h, struct uext4_fs *fs, struct inode *parent, bool is_dir,
		 uint32_t *ret_ino)
{
	struct balloc *b = fs->balloc;
	uint32_t group, flex, first, end;
	int err = -ENOSPC;

	lockrank_may_acquire(RANK_group);
	if (atomic_load(&b->inodes_free) > 0) {
		group = preferred_group(b, parent, is_dir);
		flex = group >> b->flex_bits;
		first = flex_first(b, flex);
		end = flex_end(b, flex);
		err = alloc_in_range(h, b, group, end, is_dir, ret_ino);
		if (err == -ENOSPC)
			err = alloc_in_range(h, b, first, group, is_dir, ret_ino);
		if (err == -ENOSPC)
			err = alloc_in_range(h, b, end, b->geom->groups, is_dir, ret_ino);
		if (err == -ENOSPC)
			err = alloc_in_range(h, b, 0, first, is_dir, ret_ino);
	}
	return err == -ENOSPC ? fail(-ENOSPC, "no free inode") : err;
}

/* ---- giving one back ------------------------------------------------------------------------- */

/* Group lock. */
static int free_locked(struct handle *h, struct balloc *b, struct group_bufs *gb, uint32_t index,
		       bool is_dir)
{
	const struct geom *g = b->geom;
	struct group *grp = &b->groups[gb->group];
	struct ext4_group_desc *gd = gb->gd;
	uint32_t dirs = atomic_load(&grp->dirs);
	int err;

	if ((atomic_load(&grp->flags) & EXT4_BG_INODE_UNINIT) ||
	    bitmap_count(gb->bitmap_buf->data, index, 1) == 0)
		return corrupt("inode %u is freed, but not in use",
			       gb->group * g->inodes_per_group + index + 1);
	err = group_bufs_get_write(h, b, gb, true);
	if (err < 0)
		return err;
	bitmap_clear(gb->bitmap_buf->data, index, 1);
	desc_set16(g, &gd->bg_free_inodes_count_lo, &gd->bg_free_inodes_count_hi,
		   atomic_fetch_add(&grp->inodes_free, 1) + 1);
	if (is_dir && dirs > 0) {
		atomic_store(&grp->dirs, dirs - 1);
		desc_set16(g, &gd->bg_used_dirs_count_lo, &gd->bg_used_dirs_count_hi, dirs - 1);
		atomic_fetch_sub(&b->dirs, 1);
	}
	group_bufs_dirty(h, b, gb);
	atomic_fetch_add(&b->inodes_free, 1);
	return 0;
}

/* In a group whose bitmap is damaged nothing is freed: the inode stays in use until fsck comes. */
int ialloc_free(struct handle *h, struct uext4_fs *fs, uint32_t ino, bool is_dir)
{
	struct balloc *b = fs->balloc;
	struct group_bufs gb GROUP_BUFS_SCOPE = { 0 };
	uint32_t group;
	int err;

	lockrank_may_acquire(RANK_group);
	if (ino < b->geom->first_ino || ino > b->geom->inodes)
		return fs_error(fs, corrupt("inode %u is freed", ino), ino, 0);
	group = group_of_inode(b->geom, ino);
	if (atomic_load(&b->groups[group].flags) & GROUP_INODES_BAD)
		return 0;
	err = group_bufs_read(b, group, true, &gb);
	if (is_damage(err)) {
		group_set_bad(b, group, GROUP_INODES_BAD, err);
		return 0;
	}
	if (err < 0)
		return err;
	group_lock(b, group);
	err = free_locked(h, b, &gb, (ino - 1) % b->geom->inodes_per_group, is_dir);
	group_unlock(b, group);
	if (err == -EFSCORRUPTED || err == -EFSBADCRC)
		return fs_error(fs, err, ino, 0);
	return err;
}

/* ---- a certain one --------------------------------------------------------------------------- */

static int read_group_of(struct balloc *b, uint32_t ino, struct group_bufs *gb)
{
	uint32_t group = group_of_inode(b->geom, ino);

	if (atomic_load(&b->groups[group].flags) & GROUP_INODES_BAD)
		return fail(-EFSCORRUPTED, "the inode bitmap of group %u is damaged", group);
	return group_bufs_read(b, group, true, gb);
}

/* Group lock. */
static bool is_used(const struct balloc *b, const struct group_bufs *gb, uint32_t index)
{
	if (index < first_index(b, gb->group))
		return true;
	return !(atomic_load(&b->groups[gb->group].flags) & EXT4_BG_INODE_UNINIT) &&
	       bitmap_count(gb->bitmap_buf->data, index, 1) != 0;
}

int ialloc_is_used(struct uext4_fs *fs, uint32_t ino, bool *ret_used)
{
	struct balloc *b = fs->balloc;
	struct group_bufs gb GROUP_BUFS_SCOPE = { 0 };
	int err;

	assert(ino > 0 && ino <= b->geom->inodes);
	lockrank_may_acquire(RANK_group);
	err = read_group_of(b, ino, &gb);
	if (err < 0)
		return err;
	group_lock(b, gb.group);
	*ret_used = is_used(b, &gb, (ino - 1) % b->geom->inodes_per_group);
	group_unlock(b, gb.group);
	return 0;
}

/* Group lock.  N2, of the blocks before that of @index: what is behind them comes into use. */
static int zero_table_before(struct handle *h, struct balloc *b, const struct group_bufs *gb,
			     uint32_t index)
{
	const uint32_t step = b->geom->inodes_per_block;
	int err = 0;

	for (uint32_t at = 0; at / step < index / step && err == 0; at += step) {
		if (!is_fresh_table_block(b, gb, at))
			continue;
		if (handle_credits(h) < IALLOC_CREDITS + 1 && !handle_extend(h, 1))
			return fail(-E2BIG,
				    "a transaction has no room for a part of an inode table");
		err = zero_table_block(h, b, gb, at);
	}
	return err;
}

int ialloc_take(struct handle *h, struct uext4_fs *fs, uint32_t ino, bool is_dir)
{
	struct balloc *b = fs->balloc;
	struct group_bufs gb GROUP_BUFS_SCOPE = { 0 };
	struct group_bufs blocks GROUP_BUFS_SCOPE = { 0 };
	uint32_t index = (ino - 1) % b->geom->inodes_per_group;
	int err;

	assert(ino >= b->geom->first_ino && ino <= b->geom->inodes);
	lockrank_may_acquire(RANK_group);
	err = read_group_of(b, ino, &gb);
	if (err == 0 && block_bitmap_is_uninit(b, gb.group))
		err = group_bufs_read(b, gb.group, false, &blocks);
	if (err < 0)
		return err;
	group_lock(b, gb.group);
	if (is_used(b, &gb, index))
		err = corrupt("inode %u is taken, but in use", ino);
	if (err == 0)
		err = zero_table_before(h, b, &gb, index);
	if (err == 0)
		err = alloc_locked(h, b, &gb, &blocks, index, is_dir);
	group_unlock(b, gb.group);
	if (err < 0)
		return err;
	count_taken(b, is_dir);
	return 0;
}
