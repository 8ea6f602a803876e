/* SPDX-License-Identifier: MIT */
/*
 * Quota accounts: who is charged, what limits allow, and the records as they change.
 *
 * Everything is under one lock: a charge is some additions and three copies of 72 bytes.  Records
 * stay in memory, with their buffers, until the file system is closed: some 200 bytes and a 14th of
 * a KiB for each owner that was met.
 *
 *  QA1  What was promised plus what is used is what limits are held against.
 *  QA2  A charge is made in all records or in none: what can fail (limits, the journal) comes
 *       before the first change.
 *  QA3  An inode's owners in memory (dquots) are those that its blocks were charged to; they change
 *       together with where the charge is, under map_lock and the lock.
 */
#include "fs/quota_priv.h"
#include "fs/xattr_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#define QUOTA_UNIT_BITS QUOTA_BLOCK_BITS /* limits of blocks are kept in these */
#define GRACE_DEFAULT (7u * 24 * 60 * 60)

/* ---- records --------------------------------------------------------------------------------- */

static struct v2r1_disk_dqblk *record_of(const struct dquot *dq)
{
	return (struct v2r1_disk_dqblk *)(void *)(dq->buf->data + dq->offset);
}

static uint64_t limit_bytes(le64 units)
{
	uint64_t bytes;

	return mul_ok(le64_get(units), 1u << QUOTA_UNIT_BITS, &bytes) ? bytes : UINT64_MAX;
}

static void decode(struct dquot *dq)
{
	const struct v2r1_disk_dqblk *r = record_of(dq);

	dq->bytes = (struct dquot_account){
		.used = le64_get(r->dqb_curspace),
		.soft = limit_bytes(r->dqb_bsoftlimit),
		.hard = limit_bytes(r->dqb_bhardlimit),
		.deadline = le64_get(r->dqb_btime),
	};
	dq->inodes = (struct dquot_account){
		.used = le64_get(r->dqb_curinodes),
		.soft = le64_get(r->dqb_isoftlimit),
		.hard = le64_get(r->dqb_ihardlimit),
		.deadline = le64_get(r->dqb_itime),
	};
	/* That 1 only says that the record is one. */
	if (dq->inodes.used == 0 && dq->inodes.soft == 0 && dq->inodes.deadline == 1)
		dq->inodes.deadline = 0;
}

/* Limits are not ours to change. */
static void encode(const struct dquot *dq)
{
	struct v2r1_disk_dqblk *r = record_of(dq);
	static const struct v2r1_disk_dqblk unused;

	r->dqb_curspace = le64_make(dq->bytes.used);
	r->dqb_curinodes = le64_make(dq->inodes.used);
	r->dqb_btime = le64_make(dq->bytes.deadline);
	r->dqb_itime = le64_make(dq->inodes.deadline);
	if (memcmp(r, &unused, sizeof(unused)) == 0)
		r->dqb_itime = le64_make(1);
}

/* ---- finding --------------------------------------------------------------------------------- */

static struct dquot *find(struct quota *q, unsigned type, uint32_t id) REQUIRES(&q->lock)
{
	return xarray_find(&q->dquots[type], id);
}

/* Puts @dq, as its record says, into the table, unless somebody was faster. */
static int insert(struct quota *q, struct dquot *dq, bool *ret_inserted)
{
	int err = 0;

	mutex_lock(&q->lock);
	*ret_inserted = !find(q, dq->type, dq->id);
	if (*ret_inserted) {
		decode(dq);
		err = xarray_insert(&q->dquots[dq->type], dq->id, dq);
	}
	mutex_unlock(&q->lock);
	return err;
}

static void dquot_free(struct dquot *dq)
{
	buf_put(dq->buf);
	mem_free(dq);
}

static int prepare_one(struct quota *q, unsigned type, uint32_t id)
{
	struct dquot *dq;
	bool inserted = false;
	int err;

	mutex_lock(&q->lock);
	dq = find(q, type, id);
	mutex_unlock(&q->lock);
	if (dq)
		return 0;
	dq = mem_zalloc(sizeof(*dq));
	if (!dq)
		return -ENOMEM;
	dq->id = id;
	dq->type = (uint8_t)type;
	err = quota_file_find(&q->file[type], id, &dq->buf, &dq->offset);
	if (err == 0)
		err = insert(q, dq, &inserted);
	if (err < 0 || !inserted)
		dquot_free(dq);
	return err;
}

