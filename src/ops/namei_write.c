/* SPDX-License-Identifier: MIT */
/*
 * Names that come and go: create, symlink, link, unlink, rmdir, O_TMPFILE.  (rename is in
 * namei_rename.c.)
 *
 * Who may do what by mode bits is the caller's business; what the file system itself forbids
 * (immutable, append-only, directories that are gone) is refused here, in the order the kernel
 * looks at it.
 *
 *  O1  An operation holds its directory exclusively from looking a name up to changing it.
 *  O2  A directory is locked as the child of another only under rename_lock: so no two threads
 *      lock two directories in different orders, whatever a damaged tree looks like.
 *  O3  What fails for lack of space, quota, memory or permission leaves everything as before.  What
 *      fails between the first and the last change of an operation aborts the journal.
 */
#include "fs/balloc.h"
#include "fs/quota.h"
#include "fs/xattr.h"
#include "ops/namei_priv.h"

#include "base/diag.h"

#define TRIES_MAX 3u

/* ---- one operation --------------------------------------------------------------------------- */

int op_begin(struct op *op, struct uext4_fs *fs)
{
	*op = (struct op){ .fs = fs };
	return fs_write_begin(fs);
}

/* The same, with directory @dir_ino, which the caller puts in any case. */
static int op_begin_in(struct op *op, struct uext4_fs *fs, uint32_t dir_ino, struct inode **ret_dir)
{
	int err;

	err = namei_get_dir(fs, dir_ino, ret_dir);
	return err < 0 ? err : op_begin(op, fs);
}

bool op_again(struct op *op, int err)
{
	if (err != -ENOSPC || ++op->tries >= TRIES_MAX || !balloc_commit_helps(op->fs))
		return false;
	return txn_log_commit(op->fs->log, txn_log_running(op->fs->log)) == 0;
}

int op_end(struct op *op, int err)
{
	if (err == 0 && op->sync)
		err = txn_log_commit(op->fs->log, op->tid);
	fs_write_end(op->fs);
	return err;
}

int op_use(struct op *op, struct inode *dir)
{
	if (inode_has_flag(dir, EXT4_DIRSYNC_FL | EXT4_SYNC_FL))
		op->sync = true;
	return quota_load(dir);
}

int op_start(struct op *op, struct inode *dir, uint32_t credits, struct handle **ret_handle)
{
	int err;

	err = op_use(op, dir);
	if (err == 0)
		err = handle_start(op->fs->log, credits, ret_handle);
	if (err == 0)
		op->tid = handle_tid(*ret_handle);
	return err;
}

/* What fails here fails in the middle of a change. */
static int must(struct uext4_fs *fs, int err)
{
	if (err < 0)
		txn_log_abort(fs->log, err);
	return err;
}

/* ---- permissions ----------------------------------------------------------------------------- */

int namei_may_add(struct inode *dir)
{
	if (inode_has_flag(dir, EXT4_IMMUTABLE_FL))
		return fail(-EPERM, "directory %u is immutable", dir->ino);
	return 0;
}

int namei_may_remove(struct inode *dir, struct inode *ip)
{
	const uint32_t fixed = EXT4_IMMUTABLE_FL | EXT4_APPEND_FL;

	if (inode_has_flag(dir, fixed))
		return fail(-EPERM, "directory %u is immutable or append-only", dir->ino);
	if (inode_has_flag(ip, fixed))
		return fail(-EPERM, "inode %u is immutable or append-only", ip->ino);
	return 0;
}

int namei_check_project(struct inode *dir, struct inode *ip)
{
	if (inode_has_flag(dir, EXT4_PROJINHERIT_FL) && inode_projid(dir) != inode_projid(ip))
		return fail(-EXDEV, "inode %u is of another project than directory %u", ip->ino,
			    dir->ino);
	return 0;
}

/* ---- links ----------------------------------------------------------------------------------- */

int namei_check_subdir(const struct inode *dir)
{
	bool counted = !geom_has_ro_compat(&dir->fs->geom, EXT4_FEATURE_RO_COMPAT_DIR_NLINK) ||
		       !dir_is_indexed(dir);

	if (counted && inode_links(dir) >= EXT4_LINK_MAX)
		return fail(-EMLINK, "directory %u has %u links", dir->ino, inode_links(dir));
	return 0;
}

/* dir_nlink: a link count of 1 says that there are more subdirectories than it could say. */
void namei_add_subdir(struct inode *dir)
{
	uint32_t links = inode_links(dir) + 1;

	if (dir_is_indexed(dir) && (links > EXT4_LINK_MAX || links == 2))
		links = 1;
	inode_set_links(dir, links);
}

void namei_drop_subdir(struct inode *dir)
{
	uint32_t links = inode_links(dir);

	if (links > 2)
		inode_set_links(dir, links - 1);
}

