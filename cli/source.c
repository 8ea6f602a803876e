/* SPDX-License-Identifier: MIT */
/*
 * A tree to be copied into an image, from the host or from an image.
 *
 * On the host every step is relative to the descriptor of its directory and follows no symlink but
 * the operand's own: what somebody moves meanwhile may be missed, but nothing else is read instead.
 */
#include "source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

/*
 * What the host has at most for one file: a value, or a list of names.  Most have less, and the
 * kernel takes as much memory of its own as it is asked for.
 */
#define XATTR_MAX 65536u
#define XATTR_MOST 1024u

/* What a directory of the host says of an entry. */
struct host_name {
	char *name;
	bool is_file; /* a regular file */
};

/* A directory of the host that is being walked. */
struct host_level {
	int fd;
	struct host_name *names; /* sorted */
	size_t count;
	size_t next;
	size_t path_len; /* of the directory's path */
	struct uext4_stat st;
	uint64_t dev;
};

struct source {
	struct source_entry entry;
	char *name; /* for the copy */
	/* from an image */
	struct target target;
	struct walk *walk;
	uint32_t ino; /* of the entry */
	struct uext4_file *file;
	/* from the host */
	struct buffer path;
	struct host_level *levels;
	size_t depth; /* of levels in use */
	size_t levels_size;
	bool started;
	bool entered; /* the last entry was a directory: it comes next, unless it is skipped */
	bool follow;
	int fd;	    /* of the file that is being read, or the directory that is being left */
	int dir;    /* where the entry is */
	char *base; /* its name there */
};

/* ---- the host -------------------------------------------------------------------------------- */

static struct uext4_time time_of(struct timespec t)
{
	return (struct uext4_time){ .sec = t.tv_sec, .nsec = (uint32_t)t.tv_nsec };
}

static void convert(const struct stat *from, struct source_entry *to)
{
	to->dev = from->st_dev;
	to->st = (struct uext4_stat){
		.ino = (uint32_t)from->st_ino,
		.mode = from->st_mode,
		.nlink = (uint32_t)from->st_nlink,
		.uid = from->st_uid,
		.gid = from->st_gid,
		.rdev_major = major(from->st_rdev),
		.rdev_minor = minor(from->st_rdev),
		.size = (uint64_t)from->st_size,
		.blocks = (uint64_t)from->st_blocks,
		.atime = time_of(from->st_atim),
		.mtime = time_of(from->st_mtim),
		.ctime = time_of(from->st_ctim),
	};
	/* Numbers of the host may have 64 bits: folded, they still tell most files apart. */
	to->dev ^= (uint64_t)from->st_ino >> 32 << 16;
}

static int compare_names(const void *a, const void *b)
{
	const struct host_name *x = a, *y = b;

	return strcmp(x->name, y->name);
}

