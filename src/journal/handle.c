/* SPDX-License-Identifier: MIT */
/*
 * Handles: who is in the running transaction, and with how many credits.  And the log as a whole:
 * create, abort, destroy.
 *
 * Entering and leaving is one change of an atomic word, the gate; the lock is taken only when the
 * gate is closed or the transaction is full.
 *
 *  G1  Credits in the gate: what buffers of the running transaction cost and what open handles may
 *      still spend.  Never more than credits_max, and a transaction of that many buffers fits into
 *      txn_blocks_max blocks of the log (J6, T2).
 *  G2  The gate is closed under log->lock, and opened there, so that an abort is final (J7).
 */
#include "journal/txn_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#define COMMIT_INTERVAL_MS 5000u
#define TXN_BYTES_MAX (32u * 1024 * 1024)
#define TXN_BLOCKS_MIN 64u    /* less would not do for one operation */
#define ROOM_MIN 1024u	      /* in spite of a small cache */
#define CREDITS_MIN_NONE 256u /* without a journal, the same */
#define NS_PER_MS UINT64_C(1000000)

/* ---- the gate -------------------------------------------------------------------------------- */

static uint32_t gate_credits(uint64_t gate)
{
	return (uint32_t)((gate & ~GATE_CLOSED) >> GATE_CREDIT_SHIFT);
}

static bool gate_try_enter(struct txn_log *log, uint32_t credits)
{
	uint64_t gate = atomic_load_explicit(&log->gate, memory_order_relaxed), entered;

	do {
		if (gate & GATE_CLOSED || gate_credits(gate) + credits > log->credits_max)
			return false;
		entered = gate + ((uint64_t)credits << GATE_CREDIT_SHIFT) + 1;
	} while (!atomic_compare_exchange_weak_explicit(
		&log->gate, &gate, entered, memory_order_acquire, memory_order_relaxed));
	return true;
}

bool gate_extend(struct txn_log *log, uint32_t credits)
{
	uint64_t gate = atomic_load_explicit(&log->gate, memory_order_relaxed), extended;

	do {
		if (gate_credits(gate) + credits > log->credits_max)
			return false;
		extended = gate + ((uint64_t)credits << GATE_CREDIT_SHIFT);
	} while (!atomic_compare_exchange_weak_explicit(
		&log->gate, &gate, extended, memory_order_relaxed, memory_order_relaxed));
	return true;
}

/* @credits were not used.  What the handle changed is seen by who finds no handle open. */
static void gate_leave(struct txn_log *log, uint32_t credits)
{
	uint64_t less = ((uint64_t)credits << GATE_CREDIT_SHIFT) + 1;
	uint64_t before = atomic_fetch_sub_explicit(&log->gate, less, memory_order_acq_rel);

	assert((before & GATE_HANDLES) != 0);
	if (before & GATE_CLOSED && (before & GATE_HANDLES) == 1) {
		mutex_lock(&log->lock);
		cond_broadcast(&log->changed);
		mutex_unlock(&log->lock);
	}
}

void gate_close(struct txn_log *log)
{
	atomic_fetch_or_explicit(&log->gate, GATE_CLOSED, memory_order_relaxed);
}

void gate_update(struct txn_log *log)
{
	if (atomic_load(&log->error) == 0 && !log->draining && !log->renumber &&
	    log->room >= log->txn_blocks_max) {
		atomic_fetch_and_explicit(&log->gate, ~GATE_CLOSED, memory_order_release);
		cond_broadcast(&log->changed);
	}
}

bool gate_has_handles(const struct txn_log *log)
{
	return (atomic_load_explicit(&log->gate, memory_order_acquire) & GATE_HANDLES) != 0;
}

/*
 * Waits until the handle can enter.  What stands in the way is a commit that waits for others to
 * leave, a log without room, or a transaction without room: then the thread is asked to commit it.
 */
