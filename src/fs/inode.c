/* SPDX-License-Identifier: MIT */
/*
 * Inodes in memory: the table of them, loading, attributes.
 *
 * Does not know what a directory or a file holds; it decides once, at load, where the contents are
 * (enum inode_state), and refuses inodes in a state nobody should have made.
 *
 *  I1  An inode is in the table at most once; whoever asks while it is being loaded waits for that
 *      load.  If it fails, each of those who waited tries for himself and reports his own error.
 *  I2  Only inodes without references and holds are evicted.  inode_put() never evicts: it only
 *      queues (M2). What has no links any more, or times that are not stored, goes to a list of its
 *      own, which inode_reap() works off where nothing is held.
 *  I3  The raw inode was verified as a whole when it was loaded; nothing in it is checked again.
 *
 * Life: INODE_LOADING -> INODE_READY (load succeeded; found in the table by others)
 *       INODE_LOADING -> INODE_GONE (taken out of the table; freed with its last reference)
 *       INODE_READY -> INODE_GONE (deleted)
 */
#include "fs/balloc.h"
#include "fs/fs_priv.h"
#include "fs/quota.h"

#include "base/diag.h"
#include "base/mem.h"

#define SHARDS 16u
#define BUCKETS_MIN 64u /* a shard; a power of two */

/* How many blocks of inode table are read in one request when one is needed. */
#define TABLE_AHEAD_BYTES (128u * 1024)

#define S_TYPE_MASK 0170000u
#define FLAGS_VISIBLE 0x725BDFFFu /* what lsattr may see */
#define FLAG_PROJINHERIT 0x20000000u

/* shared */
struct icache_shard {
	struct mutex lock;
	struct cond loaded; /* some inode of this shard left LOADING */
	struct list *buckets GUARDED(&lock);
	uint32_t buckets_count GUARDED(&lock); /* grows with `count`; a power of two */
	struct list lru GUARDED(&lock);	       /* unreferenced, the longest unused first */
	struct list todo GUARDED(&lock); /* unreferenced: without links, or with times to store */
	uint32_t count GUARDED(&lock);	 /* inodes in buckets */
};

struct icache {
	struct uext4_fs *fs;   /* c */
	uint32_t inodes_max;   /* c: a shard */
	_Atomic uint32_t todo; /* a bit a shard: its list of that name has inodes; under its lock */
	struct icache_shard shards[SHARDS];
};

/* ---- place and raw bytes ------------------------------------------------------------------- */

static int inode_table_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	/* Inodes carry checksums of their own: each is verified when it is loaded. */
	return 0;
}

const struct buf_ops inode_table_ops = {
	.name = "inode table block",
	.verify = inode_table_verify,
};

struct place {
	blk_t blk;
	uint32_t offset; /* in the block */
	uint32_t ahead;	 /* blocks of this group's table behind it that are in use */
};

static int place_find(struct uext4_fs *fs, uint32_t ino, struct place *ret)
{
	const struct geom *g = &fs->geom;
	struct ext4_group_desc gd;
	struct place place;
	uint32_t group, index, blocks_used;
	int err;

	if (ino == 0 || ino > g->inodes)
		return fail(-EINVAL, "inode %u: the file system has inodes 1 to %u", ino,
			    g->inodes);
	group = (ino - 1) / g->inodes_per_group;
	index = (ino - 1) % g->inodes_per_group;
	err = group_desc_read(fs, group, &gd);
	if (err < 0)
		return err;

	blocks_used = g->inode_table_blocks;
	if (geom_has_csum(g) || geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_GDT_CSUM)) {
		uint32_t unused = le16_get(gd.bg_itable_unused_lo) |
				  (uint32_t)le16_get(gd.bg_itable_unused_hi) << 16;

		if (unused < g->inodes_per_group)
			blocks_used = (uint32_t)div_round_up(g->inodes_per_group - unused,
							     g->inodes_per_block);
	}
	place.blk = u64_from_lo_hi(gd.bg_inode_table_lo, gd.bg_inode_table_hi) +
		    index / g->inodes_per_block;
	place.offset = index % g->inodes_per_block * g->inode_size;
	place.ahead = TABLE_AHEAD_BYTES / g->block_size - 1;
	if (index / g->inodes_per_block + 1 >= blocks_used)
		place.ahead = 0;
	else
		place.ahead = (uint32_t)min_u64(place.ahead,
						blocks_used - index / g->inodes_per_block - 1);
	*ret = place;
	return 0;
}