int quota_prepare(struct uext4_fs *fs, const struct quota_owner *owner)
{
	struct quota *q = fs->quota;
	int err = 0;

	for (unsigned type = 0; q && type < QUOTA_TYPES && err == 0; type++) {
		if (q->file[type].ip)
			err = prepare_one(q, type, owner->id[type]);
	}
	return err;
}

/* ---- owners of an inode ---------------------------------------------------------------------- */

static void owners_of(struct inode *ip, struct quota_owner *ret)
{
	const struct ext4_inode *raw = ip->raw;

	mutex_lock(&ip->raw_lock);
	ret->id[0] = le16_get(raw->i_uid) | (uint32_t)le16_get(raw->l_i_uid_high) << 16;
	ret->id[1] = le16_get(raw->i_gid) | (uint32_t)le16_get(raw->l_i_gid_high) << 16;
	mutex_unlock(&ip->raw_lock);
	ret->id[2] = inode_projid(ip);
}

static bool is_own_file(const struct inode *ip)
{
	const struct ext4_super_block *sb = &ip->fs->super;

	if (ip->ino < ip->fs->geom.first_ino)
		return ip->ino != EXT4_ROOT_INO;
	return ip->ino == le32_get(sb->s_prj_quota_inum) ||
	       (geom_has_compat(&ip->fs->geom, EXT4_FEATURE_COMPAT_ORPHAN_FILE) &&
		ip->ino == le32_get(sb->s_orphan_file_inum));
}

/* Symlinks in the inode, which mke2fs makes, are left out where usage is counted: e2fsck too. */
static bool is_charged(const struct inode *ip)
{
	if (inode_is_lnk(ip) && inode_has_flag(ip, EXT4_INLINE_DATA_FL))
		return false;
	return !is_own_file(ip) && !inode_has_flag(ip, EXT4_EA_INODE_FL);
}

static int attach_locked(struct quota *q, struct inode *ip, const struct quota_owner *owner)
	REQUIRES(&q->lock)
{
	struct dquot *found[QUOTA_TYPES] = { NULL };

	if (ip->quota_attached)
		return 0;
	for (unsigned type = 0; type < QUOTA_TYPES; type++) {
		if (!q->file[type].ip)
			continue;
		found[type] = find(q, type, owner->id[type]);
		if (!found[type])
			return fail(-EIO, "%s quota: %u was not prepared", quota_names[type],
				    owner->id[type]);
	}
	memcpy(ip->dquots, found, sizeof(found));
	ip->quota_attached = true;
	return 0;
}

int quota_attach(struct inode *ip)
{
	struct quota *q = ip->fs->quota;
	struct quota_owner owner;
	int err;

	if (!q || !is_charged(ip))
		return 0;
	owners_of(ip, &owner);
	mutex_lock(&q->lock);
	err = attach_locked(q, ip, &owner);
	mutex_unlock(&q->lock);
	return err;
}

static bool is_attached(struct quota *q, const struct inode *ip)
{
	bool attached;

	mutex_lock(&q->lock);
	attached = ip->quota_attached;
	mutex_unlock(&q->lock);
	return attached;
}

int quota_load(struct inode *ip)
{
	struct quota *q = ip->fs->quota;
	struct quota_owner owner;
	int err;

	if (!q || is_own_file(ip) || is_attached(q, ip))
		return 0;
	owners_of(ip, &owner);
	err = quota_prepare(ip->fs, &owner);
	return err < 0 ? err : quota_attach(ip);
}

void quota_unload(struct inode *ip)
{
	assert(ip->quota_promised == 0);
	memset(ip->dquots, 0, sizeof(ip->dquots));
	ip->quota_attached = false;
}

/* ---- limits ---------------------------------------------------------------------------------- */

static uint64_t now_seconds(void)
{
	int64_t sec;
	uint32_t nsec;

	clock_real(&sec, &nsec);
	return sec > 0 ? (uint64_t)sec : 0;
}

