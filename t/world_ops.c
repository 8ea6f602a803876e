/* SPDX-License-Identifier: MIT */
/* The operations of the random test: judging, choosing, and what is no one kind. */
#include "world_ops.h"

#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#define POOL_TRIES 12u
#define TXN_OPS_MAX 24u
#define ROOM_BYTES (3u << 20) /* with less left, no space is no surprise */
#define ROOM_INODES 24u
#define FREES_MS 1000
#define FREE_WAITS_MAX 10000u
#define FREE_WAIT_US 1000u

const char *const op_names[OP_KINDS] = {
#define OP(name, weight) #name,
	OPS(OP)
#undef OP
};

/* ---- judging -------------------------------------------------------------------------------- */

void say_op(struct actor *a, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(a->about, sizeof(a->about), fmt, args);
	va_end(args);
	if (a->w->trace)
		fprintf(stderr, "%u:%" PRIu64 " %s\n", a->number, a->op, a->about);
}

static struct uext4_time now(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (struct uext4_time){ .sec = ts.tv_sec, .nsec = (uint32_t)ts.tv_nsec };
}

uint32_t inodes_used(struct actor *a)
{
	struct backend *b = a->w->b;
	struct uext4_statfs st;
	int err = b->ops->statfs(b, &st);

	if (err < 0)
		bad(a, "statfs: %s", words(err));
	return (uint32_t)(st.inodes - st.inodes_free);
}

void wait_for_frees(struct actor *a)
{
	struct world *w = a->w;
	uint32_t want = w->inodes_hidden + (uint32_t)w->model->nodes_count, used;

	for (unsigned i = 0; (used = inodes_used(a)) != want; i++) {
		if (i == FREE_WAITS_MAX)
			bad(a, "%u inodes are in use, should be %u", used, want);
		usleep(FREE_WAIT_US);
	}
}

/* Before each call, so that it is known whether there is room. */
static bool waits_for_frees(const struct world *w)
{
	return w->b->ops->fuse && w->mix.tight && w->mix.threads == 1 && !w->rules.ea_inode;
}

/* A call begins. */
struct backend *begin_call(struct actor *a)
{
	if (waits_for_frees(a->w))
		wait_for_frees(a);
	/* The kernel's clock for files only moves with its ticks. */
	a->before = now(a->w->b->ops->kernel ? CLOCK_REALTIME_COARSE : CLOCK_REALTIME);
	return a->w->b;
}

/* The model is to follow what was called between begin_call() and now; ends with unlock_model(). */
struct model *follow_call(struct actor *a)
{
	pthread_mutex_lock(&a->w->lock);
	a->w->model->now.lo = a->before;
	a->w->model->now.hi = now(CLOCK_REALTIME);
	return a->w->model;
}

struct model *lock_model(struct actor *a)
{
	pthread_mutex_lock(&a->w->lock);
	return a->w->model;
}

void unlock_model(struct actor *a)
{
	pthread_mutex_unlock(&a->w->lock);
}

/* Is so little left that a call may fail for lack of it? */
bool space_is_short(struct actor *a, uint64_t wanted)
{
	struct uext4_statfs st;
	int err = a->w->b->ops->statfs(a->w->b, &st);
	uint64_t room;

	if (err < 0)
		bad(a, "statfs: %s", words(err));
	room = ROOM_BYTES + 64ull * st.block_size;
	/* Nobody else takes any meanwhile. */
	if (waits_for_frees(a->w))
		room /= 8;
	/* What is kept for root is for data only. */
	return st.blocks_available * st.block_size < room + wanted || st.inodes_free < ROOM_INODES;
}

/* Where others work too that is not waited for. */
static bool frees_are_due(struct actor *a)
{
	struct world *w = a->w;
	struct timespec at;
	int64_t ms;

	if (!w->b->ops->fuse || waits_for_frees(w))
		return false;
	clock_gettime(CLOCK_MONOTONIC, &at);
	lock_model(a);
	ms = (at.tv_sec - w->gone_last.tv_sec) * 1000 +
	     (at.tv_nsec - w->gone_last.tv_nsec) / 1000000;
	unlock_model(a);
	return ms < FREES_MS;
}

/*
 * True: it was done, and the model is to do the same.  @wanted: bytes it needs, 0: none;
 * @perhaps: it may find no room though there is space.
 */
