/* SPDX-License-Identifier: MIT */
/*
 * Opening and closing a file system: the superblock, and recovery before anything else is read.
 *
 * For a reader, nothing here writes the device: a dirty journal is replayed into an overlay, which
 * then stands in for the device; closing forgets it.  For a writer recovery goes to the device, and
 * super_write.c makes the rest of a writable file system.
 *
 *  S1  Nothing but the superblock, the journal and the journal's inode is believed before recovery;
 *      after it, everything that was cached is forgotten and the superblock is read again.
 */
#include "fs/fs_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#define CACHE_BYTES_DEFAULT (32u << 20)
#define SUPER_OFFSET 1024u
#define JOURNAL_RUNS_MAX 65536u

/* ---- the superblock ------------------------------------------------------------------------ */

static int super_read_at(struct dev *dev, uint64_t offset, struct ext4_super_block *sb)
{
	if (offset > dev->size || dev->size - offset < sizeof(*sb))
		return fail(-EINVAL, "the device ends before the superblock at byte %llu",
			    (unsigned long long)offset);
	return dev_read(dev, offset, sb, sizeof(*sb));
}

/* A copy in block @blk of @block_size: does it say so itself? */
static int super_try_backup(struct dev *dev, uint64_t blk, uint32_t block_size,
			    struct ext4_super_block *sb)
{
	uint64_t offset;
	uint32_t log;
	int err;

	if (!mul_ok(blk, block_size, &offset))
		return fail(-EINVAL, "no superblock at block %llu", (unsigned long long)blk);
	err = super_read_at(dev, offset, sb);
	if (err < 0)
		return err;
	log = le32_get(sb->s_log_block_size);
	if (le16_get(sb->s_magic) != EXT4_SUPER_MAGIC || log > 6 || 1024u << log != block_size)
		return fail(-EINVAL, "no superblock at block %llu of %u bytes",
			    (unsigned long long)blk, block_size);
	return 0;
}

static int super_read(struct dev *dev, const struct fs_options *options,
		      struct ext4_super_block *sb)
{
	int err = -EINVAL;

	if (options->superblock == 0)
		return super_read_at(dev, SUPER_OFFSET, sb);
	if (options->block_size != 0)
		return super_try_backup(dev, options->superblock, options->block_size, sb);
	for (uint32_t size = 1024; size <= 65536; size *= 2) {
		err = super_try_backup(dev, options->superblock, size, sb);
		if (err != -EINVAL)
			return err;
	}
	return fail(-EINVAL, "no superblock at block %llu, whatever the block size",
		    (unsigned long long)options->superblock);
}

static int64_t wide_time(le32 lo, uint8_t hi)
{
	return (int64_t)((uint64_t)hi << 32 | le32_get(lo));
}

static void fill_info(struct uext4_fs *fs)
{
	const struct ext4_super_block *sb = &fs->super;
	const struct geom *g = &fs->geom;
	struct uext4_info *info = &fs->info;

	memcpy(info->uuid, g->uuid, sizeof(info->uuid));
	memcpy(info->label, sb->s_volume_name, sizeof(sb->s_volume_name));
	memcpy(info->last_mounted, sb->s_last_mounted, sizeof(sb->s_last_mounted));
	info->features[UEXT4_COMPAT] = g->compat;
	info->features[UEXT4_INCOMPAT] = g->incompat;
	info->features[UEXT4_RO_COMPAT] = g->ro_compat;
	info->unknown_ro_compat = g->ro_compat & ~GEOM_RO_COMPAT_KNOWN;
	info->revision = le32_get(sb->s_rev_level);
	info->state = le16_get(sb->s_state);
	info->errors_policy = le16_get(sb->s_errors);
	info->error_count = le32_get(sb->s_error_count);
	info->block_size = g->block_size;
	info->cluster_size = g->block_size << g->cluster_ratio_bits;
	info->inode_size = g->inode_size;
	info->desc_size = g->desc_size;
	info->blocks_per_group = g->blocks_per_group;
	info->inodes_per_group = g->inodes_per_group;
	info->groups = g->groups;
	info->hash_version = g->hash_version;
	info->blocks = g->blocks;
	info->blocks_reserved = u64_from_lo_hi(sb->s_r_blocks_count_lo, sb->s_r_blocks_count_hi);
	info->inodes = g->inodes;
	info->made_time = wide_time(sb->s_mkfs_time, sb->s_mkfs_time_hi);
	info->mount_time = wide_time(sb->s_mtime, sb->s_mtime_hi);
	info->write_time = wide_time(sb->s_wtime, sb->s_wtime_hi);
	info->check_time = wide_time(sb->s_lastcheck, sb->s_lastcheck_hi);
	info->mount_count = le16_get(sb->s_mnt_count);
}

