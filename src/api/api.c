/* SPDX-License-Identifier: MIT */
/*
 * The public functions: arguments are checked, handles turned into objects, errors given their
 * words.
 *
 * Holds no logic of its own.  The engine works in its own memory: what the caller gives is copied
 * at the start, what he gets at the end, by user_copy_in() and user_copy_out(), with nothing held.
 *
 *  A1  No call returns with a lock held (asserted by api_end()).
 *  A2  Every failure has a text; an error without one gets the system's words.
 *  A3  `ret_` parameters are touched only on success.
 *
 * This file: opening, and what reads.  change.c: what changes.
 */
#include "api/api_priv.h"
#include "api/test_hooks.h"

#include "base/diag.h"
#include "base/mem.h"
#include "fs/balloc.h"

#define SMALL_VALUE 512u    /* bytes of an attribute that need no allocation */
#define VALUE_MAX 65536u    /* bytes of an attribute, and of a list of names */
#define XATTR_NAME_MAX 300u /* the longest prefix and 255 bytes */
#define DIR_BATCH 64u
#define EXTENT_BATCH 64u
#define READLINK_MAX 65536u

struct uext4_dir {
	struct uext4_fs *fs;
	struct dir_cursor *cursor;
};

int api_end(int err)
{
	lockrank_assert_none();
	if (err < 0 && !diag_has_text())
		fail(err, "%s", strerrordesc_np(-err) ? strerrordesc_np(-err) : "unknown error");
	return err;
}

/*
 * Inodes that went with the call are finished; a call that only reads may have kept one that lost
 * its name meanwhile.  One that cannot be finished stays an orphan: no failure of the call, which
 * has done its work and would only be repeated.
 */
int api_end_reap(struct uext4_fs *fs, int err)
{
	lockrank_assert_none();
	if (fs_reap(fs) < 0 && err == 0)
		diag_clear();
	return api_end(err);
}

int api_invalid(const char *what)
{
	return api_end(fail(-EINVAL, "%s", what));
}

const char *uext4_version(void)
{
	return UEXT4_VERSION;
}

const char *uext4_last_error(void)
{
	return diag_text();
}

/* ---- open and close ------------------------------------------------------------------------ */

#define OPEN_FLAGS                                                                              \
	(UEXT4_OPEN_NORECOVERY | UEXT4_OPEN_NOLOCK | UEXT4_OPEN_WRITE | UEXT4_OPEN_NODELALLOC | \
	 UEXT4_OPEN_NOBARRIER)

/*
 * Copies what the caller knows of the options; a caller built against an older header knows less.
 */
static int options_take(const struct uext4_open_options *options, struct uext4_open_options *ret)
{
	struct uext4_open_options o = { .size = sizeof(o) };

	if (options) {
		const uint8_t *bytes = (const uint8_t *)options;

		if (options->size < offsetof(struct uext4_open_options, block_size))
			return fail(-EINVAL, "the options' size is not set");
		for (size_t i = sizeof(o); i < options->size; i++) {
			if (bytes[i] != 0)
				return fail(-EINVAL, "an option that this version does not know");
		}
		memcpy(&o, options, min_size(options->size, sizeof(o)));
	}
	if (o.flags & ~(uint32_t)OPEN_FLAGS)
		return fail(-EINVAL, "a flag that this version does not know");
	if (o.block_size != 0 &&
	    (!is_pow2(o.block_size) || o.block_size < 1024 || o.block_size > 65536))
		return fail(-EINVAL, "a block size of %u", o.block_size);
	if (o.block_size != 0 && o.superblock == 0)
		return fail(-EINVAL, "a block size without the number of a backup superblock");
	if ((o.flags & UEXT4_OPEN_WRITE) &&
	    ((o.flags & (UEXT4_OPEN_NORECOVERY | UEXT4_OPEN_NOLOCK)) || o.superblock != 0))
		return fail(
			-EINVAL,
			"an image is opened for writing only with its lock, its journal replayed, "
			"and by its primary superblock");
	if (o.data_mode > UEXT4_DATA_WRITEBACK || o.errors > UEXT4_ERRORS_PANIC || o.unused != 0)
		return fail(-EINVAL, "an option that this version does not know");
	*ret = o;
	return 0;
}

