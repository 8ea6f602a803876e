/* SPDX-License-Identifier: MIT */
/*
 * The commands that change an image, but for cp: mkdir rmdir rm mv ln chmod chown touch truncate
 * mknod replay.
 *
 * Each works as its namesake in coreutils.  Permissions are not asked for: who may write the image
 * may do everything in it.
 */
#include "write.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "walk.h"

/* ---- names ----------------------------------------------------------------------------------- */

int slot_open(const struct options *opts, const char *arg, struct slot *ret_slot)
{
	char *image_name, *path, *slash, *dir;
	struct slot slot = { 0 };
	int err;

	operand_split(arg, &image_name, &path);
	if (!path)
		path = must_copy("/");
	for (size_t len = strlen(path); len > 1 && path[len - 1] == '/'; len--)
		path[len - 1] = '\0';
	err = image_open(opts, image_name, IMAGE_WRITE, &slot.image);
	free(image_name);
	if (err == 0) {
		slash = strrchr(path, '/');
		dir = must_copy(path);
		dir[slash - path + 1] = '\0';
		err = uext4_resolve(slot.image->fs, UEXT4_ROOT_INO, dir, 0, &slot.dir);
		if (err < 0)
			complain_fs((struct place){ slot.image->name, dir }, err);
		free(dir);
		slot.path = path;
		slot.name = slash + 1;
	}
	if (err < 0) {
		free(path);
		return err;
	}
	*ret_slot = slot;
	return 0;
}

void slot_finish(struct slot *slot)
{
	free(slot->path);
}

struct place slot_place(const struct slot *slot)
{
	return (struct place){ slot->image->name, slot->path };
}

int slot_find(const struct slot *slot, uint32_t *ret_ino)
{
	int err;

	if (!slot->name[0]) {
		*ret_ino = UEXT4_ROOT_INO;
		return 0;
	}
	err = uext4_lookup(slot->image->fs, slot->dir, slot->name, strlen(slot->name), ret_ino);
	if (err < 0 && err != -ENOENT)
		complain_fs(slot_place(slot), err);
	return err;
}

void slot_below(struct slot *slot, struct image *image, uint32_t dir, const char *dir_path,
		const char *name)
{
	slot->image = image;
	slot->dir = dir;
	slot->path = must_format("%s/%s", strcmp(dir_path, "/") == 0 ? "" : dir_path, name);
	slot->name = strrchr(slot->path, '/') + 1;
}

/* Asked once: they do not change, and a copy makes many files. */
struct uext4_new new_file(uint32_t mode)
{
	static struct uext4_new self;
	static bool known;
	struct uext4_new new;

	if (!known) {
		self.umask = umask(0);
		umask(self.umask);
		self.uid = geteuid();
		self.gid = getegid();
		known = true;
	}
	new = self;
	new.mode = mode;
	return new;
}

void for_each(struct target *target, bool recursive, each_fn fn, void *arg)
{
	const struct walk_entry *entry;
	struct uext4_stat st;
	struct walk *walk;

	if (!recursive) {
		if (image_stat(target->image, target->ino, target->path, &st) == 0)
			fn(arg, target->image, target->path, target->ino, &st);
		return;
	}
	walk = walk_open(target->image, target->ino, target->path, 0);
	while ((entry = walk_next(walk))) {
		if (entry->kind == WALK_ENTRY)
			fn(arg, target->image, entry->path, entry->ino, &entry->st);
	}
	walk_close(walk);
}

/* ---- modes ----------------------------------------------------------------------------------- */

enum { MODE_U = 04700, MODE_G = 02070, MODE_O = 00007, MODE_ALL = 07777 };

static uint32_t who_of(const char **text)
{
	uint32_t who = 0;

	for (;; (*text)++) {
		switch (**text) {
		case 'u': who |= MODE_U; break;
		case 'g': who |= MODE_G; break;
		case 'o': who |= MODE_O; break;
		case 'a': who |= MODE_ALL; break;
		default: return who;
		}
	}
}

