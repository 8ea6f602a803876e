/* SPDX-License-Identifier: MIT */
/*
 * The workload of the test of power cuts: does what crash_plan.c says, and has it written down.
 */
#include "crash.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INCOMPAT_EXTENTS 0x40u

/* ---- doing ---------------------------------------------------------------------------------- */

/* A step that is being done: the model's objects, and what came out. */
struct doing {
	struct worker *k;
	const struct step *s;
	uint64_t op;
	struct model_node *dir, *node;
	struct uext4_file *file; /* of node, for the moment or for longer */
};

static void failed(const struct doing *d, int err, const char *what)
{
	die("seed %" PRIu64 ", thread %u, operation %" PRIu64 ": %s: %s (%s)", d->k->work->seed,
	    d->k->number, d->op, what, strerrordesc_np(-err), uext4_last_error());
}

/*
 * Judges a call: true: it was done.  There is room enough, so only what the library cannot do yet
 * may fail; or the disk does: then the workload ends, and whether the call was done is as open as
 * in a cut.
 */
static bool done(struct doing *d, int err, const char *what)
{
	if (err == -EOPNOTSUPP && strstr(uext4_last_error(), "not in this version")) {
		d->k->skipped++;
		return false;
	}
	if (err < 0 && d->k->work->errors_expected) {
		atomic_store(&d->k->work->stopped, true);
		return true;
	}
	if (err < 0)
		failed(d, err, what);
	return true;
}

static bool find_node(struct doing *d)
{
	const struct model_entry *e;

	d->dir = model_node(d->k->model, d->s->at.dir);
	if (!d->dir || !d->dir->parent)
		return false;
	e = model_find(d->dir, d->s->at.name, strlen(d->s->at.name));
	d->node = e ? e->node : NULL;
	return true;
}

static void with_file(struct doing *d, bool (*act)(struct doing *d))
{
	struct work *w = d->k->work;
	bool own = d->s->handle < 0;

	if (own) {
		if (!find_node(d) || !d->node || !model_is_reg(d->node))
			return;
		if (!done(d, uext4_file_open(w->fs, d->node->ino, UEXT4_FILE_WRITE, &d->file),
			  "open") ||
		    !d->file)
			return;
	} else {
		d->node = d->k->open[d->s->handle].node;
		d->file = d->k->open[d->s->handle].file;
		if (!d->file)
			return;
	}
	if (act(d))
		note_version(d->k, d->node, d->op);
	if (own)
		uext4_file_close(d->file);
}

static bool write_at(struct doing *d, uint64_t offset, uint64_t len)
{
	struct worker *k = d->k;
	size_t written = 0, can;
	uint64_t at;

	if (offset > FILE_MAX)
		offset = FILE_MAX - 1;
	if (len > FILE_MAX - offset)
		len = FILE_MAX - offset;
	if (len == 0)
		return false;
	fill_text(k->buf, offset, len, mix64(k->work->seed ^ d->op << 8 ^ k->number));
	if (!done(d, uext4_pwrite(d->file, k->buf, len, offset, &written), "write"))
		return false;
	if (written != len && k->work->errors_expected)
		atomic_store(&k->work->stopped, true); /* the error came behind some bytes */
	else if (written != len)
		die("%zu of %" PRIu64 " bytes were written", written, len);
	(void)model_write(k->model, MODEL_DO, d->node, UEXT4_FILE_WRITE, offset, k->buf, len, &at,
			  &can);
	return true;
}

static bool do_write(struct doing *d)
{
	return write_at(d, d->s->a, d->s->b);
}

static bool do_append(struct doing *d)
{
	return write_at(d, d->node->size, d->s->b);
}

static bool do_truncate(struct doing *d)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE,
				   .size = d->s->a > FILE_MAX ? FILE_MAX : d->s->a };

	if (!done(d, uext4_setattr(d->k->work->fs, d->node->ino, &attr), "truncate"))
		return false;
	(void)model_set_attr(d->k->model, MODEL_DO, d->node, &attr);
	return true;
}

static bool do_fallocate(struct doing *d)
{
	uint32_t flags = (uint32_t)d->s->c;
	uint64_t offset = d->s->a, len = d->s->b;

	if (!d->k->work->has_extents && !(flags & UEXT4_FALLOC_PUNCH_HOLE))
		return false;
	if (offset + len > FILE_MAX)
		return false;
	if (!done(d, uext4_fallocate(d->file, flags, offset, len), "fallocate"))
		return false;
	(void)model_fallocate(d->k->model, MODEL_DO, d->node, UEXT4_FILE_WRITE, flags, offset, len);
	return true;
}

