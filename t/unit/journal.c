/* SPDX-License-Identifier: MIT */
/*
 * journal/: recovery against an oracle that knows only the rule "a block is its last copy that no
 * revoke of the same or a later transaction makes void".
 *
 * Logs are made here, in every layout (four kinds of checksum, 32 and 64 bit), in a ring that still
 * holds an older lap, and scattered over their device.  Then: cut at every block and, in the last
 * commit block, at every byte; damaged; hostile by hand and by seeded mutation; with reads, writes
 * and allocations failing one after the other; and fast commits cut and damaged the same way.
 *
 * Usage: journal [SEED]
 */
#include "base/diag.h"
#include "base/mem.h"
#include "base/sum.h"
#include "journal/journal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define BS 1024u
#define TARGET_BLOCKS 64u
#define LOG_BLOCKS 96u /* without fast commits */
#define FAST_BLOCKS 8u
#define EVENTS_MAX 4096u
#define TAGS_MAX 8u
#define WIDE_HIGH UINT64_C(0x100000000) /* added to block numbers of revokes that must not match */

static uint64_t seed = 1;

static uint64_t rnd(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

static uint32_t below(uint64_t *state, uint32_t n)
{
	return (uint32_t)(rnd(state) >> 33) % n;
}

/* ---- making logs ----------------------------------------------------------------------------- */

struct kind {
	unsigned csum; /* 0 to 3 */
	bool wide;
	bool async;
};

static const struct kind kinds[] = {
	{ 0, false, false }, { 0, true, false }, { 1, false, false }, { 1, true, false },
	{ 2, false, false }, { 2, true, false }, { 3, false, false }, { 3, true, false },
	{ 1, true, true },   { 3, true, true },
};

struct event {
	uint32_t age; /* of its transaction, from the log's first */
	uint32_t blk;
	bool revoke;
	uint8_t fill;
};

struct log {
	struct kind kind;
	uint8_t *disk; /* the journal's device */
	size_t disk_bytes;
	struct journal_run runs[3];
	uint32_t maxlen, first, last, start, sequence;
	uint32_t pos, age; /* next block, transaction being made */
	uint32_t seed, crc;
	uint64_t sec;
	struct event events[EVENTS_MAX];
	size_t events_count;
	uint32_t commit_at[256];	       /* block of each transaction's commit block */
	uint32_t used[LOG_BLOCKS], used_count; /* blocks in the order they were written */
};

/*
 * Block @index: the first half lies last on the device and vice versa; one block in front is
 * nobody's.
 */
static uint8_t *block_at(const struct log *l, uint32_t index)
{
	for (size_t i = 0; i < 3; i++) {
		const struct journal_run *run = &l->runs[i];

		if (index - run->logical < run->count)
			return l->disk + (run->physical + index - run->logical) * BS;
	}
	abort();
}

static struct log *log_create(struct kind kind, uint32_t maxlen, uint32_t fast, uint32_t start)
{
	struct log *l = calloc(1, sizeof(*l));
	uint32_t half = maxlen / 2;

	l->kind = kind;
	l->maxlen = maxlen;
	l->first = 1;
	l->last = maxlen - fast;
	l->start = l->pos = start;
	l->sequence = 1000;
	l->sec = 5000;
	l->runs[0] = (struct journal_run){ 0, 3, maxlen - 2 };
	l->runs[1] = (struct journal_run){ 3, half - 3, maxlen - half + 1 };
	l->runs[2] = (struct journal_run){ half, maxlen - half, 1 };
	l->disk_bytes = (size_t)(maxlen + 2) * BS;
	l->disk = calloc(1, l->disk_bytes);
	l->crc = ~0u;
	/* Run 1 must not meet run 0. */
	assert(l->runs[1].physical + l->runs[1].count <= l->runs[0].physical);
	return l;
}

static void log_destroy(struct log *l)
{
	free(l->disk);
	free(l);
}

static be32 sum_block(const struct log *l, const void *data, size_t bytes)
{
	return be32_make(crc32c(l->seed, data, bytes));
}

/* Writes the superblock, whose checksum is the last thing to be made. */
static void log_seal(struct log *l)
{
	struct journal_superblock_s sb = { 0 };
	uint32_t incompat = JBD2_FEATURE_INCOMPAT_REVOKE;

	sb.s_header.h_magic = be32_make(JBD2_MAGIC_NUMBER);
	sb.s_header.h_blocktype = be32_make(JBD2_SUPERBLOCK_V2);
	sb.s_blocksize = be32_make(BS);
	sb.s_maxlen = be32_make(l->maxlen);
	sb.s_first = be32_make(l->first);
	sb.s_sequence = be32_make(l->sequence);
	sb.s_start = be32_make(l->start);
	incompat |= l->kind.wide ? JBD2_FEATURE_INCOMPAT_64BIT : 0;
	incompat |= l->kind.async ? JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT : 0;
	incompat |= l->kind.csum == 2 ? JBD2_FEATURE_INCOMPAT_CSUM_V2 : 0;
	incompat |= l->kind.csum == 3 ? JBD2_FEATURE_INCOMPAT_CSUM_V3 : 0;
	if (l->last != l->maxlen) {
		incompat |= JBD2_FEATURE_INCOMPAT_FAST_COMMIT;
		sb.s_num_fc_blks = be32_make(l->maxlen - l->last);
	}
	sb.s_feature_incompat = be32_make(incompat);
	sb.s_feature_compat = be32_make(l->kind.csum == 1 ? JBD2_FEATURE_COMPAT_CHECKSUM : 0);
	memset(sb.s_uuid, 0x5A, sizeof(sb.s_uuid));
	l->seed = crc32c(~0u, sb.s_uuid, sizeof(sb.s_uuid));
	if (l->kind.csum >= 2) {
		sb.s_checksum_type = JBD2_CRC32C_CHKSUM;
		sb.s_checksum = be32_make(crc32c(~0u, &sb, sizeof(sb)));
	}
	memcpy(block_at(l, 0), &sb, sizeof(sb));
}

static uint8_t *log_next(struct log *l)
{
	uint8_t *data = block_at(l, l->pos);

	assert(l->used_count < LOG_BLOCKS);
	l->used[l->used_count++] = l->pos;
	if (++l->pos == l->last)
		l->pos = l->first;
	memset(data, 0, BS);
	return data;
}

static uint32_t log_tid(const struct log *l)
{
	return l->sequence + l->age;
}

static void put_header(const struct log *l, uint8_t *data, uint32_t type)
{
	struct journal_header_s h = { be32_make(JBD2_MAGIC_NUMBER), be32_make(type),
				      be32_make(log_tid(l)) };

	memcpy(data, &h, sizeof(h));
}

static void put_tail(const struct log *l, uint8_t *data)
{
	be32 sum = { 0 };

	memcpy(data + BS - sizeof(sum), &sum, sizeof(sum));
	if (l->kind.csum < 2)
		return;
	sum = sum_block(l, data, BS);
	memcpy(data + BS - sizeof(sum), &sum, sizeof(sum));
}

/* Odd ones begin with the magic number, as an escaped block does. */
static void fill_block(uint8_t *data, uint32_t blk, uint8_t fill)
{
	be32 magic = be32_make(JBD2_MAGIC_NUMBER);

	memset(data, fill, BS);
	memcpy(data + 8, &blk, sizeof(blk));
	if (fill & 1)
		memcpy(data, &magic, sizeof(magic));
}

static void note(struct log *l, struct event e)
{
	assert(l->events_count < EVENTS_MAX);
	e.age = l->age;
	l->events[l->events_count++] = e;
}

static size_t put_tag(const struct log *l, uint8_t *at, uint64_t blk, uint32_t flags,
		      const uint8_t *copy)
{
	be32 tid = be32_make(log_tid(l));
	uint32_t sum = crc32c(crc32c(l->seed, &tid, sizeof(tid)), copy, BS);
	size_t bytes;

	if (l->kind.csum == 3) {
		struct journal_block_tag3_s tag = {
			.t_blocknr = be32_make((uint32_t)blk),
			.t_flags = be32_make(flags),
			.t_blocknr_high = be32_make((uint32_t)(blk >> 32)),
			.t_checksum = be32_make(sum),
		};

		memcpy(at, &tag, sizeof(tag));
		bytes = sizeof(tag);
	} else {
		struct journal_block_tag_s tag = {
			.t_blocknr = be32_make((uint32_t)blk),
			.t_checksum = { __builtin_bswap16(l->kind.csum == 2 ? (uint16_t)sum : 0) },
			.t_flags = { __builtin_bswap16((uint16_t)flags) },
			.t_blocknr_high = be32_make((uint32_t)(blk >> 32)),
		};

		bytes = (l->kind.wide ? 12 : 8) + (l->kind.csum == 2 ? 2 : 0);
		memcpy(at, &tag, bytes < sizeof(tag) ? bytes : sizeof(tag));
	}
	if (!(flags & JBD2_FLAG_SAME_UUID)) {
		memset(at + bytes, 0x5A, 16);
		bytes += 16;
	}
	return bytes;
}

/* A descriptor with @count copies; the fills are made from @fill on.  @flags go into all tags. */
static void log_copies_flags(struct log *l, const uint32_t *blks, size_t count, uint8_t fill,
			     uint32_t flags)
{
	uint8_t *desc = log_next(l);
	size_t at = sizeof(struct journal_header_s);

	put_header(l, desc, JBD2_DESCRIPTOR_BLOCK);
	for (size_t i = 0; i < count; i++) {
		uint8_t *copy = log_next(l), f = (uint8_t)(fill + i);
		uint32_t tag_flags = flags;

		fill_block(copy, blks[i], f);
		if (f & 1) {
			memset(copy, 0, 4);
			tag_flags |= JBD2_FLAG_ESCAPE;
		}
		tag_flags |= i > 0 ? JBD2_FLAG_SAME_UUID : 0;
		tag_flags |= i + 1 == count ? JBD2_FLAG_LAST_TAG : 0;
		at += put_tag(l, desc + at, blks[i], tag_flags, copy);
		note(l, (struct event){ .blk = blks[i], .fill = f });
	}
	put_tail(l, desc);
	if (l->kind.csum == 1) {
		uint32_t n = l->used_count - (uint32_t)count - 1;

		for (; n < l->used_count; n++)
			l->crc = crc32_be(l->crc, block_at(l, l->used[n]), BS);
	}
}

static void log_copies(struct log *l, const uint32_t *blks, size_t count, uint8_t fill)
{
	log_copies_flags(l, blks, count, fill, 0);
}

static void log_copy(struct log *l, uint32_t blk, uint8_t fill)
{
	log_copies(l, &blk, 1, fill);
}

static void log_revoke(struct log *l, const uint32_t *blks, size_t count)
{
	uint8_t *data = log_next(l);
	struct jbd2_journal_revoke_header_s h;
	size_t at = sizeof(h);

	put_header(l, data, JBD2_REVOKE_BLOCK);
	for (size_t i = 0; i < count; i++) {
		be32 half[2] = { be32_make(0), be32_make(blks[i]) };

		if (l->kind.wide) {
			memcpy(data + at, half, sizeof(half));
			at += sizeof(half);
		} else {
			memcpy(data + at, &half[1], sizeof(half[1]));
			at += sizeof(half[1]);
		}
		note(l, (struct event){ .blk = blks[i], .revoke = true });
	}
	memcpy(&h, data, sizeof(h));
	h.r_count = be32_make((uint32_t)at);
	memcpy(data, &h, sizeof(h));
	put_tail(l, data);
}

static void seal_commit(const struct log *l, uint8_t *data)
{
	struct commit_header c;

	memcpy(&c, data, sizeof(c));
	c.h_chksum[0] = be32_make(0);
	memcpy(data, &c, sizeof(c));
	c.h_chksum[0] = sum_block(l, data, BS);
	memcpy(data, &c, sizeof(c));
}

static void log_commit(struct log *l)
{
	uint8_t *data = log_next(l);
	struct commit_header c;

	put_header(l, data, JBD2_COMMIT_BLOCK);
	memcpy(&c, data, sizeof(c));
	c.h_commit_sec.raw = __builtin_bswap64(l->sec++);
	if (l->kind.csum == 1) {
		c.h_chksum_type = JBD2_CRC32_CHKSUM;
		c.h_chksum_size = 4;
		c.h_chksum[0] = be32_make(l->crc);
	}
	memcpy(data, &c, sizeof(c));
	if (l->kind.csum >= 2)
		seal_commit(l, data);
	l->crc = ~0u;
	l->commit_at[l->age] = l->used[l->used_count - 1];
	l->age++;
}

/* A whole lap of older transactions, so that what lies behind the log looks like a log. */
static void log_age_ring(struct log *l)
{
	uint32_t start = l->start, sequence = l->sequence;
	uint64_t sec = l->sec;

	l->sequence = sequence - 500;
	l->sec = sec - 500;
	while (l->used_count + 4 < l->last - l->first) {
		uint32_t blk = l->used_count % TARGET_BLOCKS;

		log_copy(l, blk, 200);
		log_commit(l);
	}
	l->start = l->pos = start;
	l->sequence = sequence;
	l->sec = sec;
	l->age = 0;
	l->used_count = 0;
	l->events_count = 0;
	l->crc = ~0u;
}

/* Transactions of all sorts until about @blocks blocks are used; the last one is left open. */
static void log_fill_random(struct log *l, uint32_t blocks, uint64_t *r)
{
	while (l->used_count + 2 * TAGS_MAX < blocks) {
		uint32_t blks[TAGS_MAX], parts = 1 + below(r, 3);

		while (parts-- > 0 && l->used_count + 2 * TAGS_MAX < blocks) {
			size_t count = 1 + below(r, TAGS_MAX);

			for (size_t i = 0; i < count; i++)
				blks[i] = below(r, TARGET_BLOCKS);
			if (below(r, 3) == 0)
				log_revoke(l, blks, count);
			else
				log_copies(l, blks, count, (uint8_t)rnd(r));
		}
		log_commit(l);
	}
}

/* ---- oracle and recovery --------------------------------------------------------------------- */

#define UNTOUCHED 0xEE

static void oracle(const struct log *l, uint32_t ages, uint8_t *target)
{
	memset(target, UNTOUCHED, TARGET_BLOCKS * BS);
	for (size_t i = 0; i < l->events_count; i++) {
		const struct event *e = &l->events[i];
		bool is_void = e->revoke || e->age >= ages;

		for (size_t k = 0; k < l->events_count && !is_void; k++)
			is_void = l->events[k].revoke && l->events[k].blk == e->blk &&
				  l->events[k].age >= e->age && l->events[k].age < ages;
		if (!is_void)
			fill_block(target + e->blk * BS, e->blk, e->fill);
	}
}

/* A target that counts its writes and may fail one of them. */
struct target {
	struct dev dev;
	uint8_t data[TARGET_BLOCKS * BS];
	uint32_t writes, fail_at; /* 0: none */
};

static int target_read(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		       uint64_t bytes)
{
	return -EIO; /* recovery has no business reading here */
}

static int target_write(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
			uint64_t bytes)
{
	struct target *t = container_of(d, struct target, dev);

	if (++t->writes == t->fail_at)
		return -EIO;
	assert_int_equal(offset % BS, 0);
	assert_int_equal(bytes, BS);
	assert_int_equal(iov_count, 1);
	memcpy(t->data + offset, iov[0].iov_base, bytes);
	return 0;
}

static void target_init(struct target *t)
{
	static const struct dev_ops ops = { .name = "target",
					    .read = target_read,
					    .write = target_write };

	dev_init(&t->dev, &ops, sizeof(t->data), NULL);
	memset(t->data, UNTOUCHED, sizeof(t->data));
	t->writes = t->fail_at = 0;
}

static int try_recover(const struct log *l, struct target *t, struct journal_recovery *ret)
{
	struct journal *j;
	struct dev *d;
	int err;

	assert_int_equal(dev_ram_create(l->disk, l->disk_bytes, &d), 0);
	err = journal_open(d, l->runs, 3, BS, &j);
	if (err == 0) {
		err = journal_recover(j, &t->dev, TARGET_BLOCKS, ret);
		journal_close(j);
	}
	dev_close(d);
	return err;
}

static void assert_target(const struct target *t, const struct log *l, uint32_t ages)
{
	static uint8_t expected[TARGET_BLOCKS * BS];

	oracle(l, ages, expected);
	for (uint32_t blk = 0; blk < TARGET_BLOCKS; blk++) {
		if (memcmp(t->data + blk * BS, expected + blk * BS, BS) != 0)
			fail_msg("block %u differs (csum %u, wide %d, %u transactions)", blk,
				 l->kind.csum, l->kind.wide, ages);
	}
}

/* Recovers and expects exactly @ages transactions. */
static void assert_recovers(const struct log *l, uint32_t ages)
{
	struct journal_recovery got = { 0 };
	struct target t;
	int err;

	target_init(&t);
	err = try_recover(l, &t, &got);
	if (err < 0)
		print_error("%s\n", diag_text());
	assert_int_equal(err, 0);
	assert_int_equal(got.transactions, ages);
	assert_int_equal(got.next_tid, l->sequence + ages);
	assert_int_equal(got.blocks, t.writes);
	assert_target(&t, l, ages);
}

static void assert_refuses(const struct log *l, int err)
{
	struct journal_recovery got;
	struct target t;
	int is;

	target_init(&t);
	is = try_recover(l, &t, &got);
	if (is != err)
		print_error("%d: %s\n", is, is < 0 ? diag_text() : "");
	assert_int_equal(is, err);
}

static struct log *random_log(struct kind kind, uint32_t start, uint64_t *r)
{
	struct log *l = log_create(kind, LOG_BLOCKS, 0, start);

	log_seal(l);
	log_age_ring(l);
	log_fill_random(l, 80, r);
	log_seal(l);
	return l;
}

#define FOR_EACH_KIND(k) for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)

/* ---- whole logs ------------------------------------------------------------------------------ */

static void every_kind_is_replayed(void **state)
{
	uint64_t r = seed;

	FOR_EACH_KIND(k)
	{
		for (unsigned round = 0; round < 20; round++) {
			struct log *l = random_log(kinds[k], 1 + below(&r, LOG_BLOCKS - 1), &r);

			assert_recovers(l, l->age);
			log_destroy(l);
		}
	}
}

static void log_wraps_at_every_block(void **state)
{
	const uint32_t blks[] = { 1, 2, 3, 4, 5, 6 };

	FOR_EACH_KIND(k)
	{
		for (uint32_t start = LOG_BLOCKS - 16; start < LOG_BLOCKS; start++) {
			struct log *l = log_create(kinds[k], LOG_BLOCKS, 0, start);

			log_seal(l);
			log_age_ring(l);
			log_copies(l, blks, 6, 10);
			log_revoke(l, blks, 2);
			log_copy(l, 7, 21);
			log_commit(l);
			log_seal(l);
			assert_recovers(l, 1);
			log_destroy(l);
		}
	}
}

/*
 * The ring holds one transaction of all its blocks: behind its commit block comes its own
 * beginning.
 */
static void log_fills_the_ring(void **state)
{
	FOR_EACH_KIND(k)
	{
		struct log *l = log_create(kinds[k], LOG_BLOCKS, 0, 40);

		log_seal(l);
		while (l->used_count + 3 < LOG_BLOCKS - 1)
			log_copy(l, l->used_count % TARGET_BLOCKS, (uint8_t)l->used_count);
		while (l->used_count + 1 < LOG_BLOCKS - 1)
			log_revoke(l, NULL, 0);
		log_commit(l);
		assert_int_equal(l->pos, l->start);
		assert_recovers(l, 1);
		log_destroy(l);
	}
}

static void numbers_wrap(void **state)
{
	const uint32_t blk = 9;

	FOR_EACH_KIND(k)
	{
		struct log *l = log_create(kinds[k], LOG_BLOCKS, 0, 5);

		l->sequence = UINT32_MAX - 2;
		log_seal(l);
		for (unsigned i = 0; i < 6; i++) {
			log_copy(l, 9 + i, (uint8_t)(20 + i));
			if (i == 1 || i == 4)
				log_revoke(l, &blk, 1);
			if (i == 2)
				log_copy(l, blk, 77); /* alive again, until transaction 4 */
			log_commit(l);
			assert_recovers(l, i + 1);
		}
		log_destroy(l);
	}
}

static void empty_journal_has_nothing_to_do(void **state)
{
	struct log *l = log_create(kinds[6], LOG_BLOCKS, 0, 5);

	log_seal(l);
	log_copy(l, 1, 1);
	log_commit(l);
	l->start = 0;
	log_seal(l);
	l->events_count = 0;
	assert_recovers(l, 0);
	log_destroy(l);
}

/* A superblock of version 1 has no features, whatever its later bytes are. */
static void old_superblock_has_no_features(void **state)
{
	struct journal_superblock_s sb;
	struct log *l = log_create(kinds[0], LOG_BLOCKS, 0, 5);

	log_seal(l);
	log_copy(l, 1, 1);
	log_commit(l);
	memcpy(&sb, block_at(l, 0), sizeof(sb));
	sb.s_header.h_blocktype = be32_make(JBD2_SUPERBLOCK_V1);
	memset((uint8_t *)&sb + 0x24, 0xFF, sizeof(sb) - 0x24);
	memcpy(block_at(l, 0), &sb, sizeof(sb));
	assert_recovers(l, 1);
	log_destroy(l);
}

/* ---- single rules ---------------------------------------------------------------------------- */

static void revoke_covers_its_own_and_earlier(void **state)
{
	const uint32_t before = 1, same_front = 2, same_behind = 3, after = 4;
	const uint32_t all[] = { 1, 2, 3, 4 };

	FOR_EACH_KIND(k)
	{
		struct log *l = log_create(kinds[k], LOG_BLOCKS, 0, 5);
		struct journal_recovery got;
		struct target t;

		log_seal(l);
		log_copies(l, all, 4, 10);
		log_commit(l);
		log_copy(l, same_front, 21);
		log_revoke(l, &before, 1);
		log_revoke(l, &same_front, 1);
		log_revoke(l, &same_behind, 1);
		log_copy(l, same_behind, 22);
		log_commit(l);
		log_copy(l, same_behind, 23); /* younger than the revoke */
		log_commit(l);
		/* Never committed: revokes nothing. */
		log_revoke(l, &after, 1);
		assert_recovers(l, 3);

		target_init(&t);
		assert_int_equal(try_recover(l, &t, &got), 0);
		assert_int_equal(got.revokes, 3);
		assert_int_equal(t.data[before * BS + 20], UNTOUCHED);
		assert_int_equal(t.data[same_front * BS + 20], UNTOUCHED);
		assert_int_equal(t.data[same_behind * BS + 20], 23);
		assert_int_equal(t.data[after * BS + 20], 13);
		log_destroy(l);
	}
}

/* With 64 bits a revoke of block n + 2^32 is none of block n. */
static void revokes_have_64_bits(void **state)
{
	struct log *l = log_create((struct kind){ 0, true, false }, LOG_BLOCKS, 0, 5);
	const uint32_t blk = 3;
	uint8_t *data;

	log_seal(l);
	log_copy(l, blk, 10);
	data = block_at(l, l->pos);
	log_revoke(l, &blk, 1);
	data[sizeof(struct jbd2_journal_revoke_header_s) + 3] = (uint8_t)(WIDE_HIGH >> 32);
	l->events_count--;
	log_commit(l);
	assert_recovers(l, 1);
	log_destroy(l);
}

static void deleted_tags_are_like_others(void **state)
{
	const uint32_t blks[] = { 1, 2, 3 };

	FOR_EACH_KIND(k)
	{
		struct log *l = log_create(kinds[k], LOG_BLOCKS, 0, 5);

		log_seal(l);
		log_copies_flags(l, blks, 3, 10, JBD2_FLAG_DELETED);
		log_commit(l);
		assert_recovers(l, 1);
		log_destroy(l);
	}
}

static void tags_without_uuid_are_read(void **state)
{
	const uint32_t blks[] = { 1, 2, 3 };

	FOR_EACH_KIND(k)
	{
		struct log *l = log_create(kinds[k], LOG_BLOCKS, 0, 5);

		log_seal(l);
		log_copies_flags(l, blks, 3, 10, JBD2_FLAG_SAME_UUID);
		log_commit(l);
		assert_recovers(l, 1);
		log_destroy(l);
	}
}

/* A commit block of V1 that was written without checksum counts. */
static void v1_without_checksum_counts(void **state)
{
	struct log *l = log_create((struct kind){ 1, false, false }, LOG_BLOCKS, 0, 5);

	log_seal(l);
	log_copy(l, 1, 10);
	log_commit(l);
	memset(block_at(l, l->commit_at[0]) + 12, 0, 8);
	assert_recovers(l, 1);
	log_destroy(l);
}

/* ---- torn tails ------------------------------------------------------------------------------ */

/* Transactions whose commit block is among the first @blocks blocks written. */
static uint32_t committed_in(const struct log *l, uint32_t blocks)
{
	uint32_t ages = 0;

	for (uint32_t i = 0; i < blocks; i++)
		ages += ages < l->age && l->used[i] == l->commit_at[ages];
	return ages;
}

/* From block @blocks on the ring holds what it held before. */
static void cut_at_every_block(void **state)
{
	uint64_t r = seed;

	FOR_EACH_KIND(k)
	{
		struct log *old = log_create(kinds[k], LOG_BLOCKS, 0, 50);
		struct log *l = log_create(kinds[k], LOG_BLOCKS, 0, 50);

		log_seal(old);
		log_age_ring(old);
		log_seal(l);
		log_age_ring(l);
		log_fill_random(l, 80, &r);
		for (uint32_t blocks = l->used_count; blocks-- > 0;) {
			memcpy(block_at(l, l->used[blocks]), block_at(old, l->used[blocks]), BS);
			assert_recovers(l, committed_in(l, blocks));
		}
		log_destroy(l);
		log_destroy(old);
	}
}

/* Does a commit block, torn, pass for whole?  -1: it does not and is no left-over either. */
static int torn_commit_counts(const struct log *l, const uint8_t *whole, const uint8_t *torn,
			      uint64_t sec_before)
{
	struct commit_header c;

	memcpy(&c, torn, sizeof(c));
	if (memcmp(whole, torn, sizeof(struct journal_header_s)) != 0)
		return 0;
	if (l->kind.csum == 0 || (l->kind.csum >= 2 && memcmp(whole, torn, sizeof(c)) == 0))
		return 1;
	if (l->kind.csum == 1 &&
	    (memcmp(whole, torn, 20) == 0 ||
	     (!c.h_chksum_type && !c.h_chksum_size && !be32_get(c.h_chksum[0]))))
		return 1;
	return be64_get(c.h_commit_sec) < sec_before || l->kind.async ? 0 : -1;
}

static void cut_at_every_byte_of_the_commit(void **state)
{
	static const uint8_t rests[] = { 0x00, 0xFF, 0x13 };

	FOR_EACH_KIND(k)
	{
		struct log *l = log_create(kinds[k], LOG_BLOCKS, 0, 90);
		uint8_t whole[BS], *torn;

		log_seal(l);
		for (unsigned i = 0; i < 3; i++) {
			log_copy(l, i, (uint8_t)(10 + i));
			log_commit(l);
		}
		torn = block_at(l, l->commit_at[2]);
		memcpy(whole, torn, BS);
		for (size_t i = 0; i < BS * ARRAY_SIZE(rests); i++) {
			size_t at = i % BS;
			int counts;

			memcpy(torn, whole, at);
			memset(torn + at, rests[i / BS], BS - at);
			counts = torn_commit_counts(l, whole, torn, l->sec - 2);
			if (counts < 0)
				assert_refuses(l, -EFSBADCRC);
			else
				assert_recovers(l, 2 + (uint32_t)counts);
		}
		log_destroy(l);
	}
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* Three transactions, with every sort of block in the second. */
static struct log *three(struct kind kind)
{
	const uint32_t blks[] = { 4, 5, 6 };
	struct log *l = log_create(kind, LOG_BLOCKS, 0, 20);

	log_seal(l);
	log_copy(l, 1, 10);
	log_commit(l);
	log_copies(l, blks, 3, 20);
	log_revoke(l, blks, 1);
	log_commit(l);
	log_copy(l, 2, 30);
	log_commit(l);
	return l;
}

/* The blocks of the second transaction, by their number in the log. */
enum { D_DESC = 3, D_COPY = 5, D_REVOKE = 7, D_COMMIT = 8, D_LAST_COMMIT = 11 };

static void damage_in_the_middle_is_refused(void **state)
{
	static const struct {
		uint32_t block, at;
		unsigned csum_min, csum_max; /* that see it */
	} cases[] = {
		{ D_DESC, 600, 1, 3 },
		{ D_COPY, 600, 1, 3 },
		{ D_REVOKE, 600, 2, 3 },
		{ D_COMMIT, 40, 2, 3 },
	};

	FOR_EACH_KIND(k)
	{
		for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
			struct log *l = three(kinds[k]);
			struct journal_recovery got;
			struct target t;

			block_at(l, l->used[cases[i].block])[cases[i].at] ^= 4;
			target_init(&t);
			if (kinds[k].csum >= cases[i].csum_min &&
			    kinds[k].csum <= cases[i].csum_max) {
				assert_int_equal(try_recover(l, &t, &got), -EFSBADCRC);
				/*
				 * Only a copy of V2 and V3 is not looked at before writing starts.
				 */
				if (cases[i].block != D_COPY || kinds[k].csum == 1)
					assert_int_equal(t.writes, 0);
			} else {
				assert_int_equal(try_recover(l, &t, &got), 0);
				assert_int_equal(got.transactions, 3);
			}
			log_destroy(l);
		}
	}
}

/* Nobody asks for the checksum of a copy that was revoked. */
static void revoked_copy_may_be_damaged(void **state)
{
	struct log *l = three((struct kind){ 3, true, false });

	block_at(l, l->used[D_DESC + 1])[40] ^= 4;
	assert_recovers(l, 3);
	log_destroy(l);
}

/* The last transaction: with async_commit it may be incomplete, without it may not. */
static void async_commit_may_be_incomplete(void **state)
{
	FOR_EACH_KIND(k)
	{
		struct log *l = three(kinds[k]);

		if (kinds[k].csum != 0) {
			block_at(l, l->used[D_LAST_COMMIT - 1])[40] ^= kinds[k].csum == 1 ? 4 : 0;
			block_at(l, l->used[D_LAST_COMMIT])[kinds[k].csum == 1 ? 100 : 50] ^= 4;
			if (kinds[k].async) {
				/* Let it not pass for a left-over. */
				block_at(l, l->used[D_LAST_COMMIT])[0x34] = 1;
				assert_recovers(l, 2);
			} else if (kinds[k].csum == 1) {
				assert_refuses(l, -EFSBADCRC);
			}
		}
		log_destroy(l);
	}
}

/*
 * A journal that was made anew over an old one: behind the log lies a transaction with the awaited
 * number and a checksum for another seed.  It is older, so this is the end, not damage.
 */
static void left_over_of_another_journal_is_the_end(void **state)
{
	for (unsigned damaged = 0; damaged < 2; damaged++) {
		for (unsigned csum = 2; csum <= 3; csum++) {
			struct log *l = log_create((struct kind){ csum, true, false }, LOG_BLOCKS,
						   0, 20);

			log_seal(l);
			log_copy(l, 1, 10);
			log_commit(l);
			log_copy(l, 2, 20);
			if (damaged)
				block_at(l, l->used[2])[BS - 1] ^= 1;
			l->sec = 100;
			log_commit(l);
			block_at(l, l->commit_at[1])[0x10] ^= 1;
			assert_recovers(l, 1);
			log_destroy(l);
		}
	}
}

/* ---- hostile logs ---------------------------------------------------------------------------- */

/* Control blocks of one transaction all around the ring: no end but its own length. */
static void log_without_end_ends(void **state)
{
	FOR_EACH_KIND(k)
	{
		struct log *l = log_create(kinds[k], LOG_BLOCKS, 0, 20);

		log_seal(l);
		while (l->used_count < LOG_BLOCKS - 1)
			log_revoke(l, NULL, 0);
		assert_recovers(l, 0);

		l->used_count = 0;
		l->events_count = 0;
		while (l->used_count < LOG_BLOCKS - 1)
			log_copies(l, NULL, 0, 0); /* whose tags go on to the end of the block */
		assert_recovers(l, 0);
		log_destroy(l);
	}
}

static void copies_outside_are_refused(void **state)
{
	static const uint32_t outside[] = { TARGET_BLOCKS, UINT32_MAX };

	FOR_EACH_KIND(k)
	{
		for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
			struct log *l = log_create(kinds[k], LOG_BLOCKS, 0, 20);

			log_seal(l);
			log_copy(l, outside[i], 10);
			log_commit(l);
			assert_refuses(l, -EFSCORRUPTED);
			log_destroy(l);
		}
	}
}

