/* SPDX-License-Identifier: MIT */
/*
 * sync/sync.h under the scheduler: a lock is a few numbers that say who has it.
 *
 * They lie where the other implementation has its pthread objects, so the engine's objects are the
 * same under both.  Order of events as there: an acquisition is announced to the rank checker
 * before it may wait, and a release before the lock is given up; what the lock lies in may be gone
 * behind it.
 *
 * Outside of a run there is one thread, which must find every lock free.
 */
#include "sim/sim_priv.h"

#include "sync/sync_priv.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

/* 2025-01-01, so that times of files look like some. */
#define REAL_START_SEC 1735689600
#define NS_PER_S UINT64_C(1000000000)
#define OUTSIDE only(31)

_Static_assert(sizeof(struct sim_mutex) <= sizeof(((struct mutex *)0)->os), "overlay");
_Static_assert(sizeof(struct sim_rwlock) <= sizeof(((struct rwlock *)0)->os), "overlay");
_Static_assert(SIM_THREADS_MAX < 31, "sets of threads");

static struct sim_mutex *mutex_of(const struct mutex *m)
{
	return (struct sim_mutex *)(uintptr_t)&m->os;
}

static struct sim_rwlock *rwlock_of(const struct rwlock *l)
{
	return (struct sim_rwlock *)(uintptr_t)&l->os;
}

static threads_t me(void)
{
	const struct sim_thread *t = sched_self();

	return t ? only(t->id) : OUTSIDE;
}

static void must_be_free(bool free)
{
	if (free)
		return;
	fprintf(stderr, "sim: outside of a run a thread would wait for ever\n");
	abort();
}

/* ---- what threads wait for ------------------------------------------------------------------- */

static bool bit_is_set(const struct object *o)
{
	return atomic_load((const _Atomic uint32_t *)o->at) & o->bit;
}

bool want_is_there(const struct sim_thread *t)
{
	const struct object *o = &t->object;
	const struct sim_rwlock *l;

	switch (t->op) {
	case OP_LOCK: return mutex_of(o->at)->owner == 0;
	case OP_READ: l = rwlock_of(o->at); return l->writer == 0 && l->queued == 0;
	case OP_WRITE:
	case OP_QUEUED: l = rwlock_of(o->at); return l->writer == 0 && l->readers == 0;
	case OP_BIT:
	case OP_BIT_CLEAR: return !bit_is_set(o);
	case OP_COND:
	case OP_SLEEP: return false; /* they become another want */
	case OP_JOIN: return sim_record->threads[t->target].done;
	default: return true;
	}
}

static threads_t holders_of_bit(const struct object *o)
{
	threads_t found = 0;

	for (unsigned i = 0; i < sim_record->threads_count; i++) {
		const struct sim_thread *t = &sim_record->threads[i];

		for (unsigned k = 0; k < t->held_count; k++) {
			if (t->held[k].object.at == o->at && t->held[k].object.bit == o->bit)
				found |= only(i);
		}
	}
	return found;
}

threads_t want_blockers(const struct sim_thread *t)
{
	const struct object *o = &t->object;
	const struct sim_rwlock *l;

	switch (t->op) {
	case OP_LOCK: return mutex_of(o->at)->owner;
	case OP_READ: l = rwlock_of(o->at); return l->writer ? l->writer : l->queued;
	case OP_WRITE:
	case OP_QUEUED: l = rwlock_of(o->at); return l->writer | l->readers;
	case OP_BIT: return bit_is_set(o) ? holders_of_bit(o) : 0;
	case OP_JOIN: return sim_record->threads[t->target].done ? 0 : only(t->target);
	default: return 0;
	}
}

/* ---- mutex ----------------------------------------------------------------------------------- */

static struct object mutex_object(const struct mutex *m)
{
	return (struct object){ .at = m, .rank = (uint8_t)m->rank, .serial = mutex_of(m)->serial };
}

