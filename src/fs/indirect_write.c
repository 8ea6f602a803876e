/* SPDX-License-Identifier: MIT */
/*
 * The block map of ext2 and ext3: inserting and removing.
 *
 * Called through map_write.c only, which holds map_lock exclusive.
 *
 *  BW1  All that can fail comes first: the blocks of pointers that are missing are created, and
 *       those that will change are in the handle, before a pointer is written.
 *  BW2  A block of pointers without pointers is freed with its last one; found empty, too, when
 *       what it stands for is removed.
 *  BW3  What is removed goes from the end, a run of neighbours on disk at a time, and the map says
 *       at any time what is still there.
 */
#include "fs/map_priv.h"

#include "base/diag.h"

#define IN_INODE UINT32_MAX

/*
 * One group of blocks (8 times the block size of them) has neighbours below up to 33 blocks of
 * pointers (a quarter of the block size each), these below up to two, and one more above.
 */
#define NODES_MAX 40u

/* A block of pointers that takes part in an insert. */
struct node {
	struct buf *buf; /* NULL: still to be created */
	uint32_t parent; /* which node names it, or IN_INODE */
	uint32_t slot;	 /* where in that one */
	bool fresh, changes;
};

struct insertion {
	struct handle *h;
	struct inode *ip;
	struct node nodes[NODES_MAX];
	uint32_t count, fresh_count;
};

/* Some of the blocks to be mapped, whose pointers lie side by side. */
struct piece {
	uint32_t node; /* or IN_INODE */
	uint32_t index;
	uint32_t count;
};

#define NODE_CREDITS (1u + BALLOC_CREDITS)

/*
 * An insert: the nodes it creates, and recording the blocks themselves.  Directories and the like
 * grow by single blocks.
 */
uint32_t indirect_credits(const struct inode *ip, uint32_t extents)
{
	const struct geom *g = &ip->fs->geom;
	uint32_t nodes = 3 * extents;

	if (inode_is_reg(ip))
		nodes += extents + 2 +
			 (uint32_t)min_u64(MAP_COUNT_MAX, g->blocks_per_group) /
				 indirect_pointers(g);
	return nodes * NODE_CREDITS + extents * (BALLOC_CREDITS + REVOKE_CREDITS);
}

/* As much as the insert of one block: it frees or changes up to three nodes, and frees a run. */
uint32_t indirect_remove_credits(void)
{
	return 3 * NODE_CREDITS + BALLOC_CREDITS + REVOKE_CREDITS;
}

/* ---- insert ---------------------------------------------------------------------------------- */

static le32 *pointers_of(struct insertion *in, uint32_t node)
{
	return node == IN_INODE ? in->ip->raw->i_block : (void *)in->nodes[node].buf->data;
}

/* The block of pointers that @slot of @parent names or will name. */
static int node_get(struct insertion *in, uint32_t parent, uint32_t slot, uint32_t *ret_node)
{
	struct node node = { .parent = parent, .slot = slot };
	uint32_t pointer = 0;
	int err;

	for (uint32_t i = in->count; i-- > 0;) {
		if (in->nodes[i].parent == parent && in->nodes[i].slot == slot) {
			*ret_node = i;
			return 0;
		}
	}
	assert(in->count < NODES_MAX);
	if (parent == IN_INODE || !in->nodes[parent].fresh)
		pointer = le32_get(pointers_of(in, parent)[slot]);
	if (pointer != 0) {
		err = indirect_read(in->ip, pointer, &node.buf);
		if (err < 0)
			return err;
	} else {
		node.fresh = true;
		in->fresh_count++;
		if (parent != IN_INODE)
			in->nodes[parent].changes = true;
	}
	in->nodes[in->count] = node;
	*ret_node = in->count++;
	return 0;
}

