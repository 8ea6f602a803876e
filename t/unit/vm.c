/* SPDX-License-Identifier: MIT */
/*
 * Mapped files: loads and stores instead of calls, over the real engine on images made by mke2fs,
 * through userfaultfd and through a page table in software.
 *
 *  - What is stored is what is read, and the other way, in files of every kind; what was synced is
 *    there when the image is opened again, and e2fsck finds nothing.
 *  - The same at random against an array of bytes, on every kind of image.
 *  - A file that shrinks, grows, gets holes, or leaves memory under its mappings.
 *  - Private mappings, parts of mappings, changes of protection.
 *  - The hook of who keeps copies: when it is called, and what it may refuse.
 *  - Buffers of calls that lie in mappings, of the same page too.
 *  - A full disk, a frozen image, a read error: who gets SIGBUS, who waits, and who does not.
 *  - Pins; a forked child; a user without privilege; many threads.
 */
#include "api/test_hooks.h"
#include "sync/sync.h"
#include "vm/vm.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE 4096u
#define MIB (1u << 20)

static char image[64];
static bool soft;			       /* the tests run once each way */
static struct uext4_open_options more_options; /* flags and data_mode count */
static unsigned steps = 300;		       /* of test_model */

static uint64_t seed = 88172645463325252u;

static uint64_t rnd_of(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* In threads, where cmocka's assertions cannot be used. */
#define CHECK(x)                                                                                  \
	do {                                                                                      \
		if (!(x)) {                                                                       \
			fprintf(stderr, "%s:%d: %s does not hold (%s)\n", __FILE__, __LINE__, #x, \
				uext4_last_error());                                              \
			abort();                                                                  \
		}                                                                                 \
	} while (0)

/* ---- images -------------------------------------------------------------------------------- */

static int shell(const char *before, const char *behind)
{
	char command[512];

	snprintf(command, sizeof(command), "%s %s %s", before, image, behind);
	return system(command);
}

static void make_image(const char *mke2fs, unsigned mib)
{
	int fd;

	strcpy(image, "/tmp/uext4-vm-XXXXXX");
	fd = mkstemp(image);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)mib << 20), 0);
	close(fd);
	assert_int_equal(shell(mke2fs, ">/dev/null 2>&1"), 0);
}

static void check_image(void)
{
	int status = shell("e2fsck -fn", ">/dev/null 2>&1");

	if (status != 0)
		(void)shell("e2fsck -fn", ">&2");
	assert_int_equal(status, 0);
}

#define PLAIN "mke2fs -q -F -t ext4 -b 4096"
#define INLINE "mke2fs -q -F -t ext4 -b 4096 -O inline_data -I 256"
#define SMALL "mke2fs -q -F -t ext4 -b 1024"

static __thread sigjmp_buf *landing;

static void on_signal(int number)
{
	if (landing)
		siglongjmp(*landing, number);
	signal(number, SIG_DFL);
	raise(number);
}

/* An open image, and the file "f" of it. */
struct world {
	struct uext4_fs *fs;
	struct dev *fail;
	struct vm_space *space; /* NULL: accesses are the processor's */
	struct uext4_file *file;
};

static void open_world(struct world *w, uint64_t cache_bytes)
{
	struct uext4_open_options options = {
		.size = sizeof(options),
		.flags = UEXT4_OPEN_WRITE | more_options.flags,
		.data_mode = more_options.data_mode,
		.cache_bytes = cache_bytes,
	};
	struct sigaction action = { .sa_handler = on_signal };
	struct uext4_new new = { .mode = 0100644 };
	struct dev *dev;
	uint32_t ino;

	memset(w, 0, sizeof(*w));
	/* Now: cmocka has its own while a test runs. */
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	assert_int_equal(dev_file_open(image, 0, 0, DEV_FILE_WRITE, &dev), 0);
	assert_int_equal(dev_fail_create(dev, &w->fail), 0);
	assert_int_equal(uext4_open_dev_for_test(w->fail, &options, &w->fs), 0);
	if (soft) {
		assert_int_equal(uext4_mmap_soft_for_test(w->fs, &w->space), 0);
		sync_set_user_copy(vm_soft_user_copy_in, vm_soft_user_copy_out);
	}
	if (uext4_lookup(w->fs, UEXT4_ROOT_INO, "f", 1, &ino) < 0)
		assert_int_equal(uext4_create(w->fs, UEXT4_ROOT_INO, "f", 1, &new, &ino), 0);
	assert_int_equal(uext4_file_open(w->fs, ino, UEXT4_FILE_WRITE, &w->file), 0);
}

static void close_world(struct world *w)
{
	int err;

	uext4_file_close(w->file);
	err = uext4_close(w->fs);
	if (err < 0)
		fprintf(stderr, "close: %s\n", uext4_last_error());
	assert_int_equal(err, 0);
	sync_set_user_copy(NULL, NULL);
}

static void begin(struct world *w, const char *mke2fs, unsigned mib)
{
	make_image(mke2fs, mib);
	open_world(w, 0);
}

static void end(struct world *w)
{
	close_world(w);
	check_image();
	unlink(image);
}

/* ---- accesses ------------------------------------------------------------------------------ */

/* Byte by byte and atomic, so that threads may meet in one. */
static void copy_bytes(uint8_t *to, const uint8_t *from, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		__atomic_store_n(&to[i], __atomic_load_n(&from[i], __ATOMIC_RELAXED),
				 __ATOMIC_RELAXED);
}

static int copy(void *to, const void *from, size_t bytes)
{
	sigjmp_buf here;
	int number = sigsetjmp(here, 1);

	if (number == 0) {
		landing = &here;
		atomic_signal_fence(memory_order_seq_cst);
		copy_bytes(to, from, bytes);
		atomic_signal_fence(memory_order_seq_cst);
	}
	landing = NULL;
	return number;
}

/* 0, SIGBUS or SIGSEGV. */
static int signal_of(int err)
{
	return err == 0 ? 0 : err == -EFAULT ? SIGSEGV : SIGBUS;
}

static int store(struct world *w, void *addr, const void *data, size_t bytes)
{
	return w->space ? signal_of(vm_soft_store(w->space, (uintptr_t)addr, data, bytes))
			: copy(addr, data, bytes);
}

static int load(struct world *w, const void *addr, void *buf, size_t bytes)
{
	return w->space ? signal_of(vm_soft_load(w->space, (uintptr_t)addr, buf, bytes))
			: copy(buf, addr, bytes);
}

static int store_byte(struct world *w, uint8_t *addr, uint8_t byte)
{
	return store(w, addr, &byte, 1);
}

/* The byte, or minus the signal. */
static int load_byte(struct world *w, const uint8_t *addr)
{
	uint8_t byte;
	int number = load(w, addr, &byte, 1);

	return number ? -number : byte;
}

static uint8_t *map(struct world *w, uint64_t offset, size_t length, uint32_t prot, uint32_t flags)
{
	void *addr = NULL;
	int err = uext4_mmap(w->file, offset, length, prot, flags, &addr);

	if (err < 0)
		fprintf(stderr, "mmap: %s\n", uext4_last_error());
	assert_int_equal(err, 0);
	return addr;
}

#define RW (UEXT4_PROT_READ | UEXT4_PROT_WRITE)

static uint8_t *map_shared(struct world *w, size_t length)
{
	return map(w, 0, length, RW, UEXT4_MAP_SHARED);
}

static void unmap(struct world *w, void *addr, size_t length)
{
	assert_int_equal(uext4_munmap(w->fs, addr, length), 0);
}

static void put(struct world *w, const void *data, size_t len, uint64_t offset)
{
	size_t done;

	assert_int_equal(uext4_pwrite(w->file, data, len, offset, &done), 0);
	assert_int_equal(done, len);
}

static void fill(struct world *w, uint8_t byte, size_t len, uint64_t offset)
{
	uint8_t *data = malloc(len);

	memset(data, byte, len);
	put(w, data, len, offset);
	free(data);
}

/* The byte of the file there, by a call. */
static int get(struct world *w, uint64_t offset)
{
	uint8_t byte = 0;
	size_t got;

	assert_int_equal(uext4_pread(w->file, &byte, 1, offset, &got), 0);
	return got ? byte : -1;
}

static void set_size(struct world *w, uint64_t size)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE, .size = size };

	assert_int_equal(uext4_setattr(w->fs, uext4_file_ino(w->file), &attr), 0);
}

static uint64_t blocks_free(struct world *w)
{
	struct uext4_statfs st;

	assert_int_equal(uext4_statfs(w->fs, 0, &st), 0);
	return st.blocks_free;
}

/* The byte of "f" there, if the power went now. */
static int get_after_crash(uint64_t offset)
{
	struct uext4_file *file;
	struct uext4_fs *fs;
	char copy_path[80];
	uint8_t byte = 0;
	uint32_t ino;
	size_t got;

	snprintf(copy_path, sizeof(copy_path), "%s.copy", image);
	assert_int_equal(shell("cp", copy_path), 0);
	assert_int_equal(uext4_open(copy_path, NULL, &fs), 0);
	assert_int_equal(uext4_lookup(fs, UEXT4_ROOT_INO, "f", 1, &ino), 0);
	assert_int_equal(uext4_file_open(fs, ino, 0, &file), 0);
	assert_int_equal(uext4_pread(file, &byte, 1, offset, &got), 0);
	uext4_file_close(file);
	assert_int_equal(uext4_close(fs), 0);
	unlink(copy_path);
	return got ? byte : -1;
}