static uint32_t spread(uint32_t rwx)
{
	return rwx << 6 | rwx << 3 | rwx;
}

/* "rwxXst", or one of "ugo": permissions of others, taken over. */
static uint32_t permissions_of(const char **text, uint32_t mode)
{
	uint32_t bits = 0;

	switch (**text) {
	case 'u': (*text)++; return spread(mode >> 6 & 7);
	case 'g': (*text)++; return spread(mode >> 3 & 7);
	case 'o': (*text)++; return spread(mode & 7);
	}
	for (;; (*text)++) {
		switch (**text) {
		case 'r': bits |= 0444; break;
		case 'w': bits |= 0222; break;
		case 'x': bits |= 0111; break;
		case 'X':
			if (S_ISDIR(mode) || (mode & 0111))
				bits |= 0111;
			break;
		case 's': bits |= 06000; break;
		case 't': bits |= 01000; break;
		default: return bits;
		}
	}
}

/* A directory keeps its set-id bits unless they are named. */
static uint32_t apply_clause(uint32_t mode, char op, uint32_t who, uint32_t bits)
{
	uint32_t kept = S_ISDIR(mode) ? 06000 & ~bits : 0;

	/* t belongs to nobody of u, g, o: it counts for all, and for nobody named but o. */
	if (who & MODE_O)
		who |= 01000;
	switch (op) {
	case '+': return mode | (bits & who);
	case '-': return mode & ~(bits & who);
	default: return (mode & ~(who & ~kept)) | (bits & who);
	}
}

int mode_apply(const char *text, uint32_t mode, uint32_t mask, uint32_t *ret_mode)
{
	if (*text >= '0' && *text <= '7') {
		char *end;
		unsigned long value = strtoul(text, &end, 8);

		if (*end || value > MODE_ALL)
			return -EINVAL;
		*ret_mode = (mode & ~(uint32_t)MODE_ALL) | (uint32_t)value;
		return 0;
	}
	do {
		uint32_t who = who_of(&text);

		if (*text != '+' && *text != '-' && *text != '=')
			return -EINVAL;
		while (*text == '+' || *text == '-' || *text == '=') {
			char op = *text++;
			uint32_t bits = permissions_of(&text, mode);

			mode = apply_clause(mode, op, who ? who : MODE_ALL & ~mask, bits);
		}
	} while (*text == ',' && *++text);
	if (*text)
		return -EINVAL;
	*ret_mode = mode;
	return 0;
}

static uint32_t option_mode(const char *command, const char *text, uint32_t mode)
{
	uint32_t result;

	if (mode_apply(text, mode, 0, &result) < 0)
		usage_error(command, "'%s' is no mode", text);
	return result & MODE_ALL;
}

/* ---- mkdir, rmdir ---------------------------------------------------------------------------- */

/* One directory.  With @parents one that is there already is fine. */
static int make_directory(const struct slot *slot, uint32_t mode, bool masked, bool parents,
			  uint32_t *ret_ino)
{
	struct uext4_new new = new_file(S_IFDIR | mode);
	struct uext4_stat st;
	int err;

	if (!masked)
		new.umask = 0;
	err = slot_find(slot, ret_ino);
	if (err == 0 && parents) {
		/* A symlink to a directory is a directory to go on from. */
		err = uext4_resolve(slot->image->fs, slot->dir, slot->name, 0, ret_ino);
		if (err == 0)
			err = uext4_stat(slot->image->fs, *ret_ino, &st);
		if (err < 0)
			complain_fs(slot_place(slot), err);
		if (err == 0 && !S_ISDIR(st.mode)) {
			complain(STATUS_FAILED, slot->path, "is there and no directory");
			err = -ENOTDIR;
		}
		return err;
	}
	if (err < 0 && err != -ENOENT)
		return err;
	err = uext4_create(slot->image->fs, slot->dir, slot->name, strlen(slot->name), &new,
			   ret_ino);
	if (err < 0)
		complain_fs(slot_place(slot), err);
	return err;
}

