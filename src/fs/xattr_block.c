/* SPDX-License-Identifier: MIT */
/*
 * The block of attributes of an inode, which others with the same attributes use too.
 *
 * A change of what an inode has in its block is one of five steps: it has none from now on, it has
 * the same as another inode and shares that one's, it changes its own, which nobody else uses, or
 * it gets a new one.  H1 and H2 (xattr_priv.h) say what must not happen to a block that others use,
 * or could find.
 *
 * What is shared counts in full for each of its users: in i_blocks and in the quota.
 */
#include "fs/balloc.h"
#include "fs/quota.h"
#include "fs/xattr_priv.h"

#include "base/diag.h"
#include "disk/seal.h"

/* ---- what an inode uses ---------------------------------------------------------------------- */

int64_t xattr_cluster_blocks(const struct geom *g, uint64_t bytes)
{
	return (int64_t)(div_round_up(bytes, (uint64_t)g->block_size << g->cluster_ratio_bits)
			 << g->cluster_ratio_bits);
}

void xattr_usage_count(const struct geom *g, const struct xattr_area *area, int sign,
		       struct xattr_usage *u)
{
	const struct xattr_row row = xattr_area_row(area);

	if (area->is_block && area->base)
		u->blocks += sign * xattr_cluster_blocks(g, g->block_size);
	xattr_row_for_each(entry, &row)
	{
		if (le32_get(entry->e_value_inum) == 0)
			continue;
		u->blocks += sign * xattr_cluster_blocks(g, le32_get(entry->e_value_size));
		u->inodes += sign;
	}
}

int xattr_usage_charge(struct handle *h, struct inode *ip, const struct xattr_usage *u)
{
	int64_t done = 0;
	int err = 0;

	if (u->blocks > 0)
		err = quota_charge_blocks(h, ip, u->blocks);
	if (err < 0)
		return err;
	for (; done < u->inodes && err == 0; done += err == 0)
		err = quota_charge_inode(h, ip);
	if (err == 0)
		return 0;
	for (; done > 0; done--)
		quota_release_inode(h, ip);
	if (u->blocks > 0)
		err = first_error(err, quota_charge_blocks(h, ip, -u->blocks));
	return err;
}

void xattr_usage_release(struct handle *h, struct inode *ip, const struct xattr_usage *u)
{
	int err = 0;

	if (u->blocks > 0)
		err = quota_charge_blocks(h, ip, -u->blocks);
	for (int64_t i = 0; i < u->inodes; i++)
		quota_release_inode(h, ip);
	if (err < 0)
		txn_log_abort(ip->fs->log, err);
}

/* ---- finding --------------------------------------------------------------------------------- */

void xattr_block_set_blk(struct inode *ip, blk_t blk)
{
	mutex_lock(&ip->raw_lock);
	ip->raw->i_file_acl_lo = le32_make((uint32_t)blk);
	if (geom_has_incompat(&ip->fs->geom, EXT4_FEATURE_INCOMPAT_64BIT))
		ip->raw->l_i_file_acl_high = le16_make((uint16_t)(blk >> 32));
	mutex_unlock(&ip->raw_lock);
}

uint32_t xattr_block_refs(const struct buf *buf)
{
	uint32_t refs = le32_get(xattr_block_header(buf->data)->h_refcount);

	return refs ? refs : 1;
}

static uint32_t hash_of(const struct buf *buf)
{
	return le32_get(xattr_block_header(buf->data)->h_hash);
}

/* Block @blk, if it has what @area has and one more can use it.  What fails is no. */
static struct buf *get_equal_block(struct uext4_fs *fs, blk_t blk, const struct xattr_area *area)
{
	struct xattr_area other;
	struct buf *buf;

	if (buf_read(fs->cache, blk, &xattr_block_ops, 0, &fs->geom, 0, &buf) < 0)
		return NULL;
	other = xattr_block_area(&fs->geom, buf->data);
	if (xattr_block_refs(buf) < XATTR_BLOCK_REFS_MAX && xattr_area_equal(area, &other))
		return buf;
	buf_put(buf);
	return NULL;
}

static struct buf *find_equal_block(struct uext4_fs *fs, const struct xattr_area *area,
				    uint32_t hash, const struct buf *old)
{
	struct xattr_found found = { 0 };
	struct buf *buf = NULL;

	if (hash != 0)
		xattr_share_find(fs, XATTR_SHARE_BLOCK, hash, &found);
	for (uint32_t i = 0; i < found.count && !buf; i++)
		if (!old || old->blk != found.id[i])
			buf = get_equal_block(fs, found.id[i], area);
	return buf;
}

void xattr_block_decide(struct inode *ip, const struct xattr_area *area,
			struct xattr_block_move *move)
{
	bool is_only_user = move->old && xattr_block_refs(move->old) == 1;