int namei_drop_link(struct handle *h, struct inode *ip)
{
	uint32_t links = inode_is_dir(ip) ? 0 : inode_links(ip) - 1;
	int err = 0;

	inode_touch(ip, INODE_CTIME);
	inode_set_links(ip, links);
	if (inode_is_dir(ip)) {
		/* Who still has it open finds nothing in it. */
		rwlock_write(&ip->xattr_lock);
		ip->size = 0;
		rwlock_write_unlock(&ip->xattr_lock);
		inode_set_disk_size(ip, 0);
	}
	if (links == 0)
		err = orphan_add(h, ip);
	return err < 0 ? err : inode_store(h, ip);
}

/* ---- create, symlink, O_TMPFILE -------------------------------------------------------------- */

static int check_new_name(const char *name, size_t len)
{
	int err = namei_check_name(name, len);

	if (err == 0 && name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')))
		return fail(-EEXIST, "\".\" and \"..\" are there already");
	return err;
}

/* May an inode of this kind get the name @name in @dir? */
static int check_place(struct inode *dir, const char *name, size_t len, bool is_dir)
{
	uint32_t ino;
	int err;

	if (atomic_load(&dir->flags) & INODE_UNLINKED)
		return fail(-ENOENT, "directory %u is removed", dir->ino);
	err = dir_find_locked(dir, name, len, &ino);
	if (err == 0)
		return fail(-EEXIST, "directory %u has an entry of this name", dir->ino);
	if (err != -ENOENT)
		return err;
	err = namei_may_add(dir);
	if (err == 0 && is_dir)
		err = namei_check_subdir(dir);
	return err;
}

/* The inode gets its name. */
static int give_name(struct handle *h, struct inode *dir, struct inode *ip, const char *name,
		     size_t len)
{
	int err;

	err = dir_add(h, dir, name, len, ip->ino, namei_type(ip));
	if (err < 0 || !inode_is_dir(ip))
		return err;
	namei_add_subdir(dir);
	return must(dir->fs, inode_store(h, dir));
}

static int create_try(struct op *op, struct inode *dir, const char *name, size_t len,
		      struct newborn *nb, uint32_t *ret_ino) NO_TSA
{
	struct handle *h;
	struct inode *ip;
	int err;

	err = op_start(op, dir, newborn_credits(nb, dir) + dir_credits(dir), &h);
	if (err < 0)
		return err;
	err = newborn_create(h, dir, nb, &ip);
	if (err == 0) {
		err = give_name(h, dir, ip, name, len);
		if (err < 0) {
			newborn_undo(h, ip);
		} else {
			*ret_ino = ip->ino;
			inode_unlock(ip);
			inode_put(ip);
		}
	}
	return first_error(err, handle_stop(h));
}

static int create_locked(struct op *op, struct inode *dir, const char *name, size_t len,
			 const struct namei_new *new, const void *target, size_t target_len,
			 uint32_t *ret_ino)
{
	struct newborn nb;
	int err;

	err = check_place(dir, name, len, (new->attrs.mode & 0170000) == 0040000);
	if (err < 0)
		return err;
	err = newborn_init(&nb, dir, new);
	nb.target = target;
	nb.target_len = target_len;
	if (err == 0)
		err = create_try(op, dir, name, len, &nb, ret_ino);
	newborn_finish(&nb);
	return err;
}

static int create(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		  const struct namei_new *new, const void *target, size_t target_len,
		  uint32_t *ret_ino)
{
	struct inode *dir INODE_SCOPE = NULL;
	uint32_t ino = 0;
	struct op op;
	int err;

	err = check_new_name(name, name_len);
	if (err == 0)
		err = op_begin_in(&op, fs, dir_ino, &dir);
	if (err < 0)
		return err;
	do {
		inode_lock(dir, INODE_PARENT);
		err = create_locked(&op, dir, name, name_len, new, target, target_len, &ino);
		inode_unlock(dir);
	} while (op_again(&op, err));
	err = op_end(&op, err);
	if (err < 0)
		return err;
	*ret_ino = ino;
	return 0;
}

int namei_create(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 const struct namei_new *new, uint32_t *ret_ino)
{
	switch (new->attrs.mode & 0170000) {
	case 0100000:
	case 0040000:
	case 0020000:
	case 0060000:
	case 0010000:
	case 0140000: break;
	default: return fail(-EINVAL, "no file of type %#o", new->attrs.mode & 0170000);
	}
	return create(fs, dir_ino, name, name_len, new, NULL, 0, ret_ino);
}

int namei_symlink(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		  const void *target, size_t target_len, const struct namei_new *new,
		  uint32_t *ret_ino)
{
	struct namei_new link = *new;

	if (target_len == 0)
		return fail(-ENOENT, "an empty target");
	if (target_len >= fs->geom.block_size)
		return fail(-ENAMETOOLONG, "a target of %zu bytes", target_len);
	if (memchr(target, '\0', target_len))
		return fail(-EINVAL, "a target with NUL inside");
	link.attrs.mode = 0120777;
	return create(fs, dir_ino, name, name_len, &link, target, target_len, ret_ino);
}

static int tmpfile_try(struct op *op, struct inode *dir, const struct newborn *nb,
		       struct inode **ret_ip) NO_TSA
{
	struct handle *h;
	struct inode *ip;
	int err;

	err = op_start(op, dir, newborn_credits(nb, dir), &h);
	if (err < 0)
		return err;
	err = newborn_create(h, dir, nb, &ip);
	if (err == 0) {
		inode_set_links(ip, 0);
		atomic_fetch_or(&ip->flags, INODE_LINKABLE);
		err = orphan_add(h, ip);
		if (err == 0)
			err = inode_store(h, ip);
		inode_unlock(ip);
		if (must(dir->fs, err) < 0)
			inode_put(ip);
		else
			*ret_ip = ip;
	}
	return first_error(err, handle_stop(h));
}

static int tmpfile_locked(struct op *op, struct inode *dir, const struct namei_new *new,
			  struct inode **ret_ip)
{
	struct newborn nb;
	int err;

	if (atomic_load(&dir->flags) & INODE_UNLINKED)
		return fail(-ENOENT, "directory %u is removed", dir->ino);
	err = namei_may_add(dir);
	if (err < 0)
		return err;
	err = newborn_init(&nb, dir, new);
	if (err == 0)
		err = tmpfile_try(op, dir, &nb, ret_ip);
	newborn_finish(&nb);
	return err;
}

int namei_tmpfile(struct uext4_fs *fs, uint32_t dir_ino, const struct namei_new *new,
		  struct inode **ret_inode)
{
	struct inode *dir INODE_SCOPE = NULL, *ip = NULL;
	struct op op;
	int err;

	if ((new->attrs.mode & 0170000) != 0100000)
		return fail(-EINVAL, "only regular files can be without a name");
	err = op_begin_in(&op, fs, dir_ino, &dir);
	if (err < 0)
		return err;
	do {
		inode_lock(dir, INODE_PARENT);
		err = tmpfile_locked(&op, dir, new, &ip);
		inode_unlock(dir);
	} while (op_again(&op, err));
	err = op_end(&op, err);
	if (err < 0) {
		inode_put(ip);
		return err;
	}
	*ret_inode = ip;
	return 0;
}

/* ---- link ------------------------------------------------------------------------------------ */

static int check_link(struct inode *ip, struct inode *dir)
{
	if (inode_has_flag(ip, EXT4_IMMUTABLE_FL | EXT4_APPEND_FL))
		return fail(-EPERM, "inode %u is immutable or append-only", ip->ino);
	if (inode_is_dir(ip))
		return fail(-EPERM, "inode %u is a directory", ip->ino);
	if (inode_links(ip) == 0 && !(atomic_load(&ip->flags) & INODE_LINKABLE))
		return fail(-ENOENT, "inode %u has no links any more", ip->ino);
	if (inode_links(ip) >= EXT4_LINK_MAX)
		return fail(-EMLINK, "inode %u has %u links", ip->ino, inode_links(ip));
	return namei_check_project(dir, ip);
}

static int link_try(struct op *op, struct inode *ip, struct inode *dir, const char *name,
		    size_t len)
{
	struct handle *h;
	int err;

	err = op_start(op, dir, dir_credits(dir) + INODE_STORE_CREDITS + ORPHAN_CREDITS, &h);
	if (err < 0)
		return err;
	err = dir_add(h, dir, name, len, ip->ino, namei_type(ip));
	if (err == 0) {
		/* From here on: only abort. */
		inode_touch(ip, INODE_CTIME);
		inode_set_links(ip, inode_links(ip) + 1);
		if (atomic_fetch_and(&ip->flags, ~(uint32_t)INODE_LINKABLE) & INODE_LINKABLE)
			err = orphan_remove(h, ip);
		if (err == 0)
			err = inode_store(h, ip);
		err = must(dir->fs, err);
	}
	return first_error(err, handle_stop(h));
}

static int link_locked(struct op *op, struct inode *ip, struct inode *dir, const char *name,
		       size_t len)
{
	int err;

	err = check_place(dir, name, len, false);
	if (err < 0)
		return err;
	if (inode_is_dir(ip)) /* it may be @dir */
		return check_link(ip, dir);
	inode_lock(ip, INODE_CHILD);
	err = check_link(ip, dir);
	if (err == 0)
		err = link_try(op, ip, dir, name, len);
	inode_unlock(ip);
	return err;
}

int namei_link(struct uext4_fs *fs, uint32_t ino, uint32_t dir_ino, const void *name,
	       size_t name_len)
{
	struct inode *dir INODE_SCOPE = NULL, *ip INODE_SCOPE = NULL;
	struct op op;
	int err;

	err = check_new_name(name, name_len);
	if (err == 0)
		err = namei_get_dir(fs, dir_ino, &dir);
	if (err == 0)
		err = inode_get(fs, ino, &ip);
	if (err == 0)
		err = op_begin(&op, fs);
	if (err < 0)
		return err;
	do {
		inode_lock(dir, INODE_PARENT);
		err = link_locked(&op, ip, dir, name, name_len);
		inode_unlock(dir);
	} while (op_again(&op, err));
	return op_end(&op, err);
}

/* ---- unlink, rmdir --------------------------------------------------------------------------- */

static int remove_try(struct op *op, struct inode *dir, struct inode *ip, const char *name,
		      size_t len)
{
	struct handle *h;
	int err;

	err = op_start(op, dir, DIR_SET_CREDITS + INODE_STORE_CREDITS + NAMEI_DROP_CREDITS, &h);
	if (err < 0)
		return err;
	err = dir_remove(h, dir, name, len);
	if (err == 0) {
		/* From here on: only abort. */
		err = namei_drop_link(h, ip);
		if (err == 0 && inode_is_dir(ip)) {
			namei_drop_subdir(dir);
			err = inode_store(h, dir);
		}
		err = must(dir->fs, err);
	}
	return first_error(err, handle_stop(h));
}

static int unlink_locked(struct op *op, struct inode *dir, const char *name, size_t len)
{
	struct inode *ip INODE_SCOPE = NULL;
	int err;

	err = namei_find_locked(dir, name, len, &ip);
	if (err == 0)
		err = namei_may_remove(dir, ip);
	if (err < 0)
		return err;
	if (inode_is_dir(ip))
		return fail(-EISDIR, "inode %u is a directory", ip->ino);
	inode_lock(ip, INODE_CHILD);
	if (inode_links(ip) == 0)
		err = corrupt("inode %u has a name, but no links", ip->ino);
	else
		err = remove_try(op, dir, ip, name, len);
	inode_unlock(ip);
	return err;
}

int namei_unlink(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len)
{
	struct inode *dir INODE_SCOPE = NULL;
	struct op op;
	int err;

	err = check_new_name(name, name_len);
	if (err == -EEXIST)
		err = fail(-EISDIR, "\".\" and \"..\" are directories");
	if (err == 0)
		err = op_begin_in(&op, fs, dir_ino, &dir);
	if (err < 0)
		return err;
	do {
		inode_lock(dir, INODE_PARENT);
		err = unlink_locked(&op, dir, name, name_len);
		inode_unlock(dir);
	} while (op_again(&op, err));
	return op_end(&op, err);
}

static int rmdir_child(struct op *op, struct inode *dir, struct inode *ip, const char *name,
		       size_t len)
{
	bool empty;
	int err;

	err = dir_is_empty(ip, &empty);
	if (err < 0)
		return err;
	if (!empty)
		return fail(-ENOTEMPTY, "directory %u has entries", ip->ino);
	return remove_try(op, dir, ip, name, len);
}

static int rmdir_locked(struct op *op, struct inode *dir, const char *name, size_t len)
{
	struct inode *ip INODE_SCOPE = NULL;
	int err;

	err = namei_find_locked(dir, name, len, &ip);
	if (err == 0)
		err = namei_may_remove(dir, ip);
	if (err < 0)
		return err;
	if (!inode_is_dir(ip))
		return fail(-ENOTDIR, "inode %u is no directory", ip->ino);
	if (ip == dir || ip->ino == EXT4_ROOT_INO)
		return corrupt("directory %u is its own parent", ip->ino);
	inode_lock(ip, INODE_CHILD);
	err = rmdir_child(op, dir, ip, name, len);
	inode_unlock(ip);
	return err;
}

int namei_rmdir(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len)
{
	struct inode *dir INODE_SCOPE = NULL;
	struct op op;
	int err;

	err = check_new_name(name, name_len);
	if (err == -EEXIST)
		err = name_len == 1 ? fail(-EINVAL, "\".\" cannot be removed")
				    : fail(-ENOTEMPTY, "\"..\" cannot be removed");
	if (err == 0)
		err = op_begin_in(&op, fs, dir_ino, &dir);
	if (err < 0)
		return err;
	do {
		mutex_lock(&fs->rename_lock); /* O2 */
		inode_lock(dir, INODE_PARENT);
		err = rmdir_locked(&op, dir, name, name_len);
		inode_unlock(dir);
		mutex_unlock(&fs->rename_lock);
	} while (op_again(&op, err));
	return op_end(&op, err);
}
