/* SPDX-License-Identifier: MIT */
/*
 * The free clusters of one group, in memory and on disk, and which group has how many together.
 *
 * A group is loaded when something is first taken from it or freed in it: then its bitmap is read,
 * verified, and copied (G1).  Before that its descriptor alone tells how much is free.
 *
 *  F1  group.largest is an upper bound: a scan of the whole group makes it exact, taking leaves it,
 *      giving back raises it.  So a group that has enough is never overlooked, and one that has
 *      not is tried once.
 *  F2  No bitmap is read with a group's lock held.
 */
#include "fs/balloc_priv.h"

#include "base/diag.h"
#include "base/mem.h"

/* So far around what is given back the end of the run is looked for. */
#define SIGHT_BITS 512u

/* How many groups are looked at to unload some. */
#define UNLOAD_STEPS 256u

/* ---- places ---------------------------------------------------------------------------------- */

uint32_t group_clusters(const struct geom *g, uint32_t group)
{
	blk_t left = g->blocks - geom_group_first_block(g, group);

	return (uint32_t)min_u64(left >> g->cluster_ratio_bits, g->clusters_per_group);
}

void group_lock(struct balloc *b, uint32_t group) NO_TSA
{
	mutex_lock(&b->locks[group & b->lock_mask]);
}

void group_unlock(struct balloc *b, uint32_t group) NO_TSA
{
	mutex_unlock(&b->locks[group & b->lock_mask]);
}

/* ---- bitmaps on disk ------------------------------------------------------------------------- */

static uint8_t low_bits(uint32_t count)
{
	return (uint8_t)((1u << count) - 1);
}

uint32_t bitmap_count(const uint8_t *data, uint32_t first, uint32_t count)
{
	uint32_t end = first + count, sum = 0;

	for (; first < end && first % 8 != 0; first++)
		sum += data[first / 8] >> first % 8 & 1;
	for (; end - first >= 64; first += 64) {
		uint64_t word;

		memcpy(&word, data + first / 8, sizeof(word));
		sum += (uint32_t)__builtin_popcountll(word);
	}
	for (; first < end; first++)
		sum += data[first / 8] >> first % 8 & 1;
	return sum;
}

void bitmap_set(uint8_t *data, uint32_t first, uint32_t count)
{
	for (; count > 0 && first % 8 != 0; first++, count--)
		data[first / 8] |= (uint8_t)(1u << first % 8);
	memset(data + first / 8, 0xFF, count / 8);
	if (count % 8)
		data[(first + count) / 8] |= low_bits(count % 8);
}

void bitmap_clear(uint8_t *data, uint32_t first, uint32_t count)
{
	for (; count > 0 && first % 8 != 0; first++, count--)
		data[first / 8] &= (uint8_t) ~(1u << first % 8);
	memset(data + first / 8, 0, count / 8);
	if (count % 8)
		data[(first + count) / 8] &= (uint8_t)~low_bits(count % 8);
}

uint32_t bitmap_find_zero(const uint8_t *data, uint32_t first, uint32_t end)
{
	uint64_t before = (UINT64_C(1) << first % 64) - 1, word; /* of the first word */

	for (uint32_t at = first & ~63u; at < end; at += 64, before = 0) {
		memcpy(&word, data + at / 8, sizeof(word));
		word = ~(BASE_LE(64, word) | before);
		if (word != 0)
			return (uint32_t)min_u64(at + (unsigned)__builtin_ctzll(word), end);
	}
	return end;
}

/* Calls fn(arg, first, count) for each piece of the group that the file system keeps for itself. */
static void for_own_clusters(const struct balloc *b, uint32_t group,
			     bool (*fn)(void *arg, uint32_t first, uint32_t count), void *arg)
{
	const struct geom *g = b->geom;
	uint64_t base = (uint64_t)group * g->clusters_per_group;
	uint64_t end = base + group_clusters(g, group);
	const struct zone *z = zones_from(b, cluster_blk(g, base));

	for (; z < b->zones + b->zone_count; z++) {
		uint64_t first = max_u64(cluster_of(g, max_u64(z->start, g->first_data_block)),
					 base);
		uint64_t last = min_u64(cluster_of(g, z->start + z->count - 1), end - 1);

		if (first >= end ||
		    !fn(arg, (uint32_t)(first - base), (uint32_t)(last - first + 1)))
			return;
	}
}

