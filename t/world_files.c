/* SPDX-License-Identifier: MIT */
/* Operations of the random test: handles and contents. */
#include "world_ops.h"

#define ROOM_STORED (4u << 20) /* for what others write meanwhile */

/* ---- handles -------------------------------------------------------------------------------- */

static struct handle *free_handle(struct actor *a)
{
	return handle_of(a, NULL);
}

void close_handle(struct actor *a, struct handle *h)
{
	struct model_node *n = h->node;

	a->w->b->ops->file_close(a->w->b, h->file);
	h->node = NULL;
	model_close(follow_call(a), n);
	unlock_model(a);
}

void op_tmpfile(struct actor *a)
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
	say_op(a, "tmpfile, mode %o, in %u (inode %u)", new.attrs.mode, dir->id, dir->ino);
	want = model_tmpfile(lock_model(a), MODEL_ASK, dir, &new, NULL);
	unlock_model(a);
	got = begin_call(a)->ops->tmpfile(a->w->b, &d, &new, UEXT4_FILE_WRITE, &file, &ino);
	if (!judge_alloc(a, want, got))
		return;
	(void)model_tmpfile(follow_call(a), MODEL_DO, dir, &new, &n);
	note_made(a, n, ino);
	*h = (struct handle){ .node = n, .file = file, .flags = UEXT4_FILE_WRITE };
	unlock_model(a);
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

	say_op(a, "open %u (inode %u), flags %u", n->id, n->ino, flags);
	want = model_open(lock_model(a), MODEL_ASK, n, flags);
	unlock_model(a);
	got = begin_call(a)->ops->file_open(a->w->b, &t, flags, &file);
	if (!judge(a, want, got))
		return false;
	(void)model_open(follow_call(a), MODEL_DO, n, flags);
	unlock_model(a);
	*h = (struct handle){ .node = n, .file = file, .flags = flags };
	return true;
}

void op_open(struct actor *a)
{
	struct model_node *n = pick_node(a, rnd_one_in(&a->rng, 8) ? has_name : model_is_reg);
	struct handle *h = free_handle(a);

	if (n && h && !a->in_txn)
		(void)open_handle(a, n, pick_file_flags(a), h);
}

void op_close(struct actor *a)
{
	struct handle *h = &a->handles[rnd_below(&a->rng, HANDLES)];

	if (!h->node || a->in_txn)
		return;
	say_op(a, "close %u (inode %u)", h->node->id, h->node->ino);
	begin_call(a);
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
	n = pick_node(a, model_is_reg);
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
		model_close(follow_call(a), h->node);
		unlock_model(a);
	}
}

static void check_some_contents(struct actor *a, struct handle *h)
{
	compare_stat(a, h->node);
	if (rnd_one_in(&a->rng, 6))
		compare_contents(a, h->node, h->file);
}

/* The way, and what of the range can go it; in *h only the flags change. */
static enum backend_way pick_way(struct actor *a, struct handle *h, bool is_write, uint64_t *offset,
				 size_t *len)
{
	uint64_t size = h->node->size;
	enum backend_way way;

	if (!a->w->b->ops->fuse || *len == 0 || (is_write && !(h->flags & UEXT4_FILE_WRITE)))
		return WAY_PLAIN;
	way = (enum backend_way)rnd_below(&a->rng, 8);
	switch (way) {
	case WAY_VECTOR: return way;
	case WAY_DIRECT:
		/* Without room for all of it nobody can tell how much of it was done. */
		if (is_write && space_is_short(a, *len + ROOM_STORED))
			return WAY_PLAIN;
		*offset -= *offset % MODEL_PAGE;
		*len = (*len + MODEL_PAGE - 1) / MODEL_PAGE * MODEL_PAGE;
		h->flags &= ~(uint32_t)UEXT4_FILE_APPEND;
		return way;
	case WAY_APPEND: h->flags |= UEXT4_FILE_APPEND; return is_write ? way : WAY_PLAIN;
	case WAY_MAPPED:
		/* What is stored may be refused, or find no room, too late for who stored it. */
		if (*offset >= size ||
		    (is_write && (h->node->flags & (MODEL_FL_IMMUTABLE | MODEL_FL_APPEND) ||
				  space_is_short(a, *len + ROOM_STORED))))
			return WAY_PLAIN;
		if (*len > size - *offset)
			*len = (size_t)(size - *offset);
		return way;
	default: return WAY_PLAIN;
	}
}