/* The names in the directory @fd, which the listing does not take over. */
static int list_names(int fd, struct host_name **ret_names, size_t *ret_count)
{
	DIR *dir = fdopendir(dup(fd));
	size_t count = 0, size = 0;
	struct dirent *entry;
	struct host_name *names = NULL;

	if (!dir)
		return -errno;
	errno = 0;
	while ((entry = readdir(dir)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (count == size) {
			size = size ? size * 2 : 64;
			names = must_resize(names, size, sizeof(*names));
		}
		names[count++] = (struct host_name){ .name = must_copy(entry->d_name),
						     .is_file = entry->d_type == DT_REG };
	}
	if (errno) {
		int err = -errno;

		closedir(dir);
		for (size_t i = 0; i < count; i++)
			free(names[i].name);
		free(names);
		return err;
	}
	closedir(dir);
	if (count)
		qsort(names, count, sizeof(*names), compare_names);
	*ret_names = names;
	*ret_count = count;
	return 0;
}

/* The entry is a directory: goes into it.  False: reported, there is nothing to be had. */
static bool host_enter(struct source *s)
{
	struct host_level level = { .path_len = s->path.len, .st = s->entry.st };
	int err;

	level.dev = s->entry.dev;
	level.fd = openat(s->dir, s->base,
			  O_RDONLY | O_DIRECTORY | O_CLOEXEC |
				  (s->depth == 0 && s->follow ? 0 : O_NOFOLLOW));
	if (level.fd < 0) {
		complain_sys(buffer_text(&s->path), errno, "cannot read the directory");
		return false;
	}
	err = list_names(level.fd, &level.names, &level.count);
	if (err < 0) {
		complain_sys(buffer_text(&s->path), -err, "cannot read the directory");
		close(level.fd);
		return false;
	}
	if (s->depth == s->levels_size) {
		s->levels_size = s->levels_size ? s->levels_size * 2 : 16;
		s->levels = must_resize(s->levels, s->levels_size, sizeof(*s->levels));
	}
	s->levels[s->depth++] = level;
	return true;
}

static const struct source_entry *host_leave(struct source *s)
{
	struct host_level *level = &s->levels[--s->depth];

	free(level->names);
	s->fd = level->fd; /* open for its attributes */
	s->path.len = level->path_len;
	s->dir = s->depth ? s->levels[s->depth - 1].fd : AT_FDCWD;
	s->entry = (struct source_entry){
		.kind = WALK_LEAVE,
		.depth = (unsigned)s->depth,
		.path = buffer_text(&s->path),
		.st = level->st,
		.dev = level->dev,
	};
	free(s->base);
	s->base = must_copy(s->depth ? strrchr(s->entry.path, '/') + 1 : s->entry.path);
	s->entry.name = s->depth ? s->base : s->name;
	return &s->entry;
}

static int host_open_file(int dir, const char *name, int flags)
{
	return openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | flags);
}

/*
 * Looks at @name in @dir, which becomes the source's; false: reported.  What seems to be a file is
 * opened first, as most will be in any case: one walk to the name is saved.
 */
static bool host_look(struct source *s, int dir, char *name, bool is_file, int flags)
{
	struct stat st;

	if (is_file)
		s->fd = host_open_file(dir, name, O_NOFOLLOW);
	if ((s->fd >= 0 ? fstat(s->fd, &st) : fstatat(dir, name, &st, flags)) < 0) {
		complain_sys(buffer_text(&s->path), errno, NULL);
		source_file_close(s);
		free(name);
		return false;
	}
	free(s->base);
	s->base = name;
	s->dir = dir;
	s->entry.kind = WALK_ENTRY;
	s->entry.depth = (unsigned)s->depth;
	s->entry.path = buffer_text(&s->path);
	s->entry.name = s->depth ? s->base : s->name;
	convert(&st, &s->entry);
	s->entered = S_ISDIR(st.st_mode);
	return true;
}

static const struct source_entry *host_next(struct source *s)
{
	if (!s->started) {
		char *path = must_copy(buffer_text(&s->path));
		bool found;

		s->started = true;
		found = host_look(s, AT_FDCWD, path, false, s->follow ? 0 : AT_SYMLINK_NOFOLLOW);
		return found ? &s->entry : NULL;
	}
	if (s->entered) {
		s->entered = false;
		if (!host_enter(s) && s->depth == 0)
			return NULL;
	}
	while (s->depth > 0) {
		struct host_level *level = &s->levels[s->depth - 1];
		const struct host_name *name;

		if (level->next == level->count)
			return host_leave(s);
		name = &level->names[level->next++];
		s->path.len = level->path_len;
		if (s->path.len == 0 || s->path.data[s->path.len - 1] != '/')
			buffer_add_text(&s->path, "/");
		buffer_add_text(&s->path, name->name);
		if (host_look(s, level->fd, name->name, name->is_file, AT_SYMLINK_NOFOLLOW))
			return &s->entry;
	}
	return NULL;
}

/*
 * "/proc/self/fd/N/NAME": attributes have no calls relative to a descriptor.  NULL: the file is
 * open, which is much cheaper.
 */
static char *host_path(const struct source *s)
{
	if (s->fd >= 0)
		return NULL;
	if (s->dir == AT_FDCWD)
		return must_copy(s->base);
	return must_format("/proc/self/fd/%d/%s", s->dir, s->base);
}

