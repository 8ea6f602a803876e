/* SPDX-License-Identifier: MIT */
/*
 * Fills an image to the last block and inode, by many threads while others delete.
 *
 *	uext4-fulldisk [--seed N] [--threads N] [--rounds N] IMAGE
 *
 *  F1  No call fails but for lack of space, and only when there is none.
 *  F2  What a write said it wrote is there when the image is opened again: space that was promised
 *      to it is not given to others.
 *  F3  At the end not one block and not one inode is left that a file could have had: only what
 *      is kept back so that promised data can always be written (as the kernel keeps it back).
 *  F4  Free counts are exact: by e2fsck and by our checker when it is full, and when all is
 *      deleted again they are what they were.
 *
 * IMAGE is fresh, and is changed.
 */
#include "tool.h"

#include "uext4.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREADS_MAX 16u
#define FILES_MAX 2000u
#define SECONDS_MAX 300u
#define CHUNK 65536u
#define INCOMPAT_EXTENTS 0x40u
#define KEPT_BACK_MAX 4096u
#define LEFT_BYTES (2u << 20) /* with less left while all work, no space is no surprise */

struct content {
	uint64_t offset, len, text;
};

struct a_file {
	uint32_t ino; /* 0: a free place */
	uint64_t size;
	struct content contents[24];
	unsigned count;
	char name[32];
};

struct filler {
	pthread_t thread;
	unsigned number;
	uint32_t dir;
	struct rng rng;
	struct a_file *files;
	unsigned names;
	unsigned full; /* how often there was no space */
	uint8_t *buf;
};

static struct uext4_fs *fs;
static struct filler fillers[THREADS_MAX];
static unsigned threads = 8, rounds = 4000;
static uint64_t seed = 1;
static const char *image, *program;
static bool has_extents;
static uint64_t kept_back; /* blocks */

__attribute__((format(printf, 1, 2), noreturn)) static void bad(const char *fmt, ...)
{
	va_list args;

	flockfile(stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr,
		"\nrepeat, with a fresh image: %s --seed %" PRIu64 " --threads %u --rounds %u %s\n",
		program, seed, threads, rounds, image);
	fflush(NULL);
	_exit(1);
}

static void must(int err, const char *what)
{
	if (err < 0)
		bad("%s: %s: %s", what, strerrordesc_np(-err), uext4_last_error());
}

static struct uext4_statfs space(void)
{
	struct uext4_statfs st;

	must(uext4_statfs(fs, 0, &st), "statfs");
	return st;
}

/* F1: true: it was done. */
static bool done(struct filler *f, int err, const char *what)
{
	struct uext4_statfs st;

	if (err == 0)
		return true;
	if (err != -ENOSPC)
		must(err, what);
	st = space();
	if (st.blocks_free * st.block_size > LEFT_BYTES && st.inodes_free > 64)
		bad("%s: no space, with %" PRIu64 " blocks and %" PRIu64 " inodes free", what,
		    st.blocks_free, st.inodes_free);
	f->full++;
	return false;
}

/* ---- what the threads do -------------------------------------------------------------------- */

static void make_file(struct filler *f, struct a_file *file)
{
	struct uext4_new new = { .mode = S_IFREG | 0644 };

	*file = (struct a_file){ 0 };
	snprintf(file->name, sizeof(file->name), "%u-%u", f->number, f->names++);
	if (!done(f, uext4_create(fs, f->dir, file->name, strlen(file->name), &new, &file->ino),
		  "create"))
		file->ino = 0;
}

