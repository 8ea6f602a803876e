/* SPDX-License-Identifier: MIT */
/*
 * Random changes of an image, held against an in-memory model after every call, and by e2fsck and
 * our own checker at every pause.
 *
 *	uext4-world [OPTION]... IMAGE
 *
 *	--seed N, --ops N, --legs N	what happens: N operations a thread, in so many legs; behind
 *					each leg everything is checked, by turns of a frozen image,
 *					a closed one, and a copy that is recovered
 *	--only A,B / --without A,B	operations, as in world.h; --more A,B: these more often
 *	--keep "1:5-9,2:100"		of each thread only these operations
 *	--threads N			instead of what the seed says
 *	--kernel DIR			the kernel's mount of the image at DIR does it: a judge of
 *					the model (and our checker and e2fsck of its image)
 *	--round-trips N --mount DIR	by turns the library and the kernel, N times each
 *	--fuse UEXT4 --mount DIR	our own mount, made by the program UEXT4, at DIR does it
 *	--big-dir N			one directory gets N entries first
 *	--data-mode journal|writeback, --nodelalloc
 *	--scratch FILE			room for a copy of the image
 *	--trace				every operation on stderr
 *
 * One seed is one sequence of operations (swarm: it also picks which kinds there are, how many
 * names, threads, how large files are).  The image must be fresh.  Exit status 1: a difference,
 * with the command that repeats it; 3: something was left out because the library cannot do it yet.
 */
#include "world.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LEG_SECONDS_MIN 120u
#define PROBLEMS_SHOWN 20u

static struct world the_world;

/* ---- failing -------------------------------------------------------------------------------- */

const char *words(int err)
{
	return err == 0 ? "success" : strerrordesc_np(-err) ? strerrordesc_np(-err) : "?";
}

const char *shown(const char *name, size_t len)
{
	static _Thread_local char buffers[4][4 * 256 + 8];
	static _Thread_local unsigned turn;
	char *buf = buffers[turn++ % 4], *at = buf;

	*at++ = '"';
	for (size_t i = 0; i < len && i < 256; i++) {
		unsigned char c = (unsigned char)name[i];

		/* Long names are known by their beginning and length. */
		if (i == 24 && len > 40) {
			at += sprintf(at, "...(%zu)", len);
			break;
		}
		at += c > 32 && c < 127 && c != '"' ? sprintf(at, "%c", c)
						    : sprintf(at, "\\x%02x", c);
	}
	*at++ = '"';
	*at = '\0';
	return buf;
}

static void print_repeat(const struct world *w)
{
	fprintf(stderr,
		"repeat, with a fresh image: %s --seed %" PRIu64 " --ops %" PRIu64
		" --legs %" PRIu64,
		w->program, w->seed, w->ops, w->legs);
	if (w->only)
		fprintf(stderr, " --only %s", w->only);
	if (w->without)
		fprintf(stderr, " --without %s", w->without);
	if (w->more)
		fprintf(stderr, " --more %s", w->more);
	if (w->keep)
		fprintf(stderr, " --keep %s", w->keep);
	if (w->threads)
		fprintf(stderr, " --threads %u", w->threads);
	if (w->big_dir)
		fprintf(stderr, " --big-dir %" PRIu64, w->big_dir);
	if (w->library.options.data_mode)
		fprintf(stderr, " --data-mode %s",
			w->library.options.data_mode == UEXT4_DATA_JOURNAL ? "journal"
									   : "writeback");
	if (w->library.options.flags & UEXT4_OPEN_NODELALLOC)
		fprintf(stderr, " --nodelalloc");
	if (w->scratch)
		fprintf(stderr, " --scratch %s", w->scratch);
	if (w->round_trips)
		fprintf(stderr, " --round-trips %d --mount %s", w->round_trips, w->posix.mount_dir);
	else if (w->b->ops->fuse)
		fprintf(stderr, " --fuse %s --mount %s", w->posix.program, w->posix.mount_dir);
	else if (w->b == &w->posix)
		fprintf(stderr, " --kernel %s", w->posix.mount_dir);
	fprintf(stderr, " %s\n", w->library.image);
}