static uint32_t dev_flags(const struct uext4_open_options *o)
{
	return (o->flags & UEXT4_OPEN_NOLOCK ? DEV_FILE_NOLOCK : 0) |
	       (o->flags & UEXT4_OPEN_WRITE ? DEV_FILE_WRITE : 0);
}

static int open_on(struct dev *dev, const struct uext4_open_options *o, struct uext4_fs **ret_fs)
{
	static const enum fs_data_mode data_modes[] = { FS_DATA_ORDERED, FS_DATA_JOURNAL,
							FS_DATA_WRITEBACK };
	struct fs_options options = {
		.superblock = o->superblock,
		.block_size = o->block_size,
		.cache_bytes = o->cache_bytes,
		.norecovery = o->flags & UEXT4_OPEN_NORECOVERY,
		.nolock = o->flags & UEXT4_OPEN_NOLOCK,
		.write = o->flags & UEXT4_OPEN_WRITE,
		.nodelalloc = o->flags & UEXT4_OPEN_NODELALLOC,
		.no_barrier = o->flags & UEXT4_OPEN_NOBARRIER,
		.data_mode = data_modes[o->data_mode],
		.errors = (enum fs_errors)o->errors,
		.commit_interval_ms = o->commit_ms,
		.dirty_max_bytes = o->dirty_bytes,
	};
	int err;

	if (o->journal_path) {
		err = dev_file_open(o->journal_path, 0, 0, dev_flags(o), &options.journal_dev);
		if (err < 0) {
			dev_close(dev);
			return fail_in(err, "external journal");
		}
	}
	return fs_open(dev, &options, &file_mapping_ops, ret_fs);
}

int uext4_open(const char *path, const struct uext4_open_options *options, struct uext4_fs **ret_fs)
{
	struct uext4_open_options o;
	struct dev *dev;
	int err;

	diag_clear();
	if (!path || !ret_fs)
		return api_invalid("a NULL pointer");
	err = options_take(options, &o);
	if (err == 0)
		err = dev_file_open(path, o.offset, o.length, dev_flags(&o), &dev);
	if (err == 0)
		err = open_on(dev, &o, ret_fs);
	return api_end(err);
}

int uext4_open_fd(int fd, const struct uext4_open_options *options, struct uext4_fs **ret_fs)
{
	struct uext4_open_options o;
	struct dev *dev;
	int err;

	diag_clear();
	if (!ret_fs)
		return api_invalid("a NULL pointer");
	err = options_take(options, &o);
	if (err == 0)
		err = dev_file_open_fd(fd, o.offset, o.length, dev_flags(&o), &dev);
	if (err == 0)
		err = open_on(dev, &o, ret_fs);
	return api_end(err);
}

int uext4_open_dev_for_test(struct dev *dev, const struct uext4_open_options *options,
			    struct uext4_fs **ret_fs)
{
	struct uext4_open_options o;
	int err;

	diag_clear();
	err = options_take(options, &o);
	if (err < 0)
		dev_close(dev);
	else
		err = open_on(dev, &o, ret_fs);
	return api_end(err);
}

int uext4_close(struct uext4_fs *fs)
{
	int err;

	diag_clear();
	if (!fs)
		return 0;
	err = api_space_close(fs);
	return api_end(err < 0 ? err : fs_close(fs));
}

/* ---- about the file system ----------------------------------------------------------------- */

int uext4_info(struct uext4_fs *fs, struct uext4_info *ret_info)
{
	struct uext4_info info;

	diag_clear();
	fs_info(fs, &info);
	user_copy_out(ret_info, &info, sizeof(info));
	diag_clear();
	return api_end(0);
}

const char *uext4_feature_name(enum uext4_feature_set set, unsigned bit)
{
	return feature_name(set, bit);
}

int uext4_statfs(struct uext4_fs *fs, uint32_t flags, struct uext4_statfs *ret)
{
	struct uext4_statfs st;
	int err;

	diag_clear();
	if (flags & ~(uint32_t)UEXT4_STATFS_MINIXDF)
		return api_invalid("a flag that this version does not know");
	err = fs_statfs(fs, flags, &st);
	if (err == 0)
		user_copy_out(ret, &st, sizeof(st));
	return api_end(err);
}

