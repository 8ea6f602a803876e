/* SPDX-License-Identifier: MIT */
/*
 * The verifier: its passes, its findings, its tables.
 *
 * Reads the device in long requests, not through the cache: everything is wanted once, and a block
 * that the cache holds verified may have changed on disk since.
 */
#include "fs/check_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define TEXT_BYTES 512u
#define PROBLEMS_MAX 1000u

/* ---- findings -------------------------------------------------------------------------------- */

void check_problem(struct check *ck, const char *fmt, ...)
{
	uint64_t max = ck->options->problems_max ? ck->options->problems_max : PROBLEMS_MAX;
	char text[TEXT_BYTES];
	va_list args;

	if (ck->result.problems++ >= max || !ck->options->problem)
		return;
	va_start(args, fmt);
	if (vsnprintf(text, sizeof(text), fmt, args) < 0)
		text[0] = '\0';
	va_end(args);
	ck->options->problem(ck->options->arg, text);
}

bool check_good(struct check *ck, int err)
{
	if (err == 0)
		return true;
	check_problem(ck, "%s", diag_text());
	diag_clear();
	return false;
}

const char *check_name(char buf[CHECK_NAME_BYTES], const void *name, size_t len)
{
	const uint8_t *bytes = name;
	size_t shown = min_size(len, 40), used = 0;

	for (size_t i = 0; i < shown; i++) {
		bool plain = bytes[i] >= 0x20 && bytes[i] < 0x7f && bytes[i] != '\\';

		used += (size_t)snprintf(buf + used, CHECK_NAME_BYTES - used,
					 plain ? "%c" : "\\%03o", bytes[i]);
	}
	snprintf(buf + used, CHECK_NAME_BYTES - used, "%s", shown < len ? "..." : "");
	return buf;
}

int check_progress(struct check *ck, uint64_t done, uint64_t total)
{
	if (ck->options->progress &&
	    ck->options->progress(ck->options->arg, ck->pass, done, total) != 0)
		return fail(-ECANCELED, "the check was stopped");
	return 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

bool check_read(struct check *ck, blk_t blk, uint32_t count, void *to)
{
	assert(blk < ck->g->blocks && count <= ck->g->blocks - blk);
	return check_good(ck, dev_read(ck->fs->dev, blk << ck->g->block_bits, to,
				       (size_t)count << ck->g->block_bits));
}

bool check_raw(struct check *ck, uint32_t ino, struct ext4_inode *raw)
{
	const struct geom *g = ck->g;
	uint32_t index = (ino - 1) % g->inodes_per_group;
	const struct check_group *group = &ck->groups[(ino - 1) / g->inodes_per_group];
	blk_t table = u64_from_lo_hi(group->gd.bg_inode_table_lo, group->gd.bg_inode_table_hi);

	assert(ino > 0 && ino <= g->inodes);
	if (!group->usable)
		return false;
	return check_good(ck, dev_read(ck->fs->dev,
				       (table << g->block_bits) + (uint64_t)index * g->inode_size,
				       raw, g->inode_size));
}

/* ---- tables ---------------------------------------------------------------------------------- */

int check_grow(void *array_ptr, size_t count, size_t *room, size_t element_bytes)
{
	void *array, **slot = array_ptr;
	size_t wanted = *room ? *room * 2 : 64;

	if (count < *room)
		return 0;
	if (wanted > SIZE_MAX / element_bytes)
		return fail(-ENOMEM, "out of memory");
	array = mem_realloc(*slot, wanted * element_bytes);
	if (!array)
		return -ENOMEM;
	*slot = array;
	*room = wanted;
	return 0;
}

struct check_ino *check_ino(struct check *ck, uint32_t ino)
{
	struct check_group *group;
	uint32_t index;

	if (ino == 0 || ino > ck->g->inodes)
		return NULL;
	group = &ck->groups[(ino - 1) / ck->g->inodes_per_group];
	index = (ino - 1) % ck->g->inodes_per_group;
	return group->inos && index < group->inos_count ? &group->inos[index] : NULL;
}

int check_ino_make(struct check *ck, uint32_t ino, struct check_ino **ret)
{
	struct check_group *group = &ck->groups[(ino - 1) / ck->g->inodes_per_group];

	assert(ino > 0 && ino <= ck->g->inodes);
	if (!group->inos && group->inos_count > 0) {
		group->inos = mem_calloc(group->inos_count, sizeof(*group->inos));
		if (!group->inos)
			return -ENOMEM;
	}
	*ret = check_ino(ck, ino);
	return 0;
}

bool check_ino_known(struct check *ck, uint32_t ino)
{
	return ck->groups[(ino - 1) / ck->g->inodes_per_group].usable;
}

static int compare_dir(const void *key, const void *element)
{
	const uint32_t ino = *(const uint32_t *)key,
		       other = ((const struct check_dir *)element)->ino;

	return (ino > other) - (ino < other);
}

struct check_dir *check_dir_find(struct check *ck, uint32_t ino)
{
	if (ck->dirs_count == 0)
		return NULL;
	return bsearch(&ino, ck->dirs, ck->dirs_count, sizeof(*ck->dirs), compare_dir);
}

static int tables_create(struct check *ck)
{
	const uint32_t bytes = ck->g->block_size;

	ck->groups = mem_calloc(ck->g->groups, sizeof(*ck->groups));
	ck->block = mem_alloc(bytes);
	ck->window = mem_alloc(CHECK_WINDOW_BYTES);
	if (!ck->groups || !ck->block || !ck->window)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(ck->node); i++) {
		ck->node[i] = mem_alloc(bytes);
		if (!ck->node[i])
			return -ENOMEM;
	}
	return 0;
}

