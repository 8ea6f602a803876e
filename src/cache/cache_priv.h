/* SPDX-License-Identifier: MIT */
/*
 * Inside of the cache: where buffers and pages get their memory, and who may take it away again.
 *
 * Life of a slot (the memory of one buffer or page):
 *
 *	FREE --slots_get--> OWNED --insert--> INDEXED --evict, finish--> FREE
 *	                      |                  |
 *	                      +--slots_put-->    +--read failed--> GONE --last put--> FREE
 *
 * OWNED: one thread knows it, refs is 1.  INDEXED: found by everybody; evicted only while refs is 0
 * and its index is locked, so that nobody can find it meanwhile (C2).  GONE: no longer in its
 * index; those who still hold it see the error, and the last of them frees it (C4).
 */
#ifndef CACHE_CACHE_PRIV_H
#define CACHE_CACHE_PRIV_H

#include "cache/cache.h"

/* Bits of buf.state and page.state. */
enum {
	STATE_LOCK = 1u << 0,	   /* ranks `buf` and `page` */
	STATE_UPTODATE = 1u << 1,  /* read; set under the lock bit, never cleared */
	STATE_ASKED = 1u << 2,	   /* somebody wanted it: it was not only read ahead */
	STATE_RECENT = 1u << 3,	   /* wanted again since the clock hand came by */
	STATE_DIRTY = 1u << 4,	   /* page: differs from the disk; page lock + to set, mapping */
	STATE_WRITEBACK = 1u << 5, /* page: its bytes are being written; page lock to set */
};

/* In buf.refs and page.refs beside the count: it left its index and is freed by the last put. */
#define REFS_GONE (1u << 31)

/* SLOT_FRAME: pages whose memory is their file's own (struct frames); only the head is here. */
enum slot_kind { SLOT_PAGE, SLOT_BUF, SLOT_FRAME };
#define SLOT_KINDS 3

#define SLAB_BYTES (128u * 1024)
#define SLAB_SLOTS_MAX 64u

/*
 * Memory for up to 64 neighbours: pages that are read together lie together, and one request fills
 * them in few pieces.
 */
struct slab {
	struct reclaim_shard *shard; /* c */
	enum slot_kind kind;	     /* c */
	unsigned slots;		     /* c */
	size_t bytes;		     /* c: of all that was allocated for it */
	uint64_t free;		     /* lru: one bit a slot */
	struct list clock_link;	     /* lru */
	struct list free_link;	     /* lru: in shard->usable while a slot is free */
	uint8_t *data;		     /* c: NULL: SLOT_FRAME */
	struct page *pages; /* c: not SLOT_BUF; the heads of the slots, behind this struct */
	struct buf *bufs;   /* c: SLOT_BUF */
};

/* shared: a part of the slabs, with a clock hand of its own */
struct reclaim_shard {
	struct mutex lock; /* RANK_lru */
	struct cache *cache;
	struct list clock[SLOT_KINDS] GUARDED(&lock);  /* all slabs; the hand is at the head */
	struct list usable[SLOT_KINDS] GUARDED(&lock); /* with free slots; unused ones at the end */
	unsigned slabs[SLOT_KINDS] GUARDED(&lock);
} __attribute__((aligned(64)));

/* shared: a part of the buffer index */
struct buf_shard {
	struct mutex lock; /* RANK_bufhash */
	uint64_t hits GUARDED(&lock);
	uint64_t misses GUARDED(&lock);
} __attribute__((aligned(64)));

/* Counters that several threads write are spread, so that they do not share one cache line. */
struct page_counts {
	_Atomic uint64_t hits, misses;
} __attribute__((aligned(64)));

#define RECLAIM_SHARDS 8u
#define BUF_SHARD_BITS 6
#define BUF_SHARDS (1u << BUF_SHARD_BITS)
#define PAGE_COUNTS 16u

/* shared: which files have dirty pages, the flusher, and those who wait for it; writeback.c */
struct dirty_state {
	struct mutex lock;		    /* RANK_dirty */
	struct list files GUARDED(&lock);   /* of struct dirty_node */
	struct list mapped GUARDED(&lock);  /* of struct frames: the next to be trimmed first */
	_Atomic uint32_t mapped_count;	    /* a: of these */
	uint64_t listed_seq GUARDED(&lock); /* the last one given */
	_Atomic uint64_t pages;		    /* a: dirty or under writeback */
	_Atomic uint64_t cleaned;	    /* a: pages that ceased to be so, ever */
	_Atomic uint64_t pinned;	    /* a: pages that stay dirty, as stores are pinned */
	_Atomic uint64_t pages_max;	    /* c while the flusher runs; UINT64_MAX without one */
	_Atomic uint32_t throttled; /* a; changed under lock: who waits in cache_throttle() */

	uint64_t age_ns;	/* c while the flusher runs: dirty for longer is old */
	struct thread *flusher; /* c: between start and stop */
	struct cond wakeup;	/* of the flusher */
	struct cond progress;	/* of those who are throttled */
	bool stop GUARDED(&lock);
	bool asleep GUARDED(&lock);		  /* the flusher waits without a deadline */
	bool wanted GUARDED(&lock);		  /* too much is dirty: a pass is due */
	int pass_error GUARDED(&lock);		  /* of the last pass, if too much stayed dirty */
	uint64_t pass_error_until GUARDED(&lock); /* no new pass is tried before */
};

