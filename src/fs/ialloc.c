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
#define COMPARED_MAX 1024u

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
	if (atomic_load(&b->groups[gb->group].flags) & EXT4_BG_INODE_UNINIT)
		return 0;
	return bitmap_find_zero(gb->bitmap_buf->data, first_index(b, gb->group),
				b->geom->inodes_per_group);
}

/* Blocks of the group that must be written besides bitmap and descriptor, read beforehand. */
struct extra_bufs {
	struct buf *table; /* N2 */
	uint32_t table_index;
	struct group_bufs blocks; /* a block bitmap that was never initialised */
};

static void extra_bufs_put(struct extra_bufs *x)
{
	buf_put(x->table);
	group_bufs_put(&x->blocks);
}

/* Reads what taking @index needs and is not there. */
static int extra_bufs_read(struct balloc *b, const struct group_bufs *gb, uint32_t index,
			   bool fresh, struct extra_bufs *x)
{
	uint32_t flags = atomic_load(&b->groups[gb->group].flags);
	int err = 0;

	if (fresh) {
		buf_put(x->table);
		x->table = NULL;
		x->table_index = index / b->geom->inodes_per_block;
		err = buf_read(b->fs->cache, desc_inode_table(b->geom, gb->gd) + x->table_index,
			       &inode_table_ops, 0, NULL, 0, &x->table);
	}
	if (err == 0 && (flags & EXT4_BG_BLOCK_UNINIT) && !x->blocks.bitmap_buf)
		err = group_bufs_read(b, gb->group, false, &x->blocks);
	return err;
}

/* Group lock.  Is all there that taking @index changes? */
static bool extra_bufs_suffice(const struct balloc *b, const struct group_bufs *gb, uint32_t index,
			       bool fresh, const struct extra_bufs *x)
{
	if ((atomic_load(&b->groups[gb->group].flags) & EXT4_BG_BLOCK_UNINIT) &&
	    !x->blocks.bitmap_buf)
		return false;
	return !fresh || (x->table && x->table_index == index / b->geom->inodes_per_block);
}

/* Group lock.  Nothing that counts has changed after an error. */
static int write_extra(struct handle *h, struct balloc *b, const struct group_bufs *gb, bool fresh,
		       struct extra_bufs *x)
{
	int err;

	if (fresh) {
		err = handle_get_write(h, x->table);
		if (err < 0)
			return err;
		memset(x->table->data, 0, x->table->bytes);
		handle_dirty(h, x->table);
	}
	/* The kernel wants the blocks of a table in use to be marked so. */
	if (atomic_load(&b->groups[gb->group].flags) & EXT4_BG_BLOCK_UNINIT) {
		err = group_bufs_get_write(h, b, &x->blocks, false);
		if (err < 0)
			return err;
		group_bufs_dirty(h, b, &x->blocks, false);
	}
	return 0;
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
	group_bufs_dirty(h, b, gb, true);
}

/*
 * -ENOSPC, without text: somebody else was faster.  -EFSCORRUPTED: the bitmap is full, and the
 * descriptor says it is not.  -EAGAIN: something must be read before.
 */
static int alloc_locked(struct handle *h, struct balloc *b, struct group_bufs *gb,
			struct extra_bufs *x, bool is_dir, uint32_t *ret_index)
{
	struct group *grp = &b->groups[gb->group];
	bool uninit = atomic_load(&grp->flags) & EXT4_BG_INODE_UNINIT, fresh;
	uint32_t index;
	int err;

	if (atomic_load(&grp->inodes_free) == 0)
		return -ENOSPC;
	index = *ret_index = lowest_free(b, gb);
	if (index >= b->geom->inodes_per_group)
		return corrupt("inode bitmap of group %u is full, the descriptor says %u are free",
			       gb->group, atomic_load(&grp->inodes_free));
	fresh = is_fresh_table_block(b, gb, index);
	if (!extra_bufs_suffice(b, gb, index, fresh, x))
		return -EAGAIN;
	err = write_extra(h, b, gb, fresh, x);
	if (err == 0)
		err = group_bufs_get_write(h, b, gb, true);
	if (err == 0)
		take_inode(h, b, gb, index, uninit, is_dir);
	return err;
}

/* A number of @group.  -ENOSPC, without text: none is free, or the group is damaged. */
static int alloc_in_group(struct handle *h, struct balloc *b, uint32_t group, bool is_dir,
			  uint32_t *ret_ino)
{
	struct group_bufs gb GROUP_BUFS_SCOPE = { 0 };
	struct extra_bufs extra CLEANUP(extra_bufs_put) = { 0 };
	uint32_t index = 0;
	int err;

	if (atomic_load_explicit(&b->groups[group].inodes_free, memory_order_relaxed) == 0)
		return -ENOSPC;
	err = group_bufs_read(b, group, true, &gb);
	while (err == 0) {
		bool fresh;

		group_lock(b, group);
		err = alloc_locked(h, b, &gb, &extra, is_dir, &index);
		fresh = err == -EAGAIN && is_fresh_table_block(b, &gb, index);
		group_unlock(b, group);
		if (err != -EAGAIN)
			break;
		err = extra_bufs_read(b, &gb, index, fresh, &extra);
	}
	if (err == -EFSCORRUPTED || err == -EFSBADCRC || err == -EIO) {
		group_set_bad(b, group, GROUP_INODES_BAD, err);
		return -ENOSPC;
	}
	if (err < 0)
		return err;
	atomic_fetch_sub(&b->inodes_free, 1);
	if (is_dir)
		atomic_fetch_add(&b->dirs, 1);
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
	group_bufs_dirty(h, b, gb, true);
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
	if (err == -EFSCORRUPTED || err == -EFSBADCRC || err == -EIO) {
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