/* Every directory of the path that is missing. */
static void make_path(const struct options *opts, const char *arg, uint32_t mode, bool masked)
{
	char *image_name, *path, *rest, *name;
	uint32_t dir = UEXT4_ROOT_INO;
	struct image *image;
	int err;

	operand_split(arg, &image_name, &path);
	err = image_open(opts, image_name, IMAGE_WRITE, &image);
	rest = path ? must_copy(path) : NULL;
	for (char *at = rest; err == 0 && at && (name = strsep(&at, "/"));) {
		struct slot slot = { .image = image, .dir = dir, .name = name };
		bool last = !at || !at[strspn(at, "/")];

		if (!*name)
			continue;
		slot.path = path;
		/* Those on the way can be entered and written by their owner. */
		err = make_directory(&slot, last ? mode : 0777, last ? masked : true, true, &dir);
	}
	free(rest);
	free(path);
	free(image_name);
}

void command_mkdir(const struct options *opts, int argc, char **argv)
{
	bool parents = false, masked = true;
	uint32_t mode = 0777, ino;
	int c;

	while ((c = command_option(argc, argv, ":pm:", NULL)) != -1) {
		if (c == 'p') {
			parents = true;
		} else {
			mode = option_mode(argv[0], optarg, S_IFDIR | 0777);
			masked = false;
		}
	}
	if (optind == argc)
		usage_error(argv[0], "no directory given");
	for (int i = optind; i < argc; i++) {
		struct slot slot;

		if (parents) {
			make_path(opts, argv[i], mode, masked);
			continue;
		}
		if (slot_open(opts, argv[i], &slot) < 0)
			continue;
		(void)!make_directory(&slot, mode, masked, false, &ino);
		slot_finish(&slot);
	}
}

void command_rmdir(const struct options *opts, int argc, char **argv)
{
	while (command_option(argc, argv, ":", NULL) != -1)
		;
	if (optind == argc)
		usage_error(argv[0], "no directory given");
	for (int i = optind; i < argc; i++) {
		struct slot slot;
		int err;

		if (slot_open(opts, argv[i], &slot) < 0)
			continue;
		err = uext4_rmdir(slot.image->fs, slot.dir, slot.name, strlen(slot.name));
		if (err < 0)
			complain_fs(slot_place(&slot), err);
		slot_finish(&slot);
	}
}

/* ---- rm -------------------------------------------------------------------------------------- */

/*
 * Removes what is in the directories from the bottom up.  Names are removed as they are met: the
 * walker lists a directory before it is left, and it is empty when it is.
 */
static void remove_tree(struct image *image, const char *path, uint32_t ino)
{
	struct walk *walk = walk_open(image, ino, path, WALK_TYPE_ONLY);
	const struct walk_entry *entry;
	uint32_t *dirs = NULL; /* the directories on the way down */
	size_t depth = 0, size = 0;

	while ((entry = walk_next(walk))) {
		struct place place = { image->name, entry->path };
		bool is_dir = S_ISDIR(entry->st.mode);
		int err = 0;

		progress_count(entry->kind == WALK_ENTRY, 0);
		progress_poll();
		if (entry->kind == WALK_LEAVE)
			depth--;
		if (entry->depth > 0 && entry->kind == WALK_LEAVE)
			err = uext4_rmdir(image->fs, dirs[depth - 1], entry->name, entry->name_len);
		else if (entry->depth > 0 && !is_dir)
			err = uext4_unlink(image->fs, dirs[depth - 1], entry->name,
					   entry->name_len);
		if (err < 0)
			complain_fs(place, err);
		if (entry->kind == WALK_ENTRY && is_dir) {
			if (depth == size) {
				size = size ? size * 2 : 16;
				dirs = must_resize(dirs, size, sizeof(*dirs));
			}
			dirs[depth++] = entry->ino;
		}
	}
	walk_close(walk);
	free(dirs);
}

