/* SPDX-License-Identifier: MIT */
/*
 * Fast commits, when the image is opened for writing: what their tags say is done with the ordinary
 * functions, on top of what the journal's transactions left.
 *
 * What the tags mean is as fastcommit.c has it, which shows them to a reader.  What the kernel's
 * replay miscounts is right here: i_blocks, links of directories, free inodes and directories of a
 * group, quota.
 *
 *  FW1  All of it is one transaction, the very one that the fast commits stand for: until it is
 *       committed they are valid, and from then on they are not.  So a crash at any time leaves
 *       either them or what they led to, and nothing is ever replayed twice.
 *  FW2  Blocks that tags give to files are taken out of free space before anything is allocated.
 *  FW3  An inode that a tag made and no tag named is gone again in the end.
 *
 * A transaction has its bounds, and so has the memory for it: fast commits that change more than
 * one can hold are refused, and the image stays as it is.
 */
#include "fs/balloc.h"
#include "fs/dir.h"
#include "fs/fastcommit_priv.h"
#include "fs/map.h"
#include "fs/quota.h"
#include "fs/xattr.h"

#include "base/diag.h"
#include "base/mem.h"
#include "disk/seal.h"

#include <stdlib.h>

#define S_TYPE_MASK 0170000u
#define S_TYPE_DIR 0040000u

/* Blocks taken for what a tag will map. */
struct region {
	blk_t start;
	uint32_t count;
};

struct apply {
	struct uext4_fs *fs;
	struct ext4_inode *raw, *old; /* of inode_size bytes: as it will be, as it was */
	struct region *regions;	      /* sorted, once all are there */
	size_t region_count, region_room;
	struct xarray nameless; /* FW3: numbers of inodes */
	bool orphans_first;	/* a tag is about an inode that is among the orphans */
};

static int start(struct apply *a, uint32_t credits, struct handle **ret_handle)
{
	int err = handle_start(a->fs->log, credits, ret_handle);

	return err == -E2BIG ? fail(err, "they change more than one transaction can hold") : err;
}

/* ---- regions (FW2) --------------------------------------------------------------------------- */

static int region_add(struct apply *a, const struct blk_run *run)
{
	if (a->region_count == a->region_room) {
		size_t room = max_u64(2 * a->region_room, 64);
		struct region *regions = mem_realloc(a->regions, room * sizeof(*regions));

		if (!regions)
			return -ENOMEM;
		a->regions = regions;
		a->region_room = room;
	}
	a->regions[a->region_count++] = (struct region){ run->start, run->count };
	return 0;
}

/* Takes what is free of the clusters at [@start, +@count); the rest is some file's. */
static int regions_take(struct apply *a, blk_t start, uint32_t count)
{
	const uint32_t ratio = a->fs->geom.cluster_ratio;
	blk_t at = round_down_pow2(start, ratio), end = start + count;

	while (at < end) {
		struct blk_run run;
		int err;

		err = balloc_take(a->fs, at, (uint32_t)(end - at), &run);
		if (err < 0)
			return err;
		if (run.count > 0) {
			err = region_add(a, &run);
			if (err < 0) {
				balloc_cancel(a->fs, &run, false);
				return err;
			}
		}
		at += max_u64(run.count, ratio);
	}
	return 0;
}

static int region_compare(const void *x, const void *y)
{
	const struct region *r = x, *s = y;

	return r->start < s->start ? -1 : r->start > s->start;
}

/* How many of @count blocks from @start on are in one region, out of which they go. */
static int region_use(struct apply *a, blk_t start, uint32_t count, uint32_t *ret_count)
{
	size_t low = 0, high = a->region_count; /* how many begin at or before @start */
	struct region *r;
	blk_t end;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (a->regions[middle].start <= start)
			low = middle + 1;
		else
			high = middle;
	}
	*ret_count = 0;
	if (low == 0)
		return 0;
	r = &a->regions[low - 1];
	if (start - r->start >= r->count)
		return 0;
	end = r->start + r->count;
	count = (uint32_t)min_u64(count, end - start);
	if (start + count < end) { /* what is behind becomes a region of its own */
		int err = region_add(a, &(struct blk_run){ 0 });

		if (err < 0)
			return err;
		memmove(&a->regions[low + 1], &a->regions[low],
			(a->region_count - 1 - low) * sizeof(*r));
		a->regions[low] = (struct region){ start + count, (uint32_t)(end - start - count) };
		r = &a->regions[low - 1];
	}
	r->count = (uint32_t)(start - r->start); /* perhaps none */
	*ret_count = count;
	return 0;
}

