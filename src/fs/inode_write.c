/* SPDX-License-Identifier: MIT */
/*
 * Inodes that change: their raw bytes, making them, and their end.
 *
 * Does not decide what changes (ops/ does) nor where an inode's number comes from (ialloc.c).
 *
 *  W1  Raw bytes change under raw_lock, beside the lock that owns them, and are copied to the
 *      inode's buffer, with their checksum, under raw_lock too.  Two threads that change and store
 *      different fields of one inode so never mix, and whoever stores last stores both.
 *  W2  Each change is stored in the handle it was made in, so a commit never sees half of it.  Only
 *      times may be stored later (INODE_DIRTY_TIMES), with the next store of anything.
 *  W3  An inode without links stays on disk, as an orphan (J11), until its last reference is put.
 *      Its number becomes free in the same transaction in which its orphan entry goes.
 */
#include "fs/balloc.h"
#include "fs/fs_priv.h"
#include "fs/quota.h"
#include "fs/xattr.h"

#include "base/diag.h"
#include "base/mem.h"
#include "disk/seal.h"

#define S_IFMT_BITS 0170000u
#define PERMISSIONS 07777u

/* ---- storing --------------------------------------------------------------------------------- */

static int store(struct handle *h, struct inode *ip)
{
	struct buf *buf BUF_SCOPE = NULL;
	int err;

	err = inode_table_buf(ip, &buf);
	if (err == 0)
		err = handle_get_write(h, buf);
	if (err < 0) {
		/* What has changed in memory is stored some time, as times are. */
		atomic_fetch_or(&ip->flags, INODE_DIRTY_TIMES);
		return err;
	}
	mutex_lock(&ip->raw_lock);
	atomic_fetch_and(&ip->flags, ~(uint32_t)INODE_DIRTY_TIMES);
	seal_inode(&ip->fs->geom, ip->csum_seed, ip->raw);
	memcpy(buf->data + ip->table_offset, ip->raw, ip->fs->geom.inode_size);
	mutex_unlock(&ip->raw_lock);
	handle_dirty(h, buf);
	atomic_store(&ip->sync_tid, handle_tid(h));
	return 0;
}

int inode_store_meta(struct handle *h, struct inode *ip)
{
	return store(h, ip);
}

int inode_store(struct handle *h, struct inode *ip)
{
	int err = store(h, ip);

	if (err == 0)
		atomic_store(&ip->datasync_tid, handle_tid(h));
	return err;
}

