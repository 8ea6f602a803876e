/* SPDX-License-Identifier: MIT */
/*
 * Names: one list of operations is done by the kernel on a loop mount and by us on a copy of the
 * same image.
 *
 *  - After each operation errno agrees, and of every file there is: type, mode, owner, links, size,
 *    blocks, device number, flags, project, ACLs, a symlink's target, and which of its times the
 *    operation changed.
 *  - At the end e2fsck finds nothing in our image.
 *  - Many threads at once, renames of directories among them: no deadlock, and e2fsck is content.
 *  - Counts of links at their limits, with and without dir_nlink.
 *  - No space, no inodes, no memory: what is refused has changed nothing at all.
 *  - Without loop devices ours is done alone, and only e2fsck judges.
 */
#include "base/mem.h"
#include "uext4.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH_BYTES 5000

struct world {
	const char *kind;
	char dir[64];
	char ours[96], theirs[96], mount[96];
	struct uext4_fs *fs;
	bool mounted;
	bool has_inline;       /* what lies inside may differ */
	bool has_seconds;      /* no times within a second */
	struct timespec began; /* the operation that is going on */
	const struct step *step;
	unsigned files;
};

enum what {
	CREATE,	    /* a: path, mode, umask */
	MKDIR,	    /* the same */
	MKNOD,	    /* a, mode with type, device number */
	SYMLINK,    /* a: path, b: target */
	SYMLINK_OF, /* a: path, mode: bytes of the target */
	LINK,	    /* a: old, b: new */
	UNLINK,
	RMDIR,
	RENAME,	     /* a, b, mode: flags as renameat2() */
	CHMOD,	     /* a, mode */
	CHOWN,	     /* a, mode: uid, arg: gid */
	SET_FLAGS,   /* a, mode: FS_*_FL to set, arg: to clear */
	SET_PROJECT, /* a, mode: project, inherited */
	DEFAULT_ACL, /* a */
	TMPFILE,     /* a: directory, b: name it gets, or NULL, mode */
	LINK_OPEN,   /* a: file, unlinked while it is open, b: name it shall get then */
	DEAD_DIR,    /* a: directory, removed while it is open; a file is made in it */
};

struct step {
	enum what what;
	const char *a, *b;
	uint32_t mode, arg;
};

/* ---- images ---------------------------------------------------------------------------------- */

static int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int run(const char *fmt, ...)
{
	char command[1024];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	return system(command);
}

static void ok(int err)
{
	if (err < 0)
		print_error("error %d: %s\n", err, uext4_last_error());
	assert_int_equal(err, 0);
}

/* False: it has a feature that cannot be written yet. */
static bool world_open(struct world *w)
{
	const struct uext4_open_options options = { .size = sizeof(options),
						    .flags = UEXT4_OPEN_WRITE };

	int err = uext4_open(w->ours, &options, &w->fs);

	if (err != -EOPNOTSUPP)
		ok(err);
	return err == 0;
}

static struct world *live; /* the one that is open, for clean() */

static void world_free(struct world *w)
{
	int err = w->fs ? uext4_close(w->fs) : 0;

	live = NULL;
	if (w->mounted)
		(void)run("umount %s", w->mount);
	(void)run("rm -r %s", w->dir);
	ok(err);
}

/* A test that failed in the middle leaves no mount behind. */
static int clean(void **state)
{
	if (!live)
		return 0;
	if (live->mounted)
		(void)run("umount %s", live->mount);
	(void)run("rm -r %s", live->dir);
	live = NULL;
	return 0;
}

static void need_tools(void)
{
	if (run("command -v mke2fs debugfs e2fsck >/dev/null 2>&1") != 0) {
		print_message("no e2fsprogs\n");
		skip();
	}
}

/* @requests: of debugfs, to both images before they are opened. */
static bool world_make_sized(struct world *w, const char *kind, const char *mke2fs, uint32_t kib,
			     const char *requests)
{
	*w = (struct world){ .kind = kind,
			     .has_inline = strstr(mke2fs, "inline_data") != NULL,
			     .has_seconds = strstr(mke2fs, "-I 128") != NULL };
	(void)snprintf(w->dir, sizeof(w->dir), "/tmp/uext4-names-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	live = w;
	(void)snprintf(w->ours, sizeof(w->ours), "%s/ours", w->dir);
	(void)snprintf(w->theirs, sizeof(w->theirs), "%s/theirs", w->dir);
	(void)snprintf(w->mount, sizeof(w->mount), "%s/mnt", w->dir);
	assert_int_equal(run("mke2fs -q -F -m 0 %s %s %uk >/dev/null 2>&1", mke2fs, w->ours, kib),
			 0);
	if (requests)
		assert_int_equal(run("printf '%s' | debugfs -w -f - %s >/dev/null 2>&1", requests,
				     w->ours),
				 0);
	assert_int_equal(run("cp --sparse=always %s %s && mkdir %s", w->ours, w->theirs, w->mount),
			 0);
	(void)umask(0);
	return world_open(w);
}

static bool world_make(struct world *w, const char *kind, const char *mke2fs, const char *requests)
{
	return world_make_sized(w, kind, mke2fs, 32768, requests);
}

static void world_mount(struct world *w)
{
	w->mounted = geteuid() == 0 &&
		     run("mount -o loop,noatime %s %s 2>/dev/null", w->theirs, w->mount) == 0;
	if (!w->mounted)
		print_message("%s: no loop mount to compare with\n", w->kind);
}

static void fsck(const struct world *w)
{
	if (run("e2fsck -fn %s >%s/log 2>&1", w->ours, w->dir) == 0)
		return;
	(void)run("cat %s/log", w->dir);
	fail_msg("%s: e2fsck finds something", w->kind);
}

/* ---- as the kernel does it ------------------------------------------------------------------- */

static const char *theirs(const struct world *w, const char *path)
{
	static char buf[4][PATH_BYTES];
	static unsigned next;
	char *ret = buf[next++ % 4];

	(void)snprintf(ret, PATH_BYTES, "%s/%s", w->mount, path);
	return ret;
}

static int ret_errno(long ret)
{
	return ret < 0 ? -errno : 0;
}

static int their_flags(const char *path, uint32_t set, uint32_t clear)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK), flags, ret;

	if (fd < 0)
		return -errno;
	ret = ioctl(fd, FS_IOC_GETFLAGS, &flags);
	flags = (int)(((uint32_t)flags & ~clear) | set);
	if (ret == 0)
		ret = ioctl(fd, FS_IOC_SETFLAGS, &flags);
	ret = ret_errno(ret);
	(void)close(fd);
	return ret;
}

static int their_project(const char *path, uint32_t project)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK), ret;
	struct fsxattr x;

	if (fd < 0)
		return -errno;
	ret = ioctl(fd, FS_IOC_FSGETXATTR, &x);
	x.fsx_projid = project;
	x.fsx_xflags |= FS_XFLAG_PROJINHERIT;
	if (ret == 0)
		ret = ioctl(fd, FS_IOC_FSSETXATTR, &x);
	ret = ret_errno(ret);
	(void)close(fd);
	return ret;
}

