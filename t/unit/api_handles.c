/* SPDX-License-Identifier: MIT */
/*
 * What the interface promises about files and directories that are open, on a small image made by
 * mke2fs; e2fsck behind each.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "uext4.h"

#define LONG_AGO 1000	/* seconds since 1970 */
#define EXTENTS_FL 0x80000 /* i_flags */
#define APPEND_FL 0x20

static char image[64];
static struct uext4_fs *fs;

static void ok(int err)
{
	if (err < 0)
		print_error("error %d: %s\n", err, uext4_last_error());
	assert_int_equal(err, 0);
}

/* "@before IMAGE @behind", by the shell. */
static int shell(const char *before, const char *behind)
{
	char command[512];

	snprintf(command, sizeof(command), "%s %s %s", before, image, behind);
	return system(command);
}

static int open_image(void)
{
	struct uext4_open_options options = { .size = sizeof(options), .flags = UEXT4_OPEN_WRITE };

	return uext4_open(image, &options, &fs);
}

static int setup(void **state)
{
	int fd;

	(void)state;
	strcpy(image, "/tmp/uext4-handles-XXXXXX");
	fd = mkstemp(image);
	if (fd < 0 || ftruncate(fd, 32 << 20) < 0)
		return -1;
	close(fd);
	return shell("mke2fs -q -F -t ext4 -b 4096", "") != 0 ? -1 : open_image();
}

static int teardown(void **state)
{
	int status = uext4_close(fs) < 0 ? -1 : shell("e2fsck -fn", ">/dev/null 2>&1");

	(void)state;
	unlink(image);
	return status;
}

static uint32_t create(const char *name, uint32_t mode)
{
	struct uext4_new new = { .mode = mode };
	uint32_t ino;

	ok(uext4_create(fs, UEXT4_ROOT_INO, name, strlen(name), &new, &ino));
	return ino;
}

static uint64_t inodes_free(void)
{
	struct uext4_statfs st;

	ok(uext4_statfs(fs, 0, &st));
	return st.inodes_free;
}

/* ---- writes that others have allowed --------------------------------------------------------- */

static void set_times(uint32_t ino)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_MTIME | UEXT4_ATTR_CTIME,
				   .mtime = { .sec = LONG_AGO },
				   .ctime = { .sec = LONG_AGO } };

	ok(uext4_setattr(fs, ino, &attr));
}

static void write_with(uint32_t ino, uint32_t flags, uint64_t offset)
{
	struct uext4_file *file;
	size_t written;

	ok(uext4_file_open(fs, ino, UEXT4_FILE_WRITE | flags, &file));
	ok(uext4_pwrite(file, "bytes", 5, offset, &written));
	assert_int_equal(written, 5);
	ok(uext4_fsync(file, 0));
	uext4_file_close(file);
}

static bool has_capability(uint32_t ino)
{
	size_t size;
	int err = uext4_xattr_get(fs, ino, "security.capability", NULL, 0, &size);

	if (err != -ENODATA)
		ok(err);
	return err == 0;
}

/* Capabilities go with a write, unless the caller has seen to that. */
static void test_checked_writes_keep_capabilities(void **state)
{
	const uint64_t offsets[] = { 10000, 3 }; /* the first one makes the file grow */
	uint32_t ino = create("file", 0104755);
	struct uext4_stat st;

	(void)state;
	ok(uext4_xattr_set(fs, ino, "security.capability", "opaque", 6, 0));
	for (size_t i = 0; i < 2; i++) {
		set_times(ino);
		write_with(ino, UEXT4_FILE_CHECKED, offsets[i]);
		assert_true(has_capability(ino));
		ok(uext4_stat(fs, ino, &st));
		assert_true(st.mtime.sec > LONG_AGO);
		assert_true(st.ctime.sec > LONG_AGO);
	}
	write_with(ino, 0, 3);
	assert_false(has_capability(ino));
	ok(uext4_xattr_set(fs, ino, "security.capability", "opaque", 6, 0));
	write_with(ino, UEXT4_FILE_CHECKED | UEXT4_FILE_KILL_PRIV, 3);
	assert_false(has_capability(ino));
	ok(uext4_stat(fs, ino, &st));
	assert_int_equal(st.mode & 07777, 0755);
}

