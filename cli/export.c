/* SPDX-License-Identifier: MIT */
/*
 * `export`: a directory tree as a tar archive.
 *
 * Decides what the archive consists of; tar.c makes and writes it.  Names start with "./", as
 * `tar -C DIR -c .` has them.  The first name of an inode carries its contents, later ones are hard
 * links to it.
 *
 * E1  A header goes out only when what follows it is known to the byte.
 * E2  A link to a name is written only behind that name, which holds because pieces keep their
 *     order.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data.h"
#include "image.h"
#include "out.h"
#include "tar.h"
#include "walk.h"

struct exporter {
	struct image *image;
	struct tar *tar;
	size_t prefix_len;   /* of paths; the archive has "." in its place */
	struct inomap links; /* inodes with names still to come: struct link */
	struct buffer name;
};

/* The first name of an inode that has more. */
struct link {
	uint32_t left; /* names not met yet */
	char name[];
};

/* ---- files in many pieces ------------------------------------------------------------------- */

/* What a file with holes takes in the archive. */
struct sparse_plan {
	uint64_t ranges;
	uint64_t map_bytes; /* text of the map, padding included */
	uint64_t data_bytes;
	bool has_holes;
};

static size_t map_line(char line[44], uint64_t start, uint64_t len)
{
	return (size_t)snprintf(line, 44, "%" PRIu64 "\n%" PRIu64 "\n", start, len);
}

/*
 * Measures the map instead of keeping it: there can be millions of ranges.  Where a hole ends the
 * file, the map ends with an empty range there, which tells its size.
 */
static int plan_sparse(struct place place, struct uext4_file *file, uint64_t size,
		       struct sparse_plan *ret)
{
	struct sparse_plan plan = { 0 };
	struct data_range range;
	uint64_t at = 0, text = 0;
	char line[44];
	int found;

	while ((found = data_next(place, file, at, size, &range)) > 0) {
		plan.has_holes = plan.has_holes || range.start != at;
		plan.ranges++;
		plan.data_bytes += range.end - range.start;
		text += map_line(line, range.start, range.end - range.start);
		at = range.end;
	}
	if (found < 0)
		return found;
	if (at < size) {
		plan.has_holes = true;
		plan.ranges++;
		text += map_line(line, size, 0);
	}
	text += (size_t)snprintf(line, sizeof(line), "%" PRIu64 "\n", plan.ranges);
	plan.map_bytes = text + pax_padding(text);
	*ret = plan;
	return 0;
}

/*
 * Adds at most what is left of the bytes that the header has promised (E1).  That it would be more,
 * or less, can only be when the map is not the same at a second look.
 */
static void add_promised(struct exporter *exporter, const struct buffer *text, uint64_t *left)
{
	size_t len = text->len < *left ? text->len : (size_t)*left;

	*left -= len;
	tar_add_bytes(exporter->tar, text->data, len);
}

static void add_map(struct exporter *exporter, struct place place, struct uext4_file *file,
		    uint64_t size, const struct sparse_plan *plan)
{
	uint64_t at = 0, left = plan->map_bytes;
	struct buffer text = { 0 };
	struct data_range range;
	char line[44];

	buffer_add_decimal(&text, plan->ranges);
	buffer_add(&text, "\n", 1);
	while (data_next(place, file, at, size, &range) > 0) {
		buffer_add(&text, line, map_line(line, range.start, range.end - range.start));
		at = range.end;
		if (text.len >= 65536) {
			add_promised(exporter, &text, &left);
			text.len = 0;
		}
	}
	if (at < size)
		buffer_add(&text, line, map_line(line, size, 0));
	add_promised(exporter, &text, &left);
	tar_add_zeros(exporter->tar, left);
	buffer_finish(&text);
}

static void add_range(struct exporter *exporter, struct tar_file *tar_file, uint64_t start,
		      uint64_t end)
{
	uint32_t part;

	for (uint64_t at = start; at < end && tar_works(exporter->tar); at += part) {
		part = end - at < DATA_CHUNK ? (uint32_t)(end - at) : DATA_CHUNK;
		tar_add_data(exporter->tar, tar_file, at, part);
		progress_poll();
	}
}

