/* SPDX-License-Identifier: MIT */
/*
 * Directories inside the inode: the parent's number and two rows of entries.
 *
 *	i_block		parent's inode number, 4 bytes; then a row of 56 bytes
 *	system.data	a second row, which may have no bytes at all
 *
 * There is no "." and no "..".  The size is all of this, used or not.  A change works on a copy of
 * the whole, so it is stored complete or not at all.
 *
 *  D1  When the directory gets a block its rows lie there one behind the other, after "." and "..",
 *      where they would have been in a block from the beginning: a listing by place goes on.
 */
#include "fs/balloc.h"
#include "fs/dir.h"
#include "fs/fs_priv.h"
#include "fs/quota.h"
#include "fs/xattr.h"

#include "base/diag.h"
#include "base/mem.h"

#define PARENT_BYTES ((uint32_t)sizeof(le32))
#define ROW0_BYTES (EXT4_I_BLOCK_BYTES - PARENT_BYTES)
#define DOTS_BYTES (2 * EXT4_DIR_ENTRY_BYTES(2))
/* How much more room than it needs a directory takes when it grows, if the inode has it. */
#define GROW_BYTES 64u

/* ---- reading --------------------------------------------------------------------------------- */

int dir_inline_rows(struct inode *ip, struct dirents ret_rows[DIR_INLINE_PARTS])
{
	struct verify_inode vi;
	struct inline_parts parts;
	int err;

	err = inline_find(ip, &parts);
	if (err < 0)
		return err;
	parts.part[0] += PARENT_BYTES;
	parts.bytes[0] -= PARENT_BYTES;
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

int dir_inline_find(struct inode *ip, const void *name, size_t name_len, uint32_t *ret_ino)
{
	struct dirents rows[DIR_INLINE_PARTS];
	struct dirent_place place;
	uint32_t ino = 0;
	int err;

	rwlock_read(&ip->xattr_lock);
	err = dir_inline_rows(ip, rows);
	for (unsigned i = 0; err == 0 && ino == 0 && i < DIR_INLINE_PARTS; i++)
		if (dirents_find(&rows[i], name, name_len, &place))
			ino = le32_get(dirents_at(&rows[i], place.at)->inode);
	rwlock_read_unlock(&ip->xattr_lock);
	if (err < 0)
		return err;
	if (ino == 0)
		return -ENOENT;
	*ret_ino = ino;
	return 0;
}

uint32_t dir_inline_parent(struct inode *ip)
{
	uint32_t ino;

	rwlock_read(&ip->xattr_lock);
	ino = le32_get(ip->raw->i_block[0]);
	rwlock_read_unlock(&ip->xattr_lock);
	return ino;
}

int dir_inline_is_empty(struct inode *ip, bool *ret_empty)
{
	struct dirents rows[DIR_INLINE_PARTS];
	bool empty = true;
	int err;

	rwlock_read(&ip->xattr_lock);
	err = dir_inline_rows(ip, rows);
	for (unsigned i = 0; err == 0 && empty && i < DIR_INLINE_PARTS; i++)
		empty = dirents_are_empty(&rows[i]);
	rwlock_read_unlock(&ip->xattr_lock);
	if (err < 0)
		return err;
	*ret_empty = empty;
	return 0;
}

/* ---- the copy -------------------------------------------------------------------------------- */

struct body {
	uint8_t *data; /* inode_size bytes of memory */
	uint32_t bytes;
	uint32_t block_size;
};

static void body_finish(struct body *b)
{
	mem_free(b->data);
}
#define BODY_SCOPE CLEANUP(body_finish)

static int body_init(struct inode *ip, struct body *b)
{
	b->data = mem_zalloc(ip->fs->geom.inode_size);
	b->bytes = 0;
	b->block_size = ip->fs->geom.block_size;
	return b->data ? 0 : -ENOMEM;
}

/* A body that holds what the inode does. */
static int body_load(struct inode *ip, struct body *b) REQUIRES(&ip->xattr_lock)
{
	struct dirents rows[DIR_INLINE_PARTS];
	struct inline_parts parts;
	int err;

	err = body_init(ip, b);
	if (err == 0)
		err = dir_inline_rows(ip, rows);
	if (err == 0)
		err = inline_find(ip, &parts);
	if (err < 0)
		return err;
	b->bytes = parts.bytes[0] + parts.bytes[1];
	assert(b->bytes <= ip->fs->geom.inode_size);
	memcpy(b->data, parts.part[0], parts.bytes[0]);
	memcpy(b->data + parts.bytes[0], parts.part[1], parts.bytes[1]);
	return 0;
}

static uint8_t *body_row(const struct body *b, unsigned index, struct dirents *ret_row)
{
	uint8_t *data = b->data + (index == 0 ? PARENT_BYTES : EXT4_I_BLOCK_BYTES);

	*ret_row = (struct dirents){
		.data = data,
		.bytes = index == 0 ? ROW0_BYTES : b->bytes - EXT4_I_BLOCK_BYTES,
		.block_size = b->block_size,
	};
	return data;
}

static bool body_insert(struct body *b, const struct dirent_new *entry)
{
	for (unsigned i = 0; i < DIR_INLINE_PARTS; i++) {
		struct dirents row;
		uint8_t *data = body_row(b, i, &row);
		uint32_t at;

		if (dirents_find_room(&row, entry->name_len, &at)) {
			dirents_insert(data, b->block_size, at, entry);
			return true;
		}
	}
	return false;
}

/* Where @name lies in the copy: its row's bytes, or NULL. */
static uint8_t *body_find(const struct body *b, const void *name, size_t name_len,
			  struct dirent_place *ret_place)
{
	for (unsigned i = 0; i < DIR_INLINE_PARTS; i++) {
		struct dirents row;
		uint8_t *data = body_row(b, i, &row);

		if (dirents_find(&row, name, name_len, ret_place))
			return data;
	}
	return NULL;
}

static void body_grow(struct body *b, uint32_t bytes)
{
	assert(bytes >= b->bytes && bytes % EXT4_DIR_ROUND == 0);
	dirents_close(b->data + EXT4_I_BLOCK_BYTES, b->block_size, b->bytes - EXT4_I_BLOCK_BYTES,
		      bytes - EXT4_I_BLOCK_BYTES);
	b->bytes = bytes;
}

/* The copy becomes what the inode holds, all of it in use as far as the size goes. */
static int body_store(struct handle *h, struct inode *ip, const struct body *b)
	REQUIRES(&ip->xattr_lock)
{
	int err = inline_store(h, ip, b->data, b->bytes);

	if (err == 0)
		ip->size = b->bytes;
	return err;
}

/* ---- changes --------------------------------------------------------------------------------- */

static int init_locked(struct handle *h, struct inode *ip, uint32_t parent_ino)
	REQUIRES(&ip->xattr_lock)
{
	struct body b BODY_SCOPE = { 0 };
	int err;

	err = body_init(ip, &b);
	if (err == 0)
		err = inline_make_room(h, ip, EXT4_I_BLOCK_BYTES);
	if (err == 0)
		err = inline_capacity(ip, &b.bytes);
	if (err < 0)
		return err;
	*(le32 *)(void *)b.data = le32_make(parent_ino);
	dirents_clear(b.data + PARENT_BYTES, b.block_size, ROW0_BYTES);
	dirents_clear(b.data + EXT4_I_BLOCK_BYTES, b.block_size, b.bytes - EXT4_I_BLOCK_BYTES);
	return body_store(h, ip, &b);
}

int dir_inline_init(struct handle *h, struct inode *ip, uint32_t parent_ino)
{
	int err;

	rwlock_write(&ip->xattr_lock);
	err = init_locked(h, ip, parent_ino);
	rwlock_write_unlock(&ip->xattr_lock);
	return err;
}

/*
 * Makes room for @entry in the inode and puts it into the copy.  Whether it will do is tried on the
 * copy first.
 */
static int grow_for(struct handle *h, struct inode *ip, struct body *b,
		    const struct dirent_new *entry) REQUIRES(&ip->xattr_lock)
{
	uint32_t before = b->bytes, max, wanted;
	int err;

	err = inline_capacity_max(ip, &max);
	if (err < 0)
		return err;
	wanted = before + EXT4_DIR_ENTRY_BYTES(entry->name_len) + GROW_BYTES;
	wanted = (uint32_t)round_down_pow2(min_u64(wanted, max), EXT4_DIR_ROUND);
	if (wanted <= before || wanted - EXT4_I_BLOCK_BYTES < EXT4_DIR_ENTRY_BYTES(1))
		return -ENOSPC;
	body_grow(b, wanted);
	if (!body_insert(b, entry))
		return -ENOSPC;
	err = inline_make_room(h, ip, wanted);
	if (err < 0)
		return err;
	err = inline_capacity(ip, &max);
	if (err < 0)
		return err;
	body_grow(b, max);
	return 0;
}

static int add_locked(struct handle *h, struct inode *ip, const struct dirent_new *entry)
	REQUIRES(&ip->xattr_lock)
{
	struct body b BODY_SCOPE = { 0 };
	int err;

	err = body_load(ip, &b);
	if (err == 0 && !body_insert(&b, entry))
		err = grow_for(h, ip, &b, entry);
	if (err == 0)
		err = body_store(h, ip, &b);
	return err;
}

int dir_inline_add(struct handle *h, struct inode *ip, const struct dirent_new *entry)
{
	int err;

	rwlock_write(&ip->xattr_lock);
	err = add_locked(h, ip, entry);
	rwlock_write_unlock(&ip->xattr_lock);
	return err;
}

static int remove_locked(struct handle *h, struct inode *ip, const void *name, size_t name_len)
	REQUIRES(&ip->xattr_lock)
{
	struct body b BODY_SCOPE = { 0 };
	struct dirent_place place;
	uint8_t *row;
	int err;

	err = body_load(ip, &b);
	if (err < 0)
		return err;
	row = body_find(&b, name, name_len, &place);
	if (!row)
		return -ENOENT;
	dirents_remove(row, b.block_size, &place);
	return body_store(h, ip, &b);
}

int dir_inline_remove(struct handle *h, struct inode *ip, const void *name, size_t name_len)
{
	int err;

	rwlock_write(&ip->xattr_lock);
	err = remove_locked(h, ip, name, name_len);
	rwlock_write_unlock(&ip->xattr_lock);
	return err;
}

static int replace_locked(struct handle *h, struct inode *ip, const struct dirent_new *entry)
	REQUIRES(&ip->xattr_lock)
{
	struct body b BODY_SCOPE = { 0 };
	int err;

	err = body_load(ip, &b);
	if (err < 0)
		return err;
	if (name_is_dotdot(entry->name, entry->name_len)) {
		*(le32 *)(void *)b.data = le32_make(entry->ino);
	} else {
		struct dirent_place place;
		uint8_t *row = body_find(&b, entry->name, entry->name_len, &place);

		if (!row)
			return -ENOENT;
		dirents_set(row, place.at, entry);
	}
	return body_store(h, ip, &b);
}

int dir_inline_replace(struct handle *h, struct inode *ip, const struct dirent_new *entry)
{
	int err;

	rwlock_write(&ip->xattr_lock);
	err = replace_locked(h, ip, entry);
	rwlock_write_unlock(&ip->xattr_lock);
	return err;
}

/* ---- into a block ---------------------------------------------------------------------------- */

static void fill_block(struct inode *ip, uint8_t *data, const struct body *b)
{
	uint32_t bytes = DOTS_BYTES + b->bytes - PARENT_BYTES;

	assert(bytes <= dir_leaf_bytes(ip));
	dir_fill_dots(ip, data, le32_get(*(const le32 *)(const void *)b->data), DOTS_BYTES);
	memcpy(data + DOTS_BYTES, b->data + PARENT_BYTES, b->bytes - PARENT_BYTES);
	dirents_close(data, b->block_size, bytes, dir_leaf_bytes(ip));
}

/* The block @run, which the caller took, becomes the directory's first; its buffer is filled. */
static int switch_to(struct handle *h, struct inode *ip, const struct blk_run *run)
	REQUIRES(&ip->xattr_lock)
{
	int err;

	err = inline_remove(h, ip);
	if (err < 0)
		return err;
	/* From here on: only abort.  Space and quota are there, what has to be read was read. */
	ip->size = ip->fs->geom.block_size;
	inode_set_disk_size(ip, ip->size);
	err = map_insert(h, ip, 0, 1, run, false);
	if (err < 0)
		txn_log_abort(ip->fs->log, err);
	return err;
}

static int convert_locked(struct handle *h, struct inode *ip, const struct blk_run *run)
	REQUIRES(&ip->xattr_lock)
{
	struct buf *buf BUF_SCOPE = NULL;
	struct body b BODY_SCOPE = { 0 };
	int err;

	err = body_load(ip, &b);
	if (err == 0)
		err = buf_create(ip->fs->cache, run->start, &dir_leaf_ops, inode_buf_owner(ip),
				 &buf);
	if (err < 0)
		return err;
	err = handle_get_create(h, buf);
	if (err < 0)
		return err;
	fill_block(ip, buf->data, &b);
	handle_dirty_unsealed(h, buf);
	err = switch_to(h, ip, run);
	if (err < 0 && handle_forget(h, run->start) < 0)
		txn_log_abort(ip->fs->log, err);
	return err;
}

int dir_inline_convert(struct handle *h, struct inode *ip)
{
	const struct balloc_request rq = { .ip = ip, .count = 1 };
	struct blk_run run;
	int err;

	/* map_insert() charges what was promised, whatever the limits say. */
	err = quota_reserve(ip, ip->fs->geom.cluster_ratio);
	if (err < 0)
		return err;
	err = balloc_alloc(ip->fs, &rq, &run);
	if (err == 0) {
		rwlock_write(&ip->xattr_lock);
		err = convert_locked(h, ip, &run);
		rwlock_write_unlock(&ip->xattr_lock);
		if (err < 0)
			balloc_cancel(ip->fs, &run, false);
	}
	quota_unreserve(ip, ip->fs->geom.cluster_ratio);
	return err;
}
