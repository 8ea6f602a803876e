/* SPDX-License-Identifier: MIT */
/*
 * `cp` into an image, from the host or from an image.
 *
 * Y1  Every object is made by its name in the directory it belongs to; no symlink below the target
 *     is followed, so nothing lands outside of it.
 * Y2  What stands in the way is unlinked, never written through: it may have other names.
 * Y3  A file whose contents could not be copied as a whole is removed again.
 * Y4  A directory gets its attributes when it is complete: filling it changes its times, and its
 *     default ACL would be passed on.
 */
#include "copy_in.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "source.h"
#include "write.h"

/* A file with several names: where its first copy is. */
struct link {
	uint64_t dev;
	uint32_t from;
	uint32_t to; /* 0: free slot */
};

struct links {
	struct link *slots;
	size_t count;
	size_t size; /* 0 or a power of two */
};

/* A directory that is being filled. */
struct level {
	uint32_t ino;
	struct uext4_stat st; /* of what is copied */
};

struct copy {
	bool recursive;
	bool archive;
	struct source *source;
	struct image *image;
	struct links links;
	struct uext4_file *file; /* the copy, open */
	struct level *levels;	 /* the directories on the way down */
	size_t depth;
	size_t levels_size;
	char *data; /* DATA_CHUNK bytes */
	struct buffer names;
	struct buffer value;
	struct buffer shown; /* path of the copy, for messages */
};

static struct place shown(struct copy *copy)
{
	return (struct place){ copy->image->name, buffer_text(&copy->shown) };
}

static int failed(struct copy *copy, int err)
{
	if (err < 0)
		complain_fs(shown(copy), err);
	return err;
}

/* ---- hard links ------------------------------------------------------------------------------ */

static struct link *link_slot(const struct links *links, uint64_t dev, uint32_t ino)
{
	size_t at = (size_t)((ino ^ dev) * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (links->size - 1);

	while (links->slots[at].to && (links->slots[at].from != ino || links->slots[at].dev != dev))
		at = (at + 1) & (links->size - 1);
	return &links->slots[at];
}

static void link_add(struct links *links, uint64_t dev, uint32_t from, uint32_t to)
{
	if (links->count * 2 >= links->size) {
		struct links bigger = { .size = links->size ? links->size * 2 : 64,
					.count = links->count };

		bigger.slots = must_alloc(bigger.size * sizeof(*bigger.slots));
		memset(bigger.slots, 0, bigger.size * sizeof(*bigger.slots));
		for (size_t i = 0; i < links->size; i++) {
			const struct link *old = &links->slots[i];

			if (old->to)
				*link_slot(&bigger, old->dev, old->from) = *old;
		}
		free(links->slots);
		*links = bigger;
	}
	*link_slot(links, dev, from) = (struct link){ dev, from, to };
	links->count++;
}

/* ---- attributes ------------------------------------------------------------------------------ */

static bool is_acl(const char *name)
{
	return strncmp(name, "system.posix_acl_", 17) == 0;
}

/* Attributes of the kernel's own that no file system stores for others. */
static bool is_foreign(const char *name)
{
	return strncmp(name, "system.", 7) == 0 && !is_acl(name);
}

static void keep_xattrs(struct copy *copy, uint32_t ino)
{
	if (source_xattr_names(copy->source, &copy->names) < 0)
		return;
	for (size_t at = 0; at < copy->names.len; at += strlen(copy->names.data + at) + 1) {
		const char *name = copy->names.data + at;
		int err;

		if (is_foreign(name) || source_xattr_value(copy->source, name, &copy->value) < 0)
			continue;
		err = uext4_xattr_set(copy->image->fs, ino, name, copy->value.data, copy->value.len,
				      0);
		if (err < 0)
			complain_attribute(shown(copy), name, err);
	}
}

/* -a: everything but what only the image's own kernel may say (ctime). */
static void keep_attributes(struct copy *copy, uint32_t ino, const struct uext4_stat *st)
{
	struct uext4_attr attr = {
		.valid = UEXT4_ATTR_ATIME | UEXT4_ATTR_MTIME,
		.atime = st->atime,
		.mtime = st->mtime,
	};

	if (!copy->archive)
		return;
	keep_xattrs(copy, ino);
	/* An ACL may have changed the mode, and every attribute changes the times. */
	if (!S_ISLNK(st->mode)) {
		attr.valid |= UEXT4_ATTR_MODE;
		attr.mode = st->mode & 07777;
	}
	(void)!failed(copy, uext4_setattr(copy->image->fs, ino, &attr));
}

/* Who owns the copy, and which mode it has from the start. */
static struct uext4_new new_of(const struct copy *copy, const struct uext4_stat *st)
{
	struct uext4_new new = new_file((st->mode & S_IFMT) | (st->mode & 0777));

