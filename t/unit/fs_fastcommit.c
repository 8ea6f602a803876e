/* SPDX-License-Identifier: MIT */
/*
 * fs/fastcommit_write.c: fast commits, made here by hand, that are replayed into an image made by
 * mke2fs.
 *
 *  - Every kind of tag: what is there afterwards is what a reader was shown before, and e2fsck has
 *    nothing to correct.
 *  - Power cuts at any write of the replay, also with writes lost that no flush covered: the next
 *    one comes to the same end.
 *  - Tags at random, most of them wrong: they are done or refused; if they are refused the image is
 *    what it was, but for its superblock and the journal's.
 *  - More than a transaction can hold is refused.
 *  - The Nth write, or the Nth allocation of memory, fails: the next replay comes to the same end.
 *
 * Usage: fs_fastcommit [SEED [ROUNDS]]
 */
#include "dev/record.h"
#include "fs/fs_priv.h"
#include "fs/map.h"
#include "journal/journal_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "base/sum.h"
#include "disk/seal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#undef fail /* ours is meant */

#define BS 1024u
#define MIB 8u
#define IMAGE_BYTES ((size_t)MIB << 20)
#define TID 77u
#define FREE_BLK 6000u /* from here on nothing is in use */
#define FREE_INO 40u
/* The log before it is replayed: where it begins, and the block that is in it. */
#define OLD_START 10u
#define OLD_BLK (FREE_BLK + 500)

static uint64_t seed = 1;
static unsigned rounds = 300;
static char scratch[256];

static uint64_t rnd(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * UINT64_C(2685821657736338717);
}

static uint32_t rnd_below(uint64_t end)
{
	return (uint32_t)((rnd() >> 16) % end);
}

static int run(const char *fmt, ...) PRINTF(1, 2);
static int run(const char *fmt, ...)
{
	char command[2048];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	status = system(command);
	return status == -1 || !WIFEXITED(status) ? -1 : WEXITSTATUS(status);
}

static int make_scratch(void **state)
{
	snprintf(scratch, sizeof(scratch), "%s/uext4-fc-XXXXXX",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(scratch))
		return -1;
	return run("cd %s && mkdir -p tree/d tree/e tree/full tree/gone && "
		   "seq 2000 >tree/d/a && seq 100 >tree/d/b && seq 300 >tree/c && "
		   "ln -s c tree/link && ln tree/d/b tree/d/b2 && "
		   "for i in `seq 9`; do echo $i >tree/full/file$i; done",
		   scratch);
}

static int remove_scratch(void **state)
{
	return run("rm -rf %s", scratch);
}

/* ---- images ---------------------------------------------------------------------------------- */

struct image {
	uint8_t *bytes;
};

static void image_make(struct image *im, const char *options, unsigned fast_kib)
{
	char path[300];
	FILE *f;

	snprintf(path, sizeof(path), "%s/image", scratch);
	if (run("mke2fs -Fq -t ext4 -b 1024 -O fast_commit%s -J size=1,fast_commit_size=%u "
		"-N 128 -d %s/tree %s %uM >/dev/null 2>&1",
		options, fast_kib, scratch, path, MIB) != 0)
		skip();
	/* mke2fs -d does not count what it writes in quota files. */
	run("e2fsck -fy %s >/dev/null 2>&1", path);
	im->bytes = malloc(IMAGE_BYTES);
	assert_non_null(im->bytes);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_int_equal(fread(im->bytes, 1, IMAGE_BYTES, f), IMAGE_BYTES);
	fclose(f);
	unlink(path);
}

static void fsck(const uint8_t *bytes)
{
	char path[300];
	FILE *f;
	int status;

	snprintf(path, sizeof(path), "%s/fsck", scratch);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, IMAGE_BYTES, f), IMAGE_BYTES);
	fclose(f);
	status = run("e2fsck -fn %s >%s.out 2>&1", path, path);
	if (status != 0)
		run("cat %s.out >&2", path);
	unlink(path);
	assert_int_equal(status, 0);
}

static int no_fill(struct mapping *m, struct page *const *pages, size_t count)
{
	return -EIO;
}

static const struct mapping_ops no_files = { .fill = no_fill };

static int open_on(struct dev *dev, bool write, struct uext4_fs **ret_fs)
{
	const struct fs_options options = { .cache_bytes = 4 << 20, .write = write };

	return fs_open(dev, &options, &no_files, ret_fs);
}

static struct uext4_fs *open_bytes(uint8_t *bytes, bool write)
{
	struct uext4_fs *fs = NULL;
	struct dev *ram;
	int err;

