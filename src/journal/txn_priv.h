/* SPDX-License-Identifier: MIT */
/*
 * The writing half of a journal, as handle.c, access.c, commit.c and checkpoint.c share it.
 *
 * Life of a transaction:
 *
 *	RUNNING --txn_switch()--> COMMITTING --finish--> DONE --all home, tail moved--> (gone)
 *
 * RUNNING: handles are in it, buffers enter it.  COMMITTING: nobody is in it; the bytes that count
 * are in its copies, and are being written to the log.  DONE: durable; what has not been written
 * home since stands on its list, and its blocks of the log are in use.  There is always one running
 * transaction and never more than one that is committing.
 *
 *  T1  log->gate counts the open handles and what they may still need.  While it is closed nobody
 *      enters; txn_switch() runs with the gate closed and no handle open.
 *  T2  The gate opens only if the log has room for the largest transaction there can be.  So a
 *      handle that is open never waits for room.
 *  T3  Everything a commit needs is allocated when buffers enter the running transaction: from the
 *      moment the gate closes nothing can fail but I/O.
 *  T4  The committing transaction belongs to the thread that set commit_busy, the first of the done
 *      transactions and the tail to the one that set checkpoint_busy.  I/O is done by these two,
 *      without log->lock.
 *  T5  Transactions in the log have ascending numbers without a gap.  One in which nothing changed
 *      takes no number: it goes on.
 */
#ifndef JOURNAL_TXN_PRIV_H
#define JOURNAL_TXN_PRIV_H

#include "journal/handle.h"
#include "journal/journal_priv.h"

/* ---- a set of freed blocks: revoke.c --------------------------------------------------------- */

struct revoke_set {
	uint64_t *slots; /* block + 1, or 0; open addressing */
	size_t capacity; /* a power of two, or 0 */
	size_t count;
};

void revoke_set_finish(struct revoke_set *s);
/* Empty again; keeps its memory unless that is much. */
void revoke_set_clear(struct revoke_set *s);
bool revoke_set_has(const struct revoke_set *s, blk_t blk);
int revoke_set_add(struct revoke_set *s, blk_t blk) MUST_CHECK; /* already there is fine */
void revoke_set_remove(struct revoke_set *s, blk_t blk);
/* The next block, *at counted from 0; false behind the last. */
bool revoke_set_next(const struct revoke_set *s, size_t *at, blk_t *ret_blk);

/* ---- memory for copies: pool.c --------------------------------------------------------------- */

/*
 * Slots of one block.  Those that are numbered one after the other mostly lie so, too, and one
 * piece of a request has many of them.
 */
struct copy_pool {
	uint8_t **chunks; /* the array stays where it is */
	size_t chunk_count, chunk_max;
	uint32_t block_size;
	uint32_t chunk_slots; /* slots a chunk */
};

/* It will never have more than @slots_max slots.  A slot may be used while others are added. */
int copy_pool_init(struct copy_pool *p, uint32_t block_size, size_t slots_max) MUST_CHECK;
void copy_pool_finish(struct copy_pool *p);
int copy_pool_reserve(struct copy_pool *p, size_t slots) MUST_CHECK;
/* Gives memory back, if there is much more than @slots need. */
void copy_pool_trim(struct copy_pool *p, size_t slots);
uint8_t *copy_pool_slot(const struct copy_pool *p, size_t slot);

/*
 * Requests of neighbouring blocks.  io_run_add() writes what was gathered when the next block does
 * not join.  After an abort nothing is written (J7): then the error that caused it comes back.
 */
struct io_run {
	struct dev *dev;
	const _Atomic int *abort; /* log->error */
	uint64_t offset;	  /* of the first byte */
	uint64_t bytes;
	int pieces;
	struct iovec iov[DEV_IOV_MAX];
};

void io_run_init(struct io_run *io, struct dev *dev, const _Atomic int *abort);
int io_run_add(struct io_run *io, uint64_t offset, uint8_t *data, size_t bytes) MUST_CHECK;
int io_run_write(struct io_run *io) MUST_CHECK; /* what is still gathered */