static void write_file(struct filler *f, struct a_file *file)
{
	struct content c = { .offset = file->size, .text = rnd(&f->rng) };
	struct uext4_file *handle;
	uint64_t left = 1ull << rnd_below(&f->rng, 20);

	if (file->count == sizeof(file->contents) / sizeof(file->contents[0]))
		return;
	if (rnd_one_in(&f->rng, 3))
		c.offset += rnd_below(&f->rng, 100000);
	must(uext4_file_open(fs, file->ino, UEXT4_FILE_WRITE, &handle), "open");
	while (left > 0) {
		size_t len = left < CHUNK ? (size_t)left : CHUNK, got = 0;

		fill_text(f->buf, c.offset + c.len, len, c.text);
		if (!done(f, uext4_pwrite(handle, f->buf, len, c.offset + c.len, &got), "write"))
			break;
		c.len += got;
		left -= len;
		if (got < len)
			break;
	}
	if (c.len > 0) {
		file->contents[file->count++] = c;
		file->size = c.offset + c.len;
	}
	if (rnd_one_in(&f->rng, 16))
		done(f, uext4_fsync(handle, 0), "fsync");
	if (has_extents && rnd_one_in(&f->rng, 8))
		done(f,
		     uext4_fallocate(handle, UEXT4_FALLOC_KEEP_SIZE, file->size,
				     1 + rnd_below(&f->rng, 300000)),
		     "fallocate");
	uext4_file_close(handle);
}

static void remove_file(struct filler *f, struct a_file *file)
{
	must(uext4_unlink(fs, f->dir, file->name, strlen(file->name)), "unlink");
	file->ino = 0;
}

static void cut_file(struct a_file *file)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE };

	must(uext4_setattr(fs, file->ino, &attr), "truncate");
	file->size = 0;
	file->count = 0;
}

static void *fill(void *arg)
{
	struct filler *f = arg;

	for (unsigned i = 0; i < rounds; i++) {
		struct a_file *file = &f->files[rnd_below(&f->rng, FILES_MAX)];

		/* Each second thread deletes more than it makes, once it has something. */
		if (!file->ino && !(f->number % 2 && rnd_one_in(&f->rng, 4)))
			make_file(f, file);
		else if (file->ino && (f->number % 2 || rnd_one_in(&f->rng, 8)))
			remove_file(f, file);
		else if (file->ino && rnd_one_in(&f->rng, 10))
			cut_file(file);
		else if (file->ino)
			write_file(f, file);
	}
	return NULL;
}

/* ---- F3 ------------------------------------------------------------------------------------- */

/* One thread takes what is left, ever smaller pieces. */
static void fill_blocks(void)
{
	struct filler *f = &fillers[0];
	struct uext4_statfs st = space();
	struct uext4_file *handle;
	struct a_file *file = NULL;
	size_t got = 0;

	for (unsigned i = 0; i < threads * FILES_MAX; i++) {
		struct a_file *one = &fillers[i / FILES_MAX].files[i % FILES_MAX];

		if (one->ino && (!file || one->count < file->count))
			file = one;
	}
	if (!file)
		bad("there is no file left");
	if (file->count == sizeof(file->contents) / sizeof(file->contents[0]))
		cut_file(file);
	must(uext4_file_open(fs, file->ino, UEXT4_FILE_WRITE, &handle), "open");
	/* Whole blocks from here on. */
	file->contents[file->count] = (struct content){
		.offset = (file->size / st.block_size + 1) * st.block_size,
		.text = rnd(&f->rng),
	};
	for (size_t len = CHUNK; len >= st.block_size; len /= 2) {
		struct content *c = &file->contents[file->count];
		int err;

		do {
			fill_text(f->buf, c->offset + c->len, len, c->text);
			err = uext4_pwrite(handle, f->buf, len, c->offset + c->len, &got);
			if (err == 0)
				c->len += got;
		} while (err == 0 && got == len);
		if (err < 0 && err != -ENOSPC)
			must(err, "write");
	}
	if (file->contents[file->count].len > 0) {
		file->size = file->contents[file->count].offset + file->contents[file->count].len;
		file->count++;
	}
	uext4_file_close(handle);
}

