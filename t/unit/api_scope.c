/* SPDX-License-Identifier: MIT */
/*
 * Several changes at once: what uext4_txn_commit() makes durable together, and what
 * uext4_txn_cancel(), a close, or a crash undoes together.  On small images made by mke2fs; e2fsck
 * behind each.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "uext4.h"

static char image[64];

/* "@before IMAGE @behind", by the shell. */
static int shell(const char *before, const char *behind)
{
	char command[512];

	snprintf(command, sizeof(command), "%s %s %s", before, image, behind);
	return system(command);
}

static int make_image(void **state, const char *mke2fs)
{
	int fd;

	(void)state;
	strcpy(image, "/tmp/uext4-scope-XXXXXX");
	fd = mkstemp(image);
	if (fd < 0 || ftruncate(fd, 64 << 20) < 0)
		return -1;
	close(fd);
	return shell(mke2fs, "");
}

static int setup(void **state)
{
	return make_image(state, "mke2fs -q -F -t ext4 -b 4096");
}

static int setup_inline(void **state)
{
	return make_image(state, "mke2fs -q -F -t ext4 -b 4096 -O inline_data,orphan_file");
}

static int teardown(void **state)
{
	int status = shell("e2fsck -fn", ">/dev/null 2>&1");

	(void)state;
	unlink(image);
	return status;
}

static struct uext4_fs *open_image(void)
{
	struct uext4_open_options options = { .size = sizeof(options), .flags = UEXT4_OPEN_WRITE };
	struct uext4_fs *fs;

	assert_int_equal(uext4_open(image, &options, &fs), 0);
	return fs;
}

static uint32_t create(struct uext4_fs *fs, const char *name, uint32_t mode)
{
	struct uext4_new new = { .mode = mode };
	uint32_t ino;

	assert_int_equal(uext4_create(fs, UEXT4_ROOT_INO, name, strlen(name), &new, &ino), 0);
	return ino;
}

static int put(struct uext4_fs *fs, uint32_t ino, uint8_t byte, size_t len, uint64_t offset)
{
	struct uext4_file *file;
	uint8_t *data = malloc(len);
	size_t written;
	int err;

	memset(data, byte, len);
	assert_int_equal(uext4_file_open(fs, ino, UEXT4_FILE_WRITE, &file), 0);
	err = uext4_pwrite(file, data, len, offset, &written);
	uext4_file_close(file);
	free(data);
	return err;
}

/* The byte that [@offset, @offset + @len) is made of, -1: several. */
static int get(struct uext4_fs *fs, uint32_t ino, size_t len, uint64_t offset)
{
	struct uext4_file *file;
	uint8_t *data = malloc(len);
	size_t got;
	int byte;

	assert_int_equal(uext4_file_open(fs, ino, 0, &file), 0);
	assert_int_equal(uext4_pread(file, data, len, offset, &got), 0);
	uext4_file_close(file);
	assert_int_equal(got, len);
	byte = data[0];
	for (size_t i = 0; i < len && byte >= 0; i++)
		byte = data[i] == data[0] ? byte : -1;
	free(data);
	return byte;
}

static bool exists(struct uext4_fs *fs, const char *name)
{
	uint32_t ino;

	return uext4_lookup(fs, UEXT4_ROOT_INO, name, strlen(name), &ino) == 0;
}

static uint64_t blocks_free(struct uext4_fs *fs)
{
	struct uext4_statfs st;

	assert_int_equal(uext4_statfs(fs, 0, &st), 0);
	return st.blocks_free;
}

/* A scope that does a little of everything; @old is a file of 100,000 bytes of 1. */
static void change_everything(struct uext4_fs *fs, uint32_t old)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_MODE | UEXT4_ATTR_SIZE,
				   .mode = 0600,
				   .size = 50000 };
	uint32_t ino;

	assert_int_equal(put(fs, old, 2, 10000, 3000), 0);  /* in part, in place */
	assert_int_equal(uext4_setattr(fs, old, &attr), 0); /* and cut */
	ino = create(fs, "new", 0100644);
	assert_int_equal(put(fs, ino, 3, 300000, 0), 0);
	create(fs, "dir", 040755);
	assert_int_equal(
		uext4_rename(fs, UEXT4_ROOT_INO, "victim", 6, UEXT4_ROOT_INO, "moved", 5, 0), 0);
	assert_int_equal(uext4_unlink(fs, UEXT4_ROOT_INO, "gone", 4), 0);
	assert_int_equal(uext4_xattr_set(fs, old, "user.a", "value", 5, 0), 0);
	assert_int_equal(get(fs, old, 10000, 3000), 2);
	assert_int_equal(get(fs, old, 3000, 0), 1);
}

static uint32_t prepare(struct uext4_fs *fs)
{
	uint32_t old = create(fs, "old", 0100644);

	assert_int_equal(put(fs, old, 1, 100000, 0), 0);
	create(fs, "victim", 0100644);
	assert_int_equal(put(fs, create(fs, "gone", 0100644), 4, 5000, 0), 0);
	return old;
}

