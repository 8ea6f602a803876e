/* SPDX-License-Identifier: MIT */
/*
 * The command line of `uext4 mount` and of the helper that mount(8) calls.
 *
 * One table knows every option: fuse2fs's, those of the kernel's ext4, those of libfuse, and what
 * fstab lines carry along.  What makes no difference here is accepted and has no effect; what
 * nobody here knows is refused by name.  Nothing is opened or changed.
 */
#include "mount_priv.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum option_id {
	OPT_IGNORED,	/* without effect */
	OPT_SESSION,	/* handed on to libfuse */
	OPT_CONNECTION, /* handed on to libfuse's connection options */
	OPT_RO,
	OPT_RW,
	OPT_DATA,
	OPT_COMMIT,
	OPT_BARRIER,
	OPT_NOBARRIER,
	OPT_DELALLOC,
	OPT_NODELALLOC,
	OPT_OFFSET,
	OPT_CACHE_SIZE,
	OPT_SUPERBLOCK,
	OPT_NORECOVERY,
	OPT_NOLOCK,
	OPT_FAKEROOT,
	OPT_KERNEL,
	OPT_ACL,
	OPT_NOACL,
	OPT_ERRORS,
	OPT_MINIXDF,
	OPT_BSDDF,
	OPT_LOCKFILE,
	OPT_JOURNAL_PATH,
	OPT_NO_DEFAULT_OPTS,
	OPT_ALLOW_OTHER,
	OPT_DEFAULT_PERMISSIONS,
	OPT_UID,
	OPT_GID,
	OPT_UMASK,
	OPT_DEBUG,
	OPT_MAX_THREADS,
	OPT_MAX_READ,
	OPT_MAX_READAHEAD,
};

enum { READAHEAD_BYTES_DEFAULT = 1 << 20 };

enum option_value { VALUE_NONE, VALUE_NEEDED, VALUE_EITHER };

struct option_rule {
	const char *name;
	enum option_id id;
	enum option_value value;
};

