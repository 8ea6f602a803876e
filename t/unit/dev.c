/* SPDX-License-Identifier: MIT */
/*
 * dev/: the contract wrapper's checks; the overlay, written and redirected, against a plain copy of
 * the device, that it asks below only for what it does not have, and that it does not grow forever;
 * that a recording device's log says what was written and what is durable, whoever fails or waits;
 * image files with windows, short and interrupted reads; and that an image which somebody else has
 * in use is refused, with words that name the user.
 *
 * Loop devices are made only where this process may (root); otherwise those tests skip.
 *
 * Usage: dev [SEED]
 */
#include "base/base.h"
#include "base/diag.h"
#include "base/mem.h"
#include "dev/dev.h"
#include "dev/record.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define BYTES (64u << 10)
#define BLOCK 1024u

static uint64_t seed = 1;

static uint64_t rnd(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

static void fill_random(uint8_t *p, size_t bytes, uint64_t *r)
{
	for (size_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)rnd(r);
}

/* The text of the last failure, which must contain @words. */
static void assert_says(const char *words)
{
	if (strstr(diag_text(), words) == NULL)
		print_error("\"%s\" is not in \"%s\"\n", words, diag_text());
	assert_non_null(strstr(diag_text(), words));
}

/*
 * The engine's preadv() lands here, so that reads can come in pieces and interrupted, as a signal
 * or a request beyond 2 GiB makes them.
 */
static bool io_is_rough;
static uint64_t rough_state = 1;

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
	ssize_t done = 0;

	for (int i = 0; i < count; i++) {
		size_t want = iov[i].iov_len;
		ssize_t n;

		if (want == 0)
			continue;
		if (io_is_rough && rnd(&rough_state) % 3 == 0) {
			errno = EINTR;
			return -1;
		}
		if (io_is_rough)
			want = 1 + rnd(&rough_state) % want;
		n = pread(fd, iov[i].iov_base, want, offset + done);
		if (n < 0)
			return done > 0 ? done : n;
		done += n;
		if (io_is_rough ? rnd(&rough_state) % 2 : (size_t)n < want)
			break;
		if ((size_t)n < iov[i].iov_len)
			break;
	}
	return done;
}

/* ---- the contract -------------------------------------------------------------------------- */

static uint64_t reads_of(const struct dev *d)
{
	return dev_bottom_stats(d)->reads;
}

static void wrapper_checks_ranges(void **state UNUSED)
{
	uint8_t data[100] = { 1, 2, 3 }, buf[200];
	struct dev *d;

	assert_int_equal(dev_ram_create(data, sizeof(data), &d), 0);
	assert_int_equal(dev_read(d, 0, buf, 100), 0);
	assert_memory_equal(buf, data, 100);
	assert_int_equal(dev_read(d, 99, buf, 1), 0);
	assert_int_equal(dev_read(d, 100, buf, 0), 0);
	assert_int_equal(reads_of(d), 2); /* of nothing: no request */

	assert_int_equal(dev_read(d, 99, buf, 2), -EIO);
	assert_says("2 bytes at offset 99 reach behind the end of the image (100 bytes)");
	assert_int_equal(dev_read(d, 101, buf, 0), -EIO);
	assert_int_equal(dev_read(d, UINT64_MAX, buf, 2), -EIO);
	assert_int_equal(dev_write(d, 60, buf, 41), -EIO);
	dev_prefetch(d, UINT64_MAX, UINT64_MAX);

	assert_int_equal(reads_of(d), 2);
	assert_int_equal(dev_bottom_stats(d)->bytes_read, 101);
	dev_close(d);
	dev_close(NULL);
}

static void readv_scatters(void **state UNUSED)
{
	uint8_t data[] = "0123456789", a[3], b[4];
	struct iovec iov[] = { { a, 3 }, { NULL, 0 }, { b, 4 } };
	struct dev *d;

	assert_int_equal(dev_ram_create(data, 10, &d), 0);
	assert_int_equal(dev_readv(d, 2, iov, 3), 0);
	assert_memory_equal(a, "234", 3);
	assert_memory_equal(b, "5678", 4);
	assert_int_equal(dev_readv(d, 4, iov, 3), -EIO);
	assert_int_equal(dev_readv(d, 4, iov, 0), 0);
	dev_close(d);
}

