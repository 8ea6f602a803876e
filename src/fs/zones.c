/* SPDX-License-Identifier: MIT */
/*
 * Zones: where the file system's own blocks lie (superblocks, descriptors and room for more of
 * them, bitmaps, inode tables, the journal, the MMP block).  Collected once, when an image is
 * opened for writing, so that nothing of it is ever given away or freed, whatever bitmaps and
 * extents say.
 *
 *  Z1  Zones are sorted and disjoint, and neighbours are joined: one that was made by mke2fs with
 *      flex_bg costs a few of them for 16 groups.
 */
#include "fs/balloc_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <stdlib.h>

int zones_add(struct zone_list *list, blk_t start, uint64_t count)
{
	struct zone *last = list->count > 0 ? &list->zones[list->count - 1] : NULL, *zones;

	if (last && last->start + last->count == start) {
		last->count += count;
		return 0;
	}
	if (list->count == list->room) {
		size_t room = list->room ? list->room * 2 : 64;

		zones = mem_realloc(list->zones, room * sizeof(*zones));
		if (!zones)
			return -ENOMEM;
		list->zones = zones;
		list->room = room;
	}
	list->zones[list->count++] = (struct zone){ .start = start, .count = count };
	return 0;
}

/* How many blocks superblock and descriptors take at the start of @group. */
static uint64_t group_head_blocks(const struct geom *g, uint32_t group)
{
	bool has_super = geom_group_has_super(g, group);
	bool meta_bg = geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_META_BG);
	uint32_t index = group / g->desc_per_block, place = group % g->desc_per_block;

	if (meta_bg && index >= g->first_meta_bg)
		return has_super + (place <= 1 || place == g->desc_per_block - 1);
	if (!has_super)
		return 0;
	return UINT64_C(1) + (meta_bg ? g->first_meta_bg : g->desc_blocks) + g->reserved_gdt_blocks;
}

int zones_add_group(struct zone_list *list, const struct geom *g, uint32_t group)
{
	blk_t start = geom_group_first_block(g, group);
	uint64_t count = group_head_blocks(g, group);

	/* With bigalloc blocks of 1024 bytes count from 0: the boot block comes first. */
	if (group == 0 && g->first_data_block == 0 && g->block_size == 1024)
		count++;
	count = min_u64(count, g->blocks - start);
	return count ? zones_add(list, start, count) : 0;
}

static int compare(const void *a, const void *b)
{
	blk_t x = ((const struct zone *)a)->start, y = ((const struct zone *)b)->start;

	return (x > y) - (x < y);
}

int zones_finish(struct zone_list *list)
{
	size_t kept = 0;

	qsort(list->zones, list->count, sizeof(list->zones[0]), compare);
	for (size_t i = 1; i < list->count; i++) {
		struct zone *last = &list->zones[kept], *next = &list->zones[i];

		if (next->start < last->start + last->count)
			return corrupt(
				"bitmaps, tables, descriptors or the journal overlap at block %llu",
				(unsigned long long)next->start);
		if (next->start == last->start + last->count)
			last->count += next->count;
		else
			list->zones[++kept] = *next;
	}
	if (list->count > 0)
		list->count = kept + 1;
	return 0;
}

const struct zone *zones_from(const struct balloc *b, blk_t blk)
{
	size_t lo = 0, hi = b->zone_count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (b->zones[mid].start + b->zones[mid].count > blk)
			hi = mid;
		else
			lo = mid + 1;
	}
	return &b->zones[lo];
}

bool zones_touch(const struct balloc *b, blk_t start, uint64_t count)
{
	const struct zone *z = zones_from(b, start);

	return z < b->zones + b->zone_count && z->start < start + count;
}