static const struct option_rule rules[] = {
	{ "ro", OPT_RO, VALUE_NONE },
	{ "rw", OPT_RW, VALUE_NONE },

	/* fuse2fs */
	{ "offset", OPT_OFFSET, VALUE_NEEDED },
	{ "cache_size", OPT_CACHE_SIZE, VALUE_NEEDED },
	{ "norecovery", OPT_NORECOVERY, VALUE_NONE },
	{ "noload", OPT_NORECOVERY, VALUE_NONE },
	{ "fakeroot", OPT_FAKEROOT, VALUE_NONE },
	{ "kernel", OPT_KERNEL, VALUE_NONE },
	{ "direct", OPT_IGNORED, VALUE_NONE },
	{ "acl", OPT_ACL, VALUE_NONE },
	{ "noacl", OPT_NOACL, VALUE_NONE },
	{ "errors", OPT_ERRORS, VALUE_NEEDED },
	{ "minixdf", OPT_MINIXDF, VALUE_NONE },
	{ "bsddf", OPT_BSDDF, VALUE_NONE },
	{ "lockfile", OPT_LOCKFILE, VALUE_NEEDED },
	{ "no_default_opts", OPT_NO_DEFAULT_OPTS, VALUE_NONE },
	{ "fuse2fs_debug", OPT_DEBUG, VALUE_NONE },

	/* Our own; sb is the kernel's name, but counts blocks of the file system, not KiB. */
	{ "sb", OPT_SUPERBLOCK, VALUE_NEEDED },
	{ "journal_path", OPT_JOURNAL_PATH, VALUE_NEEDED },
	{ "nolock", OPT_NOLOCK, VALUE_NONE },

	/* What attributes show */
	{ "uid", OPT_UID, VALUE_NEEDED },
	{ "gid", OPT_GID, VALUE_NEEDED },
	{ "umask", OPT_UMASK, VALUE_NEEDED },

	/* libfuse */
	{ "allow_other", OPT_ALLOW_OTHER, VALUE_NONE },
	{ "allow_root", OPT_ALLOW_OTHER, VALUE_NONE },
	{ "default_permissions", OPT_DEFAULT_PERMISSIONS, VALUE_NONE },
	{ "debug", OPT_DEBUG, VALUE_NONE },
	{ "clone_fd", OPT_IGNORED, VALUE_NONE },
	{ "max_threads", OPT_MAX_THREADS, VALUE_NEEDED },
	{ "max_idle_threads", OPT_IGNORED, VALUE_NEEDED },
	{ "auto_unmount", OPT_SESSION, VALUE_NONE },
	{ "fsname", OPT_SESSION, VALUE_NEEDED },
	{ "subtype", OPT_SESSION, VALUE_NEEDED },
	{ "max_read", OPT_MAX_READ, VALUE_NEEDED },
	{ "suid", OPT_SESSION, VALUE_NONE },
	{ "nosuid", OPT_SESSION, VALUE_NONE },
	{ "dev", OPT_SESSION, VALUE_NONE },
	{ "nodev", OPT_SESSION, VALUE_NONE },
	{ "exec", OPT_SESSION, VALUE_NONE },
	{ "noexec", OPT_SESSION, VALUE_NONE },
	{ "max_readahead", OPT_MAX_READAHEAD, VALUE_NEEDED },
	{ "max_background", OPT_CONNECTION, VALUE_NEEDED },
	{ "congestion_threshold", OPT_CONNECTION, VALUE_NEEDED },
	{ "readdirplus", OPT_CONNECTION, VALUE_NEEDED },
	{ "async_read", OPT_CONNECTION, VALUE_NONE },
	{ "sync_read", OPT_CONNECTION, VALUE_NONE },
	{ "async_dio", OPT_CONNECTION, VALUE_NONE },
	{ "no_async_dio", OPT_CONNECTION, VALUE_NONE },
	{ "max_write", OPT_IGNORED, VALUE_NEEDED },
	{ "attr_timeout", OPT_IGNORED, VALUE_NEEDED },
	{ "ac_attr_timeout", OPT_IGNORED, VALUE_NEEDED },
	{ "entry_timeout", OPT_IGNORED, VALUE_NEEDED },
	{ "negative_timeout", OPT_IGNORED, VALUE_NEEDED },
	{ "kernel_cache", OPT_IGNORED, VALUE_NONE },
	{ "auto_cache", OPT_IGNORED, VALUE_NONE },
	{ "big_writes", OPT_IGNORED, VALUE_NONE },
	{ "hard_remove", OPT_IGNORED, VALUE_NONE },
	{ "use_ino", OPT_IGNORED, VALUE_NONE },
	{ "readdir_ino", OPT_IGNORED, VALUE_NONE },
	{ "nonempty", OPT_IGNORED, VALUE_NONE },

	/* The kernel's ext4: how it writes */
	{ "data", OPT_DATA, VALUE_NEEDED },
	{ "data_err", OPT_IGNORED, VALUE_NEEDED },
	{ "commit", OPT_COMMIT, VALUE_NEEDED },
	{ "barrier", OPT_BARRIER, VALUE_EITHER },
	{ "nobarrier", OPT_NOBARRIER, VALUE_NONE },
	{ "discard", OPT_IGNORED, VALUE_NONE },
	{ "nodiscard", OPT_IGNORED, VALUE_NONE },
	{ "delalloc", OPT_DELALLOC, VALUE_NONE },
	{ "nodelalloc", OPT_NODELALLOC, VALUE_NONE },
	{ "auto_da_alloc", OPT_IGNORED, VALUE_EITHER },
	{ "noauto_da_alloc", OPT_IGNORED, VALUE_NONE },
	{ "journal_checksum", OPT_IGNORED, VALUE_NONE },
	{ "nojournal_checksum", OPT_IGNORED, VALUE_NONE },
	{ "journal_async_commit", OPT_IGNORED, VALUE_NONE },
	{ "journal_ioprio", OPT_IGNORED, VALUE_NEEDED },
	{ "min_batch_time", OPT_IGNORED, VALUE_NEEDED },
	{ "max_batch_time", OPT_IGNORED, VALUE_NEEDED },
	{ "stripe", OPT_IGNORED, VALUE_NEEDED },
	{ "inode_readahead_blks", OPT_IGNORED, VALUE_NEEDED },
	{ "init_itable", OPT_IGNORED, VALUE_EITHER },
	{ "noinit_itable", OPT_IGNORED, VALUE_NONE },
	{ "block_validity", OPT_IGNORED, VALUE_NONE },
	{ "noblock_validity", OPT_IGNORED, VALUE_NONE },
	{ "dioread_lock", OPT_IGNORED, VALUE_NONE },
	{ "dioread_nolock", OPT_IGNORED, VALUE_NONE },
	{ "i_version", OPT_IGNORED, VALUE_NONE },
	{ "user_xattr", OPT_IGNORED, VALUE_NONE },
	{ "grpid", OPT_IGNORED, VALUE_NONE },
	{ "nogrpid", OPT_IGNORED, VALUE_NONE },
	{ "bsdgroups", OPT_IGNORED, VALUE_NONE },
	{ "sysvgroups", OPT_IGNORED, VALUE_NONE },
	{ "resuid", OPT_IGNORED, VALUE_NEEDED },
	{ "resgid", OPT_IGNORED, VALUE_NEEDED },
	{ "quota", OPT_IGNORED, VALUE_NONE },
	{ "noquota", OPT_IGNORED, VALUE_NONE },
	{ "usrquota", OPT_IGNORED, VALUE_NONE },
	{ "grpquota", OPT_IGNORED, VALUE_NONE },
	{ "prjquota", OPT_IGNORED, VALUE_NONE },
	{ "usrjquota", OPT_IGNORED, VALUE_NEEDED },
	{ "grpjquota", OPT_IGNORED, VALUE_NEEDED },
	{ "jqfmt", OPT_IGNORED, VALUE_NEEDED },
	{ "max_dir_size_kb", OPT_IGNORED, VALUE_NEEDED },

	/* The kernel in general: access times are never written */
	{ "atime", OPT_IGNORED, VALUE_NONE },
	{ "noatime", OPT_IGNORED, VALUE_NONE },
	{ "diratime", OPT_IGNORED, VALUE_NONE },
	{ "nodiratime", OPT_IGNORED, VALUE_NONE },
	{ "relatime", OPT_IGNORED, VALUE_NONE },
	{ "norelatime", OPT_IGNORED, VALUE_NONE },
	{ "strictatime", OPT_IGNORED, VALUE_NONE },
	{ "nostrictatime", OPT_IGNORED, VALUE_NONE },
	{ "lazytime", OPT_IGNORED, VALUE_NONE },
	{ "nolazytime", OPT_IGNORED, VALUE_NONE },
	{ "sync", OPT_IGNORED, VALUE_NONE },
	{ "async", OPT_IGNORED, VALUE_NONE },
	{ "dirsync", OPT_IGNORED, VALUE_NONE },
	{ "silent", OPT_IGNORED, VALUE_NONE },
	{ "loud", OPT_IGNORED, VALUE_NONE },

	/* fstab */
	{ "defaults", OPT_IGNORED, VALUE_NONE },
	{ "auto", OPT_IGNORED, VALUE_NONE },
	{ "noauto", OPT_IGNORED, VALUE_NONE },
	{ "nofail", OPT_IGNORED, VALUE_NONE },
	{ "user", OPT_IGNORED, VALUE_EITHER },
	{ "users", OPT_IGNORED, VALUE_NONE },
	{ "nouser", OPT_IGNORED, VALUE_NONE },
	{ "owner", OPT_IGNORED, VALUE_NONE },
	{ "group", OPT_IGNORED, VALUE_NONE },
	{ "_netdev", OPT_IGNORED, VALUE_NONE },
	{ "comment", OPT_IGNORED, VALUE_NEEDED },
	{ "helper", OPT_IGNORED, VALUE_NEEDED },
	{ "uhelper", OPT_IGNORED, VALUE_NEEDED },
	{ "loop", OPT_IGNORED, VALUE_EITHER },
};

