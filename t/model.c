/* SPDX-License-Identifier: MIT */
/*
 * The oracle of model.h: nodes and names.  Memory that is not there ends the program: it is a test.
 */
#include "model_internal.h"

#define LINKS_MAX 65000u

void *model_need(void *p)
{
	if (!p) {
		fprintf(stderr, "the model: out of memory\n");
		abort();
	}
	return p;
}

void *model_zalloc(size_t bytes)
{
	return model_need(calloc(1, bytes));
}

bool model_is_dir(const struct model_node *n)
{
	return S_ISDIR(n->mode);
}

bool model_is_reg(const struct model_node *n)
{
	return S_ISREG(n->mode);
}

bool model_is_lnk(const struct model_node *n)
{
	return S_ISLNK(n->mode);
}

/* ---- nodes ---------------------------------------------------------------------------------- */

static struct model_node *node_add(struct model *m, struct model_node *n)
{
	n->prev = NULL;
	n->next = m->nodes;
	if (m->nodes)
		m->nodes->prev = n;
	m->nodes = n;
	m->nodes_count++;
	return n;
}

static void node_free(struct model_node *n)
{
	model_drop_pages(n, 0, UINT64_MAX);
	free(n->pages);
	while (n->xattrs) {
		struct model_xattr *next = n->xattrs->next;

		free(n->xattrs);
		n->xattrs = next;
	}
	free(n->buckets);
	free(n);
}

/* O2 */
void model_check_gone(struct model *m, struct model_node *n)
{
	if (n->nlink || n->opens || n == m->root)
		return;
	if (m->gone)
		m->gone(m->arg, n);
	if (n->prev)
		n->prev->next = n->next;
	else
		m->nodes = n->next;
	if (n->next)
		n->next->prev = n->prev;
	m->nodes_count--;
	node_free(n);
}

struct model_node *model_node(const struct model *m, uint32_t id)
{
	for (struct model_node *n = m->nodes; n; n = n->next) {
		if (n->id == id)
			return n;
	}
	return NULL;
}

/* ---- entries -------------------------------------------------------------------------------- */

static uint32_t hash_name(const char *name, size_t len)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ (uint8_t)name[i]) * 16777619u;
	return h ^ h >> 15;
}

struct model_entry *model_find(const struct model_node *dir, const char *name, size_t len)
{
	uint32_t hash = hash_name(name, len);
	struct model_entry *e;

	if (dir->buckets_count == 0)
		return NULL;
	e = dir->buckets[hash % dir->buckets_count];
	while (e && (e->hash != hash || e->name_len != len || memcmp(e->name, name, len) != 0))
		e = e->next_in_bucket;
	return e;
}

struct model_entry *model_next_entry(const struct model_node *dir, const struct model_entry *e)
{
	size_t b = 0;

	if (e && e->next_in_bucket)
		return e->next_in_bucket;
	if (e)
		b = e->hash % dir->buckets_count + 1;
	for (; b < dir->buckets_count; b++) {
		if (dir->buckets[b])
			return dir->buckets[b];
	}
	return NULL;
}

static void buckets_grow(struct model_node *dir)
{
	size_t count = dir->buckets_count ? 4 * dir->buckets_count : 8;
	struct model_entry **buckets = model_zalloc(count * sizeof(*buckets));

	for (size_t i = 0; i < dir->buckets_count; i++) {
		struct model_entry *e = dir->buckets[i], *next;

		for (; e; e = next) {
			next = e->next_in_bucket;
			e->next_in_bucket = buckets[e->hash % count];
			buckets[e->hash % count] = e;
		}
	}
	free(dir->buckets);
	dir->buckets = buckets;
	dir->buckets_count = count;
}

/* The name leads to @n from now on; link counts are the caller's business. */
static void entry_point_to(struct model_entry *e, struct model_node *n)
{
	e->node = n;
	e->prev_link = NULL;
	e->next_link = n->links;
	if (n->links)
		n->links->prev_link = e;
	n->links = e;
}

