/* SPDX-License-Identifier: MIT */
/*
 * Index to pointer: a radix tree of 64-way nodes.
 *
 * A node at level 0 (a leaf) holds items, one at level n holds nodes of level n - 1; the root's
 * level is xa->height.  Nodes know their parent, so that every walk is a loop.
 *
 *  X1  Every node has at least one slot in use; an empty array has no node and height 0.
 *  X2  The tree is as low as it can be: a root above level 0 uses a slot other than 0.
 *  X3  A bit of `used` is set exactly where the slot is not NULL.
 *  X4  A first item at 0 has no node; it moves into one when another comes, and while it has none
 *      there is no other node.  Most files are one page.
 */
#include "base/xarray.h"

#include "base/mem.h"

#define SLOT_BITS 6u
#define SLOTS (1u << SLOT_BITS)
#define HEIGHT_MAX ((64 - 1) / SLOT_BITS) /* the root that spans all 64 bits of an index */

struct xnode {
	struct xnode *parent; /* NULL: the root */
	unsigned parent_slot;
	uint64_t used;
	void *slots[SLOTS];
};

static unsigned slot_of(uint64_t index, unsigned level)
{
	return (unsigned)(index >> (level * SLOT_BITS)) & (SLOTS - 1);
}

static uint64_t index_max(unsigned height)
{
	return height >= HEIGHT_MAX ? UINT64_MAX : (UINT64_C(1) << (height + 1) * SLOT_BITS) - 1;
}

static void slot_set(struct xnode *node, unsigned slot, void *p)
{
	node->slots[slot] = p;
	node->used |= UINT64_C(1) << slot;
}

static void slot_clear(struct xnode *node, unsigned slot)
{
	node->slots[slot] = NULL;
	node->used &= ~(UINT64_C(1) << slot);
}

static struct xnode *node_create(struct xnode *parent, unsigned parent_slot)
{
	struct xnode *node = mem_zalloc(sizeof(*node));

	if (node == NULL)
		return NULL;
	node->parent = parent;
	node->parent_slot = parent_slot;
	if (parent != NULL)
		slot_set(parent, parent_slot, node);
	return node;
}

/* Makes X1 and X2 true again after a slot of @node was emptied or a new @node got none. */
static void prune(struct xarray *xa, struct xnode *node)
{
	struct xnode *root;

	while (node != NULL && node->used == 0) {
		struct xnode *parent = node->parent;

		if (parent != NULL)
			slot_clear(parent, node->parent_slot);
		else
			xa->root = NULL;
		mem_free(node);
		node = parent;
	}

	root = xa->root;
	if (root == NULL)
		xa->height = 0;
	while (xa->height > 0 && root->used == 1) {
		struct xnode *below = root->slots[0];

		mem_free(root);
		below->parent = NULL;
		xa->root = root = below;
		xa->height--;
	}
}

void xarray_init(struct xarray *xa)
{
	*xa = (struct xarray){ .root = NULL };
}

void xarray_finish(struct xarray *xa)
{
	struct xnode *node = xa->root;
	unsigned level = xa->height;

	/* Depth first: down while there are nodes below, up by freeing. */
	while (node != NULL) {
		struct xnode *parent = node->parent;

		if (level > 0 && node->used != 0) {
			unsigned slot = (unsigned)__builtin_ctzll(node->used);
			struct xnode *below = node->slots[slot];

			slot_clear(node, slot);
			node = below;
			level--;
		} else {
			mem_free(node);
			node = parent;
			level++;
		}
	}
	xarray_init(xa);
}

/* The leaf that would hold @index, NULL if there is none. */
static struct xnode *find_leaf(const struct xarray *xa, uint64_t index)
{
	struct xnode *node = xa->root;

	if (index > index_max(xa->height))
		return NULL;
	for (unsigned level = xa->height; level > 0 && node != NULL; level--)
		node = node->slots[slot_of(index, level)];
	return node;
}

