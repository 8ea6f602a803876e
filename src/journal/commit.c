/* SPDX-License-Identifier: MIT */
/*
 * Commits: from a running transaction to one that is durable.
 *
 *	close the gate, wait until no handle is open
 *	seal_entries(): checksums that were left for now, once for all changes
 *	txn_switch(): copy every changed buffer; a new transaction runs
 *	open the gate
 *	descriptors, copies, revokes -> the log	(or, without a journal, the copies -> home)
 *	flush	(J2: data that was written before is covered, too)
 *	commit record -> the log
 *	flush
 *	commit_finish(): what it changed is to be written home, what it freed is not; committed()
 *
 * It takes no lock of a page, and waits for nobody who waits for it: a buffer that is changed again
 * meanwhile was copied (M3, M4).
 *
 * Whoever needs a commit first does it, the others wait for him; the thread does those that are
 * due, or that a full transaction asks for.
 *
 *	| descriptor | copy ... copy | descriptor | copy ... | revokes ... | commit record |
 *	'--------- slots of the pool in this order, written with few requests ------------'
 */
#include "journal/txn_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "base/sum.h"

#include <stdlib.h>

#define UUID_BYTES 16u

/* ---- switching ------------------------------------------------------------------------------- */

static enum entry_kind entry_kind(const struct buf *buf, tid_t tid)
{
	if (buf->journal.forget_tid == tid)
		return ENTRY_FORGET;
	if (atomic_load_explicit(&buf->journal.dirty_tid, memory_order_relaxed) == tid)
		return ENTRY_LOG;
	return ENTRY_NONE;
}

/* The gate is closed and no handle is open: entries stay as they are without the lock, too. */
static void seal_entries(struct txn_log *log) REQUIRES(&log->lock)
{
	struct txn *t = log->running;

	mutex_unlock(&log->lock);
	for (size_t i = 0; i < t->count; i++) {
		struct buf *buf = t->entries[i].buf;

		if (atomic_load_explicit(&buf->journal.unsealed, memory_order_relaxed) &&
		    entry_kind(buf, t->tid) == ENTRY_LOG)
			buf_seal(buf, log->arg);
		atomic_store_explicit(&buf->journal.unsealed, false, memory_order_relaxed);
	}
	mutex_lock(&log->lock);
}

/* Decides what becomes of each entry, and where the copies are. */
static void classify(const struct txn_log *log, struct txn *t)
{
	size_t logged = 0;

	for (size_t i = 0; i < t->count; i++) {
		struct txn_entry *e = &t->entries[i];

		e->kind = (uint8_t)entry_kind(e->buf, t->tid);
		if (e->kind != ENTRY_LOG)
			continue;
		e->slot = (uint32_t)logged;
		if (log->j != NULL) /* behind its descriptor */
			e->slot += (uint32_t)(logged / log->tags_per_block) + 1;
		logged++;
	}
	t->logged = logged;
}

/* The bytes that count from now on; the buffer is free for the next transaction (M3). */
static void take_copies(struct txn_log *log, struct txn *t) REQUIRES(&log->lock)
{
	for (size_t i = 0; i < t->count; i++) {
		struct txn_entry *e = &t->entries[i];
		struct buf_journal *bj = &e->buf->journal;

		if (e->kind == ENTRY_LOG)
			memcpy(copy_pool_slot(&log->pool, e->slot), e->buf->data, log->block_size);
		atomic_store_explicit(&bj->tid, 0, memory_order_relaxed);
		atomic_store_explicit(&bj->dirty_tid, 0, memory_order_relaxed);
		bj->claim_tid = 0;
		bj->forget_tid = 0;
		if (e->kind == ENTRY_NONE) {
			buf_put(e->buf);
			e->buf = NULL;
		} else {
			bj->commit_tid = t->tid;
		}
	}
}

static uint32_t log_index(const struct journal *j, uint32_t start, uint64_t count)
{
	uint64_t index = start + count;

	return (uint32_t)(index >= j->last ? index - (j->last - j->first) : index);
}

static void take_room(struct txn_log *log, struct txn *t) REQUIRES(&log->lock)
{
	t->log_start = log->head;
	t->log_blocks = txn_log_blocks(log, t->logged, t->revokes.count);
	t->descriptors_end = (uint32_t)(t->logged + div_round_up(t->logged, log->tags_per_block));
	assert(t->log_blocks <= log->txn_blocks_max); /* J6 */
	assert(t->log_blocks <= log->room);
	log->room -= t->log_blocks;
	log->head = log_index(log->j, log->head, t->log_blocks);
}

