/* SPDX-License-Identifier: MIT */
/*
 * The end of an inode's attributes: it gives back its part of what is shared.
 *
 * In steps, a handle each: an entry loses its value in the handle in which the value loses a
 * reference, so that who goes on after a crash does not take it away twice.
 */
#include "fs/quota.h"
#include "fs/xattr_priv.h"

#include "base/diag.h"

/* Nothing will ever be read there: what can be freed of the inode is, and the rest is fsck's. */
static bool is_damage(int err)
{
	return err == -EFSCORRUPTED || err == -EFSBADCRC;
}

/* The first entry of @area whose value is in an inode, or NULL. */
static struct ext4_xattr_entry *first_with_inode(const struct xattr_area *area)
{
	const struct xattr_row row = xattr_area_row(area);

	xattr_row_for_each(entry, &row)
	{
		if (le32_get(entry->e_value_inum) != 0)
			return (struct ext4_xattr_entry *)(void *)(area->base +
								   ((const uint8_t *)entry -
								    area->base));
	}
	return NULL;
}

/* @entry has no value any more: whoever goes on after a crash does not take it back twice. */
static void forget_value(struct handle *h, struct inode *ip, struct buf *block,
			 struct ext4_xattr_entry *entry)
{
	const struct xattr_usage used = {
		xattr_cluster_blocks(&ip->fs->geom, le32_get(entry->e_value_size)), 1
	};

	xattr_usage_release(h, ip, &used);
	inode_add_blocks(ip, -used.blocks);
	mutex_lock(&ip->raw_lock);
	entry->e_value_inum = le32_make(0);
	entry->e_value_size = le32_make(0);
	entry->e_value_offs = le16_make(0);
	mutex_unlock(&ip->raw_lock);
	if (block)
		xattr_block_seal(h, ip, block);
}

/* @ea: what @entry refers to; NULL: it cannot be had. */
static int drop_value(struct handle *h, struct inode *ip, struct buf *block,
		      struct ext4_xattr_entry *entry, struct inode *ea)
{
	struct ea_delta d = { .ea = ea, .refs = -1 };
	int err;

	err = xattr_reserve_store(h, ip);
	if (err == 0 && block)
		err = handle_get_write(h, block);
	if (err < 0)
		return err;
	if (ea) {
		err = ea_delta_prepare(h, ip, &d);
		if (err == 0)
			ea_delta_commit(h, &d);
		else if (is_damage(err))
			(void)fs_error(ip->fs, err, ea->ino, 0);
		else
			return err;
	}
	forget_value(h, ip, block, entry);
	return inode_store(h, ip);
}

enum place { BODY, BLOCK };

/* The entries of the body, or of the block if the inode is its only user, as an area. */
static int open_place(struct inode *ip, enum place place, struct buf **ret_block,
		      struct xattr_area *ret)
{
	int err;

	*ret_block = NULL;
	*ret = xattr_body_area(ip);
	if (place == BODY)
		return 0;
	*ret = (struct xattr_area){ 0 };
	err = xattr_block_read(ip, ret_block);
	if (is_damage(err))
		return 0; /* drop_block() says so */
	if (err < 0 || !*ret_block || xattr_block_refs(*ret_block) > 1)
		return err;
	xattr_block_hide(ip, *ret_block);
	*ret = xattr_block_area(&ip->fs->geom, (*ret_block)->data);
	return 0;
}

/* The inode with the value of @entry; NULL: it is damaged. */
static int get_value(struct inode *ip, const struct ext4_xattr_entry *entry, struct inode **ret_ea)
{
	int err;

	*ret_ea = NULL;
	err = ea_inode_get(ip, le32_get(entry->e_value_inum), le32_get(entry->e_value_size),
			   ret_ea);
	if (err == 0)
		return quota_load(*ret_ea);
	if (!is_damage(err))
		return err;
	(void)fs_error(ip->fs, err, ip->ino, 0);
	return 0;
}

/* One entry of @place loses its value; *ret_more: there was one. */
static int delete_value(struct inode *ip, enum place place, bool *ret_more)
{
	const uint32_t credits = EA_DELTA_ORPHAN_CREDITS + INODE_STORE_CREDITS + 1 +
				 quota_credits(ip->fs);
	struct buf *block BUF_SCOPE = NULL;
	struct inode *ea INODE_SCOPE = NULL;
	struct ext4_xattr_entry *entry;
	struct xattr_area area;
	struct handle *h;
	int err;

	xattr_share_lock(ip->fs);
	err = open_place(ip, place, &block, &area);
	xattr_share_unlock(ip->fs);
	if (err < 0)
		return err;
	entry = first_with_inode(&area);
	*ret_more = entry != NULL;
	if (!entry)
		return 0;
	err = get_value(ip, entry, &ea);
	if (err == 0)
		err = handle_start(ip->fs->log, credits, &h);
	if (err < 0)
		return err;
	xattr_share_lock(ip->fs);
	rwlock_write(&ip->xattr_lock);
	err = drop_value(h, ip, block, entry, ea);
	rwlock_write_unlock(&ip->xattr_lock);
	xattr_share_unlock(ip->fs);
	return first_error(err, handle_stop(h));
}

/* The inode's reference to its block. */
static int drop_block(struct handle *h, struct inode *ip)
{
	const struct geom *g = &ip->fs->geom;
	struct xattr_block_move move = { .step = XATTR_BLOCK_DROP };
	struct xattr_usage used = { 0 };
	struct xattr_area area;
	blk_t none;
	int err;

	err = xattr_block_read(ip, &move.old);
	if (err < 0 && !is_damage(err))
		return err;
	if (err < 0) {
		/* It stays allocated, for nobody; fsck will know. */
		(void)fs_error(ip->fs, err, ip->ino, xattr_block_blk(ip));
		used.blocks = xattr_cluster_blocks(g, g->block_size);
	} else if (move.old) {
		area = xattr_block_area(g, move.old->data);
		xattr_usage_count(g, &area, 1, &used);
		move.old_ends = xattr_block_refs(move.old) == 1;
	} else {
		return 0;
	}
	err = xattr_reserve_store(h, ip);
	if (err == 0 && move.old)
		err = xattr_block_prepare(h, ip, &move);
	if (err == 0) {
		if (move.old)
			xattr_block_commit(h, ip, NULL, &move, &none);
		xattr_block_set_blk(ip, 0);
		inode_add_blocks(ip, -used.blocks);
		xattr_usage_release(h, ip, &used);
		err = inode_store(h, ip);
	}
	buf_put(move.old);
	return err;
}

int xattr_delete_all(struct inode *ip)
{
	struct handle *h;
	bool more = true;
	int err = 0;

	/* Each takes a value away from an entry: so this ends. */
	for (unsigned place = BODY; xattr_has_ea_inode(ip->fs) && place <= BLOCK; place++) {
		for (more = true; err == 0 && more;)
			err = delete_value(ip, (enum place)place, &more);
	}
	if (err < 0 || xattr_block_blk(ip) == 0)
		return err;
	err = handle_start(ip->fs->log, xattr_set_credits(ip, 0), &h);
	if (err < 0)
		return err;
	xattr_share_lock(ip->fs);
	rwlock_write(&ip->xattr_lock);
	err = drop_block(h, ip);
	rwlock_write_unlock(&ip->xattr_lock);
	xattr_share_unlock(ip->fs);
	return first_error(err, handle_stop(h));
}
