/* SPDX-License-Identifier: MIT */
/*
 * Threads, locks, time: the only user of pthread and of clocks in the engine.
 *
 * Everything that waits goes through here, so that a second implementation (one thread runs at a
 * time, a scheduler picks) can run the same engine code.  Every lock has a rank (lockranks.h).
 */
#ifndef SYNC_SYNC_H
#define SYNC_SYNC_H

#include "base/base.h"

#include <pthread.h>
#include <stdatomic.h>

enum lock_rank {
#define LOCK_RANK(value, name, kind, what) RANK_##name = (value),
#include "sync/lockranks.h"
#undef LOCK_RANK
};

/* ---- clang's thread-safety analysis (`make tsa`); empty elsewhere ---------------------------- */

#if defined(__clang__) && defined(UEXT4_TSA)
#define TSA(x) __attribute__((x))
#else
#define TSA(x)
#endif
#define CAPABILITY(name) TSA(capability(name))
/* Members that name a later or earlier member: C can only since clang 22. */
#if defined(__clang_major__) && __clang_major__ >= 22
#define GUARDED(lock) TSA(guarded_by(lock))
#else
#define GUARDED(lock)
#endif
#define REQUIRES(...) TSA(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) TSA(requires_shared_capability(__VA_ARGS__))
#define EXCLUDES(...) TSA(locks_excluded(__VA_ARGS__))
#define ACQUIRES(...) TSA(acquire_capability(__VA_ARGS__))
#define ACQUIRES_SHARED(...) TSA(acquire_shared_capability(__VA_ARGS__))
#define TRY_ACQUIRES(...) TSA(try_acquire_capability(__VA_ARGS__))
#define TRY_ACQUIRES_SHARED(...) TSA(try_acquire_shared_capability(__VA_ARGS__))
#define RELEASES(...) TSA(release_capability(__VA_ARGS__))
#define RELEASES_SHARED(...) TSA(release_shared_capability(__VA_ARGS__))
#define NO_TSA TSA(no_thread_safety_analysis)

/* ---- locks --------------------------------------------------------------------------------- */

struct CAPABILITY("mutex") mutex {
	pthread_mutex_t os;
	enum lock_rank rank;
};

/* @rank orders this lock against all others.  A thread holds at most one mutex of a rank. */
void mutex_init(struct mutex *m, enum lock_rank rank);
void mutex_finish(struct mutex *m);
void mutex_lock(struct mutex *m) ACQUIRES(*m);
bool mutex_trylock(struct mutex *m) TRY_ACQUIRES(true, *m) MUST_CHECK;
void mutex_unlock(struct mutex *m) RELEASES(*m);
void mutex_assert_held(const struct mutex *m);

struct CAPABILITY("rwlock") rwlock {
	pthread_rwlock_t os;
	enum lock_rank rank;
	uint64_t key;
};

/* Of two locks with one rank the one with the smaller @key is taken first. */
void rwlock_init(struct rwlock *l, enum lock_rank rank, uint64_t key);
void rwlock_finish(struct rwlock *l);
void rwlock_read(struct rwlock *l) ACQUIRES_SHARED(*l);
void rwlock_read_unlock(struct rwlock *l) RELEASES_SHARED(*l);
void rwlock_write(struct rwlock *l) ACQUIRES(*l);
/* As if its key were @key: where a caller has an order of his own among locks of one rank. */
void rwlock_write_as(struct rwlock *l, uint64_t key) ACQUIRES(*l);
void rwlock_read_as(struct rwlock *l, uint64_t key) ACQUIRES_SHARED(*l);
bool rwlock_tryread(struct rwlock *l) TRY_ACQUIRES_SHARED(true, *l) MUST_CHECK;
bool rwlock_trywrite(struct rwlock *l) TRY_ACQUIRES(true, *l) MUST_CHECK;
void rwlock_write_unlock(struct rwlock *l) RELEASES(*l);