struct rm {
	bool recursive;
	bool force;
};

static void remove_slot(const struct rm *rm, const struct slot *slot)
{
	struct uext4_stat st;
	uint32_t ino;
	int err;

	err = slot_find(slot, &ino);
	if (err == -ENOENT && !rm->force)
		complain_fs(slot_place(slot), err);
	if (err < 0)
		return;
	if (image_stat(slot->image, ino, slot->path, &st) < 0)
		return;
	if (!S_ISDIR(st.mode)) {
		err = uext4_unlink(slot->image->fs, slot->dir, slot->name, strlen(slot->name));
	} else if (!rm->recursive) {
		err = -EISDIR;
		complain(STATUS_FAILED, slot->path, "is a directory: removed only with -r");
		return;
	} else if (ino == UEXT4_ROOT_INO) {
		complain(STATUS_FAILED, slot->path, "is the root: not removed");
		return;
	} else {
		remove_tree(slot->image, slot->path, ino);
		err = uext4_rmdir(slot->image->fs, slot->dir, slot->name, strlen(slot->name));
	}
	if (err < 0)
		complain_fs(slot_place(slot), err);
}

void command_rm(const struct options *opts, int argc, char **argv)
{
	struct rm rm = { 0 };
	int c;

	while ((c = command_option(argc, argv, ":rRf", NULL)) != -1) {
		rm.recursive = rm.recursive || c != 'f';
		rm.force = rm.force || c == 'f';
	}
	if (optind == argc && !rm.force)
		usage_error(argv[0], "no file given");
	progress_start(opts->progress, "rm", 0);
	for (int i = optind; i < argc; i++) {
		struct slot slot;

		if (slot_open(opts, argv[i], &slot) < 0)
			continue;
		remove_slot(&rm, &slot);
		slot_finish(&slot);
	}
	progress_finish();
}

/* ---- mv, ln ---------------------------------------------------------------------------------- */

/*
 * The last operand: if it is a directory, files go into it.  @name: of the file in that case.
 * False: reported.
 */
static bool destination(const struct options *opts, const char *arg, const char *name,
			struct slot *ret_slot)
{
	struct uext4_stat st;
	struct slot slot;
	uint32_t ino;

	if (slot_open(opts, arg, &slot) < 0)
		return false;
	if (uext4_resolve(slot.image->fs, UEXT4_ROOT_INO, slot.path, 0, &ino) == 0 &&
	    uext4_stat(slot.image->fs, ino, &st) == 0 && S_ISDIR(st.mode)) {
		slot_below(ret_slot, slot.image, ino, slot.path, name);
		slot_finish(&slot);
		return true;
	}
	*ret_slot = slot;
	return true;
}

static void move(const struct options *opts, const char *from_arg, const char *to_arg,
		 uint32_t flags)
{
	struct slot from, to;
	int err;

	if (slot_open(opts, from_arg, &from) < 0)
		return;
	if (flags & UEXT4_RENAME_EXCHANGE ? slot_open(opts, to_arg, &to) == 0
					  : destination(opts, to_arg, from.name, &to)) {
		if (from.image != to.image) {
			complain(STATUS_FAILED, to_arg,
				 "is in another image: cp -a and rm do that in two steps");
		} else {
			err = uext4_rename(from.image->fs, from.dir, from.name, strlen(from.name),
					   to.dir, to.name, strlen(to.name), flags);
			if (err < 0)
				complain_fs(slot_place(err == -ENOENT ? &from : &to), err);
		}
		slot_finish(&to);
	}
	slot_finish(&from);
}