	assert_int_equal(dev_ram_create(bytes, IMAGE_BYTES, &ram), 0);
	err = open_on(ram, write, &fs);
	if (err < 0)
		print_error("%s\n", diag_text());
	assert_int_equal(err, 0);
	return fs;
}

/* Replays what is pending; the error of that, with the image closed. */
static int replay(uint8_t *bytes)
{
	struct uext4_fs *fs;
	struct dev *ram;
	int err;

	assert_int_equal(dev_ram_create(bytes, IMAGE_BYTES, &ram), 0);
	err = open_on(ram, true, &fs);
	return err < 0 ? err : fs_close(fs);
}

/* ---- tags ------------------------------------------------------------------------------------ */

struct row {
	uint8_t data[600000];
	size_t bytes;
};

static void add_tag(struct row *r, uint32_t tag, const void *value, size_t bytes)
{
	const struct ext4_fc_tl tl = { le16_make((uint16_t)tag), le16_make((uint16_t)bytes) };

	assert_true(r->bytes + sizeof(tl) + bytes <= sizeof(r->data));
	memcpy(r->data + r->bytes, &tl, sizeof(tl));
	memcpy(r->data + r->bytes + sizeof(tl), value, bytes);
	r->bytes += sizeof(tl) + bytes;
}

static void add_range(struct row *r, uint32_t ino, lblk_t logical, uint32_t count, blk_t physical,
		      bool unwritten)
{
	const struct ext4_extent ex = {
		.ee_block = le32_make(logical),
		.ee_len = le16_make((uint16_t)(unwritten ? count + EXT_INIT_MAX_LEN : count)),
		.ee_start_lo = le32_make((uint32_t)physical),
	};
	struct ext4_fc_add_range range = { .fc_ino = le32_make(ino) };

	memcpy(range.fc_ex, &ex, sizeof(ex));
	add_tag(r, EXT4_FC_TAG_ADD_RANGE, &range, sizeof(range));
}

static void del_range(struct row *r, uint32_t ino, lblk_t logical, uint32_t count)
{
	const struct ext4_fc_del_range range = { le32_make(ino), le32_make(logical),
						 le32_make(count) };

	add_tag(r, EXT4_FC_TAG_DEL_RANGE, &range, sizeof(range));
}

static void add_dentry(struct row *r, uint32_t tag, uint32_t dir, uint32_t ino, const char *name)
{
	uint8_t value[300];
	const struct ext4_fc_dentry_info info = { .fc_parent_ino = le32_make(dir),
						  .fc_ino = le32_make(ino) };

	memcpy(value, &info, sizeof(info));
	memcpy(value + sizeof(info), name, strlen(name));
	add_tag(r, tag, value, sizeof(info) + strlen(name));
}

static void add_inode(struct row *r, uint32_t ino, const struct ext4_inode *raw)
{
	uint8_t value[4 + 256];
	const le32 head = le32_make(ino);

	memcpy(value, &head, sizeof(head));
	memcpy(value + sizeof(head), raw, 256);
	add_tag(r, EXT4_FC_TAG_INODE, value, sizeof(value));
}

/* As an inode of 256 bytes lies on disk. */
struct raw_inode {
	union {
		struct ext4_inode raw;
		uint8_t bytes[256];
	};
};

static struct raw_inode new_raw(uint16_t mode, uint64_t size, uint16_t links)
{
	struct raw_inode r = { .bytes = { 0 } };

	r.raw.i_mode = le16_make(mode);
	r.raw.i_links_count = le16_make(links);
	r.raw.i_size_lo = le32_make((uint32_t)size);
	r.raw.i_flags = le32_make(EXT4_EXTENTS_FL);
	r.raw.i_extra_isize = le16_make(32);
	r.raw.i_generation = le32_make(4711);
	r.raw.i_mtime = r.raw.i_ctime = r.raw.i_atime = le32_make(1700000000);
	return r;
}

static struct raw_inode raw_of(struct uext4_fs *fs, uint32_t ino)
{
	struct raw_inode r;

	assert_int_equal(inode_read_raw(fs, ino, &r.raw), 0);
	return r;
}

/* The number behind a path of at most two names; 0: nothing. */
static uint32_t ino_of(struct uext4_fs *fs, const char *dir_name, const char *name)
{
	uint32_t ino = EXT4_ROOT_INO;
	const char *names[] = { dir_name, name };

	for (unsigned i = 0; i < 2; i++) {
		struct inode *dir;
		int err;

		if (!names[i])
			continue;
		assert_int_equal(inode_get(fs, ino, &dir), 0);
		err = dir_find(dir, names[i], strlen(names[i]), &ino);
		inode_put(dir);
		if (err == -ENOENT)
			return 0;
		assert_int_equal(err, 0);
	}
	return ino;
}

