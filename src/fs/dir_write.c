/* SPDX-License-Identifier: MIT */
/*
 * Directories as they change: which kind a directory is, and the linear ones.
 *
 * A directory goes from inline (inline_dir.c) to one block, and from there, with dir_index, to a
 * hash tree (htree_write.c); without it, to more blocks.  It never goes back.
 *
 *  W1  What failed for lack of space, quota or memory has changed no entry.  What fails between the
 *      first changed buffer and the last aborts the journal.
 *  W2  In a linear directory an entry never moves: its place is its place in a listing.
 *  W3  Whatever changes the entries counts `dir_changes` up, so that who lists the directory looks
 *      again.
 */
#include "fs/dir.h"
#include "fs/fs_priv.h"
#include "fs/map.h"
#include "fs/quota.h"
#include "fs/xattr.h"

#include "base/diag.h"

/* ---- parts ----------------------------------------------------------------------------------- */

uint8_t dirent_disk_type(const struct inode *ip, uint8_t type)
{
	return geom_has_incompat(&ip->fs->geom, EXT4_FEATURE_INCOMPAT_FILETYPE) ? type
										: EXT4_FT_UNKNOWN;
}

int dir_store(struct handle *h, struct inode *ip)
{
	int err = inode_store(h, ip);

	if (err < 0)
		txn_log_abort(ip->fs->log, err);
	return err;
}

void dir_fill_dots(struct inode *ip, uint8_t *data, uint32_t parent_ino, uint32_t bytes)
{
	const struct dirent_new dot = { .name = ".",
					.name_len = 1,
					.ino = ip->ino,
					.type = dirent_disk_type(ip, UEXT4_FT_DIR) };
	const struct dirent_new dotdot = {
		.name = "..", .name_len = 2, .ino = parent_ino, .type = dot.type
	};
	uint32_t block_size = ip->fs->geom.block_size;

	dirents_clear(data, block_size, bytes);
	dirents_insert(data, block_size, 0, &dot);
	dirents_insert(data, block_size, 0, &dotdot);
}

int dir_add_block(struct handle *h, struct inode *ip, const struct buf_ops *ops,
		  struct buf **ret_buf, lblk_t *ret_logical)
{
	const struct geom *g = &ip->fs->geom;
	struct buf *buf;
	uint32_t blocks;
	uint64_t size;
	int err;

	err = dir_blocks(ip, &blocks);
	if (err < 0)
		return err;
	size = (uint64_t)(blocks + 1) << g->block_bits;
	if (blocks >= DX_BLOCK_MASK ||
	    (size > UINT32_MAX && !geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_LARGEDIR)))
		return fail(-ENOSPC, "directory %u is as large as one can be", ip->ino);
	err = map_add_buf(h, ip, blocks, ops, &buf);
	if (err < 0)
		return err;
	rwlock_write(&ip->xattr_lock);
	ip->size = size;
	rwlock_write_unlock(&ip->xattr_lock);
	inode_set_disk_size(ip, size);
	err = dir_store(h, ip);
	if (err < 0) {
		buf_put(buf);
		return err;
	}
	*ret_buf = buf;
	*ret_logical = blocks;
	return 0;
}

/* The end of each change that worked. */
static int entries_changed(struct handle *h, struct inode *dir)
{
	dir->dir_changes++;
	inode_touch(dir, INODE_MTIME | INODE_CTIME);
	return dir_store(h, dir);
}

uint32_t dir_credits(const struct inode *dir)
{
	const uint32_t blocks_new = 3;	   /* htree_write.c, W3; or inline, tree, split */
	const uint32_t blocks_changed = 4; /* a leaf and the nodes above it */

	return map_credits_for(dir, blocks_new) + blocks_new + blocks_changed + INODE_STORE_CREDITS;
}

uint32_t dir_init_credits(const struct uext4_fs *fs)
{
	return BALLOC_CREDITS + quota_credits(fs) + 1 + INODE_STORE_CREDITS;
}

/* ---- linear ones ----------------------------------------------------------------------------- */