/* Takes over the superblock in fs->dev; before and after recovery. */
int super_load(struct uext4_fs *fs, const struct fs_options *options)
{
	int err;

	err = super_read(fs->dev, options, &fs->super);
	if (err < 0)
		return err;
	err = geom_init(&fs->super, fs->dev->size, &fs->geom);
	if (err < 0)
		return err;
	fs->super_blk = options->superblock;
	if (fs->super_blk == 0)
		fs->super_blk = SUPER_OFFSET / fs->geom.block_size;
	fill_info(fs);
	return 0;
}

/* ---- where the journal is ------------------------------------------------------------------ */

struct runs {
	struct journal_run *run;
	size_t count;
};

static int runs_add(struct runs *runs, lblk_t logical, uint32_t count, blk_t physical)
{
	if ((runs->count & (runs->count - 1)) == 0) {
		size_t room = runs->count ? runs->count * 2 : 1;
		struct journal_run *run;

		if (room > JOURNAL_RUNS_MAX)
			return corrupt("the journal is in more than %u pieces", JOURNAL_RUNS_MAX);
		run = mem_realloc(runs->run, room * sizeof(*run));
		if (!run)
			return -ENOMEM;
		runs->run = run;
	}
	runs->run[runs->count++] =
		(struct journal_run){ .logical = logical, .count = count, .physical = physical };
	return 0;
}

static int journal_runs_of_inode(struct uext4_fs *fs, struct runs *runs)
{
	struct inode *ip INODE_SCOPE = NULL;
	uint64_t blocks;
	int err;

	err = inode_get(fs, le32_get(fs->super.s_journal_inum), &ip);
	if (err == -ESTALE || err == -EINVAL)
		return corrupt("inode %u is no journal", le32_get(fs->super.s_journal_inum));
	if (err < 0)
		return fail_in(err, "journal");
	blocks = ip->size >> fs->geom.block_bits;
	if (!inode_is_reg(ip) || ip->state != INODE_BLOCKS || blocks > UINT32_MAX)
		return corrupt("inode %u is no journal", ip->ino);
	for (lblk_t lblk = 0; lblk < blocks;) {
		struct map_ext ext;

		err = map_read(ip, lblk, &ext);
		if (err < 0)
			return fail_in(err, "journal");
		if (ext.state == MAP_HOLE)
			return corrupt("the journal has a hole at its block %u", lblk);
		ext.count = (uint32_t)min_u64(ext.count, blocks - lblk);
		err = runs_add(runs, lblk, ext.count, ext.physical);
		if (err < 0)
			return err;
		lblk += ext.count;
	}
	return 0;
}

/*
 * An external journal: a device with an ext4 superblock of its own, the journal's in the next
 * block.
 */
static int journal_runs_of_device(struct uext4_fs *fs, struct dev *dev, struct runs *runs)
{
	const struct geom *g = &fs->geom;
	struct ext4_super_block sb;
	blk_t first = SUPER_OFFSET / g->block_size + 1;
	uint64_t blocks;
	int err;

	err = super_read_at(dev, SUPER_OFFSET, &sb);
	if (err < 0)
		return err;
	if (le16_get(sb.s_magic) != EXT4_SUPER_MAGIC ||
	    !(le32_get(sb.s_feature_incompat) & EXT4_FEATURE_INCOMPAT_JOURNAL_DEV))
		return fail(-ENOTRECOVERABLE, "the device given as journal is none");
	if (memcmp(sb.s_uuid, fs->super.s_journal_uuid, sizeof(sb.s_uuid)) != 0)
		return fail(-ENOTRECOVERABLE,
			    "the journal device given belongs to another file system");
	blocks = min_u64(le32_get(sb.s_blocks_count_lo), dev->size >> g->block_bits);
	if (blocks <= first)
		return fail(-ENOTRECOVERABLE, "the journal device is too small");
	/*
	 * Blocks of the log are numbered as on the device; only the journal's superblock is block
	 * 0.
	 */
	err = runs_add(runs, 0, 1, first);
	return err < 0 ? err : runs_add(runs, 1, (uint32_t)(blocks - 1), 1);
}

