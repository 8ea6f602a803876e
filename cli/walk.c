/* SPDX-License-Identifier: MIT */
/*
 * A directory tree of an image, entry by entry.
 *
 * Iterative: one frame for each directory between the start and the present place.  A frame holds
 * one run of its entries, sorted by name.
 *
 * W1  No directory is entered twice: a directory that is reached again, be it above itself or by
 *     two names, is damage and is reported.  So a walk ends, whatever the image holds.
 * W2  A name is 1 to 255 bytes without '/' and NUL, and neither "." nor "..": what is made of a
 *     path from here stays below where the walk started.
 * W3  The entries held by all frames together are bounded (ENTRIES_HELD_MAX plus RUN_MIN a level).
 */
#include "walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
	BATCH = 64,	 /* entries asked from the library at once */
	RUN_MIN = 256,	 /* entries sorted together at least */
	RUN_MAX = 65536, /* and at most */
	ENTRIES_HELD_MAX = 4 * RUN_MAX,
	PATH_LEN_MAX = 1 << 20, /* of a path that an image can make us build */
};

struct name {
	uint32_t offset; /* in frame.text */
	uint32_t ino;
	uint8_t len;
	uint8_t type; /* enum uext4_file_type */
};

struct frame {
	struct uext4_dir *dir; /* NULL once everything was read */
	uint32_t ino;
	uint64_t cookie;    /* continue reading here */
	size_t path_len;    /* of the directory's path */
	struct name *names; /* the present run, sorted */
	size_t names_count;
	size_t names_next;
	struct buffer text;
};

struct walk {
	struct image *image;
	uint32_t flags;
	uint32_t start_ino;
	bool started;
	bool skip;
	struct frame *frames;
	size_t depth; /* frames in use */
	size_t frames_size;
	size_t entries_held;
	struct buffer path;
	struct inomap entered; /* directories (W1) */
	struct walk_entry entry;
	struct uext4_dirent batch[BATCH];
};

struct walk *walk_open(struct image *image, uint32_t ino, const char *path, uint32_t flags)
{
	struct walk *walk = must_alloc(sizeof(*walk));

	memset(walk, 0, sizeof(*walk));
	walk->image = image;
	walk->flags = flags;
	walk->start_ino = ino;
	buffer_add_text(&walk->path, path);
	return walk;
}

static void frame_drop_run(struct walk *walk, struct frame *frame)
{
	walk->entries_held -= frame->names_count;
	free(frame->names);
	buffer_finish(&frame->text);
	frame->names = NULL;
	frame->names_count = 0;
	frame->names_next = 0;
}

static void walk_pop(struct walk *walk)
{
	struct frame *frame = &walk->frames[--walk->depth];

	frame_drop_run(walk, frame);
	uext4_dir_close(frame->dir);
}

void walk_close(struct walk *walk)
{
	while (walk->depth)
		walk_pop(walk);
	free(walk->frames);
	buffer_finish(&walk->path);
	inomap_finish(&walk->entered);
	free(walk);
}

static void walk_complain(struct walk *walk, int err)
{
	complain_fs((struct place){ walk->image->name, buffer_text(&walk->path) }, err);
}

static void walk_corrupt(struct walk *walk, const char *what)
{
	char *where = must_format("%s:%s", walk->image->name, buffer_text(&walk->path));

	complain(STATUS_CORRUPT, where, "%s", what);
	free(where);
}

/* ---- reading a directory -------------------------------------------------------------------- */

static int compare_names(const void *va, const void *vb, void *context)
{
	const struct name *a = va, *b = vb;
	const char *text = context;
	size_t common = a->len < b->len ? a->len : b->len;
	int order = memcmp(text + a->offset, text + b->offset, common);

	return order ? order : (int)a->len - (int)b->len;
}

static bool name_is_dots(const struct uext4_dirent *dirent)
{
	return dirent->name[0] == '.' &&
	       (dirent->name_len == 1 || (dirent->name_len == 2 && dirent->name[1] == '.'));
}

