/* SPDX-License-Identifier: MIT */
/*
 * uext4-manifest IMAGE [--norecovery] [--full]: everything the library shows of an image, as JSON
 * lines, in the form that t/lib/manifest.py describes and also makes of mounted directories.
 *
 * Walks directories in byte order of their names, each before its contents; an inode is described
 * at its first name.  Every name is looked up, besides being listed.  File contents are read in
 * calls of many sizes, at odd offsets.  Uses nothing but include/uext4.h.
 *
 * Exit status: 0, or 1 with a message; what was printed before a failure is incomplete.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "uext4.h"

enum {
	WINDOW = 1 << 20, /* contents are read in pieces of this */
	PIECE = 4096,	  /* and hashed in pieces of this */
	DIR_BATCH = 256,
	EXTENT_BATCH = 128,
	HOLE_PROBE = 65536,
	SEEN_MAX = 1 << 24, /* inodes in an image this program can walk */
};

#define HOLE_READ_MAX ((uint64_t)4 << 20)
#define FULL_READ_MAX ((uint64_t)4 << 30)
#define DATA_READ_MAX ((uint64_t)64 << 30)

/* ---- SHA-256 (FIPS 180-4) -------------------------------------------------------------------- */

struct sha256 {
	uint32_t state[8];
	uint64_t bytes;
	uint8_t block[64];
};

static const uint32_t sha256_k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
	0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
	0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
	0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
	0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
	0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
	0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
	0xc67178f2,
};

static void sha256_init(struct sha256 *s)
{
	static const uint32_t start[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
					   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };

	memcpy(s->state, start, sizeof(start));
	s->bytes = 0;
}

static uint32_t rotate(uint32_t x, unsigned by)
{
	return x >> by | x << (32 - by);
}

static void sha256_block(struct sha256 *s, const uint8_t *block)
{
	uint32_t w[64];
	uint32_t v[8];

	for (unsigned i = 0; i < 16; i++)
		w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
		       (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
	for (unsigned i = 16; i < 64; i++) {
		uint32_t a = w[i - 15];
		uint32_t b = w[i - 2];

		w[i] = w[i - 16] + w[i - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) +
		       (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
	}
	memcpy(v, s->state, sizeof(v));
	for (unsigned i = 0; i < 64; i++) {
		uint32_t e = v[4];
		uint32_t a = v[0];
		uint32_t t1 = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
			      ((e & v[5]) ^ (~e & v[6])) + sha256_k[i] + w[i];
		uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
			      ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));

		memmove(v + 1, v, 7 * sizeof(v[0]));
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (unsigned i = 0; i < 8; i++)
		s->state[i] += v[i];
}

static void sha256_add(struct sha256 *s, const void *data, size_t len)
{
	const uint8_t *from = data;

	while (len > 0) {
		size_t have = s->bytes % 64;
		size_t take = 64 - have < len ? 64 - have : len;

		s->bytes += take;
		if (have == 0 && take == 64) {
			sha256_block(s, from);
		} else {
			memcpy(s->block + have, from, take);
			if (have + take == 64)
				sha256_block(s, s->block);
		}
		from += take;
		len -= take;
	}
}

/* Ends the hash and writes it to @hex (65 bytes). */
static void sha256_hex(struct sha256 *s, char *hex)
{
	static const uint8_t pad[64] = { 0x80 };
	uint64_t bits = s->bytes * 8;
	uint8_t length[8];

	for (unsigned i = 0; i < 8; i++)
		length[i] = (uint8_t)(bits >> (56 - 8 * i));
	sha256_add(s, pad, 1 + (119 - s->bytes % 64) % 64);
	sha256_add(s, length, sizeof(length));
	for (unsigned i = 0; i < 8; i++)
		snprintf(hex + (size_t)8 * i, 9, "%08" PRIx32, s->state[i]);
}

/* ---- output, failure ------------------------------------------------------------------------- */

struct walk {
	struct uext4_fs *fs;
	bool full;
	uint8_t *seen; /* one bit an inode */
	uint8_t *window;
	unsigned turn; /* which read size is next */
};

/* A directory entry that waits for its turn. */
struct waiting {
	uint32_t dir;
	uint32_t ino;
	size_t len; /* of the path */
	size_t name_at;
	char path[];
};

struct stack {
	struct waiting **items;
	size_t count;
	size_t room;
};

__attribute__((noreturn, format(printf, 2, 3))) static void die(const char *path,
								const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fprintf(stderr, "uext4-manifest: %s: ", path);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, ": %s\n", uext4_last_error());
	exit(1);
}