static bool do_fsync(struct doing *d)
{
	struct promise p = { .thread = d->k->number, .op = d->op, .node = d->node->id };

	if (!done(d, uext4_fsync(d->file, (uint32_t)d->s->c), "fsync"))
		return false;
	p.k[d->k->number] = history_of(d->k, d->node->id)->last_meta;
	note_promise(d->k, &p);
	return false;
}

static void do_fsync_node(struct doing *d)
{
	struct promise p = { .thread = d->k->number, .op = d->op };
	struct worker *k = d->k;

	if (d->s->a) {
		d->node = model_node(k->model, (uint32_t)d->s->a);
		if (!d->node || !model_is_dir(d->node))
			return;
	} else if (!find_node(d) || !d->node) {
		return;
	}
	if (!done(d, uext4_fsync_inode(k->work->fs, d->node->ino, 0), "fsync of an inode"))
		return;
	p.k[k->number] = history_of(k, d->node->id)->last_meta;
	if (model_is_reg(d->node))
		p.node = d->node->id;
	note_promise(k, &p);
}

/* What had ended before it was called is safe, whoever did it: log_fill_promises(). */
static void do_sync(struct doing *d, bool freeze)
{
	struct promise p = { .thread = d->k->number, .op = d->op, .all = true };
	struct work *w = d->k->work;

	if (freeze) {
		int err = uext4_freeze(w->fs);

		if (err == -EBUSY) /* by another thread */
			return;
		if (!done(d, err, "freeze") || !done(d, uext4_thaw(w->fs), "thaw"))
			return;
	} else if (!done(d, uext4_sync(w->fs), "sync")) {
		return;
	}
	note_promise(d->k, &p);
}

static void do_make(struct doing *d)
{
	struct worker *k = d->k;
	const char *name = d->s->at.name;
	struct model_new new = { .attrs = { .mode = (uint32_t)d->s->a } };
	uint32_t ino;
	int err;

	if (!find_node(d) || d->node)
		return;
	if (S_ISLNK(d->s->a)) {
		fill_text(k->buf, 0, d->s->b, d->op);
		new.target = k->buf;
		new.target_len = d->s->b;
		err = uext4_symlink(k->work->fs, d->dir->ino, name, strlen(name), new.target,
				    new.target_len, &new.attrs, &ino);
	} else {
		err = uext4_create(k->work->fs, d->dir->ino, name, strlen(name), &new.attrs, &ino);
	}
	if (!done(d, err, "create"))
		return;
	err = model_make(k->model, MODEL_DO, d->dir, name, strlen(name), &new, &d->node);
	if (err < 0)
		failed(d, err, "the model's create");
	d->node->ino = ino;
	note_meta(k, d->node, d->op);
	note_meta(k, d->dir, d->op);
	if (model_is_reg(d->node))
		note_version(k, d->node, d->op);
}

static void do_rename(struct doing *d)
{
	const struct step *s = d->s;
	struct worker *k = d->k;
	struct model_node *to, *whiteout;
	const struct model_entry *old;
	uint32_t flags = (uint32_t)s->c;

	if (!find_node(d) || !d->node)
		return;
	to = model_node(k->model, s->to.dir);
	if (!to || !to->parent ||
	    model_rename(k->model, MODEL_ASK, d->dir, s->at.name, strlen(s->at.name), to,
			 s->to.name, strlen(s->to.name), flags, NULL) < 0)
		return;
	if (!done(d,
		  uext4_rename(k->work->fs, d->dir->ino, s->at.name, strlen(s->at.name), to->ino,
			       s->to.name, strlen(s->to.name), flags),
		  "rename"))
		return;
	old = model_find(to, s->to.name, strlen(s->to.name));
	if (old && old->node != d->node)
		note_meta(k, old->node, d->op);
	note_meta(k, d->node, d->op);
	note_meta(k, d->dir, d->op);
	note_meta(k, to, d->op);
	(void)model_rename(k->model, MODEL_DO, d->dir, s->at.name, strlen(s->at.name), to,
			   s->to.name, strlen(s->to.name), flags, &whiteout);
}