static void fill_inodes(void)
{
	struct filler *f = &fillers[0];
	struct uext4_new new = { .mode = S_IFIFO | 0644 };
	struct uext4_statfs before = space(), st;
	char name[32];
	uint64_t made = 0;
	uint32_t ino;
	int err;

	for (;; made++) {
		snprintf(name, sizeof(name), "last-%" PRIu64, made);
		err = uext4_create(fs, f->dir, name, strlen(name), &new, &ino);
		if (err < 0)
			break;
	}
	if (err != -ENOSPC)
		must(err, "create");
	st = space();
	/* The directory itself may have found no block to grow into. */
	if (st.inodes_free > 0 && st.blocks_free > 0)
		bad("no space for a name, with %" PRIu64 " inodes and %" PRIu64 " blocks free",
		    st.inodes_free, st.blocks_free);
	if (before.inodes_free - st.inodes_free != made)
		bad("%" PRIu64 " inodes were made, and %" PRIu64 " fewer are free", made,
		    before.inodes_free - st.inodes_free);
	for (; made > 0; made--) {
		snprintf(name, sizeof(name), "last-%" PRIu64, made - 1);
		must(uext4_unlink(fs, f->dir, name, strlen(name)), "unlink");
	}
}

/* ---- checking ------------------------------------------------------------------------------- */

static void print_problem(void *arg, const char *text)
{
	(void)arg;
	fprintf(stderr, "    check: %s\n", text);
}

/* F4 */
static void check_image(const char *when)
{
	const char *argv[] = { "e2fsck", "-fn", image, NULL };
	struct uext4_open_options options = { .size = sizeof(options), .flags = UEXT4_OPEN_NOLOCK };
	struct uext4_check_options check = { .size = sizeof(check),
					     .problem = print_problem,
					     .problems_max = 20 };
	struct uext4_check_result result;
	struct uext4_fs *view;
	char *output;
	int status = run_program(argv, &output);

	if (status != 0) {
		fprintf(stderr, "%s\n", output);
		bad("e2fsck -fn %s: exit status %d", when, status);
	}
	free(output);
	must(uext4_open(image, &options, &view), when);
	must(uext4_check(view, &check, &result), when);
	if (result.problems)
		bad("%" PRIu64 " problems %s", result.problems, when);
	must(uext4_close(view), when);
}

/* What it can hold, and what is kept back for trees of extents: 2 %, at most 4,096 clusters. */
static void read_info(void)
{
	struct uext4_info info;
	uint64_t ratio;

	must(uext4_info(fs, &info), "info");
	ratio = info.cluster_size / info.block_size;
	has_extents = info.features[UEXT4_INCOMPAT] & INCOMPAT_EXTENTS;
	kept_back = info.blocks / ratio / 50;
	if (kept_back > KEPT_BACK_MAX)
		kept_back = KEPT_BACK_MAX;
	kept_back *= ratio;
}

/* F2 */
static void check_file(struct filler *f, const struct a_file *file)
{
	struct uext4_file *handle;
	struct uext4_stat st;
	size_t got;

	must(uext4_stat(fs, file->ino, &st), "stat");
	if (st.size != file->size)
		bad("%s has %" PRIu64 " bytes, should have %" PRIu64, file->name, st.size,
		    file->size);
	must(uext4_file_open(fs, file->ino, 0, &handle), "open");
	for (unsigned i = 0; i < file->count; i++) {
		const struct content *c = &file->contents[i];

		for (uint64_t at = 0; at < c->len; at += CHUNK) {
			uint64_t len = c->len - at < CHUNK ? c->len - at : CHUNK;

			must(uext4_pread(handle, f->buf, len, c->offset + at, &got), "read");
			fill_text(f->buf + CHUNK, c->offset + at, len, c->text);
			if (got != len || memcmp(f->buf, f->buf + CHUNK, len) != 0)
				bad("%s: the bytes at %" PRIu64 " are not what was written",
				    file->name, c->offset + at);
		}
	}
	uext4_file_close(handle);
}

