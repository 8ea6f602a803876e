/* SPDX-License-Identifier: MIT */
/*
 * journal/, the writing half: a fake client of a few blocks on a device that remembers everything.
 *
 * The client's first block is its "bitmap": it says of every other block whether it is metadata
 * (and of which version), file data (of which value), or free.  Each operation is one handle and
 * counts itself there.  So a recovered image tells by itself which operation was the last one, and
 * what every block must then hold: it is right if that is an operation not older than the last one
 * whose commit was acknowledged.
 *
 * A power cut may come at every request.  What was written before the last flush is there; of what
 * was written since, every sector has any of the versions it could have.
 *
 * Usage: journal_write [SEED]
 */
#include "base/diag.h"
#include "base/mem.h"
#include "base/sum.h"

/* cmocka has a macro of this name. */
static inline int io_error(void)
{
	return fail(-EIO, "failed on purpose");
}

#include "journal/handle.h"
#include "journal/txn_priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define BS 1024u
#define SECTOR 512u
#define HOME_BLOCKS 64u	  /* of the file system; the client's are FIRST.. */
#define CLIENT_BLOCKS 10u /* with the bitmap, which is block FIRST */
#define FIRST 20u
/* A journal with fast commits has 1,024 blocks at least, but need not use the first of them. */
#define LOG_BLOCKS 1056u
#define LOG_FIRST 736u
#define FAST_BLOCKS 32u
#define FAST_PLACE 688u /* where these lie on the device */
#define DISK_BLOCKS 804u
#define EXTERNAL_BLOCKS 320u

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

/* ---- a device that remembers ----------------------------------------------------------------- */

struct disk;

struct event {
	struct disk *disk;
	uint64_t offset;
	uint32_t bytes; /* 0: a flush */
	uint8_t *data;
	uint32_t acked; /* the client's operations when it was issued */
	uint32_t issued;
};

/* Of one or two devices, in the order in which they were issued. */
struct record {
	struct mutex lock;
	struct event *events;
	size_t count, capacity;
	bool on;
	_Atomic uint32_t acked, issued;
	uint64_t fail_write, fail_flush; /* which one from now on fails; 0: none */
	bool failed;
	unsigned writes_after_failure;
};

struct disk {
	struct dev dev;
	uint8_t *bytes;
	uint8_t *durable; /* when recording began; while cuts are tried, up to the last flush */
	struct record *record;
	size_t pending; /* while cuts are tried: the first event that may be missing */
};

static struct disk *disk_of(struct dev *d)
{
	return container_of(d, struct disk, dev);
}

static void record_add(struct record *r, struct event e)
{
	if (!r->on)
		return;
	if (r->count == r->capacity) {
		r->capacity = r->capacity ? 2 * r->capacity : 1024;
		r->events = realloc(r->events, r->capacity * sizeof(e));
	}
	e.acked = r->acked;
	e.issued = r->issued;
	if (e.bytes != 0) {
		e.data = malloc(e.bytes);
		memcpy(e.data, e.disk->bytes + e.offset, e.bytes);
	}
	r->events[r->count++] = e;
}

static bool counts_down(uint64_t *left)
{
	return *left != 0 && --*left == 0;
}

static int disk_read(struct dev *d, uint64_t offset, const struct iovec *iov, int n, uint64_t bytes)
{
	struct disk *k = disk_of(d);

	mutex_lock(&k->record->lock);
	for (int i = 0; i < n; i++) {
		memcpy(iov[i].iov_base, k->bytes + offset, iov[i].iov_len);
		offset += iov[i].iov_len;
	}
	mutex_unlock(&k->record->lock);
	return 0;
}

static int disk_write(struct dev *d, uint64_t offset, const struct iovec *iov, int n,
		      uint64_t bytes)
{
	struct disk *k = disk_of(d);
	struct record *r = k->record;
	uint8_t *to = k->bytes + offset;
	bool fails;

	mutex_lock(&r->lock);
	r->writes_after_failure += r->failed;
	fails = counts_down(&r->fail_write);
	for (int i = 0; i < n && !fails; i++) {
		memcpy(to, iov[i].iov_base, iov[i].iov_len);
		to += iov[i].iov_len;
	}
	if (!fails)
		record_add(r,
			   (struct event){ .disk = k, .offset = offset, .bytes = (uint32_t)bytes });
	r->failed |= fails;
	mutex_unlock(&r->lock);
	return fails ? io_error() : 0;
}

