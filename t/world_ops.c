/* SPDX-License-Identifier: MIT */
/*
 * The operations of the random test.  Each asks the model what must come out, makes the call,
 * judges, and lets the model follow.
 */
#include "world.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define KERNEL_SLACK_NS 20000000 /* the kernel's clock for files ticks this seldom, at most */
#define POOL_TRIES 12u
#define TXN_OPS_MAX 24u
#define ROOM_BYTES (3u << 20) /* with less left, no space is no surprise */
#define ROOM_INODES 24u

const char *const op_names[OP_KINDS] = {
#define OP(name, weight) #name,
	OPS(OP)
#undef OP
};

/* ---- judging -------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void about(struct actor *a, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(a->about, sizeof(a->about), fmt, args);
	va_end(args);
	if (a->w->trace)
		fprintf(stderr, "%u:%" PRIu64 " %s\n", a->number, a->op, a->about);
}

static struct uext4_time now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (struct uext4_time){ .sec = ts.tv_sec, .nsec = (uint32_t)ts.tv_nsec };
}

/* A call begins. */
static struct backend *begin(struct actor *a)
{
	a->before = now();
	if (a->w->b->ops->kernel) {
		int64_t ns = (int64_t)a->before.nsec - KERNEL_SLACK_NS;

		a->before.sec -= ns < 0;
		a->before.nsec = (uint32_t)(ns < 0 ? ns + 1000000000 : ns);
	}
	return a->w->b;
}

/* The model is to follow what was called between begin() and now; ends with unlock(). */
static struct model *follow(struct actor *a)
{
	pthread_mutex_lock(&a->w->lock);
	a->w->model->now.lo = a->before;
	a->w->model->now.hi = now();
	return a->w->model;
}

static struct model *lock(struct actor *a)
{
	pthread_mutex_lock(&a->w->lock);
	return a->w->model;
}

static void unlock(struct actor *a)
{
	pthread_mutex_unlock(&a->w->lock);
}

/* Is so little left that a call may fail for lack of it? */
static bool space_is_short(struct actor *a, uint64_t wanted)
{
	struct uext4_statfs st;
	int err = a->w->b->ops->statfs(a->w->b, &st);

	if (err < 0)
		bad(a, "statfs: %s", words(err));
	return st.blocks_free * st.block_size < ROOM_BYTES + wanted + 64ull * st.block_size ||
	       st.inodes_free < ROOM_INODES;
}

/*
 * True: it was done, and the model is to do the same.  @wanted: bytes it needs, 0: none;
 * @perhaps: it may find no room though there is space.
 */
static bool judge_space(struct actor *a, int want, int got, uint64_t wanted, bool perhaps)
{
	bool no_space = got == -ENOSPC || got == -EDQUOT;

	if (a->w->trace)
		fprintf(stderr, "%u:%" PRIu64 " = %s\n", a->number, a->op, words(got));
	if (got == BACKEND_CANNOT || (got == -EOPNOTSUPP && !a->w->b->ops->kernel &&
				      strstr(uext4_last_error(), "not in this version"))) {
		a->missing++;
		return false;
	}
	if (a->in_txn && got == -E2BIG) {
		a->txn_too_big = true;
		return false;
	}
	if (got == want) {
		if (got == 0)
			a->done[a->kind]++;
		else
			a->failed++;
		return got == 0;
	}
	if (no_space && want == 0 && (perhaps || (wanted && space_is_short(a, wanted)))) {
		a->refused++;
		return false;
	}
	bad(a, "%s, should be %s%s%s", words(got), want ? strerrordesc_np(-want) : "a success",
	    got < 0 && !a->w->b->ops->kernel ? ": " : "",
	    got < 0 && !a->w->b->ops->kernel ? uext4_last_error() : "");
}

static bool judge(struct actor *a, int want, int got)
{
	return judge_space(a, want, got, 0, false);
}

static bool judge_alloc(struct actor *a, int want, int got)
{
	return judge_space(a, want, got, 1, false);
}

/*
 * A kernel (6.18) that writes inline_data loses bytes, or stops for ever, once files are cut, grown
 * or punched otherwise than by writes: it is not asked to.
 */
static bool is_fragile(const struct actor *a)
{
	return a->w->b->ops->kernel && a->w->has_inline_data;
}

/* ---- choosing ------------------------------------------------------------------------------- */

void pool_add(struct actor *a, struct model_node *n)
{
	if (a->pool_count == a->pool_room) {
		a->pool_room = a->pool_room ? 2 * a->pool_room : 64;
		a->pool = realloc(a->pool, a->pool_room * sizeof(struct model_node *));
		if (!a->pool)
			die("out of memory");
	}
	n->owner = a->number;
	n->pool_index = a->pool_count;
	a->pool[a->pool_count++] = n;
}

/* With world.lock held. */
void node_gone(void *world, struct model_node *n)
{
	struct world *w = world;
	struct actor *a;

	if (n->owner == NOBODY)
		return;
	a = &w->actors[n->owner - 1];
	a->pool[n->pool_index] = a->pool[--a->pool_count];
	a->pool[n->pool_index]->pool_index = n->pool_index;
}

/* After the model was replaced by a copy. */
void pool_rebuild(struct world *w)
{
	for (unsigned i = 0; i < THREADS_MAX; i++) {
		struct actor *a = &w->actors[i];

		if (a->home)
			a->home = model_node(w->model, a->home->id);
		a->pool_count = 0;
	}
	for (struct model_node *n = w->model->nodes; n; n = n->next) {
		if (n->owner != NOBODY)
			pool_add(&w->actors[n->owner - 1], n);
	}
}

/* A node of the thread's own; NULL: none was found. */
static struct model_node *pick(struct actor *a, bool (*fits)(const struct model_node *n))
{
	for (unsigned i = 0; a->pool_count > 0 && i < POOL_TRIES; i++) {
		struct model_node *n = a->pool[rnd_below(&a->rng, a->pool_count)];

		if (!fits || fits(n))
			return n;
	}
	return NULL;
}

static bool has_name(const struct model_node *n)
{
	return model_is_dir(n) ? n->parent != NULL : n->links != NULL;
}

static bool is_live_dir(const struct model_node *n)
{
	return model_is_dir(n) && n->parent;
}

static bool is_named(const struct model_node *n)
{
	return n->links != NULL;
}

static bool is_not_lnk(const struct model_node *n)
{
	return !model_is_lnk(n) && has_name(n);
}

static bool is_reg_or_dir(const struct model_node *n)
{
	return (model_is_reg(n) || model_is_dir(n)) && has_name(n);
}

static struct model_node *pick_dir(struct actor *a)
{
	struct world *w = a->w;
	struct model_node *n;

	if (w->meetings && rnd_one_in(&a->rng, 2))
		return w->meeting[rnd_below(&a->rng, w->meetings)];
	if (w->mix.crowd && !rnd_one_in(&a->rng, 4))
		return a->home;
	n = pick(a, is_live_dir);
	return n ? n : a->home;
}

/* A name of the pool.  Where others work too each thread has names of its own. */
struct name {
	char bytes[300];
	size_t len;
};

