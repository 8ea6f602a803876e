/* SPDX-License-Identifier: MIT */
/*
 * The whole engine under the simulator: an image in memory, opened, used by a few threads at once,
 * closed and verified, under some hundred schedules a body.
 *
 *  - one-file: writes, appends, truncations, ranges, fsyncs of one file.  What is in it at the end
 *    must be what some order of the calls makes, in which none comes before one that had ended when
 *    it began; the same after the image was closed and opened again.
 *  - names: files, directories, links, attributes and freezes, at random.  No call may fail for a
 *    reason that is none, and the verifier finds nothing.
 *  - freeze: while it is frozen nothing changes, in memory or on the device.
 *  - faults: names while one request of the device or one allocation fails.  Calls may fail;
 *    after the next recovery the verifier finds nothing.
 *
 * Usage: sim_engine [--body NAME] [--image NAME] [--seed N] [--count N] [--pct N] [--dfs N]
 *                   [--schedule LIST] [--show STEPS] [--minimise N]
 * With --body or --image only that runs, as told; without, the tests.
 */
#include "api/test_hooks.h"
#include "base/base.h"
#include "base/mem.h"
#include "dev/dev.h"
#include "sim_kit.h"
#include "sync/sync.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define THREADS 3

struct image {
	struct kit_image made;
	uint32_t unit; /* bytes; offsets and lengths are multiples of it */
	bool block_map;
};

static const struct image images[] = {
	{ { "ext4-1k", 8, "-t ext4 -b 1024 -J size=1", 1024 }, 100, false },
	{ { "ext4-4k", 16, "-t ext4 -b 4096", 4096 }, 400, false },
	{ { "inline", 8, "-t ext4 -b 1024 -O inline_data -I 256 -J size=1", 1024 }, 16, false },
	{ { "ext3-1k", 8, "-t ext3 -b 1024 -J size=1", 1024 }, 100, true },
	{ { "ext2-1k", 8, "-t ext2 -b 1024", 1024 }, 100, true },
	{ { "bigalloc", 32, "-t ext4 -b 1024 -O bigalloc -C 16384 -J size=1", 1024 }, 700, false },
};

/* The image now under test. */
static const struct image *image;

static void image_load(const struct image *i)
{
	image = i;
	kit_load(&i->made);
}

/* Every way to write; little memory, so that writers wait and pages go. */
static struct uext4_open_options random_options(void)
{
	static const uint32_t modes[] = { UEXT4_DATA_ORDERED, UEXT4_DATA_ORDERED,
					  UEXT4_DATA_JOURNAL, UEXT4_DATA_WRITEBACK };
	struct uext4_open_options o = {
		.size = sizeof(o),
		.flags = UEXT4_OPEN_WRITE | (rnd(4) == 0 ? UEXT4_OPEN_NODELALLOC : 0),
		.cache_bytes = 2 * MIB,
		.dirty_bytes = rnd(3) == 0 ? 16384 : 0,
		.commit_ms = rnd(2) ? 0 : 5,
		.data_mode = modes[rnd(ARRAY_SIZE(modes))],
	};

	return o;
}

/* ---- one file -------------------------------------------------------------------------------- */

enum what { WRITE, APPEND, TRUNCATE, PUNCH, ZERO, ALLOCATE, FSYNC, SYNC, READ, WHATS };

struct op {
	enum what what;
	uint32_t offset, count; /* units */
	uint8_t value;
	uint32_t began, ended;
};

#define OPS 3 /* of each thread */
#define OLD (THREADS * OPS + 1)
#define UNITS_MAX 400u
#define UNITS_WRITTEN 30u
#define UNIT_MAX 700u

struct contents {
	uint32_t size; /* units */
	uint8_t units[UNITS_MAX];
};

static struct op ops[THREADS][OPS];
static uint32_t moment;
static uint32_t file_ino;

static void op_random(struct op *op, unsigned number)
{
	op->what = (enum what)rnd(WHATS);
	if (rnd(3) == 0)
		op->what = rnd(2) ? WRITE : TRUNCATE;
	if (image->block_map && (op->what == ZERO || op->what == ALLOCATE))
		op->what = WRITE;
	op->offset = rnd(60);
	op->count = 1 + rnd(UNITS_WRITTEN);
	if (rnd(3) == 0)
		op->offset = rnd(4);
	if (op->what == TRUNCATE && rnd(3) == 0)
		op->offset = 0;
	op->value = (uint8_t)(number + 1);
}

