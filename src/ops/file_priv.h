/* SPDX-License-Identifier: MIT */
/*
 * What the files of ops/ that know the contents of regular files share.
 */
#ifndef OPS_FILE_PRIV_H
#define OPS_FILE_PRIV_H

#include "ops/ops.h"

#include "fs/xattr.h"

/* ---- where the contents are: file.c ---------------------------------------------------------- */

/* At one moment. */
struct file_shape {
	enum inode_state state;
	uint64_t size;
};

struct file_shape file_shape(struct inode *ip);

/* The largest size the file can have, as it is or, if it has no map yet, as it will be. */
uint64_t file_size_max(struct inode *ip);

/* Data goes through the log: the newest bytes of a block may be in a buffer. */
static inline bool file_is_journalled(const struct inode *ip)
{
	return ip->fs->data_mode == FS_DATA_JOURNAL;
}

/* ---- parts of pages -------------------------------------------------------------------------- */

/* How many parts of a page have one fate: those of a block, or all. */
static inline unsigned parts_per_block(const struct geom *g)
{
	return (unsigned)min_u64(g->block_size, PAGE_BYTES) >> PAGE_PART_BITS;
}

/* The parts of a page that hold its bytes [@from, @to), from < to; whole blocks. */
static inline uint8_t parts_of(const struct geom *g, size_t from, size_t to)
{
	unsigned step = parts_per_block(g), first, end;

	first = (unsigned)(from >> PAGE_PART_BITS) / step * step;
	end = ((unsigned)((to - 1) >> PAGE_PART_BITS) / step + 1) * step;
	return (uint8_t)((1u << end) - (1u << first));
}

/* The block that holds part @part of page @index. */
static inline uint64_t part_block(const struct geom *g, pgoff_t index, unsigned part)
{
	return ((index << PAGE_BITS) + (part << PAGE_PART_BITS)) >> g->block_bits;
}

/* ---- promises to data that has no place yet: delayed.c --------------------------------------- */

/*
 * A block is one or several parts of one page, and a cluster: page.reserved says all there is to
 * say.  Otherwise several pages share a promise, which ip->delayed counts.
 */
static inline bool delayed_is_simple(const struct geom *g)
{
	return g->block_size <= PAGE_BYTES && g->cluster_ratio == 1;
}

/*
 * Promises places to those of parts[] of locked pages that have none: sets page.reserved of the
 * first *ret_done pages.  -ENOSPC, -EDQUOT only if there is nothing for the first of them.
 * Requires the inode's lock exclusive or, from a fault, `invalidate` shared; and the state BLOCKS.
 */
int delayed_reserve(struct inode *ip, struct page *const *pages, const uint8_t *parts, size_t count,
		    bool root, size_t *ret_done) MUST_CHECK;
/* Have @parts of a locked page their places or promises?  Takes and waits as delayed_reserve(). */
bool delayed_has_place(struct inode *ip, const struct page *page, uint8_t parts);
/* Takes promises back: @parts of a locked page are not going to be written. */
void delayed_drop(struct inode *ip, struct page *page, uint8_t parts);
/* @parts of a locked page have a place now: their promises were used up. */
void delayed_done(struct inode *ip, struct page *page, uint8_t parts);

/* Blocks that were promised are the file's, and charged for. */
void delayed_used(struct inode *ip, uint64_t blocks);
/* Right before a block map gets blocks for a locked page: what was promised for its own. */
void delayed_release_map(struct inode *ip, struct page *page);

/*
 * Of those that share promises.  Is one kept for the cluster of @logical?  And: allocation has used
 * those of the @blocks from @logical on up, or gave them back.
 */
bool delayed_is_promised(struct inode *ip, lblk_t logical);
void delayed_set_promised(struct inode *ip, lblk_t logical, uint32_t blocks, bool promised);

/* ---- data inside the inode: file_inline.c ---------------------------------------------------- */

/*
 * All but inline_flush() require the inode's lock exclusive: state and capacity change under it
 * only, so what was decided stays so until it is given up.
 */

/*
 * Before [0, @end) is written to: an EMPTY or INLINE file becomes INLINE with room for so many
 * bytes, or BLOCKS.  -ENOSPC, -EDQUOT: it would have to become BLOCKS and there is no room for what
 * it holds; nothing has changed.
 */
int inline_prepare(struct inode *ip, uint64_t end, bool root) MUST_CHECK;
/* EMPTY or INLINE -> BLOCKS.  The same errors. */
int inline_convert(struct inode *ip, bool root) MUST_CHECK;
/*
 * Writes @bytes of @from at @offset of an INLINE file that was prepared for it, the gap behind the
 * old size is zeros.
 */