	if (copy->archive) {
		new.mode = st->mode &(S_IFMT | 07777);
		new.umask = 0;
		new.uid = st->uid;
		new.gid = st->gid;
	}
	new.rdev_major = st->rdev_major;
	new.rdev_minor = st->rdev_minor;
	return new;
}

/* ---- objects --------------------------------------------------------------------------------- */

static int copy_range(struct copy *copy, struct uext4_file *file, const struct data_range *range)
{
	for (uint64_t at = range->start; at < range->end;) {
		uint64_t left = range->end - at;
		size_t part = left < DATA_CHUNK ? (size_t)left : DATA_CHUNK, written;
		int err;

		err = source_file_read(copy->source, copy->data, part, at);
		if (err < 0)
			return err;
		err = uext4_pwrite(file, copy->data, part, at, &written);
		if (err == 0 && written < part)
			err = uext4_pwrite(file, copy->data + written, part - written, at + written,
					   &written);
		if (err < 0)
			return failed(copy, err);
		progress_count(0, part);
		progress_poll();
		at += part;
	}
	return 0;
}

static int copy_ranges(struct copy *copy, struct uext4_file *file, uint32_t ino, uint64_t size)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE, .size = size };
	struct data_range range;
	uint64_t at = 0;
	int found, err;

	while ((found = source_file_next(copy->source, at, size, &range)) > 0) {
		err = copy_range(copy, file, &range);
		if (err < 0)
			return err;
		at = range.end;
	}
	if (found < 0 || at == size)
		return found;
	return failed(copy, uext4_setattr(copy->image->fs, ino, &attr)); /* a hole at the end */
}

/*
 * Both files stay open, as far as they were opened, for their attributes: with the descriptor the
 * host is asked without a path, and the times are stored once, not again at the close.
 */
static int copy_contents(struct copy *copy, uint32_t ino, uint64_t size)
{
	int err;

	if (size == 0)
		return 0;
	err = source_file_open(copy->source);
	if (err < 0)
		return err;
	err = failed(copy, uext4_file_open(copy->image->fs, ino, UEXT4_FILE_WRITE, &copy->file));
	return err < 0 ? err : copy_ranges(copy, copy->file, ino, size);
}

static void close_contents(struct copy *copy)
{
	uext4_file_close(copy->file);
	copy->file = NULL;
	source_file_close(copy->source);
}

/* Y2.  0: the name is free; else reported. */
static int clear_way(struct copy *copy, uint32_t dir, const char *name)
{
	struct uext4_stat st;
	uint32_t ino;
	int err;

	err = uext4_lookup(copy->image->fs, dir, name, strlen(name), &ino);
	if (err == -ENOENT)
		return 0;
	if (err == 0)
		err = uext4_stat(copy->image->fs, ino, &st);
	if (err == 0 && S_ISDIR(st.mode)) {
		complain(STATUS_FAILED, shown(copy).path,
			 "cannot replace a directory by something else");
		return -EISDIR;
	}
	if (err == 0)
		err = uext4_unlink(copy->image->fs, dir, name, strlen(name));
	return failed(copy, err);
}