static void op_apply(const struct op *op, struct contents *c)
{
	uint32_t offset = op->what == APPEND ? c->size : op->offset, end = offset + op->count;

	switch (op->what) {
	case WRITE:
	case APPEND:
		memset(c->units + offset, op->value, op->count);
		c->size = (uint32_t)max_u64(c->size, end);
		break;
	case TRUNCATE:
		if (offset < c->size)
			memset(c->units + offset, 0, c->size - offset);
		c->size = offset;
		break;
	case PUNCH:
	case ZERO:
		if (offset < c->size)
			memset(c->units + offset, 0, min_u64(end, c->size) - offset);
		break;
	default: break;
	}
	if (op->what == ZERO || op->what == ALLOCATE)
		c->size = (uint32_t)max_u64(c->size, end);
}

static void write_units(struct uext4_file *file, const struct op *op)
{
	uint8_t buf[UNITS_WRITTEN * UNIT_MAX];
	size_t bytes = op->count * image->unit, written;

	memset(buf, op->value, bytes);
	OK(uext4_pwrite(file, buf, bytes, op->offset * (uint64_t)image->unit, &written));
	SIM_ASSERT(written == bytes);
}

static void append(const struct op *op)
{
	struct uext4_file *file;

	OK(uext4_file_open(fs, file_ino, UEXT4_FILE_WRITE | UEXT4_FILE_APPEND, &file));
	write_units(file, op);
	uext4_file_close(file);
}

static void op_do(struct uext4_file *file, struct op *op)
{
	static const char *const names[] = { "write", "append", "truncate", "punch", "zero",
					     "alloc", "fsync",	"sync",	    "read" };
	uint64_t offset = op->offset * (uint64_t)image->unit, len = op->count * image->unit;
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE, .size = offset };
	uint8_t buf[8192];
	size_t got;

	sim_note("%s %u+%u '%u'", names[op->what], op->offset, op->count, op->value);
	op->began = ++moment;
	switch (op->what) {
	case WRITE: write_units(file, op); break;
	case APPEND: append(op); break;
	case TRUNCATE: OK(uext4_setattr(fs, file_ino, &attr)); break;
	case PUNCH:
		OK(uext4_fallocate(file, UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_KEEP_SIZE, offset,
				   len));
		break;
	case ZERO: OK(uext4_fallocate(file, UEXT4_FALLOC_ZERO_RANGE, offset, len)); break;
	case ALLOCATE: OK(uext4_fallocate(file, 0, offset, len)); break;
	case FSYNC: OK(uext4_fsync(file, op->value % 2 ? UEXT4_FSYNC_DATA : 0)); break;
	case SYNC: OK(uext4_sync(fs)); break;
	case READ:
		OK(uext4_pread(file, buf, sizeof(buf), offset, &got));
		for (size_t i = 0; i < got; i++)
			SIM_ASSERT(buf[i] <= OLD);
		break;
	case WHATS: break;
	}
	op->ended = ++moment;
	sim_note("%s done", names[op->what]);
}

static void use_file(void *arg)
{
	struct op *mine = arg;
	struct uext4_file *file;

	OK(uext4_file_open(fs, file_ino, UEXT4_FILE_WRITE, &file));
	for (unsigned i = 0; i < OPS; i++)
		op_do(file, &mine[i]);
	uext4_file_close(file);
}

/* Is there an order of the calls not in @done that makes @want of @c? */
static bool explains(uint32_t done, const struct contents *c, const struct contents *want)
{
	uint32_t first_end = UINT32_MAX;

	if (done == (1u << (THREADS * OPS)) - 1)
		return c->size == want->size && memcmp(c->units, want->units, c->size) == 0;
	for (unsigned i = 0; i < THREADS * OPS; i++) {
		if (!(done & 1u << i))
			first_end = (uint32_t)min_u64(first_end, (&ops[0][0])[i].ended);
	}
	for (unsigned i = 0; i < THREADS * OPS; i++) {
		const struct op *op = &ops[0][0] + i;
		struct contents next = *c;

		if (done & 1u << i || op->began > first_end)
			continue;
		op_apply(op, &next);
		if (explains(done | 1u << i, &next, want))
			return true;
	}
	return false;
}

static struct contents read_file(void)
{
	static uint8_t buf[UNITS_MAX * UNIT_MAX];
	struct contents c = { 0 };
	struct uext4_file *file;
	size_t got;

