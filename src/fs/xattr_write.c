/* SPDX-License-Identifier: MIT */
/*
 * Extended attributes as they change.
 *
 * Where an attribute goes is decided as the kernel decides it: the body if it fits there, else the
 * block, else (feature ea_inode) an inode of its own, which is also where very large values go at
 * once.  An attribute that grows moves on, one that shrinks moves back.
 *
 *  W1  A change is worked out in memory first (struct work), from what is there under xattr_lock;
 *      entries change only under the inode's lock, so that it comes out the same as when the
 *      credits were counted.
 *  W2  Then everything that can fail is done, or taken back; then the change is made, and only the
 *      end of the journal could stop it.
 *  W3  A block that several inodes use, or that another could find meanwhile, does not change: the
 *      inode gets another one (xattr_share.c).
 *  W4  Data inside the inode keeps at least the room that its size needs (M12): for an attribute
 *      that does not fit otherwise it gives away what it does not need, and no more.
 */
#include "fs/balloc.h"
#include "fs/quota.h"
#include "fs/xattr_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "disk/seal.h"

#include <inttypes.h>

#define CHANGES_MAX 4u
#define BODIES 3u /* copies of an area that working it out takes */
#define BLOCKS 2u

/* A value from which on it is not tried to have it anywhere but in an inode of its own. */
#define LARGE_VALUE_BYTES(block_size) \
	((block_size)-EXT4_XATTR_LEN(3) - sizeof(struct ext4_xattr_header) - 4)
/* What values leave free of a block for entries whose values are elsewhere. */
#define BLOCK_RESERVE_BYTES(block_size) min_u64((block_size) / 8, 1024)

static const struct xattr_key inline_data_key = { EXT4_XATTR_INDEX_SYSTEM, INLINE_DATA_NAME,
						  INLINE_DATA_NAME_LEN };
static const struct xattr_key capability_key = { EXT4_XATTR_INDEX_SECURITY, "capability", 10 };

/* ---- what is to be done ---------------------------------------------------------------------- */

struct change {
	struct xattr_key key;
	const void *value;
	uint32_t size;
	bool remove;
	uint32_t flags; /* enum xattr_set_flag */
	bool is_done;	/* there is nothing to do */
	bool wants_ea;
	struct inode *ea;     /* has the new value */
	struct inode *old_ea; /* has the value that goes */
	uint32_t old_inum, old_size;
};

struct xattr_batch {
	struct inode *ip;
	struct change changes[CHANGES_MAX];
	uint32_t count;
	bool sets_mode;
	uint16_t mode;
	bool shares; /* a block or an inode with a value changes its references, or might */
	uint32_t credits;
	struct ea_delta *deltas;
	uint32_t deltas_count, deltas_max;
	uint8_t *bodies[BODIES], *blocks[BLOCKS]; /* memory for struct work */
	uint8_t *memory;			  /* all of it */
};

