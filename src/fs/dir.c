/* SPDX-License-Identifier: MIT */
/*
 * Directories: rows of entries, and finding a name.
 *
 * A directory is a row of blocks full of entries, with or without a hash tree over them (htree.c),
 * or two short rows inside the inode.  What fast commits said about a name is the last word on it.
 * Listing is in dir_cursor.c.
 *
 * "." is always the directory itself, whatever an entry of that name says.
 *
 * N1  Only rows that passed verify_dirents() are walked: a walk by rec_len meets their end.
 */
#include "fs/fs_priv.h"

#include "base/diag.h"

/* ---- rows ------------------------------------------------------------------------------------ */

const struct ext4_dir_entry_2 *dirents_next(const struct dirents *row, uint32_t *at,
					    uint32_t *ret_at)
{
	while (*at < row->bytes) {
		const struct ext4_dir_entry_2 *de = (const void *)(row->data + *at);

		*ret_at = *at;
		*at += dirent_rec_len(de->rec_len, row->block_size);
		if (le32_get(de->inode) != 0)
			return de;
	}
	return NULL;
}

uint32_t dirents_find(const struct dirents *row, const void *name, size_t name_len)
{
	const struct ext4_dir_entry_2 *de;
	uint32_t at = 0, place;

	while ((de = dirents_next(row, &at, &place)))
		if (de->name_len == name_len && memcmp(de->name, name, name_len) == 0)
			return le32_get(de->inode);
	return 0;
}

uint8_t dirent_type(const struct inode *ip, const struct ext4_dir_entry_2 *de)
{
	if (!geom_has_incompat(&ip->fs->geom, EXT4_FEATURE_INCOMPAT_FILETYPE) ||
	    de->file_type >= EXT4_FT_MAX)
		return UEXT4_FT_UNKNOWN;
	return de->file_type;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static int leaf_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	const struct verify_inode *vi = arg;

	return verify_dirents(vi, data, bytes, blk, geom_has_csum(vi->geom));
}

/*
 * An indexed directory that is read as a plain row: its inner nodes pass as blocks without entries.
 */
static int leaf_or_node_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	const struct verify_inode *vi = arg;
	const struct fake_dirent *fake = data;

	if (geom_has_csum(vi->geom) && le32_get(fake->inode) == 0 &&
	    dirent_rec_len(fake->rec_len, vi->geom->block_size) == bytes)
		return verify_dx_node(vi, data, blk);
	return leaf_verify(data, bytes, blk, arg);
}

static const struct buf_ops leaf_ops = { "directory block", leaf_verify };
static const struct buf_ops leaf_or_node_ops = { "directory block of any kind",
						 leaf_or_node_verify };

bool dir_is_indexed(const struct inode *ip)
{
	return ip->state == INODE_BLOCKS && inode_has_flag(ip, EXT4_INDEX_FL) &&
	       geom_has_compat(&ip->fs->geom, EXT4_FEATURE_COMPAT_DIR_INDEX);
}

int dir_blocks(const struct inode *ip, uint32_t *ret_blocks)
{
	uint64_t blocks = ip->size >> ip->fs->geom.block_bits;

	assert(inode_is_dir(ip) && ip->state == INODE_BLOCKS);
	if (blocks > min_u64(ip->fs->geom.blocks, UINT32_MAX))
		return corrupt("directory %u has more blocks than the file system", ip->ino);
	/* Made since the last full commit: its first block never was written. */
	if (ip->fc && ip->fc->has_extents && ip->fc->extents_count == 0)
		blocks = 0;
	*ret_blocks = (uint32_t)blocks;
	return 0;
}

static int read_row(struct inode *ip, lblk_t logical, const struct buf_ops *ops, uint32_t ahead,
		    struct buf **ret_buf, struct dirents *ret_row)
{
	struct verify_inode vi;
	struct buf *buf;
	int err;

	inode_verify_arg(ip, &vi);
	err = map_read_buf_ahead(ip, logical, ops, &vi, ahead, &buf);
	if (err < 0)
		return fail_in(err, "directory %u", ip->ino);
	*ret_row = (struct dirents){ buf->data, buf->bytes, ip->fs->geom.block_size };
	*ret_buf = buf;
	return 0;
}

int dir_read_leaf(struct inode *ip, lblk_t logical, uint32_t ahead, struct buf **ret_buf,
		  struct dirents *ret_row)
{
	return read_row(ip, logical, &leaf_ops, ahead, ret_buf, ret_row);
}

int dir_read_block(struct inode *ip, lblk_t logical, uint32_t ahead, struct buf **ret_buf,
		   struct dirents *ret_row)
{
	const struct buf_ops *ops = &leaf_ops;

	if (inode_has_flag(ip, EXT4_INDEX_FL))
		ops = logical == 0 ? &htree_root_ops : &leaf_or_node_ops;
	return read_row(ip, logical, ops, ahead, ret_buf, ret_row);
}

/* ---- inside the inode ------------------------------------------------------------------------ */

