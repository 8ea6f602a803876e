/* SPDX-License-Identifier: MIT */
/*
 * Recovery of a journal: scan, revoke, replay.
 *
 * The log is a ring of transactions with ascending numbers.  A transaction is a row of control
 * blocks, a commit block last; behind a descriptor block lie the copies it describes.  Copies are
 * told from control blocks by counting only, for which reason they never begin with the magic
 * number (JBD2_FLAG_ESCAPE).
 *
 *     start                                                                        wraps at last
 *     | desc copy copy copy | revoke | desc copy | commit || desc copy | commit || (old blocks)
 *     '---------------- sequence ------------------------''---- sequence + 1 --'
 *
 * Scan walks from start until a block is not what must come next, and notes the control blocks of
 * every committed transaction.  Revoke reads the revoke blocks among these, replay the descriptors.
 *
 *  JR1  Nothing is written before scan and revoke have judged the whole log.
 *  JR2  No path through the log is longer than the log: scan ends when it has come around.
 *  JR3  A block is written only if its copy carries the right checksum (with CSUM_V2 and V3) and
 *       its number is below target_blocks.
 *  JR4  What is written depends on the log alone, so that writing it again changes nothing (J8).
 */
#include "journal/journal_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "base/sum.h"

#include <stdlib.h>

#define COMMIT_CRC32_BYTES 4u /* h_chksum_size of JBD2_CRC32_CHKSUM */

/* A descriptor or revoke block. */
struct control {
	uint32_t index; /* block of the journal */
	uint32_t type;
	uint32_t age; /* transaction, counted from that at the start: numbers wrap, ages do not */
};

struct revoke {
	uint64_t blk;
	uint32_t age; /* copies in this and earlier transactions are void */
};

struct recovery {
	struct journal *j;
	struct dev *target;
	blk_t target_blocks;
	uint8_t *block; /* the control block at hand, then room for a copy: the window moves on */

	struct control *controls; /* the first `committed` belong to committed transactions */
	size_t controls_count, controls_capacity, committed;
	struct revoke *revokes; /* sorted by block, one each, when read */
	size_t revokes_count, revokes_capacity;

	/* scan */
	uint32_t pos;		 /* next block of the log */
	uint32_t left;		 /* blocks not walked over yet (JR2) */
	uint32_t age;		 /* of the transaction being walked over */
	uint32_t committed_ages; /* transactions below it are whole */
	uint32_t crc;		 /* V1: over descriptors and copies of this transaction */
	uint64_t commit_sec;	 /* of the last good commit block */
	bool suspect;		 /* a control block of this transaction has a wrong checksum */
	bool torn;		 /* ASYNC_COMMIT: the transaction before has */
	bool ended;

	uint32_t blocks_written, revokes_read;
};

/* ---- checksums ------------------------------------------------------------------------------- */

uint32_t journal_crc_zeros(uint32_t sum, size_t bytes)
{
	static const uint8_t zeros[64];

	for (size_t n; bytes > 0; bytes -= n) {
		n = min_size(bytes, sizeof(zeros));
		sum = crc32c(sum, zeros, n);
	}
	return sum;
}

/* Of a descriptor or revoke block. */
static bool tail_fits(const struct journal *j, const uint8_t *data)
{
	const size_t at = j->block_size - sizeof(struct jbd2_journal_block_tail);
	struct jbd2_journal_block_tail tail;

	if (!journal_has_block_csum(j))
		return true;
	memcpy(&tail, data + at, sizeof(tail));
	return be32_get(tail.t_checksum) ==
	       journal_crc_zeros(crc32c(j->csum_seed, data, at), sizeof(tail));
}

/*
 * A commit block of V2 or V3.  The device may have written its first sector only, which holds all
 * that counts; the rest was zero when the sum was made.
 */
static bool commit_fits(const struct journal *j, const uint8_t *data)
{
	const size_t at = offsetof(struct commit_header, h_chksum);
	const size_t behind = at + sizeof(be32), header = sizeof(struct commit_header);
	struct commit_header commit;
	uint32_t sum;

	memcpy(&commit, data, sizeof(commit));
	sum = journal_crc_zeros(crc32c(j->csum_seed, data, at), sizeof(be32));
	sum = crc32c(sum, data + behind, header - behind);
	return be32_get(commit.h_chksum[0]) == crc32c(sum, data + header, j->block_size - header) ||
	       be32_get(commit.h_chksum[0]) == journal_crc_zeros(sum, j->block_size - header);
}

