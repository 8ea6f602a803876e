/* SPDX-License-Identifier: MIT */
/*
 * An image that a program maps files of (uext4_mmap()) while it shows them at a directory
 * (fuse/mount.h), where another process reads, writes, cuts and syncs them.
 *
 *	uext4-fusemap [--seed N] [--rounds N] [--steps N] [--options MOUNT_OPTIONS] IMAGE DIR
 *
 * Two sides: the program with loads, stores and calls of the library, by threads; its child with
 * system calls in DIR.  Both know what is in the files by a model that they share.
 *
 *	pages 0 to 7	in slots of 64 bytes, every other one of each side; the first ones are
 *			buffers of the program's own system calls
 *	what is behind	is cut off and grown by one side, in turns; the other looks
 *
 *  FM1 What one side has stored or written the other reads at once.  A slot's number in the model
 *      is odd while it is changed; who sees the same even number before and after he read has to
 *      have read the bytes that belong to it.
 *  FM2 A size that one side has set is what the other sees at once, and what has grown is zeros.
 *  FM3 A file can be mapped as soon as nobody has it open from before, and then shows all that was
 *      written before it was mapped, also through kernel mappings; while somebody has it open from
 *      before: -EBUSY.  After it was mapped everybody sees all that was stored.
 *  FM4 Nothing hangs: neither system calls of the program itself with buffers that are mapped, nor
 *      mapping while the kernel has pages to give up.
 *  FM5 A request that has to wait - for a thaw - holds up no other one, if there may be more
 *      threads than one.
 *  FM6 When all is closed e2fsck finds nothing (the driver), and the bytes are those of the model.
 */
#include "fuse/mount.h"
#include "tool.h"

#include "uext4.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILES 3u
#define PAGE 4096u
#define SLOT 64u
#define KEPT (8 * PAGE) /* of each file, never cut */
#define SLOTS (KEPT / SLOT)
#define TAIL_MAX (3 * PAGE)
#define THREADS 2u /* of each side */
#define BUFFERS 1u /* of the slots of each thread */
#define SKIPPED 77 /* the exit status that says why on stdout */

/* Memory of both processes. */
struct model {
	_Atomic uint32_t slots[FILES][SLOTS]; /* numbers */
	struct {
		_Atomic uint32_t number;
		_Atomic uint64_t size; /* of the file */
	} tails[FILES];
	_Atomic uint64_t judged[2], passed_by[2]; /* reads of each side */
};

/* A file, as this side has it; in the directory by `fd`. */
struct a_file {
	char name[8];
	uint32_t ino;
	struct uext4_file *file;
	uint8_t *map; /* NULL: not now */
	int fd;	      /* -1: not open */
	int again;    /* a second one */
};

struct worker {
	pthread_t thread;
	unsigned number;
	struct rng rng;
};

static struct model *model;
static struct a_file files[FILES];
static struct uext4_fs *fs;
static const char *dir, *mount_options;
static uint64_t seed = 1, refusals, retries;
static unsigned rounds = 8, steps = 3000, round_now;
static bool is_child;
static bool reopens; /* the child's threads open a file for each access */

__attribute__((format(printf, 1, 2), noreturn)) static void bad(const char *fmt, ...)
{
	int err = errno;
	va_list args;

	flockfile(stderr);
	fprintf(stderr, "seed %" PRIu64 ", round %u, %s: ", seed, round_now,
		is_child ? "in the directory" : "the program");
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, " (errno: %s; %s)\n", strerror(err), uext4_last_error());
	_exit(1);
}

static void ok(int err, const char *what)
{
	if (err < 0)
		bad("%s: %s", what, strerror(-err));
}

/* ---- the two ways to a file ------------------------------------------------------------------ */

static int open_in_dir(const struct a_file *f)
{
	char path[4096];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, f->name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		bad("open %s", path);
	return fd;
}

static int enter(const struct a_file *f)
{
	return reopens ? open_in_dir(f) : f->fd;
}

static void leave(int fd)
{
	if (reopens && close(fd) < 0)
		bad("close");
}

/* How much was read. */
static size_t read_file(const struct a_file *f, void *buf, size_t len, uint64_t at, bool by_call)
{
	ssize_t n = (ssize_t)len;
	size_t got;
	int fd;

	if (is_child) {
		fd = enter(f);
		n = pread(fd, buf, len, (off_t)at);
		if (n < 0)
			bad("pread");
		leave(fd);
	} else if (by_call || !f->map) {
		ok(uext4_pread(f->file, buf, len, at, &got), "uext4_pread");
		n = (ssize_t)got;
	} else {
		memcpy(buf, f->map + at, len);
	}
	return (size_t)n;
}