bool judge_space(struct actor *a, int want, int got, uint64_t wanted, bool perhaps)
{
	bool no_space = got == -ENOSPC || got == -EDQUOT;

	if (a->w->trace)
		fprintf(stderr, "%u:%" PRIu64 " = %s\n", a->number, a->op, words(got));
	if (got == BACKEND_CANNOT && a->w->b->ops->kernel)
		return false;
	if (got == BACKEND_CANNOT ||
	    (got == -EOPNOTSUPP && strstr(uext4_last_error(), "not in this version"))) {
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
	if (no_space && want == 0 &&
	    (perhaps || (wanted && (space_is_short(a, wanted) || frees_are_due(a))))) {
		a->refused++;
		return false;
	}
	bad(a, "%s, should be %s%s%s", words(got), want ? strerrordesc_np(-want) : "a success",
	    got < 0 && !a->w->b->ops->kernel ? ": " : "",
	    got < 0 && !a->w->b->ops->kernel ? uext4_last_error() : "");
}

bool judge(struct actor *a, int want, int got)
{
	return judge_space(a, want, got, 0, false);
}

bool judge_alloc(struct actor *a, int want, int got)
{
	return judge_space(a, want, got, 1, false);
}

/*
 * A kernel (6.18) that writes inline_data loses bytes, or stops for ever, once files are cut, grown
 * or punched otherwise than by writes: it is not asked to.
 */
bool is_fragile(const struct actor *a)
{
	return backend_is_stock(a->w->b) && a->w->has_inline_data;
}

void learn_capability(struct actor *a, struct model_node *n)
{
	static const char name[] = "security.capability";
	struct target t = target_of(a, n);
	struct backend *b = a->w->b;
	uint8_t value[64];
	struct model *m;
	size_t size;

	if (!b->ops->fuse || !model_xattr_find(n, name) ||
	    b->ops->xattr_get(b, &t, name, value, sizeof(value), &size) != -ENODATA)
		return;
	m = follow_call(a);
	(void)model_xattr_set(m, MODEL_DO, n, name, NULL, 0, 0);
	unlock_model(a);
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

	clock_gettime(CLOCK_MONOTONIC, &w->gone_last);
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
struct model_node *pick_node(struct actor *a, bool (*fits)(const struct model_node *n))
{
	for (unsigned i = 0; a->pool_count > 0 && i < POOL_TRIES; i++) {
		struct model_node *n = a->pool[rnd_below(&a->rng, a->pool_count)];

		if (!fits || fits(n))
			return n;
	}
	return NULL;
}

bool has_name(const struct model_node *n)
{
	return model_is_dir(n) ? n->parent != NULL : n->links != NULL;
}

bool is_live_dir(const struct model_node *n)
{
	return model_is_dir(n) && n->parent;
}

bool is_named(const struct model_node *n)
{
	return n->links != NULL;
}

bool is_not_lnk(const struct model_node *n)
{
	return !model_is_lnk(n) && has_name(n);
}

bool is_reg_or_dir(const struct model_node *n)
{
	return (model_is_reg(n) || model_is_dir(n)) && has_name(n);
}

struct model_node *pick_dir(struct actor *a)
{
	struct world *w = a->w;
	struct model_node *n;

	if (w->meetings && rnd_one_in(&a->rng, 2))
		return w->meeting[rnd_below(&a->rng, w->meetings)];
	if (w->mix.crowd && !rnd_one_in(&a->rng, 4))
		return a->home;
	n = pick_node(a, is_live_dir);
	return n ? n : a->home;
}

/* A name of the pool.  Where others work too each thread has names of its own. */
struct name pick_name(struct actor *a)
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
struct model_node *pick_entry(struct actor *a, struct name *ret_name)
{
	struct model_node *n = rnd_one_in(&a->rng, 6) ? NULL : pick_node(a, is_named);
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

struct handle *handle_of(struct actor *a, const struct model_node *n)
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

uint64_t pick_bits(struct actor *a, unsigned bits_max)
{
	uint64_t bits = rnd_below(&a->rng, bits_max + 1), r = rnd(&a->rng);

	return bits ? r >> (64 - bits) : 0;
}

/* Near something that matters: the ends of blocks, pages, inode bodies, the file. */
uint64_t pick_offset(struct actor *a, const struct model_node *n)
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

size_t pick_len(struct actor *a)
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

struct uext4_time pick_time(struct actor *a)
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

struct model_new pick_new(struct actor *a, uint32_t type)
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

/* ---- the rest ------------------------------------------------------------------------------- */

void op_verify(struct actor *a)
{
	struct model_node *n = pick_node(a, NULL);

	if (!n || (!n->links && !handle_of(a, n) && n != a->home))
		return;
	say_op(a, "look at all of %u (inode %u)", n->id, n->ino);
	compare_node(a, n);
}

/* Arguments that no one should give. */
void op_odd(struct actor *a)
{
	static const int refused[] = { EINVAL, ENOENT,	EEXIST,	   EBUSY,	EISDIR,
				       EPERM,  ENOTDIR, ENOTEMPTY, ENAMETOOLONG };
	static const char *const names[] = { ".", "..", "" };
	struct model_new new = pick_new(a, rnd_one_in(&a->rng, 2) ? S_IFREG : S_IFDIR);
	struct model_node *dir = pick_dir(a);
	struct target d = target_of(a, dir);
	struct backend *b = begin_call(a);
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
	say_op(a, "something odd with a name of %zu bytes in %u (inode %u)", len, dir->id,
	       dir->ino);
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
void op_txn(struct actor *a)
{
	struct world *w = a->w;
	struct model *copy, *other;
	uint64_t count;
	bool commit;
	int err;

	if (w->mix.threads > 1 || w->b->ops->kernel || a->in_txn)
		return;
	close_all(a);
	say_op(a, "begin of a scope");
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
	say_op(a, "%s of a scope of %" PRIu64 " operations", commit ? "commit" : "cancel", count);
	err = commit ? w->b->ops->txn_commit(w->b) : w->b->ops->txn_cancel(w->b);
	if (commit && err == -E2BIG) { /* data without a place yet has no room in the journal */
		commit = false;
		err = w->b->ops->txn_cancel(w->b);
	}
	if (err < 0)
		bad(a, "%s", words(err));
	if (commit) {
		model_destroy(copy);
		return;
	}
	other = w->model;
	w->model = copy;
	pool_rebuild(w); /* looks at nodes of the other one */
	model_destroy(other);
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
		struct model_node *n = pick_node(a, model_is_reg);
		struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE };

		if (!n || !n->links)
			continue;
		say_op(a, "make room: truncate %u (inode %u)", n->id, n->ino);
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
