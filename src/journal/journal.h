/* SPDX-License-Identifier: MIT */
/*
 * jbd2, for recovery: scan, revoke, replay.
 *
 * Knows blocks of a journal and blocks of a device, not inodes: where the journal lies is told as
 * runs of blocks.  Writes go to a target device that the caller chose; for a reader that is an
 * overlay in memory, which is asked to read the copies where they lie (dev_redirect()).  Fast
 * commits are found, checked and handed out here; what they mean is the file system's business
 * (fs/fastcommit.c).
 *
 *  J8  Recovery is idempotent: run again on what it left behind it gives the same blocks.
 */
#ifndef JOURNAL_JOURNAL_H
#define JOURNAL_JOURNAL_H

#include "base/base.h"
#include "dev/dev.h"
#include "disk/format.h"

/* Blocks [logical, logical + count) of the journal lie at physical on its device. */
struct journal_run {
	lblk_t logical;
	uint32_t count;
	blk_t physical;
};

struct journal;

/* What lies in the journal, from its superblock. */
struct journal_info {
	uint32_t blocks;      /* s_maxlen */
	uint32_t fast_blocks; /* of these, for fast commits */
	uint32_t start;	      /* s_start; 0: nothing to recover */
	uint32_t sequence;
	uint8_t checksum; /* 0, 1, 2, 3 */
};

/*
 * Reads and verifies the journal's superblock.  @runs (copied) cover it from logical block 0, in
 * order. In an external journal, blocks are numbered as on its device, but the superblock is said
 * to be block 0: runs { 0, 1, its block }, { 1, all further, 1 }.  -EOPNOTSUPP: an unknown feature,
 * named; -EFSBADCRC, -EFSCORRUPTED.  One thread at a time may use a journal.
 */
int journal_open(struct dev *dev, const struct journal_run *runs, size_t run_count,
		 uint32_t block_size, struct journal **ret_journal) MUST_CHECK;
void journal_close(struct journal *j); /* NULL is fine; @dev stays the caller's */
void journal_get_info(const struct journal *j, struct journal_info *ret_info);

struct journal_recovery {
	uint32_t transactions;
	uint32_t blocks; /* written to the target */
	uint32_t revokes;
	uint32_t next_tid; /* the transaction that would have come next */
};

/*
 * Replays every whole transaction to @target, whose blocks are numbered up to @target_blocks.
 * Stops without error at the first block that does not belong to a committed transaction, as after
 * any crash.  -EFSBADCRC: a transaction whose checksum does not fit has a commit block that is no
 * left-over of an earlier lap (by its time), so this is damage; nothing was written, unless it is
 * the copy of a block that is damaged.  -EFSCORRUPTED: a transaction writes outside of
 * @target_blocks.
 */
int journal_recover(struct journal *j, struct dev *target, blk_t target_blocks,
		    struct journal_recovery *ret) MUST_CHECK;

/*
 * After a recovery to the device itself, which was flushed: the log is empty, the next transaction
 * is @next_tid.  Writes and flushes the journal's superblock.  Idempotent (J8).
 */
int journal_mark_empty(struct journal *j, uint32_t next_tid) MUST_CHECK;
/*
 * The file system says that it needs none of the log: what is in it all the same is thrown away,
 * as the kernel and e2fsck do.  Nothing is written where there is nothing.
 */
int journal_discard(struct journal *j) MUST_CHECK;

/*
 * The fast commits that follow transaction @next_tid - 1, as one row of tags: *ret_tags
 * (mem_free()) holds *ret_bytes of (struct ext4_fc_tl, value) of all complete fast commits in
 * order, HEAD, TAIL and PAD left out; *ret_commits counts them.  0 bytes if there are none.
 */
int journal_fast_commits(struct journal *j, uint32_t next_tid, uint8_t **ret_tags,
			 size_t *ret_bytes, uint32_t *ret_commits) MUST_CHECK;

#endif
