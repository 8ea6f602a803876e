/* SPDX-License-Identifier: MIT */
/*
 * The public functions that change an image.  The rules are api.c's (A1 to A3); the operations are
 * those of ops/.
 *
 *  A4  What the caller gives is copied before anything is locked, so that it cannot change between
 *      check and use, and may lie in a mapping whose fault this engine answers.
 */
#include "api/api_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#define NAME_BYTES UEXT4_NAME_MAX
#define TARGET_MAX 65536u
#define VALUE_MAX 65536u
#define XATTR_NAME_MAX 300u

/* A name of the caller's, in our memory. */
struct name {
	char bytes[NAME_BYTES];
	size_t len;
};

static int take_name(const void *user, size_t len, struct name *ret)
{
	if (len > sizeof(ret->bytes))
		return fail(-ENAMETOOLONG, "a name of %zu bytes", len);
	user_copy_in(ret->bytes, user, len);
	ret->len = len;
	return 0;
}

static void take_new(const struct uext4_new *user, struct namei_new *ret)
{
	struct uext4_new attrs;

	user_copy_in(&attrs, user, sizeof(attrs));
	*ret = (struct namei_new){
		.attrs = {
			.mode = (uint16_t)attrs.mode,
			.uid = attrs.uid,
			.gid = attrs.gid,
			.rdev_major = attrs.rdev_major,
			.rdev_minor = attrs.rdev_minor,
		},
		.umask = (uint16_t)(attrs.umask & 0777),
	};
	if ((ret->attrs.mode & 0170000u) == 0)
		ret->attrs.mode |= 0100000u;
}

/* ---- names ----------------------------------------------------------------------------------- */

int uext4_create(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 const struct uext4_new *attrs, uint32_t *ret_ino)
{
	struct namei_new new;
	struct name own;
	int err;

	diag_clear();
	if (!attrs || !ret_ino)
		return api_invalid("a NULL pointer");
	take_new(attrs, &new);
	err = take_name(name, name_len, &own);
	if (err == 0)
		err = namei_create(fs, dir_ino, own.bytes, own.len, &new, ret_ino);
	return api_end_reap(fs, err);
}

int uext4_symlink(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		  const void *target, size_t target_len, const struct uext4_new *attrs,
		  uint32_t *ret_ino)
{
	void *own_target FREE_SCOPE = NULL;
	struct namei_new new;
	struct name own;
	int err;

	diag_clear();
	if (!attrs || !ret_ino)
		return api_invalid("a NULL pointer");
	if (target_len == 0)
		return api_end(fail(-ENOENT, "an empty target"));
	if (target_len > TARGET_MAX)
		return api_end(fail(-ENAMETOOLONG, "a target of %zu bytes", target_len));
	take_new(attrs, &new);
	err = take_name(name, name_len, &own);
	if (err < 0)
		return api_end(err);
	own_target = mem_alloc(target_len);
	if (!own_target)
		return api_end(-ENOMEM);
	user_copy_in(own_target, target, target_len);
	err = namei_symlink(fs, dir_ino, own.bytes, own.len, own_target, target_len, &new, ret_ino);
	return api_end_reap(fs, err);
}

int uext4_link(struct uext4_fs *fs, uint32_t ino, uint32_t dir_ino, const void *name,
	       size_t name_len)
{
	struct name own;
	int err;

	diag_clear();
	err = take_name(name, name_len, &own);
	if (err == 0)
		err = namei_link(fs, ino, dir_ino, own.bytes, own.len);
	return api_end_reap(fs, err);
}

int uext4_unlink(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len)
{
	struct name own;
	int err;

	diag_clear();
	err = take_name(name, name_len, &own);
	if (err == 0)
		err = namei_unlink(fs, dir_ino, own.bytes, own.len);
	return api_end_reap(fs, err);
}

int uext4_rmdir(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len)
{
	struct name own;
	int err;

	diag_clear();
	err = take_name(name, name_len, &own);
	if (err == 0)
		err = namei_rmdir(fs, dir_ino, own.bytes, own.len);
	return api_end_reap(fs, err);
}

#define RENAME_FLAGS (UEXT4_RENAME_NOREPLACE | UEXT4_RENAME_EXCHANGE | UEXT4_RENAME_WHITEOUT)

