/* SPDX-License-Identifier: MIT */
/*
 * The extent tree: inserting, converting, removing.
 *
 * Works out what one leaf should hold; how the tree gets there is extent_edit.c's business.  Called
 * through map_write.c only, which holds map_lock exclusive.
 *
 *  W1  Where an extent changes it is made one with its neighbours in the leaf, if one entry can say
 *      so, written or not.
 *  W2  What is removed goes from the end, and the tree says at any time what is still there: the
 *      caller may stop between two handles, or for ever.
 *  W3  With bigalloc a cluster belongs to one file, its blocks lie in it as their numbers say, and
 *      it is freed with the last of them that is mapped, in whatever leaf the others are.
 */
#include "fs/map_priv.h"

#include "base/diag.h"

/* Levels below the root; asked without a lock, too. */
static uint32_t levels(const struct inode *ip)
{
	const struct ext4_extent_header *eh = (const void *)ip->raw->i_block;
	uint16_t depth = __atomic_load_n(&eh->eh_depth.raw, __ATOMIC_RELAXED);

	return (uint32_t)min_u64(le16_get((le16){ depth }), EXT4_MAX_EXTENT_DEPTH);
}

/*
 * A level costs the node, a new one beside it and that one's place in bitmap and descriptor (or,
 * when nodes are joined, as much); the tree may grow by a node; the blocks themselves are recorded;
 * and what is freed may need one more block for revokes.
 */
#define LEVEL_CREDITS (2u + BALLOC_CREDITS)
#define GROW_CREDITS (1u + BALLOC_CREDITS)

uint32_t extent_credits(const struct inode *ip, uint32_t extents)
{
	/* Somebody else may make the tree grow between this question and the change. */
	uint32_t depth = (uint32_t)min_u64(levels(ip) + 1, EXT4_MAX_EXTENT_DEPTH);

	return extents * (BALLOC_CREDITS + depth * LEVEL_CREDITS + REVOKE_CREDITS) +
	       (1 + extents / 64) * GROW_CREDITS;
}

/* Without that surplus: who asked before a cut that made the tree grow has enough after it, too. */
uint32_t extent_remove_credits(const struct inode *ip)
{
	return BALLOC_CREDITS + levels(ip) * LEVEL_CREDITS + REVOKE_CREDITS + GROW_CREDITS;
}

/* Adds @ext to what the edit puts into the leaf, in as few entries as their lengths allow (W1). */
static void edit_add(struct extent_edit *e, struct map_ext ext)
{
	const uint32_t max = extent_count_max(ext.state);
	struct map_ext piece = { 0 };

	if (e->add_count > 0)
		piece = extent_decode(&e->add[e->add_count - 1]);
	if (e->add_count > 0 && ext.count > 0 && extent_joinable(&piece, &ext))
		e->add_count--; /* it is filled up */
	else
		piece = (struct map_ext){ ext.logical, 0, ext.physical, ext.state };

	while (ext.count > 0) {
		uint32_t count = (uint32_t)min_u64(ext.count, max - piece.count);

		assert(e->add_count < EXTENT_ADD_MAX);
		piece.count += count;
		e->add[e->add_count++] = extent_encode(&piece);
		ext.logical += count;
		ext.physical += count;
		ext.count -= count;
		piece = (struct map_ext){ ext.logical, 0, ext.physical, ext.state };
	}
}

/* The first one that is added goes on where the entry before it ends: that one comes along. */
static void edit_take_before(struct extent_edit *e, const struct map_ext *first)
{
	struct extent_level *leaf = &e->path.level[e->path.depth];
	struct map_ext prev;

	if (e->at == 0)
		return;
	prev = extent_decode(extent_at(leaf->eh, e->at - 1));
	if (!extent_joinable(&prev, first))
		return;
	e->at--;
	e->remove++;
	edit_add(e, prev);
}

/* The same with the entry behind what is removed, if it becomes one with the last. */
static void edit_take_behind(struct extent_edit *e)
{
	struct extent_level *leaf = &e->path.level[e->path.depth];
	struct map_ext last, next;

	if (e->at + e->remove == extent_entries(leaf->eh))
		return;
	last = extent_decode(&e->add[e->add_count - 1]);
	next = extent_decode(extent_at(leaf->eh, e->at + e->remove));
	if (!extent_joinable(&last, &next) ||
	    last.count + next.count > extent_count_max(next.state))
		return;
	e->remove++;
	edit_add(e, next);
}