int inode_place(struct uext4_fs *fs, uint32_t ino, blk_t *ret_blk, uint32_t *ret_offset)
{
	struct place place;
	int err;

	err = place_find(fs, ino, &place);
	if (err < 0)
		return err;
	*ret_blk = place.blk;
	*ret_offset = place.offset;
	return 0;
}

static int read_raw_at(struct uext4_fs *fs, uint32_t ino, const struct place *place,
		       struct ext4_inode *raw)
{
	struct buf *buf BUF_SCOPE = NULL;
	int err;

	err = buf_read(fs->cache, place->blk, &inode_table_ops, 0, NULL, place->ahead, &buf);
	if (err < 0)
		return fail_in(err, "inode %u", ino);
	memcpy(raw, buf->data + place->offset, fs->geom.inode_size);
	return verify_inode(&fs->geom, ino, raw);
}

int inode_read_raw(struct uext4_fs *fs, uint32_t ino, struct ext4_inode *raw)
{
	struct place place;
	int err;

	err = place_find(fs, ino, &place);
	return err < 0 ? err : read_raw_at(fs, ino, &place, raw);
}

int inode_table_buf(struct inode *ip, struct buf **ret_buf)
{
	int err = buf_read(ip->fs->cache, ip->table_blk, &inode_table_ops, 0, NULL, 0, ret_buf);

	return err < 0 ? fail_in(err, "inode %u", ip->ino) : 0;
}

/* ---- decoding ------------------------------------------------------------------------------ */

static uint64_t decode_size(const struct geom *g, const struct ext4_inode *raw, uint16_t type)
{
	uint64_t size = le32_get(raw->i_size_lo);

	/* Elsewhere the upper half once was the directory's ACL block. */
	if (type == 0100000 || geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_LARGEDIR))
		size |= (uint64_t)le32_get(raw->i_size_high) << 32;
	return size;
}

uint64_t inode_sectors(const struct inode *ip)
{
	const struct geom *g = &ip->fs->geom;
	uint64_t blocks = le32_get(ip->raw->i_blocks_lo);

	if (!geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_HUGE_FILE))
		return blocks;
	blocks |= (uint64_t)le16_get(ip->raw->l_i_blocks_high) << 32;
	if (inode_has_flag(ip, EXT4_HUGE_FILE_FL))
		blocks <<= g->block_bits - 9;
	return blocks;
}

/*
 * @extra: two more bits of the seconds and the nanoseconds, where the inode @has_extra room for
 * them.
 */
static struct uext4_time decode_time(le32 sec, const le32 *extra, bool has_extra)
{
	struct uext4_time t = { .sec = (int32_t)le32_get(sec) };

	if (has_extra) {
		t.sec += (int64_t)(le32_get(*extra) & 3) << 32;
		t.nsec = le32_get(*extra) >> 2;
	}
	return t;
}

static enum inode_state decode_state(const struct geom *g, const struct ext4_inode *raw,
				     uint16_t type, uint64_t size)
{
	if (le32_get(raw->i_flags) & EXT4_INLINE_DATA_FL)
		return INODE_INLINE;
	switch (type) {
	case 0040000: return INODE_BLOCKS;
	case 0120000: return size < sizeof(raw->i_block) ? INODE_FAST : INODE_BLOCKS;
	case 0100000:
		if (size == 0 && le32_get(raw->i_blocks_lo) == 0 &&
		    le16_get(raw->l_i_blocks_high) == 0)
			return INODE_EMPTY;
		return INODE_BLOCKS;
	default: return INODE_EMPTY;
	}
}

