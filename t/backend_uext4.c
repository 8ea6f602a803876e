/* SPDX-License-Identifier: MIT */
/* The library as a backend: nodes are inode numbers. */
#include "backend.h"

#include <errno.h>
#include <string.h>

static int lib_open(struct backend *b)
{
	b->options.size = sizeof(b->options);
	b->options.flags |= UEXT4_OPEN_WRITE;
	return uext4_open(b->image, &b->options, &b->fs);
}

static int lib_close(struct backend *b)
{
	struct uext4_fs *fs = b->fs;

	b->fs = NULL;
	return uext4_close(fs);
}

static int lib_lookup(struct backend *b, const struct target *dir, const char *name, size_t len,
		      uint32_t *ret_ino)
{
	return uext4_lookup(b->fs, dir->node->ino, name, len, ret_ino);
}

static int lib_make(struct backend *b, const struct target *dir, const char *name, size_t len,
		    const struct model_new *new, uint32_t *ret_ino)
{
	if (new->target)
		return uext4_symlink(b->fs, dir->node->ino, name, len, new->target, new->target_len,
				     &new->attrs, ret_ino);
	return uext4_create(b->fs, dir->node->ino, name, len, &new->attrs, ret_ino);
}

static int lib_tmpfile(struct backend *b, const struct target *dir, const struct model_new *new,
		       uint32_t flags, void **ret_file, uint32_t *ret_ino)
{
	struct uext4_file *file;
	int err = uext4_tmpfile(b->fs, dir->node->ino, &new->attrs, flags, &file);

	if (err == 0) {
		*ret_file = file;
		*ret_ino = uext4_file_ino(file);
	}
	return err;
}

static int lib_link(struct backend *b, const struct target *t, const struct target *dir,
		    const char *name, size_t len)
{
	return uext4_link(b->fs, t->node->ino, dir->node->ino, name, len);
}

static int lib_unlink(struct backend *b, const struct target *dir, const char *name, size_t len)
{
	return uext4_unlink(b->fs, dir->node->ino, name, len);
}

static int lib_rmdir(struct backend *b, const struct target *dir, const char *name, size_t len)
{
	return uext4_rmdir(b->fs, dir->node->ino, name, len);
}

static int lib_rename(struct backend *b, const struct target *dir, const char *name, size_t len,
		      const struct target *new_dir, const char *new_name, size_t new_len,
		      uint32_t flags)
{
	return uext4_rename(b->fs, dir->node->ino, name, len, new_dir->node->ino, new_name, new_len,
			    flags);
}

static int lib_stat(struct backend *b, const struct target *t, struct uext4_stat *ret)
{
	return uext4_stat(b->fs, t->node->ino, ret);
}

static int lib_readlink(struct backend *b, const struct target *t, void *buf, size_t size,
			size_t *ret_len)
{
	return uext4_readlink(b->fs, t->node->ino, buf, size, ret_len);
}

static int lib_set_attr(struct backend *b, const struct target *t, const struct uext4_attr *attr)
{
	struct uext4_attr a = *attr;

	if (a.valid & UEXT4_ATTR_FLAGS) {
		/* As chattr: what is not asked for stays. */
		struct uext4_stat st;
		int err = uext4_stat(b->fs, t->node->ino, &st);

		if (err < 0)
			return err;
		a.flags |= st.flags & ~MODEL_FL_ALL;
	}
	return uext4_setattr(b->fs, t->node->ino, &a);
}

static int lib_xattr_set(struct backend *b, const struct target *t, const char *name,
			 const void *value, size_t size, uint32_t flags)
{
	if (!value)
		return uext4_xattr_remove(b->fs, t->node->ino, name);
	return uext4_xattr_set(b->fs, t->node->ino, name, value, size, flags);
}

static int lib_xattr_get(struct backend *b, const struct target *t, const char *name, void *buf,
			 size_t size, size_t *ret_size)
{
	return uext4_xattr_get(b->fs, t->node->ino, name, buf, size, ret_size);
}

static int lib_xattr_list(struct backend *b, const struct target *t, char *buf, size_t size,
			  size_t *ret_size)
{
	return uext4_xattr_list(b->fs, t->node->ino, buf, size, ret_size);
}

static int lib_dir_open(struct backend *b, const struct target *t, void **ret_dir)
{
	struct uext4_dir *dir;
	int err = uext4_dir_open(b->fs, t->node->ino, &dir);

	if (err == 0)
		*ret_dir = dir;
	return err;
}

