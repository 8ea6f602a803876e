/* SPDX-License-Identifier: MIT */
/*
 * The simulator: the engine's own objects, on a second implementation of sync/sync.h under which
 * one thread runs at a time and a scheduler says which.
 *
 * A test is a body.  sim_explore() runs it again and again, each time under another schedule and in
 * a child process of its own, so that a schedule may end in an abort, a fault or a deadlock, and
 * leaves nothing behind.  The body opens its image, makes threads with thread_create() as the
 * engine does (or sim_threads()), joins them, closes, and says with its result whether all is well.
 *
 * Scheduling points are: every acquisition and release of a lock or lock bit, every wait, creation
 * and join of threads, pseudo ranks (where the rank checker is built in), requests to a sim_dev,
 * and sim_point().  What lies between two points of a thread happens in one step.
 *
 * Outside of a body the locks work for a single thread, which must never have to wait.
 *
 * Does not see: interleavings of atomic operations that no point separates, weaker memory orders
 * than sequential consistency, and what the kernel or libc do.
 */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include "base/base.h"

struct dev;

/* ---- exploring ------------------------------------------------------------------------------- */

enum sim_strategy {
	/* Anybody may be next; how often the running thread is left depends on the seed. */
	SIM_RANDOM,
	/*
	 * Random priorities, the highest runs; at @preemptions random points the running thread
	 * gets the lowest one.  Finds bugs that need few, far apart preemptions.
	 */
	SIM_PCT,
	/* All schedules with at most @preemptions preemptions, depth first. */
	SIM_DFS,
	/* The one @schedule; exactly, or the outcome is SIM_DIVERGED. */
	SIM_REPLAY,
};

enum sim_outcome {
	SIM_OK,
	SIM_CHECK,    /* the body's result, SIM_ASSERT() or sim_fail() */
	SIM_DEADLOCK, /* threads wait for each other, or all of them for nothing */
	SIM_ENDLESS,  /* more steps, or more virtual time, than the limit */
	SIM_CRASH,    /* a signal: assert(), a fault */
	SIM_HANG,     /* long no scheduling point */
	SIM_DIVERGED, /* the schedule to be replayed asks for what cannot be */
};

struct sim_options {
	enum sim_strategy strategy;
	uint64_t seed;	      /* of the first schedule; the others have the numbers behind it */
	uint64_t schedules;   /* at most; 0: one, with SIM_DFS all */
	uint32_t preemptions; /* SIM_DFS, SIM_PCT */
	uint64_t steps;	      /* at most in one schedule; 0: a million */
	/* A deadline may also pass while others could run.  A preemption in the sense of DFS. */
	bool timers;
	bool coarse;	      /* giving up a lock is no scheduling point */
	const char *schedule; /* SIM_REPLAY; as in the result */
	uint32_t show;	      /* how many of the last steps are reported; 0: 60 */
	uint32_t minimise;    /* at most so many schedules to make a failing one simpler */
};

struct sim_result {
	enum sim_outcome outcome; /* of the last schedule */
	uint64_t schedules;	  /* that were run */
	uint64_t seed;		  /* of the last one */
	uint64_t steps;		  /* of the last one */
	uint64_t steps_total;
	uint64_t hash;	      /* of all steps of the last one: equal for equal runs */
	uint32_t preemptions; /* in the last one */
	bool complete;	      /* SIM_DFS: there are no more */
	double seconds;
	char *schedule; /* of the last one: the choices, as numbers of threads, "0*12,1,0*3" */
	char *report;	/* of a failure, in columns; or NULL */
};

/* Until a schedule fails.  @body runs as the thread "main"; its result 0: all is well. */
enum sim_outcome sim_explore(const struct sim_options *options, int (*body)(void *arg), void *arg,
			     struct sim_result *ret_result);
void sim_result_finish(struct sim_result *result);
const char *sim_outcome_name(enum sim_outcome outcome);

/*
 * A seed is one run only as long as addresses are the same, since they order some locks.  Call it
 * first in main(): the program starts itself again without address space randomisation.
 */
void sim_fix_addresses(char **argv);

/* ---- inside a body --------------------------------------------------------------------------- */

struct sim_body {
	const char *name;
	void (*fn)(void *arg);
	void *arg;
};

#define SIM_THREADS_MAX 24

/* Makes a thread of each and waits for them all. */
void sim_threads(const struct sim_body *bodies, size_t count);

/* A scheduling point with a name for the columns. */
void sim_point(const char *fmt, ...) PRINTF(1, 2);
/*
 * While it is calm nothing is chosen: who runs goes on until he has to wait, then the first who
 * can.  For what a test does before and behind its subject.
 */
void sim_calm(bool calm);
/* A name for the columns, and no point. */
void sim_note(const char *fmt, ...) PRINTF(1, 2);

/* One of 0 to @count - 1; a choice of the schedule as the next thread is: DFS tries all. */
uint32_t sim_choose(uint32_t count);

/* Ends the schedule with SIM_CHECK. */
void sim_fail(const char *fmt, ...) PRINTF(1, 2) NORETURN;
#define SIM_ASSERT(x) ((x) ? (void)0 : sim_fail("%s:%d: %s does not hold", __FILE__, __LINE__, #x))

/*
 * A filter that owns @below: each request is a scheduling point before it is passed on, and
 * another one behind it.  @block_size: the unit of the numbers in the columns.
 */
int sim_dev_create(struct dev *below, uint32_t block_size, struct dev **ret_dev) MUST_CHECK;

#endif