/* Another name of a file that was copied: true if that did it. */
static bool make_link(struct copy *copy, uint32_t dir, const char *name,
		      const struct source_entry *entry)
{
	const struct link *link;

	if (entry->st.nlink < 2 || !copy->links.size)
		return false;
	link = link_slot(&copy->links, entry->dev, entry->st.ino);
	return link->to && uext4_link(copy->image->fs, link->to, dir, name, strlen(name)) == 0;
}

static int create(struct copy *copy, uint32_t dir, const char *name, const struct uext4_stat *st,
		  uint32_t *ret_ino)
{
	struct uext4_new new = new_of(copy, st);
	int err;

	if (!S_ISLNK(st->mode))
		return uext4_create(copy->image->fs, dir, name, strlen(name), &new, ret_ino);
	err = source_readlink(copy->source, &copy->value);
	if (err < 0)
		return err;
	return uext4_symlink(copy->image->fs, dir, name, strlen(name), copy->value.data,
			     copy->value.len, &new, ret_ino);
}

/* Anything but a directory. */
static void make_object(struct copy *copy, uint32_t dir, const char *name,
			const struct source_entry *entry)
{
	uint32_t ino;
	int err;

	/* Most names are free: to try is faster than to look. */
	err = make_link(copy, dir, name, entry) ? 1 : create(copy, dir, name, &entry->st, &ino);
	if (err == -EEXIST) {
		if (clear_way(copy, dir, name) < 0)
			return;
		err = make_link(copy, dir, name, entry) ? 1
							: create(copy, dir, name, &entry->st, &ino);
	}
	if (err != 0) {
		(void)!failed(copy, err < 0 ? err : 0);
		return;
	}
	if (S_ISREG(entry->st.mode) && copy_contents(copy, ino, entry->st.size) < 0) {
		close_contents(copy);
		err = uext4_unlink(copy->image->fs, dir, name, strlen(name)); /* Y3 */
		(void)!failed(copy, err);
		return;
	}
	keep_attributes(copy, ino, &entry->st);
	close_contents(copy);
	if (entry->st.nlink > 1)
		link_add(&copy->links, entry->dev, entry->st.ino, ino);
}

static void push(struct copy *copy, uint32_t ino, const struct uext4_stat *st)
{
	if (copy->depth == copy->levels_size) {
		copy->levels_size = copy->levels_size ? copy->levels_size * 2 : 16;
		copy->levels = must_resize(copy->levels, copy->levels_size, sizeof(*copy->levels));
	}
	copy->levels[copy->depth++] = (struct level){ ino, *st };
}

/* Makes or enters a directory; false: reported. */
static bool enter_directory(struct copy *copy, uint32_t dir, const char *name,
			    const struct source_entry *entry)
{
	struct uext4_new new = new_of(copy, &entry->st);
	struct uext4_stat st;
	uint32_t ino;
	int err;

	err = uext4_create(copy->image->fs, dir, name, strlen(name), &new, &ino);
	if (err == -EEXIST) {
		err = uext4_lookup(copy->image->fs, dir, name, strlen(name), &ino);
		if (err == 0)
			err = uext4_stat(copy->image->fs, ino, &st);
		if (err == 0 && !S_ISDIR(st.mode)) {
			complain(STATUS_FAILED, shown(copy).path, "is there and no directory");
			return false;
		}
	}
	if (failed(copy, err) < 0)
		return false;
	push(copy, ino, &entry->st);
	return true;
}

/* ---- a tree ---------------------------------------------------------------------------------- */

/* Where a source goes: a name in a directory, or, without a name, the directory itself. */
struct destination {
	uint32_t dir;
	const char *name;
	char *path; /* of the copy */
};

