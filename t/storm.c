/* SPDX-License-Identifier: MIT */
/*
 * The workload that stops a stock kernel, and more of it: small writes at offset 0 against
 * truncation to 0 and up, fallocate, attributes, fsync, and stores through shared mappings made
 * before and after the files had data.
 *
 *	uext4-storm [--seed N] [--seconds N] [--full] [--nodelalloc] [--data MODE] IMAGE
 *
 * Each round has new files, since one that left its inode does not come back.  Of each file
 *
 *	bytes 0 to 7	are overwritten by the writer
 *	bytes 8 to 31	belong to the threads that store, each to its own
 *	what is behind	is written, cut off and grown by the others
 *
 *  ST1 A store to a byte below the end of the file is no signal, on a full disk neither.  A file
 *      that is cut off to 0 may answer with SIGBUS, but only if it was empty at some moment of the
 *      access; or if it grew again as a hole, as attributes had taken its place in the inode, and
 *      the disk is full.
 *  ST2 No call fails but those that need room, with ENOSPC.
 *  ST3 What a thread stored last is what it loads, what pread() gives (of files that are never cut
 *      below it), and what is there when the image is opened again.
 *  ST4 Bytes are those that somebody wrote: no other ever shows, zeros do where a file was cut.
 */
#include "tool.h"

#include "uext4.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FILES 4u /* 0 and 1: never shorter than KEPT; the others are cut to 0 too */
#define KEPT 32u
#define STORERS 4u
#define MAP_BYTES 16384u
#define OWN_FIRST 8u
#define MAPS 2u

struct a_file {
	uint32_t ino;
	uint64_t text;
	struct uext4_file *file;
	uint8_t *maps[MAPS]; /* made before it had data, and after */
	bool cut;	     /* to 0 */
	/* Odd while it may be empty; changes whenever that does. */
	_Atomic uint32_t empties;
	uint8_t last[KEPT]; /* by its owner: what he stored last */
};

static struct uext4_fs *fs;
static struct a_file files[FILES];
static _Atomic bool stop;
static _Atomic uint64_t stores, signals, nospcs, conversions;
static uint64_t seed = 1;
static bool full;

__attribute__((format(printf, 1, 2), noreturn)) static void bad(const char *fmt, ...)
{
	va_list args;

	flockfile(stderr);
	fprintf(stderr, "seed %" PRIu64 ": ", seed);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, " (%s)\n", uext4_last_error());
	_exit(1);
}

/* ST2. */
static bool ok(int err, const char *what)
{
	if (err == -ENOSPC) {
		atomic_fetch_add(&nospcs, 1);
		return false;
	}
	if (err != 0)
		bad("%s: %s", what, strerror(-err));
	return true;
}

/* ---- accesses -------------------------------------------------------------------------------- */

static _Thread_local sigjmp_buf landing;
static _Thread_local volatile bool armed;

static void on_sigbus(int sig)
{
	if (!armed)
		_exit(120 + sig);
	siglongjmp(landing, 1);
}

/* False: SIGBUS. */
static bool store_byte(volatile uint8_t *to, uint8_t value)
{
	if (sigsetjmp(landing, 1) != 0) {
		armed = false;
		return false;
	}
	armed = true;
	*to = value;
	armed = false;
	return true;
}

static bool load_byte(const volatile uint8_t *from, uint8_t *ret)
{
	if (sigsetjmp(landing, 1) != 0) {
		armed = false;
		return false;
	}
	armed = true;
	*ret = *from;
	armed = false;
	return true;
}

/* ST1: was it empty at some moment since @before? */
static bool was_empty(const struct a_file *f, uint32_t before)
{
	return (before & 1) != 0 || atomic_load(&f->empties) != before;
}

static void signalled(const struct a_file *f, uint32_t before, const char *what)
{
	struct uext4_stat st;

	atomic_fetch_add(&signals, 1);
	if (!f->cut)
		bad("a %s got SIGBUS", what);
	if (was_empty(f, before))
		return;
	ok(uext4_stat(fs, f->ino, &st), "stat");
	if (!full || st.is_inline)
		bad("a %s got SIGBUS, and the file was never empty", what);
}

struct storer {
	pthread_t thread;
	unsigned number;
	struct rng rng;
};

