/* SPDX-License-Identifier: MIT */
/*
 * Quota files: a tree over blocks of records (disk/format.h).
 *
 * Finds the record of an id, or makes one.  What records say is quota.c's.  Records are never
 * removed: an owner who uses nothing costs 72 bytes.
 *
 *  QF1  A block of the file that is led to lies behind the root and inside the file, and levels
 *       are four: no walk depends on more of what the disk says.
 *  QF2  A new record is whole or not there: all blocks it takes are had, and all that change are
 *       read, before the first byte changes.
 *  QF3  The size of the file is that of its blocks, used or not: zeros up to the end.
 *  QF4  What is in a record is read and changed under the lock of struct quota: charges write into
 *       the records beside the one that is looked for.
 */
#include "fs/quota_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#define NEW_BLOCKS_MAX QUOTA_DEPTH /* three levels below the root, and one of records */

const char *const quota_names[QUOTA_TYPES] = { "user", "group", "project" };

/* ---- blocks ---------------------------------------------------------------------------------- */

/* A quota block where it lies: several may share a buffer. */
struct qblock {
	struct buf *buf;
	uint8_t *data;
	uint32_t number;
};

static int verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return 0; /* nothing tells what such a block is; what it says is checked when it is used */
}

static const struct buf_ops quota_ops = { .name = "quota block", .verify = verify };

static uint32_t file_blocks(const struct quota_file *f)
{
	return (uint32_t)min_u64(f->ip->size >> QUOTA_BLOCK_BITS, UINT32_MAX);
}

static lblk_t logical_of(const struct quota_file *f, uint32_t number)
{
	return (lblk_t)(((uint64_t)number << QUOTA_BLOCK_BITS) >> f->ip->fs->geom.block_bits);
}

static int block_get(const struct quota_file *f, uint32_t number, struct qblock *ret)
{
	const struct geom *g = &f->ip->fs->geom;
	uint32_t at = (uint32_t)(((uint64_t)number << QUOTA_BLOCK_BITS) & (g->block_size - 1));
	struct buf *buf;
	int err;

	if (number >= file_blocks(f))
		return corrupt("%s quota: block %u of %u", quota_names[f->type], number,
			       file_blocks(f));
	err = map_read_buf(f->ip, logical_of(f, number), &quota_ops, NULL, &buf);
	if (err < 0)
		return fail_in(err, "%s quota", quota_names[f->type]);
	*ret = (struct qblock){ .buf = buf, .data = buf->data + at, .number = number };
	return 0;
}

static void block_put(struct qblock *b)
{
	buf_put(b->buf);
	b->buf = NULL;
}

static le32 *ref_of(const struct qblock *node, uint32_t id, uint32_t level)
{
	return (le32 *)(void *)node->data + (id >> 8 * (QUOTA_DEPTH - 1 - level) & 0xff);
}

static struct qt_disk_dqdbheader *records_head(const struct qblock *b)
{
	return (void *)b->data;
}

static struct v2r1_disk_dqblk *record_at(const struct qblock *b, uint32_t index)
{
	return (struct v2r1_disk_dqblk *)(void *)(records_head(b) + 1) + index;
}

static struct v2_disk_dqinfo *info_of(const struct qblock *first)
{
	return (void *)(first->data + sizeof(struct v2_disk_dqheader));
}

static bool record_is_used(const struct v2r1_disk_dqblk *record)
{
	static const struct v2r1_disk_dqblk unused;

	return memcmp(record, &unused, sizeof(unused)) != 0;
}

static bool record_is_of(const struct v2r1_disk_dqblk *record, uint32_t id)
{
	return le32_get(record->dqb_id) == id && record_is_used(record);
}

/* ---- opening --------------------------------------------------------------------------------- */