int uext4_rename(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 uint32_t new_dir_ino, const void *new_name, size_t new_name_len, uint32_t flags)
{
	struct name from, to;
	int err;

	diag_clear();
	if (flags & ~(uint32_t)RENAME_FLAGS)
		return api_invalid("a flag that this version does not know");
	if ((flags & UEXT4_RENAME_EXCHANGE) && flags != UEXT4_RENAME_EXCHANGE)
		return api_invalid("an exchange replaces nothing and leaves no whiteout");
	err = take_name(name, name_len, &from);
	if (err == 0)
		err = take_name(new_name, new_name_len, &to);
	if (err == 0)
		err = namei_rename(fs, dir_ino, from.bytes, from.len, new_dir_ino, to.bytes, to.len,
				   flags);
	return api_end_reap(fs, err);
}

int uext4_tmpfile(struct uext4_fs *fs, uint32_t dir_ino, const struct uext4_new *attrs,
		  uint32_t flags, struct uext4_file **ret_file)
{
	struct namei_new new;
	struct uext4_file *file;
	struct inode *ip;
	int err;

	diag_clear();
	if (!attrs || !ret_file)
		return api_invalid("a NULL pointer");
	take_new(attrs, &new);
	err = namei_tmpfile(fs, dir_ino, &new, &ip);
	if (err < 0)
		return api_end_reap(fs, err);
	err = api_file_create(ip, flags | UEXT4_FILE_WRITE, &file);
	if (err < 0) {
		inode_put(ip);
		return api_end_reap(fs, err);
	}
	*ret_file = file;
	return api_end(0);
}

int uext4_hold(struct uext4_fs *fs, uint32_t ino)
{
	struct inode *ip;

	diag_clear();
	return api_end(api_get_inode(fs, ino, &ip)); /* the reference stays */
}

void uext4_release(struct uext4_fs *fs, uint32_t ino)
{
	struct inode *ip;

	if (api_get_inode(fs, ino, &ip) < 0)
		return;
	inode_put(ip);
	inode_put(ip); /* that of uext4_hold() */
	(void)api_end_reap(fs, 0);
}

/* ---- attributes ------------------------------------------------------------------------------ */

int uext4_setattr(struct uext4_fs *fs, uint32_t ino, const struct uext4_attr *attr)
{
	struct uext4_attr own;
	struct inode *ip;
	int err;

	diag_clear();
	if (!attr)
		return api_invalid("a NULL pointer");
	user_copy_in(&own, attr, sizeof(own));
	err = api_get_inode(fs, ino, &ip);
	if (err == 0) {
		err = attr_set(ip, &own);
		inode_put(ip);
	}
	return api_end_reap(fs, err);
}

static int xattr_change(struct uext4_fs *fs, uint32_t ino, const char *name, const void *value,
			size_t size, uint32_t flags)
{
	char own_name[XATTR_NAME_MAX + 1];
	void *own FREE_SCOPE = NULL;
	struct inode *ip;
	size_t len;
	int err;

	len = strnlen(name, XATTR_NAME_MAX);
	user_copy_in(own_name, name, len);
	own_name[len] = '\0';
	if (len == XATTR_NAME_MAX)
		return fail(-ERANGE, "the name of the attribute is too long");
	if (size > VALUE_MAX)
		return fail(-E2BIG, "an attribute of %zu bytes", size);
	if (value) {
		own = mem_alloc(max_u64(size, 1));
		if (!own)
			return -ENOMEM;
		user_copy_in(own, value, size);
	}
	err = api_get_inode(fs, ino, &ip);
	if (err < 0)
		return err;
	err = attr_xattr_set(ip, own_name, own, size, flags);
	inode_put(ip);
	return err;
}

int uext4_xattr_set(struct uext4_fs *fs, uint32_t ino, const char *name, const void *value,
		    size_t size, uint32_t flags)
{
	diag_clear();
	if (!name || (!value && size != 0))
		return api_invalid("a NULL pointer");
	if (flags & ~(uint32_t)(UEXT4_XATTR_CREATE | UEXT4_XATTR_REPLACE))
		return api_invalid("a flag that this version does not know");
	return api_end_reap(fs, xattr_change(fs, ino, name, value ? value : "", size, flags));
}

int uext4_xattr_remove(struct uext4_fs *fs, uint32_t ino, const char *name)
{
	diag_clear();
	if (!name)
		return api_invalid("a NULL pointer");
	return api_end_reap(fs, xattr_change(fs, ino, name, NULL, 0, UEXT4_XATTR_REPLACE));
}