static void check_byte(const struct a_file *f, uint32_t before, unsigned at, uint8_t seen,
		       const char *how)
{
	if (seen == f->last[at] || (f->cut && seen == 0 && was_empty(f, before)))
		return;
	/* A file that is cut: what was stored before that is zeros, and may not come back. */
	if (f->cut && seen == 0)
		return;
	bad("byte %u is %u by %s, and was stored as %u", at, seen, how, f->last[at]);
}

static void *store_main(void *arg)
{
	struct storer *s = arg;
	uint64_t n = 0;

	while (!atomic_load(&stop)) {
		struct a_file *f = &files[rnd_below(&s->rng, FILES)];
		/* Two of each thread, so that neighbours in a word are others'. */
		unsigned at = OWN_FIRST + s->number + STORERS * (unsigned)rnd_below(&s->rng, 6);
		const uint8_t *map = f->maps[rnd_below(&s->rng, MAPS)];
		uint32_t before = atomic_load(&f->empties);
		uint8_t value = (uint8_t)(1 + n++ % 250), seen;

		if (!store_byte((volatile uint8_t *)(uintptr_t)map + at, value)) {
			signalled(f, before, "store");
			continue;
		}
		f->last[at] = value;
		atomic_fetch_add(&stores, 1);
		map = f->maps[rnd_below(&s->rng, MAPS)];
		if (!load_byte(map + at, &seen))
			signalled(f, before, "load");
		else
			check_byte(f, before, at, seen, "a load");
		if (rnd_one_in(&s->rng, 16)) {
			size_t got;

			ok(uext4_pread(f->file, &seen, 1, at, &got), "pread");
			if (got == 1)
				check_byte(f, before, at, seen, "pread");
			else if (!f->cut)
				bad("a file of at least %u bytes ends before %u", KEPT, at);
		}
	}
	return NULL;
}

/* ---- the others ------------------------------------------------------------------------------ */

static void set_size(struct a_file *f, uint64_t size)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE, .size = size };

	ok(uext4_setattr(fs, f->ino, &attr), "truncate");
}

/* To 0 and up again: one thread does it, so what is between is known. */
static void cut(struct a_file *f, struct rng *rng)
{
	if (!f->cut) {
		set_size(f, KEPT + rnd_below(rng, 200));
		return;
	}
	atomic_fetch_add(&f->empties, 1);
	set_size(f, 0);
	set_size(f, KEPT + rnd_below(rng, 100));
	atomic_fetch_add(&f->empties, 1);
}

static void write_some(struct a_file *f, const uint8_t *buf, size_t len, uint64_t at)
{
	size_t done;

	(void)ok(uext4_pwrite(f->file, buf, len, at, &done), "pwrite");
}

/* Small writes at offset 0, some of them out of a mapping of the same file; and growth. */
static void *write_main(void *arg)
{
	struct storer *s = arg;
	uint8_t buf[6000];

	while (!atomic_load(&stop)) {
		struct a_file *f = &files[rnd_below(&s->rng, FILES)];
		uint64_t n = rnd_below(&s->rng, 100);

		memset(buf, (int)(1 + rnd_below(&s->rng, 250)), sizeof(buf));
		if (n < 70) {
			write_some(f, buf, 1 + rnd_below(&s->rng, OWN_FIRST), 0);
		} else if (n < 80 && !f->cut) {
			/* Its bytes 0 to 7 are its own; the page is that of the target. */
			write_some(f, f->maps[1], 4, 4);
		} else if (n < 97) {
			write_some(f, buf, 1 + rnd_below(&s->rng, 80),
				   KEPT + rnd_below(&s->rng, 60));
		} else if (n < 98) {
			atomic_fetch_add(&conversions, 1);
			write_some(f, buf, sizeof(buf), KEPT);
		}
	}
	return NULL;
}

static void *change_main(void *arg)
{
	struct storer *s = arg;
	uint8_t value[200] = { 1 };

	while (!atomic_load(&stop)) {
		struct a_file *f = &files[rnd_below(&s->rng, FILES)];
		uint64_t n = rnd_below(&s->rng, 100);
		int err;

		if (n < 30) {
			cut(f, &s->rng);
		} else if (n < 55) {
			ok(uext4_xattr_set(fs, f->ino, "user.a", value, rnd_below(&s->rng, 120), 0),
			   "setxattr");
		} else if (n < 75) {
			err = uext4_xattr_remove(fs, f->ino, "user.a");
			if (err != -ENODATA)
				ok(err, "removexattr");
		} else if (n < 77) {
			ok(uext4_fallocate(f->file, 0, 0, 8192), "fallocate");
		} else if (n < 80) {
			ok(uext4_fallocate(f->file,
					   UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_KEEP_SIZE, KEPT,
					   4096),
			   "punch");
		}
	}
	return NULL;
}