static void revoke_count_is_checked(void **state)
{
	static const uint32_t counts[] = { BS + 1, UINT32_MAX, UINT32_MAX - 3 };
	const uint32_t blk = 1;

	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		struct log *l = log_create(kinds[0], LOG_BLOCKS, 0, 20);
		be32 count = be32_make(counts[i]);

		log_seal(l);
		log_revoke(l, &blk, 1);
		memcpy(block_at(l, l->used[0]) + 12, &count, sizeof(count));
		log_commit(l);
		assert_refuses(l, -EFSCORRUPTED);
		log_destroy(l);
	}
}

/* Changes one number in the superblock of a good journal. */
static void assert_super(unsigned csum, size_t at, uint32_t value, int err)
{
	struct log *l = three((struct kind){ csum, true, false });
	struct journal_superblock_s sb;
	be32 number = be32_make(value);

	memcpy(&sb, block_at(l, 0), sizeof(sb));
	memcpy((uint8_t *)&sb + at, &number, sizeof(number));
	if (csum >= 2 && err != -EFSBADCRC) {
		sb.s_checksum = be32_make(0);
		sb.s_checksum = be32_make(crc32c(~0u, &sb, sizeof(sb)));
	}
	memcpy(block_at(l, 0), &sb, sizeof(sb));
	if (err == 0)
		assert_recovers(l, 3);
	else
		assert_refuses(l, err);
	log_destroy(l);
}