static void fail_hits_the_nth(void **state UNUSED)
{
	uint8_t data[16] = "abc", buf[4];
	_Atomic uint64_t failed = 0;
	struct dev *ram, *d;

	assert_int_equal(dev_ram_create(data, sizeof(data), &ram), 0);
	assert_int_equal(dev_fail_create(ram, &d), 0);
	assert_int_equal(dev_read(d, 0, buf, 4), 0);
	dev_fail_nth_read(d, 2);
	assert_int_equal(dev_read(d, 0, buf, 4), 0);
	assert_int_equal(dev_read(d, 8, buf, 4), -EIO);
	assert_says("injected error reading 4 bytes at offset 8");
	assert_int_equal(dev_read(d, 0, buf, 4), 0);
	dev_fail_nth_read(d, 1);
	dev_fail_nth_read(d, 0);
	assert_int_equal(dev_read(d, 0, buf, 4), 0);
	assert_int_equal(reads_of(d), 4); /* the failed one did not get there */
	assert_int_equal(dev_write(d, 0, "x", 1), 0);
	assert_int_equal(data[0], 'x');
	dev_fail_count_in(d, &failed);
	dev_fail_for_good(d, true);
	dev_fail_nth_write(d, 2);
	assert_int_equal(dev_write(d, 0, "y", 1), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(dev_write(d, 0, "z", 1), -EIO);
	assert_int_equal(data[0], 'y');
	assert_int_equal(dev_read(d, 0, buf, 4), 0);
	dev_close(d);
	assert_int_equal(failed, 3);
}

/* ---- record -------------------------------------------------------------------------------- */

struct record_log {
	uint8_t *bytes;
	size_t size, at;
	struct record_entry entry; /* what log_next() returned last */
};

static char record_path[64];

static struct record_log log_load(void)
{
	struct record_log l = { .at = sizeof(struct record_head) };
	const struct record_head *head;
	struct stat st;
	int fd = open(record_path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	l.size = (size_t)st.st_size;
	l.bytes = malloc(l.size);
	assert_int_equal(read(fd, l.bytes, l.size), l.size);
	close(fd);
	unlink(record_path);
	head = (const struct record_head *)l.bytes;
	assert_true(head->magic == RECORD_MAGIC);
	assert_int_equal(head->device_bytes, BYTES);
	return l;
}

/* The next entry, or NULL at the end; *ret_data: of a write. */
static const struct record_entry *log_next(struct record_log *l, const uint8_t **ret_data)
{
	struct record_entry *e = &l->entry;

	if (l->at == l->size)
		return NULL;
	assert_true(l->at + sizeof(*e) <= l->size);
	memcpy(e, l->bytes + l->at, sizeof(*e)); /* it follows bytes of any number */
	l->at += sizeof(*e);
	*ret_data = l->bytes + l->at;
	if (e->kind == RECORD_WRITE)
		l->at += e->bytes;
	assert_true(l->at <= l->size);
	return e;
}

static struct dev *recorder(struct dev *below)
{
	struct dev *d;
	int fd;

	snprintf(record_path, sizeof(record_path), "/tmp/unit-dev-log-XXXXXX");
	fd = mkstemp(record_path);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(dev_record_create(below, record_path, &d), 0);
	return d;
}

/* What each request leaves in the log, also one that fails. */
static void record_says_what_happened(void **state UNUSED)
{
	static const struct {
		uint32_t kind;
		uint64_t id, offset, bytes;
		const char *data;
	} want[] = {
		{ RECORD_WRITE, 1, 5, 6, "abcdef" }, { RECORD_DONE, 1, 0, 0, "" },
		{ RECORD_MARK, 77, 0, 0, "" },	     { RECORD_FLUSH, 2, 0, 0, "" },
		{ RECORD_FLUSHED, 2, 0, 0, "" },     { RECORD_WRITE, 3, 0, 1, "x" },
		{ RECORD_FLUSH, 4, 0, 0, "" },	     { RECORD_DISCARD, 5, BYTES - 8, 8, "" },
	};
	static uint8_t data[BYTES];
	char abc[] = "abc", def[] = "def";
	struct iovec iov[] = { { abc, 3 }, { abc, 0 }, { def, 3 } };
	const struct record_entry *e;
	struct dev *ram, *failing, *d;
	struct record_log log;
	const uint8_t *bytes;

	assert_int_equal(dev_ram_create(data, sizeof(data), &ram), 0);
	assert_int_equal(dev_fail_create(ram, &failing), 0);
	d = recorder(failing);
	assert_int_equal(dev_writev(d, 5, iov, 3), 0);
	dev_record_mark(d, 77);
	assert_int_equal(dev_flush(d), 0);
	dev_fail_nth_write(failing, 1);
	assert_int_equal(dev_write(d, 0, "x", 1), -EIO);
	dev_fail_nth_flush(failing, 1);
	assert_int_equal(dev_flush(d), -EIO);
	dev_discard(d, BYTES - 8, 100); /* cut off */
	dev_close(d);
	assert_memory_equal(data, "\0\0\0\0\0abcdef", 11);

	log = log_load();
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		e = log_next(&log, &bytes);
		assert_non_null(e);
		assert_int_equal(e->kind, want[i].kind);
		assert_int_equal(e->id, want[i].id);
		assert_int_equal(e->offset, want[i].offset);
		assert_int_equal(e->bytes, want[i].bytes);
		assert_memory_equal(bytes, want[i].data, strlen(want[i].data));
	}
	assert_null(log_next(&log, &bytes));
	free(log.bytes);
}

#define RECORD_THREADS 4u
#define RECORD_ROUNDS 300u

struct record_writer {
	pthread_t thread;
	struct dev *dev;
	unsigned number;
};

static void *record_writer(void *arg)
{
	struct record_writer *w = arg;
	uint64_t r = seed * 977 + w->number + 1;
	uint8_t buf[256];

	for (unsigned i = 0; i < RECORD_ROUNDS; i++) {
		uint32_t part = BYTES / RECORD_THREADS;
		uint64_t bytes = 1 + rnd(&r) % sizeof(buf);

		fill_random(buf, bytes, &r);
		if (dev_write(w->dev, w->number * part + rnd(&r) % (part - bytes), buf, bytes) < 0)
			abort();
		if (rnd(&r) % 8 == 0 && dev_flush(w->dev) < 0)
			abort();
	}
	return NULL;
}

/*
 * Many threads: nothing is lost or torn apart in the log, a request comes before its success, and
 * the log leads to what the device holds.
 */
static void record_of_many_threads(void **state UNUSED)
{
	static uint8_t data[BYTES], replayed[BYTES];
	static uint32_t seen[2 * RECORD_THREADS * RECORD_ROUNDS + 1];
	struct record_writer writers[RECORD_THREADS];
	const struct record_entry *e;
	unsigned writes = 0;
	struct record_log log;
	const uint8_t *bytes;
	struct dev *ram, *d;

	assert_int_equal(dev_ram_create(data, sizeof(data), &ram), 0);
	d = recorder(ram);
	for (unsigned i = 0; i < RECORD_THREADS; i++) {
		writers[i] = (struct record_writer){ .dev = d, .number = i };
		assert_int_equal(
			pthread_create(&writers[i].thread, NULL, record_writer, &writers[i]), 0);
	}
	for (unsigned i = 0; i < RECORD_THREADS; i++)
		pthread_join(writers[i].thread, NULL);
	dev_close(d);

	log = log_load();
	while ((e = log_next(&log, &bytes)) != NULL) {
		bool request = e->kind == RECORD_WRITE || e->kind == RECORD_FLUSH;

		assert_in_range(e->id, 1, ARRAY_SIZE(seen) - 1);
		/* A request is new; a success is that of a request of its kind. */
		assert_int_equal(seen[e->id], request ? 0 : e->kind - 1);
		seen[e->id] = e->kind;
		if (e->kind == RECORD_WRITE) {
			memcpy(replayed + e->offset, bytes, e->bytes);
			writes++;
		}
	}
	for (unsigned i = 1; seen[i] != 0; i++)
		assert_true(seen[i] == RECORD_DONE || seen[i] == RECORD_FLUSHED);
	assert_int_equal(writes, RECORD_THREADS * RECORD_ROUNDS);
	assert_memory_equal(replayed, data, BYTES);
	free(log.bytes);
}

/* A log that cannot be written is an error, and the device below stays the caller's. */
static void record_without_room_fails(void **state UNUSED)
{
	static uint8_t data[BYTES];
	struct dev *ram, *d;

	assert_int_equal(dev_ram_create(data, sizeof(data), &ram), 0);
	assert_int_equal(dev_record_create(ram, "/dev/full", &d), -EIO);
	assert_says("log of the recording device");
	assert_int_equal(dev_record_create(ram, "/nonexistent/log", &d), -ENOENT);
	dev_close(ram);
}

/* ---- overlay ------------------------------------------------------------------------------- */

struct stack {
	uint8_t below[BYTES], before[BYTES], model[BYTES];
	struct dev *fail, *top;
};

static struct stack *stack_create(uint64_t *r)
{
	struct stack *s = malloc(sizeof(*s));
	struct dev *ram;

	assert_non_null(s);
	fill_random(s->below, BYTES, r);
	memcpy(s->before, s->below, BYTES);
	memcpy(s->model, s->below, BYTES);
	assert_int_equal(dev_ram_create(s->below, BYTES, &ram), 0);
	assert_int_equal(dev_fail_create(ram, &s->fail), 0);
	assert_int_equal(dev_overlay_create(s->fail, BLOCK, &s->top), 0);
	return s;
}

static void stack_destroy(struct stack *s)
{
	assert_memory_equal(s->below, s->before, BYTES); /* never written */
	dev_close(s->top);
	free(s);
}

static void stack_write(struct stack *s, uint64_t block, size_t count, uint64_t *r)
{
	fill_random(s->model + block * BLOCK, count * BLOCK, r);
	assert_int_equal(dev_write(s->top, block * BLOCK, s->model + block * BLOCK, count * BLOCK),
			 0);
}

/* Reads a random range into random pieces and compares. */
static void stack_read_some(const struct stack *s, uint64_t *r)
{
	static uint8_t buf[BYTES + 100];
	struct iovec iov[DEV_IOV_MAX];
	uint64_t offset = rnd(r) % BYTES;
	size_t left = (size_t)(1 + rnd(r) % (rnd(r) % 2 ? 4 * BLOCK : BYTES));
	size_t done = 0;
	int count = 0;

	left = min_size(left, (size_t)(BYTES - offset));
	memset(buf, 0xee, left + 100);
	while (done < left && count < DEV_IOV_MAX - 1) {
		size_t n = (size_t)(rnd(r) % (rnd(r) % 2 ? 40 : 5000));

		n = min_size(n, left - done);
		iov[count++] = (struct iovec){ .iov_base = buf + done, .iov_len = n };
		done += n;
	}
	assert_int_equal(dev_readv(s->top, offset, iov, count), 0);
	assert_memory_equal(buf, s->model + offset, done);
	for (size_t i = done; i < done + 100; i++)
		assert_int_equal(buf[i], 0xee); /* nothing behind what was asked */
}

static void overlay_equals_model(void **state UNUSED)
{
	uint64_t r = seed;

	for (int round = 0; round < 10; round++) {
		struct stack *s = stack_create(&r);

		for (int step = 0; step < 60; step++) {
			uint64_t block = rnd(&r) % (BYTES / BLOCK);
			uint64_t room = BYTES / BLOCK - block;

			stack_write(s, block, (size_t)(1 + rnd(&r) % min_u64(room, 3)), &r);
			for (int i = 0; i < 10; i++)
				stack_read_some(s, &r);
		}
		stack_destroy(s);
	}
}

static void overlay_asks_below_for_runs(void **state UNUSED)
{
	static uint8_t buf[BYTES];
	uint64_t r = seed, before;
	struct stack *s = stack_create(&r);

	/* Empty: as if it were not there. */
	before = reads_of(s->top);
	assert_int_equal(dev_read(s->top, 5, buf, BYTES - 5), 0);
	assert_int_equal(reads_of(s->top), before + 1);

	/* [0 1) below, [1 3) here, [3 10) below, [10] here, [11 ..] below. */
	stack_write(s, 1, 2, &r);
	stack_write(s, 10, 1, &r);
	before = reads_of(s->top);
	assert_int_equal(dev_read(s->top, 0, buf, BYTES), 0);
	assert_memory_equal(buf, s->model, BYTES);
	assert_int_equal(reads_of(s->top), before + 3);

	/* All here: nothing is read below, which could not be read anyway. */
	dev_fail_nth_read(s->fail, 1);
	assert_int_equal(dev_read(s->top, BLOCK + 7, buf, 2 * BLOCK - 7), 0);
	assert_memory_equal(buf, s->model + BLOCK + 7, 2 * BLOCK - 7);
	assert_int_equal(dev_read(s->top, 10 * BLOCK, buf, BLOCK), 0);
	assert_int_equal(dev_read(s->top, 10 * BLOCK, buf, BLOCK + 1), -EIO);
	assert_says("injected error reading 1 bytes");
	stack_destroy(s);
}

static void overlay_survives_no_memory(void **state UNUSED)
{
	static uint8_t buf[BYTES];
	uint64_t r = seed, nth = 0;
	struct dev *d = NULL;
	int err;

	do {
		struct stack *s = stack_create(&r);
		uint8_t block[BLOCK] = { 42 };

		(void)mem_fail_nth(++nth);
		err = dev_write(s->top, 9 * BLOCK, block, BLOCK);
		(void)mem_fail_nth(0);
		assert_true(err == 0 || err == -ENOMEM);
		if (err == 0)
			memcpy(s->model + 9 * BLOCK, block, BLOCK);
		assert_int_equal(dev_read(s->top, 0, buf, BYTES), 0);
		assert_memory_equal(buf, s->model, BYTES);
		if (err < 0) {
			(void)mem_fail_nth(1);
			assert_int_equal(dev_overlay_create(s->top, BLOCK, &d), -ENOMEM);
			(void)mem_fail_nth(0);
			assert_null(d);
		}
		stack_destroy(s);
	} while (err < 0 && nth < 10);
	assert_int_equal(err, 0);
	assert_true(nth > 2); /* the block and its place in the index */
}

/* Block @to becomes what @from is below. */
static void stack_redirect(struct stack *s, uint64_t to, uint64_t from)
{
	assert_int_equal(dev_redirect(s->top, to * BLOCK, s->fail, from * BLOCK, BLOCK), 0);
	memcpy(s->model + to * BLOCK, s->before + from * BLOCK, BLOCK);
}

static void redirected_equals_model(void **state UNUSED)
{
	const uint64_t blocks = BYTES / BLOCK;
	uint64_t r = seed;

	for (int round = 0; round < 10; round++) {
		struct stack *s = stack_create(&r);

		for (int step = 0; step < 80; step++) {
			uint64_t to = rnd(&r) % blocks, from = rnd(&r) % blocks;
			uint64_t run = 1 + rnd(&r) % 4;

			if (rnd(&r) % 3 == 0)
				stack_write(s, to, 1, &r);
			else
				for (; run > 0 && to < blocks && from < blocks; run--)
					stack_redirect(s, to++, from++);
			for (int i = 0; i < 10; i++)
				stack_read_some(s, &r);
		}
		stack_destroy(s);
	}
}

static void redirect_keeps_what_it_saw(void **state UNUSED)
{
	static uint8_t buf[BYTES];
	uint64_t r = seed, before;
	struct stack *s = stack_create(&r);
	uint8_t other[BLOCK];
	struct dev *ram;

	/* A run is one request, and what is at its own place is not read. */
	for (uint64_t i = 0; i < 4; i++)
		stack_redirect(s, 8 + i, 40 + i);
	before = reads_of(s->top);
	assert_int_equal(dev_read(s->top, 8 * BLOCK, buf, 4 * BLOCK), 0);
	assert_memory_equal(buf, s->model + 8 * BLOCK, 4 * BLOCK);
	assert_int_equal(reads_of(s->top), before + 1);

	/* The source changes through the overlay: what was redirected does not. */
	stack_write(s, 40, 4, &r);
	stack_redirect(s, 41, 50);
	assert_int_equal(dev_read(s->top, 0, buf, BYTES), 0);
	assert_memory_equal(buf, s->model, BYTES);

	/* From the overlay itself while the source is what it was; else it has to be written. */
	assert_int_equal(dev_redirect(s->top, 20 * BLOCK, s->top, 21 * BLOCK, BLOCK), 0);
	memcpy(s->model + 20 * BLOCK, s->before + 21 * BLOCK, BLOCK);
	assert_int_equal(dev_redirect(s->top, 22 * BLOCK, s->top, 40 * BLOCK, BLOCK), -EOPNOTSUPP);
	assert_int_equal(dev_redirect(s->top, 22 * BLOCK, s->top, 8 * BLOCK, BLOCK), -EOPNOTSUPP);

	/* Not from elsewhere, nor between blocks, nor from behind the end. */
	assert_int_equal(dev_ram_create(other, BLOCK, &ram), 0);
	assert_int_equal(dev_redirect(s->top, 0, ram, 0, BLOCK), -EOPNOTSUPP);
	assert_int_equal(dev_redirect(ram, 0, s->top, 0, BLOCK), -EOPNOTSUPP);
	assert_int_equal(dev_redirect(s->top, 0, s->fail, 512, BLOCK), -EOPNOTSUPP);
	assert_int_equal(dev_redirect(s->top, 0, s->fail, BYTES, BLOCK), -EIO);
	assert_int_equal(dev_redirect(s->top, BYTES, s->fail, 0, BLOCK), -EIO);
	dev_close(ram);

	assert_int_equal(dev_read(s->top, 0, buf, BYTES), 0);
	assert_memory_equal(buf, s->model, BYTES);
	stack_destroy(s);
}

static void redirect_survives_no_memory(void **state UNUSED)
{
	static uint8_t buf[BYTES];
	uint64_t r = seed, nth = 0;
	int err;

	do {
		struct stack *s = stack_create(&r);

		stack_redirect(s, 9, 3); /* and lose it to a write that fails: it stays */
		(void)mem_fail_nth(++nth);
		err = dev_write(s->top, 9 * BLOCK, s->before, BLOCK);
		if (err == 0) {
			memcpy(s->model + 9 * BLOCK, s->before, BLOCK);
			err = dev_redirect(s->top, 7 * BLOCK, s->fail, 0, BLOCK);
		}
		if (err == 0)
			memcpy(s->model + 7 * BLOCK, s->before, BLOCK);
		(void)mem_fail_nth(0);
		assert_true(err == 0 || err == -ENOMEM);
		assert_int_equal(dev_read(s->top, 0, buf, BYTES), 0);
		assert_memory_equal(buf, s->model, BYTES);
		stack_destroy(s);
	} while (err < 0 && nth < 10);
	assert_int_equal(err, 0);
}

/* A disk of any size that is all zero. */
static int zero_read(struct dev *d UNUSED, uint64_t offset UNUSED, const struct iovec *iov,
		     int iov_count, uint64_t bytes UNUSED)
{
	for (int i = 0; i < iov_count; i++)
		memset(iov[i].iov_base, 0, iov[i].iov_len);
	return 0;
}

static void zero_close(struct dev *d UNUSED) {}

/* Until it is full; returns how many blocks fit. */
static uint64_t fill_overlay(struct dev *top, struct dev *source, uint32_t bs, uint64_t step)
{
	static uint8_t data[64u << 10];
	uint64_t n = 0;
	int err = 0;

	while (err == 0 && n * step * bs < top->size) {
		if (source != NULL)
			err = dev_redirect(top, n * step * bs, source, 0, bs);
		else
			err = dev_write(top, n * step * bs, data, bs);
		n += err == 0;
	}
	if (err < 0) {
		assert_int_equal(err, -ENOMEM);
		assert_says("replaying the journal needs more than 256 MiB of memory");
	}
	return n;
}

static void overlay_is_bounded(void **state UNUSED)
{
	static const struct dev_ops ops = { .name = "zero",
					    .read = zero_read,
					    .close = zero_close };
	struct dev zero, *top;
	uint64_t n;

	/* Written blocks count as what they are. */
	dev_init(&zero, &ops, UINT64_C(1) << 40, NULL);
	assert_int_equal(dev_overlay_create(&zero, 64u << 10, &top), 0);
	n = fill_overlay(top, NULL, 64u << 10, 1);
	assert_in_range(n, 4000, 4095);
	/* One that is redirected gives its memory back, so there is room for one. */
	assert_int_equal(dev_redirect(top, 0, &zero, 0, 64u << 10), 0);
	assert_int_equal(fill_overlay(top, NULL, 64u << 10, n + 1), 1);
	dev_close(top);

	/* A journal of 1 GiB in blocks of 1 KiB, all of it copies, is fine. */
	dev_init(&zero, &ops, UINT64_C(1) << 30, NULL);
	assert_int_equal(dev_overlay_create(&zero, 1024, &top), 0);
	assert_int_equal(fill_overlay(top, &zero, 1024, 1), 1u << 20);
	dev_close(top);

	/* Strewn so that each needs a part of the index of its own. */
	dev_init(&zero, &ops, UINT64_C(1) << 50, NULL);
	assert_int_equal(dev_overlay_create(&zero, 1024, &top), 0);
	assert_in_range(fill_overlay(top, &zero, 1024, 64), 262144, 500000);
	dev_close(top);
}

struct racing {
	struct stack *stack;
	_Atomic bool done;
};

static void *read_whole_blocks(void *arg)
{
	struct racing *race = arg;
	uint64_t r = seed + 1;
	uint8_t buf[BLOCK];

	while (!atomic_load(&race->done)) {
		assert(dev_read(race->stack->top, rnd(&r) % 4 * BLOCK, buf, BLOCK) == 0);
		for (size_t i = 1; i < BLOCK; i++)
			assert(buf[i] == buf[0]);
		sched_yield(); /* readers that never pause would keep the writer out */
	}
	return NULL;
}

/* A block is seen as it was before a write or as it is after it. */
static void overlay_does_not_tear_blocks(void **state UNUSED)
{
	uint64_t r = seed;
	struct racing race = { .stack = stack_create(&r) };
	uint8_t block[BLOCK];
	pthread_t t[2];

	memset(block, 1, BLOCK);
	for (uint64_t b = 0; b < 4; b++)
		assert_int_equal(dev_write(race.stack->top, b * BLOCK, block, BLOCK), 0);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, read_whole_blocks, &race), 0);
	for (int i = 0; i < 1000; i++) {
		uint64_t b = rnd(&r) % (BYTES / BLOCK);

		memset(block, i, BLOCK);
		assert_int_equal(dev_write(race.stack->top, b * BLOCK, block, BLOCK), 0);
	}
	atomic_store(&race.done, true);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		assert_int_equal(pthread_join(t[i], NULL), 0);
	stack_destroy(race.stack);
}