	if (xattr_area_is_empty(area)) {
		move->step = move->old ? XATTR_BLOCK_DROP : XATTR_BLOCK_KEEP;
	} else {
		move->hash = xattr_block_hash(area);
		move->target = find_equal_block(ip->fs, area, move->hash, move->old);
		if (move->target)
			move->step = XATTR_BLOCK_SHARE;
		else
			move->step = is_only_user ? XATTR_BLOCK_EDIT : XATTR_BLOCK_NEW;
	}
	move->old_ends = is_only_user &&
			 (move->step == XATTR_BLOCK_DROP || move->step == XATTR_BLOCK_SHARE);
}

/* ---- changing -------------------------------------------------------------------------------- */

static int free_block(struct handle *h, struct uext4_fs *fs, blk_t blk)
{
	return balloc_free(h, fs, blk, 1, BALLOC_FREE_META);
}

static int new_block(struct handle *h, struct inode *ip, struct buf **ret_buf)
{
	struct uext4_fs *fs = ip->fs;
	struct buf *buf;
	blk_t blk;
	int err, undo;

	err = balloc_alloc_meta(h, fs, ip, 0, 0, &blk);
	if (err < 0)
		return err;
	err = buf_create(fs->cache, blk, &xattr_block_ops, 0, &buf);
	if (err == 0) {
		err = handle_get_create(h, buf);
		if (err < 0)
			buf_put(buf);
	}
	if (err < 0) {
		undo = free_block(h, fs, blk);
		if (undo < 0)
			txn_log_abort(fs->log, undo);
		return err;
	}
	*ret_buf = buf;
	return 0;
}

int xattr_block_prepare(struct handle *h, struct inode *ip, struct xattr_block_move *move)
{
	int err = 0;

	if (move->step == XATTR_BLOCK_KEEP)
		return 0;
	if (move->old && !move->old_ends)
		err = handle_get_write(h, move->old);
	if (err == 0 && move->step == XATTR_BLOCK_SHARE)
		err = handle_get_write(h, move->target);
	if (err == 0 && move->step == XATTR_BLOCK_NEW)
		err = new_block(h, ip, &move->target);
	if (err == 0 && move->old_ends) {
		xattr_share_remove(ip->fs, XATTR_SHARE_BLOCK, hash_of(move->old), move->old->blk);
		err = free_block(h, ip->fs, move->old->blk);
	}
	return err;
}

void xattr_block_seal(struct handle *h, struct inode *ip, struct buf *buf)
{
	seal_xattr_block(&ip->fs->geom, buf->data, buf->blk);
	handle_dirty(h, buf);
}

/* The number of users of @buf changes, and so does whether more may come. */
static void block_set_refs(struct handle *h, struct inode *ip, struct buf *buf, uint32_t refs)
{
	xattr_block_header(buf->data)->h_refcount = le32_make(refs);
	xattr_block_seal(h, ip, buf);
	if (refs >= XATTR_BLOCK_REFS_MAX || hash_of(buf) == 0)
		xattr_share_remove(ip->fs, XATTR_SHARE_BLOCK, hash_of(buf), buf->blk);
	else
		xattr_share_add(ip->fs, XATTR_SHARE_BLOCK, hash_of(buf), buf->blk);
}

/* @buf becomes what was worked out, with one user. */
static void block_fill(struct handle *h, struct inode *ip, const struct xattr_area *area,
		       uint32_t hash, struct buf *buf)
{
	struct ext4_xattr_header *header = xattr_block_header(buf->data);

	header->h_magic = le32_make(EXT4_XATTR_MAGIC);
	header->h_blocks = le32_make(1);
	header->h_hash = le32_make(hash);
	memcpy(buf->data + area->first, area->base + area->first, area->end - area->first);
	block_set_refs(h, ip, buf, 1);
}

void xattr_block_commit(struct handle *h, struct inode *ip, const struct xattr_area *area,
			const struct xattr_block_move *move, blk_t *ret_blk)
{
	blk_t blk = move->old ? move->old->blk : 0;

	switch (move->step) {
	case XATTR_BLOCK_KEEP: break;
	case XATTR_BLOCK_DROP: blk = 0; break;
	case XATTR_BLOCK_EDIT:
		xattr_share_remove(ip->fs, XATTR_SHARE_BLOCK, hash_of(move->old), blk);
		block_fill(h, ip, area, move->hash, move->old);
		break;
	case XATTR_BLOCK_SHARE:
		block_set_refs(h, ip, move->target, xattr_block_refs(move->target) + 1);
		blk = move->target->blk;
		break;
	case XATTR_BLOCK_NEW:
		block_fill(h, ip, area, move->hash, move->target);
		blk = move->target->blk;
		break;
	}
	if (move->old && !move->old_ends && move->old->blk != blk)
		block_set_refs(h, ip, move->old, xattr_block_refs(move->old) - 1);
	*ret_blk = blk;
}

void xattr_block_hide(struct inode *ip, const struct buf *buf)
{
	xattr_share_remove(ip->fs, XATTR_SHARE_BLOCK, hash_of(buf), buf->blk);
}
