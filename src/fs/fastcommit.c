/* SPDX-License-Identifier: MIT */
/*
 * What fast commits mean: tags that say in short what a transaction changed since the last full
 * commit.
 *
 * Tags are taken in order, each on top of what those before it left.  Inodes are rewritten in the
 * overlay; trees and directory blocks are not, as that would need an allocator: changed extents and
 * names are kept in memory (struct fc_inode), and map.c and dir.c ask there first.  The format says
 * little about what a tag does in odd cases, so the rule is: as the kernel's replay, whose result
 * others would see.
 *
 *  FC1  fs->fc stands on what the journal left, never on what an earlier run of this code left.
 *  FC2  Each name of a directory has one fc_dirent at most; the extents of an inode are sorted,
 *       inside the file system and without overlap.
 *  FC3  While tags are replayed, no inode or block is cached that is older than its last change.
 *  FC4  Every inode in the overlay has a right checksum and passes verify_inode(), or is not in
 *       use.
 *
 * Not followed, because only the kernel's run time knows: times of directories whose entries change
 * (the kernel puts the time of replay there), blocks a directory grows by, free counts of groups.
 */
#include "fs/fastcommit_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "base/sum.h"

#define S_TYPE_MASK 0170000u
#define S_TYPE_DIR 0040000u
#define DIR_INLINE_BYTES 60u
#define EXTENTS_IN_ROOT \
	((EXT4_I_BLOCK_BYTES - sizeof(struct ext4_extent_header)) / sizeof(struct ext4_extent))

struct fc_view {
	struct xarray inodes; /* number -> struct fc_inode */
};

/* Where a name leads: 0 nowhere. */
struct target {
	uint32_t ino;
	uint8_t type; /* EXT4_FT_* */
};

/* A fc_dirent that can be found by its name. */
struct entry {
	struct entry *same_hash;
	uint32_t dir;
	struct fc_dirent de; /* with its name behind it: must be last */
};

/*
 * A fc_inode and what only replay needs to know about it.  Names get into fc.dirents at the end:
 * until then they are found by `names`, and dir_find() need not walk over them.
 */
struct change {
	struct fc_inode fc;
	struct list present, gone;   /* of struct fc_dirent: with and without an inode */
	bool recounted;		     /* i_blocks was made by recount_blocks() */
	size_t loaded_extents;	     /* when extents were loaded, how many there were */
	uint64_t loaded_tree_blocks; /* and how many blocks their tree had */
};

struct replay {
	struct uext4_fs *fs;
	struct fc_view *view;
	struct xarray names; /* crc32c(directory, name) -> list of struct entry */
	uint8_t *block;	     /* of the inode table, with the inode at hand in it */
	blk_t blk;
	struct ext4_inode *raw; /* the inode at hand */
	uint32_t ino;
};

/* ---- tags ------------------------------------------------------------------------------------ */

bool fc_tag_next(const uint8_t *tags, size_t bytes, size_t *at, struct fc_tag *ret)
{
	struct ext4_fc_tl tl;

	if (*at == bytes)
		return false;
	assert(bytes - *at >= sizeof(tl));
	memcpy(&tl, tags + *at, sizeof(tl));
	*ret = (struct fc_tag){
		.tag = le16_get(tl.fc_tag),
		.value = tags + *at + sizeof(tl),
		.bytes = le16_get(tl.fc_len),
	};
	*at += sizeof(tl) + ret->bytes;
	assert(*at <= bytes);
	return true;
}

int fc_check_ino(const struct uext4_fs *fs, uint32_t ino)
{
	const struct geom *g = &fs->geom;

	if (ino > g->inodes || (ino < g->first_ino && ino != EXT4_ROOT_INO))
		return corrupt("inode %u is no file", ino);
	return 0;
}

int fc_read_add_range(const struct uext4_fs *fs, const uint8_t *value, uint32_t *ret_ino,
		      struct map_ext *ret_ext)
{
	const struct geom *g = &fs->geom;
	struct ext4_fc_add_range range;
	struct ext4_extent ex;
	struct map_ext ext = { .state = MAP_WRITTEN };

