/* SPDX-License-Identifier: MIT */
/*
 * How inodes hang together: directories reach the root, link counts are what entries say, orphans
 * are what the list and the orphan file say.
 */
#include "fs/check_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <inttypes.h>

#define LINKS_MAX 65000u

/* ---- orphans --------------------------------------------------------------------------------- */

/* Marks @ino.  *ret_new false: it cannot be one, or is one already; it was said. */
static int orphan_mark(struct check *ck, uint32_t ino, const char *where, bool *ret_new)
{
	struct check_ino *entry = NULL;
	int err = 0;

	*ret_new = false;
	if (ino >= ck->g->first_ino && ino <= ck->g->inodes)
		err = check_ino_make(ck, ino, &entry);
	if (err < 0)
		return err;
	if (!entry) {
		check_problem(ck, "%s: inode %u cannot be an orphan", where, ino);
		return 0;
	}
	if (entry->state & CHECK_INO_ORPHAN) {
		check_problem(ck, "%s: inode %u is there twice", where, ino);
		return 0;
	}
	entry->state |= CHECK_INO_ORPHAN;
	ck->orphans++;
	*ret_new = true;
	return 0;
}

static int orphan_list(struct check *ck)
{
	struct ext4_inode *raw FREE_SCOPE = mem_alloc(ck->g->inode_size);
	uint32_t ino = le32_get(ck->fs->super.s_last_orphan);

	if (!raw)
		return -ENOMEM;
	/* Ends: an inode that comes again is refused. */
	while (ino != 0) {
		bool is_new;
		int err;

		err = orphan_mark(ck, ino, "orphan list", &is_new);
		if (err < 0 || !is_new || !check_raw(ck, ino, raw))
			return err;
		if (le16_get(raw->i_mode) == 0) {
			check_problem(ck, "orphan list: inode %u is empty", ino);
			return 0;
		}
		ino = le32_get(raw->i_dtime);
	}
	return 0;
}

static int orphan_block(struct check_map *m, blk_t blk)
{
	struct check *ck = m->ck;
	const le32 *slots = (const void *)ck->block;
	uint32_t count = (ck->g->block_size - (uint32_t)sizeof(struct ext4_orphan_block_tail)) / 4;

	if (!check_read(ck, blk, 1, ck->block) ||
	    !check_good(ck, verify_orphan_block(&m->vi, ck->block, blk)))
		return 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t ino = le32_get(slots[i]);
		bool ignored;
		int err = 0;

		if (ino != 0)
			err = orphan_mark(ck, ino, "orphan file", &ignored);
		if (err < 0)
			return err;
	}
	return 0;
}

static int orphan_extent(struct check_map *m, const struct map_ext *ext)
{
	lblk_t *next = m->arg;

	if (ext->logical != *next || ext->state != MAP_WRITTEN)
		check_problem(m->ck, "orphan file: there is no block %u", *next);
	*next = ext->logical + ext->count;
	for (uint32_t i = 0; ext->state == MAP_WRITTEN && i < ext->count; i++) {
		int err = orphan_block(m, ext->physical + i);

		if (err < 0)
			return err;
	}
	return 0;
}

static int orphan_file(struct check *ck)
{
	struct ext4_inode *raw FREE_SCOPE = mem_alloc(ck->g->inode_size);
	uint32_t ino = le32_get(ck->fs->super.s_orphan_file_inum), before = ck->orphans;
	lblk_t blocks = 0;
	struct check_map m = {
		.ck = ck,
		.raw = raw,
		.quiet = true, /* what is wrong with its map is said with the inode */
		.extent = orphan_extent,
		.arg = &blocks,
	};
	int err;

	if (!raw)
		return -ENOMEM;
	if (ino < ck->g->first_ino || ino > ck->g->inodes) {
		check_problem(ck, "superblock: the orphan file is inode %u", ino);
		return 0;
	}
	if (!check_raw(ck, ino, raw))
		return 0;
	if (check_type(raw) != 0100000 || !check_has_map(ck->g, raw)) {
		check_problem(ck, "inode %u: it should be the orphan file", ino);
		return 0;
	}
	m.vi = (struct verify_inode){
		.geom = ck->g,
		.ino = ino,
		.generation = le32_get(raw->i_generation),
		.csum_seed = verify_inode_seed(ck->g, ino, le32_get(raw->i_generation)),
	};
	err = check_map_walk(&m);
	if (err < 0)
		return err;
	if (!m.damaged && check_size(ck->g, raw) != (uint64_t)blocks << ck->g->block_bits)
		check_problem(ck, "orphan file: %" PRIu64 " bytes in %u blocks",
			      check_size(ck->g, raw), blocks);
	if (ck->orphans > before &&
	    !geom_has_ro_compat(ck->g, EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT))
		check_problem(ck, "orphan file: it has entries, but orphan_present is not set");
	return 0;
}

