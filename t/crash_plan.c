/* SPDX-License-Identifier: MIT */
/*
 * What the workload of the test of power cuts does: what programs do that care about their data
 * (replace by rename, append to logs, sync), and what is hard for a journal (blocks that change
 * their use, orphans, directories and files that grow out of their inode).
 */
#include "crash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define BURST_MAX 90u
#define NODES_MAX 260u

/* ---- steps to come -------------------------------------------------------------------------- */

static struct step *add(struct worker *k, enum step_kind kind)
{
	struct step *s;

	if (k->steps_first + k->steps_count == k->steps_room) {
		k->steps_room = k->steps_room ? 2 * k->steps_room : 256;
		k->steps = realloc(k->steps, k->steps_room * sizeof(*k->steps));
		if (!k->steps)
			die("out of memory");
	}
	s = &k->steps[k->steps_first + k->steps_count++];
	*s = (struct step){ .kind = kind, .handle = -1 };
	return s;
}

static struct step *add_at(struct worker *k, enum step_kind kind, const struct place *at)
{
	struct step *s = add(k, kind);

	s->at = *at;
	return s;
}

static struct place new_place(struct worker *k, uint32_t dir, const char *what)
{
	struct place p = { .dir = dir };

	snprintf(p.name, sizeof(p.name), "%s-%u%.*s", what, k->names++, (int)rnd_below(&k->rng, 40),
		 "-and-a-name-long-enough-to-fill-directories");
	return p;
}

/* A node that fits, by a name of it; false: there is none. */
static bool some(struct worker *k, uint32_t type, struct place *ret)
{
	const struct model_node *found = NULL;
	uint64_t count = 0;

	for (const struct model_node *n = k->model->nodes; n; n = n->next) {
		if ((n->mode & S_IFMT) == type && n->links && n != k->model->root &&
		    rnd_one_in(&k->rng, ++count))
			found = n;
	}
	if (!found)
		return false;
	*ret = (struct place){ .dir = found->links->dir->id };
	memcpy(ret->name, found->links->name, found->links->name_len);
	return true;
}

static uint32_t some_dir(struct worker *k)
{
	const struct model_node *found = k->model->root;
	uint64_t count = 1;

	for (const struct model_node *n = k->model->nodes; n; n = n->next) {
		if (model_is_dir(n) && n->parent && rnd_one_in(&k->rng, ++count))
			found = n;
	}
	return found->id;
}

static struct step *add_make(struct worker *k, const struct place *at, uint32_t mode)
{
	struct step *s = add_at(k, STEP_MAKE, at);

	s->a = mode;
	return s;
}

static void add_write(struct worker *k, const struct place *at, uint64_t offset, uint64_t len)
{
	struct step *s = add_at(k, STEP_WRITE, at);

	s->a = offset;
	s->b = len;
}

static void add_fsync(struct worker *k, const struct place *at)
{
	add_at(k, STEP_FSYNC, at)->c = rnd_one_in(&k->rng, 3) ? UEXT4_FSYNC_DATA : 0;
}

static uint64_t some_len(struct worker *k)
{
	return 1 + rnd_below(&k->rng, 1ull << (4 + rnd_below(&k->rng, 13)));
}

/* ---- what programs do ----------------------------------------------------------------------- */

static void plan_new_file(struct worker *k)
{
	struct place p = new_place(k, some_dir(k), "file");

	add_make(k, &p, S_IFREG | 0644);
	add_write(k, &p, rnd_one_in(&k->rng, 8) ? some_len(k) : 0, some_len(k));
	if (rnd_one_in(&k->rng, 2))
		add_fsync(k, &p);
}

/* A log: small pieces, each safe before the next. */
static void plan_append(struct worker *k)
{
	uint64_t max = 1ull << rnd_below(&k->rng, 13);
	struct place p;

	if (!some(k, S_IFREG, &p))
		return;
	for (uint64_t i = 1 + rnd_below(&k->rng, 8); i > 0; i--) {
		add_at(k, STEP_APPEND, &p)->b = 1 + rnd_below(&k->rng, max);
		if (!rnd_one_in(&k->rng, 3))
			add_fsync(k, &p);
	}
}