/* rwx for the owner, r-x for user 77 and group, nothing for others; mask r-x. */
static const uint8_t default_acl[] = {
	2,    0, 0, 0,			       /* version */
	1,    0, 7, 0, 0xff, 0xff, 0xff, 0xff, /* owner */
	2,    0, 5, 0, 77,   0,	   0,	 0,    /* user 77 */
	4,    0, 5, 0, 0xff, 0xff, 0xff, 0xff, /* group */
	0x10, 0, 5, 0, 0xff, 0xff, 0xff, 0xff, /* mask */
	0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, /* others */
};

static void make_target(char *target, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes; i++)
		target[i] = (char)('a' + i % 26);
	target[bytes] = '\0';
}

static int their_link_fd(int fd, const char *to)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return ret_errno(linkat(AT_FDCWD, path, AT_FDCWD, to, AT_SYMLINK_FOLLOW));
}

static int their_open_ones(const struct world *w, const struct step *s, const char *a,
			   const char *b)
{
	int fd, ret = 0;

	if (s->what == TMPFILE)
		fd = open(a, O_TMPFILE | O_RDWR, s->mode);
	else
		fd = open(a, s->what == DEAD_DIR ? O_RDONLY | O_DIRECTORY : O_RDWR);
	if (fd < 0)
		return -errno;
	if (s->what == TMPFILE) {
		ret = b ? their_link_fd(fd, b) : 0;
	} else if (s->what == LINK_OPEN) {
		ret = ret_errno(unlink(a));
		if (ret == 0)
			ret = their_link_fd(fd, b);
	} else {
		ret = ret_errno(rmdir(a));
		if (ret == 0)
			ret = ret_errno(mkdirat(fd, "x", 0777));
	}
	(void)close(fd);
	return ret;
}

static int do_theirs(const struct world *w, const struct step *s)
{
	const char *a = theirs(w, s->a), *b = s->b ? theirs(w, s->b) : NULL;
	char target[PATH_BYTES];
	int ret, fd;

	switch (s->what) {
	case CREATE:
		(void)umask(s->arg);
		fd = open(a, O_CREAT | O_EXCL | O_RDWR, s->mode);
		ret = ret_errno(fd);
		if (fd >= 0)
			(void)close(fd);
		(void)umask(0);
		return ret;
	case MKDIR:
		(void)umask(s->arg);
		ret = ret_errno(mkdir(a, s->mode));
		(void)umask(0);
		return ret;
	case MKNOD: return ret_errno(mknod(a, s->mode, makedev(s->arg >> 16, s->arg & 0xffff)));
	case SYMLINK: return ret_errno(symlink(s->b, a));
	case SYMLINK_OF: make_target(target, s->mode); return ret_errno(symlink(target, a));
	case LINK: return ret_errno(link(a, b));
	case UNLINK: return ret_errno(unlink(a));
	case RMDIR: return ret_errno(rmdir(a));
	case RENAME: return ret_errno(syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, s->mode));
	case CHMOD: return ret_errno(chmod(a, s->mode));
	case CHOWN: return ret_errno(lchown(a, s->mode, s->arg));
	case SET_FLAGS: return their_flags(a, s->mode, s->arg);
	case SET_PROJECT: return their_project(a, s->mode);
	case DEFAULT_ACL:
		return ret_errno(setxattr(a, "system.posix_acl_default", default_acl,
					  sizeof(default_acl), 0));
	default: return their_open_ones(w, s, a, b);
	}
}

/* ---- as we do it ----------------------------------------------------------------------------- */

/* The directory of @path, and the last name. */
static int split(const struct world *w, const char *path, uint32_t *ret_dir, const char **ret_name)
{
	char dir[PATH_BYTES] = "";
	const char *slash = strrchr(path, '/');

	if (slash)
		(void)snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path);
	*ret_name = slash ? slash + 1 : path;
	return uext4_resolve(w->fs, UEXT4_ROOT_INO, dir, 0, ret_dir);
}

static int find(const struct world *w, const char *path, uint32_t *ret_ino)
{
	return uext4_resolve(w->fs, UEXT4_ROOT_INO, path, UEXT4_RESOLVE_NOFOLLOW, ret_ino);
}

static int our_attr(const struct world *w, const struct step *s)
{
	struct uext4_attr attr = { 0 };
	struct uext4_stat st;
	uint32_t ino;
	int err;

	err = find(w, s->a, &ino);
	if (err == 0)
		err = uext4_stat(w->fs, ino, &st);
	if (err < 0)
		return err;
	attr.mode = attr.uid = attr.projid = s->mode;
	attr.gid = s->arg;
	attr.flags = (st.flags & ~s->arg) | s->mode;
	if (s->what == CHMOD)
		attr.valid = UEXT4_ATTR_MODE;
	else if (s->what == CHOWN)
		attr.valid = UEXT4_ATTR_UID | UEXT4_ATTR_GID;
	else if (s->what == SET_FLAGS)
		attr.valid = UEXT4_ATTR_FLAGS;
	else
		attr.valid = UEXT4_ATTR_FLAGS | UEXT4_ATTR_PROJID;
	if (s->what == SET_PROJECT)
		attr.flags = st.flags | FS_PROJINHERIT_FL;
	return uext4_setattr(w->fs, ino, &attr);
}

static int our_link(const struct world *w, uint32_t ino, const char *to)
{
	const char *name;
	uint32_t dir;
	int err;

	err = split(w, to, &dir, &name);
	return err < 0 ? err : uext4_link(w->fs, ino, dir, name, strlen(name));
}

static int our_open_ones(const struct world *w, const struct step *s, uint32_t dir,
			 const char *name)
{
	const struct uext4_new attrs = { .mode = S_IFREG | s->mode };
	struct uext4_file *file;
	struct uext4_dir *open_dir;
	struct uext4_dirent e;
	uint32_t ino, made;
	size_t got;
	int err;

	err = find(w, s->a, &ino);
	if (err < 0)
		return err;
	if (s->what == TMPFILE) {
		err = uext4_tmpfile(w->fs, ino, &attrs, 0, &file);
		if (err < 0)
			return err;
		err = s->b ? our_link(w, uext4_file_ino(file), s->b) : 0;
		(void)uext4_file_close(file);
		return err;
	}
	if (s->what == LINK_OPEN) {
		ok(uext4_file_open(w->fs, ino, 0, &file));
		err = uext4_unlink(w->fs, dir, name, strlen(name));
		if (err == 0)
			err = our_link(w, ino, s->b);
		(void)uext4_file_close(file);
		return err;
	}
	ok(uext4_dir_open(w->fs, ino, &open_dir));
	err = uext4_rmdir(w->fs, dir, name, strlen(name));
	if (err == 0) {
		assert_int_equal(uext4_dir_read(open_dir, 0, &e, 1, &got), -ENOENT);
		err = uext4_create(w->fs, ino, "x", 1, &attrs, &made);
	}
	uext4_dir_close(open_dir);
	return err;
}