static int disk_flush(struct dev *d)
{
	struct disk *k = disk_of(d);
	struct record *r = k->record;
	bool fails;

	mutex_lock(&r->lock);
	fails = counts_down(&r->fail_flush);
	if (!fails)
		record_add(r, (struct event){ .disk = k });
	r->failed |= fails;
	mutex_unlock(&r->lock);
	return fails ? io_error() : 0;
}

static void disk_close(struct dev *d) {}

static const struct dev_ops disk_ops = {
	.name = "disk",
	.read = disk_read,
	.write = disk_write,
	.flush = disk_flush,
	.close = disk_close,
};

static struct disk *disk_create(struct record *r, size_t blocks)
{
	struct disk *k = calloc(1, sizeof(*k));

	k->bytes = calloc(blocks, BS);
	k->durable = calloc(blocks, BS);
	k->record = r;
	dev_init(&k->dev, &disk_ops, blocks * BS, NULL);
	return k;
}

static void disk_destroy(struct disk *k)
{
	if (k == NULL)
		return;
	free(k->bytes);
	free(k->durable);
	free(k);
}

static struct record *record_create(void)
{
	struct record *r = calloc(1, sizeof(*r));

	mutex_init(&r->lock, RANK_record);
	return r;
}

static void record_clear(struct record *r)
{
	for (size_t i = 0; i < r->count; i++)
		free(r->events[i].data);
	r->count = 0;
}

static void record_destroy(struct record *r)
{
	record_clear(r);
	free(r->events);
	mutex_finish(&r->lock);
	free(r);
}

/* From here on everything counts. */
static void disk_start(struct disk *k)
{
	memcpy(k->durable, k->bytes, k->dev.size);
	k->pending = 0;
	k->record->on = true;
}

static void event_apply(const struct event *e, uint8_t *bytes)
{
	memcpy(bytes + e->offset, e->data, e->bytes);
}

/* The cut that is tried moves behind event @i. */
static void disk_pass(struct disk *k, size_t i)
{
	const struct event *events = k->record->events;

	if (events[i].disk != k || events[i].bytes != 0)
		return;
	for (; k->pending < i; k->pending++) {
		if (events[k->pending].disk == k && events[k->pending].bytes != 0)
			event_apply(&events[k->pending], k->durable);
	}
}

/*
 * What may be on the disk after a cut in front of event @end: of what was not flushed, each sector
 * of each write with odds of @odds in 4.
 */
static void disk_cut(const struct disk *k, size_t end, uint64_t *r, uint32_t odds, uint8_t *bytes)
{
	memcpy(bytes, k->durable, k->dev.size);
	for (size_t i = k->pending; i < end; i++) {
		const struct event *e = &k->record->events[i];

		if (e->disk != k)
			continue;
		for (uint32_t at = 0; at < e->bytes; at += SECTOR) {
			if (below(r, 4) < odds)
				memcpy(bytes + e->offset + at, e->data + at, SECTOR);
		}
	}
}

/* ---- journals -------------------------------------------------------------------------------- */

struct kind {
	unsigned csum; /* 0 to 3 */
	bool wide;
	bool external;
};

static const struct kind kinds[] = {
	{ 3, true, false },  { 0, false, false }, { 0, true, false },
	{ 1, false, false }, { 1, true, false },  { 2, false, false },
	{ 2, true, false },  { 3, false, false }, { 3, true, true },
};

static uint8_t *journal_super_at(struct disk *k, const struct kind *kind)
{
	return k->bytes + (kind->external ? 2 : HOME_BLOCKS) * BS;
}

/* Where the journal lies on its device: if it is not external, scattered. */
static size_t journal_runs_of(const struct kind *kind, struct journal_run runs[4])
{
	if (kind->external) {
		runs[0] = (struct journal_run){ 0, 1, 2 };
		runs[1] = (struct journal_run){ 1, EXTERNAL_BLOCKS - 1, 1 };
		return 2;
	}
	runs[0] = (struct journal_run){ 0, 1, HOME_BLOCKS };
	runs[1] = (struct journal_run){ 1, LOG_FIRST - 1, HOME_BLOCKS + 1 }; /* not used */
	runs[2] = (struct journal_run){ LOG_FIRST, 100, 300 };
	runs[3] = (struct journal_run){ LOG_FIRST + 100, 220, 500 };
	return 4;
}