static int __attribute__((format(printf, 1, 2))) usage_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("uext4: mount: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	return -EINVAL;
}

static int out_of_memory(void)
{
	fputs("uext4: mount: out of memory\n", stderr);
	return -ENOMEM;
}

/* A number up to @max in @base; with @base 10 it may end in K, M, G or T. */
static int parse_number(const char *name, const char *text, int base, uint64_t max,
			uint64_t *ret_number)
{
	static const char units[] = "KMGT";
	const char *unit;
	unsigned long long number;
	unsigned shift = 0;
	char *end;

	errno = 0;
	number = strtoull(text, &end, base);
	if (end == text || text[0] == '-' || text[0] == '+' || text[0] == ' ')
		return usage_error("option %s: '%s' is not a number", name, text);
	if (base == 10 && *end != '\0') {
		unit = strchr(units, *end >= 'a' ? *end - ('a' - 'A') : *end);
		if (unit) {
			shift = 10 * (unsigned)(unit - units + 1);
			end++;
		}
	}
	if (*end != '\0')
		return usage_error("option %s: '%s' is not a number", name, text);
	if (errno == ERANGE || number > max >> shift)
		return usage_error("option %s: %s is too large", name, text);
	*ret_number = (uint64_t)number << shift;
	return 0;
}

/* Adds "-o @option" to @args, the value as it was meant: a comma in it separates nothing. */
static int add_option(struct fuse_args *args, const char *option)
{
	char *list = NULL;
	int err;

	err = fuse_opt_add_opt_escaped(&list, option);
	if (!err)
		err = fuse_opt_add_arg(args, "-o");
	if (!err)
		err = fuse_opt_add_arg(args, list);
	free(list);
	return err ? out_of_memory() : 0;
}