static int do_ours(const struct world *w, const struct step *s)
{
	struct uext4_new attrs = { .mode = s->mode, .umask = s->arg };
	char target[PATH_BYTES];
	const char *name, *new_name;
	uint32_t dir, new_dir, ino;
	int err;

	err = split(w, s->a, &dir, &name);
	if (err < 0)
		return err;
	switch (s->what) {
	case MKDIR:
	case CREATE:
		attrs.mode |= s->what == MKDIR ? S_IFDIR : S_IFREG;
		return uext4_create(w->fs, dir, name, strlen(name), &attrs, &ino);
	case MKNOD:
		attrs.umask = 0;
		attrs.rdev_major = s->arg >> 16;
		attrs.rdev_minor = s->arg & 0xffff;
		return uext4_create(w->fs, dir, name, strlen(name), &attrs, &ino);
	case SYMLINK:
		return uext4_symlink(w->fs, dir, name, strlen(name), s->b, strlen(s->b), &attrs,
				     &ino);
	case SYMLINK_OF:
		make_target(target, s->mode);
		return uext4_symlink(w->fs, dir, name, strlen(name), target, s->mode, &attrs, &ino);
	case LINK: err = find(w, s->a, &ino); return err < 0 ? err : our_link(w, ino, s->b);
	case UNLINK: return uext4_unlink(w->fs, dir, name, strlen(name));
	case RMDIR: return uext4_rmdir(w->fs, dir, name, strlen(name));
	case RENAME:
		err = split(w, s->b, &new_dir, &new_name);
		if (err < 0)
			return err;
		return uext4_rename(w->fs, dir, name, strlen(name), new_dir, new_name,
				    strlen(new_name), s->mode);
	case CHMOD:
	case CHOWN:
	case SET_FLAGS:
	case SET_PROJECT: return our_attr(w, s);
	case DEFAULT_ACL:
		err = find(w, s->a, &ino);
		if (err < 0)
			return err;
		return uext4_xattr_set(w->fs, ino, "system.posix_acl_default", default_acl,
				       sizeof(default_acl), 0);
	default: return our_open_ones(w, s, dir, name);
	}
}

/* ---- comparing ------------------------------------------------------------------------------- */

static bool is_since(const struct world *w, int64_t sec, uint32_t nsec)
{
	return sec > w->began.tv_sec || (sec == w->began.tv_sec && nsec >= w->began.tv_nsec);
}

#define SAME(label, our_value, their_value) \
	same(w, path, (label), (uint64_t)(our_value), (uint64_t)(their_value))

static void same(const struct world *w, const char *path, const char *label, uint64_t ours,
		 uint64_t theirs_is)
{
	if (ours != theirs_is)
		fail_msg("%s, step %d (%s, %s), %s: %s is %llx, should be %llx", w->kind,
			 w->step->what, w->step->a, w->step->b ? w->step->b : "", path, label,
			 (unsigned long long)ours, (unsigned long long)theirs_is);
}

static void compare_xattr(struct world *w, const char *path, uint32_t ino, const char *name)
{
	uint8_t our_value[512], their_value[512];
	ssize_t their_size;
	size_t our_size = 0;
	int err;

	err = uext4_xattr_get(w->fs, ino, name, our_value, sizeof(our_value), &our_size);
	their_size = lgetxattr(theirs(w, path), name, their_value, sizeof(their_value));
	SAME(name, err < 0, their_size < 0);
	if (err < 0)
		return;
	SAME(name, our_size, their_size);
	assert_memory_equal(our_value, their_value, our_size);
}

static void compare_flags(struct world *w, const char *path, const struct uext4_stat *st)
{
	/* Inline or not, with extents or not; a directory gets its tree a little later. */
	const uint32_t place = FS_EXTENT_FL | FS_INLINE_DATA_FL | FS_INDEX_FL;
	struct fsxattr x = { 0 };
	int fd, flags = 0;

	if (!S_ISREG(st->mode) && !S_ISDIR(st->mode))
		return;
	fd = open(theirs(w, path), O_RDONLY | O_NOATIME);
	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, FS_IOC_GETFLAGS, &flags), 0);
	if (ioctl(fd, FS_IOC_FSGETXATTR, &x) == 0)
		SAME("project", st->projid, x.fsx_projid);
	(void)close(fd);
	SAME("flags", st->flags & ~place, (uint32_t)flags & ~place);
}

static void compare_target(struct world *w, const char *path, uint32_t ino)
{
	char our_target[PATH_BYTES], their_target[PATH_BYTES];
	size_t len;

	ok(uext4_readlink(w->fs, ino, our_target, sizeof(our_target), &len));
	SAME("target", len, readlink(theirs(w, path), their_target, sizeof(their_target)));
	assert_memory_equal(our_target, their_target, len);
}

/* Which of them are of this step? */
static void compare_times(struct world *w, const char *path, const struct uext4_stat *st,
			  const struct stat *k)
{
	SAME("atime now", is_since(w, st->atime.sec, st->atime.nsec),
	     is_since(w, k->st_atim.tv_sec, (uint32_t)k->st_atim.tv_nsec));
	SAME("mtime now", is_since(w, st->mtime.sec, st->mtime.nsec),
	     is_since(w, k->st_mtim.tv_sec, (uint32_t)k->st_mtim.tv_nsec));
	SAME("ctime now", is_since(w, st->ctime.sec, st->ctime.nsec),
	     is_since(w, k->st_ctim.tv_sec, (uint32_t)k->st_ctim.tv_nsec));
}

static void compare_file(struct world *w, const char *path, uint32_t ino)
{
	struct uext4_stat st;
	struct stat k;

	w->files++;
	ok(uext4_stat(w->fs, ino, &st));
	if (!w->mounted)
		return;
	SAME("errno of stat", 0, ret_errno(lstat(theirs(w, path), &k)));
	SAME("mode", st.mode, k.st_mode);
	SAME("links", st.nlink, k.st_nlink);
	SAME("uid", st.uid, k.st_uid);
	SAME("gid", st.gid, k.st_gid);
	if (S_ISCHR(st.mode) || S_ISBLK(st.mode)) {
		SAME("major", st.rdev_major, major(k.st_rdev));
		SAME("minor", st.rdev_minor, minor(k.st_rdev));
	}
	/* Where leaves are split, and how much room an inline directory takes, may differ. */
	if (!S_ISDIR(st.mode) || (!w->has_inline && !(st.flags & FS_INDEX_FL)))
		SAME("size", st.size, k.st_size);
	if (!w->has_inline && !(st.flags & FS_INDEX_FL))
		SAME("blocks", st.blocks, k.st_blocks);
	if (!w->has_seconds)
		compare_times(w, path, &st, &k);
	compare_flags(w, path, &st);
	compare_xattr(w, path, ino, "system.posix_acl_access");
	compare_xattr(w, path, ino, "system.posix_acl_default");
	if (S_ISLNK(st.mode))
		compare_target(w, path, ino);
}

static unsigned count_theirs(const struct world *w, const char *path)
{
	DIR *d = opendir(theirs(w, path));
	unsigned count = 0;

	assert_non_null(d);
	while (readdir(d))
		count++;
	(void)closedir(d);
	return count;
}

