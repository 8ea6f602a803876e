/* SPDX-License-Identifier: MIT */
/*
 * Listing a directory, with cookies that stay good.
 *
 * A cookie says which entry it stands behind by what that entry is called, not by where it lies, as
 * far as blocks of the directory may be split: an entry moves to another block, its cookie does not
 * change.  So directories that have a hash tree, or would get one with their second block, are
 * listed in the order of hashes; all others, whose entries never move, in the order they lie in.
 *
 *	hash order	0 | major hash >> 1 (31 bits) | minor hash (32 bits, at most MINOR_MAX)
 *	offset order	byte offset of the entry + COOKIE_FIRST;
 *			what fast commits added: FC_COOKIE_FIRST + number
 *
 * The legacy hash has no minor half: it gets the one of another hash, so that 62 bits tell names
 * apart with every version.  Names that still agree are ordered bytewise and numbered on from their
 * common cookie; one of them coming or going in the middle of a listing may shift those behind it,
 * which takes two names with the same 62 bits.
 *
 * In hash order the entries of one leaf are read, sorted and kept as a batch: whoever reads on
 * finds the next ones there, and a directory of any size takes the memory of one leaf.
 *
 * L1  Cookies ascend strictly in a listing and are never 0; "." is 1 and ".." is 2.
 * L2  Batches part the hashes between them; all names of one major hash are in one batch, even if
 *     they lie in several leaves.
 * L3  An entry whose hash does not belong into its leaf is an error: it could not be found by name,
 *     and its place in the order could be another's.
 * L4  The directory may change between two calls, never inside of one.  A batch is used only while
 *     nothing has changed (dir_changes).  A directory that is listed by hash may get its tree
 *     between two calls, which sorts by the same hash; one that is listed by place keeps its
 *     entries where they are (dir_write.c, W2), also when it leaves the inode (inline_dir.c, D1).
 */
#include "fs/dir.h"
#include "fs/fs_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <stdlib.h>

#define COOKIE_DOT 1u
#define COOKIE_DOTDOT 2u
#define COOKIE_FIRST 3u
#define FC_COOKIE_FIRST (1ull << 62)
#define MINOR_MAX 0xFFFF0000u /* leaves room to number on */
#define HASH_BEHIND_ALL (1ull << 32)
#define AHEAD_BYTES (64u << 10)
/*
 * Leaves lie anywhere, but all of them will be wanted: their neighbours are worth reading, unless
 * the directory may be more than stays in memory until then.
 */
#define AHEAD_DIR_BYTES_MAX (8u << 20)

/* Where the rows of an inline directory would lie, had it a block: behind "." and "..". */
#define INLINE_OFFSET (2 * EXT4_DIR_ENTRY_BYTES(1))

enum dir_order {
	ORDER_OFFSET,
	ORDER_HASH,	 /* one batch holds all */
	ORDER_HASH_TREE, /* a batch for each leaf */
};

struct listed {
	uint64_t cookie; /* until the batch is sorted: of the name alone */
	uint32_t ino;
	uint32_t name_at; /* in batch.names */
	uint8_t type;
	uint8_t name_len;
};

/* All entries with lo <= major hash < end, ascending. */
struct batch {
	uint64_t lo, end;
	struct listed *listed;
	size_t count, room;
	char *names;
	size_t names_bytes, names_room;
};

/* What fast commits said about a name. */
struct said {
	uint64_t cookie; /* of the name alone; 0 in offset order */
	const struct fc_dirent *entry;
};

/* shared */
struct dir_cursor {
	struct inode *ip;  /* c */
	uint8_t version;   /* c: DX_HASH_*, in hash order */
	struct said *said; /* c: by cookie and name */
	size_t said_count; /* c */
	struct mutex lock; /* RANK_dir_cursor */
	/* From ORDER_HASH it may go to ORDER_HASH_TREE. */
	enum dir_order order;		 /* lock */
	uint32_t changes GUARDED(&lock); /* dir_changes when the batch was read */
	struct batch batch GUARDED(&lock);
};

/* The entries a caller asked for, as far as they are filled. */
struct listing {
	struct uext4_dirent *entries;
	size_t count, used;
};

static bool listing_is_full(const struct listing *out)
{
	return out->used == out->count;
}