	memcpy(&range, value, sizeof(range));
	memcpy(&ex, range.fc_ex, sizeof(ex));
	ext.logical = le32_get(ex.ee_block);
	ext.count = le16_get(ex.ee_len);
	ext.physical = (blk_t)le16_get(ex.ee_start_hi) << 32 | le32_get(ex.ee_start_lo);
	if (ext.count > EXT_INIT_MAX_LEN) {
		ext.count -= EXT_INIT_MAX_LEN;
		ext.state = MAP_UNWRITTEN;
	}
	if (ext.count == 0 || ext.count > UINT32_MAX - ext.logical ||
	    ext.physical < g->first_data_block || ext.physical == 0 || ext.physical >= g->blocks ||
	    ext.count > g->blocks - ext.physical)
		return corrupt("inode %u: extent of %u blocks at %u, on disk at %llu",
			       le32_get(range.fc_ino), ext.count, ext.logical,
			       (unsigned long long)ext.physical);
	*ret_ino = le32_get(range.fc_ino);
	*ret_ext = ext;
	return 0;
}

void fc_read_del_range(const uint8_t *value, uint32_t *ret_ino, struct map_ext *ret_hole)
{
	struct ext4_fc_del_range range;
	struct map_ext hole = { .state = MAP_HOLE };

	memcpy(&range, value, sizeof(range));
	hole.logical = le32_get(range.fc_lblk);
	/* "To the end" may be more blocks than a file can have. */
	hole.count = (uint32_t)min_u64(le32_get(range.fc_len), UINT32_MAX - hole.logical);
	*ret_ino = le32_get(range.fc_ino);
	*ret_hole = hole;
}

int fc_read_dentry(const struct fc_tag *tag, struct fc_dentry *ret)
{
	struct ext4_fc_dentry_info info;
	struct fc_dentry d;

	memcpy(&info, tag->value, sizeof(info));
	d.dir = le32_get(info.fc_parent_ino);
	d.ino = le32_get(info.fc_ino);
	d.name = (const char *)tag->value + sizeof(info);
	d.name_len = tag->bytes - sizeof(info);
	if (name_is_dot(d.name, d.name_len) || name_is_dotdot(d.name, d.name_len) ||
	    memchr(d.name, '/', d.name_len) != NULL || memchr(d.name, '\0', d.name_len) != NULL)
		return corrupt("directory %u: this is no name for an entry", d.dir);
	*ret = d;
	return 0;
}

int fc_read_inode(const struct uext4_fs *fs, const struct fc_tag *tag, uint32_t *ret_ino,
		  struct ext4_inode *raw)
{
	size_t count = tag->bytes - sizeof(struct ext4_fc_inode);
	struct ext4_fc_inode head;

	memcpy(&head, tag->value, sizeof(head));
	if (count > fs->geom.inode_size)
		return corrupt("inode %u: has %zu bytes, %u at most", le32_get(head.fc_ino), count,
			       fs->geom.inode_size);
	memset(raw, 0, fs->geom.inode_size);
	memcpy(raw, tag->value + sizeof(head), count);
	*ret_ino = le32_get(head.fc_ino);
	return 0;
}

/* ---- the view -------------------------------------------------------------------------------- */

const struct fc_inode *fastcommit_inode(const struct fc_view *view, uint32_t ino)
{
	return xarray_find(&view->inodes, ino);
}

void fastcommit_destroy(struct fc_view *view)
{
	uint64_t index = 0;
	struct fc_inode *fc;

	if (view == NULL)
		return;
	for (; (fc = xarray_next(&view->inodes, &index)) != NULL; index++) {
		list_for_each_safe(pos, &fc->dirents) {
			struct fc_dirent *de = list_entry(pos, struct fc_dirent, link);

			mem_free(container_of(de, struct entry, de));
		}
		mem_free(fc->extents);
		mem_free(container_of(fc, struct change, fc));
	}
	xarray_finish(&view->inodes);
	mem_free(view);
}

/* Moves all entries of @from behind those of @to. */
static void entries_move(struct list *to, struct list *from)
{
	list_for_each_safe(pos, from) {
		list_del(pos);
		list_add_tail(to, pos);
	}
}

/* The end of replay: from now on dir.c finds the names. */
static void view_finish(struct fc_view *view)
{
	uint64_t index = 0;
	struct fc_inode *fc;

	for (; (fc = xarray_next(&view->inodes, &index)) != NULL; index++) {
		struct change *c = container_of(fc, struct change, fc);

		entries_move(&fc->dirents, &c->gone);
		entries_move(&fc->dirents, &c->present);
	}
}

/* No name that tags gave this directory leads anywhere now. */
static void entries_clear(struct change *c)
{
	list_for_each(pos, &c->present)
		list_entry(pos, struct fc_dirent, link)->ino = 0;
	entries_move(&c->gone, &c->present);
}

