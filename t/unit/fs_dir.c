/* SPDX-License-Identifier: MIT */
/*
 * Directories as they change: on images of many kinds, made by mke2fs, against a plain table of
 * names; e2fsck and our own reader judge what is left.
 *
 *  - Names are added, removed and replaced at random: after each stage every name is found, every
 *    listing gives each entry once, and e2fsck finds nothing.
 *  - Directories grow through all their kinds: inside the inode, one block, a tree of two levels
 *    and, with large_dir, of three; without it the full tree says ENOSPC.
 *  - Names that share a hash fill several leaves.
 *  - Listings go on while the directory changes: what is there from the first to the last call
 *    appears exactly once.
 *  - No space or quota, at each block, and no memory, at each allocation: nothing has changed.
 *
 * Usage: fs_dir [SEED [ENTRIES]]
 */
#include "base/base.h"
#include "base/diag.h"
#include "base/mem.h"
#include "fs/balloc.h"
#include "fs/dir.h"
#include "fs/fs_priv.h"
#include "fs/quota_priv.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static uint64_t seed = 1;
static unsigned entries_many = 20000;

static uint64_t rnd(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * UINT64_C(2685821657736338717);
}

static uint32_t below(uint32_t n)
{
	return (uint32_t)(rnd() % n);
}

/* ---- images ---------------------------------------------------------------------------------- */

struct kind {
	const char *name;
	const char *mke2fs;
	uint32_t kib;
	const char *then; /* debugfs requests, or NULL */
};

#define SEED_OPTION "-E hash_seed=0d1c7d1c-5ee5-4b1f-9d2a-0123456789ab"

static const struct kind kinds[] = {
	{ "4k", "-t ext4 -b 4096", 16384, NULL },
	{ "1k", "-t ext4 -b 1024", 16384, NULL },
	{ "64k", "-t ext4 -b 65536 -O ^resize_inode", 65536, NULL },
	{ "64k-nocsum", "-t ext4 -b 65536 -O ^resize_inode,^metadata_csum,^dir_index", 65536,
	  NULL },
	{ "nocsum", "-t ext4 -b 1024 -O ^metadata_csum", 16384, NULL },
	{ "linear", "-t ext4 -b 4096 -O ^dir_index", 16384, NULL },
	{ "nofiletype", "-t ext4 -b 1024 -O ^filetype", 16384, NULL },
	{ "nojournal", "-t ext4 -b 1024 -O ^has_journal", 16384, NULL },
	{ "ext2", "-t ext2 -b 1024", 16384, NULL },
	{ "ext3", "-t ext3 -b 4096", 16384, NULL },
	{ "128", "-t ext4 -b 1024 -I 128", 16384, NULL },
	{ "large_dir", "-t ext4 -b 1024 -O large_dir", 32768, NULL },
	{ "inline256", "-t ext4 -b 1024 -I 256 -O inline_data", 16384, NULL },
	{ "inline1k", "-t ext4 -b 4096 -I 1024 -O inline_data", 32768, NULL },
	{ "inline-linear", "-t ext4 -b 1024 -I 512 -O inline_data,^dir_index", 16384, NULL },
	{ "bigalloc", "-t ext4 -b 1024 -O bigalloc -C 8192", 32768, NULL },
	{ "tea", "-t ext4 -b 1024", 16384, "ssv def_hash_version tea\n" },
	{ "legacy", "-t ext4 -b 1024", 16384, "ssv def_hash_version legacy\n" },
	{ "unsigned", "-t ext4 -b 1024", 16384, "ssv flags 2\n" },
	{ "tea-unsigned", "-t ext4 -b 1024", 16384, "ssv def_hash_version tea\nssv flags 2\n" },
	{ "legacy-unsigned", "-t ext4 -b 1024", 16384,
	  "ssv def_hash_version legacy\nssv flags 2\n" },
};

#define FILES 4u
#define FIRST_FILE "f0"

