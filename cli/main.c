/* SPDX-License-Identifier: MIT */
/*
 * The `uext4` program: one table of commands, and the options all of them share.
 *
 * Shared options may stand before and behind the command's name.  The commands themselves are in
 * the files beside this one; `mount` is in fuse/.
 *
 * C1  The exit status is 0 only if nothing failed, standard output included.
 */
#include "cli.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uext4.h>

#include "../fuse/mount.h"
#include "image.h"
#include "out.h"

struct command {
	const char *name;
	void (*run)(const struct options *opts, int argc, char **argv);
	const char *summary;
	const char *usage; /* this and help are NULL for mount, which has its own */
	const char *help;
	bool own_o; /* -o behind the command's name is its own, not `-o norecovery` */
};

static const struct command commands[] = {
	{ "info", command_info, "superblock, features, journal state, usage", "IMAGE...",
	  "Shows what an image is: its label, features and size, the state of its journal and\n"
	  "what was replayed from it (in memory only), and how full it is.\n",
	  false },
	{ "ls", command_ls, "list directories", "[-1AFRadhiln] IMAGE[:/path]...",
	  "  -l  long listing: mode, links, owner, group, size, time (owners always as numbers:\n"
	  "      an image has its own passwd)\n"
	  "  -n  the same as -l\n"
	  "  -a  do not hide names that start with '.'\n"
	  "  -A  like -a, without . and ..\n"
	  "  -R  directories below, too\n"
	  "  -d  directories themselves, not what is in them\n"
	  "  -i  inode numbers\n"
	  "  -h  sizes in powers of 1024 (1.5K, 3M)\n"
	  "  -F  append / to directories, @ to symlinks, * to programs, | to fifos, = to sockets\n"
	  "  -1  one name a line (always so)\n",
	  false },
	{ "stat", command_stat, "all attributes of a file", "[-L] IMAGE[:/path]...",
	  "  -L  follow a symlink to its target\n", false },
	{ "cat", command_cat, "contents of files", "IMAGE:/path...",
	  "Writes the files' contents to standard output, one after the other.\n", false },
	{ "find", command_find, "search a directory tree", "IMAGE[:/path]... [EXPRESSION]",
	  "Tests:   -name GLOB  -iname GLOB  -path GLOB  -type [fdlbcps],...  -size [+-]N[bckMGT]\n"
	  "         -empty  -links [+-]N  -inum [+-]N  -uid [+-]N  -gid [+-]N  -perm [-/]OCTAL\n"
	  "         -xattr GLOB  -true  -false\n"
	  "Options: -maxdepth N  -mindepth N\n"
	  "Actions: -print  -print0  -ls  -prune  -quit\n"
	  "Joined by: ( EXPR )  ! EXPR  EXPR [-a] EXPR  EXPR -o EXPR\n"
	  "Without an action, what matches is printed.  Paths are those inside the image.\n",
	  true },
	{ "du", command_du, "space used below directories", "[-abhs] [-d N] IMAGE[:/path]...",
	  "  -s    only the sum for each operand\n"
	  "  -a    files too, not only directories\n"
	  "  -d N  print directories at most N levels below an operand\n"
	  "  -b    apparent sizes, in bytes\n"
	  "  -h    sizes in powers of 1024\n",
	  false },
	{ "df", command_df, "free space", "[-hi] IMAGE...",
	  "  -h  sizes in powers of 1024\n"
	  "  -i  inodes instead of blocks\n",
	  false },
	{ "cp", command_cp, "copy out of an image, or into one", "[-ar] SRC... DST",
	  "SRC or DST or both are IMAGE:/path.  Holes and hard links are kept.  Nothing is\n"
	  "written outside of DST, whatever names and symlinks there are; existing files below\n"
	  "DST are replaced, symlinks there are not followed.\n"
	  "  -r  directories with all that is in them, device nodes, fifos, sockets and symlinks\n"
	  "  -a  like -r, and keep owners, modes, times, extended attributes and ACLs\n"
	  "      (not being root: owners and privileged attributes as far as the system allows)\n",
	  false },
	{ "xattr", command_xattr, "extended attributes",
	  "list [-h] IMAGE[:/path]...\n"
	  "       uext4 xattr get [-h] [-n NAME | NAME] IMAGE[:/path]\n"
	  "       uext4 xattr set [-h] NAME VALUE IMAGE:/path...\n"
	  "       uext4 xattr rm [-h] NAME IMAGE:/path...",
	  "  list  names, one a line; with --json names and values\n"
	  "  get   the value of attribute NAME, as it is; with --json as base64\n"
	  "  set   to VALUE; also -n NAME -v VALUE\n"
	  "  rm    removes it\n"
	  "  -h    a symlink's own attributes\n",
	  false },
	{ "export", command_export, "a directory tree as a tar archive",
	  "[-o FILE] [--compress=FILTER] IMAGE[:/path]",
	  "Writes a pax archive with holes, hard links, extended attributes, ACLs, file flags and\n"
	  "times to the nanosecond.  Names are sorted: the same tree gives the same archive.\n"
	  "  -o FILE            to FILE instead of standard output\n"
	  "  --compress=FILTER  gzip, bzip2, xz, zstd, lz4, ... (what libarchive offers)\n",
	  true },
	{ "check", command_check, "verify the structure of images", "[--max-problems=N] IMAGE...",
	  "Verifies all of an image without changing it, as `e2fsck -fn` does, and prints what is\n"
	  "wrong, a line each.  A pending journal is replayed in memory first.\n"
	  "  --max-problems=N  print so many at most (1000)\n"
	  "Exit status, as fsck(8): 0 clean, 4 problems, 8 it could not be checked, 16 usage.\n",
	  false },
	{ "mkdir", command_mkdir, "make directories", "[-p] [-m MODE] IMAGE:/path...",
	  "  -p       with those on the way; one that is there is no failure\n"
	  "  -m MODE  octal or as in u=rwx,go=rx\n",
	  false },
	{ "rmdir", command_rmdir, "remove empty directories", "IMAGE:/path...", "", false },
	{ "rm", command_rm, "remove files", "[-rf] IMAGE:/path...",
	  "  -r  directories with all that is in them\n"
	  "  -f  what is not there is no failure\n",
	  false },
	{ "mv", command_mv, "rename files", "[-fn] [--exchange] IMAGE:/path... IMAGE:/path",
	  "Inside one image, in one transaction.\n"
	  "  -n          replace nothing\n"
	  "  --exchange  the two change places\n",
	  false },
	{ "ln", command_ln, "make links",
	  "[-f] IMAGE:/path... IMAGE:/path\n"
	  "       uext4 ln -s [-f] TEXT... IMAGE:/path",
	  "  -s  symlinks that hold TEXT\n"
	  "  -f  replace what is there\n",
	  false },
	{ "chmod", command_chmod, "change permissions", "[-R] MODE IMAGE:/path...",
	  "MODE is octal, or as in u+rw,go-w.\n", false },
	{ "chown", command_chown, "change owners", "[-Rh] UID[:GID] | :GID IMAGE:/path...",
	  "Numbers: an image has its own passwd.\n"
	  "  -h  a symlink's own owner\n",
	  false },
	{ "touch", command_touch, "change times, make empty files",
	  "[-acm] [-d TIME] IMAGE:/path...",
	  "  -a, -m   only the time of access, only that of change\n"
	  "  -c       make no files\n"
	  "  -d TIME  @SECONDS, or 'YYYY-MM-DD HH:MM:SS'\n",
	  false },
	{ "truncate", command_truncate, "change sizes", "[-c] -s [+-]SIZE IMAGE:/path...",
	  "  -s SIZE  bytes (K, M, G, T allowed); + and - relative to the size now\n"
	  "  -c       make no files\n",
	  false },
	{ "mknod", command_mknod, "make device nodes, fifos and sockets",
	  "[-m MODE] IMAGE:/path {b|c|p|s} [MAJOR MINOR]", "", false },
	{ "replay", command_replay, "write a pending journal into the image", "IMAGE...",
	  "Also finishes files that were deleted or truncated when the system went down.\n",
	  false },
	{ "mount", NULL, "show an image as a directory (FUSE)", NULL, NULL, true },
};