/* What is derived from the raw inode. */
static void decode(struct inode *ip)
{
	struct uext4_fs *fs = ip->fs;

	ip->type = le16_get(ip->raw->i_mode) & S_TYPE_MASK;
	ip->generation = le32_get(ip->raw->i_generation);
	ip->csum_seed = verify_inode_seed(&fs->geom, ip->ino, ip->generation);
	ip->size = decode_size(&fs->geom, ip->raw, ip->type);
	ip->state = decode_state(&fs->geom, ip->raw, ip->type, ip->size);
}

enum load_what { LOAD_LINKED, LOAD_ORPHAN };

static int load(struct inode *ip, enum load_what what)
{
	struct uext4_fs *fs = ip->fs;
	struct ext4_inode *raw = ip->raw;
	struct place place;
	int err;

	err = place_find(fs, ip->ino, &place);
	if (err == 0)
		err = read_raw_at(fs, ip->ino, &place, raw);
	if (err < 0)
		return err;
	ip->table_blk = place.blk;
	ip->table_offset = place.offset;
	if (le16_get(raw->i_mode) == 0 ||
	    (le16_get(raw->i_links_count) == 0 && what == LOAD_LINKED))
		return fail(-ESTALE, "inode %u is not in use", ip->ino);
	decode(ip);
	if (le16_get(raw->i_links_count) == 0)
		atomic_store(&ip->flags, INODE_UNLINKED);
	if (fs->fc)
		ip->fc = fastcommit_inode(fs->fc, ip->ino);
	return 0;
}

void inode_verify_arg(const struct inode *ip, struct verify_inode *ret)
{
	*ret = (struct verify_inode){
		.geom = &ip->fs->geom,
		.ino = ip->ino,
		.generation = ip->generation,
		.csum_seed = ip->csum_seed,
		.end = UINT32_MAX,
	};
}

/* Bytes of the inode in use behind the first 128. */
static uint32_t inode_extra(const struct inode *ip)
{
	return ip->fs->geom.inode_size > EXT4_GOOD_OLD_INODE_SIZE ? le16_get(ip->raw->i_extra_isize)
								  : 0;
}

void inode_stat(struct inode *ip, struct uext4_stat *ret)
{
	const struct ext4_inode *raw = ip->raw;
	struct uext4_stat st = { .ino = ip->ino };
	uint32_t extra;

	rwlock_read(&ip->lock);
	rwlock_read(&ip->xattr_lock);
	mutex_lock(&ip->raw_lock); /* times and block counts change without ip->lock */
	extra = inode_extra(ip);
	st.mode = le16_get(raw->i_mode);
	st.nlink = le16_get(raw->i_links_count);
	st.uid = le16_get(raw->i_uid) | (uint32_t)le16_get(raw->l_i_uid_high) << 16;
	st.gid = le16_get(raw->i_gid) | (uint32_t)le16_get(raw->l_i_gid_high) << 16;
	st.size = ip->size;
	st.block_size = ip->fs->geom.block_size;
	st.generation = ip->generation;
	st.flags = le32_get(raw->i_flags) & FLAGS_VISIBLE;
	if (inode_is_reg(ip))
		st.flags &= ~FLAG_PROJINHERIT;
	st.is_inline = ip->state == INODE_INLINE;
	st.is_mapped = atomic_load(&ip->mappings) > 0;
	/* As the kernel: what is written counts before it has a place. */
	st.blocks = inode_sectors(ip) +
		    (atomic_load(&ip->delayed_blocks) << (ip->fs->geom.block_bits - 9));
	/* As the kernel: otherwise tar would take a small inline file for a hole. */
	if (st.is_inline && inode_is_reg(ip))
		st.blocks += div_round_up(st.size, 512);

	st.atime = decode_time(raw->i_atime, &raw->i_atime_extra,
			       EXT4_INODE_HAS(i_atime_extra, extra));
	st.mtime = decode_time(raw->i_mtime, &raw->i_mtime_extra,
			       EXT4_INODE_HAS(i_mtime_extra, extra));
	st.ctime = decode_time(raw->i_ctime, &raw->i_ctime_extra,
			       EXT4_INODE_HAS(i_ctime_extra, extra));
	if (EXT4_INODE_HAS(i_crtime, extra)) {
		st.has_crtime = 1;
		st.crtime = decode_time(raw->i_crtime, &raw->i_crtime_extra,
					EXT4_INODE_HAS(i_crtime_extra, extra));
	}
	st.version = le32_get(raw->l_i_version);
	if (EXT4_INODE_HAS(i_version_hi, extra))
		st.version |= (uint64_t)le32_get(raw->i_version_hi) << 32;
	if (geom_has_ro_compat(&ip->fs->geom, EXT4_FEATURE_RO_COMPAT_PROJECT) &&
	    EXT4_INODE_HAS(i_projid, extra))
		st.projid = le32_get(raw->i_projid);

	if (ip->type == 0020000 || ip->type == 0060000) {
		uint32_t old = le32_get(raw->i_block[0]), dev = le32_get(raw->i_block[1]);

		if (old) {
			st.rdev_major = old >> 8 & 0xff;
			st.rdev_minor = old & 0xff;
		} else {
			st.rdev_major = (dev & 0xfff00) >> 8;
			st.rdev_minor = (dev & 0xff) | (dev >> 12 & 0xfff00);
		}
	}
	mutex_unlock(&ip->raw_lock);
	rwlock_read_unlock(&ip->xattr_lock);
	rwlock_read_unlock(&ip->lock);
	*ret = st;
}

