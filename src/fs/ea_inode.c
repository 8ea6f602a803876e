/* SPDX-License-Identifier: MIT */
/*
 * Values of attributes in inodes of their own (feature ea_inode).
 *
 * Such an inode counts its references, the entries in bodies and blocks that name it, in the places
 * of i_version (lower half) and i_ctime, and has the hash of its value in that of i_atime.  Its one
 * link stands for all of them.
 *
 *  E1  References change in the handle in which the entries do, under the lock of sharing.
 *  E2  Without references it is an ordinary file without a name, an orphan, without
 *      EXT4_EA_INODE_FL: the kernel refuses to finish an orphan that has that flag, and the image
 *      would be left with an error.  So a new one is made as such a file, is filled (its bytes are
 *      on disk before they are mapped, M2), and gets the flag with its first reference; the last
 *      one takes it away.
 *  E3  Its bytes never change.
 */
#include "fs/balloc.h"
#include "fs/map.h"
#include "fs/quota.h"
#include "fs/xattr_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "base/sum.h"

#define EA_MODE 0100600u

/* ---- reading --------------------------------------------------------------------------------- */

uint32_t ea_value_hash(const struct uext4_fs *fs, const void *data, size_t size)
{
	uint32_t seed;

	/* That of metadata_csum, but without the feature as well. */
	if (geom_has_incompat(&fs->geom, EXT4_FEATURE_INCOMPAT_CSUM_SEED))
		seed = le32_get(fs->super.s_checksum_seed);
	else
		seed = crc32c(UINT32_MAX, fs->geom.uuid, sizeof(fs->geom.uuid));
	return crc32c(seed, data, size);
}

uint32_t ea_inode_hash(const struct inode *ea)
{
	return le32_get(ea->raw->i_atime);
}

int ea_inode_get(struct inode *ip, uint32_t inum, uint32_t size, struct inode **ret_ea)
{
	struct inode *ea = NULL;
	int err;

	err = inode_get(ip->fs, inum, &ea);
	if (err == -ESTALE || err == -EINVAL)
		return corrupt("inode %u: the attribute value in inode %u does not exist", ip->ino,
			       inum);
	if (err < 0)
		return fail_in(err, "inode %u: attribute value", ip->ino);
	if (!inode_is_reg(ea) || !inode_has_flag(ea, EXT4_EA_INODE_FL) || ea->size != size ||
	    (size > 0 && ea->state != INODE_BLOCKS)) {
		inode_put(ea);
		return corrupt("inode %u: inode %u is no attribute value of %u bytes", ip->ino,
			       inum, size);
	}
	*ret_ea = ea;
	return 0;
}

/* Made by Lustre, an inode with a value points back to its only user, and has no hash. */
static bool is_of_lustre(const struct inode *ip, const struct inode *ea, uint32_t hash)
{
	return hash != ea_inode_hash(ea) && le32_get(ea->raw->i_mtime) == ip->ino &&
	       ea->generation == ip->generation;
}

static int check_value(const struct inode *ip, const struct inode *ea, const struct xattr_key *key,
		       uint32_t entry_hash, const void *data)
{
	uint32_t hash = ea_value_hash(ip->fs, data, (size_t)ea->size);
	const le32 word = le32_make(hash);

	if (is_of_lustre(ip, ea, entry_hash))
		return 0;
	if (hash != ea_inode_hash(ea))
		return corrupt("inode %u: the attribute value in inode %u has hash %08x, not %08x",
			       ip->ino, ea->ino, hash, ea_inode_hash(ea));
	if (xattr_entry_hash(key, &word, 1, false) != entry_hash &&
	    xattr_entry_hash(key, &word, 1, true) != entry_hash)
		return corrupt("inode %u: the attribute value in inode %u belongs to another entry",
			       ip->ino, ea->ino);
	return 0;
}