	OK(uext4_file_open(fs, file_ino, 0, &file));
	OK(uext4_pread(file, buf, sizeof(buf), 0, &got));
	uext4_file_close(file);
	SIM_ASSERT(got % image->unit == 0);
	c.size = (uint32_t)(got / image->unit);
	for (size_t i = 0; i < got; i++) {
		if (i % image->unit == 0)
			c.units[i / image->unit] = buf[i];
		if (buf[i] != c.units[i / image->unit])
			sim_fail("byte %zu is %u, before it is %u", i, buf[i],
				 c.units[i / image->unit]);
	}
	return c;
}

static void say_contents(const struct contents *c)
{
	fprintf(stderr, "%u units:", c->size);
	for (uint32_t i = 0, run; i < c->size; i += run) {
		for (run = 1; i + run < c->size && c->units[i + run] == c->units[i]; run++)
			;
		fprintf(stderr, " %u*%u", c->units[i], run);
	}
	fprintf(stderr, "\n");
}

/* Long there, and in nobody's memory. */
static struct contents old_contents(const struct uext4_open_options *options)
{
	struct contents c = { 0 };
	struct op op = { .what = WRITE, .offset = rnd(20), .count = UNITS_WRITTEN, .value = OLD };
	struct uext4_file *file;

	if (rnd(2) == 0)
		return c;
	OK(uext4_file_open(fs, file_ino, UEXT4_FILE_WRITE, &file));
	write_units(file, &op);
	op_apply(&op, &c);
	uext4_file_close(file);
	OK(uext4_close(fs));
	OK(kit_open(options));
	return c;
}

static int one_file(void *arg UNUSED)
{
	static const char *const names[THREADS] = { "one", "two", "three" };
	struct uext4_open_options options = random_options();
	struct sim_body bodies[THREADS];
	struct contents start, before, after;

	for (unsigned i = 0; i < THREADS * OPS; i++)
		op_random(&ops[0][0] + i, i);
	for (unsigned i = 0; i < THREADS; i++)
		bodies[i] = (struct sim_body){ names[i], use_file, ops[i] };
	sim_calm(true);
	OK(kit_open(&options));
	OK(uext4_create(fs, UEXT4_ROOT_INO, "f", 1, &(struct uext4_new){ .mode = 0644 },
			&file_ino));
	start = old_contents(&options);
	sim_calm(false);
	sim_threads(bodies, THREADS);
	sim_calm(true);
	before = read_file();
	if (!explains(0, &start, &before)) {
		say_contents(&before);
		sim_fail("no order of the calls explains what is in the file");
	}
	OK(uext4_close(fs));

	kit_open_and_check();
	after = read_file();
	OK(uext4_close(fs));
	if (before.size != after.size || memcmp(before.units, after.units, before.size) != 0) {
		say_contents(&before);
		say_contents(&after);
		sim_fail("what is in the file changed when it was closed");
	}
	return 0;
}

/* ---- names ----------------------------------------------------------------------------------- */

static bool faults; /* calls may fail for any reason */
static unsigned started;

static uint32_t rnd_dir(void)
{
	uint32_t ino;

	if (rnd(2) == 0 || uext4_lookup(fs, UEXT4_ROOT_INO, "d", 1, &ino) != 0)
		return UEXT4_ROOT_INO;
	return ino;
}

static char rnd_name(void)
{
	return (char)(rnd(6) == 0 ? 'd' : 'a' + (int)rnd(3));
}

static int use_some_file(uint32_t ino)
{
	static const uint8_t buf[9000];
	struct uext4_file *file;
	size_t done;
	int err = uext4_file_open(fs, ino, UEXT4_FILE_WRITE, &file);

	if (err < 0)
		return err;
	err = uext4_pwrite(file, buf, 1 + rnd(sizeof(buf)), rnd(3) ? rnd(20000) : 0, &done);
	if (err == 0 && rnd(3) == 0)
		err = uext4_fsync(file, 0);
	uext4_file_close(file);
	return err;
}

/* While it is frozen nothing is written, and nothing changes in memory. */
static int freeze_and_thaw(void)
{
	const struct dev_stats *stats = dev_bottom_stats(kit_fail_dev);
	struct uext4_statfs before, now;
	uint64_t writes;
	int err = uext4_freeze(fs);

	if (err < 0)
		return err;
	writes = atomic_load(&stats->writes);
	OK(uext4_statfs(fs, 0, &before));
	for (unsigned i = 0; i < 30; i++)
		sim_point("frozen");
	OK(uext4_statfs(fs, 0, &now));
	SIM_ASSERT(faults || atomic_load(&stats->writes) == writes);
	SIM_ASSERT(before.blocks_free == now.blocks_free);
	SIM_ASSERT(before.inodes_free == now.inodes_free);
	return uext4_thaw(fs);
}

