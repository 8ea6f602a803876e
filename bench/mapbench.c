/* SPDX-License-Identifier: MIT */
/*
 * What accesses to a mapped file cost: through the library, or through the kernel's mmap(2).
 *
 *	mapbench --image IMAGE		a new file in the root directory of IMAGE
 *	mapbench --posix DIR		a new file in DIR, a mount without inline data
 *
 * Prints a line for each measurement: how often, in how many seconds, of what.  One that ends with
 * "(memfd)" is the same loop over memory with no file behind it.  A file that was written in long
 * pieces lies in large folios of the kernel, which it dirties as a whole: less work for a fault and
 * more for its msync.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../t/tool.h"
#include "uext4.h"

#define PAGE UINT64_C(4096)
#define PAGES UINT64_C(16384) /* of the file that has its blocks */
#define DIRTY UINT64_C(10000) /* pages stored to: not so many that anybody writes them back */
#define HOLE_PAGES (UINT64_C(1) << 18)
#define HOLE_STORES UINT64_C(8192)
#define WARM_TURNS 200u
#define LARGE_PIECE (UINT64_C(1) << 20)

/* ---- the two sides ------------------------------------------------------------------------- */

struct side {
	void (*open)(const char *where);
	void (*create)(const char *name, uint64_t bytes);
	void (*write)(const void *data, size_t bytes, uint64_t offset);
	void (*fsync)(void);
	uint8_t *(*map)(uint64_t bytes, bool populate);
	void (*unmap)(uint8_t *addr, uint64_t bytes);
	void (*msync)(uint8_t *addr, uint64_t bytes);
	void (*willneed)(uint8_t *addr, uint64_t bytes);
	void (*remove)(const char *name);
	void (*close)(void);
};

static struct uext4_fs *fs;
static struct uext4_file *file;

static void must(int err, const char *what)
{
	if (err < 0)
		die("%s: %s (%s)", what, uext4_last_error(), strerror(-err));
}

static void image_open(const char *where)
{
	struct uext4_open_options options = {
		.size = sizeof(options),
		.flags = UEXT4_OPEN_WRITE,
		.cache_bytes = UINT64_C(512) << 20,
	};

	must(uext4_open(where, &options, &fs), "open");
}

static void image_create(const char *name, uint64_t bytes)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE, .size = bytes };
	uint32_t ino;

	must(uext4_create(fs, UEXT4_ROOT_INO, name, strlen(name),
			  &(struct uext4_new){ .mode = 0600 }, &ino),
	     "create");
	must(uext4_file_open(fs, ino, UEXT4_FILE_WRITE, &file), "open");
	must(uext4_setattr(fs, ino, &attr), "truncate");
}

static void image_write(const void *data, size_t bytes, uint64_t offset)
{
	size_t done;

	must(uext4_pwrite(file, data, bytes, offset, &done), "write");
}

static void image_fsync(void)
{
	must(uext4_fsync(file, 0), "fsync");
}

static uint8_t *image_map(uint64_t bytes, bool populate)
{
	uint32_t flags = UEXT4_MAP_SHARED | (populate ? UEXT4_MAP_POPULATE : 0);
	void *addr;

	must(uext4_mmap(file, 0, bytes, UEXT4_PROT_READ | UEXT4_PROT_WRITE, flags, &addr), "mmap");
	return addr;
}

static void image_unmap(uint8_t *addr, uint64_t bytes)
{
	must(uext4_munmap(fs, addr, bytes), "munmap");
}

static void image_msync(uint8_t *addr, uint64_t bytes)
{
	must(uext4_msync(fs, addr, bytes, UEXT4_MS_SYNC), "msync");
}

static void image_willneed(uint8_t *addr, uint64_t bytes)
{
	must(uext4_madvise(fs, addr, bytes, UEXT4_MADV_WILLNEED), "madvise");
}

static void image_remove(const char *name)
{
	uext4_file_close(file);
	must(uext4_unlink(fs, UEXT4_ROOT_INO, name, strlen(name)), "unlink");
}

static void image_close(void)
{
	must(uext4_close(fs), "close");
}

static int dir_fd, fd;

static void must_host(bool good, const char *what)
{
	if (!good)
		die("%s: %s", what, strerror(errno));
}

