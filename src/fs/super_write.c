/* SPDX-License-Identifier: MIT */
/*
 * A file system that is open for writing: how it begins, what it says of itself, how it ends.
 *
 *  U1  The superblock says "in use" (RECOVER with a journal, no VALID_FS without) durably before
 *      anything else is changed, and "clean" only after the last home write was flushed (J9).
 *      Both are written past the journal, which is empty at those moments.
 *  U2  After an abort nothing is written but the fact, in a fresh copy of the superblock (J7).
 *  U3  While it is in use the superblock changes in its buffer, under super_lock, in a handle.
 */
#include "fs/balloc.h"
#include "fs/fs_priv.h"
#include "fs/quota.h"
#include "fs/xattr.h"

#include "base/diag.h"
#include "base/mem.h"
#include "disk/seal.h"

#define SUPER_OFFSET 1024u
#define DIRTY_INODES 64u

/* ---- the buffer ------------------------------------------------------------------------------ */

static int super_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return 0; /* the superblock in it was verified when the file system was opened */
}

static void super_seal(struct buf *buf UNUSED, uint64_t owner UNUSED, void *arg)
{
	struct uext4_fs *fs = arg;

	mutex_lock(&fs->super_lock);
	seal_super(super_of(fs));
	mutex_unlock(&fs->super_lock);
}

static const struct buf_ops super_ops = {
	.name = "superblock",
	.verify = super_verify,
	.seal = super_seal,
};

struct ext4_super_block *super_of(struct uext4_fs *fs)
{
	uint32_t at = SUPER_OFFSET % fs->geom.block_size;

	return (struct ext4_super_block *)(void *)(fs->super_buf->data + at);
}

void super_changed(struct handle *h, struct uext4_fs *fs)
{
	handle_dirty_unsealed(h, fs->super_buf);
}

static void set_wide_time(le32 *low, uint8_t *high)
{
	int64_t sec;
	uint32_t nsec;

	clock_real(&sec, &nsec);
	*low = le32_make((uint32_t)sec);
	*high = (uint8_t)(sec >> 32);
}

/* U1: past the journal. */
static int write_directly(struct uext4_fs *fs) REQUIRES(&fs->super_lock)
{
	struct ext4_super_block *sb = super_of(fs);
	int err;

	set_wide_time(&sb->s_wtime, &sb->s_wtime_hi);
	seal_super(sb);
	err = dev_write(fs->dev, SUPER_OFFSET, sb, sizeof(*sb));
	if (err == 0)
		err = dev_flush(fs->dev);
	return err < 0 ? fail_in(err, "superblock") : 0;
}

static void set_feature(le32 *word, uint32_t feature, bool on)
{
	uint32_t value = le32_get(*word);

	*word = le32_make(on ? value | feature : value & ~feature);
}

int super_write_in_use(struct uext4_fs *fs)
{
	bool has_journal = geom_has_compat(&fs->geom, EXT4_FEATURE_COMPAT_HAS_JOURNAL);
	struct ext4_super_block *sb;
	int err;

	mutex_lock(&fs->super_lock);
	sb = super_of(fs);
	if (has_journal)
		set_feature(&sb->s_feature_incompat, EXT4_FEATURE_INCOMPAT_RECOVER, true);
	else
		sb->s_state = le16_make(le16_get(sb->s_state) & (uint16_t)~EXT4_VALID_FS);
	if (fs->orphan_file)
		set_feature(&sb->s_feature_ro_compat, EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT, true);
	err = write_directly(fs);
	mutex_unlock(&fs->super_lock);
	return err;
}

int super_write_clean(struct uext4_fs *fs)
{
	struct ext4_super_block *sb;
	int err;

	mutex_lock(&fs->super_lock);
	sb = super_of(fs);
	set_feature(&sb->s_feature_incompat, EXT4_FEATURE_INCOMPAT_RECOVER, false);
	/* Without a journal open orphans would be lost to everybody but fsck. */
	if (list_empty(&fs->orphans))
		sb->s_state = le16_make((uint16_t)(le16_get(sb->s_state) | EXT4_VALID_FS));
	if (!fs->orphan_file || orphan_file_is_empty(fs))
		set_feature(&sb->s_feature_ro_compat, EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT, false);
	if (fs->balloc) /* opening may have failed before there was one */
		balloc_fill_super(fs, sb);
	super_add_note(fs, sb);
	err = write_directly(fs);
	mutex_unlock(&fs->super_lock);
	return err;
}

static int need_feature(struct handle *h, struct uext4_fs *fs, le32 *word, uint32_t feature)
	REQUIRES(&fs->super_lock)
{
	int err;

	if (le32_get(*word) & feature)
		return 0;
	err = handle_get_write(h, fs->super_buf);
	if (err < 0)
		return err;
	set_feature(word, feature, true);
	super_changed(h, fs);
	return 0;
}