/* ---- making them pending --------------------------------------------------------------------- */

/* The area of the journal for fast commits. */
struct area {
	struct journal *j;
	uint8_t *bytes; /* the image */
	uint32_t block;
	size_t at;
	uint32_t crc;
};

static uint8_t *area_at(const struct area *a)
{
	return a->bytes + journal_place(a->j, a->j->fast_first + a->block) + a->at;
}

static void area_put(struct area *a, const void *data, size_t bytes)
{
	memcpy(area_at(a), data, bytes);
	a->crc = crc32c(a->crc, data, bytes);
	a->at += bytes;
}

static void area_pad(struct area *a)
{
	const struct ext4_fc_tl tl = { le16_make(EXT4_FC_TAG_PAD),
				       le16_make((uint16_t)(BS - a->at - sizeof(tl))) };

	if (BS - a->at >= sizeof(tl)) {
		size_t bytes = BS - a->at;

		memset(area_at(a), 0, bytes);
		memcpy(area_at(a), &tl, sizeof(tl));
		a->crc = crc32c(a->crc, area_at(a), bytes);
	}
	a->block++;
	a->at = 0;
	assert_true(a->block < a->j->maxlen - a->j->fast_first);
}

/* One fast commit of all tags. */
static void area_write(struct area *a, const struct row *r)
{
	const struct ext4_fc_tl head_tl = { le16_make(EXT4_FC_TAG_HEAD), le16_make(8) };
	const struct ext4_fc_head head = { .fc_tid = le32_make(TID) };
	struct ext4_fc_tl tl;
	struct ext4_fc_tail tail = { .fc_tid = le32_make(TID) };

	area_put(a, &head_tl, sizeof(head_tl));
	area_put(a, &head, sizeof(head));
	for (size_t at = 0; at < r->bytes;) {
		size_t bytes;

		memcpy(&tl, r->data + at, sizeof(tl));
		bytes = sizeof(tl) + le16_get(tl.fc_len);
		if (BS - a->at < bytes + sizeof(tl))
			area_pad(a);
		area_put(a, r->data + at, bytes);
		at += bytes;
	}
	if (BS - a->at < sizeof(tl) + sizeof(tail) + sizeof(tl))
		area_pad(a);
	tl = (struct ext4_fc_tl){ le16_make(EXT4_FC_TAG_TAIL),
				  le16_make((uint16_t)(BS - a->at - sizeof(tl))) };
	area_put(a, &tl, sizeof(tl));
	area_put(a, &tail.fc_tid, sizeof(tail.fc_tid));
	tail.fc_crc = le32_make(a->crc);
	memcpy(area_at(a), &tail.fc_crc, sizeof(tail.fc_crc));
}

static void put_header(uint8_t *block, uint32_t type)
{
	const struct journal_header_s header = {
		.h_magic = be32_make(JBD2_MAGIC_NUMBER),
		.h_blocktype = be32_make(type),
		.h_sequence = be32_make(TID - 1),
	};

	memset(block, 0, BS);
	memcpy(block, &header, sizeof(header));
}

/*
 * The transaction before them, of one block that nobody uses.  It lies where the first blocks of
 * the log come to lie when that begins anew.
 */
static void write_transaction(const struct area *a)
{
	const struct journal_block_tag_s tag = {
		.t_blocknr = be32_make(OLD_BLK),
		.t_flags = be16_make(JBD2_FLAG_LAST_TAG),
	};
	uint8_t *block = a->bytes + journal_place(a->j, OLD_START);

	put_header(block, JBD2_DESCRIPTOR_BLOCK);
	memcpy(block + sizeof(struct journal_header_s), &tag, 8);
	memset(a->bytes + journal_place(a->j, OLD_START + 1), 'x', BS);
	put_header(a->bytes + journal_place(a->j, OLD_START + 2), JBD2_COMMIT_BLOCK);
}

