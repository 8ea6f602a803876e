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
 * Usage: journal_write [SEED], or journal_write speed [FILE] to measure: handles, and with a file,
 * which is overwritten, commits.
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
#include <unistd.h>

#include <cmocka.h>

#define BS 1024u
#define SECTOR 512u
#define HOME_BLOCKS 128u  /* of the file system; the client's are FIRST.. */
#define CLIENT_BLOCKS 10u /* with the bitmap, which is block FIRST */
#define FIRST 20u
#define BULK_FIRST 64u /* a row of blocks that change together, so many that the log is soon full */
#define BULK_BLOCKS 55u
/* A journal with fast commits has 1,024 blocks at least, but need not use the first of them. */
#define LOG_BLOCKS 1056u
#define LOG_FIRST 736u
#define FAST_BLOCKS 32u
#define FAST_PLACE 688u /* where these lie on the device */
#define DISK_BLOCKS 868u
#define EXTERNAL_BLOCKS 320u

static uint64_t seed = 1;

/* Under the thread sanitizer, where one thread alone proves little, there is less of that. */
#if defined(__SANITIZE_THREAD__)
enum { SLOW = 8 };
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
enum { SLOW = 8 };
#else
enum { SLOW = 1 };
#endif
#else
enum { SLOW = 1 };
#endif

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
	bool aborted;
	unsigned writes_after_abort;
	uint64_t hold; /* writes in front of this offset wait */
	unsigned held; /* that many do */
	struct cond changed;
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
	r->writes_after_abort += r->aborted;
	r->held++;
	cond_broadcast(&r->changed);
	while (offset < r->hold)
		cond_wait(&r->changed, &r->lock);
	r->held--;
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
	cond_init(&r->changed);
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
	cond_finish(&r->changed);
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

/* Back to the moment of disk_start(): @start is what `durable` was. */
static void disk_rewind(struct disk *k, const uint8_t *start)
{
	memcpy(k->durable, start, k->dev.size);
	k->pending = 0;
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
	uint32_t bulk; /* what the row holds */
};

#define MAP_MAGIC 0x7062616du
#define OPS_MAX 20000u

struct client {
	const struct kind *kind; /* NULL: no journal */
	struct record *record;
	struct disk *home, *external;
	struct cache *cache;
	struct txn_log *log;
	uint64_t rnd;

	struct mutex lock; /* RANK_group: an operation, so that one comes after the other */
	struct map map;
	tid_t freed_in[CLIENT_BLOCKS]; /* not to be used before this has committed */
	bool frozen[CLIENT_BLOCKS];    /* freed, and not yet committed */
	unsigned commits;
	int aborted;
	uint32_t telling_ms;	 /* how long it takes to be told of a commit */
	_Atomic tid_t told_of;	 /* the last one it was told of */
	_Atomic unsigned aborts; /* counted once `aborted` is there */
	bool add_features;
};

static int verify_any(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return 0;
}

static const struct buf_ops any_ops = { .name = "block", .verify = verify_any };

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

	mutex_lock(&c->lock);
	c->commits++;
	for (uint32_t i = 0; i < CLIENT_BLOCKS; i++) {
		if (c->frozen[i] && tid_reached(tid, c->freed_in[i]))
			c->frozen[i] = false;
	}
	mutex_unlock(&c->lock);
	if (c->telling_ms > 0)
		sleep_ms(c->telling_ms);
	atomic_store(&c->told_of, tid);
}

static void client_aborted(void *arg, int err)
{
	struct client *c = arg;

	c->aborted = err;
	c->aborts++;
	mutex_lock(&c->record->lock);
	c->record->aborted = true;
	mutex_unlock(&c->record->lock);
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
		.wide = c->add_features,
		.csum = c->add_features,
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
	mutex_init(&c->lock, RANK_group);
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
	mutex_finish(&c->lock);
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
		for (uint32_t at = 0; at < BS && create; at++)
			assert_int_equal(buf->data[at], 0);
		fill_meta(buf->data, i, c->map.block[i].value);
		handle_dirty(h, buf);
	}
	buf_put(buf);
	return err;
}