static struct name pick_name(struct actor *a)
{
	const char *from = a->w->names[rnd_below(&a->rng, a->w->names_count)];
	struct name name;
	size_t at = 0;

	if (a->w->mix.shared)
		name.bytes[at++] = (char)('A' + a->number);
	name.len = strlen(from);
	if (name.len > UEXT4_NAME_MAX - at)
		name.len = UEXT4_NAME_MAX - at;
	memcpy(name.bytes + at, from, name.len);
	name.len += at;
	return name;
}

/* A directory and a name that is mostly in it. */
static struct model_node *pick_entry(struct actor *a, struct name *ret_name)
{
	struct model_node *n = rnd_one_in(&a->rng, 6) ? NULL : pick(a, is_named);
	const struct model_entry *e;

	if (!n || n == a->home) {
		*ret_name = pick_name(a);
		return pick_dir(a);
	}
	e = n->links;
	for (uint64_t skip = rnd_below(&a->rng, 4); skip > 0 && e->next_link; skip--)
		e = e->next_link;
	memcpy(ret_name->bytes, e->name, e->name_len);
	ret_name->len = e->name_len;
	return e->dir;
}

static struct handle *handle_of(struct actor *a, const struct model_node *n)
{
	for (unsigned i = 0; i < HANDLES; i++) {
		if (a->handles[i].node == n)
			return &a->handles[i];
	}
	return NULL;
}

struct target target_of(struct actor *a, struct model_node *n)
{
	const struct handle *h = n->owner == a->number ? handle_of(a, n) : NULL;

	/* A node that is looked at by whoever checks all. */
	for (unsigned i = 0; !h && n->owner != NOBODY && i < THREADS_MAX; i++) {
		if (n->owner == a->w->actors[i].number && a->w->actors[i].number != a->number)
			h = handle_of(&a->w->actors[i], n);
	}
	return (struct target){ .node = n, .file = h ? h->file : NULL };
}

static uint64_t pick_bits(struct actor *a, unsigned bits_max)
{
	uint64_t bits = rnd_below(&a->rng, bits_max + 1), r = rnd(&a->rng);

	return bits ? r >> (64 - bits) : 0;
}

/* Near something that matters: the ends of blocks, pages, inode bodies, the file. */
static uint64_t pick_offset(struct actor *a, const struct model_node *n)
{
	uint64_t bs = a->w->rules.block_size, step = rnd_one_in(&a->rng, 2) ? bs : MODEL_PAGE, at;

	switch (rnd_below(&a->rng, 10)) {
	case 0: return 0;
	case 1:
	case 2: return n->size;
	case 3: at = rnd_below(&a->rng, 200); break; /* about what fits into inodes */
	case 4: at = rnd_below(&a->rng, n->size + 1); break;
	case 5: at = n->size + rnd_below(&a->rng, 20000); break;
	case 6:
		at = rnd_one_in(&a->rng, 4) ? rnd_below(&a->rng, a->w->mix.far)
					    : rnd_below(&a->rng, 1 << 22);
		break;
	case 7: at = (n->size / step + rnd_below(&a->rng, 4)) * step; break;
	default:
		at = rnd_below(&a->rng, n->size / step + 2) * step;
		at += rnd_below(&a->rng, 3) - 1;
	}
	return (int64_t)at < 0 ? 0 : at;
}

static size_t pick_len(struct actor *a)
{
	uint64_t len;

	switch (rnd_below(&a->rng, 8)) {
	case 0: return 1 + rnd_below(&a->rng, 8);
	case 1: len = a->w->rules.block_size * (1 + rnd_below(&a->rng, 4)); break;
	case 2: len = 1 + rnd_below(&a->rng, 200); break;
	case 3: len = rnd_one_in(&a->rng, 8) ? 1 + rnd_below(&a->rng, IO_MAX) : 5000; break;
	default: len = pick_bits(a, a->w->mix.io_bits);
	}
	return len > IO_MAX ? IO_MAX : (size_t)len;
}

static struct uext4_time pick_time(struct actor *a)
{
	static const int64_t edges[] = { 0,	     -1,	 INT32_MAX,   INT32_MIN,
					 2147483648, 4294967296, 15032385535, 1 };
	struct uext4_time t = { .nsec = (uint32_t)rnd_below(&a->rng, 1000000000) };

	if (rnd_one_in(&a->rng, 2))
		t.sec = (int64_t)rnd_below(&a->rng, 2000000000);
	else
		t.sec = edges[rnd_below(&a->rng, sizeof(edges) / sizeof(edges[0]))];
	return t;
}

static struct model_new pick_new(struct actor *a, uint32_t type)
{
	struct world *w = a->w;
	struct model_new new = { .attrs = { .umask = w->mix.umask } };
	uint32_t bits = S_ISDIR(type) ? 01777 : 07777;

	new.attrs.mode = type | (uint32_t)(rnd_one_in(&a->rng, 3) ? rnd(&a->rng) & bits : 0644);
	if (S_ISDIR(type))
		new.attrs.mode |= 0700;
	if (!w->b->ops->kernel && rnd_one_in(&a->rng, 2)) {
		new.attrs.uid = (uint32_t)pick_bits(a, 31);
		new.attrs.gid = (uint32_t)pick_bits(a, 31);
	}
	if (S_ISCHR(type) || S_ISBLK(type)) {
		new.attrs.rdev_major = (uint32_t)pick_bits(a, 12);
		new.attrs.rdev_minor = (uint32_t)pick_bits(a, 20);
	}
	return new;
}

/* ---- names ---------------------------------------------------------------------------------- */

static void made(struct actor *a, struct model_node *n, uint32_t ino)
{
	n->ino = ino;
	pool_add(a, n);
}

static void make(struct actor *a, uint32_t type, const uint8_t *target, size_t target_len)
{
	struct model_node *dir = pick_dir(a), *n = NULL;
	struct target d = target_of(a, dir);
	struct model_new new = pick_new(a, type);
	struct name name = pick_name(a);
	uint32_t ino = 0;
	int want, got;

	if (!target && a->pool_count > a->w->mix.nodes_max)
		return;
	new.target = target;
	new.target_len = target_len;
	about(a, "make %s, mode %o, in %u (inode %u), target of %zu bytes",
	      shown(name.bytes, name.len), new.attrs.mode, dir->id, dir->ino, target_len);
	want = model_make(lock(a), MODEL_ASK, dir, name.bytes, name.len, &new, NULL);
	unlock(a);
	got = begin(a)->ops->make(a->w->b, &d, name.bytes, name.len, &new, &ino);
	if (!judge_alloc(a, want, got))
		return;
	(void)model_make(follow(a), MODEL_DO, dir, name.bytes, name.len, &new, &n);
	made(a, n, ino);
	unlock(a);
	compare_stat(a, n);
	compare_stat(a, dir);
	if (rnd_one_in(&a->rng, 8))
		compare_xattrs(a, n);
}

static void op_create(struct actor *a)
{
	make(a, S_IFREG, NULL, 0);
}

static void op_mkdir(struct actor *a)
{
	make(a, S_IFDIR, NULL, 0);
}