/* Nothing of this process is left behind, however it ends. */
static void leave(int status)
{
	const char *argv[] = { "umount", "-l", the_world.posix.mount_dir, NULL };

	fflush(NULL);
	if (the_world.b == &the_world.posix)
		run_program(argv, NULL);
	_exit(status);
}

void bad(struct actor *a, const char *fmt, ...)
{
	va_list args;

	flockfile(stderr);
	fprintf(stderr, "seed %" PRIu64 ", thread %u, operation %" PRIu64 " (%s), %s:\n  %s\n  ",
		a->w->seed, a->number, a->op, op_names[a->kind], a->w->b->ops->name, a->about);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	print_repeat(a->w);
	leave(1);
	abort();
}

/* An assertion of the engine, or a leg that does not end.  What is printed is only for people. */
static void on_signal(int number)
{
	fprintf(stderr, number == SIGALRM ? "a leg does not end\n" : "aborted\n");
	for (unsigned i = 0; i < THREADS_MAX; i++) {
		const struct actor *a = &the_world.actors[i];

		if (a->w)
			fprintf(stderr, "thread %u, operation %" PRIu64 " (%s): %s\n", a->number,
				a->op, op_names[a->kind], a->about);
	}
	print_repeat(&the_world);
	signal(SIGABRT, SIG_DFL);
	if (the_world.b == &the_world.posix)
		leave(1);
	abort();
}

/* ---- what the seed picks -------------------------------------------------------------------- */

static bool in_list(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (const char *at = list; at && *at;) {
		size_t n = strcspn(at, ",");

		if (n == len && memcmp(at, name, n) == 0)
			return true;
		at += n + (at[n] == ',');
	}
	return false;
}

static void check_list(const char *list)
{
	for (const char *at = list; at && *at;) {
		size_t n = strcspn(at, ",");
		bool known = false;

		for (unsigned i = 0; i < OP_KINDS; i++)
			known = known ||
				(strlen(op_names[i]) == n && memcmp(op_names[i], at, n) == 0);
		if (!known)
			die("%.*s: no such operation", (int)n, at);
		at += n + (at[n] == ',');
	}
}

static void pick_weights(struct world *w, struct rng *r)
{
	static const uint32_t usual[OP_KINDS] = {
#define OP(name, weight) weight,
		OPS(OP)
#undef OP
	};

	for (unsigned i = 0; i < OP_KINDS; i++) {
		uint32_t weight = usual[i] * (1 + (uint32_t)rnd_below(r, 8));

		if (rnd_one_in(r, 5))
			weight = 0;
		if (w->only && in_list(w->only, op_names[i]) && weight == 0)
			weight = usual[i];
		if ((w->only && !in_list(w->only, op_names[i])) ||
		    (w->without && in_list(w->without, op_names[i])))
			weight = 0;
		if (in_list(w->more, op_names[i]))
			weight = 30;
		w->mix.weights[i] = weight;
	}
	if (!w->only || in_list(w->only, "create"))
		w->mix.weights[OP_create] += 4;
	for (unsigned i = 0; i < OP_KINDS; i++)
		w->mix.total += w->mix.weights[i];
	if (w->mix.total == 0)
		die("no operation is left");
}

static void pick_names(struct world *w, struct rng *r)
{
	static const size_t pools[] = { 6, 30, 100, 400, 2000 };
	static const size_t longest[] = { 8, 30, 100, 255 };
	size_t max = longest[rnd_below(r, 4)];

	w->names_count = pools[rnd_below(r, 5)];
	for (size_t i = 0; i < w->names_count; i++) {
		size_t len = 3 + rnd_below(r, max - 2);
		char *name = must_alloc(len + 1);

		for (size_t c = 0; c < len; c++) {
			do {
				name[c] = (char)(rnd_one_in(r, 20) ? 1 + rnd_below(r, 255)
								   : 'a' + rnd_below(r, 26));
			} while (name[c] == '/');
		}
		/* No two are the same, whatever came out. */
		for (unsigned digit = 0; digit < 3; digit++)
			name[digit] = "0123456789abcdef"[i >> 4 * digit & 15];
		w->names[i] = name;
	}
}

