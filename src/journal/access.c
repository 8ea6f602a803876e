/* SPDX-License-Identifier: MIT */
/*
 * Buffers enter and leave the running transaction.
 *
 * What the fields of struct buf_journal say, with R the running and C the committing transaction:
 *
 *	tid = R		claimed: a handle said it will change the bytes (handle_get_write())
 *	claim_tid = R	the bytes may be such as R made them
 *	dirty_tid = R	and a handle said that they are (handle_dirty())
 *	forget_tid = R	the block was freed in R; then tid is 0
 *	commit_tid = C	the copy of it is being written, or C freed it
 *	done		the last committed change of it, which is not home yet
 *	unsealed	its checksum is not that of the bytes; never when claim_tid is not set (BJ1)
 *
 *  BJ1  The bytes are those of the last committed change if neither claim_tid nor commit_tid is
 *       set.  Only then they may be copied to be written home (J1).
 *  BJ2  A buffer is an entry of R exactly if claim_tid or forget_tid is R.
 *  BJ3  All fields but tid and dirty_tid change under log->lock; these two also do, or are set by
 *       one who has a handle, to the transaction of that handle.
 *  BJ4  A block that was freed in R is on its way home only for older transactions, and only until
 *       R is committed (J3): commit_finish().
 */
#include "journal/txn_priv.h"

#include "base/diag.h"
#include "base/mem.h"

void buf_leave_done(struct buf *buf)
{
	assert(buf->journal.done != NULL);
	list_del(&buf->journal.done_link);
	buf->journal.done = NULL;
	buf_put(buf);
}

/* Entries that are still there have not been switched, or nobody will look at them any more. */
void txn_reset(struct txn_log *log, struct txn *t)
{
	for (size_t i = 0; i < t->count; i++) {
		struct buf *buf = t->entries[i].buf;

		if (buf == NULL)
			continue;
		atomic_store_explicit(&buf->journal.tid, 0, memory_order_relaxed);
		atomic_store_explicit(&buf->journal.dirty_tid, 0, memory_order_relaxed);
		buf->journal.claim_tid = 0;
		buf->journal.forget_tid = 0;
		buf->journal.commit_tid = 0;
		buf_put(buf);
	}
	t->count = 0;
	t->logged = 0;
	t->revoke_credits = 0;
	revoke_set_clear(&t->revokes);
}

/* ---- entering -------------------------------------------------------------------------------- */

static int reserve_entries(struct txn *t)
{
	size_t capacity = max_u64(2 * t->capacity, 64);
	struct txn_entry *entries;

	if (t->count < t->capacity)
		return 0;
	entries = mem_realloc(t->entries, capacity * sizeof(*entries));
	if (entries == NULL)
		return -ENOMEM;
	t->entries = entries;
	t->capacity = capacity;
	return 0;
}

/* T3: room for one more buffer and @revokes more revokes, and for what their commit needs. */
static int txn_reserve(struct txn_log *log, struct txn *t, size_t revokes) REQUIRES(&log->lock)
{
	int err;

	err = reserve_entries(t);
	if (err == 0)
		err = copy_pool_reserve(&log->pool, txn_slots(log, t, 1, revokes));
	if (err == 0 && t->done == NULL && log->j != NULL) {
		t->done = mem_zalloc(sizeof(*t->done));
		err = t->done == NULL ? -ENOMEM : 0;
	}
	return err;
}

/* What follows makes the transaction one that has to be committed some time. */
static void txn_begin(struct txn_log *log, struct txn *t) REQUIRES(&log->lock)
{
	if (txn_is_empty(t)) {
		t->started_ns = clock_mono_ns();
		cond_broadcast(&log->work);
	}
}

static void txn_add(struct txn_log *log, struct txn *t, struct buf *buf) REQUIRES(&log->lock)
{
	txn_begin(log, t);
	buf_get(buf);
	t->entries[t->count++] = (struct txn_entry){ .buf = buf };
}

static int lost(const struct txn_log *log)
{
	return fail(-EROFS, "nothing can be changed any more after an error (%s)",
		    strerrordesc_np(-atomic_load(&log->error)));
}

static int claim(struct txn_log *log, struct handle *h, struct buf *buf) REQUIRES(&log->lock)
{
	struct buf_journal *bj = &buf->journal;
	struct txn *t = log->running;
	bool claimed = bj->claim_tid == h->tid, freed = bj->forget_tid == h->tid;
	int err;

	assert(t->tid == h->tid);
	if (!claimed && h->credits == 0) /* J6 */
		return fail(-ENOSPC, "a handle has no credit left for block %llu",
			    (unsigned long long)buf->blk);
	if (!claimed && !freed) {
		err = txn_reserve(log, t, 0);
		if (err < 0)
			return err;
		txn_add(log, t, buf);
	}
	h->credits -= !claimed;
	/* It is in use again: what this transaction makes of it must be replayed. */
	revoke_set_remove(&t->revokes, buf->blk);
	bj->forget_tid = 0;
	bj->claim_tid = h->tid;
	atomic_store_explicit(&bj->tid, h->tid, memory_order_release);
	return 0;
}

