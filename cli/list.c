/* SPDX-License-Identifier: MIT */
/*
 * `ls` and `du`.
 */
#include "cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "image.h"
#include "out.h"
#include "row.h"
#include "walk.h"

/* ---- ls ------------------------------------------------------------------------------------- */

struct ls {
	bool all;    /* -a */
	bool almost; /* -a or -A */
	bool recursive;
	bool directory; /* -d */
	bool stat;	/* attributes are shown */
	bool headings;
	bool any; /* something was printed */
	struct rows rows;
};

static bool ls_hides(const struct ls *ls, const char *name)
{
	return name[0] == '.' && !ls->almost;
}

/* "." and "..", which a walk leaves out. */
static void ls_add_dots(struct ls *ls, const struct target *dir)
{
	static const char *const dots[] = { ".", ".." };

	for (int i = 0; i < 2; i++) {
		struct uext4_stat st;
		uint32_t ino;
		int err = uext4_lookup(dir->image->fs, dir->ino, dots[i], strlen(dots[i]), &ino);

		if (err < 0)
			complain_fs(target_place(dir), err);
		else if (image_stat(dir->image, ino, dir->path, &st) == 0)
			rows_add(&ls->rows, dots[i], strlen(dots[i]), dir->path, &st);
	}
}

static void ls_directory(struct ls *ls, const struct target *dir)
{
	uint32_t flags = ls->stat ? 0 : WALK_TYPE_ONLY;
	const struct walk_entry *entry;
	struct walk *walk;

	if (ls->headings && !ls->rows.json) {
		if (ls->any)
			printf("\n");
		print_name(dir->path, strlen(dir->path));
		printf(":\n");
	}
	ls->any = true;
	if (ls->all)
		ls_add_dots(ls, dir);
	walk = walk_open(dir->image, dir->ino, dir->path, flags);
	while (out_works() && (entry = walk_next(walk))) {
		if (entry->depth == 0)
			continue;
		walk_skip(walk);
		if (entry->kind == WALK_ENTRY && !ls_hides(ls, entry->name))
			rows_add(&ls->rows, entry->name, entry->name_len, entry->path, &entry->st);
	}
	walk_close(walk);
	rows_flush(&ls->rows);
}

static void ls_recursive(struct ls *ls, const struct target *top)
{
	struct walk *walk = walk_open(top->image, top->ino, top->path,
				      WALK_TYPE_ONLY | WALK_DIRS_ONLY);
	const struct walk_entry *entry;

	while (out_works() && (entry = walk_next(walk))) {
		struct target dir;

		if (entry->kind != WALK_ENTRY)
			continue;
		if (entry->depth > 0 && ls_hides(ls, entry->name)) {
			walk_skip(walk);
			continue;
		}
		dir = (struct target){ top->image, must_copy(entry->path), entry->ino };
		ls_directory(ls, &dir);
		target_finish(&dir);
	}
	walk_close(walk);
}

static void ls_target(struct ls *ls, const struct target *target)
{
	struct uext4_stat st;

	ls->rows.image = target->image;
	if (image_stat(target->image, target->ino, target->path, &st) < 0)
		return;
	if (!S_ISDIR(st.mode) || ls->directory) {
		rows_add(&ls->rows, target->path, strlen(target->path), target->path, &st);
		rows_flush(&ls->rows);
		ls->any = true;
	} else if (ls->recursive) {
		ls_recursive(ls, target);
	} else {
		ls_directory(ls, target);
	}
}

static void ls_options(struct ls *ls, int argc, char **argv)
{
	int c;

	while ((c = command_option(argc, argv, ":1AFRadhiln", NULL)) != -1) {
		switch (c) {
		case 'a':
			ls->all = true;
			ls->almost = true;
			break;
		case 'A':
			ls->almost = true;
			ls->all = false;
			break;
		case 'R':
			ls->recursive = true;
			ls->headings = true;
			break;
		case 'd': ls->directory = true; break;
		case 'l':
		case 'n':
			ls->rows.flags |= ROW_LONG;
			ls->stat = true;
			break;
		case 'i': ls->rows.flags |= ROW_INO; break;
		case 'h': ls->rows.flags |= ROW_HUMAN; break;
		case 'F':
			/* Needs permissions too: a program is a file with an x. */
			ls->rows.flags |= ROW_CLASSIFY;
			ls->stat = true;
			break;
		default: /* -1 is how it always is. */ break;
		}
	}
}

