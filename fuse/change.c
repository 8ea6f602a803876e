/* SPDX-License-Identifier: MIT */
/*
 * The FUSE server: requests that change the image.
 *
 * Each is one call of uext4.h; what is added here is what the kernel's side of FUSE needs: counts
 * of the inodes it was told of, and inodes that are kept without a name (nodes.c).
 */
#include "fuse_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static struct uext4_new new_of(fuse_req_t req, mode_t mode, dev_t rdev)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct uext4_new){
		.mode = mode,
		.umask = ctx->umask,
		.uid = ctx->uid,
		.gid = ctx->gid,
		.rdev_major = major(rdev),
		.rdev_minor = minor(rdev),
	};
}

/* ---- names ---------------------------------------------------------------------------------- */

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct uext4_new new = new_of(req, mode, rdev);
	uint32_t ino;
	int err;

	err = uext4_create(server_of(req)->fs, ino_of(parent), name, strlen(name), &new, &ino);
	reply_new_entry(req, err, ino, ino_of(parent));
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	op_mknod(req, parent, name, S_IFDIR | (mode & 07777), 0);
}

void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct uext4_new new = new_of(req, S_IFLNK | 0777, 0);
	uint32_t ino;
	int err;

	err = uext4_symlink(server_of(req)->fs, ino_of(parent), name, strlen(name), target,
			    strlen(target), &new, &ino);
	reply_new_entry(req, err, ino, ino_of(parent));
}

void op_link(fuse_req_t req, fuse_ino_t node, fuse_ino_t parent, const char *name)
{
	int err = uext4_link(server_of(req)->fs, ino_of(node), ino_of(parent), name, strlen(name));

	reply_new_entry(req, err, ino_of(node), ino_of(parent));
}

/*
 * A name is about to go: if the kernel knows its inode that is held (N2).  0: there is no name, or
 * nothing is to be held.
 */
static uint32_t hold_name(const struct server *server, uint32_t dir, const char *name)
{
	uint32_t ino;

	if (uext4_lookup(server->fs, dir, name, strlen(name), &ino) < 0)
		return 0;
	return nodes_hold(server->nodes, ino) ? ino : 0;
}

/* It went, or not: only an inode without a name goes on being held, until it is forgotten. */
static void settle_hold(const struct server *server, uint32_t ino)
{
	struct uext4_stat stat;

	if (ino && (uext4_stat(server->fs, ino, &stat) < 0 || stat.nlink > 0))
		nodes_unhold(server->nodes, ino);
}

typedef int (*remove_fn)(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len);

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, remove_fn remove)
{
	const struct server *server = server_of(req);
	uint32_t held = hold_name(server, ino_of(parent), name);
	int err = remove(server->fs, ino_of(parent), name, strlen(name));

	reply_status(req, err, ino_of(parent));
	settle_hold(server, held);
}

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_name(req, parent, name, uext4_unlink);
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_name(req, parent, name, uext4_rmdir);
}

/* A directory has another parent: the listing of it that the kernel keeps says which one. */
static void tell_moved(const struct server *server, uint32_t dir, const char *name)
{
	struct uext4_stat stat;
	uint32_t ino;

	if (uext4_lookup(server->fs, dir, name, strlen(name), &ino) < 0 ||
	    uext4_stat(server->fs, ino, &stat) < 0 || !S_ISDIR(stat.mode))
		return;
	tell_old(server, node_of(ino), 0, 0);
}

/* The flags of renameat2(2) are ours. */
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	       const char *new_name, unsigned flags)
{
	const struct server *server = server_of(req);
	uint32_t held = 0;
	int err;

	if (!(flags & (UEXT4_RENAME_EXCHANGE | UEXT4_RENAME_NOREPLACE)))
		held = hold_name(server, ino_of(new_parent), new_name);
	err = uext4_rename(server->fs, ino_of(parent), name, strlen(name), ino_of(new_parent),
			   new_name, strlen(new_name), flags);
	if (!err && parent != new_parent) {
		tell_moved(server, ino_of(new_parent), new_name);
		if (flags & UEXT4_RENAME_EXCHANGE)
			tell_moved(server, ino_of(parent), name);
	}
	reply_status(req, err, ino_of(parent));
	settle_hold(server, held);
}

static void forget(const struct server *server, fuse_ino_t node, uint64_t lookups)
{
	if (node == FUSE_ROOT_ID || !server->nodes)
		return;
	/* Nobody has it open: what we keep open of it would keep it from going. */
	if (nodes_forget(server->nodes, ino_of(node), lookups))
		handles_forget(server->handles, ino_of(node));
}