/* Out of the inode in small steps. */
static void plan_inline_growth(struct worker *k)
{
	struct place p = new_place(k, some_dir(k), "tiny");

	add_make(k, &p, S_IFREG | 0600);
	for (unsigned i = 0; i < 10; i++) {
		add_at(k, STEP_APPEND, &p)->b = 1 + rnd_below(&k->rng, 60);
		if (rnd_one_in(&k->rng, 4))
			add_fsync(k, &p);
		if (rnd_one_in(&k->rng, 12))
			add_at(k, STEP_TRUNCATE, &p)->a = rnd_below(&k->rng, 150);
	}
}

/* What editors and databases do: a new file, safe, takes the place of the old one. */
static void plan_replace(struct worker *k)
{
	struct place old, fresh;
	struct step *s;

	if (!some(k, S_IFREG, &old))
		return;
	fresh = new_place(k, old.dir, "tmp");
	add_make(k, &fresh, S_IFREG | 0644);
	add_write(k, &fresh, 0, some_len(k));
	if (!rnd_one_in(&k->rng, 4))
		add_fsync(k, &fresh);
	s = add_at(k, STEP_RENAME, &fresh);
	s->to = old;
	s->c = rnd_one_in(&k->rng, 6) ? UEXT4_RENAME_EXCHANGE : 0;
	if (rnd_one_in(&k->rng, 2))
		add_at(k, STEP_FSYNC_NODE, &old)->a = old.dir;
}

static void plan_overwrite(struct worker *k)
{
	struct place p;

	if (!some(k, S_IFREG, &p))
		return;
	for (uint64_t i = 1 + rnd_below(&k->rng, 5); i > 0; i--)
		add_write(k, &p, rnd_below(&k->rng, 1ull << (8 + rnd_below(&k->rng, 10))),
			  some_len(k));
	if (!rnd_one_in(&k->rng, 3))
		add_fsync(k, &p);
}

static void plan_truncate(struct worker *k)
{
	struct place p;

	if (!some(k, S_IFREG, &p))
		return;
	for (uint64_t i = 1 + rnd_below(&k->rng, 3); i > 0; i--) {
		add_at(k, STEP_TRUNCATE, &p)->a =
			rnd_one_in(&k->rng, 3) ? 0
					       : rnd_below(&k->rng, 1ull << rnd_below(&k->rng, 18));
		if (rnd_one_in(&k->rng, 2))
			add_at(k, STEP_APPEND, &p)->b = some_len(k);
	}
	if (rnd_one_in(&k->rng, 2))
		add_fsync(k, &p);
}

/* Open, and then without a name: it goes at the next mount, with all its blocks. */
static void plan_orphan(struct worker *k)
{
	uint64_t at = rnd_below(&k->rng, 4);
	struct place p = new_place(k, some_dir(k), "orphan");

	if (k->open[at].file) {
		if (rnd_one_in(&k->rng, 2)) {
			struct step *s = add(k, STEP_TRUNCATE);

			s->handle = (int)at;
			s->a = rnd_below(&k->rng, 100000);
		}
		add(k, STEP_CLOSE)->a = at;
		return;
	}
	add_make(k, &p, S_IFREG | 0644);
	add_write(k, &p, 0, some_len(k) + rnd_below(&k->rng, 100000));
	if (rnd_one_in(&k->rng, 2))
		add_fsync(k, &p);
	add_at(k, STEP_OPEN, &p)->a = at;
	add_at(k, STEP_UNLINK, &p);
	if (rnd_one_in(&k->rng, 2)) {
		struct step *s = add(k, STEP_APPEND);

		s->handle = (int)at;
		s->b = some_len(k);
	}
}

/* A directory that grows through all its kinds, and its blocks then serve as something else. */
static void plan_directory(struct worker *k)
{
	struct place dir = new_place(k, k->model->root->id, "dir"), p;
	uint32_t id;

	if (some(k, S_IFDIR, &dir) && rnd_one_in(&k->rng, 2)) {
		const struct model_node *n = NULL;
		const struct model_entry *e = NULL;

		for (n = k->model->nodes;
		     n && !(n->links && n->links->dir->id == dir.dir &&
			    strlen(dir.name) == n->links->name_len &&
			    memcmp(dir.name, n->links->name, n->links->name_len) == 0);)
			n = n->next;
		while (n && (e = model_next_entry(n, e))) {
			p = (struct place){ .dir = n->id };
			memcpy(p.name, e->name, e->name_len);
			add_at(k, model_is_dir(e->node) ? STEP_RMDIR : STEP_UNLINK, &p);
		}
		add_at(k, STEP_RMDIR, &dir);
		return;
	}
	dir = new_place(k, k->model->root->id, "dir");
	add_make(k, &dir, S_IFDIR | 0755);
	/* The number its node will have: nothing else of this thread is made before. */
	id = k->model->last_id + 1;
	for (uint64_t i = rnd_below(&k->rng, BURST_MAX); i > 0; i--) {
		p = new_place(k, id, "entry");
		add_make(k, &p, (rnd_one_in(&k->rng, 8) ? S_IFIFO : S_IFREG) | 0644);
		if (rnd_one_in(&k->rng, 10))
			add_write(k, &p, 0, some_len(k));
		if (rnd_one_in(&k->rng, 30))
			add_at(k, STEP_FSYNC_NODE, &p)->a = id;
	}
	add_at(k, STEP_FSYNC_NODE, &dir)->a = id;
}

