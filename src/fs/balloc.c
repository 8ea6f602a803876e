/* SPDX-License-Identifier: MIT */
/*
 * Blocks: who gets which, and how that is written down.
 *
 * The way of a request: it claims what it wants from the sum of what is available (so that ENOSPC
 * is exact and changes nothing), then looks for the bits: behind the goal, in what was set aside,
 * in the groups from the goal on that have enough together, in those that have half, ... and in the
 * end it takes back what was set aside for others.
 *
 *  L1  No group is read to find out that another one is better: descriptors give an upper bound,
 *      and a pass that was misled too often by it asks for less.
 *  L2  Bits move between groups and what is set aside without being lost (G2), so who has claimed
 *      them and missed them looks again.
 */
#include "fs/balloc_priv.h"
#include "fs/map.h"

#include "base/diag.h"
#include "base/mem.h"

/* Files up to 64 KiB are packed; what is set aside at once: 2 MiB for these, else up to 8 MiB. */
#define SMALL_BLOCKS 16u
#define LOCALITY_BLOCKS 512u
#define WINDOW_BLOCKS 2048u
/* Inside of a file, where nobody knows what comes next. */
#define CHUNK_CLUSTERS 64u
/* Nothing is set aside that is more than this part of what is left. */
#define ASIDE_PART 8

/* L1: bitmaps read in vain by one pass. */
#define LOADS_MAX 16u
/* L2. */
#define ROUNDS_MAX 1000u
#define ROUNDS_EAGER 8u

/* Bitmaps in memory, beyond those in which something is held. */
#define LOADED_BYTES (32u << 20)

/* Block maps have 32 bits for a block. */
#define MAPPED_BLOCKS_MAX (UINT64_C(1) << 32)

/* The kernel keeps a fiftieth, at most 4,096 clusters, for extents that must be split. */
#define RESERVE_PART 50u
#define RESERVE_MAX 4096u

/* ---- claims ---------------------------------------------------------------------------------- */

static int64_t floor_of(const struct balloc *b, uint32_t flags)
{
	if (flags & BALLOC_META)
		return 0;
	return flags & BALLOC_ROOT ? b->floor_root : b->floor_user;
}

/* Between @least and @wanted clusters leave the sum; 0: there are not so many. */
static uint64_t claim(struct balloc *b, uint64_t least, uint64_t wanted, uint32_t flags)
{
	int64_t floor = floor_of(b, flags);
	int64_t avail = atomic_load(&b->avail);

	for (;;) {
		uint64_t count;

		if (avail <= floor || (uint64_t)(avail - floor) < least)
			return 0;
		count = min_u64(wanted, (uint64_t)(avail - floor));
		if (atomic_compare_exchange_weak(&b->avail, &avail, avail - (int64_t)count))
			return count;
	}
}

int balloc_reserve(struct uext4_fs *fs, uint64_t clusters, bool root)
{
	if (clusters == 0 || claim(fs->balloc, clusters, clusters, root ? BALLOC_ROOT : 0))
		return 0;
	return fail(-ENOSPC, "no space left");
}

void balloc_unreserve(struct uext4_fs *fs, uint64_t clusters)
{
	atomic_fetch_add(&fs->balloc->avail, (int64_t)clusters);
}

uint64_t balloc_free_clusters(struct uext4_fs *fs)
{
	int64_t avail = atomic_load(&fs->balloc->avail);

	return (avail > 0 ? (uint64_t)avail : 0) + atomic_load(&fs->balloc->pending);
}

bool balloc_commit_helps(struct uext4_fs *fs)
{
	return atomic_load(&fs->balloc->pending) > 0;
}

/* ---- looking for bits ------------------------------------------------------------------------ */

struct search {
	uint64_t goal;
	uint32_t groups; /* from the start on */
	uint32_t want;	 /* with what would be set aside */
	uint32_t need;	 /* for the request alone */
};

/*
 * Groups of [@first, @end) that have at least @least together.  0: taken; -ENOSPC: none has;
 * -ENOMEM.  Damaged groups are passed over.
 */
