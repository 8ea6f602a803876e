/* SPDX-License-Identifier: MIT */
/*
 * rename, with replacing, exchange and whiteout.
 *
 * Order of locks: rename_lock where a directory may move or go; the two parents, the one that lies
 * above the other first; then the inodes named, a directory before anything else, then by number.
 * A file is never locked before a directory: unlink() has its directory first.
 *
 *  M1  While rename_lock is held no directory changes its place and none goes.  So what lies above
 *      what is found out once, before anything is locked.
 *  M2  A rename inside one directory that concerns no directory does without rename_lock; what it
 *      is is known only when the names were looked up, and then it may have to start again.
 */
#include "fs/balloc.h"
#include "ops/namei_priv.h"

#include "base/diag.h"

/* One of the two places. */
struct place {
	struct inode *dir;
	const char *name;
	size_t len;
	struct inode *ip; /* what is there now, or NULL */
};

struct rename {
	struct op op;
	struct place old, new;
	uint32_t flags;
	bool tree; /* rename_lock is held */
	/*
	 * Entries on the way: that of the old directory which leads down to the new one (or is it),
	 * and the other way round; 0: none does.
	 */
	uint32_t old_leads, new_leads;
};

static bool is_exchange(const struct rename *r)
{
	return r->flags & UEXT4_RENAME_EXCHANGE;
}

static bool other_dir(const struct rename *r)
{
	return r->old.dir != r->new.dir;
}

static bool is_subdir(const struct place *p)
{
	return p->ip && inode_is_dir(p->ip);
}

/* ---- the way up ------------------------------------------------------------------------------ */

/*
 * Goes from directory @from up to the root: if it comes by @above, *ret_ino is the directory right
 * below that; else 0.
 */
static int find_below(struct inode *from, uint32_t above, uint32_t *ret_ino)
{
	struct uext4_fs *fs = from->fs;
	uint32_t ino = from->ino;

	for (uint32_t steps = 0; steps < fs->geom.inodes; steps++) {
		struct inode *dir INODE_SCOPE = NULL;
		uint32_t parent;
		int err;

		if (ino == EXT4_ROOT_INO) {
			*ret_ino = 0;
			return 0;
		}
		err = namei_get_dir(fs, ino, &dir);
		if (err == 0)
			err = dir_find(dir, "..", 2, &parent);
		if (err < 0)
			return err;
		if (parent == above) {
			*ret_ino = ino;
			return 0;
		}
		ino = parent;
	}
	return corrupt("directory %u is not below the root", from->ino);
}

static int find_ways(struct rename *r)
{
	int err;

	r->old_leads = r->new_leads = 0;
	if (!other_dir(r))
		return 0;
	err = find_below(r->new.dir, r->old.dir->ino, &r->old_leads);
	if (err == 0)
		err = find_below(r->old.dir, r->new.dir->ino, &r->new_leads);
	if (err == 0 && r->old_leads && r->new_leads)
		err = corrupt("directories %u and %u lie inside each other", r->old.dir->ino,
			      r->new.dir->ino);
	return err;
}

/* ---- locks ----------------------------------------------------------------------------------- */

static void lock_pair(struct inode *first, enum inode_part part, struct inode *second) NO_TSA
{
	if (first)
		inode_lock(first, part);
	if (second && second != first)
		inode_lock(second, part + 1);
}

static void unlock_pair(struct inode *a, struct inode *b) NO_TSA
{
	if (a)
		inode_unlock(a);
	if (b && b != a)
		inode_unlock(b);
}

static void lock_dirs(const struct rename *r)
{
	bool old_first = r->old.dir->ino < r->new.dir->ino;

	if (r->old_leads || r->new_leads)
		old_first = r->old_leads != 0;
	if (old_first)
		lock_pair(r->old.dir, INODE_PARENT, r->new.dir);
	else
		lock_pair(r->new.dir, INODE_PARENT, r->old.dir);
}

static void lock_children(const struct rename *r)
{
	struct inode *a = r->old.ip, *b = r->new.ip;
	bool swap = false;

	if (b)
		swap = inode_is_dir(a) == inode_is_dir(b) ? b->ino < a->ino : inode_is_dir(b);
	if (swap)
		lock_pair(b, INODE_CHILD, a);
	else
		lock_pair(a, INODE_CHILD, b);
}

/* ---- what is allowed ------------------------------------------------------------------------- */

static int look_up(struct rename *r)
{
	int err;

	err = namei_find_locked(r->old.dir, r->old.name, r->old.len, &r->old.ip);
	if (err < 0)
		return err;
	err = namei_find_locked(r->new.dir, r->new.name, r->new.len, &r->new.ip);
	if (atomic_load(&r->new.dir->flags) & INODE_UNLINKED)
		return err;
	if (err == 0 && (r->flags & UEXT4_RENAME_NOREPLACE))
		return fail(-EEXIST, "directory %u has an entry of this name", r->new.dir->ino);
	if (err == -ENOENT && !is_exchange(r))
		return 0;
	return err;
}

