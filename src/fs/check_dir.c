/* SPDX-License-Identifier: MIT */
/*
 * Directories: every entry of every one.
 *
 * Blocks are read in logical order; of an indexed directory the tree was walked before and has told
 * what hashes each leaf may have.  Names are kept to find those that are there twice: of one leaf
 * where a tree parts them, else of the whole directory.
 */
#include "fs/check_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <inttypes.h>

#define ENTRY_BLOCKS_MAX (1u << 28) /* blocks a directory may have: what its index can name */

/* ---- names that were seen -------------------------------------------------------------------- */

/* A hash table over a heap of names; both only grow, and are emptied at once. */
struct names {
	struct name_slot {
		uint32_t hash;
		uint32_t at; /* in heap, plus 1; 0: empty */
	} * slots;
	size_t slots_count; /* a power of two */
	size_t used;
	uint8_t *heap; /* a byte of length, then the name */
	size_t heap_used, heap_room;
	uint64_t secret;
};

static uint32_t name_hash(const struct names *n, const uint8_t *name, size_t len)
{
	uint64_t hash = n->secret ^ len;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ name[i]) * 0x9E3779B97F4A7C15ull ^ hash >> 29;
	return (uint32_t)(hash >> 32);
}

static void names_reset(struct names *n)
{
	if (n->used > 0)
		memset(n->slots, 0, n->slots_count * sizeof(*n->slots));
	n->used = 0;
	n->heap_used = 0;
}

static void names_finish(struct names *n)
{
	mem_free(n->slots);
	mem_free(n->heap);
}

static int names_rehash(struct names *n)
{
	size_t count = n->slots_count ? n->slots_count * 2 : 1024;
	struct name_slot *slots = mem_calloc(count, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < n->slots_count; i++) {
		size_t at = n->slots[i].hash & (count - 1);

		if (n->slots[i].at == 0)
			continue;
		while (slots[at].at != 0)
			at = (at + 1) & (count - 1);
		slots[at] = n->slots[i];
	}
	mem_free(n->slots);
	n->slots = slots;
	n->slots_count = count;
	return 0;
}

static int names_make_room(struct names *n, size_t len)
{
	uint8_t *heap;
	size_t room;

	if (n->used * 2 >= n->slots_count) {
		int err = names_rehash(n);

		if (err < 0)
			return err;
	}
	if (n->heap_room - n->heap_used > len)
		return 0;
	room = n->heap_room ? n->heap_room * 2 : 65536;
	if (room > UINT32_MAX)
		return fail(-ENOMEM, "a directory has more than 4 GiB of names");
	heap = mem_realloc(n->heap, room);
	if (!heap)
		return -ENOMEM;
	n->heap = heap;
	n->heap_room = room;
	return 0;
}

static int names_add(struct names *n, const uint8_t *name, uint8_t len, bool *ret_twice)
{
	uint32_t hash = name_hash(n, name, len);
	size_t at;
	int err;

	err = names_make_room(n, len + 1u);
	if (err < 0)
		return err;
	*ret_twice = false;
	for (at = hash & (n->slots_count - 1); n->slots[at].at != 0;
	     at = (at + 1) & (n->slots_count - 1)) {
		const uint8_t *other = n->heap + n->slots[at].at - 1;

		if (n->slots[at].hash != hash || other[0] != len ||
		    memcmp(other + 1, name, len) != 0)
			continue;
		*ret_twice = true;
		return 0;
	}
	n->slots[at] = (struct name_slot){ hash, (uint32_t)n->heap_used + 1 };
	n->heap[n->heap_used] = len;
	memcpy(n->heap + n->heap_used + 1, name, len);
	n->heap_used += len + 1u;
	n->used++;
	return 0;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static const struct map_ext *extent_of(const struct check_dir_reader *r, lblk_t logical)
{
	const struct map_ext *exts = r->ck->dir_extents + r->dir->extents;
	size_t low = 0, high = r->dir->extents_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (exts[middle].logical <= logical)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0 || logical - exts[low - 1].logical >= exts[low - 1].count)
		return NULL;
	return &exts[low - 1];
}

