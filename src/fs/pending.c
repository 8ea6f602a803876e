/* SPDX-License-Identifier: MIT */
/*
 * Parts of the writing engine that are not there yet: each refuses.  Whoever writes one takes it
 * out of here; when the last is written this file goes.
 */
#include "fs/balloc.h"
#include "fs/map.h"
#include "fs/xattr.h"

#include "base/diag.h"

static int refuse(const char *what)
{
	return fail(-EOPNOTSUPP, "%s: not in this version", what);
}

/* balloc.c, ialloc.c */
int balloc_create(struct uext4_fs *fs)
{
	return refuse("allocation of blocks");
}
void balloc_destroy(struct uext4_fs *fs) {}
void balloc_committed(struct uext4_fs *fs, tid_t tid) {}
void balloc_discard_prealloc(struct inode *ip) {}
void balloc_fill_super(struct uext4_fs *fs, struct ext4_super_block *sb) {}
int balloc_alloc(struct uext4_fs *fs, const struct balloc_request *rq, struct blk_run *ret)
{
	return refuse("allocation of blocks");
}
void balloc_cancel(struct uext4_fs *fs, const struct blk_run *run, bool was_reserved) {}
int balloc_alloc_meta(struct handle *h, struct uext4_fs *fs, struct inode *ip, blk_t goal,
		      blk_t *ret_blk)
{
	return refuse("allocation of blocks");
}
int balloc_free(struct handle *h, struct uext4_fs *fs, blk_t start, uint32_t count, uint32_t flags)
{
	return refuse("freeing of blocks");
}
int ialloc_alloc(struct handle *h, struct uext4_fs *fs, struct inode *parent, bool is_dir,
		 uint32_t *ret_ino)
{
	return refuse("allocation of inodes");
}
int ialloc_free(struct handle *h, struct uext4_fs *fs, uint32_t ino, bool is_dir)
{
	return refuse("allocation of inodes");
}

/* journal */
int buf_create(struct cache *cache, blk_t blk, const struct buf_ops *ops, uint64_t owner,
	       struct buf **ret_buf)
{
	return refuse("new buffers");
}
int handle_get_create(struct handle *h, struct buf *buf)
{
	return refuse("transactions");
}
void handle_dirty(struct handle *h, struct buf *buf) {}
int handle_get_write(struct handle *h, struct buf *buf)
{
	return refuse("transactions");
}
int handle_restart(struct handle *h, uint32_t credits)
{
	return refuse("transactions");
}
int handle_start(struct txn_log *log, uint32_t credits, struct handle **ret_handle)
{
	return refuse("transactions");
}
int handle_stop(struct handle *h)
{
	return refuse("transactions");
}
tid_t handle_tid(const struct handle *h)
{
	return 0;
}
int journal_mark_empty(struct journal *j, uint32_t next_tid)
{
	return refuse("transactions");
}
void txn_log_abort(struct txn_log *log, int err) {}
int txn_log_create(struct journal *j, const struct txn_log_options *options,
		   struct txn_log **ret_log)
{
	return refuse("transactions");
}
int txn_log_create_none(const struct txn_log_options *options, struct txn_log **ret_log)
{
	return refuse("transactions");
}
int txn_log_destroy(struct txn_log *log)
{
	return refuse("transactions");
}
int txn_log_flush(struct txn_log *log)
{
	return refuse("transactions");
}
int txn_log_sync(struct txn_log *log)
{
	return refuse("transactions");
}

/* map */
uint32_t map_credits(const struct inode *ip)
{
	return 1;
}
void map_init(struct inode *ip) {}
int map_insert(struct handle *h, struct inode *ip, lblk_t logical, uint32_t count,
	       const struct blk_run *run, bool unwritten)
{
	return refuse("changes of maps");
}
int map_remove(struct handle *h, struct inode *ip, lblk_t first, uint32_t count, uint32_t *ret_left)
{
	return refuse("changes of maps");
}
uint64_t map_size_max(const struct inode *ip)
{
	return 0;
}
