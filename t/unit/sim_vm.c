/* SPDX-License-Identifier: MIT */
/*
 * Stores through shared mappings under the simulator, with a page table in software: the schedules
 * of the mailing list by their numbers (docs/inline-data.md), and random ones.
 *
 * A scenario is data: what is done before, and the steps of each thread.  One oracle judges all of
 * them: what every step returned, what every load saw and what is in the file at the end must be
 * what some order of the steps explains, in which none comes before one that had ended when it
 * began.  The same after the image was closed and opened again; and after a power cut at any moment
 * each byte is as new as what made it durable last (I11).  The verifier finds nothing, ever.
 *
 * A store into a page of the file below its end never fails, whatever else goes on (I7).
 *
 * Usage: unit-sim_vm [--only NAME] [--seed N] [--count N] [--dfs N] [--pct N] [--schedule LIST]
 *                    [--show STEPS] [--minimise N] [--list] [--factor N]
 * --factor: all of them, so many times the schedules.
 */
#include "api/test_hooks.h"
#include "base/mem.h"
#include "dev/dev.h"
#include "sim_kit.h"
#include "sync/sync.h"
#include "fs/fs.h"
#include "vm/vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define PAGE 4096u
#define FILE_MAX 16384u
#define MAP_BYTES FILE_MAX
#define THREADS_MAX 4u
#define STEPS_MAX 6u

/* ---- scenarios ------------------------------------------------------------------------------- */

enum what {
	END,
	WRITE,	  /* len bytes at at; no space is a result */
	FROM_MAP, /* the same from the mapping's byte `from`, which nobody changes meanwhile */
	STORE,
	LOAD,
	TRUNCATE, /* to at */
	ALLOCATE,
	PUNCH,
	ZERO,
	READ,
	FSYNC,
	MSYNC,
	SYNC,
	SETX, /* an attribute of len bytes */
	RMX,
	REMAP,	/* maps the file once more, loads, unmaps */
	ADVISE, /* DONTNEED: clean pages go */
	FREEZE, /* and thaw */
	CHMOD,
	PIN,	/* byte at, a store without a fault, unpin */
	DIRECT, /* WRITE past the cache, as far as that goes */
	LOOK,	/* attributes, extents and holes say the same of where the data is */
	BREAK,	/* the at-th write of the device from now on fails, and all behind it */
	HOLD,	/* pins the page of at, for stores if len is not 0, until UNHOLD */
	HELD,	/* the page of at, which is pinned, is in memory */
	UNHOLD,
};

static const char *const what_names[] = {
	"end",	 "write", "write from map", "store",  "load",	"truncate", "allocate",
	"punch", "zero",  "read",	    "fsync",  "msync",	"sync",	    "setx",
	"rmx",	 "remap", "advise",	    "freeze", "chmod",	"pin",	    "direct write",
	"look",	 "break", "hold",	    "held",   "unhold",
};

struct step {
	enum what what;
	uint32_t at, len;
	char value;
	uint32_t from;
};

enum scenario_flag {
	FULL = 1u << 0, /* no block is free when the threads start */
	NODELALLOC = 1u << 1,
	JOURNAL = 1u << 2, /* data=journal */
	CUT = 1u << 3,	   /* with power cuts */
	SMALL_CACHE = 1u << 4,
	MAP_FIRST = 1u << 5, /* the mapping is older than what is in the file */
	PRIVATE = 1u << 6,
	NEARLY_FULL = 1u << 7,	/* three blocks are free */
	BROKEN = 1u << 8,	/* the device fails: calls may, but what is in memory stays */
	NO_MEMORY = 1u << 9,	/* one allocation fails: what failed happened or did not */
	EXTRA_GROWS = 1u << 10, /* the file was made when less behind an inode was wanted */
};

/* i_extra_isize: as far as i_crtime; i_projid, and some room. */
enum { EXTRA_BEFORE = 24, EXTRA_BEHIND = 44 };

struct scenario {
	const char *name, *image;
	uint32_t flags;
	struct step before[4];
	struct step steps[THREADS_MAX][STEPS_MAX];
};

static const struct kit_image images[] = {
	{ "inline", 4, "-t ext4 -b 1024 -O inline_data -I 256 -J size=1", 1024 },
	{ "inline-nojournal", 4, "-t ext4 -b 1024 -O inline_data,^has_journal -I 256", 1024 },
	{ "inline-4k", 12, "-t ext4 -b 4096 -O inline_data -I 1024 -J size=4", 4096 },
	{ "inline-map", 4, "-t ext4 -b 1024 -O inline_data,^extent,^64bit -I 256 -J size=1", 1024 },
	{ "plain", 4, "-t ext4 -b 1024 -J size=1", 1024 },
	{ "ext3", 4, "-t ext3 -b 1024 -J size=1", 1024 },
	{ "bigalloc", 16, "-t ext4 -b 1024 -O bigalloc,inline_data -C 16384 -I 256 -J size=1",
	  1024 },
};