static void *sync_main(void *arg)
{
	struct storer *s = arg;

	while (!atomic_load(&stop)) {
		struct a_file *f = &files[rnd_below(&s->rng, FILES)];
		void *addr;

		switch (rnd_below(&s->rng, 6)) {
		case 0: ok(uext4_fsync(f->file, 0), "fsync"); break;
		case 1: ok(uext4_fsync(f->file, UEXT4_FSYNC_DATA), "fdatasync"); break;
		case 2: ok(uext4_msync(fs, f->maps[0], MAP_BYTES, UEXT4_MS_SYNC), "msync"); break;
		case 3:
			ok(uext4_madvise(fs, f->maps[0], MAP_BYTES, UEXT4_MADV_DONTNEED),
			   "madvise");
			break;
		case 4:
			ok(uext4_mmap(f->file, 0, MAP_BYTES, UEXT4_PROT_READ | UEXT4_PROT_WRITE,
				      UEXT4_MAP_SHARED, &addr),
			   "mmap");
			ok(uext4_munmap(fs, addr, MAP_BYTES), "munmap");
			break;
		default: ok(uext4_sync(fs), "sync"); break;
		}
	}
	return NULL;
}

/* ---- a round --------------------------------------------------------------------------------- */

static void map_file(struct a_file *f, unsigned which)
{
	void *addr;

	if (!ok(uext4_mmap(f->file, 0, MAP_BYTES, UEXT4_PROT_READ | UEXT4_PROT_WRITE,
			   UEXT4_MAP_SHARED, &addr),
		"mmap"))
		bad("mmap says that there is no room");
	f->maps[which] = addr;
}

static bool files_make(uint64_t round)
{
	static const uint8_t zeros[KEPT];

	for (unsigned i = 0; i < FILES; i++) {
		struct a_file *f = &files[i];
		char name[32];
		size_t done;

		*f = (struct a_file){ .cut = i >= FILES / 2 };
		(void)snprintf(name, sizeof(name), "%" PRIu64 "-%u", round, i);
		if (!ok(uext4_create(fs, UEXT4_ROOT_INO, name, strlen(name),
				     &(struct uext4_new){ .mode = 0600 }, &f->ino),
			"create"))
			return false;
		ok(uext4_file_open(fs, f->ino, UEXT4_FILE_WRITE, &f->file), "open");
		map_file(f, 0);
		if (!ok(uext4_pwrite(f->file, zeros, KEPT, 0, &done), "first write") ||
		    done != KEPT)
			bad("the first write of an inline file needs no room");
		map_file(f, 1);
	}
	return true;
}

static void files_check(void)
{
	for (unsigned i = 0; i < FILES / 2; i++) {
		struct a_file *f = &files[i];
		uint8_t bytes[KEPT];
		size_t got;

		ok(uext4_pread(f->file, bytes, KEPT, 0, &got), "pread");
		if (got != KEPT)
			bad("file %u has %zu bytes", i, got);
		for (unsigned at = OWN_FIRST; at < KEPT; at++) {
			if (bytes[at] != f->last[at])
				bad("file %u, byte %u: %u instead of %u", i, at, bytes[at],
				    f->last[at]);
		}
	}
}

static void files_close(void)
{
	for (unsigned i = 0; i < FILES; i++) {
		for (unsigned m = 0; m < MAPS; m++)
			ok(uext4_munmap(fs, files[i].maps[m], MAP_BYTES), "munmap");
		uext4_file_close(files[i].file);
	}
}

/* The files of the last round stay, to be looked at when the image is opened again. */
static void files_remove(uint64_t round)
{
	for (unsigned i = 0; i < FILES; i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), "%" PRIu64 "-%u", round, i);
		ok(uext4_unlink(fs, UEXT4_ROOT_INO, name, strlen(name)), "unlink");
	}
}