static void *must_alloc(void *old, size_t size)
{
	void *mem = realloc(old, size);

	if (!mem) {
		fprintf(stderr, "uext4-manifest: out of memory\n");
		exit(1);
	}
	return mem;
}

/* Bytes as printable ASCII inside a JSON string. */
static void put_bytes(const void *data, size_t len)
{
	const uint8_t *bytes = data;

	for (size_t i = 0; i < len; i++) {
		if (bytes[i] < 0x21 || bytes[i] > 0x7e || bytes[i] == '%')
			printf("%%%02X", bytes[i]);
		else if (bytes[i] == '"' || bytes[i] == '\\')
			printf("\\%c", bytes[i]);
		else
			putchar(bytes[i]);
	}
}

static void put_time(const char *name, const struct uext4_time *time)
{
	printf(", \"%s\": \"%" PRId64 ".%09" PRIu32 "\"", name, time->sec, time->nsec);
}

/* ---- contents -------------------------------------------------------------------------------- */

static void digest_piece(struct sha256 *s, uint64_t offset, const uint8_t *piece, size_t len)
{
	static const uint8_t zeros[PIECE];
	uint8_t where[8];

	if (memcmp(piece, zeros, len) == 0)
		return;
	for (unsigned i = 0; i < 8; i++)
		where[i] = (uint8_t)(offset >> (8 * i));
	sha256_add(s, where, sizeof(where));
	sha256_add(s, piece, len);
}

/* Fills the window with [@start, @end) of a file, in calls of changing sizes. */
static void read_window(struct walk *w, struct uext4_file *file, const char *path, uint64_t start,
			uint64_t end)
{
	static const size_t sizes[] = { 4096, 1,      65536, 511,     1 << 20,
					4097, 131072, 3,     1 << 18, 12288 };
	uint64_t at = start;

	while (at < end) {
		size_t want = sizes[w->turn++ % (sizeof(sizes) / sizeof(sizes[0]))];
		size_t got;

		if (want > end - at)
			want = (size_t)(end - at);
		if (uext4_pread(file, w->window + (at - start), want, at, &got) < 0)
			die(path, "pread of %zu at %" PRIu64, want, at);
		if (got != want)
			die(path, "pread of %zu at %" PRIu64 " gave %zu", want, at, got);
		at += got;
	}
}

static void digest_range(struct walk *w, struct uext4_file *file, const char *path,
			 struct sha256 *s, uint64_t start, uint64_t end)
{
	for (uint64_t at = start; at < end; at += WINDOW) {
		size_t len = end - at < WINDOW ? (size_t)(end - at) : WINDOW;

		read_window(w, file, path, at, at + len);
		for (size_t done = 0; done < len; done += PIECE)
			digest_piece(s, at + done, w->window + done,
				     len - done < PIECE ? len - done : PIECE);
	}
}

/* What is read of a file: ranges on piece boundaries that do not overlap, in order. */
struct plan {
	uint64_t (*ranges)[2];
	size_t count;
	size_t room;
	uint64_t size;
};

static void plan_add(struct plan *plan, uint64_t start, uint64_t end)
{
	start -= start % PIECE;
	end += (PIECE - end % PIECE) % PIECE;
	if (end > plan->size)
		end = plan->size;
	if (end <= start)
		return;
	if (plan->count > 0 && start <= plan->ranges[plan->count - 1][1]) {
		if (end > plan->ranges[plan->count - 1][1])
			plan->ranges[plan->count - 1][1] = end;
		return;
	}
	if (plan->count == plan->room) {
		plan->room = plan->room * 2 + 16;
		plan->ranges = must_alloc(plan->ranges, plan->room * sizeof(plan->ranges[0]));
	}
	plan->ranges[plan->count][0] = start;
	plan->ranges[plan->count][1] = end;
	plan->count++;
}

/* A large hole is read at its ends and in its middle only. */
static void plan_hole(struct plan *plan, uint64_t start, uint64_t end)
{
	uint64_t middle = start + (end - start) / 2;

	if (end - start <= HOLE_READ_MAX) {
		plan_add(plan, start, end);
		return;
	}
	plan_add(plan, start, start + HOLE_PROBE);
	plan_add(plan, middle, middle + HOLE_PROBE);
	plan_add(plan, end - HOLE_PROBE, end);
}