static void compare_tree(struct world *w, const char *path, uint32_t ino)
{
	struct uext4_dirent e;
	struct uext4_dir *d;
	unsigned count = 0;
	uint64_t cookie = 0;
	size_t got;

	compare_file(w, path, ino);
	ok(uext4_dir_open(w->fs, ino, &d));
	for (;;) {
		char below[PATH_BYTES];

		ok(uext4_dir_read(d, cookie, &e, 1, &got));
		if (got == 0)
			break;
		cookie = e.cookie;
		count++;
		if (strcmp(e.name, ".") == 0 || strcmp(e.name, "..") == 0)
			continue;
		(void)snprintf(below, sizeof(below), "%s%s%s", path, *path ? "/" : "", e.name);
		if (e.type == UEXT4_FT_DIR)
			compare_tree(w, below, e.ino);
		else
			compare_file(w, below, e.ino);
	}
	uext4_dir_close(d);
	if (w->mounted)
		SAME("entries", count, count_theirs(w, path));
}

/* From here on the kernel's clock, which stands still between its ticks, shows what is later. */
static void next_moment(struct world *w)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	do
		(void)clock_gettime(CLOCK_REALTIME_COARSE, &w->began);
	while (w->began.tv_sec < now.tv_sec ||
	       (w->began.tv_sec == now.tv_sec && w->began.tv_nsec <= now.tv_nsec));
}

static void do_steps(struct world *w, const struct step *steps, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		int our_err, their_err;

		w->step = &steps[i];
		next_moment(w);
		our_err = do_ours(w, w->step);
		their_err = w->mounted ? do_theirs(w, w->step) : our_err;
		if (our_err != their_err)
			fail_msg("%s, step %zu: %d of %s, %s: error %d (%s), should be %d", w->kind,
				 i, w->step->what, w->step->a, w->step->b ? w->step->b : "",
				 our_err, uext4_last_error(), their_err);
		compare_tree(w, "", UEXT4_ROOT_INO);
	}
}

/* ---- the lists ------------------------------------------------------------------------------- */

#define LONG64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define LONG256 LONG64 LONG64 LONG64 LONG64
#define LONG255 \
	LONG64 LONG64 LONG64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde"

static const struct step basics[] = {
	{ MKDIR, "d", NULL, 0755, 0 },
	{ MKDIR, "d", NULL, 0755, 0 },
	{ MKDIR, "none/d", NULL, 0755, 0 },
	{ MKDIR, ".", NULL, 0755, 0 },
	{ MKDIR, "d/..", NULL, 0755, 0 },
	{ CREATE, "d/f", NULL, 0644, 0 },
	{ CREATE, "d/f", NULL, 0644, 0 },
	{ CREATE, "d/f/x", NULL, 0644, 0 },
	{ CREATE, "d/" LONG255, NULL, 0666, 022 },
	{ CREATE, "d/" LONG256, NULL, 0666, 022 },
	{ MKDIR, "d/sub", NULL, 0777, 027 },
	{ CREATE, "d/suid", NULL, 06755, 0 },
	{ MKNOD, "c", NULL, S_IFCHR | 0600, 1 << 16 | 3 },
	{ MKNOD, "big", NULL, S_IFBLK | 0600, 300 << 16 | 5000 },
	{ MKNOD, "pipe", NULL, S_IFIFO | 0666, 0 },
	{ MKNOD, "sock", NULL, S_IFSOCK | 0777, 0 },
	{ SYMLINK, "l1", "x", 0, 0 },
	{ SYMLINK_OF, "l59", NULL, 59, 0 },
	{ SYMLINK_OF, "l60", NULL, 60, 0 },
	{ SYMLINK_OF, "l100", NULL, 100, 0 },
	{ SYMLINK_OF, "l300", NULL, 300, 0 },
	{ SYMLINK_OF, "l1023", NULL, 1023, 0 },
	{ SYMLINK_OF, "l1024", NULL, 1024, 0 },
	{ SYMLINK_OF, "l4095", NULL, 4095, 0 },
	{ SYMLINK, "l1", "y", 0, 0 },
	{ SYMLINK, "lempty", "", 0, 0 },
	{ LINK, "d/f", "g", 0, 0 },
	{ LINK, "d/f", "g", 0, 0 },
	{ LINK, "d", "h", 0, 0 },
	{ LINK, "none", "h", 0, 0 },
	{ LINK, "l1", "l1too", 0, 0 },
	{ LINK, "pipe", "d/pipe", 0, 0 },
	{ UNLINK, "d", NULL, 0, 0 },
	{ UNLINK, "none", NULL, 0, 0 },
	{ UNLINK, "d/.", NULL, 0, 0 },
	{ UNLINK, "d/sub/..", NULL, 0, 0 },
	{ UNLINK, "g", NULL, 0, 0 },
	{ UNLINK, "l300", NULL, 0, 0 },
	{ UNLINK, "l60", NULL, 0, 0 },
	{ RMDIR, "d", NULL, 0, 0 },
	{ RMDIR, "d/f", NULL, 0, 0 },
	{ RMDIR, "none", NULL, 0, 0 },
	{ RMDIR, "d/.", NULL, 0, 0 },
	{ RMDIR, "d/sub/..", NULL, 0, 0 },
	{ RMDIR, "d/sub", NULL, 0, 0 },
	{ TMPFILE, "d", NULL, 0640, 0 },
	{ TMPFILE, "d", "d/tmp", 0640, 0 },
	{ TMPFILE, "d", "d/f", 0640, 0 },
	{ LINK_OPEN, "d/tmp", "d/tmp2", 0, 0 },
	{ MKDIR, "dead", NULL, 0755, 0 },
	{ DEAD_DIR, "dead", NULL, 0755, 0 },
	{ DEAD_DIR, "d", NULL, 0755, 0 },
};