static void pick_mix(struct world *w)
{
	static const uint32_t threads[] = { 1, 1, 2, 3, 4 };
	static const uint64_t far[] = { 1 << 22, 1 << 28, 1ull << 32, 1ull << 36 };
	static const size_t nodes[] = { 20, 100, 400, 1200 };
	struct rng r = { mix64(w->seed) };
	struct mix *m = &w->mix;

	m->threads = threads[rnd_below(&r, 5)];
	if (w->threads)
		m->threads = w->threads;
	m->shared = m->threads > 1 && (rnd_one_in(&r, 2) || w->big_dir);
	m->nodes_max = nodes[rnd_below(&r, 4)];
	m->io_bits = 6 + (uint32_t)rnd_below(&r, 13);
	m->far = far[rnd_below(&r, 4)];
	if (rnd_one_in(&r, 8))
		m->far = w->rules.size_max + 100000;
	/* The limit of block maps is not the model's; to the kernel inline files have it. */
	if ((!w->rules.extents || w->has_inline_data) && m->far > 1ull << 33)
		m->far = 1ull << 33;
	m->umask = rnd_one_in(&r, 2) ? 0 : (uint32_t)rnd(&r) & 0777;
	m->crowd = rnd_one_in(&r, 4);
	m->tight = rnd_one_in(&r, 6);
	pick_weights(w, &r);
	pick_names(w, &r);
	/* And how the library works. */
	if (!rnd_one_in(&r, 3))
		w->library.options.cache_bytes = UINT64_C(1) << (20 + rnd_below(&r, 6));
	if (rnd_one_in(&r, 2))
		w->library.options.commit_ms = 1 + (uint32_t)rnd_below(&r, 200);
	if (rnd_one_in(&r, 6))
		w->library.options.flags |= UEXT4_OPEN_NODELALLOC;
}

/* How our mount works. */
static void pick_our_mount(struct world *w)
{
	static char text[200];
	struct rng r = { mix64(~w->seed) };
	size_t at = 0;

	at += (size_t)sprintf(text, "rw");
	/* Then the kernel checks permissions, and keeps ACLs. */
	if (rnd_one_in(&r, 2))
		at += (size_t)sprintf(text + at, ",allow_other,suid,dev");
	if (rnd_one_in(&r, 2))
		at += (size_t)sprintf(text + at, ",commit=1");
	if (w->library.options.cache_bytes)
		at += (size_t)sprintf(text + at, ",cache_size=%" PRIu64 "k",
				      w->library.options.cache_bytes >> 10);
	if (w->library.options.flags & UEXT4_OPEN_NODELALLOC)
		at += (size_t)sprintf(text + at, ",nodelalloc");
	if (rnd_one_in(&r, 4))
		sprintf(text + at, ",max_threads=%u", 1 + (unsigned)rnd_below(&r, 4));
	w->posix.mount_options = text;
	w->mix.tight = w->mix.tight || rnd_one_in(&r, 4);
	w->mix.room = (1 + rnd_below(&r, 8)) << 20;
}

/* ---- the image as it is at the start -------------------------------------------------------- */

static bool has(const struct world *w, enum uext4_feature_set set, const char *name)
{
	for (unsigned bit = 0; bit < 32; bit++) {
		const char *known = uext4_feature_name(set, bit);

		if (w->info.features[set] & 1u << bit && known && strcmp(known, name) == 0)
			return true;
	}
	return false;
}

static void read_rules(struct world *w)
{
	struct uext4_open_options options = { .size = sizeof(options) };
	struct model_rules *r = &w->rules;
	struct uext4_fs *fs;

	if (uext4_open(w->library.image, &options, &fs) < 0 || uext4_info(fs, &w->info) < 0 ||
	    uext4_close(fs) < 0)
		die("%s: %s", w->library.image, uext4_last_error());
	r->block_size = w->info.block_size;
	r->inode_size = w->info.inode_size;
	r->extents = has(w, UEXT4_INCOMPAT, "extents") || has(w, UEXT4_INCOMPAT, "extent");
	r->ea_inode = has(w, UEXT4_INCOMPAT, "ea_inode");
	r->metadata_csum = has(w, UEXT4_RO_COMPAT, "metadata_csum");
	r->project = has(w, UEXT4_RO_COMPAT, "project");
	r->dir_nlink = has(w, UEXT4_RO_COMPAT, "dir_nlink");
	r->size_max = r->extents ? UINT64_C(0xffffffff) * r->block_size : UINT64_C(1) << 34;
	if (!has(w, UEXT4_RO_COMPAT, "huge_file") && r->size_max > UINT64_C(1) << 40)
		r->size_max = UINT64_C(1) << 40;
	w->has_inline_data = has(w, UEXT4_INCOMPAT, "inline_data");
	w->has_filetype = has(w, UEXT4_INCOMPAT, "filetype");
}

