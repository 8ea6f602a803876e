/* SPDX-License-Identifier: MIT */
/*
 * ops/: contents of files that change, on images made by mke2fs, with everything below them real.
 *
 *  - Random writes, appends, truncations both ways, holes, ranges of zeros, preallocation, fsyncs
 *    and reopened images against a plain array of bytes, on every kind of image; in the end e2fsck
 *    finds nothing and debugfs reads the same bytes.
 *  - A disk that is filled to its last block gives -ENOSPC at the write and nowhere else, and all
 *    of it comes back.
 *  - The nth write of the device fails: nothing is lost, the error is told once, and the image is
 *    right once it can be written.
 *  - The nth allocation of memory fails: what failed can be done again, and nothing is lost.
 *  - Many threads write, cut and read two files at once.
 *  - A file written in one go lies in as few pieces as there can be, a sparse file past 2 GiB has
 *    its feature, and what nobody wrote is not in the image.
 *
 * Usage: ops_file [SEED [OPERATIONS]]
 */
#include "ops/file_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#undef fail /* ours is meant */

#define MIB (1024u * 1024)
#define FILES 2u
#define MODEL_BYTES (12u * MIB)

static uint64_t seed = 1;
static unsigned operations = 600;
static char scratch[256];
static const char *current = ""; /* recipe */

