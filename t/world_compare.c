/* SPDX-License-Identifier: MIT */
/* Holds what a file system shows against the model. */
#include "world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define WHOLE_MAX (4u << 20)   /* files up to this are read in full */
#define SEGMENT_MAX (8u << 20) /* of a data segment of larger ones */
#define XATTR_MAX 65536u
#define LINKS_FULL 65000u

static void differs(struct actor *a, const struct model_node *n, const char *what, uint64_t want,
		    uint64_t got)
{
	bad(a, "%s of node %u (inode %u) is %llu (%#llo), should be %llu (%#llo)", what, n->id,
	    n->ino, (unsigned long long)got, (unsigned long long)got, (unsigned long long)want,
	    (unsigned long long)want);
}

static void check_number(struct actor *a, const struct model_node *n, const char *what,
			 uint64_t want, uint64_t got)
{
	if (want != got)
		differs(a, n, what, want, got);
}

static void check_time(struct actor *a, struct model_node *n, const char *what,
		       enum model_time_kind kind, struct uext4_time seen)
{
	const struct model_time *t = &n->times[kind];

	if (model_learn_time(a->w->model, n, kind, seen))
		return;
	bad(a, "%s of node %u (inode %u) is %lld.%09u, should be %lld.%09u%s (up to %lld.%09u%s)",
	    what, n->id, n->ino, (long long)seen.sec, seen.nsec, (long long)t->t.sec, t->t.nsec,
	    t->open ? " or later" : "", (long long)t->hi.sec, t->hi.nsec,
	    t->or_same ? ", or unchanged" : "");
}

/* A directory with too many subdirectories to count says 1. */
static bool uncounted(const struct model_node *n, uint32_t nlink)
{
	return model_is_dir(n) && nlink == 1 && n->nlink > LINKS_FULL;
}

void compare_stat(struct actor *a, struct model_node *n)
{
	struct world *w = a->w;
	struct target t = target_of(a, n);
	struct uext4_stat st;
	int err = w->b->ops->stat(w->b, &t, &st);

	if (err < 0)
		bad(a, "stat of node %u (inode %u): %s", n->id, n->ino, words(err));
	pthread_mutex_lock(&w->lock);
	check_number(a, n, "inode number", n->ino, st.ino);
	check_number(a, n, "mode", n->mode, st.mode);
	check_number(a, n, "uid", n->uid, st.uid);
	check_number(a, n, "gid", n->gid, st.gid);
	check_number(a, n, "rdev major", n->rdev_major, st.rdev_major);
	check_number(a, n, "rdev minor", n->rdev_minor, st.rdev_minor);
	check_number(a, n, "flags", n->flags, st.flags & MODEL_FL_ALL);
	if (w->rules.project && !backend_is_stock(w->b))
		check_number(a, n, "project", n->projid, st.projid);
	if (!model_is_dir(n))
		check_number(a, n, "size", n->size, st.size);
	if (n->generation == 0)
		n->generation = st.generation;
	if (!w->b->ops->kernel || model_is_reg(n) || model_is_dir(n))
		check_number(a, n, "generation", n->generation, st.generation);
	if (!n->shared) {
		if (!uncounted(n, st.nlink))
			check_number(a, n, "link count", n->nlink, st.nlink);
		check_time(a, n, "atime", MODEL_ATIME, st.atime);
		check_time(a, n, "mtime", MODEL_MTIME, st.mtime);
		check_time(a, n, "ctime", MODEL_CTIME, st.ctime);
		if (st.has_crtime)
			check_time(a, n, "crtime", MODEL_CRTIME, st.crtime);
	}
	pthread_mutex_unlock(&w->lock);
}

/* ---- contents ------------------------------------------------------------------------------- */

static void check_bytes(struct actor *a, struct model_node *n, void *file, uint64_t offset,
			size_t len)
{
	struct world *w = a->w;
	size_t got = 0, want;
	int err = w->b->ops->read(w->b, file, a->buf, len, offset, &got);

	if (err < 0)
		bad(a, "reading %zu bytes at %llu of node %u (inode %u): %s", len,
		    (unsigned long long)offset, n->id, n->ino, words(err));
	want = model_read(n, offset, a->buf2, len);
	if (got != want)
		bad(a,
		    "%zu bytes at %llu of node %u (inode %u), which has %llu bytes, should be %zu",
		    got, (unsigned long long)offset, n->id, n->ino, (unsigned long long)n->size,
		    want);
	for (size_t i = 0; i < got; i++) {
		if (a->buf[i] != a->buf2[i])
			bad(a,
			    "byte %llu of node %u (inode %u), which has %llu bytes, is %#x, should "
			    "be %#x",
			    (unsigned long long)(offset + i), n->id, n->ino,
			    (unsigned long long)n->size, a->buf[i], a->buf2[i]);
	}
}