/* The changes of inode @ino, made up empty if there are none yet. */
static int change_of(struct replay *r, uint32_t ino, struct change **ret_change)
{
	struct fc_inode *fc = xarray_find(&r->view->inodes, ino);
	struct change *c;
	int err;

	if (fc != NULL) {
		*ret_change = container_of(fc, struct change, fc);
		return 0;
	}
	c = mem_zalloc(sizeof(*c));
	if (c == NULL)
		return -ENOMEM;
	c->fc.ino = ino;
	list_init(&c->fc.dirents);
	list_init(&c->present);
	list_init(&c->gone);
	err = xarray_insert(&r->view->inodes, ino, &c->fc);
	if (err < 0) {
		mem_free(c);
		return err;
	}
	*ret_change = c;
	return 0;
}

/* ---- inodes in the overlay ------------------------------------------------------------------- */

/*
 * A reference, or NULL without error for an inode that is not in use: tags about such a one are
 * void.
 */
static int get_used(struct replay *r, uint32_t ino, struct inode **ret_ip)
{
	int err;

	*ret_ip = NULL;
	err = fc_check_ino(r->fs, ino);
	if (err < 0)
		return err;
	err = inode_get(r->fs, ino, ret_ip);
	return err == -ESTALE ? 0 : err;
}

/* Makes @ino the inode at hand. */
static int raw_load(struct replay *r, uint32_t ino)
{
	uint32_t bs = r->fs->geom.block_size, offset;
	int err;

	err = fc_check_ino(r->fs, ino);
	if (err < 0)
		return err;
	err = inode_place(r->fs, ino, &r->blk, &offset);
	if (err < 0)
		return err;
	if (r->blk >= r->fs->geom.blocks)
		return corrupt("inode %u lies behind the end of the file system", ino);
	err = dev_read(r->fs->dev, r->blk * bs, r->block, bs);
	if (err < 0)
		return fail_in(err, "inode %u", ino);
	r->raw = (struct ext4_inode *)(void *)(r->block + offset);
	r->ino = ino;
	return 0;
}

/* Writes the inode at hand, and lets nobody go on with what was read of it before. */
static int raw_store(struct replay *r)
{
	const struct geom *g = &r->fs->geom;
	int err;

	if (geom_has_csum(g)) {
		uint32_t sum = verify_inode_checksum(g, r->ino, r->raw);

		r->raw->l_i_checksum_lo = le16_make((uint16_t)sum);
		if (g->inode_size > EXT4_GOOD_OLD_INODE_SIZE &&
		    EXT4_INODE_HAS(i_checksum_hi, le16_get(r->raw->i_extra_isize)))
			r->raw->i_checksum_hi = le16_make((uint16_t)(sum >> 16));
	}
	if (le16_get(r->raw->i_links_count) != 0) {
		err = verify_inode(g, r->ino, r->raw);
		if (err < 0)
			return err;
	}
	err = dev_write(r->fs->dev, r->blk * g->block_size, r->block, g->block_size);
	if (err < 0)
		return fail_in(err, "inode %u", r->ino);
	/* Its neighbours in the block are as they were. */
	icache_forget_one(r->fs->icache, r->ino);
	cache_forget_block(r->fs->cache, r->blk);
	return 0;
}

static void raw_set_blocks(struct replay *r, uint64_t blocks)
{
	r->raw->i_blocks_lo = le32_make((uint32_t)blocks);
	if (geom_has_ro_compat(&r->fs->geom, EXT4_FEATURE_RO_COMPAT_HUGE_FILE))
		r->raw->l_i_blocks_high = le16_make((uint16_t)(blocks >> 32));
}

/* i_blocks of @raw in blocks of the file system. */
static uint64_t raw_blocks(const struct replay *r, const struct ext4_inode *raw)
{
	uint64_t blocks = le32_get(raw->i_blocks_lo);

	if (geom_has_ro_compat(&r->fs->geom, EXT4_FEATURE_RO_COMPAT_HUGE_FILE))
		blocks |= (uint64_t)le16_get(raw->l_i_blocks_high) << 32;
	if (le32_get(raw->i_flags) & EXT4_HUGE_FILE_FL)
		return blocks;
	return blocks / (r->fs->geom.block_size / 512);
}

/* The same without the block of xattrs: data and tree. */
static uint64_t raw_file_blocks(const struct replay *r, const struct change *c,
				const struct ext4_inode *raw)
{
	uint64_t blocks = raw_blocks(r, raw);

	if (!c->recounted &&
	    (le32_get(raw->i_file_acl_lo) != 0 || le16_get(raw->l_i_file_acl_high) != 0))
		blocks -= min_u64(blocks, 1);
	return blocks;
}

/* ---- extents --------------------------------------------------------------------------------- */

