/* SPDX-License-Identifier: MIT */
/*
 * The FUSE server: requests of the kernel answered out of uext4.h.  Those that change the image are
 * in change.c.
 *
 * The image mostly belongs to this mount alone and changes only through it, so the kernel may keep
 * everything it has once been told: entries (also those that do not exist), attributes, symlinks,
 * listings and pages (but attributes of directories, and of files with several names, only for a
 * second).  What is left for the server is the first touch of each object, and that decides its
 * shape: no open and no release requests, attributes along with listings, big reads.
 * Where the program that serves uses the image itself (share.c) it keeps only pages of open files.
 *
 * F1  A node id is the ext4 inode number, but for the root (1 there, 2 here).  Inode 1 (bad blocks)
 *     is never shown.  Where names can go, nodes.c counts what the kernel knows.
 * F2  Every request is answered exactly once, whatever the engine says.
 * F3  Who may do what is the kernel's business (default_permissions, ACLs) except for one thing
 *     that it leaves to the file system: who sees the names of trusted attributes.
 */
#include "fuse_priv.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <syslog.h>

/* A year, in seconds: forever. */
#define TIMEOUT_FOREVER (365.0 * 86400.0)
#define TIMEOUT_NAMES 1.0

enum {
	BACKGROUND_MAX = 64,
	REPORTS_MAX = 100,	 /* then the log has heard enough of a damaged image */
	INO_FIRST_ORDINARY = 11, /* below it: the root and what users never see */
};

/* Somebody who sees an I/O error wants to know what is wrong with the image. */
static void report(const struct server *server, int err, uint32_t ino)
{
	static atomic_uint reports_count;
	bool is_damage = err == -EUCLEAN || err == -EBADMSG;
	const char *image = server->options->image;

	if (!is_damage && err != -EIO)
		return;
	if (atomic_fetch_add(&reports_count, 1) < REPORTS_MAX) {
		if (server->options->foreground)
			fprintf(stderr, "uext4: %s: inode %u: %s\n", image, ino,
				uext4_last_error());
		else
			syslog(LOG_ERR, "%s: inode %u: %s", image, ino, uext4_last_error());
	}
	if (is_damage && server->options->errors_panic)
		abort();
}

void reply_error(fuse_req_t req, int err, uint32_t ino)
{
	report(server_of(req), err, ino);
	fuse_reply_err(req, -err);
}

void tell_old(const struct server *server, fuse_ino_t node, off_t offset, off_t len)
{
	if (server->session)
		(void)fuse_lowlevel_notify_inval_inode(server->session, node, offset, len);
}

void tell_changed(const struct server *server, fuse_ino_t node)
{
	tell_old(server, node, -1, 0);
}

void reply_status(fuse_req_t req, int err, uint32_t ino)
{
	if (err < 0)
		reply_error(req, err, ino);
	else
		fuse_reply_err(req, 0);
}

/* ---- attributes and names ------------------------------------------------------------------- */

static struct timespec timespec_of(struct uext4_time time)
{
	return (struct timespec){ .tv_sec = time.sec, .tv_nsec = time.nsec };
}

static void fill_attr(const struct server *server, const struct uext4_stat *from, struct stat *attr)
{
	const struct mount_options *options = server->options;

	memset(attr, 0, sizeof(*attr));
	attr->st_ino = from->ino;
	attr->st_mode = from->mode;
	attr->st_nlink = from->nlink;
	attr->st_uid = options->has_uid ? options->uid : from->uid;
	attr->st_gid = options->has_gid ? options->gid : from->gid;
	/* As libfuse defines it; the permissions of a symlink mean nothing and stay. */
	if (options->has_umask && !S_ISLNK(from->mode))
		attr->st_mode = (from->mode & S_IFMT) | (0777 & ~options->umask);
	attr->st_rdev = makedev(from->rdev_major, from->rdev_minor);
	attr->st_size = (off_t)from->size;
	attr->st_blksize = from->block_size;
	attr->st_blocks = (blkcnt_t)from->blocks;
	attr->st_atim = timespec_of(from->atime);
	attr->st_mtim = timespec_of(from->mtime);
	attr->st_ctim = timespec_of(from->ctime);
}