void *xarray_find(const struct xarray *xa, uint64_t index)
{
	const struct xnode *leaf = find_leaf(xa, index);

	if (xa->only != NULL)
		return index == 0 ? xa->only : NULL;
	return leaf != NULL ? leaf->slots[slot_of(index, 0)] : NULL;
}

/* The slots of @node from @slot on that are in use. */
static uint64_t used_from(const struct xnode *node, unsigned slot)
{
	return slot < SLOTS ? node->used & UINT64_MAX << slot : 0;
}

void *xarray_next(const struct xarray *xa, uint64_t *index)
{
	const struct xnode *node = xa->root;
	unsigned level = xa->height;
	uint64_t at = *index;
	unsigned slot;

	if (xa->only != NULL)
		return at == 0 ? xa->only : NULL;
	if (node == NULL || at > index_max(level))
		return NULL;

	slot = slot_of(at, level);
	for (;;) {
		uint64_t used = used_from(node, slot);
		unsigned found;

		if (used == 0) { /* nothing more below this node: go on behind it */
			if (node->parent == NULL)
				return NULL;
			slot = node->parent_slot + 1;
			node = node->parent;
			level++;
			continue;
		}
		found = (unsigned)__builtin_ctzll(used);
		if (found != slot_of(at, level)) {
			/* Moved to the right, so that everything below counts from its start. */
			unsigned shift = level * SLOT_BITS;

			at = (at >> shift & ~(uint64_t)(SLOTS - 1)) << shift;
			at |= (uint64_t)found << shift;
		}
		if (level == 0) {
			*index = at;
			return node->slots[found];
		}
		node = node->slots[found];
		level--;
		slot = slot_of(at, level);
	}
}

/* Adds levels above the root until @index fits. */
static int grow(struct xarray *xa, uint64_t index)
{
	while (index > index_max(xa->height)) {
		struct xnode *old = xa->root;
		struct xnode *root = node_create(NULL, 0);

		if (root == NULL)
			return -ENOMEM;
		slot_set(root, 0, old);
		old->parent = root;
		old->parent_slot = 0;
		xa->root = root;
		xa->height++;
	}
	return 0;
}

/* X4.  The item gets a node. */
static int move_only(struct xarray *xa)
{
	struct xnode *node = node_create(NULL, 0);

	if (node == NULL)
		return -ENOMEM;
	slot_set(node, 0, xa->only);
	xa->only = NULL;
	xa->root = node;
	return 0;
}

int xarray_insert(struct xarray *xa, uint64_t index, void *item)
{
	struct xnode *node;

	assert(item != NULL);
	if (index == 0 && xa->count == 0) {
		xa->only = item;
		xa->count = 1;
		return 0;
	}
	if (xa->only != NULL && move_only(xa) < 0)
		return -ENOMEM;
	if (xa->root == NULL) {
		xa->root = node_create(NULL, 0);
		if (xa->root == NULL)
			return -ENOMEM;
		while (index > index_max(xa->height))
			xa->height++;
	} else if (grow(xa, index) < 0) {
		prune(xa, xa->root);
		return -ENOMEM;
	}

	node = xa->root;
	for (unsigned level = xa->height; level > 0; level--) {
		unsigned slot = slot_of(index, level);
		struct xnode *below = node->slots[slot];

		if (below == NULL)
			below = node_create(node, slot);
		if (below == NULL) {
			prune(xa, node);
			return -ENOMEM;
		}
		node = below;
	}
	assert(node->slots[slot_of(index, 0)] == NULL);
	slot_set(node, slot_of(index, 0), item);
	xa->count++;
	return 0;
}

void *xarray_remove(struct xarray *xa, uint64_t index)
{
	struct xnode *leaf = find_leaf(xa, index);
	void *item = leaf != NULL ? leaf->slots[slot_of(index, 0)] : NULL;

	if (xa->only != NULL && index == 0) {
		item = xa->only;
		xarray_init(xa);
		return item;
	}
	if (item == NULL)
		return NULL;
	slot_clear(leaf, slot_of(index, 0));
	xa->count--;
	prune(xa, leaf);
	return item;
}