/* Prints the data segments of a file and plans to read them. */
static void segments(struct uext4_file *file, const char *path, struct plan *plan)
{
	uint64_t at = 0;
	uint64_t data;
	uint64_t hole;
	const char *comma = "";

	printf(", \"seek\": [");
	while (at < plan->size) {
		int err = uext4_seek(file, at, UEXT4_SEEK_DATA, &data);

		if (err == -ENXIO)
			break;
		if (err < 0 || uext4_seek(file, data, UEXT4_SEEK_HOLE, &hole) < 0)
			die(path, "seek at %" PRIu64, at);
		if (hole <= data || data < at)
			die(path, "seek at %" PRIu64 " gave %" PRIu64 " and %" PRIu64, at, data,
			    hole);
		printf("%s[%" PRIu64 ", %" PRIu64 "]", comma, data, hole);
		comma = ", ";
		if (data > at)
			plan_hole(plan, at, data);
		if (hole - data > DATA_READ_MAX)
			plan_hole(plan, data, hole);
		else
			plan_add(plan, data, hole);
		at = hole;
	}
	if (at < plan->size)
		plan_hole(plan, at, plan->size);
	printf("]");
}

static void print_contents(struct walk *w, const char *path, const struct uext4_stat *st)
{
	struct plan plan = { .size = st->size };
	struct uext4_file *file;
	struct sha256 s;
	char hex[65];
	size_t got;

	if (uext4_file_open(w->fs, st->ino, 0, &file) < 0)
		die(path, "open");
	segments(file, path, &plan);
	if (w->full && st->size <= FULL_READ_MAX) {
		plan.count = 0;
		plan_add(&plan, 0, st->size);
	}
	sha256_init(&s);
	for (size_t i = 0; i < plan.count; i++)
		digest_range(w, file, path, &s, plan.ranges[i][0], plan.ranges[i][1]);
	if (uext4_pread(file, w->window, PIECE, st->size, &got) < 0 || got != 0)
		die(path, "pread at the end");
	uext4_file_close(file);
	free(plan.ranges);
	sha256_hex(&s, hex);
	printf(", \"digest\": \"%s\"", hex);
}

/* ---- attributes ------------------------------------------------------------------------------ */

static void print_extents(struct walk *w, const char *path, uint32_t ino)
{
	struct uext4_extent extents[EXTENT_BATCH];
	uint64_t at = 0;
	size_t count;
	const char *comma = "";

	printf(", \"fiemap\": [");
	do {
		if (uext4_extents(w->fs, ino, at, UINT64_MAX - at, extents, EXTENT_BATCH, &count) <
		    0)
			die(path, "extents at %" PRIu64, at);
		for (size_t i = 0; i < count; i++) {
			const struct uext4_extent *e = &extents[i];

			printf("%s[%" PRIu64 ", %" PRIu64 ", %" PRIu64 ", %" PRIu32 "]", comma,
			       e->logical, e->physical, e->length, e->flags);
			comma = ", ";
			if (e->logical + e->length <= at)
				die(path, "extents do not move on at %" PRIu64, at);
			at = e->logical + e->length;
		}
	} while (count > 0 && !(extents[count - 1].flags & UEXT4_EXTENT_LAST));
	printf("]");
}

static void print_value(const void *value, size_t size)
{
	struct sha256 s;
	char hex[65];

	if (size <= 64) {
		put_bytes(value, size);
		return;
	}
	sha256_init(&s);
	sha256_add(&s, value, size);
	sha256_hex(&s, hex);
	printf("#%zu:%s", size, hex);
}

static void print_xattrs(struct walk *w, const char *path, uint32_t ino)
{
	char *names;
	size_t size;
	const char *comma = "";

	if (uext4_xattr_list(w->fs, ino, NULL, 0, &size) < 0)
		die(path, "listing attributes");
	names = must_alloc(NULL, size + 1);
	if (size > 0 && uext4_xattr_list(w->fs, ino, names, size, &size) < 0)
		die(path, "listing attributes");
	printf(", \"xattrs\": {");
	for (const char *name = names; name < names + size; name += strlen(name) + 1) {
		size_t asked;
		size_t got;
		void *value;

		if (uext4_xattr_get(w->fs, ino, name, NULL, 0, &asked) < 0)
			die(path, "attribute %s", name);
		value = must_alloc(NULL, asked + 1);
		got = 0;
		if (asked > 0 && uext4_xattr_get(w->fs, ino, name, value, asked, &got) < 0)
			die(path, "attribute %s", name);
		if (got != asked)
			die(path, "attribute %s has %zu bytes, then %zu", name, asked, got);
		printf("%s\"", comma);
		put_bytes(name, strlen(name));
		printf("\": \"");
		print_value(value, got);
		printf("\"");
		comma = ", ";
		free(value);
	}
	printf("}");
	free(names);
}