static char live_dir[64]; /* of the image that there is, or empty */

struct image {
	const struct kind *kind;
	char dir[64];
	char path[96];
	struct uext4_fs *fs;
	struct inode *ip;	   /* the directory */
	struct inode *file[FILES]; /* what its entries name */
};

static int run(const char *fmt, ...) PRINTF(1, 2);
static int run(const char *fmt, ...)
{
	char command[1024];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	return system(command);
}

static const struct kind *kind_named(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strcmp(kinds[i].name, name) == 0)
			return &kinds[i];
	fail_msg("no kind %s", name);
	return NULL;
}

static int no_fill(struct mapping *m, struct page *const *pages, size_t count)
{
	return -EIO;
}

static const struct mapping_ops no_files = { .fill = no_fill };

static void ok(int err)
{
	if (err < 0)
		print_error("error %d: %s\n", err, diag_text());
	assert_int_equal(err, 0);
}

static uint32_t find_ino(struct uext4_fs *fs, const char *name)
{
	struct inode *root;
	uint32_t ino = 0;

	ok(inode_get(fs, EXT4_ROOT_INO, &root));
	ok(dir_find(root, name, strlen(name), &ino));
	inode_put(root);
	return ino;
}

static void image_open(struct image *im, bool write)
{
	const struct fs_options options = { .cache_bytes = 8 << 20, .write = write };
	struct dev *dev;

	ok(dev_file_open(im->path, 0, 0, write ? DEV_FILE_WRITE : 0, &dev));
	ok(fs_open(dev, &options, &no_files, &im->fs));
	ok(inode_get(im->fs, find_ino(im->fs, "d"), &im->ip));
	for (unsigned i = 0; i < FILES; i++) {
		char name[8];

		(void)snprintf(name, sizeof(name), "f%u", i);
		ok(inode_get(im->fs, find_ino(im->fs, name), &im->file[i]));
	}
}

static void image_close(struct image *im)
{
	for (unsigned i = 0; i < FILES; i++)
		inode_put(im->file[i]);
	inode_put(im->ip);
	ok(inode_reap(im->fs));
	ok(fs_close(im->fs));
	im->fs = NULL;
}

/* An image with the directory "d" and files, made by others; open for writing. */
static void image_make(struct image *im, const struct kind *kind)
{
	char requests[96];
	FILE *f;

	*im = (struct image){ .kind = kind };
	(void)snprintf(im->dir, sizeof(im->dir), "/tmp/uext4-dir-XXXXXX");
	assert_non_null(mkdtemp(im->dir));
	(void)strcpy(live_dir, im->dir);
	(void)snprintf(im->path, sizeof(im->path), "%s/image", im->dir);
	(void)snprintf(requests, sizeof(requests), "%s/requests", im->dir);
	if (run("mke2fs -q -F -N 512 -m 0 %s %s %s %uk >/dev/null 2>%s/log", SEED_OPTION,
		kind->mke2fs, im->path, kind->kib, im->dir) != 0) {
		(void)run("cat %s/log; rm -r %s", im->dir, im->dir);
		fail_msg("mke2fs does not make %s", kind->name);
	}
	f = fopen(requests, "w");
	assert_non_null(f);
	(void)fputs(kind->then ? kind->then : "", f);
	(void)fputs("mkdir d\n", f);
	for (unsigned i = 0; i < FILES; i++)
		(void)fprintf(f, "write /dev/null f%u\n", i);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(run("debugfs -w -f %s %s >/dev/null 2>&1", requests, im->path), 0);
	/* debugfs charges nobody for what it makes. */
	if (strstr(kind->mke2fs, "quota"))
		(void)run("e2fsck -fy %s >/dev/null 2>&1", im->path);
	image_open(im, true);
}

static void image_free(struct image *im)
{
	if (im->fs)
		image_close(im);
	(void)run("rm -r %s", im->dir);
	live_dir[0] = '\0';
}