/* Several operands need a directory behind them. */
static void check_last_is_directory(const struct options *opts, const char *command, int argc,
				    char **argv)
{
	struct target target;
	struct uext4_stat st;

	if (argc < 2)
		usage_error(command, argc ? "no target given" : "no file given");
	if (argc == 2)
		return;
	if (target_open_for(opts, argv[argc - 1], TARGET_FOLLOW, IMAGE_WRITE, &target) < 0)
		exit((int)status_now());
	if (image_stat(target.image, target.ino, target.path, &st) < 0 || !S_ISDIR(st.mode))
		usage_error(command, "several files go only into a directory");
	target_finish(&target);
}

void command_mv(const struct options *opts, int argc, char **argv)
{
	static const struct option names[] = { { "exchange", no_argument, NULL, 'x' }, { 0 } };
	uint32_t flags = 0;
	int c;

	while ((c = command_option(argc, argv, ":fn", names)) != -1) {
		switch (c) {
		case 'n': flags = UEXT4_RENAME_NOREPLACE; break;
		case 'f': flags = 0; break;
		case 'x': flags = UEXT4_RENAME_EXCHANGE; break;
		}
	}
	argc -= optind;
	argv += optind;
	check_last_is_directory(opts, "mv", argc, argv);
	for (int i = 0; i < argc - 1; i++)
		move(opts, argv[i], argv[argc - 1], flags);
}

static void make_symlink(const struct options *opts, const char *text, const char *to_arg,
			 bool force)
{
	struct uext4_new new = new_file(S_IFLNK | 0777);
	const char *slash = strrchr(text, '/');
	struct slot slot;
	uint32_t ino;
	int err;

	if (!destination(opts, to_arg, slash && slash[1] ? slash + 1 : text, &slot))
		return;
	if (force && slot_find(&slot, &ino) == 0)
		remove_slot(&(struct rm){ .force = true }, &slot);
	err = uext4_symlink(slot.image->fs, slot.dir, slot.name, strlen(slot.name), text,
			    strlen(text), &new, &ino);
	if (err < 0)
		complain_fs(slot_place(&slot), err);
	slot_finish(&slot);
}

static void make_hard_link(const struct options *opts, const char *from_arg, const char *to_arg,
			   bool force)
{
	struct target from;
	struct slot slot;
	uint32_t ino;
	int err;

	if (target_open_for(opts, from_arg, TARGET_NOFOLLOW, IMAGE_WRITE, &from) < 0)
		return;
	if (destination(opts, to_arg, target_name(&from), &slot)) {
		if (slot.image != from.image) {
			complain(STATUS_FAILED, to_arg, "is in another image: no link is possible");
		} else {
			bool there = force && slot_find(&slot, &ino) == 0;

			if (there && ino != from.ino)
				remove_slot(&(struct rm){ .force = true }, &slot);
			err = there && ino == from.ino
				      ? 0
				      : uext4_link(slot.image->fs, from.ino, slot.dir, slot.name,
						   strlen(slot.name));
			if (err < 0)
				complain_fs(slot_place(&slot), err);
		}
		slot_finish(&slot);
	}
	target_finish(&from);
}

void command_ln(const struct options *opts, int argc, char **argv)
{
	bool symbolic = false, force = false;
	int c;

	while ((c = command_option(argc, argv, ":sf", NULL)) != -1) {
		symbolic = symbolic || c == 's';
		force = force || c == 'f';
	}
	argc -= optind;
	argv += optind;
	check_last_is_directory(opts, "ln", argc, argv);
	for (int i = 0; i < argc - 1; i++) {
		if (symbolic)
			make_symlink(opts, argv[i], argv[argc - 1], force);
		else
			make_hard_link(opts, argv[i], argv[argc - 1], force);
	}
}

/* ---- chmod, chown ---------------------------------------------------------------------------- */

static void set_attr(struct image *image, const char *path, uint32_t ino,
		     const struct uext4_attr *attr)
{
	int err = uext4_setattr(image->fs, ino, attr);

	if (err < 0)
		complain_fs((struct place){ image->name, path }, err);
}