int xattr_batch_create(struct inode *ip, struct xattr_batch **ret)
{
	uint32_t body_bytes = ip->fs->geom.inode_size, block_bytes = ip->fs->geom.block_size;
	struct xattr_batch *b = mem_zalloc(sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->ip = ip;
	b->memory = mem_alloc((size_t)BODIES * body_bytes + (size_t)BLOCKS * block_bytes);
	if (!b->memory) {
		mem_free(b);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < BODIES; i++)
		b->bodies[i] = b->memory + (size_t)i * body_bytes;
	for (unsigned i = 0; i < BLOCKS; i++)
		b->blocks[i] = b->memory + (size_t)BODIES * body_bytes + (size_t)i * block_bytes;
	*ret = b;
	return 0;
}

static void put_deltas(struct xattr_batch *b)
{
	for (uint32_t i = 0; i < b->deltas_count; i++)
		inode_put(b->deltas[i].ea);
	b->deltas_count = 0;
}

/* What preparing brought. */
static void put_values(struct xattr_batch *b)
{
	for (uint32_t i = 0; i < b->count; i++) {
		inode_put(b->changes[i].ea);
		inode_put(b->changes[i].old_ea);
		b->changes[i].ea = b->changes[i].old_ea = NULL;
		b->changes[i].wants_ea = b->changes[i].is_done = false;
	}
	mem_free(b->deltas);
	b->deltas = NULL;
}

void xattr_batch_destroy(struct xattr_batch *b)
{
	if (!b)
		return;
	put_deltas(b);
	put_values(b);
	mem_free(b->memory);
	mem_free(b);
}

void xattr_batch_add(struct xattr_batch *b, const struct xattr_change *change)
{
	assert(b->count < CHANGES_MAX);
	b->changes[b->count++] = (struct change){
		.key = { change->index, change->name, change->name_len },
		.value = change->value,
		.size = (uint32_t)change->size,
		.remove = change->value == NULL,
		.flags = change->flags,
	};
}

void xattr_batch_set_mode(struct xattr_batch *b, uint16_t permissions)
{
	b->sets_mode = true;
	b->mode = permissions;
}

/* ---- working it out -------------------------------------------------------------------------- */

/* The two areas as they will be. */
struct work {
	const struct inode *ip;
	struct xattr_area body, block;
	bool body_changed, block_changed;
	uint8_t *body_spare[BODIES - 1], *block_spare[BLOCKS - 1];
};

/* @block: what the inode has now, or NULL.  Requires xattr_lock. */
static void work_init(const struct xattr_batch *b, const struct buf *block, struct work *w)
{
	const struct geom *g = &b->ip->fs->geom;

	*w = (struct work){
		.ip = b->ip,
		.body = xattr_body_area(b->ip),
		.block = xattr_block_area(g, b->blocks[0]),
		.body_spare = { b->bodies[1], b->bodies[2] },
		.block_spare = { b->blocks[1] },
	};
	if (w->body.base) {
		memcpy(b->bodies[0], w->body.base, w->body.end);
		w->body.base = b->bodies[0];
	}
	/* Not the header: who shares the block may change the number of its users now. */
	if (block)
		memcpy(b->blocks[0] + w->block.first, block->data + w->block.first,
		       w->block.end - w->block.first);
	else
		memset(b->blocks[0], 0, g->block_size);
}

/*
 * e2fsck passes over all blocks of a symlink whose target is inside, also that of its attributes,
 * and would free it: such a symlink gets none.
 */
static bool may_have_block(const struct inode *ip)
{
	return !(inode_is_lnk(ip) && ip->state == INODE_INLINE);
}

static int edit_block(struct work *w, const struct xattr_edit *edit)
{
	struct xattr_area to = w->block;
	int err;

	if (!edit->remove && !may_have_block(w->ip))
		return -ENOSPC;

	to.base = w->block_spare[0];
	err = xattr_area_edit(&w->block, edit, &to);
	if (err < 0)
		return err;
	w->block_spare[0] = w->block.base;
	w->block = to;
	w->block_changed = true;
	return 0;
}

/* What system.data of @w could give away (W4): false, or how it is to be done. */
static bool inline_data_slack(const struct work *w, struct xattr_edit *ret)
{
	const struct xattr_row row = xattr_area_row(&w->body);
	const struct inode *ip = w->ip;
	const struct ext4_xattr_entry *entry;
	uint64_t wanted = 0;

	if (ip->state != INODE_INLINE || !inode_is_reg(ip))
		return false;
	entry = xattr_row_find(&row, &inline_data_key);
	if (ip->size > EXT4_I_BLOCK_BYTES)
		wanted = ip->size - EXT4_I_BLOCK_BYTES;
	if (!entry || le32_get(entry->e_value_size) <= wanted)
		return false;
	*ret = (struct xattr_edit){
		.key = inline_data_key,
		.size = (uint32_t)wanted,
		.value = row.base + le16_get(entry->e_value_offs),
		.value_bytes = (uint32_t)wanted,
	};
	return true;
}

static int edit_body(struct work *w, const struct xattr_edit *edit)
{
	struct xattr_area to = w->body, smaller = w->body;
	struct xattr_edit shrink;
	int err;

	if (!w->body.base)
		return -ENOSPC;
	to.base = w->body_spare[0];
	smaller.base = w->body_spare[1];
	to.is_blank = smaller.is_blank = false;
	err = xattr_area_edit(&w->body, edit, &to);
	if (err == -ENOSPC && inline_data_slack(w, &shrink)) {
		err = xattr_area_edit(&w->body, &shrink, &smaller);
		if (err == 0)
			err = xattr_area_edit(&smaller, edit, &to);
	}
	if (err < 0)
		return err;
	w->body_spare[0] = w->body.base;
	w->body = to;
	w->body_changed = true;
	return 0;
}

static const struct ext4_xattr_entry *find_in(const struct xattr_area *area,
					      const struct xattr_key *key)
{
	const struct xattr_row row = xattr_area_row(area);

	return xattr_row_find(&row, key);
}

static int work_remove(struct work *w, const struct change *c)
{
	const struct xattr_edit edit = { .key = c->key, .remove = true };

	if (find_in(&w->body, &c->key))
		return edit_body(w, &edit);
	if (find_in(&w->block, &c->key))
		return edit_block(w, &edit);
	return 0;
}

/* What @inum holds is the value, unless that is 0. */
static int work_set(struct work *w, const struct change *c, uint32_t inum, uint32_t hash)
{
	const struct xattr_edit remove = { .key = c->key, .remove = true };
	const uint32_t block_size = w->ip->fs->geom.block_size;
	struct xattr_edit edit = {
		.key = c->key,
		.size = c->size,
		.value = c->value,
		.value_bytes = inum == 0 ? c->size : 0,
		.inum = inum,
		.hash = hash,
	};
	int err;

	if (xattr_has_ea_inode(w->ip->fs))
		edit.values_min = (uint32_t)BLOCK_RESERVE_BYTES(block_size);
	if (inum == 0 && c->wants_ea)
		return -ENOSPC;
	err = edit_body(w, &edit);
	if (err == 0)
		return find_in(&w->block, &c->key) ? edit_block(w, &remove) : 0;
	if (err != -ENOSPC)
		return err;
	err = edit_block(w, &edit);
	if (err == 0 && find_in(&w->body, &c->key))
		err = edit_body(w, &remove);
	return err;
}

static int work_change(struct work *w, const struct change *c)
{
	if (c->is_done)
		return 0;
	if (c->remove)
		return work_remove(w, c);
	if (c->ea)
		return work_set(w, c, c->ea->ino, ea_inode_hash(c->ea));
	return work_set(w, c, 0, 0);
}

/* ---- preparing ------------------------------------------------------------------------------- */

static bool is_same(const struct xattr_row *row, const struct ext4_xattr_entry *entry,
		    const struct change *c)
{
	return !c->remove && le32_get(entry->e_value_inum) == 0 &&
	       le32_get(entry->e_value_size) == c->size &&
	       (c->size == 0 ||
		memcmp(row->base + le16_get(entry->e_value_offs), c->value, c->size) == 0);
}

/*
 * May @ip have values in inodes of their own?  Not in short symlinks: they would count in i_blocks,
 * and e2fsck, which tells a short target from a block by i_blocks, would clear it.
 */
static bool may_have_values(const struct inode *ip)
{
	return xattr_has_ea_inode(ip->fs) && ip->state != INODE_FAST;
}

/* Looks at what is there of @c; *@w becomes what it will be. */
static int examine(struct work *w, struct change *c)
{
	const uint32_t block_size = w->ip->fs->geom.block_size;
	struct xattr_row row = xattr_area_row(&w->body);
	const struct ext4_xattr_entry *entry = xattr_row_find(&row, &c->key);
	int err;

	if (!entry) {
		row = xattr_area_row(&w->block);
		entry = xattr_row_find(&row, &c->key);
	}
	if (entry && (c->flags & XATTR_SET_CREATE))
		return fail(-EEXIST, "inode %u has that attribute", w->ip->ino);
	if (!entry && (c->flags & XATTR_SET_REPLACE))
		return fail(-ENODATA, "inode %u has no such attribute", w->ip->ino);
	if (entry ? is_same(&row, entry, c) : c->remove) {
		c->is_done = true;
		return 0;
	}
	if (entry) {
		c->old_inum = le32_get(entry->e_value_inum);
		c->old_size = le32_get(entry->e_value_size);
	}
	if (c->remove)
		return work_remove(w, c);

	c->wants_ea = may_have_values(w->ip) &&
		      round_up_pow2(c->size, EXT4_XATTR_PAD) > LARGE_VALUE_BYTES(block_size);
	err = work_set(w, c, 0, 0);
	if (err == -ENOSPC && may_have_values(w->ip) && c->size > 0) {
		c->wants_ea = true;
		err = work_set(w, c, UINT32_MAX, 0); /* some number: the entry takes its room */
	}
	if (err == -ENOSPC)
		return fail(err, "inode %u: no room for an attribute of %u bytes", w->ip->ino,
			    c->size);
	return err;
}

/* Counts what an apply may touch.  @body_ea, @block_ea: entries now with values in inodes. */
static void count_credits(struct xattr_batch *b, const struct work *w, uint32_t body_ea,
			  uint32_t block_ea)
{
	uint32_t changed = 0, ea_changed = 0;

	for (uint32_t i = 0; i < b->count; i++) {
		const struct change *c = &b->changes[i];

		if (c->is_done)
			continue;
		changed++;
		ea_changed += c->wants_ea + (c->old_inum != 0);
	}
	b->shares = w->block_changed || ea_changed > 0;
	b->credits = xattr_set_credits(b->ip, 0) + ea_changed * EA_DELTA_ORPHAN_CREDITS;
	if (w->block_changed)
		b->credits += block_ea * EA_DELTA_CREDITS;
	b->deltas_max = b->shares ? body_ea + block_ea + ea_changed : 0;
	if (changed == 0 && !b->sets_mode)
		b->credits = 0;
}

static int examine_all(struct xattr_batch *b)
{
	struct inode *ip = b->ip;
	struct buf *block BUF_SCOPE = NULL;
	struct xattr_row body_row, block_row;
	uint32_t body_ea, block_ea;
	struct work w;
	int err;

	rwlock_read(&ip->xattr_lock);
	err = xattr_block_read(ip, &block);
	if (err == 0) {
		work_init(b, block, &w);
		body_row = xattr_area_row(&w.body);
		block_row = xattr_area_row(&w.block);
		body_ea = xattr_row_count_ea(&body_row);
		block_ea = xattr_row_count_ea(&block_row);
		for (uint32_t i = 0; i < b->count && err == 0; i++)
			err = examine(&w, &b->changes[i]);
		count_credits(b, &w, body_ea, block_ea);
	}
	rwlock_read_unlock(&ip->xattr_lock);
	return err;
}

/* Inodes with values that come and go. */
static int get_values(struct xattr_batch *b, struct change *c)
{
	int err = 0;

	if (c->old_inum != 0 && !c->is_done) {
		err = ea_inode_get(b->ip, c->old_inum, c->old_size, &c->old_ea);
		if (err == 0)
			err = quota_load(c->old_ea);
	}
	if (err == 0 && c->wants_ea && !c->is_done)
		err = ea_inode_make(b->ip, c->value, c->size, &c->ea);
	return err;
}

/* Without handles, if the new values need none: then they fit into body and block. */
static int prepare(struct xattr_batch *b, bool may_start_handles)
{
	int err;

	err = examine_all(b);
	if (err == 0 && b->deltas_max > 0) {
		b->deltas = mem_calloc(b->deltas_max, sizeof(*b->deltas));
		if (!b->deltas)
			err = -ENOMEM;
	}
	for (uint32_t i = 0; i < b->count && err == 0; i++) {
		if (b->changes[i].wants_ea && !may_start_handles)
			return fail(-ENOSPC, "inode %u: no room for an attribute of %u bytes",
				    b->ip->ino, b->changes[i].size);
		err = get_values(b, &b->changes[i]);
	}
	return err;
}

/* Is it worth making room for a block of attributes? */
static bool could_fit_block(const struct xattr_batch *b)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < b->count; i++)
		bytes += b->changes[i].size;
	return bytes < LARGE_VALUE_BYTES(b->ip->fs->geom.block_size);
}