static void do_link(struct doing *d)
{
	const struct step *s = d->s;
	struct worker *k = d->k;
	struct model_node *to;

	if (!find_node(d) || !d->node || model_is_dir(d->node))
		return;
	to = model_node(k->model, s->to.dir);
	if (!to || !to->parent || model_find(to, s->to.name, strlen(s->to.name)))
		return;
	if (!done(d, uext4_link(k->work->fs, d->node->ino, to->ino, s->to.name, strlen(s->to.name)),
		  "link"))
		return;
	(void)model_link(k->model, MODEL_DO, d->node, to, s->to.name, strlen(s->to.name));
	note_meta(k, d->node, d->op);
	note_meta(k, to, d->op);
}

static void do_remove(struct doing *d, bool rmdir)
{
	const char *name = d->s->at.name;
	struct worker *k = d->k;
	int err;

	if (!find_node(d) || !d->node)
		return;
	err = rmdir ? model_rmdir(k->model, MODEL_ASK, d->dir, name, strlen(name))
		    : model_unlink(k->model, MODEL_ASK, d->dir, name, strlen(name));
	if (err < 0)
		return;
	err = rmdir ? uext4_rmdir(k->work->fs, d->dir->ino, name, strlen(name))
		    : uext4_unlink(k->work->fs, d->dir->ino, name, strlen(name));
	if (!done(d, err, rmdir ? "rmdir" : "unlink"))
		return;
	note_meta(k, d->node, d->op);
	note_meta(k, d->dir, d->op);
	if (rmdir)
		(void)model_rmdir(k->model, MODEL_DO, d->dir, name, strlen(name));
	else
		(void)model_unlink(k->model, MODEL_DO, d->dir, name, strlen(name));
}

static void do_chmod(struct doing *d)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_MODE, .mode = (uint32_t)d->s->a };

	if (!find_node(d) || !d->node || model_is_lnk(d->node))
		return;
	if (!done(d, uext4_setattr(d->k->work->fs, d->node->ino, &attr), "chmod"))
		return;
	(void)model_set_attr(d->k->model, MODEL_DO, d->node, &attr);
	note_meta(d->k, d->node, d->op);
}

static void do_setxattr(struct doing *d)
{
	static const char *const names[] = { "user.first", "user.second", "trusted.third" };
	const char *name = names[d->s->a];
	struct worker *k = d->k;
	int err;

	if (!find_node(d) || !d->node || !(model_is_reg(d->node) || model_is_dir(d->node)))
		return;
	if (d->s->b == 0 && !model_xattr_find(d->node, name))
		return;
	if (d->s->b && model_xattr_room(k->model, d->node, name, d->s->b) != MODEL_ROOM)
		return;
	fill_text(k->buf, 0, d->s->b, d->op);
	err = d->s->b ? uext4_xattr_set(k->work->fs, d->node->ino, name, k->buf, d->s->b, 0)
		      : uext4_xattr_remove(k->work->fs, d->node->ino, name);
	if (!done(d, err, "setxattr"))
		return;
	(void)model_xattr_set(k->model, MODEL_DO, d->node, name, d->s->b ? k->buf : NULL, d->s->b,
			      0);
	note_meta(k, d->node, d->op);
}

static void do_open(struct doing *d)
{
	struct worker *k = d->k;

	if (!find_node(d) || !d->node || !model_is_reg(d->node) || k->open[d->s->a].file)
		return;
	if (!done(d,
		  uext4_file_open(k->work->fs, d->node->ino, UEXT4_FILE_WRITE,
				  &k->open[d->s->a].file),
		  "open") ||
	    !k->open[d->s->a].file)
		return;
	k->open[d->s->a].node = d->node;
	(void)model_open(k->model, MODEL_DO, d->node, UEXT4_FILE_WRITE);
}

static void do_close(struct worker *k, uint64_t at)
{
	if (!k->open[at].file)
		return;
	uext4_file_close(k->open[at].file);
	k->open[at].file = NULL;
	model_close(k->model, k->open[at].node);
}

static void describe(struct worker *k, const struct step *s, uint64_t op)
{
	static const char *const names[] = {
		"make",		 "write", "append",   "truncate", "fallocate", "fsync",
		"fsync of node", "sync",  "freeze",   "rename",	  "link",      "unlink",
		"rmdir",	 "chmod", "setxattr", "open",	  "close",     "rest",
	};

	snprintf(k->texts[op], sizeof(k->texts[op]),
		 "%s %.30s in %u, %" PRIu64 ", %" PRIu64 ", %" PRIu64 " to %.20s", names[s->kind],
		 s->at.name, s->at.dir, s->a, s->b, s->c, s->to.name);
}