static const char *type_name(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG: return "reg";
	case S_IFDIR: return "dir";
	case S_IFLNK: return "lnk";
	case S_IFCHR: return "chr";
	case S_IFBLK: return "blk";
	case S_IFIFO: return "fifo";
	case S_IFSOCK: return "sock";
	default: return "unknown";
	}
}

static void print_stat(const struct uext4_stat *st)
{
	printf(", \"type\": \"%s\", \"mode\": %" PRIu32 ", \"nlink\": %" PRIu32
	       ", \"uid\": %" PRIu32 ", \"gid\": %" PRIu32 ", \"size\": %" PRIu64
	       ", \"blocks\": %" PRIu64 ", \"blksize\": %" PRIu32 ", \"flags\": %" PRIu32
	       ", \"generation\": %" PRIu32 ", \"projid\": %" PRIu32,
	       type_name(st->mode), st->mode, st->nlink, st->uid, st->gid, st->size, st->blocks,
	       st->block_size, st->flags, st->generation, st->projid);
	put_time("atime", &st->atime);
	put_time("mtime", &st->mtime);
	put_time("ctime", &st->ctime);
	if (st->has_crtime)
		put_time("crtime", &st->crtime);
	else
		printf(", \"crtime\": null");
	if (S_ISCHR(st->mode) || S_ISBLK(st->mode))
		printf(", \"rdev\": \"%" PRIu32 ":%" PRIu32 "\"", st->rdev_major, st->rdev_minor);
}

static void print_target(struct walk *w, const char *path, uint32_t ino)
{
	size_t len;

	if (uext4_readlink(w->fs, ino, w->window, WINDOW, &len) < 0)
		die(path, "readlink");
	printf(", \"target\": \"");
	put_bytes(w->window, len);
	printf("\"");
}

/* ---- directories ----------------------------------------------------------------------------- */

struct listing {
	struct uext4_dirent *entries;
	size_t count;
};

static int by_name(const void *a, const void *b)
{
	const struct uext4_dirent *x = a;
	const struct uext4_dirent *y = b;
	size_t shorter = x->name_len < y->name_len ? x->name_len : y->name_len;
	int order = memcmp(x->name, y->name, shorter);

	return order ? order : (int)x->name_len - (int)y->name_len;
}

static void list(struct walk *w, const char *path, uint32_t ino, struct listing *out)
{
	struct uext4_dir *dir;
	size_t room = DIR_BATCH;
	size_t got;
	uint64_t cookie = 0;

	*out = (struct listing){ .entries = must_alloc(NULL, room * sizeof(out->entries[0])) };
	if (uext4_dir_open(w->fs, ino, &dir) < 0)
		die(path, "opening the directory");
	do {
		if (room - out->count < DIR_BATCH) {
			room *= 2;
			out->entries = must_alloc(out->entries, room * sizeof(out->entries[0]));
		}
		if (uext4_dir_read(dir, cookie, out->entries + out->count, DIR_BATCH, &got) < 0)
			die(path, "reading the directory");
		out->count += got;
		if (got > 0)
			cookie = out->entries[out->count - 1].cookie;
	} while (got > 0);
	uext4_dir_close(dir);
	qsort(out->entries, out->count, sizeof(out->entries[0]), by_name);
}

static void add_entry(struct sha256 *s, const struct uext4_dirent *entry, uint32_t number)
{
	const uint8_t raw[5] = { 0, (uint8_t)number, (uint8_t)(number >> 8),
				 (uint8_t)(number >> 16), (uint8_t)(number >> 24) };

	sha256_add(s, entry->name, entry->name_len);
	sha256_add(s, raw, sizeof(raw));
}

static void push(struct stack *stack, const struct waiting *parent, uint32_t dir,
		 const struct uext4_dirent *entry)
{
	size_t prefix = parent->len ? parent->len + 1 : 0;
	struct waiting *item = must_alloc(NULL, sizeof(*item) + prefix + entry->name_len + 1u);

	item->dir = dir;
	item->name_at = prefix;
	item->len = prefix + entry->name_len;
	memcpy(item->path, parent->path, parent->len);
	if (prefix)
		item->path[prefix - 1] = '/';
	memcpy(item->path + prefix, entry->name, entry->name_len);
	item->path[item->len] = 0;
	if (stack->count == stack->room) {
		stack->room = stack->room * 2 + 64;
		stack->items = must_alloc(stack->items, stack->room * sizeof(stack->items[0]));
	}
	stack->items[stack->count++] = item;
}