#define W(at, len, value)                \
	{                                \
		WRITE, at, len, value, 0 \
	}
#define S(at, value)                   \
	{                              \
		STORE, at, 1, value, 0 \
	}
#define L(at)                     \
	{                         \
		LOAD, at, 1, 0, 0 \
	}
#define T(size)                         \
	{                               \
		TRUNCATE, size, 0, 0, 0 \
	}
#define OP(what)                 \
	{                        \
		what, 0, 0, 0, 0 \
	}
#define RANGE(what, at, len)        \
	{                           \
		what, at, len, 0, 0 \
	}

static const struct scenario scenarios[] = {
#include "sim_vm_scenarios.h"
};

/* ---- what happens ---------------------------------------------------------------------------- */

enum outcome { DONE, NO_SPACE, BEYOND, FAILED };

/* A step as it was done. */
struct event {
	struct step step;
	uint32_t began, ended; /* 0: not yet */
	enum outcome outcome;
	uint32_t done; /* bytes of a write */
	char seen;     /* by a load */
};

struct contents {
	uint32_t size;
	char bytes[FILE_MAX];
};

static const struct scenario *scenario;
static struct event events[1 + THREADS_MAX][STEPS_MAX];
static uint32_t moment;
static uint32_t file_ino;
static struct uext4_file *file;
static uint8_t *map;
static struct uext4_pin *held;

static bool is_broken(int err)
{
	if ((scenario->flags & NO_MEMORY) && err == -ENOMEM)
		return true;
	return (scenario->flags & BROKEN) && (err == -EIO || err == -EROFS);
}

static void note(struct event *e, int err, const char *what)
{
	if (err == 0)
		e->outcome = DONE;
	else if (err == -ENOSPC)
		e->outcome = NO_SPACE;
	else if (is_broken(err))
		e->outcome = FAILED;
	else
		sim_fail("%s: %s (%s)", what, strerror(-err), uext4_last_error());
}

static void do_write(struct event *e)
{
	static __thread char buf[FILE_MAX];
	struct uext4_file *to = file;
	const void *from = buf;
	size_t done = 0;
	int err;

	memset(buf, e->step.value, e->step.len);
	if (e->step.what == FROM_MAP)
		from = map + e->step.from;
	if (e->step.what == DIRECT)
		OK(uext4_file_open(fs, file_ino, UEXT4_FILE_WRITE | UEXT4_FILE_DIRECT, &to));
	err = uext4_pwrite(to, from, e->step.len, e->step.at, &done);
	if (e->step.what == DIRECT)
		uext4_file_close(to);
	note(e, err, "write");
	e->done = err == 0 ? (uint32_t)done : 0;
}

/* -ERANGE is SIGBUS. */
static void note_access(struct event *e, int err)
{
	if (err == -ERANGE)
		e->outcome = BEYOND;
	else if (is_broken(err))
		e->outcome = FAILED;
	else if (err != 0)
		sim_fail("%s at %u: %s", what_names[e->step.what], e->step.at, strerror(-err));
}

static void do_remap(struct event *e)
{
	void *addr;
	int err;

	err = uext4_mmap(file, 0, MAP_BYTES, UEXT4_PROT_READ, UEXT4_MAP_SHARED, &addr);
	note(e, err, "mmap");
	if (err != 0)
		return;
	if (vm_soft_load(atomic_load(&fs->space), (uintptr_t)addr, &e->seen, 1) == -EIO)
		sim_fail("a load in a new mapping");
	note(e, uext4_munmap(fs, addr, MAP_BYTES), "munmap");
}

static void do_remove(void)
{
	int err = uext4_xattr_remove(fs, file_ino, "user.x");

	if (err != 0 && err != -ENODATA && !is_broken(err))
		sim_fail("removexattr: %s", strerror(-err));
}

static void do_freeze(struct event *e)
{
	uint64_t sum;
	int err = uext4_freeze(fs);

	if (err == -EBUSY) /* something is pinned */
		return;
	note(e, err, "freeze");
	sum = kit_sum();
	for (unsigned i = 0; i < 200; i++) /* long enough for others to do something */
		sim_point("frozen");
	if (kit_sum() != sum)
		sim_fail("the image changed while it was frozen");
	note(e, uext4_thaw(fs), "thaw");
}

static void do_read(void)
{
	static __thread char buf[FILE_MAX];
	size_t got;

	OK(uext4_pread(file, buf, sizeof(buf), 0, &got));
	for (size_t i = 0; i < got; i++) {
		if (buf[i] != 0 && (buf[i] < 'A' || buf[i] > 'z'))
			sim_fail("read: byte %zu is %d", i, buf[i]);
	}
}

static void do_pin(struct event *e)
{
	struct vm_space *space = atomic_load(&fs->space);
	struct uext4_pin *pin;
	int err;

	err = uext4_pin(fs, map + e->step.at, 1, UEXT4_PIN_WRITE | UEXT4_PIN_WAIT, &pin);
	if (err == -EFAULT || err == -ERANGE) {
		e->outcome = BEYOND;
		return;
	}
	note_access(e, err);
	if (err != 0)
		return;
	sim_point("pinned");
	OK(vm_soft_store(space, (uintptr_t)map + e->step.at, &e->step.value, 1));
	uext4_unpin(pin);
}