int xattr_batch_prepare(struct xattr_batch *b)
{
	int err;

	err = quota_load(b->ip);
	if (err < 0)
		return err;
	err = prepare(b, true);
	if (err == -ENOSPC && !may_have_block(b->ip) && could_fit_block(b)) {
		put_values(b);
		err = inline_symlink_to_block(b->ip);
		if (err == 0)
			err = prepare(b, true);
	}
	return err;
}

uint32_t xattr_batch_credits(const struct xattr_batch *b)
{
	return b->credits;
}

/* ---- references to inodes with values -------------------------------------------------------- */

/* The inode @inum, if a change brought it along. */
static struct inode *known_ea(const struct xattr_batch *b, uint32_t inum)
{
	for (uint32_t i = 0; i < b->count; i++) {
		const struct change *c = &b->changes[i];

		if (c->ea && c->ea->ino == inum)
			return c->ea;
		if (c->old_ea && c->old_ea->ino == inum)
			return c->old_ea;
	}
	return NULL;
}

static void add_delta(struct xattr_batch *b, uint32_t inum, uint32_t size, int32_t refs)
{
	struct ea_delta *d = b->deltas;

	for (uint32_t i = 0; i < b->deltas_count; i++, d++) {
		if (d->inum == inum) {
			d->refs += refs;
			return;
		}
	}
	assert(b->deltas_count < b->deltas_max);
	*d = (struct ea_delta){ .inum = inum, .size = size, .refs = refs };
	b->deltas_count++;
}