/* A commit block of V1, whose sum @crc goes over the transaction; all zero: made without. */
static bool commit_fits_v1(const struct commit_header *commit, uint32_t crc)
{
	uint32_t sum = be32_get(commit->h_chksum[0]);

	if (commit->h_chksum_type == 0 && commit->h_chksum_size == 0)
		return sum == 0;
	return commit->h_chksum_type == JBD2_CRC32_CHKSUM &&
	       commit->h_chksum_size == COMMIT_CRC32_BYTES && sum == crc;
}

/* ---- descriptor blocks ----------------------------------------------------------------------- */

struct tag {
	uint64_t blk;
	uint32_t flags;
	uint32_t checksum; /* of which V2 keeps 16 bits */
};

struct tag_iter {
	const uint8_t *data;
	size_t at, end;
	bool last;
};

static struct tag_iter tags_of(const struct journal *j, const uint8_t *data)
{
	struct tag_iter it = { .data = data, .at = sizeof(struct journal_header_s) };

	it.end = j->block_size;
	if (journal_has_block_csum(j))
		it.end -= sizeof(struct jbd2_journal_block_tail);
	return it;
}

/* False behind the last one.  Never leaves the block, whatever the tags say. */
static bool tag_next(const struct journal *j, struct tag_iter *it, struct tag *ret_tag)
{
	be32 high = { 0 };

	if (it->last || it->at + j->tag_bytes > it->end)
		return false;
	if (j->checksum == JOURNAL_CSUM_V3) {
		struct journal_block_tag3_s tag;

		memcpy(&tag, it->data + it->at, sizeof(tag));
		ret_tag->flags = be32_get(tag.t_flags);
		ret_tag->checksum = be32_get(tag.t_checksum);
		ret_tag->blk = be32_get(tag.t_blocknr);
		high = tag.t_blocknr_high;
	} else {
		struct journal_block_tag_s tag = { .t_blocknr_high = high };

		memcpy(&tag, it->data + it->at, min_size(j->tag_bytes, sizeof(tag)));
		ret_tag->flags = be16_get(tag.t_flags);
		ret_tag->checksum = be16_get(tag.t_checksum);
		ret_tag->blk = be32_get(tag.t_blocknr);
		high = tag.t_blocknr_high;
	}
	if (j->wide)
		ret_tag->blk |= (uint64_t)be32_get(high) << 32;
	it->at += j->tag_bytes;
	if (!(ret_tag->flags & JBD2_FLAG_SAME_UUID))
		it->at += 16;
	it->last = ret_tag->flags & JBD2_FLAG_LAST_TAG;
	return true;
}

static uint32_t count_tags(const struct journal *j, const uint8_t *data)
{
	struct tag_iter it = tags_of(j, data);
	struct tag tag;
	uint32_t count = 0;

	while (tag_next(j, &it, &tag))
		count++;
	return count;
}

/* Of the copy of a block, as it lies in the log. */
static bool copy_fits(const struct journal *j, const struct tag *tag, uint32_t tid,
		      const uint8_t *data)
{
	be32 sequence = be32_make(tid);
	uint32_t sum;

	if (!journal_has_block_csum(j))
		return true;
	sum = crc32c(j->csum_seed, &sequence, sizeof(sequence));
	sum = crc32c(sum, data, j->block_size);
	return tag->checksum == (j->checksum == JOURNAL_CSUM_V3 ? sum : (sum & 0xFFFFu));
}

/* ---- scan ------------------------------------------------------------------------------------ */

static uint32_t tid_of(const struct recovery *r, uint32_t age)
{
	return r->j->sequence + age;
}

static uint32_t log_wrap(const struct journal *j, uint64_t pos)
{
	return (uint32_t)(pos >= j->last ? pos - (j->last - j->first) : pos);
}