void mutex_init(struct mutex *m, enum lock_rank rank)
{
	memset(&m->os, 0, sizeof(m->os));
	m->rank = rank;
	if (sched_self())
		mutex_of(m)->serial = sim_record->serials[rank]++;
}

void mutex_finish(struct mutex *m)
{
	assert(mutex_of(m)->owner == 0);
	memset(&m->os, 0xff, sizeof(m->os)); /* who still takes it waits for ever */
}

NO_TSA void mutex_lock(struct mutex *m)
{
	struct object o = mutex_object(m);

	lockrank_acquire(m->rank, 0, m);
	if (sched_self()) {
		sched_step(OP_LOCK, &o);
		sched_hold(&o, false);
	}
	must_be_free(mutex_of(m)->owner == 0);
	mutex_of(m)->owner = me();
}

NO_TSA bool mutex_trylock(struct mutex *m)
{
	struct object o = mutex_object(m);
	bool free;

	if (sched_self())
		sched_pause();
	free = mutex_of(m)->owner == 0;
	if (free) {
		mutex_of(m)->owner = me();
		lockrank_acquire_tried(m->rank, 0, m);
	}
	if (sched_self()) {
		if (free)
			sched_hold(&o, false);
		sched_done(OP_TRY, free ? NOTE_NONE : NOTE_FAILED, &o, false);
	}
	return free;
}

NO_TSA void mutex_unlock(struct mutex *m)
{
	struct object o = mutex_object(m);

	lockrank_release(m->rank, m);
	assert(mutex_of(m)->owner == me());
	mutex_of(m)->owner = 0;
	if (sched_self()) {
		sched_drop(&o);
		sched_done(OP_UNLOCK, NOTE_NONE, &o, true);
	}
}

void mutex_assert_held(const struct mutex *m)
{
	lockrank_assert_held(m->rank, m);
	assert(mutex_of(m)->owner == me());
}

/* ---- rwlock ---------------------------------------------------------------------------------- */

static struct object rwlock_object(const struct rwlock *l, uint64_t key)
{
	return (struct object){ .at = l, .rank = (uint8_t)l->rank, .key = key };
}

void rwlock_init(struct rwlock *l, enum lock_rank rank, uint64_t key)
{
	memset(&l->os, 0, sizeof(l->os));
	l->rank = rank;
	l->key = key;
}

void rwlock_finish(struct rwlock *l)
{
	assert(rwlock_of(l)->readers == 0 && rwlock_of(l)->writer == 0);
	memset(&l->os, 0xff, sizeof(l->os));
}

static void read_lock(struct rwlock *l, uint64_t key)
{
	struct sim_rwlock *s = rwlock_of(l);
	struct object o = rwlock_object(l, key);

	lockrank_acquire(l->rank, key, l);
	if (sched_self()) {
		sched_step(OP_READ, &o);
		sched_hold(&o, true);
	}
	must_be_free(s->writer == 0);
	s->readers |= me();
}

/*
 * It arrives, and if the lock is not free it queues: from then on no reader comes in.  Two steps,
 * so that others can run between them.
 */
static void write_lock(struct rwlock *l, uint64_t key)
{
	struct sim_rwlock *s = rwlock_of(l);
	struct object o = rwlock_object(l, key);

	lockrank_acquire(l->rank, key, l);
	if (sched_self()) {
		sched_pause();
		if (s->writer != 0 || s->readers != 0) {
			s->queued |= me();
			sched_step(OP_QUEUED, &o);
			s->queued &= ~me();
		} else {
			sched_done(OP_WRITE, NOTE_NONE, &o, false);
		}
		sched_hold(&o, false);
	}
	must_be_free(s->writer == 0 && s->readers == 0);
	s->writer = me();
}

NO_TSA void rwlock_read(struct rwlock *l)
{
	read_lock(l, l->key);
}