static void entry_leave(struct model_entry *e)
{
	if (e->prev_link)
		e->prev_link->next_link = e->next_link;
	else
		e->node->links = e->next_link;
	if (e->next_link)
		e->next_link->prev_link = e->prev_link;
}

static void entry_add(struct model *m, struct model_node *dir, const char *name, size_t len,
		      struct model_node *n)
{
	struct model_entry *e = model_zalloc(sizeof(*e) + len + 1), **bucket;

	if (dir->entries_count == 2 * dir->buckets_count)
		buckets_grow(dir);
	e->dir = dir;
	e->hash = hash_name(name, len);
	e->born = ++m->last_born;
	e->name_len = (uint8_t)len;
	memcpy(e->name, name, len);
	bucket = &dir->buckets[e->hash % dir->buckets_count];
	e->next_in_bucket = *bucket;
	*bucket = e;
	dir->entries_count++;
	entry_point_to(e, n);
}

static void entry_remove(struct model_entry *e)
{
	struct model_node *dir = e->dir;
	struct model_entry **at = &dir->buckets[e->hash % dir->buckets_count];

	while (*at != e)
		at = &(*at)->next_in_bucket;
	*at = e->next_in_bucket;
	dir->entries_count--;
	entry_leave(e);
	free(e);
}

bool model_is_below(const struct model_node *n, const struct model_node *dir)
{
	for (; n; n = n->parent == n ? NULL : n->parent) {
		if (n == dir)
			return true;
	}
	return false;
}

/* ---- the whole ------------------------------------------------------------------------------ */

struct model *model_create(const struct model_rules *rules)
{
	struct model *m = model_zalloc(sizeof(*m));

	m->rules = *rules;
	m->root = node_add(m, model_zalloc(sizeof(*m->root)));
	m->root->id = m->last_id = 1;
	m->root->mode = S_IFDIR | 0755;
	m->root->nlink = 2;
	m->root->parent = m->root;
	m->root->ino = UEXT4_ROOT_INO;
	return m;
}

void model_destroy(struct model *m)
{
	if (!m)
		return;
	for (struct model_node *n = m->nodes; n; n = n->next) {
		for (size_t i = 0; i < n->buckets_count; i++) {
			struct model_entry *e = n->buckets[i], *next;

			for (; e; e = next) {
				next = e->next_in_bucket;
				free(e);
			}
		}
	}
	while (m->nodes) {
		struct model_node *next = m->nodes->next;

		node_free(m->nodes);
		m->nodes = next;
	}
	free(m);
}

static struct model_node *node_copy(const struct model_node *from)
{
	struct model_node *n = model_need(malloc(sizeof(*n)));

	*n = *from;
	n->pages = NULL;
	n->pages_count = n->pages_room = 0;
	for (size_t i = 0; i < from->pages_count; i++)
		model_put_bytes(n, from->pages[i].index * MODEL_PAGE, from->pages[i].data,
				MODEL_PAGE);
	n->xattrs = NULL;
	for (const struct model_xattr *x = from->xattrs; x; x = x->next) {
		struct model_xattr *copy = model_xattr_new(x->name, x->value, x->size);

		copy->next = n->xattrs;
		n->xattrs = copy;
	}
	n->buckets = NULL;
	n->buckets_count = n->entries_count = 0;
	n->links = NULL;
	return n;
}

struct model *model_copy(const struct model *from)
{
	struct model *m = model_need(malloc(sizeof(*m)));
	const struct model_node **originals;
	struct model_node **copies;
	size_t count = 0;

	*m = *from;
	m->nodes = NULL;
	m->nodes_count = 0;
	originals = model_zalloc((from->last_id + 1) * sizeof(*originals));
	copies = model_zalloc((from->last_id + 1) * sizeof(*copies));
	for (const struct model_node *n = from->nodes; n; n = n->next)
		originals[count++] = n;
	while (count-- > 0)
		copies[originals[count]->id] = node_add(m, node_copy(originals[count]));
	m->root = copies[from->root->id];
	for (const struct model_node *n = from->nodes; n; n = n->next) {
		const struct model_entry *e = NULL;

		copies[n->id]->parent = n->parent ? copies[n->parent->id] : NULL;
		while ((e = model_next_entry(n, e)))
			entry_add(m, copies[n->id], e->name, e->name_len, copies[e->node->id]);
	}
	free(originals);
	free(copies);
	return m;
}