static void do_hold(const struct step *s)
{
	uint32_t flags = UEXT4_PIN_WAIT | (s->len ? UEXT4_PIN_WRITE : 0);
	int err = uext4_pin(fs, map + s->at, 1, flags, &held);

	if (err != 0 && err != -ERANGE)
		sim_fail("pin: %s", strerror(-err));
}

static void do_held(const struct step *s)
{
	uint8_t there = 0;

	if (!held)
		return;
	OK(uext4_mincore(fs, map + s->at / PAGE * PAGE, 1, &there));
	if (!there)
		sim_fail("a pinned page is not in memory");
}

static void do_unhold(void)
{
	uext4_unpin(held);
	held = NULL;
}

/* I15. */
static void do_look(void)
{
	struct uext4_extent extents[8];
	uint64_t data = 0;
	struct uext4_stat st;
	size_t count;
	int err;

	err = uext4_extents(fs, file_ino, 0, FILE_MAX, extents, ARRAY_SIZE(extents), &count);
	if (err != 0)
		sim_fail("extents: %s", strerror(-err));
	err = uext4_seek(file, 0, UEXT4_SEEK_DATA, &data);
	if (err != 0 && err != -ENXIO)
		sim_fail("seek: %s (%s)", strerror(-err), uext4_last_error());
	OK(uext4_stat(fs, file_ino, &st));
	if (st.is_inline && st.size > 1024)
		sim_fail("%llu bytes inside an inode", (unsigned long long)st.size);
}

static void do_step(struct event *e)
{
	const struct step *s = &e->step;
	struct vm_space *space = atomic_load(&fs->space);
	const uint32_t hole = UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_KEEP_SIZE;
	struct uext4_attr size = { .valid = UEXT4_ATTR_SIZE, .size = s->at };
	struct uext4_attr mode = { .valid = UEXT4_ATTR_MODE, .mode = 0600 };
	static const char value[4096];

	sim_note("%s %u+%u '%c'", what_names[s->what], s->at, s->len, s->value ? s->value : '-');
	e->began = ++moment;
	switch (s->what) {
	case WRITE:
	case DIRECT:
	case FROM_MAP: do_write(e); break;
	case STORE:
		note_access(e, vm_soft_store(space, (uintptr_t)map + s->at, &s->value, 1));
		break;
	case LOAD: note_access(e, vm_soft_load(space, (uintptr_t)map + s->at, &e->seen, 1)); break;
	case TRUNCATE: note(e, uext4_setattr(fs, file_ino, &size), "truncate"); break;
	case ALLOCATE: note(e, uext4_fallocate(file, 0, s->at, s->len), "fallocate"); break;
	case PUNCH: note(e, uext4_fallocate(file, hole, s->at, s->len), "punch"); break;
	case ZERO:
		note(e, uext4_fallocate(file, UEXT4_FALLOC_ZERO_RANGE, s->at, s->len), "zero");
		break;
	case READ: do_read(); break;
	case FSYNC: note(e, uext4_fsync(file, 0), "fsync"); break;
	case MSYNC: note(e, uext4_msync(fs, map, MAP_BYTES, UEXT4_MS_SYNC), "msync"); break;
	case SYNC: note(e, uext4_sync(fs), "sync"); break;
	case SETX:
		note(e, uext4_xattr_set(fs, file_ino, "user.x", value, s->len, 0), "setx");
		break;
	case RMX: do_remove(); break;
	case REMAP: do_remap(e); break;
	case ADVISE: OK(uext4_madvise(fs, map, MAP_BYTES, UEXT4_MADV_DONTNEED)); break;
	case FREEZE: do_freeze(e); break;
	case CHMOD: note(e, uext4_setattr(fs, file_ino, &mode), "chmod"); break;
	case PIN: do_pin(e); break;
	case LOOK: do_look(); break;
	case BREAK:
		dev_fail_for_good(kit_fail_dev, true);
		dev_fail_nth_write(kit_fail_dev, s->at);
		break;
	case HOLD: do_hold(s); break;
	case HELD: do_held(s); break;
	case UNHOLD: do_unhold(); break;
	case END: break;
	}
	e->ended = ++moment;
	sim_note("%s %s", what_names[s->what],
		 e->outcome == DONE	? "done"
		 : e->outcome == BEYOND ? "SIGBUS"
					: "no space");
}

static void run_thread(void *arg)
{
	struct event *mine = arg;

	/* The last that was made: to make a thread takes memory, too. */
	if ((scenario->flags & NO_MEMORY) && mine == events[3])
		(void)mem_fail_nth(1 + rnd(80));
	for (unsigned i = 0; i < STEPS_MAX && mine[i].step.what != END; i++)
		do_step(&mine[i]);
}