int uext4_stats(struct uext4_fs *fs, struct uext4_stats *ret_stats)
{
	struct uext4_stats stats = { 0 };
	const struct dev_stats *dev;
	struct cache_stats cache;

	diag_clear();
	cache_get_stats(fs->cache, &cache);
	dev = dev_bottom_stats(fs->dev);
	stats.device_reads = atomic_load_explicit(&dev->reads, memory_order_relaxed);
	stats.device_bytes_read = atomic_load_explicit(&dev->bytes_read, memory_order_relaxed);
	stats.device_writes = atomic_load_explicit(&dev->writes, memory_order_relaxed);
	stats.device_bytes_written = atomic_load_explicit(&dev->bytes_written,
							  memory_order_relaxed);
	stats.device_flushes = atomic_load_explicit(&dev->flushes, memory_order_relaxed);
	stats.buffer_hits = cache.buffer_hits;
	stats.buffer_misses = cache.buffer_misses;
	stats.page_hits = cache.page_hits;
	stats.page_misses = cache.page_misses;
	stats.cache_bytes = cache.bytes;
	user_copy_out(ret_stats, &stats, sizeof(stats));
	return api_end(0);
}

/* ---- names and attributes ------------------------------------------------------------------ */

int api_get_inode(struct uext4_fs *fs, uint32_t ino, struct inode **ret_inode)
{
	if (ino != UEXT4_ROOT_INO && ino < fs->geom.first_ino)
		return fail(ino == 0 ? -EINVAL : -ESTALE, "inode %u is reserved", ino);
	return inode_get(fs, ino, ret_inode);
}

int uext4_lookup(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 uint32_t *ret_ino)
{
	char own[UEXT4_NAME_MAX];

	diag_clear();
	if (name_len > sizeof(own))
		return api_end(fail(-ENAMETOOLONG, "a name of %zu bytes", name_len));
	user_copy_in(own, name, name_len);
	return api_end_reap(fs, namei_lookup(fs, dir_ino, own, name_len, ret_ino));
}

int uext4_resolve(struct uext4_fs *fs, uint32_t start_ino, const char *path, uint32_t flags,
		  uint32_t *ret_ino)
{
	diag_clear();
	if (flags & ~(uint32_t)(UEXT4_RESOLVE_NOFOLLOW | UEXT4_RESOLVE_NO_SYMLINKS))
		return api_invalid("a flag that this version does not know");
	return api_end_reap(fs, namei_resolve(fs, start_ino, path, flags, ret_ino));
}

int uext4_stat(struct uext4_fs *fs, uint32_t ino, struct uext4_stat *ret_stat)
{
	struct uext4_stat st;
	struct inode *ip;
	int err;

	diag_clear();
	err = api_get_inode(fs, ino, &ip);
	if (err == 0) {
		inode_stat(ip, &st);
		inode_put(ip);
		user_copy_out(ret_stat, &st, sizeof(st));
	}
	return api_end_reap(fs, err);
}

static int readlink_call(struct uext4_fs *fs, uint32_t ino, void *buf, size_t size, size_t *ret_len)
{
	char *target FREE_SCOPE = NULL;
	struct inode *ip INODE_SCOPE = NULL;
	size_t len;
	int err;

	err = api_get_inode(fs, ino, &ip);
	if (err < 0)
		return err;
	if (!inode_is_lnk(ip))
		return fail(-EINVAL, "inode %u is no symlink", ino);
	size = min_size(size, READLINK_MAX);
	target = mem_alloc(size ? size : 1);
	err = target ? symlink_read(ip, target, size, &len) : -ENOMEM;
	if (err == 0) {
		user_copy_out(buf, target, len);
		*ret_len = len;
	}
	return err;
}

int uext4_readlink(struct uext4_fs *fs, uint32_t ino, void *buf, size_t size, size_t *ret_len)
{
	diag_clear();
	return api_end_reap(fs, readlink_call(fs, ino, buf, size, ret_len));
}

/* ---- directories --------------------------------------------------------------------------- */

static int open_dir(struct uext4_fs *fs, uint32_t ino, struct uext4_dir **ret_dir)
{
	struct inode *ip INODE_SCOPE = NULL;
	struct uext4_dir *dir;
	int err;

	err = api_get_inode(fs, ino, &ip);
	if (err < 0)
		return err;
	if (!inode_is_dir(ip))
		return fail(-ENOTDIR, "inode %u is no directory", ino);
	dir = mem_alloc(sizeof(*dir));
	if (!dir)
		return -ENOMEM;
	dir->fs = fs;
	err = dir_cursor_create(ip, &dir->cursor);
	if (err < 0) {
		mem_free(dir);
		return err;
	}
	*ret_dir = dir;
	return 0;
}