/* ---- names ---------------------------------------------------------------------------------- */

/* A name is to be looked up in @dir. */
static int check_dir(const struct model_node *dir, size_t len)
{
	if (len > MODEL_NAME_MAX)
		return -ENAMETOOLONG;
	if (!model_is_dir(dir))
		return -ENOTDIR;
	if (!dir->parent)
		return -ENOENT;
	return 0;
}

static int check_kind(const struct model_entry *e, bool dir_wanted)
{
	if (dir_wanted && !model_is_dir(e->node))
		return -ENOTDIR;
	if (!dir_wanted && model_is_dir(e->node))
		return -EISDIR;
	return 0;
}

/* May @e be taken out of its directory?  @dir_wanted: by a call that is for directories. */
static int check_delete(const struct model *m, const struct model_entry *e, bool dir_wanted)
{
	int err = m->rules.fuse ? check_kind(e, dir_wanted) : 0;

	if (err < 0)
		return err;
	if (model_is_locked(e->dir) || model_is_locked(e->node))
		return -EPERM;
	return check_kind(e, dir_wanted);
}

static bool dir_is_full(const struct model *m, const struct model_node *dir)
{
	return dir->nlink >= LINKS_MAX && !m->rules.dir_nlink;
}

static uint32_t inherited_flags(const struct model_node *dir, uint32_t mode)
{
	uint32_t all = MODEL_FL_SYNC | MODEL_FL_NODUMP | MODEL_FL_NOATIME | MODEL_FL_DIRSYNC |
		       MODEL_FL_PROJINHERIT;

	if (S_ISREG(mode))
		all &= ~(MODEL_FL_DIRSYNC | MODEL_FL_PROJINHERIT);
	else if (!S_ISDIR(mode))
		all &= MODEL_FL_NODUMP | MODEL_FL_NOATIME;
	return dir->flags & all;
}

static struct model_node *node_new(struct model *m, struct model_node *dir,
				   const struct model_new *new)
{
	struct model_node *n = node_add(m, model_zalloc(sizeof(*n)));

	n->id = ++m->last_id;
	n->mode = new->attrs.mode;
	if (!(n->mode & S_IFMT))
		n->mode |= S_IFREG;
	if (model_is_lnk(n))
		n->mode = S_IFLNK | 0777;
	n->uid = new->attrs.uid;
	n->gid = new->attrs.gid;
	if (dir->mode & S_ISGID) {
		n->gid = dir->gid;
		if (model_is_dir(n))
			n->mode |= S_ISGID;
	}
	if (S_ISCHR(n->mode) || S_ISBLK(n->mode)) {
		n->rdev_major = new->attrs.rdev_major;
		n->rdev_minor = new->attrs.rdev_minor;
	}
	n->flags = inherited_flags(dir, n->mode);
	if (dir->flags & MODEL_FL_PROJINHERIT)
		n->projid = dir->projid;
	model_acl_inherit(dir, n, new->attrs.umask);
	model_touch(m, n, T(ATIME) | T(MTIME) | T(CTIME) | T(CRTIME));
	return n;
}

