/* SPDX-License-Identifier: MIT */
/*
 * One change of an extent tree: some entries of a leaf give way to others, and all that follows
 * above.  What is to be written there is extent_write.c's business.
 *
 *  X1  All that can fail comes first: new nodes are allocated, and every node that will change is
 *      in the handle, before a byte of the tree is touched.
 *  X2  The key of an index entry is the first key of the node below it, wherever a change has been.
 *  X3  Nodes that are changed have room up to their end (eh_max), whatever room they had before.
 *  X4  No node but the root is empty, and a tree without entries has depth 0.
 *
 * How a full node is split: what comes behind the last entry begins a new node, so that a file that
 * grows at its end has full nodes; before the first one likewise; elsewhere the halves are equal.
 *
 *	insert c:      root [a e]              [a c e]       and the same above, where
 *	                  /     \      =>     /   |    \      the parent is full, too
 *	             [a b d]    [e]       [a b] [c d]  [e]
 *
 * Nodes grow empty from removals; then they go at once.  Where they are only sparse they are joined
 * with a neighbour, and the root takes in its only child when that fits.
 */
#include "fs/map_priv.h"

#include "base/diag.h"
#include "disk/seal.h"

/* ---- nodes ----------------------------------------------------------------------------------- */

static uint32_t node_max(const struct extent_path *p, uint32_t l)
{
	uint32_t bytes = l == 0 ? EXT4_I_BLOCK_BYTES : p->ip->fs->geom.block_size;

	return (bytes - (uint32_t)sizeof(struct ext4_extent_header)) /
	       (uint32_t)sizeof(struct ext4_extent);
}

static void node_set_entries(struct ext4_extent_header *eh, uint32_t entries)
{
	eh->eh_entries = le16_make((uint16_t)entries);
}

/* map_credits() looks at it without a lock. */
static void root_set_depth(struct ext4_extent_header *eh, uint32_t depth)
{
	__atomic_store_n(&eh->eh_depth.raw, le16_make((uint16_t)depth).raw, __ATOMIC_RELAXED);
}

/* Entries [@at, @at + @remove) give way to @add, for which there is room. */
static void node_splice(struct ext4_extent_header *eh, uint32_t at, uint32_t remove,
			const struct ext4_extent *add, uint32_t add_count)
{
	uint32_t entries = extent_entries(eh), behind = entries - at - remove;

	assert(at + remove <= entries);
	memmove(extent_at(eh, at + add_count), extent_at(eh, at + remove),
		behind * sizeof(struct ext4_extent));
	if (add_count > 0)
		memcpy(extent_at(eh, at), add, add_count * sizeof(*add));
	node_set_entries(eh, entries - remove + add_count);
}

#ifdef UEXT4_LOCKRANK
/* Where asserts may cost something: the tree that leaves this file would pass as if read. */
static void node_check(const struct extent_path *p, struct ext4_extent_header *eh, blk_t blk)
{
	struct verify_inode vi;

	inode_verify_arg(p->ip, &vi);
	vi.depth = le16_get(eh->eh_depth);
	assert(verify_extent_node(&vi, eh, blk ? vi.geom->block_size : EXT4_I_BLOCK_BYTES, blk) ==
	       0);
}
#else
static void node_check(const struct extent_path *p UNUSED, struct ext4_extent_header *eh UNUSED,
		       blk_t blk UNUSED)
{
}
#endif

/* The node @buf has changed. */
static void node_changed(struct handle *h, const struct extent_path *p, struct buf *buf)
{
	struct ext4_extent_header *eh = (void *)buf->data;
	struct verify_inode vi;

	inode_verify_arg(p->ip, &vi);
	seal_extent_block(&vi, eh);
	node_check(p, eh, buf->blk);
	handle_dirty(h, buf);
}

/* The node at level @l has changed (X3); the root goes to disk with its inode. */
static void level_changed(struct handle *h, struct extent_path *p, uint32_t l)
{
	struct extent_level *level = &p->level[l];

	level->eh->eh_max = le16_make((uint16_t)node_max(p, l));
	if (l == 0) {
		node_check(p, level->eh, 0);
		return;
	}
	assert(level->writable);
	node_changed(h, p, level->buf);
}

