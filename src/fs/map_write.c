/* SPDX-License-Identifier: MIT */
/*
 * Mapping of logical to physical blocks: changes.
 *
 * The one way from "these blocks are taken" to "they are block 7 and 8 of this file", and back.
 * Chooses between extent tree and block map, keeps i_blocks and the quota, and brings space and map
 * together for who wants both at once.
 *
 *  MW1  A change is whole or has not been: what can fail (space, quota, reading, the handle) comes
 *       before the first byte that changes.  What fails behind it aborts the journal.
 *  MW2  The inode is stored in the handle of each change, with its new i_blocks.
 */
#include "fs/map_priv.h"
#include "fs/quota.h"

#include "base/diag.h"

#define META_FREE_MAX 64u
#define MEMORY_WAITS_MAX 100u /* of a millisecond */

/* ---- accounts -------------------------------------------------------------------------------- */

int map_charge(struct handle *h, struct inode *ip, uint64_t blocks, uint32_t flags)
{
	struct buf *buf BUF_SCOPE = NULL;
	int err;

	/* So that the store which comes behind the change cannot fail. */
	err = inode_table_buf(ip, &buf);
	if (err == 0)
		err = handle_get_write(h, buf);
	if (err < 0 || blocks == 0)
		return err;
	return flags & BALLOC_META ? quota_charge_promised(h, ip, blocks)
				   : quota_charge_blocks(h, ip, (int64_t)blocks);
}

void map_uncharge(struct handle *h, struct inode *ip, uint64_t blocks)
{
	int err = 0;

	if (blocks > 0)
		err = quota_charge_blocks(h, ip, -(int64_t)blocks);
	if (err < 0) /* giving back fails for no reason but a broken journal */
		txn_log_abort(ip->fs->log, err);
}

uint32_t map_credits_left(const struct handle *h, const struct inode *ip)
{
	uint32_t credits = handle_credits(h), quota = quota_credits(ip->fs);

	return credits - (uint32_t)min_u64(credits, quota);
}

int map_settle(struct handle *h, struct inode *ip, int64_t blocks)
{
	int err;

	if (blocks != 0)
		inode_add_blocks(ip, blocks);
	err = inode_store(h, ip);
	if (err < 0)
		txn_log_abort(ip->fs->log, err);
	return err;
}

/* ---- blocks of the map and of the contents --------------------------------------------------- */

int map_node_create(struct handle *h, struct inode *ip, blk_t goal, uint32_t flags,
		    const struct buf_ops *ops, struct buf **ret_buf)
{
	struct buf *buf = NULL;
	blk_t blk;
	int err;

	err = balloc_alloc_meta(h, ip->fs, ip, goal, flags, &blk);
	if (err < 0)
		return err;
	err = buf_create(ip->fs->cache, blk, ops, inode_buf_owner(ip), &buf);
	if (err == 0)
		err = handle_get_create(h, buf);
	if (err < 0) {
		buf_put(buf);
		map_node_drop(h, ip, blk);
		return err;
	}
	*ret_buf = buf;
	return 0;
}

int map_node_free(struct handle *h, struct inode *ip, blk_t blk)
{
	return balloc_free(h, ip->fs, blk, 1, BALLOC_FREE_META);
}

void map_node_drop(struct handle *h, struct inode *ip, blk_t blk)
{
	int err = map_node_free(h, ip, blk);

	for (unsigned i = 0; err == -ENOMEM && i < MEMORY_WAITS_MAX; i++) {
		sleep_ms(1);
		err = map_node_free(h, ip, blk);
	}
	if (err < 0)
		txn_log_abort(ip->fs->log, err);
}

bool map_data_is_meta(const struct inode *ip)
{
	return !inode_is_reg(ip) || ip->fs->data_mode == FS_DATA_JOURNAL ||
	       inode_has_flag(ip, EXT4_JOURNAL_DATA_FL | EXT4_EA_INODE_FL);
}

int map_data_free(struct handle *h, struct inode *ip, blk_t start, uint32_t count)
{
	return balloc_free(h, ip->fs, start, count, map_data_is_meta(ip) ? BALLOC_FREE_META : 0);
}

uint32_t map_free_count(const struct inode *ip, blk_t blk, uint32_t count)
{
	const struct geom *g = &ip->fs->geom;
	const blk_t end = blk + count;
	const blk_t group = end - 1 - (end - 1 - g->first_data_block) % g->blocks_per_group;
	blk_t from = max_u64(blk, group);

	if (map_data_is_meta(ip) && end - from > META_FREE_MAX) /* in whole clusters */
		from = max_u64(from, (end - META_FREE_MAX) & ~(blk_t)(g->cluster_ratio - 1));
	return (uint32_t)(end - from);
}