int fs_set_ro_compat(struct handle *h, struct uext4_fs *fs, uint32_t feature)
{
	int err;

	mutex_lock(&fs->super_lock);
	err = need_feature(h, fs, &super_of(fs)->s_feature_ro_compat, feature);
	mutex_unlock(&fs->super_lock);
	return err;
}

int fs_set_compat(struct handle *h, struct uext4_fs *fs, uint32_t feature)
{
	int err;

	mutex_lock(&fs->super_lock);
	err = need_feature(h, fs, &super_of(fs)->s_feature_compat, feature);
	mutex_unlock(&fs->super_lock);
	return err;
}

/* ---- errors ---------------------------------------------------------------------------------- */

int fs_check_writable(struct uext4_fs *fs)
{
	int err = atomic_load(&fs->error);

	if (!fs->writable)
		return fail(-EROFS, "the image is open for reading");
	if (unlikely(err != 0))
		return fail(-EROFS, "the file system became read-only after an error (%s)",
			    strerrordesc_np(-err));
	return 0;
}

/* The first one stays; all of it is written with the superblock, when that is written next. */
static void note_error(struct uext4_fs *fs, int err, uint32_t ino, blk_t blk)
{
	struct super_note *note = &fs->note;
	int64_t sec;
	uint32_t nsec;

	clock_real(&sec, &nsec);
	mutex_lock(&fs->note_lock);
	note->count++;
	note->last = (struct super_error){ .sec = sec, .ino = ino, .blk = blk, .err = err };
	if (note->count == 1)
		note->first = note->last;
	mutex_unlock(&fs->note_lock);
}

/* s_first_error_errcode and its kind: numbers of the format, not of errno. */
static uint8_t disk_errcode(int err)
{
	switch (err) {
	case -EIO: return 2;
	case -ENOMEM: return 3;
	case -EFSBADCRC: return 4;
	case -EFSCORRUPTED: return 5;
	case -ENOSPC: return 6;
	case -EROFS: return 8;
	default: return 1;
	}
}

void super_add_note(struct uext4_fs *fs, struct ext4_super_block *sb)
{
	static const uint8_t where[32] = "uext4";
	struct super_note note;

	mutex_lock(&fs->note_lock);
	note = fs->note;
	fs->note.count = 0;
	mutex_unlock(&fs->note_lock);
	if (note.count == 0)
		return;
	sb->s_state = le16_make((uint16_t)(le16_get(sb->s_state) | EXT4_ERROR_FS));
	if (le32_get(sb->s_error_count) == 0) {
		sb->s_first_error_time = le32_make((uint32_t)note.first.sec);
		sb->s_first_error_time_hi = (uint8_t)(note.first.sec >> 32);
		sb->s_first_error_ino = le32_make(note.first.ino);
		sb->s_first_error_block = le64_make(note.first.blk);
		sb->s_first_error_errcode = disk_errcode(note.first.err);
		memcpy(sb->s_first_error_func, where, sizeof(where));
	}
	sb->s_last_error_time = le32_make((uint32_t)note.last.sec);
	sb->s_last_error_time_hi = (uint8_t)(note.last.sec >> 32);
	sb->s_last_error_ino = le32_make(note.last.ino);
	sb->s_last_error_block = le64_make(note.last.blk);
	sb->s_last_error_errcode = disk_errcode(note.last.err);
	memcpy(sb->s_last_error_func, where, sizeof(where));
	sb->s_error_count = le32_make(le32_get(sb->s_error_count) + note.count);
}

int fs_error(struct uext4_fs *fs, int err, uint32_t ino, blk_t blk)
{
	assert(err < 0);
	if (!fs->writable)
		return err;
	note_error(fs, err, ino, blk);
	if (fs->errors != FS_ERRORS_CONTINUE && fs->log)
		txn_log_abort(fs->log, err);
	return err;
}

static void on_committed(void *arg, tid_t tid)
{
	struct uext4_fs *fs = arg;

	if (fs->balloc)
		balloc_committed(fs, tid);
}

static void on_aborted(void *arg, int err)
{
	struct uext4_fs *fs = arg;

	atomic_store(&fs->error, err);
	note_error(fs, err, 0, 0);
}

static const struct txn_log_ops log_ops = { .committed = on_committed, .aborted = on_aborted };

/* ---- opening --------------------------------------------------------------------------------- */