/* How long the kernel may believe what it is told of names. */
static double timeout_of(const struct server *server)
{
	return server->share ? 0 : TIMEOUT_FOREVER;
}

/*
 * And of attributes.  Of a file it knows whether an answer that was under way when it changed is an
 * old one; not so where a name was made or removed.
 */
static double attr_timeout_of(const struct server *server, const struct stat *attr)
{
	bool has_names = S_ISDIR(attr->st_mode) || attr->st_nlink != 1;

	return has_names && !server->share ? TIMEOUT_NAMES : timeout_of(server);
}

static int fill_entry(const struct server *server, uint32_t ino, struct fuse_entry_param *entry)
{
	struct uext4_stat stat;
	int err = uext4_stat(server->fs, ino, &stat);

	if (err < 0)
		return err;
	memset(entry, 0, sizeof(*entry));
	entry->ino = node_of(ino);
	entry->generation = stat.generation;
	fill_attr(server, &stat, &entry->attr);
	entry->attr_timeout = attr_timeout_of(server, &entry->attr);
	entry->entry_timeout = timeout_of(server);
	return 0;
}

/*
 * A file handle of NFS comes back as a lookup of "." in a node that the kernel has forgotten or
 * that somebody has made up; it need not be a directory.
 */
static int lookup_handle(const struct server *server, fuse_ino_t node,
			 struct fuse_entry_param *entry)
{
	int err;

	if (node > UINT32_MAX || (node != FUSE_ROOT_ID && node < INO_FIRST_ORDINARY))
		return -ESTALE;
	err = fill_entry(server, ino_of(node), entry);
	return err == -EINVAL ? -ESTALE : err;
}

static int lookup_name(const struct server *server, fuse_ino_t node, const char *name,
		       struct fuse_entry_param *entry)
{
	uint32_t ino;
	int err;

	err = uext4_lookup(server->fs, ino_of(node), name, strlen(name), &ino);
	if (err < 0)
		return err;
	err = fill_entry(server, ino, entry);
	/* The number came from the image: if it is no inode in use the directory is wrong. */
	return err == -ESTALE || err == -EINVAL ? -EUCLEAN : err;
}

/* The kernel hears of a node: counted before, and not at all if it did not (N1). */
static void reply_entry(fuse_req_t req, const struct fuse_entry_param *entry)
{
	const struct server *server = server_of(req);
	bool is_counted = server->nodes && entry->ino && entry->ino != FUSE_ROOT_ID;

	if (is_counted && nodes_add(server->nodes, ino_of(entry->ino)) < 0) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (fuse_reply_entry(req, entry) < 0 && is_counted)
		(void)nodes_forget(server->nodes, ino_of(entry->ino), 1);
}

void reply_new_entry(fuse_req_t req, int err, uint32_t ino, uint32_t dir)
{
	struct fuse_entry_param entry;

	if (!err)
		err = fill_entry(server_of(req), ino, &entry);
	if (err < 0)
		reply_error(req, err, dir);
	else
		reply_entry(req, &entry);
}

static void op_lookup(fuse_req_t req, fuse_ino_t node, const char *name)
{
	const struct server *server = server_of(req);
	struct fuse_entry_param entry;
	int err;

	if (!strcmp(name, "."))
		err = lookup_handle(server, node, &entry);
	else
		err = lookup_name(server, node, name, &entry);
	if (err == -ENOENT) {
		/* An entry without a node: remembered as not existing. */
		memset(&entry, 0, sizeof(entry));
		entry.entry_timeout = timeout_of(server);
		err = 0;
	}
	if (err < 0)
		reply_error(req, err, ino_of(node));
	else
		reply_entry(req, &entry);
}

void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	const struct server *server = server_of(req);
	struct uext4_stat stat;
	struct stat attr;
	int err;

	(void)fi;
	err = uext4_stat(server->fs, ino_of(node), &stat);
	if (err < 0) {
		reply_error(req, err, ino_of(node));
		return;
	}
	fill_attr(server, &stat, &attr);
	fuse_reply_attr(req, &attr, attr_timeout_of(server, &attr));
}