/* The image has fast commits now that nobody has replayed. */
static void make_pending(struct image *im, const struct row *r)
{
	struct ext4_super_block *sb = (void *)(im->bytes + EXT4_SUPER_OFFSET);
	struct uext4_fs *fs = open_bytes(im->bytes, false);
	struct area a = { .bytes = im->bytes };
	struct journal_superblock_s *jsb;

	for (unsigned pass = 0; pass < 2; pass++) { /* first the journal learns of the area */
		assert_int_equal(super_journal_open(fs, NULL, &a.j), 0);
		jsb = (void *)(im->bytes + journal_place(a.j, 0));
		jsb->s_feature_incompat = be32_make(be32_get(jsb->s_feature_incompat) |
						    JBD2_FEATURE_INCOMPAT_FAST_COMMIT);
		jsb->s_start = be32_make(OLD_START);
		jsb->s_sequence = be32_make(TID - 1);
		if (pass == 1) {
			write_transaction(&a);
			area_write(&a, r);
		}
		journal_close(a.j);
	}
	assert_int_equal(fs_close(fs), 0);
	sb->s_feature_incompat = le32_make(le32_get(sb->s_feature_incompat) |
					   EXT4_FEATURE_INCOMPAT_RECOVER);
	seal_super(sb);
}

/* ---- what can be seen ------------------------------------------------------------------------ */

struct text {
	char *data;
	size_t bytes;
};

static void say(struct text *t, const char *fmt, ...) PRINTF(2, 3);
static void say(struct text *t, const char *fmt, ...)
{
	va_list ap;
	char line[512];

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	t->data = realloc(t->data, t->bytes + strlen(line) + 1);
	assert_non_null(t->data);
	strcpy(t->data + t->bytes, line);
	t->bytes += strlen(line);
}

static void say_blocks(struct text *t, struct inode *ip)
{
	for (lblk_t at = 0; ip->state == INODE_BLOCKS && at < UINT32_MAX;) {
		struct map_ext ext;

		assert_int_equal(map_read(ip, at, &ext), 0);
		if (ext.state != MAP_HOLE)
			say(t, " %u+%u@%" PRIu64 "%s", at, ext.count, ext.physical,
			    ext.state == MAP_UNWRITTEN ? "u" : "");
		at += ext.count;
	}
}

static int by_name(const void *a, const void *b)
{
	const struct uext4_dirent *x = a, *y = b;

	return strcmp(x->name, y->name);
}

/* Names, modes, sizes, links of files and where their blocks are; not what a replay makes up. */
static void say_dir(struct text *t, struct uext4_fs *fs, uint32_t ino, unsigned depth)
{
	static struct uext4_dirent entries[8][200];
	struct uext4_dirent *row = entries[depth];
	struct dir_cursor *dc;
	struct inode *dir;
	size_t count = 0, got;

	assert_true(depth < ARRAY_SIZE(entries));
	assert_int_equal(inode_get(fs, ino, &dir), 0);
	assert_int_equal(dir_cursor_create(dir, &dc), 0);
	do {
		assert_int_equal(dir_cursor_read(dc, count ? row[count - 1].cookie : 0, row + count,
						 200 - count, &got),
				 0);
		count += got;
	} while (got > 0);
	dir_cursor_destroy(dc);
	inode_put(dir);
	qsort(row, count, sizeof(*row), by_name);
	for (size_t i = 0; i < count; i++) {
		struct uext4_stat st;
		struct inode *ip;

		say(t, "%*s%s %u", (int)depth, "", row[i].name, row[i].ino);
		if (strcmp(row[i].name, ".") == 0 || strcmp(row[i].name, "..") == 0) {
			say(t, "\n");
			continue;
		}
		assert_int_equal(inode_get(fs, row[i].ino, &ip), 0);
		inode_stat(ip, &st);
		say(t, " %o", st.mode);
		if (!inode_is_dir(ip)) {
			say(t, " %" PRIu64 " bytes, %u links:", st.size, st.nlink);
			say_blocks(t, ip);
		}
		say(t, "\n");
		if (inode_is_dir(ip))
			say_dir(t, fs, row[i].ino, depth + 1);
		inode_put(ip);
	}
}

/* free()d by the caller. */
static char *view(uint8_t *bytes)
{
	struct uext4_fs *fs = open_bytes(bytes, false);
	struct text t = { 0 };

	say_dir(&t, fs, EXT4_ROOT_INO, 0);
	assert_int_equal(fs_close(fs), 0);
	return t.data;
}

/* ---- every kind of tag ----------------------------------------------------------------------- */