/* xorshift64*: the same numbers everywhere. */
static uint64_t rnd_of(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

static uint64_t rnd_below(uint64_t end)
{
	return (rnd_of(&seed) >> 16) % end;
}

/* In threads, where cmocka's assertions cannot be used; and it says what failed in the engine. */
#define CHECK(x)                                                                                  \
	do {                                                                                      \
		if (!(x)) {                                                                       \
			fprintf(stderr, "%s:%d: %s: %s does not hold (%s)\n", __FILE__, __LINE__, \
				current, #x, diag_text());                                        \
			abort();                                                                  \
		}                                                                                 \
	} while (0)

/* ---- images ---------------------------------------------------------------------------------- */

struct recipe {
	const char *name;
	unsigned mib;
	const char *options;
	uint32_t size_max; /* of the files in the random test */
	enum fs_data_mode data_mode;
	bool nodelalloc;
	bool block_map; /* no unwritten blocks */
};

#define PLAIN .data_mode = FS_DATA_ORDERED
#define JOURNALLED .data_mode = FS_DATA_JOURNAL

static const struct recipe recipes[] = {
	{ "ext4-4k", 64, "-t ext4 -b 4096", 400000, PLAIN },
	{ "ext4-1k", 32, "-t ext4 -b 1024", 200000, PLAIN },
	{ "ext4-2k-nojournal", 32, "-t ext4 -b 2048 -O ^has_journal", 200000, PLAIN },
	{ "ext4-64k", 256, "-t ext4 -b 65536 -O ^resize_inode", 1500000, PLAIN },
	{ "ext4-16k", 128, "-t ext4 -b 16384", 600000, PLAIN },
	{ "ext3-1k", 32, "-t ext3 -b 1024", 600000, PLAIN, .block_map = true },
	{ "ext2-1k", 32, "-t ext2 -b 1024 -O large_file", 400000, PLAIN, .block_map = true },
	{ "ext2-4k", 64, "-t ext2 -b 4096", 400000, PLAIN, .block_map = true },
	{ "bigalloc-4k", 128, "-t ext4 -b 4096 -O bigalloc -C 65536", 900000, PLAIN },
	{ "bigalloc-1k", 64, "-t ext4 -b 1024 -O bigalloc,^has_journal -C 16384", 300000, PLAIN },
	{ "bigalloc-16k", 256, "-t ext4 -b 16384 -O bigalloc -C 65536", 900000, PLAIN },
	{ "inline-256", 64, "-t ext4 -b 4096 -O inline_data -I 256", 20000, PLAIN },
	{ "inline-1024-1k", 32, "-t ext4 -b 1024 -O inline_data -I 1024", 8000, PLAIN },
	{ "inline-16k", 256, "-t ext4 -b 65536 -O inline_data,^resize_inode -I 16384 -N 512",
	  200000, PLAIN },
	{ "journal-4k", 64, "-t ext4 -b 4096", 300000, JOURNALLED },
	{ "journal-1k", 32, "-t ext3 -b 1024", 200000, JOURNALLED, .block_map = true },
	{ "journal-64k", 512, "-t ext4 -b 65536 -O ^resize_inode", 900000, JOURNALLED },
	{ "journal-bigalloc", 128, "-t ext4 -b 4096 -O bigalloc -C 32768", 400000, JOURNALLED },
	{ "nodelalloc-4k", 64, "-t ext4 -b 4096", 400000, PLAIN, .nodelalloc = true },
	{ "nodelalloc-ext3", 64, "-t ext3 -b 4096", 400000, PLAIN, .nodelalloc = true,
	  .block_map = true },
};

PRINTF(1, 2) static int run(const char *fmt, ...)
{
	char command[2048];
	int status;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	status = system(command);
	return status == -1 || !WIFEXITED(status) ? -1 : WEXITSTATUS(status);
}

static void image_path(char *to, size_t size)
{
	snprintf(to, size, "%s/image", scratch);
}

static bool have_tools(void)
{
	return run("mke2fs -V >/dev/null 2>&1 && debugfs -V >/dev/null 2>&1") == 0;
}

/* An image with the empty files f0, f1, ... */
static void make_image(const char *options, unsigned mib)
{
	assert_int_equal(run("rm -rf %s/image %s/tree && mkdir %s/tree && truncate -s %uM %s/image",
			     scratch, scratch, scratch, mib, scratch),
			 0);
	for (unsigned i = 0; i < FILES; i++)
		assert_int_equal(run(": >%s/tree/f%u", scratch, i), 0);
	assert_int_equal(run("mke2fs -q -F %s -d %s/tree %s/image >%s/log 2>&1 || "
			     "{ cat %s/log >&2; false; }",
			     options, scratch, scratch, scratch, scratch),
			 0);
}

static void check_image(const char *name)
{
	int status = run("e2fsck -fn %s/image >%s/log 2>&1", scratch, scratch);

	if (status != 0)
		(void)run("cat %s/log >&2", scratch);
	if (status != 0)
		fprintf(stderr, "%s: e2fsck says %d\n", name, status);
	assert_int_equal(status, 0);
}

/* ---- an open image --------------------------------------------------------------------------- */

struct world {
	const struct recipe *recipe;
	struct uext4_fs *fs;
	struct dev *fail; /* the failing device above the file */
	struct inode *file[FILES];
	uint64_t seen[FILES];  /* of errors */
	uint8_t *model[FILES]; /* what is in them */
	uint64_t size[FILES];
};

static void open_files(struct world *w)
{
	for (unsigned i = 0; i < FILES; i++) {
		char path[16];
		uint32_t ino;

		snprintf(path, sizeof(path), "/f%u", i);
		assert_int_equal(namei_resolve(w->fs, 2, path, 0, &ino), 0);
		assert_int_equal(inode_get(w->fs, ino, &w->file[i]), 0);
		w->seen[i] = mapping_error_now(&w->file[i]->pages);
	}
}

static void open_world(struct world *w)
{
	struct fs_options options = {
		.cache_bytes = 4 * MIB,
		.write = true,
		.data_mode = w->recipe->data_mode,
		.nodelalloc = w->recipe->nodelalloc,
		.no_barrier = true,
	};
	struct dev *dev;
	char path[300];
	int err;

	image_path(path, sizeof(path));
	assert_int_equal(dev_file_open(path, 0, 0, DEV_FILE_WRITE, &dev), 0);
	assert_int_equal(dev_fail_create(dev, &w->fail), 0);
	err = fs_open(w->fail, &options, &file_mapping_ops, &w->fs);
	if (err < 0)
		fprintf(stderr, "%s: open: %s\n", w->recipe->name, diag_text());
	assert_int_equal(err, 0);
	open_files(w);
}

static void close_world(struct world *w)
{
	int err;

	for (unsigned i = 0; i < FILES; i++)
		inode_put(w->file[i]);
	err = fs_close(w->fs);
	if (err < 0)
		fprintf(stderr, "%s: close: %s\n", w->recipe->name, diag_text());
	assert_int_equal(err, 0);
}

static void begin_on_image(struct world *w, const struct recipe *recipe)
{
	memset(w, 0, sizeof(*w));
	w->recipe = recipe;
	current = recipe->name;
	for (unsigned i = 0; i < FILES; i++) {
		w->model[i] = calloc(1, MODEL_BYTES);
		assert_non_null(w->model[i]);
	}
	open_world(w);
}

static void begin(struct world *w, const struct recipe *recipe)
{
	make_image(recipe->options, recipe->mib);
	begin_on_image(w, recipe);
}

static void compare_with_debugfs(const struct world *w, unsigned number)
{
	char path[300];
	uint8_t *data;
	struct stat st;
	int fd;

	if (w->size[number] == 0) /* of an inline one it dumps 60 bytes */
		return;
	assert_int_equal(run("debugfs -R 'dump /f%u %s/dump' %s/image >%s/log 2>&1", number,
			     scratch, scratch, scratch),
			 0);
	snprintf(path, sizeof(path), "%s/dump", scratch);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, w->size[number]);
	data = malloc((size_t)st.st_size + 1);
	assert_non_null(data);
	assert_int_equal(read(fd, data, (size_t)st.st_size), st.st_size);
	assert_memory_equal(data, w->model[number], (size_t)st.st_size);
	free(data);
	close(fd);
}

static void end(struct world *w)
{
	close_world(w);
	check_image(w->recipe->name);
	for (unsigned i = 0; i < FILES; i++) {
		compare_with_debugfs(w, i);
		free(w->model[i]);
	}
}

/* ---- operations, on the file and on the model ------------------------------------------------ */

static void fill_random(uint8_t *to, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = (uint8_t)(rnd_of(&seed) >> 56);
}

/* Not longer than is often interesting: within a part, a block, a page, or several of them. */
static uint64_t random_length(uint64_t most)
{
	static const uint32_t scales[] = { 16, 200, 1024, 4096, 9000, 70000, 300000 };
	uint64_t scale = scales[rnd_below(ARRAY_SIZE(scales))], len = 1 + rnd_below(scale);

	if (rnd_below(3) == 0)
		len = div_round_up(len, 1024) * 1024;
	return min_u64(len, most);
}

static uint64_t random_offset(const struct world *w, unsigned n)
{
	uint64_t most = w->recipe->size_max - 1, at;

	switch (rnd_below(4)) {
	case 0: at = w->size[n]; break;
	case 1: at = rnd_below(most); break;
	case 2: at = rnd_below(most) & ~UINT64_C(1023); break;
	default: at = rnd_below(w->size[n] + 1); break;
	}
	return min_u64(at, most);
}

static void set_model_size(struct world *w, unsigned n, uint64_t size)
{
	if (size < w->size[n])
		memset(w->model[n] + size, 0, (size_t)(w->size[n] - size));
	w->size[n] = size;
}

static void do_write(struct world *w, unsigned n)
{
	static uint8_t buf[400000];
	uint32_t flags = rnd_below(8) == 0 ? FILE_WRITE_APPEND : 0;
	uint64_t offset = random_offset(w, n), at;
	uint64_t len = random_length(w->recipe->size_max - offset);
	size_t written = 0;

	if (flags & FILE_WRITE_APPEND)
		len = min_u64(len,
			      w->recipe->size_max - min_u64(w->size[n], w->recipe->size_max - 1));
	fill_random(buf, (size_t)len);
	CHECK(file_write(w->file[n], buf, (size_t)len, offset, flags, &written, &at) == 0);
	CHECK(written == len);
	CHECK(at == (flags & FILE_WRITE_APPEND ? w->size[n] : offset));
	memcpy(w->model[n] + at, buf, (size_t)len);
	w->size[n] = max_u64(w->size[n], at + len);
}

static void read_range(struct world *w, unsigned n, uint64_t offset, uint64_t len)
{
	static uint8_t buf[MODEL_BYTES];
	size_t got;

	CHECK(file_read(w->file[n], buf, (size_t)len, offset, &got) == 0);
	CHECK(got == (offset < w->size[n] ? min_u64(len, w->size[n] - offset) : 0));
	for (size_t i = 0; i < got; i++) {
		if (buf[i] != w->model[n][offset + i]) {
			fprintf(stderr, "%s: f%u: byte %" PRIu64 " of %" PRIu64 " is %u, not %u\n",
				w->recipe->name, n, offset + i, w->size[n], buf[i],
				w->model[n][offset + i]);
			abort();
		}
	}
}

static void do_truncate(struct world *w, unsigned n)
{
	uint64_t size = rnd_below(5) == 0 ? 0 : random_offset(w, n);

	CHECK(fs_write_begin(w->fs) == 0);
	inode_lock(w->file[n], INODE_CHILD);
	CHECK(file_set_size(w->file[n], size) == 0);
	inode_unlock(w->file[n]);
	fs_write_end(w->fs);
	set_model_size(w, n, size);
}

static void do_fallocate(struct world *w, unsigned n)
{
	static const uint32_t kinds[] = {
		0,
		UEXT4_FALLOC_KEEP_SIZE,
		UEXT4_FALLOC_KEEP_SIZE | UEXT4_FALLOC_PUNCH_HOLE,
		UEXT4_FALLOC_KEEP_SIZE | UEXT4_FALLOC_PUNCH_HOLE,
		UEXT4_FALLOC_ZERO_RANGE,
		UEXT4_FALLOC_ZERO_RANGE | UEXT4_FALLOC_KEEP_SIZE,
	};
	uint32_t flags = kinds[rnd_below(ARRAY_SIZE(kinds))];
	uint64_t offset = random_offset(w, n), len = random_length(w->recipe->size_max - offset);
	bool punch = flags & UEXT4_FALLOC_PUNCH_HOLE;
	int err;

	err = file_fallocate(w->file[n], flags, offset, len);
	if (w->recipe->block_map && !punch) {
		CHECK(err == -EOPNOTSUPP);
		return;
	}
	CHECK(err == 0);
	if ((flags & (UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_ZERO_RANGE)) && offset < w->size[n])
		memset(w->model[n] + offset, 0, (size_t)min_u64(len, w->size[n] - offset));
	if (!(flags & UEXT4_FALLOC_KEEP_SIZE) && offset + len > w->size[n])
		set_model_size(w, n, offset + len);
}

/* What a hole or data is called must agree with the bytes. */
static void do_seek(struct world *w, unsigned n)
{
	uint64_t offset = random_offset(w, n), found;
	int err;

	err = file_seek(w->file[n], offset, UEXT4_SEEK_DATA, &found);
	if (err == -ENXIO)
		found = w->size[n];
	else
		CHECK(err == 0);
	for (uint64_t i = offset; i < found; i++)
		CHECK(w->model[n][i] == 0);
}

static void reopen(struct world *w)
{
	close_world(w);
	open_world(w);
}

static void step(struct world *w)
{
	unsigned n = (unsigned)rnd_below(FILES);
	uint64_t what = rnd_below(100), offset;

	if (what < 45) {
		do_write(w, n);
	} else if (what < 65) {
		offset = random_offset(w, n);
		read_range(w, n, offset, random_length(MODEL_BYTES - offset));
	} else if (what < 77) {
		do_truncate(w, n);
	} else if (what < 89) {
		do_fallocate(w, n);
	} else if (what < 92) {
		do_seek(w, n);
	} else if (what < 97) {
		CHECK(file_fsync(w->file[n], rnd_below(2), &w->seen[n]) == 0);
	} else if (what < 98) {
		CHECK(fs_sync(w->fs) == 0);
	} else if (rnd_below(4) == 0) {
		reopen(w);
	} else {
		read_range(w, n, 0, w->size[n] + 1);
	}
}

static void random_operations(void **state)
{
	const struct recipe *recipe = *state;
	struct world w;

	if (!have_tools())
		skip();
	begin(&w, recipe);
	for (unsigned i = 0; i < operations; i++)
		step(&w);
	for (unsigned i = 0; i < FILES; i++)
		read_range(&w, i, 0, w.size[i] + 1);
	end(&w);
}

/* ---- a full disk ----------------------------------------------------------------------------- */

/* Appends pieces of @bytes until there is no room; what went in is in the model. */
static void fill_disk(struct world *w, unsigned n, size_t bytes)
{
	static uint8_t buf[70000];
	int err = 0;

	while (err == 0 && w->size[n] + bytes <= MODEL_BYTES) {
		uint64_t at;
		size_t written;

		fill_random(buf, bytes);
		err = file_write(w->file[n], buf, bytes, 0, FILE_WRITE_APPEND, &written, &at);
		if (err == 0) {
			CHECK(at == w->size[n] && written > 0 && written <= bytes);
			memcpy(w->model[n] + at, buf, written);
			w->size[n] += written;
		}
	}
	CHECK(err == -ENOSPC);
}

static void set_size(struct world *w, unsigned n, uint64_t size)
{
	CHECK(fs_write_begin(w->fs) == 0);
	inode_lock(w->file[n], INODE_CHILD);
	CHECK(file_set_size(w->file[n], size) == 0);
	inode_unlock(w->file[n]);
	fs_write_end(w->fs);
	set_model_size(w, n, size);
}

static void full_disk_is_told_at_the_write(void **state)
{
	static const struct recipe small[] = {
		{ "full-1k", 8, "-t ext4 -b 1024 -m 0 -N 32", 0, PLAIN },
		{ "full-1k-nojournal", 6, "-t ext4 -b 1024 -m 0 -N 32 -O ^has_journal", 0, PLAIN },
		{ "full-4k", 9, "-t ext4 -b 4096 -m 0 -N 32 -J size=4", 0, PLAIN },
		{ "full-ext2", 6, "-t ext2 -b 1024 -m 0 -N 32", 0, PLAIN, .block_map = true },
		{ "full-bigalloc", 8, "-t ext4 -b 1024 -m 0 -N 32 -O bigalloc,^has_journal -C 8192",
		  0, PLAIN },
		{ "full-journal", 8, "-t ext4 -b 1024 -m 0 -N 32", 0, JOURNALLED },
		{ "full-inline", 8, "-t ext4 -b 1024 -m 0 -N 32 -O inline_data -I 256", 0, PLAIN },
	};

	(void)state;
	if (!have_tools())
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(small); i++) {
		struct world w;
		uint64_t free_before, clusters;

		begin(&w, &small[i]);
		free_before = balloc_free_clusters(w.fs);
		clusters = w.fs->geom.blocks >> w.fs->geom.cluster_ratio_bits;
		for (unsigned round = 0; round < 3; round++) {
			fill_disk(&w, round % 2, 70000);
			fill_disk(&w, round % 2, 1000);
			/* But for the reserve for maps, and all that was promised is kept. */
			assert_true(balloc_free_clusters(w.fs) <= clusters / 50);
			for (unsigned n = 0; n < FILES; n++)
				CHECK(file_fsync(w.file[n], false, &w.seen[n]) == 0);
			for (unsigned n = 0; n < FILES; n++)
				read_range(&w, n, 0, w.size[n] + 1);
			set_size(&w, round % 2, w.size[round % 2] / 3);
		}
		/* In a hole the blocks are wanted one by one. */
		set_size(&w, 1, 0);
		set_size(&w, 1, 3 * MIB);
		for (unsigned k = 0; k < 2000; k++) {
			static uint8_t buf[1024];
			uint64_t at = rnd_below(3 * MIB - 1024) & ~UINT64_C(1023);
			size_t written;
			int err;

			fill_random(buf, sizeof(buf));
			err = file_write(w.file[1], buf, sizeof(buf), at, 0, &written, &at);
			CHECK(err == 0 || err == -ENOSPC);
			if (err == 0)
				memcpy(w.model[1] + at, buf, written);
		}
		CHECK(fs_sync(w.fs) == 0);
		read_range(&w, 1, 0, w.size[1]);
		reopen(&w);
		set_size(&w, 0, 0);
		set_size(&w, 1, 0);
		CHECK(fs_sync(w.fs) == 0);
		CHECK(balloc_free_clusters(w.fs) == free_before);
		fill_disk(&w, 0, 50000);
		end(&w);
	}
}