/* Every entry of @area adds @refs to the inode that has its value. */
static void add_deltas(struct xattr_batch *b, const struct xattr_area *area, int32_t refs)
{
	const struct xattr_row row = xattr_area_row(area);

	xattr_row_for_each(entry, &row)
	{
		if (le32_get(entry->e_value_inum) != 0)
			add_delta(b, le32_get(entry->e_value_inum), le32_get(entry->e_value_size),
				  refs);
	}
}

/* The inodes of what does not come to nothing; the rest is dropped. */
static int load_deltas(struct xattr_batch *b)
{
	uint32_t kept = 0;
	int err = 0;

	for (uint32_t i = 0; i < b->deltas_count && err == 0; i++) {
		struct ea_delta *d = &b->deltas[kept];

		*d = b->deltas[i];
		if (d->refs == 0)
			continue;
		d->ea = known_ea(b, d->inum);
		if (d->ea)
			inode_ref(d->ea);
		else
			err = ea_inode_get(b->ip, d->inum, d->size, &d->ea);
		kept += err == 0;
	}
	b->deltas_count = kept;
	return err;
}

/* Entries that come to stand somewhere, or stop doing so. */
static int collect_deltas(struct xattr_batch *b, const struct work *w,
			  const struct xattr_block_move *move)
{
	const struct xattr_area body = xattr_body_area(b->ip);
	struct xattr_area old = { 0 };

	if (!b->deltas)
		return 0;
	if (move->old)
		old = xattr_block_area(&b->ip->fs->geom, move->old->data);
	add_deltas(b, &body, -1);
	add_deltas(b, &w->body, 1);
	if (move->step == XATTR_BLOCK_EDIT || move->old_ends)
		add_deltas(b, &old, -1);
	if (move->step == XATTR_BLOCK_EDIT || move->step == XATTR_BLOCK_NEW)
		add_deltas(b, &w->block, 1);
	return load_deltas(b);
}