/* ---- image files --------------------------------------------------------------------------- */

struct image {
	char dir[64], path[128];
	uint8_t data[BYTES];
	int fd; /* read-write, the test's own */
};

static int image_setup(void **state)
{
	const char *tmp = getenv("TMPDIR");
	struct image *img = calloc(1, sizeof(*img));
	uint64_t r = seed;

	assert_non_null(img);
	(void)snprintf(img->dir, sizeof(img->dir), "%s/uext4-dev.XXXXXX",
		       tmp != NULL && strlen(tmp) < 40 ? tmp : "/tmp");
	assert_non_null(mkdtemp(img->dir));
	(void)snprintf(img->path, sizeof(img->path), "%s/image", img->dir);
	img->fd = open(img->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(img->fd >= 0);
	fill_random(img->data, BYTES, &r);
	assert_int_equal(pwrite(img->fd, img->data, BYTES, 0), BYTES);
	io_is_rough = false;
	*state = img;
	return 0;
}

static int image_teardown(void **state)
{
	struct image *img = *state;

	io_is_rough = false;
	if (img->fd >= 0)
		close(img->fd);
	(void)unlink(img->path);
	assert_int_equal(rmdir(img->dir), 0);
	free(img);
	return 0;
}

static void assert_opens(const char *path, uint32_t flags)
{
	struct dev *d;
	int err = dev_file_open(path, 0, 0, flags, &d);

	if (err < 0)
		print_error("%s\n", diag_text());
	assert_int_equal(err, 0);
	dev_close(d);
}

static void assert_refused(const char *path, int want, const char *words)
{
	struct dev *d = NULL;

	diag_clear();
	assert_int_equal(dev_file_open(path, 0, 0, 0, &d), want);
	assert_null(d);
	assert_says(words);
}

static void file_shows_its_window(void **state)
{
	struct image *img = *state;
	uint8_t buf[BYTES];
	struct dev *d;

	assert_int_equal(dev_file_open(img->path, 0, 0, 0, &d), 0);
	assert_int_equal(d->size, BYTES);
	assert_int_equal(dev_read(d, 0, buf, BYTES), 0);
	assert_memory_equal(buf, img->data, BYTES);
	assert_int_equal(dev_write(d, 0, buf, 1), -EROFS);
	dev_prefetch(d, 0, BYTES);
	dev_close(d);

	assert_int_equal(dev_file_open(img->path, 1000, 0, 0, &d), 0);
	assert_int_equal(d->size, BYTES - 1000);
	dev_close(d);

	assert_int_equal(dev_file_open(img->path, 1000, 500, 0, &d), 0);
	assert_int_equal(d->size, 500);
	assert_int_equal(dev_read(d, 100, buf, 400), 0);
	assert_memory_equal(buf, img->data + 1100, 400);
	assert_int_equal(dev_read(d, 100, buf, 401), -EIO);
	dev_close(d);

	assert_int_equal(dev_file_open(img->path, BYTES, 0, 0, &d), 0);
	assert_int_equal(d->size, 0);
	dev_close(d);
	d = NULL;
	assert_int_equal(dev_file_open(img->path, BYTES + 1, 0, 0, &d), -EINVAL);
	assert_int_equal(dev_file_open(img->path, 1, BYTES, 0, &d), -EINVAL);
	assert_int_equal(dev_file_open(img->path, 1, UINT64_MAX, 0, &d), -EINVAL);
	assert_says("reach behind the end of");
	assert_null(d);
}

static void file_reads_all_of_short_reads(void **state)
{
	struct image *img = *state;
	uint64_t r = seed;
	uint8_t buf[BYTES];
	struct dev *d;

	assert_int_equal(dev_file_open(img->path, 10, 0, 0, &d), 0);
	io_is_rough = true;
	for (int i = 0; i < 2000; i++) {
		uint64_t offset = rnd(&r) % (BYTES / 2);
		size_t a = rnd(&r) % 100, b = rnd(&r) % 9000, c = 1 + rnd(&r) % 3000;
		struct iovec iov[] = { { buf, a }, { buf + a, b }, { buf + a + b, c } };

		memset(buf, 0xee, sizeof(buf));
		assert_int_equal(dev_readv(d, offset, iov, 3), 0);
		assert_memory_equal(buf, img->data + 10 + offset, a + b + c);
		assert_int_equal(buf[a + b + c], 0xee);
	}
	dev_close(d);
}

static void file_that_shrinks_is_an_error(void **state)
{
	struct image *img = *state;
	uint8_t buf[BYTES];
	struct dev *d;

	assert_int_equal(dev_file_open(img->path, 0, 0, 0, &d), 0);
	assert_int_equal(ftruncate(img->fd, BYTES / 2), 0);
	assert_int_equal(dev_read(d, 0, buf, BYTES / 2), 0);
	assert_int_equal(dev_read(d, 0, buf, BYTES), -EIO);
	assert_says("shrank");
	dev_close(d);
}

static void file_of_other_kinds_is_refused(void **state)
{
	struct image *img = *state;
	char fifo[160];

	assert_refused(img->dir, -EINVAL, "neither a regular file nor a block device");
	assert_refused("/dev/null", -EINVAL, "/dev/null is neither");
	assert_refused("/nonexistent/image", -ENOENT, "cannot open /nonexistent/image: No such");
	(void)snprintf(fifo, sizeof(fifo), "%s/fifo", img->dir);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_refused(fifo, -EINVAL, "neither"); /* and does not wait for a writer */
	assert_int_equal(unlink(fifo), 0);
}

static void file_survives_no_memory(void **state)
{
	struct image *img = *state;
	struct dev *d = NULL;

	(void)mem_fail_nth(1);
	assert_int_equal(dev_file_open(img->path, 0, 0, 0, &d), -ENOMEM);
	(void)mem_fail_nth(0);
	assert_null(d);
	assert_opens(img->path, 0);
}

static void file_by_descriptor(void **state)
{
	struct image *img = *state;
	int fd = open(img->path, O_RDONLY | O_CLOEXEC), pipe_fds[2];
	uint8_t buf[100];
	struct dev *d;

	assert_int_equal(dev_file_open_fd(fd, 0, 0, 0, &d), 0);
	close(fd); /* the caller's own */
	assert_int_equal(dev_read(d, 7, buf, 100), 0);
	assert_memory_equal(buf, img->data + 7, 100);
	dev_close(d);

	d = NULL;
	assert_int_equal(dev_file_open_fd(-1, 0, 0, 0, &d), -EBADF);
	assert_int_equal(pipe(pipe_fds), 0);
	assert_int_equal(dev_file_open_fd(pipe_fds[0], 0, 0, 0, &d), -EINVAL);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	assert_null(d);
}

/* ---- somebody else uses it: file locks ----------------------------------------------------- */

static int lock_whole(int fd, int command, short type)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET };

	return fcntl(fd, command, &lock) == 0 ? 0 : -errno;
}