#define AT(field) offsetof(struct journal_superblock_s, field)

static void superblock_is_checked(void **state)
{
	for (unsigned csum = 0; csum <= 3; csum++) {
		assert_super(csum, AT(s_header.h_magic), JBD2_MAGIC_NUMBER, 0);
		assert_super(csum, AT(s_header.h_magic), 1, -EFSCORRUPTED);
		assert_super(csum, AT(s_header.h_blocktype), JBD2_COMMIT_BLOCK, -EFSCORRUPTED);
		assert_super(csum, AT(s_blocksize), 2 * BS, -EFSCORRUPTED);
		assert_super(csum, AT(s_maxlen), LOG_BLOCKS + 1, -EFSCORRUPTED);
		assert_super(csum, AT(s_maxlen), UINT32_MAX, -EFSCORRUPTED);
		assert_super(csum, AT(s_maxlen), 1, -EFSCORRUPTED);
		assert_super(csum, AT(s_maxlen), 0, -EFSCORRUPTED);
		assert_super(csum, AT(s_first), 0, -EFSCORRUPTED);
		assert_super(csum, AT(s_first), LOG_BLOCKS, -EFSCORRUPTED);
		assert_super(csum, AT(s_first), 21, -EFSCORRUPTED); /* behind s_start */
		assert_super(csum, AT(s_start), LOG_BLOCKS, -EFSCORRUPTED);
		assert_super(csum, AT(s_start), UINT32_MAX, -EFSCORRUPTED);
		assert_super(csum, AT(s_feature_ro_compat), 1, -EOPNOTSUPP);
		assert_super(csum, AT(s_feature_incompat), 0x80, -EOPNOTSUPP);
		assert_non_null(strstr(diag_text(), "0x80"));
		assert_super(csum, AT(s_feature_incompat), 0x18, -EFSCORRUPTED);
	}
	for (unsigned csum = 2; csum <= 3; csum++) {
		assert_super(csum, AT(s_feature_compat), 1, -EFSCORRUPTED);
		assert_super(csum, AT(s_checksum_type), 1u << 24, -EFSCORRUPTED);
		assert_super(csum, AT(s_errno), 7, -EFSBADCRC);
	}
}