/* ---- applying -------------------------------------------------------------------------------- */

void xattr_body_install(struct inode *ip, const struct xattr_area *area)
{
	const struct xattr_area own = xattr_body_area(ip);
	struct ext4_xattr_ibody_header *header = (void *)(own.base - sizeof(*header));
	bool is_empty = xattr_area_is_empty(area);

	assert(own.base && own.end == area->end);
	mutex_lock(&ip->raw_lock);
	header->h_magic = le32_make(is_empty ? 0 : EXT4_XATTR_MAGIC);
	memcpy(own.base, area->base, area->end);
	mutex_unlock(&ip->raw_lock);
}

/* The first attribute of an image that has had none. */
static int note_feature(struct handle *h, struct uext4_fs *fs)
{
	if (geom_has_compat(&fs->geom, EXT4_FEATURE_COMPAT_EXT_ATTR))
		return 0;
	return fs_set_compat(h, fs, EXT4_FEATURE_COMPAT_EXT_ATTR);
}

static int prepare_deltas(struct handle *h, struct xattr_batch *b)
{
	for (uint32_t i = 0; i < b->deltas_count; i++) {
		int err = ea_delta_prepare(h, b->ip, &b->deltas[i]);

		if (err == 0)
			continue;
		while (i-- > 0)
			ea_delta_undo(h, &b->deltas[i]);
		return err;
	}
	return 0;
}