/* The gate is closed and no handle is open (T1).  False: nothing changed, and it goes on (T5). */
static bool txn_switch(struct txn_log *log) REQUIRES(&log->lock)
{
	struct txn *t = log->running, *next = t == &log->txns[0] ? &log->txns[1] : &log->txns[0];

	atomic_store_explicit(&log->gate, GATE_CLOSED, memory_order_relaxed);
	classify(log, t);
	if (t->logged == 0 && t->revokes.count == 0) {
		txn_reset(log, t);
		return false;
	}
	take_copies(log, t);
	if (log->j != NULL)
		take_room(log, t);
	next->tid = t->tid + 1;
	if (next->tid == 0) { /* means "none" in buffers: the log is emptied and begins anew */
		next->tid = 1;
		log->renumber = log->j != NULL;
	}
	log->committing = t;
	log->running = next;
	atomic_store(&log->running_tid, next->tid);
	return true;
}

/* ---- what is written ------------------------------------------------------------------------- */

static void put_header(uint8_t *data, uint32_t type, tid_t tid)
{
	struct journal_header_s header = {
		.h_magic = be32_make(JBD2_MAGIC_NUMBER),
		.h_blocktype = be32_make(type),
		.h_sequence = be32_make(tid),
	};

	memcpy(data, &header, sizeof(header));
}

/* Of a descriptor or revoke block, whose last bytes are zero. */
static void put_tail(const struct journal *j, uint8_t *data)
{
	struct jbd2_journal_block_tail tail;

	if (!journal_has_block_csum(j))
		return;
	tail.t_checksum = be32_make(crc32c(j->csum_seed, data, j->block_size));
	memcpy(data + j->block_size - sizeof(tail), &tail, sizeof(tail));
}

/* A copy must not look like a control block. */
static bool escape(uint8_t *copy)
{
	const be32 magic = be32_make(JBD2_MAGIC_NUMBER);

	if (memcmp(copy, &magic, sizeof(magic)) != 0)
		return false;
	memset(copy, 0, sizeof(magic));
	return true;
}

static uint32_t copy_csum(const struct journal *j, tid_t tid, const uint8_t *copy)
{
	be32 sequence = be32_make(tid);

	if (!journal_has_block_csum(j))
		return 0;
	return crc32c(crc32c(j->csum_seed, &sequence, sizeof(sequence)), copy, j->block_size);
}

static void put_tag(const struct journal *j, uint8_t *at, blk_t blk, uint32_t flags, uint32_t sum)
{
	if (j->checksum == JOURNAL_CSUM_V3) {
		struct journal_block_tag3_s tag = {
			.t_blocknr = be32_make((uint32_t)blk),
			.t_flags = be32_make(flags),
			.t_blocknr_high = be32_make(j->wide ? (uint32_t)(blk >> 32) : 0),
			.t_checksum = be32_make(sum),
		};

		memcpy(at, &tag, sizeof(tag));
	} else {
		struct journal_block_tag_s tag = {
			.t_blocknr = be32_make((uint32_t)blk),
			.t_checksum = be16_make((uint16_t)sum),
			.t_flags = be16_make((uint16_t)flags),
			.t_blocknr_high = be32_make((uint32_t)(blk >> 32)),
		};

		/* Without 64BIT the high half is not there; with CSUM_V2 a padding is. */
		memcpy(at, &tag, min_size(j->tag_bytes, sizeof(tag) - (j->wide ? 0 : 4)));
	}
}

/* One descriptor and its copies: @count entries of ENTRY_LOG, the first of them at *@at. */
static void build_descriptor(struct txn_log *log, struct txn *t, size_t *at, size_t count)
{
	const struct journal *j = log->j;
	uint8_t *data = NULL;
	size_t pos = sizeof(struct journal_header_s);

	for (size_t done = 0; done < count; (*at)++) {
		struct txn_entry *e = &t->entries[*at];
		uint32_t flags = 0;
		uint8_t *copy;

		if (e->kind != ENTRY_LOG)
			continue;
		if (done == 0) {
			data = copy_pool_slot(&log->pool, e->slot - 1);
			memset(data, 0, j->block_size);
			put_header(data, JBD2_DESCRIPTOR_BLOCK, t->tid);
		}
		copy = copy_pool_slot(&log->pool, e->slot);
		if (escape(copy))
			flags |= JBD2_FLAG_ESCAPE;
		if (done > 0)
			flags |= JBD2_FLAG_SAME_UUID;
		if (++done == count)
			flags |= JBD2_FLAG_LAST_TAG;
		put_tag(j, data + pos, e->buf->blk, flags, copy_csum(j, t->tid, copy));
		pos += j->tag_bytes;
		if (!(flags & JBD2_FLAG_SAME_UUID)) {
			memcpy(data + pos, journal_super(j)->s_uuid, UUID_BYTES);
			pos += UUID_BYTES;
		}
	}
	assert(pos <= j->block_size);
	put_tail(j, data);
}