static int search_groups(struct balloc *b, const struct search *s, uint32_t least, uint32_t first,
			 uint32_t end, struct crun *ret)
{
	unsigned class = fit_class_of_all(least), loads = 0;
	uint32_t goal_group = cluster_group(b->geom, s->goal);

	for (uint32_t group = fit_next(b, first, end, class); group < end;
	     group = fit_next(b, group + 1, end, class)) {
		const struct space_want want = {
			.bit = group == goal_group ? cluster_bit(b->geom, s->goal) : 0,
			.count = s->want,
			.least = least,
		};
		bool loaded = false;
		int err = space_take(b, group, &want, ret, &loaded);

		if (err == 0 || err == -ENOMEM)
			return err;
		if (loaded && ++loads == LOADS_MAX && least > 1) /* L1 */
			return -ENOSPC;
	}
	return -ENOSPC;
}

/* One look at everything. */
static int search_once(struct balloc *b, const struct search *s, struct crun *ret)
{
	uint32_t group = cluster_group(b->geom, s->goal), least = s->want;

	group = (uint32_t)min_u64(group, s->groups);
	for (;;) {
		int err = search_groups(b, s, least, group, s->groups, ret);

		if (err == -ENOSPC)
			err = search_groups(b, s, least, 0, group, ret);
		if (err != -ENOSPC || least == 1)
			return err;
		least = least > s->need ? s->need : least / 2;
	}
}

/* For who has claimed what he looks for (L2). */
static int search(struct balloc *b, const struct search *s, struct crun *ret)
{
	for (unsigned round = 0; round < ROUNDS_MAX; round++) {
		int err = search_once(b, s, ret);

		if (err != -ENOSPC)
			return err;
		if (prealloc_discard_all(b) == 0 && round >= ROUNDS_EAGER)
			sleep_ms(1);
		if (s->groups < b->geom->groups && round > 0)
			break; /* others may have what was claimed */
		/* What is in groups that went bad meanwhile is not to be found any more. */
		if (atomic_load(&b->avail) < 0 && round >= ROUNDS_EAGER)
			break;
	}
	return fail(-ENOSPC, "no free block can be found");
}

static bool take_at(struct balloc *b, uint64_t cluster, uint32_t count, struct crun *ret)
{
	const struct space_want want = {
		.bit = cluster_bit(b->geom, cluster),
		.count = count,
		.exact = true,
	};
	bool loaded;

	return space_take(b, cluster_group(b->geom, cluster), &want, ret, &loaded) == 0;
}

/* ---- one request ----------------------------------------------------------------------------- */

struct request {
	struct inode *ip;
	uint32_t logical; /* in clusters, as all of it */
	uint32_t count;
	uint32_t size; /* of the file */
	uint64_t goal;
	uint32_t groups; /* that may serve it */
	bool has_goal;	 /* an exact one */
	bool data;
};

/*
 * Where an inode's blocks go: files behind the first group of their inode's flex group, which
 * directories and the like have for themselves.
 */
static uint64_t inode_goal(const struct balloc *b, const struct inode *ip, bool data)
{
	uint32_t group = (ip->ino - 1) / b->geom->inodes_per_group;

	if (b->flex_bits >= 2) {
		group = group >> b->flex_bits << b->flex_bits;
		if (data && inode_is_reg(ip) && group + 1 < b->geom->groups)
			group++;
	}
	return (uint64_t)group * b->geom->clusters_per_group;
}

static uint64_t valid_goal(const struct balloc *b, blk_t goal)
{
	return cluster_of(b->geom, goal >= b->geom->first_data_block && goal < b->geom->blocks
					   ? goal
					   : b->geom->first_data_block);
}

/* An inode with a block map cannot have what lies behind its numbers. */
static uint32_t groups_for(const struct balloc *b, const struct inode *ip)
{
	if (b->geom->blocks <= MAPPED_BLOCKS_MAX || !ip ||
	    inode_has_flag(ip, EXT4_EXTENTS_FL | EXT4_INLINE_DATA_FL))
		return b->geom->groups;
	return (uint32_t)(MAPPED_BLOCKS_MAX / b->geom->blocks_per_group);
}

