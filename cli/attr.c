/* SPDX-License-Identifier: MIT */
/*
 * `xattr list`, `get`, `set` and `rm`.
 */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "image.h"
#include "out.h"

static void json_attribute(const struct target *target, const char *name,
			   const struct buffer *value)
{
	json_t *o = json_object();

	json_set_bytes(o, "path", target->path, strlen(target->path));
	json_set_bytes(o, "name", name, strlen(name));
	json_set_integer(o, "size", value->len);
	json_set_base64(o, "value_b64", value->data, value->len);
	json_print(o);
}

/*
 * @heading, if not NULL, tells as getfattr does whose names follow.  Returns whether there are any.
 */
static bool list_attributes(const struct options *opts, const struct target *target,
			    const char *heading)
{
	struct buffer names = { 0 }, value = { 0 };
	bool any;

	if (image_xattr_names(target->image, target->ino, target->path, &names) < 0)
		names.len = 0;
	any = names.len > 0;
	if (any && heading) {
		printf("%s", heading);
		print_name(target->path, strlen(target->path));
		printf("\n");
	}
	for (size_t at = 0; at < names.len; at += strlen(names.data + at) + 1) {
		const char *name = names.data + at;

		if (!opts->json) {
			print_name(name, strlen(name));
			printf("\n");
		} else if (image_xattr_value(target->image, target->ino, target->path, name,
					     &value) == 0) {
			json_attribute(target, name, &value);
		}
	}
	buffer_finish(&names);
	buffer_finish(&value);
	return any;
}

static void get_attribute(const struct options *opts, const struct target *target, const char *name)
{
	struct buffer value = { 0 };

	if (image_xattr_value(target->image, target->ino, target->path, name, &value) == 0) {
		if (opts->json)
			json_attribute(target, name, &value);
		else
			fwrite(value.data, 1, value.len, stdout);
	}
	buffer_finish(&value);
}

/* xattr set [-h] NAME VALUE FILE..., xattr rm [-h] NAME FILE... */
static void change_attributes(const struct options *opts, int argc, char **argv, const char *verb)
{
	enum target_follow follow = TARGET_FOLLOW;
	bool set = strcmp(verb, "set") == 0;
	const char *name = NULL, *value = NULL;
	int c;

	argv[1] = argv[0];
	argc--;
	argv++;
	while ((c = command_option(argc, argv, set ? ":hn:v:" : ":hn:", NULL)) != -1) {
		switch (c) {
		case 'h': follow = TARGET_NOFOLLOW; break;
		case 'n': name = optarg; break;
		case 'v': value = optarg; break;
		}
	}
	if (!name && optind < argc)
		name = argv[optind++];
	if (set && !value && optind < argc)
		value = argv[optind++];
	if (optind == argc)
		usage_error(argv[0], "an attribute%s and a file are needed",
			    set ? ", a value" : "");
	for (int i = optind; i < argc; i++) {
		struct target target;
		int err;

		if (target_open_for(opts, argv[i], follow, IMAGE_WRITE, &target) < 0)
			continue;
		err = set ? uext4_xattr_set(target.image->fs, target.ino, name, value,
					    strlen(value), 0)
			  : uext4_xattr_remove(target.image->fs, target.ino, name);
		if (err < 0)
			complain_attribute(target_place(&target), name, err);
		target_finish(&target);
	}
}

void command_xattr(const struct options *opts, int argc, char **argv)
{
	enum target_follow follow = TARGET_FOLLOW;
	const char *verb = argc > 1 ? argv[1] : "";
	const char *name = NULL;
	const char *heading = NULL;
	bool get;
	int c;

	if (strcmp(verb, "set") == 0 || strcmp(verb, "rm") == 0) {
		change_attributes(opts, argc, argv, verb);
		return;
	}
	get = strcmp(verb, "get") == 0;
	if (!get && strcmp(verb, "list") != 0)
		usage_error(argv[0], "'list', 'get', 'set' or 'rm' comes first");
	argv[1] = argv[0];
	argc--;
	argv++;
	while ((c = command_option(argc, argv, get ? ":hn:" : ":h", NULL)) != -1) {
		if (c == 'h')
			follow = TARGET_NOFOLLOW;
		else
			name = optarg;
	}
	if (get && !name && optind < argc)
		name = argv[optind++];
	if (optind == argc)
		usage_error(argv[0], get ? "an attribute and a file are needed" : "no file given");
	if (get && optind + 1 < argc)
		usage_error(argv[0], "one attribute of one file at a time");
	if (!opts->json && optind + 1 < argc)
		heading = "# file: ";
	for (int i = optind; i < argc; i++) {
		struct target target;

		if (target_open(opts, argv[i], follow, &target) < 0)
			continue;
		if (get)
			get_attribute(opts, &target, name);
		else if (list_attributes(opts, &target, heading) && heading)
			heading = "\n# file: ";
		target_finish(&target);
	}
}