/* Steps over @count blocks, or ends the scan where the log has been walked around. */
static bool scan_step(struct recovery *r, uint32_t count)
{
	if (count > r->left) {
		r->ended = true;
		return false;
	}
	r->left -= count;
	r->pos = log_wrap(r->j, (uint64_t)r->pos + count);
	return true;
}

static int note_control(struct recovery *r, uint32_t index, uint32_t type)
{
	if (r->controls_count == r->controls_capacity) {
		size_t capacity = max_u64(2 * r->controls_capacity, 256);
		struct control *controls = mem_realloc(r->controls, capacity * sizeof(*controls));

		if (controls == NULL)
			return -ENOMEM;
		r->controls = controls;
		r->controls_capacity = capacity;
	}
	r->controls[r->controls_count++] =
		(struct control){ .index = index, .type = type, .age = r->age };
	return 0;
}

static int scan_descriptor(struct recovery *r, uint32_t index, const uint8_t *data)
{
	struct journal *j = r->j;
	uint32_t count = count_tags(j, data), at = r->pos;
	int err;

	if (!tail_fits(j, data))
		r->suspect = true;
	if (j->checksum == JOURNAL_CSUM_V1)
		r->crc = crc32_be(r->crc, data, j->block_size);
	if (!scan_step(r, count))
		return 0;
	for (uint32_t i = 0; i < count && j->checksum == JOURNAL_CSUM_V1; i++) {
		err = journal_block(j, log_wrap(j, (uint64_t)at + i), &data);
		if (err < 0)
			return err;
		r->crc = crc32_be(r->crc, data, j->block_size);
	}
	return note_control(r, index, JBD2_DESCRIPTOR_BLOCK);
}

/*
 * A commit block.  What is wrong in front of it is either damage or a left-over of an earlier lap
 * that happens to bear the awaited number (a journal that was reset begins its numbers anew).  The
 * time tells: a left-over is older than the commit before it.  With ASYNC_COMMIT the commit block
 * may reach the disk before what it commits, and a sum that does not fit is an interrupted commit,
 * if no other commit follows.
 */
static int scan_commit(struct recovery *r, const uint8_t *data)
{
	struct journal *j = r->j;
	struct commit_header commit;
	uint64_t sec;
	bool fits = !r->suspect && !r->torn;

	memcpy(&commit, data, sizeof(commit));
	sec = be64_get(commit.h_commit_sec);
	if (fits && j->checksum == JOURNAL_CSUM_V1)
		fits = commit_fits_v1(&commit, r->crc);
	else if (fits && journal_has_block_csum(j))
		fits = commit_fits(j, data);
	if (!fits) {
		if (sec < r->commit_sec) {
			r->ended = true;
			return 0;
		}
		if (r->suspect || r->torn || !j->async_commit)
			return bad_checksum("journal: transaction %u is damaged",
					    tid_of(r, r->committed_ages));
		r->torn = true;
		r->age++;
		return 0;
	}
	r->committed = r->controls_count;
	r->committed_ages = ++r->age;
	r->commit_sec = sec;
	r->crc = ~0u;
	return 0;
}

static int scan_block(struct recovery *r)
{
	struct journal_header_s header;
	uint32_t index = r->pos;
	const uint8_t *data;
	int err;

	err = journal_block(r->j, index, &data);
	if (err < 0)
		return err;
	memcpy(&header, data, sizeof(header));
	if (be32_get(header.h_magic) != JBD2_MAGIC_NUMBER ||
	    be32_get(header.h_sequence) != tid_of(r, r->age) || !scan_step(r, 1)) {
		r->ended = true;
		return 0;
	}
	switch (be32_get(header.h_blocktype)) {
	case JBD2_DESCRIPTOR_BLOCK: return scan_descriptor(r, index, data);
	case JBD2_REVOKE_BLOCK:
		if (!tail_fits(r->j, data))
			r->suspect = true;
		return note_control(r, index, JBD2_REVOKE_BLOCK);
	case JBD2_COMMIT_BLOCK: return scan_commit(r, data);
	default: r->ended = true; return 0;
	}
}

static int scan(struct recovery *r)
{
	int err = 0;

	r->pos = r->j->start;
	r->left = r->j->last - r->j->first;
	r->crc = ~0u;
	while (err == 0 && !r->ended)
		err = scan_block(r);
	return err;
}