/* ---- clusters -------------------------------------------------------------------------------- */

static int find(struct inode *ip, lblk_t logical, struct map_ext *ret_ext)
{
	return inode_has_flag(ip, EXT4_EXTENTS_FL) ? extent_find(ip, logical, ret_ext)
						   : indirect_find(ip, logical, ret_ext);
}

static int cluster_find(struct inode *ip, lblk_t logical, blk_t *ret_blk, uint32_t *ret_count)
{
	const uint32_t ratio = ip->fs->geom.cluster_ratio;
	const lblk_t start = logical & ~(ratio - 1);
	const lblk_t end = (lblk_t)min_u64((uint64_t)start + ratio, UINT32_MAX);
	lblk_t limit = end;
	blk_t blk = 0;

	for (lblk_t at = start; ratio > 1 && at < end;) {
		struct map_ext ext;
		int err = find(ip, at, &ext);

		if (err < 0)
			return err;
		at = ext.logical + ext.count;
		if (ext.state == MAP_HOLE)
			continue;
		if ((ext.logical ^ ext.physical) & (ratio - 1))
			return corrupt("inode %u: block %u lies at %llu, not in its place in the "
				       "cluster",
				       ip->ino, ext.logical, (unsigned long long)ext.physical);
		blk = ext.physical + logical - ext.logical;
		if (at > logical) {
			limit = (lblk_t)max_u64(ext.logical, logical);
			break;
		}
	}
	*ret_blk = blk;
	*ret_count = limit - logical;
	return 0;
}

int map_find_cluster(struct inode *ip, lblk_t logical, blk_t *ret_blk, uint32_t *ret_count)
{
	int err;

	assert(ip->state == INODE_BLOCKS);
	rwlock_read(&ip->map_lock);
	err = cluster_find(ip, logical, ret_blk, ret_count);
	rwlock_read_unlock(&ip->map_lock);
	return err;
}

/* ---- changes of the map alone ---------------------------------------------------------------- */

static int check_range(const struct inode *ip, lblk_t logical, uint32_t count)
{
	assert(ip->state == INODE_BLOCKS && ip->fc == NULL);
	assert(count > 0 && count <= MAP_COUNT_MAX);
	if ((uint64_t)logical + count > map_blocks_max(ip))
		return fail(-EFBIG, "inode %u: there are no blocks up to %llu", ip->ino,
			    (unsigned long long)logical + count - 1);
	return 0;
}

static int insert(struct handle *h, struct inode *ip, const struct map_ext *ext,
		  const struct blk_run *run, uint32_t flags)
{
	map_cache_forget(ip);
	if (inode_has_flag(ip, EXT4_EXTENTS_FL))
		return extent_insert(h, ip, ext, run, flags);
	if (ext->state == MAP_UNWRITTEN)
		return fail(-EOPNOTSUPP, "inode %u: a block map has no unwritten blocks", ip->ino);
	return indirect_insert(h, ip, ext, run, flags);
}

int map_insert(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count,
	       const struct blk_run *run, bool unwritten)
{
	const uint32_t ratio = ip->fs->geom.cluster_ratio, before = logical & (ratio - 1);
	const struct map_ext ext = { logical, count, run->start + before,
				     unwritten ? MAP_UNWRITTEN : MAP_WRITTEN };
	int err;

	assert(run->count == round_up_pow2(before + count, ratio));
	err = check_range(ip, logical, count);
	if (err < 0)
		return err;
	rwlock_write(&ip->map_lock);
	err = insert(h, ip, &ext, run, BALLOC_META);
	rwlock_write_unlock(&ip->map_lock);
	return err;
}

int map_insert_in_cluster(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count,
			  blk_t physical, bool unwritten)
{
	const struct map_ext ext = { logical, count, physical,
				     unwritten ? MAP_UNWRITTEN : MAP_WRITTEN };
	int err;

	err = check_range(ip, logical, count);
	if (err < 0)
		return err;
	rwlock_write(&ip->map_lock);
	err = insert(h, ip, &ext, NULL, BALLOC_META);
	rwlock_write_unlock(&ip->map_lock);
	return err;
}

static int convert(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count,
		   enum map_state state)
{
	int err;