static const struct step renames[] = {
	{ MKDIR, "a", NULL, 0755, 0 },
	{ MKDIR, "b", NULL, 0755, 0 },
	{ MKDIR, "a/in", NULL, 0755, 0 },
	{ CREATE, "a/f", NULL, 0644, 0 },
	{ CREATE, "a/g", NULL, 0600, 0 },
	{ CREATE, "b/h", NULL, 0640, 0 },
	{ RENAME, "a/f", "a/f", 0, 0 },
	{ RENAME, "a/f", "a/f2", 0, 0 },
	{ RENAME, "a/f2", "a/g", 0, 0 },
	{ RENAME, "none", "x", 0, 0 },
	{ RENAME, "a/none", "b/x", 0, 0 },
	{ RENAME, "a/g", "b/g", 0, 0 },
	{ RENAME, "b/g", "b/h", RENAME_NOREPLACE, 0 },
	{ RENAME, "b/g", "b/k", RENAME_NOREPLACE, 0 },
	{ RENAME, "b/k", "b/none", RENAME_EXCHANGE, 0 },
	{ RENAME, "b/none", "b/k", RENAME_EXCHANGE, 0 },
	{ RENAME, "b/k", "b/h", RENAME_EXCHANGE, 0 },
	{ RENAME, "b/k", "b/k", RENAME_EXCHANGE, 0 },
	{ RENAME, "b/k", "a/in", 0, 0 },
	{ RENAME, "a/in", "b/k", 0, 0 },
	{ RENAME, "a/in", "b/k", RENAME_EXCHANGE, 0 },
	{ RENAME, "b/k", "a/in", RENAME_EXCHANGE, 0 },
	{ RENAME, "a", "a/in/a", 0, 0 },
	{ RENAME, "a", "a/x", 0, 0 },
	{ RENAME, "a/in", "a", 0, 0 },
	{ RENAME, "a/in", "a", RENAME_EXCHANGE, 0 },
	{ RENAME, "a", "a/in", RENAME_EXCHANGE, 0 },
	{ RENAME, "a", "a/in", 0, 0 },
	{ RENAME, "a/in", "b/in", 0, 0 },
	{ RENAME, "b/in", "in", 0, 0 },
	{ MKDIR, "e", NULL, 0700, 0 },
	{ RENAME, "in", "e", 0, 0 },
	{ RENAME, "e", "b", 0, 0 },
	{ RENAME, "e", "a/e", 0, 0 },
	{ MKDIR, "b/e", NULL, 0755, 0 },
	{ RENAME, "a/e", "b/e", 0, 0 },
	{ MKDIR, "a/p", NULL, 0755, 0 },
	{ RENAME, "a/p", "b/e", RENAME_EXCHANGE, 0 },
	{ RENAME, "b", "a/b", 0, 0 },
	{ RENAME, "a/b/e", "a", 0, 0 },
	{ RENAME, "a/b/e", "e", 0, 0 },
	{ RENAME, "a/.", "x", 0, 0 },
	{ RENAME, "a/..", "x", 0, 0 },
	{ RENAME, "a", "a/..", 0, 0 },
	{ RENAME, "a", "a/..", RENAME_NOREPLACE, 0 },
	{ RENAME, "a", LONG256, 0, 0 },
	{ CREATE, "w1", NULL, 0644, 0 },
	{ CREATE, "w2", NULL, 0644, 0 },
	{ RENAME, "w1", "w2", RENAME_WHITEOUT, 0 },
	{ RENAME, "w2", "a/w3", RENAME_WHITEOUT, 0 },
	{ MKDIR, "wd", NULL, 0755, 0 },
	{ RENAME, "wd", "a/wd", RENAME_WHITEOUT, 0 },
	{ RENAME, "w2", "w4", RENAME_WHITEOUT | RENAME_NOREPLACE, 0 },
	{ RENAME, "w4", "w2", RENAME_WHITEOUT | RENAME_EXCHANGE, 0 },
	{ LINK, "a/w3", "hard", 0, 0 },
	{ RENAME, "hard", "a/w3", 0, 0 },
	{ UNLINK, "hard", NULL, 0, 0 },
	{ UNLINK, "a/w3", NULL, 0, 0 },
	{ RENAME, "wd", "a/b/h", 0, 0 },
};

static const struct step rules[] = {
	/* Flags that forbid. */
	{ MKDIR, "i", NULL, 0755, 0 },
	{ CREATE, "i/f", NULL, 0644, 0 },
	{ MKDIR, "i/d", NULL, 0755, 0 },
	{ CREATE, "f", NULL, 0644, 0 },
	{ SET_FLAGS, "i", NULL, FS_IMMUTABLE_FL, 0 },
	{ CREATE, "i/g", NULL, 0644, 0 },
	{ CREATE, "i/f", NULL, 0644, 0 },
	{ MKDIR, "i/e", NULL, 0755, 0 },
	{ UNLINK, "i/f", NULL, 0, 0 },
	{ UNLINK, "i/none", NULL, 0, 0 },
	{ UNLINK, "i/d", NULL, 0, 0 },
	{ RMDIR, "i/d", NULL, 0, 0 },
	{ LINK, "f", "i/l", 0, 0 },
	{ SYMLINK, "i/s", "x", 0, 0 },
	{ RENAME, "i/f", "g", 0, 0 },
	{ RENAME, "f", "i/g", 0, 0 },
	{ RENAME, "f", "i/f", 0, 0 },
	{ RENAME, "f", "i/f", RENAME_EXCHANGE, 0 },
	{ TMPFILE, "i", NULL, 0644, 0 },
	{ SET_FLAGS, "i", NULL, FS_APPEND_FL, FS_IMMUTABLE_FL },
	{ CREATE, "i/g", NULL, 0644, 0 },
	{ LINK, "f", "i/l", 0, 0 },
	{ UNLINK, "i/f", NULL, 0, 0 },
	{ RMDIR, "i/d", NULL, 0, 0 },
	{ RENAME, "i/f", "i/f2", 0, 0 },
	{ RENAME, "f", "i/f3", 0, 0 },
	{ RENAME, "i/f3", "f", 0, 0 },
	{ SET_FLAGS, "i", NULL, 0, FS_APPEND_FL },
	{ CREATE, "im", NULL, 0644, 0 },
	{ SET_FLAGS, "im", NULL, FS_IMMUTABLE_FL, 0 },
	{ LINK, "im", "im2", 0, 0 },
	{ UNLINK, "im", NULL, 0, 0 },
	{ RMDIR, "im", NULL, 0, 0 },
	{ RENAME, "im", "im2", 0, 0 },
	{ RENAME, "i/g", "im", 0, 0 },
	{ RENAME, "im", "im", 0, 0 },
	{ SET_FLAGS, "im", NULL, FS_APPEND_FL, FS_IMMUTABLE_FL },
	{ LINK, "im", "im2", 0, 0 },
	{ UNLINK, "im", NULL, 0, 0 },
	{ SET_FLAGS, "im", NULL, 0, FS_APPEND_FL },
	{ UNLINK, "im", NULL, 0, 0 },
	{ SET_FLAGS, "i/d", NULL, FS_IMMUTABLE_FL, 0 },
	{ RENAME, "i/d", "d", 0, 0 },
	{ RMDIR, "i/d", NULL, 0, 0 },
	{ SET_FLAGS, "i/d", NULL, 0, FS_IMMUTABLE_FL },
	/* What is inherited. */
	{ MKDIR, "s", NULL, 0755, 0 },
	{ CHOWN, "s", NULL, 7, 70000 },
	{ CHMOD, "s", NULL, 02775, 0 },
	{ CREATE, "s/f", NULL, 0664, 0 },
	{ MKDIR, "s/d", NULL, 0755, 0 },
	{ SYMLINK, "s/l", "x", 0, 0 },
	{ MKNOD, "s/p", NULL, S_IFIFO | 0600, 0 },
	{ RENAME, "s/f", "s/g", RENAME_WHITEOUT, 0 },
	{ MKDIR, "fl", NULL, 0755, 0 },
	{ SET_FLAGS, "fl", NULL,
	  FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL | FS_DIRSYNC_FL | FS_SECRM_FL | FS_UNRM_FL, 0 },
	{ CREATE, "fl/f", NULL, 0644, 0 },
	{ MKDIR, "fl/d", NULL, 0755, 0 },
	{ CREATE, "fl/d/f", NULL, 0644, 0 },
	{ SYMLINK, "fl/l", "x", 0, 0 },
	{ SYMLINK_OF, "fl/l2", NULL, 200, 0 },
	{ MKNOD, "fl/p", NULL, S_IFIFO | 0600, 0 },
	{ SET_FLAGS, "fl", NULL, FS_TOPDIR_FL, FS_SYNC_FL },
	{ MKDIR, "fl/d2", NULL, 0755, 0 },
	{ MKDIR, "acl", NULL, 0755, 0 },
	{ DEFAULT_ACL, "acl", NULL, 0, 0 },
	{ CREATE, "acl/f", NULL, 0666, 022 },
	{ CREATE, "acl/x", NULL, 0777, 0777 },
	{ CREATE, "acl/none", NULL, 0, 0 },
	{ MKDIR, "acl/d", NULL, 0777, 022 },
	{ MKDIR, "acl/d/d", NULL, 0700, 0 },
	{ CREATE, "acl/d/d/f", NULL, 0644, 0 },
	{ SYMLINK, "acl/l", "x", 0, 0 },
	{ MKNOD, "acl/c", NULL, S_IFCHR | 0666, 1 << 16 | 3 },
	{ TMPFILE, "acl", "acl/t", 0666, 0 },
	{ RENAME, "acl/f", "acl/g", RENAME_WHITEOUT, 0 },
	{ CREATE, "acl/" LONG255, NULL, 0644, 0 },
	{ MKDIR, "acl/" LONG64, NULL, 0755, 0 },
	{ RMDIR, "acl/" LONG64, NULL, 0, 0 },
};