/* ---- the table ----------------------------------------------------------------------------- */

static struct list *buckets_create(uint32_t count)
{
	struct list *buckets = mem_calloc(count, sizeof(*buckets));

	for (uint32_t i = 0; buckets && i < count; i++)
		list_init(&buckets[i]);
	return buckets;
}

int icache_create(struct uext4_fs *fs, uint32_t inodes_max, struct icache **ret)
{
	struct icache *ic = mem_zalloc(sizeof(*ic));
	bool complete = true;

	if (!ic)
		return -ENOMEM;
	ic->fs = fs;
	ic->inodes_max = (uint32_t)max_u64(inodes_max / SHARDS, 4);
	for (unsigned i = 0; i < SHARDS; i++) {
		struct icache_shard *shard = &ic->shards[i];

		mutex_init(&shard->lock, RANK_icache);
		cond_init(&shard->loaded);
		list_init(&shard->lru);
		list_init(&shard->todo);
		shard->buckets = buckets_create(BUCKETS_MIN);
		shard->buckets_count = BUCKETS_MIN;
		complete = complete && shard->buckets;
	}
	if (!complete) {
		icache_destroy(ic);
		return -ENOMEM;
	}
	*ret = ic;
	return 0;
}

static void inode_free(struct inode *ip)
{
	orphan_forget(ip);
	mapping_finish(&ip->pages);
	rwlock_finish(&ip->lock);
	rwlock_finish(&ip->invalidate);
	rwlock_finish(&ip->xattr_lock);
	rwlock_finish(&ip->map_lock);
	mutex_finish(&ip->raw_lock);
	mutex_finish(&ip->writepages_lock);
	mutex_finish(&ip->reserve_lock);
	mutex_finish(&ip->delayed_lock);
	balloc_discard_prealloc(ip);
	if (ip->fs->quota)
		quota_unload(ip);
	xarray_finish(&ip->delayed);
	mem_free(ip);
}

/* An inode in state LOADING with one reference, not in the table. */
static struct inode *inode_new(struct uext4_fs *fs, uint32_t ino)
{
	struct inode *ip = mem_zalloc(sizeof(*ip) + fs->geom.inode_size);

	if (!ip)
		return NULL;
	ip->fs = fs;
	ip->ino = ino;
	ip->raw = (struct ext4_inode *)(void *)(ip + 1);
	ip->refs = 1;
	ip->load = INODE_LOADING;
	list_init(&ip->hash_link);
	list_init(&ip->lru_link);
	rwlock_init(&ip->lock, RANK_inode, ino);
	rwlock_init(&ip->invalidate, RANK_invalidate, ino);
	rwlock_init(&ip->xattr_lock, RANK_xattr, ino);
	rwlock_init(&ip->map_lock, RANK_map, ino);
	mutex_init(&ip->raw_lock, RANK_raw);
	mutex_init(&ip->writepages_lock, RANK_writepages);
	mutex_init(&ip->reserve_lock, RANK_reserve);
	mutex_init(&ip->delayed_lock, RANK_leaf);
	list_init(&ip->orphan_link);
	xarray_init(&ip->delayed);
	mapping_init(&ip->pages, fs->cache, fs->file_ops);
	return ip;
}