/* ---- writes that fail ------------------------------------------------------------------------ */

static void failed_writes_lose_nothing(void **state)
{
	const struct recipe *recipe = *state;
	unsigned failures = 0;
	struct world w;

	if (!have_tools())
		skip();
	begin(&w, recipe);
	for (uint64_t nth = 1;; nth++) {
		uint64_t late;
		int err;

		for (unsigned i = 0; i < 20; i++)
			do_write(&w, 0);
		do_truncate(&w, 0);
		do_write(&w, 0);
		late = mapping_error_now(&w.file[0]->pages);
		dev_fail_nth_write(w.fail, nth);
		err = mapping_flush(&w.file[0]->pages, 0, UINT64_MAX);
		dev_fail_nth_write(w.fail, 0);
		if (err == 0)
			break;
		failures++;
		CHECK(err == -EIO);
		CHECK(mapping_is_dirty(&w.file[0]->pages));
		CHECK(mapping_error(&w.file[0]->pages, &w.seen[0]) == -EIO);
		CHECK(mapping_error(&w.file[0]->pages, &w.seen[0]) == 0);
		CHECK(mapping_error(&w.file[0]->pages, &late) == -EIO);
		read_range(&w, 0, 0, w.size[0] + 1);
		if (nth % 2 == 0) {
			CHECK(file_fsync(w.file[0], true, &w.seen[0]) == 0);
			CHECK(!mapping_is_dirty(&w.file[0]->pages));
		}
	}
	assert_true(failures > 0 || recipe->data_mode == FS_DATA_JOURNAL);
	end(&w);
}