int uext4_dir_open(struct uext4_fs *fs, uint32_t ino, struct uext4_dir **ret_dir)
{
	diag_clear();
	return api_end_reap(fs, open_dir(fs, ino, ret_dir));
}

void uext4_dir_close(struct uext4_dir *dir)
{
	struct uext4_fs *fs;

	if (!dir)
		return;
	fs = dir->fs;
	dir_cursor_destroy(dir->cursor);
	mem_free(dir);
	(void)api_end_reap(fs, 0);
}

int uext4_dir_read(struct uext4_dir *dir, uint64_t cookie, struct uext4_dirent *entries,
		   size_t count, size_t *ret_count)
{
	struct uext4_dirent *batch FREE_SCOPE = NULL;
	size_t done = 0, got;
	int err = 0;

	diag_clear();
	batch = mem_calloc(min_size(count, DIR_BATCH), sizeof(*batch));
	if (!batch)
		return api_end(count ? -ENOMEM : fail(-EINVAL, "room for no entry"));
	while (done < count) {
		err = dir_cursor_read(dir->cursor, cookie, batch, min_size(count - done, DIR_BATCH),
				      &got);
		if (err < 0 || got == 0)
			break;
		user_copy_out(entries + done, batch, got * sizeof(*batch));
		cookie = batch[got - 1].cookie;
		done += got;
	}
	/* Entries found before an error are given out; the next call meets the error again. */
	if (err < 0 && done == 0)
		return api_end(err);
	*ret_count = done;
	return api_end(0);
}

/* ---- file contents ------------------------------------------------------------------------- */

#define FILE_FLAGS                                                                    \
	(UEXT4_FILE_WRITE | UEXT4_FILE_APPEND | UEXT4_FILE_SYNC | UEXT4_FILE_DIRECT | \
	 UEXT4_FILE_KILL_PRIV | UEXT4_FILE_CHECKED)

int api_file_create(struct inode *ip, uint32_t flags, struct uext4_file **ret_file)
{
	struct uext4_file *file = mem_zalloc(sizeof(*file));

	if (!file)
		return -ENOMEM;
	file->ip = ip;
	file->flags = flags;
	mutex_init(&file->lock, RANK_leaf);
	file->error_seen = atomic_load(&ip->pages.error_seq);
	if (flags & UEXT4_FILE_WRITE)
		atomic_fetch_add(&ip->writers, 1);
	*ret_file = file;
	return 0;
}

static int check_file_open(const struct inode *ip, uint32_t flags)
{
	if (inode_is_dir(ip))
		return fail(-EISDIR, "inode %u is a directory", ip->ino);
	if (!inode_is_reg(ip))
		return fail(-EINVAL, "inode %u is no regular file", ip->ino);
	if (!(flags & UEXT4_FILE_WRITE))
		return 0;
	if (inode_has_flag(ip, EXT4_IMMUTABLE_FL | EXT4_VERITY_FL))
		return fail(-EPERM, "inode %u is immutable", ip->ino);
	if (inode_has_flag(ip, EXT4_APPEND_FL) &&
	    !(flags & (UEXT4_FILE_APPEND | UEXT4_FILE_CHECKED)))
		return fail(-EPERM, "inode %u is append-only", ip->ino);
	return fs_check_writable(ip->fs);
}

int uext4_file_open(struct uext4_fs *fs, uint32_t ino, uint32_t flags, struct uext4_file **ret_file)
{
	struct uext4_file *file;
	struct inode *ip;
	int err;

	diag_clear();
	if (flags & ~(uint32_t)FILE_FLAGS)
		return api_invalid("a flag that this version does not know");
	err = api_get_inode(fs, ino, &ip);
	if (err < 0)
		return api_end(err);
	err = check_file_open(ip, flags);
	if (err == 0)
		err = api_file_create(ip, flags, &file);
	if (err < 0) {
		inode_put(ip);
		return api_end_reap(fs, err);
	}
	*ret_file = file;
	return api_end(0);
}

/*
 * The last writer's preallocation ends with him.  What remains to be done for an inode that goes
 * now is not the closer's failure: an orphan stays one, until the next mount.
 */
