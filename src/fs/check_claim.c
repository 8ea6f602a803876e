/* SPDX-License-Identifier: MIT */
/*
 * Whose is each block: claims, and who shares what should be his alone.
 *
 * A claim is a bit a cluster, without a name.  Clusters that are claimed twice are remembered, and
 * once all inodes were seen, a second walk says who has them.
 */
#include "fs/check_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <inttypes.h>

#define SHARED_MAX (1u << 18) /* clusters remembered by number */

/* ---- claims ---------------------------------------------------------------------------------- */

static int shared_add(struct check *ck, uint64_t cluster)
{
	static char mark;

	if (ck->shared.count >= SHARED_MAX) {
		ck->shared_overflow = true;
		return 0;
	}
	if (xarray_find(&ck->shared, cluster))
		return 0;
	return xarray_insert(&ck->shared, cluster, &mark);
}

static int shared_add_bits(struct check *ck, uint64_t first_cluster, uint64_t bits)
{
	int err = 0;

	for (; bits && err == 0; bits &= bits - 1)
		err = shared_add(ck, first_cluster + (uint64_t)__builtin_ctzll(bits));
	return err;
}

static int group_bits(struct check *ck, struct check_group *group)
{
	if (!group->claimed)
		group->claimed = mem_calloc(div_round_up(ck->g->clusters_per_group, 64),
					    sizeof(uint64_t));
	return group->claimed ? 0 : -ENOMEM;
}

/* Sets bits [@from, @to) of the group whose first cluster is @base. */
static int claim_bits(struct check *ck, struct check_group *group, uint64_t base, uint32_t from,
		      uint32_t to, bool may_share, bool *ret_shared)
{
	int err;

	err = group_bits(ck, group);
	for (uint32_t at = from; err == 0 && at < to;) {
		uint32_t bit = at % 64, count = (uint32_t)min_u64(64 - bit, to - at);
		uint64_t mask = (count == 64 ? UINT64_MAX : (1ull << count) - 1) << bit;
		uint64_t *word = &group->claimed[at / 64];

		if (*word & mask & -(uint64_t)!may_share) {
			*ret_shared = true;
			err = shared_add_bits(ck, base + at - bit, *word & mask);
		}
		group->claimed_count += (uint32_t)__builtin_popcountll(mask & ~*word);
		*word |= mask;
		at += count;
	}
	return err;
}

static int claim(struct check *ck, blk_t start, uint64_t count, bool may_share, bool *ret_shared)
{
	const struct geom *g = ck->g;
	blk_t end = start + count;

	assert(start >= g->first_data_block && end <= g->blocks);
	while (start < end) {
		uint32_t number = (uint32_t)((start - g->first_data_block) / g->blocks_per_group);
		blk_t first = geom_group_first_block(g, number);
		blk_t stop = min_u64(end, first + g->blocks_per_group);
		int err;

		err = claim_bits(ck, &ck->groups[number], first >> g->cluster_ratio_bits,
				 (uint32_t)((start - first) >> g->cluster_ratio_bits),
				 (uint32_t)((stop - 1 - first) >> g->cluster_ratio_bits) + 1,
				 may_share, ret_shared);
		if (err < 0)
			return err;
		start = stop;
	}
	return 0;
}

int check_claim(struct check *ck, blk_t start, uint64_t count, bool may_share, bool *ret_shared)
{
	*ret_shared = false;
	return claim(ck, start, count, may_share, ret_shared);
}

int check_claim_static(struct check *ck, const struct check_static *st)
{
	bool ignored;

	return claim(ck, st->start, st->count, true, &ignored);
}

bool check_is_claimed(const struct check *ck, blk_t blk)
{
	const struct geom *g = ck->g;
	uint64_t relative = blk - g->first_data_block;
	const uint64_t *bits = ck->groups[relative / g->blocks_per_group].claimed;
	uint64_t bit = relative % g->blocks_per_group >> g->cluster_ratio_bits;

	return bits && bits[bit / 64] >> bit % 64 & 1;
}

/* ---- who shares ------------------------------------------------------------------------------ */

/* What one owner has of the shared clusters. */
struct sharing {
	uint64_t clusters;
	blk_t first;
};

static void sharing_add(struct check *ck, struct sharing *s, blk_t start, uint64_t count)
{
	uint64_t cluster = check_cluster(ck, start);
	uint64_t end = check_cluster(ck, start + count - 1) + 1;

	while (xarray_next(&ck->shared, &cluster) && cluster < end) {
		if (s->clusters++ == 0)
			s->first = max_u64(cluster << ck->g->cluster_ratio_bits, start);
		cluster++;
	}
}

static int sharing_node(struct check_map *m, blk_t blk, bool *ret_enter)
{
	sharing_add(m->ck, m->arg, blk, 1);
	/* What is somebody else's was not gone into the first time either (K4). */
	*ret_enter = !xarray_find(&m->ck->shared, check_cluster(m->ck, blk));
	return 0;
}

static int sharing_extent(struct check_map *m, const struct map_ext *ext)
{
	sharing_add(m->ck, m->arg, ext->physical, ext->count);
	return 0;
}

static int shared_by_inode(struct check *ck, uint32_t ino, const struct ext4_inode *raw)
{
	struct sharing s = { 0 };
	struct check_map m = {
		.ck = ck,
		.raw = raw,
		.vi = { .geom = ck->g, .ino = ino, .generation = le32_get(raw->i_generation) },
		.quiet = true,
		.node = sharing_node,
		.extent = sharing_extent,
		.arg = &s,
	};
	blk_t acl = check_file_acl(ck->g, raw);
	int err = 0;

	m.vi.csum_seed = verify_inode_seed(ck->g, ino, m.vi.generation);
	if (ino != EXT4_RESIZE_INO && check_has_map(ck->g, raw))
		err = check_map_walk(&m);
	if (err < 0)
		return err;
	if (acl > ck->g->first_data_block && acl < ck->g->blocks)
		sharing_add(ck, &s, acl, 1);
	if (s.clusters > 0)
		check_problem(ck, "inode %u: block %" PRIu64 " has more than one owner%s", ino,
			      s.first, s.clusters > 1 ? ", and so have others of its blocks" : "");
	return 0;
}

static void shared_by_statics(struct check *ck)
{
	for (size_t i = 0; i < ck->statics_count; i++) {
		const struct check_static *st = &ck->statics[i];
		struct sharing s = { 0 };

		sharing_add(ck, &s, st->start, st->count);
		if (s.clusters > 0)
			check_problem(ck, "group %u: block %" PRIu64 " of its %s is a file's too",
				      st->group, s.first, st->what);
	}
}

int check_shared(struct check *ck)
{
	struct ext4_inode *raw FREE_SCOPE = NULL;
	uint32_t per_group = ck->g->inodes_per_group;

	if (ck->shared.count == 0)
		return 0;
	raw = mem_alloc(ck->g->inode_size);
	if (!raw)
		return -ENOMEM;
	shared_by_statics(ck);
	for (uint32_t number = 0; number < ck->g->groups; number++) {
		struct check_group *group = &ck->groups[number];

		for (uint32_t i = 0; group->inos && i < group->inos_count; i++) {
			uint32_t ino = number * per_group + i + 1;
			int err = 0;

			if ((group->inos[i].state & CHECK_INO_USED) && check_raw(ck, ino, raw))
				err = shared_by_inode(ck, ino, raw);
			if (err < 0)
				return err;
		}
	}
	if (ck->shared_overflow)
		check_problem(ck,
			      "more than %u blocks have several owners, not all of whom were "
			      "named",
			      SHARED_MAX);
	return 0;
}