/* W2: all that can fail, or nothing. */
static int apply_prepare(struct handle *h, struct xattr_batch *b, struct xattr_block_move *move,
			 const struct xattr_usage *more)
{
	struct inode *ip = b->ip;
	int err;

	err = xattr_reserve_store(h, ip);
	if (err == 0)
		err = note_feature(h, ip->fs);
	if (err == 0)
		err = xattr_usage_charge(h, ip, more);
	if (err < 0)
		return err;
	err = prepare_deltas(h, b);
	if (err == 0) {
		err = xattr_block_prepare(h, ip, move);
		for (uint32_t i = 0; err < 0 && i < b->deltas_count; i++)
			ea_delta_undo(h, &b->deltas[i]);
	}
	if (err < 0)
		xattr_usage_release(h, ip, more);
	return err;
}

/* From here on: only abort. */
static void apply_commit(struct handle *h, struct xattr_batch *b, const struct work *w,
			 const struct xattr_block_move *move, const struct xattr_usage *more)
{
	const struct xattr_usage less = { -more->blocks, -more->inodes };
	struct inode *ip = b->ip;
	blk_t blk;
	int err;

	xattr_block_commit(h, ip, &w->block, move, &blk);
	for (uint32_t i = 0; i < b->deltas_count; i++)
		ea_delta_commit(h, &b->deltas[i]);
	if (w->body_changed)
		xattr_body_install(ip, &w->body);
	if (blk != xattr_block_blk(ip))
		xattr_block_set_blk(ip, blk);
	inode_add_blocks(ip, more->blocks);
	xattr_usage_release(h, ip, &less);
	if (b->sets_mode)
		inode_set_mode(ip, b->mode);
	inode_touch(ip, INODE_CTIME);
	err = inode_store(h, ip);
	if (err < 0)
		txn_log_abort(ip->fs->log, err);
}

