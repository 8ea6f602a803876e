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
int handle_forget(struct handle *h, blk_t blk)
{
	return refuse("transactions");
}
struct txn_log *handle_log(const struct handle *h)
{
	return NULL;
}
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
bool txn_log_is_committed(struct txn_log *log, tid_t tid)
{
	return false;
}
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