static void op_readlink(fuse_req_t req, fuse_ino_t node)
{
	char target[4096];
	size_t len;
	int err;

	err = uext4_readlink(server_of(req)->fs, ino_of(node), target, sizeof(target) - 1, &len);
	if (err < 0) {
		reply_error(req, err == -ERANGE ? -ENAMETOOLONG : err, ino_of(node));
		return;
	}
	target[len] = '\0';
	fuse_reply_readlink(req, target);
}

static void op_statfs(fuse_req_t req, fuse_ino_t node)
{
	const struct server *server = server_of(req);
	struct uext4_statfs from;
	struct statvfs to;
	int err;

	err = uext4_statfs(server->fs, server->options->statfs_flags, &from);
	if (err < 0) {
		reply_error(req, err, ino_of(node));
		return;
	}
	memset(&to, 0, sizeof(to));
	to.f_bsize = from.block_size;
	to.f_frsize = from.block_size;
	to.f_blocks = from.blocks;
	to.f_bfree = from.blocks_free;
	to.f_bavail = from.blocks_available;
	to.f_files = from.inodes;
	to.f_ffree = from.inodes_free;
	to.f_favail = from.inodes_free;
	to.f_namemax = from.name_max;
	fuse_reply_statfs(req, &to);
}

/* ---- files ---------------------------------------------------------------------------------- */

/* Whether pages are kept is share.c's business; those of an earlier open may be old. */
static void open_shared(fuse_req_t req, uint32_t ino, struct fuse_file_info *fi)
{
	struct share *share = server_of(req)->share;
	bool direct;
	int err;

	err = share_open(share, ino, &direct);
	if (err < 0) {
		reply_error(req, err, ino);
		return;
	}
	fi->direct_io = direct;
	fi->keep_cache = 0;
	fi->noflush = 1;
	fi->fh = direct;
	if (fuse_reply_open(req, fi) < 0)
		share_release(share, ino, direct);
}

/* Asked once: the refusal means "open and release without asking" where the kernel can. */
static void op_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	if (server_of(req)->share) {
		open_shared(req, ino_of(node), fi);
		return;
	}
	if (server_of(req)->has_no_open) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	fi->keep_cache = 1;
	fi->noflush = 1;
	fuse_reply_open(req, fi);
}

static void op_release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	if (server_of(req)->share)
		share_release(server_of(req)->share, ino_of(node), fi->fh);
	fuse_reply_err(req, 0);
}

static void op_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
		    struct fuse_file_info *fi)
{
	struct handles *handles = server_of(req)->handles;
	struct open_file *file;
	void *buffer = thread_buffer(size);
	size_t len;
	int err;

	(void)fi;
	if (!buffer) {
		reply_error(req, -ENOMEM, ino_of(node));
		return;
	}
	err = handles_get_file(handles, ino_of(node), 0, &file);
	if (err < 0) {
		reply_error(req, err, ino_of(node));
		return;
	}
	err = uext4_pread(file->file, buffer, size, (uint64_t)offset, &len);
	/* The text of an error is this thread's last one: report before the next call. */
	if (err < 0)
		reply_error(req, err, ino_of(node));
	else
		fuse_reply_buf(req, buffer, len);
	handles_put_file(handles, file);
}

static void op_lseek(fuse_req_t req, fuse_ino_t node, off_t offset, int whence,
		     struct fuse_file_info *fi)
{
	struct handles *handles = server_of(req)->handles;
	enum uext4_seek what = whence == SEEK_DATA ? UEXT4_SEEK_DATA : UEXT4_SEEK_HOLE;
	struct open_file *file;
	uint64_t found;
	int err;

	(void)fi;
	if (whence != SEEK_DATA && whence != SEEK_HOLE) {
		reply_error(req, -EINVAL, ino_of(node));
		return;
	}
	err = handles_get_file(handles, ino_of(node), 0, &file);
	if (err < 0) {
		reply_error(req, err, ino_of(node));
		return;
	}
	err = uext4_seek(file->file, (uint64_t)offset, what, &found);
	if (err < 0)
		reply_error(req, err, ino_of(node));
	else
		fuse_reply_lseek(req, (off_t)found);
	handles_put_file(handles, file);
}