static void write_file(const struct a_file *f, const void *buf, size_t len, uint64_t at,
		       bool by_call)
{
	size_t done;
	int fd;

	if (is_child) {
		fd = enter(f);
		if (pwrite(fd, buf, len, (off_t)at) != (ssize_t)len)
			bad("pwrite");
		leave(fd);
	} else if (by_call || !f->map) {
		ok(uext4_pwrite(f->file, buf, len, at, &done), "uext4_pwrite");
		if (done != len)
			bad("uext4_pwrite: %zu of %zu", done, len);
	} else {
		memcpy(f->map + at, buf, len);
	}
}

static uint64_t size_of(const struct a_file *f)
{
	struct uext4_stat ours;
	struct stat theirs;
	int fd;

	if (!is_child) {
		ok(uext4_stat(fs, f->ino, &ours), "uext4_stat");
		return ours.size;
	}
	fd = enter(f);
	if (fstat(fd, &theirs) < 0)
		bad("fstat");
	leave(fd);
	return (uint64_t)theirs.st_size;
}

static void cut(const struct a_file *f, uint64_t size)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE, .size = size };
	int fd;

	if (!is_child) {
		ok(uext4_setattr(fs, f->ino, &attr), "uext4_setattr");
		return;
	}
	fd = enter(f);
	if (ftruncate(fd, (off_t)size) < 0)
		bad("ftruncate");
	leave(fd);
}

static void sync_file(const struct a_file *f)
{
	int fd;

	if (!is_child) {
		ok(uext4_fsync(f->file, 0), "uext4_fsync");
		return;
	}
	fd = enter(f);
	if (fsync(fd) < 0)
		bad("fsync");
	leave(fd);
}

/* ---- slots ----------------------------------------------------------------------------------- */

static unsigned index_of(const struct a_file *f)
{
	return (unsigned)(f - files);
}

static uint64_t place_of(unsigned slot)
{
	return (uint64_t)slot * SLOT;
}

static void text_of(uint8_t *buf, const struct a_file *f, unsigned slot, uint32_t number)
{
	if (number == 0)
		memset(buf, 0, SLOT);
	else
		fill_text(buf, 0, SLOT,
			  mix64(seed) ^
				  ((uint64_t)index_of(f) << 48 | (uint64_t)slot << 32 | number));
}

/* One that belongs to this thread of this side. */
static unsigned own_slot(struct worker *w)
{
	uint64_t of_thread = rnd_below(&w->rng, SLOTS / 2 / THREADS - BUFFERS);

	return (unsigned)(((of_thread + BUFFERS) * THREADS + w->number) * 2 + is_child);
}

/* Of the program's system calls: in the same page as slots of that file. */
static unsigned buffer_slot(const struct worker *w)
{
	return w->number * 2;
}

static void judge(const struct a_file *f, unsigned slot, uint32_t number, const uint8_t *seen,
		  const char *how)
{
	uint8_t want[SLOT];

	text_of(want, f, slot, number);
	if (memcmp(want, seen, SLOT) == 0)
		return;
	for (uint32_t old = 0; old < number; old += 2) {
		text_of(want, f, slot, old);
		if (memcmp(want, seen, SLOT) == 0)
			bad("%s, slot %u, by %s: number %u instead of %u", f->name, slot, how, old,
			    number);
	}
	bad("%s, slot %u, by %s: not what is in number %u, nor before", f->name, slot, how, number);
}

/* FM1. */
static void look(const struct a_file *f, unsigned slot, bool by_call)
{
	uint32_t before = atomic_load(&model->slots[index_of(f)][slot]);
	uint8_t seen[SLOT];

	if (read_file(f, seen, SLOT, place_of(slot), by_call) != SLOT)
		bad("%s ends before slot %u", f->name, slot);
	atomic_thread_fence(memory_order_seq_cst);
	if ((before & 1) != 0 || atomic_load(&model->slots[index_of(f)][slot]) != before) {
		atomic_fetch_add(&model->passed_by[is_child], 1);
		return;
	}
	judge(f, slot, before, seen, by_call ? "call" : "load");
	atomic_fetch_add(&model->judged[is_child], 1);
}