/* ---- contents ------------------------------------------------------------------------------ */

/* What the bytes of a file were before it is mapped. */
enum before { HOLE, WRITTEN, UNWRITTEN, IN_MEMORY };

static void prepare(struct world *w, enum before before, size_t size)
{
	switch (before) {
	case HOLE: set_size(w, size); break;
	case WRITTEN:
		fill(w, 7, size, 0);
		assert_int_equal(uext4_fsync(w->file, 0), 0);
		break;
	case UNWRITTEN: assert_int_equal(uext4_fallocate(w->file, 0, 0, size), 0); break;
	case IN_MEMORY: fill(w, 7, size, 0); break;
	}
}

static void check_contents(const char *mke2fs, enum before before, size_t size)
{
	int old = before == WRITTEN || before == IN_MEMORY ? 7 : 0;
	struct world w;
	uint8_t *p;

	begin(&w, mke2fs, 16);
	prepare(&w, before, size);
	p = map_shared(&w, size);
	assert_int_equal(load_byte(&w, p), old);
	assert_int_equal(load_byte(&w, p + size - 1), old);
	assert_int_equal(store_byte(&w, p + 3, 33), 0);
	assert_int_equal(get(&w, 3), 33);
	assert_int_equal(get(&w, 4), old);
	fill(&w, 44, 1, 5);
	assert_int_equal(load_byte(&w, p + 5), 44);
	assert_int_equal(store_byte(&w, p + size - 2, 55), 0);
	assert_int_equal(uext4_msync(w.fs, p, size, UEXT4_MS_SYNC), 0);
	assert_int_equal(get_after_crash(3), 33);
	assert_int_equal(get_after_crash(5), 44);
	assert_int_equal(get_after_crash(size - 2), 55);
	/* Clean now: the next store must be noticed again. */
	assert_int_equal(store_byte(&w, p + 6, 66), 0);
	assert_int_equal(uext4_close(w.fs), -EBUSY);
	assert_int_equal(uext4_fsync(w.file, 0), 0);
	assert_int_equal(get_after_crash(6), 66);
	assert_int_equal(store_byte(&w, p + 7, 77), 0);
	unmap(&w, p, size);
	close_world(&w);
	check_image();
	open_world(&w, 0);
	assert_int_equal(get(&w, 2), old);
	assert_int_equal(get(&w, 3), 33);
	assert_int_equal(get(&w, 5), 44);
	assert_int_equal(get(&w, 6), 66);
	assert_int_equal(get(&w, 7), 77);
	assert_int_equal(get(&w, size - 2), 55);
	assert_int_equal(get(&w, size - 1), old);
	end(&w);
}

static void test_contents(void **state)
{
	(void)state;
	for (enum before b = HOLE; b <= IN_MEMORY; b++) {
		check_contents(PLAIN, b, 10 * PAGE);
		check_contents(PLAIN, b, 3 * PAGE + 100);
		check_contents(SMALL, b, 3 * PAGE + 100);
		check_contents("mke2fs -q -F -t ext4 -b 1024 -O ^has_journal", b, 5000);
	}
	check_contents(INLINE, HOLE, 100);
	check_contents(INLINE, WRITTEN, 100);
	check_contents(INLINE, IN_MEMORY, 100);
	check_contents("mke2fs -q -F -t ext3 -b 4096", HOLE, 100000);
	check_contents("mke2fs -q -F -t ext3 -b 4096", WRITTEN, 100000);
}

/* A file that leaves its inode under the mapping. */
static void test_inline_grows(void **state)
{
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, INLINE, 16);
	fill(&w, 1, 60, 0);
	p = map_shared(&w, 4 * PAGE);
	assert_int_equal(store_byte(&w, p + 10, 2), 0);
	/* Behind the end, in the page: never seen by anybody when the file grows. */
	assert_int_equal(store_byte(&w, p + 80, 3), 0);
	fill(&w, 4, 10, 100);
	assert_int_equal(load_byte(&w, p + 10), 2);
	assert_int_equal(get(&w, 80), 0);
	assert_int_equal(load_byte(&w, p + 80), 0);
	fill(&w, 5, 3 * PAGE, 120);
	assert_int_equal(load_byte(&w, p + 10), 2);
	assert_int_equal(load_byte(&w, p + 105), 4);
	assert_int_equal(load_byte(&w, p + 2 * PAGE), 5);
	assert_int_equal(store_byte(&w, p + 11, 6), 0);
	unmap(&w, p, 4 * PAGE);
	close_world(&w);
	check_image();
	open_world(&w, 0);
	assert_int_equal(get(&w, 10), 2);
	assert_int_equal(get(&w, 11), 6);
	assert_int_equal(get(&w, 105), 4);
	end(&w);
}

static void test_sizes(void **state)
{
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 9, 4 * PAGE, 0);
	p = map_shared(&w, 16 * PAGE);
	assert_int_equal(load_byte(&w, p + 4 * PAGE), -SIGBUS);
	assert_int_equal(store_byte(&w, p + 15 * PAGE, 1), SIGBUS);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(store_byte(&w, p + i * PAGE, (uint8_t)i), 0);
	set_size(&w, PAGE + 10);
	assert_int_equal(load_byte(&w, p + 2 * PAGE), -SIGBUS);
	assert_int_equal(load_byte(&w, p + PAGE), 1);
	assert_int_equal(load_byte(&w, p + PAGE + 10), 0);
	assert_int_equal(store_byte(&w, p + PAGE + 20, 5), 0);
	set_size(&w, 8 * PAGE);
	assert_int_equal(get(&w, PAGE + 20), 0);
	assert_int_equal(load_byte(&w, p + PAGE + 20), 0);
	assert_int_equal(load_byte(&w, p + 2 * PAGE), 0);
	assert_int_equal(store_byte(&w, p + 7 * PAGE, 7), 0);
	assert_int_equal(uext4_fallocate(w.file, UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_KEEP_SIZE,
					 0, PAGE),
			 0);
	assert_int_equal(load_byte(&w, p), 0);
	assert_int_equal(store_byte(&w, p, 11), 0);
	assert_int_equal(uext4_fallocate(w.file, UEXT4_FALLOC_ZERO_RANGE, PAGE / 2, PAGE), 0);
	assert_int_equal(load_byte(&w, p), 11);
	assert_int_equal(load_byte(&w, p + PAGE), 0);
	unmap(&w, p, 16 * PAGE);
	close_world(&w);
	open_world(&w, 0);
	assert_int_equal(get(&w, 0), 11);
	assert_int_equal(get(&w, 7 * PAGE), 7);
	end(&w);
}

/* Everything is there already: nothing is read while it is accessed. */
static void test_populate(void **state)
{
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 3, 600 * PAGE, 0);
	close_world(&w);
	open_world(&w, 0);
	p = map(&w, 0, 700 * PAGE, UEXT4_PROT_READ, UEXT4_MAP_SHARED | UEXT4_MAP_POPULATE);
	dev_fail_for_good(w.fail, true);
	dev_fail_nth_read(w.fail, 1);
	for (unsigned i = 0; i < 600; i++)
		assert_int_equal(load_byte(&w, p + i * PAGE), 3);
	dev_fail_for_good(w.fail, false);
	dev_fail_nth_read(w.fail, 0);
	unmap(&w, p, 700 * PAGE);
	p = map(&w, 0, 700 * PAGE, RW, UEXT4_MAP_SHARED | UEXT4_MAP_POPULATE);
	assert_int_equal(store_byte(&w, p + 599 * PAGE, 4), 0);
	assert_int_equal(store_byte(&w, p + 600 * PAGE, 4), SIGBUS);
	unmap(&w, p, 700 * PAGE);
	end(&w);
}

/* What is mapped along with stores in order is what has its place already, below the end. */
static void test_in_order(void **state)
{
	const unsigned written = 20, end_page = 40;
	struct world w;
	uint64_t free;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 3, written * PAGE, 0);
	set_size(&w, end_page * PAGE + 1);
	assert_int_equal(uext4_fsync(w.file, 0), 0);
	free = blocks_free(&w);
	p = map(&w, 0, 64 * PAGE, RW, UEXT4_MAP_SHARED | UEXT4_MAP_POPULATE);
	assert_int_equal(uext4_msync(w.fs, p, 64 * PAGE, UEXT4_MS_SYNC), 0);
	assert_true(blocks_free(&w) < free); /* stores were announced */
	set_size(&w, written * PAGE);
	set_size(&w, end_page * PAGE + 1);
	for (unsigned i = 0; i <= end_page; i++)
		assert_int_equal(load_byte(&w, p + i * PAGE), i < written ? 3 : 0);
	for (unsigned i = 0; i < written - 1; i++)
		assert_int_equal(store_byte(&w, p + i * PAGE, (uint8_t)i), 0);
	assert_int_equal(uext4_msync(w.fs, p, 64 * PAGE, UEXT4_MS_SYNC), 0);
	assert_int_equal(blocks_free(&w), free);
	assert_int_equal(store_byte(&w, p + (end_page + 1) * PAGE, 1), SIGBUS);
	assert_int_equal(get_after_crash((written - 2) * PAGE), written - 2);
	assert_int_equal(get_after_crash((written - 1) * PAGE), 3);
	/* Clean now, all of them. */
	for (unsigned i = 0; i < written; i++)
		assert_int_equal(store_byte(&w, p + i * PAGE, (uint8_t)(i + 100)), 0);
	assert_int_equal(uext4_msync(w.fs, p, 64 * PAGE, UEXT4_MS_SYNC), 0);
	assert_int_equal(get_after_crash((written - 1) * PAGE), written - 1 + 100);
	unmap(&w, p, 64 * PAGE);
	end(&w);
}

