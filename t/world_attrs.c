/* SPDX-License-Identifier: MIT */
/* Operations of the random test: attributes, extended ones, ACLs. */
#include "world_ops.h"

/* ---- attributes ----------------------------------------------------------------------------- */

void set_attr(struct actor *a, struct model_node *n, const struct uext4_attr *attr)
{
	struct target t = target_of(a, n);
	int want, got;

	if (attr->valid & UEXT4_ATTR_SIZE && is_fragile(a))
		return;
	want = model_set_attr(lock_model(a), MODEL_ASK, n, attr);
	unlock_model(a);
	got = begin_call(a)->ops->set_attr(a->w->b, &t, attr);
	if (!judge_alloc(a, want, got)) {
		learn_capability(a, n);
		return;
	}
	(void)model_set_attr(follow_call(a), MODEL_DO, n, attr);
	unlock_model(a);
	compare_stat(a, n);
	if (model_is_reg(n) && attr->valid & UEXT4_ATTR_SIZE && rnd_one_in(&a->rng, 4) &&
	    has_name(n))
		compare_node(a, n);
	else if (rnd_one_in(&a->rng, 4))
		compare_xattrs(a, n);
}

void op_truncate(struct actor *a)
{
	struct model_node *n = pick_node(a, rnd_one_in(&a->rng, 16) ? has_name : model_is_reg);
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE };

	if (!n || (!n->links && !handle_of(a, n) && n != a->home))
		return;
	attr.size = rnd_one_in(&a->rng, 3) ? rnd_below(&a->rng, n->size + 1) : pick_offset(a, n);
	if (!a->w->b->ops->kernel && rnd_one_in(&a->rng, 8))
		attr.valid |= UEXT4_ATTR_KILL_PRIV;
	if (a->w->b->ops->fuse && model_is_reg(n) && rnd_one_in(&a->rng, 4)) {
		attr.valid |= UEXT4_ATTR_MTIME_NOW; /* by an open(2) */
		attr.size = 0;
	}
	say_op(a, "truncate %u (inode %u) from %" PRIu64 " to %" PRIu64, n->id, n->ino, n->size,
	       attr.size);
	set_attr(a, n, &attr);
}

void op_chmod(struct actor *a)
{
	struct model_node *n = pick_node(a, is_not_lnk);
	struct uext4_attr attr = { .valid = UEXT4_ATTR_MODE };

	if (!n)
		return;
	attr.mode = (uint32_t)rnd(&a->rng) & 07777;
	say_op(a, "chmod %o of %u (inode %u)", attr.mode, n->id, n->ino);
	set_attr(a, n, &attr);
}

void op_chown(struct actor *a)
{
	struct model_node *n = pick_node(a, NULL);
	struct uext4_attr attr = { .valid = UEXT4_ATTR_UID | UEXT4_ATTR_GID };

	if (!n || (model_is_dir(n) && !n->parent))
		return;
	if (rnd_one_in(&a->rng, 3))
		attr.valid = rnd_one_in(&a->rng, 2) ? UEXT4_ATTR_UID : UEXT4_ATTR_GID;
	if (rnd_one_in(&a->rng, 2))
		attr.valid |= UEXT4_ATTR_KILL_PRIV;
	attr.uid = (uint32_t)pick_bits(a, 31);
	attr.gid = (uint32_t)pick_bits(a, 31);
	say_op(a, "chown %u:%u of %u (inode %u), fields %x", attr.uid, attr.gid, n->id, n->ino,
	       attr.valid);
	set_attr(a, n, &attr);
}

void op_utimes(struct actor *a)
{
	static const uint32_t kinds[] = { UEXT4_ATTR_ATIME | UEXT4_ATTR_MTIME, UEXT4_ATTR_ATIME,
					  UEXT4_ATTR_MTIME,
					  UEXT4_ATTR_ATIME_NOW | UEXT4_ATTR_MTIME_NOW,
					  UEXT4_ATTR_MTIME_NOW | UEXT4_ATTR_ATIME };
	struct model_node *n = pick_node(a, NULL);
	struct uext4_attr attr = { .valid = kinds[rnd_below(&a->rng, 5)] };

	if (!n || (model_is_dir(n) && !n->parent))
		return;
	attr.atime = pick_time(a);
	attr.mtime = pick_time(a);
	say_op(a, "utimes of %u (inode %u), fields %x, %lld.%09u, %lld.%09u", n->id, n->ino,
	       attr.valid, (long long)attr.atime.sec, attr.atime.nsec, (long long)attr.mtime.sec,
	       attr.mtime.nsec);
	set_attr(a, n, &attr);
}