static struct ext4_extent index_make(lblk_t key, blk_t blk)
{
	struct ext4_extent_idx ix = {
		.ei_block = le32_make(key),
		.ei_leaf_lo = le32_make((uint32_t)blk),
		.ei_leaf_hi = le16_make((uint16_t)(blk >> 32)),
	};
	struct ext4_extent entry;

	memcpy(&entry, &ix, sizeof(entry));
	return entry;
}

/* ---- before the change ----------------------------------------------------------------------- */

static int level_write(struct handle *h, struct extent_level *level)
{
	int err;

	if (level->writable)
		return 0;
	err = handle_get_write(h, level->buf);
	if (err == 0)
		level->writable = true;
	return err;
}

/* The nodes from level @top on, and above it as far as the first key of a node changes. */
static int path_write(struct handle *h, struct extent_path *p, uint32_t top, bool first_changes)
{
	for (uint32_t l = p->depth; l > 0; l--) {
		int err = level_write(h, &p->level[l]);

		if (err < 0)
			return err;
		/* The parent's entry changes, and so its own key if that entry is its first. */
		if (l <= top && !first_changes)
			break;
		first_changes = first_changes && p->level[l - 1].at == 0;
	}
	return 0;
}

int extent_path_write(struct handle *h, struct extent_path *p, bool first_changes)
{
	return path_write(h, p, p->depth, first_changes);
}

static bool node_fits(const struct extent_path *p, uint32_t l, uint32_t remove, uint32_t add)
{
	return extent_entries(p->level[l].eh) - remove + add <= node_max(p, l);
}

/* How many nodes are full on the way up, each of which is split; *ret_top: the last to change. */
static uint32_t count_full(struct extent_edit *e, uint32_t *ret_top)
{
	struct extent_path *p = &e->path;
	uint32_t remove = e->remove, add = e->add_count, full = 0, l = p->depth;

	while (!node_fits(p, l, remove, add)) {
		full++;
		remove = 0;
		add = 1;
		if (l == 0) {
			e->grows = true;
			break;
		}
		l--;
	}
	*ret_top = l;
	return full;
}

static int fresh_create(struct extent_edit *e, uint32_t count)
{
	struct extent_level *leaf = &e->path.level[e->path.depth];
	blk_t goal = leaf->buf ? leaf->buf->blk + 1 : e->goal;

	while (e->fresh_count < count) {
		struct buf *buf;
		int err;

		err = map_node_create(e->h, e->path.ip, goal, e->flags, &extent_node_ops, &buf);
		if (err < 0)
			return err;
		e->fresh[e->fresh_count++] = buf;
		goal = buf->blk + 1;
	}
	return 0;
}

int extent_edit_prepare(struct extent_edit *e, uint64_t *ret_blocks)
{
	struct extent_path *p = &e->path;
	struct ext4_extent_header *eh = p->level[p->depth].eh;
	bool first_changes = e->at == 0 && (e->add_count == 0 || extent_entries(eh) == 0 ||
					    le32_get(e->add[0].ee_block) != extent_key(eh, 0));
	uint32_t full, top;
	int err;

	assert(e->add_count <= EXTENT_ADD_MAX && e->at + e->remove <= extent_entries(eh));
	e->fresh_count = e->fresh_used = 0;
	e->grows = false;
	full = count_full(e, &top);
	if (e->grows && p->depth == EXT4_MAX_EXTENT_DEPTH)
		return fail(-EFBIG, "inode %u: the extent tree is full", p->ip->ino);
	err = path_write(e->h, p, top, first_changes);
	if (err == 0)
		err = fresh_create(e, full);
	if (err < 0)
		return err;
	*ret_blocks = (uint64_t)full * map_node_blocks(p->ip);
	return 0;
}

void extent_edit_cancel(struct extent_edit *e)
{
	while (e->fresh_count > 0) {
		struct buf *buf = e->fresh[--e->fresh_count];
		blk_t blk = buf->blk;

		buf_put(buf);
		map_node_drop(e->h, e->path.ip, blk);
	}
	extent_path_close(&e->path);
}