/* A fault that must not wait writes nothing, also where a store has to be given its block. */
static void test_no_wait(void **state)
{
	const uint32_t flags = VM_ALLOW_RETRY | VM_NOTHAW;
	enum vm_result result;
	struct world w;
	uint64_t free;
	uint8_t *p;
	int err;

	(void)state;
	more_options.flags = UEXT4_OPEN_NODELALLOC;
	begin(&w, PLAIN, 16);
	more_options.flags = 0;
	set_size(&w, 4 * PAGE);
	assert_int_equal(uext4_fsync(w.file, 0), 0);
	free = blocks_free(&w);
	p = map_shared(&w, 4 * PAGE);
	assert_int_equal(load_byte(&w, p), 0);
	dev_fail_for_good(w.fail, true);
	dev_fail_nth_write(w.fail, 1);
	result = vm_fault(w.space, (uintptr_t)p, VM_STORE, flags | VM_NOWAIT, &err);
	assert_int_equal(result, VM_RETRY);
	dev_fail_for_good(w.fail, false);
	dev_fail_nth_write(w.fail, 0);
	while ((result = vm_fault(w.space, (uintptr_t)p, VM_STORE, flags, &err)) == VM_RETRY)
		;
	assert_int_equal(result, VM_MAPPED);
	assert_true(blocks_free(&w) < free);
	unmap(&w, p, 4 * PAGE);
	end(&w);
}

/* A sparse file that grows far behind what it was when it was mapped first. */
static void test_far(void **state)
{
	const uint64_t far = UINT64_C(300) << 30;
	struct world w;
	uint8_t *p, *q;
	void *room;

	(void)state;
	/* valgrind has fewer addresses than the host. */
	room = mmap(NULL, 2 * far, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		skip();
	munmap(room, 2 * far);
	begin(&w, PLAIN, 16);
	set_size(&w, PAGE);
	p = map_shared(&w, PAGE);
	assert_int_equal(store_byte(&w, p, 1), 0);
	for (uint64_t size = MIB; size <= far; size *= 3) {
		size -= size % PAGE;
		set_size(&w, size);
		q = map(&w, size - PAGE, 2 * PAGE, RW, UEXT4_MAP_SHARED);
		assert_int_equal(store_byte(&w, q + 7, 2), 0);
		assert_int_equal(get(&w, size - PAGE + 7), 2);
		assert_int_equal(load_byte(&w, q + PAGE), -SIGBUS);
		unmap(&w, q, 2 * PAGE);
	}
	assert_int_equal(load_byte(&w, p), 1);
	set_size(&w, 2 * PAGE);
	assert_int_equal(load_byte(&w, p), 1);
	unmap(&w, p, PAGE);
	end(&w);
}

/* A file many times as large as the cache, against an array. */
static void test_eviction(void **state)
{
	const size_t size = 12 * MIB;
	uint8_t *model = calloc(1, size);
	struct world w;
	uint8_t *p;

	(void)state;
	make_image(PLAIN, 48);
	open_world(&w, 2 * MIB);
	set_size(&w, size);
	p = map_shared(&w, size);
	for (unsigned i = 0; i < 6000; i++) {
		size_t at = rnd_of(&seed) % size;
		uint8_t byte = (uint8_t)rnd_of(&seed);

		if (i % 3 == 0) {
			fill(&w, byte, 1, at);
			model[at] = byte;
		} else if (i % 3 == 1) {
			assert_int_equal(store_byte(&w, p + at, byte), 0);
			model[at] = byte;
		} else {
			assert_int_equal(load_byte(&w, p + at), model[at]);
		}
		if (i % 1000 == 500)
			assert_int_equal(uext4_madvise(w.fs, p, size, UEXT4_MADV_DONTNEED), 0);
		if (i % 1000 == 900)
			assert_int_equal(uext4_msync(w.fs, p, size, UEXT4_MS_SYNC), 0);
	}
	unmap(&w, p, size);
	close_world(&w);
	check_image();
	open_world(&w, 0);
	for (size_t at = 0; at < size; at += MIB) {
		static uint8_t back[MIB];
		size_t got;

		assert_int_equal(uext4_pread(w.file, back, MIB, at, &got), 0);
		assert_memory_equal(back, model + at, MIB);
	}
	free(model);
	end(&w);
}

static size_t pages_in_memory(struct world *w, uint8_t *p, size_t pages)
{
	static uint8_t there[4096];
	size_t count = 0;

	assert_int_equal(uext4_mincore(w->fs, p, pages * PAGE, there), 0);
	for (size_t i = 0; i < pages; i++)
		count += there[i];
	return count;
}

/* Who reads by calls, ahead, or all at once keeps to the budget too. */
static void test_budget(void **state)
{
	static uint8_t back[MIB];
	const size_t size = 12 * MIB;
	struct uext4_stats stats;
	struct world w;
	uint8_t *p;
	size_t got;

	(void)state;
	make_image(PLAIN, 48);
	open_world(&w, 2 * MIB);
	set_size(&w, size);
	p = map_shared(&w, size);
	for (size_t at = 0; at < size; at += MIB)
		assert_int_equal(uext4_pread(w.file, back, MIB, at, &got), 0);
	assert_true(pages_in_memory(&w, p, size / PAGE) < 6 * MIB / PAGE);
	assert_int_equal(uext4_madvise(w.fs, p, size, UEXT4_MADV_WILLNEED), 0);
	assert_true(pages_in_memory(&w, p, size / PAGE) < 6 * MIB / PAGE);
	for (size_t at = 0; at < size; at += MIB)
		fill(&w, 5, MIB, at);
	assert_int_equal(uext4_fsync(w.file, 0), 0);
	fill(&w, 6, PAGE, 0);
	assert_true(pages_in_memory(&w, p, size / PAGE) < 6 * MIB / PAGE);
	unmap(&w, p, size);
	p = map(&w, 0, size, UEXT4_PROT_READ, UEXT4_MAP_SHARED | UEXT4_MAP_POPULATE);
	assert_true(pages_in_memory(&w, p, size / PAGE) < 6 * MIB / PAGE);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(uext4_madvise(w.fs, p, size, UEXT4_MADV_DONTNEED), 0);
	assert_int_equal(uext4_stats(w.fs, &stats), 0);
	assert_true(stats.cache_bytes < MIB);
	unmap(&w, p, size);
	end(&w);
}

static unsigned open_fds(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* A file that nobody uses any more does not keep its memfd for long. */
static void test_many_files(void **state)
{
	struct uext4_new new = { .mode = 0100644 };
	struct world w;

	(void)state;
	begin(&w, PLAIN, 16);
	for (unsigned i = 0; i < 400; i++) {
		struct uext4_file *file;
		char name[16];
		uint32_t ino;
		void *addr;

		snprintf(name, sizeof(name), "f%u", i);
		assert_int_equal(uext4_create(w.fs, UEXT4_ROOT_INO, name, strlen(name), &new, &ino),
				 0);
		assert_int_equal(uext4_file_open(w.fs, ino, UEXT4_FILE_WRITE, &file), 0);
		assert_int_equal(uext4_fallocate(file, 0, 0, PAGE), 0);
		assert_int_equal(uext4_mmap(file, 0, PAGE, RW, UEXT4_MAP_SHARED, &addr), 0);
		assert_int_equal(store_byte(&w, addr, (uint8_t)i), 0);
		assert_int_equal(uext4_msync(w.fs, addr, PAGE, UEXT4_MS_SYNC), 0);
		assert_int_equal(uext4_munmap(w.fs, addr, PAGE), 0);
		uext4_file_close(file);
	}
	assert_true(open_fds() < 200);
	end(&w);
}

/* ---- against a model ----------------------------------------------------------------------- */

struct recipe {
	const char *mke2fs;
	unsigned mib;
	size_t size_max;
	uint32_t data_mode;
	uint32_t flags;
	bool block_map;
};

static const struct recipe recipes[] = {
	{ PLAIN, 32, 200000, .flags = 0 },
	{ SMALL, 32, 100000, .flags = 0 },
	{ INLINE, 32, 400, .flags = 0 },
	{ INLINE, 32, 9000, .flags = 0 },
	{ "mke2fs -q -F -t ext4 -b 1024 -O inline_data -I 1024", 32, 3000, .flags = 0 },
	{ "mke2fs -q -F -t ext3 -b 1024", 32, 100000, .block_map = true },
	{ "mke2fs -q -F -t ext4 -b 1024 -O bigalloc,^has_journal -C 16384", 32, 100000,
	  .flags = 0 },
	{ "mke2fs -q -F -t ext4 -b 65536 -O ^resize_inode", 128, 400000, .flags = 0 },
	{ PLAIN, 32, 200000, .data_mode = UEXT4_DATA_JOURNAL },
	{ SMALL, 32, 100000, .data_mode = UEXT4_DATA_JOURNAL },
	{ PLAIN, 32, 200000, .flags = UEXT4_OPEN_NODELALLOC },
};

#define MAPPED_BYTES (128 * PAGE)

struct run {
	struct world w;
	const struct recipe *recipe;
	uint8_t *p[2]; /* two mappings of the file */
	uint8_t model[MAPPED_BYTES];
	size_t size;
};

static uint64_t below(uint64_t end)
{
	return (rnd_of(&seed) >> 11) % end;
}

static void run_open(struct run *r)
{
	more_options.data_mode = r->recipe->data_mode;
	more_options.flags = r->recipe->flags;
	open_world(&r->w, 2 * MIB);
	for (unsigned i = 0; i < 2; i++)
		r->p[i] = map_shared(&r->w, MAPPED_BYTES);
}

static void run_close(struct run *r)
{
	for (unsigned i = 0; i < 2; i++)
		unmap(&r->w, r->p[i], MAPPED_BYTES);
	close_world(&r->w);
	check_image();
}

static size_t some_length(size_t most)
{
	static const size_t scales[] = { 8, 100, 1024, 5000, 70000 };

	return 1 + below(scales[below(ARRAY_SIZE(scales))]) % most;
}

/* All of it, through one mapping and by a call; and what comes behind the end. */
static void run_compare(struct run *r)
{
	static uint8_t got[MAPPED_BYTES];
	size_t pages = (r->size + PAGE - 1) / PAGE, done;

	assert_int_equal(load(&r->w, r->p[below(2)], got, r->size), 0);
	assert_memory_equal(got, r->model, r->size);
	assert_int_equal(uext4_pread(r->w.file, got, MAPPED_BYTES, 0, &done), 0);
	assert_int_equal(done, r->size);
	assert_memory_equal(got, r->model, r->size);
	assert_int_equal(load_byte(&r->w, r->p[0] + pages * PAGE), -SIGBUS);
}

static void run_resize(struct run *r, size_t size)
{
	set_size(&r->w, size);
	if (size < r->size)
		memset(r->model + size, 0, r->size - size);
	r->size = size;
}

static void run_fallocate(struct run *r, size_t at, size_t len)
{
	uint32_t flags = below(2) ? UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_KEEP_SIZE : 0;
	int err;

	if (!flags && below(2))
		flags = UEXT4_FALLOC_ZERO_RANGE;
	if (r->recipe->block_map && !(flags & UEXT4_FALLOC_PUNCH_HOLE))
		return;
	err = uext4_fallocate(r->w.file, flags, at, len);
	if (err < 0)
		fprintf(stderr, "fallocate %x: %s\n", flags, uext4_last_error());
	assert_int_equal(err, 0);
	if (flags)
		memset(r->model + at, 0, len);
	if (!(flags & UEXT4_FALLOC_KEEP_SIZE) && at + len > r->size)
		r->size = at + len;
}

static void run_step(struct run *r)
{
	static uint8_t data[MAPPED_BYTES];
	size_t max = r->recipe->size_max, at = below(max), len = some_length(max - at);
	size_t inside = r->size ? below(r->size) : 0;

	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)rnd_of(&seed);
	switch (below(12)) {
	default:
		if (r->size == 0)
			break;
		len = len < r->size - inside ? len : r->size - inside;
		assert_int_equal(store(&r->w, r->p[below(2)] + inside, data, len), 0);
		memcpy(r->model + inside, data, len);
		break;
	case 0:
	case 1:
		put(&r->w, data, len, at);
		memcpy(r->model + at, data, len);
		r->size = r->size > at + len ? r->size : at + len;
		break;
	case 2: run_resize(r, below(3) ? at : r->size + below(max - r->size + 1)); break;
	case 3: run_fallocate(r, at, len); break;
	case 4: assert_int_equal(uext4_fsync(r->w.file, 0), 0); break;
	case 5:
		assert_int_equal(uext4_madvise(r->w.fs, r->p[0], MAPPED_BYTES, UEXT4_MADV_DONTNEED),
				 0);
		break;
	case 6:
		/* Behind the end of the last page: nobody ever sees it. */
		if (r->size % PAGE != 0)
			assert_int_equal(store_byte(&r->w, r->p[0] + r->size, 99), 0);
		break;
	case 7: run_compare(r); break;
	}
}

static void test_model(void **state)
{
	struct run *r = calloc(1, sizeof(*r));

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(recipes); i++) {
		memset(r, 0, sizeof(*r));
		r->recipe = &recipes[i];
		make_image(r->recipe->mke2fs, r->recipe->mib);
		run_open(r);
		for (unsigned step = 0; step < steps; step++) {
			run_step(r);
			if (step % 100 == 99) {
				run_close(r);
				run_open(r);
				run_compare(r);
			}
		}
		run_compare(r);
		run_close(r);
		unlink(image);
	}
	memset(&more_options, 0, sizeof(more_options));
	free(r);
}