static const struct step projects[] = {
	{ MKDIR, "p", NULL, 0755, 0 },
	{ SET_PROJECT, "p", NULL, 42, 0 },
	{ CREATE, "p/f", NULL, 0644, 0 },
	{ MKDIR, "p/d", NULL, 0755, 0 },
	{ SYMLINK, "p/l", "x", 0, 0 },
	{ CREATE, "f", NULL, 0644, 0 },
	{ LINK, "f", "p/g", 0, 0 },
	{ RENAME, "f", "p/g", 0, 0 },
	{ RENAME, "f", "p/f", RENAME_EXCHANGE, 0 },
	{ RENAME, "p/f", "f", RENAME_EXCHANGE, 0 },
	{ RENAME, "p/f", "p/d/f", 0, 0 },
	{ RENAME, "p/d/f", "g", 0, 0 },
	{ LINK, "g", "p/g", 0, 0 },
};

/* A directory that leaves its first block, or its inode, and comes to have a tree. */
static void fill_directory(struct world *w)
{
	struct step steps[2] = { { MKDIR, "full", NULL, 0755, 0 }, { MKDIR, NULL, NULL, 0755, 0 } };
	char path[300];

	do_steps(w, steps, 1);
	for (unsigned i = 0; i < 120; i++) {
		(void)snprintf(path, sizeof(path), "full/%03u%.*s", i, (int)(i * 7 % 200), LONG255);
		steps[1].a = path;
		steps[1].what = i % 10 == 0 ? MKDIR : CREATE;
		steps[1].mode = 0644;
		w->step = &steps[1];
		next_moment(w);
		ok(do_ours(w, &steps[1]));
		if (w->mounted)
			assert_int_equal(do_theirs(w, &steps[1]), 0);
	}
	compare_tree(w, "", UEXT4_ROOT_INO);
}

static void compare_all(const char *kind, const char *mke2fs)
{
	static struct world w;

	assert_true(world_make(&w, kind, mke2fs, NULL));
	world_mount(&w);
	do_steps(&w, basics, sizeof(basics) / sizeof(basics[0]));
	do_steps(&w, renames, sizeof(renames) / sizeof(renames[0]));
	do_steps(&w, rules, sizeof(rules) / sizeof(rules[0]));
	fill_directory(&w);
	ok(uext4_close(w.fs));
	w.fs = NULL;
	fsck(&w);
	assert_true(world_open(&w));
	compare_tree(&w, "", UEXT4_ROOT_INO);
	world_free(&w);
}

static void test_4k(void **state)
{
	need_tools();
	compare_all("4k", "-t ext4 -b 4096");
}

static void test_1k(void **state)
{
	need_tools();
	compare_all("1k", "-t ext4 -b 1024 -O ^metadata_csum");
}

static void test_ext2(void **state)
{
	need_tools();
	compare_all("ext2", "-t ext2 -b 1024 -I 128");
}

static void test_inline(void **state)
{
	need_tools();
	compare_all("inline", "-t ext4 -b 4096 -I 256 -O inline_data");
}

static void test_project(void **state)
{
	static struct world w;

	need_tools();
	if (!world_make(&w, "project", "-t ext4 -b 4096 -O quota,project", NULL)) {
		print_message("%s\n", uext4_last_error());
		world_free(&w);
		skip();
	}
	world_mount(&w);
	do_steps(&w, projects, sizeof(projects) / sizeof(projects[0]));
	ok(uext4_close(w.fs));
	w.fs = NULL;
	fsck(&w);
	world_free(&w);
}

/* ---- limits of links ------------------------------------------------------------------------- */

static const struct step limits[] = {
	{ LINK, "f", "f1", 0, 0 }, /* 65000 */
	{ LINK, "f", "f2", 0, 0 },
	{ UNLINK, "f1", NULL, 0, 0 },
	{ LINK, "f", "f2", 0, 0 },
	{ MKDIR, "d/1", NULL, 0755, 0 }, /* 65000 */
	{ MKDIR, "d/2", NULL, 0755, 0 },
	{ MKDIR, "x", NULL, 0755, 0 },
	{ RENAME, "x", "d/2", 0, 0 },
	{ RENAME, "x", "d/1", 0, 0 },
	{ MKDIR, "x", NULL, 0755, 0 },
	{ CREATE, "d/f", NULL, 0644, 0 },
	{ RENAME, "x", "d/f", RENAME_EXCHANGE, 0 },
	{ RENAME, "d/1", "y", 0, 0 },
	{ RENAME, "x", "d/f", RENAME_EXCHANGE, 0 },
};

/* A directory with a tree and one link less than the most. */
static void limits_of(const char *kind, const char *mke2fs)
{
	char path[64];
	struct step fill = { CREATE, path, NULL, 0644, 0 };
	const struct step many[] = {
		{ MKDIR, "t/1", NULL, 0755, 0 }, /* 65000 */
		{ MKDIR, "t/2", NULL, 0755, 0 }, { MKDIR, "t/3", NULL, 0755, 0 },
		{ RMDIR, "t/2", NULL, 0, 0 },	 { RENAME, "t/3", "z", 0, 0 },
		{ MKDIR, "t/4", NULL, 0755, 0 }, { RMDIR, "t", NULL, 0, 0 },
	};
	static struct world w;

	assert_true(world_make(&w, kind, mke2fs,
			       "mkdir d\\nmkdir t\\nwrite /dev/null f\\nsif d links_count 64999\\n"
			       "sif f links_count 64999\\nsif t links_count 64999\\n"));
	world_mount(&w);
	do_steps(&w, limits, sizeof(limits) / sizeof(limits[0]));
	for (unsigned i = 0; i < 100; i++) {
		(void)snprintf(path, sizeof(path), "t/name-of-some-length-%u", i);
		ok(do_ours(&w, &fill));
		if (w.mounted)
			assert_int_equal(do_theirs(&w, &fill), 0);
	}
	do_steps(&w, many, sizeof(many) / sizeof(many[0]));
	world_free(&w);
}