static void learn(struct actor *a, struct model_node *n)
{
	struct target t = { .node = n };
	struct backend *b = a->w->b;
	struct uext4_stat st;
	int err = b->ops->stat(b, &t, &st);

	if (err < 0)
		bad(a, "stat of inode %u: %s", n->ino, words(err));
	n->mode = st.mode;
	n->uid = st.uid;
	n->gid = st.gid;
	n->flags = st.flags & MODEL_FL_ALL;
	n->nlink = st.nlink;
	n->times[MODEL_ATIME] = (struct model_time){ .t = st.atime };
	n->times[MODEL_MTIME] = (struct model_time){ .t = st.mtime };
	n->times[MODEL_CTIME] = (struct model_time){ .t = st.ctime };
	n->times[MODEL_CRTIME] = (struct model_time){ .t = st.crtime };
}

/* The model gets what mke2fs made: directories in the root. */
static void import(struct actor *a)
{
	struct world *w = a->w;
	struct model_new new = { .attrs = { .mode = S_IFDIR | 0700 } };
	struct target t = { .node = w->model->root };
	struct backend_dirent entries[64];
	struct model_node *n;
	size_t count = 0;
	void *dir;

	if (w->b->ops->dir_open(w->b, &t, &dir) < 0 ||
	    w->b->ops->dir_read(w->b, dir, 0, entries, 64, &count) < 0)
		bad(a, "the root cannot be read");
	w->b->ops->dir_close(w->b, dir);
	for (size_t i = 0; i < count; i++) {
		if (entries[i].name[0] == '.')
			continue;
		if (strcmp(entries[i].name, "lost+found") != 0)
			die("the image is not fresh: %s", entries[i].name);
		(void)model_make(w->model, MODEL_DO, w->model->root, entries[i].name,
				 entries[i].len, &new, &n);
		n->ino = entries[i].ino;
		learn(a, n);
	}
	learn(a, w->model->root);
}

/* A directory in the root for the threads to work in. */
static struct model_node *add_dir(struct actor *a, const char *name)
{
	struct model_new new = { .attrs = { .mode = S_IFDIR | 0755 } };
	struct world *w = a->w;
	struct target root = { .node = w->model->root };
	struct model_node *n;
	uint32_t ino;
	int err = w->b->ops->make(w->b, &root, name, strlen(name), &new, &ino);

	if (err < 0)
		bad(a, "making %s: %s", name, words(err));
	(void)model_make(w->model, MODEL_DO, w->model->root, name, strlen(name), &new, &n);
	n->ino = ino;
	learn(a, n);
	learn(a, w->model->root);
	return n;
}

/* A file that nobody touches and that takes all but mix.room. */
static void make_ballast(struct actor *a)
{
	struct model_new new = { .attrs = { .mode = S_IFREG | 0600 } };
	struct world *w = a->w;
	struct target t = { .node = w->model->root };
	struct backend *b = w->b;
	struct uext4_statfs st;
	struct model_node *n;
	uint64_t bytes;
	size_t written = 0;
	uint32_t ino;
	void *file;
	int err = b->ops->make(b, &t, "ballast", 7, &new, &ino);

	if (err < 0 || b->ops->statfs(b, &st) < 0)
		bad(a, "making the ballast: %s", words(err));
	bytes = st.blocks_free * st.block_size;
	bytes -= bytes < w->mix.room ? bytes : w->mix.room;
	(void)model_make(w->model, MODEL_DO, w->model->root, "ballast", 7, &new, &n);
	n->ino = ino;
	t.node = n;
	err = b->ops->file_open(b, &t, UEXT4_FILE_WRITE, &file);
	if (w->rules.extents) {
		/* Some of it is kept for the file system itself. */
		while (bytes > 0 && (err = b->ops->fallocate(b, file, 0, 0, bytes)) == -ENOSPC)
			bytes -= bytes / 8 + 1;
		n->size = bytes;
	}
	while (err == 0 && n->size < bytes) {
		size_t len = bytes - n->size < IO_MAX ? (size_t)(bytes - n->size) : IO_MAX;

		err = b->ops->write(b, file, a->buf, len, n->size, &written);
		n->size += err == 0 ? written : 0;
	}
	if (err < 0 && err != -ENOSPC)
		bad(a, "filling the ballast: %s", words(err));
	b->ops->file_close(b, file);
	learn(a, n);
	learn(a, w->model->root);
}