/* ---- mappings ------------------------------------------------------------------------------ */

static void test_private(void **state)
{
	struct world w;
	uint8_t *p, *s;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 1, 4 * PAGE, 0);
	p = map(&w, 0, 4 * PAGE, RW, UEXT4_MAP_PRIVATE);
	s = map_shared(&w, 4 * PAGE);
	assert_int_equal(store_byte(&w, p, 2), 0);
	assert_int_equal(load_byte(&w, p + PAGE), 1);
	assert_int_equal(store_byte(&w, p + PAGE, 3), 0);
	assert_int_equal(load_byte(&w, s), 1);
	assert_int_equal(get(&w, PAGE), 1);
	assert_int_equal(load_byte(&w, p), 2);
	assert_int_equal(load_byte(&w, p + PAGE), 3);
	/* Not stored to yet: the file's. */
	assert_int_equal(store_byte(&w, s + 2 * PAGE, 4), 0);
	assert_int_equal(load_byte(&w, p + 2 * PAGE), 4);
	assert_int_equal(uext4_msync(w.fs, s, 4 * PAGE, UEXT4_MS_SYNC), 0);
	assert_int_equal(uext4_madvise(w.fs, p, 4 * PAGE, UEXT4_MADV_DONTNEED), 0);
	assert_int_equal(load_byte(&w, p), 2);
	assert_int_equal(load_byte(&w, p + 2 * PAGE), 4);
	set_size(&w, PAGE);
	assert_int_equal(load_byte(&w, p + PAGE), -SIGBUS);
	assert_int_equal(load_byte(&w, p), 2);
	unmap(&w, p, 4 * PAGE);
	unmap(&w, s, 4 * PAGE);
	end(&w);
}

static void test_parts(void **state)
{
	uint8_t vec[8];
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 1, 8 * PAGE, 0);
	p = map(&w, PAGE, 7 * PAGE, UEXT4_PROT_READ, UEXT4_MAP_SHARED);
	assert_int_equal(store_byte(&w, p, 2), SIGSEGV);
	assert_int_equal(load_byte(&w, p + 6 * PAGE), 1);
	assert_int_equal(uext4_mprotect(w.fs, p + 2 * PAGE, PAGE, RW), 0);
	assert_int_equal(store_byte(&w, p + PAGE, 2), SIGSEGV);
	assert_int_equal(store_byte(&w, p + 2 * PAGE, 2), 0);
	assert_int_equal(get(&w, 3 * PAGE), 2);
	assert_int_equal(uext4_mprotect(w.fs, p + 2 * PAGE, PAGE, UEXT4_PROT_READ), 0);
	assert_int_equal(store_byte(&w, p + 2 * PAGE, 3), SIGSEGV);
	assert_int_equal(uext4_mprotect(w.fs, p, 7 * PAGE, RW), 0);
	assert_int_equal(store_byte(&w, p + 2 * PAGE, 3), 0);
	unmap(&w, p + 3 * PAGE, 2 * PAGE);
	assert_int_equal(store_byte(&w, p + 2 * PAGE, 4), 0);
	assert_int_equal(store_byte(&w, p + 5 * PAGE, 5), 0);
	assert_int_equal(load_byte(&w, p + 4 * PAGE), -SIGSEGV);
	assert_int_equal(get(&w, 3 * PAGE), 4);
	assert_int_equal(get(&w, 6 * PAGE), 5);
	assert_int_equal(uext4_mprotect(w.fs, p, 7 * PAGE, RW), -ENOMEM);
	assert_int_equal(uext4_msync(w.fs, p, 7 * PAGE, UEXT4_MS_SYNC), -ENOMEM);
	assert_int_equal(uext4_mincore(w.fs, p, 3 * PAGE, vec), 0);
	assert_int_equal(vec[2], 1);
	assert_int_equal(uext4_msync(w.fs, p, 3 * PAGE, UEXT4_MS_SYNC), 0);
	assert_int_equal(uext4_madvise(w.fs, p, 3 * PAGE, UEXT4_MADV_DONTNEED), 0);
	assert_int_equal(uext4_madvise(w.fs, p, 3 * PAGE, UEXT4_MADV_DONTNEED), 0);
	assert_int_equal(uext4_mincore(w.fs, p, 3 * PAGE, vec), 0);
	assert_int_equal(vec[1], 0);
	assert_int_equal(uext4_madvise(w.fs, p, 3 * PAGE, UEXT4_MADV_WILLNEED), 0);
	assert_int_equal(uext4_mincore(w.fs, p, 3 * PAGE, vec), 0);
	assert_int_equal(vec[1], 1);
	assert_int_equal(load_byte(&w, p + 2 * PAGE), 4);
	unmap(&w, p, 7 * PAGE);
	unmap(&w, p, 7 * PAGE);
	end(&w);
}