static void test_limits(void **state)
{
	need_tools();
	limits_of("dir_nlink", "-t ext4 -b 1024 -O dir_nlink");
	limits_of("no dir_nlink", "-t ext4 -b 1024 -O ^dir_nlink");
}

/* ---- what fails changes nothing -------------------------------------------------------------- */

/*
 * Everything that is to be seen of the tree; *used counts the bytes of directories.  Their sizes
 * are left out: a node of a tree may have been split when a leaf found no block.
 */
static void describe(const struct world *w, uint32_t ino, const char *name, FILE *out,
		     uint64_t *used)
{
	struct uext4_dirent e;
	struct uext4_stat st;
	struct uext4_dir *d;
	uint64_t cookie = 0;
	size_t got;

	ok(uext4_stat(w->fs, ino, &st));
	(void)fprintf(out, "%s %u %o %u %llx %lld.%u %lld.%u %llu\n", name, ino, st.mode, st.nlink,
		      (unsigned long long)st.flags, (long long)st.mtime.sec, st.mtime.nsec,
		      (long long)st.ctime.sec, st.ctime.nsec, (unsigned long long)st.version);
	if (!S_ISDIR(st.mode)) {
		(void)fprintf(out, "%s: %llu bytes, %llu blocks\n", name,
			      (unsigned long long)st.size, (unsigned long long)st.blocks);
		return;
	}
	*used += st.blocks * 512;
	ok(uext4_dir_open(w->fs, ino, &d));
	for (;;) {
		ok(uext4_dir_read(d, cookie, &e, 1, &got));
		if (got == 0)
			break;
		cookie = e.cookie;
		(void)fprintf(out, "%s/%s=%u\n", name, e.name, e.ino);
		if (strcmp(e.name, ".") != 0 && strcmp(e.name, "..") != 0)
			describe(w, e.ino, e.name, out, used);
	}
	uext4_dir_close(d);
}

static char *snapshot(const struct world *w)
{
	struct uext4_statfs fs;
	uint64_t used = 0;
	size_t bytes;
	char *text;
	FILE *out = open_memstream(&text, &bytes);

	assert_non_null(out);
	describe(w, UEXT4_ROOT_INO, "", out, &used);
	ok(uext4_statfs(w->fs, 0, &fs));
	used += fs.blocks_free * fs.block_size;
	(void)fprintf(out, "%llu bytes free or in directories, %llu inodes free\n",
		      (unsigned long long)used, (unsigned long long)fs.inodes_free);
	assert_int_equal(fclose(out), 0);
	return text;
}

static void assert_unchanged(const struct world *w, char *before)
{
	char *after = snapshot(w);

	assert_string_equal(before, after);
	free(before);
	free(after);
}

/*
 * A tree of directories, files and long symlinks up to the last block; then some go, and the same
 * again.  Where the inodes are fewer than the blocks they are what ends.
 */
static void fill(const char *kind, const char *mke2fs, uint32_t kib)
{
	static const struct step makers[] = {
		{ MKDIR, NULL, NULL, 0755, 0 },	 { SYMLINK_OF, NULL, NULL, 700, 0 },
		{ CREATE, NULL, NULL, 0644, 0 }, { RENAME, NULL, NULL, RENAME_WHITEOUT, 0 },
		{ LINK, NULL, NULL, 0, 0 },
	};
	char path[300], from[300];
	unsigned refused = 0;
	static struct world w;

	assert_true(world_make_sized(&w, kind, mke2fs, kib, NULL));
	ok(do_ours(&w, &(struct step){ MKDIR, "d", NULL, 0755, 0 }));
	ok(do_ours(&w, &(struct step){ CREATE, "d/first", NULL, 0644, 0 }));
	(void)strcpy(from, "d/first");
	for (unsigned i = 0; refused < 60 && i < 20000; i++) {
		struct step s = makers[i % (sizeof(makers) / sizeof(makers[0]))];
		bool end = refused > 0 || i % 100 == 0;
		char *before = end ? snapshot(&w) : NULL;
		int err;

		(void)snprintf(path, sizeof(path), "d/%.*s%u", (int)(i * 37 % 240), LONG255, i);
		s.a = path;
		if (s.what == RENAME || s.what == LINK) {
			s.a = from;
			s.b = path;
		}
		err = do_ours(&w, &s);
		if (err == 0) {
			free(before);
			if (s.what == RENAME)
				(void)strcpy(from, path);
			continue;
		}
		assert_int_equal(err, -ENOSPC);
		if (end)
			assert_unchanged(&w, before);
		refused++;
		if (refused % 10 == 0) {
			/* One directory goes, and makes room. */
			for (unsigned j = 0; j < i; j += 5) {
				(void)snprintf(path, sizeof(path), "d/%.*s%u", (int)(j * 37 % 240),
					       LONG255, j);
				s = (struct step){ RMDIR, path, NULL, 0, 0 };
				if (do_ours(&w, &s) == 0)
					break;
			}
		}
	}
	assert_int_equal(refused, 60);
	ok(uext4_close(w.fs));
	w.fs = NULL;
	fsck(&w);
	world_free(&w);
}

static void test_full(void **state)
{
	need_tools();
	fill("full", "-t ext4 -b 1024 -N 2000", 3072);
	fill("full, linear", "-t ext2 -b 1024 -N 2000", 1024);
	fill("full, inline", "-t ext4 -b 1024 -I 256 -N 2000 -O inline_data", 3072);
	fill("no inodes", "-t ext4 -b 1024 -N 128", 16384);
}