static void build_descriptors(struct txn_log *log, struct txn *t)
{
	size_t at = 0, count;

	for (size_t left = t->logged; left > 0; left -= count) {
		count = min_size(left, log->tags_per_block);
		build_descriptor(log, t, &at, count);
	}
}

static size_t put_revoked(const struct journal *j, uint8_t *at, blk_t blk)
{
	be32 half[2] = { be32_make((uint32_t)(blk >> 32)), be32_make((uint32_t)blk) };
	size_t bytes = j->wide ? sizeof(half) : sizeof(half[1]);

	memcpy(at, j->wide ? &half[0] : &half[1], bytes);
	return bytes;
}

static void build_revokes(struct txn_log *log, struct txn *t)
{
	const struct journal *j = log->j;
	uint32_t slot = t->descriptors_end;
	size_t at = 0;
	blk_t blk;

	for (size_t left = t->revokes.count, count; left > 0; left -= count) {
		uint8_t *data = copy_pool_slot(&log->pool, slot++);
		struct jbd2_journal_revoke_header_s header;
		size_t pos = sizeof(header);

		count = min_size(left, log->revokes_per_block);
		memset(data, 0, j->block_size);
		put_header(data, JBD2_REVOKE_BLOCK, t->tid);
		for (size_t i = 0; i < count && revoke_set_next(&t->revokes, &at, &blk); i++)
			pos += put_revoked(j, data + pos, blk);
		memcpy(&header, data, sizeof(header));
		header.r_count = be32_make((uint32_t)pos);
		memcpy(data, &header, sizeof(header));
		put_tail(j, data);
	}
}

/* The time of commit records never goes back: it tells them from left-overs of an earlier lap. */
static void take_time(struct txn_log *log)
{
	int64_t sec;
	uint32_t nsec;

	clock_real(&sec, &nsec);
	if (sec > log->commit_sec || (sec == log->commit_sec && nsec > log->commit_nsec)) {
		log->commit_sec = sec;
		log->commit_nsec = nsec;
	}
}

static void build_commit(struct txn_log *log, struct txn *t)
{
	uint8_t *data = copy_pool_slot(&log->pool, t->log_blocks - 1);
	const struct journal *j = log->j;
	struct commit_header commit = { 0 };

	take_time(log);
	commit.h_magic = be32_make(JBD2_MAGIC_NUMBER);
	commit.h_blocktype = be32_make(JBD2_COMMIT_BLOCK);
	commit.h_sequence = be32_make(t->tid);
	commit.h_commit_sec = be64_make((uint64_t)log->commit_sec);
	commit.h_commit_nsec = be32_make(log->commit_nsec);
	if (j->checksum == JOURNAL_CSUM_V1) {
		uint32_t sum = ~0u;

		for (uint32_t i = 0; i < t->descriptors_end; i++)
			sum = crc32_be(sum, copy_pool_slot(&log->pool, i), j->block_size);
		commit.h_chksum_type = JBD2_CRC32_CHKSUM;
		commit.h_chksum_size = sizeof(be32);
		commit.h_chksum[0] = be32_make(sum);
	}
	memset(data, 0, j->block_size);
	memcpy(data, &commit, sizeof(commit));
	if (journal_has_block_csum(j)) {
		commit.h_chksum[0] = be32_make(crc32c(j->csum_seed, data, j->block_size));
		memcpy(data, &commit, sizeof(commit));
	}
}

/* ---- writing --------------------------------------------------------------------------------- */

int log_flush_devs(struct txn_log *log)
{
	int err = 0;

	if (!log->barrier)
		return 0;
	if (log->j != NULL && log->j->dev != log->dev)
		err = dev_flush(log->j->dev);
	if (err == 0)
		err = dev_flush(log->dev);
	return err;
}