static void runs_are_checked(void **state)
{
	struct log *l = three(kinds[0]);
	struct journal_run good[3];

	memcpy(good, l->runs, sizeof(good));
	for (unsigned i = 0; i < 5; i++) {
		struct journal_run bad[3];
		struct journal *j;
		struct dev *d;

		memcpy(bad, good, sizeof(good));
		switch (i) {
		case 0: bad[1].logical++; break;
		case 1: bad[2].count = 0; break;
		case 2: bad[2].physical = UINT64_MAX; break;
		case 3: bad[0].physical = LOG_BLOCKS; break;
		default: bad[2].count--; break;
		}
		assert_int_equal(dev_ram_create(l->disk, l->disk_bytes, &d), 0);
		assert_int_equal(journal_open(d, bad, i == 1 ? 2 : 3, BS, &j), -EFSCORRUPTED);
		assert_int_equal(journal_open(d, bad, 0, BS, &j), -EFSCORRUPTED);
		dev_close(d);
	}
	log_destroy(l);
}

static void assert_known(int err)
{
	if (err != 0 && err != -EFSCORRUPTED && err != -EFSBADCRC && err != -EOPNOTSUPP)
		fail_msg("%d: %s", err, diag_text());
}

/* Any bytes: an error or an end, never more; checksums are made good again half of the time. */
static void mutated_logs_end(void **state)
{
	uint64_t r = seed;

	for (unsigned round = 0; round < 3000; round++) {
		struct log *l = random_log(kinds[round % ARRAY_SIZE(kinds)],
					   1 + below(&r, LOG_BLOCKS - 1), &r);
		struct journal_recovery got;
		struct target t;

		for (uint32_t n = 1 + below(&r, 8); n > 0; n--) {
			uint32_t index = l->used[below(&r, l->used_count)];
			uint8_t *data = block_at(l, below(&r, 8) == 0 ? 0 : index);

			data[below(&r, below(&r, 2) ? 64 : BS)] = (uint8_t)rnd(&r);
			if (below(&r, 2) && data[3] == 0x98 && data[7] == JBD2_COMMIT_BLOCK &&
			    l->kind.csum >= 2)
				seal_commit(l, data);
			else if (below(&r, 2) && data[3] == 0x98 && data != block_at(l, 0))
				put_tail(l, data);
		}
		target_init(&t);
		assert_known(try_recover(l, &t, &got));
		log_destroy(l);
	}
}