	err = check_range(ip, logical, count);
	if (err < 0)
		return err;
	if (!inode_has_flag(ip, EXT4_EXTENTS_FL))
		return fail(-EOPNOTSUPP, "inode %u: a block map has no unwritten blocks", ip->ino);
	rwlock_write(&ip->map_lock);
	map_cache_forget(ip);
	/* What has its place already must not be lost for want of a block of the tree. */
	err = extent_convert(h, ip, logical, count, state, state == MAP_WRITTEN ? BALLOC_META : 0);
	rwlock_write_unlock(&ip->map_lock);
	return err;
}

int map_convert_written(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count)
{
	return convert(h, ip, logical, count, MAP_WRITTEN);
}

int map_convert_unwritten(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count)
{
	return convert(h, ip, logical, count, MAP_UNWRITTEN);
}

/* What a step may need, so that each call that comes with map_credits() gets on. */
static uint32_t step_credits(const struct inode *ip)
{
	uint32_t credits = inode_has_flag(ip, EXT4_EXTENTS_FL) ? extent_remove_credits(ip)
							       : indirect_remove_credits();

	return credits + INODE_STORE_CREDITS + quota_credits(ip->fs);
}

static int remove_locked(struct handle *h, struct inode *ip, lblk_t first, lblk_t *end)
{
	uint64_t blocks = 0;
	int err;

	if (handle_credits(h) < step_credits(ip))
		return 0;
	map_cache_forget(ip);
	err = map_charge(h, ip, 0, 0);
	if (err < 0)
		return err;
	if (inode_has_flag(ip, EXT4_EXTENTS_FL))
		err = extent_remove(h, ip, first, end, &blocks);
	else
		err = indirect_remove(h, ip, first, end, &blocks);
	map_uncharge(h, ip, blocks);
	return first_error(err, map_settle(h, ip, -(int64_t)blocks));
}

int map_remove(struct handle *h, struct inode *ip, lblk_t first, uint32_t count, uint32_t *ret_left)
{
	lblk_t end = (lblk_t)min_u64((uint64_t)first + count, UINT32_MAX);
	int err = 0;

	assert(ip->state == INODE_BLOCKS && ip->fc == NULL);
	if (end > first) {
		rwlock_write(&ip->map_lock);
		err = remove_locked(h, ip, first, &end);
		rwlock_write_unlock(&ip->map_lock);
	}
	if (err == 0)
		*ret_left = end > first ? end - first : 0;
	return err;
}

/* ---- space and map at once ------------------------------------------------------------------- */

/* Where blocks of a hole are to lie. */
struct spot {
	struct map_ext ext;
	struct blk_run run; /* taken for it; count 0: they lie in a cluster that is the file's */
};

static int goal_find(struct inode *ip, lblk_t logical, blk_t *ret_goal)
{
	return inode_has_flag(ip, EXT4_EXTENTS_FL) ? extent_goal(ip, logical, ret_goal)
						   : indirect_goal(ip, logical, ret_goal);
}

int map_goal(struct inode *ip, lblk_t logical, blk_t *ret_goal)
{
	int err;

	assert(ip->state == INODE_BLOCKS);
	rwlock_read(&ip->map_lock);
	err = goal_find(ip, logical, ret_goal);
	rwlock_read_unlock(&ip->map_lock);
	return err;
}

/* How many of @count blocks from @logical, a hole, on lie in clusters that are not the file's. */
static int clip_to_hole(struct inode *ip, lblk_t logical, uint32_t *count)
{
	const uint32_t mask = ip->fs->geom.cluster_ratio - 1;
	struct map_ext hole;
	lblk_t end = logical + *count, hole_end;
	int err;

	err = find(ip, logical, &hole);
	if (err < 0)
		return err;
	if (hole.state != MAP_HOLE)
		return corrupt("inode %u: block %u is mapped already", ip->ino, logical);
	hole_end = hole.logical + hole.count;
	/* The last cluster is shared with what is mapped behind the hole. */
	if (hole_end < UINT32_MAX && end > (hole_end & ~mask))
		end = (lblk_t)max_u64(hole_end & ~mask, logical + 1);
	*count = (uint32_t)min_u64(end, hole_end) - logical;
	return 0;
}

/* Takes up to @count blocks for the hole at @logical, in memory. */
static int spot_take(struct inode *ip, lblk_t logical, uint32_t count, uint32_t flags,
		     struct spot *ret)
{
	const uint32_t mask = ip->fs->geom.cluster_ratio - 1, before = logical & mask;
	struct balloc_request rq = { .ip = ip, .logical = logical, .flags = flags };
	struct spot spot = { .ext = { .logical = logical, .count = count } };
	blk_t blk;
	uint32_t in_cluster;
	int err;