struct cache {
	struct dev *dev;		    /* c */
	uint64_t budget;		    /* c */
	uint32_t block_size;		    /* c once set */
	blk_t blocks;			    /* c while in use */
	_Atomic uint64_t bytes_total;	    /* of all slabs, and of those about to be allocated */
	_Atomic uint64_t bytes[SLOT_KINDS]; /* of these, by kind */
	_Atomic unsigned next_shard;	    /* spreads allocations */
	struct list *buckets;		    /* bufhash: bucket_count a shard */
	size_t bucket_count;		    /* c: a power of two */
	struct reclaim_shard reclaim[RECLAIM_SHARDS];
	struct buf_shard hash[BUF_SHARDS];
	struct page_counts counts[PAGE_COUNTS];
	struct dirty_state dirty;
};

/* How much is worth reading ahead: an eighth of the budget. */
static inline uint64_t ahead_bytes_max(const struct cache *cache)
{
	return cache->budget / 8;
}

/*
 * The recency mark of a hit.  The first use of what was read ahead does not count as a second one:
 * otherwise a file that is read once from end to end would look as valuable as a directory block.
 */
static inline void state_mark_hit(_Atomic uint32_t *state)
{
	uint32_t s = atomic_load_explicit(state, memory_order_relaxed);

	if (!(s & STATE_ASKED))
		atomic_fetch_or_explicit(state, STATE_ASKED, memory_order_relaxed);
	else if (!(s & STATE_RECENT))
		atomic_fetch_or_explicit(state, STATE_RECENT, memory_order_relaxed);
}

/* Takes the mark of recent use away; true if there was one. */
static inline bool state_unmark(_Atomic uint32_t *state)
{
	if (!(atomic_load_explicit(state, memory_order_relaxed) & STATE_RECENT))
		return false;
	atomic_fetch_and_explicit(state, ~(uint32_t)STATE_RECENT, memory_order_relaxed);
	return true;
}

/* ---- reclaim.c ------------------------------------------------------------------------------- */

void reclaim_init(struct cache *cache);
/* Frees all memory; no slot may be in use. */
void reclaim_finish(struct cache *cache);

/*
 * Between @min and @max slots of the kind, each with one reference, state 0 and no index; more than
 * @min only while memory is to be had for less than what is in use.  -ENOMEM: not even @min.
 */
int page_slots_get(struct cache *cache, size_t min, size_t max, struct page **ret_pages,
		   size_t *ret_count) MUST_CHECK;
int frame_slots_get(struct cache *cache, size_t min, size_t max, struct page **ret_pages,
		    size_t *ret_count) MUST_CHECK;
int buf_slots_get(struct cache *cache, size_t min, size_t max, struct buf **ret_bufs,
		  size_t *ret_count) MUST_CHECK;
/* Give them back: in no index, and nobody else knows them.  Their refs are not looked at. */
void page_slots_put(struct page *const *pages, size_t count);
void buf_slots_put(struct buf *const *bufs, size_t count);

/* More is in use than should be. */
bool reclaim_is_over_budget(struct cache *cache);
/* Returns when no reclaim that ran before is still busy with an index that is going away. */
void reclaim_barrier(struct cache *cache);

/*
 * The index that eviction has locked: it stays so from one slot to the next, since neighbours in
 * memory mostly belong together.
 */
struct index_hold {
	struct mapping *mapping;
	struct buf_shard *buf_shard;
};

void index_hold_release(struct index_hold *hold);

/* ---- buf.c ----------------------------------------------------------------------------------- */

int buf_index_init(struct cache *cache) MUST_CHECK;
void buf_index_finish(struct cache *cache);
/*
 * Takes an unreferenced buffer out of the index; false if it is referenced, or somebody else did.
 */
bool buf_evict(struct buf *buf, struct index_hold *hold);

/* ---- page.c ---------------------------------------------------------------------------------- */

bool page_evict(struct page *page, struct index_hold *hold);
/*
 * References to pages of @index, which is one of @m's two, that are in one of @states (0: any): at
 * most @max, ascending, none behind @last; *@first is moved behind what was looked at.
 */
size_t pages_find(struct mapping *m, struct xarray *index, uint32_t states, pgoff_t *first,
		  pgoff_t last, struct page **ret_pages, size_t max);
/* Locks a referenced page if that needs no waiting and it is still in @m. */
bool page_trylock_in(struct mapping *m, struct page *page) MUST_CHECK;
/* Only under the mapping's lock: there the page cannot be evicted before it is referenced (C2). */
void page_ref(struct page *page);
void page_put(struct page *page);
/* Takes a page that the caller references out of the index: freed with the last reference. */
void page_leave(struct mapping *m, struct page *page) REQUIRES(&m->lock);

/* ---- frames.c -------------------------------------------------------------------------------- */

/* The memory of locked pages that are about to leave the index. */
void frames_discard(struct mapping *m, struct page *const *pages, size_t count);
/* The mapping ends: its frames too. */
void frames_finish(struct mapping *m);

/* ---- writeback.c ----------------------------------------------------------------------------- */

void dirty_init(struct cache *cache);
void dirty_finish(struct cache *cache);
void dirty_mapping_init(struct mapping *m);

#endif