/* Neither may become a part of itself. */
static int check_ways(const struct rename *r)
{
	const struct inode *old = r->old.ip, *new = r->new.ip;

	if (r->old_leads == old->ino)
		return fail(-EINVAL, "directory %u into itself", old->ino);
	if (new && r->new_leads == new->ino)
		return is_exchange(r) ? fail(-EINVAL, "directory %u into itself", new->ino)
				      : fail(-ENOTEMPTY, "directory %u has entries", new->ino);
	if (old == r->old.dir || old == r->new.dir || new == r->old.dir || new == r->new.dir ||
	    old->ino == EXT4_ROOT_INO || (new &&new->ino == EXT4_ROOT_INO))
		return corrupt("directory %u or %u has an entry for one above it", r->old.dir->ino,
			       r->new.dir->ino);
	return 0;
}

static int check_permissions(const struct rename *r)
{
	struct inode *old = r->old.ip, *new = r->new.ip;
	int err;

	err = namei_may_remove(r->old.dir, old);
	if (err == 0)
		err = new ? namei_may_remove(r->new.dir, new) : namei_may_add(r->new.dir);
	if (err < 0)
		return err;
	if (new && !is_exchange(r) && inode_is_dir(old) != inode_is_dir(new))
		return inode_is_dir(old) ? fail(-ENOTDIR, "inode %u is no directory", new->ino)
					 : fail(-EISDIR, "inode %u is a directory", new->ino);
	err = namei_check_project(r->new.dir, old);
	if (err == 0 && is_exchange(r))
		err = namei_check_project(r->old.dir, new);
	return err;
}

/* With the inodes locked. */
static int check_children(const struct rename *r)
{
	struct inode *new = r->new.ip;
	bool empty = true, more_in_new, more_in_old;
	int err = 0;

	if (inode_links(r->old.ip) == 0 || (new &&inode_links(new) == 0))
		return corrupt("an inode with a name, but no links: %u or %u", r->old.ip->ino,
			       new ? new->ino : 0);
	if (is_subdir(&r->new) && !is_exchange(r))
		err = dir_is_empty(new, &empty);
	if (err < 0)
		return err;
	if (!empty)
		return fail(-ENOTEMPTY, "directory %u has entries", new->ino);
	if (!other_dir(r))
		return 0;
	more_in_new = is_subdir(&r->old) && !is_subdir(&r->new);
	more_in_old = is_exchange(r) && is_subdir(&r->new) && !is_subdir(&r->old);
	if (more_in_new)
		return namei_check_subdir(r->new.dir);
	return more_in_old ? namei_check_subdir(r->old.dir) : 0;
}

/* ---- the change ------------------------------------------------------------------------------ */

static int set_entry(struct handle *h, const struct place *p, const struct inode *ip)
{
	return dir_replace(h, p->dir, p->name, p->len, ip->ino, namei_type(ip));
}

/* @ip has come into @to: ".." and ctime. */
static int moved(struct handle *h, struct inode *ip, const struct inode *to, bool other)
{
	inode_touch(ip, INODE_CTIME);
	if (other && inode_is_dir(ip))
		return dir_replace(h, ip, "..", 2, to->ino, UEXT4_FT_DIR);
	return inode_store(h, ip);
}

/* The subdirectories of both, after what they count has moved. */
static int count_subdirs(struct handle *h, const struct rename *r)
{
	bool old_is = is_subdir(&r->old), new_is = is_subdir(&r->new);
	int err;

	if (is_exchange(r)) {
		if (!other_dir(r) || old_is == new_is)
			return 0;
		if (old_is) {
			namei_drop_subdir(r->old.dir);
			namei_add_subdir(r->new.dir);
		} else {
			namei_drop_subdir(r->new.dir);
			namei_add_subdir(r->old.dir);
		}
	} else {
		if (!old_is)
			return 0;
		namei_drop_subdir(r->old.dir);
		if (!new_is)
			namei_add_subdir(r->new.dir);
	}
	err = inode_store(h, r->old.dir);
	return err < 0 ? err : inode_store(h, r->new.dir);
}

/* The new name leads to the inode: what cannot be undone behind it comes later. */
static int put_new(struct handle *h, const struct rename *r)
{
	if (r->new.ip)
		return set_entry(h, &r->new, r->old.ip);
	return dir_add(h, r->new.dir, r->new.name, r->new.len, r->old.ip->ino,
		       namei_type(r->old.ip));
}

/* All that follows.  @whiteout takes the old place, or it is NULL. */
static int finish(struct handle *h, const struct rename *r, const struct inode *whiteout)
{
	int err;

	if (is_exchange(r))
		err = set_entry(h, &r->old, r->new.ip);
	else if (whiteout)
		err = set_entry(h, &r->old, whiteout);
	else
		err = dir_remove(h, r->old.dir, r->old.name, r->old.len);
	if (err == 0)
		err = moved(h, r->old.ip, r->new.dir, other_dir(r));
	if (err == 0 && is_exchange(r))
		err = moved(h, r->new.ip, r->old.dir, other_dir(r));
	else if (err == 0 && r->new.ip)
		err = namei_drop_link(h, r->new.ip);
	return err < 0 ? err : count_subdirs(h, r);
}