static void test_mistakes(void **state)
{
	struct uext4_file *reader;
	struct world w;
	void *addr;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 1, PAGE, 0);
	assert_int_equal(uext4_fsync(w.file, 0), 0);
	assert_int_equal(uext4_file_open(w.fs, uext4_file_ino(w.file), 0, &reader), 0);
	assert_int_equal(uext4_mmap(reader, 0, PAGE, RW, UEXT4_MAP_SHARED, &addr), -EACCES);
	assert_int_equal(uext4_mmap(reader, 0, PAGE, RW, 0, &addr), -EINVAL);
	assert_int_equal(uext4_mmap(reader, 1, PAGE, RW, UEXT4_MAP_PRIVATE, &addr), -EINVAL);
	assert_int_equal(uext4_mmap(reader, 0, 0, RW, UEXT4_MAP_PRIVATE, &addr), -EINVAL);
	assert_int_equal(uext4_mmap(reader, 0, PAGE, UEXT4_PROT_READ, UEXT4_MAP_SHARED, &addr), 0);
	assert_int_equal(uext4_mprotect(w.fs, addr, PAGE, RW), -EACCES);
	assert_int_equal(load_byte(&w, addr), 1);
	uext4_file_close(reader);
	assert_int_equal(load_byte(&w, addr), 1);
	assert_int_equal(uext4_txn_begin(w.fs), -EBUSY);
	assert_int_equal(uext4_munmap(w.fs, (uint8_t *)addr + 1, PAGE), -EINVAL);
	unmap(&w, addr, PAGE);
	assert_int_equal(load_byte(&w, addr), -SIGSEGV);
	end(&w);
}

/* An image that is open for reading. */
static void test_read_only(void **state)
{
	struct uext4_file *file;
	struct uext4_fs *fs;
	struct world w;
	void *shared, *private;
	uint32_t ino;

	(void)state;
	if (soft)
		skip();
	begin(&w, INLINE, 16);
	fill(&w, 5, 60, 0);
	close_world(&w);
	assert_int_equal(uext4_open(image, NULL, &fs), 0);
	assert_int_equal(uext4_lookup(fs, UEXT4_ROOT_INO, "f", 1, &ino), 0);
	assert_int_equal(uext4_file_open(fs, ino, 0, &file), 0);
	assert_int_equal(uext4_mmap(file, 0, PAGE, UEXT4_PROT_READ, UEXT4_MAP_SHARED, &shared), 0);
	assert_int_equal(uext4_mmap(file, 0, PAGE, RW, UEXT4_MAP_PRIVATE, &private), 0);
	assert_int_equal(load_byte(&w, shared), 5);
	assert_int_equal(store_byte(&w, private, 6), 0);
	assert_int_equal(store_byte(&w, shared, 6), SIGSEGV);
	assert_int_equal(load_byte(&w, shared), 5);
	assert_int_equal(uext4_msync(fs, shared, PAGE, UEXT4_MS_SYNC), 0);
	uext4_file_close(file);
	assert_int_equal(uext4_munmap(fs, shared, PAGE), 0);
	assert_int_equal(uext4_munmap(fs, private, PAGE), 0);
	assert_int_equal(uext4_close(fs), 0);
	check_image();
	unlink(image);
}

/* A file without a name lives as long as its mapping. */
static void test_unlinked(void **state)
{
	struct world w;
	uint64_t free_before;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	free_before = blocks_free(&w);
	fill(&w, 1, 64 * PAGE, 0);
	p = map_shared(&w, 64 * PAGE);
	uext4_file_close(w.file);
	assert_int_equal(uext4_unlink(w.fs, UEXT4_ROOT_INO, "f", 1), 0);
	assert_int_equal(store_byte(&w, p + 9, 4), 0);
	assert_int_equal(load_byte(&w, p + 9), 4);
	unmap(&w, p, 64 * PAGE);
	assert_int_equal(blocks_free(&w), free_before);
	w.file = NULL;
	end(&w);
}

/* ---- the hook ------------------------------------------------------------------------------ */

struct heard {
	struct world *w;
	unsigned begins, ends;
	int answer;
};

static int hear(void *arg, uint32_t ino, bool mapped)
{
	struct heard *heard = arg;
	struct uext4_stat stat;
	size_t done;

	/* Nothing is held, so it may do anything; and it is the first to know and the last. */
	assert_int_equal(uext4_stat(heard->w->fs, ino, &stat), 0);
	assert_int_equal(stat.is_mapped, 0);
	assert_int_equal(uext4_pwrite(heard->w->file, "hook", 4, 0, &done), 0);
	if (!mapped)
		heard->ends++;
	else if (heard->answer == 0)
		heard->begins++;
	return mapped ? heard->answer : 0;
}

static void test_hook(void **state)
{
	struct world w;
	struct heard heard = { .w = &w };
	struct uext4_stat stat;
	uint32_t ino;
	uint8_t *p, *q;
	void *none;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 1, 8 * PAGE, 0);
	assert_int_equal(uext4_lookup(w.fs, UEXT4_ROOT_INO, "f", 1, &ino), 0);
	assert_int_equal(uext4_set_map_hook(w.fs, hear, &heard), 0);
	heard.answer = -EBUSY;
	assert_int_equal(uext4_mmap(w.file, 0, PAGE, UEXT4_PROT_READ, UEXT4_MAP_SHARED, &none),
			 -EBUSY);
	heard.answer = 0;
	p = map_shared(&w, 8 * PAGE);
	assert_int_equal(heard.begins, 1);
	assert_int_equal(load_byte(&w, p), 'h');
	q = map_shared(&w, PAGE);
	/* In three parts. */
	unmap(&w, p + 2 * PAGE, PAGE);
	unmap(&w, p, 2 * PAGE);
	unmap(&w, q, PAGE);
	assert_int_equal(uext4_stat(w.fs, ino, &stat), 0);
	assert_int_equal(stat.is_mapped, 1);
	assert_int_equal(heard.ends, 0);
	assert_int_equal(uext4_set_map_hook(w.fs, hear, &heard), -EBUSY);
	unmap(&w, p + 3 * PAGE, 5 * PAGE);
	assert_int_equal(heard.ends, 1);
	p = map_shared(&w, PAGE);
	assert_int_equal(heard.begins, 2);
	assert_int_equal(uext4_set_map_hook(w.fs, NULL, NULL), 0);
	unmap(&w, p, PAGE);
	assert_int_equal(heard.ends, 1);
	end(&w);
}

/* ---- buffers ------------------------------------------------------------------------------- */

static void test_buffers(void **state)
{
	struct world w;
	uint8_t *p;
	size_t done;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 1, 8 * PAGE, 0);
	assert_int_equal(uext4_fsync(w.file, 0), 0);
	p = map_shared(&w, 8 * PAGE);
	/* None of it was touched: the call itself faults. */
	assert_int_equal(uext4_pwrite(w.file, p + 4 * PAGE, 2 * PAGE, 0, &done), 0);
	assert_int_equal(done, 2 * PAGE);
	assert_int_equal(store_byte(&w, p + 10, 2), 0);
	assert_int_equal(uext4_pwrite(w.file, p + 8, 100, 16, &done), 0);
	assert_int_equal(load_byte(&w, p + 18), 2);
	assert_int_equal(uext4_pread(w.file, p + 3 * PAGE, PAGE, 0, &done), 0);
	assert_int_equal(load_byte(&w, p + 3 * PAGE + 18), 2);
	assert_int_equal(get(&w, 3 * PAGE + 18), 2);
	assert_int_equal(uext4_pread(w.file, p + 1, PAGE, 0, &done), 0);
	assert_int_equal(load_byte(&w, p + 19), 2);
	assert_int_equal(uext4_fsync(w.file, 0), 0);
	assert_int_equal(uext4_madvise(w.fs, p, 8 * PAGE, UEXT4_MADV_DONTNEED), 0);
	assert_int_equal(uext4_pwrite(w.file, p, 8 * PAGE, PAGE, &done), 0);
	assert_int_equal(load_byte(&w, p + PAGE + 19), 2);
	unmap(&w, p, 8 * PAGE);
	end(&w);
}

/* From a mapping of one image into a file of another, which is frozen when the copying begins. */
static void test_two_images(void **state)
{
	char first_image[64];
	struct world a, b;
	uint8_t *p;
	size_t done;

	(void)state;
	begin(&a, PLAIN, 16);
	strcpy(first_image, image);
	begin(&b, PLAIN, 16);
	fill(&a, 1, 4 * PAGE, 0);
	p = map_shared(&a, 4 * PAGE);
	assert_int_equal(uext4_freeze(a.fs), 0);
	assert_int_equal(uext4_pwrite(b.file, p, 4 * PAGE, 0, &done), 0);
	assert_int_equal(uext4_thaw(a.fs), 0);
	assert_int_equal(get(&b, 2 * PAGE), 1);
	unmap(&a, p, 4 * PAGE);
	uext4_file_close(a.file);
	assert_int_equal(uext4_close(a.fs), 0);
	end(&b);
	strcpy(image, first_image);
	check_image();
	unlink(image);
}