int handle_get_write(struct handle *h, struct buf *buf)
{
	struct txn_log *log = h->log;
	int err;

	if (unlikely(h->tid == 0 || atomic_load_explicit(&log->error, memory_order_relaxed) != 0))
		return lost(log);
	if (likely(atomic_load_explicit(&buf->journal.tid, memory_order_acquire) == h->tid))
		return 0;
	mutex_lock(&log->lock);
	err = claim(log, h, buf);
	mutex_unlock(&log->lock);
	return err;
}

int handle_get_create(struct handle *h, struct buf *buf)
{
	int err = handle_get_write(h, buf);

	if (err == 0)
		memset(buf->data, 0, buf->bytes);
	return err;
}

static void mark_dirty(struct handle *h, struct buf *buf, bool unsealed)
{
	assert(atomic_load_explicit(&buf->journal.tid, memory_order_relaxed) == h->tid);
	if (atomic_load_explicit(&buf->journal.dirty_tid, memory_order_relaxed) != h->tid)
		atomic_store_explicit(&buf->journal.dirty_tid, h->tid, memory_order_relaxed);
	atomic_store_explicit(&buf->journal.unsealed, unsealed, memory_order_relaxed);
}

void handle_dirty(struct handle *h, struct buf *buf)
{
	mark_dirty(h, buf, false);
}

void handle_dirty_unsealed(struct handle *h, struct buf *buf)
{
	mark_dirty(h, buf, true);
}

/* ---- leaving --------------------------------------------------------------------------------- */

/*
 * One more revoke.  They have some blocks of the log to themselves; when these are used up, each
 * further block of them is a credit of the handle that needs it (J6).
 */
static int revoke(struct txn_log *log, struct handle *h, blk_t blk) REQUIRES(&log->lock)
{
	struct txn *t = log->running;
	uint64_t blocks = div_round_up(t->revokes.count + 1, log->revokes_per_block);
	bool costs = blocks > (uint64_t)log->revoke_blocks_max + t->revoke_credits;
	int err;

	if (revoke_set_has(&t->revokes, blk))
		return 0;
	if (costs && h->credits == 0 && !handle_extend(h, 1))
		return fail(-ENOSPC, "a transaction has no room to free more blocks of metadata");
	txn_begin(log, t);
	err = revoke_set_add(&t->revokes, blk);
	if (err < 0)
		return err;
	h->credits -= costs;
	t->revoke_credits += costs;
	if (2 * blocks > log->revoke_blocks_max && log->commit_wanted != t->tid) {
		log->commit_wanted = t->tid; /* before it becomes tight */
		cond_broadcast(&log->work);
	}
	return 0;
}

/* The block's buffer, if it is in memory, leaves the running transaction.  Reserved before. */
static void forget(struct txn_log *log, struct handle *h, struct buf *buf) REQUIRES(&log->lock)
{
	struct buf_journal *bj = &buf->journal;

	if (bj->claim_tid != h->tid && bj->forget_tid != h->tid) {
		if (bj->done == NULL && bj->commit_tid == 0)
			return; /* it goes nowhere */
		txn_add(log, log->running, buf);
	}
	bj->forget_tid = h->tid;
	atomic_store_explicit(&bj->tid, 0, memory_order_relaxed);
}

/*
 * Without a journal a freed block may be reused at once: so its last write must be over.  Waits for
 * the device only.
 */
static void wait_written(struct txn_log *log, struct buf *buf) REQUIRES(&log->lock)
{
	while (buf->journal.commit_tid != 0 && atomic_load(&log->error) == 0)
		cond_wait(&log->changed, &log->lock);
}

int handle_forget(struct handle *h, blk_t blk)
{
	struct txn_log *log = h->log;
	struct buf *buf;
	int err = 0;

	if (unlikely(h->tid == 0 || atomic_load_explicit(&log->error, memory_order_relaxed) != 0))
		return lost(log);
	buf = buf_lookup(log->cache, blk);
	mutex_lock(&log->lock);
	if (log->j == NULL && buf != NULL)
		wait_written(log, buf);
	if (log->j != NULL) {
		err = txn_reserve(log, log->running, 1);
		if (err == 0)
			err = revoke(log, h, blk);
	}
	if (err == 0 && buf != NULL)
		forget(log, h, buf);
	mutex_unlock(&log->lock);
	buf_put(buf);
	return err;
}