/*
 * A directory with an index that the file system does not know of: as that goes out of date now,
 * nobody may ever use it.  Its nodes have no checksums as leaves.
 */
static int drop_index(struct inode *dir)
{
	if (!inode_has_flag(dir, EXT4_INDEX_FL))
		return 0;
	if (geom_has_csum(&dir->fs->geom))
		return corrupt("directory %u has an index, the file system has no dir_index",
			       dir->ino);
	inode_set_flags(dir, 0, EXT4_INDEX_FL);
	return 0;
}

/* Adds to block @logical if it has room. */
static int add_to_block(struct handle *h, struct inode *dir, lblk_t logical,
			const struct dirent_new *entry, bool *ret_added)
{
	struct buf *buf BUF_SCOPE = NULL;
	struct dirents row;
	uint32_t at;
	int err;

	err = dir_read_leaf(dir, logical, 0, &buf, &row);
	if (err < 0 || !dirents_find_room(&row, entry->name_len, &at))
		return err;
	err = handle_get_write(h, buf);
	if (err < 0)
		return err;
	dirents_insert(buf->data, row.block_size, at, entry);
	handle_dirty_unsealed(h, buf);
	dir->dir_room = logical;
	*ret_added = true;
	return 0;
}

static int add_to_new_block(struct handle *h, struct inode *dir, const struct dirent_new *entry)
{
	struct buf *buf BUF_SCOPE = NULL;
	lblk_t logical;
	int err;

	err = dir_add_block(h, dir, &dir_leaf_ops, &buf, &logical);
	if (err < 0)
		return err;
	dirents_clear(buf->data, dir->fs->geom.block_size, dir_leaf_bytes(dir));
	dirents_insert(buf->data, dir->fs->geom.block_size, 0, entry);
	handle_dirty_unsealed(h, buf);
	dir->dir_room = logical;
	return 0;
}

/*
 * Begins where the last entry found room, and looks at what lies before only when a block would
 * have to be taken: so a name is added to a large directory without walking it each time.
 */
static int linear_add(struct handle *h, struct inode *dir, const struct dirent_new *entry)
{
	const struct geom *g = &dir->fs->geom;
	bool added = false;
	uint32_t blocks;
	lblk_t logical;
	uint8_t version;
	int err;

	err = drop_index(dir);
	if (err == 0)
		err = dir_blocks(dir, &blocks);
	if (err < 0)
		return err;
	if (blocks == 0)
		return corrupt("directory %u has no block", dir->ino);
	logical = dir->dir_room < blocks ? dir->dir_room : 0;
	for (uint32_t i = 0; err == 0 && !added && i < blocks; i++) {
		err = add_to_block(h, dir, logical, entry, &added);
		if (++logical == blocks)
			logical = 0;
	}
	if (err < 0 || added)
		return err;
	if (blocks == 1 && geom_has_compat(g, EXT4_FEATURE_COMPAT_DIR_INDEX) &&
	    htree_version(g, g->hash_version, &version)) {
		err = htree_create(h, dir);
		return err < 0 ? err : htree_add(h, dir, entry);
	}
	return add_to_new_block(h, dir, entry);
}

/* ---- all kinds ------------------------------------------------------------------------------- */

int dir_init(struct handle *h, struct inode *dir, uint32_t parent_ino)
{
	struct buf *buf BUF_SCOPE = NULL;
	lblk_t logical;
	int err;

	assert(inode_is_dir(dir) && dir->size == 0);
	if (inline_is_possible(dir->fs)) {
		err = dir_inline_init(h, dir, parent_ino);
		if (err != -ENOSPC)
			return err;
	}
	err = dir_add_block(h, dir, &dir_leaf_ops, &buf, &logical);
	if (err < 0)
		return err;
	assert(logical == 0);
	dir_fill_dots(dir, buf->data, parent_ino, dir_leaf_bytes(dir));
	handle_dirty_unsealed(h, buf);
	return 0;
}