/* Does what the edit says, and records @run with it; the path is closed in any case. */
static int edit_commit(struct extent_edit *e, const struct blk_run *run)
{
	struct inode *ip = e->path.ip;
	const uint32_t credits = handle_credits(e->h), allowed = extent_credits(ip, 1);
	const lblk_t logical = le32_get(e->add[0].ee_block);
	const bool fewer = e->add_count < e->remove;
	uint64_t charge, freed = 0;
	uint32_t spent;
	int err;

	err = extent_edit_prepare(e, &charge);
	charge += run ? run->count : 0;
	if (err == 0)
		err = map_charge(e->h, ip, charge, e->flags);
	if (err == 0 && run) {
		err = balloc_record(e->h, ip->fs, run);
		if (err < 0)
			map_uncharge(e->h, ip, charge);
	}
	if (err < 0) {
		extent_edit_cancel(e);
		return err;
	}
	/* From here on: only abort. */
	extent_edit_apply(e);
	spent = credits - handle_credits(e->h);
	if (fewer && spent < allowed)
		extent_tree_join(e->h, ip, logical, allowed - spent, &freed);
	map_uncharge(e->h, ip, freed);
	return map_settle(e->h, ip, (int64_t)(charge - freed));
}

/* ---- insert and convert ---------------------------------------------------------------------- */

int extent_insert(struct handle *h, struct inode *ip, const struct map_ext *ext,
		  const struct blk_run *run, uint32_t flags)
{
	struct extent_edit e = { .h = h, .goal = ext->physical + ext->count, .flags = flags };
	const lblk_t end = ext->logical + ext->count;
	struct extent_level *leaf;
	lblk_t free_from = 0, free_to;
	int err;

	err = extent_path_open(ip, ext->logical, &e.path);
	if (err < 0)
		return err;
	leaf = &e.path.level[e.path.depth];
	e.at = leaf->at;
	if (e.at > 0) {
		struct map_ext prev = extent_decode(extent_at(leaf->eh, e.at - 1));

		free_from = prev.logical + prev.count;
	}
	free_to = e.at < extent_entries(leaf->eh) ? extent_key(leaf->eh, e.at) : leaf->end;
	if (ext->logical < free_from || end > free_to) {
		extent_path_close(&e.path);
		return corrupt("inode %u: blocks %u to %u are mapped already, or the index of the "
			       "extents behind them is wrong",
			       ip->ino, ext->logical, end - 1);
	}
	edit_take_before(&e, ext);
	edit_add(&e, *ext);
	edit_take_behind(&e);
	return edit_commit(&e, run);
}

int extent_convert(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count,
		   enum map_state state, uint32_t flags)
{
	struct extent_edit e = { .h = h, .flags = flags };
	struct map_ext ext = { 0 }, head, middle, tail;
	struct extent_level *leaf;
	int err;

	err = extent_path_open(ip, logical, &e.path);
	if (err < 0)
		return err;
	leaf = &e.path.level[e.path.depth];
	if (leaf->at > 0)
		ext = extent_decode(extent_at(leaf->eh, leaf->at - 1));
	if (logical - ext.logical >= ext.count || count > ext.count - (logical - ext.logical)) {
		extent_path_close(&e.path);
		return corrupt("inode %u: blocks %u to %u are not one extent", ip->ino, logical,
			       logical + count - 1);
	}
	if (ext.state == state) {
		extent_path_close(&e.path);
		return 0;
	}
	head = middle = tail = ext;
	head.count = logical - ext.logical;
	middle = (struct map_ext){ logical, count, ext.physical + head.count, state };
	tail.logical = logical + count;
	tail.physical += head.count + count;
	tail.count -= head.count + count;

	e.at = leaf->at - 1;
	e.remove = 1;
	e.goal = ext.physical + ext.count;
	edit_take_before(&e, head.count > 0 ? &head : &middle);
	edit_add(&e, head);
	edit_add(&e, middle);
	edit_add(&e, tail);
	edit_take_behind(&e);
	return edit_commit(&e, NULL);
}

