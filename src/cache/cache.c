/* SPDX-License-Identifier: MIT */
/*
 * The cache as a whole: create, destroy, numbers.
 *
 * Buffers are in buf.c, pages in page.c and, as far as they are dirty, in writeback.c, and the
 * memory of both in reclaim.c.
 */
#include "cache/cache_priv.h"

#include "base/mem.h"

#define BUDGET_MIN (1024u * 1024)

int cache_create(struct dev *dev, uint64_t budget, struct cache **ret_cache)
{
	struct cache *cache = mem_alloc_aligned(sizeof(*cache), _Alignof(struct cache));
	int err;

	if (cache == NULL)
		return -ENOMEM;
	memset(cache, 0, sizeof(*cache));
	cache->dev = dev;
	cache->budget = max_u64(budget, BUDGET_MIN);
	err = buf_index_init(cache);
	if (err < 0) {
		mem_free(cache);
		return err;
	}
	reclaim_init(cache);
	dirty_init(cache);
	*ret_cache = cache;
	return 0;
}

void cache_destroy(struct cache *cache)
{
	if (cache == NULL)
		return;
	cache_forget_buffers(cache);
	dirty_finish(cache);
	reclaim_finish(cache);
	buf_index_finish(cache);
	mem_free(cache);
}

void cache_set_geometry(struct cache *cache, uint32_t block_size, blk_t blocks)
{
	assert(is_pow2(block_size));
	assert(block_size >= 1024 && block_size <= 65536);
	assert(cache->block_size == 0 || cache->block_size == block_size);
	cache->block_size = block_size;
	cache->blocks = blocks;
}

void cache_get_stats(struct cache *cache, struct cache_stats *ret_stats)
{
	struct cache_stats stats = { 0 };

	for (unsigned i = 0; i < BUF_SHARDS; i++) {
		struct buf_shard *shard = &cache->hash[i];

		mutex_lock(&shard->lock);
		stats.buffer_hits += shard->hits;
		stats.buffer_misses += shard->misses;
		mutex_unlock(&shard->lock);
	}
	for (unsigned i = 0; i < PAGE_COUNTS; i++) {
		struct page_counts *counts = &cache->counts[i];

		stats.page_hits += atomic_load_explicit(&counts->hits, memory_order_relaxed);
		stats.page_misses += atomic_load_explicit(&counts->misses, memory_order_relaxed);
	}
	stats.bytes = atomic_load_explicit(&cache->bytes_total, memory_order_relaxed);
	stats.dirty_bytes = atomic_load_explicit(&cache->dirty.pages, memory_order_relaxed)
			    << PAGE_BITS;
	*ret_stats = stats;
}

uint64_t cache_budget(const struct cache *cache)
{
	return cache->budget;
}

uint32_t cache_block_size(const struct cache *cache)
{
	return cache->block_size;
}