int dir_inline_rows(struct inode *ip, struct dirents ret_rows[DIR_INLINE_PARTS])
{
	struct verify_inode vi;
	struct inline_parts parts;
	int err;

	err = inline_find(ip, &parts);
	if (err < 0)
		return err;
	/* The first part begins with the parent's number in place of "." and "..". */
	parts.part[0] += sizeof(le32);
	parts.bytes[0] -= (uint32_t)sizeof(le32);
	inode_verify_arg(ip, &vi);
	for (unsigned i = 0; i < DIR_INLINE_PARTS; i++) {
		err = verify_dirents(&vi, parts.part[i], parts.bytes[i], 0, false);
		if (err < 0)
			return fail_in(err, "inline part %u", i);
	}
	for (unsigned i = 0; i < DIR_INLINE_PARTS; i++)
		ret_rows[i] = (struct dirents){ parts.part[i], parts.bytes[i],
						ip->fs->geom.block_size };
	return 0;
}

static int inline_dir_find(struct inode *ip, const void *name, size_t name_len, uint32_t *ret_ino)
{
	struct dirents rows[DIR_INLINE_PARTS];
	uint32_t ino = 0;
	int err;

	rwlock_read(&ip->xattr_lock);
	err = dir_inline_rows(ip, rows);
	for (unsigned i = 0; err == 0 && ino == 0 && i < DIR_INLINE_PARTS; i++)
		ino = dirents_find(&rows[i], name, name_len);
	rwlock_read_unlock(&ip->xattr_lock);
	if (err < 0)
		return err;
	if (ino == 0)
		return -ENOENT;
	*ret_ino = ino;
	return 0;
}

static uint32_t inline_dir_parent(struct inode *ip)
{
	uint32_t ino;

	rwlock_read(&ip->xattr_lock);
	ino = le32_get(ip->raw->i_block[0]);
	rwlock_read_unlock(&ip->xattr_lock);
	return ino;
}

/* ---- finding --------------------------------------------------------------------------------- */

const struct fc_dirent *dir_fc_find(const struct inode *ip, const void *name, size_t name_len)
{
	if (!ip->fc)
		return NULL;
	list_for_each(pos, &ip->fc->dirents) {
		const struct fc_dirent *entry = list_entry(pos, struct fc_dirent, link);

		if (entry->name_len == name_len && memcmp(entry->name, name, name_len) == 0)
			return entry;
	}
	return NULL;
}

static int linear_find(struct inode *ip, const void *name, size_t name_len, uint32_t *ret_ino)
{
	uint32_t blocks, ino;
	int err;

	err = dir_blocks(ip, &blocks);
	if (err < 0)
		return err;
	for (lblk_t logical = 0; logical < blocks; logical++) {
		struct buf *buf BUF_SCOPE = NULL;
		struct dirents row;

		err = dir_read_block(ip, logical, 0, &buf, &row);
		if (err < 0)
			return err;
		ino = dirents_find(&row, name, name_len);
		if (ino != 0) {
			*ret_ino = ino;
			return 0;
		}
	}
	return -ENOENT;
}

static int indexed_find(struct inode *ip, const void *name, size_t name_len, uint32_t *ret_ino)
{
	struct htree tree;
	bool known;
	int err;

	err = htree_open(ip, &tree, &known);
	if (err < 0)
		return err;
	if (!known)
		return linear_find(ip, name, name_len, ret_ino);
	err = htree_find(&tree, name, name_len, ret_ino);
	htree_close(&tree);
	return err;
}

int dir_parent(struct inode *ip, uint32_t *ret_ino)
{
	const struct fc_dirent *said = dir_fc_find(ip, "..", 2);
	uint32_t ino = 0, blocks;
	int err;

	if (said) {
		ino = said->ino;
	} else if (ip->state == INODE_INLINE) {
		ino = inline_dir_parent(ip);
		if (ino > ip->fs->geom.inodes)
			return corrupt("directory %u: its parent is inode %u", ip->ino, ino);
	} else {
		struct buf *buf BUF_SCOPE = NULL;
		struct dirents row;

		err = dir_blocks(ip, &blocks);
		if (err < 0)
			return err;
		if (blocks > 0) {
			err = dir_read_block(ip, 0, 0, &buf, &row);
			if (err < 0)
				return err;
			ino = dirents_find(&row, "..", 2);
		}
	}
	if (ino == 0)
		return -ENOENT;
	*ret_ino = ino;
	return 0;
}

static int find_locked(struct inode *ip, const void *name, size_t name_len, uint32_t *ret_ino)
	REQUIRES_SHARED(&ip->lock)
{
	const struct fc_dirent *said;

	if (name_is_dot(name, name_len) ||
	    (name_is_dotdot(name, name_len) && ip->ino == EXT4_ROOT_INO)) {
		*ret_ino = ip->ino;
		return 0;
	}
	if (name_is_dotdot(name, name_len))
		return dir_parent(ip, ret_ino);
	said = dir_fc_find(ip, name, name_len);
	if (said && said->ino == 0)
		return -ENOENT;
	if (said) {
		*ret_ino = said->ino;
		return 0;
	}
	if (ip->state == INODE_INLINE)
		return inline_dir_find(ip, name, name_len, ret_ino);
	if (dir_is_indexed(ip))
		return indexed_find(ip, name, name_len, ret_ino);
	return linear_find(ip, name, name_len, ret_ino);
}

int dir_find(struct inode *ip, const void *name, size_t name_len, uint32_t *ret_ino)
{
	int err;

	assert(inode_is_dir(ip));
	assert(name_len > 0 && name_len <= EXT4_NAME_LEN);
	rwlock_read(&ip->lock);
	err = find_locked(ip, name, name_len, ret_ino);
	rwlock_read_unlock(&ip->lock);
	if (err == -ENOENT)
		return fail(err, "directory %u has no entry of this name", ip->ino);
	return err;
}