/* Q3: may @more be added? */
static bool allows(const struct dquot_account *a, uint64_t more, uint64_t now)
{
	uint64_t sum = a->used + a->promised + more;

	if (a->hard != 0 && sum > a->hard)
		return false;
	return a->soft == 0 || sum <= a->soft || a->deadline == 0 || now < a->deadline;
}

/* Sets or clears the deadline as the sum is now. */
static void update_deadline(struct dquot_account *a, uint32_t grace, uint64_t now)
{
	if (a->soft == 0 || a->used + a->promised <= a->soft)
		a->deadline = 0;
	else if (a->deadline == 0)
		a->deadline = now + (grace ? grace : GRACE_DEFAULT);
}

static int refuse(const struct dquot *dq, const char *what)
{
	return fail(-EDQUOT, "%s %u has no more %s: quota", quota_names[dq->type], dq->id, what);
}

/* What is to be added to, or taken from, the accounts of an inode's owners. */
struct change {
	int64_t bytes, inodes;
};

static int check_limits(struct dquot *const *dquots, const struct change *c)
{
	uint64_t now = now_seconds();

	for (unsigned type = 0; type < QUOTA_TYPES; type++) {
		const struct dquot *dq = dquots[type];

		if (!dq)
			continue;
		if (c->bytes > 0 && !allows(&dq->bytes, (uint64_t)c->bytes, now))
			return refuse(dq, "blocks");
		if (c->inodes > 0 && !allows(&dq->inodes, (uint64_t)c->inodes, now))
			return refuse(dq, "inodes");
	}
	return 0;
}

/* ---- charging -------------------------------------------------------------------------------- */

static int enter(struct handle *h, struct dquot *const *dquots)
{
	int err = 0;

	for (unsigned type = 0; type < QUOTA_TYPES && err == 0; type++) {
		if (dquots[type])
			err = handle_get_write(h, dquots[type]->buf);
	}
	return err;
}

/* A file system whose counts were wrong must not wrap them. */
static void add(struct dquot_account *a, int64_t delta)
{
	if (delta < 0 && a->used < (uint64_t)-delta)
		a->used = 0;
	else
		a->used += (uint64_t)delta;
}

/* The records are in the handle. */
static void apply(struct quota *q, struct handle *h, struct dquot *const *dquots,
		  const struct change *c)
{
	uint64_t now = now_seconds();

	for (unsigned type = 0; type < QUOTA_TYPES; type++) {
		struct dquot *dq = dquots[type];

		if (!dq)
			continue;
		add(&dq->bytes, c->bytes);
		add(&dq->inodes, c->inodes);
		update_deadline(&dq->bytes, q->file[type].grace_bytes, now);
		update_deadline(&dq->inodes, q->file[type].grace_inodes, now);
		encode(dq);
		handle_dirty(h, dq->buf);
	}
}

static int charge(struct handle *h, struct inode *ip, const struct change *c, bool limited)
{
	struct quota *q = ip->fs->quota;
	int err = 0;

	if (!q)
		return 0;
	mutex_lock(&q->lock);
	if (limited)
		err = check_limits(ip->dquots, c);
	if (err == 0)
		err = enter(h, ip->dquots);
	if (err == 0)
		apply(q, h, ip->dquots, c);
	mutex_unlock(&q->lock);
	return err;
}

/* What must be charged, or given back: if it cannot be, the journal is broken. */
static int must_charge(struct handle *h, struct inode *ip, const struct change *c)
{
	int err = charge(h, ip, c, false);

	if (err < 0)
		txn_log_abort(ip->fs->log, err);
	return err;
}

static int64_t bytes_of(const struct inode *ip, int64_t blocks)
{
	return blocks * (int64_t)ip->fs->geom.block_size;
}

uint32_t quota_credits(const struct uext4_fs *fs)
{
	uint32_t count = 0;

	for (unsigned type = 0; fs->quota && type < QUOTA_TYPES; type++)
		count += fs->quota->file[type].ip != NULL;
	return count;
}

int quota_charge_blocks(struct handle *h, struct inode *ip, int64_t blocks)
{
	const struct change c = { .bytes = bytes_of(ip, blocks) };

	return blocks < 0 ? must_charge(h, ip, &c) : charge(h, ip, &c, true);
}