static int set_errors(struct mount_options *options, const char *value)
{
	static const char *const names[] = { "", "continue", "remount-ro", "panic" };

	for (uint32_t i = UEXT4_ERRORS_CONTINUE; i <= UEXT4_ERRORS_PANIC; i++) {
		if (strcmp(value, names[i]) != 0)
			continue;
		options->open.errors = i;
		options->errors_panic = i == UEXT4_ERRORS_PANIC;
		return 0;
	}
	return usage_error("option errors: '%s' is not continue, remount-ro or panic", value);
}

static int set_data(struct mount_options *options, const char *value)
{
	static const char *const names[] = { "ordered", "journal", "writeback" };

	for (uint32_t i = UEXT4_DATA_ORDERED; i <= UEXT4_DATA_WRITEBACK; i++) {
		if (strcmp(value, names[i]) != 0)
			continue;
		options->open.data_mode = i;
		return 0;
	}
	return usage_error("option data: '%s' is not ordered, journal or writeback", value);
}

static void set_flag(struct mount_options *options, uint32_t flag, bool on)
{
	options->open.flags = on ? options->open.flags | flag : options->open.flags & ~flag;
}

static int set_lockfile(struct mount_options *options, const char *value)
{
	free(options->lockfile);
	options->lockfile = strdup(value);
	return options->lockfile ? 0 : out_of_memory();
}

/* As an absolute path: the server works in "/". */
static int set_journal_path(struct mount_options *options, const char *value)
{
	free(options->journal_path);
	options->journal_path = realpath(value, NULL);
	options->open.journal_path = options->journal_path;
	if (!options->journal_path)
		return usage_error("option journal_path: %s: %s", value, strerror(errno));
	return 0;
}

