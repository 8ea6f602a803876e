/* SPDX-License-Identifier: MIT */
/*
 * The cache: buffers (metadata blocks) and pages (file data) in bounded memory.
 *
 * Knows devices and mappings, not ext4.  What a buffer must look like and where a page's bytes come
 * from is told by tables of functions that are filled above (buf_ops, mapping_ops).
 *
 *  C1  A buffer or page is handed out only uptodate: read, and for a buffer verified, exactly once
 *      per time it is read, under its lock bit, however many threads ask at once.
 *  C2  A referenced buffer or page is never evicted; its data stays where it is.
 *  C3  Memory in use stays below the budget plus what is referenced, counted in whole slabs.
 *      Reclaim runs in the thread that wants memory, never starts I/O, and waits for no lock that
 *      anybody could hold while he waits for something himself.
 *  C4  A read error is given to everybody who waited for that read; the next caller reads again.
 */
#ifndef CACHE_CACHE_H
#define CACHE_CACHE_H

#include "base/base.h"
#include "base/list.h"
#include "base/xarray.h"
#include "dev/dev.h"
#include "sync/sync.h"

#define PAGE_BYTES 4096u
#define PAGE_BITS 12

struct cache; /* the budget and reclaim lists of one open image, and its buffers */
struct slab;  /* where the memory of some buffers or pages comes from */

struct cache_stats {
	uint64_t buffer_hits, buffer_misses;
	uint64_t page_hits, page_misses;
	uint64_t bytes;	      /* held now */
	uint64_t dirty_bytes; /* of these, dirty or under writeback */
};

/*
 * @budget bytes for buffers and pages together; at least 1 MiB is used.  @dev stays the caller's.
 */
int cache_create(struct dev *dev, uint64_t budget, struct cache **ret_cache) MUST_CHECK;
void cache_destroy(struct cache *cache); /* everything must have been put; NULL is fine */
void cache_get_stats(struct cache *cache, struct cache_stats *ret_stats);
/* What cache_create() made of its budget: others derive their own bounds from it. */
uint64_t cache_budget(const struct cache *cache);
uint32_t cache_block_size(const struct cache *cache);

/* ---- buffers --------------------------------------------------------------------------------- */

struct buf;

/*
 * How one kind of metadata block is recognised.  verify() gets the block as read and what
 * buf_read() was given: 0, or an error with text (corrupt(), bad_checksum()).  It may not block or
 * take locks.
 */
struct buf_ops {
	const char *name; /* "extent block" */
	int (*verify)(const void *data, uint32_t bytes, blk_t blk, const void *arg);
	/* A block that these found good for an owner is good for these too; or NULL. */
	const struct buf_ops *stricter;
	/*
	 * Brings the checksum up to date once before each commit (handle_dirty_unsealed()); @arg is
	 * that of the log.  NULL: whoever changes the block does.  Nothing is held, nobody has a
	 * handle.
	 */
	void (*seal)(struct buf *buf, uint64_t owner, void *arg);
};

/*
 * What the journal keeps of a buffer: see journal/access.c for the states and what they allow.  0
 * stands for "none".  Every list a buffer is on has a reference to it.
 */
struct txn_done;
struct buf_journal {
	_Atomic uint32_t
		tid; /* a; set under `journal`: it may change in this running transaction */
	_Atomic uint32_t dirty_tid; /* a: it did change, last in this transaction */
	uint32_t claim_tid;	    /* journal: as tid, but stays when the block is freed */
	uint32_t forget_tid;	    /* journal: freed in this running transaction */
	uint32_t commit_tid;	    /* journal: its copy is being written with this transaction */
	struct txn_done *done;	    /* journal: the last committed change, not yet home */
	struct list done_link;	    /* journal: of its list */
	_Atomic bool unsealed;	    /* a; set with a handle: buf_seal() is still to come */
};

/* shared */
struct buf {
	_Atomic uint32_t state;	   /* a: lock bit, uptodate, how recently it was asked for */
	_Atomic uint32_t refs;	   /* a */
	blk_t blk;		   /* i>0: the block */
	uint32_t bytes;		   /* c: the cache's block size */
	int error;		   /* buf lock: of the read that failed */
	const struct buf_ops *ops; /* buf lock + bufhash to change: by whom verified, or NULL */
	uint64_t owner;		   /* the same: for whom it was verified */
	uint8_t *data;		   /* c */
	struct list hash_link;	   /* bufhash */
	struct cache *cache;	   /* c */
	struct slab *slab;	   /* c */
	struct buf_journal journal;
};

