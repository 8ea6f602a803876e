/* SPDX-License-Identifier: MIT */
/*
 * Data inside the inode: the first 60 bytes in i_block, the rest in the value of the attribute
 * system.data, which is there even when it is empty.
 *
 * Knows nothing of pages and sizes in memory: when it is called, and that the size stays below the
 * capacity, is the callers' (S1, S2, M12).  Where system.data lies is looked up each time: other
 * attributes that come and go move it.
 *
 * An inode that others left in a state we would not make (no system.data, a directory or symlink
 * that does not fit) is refused, never guessed at.  One exception: mke2fs -d leaves regular files
 * whose size lies beyond what fits; there the rest is zeros, for us as for the kernel.
 */
#include "fs/balloc.h"
#include "fs/map.h"
#include "fs/quota.h"
#include "fs/xattr_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <inttypes.h>

static const struct xattr_key data_key = { EXT4_XATTR_INDEX_SYSTEM, INLINE_DATA_NAME,
					   INLINE_DATA_NAME_LEN };

int inline_find(struct inode *ip, struct inline_parts *ret)
{
	const uint8_t *value;
	uint32_t value_bytes;
	int err;

	assert(ip->state == INODE_INLINE);
	err = xattr_ibody_find(ip, data_key.index, data_key.name, data_key.name_len, &value,
			       &value_bytes);
	if (err == -ENODATA)
		return corrupt("inode %u: inline data, but no attribute system.data", ip->ino);
	if (err < 0)
		return err;
	if (!inode_is_reg(ip) && ip->size > EXT4_I_BLOCK_BYTES + (uint64_t)value_bytes)
		return corrupt("inode %u: size %" PRIu64 " with room for %u bytes of inline data",
			       ip->ino, ip->size, EXT4_I_BLOCK_BYTES + value_bytes);
	*ret = (struct inline_parts){
		.part = { (const uint8_t *)ip->raw->i_block, value },
		.bytes = { EXT4_I_BLOCK_BYTES, value_bytes },
	};
	return 0;
}

/*
 * Copies what of the two parts lies in [@offset, @offset + @bytes); returns how much that is, from
 * @offset on.
 */
static size_t copy_parts(const struct inline_parts *parts, uint64_t offset, uint8_t *to,
			 size_t bytes)
{
	size_t copied = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(parts->part); i++) {
		size_t step;

		if (offset >= parts->bytes[i]) {
			offset -= parts->bytes[i];
			continue;
		}
		step = min_size(bytes - copied, parts->bytes[i] - (size_t)offset);
		if (step > 0)
			memcpy(to + copied, parts->part[i] + offset, step);
		offset = 0;
		copied += step;
	}
	return copied;
}

int inline_read(struct inode *ip, uint64_t offset, void *buf, size_t bytes)
{
	struct inline_parts parts;
	size_t inside = 0;
	int err;

	rwlock_read(&ip->xattr_lock);
	err = inline_find(ip, &parts);
	if (err == 0) {
		if (offset < ip->size)
			inside = (size_t)min_u64(bytes, ip->size - offset);
		inside = copy_parts(&parts, offset, buf, inside);
		memset((uint8_t *)buf + inside, 0, bytes - inside);
	}
	rwlock_read_unlock(&ip->xattr_lock);
	return err;
}

int inline_data_end(struct inode *ip, uint64_t *ret_end)
{
	struct inline_parts parts;
	int err;

	rwlock_read(&ip->xattr_lock);
	err = inline_find(ip, &parts);
	if (err == 0)
		*ret_end = min_u64(ip->size, parts.bytes[0] + (uint64_t)parts.bytes[1]);
	rwlock_read_unlock(&ip->xattr_lock);
	return err;
}

/* ---- changing -------------------------------------------------------------------------------- */

bool inline_is_possible(const struct uext4_fs *fs)
{
	const struct geom *g = &fs->geom;

	/* An inode has room for an empty system.data, if nothing else. */
	return geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_INLINE_DATA) && g->extra_isize_want > 0 &&
	       EXT4_GOOD_OLD_INODE_SIZE + g->extra_isize_want +
			       sizeof(struct ext4_xattr_ibody_header) +
			       EXT4_XATTR_LEN(INLINE_DATA_NAME_LEN) + EXT4_XATTR_PAD <=
		       g->inode_size;
}

int inline_capacity(struct inode *ip, uint32_t *ret_bytes)
{
	struct inline_parts parts;
	int err;

	err = inline_find(ip, &parts);
	if (err < 0)
		return err;
	*ret_bytes = parts.bytes[0] + parts.bytes[1];
	return 0;
}