static int host_readlink(struct source *s, struct buffer *buf)
{
	ssize_t len;

	buf->len = 0;
	len = readlinkat(s->dir, s->base, buffer_room(buf, 65536), 65536);
	if (len < 0) {
		complain_sys(s->entry.path, errno, NULL);
		return -EIO;
	}
	buf->len = (size_t)len;
	buffer_text(buf);
	return 0;
}

static ssize_t host_xattr_list(const struct source *s, const char *path, char *to, size_t size)
{
	if (!path)
		return flistxattr(s->fd, to, size);
	return S_ISLNK(s->entry.st.mode) ? llistxattr(path, to, size) : listxattr(path, to, size);
}

static ssize_t host_xattr_get(const struct source *s, const char *path, const char *name, char *to,
			      size_t size)
{
	if (!path)
		return fgetxattr(s->fd, name, to, size);
	return S_ISLNK(s->entry.st.mode) ? lgetxattr(path, name, to, size)
					 : getxattr(path, name, to, size);
}

static ssize_t host_xattr_read(const struct source *s, const char *path, const char *name,
			       struct buffer *buf, size_t size)
{
	char *to = buffer_room(buf, size);

	return name ? host_xattr_get(s, path, name, to, size) : host_xattr_list(s, path, to, size);
}

/* The value of @name, or, without one, all names. */
static int host_xattr(struct source *s, const char *name, struct buffer *buf)
{
	char *path = host_path(s);
	ssize_t len;

	buf->len = 0;
	len = host_xattr_read(s, path, name, buf, XATTR_MOST);
	if (len < 0 && errno == ERANGE)
		len = host_xattr_read(s, path, name, buf, XATTR_MAX);
	free(path);
	if (len < 0 && !name && (errno == ENOTSUP || errno == ENOSYS))
		len = 0; /* there are none */
	if (len < 0) {
		complain_sys(s->entry.path, errno, "cannot read attributes");
		return -EIO;
	}
	buf->len = (size_t)len;
	return 0;
}