static int apply_locked(struct handle *h, struct xattr_batch *b, struct xattr_block_move *move)
	REQUIRES(&b->ip->xattr_lock)
{
	const struct geom *g = &b->ip->fs->geom;
	const struct xattr_area none = { 0 }, body = xattr_body_area(b->ip);
	struct xattr_area block = none;
	struct xattr_usage more = { 0 };
	struct work w;
	int err;

	err = xattr_block_read(b->ip, &move->old);
	if (err < 0)
		return err;
	if (move->old)
		block = xattr_block_area(g, move->old->data);
	work_init(b, move->old, &w);
	for (uint32_t i = 0; i < b->count && err == 0; i++)
		err = work_change(&w, &b->changes[i]);
	if (err < 0)
		return err;
	xattr_usage_count(g, &body, -1, &more);
	xattr_usage_count(g, &block, -1, &more);
	if (b->shares) {
		if (w.block_changed)
			xattr_block_decide(b->ip, &w.block, move);
		err = collect_deltas(b, &w, move);
	}
	xattr_usage_count(g, &w.body, 1, &more);
	if (w.block_changed)
		block = xattr_area_is_empty(&w.block) ? none : w.block;
	xattr_usage_count(g, &block, 1, &more);
	if (err == 0)
		err = apply_prepare(h, b, move, &more);
	if (err == 0)
		apply_commit(h, b, &w, move, &more);
	return err;
}

int xattr_batch_apply(struct handle *h, struct xattr_batch *b)
{
	struct xattr_block_move move = { 0 };
	int err;

	if (b->credits == 0)
		return 0;
	put_deltas(b); /* of an apply before this one, which failed */
	if (b->shares)
		xattr_share_lock(b->ip->fs);
	rwlock_write(&b->ip->xattr_lock);
	err = apply_locked(h, b, &move);
	rwlock_write_unlock(&b->ip->xattr_lock);
	if (b->shares)
		xattr_share_unlock(b->ip->fs);
	buf_put(move.old);
	buf_put(move.target);
	return err;
}

static int apply_in_handle(struct xattr_batch *b)
{
	struct handle *h;
	int err;

	err = handle_start(b->ip->fs->log, b->credits, &h);
	if (err < 0)
		return err;
	err = xattr_batch_apply(h, b);
	return first_error(err, handle_stop(h));
}

int xattr_batch_run(struct xattr_batch *b)
{
	unsigned tries = 0;
	int err;

	err = xattr_batch_prepare(b);
	if (err < 0 || b->credits == 0)
		return err;
	do
		err = apply_in_handle(b);
	while (ea_commit_for_space(b->ip->fs, err, &tries));
	return err;
}

/* ---- setting --------------------------------------------------------------------------------- */

uint32_t xattr_set_credits(const struct inode *ip, size_t size)
{
	/* The inode, the superblock, and its block. */
	return INODE_STORE_CREDITS + 1 + XATTR_BLOCK_CREDITS + quota_credits(ip->fs);
}

int xattr_set_handle(struct handle *h, struct inode *ip, uint8_t index, const char *name,
		     size_t name_len, const void *value, size_t size)
{
	const struct xattr_change change = {
		.index = index,
		.name = name,
		.name_len = name_len,
		.value = value,
		.size = size,
	};
	struct xattr_batch *b;
	int err;

	err = xattr_batch_create(ip, &b);
	if (err < 0)
		return err;
	xattr_batch_add(b, &change);
	err = prepare(b, false);
	if (err == 0)
		err = xattr_batch_apply(h, b);
	xattr_batch_destroy(b);
	return err;
}

/* Of the kinds that are shown some cannot be set. */
static int parse_settable(const char *name, struct xattr_key *ret)
{
	size_t len = strlen(name);

	if (len == 0 || len > XATTR_NAME_BYTES_MAX)
		return fail(-ERANGE, "a name of %zu bytes", len);
	if (xattr_is_prefix_alone(name) && strcmp(name, "system.") != 0)
		return fail(-EINVAL, "attribute %s: the kind alone is no name", name);
	if (!xattr_key_parse(name, ret) || ret->index == EXT4_XATTR_INDEX_SYSTEM ||
	    ret->index == EXT4_XATTR_INDEX_RICHACL)
		return fail(-EOPNOTSUPP, "attribute %s: there is no such kind", name);
	return 0;
}