static int list_dir(uint32_t dir_ino)
{
	struct uext4_dirent entries[4];
	struct uext4_dir *dir;
	uint64_t cookie = 0;
	size_t count;
	int err = uext4_dir_open(fs, dir_ino, &dir);

	if (err < 0)
		return err;
	do {
		err = uext4_dir_read(dir, cookie, entries, ARRAY_SIZE(entries), &count);
		if (err == 0 && count > 0)
			cookie = entries[count - 1].cookie;
	} while (err == 0 && count > 0);
	uext4_dir_close(dir);
	return err;
}

static int one_call(void)
{
	struct uext4_new attrs = { .mode = rnd(3) == 0 ? 040755 : 0644 };
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE, .size = rnd(2) ? rnd(9000) : 0 };
	static const uint32_t rename_flags[] = { 0, UEXT4_RENAME_NOREPLACE, UEXT4_RENAME_EXCHANGE };
	uint32_t dir = rnd_dir(), what = rnd(14), ino = 0, other;
	char name = rnd_name(), value[300] = "";
	struct uext4_file *file;

	sim_note("call %u %c in %u", what, name, dir);
	if (what >= 8 && what <= 12 && uext4_lookup(fs, dir, &name, 1, &ino) != 0)
		return 0;
	switch (what) {
	case 0:
	case 1: return uext4_create(fs, dir, &name, 1, &attrs, &ino);
	case 2: return uext4_unlink(fs, dir, &name, 1);
	case 3: return uext4_rmdir(fs, dir, &name, 1);
	case 4:
	case 5:
		other = rnd_dir();
		return uext4_rename(fs, dir, &name, 1, other, &(char){ rnd_name() }, 1,
				    rename_flags[rnd(ARRAY_SIZE(rename_flags))]);
	case 6: return uext4_symlink(fs, dir, &name, 1, value, 0, &attrs, &ino) == 0 ? 0 : -EEXIST;
	case 7: {
		int err = uext4_tmpfile(fs, dir, &attrs, UEXT4_FILE_WRITE, &file);

		if (err == 0)
			uext4_file_close(file);
		return err;
	}
	case 8:
	case 9: return use_some_file(ino);
	case 10: return uext4_setattr(fs, ino, &attr);
	case 11: return uext4_link(fs, ino, dir, &(char){ rnd_name() }, 1);
	case 12:
		if (rnd(4) == 0)
			return uext4_fsync_inode(fs, ino, 0);
		return uext4_xattr_set(fs, ino, "user.x", value, rnd(2) ? 20 : sizeof(value), 0);
	default:
		if (rnd(2) == 0)
			return list_dir(dir);
		return rnd(2) ? uext4_sync(fs) : freeze_and_thaw();
	}
}

/* Without a journal a write that is lost is repaired by the next e2fsck only. */
static void plan_fault(void)
{
	bool journal = strcmp(image->made.name, "ext2-1k") != 0;

	switch (rnd(journal ? 4 : 2)) {
	case 0: (void)mem_fail_nth(1 + rnd(300)); break;
	case 1: dev_fail_nth_read(kit_fail_dev, 1 + rnd(12)); break;
	case 2: dev_fail_nth_write(kit_fail_dev, 1 + rnd(60)); break;
	default: dev_fail_nth_flush(kit_fail_dev, 1 + rnd(10)); break;
	}
	dev_fail_for_good(kit_fail_dev, rnd(3) == 0);
}

static bool is_a_reason(int err)
{
	switch (-err) {
	case 0:
	case EEXIST:
	case ENOENT:
	case ENOTEMPTY:
	case ENOTDIR:
	case EISDIR:
	case EINVAL: /* a directory into itself; a symlink written */
	case EPERM:  /* a link to a directory */
	case ESTALE: /* deleted behind the lookup */
	case EBUSY: /* frozen by another thread */ return true;
	default: return faults;
	}
}