/* ---- the change ------------------------------------------------------------------------------ */

static struct buf *fresh_take(struct extent_edit *e)
{
	assert(e->fresh_used < e->fresh_count);
	return e->fresh[e->fresh_used++];
}

static struct ext4_extent_header *fresh_init(const struct extent_path *p, struct buf *buf,
					     uint32_t depth)
{
	struct ext4_extent_header *eh = (void *)buf->data;

	*eh = (struct ext4_extent_header){
		.eh_magic = le16_make(EXT4_EXT_MAGIC),
		.eh_max = le16_make((uint16_t)node_max(p, 1)),
		.eh_depth = le16_make((uint16_t)depth),
	};
	return eh;
}

/*
 * A level more: what was in the root moves to a new node below it.  That one has room for what the
 * root has none for.
 */
static void path_grow(struct extent_edit *e)
{
	struct extent_path *p = &e->path;
	struct extent_level *root = &p->level[0];
	struct buf *buf = fresh_take(e);
	uint32_t entries = extent_entries(root->eh), depth = le16_get(root->eh->eh_depth);
	struct ext4_extent_header *eh = fresh_init(p, buf, depth);
	struct ext4_extent entry = index_make(entries > 0 ? extent_key(root->eh, 0) : 0, buf->blk);

	memcpy(extent_at(eh, 0), extent_at(root->eh, 0), entries * sizeof(struct ext4_extent));
	node_set_entries(eh, entries);
	node_splice(root->eh, 0, entries, &entry, 1);
	root_set_depth(root->eh, depth + 1);

	for (uint32_t l = ++p->depth; l > 1; l--)
		p->level[l] = p->level[l - 1];
	p->level[1] = *root;
	p->level[1].buf = buf;
	p->level[1].eh = eh;
	p->level[1].writable = true;
	buf_get(buf); /* the path's, beside that of fresh[] */
	root->at = 0;
}

/* How many entries stay in a full node, of those it has and gets; what is added stays together. */
static uint32_t split_point(uint32_t entries, uint32_t at, uint32_t remove, uint32_t add)
{
	uint32_t half = (entries - remove + add) / 2;

	if (at + remove == entries)
		return at;
	if (at == 0)
		return add;
	if (half <= at || half >= at + add)
		return half;
	return half - at < at + add - half ? at : at + add;
}

/* The node @eh, which has no room for @add, gives what is behind split_point() to @right. */
static void node_split(struct ext4_extent_header *eh, struct ext4_extent_header *right, uint32_t at,
		       uint32_t remove, const struct ext4_extent *add, uint32_t count)
{
	uint32_t entries = extent_entries(eh);
	uint32_t keep = split_point(entries, at, remove, count), from = keep;

	if (keep > at)
		from = keep - count + remove; /* the same place as entries lie now */
	assert(from <= entries);
	memcpy(extent_at(right, 0), extent_at(eh, from),
	       (entries - from) * sizeof(struct ext4_extent));
	node_set_entries(right, entries - from);
	node_set_entries(eh, from);
	if (keep > at)
		node_splice(eh, at, remove, add, count);
	else
		node_splice(right, at - from, remove, add, count);
	assert(extent_entries(eh) > 0 && extent_entries(right) > 0);
}

/* X2: the parent's entry for the node at level @l; says whether that was another. */
static bool key_changed(struct extent_path *p, uint32_t l)
{
	struct extent_level *parent = &p->level[l - 1];
	lblk_t key = extent_key(p->level[l].eh, 0);

	if (extent_key(parent->eh, parent->at) == key || (l > 1 && !parent->writable))
		return false;
	extent_index_at(parent->eh, parent->at)->ei_block = le32_make(key);
	return true;
}