int inode_flush_times(struct inode *ip)
{
	struct handle *h;
	int err;

	if (!(atomic_load(&ip->flags) & INODE_DIRTY_TIMES))
		return 0;
	err = handle_start(ip->fs->log, INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	/* Else somebody was faster, and may have frozen the image since. */
	if (atomic_load(&ip->flags) & INODE_DIRTY_TIMES)
		err = inode_store_meta(h, ip);
	return first_error(err, handle_stop(h));
}

/* ---- fields ---------------------------------------------------------------------------------- */

static bool has_extra(const struct inode *ip, size_t end)
{
	return ip->fs->geom.inode_size > EXT4_GOOD_OLD_INODE_SIZE &&
	       end <= EXT4_GOOD_OLD_INODE_SIZE + (size_t)le16_get(ip->raw->i_extra_isize);
}

#define HAS_EXTRA(ip, field) has_extra(ip, offsetof(struct ext4_inode, field) + 4)

/* The seconds' two further bits count from the sign of the lower 32. */
static void encode_time(struct uext4_time t, le32 *sec, le32 *extra, bool has_extra_word)
{
	*sec = le32_make((uint32_t)t.sec);
	if (has_extra_word) {
		int64_t high = (t.sec - (int32_t)(uint32_t)t.sec) >> 32;

		*extra = le32_make(((uint32_t)high & 3) | t.nsec << 2);
	}
}

static void set_time_locked(struct inode *ip, uint32_t which, struct uext4_time t)
	REQUIRES(&ip->raw_lock)
{
	struct ext4_inode *raw = ip->raw;

	if (which & INODE_ATIME)
		encode_time(t, &raw->i_atime, &raw->i_atime_extra, HAS_EXTRA(ip, i_atime_extra));
	if (which & INODE_MTIME)
		encode_time(t, &raw->i_mtime, &raw->i_mtime_extra, HAS_EXTRA(ip, i_mtime_extra));
	if (which & INODE_CTIME)
		encode_time(t, &raw->i_ctime, &raw->i_ctime_extra, HAS_EXTRA(ip, i_ctime_extra));
	if ((which & INODE_CRTIME) && HAS_EXTRA(ip, i_crtime))
		encode_time(t, &raw->i_crtime, &raw->i_crtime_extra, HAS_EXTRA(ip, i_crtime_extra));
}

static void count_version(struct inode *ip) REQUIRES(&ip->raw_lock)
{
	uint32_t low = le32_get(ip->raw->l_i_version) + 1;

	ip->raw->l_i_version = le32_make(low);
	if (low == 0 && HAS_EXTRA(ip, i_version_hi))
		ip->raw->i_version_hi = le32_make(le32_get(ip->raw->i_version_hi) + 1);
}

void inode_touch(struct inode *ip, uint32_t which)
{
	struct uext4_time now;

	clock_real(&now.sec, &now.nsec);
	mutex_lock(&ip->raw_lock);
	set_time_locked(ip, which, now);
	if (which & (INODE_MTIME | INODE_CTIME))
		count_version(ip);
	mutex_unlock(&ip->raw_lock);
}

void inode_set_time(struct inode *ip, uint32_t which, struct uext4_time t)
{
	mutex_lock(&ip->raw_lock);
	set_time_locked(ip, which, t);
	mutex_unlock(&ip->raw_lock);
}

void inode_set_mode(struct inode *ip, uint16_t permissions)
{
	mutex_lock(&ip->raw_lock);
	ip->raw->i_mode = le16_make((uint16_t)(ip->type | (permissions & PERMISSIONS)));
	mutex_unlock(&ip->raw_lock);
}

static void set_owner(struct ext4_inode *raw, uint32_t uid, uint32_t gid)
{
	raw->i_uid = le16_make((uint16_t)uid);
	raw->l_i_uid_high = le16_make((uint16_t)(uid >> 16));
	raw->i_gid = le16_make((uint16_t)gid);
	raw->l_i_gid_high = le16_make((uint16_t)(gid >> 16));
}

void inode_set_owner(struct inode *ip, uint32_t uid, uint32_t gid)
{
	mutex_lock(&ip->raw_lock);
	set_owner(ip->raw, uid, gid);
	mutex_unlock(&ip->raw_lock);
}

void inode_set_links(struct inode *ip, uint32_t links)
{
	assert(links <= UINT16_MAX);
	mutex_lock(&ip->raw_lock);
	ip->raw->i_links_count = le16_make((uint16_t)links);
	mutex_unlock(&ip->raw_lock);
	if (links == 0)
		atomic_fetch_or(&ip->flags, INODE_UNLINKED);
	else
		atomic_fetch_and(&ip->flags, ~(uint32_t)INODE_UNLINKED);
}

uint32_t inode_links(const struct inode *ip)
{
	return le16_get(ip->raw->i_links_count);
}

uint32_t inode_projid(struct inode *ip)
{
	uint32_t projid = 0;

	mutex_lock(&ip->raw_lock);
	if (geom_has_ro_compat(&ip->fs->geom, EXT4_FEATURE_RO_COMPAT_PROJECT) &&
	    HAS_EXTRA(ip, i_projid))
		projid = le32_get(ip->raw->i_projid);
	mutex_unlock(&ip->raw_lock);
	return projid;
}

void inode_set_disk_size(struct inode *ip, uint64_t size)
{
	mutex_lock(&ip->raw_lock);
	ip->raw->i_size_lo = le32_make((uint32_t)size);
	ip->raw->i_size_high = le32_make((uint32_t)(size >> 32));
	mutex_unlock(&ip->raw_lock);
}

uint64_t inode_disk_size(struct inode *ip)
{
	uint64_t size;

	mutex_lock(&ip->raw_lock);
	size = u64_from_lo_hi(ip->raw->i_size_lo, ip->raw->i_size_high);
	mutex_unlock(&ip->raw_lock);
	return size;
}

/* inode_has_flag() takes no lock. */
static void store_flags(struct ext4_inode *raw, uint32_t flags)
{
	__atomic_store_n(&raw->i_flags.raw, le32_make(flags).raw, __ATOMIC_RELAXED);
}

/* In units of 512 bytes, in 32 bits or with huge_file in 48; beyond that in blocks. */
static void encode_blocks(struct inode *ip, uint64_t sectors) REQUIRES(&ip->raw_lock)
{
	const struct geom *g = &ip->fs->geom;
	struct ext4_inode *raw = ip->raw;
	uint32_t flags = le32_get(raw->i_flags) & ~EXT4_HUGE_FILE_FL;

	if (sectors >> 48 != 0) {
		flags |= EXT4_HUGE_FILE_FL;
		sectors >>= g->block_bits - 9;
	}
	raw->i_blocks_lo = le32_make((uint32_t)sectors);
	if (geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_HUGE_FILE)) {
		raw->l_i_blocks_high = le16_make((uint16_t)(sectors >> 32));
		store_flags(raw, flags);
	}
}