static void lock_keeps_writers_out(void **state)
{
	struct image *img = *state;
	struct dev *a, *b;

	/* Readers share; a writer cannot come while one is there, and can afterwards. */
	assert_int_equal(dev_file_open(img->path, 0, 0, 0, &a), 0);
	assert_int_equal(dev_file_open_fd(img->fd, 0, 0, 0, &b), 0);
	dev_close(a);
	assert_int_equal(lock_whole(img->fd, F_OFD_SETLK, F_WRLCK), -EAGAIN);
	dev_close(b);
	assert_int_equal(lock_whole(img->fd, F_OFD_SETLK, F_WRLCK), 0);

	assert_refused(img->path, -EBUSY, "image is locked for writing by another program");
	assert_opens(img->path, DEV_FILE_NOLOCK);

	/* By descriptor the caller's own lock is a lock too, and stays what it was. */
	assert_int_equal(dev_file_open_fd(img->fd, 0, 0, 0, &b), -EBUSY);
	assert_int_equal(dev_file_open_fd(img->fd, 0, 0, DEV_FILE_NOLOCK, &b), 0);
	dev_close(b);
	assert_refused(img->path, -EBUSY, "locked for writing");
	assert_int_equal(lock_whole(img->fd, F_OFD_SETLK, F_UNLCK), 0);
	assert_opens(img->path, 0);
}