void command_ls(const struct options *opts, int argc, char **argv)
{
	struct ls ls = { .rows = { .json = opts->json }, .stat = opts->json };

	ls_options(&ls, argc, argv);
	if (optind == argc)
		usage_error(argv[0], "no image given");
	if (argc - optind > 1)
		ls.headings = true;
	for (int i = optind; i < argc; i++) {
		/* A symlink is followed where its target is what will be listed. */
		bool self = ls.directory || (ls.rows.flags & ROW_LONG);
		struct target target;

		if (target_open(opts, argv[i], self ? TARGET_NOFOLLOW : TARGET_FOLLOW, &target) < 0)
			continue;
		ls_target(&ls, &target);
		target_finish(&target);
	}
	rows_finish(&ls.rows);
}

/* ---- du ------------------------------------------------------------------------------------- */

struct du {
	bool files;    /* -a */
	bool apparent; /* -b */
	bool human;
	bool json;
	unsigned depth_max;
	uint64_t *sums; /* of the directories on the way to the present place */
	size_t sums_size;
	struct image *image;
	struct inomap linked; /* of image: files with several names that were counted */
};

static uint64_t du_size(const struct du *du, const struct uext4_stat *st)
{
	return du->apparent ? st->size : st->blocks * 512;
}

static void du_print(const struct du *du, const struct walk_entry *entry, uint64_t bytes)
{
	char buf[24];

	if (entry->depth > du->depth_max)
		return;
	if (du->json) {
		json_t *o = json_object();

		json_set_bytes(o, "path", entry->path, entry->path_len);
		json_set_integer(o, "bytes", bytes);
		json_print(o);
		return;
	}
	if (du->human)
		printf("%s\t", human_size(bytes, buf));
	else if (du->apparent)
		printf("%" PRIu64 "\t", bytes);
	else
		printf("%" PRIu64 "\t", bytes / 1024 + (bytes % 1024 != 0));
	print_name(entry->path, entry->path_len);
	printf("\n");
}

static void du_entry(struct du *du, const struct walk_entry *entry)
{
	uint64_t bytes = du_size(du, &entry->st);

	if (S_ISDIR(entry->st.mode)) {
		if (entry->depth == du->sums_size) {
			du->sums_size = du->sums_size ? du->sums_size * 2 : 64;
			du->sums = must_resize(du->sums, du->sums_size, sizeof(*du->sums));
		}
		du->sums[entry->depth] = bytes;
		return;
	}
	if (entry->st.nlink > 1) {
		if (inomap_find(&du->linked, entry->ino))
			return;
		inomap_add(&du->linked, entry->ino, NULL);
	}
	if (entry->depth > 0)
		du->sums[entry->depth - 1] += bytes;
	if (du->files || entry->depth == 0)
		du_print(du, entry, bytes);
}

static void du_target(struct du *du, const struct target *target)
{
	struct walk *walk = walk_open(target->image, target->ino, target->path, 0);
	const struct walk_entry *entry;

	if (target->image != du->image)
		inomap_finish(&du->linked);
	du->image = target->image;
	while (out_works() && (entry = walk_next(walk))) {
		progress_count(1, 0);
		progress_poll();
		if (entry->kind == WALK_ENTRY) {
			du_entry(du, entry);
			continue;
		}
		du_print(du, entry, du->sums[entry->depth]);
		if (entry->depth > 0)
			du->sums[entry->depth - 1] += du->sums[entry->depth];
	}
	walk_close(walk);
}

void command_du(const struct options *opts, int argc, char **argv)
{
	struct du du = { .json = opts->json, .depth_max = UINT32_MAX };
	uint64_t depth;
	int c;

	while ((c = command_option(argc, argv, ":abd:hks", NULL)) != -1) {
		du.files = du.files || c == 'a';
		du.apparent = du.apparent || c == 'b';
		du.human = du.human || c == 'h';
		if (c == 's')
			du.depth_max = 0;
		if (c == 'd') {
			depth = option_number(argv[0], "-d", optarg, NUMBER_PLAIN);
			du.depth_max = depth < UINT32_MAX ? (unsigned)depth : UINT32_MAX;
		}
	}
	if (optind == argc)
		usage_error(argv[0], "no image given");
	progress_start(opts->progress, "du", 0);
	for (int i = optind; i < argc; i++) {
		struct target target;

		if (target_open(opts, argv[i], TARGET_NOFOLLOW, &target) < 0)
			continue;
		du_target(&du, &target);
		target_finish(&target);
	}
	progress_finish();
	free(du.sums);
	inomap_finish(&du.linked);
}