/* After a test that failed in the middle. */
static int clean(void **state)
{
	if (live_dir[0] != '\0')
		(void)run("rm -r %s", live_dir);
	live_dir[0] = '\0';
	return 0;
}

static void need_mke2fs(void)
{
	if (run("command -v mke2fs debugfs e2fsck >/dev/null 2>&1") != 0) {
		print_message("no e2fsprogs\n");
		skip();
	}
}

/* ---- names ----------------------------------------------------------------------------------- */

/*
 * The names of a test are numbers that are told apart by their first six digits.  How they go on
 * depends on the number alone.
 */
#define NAMES_MAX (1u << 18)

enum names { NAMES_MIXED, NAMES_SHORT, NAMES_LONG, NAMES_COLLIDING };

static enum names names;
static char colliding[1024][256];

static size_t name_of(uint32_t number, char *ret)
{
	uint32_t kind = number * 2654435761u >> 16;
	size_t len = 6;

	if (names == NAMES_COLLIDING) {
		(void)strcpy(ret, colliding[number]);
		return strlen(ret);
	}
	(void)snprintf(ret, 256, "%06x", number);
	if (names == NAMES_LONG || (names == NAMES_MIXED && kind % 16 == 0))
		len = 255;
	else if (names == NAMES_MIXED)
		len += kind % 40;
	for (size_t i = 6; i < len; i++)
		ret[i] = (char)('a' + (number + i * kind) % 26);
	/* Not ASCII: the signedness of hashes matters. */
	if (kind % 5 == 0 && len > 8)
		ret[7] = (char)0xe9;
	ret[len] = '\0';
	return len;
}

struct model {
	uint32_t count;		     /* present */
	uint32_t ino[NAMES_MAX];     /* 0: not there */
	uint32_t changed[NAMES_MAX]; /* when it last came or went */
	uint32_t now;
};

static struct model model;

static void model_reset(void)
{
	memset(&model, 0, sizeof(model));
}

static uint8_t type_in(const struct image *im)
{
	return geom_has_incompat(&im->fs->geom, EXT4_FEATURE_INCOMPAT_FILETYPE) ? UEXT4_FT_REG
										: UEXT4_FT_UNKNOWN;
}

enum action { ADD, REMOVE, REPLACE };

static uint64_t fail_nth; /* allocation of memory in the next change; 0: none */

/* One change in a handle of its own.  0, or -ENOSPC: then nothing may have changed. */
static int try(struct image *im, enum action action, uint32_t number)
{
	struct inode *file = im->file[below(FILES)];
	char name[256];
	size_t len = name_of(number, name);
	struct handle *h;
	uint32_t ino;
	int err;

	inode_lock(im->ip, INODE_PARENT);
	ok(quota_load(im->ip));
	ok(handle_start(im->fs->log, dir_credits(im->ip), &h));
	err = dir_find_locked(im->ip, name, len, &ino);
	assert_int_equal(err, model.ino[number] ? 0 : -ENOENT);
	if (err == 0)
		assert_int_equal(ino, model.ino[number]);
	(void)mem_fail_nth(fail_nth);
	if (action == ADD)
		err = dir_add(h, im->ip, name, len, file->ino, UEXT4_FT_REG);
	else if (action == REMOVE)
		err = dir_remove(h, im->ip, name, len);
	else
		err = dir_replace(h, im->ip, name, len, file->ino, UEXT4_FT_REG);
	(void)mem_fail_nth(0);
	ok(handle_stop(h));
	inode_unlock(im->ip);
	if (err < 0)
		return err;
	model.now++;
	if (action != REPLACE)
		model.changed[number] = model.now;
	model.count += action == ADD;
	model.count -= action == REMOVE;
	model.ino[number] = action == REMOVE ? 0 : file->ino;
	return 0;
}

static void change(struct image *im, enum action action, uint32_t number)
{
	int err = try(im, action, number);

	if (err < 0)
		print_error("%s: %d of name %06x of %u: %d, %s\n", im->kind->name, action, number,
			    model.count, err, diag_text());
	assert_int_equal(err, 0);
}