static bool page_is_zero(const struct model_page *p, uint64_t size)
{
	uint64_t start = p->index * MODEL_PAGE;

	for (unsigned i = 0; i < MODEL_PAGE && start + i < size; i++) {
		if (p->data[i])
			return false;
	}
	return true;
}

/* Nothing but zeros may lie in what is said to be a hole. */
static void check_hole(struct actor *a, struct model_node *n, uint64_t from, uint64_t to)
{
	const struct model_page *p;

	for (uint64_t at = from; (p = model_next_page(n, at)) && p->index * MODEL_PAGE < to;
	     at = (p->index + 1) * MODEL_PAGE) {
		/* Of a page that lies in it in part, that part decides. */
		for (unsigned i = 0; i < MODEL_PAGE; i++) {
			uint64_t byte = p->index * MODEL_PAGE + i;

			if (byte >= from && byte < to && byte < n->size && p->data[i])
				bad(a,
				    "byte %llu of node %u (inode %u) lies in a hole [%llu, %llu)",
				    (unsigned long long)byte, n->id, n->ino,
				    (unsigned long long)from, (unsigned long long)to);
		}
	}
}

/* Goes from data to data: all of it is read, all between is a hole of the model's, too. */
static void check_segments(struct actor *a, struct model_node *n, void *file)
{
	struct backend *b = a->w->b;
	uint64_t at = 0, data, hole;

	while (at < n->size) {
		int err = b->ops->seek(b, file, at, UEXT4_SEEK_DATA, &data);

		/* Where data lies is known once it has a place; a scope may lack room for it. */
		if (err == -E2BIG && a->in_txn) {
			a->txn_too_big = true;
			return;
		}
		if (err == -ENXIO)
			data = n->size;
		else if (err < 0)
			bad(a, "seeking data at %llu of inode %u: %s", (unsigned long long)at,
			    n->ino, words(err));
		if (data < at || data > n->size)
			bad(a, "data of inode %u at %llu, asked from %llu on", n->ino,
			    (unsigned long long)data, (unsigned long long)at);
		check_hole(a, n, at, data);
		if (data == n->size)
			break;
		err = b->ops->seek(b, file, data, UEXT4_SEEK_HOLE, &hole);
		if (err < 0 || hole <= data || hole > n->size)
			bad(a, "the hole behind %llu of inode %u is at %llu: %s",
			    (unsigned long long)data, n->ino, (unsigned long long)hole, words(err));
		for (at = data; at < hole && at < data + SEGMENT_MAX; at += IO_MAX)
			check_bytes(a, n, file, at,
				    hole - at < IO_MAX ? (size_t)(hole - at) : IO_MAX);
		at = hole;
	}
}

void compare_contents(struct actor *a, struct model_node *n, void *file)
{
	uint64_t step = 1 + rnd_below(&a->rng, IO_MAX - 1);

	/*
	 * The kernel itself contradicts itself where data is not written back yet: seen are ENOENT
	 * (inline data), holes over delayed data (block maps) and empty segments (1k blocks).
	 */
	if (!backend_is_stock(a->w->b))
		check_segments(a, n, file);
	if (n->size <= WHOLE_MAX) {
		if (rnd_one_in(&a->rng, 2) || step < 4096)
			step = IO_MAX;
		for (uint64_t at = 0; at < n->size || at == 0; at += step)
			check_bytes(a, n, file, at, (size_t)step);
	} else {
		/* Where the model has bytes, and at the end. */
		const struct model_page *p;
		uint64_t at = 0;

		while ((p = model_next_page(n, at))) {
			if (!page_is_zero(p, n->size))
				check_bytes(a, n, file, p->index * MODEL_PAGE, MODEL_PAGE);
			at = (p->index + 1) * MODEL_PAGE;
		}
		check_bytes(a, n, file, n->size - 1000, 2000);
	}
}

static void check_target(struct actor *a, struct model_node *n)
{
	struct world *w = a->w;
	struct target t = target_of(a, n);
	size_t len = 0;
	int err = w->b->ops->readlink(w->b, &t, a->buf, 65536, &len);

	if (err < 0)
		bad(a, "reading symlink %u: %s", n->ino, words(err));
	if (len != model_read(n, 0, a->buf2, 65536) || memcmp(a->buf, a->buf2, len) != 0)
		bad(a, "symlink %u has another target (%zu bytes, should be %llu)", n->ino, len,
		    (unsigned long long)n->size);
}

/* ---- attributes ----------------------------------------------------------------------------- */