/* ---- memory that cannot be had --------------------------------------------------------------- */

/* What fails for lack of memory is done again, which must be possible. */
#define RETRY(err, call)                \
	do {                            \
		(err) = (call);         \
		if ((err) == -ENOMEM)   \
			(err) = (call); \
	} while (0)

static void write_again(struct world *w, unsigned n, uint64_t offset, size_t bytes)
{
	static uint8_t buf[200000];
	size_t written = 0;
	uint64_t at;
	int err;

	memset(buf, (int)(offset / 1000 + bytes) | 1, bytes);
	for (size_t done = 0; done < bytes; done += written) {
		RETRY(err, file_write(w->file[n], buf + done, bytes - done, offset + done, 0,
				      &written, &at));
		CHECK(err == 0);
	}
	memcpy(w->model[n] + offset, buf, bytes);
	w->size[n] = max_u64(w->size[n], offset + bytes);
}

static void cut_again(struct world *w, unsigned n, uint64_t size)
{
	int err;

	CHECK(fs_write_begin(w->fs) == 0);
	inode_lock(w->file[n], INODE_CHILD);
	RETRY(err, file_set_size(w->file[n], size));
	inode_unlock(w->file[n]);
	fs_write_end(w->fs);
	CHECK(err == 0);
	set_model_size(w, n, size);
}