static void op_mknod(struct actor *a)
{
	static const uint32_t types[] = { S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK };

	make(a, types[rnd_below(&a->rng, 4)], NULL, 0);
}

static void op_symlink(struct actor *a)
{
	static const size_t edges[] = { 1, 58, 59, 60, 61, 100, 160, 255 };
	uint32_t bs = a->w->rules.block_size;
	size_t max = bs < 4096 ? bs + 10 : 4095, len = edges[rnd_below(&a->rng, 8)];

	if (rnd_one_in(&a->rng, 4))
		len = 1 + rnd_below(&a->rng, max);
	if (rnd_one_in(&a->rng, 16))
		len = bs - 1 + rnd_below(&a->rng, 2);
	if (len > max)
		len = max;
	fill_text(a->buf, 0, len, rnd(&a->rng));
	make(a, S_IFLNK, a->buf, len);
}

static void op_link(struct actor *a)
{
	struct model_node *n = pick(a, rnd_one_in(&a->rng, 4) ? NULL : is_named);
	struct model_node *dir = pick_dir(a);
	struct target t, d = target_of(a, dir);
	struct name name = pick_name(a);
	int want, got;

	if (!n || (model_is_dir(n) && !n->parent))
		return;
	t = target_of(a, n);
	about(a, "link %u (inode %u) as %s in %u (inode %u)", n->id, n->ino,
	      shown(name.bytes, name.len), dir->id, dir->ino);
	want = model_link(lock(a), MODEL_ASK, n, dir, name.bytes, name.len);
	unlock(a);
	got = begin(a)->ops->link(a->w->b, &t, &d, name.bytes, name.len);
	if (!judge_alloc(a, want, got))
		return;
	(void)model_link(follow(a), MODEL_DO, n, dir, name.bytes, name.len);
	unlock(a);
	compare_stat(a, n);
	compare_stat(a, dir);
}

/* The name that was @name is gone, what it led to perhaps. */
static void check_removed(struct actor *a, struct model_node *dir, uint32_t id)
{
	struct model_node *n;

	compare_stat(a, dir);
	n = model_node(lock(a), id);
	unlock(a);
	if (n && has_name(n))
		compare_stat(a, n);
	else if (n && !model_is_dir(n))
		compare_stat(a, n);
}

static uint32_t id_of(struct actor *a, const struct model_node *dir, const struct name *name)
{
	const struct model_entry *e = (lock(a), model_find(dir, name->bytes, name->len));
	uint32_t id = e ? e->node->id : 0;

	unlock(a);
	return id;
}

/* Homes and meeting places stay. */
static bool is_kept(struct actor *a, const struct model_node *dir, const struct name *name)
{
	const struct model_entry *e = (lock(a), model_find(dir, name->bytes, name->len));
	bool kept = e && e->node->owner != a->number;

	unlock(a);
	return kept || (e && e->node == a->home);
}

static void op_unlink(struct actor *a)
{
	struct name name;
	struct model_node *dir = pick_entry(a, &name);
	struct target d = target_of(a, dir);
	uint32_t id = id_of(a, dir, &name);
	int want, got;

	if (is_kept(a, dir, &name))
		return;
	about(a, "unlink %s (%u) in %u (inode %u)", shown(name.bytes, name.len), id, dir->id,
	      dir->ino);
	want = model_unlink(lock(a), MODEL_ASK, dir, name.bytes, name.len);
	unlock(a);
	got = begin(a)->ops->unlink(a->w->b, &d, name.bytes, name.len);
	if (!judge(a, want, got))
		return;
	(void)model_unlink(follow(a), MODEL_DO, dir, name.bytes, name.len);
	unlock(a);
	check_removed(a, dir, id);
}

static void op_rmdir(struct actor *a)
{
	struct name name;
	struct model_node *n = pick(a, is_live_dir), *dir;
	struct target d;
	int want, got;

	if (n && n->links && n != a->home && !rnd_one_in(&a->rng, 8)) {
		dir = n->parent;
		name.len = n->links->name_len;
		memcpy(name.bytes, n->links->name, name.len);
	} else {
		dir = pick_entry(a, &name);
	}
	d = target_of(a, dir);
	if (is_kept(a, dir, &name))
		return;
	about(a, "rmdir %s in %u (inode %u)", shown(name.bytes, name.len), dir->id, dir->ino);
	want = model_rmdir(lock(a), MODEL_ASK, dir, name.bytes, name.len);
	unlock(a);
	got = begin(a)->ops->rmdir(a->w->b, &d, name.bytes, name.len);
	if (!judge(a, want, got))
		return;
	(void)model_rmdir(follow(a), MODEL_DO, dir, name.bytes, name.len);
	unlock(a);
	compare_stat(a, dir);
}

static void op_rename(struct actor *a)
{
	static const uint32_t kinds[] = {
		0, 0, 0, UEXT4_RENAME_NOREPLACE, UEXT4_RENAME_EXCHANGE, UEXT4_RENAME_WHITEOUT
	};
	struct name name, new_name;
	struct model_node *dir = pick_entry(a, &name), *new_dir, *whiteout = NULL;
	uint32_t flags = kinds[rnd_below(&a->rng, 6)], id, old_id, ino = 0;
	struct target d, nd;
	int want, got;

	if (rnd_one_in(&a->rng, 3)) {
		new_dir = rnd_one_in(&a->rng, 2) ? dir : pick_dir(a);
		new_name = pick_name(a);
	} else {
		new_dir = pick_entry(a, &new_name);
	}
	if (is_kept(a, dir, &name) || is_kept(a, new_dir, &new_name))
		return;
	id = id_of(a, dir, &name);
	old_id = id_of(a, new_dir, &new_name);
	d = target_of(a, dir);
	nd = target_of(a, new_dir);
	about(a, "rename %s (%u) in %u (inode %u) to %s (%u) in %u (inode %u), flags %u",
	      shown(name.bytes, name.len), id, dir->id, dir->ino,
	      shown(new_name.bytes, new_name.len), old_id, new_dir->id, new_dir->ino, flags);
	want = model_rename(lock(a), MODEL_ASK, dir, name.bytes, name.len, new_dir, new_name.bytes,
			    new_name.len, flags, NULL);
	unlock(a);
	got = begin(a)->ops->rename(a->w->b, &d, name.bytes, name.len, &nd, new_name.bytes,
				    new_name.len, flags);
	if (!judge_alloc(a, want, got)) {
		/* The kernel puts the whiteout there and takes it back when it is too late. */
		if (flags & UEXT4_RENAME_WHITEOUT && a->w->b->ops->kernel) {
			model_may_have_touched(follow(a), dir);
			unlock(a);
		}
		return;
	}
	(void)model_rename(follow(a), MODEL_DO, dir, name.bytes, name.len, new_dir, new_name.bytes,
			   new_name.len, flags, &whiteout);
	unlock(a);
	if (whiteout) {
		got = a->w->b->ops->lookup(a->w->b, &d, name.bytes, name.len, &ino);
		if (got < 0)
			bad(a, "looking up the whiteout: %s", words(got));
		lock(a);
		made(a, whiteout, ino);
		unlock(a);
		compare_stat(a, whiteout);
	}
	check_removed(a, dir, old_id);
	check_removed(a, new_dir, id);
}