const uint8_t *check_dir_block(struct check_dir_reader *r, lblk_t logical, blk_t *ret_blk)
{
	const struct geom *g = r->ck->g;
	const struct map_ext *ext = extent_of(r, logical);
	bool sequential = logical == r->first + r->count || r->dir->blocks <= 16;
	uint32_t skip;

	/* A hole, or blocks that were never written: said with its size. */
	if (!ext || ext->state != MAP_WRITTEN)
		return NULL;
	skip = logical - ext->logical;
	*ret_blk = ext->physical + skip;
	if (logical < r->first || logical - r->first >= r->count) {
		r->first = logical;
		r->count = 1;
		if (sequential || logical == 0)
			r->count = (uint32_t)min_u64(ext->count - skip,
						     CHECK_WINDOW_BYTES >> g->block_bits);
		if (!check_read(r->ck, *ret_blk, r->count, r->ck->window)) {
			r->count = 0;
			return NULL;
		}
	}
	return r->ck->window + ((size_t)(logical - r->first) << g->block_bits);
}

/* ---- entries --------------------------------------------------------------------------------- */

/* One directory while it is looked at. */
struct scan {
	struct check *ck;
	struct check_dir *dir;
	struct check_dir_reader reader;
	struct verify_inode vi;
	struct names *names;		   /* of this leaf, or of the directory */
	struct names *border;		   /* of hashes that two leaves may share */
	const struct check_dx_block *leaf; /* NULL: hashes do not matter */
	uint8_t version;		   /* of the hash, with leaf */
	bool has_dot, has_dotdot;
};

static void entry_problem(const struct scan *s, const struct ext4_dir_entry_2 *de, const char *what)
{
	char name[CHECK_NAME_BYTES];

	check_problem(s->ck, "directory %u, entry \"%s\" (inode %u): %s", s->dir->ino,
		      check_name(name, de->name, de->name_len), le32_get(de->inode), what);
}

/* What an entry's file_type must be for an inode of type @type (S_IFMT >> 12). */
static uint8_t file_type_of(uint8_t type)
{
	switch (type) {
	case 0100000 >> 12: return EXT4_FT_REG_FILE;
	case 0040000 >> 12: return EXT4_FT_DIR;
	case 0020000 >> 12: return EXT4_FT_CHRDEV;
	case 0060000 >> 12: return EXT4_FT_BLKDEV;
	case 0010000 >> 12: return EXT4_FT_FIFO;
	case 0140000 >> 12: return EXT4_FT_SOCK;
	case 0120000 >> 12: return EXT4_FT_SYMLINK;
	default: return EXT4_FT_UNKNOWN;
	}
}

static void check_file_type(struct scan *s, const struct ext4_dir_entry_2 *de, uint8_t type)
{
	bool has = geom_has_incompat(s->ck->g, EXT4_FEATURE_INCOMPAT_FILETYPE);
	uint8_t wanted = has ? file_type_of(type) : 0;

	if (de->file_type != wanted)
		entry_problem(s, de,
			      has ? "its type is not that of the inode"
				  : "it has a type without the feature filetype");
}

static void found_parent(struct scan *s, const struct ext4_dir_entry_2 *de)
{
	struct check_dir *child = check_dir_find(s->ck, le32_get(de->inode));

	if (child->ino == EXT4_ROOT_INO)
		entry_problem(s, de, "it leads to the root directory");
	else if (child->ino == s->dir->ino)
		entry_problem(s, de, "it leads to its own directory");
	else if (child->parent != 0)
		entry_problem(s, de, "a directory with a second name");
	else
		child->parent = s->dir->ino;
}

/* The inode an entry leads to. */
static void check_target(struct scan *s, const struct ext4_dir_entry_2 *de, bool is_dots)
{
	uint32_t ino = le32_get(de->inode);
	struct check_ino *target = check_ino(s->ck, ino);

	if (!check_ino_known(s->ck, ino))
		return;
	if (ino < s->ck->g->first_ino && ino != EXT4_ROOT_INO) {
		entry_problem(s, de, "it leads to a reserved inode");
		return;
	}
	if (!target || !(target->state & CHECK_INO_USED)) {
		entry_problem(s, de, "its inode is not in use");
		return;
	}
	if (target->state & (CHECK_INO_EA | CHECK_INO_SYSTEM))
		entry_problem(s, de, "its inode is the file system's own");
	target->names++;
	check_file_type(s, de, target->type);
	if (!is_dots && target->type == 0040000 >> 12)
		found_parent(s, de);
}

static void check_dots(struct scan *s, const struct ext4_dir_entry_2 *de)
{
	uint32_t ino = le32_get(de->inode);
	bool is_dot = de->name_len == 1;

	if (is_dot ? s->has_dot : s->has_dotdot) {
		entry_problem(s, de, "there twice");
		return;
	}
	if (is_dot) {
		s->has_dot = true;
		if (ino != s->dir->ino)
			entry_problem(s, de, "it does not lead to its own directory");
		return;
	}
	s->has_dotdot = true;
	s->dir->dotdot = ino;
}