/* What later versions do.  Named, so that nobody mistakes "not yet" for a typing error. */
static const char *const not_yet[] = {
	"build", "diff", "edit", "import", "mkfs",
};

static const char global_help[] =
	"Options, before or behind the command:\n"
	"  --offset BYTES       the file system starts there in IMAGE\n"
	"  --partition N        use partition N of the disk IMAGE\n"
	"  --superblock N       use the backup superblock in block N\n"
	"  --journal PATH       the external journal of a dirty image\n"
	"  --norecovery         show the image as it lies, without its pending journal\n"
	"                       (also -o norecovery)\n"
	"  --cache-size BYTES   memory for cached data (K, M, G allowed; 32M)\n"
	"  --no-lock            read an image although somebody else may be changing it\n"
	"  --json               one JSON object a line instead of text\n"
	"  --progress=WHEN      auto, bar, json or none; SIGUSR1 prints the progress of long work\n"
	"  --help, --version\n";

static const char exit_help[] =
	"Exit status: 0 ok, 1 failed, 2 usage, 3 unsupported feature, 4 image busy,\n"
	"5 image corrupt, 6 journal pending and not replayable.\n";

enum { FSCK_USAGE = 16 }; /* of fsck(8), which `check` follows */
enum { COMMANDS_COUNT = sizeof(commands) / sizeof(commands[0]) };

