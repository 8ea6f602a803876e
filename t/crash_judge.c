/* SPDX-License-Identifier: MIT */
/*
 * Holds an image that may be what a cut or a failing disk has left against what was promised, and
 * recovers it first.
 */
#include "crash.h"

#include "dev/dev.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PROBLEMS_SHOWN 12u

/* ---- what an image shows -------------------------------------------------------------------- */

struct shown {
	char *path;
	uint32_t ino;
	uint64_t digest;
	char text[96];
	bool is_dir;
};

struct view {
	struct uext4_fs *fs;
	struct shown *e;
	size_t count, room;
	uint64_t digest;
};

static void must(int err, const char *what)
{
	if (err < 0)
		bad("%s: %s", what, uext4_last_error());
}

static void add_shown(struct view *v, char *path, uint32_t ino)
{
	static char names[65536], value[65536], target[65536];
	struct look look = { 0 };
	struct uext4_stat st;
	struct shown *e;
	size_t size, len;

	if (v->count == v->room) {
		v->room = v->room ? 2 * v->room : 128;
		v->e = realloc(v->e, v->room * sizeof(*v->e));
		if (!v->e)
			die("out of memory");
	}
	e = &v->e[v->count++];
	*e = (struct shown){ .path = path, .ino = ino };
	must(uext4_stat(v->fs, ino, &st), path);
	look.ino = ino;
	look.mode = st.mode;
	look.nlink = st.nlink;
	look.uid = st.uid;
	look.gid = st.gid;
	must(uext4_xattr_list(v->fs, ino, names, sizeof(names), &size), path);
	for (char *name = names; name < names + size; name += strlen(name) + 1) {
		must(uext4_xattr_get(v->fs, ino, name, value, sizeof(value), &len), name);
		look.xattrs += xattr_digest(name, value, len);
	}
	if (S_ISLNK(st.mode)) {
		must(uext4_readlink(v->fs, ino, target, sizeof(target), &look.target_len), path);
		look.target = (const uint8_t *)target;
	}
	e->is_dir = S_ISDIR(st.mode);
	e->digest = look_digest(path, &look, e->text, sizeof(e->text));
	v->digest += e->digest;
}

static char *join(const char *dir, const char *name)
{
	size_t len = strlen(dir) + strlen(name) + 2;
	char *path = must_alloc(len);

	snprintf(path, len, "%s%s%s", dir, *dir ? "/" : "", name);
	return path;
}

static void list_dir(struct view *v, size_t at)
{
	struct uext4_dirent entries[64];
	struct uext4_dir *dir;
	uint64_t cookie = 0;
	size_t got = 0;

	must(uext4_dir_open(v->fs, v->e[at].ino, &dir), v->e[at].path);
	do {
		must(uext4_dir_read(dir, cookie, entries, 64, &got), v->e[at].path);
		for (size_t i = 0; i < got; i++) {
			cookie = entries[i].cookie;
			if (strcmp(entries[i].name, ".") != 0 && strcmp(entries[i].name, "..") != 0)
				add_shown(v, join(v->e[at].path, entries[i].name), entries[i].ino);
		}
	} while (got > 0);
	uext4_dir_close(dir);
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct shown *)a)->path, ((const struct shown *)b)->path);
}

static struct view look_at(struct uext4_fs *fs, uint32_t thread)
{
	struct view v = { .fs = fs };
	uint32_t ino;
	char name[16];

	snprintf(name, sizeof(name), "t%u", thread);
	must(uext4_lookup(fs, UEXT4_ROOT_INO, name, strlen(name), &ino), name);
	add_shown(&v, join("", ""), ino);
	for (size_t i = 0; i < v.count; i++) {
		if (v.e[i].is_dir)
			list_dir(&v, i);
	}
	qsort(v.e, v.count, sizeof(*v.e), by_path);
	return v;
}

static void free_view(struct view *v)
{
	for (size_t i = 0; i < v->count; i++)
		free(v->e[i].path);
	free(v->e);
}

/* ---- what was promised ---------------------------------------------------------------------- */

/* Of thread @t: what is promised at least, and what may have happened at most. */
struct bounds {
	uint64_t lo, hi;
	uint64_t data; /* up to here the data of all files is promised, too */
};