/* Does the name's hash belong into this leaf? */
static int check_hash(struct scan *s, const struct ext4_dir_entry_2 *de, bool *ret_on_border)
{
	const struct check_dx_block *leaf = s->leaf;
	struct dir_hash hash;
	int err;

	err = dir_hash(s->version, s->ck->g->hash_seed, de->name, de->name_len, &hash);
	if (err < 0)
		return err;
	if (hash.major < (leaf->lo & ~1u) || hash.major >= leaf->end)
		entry_problem(s, de, "its hash does not belong into this block");
	*ret_on_border = ((leaf->lo & 1) && hash.major == (leaf->lo & ~1u)) ||
			 hash.major + 1ull == leaf->end;
	return 0;
}

static int check_entry(struct scan *s, const struct ext4_dir_entry_2 *de)
{
	bool is_dots = name_is_dot(de->name, de->name_len) ||
		       name_is_dotdot(de->name, de->name_len);
	bool twice = false, on_border = false;
	int err = 0;

	if (is_dots) {
		check_dots(s, de);
	} else {
		if (s->leaf)
			err = check_hash(s, de, &on_border);
		if (err == 0)
			err = names_add(on_border ? s->border : s->names, (const uint8_t *)de->name,
					de->name_len, &twice);
		if (err < 0)
			return err;
		if (twice)
			entry_problem(s, de, "the name is there twice");
	}
	check_target(s, de, is_dots);
	return 0;
}

static int check_row(struct scan *s, const uint8_t *data, uint32_t bytes)
{
	const struct dirents row = { data, bytes, s->ck->g->block_size };
	const struct ext4_dir_entry_2 *de;
	uint32_t at = 0, place;

	while ((de = dirents_next(&row, &at, &place))) {
		int err = check_entry(s, de);

		if (err < 0)
			return err;
	}
	return 0;
}

/* The first block begins with "." and "..". */
static void check_first(struct scan *s, const uint8_t *data)
{
	const struct ext4_dir_entry_2 *dot = (const void *)data;
	uint32_t rec_len = dirent_rec_len(dot->rec_len, s->ck->g->block_size);
	const struct ext4_dir_entry_2 *dotdot = (const void *)(data + rec_len);

	if (le32_get(dot->inode) == 0 || !name_is_dot(dot->name, dot->name_len))
		check_problem(s->ck, "directory %u: its first entry is not \".\"", s->dir->ino);
	if (rec_len >= s->ck->g->block_size || le32_get(dotdot->inode) == 0 ||
	    !name_is_dotdot(dotdot->name, dotdot->name_len))
		check_problem(s->ck, "directory %u: its second entry is not \"..\"", s->dir->ino);
}

/* ---- directories in blocks ------------------------------------------------------------------- */

static bool looks_like_node(const struct check *ck, const uint8_t *data)
{
	const struct fake_dirent *fake = (const void *)data;

	return le32_get(fake->inode) == 0 &&
	       dirent_rec_len(fake->rec_len, ck->g->block_size) == ck->g->block_size;
}

/* @kind UNSEEN: a block of any kind, of a directory without a tree or with a broken one. */
static int check_block(struct scan *s, lblk_t logical, const struct check_dx_block *info)
{
	const struct geom *g = s->ck->g;
	bool has_tail = geom_has_csum(g) && info->kind != CHECK_BLOCK_ROOT;
	const uint8_t *data;
	blk_t blk;

	if (info->kind == CHECK_BLOCK_NODE)
		return 0;
	data = check_dir_block(&s->reader, logical, &blk);
	if (!data)
		return 0;
	/* Where the tree is broken that was said: what lies in the blocks is looked at still. */
	if (info->kind == CHECK_BLOCK_UNSEEN && s->dir->indexed) {
		if (logical > 0 && looks_like_node(s->ck, data))
			return 0;
		has_tail &= logical > 0;
	}
	if (!check_good(s->ck, verify_dirents(&s->vi, data, g->block_size, blk, has_tail)))
		return 0;
	if (logical == 0)
		check_first(s, data);
	s->leaf = info->kind == CHECK_BLOCK_LEAF ? info : NULL;
	if (s->leaf)
		names_reset(s->names);
	return check_row(s, data, g->block_size);
}