/* Every allocation of memory fails in turn. */
static void test_enomem(void **state)
{
	static const struct step steps[] = {
		{ MKDIR, "a", NULL, 0755, 0 },
		{ DEFAULT_ACL, "a", NULL, 0, 0 },
		{ MKDIR, "a/b", NULL, 0755, 0 },
		{ CREATE, "a/f", NULL, 0644, 0 },
		{ CREATE, "a/" LONG255, NULL, 0644, 0 },
		{ SYMLINK_OF, "a/l", NULL, 150, 0 },
		{ SYMLINK_OF, "a/l2", NULL, 700, 0 },
		{ MKNOD, "a/p", NULL, S_IFIFO | 0600, 0 },
		{ LINK, "a/f", "a/g", 0, 0 },
		{ TMPFILE, "a", "a/t", 0644, 0 },
		{ RENAME, "a/f", "a/b/f", 0, 0 },
		{ RENAME, "a/b/f", "a/g", RENAME_EXCHANGE, 0 },
		{ RENAME, "a/b", "b", RENAME_WHITEOUT, 0 },
		{ RENAME, "a/l", "a/l2", 0, 0 },
		{ UNLINK, "a/l2", NULL, 0, 0 },
		{ UNLINK, "b/f", NULL, 0, 0 },
		{ RMDIR, "b", NULL, 0, 0 },
	};
	static struct world w;
	unsigned failed = 0;

	need_tools();
	assert_true(world_make(&w, "enomem", "-t ext4 -b 1024 -I 256 -O inline_data", NULL));
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		for (uint64_t nth = 1;; nth++) {
			char *before = snapshot(&w);
			int err;

			(void)mem_fail_nth(nth);
			err = do_ours(&w, &steps[i]);
			(void)mem_fail_nth(0);
			if (err == 0) {
				free(before);
				break;
			}
			assert_int_equal(err, -ENOMEM);
			failed++;
			assert_unchanged(&w, before);
		}
	}
	assert_true(failed > 20);
	/* What could not be deleted for want of memory is deleted now. */
	ok(uext4_close(w.fs));
	assert_true(world_open(&w));
	ok(uext4_close(w.fs));
	w.fs = NULL;
	fsck(&w);
	world_free(&w);
}

/* ---- many threads ---------------------------------------------------------------------------- */

#define THREADS 4
#define DIRS 5
#define THREAD_STEPS 6000

struct worker {
	pthread_t thread;
	struct uext4_fs *fs;
	uint32_t dirs[DIRS]; /* these stay, wherever they are moved */
	uint64_t seed;
	unsigned done, refused;
	int err;
};

static uint32_t below(struct worker *k, uint32_t n)
{
	k->seed ^= k->seed << 13;
	k->seed ^= k->seed >> 7;
	k->seed ^= k->seed << 17;
	return (uint32_t)(k->seed >> 11) % n;
}

/* What may happen when others are about; all else is a failure. */
static bool is_allowed(int err)
{
	switch (err) {
	case -ENOENT:
	case -EEXIST:
	case -EISDIR:
	case -ENOTDIR:
	case -ENOTEMPTY:
	case -EINVAL:
	case -EPERM:
	case -ESTALE: return true;
	default: return err == 0;
	}
}

static int random_step(struct worker *k)
{
	static const uint32_t flags[] = { 0, 0, UEXT4_RENAME_EXCHANGE, UEXT4_RENAME_NOREPLACE,
					  UEXT4_RENAME_WHITEOUT };
	struct uext4_new attrs = { .mode = S_IFREG | 0644 };
	uint32_t dir = k->dirs[below(k, DIRS)], other = k->dirs[below(k, DIRS)], ino;
	char name[32], new_name[32];
	struct uext4_dirent e[8];
	struct uext4_file *file;
	struct uext4_dir *d;
	size_t got;
	int err;

	(void)snprintf(name, sizeof(name), "some-name-%u", below(k, 60));
	(void)snprintf(new_name, sizeof(new_name), "some-name-%u", below(k, 60));
	switch (below(k, 12)) {
	case 0:
		attrs.mode = S_IFDIR | 0755;
		return uext4_create(k->fs, dir, name, strlen(name), &attrs, &ino);
	case 1:
	case 2: return uext4_create(k->fs, dir, name, strlen(name), &attrs, &ino);
	case 3:
	case 4: return uext4_unlink(k->fs, dir, name, strlen(name));
	case 5: return uext4_rmdir(k->fs, dir, name, strlen(name));
	case 6:
		err = uext4_lookup(k->fs, dir, name, strlen(name), &ino);
		return err < 0 ? err : uext4_link(k->fs, ino, other, new_name, strlen(new_name));
	case 7:
		err = uext4_tmpfile(k->fs, dir, &attrs, 0, &file);
		if (err < 0)
			return err;
		if (below(k, 2))
			err = uext4_link(k->fs, uext4_file_ino(file), dir, name, strlen(name));
		(void)uext4_file_close(file);
		return err;
	case 8:
		err = uext4_dir_open(k->fs, dir, &d);
		if (err < 0)
			return err;
		err = uext4_dir_read(d, 0, e, 8, &got);
		uext4_dir_close(d);
		return err;
	default:
		return uext4_rename(k->fs, dir, name, strlen(name), other, new_name,
				    strlen(new_name), flags[below(k, 5)]);
	}
}

static void *work(void *arg)
{
	struct worker *k = arg;

	for (unsigned i = 0; i < THREAD_STEPS; i++) {
		int err = random_step(k);

		if (!is_allowed(err)) {
			k->err = err;
			(void)fprintf(stderr, "%s\n", uext4_last_error());
			return NULL;
		}
		k->done += err == 0;
		k->refused += err != 0;
	}
	return NULL;
}

/* Directories inside each other, whose entries go everywhere, those directories too. */
static void many_threads(const char *kind, const char *mke2fs)
{
	struct uext4_new attrs = { .mode = S_IFDIR | 0755 };
	struct worker workers[THREADS] = { 0 };
	uint32_t dirs[DIRS];
	static struct world w;

	assert_true(world_make(&w, kind, mke2fs, NULL));
	for (unsigned i = 0; i < DIRS; i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), "some-name-%u", i);
		ok(uext4_create(w.fs, i % 2 == 0 ? UEXT4_ROOT_INO : dirs[i - 1], name, strlen(name),
				&attrs, &dirs[i]));
		ok(uext4_create(w.fs, dirs[i], "keep", 4, &(struct uext4_new){ 0 },
				&(uint32_t){ 0 }));
	}
	for (unsigned t = 0; t < THREADS; t++) {
		workers[t].fs = w.fs;
		workers[t].seed = 77 + t;
		memcpy(workers[t].dirs, dirs, sizeof(dirs));
		assert_int_equal(pthread_create(&workers[t].thread, NULL, work, &workers[t]), 0);
	}
	for (unsigned t = 0; t < THREADS; t++) {
		assert_int_equal(pthread_join(workers[t].thread, NULL), 0);
		assert_int_equal(workers[t].err, 0);
		assert_true(workers[t].done > THREAD_STEPS / 10);
		assert_true(workers[t].refused > THREAD_STEPS / 10);
	}
	w.step = &basics[0];
	compare_tree(&w, "", UEXT4_ROOT_INO);
	ok(uext4_close(w.fs));
	w.fs = NULL;
	fsck(&w);
	world_free(&w);
}

static void test_threads(void **state)
{
	need_tools();
	many_threads("threads", "-t ext4 -b 1024");
	many_threads("threads, inline", "-t ext4 -b 1024 -I 512 -O inline_data,^has_journal");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_4k, clean),
		cmocka_unit_test_teardown(test_1k, clean),
		cmocka_unit_test_teardown(test_ext2, clean),
		cmocka_unit_test_teardown(test_inline, clean),
		cmocka_unit_test_teardown(test_project, clean),
		cmocka_unit_test_teardown(test_limits, clean),
		cmocka_unit_test_teardown(test_threads, clean),
		cmocka_unit_test_teardown(test_full, clean),
		cmocka_unit_test_teardown(test_enomem, clean),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