static void edit_apply(struct extent_edit *e)
{
	struct extent_path *p = &e->path;
	const struct ext4_extent *add = e->add;
	uint32_t at = e->at, remove = e->remove, count = e->add_count;
	struct ext4_extent entry;
	uint32_t l;

	if (e->grows)
		path_grow(e);
	for (l = p->depth;; l--) {
		struct ext4_extent_header *eh = p->level[l].eh;
		struct buf *right = NULL;

		if (node_fits(p, l, remove, count)) {
			node_splice(eh, at, remove, add, count);
		} else {
			right = fresh_take(e);
			node_split(eh, fresh_init(p, right, le16_get(eh->eh_depth)), at, remove,
				   add, count);
			node_changed(e->h, p, right);
		}
		level_changed(e->h, p, l);
		if (l == 0)
			break;
		remove = count = 0;
		if (right) {
			entry = index_make(extent_key((void *)right->data, 0), right->blk);
			add = &entry;
			count = 1;
		}
		if (!key_changed(p, l) && !right)
			break;
		at = p->level[l - 1].at + 1;
	}
	assert(e->fresh_used == e->fresh_count);
}

void extent_edit_apply(struct extent_edit *e)
{
	struct inode *ip = e->path.ip;

	mutex_lock(&ip->raw_lock);
	edit_apply(e);
	mutex_unlock(&ip->raw_lock);
	for (uint32_t i = 0; i < e->fresh_count; i++)
		buf_put(e->fresh[i]);
	extent_path_close(&e->path);
}

/* ---- less than before ------------------------------------------------------------------------ */

/* The node at level @l, empty, leaves the tree; so does what becomes empty above it (X4). */
static uint32_t path_cut(struct extent_path *p, uint32_t l, blk_t ret_freed[EXTENT_LEVELS],
			 uint32_t *ret_count)
{
	uint32_t count = 0;

	while (l > 0 && extent_entries(p->level[l].eh) == 0) {
		ret_freed[count++] = p->level[l].buf->blk;
		buf_put(p->level[l].buf);
		p->level[l].buf = NULL;
		p->depth = --l;
		node_splice(p->level[l].eh, p->level[l].at, 1, NULL, 0);
	}
	if (l == 0 && extent_entries(p->level[0].eh) == 0)
		root_set_depth(p->level[0].eh, 0);
	*ret_count = count;
	return l;
}

void extent_leaf_trim(struct handle *h, struct extent_path *p, const struct extent_trim *trim,
		      uint64_t *blocks)
{
	struct ext4_extent_header *leaf = p->level[p->depth].eh;
	blk_t freed[EXTENT_LEVELS];
	uint32_t count, l;

	mutex_lock(&p->ip->raw_lock);
	if (trim->shortens)
		*extent_at(leaf, trim->from - 1) = trim->last;
	node_splice(leaf, trim->from, trim->to - trim->from, NULL, 0);
	l = path_cut(p, p->depth, freed, &count);
	for (;; l--) {
		level_changed(h, p, l);
		if (l == 0 || !key_changed(p, l))
			break;
	}
	mutex_unlock(&p->ip->raw_lock);
	for (uint32_t i = 0; i < count; i++) {
		map_node_drop(h, p->ip, freed[i]);
		*blocks += map_node_blocks(p->ip);
	}
}

/*
 * Lets the last extent of one leaf take in the first one of the next, where they are one; how many
 * entries of @right that makes superfluous.  @right itself is not in the handle and stays as it is.
 */
static uint32_t leaves_join(struct ext4_extent_header *left, struct ext4_extent_header *right)
{
	struct map_ext a, b;

	if (le16_get(left->eh_depth) > 0 || extent_entries(left) == 0 || extent_entries(right) == 0)
		return 0;
	a = extent_decode(extent_at(left, extent_entries(left) - 1));
	b = extent_decode(extent_at(right, 0));
	if (!extent_joinable(&a, &b) || a.count + b.count > extent_count_max(a.state))
		return 0;
	a.count += b.count;
	*extent_at(left, extent_entries(left) - 1) = extent_encode(&a);
	return 1;
}

/*
 * The nodes at level @l below entries @index and @index + 1 of their parent become one; the path
 * leads to it.  False: it was not possible, and nothing has changed.
 */