/* ---- help ----------------------------------------------------------------------------------- */

static void print_help(void)
{
	printf("Usage: uext4 [OPTION]... COMMAND [ARGUMENT]...\n"
	       "Reads and changes ext2, ext3 and ext4 images and devices.\n\n"
	       "Commands:\n");
	for (size_t i = 0; i < COMMANDS_COUNT; i++)
		printf("  %-8s %s\n", commands[i].name, commands[i].summary);
	printf("\nIMAGE is a file, a block device or /proc/self/fd/N, IMAGE:/path a file in it.\n"
	       "`uext4 COMMAND --help` tells more.\n\n%s\n%s",
	       global_help, exit_help);
}

static void print_command_help(const struct command *command)
{
	char mount[] = "mount", help[] = "--help";
	char *args[] = { mount, help, NULL };

	if (command->run)
		printf("Usage: uext4 %s %s\n%c%s.\n\n%s", command->name, command->usage,
		       command->summary[0] - 'a' + 'A', command->summary + 1, command->help);
	else
		uext4_mount_main(2, args);
	printf("\n%s", global_help);
}

/* ---- options -------------------------------------------------------------------------------- */

int command_option(int argc, char **argv, const char *letters, const struct option *names)
{
	static const struct option none[] = { { 0 } };
	int c;

	opterr = 0;
	c = getopt_long(argc, argv, letters, names ? names : none, NULL);
	if (c == ':')
		usage_error(argv[0], "option '%s' needs a value", argv[optind - 1]);
	if (c == '?' && optopt && strchr(letters, optopt) == NULL && optopt < 256)
		usage_error(argv[0], "unknown option '-%c'", optopt);
	if (c == '?')
		usage_error(argv[0], "unknown or wrongly used option '%s'", argv[optind - 1]);
	return c;
}

uint64_t option_number(const char *command, const char *option, const char *text,
		       enum number_form form)
{
	static const char suffixes[] = "KMGT";
	const char *suffix;
	uint64_t value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (*text < '0' || *text > '9' || errno != 0)
		usage_error(command, "%s: '%s' is no number", option, text);
	if (form == NUMBER_BYTES && *end && (suffix = strchr(suffixes, *end & ~0x20)) != NULL) {
		unsigned shift = (unsigned)(suffix - suffixes + 1) * 10;

		if (value > UINT64_MAX >> shift)
			usage_error(command, "%s: '%s' is too large", option, text);
		value <<= shift;
		end++;
		if (strcmp(end, "iB") == 0)
			end += 2;
	}
	if (*end)
		usage_error(command, "%s: '%s' is no number", option, text);
	return value;
}

static enum progress_mode progress_of(const char *text)
{
	static const char *const words[] = { "auto", "bar", "json", "none" };

	for (int i = 0; i < 4; i++) {
		if (strcmp(text, words[i]) == 0)
			return (enum progress_mode)i;
	}
	usage_error(NULL, "--progress: '%s' is none of auto, bar, json, none", text);
}

enum shared_option {
	SHARED_OFFSET,
	SHARED_PARTITION,
	SHARED_SUPERBLOCK,
	SHARED_JOURNAL,
	SHARED_CACHE_SIZE,
	SHARED_PROGRESS,
	SHARED_NORECOVERY,
	SHARED_NO_LOCK,
	SHARED_JSON,
};