/* A new file of a new directory, with an unwritten part, as the kernel says it. */
static void row_new_files(struct row *r)
{
	struct raw_inode dir = new_raw(0040755, BS, 2), file = new_raw(0100644, 5000, 1);
	const struct raw_inode empty = new_raw(0100600, 0, 1);

	add_inode(r, FREE_INO, &dir.raw);
	add_dentry(r, EXT4_FC_TAG_CREAT, EXT4_ROOT_INO, FREE_INO, "new");
	add_inode(r, FREE_INO + 3, &empty.raw);
	add_dentry(r, EXT4_FC_TAG_CREAT, FREE_INO, FREE_INO + 3, "file");
	add_range(r, FREE_INO + 3, 0, 3, FREE_BLK, false);
	add_range(r, FREE_INO + 3, 3, 2, FREE_BLK + 100, true);
	add_inode(r, FREE_INO + 3, &file.raw);
	/* Many, so that the directory grows. */
	for (unsigned i = 0; i < 40; i++) {
		char name[100];

		snprintf(name, sizeof(name), "a-rather-long-name-for-a-small-file-%u", i);
		add_inode(r, FREE_INO + 10 + i, &empty.raw);
		add_dentry(r, EXT4_FC_TAG_CREAT, FREE_INO, FREE_INO + 10 + i, name);
	}
	/* One that nobody names, and a directory in the directory. */
	add_inode(r, FREE_INO + 4, &empty.raw);
	add_inode(r, FREE_INO + 5, &dir.raw);
	add_dentry(r, EXT4_FC_TAG_CREAT, FREE_INO, FREE_INO + 5, "below");
}

static void row_changes(struct row *r, struct uext4_fs *fs)
{
	uint32_t d = ino_of(fs, NULL, "d"), a = ino_of(fs, "d", "a"), b = ino_of(fs, "d", "b");
	uint32_t c = ino_of(fs, NULL, "c"), full = ino_of(fs, NULL, "full");
	struct raw_inode raw = raw_of(fs, a);

	/* A hole, blocks elsewhere, some made unwritten; longer than before. */
	del_range(r, a, 2, 1);
	add_range(r, a, 4, 2, FREE_BLK + 200, false);
	add_range(r, a, 20, 30, FREE_BLK + 220, true);
	add_range(r, a, 25, 2, FREE_BLK + 225, false);
	raw.raw.i_size_lo = le32_make(60000);
	raw.raw.i_uid = le16_make(7);
	raw.raw.i_links_count = le16_make(2);
	add_dentry(r, EXT4_FC_TAG_LINK, d, a, "another");
	add_inode(r, a, &raw.raw);
	/* Renamed over another file. */
	add_dentry(r, EXT4_FC_TAG_UNLINK, EXT4_ROOT_INO, c, "c");
	add_dentry(r, EXT4_FC_TAG_LINK, EXT4_ROOT_INO, b, "c");
	add_dentry(r, EXT4_FC_TAG_UNLINK, d, b, "b");
	/* Gone. */
	for (unsigned i = 1; i <= 9; i++) {
		char name[20];

		snprintf(name, sizeof(name), "file%u", i);
		add_dentry(r, EXT4_FC_TAG_UNLINK, full, ino_of(fs, "full", name), name);
	}
	add_dentry(r, EXT4_FC_TAG_UNLINK, EXT4_ROOT_INO, ino_of(fs, NULL, "link"), "link");
	/* Void: there is no such inode, no such name. */
	add_dentry(r, EXT4_FC_TAG_UNLINK, d, FREE_INO + 80, "nothing");
	add_dentry(r, EXT4_FC_TAG_UNLINK, d, a, "nothing");
	add_range(r, FREE_INO + 80, 0, 1, FREE_BLK + 300, false);
}

/* The kernel's replay leaves a directory whose name is gone with one link; here it is gone. */
static void row_rmdir(struct row *r, struct uext4_fs *fs)
{
	add_dentry(r, EXT4_FC_TAG_UNLINK, EXT4_ROOT_INO, ino_of(fs, NULL, "gone"), "gone");
}

/* A number that is used again for something else. */
static void row_reuse(struct row *r, struct uext4_fs *fs)
{
	const struct raw_inode file = new_raw(0100640, 1000, 1);
	uint32_t ino = ino_of(fs, "d", "a");

	add_dentry(r, EXT4_FC_TAG_UNLINK, ino_of(fs, NULL, "d"), ino, "a");
	add_inode(r, ino, &file.raw);
	add_dentry(r, EXT4_FC_TAG_CREAT, ino_of(fs, NULL, "e"), ino, "reused");
	add_range(r, ino, 0, 1, FREE_BLK + 400, false);
	add_inode(r, ino, &file.raw);
}

static void row_all(struct row *r, struct image *im)
{
	struct uext4_fs *fs = open_bytes(im->bytes, false);

	row_new_files(r);
	row_changes(r, fs);
	row_rmdir(r, fs);
	assert_int_equal(fs_close(fs), 0);
}

static const char *const options[] = { "", ",^metadata_csum", ",inline_data", ",quota",
				       ",^dir_index" };