static void request_init(struct request *r, const struct balloc *b, const struct balloc_request *rq)
{
	const struct geom *g = b->geom;
	uint64_t end = div_round_up((uint64_t)rq->logical + rq->count, g->cluster_ratio);
	uint64_t size = div_round_up(rq->file_blocks, g->cluster_ratio);

	assert(rq->count > 0);
	r->ip = rq->ip;
	r->logical = rq->logical >> g->cluster_ratio_bits;
	r->count = (uint32_t)min_u64(end - r->logical, g->clusters_per_group);
	r->size = (uint32_t)max_u64(size, (uint64_t)r->logical + r->count);
	r->data = rq->ip && (rq->flags & BALLOC_DATA);
	r->groups = groups_for(b, rq->ip);
	r->has_goal = rq->goal != 0 && cluster_group(g, valid_goal(b, rq->goal)) < r->groups;
	r->goal = rq->goal || !rq->ip ? valid_goal(b, rq->goal) : inode_goal(b, rq->ip, r->data);
}

static uint32_t round_up_to_pow2(uint32_t v)
{
	return v <= 1 ? 1 : 1u << (32 - __builtin_clz(v - 1));
}

/*
 * How much of the file, from r->logical on, should have its place now: as much again as it has, of
 * one that grows; the rest of one that is written in large pieces; else a part of the chunk.
 */
static uint32_t wanted_of(const struct request *r, const struct balloc *b)
{
	bool grows = atomic_load(&r->ip->writers) > 0;
	uint32_t left = r->size - r->logical;

	if (left == r->count && grows && r->size < b->window_clusters)
		return round_up_to_pow2(r->size);
	if (left == r->count)
		return grows ? b->window_clusters : r->count;
	if (r->count >= CHUNK_CLUSTERS)
		return (uint32_t)min_u64(left, b->window_clusters);
	return grows ? CHUNK_CLUSTERS - r->logical % CHUNK_CLUSTERS : r->count;
}

/* The same, less what has its place already from @room on, and no more than there is to spare. */
static uint32_t window_of(const struct request *r, const struct balloc *b, uint32_t room)
{
	int64_t avail = atomic_load(&b->avail);
	uint32_t total = r->count;

	if (r->data)
		total = (uint32_t)min_u64(wanted_of(r, b), room);
	if (total <= r->count || total - r->count > avail / ASIDE_PART)
		return r->count;
	return (uint32_t)min_u64(total, b->geom->clusters_per_group);
}

static struct search search_for(const struct request *r, uint32_t want)
{
	return (struct search){
		.goal = r->goal, .groups = r->groups, .want = want, .need = r->count
	};
}

static int take_for_file(struct balloc *b, struct request *r, struct crun *ret)
{
	struct crun rest;
	struct search s;
	uint32_t room = UINT32_MAX;
	int err;

	if (r->data && prealloc_take(b, r->ip, r->logical, r->count, ret, &room))
		return 0;
	r->count = (uint32_t)min_u64(r->count, room);
	s = search_for(r, window_of(r, b, room));
	if (!r->has_goal || !take_at(b, r->goal, s.want, ret)) {
		err = search(b, &s, ret);
		if (err < 0)
			return err;
	}
	if (ret->count > r->count) {
		rest = (struct crun){ ret->cluster + r->count, ret->count - r->count };
		ret->count = r->count;
		prealloc_put(b, r->ip, r->logical + r->count, &rest);
	}
	return 0;
}

/* Small files lie one behind the other. */
static int take_packed(struct balloc *b, const struct request *r, struct crun *ret)
{
	struct search s = search_for(r, r->count);
	uint32_t flex = cluster_group(b->geom, r->goal) >> b->flex_bits;
	struct crun rest;
	int err;

	if (r->has_goal && take_at(b, r->goal, r->count, ret))
		return 0;
	if (locality_take(b, flex, r->count, ret, &s.goal))
		return 0;
	if (b->locality_clusters <= atomic_load(&b->avail) / ASIDE_PART)
		s.want = (uint32_t)max_u64(s.want, b->locality_clusters);
	err = search(b, &s, ret);
	if (err < 0 || ret->count <= r->count)
		return err;
	rest = *ret;
	locality_put(b, flex, &rest);
	/* Joined to what was left before; or somebody else was faster, then for this one alone. */
	if (locality_take(b, flex, r->count, ret, &s.goal))
		return 0;
	s = search_for(r, r->count);
	return search(b, &s, ret);
}

