/* SPDX-License-Identifier: MIT */
/*
 * fs/balloc: blocks and inodes are given to one owner each, counts are exact, and what is on disk
 * afterwards is right, on images of many layouts made by mke2fs.
 *
 *  - What is free at the beginning, by the word of dumpe2fs, is what the allocator has.
 *  - Two threads take, record, cancel, and free at random, while commits go on; a model of every
 *    cluster sees that none is given twice, nor before the transaction that freed it has committed
 *    (J4).  Then dumpe2fs finds in use what the model says, and after all is freed what was in use
 *    at the beginning, and e2fsck has nothing to say.
 *  - Full: two threads get every last cluster, also those that were set aside for files that grow;
 *    what root and metadata may use is left to them; promises can be kept to the last.
 *  - Small files lie side by side, files that grow in turns do not tear each other apart.
 *  - Inodes: each number once, directories spread, tables that were never written read as zeros.
 *  - What is freed twice, or belongs to the file system itself, and damaged bitmaps, are reported;
 *    a damaged group is passed over.
 *  - The Nth allocation of memory, or read, fails: an error, no leak, a right image.
 *  - A file system of 1 TiB is used without reading its bitmaps.
 *
 * Usage: fs_balloc [SEED [ROUNDS]]; with the argument "speed" it measures instead.
 */
#include "base/base.h"
#include "base/diag.h"
#include "base/mem.h"
#include "fs/balloc_priv.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static uint64_t seed = 1;
static unsigned rounds = 1500; /* of one thread, on each image */
static char scratch[128];

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

static uint64_t rnd(void)
{
	return next_random(&seed);
}

/* ---- images ---------------------------------------------------------------------------------- */

#define LAZY "-E lazy_itable_init=1,lazy_journal_init=1,nodiscard"

static const struct recipe {
	const char *name;
	unsigned kib;
	const char *options;
} recipes[] = {
	{ "ext4-4k", 160 * 1024, "-t ext4 -b 4096 " LAZY },
	{ "ext4-1k", 40 * 1024, "-t ext4 -b 1024 " LAZY },
	{ "ext4-64k", 640 * 1024, "-t ext4 -b 65536 -O ^has_journal " LAZY },
	{ "small-groups", 24 * 1024, "-t ext4 -b 1024 -g 1024 -N 2048 " LAZY },
	{ "no-flex-bg", 40 * 1024, "-t ext4 -b 1024 -O ^flex_bg " LAZY },
	{ "meta-bg", 40 * 1024, "-t ext4 -b 1024 -O meta_bg,^resize_inode -g 256 -N 4096 " LAZY },
	{ "no-csum", 40 * 1024, "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg -g 2048 " LAZY },
	{ "csum-32bit", 40 * 1024, "-t ext4 -b 1024 -O ^64bit -g 2048 " LAZY },
	{ "no-uninit", 40 * 1024, "-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg" },
	{ "bigalloc-1k", 64 * 1024, "-t ext4 -b 1024 -O bigalloc -C 8192 " LAZY },
	{ "bigalloc-4k", 256 * 1024, "-t ext4 -b 4096 -O bigalloc -C 65536 -O ^has_journal " LAZY },
	{ "sparse-super2", 40 * 1024,
	  "-t ext4 -b 1024 -O sparse_super2,^resize_inode -g 2048 " LAZY },
	{ "ext3", 64 * 1024, "-t ext3 -b 1024 -g 8192" },
	{ "ext2-4k", 40 * 1024, "-t ext2 -b 4096" },
	{ "ext2-rev0", 16 * 1024, "-t ext2 -b 1024 -r 0 -O none" },
	{ "tiny", 256, "-t ext4 -b 1024 -O ^has_journal -N 16" },
	{ "odd-end", 26 * 1024 + 517, "-t ext4 -b 1024 -g 2048 -O ^resize_inode " LAZY },
	{ "inode-1k", 64 * 1024, "-t ext4 -b 4096 -I 1024 -N 1024 " LAZY },
};

