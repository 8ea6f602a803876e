/* SPDX-License-Identifier: MIT */
/*
 * vm_fault(): every kind of caller, every state of a page, and everything that can stand in the
 * way (T3), one after the other, under the simulator.
 *
 *	flags	   none, ALLOW_RETRY, ALLOW_RETRY|TRIED, ALLOW_RETRY|NOWAIT, ALLOW_RETRY|NOTHAW
 *	access	   load, store
 *	page	   see enum page_kind
 *	condition  see enum condition
 *
 * What is expected is a function of these four, expect().  A caller that may start over does; one
 * that must not sleep is asked once.  Who holds the inode's lock holds it until the fault is over:
 * a fault that waited for it would be a deadlock, which the simulator shows (I6).
 */
#include "api/test_hooks.h"
#include "dev/dev.h"
#include "fs/fs.h"
#include "sim_kit.h"
#include "sync/sync.h"
#include "vm/vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define PAGE 4096u
#define MAP_BYTES (8 * PAGE)

enum page_kind {
	INLINE,
	HOLE,
	HOLE_NODELALLOC,
	HOLE_BLOCK_MAP,
	HOLE_BIGALLOC,
	WRITTEN,
	WRITTEN_JOURNAL, /* data=journal */
	UNWRITTEN,
	DIRTY,
	PARTIAL,   /* the last one of the file */
	NOT_THERE, /* on disk only */
	NOT_THERE_INLINE,
	IMMUTABLE,
	BEYOND,
	PAGES
};

static const char *const page_names[] = {
	"inline",	  "hole",    "hole, nodelalloc", "hole, block map",
	"hole, bigalloc", "written", "journal",		 "unwritten",
	"dirty",	  "partial", "not there",	 "not there, inline",
	"immutable",	  "beyond",
};

enum condition {
	NOTHING,
	INODE_HELD,
	INVALIDATE_HELD,
	FROZEN,
	FULL,
	ABORTED,
	READ_ERROR,
	CONDITIONS
};

static const char *const condition_names[] = {
	"nothing", "inode held", "invalidate held", "frozen", "full", "aborted", "read error",
};

static const uint32_t all_flags[] = { 0, VM_ALLOW_RETRY, VM_ALLOW_RETRY | VM_TRIED,
				      VM_ALLOW_RETRY | VM_NOWAIT, VM_ALLOW_RETRY | VM_NOTHAW };

struct combination {
	uint32_t flags;
	enum vm_access access;
	enum page_kind page;
	enum condition condition;
};

/* ---- what is expected ------------------------------------------------------------------------ */

static bool is_hole(enum page_kind page)
{
	return page == HOLE || page == HOLE_NODELALLOC || page == HOLE_BLOCK_MAP ||
	       page == HOLE_BIGALLOC;
}

/* *ret_err: of VM_FAILED. */
static enum vm_result expect(const struct combination *c, int *ret_err)
{
	bool store = c->access == VM_STORE;

	*ret_err = 0;
	if (c->condition == ABORTED && store) {
		*ret_err = -EIO;
		return VM_FAILED; /* before anything else is looked at */
	}
	if (c->condition == FROZEN && store) {
		if (c->flags & VM_NOTHAW || !(c->flags & VM_ALLOW_RETRY))
			return VM_FROZEN;
		if (c->flags & VM_NOWAIT)
			return VM_RETRY;
	}
	if (c->condition == INVALIDATE_HELD && (c->flags & VM_NOWAIT))
		return VM_RETRY;
	if (c->page == BEYOND)
		return VM_BEYOND;
	if (c->page == NOT_THERE || c->page == NOT_THERE_INLINE) {
		if (c->flags & VM_NOWAIT)
			return VM_RETRY;
		if (c->condition == READ_ERROR && c->page == NOT_THERE) {
			*ret_err = -EIO;
			return VM_FAILED;
		}
	}
	if (c->page == IMMUTABLE && store) {
		*ret_err = -EPERM;
		return VM_FAILED;
	}
	/* Its block is allocated now, which takes more than one look. */
	if (c->page == HOLE_NODELALLOC && store && (c->flags & VM_NOWAIT))
		return VM_RETRY;
	if (is_hole(c->page) && store && c->condition == FULL) {
		if (c->flags & VM_NOWAIT)
			return VM_RETRY; /* a commit may make room, which is waited for */
		*ret_err = -ENOSPC;
		return VM_FAILED;
	}
	return VM_MAPPED;
}

/* ---- making it so ---------------------------------------------------------------------------- */

static const struct kit_image images[] = {
	{ "inline", 4, "-t ext4 -b 1024 -O inline_data -I 256 -J size=1", 1024 },
	{ "ext3", 4, "-t ext3 -b 1024 -J size=1", 1024 },
	{ "bigalloc", 16, "-t ext4 -b 1024 -O bigalloc -C 16384 -J size=1", 1024 },
};