static void regions_release(struct apply *a)
{
	for (size_t i = 0; i < a->region_count; i++) {
		const struct blk_run run = { a->regions[i].start, a->regions[i].count };

		if (run.count > 0)
			balloc_cancel(a->fs, &run, false);
	}
	mem_free(a->regions);
}

/* ---- inodes ---------------------------------------------------------------------------------- */

/* A reference, or NULL without error for an inode that is not in use: tags about it are void. */
static int get_used(struct apply *a, uint32_t ino, struct inode **ret_ip)
{
	int err;

	*ret_ip = NULL;
	err = fc_check_ino(a->fs, ino);
	if (err == 0)
		err = inode_get(a->fs, ino, ret_ip);
	return err == -ESTALE ? 0 : err;
}

static int clear_links(struct apply *a, struct inode *ip)
{
	struct handle *h;
	bool empty = true;
	int err = 0;

	if (inode_is_dir(ip) && ip->size > 0)
		err = dir_is_empty(ip, &empty);
	if (err == 0 && !empty)
		err = corrupt("directory %u: is removed and not empty", ip->ino);
	if (err == 0)
		err = start(a, INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	inode_set_links(ip, 0);
	err = inode_store(h, ip);
	return first_error(err, handle_stop(h));
}

/* The last link is gone: so is the inode, whose reference is put. */
static int drop_inode(struct apply *a, struct inode *ip)
{
	int err;

	inode_lock(ip, INODE_PARENT);
	err = clear_links(a, ip);
	inode_unlock(ip);
	(void)xarray_remove(&a->nameless, ip->ino);
	inode_put(ip);
	return err < 0 ? err : inode_reap(a->fs);
}

/* Bytes of inode @ino, of which nobody has a reference, as they are in a->raw. */
static int raw_write(struct apply *a, struct handle *h, uint32_t ino)
{
	const struct geom *g = &a->fs->geom;
	struct buf *buf BUF_SCOPE = NULL;
	uint32_t offset, extra = 0;
	blk_t blk;
	int err;

	if (g->inode_size > EXT4_GOOD_OLD_INODE_SIZE)
		extra = le16_get(a->raw->i_extra_isize);
	if (extra > g->inode_size - EXT4_GOOD_OLD_INODE_SIZE || extra % 4 != 0)
		return corrupt("inode %u: i_extra_isize is %u", ino, extra);
	seal_inode(g, verify_inode_seed(g, ino, le32_get(a->raw->i_generation)), a->raw);
	err = verify_inode(g, ino, a->raw);
	if (err == 0)
		err = inode_place(a->fs, ino, &blk, &offset);
	if (err == 0)
		err = buf_read(a->fs->cache, blk, &inode_table_ops, 0, NULL, 0, &buf);
	if (err == 0)
		err = handle_get_write(h, buf);
	if (err < 0)
		return err;
	memcpy(buf->data + offset, a->raw, g->inode_size);
	handle_dirty(h, buf);
	icache_forget_one(a->fs->icache, ino);
	return 0;
}

static void empty_root(struct ext4_inode *raw)
{
	const struct ext4_extent_header eh = {
		.eh_magic = le16_make(EXT4_EXT_MAGIC),
		.eh_max = le16_make((EXT4_I_BLOCK_BYTES - sizeof(eh)) / sizeof(struct ext4_extent)),
	};

	memset(raw->i_block, 0, EXT4_I_BLOCK_BYTES);
	memcpy(raw->i_block, &eh, sizeof(eh));
}

static bool has_acl_block(const struct ext4_inode *raw)
{
	return le32_get(raw->i_file_acl_lo) != 0 || le16_get(raw->l_i_file_acl_high) != 0;
}

static bool has_block_map(const struct ext4_inode *raw)
{
	uint32_t type = le16_get(raw->i_mode) & S_TYPE_MASK;

	return !(le32_get(raw->i_flags) & (EXT4_EXTENTS_FL | EXT4_INLINE_DATA_FL)) &&
	       (type == 0100000 || type == S_TYPE_DIR);
}

static bool is_zero(const void *data, size_t bytes)
{
	const uint8_t *at = data;

	while (bytes > 0 && *at == 0) {
		at++;
		bytes--;
	}
	return bytes == 0;
}

/*
 * A new inode, as a->raw.  What a directory holds is for CREAT to say: the names in it have tags of
 * their own.
 */
static int make_inode(struct apply *a, uint32_t ino)
{
	const bool is_dir = (le16_get(a->raw->i_mode) & S_TYPE_MASK) == S_TYPE_DIR;
	uint32_t flags = le32_get(a->raw->i_flags) & ~EXT4_HUGE_FILE_FL;
	struct inode *ip;
	struct handle *h;
	int err;

	if (has_acl_block(a->raw))
		return corrupt("inode %u: is new and has a block of attributes", ino);
	if (has_block_map(a->raw) && is_dir)
		memset(a->raw->i_block, 0, EXT4_I_BLOCK_BYTES);
	else if (has_block_map(a->raw) && !is_zero(a->raw->i_block, EXT4_I_BLOCK_BYTES))
		return fail(-EOPNOTSUPP, "inode %u: fast commits that change a block map", ino);
	if (flags & EXT4_EXTENTS_FL)
		empty_root(a->raw);
	if (is_dir) {
		flags &= ~EXT4_INDEX_FL;
		a->raw->i_links_count = le16_make(2);
		if (!(flags & EXT4_INLINE_DATA_FL))
			a->raw->i_size_lo = a->raw->i_size_high = le32_make(0);
	}
	a->raw->i_flags = le32_make(flags);
	a->raw->i_blocks_lo = le32_make(0);
	a->raw->l_i_blocks_high = le16_make(0);

	err = start(a, IALLOC_CREDITS + INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	err = ialloc_take(h, a->fs, ino, is_dir);
	if (err == 0)
		err = raw_write(a, h, ino);
	err = first_error(err, handle_stop(h));
	if (err == 0)
		err = xarray_insert(&a->nameless, ino, a);
	if (err == 0)
		err = inode_get(a->fs, ino, &ip);
	if (err < 0)
		return err;
	err = quota_load(ip);
	if (err == 0)
		err = start(a, quota_credits(a->fs), &h);
	if (err == 0) {
		quota_count_file(h, ip, true);
		err = handle_stop(h);
	}
	inode_put(ip);
	return err;
}

static void raw_owner(const struct ext4_inode *raw, struct quota_owner *ret)
{
	ret->id[0] = le16_get(raw->i_uid) | (uint32_t)le16_get(raw->l_i_uid_high) << 16;
	ret->id[1] = le16_get(raw->i_gid) | (uint32_t)le16_get(raw->l_i_gid_high) << 16;
	ret->id[2] = 0;
}

static uint32_t raw_project(const struct geom *g, const struct ext4_inode *raw)
{
	if (!geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_PROJECT) ||
	    g->inode_size <= EXT4_GOOD_OLD_INODE_SIZE ||
	    !EXT4_INODE_HAS(i_projid, le16_get(raw->i_extra_isize)))
		return 0;
	return le32_get(raw->i_projid);
}

/* Before inode @ino gets the owners of a->raw: what it uses is theirs, whatever the limits say. */
static int move_usage(struct apply *a, uint32_t ino)
{
	struct inode *ip INODE_SCOPE = NULL;
	struct quota_owner from, to;
	struct handle *h;
	int err;

	raw_owner(a->old, &from);
	raw_owner(a->raw, &to);
	from.id[2] = raw_project(&a->fs->geom, a->old);
	to.id[2] = raw_project(&a->fs->geom, a->raw);
	if (!a->fs->quota || memcmp(&from, &to, sizeof(from)) == 0)
		return 0;
	err = inode_get(a->fs, ino, &ip);
	if (err == 0)
		err = quota_load(ip);
	if (err == 0)
		err = quota_prepare(a->fs, &to);
	if (err < 0)
		return err;
	inode_lock(ip, INODE_PARENT);
	err = start(a, 2 * quota_credits(a->fs), &h);
	if (err == 0) {
		err = quota_transfer_back(h, ip, &to);
		err = first_error(err, handle_stop(h));
	}
	inode_unlock(ip);
	return err;
}

/* What the tag says of a directory that is there: the rest is counted here, entry by entry. */
static void merge_dir(struct apply *a)
{
	struct ext4_inode *raw = a->raw, *old = a->old;

	memcpy(raw->i_block, old->i_block, EXT4_I_BLOCK_BYTES);
	raw->i_links_count = old->i_links_count;
	raw->i_size_lo = old->i_size_lo;
	raw->i_size_high = old->i_size_high;
	raw->i_flags = old->i_flags;
	if (a->fs->geom.inode_size > EXT4_GOOD_OLD_INODE_SIZE &&
	    le16_get(raw->i_extra_isize) == le16_get(old->i_extra_isize)) {
		size_t at = EXT4_GOOD_OLD_INODE_SIZE + le16_get(old->i_extra_isize);

		if (at < a->fs->geom.inode_size)
			memcpy((uint8_t *)raw + at, (uint8_t *)old + at,
			       a->fs->geom.inode_size - at);
	}
}

/* All of an inode that is there, but for its tree and what that uses. */
static int merge_file(struct apply *a, uint32_t ino)
{
	struct ext4_inode *raw = a->raw, *old = a->old;
	uint32_t flags = le32_get(raw->i_flags), old_flags = le32_get(old->i_flags);

	if (has_block_map(old) != has_block_map(raw) ||
	    (has_block_map(raw) && memcmp(raw->i_block, old->i_block, EXT4_I_BLOCK_BYTES) != 0))
		return fail(-EOPNOTSUPP, "inode %u: fast commits that change a block map", ino);
	if (flags & old_flags & EXT4_EXTENTS_FL)
		memcpy(raw->i_block, old->i_block, EXT4_I_BLOCK_BYTES);
	else if (flags & EXT4_EXTENTS_FL)
		empty_root(raw);
	else if (old_flags & EXT4_EXTENTS_FL)
		return corrupt("inode %u: loses its extents", ino);
	raw->i_flags = le32_make((flags & ~EXT4_HUGE_FILE_FL) | (old_flags & EXT4_HUGE_FILE_FL));
	return 0;
}

static int change_inode(struct apply *a, uint32_t ino)
{
	struct ext4_inode *raw = a->raw, *old = a->old;
	struct handle *h;
	int err = 0;

	if (raw->i_file_acl_lo.raw != old->i_file_acl_lo.raw ||
	    raw->l_i_file_acl_high.raw != old->l_i_file_acl_high.raw)
		return corrupt("inode %u: gets another block of attributes", ino);
	if ((le16_get(raw->i_mode) & S_TYPE_MASK) == S_TYPE_DIR)
		merge_dir(a);
	else
		err = merge_file(a, ino);
	if (err == 0)
		err = move_usage(a, ino);
	if (err < 0)
		return err;
	raw->i_blocks_lo = old->i_blocks_lo;
	raw->l_i_blocks_high = old->l_i_blocks_high;
	err = start(a, INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	err = raw_write(a, h, ino);
	return first_error(err, handle_stop(h));
}

/* Is a->raw the inode that a->old is? */
static bool is_same(const struct apply *a)
{
	return (le16_get(a->raw->i_mode) & S_TYPE_MASK) ==
		       (le16_get(a->old->i_mode) & S_TYPE_MASK) &&
	       a->raw->i_generation.raw == a->old->i_generation.raw;
}

/*
 * INODE.  Without links: the inode goes, if it is there; an orphan stays for orphan_process().
 */
static int apply_inode(struct apply *a, const struct fc_tag *tag)
{
	struct inode *ip = NULL;
	uint32_t ino;
	bool used;
	int err;

	err = fc_read_inode(a->fs, tag, &ino, a->raw);
	if (err == 0)
		err = fc_check_ino(a->fs, ino);
	if (err == 0)
		err = ialloc_is_used(a->fs, ino, &used);
	if (err == 0 && used)
		err = inode_read_raw(a->fs, ino, a->old);
	if (err < 0)
		return err;
	used = used && le16_get(a->old->i_links_count) != 0;
	if (used && (le16_get(a->raw->i_links_count) == 0 || !is_same(a))) {
		err = get_used(a, ino, &ip);
		if (err == 0)
			err = drop_inode(a, ip);
		if (err < 0)
			return err;
		used = false;
	}
	if (le16_get(a->raw->i_links_count) == 0)
		return 0;
	return used ? change_inode(a, ino) : make_inode(a, ino);
}

/* ---- extents --------------------------------------------------------------------------------- */

static int remove_range(struct apply *a, struct inode *ip, lblk_t logical, uint32_t count)
{
	uint32_t left = count;
	struct handle *h;
	int err;

	err = start(a, map_credits(ip), &h);
	if (err < 0)
		return err;
	while (left > 0 && err == 0) {
		err = map_remove(h, ip, logical, left, &left);
		if (err == 0 && left > 0)
			err = handle_restart(h, map_credits(ip));
	}
	return first_error(err, handle_stop(h));
}

/* *@count blocks of a hole, or as many as one step can do. */
static int fill_hole(struct apply *a, struct inode *ip, const struct map_ext *ext, uint32_t *count)
{
	const uint32_t ratio = a->fs->geom.cluster_ratio, before = ext->logical & (ratio - 1);
	const bool unwritten = ext->state == MAP_UNWRITTEN;
	uint32_t in_cluster = 0, taken = 0;
	struct blk_run run;
	struct handle *h;
	blk_t blk;
	int err;

	if ((ext->logical ^ ext->physical) & (ratio - 1))
		return corrupt("inode %u: block %u lies at %llu, not in its place in the cluster",
			       ip->ino, ext->logical, (unsigned long long)ext->physical);
	err = map_find_cluster(ip, ext->logical, &blk, &in_cluster);
	if (err == 0 && blk == 0) {
		/* With bigalloc one cluster at a time: the next one may be the file's. */
		uint32_t most = ratio > 1 ? ratio - before : MAP_COUNT_MAX;

		*count = (uint32_t)min_u64(*count, most);
		err = region_use(a, ext->physical - before,
				 (uint32_t)round_up_pow2(before + *count, ratio), &taken);
		*count = (uint32_t)min_u64(*count, taken - min_u64(before, taken));
	} else if (err == 0) {
		*count = blk == ext->physical ? (uint32_t)min_u64(*count, in_cluster) : 0;
	}
	if (err == 0 && *count == 0)
		err = corrupt("inode %u: block %llu, which it gets, is in use", ip->ino,
			      (unsigned long long)ext->physical);
	if (err == 0)
		err = start(a, map_credits(ip), &h);
	if (err < 0)
		return err;
	if (blk != 0) {
		err = map_insert_in_cluster(h, ip, ext->logical, *count, ext->physical, unwritten);
	} else {
		run = (struct blk_run){ ext->physical - before, taken };
		err = map_insert(h, ip, ext->logical, *count, &run, unwritten);
		if (err < 0)
			balloc_cancel(a->fs, &run, false);
	}
	return first_error(err, handle_stop(h));
}

/* The first blocks of @ext, *ret_done of them, become mapped as it says. */
static int map_some(struct apply *a, struct inode *ip, const struct map_ext *ext,
		    uint32_t *ret_done)
{
	struct map_ext now;
	struct handle *h;
	uint32_t count;
	int err;

	err = map_read(ip, ext->logical, &now);
	if (err < 0)
		return err;
	count = (uint32_t)min_u64(min_u64(ext->count, now.count), MAP_COUNT_MAX);
	*ret_done = count;
	if (now.state == MAP_HOLE) {
		err = fill_hole(a, ip, ext, &count);
		*ret_done = count;
		return err;
	}
	if (now.physical != ext->physical) {
		*ret_done = 0; /* the hole comes next */
		return remove_range(a, ip, ext->logical, count);
	}
	if (now.state == ext->state)
		return 0;
	err = start(a, map_credits(ip), &h);
	if (err < 0)
		return err;
	err = ext->state == MAP_WRITTEN ? map_convert_written(h, ip, ext->logical, count)
					: map_convert_unwritten(h, ip, ext->logical, count);
	return first_error(err, handle_stop(h));
}

static int map_all(struct apply *a, struct inode *ip, struct map_ext ext)
{
	uint32_t done;
	int err = 0;

	if (ip->state == INODE_EMPTY) {
		rwlock_write(&ip->xattr_lock);
		ip->state = INODE_BLOCKS;
		rwlock_write_unlock(&ip->xattr_lock);
	}
	while (ext.count > 0 && err == 0) {
		err = map_some(a, ip, &ext, &done);
		if (err < 0)
			break;
		ext.logical += done;
		ext.physical += done;
		ext.count -= done;
	}
	return err;
}

/*
 * ADD_RANGE and DEL_RANGE.  Void for an inode without a tree, as for a reader, and for directories,
 * whose blocks are what their names make of them.
 */
static int apply_range(struct apply *a, uint32_t ino, const struct map_ext *ext)
{
	struct inode *ip INODE_SCOPE = NULL;
	int err;

	err = get_used(a, ino, &ip);
	if (err < 0 || !ip || inode_is_dir(ip) || !inode_has_flag(ip, EXT4_EXTENTS_FL) ||
	    (ip->state != INODE_BLOCKS && ip->state != INODE_EMPTY))
		return err;
	err = quota_load(ip);
	if (err < 0)
		return err;
	inode_lock(ip, INODE_PARENT);
	if (ext->state != MAP_HOLE)
		err = map_all(a, ip, *ext);
	else if (ip->state == INODE_BLOCKS)
		err = remove_range(a, ip, ext->logical, ext->count);
	inode_unlock(ip);
	return err;
}

/* ---- names ----------------------------------------------------------------------------------- */

static uint8_t type_of(const struct inode *ip)
{
	static const uint8_t by_mode[16] = {
		[1] = EXT4_FT_FIFO,   [2] = EXT4_FT_CHRDEV,   [4] = EXT4_FT_DIR,
		[6] = EXT4_FT_BLKDEV, [8] = EXT4_FT_REG_FILE, [10] = EXT4_FT_SYMLINK,
		[12] = EXT4_FT_SOCK,
	};

	return by_mode[ip->type >> 12 & 15];
}

/* Both ends of a tag about a name, or NULL for both: one of them is not in use, the tag is void. */
static int get_both(struct apply *a, const struct fc_dentry *d, struct inode **ret_dir,
		    struct inode **ret_ip)
{
	struct inode *dir = NULL, *ip = NULL;
	int err;

	err = get_used(a, d->ino, &ip);
	if (err == 0)
		err = get_used(a, d->dir, &dir);
	if (err == 0 && dir && !inode_is_dir(dir))
		err = corrupt("inode %u: is no directory, but gets entries", d->dir);
	if (err == 0 && dir == ip && dir)
		err = corrupt("directory %u: is its own entry", d->dir);
	if (err < 0 || !dir || !ip) {
		inode_put(dir);
		inode_put(ip);
		dir = ip = NULL;
	}
	*ret_dir = dir;
	*ret_ip = ip;
	return err;
}

/* dir_nlink: a link count of 1 says that there are more subdirectories than it could say. */
static void count_subdir(struct inode *dir, int by)
{
	uint32_t links = inode_links(dir);

	if (by > 0 && dir_is_indexed(dir) && (links == 1 || links >= EXT4_LINK_MAX))
		inode_set_links(dir, 1);
	else if (by > 0)
		inode_set_links(dir, links + 1);
	else if (links > 2)
		inode_set_links(dir, links - 1);
}

/* The inode behind the name now; 0: none. */
static int find_name(struct inode *dir, const struct fc_dentry *d, uint32_t *ret_ino)
{
	int err = dir_find_locked(dir, d->name, d->name_len, ret_ino);

	if (err == -ENOENT) {
		*ret_ino = 0;
		return 0;
	}
	return err;
}

/* In one handle: the entry, and with it the links of both. */
static int add_entry(struct apply *a, struct inode *dir, struct inode *ip,
		     const struct fc_dentry *d, uint32_t links)
{
	struct handle *h;
	int err;

	err = quota_load(dir);
	if (err == 0)
		err = start(a, dir_credits(dir) + 2 * INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	err = dir_add(h, dir, d->name, d->name_len, ip->ino, type_of(ip));
	if (err == 0) {
		inode_set_links(ip, links);
		err = inode_store(h, ip);
	}
	if (err == 0 && inode_is_dir(ip)) {
		count_subdir(dir, 1);
		err = inode_store(h, dir);
	}
	return first_error(err, handle_stop(h));
}

/*
 * A name that is there already stays what it is, whoever it leads to.  @links: of the inode, if it
 * gets the name.
 */
static int link_locked(struct apply *a, struct inode *dir, struct inode *ip,
		       const struct fc_dentry *d, uint32_t links)
{
	uint32_t found;
	int err;

	err = find_name(dir, d, &found);
	if (err < 0)
		return err;
	if (found == 0) {
		err = add_entry(a, dir, ip, d, links);
		found = d->ino;
	}
	if (err == 0 && found == d->ino)
		(void)xarray_remove(&a->nameless, d->ino);
	return err;
}

static int apply_link(struct apply *a, const struct fc_dentry *d)
{
	struct inode *dir INODE_SCOPE = NULL, *ip INODE_SCOPE = NULL;
	int err;

	err = get_both(a, d, &dir, &ip);
	if (err < 0 || !dir)
		return err;
	if (inode_is_dir(ip))
		return corrupt("directory %u: gets another name", d->ino);
	inode_lock(dir, INODE_PARENT);
	inode_lock(ip, INODE_CHILD);
	err = link_locked(a, dir, ip, d, inode_links(ip) + 1);
	inode_unlock(ip);
	inode_unlock(dir);
	return err;
}

/* Makes @ip, just created, an empty directory; what the tag had of its contents is void. */
static int make_dir(struct apply *a, struct inode *ip, uint32_t parent) NO_TSA
{
	struct handle *h;
	int err;

	err = quota_load(ip);
	if (err == 0)
		err = start(a, dir_init_credits(a->fs) + 2 * INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	rwlock_write(&ip->xattr_lock);
	if (ip->state == INODE_INLINE)
		err = inline_remove(h, ip);
	ip->size = 0;
	inode_set_disk_size(ip, 0);
	rwlock_write_unlock(&ip->xattr_lock);
	if (err == 0)
		err = dir_init(h, ip, parent);
	if (err == 0)
		err = inode_store(h, ip);
	return first_error(err, handle_stop(h));
}

/* CREAT: the inode was given by an INODE tag before. */
static int apply_create(struct apply *a, const struct fc_dentry *d)
{
	struct inode *dir INODE_SCOPE = NULL, *ip INODE_SCOPE = NULL, *alone INODE_SCOPE = NULL;
	int err;

	err = get_used(a, d->ino, &alone);
	if (err == 0 && !alone)
		err = corrupt("inode %u: created without having been written", d->ino);
	if (err == 0)
		err = get_both(a, d, &dir, &ip);
	if (err < 0 || !dir)
		return err;
	inode_lock(dir, INODE_PARENT);
	inode_lock(ip, INODE_CHILD);
	/* One that has a name already has been there before: it keeps what it holds. */
	if (inode_is_dir(ip) && xarray_find(&a->nameless, d->ino))
		err = make_dir(a, ip, d->dir);
	if (err == 0)
		err = link_locked(a, dir, ip, d, inode_is_dir(ip) ? 2 : 1);
	inode_unlock(ip);
	inode_unlock(dir);
	return err;
}

/* In one handle: the entry goes, if it is still this inode's, and what it counted for. */
static int remove_entry(struct apply *a, struct inode *dir, struct inode *ip,
			const struct fc_dentry *d, bool is_its)
{
	struct handle *h;
	int err;

	err = start(a, DIR_SET_CREDITS + 2 * INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	if (is_its)
		err = dir_remove(h, dir, d->name, d->name_len);
	if (err == 0 && is_its && inode_is_dir(ip)) {
		count_subdir(dir, -1);
		err = inode_store(h, dir);
	} else if (err == 0 && !inode_is_dir(ip)) {
		inode_touch(ip, INODE_CTIME);
		inode_set_links(ip, inode_links(ip) - 1);
		err = inode_store(h, ip);
	}
	return first_error(err, handle_stop(h));
}

/*
 * UNLINK.  The inode loses a link also if its name leads to another one by now (it was renamed
 * over), but not if the name is gone.  Directories have one name.
 */
static int apply_unlink(struct apply *a, const struct fc_dentry *d)
{
	struct inode *dir INODE_SCOPE = NULL, *ip = NULL;
	uint32_t found = 0;
	bool last;
	int err;

	err = get_both(a, d, &dir, &ip);
	if (err < 0 || !dir)
		return err;
	last = inode_is_dir(ip) || inode_links(ip) == 1;
	inode_lock(dir, INODE_PARENT);
	err = find_name(dir, d, &found);
	if (err == 0 && found != 0)
		err = remove_entry(a, dir, ip, d, found == d->ino);
	inode_unlock(dir);
	if (err == 0 && found != 0 && last)
		return drop_inode(a, ip);
	inode_put(ip);
	return err;
}

/* ---- the row of tags ------------------------------------------------------------------------- */

/* Before anything is changed. */
static int scan_tag(struct apply *a, const struct fc_tag *tag)
{
	struct map_ext ext;
	uint32_t ino;
	bool used;
	int err;

	if (tag->tag == EXT4_FC_TAG_ADD_RANGE) {
		err = fc_read_add_range(a->fs, tag->value, &ino, &ext);
		return err < 0 ? err : regions_take(a, ext.physical, ext.count);
	}
	if (tag->tag != EXT4_FC_TAG_INODE)
		return 0;
	err = fc_read_inode(a->fs, tag, &ino, a->raw);
	if (err == 0)
		err = fc_check_ino(a->fs, ino);
	if (err < 0 || le16_get(a->raw->i_links_count) == 0)
		return err;
	err = ialloc_is_used(a->fs, ino, &used);
	if (err == 0 && used)
		err = inode_read_raw(a->fs, ino, a->old);
	if (err == 0 && used && le16_get(a->old->i_links_count) == 0)
		a->orphans_first = true;
	return err;
}

static int apply_tag(struct apply *a, const struct fc_tag *tag)
{
	struct fc_dentry d;
	struct map_ext ext;
	uint32_t ino;
	int err;

	switch (tag->tag) {
	case EXT4_FC_TAG_ADD_RANGE:
		err = fc_read_add_range(a->fs, tag->value, &ino, &ext);
		return err < 0 ? err : apply_range(a, ino, &ext);
	case EXT4_FC_TAG_DEL_RANGE:
		fc_read_del_range(tag->value, &ino, &ext);
		return ext.count == 0 ? 0 : apply_range(a, ino, &ext);
	case EXT4_FC_TAG_INODE: return apply_inode(a, tag);
	default: break;
	}
	err = fc_read_dentry(tag, &d);
	if (err < 0)
		return err;
	switch (tag->tag) {
	case EXT4_FC_TAG_CREAT: return apply_create(a, &d);
	case EXT4_FC_TAG_LINK: return apply_link(a, &d);
	default: assert(tag->tag == EXT4_FC_TAG_UNLINK); return apply_unlink(a, &d);
	}
}

static int for_each_tag(struct apply *a, const uint8_t *tags, size_t bytes,
			int (*what)(struct apply *a, const struct fc_tag *tag))
{
	struct fc_tag tag;
	size_t at = 0;
	int err = 0;

	while (err == 0 && fc_tag_next(tags, bytes, &at, &tag))
		err = what(a, &tag);
	return err;
}

/* FW3 */
static int drop_nameless(struct apply *a)
{
	uint64_t ino = 0;

	while (xarray_next(&a->nameless, &ino) != NULL) {
		struct inode *ip;
		int err;

		err = inode_get(a->fs, (uint32_t)ino, &ip);
		if (err == 0)
			err = drop_inode(a, ip);
		if (err < 0)
			return err;
		ino++;
	}
	return 0;
}

int fastcommit_apply(struct uext4_fs *fs, const uint8_t *tags, size_t bytes)
{
	struct apply a = { .fs = fs };
	uint32_t orphans;
	int err = 0;

	xarray_init(&a.nameless);
	a.raw = mem_alloc(fs->geom.inode_size);
	a.old = mem_alloc(fs->geom.inode_size);
	if (!a.raw || !a.old)
		err = -ENOMEM;
	if (err == 0)
		err = for_each_tag(&a, tags, bytes, scan_tag);
	if (a.region_count > 0)
		qsort(a.regions, a.region_count, sizeof(*a.regions), region_compare);
	if (err == 0 && a.orphans_first)
		err = orphan_process(fs, &orphans);
	if (err == 0)
		err = for_each_tag(&a, tags, bytes, apply_tag);
	if (err == 0)
		err = drop_nameless(&a);
	regions_release(&a);
	for (uint64_t ino = 0; xarray_next(&a.nameless, &ino) != NULL;)
		(void)xarray_remove(&a.nameless, ino);
	xarray_finish(&a.nameless);
	mem_free(a.raw);
	mem_free(a.old);
	return err;
}