static int host_file_next(struct source *s, uint64_t offset, uint64_t size, struct data_range *ret)
{
	off_t data, hole;

	if (offset >= size)
		return 0;
	/* As many blocks as bytes: nothing to look for. */
	if (s->entry.st.blocks * 512 >= size) {
		*ret = (struct data_range){ offset, size };
		return 1;
	}
	data = lseek(s->fd, (off_t)offset, SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return 0;
	hole = data < 0 ? -1 : lseek(s->fd, data, SEEK_HOLE);
	if (data < 0 || hole < 0) { /* a file system without holes */
		data = (off_t)offset;
		hole = (off_t)size;
	}
	if ((uint64_t)data >= size)
		return 0;
	*ret = (struct data_range){ (uint64_t)data, (uint64_t)hole < size ? (uint64_t)hole : size };
	return 1;
}

static int host_file_read(struct source *s, void *buf, size_t len, uint64_t offset)
{
	char *at = buf;

	while (len > 0) {
		ssize_t n = pread(s->fd, at, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int err = -errno;

			complain_sys(s->entry.path, errno, "read error");
			return err;
		}
		if (n == 0) { /* it was cut while it was read */
			memset(at, 0, len);
			complain(STATUS_FAILED, s->entry.path, "became shorter while it was read");
			return 0;
		}
		at += n;
		offset += (size_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* ---- an image -------------------------------------------------------------------------------- */

static struct place image_place(const struct source *s)
{
	return (struct place){ s->target.image->name, s->entry.path };
}

static const struct source_entry *image_next(struct source *s)
{
	const struct walk_entry *entry = walk_next(s->walk);

	if (!entry)
		return NULL;
	s->ino = entry->ino;
	s->entry = (struct source_entry){
		.kind = entry->kind,
		.depth = entry->depth,
		.path = entry->path,
		.name = entry->depth ? entry->name : s->name,
		.st = entry->st,
		.dev = s->target.image->ino,
	};
	return &s->entry;
}

/* ---- both ------------------------------------------------------------------------------------ */

static char *own_name(const char *path)
{
	char *copy = must_copy(path), *slash, *name;

	for (size_t len = strlen(copy); len > 1 && copy[len - 1] == '/'; len--)
		copy[len - 1] = '\0';
	slash = strrchr(copy, '/');
	name = slash ? slash + 1 : copy;
	name = strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ? must_copy("") : must_copy(name);
	free(copy);
	return name;
}

struct source *source_open(const struct options *opts, const char *arg, bool follow)
{
	struct source *s = must_alloc(sizeof(*s));

	*s = (struct source){ .fd = -1, .dir = AT_FDCWD, .follow = follow };
	if (!operand_is_inside(arg)) {
		s->name = own_name(arg);
		buffer_add_text(&s->path, arg);
		return s;
	}
	if (target_open(opts, arg, follow ? TARGET_FOLLOW : TARGET_NOFOLLOW, &s->target) < 0) {
		free(s);
		return NULL;
	}
	s->name = own_name(s->target.path);
	s->walk = walk_open(s->target.image, s->target.ino, s->target.path, 0);
	return s;
}

void source_close(struct source *s)
{
	if (s->walk) {
		walk_close(s->walk);
		target_finish(&s->target);
	}
	while (s->depth > 0) {
		struct host_level *level = &s->levels[s->depth - 1];

		while (level->next < level->count)
			free(level->names[level->next++].name);
		source_file_close(s);
		(void)host_leave(s);
	}
	source_file_close(s);
	free(s->levels);
	buffer_finish(&s->path);
	free(s->base);
	free(s->name);
	free(s);
}

const char *source_name(const struct source *s)
{
	return s->name;
}

bool source_is_image(const struct source *s, const struct image *image)
{
	return !s->walk && (dev_t)s->entry.dev == image->dev &&
	       s->entry.st.ino == (uint32_t)image->ino && S_ISREG(s->entry.st.mode);
}

const struct source_entry *source_next(struct source *s)
{
	source_file_close(s);
	return s->walk ? image_next(s) : host_next(s);
}

void source_skip(struct source *s)
{
	if (s->walk)
		walk_skip(s->walk);
	s->entered = false;
}

int source_readlink(struct source *s, struct buffer *buf)
{
	if (s->walk)
		return image_readlink(s->target.image, s->ino, s->entry.path, buf);
	return host_readlink(s, buf);
}

int source_xattr_names(struct source *s, struct buffer *buf)
{
	if (s->walk)
		return image_xattr_names(s->target.image, s->ino, s->entry.path, buf);
	return host_xattr(s, NULL, buf);
}

int source_xattr_value(struct source *s, const char *name, struct buffer *buf)
{
	if (s->walk)
		return image_xattr_value(s->target.image, s->ino, s->entry.path, name, buf);
	return host_xattr(s, name, buf);
}

int source_file_open(struct source *s)
{
	int err;

	if (s->walk) {
		err = uext4_file_open(s->target.image->fs, s->ino, 0, &s->file);
		if (err < 0)
			complain_fs(image_place(s), err);
		return err;
	}
	if (s->fd < 0)
		s->fd = host_open_file(s->dir, s->base,
				       s->depth == 0 && s->follow ? 0 : O_NOFOLLOW);
	if (s->fd < 0) {
		err = -errno;
		complain_sys(s->entry.path, errno, "cannot open");
		return err;
	}
	return 0;
}

int source_file_next(struct source *s, uint64_t offset, uint64_t size, struct data_range *ret)
{
	if (s->walk)
		return data_next(image_place(s), s->file, offset, size, ret);
	return host_file_next(s, offset, size, ret);
}

int source_file_read(struct source *s, void *buf, size_t len, uint64_t offset)
{
	if (s->walk)
		return data_read(image_place(s), s->file, buf, len, offset);
	return host_file_read(s, buf, len, offset);
}

void source_file_close(struct source *s)
{
	if (s->file)
		uext4_file_close(s->file);
	s->file = NULL;
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}
