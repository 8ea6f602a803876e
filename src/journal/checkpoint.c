/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints: committed changes go home, and the log gets room again.
 *
 *	choose_items()	buffers of the oldest transactions whose bytes are committed (BJ1)
 *	write_items()	copied under the lock, a batch at a time, and written, sorted
 *	flush		(J5)
 *	retire_items()	off the lists, unless a newer transaction took them over meanwhile
 *	move_tail()	the superblock; flush; then the room behind the tail is free
 *
 *  K1  A copy is made only while BJ1 holds, so that nothing goes home that is not committed (J1).
 *  K2  The tail is the first block of the oldest transaction that has something on its list, and
 *      room is free only when the superblock that says so is durable.  Otherwise a recovery would
 *      begin in the middle of something newer.
 */
#include "journal/txn_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <stdlib.h>

static struct txn_done *oldest(const struct txn_log *log) REQUIRES(&log->lock)
{
	return list_entry(log->done.next, struct txn_done, link);
}

static bool may_go_home(const struct buf *buf)
{
	return buf->journal.claim_tid == 0 && buf->journal.commit_tid == 0;
}

/* ---- what goes home -------------------------------------------------------------------------- */

static size_t choose_of(struct txn_log *log, struct txn_done *done, size_t count)
	REQUIRES(&log->lock)
{
	list_for_each(pos, &done->bufs) {
		struct buf *buf = list_entry(pos, struct buf, journal.done_link);

		if (count == HOME_ITEMS_MAX)
			break;
		if (!may_go_home(buf))
			continue;
		buf_get(buf);
		log->items[count++] = (struct home_item){ .buf = buf };
	}
	return count;
}

/* So many of the oldest transactions that @room blocks become free if all of theirs can go. */
static size_t choose_items(struct txn_log *log, uint32_t room) REQUIRES(&log->lock)
{
	uint64_t free = log->room;
	size_t count = 0;

	list_for_each(pos, &log->done) {
		struct txn_done *done = list_entry(pos, struct txn_done, link);

		if (free >= room || count == HOME_ITEMS_MAX)
			break;
		count = choose_of(log, done, count);
		free += done->log_blocks;
	}
	return count;
}

static int compare_items(const void *a, const void *b)
{
	const struct home_item *x = a, *y = b;

	return x->buf->blk < y->buf->blk ? -1 : x->buf->blk > y->buf->blk;
}

/* K1.  Copies as many of @items as one batch takes; returns how many were looked at. */
static size_t copy_items(struct txn_log *log, struct home_item *items, size_t count)
	REQUIRES(&log->lock)
{
	size_t i;

	count = min_size(count, log->home_copies_max);
	for (i = 0; i < count; i++) {
		struct buf *buf = items[i].buf;

		if (buf->journal.done == NULL || !may_go_home(buf))
			continue;
		items[i].done = buf->journal.done;
		memcpy(log->home_copies + i * log->block_size, buf->data, log->block_size);
	}
	return i;
}

static int write_copies(struct txn_log *log, const struct home_item *items, size_t count)
{
	struct io_run io;
	int err = 0;

	io_run_init(&io, log->dev, &log->error);
	for (size_t i = 0; i < count && err == 0; i++) {
		if (items[i].done != NULL)
			err = io_run_add(&io, items[i].buf->blk * log->block_size,
					 log->home_copies + i * log->block_size, log->block_size);
	}
	if (err == 0)
		err = io_run_write(&io);
	return err;
}

static int write_items(struct txn_log *log, size_t count)
{
	int err = 0;

	qsort(log->items, count, sizeof(*log->items), compare_items);
	for (size_t i = 0, n; i < count && err == 0; i += n) {
		mutex_lock(&log->lock);
		log->homing = true;
		n = copy_items(log, log->items + i, count - i);
		mutex_unlock(&log->lock);
		err = write_copies(log, log->items + i, n);
		mutex_lock(&log->lock);
		log->homing = false;
		log->homing_turn++;
		cond_broadcast(&log->changed);
		mutex_unlock(&log->lock);
	}
	return err;
}