/* ---- failures of the environment ------------------------------------------------------------- */

/* Each read fails once: the error comes back, and without it all is well. */
static void read_errors_come_back(void **state)
{
	uint64_t r = seed;

	FOR_EACH_KIND(k)
	{
		struct log *l = random_log(kinds[k], 60, &r);
		bool done = false;

		for (uint64_t nth = 1; !done; nth++) {
			struct journal_recovery got = { .transactions = 12345 };
			struct dev *ram, *d;
			struct journal *j;
			struct target t;
			int err;

			target_init(&t);
			assert_int_equal(dev_ram_create(l->disk, l->disk_bytes, &ram), 0);
			assert_int_equal(dev_fail_create(ram, &d), 0);
			dev_fail_nth_read(d, nth);
			err = journal_open(d, l->runs, 3, BS, &j);
			if (err == 0) {
				err = journal_recover(j, &t.dev, TARGET_BLOCKS, &got);
				journal_close(j);
			}
			dev_close(d);
			done = err == 0;
			assert_true(done || err == -EIO);
			assert_true(done || got.transactions == 12345);
			if (done)
				assert_target(&t, l, l->age);
		}
		log_destroy(l);
	}
}

/* J8: stopped at any write of its own and run again, or run twice, it leaves the same. */
static void recovery_is_idempotent(void **state)
{
	uint64_t r = seed;

	FOR_EACH_KIND(k)
	{
		struct log *l = random_log(kinds[k], 60, &r);
		bool done = false;

		for (uint32_t nth = 1; !done; nth++) {
			struct journal_recovery got;
			struct target t;
			int err;

			target_init(&t);
			t.fail_at = nth;
			err = try_recover(l, &t, &got);
			done = t.writes < nth;
			assert_int_equal(err, done ? 0 : -EIO);
			t.fail_at = 0;
			assert_int_equal(try_recover(l, &t, &got), 0);
			assert_target(&t, l, l->age);
		}
		log_destroy(l);
	}
}