static void journal_format(struct disk *k, const struct kind *kind, uint32_t sequence)
{
	struct journal_superblock_s sb = { 0 };
	uint32_t incompat = 0;

	sb.s_header.h_magic = be32_make(JBD2_MAGIC_NUMBER);
	sb.s_header.h_blocktype = be32_make(JBD2_SUPERBLOCK_V2);
	sb.s_blocksize = be32_make(BS);
	sb.s_maxlen = be32_make(kind->external ? EXTERNAL_BLOCKS : LOG_BLOCKS);
	sb.s_first = be32_make(kind->external ? 3 : LOG_FIRST);
	sb.s_sequence = be32_make(sequence);
	sb.s_nr_users = be32_make(7);
	if (!kind->external) {
		sb.s_num_fc_blks = be32_make(FAST_BLOCKS);
		incompat |= JBD2_FEATURE_INCOMPAT_FAST_COMMIT;
		memset(k->bytes + FAST_PLACE * BS, 0xFC, FAST_BLOCKS * BS);
	}
	incompat |= kind->wide ? JBD2_FEATURE_INCOMPAT_64BIT : 0;
	incompat |= kind->csum == 2 ? JBD2_FEATURE_INCOMPAT_CSUM_V2 : 0;
	incompat |= kind->csum == 3 ? JBD2_FEATURE_INCOMPAT_CSUM_V3 : 0;
	sb.s_feature_incompat = be32_make(incompat);
	sb.s_feature_compat = be32_make(kind->csum == 1 ? JBD2_FEATURE_COMPAT_CHECKSUM : 0);
	memset(sb.s_uuid, 0x5A, sizeof(sb.s_uuid));
	memset(sb.s_users, 0xA5, sizeof(sb.s_users));
	if (kind->csum >= 2) {
		sb.s_checksum_type = JBD2_CRC32C_CHKSUM;
		sb.s_checksum = be32_make(crc32c(~0u, &sb, sizeof(sb)));
	}
	memcpy(journal_super_at(k, kind), &sb, sizeof(sb));
}

/* ---- the client ------------------------------------------------------------------------------ */

enum use { USE_FREE, USE_META, USE_DATA };

/* What the bitmap says; also the model. */
struct map {
	uint32_t magic;
	uint32_t op; /* the last operation */
	struct {
		uint32_t use;
		uint32_t value; /* version of metadata, value of data */
	} block[CLIENT_BLOCKS];
};

#define MAP_MAGIC 0x7062616du
#define OPS_MAX 20000u

struct client {
	const struct kind *kind; /* NULL: no journal */
	struct record *record;
	struct disk *home, *external;
	struct cache *cache;
	struct txn_log *log;
	struct map map;
	tid_t freed_in[CLIENT_BLOCKS]; /* not to be used before this has committed */
	bool frozen[CLIENT_BLOCKS];    /* freed, and not yet committed */
	uint64_t rnd;
	int aborted;
	uint32_t telling_ms;   /* how long it takes to be told of a commit */
	_Atomic tid_t told_of; /* the last one it was told of */
};

static int verify_any(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return 0;
}

static const struct buf_ops any_ops = { "block", verify_any };

/* Some versions begin with the magic number of the journal: their copies are escaped. */
static void fill_meta(uint8_t *data, uint32_t i, uint32_t value)
{
	be32 magic = be32_make(JBD2_MAGIC_NUMBER);

	memset(data, (int)(value * 7 + i), BS);
	memcpy(data + 16, &value, sizeof(value));
	memcpy(data + BS - 4, &value, sizeof(value));
	if (value % 3 == 0)
		memcpy(data, &magic, sizeof(magic));
}

static void fill_data(uint8_t *data, uint32_t i, uint32_t value)
{
	memset(data, (int)(value * 13 + i + 1), BS);
	memcpy(data + 16, &value, sizeof(value));
}

static void client_committed(void *arg, tid_t tid)
{
	struct client *c = arg;

	for (uint32_t i = 0; i < CLIENT_BLOCKS; i++) {
		if (c->frozen[i] && tid_reached(tid, c->freed_in[i]))
			c->frozen[i] = false;
	}
	if (c->telling_ms > 0)
		sleep_ms(c->telling_ms);
	atomic_store(&c->told_of, tid);
}

static void client_aborted(void *arg, int err)
{
	struct client *c = arg;

	c->aborted = err;
}

static const struct txn_log_ops client_ops = { client_committed, client_aborted };

static struct disk *journal_disk(const struct client *c)
{
	return c->external != NULL ? c->external : c->home;
}