/* ---- when something is short or broken ----------------------------------------------------- */

/* Takes every block that @more flags of a file let it have; the file that has them. */
static struct uext4_file *fill_disk_as(struct world *w, uint32_t more)
{
	struct uext4_new new = { .mode = 0100644 };
	static uint8_t data[MIB];
	struct uext4_file *file;
	uint64_t at = 0;
	uint32_t ino;
	size_t done, step = MIB;

	assert_int_equal(uext4_create(w->fs, UEXT4_ROOT_INO, "full", 4, &new, &ino), 0);
	assert_int_equal(uext4_file_open(w->fs, ino, UEXT4_FILE_WRITE | more, &file), 0);
	while (step >= 512) {
		if (uext4_pwrite(file, data, step, at, &done) < 0)
			done = 0;
		at += done;
		if (done < step)
			step /= 2;
	}
	assert_int_equal(uext4_fsync(file, 0), 0);
	return file;
}

static struct uext4_file *fill_disk(struct world *w)
{
	return fill_disk_as(w, 0);
}

/* The reserved blocks are not for stores through a file of somebody without privileges. */
static void test_reserved_blocks(void **state)
{
	struct uext4_file *full, *file;
	struct world w;
	void *addr;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	set_size(&w, 4 * PAGE);
	p = map_shared(&w, 4 * PAGE);
	assert_int_equal(uext4_file_open(w.fs, uext4_file_ino(w.file),
					 UEXT4_FILE_WRITE | UEXT4_FILE_KILL_PRIV, &file),
			 0);
	assert_int_equal(uext4_mmap(file, 0, 4 * PAGE, RW, UEXT4_MAP_SHARED, &addr), 0);
	full = fill_disk_as(&w, UEXT4_FILE_KILL_PRIV);
	assert_int_equal(store_byte(&w, (uint8_t *)addr + PAGE, 1), SIGBUS);
	assert_int_equal(store_byte(&w, p + 2 * PAGE, 2), 0);
	assert_int_equal(get(&w, 2 * PAGE), 2);
	uext4_file_close(full);
	uext4_file_close(file);
	unmap(&w, addr, 4 * PAGE);
	unmap(&w, p, 4 * PAGE);
	end(&w);
}

static void test_full_disk(void **state)
{
	struct world w;
	struct uext4_file *full;
	struct uext4_attr cut = { .valid = UEXT4_ATTR_SIZE };
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 1, PAGE, 0);
	assert_int_equal(uext4_fallocate(w.file, 0, 2 * PAGE, PAGE), 0);
	set_size(&w, 8 * PAGE);
	p = map_shared(&w, 8 * PAGE);
	full = fill_disk(&w);
	assert_int_equal(store_byte(&w, p, 2), 0);
	assert_int_equal(store_byte(&w, p + 2 * PAGE, 3), 0);
	assert_int_equal(load_byte(&w, p + 4 * PAGE), 0);
	assert_int_equal(store_byte(&w, p + 4 * PAGE, 4), SIGBUS);
	assert_int_equal(store_byte(&w, p + 5 * PAGE, 4), SIGBUS);
	assert_int_equal(uext4_msync(w.fs, p, 8 * PAGE, UEXT4_MS_SYNC), 0);
	assert_int_equal(uext4_setattr(w.fs, uext4_file_ino(full), &cut), 0);
	assert_int_equal(uext4_sync(w.fs), 0);
	usleep(100000); /* the poison goes */
	assert_int_equal(load_byte(&w, p + 4 * PAGE), 0);
	assert_int_equal(store_byte(&w, p + 4 * PAGE, 4), 0);
	assert_int_equal(store_byte(&w, p + 5 * PAGE, 5), 0);
	uext4_file_close(full);
	unmap(&w, p, 8 * PAGE);
	close_world(&w);
	open_world(&w, 0);
	assert_int_equal(get(&w, 2 * PAGE), 3);
	assert_int_equal(get(&w, 4 * PAGE), 4);
	assert_int_equal(get(&w, 5 * PAGE), 5);
	end(&w);
}

/* Blocks that were freed, but not committed yet, are room for a store. */
static void test_room_of_deleted(void **state)
{
	struct uext4_attr cut = { .valid = UEXT4_ATTR_SIZE };
	struct uext4_file *full;
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	set_size(&w, 8 * PAGE);
	p = map_shared(&w, 8 * PAGE);
	full = fill_disk(&w);
	assert_int_equal(load_byte(&w, p + 4 * PAGE), 0);
	assert_int_equal(uext4_setattr(w.fs, uext4_file_ino(full), &cut), 0);
	assert_int_equal(store_byte(&w, p + 4 * PAGE, 4), 0);
	assert_int_equal(get(&w, 4 * PAGE), 4);
	uext4_file_close(full);
	unmap(&w, p, 8 * PAGE);
	end(&w);
}

/* In its inode a file has its room: stores to it always work. */
static void test_full_disk_inline(void **state)
{
	struct uext4_file *full;
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, INLINE, 16);
	fill(&w, 1, 90, 0);
	p = map_shared(&w, PAGE);
	full = fill_disk(&w);
	assert_int_equal(store_byte(&w, p + 50, 2), 0);
	assert_int_equal(uext4_msync(w.fs, p, PAGE, UEXT4_MS_SYNC), 0);
	assert_int_equal(store_byte(&w, p + 51, 3), 0);
	uext4_file_close(full);
	unmap(&w, p, PAGE);
	close_world(&w);
	check_image();
	open_world(&w, 0);
	assert_int_equal(get(&w, 50), 2);
	assert_int_equal(get(&w, 51), 3);
	end(&w);
}

static void test_read_error(void **state)
{
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 1, 64 * PAGE, 0);
	close_world(&w);
	open_world(&w, 0);
	p = map_shared(&w, 64 * PAGE);
	assert_int_equal(load_byte(&w, p), 1);
	dev_fail_for_good(w.fail, true);
	dev_fail_nth_read(w.fail, 1);
	assert_int_equal(load_byte(&w, p + 50 * PAGE), -SIGBUS);
	assert_int_equal(store_byte(&w, p + 51 * PAGE, 1), SIGBUS);
	dev_fail_for_good(w.fail, false);
	dev_fail_nth_read(w.fail, 0);
	usleep(100000);
	assert_int_equal(load_byte(&w, p + 50 * PAGE), 1);
	assert_int_equal(store_byte(&w, p + 51 * PAGE, 2), 0);
	unmap(&w, p, 64 * PAGE);
	end(&w);
}

struct job {
	struct world *w;
	uint8_t *addr;
	_Atomic bool done;
	pthread_t thread;
};

static void *store_job(void *arg)
{
	struct job *job = arg;

	CHECK(store_byte(job->w, job->addr, 5) == 0);
	atomic_store(&job->done, true);
	return NULL;
}

#define STORERS 12u

static void test_frozen(void **state)
{
	struct job jobs[STORERS];
	struct uext4_pin *pin;
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 1, 64 * PAGE, 0);
	p = map_shared(&w, 64 * PAGE);
	assert_int_equal(load_byte(&w, p), 1);
	assert_int_equal(uext4_freeze(w.fs), 0);
	for (unsigned i = 0; i < STORERS; i++) {
		jobs[i] = (struct job){ .w = &w, .addr = p + i * PAGE };
		pthread_create(&jobs[i].thread, NULL, store_job, &jobs[i]);
	}
	assert_int_equal(uext4_pin(w.fs, p, PAGE, UEXT4_PIN_WRITE, &pin), -EAGAIN);
	/* Loads go on, also of what has to be read, however many stores wait. */
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(load_byte(&w, p + i * PAGE), 1);
	usleep(50000);
	for (unsigned i = 0; i < STORERS; i++)
		assert_false(atomic_load(&jobs[i].done));
	assert_int_equal(get(&w, 0), 1);
	assert_int_equal(uext4_thaw(w.fs), 0);
	for (unsigned i = 0; i < STORERS; i++)
		pthread_join(jobs[i].thread, NULL);
	assert_int_equal(get(&w, 5 * PAGE), 5);
	unmap(&w, p, 64 * PAGE);
	end(&w);
}

static void *lost_job(void *arg)
{
	struct job *job = arg;

	CHECK(store_byte(job->w, job->addr, 5) == SIGSEGV);
	return NULL;
}