static void make_homes(struct world *w)
{
	struct actor *first = &w->actors[0];
	char name[32];

	if (w->mix.threads == 1) {
		first->home = w->model->root;
		pool_add(first, first->home);
		return;
	}
	for (unsigned i = 0; i < w->mix.threads; i++) {
		snprintf(name, sizeof(name), "thread %u", i + 1);
		w->actors[i].home = add_dir(first, name);
		pool_add(&w->actors[i], w->actors[i].home);
	}
	for (unsigned i = 0; w->mix.shared && i < 2; i++) {
		snprintf(name, sizeof(name), "for all %u", i);
		w->meeting[i] = add_dir(first, name);
		w->meeting[i]->shared = true;
		w->meetings++;
	}
}

/* One directory with very many names: links, as these need no inodes. */
static void make_big_dir(struct actor *a)
{
	struct world *w = a->w;
	struct model_new new = { .attrs = { .mode = S_IFREG | 0644 } };
	struct model_node *dir = add_dir(a, "many"), *n = NULL;
	struct target d = { .node = dir }, t;
	char name[64];

	for (uint64_t i = 0; i < w->big_dir; i++) {
		int len = snprintf(name, sizeof(name), "%s%" PRIu64, i % 7 ? "" : "longer-name-of-",
				   i),
		    err;

		if (i % 60000 == 0) {
			uint32_t ino;

			err = w->b->ops->make(w->b, &d, name, (size_t)len, &new, &ino);
			if (err < 0)
				bad(a, "making %s: %s", name, words(err));
			(void)model_make(w->model, MODEL_DO, dir, name, (size_t)len, &new, &n);
			n->ino = ino;
			continue;
		}
		t = (struct target){ .node = n };
		err = w->b->ops->link(w->b, &t, &d, name, (size_t)len);
		if (err < 0)
			bad(a, "linking %s: %s", name, words(err));
		(void)model_link(w->model, MODEL_DO, n, dir, name, (size_t)len);
	}
	learn(a, dir);
	/* What is in it may be used like all else; the directory itself stays. */
	for (n = w->model->nodes; n; n = n->next) {
		if (n->links && n->links->dir == dir) {
			learn(a, n);
			pool_add(a, n);
		}
	}
	dir->shared = w->mix.shared;
	w->meeting[w->meetings++] = dir;
}

/* ---- pauses --------------------------------------------------------------------------------- */

struct problems {
	uint64_t count;
	char *text;
};

static void note_problem(void *arg, const char *text)
{
	struct problems *p = arg;

	if (p->count++ < PROBLEMS_SHOWN)
		fprintf(stderr, "    check: %s\n", text);
}

/* e2fsck and our own checker have nothing to say. */
static void judge_image(struct actor *a, const char *path, const char *when)
{
	const char *argv[] = { "e2fsck", "-fn", path, NULL };
	struct uext4_open_options options = { .size = sizeof(options), .flags = UEXT4_OPEN_NOLOCK };
	struct problems problems = { 0 };
	struct uext4_check_options check = { .size = sizeof(check),
					     .arg = &problems,
					     .problem = note_problem };
	struct uext4_check_result result;
	struct uext4_fs *fs;
	char *output;
	int status = run_program(argv, &output), err;

	if (status != 0) {
		fprintf(stderr, "%s\n", output);
		bad(a, "e2fsck -fn %s: exit status %d", when, status);
	}
	free(output);
	a->w->checks++;
	err = uext4_open(path, &options, &fs);
	if (err < 0)
		bad(a, "opening the image %s: %s", when, uext4_last_error());
	err = uext4_check(fs, &check, &result);
	if (err < 0)
		bad(a, "the check %s: %s", when, uext4_last_error());
	if (result.problems)
		bad(a, "%" PRIu64 " problems %s", result.problems, when);
	if (uext4_close(fs) < 0)
		bad(a, "closing after the check %s: %s", when, uext4_last_error());
}

