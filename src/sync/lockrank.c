/* SPDX-License-Identifier: MIT */
/*
 * The rank checker: does every thread take locks in the order of lockranks.h?
 *
 * Each thread keeps the list of what it holds.  A breach is our own mistake, so the process ends,
 * with the list on stderr: the one place of the engine that prints.  An order that is broken is
 * found the first time a thread takes that path alone; it needs no second thread and no deadlock.
 *
 *  R1  A wait begins only if everything held is ranked before what is waited for, or has the same
 *      rank and a smaller key (I5).  Shared and exclusive count alike: two readers of one lock
 *      deadlock as soon as a writer queues between them.
 *  R2  A lock is released by the thread that took it, in any order.
 *  R3  A try-lock waits for nothing, so R1 is not asked of it; what it took counts from then on.
 *
 * Does not see who holds a lock in another thread, and does not know about memory.
 */
#include "sync/sync.h"

#include "sync/sync_priv.h"

#ifdef UEXT4_LOCKRANK

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* Most locks at once: a batch of pages, twice for what is read ahead, and a few above and below. */
#define HELD_MAX 1024

struct held {
	enum lock_rank rank;
	uint64_t key;
	const void *instance;
};

static _Thread_local struct held held[HELD_MAX]; /* in the order of acquisition */
static _Thread_local unsigned held_count;

lockrank_watch_fn *lockrank_watch;

static void tell(enum lockrank_event event, enum lock_rank rank, uint64_t key, const void *instance)
{
	if (unlikely(lockrank_watch != NULL))
		lockrank_watch(event, rank, key, instance);
}

static const char *rank_name(enum lock_rank rank)
{
	switch (rank) {
#define LOCK_RANK(value, name, kind, what) \
	case RANK_##name:                  \
		return #name;
#include "sync/lockranks.h"
#undef LOCK_RANK
	}
	return "?";
}

static void die(const char *fmt, ...) PRINTF(1, 2) NORETURN COLD;

static void die(const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "lockrank: ");
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "\nlockrank: this thread holds %u, first taken first:\n", held_count);
	for (unsigned i = 0; i < held_count; i++)
		fprintf(stderr, "lockrank:   %3d %-12s key %llu at %p\n", (int)held[i].rank,
			rank_name(held[i].rank), (unsigned long long)held[i].key, held[i].instance);
	fflush(stderr);
	abort();
}

static void push(enum lock_rank rank, uint64_t key, const void *instance)
{
	if (held_count == HELD_MAX)
		die("more than %d locks held at once", HELD_MAX);
	held[held_count++] = (struct held){ .rank = rank, .key = key, .instance = instance };
}

void lockrank_acquire(enum lock_rank rank, uint64_t key, const void *instance)
{
	for (unsigned i = 0; i < held_count; i++) {
		if (held[i].instance == instance && held[i].rank == rank)
			die("%s (key %llu at %p) is taken a second time", rank_name(rank),
			    (unsigned long long)key, instance);
		if (held[i].rank > rank)
			die("%s (rank %d, key %llu) is taken after %s (rank %d)", rank_name(rank),
			    (int)rank, (unsigned long long)key, rank_name(held[i].rank),
			    (int)held[i].rank);
		if (held[i].rank == rank && held[i].key >= key)
			die("%s with key %llu is taken after key %llu", rank_name(rank),
			    (unsigned long long)key, (unsigned long long)held[i].key);
	}
	push(rank, key, instance);
	tell(LOCKRANK_ACQUIRE, rank, key, instance);
}

void lockrank_acquire_tried(enum lock_rank rank, uint64_t key, const void *instance)
{
	push(rank, key, instance);
}

void lockrank_release(enum lock_rank rank, const void *instance)
{
	unsigned i = held_count;

	while (i > 0 && !(held[i - 1].instance == instance && held[i - 1].rank == rank))
		i--;
	if (i == 0)
		die("%s (at %p) is released, but not held", rank_name(rank), instance);
	memmove(&held[i - 1], &held[i], (held_count - i) * sizeof(held[0]));
	held_count--;
	tell(LOCKRANK_RELEASE, rank, 0, instance);
}

void lockrank_may_acquire(enum lock_rank rank)
{
	for (unsigned i = 0; i < held_count; i++) {
		if (held[i].rank >= rank)
			die("%s (rank %d) may be waited for here, after %s (rank %d)",
			    rank_name(rank), (int)rank, rank_name(held[i].rank), (int)held[i].rank);
	}
	tell(LOCKRANK_MAY, rank, 0, NULL);
}

void lockrank_assert_none(void)
{
	if (held_count != 0)
		die("nothing may be held here");
}

void lockrank_assert_held(enum lock_rank rank, const void *instance)
{
	for (unsigned i = 0; i < held_count; i++) {
		if (held[i].instance == instance && held[i].rank == rank)
			return;
	}
	die("%s (at %p) must be held here", rank_name(rank), instance);
}

void lockrank_assert_last(enum lock_rank rank, const void *instance)
{
	lockrank_assert_held(rank, instance);
	for (unsigned i = 0; i < held_count; i++) {
		if (held[i].rank >= rank && held[i].instance != instance)
			die("%s (at %p) is given up for a wait while %s is held", rank_name(rank),
			    instance, rank_name(held[i].rank));
	}
}

#endif