int inline_write(struct inode *ip, struct page *const *from, size_t skip, size_t bytes,
		 uint64_t offset) MUST_CHECK;
/* The size of an INLINE file, both ways; growing it was prepared for. */
int inline_set_size(struct inode *ip, uint64_t size) MUST_CHECK;
/*
 * Writeback of an INLINE file.  *ret_done false: it is not INLINE any more, nothing was done.
 * @wait as for writepages().  No rank from `commit` on.
 */
int inline_flush(struct inode *ip, bool wait, bool *ret_done) MUST_CHECK;

/* ---- writing: file_write.c ------------------------------------------------------------------- */

/*
 * Zeros in memory from byte @at, where the file ends or is going to end, to the end of its block,
 * or of its page too; what of it has a place on disk is dirty afterwards: *ret_dirty.  BLOCKS;
 * requires the inode's lock exclusive.
 */
enum file_tail { FILE_TAIL_BLOCK, FILE_TAIL_PAGE };
int file_zero_tail(struct inode *ip, uint64_t at, enum file_tail tail, bool *ret_dirty) MUST_CHECK;
/*
 * Bytes [@at, @end) of one page, whole blocks, are zeros in memory, and what was to be written of
 * them is not, as their blocks go.  Requires `invalidate` exclusive.
 */
void file_forget(struct inode *ip, uint64_t at, uint64_t end);
/* What a change of the contents takes away: capabilities, from @unprivileged setuid and setgid. */
int file_drop_privileges(struct inode *ip, bool unprivileged) MUST_CHECK;
/* Makes a page that was grabbed uptodate; after an error it was given up. */
int file_page_read(struct inode *ip, struct page *page) MUST_CHECK;

/* The page @index, locked, not under writeback. */
int file_grab_idle(struct inode *ip, pgoff_t index, struct page **ret_page) MUST_CHECK;

/* ---- sizes: truncate.c; all require the inode's lock exclusive ------------------------------- */

int file_check_size(struct inode *ip, uint64_t size) MUST_CHECK; /* -EFBIG */
/* A file in BLOCKS grows by zeros. */
int file_grow(struct inode *ip, uint64_t size) MUST_CHECK;
/* Before dirty pages are thrown away: nobody else may be left to raise the size on disk. */
int file_settle_size(struct inode *ip) MUST_CHECK;
/*
 * T4 of truncate.c, before a neighbour in the cluster of byte @at is freed: writes the data in
 * memory that lies in this cluster below @at, or with @behind from it on.
 */
int file_flush_cluster(struct inode *ip, uint64_t at, bool behind) MUST_CHECK;
/*
 * Blocks that a truncation which failed left behind the end go before anything else is put there.
 */
int file_finish_cut(struct inode *ip) MUST_CHECK;
/* Only the times, which are stored some time. */
void file_touch(struct inode *ip);

/* mapping_ops.mkwrite, retry_nospc: mkwrite.c */
int file_mkwrite(struct mapping *m, struct page *page, uint32_t flags) MUST_CHECK;
bool file_mkwrite_retry(struct mapping *m, int err, unsigned *tries);
/*
 * Before the size of a file in BLOCKS is raised to @size, and not only by what is written then: of
 * a page that is pinned for stores, into which they come without mkwrite, the rest is dirty too
 * (P2).  `invalidate` exclusive.
 */
int file_grow_pinned(struct inode *ip, uint64_t size) MUST_CHECK;
/*
 * The end of every call that may have changed the size, or tried to: a mapped file has memory up to
 * its end and not behind it (M8).  The inode's lock exclusive.
 */
int file_fit_frames(struct inode *ip) MUST_CHECK;
/* mapping_ops.writepages */
int file_writepages(struct mapping *m, pgoff_t first, pgoff_t last, bool wait) MUST_CHECK;
/* mapping_ops.writepages_together */
int file_writepages_together(struct mapping *const *ms, size_t count) MUST_CHECK;

/* ---- the size on disk: writeback.c ----------------------------------------------------------- */

#define FILE_SIZE_CREDITS (INODE_STORE_CREDITS + 1u)
/* Sets the superblock's large_file if a file of @size needs it. 1 credit. */
int file_need_large(struct handle *h, struct inode *ip, uint64_t size) MUST_CHECK;

/* ---- what fsync has to know: fsync.c --------------------------------------------------------- */

/* Bytes were written in place, and no transaction makes them durable. */
void file_data_written(struct inode *ip);
/*
 * After -ENOSPC, with nothing held: is it worth trying again?  Writes what holds more promises than
 * it needs, and commits if that frees something.
 */
bool file_retry_nospc(struct inode *ip, int err, unsigned *tries);

#endif