static struct icache_shard *shard_of(struct icache *ic, uint32_t ino)
{
	return &ic->shards[ino % SHARDS];
}

static uint32_t shard_bit(const struct inode *ip)
{
	return 1u << ip->ino % SHARDS;
}

static struct list *bucket_of(struct icache_shard *shard, uint32_t ino) REQUIRES(&shard->lock)
{
	return &shard->buckets[ino / SHARDS & (shard->buckets_count - 1)];
}

static struct inode *find_locked(struct icache_shard *shard, uint32_t ino) REQUIRES(&shard->lock)
{
	list_for_each(pos, bucket_of(shard, ino)) {
		struct inode *ip = list_entry(pos, struct inode, hash_link);

		if (ip->ino == ino)
			return ip;
	}
	return NULL;
}

/* Inodes that are held or referenced can be more than inodes_max.  Without memory: only slower. */
static void grow(struct icache_shard *shard) REQUIRES(&shard->lock)
{
	uint32_t old_count = shard->buckets_count;
	struct list *old = shard->buckets, *buckets = buckets_create(old_count * 2);

	if (!buckets) {
		diag_clear();
		return;
	}
	shard->buckets = buckets;
	shard->buckets_count = old_count * 2;
	for (uint32_t i = 0; i < old_count; i++) {
		while (!list_empty(&old[i])) {
			struct inode *ip = list_entry(old[i].next, struct inode, hash_link);

			list_del(&ip->hash_link);
			list_add_head(bucket_of(shard, ip->ino), &ip->hash_link);
		}
	}
	mem_free(old);
}

static void put_in(struct icache_shard *shard, struct inode *ip) REQUIRES(&shard->lock)
{
	if (shard->count >= shard->buckets_count)
		grow(shard);
	list_add_head(bucket_of(shard, ip->ino), &ip->hash_link);
	shard->count++;
}

/* Takes @ip, which nobody uses, out of the table. */
static void take_out(struct icache_shard *shard, struct inode *ip) REQUIRES(&shard->lock)
{
	assert(ip->refs == 0 && ip->load == INODE_READY);
	list_del(&ip->lru_link);
	list_del(&ip->hash_link);
	shard->count--;
}

/* The longest unused inode, out of the table, if there are more than @max; else NULL. */
static struct inode *take_victim(struct icache_shard *shard, uint32_t max) REQUIRES(&shard->lock)
{
	struct inode *ip;

	if (shard->count <= max || list_empty(&shard->lru))
		return NULL;
	ip = list_entry(shard->lru.next, struct inode, lru_link);
	take_out(shard, ip);
	return ip;
}

/* Nobody refers to it any more. */
static void unused(struct icache_shard *shard, struct inode *ip) REQUIRES(&shard->lock)
{
	uint32_t flags = atomic_load(&ip->flags);

	assert(ip->refs == 0 && ip->load == INODE_READY && !ip->queued);
	if (ip->fs->log &&
	    ((flags & INODE_UNLINKED) || (ip->holds == 0 && (flags & INODE_DIRTY_TIMES)))) {
		list_add_tail(&shard->todo, &ip->lru_link);
		ip->queued = true;
		atomic_fetch_or(&ip->fs->icache->todo, shard_bit(ip));
	} else if (ip->holds == 0) {
		list_add_tail(&shard->lru, &ip->lru_link);
	}
}

static void used_again(struct icache_shard *shard, struct inode *ip) REQUIRES(&shard->lock)
{
	assert(ip->refs == 0);
	list_del(&ip->lru_link); /* which it is not on while it is held */
	if (ip->queued && list_empty(&shard->todo))
		atomic_fetch_and(&ip->fs->icache->todo, ~shard_bit(ip));
	ip->queued = false;
}