static void op_lookup(struct actor *a)
{
	struct name name;
	struct model_node *dir = pick_entry(a, &name);
	struct target d = target_of(a, dir);
	const struct model_entry *e;
	uint32_t ino = 0, want_ino;
	int got;

	about(a, "lookup %s in %u (inode %u)", shown(name.bytes, name.len), dir->id, dir->ino);
	got = a->w->b->ops->lookup(a->w->b, &d, name.bytes, name.len, &ino);
	lock(a);
	e = model_find(dir, name.bytes, name.len);
	want_ino = e ? e->node->ino : 0;
	unlock(a);
	if (judge(a, e ? 0 : -ENOENT, got) && ino != want_ino)
		bad(a, "found inode %u, should be %u", ino, want_ino);
}

/* ---- handles -------------------------------------------------------------------------------- */

static struct handle *free_handle(struct actor *a)
{
	return handle_of(a, NULL);
}

static void close_handle(struct actor *a, struct handle *h)
{
	struct model_node *n = h->node;

	a->w->b->ops->file_close(a->w->b, h->file);
	h->node = NULL;
	model_close(follow(a), n);
	unlock(a);
}

static void op_tmpfile(struct actor *a)
{
	struct model_node *dir = pick_dir(a), *n = NULL;
	struct target d = target_of(a, dir);
	struct model_new new = pick_new(a, S_IFREG);
	struct handle *h = free_handle(a);
	uint32_t ino = 0;
	void *file = NULL;
	int want, got;

	if (!h || a->in_txn)
		return;
	about(a, "tmpfile, mode %o, in %u (inode %u)", new.attrs.mode, dir->id, dir->ino);
	want = model_tmpfile(lock(a), MODEL_ASK, dir, &new, NULL);
	unlock(a);
	got = begin(a)->ops->tmpfile(a->w->b, &d, &new, UEXT4_FILE_WRITE, &file, &ino);
	if (!judge_alloc(a, want, got))
		return;
	(void)model_tmpfile(follow(a), MODEL_DO, dir, &new, &n);
	made(a, n, ino);
	*h = (struct handle){ .node = n, .file = file, .flags = UEXT4_FILE_WRITE };
	unlock(a);
	compare_stat(a, n);
}

static uint32_t pick_file_flags(struct actor *a)
{
	uint32_t flags = rnd_one_in(&a->rng, 4) ? 0 : UEXT4_FILE_WRITE;

	if (flags && rnd_one_in(&a->rng, 5))
		flags |= UEXT4_FILE_APPEND;
	if (flags && rnd_one_in(&a->rng, 12))
		flags |= UEXT4_FILE_SYNC;
	if (!a->w->b->ops->kernel && rnd_one_in(&a->rng, 8))
		flags |= UEXT4_FILE_DIRECT;
	if (flags && !a->w->b->ops->kernel && rnd_one_in(&a->rng, 8))
		flags |= UEXT4_FILE_KILL_PRIV;
	return flags;
}

static bool open_handle(struct actor *a, struct model_node *n, uint32_t flags, struct handle *h)
{
	struct target t = target_of(a, n);
	void *file = NULL;
	int want, got;

	about(a, "open %u (inode %u), flags %u", n->id, n->ino, flags);
	want = model_open(lock(a), MODEL_ASK, n, flags);
	unlock(a);
	got = begin(a)->ops->file_open(a->w->b, &t, flags, &file);
	if (!judge(a, want, got))
		return false;
	(void)model_open(follow(a), MODEL_DO, n, flags);
	unlock(a);
	*h = (struct handle){ .node = n, .file = file, .flags = flags };
	return true;
}

static void op_open(struct actor *a)
{
	struct model_node *n = pick(a, rnd_one_in(&a->rng, 8) ? has_name : model_is_reg);
	struct handle *h = free_handle(a);

	if (n && h && !a->in_txn)
		(void)open_handle(a, n, pick_file_flags(a), h);
}

static void op_close(struct actor *a)
{
	struct handle *h = &a->handles[rnd_below(&a->rng, HANDLES)];

	if (!h->node || a->in_txn)
		return;
	about(a, "close %u (inode %u)", h->node->id, h->node->ino);
	begin(a);
	close_handle(a, h);
}

/*
 * A handle for one operation: one that is open, or one for the moment.  False: there is none.
 * With @any_flags it may not be open for writing.
 */
static bool borrow(struct actor *a, uint32_t flags, bool any_flags, struct handle *h, bool *ret_own)
{
	struct handle *open = &a->handles[rnd_below(&a->rng, HANDLES)];
	struct model_node *n;

	*ret_own = false;
	if (open->node && (any_flags || (open->flags & flags) == flags)) {
		*h = *open;
		return true;
	}
	n = pick(a, model_is_reg);
	if (!n)
		return false;
	/* While it has a handle that it needs to be found by. */
	if (!n->links && !handle_of(a, n))
		return false;
	*ret_own = true;
	return open_handle(a, n, flags | (pick_file_flags(a) & ~(uint32_t)UEXT4_FILE_APPEND), h);
}

static void give_back(struct actor *a, struct handle *h, bool own)
{
	if (own) {
		a->w->b->ops->file_close(a->w->b, h->file);
		model_close(follow(a), h->node);
		unlock(a);
	}
}

static void check_some_contents(struct actor *a, struct handle *h)
{
	compare_stat(a, h->node);
	if (rnd_one_in(&a->rng, 6))
		compare_contents(a, h->node, h->file);
}

static void do_write(struct actor *a, struct handle *h, uint64_t offset, size_t len)
{
	uint64_t at = offset, text = rnd(&a->rng);
	size_t can = 0, written = 0;
	int want, got;

	/* With small blocks not even what was just written is there. */
	if (is_fragile(a) && a->w->rules.block_size < 4096)
		return;
	about(a, "write %zu bytes at %" PRIu64 " of %u (inode %u, %" PRIu64 " bytes), flags %u",
	      len, offset, h->node->id, h->node->ino, h->node->size, h->flags);
	want = model_write(lock(a), MODEL_ASK, h->node, h->flags, offset, NULL, len, &at, &can);
	unlock(a);
	fill_text(a->buf, at, len, text);
	if (rnd_one_in(&a->rng, 16))
		memset(a->buf, 0, len);
	got = begin(a)->ops->write(a->w->b, h->file, a->buf, len, offset, &written);
	if (!judge_space(a, want, got, len, false))
		return;
	if (written > can || (written < can && !space_is_short(a, len)))
		bad(a, "%zu bytes were written, should be %zu", written, can);
	(void)model_write(follow(a), MODEL_DO, h->node, h->flags, offset, a->buf, written, &at,
			  &can);
	unlock(a);
	check_some_contents(a, h);
}

static void op_write(struct actor *a)
{
	struct handle h;
	bool own;

	if (!borrow(a, UEXT4_FILE_WRITE, rnd_one_in(&a->rng, 20), &h, &own))
		return;
	do_write(a, &h, pick_offset(a, h.node), pick_len(a));
	give_back(a, &h, own);
}