static int set_plain(struct inode *ip, const struct xattr_key *key, const void *value, size_t size,
		     uint32_t flags)
{
	const struct xattr_change change = {
		.index = key->index,
		.name = key->name,
		.name_len = key->name_len,
		.value = value,
		.size = size,
		.flags = flags | (value ? 0u : XATTR_SET_REPLACE),
	};
	struct xattr_batch *b;
	int err;

	err = xattr_batch_create(ip, &b);
	if (err < 0)
		return err;
	xattr_batch_add(b, &change);
	err = xattr_batch_run(b);
	xattr_batch_destroy(b);
	return err;
}

int xattr_set(struct inode *ip, const char *name, const void *value, size_t size, uint32_t flags)
{
	struct xattr_key key;
	int err;

	err = parse_settable(name, &key);
	if (err < 0)
		return err;
	if (size > XATTR_VALUE_BYTES_MAX)
		return fail(-E2BIG, "attribute %s: a value of %zu bytes", name, size);
	if (xattr_index_is_acl(key.index))
		return acl_set(ip, key.index, value, size);
	return set_plain(ip, &key, value, size, flags);
}

bool xattr_has_capability(struct inode *ip)
{
	struct buf *block BUF_SCOPE = NULL;
	struct xattr_area area;
	bool found;

	rwlock_read(&ip->xattr_lock);
	area = xattr_body_area(ip);
	found = find_in(&area, &capability_key) != NULL;
	if (!found && xattr_block_read(ip, &block) == 0 && block) {
		area = xattr_block_area(&ip->fs->geom, block->data);
		found = find_in(&area, &capability_key) != NULL;
	}
	rwlock_read_unlock(&ip->xattr_lock);
	return found;
}

void xattr_batch_add_drop_capability(struct xattr_batch *b)
{
	xattr_batch_add(b, &(struct xattr_change){ .index = capability_key.index,
						   .name = capability_key.name,
						   .name_len = capability_key.name_len });
}

int xattr_drop_capability(struct inode *ip)
{
	struct xattr_batch *b;
	int err;

	if (!xattr_has_capability(ip))
		return 0;
	err = xattr_batch_create(ip, &b);
	if (err < 0)
		return err;
	xattr_batch_add_drop_capability(b);
	err = xattr_batch_run(b);
	xattr_batch_destroy(b);
	return err;
}

/* ---- more room for fields -------------------------------------------------------------------- */

bool xattr_expand(struct inode *ip)
{
	const struct geom *g = &ip->fs->geom;
	struct xattr_area area;
	uint32_t extra, by;
	uint8_t *at;
	bool fits = true;

	if (g->inode_size == EXT4_GOOD_OLD_INODE_SIZE)
		return false;
	extra = le16_get(ip->raw->i_extra_isize); /* which nobody else changes */
	if (extra >= g->extra_isize_want)
		return false;
	by = g->extra_isize_want - extra;
	rwlock_write(&ip->xattr_lock);
	mutex_lock(&ip->raw_lock);
	at = (uint8_t *)ip->raw + EXT4_GOOD_OLD_INODE_SIZE + extra;
	area = xattr_body_area(ip);
	if (area.base && !area.is_blank) {
		fits = xattr_area_shift(&area, by);
		if (fits)
			memmove(at + by, at, sizeof(struct ext4_xattr_ibody_header));
	}
	if (fits) {
		memset(at, 0, by);
		ip->raw->i_extra_isize = le16_make((uint16_t)(extra + by));
	}
	mutex_unlock(&ip->raw_lock);
	rwlock_write_unlock(&ip->xattr_lock);
	return fits;
}