static void change(const struct a_file *f, unsigned slot, bool by_call)
{
	_Atomic uint32_t *number = &model->slots[index_of(f)][slot];
	uint8_t text[SLOT];

	text_of(text, f, slot, atomic_fetch_add(number, 1) + 2);
	write_file(f, text, SLOT, place_of(slot), by_call);
	atomic_thread_fence(memory_order_seq_cst);
	atomic_fetch_add(number, 1);
}

/* Nobody changes anything now. */
static void look_at_all(bool by_call)
{
	for (unsigned i = 0; i < FILES; i++) {
		for (unsigned slot = 2 * THREADS * BUFFERS; slot < SLOTS; slot++)
			look(&files[i], slot, by_call);
	}
}

/* ---- the program's own system calls ---------------------------------------------------------- */

/* What may not see pages that were never touched: see "Kernel" in uext4.h. */
static bool is_forbidden(ssize_t n)
{
	return n < 0 && errno == EFAULT && geteuid() != 0;
}

/* FM4: through the kernel to our own server, out of the page that is written to, or another. */
static void change_by_kernel(const struct worker *w, const struct a_file *f, unsigned slot)
{
	const struct a_file *other = &files[(index_of(f) + slot) % FILES];
	uint8_t *buffer = other->map + place_of(buffer_slot(w));
	_Atomic uint32_t *number = &model->slots[index_of(f)][slot];
	uint8_t text[SLOT];
	ssize_t n;

	text_of(text, f, slot, atomic_fetch_add(number, 1) + 2);
	memcpy(buffer, text, SLOT);
	/* So that it is not in memory. */
	if (slot % 8 == 0) {
		sync_file(other);
		ok(uext4_madvise(fs, other->map, KEPT, UEXT4_MADV_DONTNEED), "madvise");
	}
	n = pwrite(f->fd, buffer, SLOT, (off_t)place_of(slot));
	if (is_forbidden(n))
		write_file(f, text, SLOT, place_of(slot), false);
	else if (n != SLOT)
		bad("pwrite out of a mapping");
	atomic_fetch_add(number, 1);
}

/* And into it: pinned, as the kernel keeps the page while the server works. */
static void look_by_kernel(const struct worker *w, const struct a_file *f, unsigned slot)
{
	const struct a_file *other = &files[(index_of(f) + slot) % FILES];
	uint8_t *buffer = other->map + place_of(buffer_slot(w));
	uint32_t before = atomic_load(&model->slots[index_of(f)][slot]);
	struct uext4_pin *pin;
	ssize_t n;

	ok(uext4_pin(fs, buffer, SLOT, UEXT4_PIN_WRITE, &pin), "pin");
	n = pread(f->fd, buffer, SLOT, (off_t)place_of(slot));
	if (n != SLOT)
		bad("pread into a mapping");
	if ((before & 1) == 0 && atomic_load(&model->slots[index_of(f)][slot]) == before)
		judge(f, slot, before, buffer, "read(2) into a mapping");
	uext4_unpin(pin);
}

/* ---- sizes ----------------------------------------------------------------------------------- */

/* Cuts off what was written behind KEPT, and grows by zeros. */
static void change_size(struct worker *w, const struct a_file *f)
{
	_Atomic uint32_t *number = &model->tails[index_of(f)].number;
	uint64_t size = KEPT + rnd_below(&w->rng, TAIL_MAX);
	static const uint8_t junk[PAGE] = { [0 ... PAGE - 1] = 0xee };

	atomic_fetch_add(number, 1);
	write_file(f, junk, 1 + rnd_below(&w->rng, PAGE), KEPT, true);
	if (rnd_one_in(&w->rng, 3))
		sync_file(f);
	cut(f, KEPT);
	cut(f, size);
	atomic_store(&model->tails[index_of(f)].size, size);
	atomic_fetch_add(number, 1);
}