static void check_undone(struct uext4_fs *fs, uint32_t old)
{
	struct uext4_stat st;
	size_t size;

	assert_int_equal(get(fs, old, 100000, 0), 1);
	assert_int_equal(uext4_stat(fs, old, &st), 0);
	assert_int_equal(st.size, 100000);
	assert_int_equal(st.mode, 0100644);
	assert_false(exists(fs, "new"));
	assert_false(exists(fs, "dir"));
	assert_true(exists(fs, "victim"));
	assert_true(exists(fs, "gone"));
	assert_int_equal(uext4_xattr_get(fs, old, "user.a", NULL, 0, &size), -ENODATA);
}

static void check_done(struct uext4_fs *fs, uint32_t old)
{
	struct uext4_stat st;

	assert_int_equal(get(fs, old, 10000, 3000), 2);
	assert_int_equal(get(fs, old, 37000, 13000), 1);
	assert_int_equal(uext4_stat(fs, old, &st), 0);
	assert_int_equal(st.size, 50000);
	assert_true(exists(fs, "new"));
	assert_true(exists(fs, "moved"));
	assert_false(exists(fs, "gone"));
}

static void test_cancel_undoes_all(void **state)
{
	struct uext4_fs *fs = open_image();
	uint32_t old = prepare(fs), ino;
	uint64_t before;

	(void)state;
	assert_int_equal(uext4_sync(fs), 0);
	before = blocks_free(fs);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(uext4_txn_begin(fs), 0);
		change_everything(fs, old);
		assert_int_equal(uext4_sync(fs), 0); /* even then */
		assert_int_equal(uext4_txn_cancel(fs), 0);
		check_undone(fs, old);
		assert_int_equal(blocks_free(fs), before);
	}
	ino = create(fs, "after", 0100644); /* and it goes on */
	assert_int_equal(put(fs, ino, 9, 1000000, 0), 0);
	assert_int_equal(uext4_close(fs), 0);
	fs = open_image();
	check_undone(fs, old);
	assert_int_equal(get(fs, ino, 1000000, 0), 9);
	assert_int_equal(uext4_close(fs), 0);
}

static void test_commit_does_all(void **state)
{
	struct uext4_fs *fs = open_image();
	uint32_t old = prepare(fs);

	(void)state;
	assert_int_equal(uext4_txn_begin(fs), 0);
	change_everything(fs, old);
	assert_int_equal(uext4_txn_commit(fs), 0);
	check_done(fs, old);
	/* What the scope wrote through the log must not come back over this (H1). */
	assert_int_equal(put(fs, old, 7, 10000, 3000), 0);
	assert_int_equal(uext4_close(fs), 0);
	fs = open_image();
	assert_int_equal(get(fs, old, 10000, 3000), 7);
	assert_int_equal(get(fs, old, 37000, 13000), 1);
	assert_int_equal(uext4_close(fs), 0);
}

static void test_close_is_no_commit(void **state)
{
	struct uext4_fs *fs = open_image();
	uint32_t old = prepare(fs);

	(void)state;
	assert_int_equal(uext4_txn_begin(fs), 0);
	change_everything(fs, old);
	assert_int_equal(uext4_close(fs), 0);
	fs = open_image();
	check_undone(fs, old);
	assert_int_equal(uext4_close(fs), 0);
}

static void test_too_much_is_refused(void **state)
{
	struct uext4_fs *fs = open_image();
	uint32_t old = prepare(fs);
	struct uext4_new new = { .mode = 040755 };
	int err = 0;

	(void)state;
	assert_int_equal(uext4_txn_begin(fs), 0);
	for (int i = 0; i < 100000 && err == 0; i++) {
		char name[32];
		uint32_t ino;

		snprintf(name, sizeof(name), "directory%d", i);
		err = uext4_create(fs, UEXT4_ROOT_INO, name, strlen(name), &new, &ino);
	}
	assert_int_equal(err, -E2BIG);
	assert_int_equal(uext4_txn_cancel(fs), 0);
	check_undone(fs, old);
	assert_false(exists(fs, "directory0"));
	assert_int_equal(uext4_close(fs), 0);
}

static void test_mistakes(void **state)
{
	struct uext4_fs *fs = open_image();
	struct uext4_file *file;

	(void)state;
	assert_int_equal(uext4_txn_commit(fs), -EINVAL);
	assert_int_equal(uext4_txn_cancel(fs), -EINVAL);
	assert_int_equal(uext4_txn_begin(fs), 0);
	assert_int_equal(uext4_txn_begin(fs), -EBUSY);
	assert_int_equal(uext4_file_open(fs, create(fs, "f", 0100644), 0, &file), 0);
	assert_int_equal(uext4_txn_cancel(fs), -EBUSY);
	uext4_file_close(file);
	assert_int_equal(uext4_txn_cancel(fs), 0);
	assert_false(exists(fs, "f"));
	assert_int_equal(uext4_close(fs), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_cancel_undoes_all, setup, teardown),
		cmocka_unit_test_setup_teardown(test_commit_does_all, setup, teardown),
		cmocka_unit_test_setup_teardown(test_close_is_no_commit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_much_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mistakes, setup, teardown),
		{ "test_cancel_undoes_all, inline", test_cancel_undoes_all, setup_inline, teardown,
		  NULL },
		{ "test_commit_does_all, inline", test_commit_does_all, setup_inline, teardown,
		  NULL },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
