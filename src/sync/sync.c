/* SPDX-License-Identifier: MIT */
/*
 * Locks, threads and time on pthread.
 *
 * Each acquisition is announced to the rank checker before it may wait, so that a wrong order is a
 * message and not a deadlock; each release before the lock is given up, because afterwards the
 * object it lies in may be gone.
 *
 *  S1  A bit lock's waiters are never forgotten: see bit_unlock().
 *  S2  bit_unlock() does not touch the word once the bit is clear.
 */
#include "sync/sync.h"

#include "sync/sync_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <signal.h>
#include <sys/random.h>
#include <time.h>

#define NS_PER_S UINT64_C(1000000000)

/* These pthread calls fail only when they are misused: our mistake. */
static void must(int err)
{
	assert(err == 0);
	(void)err;
}

/* ---- mutex, rwlock, cond ------------------------------------------------------------------- */

void mutex_init(struct mutex *m, enum lock_rank rank)
{
	must(pthread_mutex_init(&m->os, NULL));
	m->rank = rank;
}

void mutex_finish(struct mutex *m)
{
	must(pthread_mutex_destroy(&m->os));
}

NO_TSA void mutex_lock(struct mutex *m)
{
	lockrank_acquire(m->rank, 0, m);
	must(pthread_mutex_lock(&m->os));
}

NO_TSA bool mutex_trylock(struct mutex *m)
{
	if (pthread_mutex_trylock(&m->os) != 0)
		return false;
	lockrank_acquire_tried(m->rank, 0, m);
	return true;
}

NO_TSA void mutex_unlock(struct mutex *m)
{
	lockrank_release(m->rank, m);
	must(pthread_mutex_unlock(&m->os));
}

void mutex_assert_held(const struct mutex *m)
{
	lockrank_assert_held(m->rank, m);
}

/*
 * Writers go first: readers that never pause would otherwise keep one out for seconds.  Safe
 * because nobody takes a lock twice (R1 of the rank checker).
 */
void rwlock_init(struct rwlock *l, enum lock_rank rank, uint64_t key)
{
	pthread_rwlockattr_t attr;

	must(pthread_rwlockattr_init(&attr));
	must(pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP));
	must(pthread_rwlock_init(&l->os, &attr));
	must(pthread_rwlockattr_destroy(&attr));
	l->rank = rank;
	l->key = key;
}

void rwlock_finish(struct rwlock *l)
{
	must(pthread_rwlock_destroy(&l->os));
}

NO_TSA void rwlock_read(struct rwlock *l)
{
	lockrank_acquire(l->rank, l->key, l);
	must(pthread_rwlock_rdlock(&l->os));
}

NO_TSA void rwlock_read_unlock(struct rwlock *l)
{
	lockrank_release(l->rank, l);
	must(pthread_rwlock_unlock(&l->os));
}

NO_TSA void rwlock_write(struct rwlock *l)
{
	lockrank_acquire(l->rank, l->key, l);
	must(pthread_rwlock_wrlock(&l->os));
}

NO_TSA void rwlock_write_as(struct rwlock *l, uint64_t key)
{
	lockrank_acquire(l->rank, key, l);
	must(pthread_rwlock_wrlock(&l->os));
}

NO_TSA bool rwlock_tryread(struct rwlock *l)
{
	if (pthread_rwlock_tryrdlock(&l->os) != 0)
		return false;
	lockrank_acquire_tried(l->rank, l->key, l);
	return true;
}

NO_TSA bool rwlock_trywrite(struct rwlock *l)
{
	if (pthread_rwlock_trywrlock(&l->os) != 0)
		return false;
	lockrank_acquire_tried(l->rank, l->key, l);
	return true;
}

NO_TSA void rwlock_read_as(struct rwlock *l, uint64_t key)
{
	lockrank_acquire(l->rank, key, l);
	must(pthread_rwlock_rdlock(&l->os));
}

NO_TSA void rwlock_write_unlock(struct rwlock *l)
{
	lockrank_release(l->rank, l);
	must(pthread_rwlock_unlock(&l->os));
}