int balloc_alloc(struct uext4_fs *fs, const struct balloc_request *rq, struct blk_run *ret)
{
	struct balloc *b = fs->balloc;
	bool promised = rq->flags & BALLOC_RESERVED;
	struct request r;
	struct crun run;
	uint32_t claimed;
	int err;

	lockrank_may_acquire(RANK_group);
	request_init(&r, b, rq);
	claimed = r.count;
	if (!promised) {
		claimed = (uint32_t)claim(b, 1, r.count, rq->flags);
		if (claimed == 0)
			return fail(-ENOSPC, "no space left");
		r.count = claimed;
	}
	if (r.data && r.size <= b->small_clusters && r.groups == b->geom->groups)
		err = take_packed(b, &r, &run);
	else
		err = take_for_file(b, &r, &run);
	if (err < 0)
		run.count = 0;
	if (!promised)
		atomic_fetch_add(&b->avail, claimed - run.count);
	if (err < 0)
		return err;
	ret->start = cluster_blk(b->geom, run.cluster);
	ret->count = run.count << b->geom->cluster_ratio_bits;
	return 0;
}

static struct crun run_of(const struct balloc *b, blk_t start, uint32_t count)
{
	return (struct crun){ cluster_of(b->geom, start),
			      (uint32_t)div_round_up(count, b->geom->cluster_ratio) };
}

void balloc_cancel(struct uext4_fs *fs, const struct blk_run *run, bool was_reserved)
{
	struct balloc *b = fs->balloc;
	const struct crun clusters = run_of(b, run->start, run->count);
	int64_t released = space_release(b, &clusters);

	/* A promise that comes back is kept from what is available. */
	atomic_fetch_add(&b->avail, was_reserved ? released - clusters.count : released);
}

int balloc_take(struct uext4_fs *fs, blk_t start, uint32_t count, struct blk_run *ret)
{
	struct balloc *b = fs->balloc;
	const struct crun wanted = run_of(b, start, count);
	struct crun run = { 0 };
	uint32_t claimed;
	bool loaded;
	int err = 0;

	lockrank_may_acquire(RANK_group);
	claimed = (uint32_t)claim(b, 1, wanted.count, BALLOC_META);
	if (claimed > 0) {
		const struct space_want want = {
			.bit = cluster_bit(b->geom, wanted.cluster),
			.count = claimed,
			.exact = true,
		};

		err = space_take(b, cluster_group(b->geom, wanted.cluster), &want, &run, &loaded);
		if (err < 0)
			run.count = 0;
		atomic_fetch_add(&b->avail, claimed - run.count);
	}
	if (err < 0 && err != -ENOSPC)
		return err;
	ret->start = start;
	ret->count = run.count << b->geom->cluster_ratio_bits;
	return 0;
}

/* The disk lies: fs_error() wants to know. */
static bool is_damage(int err)
{
	return err == -EFSCORRUPTED || err == -EFSBADCRC;
}

/* ---- writing it down ------------------------------------------------------------------------- */

static void set_desc_free(struct balloc *b, struct group_bufs *gb, uint32_t free)
{
	b->groups[gb->group].disk_free = free;
	desc_set16(b->geom, &gb->gd->bg_free_blocks_count_lo, &gb->gd->bg_free_blocks_count_hi,
		   free);
}

/* Group lock.  Nothing has changed after an error. */
static int record_locked(struct handle *h, struct balloc *b, struct group_bufs *gb,
			 const struct crun *run)
{
	struct group *grp = &b->groups[gb->group];
	uint32_t bit = cluster_bit(b->geom, run->cluster), flags = atomic_load(&grp->flags);
	uint8_t *data = gb->bitmap_buf->data;
	int err;

	if (flags & GROUP_BLOCKS_BAD)
		return fail(-EFSCORRUPTED, "the block bitmap of group %u is damaged", gb->group);
	assert(space_is_taken(b, run));
	if (!(flags & EXT4_BG_BLOCK_UNINIT) && bitmap_count(data, bit, run->count) != 0)
		return corrupt("block bitmap of group %u: blocks from %llu on are in use already",
			       gb->group, (unsigned long long)cluster_blk(b->geom, run->cluster));
	err = group_bufs_get_write(h, b, gb, false);
	if (err < 0)
		return err;
	bitmap_set(data, bit, run->count);
	set_desc_free(b, gb, grp->disk_free - run->count);
	group_bufs_dirty(h, b, gb);
	return 0;
}

