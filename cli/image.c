/* SPDX-License-Identifier: MIT */
/*
 * Operands `IMAGE` and `IMAGE:/path`, and the one way to open an image.
 *
 * Also finds partitions inside a whole disk, through libblkid.  What images contain is the
 * library's business.
 *
 * I1  An image is opened at most once in a process, whatever the number of operands.
 * I2  Who gets a failure from here does not print it again.
 */
#include "image.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct image *images; /* all that are open */

/* ---- operands ------------------------------------------------------------------------------- */

static bool is_uri(const char *name)
{
	return strncmp(name, "nbd:", 4) == 0 || strncmp(name, "nbd+unix:", 9) == 0 ||
	       strncmp(name, "rbd:", 4) == 0;
}

void operand_split(const char *arg, char **ret_image, char **ret_path)
{
	const char *first = strstr(arg, ":/");
	struct stat st;

	*ret_path = NULL;
	*ret_image = must_copy(arg);
	if (!first || is_uri(arg) || stat(arg, &st) == 0)
		return;
	for (const char *at = arg + strlen(arg); at >= first; at--) {
		if (strncmp(at, ":/", 2) != 0)
			continue;
		(*ret_image)[at - arg] = '\0';
		/* None exists: the first one is what the user meant, and is reported missing. */
		if (at == first || stat(*ret_image, &st) == 0) {
			*ret_path = must_copy(at + 1);
			return;
		}
	}
}

bool operand_is_inside(const char *arg)
{
	char *image, *path;
	struct stat st;
	bool inside;

	operand_split(arg, &image, &path);
	inside = is_uri(arg) || (path && stat(image, &st) == 0 && !S_ISDIR(st.st_mode));
	free(image);
	free(path);
	return inside;
}

void operands_are_images(const char *command, int count, char **args)
{
	if (count == 0)
		usage_error(command, "no image given");
	for (int i = 0; i < count; i++) {
		char *image, *path;

		operand_split(args[i], &image, &path);
		if (path)
			usage_error(command, "'%s': takes an image, not a path in it", args[i]);
		free(image);
	}
}

/* ---- partitions ----------------------------------------------------------------------------- */

/* The partition table of the disk in @fd, or NULL. */
static blkid_partlist partitions_of(int fd, blkid_probe *ret_probe)
{
	blkid_probe probe = blkid_new_probe();

	*ret_probe = probe;
	if (!probe || blkid_probe_set_device(probe, fd, 0, 0) != 0)
		return NULL;
	blkid_probe_enable_partitions(probe, 1);
	return blkid_probe_get_partitions(probe);
}

/*
 * libblkid passes over a GPT that reaches beyond the end of the disk.  Its header in the disk's
 * second sector is there all the same.
 */
static bool has_gpt(int fd)
{
	static const char magic[8] = "EFI PART";
	static const off_t sectors[] = { 512, 4096 };
	char found[sizeof(magic)];

	for (size_t i = 0; i < sizeof(sectors) / sizeof(sectors[0]); i++) {
		if (pread(fd, found, sizeof(found), sectors[i]) == (ssize_t)sizeof(found) &&
		    memcmp(found, magic, sizeof(magic)) == 0)
			return true;
	}
	return false;
}

static const char unusable_table[] =
	"the partition table is empty or not usable, e.g. because the disk image was cut; "
	"--offset BYTES says where a file system starts";

int partition_find(const char *name, unsigned number, uint64_t *ret_offset, uint64_t *ret_length)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	blkid_partition part;
	blkid_partlist list;
	blkid_probe probe;
	int err = 0;

	if (fd < 0) {
		err = -errno;
		complain_sys(name, errno, NULL);
		return err;
	}
	list = partitions_of(fd, &probe);
	part = list ? blkid_partlist_get_partition_by_partno(list, (int)number) : NULL;
	if (!list || blkid_partlist_numof_partitions(list) <= 0) {
		complain(STATUS_FAILED, name, "%s",
			 has_gpt(fd) ? unusable_table : "there is no partition table");
		err = -ENXIO;
	} else if (!part) {
		complain(STATUS_FAILED, name, "there is no partition %u", number);
		err = -ENXIO;
	} else {
		/* libblkid counts in sectors of 512 bytes, whatever the disk's are. */
		*ret_offset = (uint64_t)blkid_partition_get_start(part) * 512;
		*ret_length = (uint64_t)blkid_partition_get_size(part) * 512;
	}
	blkid_free_probe(probe);
	close(fd);
	return err;
}

/* A whole disk given without --partition is a common mistake.  False: it is no such disk. */
static bool hint_partitions(const char *name, int fd)
{
	blkid_partlist list;
	blkid_probe probe;
	int count;

	list = partitions_of(fd, &probe);
	count = list ? blkid_partlist_numof_partitions(list) : 0;
	if (count > 0)
		remark(name, "a disk with %d partition%s: choose one with --partition N", count,
		       count == 1 ? "" : "s");
	blkid_free_probe(probe);
	if (count <= 0 && has_gpt(fd)) {
		remark(name, "%s", unusable_table);
		return true;
	}
	return count > 0;
}