int quota_charge_promised(struct handle *h, struct inode *ip, uint64_t blocks)
{
	const struct change c = { .bytes = bytes_of(ip, (int64_t)blocks) };

	return charge(h, ip, &c, false);
}

int quota_charge_inode(struct handle *h, struct inode *ip)
{
	const struct change c = { .inodes = 1 };

	return charge(h, ip, &c, true);
}

void quota_release_inode(struct handle *h, struct inode *ip)
{
	const struct change c = { .inodes = -1 };
	int err = must_charge(h, ip, &c);

	(void)err; /* the journal is aborted */
}

void quota_count_file(struct handle *h, struct inode *ip, bool counts)
{
	struct quota *q = ip->fs->quota;
	struct change c;
	int err = 0;

	if (!q)
		return;
	mutex_lock(&ip->raw_lock);
	c = (struct change){ .bytes = (int64_t)(inode_sectors(ip) << 9), .inodes = 1 };
	mutex_unlock(&ip->raw_lock);
	if (!counts)
		c = (struct change){ .bytes = -c.bytes, .inodes = -c.inodes };
	if (counts)
		err = quota_attach(ip);
	if (err < 0)
		txn_log_abort(ip->fs->log, err);
	else
		err = must_charge(h, ip, &c);
	if (!counts && err == 0) {
		mutex_lock(&q->lock);
		quota_unload(ip);
		mutex_unlock(&q->lock);
	}
}

/* ---- promises -------------------------------------------------------------------------------- */

int quota_reserve(struct inode *ip, uint64_t blocks)
{
	struct quota *q = ip->fs->quota;
	const struct change c = { .bytes = bytes_of(ip, (int64_t)blocks) };
	int err;

	if (!q)
		return 0;
	mutex_lock(&q->lock);
	err = check_limits(ip->dquots, &c);
	for (unsigned type = 0; type < QUOTA_TYPES && err == 0; type++) {
		struct dquot *dq = ip->dquots[type];

		if (!dq)
			continue;
		dq->bytes.promised += (uint64_t)c.bytes;
		update_deadline(&dq->bytes, q->file[type].grace_bytes, now_seconds());
	}
	if (err == 0)
		ip->quota_promised += (uint64_t)c.bytes;
	mutex_unlock(&q->lock);
	return err;
}

static void unpromise(struct dquot *const *dquots, uint64_t bytes)
{
	for (unsigned type = 0; type < QUOTA_TYPES; type++) {
		if (dquots[type]) {
			assert(dquots[type]->bytes.promised >= bytes);
			dquots[type]->bytes.promised -= bytes;
		}
	}
}

void quota_unreserve(struct inode *ip, uint64_t blocks)
{
	struct quota *q = ip->fs->quota;
	uint64_t bytes = (uint64_t)bytes_of(ip, (int64_t)blocks);

	if (!q)
		return;
	mutex_lock(&q->lock);
	assert(ip->quota_promised >= bytes);
	unpromise(ip->dquots, bytes);
	ip->quota_promised -= bytes;
	mutex_unlock(&q->lock);
}

/* ---- other owners ---------------------------------------------------------------------------- */

/* The accounts that lose the inode, and those that get it, but for owners that stay. */
struct move {
	struct dquot *from[QUOTA_TYPES], *to[QUOTA_TYPES];
};

static int move_plan(struct quota *q, struct inode *ip, const struct quota_owner *to,
		     struct move *ret) REQUIRES(&q->lock)
{
	*ret = (struct move){ 0 };
	for (unsigned type = 0; type < QUOTA_TYPES; type++) {
		struct dquot *from = ip->dquots[type];

		if (!from || from->id == to->id[type])
			continue;
		ret->from[type] = from;
		ret->to[type] = find(q, type, to->id[type]);
		if (!ret->to[type])
			return fail(-EIO, "%s quota: %u was not prepared", quota_names[type],
				    to->id[type]);
	}
	return 0;
}

static void move_promises(struct inode *ip, const struct move *m)
{
	unpromise(m->from, ip->quota_promised);
	for (unsigned type = 0; type < QUOTA_TYPES; type++) {
		if (!m->to[type])
			continue;
		m->to[type]->bytes.promised += ip->quota_promised;
		ip->dquots[type] = m->to[type];
	}
}