int balloc_record(struct handle *h, struct uext4_fs *fs, const struct blk_run *run)
{
	struct balloc *b = fs->balloc;
	const struct crun clusters = run_of(b, run->start, run->count);
	uint32_t group = cluster_group(b->geom, clusters.cluster);
	struct group_bufs gb GROUP_BUFS_SCOPE = { 0 };
	int err;

	lockrank_may_acquire(RANK_group);
	err = group_bufs_read(b, group, false, &gb);
	if (err == 0) {
		group_lock(b, group);
		err = record_locked(h, b, &gb, &clusters);
		group_unlock(b, group);
	}
	if (is_damage(err))
		return fs_error(fs, err, 0, run->start);
	if (err == 0)
		atomic_fetch_sub(&b->disk_free, clusters.count);
	return err;
}

int balloc_alloc_meta(struct handle *h, struct uext4_fs *fs, struct inode *ip, blk_t goal,
		      uint32_t flags, blk_t *ret_blk)
{
	const struct balloc_request rq = { .ip = ip, .goal = goal, .count = 1, .flags = flags };
	struct blk_run run;
	int err;

	assert(!(flags & (BALLOC_DATA | BALLOC_RESERVED)));
	err = balloc_alloc(fs, &rq, &run);
	if (err < 0)
		return err;
	err = balloc_record(h, fs, &run);
	if (err < 0) {
		balloc_cancel(fs, &run, false);
		return err;
	}
	*ret_blk = run.start;
	return 0;
}

/* ---- freeing --------------------------------------------------------------------------------- */

/* How much of @left from @run on lies in one group. */
static struct crun next_piece(const struct balloc *b, uint64_t cluster, uint64_t left)
{
	uint32_t room = b->geom->clusters_per_group - cluster_bit(b->geom, cluster);

	return (struct crun){ cluster, (uint32_t)min_u64(left, room) };
}

uint32_t balloc_free_credits(const struct uext4_fs *fs, blk_t start, uint32_t count)
{
	const struct geom *g = &fs->geom;
	uint32_t first = cluster_group(g, cluster_of(g, start));
	uint32_t last = cluster_group(g, cluster_of(g, start + count - 1));

	return (last - first + 1) * BALLOC_CREDITS;
}

/* Group lock; the group is loaded.  Is the piece in use on disk? */
static int check_in_use(struct balloc *b, struct group_bufs *gb, const struct crun *run)
{
	uint32_t bit = cluster_bit(b->geom, run->cluster);
	bool uninit = atomic_load(&b->groups[gb->group].flags) & EXT4_BG_BLOCK_UNINIT;

	if (!uninit && bitmap_count(gb->bitmap_buf->data, bit, run->count) == run->count)
		return 0;
	return corrupt("blocks %llu to %llu are freed, but not in use",
		       (unsigned long long)cluster_blk(b->geom, run->cluster),
		       (unsigned long long)cluster_blk(b->geom, run->cluster + run->count) - 1);
}

/* Behind what was freed last, in the same transaction, it takes no entry of its own. */
static void freed_add(struct balloc *b, tid_t tid, const struct crun *run, struct freed **entry)
{
	struct freed *last;

	mutex_lock(&b->freed_lock);
	last = list_empty(&b->freed) ? NULL : list_entry(b->freed.prev, struct freed, link);
	if (last && last->tid == tid &&
	    cluster_group(b->geom, last->run.cluster) == cluster_group(b->geom, run->cluster) &&
	    (last->run.cluster + last->run.count == run->cluster ||
	     run->cluster + run->count == last->run.cluster)) {
		last->run.cluster = min_u64(last->run.cluster, run->cluster);
		last->run.count += run->count;
	} else {
		(*entry)->tid = tid;
		(*entry)->run = *run;
		list_add_tail(&b->freed, &(*entry)->link);
		*entry = NULL;
	}
	mutex_unlock(&b->freed_lock);
	atomic_fetch_add(&b->pending, run->count);
}

/* What is freed: whole clusters, in which the caller had [start, +count). */
struct free_request {
	blk_t start;
	uint32_t count;
	uint32_t flags;
};

/*
 * Metadata that is freed never goes home, nor back from the log (J3): those blocks of the request
 * that lie in @run.
 */
static int forget_blocks(struct handle *h, const struct balloc *b, const struct free_request *rq,
			 const struct crun *run)
{
	blk_t first = max_u64(rq->start, cluster_blk(b->geom, run->cluster));
	blk_t end = min_u64(rq->start + rq->count, cluster_blk(b->geom, run->cluster + run->count));

	for (blk_t blk = first; blk < end; blk++) {
		int err = handle_forget(h, blk);

		if (err < 0) {
			/* Of several, some would be in use and never be written again. */
			if (blk > first)
				txn_log_abort(handle_log(h), err);
			return err;
		}
	}
	return 0;
}

