/* SPDX-License-Identifier: MIT */
/*
 * Walks the whole map of an inode: extent tree or block map.
 *
 * The walk tells its user of each block of the map, before it is read, and of each extent, in
 * order.  What is damaged is a finding and left out.
 *
 *  W1  No recursion: the way down is a stack of as many nodes as the format has levels.
 *  W2  A node is entered if the user says so, who says so once for each block (K4): a walk is no
 *      longer than the image has blocks.
 */
#include "fs/check_priv.h"

#include "base/diag.h"

#include <inttypes.h>

bool check_has_map(const struct geom *g, const struct ext4_inode *raw)
{
	uint32_t flags = le32_get(raw->i_flags);

	if (flags & EXT4_INLINE_DATA_FL)
		return false;
	switch (check_type(raw)) {
	case 0100000:
	case 0040000: return true;
	case 0120000: return check_size(g, raw) >= EXT4_I_BLOCK_BYTES;
	case 0: return true; /* reserved inodes may have blocks without a mode */
	default: return false;
	}
}

static void map_problem(struct check_map *m)
{
	if (!m->quiet)
		check_problem(m->ck, "%s", diag_text());
	diag_clear();
	m->damaged = true;
}

/* True: go into the block. */
static int enter(struct check_map *m, blk_t blk, uint8_t *to, bool *ret_enter)
{
	int err = 0;

	*ret_enter = true;
	if (m->node)
		err = m->node(m, blk, ret_enter);
	if (err == 0 && *ret_enter &&
	    dev_read(m->ck->fs->dev, blk << m->ck->g->block_bits, to, m->ck->g->block_size) < 0) {
		(void)fail_in(-EIO, "inode %u: block %" PRIu64 " of its map", m->vi.ino, blk);
		map_problem(m);
		*ret_enter = false;
	}
	return err;
}

/* ---- extent trees ---------------------------------------------------------------------------- */

struct level {
	const struct ext4_extent_header *eh;
	uint32_t next; /* entry to be looked at */
	lblk_t end;    /* of what the node may map */
};

static lblk_t extent_key(const struct ext4_extent_header *eh, uint32_t index)
{
	return le32_get(((const struct ext4_extent *)(const void *)(eh + 1))[index].ee_block);
}

static int visit_leaf(struct check_map *m, const struct ext4_extent_header *eh)
{
	const struct ext4_extent *ex = (const void *)(eh + 1);
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < le16_get(eh->eh_entries); i++, ex++) {
		uint32_t len = le16_get(ex->ee_len);
		struct map_ext ext = {
			.logical = le32_get(ex->ee_block),
			.count = len > EXT_INIT_MAX_LEN ? len - EXT_INIT_MAX_LEN : len,
			.physical = (blk_t)le16_get(ex->ee_start_hi) << 32 |
				    le32_get(ex->ee_start_lo),
			.state = len > EXT_INIT_MAX_LEN ? MAP_UNWRITTEN : MAP_WRITTEN,
		};

		err = m->extent(m, &ext);
	}
	return err;
}

/* Goes down by entry @index of @above into @below.  *ret_entered false: there is nothing. */
static int descend(struct check_map *m, const struct level *above, uint32_t index,
		   struct level *below, uint8_t *to, bool *ret_entered)
{
	const struct ext4_extent_header *eh = above->eh;
	const struct ext4_extent_idx *ix = (const struct ext4_extent_idx *)(const void *)(eh + 1);
	blk_t blk = (blk_t)le16_get(ix[index].ei_leaf_hi) << 32 | le32_get(ix[index].ei_leaf_lo);
	lblk_t end = index + 1u < le16_get(eh->eh_entries) ? extent_key(eh, index + 1) : above->end;
	int err;

	err = enter(m, blk, to, ret_entered);
	if (err < 0 || !*ret_entered)
		return err;
	m->vi.depth = (uint16_t)(le16_get(eh->eh_depth) - 1);
	m->vi.first = extent_key(eh, index);
	m->vi.end = end;
	*below = (struct level){ .eh = (const void *)to, .end = end };
	if (verify_extent_node(&m->vi, below->eh, m->ck->g->block_size, blk) < 0) {
		map_problem(m);
		*ret_entered = false;
		return 0;
	}
	if (!m->quiet &&
	    (le16_get(below->eh->eh_entries) == 0 || extent_key(below->eh, 0) != m->vi.first))
		check_problem(m->ck,
			      "inode %u: extent node (block %" PRIu64
			      ") does not begin at block %u as the node above says",
			      m->vi.ino, blk, m->vi.first);
	return 0;
}