int dir_add(struct handle *h, struct inode *dir, const void *name, size_t name_len, uint32_t ino,
	    uint8_t type)
{
	const struct dirent_new entry = {
		.name = name,
		.name_len = (uint8_t)name_len,
		.ino = ino,
		.type = dirent_disk_type(dir, type),
	};
	int err = 0;

	assert(inode_is_dir(dir) && !dir->fc);
	assert(name_len > 0 && name_len <= EXT4_NAME_LEN && ino != 0);
	if (dir->state == INODE_INLINE) {
		err = dir_inline_add(h, dir, &entry);
		if (err != -ENOSPC)
			return err < 0 ? err : entries_changed(h, dir);
		err = dir_inline_convert(h, dir);
	}
	if (err == 0 && dir_is_indexed(dir))
		err = htree_add(h, dir, &entry);
	else if (err == 0)
		err = linear_add(h, dir, &entry);
	return err < 0 ? err : entries_changed(h, dir);
}

int dir_remove(struct handle *h, struct inode *dir, const void *name, size_t name_len)
{
	struct dir_place found;
	int err;

	assert(inode_is_dir(dir) && !dir->fc);
	assert(!name_is_dot(name, name_len) && !name_is_dotdot(name, name_len));
	if (dir->state == INODE_INLINE) {
		err = dir_inline_remove(h, dir, name, name_len);
		return err < 0 ? err : entries_changed(h, dir);
	}
	err = dir_place_find(dir, name, name_len, &found);
	if (err < 0)
		return err;
	err = handle_get_write(h, found.buf);
	if (err == 0) {
		dirents_remove(found.buf->data, found.row.block_size, &found.place);
		handle_dirty_unsealed(h, found.buf);
		err = entries_changed(h, dir);
	}
	buf_put(found.buf);
	return err;
}

/* ".." of a directory with blocks. */
static int set_parent(struct handle *h, struct inode *dir, uint32_t parent_ino)
{
	struct buf *buf BUF_SCOPE = NULL;
	struct dirent_place place;
	struct dirents row;
	int err;

	if (inode_has_flag(dir, EXT4_INDEX_FL))
		return htree_set_parent(h, dir, parent_ino);
	err = dir_read_leaf(dir, 0, 0, &buf, &row);
	if (err < 0)
		return err;
	if (!dirents_find(&row, "..", 2, &place))
		return corrupt("directory %u has no \"..\"", dir->ino);
	err = handle_get_write(h, buf);
	if (err < 0)
		return err;
	dirents_set(buf->data, place.at,
		    &(struct dirent_new){ .ino = parent_ino,
					  .type = dirent_disk_type(dir, UEXT4_FT_DIR) });
	handle_dirty_unsealed(h, buf);
	return 0;
}

static int set_entry(struct handle *h, struct inode *dir, const struct dirent_new *entry)
{
	struct dir_place found;
	int err;

	err = dir_place_find(dir, entry->name, entry->name_len, &found);
	if (err < 0)
		return err;
	err = handle_get_write(h, found.buf);
	if (err == 0) {
		dirents_set(found.buf->data, found.place.at, entry);
		handle_dirty_unsealed(h, found.buf);
	}
	buf_put(found.buf);
	return err;
}

int dir_replace(struct handle *h, struct inode *dir, const void *name, size_t name_len,
		uint32_t ino, uint8_t type)
{
	const struct dirent_new entry = {
		.name = name,
		.name_len = (uint8_t)name_len,
		.ino = ino,
		.type = dirent_disk_type(dir, type),
	};
	int err;

	assert(inode_is_dir(dir) && !dir->fc && ino != 0);
	assert(!name_is_dot(name, name_len));
	if (dir->state == INODE_INLINE)
		err = dir_inline_replace(h, dir, &entry);
	else if (name_is_dotdot(name, name_len))
		err = set_parent(h, dir, ino);
	else
		err = set_entry(h, dir, &entry);
	if (err < 0)
		return err;
	return name_is_dotdot(name, name_len) ? dir_store(h, dir) : entries_changed(h, dir);
}