void inode_add_blocks(struct inode *ip, int64_t blocks)
{
	unsigned shift = ip->fs->geom.block_bits - 9;

	mutex_lock(&ip->raw_lock);
	encode_blocks(ip, inode_sectors(ip) + ((uint64_t)blocks << shift));
	mutex_unlock(&ip->raw_lock);
}

void inode_set_flags(struct inode *ip, uint32_t set, uint32_t clear)
{
	mutex_lock(&ip->raw_lock);
	store_flags(ip->raw, (le32_get(ip->raw->i_flags) & ~clear) | set);
	mutex_unlock(&ip->raw_lock);
}

/* ---- a new inode ----------------------------------------------------------------------------- */

/* Device numbers: the old 16-bit form where it holds them, else the new one in the second word. */
static void encode_rdev(struct ext4_inode *raw, uint32_t major, uint32_t minor)
{
	if (major < 256 && minor < 256)
		raw->i_block[0] = le32_make(major << 8 | minor);
	else
		raw->i_block[1] = le32_make((minor & 0xff) | major << 8 | (minor & ~0xffu) << 12);
}

static void fill_new(struct inode *ip, const struct inode_create *attrs)
{
	const struct geom *g = &ip->fs->geom;
	struct ext4_inode *raw = ip->raw;
	uint16_t type = attrs->mode & S_IFMT_BITS;

	raw->i_mode = le16_make(attrs->mode);
	raw->i_links_count = le16_make(type == 0040000 ? 2 : 1);
	raw->i_flags = le32_make(attrs->flags);
	raw->i_generation = le32_make((uint32_t)random_u64());
	set_owner(raw, attrs->uid, attrs->gid);
	if (g->inode_size > EXT4_GOOD_OLD_INODE_SIZE)
		raw->i_extra_isize = le16_make((uint16_t)g->extra_isize_want);
	if (geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_PROJECT) && HAS_EXTRA(ip, i_projid))
		raw->i_projid = le32_make(attrs->projid);
	if (type == 0020000 || type == 0060000)
		encode_rdev(raw, attrs->rdev_major, attrs->rdev_minor);
}

/* Into the table, locked: nobody can have a lock of an inode that nobody knows. */
static int publish(struct inode *ip) NO_TSA
{
	bool locked = rwlock_trywrite(&ip->lock);
	int err;

	assert(locked);
	(void)locked;
	err = icache_publish(ip);
	if (err < 0)
		inode_unlock(ip);
	return err;
}

/* Everything of a new inode but its number; in the table and locked, or, when it fails, gone. */
static int bring_to_life(struct handle *h, struct inode *ip, const struct inode_create *attrs)
	NO_TSA
{
	int err;

	fill_new(ip, attrs);
	inode_touch(ip, INODE_ATIME | INODE_MTIME | INODE_CTIME | INODE_CRTIME);
	err = quota_attach(ip);
	if (err == 0)
		err = quota_charge_inode(h, ip);
	if (err == 0) {
		err = publish(ip);
		if (err < 0) {
			quota_release_inode(h, ip);
			err = fs_error(ip->fs, err, ip->ino, 0);
		}
	}
	if (err < 0) {
		inode_discard(ip);
		return err;
	}
	if (inode_is_reg(ip) || inode_is_dir(ip))
		map_init(ip);
	else if (inode_is_lnk(ip))
		ip->state = INODE_EMPTY; /* where its target will be is for its maker to say */
	err = inode_store(h, ip);
	if (err < 0) {
		quota_release_inode(h, ip);
		icache_unpublish(ip);
		inode_unlock(ip);
		inode_put(ip);
	}
	return err;
}

int inode_create(struct handle *h, struct inode *dir, const struct inode_create *attrs,
		 struct inode **ret_inode)
{
	bool is_dir = (attrs->mode & S_IFMT_BITS) == 0040000;
	struct uext4_fs *fs = dir->fs;
	struct inode *ip;
	uint32_t ino;
	int err;

	err = ialloc_alloc(h, fs, dir, is_dir, &ino);
	if (err < 0)
		return err;
	err = inode_make(fs, ino, &ip);
	if (err == 0)
		err = bring_to_life(h, ip, attrs);
	if (err < 0) {
		/* What the bitmap has lost is in this very handle: a failure here is the disk's. */
		int undo = ialloc_free(h, fs, ino, is_dir);

		if (undo < 0)
			txn_log_abort(fs->log, undo);
		return err;
	}
	*ret_inode = ip;
	return 0;
}