static bool set_bits(void *data, uint32_t first, uint32_t count)
{
	bitmap_set(data, first, count);
	return true;
}

void bitmap_fill_uninit(const struct balloc *b, uint32_t group, uint8_t *data)
{
	uint32_t count = group_clusters(b->geom, group);

	memset(data, 0, b->geom->block_size);
	for_own_clusters(b, group, set_bits, data);
	bitmap_set(data, count, b->geom->block_size * 8 - count);
}

/* ---- which group has how many together ------------------------------------------------------- */

#define FIT_BITS 6
#define FIT_WAYS (1u << FIT_BITS)

/* 1 for one cluster, 2 for 2 and 3, 3 for 4 to 7, ... */
unsigned fit_class(uint32_t clusters)
{
	return clusters ? 32 - (unsigned)__builtin_clz(clusters) : 0;
}

unsigned fit_class_of_all(uint32_t clusters)
{
	return fit_class(clusters - 1) + 1;
}

int fit_init(struct balloc *b)
{
	struct fit *f = &b->fit;
	uint32_t count = b->geom->groups;

	mutex_init(&f->lock, RANK_leaf);
	for (;;) {
		assert(f->levels < FIT_LEVELS_MAX);
		f->class[f->levels] = mem_calloc(count, sizeof(*f->class[0]));
		if (!f->class[f->levels])
			return -ENOMEM;
		f->count[f->levels++] = count;
		if (count == 1)
			return 0;
		count = (uint32_t)div_round_up(count, FIT_WAYS);
	}
}

void fit_finish(struct balloc *b)
{
	for (unsigned i = 0; i < b->fit.levels; i++)
		mem_free(b->fit.class[i]);
	mutex_finish(&b->fit.lock);
}

static uint8_t class_at(const struct fit *f, unsigned level, uint32_t index)
{
	return atomic_load_explicit(&f->class[level][index], memory_order_relaxed);
}

/* The first index of [@first, @end) on @level whose class is at least @class, or @end. */
static uint32_t scan_level(const struct fit *f, unsigned level, uint32_t first, uint32_t end,
			   unsigned class)
{
	while (first < end && class_at(f, level, first) < class)
		first++;
	return first;
}

/*
 * Climbs while the rest of a group of 64 has nothing, then goes down to the first that has.  What
 * changes meanwhile may make it go down in vain: then it goes on behind.
 */
uint32_t fit_next(struct balloc *b, uint32_t first, uint32_t end, unsigned class)
{
	const struct fit *f = &b->fit;
	uint32_t at = first;
	unsigned level = 0;

	while ((uint64_t)at << (level * FIT_BITS) < end) {
		uint32_t stop = (uint32_t)min_u64(((uint64_t)at | (FIT_WAYS - 1)) + 1,
						  f->count[level]);

		at = scan_level(f, level, at, stop, class);
		if (at < stop && level == 0)
			return at < end ? at : end;
		if (at < stop) {
			level--;
			at <<= FIT_BITS;
		} else if (at == f->count[level]) {
			return end;
		} else {
			level++;
			at >>= FIT_BITS;
		}
	}
	return end;
}