static bool is_dots(const struct uext4_dirent *entry)
{
	return entry->name[0] == '.' &&
	       (entry->name_len == 1 || (entry->name_len == 2 && entry->name[1] == '.'));
}

static void print_entries(struct walk *w, const struct waiting *item, uint32_t ino,
			  struct stack *stack)
{
	struct listing listing;
	struct sha256 inos;
	struct sha256 types;
	char hex[65];

	list(w, item->path, ino, &listing);
	sha256_init(&inos);
	sha256_init(&types);
	for (size_t i = 0; i < listing.count; i++) {
		add_entry(&inos, &listing.entries[i], listing.entries[i].ino);
		add_entry(&types, &listing.entries[i], listing.entries[i].type);
	}
	for (size_t i = listing.count; i-- > 0;)
		if (!is_dots(&listing.entries[i]))
			push(stack, item, ino, &listing.entries[i]);
	sha256_hex(&inos, hex);
	printf(", \"entries\": [%zu, \"%s\"]", listing.count, hex);
	sha256_hex(&types, hex);
	printf(", \"types\": \"%s\"", hex);
	free(listing.entries);
}

static void visit(struct walk *w, struct waiting *item, struct stack *stack)
{
	struct uext4_stat st;
	uint32_t ino = UEXT4_ROOT_INO;

	if (item->len > 0 && uext4_lookup(w->fs, item->dir, item->path + item->name_at,
					  item->len - item->name_at, &ino) < 0)
		die(item->path, "lookup");
	printf("{\"path\": \"");
	put_bytes(item->path, item->len);
	printf("\", \"ino\": %" PRIu32, ino);
	if (ino >= SEEN_MAX)
		die(item->path, "inode %" PRIu32 " is more than this program walks", ino);
	if (!(w->seen[ino / 8] & 1u << ino % 8)) {
		w->seen[ino / 8] |= (uint8_t)(1u << ino % 8);
		if (uext4_stat(w->fs, ino, &st) < 0)
			die(item->path, "stat of inode %" PRIu32, ino);
		print_stat(&st);
		print_xattrs(w, item->path, ino);
		if (S_ISLNK(st.mode))
			print_target(w, item->path, ino);
		if (S_ISREG(st.mode) || S_ISDIR(st.mode))
			print_extents(w, item->path, ino);
		if (S_ISREG(st.mode))
			print_contents(w, item->path, &st);
		if (S_ISDIR(st.mode))
			print_entries(w, item, ino, stack);
	}
	printf("}\n");
}

static void walk(struct walk *w)
{
	struct stack stack = { 0 };
	struct waiting *root = must_alloc(NULL, sizeof(*root) + 1);

	*root = (struct waiting){ 0 };
	root->path[0] = 0;
	visit(w, root, &stack);
	free(root);
	while (stack.count > 0) {
		struct waiting *item = stack.items[--stack.count];

		visit(w, item, &stack);
		free(item);
	}
	free(stack.items);
}

static void print_statfs(struct uext4_fs *fs)
{
	struct uext4_statfs s;

	if (uext4_statfs(fs, 0, &s) < 0)
		die("/", "statfs");
	printf("{\"statfs\": {\"blocks\": %" PRIu64 ", \"blocks_free\": %" PRIu64
	       ", \"blocks_available\": %" PRIu64 ", \"inodes\": %" PRIu64
	       ", \"inodes_free\": %" PRIu64 ", \"block_size\": %" PRIu32 ", \"name_max\": %" PRIu32
	       ", \"fsid\": %" PRIu64 "}}\n",
	       s.blocks, s.blocks_free, s.blocks_available, s.inodes, s.inodes_free, s.block_size,
	       s.name_max, s.fsid);
}

int main(int argc, char **argv)
{
	struct uext4_open_options options = { .size = sizeof(options) };
	struct walk w = { 0 };
	const char *image = NULL;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--norecovery") == 0)
			options.flags |= UEXT4_OPEN_NORECOVERY;
		else if (strcmp(argv[i], "--full") == 0)
			w.full = true;
		else
			image = argv[i];
	}
	if (!image) {
		fprintf(stderr, "usage: uext4-manifest [--norecovery] [--full] IMAGE\n");
		return 2;
	}
	if (uext4_open(image, &options, &w.fs) < 0)
		die(image, "open");
	w.seen = must_alloc(NULL, SEEN_MAX / 8);
	memset(w.seen, 0, SEEN_MAX / 8);
	w.window = must_alloc(NULL, WINDOW);
	walk(&w);
	print_statfs(w.fs);
	free(w.window);
	free(w.seen);
	uext4_close(w.fs);
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