/* FM2. */
static void look_at_size(const struct a_file *f)
{
	_Atomic uint32_t *number = &model->tails[index_of(f)].number;
	uint32_t before = atomic_load(number);
	uint8_t tail[TAIL_MAX];
	uint64_t size, want = atomic_load(&model->tails[index_of(f)].size);
	size_t got;

	size = size_of(f);
	got = read_file(f, tail, TAIL_MAX, KEPT, true);
	if ((before & 1) != 0 || atomic_load(number) != before)
		return;
	if (size != want)
		bad("%s has %" PRIu64 " bytes instead of %" PRIu64, f->name, size, want);
	if (got != want - KEPT)
		bad("%s: %zu bytes behind the kept ones instead of %" PRIu64, f->name, got,
		    want - KEPT);
	for (size_t i = 0; i < got; i++) {
		if (tail[i] != 0)
			bad("%s: byte %zu is %u, though it was cut off", f->name, KEPT + i,
			    tail[i]);
	}
	atomic_fetch_add(&model->judged[is_child], 1);
}

/* ---- threads of both sides ------------------------------------------------------------------- */

static void step(struct worker *w)
{
	const struct a_file *f = &files[rnd_below(&w->rng, FILES)];
	unsigned any = (unsigned)(2 * THREADS * BUFFERS +
				  rnd_below(&w->rng, SLOTS - 2 * THREADS * BUFFERS));
	bool by_call = rnd_one_in(&w->rng, 3), cuts = round_now % 2 == is_child;
	uint64_t n = rnd_below(&w->rng, 100);

	if (n < 35)
		change(f, own_slot(w), by_call);
	else if (n < 85)
		look(f, any, by_call);
	else if (n < 89 && !is_child && f->fd >= 0)
		change_by_kernel(w, f, own_slot(w));
	else if (n < 93 && !is_child && f->fd >= 0)
		look_by_kernel(w, f, any);
	else if (n < 96 && cuts && w->number == 0)
		change_size(w, f);
	else if (n < 99)
		look_at_size(f);
	else
		sync_file(f);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < steps; i++)
		step(w);
	return NULL;
}

static void start(struct worker *workers)
{
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .number = i };
		workers[i].rng.state = mix64(seed * 1000 + round_now * 10 + i * 2 + is_child);
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			die("no thread");
	}
}

static void join(struct worker *workers)
{
	for (unsigned i = 0; i < THREADS; i++)
		(void)pthread_join(workers[i].thread, NULL);
}

/* ---- the child ------------------------------------------------------------------------------- */

enum order {
	OPEN = 'o',
	AGAIN = 'a', /* what is open a second time */
	CLOSE = 'c',
	LOOK = 'l',
	WRITE = 'w',
	MAKE = 'k', /* a directory, and it goes again */
	MAP = 'm',  /* stores through a kernel's mapping, which ends; the file stays open */
	WORK = 'r',
	REOPEN = 'R',  /* the same, opening a file for each access */
	STARTED = 's', /* its answer, when it is under way; another one comes at the end */
	QUIT = 'q',
};

static void store_by_kernel(const struct a_file *f)
{
	uint8_t *map = mmap(NULL, KEPT, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);

	if (map == MAP_FAILED)
		bad("mmap of what nobody else maps");
	for (unsigned slot = 2 * THREADS * BUFFERS + 1; slot < SLOTS; slot += 2) {
		uint32_t number = atomic_load(&model->slots[index_of(f)][slot]) + 2;

		text_of(map + place_of(slot), f, slot, number);
		atomic_store(&model->slots[index_of(f)][slot], number);
	}
	(void)munmap(map, KEPT);
}

static void obey(enum order order, int sock)
{
	struct worker workers[THREADS];
	char started = STARTED;

	switch (order) {
	case OPEN:
		for (unsigned i = 0; i < FILES; i++)
			files[i].fd = open_in_dir(&files[i]);
		break;
	case AGAIN:
		look_at_all(true);
		for (unsigned i = 0; i < FILES; i++) {
			files[i].again = files[i].fd;
			files[i].fd = open_in_dir(&files[i]);
		}
		look_at_all(true);
		break;
	case CLOSE:
		for (unsigned i = 0; i < FILES; i++) {
			(void)close(files[i].fd);
			if (files[i].again >= 0)
				(void)close(files[i].again);
			files[i].again = -1;
		}
		break;
	case LOOK: look_at_all(true); break;
	case WRITE:
		for (unsigned i = 0; i < FILES; i++) {
			for (unsigned slot = 2 * THREADS * BUFFERS + 1; slot < SLOTS; slot += 6)
				change(&files[i], slot, true);
		}
		break;
	case MAKE:
		if (chdir(dir) < 0 || mkdir("made", 0700) < 0 || rmdir("made") < 0 ||
		    chdir("/") < 0)
			bad("mkdir or rmdir");
		break;
	case MAP: store_by_kernel(&files[0]); break;
	case REOPEN:
	case WORK:
		reopens = order == REOPEN;
		start(workers);
		if (write(sock, &started, 1) != 1)
			die("nobody hears");
		join(workers);
		reopens = false;
		break;
	case STARTED:
	case QUIT: _exit(0);
	}
}