static int client_open(struct client *c)
{
	struct txn_log_options options = {
		.ops = &client_ops,
		.arg = c,
		.dev = &c->home->dev,
		.commit_interval_ms = 1000000,
	};
	struct journal_run runs[4];
	struct journal *j;
	int err;

	err = cache_create(&c->home->dev, 4 << 20, &c->cache);
	if (err < 0)
		return err;
	cache_set_geometry(c->cache, BS, HOME_BLOCKS);
	options.cache = c->cache;
	if (c->kind == NULL) {
		err = txn_log_create_none(&options, &c->log);
	} else {
		size_t n = journal_runs_of(c->kind, runs);

		err = journal_open(&journal_disk(c)->dev, runs, n, BS, &j);
		if (err == 0) {
			err = txn_log_create(j, &options, &c->log);
			if (err < 0)
				journal_close(j);
		}
	}
	if (err < 0)
		cache_destroy(c->cache);
	return err;
}

static int client_close(struct client *c)
{
	int err = txn_log_destroy(c->log);

	cache_destroy(c->cache);
	return err;
}

static struct client *client_create(const struct kind *kind, uint32_t sequence)
{
	struct client *c = calloc(1, sizeof(*c));

	c->kind = kind;
	c->rnd = seed;
	c->record = record_create();
	c->home = disk_create(c->record, DISK_BLOCKS);
	if (kind != NULL && kind->external)
		c->external = disk_create(c->record, EXTERNAL_BLOCKS);
	if (kind != NULL)
		journal_format(journal_disk(c), kind, sequence);
	c->map.magic = MAP_MAGIC;
	memcpy(c->home->bytes + FIRST * BS, &c->map, sizeof(c->map));
	assert_int_equal(client_open(c), 0);
	return c;
}

static void client_destroy(struct client *c)
{
	disk_destroy(c->home);
	disk_destroy(c->external);
	record_destroy(c->record);
	free(c);
}

/* Puts the map, as the model has it, into its block. */
static int put_map(struct client *c, struct handle *h)
{
	struct buf *buf;
	int err;

	err = buf_read(c->cache, FIRST, &any_ops, 0, NULL, 0, &buf);
	if (err < 0)
		return err;
	err = handle_get_write(h, buf);
	if (err == 0) {
		memcpy(buf->data, &c->map, sizeof(c->map));
		handle_dirty(h, buf);
	}
	buf_put(buf);
	return err;
}

static int put_meta(struct client *c, struct handle *h, uint32_t i, bool create)
{
	struct buf *buf;
	int err;

	if (create)
		err = buf_create(c->cache, FIRST + i, &any_ops, 1, &buf);
	else
		err = buf_read(c->cache, FIRST + i, &any_ops, 1, NULL, 0, &buf);
	if (err < 0)
		return err;
	err = create ? handle_get_create(h, buf) : handle_get_write(h, buf);
	if (err == 0) {
		fill_meta(buf->data, i, c->map.block[i].value);
		handle_dirty(h, buf);
	}
	buf_put(buf);
	return err;
}

/* Writes data to a free block, past the journal: nobody can see it yet (J2). */
static int write_data(struct client *c, uint32_t i, uint32_t value)
{
	uint8_t data[BS];

	fill_data(data, i, value);
	return dev_write(&c->home->dev, (FIRST + i) * BS, data, BS);
}

/* One block moves on: metadata changes or is freed, a free block becomes either, data is freed. */
static int change_block(struct client *c, struct handle *h, uint32_t i, uint32_t dice)
{
	uint32_t op = c->map.op;

	switch (c->map.block[i].use) {
	case USE_FREE:
		if (c->frozen[i])
			return 0;
		if (dice == 0) {
			c->map.block[i].use = USE_DATA;
			c->map.block[i].value = op;
			return write_data(c, i, op);
		}
		c->map.block[i].use = USE_META;
		c->map.block[i].value = op;
		return put_meta(c, h, i, true);
	case USE_META:
		if (dice != 0) {
			c->map.block[i].value = op;
			return put_meta(c, h, i, false);
		}
		break;
	case USE_DATA:
		if (dice != 0)
			return 0;
		break;
	}
	c->frozen[i] = true;
	c->freed_in[i] = handle_tid(h);
	if (c->map.block[i].use == USE_META) {
		int err = handle_forget(h, FIRST + i);

		if (err < 0)
			return err;
	}
	c->map.block[i].use = USE_FREE;
	c->map.block[i].value = 0;
	return 0;
}