/*
 * *ret_inode: with a reference, loaded; NULL: nobody has it, or its load just failed.  -ESTALE: it
 * has no links and no references, so it is being deleted.
 */
static int get_loaded(struct icache_shard *shard, uint32_t ino, struct inode **ret_inode)
	REQUIRES(&shard->lock)
{
	struct inode *ip = find_locked(shard, ino);

	*ret_inode = NULL;
	if (!ip)
		return 0;
	if (ip->load == INODE_READY && ip->fs->log && (atomic_load(&ip->flags) & INODE_DYING))
		return fail(-ESTALE, "inode %u is not in use", ino);
	if (ip->refs == 0) {
		if (atomic_load(&ip->flags) & INODE_UNLINKED)
			return fail(-ESTALE, "inode %u is not in use", ino);
		used_again(shard, ip);
	}
	ip->refs++;
	while (ip->load == INODE_LOADING)
		cond_wait(&shard->loaded, &shard->lock);
	if (ip->load == INODE_READY) {
		*ret_inode = ip;
		return 0;
	}
	/* I1: the loader failed and took it out; the last to leave frees it. */
	if (--ip->refs == 0)
		inode_free(ip);
	return 0;
}

/* Puts @ip into the table to be loaded by the caller; false if somebody else was faster. */
static bool insert_loading(struct icache_shard *shard, struct inode *ip, struct inode **ret_victim)
	EXCLUDES(&shard->lock)
{
	bool inserted = false;

	*ret_victim = NULL;
	mutex_lock(&shard->lock);
	if (!find_locked(shard, ip->ino)) {
		put_in(shard, ip);
		*ret_victim = take_victim(shard, ip->fs->icache->inodes_max);
		inserted = true;
	}
	mutex_unlock(&shard->lock);
	return inserted;
}

static void finish_load(struct icache_shard *shard, struct inode *ip, int err)
{
	bool last = false;

	mutex_lock(&shard->lock);
	if (err < 0) {
		ip->load = INODE_GONE;
		list_del(&ip->hash_link);
		shard->count--;
		last = --ip->refs == 0;
	} else {
		ip->load = INODE_READY;
	}
	cond_broadcast(&shard->loaded);
	mutex_unlock(&shard->lock);
	if (last)
		inode_free(ip);
}

static int get(struct uext4_fs *fs, uint32_t ino, enum load_what what, struct inode **ret_inode)
{
	struct icache_shard *shard = shard_of(fs->icache, ino);
	struct inode *ip, *victim;
	int err;

	for (;;) {
		mutex_lock(&shard->lock);
		err = get_loaded(shard, ino, &ip);
		mutex_unlock(&shard->lock);
		if (err < 0)
			return err;
		if (ip) {
			*ret_inode = ip;
			return 0;
		}
		ip = inode_new(fs, ino);
		if (!ip)
			return -ENOMEM;
		if (insert_loading(shard, ip, &victim))
			break;
		inode_free(ip);
	}
	if (victim)
		inode_free(victim);

	err = load(ip, what);
	finish_load(shard, ip, err);
	if (err < 0)
		return err;
	*ret_inode = ip;
	return 0;
}

int inode_get(struct uext4_fs *fs, uint32_t ino, struct inode **ret_inode)
{
	return get(fs, ino, LOAD_LINKED, ret_inode);
}

int inode_get_orphan(struct uext4_fs *fs, uint32_t ino, struct inode **ret_inode)
{
	return get(fs, ino, LOAD_ORPHAN, ret_inode);
}

void inode_ref(struct inode *ip)
{
	struct icache_shard *shard = shard_of(ip->fs->icache, ip->ino);

	mutex_lock(&shard->lock);
	assert(ip->refs > 0);
	ip->refs++;
	mutex_unlock(&shard->lock);
}

void inode_put(struct inode *ip)
{
	struct icache_shard *shard;
	bool last = false;

	if (!ip)
		return;
	shard = shard_of(ip->fs->icache, ip->ino);
	mutex_lock(&shard->lock);
	assert(ip->refs > 0);
	if (--ip->refs == 0) {
		last = ip->load == INODE_GONE && ip->holds == 0;
		if (ip->load == INODE_READY)
			unused(shard, ip);
	}
	mutex_unlock(&shard->lock);
	if (last)
		inode_free(ip);
}