void op_chattr(struct actor *a)
{
	uint32_t all = MODEL_FL_SYNC | MODEL_FL_NODUMP | MODEL_FL_NOATIME;
	struct model_node *n = pick_node(a, is_reg_or_dir);
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
	say_op(a, "chattr %#x of %u (inode %u)", attr.flags, n->id, n->ino);
	set_attr(a, n, &attr);
}

void op_project(struct actor *a)
{
	struct model_node *n = pick_node(a, is_reg_or_dir);
	struct uext4_attr attr = { .valid = UEXT4_ATTR_PROJID };

	if (!a->w->rules.project || backend_is_stock(a->w->b) || !n || n == a->home)
		return;
	if (n->flags & (MODEL_FL_IMMUTABLE | MODEL_FL_APPEND))
		return;
	attr.projid = rnd_one_in(&a->rng, 2) ? 0 : (uint32_t)pick_bits(a, 31);
	if (model_is_dir(n) && rnd_one_in(&a->rng, 2)) {
		attr.valid = UEXT4_ATTR_FLAGS;
		attr.flags = n->flags ^ MODEL_FL_PROJINHERIT;
	}
	say_op(a, "project %u, fields %x of %u (inode %u)", attr.projid, attr.valid, n->id, n->ino);
	set_attr(a, n, &attr);
}

/* Attributes that no system call sets, as tools that restore set them: several at once. */
void op_restore(struct actor *a)
{
	struct model_node *n = pick_node(a, is_not_lnk);
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
	say_op(a, "restore fields %x of %u (inode %u)", attr.valid, n->id, n->ino);
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

	want = model_xattr_set(lock_model(a), MODEL_ASK, n, name, value, size, flags);
	if (value && want == 0)
		room = model_xattr_room(a->w->model, n, name, size);
	unlock_model(a);
	if (room == MODEL_NO_ROOM)
		want = -ENOSPC;
	got = begin_call(a)->ops->xattr_set(a->w->b, &t, name, value, size, flags);
	if (room == MODEL_NO_ROOM && got == -E2BIG)
		got = want; /* for what never fits both are said */
	if (!judge_space(a, want, got, value ? size + 1 : 0, room == MODEL_ROOM_PERHAPS))
		return;
	(void)model_xattr_set(follow_call(a), MODEL_DO, n, name, value, size, flags);
	unlock_model(a);
	compare_stat(a, n);
	if (rnd_one_in(&a->rng, 4))
		compare_xattrs(a, n);
}

void op_setxattr(struct actor *a)
{
	struct model_node *n = pick_node(a, NULL);
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
	say_op(a, "setxattr %s, %zu bytes, of %u (inode %u), flags %u", name, size, n->id, n->ino,
	       flags);
	set_xattr(a, n, name, a->buf, size, flags);
}

void op_rmxattr(struct actor *a)
{
	struct model_node *n = pick_node(a, NULL);
	const char *name;

	if (!n || (model_is_dir(n) && !n->parent) ||
	    (!n->links && !handle_of(a, n) && n != a->home))
		return;
	name = n->xattrs && !rnd_one_in(&a->rng, 6) ? n->xattrs->name : pick_xattr_name(a, n);
	say_op(a, "removexattr %s of %u (inode %u)", name, n->id, n->ino);
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

void op_acl(struct actor *a)
{
	struct model_node *n = pick_node(a, is_not_lnk);
	bool dflt = rnd_one_in(&a->rng, 2);
	size_t size;

	if (!n)
		return;
	if (dflt && !rnd_one_in(&a->rng, 8)) {
		n = pick_node(a, is_live_dir);
		if (!n)
			return;
	}
	size = pick_acl(a, a->buf);
	say_op(a, "set the %s ACL of %u (inode %u), %zu bytes", dflt ? "default" : "access", n->id,
	       n->ino, size);
	set_xattr(a, n, dflt ? "system.posix_acl_default" : "system.posix_acl_access",
		  rnd_one_in(&a->rng, 6) ? NULL : a->buf, size, 0);
}
