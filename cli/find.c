/* SPDX-License-Identifier: MIT */
/*
 * `find`: the expression, parsed into a tree once and evaluated for each entry of a walk.
 *
 * Nested no deeper than the user's parentheses, so plain recursion serves.  Where no test looks at
 * more than names and types, inodes are not read.
 */
#include "cli.h"

#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "image.h"
#include "out.h"
#include "row.h"
#include "walk.h"

enum node_kind {
	NODE_AND,
	NODE_OR,
	NODE_NOT,
	NODE_TRUE,
	NODE_FALSE,
	NODE_NAME,
	NODE_INAME,
	NODE_PATH,
	NODE_TYPE,
	NODE_SIZE,
	NODE_EMPTY,
	NODE_LINKS,
	NODE_INUM,
	NODE_UID,
	NODE_GID,
	NODE_PERM,
	NODE_XATTR,
	NODE_PRINT,
	NODE_PRINT0,
	NODE_LS,
	NODE_PRUNE,
	NODE_QUIT,
};

/* How a number in the expression compares: "N", "+N", "-N"; for -perm "N", "/N", "-N". */
enum compare { COMPARE_EXACT, COMPARE_MORE, COMPARE_LESS };

struct node {
	enum node_kind kind;
	struct node *left; /* the only operand of NOT */
	struct node *right;
	const char *text;
	enum compare compare;
	uint64_t number;
	uint64_t unit;	   /* of SIZE, bytes */
	struct node *next; /* all nodes, to free them */
};

struct find {
	const char *command;
	char **args; /* the expression's words, NULL at the end */
	struct node *nodes;
	struct node *root;
	unsigned depth_max;
	unsigned depth_min;
	bool need_stat;
	bool has_action;
	bool json;
	bool quit;
	struct walk *walk;
	struct rows rows;
};

/* ---- parsing -------------------------------------------------------------------------------- */

enum argument { ARGUMENT_NONE, ARGUMENT_TEXT, ARGUMENT_NUMBER };

static const struct primary {
	const char *word;
	enum node_kind kind;
	enum argument argument;
	bool need_stat;
	bool action;
} primaries[] = {
	{ "-true", NODE_TRUE, ARGUMENT_NONE, false, false },
	{ "-false", NODE_FALSE, ARGUMENT_NONE, false, false },
	{ "-name", NODE_NAME, ARGUMENT_TEXT, false, false },
	{ "-iname", NODE_INAME, ARGUMENT_TEXT, false, false },
	{ "-path", NODE_PATH, ARGUMENT_TEXT, false, false },
	{ "-wholename", NODE_PATH, ARGUMENT_TEXT, false, false },
	{ "-type", NODE_TYPE, ARGUMENT_TEXT, false, false },
	{ "-size", NODE_SIZE, ARGUMENT_NUMBER, true, false },
	{ "-empty", NODE_EMPTY, ARGUMENT_NONE, true, false },
	{ "-links", NODE_LINKS, ARGUMENT_NUMBER, true, false },
	{ "-inum", NODE_INUM, ARGUMENT_NUMBER, false, false },
	{ "-uid", NODE_UID, ARGUMENT_NUMBER, true, false },
	{ "-gid", NODE_GID, ARGUMENT_NUMBER, true, false },
	{ "-perm", NODE_PERM, ARGUMENT_TEXT, true, false },
	{ "-xattr", NODE_XATTR, ARGUMENT_TEXT, false, false },
	{ "-print", NODE_PRINT, ARGUMENT_NONE, false, true },
	{ "-print0", NODE_PRINT0, ARGUMENT_NONE, false, true },
	{ "-ls", NODE_LS, ARGUMENT_NONE, true, true },
	{ "-prune", NODE_PRUNE, ARGUMENT_NONE, false, false },
	{ "-quit", NODE_QUIT, ARGUMENT_NONE, false, false },
};

static struct node *node_new(struct find *find, enum node_kind kind, struct node *left,
			     struct node *right)
{
	struct node *node = must_alloc(sizeof(*node));

	*node = (struct node){ .kind = kind, .left = left, .right = right, .next = find->nodes };
	find->nodes = node;
	return node;
}