/* @adds of 16 are additions while there is something to choose. */
static void churn(struct image *im, uint32_t numbers, uint32_t rounds, uint32_t adds)
{
	for (uint32_t i = 0; i < rounds; i++) {
		uint32_t number = below(numbers);

		if (model.ino[number] == 0) {
			if (below(16) < adds)
				change(im, ADD, number);
		} else if (below(16) >= adds) {
			change(im, below(8) == 0 ? REPLACE : REMOVE, number);
		}
	}
}

/* ---- judging --------------------------------------------------------------------------------- */

static void check_entry(const struct image *im, const struct uext4_dirent *e)
{
	uint32_t number = UINT32_MAX;
	char name[256];
	size_t len;

	assert_int_equal(sscanf(e->name, "%6x", &number), 1);
	assert_true(number < NAMES_MAX);
	len = name_of(number, name);
	assert_int_equal(e->name_len, len);
	assert_memory_equal(e->name, name, len);
	assert_int_equal(e->type, type_in(im));
}

static uint32_t number_of(const struct uext4_dirent *e)
{
	return (uint32_t)strtoul((char[7]){ e->name[0], e->name[1], e->name[2], e->name[3],
					    e->name[4], e->name[5] },
				 NULL, 16);
}

static void check_listing(struct image *im)
{
	uint8_t *seen = calloc(NAMES_MAX, 1);
	struct uext4_dirent entries[50];
	uint32_t total = 0;
	uint64_t cookie = 0;
	struct dir_cursor *dc;
	size_t got;

	assert_non_null(seen);
	ok(dir_cursor_create(im->ip, &dc));
	do {
		ok(dir_cursor_read(dc, cookie, entries, 1 + below(50), &got));
		for (size_t i = 0; i < got; i++) {
			assert_true(entries[i].cookie > cookie);
			cookie = entries[i].cookie;
			if (cookie <= 2)
				continue;
			check_entry(im, &entries[i]);
			assert_int_equal(seen[number_of(&entries[i])]++, 0);
			assert_int_equal(entries[i].ino, model.ino[number_of(&entries[i])]);
			total++;
		}
	} while (got > 0);
	dir_cursor_destroy(dc);
	free(seen);
	assert_int_equal(total, model.count);
}

static void check_names(struct image *im, uint32_t numbers)
{
	for (uint32_t i = 0; i < 500; i++) {
		uint32_t number = below(numbers), ino = 0;
		char name[256];
		size_t len = name_of(number, name);
		int err = dir_find(im->ip, name, len, &ino);

		assert_int_equal(err, model.ino[number] ? 0 : -ENOENT);
		assert_int_equal(ino, model.ino[number]);
	}
}

/* The links of the files become what the entries say, so that e2fsck has nothing to say. */
static void store_links(struct image *im)
{
	uint32_t links[FILES] = { 1, 1, 1, 1 };

	for (uint32_t i = 0; i < NAMES_MAX; i++)
		for (unsigned f = 0; f < FILES; f++)
			links[f] += model.ino[i] == im->file[f]->ino;
	for (unsigned f = 0; f < FILES; f++) {
		struct handle *h;

		inode_lock(im->file[f], INODE_CHILD);
		ok(handle_start(im->fs->log, INODE_STORE_CREDITS, &h));
		inode_set_links(im->file[f], links[f]);
		ok(inode_store(h, im->file[f]));
		ok(handle_stop(h));
		inode_unlock(im->file[f]);
	}
}

static void fsck(struct image *im)
{
	if (run("e2fsck -fn %s >%s/log 2>&1", im->path, im->dir) == 0)
		return;
	(void)run("cat %s/log", im->dir);
	fail_msg("%s: e2fsck finds something", im->kind->name);
}

