/* SPDX-License-Identifier: MIT */
/*
 * Memory of buffers and pages: slabs of slots, a budget, and a clock that says what goes first.
 *
 * Memory is taken and given back in slabs; one slot costs no malloc.  When the budget is used up
 * the hand of a shard's clock goes over its slabs: a slot that was wanted since the last turn loses
 * its mark and stays, another one that nobody holds is evicted.  A hit so moves nothing in any
 * list.
 *
 * Buffers and pages share the budget: what is free goes to the first who wants it, and a kind that
 * has less than its quarter takes a slab away from the other one before it evicts its own.
 *
 *  L1  A slot is in use exactly if its bit in slab->free is clear.  Bits change under the shard's
 *      lock.
 *  L2  A mapping whose page is in use cannot go away while the shard of that page is locked, since
 *      mapping_finish() needs that lock to free the page, or in reclaim_barrier().
 *  L3  Slabs without a used slot stand behind all others in `usable`.
 *
 * Locks: one shard at a time, then one index at a time.  Both are held for short, never across I/O
 * or a wait for anything ranked before them (C3).
 */
#include "cache/cache_priv.h"

#include "base/mem.h"

/* How many slabs one request for memory looks at in the hope of a whole idle one. */
#define IDLE_SCAN_MAX 64u

/* ---- slabs ----------------------------------------------------------------------------------- */

static uint64_t all_slots(const struct slab *slab)
{
	return UINT64_MAX >> (SLAB_SLOTS_MAX - slab->slots);
}

static bool slab_is_unused(const struct slab *slab)
{
	return slab->free == all_slots(slab);
}

static _Atomic uint32_t *slot_refs(const struct slab *slab, unsigned slot)
{
	return slab->kind != SLOT_BUF ? &slab->pages[slot].refs : &slab->bufs[slot].refs;
}

static _Atomic uint32_t *slot_state(const struct slab *slab, unsigned slot)
{
	return slab->kind != SLOT_BUF ? &slab->pages[slot].state : &slab->bufs[slot].state;
}

static void slab_init_slot(struct slab *slab, unsigned slot, size_t slot_bytes)
{
	uint8_t *data = slab->data != NULL ? slab->data + slot * slot_bytes : NULL;

	if (slab->kind != SLOT_BUF) {
		slab->pages[slot] = (struct page){ .data = data, .slab = slab };
	} else {
		struct buf *buf = &slab->bufs[slot];

		*buf = (struct buf){ .data = data, .slab = slab, .bytes = (uint32_t)slot_bytes };
		buf->cache = slab->shard->cache;
		list_init(&buf->hash_link);
		list_init(&buf->journal.done_link);
	}
}

static struct slab *slab_create(struct reclaim_shard *shard, enum slot_kind kind, unsigned slots,
				size_t slot_bytes, size_t head_bytes)
{
	struct slab *slab = mem_zalloc(sizeof(*slab) + slots * head_bytes);

	if (slab == NULL)
		return NULL;
	if (kind != SLOT_FRAME) {
		slab->data = mem_alloc_aligned(slots * slot_bytes, PAGE_BYTES);
		if (slab->data == NULL) {
			mem_free(slab);
			return NULL;
		}
	}
	slab->shard = shard;
	slab->kind = kind;
	slab->slots = slots;
	slab->bytes = slots * slot_bytes + slots * head_bytes + sizeof(*slab);
	if (kind != SLOT_BUF)
		slab->pages = (struct page *)(void *)(slab + 1);
	else
		slab->bufs = (struct buf *)(void *)(slab + 1);
	for (unsigned i = 0; i < slots; i++)
		slab_init_slot(slab, i, slot_bytes);
	slab->free = all_slots(slab);
	return slab;
}

static uint64_t bytes_in_use(struct cache *cache)
{
	return atomic_load_explicit(&cache->bytes_total, memory_order_relaxed);
}

bool reclaim_is_over_budget(struct cache *cache)
{
	return bytes_in_use(cache) > cache->budget;
}

enum grow { GROW_IN_BUDGET, GROW_ANYWAY };

/* Counts @bytes before they are allocated, so that two shards do not take the same last ones. */
static bool budget_take(struct cache *cache, size_t bytes, enum grow how)
{
	uint64_t total = bytes_in_use(cache);

	do {
		if (how == GROW_IN_BUDGET && total + bytes > cache->budget)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&cache->bytes_total, &total, total + bytes,
							memory_order_relaxed,
							memory_order_relaxed));
	return true;
}