void uext4_file_close(struct uext4_file *file)
{
	struct uext4_fs *fs;

	if (!file)
		return;
	fs = file->ip->fs;
	if ((file->flags & UEXT4_FILE_WRITE) && atomic_fetch_sub(&file->ip->writers, 1) == 1)
		balloc_discard_prealloc(file->ip);
	inode_put(file->ip);
	mutex_finish(&file->lock);
	mem_free(file);
	(void)api_end_reap(fs, 0);
}

uint32_t uext4_file_ino(const struct uext4_file *file)
{
	return file->ip->ino;
}

int uext4_pread(struct uext4_file *file, void *buf, size_t len, uint64_t offset, size_t *ret_read)
{
	diag_clear();
	return api_end(file_read(file->ip, buf, len, offset, ret_read));
}

void uext4_prefetch(struct uext4_file *file, uint64_t offset, uint64_t len)
{
	file_prefetch(file->ip, offset, len);
}

int uext4_seek(struct uext4_file *file, uint64_t offset, enum uext4_seek what, uint64_t *ret_offset)
{
	diag_clear();
	if (what != UEXT4_SEEK_DATA && what != UEXT4_SEEK_HOLE)
		return api_invalid("neither data nor hole is asked for");
	return api_end(file_seek(file->ip, offset, what, ret_offset));
}

static int extents_call(struct uext4_fs *fs, uint32_t ino, uint64_t offset, uint64_t len,
			struct uext4_extent *extents, size_t count, size_t *ret_count)
{
	struct inode *ip INODE_SCOPE = NULL;
	struct uext4_extent batch[EXTENT_BATCH];
	uint64_t end = add_ok(offset, len, &end) ? end : UINT64_MAX;
	size_t done = 0, got;
	int err;

	err = api_get_inode(fs, ino, &ip);
	if (err < 0)
		return err;
	while (done < count && offset < end) {
		err = file_extents(ip, offset, end - offset, batch,
				   min_size(count - done, EXTENT_BATCH), &got);
		if (err < 0)
			return err;
		if (got == 0)
			break;
		user_copy_out(extents + done, batch, got * sizeof(batch[0]));
		offset = batch[got - 1].logical + batch[got - 1].length;
		done += got;
	}
	*ret_count = done;
	return 0;
}

int uext4_extents(struct uext4_fs *fs, uint32_t ino, uint64_t offset, uint64_t len,
		  struct uext4_extent *extents, size_t count, size_t *ret_count)
{
	diag_clear();
	return api_end_reap(fs, extents_call(fs, ino, offset, len, extents, count, ret_count));
}

/* ---- extended attributes ------------------------------------------------------------------- */

/* What list and get have in common: ask the engine into memory of its own, hand the bytes out. */
static int xattr_call(struct uext4_fs *fs, uint32_t ino, const char *name, void *buf, size_t size,
		      size_t *ret_size)
{
	struct inode *ip INODE_SCOPE = NULL;
	void *big FREE_SCOPE = NULL;
	char small[SMALL_VALUE];
	void *value = small;
	size_t got;
	int err;

	err = api_get_inode(fs, ino, &ip);
	if (err < 0)
		return err;
	size = min_size(size, VALUE_MAX);
	if (size > sizeof(small)) {
		big = mem_alloc(size);
		if (!big)
			return -ENOMEM;
		value = big;
	}
	if (name)
		err = xattr_get(ip, name, value, size, &got);
	else
		err = xattr_list(ip, value, size, &got);
	if (err < 0)
		return err;
	if (size != 0)
		user_copy_out(buf, value, got);
	*ret_size = got;
	return 0;
}

int uext4_xattr_list(struct uext4_fs *fs, uint32_t ino, char *buf, size_t size, size_t *ret_size)
{
	diag_clear();
	return api_end_reap(fs, xattr_call(fs, ino, NULL, buf, size, ret_size));
}

int uext4_xattr_get(struct uext4_fs *fs, uint32_t ino, const char *name, void *buf, size_t size,
		    size_t *ret_size)
{
	char own[XATTR_NAME_MAX + 1];
	size_t name_len;

	diag_clear();
	if (!name)
		return api_invalid("no name");
	name_len = strnlen(name, sizeof(own));
	if (name_len == sizeof(own))
		return api_end(fail(-ERANGE, "the attribute's name is too long"));
	user_copy_in(own, name, name_len + 1);
	return api_end_reap(fs, xattr_call(fs, ino, own, buf, size, ret_size));
}