/* What debugfs lists of the directory, as far as names are plain, is what the table says. */
static void check_debugfs(struct image *im)
{
	uint32_t total = 0;
	char line[512];
	FILE *f;

	if (names == NAMES_COLLIDING)
		return;
	assert_int_equal(run("debugfs -R 'ls -p d' %s >%s/ls 2>/dev/null", im->path, im->dir), 0);
	(void)snprintf(line, sizeof(line), "%s/ls", im->dir);
	f = fopen(line, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		uint32_t ino, mode, uid, gid, number;

		/* /INO/MODE/UID/GID/NAME/SIZE/ */
		if (sscanf(line, "/%u/%o/%u/%u/%6x", &ino, &mode, &uid, &gid, &number) != 5 ||
		    ino == 0)
			continue;
		assert_true(number < NAMES_MAX);
		assert_int_equal(model.ino[number], ino);
		total++;
	}
	assert_int_equal(fclose(f), 0);
	assert_int_equal(total, model.count);
}

/* Everybody's view of the image, which is closed and opened again for that. */
static void judge(struct image *im, uint32_t numbers)
{
	check_listing(im);
	check_names(im, numbers);
	store_links(im);
	image_close(im);
	fsck(im);
	check_debugfs(im);
	image_open(im, false);
	check_listing(im);
	check_names(im, numbers);
	image_close(im);
	image_open(im, true);
	check_listing(im);
}

/* ---- the kinds ------------------------------------------------------------------------------- */

static void test_churn(void **state)
{
	need_mke2fs();
	print_message("seed %" PRIu64 "\n", seed);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct image im;

		names = NAMES_MIXED;
		model_reset();
		image_make(&im, &kinds[i]);
		assert_int_equal(im.ip->state == INODE_INLINE,
				 strncmp(kinds[i].name, "inline", 6) == 0);
		churn(&im, 8, 100, 8);
		judge(&im, 8);
		churn(&im, 40, 300, 10);
		judge(&im, 40);
		churn(&im, 2000, 4000, 14);
		judge(&im, 2000);
		assert_int_equal(im.ip->state, INODE_BLOCKS);
		churn(&im, 2000, 8000, 4);
		judge(&im, 2000);
		churn(&im, 2000, 4000, 12);
		judge(&im, 2000);
		image_free(&im);
	}
}

/* Depth of the directory's tree; 0: it has none. */
static uint32_t levels(struct image *im)
{
	struct htree t;
	bool known;
	uint32_t n;

	if (!dir_is_indexed(im->ip))
		return 0;
	ok(htree_open(im->ip, &t, &known));
	assert_true(known);
	n = t.levels;
	htree_close(&t);
	return n;
}

static void test_large(void **state)
{
	static const struct {
		const char *kind;
		enum names names;
		uint32_t levels;
	} cases[] = {
		{ "4k", NAMES_SHORT, 2 },	{ "1k", NAMES_SHORT, 2 },
		{ "linear", NAMES_SHORT, 0 },	{ "64k", NAMES_SHORT, 1 },
		{ "bigalloc", NAMES_SHORT, 2 },
	};

	need_mke2fs();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		bool linear = cases[i].levels == 0;
		uint32_t count = linear ? 3000 : entries_many;
		struct image im;

		names = cases[i].names;
		model_reset();
		image_make(&im, kind_named(cases[i].kind));
		for (uint32_t n = 0; n < count; n++)
			change(&im, ADD, n);
		if (count >= 100000)
			assert_int_equal(levels(&im), cases[i].levels);
		judge(&im, count);
		for (uint32_t n = 0; n < count; n += 2)
			change(&im, REMOVE, n);
		judge(&im, count);
		for (uint32_t n = 0; n < count; n += 4)
			change(&im, ADD, n);
		judge(&im, count);
		image_free(&im);
	}
}

/*
 * Long names in blocks of 1 KiB, three a leaf: the tree is full with about 120 * 123 leaves, which
 * are about half full.
 */
