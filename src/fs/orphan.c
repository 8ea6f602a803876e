/* SPDX-License-Identifier: MIT */
/*
 * Orphans: inodes that were deleted while open, or truncated half, when the file system stopped.
 *
 * They stand on a list through i_dtime that starts in the superblock, or in the orphan file.  A
 * reader counts them; deleted ones have no name and no links, and truncated ones already have their
 * final size, so that nothing more is needed for a right view of names and contents.
 */
#include "fs/fs.h"
#include "fs/map.h"

#include "base/diag.h"
#include "base/mem.h"

static int count_list(struct uext4_fs *fs, uint32_t *ret_count)
{
	struct ext4_inode *raw FREE_SCOPE = NULL;
	uint32_t ino = le32_get(fs->super.s_last_orphan), count = 0;
	uint32_t mark = 0,
		 limit = 1; /* a cycle comes back to some mark: it moves at 1, 2, 4, ... */

	if (ino == 0)
		goto out;
	raw = mem_alloc(fs->geom.inode_size);
	if (!raw)
		return -ENOMEM;
	while (ino != 0) {
		int err;

		if (ino == mark)
			return corrupt("the orphan list comes back to inode %u", ino);
		err = inode_read_raw(fs, ino, raw);
		if (err < 0)
			return fail_in(err, "orphan list");
		if (++count == limit) {
			mark = ino;
			limit *= 2;
		}
		ino = le32_get(raw->i_dtime);
	}
out:
	*ret_count = count;
	return 0;
}

static int orphan_block_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return verify_orphan_block(arg, data, blk);
}

static const struct buf_ops orphan_block_ops = { "orphan file block", orphan_block_verify };

static int count_file(struct uext4_fs *fs, uint32_t *ret_count)
{
	const struct geom *g = &fs->geom;
	struct inode *ip INODE_SCOPE = NULL;
	struct verify_inode vi;
	uint32_t blocks, slots, count = 0;
	int err;

	err = inode_get(fs, le32_get(fs->super.s_orphan_file_inum), &ip);
	if (err < 0)
		return fail_in(err, "orphan file");
	if (!inode_is_reg(ip) || ip->state != INODE_BLOCKS || ip->size > g->blocks * g->block_size)
		return corrupt("inode %u is no orphan file", ip->ino);
	inode_verify_arg(ip, &vi);
	blocks = (uint32_t)min_u64(ip->size >> g->block_bits, UINT32_MAX);
	slots = (g->block_size - (uint32_t)sizeof(struct ext4_orphan_block_tail)) / 4;
	for (lblk_t lblk = 0; lblk < blocks; lblk++) {
		struct buf *buf BUF_SCOPE = NULL;
		const le32 *entries;

		err = map_read_buf(ip, lblk, &orphan_block_ops, &vi, &buf);
		if (err < 0)
			return fail_in(err, "orphan file");
		entries = (const le32 *)(const void *)buf->data;
		for (uint32_t i = 0; i < slots; i++)
			count += le32_get(entries[i]) != 0;
	}
	*ret_count = count;
	return 0;
}

int orphan_count(struct uext4_fs *fs, uint32_t *ret_count)
{
	uint32_t on_list = 0, in_file = 0;
	int err;

	err = count_list(fs, &on_list);
	if (err < 0)
		return err;
	if (geom_has_compat(&fs->geom, EXT4_FEATURE_COMPAT_ORPHAN_FILE) &&
	    geom_has_ro_compat(&fs->geom, EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT)) {
		err = count_file(fs, &in_file);
		if (err < 0)
			return err;
	}
	*ret_count = on_list + in_file;
	return 0;
}