static void add_stored_data(struct exporter *exporter, struct place place, struct uext4_file *file,
			    struct tar_file *tar_file, uint64_t size,
			    const struct sparse_plan *plan)
{
	uint64_t left = plan->data_bytes, len;
	struct data_range range;

	for (uint64_t at = 0; data_next(place, file, at, size, &range) > 0; at = range.end) {
		len = range.end - range.start < left ? range.end - range.start : left;
		add_range(exporter, tar_file, range.start, range.start + len);
		left -= len;
	}
	tar_add_zeros(exporter->tar, left + pax_padding(plan->data_bytes));
}

/* False (reported) if there is no entry for it. */
static bool add_long_file(struct exporter *exporter, struct tar_entry *entry)
{
	struct place place = { exporter->image->name, entry->path };
	uint64_t size = entry->st.size;
	struct sparse_plan plan;
	struct tar_file *tar_file;
	struct uext4_file *file;
	int err = uext4_file_open(exporter->image->fs, entry->ino, 0, &file);

	if (err < 0) {
		complain_fs(place, err);
		return false;
	}
	tar_file = tar_file_create(file, entry->path);
	err = plan_sparse(place, file, size, &plan);
	if (err == 0) {
		entry->sparse = plan.has_holes;
		entry->stored = plan.has_holes ? plan.map_bytes + plan.data_bytes : size;
		tar_add_entry(exporter->tar, entry);
		if (plan.has_holes)
			add_map(exporter, place, file, size, &plan);
		add_stored_data(exporter, place, file, tar_file, size, &plan);
	}
	tar_file_put(tar_file);
	return err == 0;
}

/* ---- entries -------------------------------------------------------------------------------- */

static enum pax_type pax_type_of(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR: return PAX_DIRECTORY;
	case S_IFLNK: return PAX_SYMLINK;
	case S_IFCHR: return PAX_CHAR;
	case S_IFBLK: return PAX_BLOCK_DEVICE;
	case S_IFIFO: return PAX_FIFO;
	default: return PAX_FILE;
	}
}

/* True if an earlier name of the inode is in the archive: then the entry is a link to it. */
static bool add_link(struct exporter *exporter, const struct tar_entry *entry)
{
	struct inomap_slot *slot = inomap_find(&exporter->links, entry->ino);
	struct tar_entry hard = *entry;
	struct link *link;

	if (!slot)
		return false;
	link = slot->value;
	hard.type = PAX_HARDLINK;
	hard.link = link->name;
	tar_add_entry(exporter->tar, &hard);
	if (--link->left == 0) {
		inomap_remove(&exporter->links, slot);
		free(link);
	}
	return true;
}

static void remember_link(struct exporter *exporter, const struct tar_entry *entry)
{
	size_t len = strlen(entry->name) + 1;
	struct link *link = must_alloc(sizeof(*link) + len);

	link->left = entry->st.nlink - 1;
	memcpy(link->name, entry->name, len);
	inomap_add(&exporter->links, entry->ino, link);
}

/*
 * One piece will do for a file that is short and, by its blocks, has no holes.  For others the map
 * is asked; it alone decides.
 */
static bool is_one_piece(const struct uext4_stat *st)
{
	return st->size <= DATA_CHUNK && (st->is_inline || st->blocks * 512 >= st->size);
}

static void export_entry(struct exporter *exporter, const struct walk_entry *walk_entry)
{
	const struct uext4_stat *st = &walk_entry->st;
	bool has_names = st->nlink > 1 && !S_ISDIR(st->mode);
	struct tar_entry entry = {
		.type = pax_type_of(st->mode),
		.path = walk_entry->path,
		.ino = walk_entry->ino,
		.st = *st,
	};

	if (S_ISSOCK(st->mode)) {
		char *where = must_format("%s:%s", exporter->image->name, walk_entry->path);

		remark(where, "a socket: left out, an archive cannot hold it");
		free(where);
		return;
	}
	exporter->name.len = 0;
	if (walk_entry->depth > 0 || S_ISDIR(st->mode))
		buffer_add_text(&exporter->name, ".");
	if (walk_entry->depth > 0)
		buffer_add_text(&exporter->name, walk_entry->path + exporter->prefix_len);
	else if (!S_ISDIR(st->mode))
		buffer_add_text(&exporter->name, strrchr(walk_entry->path, '/') + 1);
	if (S_ISDIR(st->mode))
		buffer_add_text(&exporter->name, "/");
	entry.name = buffer_text(&exporter->name);
	if (has_names && add_link(exporter, &entry))
		return;
	if (S_ISREG(st->mode) && !is_one_piece(st)) {
		if (!add_long_file(exporter, &entry))
			return;
	} else {
		entry.contents = S_ISREG(st->mode);
		entry.stored = entry.contents ? st->size : 0;
		tar_add_entry(exporter->tar, &entry);
	}
	if (has_names)
		remember_link(exporter, &entry);
}