static void budget_give(struct cache *cache, size_t bytes)
{
	atomic_fetch_sub_explicit(&cache->bytes_total, bytes, memory_order_relaxed);
}

/* Adds a slab: false without memory, or without budget. */
static bool shard_grow(struct reclaim_shard *shard, enum slot_kind kind, enum grow how)
	REQUIRES(&shard->lock)
{
	struct cache *cache = shard->cache;
	size_t slot_bytes = kind != SLOT_BUF ? PAGE_BYTES : cache->block_size;
	size_t head_bytes = kind != SLOT_BUF ? sizeof(struct page) : sizeof(struct buf);
	unsigned slots = (unsigned)min_size(SLAB_BYTES / slot_bytes, SLAB_SLOTS_MAX);
	size_t bytes = slots * (slot_bytes + head_bytes) + sizeof(struct slab);
	struct slab *slab;

	if (!budget_take(cache, bytes, how))
		return false;
	slab = slab_create(shard, kind, slots, slot_bytes, head_bytes);
	if (slab == NULL) {
		budget_give(cache, bytes);
		return false;
	}
	assert(slab->bytes == bytes);
	atomic_fetch_add_explicit(&cache->bytes[kind], bytes, memory_order_relaxed);
	list_add_tail(&shard->clock[kind], &slab->clock_link);
	list_add_tail(&shard->usable[kind], &slab->free_link);
	shard->slabs[kind]++;
	return true;
}

static void shard_shrink(struct reclaim_shard *shard, struct slab *slab) REQUIRES(&shard->lock)
{
	assert(slab_is_unused(slab));
	list_del(&slab->clock_link);
	list_del(&slab->free_link);
	shard->slabs[slab->kind]--;
	atomic_fetch_sub_explicit(&shard->cache->bytes[slab->kind], slab->bytes,
				  memory_order_relaxed);
	budget_give(shard->cache, slab->bytes);
	mem_free(slab->data);
	mem_free(slab);
}

static void slot_release(struct reclaim_shard *shard, struct slab *slab, unsigned slot)
	REQUIRES(&shard->lock)
{
	uint64_t bit = UINT64_C(1) << slot;

	assert(!(slab->free & bit)); /* L1: freed once */
	if (slab->free == 0)
		list_add_head(&shard->usable[slab->kind], &slab->free_link);
	slab->free |= bit;
	if (slab_is_unused(slab)) { /* L3 */
		list_del(&slab->free_link);
		list_add_tail(&shard->usable[slab->kind], &slab->free_link);
	}
}

/* ---- the clock ------------------------------------------------------------------------------- */

void index_hold_release(struct index_hold *hold) NO_TSA
{
	if (hold->mapping != NULL)
		rwlock_write_unlock(&hold->mapping->lock);
	if (hold->buf_shard != NULL)
		mutex_unlock(&hold->buf_shard->lock);
	*hold = (struct index_hold){ NULL, NULL };
}

/*
 * Nobody holds it: what its last holder did with it is seen here.  A slot that is GONE or owned by
 * the one who allocated it is held.
 */
static bool slot_is_idle(const struct slab *slab, unsigned slot)
{
	return atomic_load_explicit(slot_refs(slab, slot), memory_order_acquire) == 0;
}

static bool slot_evict(struct reclaim_shard *shard, struct slab *slab, unsigned slot,
		       struct index_hold *hold) REQUIRES(&shard->lock)
{
	bool evicted = slab->kind == SLOT_PAGE ? page_evict(&slab->pages[slot], hold)
					       : buf_evict(&slab->bufs[slot], hold);

	if (evicted)
		slot_release(shard, slab, slot);
	return evicted;
}

/* The slab under the hand, which moves on. */
static struct slab *clock_next(struct reclaim_shard *shard, enum slot_kind kind)
	REQUIRES(&shard->lock)
{
	struct slab *slab = list_entry(shard->clock[kind].next, struct slab, clock_link);

	list_del(&slab->clock_link);
	list_add_tail(&shard->clock[kind], &slab->clock_link);
	return slab;
}

/*
 * Frames are not evicted here: that needs locks and calls of the host that come before ours (S12).
 * Who makes them trims others (frames.c).
 */