/* ---- what that may have made ----------------------------------------------------------------- */

static void grow(struct contents *c, uint32_t size)
{
	if (size <= c->size)
		return;
	memset(c->bytes + c->size, 0, size - c->size);
	c->size = size;
}

static void clear_range(struct contents *c, uint32_t at, uint32_t end)
{
	if (at < c->size)
		memset(c->bytes + at, 0, min_u64(end, c->size) - at);
}

/* A truncation that cuts off byte @at is under way meanwhile. */
static bool is_being_cut(const struct event *e, uint32_t at)
{
	for (unsigned t = 1; t <= THREADS_MAX; t++) {
		for (unsigned i = 0; i < STEPS_MAX; i++) {
			const struct event *cut = &events[t][i];

			if (cut->step.what == TRUNCATE && cut->began != 0 && cut->step.at <= at &&
			    cut->began < e->ended && cut->ended > e->began)
				return true;
		}
	}
	return false;
}

/*
 * False: it could not have returned this here.  While a page is cut off an access finds it as it
 * was, as zeros, or gone, as the processor may still have its entry.
 */
static bool apply_access(const struct event *e, struct contents *c)
{
	uint32_t at = e->step.at;
	bool beyond = at >= round_up_pow2(c->size, PAGE);

	if (is_being_cut(e, at) && (e->outcome == BEYOND || beyond))
		return true;
	if (is_being_cut(e, at) && e->step.what == LOAD && e->seen == 0)
		return true;
	if (e->outcome == FAILED)
		return true; /* nothing was stored */
	if (e->outcome == BEYOND || beyond)
		return e->outcome == BEYOND && beyond;
	if (at >= c->size || e->outcome == NO_SPACE)
		return true; /* scribbles behind the end are nobody's */
	if (e->step.what == LOAD)
		return c->bytes[at] == e->seen;
	if (!(scenario->flags & PRIVATE))
		c->bytes[at] = e->step.value;
	return true;
}

static bool apply(const struct event *e, struct contents *c)
{
	const struct step *s = &e->step;
	char copy[FILE_MAX];

	switch (s->what) {
	case WRITE:
	case DIRECT:
		if (e->done == 0)
			return true;
		grow(c, s->at + e->done);
		memset(c->bytes + s->at, s->value, e->done);
		return true;
	case FROM_MAP:
		if (e->done == 0)
			return true;
		memset(copy, 0, sizeof(copy));
		memcpy(copy, c->bytes, c->size);
		grow(c, s->at + e->done);
		memcpy(c->bytes + s->at, copy + s->from, e->done);
		return true;
	case STORE:
	case PIN:
	case LOAD: return apply_access(e, c);
	case TRUNCATE:
		if (e->outcome == NO_SPACE)
			return true;
		grow(c, s->at);
		c->size = s->at;
		return true;
	case ALLOCATE:
		if (e->outcome != NO_SPACE)
			grow(c, s->at + s->len);
		return true;
	case PUNCH:
		if (e->outcome != NO_SPACE)
			clear_range(c, s->at, s->at + s->len);
		return true;
	case ZERO:
		if (e->outcome == NO_SPACE)
			return true;
		clear_range(c, s->at, s->at + s->len);
		grow(c, s->at + s->len);
		return true;
	default: return true;
	}
}

static bool matters(const struct event *e)
{
	return e->step.what != END && e->ended != 0 && e->step.what <= ZERO;
}

/* The events of the threads in one row. */
static size_t collect(const struct event **row)
{
	size_t count = 0;

	for (unsigned t = 1; t <= THREADS_MAX; t++) {
		for (unsigned i = 0; i < STEPS_MAX; i++) {
			const struct event *e = &events[t][i];

			if (matters(e) || e->step.what == PIN || e->step.what == DIRECT)
				row[count++] = e;
		}
	}
	return count;
}

static bool explains(const struct event *const *row, size_t count, uint32_t done,
		     const struct contents *c, const struct contents *want);

/*
 * A call that failed did nothing, or all of it.  A truncation may have come as far as the zeros
 * that have to be on disk before the size, and what makes zeros as far as the blocks that are only
 * in part in the range, one or both.
 */
static bool explains_failed(const struct event *const *row, size_t count, uint32_t done,
			    const struct event *failed, const struct contents *c,
			    const struct contents *want)
{
	const struct step *s = &failed->step;
	const uint32_t block = 1024; /* of all images it is done with */
	uint32_t end = s->at + s->len;
	struct contents zeroed = *c;

	if (explains(row, count, done, c, want))
		return true;
	if (s->what != TRUNCATE && s->what != PUNCH && s->what != ZERO)
		return false;
	if (s->what == ZERO) { /* all of it, but for the size */
		struct contents all = *c;

		clear_range(&all, s->at, end);
		if (explains(row, count, done, &all, want))
			return true;
	}
	clear_range(&zeroed, s->at,
		    (uint32_t)(s->what == TRUNCATE ? round_up_pow2(s->at, block)
						   : min_u64(end, round_up_pow2(s->at, block))));
	if (s->what == TRUNCATE || explains(row, count, done, &zeroed, want))
		return explains(row, count, done, &zeroed, want);
	if (end / block > s->at / block)
		clear_range(&zeroed, (uint32_t)round_down_pow2(end, block), end);
	else
		clear_range(&zeroed, s->at, end);
	return explains(row, count, done, &zeroed, want);
}