static void copy_entry(struct copy *copy, const struct source_entry *entry,
		       const struct destination *to)
{
	const char *name = entry->depth ? entry->name : to->name;
	uint32_t dir;

	if (entry->kind == WALK_LEAVE) {
		const struct level *level = &copy->levels[--copy->depth];

		keep_attributes(copy, level->ino, &level->st); /* Y4 */
		return;
	}
	if (entry->depth == 0 && !to->name) {
		push(copy, to->dir, &entry->st);
		return;
	}
	dir = entry->depth ? copy->levels[copy->depth - 1].ino : to->dir;
	if (!S_ISDIR(entry->st.mode)) {
		if (source_is_image(copy->source, copy->image))
			complain(STATUS_FAILED, entry->path, "is the image itself: not copied");
		else
			make_object(copy, dir, name, entry);
	} else if (!enter_directory(copy, dir, name, entry)) {
		source_skip(copy->source);
	}
}

/* The path of the copy of an entry: names below the target's. */
static void show_entry(struct copy *copy, const struct source_entry *entry, size_t *lengths)
{
	if (entry->depth > 0) {
		copy->shown.len = lengths[entry->depth - 1];
		buffer_add_text(&copy->shown, "/");
		buffer_add_text(&copy->shown, entry->name);
	} else {
		copy->shown.len = lengths[0];
	}
}

static void copy_tree(struct copy *copy, const struct destination *to)
{
	const struct source_entry *entry;
	size_t *lengths = must_resize(NULL, 1, sizeof(*lengths)), size = 1;

	copy->shown.len = 0;
	if (strcmp(to->path, "/") != 0)
		buffer_add_text(&copy->shown, to->path);
	lengths[0] = copy->shown.len;
	while ((entry = source_next(copy->source))) {
		progress_count(entry->kind == WALK_ENTRY, 0);
		progress_poll();
		if (entry->depth >= size) {
			size = entry->depth + 16;
			lengths = must_resize(lengths, size, sizeof(*lengths));
		}
		show_entry(copy, entry, lengths);
		lengths[entry->depth] = copy->shown.len;
		if (!copy->recursive && S_ISDIR(entry->st.mode)) {
			complain(STATUS_FAILED, entry->path,
				 "is a directory: copied only with -r or -a");
			break;
		}
		copy_entry(copy, entry, to);
	}
	free(lengths);
}

/* ---- operands -------------------------------------------------------------------------------- */

/* The directory that @slot names, symlinks followed; false: it is none. */
static bool is_directory(const struct slot *slot, uint32_t *ret_ino)
{
	struct uext4_stat st;

	return uext4_resolve(slot->image->fs, UEXT4_ROOT_INO, slot->path, 0, ret_ino) == 0 &&
	       uext4_stat(slot->image->fs, *ret_ino, &st) == 0 && S_ISDIR(st.mode);
}

static void copy_operand(struct copy *copy, const struct options *opts, const char *arg,
			 const struct slot *dst)
{
	struct destination to = { .dir = dst->dir, .name = dst->name, .path = dst->path };
	char *below = NULL;
	uint32_t ino;

	copy->source = source_open(opts, arg, !copy->recursive);
	if (!copy->source)
		return;
	if (is_directory(dst, &ino)) {
		const char *name = source_name(copy->source);

		to.dir = ino;
		to.name = *name ? name : NULL;
		if (to.name)
			to.path = below = must_format("%s/%s", dst->path[1] ? dst->path : "", name);
	}
	copy_tree(copy, &to);
	free(below);
	source_close(copy->source);
}

void copy_into_image(const struct options *opts, bool recursive, bool archive, int argc,
		     char **argv)
{
	struct copy copy = { .recursive = recursive, .archive = archive };
	struct slot dst;
	uint32_t ino;

	if (slot_open(opts, argv[argc - 1], &dst) < 0)
		return;
	if (argc > 2 && !is_directory(&dst, &ino))
		usage_error("cp", "several files can only be copied into a directory");
	copy.image = dst.image;
	copy.data = must_alloc(DATA_CHUNK);
	progress_start(opts->progress, "cp", 0);
	for (int i = 0; i < argc - 1; i++)
		copy_operand(&copy, opts, argv[i], &dst);
	progress_finish();
	slot_finish(&dst);
	free(copy.data);
	free(copy.levels);
	free(copy.links.slots);
	buffer_finish(&copy.names);
	buffer_finish(&copy.value);
	buffer_finish(&copy.shown);
}