static void lock_names_its_process(void **state)
{
	struct image *img = *state;
	int ready[2], done[2];
	char words[64], c = 0;
	pid_t child;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(done), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) { /* holds a classic lock until the parent has looked */
		int fd = open(img->path, O_RDWR);

		close(done[1]);
		if (fd >= 0 && lock_whole(fd, F_SETLK, F_WRLCK) == 0)
			c = 1;
		if (write(ready[1], &c, 1) == 1 && read(done[0], &c, 1) >= 0)
			_exit(0);
		_exit(1);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(c, 1);
	(void)snprintf(words, sizeof(words), "is locked for writing by process %d", (int)child);
	assert_refused(img->path, -EBUSY, words);
	close(done[1]);
	assert_int_equal(waitpid(child, NULL, 0), child);
	for (int i = 0; i < 2; i++)
		close(ready[i]);
	close(done[0]);
}

static void lock_of_qemu_is_known(void **state)
{
	struct image *img = *state;
	struct flock perms = {
		.l_type = F_RDLCK,
		.l_whence = SEEK_SET,
		.l_start = 100,
		.l_len = 1,
	};
	struct dev *reader;

	/* May read, lets others write: as qemu-img info. */
	assert_int_equal(fcntl(img->fd, F_OFD_SETLK, &perms), 0);
	assert_opens(img->path, 0);
	perms.l_len = 4; /* may write as well */
	assert_int_equal(fcntl(img->fd, F_OFD_SETLK, &perms), 0);
	assert_refused(img->path, -EBUSY, "running virtual machine");
	assert_opens(img->path, DEV_FILE_NOLOCK);
	perms.l_type = F_UNLCK;
	assert_int_equal(fcntl(img->fd, F_OFD_SETLK, &perms), 0);

	/* Another reader of ours, whose lock covers that byte, is not taken for QEMU. */
	assert_int_equal(dev_file_open(img->path, 0, 0, 0, &reader), 0);
	assert_opens(img->path, 0);
	dev_close(reader);
}