/* Is there an order of those events of @row that are not in @done that makes @want of @c? */
static bool explains(const struct event *const *row, size_t count, uint32_t done,
		     const struct contents *c, const struct contents *want)
{
	uint32_t first_end = UINT32_MAX;

	if (done == (1u << count) - 1)
		return c->size == want->size && memcmp(c->bytes, want->bytes, c->size) == 0;
	for (size_t i = 0; i < count; i++) {
		if (!(done & 1u << i))
			first_end = (uint32_t)min_u64(first_end, row[i]->ended);
	}
	for (size_t i = 0; i < count; i++) {
		struct contents next;

		if ((done & 1u << i) || row[i]->began > first_end)
			continue;
		next.size = c->size;
		memcpy(next.bytes, c->bytes, c->size);
		if (row[i]->outcome == FAILED &&
		    explains_failed(row, count, done | 1u << i, row[i], &next, want))
			return true;
		if (apply(row[i], &next) && explains(row, count, done | 1u << i, &next, want))
			return true;
	}
	return false;
}

static void say_contents(const char *what, const struct contents *c)
{
	fprintf(stderr, "%s: %u bytes:", what, c->size);
	for (uint32_t i = 0, run; i < c->size; i += run) {
		for (run = 1; i + run < c->size && c->bytes[i + run] == c->bytes[i]; run++)
			;
		fprintf(stderr, " %c*%u", c->bytes[i] ? c->bytes[i] : '.', run);
	}
	fprintf(stderr, "\n");
}

static struct contents start; /* before the threads */

static void say_events(void)
{
	const struct event *row[THREADS_MAX * STEPS_MAX];
	size_t count = collect(row);

	say_contents("before", &start);
	for (size_t i = 0; i < count; i++)
		fprintf(stderr, "  %u-%u %s %u+%u '%c' outcome %d done %u saw '%c'\n",
			row[i]->began, row[i]->ended, what_names[row[i]->step.what],
			row[i]->step.at, row[i]->step.len,
			row[i]->step.value ? row[i]->step.value : '-', row[i]->outcome,
			row[i]->done, row[i]->seen ? row[i]->seen : '.');
}

static void judge(const struct contents *now)
{
	const struct event *row[THREADS_MAX * STEPS_MAX];
	size_t count = collect(row);

	if (explains(row, count, 0, &start, now))
		return;
	say_contents("after", now);
	say_events();
	sim_fail("no order of the steps explains what is in the file");
}

static struct contents read_file(void)
{
	struct contents c = { 0 };
	struct uext4_file *f;
	size_t got;

	OK(uext4_file_open(fs, file_ino, 0, &f));
	OK(uext4_pread(f, c.bytes, sizeof(c.bytes), 0, &got));
	uext4_file_close(f);
	c.size = (uint32_t)got;
	return c;
}

/* What the mapping says is what read says, byte for byte. */
static void compare_mapping(const struct contents *c)
{
	for (uint32_t at = 0; at < c->size; at++) {
		char seen;

		if (at > 256 && at % 97 != 0)
			continue;
		OK(vm_soft_load(atomic_load(&fs->space), (uintptr_t)map + at, &seen, 1));
		if (seen != c->bytes[at])
			sim_fail("byte %u: '%c' in the mapping, '%c' in the file", at,
				 seen ? seen : '.', c->bytes[at] ? c->bytes[at] : '.');
	}
}

/* Free blocks when nothing is dirty: what is promised then is lost. */
static uint64_t free_blocks(void)
{
	struct uext4_statfs st;

	OK(uext4_statfs(fs, 0, &st));
	return st.blocks_free;
}

/* ---- power cuts ------------------------------------------------------------------------------ */

static uint32_t cut_at; /* the moment */
static bool cut_wanted;

static void cut_power(void *arg UNUSED)
{
	sim_point("power");
	kit_cut();
	cut_at = ++moment;
}

/* The bytes that @e changes when it does what it returned. */
static bool covers(const struct event *e, uint32_t at)
{
	const struct step *s = &e->step;

	if (e->outcome != DONE || e->began == 0)
		return false;
	switch (s->what) {
	case WRITE:
	case DIRECT:
	case FROM_MAP:
	case ALLOCATE:
	case PUNCH:
	case ZERO: return at >= s->at && at < s->at + s->len;
	case STORE:
	case PIN: return at == s->at;
	case TRUNCATE: return at >= s->at;
	default: return false;
	}
}