static void do_step(struct worker *k, const struct step *s, uint64_t op)
{
	struct doing d = { .k = k, .s = s, .op = op };

	describe(k, s, op);
	switch (s->kind) {
	case STEP_MAKE: do_make(&d); break;
	case STEP_WRITE: with_file(&d, do_write); break;
	case STEP_APPEND: with_file(&d, do_append); break;
	case STEP_TRUNCATE: with_file(&d, do_truncate); break;
	case STEP_FALLOCATE: with_file(&d, do_fallocate); break;
	case STEP_FSYNC: with_file(&d, do_fsync); break;
	case STEP_FSYNC_NODE: do_fsync_node(&d); break;
	case STEP_SYNC: do_sync(&d, false); break;
	case STEP_FREEZE: do_sync(&d, true); break;
	case STEP_RENAME: do_rename(&d); break;
	case STEP_LINK: do_link(&d); break;
	case STEP_UNLINK: do_remove(&d, false); break;
	case STEP_RMDIR: do_remove(&d, true); break;
	case STEP_CHMOD: do_chmod(&d); break;
	case STEP_SETXATTR: do_setxattr(&d); break;
	case STEP_OPEN: do_open(&d); break;
	case STEP_CLOSE: do_close(k, s->a); break;
	case STEP_REST: usleep(2000); break;
	}
}

/* Most steps change no names: then the snapshot before is the one behind, too. */
static bool changes_names(enum step_kind kind)
{
	switch (kind) {
	case STEP_WRITE:
	case STEP_APPEND:
	case STEP_TRUNCATE:
	case STEP_FALLOCATE:
	case STEP_FSYNC:
	case STEP_FSYNC_NODE:
	case STEP_SYNC:
	case STEP_FREEZE:
	case STEP_OPEN:
	case STEP_CLOSE:
	case STEP_REST: return false;
	default: return true;
	}
}

static void mark(struct work *w, uint64_t number)
{
	if (w->record)
		dev_record_mark(w->record, number);
}