static void sync_again(struct world *w, unsigned n)
{
	int err;

	RETRY(err, file_fsync(w->file[n], false, &w->seen[n]));
	CHECK(err == 0 || err == -ENOMEM); /* told of the one before */
}

static void memory_scenario(struct world *w)
{
	const uint32_t punch = UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_KEEP_SIZE;
	int err;

	write_again(w, 0, 0, 50);
	sync_again(w, 0);
	write_again(w, 0, 100, 3000);
	write_again(w, 0, 70000, 150000);
	sync_again(w, 0);
	RETRY(err, file_fallocate(w->file[0], punch, 80000, 60000));
	CHECK(err == 0);
	memset(w->model[0] + 80000, 0, 60000);
	write_again(w, 0, 90000, 20000);
	write_again(w, 1, 500000, 100);
	cut_again(w, 1, 3);
	cut_again(w, 1, 100000);
	sync_again(w, 1);
	cut_again(w, 0, 100001);
}

static void every_allocation_fails_once(void **state)
{
	static const struct recipe some[] = {
		{ "memory-4k", 16, "-t ext4 -b 4096 -N 64 -J size=4", 0, PLAIN },
		{ "memory-inline", 8, "-t ext4 -b 1024 -N 64 -O inline_data", 0, PLAIN },
		{ "memory-bigalloc", 16, "-t ext4 -b 1024 -N 64 -O bigalloc -C 16384", 0, PLAIN },
		{ "memory-ext3", 8, "-t ext3 -b 1024 -N 64", 0, PLAIN, .block_map = true },
	};

	(void)state;
	if (!have_tools())
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(some); i++) {
		uint64_t nth = 0, counted;

		make_image(some[i].options, some[i].mib);
		assert_int_equal(run("cp --sparse=always %s/image %s/fresh", scratch, scratch), 0);
		do {
			struct world w;

			nth++;
			assert_int_equal(
				run("cp --sparse=always %s/fresh %s/image", scratch, scratch), 0);
			begin_on_image(&w, &some[i]);
			(void)mem_fail_nth(nth);
			memory_scenario(&w);
			counted = mem_fail_nth(0);
			for (unsigned n = 0; n < FILES; n++)
				read_range(&w, n, 0, w.size[n] + 1);
			end(&w);
		} while (counted >= nth);
		assert_true(nth > 10);
	}
}