static const struct combination *combination;
static struct uext4_file *file;
static uint32_t file_ino;
static uint8_t *map;
static struct vm_space *space;
static _Atomic bool over; /* the fault has ended */

static void write_bytes(size_t bytes)
{
	static char buf[4 * PAGE];
	size_t done;

	memset(buf, 'b', sizeof(buf));
	OK(uext4_pwrite(file, buf, bytes, 0, &done));
	SIM_ASSERT(done == bytes);
}

static void set_size(uint64_t size)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE, .size = size };

	OK(uext4_setattr(fs, file_ino, &attr));
}

static void make_contents(enum page_kind page)
{
	switch (page) {
	case INLINE:
	case NOT_THERE_INLINE: write_bytes(60); break;
	case HOLE:
	case HOLE_NODELALLOC:
	case HOLE_BLOCK_MAP:
	case HOLE_BIGALLOC: set_size(3 * PAGE); break;
	case UNWRITTEN: OK(uext4_fallocate(file, 0, 0, 3 * PAGE)); break;
	case PARTIAL: write_bytes(2000); break;
	case BEYOND: write_bytes(2 * PAGE); break;
	default: write_bytes(3 * PAGE); break;
	}
	OK(uext4_fsync(file, 0));
}

/* In memory, or not. */
static void make_cached(enum page_kind page)
{
	struct uext4_attr flags = { .valid = UEXT4_ATTR_FLAGS, .flags = 0x10 };
	char byte;
	size_t got;

	OK(uext4_pread(file, &byte, 1, 0, &got));
	if (page == NOT_THERE || page == NOT_THERE_INLINE) {
		OK(uext4_madvise(fs, map, MAP_BYTES, UEXT4_MADV_DONTNEED));
		OK(uext4_madvise(fs, map, MAP_BYTES, UEXT4_MADV_DONTNEED)); /* wanted lately */
	}
	if (page == DIRTY)
		write_bytes(3 * PAGE);
	if (page == IMMUTABLE) {
		struct uext4_stat st;

		OK(uext4_stat(fs, file_ino, &st));
		flags.flags |= st.flags;
		OK(uext4_setattr(fs, file_ino, &flags));
	}
}

static void abort_journal(void)
{
	struct uext4_attr mode = { .valid = UEXT4_ATTR_MODE, .mode = 0600 };

	dev_fail_for_good(kit_fail_dev, true);
	dev_fail_nth_write(kit_fail_dev, 1);
	OK(uext4_setattr(fs, UEXT4_ROOT_INO, &mode)); /* something to commit */
	SIM_ASSERT(uext4_sync(fs) != 0);
}

static void prepare(const struct combination *c)
{
	struct uext4_open_options o = {
		.size = sizeof(o),
		.flags = UEXT4_OPEN_WRITE |
			 (c->page == HOLE_NODELALLOC ? UEXT4_OPEN_NODELALLOC : 0),
		.cache_bytes = 2 * MIB,
		.data_mode = c->page == WRITTEN_JOURNAL ? UEXT4_DATA_JOURNAL : UEXT4_DATA_ORDERED,
	};
	void *addr;

	OK(kit_open(&o));
	OK(uext4_mmap_soft_for_test(fs, &space));
	OK(uext4_create(fs, UEXT4_ROOT_INO, "f", 1, &(struct uext4_new){ .mode = 0644 },
			&file_ino));
	OK(uext4_file_open(fs, file_ino, UEXT4_FILE_WRITE, &file));
	make_contents(c->page);
	OK(uext4_mmap(file, 0, MAP_BYTES, UEXT4_PROT_READ | UEXT4_PROT_WRITE, UEXT4_MAP_SHARED,
		      &addr));
	map = addr;
	if (c->condition == FULL)
		kit_fill_disk(0);
	make_cached(c->page);
	if (c->condition == ABORTED)
		abort_journal();
	if (c->condition == READ_ERROR) {
		dev_fail_for_good(kit_fail_dev, true);
		dev_fail_nth_read(kit_fail_dev, 1);
	}
	if (c->condition == FROZEN)
		OK(uext4_freeze(fs));
}

/* ---- the fault, and who stands in its way ---------------------------------------------------- */

static void fault_main(void *arg UNUSED)
{
	const struct combination *c = combination;
	uintptr_t addr = (uintptr_t)map + (c->page == BEYOND ? 2 * PAGE : 0);
	uint32_t flags = c->flags;
	enum vm_result result, expected;
	int err = 0, expected_err;

	expected = expect(c, &expected_err);
	for (unsigned tries = 0;; tries++) {
		result = vm_fault(space, addr, c->access, flags, &err);
		if (result != VM_RETRY || (c->flags & VM_NOWAIT) || tries == 8)
			break;
		flags |= VM_TRIED;
	}
	atomic_store(&over, true);
	if (result != expected)
		sim_fail("the fault gives %d (%s), expected %d", result, strerror(-err), expected);
	if (result == VM_FAILED && err != expected_err && !(expected_err == -EIO && err == -EROFS))
		sim_fail("the fault fails with %s, expected %s", strerror(-err),
			 strerror(-expected_err));
}