static bool kind_is_swept(enum slot_kind kind)
{
	return kind != SLOT_FRAME;
}

/*
 * Evicts, a slab at a time, until @want slots are free or the hand went around twice: the first
 * turn takes the marks away.  False if nothing became free.
 */
static bool shard_sweep(struct reclaim_shard *shard, enum slot_kind kind, size_t want)
	REQUIRES(&shard->lock)
{
	struct index_hold hold = { NULL, NULL };
	unsigned turns = kind_is_swept(kind) ? 2 * shard->slabs[kind] : 0;
	size_t freed = 0;

	for (; turns > 0 && freed < want; turns--) {
		struct slab *slab = clock_next(shard, kind);
		uint64_t used = ~slab->free & all_slots(slab);

		for (; used != 0; used &= used - 1) {
			unsigned slot = (unsigned)__builtin_ctzll(used);

			if (slot_is_idle(slab, slot) && !state_unmark(slot_state(slab, slot)))
				freed += slot_evict(shard, slab, slot, &hold);
		}
	}
	index_hold_release(&hold);
	return freed > 0;
}

/* Nobody holds anything in it or wanted it since the hand came by; takes the marks away. */
static bool slab_is_idle(const struct slab *slab)
{
	bool idle = true;

	for (uint64_t used = ~slab->free & all_slots(slab); used != 0; used &= used - 1) {
		unsigned slot = (unsigned)__builtin_ctzll(used);

		if (!slot_is_idle(slab, slot) || state_unmark(slot_state(slab, slot)))
			idle = false;
	}
	return idle;
}

static void slab_evict(struct reclaim_shard *shard, struct slab *slab) REQUIRES(&shard->lock)
{
	struct index_hold hold = { NULL, NULL };

	for (uint64_t used = ~slab->free & all_slots(slab); used != 0; used &= used - 1)
		(void)slot_evict(shard, slab, (unsigned)__builtin_ctzll(used), &hold);
	index_hold_release(&hold);
}

static bool shard_drop_unused(struct reclaim_shard *shard, enum slot_kind kind)
	REQUIRES(&shard->lock)
{
	struct slab *slab;

	if (list_empty(&shard->usable[kind]))
		return false;
	slab = list_entry(shard->usable[kind].prev, struct slab, free_link); /* L3 */
	if (!slab_is_unused(slab))
		return false;
	shard_shrink(shard, slab);
	return true;
}

/* Gives the memory of a whole slab back, an idle one if none is unused; false if there is none. */
static bool shard_drop_slab(struct reclaim_shard *shard, enum slot_kind kind) REQUIRES(&shard->lock)
{
	unsigned turns = (unsigned)min_size(2 * (size_t)shard->slabs[kind], IDLE_SCAN_MAX);

	if (shard_drop_unused(shard, kind))
		return true;
	if (!kind_is_swept(kind))
		return false;
	for (; turns > 0; turns--) {
		struct slab *slab = clock_next(shard, kind);

		if (!slab_is_idle(slab))
			continue;
		slab_evict(shard, slab);
		if (slab_is_unused(slab)) {
			shard_shrink(shard, slab);
			return true;
		}
	}
	return false;
}

/* ---- getting slots --------------------------------------------------------------------------- */

/* Where the slots of one request go: one of the two arrays. */
struct slot_request {
	enum slot_kind kind;
	size_t max;
	size_t count; /* so far */
	struct page **pages;
	struct buf **bufs;
};

/* OWNED: from here on nobody else touches it. */
static void request_add(struct slot_request *rq, struct slab *slab, unsigned slot)
{
	if (rq->kind != SLOT_BUF) {
		struct page *page = &slab->pages[slot];

		assert(atomic_load_explicit(&page->mapping, memory_order_relaxed) == NULL);
		page->error = 0;
		rq->pages[rq->count++] = page;
	} else {
		struct buf *buf = &slab->bufs[slot];

		assert(list_empty(&buf->hash_link));
		assert(buf->journal.done == NULL);
		buf->error = 0;
		buf->ops = NULL;
		rq->bufs[rq->count++] = buf;
	}
	atomic_store_explicit(slot_state(slab, slot), 0, memory_order_relaxed);
	atomic_store_explicit(slot_refs(slab, slot), 1, memory_order_relaxed);
}