/* The unit that ends a size: none is blocks of 512 bytes, as in find(1). */
static uint64_t size_unit(const char *text)
{
	static const struct {
		char letter;
		uint64_t unit;
	} units[] = {
		{ 'c', 1 },
		{ 'w', 2 },
		{ 'b', 512 },
		{ 'k', 1 << 10 },
		{ 'M', 1 << 20 },
		{ 'G', 1 << 30 },
		{ 'T', UINT64_C(1) << 40 },
	};

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (text[0] == units[i].letter && text[1] == '\0')
			return units[i].unit;
	}
	return 0;
}

static void parse_number(struct find *find, struct node *node, const char *word, const char *text)
{
	char *end;

	node->text = text;
	node->compare = *text == '+' ? COMPARE_MORE : *text == '-' ? COMPARE_LESS : COMPARE_EXACT;
	text += node->compare != COMPARE_EXACT;
	errno = 0;
	node->number = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || errno != 0)
		usage_error(find->command, "%s: '%s' is no number", word, node->text);
	node->unit = 512;
	if (node->kind == NODE_SIZE && *end) {
		node->unit = size_unit(end);
		end += node->unit ? 1 : 0;
	}
	if (*end)
		usage_error(find->command, "%s: '%s' is no number", word, node->text);
}

static void parse_perm(struct find *find, struct node *node, const char *text)
{
	char *end;

	node->compare = *text == '/' ? COMPARE_MORE : *text == '-' ? COMPARE_LESS : COMPARE_EXACT;
	text += node->compare != COMPARE_EXACT;
	node->number = strtoull(text, &end, 8);
	if (*text < '0' || *text > '7' || *end || node->number > 07777)
		usage_error(find->command, "-perm: '%s' is no octal mode", text);
}

static void check_types(struct find *find, const char *text)
{
	for (size_t i = 0; text[i] || i == 0; i++) {
		bool comma = i % 2 == 1;

		if (comma ? text[i] != ',' || !text[i + 1]
			  : !text[i] || !strchr("fdlbcps", text[i]))
			usage_error(find->command, "-type: '%s' is not made of f,d,l,b,c,p,s",
				    text);
	}
}

static struct node *parse_primary(struct find *find)
{
	const char *word = *find->args++;
	const struct primary *p = NULL;
	struct node *node;
	char *text;

	for (size_t i = 0; i < sizeof(primaries) / sizeof(primaries[0]) && !p; i++) {
		if (strcmp(primaries[i].word, word) == 0)
			p = &primaries[i];
	}
	if (!p)
		usage_error(find->command, "unknown word '%s' in the expression", word);
	node = node_new(find, p->kind, NULL, NULL);
	find->need_stat = find->need_stat || p->need_stat;
	find->has_action = find->has_action || p->action;
	if (p->argument == ARGUMENT_NONE)
		return node;
	text = *find->args;
	if (!text)
		usage_error(find->command, "%s needs an argument", word);
	find->args++;
	node->text = text;
	if (p->argument == ARGUMENT_NUMBER)
		parse_number(find, node, word, text);
	if (p->kind == NODE_PERM)
		parse_perm(find, node, text);
	if (p->kind == NODE_TYPE)
		check_types(find, text);
	return node;
}

static bool next_is(const struct find *find, const char *word, const char *other)
{
	return *find->args &&
	       (strcmp(*find->args, word) == 0 || (other && strcmp(*find->args, other) == 0));
}

/* -maxdepth and -mindepth hold for the whole walk, wherever they stand. */
static bool take_depth_option(struct find *find)
{
	bool max = next_is(find, "-maxdepth", NULL);
	const char *word = *find->args;
	uint64_t number;

	if (!max && !next_is(find, "-mindepth", NULL))
		return false;
	if (!find->args[1])
		usage_error(find->command, "%s needs an argument", word);
	number = option_number(find->command, word, find->args[1], NUMBER_PLAIN);
	if (number > UINT32_MAX)
		number = UINT32_MAX;
	*(max ? &find->depth_max : &find->depth_min) = (unsigned)number;
	find->args += 2;
	return true;
}

static struct node *parse_or(struct find *find);