static void tables_destroy(struct check *ck)
{
	for (uint32_t i = 0; ck->groups && i < ck->g->groups; i++) {
		mem_free(ck->groups[i].inos);
		mem_free(ck->groups[i].claimed);
	}
	mem_free(ck->groups);
	mem_free(ck->block);
	mem_free(ck->window);
	for (size_t i = 0; i < ARRAY_SIZE(ck->node); i++)
		mem_free(ck->node[i]);
	mem_free(ck->statics);
	mem_free(ck->dirs);
	mem_free(ck->dir_extents);
	mem_free(ck->xattr_blocks);
	mem_free(ck->ea_inodes);
	xarray_finish(&ck->shared);
	xarray_finish(&ck->xattr_index);
	xarray_finish(&ck->ea_index);
	check_quota_close(ck);
}

/* ---- passes ---------------------------------------------------------------------------------- */

static int pass_inodes(struct check *ck)
{
	int err;

	err = check_super(ck);
	if (err == 0)
		err = check_orphans(ck);
	if (err == 0)
		err = check_quota_open(ck);
	if (err == 0)
		err = check_inodes(ck);
	if (err == 0)
		err = check_shared(ck);
	return err;
}

static int pass_links(struct check *ck)
{
	int err;

	err = check_links(ck);
	return err < 0 ? err : check_xattr_counts(ck);
}

static int run(struct check *ck)
{
	static int (*const passes[UEXT4_CHECK_PASSES])(struct check *) = {
		[UEXT4_CHECK_INODES] = pass_inodes,
		[UEXT4_CHECK_DIRECTORIES] = check_dirs,
		[UEXT4_CHECK_CONNECTIONS] = check_connections,
		[UEXT4_CHECK_LINKS] = pass_links,
		[UEXT4_CHECK_GROUPS] = check_groups,
		[UEXT4_CHECK_QUOTA] = check_quota_compare,
	};
	int err;

	ck->result.blocks_used = ck->g->first_data_block; /* before the first group */
	err = tables_create(ck);
	for (unsigned pass = 0; err == 0 && pass < UEXT4_CHECK_PASSES; pass++) {
		ck->pass = (enum uext4_check_pass)pass;
		err = passes[pass](ck);
	}
	return err;
}

/* Who does not know all features cannot say that all is well. */
static int check_features(const struct geom *g)
{
	const uint32_t unknown[] = { g->compat, 0, g->ro_compat & ~GEOM_RO_COMPAT_KNOWN };

	for (unsigned set = 0; set < ARRAY_SIZE(unknown); set++) {
		for (unsigned bit = 0; bit < 32; bit++) {
			const char *name = feature_name(set, bit);

			if (!(unknown[set] & 1u << bit) || (set == 0 && name))
				continue;
			return fail(-EOPNOTSUPP,
				    "feature %s (%scompat, bit %u) is not known: what "
				    "it means is not checked",
				    name ? name : "without a name", set == 2 ? "ro_" : "", bit);
		}
	}
	return 0;
}

int check_run(struct uext4_fs *fs, const struct uext4_check_options *options,
	      struct uext4_check_result *ret_result)
{
	struct check ck = { .fs = fs, .g = &fs->geom, .options = options };
	int err;

	if (fs->writable)
		return fail(-EINVAL, "an image is checked when it is open for reading");
	if (fs->fc)
		return fail(-EOPNOTSUPP, "the image has fast commits that are not replayed: what "
					 "they changed is not checked; replay it first");
	err = check_features(&fs->geom);
	if (err < 0)
		return err;
	xarray_init(&ck.shared);
	xarray_init(&ck.xattr_index);
	xarray_init(&ck.ea_index);
	err = run(&ck);
	tables_destroy(&ck);
	if (err < 0)
		return err;
	*ret_result = ck.result;
	return 0;
}
