/* SPDX-License-Identifier: MIT */
/*
 * The Nth read, write or flush of the device fails, once or from then on, or the Nth allocation of
 * memory, for every N of a small workload.
 *
 *	uext4-fault [OPTION]... KIND IMAGE
 *
 *	KIND		read, write, flush, memory
 *	--seed N, --ops N	the workload (t/crash_work.c), of one thread
 *	--for-good	the device stays broken
 *	--first N, --step N	which N, from where on (1, 1)
 *	--e2fsck N	every Nth image also by e2fsck -fn; 0: none
 *	--scratch DIR
 *
 * Whatever fails: nothing crashes; a write that failed is made good or somebody is told, by a call
 * or at close (F1); the image recovers, is right, and holds what was promised before (F2; crash.h);
 * nothing leaks (F3; where a sanitizer looks).  The workload ends with the first error, as if the
 * call that got it had been cut.
 */
#include "crash.h"

#include "base/mem.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECONDS_MAX 120u
#define ROUNDS_MAX 1000000u

enum kind { KIND_read, KIND_write, KIND_flush, KIND_memory, KINDS };
static const char *const kind_names[KINDS] = { "read", "write", "flush", "memory" };

static struct work work = { .seed = 1, .ops = 60, .threads = 1 };
static struct {
	const char *program, *image, *scratch;
	enum kind kind;
	bool for_good;
	uint64_t first, step, e2fsck;
} opt = { .scratch = "/tmp", .first = 1, .step = 1, .e2fsck = 16 };
static uint64_t nth; /* the one that fails now */
static _Atomic uint64_t failures;
static uint64_t skipped;

static void print_repeat(void)
{
	fprintf(stderr,
		"repeat: %s --seed %" PRIu64 " --ops %" PRIu64 "%s --first %" PRIu64 " %s %s\n",
		opt.program, work.seed, work.ops, opt.for_good ? " --for-good" : "", nth,
		kind_names[opt.kind], opt.image);
}

void bad(const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "seed %" PRIu64 ", %s %" PRIu64 " fails%s, operation %" PRIu64 ":\n  ",
		work.seed, kind_names[opt.kind], nth, opt.for_good ? " and all behind it" : "",
		work.workers[0].begun);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	print_repeat();
	exit(1);
}

static void on_signal(int number)
{
	fprintf(stderr, "seed %" PRIu64 ", %s %" PRIu64 " fails: %s\n", work.seed,
		kind_names[opt.kind], nth, number == SIGALRM ? "it does not end" : "aborted");
	print_repeat();
	signal(SIGABRT, SIG_DFL);
	abort();
}

static void run_e2fsck(const uint8_t *image)
{
	char path[512];
	const char *argv[] = { "e2fsck", "-fn", path, NULL };
	char *output;

	snprintf(path, sizeof(path), "%s/fault.%d", opt.scratch, (int)getpid());
	write_sparse(path, image, work.base_bytes);
	if (run_program(argv, &output) != 0) {
		fprintf(stderr, "%s\n", output);
		bad("e2fsck has something to say");
	}
	free(output);
	unlink(path);
}

/* True: the Nth came and failed. */
static bool run_workload(uint8_t *disk)
{
	struct dev *ram = disk_of(&work, disk), *dev;

	atomic_store(&work.stopped, false);
	work.ready = false;
	work.error = 0;
	if (opt.kind == KIND_memory) {
		(void)mem_fail_nth(nth);
		work_run(&work, ram, NULL);
		return mem_fail_nth(0) >= nth;
	}
	if (dev_fail_create(ram, &dev) < 0)
		die("out of memory");
	atomic_store(&failures, 0);
	dev_fail_count_in(dev, &failures);
	dev_fail_for_good(dev, opt.for_good);
	switch (opt.kind) {
	case KIND_read: dev_fail_nth_read(dev, nth); break;
	case KIND_write: dev_fail_nth_write(dev, nth); break;
	default: dev_fail_nth_flush(dev, nth);
	}
	work_run(&work, dev, NULL);
	return atomic_load(&failures) > 0;
}

/* Closing it succeeded, so whatever failed was made good, and all is there. */
static void promise_all(void)
{
	struct promise p = { .op = work.ops, .k = { work.ops }, .all = true };

	work.promises = realloc(work.promises, (work.promises_count + 1) * sizeof(p));
	if (!work.promises)
		die("out of memory");
	work.promises[work.promises_count++] = p;
}

/* One N; false: the workload is over before it comes. */
static bool run(void)
{
	uint8_t *disk = must_alloc(work.base_bytes);
	struct progress at = { 0 };
	bool hit;

	memcpy(disk, work.base, work.base_bytes);
	alarm(SECONDS_MAX);
	hit = run_workload(disk);
	at.ready = work.ready;
	at.begun[0] = work.workers[0].begun;
	at.ended[0] = work.workers[0].ended;
	if (work.error == 0)
		promise_all();
	judge_recovery(&work, disk_of(&work, disk), &at, nth % 2 == 0);
	judge_image(&work, disk, &at);
	if (opt.e2fsck && (nth / opt.step) % opt.e2fsck == 0)
		run_e2fsck(disk);
	skipped += work.workers[0].skipped;
	work_free(&work);
	free(disk);
	return hit;
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "ops", required_argument, NULL, 'n' },
		{ "for-good", no_argument, NULL, 'g' },
		{ "first", required_argument, NULL, 'f' },
		{ "step", required_argument, NULL, 'p' },
		{ "e2fsck", required_argument, NULL, 'e' },
		{ "scratch", required_argument, NULL, 'S' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	opt.program = argv[0];
	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (c) {
		case 's': work.seed = strtoull(optarg, NULL, 0); break;
		case 'n': work.ops = strtoull(optarg, NULL, 0); break;
		case 'g': opt.for_good = true; break;
		case 'f': opt.first = strtoull(optarg, NULL, 0); break;
		case 'p': opt.step = strtoull(optarg, NULL, 0); break;
		case 'e': opt.e2fsck = strtoull(optarg, NULL, 0); break;
		case 'S': opt.scratch = optarg; break;
		default: exit(2);
		}
	}
	for (opt.kind = 0; optind + 2 == argc && opt.kind < KINDS; opt.kind++) {
		if (strcmp(argv[optind], kind_names[opt.kind]) == 0)
			break;
	}
	if (optind + 2 != argc || opt.kind == KINDS || opt.step == 0)
		die("usage: uext4-fault [OPTION]... read|write|flush|memory IMAGE");
	opt.image = argv[optind + 1];
}

int main(int argc, char **argv)
{
	uint64_t rounds = 0, told = 0;

	parse(argc, argv);
	signal(SIGABRT, on_signal);
	signal(SIGALRM, on_signal);
	work_load(&work, opt.image);
	work_pick_options(&work);
	work.errors_expected = true;
	for (nth = opt.first; rounds < ROUNDS_MAX; nth += opt.step, rounds++) {
		bool hit = run();

		told += work.error != 0;
		if (!hit)
			break;
	}
	printf("seed %" PRIu64 ": %" PRIu64 " times a %s failed, %" PRIu64
	       " times somebody was told;"
	       " %" PRIu64 " operations left out\n",
	       work.seed, rounds, kind_names[opt.kind], told, skipped);
	free(work.base);
	return skipped ? 3 : 0;
}