/* ---- contents -------------------------------------------------------------------------------- */

static int check_writer(const struct uext4_file *file)
{
	return file->flags & UEXT4_FILE_WRITE
		       ? 0
		       : fail(-EBADF, "inode %u is not open for writing", file->ip->ino);
}

static int fsync_file(struct uext4_file *file, bool data_only)
{
	uint64_t seen;
	int err;

	mutex_lock(&file->lock);
	seen = file->error_seen;
	mutex_unlock(&file->lock);
	err = file_fsync(file->ip, data_only, &seen);
	mutex_lock(&file->lock);
	file->error_seen = seen;
	mutex_unlock(&file->lock);
	return err;
}

int uext4_pwrite(struct uext4_file *file, const void *buf, size_t len, uint64_t offset,
		 size_t *ret_written)
{
	uint32_t flags = (file->flags & UEXT4_FILE_APPEND ? FILE_WRITE_APPEND : 0) |
			 (file->flags & UEXT4_FILE_DIRECT ? FILE_WRITE_DIRECT : 0) |
			 (file->flags & UEXT4_FILE_KILL_PRIV ? FILE_WRITE_KILL_PRIV : 0) |
			 (file->flags & UEXT4_FILE_CHECKED ? FILE_WRITE_CHECKED : 0);
	uint64_t at;
	size_t written;
	int err;

	diag_clear();
	err = check_writer(file);
	if (err == 0)
		err = file_write(file->ip, buf, len, offset, flags, &written, &at);
	if (err == 0 && (file->flags & UEXT4_FILE_SYNC))
		err = fsync_file(file, false);
	if (err == 0)
		*ret_written = written;
	return api_end(err);
}

#define FALLOC_FLAGS (UEXT4_FALLOC_KEEP_SIZE | UEXT4_FALLOC_PUNCH_HOLE | UEXT4_FALLOC_ZERO_RANGE)

int uext4_fallocate(struct uext4_file *file, uint32_t flags, uint64_t offset, uint64_t len)
{
	int err;

	diag_clear();
	if (flags & ~(uint32_t)FALLOC_FLAGS)
		return api_end(fail(-EOPNOTSUPP, "a way of fallocate that this version does not "
						 "know"));
	err = check_writer(file);
	if (err == 0)
		err = file_fallocate(
			file->ip,
			flags | (file->flags & UEXT4_FILE_KILL_PRIV ? FILE_FALLOCATE_KILL_PRIV : 0),
			offset, len);
	return api_end(err);
}

int uext4_fsync(struct uext4_file *file, uint32_t flags)
{
	diag_clear();
	if (flags & ~(uint32_t)UEXT4_FSYNC_DATA)
		return api_invalid("a flag that this version does not know");
	return api_end(fsync_file(file, flags & UEXT4_FSYNC_DATA));
}

int uext4_fsync_inode(struct uext4_fs *fs, uint32_t ino, uint32_t flags)
{
	struct inode *ip;
	int err;

	diag_clear();
	if (flags & ~(uint32_t)UEXT4_FSYNC_DATA)
		return api_invalid("a flag that this version does not know");
	err = api_get_inode(fs, ino, &ip);
	if (err < 0)
		return api_end(err);
	err = inode_fsync(ip, flags & UEXT4_FSYNC_DATA);
	inode_put(ip);
	return api_end_reap(fs, err);
}

int uext4_sync(struct uext4_fs *fs)
{
	diag_clear();
	return api_end(fs_sync(fs));
}

int uext4_freeze(struct uext4_fs *fs)
{
	diag_clear();
	return api_end(fs_freeze(fs));
}

int uext4_thaw(struct uext4_fs *fs)
{
	diag_clear();
	return api_end_reap(fs, fs_thaw(fs));
}

/* ---- several changes at once ----------------------------------------------------------------- */

int uext4_txn_begin(struct uext4_fs *fs)
{
	diag_clear();
	return api_end(fs_scope_begin(fs));
}

int uext4_txn_commit(struct uext4_fs *fs)
{
	diag_clear();
	return api_end(fs_scope_commit(fs));
}

int uext4_txn_cancel(struct uext4_fs *fs)
{
	diag_clear();
	return api_end(fs_scope_cancel(fs));
}