/*
 * Blocks of @block_size bytes up to @blocks.  Called before the first buf_read(), and again with
 * the same size when recovery has changed @blocks; nobody else may be inside.
 */
void cache_set_geometry(struct cache *cache, uint32_t block_size, blk_t blocks);

/*
 * The block @blk, verified by @ops with @arg on behalf of @owner (a number that says what @arg
 * stands for: 0, or inode and generation).  A block in memory that was verified by other ops or for
 * another owner is verified again, so that one block cannot serve two purposes unchecked.
 * @ahead: how many blocks behind it are worth reading in the same request when it must be read (0:
 * none); they are kept unverified until asked for.
 * -EFSCORRUPTED if @blk lies outside of the file system.  Waits for I/O; ranks below `buf` may be
 * held.
 */
int buf_read(struct cache *cache, blk_t blk, const struct buf_ops *ops, uint64_t owner,
	     const void *arg, uint32_t ahead, struct buf **ret_buf) MUST_CHECK;
void buf_put(struct buf *buf); /* NULL is fine */
void buf_get(struct buf *buf); /* one more reference to one that is referenced */
/*
 * The block @blk, which was just allocated or is about to be written as a whole: uptodate, and
 * verified by definition for @ops and @owner, without being read.  What the cache had of the block
 * from an earlier life is reused; nobody else may still use it as something else.  The caller
 * enters it into a transaction (handle_get_create()) before anything else, which zeroes it: until
 * then the old bytes may still be wanted.  -EFSCORRUPTED as buf_read().  No rank from `buf` on.
 */
int buf_create(struct cache *cache, blk_t blk, const struct buf_ops *ops, uint64_t owner,
	       struct buf **ret_buf) MUST_CHECK;
/* buf_ops.seal() of what the buffer was last found good for. */
void buf_seal(struct buf *buf, void *arg);
/* The buffer of @blk with a reference if it is in memory and uptodate, else NULL. */
struct buf *buf_lookup(struct cache *cache, blk_t blk);

static inline void buf_put_scope(struct buf **pp)
{
	buf_put(*pp);
}
#define BUF_SCOPE CLEANUP(buf_put_scope)

/* Forgets all buffers: after recovery changed what lies below.  None may be referenced. */
void cache_forget_buffers(struct cache *cache);
/* The same with the buffer of @blk, if there is one. */
void cache_forget_block(struct cache *cache, blk_t blk);

/* ---- pages ----------------------------------------------------------------------------------- */

struct mapping;

/*
 * The parts of a page: one bit a KiB, so that blocks smaller than a page can be dirty alone.  With
 * blocks of a page or more all four bits go together.
 */
#define PAGE_PART_BITS 10
#define PAGE_ALL_PARTS 0xfu

/* shared */
struct page {
	_Atomic uint32_t state; /* a: lock bit, uptodate, dirty, writeback, how recently used */
	_Atomic uint32_t refs;	/* a */
	pgoff_t index;		/* i>0: its place in the file */
	uint8_t *data;		/* PAGE_BYTES; stable while locked or referenced, see M6 */
	/* changed under the mapping's lock, exclusive: in whose index it is; NULL once it left */
	_Atomic(struct mapping *) mapping;
	struct slab *slab; /* c */
	int error;	   /* page lock: of the read that failed */
	uint8_t dirty;	   /* page lock: parts that differ from what is on disk */
	uint8_t reserved;  /* page lock: parts whose block has no place yet; ops' own */
};