/* Names what lies at @offset of the image if it is known to be no ext4.  False: it is not. */
static bool hint_other_type(const char *name, int fd, uint64_t offset)
{
	blkid_probe probe = blkid_new_probe();
	const char *type;
	bool known = false;

	if (probe && offset <= INT64_MAX &&
	    blkid_probe_set_device(probe, fd, (blkid_loff_t)offset, 0) == 0) {
		blkid_probe_enable_superblocks(probe, 1);
		blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE);
		known = blkid_do_safeprobe(probe) == 0 &&
			blkid_probe_lookup_value(probe, "TYPE", &type, NULL) == 0 &&
			strncmp(type, "ext", 3) != 0;
	}
	if (known)
		remark(name, "looks like %s", type);
	blkid_free_probe(probe);
	return known;
}

/* False: no group behind the first begins inside of the file, so there are no backups. */
static bool may_have_backups(int fd, uint64_t offset)
{
	enum { BACKUP_BYTE_MIN = 8193 << 10 };
	struct stat st;

	return fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	       ((uint64_t)st.st_size > offset && (uint64_t)st.st_size - offset > BACKUP_BYTE_MIN);
}

/* There is no ext4 where it was looked for: say what would help. */
static void hint_no_ext4(const struct options *opts, const char *name, uint64_t offset)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if ((offset || !hint_partitions(name, fd)) && !hint_other_type(name, fd, offset) &&
	    !opts->superblock && may_have_backups(fd, offset))
		remark(name, "if only its superblock is damaged, a backup may help: "
			     "--superblock 32768, or 8193 with blocks of 1 KiB");
	close(fd);
}

/* ---- images --------------------------------------------------------------------------------- */

/*
 * "/proc/self/fd/N" and "/dev/fd/N" are used as the descriptor they name: opening them anew would
 * need permission that whoever handed it to us may have and we may not.
 */
static int descriptor_of(const char *name)
{
	static const char *const prefixes[] = { "/proc/self/fd/", "/dev/fd/" };
	char *end;
	long fd;

	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
		const char *digits = name + strlen(prefixes[i]);

		if (strncmp(name, prefixes[i], strlen(prefixes[i])) != 0)
			continue;
		errno = 0;
		fd = strtol(digits, &end, 10);
		if (*digits >= '0' && *digits <= '9' && *end == '\0' && errno == 0 && fd <= 1 << 20)
			return (int)fd;
	}
	return -1;
}

static int open_library(const char *name, const struct uext4_open_options *open_opts,
			struct uext4_fs **ret_fs)
{
	int fd = descriptor_of(name);

	if (fd >= 0)
		return uext4_open_fd(fd, open_opts, ret_fs);
	return uext4_open(name, open_opts, ret_fs);
}

static int open_options_of(const struct options *opts, const char *name, enum image_use use,
			   struct uext4_open_options *ret)
{
	struct uext4_open_options open_opts = {
		.size = sizeof(open_opts),
		.flags = (opts->norecovery ? UEXT4_OPEN_NORECOVERY : 0u) |
			 (opts->no_lock ? UEXT4_OPEN_NOLOCK : 0u) |
			 (use == IMAGE_WRITE ? UEXT4_OPEN_WRITE : 0u),
		.offset = opts->offset,
		.superblock = opts->superblock,
		.cache_bytes = opts->cache_bytes,
		.journal_path = opts->journal,
	};
	int err;

	if (opts->partition) {
		uint64_t start;

		err = partition_find(name, opts->partition, &start, &open_opts.length);
		if (err < 0)
			return err;
		open_opts.offset = start;
	}
	*ret = open_opts;
	return 0;
}

int image_open(const struct options *opts, const char *name, enum image_use use,
	       struct image **ret_image)
{
	struct uext4_open_options open_opts;
	struct image *image;
	struct uext4_fs *fs;
	struct stat st;
	int err;

	for (image = images; image; image = image->next) {
		if (strcmp(image->name, name) != 0)
			continue;
		if (use == IMAGE_WRITE && image->use == IMAGE_READ) {
			complain(STATUS_FAILED, name, "is open for reading in the same command");
			return -EBUSY;
		}
		*ret_image = image;
		return 0;
	}
	if (is_uri(name)) {
		complain(STATUS_UNSUPPORTED, name,
			 "this version reads local files and devices only");
		return -EOPNOTSUPP;
	}
	if (stat(name, &st) < 0) {
		err = -errno;
		complain_sys(name, errno, NULL);
		return err;
	}
	err = open_options_of(opts, name, use, &open_opts);
	if (err < 0)
		return err;
	err = open_library(name, &open_opts, &fs);
	if (err < 0) {
		complain_fs((struct place){ name, NULL }, err);
		if (err == -ENOTRECOVERABLE && use == IMAGE_READ)
			remark(name, "--norecovery shows the image as it lies");
		if (err == -EINVAL)
			hint_no_ext4(opts, name, open_opts.offset);
		return err;
	}
	image = must_alloc(sizeof(*image));
	*image = (struct image){
		.fs = fs,
		.use = use,
		.name = must_copy(name),
		.dev = st.st_dev,
		.ino = st.st_ino,
		.next = images,
	};
	images = image;
	*ret_image = image;
	return 0;
}

