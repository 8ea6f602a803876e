/* SPDX-License-Identifier: MIT */
/*
 * Walks whole images through the library: damaged ones, and sound ones from many threads at once.
 *
 *	uext4-walk flip SEED COUNT IMAGE	COUNT images, each with some bytes of metadata
 *	changed uext4-walk truncate IMAGE		the image cut at every power of two
 *	uext4-walk threads N ROUNDS IMAGE	N threads walk at once; all must see the same
 *
 * Every name, attribute, xattr, extent, symlink and byte is asked for.  What counts as a failure: a
 * crash or a report of a sanitizer, a walk that exceeds its bounds, more memory than MEMORY_MAX,
 * and, with --strict (all metadata has checksums), an answer that differs from the sound image
 * without an error.
 *
 * Metadata is found without knowing the format: the images' files hold only the byte DATA_BYTE, so
 * that what holds anything else but zeros is metadata.
 *
 * Built twice: uext4-walk, and uext4-walk-fuzz whose engine accepts every checksum, so that changes
 * reach the code behind it.
 */
#include "uext4.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define DATA_BYTE 0xDA
#define CHUNK 1024u
#define ENTRIES_MAX 400000u /* of a walk; hostile directories can form long chains */
#define DEPTH_MAX 64u
#define BYTES_MAX (8ull << 20)	      /* read of one file */
#define WALK_BYTES_MAX (256ull << 20) /* read of one walk */
#define SECONDS_MAX 60u		      /* of one image, under a sanitizer */
#define MEMORY_MAX (1024l << 10)      /* KiB, with a sanitizer's own */

/* ---- what was seen ------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, const void *data, size_t bytes)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < bytes; i++)
		h = (h ^ p[i]) * 0x100000001b3ull;
	return h ^ h >> 29;
}

#define MIX(h, v) ((h) = mix((h), &(v), sizeof(v)))

struct seen {
	uint64_t path, digest;
};

struct walk {
	struct uext4_fs *fs;
	const struct walk *sound; /* compare with it, or NULL */
	struct seen *seen;	  /* sorted by path once the walk is over, if keep */
	size_t count, room;
	bool keep;
	uint64_t digest, entries, bytes, errors, differences;
	uint64_t problems; /* that the check found */
};

static int by_path(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;

	return x->path < y->path ? -1 : x->path > y->path;
}

static void note(struct walk *w, uint64_t path, uint64_t digest)
{
	struct seen key = { path, digest };

	w->digest += digest * (path | 1);
	if (w->keep) {
		if (w->count == w->room) {
			w->room = w->room ? 2 * w->room : 1024;
			w->seen = realloc(w->seen, w->room * sizeof(*w->seen));
			if (!w->seen)
				abort();
		}
		w->seen[w->count++] = key;
	}
	if (w->sound) {
		const struct seen *s = bsearch(&key, w->sound->seen, w->sound->count, sizeof(key),
					       by_path);

		if (!s || s->digest != digest)
			w->differences++;
	}
}

/* ---- one inode ----------------------------------------------------------------------------- */

static bool failed(struct walk *w, int err)
{
	if (err == 0)
		return false;
	if (uext4_last_error()[0] == '\0') {
		fprintf(stderr, "error %d without words\n", err);
		abort();
	}
	w->errors++;
	return true;
}

static bool walk_contents(struct walk *w, uint32_t ino, uint64_t size, uint64_t *h)
{
	static _Thread_local uint8_t buf[128 * 1024 + 7];
	struct uext4_file *file;
	uint64_t offset = 0, total = 0;
	bool ok = true;

	if (failed(w, uext4_file_open(w->fs, ino, 0, &file)))
		return false;
	uext4_prefetch(file, 0, size);
	/* A damaged size can say anything: go from data to data. */
	while (total < BYTES_MAX && w->bytes < WALK_BYTES_MAX) {
		size_t got;
		uint64_t hole;
		int err = uext4_seek(file, offset, UEXT4_SEEK_DATA, &offset);

		if (err == -ENXIO)
			break;
		ok = !failed(w, err) &&
		     !failed(w, uext4_seek(file, offset, UEXT4_SEEK_HOLE, &hole)) &&
		     !failed(w, uext4_pread(file, buf, sizeof(buf), offset, &got));
		if (!ok || got == 0)
			break;
		MIX(*h, offset);
		MIX(*h, hole);
		*h = mix(*h, buf, got);
		offset += got;
		total += got;
		w->bytes += got;
	}
	uext4_file_close(file);
	return ok;
}