static bool precedes(const struct event *a, const struct event *b)
{
	return a->ended != 0 && b->began != 0 && a->ended < b->began;
}

/* A sync that began after @e had ended, and ended before the cut. */
static bool is_durable(const struct event *e)
{
	for (unsigned t = 1; t <= THREADS_MAX; t++) {
		for (unsigned i = 0; i < STEPS_MAX; i++) {
			const struct event *s = &events[t][i];
			bool sync = s->step.what == FSYNC || s->step.what == MSYNC ||
				    s->step.what == SYNC || s->step.what == FREEZE;

			if (sync && s->outcome == DONE && precedes(e, s) && s->ended < cut_at)
				return true;
		}
	}
	return false;
}

/* What @e put there was surely overwritten by something durable. */
static bool is_superseded(const struct event *e, uint32_t at)
{
	for (unsigned t = 1; t <= THREADS_MAX; t++) {
		for (unsigned i = 0; i < STEPS_MAX; i++) {
			const struct event *o = &events[t][i];

			if (covers(o, at) && o->step.what != ALLOCATE &&
			    (e == NULL || precedes(e, o)) && is_durable(o))
				return true;
		}
	}
	return false;
}

static bool gives(const struct event *e, uint32_t at, char value)
{
	switch (e->step.what) {
	case WRITE:
	case DIRECT:
	case STORE:
	case PIN: return value == e->step.value;
	case FROM_MAP: return true;
	default: return value == 0;
	}
}

static bool may_be(uint32_t at, char value)
{
	char before = at < start.size ? start.bytes[at] : 0;

	if (value == 0 && at >= start.size)
		return true; /* a hole, as the size can be durable without it */
	if (value == before && !is_superseded(NULL, at))
		return true;
	for (unsigned t = 1; t <= THREADS_MAX; t++) {
		for (unsigned i = 0; i < STEPS_MAX; i++) {
			const struct event *e = &events[t][i];

			if (e->began != 0 && e->began < cut_at && covers(e, at) &&
			    gives(e, at, value) && !is_superseded(e, at))
				return true;
		}
	}
	return false;
}

/* The image at the cut, recovered. */
static void judge_cut(void)
{
	struct contents c;

	kit_restore();
	{
		struct uext4_open_options o = { .size = sizeof(o), .flags = UEXT4_OPEN_WRITE };

		OK(kit_open(&o));
		OK(uext4_close(fs));
	}
	kit_open_and_check();
	c = read_file();
	OK(uext4_close(fs));
	for (uint32_t at = 0; at < c.size; at++) {
		if (!may_be(at, c.bytes[at])) {
			say_contents("after the cut", &c);
			sim_fail("byte %u is '%c' after a cut at %u, which nothing explains", at,
				 c.bytes[at] ? c.bytes[at] : '.', cut_at);
		}
	}
}

/* ---- one schedule ---------------------------------------------------------------------------- */

static void map_file(void)
{
	void *addr;

	OK(uext4_mmap(file, 0, MAP_BYTES, UEXT4_PROT_READ | UEXT4_PROT_WRITE,
		      scenario->flags & PRIVATE ? UEXT4_MAP_PRIVATE : UEXT4_MAP_SHARED, &addr));
	map = addr;
}

static void prepare(void)
{
	struct uext4_open_options o = {
		.size = sizeof(o),
		.flags = UEXT4_OPEN_WRITE |
			 (scenario->flags & NODELALLOC ? UEXT4_OPEN_NODELALLOC : 0),
		.cache_bytes = scenario->flags & SMALL_CACHE ? MIB : 4 * MIB,
		.data_mode = scenario->flags & JOURNAL ? UEXT4_DATA_JOURNAL : UEXT4_DATA_ORDERED,
	};

	OK(kit_open(&o));
	{
		struct vm_space *space;

		OK(uext4_mmap_soft_for_test(fs, &space));
	}
	sync_set_user_copy(vm_soft_user_copy_in, vm_soft_user_copy_out);
	if (scenario->flags & EXTRA_GROWS)
		fs->geom.extra_isize_want = EXTRA_BEFORE;
	OK(uext4_create(fs, UEXT4_ROOT_INO, "f", 1, &(struct uext4_new){ .mode = 0644 },
			&file_ino));
	OK(uext4_file_open(fs, file_ino, UEXT4_FILE_WRITE, &file));
	if (scenario->flags & MAP_FIRST)
		map_file();
	for (unsigned i = 0; i < ARRAY_SIZE(scenario->before); i++) {
		events[0][i].step = scenario->before[i];
		if (scenario->before[i].what != END)
			do_step(&events[0][i]);
	}
	if (!(scenario->flags & MAP_FIRST))
		map_file();
	if (scenario->flags & (FULL | NEARLY_FULL))
		kit_fill_disk(scenario->flags & FULL ? 0 : 3);
	if (scenario->flags & EXTRA_GROWS)
		fs->geom.extra_isize_want = EXTRA_BEHIND;
	if (scenario->flags & CUT)
		OK(uext4_sync(fs));
	start = read_file();
}

