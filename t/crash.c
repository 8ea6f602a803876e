/* SPDX-License-Identifier: MIT */
/*
 * Power cuts: a workload runs on a recording device; from the record the disk is rebuilt as it may
 * be after a cut at each flush and at sampled moments between, with writes that are missing, alone,
 * or torn; each is recovered, checked, and held against what was promised (crash.h).
 *
 *	uext4-crash [OPTION]... IMAGE
 *
 *	--seed N, --ops N	the workload: N operations a thread
 *	--threads N		1 to 3; 0: as the seed says
 *	--cuts N		at most so many cuts, spread over the log; 0: all
 *	--extra N		cuts with random sectors for each flush
 *	--e2fsck N		every Nth recovered image also by e2fsck -fn; 0: none
 *	--others N		every Nth image also recovered by e2fsck -fy, and, with
 *	--kernel DIR		by the kernel, mounted at DIR
 *	--again N		of every Nth image the recovery itself is cut (J8)
 *	--data-mode journal|writeback
 *	--scratch DIR		for the log and copies of images
 *	--keep DIR		where log and image of a failure go
 *	--replay LOG --cut AT:SEED	only this one, of a log that was kept
 *	--lose-flushes		canary: flushes do nothing, so a difference must be found
 *
 * IMAGE is fresh and is not written: the workload runs in memory.
 */
#include "crash.h"

#include "dev/dev.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECONDS_MAX 120u /* of the workload, and of one cut */
#define AGAIN_CUTS 4u
#define ENTRIES_SHOWN 60u

struct options {
	const char *program, *image, *scratch, *keep, *replay, *kernel;
	const char *data_mode;
	struct cut cut;
	uint64_t cuts, e2fsck, others, again;
	unsigned extra;
	bool lose_flushes;
};

static struct options opt = {
	.scratch = "/tmp", .extra = 2, .e2fsck = 16, .others = 64, .again = 32
};
static struct work work = { .seed = 1, .ops = 300 };
static char log_path[512], copy_path[512];
static const struct cut *now; /* the cut being judged */
static const char *how = "";  /* recovered by whom */
static struct {
	uint64_t cuts, recoveries, e2fsck, by_e2fsck, by_kernel, again;
} count;

/* ---- failing -------------------------------------------------------------------------------- */

static void keep_evidence(void)
{
	char path[600];

	if (!opt.keep || opt.replay)
		return;
	snprintf(path, sizeof(path), "%s/log", opt.keep);
	copy_sparse(log_path, path);
	snprintf(path, sizeof(path), "%s/image", opt.keep);
	copy_sparse(opt.image, path);
}

static void print_repeat(void)
{
	fprintf(stderr, "repeat: %s --seed %" PRIu64 " --ops %" PRIu64 " --threads %u --extra %u",
		opt.program, work.seed, work.ops, work.threads, opt.extra);
	if (opt.data_mode)
		fprintf(stderr, " --data-mode %s", opt.data_mode);
	if (now)
		fprintf(stderr, " --replay %s --cut %zu:%" PRIu64,
			opt.keep ? "KEPT/log" : "LOG (use --keep DIR)", now->at, now->seed);
	fprintf(stderr, " %s\n", opt.keep ? "KEPT/image" : opt.image);
}

void bad(const char *fmt, ...)
{
	va_list args;

	if (now)
		fprintf(stderr,
			"seed %" PRIu64 ", cut before entry %zu of the log, sectors %" PRIu64
			"%s:\n  ",
			work.seed, now->at, now->seed, how);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	keep_evidence();
	print_repeat();
	exit(1);
}

static void on_signal(int number)
{
	fprintf(stderr, "seed %" PRIu64 ", %s%s\n", work.seed,
		number == SIGALRM ? "does not end" : "aborted", how);
	keep_evidence();
	print_repeat();
	signal(SIGABRT, SIG_DFL);
	abort();
}

/* ---- recovering ----------------------------------------------------------------------------- */

static void run_e2fsck(const char *path, const char *flags, int worst)
{
	const char *argv[] = { "e2fsck", flags, path, NULL };
	char *output;
	int status = run_program(argv, &output);

	if (status > worst) {
		fprintf(stderr, "%s\n", output);
		bad("e2fsck %s: exit status %d", flags, status);
	}
	free(output);
}

