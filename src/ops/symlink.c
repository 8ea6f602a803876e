/* SPDX-License-Identifier: MIT */
/*
 * Targets of symlinks: in i_block (fast), in i_block and system.data (inline), or in one block.
 *
 * We make none inline: neither does the kernel, and e2fsck 1.47 passes such an inode over, with it
 * the block of its attributes, which it would free, and its quota.  mke2fs -d makes them, so they
 * are read.
 *
 * A target is as long as the size says, without NUL; a size that no place has room for, or a NUL
 * inside, is damage.
 */
#include "fs/xattr.h"
#include "ops/ops.h"

#include "base/diag.h"

#include <inttypes.h>

static int read_block(struct inode *ip, void *buf, size_t len)
{
	struct buf *block BUF_SCOPE = NULL;
	int err;

	err = map_read_buf(ip, 0, &symlink_block_ops, NULL, &block);
	if (err < 0)
		return err;
	memcpy(buf, block->data, len);
	return 0;
}

static int read_target(struct inode *ip, enum inode_state state, void *buf, size_t len)
{
	switch (state) {
	case INODE_FAST:
		assert(len < sizeof(ip->raw->i_block));
		rwlock_read(&ip->xattr_lock);
		memcpy(buf, ip->raw->i_block, len);
		rwlock_read_unlock(&ip->xattr_lock);
		return 0;
	case INODE_INLINE: /* refuses a size that does not fit */
		return inline_read(ip, 0, buf, len);
	default: assert(state == INODE_BLOCKS); return read_block(ip, buf, len);
	}
}

int symlink_read(struct inode *ip, void *buf, size_t size, size_t *ret_len)
{
	enum inode_state state;
	uint64_t len;
	int err;

	if (!inode_is_lnk(ip))
		return fail(-EINVAL, "inode %u is no symlink", ip->ino);
	rwlock_read(&ip->xattr_lock);
	state = ip->state;
	len = ip->size;
	rwlock_read_unlock(&ip->xattr_lock);

	/* The longest lies in a block with a NUL behind it. */
	if (len == 0 || len >= ip->fs->geom.block_size)
		return corrupt("symlink %u: a target of %" PRIu64 " bytes", ip->ino, len);
	if (len > size)
		return fail(-ERANGE, "the target has %" PRIu64 " bytes", len);
	err = read_target(ip, state, buf, (size_t)len);
	if (err < 0)
		return err;
	if (memchr(buf, '\0', (size_t)len) != NULL)
		return corrupt("symlink %u: NUL inside of the target", ip->ino);
	*ret_len = (size_t)len;
	return 0;
}

/* ---- making one ------------------------------------------------------------------------------ */

static void set_size(struct inode *ip, size_t len)
{
	rwlock_write(&ip->xattr_lock);
	ip->size = len;
	rwlock_write_unlock(&ip->xattr_lock);
	inode_set_disk_size(ip, len);
}

static int init_fast(struct handle *h, struct inode *ip, const void *target, size_t len)
{
	rwlock_write(&ip->xattr_lock);
	mutex_lock(&ip->raw_lock);
	memcpy(ip->raw->i_block, target, len);
	mutex_unlock(&ip->raw_lock);
	ip->state = INODE_FAST;
	rwlock_write_unlock(&ip->xattr_lock);
	set_size(ip, len);
	return inode_store(h, ip);
}

static int init_block(struct handle *h, struct inode *ip, const void *target, size_t len)
{
	struct buf *block BUF_SCOPE = NULL;
	int err;

	map_init(ip);
	rwlock_write(&ip->xattr_lock);
	ip->state = INODE_BLOCKS;
	rwlock_write_unlock(&ip->xattr_lock);
	err = map_add_buf(h, ip, 0, &symlink_block_ops, &block);
	if (err < 0)
		return err;
	memcpy(block->data, target, len);
	handle_dirty(h, block);
	set_size(ip, len);
	return inode_store(h, ip);
}

int symlink_init(struct handle *h, struct inode *ip, const void *target, size_t len)
{
	assert(inode_is_lnk(ip) && ip->state == INODE_EMPTY);
	assert(len > 0 && len < ip->fs->geom.block_size);
	if (len < sizeof(ip->raw->i_block))
		return init_fast(h, ip, target, len);
	return init_block(h, ip, target, len);
}