/* ---- directories ---------------------------------------------------------------------------- */

static void op_opendir(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	(void)node;
	if (server_of(req)->has_no_opendir) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	fi->keep_cache = !server_of(req)->share;
	fi->cache_readdir = !server_of(req)->share;
	fuse_reply_open(req, fi);
}

static mode_t mode_of_type(uint8_t type)
{
	static const mode_t modes[] = {
		[UEXT4_FT_REG] = S_IFREG, [UEXT4_FT_DIR] = S_IFDIR,  [UEXT4_FT_CHR] = S_IFCHR,
		[UEXT4_FT_BLK] = S_IFBLK, [UEXT4_FT_FIFO] = S_IFIFO, [UEXT4_FT_SOCK] = S_IFSOCK,
		[UEXT4_FT_LNK] = S_IFLNK,
	};

	return type < sizeof(modes) / sizeof(modes[0]) ? modes[type] : 0;
}

static bool is_dot_or_dotdot(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* Returns the bytes that the entry takes; more than @size: it does not fit, nothing is written. */
static size_t add_plain(fuse_req_t req, const struct uext4_dirent *from, char *buf, size_t size)
{
	struct stat attr;

	memset(&attr, 0, sizeof(attr));
	attr.st_ino = from->ino;
	attr.st_mode = mode_of_type(from->type);
	return fuse_add_direntry(req, buf, size, from->name, &attr, (off_t)from->cookie);
}

static size_t add_with_attr(fuse_req_t req, const struct uext4_dirent *from, char *buf, size_t size)
{
	const struct server *server = server_of(req);
	struct fuse_entry_param entry;
	size_t needed = fuse_add_direntry_plus(req, NULL, 0, from->name, NULL, 0);
	int err;

	if (needed > size)
		return needed;
	/* The kernel takes no attributes of these two; without a node only the name counts. */
	err = is_dot_or_dotdot(from->name) ? -ENOENT : fill_entry(server, from->ino, &entry);
	if (err < 0) {
		/* A broken inode must not hide its neighbours: whoever looks it up hears of it. */
		memset(&entry, 0, sizeof(entry));
		entry.attr.st_ino = from->ino;
		entry.attr.st_mode = mode_of_type(from->type);
	}
	/*
	 * What is never sent (the reply fails) stays counted: that can only keep a file too long.
	 */
	if (entry.ino && entry.ino != FUSE_ROOT_ID && server->nodes &&
	    nodes_add(server->nodes, from->ino) < 0)
		entry.ino = 0;
	return fuse_add_direntry_plus(req, buf, size, from->name, &entry, (off_t)from->cookie);
}

typedef size_t (*add_entry_fn)(fuse_req_t req, const struct uext4_dirent *from, char *buf,
			       size_t size);

static void list(fuse_req_t req, uint32_t ino, size_t size, uint64_t cookie, add_entry_fn add_entry)
{
	struct handles *handles = server_of(req)->handles;
	const struct uext4_dirent *entry;
	struct open_dir *dir;
	char *buf = thread_buffer(size);
	size_t used = 0;
	size_t len;
	int err;

	if (!buf) {
		reply_error(req, -ENOMEM, ino);
		return;
	}
	err = handles_take_dir(handles, ino, cookie, &dir);
	if (err < 0) {
		reply_error(req, err, ino);
		return;
	}
	for (;;) {
		err = open_dir_peek(dir, &entry);
		if (err < 0 || !entry)
			break;
		len = add_entry(req, entry, buf + used, size - used);
		if (len > size - used)
			break;
		used += len;
		open_dir_advance(dir);
	}
	/* What was found is delivered first; the next request meets the error again. */
	if (err < 0 && used == 0)
		reply_error(req, err, ino);
	else
		fuse_reply_buf(req, buf, used);
	handles_give_dir(handles, dir);
}

static void op_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
		       struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino_of(node), size, (uint64_t)offset, add_plain);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
			   struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino_of(node), size, (uint64_t)offset, add_with_attr);
}

/* ---- extended attributes -------------------------------------------------------------------- */