int check_orphans(struct check *ck)
{
	int err;

	err = orphan_list(ck);
	if (err == 0 && geom_has_compat(ck->g, EXT4_FEATURE_COMPAT_ORPHAN_FILE))
		err = orphan_file(ck);
	return err;
}

/* ---- directories ----------------------------------------------------------------------------- */

/* Up from @from as far as nobody went before.  NULL: the way ends nowhere; it was said. */
static struct check_dir *walk_up(struct check *ck, struct check_dir *from, uint32_t visit)
{
	struct check_dir *dir = from;

	while (dir && !dir->connected) {
		if (dir->visit == visit) {
			check_problem(ck, "directory %u: it lies in itself", dir->ino);
			return NULL;
		}
		dir->visit = visit;
		/* One without a parent is said by itself. */
		dir = dir->parent ? check_dir_find(ck, dir->parent) : NULL;
	}
	return dir;
}

static void connect(struct check *ck, struct check_dir *from)
{
	for (struct check_dir *dir = from; dir && !dir->connected;) {
		dir->connected = true;
		dir = dir->parent ? check_dir_find(ck, dir->parent) : NULL;
	}
}

static void check_parent(struct check *ck, struct check_dir *dir)
{
	if (dir->parent == 0)
		check_problem(ck, "directory %u: no entry leads to it", dir->ino);
	else if (dir->dotdot != dir->parent)
		check_problem(ck, "directory %u: \"..\" is inode %u, but it lies in %u", dir->ino,
			      dir->dotdot, dir->parent);
}

int check_connections(struct check *ck)
{
	struct check_dir *root = check_dir_find(ck, EXT4_ROOT_INO);

	if (root) {
		if (root->dotdot != EXT4_ROOT_INO)
			check_problem(ck, "root directory: \"..\" is inode %u", root->dotdot);
		root->parent = EXT4_ROOT_INO;
		root->connected = true;
	}
	for (size_t i = 0; i < ck->dirs_count; i++) {
		struct check_dir *dir = &ck->dirs[i];
		int err = 0;

		if (i % 1024 == 0 || i + 1 == ck->dirs_count)
			err = check_progress(ck, i + 1, ck->dirs_count);
		if (err < 0)
			return err;
		if (dir == root)
			continue;
		if (check_ino(ck, dir->ino)->links == 0) {
			dir->connected = true; /* removed, and open when the image stopped */
			continue;
		}
		check_parent(ck, dir);
		walk_up(ck, dir, (uint32_t)i + 1);
		connect(ck, dir);
	}
	return 0;
}

/* ---- link counts ----------------------------------------------------------------------------- */

static void check_count(struct check *ck, uint32_t ino, const struct check_ino *entry)
{
	bool is_dir = entry->type == 0040000 >> 12;
	uint32_t wanted = entry->names;

	if (entry->state & (CHECK_INO_SYSTEM | CHECK_INO_EA))
		return;
	if (wanted == 0 && entry->links != 0 && !is_dir) {
		check_problem(ck, "inode %u: in use, but it has no name", ino);
		return;
	}
	/* An indexed directory with more links than can be counted has 1, and keeps it. */
	if (is_dir && entry->links == 1 &&
	    geom_has_ro_compat(ck->g, EXT4_FEATURE_RO_COMPAT_DIR_NLINK) &&
	    (wanted > LINKS_MAX || check_dir_find(ck, ino)->indexed))
		return;
	if (entry->links != wanted)
		check_problem(ck, "inode %u: link count is %u, %u entr%s here", ino, entry->links,
			      wanted, wanted == 1 ? "y leads" : "ies lead");
	else if (wanted > LINKS_MAX)
		check_problem(ck, "inode %u: %u links are more than a file can have", ino, wanted);
}

int check_links(struct check *ck)
{
	const struct geom *g = ck->g;

	for (uint32_t number = 0; number < g->groups; number++) {
		const struct check_group *group = &ck->groups[number];
		int err;

		for (uint32_t i = 0; group->inos && i < group->inos_count; i++) {
			uint32_t ino = number * g->inodes_per_group + i + 1;

			if (group->inos[i].state & CHECK_INO_USED)
				check_count(ck, ino, &group->inos[i]);
			else if (group->inos[i].state & CHECK_INO_ORPHAN)
				check_problem(ck, "inode %u: an orphan, but not in use", ino);
		}
		err = check_progress(ck, number + 1, g->groups);
		if (err < 0)
			return err;
	}
	return 0;
}