/* ---- somebody else uses it: loop devices --------------------------------------------------- */

/*
 * A loop device over @fd that goes away with the descriptor, or skips the test.  Others may take
 * the free one we were told of: ask again.
 */
static int loop_create(int fd, uint32_t lo_flags, char *ret_path, size_t size)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), loop = -1;
	int mode = (lo_flags & LO_FLAGS_READ_ONLY) ? O_RDONLY : O_RDWR;

	for (int tries = 0; control >= 0 && loop < 0 && tries < 20; tries++) {
		struct loop_config config = {
			.fd = (uint32_t)fd,
			.info.lo_flags = lo_flags | LO_FLAGS_AUTOCLEAR,
		};
		int number = ioctl(control, LOOP_CTL_GET_FREE);

		(void)snprintf(ret_path, size, "/dev/loop%d", number);
		loop = open(ret_path, mode | O_CLOEXEC);
		if (loop >= 0 && ioctl(loop, LOOP_CONFIGURE, &config) < 0) {
			close(loop);
			loop = -1;
		}
	}
	if (control >= 0)
		close(control);
	if (loop < 0) {
		print_message("no loop device can be made here (not root?)\n");
		skip();
	}
	return loop;
}

static void loop_backing_file_is_refused(void **state)
{
	struct image *img = *state;
	char loop_path[32], words[96];
	int loop = loop_create(img->fd, 0, loop_path, sizeof(loop_path));
	struct dev *d = NULL;

	(void)snprintf(words, sizeof(words), "backs %s, which is in use", loop_path);
	assert_refused(img->path, -EBUSY, words);
	assert_opens(img->path, DEV_FILE_NOLOCK);
	assert_int_equal(dev_file_open_fd(img->fd, 0, 0, 0, &d), -EBUSY);
	assert_says(words);

	/* The path in /sys no longer leads there: the device itself is asked. */
	assert_int_equal(unlink(img->path), 0);
	assert_int_equal(dev_file_open_fd(img->fd, 0, 0, 0, &d), -EBUSY);
	assert_says(words);
	assert_null(d);
	close(loop);
}