/* Group lock. */
static int free_locked(struct handle *h, struct balloc *b, struct group_bufs *gb,
		       const struct free_request *rq, const struct crun *run)
{
	int err;

	err = check_in_use(b, gb, run);
	if (err == 0)
		err = group_bufs_get_write(h, b, gb, false);
	if (err == 0 && (rq->flags & BALLOC_FREE_META))
		err = forget_blocks(h, b, rq, run);
	if (err < 0)
		return err;
	bitmap_clear(gb->bitmap_buf->data, cluster_bit(b->geom, run->cluster), run->count);
	set_desc_free(b, gb, b->groups[gb->group].disk_free + run->count);
	group_bufs_dirty(h, b, gb);
	return 0;
}

/*
 * In a group whose bitmap is damaged nothing is freed: its blocks stay in use until fsck has looked
 * at it.
 */
static int free_piece(struct handle *h, struct balloc *b, const struct free_request *rq,
		      const struct crun *run)
{
	uint32_t group = cluster_group(b->geom, run->cluster);
	struct freed *entry FREE_SCOPE = mem_alloc(sizeof(*entry));
	struct group_bufs gb GROUP_BUFS_SCOPE = { 0 };
	bool loaded;
	int err;

	if (!entry)
		return -ENOMEM;
	err = group_bufs_read(b, group, false, &gb);
	if (err == 0)
		err = space_lock_loaded(b, group, &loaded);
	if (err == -ENOMEM)
		return err;
	if (err < 0) {
		group_set_bad(b, group, GROUP_BLOCKS_BAD, err);
		return 0;
	}
	err = free_locked(h, b, &gb, rq, run);
	group_unlock(b, group);
	if (err < 0)
		return err;
	atomic_fetch_add(&b->disk_free, run->count);
	freed_add(b, handle_tid(h), run, &entry);
	return 0;
}

/*
 * What the disk may say wrongly, looked at before anything is changed.  *ret: the clusters, which
 * may lie in several groups.
 */
static int check_free(struct balloc *b, const struct free_request *rq, uint64_t *ret_cluster,
		      uint64_t *ret_count)
{
	const struct geom *g = b->geom;
	blk_t start = rq->start;
	uint64_t count = rq->count;

	/* A block of metadata has its cluster for itself, wherever it lies in it. */
	if (start >= g->first_data_block && (rq->flags & BALLOC_FREE_META)) {
		start -= (start - g->first_data_block) & (g->cluster_ratio - 1);
		count += rq->start - start;
	}
	count = round_up_pow2(count, g->cluster_ratio);
	if (start < g->first_data_block || start >= g->blocks || count > g->blocks - start ||
	    count == 0 || ((start - g->first_data_block) & (g->cluster_ratio - 1)) != 0)
		return corrupt("%u blocks from %llu on are freed, where none are to be had",
			       rq->count, (unsigned long long)rq->start);
	if (zones_touch(b, start, count))
		return corrupt("%u blocks from %llu on are freed, where the file system's own lie",
			       rq->count, (unsigned long long)rq->start);
	*ret_cluster = cluster_of(g, start);
	*ret_count = count >> g->cluster_ratio_bits;
	return 0;
}

int balloc_free(struct handle *h, struct uext4_fs *fs, blk_t start, uint32_t count, uint32_t flags)
{
	const struct free_request rq = { .start = start, .count = count, .flags = flags };
	struct balloc *b = fs->balloc;
	uint64_t cluster = 0, left = 0;
	bool began = false;
	int err;

	lockrank_may_acquire(RANK_group);
	err = check_free(b, &rq, &cluster, &left);
	if (err < 0)
		return fs_error(fs, err, 0, start);
	while (err == 0 && left > 0) {
		struct crun run = next_piece(b, cluster, left);

		err = free_piece(h, b, &rq, &run);
		if (err < 0 && began)
			txn_log_abort(handle_log(h), err);
		began = true;
		cluster += run.count;
		left -= run.count;
	}
	return is_damage(err) ? fs_error(fs, err, 0, start) : err;
}