/* Until the fault is over, which does not need it. */
static void hold_inode(void *arg UNUSED)
{
	struct inode *ip;

	OK(inode_get(fs, file_ino, &ip));
	rwlock_write(&ip->lock);
	while (!atomic_load(&over))
		sleep_ms(1);
	rwlock_write_unlock(&ip->lock);
	inode_put(ip);
}

/* Until the fault is over if it does not wait, else for a while. */
static void hold_invalidate(void *arg UNUSED)
{
	struct inode *ip;

	OK(inode_get(fs, file_ino, &ip));
	rwlock_write(&ip->invalidate);
	if (combination->flags & VM_NOWAIT) {
		while (!atomic_load(&over))
			sleep_ms(1);
	} else {
		sleep_ms(1);
	}
	rwlock_write_unlock(&ip->invalidate);
	inode_put(ip);
}

static void thaw(void *arg UNUSED)
{
	sleep_ms(1);
	if (combination->flags & (VM_NOWAIT | VM_NOTHAW) ||
	    !(combination->flags & VM_ALLOW_RETRY)) {
		while (!atomic_load(&over))
			sleep_ms(1);
	}
	OK(uext4_thaw(fs));
}

static void settle(const struct combination *c)
{
	if (c->condition == READ_ERROR) {
		dev_fail_for_good(kit_fail_dev, false);
		dev_fail_nth_read(kit_fail_dev, 0);
	}
	OK(uext4_munmap(fs, map, MAP_BYTES));
	uext4_file_close(file);
	if (c->condition == ABORTED) {
		SIM_ASSERT(uext4_close(fs) != 0);
		return;
	}
	OK(uext4_close(fs));
	kit_open_and_check();
	OK(uext4_close(fs));
}

static int body(void *arg)
{
	struct sim_body bodies[2] = { { "fault", fault_main, NULL } };
	size_t count = 1;

	combination = arg;
	sim_calm(true);
	prepare(combination);
	if (combination->condition == INODE_HELD)
		bodies[count++] = (struct sim_body){ "holder", hold_inode, NULL };
	if (combination->condition == INVALIDATE_HELD)
		bodies[count++] = (struct sim_body){ "holder", hold_invalidate, NULL };
	if (combination->condition == FROZEN)
		bodies[count++] = (struct sim_body){ "thaw", thaw, NULL };
	if (count == 2) { /* it stands there before the fault comes */
		struct sim_body first = bodies[1];

		bodies[1] = bodies[0];
		bodies[0] = first;
	}
	sim_threads(bodies, count);
	settle(combination);
	return 0;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static const struct kit_image *image_of(enum page_kind page)
{
	return &images[page == HOLE_BLOCK_MAP ? 1 : page == HOLE_BIGALLOC ? 2 : 0];
}

/* The state can be had, and the condition means something. */
static bool makes_sense(const struct combination *c)
{
	if (c->condition == FROZEN && c->page == DIRTY)
		return false; /* nothing is */
	if (c->condition == READ_ERROR && c->page == HOLE_NODELALLOC)
		return false; /* a group whose bitmap cannot be read has no blocks */
	return c->condition != FULL || c->page != DIRTY;
}

static void page_test(void **state)
{
	enum page_kind page = (enum page_kind)(uintptr_t)*state;
	struct sim_options o = { .strategy = SIM_RANDOM, .seed = 1, .schedules = 1 };
	unsigned failed = 0;

	kit_load(image_of(page));
	for (int condition = 0; condition < CONDITIONS; condition++) {
		for (size_t i = 0; i < 2 * ARRAY_SIZE(all_flags); i++) {
			struct combination c = {
				.flags = all_flags[i / 2],
				.access = i % 2 ? VM_STORE : VM_LOAD,
				.page = page,
				.condition = (enum condition)condition,
			};
			struct sim_result r;

			if (!makes_sense(&c))
				continue;
			if (sim_explore(&o, body, &c, &r) != SIM_OK) {
				printf("# %s, %s, flags %x, %s: %s\n%s\n", page_names[page],
				       c.access == VM_STORE ? "store" : "load", c.flags,
				       condition_names[condition], sim_outcome_name(r.outcome),
				       r.report ? r.report : "");
				failed++;
			}
			sim_result_finish(&r);
		}
	}
	assert_int_equal(failed, 0);
}

int main(int argc UNUSED, char **argv)
{
	static struct CMUnitTest tests[PAGES];

	sim_fix_addresses(argv);
	for (size_t i = 0; i < PAGES; i++)
		tests[i] = (struct CMUnitTest){ .name = page_names[i],
						.test_func = page_test,
						.initial_state = (void *)(uintptr_t)i };
	return _cmocka_run_group_tests("sim_fault", tests, PAGES, NULL, NULL);
}