/* Small pieces at the end, as logs grow. */
static void op_append(struct actor *a)
{
	struct handle h;
	bool own;

	if (!borrow(a, UEXT4_FILE_WRITE, false, &h, &own))
		return;
	for (uint64_t i = rnd_below(&a->rng, 6); i < 6; i++)
		do_write(a, &h, h.node->size, 1 + rnd_below(&a->rng, 60));
	give_back(a, &h, own);
}

static void op_read(struct actor *a)
{
	uint64_t offset;
	size_t len, got = 0, want;
	struct handle h;
	bool own;
	int err;

	if (!borrow(a, 0, true, &h, &own))
		return;
	offset = pick_offset(a, h.node);
	len = pick_len(a);
	about(a, "read %zu bytes at %" PRIu64 " of %u (inode %u)", len, offset, h.node->id,
	      h.node->ino);
	err = begin(a)->ops->read(a->w->b, h.file, a->buf, len, offset, &got);
	if (judge(a, 0, err)) {
		want = model_read(h.node, offset, a->buf2, len);
		if (got != want)
			bad(a, "%zu bytes were read, should be %zu", got, want);
		if (memcmp(a->buf, a->buf2, got) != 0)
			compare_contents(a, h.node, h.file);
	}
	give_back(a, &h, own);
}

static void op_seek(struct actor *a)
{
	struct handle h;
	bool own;

	if (!borrow(a, 0, true, &h, &own))
		return;
	about(a, "seek and read all of %u (inode %u)", h.node->id, h.node->ino);
	compare_contents(a, h.node, h.file);
	give_back(a, &h, own);
}

/* After -ENOSPC a part may have been allocated, and the size have followed it. */
static void learn_size(struct actor *a, struct handle *h, uint64_t end)
{
	struct target t = { h->node, h->file };
	struct uext4_stat st;

	if (a->w->b->ops->stat(a->w->b, &t, &st) < 0)
		return;
	if (st.size < h->node->size || st.size > (end > h->node->size ? end : h->node->size))
		bad(a, "without space the size became %" PRIu64, st.size);
	follow(a);
	h->node->size = st.size;
	h->node->times[MODEL_MTIME] = (struct model_time){ .t = st.mtime };
	h->node->times[MODEL_CTIME] = (struct model_time){ .t = st.ctime };
	unlock(a);
}

static void do_fallocate(struct actor *a, uint32_t flags)
{
	uint64_t offset, len;
	struct handle h;
	int want, got;
	bool own;

	if (is_fragile(a))
		return;
	/* The kernel sets times and drops capabilities before it says that it cannot. */
	if (a->w->b->ops->kernel && !a->w->rules.extents && !(flags & UEXT4_FALLOC_PUNCH_HOLE))
		return;
	if (!borrow(a, UEXT4_FILE_WRITE, false, &h, &own))
		return;
	offset = pick_offset(a, h.node);
	len = rnd_one_in(&a->rng, 20) ? 0 : pick_len(a);
	about(a,
	      "fallocate %" PRIu64 " bytes at %" PRIu64 " of %u (inode %u, %" PRIu64
	      " bytes), flags %u",
	      len, offset, h.node->id, h.node->ino, h.node->size, flags);
	want = model_fallocate(lock(a), MODEL_ASK, h.node, flags, offset, len);
	unlock(a);
	got = begin(a)->ops->fallocate(a->w->b, h.file, flags, offset, len);
	if (judge_space(a, want, got, len + 1, false)) {
		(void)model_fallocate(follow(a), MODEL_DO, h.node, flags, offset, len);
		unlock(a);
		check_some_contents(a, &h);
	} else if (got == -ENOSPC && want == 0 && !(flags & UEXT4_FALLOC_PUNCH_HOLE)) {
		learn_size(a, &h, offset + len);
	}
	give_back(a, &h, own);
}

static void op_fallocate(struct actor *a)
{
	do_fallocate(a, rnd_one_in(&a->rng, 2) ? UEXT4_FALLOC_KEEP_SIZE : 0);
}

static void op_punch(struct actor *a)
{
	do_fallocate(a, UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_KEEP_SIZE);
}

static void op_zero(struct actor *a)
{
	do_fallocate(a, UEXT4_FALLOC_ZERO_RANGE |
				(rnd_one_in(&a->rng, 2) ? UEXT4_FALLOC_KEEP_SIZE : 0));
}

static void op_fsync(struct actor *a)
{
	uint32_t flags = rnd_one_in(&a->rng, 2) ? UEXT4_FSYNC_DATA : 0;
	struct handle h;
	bool own;

	if (a->in_txn || !borrow(a, 0, true, &h, &own))
		return;
	about(a, "fsync of %u (inode %u), flags %u", h.node->id, h.node->ino, flags);
	(void)judge(a, 0, begin(a)->ops->fsync(a->w->b, h.file, flags));
	compare_stat(a, h.node);
	give_back(a, &h, own);
}

static void op_fsyncdir(struct actor *a)
{
	struct model_node *n = pick(a, rnd_one_in(&a->rng, 2) ? is_live_dir : is_reg_or_dir);
	struct target t;

	if (a->in_txn || !n)
		return;
	t = target_of(a, n);
	about(a, "fsync of inode %u", n->ino);
	(void)judge(a, 0, begin(a)->ops->fsync_node(a->w->b, &t, 0));
}

static void op_sync(struct actor *a)
{
	if (a->in_txn)
		return;
	about(a, "sync");
	(void)judge(a, 0, begin(a)->ops->sync(a->w->b));
}

/* ---- attributes ----------------------------------------------------------------------------- */

static void set_attr(struct actor *a, struct model_node *n, const struct uext4_attr *attr)
{
	struct target t = target_of(a, n);
	int want, got;

	if (attr->valid & UEXT4_ATTR_SIZE && is_fragile(a))
		return;
	want = model_set_attr(lock(a), MODEL_ASK, n, attr);
	unlock(a);
	got = begin(a)->ops->set_attr(a->w->b, &t, attr);
	if (!judge_alloc(a, want, got))
		return;
	(void)model_set_attr(follow(a), MODEL_DO, n, attr);
	unlock(a);
	compare_stat(a, n);
	if (model_is_reg(n) && attr->valid & UEXT4_ATTR_SIZE && rnd_one_in(&a->rng, 4) &&
	    has_name(n))
		compare_node(a, n);
	else if (rnd_one_in(&a->rng, 4))
		compare_xattrs(a, n);
}

static void op_truncate(struct actor *a)
{
	struct model_node *n = pick(a, rnd_one_in(&a->rng, 16) ? has_name : model_is_reg);
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE };

	if (!n || (!n->links && !handle_of(a, n) && n != a->home))
		return;
	attr.size = rnd_one_in(&a->rng, 3) ? rnd_below(&a->rng, n->size + 1) : pick_offset(a, n);
	if (!a->w->b->ops->kernel && rnd_one_in(&a->rng, 8))
		attr.valid |= UEXT4_ATTR_KILL_PRIV;
	about(a, "truncate %u (inode %u) from %" PRIu64 " to %" PRIu64, n->id, n->ino, n->size,
	      attr.size);
	set_attr(a, n, &attr);
}