static void run_threads(void)
{
	static const char *const names[] = { "one", "two", "three", "four" };
	struct sim_body bodies[THREADS_MAX + 1];
	size_t count = 0;

	for (unsigned t = 0; t < THREADS_MAX; t++) {
		if (scenario->steps[t][0].what == END)
			continue;
		for (unsigned i = 0; i < STEPS_MAX; i++)
			events[1 + t][i] = (struct event){ .step = scenario->steps[t][i] };
		bodies[count++] = (struct sim_body){ names[t], run_thread, events[1 + t] };
	}
	cut_wanted = scenario->flags & CUT;
	if (cut_wanted)
		bodies[count++] = (struct sim_body){ "power", cut_power, NULL };
	sim_threads(bodies, count);
	(void)mem_fail_nth(0);
}

/*
 * What was stored or written is in memory, whatever the device says; and the image is right (T10).
 */
static int judge_broken(void)
{
	const struct event *row[THREADS_MAX * STEPS_MAX];
	size_t count = collect(row);
	int err;

	for (size_t i = 0; i < count; i++) {
		const struct step *s = &row[i]->step;
		char seen = 0;

		if (row[i]->outcome != DONE || (s->what != STORE && s->what != WRITE))
			continue;
		OK(vm_soft_load(atomic_load(&fs->space), (uintptr_t)map + s->at, &seen, 1));
		if (seen != s->value)
			sim_fail("byte %u is '%c'", s->at, seen ? seen : '.');
	}
	OK(uext4_munmap(fs, map, MAP_BYTES));
	uext4_file_close(file);
	err = uext4_close(fs);
	if (err != 0 && !is_broken(err))
		sim_fail("close: %s", strerror(-err));
	{
		struct uext4_open_options o = { .size = sizeof(o), .flags = UEXT4_OPEN_WRITE };

		OK(kit_open(&o));
		OK(uext4_close(fs));
	}
	kit_open_and_check();
	OK(uext4_close(fs));
	return 0;
}

static unsigned extra_size(void)
{
	struct inode *ip;
	unsigned size;

	OK(inode_get(fs, file_ino, &ip));
	size = le16_get(ip->raw->i_extra_isize);
	inode_put(ip);
	return size;
}

static int body(void *arg)
{
	struct contents before, after;
	uint64_t free;

	scenario = arg;
	sim_calm(true);
	prepare();
	sim_calm(false);
	run_threads();
	sim_calm(true);
	if (scenario->flags & BROKEN)
		return judge_broken();
	before = read_file();
	judge(&before);
	if (!(scenario->flags & PRIVATE))
		compare_mapping(&before);
	OK(uext4_munmap(fs, map, MAP_BYTES));
	uext4_file_close(file);
	OK(uext4_sync(fs));
	free = free_blocks();
	OK(uext4_close(fs));
	kit_open_and_check();
	if (scenario->flags & EXTRA_GROWS && extra_size() != EXTRA_BEHIND)
		sim_fail("the extra area has %u bytes", extra_size());
	after = read_file();
	if (free_blocks() != free)
		sim_fail("%llu blocks are free, and were %llu while it was open",
			 (unsigned long long)free_blocks(), (unsigned long long)free);
	OK(uext4_close(fs));
	if (before.size != after.size || memcmp(before.bytes, after.bytes, before.size) != 0) {
		say_contents("open", &before);
		say_contents("closed and opened", &after);
		say_events();
		sim_fail("what is in the file changed when it was closed");
	}
	if (cut_wanted)
		judge_cut();
	return 0;
}

/* ---- random scenarios ------------------------------------------------------------------------ */

static void random_step(struct step *s, char value)
{
	static const enum what often[] = { WRITE, STORE, STORE, LOAD, TRUNCATE, MSYNC, FSYNC };
	static const enum what seldom[] = { ALLOCATE, PUNCH, ZERO,  READ,   SYNC,
					    SETX,     RMX,   REMAP, ADVISE, CHMOD };
	static const uint32_t places[] = { 0,	 1,    30,   59,   60,	 61,   100, 150,
					   1000, 1024, 1030, 4095, 4096, 5000, 9000 };

	s->what = rnd(4) ? often[rnd(ARRAY_SIZE(often))] : seldom[rnd(ARRAY_SIZE(seldom))];
	s->at = places[rnd(rnd(3) ? 8 : ARRAY_SIZE(places))];
	s->len = 1 + rnd(rnd(3) ? 60 : 3000);
	s->value = value;
	if (s->what == STORE || s->what == LOAD)
		s->len = 1;
	if (s->what == SETX)
		s->len = rnd(120);
}