static bool name_is_safe(const struct uext4_dirent *dirent)
{
	return dirent->name_len > 0 && !memchr(dirent->name, '/', dirent->name_len) &&
	       !memchr(dirent->name, '\0', dirent->name_len);
}

static void frame_add(struct walk *walk, struct frame *frame, size_t *size,
		      const struct uext4_dirent *dirent)
{
	if (name_is_dots(dirent))
		return;
	if (!name_is_safe(dirent)) {
		walk_corrupt(walk, "an entry whose name no file can have");
		return;
	}
	if (frame->names_count == *size) {
		*size = *size ? *size * 2 : 16;
		frame->names = must_resize(frame->names, *size, sizeof(*frame->names));
	}
	frame->names[frame->names_count++] = (struct name){
		.offset = (uint32_t)frame->text.len,
		.ino = dirent->ino,
		.len = dirent->name_len,
		.type = dirent->type,
	};
	walk->entries_held++;
	buffer_add(&frame->text, dirent->name, dirent->name_len);
}

/* Reads the next run of entries; leaves the frame empty when there are no more. */
static void frame_fill(struct walk *walk, struct frame *frame)
{
	size_t size = 0, got, run;
	int err;

	frame_drop_run(walk, frame);
	run = walk->entries_held < ENTRIES_HELD_MAX ? ENTRIES_HELD_MAX - walk->entries_held : 0;
	run = run / 2 > RUN_MAX ? RUN_MAX : run / 2;
	run = run < RUN_MIN ? RUN_MIN : run;
	while (frame->dir && frame->names_count < run) {
		err = uext4_dir_read(frame->dir, frame->cookie, walk->batch, BATCH, &got);
		if (err < 0)
			walk_complain(walk, err);
		if (err < 0 || got == 0) {
			uext4_dir_close(frame->dir);
			frame->dir = NULL;
			break;
		}
		for (size_t i = 0; i < got; i++)
			frame_add(walk, frame, &size, &walk->batch[i]);
		frame->cookie = walk->batch[got - 1].cookie;
	}
	if (frame->names_count > 1)
		qsort_r(frame->names, frame->names_count, sizeof(*frame->names), compare_names,
			frame->text.data);
}

static struct uext4_dir *walk_open_dir(struct walk *walk, uint32_t ino)
{
	struct uext4_dir *dir;
	int err;

	if (inomap_find(&walk->entered, ino)) {
		walk_corrupt(walk, "a directory that was already met under another name");
		return NULL;
	}
	err = uext4_dir_open(walk->image->fs, ino, &dir);
	if (err < 0) {
		walk_complain(walk, err);
		return NULL;
	}
	inomap_add(&walk->entered, ino, NULL);
	return dir;
}

/* Enters the directory @ino, whose path is in walk->path.  One that cannot be read is empty. */
static void walk_push(struct walk *walk, uint32_t ino)
{
	struct uext4_dir *dir = walk_open_dir(walk, ino);

	if (walk->depth == walk->frames_size) {
		walk->frames_size = walk->frames_size ? walk->frames_size * 2 : 16;
		walk->frames = must_resize(walk->frames, walk->frames_size, sizeof(*walk->frames));
	}
	walk->frames[walk->depth++] =
		(struct frame){ .dir = dir, .ino = ino, .path_len = walk->path.len };
	frame_fill(walk, &walk->frames[walk->depth - 1]);
}

/* ---- entries -------------------------------------------------------------------------------- */

static const uint32_t modes[] = {
	[UEXT4_FT_REG] = S_IFREG, [UEXT4_FT_DIR] = S_IFDIR,  [UEXT4_FT_CHR] = S_IFCHR,
	[UEXT4_FT_BLK] = S_IFBLK, [UEXT4_FT_FIFO] = S_IFIFO, [UEXT4_FT_SOCK] = S_IFSOCK,
	[UEXT4_FT_LNK] = S_IFLNK,
};