static uint32_t credits(const struct rename *r)
{
	uint32_t n = DIR_SET_CREDITS + NAMEI_DROP_CREDITS + 2 * INODE_STORE_CREDITS;

	n += r->new.ip ? DIR_SET_CREDITS : dir_credits(r->new.dir);
	return n + 2 * DIR_SET_CREDITS; /* ".." of both */
}

static int change(struct rename *r, const struct newborn *nb) NO_TSA
{
	uint32_t wanted = credits(r) + (nb ? newborn_credits(nb, r->old.dir) : 0);
	struct inode *whiteout = NULL;
	struct handle *h;
	int err;

	err = op_start(&r->op, r->old.dir, wanted, &h);
	if (err < 0)
		return err;
	if (nb)
		err = newborn_create(h, r->old.dir, nb, &whiteout);
	if (err == 0) {
		err = put_new(h, r);
		if (err < 0 && whiteout) {
			newborn_undo(h, whiteout);
			whiteout = NULL;
		}
	}
	if (err == 0) {
		/* From here on: only abort. */
		err = finish(h, r, whiteout);
		if (err < 0)
			txn_log_abort(r->op.fs->log, err);
	}
	if (whiteout) {
		inode_unlock(whiteout);
		inode_put(whiteout);
	}
	return first_error(err, handle_stop(h));
}

static int change_with_whiteout(struct rename *r)
{
	const struct namei_new new = { .attrs = { .mode = 0020000 } };
	struct newborn nb;
	int err;

	if (!(r->flags & UEXT4_RENAME_WHITEOUT))
		return change(r, NULL);
	err = newborn_init(&nb, r->old.dir, &new);
	if (err == 0)
		err = change(r, &nb);
	newborn_finish(&nb);
	return err;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int with_dirs(struct rename *r, bool *ret_again)
{
	int err;

	err = look_up(r);
	if (err < 0)
		return err;
	if (!r->tree && (is_subdir(&r->old) || is_subdir(&r->new))) {
		*ret_again = true; /* M2 */
		return 0;
	}
	if (r->old.ip == r->new.ip)
		return 0; /* two names of one file: nothing happens */
	err = check_ways(r);
	if (err == 0)
		err = check_permissions(r);
	if (err == 0)
		err = op_use(&r->op, r->new.dir);
	if (err < 0)
		return err;
	lock_children(r);
	err = check_children(r);
	if (err == 0)
		err = change_with_whiteout(r);
	unlock_pair(r->old.ip, r->new.ip);
	return err;
}

static void put_children(struct rename *r)
{
	inode_put(r->old.ip);
	inode_put(r->new.ip);
	r->old.ip = r->new.ip = NULL;
}

static int try_once(struct rename *r, bool *ret_again)
{
	int err;

	err = find_ways(r);
	if (err < 0)
		return err;
	lock_dirs(r);
	err = with_dirs(r, ret_again);
	unlock_pair(r->old.dir, r->new.dir);
	put_children(r);
	return err;
}

static int try(struct rename *r)
{
	bool again = false;
	int err = 0;

	if (!r->tree) {
		err = try_once(r, &again);
		if (!again)
			return err;
	}
	r->tree = true;
	mutex_lock(&r->op.fs->rename_lock);
	err = try_once(r, &again);
	mutex_unlock(&r->op.fs->rename_lock);
	return err;
}

static int check_name(const char *name, size_t len, bool noreplace)
{
	int err = namei_check_name(name, len);

	if (err == 0 && name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')))
		return noreplace ? fail(-EEXIST, "\".\" and \"..\" are there already")
				 : fail(-EBUSY, "\".\" and \"..\" cannot be renamed");
	return err;
}

int namei_rename(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 uint32_t new_dir_ino, const void *new_name, size_t new_name_len, uint32_t flags)
{
	struct inode *old_dir INODE_SCOPE = NULL, *new_dir INODE_SCOPE = NULL;
	struct rename r;
	int err;

	err = check_name(name, name_len, false);
	if (err == 0)
		err = check_name(new_name, new_name_len, flags & UEXT4_RENAME_NOREPLACE);
	if (err == 0)
		err = namei_get_dir(fs, dir_ino, &old_dir);
	if (err == 0)
		err = namei_get_dir(fs, new_dir_ino, &new_dir);
	if (err < 0)
		return err;
	r = (struct rename){
		.old = { .dir = old_dir, .name = name, .len = name_len },
		.new = { .dir = new_dir, .name = new_name, .len = new_name_len },
		.flags = flags,
		.tree = old_dir != new_dir,
	};
	err = op_begin(&r.op, fs);
	if (err < 0)
		return err;
	do
		err = try(&r);
	while (op_again(&r.op, err));
	return op_end(&r.op, err);
}
