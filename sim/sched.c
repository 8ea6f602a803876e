/* SPDX-License-Identifier: MIT */
/*
 * The scheduler: real threads, of which the one with the baton runs.
 *
 * A thread that comes to a scheduling point says what it wants next (`op` and `object`), picks who
 * runs, hands the baton over if that is another, and sleeps.  Whoever gets the baton finds what he
 * wanted there and takes it; so nobody is woken in vain, and all that is shared, here and in the
 * engine, is touched by one thread at a time.
 *
 *  G1  Only a thread whose want can be is picked; it is then done before the next point.
 *  G2  The run depends on the choices alone: no clock, no address, no order of the kernel's.  A
 *      thread that has ended is waited for by the next one, for its memory goes back meanwhile.
 *  G3  Time is a number.  It passes a little with each look at the clock, and jumps to the next
 *      deadline when nobody can run, or where the schedule says so.
 *
 * Locks are in sync.c, who is picked in strategy.c.
 */
#include "sim/sim_priv.h"

#include "sync/sync_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TICK_NS 1000u
#define START_NS UINT64_C(1000000000)
#define TIME_MAX_NS (UINT64_C(3600) * 1000000000)
#define STEPS_MAX_DEFAULT 1000000u
#define NO_DEADLINE UINT64_MAX

struct record *sim_record;

static _Thread_local struct sim_thread *self;

/* Of the run; touched with the baton only. */
static struct {
	uint64_t clock;
	uint64_t steps_max;
	bool timers;
	bool coarse;
	bool calm;
	struct rng random;	  /* what the engine gets */
	struct sim_thread *ended; /* and not yet joined; NULL: none */
} run;

struct sim_thread *sched_self(void)
{
	return self;
}

static void must(int err)
{
	if (err != 0) {
		fprintf(stderr, "sim: a call of pthread failed: %s\n", strerror(err));
		abort();
	}
}

