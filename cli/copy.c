/* SPDX-License-Identifier: MIT */
/*
 * `cat` and `cp`: contents, and whole trees, out of an image.  (Into one: copy_in.c.)
 *
 * X1  Below DST every object is made by one step relative to the descriptor of its directory, under
 *     a single name that has neither '/' nor is "." or "..", and no step follows a symlink:
 *     whatever the image and the target hold, or somebody puts there meanwhile, nothing lands
 *     outside.
 * X2  What stands in the way below DST is unlinked, never written through: it may have other names.
 * X3  A file whose contents could not be copied as a whole is removed again.
 * X4  The image is never the target.
 */
#include "cli.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "copy_in.h"
#include "data.h"
#include "image.h"
#include "out.h"
#include "walk.h"

/* ---- cat ------------------------------------------------------------------------------------ */

static void cat_target(const struct target *target)
{
	struct uext4_file *file;
	struct uext4_stat st;
	int err;

	if (image_stat(target->image, target->ino, target->path, &st) < 0)
		return;
	err = uext4_file_open(target->image->fs, target->ino, 0, &file);
	if (err < 0) {
		complain_fs(target_place(target), err);
		return;
	}
	uext4_prefetch(file, 0, DATA_CHUNK);
	err = data_copy(target_place(target), file, st.size, STDOUT_FILENO, "standard output",
			DATA_HOLES_FILL);
	uext4_file_close(file);
}

void command_cat(const struct options *opts, int argc, char **argv)
{
	while (command_option(argc, argv, ":u", NULL) != -1)
		; /* -u, unbuffered, is how it always is. */
	if (opts->json)
		usage_error(argv[0], "--json: contents are written as they are, never as JSON");
	if (optind == argc)
		usage_error(argv[0], "no file given");
	for (int i = optind; i < argc; i++) {
		struct target target;

		if (target_open(opts, argv[i], TARGET_FOLLOW, &target) < 0)
			continue;
		cat_target(&target);
		target_finish(&target);
	}
}

/* ---- cp: state ------------------------------------------------------------------------------ */

/* A directory below DST that is being filled. */
struct level {
	int fd;
	bool made; /* by us */
	struct uext4_stat st;
	uint32_t ino;
};

struct copy {
	bool recursive; /* -r, -a */
	bool archive;	/* -a */
	mode_t umask;
	const char *dst; /* as given, for messages */
	struct image *image;
	int base; /* the directory that link paths start from */
	struct level *levels;
	size_t levels_count;
	size_t levels_size;
	struct inomap links;   /* of image: inode to the path of its first copy, below base */
	struct buffer shown;   /* path of the present object on the host, for messages */
	struct buffer scratch; /* names and values of attributes */
	struct buffer value;
	uint64_t owners_lost; /* for lack of privilege */
	uint64_t xattrs_lost;
};

/* One object to be made: from where, and under which name in which directory. */
struct item {
	struct place place;
	uint32_t ino;
	const struct uext4_stat *st;
	int dir; /* descriptor */
	const char *name;
};

static const char *shown(struct copy *copy)
{
	return buffer_text(&copy->shown);
}