static void test_depth(void **state)
{
	struct image im;
	uint32_t n = 0;
	int err = 0;

	need_mke2fs();
	names = NAMES_LONG;
	model_reset();
	image_make(&im, kind_named("1k"));
	while (err == 0 && n < NAMES_MAX) {
		err = try(&im, ADD, n);
		n += err == 0;
	}
	assert_int_equal(err, -ENOSPC);
	image_free(&im);

	model_reset();
	image_make(&im, &(struct kind){ "deep", "-t ext4 -b 1024 -O large_dir", 98304, NULL });
	for (n = 0; n < 60000; n++)
		change(&im, ADD, n);
	assert_int_equal(levels(&im), 3);
	judge(&im, n);
	churn(&im, n, 30000, 4);
	judge(&im, n);
	image_free(&im);

	model_reset();
	image_make(&im, &(struct kind){ "flat", "-t ext4 -b 1024", 98304, NULL });
	for (n = 0, err = 0; err == 0; n += err == 0)
		err = try(&im, ADD, n);
	assert_int_equal(err, -ENOSPC);
	assert_int_equal(levels(&im), 2);
	assert_true(n > 10000);
	judge(&im, n);
	image_free(&im);
}

/* ---- names of one hash ----------------------------------------------------------------------- */

/*
 * The legacy hash can be steered: of the last two characters the first is tried, the second
 * follows from the hash that is wanted.
 */
static void make_colliding(uint32_t count, size_t len, uint32_t wanted)
{
	const uint32_t factor = 7152373;
	uint32_t inverse = factor, made = 0;

	for (unsigned i = 0; i < 5; i++)
		inverse *= 2 - factor * inverse;
	for (uint64_t salt = 0; made < count; salt++) {
		uint32_t h0 = 0x12A3FE2D, h1 = 0x37ABE8F9;
		char *name = colliding[made];

		(void)snprintf(name, 256, "%06x%012" PRIx64, made, salt);
		for (size_t i = 18; i < len - 2; i++)
			name[i] = 'x';
		name[len] = '\0';
		for (size_t i = 0; i < len - 2; i++) {
			uint32_t h = h1 + (h0 ^ (uint8_t)name[i] * factor);

			if (h & 0x80000000u)
				h -= 0x7fffffff;
			h1 = h0;
			h0 = h;
		}
		for (uint32_t c = 1; c < 256; c++) {
			uint32_t h = h1 + (h0 ^ c * factor), last;

			if (c == '/')
				continue;
			if (h & 0x80000000u)
				h -= 0x7fffffff;
			/* wanted = h0 + (h ^ last * factor), or 0x7fffffff more */
			for (unsigned carry = 0; carry < 2; carry++) {
				last = ((wanted + carry * 0x7fffffffu - h0) ^ h) * inverse;
				if (last == 0 || last > 255 || last == '/')
					continue;
				if ((h0 + (h ^ last * factor)) >> 31 != carry)
					continue;
				name[len - 2] = (char)c;
				name[len - 1] = (char)last;
				made++;
				c = 256;
				break;
			}
		}
	}
}

static void test_collisions(void **state)
{
	struct dir_hash hash, first;
	struct image im;

	need_mke2fs();
	names = NAMES_COLLIDING;
	make_colliding(40, 100, 0x12345678);
	for (uint32_t i = 0; i < 40; i++) {
		ok(dir_hash(DX_HASH_LEGACY_UNSIGNED, (uint32_t[4]){ 0 }, colliding[i], 100, &hash));
		if (i == 0)
			first = hash;
		assert_int_equal(hash.major, first.major);
	}
	model_reset();
	image_make(&im, kind_named("legacy-unsigned"));
	for (uint32_t i = 0; i < 40; i++) {
		change(&im, ADD, i);
		check_listing(&im);
	}
	assert_int_equal(levels(&im), 1);
	judge(&im, 40);
	churn(&im, 40, 2000, 8);
	judge(&im, 40);
	image_free(&im);
}

