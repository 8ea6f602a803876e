/* SPDX-License-Identifier: MIT */
/*
 * Who is next: at random, by random priorities, or whoever ran before.
 *
 * Depth-first search and replay need no strategy of their own: their choices are a plan, made by
 * explore.c, and behind its end nothing is preempted.
 */
#include "sim/sim_priv.h"

/* The timer of a waiting thread goes off once in so many choices. */
#define TIMER_ODDS 48
#define CHANGES_MAX 64

static struct {
	enum sim_strategy kind;
	struct rng rng;
	uint32_t stay; /* SIM_RANDOM: who runs is left in all but one of so many choices */
	/* SIM_PCT */
	uint32_t changes_count;
	uint64_t changes[CHANGES_MAX]; /* the choices at which a priority changes */
	uint64_t lowest, highest;      /* the next to be given */
} strategy;

/* A permutation of a counter. */
uint64_t rng_next(struct rng *rng)
{
	uint64_t x = rng->state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

uint64_t rng_below(struct rng *rng, uint64_t end)
{
	return rng_next(rng) % end;
}

void strategy_begin(const struct sim_options *options, uint64_t seed, uint64_t steps_hint)
{
	strategy.kind = options->strategy;
	strategy.rng.state = seed;
	strategy.stay = 1u << (1 + 2 * rng_below(&strategy.rng, 4));
	strategy.changes_count = (uint32_t)min_u64(options->preemptions, CHANGES_MAX);
	for (uint32_t i = 0; i < strategy.changes_count; i++)
		strategy.changes[i] = rng_below(&strategy.rng, max_u64(steps_hint, 1));
	strategy.lowest = UINT64_C(1) << 31;
	strategy.highest = UINT64_C(1) << 63;
}

void strategy_thread(struct sim_thread *t)
{
	t->priority = UINT64_C(1) << 32 | (uint32_t)rng_next(&strategy.rng);
}

/* The @nth thread of @set. */
static uint8_t nth_of(threads_t set, uint64_t nth)
{
	while (nth-- > 0)
		set &= set - 1;
	return (uint8_t)__builtin_ctz(set);
}

static uint8_t pick_random(const struct choice *c)
{
	uint64_t r = rng_next(&strategy.rng);

	if (c->timer != NOBODY && r % TIMER_ODDS == 0)
		return c->timer;
	r /= TIMER_ODDS;
	if (c->current != NOBODY && r % strategy.stay != 0)
		return c->current;
	r /= strategy.stay;
	return nth_of(c->could, r % (unsigned)__builtin_popcount(c->could));
}

static bool change_is_due(void)
{
	for (uint32_t i = 0; i < strategy.changes_count; i++) {
		if (strategy.changes[i] == sim_record->choices_count)
			return true;
	}
	return false;
}

/* A change takes the processor from who has it, or gives it to a thread whose timer goes off. */
static uint8_t pick_by_priority(const struct choice *c)
{
	struct sim_thread *threads = sim_record->threads;
	uint8_t best = NOBODY;

	if (change_is_due()) {
		if (c->timer != NOBODY && rng_next(&strategy.rng) % 2 == 0) {
			threads[c->timer].priority = strategy.highest++;
			return c->timer;
		}
		if (c->current != NOBODY)
			threads[c->current].priority = strategy.lowest--;
	}
	for (uint8_t id = 0; id < SIM_THREADS_MAX; id++) {
		if ((c->could & only(id)) &&
		    (best == NOBODY || threads[id].priority > threads[best].priority))
			best = id;
	}
	return best;
}

uint8_t strategy_pick(const struct choice *c)
{
	switch (strategy.kind) {
	case SIM_RANDOM: return pick_random(c);
	case SIM_PCT: return pick_by_priority(c);
	case SIM_DFS:
	case SIM_REPLAY: break;
	}
	return choice_default(c);
}

uint32_t strategy_value(uint32_t count)
{
	if (strategy.kind == SIM_RANDOM || strategy.kind == SIM_PCT)
		return (uint32_t)rng_below(&strategy.rng, count);
	return 0;
}
