/* SPDX-License-Identifier: MIT */
/* Operations of the random test: names, and listings while they change. */
#include "world_ops.h"

/* ---- names ---------------------------------------------------------------------------------- */

void note_made(struct actor *a, struct model_node *n, uint32_t ino)
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
	say_op(a, "make %s, mode %o, in %u (inode %u), target of %zu bytes",
	       shown(name.bytes, name.len), new.attrs.mode, dir->id, dir->ino, target_len);
	want = model_make(lock_model(a), MODEL_ASK, dir, name.bytes, name.len, &new, NULL);
	unlock_model(a);
	got = begin_call(a)->ops->make(a->w->b, &d, name.bytes, name.len, &new, &ino);
	if (!judge_alloc(a, want, got))
		return;
	(void)model_make(follow_call(a), MODEL_DO, dir, name.bytes, name.len, &new, &n);
	note_made(a, n, ino);
	unlock_model(a);
	compare_stat(a, n);
	compare_stat(a, dir);
	if (rnd_one_in(&a->rng, 8))
		compare_xattrs(a, n);
}

void op_create(struct actor *a)
{
	make(a, S_IFREG, NULL, 0);
}

void op_mkdir(struct actor *a)
{
	make(a, S_IFDIR, NULL, 0);
}

void op_mknod(struct actor *a)
{
	static const uint32_t types[] = { S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK };

	make(a, types[rnd_below(&a->rng, 4)], NULL, 0);
}

void op_symlink(struct actor *a)
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

void op_link(struct actor *a)
{
	struct model_node *n = pick_node(a, rnd_one_in(&a->rng, 4) ? NULL : is_named);
	struct model_node *dir = pick_dir(a);
	struct target t, d = target_of(a, dir);
	struct name name = pick_name(a);
	int want, got;

	if (!n || (model_is_dir(n) && !n->parent))
		return;
	t = target_of(a, n);
	say_op(a, "link %u (inode %u) as %s in %u (inode %u)", n->id, n->ino,
	       shown(name.bytes, name.len), dir->id, dir->ino);
	want = model_link(lock_model(a), MODEL_ASK, n, dir, name.bytes, name.len);
	unlock_model(a);
	got = begin_call(a)->ops->link(a->w->b, &t, &d, name.bytes, name.len);
	if (!judge_alloc(a, want, got))
		return;
	(void)model_link(follow_call(a), MODEL_DO, n, dir, name.bytes, name.len);
	unlock_model(a);
	compare_stat(a, n);
	compare_stat(a, dir);
}

/* The name that was @name is gone, what it led to perhaps. */
static void check_removed(struct actor *a, struct model_node *dir, uint32_t id)
{
	struct model_node *n;

	compare_stat(a, dir);
	n = model_node(lock_model(a), id);
	unlock_model(a);
	if (n && has_name(n))
		compare_stat(a, n);
	else if (n && !model_is_dir(n))
		compare_stat(a, n);
}

static uint32_t id_of(struct actor *a, const struct model_node *dir, const struct name *name)
{
	const struct model_entry *e = (lock_model(a), model_find(dir, name->bytes, name->len));
	uint32_t id = e ? e->node->id : 0;

	unlock_model(a);
	return id;
}

/* Homes and meeting places stay. */
static bool is_kept(struct actor *a, const struct model_node *dir, const struct name *name)
{
	const struct model_entry *e = (lock_model(a), model_find(dir, name->bytes, name->len));
	bool kept = e && e->node->owner != a->number;

	unlock_model(a);
	return kept || (e && e->node == a->home);
}

void op_unlink(struct actor *a)
{
	struct name name;
	struct model_node *dir = pick_entry(a, &name);
	struct target d = target_of(a, dir);
	uint32_t id = id_of(a, dir, &name);
	int want, got;

	if (is_kept(a, dir, &name))
		return;
	say_op(a, "unlink %s (%u) in %u (inode %u)", shown(name.bytes, name.len), id, dir->id,
	       dir->ino);
	want = model_unlink(lock_model(a), MODEL_ASK, dir, name.bytes, name.len);
	unlock_model(a);
	got = begin_call(a)->ops->unlink(a->w->b, &d, name.bytes, name.len);
	if (!judge(a, want, got))
		return;
	(void)model_unlink(follow_call(a), MODEL_DO, dir, name.bytes, name.len);
	unlock_model(a);
	check_removed(a, dir, id);
}

