/* SPDX-License-Identifier: MIT */
/*
 * Transactions: how metadata is changed.
 *
 * A handle is one operation's part of the running transaction.  Between handle_get_write() and
 * handle_dirty() the caller changes a buffer's bytes, under whatever lock of his guards them; the
 * journal needs none of those.  A commit waits until no handle is open, copies every changed buffer
 * (so nobody ever waits for a buffer that is being written, M3), lets new handles in, and then
 * writes: log blocks, a flush, the commit record, a flush.  Without a journal
 * (txn_log_create_none()) handles and commits are the same, but the copies go straight home.
 *
 * File data is never in a handle, unless the mount says data=journal: writeback writes the data to
 * blocks that nobody can see yet, and then, in a handle, lets the file have them (ops/writeback).
 * So J2 holds because the flush before the commit record covers the data.
 *
 *  J1  No metadata goes home before its commit record is durable.
 *  J2  Data that a transaction makes visible is durable before its commit record.
 *  J3  A freed metadata block is revoked before it is reused as data.
 *  J4  Blocks freed in a transaction are not reused until it commits (ops->committed tells).
 *  J5  The tail of the log moves only after home writes are flushed.
 *  J6  A handle never exceeds its credits.
 *  J7  After an abort nothing more is written, and every call says -EROFS or the first error.
 *  J10 A commit never waits for what waits for it: it takes no lock above `journal` that a handle
 *      may be started under.
 */
#ifndef JOURNAL_HANDLE_H
#define JOURNAL_HANDLE_H

#include "cache/cache.h"
#include "journal/journal.h"

typedef uint32_t tid_t;

struct handle;
struct txn_log; /* the writing half of a journal, or of an image without one */

/* Upcalls, without any lock of the journal. */
struct txn_log_ops {
	/*
	 * The transaction is durable; what was freed in it may be used again (J4): nothing older
	 * is on its way there.  Called by who did the commit, in order.
	 */
	void (*committed)(void *arg, tid_t tid);
	/*
	 * Nothing will be written any more; @err is why.  Once.  Called by txn_log_abort(), with
	 * what its caller holds: only notes it.
	 */
	void (*aborted)(void *arg, int err);
};

struct txn_log_options {
	const struct txn_log_ops *ops;
	void *arg;
	struct cache *cache;
	struct dev *dev;	     /* where home blocks (and data) go */
	uint32_t commit_interval_ms; /* 0: 5,000 */
	bool no_barrier;	     /* no flushes: for images that are thrown away after a crash */
	/* What the journal is to have, as it is empty, if it has not: */
	bool wide; /* block numbers of 64 bits: file systems with 64bit */
	bool csum; /* checksums of version 3: those with metadata_csum */
	/*
	 * Fast commits that stand for this transaction are still to be applied: they stay valid
	 * until it, the first one, is committed.  0: there are none.
	 */
	uint32_t fast_tid;
};

/*
 * Starts writing on an open, recovered (empty) journal, which it takes over unless it fails.  Its
 * superblock is written as "in use" with the first commit, or if there is a fast_tid now.  Starts
 * the commit thread.  -EOPNOTSUPP: the journal is too small.  @cache must have its geometry.
 */
int txn_log_create(struct journal *j, const struct txn_log_options *options,
		   struct txn_log **ret_log) MUST_CHECK;
/* The same for an image without a journal. */
int txn_log_create_none(const struct txn_log_options *options, struct txn_log **ret_log) MUST_CHECK;
/* Commits, checkpoints all, marks the log empty, stops the thread; frees @log also on an error. */
int txn_log_destroy(struct txn_log *log) MUST_CHECK;

/*
 * ---- handles -----------------------------------------------------------------------------------
 */

/*
 * A handle that may change up to @credits buffers.  May wait for a commit and for room in the log.
 * -EROFS (or the first error) after an abort; -ENOSPC if no transaction can be that large.
 * Takes the pseudo rank `handle`; one thread has one handle at a time.
 */
int handle_start(struct txn_log *log, uint32_t credits, struct handle **ret_handle) MUST_CHECK;
/* Ends it.  Waits for nothing.  The error that aborted the journal, if one did. */
int handle_stop(struct handle *h);
/* Up to @credits more buffers without letting go; false if the transaction has no room for them. */
bool handle_extend(struct handle *h, uint32_t credits) MUST_CHECK;
/* Makes sure of @credits at least; if need be by going on in a later transaction: what was done so
 * far may then be committed alone.  Nothing ranked `handle` or later may be held but the handle. */
int handle_restart(struct handle *h, uint32_t credits) MUST_CHECK;
uint32_t handle_credits(const struct handle *h); /* left */
tid_t handle_tid(const struct handle *h);
struct txn_log *handle_log(const struct handle *h);

/*
 * Before bytes of @buf change.  Costs a credit the first time in a transaction.  Never waits (M3).
 */
int handle_get_write(struct handle *h, struct buf *buf) MUST_CHECK;
/* The same for a buffer that comes from buf_create(): cancels a revoke of its block. */
int handle_get_create(struct handle *h, struct buf *buf) MUST_CHECK;
/* After they changed.  @buf is then written with the transaction and held until it is home. */
void handle_dirty(struct handle *h, struct buf *buf);
/*
 * The same, but the checksum is still that of the old bytes: buf_ops.seal() is called before the
 * commit copies the block.  Until then nobody can find it good for something else.
 */
void handle_dirty_unsealed(struct handle *h, struct buf *buf);
/*
 * Metadata block @blk was freed: it leaves the transaction, is revoked (J3), and its buffer never
 * goes home once this transaction has committed.  The caller still holds no reference to it, or
 * puts it right behind.
 */
int handle_forget(struct handle *h, blk_t blk) MUST_CHECK;

/*
 * ---- commits -----------------------------------------------------------------------------------
 */

tid_t txn_log_running(struct txn_log *log); /* transaction a handle started now would belong to */
/*
 * Returns when transaction @tid and all before it are durable, and ops->committed has been told.
 * Whoever comes first does the work, the others wait: one commit serves them all.  No rank from
 * `commit` on may be held.
 */
int txn_log_commit(struct txn_log *log, tid_t tid) MUST_CHECK;
bool txn_log_is_committed(struct txn_log *log, tid_t tid);
/* Commits the running transaction, even an empty one's data: ends with a device flush. */
int txn_log_sync(struct txn_log *log) MUST_CHECK;
/* The same, then checkpoints everything: the log is empty, the image right without a replay. */
int txn_log_flush(struct txn_log *log) MUST_CHECK;
/*
 * Several operations that commit together or not at all.  Between hold and release nothing commits:
 * a handle for which the running transaction has no room is -E2BIG, and what asks for a commit
 * returns at once.  Begins with an empty log (txn_log_flush()), with no handle open.  -EOPNOTSUPP
 * without a journal.
 */
int txn_log_hold(struct txn_log *log) MUST_CHECK;
void txn_log_release(struct txn_log *log);
/*
 * While it is held, with no handle open: what the running transaction has changed is given up.  The
 * caller then forgets all buffers: their bytes are those of the changes.
 */
void txn_log_discard(struct txn_log *log);
/* Has the running transaction changed @buf? */
bool txn_log_has(struct txn_log *log, const struct buf *buf);
/* J7.  Records the first error. */
void txn_log_abort(struct txn_log *log, int err);
/* 0, or the error that aborted it. */
int txn_log_error(struct txn_log *log);
/* The most credits a handle can have: long operations do their work in steps of less. */
uint32_t txn_log_credits_max(const struct txn_log *log);

#endif