static int check_features(const struct uext4_fs *fs)
{
	const struct geom *g = &fs->geom;
	uint32_t unknown = fs->info.unknown_ro_compat;

	for (unsigned bit = 0; bit < 32; bit++) {
		const char *name = feature_name(2, bit);

		if (unknown & 1u << bit)
			return fail(-EOPNOTSUPP, "feature %s: can only be opened for reading",
				    name ? name : "(unknown, ro_compat)");
	}
	if (geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_READONLY))
		return fail(-EROFS, "feature read-only: can only be opened for reading");
	if (geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_SHARED_BLOCKS))
		return fail(-EROFS, "feature shared_blocks: can only be opened for reading");
	return 0;
}

/* Replays what is pending into the device, and leaves the log empty but for fast commits (J8). */
static int recover_journal(struct uext4_fs *fs, const struct fs_options *options, struct journal *j)
{
	struct journal_recovery result;
	bool pending;
	int err;

	pending = super_fill_journal_info(&fs->info, j) && fs->info.journal_dirty;
	if (!pending)
		return journal_discard(j);
	err = journal_recover(j, fs->dev, fs->geom.blocks, &result);
	if (err == 0)
		err = super_reload(fs, options);
	if (err == 0)
		err = super_recover_fast_commits(fs, j, result.next_tid, options);
	if (err == 0)
		err = dev_flush(fs->dev);
	if (err == 0 && !fs->fast_tags)
		err = journal_mark_empty(j, result.next_tid);
	if (err < 0)
		return err;
	super_fill_replayed(&fs->info, &result);
	return 0;
}

static int start_log(struct uext4_fs *fs, const struct fs_options *options)
{
	struct txn_log_options log_options = {
		.ops = &log_ops,
		.arg = fs,
		.cache = fs->cache,
		.dev = fs->dev,
		.commit_interval_ms = options->commit_interval_ms,
		.no_barrier = options->no_barrier,
		.wide = geom_has_incompat(&fs->geom, EXT4_FEATURE_INCOMPAT_64BIT),
		.csum = geom_has_ro_compat(&fs->geom, EXT4_FEATURE_RO_COMPAT_METADATA_CSUM),
	};
	struct journal *j;
	int err;

	if (!geom_has_compat(&fs->geom, EXT4_FEATURE_COMPAT_HAS_JOURNAL))
		return txn_log_create_none(&log_options, &fs->log);
	err = super_journal_open(fs, options->journal_dev, &j);
	if (err == 0) {
		err = recover_journal(fs, options, j);
		log_options.fast_tid = fs->fast_tid;
		if (err == 0)
			err = txn_log_create(j, &log_options, &fs->log);
		if (err == 0 && fs->fast_tags)
			return txn_log_hold(fs->log);
		if (err < 0)
			journal_close(j);
	}
	/* A journal that is damaged is not the same as a damaged file system. */
	if ((err == -EFSCORRUPTED || err == -EFSBADCRC) && fs->info.journal_dirty)
		return fail_in(-ENOTRECOVERABLE, "the journal is pending and cannot be replayed");
	return err;
}

static int take_super_buf(struct uext4_fs *fs)
{
	struct buf *buf;
	int err;

	err = buf_read(fs->cache, SUPER_OFFSET / fs->geom.block_size, &super_ops, 0, NULL, 0, &buf);
	if (err < 0)
		return err;
	mutex_lock(&fs->super_lock);
	fs->super_buf = buf;
	mutex_unlock(&fs->super_lock);
	return 0;
}

static void count_mount(struct uext4_fs *fs)
{
	struct ext4_super_block *sb;

	mutex_lock(&fs->super_lock);
	sb = super_of(fs);
	sb->s_mnt_count = le16_make((uint16_t)(le16_get(sb->s_mnt_count) + 1));
	set_wide_time(&sb->s_mtime, &sb->s_mtime_hi);
	mutex_unlock(&fs->super_lock);
}

static void take_options(struct uext4_fs *fs, const struct fs_options *options)
{
	uint16_t on_disk = le16_get(fs->super.s_errors);

	fs->writable = true;
	fs->journal_dev = options->journal_dev;
	fs->data_mode = options->data_mode;
	fs->dirty_max_bytes = options->dirty_max_bytes;
	fs->delalloc = !options->nodelalloc && options->data_mode != FS_DATA_JOURNAL;
	fs->no_barrier = options->no_barrier;
	fs->resuid = le16_get(fs->super.s_def_resuid);
	fs->resgid = le16_get(fs->super.s_def_resgid);
	fs->errors = options->errors;
	if (!fs->errors)
		fs->errors = on_disk >= FS_ERRORS_CONTINUE && on_disk <= FS_ERRORS_PANIC
				     ? (enum fs_errors)on_disk
				     : FS_ERRORS_CONTINUE;
}