/* What a deleted inode looks like in the table: without a time of deletion it is one that was lost.
 */
static void set_deleted(struct inode *ip)
{
	int64_t sec;
	uint32_t nsec;

	clock_real(&sec, &nsec);
	mutex_lock(&ip->raw_lock);
	ip->raw->i_dtime = le32_make((uint32_t)sec);
	ip->raw->i_size_lo = ip->raw->i_size_high = le32_make(0);
	mutex_unlock(&ip->raw_lock);
}

void inode_create_undo(struct handle *h, struct inode *ip) NO_TSA
{
	struct uext4_fs *fs = ip->fs;
	int err;

	inode_set_links(ip, 0);
	set_deleted(ip);
	err = inode_store(h, ip);
	quota_release_inode(h, ip);
	icache_unpublish(ip);
	err = first_error(err, ialloc_free(h, fs, ip->ino, inode_is_dir(ip)));
	inode_unlock(ip);
	inode_put(ip);
	if (err < 0)
		txn_log_abort(fs->log, err);
}

/* ---- the end of an inode --------------------------------------------------------------------- */

int inode_free_blocks(struct inode *ip, uint64_t size)
{
	const struct geom *g = &ip->fs->geom;
	uint64_t first = div_round_up(size, g->block_size);
	uint32_t left = UINT32_MAX - 1;
	struct handle *h;
	int err;

	assert(ip->state == INODE_BLOCKS);
	if (first >= UINT32_MAX)
		return 0;
	left = (uint32_t)(UINT32_MAX - first);
	err = handle_start(ip->fs->log, map_credits(ip) + quota_credits(ip->fs), &h);
	if (err < 0)
		return err;
	while (err == 0 && left > 0) {
		err = map_remove(h, ip, (lblk_t)first, left, &left);
		if (err == 0 && left > 0)
			err = handle_restart(h, map_credits(ip) + quota_credits(ip->fs));
	}
	return first_error(err, handle_stop(h));
}

/* The last handle: orphan entry, number, and the inode's place in the table go together (W3). */
static int release(struct handle *h, struct inode *ip)
{
	int err;

	err = orphan_remove(h, ip);
	if (err < 0)
		return err;
	set_deleted(ip);
	err = inode_store(h, ip);
	if (err < 0)
		return err;
	quota_release_inode(h, ip);
	icache_unpublish(ip);
	return ialloc_free(h, ip->fs, ip->ino, inode_is_dir(ip));
}

static int delete_contents(struct inode *ip)
{
	int err;

	if (inode_is_reg(ip)) {
		rwlock_write(&ip->invalidate);
		mapping_drop(&ip->pages, 0, UINT64_MAX);
		rwlock_write_unlock(&ip->invalidate);
	}
	if (ip->state == INODE_BLOCKS) {
		err = inode_free_blocks(ip, 0);
		if (err < 0)
			return err;
	}
	return xattr_delete_all(ip);
}

int inode_delete(struct inode *ip)
{
	struct uext4_fs *fs = ip->fs;
	struct handle *h;
	int err;

	assert(inode_links(ip) == 0);
	err = quota_load(ip);
	if (err == 0)
		err = delete_contents(ip);
	if (err == 0)
		err = handle_start(fs->log,
				   IALLOC_CREDITS + ORPHAN_CREDITS + INODE_STORE_CREDITS +
					   quota_credits(fs),
				   &h);
	if (err == 0) {
		err = release(h, ip);
		err = first_error(err, handle_stop(h));
	}
	if (err < 0) {
		/*
		 * It stays an orphan on disk, in memory up to the end, and nobody finds it again.
		 */
		if (ip->load == INODE_READY)
			icache_unpublish(ip);
		if (atomic_load(&ip->flags) & INODE_ORPHAN && ip->orphan_slot == 0) {
			atomic_fetch_or(&ip->flags, INODE_STUCK);
			return err;
		}
	}
	inode_put(ip);
	return err;
}

int inode_reap(struct uext4_fs *fs)
{
	struct inode *ip;
	int err = 0;

	if (!fs->log)
		return 0;
	while ((ip = icache_pop_todo(fs->icache)) != NULL) {
		int one;

		if (atomic_load(&ip->flags) & INODE_UNLINKED) {
			one = inode_delete(ip);
		} else {
			one = inode_flush_times(ip);
			/* A time that cannot be stored is not worth keeping the inode for. */
			atomic_fetch_and(&ip->flags, ~(uint32_t)INODE_DIRTY_TIMES);
			inode_put(ip);
		}
		err = first_error(err, one);
	}
	return err;
}