/* A user may not take the capability of an append-only file, and so the kernel cannot write it. */
static bool keeps_capability(const struct actor *a, const struct model_node *n)
{
	return a->w->b->ops->fuse && n->flags & MODEL_FL_APPEND &&
	       model_xattr_find(n, "security.capability");
}

/* From file to file inside the kernel. */
static void do_copy(struct actor *a, struct handle *to, struct handle *from, uint64_t to_offset,
		    size_t len)
{
	uint64_t from_offset = pick_offset(a, from->node), at = to_offset;
	bool by_range = rnd_one_in(&a->rng, 2);
	size_t can = 0, copied = 0;
	int want, got;

	if (from->node == to->node || to->flags & UEXT4_FILE_APPEND)
		return;
	len = model_read(from->node, from_offset, a->buf, len);
	say_op(a,
	       "copy %zu bytes at %" PRIu64 " of %u (inode %u) to %" PRIu64
	       " of %u (inode %u, %" PRIu64 " bytes)",
	       len, from_offset, from->node->id, from->node->ino, to_offset, to->node->id,
	       to->node->ino, to->node->size);
	want = model_write(lock_model(a), MODEL_ASK, to->node, to->flags, to_offset, NULL, len, &at,
			   &can);
	unlock_model(a);
	got = backend_fuse_copy(begin_call(a), from->file, from_offset, to->file, to_offset, len,
				by_range, &copied);
	if (!judge_space(a, want, got, len, false)) {
		learn_capability(a, to->node);
		return;
	}
	if (copied > can || (copied < can && !space_is_short(a, len)))
		bad(a, "%zu bytes were copied, should be %zu", copied, can);
	(void)model_write(follow_call(a), MODEL_DO, to->node, to->flags, to_offset, a->buf, copied,
			  &at, &can);
	unlock_model(a);
	check_some_contents(a, to);
}

static void do_write(struct actor *a, const struct handle *with, uint64_t offset, size_t len)
{
	uint64_t at, text = rnd(&a->rng);
	size_t can = 0, written = 0;
	struct handle copy = *with, *h = &copy;
	enum backend_way way = pick_way(a, h, true, &offset, &len);
	int want, got;

	/* With small blocks not even what was just written is there. */
	if (is_fragile(a) && a->w->rules.block_size < 4096)
		return;
	if (keeps_capability(a, h->node))
		return;
	say_op(a,
	       "write %zu bytes at %" PRIu64 " of %u (inode %u, %" PRIu64
	       " bytes), flags %u, way %u",
	       len, offset, h->node->id, h->node->ino, h->node->size, h->flags, (unsigned)way);
	want = model_write(lock_model(a), MODEL_ASK, h->node, h->flags, offset, NULL, len, &at,
			   &can);
	unlock_model(a);
	fill_text(a->buf, want < 0 ? offset : at, len, text);
	if (rnd_one_in(&a->rng, 16))
		memset(a->buf, 0, len);
	begin_call(a);
	if (way == WAY_PLAIN)
		got = a->w->b->ops->write(a->w->b, h->file, a->buf, len, offset, &written);
	else
		got = backend_fuse_write(a->w->b, h->file, way, a->buf, len, offset, &written);
	if (!judge_space(a, want, got, len, false)) {
		learn_capability(a, h->node);
		return;
	}
	if (written < can && a->in_txn)
		a->txn_too_big = true; /* nothing more fits into the scope */
	else if (written > can || (written < can && !space_is_short(a, len)))
		bad(a, "%zu bytes were written, should be %zu", written, can);
	if (way == WAY_MAPPED)
		model_store(follow_call(a), h->node, offset, a->buf, written);
	else
		(void)model_write(follow_call(a), MODEL_DO, h->node, h->flags, offset, a->buf,
				  written, &at, &can);
	unlock_model(a);
	check_some_contents(a, h);
}