void op_rmdir(struct actor *a)
{
	struct name name;
	struct model_node *n = pick_node(a, is_live_dir), *dir;
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
	say_op(a, "rmdir %s in %u (inode %u)", shown(name.bytes, name.len), dir->id, dir->ino);
	want = model_rmdir(lock_model(a), MODEL_ASK, dir, name.bytes, name.len);
	unlock_model(a);
	got = begin_call(a)->ops->rmdir(a->w->b, &d, name.bytes, name.len);
	if (!judge(a, want, got))
		return;
	(void)model_rmdir(follow_call(a), MODEL_DO, dir, name.bytes, name.len);
	unlock_model(a);
	compare_stat(a, dir);
}

void op_rename(struct actor *a)
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
	say_op(a, "rename %s (%u) in %u (inode %u) to %s (%u) in %u (inode %u), flags %u",
	       shown(name.bytes, name.len), id, dir->id, dir->ino,
	       shown(new_name.bytes, new_name.len), old_id, new_dir->id, new_dir->ino, flags);
	want = model_rename(lock_model(a), MODEL_ASK, dir, name.bytes, name.len, new_dir,
			    new_name.bytes, new_name.len, flags, NULL);
	unlock_model(a);
	got = begin_call(a)->ops->rename(a->w->b, &d, name.bytes, name.len, &nd, new_name.bytes,
					 new_name.len, flags);
	if (!judge_alloc(a, want, got)) {
		/* The kernel puts the whiteout there and takes it back when it is too late. */
		if (flags & UEXT4_RENAME_WHITEOUT && backend_is_stock(a->w->b)) {
			model_may_have_touched(follow_call(a), dir);
			unlock_model(a);
		}
		return;
	}
	(void)model_rename(follow_call(a), MODEL_DO, dir, name.bytes, name.len, new_dir,
			   new_name.bytes, new_name.len, flags, &whiteout);
	unlock_model(a);
	if (whiteout) {
		got = a->w->b->ops->lookup(a->w->b, &d, name.bytes, name.len, &ino);
		if (got < 0)
			bad(a, "looking up the whiteout: %s", words(got));
		lock_model(a);
		note_made(a, whiteout, ino);
		unlock_model(a);
		compare_stat(a, whiteout);
	}
	check_removed(a, dir, old_id);
	check_removed(a, new_dir, id);
}

void op_lookup(struct actor *a)
{
	struct name name;
	struct model_node *dir = pick_entry(a, &name);
	struct target d = target_of(a, dir);
	const struct model_entry *e;
	uint32_t ino = 0, want_ino;
	int got;

	say_op(a, "lookup %s in %u (inode %u)", shown(name.bytes, name.len), dir->id, dir->ino);
	got = a->w->b->ops->lookup(a->w->b, &d, name.bytes, name.len, &ino);
	lock_model(a);
	e = model_find(dir, name.bytes, name.len);
	want_ino = e ? e->node->ino : 0;
	unlock_model(a);
	if (judge(a, e ? 0 : -ENOENT, got) && ino != want_ino)
		bad(a, "found inode %u, should be %u", ino, want_ino);
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

	if (backend_is_stock(a->w->b))
		return; /* it does not promise this while a directory grows an index */
	while ((e = model_next_entry(l->node, e))) {
		if (e->node->owner == a->number && e->born <= l->born && times_seen(l, e) != 1)
			bad(a, "%s came %u times in a listing of directory %u",
			    shown(e->name, e->name_len), times_seen(l, e), l->node->ino);
	}
}

void listing_end(struct actor *a, struct listing *l)
{
	struct model_node *n = l->node;

	a->w->b->ops->dir_close(a->w->b, l->dir);
	forget_seen(l);
	l->node = NULL;
	model_close(follow_call(a), n);
	unlock_model(a);
}

static void listing_begin(struct actor *a, struct listing *l)
{
	struct model_node *n = pick_dir(a);
	struct target t = target_of(a, n);
	void *dir = NULL;
	int got;

	if (n->entries_count > 2000)
		return;
	say_op(a, "open directory %u (inode %u)", n->id, n->ino);
	lock_model(a);
	*l = (struct listing){ .born = a->w->model->last_born };
	unlock_model(a);
	got = begin_call(a)->ops->dir_open(a->w->b, &t, &dir);
	if (!judge(a, 0, got))
		return;
	l->node = n;
	l->dir = dir;
	follow_call(a);
	n->opens++;
	unlock_model(a);
}

void op_list(struct actor *a)
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
	say_op(a, "read %zu entries of directory %u (inode %u)", want, l->node->id, l->node->ino);
	got = begin_call(a)->ops->dir_read(a->w->b, l->dir, l->cookie, entries, want, &count);
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
	lock_model(a);
	listing_judge(a, l);
	unlock_model(a);
	listing_end(a, l);
}
