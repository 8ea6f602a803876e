/* SPDX-License-Identifier: MIT */
/*
 * One file as a line of `ls -l` or `find -ls`, or as a JSON object.
 *
 * Owners are shown as numbers: the names in this host's passwd mean nothing inside an image.
 */
#include "row.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "out.h"

enum { ROWS_MAX = 4096 }; /* Rows held back to find the columns' widths. */

struct widths {
	int ino;
	int blocks;
	int nlink;
	int uid;
	int gid;
	int size;
};

static bool row_is_device(const struct row *row)
{
	return S_ISCHR(row->st.mode) || S_ISBLK(row->st.mode);
}

/* The column that holds sizes, and for devices their numbers. */
static int size_text(const struct rows *rows, const struct row *row, char buf[24])
{
	if (row_is_device(row))
		return snprintf(buf, 24, "%" PRIu32 ", %" PRIu32, row->st.rdev_major,
				row->st.rdev_minor);
	if (rows->flags & ROW_HUMAN)
		return (int)strlen(human_size(row->st.size, buf));
	return snprintf(buf, 24, "%" PRIu64, row->st.size);
}

static int blocks_text(const struct rows *rows, const struct row *row, char buf[24])
{
	if (rows->flags & ROW_HUMAN)
		return (int)strlen(human_size(row->st.blocks * 512, buf));
	return snprintf(buf, 24, "%" PRIu64, row->st.blocks / 2 + row->st.blocks % 2);
}

static int widest(int so_far, int width)
{
	return width > so_far ? width : so_far;
}

static struct widths measure(const struct rows *rows)
{
	struct widths w = { 0 };
	char buf[24];

	for (size_t i = 0; i < rows->count; i++) {
		const struct row *row = &rows->rows[i];

		w.ino = widest(w.ino, snprintf(buf, sizeof(buf), "%" PRIu32, row->ino));
		w.blocks = widest(w.blocks, blocks_text(rows, row, buf));
		w.nlink = widest(w.nlink, snprintf(buf, sizeof(buf), "%" PRIu32, row->st.nlink));
		w.uid = widest(w.uid, snprintf(buf, sizeof(buf), "%" PRIu32, row->st.uid));
		w.gid = widest(w.gid, snprintf(buf, sizeof(buf), "%" PRIu32, row->st.gid));
		w.size = widest(w.size, size_text(rows, row, buf));
	}
	return w;
}

static char class_letter(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR: return '/';
	case S_IFLNK: return '@';
	case S_IFIFO: return '|';
	case S_IFSOCK: return '=';
	case S_IFREG: return (mode & 0111) ? '*' : '\0';
	default: return '\0';
	}
}

/* '+' behind the mode tells that it is not all there is to know about permissions. */
static char acl_letter(const struct rows *rows, const struct row *row, struct buffer *names)
{
	if (S_ISLNK(row->st.mode) || image_xattr_names(rows->image, row->ino, row->path, names) < 0)
		return ' ';
	for (size_t at = 0; at < names->len; at += strlen(names->data + at) + 1) {
		if (strncmp(names->data + at, "system.posix_acl_", 17) == 0)
			return '+';
	}
	return ' ';
}

static void print_row(const struct rows *rows, const struct row *row, const struct widths *w)
{
	struct buffer extra = { 0 };
	char buf[24], mode[11], class;

	if (rows->flags & ROW_INO)
		printf("%*" PRIu32 " ", w->ino, row->ino);
	if (rows->flags & ROW_BLOCKS) {
		blocks_text(rows, row, buf);
		printf("%*s ", w->blocks, buf);
	}
	if (rows->flags & ROW_LONG) {
		mode_text(row->st.mode, mode);
		printf("%s%c %*" PRIu32 " %*" PRIu32 " %*" PRIu32 " ", mode,
		       acl_letter(rows, row, &extra), w->nlink, row->st.nlink, w->uid, row->st.uid,
		       w->gid, row->st.gid);
		size_text(rows, row, buf);
		printf("%*s ", w->size, buf);
		printf("%s ", time_short(row->st.mtime.sec, buf));
	}
	print_name(row->name, row->name_len);
	class = (rows->flags & ROW_CLASSIFY) ? class_letter(row->st.mode) : '\0';
	if ((rows->flags & ROW_LONG) && S_ISLNK(row->st.mode)) {
		if (image_readlink(rows->image, row->ino, row->path, &extra) == 0) {
			printf(" -> ");
			print_name(extra.data, extra.len);
		}
	} else if (class) {
		putchar(class);
	}
	putchar('\n');
	buffer_finish(&extra);
}

static void print_json(const struct rows *rows, const struct row *row)
{
	struct buffer link = { 0 };
	json_t *o = json_object();

	json_set_bytes(o, "path", row->path, strlen(row->path));
	json_set_bytes(o, "name", row->name, row->name_len);
	if (S_ISLNK(row->st.mode) && image_readlink(rows->image, row->ino, row->path, &link) == 0)
		json_set_bytes(o, "target", link.data, link.len);
	json_set_stat(o, &row->st);
	json_print(o);
	buffer_finish(&link);
}

void rows_flush(struct rows *rows)
{
	struct widths widths = measure(rows);

	for (size_t i = 0; i < rows->count; i++) {
		struct row *row = &rows->rows[i];

		if (rows->json)
			print_json(rows, row);
		else
			print_row(rows, row, &widths);
		free(row->name);
		free(row->path);
	}
	rows->count = 0;
}

void rows_add(struct rows *rows, const char *name, size_t name_len, const char *path,
	      const struct uext4_stat *st)
{
	struct row *row;

	if (rows->count == ROWS_MAX)
		rows_flush(rows);
	if (rows->count == rows->size) {
		rows->size = rows->size ? rows->size * 2 : 64;
		rows->rows = must_resize(rows->rows, rows->size, sizeof(*rows->rows));
	}
	row = &rows->rows[rows->count++];
	*row = (struct row){
		.name = must_alloc(name_len + 1),
		.name_len = name_len,
		.path = must_copy(path),
		.ino = st->ino,
		.st = *st,
	};
	memcpy(row->name, name, name_len);
	row->name[name_len] = '\0';
}

void rows_finish(struct rows *rows)
{
	rows_flush(rows);
	free(rows->rows);
	rows->rows = NULL;
	rows->size = 0;
}