static void reopen(struct uext4_statfs *ret_before)
{
	struct uext4_open_options options = { .size = sizeof(options), .flags = UEXT4_OPEN_WRITE };
	struct uext4_statfs after;

	must(uext4_sync(fs), "sync");
	*ret_before = space();
	must(uext4_close(fs), "close");
	check_image("of the closed image");
	must(uext4_open(image, &options, &fs), "open");
	after = space();
	if (after.blocks_free != ret_before->blocks_free ||
	    after.inodes_free != ret_before->inodes_free)
		bad("%" PRIu64 " blocks and %" PRIu64
		    " inodes were free; opened again it has %" PRIu64 " and %" PRIu64,
		    ret_before->blocks_free, ret_before->inodes_free, after.blocks_free,
		    after.inodes_free);
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void start_filler(unsigned i)
{
	struct uext4_new new = { .mode = S_IFDIR | 0755 };
	struct filler *f = &fillers[i];
	char name[16];

	f->number = i;
	f->rng.state = mix64(seed * 1000 + i);
	f->files = must_alloc(FILES_MAX * sizeof(*f->files));
	f->buf = must_alloc(2 * CHUNK);
	/* Two share a directory. */
	if (i % 4 == 1) {
		f->dir = fillers[i - 1].dir;
		return;
	}
	snprintf(name, sizeof(name), "d%u", i);
	must(uext4_create(fs, UEXT4_ROOT_INO, name, strlen(name), &new, &f->dir), name);
}

static void remove_all(void)
{
	char name[16];

	for (unsigned i = 0; i < threads; i++) {
		for (unsigned j = 0; j < FILES_MAX; j++) {
			if (fillers[i].files[j].ino)
				remove_file(&fillers[i], &fillers[i].files[j]);
		}
	}
	for (unsigned i = 0; i < threads; i++) {
		snprintf(name, sizeof(name), "d%u", i);
		if (i % 4 != 1)
			must(uext4_rmdir(fs, UEXT4_ROOT_INO, name, strlen(name)), name);
	}
}

static void on_signal(int number)
{
	bad(number == SIGALRM ? "it does not end" : "aborted");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "threads", required_argument, NULL, 't' },
		{ "rounds", required_argument, NULL, 'r' },
		{ NULL, 0, NULL, 0 },
	};
	struct uext4_open_options open = { .size = sizeof(open), .flags = UEXT4_OPEN_WRITE };
	struct uext4_statfs empty, full, end;
	unsigned times_full = 0;
	int c;

	program = argv[0];
	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (c) {
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 't': threads = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'r': rounds = (unsigned)strtoul(optarg, NULL, 0); break;
		default: exit(2);
		}
	}
	if (optind + 1 != argc || threads == 0 || threads > THREADS_MAX)
		die("usage: uext4-fulldisk [--seed N] [--threads N] [--rounds N] IMAGE");
	image = argv[optind];
	signal(SIGALRM, on_signal);
	signal(SIGABRT, on_signal);
	alarm(SECONDS_MAX);
	must(uext4_open(image, &open, &fs), "open");
	read_info();
	empty = space();
	for (unsigned i = 0; i < threads; i++)
		start_filler(i);
	for (unsigned i = 0; i < threads; i++) {
		if (pthread_create(&fillers[i].thread, NULL, fill, &fillers[i]))
			die("no thread");
	}
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(fillers[i].thread, NULL);
		times_full += fillers[i].full;
	}
	must(uext4_sync(fs), "sync"); /* what was deleted is to be had again */
	fill_inodes();
	must(uext4_sync(fs), "sync");
	fill_blocks();
	reopen(&full);
	if (full.blocks_free > kept_back)
		bad("%" PRIu64 " blocks are left, %" PRIu64 " of them for no file",
		    full.blocks_free, kept_back);
	for (unsigned i = 0; i < threads; i++) {
		for (unsigned j = 0; j < FILES_MAX; j++) {
			if (fillers[i].files[j].ino)
				check_file(&fillers[i], &fillers[i].files[j]);
		}
	}
	remove_all();
	reopen(&end);
	if (end.blocks_free != empty.blocks_free || end.inodes_free != empty.inodes_free)
		bad("%" PRIu64 " blocks and %" PRIu64 " inodes were free at the start, %" PRIu64
		    " and %" PRIu64 " when all is deleted",
		    empty.blocks_free, empty.inodes_free, end.blocks_free, end.inodes_free);
	must(uext4_close(fs), "close");
	printf("seed %" PRIu64 ": %u threads met a full disk %u times; of %" PRIu64
	       " blocks %" PRIu64 " were left\n",
	       seed, threads, times_full, empty.blocks, full.blocks_free);
	for (unsigned i = 0; i < threads; i++) {
		free(fillers[i].files);
		free(fillers[i].buf);
	}
	return times_full == 0; /* then nothing was tested */
}