static void op_chmod(struct actor *a)
{
	struct model_node *n = pick(a, is_not_lnk);
	struct uext4_attr attr = { .valid = UEXT4_ATTR_MODE };

	if (!n)
		return;
	attr.mode = (uint32_t)rnd(&a->rng) & 07777;
	about(a, "chmod %o of %u (inode %u)", attr.mode, n->id, n->ino);
	set_attr(a, n, &attr);
}

static void op_chown(struct actor *a)
{
	struct model_node *n = pick(a, NULL);
	struct uext4_attr attr = { .valid = UEXT4_ATTR_UID | UEXT4_ATTR_GID };

	if (!n || (model_is_dir(n) && !n->parent))
		return;
	if (rnd_one_in(&a->rng, 3))
		attr.valid = rnd_one_in(&a->rng, 2) ? UEXT4_ATTR_UID : UEXT4_ATTR_GID;
	if (rnd_one_in(&a->rng, 2))
		attr.valid |= UEXT4_ATTR_KILL_PRIV;
	attr.uid = (uint32_t)pick_bits(a, 31);
	attr.gid = (uint32_t)pick_bits(a, 31);
	about(a, "chown %u:%u of %u (inode %u), fields %x", attr.uid, attr.gid, n->id, n->ino,
	      attr.valid);
	set_attr(a, n, &attr);
}

static void op_utimes(struct actor *a)
{
	static const uint32_t kinds[] = { UEXT4_ATTR_ATIME | UEXT4_ATTR_MTIME, UEXT4_ATTR_ATIME,
					  UEXT4_ATTR_MTIME,
					  UEXT4_ATTR_ATIME_NOW | UEXT4_ATTR_MTIME_NOW,
					  UEXT4_ATTR_MTIME_NOW | UEXT4_ATTR_ATIME };
	struct model_node *n = pick(a, NULL);
	struct uext4_attr attr = { .valid = kinds[rnd_below(&a->rng, 5)] };

	if (!n || (model_is_dir(n) && !n->parent))
		return;
	attr.atime = pick_time(a);
	attr.mtime = pick_time(a);
	about(a, "utimes of %u (inode %u), fields %x, %lld.%09u, %lld.%09u", n->id, n->ino,
	      attr.valid, (long long)attr.atime.sec, attr.atime.nsec, (long long)attr.mtime.sec,
	      attr.mtime.nsec);
	set_attr(a, n, &attr);
}

static void op_chattr(struct actor *a)
{
	uint32_t all = MODEL_FL_SYNC | MODEL_FL_NODUMP | MODEL_FL_NOATIME;
	struct model_node *n = pick(a, is_reg_or_dir);
	struct uext4_attr attr = { .valid = UEXT4_ATTR_FLAGS };

	if (!n || n == a->home)
		return;
	if (model_is_dir(n))
		all |= MODEL_FL_DIRSYNC | MODEL_FL_TOPDIR;
	attr.flags = (uint32_t)rnd(&a->rng) & (uint32_t)rnd(&a->rng) & all;
	attr.flags |= n->flags & MODEL_FL_PROJINHERIT;
	/* Who has a file open may go on writing, whatever is set later: not asked here. */
	if (n->opens == 0 && rnd_one_in(&a->rng, 4))
		attr.flags |= rnd_one_in(&a->rng, 2) ? MODEL_FL_IMMUTABLE : MODEL_FL_APPEND;
	about(a, "chattr %#x of %u (inode %u)", attr.flags, n->id, n->ino);
	set_attr(a, n, &attr);
}

static void op_project(struct actor *a)
{
	struct model_node *n = pick(a, is_reg_or_dir);
	struct uext4_attr attr = { .valid = UEXT4_ATTR_PROJID };

	if (!a->w->rules.project || a->w->b->ops->kernel || !n || n == a->home)
		return;
	if (n->flags & (MODEL_FL_IMMUTABLE | MODEL_FL_APPEND))
		return;
	attr.projid = rnd_one_in(&a->rng, 2) ? 0 : (uint32_t)pick_bits(a, 31);
	if (model_is_dir(n) && rnd_one_in(&a->rng, 2)) {
		attr.valid = UEXT4_ATTR_FLAGS;
		attr.flags = n->flags ^ MODEL_FL_PROJINHERIT;
	}
	about(a, "project %u, fields %x of %u (inode %u)", attr.projid, attr.valid, n->id, n->ino);
	set_attr(a, n, &attr);
}

/* Attributes that no system call sets, as tools that restore set them: several at once. */
static void op_restore(struct actor *a)
{
	struct model_node *n = pick(a, is_not_lnk);
	struct uext4_attr attr = { .valid = UEXT4_ATTR_CRTIME | UEXT4_ATTR_CTIME };

	if (a->w->b->ops->kernel || !n)
		return;
	if (rnd_one_in(&a->rng, 2))
		attr.valid |= UEXT4_ATTR_MODE | UEXT4_ATTR_UID | UEXT4_ATTR_GID | UEXT4_ATTR_MTIME |
			      UEXT4_ATTR_ATIME;
	if (rnd_one_in(&a->rng, 2))
		attr.valid |= UEXT4_ATTR_GENERATION;
	attr.mode = (uint32_t)rnd(&a->rng) & 07777;
	attr.uid = (uint32_t)pick_bits(a, 31);
	attr.gid = (uint32_t)pick_bits(a, 31);
	attr.generation = (uint32_t)rnd(&a->rng) | 1;
	attr.atime = pick_time(a);
	attr.mtime = pick_time(a);
	attr.ctime = pick_time(a);
	attr.crtime = pick_time(a);
	about(a, "restore fields %x of %u (inode %u)", attr.valid, n->id, n->ino);
	set_attr(a, n, &attr);
}

/* ---- extended attributes -------------------------------------------------------------------- */

static const char *pick_xattr_name(struct actor *a, const struct model_node *n)
{
	static const char *const names[] = {
		"trusted.t",	  "security.s", "trusted.a longer name of an attribute",
		"user.u",	  "user.v",	"user.another one",
		"user.x\xff\x80",
	};
	bool user = model_is_reg(n) || model_is_dir(n);

	return names[rnd_below(&a->rng, user ? 7 : 3)];
}

static size_t pick_xattr_size(struct actor *a)
{
	uint32_t bs = a->w->rules.block_size;

	switch (rnd_below(&a->rng, 8)) {
	case 0: return 0;
	case 1: return rnd_below(&a->rng, bs);
	case 2: return bs - 60 + rnd_below(&a->rng, 80);
	case 3: return rnd_one_in(&a->rng, 4) ? rnd_below(&a->rng, 65537) : 100;
	case 4: return rnd_below(&a->rng, 300);
	default: return rnd_below(&a->rng, 40);
	}
}

