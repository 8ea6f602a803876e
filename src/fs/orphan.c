/* SPDX-License-Identifier: MIT */
/*
 * Orphans: inodes that are deleted while open, or truncated in steps, so that whoever opens the
 * image after a crash can finish what was begun (J11).
 *
 * They stand on a list through i_dtime that starts in the superblock, or in the orphan file.  A
 * reader counts them; deleted ones have no name and no links, and truncated ones already have their
 * final size, so that nothing more is needed for a right view of names and contents.
 *
 *  O1  fs->orphans has the inodes in memory that are on the list, in its order.  The list on disk
 *      and the one in memory change together, under super_lock, in one handle.
 *  O2  A slot of the orphan file is taken by one inode (inode.orphan_slot); when the file is full
 *      the list serves.
 */
#include "fs/fs_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "disk/seal.h"

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

static void orphan_block_seal(struct buf *buf, uint64_t owner, void *arg)
{
	const struct verify_inode vi = buf_owner_arg(arg, owner);

	seal_orphan_block(&vi, buf->data, buf->blk);
}

static const struct buf_ops orphan_block_ops = {
	.name = "orphan file block",
	.verify = orphan_block_verify,
	.seal = orphan_block_seal,
};

static uint32_t slots_a_block(const struct geom *g)
{
	return (g->block_size - (uint32_t)sizeof(struct ext4_orphan_block_tail)) / 4;
}

static bool file_is_used(const struct uext4_fs *fs)
{
	return geom_has_compat(&fs->geom, EXT4_FEATURE_COMPAT_ORPHAN_FILE);
}

static int file_get(struct uext4_fs *fs, struct inode **ret_inode, uint32_t *ret_blocks)
{
	const struct geom *g = &fs->geom;
	struct inode *ip;
	int err;

	err = inode_get(fs, le32_get(fs->super.s_orphan_file_inum), &ip);
	if (err < 0)
		return fail_in(err, "orphan file");
	if (!inode_is_reg(ip) || ip->state != INODE_BLOCKS ||
	    ip->size > g->blocks * g->block_size) {
		inode_put(ip);
		return corrupt("inode %u is no orphan file",
			       le32_get(fs->super.s_orphan_file_inum));
	}
	*ret_blocks = (uint32_t)min_u64(ip->size >> g->block_bits, UINT32_MAX);
	*ret_inode = ip;
	return 0;
}