/* Blocks [@first, @end) of the transaction. */
static int write_log(struct txn_log *log, const struct txn *t, uint32_t first, uint32_t end)
{
	const struct journal *j = log->j;
	struct io_run io;
	int err = 0;

	io_run_init(&io, j->dev, &log->error);
	for (uint32_t i = first; i < end && err == 0; i++) {
		uint32_t index = log_index(j, t->log_start, i);

		err = io_run_add(&io, journal_place(j, index), copy_pool_slot(&log->pool, i),
				 j->block_size);
	}
	if (err == 0)
		err = io_run_write(&io);
	return err;
}

/* The first transaction in an empty log says where it begins: durable before the commit record. */
static int begin_log(struct txn_log *log, const struct txn *t)
{
	int err;

	if (log->log_used)
		return 0;
	err = journal_write_super(log->j, t->log_start, t->tid);
	if (err == 0)
		log->log_used = true;
	return err;
}

static int commit_to_log(struct txn_log *log, struct txn *t)
{
	int err;

	build_descriptors(log, t);
	build_revokes(log, t);
	build_commit(log, t);
	err = begin_log(log, t);
	if (err == 0)
		err = write_log(log, t, 0, t->log_blocks - 1);
	if (err == 0)
		err = log_flush_devs(log);
	if (err == 0)
		err = write_log(log, t, t->log_blocks - 1, t->log_blocks);
	if (err == 0 && log->barrier)
		err = dev_flush(log->j->dev);
	return err;
}

static int commit_home(struct txn_log *log, struct txn *t)
{
	struct io_run io;
	int err = 0;

	io_run_init(&io, log->dev, &log->error);
	for (size_t i = 0; i < t->count && err == 0; i++) {
		const struct txn_entry *e = &t->entries[i];

		if (e->kind == ENTRY_LOG)
			err = io_run_add(&io, e->buf->blk * log->block_size,
					 copy_pool_slot(&log->pool, e->slot), log->block_size);
	}
	if (err == 0)
		err = io_run_write(&io);
	if (err == 0)
		err = log_flush_devs(log);
	return err;
}

static int compare_entries(const void *a, const void *b)
{
	const struct txn_entry *x = a, *y = b;
	/* Those without a buffer last. */
	blk_t p = x->buf != NULL ? x->buf->blk : UINT64_MAX;
	blk_t q = y->buf != NULL ? y->buf->blk : UINT64_MAX;

	return p < q ? -1 : p > q;
}

/* By block, so that what is written home goes in this order; slots stay what they are. */
static void sort_entries(struct txn *t)
{
	if (t->count > 1)
		qsort(t->entries, t->count, sizeof(*t->entries), compare_entries);
}

static int commit_write(struct txn_log *log, struct txn *t)
{
	int err;

	if (log->j != NULL) {
		err = commit_to_log(log, t);
		sort_entries(t);
	} else {
		sort_entries(t);
		err = commit_home(log, t);
	}
	return err;
}

/* ---- the end of a commit --------------------------------------------------------------------- */

/*
 * The end of an entry, whose buffer may long be in the running transaction again: only what is this
 * transaction's may be touched.  From now on the older changes of the buffer need not go home, only
 * this one (BJ1); or, if the block was freed, none.  True if one might have.
 */
static bool settle_entry(struct txn_entry *e, struct txn_done *done)
{
	struct buf *buf = e->buf;
	bool had_older = buf->journal.done != NULL;

	buf->journal.commit_tid = 0;
	if (had_older)
		buf_leave_done(buf);
	if (e->kind == ENTRY_LOG && done != NULL) { /* with the entry's reference */
		buf->journal.done = done;
		list_add_tail(&done->bufs, &buf->journal.done_link);
	} else {
		buf_put(buf);
	}
	e->buf = NULL;
	return had_older;
}

/*
 * True if a block that this transaction freed was to be written home for an older one: it is not
 * any more, but may just be on its way.
 */
static bool settle_entries(struct txn_log *log, struct txn *t, struct txn_done *done)
	REQUIRES(&log->lock)
{
	bool freed_older = false;

	for (size_t i = 0; i < t->count; i++) {
		struct txn_entry *e = &t->entries[i];

		if (e->buf != NULL && settle_entry(e, done) && e->kind == ENTRY_FORGET)
			freed_older = true;
	}
	return freed_older;
}