bool xattr_is_hidden(const struct server *server, const char *name, bool is_privileged)
{
	if (!strncmp(name, "trusted.", 8))
		return !is_privileged && !server->options->fakeroot;
	if (!strncmp(name, "system.posix_acl_", 17))
		return server->hide_acl;
	return false;
}

static void op_getxattr(fuse_req_t req, fuse_ino_t node, const char *name, size_t size)
{
	const struct server *server = server_of(req);
	char *value = thread_buffer(size);
	size_t len;
	int err;

	if (!value)
		err = -ENOMEM;
	else if (xattr_is_hidden(server, name, true))
		err = -EOPNOTSUPP;
	else
		err = uext4_xattr_get(server->fs, ino_of(node), name, value, size, &len);
	if (err < 0)
		reply_error(req, err, ino_of(node));
	else if (size == 0)
		fuse_reply_xattr(req, len);
	else
		fuse_reply_buf(req, value, len);
}

/* Keeps the names that the caller may see, in place; returns their size. */
static size_t filter_names(const struct server *server, char *names, size_t size,
			   bool is_privileged)
{
	size_t kept = 0;
	size_t len;

	for (size_t at = 0; at < size; at += len) {
		len = strlen(names + at) + 1;
		if (xattr_is_hidden(server, names + at, is_privileged))
			continue;
		memmove(names + kept, names + at, len);
		kept += len;
	}
	return kept;
}

static void op_listxattr(fuse_req_t req, fuse_ino_t node, size_t size)
{
	const struct server *server = server_of(req);
	bool is_privileged = fuse_req_ctx(req)->uid == 0;
	char *names = thread_buffer(XATTR_LIST_MAX);
	size_t len;
	int err;

	/* The whole list, even where only the size is asked for: it depends on who asks. */
	if (!names)
		err = -ENOMEM;
	else
		err = uext4_xattr_list(server->fs, ino_of(node), names, XATTR_LIST_MAX, &len);
	if (err < 0) {
		reply_error(req, err == -ERANGE ? -E2BIG : err, ino_of(node));
		return;
	}
	len = filter_names(server, names, len, is_privileged);
	if (size == 0)
		fuse_reply_xattr(req, len);
	else if (len > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, names, len);
}

/* ---- ioctl ---------------------------------------------------------------------------------- */

static const struct {
	uint32_t flag;
	uint32_t xflag;
} flag_pairs[] = {
	{ FS_SYNC_FL, FS_XFLAG_SYNC },
	{ FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE },
	{ FS_APPEND_FL, FS_XFLAG_APPEND },
	{ FS_NODUMP_FL, FS_XFLAG_NODUMP },
	{ FS_NOATIME_FL, FS_XFLAG_NOATIME },
	{ FS_DAX_FL, FS_XFLAG_DAX },
	{ FS_PROJINHERIT_FL, FS_XFLAG_PROJINHERIT },
};

#define FLAG_PAIRS (sizeof(flag_pairs) / sizeof(flag_pairs[0]))

/* i_flags as FS_IOC_FSGETXATTR shows them. */
static uint32_t xflags_of(uint32_t flags)
{
	uint32_t xflags = 0;

	for (size_t i = 0; i < FLAG_PAIRS; i++) {
		if (flags & flag_pairs[i].flag)
			xflags |= flag_pairs[i].xflag;
	}
	return xflags;
}

uint32_t flags_with_xflags(uint32_t flags, uint32_t xflags)
{
	for (size_t i = 0; i < FLAG_PAIRS; i++) {
		flags &= ~flag_pairs[i].flag;
		if (xflags & flag_pairs[i].xflag)
			flags |= flag_pairs[i].flag;
	}
	return flags;
}