/* J4. */
void balloc_committed(struct uext4_fs *fs, tid_t tid)
{
	struct balloc *b = fs->balloc;

	for (;;) {
		struct freed *f = NULL;

		mutex_lock(&b->freed_lock);
		if (!list_empty(&b->freed)) {
			f = list_entry(b->freed.next, struct freed, link);
			if ((int32_t)(f->tid - tid) > 0)
				f = NULL;
			else
				list_del(&f->link);
		}
		mutex_unlock(&b->freed_lock);
		if (!f)
			break;
		atomic_fetch_add(&b->avail, space_release(b, &f->run));
		atomic_fetch_sub(&b->pending, f->run.count);
		mem_free(f);
	}
	space_unload_some(b);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static void init_sizes(struct balloc *b)
{
	const struct ext4_super_block *sb = &b->fs->super;
	const struct geom *g = b->geom;
	uint32_t bits = g->cluster_ratio_bits;
	uint64_t held = u64_from_lo_hi(sb->s_r_blocks_count_lo, sb->s_r_blocks_count_hi);

	if (!geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_64BIT))
		held = le32_get(sb->s_r_blocks_count_lo);
	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_EXTENTS))
		b->floor_root = (int64_t)min_u64((g->blocks >> bits) / RESERVE_PART, RESERVE_MAX);
	b->floor_user = b->floor_root + (int64_t)min_u64(held >> bits, g->blocks);
	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_FLEX_BG))
		b->flex_bits = (uint32_t)min_u64(sb->s_log_groups_per_flex, 31);
	b->loaded_max = (uint32_t)max_u64(LOADED_BYTES / (g->clusters_per_group / 8), 16);
	b->small_clusters = (uint32_t)max_u64(SMALL_BLOCKS >> bits, 1);
	b->locality_clusters = (uint32_t)max_u64(LOCALITY_BLOCKS >> bits, b->small_clusters);
	b->window_clusters = (uint32_t)max_u64(WINDOW_BLOCKS >> bits, 1);
	b->locality_clusters = (uint32_t)min_u64(b->locality_clusters, g->clusters_per_group);
	b->window_clusters = (uint32_t)min_u64(b->window_clusters, g->clusters_per_group);
}

static int init_locks(struct balloc *b)
{
	uint32_t count = 1;

	while (count < b->geom->groups && count < 1024)
		count *= 2;
	b->locks = mem_calloc(count, sizeof(*b->locks));
	if (!b->locks)
		return -ENOMEM;
	b->lock_mask = count - 1;
	for (uint32_t i = 0; i < count; i++)
		mutex_init(&b->locks[i], RANK_group);
	mutex_init(&b->freed_lock, RANK_leaf);
	list_init(&b->freed);
	prealloc_init(b);
	return 0;
}

/* What the descriptor says; the bitmaps are looked at when something is taken. */
static int init_group(struct balloc *b, uint32_t group, const struct ext4_group_desc *gd)
{
	const struct geom *g = b->geom;
	struct group *grp = &b->groups[group];
	uint32_t free = desc_get16(g, &gd->bg_free_blocks_count_lo, &gd->bg_free_blocks_count_hi);
	uint32_t inodes = desc_get16(g, &gd->bg_free_inodes_count_lo, &gd->bg_free_inodes_count_hi);
	uint32_t dirs = desc_get16(g, &gd->bg_used_dirs_count_lo, &gd->bg_used_dirs_count_hi);

	if (free > g->clusters_per_group || inodes > g->inodes_per_group ||
	    dirs > g->inodes_per_group)
		return corrupt("descriptor of group %u: %u clusters and %u inodes free, "
			       "%u directories",
			       group, free, inodes, dirs);
	grp->free = grp->largest = grp->disk_free = free;
	grp->inodes_free = inodes;
	grp->dirs = dirs;
	if (desc_has_flags(g))
		grp->flags = le16_get(gd->bg_flags);
	grp->block_csum = desc_get16(g, &gd->bg_block_bitmap_csum_lo, &gd->bg_block_bitmap_csum_hi);
	grp->inode_csum = desc_get16(g, &gd->bg_inode_bitmap_csum_lo, &gd->bg_inode_bitmap_csum_hi);
	b->avail += free;
	b->disk_free += free;
	b->inodes_free += inodes;
	b->dirs += dirs;
	fit_update(b, group);
	return 0;
}

