/* SPDX-License-Identifier: MIT */
/*
 * What is set aside: clusters taken from their group for a file that grows, or for small files of a
 * neighbourhood, but given to nobody yet.
 *
 * A file's windows tell which of its clusters go where, so that what is written piece by piece
 * lies together in the end.  Small files are packed instead: they take one behind the other from a
 * window of their flex group.
 *
 *  P1  A run in a window is taken in memory and counts as available (G2).
 *  P2  Nothing is given back to a group with a lock of this file held.
 */
#include "fs/balloc_priv.h"

#include "base/mem.h"

#define RUNS_MAX 8u

struct window {
	uint32_t logical;
	struct crun run;
};

/* Of one inode: ip->prealloc, under its shard's lock. */
struct prealloc {
	struct list link;
	struct inode *ip;
	uint32_t count;
	struct window window[RUNS_MAX]; /* oldest first */
};

void prealloc_init(struct balloc *b)
{
	for (unsigned i = 0; i < PREALLOC_SHARDS; i++) {
		mutex_init(&b->shard[i].lock, RANK_leaf);
		list_init(&b->shard[i].files);
	}
	for (unsigned i = 0; i < LOCALITY_SLOTS; i++)
		mutex_init(&b->locality[i].lock, RANK_leaf);
}

void prealloc_finish(struct balloc *b)
{
	for (unsigned i = 0; i < PREALLOC_SHARDS; i++) {
		assert(list_empty(&b->shard[i].files));
		mutex_finish(&b->shard[i].lock);
	}
	for (unsigned i = 0; i < LOCALITY_SLOTS; i++)
		mutex_finish(&b->locality[i].lock);
}

/* A window is available (P1): in a group that went bad meanwhile it no longer is. */
static void give_back(struct balloc *b, const struct crun *run)
{
	uint32_t released = space_release(b, run);

	if (released < run->count)
		atomic_fetch_sub(&b->avail, run->count - released);
}

/* ---- files ----------------------------------------------------------------------------------- */

static struct prealloc_shard *shard_of(struct balloc *b, const struct inode *ip)
{
	return &b->shard[ip->ino % PREALLOC_SHARDS];
}

static void window_remove(struct prealloc *p, uint32_t i)
{
	p->count--;
	memmove(&p->window[i], &p->window[i + 1], (p->count - i) * sizeof(p->window[0]));
}

/*
 * Takes up to @count clusters from @logical on out of window @i, which holds that one.  What lies
 * before it in the window stays there, what lies behind gets a window of its own; *ret_over is what
 * there was no room for.
 */
static void window_take(struct prealloc *p, uint32_t i, uint32_t logical, uint32_t count,
			struct crun *ret, struct crun *ret_over)
{
	struct window *w = &p->window[i];
	uint32_t before = logical - w->logical;
	uint32_t taken = (uint32_t)min_u64(count, w->run.count - before);
	struct window behind = {
		.logical = logical + taken,
		.run = { w->run.cluster + before + taken, w->run.count - before - taken },
	};

	*ret = (struct crun){ w->run.cluster + before, taken };
	w->run.count = before;
	if (before == 0 && behind.run.count > 0)
		*w = behind;
	else if (before == 0)
		window_remove(p, i);
	else if (behind.run.count > 0 && p->count < RUNS_MAX)
		p->window[p->count++] = behind;
	else
		*ret_over = behind.run;
}

bool prealloc_take(struct balloc *b, struct inode *ip, uint32_t logical, uint32_t count,
		   struct crun *ret, uint32_t *ret_room)
{
	struct prealloc_shard *shard = shard_of(b, ip);
	struct crun over = { 0 };
	bool found = false;

	*ret_room = UINT32_MAX;
	mutex_lock(&shard->lock);
	for (uint32_t i = 0; ip->prealloc && i < ip->prealloc->count && !found; i++) {
		struct window *w = &ip->prealloc->window[i];

		if (logical >= w->logical && logical - w->logical < w->run.count) {
			window_take(ip->prealloc, i, logical, count, ret, &over);
			found = true;
		} else if (w->logical > logical && w->logical - logical < *ret_room) {
			*ret_room = w->logical - logical;
		}
	}
	mutex_unlock(&shard->lock);
	if (over.count > 0)
		give_back(b, &over);
	return found;
}

/* Adds a window; *ret_over: the one that had to go for it. */
static void window_add(struct prealloc *p, const struct window *w, struct crun *ret_over)
{
	if (p->count == RUNS_MAX) {
		*ret_over = p->window[0].run;
		window_remove(p, 0);
	}
	p->window[p->count++] = *w;
}