static void take_free(struct reclaim_shard *shard, struct slot_request *rq) REQUIRES(&shard->lock)
{
	while (rq->count < rq->max && !list_empty(&shard->usable[rq->kind])) {
		struct slab *slab = list_entry(shard->usable[rq->kind].next, struct slab,
					       free_link);

		while (rq->count < rq->max && slab->free != 0) {
			unsigned slot = (unsigned)__builtin_ctzll(slab->free);

			slab->free &= slab->free - 1;
			request_add(rq, slab, slot);
		}
		if (slab->free == 0)
			list_del(&slab->free_link);
	}
}

/* Whom a kind takes memory from. */
static enum slot_kind other_kind(enum slot_kind kind)
{
	return kind == SLOT_PAGE ? SLOT_BUF : SLOT_PAGE;
}

/* A slab of the other kind instead of an eviction of one's own. */
static bool take_over(struct reclaim_shard *shard, enum slot_kind kind) REQUIRES(&shard->lock)
{
	struct cache *cache = shard->cache;
	uint64_t own = atomic_load_explicit(&cache->bytes[kind], memory_order_relaxed);
	bool dropped;

	if (own < cache->budget / 4)
		dropped = shard_drop_slab(shard, other_kind(kind));
	else
		dropped = shard_drop_unused(shard, other_kind(kind));
	return dropped && shard_grow(shard, kind, GROW_IN_BUDGET);
}

/* Everything this shard can give without breaking the budget.  Each turn yields a slot or ends. */
static void take_from_shard(struct reclaim_shard *shard, struct slot_request *rq)
	REQUIRES(&shard->lock)
{
	/* Back to the budget after a time in which too much was referenced. */
	if (bytes_in_use(shard->cache) > shard->cache->budget &&
	    !shard_drop_slab(shard, other_kind(rq->kind)))
		(void)shard_drop_slab(shard, rq->kind);

	for (;;) {
		take_free(shard, rq);
		if (rq->count == rq->max)
			return;
		if (!shard_grow(shard, rq->kind, GROW_IN_BUDGET) && !take_over(shard, rq->kind) &&
		    !shard_sweep(shard, rq->kind, rq->max - rq->count))
			return;
	}
}

/* All that remains is referenced, which the budget does not cover, or belongs to the other kind. */
static int take_beyond_budget(struct reclaim_shard *shard, struct slot_request *rq, size_t min)
{
	mutex_lock(&shard->lock);
	take_free(shard, rq);
	while (rq->count < min) {
		(void)shard_drop_slab(shard, other_kind(rq->kind));
		if (!shard_grow(shard, rq->kind, GROW_ANYWAY))
			break;
		take_free(shard, rq);
	}
	mutex_unlock(&shard->lock);
	return rq->count >= min ? 0 : -ENOMEM;
}

static void slots_put(struct cache *cache, struct slot_request *rq)
{
	if (rq->kind != SLOT_BUF)
		page_slots_put(rq->pages, rq->count);
	else
		buf_slots_put(rq->bufs, rq->count);
}

static int slots_get(struct cache *cache, struct slot_request *rq, size_t min)
{
	unsigned first = atomic_fetch_add_explicit(&cache->next_shard, 1, memory_order_relaxed);
	struct reclaim_shard *shard;
	int err;

	assert(min > 0 && min <= rq->max);
	lockrank_may_acquire(RANK_lru);

	/* First those that are not busy, then each in its turn. */
	for (unsigned i = 0; i < RECLAIM_SHARDS && rq->count < min; i++) {
		shard = &cache->reclaim[(first + i) % RECLAIM_SHARDS];
		if (!mutex_trylock(&shard->lock))
			continue;
		take_from_shard(shard, rq);
		mutex_unlock(&shard->lock);
	}
	for (unsigned i = 0; i < RECLAIM_SHARDS && rq->count < min; i++) {
		shard = &cache->reclaim[(first + i) % RECLAIM_SHARDS];
		mutex_lock(&shard->lock);
		take_from_shard(shard, rq);
		mutex_unlock(&shard->lock);
	}
	if (rq->count >= min)
		return 0;

	err = take_beyond_budget(&cache->reclaim[first % RECLAIM_SHARDS], rq, min);
	if (err < 0)
		slots_put(cache, rq);
	return err;
}