/*
 * Upcalls of a file's pages, filled in ops/.
 *
 * fill: read the bytes of @count neighbouring pages, ascending, all locked and not uptodate, into
 * their data; what lies behind the end of the file is zeroed.  Called with `invalidate` held shared
 * (or the inode's lock, exclusive) and no rank above `page`.  All or nothing.
 *
 * writepages: write dirty pages of [@first, @last] and make them clean; see writeback.c for how a
 * page goes through it.  Called with no rank from `commit` on; may start handles.  @wait: a page
 * that is under writeback already is waited for and written again if it became dirty meanwhile;
 * otherwise it may be passed over.  It goes on after an error as far as that makes sense and
 * returns the first one; what could not be written is dirty again.
 *
 * writepages_together: the same for all pages of each of @count different files, without waiting;
 * for small files, which so share requests.  NULL: they are written one by one.
 *
 * drop: a locked page is about to be thrown away (truncate, punch): give back what was reserved for
 * its parts.
 *
 * hold, release: a file with dirty pages is referenced by the cache; release only queues (M2).
 * try_hold: hold, of a file that nobody may be using: false if it is about to leave memory.
 * try_lock: keeps out who would find or change pages (the inode's lock and `invalidate`,
 * exclusive): false, without waiting, if somebody is inside.  unlock: the other way.
 * evict: release after try_hold, and the file leaves memory if nobody has it.  Nothing held.
 *
 * mkwrite: a store into a locked, uptodate page that address spaces map is about to be allowed:
 * what of the page lies below the end of the file is dirty afterwards, with a place or a promise of
 * one (page_mkwrite of the kernel).  Called with `invalidate` held shared and no rank from `page`
 * on but this page; never takes the inode's lock.  @flags: enum mkwrite_flag.  -EAGAIN: look at it
 * anew, it may have been unlocked meanwhile.  -ENOSPC, -EDQUOT: a hole, and no room.
 *
 * retry_nospc: after -ENOSPC, with nothing held: is it worth trying again?
 *
 * A file that is never written has only `fill`.
 */
enum mkwrite_flag {
	MKWRITE_UNPRIVILEGED = 1u << 0, /* not from the reserved blocks */
	MKWRITE_NOWAIT = 1u << 1,	/* -EAGAIN instead of writing anything to the disk */
	MKWRITE_IN_PLACE = 1u << 2,	/* -EAGAIN, and nothing changes, if it needs a promise */
};

#define MAPPINGS_TOGETHER 64u
struct mapping_ops {
	int (*fill)(struct mapping *m, struct page *const *pages, size_t count);
	int (*writepages)(struct mapping *m, pgoff_t first, pgoff_t last, bool wait);
	int (*writepages_together)(struct mapping *const *ms, size_t count);
	void (*drop)(struct mapping *m, struct page *page);
	void (*hold)(struct mapping *m);
	bool (*try_hold)(struct mapping *m);
	bool (*try_lock)(struct mapping *m);
	void (*unlock)(struct mapping *m);
	void (*release)(struct mapping *m);
	void (*evict)(struct mapping *m);
	int (*mkwrite)(struct mapping *m, struct page *page, uint32_t flags);
	bool (*retry_nospc)(struct mapping *m, int err, unsigned *tries);
};

/*
 * The memory of a file that address spaces map, and who has its pages in a page table; filled in
 * vm/.  Page @index lies at its place in one object that they share (a memfd); the engine works
 * through a view of its own.  None of it waits for a fault.
 *
 * at: where a page below `pages` lies in that view; the same as long as the file is in memory.
 *
 * resize: the object is @pages long, and frames.pages says so; when it shrinks, before entries and
 * memory behind go.  Growing may fail (-ENOMEM).  Shrinking cannot; no page behind is in the index
 * then (M8).
 *
 * protect: no entry of these pages is writable when it returns; what was stored before is in them.
 * They are locked.
 *
 * discard: these pages lose their entries and their memory.  They are locked, clean and about to
 * leave the index.
 *
 * pinned: is any of [@first, @last] pinned, or with @store for stores?  Those keep their writable
 * entries, so they stay dirty.  wait_unpinned: returns when none is; nothing held (M5).
 *
 * destroy: with the file; nobody maps it any more.
 */
struct frames;
struct frames_ops {
	uint8_t *(*at)(struct frames *f, pgoff_t index);
	int (*resize)(struct frames *f, pgoff_t pages);
	void (*protect)(struct frames *f, pgoff_t first, size_t count);
	void (*discard)(struct frames *f, pgoff_t first, size_t count);
	bool (*pinned)(struct frames *f, pgoff_t first, pgoff_t last, bool store);
	void (*wait_unpinned)(struct frames *f, pgoff_t first, pgoff_t last);
	void (*destroy)(struct frames *f);
};