static void posix_open(const char *where)
{
	dir_fd = open(where, O_RDONLY | O_DIRECTORY);
	must_host(dir_fd >= 0, where);
}

static void posix_create(const char *name, uint64_t bytes)
{
	fd = openat(dir_fd, name, O_CREAT | O_EXCL | O_RDWR, 0600);
	must_host(fd >= 0, name);
	must_host(ftruncate(fd, (off_t)bytes) == 0, "ftruncate");
}

static void posix_write(const void *data, size_t bytes, uint64_t offset)
{
	must_host(pwrite(fd, data, bytes, (off_t)offset) == (ssize_t)bytes, "pwrite");
}

static void posix_fsync(void)
{
	must_host(fsync(fd) == 0, "fsync");
}

static uint8_t *posix_map(uint64_t bytes, bool populate)
{
	void *addr = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			  MAP_SHARED | (populate ? MAP_POPULATE : 0), fd, 0);

	must_host(addr != MAP_FAILED, "mmap");
	(void)madvise(addr, bytes, MADV_NOHUGEPAGE);
	return addr;
}

static void posix_unmap(uint8_t *addr, uint64_t bytes)
{
	must_host(munmap(addr, bytes) == 0, "munmap");
}

static void posix_msync(uint8_t *addr, uint64_t bytes)
{
	must_host(msync(addr, bytes, MS_SYNC) == 0, "msync");
}

/* What was written is in memory. */
static void posix_willneed(uint8_t *addr, uint64_t bytes)
{
	must_host(madvise(addr, bytes, MADV_WILLNEED) == 0, "madvise");
}

static void posix_remove(const char *name)
{
	(void)close(fd);
	must_host(unlinkat(dir_fd, name, 0) == 0, "unlink");
}

static void posix_close(void)
{
	(void)close(dir_fd);
}

static const struct side image_side = {
	image_open,  image_create, image_write,	   image_fsync,	 image_map,
	image_unmap, image_msync,  image_willneed, image_remove, image_close,
};
static const struct side posix_side = {
	posix_open,  posix_create, posix_write,	   posix_fsync,	 posix_map,
	posix_unmap, posix_msync,  posix_willneed, posix_remove, posix_close,
};
static const struct side *side;

/* ---- measuring ----------------------------------------------------------------------------- */

static double now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static const char *suffix = "";

static void report(uint64_t count, double since, const char *what)
{
	printf("%llu %.9f %s%s\n", (unsigned long long)count, now() - since, what, suffix);
	(void)fflush(stdout);
}

static volatile uint8_t sink;

static void load_all(const uint8_t *addr, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		sink = addr[i * PAGE];
}

static void store(uint8_t *addr, const uint32_t *order, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		((volatile uint8_t *)addr)[order[i] * PAGE] = (uint8_t)i;
}

/* The numbers below @pages in an order of no use to anybody. */
static uint32_t *shuffled(uint64_t pages)
{
	uint32_t *order = must_alloc(pages * sizeof(order[0]));
	struct rng rng = { .state = 1 };

	for (uint64_t i = 0; i < pages; i++) {
		uint64_t at = rnd_below(&rng, i + 1);

		order[i] = order[at];
		order[at] = (uint32_t)i;
	}
	return order;
}

static uint32_t *ascending(uint64_t pages)
{
	uint32_t *order = must_alloc(pages * sizeof(order[0]));

	for (uint64_t i = 0; i < pages; i++)
		order[i] = (uint32_t)i;
	return order;
}

/* Every page has been stored to: nothing is in the way of either kind any more. */
static void measure_warm(uint8_t *addr, uint64_t pages, const char *loads, const char *stores)
{
	double start;

	for (uint64_t i = 0; i < pages; i++)
		((volatile uint8_t *)addr)[i * PAGE]++;
	start = now();
	for (unsigned turn = 0; turn < WARM_TURNS; turn++)
		load_all(addr, pages);
	report(WARM_TURNS * pages, start, loads);
	start = now();
	for (unsigned turn = 0; turn < WARM_TURNS; turn++) {
		for (uint64_t i = 0; i < pages; i++)
			((volatile uint8_t *)addr)[i * PAGE] = (uint8_t)turn;
	}
	report(WARM_TURNS * pages, start, stores);
}

