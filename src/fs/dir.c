/* SPDX-License-Identifier: MIT */
/*
 * Directories: their blocks, and finding a name.
 *
 * A directory is a row of blocks full of entries (dir_row.c), with or without a hash tree over them
 * (htree.c), or two short rows inside the inode (inline_dir.c).  What fast commits said about a
 * name is the last word on it.  Listing is in dir_cursor.c, changing in dir_write.c.
 *
 * "." is always the directory itself, whatever an entry of that name says.
 */
#include "fs/dir.h"
#include "fs/fs_priv.h"

#include "base/diag.h"
#include "disk/seal.h"

/* ---- blocks ---------------------------------------------------------------------------------- */

uint8_t dirent_type(const struct inode *ip, const struct ext4_dir_entry_2 *de)
{
	if (!geom_has_incompat(&ip->fs->geom, EXT4_FEATURE_INCOMPAT_FILETYPE) ||
	    de->file_type >= EXT4_FT_MAX)
		return UEXT4_FT_UNKNOWN;
	return de->file_type;
}

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

static void leaf_seal(struct buf *buf, uint64_t owner, void *arg)
{
	const struct verify_inode vi = buf_owner_arg(arg, owner);

	seal_dirent_block(&vi, buf->data);
}

const struct buf_ops dir_leaf_ops = {
	.name = "directory block",
	.verify = leaf_verify,
	.seal = leaf_seal,
};
static const struct buf_ops leaf_or_node_ops = {
	.name = "directory block of any kind",
	.verify = leaf_or_node_verify,
	.stricter = &dir_leaf_ops,
	.seal = leaf_seal, /* nodes are sealed by who changes them */
};

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

uint32_t dir_leaf_bytes(const struct inode *ip)
{
	const struct geom *g = &ip->fs->geom;

	return g->block_size -
	       (geom_has_csum(g) ? (uint32_t)sizeof(struct ext4_dir_entry_tail) : 0);
}

/* A root or a node is a row too: its last record goes to the end of the block. */
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
	*ret_row = (struct dirents){ buf->data, dir_leaf_bytes(ip), ip->fs->geom.block_size };
	*ret_buf = buf;
	return 0;
}

int dir_read_leaf(struct inode *ip, lblk_t logical, uint32_t ahead, struct buf **ret_buf,
		  struct dirents *ret_row)
{
	return read_row(ip, logical, &dir_leaf_ops, ahead, ret_buf, ret_row);
}

int dir_read_block(struct inode *ip, lblk_t logical, uint32_t ahead, struct buf **ret_buf,
		   struct dirents *ret_row)
{
	const struct buf_ops *ops = &dir_leaf_ops;

	if (inode_has_flag(ip, EXT4_INDEX_FL))
		ops = logical == 0 ? &htree_root_ops : &leaf_or_node_ops;
	return read_row(ip, logical, ops, ahead, ret_buf, ret_row);
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

/*
 * Block by block, first the one in which something was found last: names that are looked up one
 * after the other often lie together.
 */
static int linear_find(struct inode *ip, const void *name, size_t name_len,
		       struct dir_place *ret_place)
{
	lblk_t logical = atomic_load_explicit(&ip->dir_found, memory_order_relaxed);
	uint32_t blocks = 0;
	int err;

	err = dir_blocks(ip, &blocks);
	if (err < 0)
		return err;
	if (logical >= blocks)
		logical = 0;
	for (uint32_t i = 0; i < blocks; i++) {
		struct dir_place found;

		err = dir_read_block(ip, logical, 0, &found.buf, &found.row);
		if (err < 0)
			return err;
		if (dirents_find(&found.row, name, name_len, &found.place)) {
			found.logical = logical;
			atomic_store_explicit(&ip->dir_found, logical, memory_order_relaxed);
			*ret_place = found;
			return 0;
		}
		buf_put(found.buf);
		if (++logical == blocks)
			logical = 0;
	}
	return -ENOENT;
}

int dir_place_find(struct inode *ip, const void *name, size_t name_len, struct dir_place *ret_place)
{
	struct htree tree;
	bool known;
	int err;

	if (!dir_is_indexed(ip))
		return linear_find(ip, name, name_len, ret_place);
	err = htree_open(ip, &tree, &known);
	if (err < 0)
		return err;
	if (!known)
		return linear_find(ip, name, name_len, ret_place);
	err = htree_find(&tree, name, name_len, ret_place);
	htree_close(&tree);
	return err;
}

static uint32_t place_ino(const struct dir_place *place)
{
	return le32_get(dirents_at(&place->row, place->place.at)->inode);
}

int dir_parent(struct inode *ip, uint32_t *ret_ino)
{
	const struct fc_dirent *said = dir_fc_find(ip, "..", 2);
	uint32_t ino = 0, blocks = 0;
	int err;

	if (said) {
		ino = said->ino;
	} else if (ip->state == INODE_INLINE) {
		ino = dir_inline_parent(ip);
		if (ino > ip->fs->geom.inodes)
			return corrupt("directory %u: its parent is inode %u", ip->ino, ino);
	} else {
		struct buf *buf BUF_SCOPE = NULL;
		struct dirent_place place;
		struct dirents row;

		err = dir_blocks(ip, &blocks);
		if (err < 0)
			return err;
		if (blocks > 0) {
			err = dir_read_block(ip, 0, 0, &buf, &row);
			if (err < 0)
				return err;
			if (dirents_find(&row, "..", 2, &place))
				ino = le32_get(dirents_at(&row, place.at)->inode);
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
	struct dir_place place;
	int err;

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
		return dir_inline_find(ip, name, name_len, ret_ino);
	err = dir_place_find(ip, name, name_len, &place);
	if (err < 0)
		return err;
	*ret_ino = place_ino(&place);
	buf_put(place.buf);
	return 0;
}

int dir_find_locked(struct inode *dir, const void *name, size_t name_len, uint32_t *ret_ino) NO_TSA
{
	int err;

	assert(inode_is_dir(dir));
	assert(name_len > 0 && name_len <= EXT4_NAME_LEN);
	err = find_locked(dir, name, name_len, ret_ino);
	if (err == -ENOENT)
		return fail_plainly(err, "directory", dir->ino, "has no entry of this name");
	return err;
}

int dir_find(struct inode *ip, const void *name, size_t name_len, uint32_t *ret_ino)
{
	int err;

	rwlock_read(&ip->lock);
	err = dir_find_locked(ip, name, name_len, ret_ino);
	rwlock_read_unlock(&ip->lock);
	return err;
}

int dir_is_empty(struct inode *dir, bool *ret_empty)
{
	bool empty = true;
	uint32_t blocks = 0;
	int err;

	assert(inode_is_dir(dir) && !dir->fc);
	if (dir->state == INODE_INLINE)
		return dir_inline_is_empty(dir, ret_empty);
	err = dir_blocks(dir, &blocks);
	for (lblk_t logical = 0; err == 0 && empty && logical < blocks; logical++) {
		struct buf *buf BUF_SCOPE = NULL;
		struct dirents row;

		err = dir_read_block(dir, logical, 0, &buf, &row);
		if (err == 0)
			empty = dirents_are_empty(&row);
	}
	if (err < 0)
		return err;
	*ret_empty = empty;
	return 0;
}