void fit_update(struct balloc *b, uint32_t group)
{
	const struct group *grp = &b->groups[group];
	struct fit *f = &b->fit;
	uint32_t index = group;
	uint8_t class = (uint8_t)fit_class((uint32_t)min_u64(grp->free, grp->largest));

	if (class_at(f, 0, group) == class)
		return;
	mutex_lock(&f->lock);
	atomic_store_explicit(&f->class[0][group], class, memory_order_relaxed);
	for (unsigned level = 1; level < f->levels; level++) {
		uint32_t first = index & ~(FIT_WAYS - 1);
		uint32_t end = (uint32_t)min_u64((uint64_t)first + FIT_WAYS, f->count[level - 1]);

		class = 0;
		for (uint32_t i = first; i < end; i++) {
			if (class_at(f, level - 1, i) > class)
				class = class_at(f, level - 1, i);
		}
		index >>= FIT_BITS;
		if (class_at(f, level, index) == class)
			break;
		atomic_store_explicit(&f->class[level][index], class, memory_order_relaxed);
	}
	mutex_unlock(&f->lock);
}

/* ---- bits in memory -------------------------------------------------------------------------- */

#define WORD_BITS 64u

static uint32_t words_of(uint32_t bits)
{
	return (uint32_t)div_round_up(bits, WORD_BITS);
}

/* The first bit of [@at, @end) that is @one, or @end. */
static uint32_t next_bit(const uint64_t *bits, uint32_t at, uint32_t end, bool one)
{
	uint64_t flip = one ? 0 : UINT64_MAX;

	while (at < end) {
		uint64_t word = (bits[at / WORD_BITS] ^ flip) >> at % WORD_BITS;

		if (word != 0)
			return (uint32_t)min_u64(at + (uint32_t)__builtin_ctzll(word), end);
		at = (at / WORD_BITS + 1) * WORD_BITS;
	}
	return end;
}

/* The bit of [@first, @end), walked downwards, behind the last 1; @first if there is no 1. */
static uint32_t run_start(const uint64_t *bits, uint32_t first, uint32_t end)
{
	while (end > first) {
		uint32_t word_first = (end - 1) / WORD_BITS * WORD_BITS;
		uint64_t word = bits[word_first / WORD_BITS] << (WORD_BITS - (end - word_first));

		if (word != 0)
			return end - (uint32_t)__builtin_clzll(word) > first
				       ? end - (uint32_t)__builtin_clzll(word)
				       : first;
		end = word_first;
	}
	return first;
}

static void set_run(uint64_t *bits, uint32_t first, uint32_t count, bool one)
{
	while (count > 0) {
		uint32_t shift = first % WORD_BITS;
		uint32_t here = (uint32_t)min_u64(WORD_BITS - shift, count);
		uint64_t mask = (here == WORD_BITS ? UINT64_MAX : (UINT64_C(1) << here) - 1)
				<< shift;

		if (one)
			bits[first / WORD_BITS] |= mask;
		else
			bits[first / WORD_BITS] &= ~mask;
		first += here;
		count -= here;
	}
}

bool space_is_taken(const struct balloc *b, const struct crun *run)
{
	const struct group *grp = &b->groups[cluster_group(b->geom, run->cluster)];
	uint32_t bit = cluster_bit(b->geom, run->cluster);

	return next_bit(grp->bits, bit, bit + run->count, false) == bit + run->count;
}

/* ---- loading --------------------------------------------------------------------------------- */

struct own_check {
	const uint64_t *bits;
	bool missing;
};

static bool check_own(void *arg, uint32_t first, uint32_t count)
{
	struct own_check *check = arg;

	check->missing = next_bit(check->bits, first, first + count, false) != first + count;
	return !check->missing;
}

/* The largest run of 0, and how many there are. */
static void count_runs(const uint64_t *bits, uint32_t end, uint32_t *ret_free,
		       uint32_t *ret_largest)
{
	uint32_t free = 0, largest = 0;

	for (uint32_t at = next_bit(bits, 0, end, false); at < end;) {
		uint32_t stop = next_bit(bits, at, end, true);

		free += stop - at;
		if (stop - at > largest)
			largest = stop - at;
		at = next_bit(bits, stop, end, false);
	}
	*ret_free = free;
	*ret_largest = largest;
}