static bool walk_xattrs(struct walk *w, uint32_t ino, uint64_t *h)
{
	static _Thread_local char names[65536], value[65536];
	size_t size, len;

	if (failed(w, uext4_xattr_list(w->fs, ino, names, sizeof(names), &size)))
		return false;
	for (char *name = names; name < names + size; name += strlen(name) + 1) {
		if (failed(w, uext4_xattr_get(w->fs, ino, name, value, sizeof(value), &len)))
			return false;
		*h = mix(*h, name, strlen(name));
		*h = mix(*h, value, len);
	}
	return true;
}

static bool walk_extents(struct walk *w, uint32_t ino, uint64_t *h)
{
	struct uext4_extent extents[16];
	uint64_t offset = 0;
	size_t count;

	for (unsigned rounds = 0; rounds < 1024; rounds++) {
		if (failed(w, uext4_extents(w->fs, ino, offset, UINT64_MAX, extents, 16, &count)))
			return false;
		if (count == 0)
			break;
		for (size_t i = 0; i < count; i++) {
			MIX(*h, extents[i].logical);
			MIX(*h, extents[i].physical);
			MIX(*h, extents[i].length);
			MIX(*h, extents[i].flags);
		}
		offset = extents[count - 1].logical + extents[count - 1].length;
	}
	return true;
}

/* Everything but the entries of a directory.  False: nothing more can be said of it. */
static bool walk_inode(struct walk *w, uint32_t ino, uint64_t path, struct uext4_stat *st)
{
	char target[65536];
	uint64_t h = path;
	size_t len;
	bool ok = true;

	if (failed(w, uext4_stat(w->fs, ino, st)))
		return false;
	MIX(h, st->mode);
	MIX(h, st->nlink);
	MIX(h, st->uid);
	MIX(h, st->gid);
	MIX(h, st->size);
	MIX(h, st->blocks);
	MIX(h, st->flags);
	MIX(h, st->mtime.sec);
	MIX(h, st->mtime.nsec);
	if (S_ISREG(st->mode)) {
		ok = walk_contents(w, ino, st->size, &h);
	} else if (S_ISLNK(st->mode)) {
		ok = !failed(w, uext4_readlink(w->fs, ino, target, sizeof(target), &len));
		/* A target that has a block of its own has no checksum. */
		if (ok && len < 60)
			h = mix(h, target, len);
	}
	ok = walk_xattrs(w, ino, &h) && ok;
	ok = walk_extents(w, ino, &h) && ok;
	if (ok)
		note(w, path, h);
	return true;
}

/* ---- the tree ------------------------------------------------------------------------------ */

struct level {
	struct uext4_dir *dir;
	uint32_t ino;
	uint64_t cookie, path;
};

static void push(struct walk *w, struct level *stack, unsigned *depth, uint32_t ino, uint64_t path)
{
	struct uext4_stat st;
	struct uext4_dir *dir;

	if (!walk_inode(w, ino, path, &st) || !S_ISDIR(st.mode))
		return;
	if (*depth == DEPTH_MAX || failed(w, uext4_dir_open(w->fs, ino, &dir)))
		return;
	stack[(*depth)++] = (struct level){ .dir = dir, .ino = ino, .path = path };
}

static void walk_all(struct walk *w, unsigned stride)
{
	struct level stack[DEPTH_MAX];
	struct uext4_statfs st;
	struct uext4_info info;
	unsigned depth = 0;

	failed(w, uext4_info(w->fs, &info));
	failed(w, uext4_statfs(w->fs, 0, &st));
	push(w, stack, &depth, UEXT4_ROOT_INO, 14695981039346656037ull);
	while (depth > 0) {
		struct level *top = &stack[depth - 1];
		struct uext4_dirent entries[64];
		size_t count = 0;

		if (w->entries > ENTRIES_MAX ||
		    failed(w, uext4_dir_read(top->dir, top->cookie, entries, stride, &count)) ||
		    count == 0) {
			uext4_dir_close(top->dir);
			depth--;
			continue;
		}
		w->entries += count;
		top->cookie = entries[count - 1].cookie;
		/* The last one is entered at once, the others are finished first. */
		for (size_t i = 0; i < count; i++) {
			const struct uext4_dirent *e = &entries[i];
			uint64_t path = mix(top->path, e->name, e->name_len);
			uint32_t found;
			unsigned before = depth;

			if (strcmp(e->name, ".") == 0 || strcmp(e->name, "..") == 0)
				continue;
			if (!failed(w,
				    uext4_lookup(w->fs, top->ino, e->name, e->name_len, &found)) &&
			    w->sound && found != e->ino)
				w->differences++;
			push(w, stack, &depth, e->ino, path);
			top = &stack[before - 1];
			if (depth > before && i + 1 < count) {
				/* Come back behind this entry. */
				top->cookie = e->cookie;
				w->entries -= count - i - 1;
				break;
			}
		}
	}
}

