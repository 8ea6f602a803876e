/* SPDX-License-Identifier: MIT */
/*
 * Block groups: their descriptors, and what the file system says of its free space.
 *
 * Reads descriptors only when asked, and never a bitmap: opening costs the same whatever the size
 * of the image.
 */
#include "fs/fs.h"

#include "base/diag.h"
#include "base/mem.h"

/* How much of the descriptor table is read in one request when the sums are wanted. */
#define DESC_AHEAD_BYTES (256u * 1024)

static int desc_block_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	/* Each descriptor has a checksum of its own: one bad group must not hide its neighbours. */
	return 0;
}

static const struct buf_ops desc_block_ops = { "group descriptor block", desc_block_verify };

static int desc_read(struct uext4_fs *fs, uint32_t group, uint32_t ahead,
		     struct ext4_group_desc *ret)
{
	const struct geom *g = &fs->geom;
	struct buf *buf BUF_SCOPE = NULL;
	struct ext4_group_desc gd = { 0 };
	uint32_t index = group / g->desc_per_block;
	const uint8_t *on_disk;
	int err;

	assert(group < g->groups);
	err = buf_read(fs->cache, geom_desc_block(g, fs->super_blk, index), &desc_block_ops, 0,
		       NULL, ahead, &buf);
	if (err < 0)
		return fail_in(err, "descriptor of group %u", group);
	/*
	 * Verified where it lies: a descriptor may be longer than the struct, and its checksum
	 * covers all.
	 */
	on_disk = buf->data + group % g->desc_per_block * g->desc_size;
	err = verify_group_desc(g, group, (const struct ext4_group_desc *)(const void *)on_disk);
	if (err < 0)
		return err;
	memcpy(&gd, on_disk, min_size(g->desc_size, sizeof(gd)));
	*ret = gd;
	return 0;
}

int group_desc_read(struct uext4_fs *fs, uint32_t group, struct ext4_group_desc *ret)
{
	return desc_read(fs, group, 0, ret);
}

static int sum_descs(struct uext4_fs *fs, uint64_t *ret_blocks, uint32_t *ret_inodes)
{
	const struct geom *g = &fs->geom;
	uint64_t clusters = 0, inodes = 0;
	bool neighbours = !geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_META_BG);

	for (uint32_t group = 0; group < g->groups; group++) {
		uint32_t ahead = 0, index = group / g->desc_per_block;
		struct ext4_group_desc gd;
		int err;

		if (neighbours)
			ahead = (uint32_t)min_u64(DESC_AHEAD_BYTES / g->block_size - 1,
						  g->desc_blocks - index - 1);
		err = desc_read(fs, group, ahead, &gd);
		if (err < 0)
			return err;
		clusters += le16_get(gd.bg_free_blocks_count_lo) |
			    (uint32_t)le16_get(gd.bg_free_blocks_count_hi) << 16;
		inodes += le16_get(gd.bg_free_inodes_count_lo) |
			  (uint32_t)le16_get(gd.bg_free_inodes_count_hi) << 16;
	}
	*ret_blocks = min_u64(clusters << g->cluster_ratio_bits, g->blocks);
	*ret_inodes = (uint32_t)min_u64(inodes, g->inodes);
	return 0;
}

int group_count_free(struct uext4_fs *fs, uint64_t *ret_blocks, uint32_t *ret_inodes)
{
	uint64_t blocks;
	uint32_t inodes;
	bool counted;
	int err;

	mutex_lock(&fs->count_lock);
	counted = fs->counted;
	blocks = fs->blocks_free;
	inodes = fs->inodes_free;
	mutex_unlock(&fs->count_lock);
	if (!counted) {
		/* Two threads may both count: the result is the same. */
		err = sum_descs(fs, &blocks, &inodes);
		if (err < 0)
			return err;
		mutex_lock(&fs->count_lock);
		fs->counted = true;
		fs->blocks_free = blocks;
		fs->inodes_free = inodes;
		mutex_unlock(&fs->count_lock);
	}
	*ret_blocks = blocks;
	*ret_inodes = inodes;
	return 0;
}

/* 0 also where its inode is damaged: that is nothing statfs should fail for. */
static uint64_t internal_journal_blocks(struct uext4_fs *fs)
{
	struct ext4_inode *raw FREE_SCOPE = NULL;

	if (fs->info.journal_ino == 0)
		return 0;
	raw = mem_alloc(fs->geom.inode_size);
	if (!raw || inode_read_raw(fs, fs->info.journal_ino, raw) < 0)
		return 0;
	return u64_from_lo_hi(raw->i_size_lo, raw->i_size_high) >> fs->geom.block_bits;
}

/*
 * Blocks that no file can have.  mke2fs keeps the number in the superblock; where it is missing it
 * is counted from the layout, without blocks that bitmaps and tables of one group share with
 * another.
 */
static uint64_t overhead(struct uext4_fs *fs)
{
	const struct geom *g = &fs->geom;
	uint64_t stored = (uint64_t)le32_get(fs->super.s_overhead_blocks) << g->cluster_ratio_bits;
	uint64_t sum = g->first_data_block + (uint64_t)g->groups * (g->inode_table_blocks + 2);

	if (stored != 0 && stored <= g->blocks)
		return stored;
	for (uint32_t group = 0; group < g->groups; group++) {
		if (geom_group_has_super(g, group))
			sum += 1 + g->desc_blocks + g->reserved_gdt_blocks;
	}
	return min_u64(sum + internal_journal_blocks(fs), g->blocks);
}

int fs_statfs(struct uext4_fs *fs, uint32_t flags, struct uext4_statfs *ret)
{
	const struct geom *g = &fs->geom;
	struct uext4_statfs st = { .block_size = g->block_size, .name_max = UEXT4_NAME_MAX };
	uint64_t held = u64_from_lo_hi(fs->super.s_r_blocks_count_lo,
				       fs->super.s_r_blocks_count_hi);
	uint64_t id[2];
	uint32_t inodes_free;
	int err;

	err = group_count_free(fs, &st.blocks_free, &inodes_free);
	if (err < 0)
		return err;
	st.blocks = g->blocks;
	if (!(flags & UEXT4_STATFS_MINIXDF))
		st.blocks -= overhead(fs);
	st.blocks_free = min_u64(st.blocks_free, st.blocks);
	/* The kernel keeps a fiftieth, at most 4,096 clusters, for extents that must be split. */
	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_EXTENTS))
		held += min_u64((g->blocks >> g->cluster_ratio_bits) / 50, 4096)
			<< g->cluster_ratio_bits;
	st.blocks_available = st.blocks_free > held ? st.blocks_free - held : 0;
	st.inodes = g->inodes;
	st.inodes_free = inodes_free;
	memcpy(id, g->uuid, sizeof(id));
	st.fsid = id[0] ^ id[1];
	*ret = st;
	return 0;
}