/* A part of a cluster at the end of the file system counts on disk, and is given to nobody. */
static bool has_free_tail(const struct geom *g, uint32_t group, const uint8_t *data)
{
	uint32_t count = group_clusters(g, group);
	blk_t end = cluster_blk(g, (uint64_t)group * g->clusters_per_group + count);

	return count < g->clusters_per_group && end < g->blocks &&
	       bitmap_count(data, count, 1) == 0;
}

/* G3, the second half; group lock.  @tail: has_free_tail(). */
static int check_bits(struct balloc *b, uint32_t group, const uint64_t *bits, bool tail,
		      uint32_t *ret_largest)
{
	struct own_check own = { .bits = bits };
	uint32_t free;

	for_own_clusters(b, group, check_own, &own);
	if (own.missing)
		return corrupt("block bitmap of group %u: blocks of the file system itself are "
			       "marked free",
			       group);
	count_runs(bits, group_clusters(b->geom, group), &free, ret_largest);
	if (free + tail != b->groups[group].disk_free)
		return corrupt("block bitmap of group %u: %u are free, the descriptor says %u",
			       group, free + tail, b->groups[group].disk_free);
	return 0;
}

/* @data: the bitmap as it lies on disk. */
static void copy_bits(const struct geom *g, uint32_t group, const uint8_t *data, uint64_t *bits)
{
	uint32_t count = group_clusters(g, group), words = words_of(count);

	for (uint32_t i = 0; i < words; i++) {
		le64 word;

		memcpy(&word, data + i * sizeof(word), sizeof(word));
		bits[i] = le64_get(word);
	}
	set_run(bits, count, words * WORD_BITS - count, true);
}

static bool is_uninit(const struct balloc *b, uint32_t group)
{
	return atomic_load(&b->groups[group].flags) & EXT4_BG_BLOCK_UNINIT;
}

/* Group lock.  @data: NULL for a group whose bitmap was never initialised. */
static int install(struct balloc *b, uint32_t group, const uint8_t *data, uint8_t *scratch,
		   uint64_t *bits)
{
	struct group *grp = &b->groups[group];
	uint32_t largest;
	bool tail;
	int err;

	if (!data) {
		bitmap_fill_uninit(b, group, scratch);
		data = scratch;
	}
	copy_bits(b->geom, group, data, bits);
	tail = has_free_tail(b->geom, group, data);
	err = check_bits(b, group, bits, tail, &largest);
	if (err < 0)
		return err;
	grp->bits = bits;
	grp->first_free = 0;
	atomic_fetch_or(&grp->flags, GROUP_LOADED | GROUP_USED);
	atomic_fetch_add(&b->loaded, 1);
	atomic_fetch_sub(&grp->free, tail);
	atomic_fetch_sub(&b->avail, tail);
	atomic_store_explicit(&grp->largest, largest, memory_order_relaxed);
	fit_update(b, group);
	return 0;
}

/*
 * Reads what is needed first (F2); if the group was loaded or initialised by somebody else
 * meanwhile, that is seen with the lock held.
 */
static int load(struct balloc *b, uint32_t group)
{
	struct group_bufs gb GROUP_BUFS_SCOPE = { .group = group };
	struct group *grp = &b->groups[group];
	uint8_t *scratch FREE_SCOPE = NULL;
	bool uninit = is_uninit(b, group);
	uint64_t *bits;
	int err = 0;

	if (uninit) {
		scratch = mem_alloc(b->geom->block_size);
		if (!scratch)
			return -ENOMEM;
	} else {
		err = group_bufs_read(b, group, false, &gb);
		if (err < 0)
			return err;
	}
	bits = mem_alloc(words_of(b->geom->clusters_per_group) * sizeof(*bits));
	if (!bits)
		return -ENOMEM;
	group_lock(b, group);
	if (!grp->bits && uninit == is_uninit(b, group))
		err = install(b, group, uninit ? NULL : gb.bitmap_buf->data, scratch, bits);
	if (grp->bits != bits)
		mem_free(bits);
	group_unlock(b, group);
	return err;
}

