/* SPDX-License-Identifier: MIT */
/*
 * Block groups: their descriptors and bitmaps as buffers, and what the file system says of its free
 * space.
 *
 * A reader reads descriptors only when asked, and never a bitmap: opening costs the same whatever
 * the size of the image.
 *
 *  D1  While an image is open for writing a descriptor is read and changed under its group's lock:
 *      its checksum covers all of it.  From the first change in a transaction (group.desc_tid) to
 *      the commit, which seals it with the bitmap that changed too, the checksum is old: nobody
 *      looks at it.
 *  D2  What a bitmap's checksum ought to be is also in struct group, so that a bitmap can be
 *      verified when it is read, without that lock.  While it changes both are old: from the first
 *      change to the commit, which seals it, its buffer is held, and nobody reads it from disk.
 */
#include "fs/balloc_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "disk/seal.h"

/* How much of the descriptor table is read in one request when the sums are wanted. */
#define DESC_AHEAD_BYTES (256u * 1024)

/* ---- descriptors ----------------------------------------------------------------------------- */

static int desc_block_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	/* Each descriptor has a checksum of its own: one bad group must not hide its neighbours. */
	return 0;
}

static const struct buf_ops desc_block_ops = {
	.name = "group descriptor block",
	.verify = desc_block_verify,
};

static blk_t desc_block_of(const struct uext4_fs *fs, uint32_t group)
{
	return geom_desc_block(&fs->geom, fs->super_blk, group / fs->geom.desc_per_block);
}

static struct ext4_group_desc *desc_in(const struct geom *g, const struct buf *buf, uint32_t group)
{
	return (void *)(buf->data + group % g->desc_per_block * g->desc_size);
}

static int desc_buf_read(struct uext4_fs *fs, uint32_t group, uint32_t ahead, struct buf **ret_buf,
			 struct ext4_group_desc **ret_gd)
{
	struct buf *buf;
	int err;

	assert(group < fs->geom.groups);
	err = buf_read(fs->cache, desc_block_of(fs, group), &desc_block_ops, 0, NULL, ahead, &buf);
	if (err < 0)
		return fail_in(err, "descriptor of group %u", group);
	*ret_gd = desc_in(&fs->geom, buf, group);
	*ret_buf = buf;
	return 0;
}

int group_desc_buf(struct uext4_fs *fs, uint32_t group, struct buf **ret_buf,
		   struct ext4_group_desc **ret_gd)
{
	return desc_buf_read(fs, group, 0, ret_buf, ret_gd);
}

/* How many further blocks of descriptors are worth reading with that of @group. */
static uint32_t desc_ahead(const struct geom *g, uint32_t group)
{
	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_META_BG))
		return 0;
	return (uint32_t)min_u64(DESC_AHEAD_BYTES / g->block_size - 1,
				 g->desc_blocks - group / g->desc_per_block - 1);
}

/* D1.  Group lock. */
static bool is_being_changed(struct uext4_fs *fs, uint32_t group)
{
	return fs->log && fs->balloc->groups[group].desc_tid == txn_log_running(fs->log);
}

static int desc_read(struct uext4_fs *fs, uint32_t group, uint32_t ahead,
		     struct ext4_group_desc *ret)
{
	struct buf *buf BUF_SCOPE = NULL;
	struct ext4_group_desc gd = { 0 }, *on_disk;
	int err;

	err = desc_buf_read(fs, group, ahead, &buf, &on_disk);
	if (err < 0)
		return err;
	/*
	 * Verified where it lies: a descriptor may be longer than the struct, and its checksum
	 * covers all.
	 */
	if (fs->balloc)
		group_lock(fs->balloc, group); /* D1 */
	if (!fs->balloc || !is_being_changed(fs, group))
		err = verify_group_desc(&fs->geom, group, on_disk);
	memcpy(&gd, on_disk, min_size(fs->geom.desc_size, sizeof(gd)));
	if (fs->balloc)
		group_unlock(fs->balloc, group);
	if (err < 0)
		return err;
	*ret = gd;
	return 0;
}

