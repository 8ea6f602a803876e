/* SPDX-License-Identifier: MIT */
/*
 * Buffers: metadata blocks by number, read once, verified once for each purpose.
 *
 * The index is a hash table in shards; a hit is one short lock of a shard, one reference and, at
 * most once a turn of the clock, a mark.
 *
 *  B1  A buffer is uptodate once its bytes are there, whatever they say.  (ops, owner) tell by whom
 *      and for whom they were found good; NULL: by nobody yet, as after a read ahead.  They change
 *      under the lock bit and the shard's lock, so either of the two suffices to read them.
 *  B2  While a thread holds the lock bit of more than one buffer it has made all of them, and
 *      nobody else has had one of them locked: it waits for none.
 *  B3  A failed read takes the buffer out of the index before the lock bit is given up: those who
 *      waited see the error, and whoever comes later makes a new buffer (C4).
 */
#include "cache/cache_priv.h"

#include "base/diag.h"
#include "base/mem.h"

/* One request: the block asked for, and those read ahead. */
#define RUN_MAX DEV_IOV_MAX

#define BUCKETS_MIN 16u /* a shard */
#define BUCKETS_MAX 4096u

/* This many neighbours have the same shard, so that looking at a run locks few of them. */
#define SHARD_RUN_BITS 3

/* ---- the index ------------------------------------------------------------------------------- */

int buf_index_init(struct cache *cache)
{
	size_t wanted = cache->budget / PAGE_BYTES / BUF_SHARDS, total;

	cache->bucket_count = BUCKETS_MIN;
	while (cache->bucket_count < wanted && cache->bucket_count < BUCKETS_MAX)
		cache->bucket_count *= 2;
	total = cache->bucket_count * BUF_SHARDS;
	cache->buckets = mem_calloc(total, sizeof(cache->buckets[0]));
	if (cache->buckets == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < total; i++)
		list_init(&cache->buckets[i]);
	for (unsigned i = 0; i < BUF_SHARDS; i++)
		mutex_init(&cache->hash[i].lock, RANK_bufhash);
	return 0;
}

void buf_index_finish(struct cache *cache)
{
	for (unsigned i = 0; i < BUF_SHARDS; i++)
		mutex_finish(&cache->hash[i].lock);
	mem_free(cache->buckets);
}

static uint64_t run_hash(blk_t blk)
{
	return (blk >> SHARD_RUN_BITS) * UINT64_C(0x9e3779b97f4a7c15);
}

static struct buf_shard *shard_of(struct cache *cache, blk_t blk)
{
	return &cache->hash[run_hash(blk) >> (64 - BUF_SHARD_BITS)];
}

static struct list *bucket_of(struct cache *cache, blk_t blk)
{
	size_t shard = (size_t)(shard_of(cache, blk) - cache->hash);
	size_t bucket = ((run_hash(blk) >> 32) + blk) & (cache->bucket_count - 1);

	return &cache->buckets[shard * cache->bucket_count + bucket];
}

static struct buf *index_find(struct cache *cache, struct buf_shard *shard UNUSED, blk_t blk)
	REQUIRES(&shard->lock)
{
	struct list *bucket = bucket_of(cache, blk);

	list_for_each(pos, bucket) {
		struct buf *buf = list_entry(pos, struct buf, hash_link);

		if (buf->blk == blk)
			return buf;
	}
	return NULL;
}

/* The first one only under the shard's lock: there the buffer cannot be evicted before (C2). */
void buf_get(struct buf *buf)
{
	uint32_t before = atomic_fetch_add_explicit(&buf->refs, 1, memory_order_relaxed);

	assert((before & ~REFS_GONE) < REFS_GONE - 1);
	(void)before;
}

void buf_put(struct buf *buf)
{
	uint32_t before;

	if (buf == NULL)
		return;
	before = atomic_fetch_sub_explicit(&buf->refs, 1, memory_order_acq_rel);
	assert((before & ~REFS_GONE) != 0);
	if (before == (REFS_GONE | 1))
		buf_slots_put(&buf, 1);
}

bool buf_evict(struct buf *buf, struct index_hold *hold) NO_TSA
{
	struct buf_shard *shard = shard_of(buf->cache, buf->blk);

	if (hold->buf_shard != shard) {
		index_hold_release(hold);
		mutex_lock(&shard->lock);
		hold->buf_shard = shard;
	}
	/*
	 * Found since then, or taken out of the index by cache_forget_buffers(), which frees it
	 * itself.
	 */
	if (atomic_load_explicit(&buf->refs, memory_order_acquire) != 0 ||
	    list_empty(&buf->hash_link))
		return false;
	assert(!(atomic_load(&buf->state) & STATE_LOCK));
	list_del(&buf->hash_link);
	return true;
}