/* The options whose value is a number. */
static int set_number(struct mount_options *options, const struct option_rule *rule,
		      const char *value)
{
	uint64_t number = 0;
	uint64_t max = UINT32_MAX - 1;
	int base = 10;
	int err;

	if (rule->id == OPT_OFFSET || rule->id == OPT_CACHE_SIZE || rule->id == OPT_SUPERBLOCK)
		max = INT64_MAX;
	if (rule->id == OPT_MAX_THREADS)
		max = 1024;
	if (rule->id == OPT_COMMIT)
		max = 86400;
	if (rule->id == OPT_UMASK) {
		max = 07777;
		base = 8;
	}
	err = parse_number(rule->name, value, base, max, &number);
	if (err < 0)
		return err;

	switch (rule->id) {
	case OPT_OFFSET: options->open.offset = number; break;
	case OPT_CACHE_SIZE: options->open.cache_bytes = number; break;
	case OPT_SUPERBLOCK: options->open.superblock = number; break;
	case OPT_UID:
		options->has_uid = true;
		options->uid = (uid_t)number;
		break;
	case OPT_GID:
		options->has_gid = true;
		options->gid = (gid_t)number;
		break;
	case OPT_UMASK:
		options->has_umask = true;
		options->umask = (mode_t)number;
		break;
	case OPT_COMMIT: options->open.commit_ms = (uint32_t)number * 1000; break;
	case OPT_MAX_READ: options->read_bytes_max = (unsigned)number; break;
	case OPT_MAX_READAHEAD: options->readahead_bytes = (unsigned)number; break;
	default: options->threads_max = (unsigned)number; break;
	}
	return 0;
}

/* @option is the whole "name=value", @value what follows the '=' or NULL. */
static int apply_option(struct mount_options *options, const struct option_rule *rule,
			const char *option, const char *value)
{
	int err;

	switch (rule->id) {
	case OPT_IGNORED: return 0;
	case OPT_SESSION: return add_option(&options->session_args, option);
	case OPT_CONNECTION: return add_option(&options->conn_args, option);
	case OPT_RO:
		options->read_only = true;
		options->read_write = false;
		return 0;
	case OPT_RW:
		options->read_only = false;
		/* mount(8) says rw to a helper whenever the user has said nothing. */
		options->read_write = !options->is_helper;
		return 0;
	case OPT_DATA: return set_data(options, value);
	case OPT_BARRIER:
		set_flag(options, UEXT4_OPEN_NOBARRIER, value && !strcmp(value, "0"));
		return 0;
	case OPT_NOBARRIER: set_flag(options, UEXT4_OPEN_NOBARRIER, true); return 0;
	case OPT_DELALLOC: set_flag(options, UEXT4_OPEN_NODELALLOC, false); return 0;
	case OPT_NODELALLOC: set_flag(options, UEXT4_OPEN_NODELALLOC, true); return 0;
	case OPT_NORECOVERY: options->open.flags |= UEXT4_OPEN_NORECOVERY; return 0;
	case OPT_NOLOCK: options->open.flags |= UEXT4_OPEN_NOLOCK; return 0;
	case OPT_FAKEROOT: options->fakeroot = true; return 0;
	case OPT_KERNEL:
		options->allow_other = true;
		options->default_permissions = true;
		options->suid_dev = true;
		options->acl = MOUNT_ACL_ON;
		return add_option(&options->session_args, "allow_other");
	case OPT_ACL: options->acl = MOUNT_ACL_ON; return 0;
	case OPT_NOACL: options->acl = MOUNT_ACL_OFF; return 0;
	case OPT_ERRORS: return set_errors(options, value);
	case OPT_MINIXDF: options->statfs_flags |= UEXT4_STATFS_MINIXDF; return 0;
	case OPT_BSDDF: options->statfs_flags &= ~(uint32_t)UEXT4_STATFS_MINIXDF; return 0;
	case OPT_LOCKFILE: return set_lockfile(options, value);
	case OPT_JOURNAL_PATH: return set_journal_path(options, value);
	case OPT_NO_DEFAULT_OPTS: options->no_default_opts = true; return 0;
	case OPT_ALLOW_OTHER:
		options->allow_other = true;
		return add_option(&options->session_args, option);
	case OPT_DEFAULT_PERMISSIONS: options->default_permissions = true; return 0;
	case OPT_DEBUG: options->debug = true; return 0;
	case OPT_OFFSET:
	case OPT_CACHE_SIZE:
	case OPT_SUPERBLOCK:
	case OPT_UID:
	case OPT_GID:
	case OPT_UMASK:
	case OPT_COMMIT:
	case OPT_MAX_THREADS:
	case OPT_MAX_READAHEAD: return set_number(options, rule, value);
	case OPT_MAX_READ:
		/* libfuse wants to hear it twice: here, and when the connection is set up. */
		err = add_option(&options->session_args, option);
		return err < 0 ? err : set_number(options, rule, value);
	}
	return usage_error("unknown option '%s'", option);
}