int group_desc_read(struct uext4_fs *fs, uint32_t group, struct ext4_group_desc *ret)
{
	return desc_read(fs, group, 0, ret);
}

int desc_read_first(struct uext4_fs *fs, uint32_t group, struct buf **ret_buf,
		    const struct ext4_group_desc **ret_gd)
{
	/* Compilers do not see that they are set where there is no error. */
	struct ext4_group_desc *gd = NULL;
	struct buf *buf = NULL;
	int err;

	err = desc_buf_read(fs, group, desc_ahead(&fs->geom, group), &buf, &gd);
	if (err < 0)
		return err;
	err = verify_group_desc(&fs->geom, group, gd);
	if (err < 0) {
		buf_put(buf);
		return err;
	}
	*ret_buf = buf;
	*ret_gd = gd;
	return 0;
}

bool desc_has_flags(const struct geom *g)
{
	return geom_has_csum(g) || geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_GDT_CSUM);
}

/* ---- bitmaps --------------------------------------------------------------------------------- */

struct bitmap_arg {
	struct balloc *b;
	uint32_t group;
};

/* D2. */
static int bitmap_verify(const struct bitmap_arg *arg, const void *data, bool inode_bitmap)
{
	const struct group *grp = &arg->b->groups[arg->group];
	uint32_t csum = atomic_load(inode_bitmap ? &grp->inode_csum : &grp->block_csum);
	struct ext4_group_desc gd = { .bg_flags = le16_make((uint16_t)atomic_load(&grp->flags)) };

	if (inode_bitmap)
		desc_set16(arg->b->geom, &gd.bg_inode_bitmap_csum_lo, &gd.bg_inode_bitmap_csum_hi,
			   csum);
	else
		desc_set16(arg->b->geom, &gd.bg_block_bitmap_csum_lo, &gd.bg_block_bitmap_csum_hi,
			   csum);
	return verify_bitmap(arg->b->geom, arg->group, &gd, data, inode_bitmap);
}

static int block_bitmap_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return bitmap_verify(arg, data, false);
}

static int inode_bitmap_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return bitmap_verify(arg, data, true);
}

/* Into the descriptor, which is in the same transaction, and so in memory. */
static void bitmap_seal(struct balloc *b, uint32_t group, const struct buf *buf, bool inode_bitmap)
{
	const struct geom *g = b->geom;
	struct group *grp = &b->groups[group];
	struct buf *desc_buf BUF_SCOPE = buf_lookup(b->fs->cache, desc_block_of(b->fs, group));
	struct ext4_group_desc *gd;

	assert(desc_buf != NULL);
	gd = desc_in(g, desc_buf, group);
	group_lock(b, group); /* D1 */
	seal_bitmap(g, gd, buf->data, inode_bitmap);
	seal_group_desc(g, group, gd);
	if (inode_bitmap)
		atomic_store(&grp->inode_csum, desc_get16(g, &gd->bg_inode_bitmap_csum_lo,
							  &gd->bg_inode_bitmap_csum_hi));
	else
		atomic_store(&grp->block_csum, desc_get16(g, &gd->bg_block_bitmap_csum_lo,
							  &gd->bg_block_bitmap_csum_hi));
	group_unlock(b, group);
}

static void block_bitmap_seal(struct buf *buf, uint64_t owner, void *arg)
{
	bitmap_seal(((struct uext4_fs *)arg)->balloc, (uint32_t)owner, buf, false);
}

static void inode_bitmap_seal(struct buf *buf, uint64_t owner, void *arg)
{
	bitmap_seal(((struct uext4_fs *)arg)->balloc, (uint32_t)owner, buf, true);
}