static bool export_tree(const struct target *target, const struct tar_output *output)
{
	struct exporter exporter = {
		.image = target->image,
		.tar = tar_create(target->image, output),
		.prefix_len = target->path[1] ? strlen(target->path) : 0,
	};
	struct walk *walk = walk_open(target->image, target->ino, target->path, 0);
	const struct walk_entry *entry;

	while (tar_works(exporter.tar) && (entry = walk_next(walk))) {
		if (entry->kind == WALK_LEAVE)
			continue;
		progress_count(1, 0);
		export_entry(&exporter, entry);
	}
	walk_close(walk);
	for (size_t i = 0; i < exporter.links.size; i++)
		free(exporter.links.slots[i].value);
	inomap_finish(&exporter.links);
	buffer_finish(&exporter.name);
	return tar_finish(exporter.tar);
}

/* ---- the command ---------------------------------------------------------------------------- */

/* Opens FILE, which must not be the image.  Returns the descriptor, or -1 (reported). */
static int open_output(const char *name, const struct image *image)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0666);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		complain_sys(name, errno, "cannot open");
	} else if (st.st_dev == image->dev && st.st_ino == image->ino) {
		complain(STATUS_FAILED, name, "is the image itself: not overwritten");
	} else if (S_ISREG(st.st_mode) && ftruncate(fd, 0) < 0) {
		complain_sys(name, errno, "cannot empty");
	} else {
		return fd;
	}
	if (fd >= 0)
		close(fd);
	return -1;
}

static void export_target(const struct options *opts, const struct target *target,
			  struct tar_output *output)
{
	bool is_stdout = strcmp(output->name, "-") == 0;
	uint64_t entries = 0;
	struct uext4_info info;
	bool ok;

	/* A mistake must not cost the file that is there. */
	if (output->compress && !tar_can_compress(output->compress))
		return;
	output->fd = is_stdout ? STDOUT_FILENO : open_output(output->name, target->image);
	if (output->fd < 0)
		return;
	if (is_stdout)
		output->name = "standard output";
	/* Fewer turns between us and a reader; without effect on what is no pipe. */
	fcntl(output->fd, F_SETPIPE_SZ, 1 << 20);
	if (target->ino == UEXT4_ROOT_INO && uext4_info(target->image->fs, &info) == 0)
		entries = info.inodes - info.inodes_free;
	progress_start(opts->progress, "export", entries);
	ok = export_tree(target, output);
	progress_finish();
	if (is_stdout)
		return; /* out_finish() closes it. */
	if (close(output->fd) < 0 && ok) {
		complain_sys(output->name, errno, "write error");
		ok = false;
	}
	if (!ok) {
		struct stat st;

		/* Half an archive looks like a whole one until somebody needs the rest. */
		if (stat(output->name, &st) == 0 && S_ISREG(st.st_mode))
			unlink(output->name);
	}
}

void command_export(const struct options *opts, int argc, char **argv)
{
	static const struct option names[] = {
		{ "output", required_argument, NULL, 'o' },
		{ "compress", required_argument, NULL, 'c' },
		{ 0 },
	};
	struct tar_output output = { .name = "-" };
	struct target target;
	int c;

	while ((c = command_option(argc, argv, ":o:", names)) != -1) {
		if (c == 'o')
			output.name = optarg;
		else
			output.compress = optarg;
	}
	if (opts->json)
		usage_error(argv[0], "--json: the archive is never JSON");
	if (optind + 1 != argc)
		usage_error(argv[0], optind == argc ? "no image given" : "one tree at a time");
	if (strcmp(output.name, "-") == 0 && isatty(STDOUT_FILENO))
		usage_error(argv[0], "an archive is not written to a terminal; use -o FILE");
	if (target_open(opts, argv[optind], TARGET_FOLLOW, &target) < 0)
		return;
	export_target(opts, &target, &output);
	target_finish(&target);
}