/* Reads @size bytes of @ea past the caches: they are wanted once. */
static int read_blocks(struct inode *ea, uint8_t *to, uint32_t size)
{
	struct uext4_fs *fs = ea->fs;
	const uint32_t block_bits = fs->geom.block_bits;
	uint32_t done = 0;

	while (done < size) {
		struct map_ext ext;
		uint64_t bytes;
		int err;

		err = map_read(ea, done >> block_bits, &ext);
		if (err < 0)
			return err;
		if (ext.state != MAP_WRITTEN)
			return corrupt("inode %u: an attribute value with a hole", ea->ino);
		bytes = min_u64((uint64_t)ext.count << block_bits, size - done);
		err = dev_read(fs->dev, ext.physical << block_bits, to + done, (size_t)bytes);
		if (err < 0)
			return err;
		done += (uint32_t)bytes;
	}
	return 0;
}

int ea_inode_read(struct inode *ip, struct inode *ea, const struct xattr_key *key,
		  uint32_t entry_hash, void *buf)
{
	int err;

	err = read_blocks(ea, buf, (uint32_t)ea->size);
	if (err < 0)
		return fail_in(err, "inode %u: attribute value", ip->ino);
	return check_value(ip, ea, key, entry_hash, buf);
}

/* ---- finding and making ---------------------------------------------------------------------- */

/* Does inode @ino hold the @size bytes of @data?  Then with a reference; what fails is no. */
static struct inode *get_equal(struct inode *ip, uint32_t ino, const void *data, uint32_t size,
			       void *scratch)
{
	struct inode *ea = NULL;

	if (ea_inode_get(ip, ino, size, &ea) < 0)
		return NULL;
	if (read_blocks(ea, scratch, size) == 0 && memcmp(scratch, data, size) == 0)
		return ea;
	inode_put(ea);
	return NULL;
}

/* *ret_ea: NULL if there is none. */
static int find_equal(struct inode *ip, uint32_t hash, const void *data, uint32_t size,
		      struct inode **ret_ea)
{
	void *scratch FREE_SCOPE = NULL;
	struct xattr_found found;
	struct inode *ea = NULL;

	xattr_share_lock(ip->fs);
	xattr_share_find(ip->fs, XATTR_SHARE_VALUE, hash, &found);
	xattr_share_unlock(ip->fs);
	if (found.count > 0) {
		scratch = mem_alloc(size);
		if (!scratch)
			return -ENOMEM;
	}
	for (uint32_t i = 0; i < found.count && !ea; i++)
		ea = get_equal(ip, (uint32_t)found.id[i], data, size, scratch);
	*ret_ea = ea;
	return 0;
}

/* The new file's own fields; nobody else knows it.  Requires its lock. */
static void dress(struct inode *ea, uint32_t hash, uint32_t size)
{
	inode_set_time(ea, INODE_ATIME, (struct uext4_time){ .sec = hash });
	inode_set_time(ea, INODE_CTIME, (struct uext4_time){ 0 });
	inode_set_disk_size(ea, size);
	inode_set_links(ea, 0);
	rwlock_write(&ea->xattr_lock);
	ea->state = INODE_BLOCKS; /* its map is there, and empty */
	ea->size = size;
	rwlock_write_unlock(&ea->xattr_lock);
	mutex_lock(&ea->raw_lock);
	ea->raw->l_i_version = le32_make(0);
	mutex_unlock(&ea->raw_lock);
}

static uint32_t raw_id(le16 lo, le16 hi)
{
	return le16_get(lo) | (uint32_t)le16_get(hi) << 16;
}