/* ---- where data ends up ---------------------------------------------------------------------- */

static void a_large_file_lies_together(void **state)
{
	static const struct recipe recipe = { "together", 128, "-t ext4 -b 4096", 0, PLAIN };
	static uint8_t buf[3 * MIB];
	struct uext4_extent extents[16];
	struct world w;
	size_t written, count;
	uint64_t at;

	(void)state;
	if (!have_tools())
		skip();
	begin(&w, &recipe);
	fill_random(buf, sizeof(buf));
	for (unsigned i = 0; i < 8; i++)
		CHECK(file_write(w.file[0], buf, sizeof(buf), (uint64_t)i * sizeof(buf), 0,
				 &written, &at) == 0);
	CHECK(file_extents(w.file[0], 0, UINT64_MAX, extents, 16, &count) == 0);
	assert_true(count <= 2);
	set_size(&w, 0, 0);
	end(&w);
}

static void a_file_past_2_gib_has_its_feature(void **state)
{
	static const struct recipe recipe = { "large", 32, "-t ext2 -b 4096 -O ^large_file", 0,
					      PLAIN };
	struct world w;
	size_t written;
	uint64_t at, size;

	(void)state;
	if (!have_tools())
		skip();
	begin(&w, &recipe);
	CHECK(file_write(w.file[0], "end", 3, UINT64_C(3) << 30, 0, &written, &at) == 0);
	CHECK(file_fsync(w.file[0], false, &w.seen[0]) == 0);
	CHECK(file_seek(w.file[0], 0, UEXT4_SEEK_DATA, &at) == 0);
	assert_int_equal(at, UINT64_C(3) << 30);
	reopen(&w);
	size = w.file[0]->size;
	assert_int_equal(size, (UINT64_C(3) << 30) + 3);
	close_world(&w);
	check_image("large");
	assert_int_equal(run("dumpe2fs -h %s/image 2>/dev/null | grep -q large_file", scratch), 0);
	for (unsigned i = 0; i < FILES; i++)
		free(w.model[i]);
}

/* What stat says of blocks does not change when they get their places; or when they never do. */
static void blocks_count_before_they_have_a_place(void **state)
{
	static const struct recipe some[] = {
		{ "blocks-4k", 32, "-t ext4 -b 4096", 400000, PLAIN },
		{ "blocks-1k", 16, "-t ext4 -b 1024", 400000, PLAIN },
		{ "blocks-64k", 256, "-t ext4 -b 65536 -O ^resize_inode", 400000, PLAIN },
		{ "blocks-bigalloc", 32, "-t ext4 -b 1024 -O bigalloc -C 16384", 400000, PLAIN },
	};

	(void)state;
	if (!have_tools())
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(some); i++) {
		struct uext4_stat before, after;
		struct world w;
		unsigned unit;

		begin(&w, &some[i]);
		unit = w.fs->geom.block_size << w.fs->geom.cluster_ratio_bits;
		do_write(&w, 0);
		set_size(&w, 0, 0);
		for (unsigned k = 0; k < 4; k++) { /* extents in the inode */
			static uint8_t buf[3000];
			uint64_t at;
			size_t written;

			CHECK(file_write(w.file[0], buf, sizeof(buf), k * 100000, 0, &written,
					 &at) == 0);
			w.size[0] = k * 100000 + sizeof(buf);
		}
		inode_stat(w.file[0], &before);
		assert_true(before.blocks >= 4 * unit / 512 / (unit > 50000 ? 2 : 1));
		CHECK(file_fsync(w.file[0], false, &w.seen[0]) == 0);
		inode_stat(w.file[0], &after);
		assert_int_equal(before.blocks, after.blocks);
		assert_int_equal(w.file[0]->delayed_blocks, 0);
		do_write(&w, 0);
		set_size(&w, 0, 0);
		inode_stat(w.file[0], &after);
		assert_int_equal(after.blocks, 0);
		end(&w);
	}
}

static uint32_t mode_of(struct world *w, unsigned n)
{
	struct uext4_stat st;

	inode_stat(w->file[n], &st);
	return st.mode & 07777;
}

static void give_privileges(struct world *w, unsigned n)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_MODE, .mode = 06755 };

	CHECK(attr_set(w->file[n], &attr) == 0);
	CHECK(attr_xattr_set(w->file[n], "security.capability", "01234567890123456789", 20, 0) ==
	      0);
	CHECK(xattr_has_capability(w->file[n]));
}