/* ---- remove ---------------------------------------------------------------------------------- */

struct removal {
	struct handle *h;
	struct inode *ip;
	lblk_t first, end; /* what remains to be done */
	lblk_t behind;	   /* where it began: what is mapped from there on stays */
	uint64_t *blocks;  /* freed */
	bool stopped;	   /* by the handle's credits */
};

/*
 * Cuts the extent that crosses @logical in two there, so that removing never adds an entry.  On a
 * full disk this may use what is set aside: it is given back, and more.
 */
static int cut(struct handle *h, struct inode *ip, lblk_t logical)
{
	struct extent_edit e = { .h = h, .flags = BALLOC_META };
	struct map_ext ext = { 0 }, tail;
	struct extent_level *leaf;
	int err;

	err = extent_path_open(ip, logical, &e.path);
	if (err < 0)
		return err;
	leaf = &e.path.level[e.path.depth];
	if (leaf->at > 0)
		ext = extent_decode(extent_at(leaf->eh, leaf->at - 1));
	if (ext.logical == logical || logical - ext.logical >= ext.count) {
		extent_path_close(&e.path);
		return 0;
	}
	tail = ext;
	ext.count = logical - ext.logical;
	tail.logical += ext.count;
	tail.physical += ext.count;
	tail.count -= ext.count;

	e.at = leaf->at - 1;
	e.remove = 1;
	e.goal = ext.physical;
	/* Not by edit_add(), which would make them one again. */
	e.add[e.add_count++] = extent_encode(&ext);
	e.add[e.add_count++] = extent_encode(&tail);
	edit_take_behind(&e);
	return edit_commit(&e, NULL);
}

/* Blocks that are freed inside a cluster that is not: the journal must still forget them (J3). */
static int forget(struct removal *r, blk_t from, blk_t to)
{
	int err = 0;

	for (; err == 0 && from < to; from++)
		err = handle_forget(r->h, from);
	return err;
}

/*
 * Frees @count blocks from the last of @ext on backwards, which lie in one group: of clusters those
 * that hold nothing else of the file (W3).
 */
static int free_tail(struct removal *r, const struct map_ext *ext, uint32_t count)
{
	const uint32_t ratio = r->ip->fs->geom.cluster_ratio, mask = ratio - 1;
	const lblk_t end = ext->logical + ext->count, first = end - count;
	const blk_t physical = ext->physical + ext->count - count;
	blk_t from = physical & ~(blk_t)mask, to = round_up_pow2(physical + count, ratio);
	bool used_before = false, used_behind = false;
	int err = 0;

	if ((first ^ physical) & mask)
		return corrupt("inode %u: block %u lies at %llu, not in its place in the cluster",
			       r->ip->ino, first, (unsigned long long)physical);
	if (first & mask)
		err = extent_is_used(r->ip, first & ~mask, first, &used_before);
	if (err == 0 && (end & mask))
		err = extent_is_used(r->ip, (lblk_t)max_u64(end, r->behind),
				     (lblk_t)min_u64((uint64_t)(end | mask) + 1, UINT32_MAX),
				     &used_behind);
	if (err < 0)
		return err;
	if (used_before)
		from += ratio;
	if (used_behind)
		to -= ratio;
	if (from < to) {
		err = map_data_free(r->h, r->ip, from, (uint32_t)(to - from));
		if (err < 0)
			return err;
		*r->blocks += to - from;
	}
	if ((used_before || used_behind) && map_data_is_meta(r->ip)) {
		err = forget(r, physical, min_u64(from, physical + count));
		if (err == 0)
			err = forget(r, max_u64(to, max_u64(from, physical)), physical + count);
	}
	return err;
}

/* Credits for one more piece, if all nodes of the path became empty with it. */
static bool can_free(struct removal *r, uint32_t depth)
{
	if (map_credits_left(r->h, r->ip) < (1 + depth) * BALLOC_CREDITS + REVOKE_CREDITS)
		r->stopped = true;
	return !r->stopped;
}