/* The first buffer of the bucket, out of the index, or NULL. */
static struct buf *bucket_pop(struct buf_shard *shard, struct list *bucket)
{
	struct buf *buf = NULL;

	mutex_lock(&shard->lock);
	if (!list_empty(bucket)) {
		buf = list_entry(bucket->next, struct buf, hash_link);
		assert(atomic_load(&buf->refs) == 0);
		list_del(&buf->hash_link);
	}
	mutex_unlock(&shard->lock);
	return buf;
}

void cache_forget_buffers(struct cache *cache)
{
	for (size_t i = 0; i < cache->bucket_count * BUF_SHARDS; i++) {
		struct buf_shard *shard = &cache->hash[i / cache->bucket_count];
		struct buf *buf;

		while ((buf = bucket_pop(shard, &cache->buckets[i])) != NULL)
			buf_slots_put(&buf, 1);
	}
}

void cache_forget_block(struct cache *cache, blk_t blk)
{
	struct buf_shard *shard = shard_of(cache, blk);
	struct buf *buf;

	mutex_lock(&shard->lock);
	buf = index_find(cache, shard, blk);
	if (buf != NULL) {
		assert(atomic_load(&buf->refs) == 0);
		list_del(&buf->hash_link);
	}
	mutex_unlock(&shard->lock);
	if (buf != NULL)
		buf_slots_put(&buf, 1);
}

/* ---- lock bit, states ------------------------------------------------------------------------ */

static void buf_lock(struct buf *buf)
{
	bit_lock(&buf->state, STATE_LOCK, RANK_buf, buf->blk);
}

static void buf_unlock(struct buf *buf)
{
	bit_unlock(&buf->state, STATE_LOCK, RANK_buf);
}

static bool buf_is_uptodate(struct buf *buf)
{
	return atomic_load_explicit(&buf->state, memory_order_acquire) & STATE_UPTODATE;
}

static void buf_set_uptodate(struct buf *buf)
{
	atomic_fetch_or_explicit(&buf->state, STATE_UPTODATE, memory_order_release);
}

/* The end of a failed read (B3); the caller, who holds a reference, gives up the lock bit. */
static void buf_set_failed(struct buf *buf, int err)
{
	struct buf_shard *shard = shard_of(buf->cache, buf->blk);

	buf->error = err;
	mutex_lock(&shard->lock);
	list_del(&buf->hash_link);
	mutex_unlock(&shard->lock);
	atomic_fetch_or_explicit(&buf->refs, REFS_GONE, memory_order_relaxed);
}

/* ---- reading --------------------------------------------------------------------------------- */

static int read_one(struct buf *buf)
{
	int err = dev_read(buf->cache->dev, buf->blk * buf->bytes, buf->data, buf->bytes);

	if (err < 0)
		return fail_in(err, "block %llu", (unsigned long long)buf->blk);
	buf_set_uptodate(buf);
	return 0;
}

/*
 * Reads @count neighbours, all locked and new, in one request.  Only the first one was asked for:
 * if the request fails it is tried alone, and the others stay as they are, to be read when they are
 * wanted.
 */
static int read_run(struct buf *const *bufs, size_t count)
{
	struct iovec iov[RUN_MAX];
	struct buf *first = bufs[0];
	int pieces = 0, err = -EIO;

	for (size_t i = 0; i < count; i++) {
		struct iovec *last = &iov[pieces - (pieces > 0)];

		assert(bufs[i]->blk == first->blk + i);
		if (pieces > 0 && (uint8_t *)last->iov_base + last->iov_len == bufs[i]->data)
			last->iov_len += bufs[i]->bytes;
		else
			iov[pieces++] = (struct iovec){ bufs[i]->data, bufs[i]->bytes };
	}
	if (count > 1)
		err = dev_readv(first->cache->dev, first->blk * first->bytes, iov, pieces);
	if (err < 0)
		return read_one(first);
	for (size_t i = 0; i < count; i++)
		buf_set_uptodate(bufs[i]);
	return 0;
}

/*
 * How many blocks from @blk on, which is missing, are worth reading at once: up to the next one
 * that is here.
 */
static size_t run_length(struct cache *cache, blk_t blk, uint32_t ahead)
{
	uint64_t max = min_u64(ahead, cache->blocks - blk - 1);
	size_t length = 1;

	max = min_u64(max, ahead_bytes_max(cache) / cache->block_size);
	max = min_u64(max, RUN_MAX - 1);
	for (; length <= max; length++) {
		struct buf_shard *shard = shard_of(cache, blk + length);
		bool here;

		mutex_lock(&shard->lock);
		here = index_find(cache, shard, blk + length) != NULL;
		mutex_unlock(&shard->lock);
		if (here)
			break;
	}
	return length;
}