NO_TSA void rwlock_read_as(struct rwlock *l, uint64_t key)
{
	read_lock(l, key);
}

NO_TSA void rwlock_write(struct rwlock *l)
{
	write_lock(l, l->key);
}

NO_TSA void rwlock_write_as(struct rwlock *l, uint64_t key)
{
	write_lock(l, key);
}

NO_TSA bool rwlock_tryread(struct rwlock *l)
{
	struct sim_rwlock *s = rwlock_of(l);
	struct object o = rwlock_object(l, l->key);
	bool free;

	if (sched_self())
		sched_step(OP_RUN, NULL);
	free = s->writer == 0 && s->queued == 0;
	if (free) {
		s->readers |= me();
		lockrank_acquire_tried(l->rank, l->key, l);
	}
	if (sched_self()) {
		if (free)
			sched_hold(&o, true);
		sched_done(OP_TRY, free ? NOTE_NONE : NOTE_FAILED, &o, false);
	}
	return free;
}

NO_TSA bool rwlock_trywrite(struct rwlock *l)
{
	struct sim_rwlock *s = rwlock_of(l);
	struct object o = rwlock_object(l, l->key);
	bool free;

	if (sched_self())
		sched_pause();
	free = s->writer == 0 && s->readers == 0;
	if (free) {
		s->writer = me();
		lockrank_acquire_tried(l->rank, l->key, l);
	}
	if (sched_self()) {
		if (free)
			sched_hold(&o, false);
		sched_done(OP_TRY, free ? NOTE_NONE : NOTE_FAILED, &o, false);
	}
	return free;
}

static void rwlock_given_up(const struct rwlock *l)
{
	struct object o = rwlock_object(l, l->key);

	if (!sched_self())
		return;
	sched_drop(&o);
	sched_done(OP_UNLOCK, NOTE_NONE, &o, true);
}

NO_TSA void rwlock_read_unlock(struct rwlock *l)
{
	lockrank_release(l->rank, l);
	assert(rwlock_of(l)->readers & me());
	rwlock_of(l)->readers &= ~me();
	rwlock_given_up(l);
}

NO_TSA void rwlock_write_unlock(struct rwlock *l)
{
	lockrank_release(l->rank, l);
	assert(rwlock_of(l)->writer == me());
	rwlock_of(l)->writer = 0;
	rwlock_given_up(l);
}

/* ---- cond ------------------------------------------------------------------------------------ */

/* Who waits is known to the scheduler, by address. */
void cond_init(struct cond *c)
{
	memset(&c->os, 0, sizeof(c->os));
}

void cond_finish(struct cond *c)
{
	memset(&c->os, 0xff, sizeof(c->os));
}

NO_TSA void cond_wait(struct cond *c, struct mutex *m)
{
	lockrank_assert_last(m->rank, m);
	must_be_free(sched_self() != NULL);
	assert(mutex_of(m)->owner == me());
	(void)sched_cond_wait(c, m, UINT64_MAX);
}

NO_TSA bool cond_wait_until(struct cond *c, struct mutex *m, uint64_t deadline_ns)
{
	lockrank_assert_last(m->rank, m);
	must_be_free(sched_self() != NULL);
	assert(mutex_of(m)->owner == me());
	return sched_cond_wait(c, m, deadline_ns);
}

void cond_broadcast(struct cond *c)
{
	if (!sched_self())
		return;
	sched_cond_broadcast(c);
	sched_done(OP_BROADCAST, NOTE_NONE, NULL, true);
}

void cond_signal(struct cond *c)
{
	cond_broadcast(c);
}

/* ---- bits ------------------------------------------------------------------------------------ */

static struct object bit_object(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank,
				uint64_t key)
{
	return (struct object){ .at = word, .bit = bit, .rank = (uint8_t)rank, .key = key };
}

static bool take_bit(_Atomic uint32_t *word, uint32_t bit)
{
	return (atomic_fetch_or(word, bit) & bit) == 0;
}