static void on_problem(void *arg, const char *text)
{
	if (getenv("UEXT4_SHOW_PROBLEMS"))
		puts(text);
	if (text[0] == '\0')
		abort();
	++*(uint64_t *)arg;
}

/* What a reader meets, the verifier has found too. */
static void check_all(struct walk *w)
{
	uint64_t told = 0;
	const struct uext4_check_options options = {
		.size = sizeof(options),
		.arg = &told,
		.problem = on_problem,
		.problems_max = 100,
	};
	struct uext4_check_result result;

	if (failed(w, uext4_check(w->fs, &options, &result)))
		return;
	if (told != (result.problems < 100 ? result.problems : 100))
		abort();
	w->problems = result.problems;
	if (w->errors > 0 && result.problems == 0) {
		fprintf(stderr, "the check finds nothing, but reading failed\n");
		abort();
	}
}

/* Opens and walks; returns whether it could be opened. */
static bool walk_fd(struct walk *w, int fd, uint64_t cache_bytes, unsigned stride)
{
	struct uext4_open_options options = {
		.size = sizeof(options),
		.flags = UEXT4_OPEN_NOLOCK,
		.cache_bytes = cache_bytes,
	};

	if (failed(w, uext4_open_fd(fd, &options, &w->fs)))
		return false;
	walk_all(w, stride);
	check_all(w);
	uext4_close(w->fs);
	return true;
}

/* ---- damage -------------------------------------------------------------------------------- */

static uint64_t rnd_state;

static uint64_t rnd(void)
{
	uint64_t z = (rnd_state += 0x9e3779b97f4a7c15ull);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

struct image {
	int fd;
	uint8_t *data;
	size_t bytes;
	size_t *chunks; /* offsets of metadata */
	size_t count;
};

static bool chunk_is_metadata(const uint8_t *p)
{
	for (size_t i = 0; i < CHUNK; i++) {
		if (p[i] != 0 && p[i] != DATA_BYTE)
			return true;
	}
	return false;
}

static void image_load(struct image *im, const char *path)
{
	struct stat st;
	int from = open(path, O_RDONLY | O_CLOEXEC);

	im->fd = memfd_create("image", MFD_CLOEXEC);
	if (from < 0 || im->fd < 0 || fstat(from, &st) < 0 || ftruncate(im->fd, st.st_size) < 0) {
		perror(path);
		exit(2);
	}
	im->bytes = (size_t)st.st_size;
	im->data = mmap(NULL, im->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, im->fd, 0);
	if (im->data == MAP_FAILED || pread(from, im->data, im->bytes, 0) != st.st_size) {
		perror(path);
		exit(2);
	}
	close(from);
	im->chunks = calloc(im->bytes / CHUNK, sizeof(*im->chunks));
	for (size_t off = 0; off + CHUNK <= im->bytes; off += CHUNK) {
		if (chunk_is_metadata(im->data + off))
			im->chunks[im->count++] = off;
	}
}

static void image_free(struct image *im)
{
	munmap(im->data, im->bytes);
	close(im->fd);
	free(im->chunks);
}

/* Where the next change goes: mostly bytes that mean something. */
static size_t pick_offset(const struct image *im)
{
	size_t off = im->chunks[rnd() % im->count] + rnd() % CHUNK;

	for (unsigned i = 0; i < 64 && im->data[off] == 0 && rnd() % 4 != 0; i++)
		off = im->chunks[rnd() % im->count] + rnd() % CHUNK;
	return off;
}

static uint8_t damaged(uint8_t byte)
{
	switch (rnd() % 4) {
	case 0: return (uint8_t)(byte ^ 1u << rnd() % 8);
	case 1: return (uint8_t)rnd();
	case 2: return (uint8_t)(byte + 1 - 2 * (rnd() % 2));
	default: return rnd() % 2 ? 0xff : 0;
	}
}

static void check_memory(void)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	if (ru.ru_maxrss > MEMORY_MAX) {
		fprintf(stderr, "%ld KiB of memory\n", ru.ru_maxrss);
		abort();
	}
}

