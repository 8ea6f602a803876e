/* SPDX-License-Identifier: MIT */
/*
 * `check`: verifies images, and never changes them.
 *
 * Exit status as fsck(8) has it, not as the other commands: programs that run checkers know it.
 *
 * C1  Findings go to standard output, one a line; what kept us from checking, to stderr.
 */
#include "cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"
#include "out.h"

/* Bits of the exit status of fsck(8). */
enum { FSCK_ERRORS_LEFT = 4, FSCK_FAILED = 8 };

static const struct option check_options[] = {
	{ "max-problems", required_argument, NULL, 'm' },
	{ 0 },
};

struct check {
	const struct image *image;
	bool json;
};

static void on_problem(void *arg, const char *text)
{
	const struct check *check = arg;
	json_t *o;

	progress_clear();
	if (!check->json) {
		printf("%s: %s\n", check->image->name, text);
		return;
	}
	o = json_object();
	json_set_bytes(o, "image", check->image->name, strlen(check->image->name));
	json_set_bytes(o, "problem", text, strlen(text));
	json_print(o);
}

static int on_progress(void *arg, enum uext4_check_pass pass, uint64_t done, uint64_t total)
{
	static const char *const labels[UEXT4_CHECK_PASSES] = {
		[UEXT4_CHECK_INODES] = "check, groups of inodes",
		[UEXT4_CHECK_DIRECTORIES] = "check, directories",
		[UEXT4_CHECK_CONNECTIONS] = "check, connections",
		[UEXT4_CHECK_LINKS] = "check, link counts of groups",
		[UEXT4_CHECK_GROUPS] = "check, bitmaps of groups",
		[UEXT4_CHECK_QUOTA] = "check, quota",
	};

	(void)arg;
	progress_set(labels[pass], done, total);
	progress_poll();
	return 0;
}

static void print_text(const char *name, const struct uext4_info *info,
		       const struct uext4_check_result *r)
{
	if (info->journal_replayed)
		printf("%s: checked as it is after a replay of its journal, which was done in "
		       "memory\n",
		       name);
	else if (info->journal_dirty)
		printf("%s: checked as it lies, without its pending journal\n", name);
	if (r->problems)
		printf("%s: %" PRIu64 " problem%s, ", name, r->problems,
		       r->problems == 1 ? "" : "s");
	else
		printf("%s: clean, ", name);
	printf("%" PRIu64 "/%" PRIu32 " inodes, %" PRIu64 "/%" PRIu64 " blocks, %" PRIu64
	       " of %" PRIu64 " files fragmented\n",
	       r->inodes, info->inodes, r->blocks_used, info->blocks, r->fragmented, r->files);
}

static void print_json(const char *name, const struct uext4_info *info,
		       const struct uext4_check_result *r)
{
	json_t *o = json_object();

	json_set_bytes(o, "image", name, strlen(name));
	json_object_set_new(o, "clean", json_boolean(r->problems == 0));
	json_set_integer(o, "problems", r->problems);
	json_object_set_new(o, "journal_dirty", json_boolean(info->journal_dirty));
	json_object_set_new(o, "journal_replayed", json_boolean(info->journal_replayed));
	json_set_integer(o, "inodes", r->inodes);
	json_set_integer(o, "files", r->files);
	json_set_integer(o, "directories", r->directories);
	json_set_integer(o, "symlinks", r->symlinks);
	json_set_integer(o, "special", r->special);
	json_set_integer(o, "fragmented", r->fragmented);
	json_set_integer(o, "blocks_used", r->blocks_used);
	json_set_integer(o, "blocks", info->blocks);
	json_print(o);
}

/* Bits of the exit status. */
static int check_image(const struct options *opts, const char *name, uint64_t problems_max)
{
	struct check check = { .json = opts->json };
	struct uext4_check_options options = {
		.size = sizeof(options),
		.arg = &check,
		.problem = on_problem,
		.progress = on_progress,
		.problems_max = problems_max,
	};
	struct uext4_check_result result;
	struct uext4_info info;
	struct image *image;
	int err;

	if (image_open(opts, name, IMAGE_READ, &image) < 0)
		return FSCK_FAILED;
	check.image = image;
	err = uext4_check(image->fs, &options, &result);
	progress_clear();
	if (err == 0)
		err = uext4_info(image->fs, &info);
	if (err < 0) {
		complain_fs((struct place){ image->name, NULL }, err);
		return FSCK_FAILED;
	}
	if (opts->json)
		print_json(name, &info, &result);
	else
		print_text(name, &info, &result);
	return result.problems ? FSCK_ERRORS_LEFT : 0;
}

void command_check(const struct options *opts, int argc, char **argv)
{
	enum progress_mode mode = opts->progress;
	uint64_t problems_max = 0;
	int bits = 0, c;

	while ((c = command_option(argc, argv, ":", check_options)) != -1)
		problems_max = option_number(argv[0], "--max-problems", optarg, NUMBER_PLAIN);
	operands_are_images(argv[0], argc - optind, argv + optind);
	/* The line is wiped before a finding is printed: both may be the terminal. */
	if (mode == PROGRESS_AUTO && isatty(STDERR_FILENO))
		mode = PROGRESS_BAR;
	progress_start(mode, "check", 0);
	for (int i = optind; i < argc && out_works(); i++)
		bits |= check_image(opts, argv[i], problems_max);
	progress_finish();
	images_close();
	out_finish();
	exit(bits | (status_now() != STATUS_OK ? FSCK_FAILED : 0));
}