static void listing_add(struct listing *out, uint64_t cookie, uint32_t ino, uint8_t type,
			const char *name, uint8_t name_len)
{
	struct uext4_dirent *entry = &out->entries[out->used++];

	entry->ino = ino;
	entry->type = type;
	entry->name_len = name_len;
	entry->cookie = cookie;
	memcpy(entry->name, name, name_len);
	entry->name[name_len] = '\0';
}

/* ---- the order of names ---------------------------------------------------------------------- */

static int name_compare(const char *a, size_t a_len, const char *b, size_t b_len)
{
	int diff = memcmp(a, b, min_size(a_len, b_len));

	return diff != 0 ? diff : (a_len > b_len) - (a_len < b_len);
}

/* The cookie of @name if no other name has the same.  Its upper half gives the major hash back. */
static int name_cookie(const struct dir_cursor *dc, const char *name, size_t name_len,
		       uint64_t *ret_cookie)
{
	static const uint32_t no_seed[4];
	struct dir_hash hash, other;
	int err;

	err = dir_hash(dc->version, dc->ip->fs->geom.hash_seed, name, name_len, &hash);
	if (err < 0)
		return err;
	if (dc->version == DX_HASH_LEGACY || dc->version == DX_HASH_LEGACY_UNSIGNED) {
		err = dir_hash(DX_HASH_TEA_UNSIGNED, no_seed, name, name_len, &other);
		if (err < 0)
			return err;
		hash.minor = other.minor;
	}
	*ret_cookie = max_u64((uint64_t)(hash.major >> 1) << 32 | min_u64(hash.minor, MINOR_MAX),
			      COOKIE_FIRST);
	return 0;
}

static uint64_t cookie_major(uint64_t cookie)
{
	return cookie >> 32 << 1;
}

/* ---- what fast commits said ------------------------------------------------------------------ */

static int said_compare(const void *a, const void *b)
{
	const struct said *left = a, *right = b;

	if (left->cookie != right->cookie)
		return left->cookie < right->cookie ? -1 : 1;
	return name_compare(left->entry->name, left->entry->name_len, right->entry->name,
			    right->entry->name_len);
}

static int said_create(struct dir_cursor *dc)
{
	const struct fc_inode *fc = dc->ip->fc;
	size_t count = 0;

	if (!fc || list_empty(&fc->dirents))
		return 0;
	list_for_each(pos, &fc->dirents)
		count++;
	dc->said = mem_calloc(count, sizeof(*dc->said));
	if (!dc->said)
		return -ENOMEM;
	list_for_each(pos, &fc->dirents) {
		const struct fc_dirent *entry = list_entry(pos, struct fc_dirent, link);
		struct said *said = &dc->said[dc->said_count];
		int err = 0;

		if (name_is_dot(entry->name, entry->name_len) ||
		    name_is_dotdot(entry->name, entry->name_len))
			continue;
		said->entry = entry;
		if (dc->order != ORDER_OFFSET)
			err = name_cookie(dc, entry->name, entry->name_len, &said->cookie);
		if (err < 0)
			return err;
		dc->said_count++;
	}
	qsort(dc->said, dc->said_count, sizeof(*dc->said), said_compare);
	return 0;
}