/* An operation: one handle that changes up to three blocks and the map. */
static int client_op(struct client *c)
{
	struct handle *h;
	int err;

	err = handle_start(c->log, 4, &h);
	if (err < 0)
		return err;
	c->record->issued = ++c->map.op;
	for (uint32_t n = 1 + below(&c->rnd, 3); n > 0 && err == 0; n--)
		err = change_block(c, h, 1 + below(&c->rnd, CLIENT_BLOCKS - 1), below(&c->rnd, 3));
	if (err == 0)
		err = put_map(c, h);
	return first_error(err, handle_stop(h));
}

/* Operations with commits, syncs and checkpoints in between. */
static int client_run(struct client *c, uint32_t ops, bool flushes)
{
	int err = 0;

	for (uint32_t i = 0; i < ops && err == 0; i++) {
		uint32_t dice = below(&c->rnd, 100);
		uint32_t op;

		err = client_op(c);
		op = c->map.op;
		if (err < 0 || dice >= 40)
			continue;
		if (dice == 0 && flushes)
			err = txn_log_flush(c->log);
		else if (dice < 10)
			err = txn_log_sync(c->log);
		else
			err = txn_log_commit(c->log, txn_log_running(c->log));
		if (err == 0)
			c->record->acked = op;
	}
	return err;
}

/* ---- judging --------------------------------------------------------------------------------- */

/* Does the image hold exactly what its map says, and the map an operation in [@acked, @issued]? */
static void judge(const uint8_t *bytes, uint32_t acked, uint32_t issued)
{
	const uint8_t *base = bytes + FIRST * BS;
	uint8_t expected[BS];
	struct map map;

	memcpy(&map, base, sizeof(map));
	assert_int_equal(map.magic, MAP_MAGIC);
	if (map.op < acked || map.op > issued)
		fail_msg("recovered to operation %u, acknowledged was %u, begun %u", map.op, acked,
			 issued);
	for (uint32_t i = 1; i < CLIENT_BLOCKS; i++) {
		if (map.block[i].use == USE_FREE)
			continue;
		if (map.block[i].use == USE_META)
			fill_meta(expected, i, map.block[i].value);
		else
			fill_data(expected, i, map.block[i].value);
		if (memcmp(expected, base + i * BS, BS) != 0)
			fail_msg("operation %u: block %u is not %s %u", map.op, i,
				 map.block[i].use == USE_META ? "metadata" : "data",
				 map.block[i].value);
	}
}

/* The state right after a clean end. */
static void judge_clean(struct client *c)
{
	const uint8_t *fast = c->home->bytes + FAST_PLACE * BS;

	for (uint32_t i = 0; i < FAST_BLOCKS * BS && c->kind != NULL && !c->kind->external; i++)
		assert_int_equal(fast[i], 0xFC);
	judge(c->home->bytes, c->map.op, c->map.op);
}

static int recover(struct dev *dev, struct dev *jdev, const struct kind *kind,
		   struct journal_recovery *ret)
{
	struct journal_run runs[4];
	struct journal *j;
	size_t n = journal_runs_of(kind, runs);
	int err;

	err = journal_open(jdev, runs, n, BS, &j);
	if (err < 0)
		return err;
	err = journal_recover(j, dev, HOME_BLOCKS, ret);
	if (err == 0)
		err = dev_flush(dev);
	if (err == 0)
		err = journal_mark_empty(j, ret->next_tid);
	journal_close(j);
	return err;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void every_kind_ends_clean(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct client *c = client_create(&kinds[i], 100);
		struct journal_recovery r;

		assert_int_equal(client_run(c, 1500, true), 0);
		assert_int_equal(client_close(c), 0);
		judge_clean(c);
		assert_int_equal(recover(&c->home->dev, &journal_disk(c)->dev, &kinds[i], &r), 0);
		assert_int_equal(r.transactions, 0);
		client_destroy(c);
	}
}

