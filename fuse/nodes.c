/* SPDX-License-Identifier: MIT */
/*
 * Which inodes the kernel knows, and how often it was told of each.
 *
 * A file whose last name goes stays as long as somebody has it open.  The kernel opens and closes
 * without telling, but it says when it forgets an inode altogether.  So an inode that loses its
 * last name while the kernel knows it is held in the engine until then.
 *
 * N1  An inode is counted before the kernel hears of it, and uncounted if it did not.
 * N2  The hold is taken before the name goes; afterwards it would be too late.
 */
#include "mount_priv.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum { SHARD_BITS = 5, SHARDS = 1 << SHARD_BITS, SLOTS_MIN = 256 };

struct node {
	uint32_t ino; /* 0: free */
	uint32_t holds;
	uint64_t lookups;
};

/* An open table with linear probing, at most three quarters full. */
struct shard {
	pthread_mutex_t lock;
	struct node *slots;
	size_t size; /* a power of two */
	size_t used;
} __attribute__((aligned(64)));

struct nodes {
	struct uext4_fs *fs;
	struct shard shards[SHARDS];
};

static uint32_t hash_of(uint32_t ino)
{
	return ino * UINT32_C(0x9e3779b1);
}

static struct shard *shard_of(struct nodes *nodes, uint32_t ino)
{
	return &nodes->shards[hash_of(ino) >> (32 - SHARD_BITS)];
}

/* The slot of @ino, or the free one where it would be. */
static struct node *slot_of(const struct shard *shard, uint32_t ino)
{
	size_t at = hash_of(ino) & (shard->size - 1);

	while (shard->slots[at].ino && shard->slots[at].ino != ino)
		at = (at + 1) & (shard->size - 1);
	return &shard->slots[at];
}

static int grow(struct shard *shard)
{
	struct shard bigger = { .size = shard->size ? shard->size * 2 : SLOTS_MIN };

	bigger.slots = calloc(bigger.size, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (size_t i = 0; i < shard->size; i++) {
		if (shard->slots[i].ino)
			*slot_of(&bigger, shard->slots[i].ino) = shard->slots[i];
	}
	free(shard->slots);
	shard->slots = bigger.slots;
	shard->size = bigger.size;
	return 0;
}

/* Takes a slot out; those that probing had moved behind it move up. */
static void take_out(struct shard *shard, struct node *node)
{
	size_t mask = shard->size - 1, hole = (size_t)(node - shard->slots), at = hole;

	for (;;) {
		size_t home;

		at = (at + 1) & mask;
		if (!shard->slots[at].ino)
			break;
		home = hash_of(shard->slots[at].ino) & mask;
		if (((at - home) & mask) < ((at - hole) & mask))
			continue;
		shard->slots[hole] = shard->slots[at];
		hole = at;
	}
	shard->slots[hole] = (struct node){ 0 };
	shard->used--;
}

int nodes_create(struct uext4_fs *fs, struct nodes **ret_nodes)
{
	struct nodes *nodes = aligned_alloc(64, sizeof(*nodes));

	if (!nodes)
		return -ENOMEM;
	*nodes = (struct nodes){ .fs = fs };
	for (size_t i = 0; i < SHARDS; i++)
		pthread_mutex_init(&nodes->shards[i].lock, NULL);
	*ret_nodes = nodes;
	return 0;
}

void nodes_destroy(struct nodes *nodes)
{
	if (!nodes)
		return;
	for (size_t i = 0; i < SHARDS; i++) {
		struct shard *shard = &nodes->shards[i];

		for (size_t j = 0; j < shard->size; j++) {
			if (shard->slots[j].holds)
				uext4_release(nodes->fs, shard->slots[j].ino);
		}
		free(shard->slots);
		pthread_mutex_destroy(&shard->lock);
	}
	free(nodes);
}

int nodes_add(struct nodes *nodes, uint32_t ino)
{
	struct shard *shard = shard_of(nodes, ino);
	struct node *node;
	int err = 0;

	pthread_mutex_lock(&shard->lock);
	if (shard->used * 4 >= shard->size * 3)
		err = grow(shard);
	if (!err) {
		node = slot_of(shard, ino);
		if (!node->ino) {
			node->ino = ino;
			shard->used++;
		}
		node->lookups++;
	}
	pthread_mutex_unlock(&shard->lock);
	return err;
}

bool nodes_forget(struct nodes *nodes, uint32_t ino, uint64_t lookups)
{
	struct shard *shard = shard_of(nodes, ino);
	bool is_last = false, is_held = false;
	struct node *node;

	pthread_mutex_lock(&shard->lock);
	node = shard->size ? slot_of(shard, ino) : NULL;
	if (node && node->ino) {
		node->lookups -= node->lookups < lookups ? node->lookups : lookups;
		is_last = node->lookups == 0;
		is_held = node->holds > 0;
		if (is_last)
			take_out(shard, node);
	}
	pthread_mutex_unlock(&shard->lock);
	if (is_last && is_held)
		uext4_release(nodes->fs, ino);
	return is_last;
}

/* The engine is called with the lock held: a hold of an inode that is there waits for nothing. */
bool nodes_hold(struct nodes *nodes, uint32_t ino)
{
	struct shard *shard = shard_of(nodes, ino);
	bool is_held = false;
	struct node *node;

	pthread_mutex_lock(&shard->lock);
	node = shard->size ? slot_of(shard, ino) : NULL;
	if (node && node->ino && (node->holds > 0 || uext4_hold(nodes->fs, ino) == 0)) {
		node->holds++;
		is_held = true;
	}
	pthread_mutex_unlock(&shard->lock);
	return is_held;
}

void nodes_unhold(struct nodes *nodes, uint32_t ino)
{
	struct shard *shard = shard_of(nodes, ino);
	bool is_last = false;
	struct node *node;

	pthread_mutex_lock(&shard->lock);
	node = slot_of(shard, ino);
	if (node->ino && node->holds > 0)
		is_last = --node->holds == 0;
	pthread_mutex_unlock(&shard->lock);
	if (is_last)
		uext4_release(nodes->fs, ino);
}