int super_journal_open(struct uext4_fs *fs, struct dev *external, struct journal **ret_journal)
{
	struct runs runs = { 0 };
	struct dev *dev = fs->dev;
	int err;

	if (le32_get(fs->super.s_journal_inum) != 0) {
		err = journal_runs_of_inode(fs, &runs);
	} else if (external) {
		dev = external;
		err = journal_runs_of_device(fs, external, &runs);
	} else {
		return fail(-ENOTRECOVERABLE,
			    "the journal is on another device, which was not given");
	}
	if (err == 0)
		err = journal_open(dev, runs.run, runs.count, fs->geom.block_size, ret_journal);
	mem_free(runs.run);
	return err;
}

/* Returns whether there is anything to recover. */
void super_fill_replayed(struct uext4_info *info, const struct journal_recovery *result)
{
	info->journal_replayed = 1;
	info->replayed_transactions = result->transactions;
	info->replayed_blocks = result->blocks;
	info->replayed_revokes = result->revokes;
}

bool super_fill_journal_info(struct uext4_info *info, const struct journal *journal)
{
	struct journal_info ji;

	journal_get_info(journal, &ji);
	info->journal_blocks = ji.blocks;
	info->journal_fast_blocks = ji.fast_blocks;
	info->journal_checksum = ji.checksum;
	return ji.start != 0;
}

/* ---- recovery ------------------------------------------------------------------------------ */

/* Forgets what was read before recovery changed it (S1). */
int super_reload(struct uext4_fs *fs, const struct fs_options *options)
{
	struct geom before = fs->geom;
	int err;

	icache_forget(fs->icache);
	cache_forget_buffers(fs->cache);
	err = super_load(fs, options);
	if (err < 0)
		return fail_in(err, "after replaying the journal");
	/* A transaction may add features and free blocks; it may not reshape what is open. */
	if (before.block_size != fs->geom.block_size || before.inode_size != fs->geom.inode_size ||
	    before.inodes_per_group != fs->geom.inodes_per_group ||
	    before.blocks_per_group != fs->geom.blocks_per_group)
		return corrupt("the journal replaces the superblock by one of another file system");
	cache_set_geometry(fs->cache, fs->geom.block_size, fs->geom.blocks);
	return 0;
}

int super_recover_fast_commits(struct uext4_fs *fs, struct journal *journal, uint32_t next_tid,
			       const struct fs_options *options)
{
	uint8_t *tags FREE_SCOPE = NULL;
	uint32_t commits = 0;
	size_t bytes = 0;
	int err;

	if (!geom_has_compat(&fs->geom, EXT4_FEATURE_COMPAT_FAST_COMMIT))
		return 0;
	err = journal_fast_commits(journal, next_tid, &tags, &bytes, &commits);
	if (err < 0)
		return err;
	fs->info.replayed_fast_commits = commits;
	if (bytes == 0)
		return 0;
	if (options->write) { /* when everything is there to do it with */
		fs->fast_tags = tags;
		fs->fast_bytes = bytes;
		fs->fast_tid = next_tid;
		tags = NULL;
		return 0;
	}
	err = fastcommit_replay(fs, tags, bytes);
	if (err < 0)
		return fail_in(err, "fast commit");
	return super_reload(fs, options);
}

static int recover(struct uext4_fs *fs, const struct fs_options *options)
{
	struct journal *journal = NULL;
	struct journal_recovery result;
	int err;

	err = super_journal_open(fs, options->journal_dev, &journal);
	if (err < 0)
		goto out;
	if (super_fill_journal_info(&fs->info, journal))
		fs->info.journal_dirty = 1;
	if (!fs->info.journal_dirty)
		goto out;
	err = journal_recover(journal, fs->dev, fs->geom.blocks, &result);
	if (err < 0)
		goto out;
	super_fill_replayed(&fs->info, &result);
	err = super_reload(fs, options);
	if (err == 0)
		err = super_recover_fast_commits(fs, journal, result.next_tid, options);
out:
	journal_close(journal);
	/*
	 * What the journal needs but is damaged or missing is not the same as a damaged file
	 * system.
	 */
	if (err == -EFSCORRUPTED || err == -EFSBADCRC)
		return fail_in(-ENOTRECOVERABLE, "the journal is pending and cannot be replayed");
	return err;
}

/* ---- open and close ------------------------------------------------------------------------ */