/* An order is a letter and the round; the answer is the letter. */
static void child_main(int sock)
{
	unsigned char order[2];

	is_child = true;
	while (read(sock, order, sizeof(order)) == sizeof(order)) {
		round_now = order[1];
		obey((enum order)order[0], sock);
		if (write(sock, order, 1) != 1)
			break;
	}
	_exit(0);
}

static void await(int sock, enum order order)
{
	char answer;

	if (read(sock, &answer, 1) != 1 || answer != (char)order)
		bad("the child has ended");
}

static void begin(int sock, enum order order)
{
	unsigned char bytes[2] = { (unsigned char)order, (unsigned char)round_now };

	if (write(sock, bytes, sizeof(bytes)) != sizeof(bytes))
		bad("the child has ended");
	if (order == WORK || order == REOPEN)
		await(sock, STARTED);
}

static void tell(int sock, enum order order)
{
	begin(sock, order);
	await(sock, order);
}

/* ---- the program ----------------------------------------------------------------------------- */

static int map_file(struct a_file *f)
{
	void *addr;
	int err;

	err = uext4_mmap(f->file, 0, KEPT + TAIL_MAX, UEXT4_PROT_READ | UEXT4_PROT_WRITE,
			 UEXT4_MAP_SHARED, &addr);
	if (err == -EPERM || err == -EOPNOTSUPP) {
		printf("%s\n", uext4_last_error());
		exit(SKIPPED);
	}
	if (err == 0)
		f->map = addr;
	return err;
}

static void unmap_all(void)
{
	for (unsigned i = 0; i < FILES; i++) {
		ok(uext4_munmap(fs, files[i].map, KEPT + TAIL_MAX), "munmap");
		files[i].map = NULL;
	}
}

/* Somebody opens and closes them all the time. */
static void map_all(bool patient)
{
	for (unsigned i = 0; i < FILES; i++) {
		int err;

		do {
			err = map_file(&files[i]);
			retries += err == -EBUSY;
		} while (err == -EBUSY && patient);
		ok(err, "mmap");
	}
}

static void use_own_mount(bool use)
{
	for (unsigned i = 0; i < FILES; i++) {
		if (use)
			files[i].fd = open_in_dir(&files[i]);
		else
			(void)close(files[i].fd);
		if (!use)
			files[i].fd = -1;
	}
}

static void work_together(int sock, enum order how)
{
	struct worker workers[THREADS];

	start(workers);
	join(workers);
	await(sock, how);
}

/* Nothing is mapped, and nobody has anything open. */
static void run_round(int sock)
{
	bool races = round_now % 2 == 1;

	/* FM3. */
	tell(sock, OPEN);
	tell(sock, LOOK);
	tell(sock, WRITE);
	tell(sock, MAP);
	if (round_now % 4 == 0) {
		if (map_file(&files[0]) != -EBUSY)
			bad("mapped what the kernel has pages of");
		refusals++;
	}
	tell(sock, CLOSE);
	if (races)
		begin(sock, REOPEN);
	map_all(races);
	if (!races) {
		look_at_all(false);
		begin(sock, REOPEN);
	}
	use_own_mount(true);
	work_together(sock, REOPEN);
	tell(sock, OPEN);
	begin(sock, WORK);
	work_together(sock, WORK);
	use_own_mount(false);

	/* What is open stays direct, so nothing stands in the way of mapping it again. */
	unmap_all();
	tell(sock, AGAIN);
	for (unsigned slot = 2 * THREADS * BUFFERS; slot < SLOTS; slot += 2)
		change(&files[1], slot, true);
	tell(sock, LOOK);
	map_all(false);
	look_at_all(false);
	for (unsigned slot = 2 * THREADS * BUFFERS; slot < SLOTS; slot += 2)
		change(&files[2], slot, false);
	unmap_all();
	tell(sock, CLOSE);
}