void op_write(struct actor *a)
{
	struct handle h;
	bool own;

	if (!borrow(a, UEXT4_FILE_WRITE, rnd_one_in(&a->rng, 20), &h, &own))
		return;
	if (a->w->b->ops->fuse && rnd_one_in(&a->rng, 6)) {
		struct handle from;
		bool own_from;

		if (h.flags & UEXT4_FILE_WRITE && borrow(a, 0, true, &from, &own_from)) {
			do_copy(a, &h, &from, pick_offset(a, h.node), pick_len(a));
			give_back(a, &from, own_from);
		}
	} else {
		do_write(a, &h, pick_offset(a, h.node), pick_len(a));
	}
	give_back(a, &h, own);
}

/* Small pieces at the end, as logs grow. */
void op_append(struct actor *a)
{
	struct handle h;
	bool own;

	if (!borrow(a, UEXT4_FILE_WRITE, false, &h, &own))
		return;
	for (uint64_t i = rnd_below(&a->rng, 6); i < 6; i++)
		do_write(a, &h, h.node->size, 1 + rnd_below(&a->rng, 60));
	give_back(a, &h, own);
}

void op_read(struct actor *a)
{
	enum backend_way way;
	uint64_t offset;
	size_t len, got = 0, want;
	struct handle h, as;
	bool own;
	int err;

	if (!borrow(a, 0, true, &h, &own))
		return;
	offset = pick_offset(a, h.node);
	len = pick_len(a);
	as = h;
	way = pick_way(a, &as, false, &offset, &len);
	say_op(a, "read %zu bytes at %" PRIu64 " of %u (inode %u), way %u", len, offset, h.node->id,
	       h.node->ino, (unsigned)way);
	begin_call(a);
	if (way == WAY_PLAIN)
		err = a->w->b->ops->read(a->w->b, h.file, a->buf, len, offset, &got);
	else
		err = backend_fuse_read(a->w->b, h.file, way, a->buf, len, offset, &got);
	if (judge(a, 0, err)) {
		want = model_read(h.node, offset, a->buf2, len);
		if (got != want)
			bad(a, "%zu bytes were read, should be %zu", got, want);
		if (memcmp(a->buf, a->buf2, got) != 0)
			compare_contents(a, h.node, h.file);
	}
	give_back(a, &h, own);
}

void op_seek(struct actor *a)
{
	struct handle h;
	bool own;

	if (!borrow(a, 0, true, &h, &own))
		return;
	say_op(a, "seek and read all of %u (inode %u)", h.node->id, h.node->ino);
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
	follow_call(a);
	h->node->size = st.size;
	h->node->times[MODEL_MTIME] = (struct model_time){ .t = st.mtime };
	h->node->times[MODEL_CTIME] = (struct model_time){ .t = st.ctime };
	unlock_model(a);
}

/* And a part of the range have become zero. */
static void learn_zeros(struct actor *a, struct handle *h, uint64_t offset, uint64_t len)
{
	struct backend *b = a->w->b;
	size_t got = 0, had = model_read(h->node, offset, a->buf2, (size_t)len);
	int err = had ? b->ops->read(b, h->file, a->buf, had, offset, &got) : 0;

	if (err < 0 || got != had)
		bad(a, "reading what may be zero: %s, %zu bytes, should be %zu", words(err), got,
		    had);
	for (size_t i = 0; i < got; i++) {
		if (a->buf[i] && a->buf[i] != a->buf2[i])
			bad(a, "without space byte %" PRIu64 " became %#x", offset + i, a->buf[i]);
	}
	model_store(follow_call(a), h->node, offset, a->buf, got);
	unlock_model(a);
}