/* The pointers of @logical and up to @count - 1 blocks behind it. */
static int piece_get(struct insertion *in, lblk_t logical, uint32_t count, struct piece *ret)
{
	const struct geom *g = &in->ip->fs->geom;
	struct indirect_place place;
	struct piece piece = { .node = IN_INODE };
	uint32_t room = EXT4_NDIR_BLOCKS;

	if (!indirect_place_find(g, logical, &place))
		return fail(-EFBIG, "inode %u: a block map has no block %u", in->ip->ino, logical);
	piece.index = place.slot;
	while (place.level > 0) {
		int err = node_get(in, piece.node, piece.index, &piece.node);

		if (err < 0)
			return err;
		place.level--;
		piece.index = (uint32_t)(place.rest / indirect_span(g, place.level));
		place.rest %= indirect_span(g, place.level);
		room = indirect_pointers(g);
	}
	piece.count = (uint32_t)min_u64(count, room - piece.index);
	*ret = piece;
	return 0;
}

/* Finds all blocks of pointers and makes sure that the range is a hole. */
static int plan(struct insertion *in, const struct map_ext *ext)
{
	for (uint32_t done = 0; done < ext->count;) {
		const le32 *pointers;
		struct piece piece;
		int err;

		err = piece_get(in, ext->logical + done, ext->count - done, &piece);
		if (err < 0)
			return err;
		done += piece.count;
		if (piece.node != IN_INODE) {
			in->nodes[piece.node].changes = true;
			if (in->nodes[piece.node].fresh)
				continue;
		}
		pointers = pointers_of(in, piece.node) + piece.index;
		for (uint32_t i = 0; i < piece.count; i++)
			if (le32_get(pointers[i]) != 0)
				return corrupt("inode %u: block %u is mapped already", in->ip->ino,
					       ext->logical + done - piece.count + i);
	}
	return 0;
}

/* Creates what is missing, and brings the rest into the handle (BW1). */
static int prepare(struct insertion *in, blk_t goal, uint32_t flags)
{
	for (uint32_t i = 0; i < in->count; i++) {
		struct node *node = &in->nodes[i];
		int err = 0;

		if (node->fresh) {
			err = map_node_create(in->h, in->ip, goal, flags, &indirect_ops,
					      &node->buf);
			if (err == 0)
				goal = node->buf->blk + 1;
			if (err == 0 && node->buf->blk > UINT32_MAX)
				err = fail(-ENOSPC, "inode %u: no space where a block map reaches",
					   in->ip->ino);
		} else if (node->changes) {
			err = handle_get_write(in->h, node->buf);
		}
		if (err < 0)
			return err;
	}
	return 0;
}

static void apply(struct insertion *in, const struct map_ext *ext)
{
	mutex_lock(&in->ip->raw_lock);
	for (uint32_t i = 0; i < in->count; i++) {
		struct node *node = &in->nodes[i];

		if (node->fresh)
			pointers_of(in,
				    node->parent)[node->slot] = le32_make((uint32_t)node->buf->blk);
	}
	for (uint32_t done = 0; done < ext->count;) {
		struct piece piece = { 0 };
		le32 *pointers;
		int err = piece_get(in, ext->logical + done, ext->count - done, &piece);

		assert(err == 0); /* everything is there by now */
		(void)err;
		pointers = pointers_of(in, piece.node) + piece.index;
		for (uint32_t i = 0; i < piece.count; i++)
			pointers[i] = le32_make((uint32_t)(ext->physical + done + i));
		done += piece.count;
	}
	mutex_unlock(&in->ip->raw_lock);
	for (uint32_t i = 0; i < in->count; i++)
		if (in->nodes[i].fresh || in->nodes[i].changes)
			handle_dirty(in->h, in->nodes[i].buf);
}

static void finish(struct insertion *in, bool undo)
{
	for (uint32_t i = in->count; i-- > 0;) {
		struct node *node = &in->nodes[i];

		blk_t blk = node->buf ? node->buf->blk : 0;

		buf_put(node->buf);
		if (undo && node->fresh && blk != 0)
			map_node_drop(in->h, in->ip, blk);
	}
}

