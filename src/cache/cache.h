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
	uint64_t bytes; /* held now */
};

/*
 * @budget bytes for buffers and pages together; at least 1 MiB is used.  @dev stays the caller's.
 */
int cache_create(struct dev *dev, uint64_t budget, struct cache **ret_cache) MUST_CHECK;
void cache_destroy(struct cache *cache); /* everything must have been put; NULL is fine */
void cache_get_stats(struct cache *cache, struct cache_stats *ret_stats);

/* ---- buffers --------------------------------------------------------------------------------- */

/*
 * How one kind of metadata block is recognised.  verify() gets the block as read and what
 * buf_read() was given: 0, or an error with text (corrupt(), bad_checksum()).  It may not block or
 * take locks.
 */
struct buf_ops {
	const char *name; /* "extent block" */
	int (*verify)(const void *data, uint32_t bytes, blk_t blk, const void *arg);
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

/* shared; where the writing engine attaches: `dirty` and `writeback` are further bits of state */
struct page {
	_Atomic uint32_t state; /* a: lock bit, uptodate, how recently it was asked for */
	_Atomic uint32_t refs;	/* a */
	pgoff_t index;		/* i>0: its place in the file */
	uint8_t *data;		/* c: PAGE_BYTES; stable while locked */
	/* changed under the mapping's lock, exclusive: in whose index it is; NULL once it left */
	_Atomic(struct mapping *) mapping;
	struct slab *slab; /* c */
	int error;	   /* page lock: of the read that failed */
};

/*
 * Upcalls of a file's pages, filled in ops/.
 *
 * fill: read the bytes of @count neighbouring pages, ascending, all locked and not uptodate, into
 * their data; what lies behind the end of the file is zeroed.  Called with `invalidate` held shared
 * and no rank above `page`.  All or nothing.
 */
struct mapping_ops {
	int (*fill)(struct mapping *m, struct page *const *pages, size_t count);
};

/* shared: all pages of one file; embedded in the inode */
struct mapping {
	struct rwlock lock; /* RANK_mapping */
	struct xarray pages GUARDED(&lock);
	bool used GUARDED(&lock);      /* it has had pages */
	const struct mapping_ops *ops; /* c */
	struct cache *cache;	       /* c */
};

void mapping_init(struct mapping *m, struct cache *cache, const struct mapping_ops *ops);
/* Evicts all its pages, none of which may be referenced. */
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

#endif