int model_make(struct model *m, enum model_step step, struct model_node *dir, const char *name,
	       size_t len, const struct model_new *new, struct model_node **ret_node)
{
	bool too_long = new->target_len >= m->rules.block_size;
	struct model_node *n;
	int err = check_dir(dir, len);

	if (err < 0)
		return err;
	/* The library looks at what it was given first, the kernel at the names. */
	if (too_long && !m->rules.kernel)
		return -ENAMETOOLONG;
	if (model_find(dir, name, len))
		return -EEXIST;
	if (dir->flags & MODEL_FL_IMMUTABLE)
		return -EPERM;
	if (too_long)
		return -ENAMETOOLONG;
	if (S_ISDIR(new->attrs.mode) && dir_is_full(m, dir))
		return -EMLINK;
	if (step == MODEL_ASK)
		return 0;
	n = node_new(m, dir, new);
	n->nlink = 1;
	if (new->target) {
		model_put_bytes(n, 0, new->target, new->target_len);
		n->size = new->target_len;
	}
	if (model_is_dir(n)) {
		n->nlink = 2;
		n->parent = dir;
		dir->nlink++;
	}
	entry_add(m, dir, name, len, n);
	model_touch(m, dir, T(MTIME) | T(CTIME));
	*ret_node = n;
	return 0;
}

int model_tmpfile(struct model *m, enum model_step step, struct model_node *dir,
		  const struct model_new *new, struct model_node **ret_node)
{
	int err = check_dir(dir, 1);

	if (err < 0)
		return err;
	if (dir->flags & MODEL_FL_IMMUTABLE)
		return -EPERM;
	if (step == MODEL_ASK)
		return 0;
	*ret_node = node_new(m, dir, new);
	(*ret_node)->opens = 1;
	(*ret_node)->linkable = true;
	return 0;
}

static bool other_project(const struct model_node *dir, const struct model_node *n)
{
	return dir->flags & MODEL_FL_PROJINHERIT && dir->projid != n->projid;
}

int model_link(struct model *m, enum model_step step, struct model_node *n, struct model_node *dir,
	       const char *name, size_t len)
{
	int err = check_dir(dir, len);

	if (err < 0)
		return err;
	if (model_find(dir, name, len))
		return -EEXIST;
	if (dir->flags & MODEL_FL_IMMUTABLE || model_is_locked(n) || model_is_dir(n))
		return -EPERM;
	if (n->nlink == 0 && !n->linkable)
		return -ENOENT;
	if (n->nlink >= LINKS_MAX)
		return -EMLINK;
	if (other_project(dir, n))
		return -EXDEV;
	if (step == MODEL_ASK)
		return 0;
	n->linkable = false;
	n->nlink++;
	entry_add(m, dir, name, len, n);
	model_touch(m, n, T(CTIME));
	model_touch(m, dir, T(MTIME) | T(CTIME));
	return 0;
}

/* @e goes, with the link it stood for. */
static void remove_name(struct model *m, struct model_entry *e)
{
	struct model_node *n = e->node, *dir = e->dir;

	entry_remove(e);
	model_touch(m, dir, T(MTIME) | T(CTIME));
	model_touch(m, n, T(CTIME));
	if (model_is_dir(n)) {
		n->nlink = 0;
		n->parent = NULL;
		dir->nlink--;
	} else {
		n->nlink--;
	}
	model_check_gone(m, n);
}

int model_unlink(struct model *m, enum model_step step, struct model_node *dir, const char *name,
		 size_t len)
{
	struct model_entry *e;
	int err = check_dir(dir, len);

	if (err < 0)
		return err;
	e = model_find(dir, name, len);
	if (!e)
		return -ENOENT;
	err = check_delete(m, e, false);
	if (err == 0 && step == MODEL_DO)
		remove_name(m, e);
	return err;
}

int model_rmdir(struct model *m, enum model_step step, struct model_node *dir, const char *name,
		size_t len)
{
	struct model_entry *e;
	int err = check_dir(dir, len);

	if (err < 0)
		return err;
	e = model_find(dir, name, len);
	if (!e)
		return -ENOENT;
	err = check_delete(m, e, true);
	if (err == 0 && e->node->entries_count > 0)
		err = -ENOTEMPTY;
	if (err == 0 && step == MODEL_DO)
		remove_name(m, e);
	return err;
}