/* Index of the first one whose cookie and name are not before these. */
static size_t said_search(const struct dir_cursor *dc, uint64_t cookie, const char *name,
			  size_t name_len)
{
	size_t low = 0, high = dc->said_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct said *said = &dc->said[middle];

		if (said->cookie < cookie ||
		    (said->cookie == cookie &&
		     name_compare(said->entry->name, said->entry->name_len, name, name_len) < 0))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * Did fast commits add, change or remove @name?  Then what the directory's blocks say does not
 * count.
 */
static bool said_about(const struct dir_cursor *dc, uint64_t cookie, const char *name,
		       size_t name_len)
{
	size_t index = said_search(dc, cookie, name, name_len);

	return index < dc->said_count && dc->said[index].cookie == cookie &&
	       name_compare(dc->said[index].entry->name, dc->said[index].entry->name_len, name,
			    name_len) == 0;
}

/* ---- batches --------------------------------------------------------------------------------- */

static void batch_reset(struct batch *b, uint64_t lo, uint64_t end)
{
	b->lo = lo;
	b->end = end;
	b->count = 0;
	b->names_bytes = 0;
}

static void batch_finish(struct batch *b)
{
	mem_free(b->listed);
	mem_free(b->names);
}

static int batch_make_room(struct batch *b, size_t name_len)
{
	if (b->count == b->room) {
		size_t room = b->room ? b->room * 2 : 64;
		struct listed *listed = mem_realloc(b->listed, room * sizeof(*listed));

		if (!listed)
			return -ENOMEM;
		b->listed = listed;
		b->room = room;
	}
	if (b->names_room - b->names_bytes < name_len) {
		size_t room = b->names_room ? b->names_room * 2 : 4096;
		char *names = mem_realloc(b->names, room);

		if (!names)
			return -ENOMEM;
		b->names = names;
		b->names_room = room;
	}
	if (b->names_bytes > UINT32_MAX - EXT4_NAME_LEN)
		return corrupt("a directory has 4 GiB of names with the same hash");
	return 0;
}

static int batch_add(struct batch *b, uint64_t cookie, uint32_t ino, uint8_t type, const char *name,
		     uint8_t name_len)
{
	int err;

	err = batch_make_room(b, name_len);
	if (err < 0)
		return err;
	b->listed[b->count++] = (struct listed){
		.cookie = cookie,
		.ino = ino,
		.name_at = (uint32_t)b->names_bytes,
		.type = type,
		.name_len = name_len,
	};
	memcpy(b->names + b->names_bytes, name, name_len);
	b->names_bytes += name_len;
	return 0;
}

/* The entries of one row, with hashes of @leaf, that belong into the batch. */
static int batch_add_row(struct dir_cursor *dc, const struct dirents *row,
			 const struct htree_leaf *leaf) REQUIRES(&dc->lock)
{
	struct batch *b = &dc->batch;
	const struct ext4_dir_entry_2 *de;
	uint32_t at = 0, place;

	while ((de = dirents_next(row, &at, &place))) {
		uint64_t cookie, major;
		int err;

		if (name_is_dot(de->name, de->name_len) || name_is_dotdot(de->name, de->name_len))
			continue;
		err = name_cookie(dc, de->name, de->name_len, &cookie);
		if (err < 0)
			return err;
		major = cookie_major(cookie);
		if (major < (leaf->lo & ~1u) || major >= leaf->end)
			return corrupt("directory %u: a name with hash %08x in the wrong leaf, %u",
				       dc->ip->ino, (uint32_t)major, leaf->block);
		if (major < b->lo || major >= b->end ||
		    said_about(dc, cookie, de->name, de->name_len))
			continue;
		err = batch_add(b, cookie, le32_get(de->inode), dirent_type(dc->ip, de), de->name,
				de->name_len);
		if (err < 0)
			return err;
	}
	return 0;
}

static int batch_add_said(struct dir_cursor *dc) REQUIRES(&dc->lock)
{
	struct batch *b = &dc->batch;

	for (size_t i = said_search(dc, b->lo / 2 << 32, "", 0); i < dc->said_count; i++) {
		const struct said *said = &dc->said[i];
		int err;

		if (cookie_major(said->cookie) >= b->end)
			break;
		if (said->entry->ino == 0)
			continue;
		err = batch_add(b, said->cookie, said->entry->ino, said->entry->type,
				said->entry->name, said->entry->name_len);
		if (err < 0)
			return err;
	}
	return 0;
}

static int listed_compare(const void *a, const void *b, void *names)
{
	const struct listed *left = a, *right = b;
	const char *bytes = names;

	if (left->cookie != right->cookie)
		return left->cookie < right->cookie ? -1 : 1;
	return name_compare(bytes + left->name_at, left->name_len, bytes + right->name_at,
			    right->name_len);
}

/* Sorts, and gives those names cookies of their own that have the same. */
static int batch_sort(const struct dir_cursor *dc, struct batch *b)
{
	if (b->count > 0)
		qsort_r(b->listed, b->count, sizeof(*b->listed), listed_compare, b->names);
	for (size_t i = 1; i < b->count; i++) {
		uint64_t major = cookie_major(b->listed[i].cookie);

		b->listed[i].cookie = max_u64(b->listed[i].cookie, b->listed[i - 1].cookie + 1);
		if (cookie_major(b->listed[i].cookie) != major)
			return corrupt("directory %u: too many names with hash %08x", dc->ip->ino,
				       (uint32_t)major);
	}
	return 0;
}

static uint32_t blocks_ahead(const struct dir_cursor *dc)
{
	if (dc->order == ORDER_HASH_TREE && dc->ip->size > AHEAD_DIR_BYTES_MAX)
		return 0;
	return (AHEAD_BYTES >> dc->ip->fs->geom.block_bits) - 1;
}

static int load_inline(struct dir_cursor *dc, const struct htree_leaf *all) REQUIRES(&dc->lock)
{
	struct dirents rows[DIR_INLINE_PARTS];
	int err;

	rwlock_read(&dc->ip->xattr_lock);
	err = dir_inline_rows(dc->ip, rows);
	for (unsigned i = 0; err == 0 && i < DIR_INLINE_PARTS; i++)
		err = batch_add_row(dc, &rows[i], all);
	rwlock_read_unlock(&dc->ip->xattr_lock);
	return err;
}

/* A directory that fits into one batch. */
static int load_whole(struct dir_cursor *dc) REQUIRES(&dc->lock)
{
	const struct htree_leaf all = { .end = HASH_BEHIND_ALL };
	struct buf *buf BUF_SCOPE = NULL;
	struct dirents row;
	uint32_t blocks;
	int err;

	batch_reset(&dc->batch, 0, HASH_BEHIND_ALL);
	if (dc->ip->state == INODE_INLINE)
		return load_inline(dc, &all);
	err = dir_blocks(dc->ip, &blocks);
	if (err < 0 || blocks == 0)
		return err;
	err = dir_read_leaf(dc->ip, 0, 0, &buf, &row);
	if (err < 0)
		return err;
	return batch_add_row(dc, &row, &all);
}

static int load_leaf(struct dir_cursor *dc, const struct htree_leaf *leaf) REQUIRES(&dc->lock)
{
	struct buf *buf BUF_SCOPE = NULL;
	struct dirents row;
	int err;

	err = dir_read_leaf(dc->ip, leaf->block, blocks_ahead(dc), &buf, &row);
	if (err < 0)
		return err;
	return batch_add_row(dc, &row, leaf);
}

/*
 * The leaf @t leads to, and of the leaves that follow the names that share its last hash.  Those it
 * shares with the leaf before belong to that one's batch (L2).
 */
static int load_leaves(struct dir_cursor *dc, struct htree *t) REQUIRES(&dc->lock)
{
	struct htree_leaf leaf;
	uint32_t blocks;
	uint64_t border;
	int err;

	err = dir_blocks(dc->ip, &blocks);
	if (err == 0)
		err = htree_leaf(t, &leaf);
	if (err < 0)
		return err;
	border = leaf.end;
	batch_reset(&dc->batch, leaf.lo & 1 ? leaf.lo + 1ull : leaf.lo,
		    border & 1 ? border + 1 : border);
	for (uint32_t leaves = 0; leaves < blocks; leaves++) {
		err = load_leaf(dc, &leaf);
		if (err < 0 || leaf.end != border || !(border & 1))
			return err;
		err = htree_next(t);
		if (err == 0)
			err = htree_leaf(t, &leaf);
		if (err < 0)
			return err;
	}
	return corrupt("directory %u: more leaves share hash %08x than there are blocks",
		       dc->ip->ino, (uint32_t)border);
}

static int load_from_tree(struct dir_cursor *dc, uint32_t hash) REQUIRES(&dc->lock)
{
	struct htree tree;
	bool known;
	int err;

	err = htree_open(dc->ip, &tree, &known);
	if (err < 0)
		return err;
	if (!known || tree.version != dc->version) {
		if (known)
			htree_close(&tree);
		return corrupt("directory %u: its hash version changed", dc->ip->ino);
	}
	err = htree_seek(&tree, hash);
	if (err == 0)
		err = load_leaves(dc, &tree);
	htree_close(&tree);
	return err;
}

/* Makes dc->batch the one that names of @hash are in. */
static int batch_load(struct dir_cursor *dc, uint32_t hash) REQUIRES(&dc->lock)
{
	struct batch *b = &dc->batch;
	int err;

	if (hash >= b->lo && hash < b->end)
		return 0;
	if (dc->order == ORDER_HASH_TREE)
		err = load_from_tree(dc, hash);
	else
		err = load_whole(dc);
	if (err == 0)
		err = batch_add_said(dc);
	if (err == 0)
		err = batch_sort(dc, b);
	if (err < 0)
		batch_reset(b, 0, 0);
	assert(err < 0 || (hash >= b->lo && hash < b->end));
	return err;
}

/* ---- reading --------------------------------------------------------------------------------- */

static void batch_list(const struct batch *b, uint64_t cookie, struct listing *out)
{
	size_t low = 0, high = b->count; /* behind all whose cookie is not behind @cookie */

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (b->listed[middle].cookie <= cookie)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < b->count && !listing_is_full(out); low++) {
		const struct listed *l = &b->listed[low];

		listing_add(out, l->cookie, l->ino, l->type, b->names + l->name_at, l->name_len);
	}
}