void cond_init(struct cond *c)
{
	pthread_condattr_t attr;

	must(pthread_condattr_init(&attr));
	must(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC));
	must(pthread_cond_init(&c->os, &attr));
	must(pthread_condattr_destroy(&attr));
}

void cond_finish(struct cond *c)
{
	must(pthread_cond_destroy(&c->os));
}

/* For the checker the mutex stays held: the thread sleeps, and has it again when it wakes up. */
NO_TSA void cond_wait(struct cond *c, struct mutex *m)
{
	lockrank_assert_last(m->rank, m);
	must(pthread_cond_wait(&c->os, &m->os));
}

NO_TSA bool cond_wait_until(struct cond *c, struct mutex *m, uint64_t deadline_ns)
{
	struct timespec until = {
		.tv_sec = (time_t)(deadline_ns / NS_PER_S),
		.tv_nsec = (long)(deadline_ns % NS_PER_S),
	};
	int err;

	lockrank_assert_last(m->rank, m);
	err = pthread_cond_timedwait(&c->os, &m->os, &until);
	assert(err == 0 || err == ETIMEDOUT);
	return err == 0;
}

void cond_broadcast(struct cond *c)
{
	must(pthread_cond_broadcast(&c->os));
}

void cond_signal(struct cond *c)
{
	must(pthread_cond_signal(&c->os));
}

/* ---- bit locks ----------------------------------------------------------------------------- */

/*
 * Where the waiters of all words with one hash sleep.  Its mutex is held for a few instructions and
 * never while another lock is taken, so it needs no rank.
 */
struct bit_bucket {
	pthread_mutex_t mutex;
	pthread_cond_t wakeup;
	_Atomic uint32_t waiters;
} __attribute__((aligned(64))); /* neighbours do not share a cache line */

#define BUCKET_BITS 6

static struct bit_bucket bit_buckets[1u << BUCKET_BITS] = {
	[0 ...(1u << BUCKET_BITS) - 1] = {
		.mutex = PTHREAD_MUTEX_INITIALIZER,
		.wakeup = PTHREAD_COND_INITIALIZER,
	},
};

static struct bit_bucket *bucket_of(const _Atomic uint32_t *word)
{
	uint64_t h = (uint64_t)(uintptr_t)word * UINT64_C(0x9e3779b97f4a7c15);

	return &bit_buckets[h >> (64 - BUCKET_BITS)];
}

static bool take_bit(_Atomic uint32_t *word, uint32_t bit)
{
	return (atomic_fetch_or(word, bit) & bit) == 0;
}

/*
 * From the moment it is counted until it sleeps a waiter has the bucket's mutex; a wakeup, sent
 * under the same mutex, comes before the last look at the bit or finds it asleep.
 */
static COLD void wait_for_bit(_Atomic uint32_t *word, uint32_t bit)
{
	struct bit_bucket *b = bucket_of(word);

	must(pthread_mutex_lock(&b->mutex));
	atomic_fetch_add(&b->waiters, 1);
	while (!take_bit(word, bit))
		must(pthread_cond_wait(&b->wakeup, &b->mutex));
	atomic_fetch_sub(&b->waiters, 1);
	must(pthread_mutex_unlock(&b->mutex));
}

void bit_lock(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank, uint64_t key)
{
	assert(is_pow2(bit));
	lockrank_acquire(rank, key, word);
	if (!take_bit(word, bit))
		wait_for_bit(word, bit);
}

bool bit_trylock(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank, uint64_t key)
{
	assert(is_pow2(bit));
	if (!take_bit(word, bit))
		return false;
	lockrank_acquire_tried(rank, key, word);
	return true;
}

/*
 * The waiter counts itself and then looks at the bit; we clear the bit and then look at the count.
 * All four are sequentially consistent, so at least one of the two sees the other: either the
 * waiter finds the bit clear, or we find the waiter and wake it.  Weaker orders would allow both to
 * miss.
 *
 * The broadcast wakes waiters of other words with the same hash too: they look and sleep again.
 */
void bit_unlock(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank)
{
	lockrank_release(rank, word);
	bit_clear_wake(word, bit);
}