static const struct {
	const char *name;
	enum shared_option id;
	bool has_value;
} shared[] = {
	{ "--offset", SHARED_OFFSET, true },	     { "--partition", SHARED_PARTITION, true },
	{ "--superblock", SHARED_SUPERBLOCK, true }, { "--cache-size", SHARED_CACHE_SIZE, true },
	{ "--progress", SHARED_PROGRESS, true },     { "--norecovery", SHARED_NORECOVERY, false },
	{ "--no-lock", SHARED_NO_LOCK, false },	     { "--json", SHARED_JSON, false },
	{ "--journal", SHARED_JOURNAL, true },
};

static void set_shared(struct options *opts, enum shared_option id, const char *name,
		       const char *value)
{
	uint64_t number;

	switch (id) {
	case SHARED_OFFSET: opts->offset = option_number(NULL, name, value, NUMBER_BYTES); break;
	case SHARED_PARTITION:
		number = option_number(NULL, name, value, NUMBER_PLAIN);
		if (number < 1 || number > 65536)
			usage_error(NULL, "%s: partitions are counted from 1", name);
		opts->partition = (unsigned)number;
		break;
	case SHARED_SUPERBLOCK:
		opts->superblock = option_number(NULL, name, value, NUMBER_PLAIN);
		break;
	case SHARED_CACHE_SIZE:
		opts->cache_bytes = option_number(NULL, name, value, NUMBER_BYTES);
		break;
	case SHARED_PROGRESS: opts->progress = progress_of(value); break;
	case SHARED_NORECOVERY: opts->norecovery = true; break;
	case SHARED_JOURNAL: opts->journal = value; break;
	case SHARED_NO_LOCK: opts->no_lock = true; break;
	case SHARED_JSON: opts->json = true; break;
	}
}

/*
 * Takes a shared option from the head of @args (@left of them).  Returns how many it has used up, 0
 * if there is none.
 */
static int take_shared(struct options *opts, char **args, int left, bool own_o)
{
	for (size_t i = 0; i < sizeof(shared) / sizeof(shared[0]); i++) {
		size_t len = strlen(shared[i].name);

		if (strncmp(args[0], shared[i].name, len) != 0)
			continue;
		if (args[0][len] == '\0' && !shared[i].has_value) {
			set_shared(opts, shared[i].id, shared[i].name, NULL);
			return 1;
		}
		if (args[0][len] == '=' && shared[i].has_value) {
			set_shared(opts, shared[i].id, shared[i].name, args[0] + len + 1);
			return 1;
		}
		if (args[0][len] == '\0' && left < 2)
			usage_error(NULL, "option '%s' needs a value", args[0]);
		if (args[0][len] == '\0') {
			set_shared(opts, shared[i].id, shared[i].name, args[1]);
			return 2;
		}
	}
	if (!own_o && strcmp(args[0], "-o") == 0) {
		if (left < 2 || strcmp(args[1], "norecovery") != 0)
			usage_error(NULL, "-o takes 'norecovery'");
		opts->norecovery = true;
		return 2;
	}
	if (!own_o && strcmp(args[0], "-onorecovery") == 0) {
		opts->norecovery = true;
		return 1;
	}
	return 0;
}

/* ---- mount ---------------------------------------------------------------------------------- */

/*
 * The mount command has the options of fuse2fs.  Shared options are put in front of them in that
 * form.
 */
