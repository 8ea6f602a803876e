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

/* map */
uint32_t map_credits(const struct inode *ip)
{
	return 1;
}
uint32_t map_credits_for(const struct inode *ip, uint32_t extents)
{
	return extents;
}
int map_add_buf(struct handle *h, struct inode *ip, lblk_t logical, const struct buf_ops *ops,
		struct buf **ret_buf)
{
	return refuse("changes of maps");
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