void compare_xattrs(struct actor *a, struct model_node *n)
{
	struct world *w = a->w;
	struct target t = target_of(a, n);
	size_t size = 0, count = 0, want = 0;
	char *names = (char *)a->buf;
	int err = w->b->ops->xattr_list(w->b, &t, names, XATTR_MAX, &size);

	if (err < 0)
		bad(a, "listing the attributes of inode %u: %s", n->ino, words(err));
	for (char *name = names; name < names + size; name += strlen(name) + 1) {
		const struct model_xattr *x = model_xattr_find(n, name);
		size_t got = 0;

		if (!x)
			bad(a, "inode %u has an attribute %s, should not", n->ino, name);
		err = w->b->ops->xattr_get(w->b, &t, name, a->buf2, XATTR_MAX, &got);
		if (err < 0)
			bad(a, "attribute %s of inode %u: %s", name, n->ino, words(err));
		if (got != x->size || memcmp(a->buf2, x->value, got) != 0)
			bad(a,
			    "attribute %s of inode %u has another value (%zu bytes, should be %zu)",
			    name, n->ino, got, x->size);
		count++;
	}
	for (const struct model_xattr *x = n->xattrs; x; x = x->next)
		want++;
	if (count != want)
		bad(a, "inode %u has %zu attributes, should have %zu", n->ino, count, want);
}

/* ---- directories ---------------------------------------------------------------------------- */

static uint8_t type_of(const struct model_node *n)
{
	switch (n->mode & S_IFMT) {
	case S_IFREG: return UEXT4_FT_REG;
	case S_IFDIR: return UEXT4_FT_DIR;
	case S_IFCHR: return UEXT4_FT_CHR;
	case S_IFBLK: return UEXT4_FT_BLK;
	case S_IFIFO: return UEXT4_FT_FIFO;
	case S_IFSOCK: return UEXT4_FT_SOCK;
	default: return UEXT4_FT_LNK;
	}
}

static void check_entry(struct actor *a, struct model_node *dir, const struct backend_dirent *d,
			size_t *found)
{
	const struct model_entry *e = model_find(dir, d->name, d->len);

	if (d->len == 1 && d->name[0] == '.') {
		check_number(a, dir, "\".\"", dir->ino, d->ino);
		return;
	}
	if (d->len == 2 && memcmp(d->name, "..", 2) == 0) {
		check_number(a, dir, "\"..\"", dir->parent->ino, d->ino);
		return;
	}
	if (!e)
		bad(a, "directory %u has an entry %s, should not", dir->ino,
		    shown(d->name, d->len));
	if (e->node->ino != d->ino)
		bad(a, "entry %s of directory %u leads to inode %u, should to %u",
		    shown(d->name, d->len), dir->ino, d->ino, e->node->ino);
	if (d->type != UEXT4_FT_UNKNOWN || a->w->has_filetype)
		check_number(a, e->node, "type in the entry", type_of(e->node), d->type);
	(*found)++;
}

/* Nobody else changes it meanwhile. */
void compare_listing(struct actor *a, struct model_node *n)
{
	struct world *w = a->w;
	struct target t = target_of(a, n);
	struct backend_dirent entries[64];
	size_t batch = 1 + rnd_below(&a->rng, 64), count, found = 0;
	uint64_t cookie = 0;
	void *dir;
	int err = w->b->ops->dir_open(w->b, &t, &dir);

	if (err < 0)
		bad(a, "opening directory %u: %s", n->ino, words(err));
	while ((err = w->b->ops->dir_read(w->b, dir, cookie, entries, batch, &count)) == 0 &&
	       count > 0) {
		for (size_t i = 0; i < count; i++)
			check_entry(a, n, &entries[i], &found);
		if (found > n->entries_count)
			break;
		cookie = entries[count - 1].cookie;
	}
	if (err < 0)
		bad(a, "reading directory %u: %s", n->ino, words(err));
	w->b->ops->dir_close(w->b, dir);
	if (found != n->entries_count)
		bad(a, "directory %u has %zu entries, should have %zu", n->ino, found,
		    n->entries_count);
}

void compare_node(struct actor *a, struct model_node *n)
{
	struct world *w = a->w;
	struct target t = target_of(a, n);
	void *file;
	int err;

	if (model_is_dir(n) && !n->parent)
		return; /* removed, and only being listed still */
	compare_stat(a, n);
	compare_xattrs(a, n);
	if (model_is_dir(n) && !n->shared)
		compare_listing(a, n);
	if (model_is_lnk(n))
		check_target(a, n);
	if (!model_is_reg(n))
		return;
	err = w->b->ops->file_open(w->b, &t, 0, &file);
	if (err < 0)
		bad(a, "opening inode %u: %s", n->ino, words(err));
	compare_contents(a, n, file);
	w->b->ops->file_close(w->b, file);
}

/* All threads have stopped. */
void compare_all(struct actor *a)
{
	for (struct model_node *n = a->w->model->nodes; n; n = n->next) {
		bool shared = n->shared;

		if (a->w->named_only && n->nlink == 0)
			continue;
		n->shared = false;
		if (shared) {
			/* What several threads did to it at once is known only now. */
			struct target t = target_of(a, n);
			struct uext4_stat st;

			if (a->w->b->ops->stat(a->w->b, &t, &st) == 0) {
				n->times[MODEL_MTIME] = (struct model_time){ .t = st.mtime };
				n->times[MODEL_CTIME] = (struct model_time){ .t = st.ctime };
			}
		}
		compare_node(a, n);
		n->shared = shared;
	}
}