static int run(const char *fmt, ...) PRINTF(1, 2);
static int run(const char *fmt, ...)
{
	char command[1024];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	status = system(command);
	assert_true(status != -1 && WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int make_scratch(void **state)
{
	snprintf(scratch, sizeof(scratch), "%s/uext4-balloc-XXXXXX",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state)
{
	return run("rm -rf %s", scratch);
}

/* What happens to a cluster, as the model sees it; further values: freed in transaction - 2. */
enum { FREE, HELD, FREED };

struct rig {
	const struct recipe *recipe;
	char path[256];
	struct uext4_fs *fs;
	struct dev *dev;
	struct geom geom; /* as that of the open file system */
	const struct geom *g;
	uint64_t clusters;
	_Atomic uint32_t *state; /* of clusters */
	uint8_t *free_inode;	 /* at the beginning */
	uint64_t free_clusters;	 /* at the beginning */
	uint32_t free_inodes;
};

static int no_fill(struct mapping *m, struct page *const *pages, size_t count)
{
	return -EIO;
}

static const struct mapping_ops no_files = { .fill = no_fill };

static void open_fs(struct rig *rig)
{
	const struct fs_options options = { .cache_bytes = 16 << 20,
					    .nolock = true,
					    .write = true };
	int err;

	err = dev_file_open(rig->path, 0, 0, DEV_FILE_WRITE | DEV_FILE_NOLOCK, &rig->dev);
	if (err == 0)
		err = fs_open(rig->dev, &options, &no_files, &rig->fs);
	if (err < 0)
		fail_msg("%s: %s", rig->recipe->name, diag_text());
	rig->geom = rig->fs->geom;
	rig->g = &rig->geom;
}

static void close_fs(struct rig *rig)
{
	int err = fs_close(rig->fs);

	if (err < 0)
		fail_msg("%s: %s", rig->recipe->name, diag_text());
	rig->fs = NULL;
}

/* ---- the word of dumpe2fs -------------------------------------------------------------------- */

/* Numbers in "  Free blocks: 7-9, 12" and the like; @fn gets each range. */
static void parse_ranges(const char *at, void (*fn)(void *arg, uint64_t first, uint64_t last),
			 void *arg)
{
	while (*at) {
		char *end;
		uint64_t first = strtoull(at, &end, 10), last = first;

		if (end == at)
			return;
		if (*end == '-')
			last = strtoull(end + 1, &end, 10);
		fn(arg, first, last);
		at = end + strspn(end, ", \n");
	}
}

struct truth {
	struct geom g;
	uint8_t *free_cluster; /* [cluster] */
	uint8_t *free_inode;   /* [ino] */
	uint64_t free_clusters;
	uint32_t free_inodes;
};

static void mark_blocks(void *arg, uint64_t first, uint64_t last)
{
	struct truth *t = arg;

	for (uint64_t c = cluster_of(&t->g, first); c <= cluster_of(&t->g, last); c++) {
		t->free_cluster[c] = 1;
		t->free_clusters++;
	}
}

static void mark_inodes(void *arg, uint64_t first, uint64_t last)
{
	struct truth *t = arg;

	for (uint64_t i = first; i <= last; i++) {
		t->free_inode[i] = 1;
		t->free_inodes++;
	}
}

static void read_truth(const char *path, struct truth *t)
{
	struct ext4_super_block sb;
	char command[512], *line = NULL;
	size_t room = 0;
	uint64_t said_blocks = 0, said_inodes = 0;
	struct stat st;
	FILE *f;
	int fd = open(path, O_RDONLY);

	memset(t, 0, sizeof(*t));
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	assert_int_equal(pread(fd, &sb, sizeof(sb), EXT4_SUPER_OFFSET), sizeof(sb));
	close(fd);
	assert_int_equal(geom_init(&sb, (uint64_t)st.st_size, &t->g), 0);
	t->free_cluster = calloc(t->g.blocks + 1, 1);
	t->free_inode = calloc(t->g.inodes + 1, 1);
	assert_true(t->free_cluster && t->free_inode);
	snprintf(command, sizeof(command), "dumpe2fs %s 2>/dev/null", path);
	f = popen(command, "r");
	assert_non_null(f);
	while (getline(&line, &room, f) > 0) {
		(void)sscanf(line, "Free blocks: %" SCNu64, &said_blocks);
		(void)sscanf(line, "Free inodes: %" SCNu64, &said_inodes);
		if (strncmp(line, "  Free blocks: ", 15) == 0)
			parse_ranges(line + 15, mark_blocks, t);
		if (strncmp(line, "  Free inodes: ", 15) == 0)
			parse_ranges(line + 15, mark_inodes, t);
	}
	free(line);
	assert_int_equal(pclose(f), 0);
	if (said_blocks != t->free_clusters << t->g.cluster_ratio_bits)
		fail_msg("%s: superblock says %" PRIu64 ", bitmaps %" PRIu64, path, said_blocks,
			 t->free_clusters);
	assert_int_equal(said_inodes, t->free_inodes);
}

static void truth_finish(struct truth *t)
{
	free(t->free_cluster);
	free(t->free_inode);
}

/* What is on disk is what the model says. */
static void compare_with_disk(struct rig *rig)
{
	struct truth t;

	read_truth(rig->path, &t);
	for (uint64_t c = 0; c < rig->clusters; c++) {
		if ((rig->state[c] == HELD) == t.free_cluster[c])
			fail_msg("%s: cluster %" PRIu64 " is %s on disk", rig->recipe->name, c,
				 t.free_cluster[c] ? "free" : "in use");
	}
	truth_finish(&t);
}

static void fsck(struct rig *rig)
{
	if (run("e2fsck -fn %s >%s/fsck 2>&1", rig->path, scratch) != 0) {
		run("cat %s/fsck", scratch);
		fail_msg("%s: e2fsck", rig->recipe->name);
	}
}

/* ---- a rig ----------------------------------------------------------------------------------- */

static void rig_make(struct rig *rig, const struct recipe *r)
{
	memset(rig, 0, sizeof(*rig));
	rig->recipe = r;
	snprintf(rig->path, sizeof(rig->path), "%s/%s.img", scratch, r->name);
	unlink(rig->path);
	if (run("mke2fs -F -q %s %s %uK >/dev/null 2>&1", r->options, rig->path, r->kib) != 0)
		fail_msg("%s: mke2fs", r->name);
}

static void rig_open(struct rig *rig)
{
	struct truth t;

	read_truth(rig->path, &t);
	rig->clusters = (t.g.blocks - t.g.first_data_block) >> t.g.cluster_ratio_bits;
	rig->state = calloc(rig->clusters, sizeof(*rig->state));
	assert_non_null(rig->state);
	for (uint64_t c = 0; c < rig->clusters; c++)
		rig->state[c] = t.free_cluster[c] ? FREE : HELD;
	rig->free_clusters = t.free_clusters;
	rig->free_inodes = t.free_inodes;
	rig->free_inode = t.free_inode;
	free(t.free_cluster);
	open_fs(rig);
	assert_int_equal(balloc_free_clusters(rig->fs), rig->free_clusters);
	assert_int_equal(ialloc_free_inodes(rig->fs), rig->free_inodes);
}

/* Everything was freed: the image is as it was. */
static void rig_close(struct rig *rig)
{
	assert_int_equal(txn_log_sync(rig->fs->log), 0);
	assert_int_equal(balloc_free_clusters(rig->fs), rig->free_clusters);
	assert_int_equal(ialloc_free_inodes(rig->fs), rig->free_inodes);
	close_fs(rig);
	compare_with_disk(rig);
	fsck(rig);
	free(rig->state);
	free(rig->free_inode);
	unlink(rig->path);
}

/* The part of an inode that allocation knows. */
static struct inode *toy_inode(struct uext4_fs *fs, uint32_t ino, uint32_t writers)
{
	struct inode *ip = calloc(1, sizeof(*ip) + sizeof(struct ext4_inode));

	assert_non_null(ip);
	ip->fs = fs;
	ip->ino = ino;
	ip->type = 0100000;
	ip->raw = (void *)(ip + 1);
	ip->writers = writers;
	return ip;
}

static void toy_inode_free(struct inode *ip)
{
	balloc_discard_prealloc(ip);
	free(ip);
}

/* ---- the model ------------------------------------------------------------------------------- */

static void model_take(struct rig *rig, const struct blk_run *run)
{
	const struct geom *g = rig->g;
	uint64_t first = cluster_of(g, run->start);
	uint32_t count = run->count >> g->cluster_ratio_bits;

	assert_true(count > 0 && run->count % g->cluster_ratio == 0);
	assert_int_equal(cluster_blk(g, first), run->start);
	assert_true(first + count <= rig->clusters);
	/* A4 */
	assert_int_equal(cluster_group(g, first), cluster_group(g, first + count - 1));
	for (uint64_t c = first; c < first + count; c++) {
		uint32_t before = atomic_exchange(&rig->state[c], HELD);

		if (before == HELD)
			fail_msg("%s: cluster %" PRIu64 " is given twice", rig->recipe->name, c);
		if (before >= FREED && !txn_log_is_committed(rig->fs->log, before - FREED))
			fail_msg("%s: cluster %" PRIu64 " is given before its commit",
				 rig->recipe->name, c);
	}
}

static void model_give(struct rig *rig, const struct blk_run *run, uint32_t state)
{
	uint64_t first = cluster_of(rig->g, run->start);
	uint32_t count = run->count >> rig->g->cluster_ratio_bits;

	for (uint64_t c = first; c < first + count; c++)
		assert_int_equal(atomic_exchange(&rig->state[c], state), HELD);
}

static int take(struct rig *rig, const struct balloc_request *rq, struct blk_run *ret)
{
	int err = balloc_alloc(rig->fs, rq, ret);

	if (err == 0) {
		uint64_t wanted = div_round_up((rq->logical & (rig->g->cluster_ratio - 1)) +
						       (uint64_t)rq->count,
					       rig->g->cluster_ratio);

		assert_true(ret->count >> rig->g->cluster_ratio_bits <= wanted);
		model_take(rig, ret);
	}
	return err;
}

static void record(struct rig *rig, const struct blk_run *run)
{
	struct handle *h;

	assert_int_equal(handle_start(rig->fs->log, BALLOC_CREDITS, &h), 0);
	if (balloc_record(h, rig->fs, run) != 0)
		fail_msg("%s: %s", rig->recipe->name, diag_text());
	assert_int_equal(handle_stop(h), 0);
}

static void cancel(struct rig *rig, const struct blk_run *run, bool reserved)
{
	model_give(rig, run, FREE);
	balloc_cancel(rig->fs, run, reserved);
}

static void give(struct rig *rig, const struct blk_run *run)
{
	struct handle *h;
	uint32_t credits = balloc_free_credits(rig->fs, run->start, run->count);

	assert_int_equal(handle_start(rig->fs->log, credits, &h), 0);
	model_give(rig, run, FREED + handle_tid(h));
	if (balloc_free(h, rig->fs, run->start, run->count,
			run->start % 8 ? 0 : BALLOC_FREE_META) != 0)
		fail_msg("%s: %s", rig->recipe->name, diag_text());
	assert_int_equal(handle_stop(h), 0);
}

/* ---- at random, in two threads --------------------------------------------------------------- */

#define HELD_MAX 400u
#define INODES 3u

struct held {
	struct blk_run run;
	bool recorded, reserved;
};

struct worker {
	struct rig *rig;
	uint64_t random;
	struct held held[HELD_MAX];
	uint32_t count;
	struct inode *inodes[INODES];
	lblk_t next[INODES];
	unsigned rounds, full;
};

static uint64_t worker_rnd(struct worker *w)
{
	return next_random(&w->random);
}

static void worker_take(struct worker *w)
{
	static const uint32_t sizes[] = { 1, 1, 2, 5, 16, 40, 300, 3000 };
	uint32_t i = (uint32_t)(worker_rnd(w) % INODES);
	struct balloc_request rq = { .count = 1 + (uint32_t)(worker_rnd(w) %
							     sizes[worker_rnd(w) % 8]) };
	struct held *held = &w->held[w->count];
	uint64_t clusters;
	int err;

	if (worker_rnd(w) % 4) {
		rq.ip = w->inodes[i];
		rq.logical = worker_rnd(w) % 4 ? w->next[i] : (lblk_t)(worker_rnd(w) % 100000);
		rq.flags |= worker_rnd(w) % 4 ? BALLOC_DATA : 0;
	}
	if (worker_rnd(w) % 4 == 0)
		rq.goal = worker_rnd(w) % w->rig->g->blocks;
	rq.flags |= worker_rnd(w) % 2 ? BALLOC_META : BALLOC_ROOT;
	held->reserved = false;
	clusters = div_round_up(rq.logical % w->rig->g->cluster_ratio + rq.count,
				w->rig->g->cluster_ratio);
	if (worker_rnd(w) % 3 == 0 && balloc_reserve(w->rig->fs, clusters, true) == 0) {
		rq.flags = BALLOC_RESERVED | (rq.flags & BALLOC_DATA);
		held->reserved = true;
	}
	err = take(w->rig, &rq, &held->run);
	if (err < 0 && (err != -ENOSPC || held->reserved))
		fail_msg("%s: %s", w->rig->recipe->name, diag_text());
	if (err < 0) {
		w->full++;
		return;
	}
	if (held->reserved) /* what was promised beyond the run */
		balloc_unreserve(w->rig->fs,
				 clusters - (held->run.count >> w->rig->g->cluster_ratio_bits));
	held->recorded = false;
	w->next[i] = rq.logical + held->run.count;
	w->count++;
}

/* Some held run goes: it is cancelled, or recorded, or a part of it, or all, is freed. */
static void worker_give(struct worker *w)
{
	uint32_t i = (uint32_t)(worker_rnd(w) % w->count);
	struct held *held = &w->held[i];
	struct blk_run part = held->run;

	if (!held->recorded && worker_rnd(w) % 4) {
		record(w->rig, &held->run);
		held->recorded = true;
		return;
	}
	if (held->recorded && worker_rnd(w) % 4 == 0 && part.count > w->rig->g->cluster_ratio) {
		part.count = w->rig->g->cluster_ratio;
		held->run.start += part.count;
		held->run.count -= part.count;
		give(w->rig, &part);
		return;
	}
	if (held->recorded)
		give(w->rig, &held->run);
	else
		cancel(w->rig, &held->run, held->reserved);
	if (!held->recorded && held->reserved)
		balloc_unreserve(w->rig->fs, part.count >> w->rig->g->cluster_ratio_bits);
	*held = w->held[--w->count];
}

static void worker_run(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < w->rounds; i++) {
		uint64_t dice = worker_rnd(w) % 100;

		if (dice == 0)
			assert_int_equal(txn_log_sync(w->rig->fs->log), 0);
		else if (dice == 1)
			balloc_discard_prealloc(w->inodes[worker_rnd(w) % INODES]);
		else if (w->count < HELD_MAX && (w->count == 0 || dice < 55))
			worker_take(w);
		else
			worker_give(w);
	}
	for (uint32_t i = 0; i < w->count; i++) {
		if (!w->held[i].recorded)
			record(w->rig, &w->held[i].run);
	}
}

static void random_one(const struct recipe *r)
{
	struct worker *w = calloc(2, sizeof(*w));
	struct thread *threads[2];
	struct rig rig;

	assert_non_null(w);
	rig_make(&rig, r);
	rig_open(&rig);
	for (unsigned i = 0; i < 2; i++) {
		w[i].rig = &rig;
		w[i].random = rnd() | 1;
		w[i].rounds = rounds;
		for (unsigned k = 0; k < INODES; k++)
			w[i].inodes[k] = toy_inode(
				rig.fs, 11 + (uint32_t)(rnd() % (rig.g->inodes - 11)), k);
		assert_int_equal(thread_create("worker", worker_run, &w[i], &threads[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		thread_join(threads[i]);
		for (unsigned k = 0; k < INODES; k++)
			toy_inode_free(w[i].inodes[k]);
	}
	close_fs(&rig);
	compare_with_disk(&rig);

	open_fs(&rig);
	for (unsigned i = 0; i < 2; i++) {
		for (uint32_t k = 0; k < w[i].count; k++)
			give(&rig, &w[i].held[k].run);
	}
	free(w);
	rig_close(&rig);
}

static void random_changes(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
		random_one(&recipes[i]);
}

/* ---- full ------------------------------------------------------------------------------------ */

struct filler {
	struct rig *rig;
	struct blk_run *runs;
	uint32_t count, room;
	uint64_t clusters;
	uint32_t flags;
	uint64_t random;
	struct inode *ip;
};

/* Takes all there is, with files of all sizes. */
static void filler_run(void *arg)
{
	struct filler *f = arg;
	lblk_t logical = 0;

	for (;;) {
		uint32_t dice = (uint32_t)(next_random(&f->random) % 3);
		struct balloc_request rq = {
			.ip = f->ip,
			.logical = logical & ~(f->rig->g->cluster_ratio - 1),
			.count = dice == 0   ? 1
				 : dice == 1 ? 12
					     : 700,
			.flags = f->flags | (dice ? BALLOC_DATA : 0),
			.file_blocks = dice == 1 ? 0 : 5000,
		};
		struct blk_run run;
		int err = take(f->rig, &rq, &run);

		if (err == -ENOSPC)
			return;
		if (err < 0)
			fail_msg("%s: %s", f->rig->recipe->name, diag_text());
		if (f->count == f->room) {
			f->room = f->room ? f->room * 2 : 64;
			f->runs = realloc(f->runs, f->room * sizeof(*f->runs));
			assert_non_null(f->runs);
		}
		f->runs[f->count++] = run;
		f->clusters += run.count >> f->rig->g->cluster_ratio_bits;
		logical = rq.logical + run.count;
	}
}

static void fill_one(const struct recipe *r)
{
	struct filler f[2] = { { 0 } };
	struct thread *threads[2];
	struct rig rig;

	rig_make(&rig, r);
	rig_open(&rig);
	for (unsigned i = 0; i < 2; i++) {
		f[i] = (struct filler){ .rig = &rig, .flags = BALLOC_META, .random = rnd() | 1 };
		f[i].ip = toy_inode(rig.fs, 12 + i * (rig.g->inodes / 2 - 1), 1);
		assert_int_equal(thread_create("filler", filler_run, &f[i], &threads[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		thread_join(threads[i]);
	assert_int_equal(f[0].clusters + f[1].clusters, rig.free_clusters);
	assert_int_equal(balloc_free_clusters(rig.fs), 0);
	for (unsigned i = 0; i < 2; i++) {
		for (uint32_t k = 0; k < f[i].count; k++)
			record(&rig, &f[i].runs[k]);
	}
	assert_int_equal(txn_log_sync(rig.fs->log), 0);
	for (unsigned i = 0; i < 2; i++) {
		for (uint32_t k = 0; k < f[i].count; k++)
			give(&rig, &f[i].runs[k]);
		free(f[i].runs);
	}
	assert_true(balloc_commit_helps(rig.fs));
	assert_int_equal(balloc_free_clusters(rig.fs), rig.free_clusters);
	for (unsigned i = 0; i < 2; i++)
		toy_inode_free(f[i].ip);
	rig_close(&rig);
}

static void filled_to_the_last(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
		fill_one(&recipes[i]);
}

static uint64_t fill_as(struct rig *rig, uint32_t flags, struct filler *f)
{
	*f = (struct filler){ .rig = rig, .flags = flags, .random = rnd() | 1 };
	f->ip = toy_inode(rig->fs, 12, 1);
	filler_run(f);
	return f->clusters;
}

/* Ordinary callers leave what root and the extent tree may need; promises count. */
static void reserves_are_kept(void **state)
{
	struct filler user, root, meta;
	struct filler *all[] = { &user, &root, &meta };
	struct blk_run run;
	struct rig rig;
	uint64_t small, held;

	rig_make(&rig, &recipes[0]);
	rig_open(&rig);
	small = min_u64(rig.g->blocks / 50, 4096);
	held = le32_get(rig.fs->super.s_r_blocks_count_lo);
	assert_true(held > 0);
	assert_int_equal(balloc_reserve(rig.fs, 1000, false), 0);
	assert_int_equal(fill_as(&rig, 0, &user), rig.free_clusters - 1000 - held - small);
	assert_int_equal(balloc_reserve(rig.fs, 1, false), -ENOSPC);
	assert_int_equal(balloc_reserve(rig.fs, 1, true), 0);
	balloc_unreserve(rig.fs, 1);
	assert_int_equal(fill_as(&rig, BALLOC_ROOT, &root), held);
	assert_int_equal(fill_as(&rig, BALLOC_META, &meta), small);
	assert_int_equal(balloc_free_clusters(rig.fs), 0);
	for (unsigned i = 0; i < 1000; i++) {
		const struct balloc_request rq = { .count = 1, .flags = BALLOC_RESERVED };

		assert_int_equal(take(&rig, &rq, &run), 0);
		cancel(&rig, &run, i % 2);
		if (i % 2) /* in force again */
			assert_int_equal(take(&rig, &rq, &run), 0);
		if (i % 2)
			cancel(&rig, &run, false);
	}
	assert_int_equal(balloc_free_clusters(rig.fs), 1000);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		for (uint32_t k = 0; k < all[i]->count; k++)
			cancel(&rig, &all[i]->runs[k], false);
		free(all[i]->runs);
		toy_inode_free(all[i]->ip);
	}
	rig_close(&rig);
}

/* ---- where things go ------------------------------------------------------------------------- */

static void small_files_lie_side_by_side(void **state)
{
	struct rig rig;
	struct blk_run runs[300];
	unsigned gaps = 0;

	rig_make(&rig, &recipes[0]);
	rig_open(&rig);
	for (unsigned i = 0; i < ARRAY_SIZE(runs); i++) {
		struct inode *ip = toy_inode(rig.fs, 20 + i, 1);
		const struct balloc_request rq = { .ip = ip,
						   .count = 1 + i % 7,
						   .flags = BALLOC_DATA };

		assert_int_equal(take(&rig, &rq, &runs[i]), 0);
		assert_int_equal(runs[i].count, rq.count);
		if (i > 0 && runs[i].start != runs[i - 1].start + runs[i - 1].count)
			gaps++;
		toy_inode_free(ip);
	}
	assert_true(gaps <= 1);
	for (unsigned i = 0; i < ARRAY_SIZE(runs); i++)
		cancel(&rig, &runs[i], false);
	rig_close(&rig);
}

#define APPENDS 512u

/* Two files are written in turns, 16 KiB each time: each has few pieces in the end. */
static void files_that_grow_stay_whole(void **state)
{
	struct blk_run(*runs)[APPENDS] = calloc(2, sizeof(*runs));
	struct inode *ip[2];
	struct rig rig;

	assert_non_null(runs);
	rig_make(&rig, &recipes[0]);
	rig_open(&rig);
	for (unsigned i = 0; i < 2; i++)
		ip[i] = toy_inode(rig.fs, 20 + i, 1);
	for (unsigned i = 0; i < 2 * APPENDS; i++) {
		const struct balloc_request rq = {
			.ip = ip[i % 2],
			.logical = i / 2 * 4,
			.count = 4,
			.flags = BALLOC_DATA,
			.goal = i < 2 ? 0 : runs[i % 2][i / 2 - 1].start + 4,
		};

		assert_int_equal(take(&rig, &rq, &runs[i % 2][i / 2]), 0);
		assert_int_equal(runs[i % 2][i / 2].count, 4);
	}
	for (unsigned i = 0; i < 2; i++) {
		unsigned pieces = 1;

		for (unsigned k = 1; k < APPENDS; k++)
			pieces += runs[i][k].start != runs[i][k - 1].start + 4;
		assert_true(pieces <=
			    12); /* four while it is small, then each as long as all before */
		for (unsigned k = 0; k < APPENDS; k++)
			cancel(&rig, &runs[i][k], false);
		toy_inode_free(ip[i]);
	}
	free(runs);
	rig_close(&rig);
}

/* Two files whose size is known already are written in turns, 1 MiB each time. */
static void files_written_in_turns_stay_whole(void **state)
{
	struct blk_run runs[2][16];
	struct inode *ip[2];
	struct rig rig;
	unsigned pieces = 0;

	rig_make(&rig, &recipes[0]);
	rig_open(&rig);
	for (unsigned i = 0; i < 2; i++)
		ip[i] = toy_inode(rig.fs, 20 + i, 0);
	for (unsigned i = 0; i < 32; i++) {
		struct blk_run *run = &runs[i % 2][i / 2];
		const struct balloc_request rq = {
			.ip = ip[i % 2],
			.logical = i / 2 * 256,
			.count = 256,
			.flags = BALLOC_DATA,
			.goal = i < 2 ? 0 : run[-1].start + 256,
			.file_blocks = 16 * 256,
		};

		assert_int_equal(take(&rig, &rq, run), 0);
		assert_int_equal(run->count, 256);
		pieces += i < 2 || run->start != run[-1].start + 256;
	}
	assert_true(pieces <= 4); /* of 8 MiB */
	for (unsigned i = 0; i < 32; i++)
		cancel(&rig, &runs[i % 2][i / 2], false);
	for (unsigned i = 0; i < 2; i++)
		toy_inode_free(ip[i]);
	rig_close(&rig);
}

static uint64_t free_bits(struct rig *rig)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < rig->g->groups; i++)
		sum += atomic_load(&rig->fs->balloc->groups[i].free);
	return sum;
}

/* What was set aside is there again when the last writer closes the file. */
static void windows_end(void **state)
{
	struct blk_run runs[2];
	struct inode *ip;
	struct rig rig;

	rig_make(&rig, &recipes[0]);
	rig_open(&rig);
	ip = toy_inode(rig.fs, 20, 1);
	for (unsigned i = 0; i < 2; i++) {
		const struct balloc_request rq = {
			.ip = ip, .logical = 100 + i * 10, .count = 10, .flags = BALLOC_DATA
		};

		assert_int_equal(take(&rig, &rq, &runs[i]), 0);
		/* The window holds more than the file has. */
		assert_true(free_bits(&rig) < rig.free_clusters - 10 * (i + 1));
		assert_int_equal(balloc_free_clusters(rig.fs), rig.free_clusters - 10 * (i + 1));
	}
	assert_int_equal(runs[1].start, runs[0].start + 10);
	balloc_discard_prealloc(ip);
	assert_int_equal(free_bits(&rig), rig.free_clusters - 20);
	for (unsigned i = 0; i < 2; i++)
		cancel(&rig, &runs[i], false);
	toy_inode_free(ip);
	rig_close(&rig);
}

/* Blocks of one chunk that are written in any order forwards lie in order. */
static void holes_are_filled_in_order(void **state)
{
	static const lblk_t at[] = { 6400, 6403, 6410, 6411, 6450, 6430 };
	struct blk_run runs[ARRAY_SIZE(at)];
	struct inode *ip;
	struct rig rig;

	rig_make(&rig, &recipes[0]);
	rig_open(&rig);
	ip = toy_inode(rig.fs, 20, 1);
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		const struct balloc_request rq = { .ip = ip,
						   .logical = at[i],
						   .count = 1,
						   .flags = BALLOC_DATA,
						   .file_blocks = 100000 };

		assert_int_equal(take(&rig, &rq, &runs[i]), 0);
		assert_int_equal(runs[i].start - runs[0].start, at[i] - at[0]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(at); i++)
		cancel(&rig, &runs[i], false);
	toy_inode_free(ip);
	rig_close(&rig);
}

/* ---- inodes ---------------------------------------------------------------------------------- */

struct inode_worker {
	struct rig *rig;
	_Atomic uint8_t *taken;
	uint32_t count;
	uint64_t random;
};

static int take_inode(struct rig *rig, struct inode *parent, bool is_dir, uint32_t *ret_ino)
{
	struct handle *h;
	int err;

	assert_int_equal(handle_start(rig->fs->log, IALLOC_CREDITS, &h), 0);
	err = ialloc_alloc(h, rig->fs, parent, is_dir, ret_ino);
	assert_int_equal(handle_stop(h), 0);
	return err;
}

static void give_inode(struct rig *rig, uint32_t ino, bool is_dir)
{
	struct handle *h;

	assert_int_equal(handle_start(rig->fs->log, IALLOC_CREDITS, &h), 0);
	if (ialloc_free(h, rig->fs, ino, is_dir) != 0)
		fail_msg("%s: %s", rig->recipe->name, diag_text());
	assert_int_equal(handle_stop(h), 0);
}

/* Every inode there is; whether it is a directory tells its number. */
static void inode_worker_run(void *arg)
{
	struct inode_worker *w = arg;
	struct inode *parent = toy_inode(w->rig->fs, EXT4_ROOT_INO, 0);
	bool is_dir = false;
	uint32_t ino;

	while (take_inode(w->rig, parent, is_dir, &ino) == 0) {
		if (atomic_exchange(&w->taken[ino], is_dir ? 2 : 1) != 0 ||
		    !w->rig->free_inode[ino])
			fail_msg("%s: inode %u is given twice", w->rig->recipe->name, ino);
		w->count++;
		if (next_random(&w->random) % 4 == 0) {
			atomic_store(&w->taken[ino], 0);
			give_inode(w->rig, ino, is_dir);
			w->count--;
		}
		is_dir = next_random(&w->random) % 8 == 0;
		parent->ino = 1 + (uint32_t)(next_random(&w->random) % w->rig->g->inodes);
	}
	free(parent);
}

/* The parts of tables that were never written become something that is no inode. */
static void spoil_tables(struct rig *rig)
{
	uint8_t *junk = malloc(rig->g->block_size);

	assert_non_null(junk);
	memset(junk, 0xA5, rig->g->block_size);
	for (uint32_t group = 0; group < rig->g->groups; group++) {
		uint32_t used = rig->g->inodes_per_group;
		struct ext4_group_desc gd;
		blk_t blk;

		assert_int_equal(group_desc_read(rig->fs, group, &gd), 0);
		if (!desc_has_flags(rig->g) || le16_get(gd.bg_flags) & EXT4_BG_INODE_ZEROED)
			continue;
		used -= desc_get16(rig->g, &gd.bg_itable_unused_lo, &gd.bg_itable_unused_hi);
		blk = desc_inode_table(rig->g, &gd);
		for (uint32_t i = (uint32_t)div_round_up(used, rig->g->inodes_per_block);
		     i < rig->g->inode_table_blocks; i++)
			assert_int_equal(dev_write(rig->fs->dev, (blk + i) * rig->g->block_size,
						   junk, rig->g->block_size),
					 0);
	}
	free(junk);
}

static void check_inode_is_blank(struct rig *rig, uint32_t ino)
{
	struct ext4_inode *raw = calloc(1, rig->g->inode_size);

	assert_non_null(raw);
	if (inode_read_raw(rig->fs, ino, raw) != 0 || le16_get(raw->i_links_count) != 0 ||
	    le16_get(raw->i_mode) != 0)
		fail_msg("%s: inode %u shows old bytes", rig->recipe->name, ino);
	free(raw);
}

static void inodes_one(const struct recipe *r)
{
	struct inode_worker w[2];
	struct thread *threads[2];
	struct rig rig;
	_Atomic uint8_t *taken;

	rig_make(&rig, r);
	rig_open(&rig);
	spoil_tables(&rig);
	taken = calloc(rig.g->inodes + 1, 1);
	assert_non_null(taken);
	for (unsigned i = 0; i < 2; i++) {
		w[i] = (struct inode_worker){ .rig = &rig, .taken = taken, .random = rnd() | 1 };
		assert_int_equal(thread_create("inodes", inode_worker_run, &w[i], &threads[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		thread_join(threads[i]);
	/* One may have given some back after the other had stopped. */
	assert_true(w[0].count + w[1].count + ialloc_free_inodes(rig.fs) == rig.free_inodes);
	assert_true(ialloc_free_inodes(rig.fs) <= 1);
	for (uint32_t ino = 1; ino <= rig.g->inodes; ino++) {
		if (taken[ino] == 0)
			continue;
		check_inode_is_blank(&rig, ino);
		give_inode(&rig, ino, taken[ino] == 2);
	}
	free(taken);
	rig_close(&rig);
}

static void inodes_to_the_last(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
		inodes_one(&recipes[i]);
}

static const struct recipe spread = { "spread", 512 * 1024,
				      "-t ext4 -b 4096 -g 2048 -G 4 -N 32768 " LAZY };

/* Directories at the top go to different flex groups; files stay with their directory. */
static void directories_are_spread(void **state)
{
	struct inode *root, *dir;
	uint32_t top[16], ino, flexes = 0, near = 0, nested = 0;
	struct rig rig;

	rig_make(&rig, &spread);
	rig_open(&rig);
	root = toy_inode(rig.fs, EXT4_ROOT_INO, 0);
	dir = toy_inode(rig.fs, 0, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(top); i++) {
		uint32_t flex;
		unsigned k = 0;

		assert_int_equal(take_inode(&rig, root, true, &top[i]), 0);
		flex = (top[i] - 1) / rig.g->inodes_per_group >> 2;
		while (k < i && (top[k] - 1) / rig.g->inodes_per_group >> 2 != flex)
			k++;
		flexes += k == i;
		dir->ino = top[i];
		assert_int_equal(take_inode(&rig, dir, false, &ino), 0);
		near += (ino - 1) / rig.g->inodes_per_group >> 2 == flex;
		give_inode(&rig, ino, false);
		assert_int_equal(take_inode(&rig, dir, true, &ino), 0);
		nested += (ino - 1) / rig.g->inodes_per_group >> 2 == flex;
		give_inode(&rig, ino, true);
	}
	assert_true(flexes >= 12); /* four have less room than the others: the journal, backups */
	assert_int_equal(near, ARRAY_SIZE(top));
	assert_int_equal(nested, ARRAY_SIZE(top));
	for (unsigned i = 0; i < ARRAY_SIZE(top); i++)
		give_inode(&rig, top[i], true);
	free(root);
	free(dir);
	rig_close(&rig);
}

/* ---- what is wrong --------------------------------------------------------------------------- */

static int try_free(struct rig *rig, blk_t start, uint32_t count)
{
	struct handle *h;
	int err;

	assert_int_equal(handle_start(rig->fs->log, 8 * BALLOC_CREDITS, &h), 0);
	err = balloc_free(h, rig->fs, start, count, 0);
	assert_int_equal(handle_stop(h), 0);
	return err;
}

static int try_free_inode(struct rig *rig, uint32_t ino)
{
	struct handle *h;
	int err;

	assert_int_equal(handle_start(rig->fs->log, IALLOC_CREDITS, &h), 0);
	err = ialloc_free(h, rig->fs, ino, false);
	assert_int_equal(handle_stop(h), 0);
	return err;
}

/* Any block of the journal. */
static blk_t journal_block(struct rig *rig)
{
	struct inode *ip;
	struct map_ext ext;

	assert_int_equal(inode_get(rig->fs, EXT4_JOURNAL_INO, &ip), 0);
	assert_int_equal(map_read(ip, (lblk_t)(ip->size / rig->g->block_size / 2), &ext), 0);
	inode_put(ip);
	return ext.physical;
}

static void frees_of_what_is_not_in_use(void **state)
{
	const struct balloc_request rq = { .count = 10 };
	struct ext4_group_desc gd;
	struct blk_run run;
	struct rig rig;

	rig_make(&rig, &recipes[0]);
	rig_open(&rig);
	assert_int_equal(take(&rig, &rq, &run), 0);
	assert_int_equal(try_free(&rig, run.start, 10), -EFSCORRUPTED); /* not recorded */
	record(&rig, &run);
	give(&rig, &run);
	assert_int_equal(try_free(&rig, run.start + 3, 1), -EFSCORRUPTED);
	assert_int_equal(txn_log_sync(rig.fs->log), 0);
	assert_int_equal(try_free(&rig, run.start + 9, 1), -EFSCORRUPTED);
	for (uint32_t group = 0; group < rig.g->groups; group++) {
		assert_int_equal(group_desc_read(rig.fs, group, &gd), 0);
		assert_int_equal(try_free(&rig, desc_block_bitmap(rig.g, &gd), 1), -EFSCORRUPTED);
		assert_int_equal(try_free(&rig, desc_inode_bitmap(rig.g, &gd), 1), -EFSCORRUPTED);
		assert_int_equal(
			try_free(&rig, desc_inode_table(rig.g, &gd) + rig.g->inode_table_blocks - 1,
				 5),
			-EFSCORRUPTED);
		if (geom_group_has_super(rig.g, group))
			assert_int_equal(try_free(&rig, geom_group_first_block(rig.g, group), 2),
					 -EFSCORRUPTED);
	}
	assert_int_equal(try_free(&rig, journal_block(&rig), 1), -EFSCORRUPTED);
	assert_int_equal(try_free(&rig, rig.g->blocks - 1, 2), -EFSCORRUPTED);
	assert_int_equal(try_free(&rig, rig.g->blocks, 1), -EFSCORRUPTED);
	assert_int_equal(try_free(&rig, UINT64_MAX, 1), -EFSCORRUPTED);
	assert_int_equal(try_free_inode(&rig, 0), -EFSCORRUPTED);
	assert_int_equal(try_free_inode(&rig, EXT4_ROOT_INO), -EFSCORRUPTED);
	assert_int_equal(try_free_inode(&rig, 100), -EFSCORRUPTED);
	assert_int_equal(try_free_inode(&rig, rig.g->inodes + 1), -EFSCORRUPTED);
	assert_int_equal(balloc_free_clusters(rig.fs), rig.free_clusters);
	assert_int_equal(ialloc_free_inodes(rig.fs), rig.free_inodes);
	/* e2fsck wants to hear of the errors that were noted. */
	close_fs(&rig);
	compare_with_disk(&rig);
	free(rig.state);
	free(rig.free_inode);
}

/* All inodes of a group of damaged images are in use, its descriptor notwithstanding. */
static void fill_inode_bitmap(struct rig *rig, blk_t blk)
{
	int fd = open(rig->path, O_RDWR);
	uint8_t full[4096];

	assert_true(fd >= 0);
	memset(full, 0xFF, sizeof(full));
	assert_int_equal(pwrite(fd, full, sizeof(full), (off_t)(blk * sizeof(full))), sizeof(full));
	close(fd);
}

static void flip_in_image(struct rig *rig, blk_t blk, uint32_t byte)
{
	int fd = open(rig->path, O_RDWR);
	uint8_t v;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &v, 1, (off_t)(blk * 4096 + byte)), 1);
	v ^= 0x10;
	assert_int_equal(pwrite(fd, &v, 1, (off_t)(blk * 4096 + byte)), 1);
	close(fd);
}

static const struct recipe damaged = { "damaged", 512 * 1024,
				       "-t ext4 -b 4096 -g 8192 -e continue -O ^has_journal" };

#define DAMAGED_GROUP 5u

/* Both bitmaps of the group come to life. */
static void touch_group(struct rig *rig)
{
	const struct balloc_request rq = {
		.count = 10, .goal = geom_group_first_block(rig->g, DAMAGED_GROUP) + 4000
	};
	struct inode *parent = toy_inode(rig->fs, DAMAGED_GROUP * rig->g->inodes_per_group + 1, 0);
	struct blk_run run;
	uint32_t ino;

	assert_int_equal(take(rig, &rq, &run), 0);
	assert_int_equal(run.start, rq.goal);
	record(rig, &run);
	give(rig, &run);
	assert_int_equal(take_inode(rig, parent, false, &ino), 0);
	assert_int_equal(ino, parent->ino);
	give_inode(rig, ino, false);
	free(parent);
}

/* Everything but the damaged group is to be had. */
static void use_damaged(struct rig *rig, uint32_t lost, uint32_t lost_inodes)
{
	const struct blk_run in_group = { geom_group_first_block(rig->g, DAMAGED_GROUP) + 4000, 1 };
	struct filler f;
	uint32_t ino, count = 0;

	open_fs(rig);
	fill_as(rig, BALLOC_META, &f);
	assert_int_equal(f.clusters, rig->free_clusters - lost);
	for (uint32_t i = 0; i < f.count; i++)
		cancel(rig, &f.runs[i], false);
	free(f.runs);
	toy_inode_free(f.ip);
	assert_int_equal(balloc_free_clusters(rig->fs), rig->free_clusters - lost);
	/* What lies in it stays in use. */
	assert_int_equal(try_free(rig, in_group.start, 1), 0);
	assert_int_equal(balloc_free_clusters(rig->fs), rig->free_clusters - lost);
	while (take_inode(rig, NULL, false, &ino) == 0)
		count++;
	assert_int_equal(count, rig->free_inodes - lost_inodes);
	close_fs(rig);
}

/* With and without checksums. */
static void damaged_groups_are_passed_over(void **state)
{
	for (unsigned with_csum = 0; with_csum < 2; with_csum++) {
		struct recipe r = damaged;
		char options[256];
		struct ext4_group_desc gd;
		struct rig rig;
		uint32_t lost;

		snprintf(options, sizeof(options), "%s%s", damaged.options,
			 with_csum ? "" : ",^metadata_csum");
		r.options = options;
		rig_make(&rig, &r);
		rig_open(&rig);
		touch_group(&rig);
		close_fs(&rig);
		open_fs(&rig);
		assert_int_equal(group_desc_read(rig.fs, DAMAGED_GROUP, &gd), 0);
		assert_int_equal(
			le16_get(gd.bg_flags) & (EXT4_BG_BLOCK_UNINIT | EXT4_BG_INODE_UNINIT), 0);
		lost = desc_get16(rig.g, &gd.bg_free_blocks_count_lo, &gd.bg_free_blocks_count_hi);
		close_fs(&rig);
		/* A free block; a free inode, which only a checksum can tell, or none at all. */
		flip_in_image(&rig, desc_block_bitmap(rig.g, &gd), 600);
		if (with_csum)
			flip_in_image(&rig, desc_inode_bitmap(rig.g, &gd), 20);
		else
			fill_inode_bitmap(&rig, desc_inode_bitmap(rig.g, &gd));
		use_damaged(&rig, lost, rig.g->inodes_per_group);
		free(rig.state);
		free(rig.free_inode);
	}
}

/* ---- what fails ------------------------------------------------------------------------------ */

static const struct recipe failing = { "failing", 8 * 1024,
				       "-t ext4 -b 1024 -g 1024 -N 128 -O ^has_journal " LAZY };

/* What was taken and not given back, because that failed. */
struct leftover {
	struct blk_run run;
	uint32_t ino;
};

static int take_some(struct handle *h, struct uext4_fs *fs, struct inode *ip, struct leftover *l)
{
	const struct balloc_request rq = {
		.ip = ip, .logical = 20, .count = 20, .flags = BALLOC_DATA
	};
	struct blk_run run;
	int err;

	err = balloc_alloc(fs, &rq, &run);
	if (err == 0) {
		err = balloc_record(h, fs, &run);
		if (err < 0)
			balloc_cancel(fs, &run, false);
		else
			l->run = run;
	}
	return err < 0 ? err : ialloc_alloc(h, fs, ip, true, &l->ino);
}

static int give_some(struct handle *h, struct uext4_fs *fs, struct leftover *l)
{
	int err = 0;

	if (l->run.count > 0)
		err = balloc_free(h, fs, l->run.start, l->run.count, 0);
	if (err == 0)
		l->run.count = 0;
	if (err == 0 && l->ino != 0)
		err = ialloc_free(h, fs, l->ino, true);
	if (err == 0)
		l->ino = 0;
	return err;
}

/* Some of everything, as far as it goes. */
static int some_of_everything(struct uext4_fs *fs, struct leftover *l)
{
	struct inode *ip = toy_inode(fs, 40, 1);
	struct handle *h;
	int err, stop;

	err = handle_start(fs->log, 16, &h);
	if (err == 0) {
		err = take_some(h, fs, ip, l);
		if (err == 0)
			err = give_some(h, fs, l);
		stop = handle_stop(h);
		err = first_error(err, stop);
	}
	toy_inode_free(ip);
	return err;
}

static void give_leftover(struct uext4_fs *fs, struct leftover *l)
{
	struct handle *h;

	if (txn_log_error(fs->log) != 0)
		return;
	assert_int_equal(handle_start(fs->log, 16, &h), 0);
	assert_int_equal(give_some(h, fs, l), 0);
	assert_int_equal(handle_stop(h), 0);
}

/* The Nth allocation of memory, or read, fails. */
static void failures_lose_nothing(void **state)
{
	struct rig rig;

	for (unsigned kind = 0; kind < 2; kind++) {
		bool ended = false;

		for (unsigned n = 1; !ended; n++) {
			const struct fs_options options = { .cache_bytes = 1 << 20,
							    .nolock = true,
							    .write = true };
			struct leftover left = { .ino = 0 };
			uint64_t clusters;
			int err;

			rig_make(&rig, &failing);
			rig.g = &rig.geom;
			assert_int_equal(dev_file_open(rig.path, 0, 0,
						       DEV_FILE_WRITE | DEV_FILE_NOLOCK, &rig.dev),
					 0);
			assert_int_equal(dev_fail_create(rig.dev, &rig.dev), 0);
			if (fs_open(rig.dev, &options, &no_files, &rig.fs) != 0)
				skip();
			clusters = balloc_free_clusters(rig.fs);
			if (kind == 0)
				(void)mem_fail_nth(n);
			else
				dev_fail_nth_read(rig.dev, n);
			err = some_of_everything(rig.fs, &left);
			ended = kind == 0 ? mem_fail_nth(0) < n : err == 0;
			dev_fail_nth_read(rig.dev, 0);
			give_leftover(rig.fs, &left);
			if (err == 0)
				assert_int_equal(balloc_free_clusters(rig.fs), clusters);
			(void)fs_close(rig.fs);
			assert_true(n < 1000);
			fsck(&rig);
		}
	}
}

/* Few groups are kept in memory: what is read again is what was left. */
static void groups_are_read_again(void **state)
{
	struct inode *ip;
	struct blk_run runs[400];
	struct rig rig;
	const struct recipe r = { "again", 64 * 1024,
				  "-t ext4 -b 1024 -g 1024 -N 4096 -O ^has_journal " LAZY };

	rig_make(&rig, &r);
	rig_open(&rig);
	rig.fs->balloc->loaded_max = 3;
	ip = toy_inode(rig.fs, 11, 0);
	for (unsigned pass = 0; pass < 3; pass++) {
		for (unsigned i = 0; i < ARRAY_SIZE(runs); i++) {
			const struct balloc_request rq = { .count = 1 + i % 50,
							   .goal = rnd() % rig.g->blocks };

			assert_int_equal(take(&rig, &rq, &runs[i]), 0);
			if (i % 2)
				record(&rig, &runs[i]);
			else
				cancel(&rig, &runs[i], false);
		}
		for (unsigned i = 1; i < ARRAY_SIZE(runs); i += 2)
			give(&rig, &runs[i]);
		assert_int_equal(txn_log_sync(rig.fs->log), 0);
		assert_int_equal(balloc_free_clusters(rig.fs), rig.free_clusters);
	}
	for (unsigned i = 0; i < 64; i++) {
		const struct balloc_request rq = { .count = 1, .goal = 1 + i * 1024 + 700 };

		assert_int_equal(take(&rig, &rq, &runs[0]), 0);
		cancel(&rig, &runs[0], false);
		assert_true(i < 10 || atomic_load(&rig.fs->balloc->loaded) <= 5);
	}
	toy_inode_free(ip);
	rig_close(&rig);
}

/* ---- large ----------------------------------------------------------------------------------- */

static const struct recipe large = { "large", 1u << 30,
				     "-t ext4 -b 4096 -O ^has_journal,^resize_inode " LAZY };

static uint64_t reads_of(struct rig *rig)
{
	return atomic_load(&dev_bottom_stats(rig->fs->dev)->reads);
}

static void a_tebibyte(void **state)
{
	struct blk_run runs[200];
	struct rig rig = { .recipe = &large };
	uint64_t reads;

	snprintf(rig.path, sizeof(rig.path), "%s/large.img", scratch);
	if (run("mke2fs -F -q %s -N 65536 %s %uK >/dev/null 2>&1", large.options, rig.path,
		large.kib) != 0)
		skip();
	open_fs(&rig);
	reads = reads_of(&rig);
	for (unsigned i = 0; i < ARRAY_SIZE(runs); i++) {
		struct inode *ip = toy_inode(rig.fs, 1 + (uint32_t)(rnd() % rig.g->inodes), 1);
		const struct balloc_request rq = { .ip = ip, .count = 1 + i * 40, .flags = i % 2 };

		assert_int_equal(balloc_alloc(rig.fs, &rq, &runs[i]), 0);
		assert_int_equal(runs[i].count, rq.count);
		toy_inode_free(ip);
	}
	assert_true(reads_of(&rig) - reads <= 2 * ARRAY_SIZE(runs));
	for (unsigned i = 0; i < ARRAY_SIZE(runs); i++)
		balloc_cancel(rig.fs, &runs[i], false);
	close_fs(&rig);
	unlink(rig.path);
}

/* ---- speed ----------------------------------------------------------------------------------- */

static const struct recipe roomy = { "roomy", 16u << 20, "-t ext4 -b 4096 -O ^has_journal " LAZY };

struct lap {
	const char *name;
	uint32_t count, blocks, flags;
	bool record; /* and free */
};

static const struct lap laps[] = {
	{ "metadata, 1 block", 40000, 1, 0, false },
	{ "small file, 1 block", 40000, 1, BALLOC_DATA, false },
	{ "small file, 1 block, recorded, freed", 40000, 1, BALLOC_DATA, true },
	{ "large file, 256 blocks", 4000, 256, BALLOC_DATA, false },
	{ "large file, 256 blocks, recorded, freed", 4000, 256, BALLOC_DATA, true },
};

struct runner {
	struct rig *rig;
	const struct lap *lap;
	struct inode *ip;
	struct blk_run *runs;
	uint64_t take_ns, record_ns, free_ns;
};

/* Of this thread: other programs have little influence, waiting for the other thread counts not. */
static uint64_t cpu_ns(void)
{
	struct timespec ts;

	assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts), 0);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void runner_run(void *arg)
{
	struct runner *r = arg;
	bool large_file = r->lap->blocks > 16;
	uint64_t start = cpu_ns();

	for (uint32_t i = 0; i < r->lap->count; i++) {
		const struct balloc_request rq = {
			.ip = r->ip,
			.logical = large_file ? i * r->lap->blocks : 0,
			.count = r->lap->blocks,
			.flags = r->lap->flags,
			.goal = large_file && i ? r->runs[i - 1].start + r->runs[i - 1].count : 0,
		};

		assert_int_equal(balloc_alloc(r->rig->fs, &rq, &r->runs[i]), 0);
	}
	r->take_ns = cpu_ns() - start;
	start = cpu_ns();
	for (uint32_t i = 0; i < r->lap->count; i++) {
		if (r->lap->record)
			record(r->rig, &r->runs[i]);
		else
			balloc_cancel(r->rig->fs, &r->runs[i], false);
	}
	r->record_ns = cpu_ns() - start;
	start = cpu_ns();
	for (uint32_t i = 0; i < r->lap->count && r->lap->record; i++) {
		struct handle *h;

		assert_int_equal(handle_start(r->rig->fs->log, BALLOC_CREDITS, &h), 0);
		assert_int_equal(balloc_free(h, r->rig->fs, r->runs[i].start, r->runs[i].count, 0),
				 0);
		assert_int_equal(handle_stop(h), 0);
	}
	r->free_ns = cpu_ns() - start;
}

/* Two threads work in the same directory, so that they meet in the same groups. */
static void run_lap(struct rig *rig, const struct lap *lap, unsigned threads)
{
	struct thread *t[2];
	struct runner r[2];
	uint64_t take = 0, rec = 0, fre = 0, start = clock_mono_ns();

	for (unsigned i = 0; i < threads; i++) {
		r[i] = (struct runner){ .rig = rig, .lap = lap };
		r[i].ip = toy_inode(rig->fs, 5000 + i, 1);
		r[i].runs = calloc(lap->count, sizeof(struct blk_run));
		assert_non_null(r[i].runs);
		assert_int_equal(thread_create("speed", runner_run, &r[i], &t[i]), 0);
	}
	for (unsigned i = 0; i < threads; i++) {
		thread_join(t[i]);
		take += r[i].take_ns / lap->count / threads;
		rec += r[i].record_ns / lap->count / threads;
		fre += r[i].free_ns / lap->count / threads;
		toy_inode_free(r[i].ip);
		free(r[i].runs);
	}
	print_message("%u thread%s %-40s take %5" PRIu64 " ns, %s %5" PRIu64 " ns, free %5" PRIu64
		      " ns of CPU; all %5" PRIu64 " ns a block run\n",
		      threads, threads > 1 ? "s" : " ", lap->name, take,
		      lap->record ? "record" : "cancel", rec, fre,
		      (clock_mono_ns() - start) / lap->count / threads);
	assert_int_equal(txn_log_sync(rig->fs->log), 0);
}

static void speed(void **state)
{
	struct rig rig;

	rig_make(&rig, &roomy);
	rig_open(&rig);
	for (unsigned threads = 1; threads <= 2; threads++) {
		for (size_t i = 0; i < ARRAY_SIZE(laps); i++)
			run_lap(&rig, &laps[i], threads);
	}
	rig_close(&rig);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_changes),
		cmocka_unit_test(filled_to_the_last),
		cmocka_unit_test(reserves_are_kept),
		cmocka_unit_test(small_files_lie_side_by_side),
		cmocka_unit_test(files_that_grow_stay_whole),
		cmocka_unit_test(files_written_in_turns_stay_whole),
		cmocka_unit_test(holes_are_filled_in_order),
		cmocka_unit_test(windows_end),
		cmocka_unit_test(inodes_to_the_last),
		cmocka_unit_test(directories_are_spread),
		cmocka_unit_test(frees_of_what_is_not_in_use),
		cmocka_unit_test(damaged_groups_are_passed_over),
		cmocka_unit_test(failures_lose_nothing),
		cmocka_unit_test(groups_are_read_again),
		cmocka_unit_test(a_tebibyte),
	};

	static const struct CMUnitTest measure[] = { cmocka_unit_test(speed) };

	if (argc > 1 && strcmp(argv[1], "speed") == 0)
		return cmocka_run_group_tests(measure, make_scratch, remove_scratch);
	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	if (argc > 2)
		rounds = (unsigned)strtoul(argv[2], NULL, 0);
	print_message("seed %" PRIu64 "\n", seed);
	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