/* inode_create() hands the new inode over locked. */
static NO_TSA int create(struct inode *ip, uint32_t hash, uint32_t size, struct inode **ret_ea)
{
	struct uext4_fs *fs = ip->fs;
	const struct inode_create attrs = {
		.mode = EA_MODE,
		.uid = raw_id(ip->raw->i_uid, ip->raw->l_i_uid_high),
		.gid = raw_id(ip->raw->i_gid, ip->raw->l_i_gid_high),
	};
	const struct quota_owner owner = { { attrs.uid, attrs.gid, attrs.projid } };
	struct handle *h;
	struct inode *ea = NULL;
	int err;

	err = quota_prepare(fs, &owner);
	if (err == 0)
		err = handle_start(fs->log,
				   INODE_CREATE_CREDITS + ORPHAN_CREDITS + quota_credits(fs), &h);
	if (err < 0)
		return err;
	err = inode_create(h, ip, &attrs, &ea);
	if (err == 0) {
		err = orphan_add(h, ea);
		if (err < 0) {
			inode_create_undo(h, ea);
		} else {
			dress(ea, hash, size);
			err = inode_store(h, ea);
			if (err < 0)
				txn_log_abort(fs->log, err);
			inode_unlock(ea);
		}
	}
	err = first_error(err, handle_stop(h));
	if (err == 0)
		*ret_ea = ea;
	return err;
}

/* A run of blocks for what is left from block @logical on, written; *@ret_count are the file's. */
static int write_run(struct inode *ea, lblk_t logical, const uint8_t *data, uint32_t size,
		     struct blk_run *ret_run, uint32_t *ret_count)
{
	struct uext4_fs *fs = ea->fs;
	const uint32_t block_bits = fs->geom.block_bits, block_size = fs->geom.block_size;
	const struct balloc_request rq = {
		.ip = ea,
		.logical = logical,
		.count = (uint32_t)div_round_up(size, block_size),
	};
	uint8_t *padded FREE_SCOPE = NULL;
	struct blk_run run;
	uint32_t count;
	int err;

	padded = mem_zalloc((size_t)rq.count << block_bits);
	if (!padded)
		return -ENOMEM;
	memcpy(padded, data, size);
	err = balloc_alloc(fs, &rq, &run);
	if (err < 0)
		return err;
	count = (uint32_t)min_u64(run.count, rq.count);
	err = dev_write(fs->dev, run.start << block_bits, padded, (size_t)count << block_bits);
	if (err < 0) {
		balloc_cancel(fs, &run, false);
		return fail_in(err, "inode %u: attribute value", ea->ino);
	}
	*ret_run = run;
	*ret_count = count;
	return 0;
}

#define COMMITS_FOR_SPACE_MAX 3u

bool ea_commit_for_space(struct uext4_fs *fs, int err, unsigned *tries)
{
	/* In a scope a commit returns at once, and nothing is set free (SC3). */
	if (err != -ENOSPC || ++*tries > COMMITS_FOR_SPACE_MAX || !balloc_commit_helps(fs))
		return false;
	return txn_log_commit(fs->log, txn_log_running(fs->log)) == 0;
}

static int fill(struct inode *ea, const uint8_t *data, uint32_t size)
{
	struct uext4_fs *fs = ea->fs;
	const uint32_t blocks = (uint32_t)div_round_up(size, fs->geom.block_size);
	lblk_t logical = 0;
	unsigned tries = 0;

	while (logical < blocks) {
		uint32_t at = logical << fs->geom.block_bits, count = 0;
		struct blk_run run;
		struct handle *h;
		int err;

		do
			err = write_run(ea, logical, data + at, size - at, &run, &count);
		while (ea_commit_for_space(fs, err, &tries));
		if (err < 0)
			return err;
		err = handle_start(fs->log, map_credits(ea) + quota_credits(fs), &h);
		if (err == 0) {
			err = map_insert(h, ea, logical, count, &run, false);
			if (err < 0)
				balloc_cancel(fs, &run, false);
			err = first_error(err, handle_stop(h));
		} else {
			balloc_cancel(fs, &run, false);
		}
		if (err < 0)
			return err;
		logical += count;
	}
	return 0;
}

