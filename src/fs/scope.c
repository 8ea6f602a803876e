/* SPDX-License-Identifier: MIT */
/*
 * A scope: several operations that are durable together or not at all.
 *
 * All of them are in one transaction, which nothing commits before the end (txn_log_hold()).  To
 * cancel is to forget: what is in memory goes, and is read again from the device, where nothing
 * that can be seen has changed.
 *
 *  SC1  The log is empty when a scope begins, and when it has committed: so all that the running
 *       transaction changes lies on the device as it was before, and no block of data is still to
 *       be written home when others overwrite it in place.
 *  SC2  In a scope bytes of files that can be seen are not overwritten in place: they go through
 *       the log (ops/writeback.c).  New blocks are written as ever: cancelled, they belong to
 *       nobody.
 *  SC3  Blocks freed in a scope are not reused in it (J4).
 */
#include "fs/balloc.h"
#include "fs/fs_priv.h"
#include "fs/quota.h"
#include "fs/xattr.h"

#include "base/diag.h"

int fs_scope_begin(struct uext4_fs *fs)
{
	int err;

	err = fs_check_writable(fs);
	if (err < 0)
		return err;
	if (fs->in_scope)
		return fail(-EBUSY, "a scope is open already");
	if (atomic_load(&fs->mapped) > 0)
		return fail(-EBUSY, "files of the image are mapped: a store belongs to no scope");
	err = fs_sync(fs);
	if (err == 0)
		err = txn_log_flush(fs->log);
	if (err == 0)
		err = txn_log_hold(fs->log);
	if (err == 0)
		fs->in_scope = true;
	return err;
}

static int check_scope(const struct uext4_fs *fs)
{
	return fs->in_scope ? 0 : fail(-EINVAL, "no scope is open");
}

int fs_scope_commit(struct uext4_fs *fs)
{
	int err;

	err = check_scope(fs);
	if (err == 0)
		err = fs_sync(fs); /* into the transaction: what does not fit is found here */
	if (err < 0)
		return err;
	txn_log_release(fs->log);
	err = txn_log_flush(fs->log); /* SC1 */
	fs->in_scope = false;
	return err;
}

void scope_forget(struct uext4_fs *fs)
{
	cache_stop_flusher(fs->cache);
	if (inode_reap(fs) < 0)
		diag_clear(); /* it is undone like everything else */
	cache_drop_dirty(fs->cache);
	orphan_close(fs);
	quota_close(fs);
	icache_forget(fs->icache);
	buf_put(fs->super_buf);
	fs->super_buf = NULL;
	xattr_close(fs);
	balloc_destroy(fs);
	txn_log_discard(fs->log);
	cache_forget_buffers(fs->cache);
}

int fs_scope_cancel(struct uext4_fs *fs)
{
	int err;

	err = check_scope(fs);
	if (err < 0)
		return err;
	if (icache_in_use(fs->icache))
		return fail(-EBUSY, "files are open");
	scope_forget(fs);
	fs->in_scope = false;
	txn_log_release(fs->log);
	err = super_start_parts(fs);
	/* Without its parts it cannot be changed, nor closed as if nothing had happened. */
	if (err < 0)
		txn_log_abort(fs->log, err);
	return err;
}