/* Recovers what a cut left, sometimes with a cut in the recovery as well (J8), and judges it. */
static void recover_and_judge(struct client *c, uint8_t *home, uint8_t *external, uint32_t acked,
			      uint32_t issued, uint64_t *r)
{
	struct record *record = record_create();
	struct disk *k = disk_create(record, c->home->dev.size / BS);
	struct disk *x = NULL;
	struct journal_recovery result;

	memcpy(k->bytes, home, k->dev.size);
	disk_start(k);
	if (external != NULL) {
		x = disk_create(record, c->external->dev.size / BS);
		memcpy(x->bytes, external, x->dev.size);
		disk_start(x);
	}
	assert_int_equal(recover(&k->dev, x ? &x->dev : &k->dev, c->kind, &result), 0);
	judge(k->bytes, acked, issued);
	if (below(r, 4) == 0 && record->count > 0) {
		size_t end = below(r, (uint32_t)record->count), i;
		uint32_t odds = below(r, 5);

		record->on = false;
		for (i = 0; i < end; i++) {
			disk_pass(k, i);
			if (x != NULL)
				disk_pass(x, i);
		}
		disk_cut(k, end, r, odds, k->bytes);
		if (x != NULL)
			disk_cut(x, end, r, odds, x->bytes);
		assert_int_equal(recover(&k->dev, x ? &x->dev : &k->dev, c->kind, &result), 0);
		judge(k->bytes, acked, issued);
	}
	disk_destroy(k);
	disk_destroy(x);
	record_destroy(record);
}

/* A cut in front of every event, @tries times, and behind the last. */
static size_t cut_everywhere(struct client *c, unsigned tries)
{
	uint8_t *home = malloc(c->home->dev.size), *external = NULL;
	struct record *record = c->record;
	uint64_t r = seed;
	size_t cuts = 0;

	if (c->external != NULL)
		external = malloc(c->external->dev.size);
	for (size_t i = 0; i <= record->count; i++) {
		const struct event *e = &record->events[i];
		bool end = i == record->count;

		for (unsigned n = 0; n < tries; n++, cuts++) {
			uint32_t odds = below(&r, 5);

			disk_cut(c->home, i, &r, odds, home);
			if (external != NULL)
				disk_cut(c->external, i, &r, odds, external);
			recover_and_judge(c, home, external, end ? record->acked : e->acked,
					  end ? record->issued : e->issued, &r);
		}
		if (end)
			break;
		disk_pass(c->home, i);
		if (external != NULL)
			disk_pass(c->external, i);
	}
	free(home);
	free(external);
	return cuts;
}

static void client_start_record(struct client *c)
{
	disk_start(c->home);
	if (c->external != NULL)
		disk_start(c->external);
}

/* J1 J2 J3 J5 J8 */
static void power_may_fail_at_any_request(void **state)
{
	size_t cuts = 0;

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct client *c = client_create(&kinds[i], 100);

		c->rnd += i;
		client_start_record(c);
		assert_int_equal(client_run(c, 600, true), 0);
		assert_int_equal(client_close(c), 0);
		judge_clean(c);
		cuts += cut_everywhere(c, 1);
		client_destroy(c);
	}
	print_message("%zu cuts\n", cuts);
}

static void without_a_journal(void **state)
{
	struct client *c = client_create(NULL, 0);

	assert_int_equal(client_run(c, 3000, true), 0);
	assert_int_equal(client_close(c), 0);
	judge_clean(c);
	client_destroy(c);
}

struct committer {
	struct client *c;
	uint32_t block;
};

static void committer_run(void *arg)
{
	struct committer *m = arg;

	for (unsigned round = 0; round < 20; round++) {
		struct handle *h;
		tid_t tid;

		assert_int_equal(handle_start(m->c->log, 1, &h), 0);
		tid = handle_tid(h);
		assert_int_equal(put_meta(m->c, h, m->block, false), 0);
		assert_int_equal(handle_stop(h), 0);
		if (round % 2)
			assert_int_equal(txn_log_commit(m->c->log, tid), 0);
		else
			assert_int_equal(txn_log_sync(m->c->log), 0);
		assert_true(tid_reached(atomic_load(&m->c->told_of), tid));
	}
}

/* Whoever waits for a commit finds what it freed, though another thread is still being told. */
static void commits_end_when_told(void **state)
{
	struct client *c = client_create(NULL, 0);
	struct committer m[2] = { { c, 1 }, { c, 2 } };
	struct thread *threads[2];

	c->telling_ms = 3;
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(thread_create("committer", committer_run, &m[i], &threads[i]), 0);
	for (unsigned i = 0; i < 2; i++)
		thread_join(threads[i]);
	assert_int_equal(client_close(c), 0);
	client_destroy(c);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_ends_clean),
		cmocka_unit_test(power_may_fail_at_any_request),
		cmocka_unit_test(without_a_journal),
		cmocka_unit_test(commits_end_when_told),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	print_message("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