int inline_capacity_max(struct inode *ip, uint32_t *ret_bytes)
{
	const struct xattr_area area = xattr_body_area(ip);
	uint32_t now = 0, room;
	int err;

	if (ip->state == INODE_INLINE) {
		err = inline_capacity(ip, &now);
		if (err < 0)
			return err;
	} else if (!inline_is_possible(ip->fs)) {
		*ret_bytes = 0;
		return 0;
	}
	*ret_bytes = xattr_area_room(&area, &data_key, &room)
			     ? (uint32_t)max_u64(now, EXT4_I_BLOCK_BYTES + room)
			     : now;
	return 0;
}

/* The body with @edit done, in memory that the caller frees. */
static int edit_body(struct inode *ip, const struct xattr_edit *edit, struct xattr_area *ret)
{
	const struct xattr_area area = xattr_body_area(ip);
	struct xattr_area edited = area;
	int err;

	if (!area.base)
		return -ENOSPC;
	edited.is_blank = false;
	edited.base = mem_alloc(area.end);
	if (!edited.base)
		return -ENOMEM;
	err = xattr_area_edit(&area, edit, &edited);
	if (err < 0)
		mem_free(edited.base);
	else
		*ret = edited;
	return err;
}

/* From here on: only abort.  What lay in i_block is gone. */
static void become_inline(struct inode *ip)
{
	mutex_lock(&ip->raw_lock);
	memset(ip->raw->i_block, 0, sizeof(ip->raw->i_block));
	mutex_unlock(&ip->raw_lock);
	inode_set_flags(ip, EXT4_INLINE_DATA_FL, EXT4_EXTENTS_FL);
	ip->state = INODE_INLINE;
}

/* From here on: only abort. */
static void leave_inline(struct inode *ip)
{
	inode_set_flags(ip, 0, EXT4_INLINE_DATA_FL);
	map_init(ip);
	ip->state = INODE_BLOCKS;
}

/* Does @edit in the body and stores the inode, which becomes or stays INLINE, or leaves it. */
static int change_body(struct handle *h, struct inode *ip, const struct xattr_edit *edit,
		       enum inode_state state) REQUIRES(&ip->xattr_lock)
{
	struct xattr_area edited;
	int err;

	err = edit_body(ip, edit, &edited);
	if (err < 0)
		return err;
	err = xattr_reserve_store(h, ip);
	if (err == 0) {
		/* From here on: only abort. */
		xattr_body_install(ip, &edited);
		if (ip->state != state && state == INODE_INLINE)
			become_inline(ip);
		else if (ip->state != state)
			leave_inline(ip);
		err = inode_store(h, ip);
		if (err < 0)
			txn_log_abort(ip->fs->log, err);
	}
	mem_free(edited.base);
	return err;
}

int inline_make_room(struct handle *h, struct inode *ip, uint32_t bytes)
{
	struct inline_parts parts = { 0 };
	struct xattr_edit edit = { .key = data_key };
	int err;

	if (ip->state == INODE_INLINE) {
		err = inline_find(ip, &parts);
		if (err < 0)
			return err;
		if (bytes <= parts.bytes[0] + parts.bytes[1])
			return 0;
		edit.value = parts.part[1];
		edit.value_bytes = parts.bytes[1];
	} else {
		assert(ip->state == INODE_EMPTY || (ip->state == INODE_BLOCKS && ip->size == 0));
		if (!inline_is_possible(ip->fs))
			return -ENOSPC;
	}
	if (bytes > EXT4_I_BLOCK_BYTES)
		edit.size = bytes - EXT4_I_BLOCK_BYTES;
	return change_body(h, ip, &edit, INODE_INLINE);
}

/* The bytes of @part, which begins at @at of the data, become what belongs there. */
static void store_part(struct inode *ip, const uint8_t *part, uint32_t at, uint32_t part_bytes,
		       const void *data, uint32_t bytes)
{
	uint8_t *to = (uint8_t *)ip->raw + (part - (const uint8_t *)ip->raw);
	uint32_t given = 0;

	if (bytes > at)
		given = (uint32_t)min_u64(bytes - at, part_bytes);
	if (given > 0)
		memcpy(to, (const uint8_t *)data + at, given);
	memset(to + given, 0, part_bytes - given);
}