static int head_slots_get(struct cache *cache, enum slot_kind kind, size_t min, size_t max,
			  struct page **ret_pages, size_t *ret_count)
{
	struct slot_request rq = { .kind = kind, .max = max, .pages = ret_pages };
	int err = slots_get(cache, &rq, min);

	if (err < 0)
		return err;
	*ret_count = rq.count;
	return 0;
}

int page_slots_get(struct cache *cache, size_t min, size_t max, struct page **ret_pages,
		   size_t *ret_count)
{
	return head_slots_get(cache, SLOT_PAGE, min, max, ret_pages, ret_count);
}

int frame_slots_get(struct cache *cache, size_t min, size_t max, struct page **ret_pages,
		    size_t *ret_count)
{
	return head_slots_get(cache, SLOT_FRAME, min, max, ret_pages, ret_count);
}

int buf_slots_get(struct cache *cache, size_t min, size_t max, struct buf **ret_bufs,
		  size_t *ret_count)
{
	struct slot_request rq = { .kind = SLOT_BUF, .max = max, .bufs = ret_bufs };
	int err = slots_get(cache, &rq, min);

	if (err < 0)
		return err;
	*ret_count = rq.count;
	return 0;
}

/* ---- giving slots back ----------------------------------------------------------------------- */

/* Locks the shard of @slab unless it is the one in *@shard already; NULL unlocks. */
static void shard_switch(struct reclaim_shard **shard, struct slab *slab) NO_TSA
{
	struct reclaim_shard *next = slab != NULL ? slab->shard : NULL;

	if (next == *shard)
		return;
	if (*shard != NULL)
		mutex_unlock(&(*shard)->lock);
	if (next != NULL)
		mutex_lock(&next->lock);
	*shard = next;
}

void page_slots_put(struct page *const *pages, size_t count) NO_TSA
{
	struct reclaim_shard *shard = NULL;

	for (size_t i = 0; i < count; i++) {
		struct slab *slab = pages[i]->slab;

		assert(atomic_load_explicit(&pages[i]->mapping, memory_order_relaxed) == NULL);
		shard_switch(&shard, slab);
		slot_release(shard, slab, (unsigned)(pages[i] - slab->pages));
		/* The memory is the host's again; nothing else would give the budget back. */
		if (slab->kind == SLOT_FRAME && slab_is_unused(slab))
			shard_shrink(shard, slab);
	}
	shard_switch(&shard, NULL);
}

void buf_slots_put(struct buf *const *bufs, size_t count) NO_TSA
{
	struct reclaim_shard *shard = NULL;

	for (size_t i = 0; i < count; i++) {
		struct slab *slab = bufs[i]->slab;

		assert(list_empty(&bufs[i]->hash_link));
		shard_switch(&shard, slab);
		slot_release(shard, slab, (unsigned)(bufs[i] - slab->bufs));
	}
	shard_switch(&shard, NULL);
}

void reclaim_barrier(struct cache *cache)
{
	for (unsigned i = 0; i < RECLAIM_SHARDS; i++) {
		mutex_lock(&cache->reclaim[i].lock);
		mutex_unlock(&cache->reclaim[i].lock);
	}
}

/* ---- begin and end --------------------------------------------------------------------------- */

void reclaim_init(struct cache *cache)
{
	for (unsigned i = 0; i < RECLAIM_SHARDS; i++) {
		struct reclaim_shard *shard = &cache->reclaim[i];

		mutex_init(&shard->lock, RANK_lru);
		shard->cache = cache;
		for (unsigned kind = 0; kind < SLOT_KINDS; kind++) {
			list_init(&shard->clock[kind]);
			list_init(&shard->usable[kind]);
		}
	}
}

void reclaim_finish(struct cache *cache)
{
	for (unsigned i = 0; i < RECLAIM_SHARDS; i++) {
		struct reclaim_shard *shard = &cache->reclaim[i];

		mutex_lock(&shard->lock);
		for (unsigned kind = 0; kind < SLOT_KINDS; kind++) {
			while (shard_drop_unused(shard, (enum slot_kind)kind))
				;
			assert(shard->slabs[kind] == 0); /* else something was not put */
		}
		mutex_unlock(&shard->lock);
		mutex_finish(&shard->lock);
	}
	assert(bytes_in_use(cache) == 0);
}