static bool has_ended(const struct promise *p, const struct progress *at)
{
	return at->ended[p->thread] >= p->op;
}

static struct bounds bounds_of(const struct work *w, uint32_t t, const struct progress *at)
{
	struct bounds b = { .hi = at->begun[t] };

	for (size_t i = 0; i < w->promises_count; i++) {
		const struct promise *p = &w->promises[i];

		if (!has_ended(p, at))
			continue;
		if (p->k[t] > b.lo)
			b.lo = p->k[t];
		if (p->all && p->k[t] > b.data)
			b.data = p->k[t];
	}
	return b;
}

/* The operation up to which the bytes of file @id are promised. */
static uint64_t data_promise(const struct work *w, uint32_t t, uint32_t id, const struct bounds *b,
			     const struct progress *at)
{
	uint64_t op = b->data;

	for (size_t i = 0; i < w->promises_count; i++) {
		const struct promise *p = &w->promises[i];

		if (p->thread == t && p->node == id && has_ended(p, at) && p->op > op)
			op = p->op;
	}
	return op;
}

/* K1: prints how the image differs from the operation that comes nearest. */
static void explain_names(const struct worker *k, const struct view *v, const struct bounds *b)
{
	const struct snap *best = NULL;
	size_t best_score = SIZE_MAX, i = 0, j = 0;
	uint64_t best_op = 0;

	for (uint64_t op = b->lo; op <= b->hi; op++) {
		const struct snap *s = k->snaps[op];
		size_t same = 0, score;

		for (i = j = 0; i < s->count && j < v->count;) {
			int order = strcmp(s->entries[i].path, v->e[j].path);

			same += order == 0 && s->entries[i].digest == v->e[j].digest;
			i += order <= 0;
			j += order >= 0;
		}
		score = s->count + v->count - 2 * same;
		if (score < best_score) {
			best_score = score;
			best = s;
			best_op = op;
		}
	}
	fprintf(stderr,
		"    operations %" PRIu64 " to %" PRIu64 " are possible; nearest is %" PRIu64 ":\n",
		b->lo, b->hi, best_op);
	for (i = j = 0; best && (i < best->count || j < v->count);) {
		int order = i == best->count ? 1
			    : j == v->count  ? -1
					     : strcmp(best->entries[i].path, v->e[j].path);

		if (order < 0)
			fprintf(stderr, "    missing: %s (%s)\n", best->entries[i].path,
				best->entries[i].text);
		else if (order > 0)
			fprintf(stderr, "    surplus: %s (%s)\n", v->e[j].path, v->e[j].text);
		else if (best->entries[i].digest != v->e[j].digest)
			fprintf(stderr, "    differs: %s (%s), should be (%s)\n", v->e[j].path,
				v->e[j].text, best->entries[i].text);
		i += order <= 0;
		j += order >= 0;
	}
}

static const struct snap *match_names(const struct worker *k, const struct view *v,
				      const struct bounds *b)
{
	for (uint64_t op = b->hi + 1; op-- > b->lo;) {
		if (k->snaps[op]->digest == v->digest && k->snaps[op]->count == v->count)
			return k->snaps[op];
	}
	explain_names(k, v, b);
	bad("the names of thread %u are those of no moment", k->number);
}

static size_t version_at(const struct history *h, uint64_t op)
{
	size_t i = 0;

	while (i + 1 < h->count && h->versions[i + 1].op <= op)
		i++;
	return i;
}

/* K2: each byte is that of some version from @from to @to. */
static void match_bytes(const struct history *h, size_t from, size_t to, const uint8_t *data,
			uint64_t size, const char *path)
{
	static uint8_t fits[FILE_MAX];
	uint64_t missing = size;

	memset(fits, 0, size);
	for (size_t i = to + 1; i-- > from && missing > 0;) {
		const struct version *v = &h->versions[i];

		for (uint64_t at = 0; at < size; at++) {
			if (!fits[at] && data[at] == (at < v->size ? v->data[at] : 0)) {
				fits[at] = 1;
				missing--;
			}
		}
	}
	for (uint64_t at = 0; at < size; at++) {
		if (!fits[at])
			bad("byte %" PRIu64 " of %s (%" PRIu64
			    " bytes) is %#x, as in no version of "
			    "operations %" PRIu64 " (%" PRIu64 " bytes) to %" PRIu64 " (%" PRIu64
			    " bytes); %" PRIu64 " such bytes",
			    at, path, size, data[at], h->versions[from].op, h->versions[from].size,
			    h->versions[to].op, h->versions[to].size, missing);
	}
}