struct cond {
	pthread_cond_t os;
};

void cond_init(struct cond *c);
void cond_finish(struct cond *c);
/* Nothing ranked behind @m may be held. */
void cond_wait(struct cond *c, struct mutex *m) REQUIRES(*m);
/* The same until clock_mono_ns() reaches @deadline_ns; false: it has. */
bool cond_wait_until(struct cond *c, struct mutex *m, uint64_t deadline_ns) REQUIRES(*m);
void cond_broadcast(struct cond *c);
/* At least one who waits, if any does: where all wait for the same. */
void cond_signal(struct cond *c);

/*
 * A lock that is one bit of an atomic word, for objects too many to carry a mutex (pages, buffers).
 * Waiters sleep in a table of the process that is shared by address; it has no owner and no state
 * when nobody waits.
 */
void bit_lock(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank, uint64_t key);
bool bit_trylock(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank, uint64_t key)
	MUST_CHECK;
void bit_unlock(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank);
/*
 * A bit that is a state and no lock (a page under writeback): wait until it is clear, and clear it
 * and wake who waits.  @rank: of the wait.
 */
void bit_wait_clear(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank);
void bit_clear_wake(_Atomic uint32_t *word, uint32_t bit);

/* ---- the rank checker ---------------------------------------------------------------------- */

/*
 * Every acquisition above reports to it.  It aborts with the stack of held ranks when the order is
 * broken, a lock is released by a thread that does not hold it, or an assertion below does not
 * hold.  In release builds all of it is empty.
 */
#ifdef UEXT4_LOCKRANK
/* For pseudo ranks; the locks above call it themselves. */
void lockrank_acquire(enum lock_rank rank, uint64_t key, const void *instance);
void lockrank_release(enum lock_rank rank, const void *instance);
/* The calling thread could take @rank now: stands where a wait *may* happen. */
void lockrank_may_acquire(enum lock_rank rank);
/* The calling thread holds nothing: before user memory is touched, at the end of every API call. */
void lockrank_assert_none(void);
#else
static inline void lockrank_acquire(enum lock_rank r UNUSED, uint64_t k UNUSED,
				    const void *i UNUSED)
{
}
static inline void lockrank_release(enum lock_rank r UNUSED, const void *i UNUSED) {}
static inline void lockrank_may_acquire(enum lock_rank r UNUSED) {}
static inline void lockrank_assert_none(void) {}
#endif

/* ---- the caller's memory ------------------------------------------------------------------- */

/*
 * The only way bytes reach memory of the library's caller.  Nothing ranked may be held: the buffer
 * may lie in a mapping whose fault the engine itself has to answer.
 */
void user_copy_out(void *user, const void *from, size_t bytes);
/* The same the other way, for names and for data to be written. */
void user_copy_in(void *to, const void *user, size_t bytes);
/*
 * For tests whose memory is not the processor's: both are done by these, process wide; NULL: by
 * memcpy().
 */
void sync_set_user_copy(void (*in)(void *to, const void *user, size_t bytes),
			void (*out)(void *user, const void *from, size_t bytes));

/* ---- threads ------------------------------------------------------------------------------- */

struct thread;

/* Runs fn(arg) in a new thread, which holds nothing.  All signals are blocked in it. */
int thread_create(const char *name, void (*fn)(void *arg), void *arg, struct thread **ret_thread)
	MUST_CHECK;
/* Waits for its end and frees it; NULL is fine.  Nothing may be held. */
void thread_join(struct thread *t);

/* ---- time, random -------------------------------------------------------------------------- */

void sleep_ms(uint32_t ms);
/* Nanoseconds of a clock that never goes back. */
uint64_t clock_mono_ns(void);
/* The time of day, since 1970 in UTC. */
void clock_real(int64_t *ret_sec, uint32_t *ret_nsec);
/* 64 random bits: for names, generations and seeds, not for secrets. */
uint64_t random_u64(void);

#endif