int inline_store(struct handle *h, struct inode *ip, const void *data, uint32_t bytes)
{
	struct inline_parts parts = { 0 };
	int err;

	err = inline_find(ip, &parts);
	if (err < 0)
		return err;
	assert(bytes <= parts.bytes[0] + parts.bytes[1]);
	err = xattr_reserve_store(h, ip);
	if (err < 0)
		return err;
	/* From here on: only abort. */
	mutex_lock(&ip->raw_lock);
	store_part(ip, parts.part[0], 0, parts.bytes[0], data, bytes);
	store_part(ip, parts.part[1], parts.bytes[0], parts.bytes[1], data, bytes);
	mutex_unlock(&ip->raw_lock);
	inode_set_disk_size(ip, bytes);
	err = inode_store(h, ip);
	if (err < 0)
		txn_log_abort(ip->fs->log, err);
	return err;
}

int inline_remove(struct handle *h, struct inode *ip)
{
	const struct xattr_edit edit = { .key = data_key, .remove = true };

	assert(ip->state == INODE_INLINE);
	return change_body(h, ip, &edit, INODE_BLOCKS);
}

/* ---- a target that leaves its symlink -------------------------------------------------------- */

static int target_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return 0;
}

const struct buf_ops symlink_block_ops = { .name = "symlink block", .verify = target_verify };

/* Back to what the inode held in @before, since its map stayed empty. */
static void take_back(struct handle *h, struct inode *ip, const struct ext4_inode *before)
{
	const uint32_t body = EXT4_GOOD_OLD_INODE_SIZE + le16_get(before->i_extra_isize);
	int err;

	mutex_lock(&ip->raw_lock);
	memcpy(ip->raw->i_block, before->i_block, sizeof(before->i_block));
	memcpy((uint8_t *)ip->raw + body, (const uint8_t *)before + body,
	       ip->fs->geom.inode_size - body);
	mutex_unlock(&ip->raw_lock);
	inode_set_flags(ip, EXT4_INLINE_DATA_FL, EXT4_EXTENTS_FL);
	ip->state = INODE_INLINE;
	err = inode_store(h, ip);
	if (err < 0)
		txn_log_abort(ip->fs->log, err);
}

/* @target to block @run: first all that can fail, the block's bytes last. */
static int switch_to_block(struct handle *h, struct inode *ip, const struct blk_run *run,
			   const void *target, struct ext4_inode *before) REQUIRES(&ip->xattr_lock)
{
	struct buf *buf BUF_SCOPE = NULL;
	int err;

	err = buf_create(ip->fs->cache, run->start, &symlink_block_ops, inode_buf_owner(ip), &buf);
	if (err == 0)
		err = handle_get_create(h, buf);
	if (err < 0)
		return err;
	memcpy(before, ip->raw, ip->fs->geom.inode_size);
	err = inline_remove(h, ip);
	if (err == 0) {
		err = map_insert(h, ip, 0, 1, run, false);
		if (err < 0)
			take_back(h, ip, before);
	}
	if (err == 0) {
		memcpy(buf->data, target, (size_t)ip->size);
		handle_dirty(h, buf);
	} else if (handle_forget(h, run->start) < 0) {
		txn_log_abort(ip->fs->log, err);
	}
	return err;
}

static int switch_in_handle(struct inode *ip, const struct blk_run *run, const void *target)
{
	struct uext4_fs *fs = ip->fs;
	struct ext4_inode *before FREE_SCOPE = mem_alloc(fs->geom.inode_size);
	struct handle *h;
	int err;

	if (!before)
		return -ENOMEM;
	err = handle_start(fs->log, map_credits(ip) + 1 + INODE_STORE_CREDITS + quota_credits(fs),
			   &h);
	if (err < 0)
		return err;
	rwlock_write(&ip->xattr_lock);
	err = switch_to_block(h, ip, run, target, before);
	rwlock_write_unlock(&ip->xattr_lock);
	return first_error(err, handle_stop(h));
}

int inline_symlink_to_block(struct inode *ip)
{
	const struct balloc_request rq = { .ip = ip, .count = 1 };
	void *target FREE_SCOPE = mem_alloc((size_t)ip->size);
	struct blk_run run;
	unsigned tries = 0;
	int err;

	assert(inode_is_lnk(ip) && ip->state == INODE_INLINE);
	if (!target)
		return -ENOMEM;
	err = inline_read(ip, 0, target, (size_t)ip->size);
	if (err < 0)
		return err;
	do
		err = balloc_alloc(ip->fs, &rq, &run);
	while (ea_commit_for_space(ip->fs, err, &tries));
	if (err < 0)
		return err;
	err = switch_in_handle(ip, &run, target);
	if (err < 0 && ip->state == INODE_INLINE)
		balloc_cancel(ip->fs, &run, false);
	return err;
}