static void chmod_one(void *arg, struct image *image, const char *path, uint32_t ino,
		      const struct uext4_stat *st)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_MODE };

	if (S_ISLNK(st->mode)) /* its mode means nothing */
		return;
	if (mode_apply(arg, st->mode, 0, &attr.mode) < 0)
		usage_error("chmod", "'%s' is no mode", (const char *)arg);
	attr.mode &= MODE_ALL;
	set_attr(image, path, ino, &attr);
}

/* Applies @fn to each operand behind the first; @follow as for a symlink that is one. */
static void on_operands(const struct options *opts, int argc, char **argv, bool recursive,
			enum target_follow follow, each_fn fn, void *arg)
{
	if (recursive)
		follow = TARGET_NOFOLLOW;
	for (int i = 0; i < argc; i++) {
		struct target target;

		if (target_open_for(opts, argv[i], follow, IMAGE_WRITE, &target) < 0)
			continue;
		for_each(&target, recursive, fn, arg);
		target_finish(&target);
	}
}

void command_chmod(const struct options *opts, int argc, char **argv)
{
	bool recursive = false;

	/* A mode may begin with '-': it is no option. */
	if (argc > 1 && strcmp(argv[1], "-R") == 0) {
		recursive = true;
		argc--;
		argv++;
	}
	if (argc > 1 && strcmp(argv[1], "--") == 0) {
		argc--;
		argv++;
	}
	if (argc < 3)
		usage_error("chmod", "a mode and a file are needed");
	on_operands(opts, argc - 2, argv + 2, recursive, TARGET_FOLLOW, chmod_one, argv[1]);
}

static void chown_one(void *arg, struct image *image, const char *path, uint32_t ino,
		      const struct uext4_stat *st)
{
	(void)st;
	set_attr(image, path, ino, arg);
}

/* "UID", "UID:GID", ":GID": numbers, as an image has its own passwd. */
static void parse_owner(const char *text, struct uext4_attr *attr)
{
	char *copy = must_copy(text), *colon = strchr(copy, ':');

	if (colon)
		*colon = '\0';
	if (*copy) {
		attr->uid = (uint32_t)option_number("chown", "owner", copy, NUMBER_PLAIN);
		attr->valid |= UEXT4_ATTR_UID;
	}
	if (colon && colon[1]) {
		attr->gid = (uint32_t)option_number("chown", "group", colon + 1, NUMBER_PLAIN);
		attr->valid |= UEXT4_ATTR_GID;
	}
	free(copy);
	if (!(attr->valid & (UEXT4_ATTR_UID | UEXT4_ATTR_GID)))
		usage_error("chown", "'%s' is neither UID nor UID:GID nor :GID", text);
}

void command_chown(const struct options *opts, int argc, char **argv)
{
	enum target_follow follow = TARGET_FOLLOW;
	/* As chown(2): set-id bits belong to the owner they were made for. */
	struct uext4_attr attr = { .valid = UEXT4_ATTR_KILL_PRIV };
	bool recursive = false;
	int c;

	while ((c = command_option(argc, argv, ":Rh", NULL)) != -1) {
		recursive = recursive || c == 'R';
		if (c == 'h')
			follow = TARGET_NOFOLLOW;
	}
	if (argc - optind < 2)
		usage_error("chown", "an owner and a file are needed");
	parse_owner(argv[optind], &attr);
	on_operands(opts, argc - optind - 1, argv + optind + 1, recursive, follow, chown_one,
		    &attr);
}

/* ---- touch, truncate, mknod ------------------------------------------------------------------ */

/* "@SECONDS[.FRACTION]", or "YYYY-MM-DD[ HH:MM[:SS]]" in local time. */
static struct uext4_time parse_time(const char *text)
{
	struct uext4_time t = { 0 };
	struct tm tm = { .tm_isdst = -1 };
	const char *end;
	char *rest;