	err = clip_to_hole(ip, logical, &spot.ext.count);
	if (err == 0)
		err = cluster_find(ip, logical, &blk, &in_cluster);
	if (err < 0)
		return err;
	if (blk != 0) {
		spot.ext.count = (uint32_t)min_u64(count, in_cluster);
		spot.ext.physical = blk;
		*ret = spot;
		return 0;
	}
	err = goal_find(ip, logical - before, &rq.goal);
	if (err < 0)
		return err;
	rq.count = spot.ext.count;
	err = balloc_alloc(ip->fs, &rq, &spot.run);
	if (err < 0)
		return err;
	spot.ext.count = (uint32_t)min_u64(spot.ext.count, spot.run.count - before);
	spot.ext.physical = spot.run.start + before;
	*ret = spot;
	return 0;
}

/* Maps it; after an error what was taken is given back. */
static int spot_map(struct handle *h, struct inode *ip, const struct spot *spot, uint32_t flags)
{
	const struct blk_run *run = spot->run.count > 0 ? &spot->run : NULL;
	int err;

	err = insert(h, ip, &spot->ext, run,
		     (flags & BALLOC_ROOT) | (flags & BALLOC_RESERVED ? BALLOC_META : 0));
	if (err < 0 && run)
		balloc_cancel(ip->fs, run, flags & BALLOC_RESERVED);
	return err;
}

int map_alloc(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count, bool unwritten,
	      uint32_t flags, struct map_ext *ret_ext)
{
	struct spot spot;
	int err;

	count = (uint32_t)min_u64(count, MAP_COUNT_MAX);
	err = check_range(ip, logical, count);
	if (err < 0)
		return err;
	if (unwritten && !inode_has_flag(ip, EXT4_EXTENTS_FL))
		return fail(-EOPNOTSUPP, "inode %u: a block map has no unwritten blocks", ip->ino);
	rwlock_write(&ip->map_lock);
	err = spot_take(ip, logical, count, flags, &spot);
	if (err == 0) {
		spot.ext.state = unwritten ? MAP_UNWRITTEN : MAP_WRITTEN;
		err = spot_map(h, ip, &spot, flags);
	}
	rwlock_write_unlock(&ip->map_lock);
	if (err == 0)
		*ret_ext = spot.ext;
	return err;
}

int map_add_buf(struct handle *h, struct inode *ip, lblk_t logical, const struct buf_ops *ops,
		struct buf **ret_buf)
{
	struct buf *buf = NULL;
	struct spot spot;
	int err;

	err = check_range(ip, logical, 1);
	if (err < 0)
		return err;
	rwlock_write(&ip->map_lock);
	err = spot_take(ip, logical, 1, 0, &spot);
	if (err == 0) {
		spot.ext.state = MAP_WRITTEN;
		err = buf_create(ip->fs->cache, spot.ext.physical, ops, inode_buf_owner(ip), &buf);
		if (err == 0)
			err = spot_map(h, ip, &spot, 0);
		else if (spot.run.count > 0)
			balloc_cancel(ip->fs, &spot.run, false);
	}
	rwlock_write_unlock(&ip->map_lock);
	if (err == 0) {
		err = handle_get_create(h, buf);
		if (err < 0) /* it is mapped, and is not what it should be */
			txn_log_abort(ip->fs->log, err);
	}
	if (err < 0) {
		buf_put(buf);
		return err;
	}
	*ret_buf = buf;
	return 0;
}

/* ---- maps that begin ------------------------------------------------------------------------- */

void map_init(struct inode *ip)
{
	const bool extents = geom_has_incompat(&ip->fs->geom, EXT4_FEATURE_INCOMPAT_EXTENTS);

	rwlock_write(&ip->map_lock);
	map_cache_forget(ip);
	mutex_lock(&ip->raw_lock);
	memset(ip->raw->i_block, 0, EXT4_I_BLOCK_BYTES);
	if (extents) {
		const uint32_t max = (EXT4_I_BLOCK_BYTES - sizeof(struct ext4_extent_header)) /
				     sizeof(struct ext4_extent);
		struct ext4_extent_header eh = {
			.eh_magic = le16_make(EXT4_EXT_MAGIC),
			.eh_max = le16_make((uint16_t)max),
		};

		memcpy(ip->raw->i_block, &eh, sizeof(eh));
	}
	mutex_unlock(&ip->raw_lock);
	inode_set_flags(ip, extents ? EXT4_EXTENTS_FL : 0, extents ? 0 : EXT4_EXTENTS_FL);
	rwlock_write_unlock(&ip->map_lock);
}