static void must(struct actor *a, int err, const char *what)
{
	if (err < 0)
		bad(a, "%s: %s (%s)", what, words(err),
		    a->w->b->ops->kernel ? "" : uext4_last_error());
}

/* What lies in @path shows the same tree. */
static void check_other_view(struct actor *a, const char *path, bool recover)
{
	struct world *w = a->w;
	struct backend other = { .ops = &backend_uext4, .image = path }, *own = w->b;

	other.options.size = sizeof(other.options);
	other.options.flags = recover ? UEXT4_OPEN_WRITE : UEXT4_OPEN_NOLOCK;
	must(a, uext4_open(path, &other.options, &other.fs), "opening another view");
	w->b = &other;
	w->named_only = true;
	compare_all(a);
	w->named_only = false;
	must(a, uext4_close(other.fs), "closing another view");
	w->b = own;
}

static void pause_frozen(struct actor *a)
{
	struct world *w = a->w;
	int err = w->b->ops->freeze(w->b);

	must(a, err, "freeze");
	judge_image(a, w->b->image, "of a frozen image");
	check_other_view(a, w->b->image, false);
	must(a, w->b->ops->thaw(w->b), "thaw");
}

/* What a crash leaves: of one moment, so nothing is written meanwhile, as a checkpoint may. */
static void copy_one_moment(struct actor *a)
{
	struct backend *b = a->w->b;
	struct uext4_stats before, after;

	do {
		must(a, uext4_stats(b->fs, &before), "stats");
		copy_sparse(b->image, a->w->scratch);
		must(a, uext4_stats(b->fs, &after), "stats");
	} while (before.device_writes != after.device_writes ||
		 before.device_bytes_written != after.device_bytes_written);
}

static void pause_copied(struct actor *a)
{
	struct world *w = a->w;

	must(a, w->b->ops->sync(w->b), "sync");
	copy_one_moment(a);
	check_other_view(a, w->scratch, true);
	judge_image(a, w->scratch, "of a recovered copy");
}

static void reopen(struct actor *a, struct backend *next)
{
	struct world *w = a->w;
	struct uext4_statfs before, after;

	if (w->b->ops->fuse && !w->rules.ea_inode)
		wait_for_frees(a);
	must(a, w->b->ops->sync(w->b), "sync");
	must(a, w->b->ops->statfs(w->b, &before), "statfs");
	must(a, w->b->ops->close(w->b), "close");
	judge_image(a, w->b->image, "of a closed image");
	w->b = next;
	w->model->rules.kernel = next->ops->kernel;
	must(a, w->b->ops->open(w->b), "open");
	must(a, w->b->ops->statfs(w->b, &after), "statfs");
	if (w->b->ops->fuse && w->rules.ea_inode)
		return;
	if (before.blocks_free != after.blocks_free || before.inodes_free != after.inodes_free)
		bad(a,
		    "free blocks and inodes were %" PRIu64 ", %" PRIu64 ", and are %" PRIu64
		    ", %" PRIu64 " after opening again",
		    before.blocks_free, before.inodes_free, after.blocks_free, after.inodes_free);
}

/* All threads have stopped. */
static void pause_world(struct world *w, uint64_t leg)
{
	struct actor *a = &w->actors[0];
	struct rng r = { mix64(w->seed ^ leg << 32) };
	uint64_t kind = rnd_below(&r, 3);

	snprintf(a->about, sizeof(a->about), "pause behind leg %" PRIu64, leg + 1);
	if (rnd_one_in(&r, 4))
		compare_all(a); /* with files open that have no names */
	for (unsigned i = 0; i < w->mix.threads; i++)
		close_all(&w->actors[i]);
	if (w->b->ops->kernel)
		must(a, w->b->ops->sync(w->b), "sync");
	if (w->round_trips)
		reopen(a, w->b == &w->posix ? &w->library : &w->posix);
	else if (kind == 0 || (kind == 1 && w->b->ops->kernel) || w->b->ops->fuse)
		reopen(a, w->b);
	else if (kind == 1)
		pause_frozen(a);
	else if (w->scratch && !w->b->ops->kernel)
		pause_copied(a);
	compare_all(a);
}