static void run_round(struct storer *storers, size_t count, void *(*const mains[])(void *),
		      unsigned ms)
{
	struct timespec pause = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	atomic_store(&stop, false);
	for (size_t i = 0; i < count; i++) {
		if (pthread_create(&storers[i].thread, NULL, mains[i], &storers[i]) != 0)
			die("no thread");
	}
	(void)nanosleep(&pause, NULL);
	atomic_store(&stop, true);
	for (size_t i = 0; i < count; i++)
		(void)pthread_join(storers[i].thread, NULL);
}

static void fill_disk(void)
{
	static uint8_t block[65536];
	struct uext4_file *f;
	uint64_t at = 0;
	uint32_t ino;
	size_t done;

	ok(uext4_create(fs, UEXT4_ROOT_INO, "fill", 4, &(struct uext4_new){ .mode = 0600 }, &ino),
	   "create");
	ok(uext4_file_open(fs, ino, UEXT4_FILE_WRITE, &f), "open");
	for (size_t step = sizeof(block); step >= 1024; step /= 2) {
		while (uext4_pwrite(f, block, step, at, &done) == 0 && done > 0)
			at += done;
	}
	ok(uext4_fsync(f, 0), "fsync");
	uext4_file_close(f);
}

static void reopen_and_check(const char *image)
{
	struct uext4_open_options options = { .size = sizeof(options) };
	int err = uext4_open(image, &options, &fs);

	if (err != 0)
		bad("open again: %s", strerror(-err));
	for (unsigned i = 0; i < FILES; i++)
		ok(uext4_file_open(fs, files[i].ino, 0, &files[i].file), "open");
	files_check();
	for (unsigned i = 0; i < FILES; i++)
		uext4_file_close(files[i].file);
	ok(uext4_close(fs), "close");
}

static uint64_t now_ms(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static uint32_t data_mode(const char *name)
{
	if (strcmp(name, "journal") == 0)
		return UEXT4_DATA_JOURNAL;
	return strcmp(name, "writeback") == 0 ? UEXT4_DATA_WRITEBACK : UEXT4_DATA_ORDERED;
}

int main(int argc, char **argv)
{
	static const struct option known[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "seconds", required_argument, NULL, 't' },
		{ "full", no_argument, NULL, 'f' },
		{ "nodelalloc", no_argument, NULL, 'n' },
		{ "data", required_argument, NULL, 'd' },
		{ 0 },
	};
	void *(*const mains[])(void *) = { store_main, store_main,  store_main, store_main,
					   write_main, change_main, sync_main };
	const size_t count = sizeof(mains) / sizeof(mains[0]);
	struct uext4_open_options options = { .size = sizeof(options), .flags = UEXT4_OPEN_WRITE };
	struct sigaction action = { .sa_handler = on_sigbus };
	struct storer storers[7] = { 0 };
	uint64_t seconds = 5, end, round = 0;
	int c, err;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (c) {
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 't': seconds = strtoull(optarg, NULL, 0); break;
		case 'f': full = true; break;
		case 'n': options.flags |= UEXT4_OPEN_NODELALLOC; break;
		case 'd': options.data_mode = data_mode(optarg); break;
		default: die("usage: uext4-storm [OPTIONS] IMAGE");
		}
	}
	if (optind + 1 != argc)
		die("which image?");
	(void)sigaction(SIGBUS, &action, NULL);
	err = uext4_open(argv[optind], &options, &fs);
	if (err != 0)
		die("open: %s", uext4_last_error());
	for (unsigned i = 0; i < count; i++) {
		storers[i].number = i % STORERS;
		storers[i].rng.state = mix64(seed * 100 + i);
	}
	if (full)
		fill_disk();
	for (end = now_ms() + seconds * 1000; now_ms() < end; round++) {
		if (round > 0)
			files_remove(round - 1);
		if (!files_make(round))
			break;
		run_round(storers, count, mains, 200);
		files_check();
		files_close();
	}
	err = uext4_close(fs);
	if (err != 0)
		bad("close: %s", strerror(-err));
	reopen_and_check(argv[optind]);
	printf("%" PRIu64 " rounds, %" PRIu64 " stores, %" PRIu64
	       " signals from empty files, %" PRIu64 " without room, %" PRIu64
	       " left their inode\n",
	       round, atomic_load(&stores), atomic_load(&signals), atomic_load(&nospcs),
	       atomic_load(&conversions));
	return 0;
}