static int list_by_hash(struct dir_cursor *dc, uint64_t cookie, struct listing *out)
	REQUIRES(&dc->lock)
{
	uint64_t hash = cookie_major(cookie);

	while (!listing_is_full(out) && hash < HASH_BEHIND_ALL) {
		int err;

		err = batch_load(dc, (uint32_t)hash);
		if (err < 0)
			return err;
		batch_list(&dc->batch, cookie, out);
		hash = dc->batch.end;
	}
	return 0;
}

/* The entries of @row, which lies at @base in the directory, behind @cookie. */
static void list_row(const struct dir_cursor *dc, const struct dirents *row, uint64_t base,
		     uint64_t cookie, struct listing *out)
{
	const struct ext4_dir_entry_2 *de;
	uint32_t at = 0, place;

	while (!listing_is_full(out) && (de = dirents_next(row, &at, &place))) {
		if (base + place + COOKIE_FIRST <= cookie || name_is_dot(de->name, de->name_len) ||
		    name_is_dotdot(de->name, de->name_len) ||
		    said_about(dc, 0, de->name, de->name_len))
			continue;
		listing_add(out, base + place + COOKIE_FIRST, le32_get(de->inode),
			    dirent_type(dc->ip, de), de->name, de->name_len);
	}
}

static int list_inline_by_offset(struct dir_cursor *dc, uint64_t cookie, struct listing *out)
{
	struct dirents rows[DIR_INLINE_PARTS];
	uint64_t base = INLINE_OFFSET;
	int err;

	rwlock_read(&dc->ip->xattr_lock);
	err = dir_inline_rows(dc->ip, rows);
	for (unsigned i = 0; err == 0 && i < DIR_INLINE_PARTS; i++) {
		list_row(dc, &rows[i], base, cookie, out);
		base += rows[i].bytes;
	}
	rwlock_read_unlock(&dc->ip->xattr_lock);
	return err;
}