void sched_end(enum sim_outcome outcome, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(sim_record->text, sizeof(sim_record->text), fmt, args);
	va_end(args);
	sim_record->outcome = outcome;
	sim_record->ended = true;
	_exit(0);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void hash_in(uint64_t value)
{
	sim_record->hash = (sim_record->hash ^ value) * UINT64_C(0x100000001b3);
	sim_record->hash ^= sim_record->hash >> 29;
}

static struct step *step_add(enum op op, enum note note, const struct object *object)
{
	struct step *s;

	if (sim_record->steps == run.steps_max)
		sched_end(SIM_ENDLESS, "no end after %llu steps",
			  (unsigned long long)run.steps_max);
	s = &sim_record->kept[sim_record->steps++ % STEPS_KEPT];
	*s = (struct step){ .thread = self->id, .op = (uint8_t)op, .note = (uint8_t)note };
	if (object)
		s->object = *object;
	hash_in((uint64_t)self->id << 24 | (uint64_t)op << 16 | (uint64_t)note << 8 |
		s->object.rank);
	hash_in(s->object.key ^ (uint64_t)s->object.serial << 32 ^ s->object.bit);
	return s;
}

/* ---- who runs -------------------------------------------------------------------------------- */

uint8_t choice_default(const struct choice *c)
{
	if (c->current != NOBODY)
		return c->current;
	return c->could != 0 ? (uint8_t)__builtin_ctz(c->could) : c->timer;
}

bool choice_preempts(const struct choice *c, uint8_t id)
{
	if (c->is_value)
		return false;
	return !(c->could & only(id)) || (c->current != NOBODY && id != c->current);
}

static bool choice_has(const struct choice *c, uint8_t id)
{
	if (c->is_value)
		return id < c->could;
	return id == c->timer || (id < SIM_THREADS_MAX && (c->could & only(id)));
}

/* What the plan says, or else the strategy. */
static uint8_t decide(struct choice *c)
{
	struct record *r = sim_record;
	uint32_t at = r->choices_count;

	if (at == CHOICES_MAX)
		sched_end(SIM_ENDLESS, "no end after %u choices", CHOICES_MAX);
	if (at < r->plan_count) {
		c->picked = r->plan[at];
		if (!choice_has(c, c->picked)) {
			if (!r->plan_loose)
				sched_end(SIM_DIVERGED, "choice %u of the schedule cannot be made",
					  at);
			c->picked = c->is_value ? 0 : choice_default(c);
		}
	} else {
		c->picked = c->is_value ? (uint8_t)strategy_value(c->could) : strategy_pick(c);
	}
	if (choice_preempts(c, c->picked))
		r->preemptions++;
	r->choices[r->choices_count++] = *c;
	return c->picked;
}

static bool has_deadline(const struct sim_thread *t)
{
	return t->used && !t->done && (t->op == OP_COND || t->op == OP_SLEEP) &&
	       t->deadline != NO_DEADLINE;
}

static struct sim_thread *next_deadline(void)
{
	struct sim_thread *first = NULL;

	for (unsigned i = 0; i < sim_record->threads_count; i++) {
		struct sim_thread *t = &sim_record->threads[i];

		if (has_deadline(t) && (!first || t->deadline < first->deadline))
			first = t;
	}
	return first;
}

static void wake_from_cond(struct sim_thread *t)
{
	const struct sim_mutex *m = (const struct sim_mutex *)(const void *)&t->mutex->os;

	t->op = OP_LOCK;
	t->deadline = NO_DEADLINE;
	t->object = (struct object){ .at = t->mutex,
				     .rank = (uint8_t)t->mutex->rank,
				     .serial = m->serial };
}

static void pass_deadlines(void)
{
	for (unsigned i = 0; i < sim_record->threads_count; i++) {
		struct sim_thread *t = &sim_record->threads[i];

		if (!has_deadline(t) || t->deadline > run.clock)
			continue;
		if (t->op == OP_COND) {
			wake_from_cond(t);
			t->timed_out = true;
		} else {
			t->op = OP_RUN;
		}
	}
}

static threads_t who_could(void)
{
	threads_t could = 0;

	for (unsigned i = 0; i < sim_record->threads_count; i++) {
		const struct sim_thread *t = &sim_record->threads[i];

		if (t->used && !t->done && want_is_there(t))
			could |= only(t->id);
	}
	return could;
}

/* Nobody can run before time has passed. */
static void wait_for_time(void)
{
	const struct sim_thread *t = next_deadline();

	if (!t)
		sched_end(SIM_DEADLOCK, "nobody can go on");
	if (t->deadline > START_NS + TIME_MAX_NS)
		sched_end(SIM_ENDLESS, "no end after an hour");
	run.clock = max_u64(run.clock, t->deadline);
}

static struct sim_thread *pick_next(const struct sim_thread *me)
{
	for (;;) {
		const struct sim_thread *timer;
		struct choice c = { .timer = NOBODY, .current = NOBODY };
		uint8_t id;

		pass_deadlines();
		c.could = who_could();
		if (c.could == 0) {
			wait_for_time();
			continue;
		}
		if (c.could & only(me->id))
			c.current = me->id;
		timer = run.timers && !run.calm ? next_deadline() : NULL;
		if (timer)
			c.timer = timer->id;
		if (run.calm || (!timer && (c.could & (c.could - 1)) == 0))
			id = choice_default(&c);
		else
			id = decide(&c);
		if (c.could & only(id))
			return &sim_record->threads[id];
		run.clock = max_u64(run.clock, timer->deadline);
	}
}

static void take_baton(struct sim_thread *me)
{
	while (sem_wait(&me->baton) != 0)
		;
	if (run.ended) {
		must(pthread_join(run.ended->os, NULL));
		run.ended = NULL;
	}
}

/* Returns when @me has been picked; at once if it has ended. */
static void pass_on(struct sim_thread *me)
{
	struct sim_thread *next = pick_next(me);

	sim_record->running = next->id;
	if (next == me)
		return;
	must(sem_post(&next->baton));
	if (!me->done)
		take_baton(me);
}

/* ---- deadlocks ------------------------------------------------------------------------------- */

/*
 * A path along "waits for" from the last of @path back to its first.  Who waits for a lock waits
 * for all who hold it, so any circle is a deadlock.
 */
static bool find_path(uint8_t *path, unsigned length, threads_t *seen)
{
	threads_t next = want_blockers(&sim_record->threads[path[length - 1]]);

	if (next & only(path[0])) {
		memcpy(sim_record->cycle, path, length);
		sim_record->cycle_length = length;
		return true;
	}
	next &= ~*seen;
	*seen |= next;
	for (unsigned id = 0; id < SIM_THREADS_MAX; id++) {
		if (!(next & only(id)))
			continue;
		path[length] = (uint8_t)id;
		if (find_path(path, length + 1, seen))
			return true;
	}
	return false;
}

/* The last wait closes the circle, so it is enough to look when one begins. */
static void look_for_cycle(const struct sim_thread *t)
{
	uint8_t path[SIM_THREADS_MAX + 1] = { t->id };
	threads_t seen = only(t->id);

	if (find_path(path, 1, &seen))
		sched_end(SIM_DEADLOCK, "threads wait for each other");
}

/* ---- points ---------------------------------------------------------------------------------- */

void sched_step(enum op op, const struct object *object)
{
	self->op = op;
	self->object = object ? *object : (struct object){ 0 };
	if (!want_is_there(self)) {
		(void)step_add(op, NOTE_WAITS, object);
		look_for_cycle(self);
	}
	pass_on(self);
	self->op = OP_RUN;
	if (op != OP_RUN)
		(void)step_add(op, NOTE_NONE, object);
}

void sched_pause(void)
{
	sched_step(OP_RUN, NULL);
}

void sched_done(enum op op, enum note note, const struct object *object, bool is_point)
{
	(void)step_add(op, note, object);
	if (is_point && !run.coarse)
		pass_on(self);
}

void sched_text(bool is_point, const char *fmt, va_list args)
{
	struct step *s;

	if (is_point)
		sched_pause();
	s = step_add(OP_TEXT, NOTE_NONE, NULL);
	(void)vsnprintf(s->text, sizeof(s->text), fmt, args);
	for (const char *c = s->text; *c; c++)
		hash_in((uint8_t)*c);
}

void sched_hold(const struct object *object, bool shared)
{
	if (self->held_count == HELD_MAX)
		sched_end(SIM_CHECK, "more than %d locks held at once", HELD_MAX);
	self->held[self->held_count++] = (struct held){ .object = *object, .shared = shared };
}

void sched_drop(const struct object *object)
{
	unsigned i = self->held_count;

	while (i > 0 && !(self->held[i - 1].object.at == object->at &&
			  self->held[i - 1].object.bit == object->bit &&
			  self->held[i - 1].object.rank == object->rank))
		i--;
	if (i == 0)
		sched_end(SIM_CHECK, "a lock is given up by a thread that does not hold it");
	memmove(&self->held[i - 1], &self->held[i], (self->held_count - i) * sizeof(self->held[0]));
	self->held_count--;
}

bool sched_cond_wait(const void *cond, struct mutex *m, uint64_t deadline)
{
	struct sim_mutex *sm = (struct sim_mutex *)(void *)&m->os;
	struct object lock = { .at = m, .rank = (uint8_t)m->rank, .serial = sm->serial };
	bool timed_out;

	sched_pause();
	sm->owner = 0;
	sched_drop(&lock);
	self->op = OP_COND;
	self->object = (struct object){ .at = cond, .rank = lock.rank, .serial = lock.serial };
	self->mutex = m;
	self->deadline = deadline;
	self->timed_out = false;
	(void)step_add(OP_COND, NOTE_WAITS, &self->object);
	pass_on(self);

	timed_out = self->timed_out;
	self->timed_out = false;
	self->op = OP_RUN;
	self->mutex = NULL;
	sm->owner = only(self->id);
	sched_hold(&lock, false);
	(void)step_add(OP_COND, timed_out ? NOTE_DEADLINE : NOTE_NONE, &lock);
	return !timed_out;
}

/* Who is woken wants the mutex from now on; then he may wait for whoever has it. */
void sched_cond_broadcast(const void *cond)
{
	for (unsigned i = 0; i < sim_record->threads_count; i++) {
		struct sim_thread *t = &sim_record->threads[i];

		if (!t->used || t->done || t->op != OP_COND || t->object.at != cond)
			continue;
		wake_from_cond(t);
		look_for_cycle(t);
	}
}

void sched_sleep(uint64_t ns)
{
	self->deadline = run.clock + ns;
	self->op = OP_SLEEP;
	self->object = (struct object){ .key = ns / 1000000 };
	(void)step_add(OP_SLEEP, NOTE_WAITS, &self->object);
	pass_on(self);
	self->op = OP_RUN;
	self->deadline = NO_DEADLINE;
}

/* ---- threads --------------------------------------------------------------------------------- */

static struct sim_thread *thread_slot(void)
{
	struct record *r = sim_record;

	if (r->threads_count < SIM_THREADS_MAX)
		return &r->threads[r->threads_count++];
	for (unsigned i = 0; i < SIM_THREADS_MAX; i++) {
		if (!r->threads[i].used)
			return &r->threads[i];
	}
	sched_end(SIM_CHECK, "more than %d threads", SIM_THREADS_MAX);
}

static struct sim_thread *thread_begin(const char *name)
{
	struct sim_thread *t = thread_slot();

	t->id = (uint8_t)(t - sim_record->threads);
	t->used = true;
	t->done = false;
	t->op = OP_RUN;
	t->object = (struct object){ 0 };
	t->deadline = NO_DEADLINE;
	t->timed_out = false;
	t->held_count = 0;
	(void)snprintf(t->name, sizeof(t->name), "%s", name);
	must(sem_init(&t->baton, 0, 0));
	strategy_thread(t);
	return t;
}

static void *thread_main(void *arg)
{
	self = arg;
	take_baton(self);
	self->fn(self->arg);
	(void)step_add(OP_END, NOTE_NONE, NULL);
	self->done = true;
	run.ended = self;
	pass_on(self);
	return NULL;
}

struct sim_thread *sched_create(const char *name, void (*fn)(void *arg), void *arg)
{
	struct sim_thread *t = thread_begin(name);
	struct object object = { .key = t->id };

	t->fn = fn;
	t->arg = arg;
	must(pthread_create(&t->os, NULL, thread_main, t));
	sched_done(OP_CREATE, NOTE_NONE, &object, false);
	return t;
}

void sched_join(struct sim_thread *t)
{
	struct object object = { .key = t->id };

	self->target = t->id;
	sched_step(OP_JOIN, &object);
	t->used = false;
}

/* ---- time, random, choices ------------------------------------------------------------------- */

uint64_t sched_now(void)
{
	return run.clock += TICK_NS;
}

uint64_t sched_random(void)
{
	return rng_next(&run.random);
}

uint32_t sched_choose(uint32_t count)
{
	struct choice c = { .could = count, .timer = NOBODY, .current = NOBODY, .is_value = true };

	assert(count > 0 && count < NOBODY);
	return count == 1 ? 0 : decide(&c);
}

void sched_calm(bool calm)
{
	run.calm = calm;
}

/* ---- pseudo ranks ---------------------------------------------------------------------------- */

#ifdef UEXT4_LOCKRANK
/* Ranks that are waited for by other means than the locks of sync.h; a device is one of its own. */
static bool is_pseudo(enum lock_rank rank)
{
	enum kind { mutex, rwlock, bit, pseudo };

	switch (rank) {
#define LOCK_RANK(value, name, kind, what) \
	case RANK_##name:                  \
		return kind == pseudo && RANK_##name != RANK_io;
#include "sync/lockranks.h"
#undef LOCK_RANK
	}
	return false;
}

static void watch_ranks(enum lockrank_event event, enum lock_rank rank, uint64_t key,
			const void *instance)
{
	struct object object = { .at = instance, .rank = (uint8_t)rank, .key = key };

	if (!self || !is_pseudo(rank))
		return;
	switch (event) {
	case LOCKRANK_ACQUIRE:
		sched_hold(&object, true);
		sched_done(OP_ENTER, NOTE_NONE, &object, true);
		break;
	case LOCKRANK_RELEASE:
		sched_drop(&object);
		sched_done(OP_LEAVE, NOTE_NONE, &object, true);
		break;
	case LOCKRANK_MAY: sched_done(OP_MAY, NOTE_NONE, &object, true); break;
	}
}
#endif

/* ---- a run ----------------------------------------------------------------------------------- */

static void check_all_ended(void)
{
	for (unsigned i = 1; i < sim_record->threads_count; i++) {
		if (sim_record->threads[i].used)
			sched_end(SIM_CHECK, "thread %s was not joined",
				  sim_record->threads[i].name);
	}
}

void sched_run(struct record *record, const struct sim_options *options, uint64_t seed,
	       uint64_t steps_hint, int (*body)(void *arg), void *arg)
{
	int result;

	sim_record = record;
	run.clock = START_NS;
	run.steps_max = options->steps ? options->steps : STEPS_MAX_DEFAULT;
	run.timers = options->timers;
	run.coarse = options->coarse;
	run.random.state = seed ^ UINT64_C(0x5851f42d4c957f2d);
	strategy_begin(options, seed, steps_hint);
	self = thread_begin("main");
	record->started = true;
#ifdef UEXT4_LOCKRANK
	lockrank_watch = watch_ranks;
#endif
	result = body(arg);
	if (result != 0)
		sched_end(SIM_CHECK, "the body says %d", result);
	check_all_ended();
	sched_end(SIM_OK, "%s", "");
}