static void loop_read_only_is_no_danger(void **state)
{
	struct image *img = *state;
	char loop_path[32];
	int fd = open(img->path, O_RDONLY | O_CLOEXEC);
	int loop = loop_create(fd, LO_FLAGS_READ_ONLY, loop_path, sizeof(loop_path));

	assert_opens(img->path, 0);
	close(loop);
	close(fd);
}

static void block_device_is_read_and_claimed(void **state)
{
	struct image *img = *state;
	char loop_path[32];
	int loop = loop_create(img->fd, 0, loop_path, sizeof(loop_path)), claim;
	uint8_t buf[BYTES];
	struct dev *d;

	assert_int_equal(dev_file_open(loop_path, 512, 0, 0, &d), 0);
	assert_int_equal(d->size, BYTES - 512);
	assert_int_equal(dev_read(d, 0, buf, BYTES - 512), 0);
	assert_memory_equal(buf, img->data + 512, BYTES - 512);
	assert_int_equal(open(loop_path, O_RDONLY | O_EXCL), -1); /* as mount would fail */
	assert_int_equal(errno, EBUSY);
	dev_close(d);

	assert_int_equal(dev_file_open_fd(loop, 0, 0, 0, &d), 0);
	assert_int_equal(dev_read(d, 0, buf, BYTES), 0);
	assert_int_equal(open(loop_path, O_RDONLY | O_EXCL), -1);
	dev_close(d);

	claim = open(loop_path, O_RDONLY | O_EXCL | O_CLOEXEC);
	assert_true(claim >= 0);
	assert_refused(loop_path, -EBUSY, "is in use: mounted, or part of another device");
	assert_int_equal(dev_file_open_fd(loop, 0, 0, 0, &d), -EBUSY);
	assert_opens(loop_path, DEV_FILE_NOLOCK);
	close(claim);
	close(loop);
}