static int list_blocks_by_offset(struct dir_cursor *dc, uint64_t cookie, struct listing *out)
{
	const uint32_t block_bits = dc->ip->fs->geom.block_bits;
	uint64_t logical = cookie < COOKIE_FIRST ? 0 : (cookie - COOKIE_FIRST) >> block_bits;
	uint32_t blocks;
	int err;

	err = dir_blocks(dc->ip, &blocks);
	if (err < 0)
		return err;
	for (; logical < blocks && !listing_is_full(out); logical++) {
		struct buf *buf BUF_SCOPE = NULL;
		struct dirents row;

		err = dir_read_block(dc->ip, (lblk_t)logical, blocks_ahead(dc), &buf, &row);
		if (err < 0)
			return err;
		list_row(dc, &row, logical << block_bits, cookie, out);
	}
	return 0;
}

static int list_by_offset(struct dir_cursor *dc, uint64_t cookie, struct listing *out)
{
	uint64_t number = cookie < FC_COOKIE_FIRST ? 0 : cookie - FC_COOKIE_FIRST + 1;
	int err;

	if (dc->ip->state == INODE_INLINE)
		err = list_inline_by_offset(dc, cookie, out);
	else
		err = list_blocks_by_offset(dc, cookie, out);
	if (err < 0)
		return err;
	for (; number < dc->said_count && !listing_is_full(out); number++) {
		const struct fc_dirent *entry = dc->said[number].entry;

		if (entry->ino != 0)
			listing_add(out, FC_COOKIE_FIRST + number, entry->ino, entry->type,
				    entry->name, entry->name_len);
	}
	return 0;
}