static void *run_worker(void *arg)
{
	struct worker *k = arg;

	for (uint64_t op = 1; op <= k->work->ops && !atomic_load(&k->work->stopped); op++) {
		struct step s;

		while (k->steps_count == 0) {
			k->steps_first = 0;
			plan(k);
		}
		s = k->steps[k->steps_first++];
		k->steps_count--;
		k->begun = op;
		mark(k->work, MARK_MAKE(k->number, op, 0));
		do_step(k, &s, op);
		mark(k->work, MARK_MAKE(k->number, op, 1));
		if (!atomic_load(&k->work->stopped))
			k->ended = op;
		k->snaps[op] = changes_names(s.kind) ? take_snap(k->model) : k->snaps[op - 1];
	}
	return NULL;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void must(int err, const char *what)
{
	if (err < 0)
		die("%s: %s", what, uext4_last_error());
}

void work_load(struct work *w, const char *path)
{
	struct uext4_open_options options = { .size = sizeof(options) };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct uext4_info info;
	struct uext4_fs *fs;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		die("%s: %s", path, strerror(errno));
	w->base_bytes = (uint64_t)st.st_size;
	w->base = must_alloc(w->base_bytes);
	if (pread(fd, w->base, w->base_bytes, 0) != st.st_size)
		die("%s: %s", path, strerror(errno));
	close(fd);
	must(uext4_open(path, &options, &fs), path);
	must(uext4_info(fs, &info), path);
	must(uext4_close(fs), path);
	w->block_size = info.block_size;
	w->has_extents = info.features[UEXT4_INCOMPAT] & INCOMPAT_EXTENTS;
	w->has_journal = info.journal_blocks != 0;
	w->bytes_max = info.blocks_free * info.block_size / 3;
}

void work_pick_options(struct work *w)
{
	struct rng r = { mix64(w->seed) };

	w->options = (struct uext4_open_options){ .size = sizeof(w->options),
						  .flags = UEXT4_OPEN_WRITE };
	if (w->threads == 0)
		w->threads = 1 +
			     (uint32_t)(rnd_one_in(&r, 3) ? rnd_below(&r, CRASH_THREADS_MAX) : 0);
	w->bytes_max /= w->threads;
	w->options.commit_ms = rnd_one_in(&r, 2) ? 1 + (uint32_t)rnd_below(&r, 30) : 5000;
	if (rnd_one_in(&r, 4))
		w->options.flags |= UEXT4_OPEN_NODELALLOC;
	if (rnd_one_in(&r, 2))
		w->options.dirty_bytes = 1 << 16;
	w->options.cache_bytes = UINT64_C(1) << (21 + rnd_below(&r, 4));
}

static bool start_worker(struct work *w, uint32_t i)
{
	struct model_rules rules = { .block_size = w->block_size,
				     .inode_size = 256,
				     .size_max = 1 << 30,
				     .extents = w->has_extents,
				     .dir_nlink = true };
	struct uext4_new new = { .mode = S_IFDIR | 0755 };
	struct worker *k = &w->workers[i];
	char name[16];
	int err;

	k->work = w;
	k->number = i;
	k->rng.state = mix64(w->seed * 131 + i);
	k->buf = must_alloc(FILE_MAX + 4096);
	k->texts = must_alloc((w->ops + 1) * sizeof(*k->texts));
	k->snaps = must_alloc((w->ops + 1) * sizeof(struct snap *));
	k->model = model_create(&rules);
	snprintf(name, sizeof(name), "t%u", i);
	err = uext4_create(w->fs, UEXT4_ROOT_INO, name, strlen(name), &new, &k->dir_ino);
	if (err < 0 && !w->errors_expected)
		die("%s: %s", name, uext4_last_error());
	k->model->root->ino = k->dir_ino;
	k->snaps[0] = take_snap(k->model);
	return err == 0;
}

static void run_workers(struct work *w)
{
	if (w->threads == 1) {
		run_worker(&w->workers[0]);
		return;
	}
	for (uint32_t i = 0; i < w->threads; i++) {
		if (pthread_create(&w->workers[i].thread, NULL, run_worker, &w->workers[i]))
			die("no thread");
	}
	for (uint32_t i = 0; i < w->threads; i++)
		pthread_join(w->workers[i].thread, NULL);
}

void work_run(struct work *w, struct dev *dev, struct dev *record)
{
	int err = uext4_open_dev_for_test(dev, &w->options, &w->fs);
	bool ready = true;

	w->record = record;
	pthread_mutex_init(&w->lock, NULL);
	if (err < 0 && !w->errors_expected)
		die("opening the image: %s", uext4_last_error());
	w->error = err;
	if (err < 0)
		return;
	for (uint32_t i = 0; ready && i < w->threads; i++)
		ready = start_worker(w, i);
	if (ready) {
		err = uext4_sync(w->fs);
		if (err < 0 && !w->errors_expected)
			die("the first sync: %s", uext4_last_error());
		ready = err == 0;
	}
	w->ready = ready;
	if (ready) {
		mark(w, MARK_MAKE(CRASH_THREADS_MAX, 0, 1));
		run_workers(w);
	}
	for (uint32_t i = 0; i < w->threads; i++) {
		for (uint64_t at = 0; at < 4; at++)
			do_close(&w->workers[i], at);
	}
	w->error = uext4_close(w->fs);
	w->fs = NULL;
	if (w->error < 0 && !w->errors_expected)
		die("closing the image: %s", uext4_last_error());
	if (!ready || atomic_load(&w->stopped))
		w->error = w->error ? w->error : -EIO;
}

static void free_snap(struct snap *s)
{
	for (size_t i = 0; i < s->count; i++)
		free(s->entries[i].path);
	free(s->entries);
	free(s);
}

void work_free(struct work *w)
{
	for (uint32_t i = 0; i < w->threads; i++) {
		struct worker *k = &w->workers[i];

		if (!k->work)
			continue;
		for (uint64_t op = 0; op <= w->ops; op++) {
			if (k->snaps[op] && (op == w->ops || k->snaps[op + 1] != k->snaps[op]))
				free_snap(k->snaps[op]);
		}
		for (size_t h = 0; h < k->histories_room; h++) {
			for (size_t v = 0; v < k->histories[h].count; v++)
				free(k->histories[h].versions[v].data);
			free(k->histories[h].versions);
		}
		free(k->histories);
		free(k->snaps);
		free(k->texts);
		free(k->steps);
		free(k->buf);
		model_destroy(k->model);
	}
	free(w->promises);
	w->promises = NULL;
	w->promises_count = w->promises_room = 0;
	memset(w->workers, 0, sizeof(w->workers));
}