	if (*text == '@') {
		uint32_t digit = 100000000;

		errno = 0;
		t.sec = strtoll(text + 1, &rest, 10);
		if (errno || rest == text + 1)
			usage_error("touch", "'%s' is no time", text);
		if (*rest == '.') {
			while (*++rest >= '0' && *rest <= '9' && digit) {
				t.nsec += (uint32_t)(*rest - '0') * digit;
				digit /= 10;
			}
		}
		if (*rest)
			usage_error("touch", "'%s' is no time", text);
		return t;
	}
	end = strptime(text, "%Y-%m-%d", &tm);
	if (end && (*end == ' ' || *end == 'T'))
		end = strptime(end + 1, "%H:%M", &tm);
	if (end && *end == ':')
		end = strptime(end + 1, "%S", &tm);
	if (!end || *end)
		usage_error("touch", "'%s' is no time: @SECONDS or 'YYYY-MM-DD HH:MM:SS'", text);
	t.sec = mktime(&tm);
	return t;
}

/*
 * The file at @arg, made if it is missing and @create is set.  1: there is none, and that is fine;
 * negative: reported.  With 0 the slot is the caller's to finish.
 */
static int open_or_create(const struct options *opts, const char *arg, bool create,
			  struct slot *ret_slot, uint32_t *ret_ino)
{
	struct uext4_new new = new_file(S_IFREG | 0666);
	struct slot slot;
	int err;

	err = slot_open(opts, arg, &slot);
	if (err < 0)
		return err;
	err = uext4_resolve(slot.image->fs, UEXT4_ROOT_INO, slot.path, 0, ret_ino);
	if (err == -ENOENT)
		err = create ? uext4_create(slot.image->fs, slot.dir, slot.name, strlen(slot.name),
					    &new, ret_ino)
			     : 1;
	if (err < 0)
		complain_fs(slot_place(&slot), err);
	if (err != 0)
		slot_finish(&slot);
	else
		*ret_slot = slot;
	return err;
}

static void touch(const struct options *opts, const char *arg, bool create,
		  const struct uext4_attr *attr)
{
	struct slot slot;
	uint32_t ino;

	if (open_or_create(opts, arg, create, &slot, &ino) != 0)
		return;
	set_attr(slot.image, slot.path, ino, attr);
	slot_finish(&slot);
}

void command_touch(const struct options *opts, int argc, char **argv)
{
	struct uext4_attr attr = { 0 };
	const char *date = NULL;
	bool atime = false, mtime = false, create = true;
	int c;

	while ((c = command_option(argc, argv, ":acmd:", NULL)) != -1) {
		switch (c) {
		case 'a': atime = true; break;
		case 'm': mtime = true; break;
		case 'c': create = false; break;
		case 'd': date = optarg; break;
		}
	}
	if (optind == argc)
		usage_error(argv[0], "no file given");
	if (date)
		attr.atime = attr.mtime = parse_time(date);
	if (atime || !mtime)
		attr.valid |= date ? UEXT4_ATTR_ATIME : UEXT4_ATTR_ATIME_NOW;
	if (mtime || !atime)
		attr.valid |= date ? UEXT4_ATTR_MTIME : UEXT4_ATTR_MTIME_NOW;
	for (int i = optind; i < argc; i++)
		touch(opts, argv[i], create, &attr);
}

struct resize {
	char sign; /* '+', '-', or 0: absolute */
	uint64_t bytes;
	bool create;
};

static void resize_one(const struct options *opts, const char *arg, const struct resize *resize)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE, .size = resize->bytes };
	struct uext4_stat st;
	struct slot slot;
	uint32_t ino;

	if (open_or_create(opts, arg, resize->create, &slot, &ino) != 0)
		return;
	if (image_stat(slot.image, ino, slot.path, &st) == 0) {
		if (resize->sign == '+')
			attr.size = st.size + resize->bytes;
		else if (resize->sign == '-')
			attr.size = st.size > resize->bytes ? st.size - resize->bytes : 0;
		set_attr(slot.image, slot.path, ino, &attr);
	}
	slot_finish(&slot);
}