static int gate_wait(struct txn_log *log, uint32_t credits)
{
	int err = 0;

	mutex_lock(&log->lock);
	while (!gate_try_enter(log, credits)) {
		err = atomic_load(&log->error);
		if (err == 0 && atomic_load(&log->held) && !(atomic_load(&log->gate) & GATE_CLOSED))
			err = -E2BIG;
		if (err < 0)
			break;
		if (!(atomic_load(&log->gate) & GATE_CLOSED))
			log->commit_wanted = log->running->tid;
		cond_broadcast(&log->work);
		cond_wait(&log->changed, &log->lock);
	}
	mutex_unlock(&log->lock);
	return err;
}

/* ---- handles --------------------------------------------------------------------------------- */

static int handle_enter(struct handle *h, uint32_t credits)
{
	struct txn_log *log = h->log;

	if (credits > log->credits_max)
		return fail(-ENOSPC, "a change of %u blocks is too large for the journal (%u)",
			    credits, log->credits_max);
	if (!gate_try_enter(log, credits)) {
		int err = gate_wait(log, credits);

		if (err == -E2BIG && atomic_load(&log->error) == 0)
			return fail(-E2BIG, "more changes at once than the journal can take");
		if (err < 0)
			return fail(-EROFS, "nothing can be changed any more after an error (%s)",
				    strerrordesc_np(-atomic_load(&log->error)));
	}
	/* No commit can switch transactions before this handle leaves (T1). */
	h->tid = atomic_load_explicit(&log->running_tid, memory_order_relaxed);
	h->credits = credits;
	lockrank_acquire(RANK_handle, 0, h);
	return 0;
}

static void handle_leave(struct handle *h)
{
	lockrank_release(RANK_handle, h);
	gate_leave(h->log, h->credits);
	h->tid = 0;
	h->credits = 0;
}

int handle_start(struct txn_log *log, uint32_t credits, struct handle **ret_handle)
{
	struct handle *h;
	int err;

	lockrank_may_acquire(RANK_commit);
	h = mem_alloc(sizeof(*h));
	if (h == NULL)
		return -ENOMEM;
	h->log = log;
	err = handle_enter(h, credits);
	if (err < 0) {
		mem_free(h);
		return err;
	}
	*ret_handle = h;
	return 0;
}

int handle_stop(struct handle *h)
{
	struct txn_log *log = h->log;
	int err;

	if (h->tid != 0)
		handle_leave(h);
	mem_free(h);
	err = atomic_load_explicit(&log->error, memory_order_relaxed);
	if (unlikely(err < 0))
		return fail(err, "the change is lost: the journal was aborted (%s)",
			    strerrordesc_np(-err));
	return 0;
}

bool handle_extend(struct handle *h, uint32_t credits)
{
	if (h->tid == 0 || !gate_extend(h->log, credits))
		return false;
	h->credits += credits;
	return true;
}

int handle_restart(struct handle *h, uint32_t credits)
{
	struct txn_log *log = h->log;
	bool closed = atomic_load_explicit(&log->gate, memory_order_relaxed) & GATE_CLOSED;

	if (h->tid != 0) {
		if (h->credits >= credits)
			return 0;
		/* A commit that waits for this handle goes first. */
		if (!closed && handle_extend(h, credits - h->credits))
			return 0;
		handle_leave(h);
	}
	lockrank_may_acquire(RANK_commit);
	return handle_enter(h, credits);
}

uint32_t handle_credits(const struct handle *h)
{
	return h->credits;
}

tid_t handle_tid(const struct handle *h)
{
	return h->tid;
}

struct txn_log *handle_log(const struct handle *h)
{
	return h->log;
}

/* ---- abort ----------------------------------------------------------------------------------- */

int txn_log_error(struct txn_log *log)
{
	return atomic_load(&log->error);
}

void txn_log_abort(struct txn_log *log, int err)
{
	int none = 0;

	assert(err < 0);
	if (!atomic_compare_exchange_strong(&log->error, &none, err))
		return;
	mutex_lock(&log->lock);
	gate_close(log);
	cond_broadcast(&log->changed);
	cond_broadcast(&log->work);
	mutex_unlock(&log->lock);
	if (log->ops != NULL && log->ops->aborted != NULL)
		log->ops->aborted(log->arg, err);
}

/* ---- several operations at once -------------------------------------------------------------- */