void images_close(void)
{
	while (images) {
		struct image *image = images;

		int err;

		images = image->next;
		err = uext4_close(image->fs);
		if (err < 0)
			complain_fs((struct place){ image->name, NULL }, err);
		free(image->name);
		free(image);
	}
}

/* ---- targets -------------------------------------------------------------------------------- */

int target_open(const struct options *opts, const char *arg, enum target_follow follow,
		struct target *ret_target)
{
	return target_open_for(opts, arg, follow, IMAGE_READ, ret_target);
}

int target_open_for(const struct options *opts, const char *arg, enum target_follow follow,
		    enum image_use use, struct target *ret_target)
{
	uint32_t flags = follow == TARGET_NOFOLLOW ? UEXT4_RESOLVE_NOFOLLOW : 0;
	char *image_name, *path;
	struct image *image;
	uint32_t ino;
	int err;

	operand_split(arg, &image_name, &path);
	err = image_open(opts, image_name, use, &image);
	if (err == 0) {
		if (!path)
			path = must_copy("/");
		err = uext4_resolve(image->fs, UEXT4_ROOT_INO, path, flags, &ino);
		if (err < 0)
			complain_fs((struct place){ image->name, path }, err);
	}
	free(image_name);
	if (err < 0) {
		free(path);
		return err;
	}
	/* Paths made of this one must not show doubled slashes. */
	for (size_t len = strlen(path); len > 1 && path[len - 1] == '/'; len--)
		path[len - 1] = '\0';
	*ret_target = (struct target){ .image = image, .path = path, .ino = ino };
	return 0;
}

void target_finish(struct target *target)
{
	free(target->path);
}

struct place target_place(const struct target *target)
{
	return (struct place){ target->image->name, target->path };
}

const char *target_name(const struct target *target)
{
	const char *slash = strrchr(target->path, '/');

	return slash && slash[1] ? slash + 1 : "/";
}

/* ---- one inode ------------------------------------------------------------------------------ */

int image_stat(struct image *image, uint32_t ino, const char *path, struct uext4_stat *ret_stat)
{
	int err = uext4_stat(image->fs, ino, ret_stat);

	if (err < 0)
		complain_fs((struct place){ image->name, path }, err);
	return err;
}

int image_readlink(struct image *image, uint32_t ino, const char *path, struct buffer *buf)
{
	size_t len;
	int err;

	buf->len = 0;
	/* Targets end at a block, and blocks at 64 KiB. */
	for (size_t size = 4096;; size = 65536) {
		err = uext4_readlink(image->fs, ino, buffer_room(buf, size), size, &len);
		if (err != -ERANGE || size == 65536)
			break;
	}
	if (err < 0) {
		complain_fs((struct place){ image->name, path }, err);
		return err;
	}
	buf->len = len;
	buffer_text(buf);
	return 0;
}

/*
 * Calls for names or for a value (@name) until the buffer is large enough; the first try almost
 * always is.  Attributes do not change under us, so the second one ends it.
 */
static int xattr_read(struct image *image, uint32_t ino, const char *name, struct buffer *buf)
{
	size_t size = 4096, len = 0;
	int err = 0;

	buf->len = 0;
	for (int tries = 0; tries < 2; tries++) {
		char *room = buffer_room(buf, size);

		err = name ? uext4_xattr_get(image->fs, ino, name, room, size, &len)
			   : uext4_xattr_list(image->fs, ino, room, size, &len);
		if (err != -ERANGE)
			break;
		err = name ? uext4_xattr_get(image->fs, ino, name, NULL, 0, &size)
			   : uext4_xattr_list(image->fs, ino, NULL, 0, &size);
		if (err < 0)
			break;
		err = -ERANGE;
	}
	if (err == 0)
		buf->len = len;
	return err;
}

int image_xattr_names(struct image *image, uint32_t ino, const char *path, struct buffer *buf)
{
	int err = xattr_read(image, ino, NULL, buf);

	if (err < 0)
		complain_fs((struct place){ image->name, path }, err);
	return err;
}

int image_xattr_value(struct image *image, uint32_t ino, const char *path, const char *name,
		      struct buffer *buf)
{
	int err = xattr_read(image, ino, name, buf);

	if (err < 0)
		complain_attribute((struct place){ image->name, path }, name, err);
	return err;
}