static void no_memory_is_survived(void **state)
{
	uint64_t r = seed;
	struct log *l = random_log(kinds[7], 60, &r);
	bool done = false;

	for (uint64_t nth = 1; !done; nth++) {
		struct journal_recovery got;
		struct journal *j;
		struct target t;
		struct dev *d;
		int err;

		target_init(&t);
		assert_int_equal(dev_ram_create(l->disk, l->disk_bytes, &d), 0);
		mem_fail_nth(nth);
		err = journal_open(d, l->runs, 3, BS, &j);
		if (err == 0) {
			err = journal_recover(j, &t.dev, TARGET_BLOCKS, &got);
			journal_close(j);
		}
		done = mem_fail_nth(0) < nth;
		dev_close(d);
		assert_int_equal(err, done ? 0 : -ENOMEM);
	}
	log_destroy(l);
}

/* ---- over an overlay ------------------------------------------------------------------------- */

/* The log's own disk, behind TARGET_BLOCKS others, under an overlay as a reader has it. */
static void over_overlay(const struct log *l, uint32_t ages, uint64_t *ret_taken)
{
	const size_t bytes = TARGET_BLOCKS * BS + l->disk_bytes;
	uint8_t *disk = malloc(bytes), *before = malloc(bytes);
	struct journal_recovery got;
	struct journal_run runs[3];
	struct dev *ram, *top;
	struct journal *j;
	struct target t;

	for (size_t i = 0; i < 3; i++) {
		runs[i] = l->runs[i];
		runs[i].physical += TARGET_BLOCKS;
	}
	memset(disk, UNTOUCHED, TARGET_BLOCKS * BS);
	memcpy(disk + TARGET_BLOCKS * BS, l->disk, l->disk_bytes);
	memcpy(before, disk, bytes);
	assert_int_equal(dev_ram_create(disk, bytes, &ram), 0);
	assert_int_equal(dev_overlay_create(ram, BS, &top), 0);
	assert_int_equal(journal_open(top, runs, 3, BS, &j), 0);
	(void)mem_fail_nth(0);
	assert_int_equal(journal_recover(j, top, TARGET_BLOCKS, &got), 0);
	*ret_taken = mem_fail_nth(0);
	assert_int_equal(got.transactions, ages);
	journal_close(j);

	target_init(&t);
	assert_int_equal(dev_read(top, 0, t.data, sizeof(t.data)), 0);
	assert_target(&t, l, ages);
	/* A block that is written afterwards is its own again, and the log is as it was. */
	assert_int_equal(dev_write(top, 5 * BS, disk, BS), 0);
	assert_int_equal(dev_read(top, 0, before, bytes), 0);
	assert_memory_equal(before + 5 * BS, disk, BS);
	assert_memory_equal(before + TARGET_BLOCKS * BS, l->disk, l->disk_bytes);
	dev_close(top);
	free(disk);
	free(before);
}

static void overlay_reads_copies_where_they_lie(void **state)
{
	uint64_t r = seed, taken;

	FOR_EACH_KIND(k)
	{
		for (uint32_t n = 0; n < 20; n++) {
			struct log *l = random_log(kinds[k], 1 + below(&r, LOG_BLOCKS - 1), &r);

			over_overlay(l, l->age, &taken);
			log_destroy(l);
		}
	}
}

/* The journal writes into the journal: what was recovered from there stays what it was. */
static void copies_may_be_overwritten(void **state)
{
	struct log *l = log_create((struct kind){ 0, false, false }, LOG_BLOCKS, 0, 1);
	uint8_t *disk = malloc(l->disk_bytes), buf[BS], expected[BS];
	uint32_t place, copy = 2; /* the first one's, behind its descriptor */
	struct journal_recovery got;
	struct dev *ram, *top;
	struct journal *j;

	log_seal(l);
	place = (uint32_t)((size_t)(block_at(l, copy) - l->disk) / BS);
	log_copy(l, 0, 2);
	log_copy(l, place, 4);
	log_copy(l, place, 5);
	log_commit(l);
	memcpy(disk, l->disk, l->disk_bytes);
	assert_int_equal(dev_ram_create(disk, l->disk_bytes, &ram), 0);
	assert_int_equal(dev_overlay_create(ram, BS, &top), 0);
	assert_int_equal(journal_open(top, l->runs, 3, BS, &j), 0);
	assert_int_equal(journal_recover(j, top, LOG_BLOCKS + 2, &got), 0);
	assert_int_equal(got.blocks, 3);
	journal_close(j);
	fill_block(expected, 0, 2);
	assert_int_equal(dev_read(top, 0, buf, BS), 0);
	assert_memory_equal(buf, expected, BS);
	fill_block(expected, place, 5);
	assert_int_equal(dev_read(top, (uint64_t)place * BS, buf, BS), 0);
	assert_memory_equal(buf, expected, BS);
	dev_close(top);
	free(disk);
	log_destroy(l);
}

/* The same few blocks revoked over and over, some young and some old, take no more than once. */
static void repeated_revokes_take_no_memory(void **state)
{
	struct log *l = log_create((struct kind){ 3, false, false }, LOG_BLOCKS, 0, 1);
	uint32_t blks[200];
	uint64_t taken;

	log_seal(l);
	for (uint32_t i = 0; i < 200; i++)
		blks[i] = 10 + i % 30;
	for (uint32_t i = 0; i < 12; i++)
		log_copy(l, i, (uint8_t)(2 * i));
	log_commit(l);
	for (uint32_t n = 0; n < 18; n++) { /* 3600, and room for 256 */
		log_revoke(l, blks, 200);
		if (n % 3 == 2)
			log_commit(l);
	}
	log_copy(l, 11, 100);
	log_commit(l);
	over_overlay(l, l->age, &taken);
	/*
	 * Control blocks, revokes and two blocks of its own once each; 11 blocks in the overlay,
	 * which are in one node of its index.  Escaped ones are none.
	 */
	assert_in_range(taken, 3, 3 + 12 + 4);
	assert_recovers(l, l->age);
	log_destroy(l);
}