#define IMAGE_TEST(name) cmocka_unit_test_setup_teardown(name, image_setup, image_teardown)

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrapper_checks_ranges),
		cmocka_unit_test(readv_scatters),
		cmocka_unit_test(fail_hits_the_nth),
		cmocka_unit_test(record_says_what_happened),
		cmocka_unit_test(record_of_many_threads),
		cmocka_unit_test(record_without_room_fails),
		cmocka_unit_test(overlay_equals_model),
		cmocka_unit_test(overlay_asks_below_for_runs),
		cmocka_unit_test(overlay_survives_no_memory),
		cmocka_unit_test(redirected_equals_model),
		cmocka_unit_test(redirect_keeps_what_it_saw),
		cmocka_unit_test(redirect_survives_no_memory),
		cmocka_unit_test(overlay_is_bounded),
		cmocka_unit_test(overlay_does_not_tear_blocks),
		IMAGE_TEST(file_shows_its_window),
		IMAGE_TEST(file_reads_all_of_short_reads),
		IMAGE_TEST(file_that_shrinks_is_an_error),
		IMAGE_TEST(file_of_other_kinds_is_refused),
		IMAGE_TEST(file_survives_no_memory),
		IMAGE_TEST(file_by_descriptor),
		IMAGE_TEST(lock_keeps_writers_out),
		IMAGE_TEST(lock_names_its_process),
		IMAGE_TEST(lock_of_qemu_is_known),
		IMAGE_TEST(loop_backing_file_is_refused),
		IMAGE_TEST(loop_read_only_is_no_danger),
		IMAGE_TEST(block_device_is_read_and_claimed),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	rough_state = seed;
	print_message("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