void command_truncate(const struct options *opts, int argc, char **argv)
{
	struct resize resize = { .create = true };
	const char *size = NULL;
	int c;

	while ((c = command_option(argc, argv, ":cs:", NULL)) != -1) {
		if (c == 'c')
			resize.create = false;
		else
			size = optarg;
	}
	if (!size)
		usage_error(argv[0], "-s SIZE is needed");
	if (*size == '+' || *size == '-')
		resize.sign = *size++;
	resize.bytes = option_number(argv[0], "-s", size, NUMBER_BYTES);
	if (optind == argc)
		usage_error(argv[0], "no file given");
	for (int i = optind; i < argc; i++)
		resize_one(opts, argv[i], &resize);
}

void command_mknod(const struct options *opts, int argc, char **argv)
{
	static const struct {
		char letter;
		uint32_t type;
	} types[] = { { 'b', S_IFBLK },
		      { 'c', S_IFCHR },
		      { 'u', S_IFCHR },
		      { 'p', S_IFIFO },
		      { 's', S_IFSOCK } };
	struct uext4_new new = new_file(0666);
	struct slot slot;
	uint32_t type = 0, ino;
	bool is_device;
	int c, err;

	while ((c = command_option(argc, argv, ":m:", NULL)) != -1) {
		new.mode = option_mode(argv[0], optarg, 0666);
		new.umask = 0;
	}
	argc -= optind;
	argv += optind;
	if (argc < 2)
		usage_error("mknod", "a name and a type are needed");
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		if (argv[1][0] == types[i].letter && !argv[1][1])
			type = types[i].type;
	}
	is_device = type == S_IFBLK || type == S_IFCHR;
	if (!type)
		usage_error("mknod", "'%s' is none of b, c, u, p, s", argv[1]);
	if (argc != (is_device ? 4 : 2))
		usage_error("mknod", is_device ? "a device needs major and minor number"
					       : "only devices have numbers");
	if (is_device) {
		new.rdev_major = (uint32_t)option_number("mknod", "major", argv[2], NUMBER_PLAIN);
		new.rdev_minor = (uint32_t)option_number("mknod", "minor", argv[3], NUMBER_PLAIN);
	}
	new.mode |= type;
	if (slot_open(opts, argv[0], &slot) < 0)
		return;
	err = uext4_create(slot.image->fs, slot.dir, slot.name, strlen(slot.name), &new, &ino);
	if (err < 0)
		complain_fs(slot_place(&slot), err);
	slot_finish(&slot);
}

/* ---- replay ---------------------------------------------------------------------------------- */

void command_replay(const struct options *opts, int argc, char **argv)
{
	while (command_option(argc, argv, ":", NULL) != -1)
		;
	operands_are_images(argv[0], argc - optind, argv + optind);
	for (int i = optind; i < argc; i++) {
		struct uext4_info info;
		struct image *image;
		int err;

		if (image_open(opts, argv[i], IMAGE_WRITE, &image) < 0)
			continue;
		err = uext4_info(image->fs, &info);
		if (err < 0)
			complain_fs((struct place){ image->name, NULL }, err);
		else if (opts->json)
			json_print(json_pack("{s:s, s:b, s:i}", "image", image->name, "replayed",
					     info.journal_replayed, "transactions",
					     (int)info.replayed_transactions));
		else if (info.journal_replayed)
			printf("%s: replayed %u transaction%s\n", image->name,
			       info.replayed_transactions,
			       info.replayed_transactions == 1 ? "" : "s");
		else
			printf("%s: nothing to replay\n", image->name);
	}
}