static struct node *parse_not(struct find *find)
{
	struct node *node;
	bool negate = false;

	while (next_is(find, "!", "-not")) {
		negate = !negate;
		find->args++;
	}
	if (!*find->args)
		usage_error(find->command, "the expression ends too early");
	if (take_depth_option(find)) {
		node = node_new(find, NODE_TRUE, NULL, NULL);
	} else if (next_is(find, "(", NULL)) {
		find->args++;
		node = parse_or(find);
		if (!next_is(find, ")", NULL))
			usage_error(find->command, "')' is missing");
		find->args++;
	} else {
		node = parse_primary(find);
	}
	return negate ? node_new(find, NODE_NOT, node, NULL) : node;
}

static struct node *parse_and(struct find *find)
{
	struct node *node = parse_not(find);

	while (*find->args && !next_is(find, "-o", "-or") && !next_is(find, ")", NULL)) {
		if (next_is(find, "-a", "-and"))
			find->args++;
		node = node_new(find, NODE_AND, node, parse_not(find));
	}
	return node;
}

static struct node *parse_or(struct find *find)
{
	struct node *node = parse_and(find);

	while (next_is(find, "-o", "-or")) {
		find->args++;
		node = node_new(find, NODE_OR, node, parse_and(find));
	}
	return node;
}

static void parse_expression(struct find *find)
{
	find->root = *find->args ? parse_or(find) : node_new(find, NODE_TRUE, NULL, NULL);
	if (*find->args)
		usage_error(find->command, "unexpected '%s' in the expression", *find->args);
	if (!find->has_action)
		find->root = node_new(find, NODE_AND, find->root,
				      node_new(find, NODE_PRINT, NULL, NULL));
	if (find->json)
		find->need_stat = true;
}

/* ---- evaluation ----------------------------------------------------------------------------- */

static bool compare_number(const struct node *node, uint64_t value)
{
	switch (node->compare) {
	case COMPARE_MORE: return value > node->number;
	case COMPARE_LESS: return value < node->number;
	case COMPARE_EXACT: break;
	}
	return value == node->number;
}

static bool test_type(const struct node *node, uint32_t mode)
{
	char text[11];

	mode_text(mode, text);
	return strchr(node->text, text[0] == '-' ? 'f' : text[0]) != NULL;
}

static bool test_perm(const struct node *node, uint32_t mode)
{
	uint32_t wanted = (uint32_t)node->number;

	mode &= 07777;
	switch (node->compare) {
	case COMPARE_MORE: /* "/": any of them */ return wanted == 0 || (mode & wanted);
	case COMPARE_LESS: /* "-": all of them */ return (mode & wanted) == wanted;
	case COMPARE_EXACT: break;
	}
	return mode == wanted;
}

static bool directory_is_empty(struct find *find, const struct walk_entry *entry)
{
	struct walk *below = walk_open(find->rows.image, entry->ino, entry->path, WALK_TYPE_ONLY);
	const struct walk_entry *first;

	walk_next(below);
	first = walk_next(below);
	bool empty = first && first->kind == WALK_LEAVE;

	walk_close(below);
	return empty;
}

static bool test_empty(struct find *find, const struct walk_entry *entry)
{
	if (S_ISDIR(entry->st.mode))
		return directory_is_empty(find, entry);
	return S_ISREG(entry->st.mode) && entry->st.size == 0;
}

static bool test_xattr(struct find *find, const struct node *node, const struct walk_entry *entry)
{
	struct buffer names = { 0 };
	bool found = false;

	if (image_xattr_names(find->rows.image, entry->ino, entry->path, &names) == 0) {
		for (size_t at = 0; at < names.len; at += strlen(names.data + at) + 1)
			found = found || fnmatch(node->text, names.data + at, 0) == 0;
	}
	buffer_finish(&names);
	return found;
}

static void print_entry(struct find *find, const struct walk_entry *entry, char end)
{
	if (find->json) {
		rows_add(&find->rows, entry->name, entry->name_len, entry->path, &entry->st);
		rows_flush(&find->rows);
		return;
	}
	if (end)
		print_name(entry->path, entry->path_len);
	else
		fwrite(entry->path, 1, entry->path_len, stdout);
	putchar(end);
}