int ea_inode_make(struct inode *ip, const void *data, uint32_t size, struct inode **ret_ea)
{
	uint32_t hash = ea_value_hash(ip->fs, data, size);
	struct inode *ea = NULL;
	int err;

	err = find_equal(ip, hash, data, size, &ea);
	if (err < 0)
		return err;
	if (ea) {
		/* Its last user may go before this one comes: then it is a file for a while. */
		err = quota_load(ea);
	} else {
		err = create(ip, hash, size, &ea);
		if (err < 0)
			return err;
		err = quota_load(ea);
		if (err == 0)
			err = fill(ea, data, size);
	}
	if (err < 0) {
		inode_put(ea); /* an orphan: it goes */
		return err;
	}
	*ret_ea = ea;
	return 0;
}

/* ---- references ------------------------------------------------------------------------------ */

static uint64_t refs_get(const struct inode *ip, struct inode *ea)
{
	uint64_t refs;

	mutex_lock(&ea->raw_lock);
	refs = u64_from_lo_hi(ea->raw->l_i_version, ea->raw->i_ctime);
	mutex_unlock(&ea->raw_lock);
	/* One of Lustre's is not shared. */
	if (refs != 1 && inode_links(ea) > 0 && le32_get(ea->raw->i_mtime) == ip->ino &&
	    ea->generation == ip->generation)
		return 1;
	return refs;
}

/* Once this has succeeded inode_store() needs nothing that could fail but by an abort. */
int xattr_reserve_store(struct handle *h, struct inode *ip)
{
	struct buf *buf BUF_SCOPE = NULL;
	int err;

	err = inode_table_buf(ip, &buf);
	return err < 0 ? err : handle_get_write(h, buf);
}

int ea_delta_prepare(struct handle *h, struct inode *ip, struct ea_delta *d)
{
	uint64_t refs;
	int err;

	assert(d->ea && d->refs != 0);
	refs = refs_get(ip, d->ea);
	if (d->refs < 0 && refs < (uint64_t) - (int64_t)d->refs)
		return corrupt("inode %u with a value of inode %u: %llu references are too few",
			       d->ea->ino, ip->ino, (unsigned long long)refs);
	d->before = refs;
	d->after = refs + (uint64_t)(int64_t)d->refs;
	err = xattr_reserve_store(h, d->ea);
	if (err == 0 && d->before == 0)
		err = orphan_remove(h, d->ea);
	if (err == 0 && d->after == 0)
		err = orphan_add(h, d->ea);
	return err;
}

void ea_delta_undo(struct handle *h, struct ea_delta *d)
{
	int err = 0;

	if (d->before == 0)
		err = orphan_add(h, d->ea);
	if (d->after == 0)
		err = orphan_remove(h, d->ea);
	if (err < 0)
		txn_log_abort(d->ea->fs->log, err);
}

void ea_delta_commit(struct handle *h, struct ea_delta *d)
{
	struct inode *ea = d->ea;
	int err;

	mutex_lock(&ea->raw_lock);
	ea->raw->l_i_version = le32_make((uint32_t)d->after);
	ea->raw->i_ctime = le32_make((uint32_t)(d->after >> 32));
	mutex_unlock(&ea->raw_lock);
	if (d->before == 0) { /* E2 */
		inode_set_flags(ea, EXT4_EA_INODE_FL, 0);
		inode_set_links(ea, 1);
		quota_count_file(h, ea, false);
		xattr_share_add(ea->fs, XATTR_SHARE_VALUE, ea_inode_hash(ea), ea->ino);
	}
	if (d->after == 0) {
		xattr_share_remove(ea->fs, XATTR_SHARE_VALUE, ea_inode_hash(ea), ea->ino);
		inode_set_flags(ea, 0, EXT4_EA_INODE_FL);
		inode_set_links(ea, 0);
		quota_count_file(h, ea, true);
	}
	err = inode_store(h, ea);
	if (err < 0)
		txn_log_abort(ea->fs->log, err);
}