static void plan_fallocate(struct worker *k)
{
	static const uint32_t ways[] = { 0, UEXT4_FALLOC_KEEP_SIZE,
					 UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_KEEP_SIZE,
					 UEXT4_FALLOC_ZERO_RANGE };
	struct place p;

	if (!some(k, S_IFREG, &p))
		return;
	for (uint64_t i = 1 + rnd_below(&k->rng, 4); i > 0; i--) {
		struct step *s = add_at(k, STEP_FALLOCATE, &p);

		s->a = rnd_below(&k->rng, 1ull << (10 + rnd_below(&k->rng, 7)));
		s->b = some_len(k);
		s->c = ways[rnd_below(&k->rng, 4)];
		if (rnd_one_in(&k->rng, 2))
			add_write(k, &p, s->a + rnd_below(&k->rng, 5000), some_len(k));
	}
	add_fsync(k, &p);
}

static void plan_names(struct worker *k)
{
	struct place p, to;

	if (!some(k, rnd_one_in(&k->rng, 4) ? S_IFDIR : S_IFREG, &p))
		return;
	to = new_place(k, some_dir(k), "moved");
	switch (rnd_below(&k->rng, 4)) {
	case 0: add_at(k, STEP_LINK, &p)->to = to; break;
	case 1: add_at(k, STEP_UNLINK, &p); break;
	case 2: add_make(k, &to, S_IFLNK | 0777)->b = 1 + rnd_below(&k->rng, 200); break;
	default: add_at(k, STEP_RENAME, &p)->to = to;
	}
	if (rnd_one_in(&k->rng, 3))
		add_at(k, STEP_FSYNC_NODE, &to)->a = to.dir;
}

static void plan_attributes(struct worker *k)
{
	struct place p;
	struct step *s;

	if (!some(k, rnd_one_in(&k->rng, 4) ? S_IFDIR : S_IFREG, &p))
		return;
	if (rnd_one_in(&k->rng, 2)) {
		add_at(k, STEP_CHMOD, &p)->a = rnd_below(&k->rng, 0777) | 0400;
	} else {
		s = add_at(k, STEP_SETXATTR, &p);
		s->a = rnd_below(&k->rng, 3);
		s->b = rnd_one_in(&k->rng, 3) ? 0 : rnd_below(&k->rng, 400);
	}
	if (rnd_one_in(&k->rng, 2))
		add_at(k, STEP_FSYNC_NODE, &p)->a = 0;
}

static void plan_remove(struct worker *k)
{
	struct place p;

	for (unsigned i = 0; i < 10 && some(k, S_IFREG, &p); i++)
		add_at(k, STEP_UNLINK, &p);
	if (some(k, S_IFDIR, &p))
		add_at(k, STEP_RMDIR, &p);
}

void plan(struct worker *k)
{
	static void (*const plans[])(struct worker * k) = {
		plan_new_file,	plan_append,   plan_inline_growth, plan_replace,   plan_replace,
		plan_overwrite, plan_truncate, plan_orphan,	   plan_directory, plan_fallocate,
		plan_names,	plan_names,    plan_attributes,
	};
	uint64_t bytes = 0;

	for (const struct model_node *n = k->model->nodes; n; n = n->next)
		bytes += n->pages_count * MODEL_PAGE + k->work->block_size;
	if (bytes > k->work->bytes_max || k->model->nodes_count > NODES_MAX)
		plan_remove(k);
	else
		plans[rnd_below(&k->rng, sizeof(plans) / sizeof(plans[0]))](k);
	if (rnd_one_in(&k->rng, 12))
		add(k, STEP_SYNC);
	if (rnd_one_in(&k->rng, 60))
		add(k, STEP_FREEZE);
	if (rnd_one_in(&k->rng, 10))
		add(k, STEP_REST);
}