/* Returns how many are home for good. */
static size_t retire_items(struct txn_log *log, size_t count, bool home) REQUIRES(&log->lock)
{
	size_t retired = 0;

	for (size_t i = 0; i < count; i++) {
		struct home_item *item = &log->items[i];

		if (home && item->done != NULL && item->buf->journal.done == item->done) {
			buf_leave_done(item->buf);
			retired++;
		}
		buf_put(item->buf);
	}
	return retired;
}

/* ---- the tail -------------------------------------------------------------------------------- */

/* Takes transactions of which nothing remains to be done off the front; their blocks together. */
static uint32_t pop_done(struct txn_log *log) REQUIRES(&log->lock)
{
	uint32_t blocks = 0;

	while (!list_empty(&log->done) && list_empty(&oldest(log)->bufs)) {
		struct txn_done *done = oldest(log);

		blocks += done->log_blocks;
		list_del(&done->link);
		mem_free(done);
	}
	return blocks;
}

/* Where the log begins now. */
static void find_tail(const struct txn_log *log, uint32_t *ret_start, tid_t *ret_tid)
	REQUIRES(&log->lock)
{
	if (!list_empty(&log->done)) {
		*ret_start = oldest(log)->log_start;
		*ret_tid = oldest(log)->tid;
	} else if (log->committing != NULL) {
		*ret_start = log->committing->log_start;
		*ret_tid = log->committing->tid;
	} else {
		*ret_start = log->head;
		*ret_tid = log->running->tid;
	}
}

static int write_tail(struct txn_log *log, uint32_t start, tid_t tid)
{
	int err = atomic_load(&log->error); /* J7 */

	if (err == 0)
		err = journal_write_super(log->j, start, tid);
	if (err == 0 && log->barrier)
		err = dev_flush(log->j->dev);
	return err;
}

/* J5: what was written home was flushed.  *ret_blocks became free. */
static int move_tail(struct txn_log *log, uint32_t *ret_blocks)
{
	uint32_t start, blocks;
	tid_t tid;
	int err = 0;

	mutex_lock(&log->lock);
	blocks = pop_done(log);
	find_tail(log, &start, &tid);
	mutex_unlock(&log->lock);
	if (blocks > 0)
		err = write_tail(log, start, tid);
	if (err < 0)
		return err;
	mutex_lock(&log->lock);
	log->room += blocks;
	gate_update(log);
	mutex_unlock(&log->lock);
	*ret_blocks = blocks;
	return 0;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int checkpoint_round(struct txn_log *log, uint32_t room, bool *ret_progress)
{
	uint32_t blocks = 0;
	size_t count, retired;
	int err = 0;

	mutex_lock(&log->lock);
	count = choose_items(log, room);
	mutex_unlock(&log->lock);
	if (count > 0) {
		err = write_items(log, count);
		if (err == 0 && log->barrier)
			err = dev_flush(log->dev);
	}
	mutex_lock(&log->lock);
	retired = retire_items(log, count, err == 0);
	mutex_unlock(&log->lock);
	if (err == 0)
		err = move_tail(log, &blocks);
	*ret_progress = retired > 0 || blocks > 0;
	return err;
}

bool checkpoint(struct txn_log *log, uint32_t room)
{
	bool progress = true, any = false;
	tid_t committed = 0;
	int err = 0;

	assert(!log->checkpoint_busy);
	log->checkpoint_busy = true;
	while (progress && err == 0 && log->room < room && !list_empty(&log->done)) {
		committed = atomic_load(&log->committed_tid);
		mutex_unlock(&log->lock);
		err = checkpoint_round(log, room, &progress);
		if (err < 0)
			txn_log_abort(log, fail_in(err, "checkpoint"));
		mutex_lock(&log->lock);
		any |= progress;
	}
	/* Unless a commit came to its end meanwhile, which may be what was missing. */
	if (!progress && committed == atomic_load(&log->committed_tid))
		log->checkpoint_stuck = true;
	log->checkpoint_busy = false;
	cond_broadcast(&log->changed);
	cond_broadcast(&log->work);
	return err == 0 && any;
}

int log_mark_empty(struct txn_log *log)
{
	int err;

	err = journal_write_super(log->j, 0, atomic_load(&log->running_tid));
	if (err == 0 && log->barrier)
		err = dev_flush(log->j->dev);
	if (err < 0)
		txn_log_abort(log, err);
	else
		log->log_used = false;
	return err;
}