void prealloc_put(struct balloc *b, struct inode *ip, uint32_t logical, const struct crun *run)
{
	const struct window w = { .logical = logical, .run = *run };
	struct prealloc_shard *shard = shard_of(b, ip);
	struct crun over = *run;

	mutex_lock(&shard->lock);
	if (!ip->prealloc) {
		ip->prealloc = mem_zalloc(sizeof(*ip->prealloc));
		if (ip->prealloc) {
			ip->prealloc->ip = ip;
			list_add_tail(&shard->files, &ip->prealloc->link);
		}
	}
	if (ip->prealloc) {
		over.count = 0;
		window_add(ip->prealloc, &w, &over);
	}
	mutex_unlock(&shard->lock);
	if (over.count > 0)
		give_back(b, &over);
}

/* Takes @p, which may be NULL, away from its inode; the caller gives back what it holds. */
static struct prealloc *detach(struct prealloc_shard *shard UNUSED, struct prealloc *p)
	REQUIRES(&shard->lock)
{
	if (p) {
		p->ip->prealloc = NULL;
		list_del(&p->link);
	}
	return p;
}

/* Returns how many clusters that were. */
static uint64_t give_back_all(struct balloc *b, struct prealloc *p)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; p && i < p->count; i++) {
		sum += p->window[i].run.count;
		give_back(b, &p->window[i].run);
	}
	mem_free(p);
	return sum;
}

void balloc_discard_prealloc(struct inode *ip)
{
	struct balloc *b = ip->fs->balloc;
	struct prealloc_shard *shard;
	struct prealloc *p;

	if (!b)
		return;
	shard = shard_of(b, ip);
	mutex_lock(&shard->lock);
	p = detach(shard, ip->prealloc);
	mutex_unlock(&shard->lock);
	(void)give_back_all(b, p);
}

/* ---- neighbourhoods of small files ----------------------------------------------------------- */

static struct locality *locality_of(struct balloc *b, uint32_t flex)
{
	return &b->locality[flex % LOCALITY_SLOTS];
}

bool locality_take(struct balloc *b, uint32_t flex, uint32_t count, struct crun *ret,
		   uint64_t *ret_goal)
{
	struct locality *l = locality_of(b, flex);
	bool found;

	mutex_lock(&l->lock);
	found = l->flex == flex && l->rest.count >= count;
	if (found) {
		*ret = (struct crun){ l->rest.cluster, count };
		l->rest.cluster += count;
		l->rest.count -= count;
	} else if (l->flex == flex && l->rest.cluster != 0) {
		/* Behind the rest, so that both can be joined. */
		*ret_goal = l->rest.cluster + l->rest.count;
	}
	mutex_unlock(&l->lock);
	return found;
}

/* A run never crosses a group (A4). */
static bool can_join(const struct balloc *b, const struct crun *first, const struct crun *second)
{
	return first->count > 0 && first->cluster + first->count == second->cluster &&
	       cluster_group(b->geom, first->cluster) == cluster_group(b->geom, second->cluster);
}

void locality_put(struct balloc *b, uint32_t flex, const struct crun *run)
{
	struct locality *l = locality_of(b, flex);
	struct crun over = { 0 };

	mutex_lock(&l->lock);
	if (l->flex == flex && can_join(b, &l->rest, run)) {
		l->rest.count += run->count;
	} else {
		over = l->rest;
		l->rest = *run;
		l->flex = flex;
	}
	mutex_unlock(&l->lock);
	if (over.count > 0)
		give_back(b, &over);
}

/* ---- all of it ------------------------------------------------------------------------------- */

uint64_t prealloc_discard_all(struct balloc *b)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < PREALLOC_SHARDS; i++) {
		struct prealloc_shard *shard = &b->shard[i];
		struct prealloc *p;

		do {
			mutex_lock(&shard->lock);
			p = list_empty(&shard->files)
				    ? NULL
				    : list_entry(shard->files.next, struct prealloc, link);
			(void)detach(shard, p);
			mutex_unlock(&shard->lock);
			sum += give_back_all(b, p);
		} while (p);
	}
	for (unsigned i = 0; i < LOCALITY_SLOTS; i++) {
		struct locality *l = &b->locality[i];
		struct crun rest;

		mutex_lock(&l->lock);
		rest = l->rest;
		l->rest.count = 0;
		mutex_unlock(&l->lock);
		sum += rest.count;
		if (rest.count > 0)
			give_back(b, &rest);
	}
	return sum;
}