void op_forget(fuse_req_t req, fuse_ino_t node, uint64_t lookups)
{
	forget(server_of(req), node, lookups);
	fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		forget(server_of(req), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

/* ---- attributes ------------------------------------------------------------------------------ */

static struct uext4_time time_of(struct timespec t)
{
	return (struct uext4_time){ .sec = t.tv_sec, .nsec = (uint32_t)t.tv_nsec };
}

void op_setattr(fuse_req_t req, fuse_ino_t node, struct stat *attr, int to_set,
		struct fuse_file_info *fi)
{
	static const struct {
		int from;
		uint32_t to;
	} bits[] = {
		{ FUSE_SET_ATTR_MODE, UEXT4_ATTR_MODE },
		{ FUSE_SET_ATTR_UID, UEXT4_ATTR_UID },
		{ FUSE_SET_ATTR_GID, UEXT4_ATTR_GID },
		{ FUSE_SET_ATTR_SIZE, UEXT4_ATTR_SIZE },
		{ FUSE_SET_ATTR_ATIME, UEXT4_ATTR_ATIME },
		{ FUSE_SET_ATTR_MTIME, UEXT4_ATTR_MTIME },
		{ FUSE_SET_ATTR_ATIME_NOW, UEXT4_ATTR_ATIME_NOW },
		{ FUSE_SET_ATTR_MTIME_NOW, UEXT4_ATTR_MTIME_NOW },
	};
	struct uext4_attr to = {
		.mode = attr->st_mode & 07777,
		.uid = attr->st_uid,
		.gid = attr->st_gid,
		.size = (uint64_t)attr->st_size,
		.atime = time_of(attr->st_atim),
		.mtime = time_of(attr->st_mtim),
	};
	int err;

	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++) {
		if (to_set & bits[i].from)
			to.valid |= bits[i].to;
	}
	/* A time that is now has a number as well: it is not the user who names one. */
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		to.valid &= ~(uint32_t)UEXT4_ATTR_ATIME;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		to.valid &= ~(uint32_t)UEXT4_ATTR_MTIME;
	if (wire_kills_privileges())
		to.valid |= UEXT4_ATTR_KILL_PRIV;
	err = uext4_setattr(server_of(req)->fs, ino_of(node), &to);
	if (err < 0)
		reply_error(req, err, ino_of(node));
	else
		op_getattr(req, node, fi);
}

/* The mode follows an ACL; a kernel that does not enforce ACLs does not know. */
static void follow_acl(const struct server *server, fuse_ino_t node, const char *name)
{
	if (!server->use_acl && !strcmp(name, "system.posix_acl_access"))
		tell_changed(server, node);
}

void op_setxattr(fuse_req_t req, fuse_ino_t node, const char *name, const char *value, size_t size,
		 int flags)
{
	const struct server *server = server_of(req);
	uint32_t how = (flags & 1 ? UEXT4_XATTR_CREATE : 0) | (flags & 2 ? UEXT4_XATTR_REPLACE : 0);
	int err = -EOPNOTSUPP;

	if (!xattr_is_hidden(server, name, true))
		err = uext4_xattr_set(server->fs, ino_of(node), name, value, size, how);
	if (err == 0)
		follow_acl(server, node, name);
	reply_status(req, err, ino_of(node));
}

void op_removexattr(fuse_req_t req, fuse_ino_t node, const char *name)
{
	const struct server *server = server_of(req);
	int err = -EOPNOTSUPP;

	if (!xattr_is_hidden(server, name, true))
		err = uext4_xattr_remove(server->fs, ino_of(node), name);
	reply_status(req, err, ino_of(node));
}

/* A handle from before the file was append-only would write anywhere, for whoever comes. */
static int set_flags(const struct server *server, uint32_t ino, const struct uext4_attr *attr)
{
	int err = uext4_setattr(server->fs, ino, attr);

	if (err == 0 && attr->flags & FS_APPEND_FL)
		handles_forget(server->handles, ino);
	return err;
}

int ioctl_set(const struct server *server, uint32_t ino, unsigned cmd, const void *in,
	      size_t in_size)
{
	struct uext4_attr attr = { 0 };
	struct fsxattr fsxattr;
	struct uext4_stat stat;
	uint32_t word;
	int err;

	if (cmd == FS_IOC_SETFLAGS) {
		if (in_size < sizeof(word))
			return -EINVAL;
		memcpy(&word, in, sizeof(word));
		attr.valid = UEXT4_ATTR_FLAGS;
		attr.flags = word;
		return set_flags(server, ino, &attr);
	}
	if (in_size < sizeof(fsxattr))
		return -EINVAL;
	memcpy(&fsxattr, in, sizeof(fsxattr));
	if (fsxattr.fsx_extsize || fsxattr.fsx_cowextsize)
		return -EOPNOTSUPP;
	err = uext4_stat(server->fs, ino, &stat);
	if (err < 0)
		return err;
	attr.valid = UEXT4_ATTR_FLAGS | UEXT4_ATTR_PROJID;
	attr.flags = flags_with_xflags(stat.flags, fsxattr.fsx_xflags);
	attr.projid = fsxattr.fsx_projid;
	if (attr.projid == stat.projid)
		attr.valid &= ~(uint32_t)UEXT4_ATTR_PROJID;
	return set_flags(server, ino, &attr);
}

/* ---- contents -------------------------------------------------------------------------------- */

/*
 * @is_checked: where the image belongs to the kernel alone it has done what write(2) does first;
 * setuid and setgid it leaves to us.
 */
static int get_writer(fuse_req_t req, fuse_ino_t node, bool is_checked, struct open_file **ret_file)
{
	const struct server *server = server_of(req);
	uint32_t flags = UEXT4_FILE_WRITE;

	if (is_checked && !server->share)
		flags |= UEXT4_FILE_CHECKED;
	if (wire_kills_privileges())
		flags |= UEXT4_FILE_KILL_PRIV;
	return handles_get_file(server->handles, ino_of(node), flags, ret_file);
}

void op_write(fuse_req_t req, fuse_ino_t node, const char *buf, size_t size, off_t offset,
	      struct fuse_file_info *fi)
{
	struct handles *handles = server_of(req)->handles;
	struct open_file *file;
	size_t written;
	int err;

	/* An append-only file is for these; the kernel does not know that it is one. */
	err = get_writer(req, node, fi->writepage || fi->flags & O_APPEND, &file);
	if (err < 0) {
		reply_error(req, err, ino_of(node));
		return;
	}
	err = uext4_pwrite(file->file, buf, size, (uint64_t)offset, &written);
	if (err < 0)
		reply_error(req, err, ino_of(node));
	else
		fuse_reply_write(req, written);
	handles_put_file(handles, file);
}

/*
 * A part of it may have been done: what the kernel keeps is old.  Its pages it gives up only once
 * it has its answers about them, so there has to be somebody else who gives them.
 */
static void tell_done_in_part(const struct server *server, fuse_ino_t node, int mode, off_t offset,
			      off_t len)
{
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) &&
	    session_readers(server->options) > 1)
		tell_old(server, node, offset, len);
	else
		tell_changed(server, node);
}