/* ---- fast commits ---------------------------------------------------------------------------- */

#define FC_TID 1003u /* the log below has three transactions */

/* A row of fast commits being made in the fast-commit area. */
struct fast {
	struct log *l;
	uint32_t block; /* of the area */
	size_t at;	/* in it */
	uint32_t crc;
	uint8_t tags[FAST_BLOCKS * BS]; /* what should come out */
	size_t bytes;
};

static uint8_t *fast_block(const struct fast *f, uint32_t block)
{
	return block_at(f->l, f->l->last + 1 + block);
}

static struct log *fast_log(void)
{
	struct log *l = log_create((struct kind){ 3, true, false },
				   JBD2_MIN_JOURNAL_BLOCKS + FAST_BLOCKS, FAST_BLOCKS, 20);

	log_seal(l);
	for (unsigned i = 0; i < 3; i++) {
		log_copy(l, i, (uint8_t)(10 + i));
		log_commit(l);
	}
	assert_int_equal(l->sequence + l->age, FC_TID);
	return l;
}

static void put_tl(uint8_t *data, uint32_t tag, size_t len)
{
	struct ext4_fc_tl tl = { { (uint16_t)tag }, { (uint16_t)len } };

	memcpy(data, &tl, sizeof(tl));
}

static void fast_tag(struct fast *f, uint32_t tag, const void *value, size_t len)
{
	uint8_t *data = fast_block(f, f->block);

	if (f->at + 4 + len + 4 > BS) { /* with room for a pad behind it */
		put_tl(data + f->at, EXT4_FC_TAG_PAD, BS - f->at - 4);
		memset(data + f->at + 4, 0, BS - f->at - 4);
		f->crc = crc32c(f->crc, data + f->at, BS - f->at);
		f->at = 0;
		data = fast_block(f, ++f->block);
	}
	put_tl(data + f->at, tag, len);
	memcpy(data + f->at + 4, value, len);
	f->crc = crc32c(f->crc, data + f->at, 4 + len);
	if (tag != EXT4_FC_TAG_HEAD) {
		memcpy(f->tags + f->bytes, data + f->at, 4 + len);
		f->bytes += 4 + len;
	}
	f->at += 4 + len;
}

static void fast_head(struct fast *f, uint32_t tid, uint32_t features)
{
	struct ext4_fc_head head = { { features }, { tid } };

	fast_tag(f, EXT4_FC_TAG_HEAD, &head, sizeof(head));
}

static void fast_tail(struct fast *f, uint32_t tid)
{
	uint8_t *data = fast_block(f, f->block) + f->at;
	le32 number = le32_make(tid);

	assert(f->at + 12 <= BS);
	put_tl(data, EXT4_FC_TAG_TAIL, BS - f->at - 4);
	memcpy(data + 4, &number, sizeof(number));
	number = le32_make(crc32c(f->crc, data, 8));
	memcpy(data + 8, &number, sizeof(number));
	f->crc = 0;
	f->at = 0;
	f->block++;
}

static void fast_dentry(struct fast *f, uint32_t tag, uint32_t ino, size_t name_len)
{
	uint8_t value[8 + EXT4_NAME_LEN];
	struct ext4_fc_dentry_info info = { { 2 }, { ino } };

	memcpy(value, &info, sizeof(info));
	memset(value + sizeof(info), 'n', name_len);
	fast_tag(f, tag, value, sizeof(info) + name_len);
}

static void fast_inode(struct fast *f, uint32_t ino)
{
	uint8_t value[4 + 160];

	memset(value, (int)ino, sizeof(value));
	fast_tag(f, EXT4_FC_TAG_INODE, value, sizeof(value));
}

static int try_fast(const struct log *l, uint32_t tid, uint8_t **ret_tags, size_t *ret_bytes,
		    uint32_t *ret_commits)
{
	struct journal *j;
	struct dev *d;
	int err;

	assert_int_equal(dev_ram_create(l->disk, l->disk_bytes, &d), 0);
	err = journal_open(d, l->runs, 3, BS, &j);
	if (err == 0) {
		err = journal_fast_commits(j, tid, ret_tags, ret_bytes, ret_commits);
		journal_close(j);
	}
	dev_close(d);
	return err;
}

/* Expects the first @bytes bytes of what was made, in @commits fast commits. */
static void assert_fast(const struct fast *f, uint32_t tid, size_t bytes, uint32_t commits)
{
	size_t got_bytes = 0;
	uint32_t got_commits = 0;
	uint8_t *tags = NULL;

	assert_int_equal(try_fast(f->l, tid, &tags, &got_bytes, &got_commits), 0);
	assert_int_equal(got_commits, commits);
	assert_int_equal(got_bytes, bytes);
	if (bytes != 0)
		assert_memory_equal(tags, f->tags, bytes);
	else
		assert_null(tags);
	mem_free(tags);
}

/* Three fast commits; the second spans two blocks.  @ends: bytes of tags behind each. */
static struct fast *fast_three(size_t ends[3])
{
	struct fast *f = calloc(1, sizeof(*f));

	f->l = fast_log();
	fast_head(f, FC_TID, 0);
	fast_inode(f, 12);
	fast_dentry(f, EXT4_FC_TAG_CREAT, 12, 1);
	fast_tail(f, FC_TID);
	ends[0] = f->bytes;
	for (uint32_t i = 0; i < 8; i++)
		fast_inode(f, 13 + i);
	fast_dentry(f, EXT4_FC_TAG_LINK, 13, EXT4_NAME_LEN);
	fast_tail(f, FC_TID);
	ends[1] = f->bytes;
	fast_dentry(f, EXT4_FC_TAG_UNLINK, 13, 30);
	fast_tail(f, FC_TID);
	ends[2] = f->bytes;
	assert_int_equal(f->block, 4);
	return f;
}

static void fast_destroy(struct fast *f)
{
	log_destroy(f->l);
	free(f);
}

static void fast_commits_are_found(void **state)
{
	size_t ends[3];
	struct fast *f = fast_three(ends);

	assert_recovers(f->l, 3);
	assert_fast(f, FC_TID, ends[2], 3);
	/* They belong to one transaction, and to a log that is not empty. */
	assert_fast(f, FC_TID - 1, 0, 0);
	assert_fast(f, FC_TID + 1, 0, 0);
	f->l->start = 0;
	log_seal(f->l);
	assert_fast(f, FC_TID, 0, 0);
	fast_destroy(f);
}

static void fast_commits_fill_the_area(void **state)
{
	struct fast *f = calloc(1, sizeof(*f));

	f->l = fast_log();
	fast_head(f, FC_TID, 0);
	for (uint32_t i = 0; i < FAST_BLOCKS - 1; i++) {
		fast_inode(f, 12 + i);
		fast_tail(f, FC_TID);
	}
	assert_fast(f, FC_TID, f->bytes, FAST_BLOCKS - 1);
	fast_destroy(f);
}