static void op_ioctl(fuse_req_t req, fuse_ino_t node, unsigned cmd, void *arg,
		     struct fuse_file_info *fi, unsigned flags, const void *in_buf, size_t in_size,
		     size_t out_size)
{
	struct fsxattr fsxattr;
	struct uext4_stat stat;
	const void *answer;
	uint32_t word;
	size_t len;
	int err;

	(void)arg;
	(void)fi;
	(void)flags;
	if (cmd == FS_IOC_SETFLAGS || cmd == FS_IOC_FSSETXATTR) {
		err = ioctl_set(server_of(req), ino_of(node), cmd, in_buf, in_size);
		if (err == 0)
			tell_changed(server_of(req), node);
		if (err < 0)
			reply_error(req, err, ino_of(node));
		else
			fuse_reply_ioctl(req, 0, NULL, 0);
		return;
	}
	err = uext4_stat(server_of(req)->fs, ino_of(node), &stat);
	if (err < 0) {
		reply_error(req, err, ino_of(node));
		return;
	}
	answer = &word;
	len = sizeof(word);
	switch (cmd) {
	case FS_IOC_GETFLAGS: word = stat.flags; break;
	case FS_IOC_GETVERSION:
		/* The number says long; the word has always been an int. */
		word = stat.generation;
		break;
	case FS_IOC_FSGETXATTR:
		memset(&fsxattr, 0, sizeof(fsxattr));
		fsxattr.fsx_xflags = xflags_of(stat.flags);
		fsxattr.fsx_projid = stat.projid;
		answer = &fsxattr;
		len = sizeof(fsxattr);
		break;
	default: fuse_reply_err(req, ENOTTY); return;
	}
	if (out_size < len)
		fuse_reply_err(req, EINVAL);
	else
		fuse_reply_ioctl(req, 0, answer, len);
}

/* ---- connection ----------------------------------------------------------------------------- */

static void want(struct fuse_conn_info *conn, unsigned caps)
{
	conn->want |= conn->capable & caps;
}

/*
 * The kernel is not alone: it has to say what it opens, compare times before it reads pages of its
 * own, and believe our sizes, which it does not while it keeps what is written.
 */
static void init_shared(struct server *server, struct fuse_conn_info *conn)
{
	server->has_no_open = false;
	server->has_no_opendir = false;
	want(conn, FUSE_CAP_AUTO_INVAL_DATA);
	conn->want &= ~(unsigned)FUSE_CAP_WRITEBACK_CACHE;
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct server *server = userdata;

	want(conn, FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_EXPORT_SUPPORT |
			   FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_IOCTL_DIR | FUSE_CAP_READDIRPLUS);
	/* Nothing changes behind the kernel's back: no need to compare times before each read. */
	conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_READDIRPLUS_AUTO);
	/* Data comes out of memory: splicing would copy it once more. */
	conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
				  FUSE_CAP_SPLICE_MOVE);
	if (server->use_acl)
		want(conn, FUSE_CAP_POSIX_ACL);
	/* The engine applies the umask: it knows where a default ACL takes its place. */
	want(conn, FUSE_CAP_DONT_MASK);
	server->has_no_open = conn->capable & FUSE_CAP_NO_OPEN_SUPPORT;
	server->has_no_opendir = conn->capable & FUSE_CAP_NO_OPENDIR_SUPPORT;

	/* What the kernel says of times has to be what is kept. */
	if (server->seconds_only)
		conn->time_gran = 1000000000;
	conn->max_read = server->options->read_bytes_max;
	conn->max_readahead = server->options->readahead_bytes;
	conn->max_background = BACKGROUND_MAX;
	conn->congestion_threshold = BACKGROUND_MAX * 3 / 4;
	fuse_apply_conn_info_opts(server->conn_opts, conn);
	/* O_TRUNC has to come as a request of its own: opens mostly do not come at all. */
	conn->want &= ~(unsigned)FUSE_CAP_ATOMIC_O_TRUNC;
	if (server->share)
		init_shared(server, conn);
}

const struct fuse_lowlevel_ops server_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.getattr = op_getattr,
	.readlink = op_readlink,
	.open = op_open,
	.release = op_release,
	.read = op_read,
	.lseek = op_lseek,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.statfs = op_statfs,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.ioctl = op_ioctl,

	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.symlink = op_symlink,
	.link = op_link,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.rename = op_rename,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.setattr = op_setattr,
	.setxattr = op_setxattr,
	.removexattr = op_removexattr,
	.write = op_write,
	.fallocate = op_fallocate,
	.fsync = op_fsync,
	.fsyncdir = op_fsyncdir,
};
