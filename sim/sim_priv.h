/* SPDX-License-Identifier: MIT */
/*
 * What the files of sim/ share: a thread, what it wants and holds, a run, and its record.
 *
 * The record lies in memory that the child which runs a schedule shares with its parent, so that
 * the parent can tell of a child that died.
 */
#ifndef SIM_SIM_PRIV_H
#define SIM_SIM_PRIV_H

#include "sim/sim.h"
#include "sync/sync.h"

#include <semaphore.h>
#include <stdarg.h>

/* ---- objects --------------------------------------------------------------------------------- */

/* Sets of threads are bits of a word. */
typedef uint32_t threads_t;
#define NOBODY UINT8_MAX

static inline threads_t only(unsigned id)
{
	return (threads_t)1 << id;
}

/* These lie in `os` of the engine's locks. */
struct sim_mutex {
	threads_t owner;
	uint32_t serial; /* among the mutexes of its rank */
};

struct sim_rwlock {
	threads_t readers;
	threads_t writer;
	threads_t queued; /* writers: they keep new readers out */
};

/* ---- steps ----------------------------------------------------------------------------------- */

enum op {
	OP_RUN, /* may go on at any time */
	OP_LOCK,
	OP_READ,
	OP_WRITE,
	OP_QUEUED, /* a write lock that is asked for and was not free */
	OP_BIT,
	OP_BIT_CLEAR, /* until a bit that is no lock is clear */
	OP_COND,      /* until somebody broadcasts, or the deadline */
	OP_SLEEP,
	OP_JOIN,
	/* These wait for nothing. */
	OP_TRY,
	OP_UNLOCK,
	OP_CLEAR,
	OP_BROADCAST,
	OP_CREATE,
	OP_END,
	OP_ENTER, /* a pseudo rank is held from now on, */
	OP_LEAVE, /* not any more, */
	OP_MAY,	  /* may be waited for */
	OP_TEXT,
};

enum note {
	NOTE_NONE,
	NOTE_WAITS,    /* the thread has asked and does not get it */
	NOTE_FAILED,   /* a try-lock did not get it */
	NOTE_DEADLINE, /* a wait ended by its deadline */
};

/* What a step is done with, and how it is called. */
struct object {
	const void *at; /* address of the lock, or NULL */
	uint32_t bit;	/* of a word at @at, or 0 */
	uint8_t rank;	/* enum lock_rank, or 0 */
	uint32_t serial;
	uint64_t key;
};

#define STEP_TEXT 40

struct step {
	uint8_t thread;
	uint8_t op;
	uint8_t note;
	struct object object; /* the address is nothing to compare runs by */
	char text[STEP_TEXT];
};

/* ---- threads --------------------------------------------------------------------------------- */

struct held {
	struct object object;
	bool shared;
};

#define HELD_MAX 1100

struct sim_thread {
	uint8_t id;
	bool used, done;
	char name[16];
	sem_t baton; /* one post: run */
	pthread_t os;
	void (*fn)(void *arg);
	void *arg;

	/* What it waits for, or does next; the scheduler looks whether it can. */
	enum op op;
	struct object object;
	struct mutex *mutex; /* OP_COND: to be taken again */
	uint64_t deadline;   /* of OP_COND, OP_SLEEP; UINT64_MAX: none */
	bool timed_out;
	uint8_t target; /* OP_JOIN */

	uint64_t priority; /* SIM_PCT */
	unsigned held_count;
	struct held held[HELD_MAX];
};

/* ---- choices --------------------------------------------------------------------------------- */

/* One moment at which the run could have gone on in more than one way. */
struct choice {
	threads_t could; /* be next; of a sim_choose(): how many values */
	uint8_t timer;	 /* whose deadline could pass, or NOBODY */
	uint8_t current; /* who could simply go on, or NOBODY */
	uint8_t picked;
	bool is_value; /* of sim_choose() */
};

/* What happens without a reason for anything else. */
uint8_t choice_default(const struct choice *c);
/* Picking @id takes the processor from a thread that could go on, or lets a deadline pass. */
bool choice_preempts(const struct choice *c, uint8_t id);

/* ---- a run ----------------------------------------------------------------------------------- */

#define STEPS_KEPT 4096u /* a power of two */
#define CHOICES_MAX (1u << 20)
#define RECORD_TEXT 1024

struct record {
	enum sim_outcome outcome;
	bool ended; /* the child said so itself */
	bool started;
	char text[RECORD_TEXT]; /* why */
	uint64_t hash;
	uint64_t steps;
	uint32_t preemptions;
	uint32_t serials[256]; /* mutexes, by rank */
	uint8_t running;
	uint8_t cycle
		[SIM_THREADS_MAX]; /* a deadlock: each waits for the next, the last for the first */
	unsigned cycle_length;
	unsigned threads_count;
	struct sim_thread threads[SIM_THREADS_MAX];
	struct step kept[STEPS_KEPT]; /* the last of them; step n at n % STEPS_KEPT */

	/* Choices to be made, before those of the strategy. */
	uint32_t plan_count;
	bool plan_loose; /* what cannot be is passed over, and the default taken */
	uint32_t choices_count;
	uint8_t plan[CHOICES_MAX];
	struct choice choices[CHOICES_MAX];
};

/* Of the process: one run at a time. */
extern struct record *sim_record;

/* sched.c: runs @body in this process, which it ends. */
void sched_run(struct record *record, const struct sim_options *options, uint64_t seed,
	       uint64_t steps_hint, int (*body)(void *arg), void *arg) NORETURN;
/* The calling thread; NULL outside of a run. */
struct sim_thread *sched_self(void);
/* Does a step: waits until the scheduler picks this thread and @op can be. */
void sched_step(enum op op, const struct object *object);
/* Others may run first. */
void sched_pause(void);
/* Something has been done: a step that is seen, and a point if it is not OP_TEXT. */
void sched_done(enum op op, enum note note, const struct object *object, bool is_point);
void sched_text(bool is_point, const char *fmt, va_list args) PRINTF(2, 0);
/* Gives up @m, waits, has @m again.  False: the deadline. */
bool sched_cond_wait(const void *cond, struct mutex *m, uint64_t deadline);
void sched_cond_broadcast(const void *cond);
void sched_sleep(uint64_t ns);
struct sim_thread *sched_create(const char *name, void (*fn)(void *arg), void *arg);
void sched_join(struct sim_thread *t);
void sched_hold(const struct object *object, bool shared);
void sched_drop(const struct object *object);
uint64_t sched_now(void); /* and lets a moment pass */
uint64_t sched_random(void);
uint32_t sched_choose(uint32_t count);
void sched_calm(bool calm);
void sched_end(enum sim_outcome outcome, const char *fmt, ...) PRINTF(2, 3) NORETURN;

/* strategy.c */
struct rng {
	uint64_t state;
};
uint64_t rng_next(struct rng *rng);
uint64_t rng_below(struct rng *rng, uint64_t end);
void strategy_begin(const struct sim_options *options, uint64_t seed, uint64_t steps_hint);
void strategy_thread(struct sim_thread *t);
uint8_t strategy_pick(const struct choice *c);
uint32_t strategy_value(uint32_t count);

/* sync.c: whether what @t waits for is there, and who keeps it from being so. */
bool want_is_there(const struct sim_thread *t);
threads_t want_blockers(const struct sim_thread *t);

/* report.c: malloc'ed texts. */
char *report_make(const struct record *record, const struct sim_result *result, uint32_t show,
		  const char *said);
char *schedule_text(const struct record *record);
int schedule_parse(const char *text, struct record *record);

#endif