/* Threads that wait in a store are not forgotten when their mapping goes. */
static void test_unmapped_meanwhile(void **state)
{
	struct job jobs[STORERS];
	struct world w;
	uint8_t *p;

	(void)state;
	if (soft)
		skip();
	begin(&w, PLAIN, 16);
	fill(&w, 1, 64 * PAGE, 0);
	p = map_shared(&w, 64 * PAGE);
	assert_int_equal(uext4_freeze(w.fs), 0);
	for (unsigned i = 0; i < STORERS; i++) {
		jobs[i] = (struct job){ .w = &w, .addr = p + i / 2 * PAGE };
		pthread_create(&jobs[i].thread, NULL, lost_job, &jobs[i]);
	}
	usleep(30000);
	unmap(&w, p, 64 * PAGE);
	for (unsigned i = 0; i < STORERS; i++)
		pthread_join(jobs[i].thread, NULL);
	assert_int_equal(uext4_thaw(w.fs), 0);
	end(&w);
}

/* Counts up in a byte until the mapping is gone; the last that was stored. */
struct counting {
	uint8_t *addr;
	uint8_t last;
	_Atomic bool started;
};

static void *count_job(void *arg)
{
	struct counting *c = arg;
	uint8_t next = 1;

	while (copy(c->addr, &next, 1) == 0) {
		c->last = next++;
		atomic_store(&c->started, true);
	}
	return NULL;
}

static void *sync_job(void *arg)
{
	struct job *job = arg;

	while (!atomic_load(&job->done))
		CHECK(uext4_fsync(job->w->file, 0) == 0);
	return NULL;
}

#define ALIASES 400u

/*
 * A store that works while its mapping is going is in the file.  There are many mappings, so that
 * the last of them stays for a while.
 */
static void test_store_while_unmapping(void **state)
{
	struct job job;
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 0, 64 * PAGE, 0);
	p = map_shared(&w, PAGE);
	job = (struct job){ .w = &w };
	pthread_create(&job.thread, NULL, sync_job, &job);
	for (unsigned round = 0; round < 20; round++) {
		uintptr_t low = UINTPTR_MAX, high = 0;
		struct counting c = { 0 };
		pthread_t thread;

		for (unsigned i = 0; i < ALIASES; i++) {
			uint8_t *q = map(&w, 0, 64 * PAGE, RW, UEXT4_MAP_SHARED);

			/* Not p, which is further away. */
			low = (uintptr_t)q < low ? (uintptr_t)q : low;
			if ((uintptr_t)q > high) {
				high = (uintptr_t)q;
				c.addr = q;
			}
			assert_int_equal(load_byte(&w, q + PAGE), 0);
		}
		assert_true((uintptr_t)p >= high + 64 * PAGE || (uintptr_t)p < low);
		pthread_create(&thread, NULL, count_job, &c);
		while (!atomic_load(&c.started))
			usleep(100);
		unmap(&w, (void *)low, high + 64 * PAGE - low);
		pthread_join(thread, NULL);
		assert_int_equal(uext4_fsync(w.file, 0), 0);
		for (unsigned i = 0; i < 2; i++) /* the first takes the mark of recent use away */
			assert_int_equal(uext4_madvise(w.fs, p, PAGE, UEXT4_MADV_DONTNEED), 0);
		assert_int_equal(pages_in_memory(&w, p, 1), 0);
		assert_int_equal(load_byte(&w, p), c.last);
	}
	atomic_store(&job.done, true);
	pthread_join(job.thread, NULL);
	unmap(&w, p, PAGE);
	end(&w);
}

struct protecting {
	struct world *w;
	void *addr;
	uint32_t prot;
};

static void *protect_job(void *arg)
{
	struct protecting *p = arg;

	CHECK(uext4_mprotect(p->w->fs, p->addr, PAGE, p->prot) == 0);
	return NULL;
}

/* Of two changes at once one comes last, for the host and for us. */
static void test_protect_twice(void **state)
{
	struct uext4_pin *pin;
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 0, PAGE, 0);
	p = map_shared(&w, PAGE);
	assert_int_equal(store_byte(&w, p, 1), 0); /* stays writable for us: no sync comes */
	for (unsigned round = 0; round < 3000; round++) {
		struct protecting jobs[] = { { &w, p, RW }, { &w, p, UEXT4_PROT_READ } };
		pthread_t threads[2];
		int err;

		for (unsigned i = 0; i < 2; i++)
			pthread_create(&threads[i], NULL, protect_job, &jobs[i]);
		for (unsigned i = 0; i < 2; i++)
			pthread_join(threads[i], NULL);
		err = uext4_pin(w.fs, p, PAGE, UEXT4_PIN_WRITE, &pin);
		assert_true(err == 0 || err == -EACCES);
		assert_int_equal(store_byte(&w, p, 2), err == 0 ? 0 : SIGSEGV);
		if (err == 0)
			uext4_unpin(pin);
	}
	unmap(&w, p, PAGE);
	end(&w);
}

/* Many threads, one page: all messages are answered. */
static void test_one_page(void **state)
{
	struct job jobs[STORERS];
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 1, 4 * PAGE, 0);
	p = map_shared(&w, 4 * PAGE);
	for (unsigned round = 0; round < 30; round++) {
		assert_int_equal(uext4_msync(w.fs, p, 4 * PAGE, UEXT4_MS_SYNC), 0);
		assert_int_equal(uext4_madvise(w.fs, p, 4 * PAGE, UEXT4_MADV_DONTNEED), 0);
		for (unsigned i = 0; i < STORERS; i++) {
			jobs[i] = (struct job){ .w = &w, .addr = p + i };
			pthread_create(&jobs[i].thread, NULL, store_job, &jobs[i]);
		}
		for (unsigned i = 0; i < STORERS; i++)
			pthread_join(jobs[i].thread, NULL);
	}
	assert_int_equal(get(&w, STORERS - 1), 5);
	unmap(&w, p, 4 * PAGE);
	end(&w);
}

/* ---- pins ---------------------------------------------------------------------------------- */

static void *truncate_job(void *arg)
{
	struct job *job = arg;
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE, .size = PAGE };

	CHECK(uext4_setattr(job->w->fs, uext4_file_ino(job->w->file), &attr) == 0);
	atomic_store(&job->done, true);
	return NULL;
}

static void test_pins(void **state)
{
	struct uext4_pin *pin, *second;
	struct job job;
	struct world w;
	uint8_t *p;

	(void)state;
	begin(&w, PLAIN, 16);
	fill(&w, 1, 8 * PAGE, 0);
	assert_int_equal(uext4_fsync(w.file, 0), 0);
	p = map_shared(&w, 16 * PAGE);
	assert_int_equal(uext4_pin(w.fs, p, 9 * PAGE, 0, &pin), -ERANGE);
	assert_int_equal(uext4_pin(w.fs, p, 4 * PAGE, UEXT4_PIN_WRITE, &pin), 0);
	assert_int_equal(uext4_pin(w.fs, p + 2 * PAGE, 4 * PAGE, 0, &second), 0);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(store_byte(&w, p + PAGE, (uint8_t)i), 0);
		assert_int_equal(uext4_msync(w.fs, p, 8 * PAGE, UEXT4_MS_SYNC), 0);
		assert_int_equal(uext4_madvise(w.fs, p, 8 * PAGE, UEXT4_MADV_DONTNEED), 0);
		/* No message: the handler could not help if it wanted to. */
		assert_int_equal(store_byte(&w, p + PAGE + 1, (uint8_t)i), 0);
		assert_int_equal(get(&w, PAGE + 1), i);
	}
	job = (struct job){ .w = &w };
	pthread_create(&job.thread, NULL, truncate_job, &job);
	usleep(30000);
	assert_false(atomic_load(&job.done));
	uext4_unpin(pin);
	usleep(30000);
	assert_false(atomic_load(&job.done));
	assert_int_equal(load_byte(&w, p + 5 * PAGE), 1);
	uext4_unpin(second);
	pthread_join(job.thread, NULL);
	assert_int_equal(load_byte(&w, p + 5 * PAGE), -SIGBUS);
	unmap(&w, p, 16 * PAGE);
	end(&w);
}

/* Pages that stay dirty leave room for those that do not. */
static void test_many_pins(void **state)
{
	const size_t size = 2 * MIB;
	struct uext4_pin *pin;
	struct world w;
	uint8_t *p;

	(void)state;
	make_image(PLAIN, 16);
	open_world(&w, 2 * MIB);
	fill(&w, 1, size, 0);
	p = map_shared(&w, size);
	alarm(60);
	assert_int_equal(uext4_pin(w.fs, p, size, UEXT4_PIN_WRITE, &pin), -ENOMEM);
	assert_int_equal(uext4_pin(w.fs, p, MIB / 4, UEXT4_PIN_WRITE, &pin), 0);
	fill(&w, 2, size, size);
	uext4_unpin(pin);
	assert_int_equal(uext4_pin(w.fs, p, MIB / 4, UEXT4_PIN_WRITE, &pin), 0);
	uext4_unpin(pin);
	alarm(0);
	unmap(&w, p, size);
	end(&w);
}

/* ---- processes ----------------------------------------------------------------------------- */