/* Frees the blocks of *@ext from its end down to @from, as far as it goes. */
static int shorten(struct removal *r, uint32_t depth, struct map_ext *ext, lblk_t from)
{
	while (ext->logical + ext->count > from && can_free(r, depth)) {
		uint32_t count = ext->logical + ext->count - from;
		int err;

		count = map_free_count(r->ip, ext->physical + ext->count - count, count);
		err = free_tail(r, ext, count);
		if (err < 0)
			return err;
		ext->count -= count;
		r->end = ext->logical + ext->count;
	}
	return 0;
}

/* @ext is what is left of the last entry that stays; it may be one with that before it now (W1). */
static void trim_last(struct extent_level *leaf, struct extent_trim *trim, struct map_ext ext)
{
	if (trim->from > 1) {
		struct map_ext prev = extent_decode(extent_at(leaf->eh, trim->from - 2));

		if (extent_joinable(&prev, &ext) &&
		    prev.count + ext.count <= extent_count_max(ext.state)) {
			prev.count += ext.count;
			ext = prev;
			trim->from--;
		}
	}
	trim->last = extent_encode(&ext);
}

/*
 * Frees blocks from the entry before leaf->at on backwards, and says which entries that leaves.
 * None is changed yet: free_tail() looks for others in the tree as it was.
 */
static int leaf_remove(struct removal *r, struct extent_path *p, struct extent_trim *ret_trim)
{
	struct extent_level *leaf = &p->level[p->depth];
	struct extent_trim trim = { .from = leaf->at, .to = leaf->at };
	int err = 0;

	while (trim.from > 0 && !trim.shortens && err == 0 && !r->stopped) {
		struct map_ext ext = extent_decode(extent_at(leaf->eh, trim.from - 1));
		const uint32_t count = ext.count;

		if (ext.logical + ext.count > r->behind) {
			err = corrupt("inode %u: the extent at block %u reaches into the next leaf",
				      r->ip->ino, ext.logical);
			break;
		}
		if (ext.logical + ext.count <= r->first) {
			r->end = r->first;
			break;
		}
		err = shorten(r, p->depth, &ext, (lblk_t)max_u64(ext.logical, r->first));
		if (ext.count == 0) {
			trim.from--;
		} else if (ext.count < count) {
			trim.shortens = true;
			trim_last(leaf, &trim, ext);
		}
	}
	*ret_trim = trim;
	return err;
}

/* What one leaf holds before r->end. */
static int remove_in_leaf(struct removal *r)
{
	struct extent_path p;
	struct extent_level *leaf;
	struct extent_trim trim;
	bool first_changes;
	int err;

	err = extent_path_open(r->ip, r->end - 1, &p);
	if (err < 0)
		return err;
	leaf = &p.level[p.depth];
	first_changes = extent_entries(leaf->eh) == 0 || extent_key(leaf->eh, 0) >= r->first;
	if (map_credits_left(r->h, r->ip) <
	    p.depth + (1 + p.depth) * BALLOC_CREDITS + REVOKE_CREDITS) {
		r->stopped = true;
	} else if (leaf->at > 0 || (extent_entries(leaf->eh) == 0 && p.depth > 0)) {
		err = extent_path_write(r->h, &p, first_changes);
		if (err == 0) {
			err = leaf_remove(r, &p, &trim);
			extent_leaf_trim(r->h, &p, &trim, r->blocks);
		}
	}
	/* On to the leaf before this one, if there is one. */
	if (err == 0 && !r->stopped && leaf->at == 0)
		r->end = leaf->first < r->end ? (lblk_t)max_u64(leaf->first, r->first) : r->first;
	extent_path_close(&p);
	return err;
}

int extent_remove(struct handle *h, struct inode *ip, lblk_t first, lblk_t *end, uint64_t *blocks)
{
	struct removal r = { h, ip, first, *end, *end, blocks, false };
	int err = 0;

	if (*end < UINT32_MAX)
		err = cut(h, ip, *end);
	while (err == 0 && r.end > first && !r.stopped)
		err = remove_in_leaf(&r);
	if (r.end == first)
		extent_tree_join(h, ip, first, map_credits_left(h, ip), blocks);
	*end = r.end;
	return err;
}