static int count_file(struct uext4_fs *fs, uint32_t *ret_count)
{
	struct inode *ip INODE_SCOPE = NULL;
	struct verify_inode vi;
	uint32_t blocks, count = 0;
	int err;

	err = file_get(fs, &ip, &blocks);
	if (err < 0)
		return err;
	inode_verify_arg(ip, &vi);
	for (lblk_t lblk = 0; lblk < blocks; lblk++) {
		struct buf *buf BUF_SCOPE = NULL;
		const le32 *entries;

		err = map_read_buf(ip, lblk, &orphan_block_ops, &vi, &buf);
		if (err < 0)
			return fail_in(err, "orphan file");
		entries = (const le32 *)(const void *)buf->data;
		for (uint32_t i = 0; i < slots_a_block(&fs->geom); i++)
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
	if (file_is_used(fs) &&
	    geom_has_ro_compat(&fs->geom, EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT)) {
		err = count_file(fs, &in_file);
		if (err < 0)
			return err;
	}
	*ret_count = on_list + in_file;
	return 0;
}

/* ---- the orphan file in use ------------------------------------------------------------------ */

/* shared */
struct orphan_file {
	struct inode *ip; /* c: referenced */
	uint32_t blocks;  /* c */
	uint32_t next;	  /* super: the slot to be tried next */
	uint32_t used;	  /* super: slots in use */
	blk_t *blk;	  /* c: where block i lies */
};

int orphan_open(struct uext4_fs *fs)
{
	struct orphan_file *of;
	int err;

	if (!file_is_used(fs))
		return 0;
	of = mem_zalloc(sizeof(*of));
	if (!of)
		return -ENOMEM;
	fs->orphan_file = of;
	err = file_get(fs, &of->ip, &of->blocks);
	if (err < 0)
		return err;
	of->blk = mem_calloc(max_u64(of->blocks, 1), sizeof(*of->blk));
	if (!of->blk)
		return -ENOMEM;
	for (lblk_t lblk = 0; lblk < of->blocks;) {
		struct map_ext ext;

		err = map_read(of->ip, lblk, &ext);
		if (err < 0)
			return fail_in(err, "orphan file");
		if (ext.state != MAP_WRITTEN)
			return corrupt("the orphan file has a hole at its block %u", lblk);
		for (uint32_t i = 0; i < ext.count && lblk < of->blocks; i++)
			of->blk[lblk++] = ext.physical + i;
	}
	return 0;
}

/* What could not be finished stays on disk; here it is let go. */
void orphan_close(struct uext4_fs *fs)
{
	struct orphan_file *of = fs->orphan_file;

	while (!list_empty(&fs->orphans)) {
		struct inode *ip = list_entry(fs->orphans.next, struct inode, orphan_link);

		list_del(&ip->orphan_link);
		if (atomic_fetch_and(&ip->flags, ~(uint32_t)(INODE_ORPHAN | INODE_STUCK)) &
		    INODE_STUCK)
			inode_put(ip);
	}
	if (!of)
		return;
	inode_put(of->ip);
	mem_free(of->blk);
	mem_free(of);
	fs->orphan_file = NULL;
}

static int file_block(struct uext4_fs *fs, uint32_t index, struct buf **ret_buf)
{
	struct orphan_file *of = fs->orphan_file;
	struct verify_inode vi;
	int err;

	inode_verify_arg(of->ip, &vi);
	err = buf_read(fs->cache, of->blk[index], &orphan_block_ops, inode_buf_owner(of->ip), &vi,
		       0, ret_buf);
	return err < 0 ? fail_in(err, "orphan file") : 0;
}

bool orphan_file_is_empty(struct uext4_fs *fs)
{
	return fs->orphan_file->used == 0;
}

static int file_set(struct handle *h, struct buf *buf, uint32_t slot, uint32_t ino)
{
	int err;

	err = handle_get_write(h, buf);
	if (err < 0)
		return err;
	((le32 *)(void *)buf->data)[slot] = le32_make(ino);
	handle_dirty_unsealed(h, buf);
	return 0;
}

/* Slot numbers count from 1; *ret_slot 0: the file is full. */
static int file_add(struct handle *h, struct uext4_fs *fs, uint32_t ino, uint32_t *ret_slot)
	REQUIRES(&fs->super_lock)
{
	struct orphan_file *of = fs->orphan_file;
	uint32_t slots = slots_a_block(&fs->geom), total = of->blocks * slots;
	uint32_t at = of->next;
	int err;

	*ret_slot = 0;
	for (uint32_t tried = 0; tried < total;) {
		struct buf *buf BUF_SCOPE = NULL;
		const le32 *entries;

		err = file_block(fs, at / slots, &buf);
		if (err < 0)
			return err;
		entries = (const le32 *)(const void *)buf->data;
		do {
			if (le32_get(entries[at % slots]) == 0) {
				err = file_set(h, buf, at % slots, ino);
				if (err < 0)
					return err;
				*ret_slot = at + 1;
				of->used++;
				of->next = (at + 1) % total;
				return 0;
			}
			at = (at + 1) % total;
		} while (++tried < total && at % slots != 0);
	}
	return 0;
}

static int file_remove(struct handle *h, struct uext4_fs *fs, uint32_t slot)
	REQUIRES(&fs->super_lock)
{
	uint32_t slots = slots_a_block(&fs->geom);
	struct buf *buf BUF_SCOPE = NULL;
	int err;

	err = file_block(fs, (slot - 1) / slots, &buf);
	if (err < 0)
		return err;
	fs->orphan_file->next = slot - 1;
	err = file_set(h, buf, (slot - 1) % slots, 0);
	if (err == 0)
		fs->orphan_file->used--;
	return err;
}

/* ---- the list in use ------------------------------------------------------------------------- */

static void set_next(struct inode *ip, uint32_t ino)
{
	mutex_lock(&ip->raw_lock);
	ip->raw->i_dtime = le32_make(ino);
	mutex_unlock(&ip->raw_lock);
}

static int set_head(struct handle *h, struct uext4_fs *fs, uint32_t ino) REQUIRES(&fs->super_lock)
{
	int err;

	err = handle_get_write(h, fs->super_buf);
	if (err < 0)
		return err;
	super_of(fs)->s_last_orphan = le32_make(ino);
	super_changed(h, fs);
	return 0;
}

static int list_insert(struct handle *h, struct uext4_fs *fs, struct inode *ip)
	REQUIRES(&fs->super_lock)
{
	uint32_t head = le32_get(super_of(fs)->s_last_orphan);
	int err;

	set_next(ip, head);
	err = inode_store(h, ip);
	if (err == 0)
		err = set_head(h, fs, ip->ino);
	if (err < 0) {
		set_next(ip, 0);
		return err;
	}
	list_add_head(&fs->orphans, &ip->orphan_link);
	return 0;
}

static int list_remove(struct handle *h, struct uext4_fs *fs, struct inode *ip)
	REQUIRES(&fs->super_lock)
{
	uint32_t next = le32_get(ip->raw->i_dtime);
	int err;

	if (ip->orphan_link.prev == &fs->orphans) {
		err = set_head(h, fs, next);
	} else {
		struct inode *before = list_entry(ip->orphan_link.prev, struct inode, orphan_link);

		set_next(before, next);
		err = inode_store_meta(h, before);
		if (err < 0)
			set_next(before, ip->ino);
	}
	if (err < 0)
		return err;
	list_del(&ip->orphan_link);
	set_next(ip, 0);
	return inode_store(h, ip);
}

int orphan_add(struct handle *h, struct inode *ip)
{
	struct uext4_fs *fs = ip->fs;
	uint32_t slot = 0;
	int err = 0;

	mutex_lock(&fs->super_lock);
	if (!(atomic_load(&ip->flags) & INODE_ORPHAN)) {
		if (fs->orphan_file)
			err = file_add(h, fs, ip->ino, &slot);
		if (err == 0 && slot == 0)
			err = list_insert(h, fs, ip);
		if (err == 0) {
			ip->orphan_slot = slot;
			atomic_fetch_or(&ip->flags, INODE_ORPHAN);
		}
	}
	mutex_unlock(&fs->super_lock);
	return err;
}

int orphan_remove(struct handle *h, struct inode *ip)
{
	struct uext4_fs *fs = ip->fs;
	int err = 0;

	mutex_lock(&fs->super_lock);
	if (atomic_load(&ip->flags) & INODE_ORPHAN) {
		err = ip->orphan_slot ? file_remove(h, fs, ip->orphan_slot)
				      : list_remove(h, fs, ip);
		if (err == 0) {
			ip->orphan_slot = 0;
			atomic_fetch_and(&ip->flags, ~(uint32_t)INODE_ORPHAN);
		}
	}
	mutex_unlock(&fs->super_lock);
	return err;
}

void orphan_forget(struct inode *ip)
{
	struct uext4_fs *fs = ip->fs;

	if (!(atomic_load(&ip->flags) & INODE_ORPHAN))
		return;
	mutex_lock(&fs->super_lock);
	if (!ip->orphan_slot)
		list_del(&ip->orphan_link);
	mutex_unlock(&fs->super_lock);
}

/* ---- after a crash --------------------------------------------------------------------------- */

/* @ip, which is on the list or in the file, is finished; its reference is put. */
static int finish(struct inode *ip)
{
	struct uext4_fs *fs = ip->fs;
	struct handle *h;
	int err = 0;

	if (inode_links(ip) == 0) {
		inode_put(ip);
		return inode_reap(fs);
	}
	inode_lock(ip, INODE_PARENT);
	if (ip->state == INODE_BLOCKS)
		err = inode_free_blocks(ip, ip->size);
	if (err == 0)
		err = handle_start(fs->log, ORPHAN_CREDITS, &h);
	if (err == 0) {
		err = orphan_remove(h, ip);
		err = first_error(err, handle_stop(h));
	}
	inode_unlock(ip);
	inode_put(ip);
	return err;
}

static int orphan_get(struct uext4_fs *fs, uint32_t ino, struct inode **ret_inode)
{
	int err;

	if (ino < fs->geom.first_ino)
		return corrupt("inode %u is reserved and among the orphans", ino);
	err = inode_get_orphan(fs, ino, ret_inode);
	if (err == -ESTALE || err == -EINVAL)
		return corrupt("inode %u is among the orphans and not in use", ino);
	return err < 0 ? fail_in(err, "orphans") : 0;
}

static int process_list(struct uext4_fs *fs, uint32_t *done)
{
	for (;;) {
		struct inode *ip;
		uint32_t ino;
		int err;

		mutex_lock(&fs->super_lock);
		ino = le32_get(super_of(fs)->s_last_orphan);
		mutex_unlock(&fs->super_lock);
		if (ino == 0)
			return 0;
		err = orphan_get(fs, ino, &ip);
		if (err < 0)
			return err;
		mutex_lock(&fs->super_lock);
		list_add_head(&fs->orphans, &ip->orphan_link);
		mutex_unlock(&fs->super_lock);
		atomic_fetch_or(&ip->flags, INODE_ORPHAN);
		err = finish(ip); /* which moves the head on: so this ends, or fails */
		if (err < 0)
			return err;
		/* Each is finished once: a list that comes back meets one that is not in use. */
		(*done)++;
	}
}

static int process_file(struct uext4_fs *fs, uint32_t *done)
{
	uint32_t slots = slots_a_block(&fs->geom);

	for (uint32_t at = 0; fs->orphan_file && at < fs->orphan_file->blocks * slots; at++) {
		struct buf *buf BUF_SCOPE = NULL;
		struct inode *ip;
		uint32_t ino;
		int err;

		err = file_block(fs, at / slots, &buf);
		if (err < 0)
			return err;
		ino = le32_get(((const le32 *)(const void *)buf->data)[at % slots]);
		if (ino == 0)
			continue;
		err = orphan_get(fs, ino, &ip);
		if (err < 0)
			return err;
		ip->orphan_slot = at + 1;
		mutex_lock(&fs->super_lock);
		fs->orphan_file->used++;
		mutex_unlock(&fs->super_lock);
		atomic_fetch_or(&ip->flags, INODE_ORPHAN);
		err = finish(ip);
		if (err < 0)
			return err;
		(*done)++;
	}
	return 0;
}

int orphan_process(struct uext4_fs *fs, uint32_t *ret_done)
{
	uint32_t done = 0;
	int err;

	err = process_list(fs, &done);
	if (err == 0)
		err = process_file(fs, &done);
	if (err < 0)
		return err;
	*ret_done = done;
	return 0;
}