/* Group lock.  Memory and disk agree on every cluster, and nobody has asked for long. */
static bool can_unload(struct group *grp)
{
	uint32_t flags = atomic_load(&grp->flags);

	if (!grp->bits || grp->free != grp->disk_free || (flags & GROUP_BLOCKS_BAD))
		return false;
	if (flags & GROUP_USED)
		atomic_fetch_and(&grp->flags, ~GROUP_USED);
	return !(flags & GROUP_USED);
}

/* What is known of their longest runs stays. */
void space_unload_some(struct balloc *b)
{
	for (unsigned i = 0; i < UNLOAD_STEPS && b->loaded >= b->loaded_max; i++) {
		uint32_t group = atomic_fetch_add(&b->hand, 1) % b->geom->groups;
		struct group *grp = &b->groups[group];
		uint64_t *bits = NULL;

		if (!(atomic_load_explicit(&grp->flags, memory_order_relaxed) & GROUP_LOADED))
			continue;
		group_lock(b, group);
		if (can_unload(grp)) {
			bits = grp->bits;
			grp->bits = NULL;
			atomic_fetch_and(&grp->flags, ~GROUP_LOADED);
			atomic_fetch_sub(&b->loaded, 1);
		}
		group_unlock(b, group);
		mem_free(bits);
	}
}

int space_lock_loaded(struct balloc *b, uint32_t group, bool *ret_loaded)
{
	for (;;) {
		int err;

		if (atomic_load(&b->groups[group].flags) & GROUP_BLOCKS_BAD)
			return fail(-EFSCORRUPTED, "the block bitmap of group %u is damaged",
				    group);
		group_lock(b, group);
		if (b->groups[group].bits)
			return 0;
		group_unlock(b, group);
		*ret_loaded = true;
		space_unload_some(b);
		err = load(b, group);
		if (err == -ENOMEM)
			return err;
		if (err < 0) {
			group_set_bad(b, group, GROUP_BLOCKS_BAD, err);
			return err;
		}
	}
}

void group_set_bad(struct balloc *b, uint32_t group, uint32_t bad, int err)
{
	struct group *grp = &b->groups[group];
	bool first;

	group_lock(b, group);
	first = !(atomic_load(&grp->flags) & bad);
	atomic_fetch_or(&grp->flags, bad);
	if (first && bad == GROUP_BLOCKS_BAD) {
		atomic_fetch_sub(&b->avail, grp->free);
		atomic_store(&grp->free, 0);
		fit_update(b, group);
	} else if (first) {
		atomic_fetch_sub(&b->inodes_free, grp->inodes_free);
		atomic_store(&grp->inodes_free, 0);
	}
	group_unlock(b, group);
	if (first)
		(void)fs_error(b->fs, err, 0, geom_group_first_block(b->geom, group));
}

void space_free_all(struct balloc *b)
{
	for (uint32_t i = 0; b->groups && i < b->geom->groups; i++)
		mem_free(b->groups[i].bits);
}

/* ---- taking and giving back ------------------------------------------------------------------ */

/* Group lock. */
static void take_run(struct balloc *b, uint32_t group, uint32_t bit, uint32_t count,
		     struct crun *ret)
{
	struct group *grp = &b->groups[group];

	set_run(grp->bits, bit, count, true);
	atomic_fetch_sub(&grp->free, count);
	if (bit == grp->first_free)
		grp->first_free += count;
	if (!(atomic_load_explicit(&grp->flags, memory_order_relaxed) & GROUP_USED))
		atomic_fetch_or(&grp->flags, GROUP_USED);
	fit_update(b, group);
	ret->cluster = (uint64_t)group * b->geom->clusters_per_group + bit;
	ret->count = count;
}

/* A run of [@first, @end) that has *count, or else the largest one. */
static void find_run(const uint64_t *bits, uint32_t first, uint32_t end, uint32_t *bit,
		     uint32_t *count, uint32_t enough)
{
	for (uint32_t at = next_bit(bits, first, end, false); at < end && *count < enough;) {
		uint32_t stop = next_bit(bits, at, (uint32_t)min_u64(end, (uint64_t)at + enough),
					 true);

		if (stop - at > *count) {
			*bit = at;
			*count = stop - at;
		}
		at = next_bit(bits, stop, end, false);
	}
}