/* A write that was allowed before may still be on its way when a file becomes append-only. */
static void test_checked_writes_go_into_append_only_files(void **state)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_FLAGS, .flags = EXTENTS_FL | APPEND_FL };
	uint32_t ino = create("file", 0100644);
	struct uext4_file *file;
	char bytes[16] = "";
	size_t done;

	(void)state;
	write_with(ino, 0, 0);
	ok(uext4_setattr(fs, ino, &attr));
	assert_int_equal(uext4_file_open(fs, ino, UEXT4_FILE_WRITE, &file), -EPERM);
	write_with(ino, UEXT4_FILE_CHECKED, 1);
	ok(uext4_file_open(fs, ino, 0, &file));
	ok(uext4_pread(file, bytes, sizeof(bytes), 0, &done));
	uext4_file_close(file);
	assert_int_equal(done, 6);
	assert_string_equal(bytes, "bbytes");
	attr.flags = EXTENTS_FL;
	ok(uext4_setattr(fs, ino, &attr));
}

/* ---- the last reference ---------------------------------------------------------------------- */

static void test_dir_close_finishes_a_removed_directory(void **state)
{
	uint64_t before = inodes_free();
	struct uext4_dir *dir;

	(void)state;
	ok(uext4_dir_open(fs, create("dir", 040755), &dir));
	ok(uext4_rmdir(fs, UEXT4_ROOT_INO, "dir", 3));
	assert_int_equal(inodes_free(), before - 1);
	uext4_dir_close(dir);
	assert_int_equal(inodes_free(), before);
}

/*
 * A call that reads copies its answer out with a reference and no lock.  Here that copy meets a
 * fault, and while it waits another thread takes the file's name away.
 */
static struct {
	void *page; /* cannot be written before the fault */
	sem_t fault, done;
	pthread_t thread;
	struct sigaction before;
} meanwhile;

static void on_fault(int number, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr, page = (uintptr_t)meanwhile.page;

	(void)context;
	if (at < page || at >= page + (size_t)sysconf(_SC_PAGESIZE)) {
		signal(number, SIG_DFL);
		return;
	}
	sem_post(&meanwhile.fault);
	while (sem_wait(&meanwhile.done) < 0)
		;
	mprotect(meanwhile.page, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE);
}

static void *remove_name(void *arg)
{
	while (sem_wait(&meanwhile.fault) < 0)
		;
	arg = uext4_unlink(fs, UEXT4_ROOT_INO, "name", 4) == 0 ? NULL : arg;
	sem_post(&meanwhile.done);
	return arg;
}

static void *meanwhile_begin(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	sigemptyset(&action.sa_mask);
	assert_int_equal(sigaction(SIGSEGV, &action, &meanwhile.before), 0);
	meanwhile.page = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(meanwhile.page, MAP_FAILED);
	sem_init(&meanwhile.fault, 0, 0);
	sem_init(&meanwhile.done, 0, 0);
	assert_int_equal(pthread_create(&meanwhile.thread, NULL, remove_name, &meanwhile), 0);
	return meanwhile.page;
}

static void meanwhile_end(void)
{
	void *failed;

	assert_int_equal(pthread_join(meanwhile.thread, &failed), 0);
	assert_null(failed);
	munmap(meanwhile.page, (size_t)sysconf(_SC_PAGESIZE));
	sigaction(SIGSEGV, &meanwhile.before, NULL);
}

enum reader { READLINK, XATTR_GET, XATTR_LIST, EXTENTS, READERS };

static void read_by(enum reader reader, uint32_t ino, void *to)
{
	size_t size;

	switch (reader) {
	case READLINK: ok(uext4_readlink(fs, ino, to, 4096, &size)); break;
	case XATTR_GET: ok(uext4_xattr_get(fs, ino, "user.a", to, 5, &size)); break;
	case XATTR_LIST: ok(uext4_xattr_list(fs, ino, to, 7, &size)); break;
	case EXTENTS: ok(uext4_extents(fs, ino, 0, UINT64_MAX, to, 1, &size)); break;
	case READERS: break;
	}
}

