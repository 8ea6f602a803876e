/* SPDX-License-Identifier: MIT */
/*
 * The kernel as a backend: the image is mounted through a loop device, nodes are found by their
 * names, one openat() a component.  File contents are read and written by system calls only, never
 * mapped (but with our own mount: backend_fuse.c).
 */
#include "backend.h"
#include "tool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define DEPTH_MAX 64u

#ifndef FS_IOC_GETVERSION
#define FS_IOC_GETVERSION _IOR('v', 1, long)
#endif

struct file {
	int fd;
};

struct dir {
	DIR *stream;
};

static int result(long r)
{
	return r < 0 ? -errno : 0;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
#define FD_SCOPE __attribute__((cleanup(close_fd)))

/* ---- finding nodes -------------------------------------------------------------------------- */

/* A descriptor of directory @n for the calls that end in -at(). */
static int dir_fd(struct backend *b, const struct model_node *n)
{
	const struct model_entry *chain[DEPTH_MAX];
	unsigned depth = 0;
	int fd;

	if (!n->parent)
		return -ENOENT;
	for (; n->parent != n; n = n->parent) {
		if (depth == DEPTH_MAX)
			die("a directory too deep");
		chain[depth++] = n->links;
	}
	fd = fcntl(b->root, F_DUPFD_CLOEXEC, 0);
	while (fd >= 0 && depth > 0) {
		int next = openat(fd, chain[--depth]->name,
				  O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		int err = errno;

		close(fd);
		errno = err;
		fd = next;
	}
	return fd < 0 ? -errno : fd;
}

/*
 * What a call needs to reach a node: the directory and the name, which is "." for a directory
 * itself; of a node without a name an open descriptor.
 */
struct place {
	int dir; /* or -1 */
	int fd;	 /* or -1; not ours */
	const char *name;
	char proc[300]; /* a path for calls that know no other way */
};

static int find(struct backend *b, const struct target *t, struct place *p)
{
	const struct model_node *n = t->node;
	int fd;

	*p = (struct place){ .dir = -1, .fd = -1, .name = "." };
	if (model_is_dir(n) && !n->parent)
		return -ENOENT;
	if (!model_is_dir(n) && !n->links) {
		if (!t->file)
			die("node %u has no name and is not open", n->id);
		p->fd = ((struct file *)t->file)->fd;
		snprintf(p->proc, sizeof(p->proc), "/proc/self/fd/%d", p->fd);
		return 0;
	}
	if (!model_is_dir(n))
		p->name = n->links->name;
	fd = dir_fd(b, model_is_dir(n) ? n : n->links->dir);
	if (fd < 0)
		return fd;
	p->dir = fd;
	snprintf(p->proc, sizeof(p->proc), "/proc/self/fd/%d/%s", fd, p->name);
	return 0;
}

static void put_place(struct place *p)
{
	close_fd(&p->dir);
}
#define PLACE_SCOPE __attribute__((cleanup(put_place)))

/* For reading attributes that only ioctl() knows. */
static int open_place(const struct place *p, int flags)
{
	int fd = p->fd >= 0 ? open(p->proc, flags | O_CLOEXEC)
			    : openat(p->dir, p->name, flags | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* ---- mounting ------------------------------------------------------------------------------- */

static int posix_open(struct backend *b)
{
	const char *argv[] = { "mount",		 "-t",	   "ext4",	 "-o",
			       b->mount_options, b->image, b->mount_dir, NULL };
	char *output;

	if (run_program(argv, &output) != 0)
		die("mount: %s", output);
	free(output);
	b->root = open(b->mount_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return result(b->root);
}

static int posix_close(struct backend *b)
{
	const char *argv[] = { "umount", b->mount_dir, NULL };
	const char *losetup[] = { "losetup", "-n", "-O", "NAME", "-j", b->image, NULL };
	bool attached = true;
	char *output;

	close(b->root);
	if (run_program(argv, &output) != 0)
		die("umount: %s", output);
	free(output);
	/* The loop device goes a little later. */
	for (unsigned i = 0; attached && i < 1000; i++) {
		run_program(losetup, &output);
		attached = output[0] != '\0';
		free(output);
		if (attached)
			usleep(10000);
	}
	return 0;
}

/* ---- names ---------------------------------------------------------------------------------- */

static const char *terminated(const char *name, size_t len, char buf[512])
{
	if (len > 511)
		len = 511;
	memcpy(buf, name, len);
	buf[len] = '\0';
	return buf;
}

static int ino_of(int dir, const char *name, uint32_t *ret_ino)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	*ret_ino = (uint32_t)st.st_ino;
	return 0;
}

static int posix_lookup(struct backend *b, const struct target *t, const char *name, size_t len,
			uint32_t *ret_ino)
{
	int dir FD_SCOPE = dir_fd(b, t->node);
	char buf[512];

	return dir < 0 ? dir : ino_of(dir, terminated(name, len, buf), ret_ino);
}

static int posix_make(struct backend *b, const struct target *t, const char *name, size_t len,
		      const struct model_new *new, uint32_t *ret_ino)
{
	int dir FD_SCOPE = dir_fd(b, t->node);
	uint32_t mode = new->attrs.mode;
	char buf[512];
	long r;

	if (dir < 0)
		return dir;
	name = terminated(name, len, buf);
	if (new->target) {
		char *target = must_alloc(new->target_len + 1);

		memcpy(target, new->target, new->target_len);
		r = symlinkat(target, dir, name);
		free(target);
	} else if (S_ISDIR(mode)) {
		r = mkdirat(dir, name, mode);
	} else {
		r = mknodat(dir, name, mode, makedev(new->attrs.rdev_major, new->attrs.rdev_minor));
	}
	return r < 0 ? -errno : ino_of(dir, name, ret_ino);
}

static int open_flags(uint32_t flags)
{
	return O_CLOEXEC | O_NOFOLLOW | (flags & UEXT4_FILE_WRITE ? O_RDWR : O_RDONLY) |
	       (flags & UEXT4_FILE_APPEND ? O_APPEND : 0) | (flags & UEXT4_FILE_SYNC ? O_SYNC : 0);
}

static void *file_of(int fd)
{
	struct file *f = must_alloc(sizeof(*f));

	f->fd = fd;
	return f;
}

static int posix_tmpfile(struct backend *b, const struct target *t, const struct model_new *new,
			 uint32_t flags, void **ret_file, uint32_t *ret_ino)
{
	int dir FD_SCOPE = dir_fd(b, t->node);
	struct stat st;
	int fd;

	if (dir < 0)
		return dir;
	fd = openat(dir, ".", (open_flags(flags | UEXT4_FILE_WRITE) & ~O_NOFOLLOW) | O_TMPFILE,
		    new->attrs.mode & 07777);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		die("fstat: %s", strerror(errno));
	*ret_file = file_of(fd);
	*ret_ino = (uint32_t)st.st_ino;
	return 0;
}

static int posix_link(struct backend *b, const struct target *t, const struct target *to,
		      const char *name, size_t len)
{
	int dir FD_SCOPE = dir_fd(b, to->node);
	struct place p PLACE_SCOPE = { .dir = -1 };
	char buf[512];
	int err = find(b, t, &p);

	if (dir < 0)
		return dir;
	if (err < 0)
		return err;
	name = terminated(name, len, buf);
	if (p.fd >= 0)
		return result(linkat(AT_FDCWD, p.proc, dir, name, AT_SYMLINK_FOLLOW));
	return result(linkat(p.dir, p.name, dir, name, 0));
}

static int posix_unlink(struct backend *b, const struct target *t, const char *name, size_t len)
{
	int dir FD_SCOPE = dir_fd(b, t->node);
	char buf[512];

	return dir < 0 ? dir : result(unlinkat(dir, terminated(name, len, buf), 0));
}

static int posix_rmdir(struct backend *b, const struct target *t, const char *name, size_t len)
{
	int dir FD_SCOPE = dir_fd(b, t->node);
	char buf[512];

	return dir < 0 ? dir : result(unlinkat(dir, terminated(name, len, buf), AT_REMOVEDIR));
}

static int posix_rename(struct backend *b, const struct target *t, const char *name, size_t len,
			const struct target *new_t, const char *new_name, size_t new_len,
			uint32_t flags)
{
	int dir FD_SCOPE = dir_fd(b, t->node);
	int new_dir FD_SCOPE = dir_fd(b, new_t->node);
	char buf[512], new_buf[512];

	if (dir < 0 || new_dir < 0)
		return dir < 0 ? dir : new_dir;
	return result(renameat2(dir, terminated(name, len, buf), new_dir,
				terminated(new_name, new_len, new_buf), flags));
}

/* ---- attributes ----------------------------------------------------------------------------- */

static struct uext4_time time_of(struct statx_timestamp t)
{
	return (struct uext4_time){ .sec = t.tv_sec, .nsec = t.tv_nsec };
}

static int posix_stat(struct backend *b, const struct target *t, struct uext4_stat *ret)
{
	struct place p PLACE_SCOPE = { .dir = -1 };
	struct statx x;
	struct fsxattr more = { 0 };
	long flags = 0, generation = 0;
	int err = find(b, t, &p), fd FD_SCOPE = -1, how = b->ask_anew ? AT_STATX_FORCE_SYNC : 0;

	if (err < 0)
		return err;
	if (p.fd >= 0)
		err = result(statx(p.fd, "", AT_EMPTY_PATH | how, STATX_ALL, &x));
	else
		err = result(statx(p.dir, p.name, AT_SYMLINK_NOFOLLOW | how, STATX_ALL, &x));
	if (err < 0)
		return err;
	*ret = (struct uext4_stat){
		.ino = (uint32_t)x.stx_ino,
		.mode = x.stx_mode,
		.nlink = x.stx_nlink,
		.uid = x.stx_uid,
		.gid = x.stx_gid,
		.rdev_major = x.stx_rdev_major,
		.rdev_minor = x.stx_rdev_minor,
		.block_size = x.stx_blksize,
		.size = x.stx_size,
		.blocks = x.stx_blocks,
		.atime = time_of(x.stx_atime),
		.mtime = time_of(x.stx_mtime),
		.ctime = time_of(x.stx_ctime),
		.crtime = time_of(x.stx_btime),
		.has_crtime = (x.stx_mask & STATX_BTIME) != 0,
	};
	if (S_ISREG(x.stx_mode) || S_ISDIR(x.stx_mode)) {
		fd = open_place(&p, O_RDONLY);
		if (fd < 0)
			return fd;
		if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 ||
		    ioctl(fd, FS_IOC_GETVERSION, &generation) < 0 ||
		    (b->ops->fuse && ioctl(fd, FS_IOC_FSGETXATTR, &more) < 0))
			return -errno;
		ret->flags = (uint32_t)flags;
		ret->generation = (uint32_t)generation;
		ret->projid = more.fsx_projid;
	} else {
		ret->flags = t->node->flags; /* no system call shows them */
		ret->projid = t->node->projid;
	}
	return 0;
}

static int posix_readlink(struct backend *b, const struct target *t, void *buf, size_t size,
			  size_t *ret_len)
{
	struct place p PLACE_SCOPE = { .dir = -1 };
	int err = find(b, t, &p);
	ssize_t n;

	if (err < 0)
		return err;
	n = readlinkat(p.dir, p.name, buf, size);
	if (n < 0)
		return -errno;
	*ret_len = (size_t)n;
	return 0;
}

static struct timespec timespec_of(const struct uext4_attr *a, uint32_t set, uint32_t now,
				   struct uext4_time t)
{
	if (a->valid & set)
		return (struct timespec){ .tv_sec = t.sec, .tv_nsec = t.nsec };
	return (struct timespec){ .tv_nsec = a->valid & now ? UTIME_NOW : UTIME_OMIT };
}

static int set_times(const struct place *p, const struct uext4_attr *a)
{
	struct timespec ts[2] = {
		timespec_of(a, UEXT4_ATTR_ATIME, UEXT4_ATTR_ATIME_NOW, a->atime),
		timespec_of(a, UEXT4_ATTR_MTIME, UEXT4_ATTR_MTIME_NOW, a->mtime),
	};

	if (p->fd >= 0)
		return result(futimens(p->fd, ts));
	return result(utimensat(p->dir, p->name, ts, AT_SYMLINK_NOFOLLOW));
}

static int set_flags(const struct place *p, uint32_t wanted)
{
	int fd FD_SCOPE = open_place(p, O_RDONLY);
	long flags = 0;

	if (fd < 0)
		return fd;
	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
		return -errno;
	flags = (long)(((uint32_t)flags & ~MODEL_FL_ALL) | wanted);
	return result(ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

/* To nothing, as who writes a file anew does it. */
static int truncate_by_open(const struct place *p)
{
	int fd FD_SCOPE = open_place(p, O_WRONLY | O_TRUNC);

	return fd < 0 ? fd : 0;
}

static int set_project(const struct place *p, uint32_t projid)
{
	int fd FD_SCOPE = open_place(p, O_RDONLY);
	struct fsxattr x;

	if (fd < 0)
		return fd;
	if (ioctl(fd, FS_IOC_FSGETXATTR, &x) < 0)
		return -errno;
	x.fsx_projid = projid;
	return result(ioctl(fd, FS_IOC_FSSETXATTR, &x));
}

static int posix_set_attr(struct backend *b, const struct target *t, const struct uext4_attr *a)
{
	const uint32_t owner = UEXT4_ATTR_UID | UEXT4_ATTR_GID;
	struct place p PLACE_SCOPE = { .dir = -1 };
	uint32_t v = a->valid & ~(uint32_t)UEXT4_ATTR_KILL_PRIV;
	int err = find(b, t, &p);

	if (err < 0)
		return err;
	if (v == UEXT4_ATTR_MODE)
		return p.fd >= 0 ? result(fchmod(p.fd, a->mode & 07777))
				 : result(fchmodat(p.dir, p.name, a->mode & 07777, 0));
	if (v & owner && !(v & ~owner)) {
		uid_t uid = v & UEXT4_ATTR_UID ? a->uid : (uid_t)-1;
		gid_t gid = v & UEXT4_ATTR_GID ? a->gid : (gid_t)-1;

		if (p.fd >= 0)
			return result(fchown(p.fd, uid, gid));
		return result(fchownat(p.dir, p.name, uid, gid, AT_SYMLINK_NOFOLLOW));
	}
	if (v == UEXT4_ATTR_SIZE) {
		/* Through a descriptor that follows nothing, so that a symlink is asked itself. */
		int fd FD_SCOPE = p.fd >= 0 ? -1 : open_place(&p, O_PATH);
		int writer FD_SCOPE = -1;
		struct stat st;
		char proc[64];

		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", p.fd >= 0 ? p.fd : fd);
		/*
		 * Open for writing meanwhile: where data lies inside the inode Linux 6.18 wants a
		 * part of it that only an open for writing makes, and dies without (truncate(2)
		 * that makes such a file too large for its inode).
		 */
		if (!b->ops->fuse && stat(proc, &st) == 0 && S_ISREG(st.st_mode))
			writer = open(proc, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
		return result(truncate(proc, (off_t)a->size));
	}
	if (v == (UEXT4_ATTR_SIZE | UEXT4_ATTR_MTIME_NOW))
		return truncate_by_open(&p);
	if (v == UEXT4_ATTR_FLAGS)
		return set_flags(&p, a->flags);
	if (v == UEXT4_ATTR_PROJID)
		return set_project(&p, a->projid);
	if (v & (UEXT4_ATTR_ATIME | UEXT4_ATTR_MTIME | UEXT4_ATTR_ATIME_NOW | UEXT4_ATTR_MTIME_NOW))
		return set_times(&p, a);
	return BACKEND_CANNOT;
}

static int posix_xattr_set(struct backend *b, const struct target *t, const char *name,
			   const void *value, size_t size, uint32_t flags)
{
	struct place p PLACE_SCOPE = { .dir = -1 };
	int err = find(b, t, &p);

	if (err < 0)
		return err;
	if (p.fd >= 0)
		return value ? result(fsetxattr(p.fd, name, value, size, (int)flags))
			     : result(fremovexattr(p.fd, name));
	return value ? result(lsetxattr(p.proc, name, value, size, (int)flags))
		     : result(lremovexattr(p.proc, name));
}

static int posix_xattr_get(struct backend *b, const struct target *t, const char *name, void *buf,
			   size_t size, size_t *ret_size)
{
	struct place p PLACE_SCOPE = { .dir = -1 };
	int err = find(b, t, &p);
	ssize_t n;

	if (err < 0)
		return err;
	n = p.fd >= 0 ? fgetxattr(p.fd, name, buf, size) : lgetxattr(p.proc, name, buf, size);
	if (n < 0)
		return -errno;
	*ret_size = (size_t)n;
	return 0;
}

static int posix_xattr_list(struct backend *b, const struct target *t, char *buf, size_t size,
			    size_t *ret_size)
{
	struct place p PLACE_SCOPE = { .dir = -1 };
	int err = find(b, t, &p);
	ssize_t n;

	if (err < 0)
		return err;
	n = p.fd >= 0 ? flistxattr(p.fd, buf, size) : llistxattr(p.proc, buf, size);
	if (n < 0)
		return -errno;
	*ret_size = (size_t)n;
	return 0;
}

/* ---- directories ---------------------------------------------------------------------------- */

static int posix_dir_open(struct backend *b, const struct target *t, void **ret_dir)
{
	int fd FD_SCOPE = dir_fd(b, t->node);
	struct dir *d;
	int own;

	if (fd < 0)
		return fd;
	own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (own < 0)
		return -errno;
	d = must_alloc(sizeof(*d));
	d->stream = fdopendir(own);
	if (!d->stream)
		die("fdopendir: %s", strerror(errno));
	*ret_dir = d;
	return 0;
}

static int posix_dir_read(struct backend *b, void *dir, uint64_t cookie,
			  struct backend_dirent *entries, size_t count, size_t *ret_count)
{
	struct dir *d = dir;
	size_t n = 0;

	(void)b;
	if (cookie == 0)
		rewinddir(d->stream);
	else if (telldir(d->stream) != (long)cookie)
		seekdir(d->stream, (long)cookie);
	while (n < count) {
		const struct dirent *e;

		errno = 0;
		e = readdir(d->stream);
		if (!e && errno)
			return -errno;
		if (!e)
			break;
		entries[n].ino = (uint32_t)e->d_ino;
		entries[n].type = e->d_type == DT_REG	 ? UEXT4_FT_REG
				  : e->d_type == DT_DIR	 ? UEXT4_FT_DIR
				  : e->d_type == DT_CHR	 ? UEXT4_FT_CHR
				  : e->d_type == DT_BLK	 ? UEXT4_FT_BLK
				  : e->d_type == DT_FIFO ? UEXT4_FT_FIFO
				  : e->d_type == DT_SOCK ? UEXT4_FT_SOCK
				  : e->d_type == DT_LNK	 ? UEXT4_FT_LNK
							 : UEXT4_FT_UNKNOWN;
		entries[n].cookie = (uint64_t)e->d_off;
		entries[n].len = strlen(e->d_name);
		memcpy(entries[n].name, e->d_name, entries[n].len + 1);
		n++;
	}
	*ret_count = n;
	return 0;
}

static void posix_dir_close(struct backend *b, void *dir)
{
	struct dir *d = dir;

	(void)b;
	closedir(d->stream);
	free(d);
}

/* ---- files ---------------------------------------------------------------------------------- */

static int posix_file_open(struct backend *b, const struct target *t, uint32_t flags,
			   void **ret_file)
{
	struct place p PLACE_SCOPE = { .dir = -1 };
	int err, fd;

	if (!model_is_reg(t->node))
		return BACKEND_CANNOT; /* open(2) has other answers than the library */
	err = find(b, t, &p);
	if (err < 0)
		return err;
	/* The same file again: through /proc, whose links are to be followed. */
	fd = p.fd >= 0 ? open(p.proc, open_flags(flags) & ~O_NOFOLLOW)
		       : openat(p.dir, p.name, open_flags(flags));
	if (fd < 0)
		return -errno;
	*ret_file = file_of(fd);
	return 0;
}

int backend_posix_fd(void *file)
{
	return ((struct file *)file)->fd;
}

static void posix_file_close(struct backend *b, void *file)
{
	(void)b;
	close(backend_posix_fd(file));
	free(file);
}

static int posix_read(struct backend *b, void *file, void *buf, size_t len, uint64_t offset,
		      size_t *ret_read)
{
	size_t done = 0;

	(void)b;
	while (done < len) {
		ssize_t n = pread(backend_posix_fd(file), (uint8_t *)buf + done, len - done,
				  (off_t)(offset + done));

		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	*ret_read = done;
	return 0;
}

static int posix_write(struct backend *b, void *file, const void *buf, size_t len, uint64_t offset,
		       size_t *ret_written)
{
	ssize_t n = pwrite(backend_posix_fd(file), buf, len, (off_t)offset);

	(void)b;
	if (n < 0)
		return -errno;
	*ret_written = (size_t)n;
	return 0;
}

static int posix_fallocate_(struct backend *b, void *file, uint32_t flags, uint64_t offset,
			    uint64_t len)
{
	(void)b;
	return result(fallocate(backend_posix_fd(file), (int)flags, (off_t)offset, (off_t)len));
}

static int posix_seek(struct backend *b, void *file, uint64_t offset, enum uext4_seek what,
		      uint64_t *ret_offset)
{
	off_t at = lseek(backend_posix_fd(file), (off_t)offset,
			 what == UEXT4_SEEK_DATA ? SEEK_DATA : SEEK_HOLE);

	(void)b;
	if (at < 0)
		return -errno;
	*ret_offset = (uint64_t)at;
	return 0;
}

static int posix_fsync(struct backend *b, void *file, uint32_t flags)
{
	int fd = backend_posix_fd(file);

	(void)b;
	return result(flags & UEXT4_FSYNC_DATA ? fdatasync(fd) : fsync(fd));
}

static int posix_fsync_node(struct backend *b, const struct target *t, uint32_t flags)
{
	struct place p PLACE_SCOPE = { .dir = -1 };
	int err = find(b, t, &p), fd FD_SCOPE = -1;

	if (err < 0)
		return err;
	if (!model_is_reg(t->node) && !model_is_dir(t->node))
		return BACKEND_CANNOT;
	fd = open_place(&p, O_RDONLY);
	if (fd < 0)
		return fd;
	return result(flags & UEXT4_FSYNC_DATA ? fdatasync(fd) : fsync(fd));
}

/* ---- the whole ------------------------------------------------------------------------------ */

static int posix_sync(struct backend *b)
{
	/* FUSE passes none on; our own mount takes the root for all of it. */
	return result(b->ops->fuse ? fsync(b->root) : syncfs(b->root));
}

static int posix_statfs(struct backend *b, struct uext4_statfs *ret)
{
	struct statfs st;

	if (fstatfs(b->root, &st) < 0)
		return -errno;
	*ret = (struct uext4_statfs){
		.blocks = st.f_blocks,
		.blocks_free = st.f_bfree,
		.blocks_available = st.f_bavail,
		.inodes = st.f_files,
		.inodes_free = st.f_ffree,
		.block_size = (uint32_t)st.f_bsize,
		.name_max = (uint32_t)st.f_namelen,
	};
	return 0;
}

static int posix_cannot(struct backend *b)
{
	(void)b;
	return BACKEND_CANNOT;
}

/* What all mounts have in common. */
#define SYSTEM_CALLS                                                                              \
	.lookup = posix_lookup, .make = posix_make, .link = posix_link, .unlink = posix_unlink,   \
	.rmdir = posix_rmdir, .rename = posix_rename, .stat = posix_stat,                         \
	.readlink = posix_readlink, .set_attr = posix_set_attr, .xattr_set = posix_xattr_set,     \
	.xattr_get = posix_xattr_get, .xattr_list = posix_xattr_list, .dir_open = posix_dir_open, \
	.dir_read = posix_dir_read, .dir_close = posix_dir_close, .file_open = posix_file_open,   \
	.file_close = posix_file_close, .read = posix_read, .write = posix_write,                 \
	.fallocate = posix_fallocate_, .seek = posix_seek, .fsync = posix_fsync,                  \
	.fsync_node = posix_fsync_node, .sync = posix_sync, .statfs = posix_statfs,               \
	.freeze = posix_cannot, .thaw = posix_cannot, .txn_begin = posix_cannot,                  \
	.txn_commit = posix_cannot, .txn_cancel = posix_cannot

const struct backend_ops backend_posix = {
	.name = "kernel",
	.kernel = true,
	.open = posix_open,
	.close = posix_close,
	.tmpfile = posix_tmpfile,
	SYSTEM_CALLS,
};

const struct backend_ops backend_fuse = {
	.name = "mount",
	.kernel = true,
	.fuse = true,
	.open = backend_fuse_open,
	.close = backend_fuse_close,
	.tmpfile = backend_fuse_tmpfile,
	SYSTEM_CALLS,
};