int indirect_insert(struct handle *h, struct inode *ip, const struct map_ext *ext,
		    const struct blk_run *run, uint32_t flags)
{
	struct insertion in;
	uint64_t charge;
	bool charged = false;
	int err;

	in.h = h;
	in.ip = ip;
	in.count = in.fresh_count = 0;
	if (ext->physical + ext->count - 1 > UINT32_MAX)
		return fail(-ENOSPC, "inode %u: block %llu is beyond the reach of a block map",
			    ip->ino, (unsigned long long)ext->physical);
	err = plan(&in, ext);
	charge = in.fresh_count + (run ? run->count : 0);
	if (err == 0)
		err = prepare(&in, ext->physical + ext->count, flags);
	if (err == 0) {
		err = map_charge(h, ip, charge, flags);
		charged = err == 0;
	}
	if (err == 0 && run)
		err = balloc_record(h, ip->fs, run);
	if (err < 0) {
		if (charged)
			map_uncharge(h, ip, charge);
		finish(&in, true);
		return err;
	}
	/* From here on: only abort. */
	apply(&in, ext);
	finish(&in, false);
	return map_settle(h, ip, (int64_t)charge);
}

/* ---- remove ---------------------------------------------------------------------------------- */

struct level {
	struct buf *buf; /* NULL: i_block */
	le32 *pointers;
	uint32_t index; /* the pointer we went down by */
};

/* From i_block, level[0], down to the pointers of data at level[depth], if there are any. */
struct path {
	struct level level[4];
	uint32_t depth;
	lblk_t start;  /* the first block that the last pointer we came to stands for */
	uint64_t span; /* and how many these are */
};

struct removal {
	struct handle *h;
	struct inode *ip;
	lblk_t first, end; /* what remains to be done */
	uint64_t *blocks;  /* freed */
	bool stopped;	   /* by the handle's credits */
};

static void path_close(struct path *p)
{
	for (uint32_t l = 1; l <= p->depth; l++)
		buf_put(p->level[l].buf);
	p->depth = 0;
}

/* The path to the pointer of block @logical, or as far as there are blocks of pointers. */
static int path_open(struct inode *ip, lblk_t logical, struct path *p)
{
	const struct geom *g = &ip->fs->geom;
	struct indirect_place place;
	bool found = indirect_place_find(g, logical, &place);

	assert(found); /* the caller stays below indirect_blocks_max() */
	(void)found;
	p->depth = 0;
	p->level[0] = (struct level){ .pointers = ip->raw->i_block, .index = place.slot };
	for (;;) {
		struct level *at = &p->level[p->depth], *below = at + 1;
		uint32_t pointer = le32_get(at->pointers[at->index]);
		int err;

		p->start = (lblk_t)(logical - place.rest);
		p->span = indirect_span(g, place.level);
		if (pointer == 0 || place.level == 0)
			return 0;
		err = indirect_read(ip, pointer, &below->buf);
		if (err < 0) {
			path_close(p);
			return err;
		}
		p->depth++;
		place.level--;
		below->pointers = (void *)below->buf->data;
		below->index = (uint32_t)(place.rest / indirect_span(g, place.level));
		place.rest %= indirect_span(g, place.level);
	}
}

/* @pointer, of the node at level @l, which is in the handle, becomes 0. */
static void pointers_clear(struct removal *r, struct level *level, uint32_t index, uint32_t count)
{
	if (level->buf) {
		memset(&level->pointers[index], 0, count * sizeof(le32));
		handle_dirty(r->h, level->buf);
		return;
	}
	mutex_lock(&r->ip->raw_lock);
	memset(&level->pointers[index], 0, count * sizeof(le32));
	mutex_unlock(&r->ip->raw_lock);
}

static int level_write(struct removal *r, struct level *level)
{
	return level->buf ? handle_get_write(r->h, level->buf) : 0;
}