static void set_xattr(struct actor *a, struct model_node *n, const char *name, const void *value,
		      size_t size, uint32_t flags)
{
	struct target t = target_of(a, n);
	enum model_room room = MODEL_ROOM;
	int want, got;

	want = model_xattr_set(lock(a), MODEL_ASK, n, name, value, size, flags);
	if (value && want == 0)
		room = model_xattr_room(a->w->model, n, name, size);
	unlock(a);
	if (room == MODEL_NO_ROOM)
		want = -ENOSPC;
	got = begin(a)->ops->xattr_set(a->w->b, &t, name, value, size, flags);
	if (room == MODEL_NO_ROOM && got == -E2BIG)
		got = want; /* for what never fits both are said */
	if (!judge_space(a, want, got, value ? size + 1 : 0, room == MODEL_ROOM_PERHAPS))
		return;
	(void)model_xattr_set(follow(a), MODEL_DO, n, name, value, size, flags);
	unlock(a);
	compare_stat(a, n);
	if (rnd_one_in(&a->rng, 4))
		compare_xattrs(a, n);
}

static void op_setxattr(struct actor *a)
{
	struct model_node *n = pick(a, NULL);
	uint32_t flags = 0;
	const char *name;
	size_t size;

	if (!n || (model_is_dir(n) && !n->parent) ||
	    (!n->links && !handle_of(a, n) && n != a->home))
		return;
	if (rnd_one_in(&a->rng, 6))
		flags = rnd_one_in(&a->rng, 2) ? UEXT4_XATTR_CREATE : UEXT4_XATTR_REPLACE;
	name = pick_xattr_name(a, n);
	size = pick_xattr_size(a);
	/*
	 * e2fsck (1.47.0) takes a fast symlink with a value in an inode of its own for one with
	 * blocks.
	 */
	if (a->w->rules.ea_inode && model_is_lnk(n) && size > 100)
		size = 100;
	fill_text(a->buf, 0, size, rnd(&a->rng));
	if (model_is_reg(n) && rnd_one_in(&a->rng, 6)) {
		/* A capability: version 2, effective; it goes when the file is written. */
		name = "security.capability";
		size = 20;
		memset(a->buf, 0, size);
		a->buf[0] = 1;
		a->buf[3] = 2;
		a->buf[4] = (uint8_t)rnd(&a->rng);
	}
	about(a, "setxattr %s, %zu bytes, of %u (inode %u), flags %u", name, size, n->id, n->ino,
	      flags);
	set_xattr(a, n, name, a->buf, size, flags);
}

static void op_rmxattr(struct actor *a)
{
	struct model_node *n = pick(a, NULL);
	const char *name;

	if (!n || (model_is_dir(n) && !n->parent) ||
	    (!n->links && !handle_of(a, n) && n != a->home))
		return;
	name = n->xattrs && !rnd_one_in(&a->rng, 6) ? n->xattrs->name : pick_xattr_name(a, n);
	about(a, "removexattr %s of %u (inode %u)", name, n->id, n->ino);
	set_xattr(a, n, name, NULL, 0, 0);
}

static size_t put_acl_entry(uint8_t *at, uint16_t tag, uint64_t random, uint32_t id)
{
	uint16_t perm = random & 7;

	memcpy(at, &tag, 2);
	memcpy(at + 2, &perm, 2);
	memcpy(at + 4, &id, 4);
	return 8;
}

/* Returns its size. */
static size_t pick_acl(struct actor *a, uint8_t *buf)
{
	uint32_t version = 2, id = (uint32_t)rnd_below(&a->rng, 1000);
	uint64_t users = rnd_below(&a->rng, 4), groups = rnd_below(&a->rng, 3);
	size_t at = 4;

	if (rnd_one_in(&a->rng, 6))
		users = groups = 0;
	if (rnd_one_in(&a->rng, 30))
		users = 40; /* large enough for a block */
	memcpy(buf, &version, 4);
	at += put_acl_entry(buf + at, 1, rnd(&a->rng), UINT32_MAX);
	for (; users > 0; users--, id += 3)
		at += put_acl_entry(buf + at, 2, rnd(&a->rng), id);
	at += put_acl_entry(buf + at, 4, rnd(&a->rng), UINT32_MAX);
	for (; groups > 0; groups--, id += 3)
		at += put_acl_entry(buf + at, 8, rnd(&a->rng), id);
	if (at > 20 || rnd_one_in(&a->rng, 4))
		at += put_acl_entry(buf + at, 16, rnd(&a->rng), UINT32_MAX);
	if (!rnd_one_in(&a->rng, 12)) /* without it: no ACL */
		at += put_acl_entry(buf + at, 32, rnd(&a->rng), UINT32_MAX);
	return at;
}

static void op_acl(struct actor *a)
{
	struct model_node *n = pick(a, is_not_lnk);
	bool dflt = rnd_one_in(&a->rng, 2);
	size_t size;

	if (!n)
		return;
	if (dflt && !rnd_one_in(&a->rng, 8)) {
		n = pick(a, is_live_dir);
		if (!n)
			return;
	}
	size = pick_acl(a, a->buf);
	about(a, "set the %s ACL of %u (inode %u), %zu bytes", dflt ? "default" : "access", n->id,
	      n->ino, size);
	set_xattr(a, n, dflt ? "system.posix_acl_default" : "system.posix_acl_access",
		  rnd_one_in(&a->rng, 6) ? NULL : a->buf, size, 0);
}

/* ---- listing while things change ------------------------------------------------------------ */

/* A name that came. */
struct seen {
	struct seen *next;
	uint32_t times;
	size_t len;
	char name[256];
};

static void forget_seen(struct listing *l)
{
	while (l->seen) {
		struct seen *next = l->seen->next;

		free(l->seen);
		l->seen = next;
	}
}

static struct seen *find_seen(const struct listing *l, const char *name, size_t len)
{
	struct seen *s = l->seen;

	while (s && (s->len != len || memcmp(s->name, name, len) != 0))
		s = s->next;
	return s;
}

static void note_seen(struct listing *l, const struct backend_dirent *e)
{
	struct seen *s = find_seen(l, e->name, e->len);

	if (!s) {
		s = must_alloc(sizeof(*s));
		s->len = e->len;
		memcpy(s->name, e->name, e->len);
		s->next = l->seen;
		l->seen = s;
	}
	s->times++;
}

static uint32_t times_seen(const struct listing *l, const struct model_entry *e)
{
	const struct seen *s = find_seen(l, e->name, e->name_len);

	return s ? s->times : 0;
}

/* What was there from the first call to the last came exactly once. */
static void listing_judge(struct actor *a, const struct listing *l)
{
	const struct model_entry *e = NULL;

	if (a->w->b->ops->kernel)
		return; /* it does not promise this while a directory grows an index */
	while ((e = model_next_entry(l->node, e))) {
		if (e->node->owner == a->number && e->born <= l->born && times_seen(l, e) != 1)
			bad(a, "%s came %u times in a listing of directory %u",
			    shown(e->name, e->name_len), times_seen(l, e), l->node->ino);
	}
}

static void listing_end(struct actor *a, struct listing *l)
{
	struct model_node *n = l->node;

	a->w->b->ops->dir_close(a->w->b, l->dir);
	forget_seen(l);
	l->node = NULL;
	model_close(follow(a), n);
	unlock(a);
}