static void test_all_tags(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		static struct row r;
		struct image im;
		char *before, *after;

		r.bytes = 0;
		image_make(&im, options[i], 64);
		row_all(&r, &im);
		make_pending(&im, &r);
		before = view(im.bytes);
		assert_non_null(strstr(before, "a-rather-long-name-for-a-small-file-39"));
		assert_int_equal(replay(im.bytes), 0);
		after = view(im.bytes);
		assert_string_equal(after, before);
		fsck(im.bytes);
		/* Nothing is left to be done. */
		assert_int_equal(replay(im.bytes), 0);
		free(before);
		before = view(im.bytes);
		assert_string_equal(after, before);
		free(before);
		free(after);
		free(im.bytes);
	}
}

static void test_reused_number(void **state)
{
	static struct row r;
	struct uext4_fs *fs;
	struct image im;
	char *before, *after;

	r.bytes = 0;
	image_make(&im, "", 64);
	fs = open_bytes(im.bytes, false);
	row_reuse(&r, fs);
	assert_int_equal(fs_close(fs), 0);
	make_pending(&im, &r);
	before = view(im.bytes);
	assert_int_equal(replay(im.bytes), 0);
	after = view(im.bytes);
	assert_string_equal(after, before);
	fsck(im.bytes);
	free(before);
	free(after);
	free(im.bytes);
}

/* ---- power cuts ------------------------------------------------------------------------------ */

/* What was recorded: writes and flushes, in the order in which they were given. */
struct step {
	const uint8_t *data; /* NULL: a flush */
	uint64_t offset, bytes;
};

static struct step *steps_read(const char *path, uint8_t **ret_log, size_t *ret_count)
{
	struct step *steps = NULL;
	size_t count = 0, at = sizeof(struct record_head);
	struct stat st;
	uint8_t *log;
	FILE *f = fopen(path, "r");

	assert_non_null(f);
	assert_int_equal(fstat(fileno(f), &st), 0);
	log = malloc((size_t)st.st_size);
	assert_non_null(log);
	assert_int_equal(fread(log, 1, (size_t)st.st_size, f), st.st_size);
	fclose(f);
	while (at < (size_t)st.st_size) {
		struct record_entry e;

		memcpy(&e, log + at, sizeof(e));
		at += sizeof(e);
		if (e.kind == RECORD_WRITE || e.kind == RECORD_FLUSHED) {
			steps = realloc(steps, (count + 1) * sizeof(*steps));
			steps[count++] = (struct step){ e.kind == RECORD_WRITE ? log + at : NULL,
							e.offset, e.bytes };
		}
		if (e.kind == RECORD_WRITE)
			at += e.bytes;
	}
	*ret_log = log;
	*ret_count = count;
	return steps;
}

/* The first @count steps; of the writes behind the last flush some, as @lose has it in percent. */
static void cut(uint8_t *bytes, const struct step *steps, size_t count, unsigned lose)
{
	size_t flushed = 0;

	for (size_t i = 0; i < count; i++)
		if (!steps[i].data)
			flushed = i;
	for (size_t i = 0; i < count; i++)
		if (steps[i].data && (i < flushed || rnd_below(100) >= lose))
			memcpy(bytes + steps[i].offset, steps[i].data, steps[i].bytes);
}

static void test_power_cuts(void **state)
{
	static struct row r;
	char path[300], *wanted;
	struct dev *ram, *record;
	struct uext4_fs *fs;
	struct step *steps;
	struct image im;
	uint8_t *bytes = malloc(IMAGE_BYTES), *log;
	size_t count, flushes = 0;

	assert_non_null(bytes);
	r.bytes = 0;
	image_make(&im, "", 64);
	row_all(&r, &im);
	make_pending(&im, &r);
	wanted = view(im.bytes);

	snprintf(path, sizeof(path), "%s/log", scratch);
	memcpy(bytes, im.bytes, IMAGE_BYTES);
	assert_int_equal(dev_ram_create(bytes, IMAGE_BYTES, &ram), 0);
	assert_int_equal(dev_record_create(ram, path, &record), 0);
	assert_int_equal(open_on(record, true, &fs), 0);
	assert_int_equal(fs_close(fs), 0);
	steps = steps_read(path, &log, &count);
	for (size_t i = 0; i < count; i++)
		flushes += !steps[i].data;
	assert_true(flushes > 4);

	for (size_t at = 0; at <= count; at += 1 + rnd_below(1 + 2 * count / 100)) {
		char *got;

		memcpy(bytes, im.bytes, IMAGE_BYTES);
		cut(bytes, steps, at, rnd_below(3) * 50);
		assert_int_equal(replay(bytes), 0);
		got = view(bytes);
		assert_string_equal(got, wanted);
		free(got);
		if (rnd_below(5) == 0)
			fsck(bytes);
	}
	print_message("# %zu writes and flushes, %zu of these\n", count, flushes);
	free(steps);
	free(log);
	free(wanted);
	free(bytes);
	free(im.bytes);
	unlink(path);
}