/* ---- running -------------------------------------------------------------------------------- */

/* Is operation @number of thread @thread in "1:5-9,2:100"? */
static bool is_kept(const char *keep, uint32_t thread, uint64_t number)
{
	for (const char *at = keep; *at;) {
		unsigned t;
		uint64_t first, last;
		int used = 0;

		if (sscanf(at, "%u:%" SCNu64 "-%" SCNu64 "%n", &t, &first, &last, &used) < 3 ||
		    used == 0) {
			if (sscanf(at, "%u:%" SCNu64 "%n", &t, &first, &used) < 2)
				die("--keep: cannot read %s", at);
			last = first;
		}
		if (t == thread && number >= first && number <= last)
			return true;
		at += used;
		at += *at == ',';
	}
	return false;
}

static void *act(void *arg)
{
	struct actor *a = arg;

	for (uint64_t i = 0; i < a->count; i++) {
		if (!a->w->keep || is_kept(a->w->keep, a->number, a->first + i))
			run_op(a, a->first + i);
	}
	return NULL;
}

static void run_leg(struct world *w, uint64_t leg)
{
	uint64_t count = w->ops / w->legs;

	for (unsigned i = 0; i < w->mix.threads; i++) {
		w->actors[i].first = leg * count;
		w->actors[i].count = count;
	}
	if (w->mix.threads == 1) {
		act(&w->actors[0]);
		return;
	}
	for (unsigned i = 0; i < w->mix.threads; i++) {
		if (pthread_create(&w->actors[i].thread, NULL, act, &w->actors[i]))
			die("no thread");
	}
	for (unsigned i = 0; i < w->mix.threads; i++)
		pthread_join(w->actors[i].thread, NULL);
}

static void start(struct world *w)
{
	w->library.ops = &backend_uext4;
	w->posix.ops = w->posix.program ? &backend_fuse : &backend_posix;
	w->posix.image = w->library.image;
	read_rules(w);
	w->posix.mount_options = "loop,noatime,noinit_itable";
	pick_mix(w);
	if (w->posix.program)
		pick_our_mount(w);
	w->posix.ask_anew = w->posix.program && w->mix.threads > 1;
	umask(w->mix.umask);
	pthread_mutex_init(&w->lock, NULL);
	w->rules.kernel = w->b->ops->kernel;
	w->rules.fuse = w->b->ops->fuse;
	w->model = model_create(&w->rules);
	w->model->gone = node_gone;
	w->model->arg = w;
	for (unsigned i = 0; i < w->mix.threads; i++) {
		struct actor *a = &w->actors[i];

		a->w = w;
		a->number = i + 1;
		a->buf = must_alloc(IO_MAX + 4096);
		a->buf2 = must_alloc(IO_MAX + 4096);
		snprintf(a->about, sizeof(a->about), "at the start");
	}
	must(&w->actors[0], w->b->ops->open(w->b), "open");
	import(&w->actors[0]);
	w->inodes_hidden = inodes_used(&w->actors[0]) - (uint32_t)w->model->nodes_count;
	make_homes(w);
	if (w->mix.tight && w->b->ops->fuse)
		make_ballast(&w->actors[0]);
	if (w->big_dir)
		make_big_dir(&w->actors[0]);
}