static int transfer_locked(struct quota *q, struct handle *h, struct inode *ip,
			   const struct quota_owner *to, const struct change *plus, bool limited)
	REQUIRES(&q->lock)
{
	const struct change wanted = { plus->bytes + (int64_t)ip->quota_promised, plus->inodes };
	const struct change minus = { -plus->bytes, -plus->inodes };
	struct move m;
	int err;

	err = move_plan(q, ip, to, &m);
	if (err == 0 && limited)
		err = check_limits(m.to, &wanted);
	if (err == 0)
		err = enter(h, m.from);
	if (err == 0)
		err = enter(h, m.to);
	if (err < 0)
		return err;
	move_promises(ip, &m);
	apply(q, h, m.from, &minus);
	apply(q, h, m.to, plus);
	return 0;
}

static int transfer(struct handle *h, struct inode *ip, const struct quota_owner *to, bool limited)
{
	struct quota *q = ip->fs->quota;
	struct change c;
	uint32_t values;
	int err;

	if (!q)
		return 0;
	err = xattr_count_ea(ip, &values);
	if (err < 0)
		return err;
	c.inodes = 1 + (int64_t)values;
	rwlock_write(&ip->map_lock); /* QA3 */
	mutex_lock(&ip->raw_lock);
	c.bytes = (int64_t)(inode_sectors(ip) << 9);
	mutex_unlock(&ip->raw_lock);
	mutex_lock(&q->lock);
	err = transfer_locked(q, h, ip, to, &c, limited);
	mutex_unlock(&q->lock);
	rwlock_write_unlock(&ip->map_lock);
	return err;
}

int quota_transfer(struct handle *h, struct inode *ip, const struct quota_owner *to)
{
	return transfer(h, ip, to, true);
}

int quota_transfer_back(struct handle *h, struct inode *ip, const struct quota_owner *to)
{
	return transfer(h, ip, to, false);
}

/* ---- open and close -------------------------------------------------------------------------- */

static uint32_t inum_of(const struct uext4_fs *fs, unsigned type)
{
	switch (type) {
	case 0: return le32_get(fs->super.s_usr_quota_inum);
	case 1: return le32_get(fs->super.s_grp_quota_inum);
	default:
		if (!geom_has_ro_compat(&fs->geom, EXT4_FEATURE_RO_COMPAT_PROJECT))
			return 0;
		return le32_get(fs->super.s_prj_quota_inum);
	}
}

static int open_files(struct uext4_fs *fs, struct quota *q)
{
	int err = 0;

	for (unsigned type = 0; type < QUOTA_TYPES && err == 0; type++) {
		uint32_t ino = inum_of(fs, type);

		if (ino != 0)
			err = quota_file_open(fs, type, ino, &q->file[type]);
	}
	return err;
}

int quota_open(struct uext4_fs *fs)
{
	struct quota *q;
	int err;

	/* The project feature alone keeps ids, and no accounts. */
	if (!geom_has_ro_compat(&fs->geom, EXT4_FEATURE_RO_COMPAT_QUOTA))
		return 0;
	q = mem_zalloc(sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->fs = fs;
	mutex_init(&q->lock, RANK_quota);
	for (unsigned type = 0; type < QUOTA_TYPES; type++)
		xarray_init(&q->dquots[type]);
	err = open_files(fs, q);
	fs->quota = q;
	if (err < 0)
		quota_close(fs);
	return err;
}

void quota_close(struct uext4_fs *fs)
{
	struct quota *q = fs->quota;

	if (!q)
		return;
	for (unsigned type = 0; type < QUOTA_TYPES; type++) {
		uint64_t id = 0;
		struct dquot *dq;

		while ((dq = xarray_next(&q->dquots[type], &id)) != NULL) {
			(void)xarray_remove(&q->dquots[type], id);
			dquot_free(dq);
		}
		xarray_finish(&q->dquots[type]);
		inode_put(q->file[type].ip);
	}
	mutex_finish(&q->lock);
	mem_free(q);
	fs->quota = NULL;
}