static int walk_extents(struct check_map *m)
{
	struct level level[EXT4_MAX_EXTENT_DEPTH + 1];
	uint32_t depth = 0;
	int err = 0;

	level[0] = (struct level){ .eh = (const void *)m->raw->i_block, .end = UINT32_MAX };
	m->vi.first = 0;
	m->vi.end = UINT32_MAX;
	if (verify_extent_node(&m->vi, level[0].eh, EXT4_I_BLOCK_BYTES, 0) < 0) {
		map_problem(m);
		return 0;
	}
	for (;;) {
		struct level *l = &level[depth];
		bool entered;

		if (le16_get(l->eh->eh_depth) == 0) {
			err = visit_leaf(m, l->eh);
			l->next = le16_get(l->eh->eh_entries);
		}
		if (err < 0)
			return err;
		if (l->next >= le16_get(l->eh->eh_entries)) {
			if (depth-- == 0)
				return 0;
			continue;
		}
		err = descend(m, l, l->next++, &level[depth + 1], m->ck->node[depth], &entered);
		if (err < 0)
			return err;
		depth += entered;
	}
}

/* ---- block maps ------------------------------------------------------------------------------ */

struct row {
	const le32 *pointers;
	uint32_t count, next;
	uint32_t level; /* rows below it */
	blk_t blk;	/* 0: i_block */
};

/* Blocks one pointer stands for with @level rows below it. */
static uint64_t span(const struct geom *g, uint32_t level)
{
	return 1ull << (g->block_bits - 2) * level;
}

static bool pointer_good(struct check_map *m, const struct row *row, uint32_t pointer)
{
	const struct geom *g = m->ck->g;

	if (pointer > g->first_data_block && pointer < g->blocks)
		return true;
	if (row->blk)
		(void)corrupt("inode %u, indirect block %" PRIu64 ": pointer %u is block %u",
			      m->vi.ino, row->blk, row->next, pointer);
	else
		(void)corrupt("inode %u: i_block[%u] is block %u", m->vi.ino, row->next, pointer);
	map_problem(m);
	return false;
}

/* The run of neighbours that begins at the next pointer of a row of data; goes behind it. */
static int visit_run(struct check_map *m, struct row *row, uint64_t logical, uint32_t end)
{
	struct map_ext ext = {
		.logical = (lblk_t)logical,
		.count = 1,
		.physical = le32_get(row->pointers[row->next]),
		.state = MAP_WRITTEN,
	};

	if (!pointer_good(m, row, (uint32_t)ext.physical)) {
		row->next++;
		return 0;
	}
	row->next++;
	while (row->next < end && le32_get(row->pointers[row->next]) == ext.physical + ext.count &&
	       ext.physical + ext.count < m->ck->g->blocks) {
		ext.count++;
		row->next++;
	}
	if (logical + ext.count > UINT32_MAX) {
		(void)corrupt("inode %u: its map goes beyond block 2^32 - 1 of the file",
			      m->vi.ino);
		map_problem(m);
		return 0;
	}
	return m->extent(m, &ext);
}

/* Rows below pointer @index of i_block. */
static uint32_t root_level(uint32_t index)
{
	return index < EXT4_NDIR_BLOCKS ? 0 : index - EXT4_NDIR_BLOCKS + 1;
}

/* Goes to the next pointer of @row, and into the row it leads to, if there is one. */
static int visit_pointer(struct check_map *m, struct row *row, bool is_root, uint64_t *logical,
			 struct row *below, uint8_t *to, bool *ret_entered)
{
	uint32_t level = is_root ? root_level(row->next) : row->level;
	uint32_t pointer = le32_get(row->pointers[row->next]), at = row->next;
	int err = 0;

	*ret_entered = false;
	if (pointer != 0 && level == 0) {
		err = visit_run(m, row, *logical, is_root ? EXT4_NDIR_BLOCKS : row->count);
		*logical += row->next - at;
		return err;
	}
	if (pointer != 0 && pointer_good(m, row, pointer))
		err = enter(m, pointer, to, ret_entered);
	row->next++;
	if (!*ret_entered) {
		*logical += span(m->ck->g, level);
		return err;
	}
	*below = (struct row){
		.pointers = (const void *)to,
		.count = m->ck->g->block_size / (uint32_t)sizeof(le32),
		.level = level - 1,
		.blk = pointer,
	};
	return 0;
}

static int walk_pointers(struct check_map *m)
{
	struct row rows[4];
	uint32_t depth = 0;
	uint64_t logical = 0;

	rows[0] = (struct row){ .pointers = m->raw->i_block, .count = EXT4_N_BLOCKS };
	for (;;) {
		struct row *row = &rows[depth];
		bool entered;
		int err;

		if (row->next >= row->count) {
			if (depth-- == 0)
				return 0;
			continue;
		}
		err = visit_pointer(m, row, depth == 0, &logical, row + 1, m->ck->node[depth],
				    &entered);
		if (err < 0)
			return err;
		depth += entered;
	}
}

int check_map_walk(struct check_map *m)
{
	m->damaged = false;
	if (le32_get(m->raw->i_flags) & EXT4_EXTENTS_FL)
		return walk_extents(m);
	return walk_pointers(m);
}