/* Group lock; the group is loaded.  -ENOSPC, without text. */
static int find_and_take(struct balloc *b, uint32_t group, const struct space_want *want,
			 struct crun *ret)
{
	struct group *grp = &b->groups[group];
	uint32_t end = group_clusters(b->geom, group), bit = 0, count = 0, enough;
	uint32_t bound = (uint32_t)min_u64(grp->free, grp->largest);

	if (want->exact && want->bit >= end)
		return -ENOSPC;
	if (want->exact) {
		count = next_bit(grp->bits, want->bit,
				 (uint32_t)min_u64(end, (uint64_t)want->bit + want->count), true) -
			want->bit;
		if (count == 0)
			return -ENOSPC;
		take_run(b, group, want->bit, count, ret);
		return 0;
	}
	if (bound < want->least)
		return -ENOSPC;
	enough = (uint32_t)min_u64(want->count, bound);
	grp->first_free = next_bit(grp->bits, grp->first_free, end, false);
	find_run(grp->bits, (uint32_t)max_u64(want->bit, grp->first_free), end, &bit, &count,
		 enough);
	if (count < enough) {
		find_run(grp->bits, grp->first_free, end, &bit, &count, enough);
		if (count < enough) {
			atomic_store(&grp->largest, count); /* F1 */
			fit_update(b, group);
		}
	}
	if (count < want->least)
		return -ENOSPC;
	take_run(b, group, bit, count, ret);
	return 0;
}

int space_take(struct balloc *b, uint32_t group, const struct space_want *want, struct crun *ret,
	       bool *ret_loaded)
{
	int err;

	assert(want->count > 0 && want->bit < b->geom->clusters_per_group);
	/* Seen without the lock: who claimed something comes back if he finds nothing (G2). */
	if (atomic_load_explicit(&b->groups[group].free, memory_order_relaxed) == 0)
		return -ENOSPC;
	err = space_lock_loaded(b, group, ret_loaded);
	if (err < 0)
		return err;
	err = find_and_take(b, group, want, ret);
	group_unlock(b, group);
	return err;
}

/*
 * Group lock.  F1, after [@bit, +@count) became free: the run that it is now part of, as far as it
 * can be seen from here; of one that goes on farther the group's free clusters are bound enough.
 */
static void raise_largest(struct group *grp, uint32_t end, uint32_t bit, uint32_t count)
{
	uint32_t low = bit > SIGHT_BITS ? bit - SIGHT_BITS : 0;
	uint32_t high = (uint32_t)min_u64(end, (uint64_t)bit + count + SIGHT_BITS);
	uint32_t first = run_start(grp->bits, low, bit);
	uint32_t stop = next_bit(grp->bits, bit + count, high, true), largest = stop - first;

	if ((first == low && low > 0) || (stop == high && high < end))
		largest = grp->free;
	if (largest > grp->largest)
		atomic_store(&grp->largest, largest);
}

uint32_t space_release(struct balloc *b, const struct crun *run)
{
	uint32_t group = cluster_group(b->geom, run->cluster);
	uint32_t bit = cluster_bit(b->geom, run->cluster);
	struct group *grp = &b->groups[group];
	bool bad;

	group_lock(b, group);
	assert(space_is_taken(b, run));
	set_run(grp->bits, bit, run->count, false);
	grp->first_free = (uint32_t)min_u64(grp->first_free, bit);
	bad = atomic_load(&grp->flags) & GROUP_BLOCKS_BAD;
	if (!bad) {
		atomic_fetch_add(&grp->free, run->count);
		raise_largest(grp, group_clusters(b->geom, group), bit, run->count);
		fit_update(b, group);
	}
	group_unlock(b, group);
	return bad ? 0 : run->count;
}