static int check_in_blocks(struct scan *s)
{
	struct check_dx_block *infos FREE_SCOPE = NULL;
	const struct check_dx_block unseen = { .kind = CHECK_BLOCK_UNSEEN };
	bool tree = false;
	int err = 0;

	if (s->dir->indexed && geom_has_compat(s->ck->g, EXT4_FEATURE_COMPAT_DIR_INDEX) &&
	    s->dir->blocks > 0 && s->dir->blocks <= ENTRY_BLOCKS_MAX) {
		infos = mem_calloc(s->dir->blocks, sizeof(*infos));
		if (!infos)
			return -ENOMEM;
		err = check_htree(&s->reader, infos, &s->version, &tree);
	}
	for (lblk_t logical = 0; err == 0 && logical < s->dir->blocks; logical++)
		err = check_block(s, logical, tree ? &infos[logical] : &unseen);
	return err;
}

/* ---- directories in the inode ---------------------------------------------------------------- */

/* The value of system.data in a verified row, NULL: there is none. */
static const uint8_t *inline_value(const struct geom *g, const struct ext4_inode *raw,
				   uint32_t *ret_bytes)
{
	size_t start = EXT4_GOOD_OLD_INODE_SIZE + le16_get(raw->i_extra_isize) +
		       sizeof(struct ext4_xattr_ibody_header);
	const uint8_t *base = (const uint8_t *)raw + start, *at = base;

	while (at[0] | at[1] | at[2] | at[3]) {
		const struct ext4_xattr_entry *e = (const void *)at;

		if (e->e_name_index == EXT4_XATTR_INDEX_SYSTEM && e->e_name_len == 4 &&
		    memcmp(e->e_name, "data", 4) == 0) {
			*ret_bytes = le32_get(e->e_value_size);
			return base + le16_get(e->e_value_offs);
		}
		at += EXT4_XATTR_LEN(e->e_name_len);
	}
	return NULL;
}

static int check_inline(struct scan *s)
{
	const struct geom *g = s->ck->g;
	struct ext4_inode *raw FREE_SCOPE = mem_alloc(g->inode_size);
	const uint8_t *part[DIR_INLINE_PARTS];
	uint32_t bytes[DIR_INLINE_PARTS];
	struct check_ino *parent;

	if (!raw)
		return -ENOMEM;
	if (!check_raw(s->ck, s->dir->ino, raw))
		return 0;
	/* What is wrong with it was said, but for its checksum, which says nothing of the row. */
	if (verify_inode(g, s->dir->ino, raw) == -EFSCORRUPTED)
		return 0;
	part[0] = (const uint8_t *)raw->i_block + sizeof(le32);
	bytes[0] = EXT4_I_BLOCK_BYTES - (uint32_t)sizeof(le32);
	part[1] = inline_value(g, raw, &bytes[1]);
	s->dir->dotdot = le32_get(raw->i_block[0]);
	s->has_dot = s->has_dotdot = true;
	check_ino(s->ck, s->dir->ino)->names++;
	parent = check_ino(s->ck, s->dir->dotdot);
	if (parent)
		parent->names++;
	for (unsigned i = 0; i < DIR_INLINE_PARTS; i++) {
		int err = 0;

		if (part[i] &&
		    check_good(s->ck, verify_dirents(&s->vi, part[i], bytes[i], 0, false)))
			err = check_row(s, part[i], bytes[i]);
		if (err < 0)
			return err;
	}
	return 0;
}

/* ---- all directories ------------------------------------------------------------------------- */

static int check_directory(struct check *ck, struct check_dir *dir, struct names *names,
			   struct names *border)
{
	struct scan s = {
		.ck = ck,
		.dir = dir,
		.reader = { .ck = ck, .dir = dir },
		.vi = { .geom = ck->g, .ino = dir->ino, .generation = dir->generation },
		.names = names,
		.border = border,
	};
	int err;

	s.vi.csum_seed = verify_inode_seed(ck->g, dir->ino, dir->generation);
	names_reset(names);
	names_reset(border);
	err = dir->is_inline ? check_inline(&s) : check_in_blocks(&s);
	if (err < 0)
		return err;
	if (dir->dotdot > ck->g->inodes)
		check_problem(ck, "directory %u: \"..\" leads to inode %u", dir->ino, dir->dotdot);
	return 0;
}

int check_dirs(struct check *ck)
{
	struct names names = { .secret = random_u64() }, border = names;
	int err = 0;

	for (size_t i = 0; err == 0 && i < ck->dirs_count; i++) {
		err = check_directory(ck, &ck->dirs[i], &names, &border);
		if (err == 0 && (i % 64 == 0 || i + 1 == ck->dirs_count))
			err = check_progress(ck, i + 1, ck->dirs_count);
	}
	names_finish(&names);
	names_finish(&border);
	return err;
}