static int finish(struct world *w)
{
	uint64_t done = 0, failed = 0, refused = 0, missing = 0;

	must(&w->actors[0], w->b->ops->close(w->b), "close");
	judge_image(&w->actors[0], w->b->image, "at the end");
	for (unsigned i = 0; i < w->mix.threads; i++) {
		struct actor *a = &w->actors[i];

		for (unsigned k = 0; k < OP_KINDS; k++)
			done += a->done[k];
		failed += a->failed;
		refused += a->refused;
		missing += a->missing;
		free(a->buf);
		free(a->buf2);
		free(a->pool);
	}
	printf("seed %" PRIu64 ": %u threads%s, %" PRIu64 " calls succeeded, %" PRIu64
	       " failed as they should, %" PRIu64 " found no space, %" PRIu64
	       " are not there; %zu nodes, %" PRIu64 " checks\n",
	       w->seed, w->mix.threads, w->mix.shared ? " in the same directories" : "", done,
	       failed, refused, missing, w->model->nodes_count, w->checks);
	model_destroy(w->model);
	for (size_t i = 0; i < w->names_count; i++)
		free(w->names[i]);
	return missing && w->b != &w->posix ? 3 : 0;
}

static void parse(struct world *w, int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "ops", required_argument, NULL, 'n' },
		{ "legs", required_argument, NULL, 'l' },
		{ "only", required_argument, NULL, 'o' },
		{ "without", required_argument, NULL, 'w' },
		{ "more", required_argument, NULL, 'M' },
		{ "keep", required_argument, NULL, 'k' },
		{ "threads", required_argument, NULL, 't' },
		{ "kernel", required_argument, NULL, 'K' },
		{ "round-trips", required_argument, NULL, 'r' },
		{ "mount", required_argument, NULL, 'm' },
		{ "fuse", required_argument, NULL, 'F' },
		{ "big-dir", required_argument, NULL, 'b' },
		{ "data-mode", required_argument, NULL, 'd' },
		{ "nodelalloc", no_argument, NULL, 'N' },
		{ "scratch", required_argument, NULL, 'S' },
		{ "trace", no_argument, NULL, 'T' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	*w = (struct world){ .program = argv[0], .b = &w->library, .seed = 1, .ops = 1000 };
	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (c) {
		case 's': w->seed = strtoull(optarg, NULL, 0); break;
		case 'n': w->ops = strtoull(optarg, NULL, 0); break;
		case 'l': w->legs = strtoull(optarg, NULL, 0); break;
		case 'o': w->only = optarg; break;
		case 'w': w->without = optarg; break;
		case 'M': w->more = optarg; break;
		case 'k': w->keep = optarg; break;
		case 't': w->threads = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 'K':
			w->b = &w->posix;
			w->posix.mount_dir = optarg;
			break;
		case 'r': w->round_trips = atoi(optarg); break;
		case 'm': w->posix.mount_dir = optarg; break;
		case 'F':
			w->b = &w->posix;
			w->posix.program = optarg;
			break;
		case 'b': w->big_dir = strtoull(optarg, NULL, 0); break;
		case 'd':
			w->library.options.data_mode = strcmp(optarg, "journal") == 0
							       ? UEXT4_DATA_JOURNAL
							       : UEXT4_DATA_WRITEBACK;
			break;
		case 'N': w->library.options.flags |= UEXT4_OPEN_NODELALLOC; break;
		case 'S': w->scratch = optarg; break;
		case 'T': w->trace = true; break;
		default: exit(2);
		}
	}
	if (optind + 1 != argc || w->threads > THREADS_MAX)
		die("usage: uext4-world [OPTION]... IMAGE (see the head of t/world.c)");
	w->library.image = argv[optind];
	check_list(w->only);
	check_list(w->without);
	check_list(w->more);
	if (w->posix.program && (!w->posix.mount_dir || w->round_trips))
		die("--fuse needs --mount DIR and no --round-trips");
	if (w->round_trips) {
		if (!w->posix.mount_dir)
			die("--round-trips needs --mount DIR");
		w->legs = (uint64_t)w->round_trips * 2;
	}
	if (w->legs == 0)
		w->legs = w->ops < 400 ? 2 : w->ops / 200;
}

int main(int argc, char **argv)
{
	struct world *w = &the_world;

	parse(w, argc, argv);
	signal(SIGABRT, on_signal);
	signal(SIGALRM, on_signal);
	alarm(LEG_SECONDS_MIN + (unsigned)(w->big_dir / 500));
	start(w);
	for (uint64_t leg = 0; leg < w->legs; leg++) {
		alarm(LEG_SECONDS_MIN + (unsigned)((w->ops / w->legs + w->big_dir) / 100));
		run_leg(w, leg);
		pause_world(w, leg);
	}
	return finish(w);
}