int txn_log_hold(struct txn_log *log)
{
	if (log->j == NULL)
		return fail(-EOPNOTSUPP, "without a journal changes cannot be made together");
	mutex_lock(&log->lock);
	assert(!gate_has_handles(log) && !atomic_load(&log->held));
	atomic_store(&log->held, true);
	mutex_unlock(&log->lock);
	return 0;
}

void txn_log_release(struct txn_log *log)
{
	mutex_lock(&log->lock);
	atomic_store(&log->held, false);
	cond_broadcast(&log->work);
	mutex_unlock(&log->lock);
}

void txn_log_discard(struct txn_log *log)
{
	mutex_lock(&log->lock);
	assert(atomic_load(&log->held) && !gate_has_handles(log));
	assert(log->committing == NULL && list_empty(&log->done));
	txn_reset(log, log->running);
	atomic_fetch_and(&log->gate, GATE_CLOSED); /* its credits are free again */
	mutex_unlock(&log->lock);
}

bool txn_log_has(struct txn_log *log, const struct buf *buf)
{
	return atomic_load(&buf->journal.dirty_tid) == atomic_load(&log->running_tid);
}

/* ---- create, destroy ------------------------------------------------------------------------- */

static void layout_credits(struct txn_log *log)
{
	uint32_t blocks = log->txn_blocks_max, credits;

	log->revoke_blocks_max = blocks / 8;
	blocks -= log->revoke_blocks_max;
	credits = (uint32_t)((uint64_t)blocks * log->tags_per_block / (log->tags_per_block + 1));
	while (txn_log_blocks(log, credits, 0) > blocks)
		credits--;
	log->credits_max = credits;
}

/*
 * How much of the log is used at once, and how large a transaction may be: a quarter of that.  The
 * buffers of what is used are held in memory, so half of the cache's budget is a bound, too.
 */
static int layout_init(struct txn_log *log)
{
	uint64_t budget = cache_budget(log->cache) / log->block_size;
	uint64_t most = TXN_BYTES_MAX / log->block_size;
	const struct journal *j = log->j;
	uint32_t tail = 0;

	if (j == NULL) {
		log->credits_max = (uint32_t)min_u64(max_u64(budget / 4, CREDITS_MIN_NONE), most);
		return 0;
	}
	/* One block stays free, so that a full log does not look like an empty one. */
	log->room_max = (uint32_t)min_u64(j->last - j->first - 1, max_u64(budget / 2, ROOM_MIN));
	log->txn_blocks_max = (uint32_t)min_u64(log->room_max / 4, most);
	if (log->txn_blocks_max < TXN_BLOCKS_MIN)
		return fail(-EOPNOTSUPP, "a journal of %u blocks is too small to be written",
			    j->maxlen);
	if (journal_has_block_csum(j))
		tail = sizeof(struct jbd2_journal_block_tail);
	log->tags_per_block = (log->block_size - tail - 16 -
			       (uint32_t)sizeof(struct journal_header_s)) /
			      j->tag_bytes;
	log->revokes_per_block = (log->block_size - tail -
				  (uint32_t)sizeof(struct jbd2_journal_revoke_header_s)) /
				 (uint32_t)(j->wide ? sizeof(be64) : sizeof(be32));
	layout_credits(log);
	log->head = j->first;
	log->room = log->room_max;
	return 0;
}

static void log_init(struct txn_log *log, struct journal *j, const struct txn_log_options *options)
{
	uint32_t ms = options->commit_interval_ms;
	tid_t tid = j != NULL && j->sequence != 0 ? j->sequence : 1;

	log->ops = options->ops;
	log->arg = options->arg;
	log->cache = options->cache;
	log->dev = options->dev;
	log->j = j;
	log->block_size = cache_block_size(options->cache);
	log->interval_ns = (ms != 0 ? ms : COMMIT_INTERVAL_MS) * NS_PER_MS;
	log->barrier = !options->no_barrier;
	log->log_used = j != NULL && j->start != 0;
	log->running = &log->txns[0];
	log->running->tid = tid;
	atomic_init(&log->gate, 0);
	atomic_init(&log->running_tid, tid);
	atomic_init(&log->committed_tid, tid - 1);
	atomic_init(&log->told_tid, tid - 1);
	atomic_init(&log->error, 0);
	list_init(&log->done);
	mutex_init(&log->lock, RANK_journal);
	cond_init(&log->changed);
	cond_init(&log->work);
}