/* ---- transactions ---------------------------------------------------------------------------- */

enum entry_kind {
	ENTRY_LOG,    /* its copy is written */
	ENTRY_FORGET, /* it was freed */
	ENTRY_NONE,   /* it was not changed after all */
};

struct txn_entry {
	struct buf *buf; /* referenced */
	uint32_t slot;	 /* ENTRY_LOG: of its copy */
	uint8_t kind;	 /* enum entry_kind; once switched */
	bool escaped;	 /* the copy began with the magic number */
};

/* A running or committing transaction. */
struct txn {
	tid_t tid;
	struct txn_entry *entries; /* every buffer once */
	size_t count, capacity;
	struct revoke_set revokes;
	uint32_t revoke_credits; /* of handles, spent for blocks of revokes */
	uint64_t started_ns;	 /* when the first buffer entered */
	struct txn_done *done;	 /* to be: what it becomes; NULL while it is empty */
	/* Once switched. */
	size_t logged;		  /* entries of ENTRY_LOG */
	uint32_t log_start;	  /* its first block in the log */
	uint32_t log_blocks;	  /* how many, the commit record included */
	uint32_t descriptors_end; /* of these, descriptors and copies; then revokes */
};

/* A transaction that is durable. */
struct txn_done {
	struct list link; /* journal: in log->done, oldest first */
	struct list bufs; /* journal: not yet home, and not changed by a later one */
	tid_t tid;
	uint32_t log_start, log_blocks;
};

/* One buffer on its way home. */
struct home_item {
	struct buf *buf; /* referenced */
	struct txn_done
		*done; /* on whose list it was when it was copied; NULL: it was not copied */
};

#define HOME_ITEMS_MAX 4096u
#define HOME_BYTES (1024u * 1024)

#define GATE_CLOSED (UINT64_C(1) << 63)
#define GATE_CREDIT_SHIFT 24
#define GATE_HANDLES ((UINT64_C(1) << GATE_CREDIT_SHIFT) - 1)

/* shared */
struct txn_log {
	const struct txn_log_ops *ops; /* c */
	void *arg;		       /* c */
	struct cache *cache;	       /* c */
	struct dev *dev;	       /* c: home */
	struct journal *j;	       /* c: NULL without a journal */
	uint32_t block_size;	       /* c */
	uint64_t interval_ns;	       /* c */
	bool barrier;		       /* c */

	/* c: see layout_init() */
	uint32_t room_max;	    /* blocks of the log that may be in use */
	uint32_t txn_blocks_max;    /* the largest transaction, in blocks of the log */
	uint32_t credits_max;	    /* and in buffers */
	uint32_t revoke_blocks_max; /* and in blocks of revokes that cost no credits */
	uint32_t tags_per_block;
	uint32_t revokes_per_block;

	/* a: closed (1), credits of the running transaction used or promised (39), handles (24) */
	_Atomic uint64_t gate;
	_Atomic tid_t running_tid;   /* a; set under lock */
	_Atomic tid_t committed_tid; /* a; set under lock: the last one that is durable */
	_Atomic tid_t told_tid;	     /* a; set under lock: the last one ops->committed knows of */
	_Atomic int error;	     /* a: 0, or what aborted it */
	_Atomic bool held;	     /* a; set under lock: nothing commits */

	struct mutex lock;   /* RANK_journal */
	struct cond changed; /* something that a caller may wait for */
	struct cond work;    /* something for the thread to do */

	struct txn *running GUARDED(&lock);
	struct txn *committing GUARDED(&lock); /* contents: T4 */
	struct txn txns[2];
	struct list done GUARDED(&lock);
	struct copy_pool pool; /* to grow: lock; slots in use: the committing transaction's */