static int put_bulk(struct client *c, struct handle *h)
{
	int err = 0;

	c->map.bulk = c->map.op;
	for (uint32_t i = 0; i < BULK_BLOCKS && err == 0; i++) {
		struct buf *buf;

		err = buf_read(c->cache, BULK_FIRST + i, &any_ops, 1, NULL, 0, &buf);
		if (err < 0)
			break;
		err = handle_get_write(h, buf);
		if (err == 0) {
			memset(buf->data, (int)c->map.bulk, BS);
			handle_dirty(h, buf);
		}
		buf_put(buf);
	}
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
		if (dice != 0) { /* with what was there, or as a whole as data=journal does */
			c->map.block[i].value = op;
			return put_meta(c, h, i, dice == 1);
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

static int client_change(struct client *c, struct handle *h, uint64_t *r, bool bulk)
	REQUIRES(&c->lock)
{
	int err = 0;

	c->record->issued = ++c->map.op;
	if (bulk)
		err = put_bulk(c, h);
	for (uint32_t n = 1 + below(r, 3); n > 0 && err == 0; n--)
		err = change_block(c, h, 1 + below(r, CLIENT_BLOCKS - 1), below(r, 3));
	if (err == 0)
		err = put_map(c, h);
	return err;
}

/*
 * An operation: one handle that changes up to three blocks and the map.  What fails in the middle
 * of it aborts the journal, as a file system does.
 */
static int client_op(struct client *c, uint64_t *r, uint32_t *ret_op)
{
	bool bulk = below(r, 20) == 0;
	struct handle *h;
	int err;

	err = handle_start(c->log, bulk ? 4 + BULK_BLOCKS : 4, &h);
	if (err < 0)
		return err;
	mutex_lock(&c->lock);
	err = client_change(c, h, r, bulk);
	*ret_op = c->map.op;
	mutex_unlock(&c->lock);
	if (err < 0)
		txn_log_abort(c->log, err);
	return first_error(err, handle_stop(h));
}

static void record_ack(struct record *r, uint32_t op)
{
	uint32_t acked = r->acked;

	while (acked < op && !atomic_compare_exchange_weak(&r->acked, &acked, op))
		;
}

/* As the thread does it when the log fills, but at any time. */
static void client_checkpoint(struct client *c)
{
	struct txn_log *log = c->log;

	mutex_lock(&log->lock);
	while (log->checkpoint_busy)
		cond_wait(&log->changed, &log->lock);
	(void)checkpoint(log, log->room_max);
	mutex_unlock(&log->lock);
}

/* Operations with commits, syncs and checkpoints in between. */
static int client_work(struct client *c, uint64_t *r, uint32_t ops, bool flushes)
{
	uint32_t op;
	int err = 0;

	for (uint32_t i = 0; i < ops && err == 0; i++) {
		uint32_t dice = below(r, 100);

		err = client_op(c, r, &op);
		if (err == 0 && dice >= 95 && c->kind != NULL)
			client_checkpoint(c);
		if (err < 0 || dice >= 40)
			continue;
		if (dice == 0 && flushes)
			err = txn_log_flush(c->log);
		else if (dice < 10)
			err = txn_log_sync(c->log);
		else
			err = txn_log_commit(c->log, txn_log_running(c->log));
		if (err == 0)
			record_ack(c->record, op);
	}
	return err;
}

static int client_run(struct client *c, uint32_t ops, bool flushes)
{
	return client_work(c, &c->rnd, ops, flushes);
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
	for (uint32_t i = 0; i < BULK_BLOCKS * BS; i++) {
		if (bytes[BULK_FIRST * BS + i] != (uint8_t)map.bulk)
			fail_msg("operation %u: byte %u of the row", map.op, i);
	}
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

/* The log is empty, and the next transaction has a number that none has had. */
static void judge_empty(struct dev *jdev, const struct kind *kind, uint32_t next_tid)
{
	struct journal_run runs[4];
	struct journal_info info;
	struct journal *j;

	assert_int_equal(journal_open(jdev, runs, journal_runs_of(kind, runs), BS, &j), 0);
	journal_get_info(j, &info);
	assert_int_equal(info.start, 0);
	assert_true(tid_reached(info.sequence, next_tid));
	journal_close(j);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void every_kind_ends_clean(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct client *c = client_create(&kinds[i], 100);
		struct journal_recovery r;

		assert_int_equal(client_run(c, 1500 / SLOW, true), 0);
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
	judge_empty(x ? &x->dev : &k->dev, c->kind, result.next_tid);
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
	uint8_t *start = malloc(c->home->dev.size);
	struct record *record = c->record;
	uint64_t r = seed;
	size_t cuts = 0;

	memcpy(start, c->home->durable, c->home->dev.size);
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
	disk_rewind(c->home, start);
	free(start);
	free(home);
	free(external);
	return cuts;
}

static void cut_some(struct client *c)
{
	if (SLOW == 1)
		cut_everywhere(c, 1);
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
		assert_int_equal(client_run(c, 600 / SLOW, true), 0);
		assert_int_equal(client_close(c), 0);
		judge_clean(c);
		cuts += cut_everywhere(c, 1);
		client_destroy(c);
	}
	print_message("%zu cuts\n", cuts);
}

/* Four threads, whose operations come in one order but whose commits come as they like (J10). */
struct worker {
	struct client *c;
	uint64_t rnd;
	uint32_t ops;
	struct thread *thread;
	int err;
};

static void worker_run(void *arg)
{
	struct worker *w = arg;

	w->err = client_work(w->c, &w->rnd, w->ops, true);
}

static void run_workers(struct client *c, uint32_t ops)
{
	struct worker workers[4];

	for (size_t i = 0; i < ARRAY_SIZE(workers); i++) {
		workers[i] = (struct worker){ .c = c, .rnd = seed + 77 * i + 1, .ops = ops };
		assert_int_equal(
			thread_create("worker", worker_run, &workers[i], &workers[i].thread), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(workers); i++) {
		thread_join(workers[i].thread);
		assert_int_equal(workers[i].err, 0);
	}
}

static void many_threads(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct client *c = client_create(&kinds[i == 0 ? 0 : 8], 100);

		client_start_record(c);
		run_workers(c, 300);
		assert_int_equal(client_close(c), 0);
		judge_clean(c);
		cut_some(c);
		client_destroy(c);
	}
}

static void many_threads_without_a_journal(void **state)
{
	struct client *c = client_create(NULL, 0);

	run_workers(c, 2000);
	assert_int_equal(client_close(c), 0);
	judge_clean(c);
	client_destroy(c);
}

/* Number 0 means none, and is passed over with an empty log. */
static void numbers_wrap(void **state)
{
	struct client *c = client_create(&kinds[0], UINT32_MAX - 40);

	client_start_record(c);
	run_workers(c, 100);
	assert_true(txn_log_running(c->log) < 1000);
	assert_int_equal(client_close(c), 0);
	judge_clean(c);
	cut_some(c);
	client_destroy(c);
}

/* What an image is after a failure: not older than the last acknowledged operation. */
static void judge_as_is(struct client *c)
{
	uint64_t r = seed;

	recover_and_judge(c, c->home->bytes, c->external ? c->external->bytes : NULL,
			  c->record->acked, c->record->issued, &r);
}

/* J7 */
static void judge_aborted(struct client *c)
{
	/* What failed may have been the thread's, just now. */
	while (c->aborts == 0)
		sleep_ms(1);
	assert_int_not_equal(c->aborted, 0);
	assert_int_equal(txn_log_error(c->log), c->aborted);
	assert_int_equal(client_run(c, 1, true), -EROFS);
	assert_int_equal(c->aborts, 1);
	assert_int_equal(txn_log_sync(c->log), c->aborted);
	assert_int_equal(txn_log_flush(c->log), c->aborted);
	assert_int_equal(client_close(c), c->aborted);
	judge_as_is(c);
}

enum failure { FAIL_WRITE, FAIL_FLUSH };

/* The @nth of these fails; false if there are not so many. */
static bool fail_nth(const struct kind *kind, enum failure what, uint64_t nth)
{
	struct client *c = client_create(kind, 100);
	bool failed;
	int err;

	if (what == FAIL_WRITE)
		c->record->fail_write = nth;
	else
		c->record->fail_flush = nth;
	err = client_run(c, 150, true);
	failed = c->record->failed;
	if (failed) {
		judge_aborted(c);
		/* One that another thread was about to make. */
		assert_true(c->record->writes_after_abort <= 1);
	} else {
		assert_int_equal(err, 0);
		c->record->fail_write = c->record->fail_flush = 0;
		assert_int_equal(client_close(c), 0);
		judge_clean(c);
	}
	client_destroy(c);
	return failed;
}

static void any_write_may_fail(void **state)
{
	for (uint64_t nth = 1; fail_nth(&kinds[0], FAIL_WRITE, nth); nth += SLOW)
		;
	for (uint64_t nth = 1; fail_nth(&kinds[8], FAIL_WRITE, nth); nth += 7)
		;
}

/* A flush that failed is not tried again as if nothing had been lost. */
static void any_flush_may_fail(void **state)
{
	for (uint64_t nth = 1; fail_nth(&kinds[0], FAIL_FLUSH, nth); nth += SLOW)
		;
	for (uint64_t nth = 1; fail_nth(&kinds[8], FAIL_FLUSH, nth); nth += 3)
		;
}

static void any_allocation_may_fail(void **state)
{
	uint64_t nth = 1, counted;

	for (bool done = false; !done; nth += SLOW) {
		struct client *c = client_create(&kinds[0], 100);
		int err;

		(void)mem_fail_nth(nth);
		err = client_run(c, 60, true);
		counted = mem_fail_nth(0);
		done = counted < nth;
		if (c->aborts != 0) {
			judge_aborted(c);
		} else {
			assert_true(err == 0 || err == -ENOMEM);
			assert_int_equal(client_close(c), 0);
			judge(c->home->bytes, c->record->acked, c->record->issued);
		}
		client_destroy(c);
	}
	assert_true(nth > 20);
}

static void opening_may_fail(void **state)
{
	bool done = false;

	for (uint64_t nth = 1; !done; nth++) {
		struct client *c = client_create(&kinds[0], 100);
		int err;

		assert_int_equal(client_close(c), 0);
		(void)mem_fail_nth(nth);
		err = client_open(c);
		done = mem_fail_nth(0) < nth;
		assert_int_equal(err, done ? 0 : -ENOMEM);
		if (err == 0)
			assert_int_equal(client_close(c), 0);
		client_destroy(c);
	}
}

/* J6 */
static void credits_are_not_exceeded(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	struct handle *h, *h2;
	struct buf *a, *b;

	assert_int_equal(handle_start(c->log, txn_log_credits_max(c->log) + 1, &h), -ENOSPC);
	assert_int_equal(handle_start(c->log, txn_log_credits_max(c->log), &h), 0);
	assert_int_equal(handle_credits(h), txn_log_credits_max(c->log));
	assert_false(handle_extend(h, 1));
	assert_int_equal(handle_stop(h), 0);

	assert_int_equal(handle_start(c->log, 1, &h), 0);
	assert_int_equal(buf_read(c->cache, 1, &any_ops, 0, NULL, 0, &a), 0);
	assert_int_equal(buf_read(c->cache, 2, &any_ops, 0, NULL, 0, &b), 0);
	assert_int_equal(handle_get_write(h, a), 0);
	assert_int_equal(handle_credits(h), 0);
	assert_int_equal(handle_get_write(h, a), 0); /* costs once */
	assert_int_equal(handle_get_write(h, b), -ENOSPC);
	assert_true(handle_extend(h, 2));
	assert_int_equal(handle_get_write(h, b), 0);
	assert_int_equal(handle_credits(h), 1);
	memset(a->data, 'a', BS);
	memset(b->data, 'b', BS);
	handle_dirty(h, a); /* b was not changed after all: it is not written */
	assert_int_equal(handle_stop(h), 0);
	assert_int_equal(handle_start(c->log, 1, &h2), 0);
	assert_int_equal(handle_get_write(h2, a), 0); /* nor to another handle */
	assert_int_equal(handle_credits(h2), 1);
	assert_int_equal(handle_stop(h2), 0);
	buf_put(a);
	buf_put(b);
	assert_int_equal(txn_log_flush(c->log), 0);
	assert_int_equal(c->home->bytes[BS], 'a');
	assert_int_equal(c->home->bytes[2 * BS], 0);
	assert_int_equal(client_close(c), 0);
	client_destroy(c);
}

struct committer {
	struct txn_log *log;
	tid_t tid;
	int err;
	_Atomic bool done;
	struct thread *thread;
};

static void committer_run(void *arg)
{
	struct committer *m = arg;

	m->err = txn_log_commit(m->log, m->tid);
	m->done = true;
}

static void committer_start(struct committer *m, struct txn_log *log)
{
	*m = (struct committer){ .log = log, .tid = txn_log_running(log) };
	assert_int_equal(thread_create("commit", committer_run, m, &m->thread), 0);
}

static void committer_join(struct committer *m)
{
	thread_join(m->thread);
	assert_int_equal(m->err, 0);
}

static void hold_writes(struct record *r, uint64_t below_offset)
{
	mutex_lock(&r->lock);
	r->hold = below_offset;
	cond_broadcast(&r->changed);
	mutex_unlock(&r->lock);
}

static void wait_held(struct record *r)
{
	mutex_lock(&r->lock);
	while (r->held == 0)
		cond_wait(&r->changed, &r->lock);
	mutex_unlock(&r->lock);
}

/* M3: while a commit is being written its buffers change again, and what it writes does not. */
static void nobody_waits_for_a_commit(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	struct committer m;
	uint32_t op;

	client_start_record(c);
	assert_int_equal(client_op(c, &c->rnd, &op), 0);
	hold_writes(c->record, UINT64_MAX);
	committer_start(&m, c->log);
	wait_held(c->record);
	for (unsigned i = 0; i < 50; i++) {
		struct handle *h;

		assert_int_equal(handle_start(c->log, 4, &h), 0);
		c->record->issued = ++c->map.op;
		assert_int_equal(put_map(c, h), 0);
		assert_int_equal(handle_stop(h), 0);
	}
	assert_false(m.done);
	hold_writes(c->record, 0);
	committer_join(&m);
	record_ack(c->record, op);
	judge_as_is(c);
	assert_int_equal(client_close(c), 0);
	judge_clean(c);
	client_destroy(c);
}

static void checkpointer_run(void *arg)
{
	struct txn_log *log = arg;

	mutex_lock(&log->lock);
	(void)checkpoint(log, log->room_max);
	mutex_unlock(&log->lock);
}

/* One operation that gives block 1 a new version, or frees it. */
static void change_first(struct client *c, bool create, bool free)
{
	struct handle *h;

	assert_int_equal(handle_start(c->log, 4, &h), 0);
	mutex_lock(&c->lock);
	c->record->issued = ++c->map.op;
	c->map.block[1].use = free ? USE_FREE : USE_META;
	c->map.block[1].value = c->map.op;
	if (free)
		assert_int_equal(handle_forget(h, FIRST + 1), 0);
	else
		assert_int_equal(put_meta(c, h, 1, create), 0);
	assert_int_equal(put_map(c, h), 0);
	mutex_unlock(&c->lock);
	assert_int_equal(handle_stop(h), 0);
}

/*
 * J3, J4: a block that is on its way home for an older transaction while the one that freed it is
 * committed.  Nobody is told that it may be used again before it has arrived.
 */
static void freed_block_arrives_before_reuse(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	struct thread *checkpointer;
	struct committer m;

	change_first(c, true, false);
	assert_int_equal(txn_log_sync(c->log), 0);
	change_first(c, false, true);
	assert_int_equal(c->commits, 1);
	hold_writes(c->record, HOME_BLOCKS * BS);
	assert_int_equal(thread_create("checkpoint", checkpointer_run, c->log, &checkpointer), 0);
	wait_held(c->record);
	committer_start(&m, c->log);
	sleep_ms(100);
	mutex_lock(&c->lock);
	assert_int_equal(c->commits, 1);
	mutex_unlock(&c->lock);
	assert_false(m.done);
	hold_writes(c->record, 0);
	committer_join(&m);
	thread_join(checkpointer);
	assert_int_equal(c->commits, 2);
	assert_int_equal(client_close(c), 0);
	judge_clean(c);
	client_destroy(c);
}

/* J7: what was being committed when the journal was aborted does not become valid. */
static void abort_ends_a_commit(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	struct committer m;

	client_start_record(c);
	change_first(c, true, false);
	hold_writes(c->record, UINT64_MAX);
	committer_start(&m, c->log);
	wait_held(c->record);
	txn_log_abort(c->log, -EUCLEAN);
	hold_writes(c->record, 0);
	thread_join(m.thread);
	assert_int_equal(m.err, -EUCLEAN);
	/* The superblock was held; then the blocks of the transaction may follow, but no record. */
	assert_true(c->record->writes_after_abort <= 1);
	c->record->issued = 0;
	judge_as_is(c);
	assert_int_equal(client_close(c), -EUCLEAN);
	client_destroy(c);
}

/* Takes the recovered image of a cut anywhere as its own, and begins anew on it. */
static void client_revive(struct client *c, uint64_t *r)
{
	size_t end = below(r, (uint32_t)c->record->count);
	struct journal_recovery result;
	uint32_t odds = below(r, 5);

	c->record->on = false;
	for (size_t i = 0; i < end; i++)
		disk_pass(c->home, i);
	disk_cut(c->home, end, r, odds, c->home->bytes);
	record_clear(c->record);
	assert_int_equal(recover(&c->home->dev, &c->home->dev, c->kind, &result), 0);
	memcpy(&c->map, c->home->bytes + FIRST * BS, sizeof(c->map));
	judge(c->home->bytes, c->map.op, c->map.op);
	memset(c->frozen, 0, sizeof(c->frozen));
	c->record->acked = c->record->issued = c->map.op;
	disk_start(c->home);
	assert_int_equal(client_open(c), 0);
}

/* Cut, recovered, used again, and so on. */
static void life_goes_on(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	uint64_t r = seed;

	client_start_record(c);
	for (unsigned round = 0; round < 60 / SLOW; round++) {
		assert_int_equal(client_run(c, 20, true), 0);
		assert_int_equal(client_close(c), 0);
		judge_clean(c);
		if (round % 8 == 0)
			cut_everywhere(c, 1);
		client_revive(c, &r);
	}
	assert_int_equal(client_close(c), 0);
	client_destroy(c);
}

/* J7: nor does anything go home, nor the tail move, after an abort. */
static void abort_ends_a_checkpoint(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	struct thread *checkpointer;

	client_start_record(c);
	change_first(c, true, false);
	assert_int_equal(txn_log_sync(c->log), 0);
	record_ack(c->record, c->map.op);
	hold_writes(c->record, HOME_BLOCKS * BS);
	assert_int_equal(thread_create("checkpoint", checkpointer_run, c->log, &checkpointer), 0);
	wait_held(c->record);
	txn_log_abort(c->log, -EUCLEAN);
	hold_writes(c->record, 0);
	thread_join(checkpointer);
	assert_int_equal(c->record->writes_after_abort, 0);
	client_checkpoint(c);
	assert_int_equal(c->record->writes_after_abort, 0);
	judge_as_is(c);
	assert_int_equal(client_close(c), -EUCLEAN);
	client_destroy(c);
}

/* The end of a commit leaves the next transaction's hold on its buffers alone. */
static void claims_outlast_a_commit(void **state)
{
	struct client *c = client_create(NULL, 0);
	struct committer m;
	struct handle *h;
	struct buf *buf;
	uint32_t op;

	assert_int_equal(client_op(c, &c->rnd, &op), 0);
	hold_writes(c->record, UINT64_MAX);
	committer_start(&m, c->log);
	wait_held(c->record);
	assert_int_equal(handle_start(c->log, 1, &h), 0);
	assert_int_equal(buf_read(c->cache, FIRST, &any_ops, 0, NULL, 0, &buf), 0);
	assert_int_equal(handle_get_write(h, buf), 0);
	hold_writes(c->record, 0);
	while (!m.done)
		sleep_ms(1);
	assert_int_equal(atomic_load(&buf->journal.tid), handle_tid(h));
	handle_dirty(h, buf);
	buf_put(buf);
	assert_int_equal(handle_stop(h), 0);
	committer_join(&m);
	assert_int_equal(client_close(c), 0);
	client_destroy(c);
}

/* No copy in the log begins like a control block. */
static void copies_are_escaped(void **state)
{
	struct client *c = client_create(&kinds[1], 100);
	const be32 magic = be32_make(JBD2_MAGIC_NUMBER);
	unsigned controls = 0;
	struct handle *h;

	assert_int_equal(handle_start(c->log, 4, &h), 0);
	mutex_lock(&c->lock);
	c->map.block[1].value = 3;
	assert_int_equal(put_meta(c, h, 1, true), 0);
	mutex_unlock(&c->lock);
	assert_int_equal(handle_stop(h), 0);
	assert_int_equal(txn_log_sync(c->log), 0);
	for (uint32_t b = 300; b < 400; b++)
		controls += memcmp(c->home->bytes + b * BS, &magic, sizeof(magic)) == 0;
	assert_int_equal(controls, 2); /* a descriptor and a commit record */
	assert_int_equal(client_close(c), 0);
	assert_memory_equal(c->home->bytes + (FIRST + 1) * BS, &magic, sizeof(magic));
	client_destroy(c);
}

/* A block that is about to be written as a whole goes home with its old bytes until it is. */
static void old_bytes_go_home(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	uint8_t expected[BS];
	struct buf *buf;

	change_first(c, true, false);
	assert_int_equal(txn_log_sync(c->log), 0);
	assert_int_equal(buf_create(c->cache, FIRST + 1, &any_ops, 1, &buf), 0);
	client_checkpoint(c);
	fill_meta(expected, 1, c->map.block[1].value);
	assert_memory_equal(c->home->bytes + (FIRST + 1) * BS, expected, BS);
	buf_put(buf);
	assert_int_equal(client_close(c), 0);
	judge_clean(c);
	client_destroy(c);
}

static void release_later(void *arg)
{
	sleep_ms(50);
	hold_writes(arg, 0);
}

/* Without a journal a freed block may be data at once: then nothing old comes behind it. */
static void freed_block_is_not_written_behind(void **state)
{
	struct client *c = client_create(NULL, 0);
	struct committer m;
	struct thread *releaser;
	struct handle *h;
	uint8_t data[BS];

	assert_int_equal(handle_start(c->log, 2, &h), 0);
	mutex_lock(&c->lock);
	c->map.block[1].value = 5;
	assert_int_equal(put_meta(c, h, 1, true), 0);
	mutex_unlock(&c->lock);
	assert_int_equal(handle_stop(h), 0);
	hold_writes(c->record, UINT64_MAX);
	committer_start(&m, c->log);
	wait_held(c->record);
	assert_int_equal(thread_create("release", release_later, c->record, &releaser), 0);
	assert_int_equal(handle_start(c->log, 2, &h), 0);
	assert_int_equal(handle_forget(h, FIRST + 1), 0);
	mutex_lock(&c->record->lock);
	assert_int_equal(c->record->hold, 0);
	mutex_unlock(&c->record->lock);
	assert_int_equal(write_data(c, 1, 9), 0);
	assert_int_equal(handle_stop(h), 0);
	committer_join(&m);
	thread_join(releaser);
	fill_data(data, 1, 9);
	assert_memory_equal(c->home->bytes + (FIRST + 1) * BS, data, BS);
	assert_int_equal(client_close(c), 0);
	assert_memory_equal(c->home->bytes + (FIRST + 1) * BS, data, BS);
	client_destroy(c);
}

/* A handle that wants more goes on in the next transaction when a commit waits for it. */
static void restart_lets_a_commit_pass(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	struct committer m;
	struct handle *h;
	tid_t tid;

	assert_int_equal(handle_start(c->log, 4, &h), 0);
	tid = handle_tid(h);
	c->map.op++;
	assert_int_equal(put_map(c, h), 0);
	assert_int_equal(handle_restart(h, 3), 0); /* has them */
	assert_int_equal(handle_tid(h), tid);
	assert_int_equal(handle_restart(h, 10), 0); /* gets them */
	assert_int_equal(handle_tid(h), tid);
	assert_int_equal(handle_credits(h), 10);
	committer_start(&m, c->log);
	while (!(atomic_load(&c->log->gate) & GATE_CLOSED))
		sleep_ms(1);
	assert_int_equal(handle_restart(h, 20), 0);
	assert_int_equal(handle_tid(h), tid + 1);
	assert_int_equal(handle_credits(h), 20);
	assert_int_equal(handle_stop(h), 0);
	committer_join(&m);
	assert_true(txn_log_is_committed(c->log, tid));
	/* Nothing changed in it: it is not committed, and nobody waits for it. */
	assert_int_equal(txn_log_commit(c->log, tid + 1), 0);
	assert_int_equal(txn_log_running(c->log), tid + 1);
	assert_int_equal(client_close(c), 0);
	judge_clean(c);
	client_destroy(c);
}

/* Credits that are promised to others come back, also if these change nothing. */
static void waits_for_promised_credits(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	struct worker w = { .c = c, .rnd = 5, .ops = 1 };
	struct handle *h;

	assert_int_equal(handle_start(c->log, txn_log_credits_max(c->log), &h), 0);
	assert_int_equal(thread_create("worker", worker_run, &w, &w.thread), 0);
	sleep_ms(20);
	assert_int_equal(handle_stop(h), 0);
	thread_join(w.thread);
	assert_int_equal(w.err, 0);
	assert_int_equal(client_close(c), 0);
	judge_clean(c);
	client_destroy(c);
}

/* Changes 30 blocks of the second half. */
static void change_much(struct client *c, uint8_t value, uint8_t *model)
{
	struct handle *h;

	assert_int_equal(handle_start(c->log, 30, &h), 0);
	for (uint32_t i = 0; i < 30; i++) {
		uint32_t b = (value + i) % 32;
		struct buf *buf;

		assert_int_equal(buf_read(c->cache, 64 + b, &any_ops, 0, NULL, 0, &buf), 0);
		assert_int_equal(handle_get_write(h, buf), 0);
		memset(buf->data, value, BS);
		handle_dirty(h, buf);
		buf_put(buf);
		model[b] = value;
	}
	assert_int_equal(handle_stop(h), 0);
}

/* An operation that wants much finds room by itself, however often it comes. */
static void full_transactions_are_committed(void **state)
{
	for (size_t i = 0; i <= ARRAY_SIZE(kinds); i++) {
		const struct kind *kind = i < ARRAY_SIZE(kinds) ? &kinds[i] : NULL;
		struct client *c = client_create(kind, 100);
		uint8_t model[32] = { 0 };

		for (uint32_t n = 0; n < 400; n++)
			change_much(c, (uint8_t)n, model);
		assert_int_equal(client_close(c), 0);
		for (uint32_t b = 0; b < 32 * BS; b++)
			assert_int_equal(c->home->bytes[64 * BS + b], model[b / BS]);
		client_destroy(c);
	}
}

/* Revokes have room of their own; beyond it they cost credits; nothing is lost when these end. */
static void revokes_are_bounded(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	struct journal_recovery r;
	struct handle *h;
	blk_t blk = 0;
	int err = 0;

	assert_int_equal(handle_start(c->log, 3, &h), 0);
	while (err == 0 && blk < 100000)
		err = handle_forget(h, 1000 + blk++);
	assert_int_equal(err, -ENOSPC);
	assert_int_equal(handle_credits(h), 0);
	assert_int_equal(handle_stop(h), 0);
	assert_int_equal(txn_log_sync(c->log), 0);
	assert_int_equal(recover(&c->home->dev, &c->home->dev, &kinds[0], &r), 0);
	assert_int_equal(r.revokes, blk - 1);
	/* Many handles that free some each: the thread commits before it becomes tight. */
	for (blk = 0; blk < 100000; blk += 100) {
		assert_int_equal(handle_start(c->log, 1, &h), 0);
		for (uint32_t i = 0; i < 100; i++)
			assert_int_equal(handle_forget(h, 1000 + blk + i), 0);
		assert_int_equal(handle_stop(h), 0);
	}
	assert_int_equal(client_close(c), 0);
	client_destroy(c);
}

/* Freed and taken again within one transaction: its copy counts. */
static void revoke_is_cancelled(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	struct handle *h;

	client_start_record(c);
	change_first(c, true, false);
	assert_int_equal(txn_log_sync(c->log), 0);
	assert_int_equal(handle_start(c->log, 4, &h), 0);
	assert_int_equal(put_meta(c, h, 1, false), 0);
	assert_int_equal(handle_stop(h), 0);
	change_first(c, false, true);
	change_first(c, true, false);
	assert_int_equal(txn_log_sync(c->log), 0);
	record_ack(c->record, c->map.op);
	judge_as_is(c);
	assert_int_equal(client_close(c), 0);
	judge_clean(c);
	client_destroy(c);
}

/* The thread commits what is old enough. */
static void time_commits(void **state)
{
	struct client *c = client_create(&kinds[0], 100);
	uint64_t end;
	uint32_t op;
	tid_t tid;

	c->log->interval_ns = 20 * 1000000;
	assert_int_equal(client_op(c, &c->rnd, &op), 0);
	tid = txn_log_running(c->log);
	end = clock_mono_ns() + UINT64_C(20000000000);
	while (!txn_log_is_committed(c->log, tid) && clock_mono_ns() < end)
		sleep_ms(1);
	assert_true(txn_log_is_committed(c->log, tid));
	assert_int_equal(client_close(c), 0);
	client_destroy(c);
}

/* All fields of the superblock but those that say where the log begins stay what they are. */
static void superblock_keeps_its_fields(void **state)
{
	struct client *c = client_create(&kinds[8], 100);
	struct journal_superblock_s before, after;
	uint8_t *place = journal_super_at(c->external, c->kind);

	memcpy(&before, place, sizeof(before));
	assert_int_equal(client_run(c, 200, false), 0);
	memcpy(&after, place, sizeof(after));
	assert_int_not_equal(be32_get(after.s_start), 0);
	assert_int_equal(client_close(c), 0);
	memcpy(&after, place, sizeof(after));
	assert_int_equal(be32_get(after.s_start), 0);
	assert_true(be32_get(after.s_sequence) > 100);
	assert_int_equal(be32_get(after.s_feature_incompat) & ~be32_get(before.s_feature_incompat),
			 JBD2_FEATURE_INCOMPAT_REVOKE);
	before.s_sequence = after.s_sequence;
	before.s_feature_incompat = after.s_feature_incompat;
	before.s_checksum = be32_make(0);
	before.s_checksum = be32_make(crc32c(~0u, &before, sizeof(before)));
	assert_memory_equal(&before, &after, sizeof(before));
	client_destroy(c);
}

/* What the file system has the journal gets: here from none to 64 bits and checksums. */
static void features_are_added(void **state)
{
	struct client *c = client_create(&kinds[1], 100);
	struct kind better = kinds[0];
	struct journal_info info;
	struct journal_run runs[4];
	struct journal *j;

	assert_int_equal(client_close(c), 0);
	c->add_features = true;
	assert_int_equal(client_open(c), 0);
	c->kind = &better;
	client_start_record(c);
	assert_int_equal(client_run(c, 100, true), 0);
	assert_int_equal(client_close(c), 0);
	judge_clean(c);
	cut_everywhere(c, 1);
	assert_int_equal(journal_open(&c->home->dev, runs, journal_runs_of(c->kind, runs), BS, &j),
			 0);
	journal_get_info(j, &info);
	assert_int_equal(info.checksum, 3);
	assert_true(j->wide);
	journal_close(j);
	client_destroy(c);
}

static void without_a_journal(void **state)
{
	struct client *c = client_create(NULL, 0);

	assert_int_equal(client_run(c, 3000, true), 0);
	assert_int_equal(client_close(c), 0);
	judge_clean(c);
	client_destroy(c);
}

struct teller {
	struct client *c;
	uint32_t block;
};

static void teller_run(void *arg)
{
	struct teller *m = arg;

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
	struct teller m[2] = { { c, 1 }, { c, 2 } };
	struct thread *threads[2];

	c->telling_ms = 3;
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(thread_create("teller", teller_run, &m[i], &threads[i]), 0);
	for (unsigned i = 0; i < 2; i++)
		thread_join(threads[i]);
	assert_int_equal(client_close(c), 0);
	client_destroy(c);
}

/* ---- speed ----------------------------------------------------------------------------------- */

#define SPEED_OPS 2000000u

struct runner {
	struct client *c;
	uint32_t i;	 /* block */
	uint32_t blocks; /* changed by each handle */
	struct thread *thread;
};

static void runner_run(void *arg)
{
	struct runner *w = arg;
	struct buf *bufs[4];
	struct handle *h;

	for (uint32_t b = 0; b < w->blocks; b++)
		assert_int_equal(buf_read(w->c->cache, w->i + b, &any_ops, 0, NULL, 0, &bufs[b]),
				 0);
	for (uint32_t n = 0; n < SPEED_OPS; n++) {
		assert_int_equal(handle_start(w->c->log, w->blocks, &h), 0);
		for (uint32_t b = 0; b < w->blocks; b++) {
			assert_int_equal(handle_get_write(h, bufs[b]), 0);
			bufs[b]->data[n % BS]++;
			handle_dirty(h, bufs[b]);
		}
		assert_int_equal(handle_stop(h), 0);
	}
	for (uint32_t b = 0; b < w->blocks; b++)
		buf_put(bufs[b]);
}

static void speed_of_handles(unsigned threads, uint32_t blocks)
{
	struct client *c = client_create(&kinds[0], 100);
	struct runner w[4];
	uint64_t begin = clock_mono_ns();

	for (unsigned i = 0; i < threads; i++) {
		w[i] = (struct runner){ .c = c, .i = 1 + 4 * i, .blocks = blocks };
		assert_int_equal(thread_create("speed", runner_run, &w[i], &w[i].thread), 0);
	}
	for (unsigned i = 0; i < threads; i++)
		thread_join(w[i].thread);
	print_message("start, %u x (get_write, dirty), stop; %u threads: %.0f ns\n", blocks,
		      threads, (double)(clock_mono_ns() - begin) / SPEED_OPS);
	assert_int_equal(client_close(c), 0);
	client_destroy(c);
}

/* A file with a journal of 4k blocks, of which 1 to 8 are the client's. */
static struct txn_log *speed_open(struct dev *d, struct cache **ret_cache)
{
	struct journal_superblock_s sb = { 0 };
	struct journal_run run = { 0, 4096, 16 };
	struct txn_log_options options = { .dev = d };
	struct txn_log *log;
	struct journal *j;

	sb.s_header.h_magic = be32_make(JBD2_MAGIC_NUMBER);
	sb.s_header.h_blocktype = be32_make(JBD2_SUPERBLOCK_V2);
	sb.s_blocksize = be32_make(4096);
	sb.s_maxlen = be32_make(4096);
	sb.s_first = be32_make(1);
	sb.s_sequence = be32_make(1);
	assert_int_equal(dev_write(d, 16 * 4096, &sb, sizeof(sb)), 0);
	assert_int_equal(cache_create(d, 64 << 20, ret_cache), 0);
	cache_set_geometry(*ret_cache, 4096, 16);
	options.cache = *ret_cache;
	options.wide = options.csum = true;
	assert_int_equal(journal_open(d, &run, 1, 4096, &j), 0);
	assert_int_equal(txn_log_create(j, &options, &log), 0);
	return log;
}

struct syncer {
	struct txn_log *log;
	struct cache *cache;
	blk_t blk;
	uint32_t count;
	struct thread *thread;
};

static void syncer_run(void *arg)
{
	struct syncer *w = arg;

	for (uint32_t n = 0; n < w->count; n++) {
		struct handle *h;
		struct buf *buf;
		tid_t tid;

		assert_int_equal(buf_read(w->cache, w->blk, &any_ops, 0, NULL, 0, &buf), 0);
		assert_int_equal(handle_start(w->log, 1, &h), 0);
		assert_int_equal(handle_get_write(h, buf), 0);
		buf->data[0]++;
		handle_dirty(h, buf);
		tid = handle_tid(h);
		assert_int_equal(handle_stop(h), 0);
		buf_put(buf);
		assert_int_equal(txn_log_commit(w->log, tid), 0);
	}
}

static void speed_of_commits(const char *path, unsigned threads)
{
	const uint32_t count = 3000;
	struct syncer w[4];
	struct cache *cache;
	struct txn_log *log;
	uint64_t begin, plain;
	struct dev *d;
	uint8_t data[4096] = { 0 };

	assert_int_equal(truncate(path, 4200 * 4096), 0);
	assert_int_equal(dev_file_open(path, 0, 0, DEV_FILE_WRITE, &d), 0);
	/* Blocks of a file that has none yet cost a journal below. */
	for (uint32_t n = 0; n < 4200; n++)
		assert_int_equal(dev_write(d, n * 4096, data, 4096), 0);
	assert_int_equal(dev_flush(d), 0);
	begin = clock_mono_ns();
	for (uint32_t n = 0; n < count; n++) {
		assert_int_equal(dev_write(d, n * 4096, data, 4096), 0);
		assert_int_equal(dev_flush(d), 0);
	}
	plain = clock_mono_ns() - begin;
	log = speed_open(d, &cache);
	begin = clock_mono_ns();
	for (unsigned i = 0; i < threads; i++) {
		w[i] = (struct syncer){ .log = log, .cache = cache, .blk = i, .count = count };
		assert_int_equal(thread_create("speed", syncer_run, &w[i], &w[i].thread), 0);
	}
	for (unsigned i = 0; i < threads; i++)
		thread_join(w[i].thread);
	print_message("%u threads: %.0f commits wanted per second; write + fdatasync: %.0f\n",
		      threads, 1e9 * count * threads / (double)(clock_mono_ns() - begin),
		      1e9 * count / (double)plain);
	assert_int_equal(txn_log_destroy(log), 0);
	cache_destroy(cache);
	dev_close(d);
}

static int measure(const char *path)
{
	for (unsigned threads = 1; threads <= 2; threads++) {
		speed_of_handles(threads, 1);
		speed_of_handles(threads, 4);
	}
	if (path == NULL)
		return 0;
	for (unsigned threads = 1; threads <= 4; threads *= 2)
		speed_of_commits(path, threads);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_ends_clean),
		cmocka_unit_test(power_may_fail_at_any_request),
		cmocka_unit_test(without_a_journal),
		cmocka_unit_test(commits_end_when_told),
		cmocka_unit_test(many_threads),
		cmocka_unit_test(many_threads_without_a_journal),
		cmocka_unit_test(numbers_wrap),
		cmocka_unit_test(any_write_may_fail),
		cmocka_unit_test(any_flush_may_fail),
		cmocka_unit_test(any_allocation_may_fail),
		cmocka_unit_test(opening_may_fail),
		cmocka_unit_test(credits_are_not_exceeded),
		cmocka_unit_test(nobody_waits_for_a_commit),
		cmocka_unit_test(freed_block_arrives_before_reuse),
		cmocka_unit_test(abort_ends_a_commit),
		cmocka_unit_test(abort_ends_a_checkpoint),
		cmocka_unit_test(claims_outlast_a_commit),
		cmocka_unit_test(copies_are_escaped),
		cmocka_unit_test(old_bytes_go_home),
		cmocka_unit_test(life_goes_on),
		cmocka_unit_test(freed_block_is_not_written_behind),
		cmocka_unit_test(restart_lets_a_commit_pass),
		cmocka_unit_test(waits_for_promised_credits),
		cmocka_unit_test(full_transactions_are_committed),
		cmocka_unit_test(revokes_are_bounded),
		cmocka_unit_test(revoke_is_cancelled),
		cmocka_unit_test(time_commits),
		cmocka_unit_test(superblock_keeps_its_fields),
		cmocka_unit_test(features_are_added),
	};

	if (argc > 1 && strcmp(argv[1], "speed") == 0)
		return measure(argc > 2 ? argv[2] : NULL);
	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	print_message("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