static int run_mount(const struct options *opts, int argc, char **argv)
{
	uint64_t offset = opts->offset, length;
	struct buffer o = { 0 };
	char **args = must_resize(NULL, (size_t)argc + 3, sizeof(*args));
	char dash_o[] = "-o";
	int count = 0, status;

	if (opts->json)
		usage_error("mount", "--json: mount prints nothing as JSON");
	if (opts->partition) {
		char *image = NULL;

		for (int i = 1; i < argc && !image; i++)
			image = argv[i][0] != '-' ? argv[i] : NULL;
		if (!image || argv[1] != image)
			usage_error("mount", "with --partition the image comes first");
		if (partition_find(image, opts->partition, &offset, &length) < 0)
			return (int)status_now();
	}
	/* In front of each a comma, which is not wanted before the first. */
	if (offset) {
		buffer_add_text(&o, ",offset=");
		buffer_add_decimal(&o, offset);
	}
	if (opts->cache_bytes) {
		buffer_add_text(&o, ",cache_size=");
		buffer_add_decimal(&o, opts->cache_bytes);
	}
	if (opts->superblock) {
		buffer_add_text(&o, ",sb=");
		buffer_add_decimal(&o, opts->superblock);
	}
	if (opts->journal) {
		buffer_add_text(&o, ",journal_path=");
		buffer_add_text(&o, opts->journal);
	}
	if (opts->norecovery)
		buffer_add_text(&o, ",norecovery");
	if (opts->no_lock)
		buffer_add_text(&o, ",nolock");
	args[count++] = argv[0];
	if (o.len > 0) {
		buffer_text(&o);
		args[count++] = dash_o;
		args[count++] = o.data + 1;
	}
	for (int i = 1; i < argc; i++)
		args[count++] = argv[i];
	args[count] = NULL;
	status = uext4_mount_main(count, args);
	buffer_finish(&o);
	free(args);
	return status;
}

/* ---- main ----------------------------------------------------------------------------------- */

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < COMMANDS_COUNT; i++) {
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	}
	for (size_t i = 0; i < sizeof(not_yet) / sizeof(not_yet[0]); i++) {
		if (strcmp(not_yet[i], name) == 0) {
			complain(STATUS_UNSUPPORTED, name, "not in this version");
			exit(STATUS_UNSUPPORTED);
		}
	}
	usage_error(NULL, "unknown command '%s'", name);
}

/* Options before the command.  Returns the index of its name, or ends the process. */
static int parse_before(struct options *opts, int argc, char **argv)
{
	int i = 1;

	while (i < argc && argv[i][0] == '-') {
		int used = take_shared(opts, argv + i, argc - i, false);

		if (used == 0 && strcmp(argv[i], "--help") == 0) {
			print_help();
			out_finish();
			exit(status_now());
		}
		if (used == 0 && strcmp(argv[i], "--version") == 0) {
			printf("uext4 %s\n", uext4_version());
			out_finish();
			exit(status_now());
		}
		if (used == 0)
			usage_error(NULL, "unknown option '%s'", argv[i]);
		i += used;
	}
	if (i == argc)
		usage_error(NULL, "no command given");
	return i;
}

/* Takes the shared options out of a command's arguments; they end at "--". */
static int parse_behind(struct options *opts, const struct command *command, int argc, char **argv)
{
	int kept = 1;

	for (int i = 1; i < argc;) {
		int used;

		if (strcmp(argv[i], "--") == 0) {
			while (i < argc)
				argv[kept++] = argv[i++];
			break;
		}
		if (strcmp(argv[i], "--help") == 0) {
			print_command_help(command);
			out_finish();
			exit(status_now());
		}
		used = take_shared(opts, argv + i, argc - i, command->own_o);
		if (used == 0)
			argv[kept++] = argv[i++];
		i += used;
	}
	argv[kept] = NULL;
	return kept;
}

int main(int argc, char **argv)
{
	struct options opts = { 0 };
	const struct command *command;
	const char *base = strrchr(argc > 0 ? argv[0] : "", '/');
	int at;

	/* Installed as mount.fuse.uext4 the program is mount(8)'s helper. */
	base = base ? base + 1 : argc > 0 ? argv[0] : "";
	if (strncmp(base, "mount.", 6) == 0)
		return uext4_mount_main(argc, argv);

	out_init();
	signal(SIGXFSZ, SIG_IGN); /* A file that gets too large is an error like any other. */
	at = parse_before(&opts, argc, argv);
	if (strcmp(argv[at], "help") == 0) {
		if (at + 1 < argc)
			print_command_help(find_command(argv[at + 1]));
		else
			print_help();
		out_finish();
		return (int)status_now();
	}
	command = find_command(argv[at]);
	if (command->run == command_check)
		usage_exits_with(FSCK_USAGE);
	argc -= at;
	argv += at;
	argc = parse_behind(&opts, command, argc, argv);
	if (opts.partition && opts.offset)
		usage_error(command->name, "--partition and --offset exclude each other");
	if (!command->run)
		return run_mount(&opts, argc, argv);
	signal(SIGUSR1, SIG_IGN); /* asked for progress where none is counted; not for mount */
	command->run(&opts, argc, argv);
	images_close();
	out_finish();
	return (int)status_now();
}