/* Fills walk->entry for @ino at walk->path.  False if it was left out or could not be read. */
static bool walk_fill_entry(struct walk *walk, uint32_t ino, uint8_t type, size_t name_len)
{
	struct walk_entry *entry = &walk->entry;
	bool type_known = type != UEXT4_FT_UNKNOWN && type < sizeof(modes) / sizeof(modes[0]);
	int err;

	if ((walk->flags & WALK_DIRS_ONLY) && type_known && type != UEXT4_FT_DIR)
		return false;
	entry->kind = WALK_ENTRY;
	entry->depth = (unsigned)walk->depth;
	entry->ino = ino;
	entry->path = buffer_text(&walk->path);
	entry->path_len = walk->path.len;
	entry->name = entry->path + entry->path_len - name_len;
	entry->name_len = name_len;
	if ((walk->flags & WALK_TYPE_ONLY) && type_known) {
		entry->st = (struct uext4_stat){ .ino = ino, .mode = modes[type] };
		return true;
	}
	err = uext4_stat(walk->image->fs, ino, &entry->st);
	if (err < 0) {
		walk_complain(walk, err);
		return false;
	}
	return !(walk->flags & WALK_DIRS_ONLY) || S_ISDIR(entry->st.mode);
}

/* The directory that was returned last is left behind. */
static const struct walk_entry *walk_leave(struct walk *walk)
{
	struct frame *frame = &walk->frames[walk->depth - 1];
	struct walk_entry *entry = &walk->entry;
	const char *slash;

	entry->kind = WALK_LEAVE;
	entry->depth = (unsigned)walk->depth - 1;
	entry->ino = frame->ino;
	walk->path.len = frame->path_len;
	entry->path = buffer_text(&walk->path);
	entry->path_len = walk->path.len;
	slash = entry->depth ? strrchr(entry->path, '/') : NULL;
	entry->name = slash ? slash + 1 : entry->path;
	entry->name_len = strlen(entry->name);
	entry->st = (struct uext4_stat){ .ino = frame->ino, .mode = S_IFDIR };
	walk_pop(walk);
	return entry;
}

/* Appends the name to the path of @frame's directory; false if that gets too long. */
static bool walk_set_path(struct walk *walk, const struct frame *frame, const struct name *name)
{
	walk->path.len = frame->path_len;
	if (walk->path.len + 1 + name->len > PATH_LEN_MAX) {
		walk_corrupt(walk, "directories are nested too deep");
		return false;
	}
	if (walk->path.len == 0 || walk->path.data[walk->path.len - 1] != '/')
		buffer_add(&walk->path, "/", 1);
	buffer_add(&walk->path, frame->text.data + name->offset, name->len);
	return true;
}

const struct walk_entry *walk_next(struct walk *walk)
{
	if (!walk->started) {
		walk->started = true;
		if (!walk_fill_entry(walk, walk->start_ino, UEXT4_FT_UNKNOWN, walk->path.len))
			return NULL;
		return &walk->entry;
	}
	if (walk->entry.kind == WALK_ENTRY && S_ISDIR(walk->entry.st.mode) && !walk->skip)
		walk_push(walk, walk->entry.ino);
	walk->skip = false;
	while (walk->depth) {
		struct frame *frame = &walk->frames[walk->depth - 1];
		const struct name *name;

		if (frame->names_next == frame->names_count) {
			walk->path.len = frame->path_len;
			if (frame->dir)
				frame_fill(walk, frame);
			if (frame->names_count == 0 || frame->names_next == frame->names_count)
				return walk_leave(walk);
		}
		name = &frame->names[frame->names_next++];
		if (walk_set_path(walk, frame, name) &&
		    walk_fill_entry(walk, name->ino, name->type, name->len))
			return &walk->entry;
		/* What could not be read must not be entered by the next call. */
		walk->entry.kind = WALK_LEAVE;
	}
	return NULL;
}

void walk_skip(struct walk *walk)
{
	walk->skip = true;
}