static const struct option_rule *find_rule(const char *name, size_t name_len)
{
	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		if (strlen(rules[i].name) == name_len && !memcmp(rules[i].name, name, name_len))
			return &rules[i];
	}
	return NULL;
}

static int parse_option(struct mount_options *options, const char *option, bool is_sloppy)
{
	const struct option_rule *rule;
	const char *equals = strchr(option, '=');
	size_t name_len = equals ? (size_t)(equals - option) : strlen(option);

	/* x-* belongs to whoever wrote the fstab line. */
	if (name_len == 0 || !strncmp(option, "x-", 2) || !strncmp(option, "X-", 2))
		return 0;

	rule = find_rule(option, name_len);
	if (!rule && is_sloppy)
		return 0;
	if (!rule)
		return usage_error("unknown option '%s'", option);
	if (!equals && rule->value == VALUE_NEEDED)
		return usage_error("option %s needs a value", rule->name);
	if (equals && rule->value == VALUE_NONE)
		return usage_error("option %s takes no value", rule->name);
	return apply_option(options, rule, option, equals ? equals + 1 : NULL);
}

/* "a,b=c" in place; a backslash before a comma keeps it. */
static int parse_list(struct mount_options *options, const char *list, bool is_sloppy)
{
	char *option = malloc(strlen(list) + 1);
	size_t len = 0;
	int err = 0;

	if (!option)
		return out_of_memory();
	for (const char *at = list; !err; at++) {
		if (*at == '\\' && at[1] != '\0') {
			option[len++] = *++at;
			continue;
		}
		if (*at != ',' && *at != '\0') {
			option[len++] = *at;
			continue;
		}
		option[len] = '\0';
		err = parse_option(options, option, is_sloppy);
		len = 0;
		if (*at == '\0')
			break;
	}
	free(option);
	return err;
}

/* Applies what one option says about others; the order on the command line does not matter. */
static int settle(struct mount_options *options)
{
	bool suid_dev = options->suid_dev && !options->fakeroot;
	int err = 0;

	if (!options->image || !options->dir)
		return usage_error("an image and a directory are needed");
	if (options->read_write &&
	    ((options->open.flags & (UEXT4_OPEN_NORECOVERY | UEXT4_OPEN_NOLOCK)) ||
	     options->open.superblock))
		return usage_error("option rw excludes norecovery, nolock and sb");
	if (options->debug)
		options->foreground = true;
	/* The last word: whatever suid and dev were asked for, a fake root gets neither. */
	if (suid_dev || options->fakeroot)
		err = add_option(&options->session_args, suid_dev ? "suid" : "nosuid");
	if (!err && (suid_dev || options->fakeroot))
		err = add_option(&options->session_args, suid_dev ? "dev" : "nodev");
	return err;
}