/* Frees the last blocks of pointers of the path, as far up as they are empty (BW2). */
static int free_empty(struct removal *r, struct path *p)
{
	const uint32_t count = indirect_pointers(&r->ip->fs->geom);

	while (p->depth > 0) {
		struct level *level = &p->level[p->depth], *above = level - 1;
		blk_t blk = level->buf->blk;
		int err;

		for (uint32_t i = 0; i < count; i++)
			if (le32_get(level->pointers[i]) != 0)
				return 0;
		err = level_write(r, above);
		if (err < 0)
			return err;
		buf_put(level->buf);
		p->depth--;
		err = map_node_free(r->h, r->ip, blk);
		if (err < 0)
			return err;
		*r->blocks += 1;
		pointers_clear(r, above, above->index, 1);
	}
	return 0;
}

/* Credits for a run, if all blocks of pointers become empty with it; @writes are yet to change. */
static bool can_free(struct removal *r, const struct path *p, uint32_t writes)
{
	if (map_credits_left(r->h, r->ip) <
	    writes + (1 + p->depth) * BALLOC_CREDITS + REVOKE_CREDITS)
		r->stopped = true;
	return !r->stopped;
}

/* How many blocks up to pointer @index, but not before pointer @lowest, can be freed at once. */
static uint32_t run_before(const struct inode *ip, const le32 *pointers, uint32_t index,
			   uint32_t lowest)
{
	blk_t last = le32_get(pointers[index]);
	uint32_t count = 1;

	while (index - count + 1 > lowest && le32_get(pointers[index - count]) == last - count)
		count++;
	return map_free_count(ip, last - count + 1, count);
}

/* The path leads to pointers of data: frees from there backwards (BW3). */
static int remove_runs(struct removal *r, struct path *p)
{
	struct level *level = &p->level[p->depth];
	const lblk_t base = p->start - level->index;
	const uint32_t lowest = r->first > base ? r->first - base : 0;
	uint32_t next = level->index + 1; /* behind the next pointer to look at */
	int err;

	err = level_write(r, level);
	while (err == 0 && next > lowest) {
		blk_t last = le32_get(level->pointers[next - 1]);
		uint32_t count = 1;

		if (last != 0) {
			if (!can_free(r, p, p->depth > 0 ? p->depth - 1 : 0))
				break;
			count = run_before(r->ip, level->pointers, next - 1, lowest);
			err = map_data_free(r->h, r->ip, last - count + 1, count);
			if (err < 0)
				break;
			*r->blocks += count;
			pointers_clear(r, level, next - count, count);
		}
		next -= count;
	}
	r->end = base + next;
	return err;
}

/* The path ends at a pointer that is 0: goes back over those before it that are, too. */
static void skip_hole(struct removal *r, struct path *p)
{
	struct level *level = &p->level[p->depth];
	uint64_t start = p->start;

	/* In i_block each slot stands for another number of blocks. */
	for (uint32_t i = level->index; p->depth > 0 && start > r->first && i > 0; i--) {
		if (le32_get(level->pointers[i - 1]) != 0)
			break;
		start -= p->span;
	}
	r->end = (lblk_t)max_u64(start, r->first);
}

static int remove_step(struct removal *r)
{
	struct path p;
	int err;

	err = path_open(r->ip, r->end - 1, &p);
	if (err < 0)
		return err;
	if (can_free(r, &p, p.depth)) {
		if (le32_get(p.level[p.depth].pointers[p.level[p.depth].index]) == 0)
			skip_hole(r, &p);
		else
			err = remove_runs(r, &p);
		if (err == 0 && !r->stopped)
			err = free_empty(r, &p);
	}
	path_close(&p);
	return err;
}

int indirect_remove(struct handle *h, struct inode *ip, lblk_t first, lblk_t *end, uint64_t *blocks)
{
	const uint64_t max = indirect_blocks_max(&ip->fs->geom);
	struct removal r = { h, ip, first, (lblk_t)min_u64(*end, max), blocks, false };
	int err = 0;

	while (err == 0 && r.end > first && !r.stopped)
		err = remove_step(&r);
	*end = (lblk_t)max_u64(r.end, first);
	return err;
}