void inode_hold(struct inode *ip)
{
	struct icache_shard *shard = shard_of(ip->fs->icache, ip->ino);

	mutex_lock(&shard->lock);
	assert(ip->refs > 0 || ip->holds > 0 || ip->queued);
	ip->holds++;
	mutex_unlock(&shard->lock);
}

bool inode_try_hold(struct inode *ip)
{
	struct icache_shard *shard = shard_of(ip->fs->icache, ip->ino);
	bool alive;

	mutex_lock(&shard->lock);
	alive = ip->load == INODE_READY && !list_empty(&ip->hash_link);
	if (alive) {
		if (ip->refs == 0 && ip->holds == 0 && !ip->queued)
			list_del(&ip->lru_link); /* which it is not on while it is held */
		ip->holds++;
	}
	mutex_unlock(&shard->lock);
	return alive;
}

void inode_release(struct inode *ip)
{
	struct icache_shard *shard = shard_of(ip->fs->icache, ip->ino);
	bool last = false;

	mutex_lock(&shard->lock);
	assert(ip->holds > 0);
	if (--ip->holds == 0 && ip->refs == 0 && !ip->queued) {
		last = ip->load == INODE_GONE;
		if (!last)
			unused(shard, ip);
	}
	mutex_unlock(&shard->lock);
	if (last)
		inode_free(ip);
}

void inode_evict(struct inode *ip)
{
	struct icache_shard *shard = shard_of(ip->fs->icache, ip->ino);
	bool gone;

	mutex_lock(&shard->lock);
	gone = ip->load == INODE_READY && ip->refs == 0 && ip->holds == 1 && !ip->queued &&
	       !(atomic_load(&ip->flags) & (INODE_UNLINKED | INODE_DIRTY_TIMES));
	if (gone) {
		ip->holds = 0;
		take_out(shard, ip);
	}
	mutex_unlock(&shard->lock);
	if (gone)
		inode_free(ip);
	else
		inode_release(ip);
}

/* ---- inodes that are made, and that something remains to be done for ------------------------- */

int inode_make(struct uext4_fs *fs, uint32_t ino, struct inode **ret_inode)
{
	struct inode *ip;
	int err;

	ip = inode_new(fs, ino);
	if (!ip)
		return -ENOMEM;
	err = inode_place(fs, ino, &ip->table_blk, &ip->table_offset);
	if (err < 0) {
		inode_free(ip);
		return err;
	}
	*ret_inode = ip;
	return 0;
}

void inode_discard(struct inode *ip)
{
	inode_free(ip);
}

int icache_publish(struct inode *ip)
{
	struct icache_shard *shard = shard_of(ip->fs->icache, ip->ino);
	struct inode *other, *victim = NULL;

	decode(ip);
	mutex_lock(&shard->lock);
	/* Somebody asks for a number that was not in use: he fails soon. */
	while ((other = find_locked(shard, ip->ino)) != NULL && other->load == INODE_LOADING)
		cond_wait(&shard->loaded, &shard->lock);
	if (!other) {
		ip->load = INODE_READY;
		put_in(shard, ip);
		victim = take_victim(shard, ip->fs->icache->inodes_max);
	}
	mutex_unlock(&shard->lock);
	if (victim)
		inode_free(victim);
	return other ? corrupt("inode %u is free in the bitmap and in use", ip->ino) : 0;
}

void icache_unpublish(struct inode *ip)
{
	struct icache_shard *shard = shard_of(ip->fs->icache, ip->ino);

	mutex_lock(&shard->lock);
	assert(ip->refs > 0 && ip->load == INODE_READY);
	ip->load = INODE_GONE;
	list_del(&ip->hash_link);
	shard->count--;
	mutex_unlock(&shard->lock);
}

bool icache_has_todo(const struct icache *ic)
{
	return atomic_load(&ic->todo) != 0;
}

struct inode *icache_pop_todo(struct icache *ic)
{
	uint32_t todo;

