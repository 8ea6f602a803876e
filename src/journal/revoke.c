/* SPDX-License-Identifier: MIT */
/* A set of block numbers: those freed in one transaction.  At most half of the slots are in use. */
#include "journal/txn_priv.h"

#include "base/mem.h"

#define CAPACITY_MIN 64u
#define CAPACITY_KEPT 4096u /* kept for the next transaction */

static size_t slot_of(const struct revoke_set *s, uint64_t key)
{
	return (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & (s->capacity - 1);
}

/* Where @blk is, or the empty slot where it would be. */
static size_t find(const struct revoke_set *s, blk_t blk)
{
	size_t at = slot_of(s, blk + 1);

	while (s->slots[at] != 0 && s->slots[at] != blk + 1)
		at = (at + 1) & (s->capacity - 1);
	return at;
}

void revoke_set_finish(struct revoke_set *s)
{
	mem_free(s->slots);
	*s = (struct revoke_set){ 0 };
}

void revoke_set_clear(struct revoke_set *s)
{
	if (s->capacity > CAPACITY_KEPT)
		revoke_set_finish(s);
	else if (s->count != 0)
		memset(s->slots, 0, s->capacity * sizeof(*s->slots));
	s->count = 0;
}

bool revoke_set_has(const struct revoke_set *s, blk_t blk)
{
	return s->count != 0 && s->slots[find(s, blk)] != 0;
}

static int grow(struct revoke_set *s)
{
	struct revoke_set larger = { .count = s->count };
	size_t at = 0;
	blk_t blk;

	larger.capacity = s->capacity == 0 ? CAPACITY_MIN : 2 * s->capacity;
	larger.slots = mem_calloc(larger.capacity, sizeof(*larger.slots));
	if (larger.slots == NULL)
		return -ENOMEM;
	while (revoke_set_next(s, &at, &blk))
		larger.slots[find(&larger, blk)] = blk + 1;
	mem_free(s->slots);
	*s = larger;
	return 0;
}

int revoke_set_add(struct revoke_set *s, blk_t blk)
{
	size_t at;
	int err;

	if (2 * (s->count + 1) > s->capacity) {
		err = grow(s);
		if (err < 0)
			return err;
	}
	at = find(s, blk);
	if (s->slots[at] == 0) {
		s->slots[at] = blk + 1;
		s->count++;
	}
	return 0;
}

/* Those behind it that collided with it, or with each other, move up: a hole would hide them. */
void revoke_set_remove(struct revoke_set *s, blk_t blk)
{
	size_t hole, at;

	if (s->count == 0)
		return;
	hole = find(s, blk);
	if (s->slots[hole] == 0)
		return;
	s->slots[hole] = 0;
	s->count--;
	for (at = (hole + 1) & (s->capacity - 1); s->slots[at] != 0;
	     at = (at + 1) & (s->capacity - 1)) {
		uint64_t key = s->slots[at];

		s->slots[at] = 0;
		s->slots[find(s, key - 1)] = key;
	}
}

bool revoke_set_next(const struct revoke_set *s, size_t *at, blk_t *ret_blk)
{
	for (; *at < s->capacity; (*at)++) {
		if (s->slots[*at] != 0) {
			*ret_blk = s->slots[(*at)++] - 1;
			return true;
		}
	}
	return false;
}