/*
 * How many extents the array of an inode with @count has room for, at least: a power of two, so
 * that it need not be stored.
 */
static size_t extents_room(size_t count)
{
	size_t room = 8;

	while (room < count)
		room *= 2;
	return room;
}

static int extents_reserve(struct fc_inode *fc, size_t more)
{
	size_t room = extents_room(fc->extents_count + more);
	struct map_ext *extents;

	if (fc->extents != NULL && room == extents_room(fc->extents_count))
		return 0;
	extents = mem_realloc(fc->extents, room * sizeof(*extents));
	if (extents == NULL)
		return -ENOMEM;
	fc->extents = extents;
	return 0;
}

/* The inode has no blocks now, whatever its tree says. */
static void extents_clear(struct change *c)
{
	mem_free(c->fc.extents);
	c->fc.extents = NULL;
	c->fc.extents_count = 0;
	c->fc.has_extents = true;
	c->loaded_extents = 0;
	c->loaded_tree_blocks = 0;
}

static void extents_drop(struct change *c)
{
	extents_clear(c);
	c->fc.has_extents = false;
}

/* Reads all extents of @ip from its tree; as many as lie on disk, so bounded by that. */
static int extents_load(const struct replay *r, struct inode *ip, struct change *c)
{
	uint64_t data = 0, blocks = raw_file_blocks(r, c, ip->raw);
	struct fc_inode *fc = &c->fc;
	int err = 0;

	if (ip->state != INODE_BLOCKS && ip->state != INODE_EMPTY)
		return corrupt("inode %u: extents of an inode that has no blocks", ip->ino);
	assert(fc->extents_count == 0);
	for (lblk_t next = 0; next < UINT32_MAX && ip->state == INODE_BLOCKS;) {
		struct map_ext ext;

		err = map_read(ip, next, &ext);
		if (err < 0)
			break;
		next += ext.count;
		if (ext.state == MAP_HOLE)
			continue;
		err = extents_reserve(fc, 1);
		if (err < 0)
			break;
		fc->extents[fc->extents_count++] = ext;
		data += ext.count;
	}
	if (err < 0) {
		extents_drop(c);
		return err;
	}
	fc->has_extents = true;
	c->loaded_extents = fc->extents_count;
	c->loaded_tree_blocks = blocks - min_u64(blocks, data);
	return 0;
}

static bool extents_join(const struct map_ext *a, const struct map_ext *b)
{
	return a->logical + a->count == b->logical && a->physical + a->count == b->physical &&
	       a->state == b->state && a->count + b->count <= EXT_INIT_MAX_LEN;
}

/* Makes one of the extents at @i - 1 and @i, where they are one. */
static void extents_merge(struct fc_inode *fc, size_t i)
{
	struct map_ext *e = fc->extents;

	if (i == 0 || i >= fc->extents_count || !extents_join(&e[i - 1], &e[i]))
		return;
	e[i - 1].count += e[i].count;
	memmove(&e[i], &e[i + 1], (fc->extents_count - i - 1) * sizeof(*e));
	fc->extents_count--;
}