void bit_clear_wake(_Atomic uint32_t *word, uint32_t bit)
{
	struct bit_bucket *b = bucket_of(word);
	uint32_t before = atomic_fetch_and(word, ~bit);

	assert((before & bit) != 0);
	(void)before;

	if (unlikely(atomic_load(&b->waiters) != 0)) {
		must(pthread_mutex_lock(&b->mutex));
		must(pthread_cond_broadcast(&b->wakeup));
		must(pthread_mutex_unlock(&b->mutex));
	}
}

void bit_wait_clear(_Atomic uint32_t *word, uint32_t bit, enum lock_rank rank UNUSED)
{
	struct bit_bucket *b = bucket_of(word);

	lockrank_may_acquire(rank);
	if (!(atomic_load(word) & bit))
		return;
	must(pthread_mutex_lock(&b->mutex));
	atomic_fetch_add(&b->waiters, 1);
	while (atomic_load(word) & bit)
		must(pthread_cond_wait(&b->wakeup, &b->mutex));
	atomic_fetch_sub(&b->waiters, 1);
	must(pthread_mutex_unlock(&b->mutex));
}

/* ---- threads ------------------------------------------------------------------------------- */

struct thread {
	pthread_t os;
	void (*fn)(void *arg);
	void *arg;
};

static void *thread_main(void *arg)
{
	struct thread *t = arg;

	t->fn(t->arg);
	lockrank_assert_none();
	return NULL;
}

int thread_create(const char *name, void (*fn)(void *arg), void *arg, struct thread **ret_thread)
{
	struct thread *t = mem_alloc(sizeof(*t));
	sigset_t all, before;
	int err;

	if (t == NULL)
		return -ENOMEM;
	t->fn = fn;
	t->arg = arg;
	/* A new thread has the mask of the one that made it. */
	(void)sigfillset(&all);
	must(pthread_sigmask(SIG_SETMASK, &all, &before));
	err = pthread_create(&t->os, NULL, thread_main, t);
	must(pthread_sigmask(SIG_SETMASK, &before, NULL));
	if (err != 0) {
		mem_free(t);
		return fail(-err, "cannot start the thread %s: %s", name, strerror(err));
	}
	(void)pthread_setname_np(t->os, name); /* for debuggers; too long is no harm */
	*ret_thread = t;
	return 0;
}

void thread_join(struct thread *t)
{
	if (t == NULL)
		return;
	lockrank_assert_none();
	must(pthread_join(t->os, NULL));
	mem_free(t);
}

/* ---- time ---------------------------------------------------------------------------------- */

void sleep_ms(uint32_t ms)
{
	struct timespec left = {
		.tv_sec = (time_t)(ms / 1000),
		.tv_nsec = (long)(ms % 1000) * 1000000,
	};

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

static struct timespec read_clock(clockid_t id)
{
	struct timespec now;

	must(clock_gettime(id, &now));
	return now;
}

uint64_t clock_mono_ns(void)
{
	struct timespec now = read_clock(CLOCK_MONOTONIC);

	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

void clock_real(int64_t *ret_sec, uint32_t *ret_nsec)
{
	struct timespec now = read_clock(CLOCK_REALTIME);

	*ret_sec = now.tv_sec;
	*ret_nsec = (uint32_t)now.tv_nsec;
}

/*
 * One seed from the system for the process, and a permutation of a counter from there on: a system
 * call for each new inode would be felt.
 */
static _Atomic uint64_t random_counter;
static pthread_once_t random_once = PTHREAD_ONCE_INIT;

static void random_seed(void)
{
	uint64_t seed;

	/* Never short for so few bytes; without the system call (a jail) the clock has to do. */
	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		seed = clock_mono_ns();
	atomic_store(&random_counter, seed);
}

uint64_t random_u64(void)
{
	uint64_t x;

	must(pthread_once(&random_once, random_seed));
	x = atomic_fetch_add_explicit(&random_counter, UINT64_C(0x9e3779b97f4a7c15),
				      memory_order_relaxed);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}