struct frames {
	const struct frames_ops *ops; /* c */
	struct mapping *mapping;      /* c */
	/* a: its length; changed by resize(), under the inode's lock exclusive */
	_Atomic pgoff_t pages;
	struct list cache_link; /* dirty: in the cache's list of mapped files */
};

/* A place in the cache's list of files with dirty pages, which is in the order they became so. */
struct dirty_node {
	struct list link;	 /* dirty */
	struct mapping *mapping; /* c; NULL: a walk's position */
};

/* shared: all pages of one file; embedded in the inode */
struct mapping {
	struct rwlock lock; /* RANK_mapping */
	struct xarray pages GUARDED(&lock);
	/* Of pages[], those that are dirty or under writeback, each referenced. */
	struct xarray dirty GUARDED(&lock);
	bool used GUARDED(&lock);      /* it has had pages */
	bool evicted GUARDED(&lock);   /* reclaim has taken one */
	const struct mapping_ops *ops; /* c */
	struct cache *cache;	       /* c */
	struct dirty_node dirty_node;  /* dirty */
	_Atomic bool listed;	       /* dirty, to clear also `lock`: the node is in the list */
	uint64_t listed_seq;	       /* dirty: its number in the order of the list */
	uint64_t listed_ns;	       /* dirty: since when it is there */
	uint64_t flushed_ns;	       /* dirty: when the flusher last took it up; 0: not yet */
	/* a: counts failed writebacks, see mapping_error(); the last error in the lower bits */
	_Atomic uint64_t error_seq;
	/* NULL until the file is mapped first; set under `invalidate` exclusive, once */
	_Atomic(struct frames *) frames;
};

void mapping_init(struct mapping *m, struct cache *cache, const struct mapping_ops *ops);
/* Evicts all its pages, none of which may be referenced or dirty. */
void mapping_finish(struct mapping *m);

#define PAGES_BATCH_MAX 256u

/*
 * References to the uptodate pages [@first, @first + @count), 1 <= @count <= PAGES_BATCH_MAX.
 * Missing ones are read, neighbours together, and up to @ahead further missing pages behind them in
 * the same requests.  The caller holds `invalidate` shared and no rank from `page` on.  On an error
 * nothing is referenced.
 */
int pages_get(struct mapping *m, pgoff_t first, size_t count, size_t ahead, struct page **ret_pages)
	MUST_CHECK;
void pages_put(struct page *const *pages, size_t count);

/*
 * ---- pages that change: page.c -----------------------------------------------------------------
 */

/*
 * References to the pages [@first, @first + @count), 1 <= @count <= PAGES_BATCH_MAX, made if they
 * are not there: neither locked nor, if they are new, uptodate.  The caller takes them one after
 * the other, ascending, with page_lock_in().  Waits for nothing.  Requires that nobody can truncate
 * here (inode lock, or `invalidate`).
 */
int pages_grab(struct mapping *m, pgoff_t first, size_t count, struct page **ret_pages) MUST_CHECK;
/*
 * Locks a page that is referenced; false, and it is not locked, if it has left @m: a read of it
 * failed, or it was thrown away.
 */
bool page_lock_in(struct mapping *m, struct page *page) MUST_CHECK;
/*
 * Pages in no file, each with a reference, for bytes that are not to be copied twice: filled with
 * nothing held, they become a file's where it has none yet.  pages_unstage() gives those back that
 * are not NULL.
 */
int pages_stage(struct cache *cache, size_t count, struct page **ret_pages) MUST_CHECK;
void pages_unstage(struct page *const *pages, size_t count);
/*
 * Staged pages become [@first, ...) of @m: as many as there are places without a page in a row,
 * 0 included, and as memory allows; returns how many.  They are locked and not uptodate.  Requires
 * what page_grab() does.
 */
size_t pages_adopt(struct mapping *m, pgoff_t first, struct page *const *staged, size_t count);
/*
 * pages_grab() and page_lock_in() for the page @index.  Not uptodate: the caller fills it
 * (page_fill()) or writes all of it and says page_set_uptodate().  Waits for no I/O but that of
 * others who hold the page's lock; no rank from `page` on may be held but locks of earlier pages of
 * @m.
 */