/* FM5. */
static void ask_beside_a_waiting_request(int sock)
{
	struct stat stat_buf;

	ok(uext4_freeze(fs), "freeze");
	begin(sock, MAKE);
	/* At some time it waits. */
	for (unsigned i = 0; i < 200; i++) {
		if (stat(dir, &stat_buf) < 0)
			bad("stat");
		(void)usleep(500);
	}
	ok(uext4_thaw(fs), "thaw");
	await(sock, MAKE);
}

static void make_files(void)
{
	static const uint8_t zeros[KEPT];
	size_t done;

	for (unsigned i = 0; i < FILES; i++) {
		struct a_file *f = &files[i];

		ok(uext4_create(fs, UEXT4_ROOT_INO, f->name, strlen(f->name),
				&(struct uext4_new){ .mode = 0600 }, &f->ino),
		   "create");
		ok(uext4_file_open(fs, f->ino, UEXT4_FILE_WRITE, &f->file), "open");
		ok(uext4_pwrite(f->file, zeros, KEPT, 0, &done), "pwrite");
		atomic_store(&model->tails[i].size, KEPT);
	}
}

static void open_image(const char *image, uint32_t flags)
{
	struct uext4_open_options options = { .size = sizeof(options), .flags = flags };

	if (uext4_open(image, &options, &fs) < 0)
		bad("open");
}

/* FM6. */
static void reopen_and_look(const char *image)
{
	open_image(image, 0);
	for (unsigned i = 0; i < FILES; i++)
		ok(uext4_file_open(fs, files[i].ino, 0, &files[i].file), "open");
	look_at_all(true);
	for (unsigned i = 0; i < FILES; i++) {
		look_at_size(&files[i]);
		uext4_file_close(files[i].file);
	}
	ok(uext4_close(fs), "close");
}

static void run(const char *image, int sock)
{
	struct uext4_mount *mount, *second;

	open_image(image, UEXT4_OPEN_WRITE);
	make_files();
	ok(uext4_mount_start(fs, dir, mount_options, &mount), "mount");
	if (!mount_options)
		ask_beside_a_waiting_request(sock);
	for (round_now = 0; round_now < rounds; round_now++)
		run_round(sock);
	tell(sock, OPEN);
	if (uext4_mount_stop(mount) != -EBUSY)
		bad("unmounted what is in use");
	tell(sock, CLOSE);
	/* A mapping outlives the mount, but there is no new one while it lasts. */
	map_all(false);
	ok(uext4_mount_stop(mount), "unmount");
	if (uext4_mount_start(fs, dir, mount_options, &second) != -EBUSY)
		bad("mounted while files are mapped");
	look_at_all(false);
	unmap_all();
	for (unsigned i = 0; i < FILES; i++)
		uext4_file_close(files[i].file);
	ok(uext4_close(fs), "close");
	reopen_and_look(image);
}

int main(int argc, char **argv)
{
	static const struct option known[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "steps", required_argument, NULL, 'n' },
		{ "options", required_argument, NULL, 'o' },
		{ 0 },
	};
	int c, socks[2];
	pid_t child;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (c) {
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 'r': rounds = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'o': mount_options = optarg; break;
		case 'n': steps = (unsigned)strtoul(optarg, NULL, 0); break;
		default: die("usage: uext4-fusemap [OPTIONS] IMAGE DIR");
		}
	}
	if (optind + 2 != argc)
		die("which image, and where?");
	dir = argv[optind + 1];
	for (unsigned i = 0; i < FILES; i++) {
		(void)snprintf(files[i].name, sizeof(files[i].name), "f%u", i);
		files[i].fd = files[i].again = -1;
	}
	model = mmap(NULL, sizeof(*model), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	if (model == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM, 0, socks) < 0)
		die("no memory, or no sockets");
	/* Before there are threads, and a session that it would keep alive. */
	child = fork();
	if (child < 0)
		die("no child");
	(void)close(socks[child == 0 ? 0 : 1]);
	if (child == 0)
		child_main(socks[1]);
	run(argv[optind], socks[0]);
	(void)close(socks[0]);
	(void)waitpid(child, NULL, 0);
	printf("%u rounds, %" PRIu64 " and %" PRIu64 " reads judged, %" PRIu64 " and %" PRIu64
	       " not, %" PRIu64 " refused, %" PRIu64 " tried again\n",
	       rounds, atomic_load(&model->judged[0]), atomic_load(&model->judged[1]),
	       atomic_load(&model->passed_by[0]), atomic_load(&model->passed_by[1]), refusals,
	       retries);
	return 0;
}