/* Index of the first extent that ends behind @logical. */
static size_t extents_search(const struct fc_inode *fc, lblk_t logical)
{
	size_t low = 0, high = fc->extents_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if ((uint64_t)fc->extents[mid].logical + fc->extents[mid].count <= logical)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/*
 * Puts @new in place of whatever its range maps now; a hole just takes that away.  The range may
 * cut the extents at its two ends, so a tag adds two at most:
 *
 *	before   |---- first ----|   |--|   |---- last ----|
 *	new              |=====================|
 *	after    |-------|=====================|-----------|
 */
static int extents_put(struct fc_inode *fc, const struct map_ext *new)
{
	uint64_t end = (uint64_t) new->logical + new->count;
	size_t from = extents_search(fc, new->logical), to = from, count = 0;
	struct map_ext piece[3];
	int err;

	err = extents_reserve(fc, 2);
	if (err < 0)
		return err;
	if (from < fc->extents_count && fc->extents[from].logical < new->logical) {
		piece[count] = fc->extents[from];
		piece[count++].count = new->logical - fc->extents[from].logical;
	}
	if (new->state != MAP_HOLE)
		piece[count++] = *new;
	while (to < fc->extents_count && fc->extents[to].logical < end)
		to++;
	if (to > from) {
		const struct map_ext *last = &fc->extents[to - 1];
		uint64_t last_end = (uint64_t)last->logical + last->count;

		if (last_end > end) {
			uint32_t cut = (uint32_t)(end - last->logical);

			piece[count++] = (struct map_ext){
				.logical = (lblk_t)end,
				.count = (uint32_t)(last_end - end),
				.physical = last->physical + cut,
				.state = last->state,
			};
		}
	}
	memmove(&fc->extents[from + count], &fc->extents[to],
		(fc->extents_count - to) * sizeof(*fc->extents));
	memcpy(&fc->extents[from], piece, count * sizeof(*piece));
	fc->extents_count = fc->extents_count - (to - from) + count;
	for (size_t i = from + count + 1; i-- > from;)
		extents_merge(fc, i);
	return 0;
}

/*
 * ADD_RANGE and DEL_RANGE.  Void for an inode that has no extent tree (yet): so is data that was
 * inline at the last full commit and outgrew the inode since, as its ranges come before the INODE
 * tag that gives it one.
 */
static int replay_range(struct replay *r, uint32_t ino, const struct map_ext *ext)
{
	struct inode *ip = NULL;
	struct change *c;
	int err;

	err = get_used(r, ino, &ip);
	if (err < 0 || ip == NULL)
		return err;
	if (inode_has_flag(ip, EXT4_EXTENTS_FL)) {
		err = change_of(r, ino, &c);
		if (err == 0 && !c->fc.has_extents)
			err = extents_load(r, ip, c);
		if (err == 0)
			err = extents_put(&c->fc, ext);
	}
	inode_put(ip);
	/* It may not know of @c yet. */
	icache_forget_one(r->fs->icache, ino);
	return err;
}

static int replay_add_range(struct replay *r, const uint8_t *value)
{
	struct map_ext ext;
	uint32_t ino = 0;
	int err;

	err = fc_read_add_range(r->fs, value, &ino, &ext);
	return err < 0 ? err : replay_range(r, ino, &ext);
}

static int replay_del_range(struct replay *r, const uint8_t *value)
{
	struct map_ext hole;
	uint32_t ino;

	fc_read_del_range(value, &ino, &hole);
	return hole.count == 0 ? 0 : replay_range(r, ino, &hole);
}

/* ---- whole inodes ---------------------------------------------------------------------------- */

/* Data blocks of an extent tree that consists of its root only. */
static uint64_t root_data_blocks(const uint8_t *body)
{
	struct ext4_extent_header eh;
	uint64_t count = 0;

	memcpy(&eh, body, sizeof(eh));
	for (size_t i = 0; i < le16_get(eh.eh_entries) && i < EXTENTS_IN_ROOT; i++) {
		struct ext4_extent ex;
		uint32_t len;

		memcpy(&ex, body + sizeof(eh) + i * sizeof(ex), sizeof(ex));
		len = le16_get(ex.ee_len);
		count += len > EXT_INIT_MAX_LEN ? len - EXT_INIT_MAX_LEN : len;
	}
	return count;
}

/*
 * How many blocks the tree of changed extents would have.  There is none to count, so this is an
 * estimate, right where the root is enough and where no leaf is split: as many as the tree had, at
 * least what that many extents need, and of a tree that loses extents the share that is left.
 */
static uint64_t tree_blocks(const struct replay *r, const struct change *c)
{
	const size_t room = (r->fs->geom.block_size - sizeof(struct ext4_extent_header)) /
			    sizeof(struct ext4_extent);
	uint64_t least = 0, blocks = c->loaded_tree_blocks;

	for (uint64_t nodes = c->fc.extents_count; nodes > EXTENTS_IN_ROOT;) {
		nodes = div_round_up(nodes, room);
		least += nodes;
	}
	if (c->fc.extents_count < c->loaded_extents)
		blocks = div_round_up(blocks * c->fc.extents_count, c->loaded_extents);
	return max_u64(least, blocks);
}

/*
 * i_blocks as the kernel's replay counts it: blocks of data and of the tree, without the block of
 * xattrs, which it forgets.  @before: what the inode had, right as long as its extents stay.
 */
static void recount_blocks(struct replay *r, struct change *c, uint64_t before)
{
	struct ext4_extent_header eh;
	uint64_t blocks = before, per = r->fs->geom.block_size / 512;
	uint32_t flags = le32_get(r->raw->i_flags) & ~EXT4_HUGE_FILE_FL;

	memcpy(&eh, r->raw->i_block, sizeof(eh));
	if (c->fc.has_extents) {
		blocks = tree_blocks(r, c);
		for (size_t i = 0; i < c->fc.extents_count; i++)
			blocks += c->fc.extents[i].count;
	} else if (le16_get(eh.eh_depth) == 0) {
		blocks = root_data_blocks((const uint8_t *)r->raw->i_block);
	}
	if (blocks * per >> 48 != 0) {
		flags |= EXT4_HUGE_FILE_FL;
		per = 1;
	}
	r->raw->i_flags = le32_make(flags);
	raw_set_blocks(r, blocks * per);
	c->recounted = true;
}

/*
 * INODE: all fields but i_block, which belongs to the extent tree.  A tree that never was (the
 * inode is new) begins empty.  What lives in i_block itself comes along; the kernel leaves fast
 * symlinks and device numbers out there and so breaks what it recovers, for which reason those
 * written of late have none of them.
 */
static int replay_inode(struct replay *r, const struct fc_tag *tag)
{
	const size_t block_at = offsetof(struct ext4_inode, i_block);
	const size_t behind = offsetof(struct ext4_inode, i_generation);
	const uint8_t *from = tag->value + sizeof(struct ext4_fc_inode);
	size_t count = tag->bytes - sizeof(struct ext4_fc_inode);
	struct ext4_extent_header eh;
	struct ext4_fc_inode head;
	struct change *c;
	uint64_t before;
	uint32_t flags;
	int err;

	memcpy(&head, tag->value, sizeof(head));
	if (count > r->fs->geom.inode_size)
		return corrupt("inode %u: has %zu bytes, %u at most", le32_get(head.fc_ino), count,
			       r->fs->geom.inode_size);
	err = raw_load(r, le32_get(head.fc_ino));
	if (err < 0)
		return err;
	err = change_of(r, r->ino, &c);
	if (err < 0)
		return err;

	before = raw_file_blocks(r, c, r->raw);
	memcpy(r->raw, from, block_at);
	memcpy((uint8_t *)r->raw + behind, from + behind, count - behind);
	flags = le32_get(r->raw->i_flags);
	if (flags & EXT4_EXTENTS_FL) {
		memcpy(&eh, r->raw->i_block, sizeof(eh));
		if (le16_get(eh.eh_magic) != EXT4_EXT_MAGIC) {
			eh = (struct ext4_extent_header){
				.eh_magic = le16_make(EXT4_EXT_MAGIC),
				.eh_max = le16_make(EXTENTS_IN_ROOT),
			};
			memcpy(r->raw->i_block, &eh, sizeof(eh));
			extents_clear(c);
		}
		recount_blocks(r, c, before);
	} else {
		memcpy(r->raw->i_block, from + block_at, EXT4_I_BLOCK_BYTES);
		extents_drop(c);
	}
	return raw_store(r);
}

/* The last link to the inode at hand is gone: what it held is, too. */
static int delete_inode(struct replay *r)
{
	struct change *c;
	int err;

	err = change_of(r, r->ino, &c);
	if (err < 0)
		return err;
	extents_clear(c);
	entries_clear(c);
	r->raw->i_size_lo = r->raw->i_size_high = le32_make(0);
	r->raw->i_dtime = r->raw->i_ctime;
	raw_set_blocks(r, 0);
	return 0;
}

static int change_links(struct replay *r, uint32_t ino, int by)
{
	uint32_t links;
	int err;

	err = raw_load(r, ino);
	if (err < 0)
		return err;
	links = le16_get(r->raw->i_links_count);
	links = by < 0 && links == 0 ? 0 : (links + (uint32_t)by) & 0xFFFF;
	r->raw->i_links_count = le16_make((uint16_t)links);
	if (links == 0) {
		err = delete_inode(r);
		if (err < 0)
			return err;
	}
	return raw_store(r);
}

/* ---- names ----------------------------------------------------------------------------------- */

static uint32_t name_hash(uint32_t dir, const void *name, size_t name_len)
{
	return crc32c(crc32c(0, &dir, sizeof(dir)), name, name_len);
}

static const struct fc_dirent *entry_find(const struct replay *r, uint32_t dir, const void *name,
					  size_t name_len)
{
	struct entry *e = xarray_find(&r->names, name_hash(dir, name, name_len));

	for (; e != NULL; e = e->same_hash) {
		if (e->dir == dir && e->de.name_len == name_len &&
		    memcmp(e->de.name, name, name_len) == 0)
			return &e->de;
	}
	return NULL;
}

/* From now on @name in directory @fc leads to @what. */
static int entry_set(struct replay *r, struct change *c, const char *name, size_t name_len,
		     struct target what)
{
	struct list *list = what.ino != 0 ? &c->present : &c->gone;
	uint32_t dir = c->fc.ino, hash = name_hash(dir, name, name_len);
	struct entry *e, *first = xarray_find(&r->names, hash);
	int err;

	for (e = first; e != NULL; e = e->same_hash) {
		if (e->dir == dir && e->de.name_len == name_len &&
		    memcmp(e->de.name, name, name_len) == 0) {
			e->de.ino = what.ino;
			e->de.type = what.type;
			list_del(&e->de.link);
			list_add_tail(list, &e->de.link);
			return 0;
		}
	}
	e = mem_zalloc(sizeof(*e) + name_len);
	if (e == NULL)
		return -ENOMEM;
	e->dir = dir;
	e->de.ino = what.ino;
	e->de.type = what.type;
	e->de.name_len = (uint8_t)name_len;
	memcpy(e->de.name, name, name_len);
	if (first != NULL) {
		e->same_hash = first->same_hash;
		first->same_hash = e;
	} else {
		err = xarray_insert(&r->names, hash, e);
		if (err < 0) {
			mem_free(e);
			return err;
		}
	}
	list_add_tail(list, &e->de.link);
	return 0;
}

/* A directory that replay made: nothing of it is on disk. */
static bool is_new_dir(const struct fc_inode *fc)
{
	return fc != NULL && fc->has_extents && fc->extents_count == 0;
}

/* The inode behind @d->name in directory @dir as the tags so far leave it, 0: none. */
static int find_name(struct replay *r, struct inode *dir, const struct fc_dentry *d,
		     uint32_t *ret_ino)
{
	const struct fc_dirent *said = entry_find(r, d->dir, d->name, d->name_len);
	int err;

	if (said != NULL || is_new_dir(fastcommit_inode(r->view, d->dir))) {
		*ret_ino = said != NULL ? said->ino : 0;
		return 0;
	}
	err = dir_find(dir, d->name, d->name_len, ret_ino);
	if (err == -ENOENT) {
		*ret_ino = 0;
		err = 0;
	}
	return err;
}

static uint8_t type_of(const struct replay *r, const struct inode *ip)
{
	static const uint8_t by_mode[16] = {
		[1] = EXT4_FT_FIFO,   [2] = EXT4_FT_CHRDEV,   [4] = EXT4_FT_DIR,
		[6] = EXT4_FT_BLKDEV, [8] = EXT4_FT_REG_FILE, [10] = EXT4_FT_SYMLINK,
		[12] = EXT4_FT_SOCK,
	};

	if (!geom_has_incompat(&r->fs->geom, EXT4_FEATURE_INCOMPAT_FILETYPE))
		return EXT4_FT_UNKNOWN;
	return by_mode[ip->type >> 12 & 15];
}

/*
 * Both ends of a LINK or UNLINK and what the name leads to now.  *ret_skip: one of them is not in
 * use, the tag is void.
 */
static int look_up(struct replay *r, const struct fc_dentry *d, struct target *ret_what,
		   uint32_t *ret_found, bool *ret_skip)
{
	struct inode *ip INODE_SCOPE = NULL, *dir INODE_SCOPE = NULL;
	int err;

	*ret_skip = true;
	err = get_used(r, d->ino, &ip);
	if (err < 0 || ip == NULL)
		return err;
	err = get_used(r, d->dir, &dir);
	if (err < 0 || dir == NULL)
		return err;
	if (!inode_is_dir(dir))
		return corrupt("inode %u: is no directory, but gets entries", d->dir);
	*ret_skip = false;
	*ret_what = (struct target){ .ino = d->ino, .type = type_of(r, ip) };
	return find_name(r, dir, d, ret_found);
}

/*
 * LINK, also as part of CREAT.  A name that is there already stays what it is, whoever it leads to.
 */
static int replay_link(struct replay *r, const struct fc_dentry *d)
{
	struct target what;
	struct change *c;
	uint32_t found;
	bool skip;
	int err;

	err = look_up(r, d, &what, &found, &skip);
	if (err < 0 || skip || found != 0)
		return err;
	err = change_of(r, d->dir, &c);
	if (err == 0)
		err = entry_set(r, c, d->name, d->name_len, what);
	if (err == 0)
		err = change_links(r, d->ino, 1);
	return err;
}

/*
 * UNLINK.  The inode loses a link also if its name leads to another one by now (it was renamed
 * over), but not if the name is gone.
 */
static int replay_unlink(struct replay *r, const struct fc_dentry *d)
{
	const struct target nothing = { 0 };
	struct target what;
	struct change *c;
	uint32_t found;
	bool skip;
	int err;

	err = look_up(r, d, &what, &found, &skip);
	if (err < 0 || skip || found == 0)
		return err;
	if (found == d->ino) {
		err = change_of(r, d->dir, &c);
		if (err == 0)
			err = entry_set(r, c, d->name, d->name_len, nothing);
		if (err < 0)
			return err;
	}
	return change_links(r, d->ino, -1);
}

/* Makes inode @ino, just created in directory @parent, an empty directory. */
static int make_dir(struct replay *r, uint32_t ino, uint32_t parent)
{
	const struct target up = { .ino = parent, .type = EXT4_FT_DIR };
	uint32_t size = r->fs->geom.block_size;
	struct ext4_dir_entry_2 free_entry;
	struct change *c;
	int err;

	err = raw_load(r, ino);
	if (err < 0)
		return err;
	err = change_of(r, ino, &c);
	if (err < 0)
		return err;
	entries_clear(c);
	if (le32_get(r->raw->i_flags) & EXT4_INLINE_DATA_FL) {
		uint8_t *body = (uint8_t *)r->raw->i_block;
		le32 dotdot = le32_make(parent);

		size = DIR_INLINE_BYTES;
		free_entry = (struct ext4_dir_entry_2){
			.rec_len = le16_make(DIR_INLINE_BYTES - sizeof(dotdot)),
		};
		memset(body, 0, DIR_INLINE_BYTES);
		memcpy(body, &dotdot, sizeof(dotdot));
		memcpy(body + sizeof(dotdot), &free_entry, sizeof(free_entry));
	} else {
		extents_clear(c);
		err = entry_set(r, c, "..", 2, up);
		if (err < 0)
			return err;
	}
	r->raw->i_size_lo = le32_make(size);
	r->raw->i_size_high = le32_make(0);
	return raw_store(r);
}

/*
 * CREAT: the inode was given by an INODE tag before.  It ends with one link, directories too, and a
 * new directory does not count as a link of its parent: this is what the kernel makes of it.
 */
static int replay_create(struct replay *r, const struct fc_dentry *d)
{
	struct inode *ip = NULL, *dir = NULL;
	bool is_dir, has_parent;
	int err;

	err = get_used(r, d->ino, &ip);
	if (err < 0)
		return err;
	if (ip == NULL)
		return corrupt("inode %u: created without having been written", d->ino);
	is_dir = inode_is_dir(ip);
	inode_put(ip);
	err = get_used(r, d->dir, &dir);
	if (err < 0)
		return err;
	has_parent = dir != NULL;
	inode_put(dir);
	if (is_dir && !has_parent)
		return 0;
	if (is_dir)
		err = make_dir(r, d->ino, d->dir);
	if (err == 0)
		err = replay_link(r, d);
	if (err == 0)
		err = raw_load(r, d->ino);
	if (err < 0)
		return err;
	r->raw->i_links_count = le16_make(1);
	return raw_store(r);
}

/* ---- the row of tags ------------------------------------------------------------------------- */

static int replay_tag(struct replay *r, const struct fc_tag *tag)
{
	struct fc_dentry d;
	int err;

	switch (tag->tag) {
	case EXT4_FC_TAG_ADD_RANGE: return replay_add_range(r, tag->value);
	case EXT4_FC_TAG_DEL_RANGE: return replay_del_range(r, tag->value);
	case EXT4_FC_TAG_INODE: return replay_inode(r, tag);
	default: break;
	}
	err = fc_read_dentry(tag, &d);
	if (err < 0)
		return err;
	switch (tag->tag) {
	case EXT4_FC_TAG_CREAT: return replay_create(r, &d);
	case EXT4_FC_TAG_LINK: return replay_link(r, &d);
	default: assert(tag->tag == EXT4_FC_TAG_UNLINK); return replay_unlink(r, &d);
	}
}

static int replay_tags(struct replay *r, const uint8_t *tags, size_t bytes)
{
	struct fc_tag tag;
	size_t at = 0;
	int err = 0;

	while (err == 0 && fc_tag_next(tags, bytes, &at, &tag))
		err = replay_tag(r, &tag);
	return err;
}

int fastcommit_replay(struct uext4_fs *fs, const uint8_t *tags, size_t bytes)
{
	struct replay r = { .fs = fs };
	int err;

	assert(fs->fc == NULL);
	r.view = mem_zalloc(sizeof(*r.view));
	if (r.view == NULL)
		return -ENOMEM;
	xarray_init(&r.view->inodes);
	xarray_init(&r.names);
	/* Already now, so that inodes loaded on the way see what the tags so far have changed. */
	fs->fc = r.view;
	r.block = mem_alloc(fs->geom.block_size);
	err = r.block == NULL ? -ENOMEM : replay_tags(&r, tags, bytes);
	mem_free(r.block);
	view_finish(r.view);
	xarray_finish(&r.names);
	return err;
}