/* ---- what is wrong --------------------------------------------------------------------------- */

/* Is everything as it was, but for what transactions say and that the image is in use? */
static void assert_untouched(const uint8_t *was, const uint8_t *is, uint64_t journal_super)
{
	for (size_t at = 0; at < IMAGE_BYTES; at += BS)
		if (at != EXT4_SUPER_OFFSET && at != journal_super && at != OLD_BLK * BS &&
		    memcmp(was + at, is + at, BS) != 0) {
			print_error("block %zu has changed\n", at / BS);
			assert_true(false);
		}
}

static uint32_t any_ino(void)
{
	return rnd_below(10) ? 2 + rnd_below(60) : rnd_below(200);
}

static void add_random(struct row *r, struct uext4_fs *fs)
{
	static const char *const names[] = { "a", "b", "c", "d",	  "link", "file1",
					     "e", "x", "y", "lost+found", "gone" };
	const char *name = names[rnd_below(ARRAY_SIZE(names))];
	static const uint16_t modes[] = { 0100644, 0040755, 0120777, 0020600, 0 };
	uint32_t ino = any_ino(), other = any_ino();
	struct raw_inode raw;

	switch (rnd_below(7)) {
	case 0:
		add_range(r, ino, rnd_below(20), 1 + rnd_below(10),
			  rnd_below(2) ? FREE_BLK + rnd_below(50) : rnd_below(8192), rnd_below(2));
		break;
	case 1: del_range(r, ino, rnd_below(20), rnd_below(5) ? rnd_below(10) : UINT32_MAX); break;
	case 2: add_dentry(r, EXT4_FC_TAG_CREAT, other, ino, name); break;
	case 3: add_dentry(r, EXT4_FC_TAG_LINK, other, ino, name); break;
	case 4: add_dentry(r, EXT4_FC_TAG_UNLINK, other, ino, name); break;
	default:
		raw = new_raw(modes[rnd_below(ARRAY_SIZE(modes))], rnd_below(5000),
			      (uint16_t)rnd_below(4));
		if (rnd_below(3) == 0 && ino >= 11 && ino <= 128 &&
		    inode_read_raw(fs, ino, &raw.raw) == 0)
			raw.raw.i_links_count = le16_make((uint16_t)rnd_below(4));
		if (rnd_below(4) == 0)
			raw.bytes[rnd_below(256)] = (uint8_t)rnd();
		add_inode(r, ino, &raw.raw);
	}
}

static uint64_t journal_super_at(struct image *im)
{
	struct uext4_fs *fs = open_bytes(im->bytes, false);
	struct journal *j;
	uint64_t at;

	assert_int_equal(super_journal_open(fs, NULL, &j), 0);
	at = journal_place(j, 0);
	journal_close(j);
	assert_int_equal(fs_close(fs), 0);
	return at;
}

static void test_random_tags(void **state)
{
	static struct row r;
	uint8_t *clean = malloc(IMAGE_BYTES), *was = malloc(IMAGE_BYTES);
	unsigned done = 0, refused = 0;
	uint64_t journal_super;
	struct image im;

	assert_true(clean && was);
	image_make(&im, "", 64);
	journal_super = journal_super_at(&im);
	memcpy(clean, im.bytes, IMAGE_BYTES);
	for (unsigned i = 0; i < rounds; i++) {
		struct uext4_fs *fs;
		int err;

		r.bytes = 0;
		memcpy(im.bytes, clean, IMAGE_BYTES);
		fs = open_bytes(im.bytes, false);
		for (unsigned n = 1 + rnd_below(rnd_below(4) ? 4 : 30); n > 0; n--)
			add_random(&r, fs);
		assert_int_equal(fs_close(fs), 0);
		make_pending(&im, &r);
		memcpy(was, im.bytes, IMAGE_BYTES);
		err = replay(im.bytes);
		if (err == 0) {
			done++;
			continue;
		}
		assert_int_equal(err, -ENOTRECOVERABLE);
		refused++;
		assert_untouched(was, im.bytes, journal_super);
		/* It is refused again, for the same reason: nothing was lost. */
		assert_int_equal(replay(im.bytes), -ENOTRECOVERABLE);
	}
	print_message("# %u rows of tags done, %u refused\n", done, refused);
	assert_true(done > rounds / 20 && refused > rounds / 20);
	free(im.bytes);
	free(clean);
	free(was);
}