int quota_file_open(struct uext4_fs *fs, unsigned type, uint32_t ino, struct quota_file *f)
{
	static const uint32_t magics[QUOTA_TYPES] = { QUOTA_MAGIC_USER, QUOTA_MAGIC_GROUP,
						      QUOTA_MAGIC_PROJECT };
	const struct v2_disk_dqheader *head;
	struct qblock first;
	int err;

	*f = (struct quota_file){ .type = (uint8_t)type };
	err = inode_get(fs, ino, &f->ip);
	if (err < 0)
		return fail_in(err, "%s quota", quota_names[type]);
	if (!inode_is_reg(f->ip) || f->ip->state != INODE_BLOCKS)
		return corrupt("%s quota: inode %u is no file", quota_names[type], ino);
	err = block_get(f, 0, &first);
	if (err < 0)
		return err;
	head = (const void *)first.data;
	if (le32_get(head->dqh_magic) != magics[type] ||
	    le32_get(head->dqh_version) != QUOTA_VERSION)
		err = corrupt("%s quota: magic number is %08x, version %u", quota_names[type],
			      le32_get(head->dqh_magic), le32_get(head->dqh_version));
	else if (le32_get(info_of(&first)->dqi_blocks) > file_blocks(f) ||
		 le32_get(info_of(&first)->dqi_blocks) <= QUOTA_ROOT_BLOCK)
		err = corrupt("%s quota: %u blocks in a file of %u", quota_names[type],
			      le32_get(info_of(&first)->dqi_blocks), file_blocks(f));
	f->grace_bytes = le32_get(info_of(&first)->dqi_bgrace);
	f->grace_inodes = le32_get(info_of(&first)->dqi_igrace);
	block_put(&first);
	return err;
}

/* ---- finding --------------------------------------------------------------------------------- */

/*
 * The way to an id: node[0] is the root; nodes is how many of its levels are there.  With
 * has_records the last level leads on.
 */
struct way {
	struct qblock node[QUOTA_DEPTH];
	uint32_t nodes;
	uint32_t records; /* the block of records; 0: there is none */
};

static void way_finish(struct way *w)
{
	for (uint32_t i = 0; i < QUOTA_DEPTH; i++)
		block_put(&w->node[i]);
}

static int way_find(const struct quota_file *f, uint32_t id, struct way *w)
{
	uint32_t number = QUOTA_ROOT_BLOCK;

	*w = (struct way){ 0 };
	while (w->nodes < QUOTA_DEPTH && number != 0) {
		int err;

		/* QF1 */
		if (w->nodes > 0 && number <= QUOTA_ROOT_BLOCK)
			return corrupt("%s quota: the tree leads to block %u", quota_names[f->type],
				       number);
		err = block_get(f, number, &w->node[w->nodes]);
		if (err < 0)
			return err;
		number = le32_get(*ref_of(&w->node[w->nodes], id, w->nodes));
		w->nodes++;
	}
	w->records = number;
	return 0;
}

static int find_in_records(const struct quota_file *f, uint32_t number, uint32_t id,
			   struct buf **ret_buf, uint32_t *ret_offset)
{
	struct quota *q = f->ip->fs->quota;
	uint32_t index = 0;
	struct qblock b;
	int err;

	if (number <= QUOTA_ROOT_BLOCK)
		return corrupt("%s quota: records in block %u", quota_names[f->type], number);
	err = block_get(f, number, &b);
	if (err < 0)
		return err;
	mutex_lock(&q->lock);
	while (index < QUOTA_RECORDS_PER_BLOCK && !record_is_of(record_at(&b, index), id))
		index++;
	mutex_unlock(&q->lock);
	if (index == QUOTA_RECORDS_PER_BLOCK) {
		block_put(&b);
		return corrupt("%s quota: block %u holds no record of %u", quota_names[f->type],
			       number, id);
	}
	*ret_offset = (uint32_t)((const uint8_t *)record_at(&b, index) - b.buf->data);
	*ret_buf = b.buf;
	return 0;
}

/* ---- making ---------------------------------------------------------------------------------- */

/* Everything a new record touches. */
struct making {
	struct quota_file *f;
	struct handle *h;
	uint32_t id;
	struct way way;
	struct qblock first;		     /* header and info */
	struct qblock fresh[NEW_BLOCKS_MAX]; /* taken from the end, in order of use */
	uint32_t fresh_count, fresh_used;
	struct qblock records; /* the block that gets the record */
	struct qblock behind;  /* that follows it among those with room */
};

static void making_finish(struct making *m)
{
	way_finish(&m->way);
	block_put(&m->first);
	for (uint32_t i = 0; i < NEW_BLOCKS_MAX; i++)
		block_put(&m->fresh[i]);
	block_put(&m->records);
	block_put(&m->behind);
}