static int list_dots(struct dir_cursor *dc, uint64_t cookie, struct listing *out)
	REQUIRES_SHARED(&dc->ip->lock)
{
	uint8_t type = geom_has_incompat(&dc->ip->fs->geom, EXT4_FEATURE_INCOMPAT_FILETYPE)
			       ? UEXT4_FT_DIR
			       : UEXT4_FT_UNKNOWN;
	uint32_t parent;
	int err;

	if (cookie < COOKIE_DOT && !listing_is_full(out))
		listing_add(out, COOKIE_DOT, dc->ip->ino, type, ".", 1);
	if (cookie < COOKIE_DOTDOT && !listing_is_full(out)) {
		err = dir_parent(dc->ip, &parent);
		if (err == 0)
			listing_add(out, COOKIE_DOTDOT, parent, type, "..", 2);
		else if (err != -ENOENT)
			return err;
	}
	return 0;
}

/* What happened to the directory since the last call (L4). */
static int catch_up(struct dir_cursor *dc) REQUIRES(&dc->lock) REQUIRES_SHARED(&dc->ip->lock)
{
	if (atomic_load(&dc->ip->flags) & INODE_UNLINKED)
		return fail(-ENOENT, "directory %u is removed", dc->ip->ino);
	if (dc->changes != dc->ip->dir_changes)
		batch_reset(&dc->batch, 0, 0);
	dc->changes = dc->ip->dir_changes;
	if (dc->order == ORDER_HASH && dir_is_indexed(dc->ip))
		dc->order = ORDER_HASH_TREE;
	return 0;
}

int dir_cursor_read(struct dir_cursor *dc, uint64_t cookie, struct uext4_dirent *entries,
		    size_t count, size_t *ret_count)
{
	struct listing out = { .entries = entries, .count = count };
	int err;

	rwlock_read(&dc->ip->lock);
	mutex_lock(&dc->lock);
	err = catch_up(dc);
	if (err == 0)
		err = list_dots(dc, cookie, &out);
	if (err == 0 && dc->order == ORDER_OFFSET)
		err = list_by_offset(dc, cookie, &out);
	else if (err == 0)
		err = list_by_hash(dc, cookie, &out);
	mutex_unlock(&dc->lock);
	rwlock_read_unlock(&dc->ip->lock);

	/* What came before an error is given out; who asks for more meets it. */
	if (err < 0 && out.used == 0)
		return err;
	*ret_count = out.used;
	return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Which order the directory is listed in, and by which hash. */
static int choose_order(struct dir_cursor *dc) REQUIRES_SHARED(&dc->ip->lock)
{
	struct inode *ip = dc->ip;
	const struct geom *g = &ip->fs->geom;
	uint32_t blocks = 0;
	struct htree tree;
	bool known;
	int err;

	dc->order = ORDER_OFFSET;
	if (!geom_has_compat(g, EXT4_FEATURE_COMPAT_DIR_INDEX))
		return 0;
	if (dir_is_indexed(ip)) {
		err = htree_open(ip, &tree, &known);
		if (err < 0 || !known)
			return err;
		dc->order = ORDER_HASH_TREE;
		dc->version = tree.version;
		htree_close(&tree);
		return 0;
	}
	if (ip->state == INODE_BLOCKS) {
		err = dir_blocks(ip, &blocks);
		if (err < 0)
			return err;
	}
	if (blocks <= 1 && htree_version(g, g->hash_version, &dc->version))
		dc->order = ORDER_HASH;
	return 0;
}

int dir_cursor_create(struct inode *ip, struct dir_cursor **ret)
{
	struct dir_cursor *dc;
	int err;

	assert(inode_is_dir(ip));
	dc = mem_zalloc(sizeof(*dc));
	if (!dc)
		return -ENOMEM;
	mutex_init(&dc->lock, RANK_dir_cursor);
	err = inode_get(ip->fs, ip->ino, &dc->ip);
	if (err == 0) {
		assert(dc->ip == ip);
		rwlock_read(&dc->ip->lock);
		err = choose_order(dc);
		if (err == 0)
			err = said_create(dc);
		rwlock_read_unlock(&dc->ip->lock);
	}
	if (err < 0) {
		dir_cursor_destroy(dc);
		return err;
	}
	*ret = dc;
	return 0;
}

void dir_cursor_destroy(struct dir_cursor *dc)
{
	if (!dc)
		return;
	batch_finish(&dc->batch);
	mem_free(dc->said);
	mutex_finish(&dc->lock);
	inode_put(dc->ip);
	mem_free(dc);
}