static bool nodes_join(struct handle *h, struct extent_path *p, uint32_t l, uint32_t index,
		       struct extent_level *left, struct extent_level *right)
{
	struct extent_level *parent = &p->level[l - 1];
	uint32_t taken;
	int err;

	if (left->buf == right->buf)
		return false; /* the disk lies: it is for whoever wants something there to say so */
	err = level_write(h, left);
	if (err == 0 && l > 1)
		err = level_write(h, parent);
	if (err == 0)
		err = map_node_free(h, p->ip, right->buf->blk);
	if (err < 0)
		return false;
	taken = leaves_join(left->eh, right->eh);
	node_splice(left->eh, extent_entries(left->eh), 0, extent_at(right->eh, taken),
		    extent_entries(right->eh) - taken);
	left->end = right->end;
	buf_put(right->buf);
	p->level[l] = *left;
	level_changed(h, p, l);

	mutex_lock(&p->ip->raw_lock);
	node_splice(parent->eh, index + 1, 1, NULL, 0);
	parent->at = index;
	level_changed(h, p, l - 1);
	mutex_unlock(&p->ip->raw_lock);
	return true;
}

/* Joins the node at level @l, if it is sparse, with a neighbour that has room. */
static bool node_join(struct handle *h, struct extent_path *p, uint32_t l)
{
	struct extent_level *node = &p->level[l], *parent = &p->level[l - 1], other;
	const uint32_t max = node_max(p, l), entries = extent_entries(node->eh);

	if (entries > max / 4)
		return false;
	for (int side = -1; side <= 1; side += 2) {
		uint32_t index = parent->at + (uint32_t)side;
		bool joined = false;

		if (index >= extent_entries(parent->eh) || /* also below 0 */
		    extent_child_read(p, l - 1, index, &other) < 0)
			continue;
		if (entries + extent_entries(other.eh) <= max / 4 * 3) {
			struct extent_level self = *node;

			joined = side < 0 ? nodes_join(h, p, l, index, &other, &self)
					  : nodes_join(h, p, l, parent->at, &self, &other);
		}
		if (joined)
			return true;
		buf_put(other.buf);
	}
	return false;
}

/* The root takes in its only child (X4's other half: no level more than needed). */
static bool root_take(struct handle *h, struct extent_path *p)
{
	struct extent_level *root = &p->level[0], *child = &p->level[1];

	if (extent_entries(root->eh) != 1 || extent_entries(child->eh) > node_max(p, 0) ||
	    map_node_free(h, p->ip, child->buf->blk) < 0)
		return false;
	mutex_lock(&p->ip->raw_lock);
	node_splice(root->eh, 0, 1, extent_at(child->eh, 0), extent_entries(child->eh));
	root_set_depth(root->eh, le16_get(child->eh->eh_depth));
	level_changed(h, p, 0);
	mutex_unlock(&p->ip->raw_lock);
	buf_put(child->buf);
	root->at = child->at;
	p->depth--;
	for (uint32_t l = 1; l <= p->depth; l++)
		p->level[l] = p->level[l + 1];
	return true;
}

#define JOIN_CREDITS (2u + BALLOC_CREDITS) /* a node and its parent */

void extent_tree_join(struct handle *h, struct inode *ip, lblk_t logical, uint32_t credits,
		      uint64_t *blocks)
{
	const uint32_t before = handle_credits(h);
	struct extent_path p;

	if (le16_get(((struct ext4_extent_header *)(void *)ip->raw->i_block)->eh_depth) == 0 ||
	    extent_path_open(ip, logical, &p) < 0)
		return;
	credits = (uint32_t)min_u64(credits, before);
	for (uint32_t l = p.depth; l > 0; l--) {
		if (before - handle_credits(h) + JOIN_CREDITS > credits)
			break;
		if (node_join(h, &p, l))
			*blocks += map_node_blocks(ip);
	}
	while (p.depth > 0 && before - handle_credits(h) + BALLOC_CREDITS <= credits &&
	       root_take(h, &p))
		*blocks += map_node_blocks(ip);
	extent_path_close(&p);
}