/* What fast commits said becomes the transaction they stand for; the log is held since it began. */
static int apply_fast_commits(struct uext4_fs *fs)
{
	int err;

	assert(txn_log_running(fs->log) == fs->fast_tid);
	err = fastcommit_apply(fs, fs->fast_tags, fs->fast_bytes);
	if (err == -ENOMEM || err == -EIO)
		return fail_in(err, "replaying fast commits");
	if (err < 0)
		return fail_in(-ENOTRECOVERABLE, "fast commits are pending and cannot be replayed");
	txn_log_release(fs->log);
	mem_free(fs->fast_tags);
	fs->fast_tags = NULL;
	return txn_log_commit(fs->log, fs->fast_tid);
}

int super_start_parts(struct uext4_fs *fs)
{
	uint32_t orphans;
	int err;

	err = fs->super_buf ? 0 : take_super_buf(fs);
	if (err == 0)
		err = balloc_create(fs);
	if (err == 0)
		err = xattr_open(fs);
	if (err == 0)
		err = orphan_open(fs);
	if (err == 0)
		err = quota_open(fs);
	if (err == 0 && fs->fast_tags)
		err = apply_fast_commits(fs);
	if (err == 0)
		err = orphan_process(fs, &orphans);
	if (err == 0)
		err = cache_start_flusher(fs->cache, fs->dirty_max_bytes);
	return err;
}

int super_start_writing(struct uext4_fs *fs, const struct fs_options *options)
{
	int err;

	take_options(fs, options);
	err = check_features(fs);
	if (err == 0)
		err = freeze_create(fs);
	if (err == 0)
		err = mmp_claim(fs);
	if (err == 0)
		err = start_log(fs, options);
	if (err == 0)
		err = take_super_buf(fs);
	if (err == 0) {
		count_mount(fs);
		err = super_write_in_use(fs);
	}
	if (err == 0)
		err = super_start_parts(fs);
	return err;
}

/* ---- closing --------------------------------------------------------------------------------- */

static int flush_times(struct uext4_fs *fs)
{
	struct inode *dirty[DIRTY_INODES];
	size_t count;
	int err = 0;

	do {
		count = icache_find_dirty(fs->icache, dirty, DIRTY_INODES);
		for (size_t i = 0; i < count; i++) {
			err = first_error(err, inode_flush_times(dirty[i]));
			inode_put(dirty[i]);
		}
	} while (count > 0 && err == 0);
	return err;
}

int fs_sync(struct uext4_fs *fs)
{
	int err;

	err = fs_check_writable(fs);
	if (err < 0)
		return err;
	err = cache_flush(fs->cache);
	err = first_error(err, fs_reap(fs)); /* times of inodes that nobody holds any more */
	err = first_error(err, flush_times(fs));
	return first_error(err, txn_log_sync(fs->log));
}

/* U2 */
static void write_abort_note(struct uext4_fs *fs)
{
	struct ext4_super_block sb;
	int err;

	err = dev_read(fs->dev, SUPER_OFFSET, &sb, sizeof(sb));
	if (err < 0)
		return;
	super_add_note(fs, &sb);
	seal_super(&sb);
	err = dev_write(fs->dev, SUPER_OFFSET, &sb, sizeof(sb));
	if (err == 0)
		err = dev_flush(fs->dev);
	(void)err; /* what caused the abort was told already */
}

int super_stop_writing(struct uext4_fs *fs)
{
	bool began;
	int err = 0;

	/* Fast commits that were not applied stay what they are: nothing else may be written. */
	if (fs->fast_tags && fs->log)
		scope_forget(fs);
	began = fs->super_buf != NULL;
	if (fs->in_scope) /* it was not committed */
		err = fs_scope_cancel(fs);
	if (began && fs_is_frozen(fs))
		err = first_error(err, fs_thaw(fs));
	if (fs->log) {
		cache_stop_flusher(fs->cache);
		if (err == 0 && atomic_load(&fs->error) == 0)
			err = fs_sync(fs);
		err = first_error(err, inode_reap(fs));
		cache_drop_dirty(fs->cache);		/* what an abort left */
		err = first_error(err, inode_reap(fs)); /* and its inodes */
		orphan_close(fs);
		quota_close(fs);
		icache_forget(fs->icache);
		err = first_error(err, txn_log_destroy(fs->log));
		fs->log = NULL;
	}
	if (err == 0)
		err = atomic_load(&fs->error);
	if (began && err == 0)
		err = super_write_clean(fs);
	else if (began)
		write_abort_note(fs);
	buf_put(fs->super_buf);
	fs->super_buf = NULL;
	xattr_close(fs);
	balloc_destroy(fs);
	return err;
}