static void judge_by_e2fsck(const uint8_t *image)
{
	write_sparse(copy_path, image, work.base_bytes);
	run_e2fsck(copy_path, "-fn", 0);
	unlink(copy_path);
	count.e2fsck++;
}

static uint8_t *load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t *image = mmap(NULL, work.base_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	if (fd < 0 || image == MAP_FAILED)
		die("%s: %s", path, strerror(errno));
	close(fd);
	return image;
}

/* The same image, recovered by others: they must come to an end that keeps the promises, too. */
static void judge_others(const uint8_t *image, const struct progress *at)
{
	const char *mount[] = { "mount",	"-t",	   "ext4",     "-o",
				"loop,noatime", copy_path, opt.kernel, NULL };
	const char *umount[] = { "umount", opt.kernel, NULL };
	uint8_t *other;
	char *output;

	write_sparse(copy_path, image, work.base_bytes);
	if (opt.kernel && count.by_kernel <= count.by_e2fsck) {
		how = ", recovered by the kernel";
		if (run_program(mount, &output) != 0)
			bad("mount: %s", output);
		free(output);
		if (run_program(umount, &output) != 0)
			die("umount: %s", output);
		free(output);
		count.by_kernel++;
	} else {
		how = ", recovered by e2fsck";
		run_e2fsck(copy_path, "-fy", 1);
		count.by_e2fsck++;
	}
	run_e2fsck(copy_path, "-fn", 0);
	other = load(copy_path);
	judge_image(&work, other, at);
	munmap(other, work.base_bytes);
	unlink(copy_path);
	how = "";
}

static void recover(struct dev *dev, const struct progress *at, bool look)
{
	judge_recovery(&work, dev, at, look);
	count.recoveries++;
}

/* J8: the recovery of @image is cut itself, a few times, and repeated. */
static void judge_again(const uint8_t *image, const struct progress *at)
{
	char path[600];
	struct dev *dev;
	struct log *l;
	struct cut *cuts;
	uint8_t *copy = must_alloc(work.base_bytes);
	size_t cuts_count, step;

	memcpy(copy, image, work.base_bytes);
	snprintf(path, sizeof(path), "%s.again", log_path);
	if (dev_record_create(disk_of(&work, copy), path, &dev) < 0)
		die("%s: %s", path, uext4_last_error());
	recover(dev, at, false);
	l = log_open(path, image, work.base_bytes);
	cuts = log_cuts(l, NULL, 1, now->seed ^ now->at, &cuts_count);
	how = ", of which the recovery was cut";
	step = cuts_count / AGAIN_CUTS + 1;
	for (size_t i = (size_t)(mix64(now->at) % step); i < cuts_count; i += step) {
		uint8_t *second = log_image(l, &cuts[i]);

		recover(disk_of(&work, second), at, false);
		judge_image(&work, second, at);
		munmap(second, work.base_bytes);
		count.again++;
	}
	how = "";
	log_close(l);
	unlink(path);
	free(cuts);
	free(copy);
}

static bool every(uint64_t n)
{
	return n && count.cuts % n == 0;
}