int page_grab(struct mapping *m, pgoff_t index, struct page **ret_page) MUST_CHECK;
/* The same, but NULL if it is not in memory. */
struct page *page_grab_present(struct mapping *m, pgoff_t index);
void page_lock(struct page *page);
void page_unlock(struct page *page);
void page_unlock_put(struct page *page);
bool page_is_uptodate(struct page *page);
void page_set_uptodate(struct page *page); /* locked */
/*
 * Reads a locked page that is not uptodate.  After an error it is no page of @m any more: the
 * caller gives it up.
 */
int page_fill(struct mapping *m, struct page *page) MUST_CHECK;

/*
 * The bytes of a locked page change through these two only.  Who reads it with nothing but a
 * reference (file_read(), a write to the device) sees old or new bytes.
 */
void page_copy_in(struct page *page, size_t at, const void *from, size_t bytes);
void page_zero(struct page *page, size_t at, size_t bytes);

/*
 * Marks parts of locked pages of one file dirty; the only way pages become so.  They must be
 * uptodate when they are unlocked: so the caller marks them first, which may fail, and changes them
 * then.  The cache holds them, and their file, until they are clean.  -ENOMEM: none is marked that
 * was not before.  Never waits: throttling is cache_throttle()'s, before anything is locked.
 */
int pages_set_dirty(struct page *const *pages, const uint8_t *parts, size_t count) MUST_CHECK;
int page_set_dirty(struct page *page, uint8_t parts) MUST_CHECK;
bool page_is_dirty(struct page *page);
/* Stores come without a fault, so it stays dirty while it is written. */
bool page_is_pinned_for_stores(struct page *page);

/*
 * ---- pages of mapped files: frames.c -----------------------------------------------------------
 *
 * PTE stands for the entry of a page in some page table.
 *
 *  P1  A PTE exists only of a page that is in the index and uptodate (I14), and is made and
 *      protected under the page's lock.
 *  P2  A PTE is writable only while all parts of the page below the end of the file are dirty.  So
 *      who clears a dirty bit, or is about to raise the size, protects first (W2, S7, S11).
 *  P3  Bytes of a page are touched by the engine only while it is locked, or under writeback (M6).
 */

/* NULL: nobody maps the file, nor did since it came into memory. */
static inline struct frames *mapping_frames(struct mapping *m)
{
	return atomic_load_explicit(&m->frames, memory_order_acquire);
}
/*
 * From now on the pages of @m lie in @f, which it owns.  There are none: they were written and
 * dropped (M11).  Requires the inode's lock and `invalidate`, exclusive.
 */
void mapping_set_frames(struct mapping *m, struct frames *f);
/*
 * Before the size is raised: there is memory for @pages (M8).  The inode's lock exclusive; no rank
 * from `page` on but pages of @m.  Nothing to do if the file is not mapped.
 */
int mapping_extend_frames(struct mapping *m, pgoff_t pages) MUST_CHECK;
/* After it was lowered, or not raised after all; no page behind is in the index. */
void mapping_cut_frames(struct mapping *m, pgoff_t pages);
/* No PTE of these locked pages of one file is writable. */
void pages_protect(struct page *const *pages, size_t count);
void page_protect(struct page *page);
/*
 * The page @index if it is in memory: referenced and locked; uptodate or not.  @wait false: NULL
 * also if that would have to wait, *ret_busy tells.
 */
struct page *page_find_locked(struct mapping *m, pgoff_t index, bool wait, bool *ret_busy);
/* Something in [@first, @last] is pinned; and waiting, with nothing held, until nothing is (M5). */
bool mapping_is_pinned(struct mapping *m, pgoff_t first, pgoff_t last);
void mapping_wait_unpinned(struct mapping *m, pgoff_t first, pgoff_t last);
/* The one caller of each slot: see there. */
int page_mkwrite(struct page *page, uint32_t flags) MUST_CHECK;
bool mapping_retry_nospc(struct mapping *m, int err, unsigned *tries);
/*
 * Pages that are about to be pinned for stores, and stay dirty until then.  False: so many that
 * there would be too little room for what others make dirty.
 */
bool cache_take_pins(struct cache *cache, size_t pages) MUST_CHECK;
void cache_give_pins(struct cache *cache, size_t pages);
/*
 * Throws away up to @count clean pages of [@first, @last] that nobody references.  Starts no I/O.
 * Returns how many went.  Requires the inode's lock and `invalidate`, exclusive.
 */
