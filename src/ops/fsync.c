/* SPDX-License-Identifier: MIT */
/*
 * Making changes durable, and no more than that.
 *
 * What a transaction makes visible is durable with its commit (J2).  Data that overwrote blocks in
 * place belongs to no transaction: a flush of the device makes it durable, and many fsyncs share
 * one.
 *
 *  Y1  Flushes are counted when they start.  Data written before flush number n started is durable
 *      when n has ended: so each inode remembers the number its data needs, and who finds that
 *      number ended has nothing to do.
 *  Y2  After a flush that failed nobody knows what is on the disk: the log aborts, and it is not
 *      tried again.
 */
#include "ops/file_priv.h"

#include "base/diag.h"

void file_data_written(struct inode *ip)
{
	struct data_flush *f = &ip->fs->data_flush;
	uint64_t needed = atomic_load(&f->started) + 1, before = atomic_load(&ip->flush_needed);

	while (before < needed && !atomic_compare_exchange_weak(&ip->flush_needed, &before, needed))
		;
}

/* Returns when flush @number has ended. */
static int flush_up_to(struct uext4_fs *fs, uint64_t number)
{
	struct data_flush *f = &fs->data_flush;
	int err = 0;

	mutex_lock(&f->lock);
	while (f->ended < number && err == 0) {
		uint64_t ours;

		if (f->running) {
			cond_wait(&f->done, &f->lock);
			continue;
		}
		err = txn_log_error(fs->log); /* Y2 */
		if (err < 0)
			break;
		f->running = true;
		ours = atomic_fetch_add(&f->started, 1) + 1;
		mutex_unlock(&f->lock);
		err = dev_flush(fs->dev);
		if (err < 0)
			txn_log_abort(fs->log, err);
		mutex_lock(&f->lock);
		f->running = false;
		if (err == 0)
			f->ended = ours;
		cond_broadcast(&f->done);
	}
	mutex_unlock(&f->lock);
	return err;
}

/* Data that was overwritten in place. */
static int flush_data(struct inode *ip)
{
	uint64_t needed = atomic_load(&ip->flush_needed);

	return needed == 0 || ip->fs->no_barrier ? 0 : flush_up_to(ip->fs, needed);
}

static int commit(struct inode *ip, bool data_only)
{
	tid_t tid = atomic_load(data_only ? &ip->datasync_tid : &ip->sync_tid);

	return tid == 0 ? 0 : txn_log_commit(ip->fs->log, tid);
}

static int sync_inode(struct inode *ip, bool data_only)
{
	int err = 0;

	if (!data_only)
		err = inode_flush_times(ip);
	if (err == 0)
		err = commit(ip, data_only);
	return err;
}

int file_fsync(struct inode *ip, bool data_only, uint64_t *error_seen)
{
	int err, later;

	if (!ip->fs->writable)
		return 0;
	err = mapping_flush(&ip->pages, 0, UINT64_MAX);
	later = sync_inode(ip, data_only);
	err = first_error(err, later);
	if (err == 0)
		err = flush_data(ip);
	/* Also what the flusher met since; and what is returned here is not told again. */
	later = mapping_error(&ip->pages, error_seen);
	return first_error(err, later);
}

int inode_fsync(struct inode *ip, bool data_only)
{
	uint64_t seen = mapping_error_now(&ip->pages);

	if (inode_is_reg(ip))
		return file_fsync(ip, data_only, &seen);
	return ip->fs->writable ? sync_inode(ip, data_only) : 0;
}

bool file_retry_nospc(struct inode *ip, int err, unsigned *tries)
{
	struct uext4_fs *fs = ip->fs;
	struct cache_stats stats;

	if (err != -ENOSPC || (*tries)++ >= 3)
		return false;
	cache_get_stats(fs->cache, &stats);
	if (stats.dirty_bytes > 0 && !inode_has_flag(ip, EXT4_EXTENTS_FL)) {
		if (cache_flush(fs->cache) < 0)
			return false;
	} else if (!balloc_commit_helps(fs)) {
		return false;
	}
	return txn_log_sync(fs->log) == 0;
}