void bit_lock(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank, uint64_t key)
{
	struct object o = bit_object(word, bit, rank, key);

	assert(is_pow2(bit));
	lockrank_acquire(rank, key, word);
	if (sched_self()) {
		sched_step(OP_BIT, &o);
		sched_hold(&o, false);
	}
	must_be_free(take_bit(word, bit));
}

bool bit_trylock(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank, uint64_t key)
{
	struct object o = bit_object(word, bit, rank, key);
	bool taken;

	assert(is_pow2(bit));
	if (sched_self())
		sched_pause();
	taken = take_bit(word, bit);
	if (taken)
		lockrank_acquire_tried(rank, key, word);
	if (sched_self()) {
		if (taken)
			sched_hold(&o, false);
		sched_done(OP_TRY, taken ? NOTE_NONE : NOTE_FAILED, &o, false);
	}
	return taken;
}

/* The key it was taken with is with the holder. */
static uint64_t key_of_held(const struct object *o)
{
	const struct sim_thread *t = sched_self();

	for (unsigned i = t->held_count; i-- > 0;) {
		if (t->held[i].object.at == o->at && t->held[i].object.bit == o->bit)
			return t->held[i].object.key;
	}
	return 0;
}

void bit_unlock(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank)
{
	struct object o = bit_object(word, bit, rank, 0);
	uint32_t before;

	lockrank_release(rank, word);
	before = atomic_fetch_and(word, ~bit);
	assert(before & bit);
	(void)before;
	if (sched_self()) {
		o.key = key_of_held(&o);
		sched_drop(&o);
		sched_done(OP_UNLOCK, NOTE_NONE, &o, true);
	}
}

void bit_clear_wake(_Atomic uint32_t *word, uint32_t bit)
{
	struct object o = { .at = word, .bit = bit };
	uint32_t before = atomic_fetch_and(word, ~bit);

	assert(before & bit);
	(void)before;
	if (sched_self())
		sched_done(OP_CLEAR, NOTE_NONE, &o, true);
}

void bit_wait_clear(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank)
{
	struct object o = bit_object(word, bit, rank, 0);

	lockrank_may_acquire(rank);
	if (sched_self())
		sched_step(OP_BIT_CLEAR, &o);
	must_be_free(!(atomic_load(word) & bit));
}

/* ---- threads --------------------------------------------------------------------------------- */

struct thread {
	struct sim_thread *slot;
	void (*fn)(void *arg);
	void *arg;
};

static void thread_main(void *arg)
{
	struct thread *t = arg;

	t->fn(t->arg);
	lockrank_assert_none();
}

int thread_create(const char *name, void (*fn)(void *arg), void *arg, struct thread **ret_thread)
{
	struct thread *t = mem_alloc(sizeof(*t));

	if (!t)
		return -ENOMEM;
	must_be_free(sched_self() != NULL);
	t->fn = fn;
	t->arg = arg;
	*ret_thread = t;
	t->slot = sched_create(name, thread_main, t);
	sched_pause();
	return 0;
}

void thread_join(struct thread *t)
{
	if (!t)
		return;
	lockrank_assert_none();
	sched_join(t->slot);
	mem_free(t);
}

/* ---- time, random ---------------------------------------------------------------------------- */

void sleep_ms(uint32_t ms)
{
	must_be_free(sched_self() != NULL);
	sched_sleep((uint64_t)ms * 1000000);
}

uint64_t clock_mono_ns(void)
{
	return sched_now();
}

void clock_real(int64_t *ret_sec, uint32_t *ret_nsec)
{
	uint64_t now = sched_now();

	*ret_sec = REAL_START_SEC + (int64_t)(now / NS_PER_S);
	*ret_nsec = (uint32_t)(now % NS_PER_S);
}

uint64_t random_u64(void)
{
	return sched_random();
}