static void use_names(void *arg)
{
	if (++started == THREADS && faults)
		plan_fault(); /* not before: those who make threads count on it */
	for (uint32_t i = 0; i < *(const uint32_t *)arg; i++) {
		int err = one_call();

		sim_note("%s", err < 0 ? strerrorname_np(-err) : "done");
		if (!is_a_reason(err))
			sim_fail("%s (%s)", strerror(-err), uext4_last_error());
	}
}

static void use_names_at_once(void)
{
	static uint32_t calls = 6;
	const struct sim_body bodies[THREADS] = {
		{ "one", use_names, &calls },
		{ "two", use_names, &calls },
		{ "three", use_names, &calls },
	};

	sim_calm(false);
	sim_threads(bodies, THREADS);
	sim_calm(true);
}

static int names(void *arg UNUSED)
{
	struct uext4_open_options options = random_options();
	uint32_t ino;

	sim_calm(true);
	OK(kit_open(&options));
	OK(uext4_create(fs, UEXT4_ROOT_INO, "d", 1, &(struct uext4_new){ .mode = 040755 }, &ino));
	use_names_at_once();
	OK(uext4_close(fs));
	kit_open_and_check();
	OK(uext4_close(fs));
	return 0;
}

static void freeze_often(void *arg UNUSED)
{
	for (unsigned i = 0; i < 3; i++)
		OK(freeze_and_thaw());
}

static void make_and_remove(void *arg)
{
	uint32_t ino;

	for (unsigned i = 0; i < 3; i++) {
		OK(uext4_create(fs, UEXT4_ROOT_INO, arg, 1, &(struct uext4_new){ .mode = 0644 },
				&ino));
		OK(use_some_file(ino));
		OK(uext4_unlink(fs, UEXT4_ROOT_INO, arg, 1));
	}
}

static uint64_t inodes_free(void)
{
	struct uext4_statfs s;

	OK(uext4_statfs(fs, 0, &s));
	return s.inodes_free;
}

/* A file whose last name has gone is closed while it is frozen: it goes with the thaw. */
static void close_while_frozen(void)
{
	struct uext4_file *file;
	uint64_t before;
	uint32_t ino;

	OK(uext4_create(fs, UEXT4_ROOT_INO, "o", 1, &(struct uext4_new){ .mode = 0644 }, &ino));
	OK(uext4_file_open(fs, ino, 0, &file));
	OK(uext4_unlink(fs, UEXT4_ROOT_INO, "o", 1));
	OK(uext4_freeze(fs));
	before = inodes_free();
	uext4_file_close(file);
	OK(uext4_sync(fs));
	SIM_ASSERT(inodes_free() == before);
	OK(uext4_thaw(fs));
	SIM_ASSERT(inodes_free() == before + 1);
}

static int freezes(void *arg UNUSED)
{
	static char first[] = "1", second[] = "2";
	const struct sim_body threads[] = {
		{ "freezer", freeze_often, NULL },
		{ "one", make_and_remove, first },
		{ "two", make_and_remove, second },
	};
	struct uext4_open_options options = random_options();

	sim_calm(true);
	OK(kit_open(&options));
	sim_calm(false);
	sim_threads(threads, ARRAY_SIZE(threads));
	sim_calm(true);
	close_while_frozen();
	OK(uext4_close(fs));
	kit_open_and_check();
	OK(uext4_close(fs));
	return 0;
}

static int some_fault(void *arg UNUSED)
{
	struct uext4_open_options options = random_options();
	uint32_t ino;

	faults = true;
	options.errors = UEXT4_ERRORS_RO;
	sim_calm(true);
	OK(kit_open(&options));
	OK(uext4_create(fs, UEXT4_ROOT_INO, "d", 1, &(struct uext4_new){ .mode = 040755 }, &ino));
	use_names_at_once();
	(void)uext4_close(fs);
	(void)mem_fail_nth(0);

	options = (struct uext4_open_options){ .size = sizeof(options), .flags = UEXT4_OPEN_WRITE };
	OK(kit_open(&options));
	OK(uext4_close(fs));
	kit_open_and_check();
	OK(uext4_close(fs));
	return 0;
}

/* ---- runs ------------------------------------------------------------------------------------ */

struct named_body {
	const char *name;
	int (*body)(void *arg);
};

static const struct named_body bodies[] = {
	{ "one-file", one_file },
	{ "names", names },
	{ "faults", some_fault },
	{ "freeze", freezes },
};