static bool name_is_plain(const char *name)
{
	return name[0] && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* ---- cp: attributes ------------------------------------------------------------------------- */

/*
 * "/proc/self/fd/N": names the object itself whatever happens to its path, and works for
 * descriptors of O_PATH too, where the calls on descriptors do not.
 */
static void fd_path(int fd, char path[32])
{
	snprintf(path, 32, "/proc/self/fd/%d", fd);
}

static bool lacks_privilege(int err)
{
	return (err == EPERM || err == EACCES) && geteuid() != 0;
}

static int keep_owner(struct copy *copy, int fd, const struct uext4_stat *st)
{
	if (fchownat(fd, "", st->uid, st->gid, AT_EMPTY_PATH) == 0)
		return 0;
	if (lacks_privilege(errno)) {
		copy->owners_lost++;
		return 1;
	}
	complain_sys(shown(copy), errno, "cannot set the owner");
	return -1;
}

/*
 * Objects below a directory with a default ACL are born with one.  It has to go before the mode is
 * set, which otherwise would change the ACL's mask.
 */
static void drop_inherited_acls(const char *path)
{
	/* Where there is none, or none can be, nothing is to be done. */
	removexattr(path, "system.posix_acl_access");
	removexattr(path, "system.posix_acl_default");
}

static void keep_xattr(struct copy *copy, const struct item *item, const char *path,
		       const char *name)
{
	if (image_xattr_value(copy->image, item->ino, item->place.path, name, &copy->value) < 0)
		return;
	if (setxattr(path, name, copy->value.data, copy->value.len, 0) == 0)
		return;
	if (lacks_privilege(errno)) {
		copy->xattrs_lost++;
	} else {
		char *action = must_format("cannot set attribute %s", name);

		complain_sys(shown(copy), errno, action);
		free(action);
	}
}

static void keep_xattrs(struct copy *copy, const struct item *item, const char *path)
{
	struct buffer *names = &copy->scratch;

	if (image_xattr_names(copy->image, item->ino, item->place.path, names) < 0)
		return;
	for (size_t at = 0; at < names->len; at += strlen(names->data + at) + 1)
		keep_xattr(copy, item, path, names->data + at);
}

/* The mode of a copy without -a: as a new file of the user's, without set-id bits. */
static mode_t new_mode(const struct copy *copy, const struct uext4_stat *st)
{
	return st->mode & 0777 & ~copy->umask;
}

static void set_mode(struct copy *copy, const char *path, mode_t mode)
{
	if (chmod(path, mode) < 0)
		complain_sys(shown(copy), errno, "cannot set the mode");
}

static void keep_times(struct copy *copy, const char *path, const struct uext4_stat *st)
{
	struct timespec times[2] = {
		{ .tv_sec = (time_t)st->atime.sec, .tv_nsec = (long)st->atime.nsec },
		{ .tv_sec = (time_t)st->mtime.sec, .tv_nsec = (long)st->mtime.nsec },
	};

	if (utimensat(AT_FDCWD, path, times, 0) < 0)
		complain_sys(shown(copy), errno, "cannot set the times");
}

/*
 * Gives the finished object @fd (which may be O_PATH) its attributes.  The order matters: changing
 * the owner clears set-id bits and capabilities, and everything changes the times.
 */
static void set_attributes(struct copy *copy, const struct item *item, int fd)
{
	mode_t mode = item->st->mode & 07777;
	char path[32];

	fd_path(fd, path);
	if (!copy->archive) {
		if (!S_ISLNK(item->st->mode))
			set_mode(copy, path, new_mode(copy, item->st));
		return;
	}
	/* Set-id bits belong to the owner they were made for. */
	if (keep_owner(copy, fd, item->st) != 0)
		mode &= 0777 | S_ISVTX;
	if (!S_ISLNK(item->st->mode)) {
		drop_inherited_acls(path);
		set_mode(copy, path, mode);
	}
	keep_xattrs(copy, item, path);
	keep_times(copy, path, item->st);
}

/* ---- cp: objects ---------------------------------------------------------------------------- */

/* X2 and X4.  Returns 0 when @name is free, or a negative errno that was reported. */
static int clear_way(struct copy *copy, int dir, const char *name)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno == ENOENT)
			return 0;
		complain_sys(shown(copy), errno, NULL);
		return -EIO;
	}
	if (st.st_dev == copy->image->dev && st.st_ino == copy->image->ino) {
		complain(STATUS_FAILED, shown(copy), "is the image itself: not replaced");
		return -EBUSY;
	}
	if (S_ISDIR(st.st_mode)) {
		complain(STATUS_FAILED, shown(copy),
			 "cannot replace a directory by something else");
		return -EISDIR;
	}
	if (unlinkat(dir, name, 0) < 0) {
		complain_sys(shown(copy), errno, "cannot remove");
		return -EIO;
	}
	return 0;
}

static int copy_contents(struct copy *copy, const struct item *item, int fd, enum data_holes holes)
{
	struct uext4_file *file;
	int err = uext4_file_open(copy->image->fs, item->ino, 0, &file);

	if (err < 0) {
		complain_fs(item->place, err);
		return err;
	}
	err = data_copy(item->place, file, item->st->size, fd, shown(copy), holes);
	uext4_file_close(file);
	return err;
}

static int make_file(struct copy *copy, const struct item *item)
{
	int fd = openat(item->dir, item->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			0600);
	int err;

	if (fd < 0) {
		complain_sys(shown(copy), errno, "cannot create");
		return -EIO;
	}
	err = copy_contents(copy, item, fd, DATA_HOLES_KEEP);
	if (err == 0)
		set_attributes(copy, item, fd);
	if (close(fd) < 0 && err == 0) {
		err = -errno;
		complain_sys(shown(copy), errno, "write error");
	}
	if (err < 0)
		unlinkat(item->dir, item->name, 0); /* X3 */
	return err;
}

