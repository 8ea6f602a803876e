/* SPDX-License-Identifier: MIT */
/* What journal.c and recover.c share: an open journal and the way to its blocks. */
#ifndef JOURNAL_JOURNAL_PRIV_H
#define JOURNAL_JOURNAL_PRIV_H

#include "journal/journal.h"

enum journal_checksum { JOURNAL_CSUM_NONE, JOURNAL_CSUM_V1, JOURNAL_CSUM_V2, JOURNAL_CSUM_V3 };

/*
 * Used by one thread at a time.  The log proper is a ring in [first, last); behind it, with
 * fast_commit, one block stays unused and the fast commits lie in [fast_first, maxlen).
 */
struct journal {
	struct dev *dev;		/* c: the caller's */
	struct journal_run *runs;	/* c: they cover [0, maxlen) */
	size_t run_count;		/* c */
	uint32_t block_size;		/* c */
	uint32_t maxlen;		/* c */
	uint32_t first, last;		/* c: first < last <= maxlen */
	uint32_t fast_first;		/* c: maxlen if there is no fast-commit area */
	uint32_t start;			/* c: where the log begins, 0: it is empty */
	uint32_t sequence;		/* c: of the transaction at start */
	uint32_t csum_seed;		/* c: V2 and V3 */
	uint32_t tag_bytes;		/* c: of a tag in a descriptor block, without uuid */
	enum journal_checksum checksum; /* c */
	bool wide;			/* c: block numbers of 64 bits */
	bool async_commit;		/* c */

	/* c while nobody writes: the block that holds the superblock, as it lies on disk */
	uint8_t *super;

	uint8_t *window; /* blocks [window_first, window_first + window_count) of the journal */
	uint32_t window_first, window_count, window_max;
};

/*
 * Block @index of the journal, which is valid until the next call.  -EFSCORRUPTED if there is no
 * such block.  Reads ahead, as nearly everybody goes forward.
 */
int journal_block(struct journal *j, uint32_t index, const uint8_t **ret_data) MUST_CHECK;

/* Where block @index < maxlen lies on the journal's device, in bytes. */
uint64_t journal_place(const struct journal *j, uint32_t index);

static inline struct journal_superblock_s *journal_super(const struct journal *j)
{
	return (struct journal_superblock_s *)(void *)j->super;
}

/*
 * Writes the superblock, all its other fields as they were, so that the log begins at block @start
 * with transaction @sequence; @start 0: it is empty.  Does not flush.
 */
int journal_write_super(struct journal *j, uint32_t start, uint32_t sequence) MUST_CHECK;

/*
 * In memory only, for an empty log that is about to be written: revokes, and nothing that we do not
 * keep (ASYNC_COMMIT); @wide, @csum: block numbers of 64 bits, CSUM_V3.
 */
void journal_set_features(struct journal *j, bool wide, bool csum);

/* crc32c() over @bytes zeros. */
uint32_t journal_crc_zeros(uint32_t sum, size_t bytes);

static inline bool journal_has_block_csum(const struct journal *j)
{
	return j->checksum == JOURNAL_CSUM_V2 || j->checksum == JOURNAL_CSUM_V3;
}

#endif