static void judge_cut(struct log *l, const struct cut *cut)
{
	const struct progress *at = log_progress(l);
	uint8_t *image;

	now = cut;
	alarm(SECONDS_MAX);
	image = log_image(l, cut);
	if (every(opt.others))
		judge_others(image, at);
	if (every(opt.again))
		judge_again(image, at);
	recover(disk_of(&work, image), at, count.cuts % 4 == 0);
	judge_image(&work, image, at);
	if (every(opt.e2fsck))
		judge_by_e2fsck(image);
	munmap(image, work.base_bytes);
	count.cuts++;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void run_workload(void)
{
	uint8_t *disk = must_alloc(work.base_bytes);
	struct dev *record;

	memcpy(disk, work.base, work.base_bytes);
	alarm(SECONDS_MAX);
	if (dev_record_create(disk_of(&work, disk), log_path, &record) < 0)
		die("%s: %s", log_path, uext4_last_error());
	work_run(&work, record, record);
	free(disk);
}

/* The image after the last entry is that of a clean close: everything is there. */
static void judge_all(struct log *l)
{
	size_t total, left, wanted;
	struct cut *cuts = log_cuts(l, &work, opt.extra, work.seed, &total);
	struct rng r = { mix64(work.seed + 77) };

	left = total;
	wanted = opt.cuts && opt.cuts < total ? opt.cuts : total;
	for (size_t i = 0; i < total; i++, left--) {
		/* So many of those that are left, each with the same chance. */
		if (rnd_below(&r, left) >= wanted)
			continue;
		wanted--;
		judge_cut(l, &cuts[i]);
	}
	free(cuts);
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "ops", required_argument, NULL, 'n' },
		{ "threads", required_argument, NULL, 't' },
		{ "cuts", required_argument, NULL, 'c' },
		{ "extra", required_argument, NULL, 'x' },
		{ "e2fsck", required_argument, NULL, 'e' },
		{ "others", required_argument, NULL, 'o' },
		{ "kernel", required_argument, NULL, 'K' },
		{ "again", required_argument, NULL, 'a' },
		{ "data-mode", required_argument, NULL, 'd' },
		{ "scratch", required_argument, NULL, 'S' },
		{ "keep", required_argument, NULL, 'k' },
		{ "replay", required_argument, NULL, 'r' },
		{ "cut", required_argument, NULL, 'C' },
		{ "lose-flushes", no_argument, NULL, 'L' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	opt.program = argv[0];
	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (c) {
		case 's': work.seed = strtoull(optarg, NULL, 0); break;
		case 'n': work.ops = strtoull(optarg, NULL, 0); break;
		case 't': work.threads = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 'c': opt.cuts = strtoull(optarg, NULL, 0); break;
		case 'x': opt.extra = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'e': opt.e2fsck = strtoull(optarg, NULL, 0); break;
		case 'o': opt.others = strtoull(optarg, NULL, 0); break;
		case 'K': opt.kernel = optarg; break;
		case 'a': opt.again = strtoull(optarg, NULL, 0); break;
		case 'd': opt.data_mode = optarg; break;
		case 'S': opt.scratch = optarg; break;
		case 'k': opt.keep = optarg; break;
		case 'r': opt.replay = optarg; break;
		case 'C':
			if (sscanf(optarg, "%zu:%" SCNu64, &opt.cut.at, &opt.cut.seed) != 2)
				die("--cut AT:SEED");
			break;
		case 'L': opt.lose_flushes = true; break;
		default: exit(2);
		}
	}
	if (optind + 1 != argc || work.threads > CRASH_THREADS_MAX)
		die("usage: uext4-crash [OPTION]... IMAGE (see the head of t/crash.c)");
	opt.image = argv[optind];
	snprintf(log_path, sizeof(log_path), "%s/log.%d", opt.scratch, (int)getpid());
	snprintf(copy_path, sizeof(copy_path), "%s/copy.%d", opt.scratch, (int)getpid());
}

int main(int argc, char **argv)
{
	uint64_t skipped = 0;
	struct log *l;

	parse(argc, argv);
	signal(SIGABRT, on_signal);
	signal(SIGALRM, on_signal);
	work_load(&work, opt.image);
	work_pick_options(&work);
	if (opt.data_mode)
		work.options.data_mode = strcmp(opt.data_mode, "journal") == 0
						 ? UEXT4_DATA_JOURNAL
						 : UEXT4_DATA_WRITEBACK;
	run_workload();
	l = log_open(opt.replay ? opt.replay : log_path, work.base, work.base_bytes);
	log_fill_promises(l, &work);
	if (opt.lose_flushes)
		log_lose_flushes(l);
	if (opt.replay) {
		log_print(l, &work, opt.cut.at > ENTRIES_SHOWN ? opt.cut.at - ENTRIES_SHOWN : 0,
			  opt.cut.at + 2);
		judge_cut(l, &opt.cut);
	} else {
		judge_all(l);
	}
	for (uint32_t t = 0; t < work.threads; t++)
		skipped += work.workers[t].skipped;
	printf("seed %" PRIu64 ": %u threads, %zu promises, %" PRIu64 " writes, %" PRIu64
	       " flushes; %" PRIu64 " cuts, %" PRIu64
	       " recoveries cut; recovered by e2fsck %" PRIu64 ", by the kernel %" PRIu64
	       "; e2fsck looked at %" PRIu64 "; %" PRIu64 " operations left out\n",
	       work.seed, work.threads, work.promises_count, log_writes(l), log_flushes(l),
	       count.cuts, count.again, count.by_e2fsck, count.by_kernel, count.e2fsck, skipped);
	log_close(l);
	unlink(log_path);
	work_free(&work);
	return skipped ? 3 : 0;
}