/* A symlink, device node, fifo or socket. */
static int make_node(struct copy *copy, const struct item *item)
{
	int fd, err;

	if (S_ISLNK(item->st->mode)) {
		if (image_readlink(copy->image, item->ino, item->place.path, &copy->scratch) < 0)
			return -EIO;
		err = symlinkat(copy->scratch.data, item->dir, item->name);
	} else {
		err = mknodat(item->dir, item->name, (item->st->mode & S_IFMT) | 0600,
			      makedev(item->st->rdev_major, item->st->rdev_minor));
	}
	if (err < 0) {
		complain_sys(shown(copy), errno, "cannot create");
		return -EIO;
	}
	fd = openat(item->dir, item->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		complain_sys(shown(copy), errno, NULL);
		return -EIO;
	}
	set_attributes(copy, item, fd);
	close(fd);
	return 0;
}

/*
 * Opens the directory of @path (relative to @base, names joined by single slashes) one step after
 * the other, no symlink followed (X1).  *ret_name is the last component.
 */
static int open_parent(int base, char *path, const char **ret_name)
{
	int fd = dup(base);

	for (char *slash; fd >= 0 && (slash = strchr(path, '/')); path = slash + 1) {
		int next;

		*slash = '\0';
		next = openat(fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		close(fd);
		fd = next;
	}
	*ret_name = path;
	return fd;
}

/*
 * Links the object to the copy made before under another name.  False if there is none, or it can
 * no longer be found: then the object is copied once more.
 */
static bool make_link(struct copy *copy, const struct item *item)
{
	struct inomap_slot *slot = inomap_find(&copy->links, item->ino);
	const char *name;
	bool linked;
	char *path;
	int dir;

	if (!slot)
		return false;
	path = must_copy(slot->value);
	dir = open_parent(copy->base, path, &name);
	linked = dir >= 0 && linkat(dir, name, item->dir, item->name, 0) == 0;
	if (dir >= 0)
		close(dir);
	free(path);
	return linked;
}

/* Remembers the copy of an inode that has more names.  @below_base: its path from copy->base. */
static void remember_link(struct copy *copy, const struct item *item, const char *below_base)
{
	if (item->st->nlink > 1 && !inomap_find(&copy->links, item->ino))
		inomap_add(&copy->links, item->ino, must_copy(below_base));
}

/* Makes anything but a directory. */
static void make_object(struct copy *copy, const struct item *item, const char *below_base)
{
	int err;

	if (clear_way(copy, item->dir, item->name) < 0)
		return;
	if (item->st->nlink > 1 && make_link(copy, item))
		return;
	err = S_ISREG(item->st->mode) ? make_file(copy, item) : make_node(copy, item);
	if (err == 0)
		remember_link(copy, item, below_base);
}

/* ---- cp: directories ------------------------------------------------------------------------ */

static void push_level(struct copy *copy, int fd, bool made, const struct item *item)
{
	if (copy->levels_count == copy->levels_size) {
		copy->levels_size = copy->levels_size ? copy->levels_size * 2 : 16;
		copy->levels = must_resize(copy->levels, copy->levels_size, sizeof(*copy->levels));
	}
	copy->levels[copy->levels_count++] =
		(struct level){ .fd = fd, .made = made, .st = *item->st, .ino = item->ino };
}

/* Makes or enters a directory.  False (reported) if that cannot be. */
static bool enter_directory(struct copy *copy, const struct item *item)
{
	bool made = mkdirat(item->dir, item->name, 0700) == 0;
	int fd;

	if (!made && errno != EEXIST) {
		complain_sys(shown(copy), errno, "cannot create");
		return false;
	}
	fd = openat(item->dir, item->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		/* ELOOP is how Linux says that a symlink stands there. */
		complain_sys(shown(copy), errno == ELOOP ? ENOTDIR : errno, "cannot enter");
		return false;
	}
	push_level(copy, fd, made, item);
	return true;
}

/*
 * A directory is complete.  Only now does it get its attributes: before, it may have had no
 * permission to be filled, filling it changed its times, and its default ACL would have been passed
 * on.
 */
static void leave_directory(struct copy *copy, struct place place)
{
	struct level *level = &copy->levels[--copy->levels_count];
	struct item item = { .place = place, .ino = level->ino, .st = &level->st };

	if (copy->archive || level->made)
		set_attributes(copy, &item, level->fd);
	close(level->fd);
}

/* ---- cp: a tree ----------------------------------------------------------------------------- */

/* Where the copy of a target goes: under a name in a directory, or into an existing directory. */
struct destination {
	int dir;	  /* becomes copy->base */
	const char *name; /* NULL: the target is a directory and its contents go into dir itself */
	const char *shown;
};

static void copy_entry(struct copy *copy, struct walk *walk, const struct target *target,
		       const struct walk_entry *entry, const struct destination *to)
{
	/* Path below the start, "" for the start, otherwise with a slash in front. */
	const char *below = entry->path + (target->path[1] ? strlen(target->path) : 0);
	struct buffer below_base = { 0 };
	struct item item = {
		.place = { target->image->name, entry->path },
		.ino = entry->ino,
		.st = &entry->st,
	};

	if (entry->depth == 0)
		below = "";
	copy->shown.len = 0;
	buffer_add_text(&copy->shown, to->shown);
	buffer_add_text(&copy->shown, below);
	if (to->name)
		buffer_add_text(&below_base, to->name);
	buffer_add_text(&below_base, to->name || !*below ? below : below + 1);
	if (entry->kind == WALK_LEAVE) {
		leave_directory(copy, item.place);
		goto out;
	}
	if (entry->depth == 0 && !to->name) {
		push_level(copy, dup(to->dir), false, &item);
		goto out;
	}
	item.dir = entry->depth ? copy->levels[copy->levels_count - 1].fd : to->dir;
	item.name = entry->depth ? entry->name : to->name;
	if (!name_is_plain(item.name)) {
		complain(STATUS_FAILED, shown(copy), "not a name to create a file under");
		walk_skip(walk);
	} else if (!S_ISDIR(entry->st.mode)) {
		make_object(copy, &item, buffer_text(&below_base));
	} else if (!enter_directory(copy, &item)) {
		walk_skip(walk);
	}
out:
	buffer_finish(&below_base);
}

static void copy_tree(struct copy *copy, const struct target *target, const struct destination *to)
{
	struct walk *walk = walk_open(target->image, target->ino, target->path, 0);
	const struct walk_entry *entry;

	assert(copy->levels_count == 0);
	copy->base = to->dir;
	while ((entry = walk_next(walk))) {
		progress_count(entry->kind == WALK_ENTRY, 0);
		progress_poll();
		copy_entry(copy, walk, target, entry, to);
	}
	walk_close(walk);
}

/* ---- cp: operands --------------------------------------------------------------------------- */

static void forget_links(struct copy *copy)
{
	for (size_t i = 0; i < copy->links.size; i++)
		free(copy->links.slots[i].value);
	inomap_finish(&copy->links);
}

/* Writes into a file, device or fifo that the user has named and that is there. */
static void copy_into_existing(struct copy *copy, const struct target *target,
			       const struct uext4_stat *st, const struct stat *dst_st)
{
	struct item item = { .place = target_place(target), .ino = target->ino, .st = st };
	bool regular = S_ISREG(dst_st->st_mode);
	int fd, err;

	if (dst_st->st_dev == copy->image->dev && dst_st->st_ino == copy->image->ino) {
		complain(STATUS_FAILED, copy->dst, "is the image itself: not overwritten");
		return;
	}
	fd = open(copy->dst, O_WRONLY | O_CLOEXEC | O_NOCTTY | (regular ? O_TRUNC : 0));
	if (fd < 0) {
		complain_sys(copy->dst, errno, "cannot open");
		return;
	}
	err = copy_contents(copy, &item, fd, regular ? DATA_HOLES_KEEP : DATA_HOLES_FILL);
	if (err == 0 && regular && copy->archive)
		set_attributes(copy, &item, fd);
	if (close(fd) < 0 && err == 0)
		complain_sys(copy->dst, errno, "write error");
}

/* Opens the directory that holds @path; *ret_name is the last component (in @path). */
static int open_directory_of(char *path, const char **ret_name)
{
	char *slash;

	for (size_t len = strlen(path); len > 1 && path[len - 1] == '/'; len--)
		path[len - 1] = '\0';
	slash = strrchr(path, '/');
	*ret_name = slash ? slash + 1 : path;
	if (!slash)
		return open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (slash == path)
		return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*slash = '\0';
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* DST does not exist: the copy gets its name. */
static void copy_as(struct copy *copy, const struct target *target)
{
	struct destination to = { .shown = copy->dst };
	char *path = must_copy(copy->dst);

	to.dir = open_directory_of(path, &to.name);
	if (to.dir < 0) {
		complain_sys(copy->dst, errno, NULL);
	} else {
		copy_tree(copy, target, &to);
		close(to.dir);
	}
	free(path);
}

/*
 * DST is a directory: the copy goes into it.  A directory that was given without a name of its own,
 * as the root or by "." or "..", has its contents go in there.
 */
static void copy_into(struct copy *copy, const struct target *target)
{
	const char *name = target_name(target);
	struct destination to = { .name = name_is_plain(name) ? name : NULL };
	char *path = to.name ? must_format("%s/%s", copy->dst, name) : must_copy(copy->dst);

	to.shown = path;
	to.dir = open(copy->dst, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (to.dir < 0) {
		complain_sys(copy->dst, errno, NULL);
	} else {
		copy_tree(copy, target, &to);
		close(to.dir);
	}
	free(path);
}

static void copy_operand(struct copy *copy, const struct options *opts, const char *arg)
{
	enum target_follow follow = copy->recursive ? TARGET_NOFOLLOW : TARGET_FOLLOW;
	struct stat dst_st = { 0 };
	struct uext4_stat st;
	struct target target;
	bool exists;

	if (target_open(opts, arg, follow, &target) < 0)
		return;
	if (target.image != copy->image)
		forget_links(copy);
	copy->image = target.image;
	copy->shown.len = 0;
	buffer_add_text(&copy->shown, copy->dst);
	exists = stat(copy->dst, &dst_st) == 0;
	if (image_stat(target.image, target.ino, target.path, &st) < 0)
		goto out;
	if (!copy->recursive && !S_ISREG(st.mode)) {
		complain(STATUS_FAILED, arg, "is a %s: copied only with -r or -a",
			 type_word(st.mode));
	} else if (exists && S_ISDIR(dst_st.st_mode)) {
		copy_into(copy, &target);
	} else if (exists && S_ISREG(st.mode)) {
		copy_into_existing(copy, &target, &st, &dst_st);
	} else if (exists && S_ISDIR(st.mode)) {
		complain(STATUS_FAILED, copy->dst, "cannot replace a file by a directory");
	} else if (copy->dst[0] && copy->dst[strlen(copy->dst) - 1] == '/' && !S_ISDIR(st.mode)) {
		complain_sys(copy->dst, ENOTDIR, "cannot create");
	} else {
		copy_as(copy, &target);
	}
out:
	target_finish(&target);
}

static void check_operands(const char *command, int argc, char **argv)
{
	if (argc < 2)
		usage_error(command, argc ? "no target given" : "no file given");
	if (operand_is_inside(argv[argc - 1]))
		return;
	for (int i = 0; i < argc - 1; i++) {
		if (!strstr(argv[i], ":/"))
			usage_error(command, "'%s' is no IMAGE:/path to copy from", argv[i]);
	}
}

void command_cp(const struct options *opts, int argc, char **argv)
{
	struct copy copy = { .umask = umask(0) };
	struct rlimit limit;
	struct stat st;
	int c;

	umask(copy.umask);
	while ((c = command_option(argc, argv, ":arR", NULL)) != -1) {
		copy.recursive = true;
		copy.archive = copy.archive || c == 'a';
	}
	argc -= optind;
	check_operands("cp", argc, argv + optind);
	argv += optind;
	if (operand_is_inside(argv[argc - 1])) {
		copy_into_image(opts, copy.recursive, copy.archive, argc, argv);
		return;
	}
	copy.dst = argv[argc - 1];
	if (argc > 2 && (stat(copy.dst, &st) < 0 || !S_ISDIR(st.st_mode)))
		usage_error("cp", "several files can only be copied into a directory");
	/* One descriptor for each level of directories. */
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	progress_start(opts->progress, "cp", 0);
	for (int i = 0; i < argc - 1; i++)
		copy_operand(&copy, opts, argv[i]);
	progress_finish();
	if (copy.owners_lost)
		remark(NULL, "owners of %llu files were not kept: that needs to be root",
		       (unsigned long long)copy.owners_lost);
	if (copy.xattrs_lost)
		remark(NULL, "%llu privileged attributes were not kept: that needs to be root",
		       (unsigned long long)copy.xattrs_lost);
	forget_links(&copy);
	free(copy.levels);
	buffer_finish(&copy.shown);
	buffer_finish(&copy.scratch);
	buffer_finish(&copy.value);
}