static int flip(uint64_t seed, unsigned count, const char *path, bool strict)
{
	struct walk sound = { .keep = true };
	unsigned opened = 0, with_errors = 0;
	struct image im = { 0 };

	image_load(&im, path);
	alarm(SECONDS_MAX);
	if (!walk_fd(&sound, im.fd, 0, 64) || sound.errors || sound.problems) {
		fprintf(stderr, "%s: the sound image gives errors: %s\n", path, uext4_last_error());
		return 1;
	}
	qsort(sound.seen, sound.count, sizeof(*sound.seen), by_path);
	for (unsigned i = 0; i < count; i++) {
		struct walk w = { .sound = strict ? &sound : NULL };
		struct {
			size_t off;
			uint8_t was;
		} changes[8];
		unsigned n;

		rnd_state = seed + i;
		n = 1 + (unsigned)(rnd() % 2 ? 0 : rnd() % 8);
		for (unsigned c = 0; c < n; c++) {
			changes[c].off = pick_offset(&im);
			changes[c].was = im.data[changes[c].off];
			im.data[changes[c].off] = damaged(changes[c].was);
		}
		alarm(SECONDS_MAX);
		opened += walk_fd(&w, im.fd, 1 << 20, 1 + (unsigned)(rnd() % 64));
		with_errors += w.errors != 0;
		if (w.differences) {
			fprintf(stderr,
				"%s: seed %llu: %llu wrong answers without an error (byte %zu)\n",
				path, (unsigned long long)(seed + i),
				(unsigned long long)w.differences, changes[0].off);
			return 1;
		}
		for (unsigned c = n; c-- > 0;)
			im.data[changes[c].off] = changes[c].was;
	}
	check_memory();
	printf("%u images from seed %llu: %u opened, %u gave errors, %zu KiB of metadata\n", count,
	       (unsigned long long)seed, opened, with_errors, im.count * CHUNK / 1024);
	free(sound.seen);
	image_free(&im);
	return 0;
}

static int truncate_all(const char *path)
{
	struct image im = { 0 };
	unsigned opened = 0, cut = 0;

	image_load(&im, path);
	for (size_t bytes = 1; bytes < im.bytes; bytes *= 2, cut++) {
		struct walk w = { 0 };
		uint8_t *copy = malloc(bytes);
		int fd = memfd_create("cut", MFD_CLOEXEC);

		memcpy(copy, im.data, bytes);
		if (fd < 0 || write(fd, copy, bytes) != (ssize_t)bytes)
			return 1;
		alarm(SECONDS_MAX);
		opened += walk_fd(&w, fd, 1 << 20, 64);
		close(fd);
		free(copy);
	}
	check_memory();
	printf("%u lengths: %u opened\n", cut, opened);
	image_free(&im);
	/* No length below the whole may pass for an image. */
	return opened != 0;
}

/* ---- many threads -------------------------------------------------------------------------- */

struct reader {
	pthread_t thread;
	struct uext4_fs *fs;
	unsigned number, rounds;
	uint64_t digest, errors;
};

static void *read_all(void *arg)
{
	struct reader *r = arg;

	for (unsigned i = 0; i < r->rounds; i++) {
		struct walk w = { .fs = r->fs };

		/* Batches of other sizes, so that the threads do not march in step. */
		walk_all(&w, 1 + (r->number * 7 + i) % 64);
		if (i && w.digest != r->digest)
			r->errors++;
		r->digest = w.digest;
		r->errors += w.errors;
	}
	return NULL;
}

static int threads(unsigned n, unsigned rounds, const char *path)
{
	struct uext4_open_options options = { .size = sizeof(options), .cache_bytes = 2 << 20 };
	struct reader *readers = calloc(n, sizeof(*readers));
	struct uext4_fs *fs;
	int bad = 0;

	if (uext4_open(path, &options, &fs) < 0) {
		fprintf(stderr, "%s: %s\n", path, uext4_last_error());
		return 1;
	}
	for (unsigned i = 0; i < n; i++) {
		readers[i] = (struct reader){ .fs = fs, .number = i, .rounds = rounds };
		if (pthread_create(&readers[i].thread, NULL, read_all, &readers[i]))
			abort();
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(readers[i].thread, NULL);
		bad += readers[i].errors != 0 || readers[i].digest != readers[0].digest;
	}
	uext4_close(fs);
	printf("%u threads, %u rounds: digest %016llx, %d differ\n", n, rounds,
	       (unsigned long long)readers[0].digest, bad);
	free(readers);
	return bad != 0;
}

int main(int argc, char **argv)
{
	bool strict = argc > 1 && strcmp(argv[argc - 1], "--strict") == 0;

	argc -= strict;
	if (argc == 5 && strcmp(argv[1], "flip") == 0)
		return flip(strtoull(argv[2], NULL, 0), (unsigned)atoi(argv[3]), argv[4], strict);
	if (argc == 3 && strcmp(argv[1], "truncate") == 0)
		return truncate_all(argv[2]);
	if (argc == 5 && strcmp(argv[1], "threads") == 0)
		return threads((unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]), argv[4]);
	fprintf(stderr, "usage: uext4-walk flip SEED COUNT IMAGE [--strict] | truncate IMAGE |"
			" threads N ROUNDS IMAGE\n");
	return 2;
}