static void print_long(struct find *find, const struct walk_entry *entry)
{
	if (find->json) {
		print_entry(find, entry, '\n');
		return;
	}
	rows_add(&find->rows, entry->path, entry->path_len, entry->path, &entry->st);
	rows_flush(&find->rows);
}

static bool act(struct find *find, const struct node *node, const struct walk_entry *entry)
{
	switch (node->kind) {
	case NODE_PRINT: print_entry(find, entry, '\n'); break;
	case NODE_PRINT0: print_entry(find, entry, '\0'); break;
	case NODE_LS: print_long(find, entry); break;
	case NODE_PRUNE: walk_skip(find->walk); break;
	case NODE_QUIT: find->quit = true; break;
	default: return false;
	}
	return true;
}

static bool evaluate(struct find *find, const struct node *node, const struct walk_entry *entry)
{
	const struct uext4_stat *st = &entry->st;

	switch (node->kind) {
	case NODE_AND:
		return evaluate(find, node->left, entry) && !find->quit &&
		       evaluate(find, node->right, entry);
	case NODE_OR:
		return evaluate(find, node->left, entry) || find->quit ||
		       evaluate(find, node->right, entry);
	case NODE_NOT: return !evaluate(find, node->left, entry);
	case NODE_TRUE: return true;
	case NODE_FALSE: return false;
	case NODE_NAME: return fnmatch(node->text, entry->name, 0) == 0;
	case NODE_INAME: return fnmatch(node->text, entry->name, FNM_CASEFOLD) == 0;
	case NODE_PATH: return fnmatch(node->text, entry->path, 0) == 0;
	case NODE_TYPE: return test_type(node, st->mode);
	case NODE_SIZE:
		return compare_number(node, st->size / node->unit + (st->size % node->unit != 0));
	case NODE_EMPTY: return test_empty(find, entry);
	case NODE_LINKS: return compare_number(node, st->nlink);
	case NODE_INUM: return compare_number(node, entry->ino);
	case NODE_UID: return compare_number(node, st->uid);
	case NODE_GID: return compare_number(node, st->gid);
	case NODE_PERM: return test_perm(node, st->mode);
	case NODE_XATTR: return test_xattr(find, node, entry);
	default: return act(find, node, entry);
	}
}

static void find_target(struct find *find, const struct target *target)
{
	const struct walk_entry *entry;

	find->rows.image = target->image;
	find->walk = walk_open(target->image, target->ino, target->path,
			       find->need_stat ? 0 : WALK_TYPE_ONLY);
	while (out_works() && !find->quit && (entry = walk_next(find->walk))) {
		struct walk_entry shown = *entry;

		progress_count(1, 0);
		progress_poll();
		if (entry->kind == WALK_LEAVE)
			continue;
		if (entry->depth >= find->depth_max)
			walk_skip(find->walk);
		if (entry->depth == 0) {
			shown.name = target_name(target);
			shown.name_len = strlen(shown.name);
		}
		if (entry->depth >= find->depth_min)
			evaluate(find, find->root, &shown);
	}
	walk_close(find->walk);
}

void command_find(const struct options *opts, int argc, char **argv)
{
	struct find find = {
		.command = argv[0],
		.depth_max = UINT32_MAX,
		.json = opts->json,
		.rows = { .json = opts->json, .flags = ROW_LONG | ROW_INO | ROW_BLOCKS },
	};
	int operands = 1;

	while (operands < argc && argv[operands][0] != '-' && strcmp(argv[operands], "(") != 0 &&
	       strcmp(argv[operands], "!") != 0)
		operands++;
	if (operands == 1)
		usage_error(argv[0], "no image given");
	find.args = argv + operands;
	parse_expression(&find);
	progress_start(opts->progress, "find", 0);
	for (int i = 1; i < operands && !find.quit; i++) {
		struct target target;

		if (target_open(opts, argv[i], TARGET_NOFOLLOW, &target) < 0)
			continue;
		find_target(&find, &target);
		target_finish(&target);
	}
	progress_finish();
	rows_finish(&find.rows);
	while (find.nodes) {
		struct node *node = find.nodes;

		find.nodes = node->next;
		free(node);
	}
}