/* The part of a rename that needs both names; @to may be NULL. */
static int check_rename(const struct model *m, const struct model_entry *from,
			const struct model_entry *to, const struct model_node *new_dir,
			uint32_t flags)
{
	const struct model_node *n = from->node;
	bool exchange = flags & UEXT4_RENAME_EXCHANGE;
	int err = 0;

	if (flags & UEXT4_RENAME_NOREPLACE && to)
		return -EEXIST;
	if (exchange && !to)
		return -ENOENT;
	if (model_is_dir(n) && model_is_below(new_dir, n))
		return -EINVAL;
	if (to && model_is_dir(to->node) && model_is_below(from->dir, to->node))
		return exchange ? -EINVAL : -ENOTEMPTY;
	if (to && to->node == n)
		return 0;
	if (to && m->rules.fuse)
		err = check_kind(to, model_is_dir(exchange ? to->node : n));
	if (err == 0)
		err = check_delete(m, from, model_is_dir(n));
	if (err < 0)
		return err;
	if (to)
		err = check_delete(m, to, model_is_dir(exchange ? to->node : n));
	else if (new_dir->flags & MODEL_FL_IMMUTABLE)
		err = -EPERM;
	if (err < 0)
		return err;
	if (other_project(new_dir, n) || (exchange && other_project(from->dir, to->node)))
		return -EXDEV;
	if (to && !exchange && to->node->entries_count > 0)
		return -ENOTEMPTY;
	if (model_is_dir(n) && !to && new_dir != from->dir && dir_is_full(m, new_dir))
		return -EMLINK;
	return 0;
}

static void move_parent(struct model_node *n, struct model_node *from, struct model_node *to)
{
	if (!model_is_dir(n) || from == to)
		return;
	n->parent = to;
	from->nlink--;
	to->nlink++;
}

static void exchange(struct model *m, struct model_entry *a, struct model_entry *b)
{
	struct model_node *first = a->node, *second = b->node;

	entry_leave(a);
	entry_leave(b);
	entry_point_to(a, second);
	entry_point_to(b, first);
	move_parent(first, a->dir, b->dir);
	move_parent(second, b->dir, a->dir);
	model_touch(m, first, T(CTIME));
	model_touch(m, second, T(CTIME));
	model_touch(m, a->dir, T(MTIME) | T(CTIME));
	model_touch(m, b->dir, T(MTIME) | T(CTIME));
}

int model_rename(struct model *m, enum model_step step, struct model_node *dir, const char *name,
		 size_t len, struct model_node *new_dir, const char *new_name, size_t new_len,
		 uint32_t flags, struct model_node **ret_whiteout)
{
	struct model_new whiteout = { .attrs = { .mode = S_IFCHR } };
	struct model_entry *from, *to;
	struct model_node *n;
	int err = check_dir(dir, len);

	if (flags & UEXT4_RENAME_EXCHANGE &&
	    flags & (UEXT4_RENAME_NOREPLACE | UEXT4_RENAME_WHITEOUT))
		return -EINVAL;
	if (err == 0)
		err = check_dir(new_dir, new_len);
	if (err < 0)
		return err;
	from = model_find(dir, name, len);
	if (!from)
		return -ENOENT;
	to = model_find(new_dir, new_name, new_len);
	err = check_rename(m, from, to, new_dir, flags);
	if (err < 0 || step == MODEL_ASK)
		return err;
	n = from->node;
	if (to && to->node == n)
		return 0; /* two names of one inode: nothing happens */
	if (flags & UEXT4_RENAME_EXCHANGE) {
		exchange(m, from, to);
		return 0;
	}
	if (to)
		remove_name(m, to);
	entry_remove(from);
	entry_add(m, new_dir, new_name, new_len, n);
	move_parent(n, dir, new_dir);
	if (flags & UEXT4_RENAME_WHITEOUT)
		(void)model_make(m, MODEL_DO, dir, name, len, &whiteout, ret_whiteout);
	model_touch(m, n, T(CTIME));
	model_touch(m, dir, T(MTIME) | T(CTIME));
	model_touch(m, new_dir, T(MTIME) | T(CTIME));
	return 0;
}