/*
 * Puts new buffers into the index, ascending, up to the first block somebody else was faster with;
 * returns how many.  If that is the very first, *ret_other is a reference to the other one's
 * buffer.
 */
static size_t index_insert_run(struct cache *cache, struct buf *const *bufs, size_t count,
			       struct buf **ret_other)
{
	size_t done = 0;

	for (; done < count; done++) {
		blk_t blk = bufs[done]->blk;
		struct buf_shard *shard = shard_of(cache, blk);
		struct buf *other;

		mutex_lock(&shard->lock);
		other = index_find(cache, shard, blk);
		if (other == NULL) {
			list_add_head(bucket_of(cache, blk), &bufs[done]->hash_link);
		} else if (done == 0) {
			buf_get(other);
			*ret_other = other;
		}
		mutex_unlock(&shard->lock);
		if (other != NULL)
			break;
	}
	return done;
}

/*
 * @blk, which was missing, as a referenced buffer: read here with @ahead of its neighbours, or
 * somebody else's who was faster.
 */
static int buf_read_new(struct cache *cache, blk_t blk, uint32_t ahead, struct buf **ret_buf)
{
	struct buf *bufs[RUN_MAX], *buf;
	size_t count, inserted;
	int err;

	err = buf_slots_get(cache, 1, run_length(cache, blk, ahead), bufs, &count);
	if (err < 0)
		return err;
	for (size_t i = 0; i < count; i++) { /* locked before anybody can find them (B2) */
		bufs[i]->blk = blk + i;
		buf_lock(bufs[i]);
	}
	buf = bufs[0];
	inserted = index_insert_run(cache, bufs, count, &buf);
	if (inserted > 0) {
		atomic_fetch_or_explicit(&buf->state, STATE_ASKED, memory_order_relaxed);
		err = read_run(bufs, inserted);
		if (err < 0)
			buf_set_failed(buf, err);
	}
	for (size_t i = 0; i < count; i++)
		buf_unlock(bufs[i]);
	buf_slots_put(bufs + inserted, count - inserted);
	for (size_t i = 1; i < inserted; i++)
		buf_put(bufs[i]);
	if (err < 0) {
		buf_put(buf);
		return err;
	}
	*ret_buf = buf;
	return 0;
}

/* ---- verifying ------------------------------------------------------------------------------- */

/* Who wants a block, and as what. */
struct purpose {
	const struct buf_ops *ops;
	uint64_t owner;
	const void *arg;
};

/* Requires the lock bit, or the lock of the buffer's shard (B1). */
static bool is_verified(const struct buf *buf, const struct purpose *purpose)
{
	const struct buf_ops *ops = purpose->ops;

	return (buf->ops == ops || (ops->stricter != NULL && buf->ops == ops->stricter)) &&
	       buf->owner == purpose->owner;
}

/*
 * If this fails the block stays what it was found to be before: it may be good for somebody else.
 */
static int buf_verify(struct buf *buf, const struct purpose *purpose)
{
	struct buf_shard *shard = shard_of(buf->cache, buf->blk);
	int err;

	err = purpose->ops->verify(buf->data, buf->bytes, buf->blk, purpose->arg);
	assert(err <= 0);
	if (err < 0)
		return err;
	mutex_lock(&shard->lock);
	buf->ops = purpose->ops;
	buf->owner = purpose->owner;
	mutex_unlock(&shard->lock);
	return 0;
}

/* Makes a referenced buffer uptodate and verified, or waits for somebody who does (C1). */
static int buf_make_ready(struct buf *buf, const struct purpose *purpose)
{
	int err = 0;

	buf_lock(buf);
	if (buf->error != 0)
		err = fail(buf->error, "%s: block %llu could not be read", purpose->ops->name,
			   (unsigned long long)buf->blk);
	else if (!buf_is_uptodate(buf)) {
		err = read_one(buf);
		if (err < 0)
			buf_set_failed(buf, err);
	}
	if (err == 0 && !is_verified(buf, purpose))
		err = buf_verify(buf, purpose);
	buf_unlock(buf);
	return err;
}

/* The buffer of @blk, referenced, or NULL; *ret_ready: nothing remains to be done for @purpose. */
static struct buf *buf_find(struct cache *cache, blk_t blk, const struct purpose *purpose,
			    bool *ret_ready)
{
	struct buf_shard *shard = shard_of(cache, blk);
	struct buf *buf;

	mutex_lock(&shard->lock);
	buf = index_find(cache, shard, blk);
	if (buf != NULL) {
		buf_get(buf);
		state_mark_hit(&buf->state);
		*ret_ready = is_verified(buf, purpose);
		shard->hits++;
	} else {
		shard->misses++;
	}
	mutex_unlock(&shard->lock);
	return buf;
}