/* ---- listings while the directory changes ---------------------------------------------------- */

#define LISTINGS 4u

struct listing {
	struct dir_cursor *dc;
	uint64_t cookie;
	uint32_t began;
	uint16_t *seen;
};

static void listing_begin(struct image *im, struct listing *l)
{
	if (!l->dc)
		ok(dir_cursor_create(im->ip, &l->dc));
	l->cookie = 0;
	l->began = model.now;
	memset(l->seen, 0, NAMES_MAX * sizeof(l->seen[0]));
}

/* What has been there since the listing began was seen once; what came and went, at will. */
static void listing_end(const struct listing *l, uint32_t numbers)
{
	for (uint32_t i = 0; i < numbers; i++) {
		if (model.changed[i] > l->began)
			continue;
		if (l->seen[i] != (model.ino[i] != 0))
			print_error("name %06x: seen %u times\n", i, l->seen[i]);
		assert_int_equal(l->seen[i], model.ino[i] != 0);
	}
}

static void listing_step(struct image *im, struct listing *l, uint32_t numbers)
{
	struct uext4_dirent entries[20];
	size_t got;

	ok(dir_cursor_read(l->dc, l->cookie, entries, 1 + below(20), &got));
	for (size_t i = 0; i < got; i++) {
		assert_true(entries[i].cookie > l->cookie);
		l->cookie = entries[i].cookie;
		if (l->cookie <= 2)
			continue;
		check_entry(im, &entries[i]);
		l->seen[number_of(&entries[i])]++;
	}
	if (got > 0)
		return;
	listing_end(l, numbers);
	if (below(2)) {
		dir_cursor_destroy(l->dc);
		l->dc = NULL;
	}
	listing_begin(im, l);
}

static void test_listings(void **state)
{
	static const char *const some[] = { "1k",	"linear", "inline256", "inline-linear",
					    "inline1k", "legacy", "large_dir", "64k" };

	need_mke2fs();
	for (size_t i = 0; i < ARRAY_SIZE(some); i++) {
		struct listing listings[LISTINGS] = { 0 };
		struct image im;

		names = NAMES_MIXED;
		model_reset();
		image_make(&im, kind_named(some[i]));
		for (unsigned l = 0; l < LISTINGS; l++) {
			listings[l].seen = calloc(NAMES_MAX, sizeof(uint16_t));
			listing_begin(&im, &listings[l]);
		}
		for (uint32_t round = 0; round < 6000; round++) {
			uint32_t numbers = 5 + round / 5;

			churn(&im, numbers, below(12), round % 1000 < 700 ? 13 : 5);
			listing_step(&im, &listings[below(LISTINGS)], 1300);
		}
		for (unsigned l = 0; l < LISTINGS; l++) {
			dir_cursor_destroy(listings[l].dc);
			free(listings[l].seen);
		}
		judge(&im, 1300);
		image_free(&im);
	}
}

/* ---- no space, no memory --------------------------------------------------------------------- */

#define HOGS 4096u

struct hog {
	struct blk_run runs[HOGS];
	size_t count;
};

/* Takes all that is free. */
static void hog_take(struct image *im, struct hog *hog)
{
	uint32_t count = 1u << 14;

	hog->count = 0;
	while (count > 0) {
		const struct balloc_request rq = { .count = count };
		struct blk_run got;

		if (balloc_alloc(im->fs, &rq, &got) < 0)
			break;
		assert_true(hog->count < HOGS);
		hog->runs[hog->count++] = got;
	}
}

static void hog_give(struct image *im, struct hog *hog, uint64_t blocks)
{
	const uint32_t ratio = im->fs->geom.cluster_ratio;

	while (blocks > 0 && hog->count > 0) {
		struct blk_run *last = &hog->runs[hog->count - 1];
		struct blk_run one = { .start = last->start + last->count - ratio, .count = ratio };

		balloc_cancel(im->fs, &one, false);
		last->count -= ratio;
		if (last->count == 0)
			hog->count--;
		blocks--;
	}
}