	uint32_t head GUARDED(&lock);	    /* where the next transaction will be in the log */
	uint32_t room GUARDED(&lock);	    /* blocks not in use, of room_max */
	tid_t commit_wanted GUARDED(&lock); /* the thread is asked to commit it; 0: none */
	bool commit_busy GUARDED(&lock);
	bool draining GUARDED(&lock); /* a commit waits until no handle is open */
	bool checkpoint_busy GUARDED(&lock);
	bool checkpoint_stuck GUARDED(&lock); /* nothing can go home before the next commit */
	bool homing GUARDED(&lock);	      /* items are being written home */
	uint64_t homing_turn GUARDED(&lock);  /* counts its ends */
	bool renumber GUARDED(&lock);	      /* numbers wrapped: the log must be empty first */
	bool log_used;	    /* commit_busy: the superblock says that the log is not empty */
	int64_t commit_sec; /* commit_busy: of the last commit record */
	uint32_t commit_nsec;

	struct home_item *items; /* checkpoint_busy */
	uint8_t *home_copies;	 /* checkpoint_busy */
	uint32_t home_copies_max;

	struct thread *thread; /* c */
	bool stop GUARDED(&lock);
};

struct handle {
	struct txn_log *log; /* c */
	tid_t tid;	     /* 0: handle_restart() failed, it is in no transaction */
	uint32_t credits;    /* left */
};

/* Blocks of the log that so many buffers and revokes need, with the commit record. */
static inline uint32_t txn_log_blocks(const struct txn_log *log, size_t buffers, size_t revokes)
{
	return (uint32_t)(buffers + div_round_up(buffers, log->tags_per_block) +
			  div_round_up(revokes, log->revokes_per_block) + 1);
}

/* Slots of the pool that the commit of @t needs at most, with so much more in it. */
static inline size_t txn_slots(const struct txn_log *log, const struct txn *t, size_t buffers,
			       size_t revokes)
{
	size_t slots = t->count + buffers;

	if (log->j == NULL)
		return min_size(slots, log->credits_max);
	/* Entries that will have no copy are counted, too. */
	slots = txn_log_blocks(log, slots, t->revokes.count + revokes);
	return min_size(slots, log->txn_blocks_max);
}

static inline bool txn_is_empty(const struct txn *t)
{
	return t->count == 0 && t->revokes.count == 0;
}

/* Is @a transaction @b or a later one?  Numbers wrap. */
static inline bool tid_reached(tid_t a, tid_t b)
{
	return (int32_t)(a - b) >= 0;
}

/* ---- handle.c -------------------------------------------------------------------------------- */

/* Nobody enters any more. */
void gate_close(struct txn_log *log);
/* Opens it if it may be open (T2).  Wakes who waits. */
void gate_update(struct txn_log *log) REQUIRES(&log->lock);
bool gate_has_handles(const struct txn_log *log);
/* More credits for a handle that is open, if the running transaction has them. */
bool gate_extend(struct txn_log *log, uint32_t credits);

/* ---- access.c -------------------------------------------------------------------------------- */

/* Of a transaction that is over, or never will be: gives up what it still holds and empties it. */
void txn_reset(struct txn_log *log, struct txn *t) REQUIRES(&log->lock);
/* Takes a buffer off the list of the transaction whose change of it is not home. */
void buf_leave_done(struct buf *buf);

/* ---- commit.c -------------------------------------------------------------------------------- */

/*
 * Commits the running transaction; with commit_busy clear, which it sets meanwhile.  Gives the lock
 * up and takes it again.
 */
void commit_running(struct txn_log *log) REQUIRES(&log->lock);
void log_thread(void *log);
/* Both devices where there are two: what was written is durable. */
int log_flush_devs(struct txn_log *log) MUST_CHECK;

/* ---- checkpoint.c ---------------------------------------------------------------------------- */

/*
 * Writes home what it can of the oldest transactions, until @room blocks of the log are free, and
 * moves the tail.  With checkpoint_busy clear, which it sets meanwhile.  False: nothing more can go
 * home before another commit, or an error.
 */
bool checkpoint(struct txn_log *log, uint32_t room) REQUIRES(&log->lock);
/*
 * Nothing is done but not home: says so in the superblock.  With commit_busy and checkpoint_busy
 * set by the caller.
 */
int log_mark_empty(struct txn_log *log) MUST_CHECK;

#endif