static uint32_t credits(const struct quota_file *f)
{
	/* New blocks of the file; the blocks named in struct making; the inode for its size. */
	return map_credits_for(f->ip, NEW_BLOCKS_MAX) + 2 * NEW_BLOCKS_MAX + 4 +
	       INODE_STORE_CREDITS;
}

/* The file gets another block, of the file system. */
static int grow(struct making *m)
{
	struct inode *ip = m->f->ip;
	const struct geom *g = &ip->fs->geom;
	lblk_t logical = (lblk_t)div_round_up(ip->size, g->block_size);
	uint64_t size = ((uint64_t)logical + 1) << g->block_bits;
	struct buf *buf = NULL;
	int err;

	/* A part of the last block may lie behind the end. */
	if (ip->size % g->block_size != 0) {
		size = round_up_pow2(ip->size, g->block_size);
	} else {
		err = map_add_buf(m->h, ip, logical, &quota_ops, &buf);
		if (err < 0)
			return fail_in(err, "%s quota", quota_names[m->f->type]);
		handle_dirty(m->h, buf);
		buf_put(buf);
	}
	rwlock_write(&ip->xattr_lock);
	ip->size = size;
	rwlock_write_unlock(&ip->xattr_lock);
	inode_set_disk_size(ip, size);
	return inode_store(m->h, ip);
}

/* Takes @count quota blocks from the end, zeroed.  Those that others freed are left alone. */
static int take_fresh(struct making *m, uint32_t count)
{
	uint32_t number = le32_get(info_of(&m->first)->dqi_blocks);

	assert(count <= NEW_BLOCKS_MAX);
	if (number > UINT32_MAX - count)
		return fail(-ENOSPC, "%s quota: it is full", quota_names[m->f->type]);
	for (; m->fresh_count < count; m->fresh_count++, number++) {
		struct qblock *b = &m->fresh[m->fresh_count];
		int err = 0;

		if (number >= file_blocks(m->f))
			err = grow(m);
		if (err == 0)
			err = block_get(m->f, number, b);
		if (err == 0)
			err = handle_get_write(m->h, b->buf);
		if (err < 0)
			return err;
	}
	return 0;
}

/* The block with room for a record: one that is there, or a fresh one. */
static int find_room(struct making *m, bool *ret_fresh)
{
	uint32_t number = le32_get(info_of(&m->first)->dqi_free_entry), next;
	int err;

	*ret_fresh = number == 0;
	if (*ret_fresh)
		return 0;
	if (number <= QUOTA_ROOT_BLOCK)
		return corrupt("%s quota: records in block %u", quota_names[m->f->type], number);
	err = block_get(m->f, number, &m->records);
	if (err < 0)
		return err;
	next = le32_get(records_head(&m->records)->dqdh_next_free);
	if (le16_get(records_head(&m->records)->dqdh_entries) + 1u < QUOTA_RECORDS_PER_BLOCK ||
	    next == 0)
		return 0;
	return block_get(m->f, next, &m->behind);
}

static int enter_all(struct making *m)
{
	struct qblock *const touched[] = { &m->first, &m->records, &m->behind,
					   &m->way.node[m->way.nodes - 1] };
	int err = 0;

	for (size_t i = 0; i < ARRAY_SIZE(touched) && err == 0; i++) {
		if (touched[i]->buf)
			err = handle_get_write(m->h, touched[i]->buf);
	}
	return err;
}

static struct qblock *use_fresh(struct making *m)
{
	struct v2_disk_dqinfo *info = info_of(&m->first);
	struct qblock *b = &m->fresh[m->fresh_used++];

	assert(m->fresh_used <= m->fresh_count);
	memset(b->data, 0, QUOTA_BLOCK_BYTES);
	info->dqi_blocks = le32_make(b->number + 1);
	return b;
}

/* The index of what was the first unused record and is that of m->id now (QF4). */
static uint32_t fill_unused(struct making *m)
{
	struct quota *q = m->f->ip->fs->quota;
	uint32_t index = 0;

	mutex_lock(&q->lock);
	while (index < QUOTA_RECORDS_PER_BLOCK && record_is_used(record_at(&m->records, index)))
		index++;
	if (index < QUOTA_RECORDS_PER_BLOCK)
		*record_at(&m->records, index) = (struct v2r1_disk_dqblk){
			.dqb_id = le32_make(m->id),
			.dqb_itime = le64_make(m->id == 0), /* all zero would be no record */
		};
	mutex_unlock(&q->lock);
	return index;
}