static void test_fork(void **state)
{
	struct world w;
	uint8_t *p;
	pid_t child;
	int status;

	(void)state;
	if (soft)
		skip();
	begin(&w, PLAIN, 16);
	fill(&w, 1, 8 * PAGE, 0);
	p = map_shared(&w, 8 * PAGE);
	assert_int_equal(store_byte(&w, p, 2), 0);
	child = fork();
	if (child == 0)
		_exit(load_byte(&w, p) == -SIGSEGV ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(load_byte(&w, p), 2);
	assert_int_equal(store_byte(&w, p + PAGE, 2), 0);
	unmap(&w, p, 8 * PAGE);
	end(&w);
}

/* What works for a user who is nobody: 0, or the first step that failed. */
static int as_nobody(void)
{
	int fds[2], result = 0;
	struct uext4_pin *pin;
	struct world w;
	uint8_t *p;
	void *addr;

	if (setgid(65534) < 0 || setuid(65534) < 0)
		return 1;
	open_world(&w, 0);
	if (uext4_mmap(w.file, 0, 8 * PAGE, RW, UEXT4_MAP_SHARED, &addr) < 0) {
		/* Where even that is forbidden the text says what to do about it. */
		return strstr(uext4_last_error(), "vm.unprivileged_userfaultfd") ? 0 : 2;
	}
	p = addr;
	if (load_byte(&w, p) != 1 || store_byte(&w, p, 2) != 0 || get(&w, 0) != 2)
		result = 3;
	/* The kernel's accesses work on pages that are there. */
	if (pipe(fds) < 0 || write(fds[1], p, PAGE) != PAGE)
		result = 4;
	if (uext4_pin(w.fs, p + 5 * PAGE, PAGE, UEXT4_PIN_WRITE, &pin) < 0 ||
	    write(fds[1], p + 5 * PAGE, PAGE) != PAGE || read(fds[0], p + 5 * PAGE, PAGE) != PAGE ||
	    load_byte(&w, p + 5 * PAGE) != 2)
		result = 5;
	uext4_unpin(pin);
	unmap(&w, p, 8 * PAGE);
	close_world(&w);
	return result;
}

static void test_unprivileged(void **state)
{
	struct world w;
	pid_t child;
	int status;

	(void)state;
	if (soft || getuid() != 0)
		skip();
	begin(&w, PLAIN, 16);
	fill(&w, 1, 8 * PAGE, 0);
	close_world(&w);
	assert_int_equal(chmod(image, 0666), 0);
	child = fork();
	if (child == 0)
		_exit(as_nobody());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	check_image();
	unlink(image);
}

/* A host that allows no userfaultfd(2), by a filter of system calls: the text says what to do. */
static int forbidden(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = ARRAY_SIZE(code), .filter = code };
	struct world w;
	void *addr;

	if (setgid(65534) < 0 || setuid(65534) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		return 77;
	open_world(&w, 0);
	if (uext4_mmap(w.file, 0, PAGE, RW, UEXT4_MAP_SHARED, &addr) != -EPERM)
		return 2;
	if (!strstr(uext4_last_error(), "vm.unprivileged_userfaultfd") ||
	    !strstr(uext4_last_error(), "/dev/userfaultfd"))
		return 3;
	close_world(&w);
	return 0;
}

static void test_forbidden(void **state)
{
	struct world w;
	pid_t child;
	int status;

	(void)state;
	if (soft || getuid() != 0 || access("/dev/userfaultfd", F_OK) < 0)
		skip();
	begin(&w, PLAIN, 16);
	close_world(&w);
	assert_int_equal(chmod(image, 0666), 0);
	child = fork();
	if (child == 0)
		_exit(forbidden());
	assert_int_equal(waitpid(child, &status, 0), child);
	unlink(image);
	if (status == 77 << 8)
		skip();
	assert_int_equal(status, 0);
}

/* ---- threads ------------------------------------------------------------------------------- */

#define THREADS 6u
#define FILE_PAGES 700u

/* Each thread has bytes of its own in every page. */
struct walker {
	struct world *w;
	uint8_t *p;
	unsigned number;
	pthread_t thread;
	uint8_t model[FILE_PAGES];
};

static void *walk_job(void *arg)
{
	struct walker *t = arg;
	uint64_t state = 77 + t->number * 1234567u;

	for (unsigned i = 0; i < 3000; i++) {
		size_t page = rnd_of(&state) % FILE_PAGES;
		size_t at = page * PAGE + t->number * 64;
		uint8_t byte = (uint8_t)rnd_of(&state);
		size_t done;

		switch (rnd_of(&state) % 4) {
		case 0: CHECK(load_byte(t->w, t->p + at) == t->model[page]); break;
		case 1:
			CHECK(uext4_pwrite(t->w->file, &byte, 1, at, &done) == 0 && done == 1);
			t->model[page] = byte;
			break;
		default: CHECK(store_byte(t->w, t->p + at, byte) == 0); t->model[page] = byte;
		}
		if (i % 300 == 17 * t->number)
			CHECK(uext4_fsync(t->w->file, 0) == 0);
		if (i % 300 == 150)
			CHECK(uext4_madvise(t->w->fs, t->p, FILE_PAGES * PAGE,
					    UEXT4_MADV_DONTNEED) == 0);
		if (i % 500 == 80 * t->number) {
			void *more;

			CHECK(uext4_mmap(t->w->file, 0, FILE_PAGES * PAGE, RW,
					 i % 2 ? UEXT4_MAP_SHARED : UEXT4_MAP_PRIVATE, &more) == 0);
			CHECK(load_byte(t->w, (uint8_t *)more + at) == t->model[page]);
			CHECK(uext4_munmap(t->w->fs, more, FILE_PAGES * PAGE) == 0);
		}
	}
	return NULL;
}

static void *resize_job(void *arg)
{
	struct job *job = arg;

	/* The tail comes and goes; what the others use is below. */
	for (unsigned i = 0; !atomic_load(&job->done); i++) {
		struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE,
					   .size = (FILE_PAGES + i % 9 * 7) * PAGE };
		uint64_t at = FILE_PAGES * PAGE;
		int got;

		CHECK(uext4_setattr(job->w->fs, uext4_file_ino(job->w->file), &attr) == 0);
		got = load_byte(job->w, job->addr + at);
		CHECK(got == (i % 9 ? 0 : -SIGBUS));
	}
	return NULL;
}

static void test_threads(void **state)
{
	static struct walker walkers[THREADS];
	struct world w;
	struct job job;
	uint8_t *p;

	(void)state;
	make_image(PLAIN, 32);
	open_world(&w, MIB);
	set_size(&w, FILE_PAGES * PAGE);
	p = map_shared(&w, 1000 * PAGE);
	memset(walkers, 0, sizeof(walkers));
	job = (struct job){ .w = &w, .addr = p };
	pthread_create(&job.thread, NULL, resize_job, &job);
	for (unsigned i = 0; i < THREADS; i++) {
		walkers[i].w = &w;
		walkers[i].p = p;
		walkers[i].number = i;
		pthread_create(&walkers[i].thread, NULL, walk_job, &walkers[i]);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(walkers[i].thread, NULL);
	atomic_store(&job.done, true);
	pthread_join(job.thread, NULL);
	unmap(&w, p, 1000 * PAGE);
	close_world(&w);
	check_image();
	open_world(&w, 0);
	for (unsigned i = 0; i < THREADS; i++) {
		for (unsigned page = 0; page < FILE_PAGES; page++)
			assert_int_equal(get(&w, page * PAGE + i * 64), walkers[i].model[page]);
	}
	end(&w);
}

/* ---- main ---------------------------------------------------------------------------------- */

static int use_host(void **state)
{
	(void)state;
	soft = false;
	return 0;
}

static int use_soft(void **state)
{
	(void)state;
	soft = true;
	return 0;
}

#define BOTH(name)                                                \
	{ #name, name, use_host, NULL, NULL },                    \
	{                                                         \
#name ", in software", name, use_soft, NULL, NULL \
	}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_contents),
		BOTH(test_inline_grows),
		BOTH(test_sizes),
		BOTH(test_model),
		BOTH(test_populate),
		BOTH(test_in_order),
		{ "test_no_wait", test_no_wait, use_soft, NULL, NULL },
		BOTH(test_far),
		BOTH(test_eviction),
		BOTH(test_budget),
		BOTH(test_many_files),
		BOTH(test_private),
		BOTH(test_parts),
		BOTH(test_mistakes),
		BOTH(test_unlinked),
		BOTH(test_hook),
		BOTH(test_buffers),
		BOTH(test_two_images),
		BOTH(test_reserved_blocks),
		BOTH(test_full_disk),
		BOTH(test_room_of_deleted),
		BOTH(test_full_disk_inline),
		BOTH(test_read_error),
		BOTH(test_frozen),
		BOTH(test_one_page),
		BOTH(test_pins),
		BOTH(test_many_pins),
		BOTH(test_threads),
		{ "test_unmapped_meanwhile", test_unmapped_meanwhile, use_host, NULL, NULL },
		{ "test_store_while_unmapping", test_store_while_unmapping, use_host, NULL, NULL },
		{ "test_protect_twice", test_protect_twice, use_host, NULL, NULL },
		{ "test_read_only", test_read_only, use_host, NULL, NULL },
		{ "test_fork", test_fork, use_host, NULL, NULL },
		{ "test_unprivileged", test_unprivileged, use_host, NULL, NULL },
		{ "test_forbidden", test_forbidden, use_host, NULL, NULL },
	};
	/* [TEST [SEED [STEPS]]] */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (argc > 2)
		seed += strtoull(argv[2], NULL, 0) * UINT64_C(0x9e3779b97f4a7c15);
	if (argc > 3)
		steps = (unsigned)atoi(argv[3]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