static void match_file(const struct worker *k, struct uext4_fs *fs, const struct shown *e,
		       uint32_t id, const struct bounds *b, const struct progress *at)
{
	static uint8_t data[FILE_MAX + 1];
	const struct history *h = &k->histories[id];
	size_t from = version_at(h, data_promise(k->work, k->number, id, b, at));
	size_t to = version_at(h, b->hi), got = 0;
	uint64_t min = UINT64_MAX, max = 0;
	struct uext4_file *file;

	must(uext4_file_open(fs, e->ino, 0, &file), e->path);
	must(uext4_pread(file, data, sizeof(data), 0, &got), e->path);
	uext4_file_close(file);
	for (size_t i = from; i <= to; i++) {
		min = h->versions[i].size < min ? h->versions[i].size : min;
		max = h->versions[i].size > max ? h->versions[i].size : max;
	}
	if (got < min || got > max)
		bad("%s has %zu bytes, should have %" PRIu64 " to %" PRIu64 " (operations %" PRIu64
		    " to %" PRIu64 ")",
		    e->path, got, min, max, h->versions[from].op, h->versions[to].op);
	if (got == h->versions[to].size && memcmp(data, h->versions[to].data, got) == 0)
		return;
	match_bytes(h, from, to, data, got, e->path);
}

void judge_promises(const struct work *w, struct uext4_fs *fs, const struct progress *at)
{
	for (uint32_t t = 0; at->ready && t < w->threads; t++) {
		const struct worker *k = &w->workers[t];
		struct bounds b = bounds_of(w, t, at);
		struct view v = look_at(fs, t);
		const struct snap *s = match_names(k, &v, &b);

		for (size_t i = 0; i < s->count; i++) {
			if (k->histories_room > s->entries[i].id &&
			    k->histories[s->entries[i].id].count > 0)
				match_file(k, fs, &v.e[i], s->entries[i].id, &b, at);
		}
		free_view(&v);
	}
}

/* ---- recovering ----------------------------------------------------------------------------- */

struct dev *disk_of(const struct work *w, uint8_t *image)
{
	struct dev *dev;

	if (dev_ram_create(image, w->base_bytes, &dev) < 0)
		die("out of memory");
	return dev;
}

static struct uext4_fs *open_image(struct dev *dev, uint32_t flags)
{
	struct uext4_open_options options = { .size = sizeof(options), .flags = flags };
	struct uext4_fs *fs;

	must(uext4_open_dev_for_test(dev, &options, &fs),
	     flags & UEXT4_OPEN_WRITE ? "opening it for writing" : "opening it");
	return fs;
}

static void print_problem(void *arg, const char *text)
{
	unsigned *shown = arg;

	if ((*shown)++ < PROBLEMS_SHOWN)
		fprintf(stderr, "    check: %s\n", text);
}

/* A recovered image: nothing is wrong with it, and it holds what was promised. */
void judge_image(const struct work *w, uint8_t *image, const struct progress *at)
{
	struct uext4_fs *fs = open_image(disk_of(w, image), 0);
	struct uext4_check_result result;
	unsigned shown = 0;
	struct uext4_check_options options = { .size = sizeof(options),
					       .arg = &shown,
					       .problem = print_problem };
	struct uext4_info info;

	must(uext4_info(fs, &info), "info");
	if (info.journal_dirty || info.orphans)
		bad("after recovery and close the journal is %s, and there are %u orphans",
		    info.journal_dirty ? "dirty" : "clean", info.orphans);
	must(uext4_check(fs, &options, &result), "check");
	if (result.problems)
		bad("%" PRIu64 " problems", result.problems);
	judge_promises(w, fs, at);
	must(uext4_close(fs), "closing it");
}

void judge_recovery(const struct work *w, struct dev *dev, const struct progress *at, bool look)
{
	struct uext4_fs *fs = open_image(dev, UEXT4_OPEN_WRITE);

	if (look)
		judge_promises(w, fs, at);
	must(uext4_close(fs), "closing the recovered image");
}