static uint32_t make_name(enum reader reader)
{
	const struct uext4_new new = { .mode = 0777 };
	uint32_t ino;

	if (reader == READLINK) {
		ok(uext4_symlink(fs, UEXT4_ROOT_INO, "name", 4, "target", 6, &new, &ino));
		return ino;
	}
	ino = create("name", 0100644);
	write_with(ino, 0, 5);
	ok(uext4_xattr_set(fs, ino, "user.a", "value", 5, 0));
	return ino;
}

static void test_readers_finish_what_they_kept(void **state)
{
	uint64_t before = inodes_free();

	(void)state;
	for (enum reader reader = 0; reader < READERS; reader++) {
		uint32_t ino = make_name(reader);

		read_by(reader, ino, meanwhile_begin());
		meanwhile_end();
		assert_int_equal(inodes_free(), before);
	}
}

/* More than the table of inodes in memory is made for: it grows. */
static void test_many_are_held(void **state)
{
	enum { COUNT = 5000 };
	uint32_t *inos = malloc(COUNT * sizeof(*inos));
	uint64_t before = inodes_free();

	(void)state;
	for (uint32_t i = 0; i < COUNT; i++) {
		const struct uext4_new new = { .mode = 0100644, .uid = i };
		char name[16];
		int len = snprintf(name, sizeof(name), "%u", i);

		ok(uext4_create(fs, UEXT4_ROOT_INO, name, (size_t)len, &new, &inos[i]));
		ok(uext4_hold(fs, inos[i]));
		ok(uext4_unlink(fs, UEXT4_ROOT_INO, name, (size_t)len));
	}
	for (uint32_t i = 0; i < COUNT; i++) {
		struct uext4_stat st;

		ok(uext4_stat(fs, inos[i], &st));
		assert_int_equal(st.uid, i);
	}
	assert_int_equal(inodes_free(), before - COUNT);
	for (uint32_t i = 0; i < COUNT; i++)
		uext4_release(fs, inos[i]);
	assert_int_equal(inodes_free(), before);
	free(inos);
}

static uint64_t device_writes(void)
{
	struct uext4_stats stats;

	ok(uext4_stats(fs, &stats));
	return stats.device_writes;
}

/* A file and a directory that are open and have lost their names. */
struct gone {
	struct uext4_file *file;
	struct uext4_dir *dir;
};

static void open_and_remove(struct gone *gone)
{
	uint32_t ino = create("file", 0100644);

	write_with(ino, 0, 5);
	ok(uext4_file_open(fs, ino, UEXT4_FILE_WRITE, &gone->file));
	ok(uext4_dir_open(fs, create("dir", 040755), &gone->dir));
	ok(uext4_unlink(fs, UEXT4_ROOT_INO, "file", 4));
	ok(uext4_rmdir(fs, UEXT4_ROOT_INO, "dir", 3));
}

static void close_both(struct gone *gone)
{
	uext4_file_close(gone->file);
	uext4_dir_close(gone->dir);
}

/* What is closed while the image is frozen does not wait, and changes nothing before the thaw. */
static void test_frozen_closes_change_nothing(void **state)
{
	uint64_t before = inodes_free(), writes;
	struct gone gone;

	(void)state;
	open_and_remove(&gone);
	ok(uext4_freeze(fs));
	writes = device_writes();
	close_both(&gone);
	ok(uext4_sync(fs));
	assert_int_equal(device_writes(), writes);
	assert_int_equal(inodes_free(), before - 2);
	ok(uext4_thaw(fs));
	assert_int_equal(inodes_free(), before);
}

static void test_frozen_image_is_closed(void **state)
{
	uint64_t before = inodes_free();
	struct gone gone;

	(void)state;
	open_and_remove(&gone);
	ok(uext4_freeze(fs));
	close_both(&gone);
	ok(uext4_close(fs));
	ok(open_image());
	assert_int_equal(inodes_free(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_checked_writes_keep_capabilities, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_checked_writes_go_into_append_only_files,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_dir_close_finishes_a_removed_directory, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_readers_finish_what_they_kept, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_many_are_held, setup, teardown),
		cmocka_unit_test_setup_teardown(test_frozen_closes_change_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_frozen_image_is_closed, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