	while ((todo = atomic_load(&ic->todo)) != 0) {
		struct icache_shard *shard = &ic->shards[__builtin_ctz(todo)];
		struct inode *ip = NULL;

		mutex_lock(&shard->lock);
		if (!list_empty(&shard->todo)) {
			ip = list_entry(shard->todo.next, struct inode, lru_link);
			used_again(shard, ip);
			ip->refs = 1;
			if (atomic_load(&ip->flags) & INODE_UNLINKED)
				atomic_fetch_or(&ip->flags, INODE_DYING);
		}
		mutex_unlock(&shard->lock);
		if (ip)
			return ip;
	}
	return NULL;
}

size_t icache_find_dirty(struct icache *ic, struct inode **ret_inodes, size_t max)
{
	size_t count = 0;

	for (unsigned i = 0; i < SHARDS && count < max; i++) {
		struct icache_shard *shard = &ic->shards[i];

		mutex_lock(&shard->lock);
		for (uint32_t b = 0; b < shard->buckets_count && count < max; b++) {
			list_for_each(pos, &shard->buckets[b]) {
				struct inode *ip = list_entry(pos, struct inode, hash_link);

				if (ip->load != INODE_READY || ip->refs == 0 || count == max ||
				    !(atomic_load(&ip->flags) & INODE_DIRTY_TIMES))
					continue;
				ip->refs++;
				ret_inodes[count++] = ip;
			}
		}
		mutex_unlock(&shard->lock);
	}
	return count;
}

static bool is_of_users(const struct uext4_fs *fs, uint32_t ino)
{
	return (ino == EXT4_ROOT_INO || ino >= fs->geom.first_ino) &&
	       ino != le32_get(fs->super.s_orphan_file_inum) &&
	       ino != le32_get(fs->super.s_prj_quota_inum);
}

bool icache_in_use(struct icache *ic)
{
	bool used = false;

	for (unsigned i = 0; i < SHARDS && !used; i++) {
		struct icache_shard *shard = &ic->shards[i];

		mutex_lock(&shard->lock);
		for (uint32_t b = 0; b < shard->buckets_count; b++) {
			list_for_each(pos, &shard->buckets[b]) {
				struct inode *ip = list_entry(pos, struct inode, hash_link);

				used = used || (ip->refs > 0 && is_of_users(ic->fs, ip->ino));
			}
		}
		mutex_unlock(&shard->lock);
	}
	return used;
}

/* ---- forgetting ------------------------------------------------------------------------------ */

/* Any inode that nobody refers to, out of the table; what remained to be done for it is not. */
static struct inode *take_any(struct icache_shard *shard) REQUIRES(&shard->lock)
{
	struct inode *ip;

	if (list_empty(&shard->todo))
		return take_victim(shard, 0);
	ip = list_entry(shard->todo.next, struct inode, lru_link);
	used_again(shard, ip);
	take_out(shard, ip);
	return ip;
}

void icache_forget(struct icache *ic)
{
	for (unsigned i = 0; i < SHARDS; i++) {
		struct icache_shard *shard = &ic->shards[i];
		struct inode *ip;

		do {
			mutex_lock(&shard->lock);
			ip = take_any(shard);
			assert(ip || shard->count == 0);
			mutex_unlock(&shard->lock);
			if (ip)
				inode_free(ip);
		} while (ip);
	}
}

void icache_forget_one(struct icache *ic, uint32_t ino)
{
	struct icache_shard *shard = shard_of(ic, ino);
	struct inode *ip;

	mutex_lock(&shard->lock);
	ip = find_locked(shard, ino);
	if (ip)
		take_out(shard, ip);
	mutex_unlock(&shard->lock);
	if (ip)
		inode_free(ip);
}

void icache_destroy(struct icache *ic)
{
	if (!ic)
		return;
	icache_forget(ic);
	for (unsigned i = 0; i < SHARDS; i++) {
		mem_free(ic->shards[i].buckets);
		mutex_finish(&ic->shards[i].lock);
		cond_finish(&ic->shards[i].loaded);
	}
	mem_free(ic);
}