static int lib_dir_read(struct backend *b, void *dir, uint64_t cookie,
			struct backend_dirent *entries, size_t count, size_t *ret_count)
{
	struct uext4_dirent own[64];
	int err;

	(void)b;
	if (count > 64)
		count = 64;
	err = uext4_dir_read(dir, cookie, own, count, ret_count);
	for (size_t i = 0; err == 0 && i < *ret_count; i++) {
		entries[i].ino = own[i].ino;
		entries[i].type = own[i].type;
		entries[i].cookie = own[i].cookie;
		entries[i].len = own[i].name_len;
		memcpy(entries[i].name, own[i].name, own[i].name_len);
		entries[i].name[own[i].name_len] = '\0';
	}
	return err;
}

static void lib_dir_close(struct backend *b, void *dir)
{
	(void)b;
	uext4_dir_close(dir);
}

static int lib_file_open(struct backend *b, const struct target *t, uint32_t flags, void **ret_file)
{
	struct uext4_file *file;
	int err = uext4_file_open(b->fs, t->node->ino, flags, &file);

	if (err == 0)
		*ret_file = file;
	return err;
}

static void lib_file_close(struct backend *b, void *file)
{
	(void)b;
	uext4_file_close(file);
}

static int lib_read(struct backend *b, void *file, void *buf, size_t len, uint64_t offset,
		    size_t *ret_read)
{
	(void)b;
	return uext4_pread(file, buf, len, offset, ret_read);
}

static int lib_write(struct backend *b, void *file, const void *buf, size_t len, uint64_t offset,
		     size_t *ret_written)
{
	(void)b;
	return uext4_pwrite(file, buf, len, offset, ret_written);
}

static int lib_fallocate(struct backend *b, void *file, uint32_t flags, uint64_t offset,
			 uint64_t len)
{
	(void)b;
	return uext4_fallocate(file, flags, offset, len);
}

static int lib_seek(struct backend *b, void *file, uint64_t offset, enum uext4_seek what,
		    uint64_t *ret_offset)
{
	(void)b;
	return uext4_seek(file, offset, what, ret_offset);
}

static int lib_fsync(struct backend *b, void *file, uint32_t flags)
{
	(void)b;
	return uext4_fsync(file, flags);
}

static int lib_fsync_node(struct backend *b, const struct target *t, uint32_t flags)
{
	return uext4_fsync_inode(b->fs, t->node->ino, flags);
}

static int lib_sync(struct backend *b)
{
	return uext4_sync(b->fs);
}

static int lib_statfs(struct backend *b, struct uext4_statfs *ret)
{
	return uext4_statfs(b->fs, 0, ret);
}

static int lib_freeze(struct backend *b)
{
	return uext4_freeze(b->fs);
}

static int lib_thaw(struct backend *b)
{
	return uext4_thaw(b->fs);
}

static int lib_txn_begin(struct backend *b)
{
	int err = uext4_txn_begin(b->fs);

	return err == -EOPNOTSUPP ? BACKEND_CANNOT : err;
}

static int lib_txn_commit(struct backend *b)
{
	return uext4_txn_commit(b->fs);
}

static int lib_txn_cancel(struct backend *b)
{
	return uext4_txn_cancel(b->fs);
}

const struct backend_ops backend_uext4 = {
	.name = "uext4",
	.open = lib_open,
	.close = lib_close,
	.lookup = lib_lookup,
	.make = lib_make,
	.tmpfile = lib_tmpfile,
	.link = lib_link,
	.unlink = lib_unlink,
	.rmdir = lib_rmdir,
	.rename = lib_rename,
	.stat = lib_stat,
	.readlink = lib_readlink,
	.set_attr = lib_set_attr,
	.xattr_set = lib_xattr_set,
	.xattr_get = lib_xattr_get,
	.xattr_list = lib_xattr_list,
	.dir_open = lib_dir_open,
	.dir_read = lib_dir_read,
	.dir_close = lib_dir_close,
	.file_open = lib_file_open,
	.file_close = lib_file_close,
	.read = lib_read,
	.write = lib_write,
	.fallocate = lib_fallocate,
	.seek = lib_seek,
	.fsync = lib_fsync,
	.fsync_node = lib_fsync_node,
	.sync = lib_sync,
	.statfs = lib_statfs,
	.freeze = lib_freeze,
	.thaw = lib_thaw,
	.txn_begin = lib_txn_begin,
	.txn_commit = lib_txn_commit,
	.txn_cancel = lib_txn_cancel,
};

const char *backend_error(const struct backend *b, int err)
{
	if (err == 0)
		return "success";
	return b->ops->kernel ? strerror(-err) : uext4_last_error();
}
