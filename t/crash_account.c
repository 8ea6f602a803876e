/* SPDX-License-Identifier: MIT */
/*
 * The account that the workload of the test of power cuts keeps: every version of every file,
 * names behind every operation, and every promise.
 */
#include "crash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- versions, promises --------------------------------------------------------------------- */

struct history *history_of(struct worker *k, uint32_t id)
{
	if (id >= k->histories_room) {
		size_t room = 2 * (size_t)id + 64;

		k->histories = realloc(k->histories, room * sizeof(*k->histories));
		if (!k->histories)
			die("out of memory");
		memset(k->histories + k->histories_room, 0,
		       (room - k->histories_room) * sizeof(*k->histories));
		k->histories_room = room;
	}
	k->histories[id].id = id;
	return &k->histories[id];
}

void note_meta(struct worker *k, const struct model_node *n, uint64_t op)
{
	history_of(k, n->id)->last_meta = op;
}

void note_version(struct worker *k, const struct model_node *n, uint64_t op)
{
	struct history *h = history_of(k, n->id);
	struct version v = { .op = op, .size = n->size, .data = must_alloc(n->size) };

	(void)model_read(n, 0, v.data, n->size);
	if (h->count == h->room) {
		h->room = h->room ? 2 * h->room : 8;
		h->versions = realloc(h->versions, h->room * sizeof(*h->versions));
		if (!h->versions)
			die("out of memory");
	}
	h->versions[h->count++] = v;
}

void note_promise(struct worker *k, const struct promise *p)
{
	struct work *w = k->work;

	if (atomic_load(&w->stopped))
		return;
	pthread_mutex_lock(&w->lock);
	if (w->promises_count == w->promises_room) {
		w->promises_room = w->promises_room ? 2 * w->promises_room : 64;
		w->promises = realloc(w->promises, w->promises_room * sizeof(*w->promises));
		if (!w->promises)
			die("out of memory");
	}
	w->promises[w->promises_count++] = *p;
	pthread_mutex_unlock(&w->lock);
}

uint64_t xattr_digest(const char *name, const void *value, size_t size)
{
	const uint8_t *p = value;
	uint64_t h = size;

	for (; *name; name++)
		h = mix64(h ^ (uint8_t)*name);
	for (size_t i = 0; i < size; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return mix64(h);
}

uint64_t look_digest(const char *path, const struct look *l, char *ret_text, size_t text_size)
{
	uint64_t h = mix64(l->mode ^ (uint64_t)l->ino << 32);

	h = mix64(h ^ l->nlink);
	h = mix64(h ^ l->uid);
	h = mix64(h ^ l->gid);
	h = mix64(h ^ l->xattrs);
	for (size_t i = 0; i < l->target_len; i++)
		h = (h ^ l->target[i]) * UINT64_C(0x100000001b3);
	for (; *path; path++)
		h = mix64(h ^ (uint8_t)*path);
	if (ret_text)
		snprintf(ret_text, text_size,
			 "inode %u, mode %o, %u links, owner %u:%u, attributes %08x", l->ino,
			 l->mode, l->nlink, l->uid, l->gid, (unsigned)l->xattrs);
	return mix64(h);
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct snap_entry *)a)->path, ((const struct snap_entry *)b)->path);
}

static struct snap_entry snap_entry_of(const struct model_node *n, char *path)
{
	struct snap_entry e = { .path = path, .id = n->id };
	uint8_t target[4096];
	struct look look = {
		.ino = n->ino, .mode = n->mode, .nlink = n->nlink, .uid = n->uid, .gid = n->gid
	};

	for (const struct model_xattr *x = n->xattrs; x; x = x->next)
		look.xattrs += xattr_digest(x->name, x->value, x->size);
	if (model_is_lnk(n)) {
		look.target = target;
		look.target_len = model_read(n, 0, target, sizeof(target));
	}
	e.digest = look_digest(path, &look, e.text, sizeof(e.text));
	return e;
}

static char *join(const char *dir, const char *name)
{
	size_t len = strlen(dir) + strlen(name) + 2;
	char *path = must_alloc(len);

	snprintf(path, len, "%s%s%s", dir, *dir ? "/" : "", name);
	return path;
}

struct snap *take_snap(const struct model *m)
{
	struct snap *s = must_alloc(sizeof(*s));
	size_t room = m->nodes_count * 2 + 64;
	const struct model_node **nodes = must_alloc(room * sizeof(struct model_node *));

	s->entries = must_alloc(room * sizeof(*s->entries));
	nodes[0] = m->root;
	s->entries[s->count++] = snap_entry_of(m->root, join("", ""));
	for (size_t i = 0; i < s->count; i++) {
		const struct model_entry *e = NULL;

		if (!model_is_dir(nodes[i]))
			continue;
		while ((e = model_next_entry(nodes[i], e))) {
			char name[256] = { 0 };

			if (s->count == room)
				die("more names than nodes allow");
			memcpy(name, e->name, e->name_len);
			nodes[s->count] = e->node;
			s->entries[s->count++] = snap_entry_of(e->node,
							       join(s->entries[i].path, name));
		}
	}
	free(nodes);
	for (size_t i = 0; i < s->count; i++)
		s->digest += s->entries[i].digest;
	qsort(s->entries, s->count, sizeof(*s->entries), by_path);
	return s;
}