/* What the caller of buf_read() and buf_create() may ask for. */
static int buf_check(const struct cache *cache, blk_t blk, const struct buf_ops *ops)
{
	assert(cache->block_size != 0);
	assert(ops != NULL);
	lockrank_may_acquire(RANK_buf);
	if (blk >= cache->blocks)
		return corrupt("%s: block %llu lies outside of the file system (%llu blocks)",
			       ops->name, (unsigned long long)blk,
			       (unsigned long long)cache->blocks);
	return 0;
}

int buf_read(struct cache *cache, blk_t blk, const struct buf_ops *ops, uint64_t owner,
	     const void *arg, uint32_t ahead, struct buf **ret_buf)
{
	const struct purpose purpose = { .ops = ops, .owner = owner, .arg = arg };
	bool ready = false;
	struct buf *buf;
	int err;

	err = buf_check(cache, blk, ops);
	if (err < 0)
		return err;

	buf = buf_find(cache, blk, &purpose, &ready);
	if (buf == NULL) {
		err = buf_read_new(cache, blk, ahead, &buf);
		if (err < 0)
			return fail_in(err, "%s", ops->name);
	}
	if (!ready) {
		err = buf_make_ready(buf, &purpose);
		if (err < 0) {
			buf_put(buf);
			return err;
		}
	}
	assert(buf_is_uptodate(buf));
	*ret_buf = buf;
	return 0;
}

void buf_seal(struct buf *buf, void *arg)
{
	struct buf_shard *shard = shard_of(buf->cache, buf->blk);
	const struct buf_ops *ops;
	uint64_t owner;

	mutex_lock(&shard->lock);
	ops = buf->ops;
	owner = buf->owner;
	mutex_unlock(&shard->lock);
	if (ops->seal != NULL)
		ops->seal(buf, owner, arg);
}

/* ---- blocks that are not read ---------------------------------------------------------------- */

/* A new buffer of @blk, locked, referenced and in the index; or another one, only referenced. */
static int buf_insert_new(struct cache *cache, blk_t blk, struct buf **ret_buf, bool *ret_locked)
{
	struct buf *buf;
	size_t count;
	int err;

	err = buf_slots_get(cache, 1, 1, &buf, &count);
	if (err < 0)
		return err;
	buf->blk = blk;
	buf_lock(buf);
	*ret_buf = buf;
	*ret_locked = index_insert_run(cache, &buf, 1, ret_buf) == 1;
	if (!*ret_locked) {
		buf_unlock(buf);
		buf_slots_put(&buf, 1);
	}
	return 0;
}

/* A referenced, locked buffer of @blk, whatever is in it. */
static int buf_get_locked(struct cache *cache, blk_t blk, const struct purpose *purpose,
			  struct buf **ret_buf)
{
	for (;;) {
		bool ready, locked = false;
		struct buf *buf = buf_find(cache, blk, purpose, &ready);
		int err;

		if (buf == NULL) {
			err = buf_insert_new(cache, blk, &buf, &locked);
			if (err < 0)
				return err;
		}
		if (!locked)
			buf_lock(buf);
		if (buf->error == 0) {
			*ret_buf = buf;
			return 0;
		}
		/* A read of it failed meanwhile and it left the index (B3): the next one is new. */
		buf_unlock(buf);
		buf_put(buf);
	}
}

int buf_create(struct cache *cache, blk_t blk, const struct buf_ops *ops, uint64_t owner,
	       struct buf **ret_buf)
{
	const struct purpose purpose = { .ops = ops, .owner = owner };
	struct buf_shard *shard = shard_of(cache, blk);
	struct buf *buf;
	int err;

	err = buf_check(cache, blk, ops);
	if (err < 0)
		return err;
	err = buf_get_locked(cache, blk, &purpose, &buf);
	if (err < 0)
		return fail_in(err, "%s", ops->name);
	if (!buf_is_uptodate(buf)) {
		memset(buf->data, 0, buf->bytes);
		buf_set_uptodate(buf);
	}
	mutex_lock(&shard->lock);
	buf->ops = ops;
	buf->owner = owner;
	mutex_unlock(&shard->lock);
	buf_unlock(buf);
	*ret_buf = buf;
	return 0;
}

struct buf *buf_lookup(struct cache *cache, blk_t blk)
{
	struct buf_shard *shard = shard_of(cache, blk);
	struct buf *buf;

	mutex_lock(&shard->lock);
	buf = index_find(cache, shard, blk);
	if (buf != NULL && buf_is_uptodate(buf))
		buf_get(buf);
	else
		buf = NULL;
	mutex_unlock(&shard->lock);
	return buf;
}