void op_fallocate(fuse_req_t req, fuse_ino_t node, int mode, off_t offset, off_t len,
		  struct fuse_file_info *fi)
{
	const struct server *server = server_of(req);
	struct open_file *file;
	int err;

	(void)fi;
	err = get_writer(req, node, true, &file);
	if (err < 0) {
		reply_error(req, err, ino_of(node));
		return;
	}
	/* The flags are those of fallocate(2). */
	err = uext4_fallocate(file->file, (uint32_t)mode, (uint64_t)offset, (uint64_t)len);
	if (err < 0)
		tell_done_in_part(server, node, mode, offset, len);
	reply_status(req, err, ino_of(node));
	handles_put_file(server->handles, file);
}

void op_fsync(fuse_req_t req, fuse_ino_t node, int datasync, struct fuse_file_info *fi)
{
	struct handles *handles = server_of(req)->handles;
	struct open_file *file;
	int err;

	(void)fi;
	err = handles_get_file(handles, ino_of(node), 0, &file);
	if (err < 0) {
		reply_error(req, err, ino_of(node));
		return;
	}
	err = uext4_fsync(file->file, datasync ? UEXT4_FSYNC_DATA : 0);
	reply_status(req, err, ino_of(node));
	handles_put_file(handles, file);
}

/*
 * FUSE does not pass syncfs(2) on, so there has to be another way to say it: whoever syncs the
 * root, as `sync DIR` does, has all of the file system on the disk.
 */
void op_fsyncdir(fuse_req_t req, fuse_ino_t node, int datasync, struct fuse_file_info *fi)
{
	struct uext4_fs *fs = server_of(req)->fs;
	int err;

	(void)fi;
	if (node == FUSE_ROOT_ID)
		err = uext4_sync(fs);
	else
		err = uext4_fsync_inode(fs, ino_of(node), datasync ? UEXT4_FSYNC_DATA : 0);
	reply_status(req, err, ino_of(node));
}