/* Capabilities go with every change of the contents, setuid and setgid with that of a user. */
static void privileges_go(void **state)
{
	static const struct recipe recipe = { "privileges", 32, "-t ext4", 0, PLAIN };
	struct world w;
	size_t written;
	uint64_t at;

	(void)state;
	if (!have_tools())
		skip();
	begin(&w, &recipe);
	give_privileges(&w, 0);
	CHECK(file_write(w.file[0], "root", 4, 0, 0, &written, &at) == 0);
	assert_false(xattr_has_capability(w.file[0]));
	assert_int_equal(mode_of(&w, 0), 06755);
	CHECK(file_write(w.file[0], "user", 4, 0, FILE_WRITE_KILL_PRIV, &written, &at) == 0);
	assert_int_equal(mode_of(&w, 0), 0755);
	give_privileges(&w, 1);
	CHECK(file_fallocate(w.file[1], 0, 0, 10) == 0);
	assert_false(xattr_has_capability(w.file[1]));
	assert_int_equal(mode_of(&w, 1), 06755);
	CHECK(file_fallocate(w.file[1], FILE_FALLOCATE_KILL_PRIV, 0, 10) == 0);
	assert_int_equal(mode_of(&w, 1), 0755);
	set_size(&w, 0, 0);
	set_size(&w, 1, 0);
	end(&w);
}

/* Sizes and offsets nobody can have. */
static void limits_are_refused(void **state)
{
	static const struct recipe recipe = { "limits", 32, "-t ext4 -b 1024", 0, PLAIN };
	uint64_t at, most;
	struct world w;
	size_t written;

	(void)state;
	if (!have_tools())
		skip();
	begin(&w, &recipe);
	most = file_size_max(w.file[0]);
	CHECK(file_write(w.file[0], "x", 1, most, 0, &written, &at) == -EFBIG);
	CHECK(file_write(w.file[0], "x", 1, UINT64_MAX, 0, &written, &at) == -EFBIG);
	CHECK(file_write(w.file[0], "xyz", 3, most - 2, 0, &written, &at) == 0);
	assert_int_equal(written, 2);
	CHECK(file_write(w.file[0], "x", 0, UINT64_MAX - 5, 0, &written, &at) == 0);
	assert_int_equal(written, 0);
	CHECK(file_fallocate(w.file[0], 0, most - 10, 11) == -EFBIG);
	CHECK(file_fallocate(w.file[0], 0, 0, 0) == -EINVAL);
	CHECK(file_fallocate(w.file[0], UEXT4_FALLOC_PUNCH_HOLE, 0, 1) == -EOPNOTSUPP);
	CHECK(file_fsync(w.file[0], false, &w.seen[0]) == 0);
	set_size(&w, 0, 0);
	end(&w);
}

/* ---- many threads ---------------------------------------------------------------------------- */

#define THREADS 5u
#define UNIT 512u
#define UNITS 1200u
#define STRIPE 3u /* units that one thread owns together, of file 1 */

/* shared */
struct crowd {
	struct world w;
	unsigned steps;
	_Atomic uint64_t next;
	_Atomic uint64_t version;
	uint64_t owned[UNITS]; /* file 1: what its owner wrote last; 0: nothing */
};

/* A unit says where it belongs, and which write it is from. */
static void stamp(uint8_t *to, uint64_t unit, uint64_t version)
{
	for (unsigned i = 0; i < UNIT; i += 16) {
		memcpy(to + i, &unit, 8);
		memcpy(to + i + 8, &version, 8);
	}
}

/* Zeros, or a stamp of this place.  Units are not written at once: halves of two may be seen. */
static uint64_t check_unit(const uint8_t *unit, uint64_t number)
{
	uint64_t last = 0;

	for (unsigned i = 0; i < UNIT; i += 16) {
		uint64_t place, version;

		memcpy(&place, unit + i, 8);
		memcpy(&version, unit + i + 8, 8);
		CHECK(version == 0 ? place == 0 : place == number);
		last = version;
	}
	return last;
}

static void crowd_read(struct crowd *c, unsigned n, uint64_t first, uint64_t count)
{
	uint8_t buf[16 * UNIT];
	size_t got;

	CHECK(file_read(c->w.file[n], buf, (size_t)count * UNIT, first * UNIT, &got) == 0);
	for (uint64_t i = 0; (i + 1) * UNIT <= got; i++)
		(void)check_unit(buf + i * UNIT, first + i);
}

static void crowd_write(struct crowd *c, unsigned n, uint64_t first, uint64_t count)
{
	uint8_t buf[16 * UNIT];
	uint64_t version = atomic_fetch_add(&c->version, 1) + 1, at;
	size_t written;

	for (uint64_t i = 0; i < count; i++)
		stamp(buf + i * UNIT, first + i, version);
	CHECK(file_write(c->w.file[n], buf, (size_t)count * UNIT, first * UNIT, 0, &written, &at) ==
	      0);
	CHECK(written == count * UNIT);
	for (uint64_t i = 0; n == 1 && i < count; i++)
		c->owned[first + i] = version;
}

