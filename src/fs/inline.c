/* SPDX-License-Identifier: MIT */
/*
 * Data inside the inode: the first 60 bytes in i_block, the rest in the value of the attribute
 * system.data, which is there even when it is empty.
 *
 * An inode that others left in a state we would not make (no system.data, a directory or symlink
 * that does not fit) is refused, never guessed at.  One exception: mke2fs -d leaves regular files
 * whose size lies beyond what fits; there the rest is zeros, for us as for the kernel.
 */
#include "fs/fs.h"

#include "base/diag.h"

#include <inttypes.h>

static const char data_name[] = "data";

int inline_find(struct inode *ip, struct inline_parts *ret)
{
	const uint8_t *value;
	uint32_t value_bytes;
	int err;

	assert(ip->state == INODE_INLINE);
	err = xattr_ibody_find(ip, EXT4_XATTR_INDEX_SYSTEM, data_name, sizeof(data_name) - 1,
			       &value, &value_bytes);
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