/* Names for hundreds of blocks of a directory, and a journal whose transactions hold fewer. */
static void test_too_much(void **state)
{
	static struct row r;
	uint8_t *was = malloc(IMAGE_BYTES);
	uint64_t journal_super;
	struct uext4_fs *fs;
	struct image im;
	char name[256];
	uint32_t e, c;

	assert_non_null(was);
	r.bytes = 0;
	image_make(&im, "", 512);
	journal_super = journal_super_at(&im);
	fs = open_bytes(im.bytes, false);
	e = ino_of(fs, NULL, "e");
	c = ino_of(fs, NULL, "c");
	assert_int_equal(fs_close(fs), 0);
	for (unsigned i = 0; i < 1500; i++) {
		snprintf(name, sizeof(name), "%0250u", i);
		add_dentry(&r, EXT4_FC_TAG_LINK, e, c, name);
	}
	make_pending(&im, &r);
	memcpy(was, im.bytes, IMAGE_BYTES);
	assert_int_equal(replay(im.bytes), -ENOTRECOVERABLE);
	assert_non_null(strstr(diag_text(), "more than one transaction"));
	assert_untouched(was, im.bytes, journal_super);
	free(was);
	free(im.bytes);
}

/* The Nth write fails, and all behind it: an error, and the next replay does what is wanted. */
static void test_failing_writes(void **state)
{
	static struct row r;
	uint8_t *bytes = malloc(IMAGE_BYTES);
	struct image im;
	char *wanted;

	assert_non_null(bytes);
	r.bytes = 0;
	image_make(&im, "", 64);
	row_all(&r, &im);
	make_pending(&im, &r);
	wanted = view(im.bytes);
	for (uint64_t nth = 1; nth < 60; nth++) {
		struct dev *ram, *failing;
		struct uext4_fs *fs;
		char *got;
		int err;

		memcpy(bytes, im.bytes, IMAGE_BYTES);
		assert_int_equal(dev_ram_create(bytes, IMAGE_BYTES, &ram), 0);
		assert_int_equal(dev_fail_create(ram, &failing), 0);
		dev_fail_for_good(failing, true);
		dev_fail_nth_write(failing, nth);
		err = open_on(failing, true, &fs);
		if (err == 0)
			err = fs_close(fs);
		assert_int_equal(replay(bytes), 0);
		got = view(bytes);
		assert_string_equal(got, wanted);
		free(got);
		if (err == 0)
			break;
	}
	free(wanted);
	free(bytes);
	free(im.bytes);
}

/* The Nth allocation of memory fails: an error or not, and the next replay does what is wanted. */
static void test_no_memory(void **state)
{
	static struct row r;
	uint8_t *bytes = malloc(IMAGE_BYTES);
	struct image im;
	char *wanted;
	unsigned failed = 0;
	bool all = false;

	assert_non_null(bytes);
	r.bytes = 0;
	image_make(&im, "", 64);
	row_all(&r, &im);
	make_pending(&im, &r);
	wanted = view(im.bytes);
	for (uint64_t nth = 1; !all; nth += 1 + rnd_below(8)) {
		struct uext4_fs *fs;
		struct dev *ram;
		char *got;
		int err;

		memcpy(bytes, im.bytes, IMAGE_BYTES);
		assert_int_equal(dev_ram_create(bytes, IMAGE_BYTES, &ram), 0);
		(void)mem_fail_nth(nth);
		err = open_on(ram, true, &fs);
		if (err == 0)
			err = fs_close(fs);
		all = mem_fail_nth(0) < nth;
		failed += err < 0;
		assert_int_equal(replay(bytes), 0);
		got = view(bytes);
		assert_string_equal(got, wanted);
		free(got);
	}
	print_message("# %u of them are errors\n", failed);
	assert_true(failed > 20);
	free(wanted);
	free(bytes);
	free(im.bytes);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_tags),   cmocka_unit_test(test_reused_number),
		cmocka_unit_test(test_power_cuts), cmocka_unit_test(test_random_tags),
		cmocka_unit_test(test_too_much),   cmocka_unit_test(test_failing_writes),
		cmocka_unit_test(test_no_memory),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	if (argc > 2)
		rounds = (unsigned)strtoul(argv[2], NULL, 0);
	print_message("# seed %" PRIu64 "\n", seed);
	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