size_t mapping_trim(struct mapping *m, pgoff_t first, pgoff_t last, size_t count);
/*
 * If memory is short: the same with all mapped files in turn, whose pages reclaim leaves alone.  By
 * everybody who is about to make pages of files.  Nothing held.
 */
void cache_trim_frames(struct cache *cache);
/*
 * Before one more file is mapped: some that nobody uses any more leave memory if there are many, as
 * each has a descriptor and addresses of the host.  Nothing held.
 */
void cache_evict_frames(struct cache *cache);

/*
 * ---- writeback: writeback.c --------------------------------------------------------------------
 */

/*
 * For ops->writepages().  References to up to @max dirty pages, ascending, the first of them at or
 * behind *@first and none behind @last; *@first is moved behind them.  0: there are no more.
 */
size_t mapping_find_dirty(struct mapping *m, pgoff_t *first, pgoff_t last, struct page **ret_pages,
			  size_t max);
/*
 * Locked dirty pages of one file, ascending, that are not under writeback: their entries are
 * write-protected, then they are clean and under writeback, then the caller may unlock them and
 * write their bytes.  Who changes them meanwhile makes them dirty again.  @ret_parts: what was
 * dirty of each.
 */
void pages_start_writeback(struct page *const *pages, uint8_t *ret_parts, size_t count);
/*
 * The end of it for pages of one file.  @err < 0: @parts of each are dirty again, and the error is
 * remembered for fsync, once per call of this.  Wakes who waits.  The caller holds the file, and no
 * rank from `page` on.
 */
void pages_end_writeback(struct page *const *pages, const uint8_t *parts, size_t count, int err);
bool page_is_writeback(struct page *page);
/* Waits until a referenced page is not under writeback; no rank from `writeback` on is held. */
void page_wait_writeback(struct page *page);

/*
 * Writes what is dirty in [@first, @last] and waits for it, also where others write it.  The first
 * error.  The caller holds the file, and no rank from `commit` on.
 */
int mapping_flush(struct mapping *m, pgoff_t first, pgoff_t last) MUST_CHECK;
/*
 * Throws the pages [@first, @last] away, dirty or not, after waiting for their writeback.  Requires
 * that nobody makes pages there meanwhile: `invalidate` exclusive, and the inode's lock or nobody
 * else; no rank from `writeback` on.
 */
void mapping_drop(struct mapping *m, pgoff_t first, pgoff_t last);
/* Something is dirty or under writeback; only a hint while others are inside. */
bool mapping_is_dirty(struct mapping *m);
/* The same of [@first, @last]. */
bool mapping_has_dirty(struct mapping *m, pgoff_t first, pgoff_t last);
/*
 * Has writeback failed since *@seen?  The error, and *@seen moves on, so each holder hears it once.
 */
int mapping_error(struct mapping *m, uint64_t *seen) MUST_CHECK;
/* What *@seen of a new holder starts with: he is not told of what happened before. */
uint64_t mapping_error_now(struct mapping *m);

/*
 * The flusher: a thread that writes what has been dirty for long, or, when more than half of
 * @dirty_max_bytes is dirty, the oldest of it.  0: half of the cache; never more than three
 * quarters of it.  Without a flusher nothing is written by itself and writers never wait.
 */
int cache_start_flusher(struct cache *cache, uint64_t dirty_max_bytes) MUST_CHECK;
/* Ends it.  What is dirty stays so.  Nothing may be held. */
void cache_stop_flusher(struct cache *cache);
/* Too much is dirty, so cache_throttle() would wait. */
bool cache_is_throttled(struct cache *cache);
/*
 * Waits while too much is dirty; nothing may be held.  An error: so much of what is dirty could not
 * be written that there is no room for more.
 */
int cache_throttle(struct cache *cache) MUST_CHECK;
/* mapping_flush() of every file that was dirty when it was called.  The first error. */
int cache_flush(struct cache *cache) MUST_CHECK;
/*
 * Throws away what is dirty of all files, which can never be written any more: after an abort, when
 * closing.  Calls `drop` and `release` as ever.
 */
void cache_drop_dirty(struct cache *cache);

#endif