static void listing_begin(struct actor *a, struct listing *l)
{
	struct model_node *n = pick_dir(a);
	struct target t = target_of(a, n);
	void *dir = NULL;
	int got;

	if (n->entries_count > 2000)
		return;
	about(a, "open directory %u (inode %u)", n->id, n->ino);
	lock(a);
	*l = (struct listing){ .born = a->w->model->last_born };
	unlock(a);
	got = begin(a)->ops->dir_open(a->w->b, &t, &dir);
	if (!judge(a, 0, got))
		return;
	l->node = n;
	l->dir = dir;
	follow(a);
	n->opens++;
	unlock(a);
}

static void op_list(struct actor *a)
{
	struct listing *l = &a->listings[rnd_below(&a->rng, LISTINGS)];
	struct backend_dirent entries[64];
	size_t want = 1 + rnd_below(&a->rng, 63), count = 0;
	int got;

	if (a->in_txn)
		return;
	if (!l->node) {
		listing_begin(a, l);
		return;
	}
	about(a, "read %zu entries of directory %u (inode %u)", want, l->node->id, l->node->ino);
	got = begin(a)->ops->dir_read(a->w->b, l->dir, l->cookie, entries, want, &count);
	if (!l->node->parent) { /* removed: empty, or not there at all */
		listing_end(a, l);
		return;
	}
	if (!judge(a, 0, got))
		return;
	for (size_t i = 0; i < count; i++)
		note_seen(l, &entries[i]);
	if (count > 0) {
		l->cookie = entries[count - 1].cookie;
		return;
	}
	lock(a);
	listing_judge(a, l);
	unlock(a);
	listing_end(a, l);
}

/* ---- the rest ------------------------------------------------------------------------------- */

static void op_verify(struct actor *a)
{
	struct model_node *n = pick(a, NULL);

	if (!n || (!n->links && !handle_of(a, n) && n != a->home))
		return;
	about(a, "look at all of %u (inode %u)", n->id, n->ino);
	compare_node(a, n);
}

/* Arguments that no one should give. */
static void op_odd(struct actor *a)
{
	static const int refused[] = { EINVAL, ENOENT,	EEXIST,	   EBUSY,	EISDIR,
				       EPERM,  ENOTDIR, ENOTEMPTY, ENAMETOOLONG };
	static const char *const names[] = { ".", "..", "" };
	struct model_new new = pick_new(a, rnd_one_in(&a->rng, 2) ? S_IFREG : S_IFDIR);
	struct model_node *dir = pick_dir(a);
	struct target d = target_of(a, dir);
	struct backend *b = begin(a);
	struct name long_name = { .len = 256 };
	const char *name = names[rnd_below(&a->rng, b->ops->kernel ? 2 : 3)];
	size_t len = strlen(name);
	uint32_t ino;
	int got;

	memset(long_name.bytes, 'n', sizeof(long_name.bytes));
	if (rnd_one_in(&a->rng, 3)) {
		name = long_name.bytes;
		len = long_name.len;
	}
	about(a, "something odd with a name of %zu bytes in %u (inode %u)", len, dir->id, dir->ino);
	switch (rnd_below(&a->rng, 5)) {
	case 0: got = b->ops->make(b, &d, name, len, &new, &ino); break;
	case 1: got = b->ops->unlink(b, &d, name, len); break;
	case 2: got = b->ops->rmdir(b, &d, name, len); break;
	case 3: got = b->ops->link(b, &d, &d, name, len); break;
	default: got = b->ops->rename(b, &d, name, len, &d, "other", 5, 0);
	}
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		if (got == -refused[i]) {
			a->failed++;
			compare_stat(a, dir);
			return;
		}
	}
	(void)judge(a, -EINVAL, got);
}

void close_all(struct actor *a)
{
	for (unsigned i = 0; i < HANDLES; i++) {
		if (a->handles[i].node)
			close_handle(a, &a->handles[i]);
	}
	for (unsigned i = 0; i < LISTINGS; i++) {
		if (a->listings[i].node)
			listing_end(a, &a->listings[i]);
	}
}

static void run_kind(struct actor *a, enum op_kind kind);
static enum op_kind pick_kind(struct actor *a);

/* Several operations that happen together or not at all. */
static void op_txn(struct actor *a)
{
	struct world *w = a->w;
	struct model *copy;
	uint64_t count;
	bool commit;
	int err;

	if (w->mix.threads > 1 || w->b->ops->kernel || a->in_txn)
		return;
	close_all(a);
	about(a, "begin of a scope");
	if (!judge(a, 0, w->b->ops->txn_begin(w->b)))
		return;
	copy = model_copy(w->model);
	count = 1 + rnd_below(&a->rng, TXN_OPS_MAX);
	commit = !rnd_one_in(&a->rng, 3);
	a->in_txn = true;
	a->txn_too_big = false;
	for (uint64_t i = 0; i < count && !a->txn_too_big; i++)
		run_kind(a, pick_kind(a));
	a->in_txn = false;
	commit = commit && !a->txn_too_big;
	about(a, "%s of a scope of %" PRIu64 " operations", commit ? "commit" : "cancel", count);
	err = commit ? w->b->ops->txn_commit(w->b) : w->b->ops->txn_cancel(w->b);
	if (err < 0)
		bad(a, "%s", words(err));
	if (commit) {
		model_destroy(copy);
		return;
	}
	model_destroy(w->model);
	w->model = copy;
	pool_rebuild(w);
	if (rnd_one_in(&a->rng, 4))
		compare_all(a);
}

/* Where nothing else makes room, somebody has to. */
static void make_room(struct actor *a)
{
	struct uext4_statfs st;

	if (a->w->mix.tight || a->in_txn || a->w->b->ops->statfs(a->w->b, &st) < 0 ||
	    (st.blocks_free > st.blocks / 4 && st.inodes_free > st.inodes / 8))
		return;
	for (unsigned i = 0; i < 8; i++)
		op_unlink(a);
	for (unsigned i = 0; i < 4; i++) {
		struct model_node *n = pick(a, model_is_reg);
		struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE };

		if (!n || !n->links)
			continue;
		about(a, "make room: truncate %u (inode %u)", n->id, n->ino);
		set_attr(a, n, &attr);
	}
}

static void run_kind(struct actor *a, enum op_kind kind)
{
	static void (*const functions[OP_KINDS])(struct actor * a) = {
#define OP(name, weight) op_##name,
		OPS(OP)
#undef OP
	};

	a->kind = kind;
	functions[kind](a);
}

static enum op_kind pick_kind(struct actor *a)
{
	uint64_t at = rnd_below(&a->rng, a->w->mix.total);
	unsigned kind = 0;

	while (at >= a->w->mix.weights[kind])
		at -= a->w->mix.weights[kind++];
	return kind;
}

void run_op(struct actor *a, uint64_t number)
{
	a->op = number;
	a->rng.state = mix64(a->w->seed * UINT64_C(0x9e3779b97f4a7c15) + a->number) ^
		       mix64(number + 1);
	if (number % 16 == 0)
		make_room(a);
	run_kind(a, pick_kind(a));
}