/* A server of one thread cannot make the kernel forget what became zero in part. */
static bool keeps_what_went(struct actor *a, uint32_t flags, uint64_t len)
{
	return a->w->b->ops->fuse && strstr(a->w->b->mount_options, "max_threads=1") &&
	       flags & (UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_ZERO_RANGE) &&
	       space_is_short(a, len + ROOM_STORED);
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
	if (backend_is_stock(a->w->b) && !a->w->rules.extents && !(flags & UEXT4_FALLOC_PUNCH_HOLE))
		return;
	if (!borrow(a, UEXT4_FILE_WRITE, false, &h, &own))
		return;
	offset = pick_offset(a, h.node);
	len = rnd_one_in(&a->rng, 20) ? 0 : pick_len(a);
	say_op(a,
	       "fallocate %" PRIu64 " bytes at %" PRIu64 " of %u (inode %u, %" PRIu64
	       " bytes), flags %u",
	       len, offset, h.node->id, h.node->ino, h.node->size, flags);
	want = model_fallocate(lock_model(a), MODEL_ASK, h.node, h.flags, flags, offset, len);
	unlock_model(a);
	if (keeps_what_went(a, flags, len) || keeps_capability(a, h.node)) {
		give_back(a, &h, own);
		return;
	}
	got = begin_call(a)->ops->fallocate(a->w->b, h.file, flags, offset, len);
	if (judge_space(a, want, got, len + 1, false)) {
		(void)model_fallocate(follow_call(a), MODEL_DO, h.node, h.flags, flags, offset,
				      len);
		unlock_model(a);
		check_some_contents(a, &h);
	} else {
		learn_capability(a, h.node);
		if (got == -ENOSPC && want == 0) {
			if (flags & (UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_ZERO_RANGE))
				learn_zeros(a, &h, offset, len);
			learn_size(a, &h, offset + len);
		}
	}
	give_back(a, &h, own);
}

void op_fallocate(struct actor *a)
{
	do_fallocate(a, rnd_one_in(&a->rng, 2) ? UEXT4_FALLOC_KEEP_SIZE : 0);
}

void op_punch(struct actor *a)
{
	do_fallocate(a, UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_KEEP_SIZE);
}

void op_zero(struct actor *a)
{
	do_fallocate(a, UEXT4_FALLOC_ZERO_RANGE |
				(rnd_one_in(&a->rng, 2) ? UEXT4_FALLOC_KEEP_SIZE : 0));
}

void op_fsync(struct actor *a)
{
	uint32_t flags = rnd_one_in(&a->rng, 2) ? UEXT4_FSYNC_DATA : 0;
	struct handle h;
	bool own;

	if (a->in_txn || !borrow(a, 0, true, &h, &own))
		return;
	say_op(a, "fsync of %u (inode %u), flags %u", h.node->id, h.node->ino, flags);
	(void)judge(a, 0, begin_call(a)->ops->fsync(a->w->b, h.file, flags));
	compare_stat(a, h.node);
	give_back(a, &h, own);
}

void op_fsyncdir(struct actor *a)
{
	struct model_node *n = pick_node(a, rnd_one_in(&a->rng, 2) ? is_live_dir : is_reg_or_dir);
	struct target t;

	if (a->in_txn || !n)
		return;
	t = target_of(a, n);
	say_op(a, "fsync of inode %u", n->ino);
	(void)judge(a, 0, begin_call(a)->ops->fsync_node(a->w->b, &t, 0));
}

void op_sync(struct actor *a)
{
	if (a->in_txn)
		return;
	say_op(a, "sync");
	(void)judge(a, 0, begin_call(a)->ops->sync(a->w->b));
}