/* Adds until there is no space; then gives back one block; and so on. */
static void test_enospc(void **state)
{
	static const char *const some[] = { "1k", "linear", "inline256", "inline-linear", "ext2" };
	static struct hog hog;

	need_mke2fs();
	for (size_t i = 0; i < ARRAY_SIZE(some); i++) {
		uint32_t n = 0, refused = 0;
		struct image im;

		names = NAMES_MIXED;
		model_reset();
		image_make(&im, kind_named(some[i]));
		hog_take(&im, &hog);
		while (refused < 40 && hog.count > 0) {
			int err = try(&im, ADD, n);

			if (err == 0) {
				n++;
				continue;
			}
			assert_int_equal(err, -ENOSPC);
			check_listing(&im);
			check_names(&im, n + 1);
			refused++;
			hog_give(&im, &hog, 1);
		}
		assert_true(n > 40);
		hog_give(&im, &hog, UINT64_MAX);
		judge(&im, n);
		image_free(&im);
	}
}

/* The owner may have no more blocks: as with no space; then he may. */
static void test_edquot(void **state)
{
	static const char *const some[] = { "-t ext4 -b 1024 -O quota",
					    "-t ext4 -b 1024 -O quota,^dir_index",
					    "-t ext4 -b 1024 -I 512 -O quota,inline_data" };

	need_mke2fs();
	for (size_t i = 0; i < ARRAY_SIZE(some); i++) {
		uint32_t n = 0, refused = 0;
		struct dquot *dq;
		struct image im;

		names = NAMES_MIXED;
		model_reset();
		image_make(&im, &(struct kind){ "quota", some[i], 16384, NULL });
		ok(quota_load(im.ip));
		dq = xarray_find(&im.fs->quota->dquots[0], 0);
		assert_non_null(dq);
		dq->bytes.hard = dq->bytes.used;
		while (refused < 20) {
			enum inode_state before = im.ip->state;
			int err = try(&im, ADD, n);

			if (err == 0) {
				n++;
				continue;
			}
			assert_int_equal(err, -EDQUOT);
			assert_int_equal(im.ip->state, before);
			assert_true(dq->bytes.used >= dq->bytes.hard);
			check_listing(&im);
			check_names(&im, n + 1);
			refused++;
			/* Blocks of the map are charged whatever the limits say. */
			dq->bytes.hard = dq->bytes.used + 1024;
		}
		assert_true(n > 40);
		dq->bytes.hard = 0;
		judge(&im, n);
		image_free(&im);
	}
}

static void test_enomem(void **state)
{
	static const char *const some[] = { "1k", "linear", "inline256" };

	uint32_t failed = 0;

	need_mke2fs();
	for (size_t i = 0; i < ARRAY_SIZE(some); i++) {
		struct image im;

		names = NAMES_LONG;
		model_reset();
		image_make(&im, kind_named(some[i]));
		for (uint32_t n = 0; n < 60; n++) {
			for (uint64_t nth = 1;; nth++) {
				int err;

				fail_nth = nth;
				err = try(&im, ADD, n);
				fail_nth = 0;
				if (err == 0)
					break;
				assert_int_equal(err, -ENOMEM);
				failed++;
				check_names(&im, n + 1);
			}
		}
		judge(&im, 60);
		image_free(&im);
	}
	assert_true(failed > 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_churn, clean),
		cmocka_unit_test_teardown(test_large, clean),
		cmocka_unit_test_teardown(test_depth, clean),
		cmocka_unit_test_teardown(test_collisions, clean),
		cmocka_unit_test_teardown(test_listings, clean),
		cmocka_unit_test_teardown(test_enospc, clean),
		cmocka_unit_test_teardown(test_edquot, clean),
		cmocka_unit_test_teardown(test_enomem, clean),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	if (argc > 2)
		entries_many = (unsigned)strtoul(argv[2], NULL, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