/* What has been copied to be written home is there, or never will be. */
static void wait_homing(struct txn_log *log) REQUIRES(&log->lock)
{
	uint64_t turn = log->homing_turn;

	while (log->homing && log->homing_turn == turn)
		cond_wait(&log->changed, &log->lock);
}

static void commit_finish(struct txn_log *log, struct txn *t) REQUIRES(&log->lock)
{
	struct txn_done *done = t->done;
	tid_t tid = t->tid;

	if (done != NULL) {
		t->done = NULL;
		list_init(&done->bufs);
		done->tid = tid;
		done->log_start = t->log_start;
		done->log_blocks = t->log_blocks;
		list_add_tail(&log->done, &done->link);
	}
	if (settle_entries(log, t, done))
		wait_homing(log); /* before others may write there (J3, J4) */
	txn_reset(log, t);
	copy_pool_trim(&log->pool, txn_slots(log, log->running, 0, 0));
	log->committing = NULL;
	log->checkpoint_stuck = false;
	atomic_store(&log->committed_tid, tid);
	cond_broadcast(&log->changed);
	if (log->ops != NULL && log->ops->committed != NULL) {
		mutex_unlock(&log->lock);
		log->ops->committed(log->arg, tid);
		mutex_lock(&log->lock);
	}
	atomic_store(&log->told_tid, tid);
	cond_broadcast(&log->changed);
}

void commit_running(struct txn_log *log)
{
	int err;

	assert(!log->commit_busy);
	log->commit_busy = true;
	log->draining = true;
	log->commit_wanted = 0;
	gate_close(log);
	while (gate_has_handles(log))
		cond_wait(&log->changed, &log->lock);
	seal_entries(log);
	err = atomic_load(&log->error);
	if (err == 0)
		(void)txn_switch(log);
	log->draining = false;
	gate_update(log);
	if (log->committing != NULL && err == 0) {
		struct txn *t = log->committing;

		mutex_unlock(&log->lock);
		err = commit_write(log, t);
		if (err < 0)
			txn_log_abort(log, fail_in(err, "commit of transaction %u", t->tid));
		mutex_lock(&log->lock);
		/* After an abort its buffers stay in memory: what readers see goes on to be one. */
		if (err == 0)
			commit_finish(log, t);
	}
	log->commit_busy = false;
	cond_broadcast(&log->changed);
	cond_broadcast(&log->work);
}

/* ---- who needs a commit ---------------------------------------------------------------------- */

tid_t txn_log_running(struct txn_log *log)
{
	return atomic_load(&log->running_tid);
}

bool txn_log_is_committed(struct txn_log *log, tid_t tid)
{
	return tid_reached(atomic_load(&log->committed_tid), tid);
}

static int aborted(const struct txn_log *log)
{
	int err = atomic_load(&log->error);

	return err < 0 ? fail(err, "the journal was aborted (%s)", strerrordesc_np(-err)) : 0;
}

/* Not before ops->committed() has returned: the caller counts on what was freed. */
static bool is_told(struct txn_log *log, tid_t tid)
{
	return tid_reached(atomic_load(&log->told_tid), tid);
}

int txn_log_commit(struct txn_log *log, tid_t tid)
{
	int err = 0;

	lockrank_may_acquire(RANK_commit);
	if (is_told(log, tid) || atomic_load(&log->held))
		return 0;
	mutex_lock(&log->lock);
	assert(tid_reached(log->running->tid, tid));
	while (!is_told(log, tid)) {
		err = txn_log_is_committed(log, tid) ? 0 : aborted(log);
		if (err < 0)
			break;
		if (log->commit_busy) /* of this one, or of those before it */
			cond_wait(&log->changed, &log->lock);
		else if (log->running->tid == tid && txn_is_empty(log->running))
			break;
		else
			commit_running(log);
	}
	mutex_unlock(&log->lock);
	return err;
}

int txn_log_sync(struct txn_log *log)
{
	tid_t tid;
	bool nothing;
	int err;

	lockrank_may_acquire(RANK_commit);
	if (atomic_load(&log->held))
		return 0;
	mutex_lock(&log->lock);
	tid = log->running->tid;
	nothing = txn_is_empty(log->running);
	mutex_unlock(&log->lock);
	/* A commit flushes; if there is none to be made the data still wants it. */
	err = txn_log_commit(log, tid);
	if (err == 0 && nothing) {
		err = log->barrier ? dev_flush(log->dev) : 0;
		if (err < 0)
			txn_log_abort(log, err);
	}
	return err;
}