/* The same steps for every schedule of one seed. */
static int random_body(void *arg)
{
	static struct scenario made;

	made = *(const struct scenario *)arg;
	made.before[0] = (struct step)W(0, 1 + rnd(200), 'b');
	if (rnd(3) == 0)
		made.flags |= NODELALLOC;
	if (rnd(4) == 0)
		made.flags |= JOURNAL;
	if (rnd(2) && strcmp(made.image, "inline-nojournal") != 0)
		made.flags |= CUT;
	if (rnd(3) == 0)
		made.flags |= MAP_FIRST;
	if (made.flags & NO_MEMORY)
		made.flags &= ~(uint32_t)CUT;
	for (unsigned t = 0; t < 3; t++) {
		for (unsigned i = 0; i < 3; i++)
			random_step(&made.steps[t][i], (char)('A' + t * 3 + i));
	}
	return body(&made);
}

/* ---- running --------------------------------------------------------------------------------- */

static struct sim_options told = { .strategy = SIM_RANDOM, .seed = 1, .minimise = 200 };
static const char *only;
static uint64_t factor = 1;

static void load_image(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(images); i++) {
		if (strcmp(images[i].name, name) == 0) {
			kit_load(&images[i]);
			return;
		}
	}
	fprintf(stderr, "no image %s\n", name);
	abort();
}

static bool explore(const char *name, int (*fn)(void *arg), const void *arg,
		    const struct sim_options *options)
{
	struct sim_result r;

	(void)sim_explore(options, fn, (void *)(uintptr_t)arg, &r);
	printf("# %s: %llu schedules, %.0f/s, %llu steps each%s\n", name,
	       (unsigned long long)r.schedules, (double)r.schedules / (r.seconds + 1e-9),
	       (unsigned long long)(r.steps_total / (r.schedules ? r.schedules : 1)),
	       r.complete ? ", all there are" : "");
	if (r.outcome != SIM_OK) {
		printf("# %s: %s, seed %llu, schedule %s\n%s\n", name, sim_outcome_name(r.outcome),
		       (unsigned long long)r.seed, r.schedule ? r.schedule : "-",
		       r.report ? r.report : "");
	}
	fflush(stdout);
	{
		bool ok = r.outcome == SIM_OK;

		sim_result_finish(&r);
		return ok;
	}
}

static bool run_scenario(const struct scenario *s, const struct sim_options *options)
{
	load_image(s->image);
	return explore(s->name, s->steps[0][0].what == END ? random_body : body, s, options);
}

/* Random ones and, of small bodies, the first of those with few preemptions. */
static void scenario_test(void **state)
{
	const struct scenario *s = *state;
	bool random = s->steps[0][0].what == END;
	struct sim_options o = { .strategy = SIM_RANDOM, .seed = 1, .minimise = 200 };

	o.schedules = factor * (random ? 150 : 30);
	assert_true(run_scenario(s, &o));
	o.strategy = SIM_PCT;
	o.preemptions = 3;
	assert_true(run_scenario(s, &o));
	if (random)
		return;
	o.strategy = SIM_DFS;
	o.preemptions = 1;
	o.coarse = true;
	o.schedules = factor * 30;
	assert_true(run_scenario(s, &o));
}

static uint64_t number(const char *text)
{
	return strtoull(text, NULL, 0);
}

static void take_options(int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";

		if (strcmp(name, "--only") == 0) {
			only = value;
		} else if (strcmp(name, "--seed") == 0) {
			told.seed = number(value);
		} else if (strcmp(name, "--count") == 0) {
			told.schedules = number(value);
		} else if (strcmp(name, "--factor") == 0) {
			factor = number(value);
		} else if (strcmp(name, "--dfs") == 0) {
			told.strategy = SIM_DFS;
			told.preemptions = (uint32_t)number(value);
			told.coarse = true;
		} else if (strcmp(name, "--pct") == 0) {
			told.strategy = SIM_PCT;
			told.preemptions = (uint32_t)number(value);
		} else if (strcmp(name, "--schedule") == 0) {
			told.strategy = SIM_REPLAY;
			told.schedule = value;
		} else if (strcmp(name, "--show") == 0) {
			told.show = (uint32_t)number(value);
		} else if (strcmp(name, "--minimise") == 0) {
			told.minimise = (uint32_t)number(value);
		} else if (strcmp(name, "--list") == 0) {
			for (size_t s = 0; s < ARRAY_SIZE(scenarios); s++)
				puts(scenarios[s].name);
			exit(0);
		} else {
			fprintf(stderr, "what is %s?\n", name);
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	static struct CMUnitTest tests[ARRAY_SIZE(scenarios)];

	sim_fix_addresses(argv);
	take_options(argc, argv);
	if (only) {
		bool ok = true, any = false;

		for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
			if (strcmp(scenarios[i].name, only) != 0)
				continue;
			any = true;
			ok = run_scenario(&scenarios[i], &told) && ok;
		}
		return any && ok ? 0 : 1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++)
		tests[i] = (struct CMUnitTest){
			.name = scenarios[i].name,
			.test_func = scenario_test,
			.initial_state = (void *)(uintptr_t)&scenarios[i],
		};
	return _cmocka_run_group_tests("sim_vm", tests, ARRAY_SIZE(tests), NULL, NULL);
}