static void measure_memfd(void)
{
	int mem = memfd_create("mapbench", MFD_CLOEXEC);
	uint8_t *addr;

	must_host(mem >= 0 && ftruncate(mem, (off_t)(DIRTY * PAGE)) == 0, "memfd");
	addr = mmap(NULL, DIRTY * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0);
	must_host(addr != MAP_FAILED, "mmap");
	(void)madvise(addr, DIRTY * PAGE, MADV_NOHUGEPAGE);
	measure_warm(addr, DIRTY, "warm loads (memfd)", "warm stores (memfd)");
	(void)munmap(addr, DIRTY * PAGE);
	(void)close(mem);
}

/* Pages that are clean, present, and mapped for loads. */
static uint8_t *map_clean(void)
{
	uint8_t *addr = side->map(PAGES * PAGE, false);

	side->willneed(addr, PAGES * PAGE);
	load_all(addr, PAGES);
	return addr;
}

static void measure_stores(const uint32_t *order, const char *stores, const char *sync)
{
	uint8_t *addr = map_clean();
	double start = now();

	store(addr, order, DIRTY);
	report(DIRTY, start, stores);
	start = now();
	side->msync(addr, PAGES * PAGE);
	report(1, start, sync);
	side->unmap(addr, PAGES * PAGE);
}

/* Of pages that are in memory, in a mapping that has none of them. */
static void measure_loads(const uint32_t *order, const char *what)
{
	uint8_t *addr = side->map(PAGES * PAGE, false);
	double start;

	side->willneed(addr, PAGES * PAGE);
	start = now();
	for (uint64_t i = 0; i < PAGES; i++)
		sink = addr[order[i] * PAGE];
	report(PAGES, start, what);
	side->unmap(addr, PAGES * PAGE);
}

static void measure_populate(void)
{
	double start = now();
	uint8_t *addr = side->map(DIRTY * PAGE, true);

	report(DIRTY, start, "populate for stores");
	side->msync(addr, DIRTY * PAGE);
	side->unmap(addr, DIRTY * PAGE);
}

static void measure_file(size_t piece)
{
	uint32_t *random = shuffled(PAGES), *in_order = ascending(PAGES);
	uint8_t *data = must_alloc(piece), *addr;

	memset(data, 'x', piece);
	side->create("mapbench", 0);
	for (uint64_t at = 0; at < PAGES * PAGE; at += piece)
		side->write(data, piece, at);
	side->fsync();
	side->unmap(map_clean(), PAGES * PAGE);
	measure_loads(in_order, "first loads, in order");
	measure_loads(random, "first loads, random");
	measure_stores(random, "first stores, random", "msync of 10,000 pages, random");
	measure_stores(in_order, "first stores, in order", "msync of 10,000 pages, in order");
	measure_populate();
	addr = side->map(DIRTY * PAGE, false);
	measure_warm(addr, DIRTY, "warm loads", "warm stores");
	side->unmap(addr, DIRTY * PAGE);
	side->remove("mapbench");
	free(random);
	free(in_order);
	free(data);
}

static void measure_hole(void)
{
	uint32_t *order = shuffled(HOLE_PAGES);
	double start;
	uint8_t *addr;

	side->create("maphole", HOLE_PAGES * PAGE);
	addr = side->map(HOLE_PAGES * PAGE, false);
	start = now();
	store(addr, order, HOLE_STORES);
	report(HOLE_STORES, start, "stores into a hole, random");
	start = now();
	side->msync(addr, HOLE_PAGES * PAGE);
	report(1, start, "msync of 8,192 pages of a hole");
	side->unmap(addr, HOLE_PAGES * PAGE);
	side->remove("maphole");
	free(order);
}

int main(int argc, char **argv)
{
	if (argc != 3 || (strcmp(argv[1], "--image") != 0 && strcmp(argv[1], "--posix") != 0))
		die("usage: mapbench --image IMAGE | --posix DIR");
	side = strcmp(argv[1], "--image") == 0 ? &image_side : &posix_side;
	side->open(argv[2]);
	measure_file(PAGE);
	suffix = ", large folios";
	measure_file(LARGE_PIECE);
	suffix = "";
	measure_hole();
	side->close();
	measure_memfd();
	return 0;
}