/* ---- empty the log --------------------------------------------------------------------------- */

static bool done_reaches(const struct txn_log *log, tid_t tid) REQUIRES(&log->lock)
{
	if (list_empty(&log->done))
		return false;
	return tid_reached(tid, list_entry(log->done.next, struct txn_done, link)->tid);
}

/* Everything up to @tid is home.  What the running transaction has changed again goes with it. */
static int flush_done(struct txn_log *log, tid_t tid)
{
	bool more;
	int err;

	do {
		err = txn_log_commit(log, txn_log_running(log));
		if (err < 0)
			return err;
		mutex_lock(&log->lock);
		while (log->checkpoint_busy)
			cond_wait(&log->changed, &log->lock);
		while (done_reaches(log, tid) && checkpoint(log, log->room_max))
			;
		more = done_reaches(log, tid);
		mutex_unlock(&log->lock);
		err = aborted(log);
	} while (more && err == 0);
	return err;
}

/* Says that the log is empty, if it is. */
static int mark_if_empty(struct txn_log *log)
{
	int err = 0;

	mutex_lock(&log->lock);
	while (log->commit_busy || log->checkpoint_busy)
		cond_wait(&log->changed, &log->lock);
	if (list_empty(&log->done) && log->log_used && atomic_load(&log->error) == 0) {
		log->commit_busy = log->checkpoint_busy = true;
		mutex_unlock(&log->lock);
		err = log_mark_empty(log);
		mutex_lock(&log->lock);
		log->commit_busy = log->checkpoint_busy = false;
		cond_broadcast(&log->changed);
		cond_broadcast(&log->work);
	}
	mutex_unlock(&log->lock);
	return err;
}

int txn_log_flush(struct txn_log *log)
{
	tid_t tid = txn_log_running(log);
	int err;

	if (atomic_load(&log->held))
		return 0;
	err = txn_log_sync(log);
	if (err == 0 && log->j != NULL)
		err = flush_done(log, tid);
	if (err == 0 && log->j != NULL)
		err = mark_if_empty(log);
	return err;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static bool commit_is_due(struct txn_log *log, uint64_t now) REQUIRES(&log->lock)
{
	const struct txn *t = log->running;

	if (atomic_load(&log->held))
		return false;
	/* Somebody waits for credits: also those that are only promised come back by a commit. */
	if (log->commit_wanted == t->tid)
		return true;
	return !txn_is_empty(t) && now >= t->started_ns + log->interval_ns;
}

/* Less than half of the log is free; then until three quarters are. */
static bool checkpoint_is_due(const struct txn_log *log) REQUIRES(&log->lock)
{
	return !list_empty(&log->done) && log->room < log->room_max / 2 && !log->checkpoint_stuck;
}

/* Numbers wrapped: everything goes home, and the log begins anew with transaction 1. */
static void renumber(struct txn_log *log) REQUIRES(&log->lock)
{
	int err;

	while (!list_empty(&log->done) && checkpoint(log, log->room_max))
		;
	if (!list_empty(&log->done) || log->commit_busy)
		return;
	log->commit_busy = log->checkpoint_busy = true;
	mutex_unlock(&log->lock);
	err = log_mark_empty(log);
	mutex_lock(&log->lock);
	log->commit_busy = log->checkpoint_busy = false;
	log->renumber = err < 0;
	gate_update(log);
	cond_broadcast(&log->changed);
}

static void thread_wait(struct txn_log *log) REQUIRES(&log->lock)
{
	if (txn_is_empty(log->running) || log->commit_busy || atomic_load(&log->held))
		cond_wait(&log->work, &log->lock);
	else
		(void)cond_wait_until(&log->work, &log->lock,
				      log->running->started_ns + log->interval_ns);
}

void log_thread(void *arg)
{
	struct txn_log *log = arg;

	mutex_lock(&log->lock);
	while (!log->stop) {
		if (atomic_load(&log->error) != 0)
			cond_wait(&log->work, &log->lock);
		else if (log->renumber && !log->commit_busy && !log->checkpoint_busy)
			renumber(log);
		else if (!log->commit_busy && commit_is_due(log, clock_mono_ns()))
			commit_running(log);
		else if (!log->checkpoint_busy && checkpoint_is_due(log))
			(void)checkpoint(log, log->room_max - log->room_max / 4);
		else
			thread_wait(log);
	}
	mutex_unlock(&log->lock);
}