static const struct buf_ops block_bitmap_ops = {
	.name = "block bitmap",
	.verify = block_bitmap_verify,
	.seal = block_bitmap_seal,
};
static const struct buf_ops inode_bitmap_ops = {
	.name = "inode bitmap",
	.verify = inode_bitmap_verify,
	.seal = inode_bitmap_seal,
};

void group_bufs_put(struct group_bufs *gb)
{
	buf_put(gb->desc_buf);
	buf_put(gb->bitmap_buf);
	gb->desc_buf = gb->bitmap_buf = NULL;
}

int group_bufs_read(struct balloc *b, uint32_t group, bool inode_bitmap, struct group_bufs *ret)
{
	const struct bitmap_arg arg = { .b = b, .group = group };
	struct group_bufs gb = { .group = group };
	blk_t blk;
	int err;

	err = group_desc_buf(b->fs, group, &gb.desc_buf, &gb.gd);
	if (err < 0)
		return err;
	/* Where a group's bitmaps lie never changes. */
	blk = inode_bitmap ? desc_inode_bitmap(b->geom, gb.gd) : desc_block_bitmap(b->geom, gb.gd);
	err = buf_read(b->fs->cache, blk, inode_bitmap ? &inode_bitmap_ops : &block_bitmap_ops,
		       group, &arg, 0, &gb.bitmap_buf);
	if (err < 0) {
		group_bufs_put(&gb);
		return fail_in(err, "group %u", group);
	}
	*ret = gb;
	return 0;
}

static void fill_uninit(struct balloc *b, struct group_bufs *gb, bool inode_bitmap)
{
	uint32_t bits = b->geom->inodes_per_group;

	if (!inode_bitmap) {
		bitmap_fill_uninit(b, gb->group, gb->bitmap_buf->data);
		return;
	}
	memset(gb->bitmap_buf->data, 0, b->geom->block_size);
	bitmap_set(gb->bitmap_buf->data, bits, b->geom->block_size * 8 - bits);
}

int group_bufs_get_write(struct handle *h, struct balloc *b, struct group_bufs *gb,
			 bool inode_bitmap)
{
	uint16_t uninit = inode_bitmap ? EXT4_BG_INODE_UNINIT : EXT4_BG_BLOCK_UNINIT;
	int err = 0;

	if (!is_being_changed(b->fs, gb->group))
		err = verify_group_desc(b->geom, gb->group, gb->gd);
	if (err == 0)
		err = handle_get_write(h, gb->bitmap_buf);
	if (err == 0)
		err = handle_get_write(h, gb->desc_buf);
	if (err < 0)
		return err;
	if (atomic_load(&b->groups[gb->group].flags) & uninit) {
		fill_uninit(b, gb, inode_bitmap);
		gb->gd->bg_flags = le16_make(le16_get(gb->gd->bg_flags) & (uint16_t)~uninit);
		atomic_fetch_and(&b->groups[gb->group].flags, ~(uint32_t)uninit);
	}
	return 0;
}

void group_bufs_dirty(struct handle *h, struct balloc *b, struct group_bufs *gb)
{
	b->groups[gb->group].desc_tid = handle_tid(h);
	handle_dirty_unsealed(h, gb->bitmap_buf);
	handle_dirty(h, gb->desc_buf);
}

/* ---- sums ------------------------------------------------------------------------------------ */

static int sum_descs(struct uext4_fs *fs, uint64_t *ret_blocks, uint32_t *ret_inodes)
{
	const struct geom *g = &fs->geom;
	uint64_t clusters = 0, inodes = 0;

	for (uint32_t group = 0; group < g->groups; group++) {
		struct ext4_group_desc gd;
		int err;

		err = desc_read(fs, group, desc_ahead(g, group), &gd);
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

	if (fs->balloc) {
		*ret_blocks = balloc_free_clusters(fs) << fs->geom.cluster_ratio_bits;
		*ret_inodes = ialloc_free_inodes(fs);
		return 0;
	}
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