static int parse_long_option(struct mount_options *options, int argc, char **argv, int *index)
{
	const char *arg = argv[*index];
	static const struct option_rule offset = { "--offset", OPT_OFFSET, VALUE_NEEDED };

	if (!strcmp(arg, "--help")) {
		options->action = MOUNT_HELP;
		return 0;
	}
	if (!strcmp(arg, "--version")) {
		options->action = MOUNT_VERSION;
		return 0;
	}
	if (!strncmp(arg, "--offset=", 9))
		return set_number(options, &offset, arg + 9);
	if (!strcmp(arg, "--offset") && *index + 1 < argc)
		return set_number(options, &offset, argv[++*index]);
	return usage_error("unknown option '%s'", arg);
}

/* The letters of "-fd"; returns 0, or an error, after using up the value of -o. */
static int parse_letters(struct mount_options *options, int argc, char **argv, int *index,
			 bool *is_sloppy)
{
	const char *value;

	for (const char *letter = argv[*index] + 1; *letter; letter++) {
		switch (*letter) {
		case 'f':
			if (options->is_helper)
				options->action = MOUNT_FAKE;
			else
				options->foreground = true;
			break;
		case 's':
			if (options->is_helper)
				*is_sloppy = true;
			else
				options->single_thread = true;
			break;
		case 'd': options->debug = true; break;
		case 'h': options->action = MOUNT_HELP; break;
		case 'V': options->action = MOUNT_VERSION; break;
		case 'n':
		case 'v':
			if (!options->is_helper)
				return usage_error("unknown option '-%c'", *letter);
			break;
		case 'o':
		case 't':
			if (*letter == 't' && !options->is_helper)
				return usage_error("unknown option '-t'");
			value = letter[1] ? letter + 1 : NULL;
			if (!value && *index + 1 >= argc)
				return usage_error("option -%c needs a value", *letter);
			if (!value)
				value = argv[++*index];
			return *letter == 'o' ? parse_list(options, value, *is_sloppy) : 0;
		default: return usage_error("unknown option '-%c'", *letter);
		}
	}
	return 0;
}

static bool is_helper_name(const char *argv0)
{
	const char *slash = strrchr(argv0, '/');

	return !strncmp(slash ? slash + 1 : argv0, "mount.", 6);
}

int mount_options_parse(struct mount_options *options, int argc, char **argv)
{
	bool is_sloppy = false;
	bool only_paths = false;
	int err = 0;

	memset(options, 0, sizeof(*options));
	options->open.size = sizeof(options->open);
	options->readahead_bytes = READAHEAD_BYTES_DEFAULT;
	options->is_helper = is_helper_name(argv[0]);
	if (fuse_opt_add_arg(&options->session_args, "uext4") ||
	    fuse_opt_add_arg(&options->conn_args, "uext4"))
		return out_of_memory();

	for (int i = 1; i < argc && !err; i++) {
		if (!only_paths && !strcmp(argv[i], "--"))
			only_paths = true;
		else if (!only_paths && !strncmp(argv[i], "--", 2))
			err = parse_long_option(options, argc, argv, &i);
		else if (!only_paths && argv[i][0] == '-' && argv[i][1])
			err = parse_letters(options, argc, argv, &i, &is_sloppy);
		else if (!options->image)
			options->image = argv[i];
		else if (!options->dir)
			options->dir = argv[i];
		else
			err = usage_error("unexpected argument '%s'", argv[i]);
	}
	if (err || options->action == MOUNT_HELP || options->action == MOUNT_VERSION)
		return err;
	return settle(options);
}

void mount_options_finish(struct mount_options *options)
{
	free(options->journal_path);
	free(options->lockfile);
	fuse_opt_free_args(&options->session_args);
	fuse_opt_free_args(&options->conn_args);
}