static bool run(const struct named_body *body, const struct sim_options *options)
{
	struct sim_result r;

	(void)sim_explore(options, body->body, NULL, &r);
	fprintf(stderr, "# %s on %s: %s, %llu schedules, %.0f/s, %.0f steps each\n", body->name,
		image->made.name, sim_outcome_name(r.outcome), (unsigned long long)r.schedules,
		(double)r.schedules / r.seconds, (double)r.steps_total / (double)r.schedules);
	if (r.report)
		fprintf(stderr, "%s", r.report);
	sim_result_finish(&r);
	return r.outcome == SIM_OK;
}

static void run_on_all_images(const struct named_body *body, uint64_t schedules)
{
	for (unsigned i = 0; i < ARRAY_SIZE(images); i++) {
		struct sim_options o = { .seed = 1000 * i, .schedules = schedules, .timers = true };

		image_load(&images[i]);
		assert_true(run(body, &o));
		o.strategy = SIM_PCT;
		o.preemptions = 5;
		assert_true(run(body, &o));
	}
}

static void some_order_explains_one_file(void **state UNUSED)
{
	run_on_all_images(&bodies[0], 60);
}

static void names_stay_consistent(void **state UNUSED)
{
	run_on_all_images(&bodies[1], 60);
}

static void faults_cost_no_consistency(void **state UNUSED)
{
	run_on_all_images(&bodies[2], 40);
}

static void frozen_is_frozen(void **state UNUSED)
{
	run_on_all_images(&bodies[3], 30);
}

static void schedule_is_repeatable(void **state UNUSED)
{
	image_load(&images[0]);
	for (unsigned i = 0; i < 12; i++) {
		struct sim_options o = { .seed = 100 + i, .timers = true };
		struct sim_result a, b;

		(void)sim_explore(&o, bodies[i % 3].body, NULL, &a);
		(void)sim_explore(&o, bodies[i % 3].body, NULL, &b);
		assert_int_equal(a.hash, b.hash);
		assert_string_equal(a.schedule, b.schedule);
		sim_result_finish(&b);
		o.strategy = SIM_REPLAY;
		o.schedule = a.schedule;
		(void)sim_explore(&o, bodies[i % 3].body, NULL, &b);
		assert_int_equal(b.outcome, SIM_OK);
		assert_int_equal(a.hash, b.hash);
		sim_result_finish(&a);
		sim_result_finish(&b);
	}
}

static int run_as_told(int argc, char **argv)
{
	struct sim_options o = { .schedules = 1, .timers = true };
	const char *body = NULL, *on = NULL;
	bool all_well = true;

	for (int i = 1; i + 1 < argc; i += 2) {
		const char *name = argv[i], *value = argv[i + 1];

		if (strcmp(name, "--body") == 0)
			body = value;
		else if (strcmp(name, "--image") == 0)
			on = value;
		else if (strcmp(name, "--seed") == 0)
			o.seed = strtoull(value, NULL, 0);
		else if (strcmp(name, "--count") == 0)
			o.schedules = strtoull(value, NULL, 0);
		else if (strcmp(name, "--show") == 0)
			o.show = (uint32_t)strtoul(value, NULL, 0);
		else if (strcmp(name, "--minimise") == 0)
			o.minimise = (uint32_t)strtoul(value, NULL, 0);
		else if (strcmp(name, "--schedule") == 0)
			o.schedule = value;
		else if (strcmp(name, "--pct") == 0 || strcmp(name, "--dfs") == 0)
			o.preemptions = (uint32_t)strtoul(value, NULL, 0);
		if (strcmp(name, "--pct") == 0)
			o.strategy = SIM_PCT;
		else if (strcmp(name, "--dfs") == 0)
			o.strategy = SIM_DFS;
		else if (strcmp(name, "--schedule") == 0)
			o.strategy = SIM_REPLAY;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(images); i++) {
		if (on && strcmp(on, images[i].made.name) != 0)
			continue;
		image_load(&images[i]);
		for (unsigned k = 0; k < ARRAY_SIZE(bodies); k++) {
			if (!body || strcmp(body, bodies[k].name) == 0)
				all_well &= run(&bodies[k], &o);
		}
	}
	return all_well ? 0 : 1;
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(schedule_is_repeatable),
		cmocka_unit_test(some_order_explains_one_file),
		cmocka_unit_test(names_stay_consistent),
		cmocka_unit_test(faults_cost_no_consistency),
		cmocka_unit_test(frozen_is_frozen),
	};

	sim_fix_addresses(argv);
	if (argc > 1)
		return run_as_told(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