/* ---- revoke and replay ----------------------------------------------------------------------- */

/* Reads a control block again into r->block.  What scan saw there must still be there. */
static int reread(struct recovery *r, const struct control *control)
{
	struct journal_header_s header;
	const uint8_t *data;
	int err;

	err = journal_block(r->j, control->index, &data);
	if (err < 0)
		return err;
	memcpy(&header, data, sizeof(header));
	if (be32_get(header.h_magic) != JBD2_MAGIC_NUMBER ||
	    be32_get(header.h_blocktype) != control->type ||
	    be32_get(header.h_sequence) != tid_of(r, control->age) || !tail_fits(r->j, data))
		return fail(-EIO, "journal block %u changes while it is read", control->index);
	memcpy(r->block, data, r->j->block_size);
	return 0;
}

static int compare_revokes(const void *a, const void *b)
{
	const struct revoke *x = a, *y = b;

	if (x->blk != y->blk)
		return x->blk < y->blk ? -1 : 1;
	return x->age < y->age ? -1 : x->age > y->age;
}

/* Sorted, and of each block the youngest only, as it covers what the others do. */
static void sort_revokes(struct recovery *r)
{
	size_t kept = 0;

	if (r->revokes_count == 0)
		return;
	qsort(r->revokes, r->revokes_count, sizeof(*r->revokes), compare_revokes);
	for (size_t i = 1; i < r->revokes_count; i++) {
		if (r->revokes[i].blk != r->revokes[kept].blk)
			kept++;
		r->revokes[kept] = r->revokes[i];
	}
	r->revokes_count = kept + 1;
}

/*
 * Makes room for one more.  A block may be revoked over and over, so repetitions are dropped first;
 * it grows unless that left half of it free, or sorting would be all it does.
 */
static int reserve_revoke(struct recovery *r)
{
	struct revoke *revokes;
	size_t capacity;

	if (r->revokes_count < r->revokes_capacity)
		return 0;
	sort_revokes(r);
	if (r->revokes_count < r->revokes_capacity / 2)
		return 0;
	capacity = max_u64(2 * r->revokes_capacity, 256);
	revokes = mem_realloc(r->revokes, capacity * sizeof(*revokes));
	if (revokes == NULL)
		return -ENOMEM;
	r->revokes = revokes;
	r->revokes_capacity = capacity;
	return 0;
}

static int note_revoke(struct recovery *r, uint64_t blk, uint32_t age)
{
	int err = reserve_revoke(r);

	if (err < 0)
		return err;
	r->revokes[r->revokes_count++] = (struct revoke){ .blk = blk, .age = age };
	return 0;
}

static int read_revokes(struct recovery *r, const struct control *control)
{
	const size_t bytes = r->j->wide ? sizeof(be64) : sizeof(be32);
	struct jbd2_journal_revoke_header_s header;
	size_t end, limit = r->j->block_size;
	int err;

	err = reread(r, control);
	if (err < 0)
		return err;
	if (journal_has_block_csum(r->j))
		limit -= sizeof(struct jbd2_journal_block_tail);
	memcpy(&header, r->block, sizeof(header));
	end = be32_get(header.r_count);
	if (end > limit)
		return corrupt("journal block %u: %zu bytes of revoked blocks", control->index,
			       end);
	for (size_t at = sizeof(header); at + bytes <= end; at += bytes) {
		be32 half[2];
		uint64_t blk;

		memcpy(half, r->block + at, bytes);
		blk = be32_get(half[0]);
		if (r->j->wide)
			blk = blk << 32 | be32_get(half[1]);
		err = note_revoke(r, blk, control->age);
		if (err < 0)
			return err;
		r->revokes_read++;
	}
	return 0;
}

/* Is a copy of @blk made in transaction @age void? */
static bool is_revoked(const struct recovery *r, uint64_t blk, uint32_t age)
{
	size_t low = 0, high = r->revokes_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (r->revokes[mid].blk < blk)
			low = mid + 1;
		else
			high = mid;
	}
	return low < r->revokes_count && r->revokes[low].blk == blk && age <= r->revokes[low].age;
}