/* The record goes into m->records.  If it was the last one, that has no more room. */
static int put_record(struct making *m, uint32_t *ret_offset)
{
	struct qt_disk_dqdbheader *head = records_head(&m->records);
	struct v2_disk_dqinfo *info = info_of(&m->first);
	uint32_t index = fill_unused(m);

	if (index == QUOTA_RECORDS_PER_BLOCK)
		return corrupt("%s quota: block %u is said to have room", quota_names[m->f->type],
			       m->records.number);
	head->dqdh_entries = le16_make((uint16_t)(le16_get(head->dqdh_entries) + 1));
	if (le16_get(head->dqdh_entries) >= QUOTA_RECORDS_PER_BLOCK) {
		info->dqi_free_entry = head->dqdh_next_free;
		if (m->behind.buf)
			records_head(&m->behind)->dqdh_prev_free = le32_make(0);
		head->dqdh_next_free = head->dqdh_prev_free = le32_make(0);
	} else {
		info->dqi_free_entry = le32_make(m->records.number);
	}
	*ret_offset = (uint32_t)((uint8_t *)record_at(&m->records, index) - m->records.buf->data);
	return 0;
}

/* From the last node that is there down to the block of records. */
static void put_way(struct making *m)
{
	struct qblock *node = &m->way.node[m->way.nodes - 1];

	for (uint32_t level = m->way.nodes - 1; level < QUOTA_DEPTH; level++) {
		struct qblock *below = level + 1 < QUOTA_DEPTH ? use_fresh(m) : &m->records;

		*ref_of(node, m->id, level) = le32_make(below->number);
		node = below;
	}
}

static void dirty_all(struct making *m)
{
	handle_dirty(m->h, m->first.buf);
	handle_dirty(m->h, m->records.buf);
	handle_dirty(m->h, m->way.node[m->way.nodes - 1].buf);
	if (m->behind.buf)
		handle_dirty(m->h, m->behind.buf);
	for (uint32_t i = 0; i < m->fresh_count; i++)
		handle_dirty(m->h, m->fresh[i].buf);
}

/* In its handle. */
static int make_record(struct making *m, uint32_t *ret_offset)
{
	bool fresh_records = false;
	int err;

	err = block_get(m->f, 0, &m->first);
	if (err == 0)
		err = find_room(m, &fresh_records);
	if (err == 0)
		err = take_fresh(m, QUOTA_DEPTH - m->way.nodes + fresh_records);
	if (err == 0)
		err = enter_all(m);
	if (err < 0)
		return err;
	if (fresh_records) {
		m->records = *use_fresh(m);
		buf_get(m->records.buf);
	}
	err = put_record(m, ret_offset);
	if (err < 0)
		return err;
	put_way(m);
	dirty_all(m);
	return 0;
}

static int make(struct quota_file *f, uint32_t id, const struct way *way, struct buf **ret_buf,
		uint32_t *ret_offset)
{
	struct making m = { .f = f, .id = id, .way = *way };
	uint32_t offset = 0;
	int err;

	err = handle_start(f->ip->fs->log, credits(f), &m.h);
	if (err == 0) {
		err = make_record(&m, &offset);
		err = first_error(err, handle_stop(m.h));
	}
	if (err == 0) {
		buf_get(m.records.buf);
		*ret_buf = m.records.buf;
		*ret_offset = offset;
	}
	making_finish(&m);
	return err;
}

static int find_locked(struct quota_file *f, uint32_t id, struct buf **ret_buf,
		       uint32_t *ret_offset)
{
	struct way way;
	int err;

	err = way_find(f, id, &way);
	if (err == 0 && way.records == 0)
		return make(f, id, &way, ret_buf, ret_offset);
	if (err == 0)
		err = find_in_records(f, way.records, id, ret_buf, ret_offset);
	way_finish(&way);
	return err;
}

int quota_file_find(struct quota_file *f, uint32_t id, struct buf **ret_buf, uint32_t *ret_offset)
{
	int err;

	inode_lock(f->ip, INODE_QUOTA);
	err = find_locked(f, id, ret_buf, ret_offset);
	inode_unlock(f->ip);
	return err;
}