static int prepare_dev(struct uext4_fs *fs, struct dev *dev, const struct fs_options *options)
{
	struct uext4_info *info = &fs->info;
	struct dev *overlay;
	bool has_journal;
	int err;

	fs->dev = dev;
	err = super_load(fs, options);
	if (err < 0)
		return err;
	has_journal = geom_has_compat(&fs->geom, EXT4_FEATURE_COMPAT_HAS_JOURNAL);
	if (has_journal) {
		info->journal_ino = le32_get(fs->super.s_journal_inum);
		info->journal_external = info->journal_ino == 0;
		info->journal_dirty = geom_has_incompat(&fs->geom, EXT4_FEATURE_INCOMPAT_RECOVER);
	}
	/* A backup superblock never says that a journal is pending: the journal has to be asked. */
	if ((info->journal_dirty || (has_journal && options->superblock)) && !options->norecovery &&
	    !options->write) {
		err = dev_overlay_create(dev, fs->geom.block_size, &overlay);
		if (err < 0)
			return err;
		fs->dev = overlay;
	}
	return 0;
}

static int prepare_caches(struct uext4_fs *fs, const struct fs_options *options)
{
	uint64_t budget = options->cache_bytes ? options->cache_bytes : CACHE_BYTES_DEFAULT;
	uint64_t inodes = budget / 8 / (sizeof(struct inode) + fs->geom.inode_size);
	int err;

	err = cache_create(fs->dev, budget, &fs->cache);
	if (err < 0)
		return err;
	cache_set_geometry(fs->cache, fs->geom.block_size, fs->geom.blocks);
	return icache_create(fs, (uint32_t)min_u64(inodes, 1u << 20), &fs->icache);
}

int fs_close(struct uext4_fs *fs)
{
	int err = fs->writable ? super_stop_writing(fs) : 0;

	icache_destroy(fs->icache);
	cache_destroy(fs->cache);
	fastcommit_destroy(fs->fc);
	mmp_release(fs);
	mutex_finish(&fs->count_lock);
	mutex_finish(&fs->super_lock);
	mutex_finish(&fs->rename_lock);
	mutex_finish(&fs->note_lock);
	mutex_finish(&fs->data_flush.lock);
	cond_finish(&fs->data_flush.done);
	mutex_finish(&fs->map_watch.lock);
	cond_finish(&fs->map_watch.done);
	freeze_destroy(fs->freeze);
	mem_free(fs->fast_tags);
	dev_close(fs->dev);
	dev_close(fs->journal_dev);
	mem_free(fs);
	return err;
}

static struct uext4_fs *fs_new(const struct mapping_ops *file_ops)
{
	struct uext4_fs *fs = mem_zalloc(sizeof(*fs));

	if (!fs)
		return NULL;
	mutex_init(&fs->count_lock, RANK_leaf);
	mutex_init(&fs->super_lock, RANK_super);
	mutex_init(&fs->rename_lock, RANK_rename);
	mutex_init(&fs->note_lock, RANK_leaf);
	mutex_init(&fs->data_flush.lock, RANK_leaf);
	cond_init(&fs->data_flush.done);
	mutex_init(&fs->map_watch.lock, RANK_leaf);
	cond_init(&fs->map_watch.done);
	list_init(&fs->orphans);
	fs->file_ops = file_ops;
	return fs;
}

int fs_open(struct dev *dev, const struct fs_options *options, const struct mapping_ops *file_ops,
	    struct uext4_fs **ret_fs)
{
	struct uext4_fs *fs = fs_new(file_ops);
	int err;

	if (!fs) {
		dev_close(dev);
		return -ENOMEM;
	}
	err = prepare_dev(fs, dev, options);
	if (err == 0)
		err = prepare_caches(fs, options);
	if (err == 0 && options->write) {
		err = super_start_writing(fs, options);
	} else if (err == 0) {
		if (!options->nolock)
			err = mmp_check(fs);
		if (err == 0 && fs->dev != dev)
			err = recover(fs, options);
	}
	if (err < 0) {
		(void)fs_close(fs);
		return err;
	}
	*ret_fs = fs;
	return 0;
}

/* What is damaged is left out: information is wanted most of images that are. */
void fs_info(struct uext4_fs *fs, struct uext4_info *ret)
{
	struct uext4_info info = fs->info;
	struct journal *journal = NULL;

	info.free_known = group_count_free(fs, &info.blocks_free, &info.inodes_free) == 0;
	if (info.journal_ino != 0 && info.journal_blocks == 0 &&
	    super_journal_open(fs, NULL, &journal) == 0) {
		(void)super_fill_journal_info(&info, journal);
		journal_close(journal);
	}
	/* While it is open for writing the orphans are those of this moment: of no interest. */
	info.orphans_known = !fs->writable && orphan_count(fs, &info.orphans) == 0;
	*ret = info;
}