static int add_zones(struct zone_list *list, const struct geom *g, uint32_t group,
		     const struct ext4_group_desc *gd)
{
	int err = zones_add_group(list, g, group);

	if (err == 0)
		err = zones_add(list, desc_block_bitmap(g, gd), 1);
	if (err == 0)
		err = zones_add(list, desc_inode_bitmap(g, gd), 1);
	if (err == 0)
		err = zones_add(list, desc_inode_table(g, gd), g->inode_table_blocks);
	return err;
}

/* Blocks of an internal journal: overwriting them would be found out after the next crash. */
static int add_journal_zones(struct zone_list *list, struct uext4_fs *fs)
{
	struct inode *ip INODE_SCOPE = NULL;
	int err;

	if (fs->info.journal_ino == 0)
		return 0;
	err = inode_get(fs, fs->info.journal_ino, &ip);
	for (lblk_t lblk = 0; err == 0 && lblk < ip->size >> fs->geom.block_bits;) {
		struct map_ext ext;

		err = map_read(ip, lblk, &ext);
		if (err == 0 && ext.state != MAP_HOLE)
			err = zones_add(list, ext.physical, ext.count);
		lblk += err == 0 ? ext.count : 0;
	}
	return err < 0 ? fail_in(err, "journal") : 0;
}

static int add_other_zones(struct zone_list *list, struct uext4_fs *fs)
{
	blk_t mmp = le64_get(fs->super.s_mmp_block);
	int err = 0;

	if (geom_has_incompat(&fs->geom, EXT4_FEATURE_INCOMPAT_MMP) && mmp < fs->geom.blocks)
		err = zones_add(list, mmp, 1);
	return err < 0 ? err : add_journal_zones(list, fs);
}

static int read_groups(struct balloc *b)
{
	struct zone_list list = { 0 };
	int err = 0;

	for (uint32_t group = 0; group < b->geom->groups && err == 0; group++) {
		struct buf *buf BUF_SCOPE = NULL;
		const struct ext4_group_desc *gd;

		err = desc_read_first(b->fs, group, &buf, &gd);
		if (err == 0)
			err = init_group(b, group, gd);
		if (err == 0)
			err = add_zones(&list, b->geom, group, gd);
	}
	if (err == 0)
		err = add_other_zones(&list, b->fs);
	if (err == 0)
		err = zones_finish(&list);
	b->zones = list.zones;
	b->zone_count = list.count;
	return err;
}

int balloc_create(struct uext4_fs *fs)
{
	struct balloc *b = mem_zalloc(sizeof(*b));
	int err;

	if (!b)
		return -ENOMEM;
	b->fs = fs;
	b->geom = &fs->geom;
	init_sizes(b);
	err = init_locks(b);
	if (err < 0) {
		mem_free(b);
		return err;
	}
	err = fit_init(b);
	if (err == 0) {
		b->groups = mem_calloc(fs->geom.groups, sizeof(*b->groups));
		err = b->groups ? read_groups(b) : -ENOMEM;
	}
	fs->balloc = b;
	if (err < 0)
		balloc_destroy(fs);
	return err;
}

void balloc_destroy(struct uext4_fs *fs)
{
	struct balloc *b = fs->balloc;

	if (!b)
		return;
	(void)prealloc_discard_all(b);
	list_for_each_safe(pos, &b->freed)
		mem_free(list_entry(pos, struct freed, link));
	prealloc_finish(b);
	space_free_all(b);
	fit_finish(b);
	for (uint32_t i = 0; i <= b->lock_mask; i++)
		mutex_finish(&b->locks[i]);
	mutex_finish(&b->freed_lock);
	mem_free(b->locks);
	mem_free(b->groups);
	mem_free(b->zones);
	mem_free(b);
	fs->balloc = NULL;
}

void balloc_fill_super(struct uext4_fs *fs, struct ext4_super_block *sb)
{
	uint64_t free = atomic_load(&fs->balloc->disk_free) << fs->geom.cluster_ratio_bits;

	sb->s_free_blocks_count_lo = le32_make((uint32_t)free);
	if (geom_has_incompat(&fs->geom, EXT4_FEATURE_INCOMPAT_64BIT))
		sb->s_free_blocks_count_hi = le32_make((uint32_t)(free >> 32));
	sb->s_free_inodes_count = le32_make(ialloc_free_inodes(fs));
}