/*
 * Has the target take the block from the copy at @index, if it can and the block is just that;
 * else writes @data.
 */
static int put_block(struct recovery *r, const struct tag *tag, uint32_t index, const uint8_t *data)
{
	struct journal *j = r->j;
	uint64_t offset = tag->blk * j->block_size;
	int err = -EOPNOTSUPP;

	if (!(tag->flags & JBD2_FLAG_ESCAPE))
		err = dev_redirect(r->target, offset, j->dev, journal_place(j, index),
				   j->block_size);
	if (err == -EOPNOTSUPP)
		err = dev_write(r->target, offset, data, j->block_size);
	return err;
}

static int replay_copy(struct recovery *r, const struct tag *tag, uint32_t age, uint32_t index)
{
	const be32 magic = be32_make(JBD2_MAGIC_NUMBER);
	struct journal *j = r->j;
	const uint8_t *data;
	int err;

	/*
	 * First, as the block may since have become data of any kind, or lie behind a shrunken end.
	 */
	if (is_revoked(r, tag->blk, age))
		return 0;
	if (tag->blk >= r->target_blocks)
		return corrupt("journal: transaction %u writes to block %llu of %llu",
			       tid_of(r, age), (unsigned long long)tag->blk,
			       (unsigned long long)r->target_blocks);
	err = journal_block(j, index, &data);
	if (err < 0)
		return err;
	if (!copy_fits(j, tag, tid_of(r, age), data))
		return bad_checksum("journal: transaction %u: the copy of block %llu is damaged",
				    tid_of(r, age), (unsigned long long)tag->blk);
	if (tag->flags & JBD2_FLAG_ESCAPE) {
		uint8_t *plain = r->block + j->block_size;

		memcpy(plain, data, j->block_size);
		memcpy(plain, &magic, sizeof(magic));
		data = plain;
	}
	err = put_block(r, tag, index, data);
	if (err < 0)
		return fail_in(err, "replay of block %llu", (unsigned long long)tag->blk);
	r->blocks_written++;
	return 0;
}

/*
 * Writes what a descriptor describes.  JBD2_FLAG_DELETED has no meaning in recovery: such a tag has
 * its copy in the log as others have.
 */
static int replay_descriptor(struct recovery *r, const struct control *control)
{
	uint32_t index = control->index;
	struct tag_iter it;
	struct tag tag;
	int err;

	err = reread(r, control);
	if (err < 0)
		return err;
	it = tags_of(r->j, r->block);
	while (tag_next(r->j, &it, &tag)) {
		index = log_wrap(r->j, (uint64_t)index + 1);
		err = replay_copy(r, &tag, control->age, index);
		if (err < 0)
			return err;
	}
	return 0;
}

static int run_passes(struct recovery *r)
{
	int err;

	err = scan(r);
	for (size_t i = 0; i < r->committed && err == 0; i++) {
		if (r->controls[i].type == JBD2_REVOKE_BLOCK)
			err = read_revokes(r, &r->controls[i]);
	}
	sort_revokes(r);
	for (size_t i = 0; i < r->committed && err == 0; i++) {
		if (r->controls[i].type == JBD2_DESCRIPTOR_BLOCK)
			err = replay_descriptor(r, &r->controls[i]);
	}
	return err;
}

int journal_recover(struct journal *j, struct dev *target, blk_t target_blocks,
		    struct journal_recovery *ret)
{
	struct recovery r = { .j = j, .target = target };
	int err = 0;

	if (j->start != 0) {
		/* So that no number of a block makes an offset overflow. */
		r.target_blocks = min_u64(target_blocks, target->size / j->block_size);
		r.block = mem_alloc(2 * (size_t)j->block_size);
		err = r.block == NULL ? -ENOMEM : run_passes(&r);
		mem_free(r.block);
		mem_free(r.controls);
		mem_free(r.revokes);
	}
	if (err < 0)
		return err;
	ret->transactions = r.committed_ages;
	ret->blocks = r.blocks_written;
	ret->revokes = r.revokes_read;
	ret->next_tid = tid_of(&r, r.committed_ages);
	return 0;
}