static void crowd_step(struct crowd *c, uint64_t number, uint64_t *r)
{
	struct inode *ip = c->w.file[0];
	uint64_t what = (rnd_of(r) >> 16) % 100, first = (rnd_of(r) >> 16) % (UNITS - 16);
	uint64_t count = 1 + (rnd_of(r) >> 16) % 16, seen = 0;

	if (what < 30) {
		/* Its own part of file 1. */
		first = first / STRIPE / THREADS * STRIPE * THREADS + number * STRIPE;
		if (first + STRIPE <= UNITS)
			crowd_write(c, 1, first, 1 + count % STRIPE);
	} else if (what < 50) {
		crowd_write(c, 0, first, count);
	} else if (what < 75) {
		crowd_read(c, (unsigned)(count % 2), first, count);
	} else if (what < 80) {
		CHECK(fs_write_begin(c->w.fs) == 0);
		inode_lock(ip, INODE_CHILD);
		CHECK(file_set_size(ip, first * UNIT) == 0);
		inode_unlock(ip);
		fs_write_end(c->w.fs);
	} else if (what < 85 && !c->w.recipe->block_map) {
		CHECK(file_fallocate(ip, count % 2 ? UEXT4_FALLOC_KEEP_SIZE : 0, first * UNIT,
				     count * UNIT) == 0);
	} else if (what < 90) {
		CHECK(file_fallocate(ip, UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_KEEP_SIZE,
				     first * UNIT, count * UNIT) == 0);
	} else if (what < 93 && !c->w.recipe->block_map) {
		CHECK(file_fallocate(ip, UEXT4_FALLOC_ZERO_RANGE, first * UNIT, count * UNIT) == 0);
	} else if (what < 97) {
		CHECK(file_fsync(c->w.file[count % 2], count % 3 == 0, &seen) == 0);
	} else {
		CHECK(fs_sync(c->w.fs) == 0);
	}
}

static void *crowd_thread(void *arg)
{
	struct crowd *c = arg;
	uint64_t number = atomic_fetch_add(&c->next, 1), r = seed * 77 + number + 1;

	for (unsigned i = 0; i < c->steps; i++)
		crowd_step(c, number, &r);
	return NULL;
}

static void crowd_end(struct crowd *c)
{
	struct world *w = &c->w;

	/* Nothing that was written to file 1 was lost. */
	for (unsigned n = 0; n < FILES; n++) {
		size_t got;

		w->size[n] = w->file[n]->size;
		CHECK(file_read(w->file[n], w->model[n], MODEL_BYTES, 0, &got) == 0);
		CHECK(got == w->size[n]);
	}
	for (uint64_t i = 0; i < UNITS; i++) {
		if (c->owned[i] != 0)
			CHECK(check_unit(w->model[1] + i * UNIT, i) == c->owned[i]);
	}
	end(w);
}

static void many_threads(void **state)
{
	static struct crowd c;
	pthread_t threads[THREADS];

	if (!have_tools())
		skip();
	memset(&c, 0, sizeof(c));
	begin(&c.w, *state);
	c.steps = operations / 3;
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, crowd_thread, &c), 0);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	crowd_end(&c);
}

/* ---- all of it ------------------------------------------------------------------------------- */

#define TESTS_MAX 128u

static struct CMUnitTest tests[TESTS_MAX];
static char names[TESTS_MAX][64];
static size_t tests_count;

static void add_test(const char *kind, CMUnitTestFunction body, const struct recipe *recipe)
{
	const char *only = getenv("ONLY");

	snprintf(names[tests_count], sizeof(names[0]), "%s%s%s", kind, recipe ? " " : "",
		 recipe ? recipe->name : "");
	if (only && !strstr(names[tests_count], only))
		return;
	tests[tests_count] = (struct CMUnitTest){
		.name = names[tests_count],
		.test_func = body,
		.initial_state = (void *)(uintptr_t)recipe,
	};
	tests_count++;
}

int main(int argc, char **argv)
{
	const char *folder;
	int failed;

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0);
	if (seed == 0)
		seed = 1;
	if (argc > 2)
		operations = (unsigned)strtoul(argv[2], NULL, 0);
	printf("seed %" PRIu64 "\n", seed);
	/* Hundreds of small images: in memory, if there is a place for files there. */
	folder = getenv("TMPDIR");
	if (!folder)
		folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	snprintf(scratch, sizeof(scratch), "%s/ops_file.XXXXXX", folder);
	if (!mkdtemp(scratch))
		return 1;
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
		add_test("random operations", random_operations, &recipes[i]);
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
		if (!recipes[i].nodelalloc) /* there the write itself fails */
			add_test("failed writes", failed_writes_lose_nothing, &recipes[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
		add_test("many threads", many_threads, &recipes[i]);
	add_test("a full disk is told at the write", full_disk_is_told_at_the_write, NULL);
	add_test("every allocation fails once", every_allocation_fails_once, NULL);
	add_test("a large file lies together", a_large_file_lies_together, NULL);
	add_test("a file past 2 GiB has its feature", a_file_past_2_gib_has_its_feature, NULL);
	add_test("blocks count before they have a place", blocks_count_before_they_have_a_place,
		 NULL);
	add_test("privileges go", privileges_go, NULL);
	add_test("limits are refused", limits_are_refused, NULL);
	failed = _cmocka_run_group_tests("ops_file", tests, tests_count, NULL, NULL);
	(void)run("rm -rf %s", scratch);
	return failed;
}