/* A byte that is not what it was, anywhere: what is whole before it is kept. */
static void damaged_fast_commit_is_the_end(void **state)
{
	static const uint32_t first_block[3] = { 0, 1, 3 };
	size_t ends[3];
	struct fast *f = fast_three(ends);

	for (uint32_t at = 0; at < 4 * BS; at++) {
		uint8_t *byte = fast_block(f, at / BS) + at % BS, was = *byte;
		uint32_t whole = 0, got_commits = 0;
		size_t got_bytes = 0;
		uint8_t *tags = NULL;
		int err;

		while (whole < 2 && at / BS >= first_block[whole + 1])
			whole++;
		*byte ^= 0x41;
		err = try_fast(f->l, FC_TID, &tags, &got_bytes, &got_commits);
		if (at >= 4 && at < 8) { /* features of the head */
			assert_int_equal(err, -EOPNOTSUPP);
		} else {
			assert_int_equal(err, 0);
			assert_true(got_commits == whole || got_commits == 3);
			/* All three only where nothing is summed: behind a tail. */
			if (got_commits == 3 && whole < 3)
				assert_true(was == 0 && at % BS >= 16);
			assert_int_equal(got_bytes, got_commits == 0 ? 0 : ends[got_commits - 1]);
			if (got_bytes != 0)
				assert_memory_equal(tags, f->tags, got_bytes);
		}
		mem_free(tags);
		*byte = was;
	}
	fast_destroy(f);
}

static void fast_commit_cut_at_every_block(void **state)
{
	size_t ends[3];
	struct fast *f = fast_three(ends);

	memset(fast_block(f, 3), 0, BS);
	assert_fast(f, FC_TID, ends[1], 2);
	memset(fast_block(f, 2), 0, BS);
	assert_fast(f, FC_TID, ends[0], 1);
	memset(fast_block(f, 1), 0, BS);
	assert_fast(f, FC_TID, ends[0], 1);
	memset(fast_block(f, 0), 0, BS);
	assert_fast(f, FC_TID, 0, 0);
	fast_destroy(f);
}

static void fast_commit_needs_a_head(void **state)
{
	struct fast *f = calloc(1, sizeof(*f));

	f->l = fast_log();
	fast_inode(f, 12);
	fast_tail(f, FC_TID);
	assert_fast(f, FC_TID, 0, 0);
	fast_destroy(f);
}

static void fast_values_have_their_lengths(void **state)
{
	static const struct {
		uint32_t tag;
		size_t len;
	} bad[] = {
		{ EXT4_FC_TAG_ADD_RANGE, 15 },
		{ EXT4_FC_TAG_ADD_RANGE, 17 },
		{ EXT4_FC_TAG_DEL_RANGE, 0 },
		{ EXT4_FC_TAG_DEL_RANGE, 16 },
		{ EXT4_FC_TAG_CREAT, 8 },
		{ EXT4_FC_TAG_LINK, 8 + EXT4_NAME_LEN + 1 },
		{ EXT4_FC_TAG_UNLINK, 0 },
		{ EXT4_FC_TAG_INODE, 4 + 127 },
		{ EXT4_FC_TAG_TAIL, 7 },
		{ EXT4_FC_TAG_HEAD, 9 },
		{ 0, 4 },
		{ 0xFFFF, 4 },
	};
	uint8_t value[512] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct fast *f = calloc(1, sizeof(*f));
		size_t whole;

		f->l = fast_log();
		fast_head(f, FC_TID, 0);
		fast_inode(f, 12);
		fast_tail(f, FC_TID);
		whole = f->bytes;
		fast_tag(f, bad[i].tag, value, bad[i].len);
		fast_tail(f, FC_TID);
		assert_fast(f, FC_TID, whole, 1);
		fast_destroy(f);
	}
}

/* An area that leaves the log too short, or is larger than the journal. */
static void fast_area_is_checked(void **state)
{
	/* The last stands for the default, 256. */
	static const uint32_t sizes[] = { FAST_BLOCKS + 1, 5000, UINT32_MAX, 0 };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct log *l = fast_log();
		struct journal_superblock_s sb;

		memcpy(&sb, block_at(l, 0), sizeof(sb));
		sb.s_num_fc_blks = be32_make(sizes[i]);
		sb.s_checksum = be32_make(0);
		sb.s_checksum = be32_make(crc32c(~0u, &sb, sizeof(sb)));
		memcpy(block_at(l, 0), &sb, sizeof(sb));
		assert_refuses(l, -EFSCORRUPTED);
		log_destroy(l);
	}
}

static void info_tells_the_layout(void **state)
{
	struct log *l = fast_log();
	struct journal_info info;
	struct journal *j;
	struct dev *d;

	assert_int_equal(dev_ram_create(l->disk, l->disk_bytes, &d), 0);
	assert_int_equal(journal_open(d, l->runs, 3, BS, &j), 0);
	journal_get_info(j, &info);
	assert_int_equal(info.blocks, JBD2_MIN_JOURNAL_BLOCKS + FAST_BLOCKS);
	assert_int_equal(info.fast_blocks, FAST_BLOCKS);
	assert_int_equal(info.start, 20);
	assert_int_equal(info.sequence, 1000);
	assert_int_equal(info.checksum, 3);
	journal_close(j);
	dev_close(d);
	log_destroy(l);
}

static void mutated_fast_commits_end(void **state)
{
	uint64_t r = seed;
	size_t ends[3];
	struct fast *f = fast_three(ends);
	uint8_t good[4][BS];

	for (uint32_t b = 0; b < 4; b++)
		memcpy(good[b], fast_block(f, b), BS);
	for (unsigned round = 0; round < 5000; round++) {
		size_t bytes = 0;
		uint32_t commits = 0;
		uint8_t *tags = NULL;

		for (uint32_t n = 1 + below(&r, 6); n > 0; n--)
			fast_block(f, below(&r, 4))[below(&r, below(&r, 2) ? 64 : BS)] =
				below(&r, 2) ? (uint8_t)below(&r, 12) : (uint8_t)rnd(&r);
		assert_known(try_fast(f->l, FC_TID, &tags, &bytes, &commits));
		mem_free(tags);
		for (uint32_t b = 0; b < 4; b++)
			memcpy(fast_block(f, b), good[b], BS);
	}
	fast_destroy(f);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_is_replayed),
		cmocka_unit_test(log_wraps_at_every_block),
		cmocka_unit_test(log_fills_the_ring),
		cmocka_unit_test(numbers_wrap),
		cmocka_unit_test(empty_journal_has_nothing_to_do),
		cmocka_unit_test(old_superblock_has_no_features),
		cmocka_unit_test(revoke_covers_its_own_and_earlier),
		cmocka_unit_test(revokes_have_64_bits),
		cmocka_unit_test(deleted_tags_are_like_others),
		cmocka_unit_test(tags_without_uuid_are_read),
		cmocka_unit_test(v1_without_checksum_counts),
		cmocka_unit_test(cut_at_every_block),
		cmocka_unit_test(cut_at_every_byte_of_the_commit),
		cmocka_unit_test(damage_in_the_middle_is_refused),
		cmocka_unit_test(revoked_copy_may_be_damaged),
		cmocka_unit_test(async_commit_may_be_incomplete),
		cmocka_unit_test(left_over_of_another_journal_is_the_end),
		cmocka_unit_test(log_without_end_ends),
		cmocka_unit_test(copies_outside_are_refused),
		cmocka_unit_test(revoke_count_is_checked),
		cmocka_unit_test(superblock_is_checked),
		cmocka_unit_test(runs_are_checked),
		cmocka_unit_test(mutated_logs_end),
		cmocka_unit_test(read_errors_come_back),
		cmocka_unit_test(recovery_is_idempotent),
		cmocka_unit_test(no_memory_is_survived),
		cmocka_unit_test(overlay_reads_copies_where_they_lie),
		cmocka_unit_test(copies_may_be_overwritten),
		cmocka_unit_test(repeated_revokes_take_no_memory),
		cmocka_unit_test(fast_commits_are_found),
		cmocka_unit_test(fast_commits_fill_the_area),
		cmocka_unit_test(damaged_fast_commit_is_the_end),
		cmocka_unit_test(fast_commit_cut_at_every_block),
		cmocka_unit_test(fast_commit_needs_a_head),
		cmocka_unit_test(fast_values_have_their_lengths),
		cmocka_unit_test(fast_area_is_checked),
		cmocka_unit_test(info_tells_the_layout),
		cmocka_unit_test(mutated_fast_commits_end),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	print_message("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