static int log_alloc(struct txn_log *log)
{
	int err;

	err = copy_pool_init(&log->pool, log->block_size,
			     log->j != NULL ? log->txn_blocks_max : log->credits_max);
	if (err < 0 || log->j == NULL)
		return err;
	log->home_copies_max = (uint32_t)max_u64(HOME_BYTES / log->block_size, 1);
	log->home_copies = mem_alloc_aligned((size_t)log->home_copies_max * log->block_size, 4096);
	log->items = mem_calloc(HOME_ITEMS_MAX, sizeof(*log->items));
	return log->home_copies == NULL || log->items == NULL ? -ENOMEM : 0;
}

static void log_free(struct txn_log *log)
{
	copy_pool_finish(&log->pool);
	mem_free(log->home_copies);
	mem_free(log->items);
	for (unsigned i = 0; i < ARRAY_SIZE(log->txns); i++) {
		mem_free(log->txns[i].entries);
		mem_free(log->txns[i].done);
		revoke_set_finish(&log->txns[i].revokes);
	}
	cond_finish(&log->work);
	cond_finish(&log->changed);
	mutex_finish(&log->lock);
	mem_free(log);
}

static int log_create(struct journal *j, const struct txn_log_options *options,
		      struct txn_log **ret_log)
{
	struct txn_log *log = mem_zalloc(sizeof(*log));
	int err;

	if (log == NULL)
		return -ENOMEM;
	log_init(log, j, options);
	err = layout_init(log);
	if (err == 0)
		err = log_alloc(log);
	if (err == 0)
		err = thread_create("uext4-journal", log_thread, log, &log->thread);
	if (err < 0) {
		log_free(log);
		return err;
	}
	*ret_log = log;
	return 0;
}

/*
 * What the log holds is home; it begins anew, with a transaction that is not there yet, so that
 * whoever looks finds none, and the fast commits in its place.
 */
static int journal_begin_anew(struct journal *j, const struct txn_log_options *options)
{
	int err;

	j->start = 0;
	journal_set_features(j, options->wide, options->csum);
	err = journal_write_super(j, j->first, options->fast_tid);
	return err < 0 ? err : dev_flush(j->dev);
}

int txn_log_create(struct journal *j, const struct txn_log_options *options,
		   struct txn_log **ret_log)
{
	int err;

	assert(j->start == 0 || options->fast_tid != 0);
	assert(j->block_size == cache_block_size(options->cache));
	if (options->fast_tid != 0) {
		err = journal_begin_anew(j, options);
		if (err < 0)
			return err;
	} else {
		journal_set_features(j, options->wide, options->csum);
	}
	return log_create(j, options, ret_log);
}

int txn_log_create_none(const struct txn_log_options *options, struct txn_log **ret_log)
{
	return log_create(NULL, options, ret_log);
}

/* After an abort: what is not home stays so. */
static void drop_done(struct txn_log *log) REQUIRES(&log->lock)
{
	while (!list_empty(&log->done)) {
		struct txn_done *done = list_entry(log->done.next, struct txn_done, link);

		while (!list_empty(&done->bufs))
			buf_leave_done(list_entry(done->bufs.next, struct buf, journal.done_link));
		list_del(&done->link);
		mem_free(done);
	}
}

int txn_log_destroy(struct txn_log *log)
{
	struct thread *thread = log->thread;
	int err;

	assert(!gate_has_handles(log));
	err = txn_log_flush(log);
	mutex_lock(&log->lock);
	log->stop = true;
	cond_broadcast(&log->work);
	mutex_unlock(&log->lock);
	thread_join(thread);

	mutex_lock(&log->lock);
	if (log->committing != NULL)
		txn_reset(log, log->committing);
	txn_reset(log, log->running);
	drop_done(log);
	mutex_unlock(&log->lock);
	journal_close(log->j);
	log_free(log);
	return err;
}

uint32_t txn_log_credits_max(const struct txn_log *log)
{
	return log->credits_max;
}
