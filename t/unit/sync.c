/* SPDX-License-Identifier: MIT */
/*
 * sync/: locks exclude, bit locks never forget a waiter, and the rank checker ends the process at
 * exactly the mistakes it is for.
 *
 * A mistake is made in a child, whose end (SIGABRT) and words are looked at.  A lost wakeup shows
 * as a hang, which the alarm in main() turns into a failure.
 */
#include "base/base.h"
#include "sync/sync.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define HANG_SECONDS 120
#define THREADS 8
#define LOCK_BIT (1u << 3)
#define OTHER_BITS 0xf0f0u

static void run_threads(size_t count, void *(*body)(void *), void *arg)
{
	pthread_t t[THREADS];

	assert_true(count <= THREADS);
	for (size_t i = 0; i < count; i++)
		assert_int_equal(pthread_create(&t[i], NULL, body, arg), 0);
	for (size_t i = 0; i < count; i++)
		assert_int_equal(pthread_join(t[i], NULL), 0);
}

/* ---- locks exclude ------------------------------------------------------------------------- */

struct counter {
	struct mutex mutex;
	struct rwlock rwlock;
	struct cond changed;
	_Atomic uint32_t word;
	uint64_t n; /* plain: the lock under test protects it, a race detector would tell */
	uint64_t twin;
};

static struct counter *counter_create(void)
{
	struct counter *c = calloc(1, sizeof(*c));

	assert_non_null(c);
	mutex_init(&c->mutex, RANK_leaf);
	rwlock_init(&c->rwlock, RANK_map, 1);
	cond_init(&c->changed);
	atomic_init(&c->word, OTHER_BITS);
	return c;
}

static void counter_destroy(struct counter *c)
{
	cond_finish(&c->changed);
	rwlock_finish(&c->rwlock);
	mutex_finish(&c->mutex);
	free(c);
}

static void *count_by_bit(void *arg)
{
	struct counter *c = arg;

	for (int i = 0; i < 20000; i++) {
		bit_lock(&c->word, LOCK_BIT, RANK_page, 1);
		c->n++;
		bit_unlock(&c->word, LOCK_BIT, RANK_page);
		if (bit_trylock(&c->word, LOCK_BIT, RANK_page, 1)) {
			c->twin++;
			bit_unlock(&c->word, LOCK_BIT, RANK_page);
		}
	}
	return NULL;
}

static void bit_lock_excludes(void **state UNUSED)
{
	struct counter *c = counter_create();

	run_threads(THREADS, count_by_bit, c);
	assert_int_equal(c->n, THREADS * 20000);
	assert_true(c->twin > 0);
	assert_int_equal(atomic_load(&c->word), OTHER_BITS); /* the others' bits are left alone */
	counter_destroy(c);
}

/*
 * In a round each pair of threads meets once at a word of its own, and nobody begins the next round
 * before all have passed: a waiter that is forgotten is not saved by a later unlock, it hangs the
 * test.  Both arrive at the same moment, so that one often goes to sleep just as the other unlocks;
 * in every second round the holder gives its time away, so that waiters of different words are
 * asleep together, at times in one bucket.
 */
#define PAIRS 2
#define WORDS 1024
#define ROUNDS 150000

struct rounds {
	_Atomic uint32_t words[PAIRS][WORDS];
	_Atomic uint32_t ids;
	_Atomic uint32_t passed; /* by how many threads, all rounds together */
};

static void *meet_in_rounds(void *arg)
{
	struct rounds *r = arg;
	uint32_t me = atomic_fetch_add(&r->ids, 1);

	for (uint32_t round = 0; round < ROUNDS; round++) {
		_Atomic uint32_t *word = &r->words[me % PAIRS][round * (me % PAIRS + 1) % WORDS];

		bit_lock(word, LOCK_BIT, RANK_buf, 0);
		if (round % 2 == 0)
			sched_yield();
		bit_unlock(word, LOCK_BIT, RANK_buf);

		atomic_fetch_add(&r->passed, 1);
		while (atomic_load(&r->passed) < (round + 1) * PAIRS * 2)
			sched_yield();
	}
	return NULL;
}

static void bit_lock_loses_no_wakeup(void **state UNUSED)
{
	struct rounds *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	run_threads(PAIRS * 2, meet_in_rounds, r);
	assert_int_equal(atomic_load(&r->passed), ROUNDS * PAIRS * 2);
	free(r);
}

static void *count_by_mutex(void *arg)
{
	struct counter *c = arg;

	for (int i = 0; i < 5000; i++) {
		mutex_lock(&c->mutex);
		mutex_assert_held(&c->mutex);
		c->n++;
		mutex_unlock(&c->mutex);
		if (mutex_trylock(&c->mutex)) {
			c->twin++;
			mutex_unlock(&c->mutex);
		}
	}
	return NULL;
}

static void mutex_excludes(void **state UNUSED)
{
	struct counter *c = counter_create();

	run_threads(THREADS, count_by_mutex, c);
	assert_int_equal(c->n, THREADS * 5000);
	counter_destroy(c);
}

static void *count_by_rwlock(void *arg)
{
	struct counter *c = arg;

	for (int i = 0; i < 3000; i++) {
		if (i % 4 == 0) {
			rwlock_write(&c->rwlock);
			c->n++;
			c->twin++;
			rwlock_write_unlock(&c->rwlock);
		} else {
			rwlock_read(&c->rwlock);
			assert(c->n == c->twin);
			rwlock_read_unlock(&c->rwlock);
		}
	}
	return NULL;
}

static void rwlock_excludes_writers(void **state UNUSED)
{
	struct counter *c = counter_create();

	run_threads(THREADS, count_by_rwlock, c);
	assert_int_equal(c->n, THREADS * 750);
	counter_destroy(c);
}

/* Each thread waits until it is its turn. */
static void *take_turns(void *arg)
{
	struct counter *c = arg;
	uint64_t me;

	mutex_lock(&c->mutex);
	me = c->twin++;
	for (int round = 0; round < 200; round++) {
		while (c->n % THREADS != me)
			cond_wait(&c->changed, &c->mutex);
		c->n++;
		cond_broadcast(&c->changed);
	}
	mutex_unlock(&c->mutex);
	return NULL;
}

static void cond_wakes(void **state UNUSED)
{
	struct counter *c = counter_create();

	run_threads(THREADS, take_turns, c);
	assert_int_equal(c->n, THREADS * 200);
	counter_destroy(c);
}

static void time_passes(void **state UNUSED)
{
	sleep_ms(1);
}

static void user_memory(void **state UNUSED)
{
	char to[4] = "abc";

	user_copy_out(to, "xyz", 2);
	assert_string_equal(to, "xyc");
	user_copy_out(NULL, NULL, 0);
}

/* ---- the rank checker ---------------------------------------------------------------------- */

#ifdef UEXT4_LOCKRANK

static struct rwlock inode1, inode2, map1;
static struct mutex leaf, io;
static struct cond cond;
static _Atomic uint32_t page7, page8;

static void in_order(void)
{
	rwlock_read(&inode1);
	rwlock_write(&inode2);
	bit_lock(&page7, LOCK_BIT, RANK_page, 7);
	bit_lock(&page8, LOCK_BIT, RANK_page, 8);
	lockrank_may_acquire(RANK_xattr);
	mutex_lock(&leaf);
	mutex_assert_held(&leaf);
	rwlock_write_unlock(&inode2); /* released in any order */
	bit_unlock(&page7, LOCK_BIT, RANK_page);
	mutex_unlock(&leaf);
	bit_unlock(&page8, LOCK_BIT, RANK_page);
	rwlock_read_unlock(&inode1);
	lockrank_assert_none();
}

/* What a try-lock took is held, but it may be taken against the order. */
static void tried_against_order(void)
{
	mutex_lock(&leaf);
	if (!mutex_trylock(&io) || !bit_trylock(&page7, LOCK_BIT, RANK_page, 7))
		return;
	bit_unlock(&page7, LOCK_BIT, RANK_page);
	mutex_unlock(&io);
	mutex_unlock(&leaf);
	lockrank_assert_none();
}

static void wrong_order(void)
{
	rwlock_read(&map1);
	rwlock_read(&inode1);
}

static void wrong_order_behind_tried(void)
{
	mutex_lock(&leaf);
	if (mutex_trylock(&io))
		rwlock_write(&map1);
}

static void wrong_order_of_bits(void)
{
	mutex_lock(&io);
	bit_lock(&page7, LOCK_BIT, RANK_page, 7);
}

static void same_rank_smaller_key(void)
{
	rwlock_read(&inode2);
	rwlock_read(&inode1);
}

static void same_rank_same_key(void)
{
	bit_lock(&page7, LOCK_BIT, RANK_page, 7);
	bit_lock(&page8, LOCK_BIT, RANK_page, 7);
}

static void read_twice(void)
{
	rwlock_read(&inode1);
	rwlock_read(&inode1);
}

static void release_of_nothing(void)
{
	lockrank_acquire(RANK_leaf, 0, &io);
	mutex_unlock(&leaf);
}

static void wait_holding_later(void)
{
	mutex_lock(&io);
	mutex_lock(&leaf);
	cond_wait(&cond, &io);
}

static void wait_without_mutex(void)
{
	cond_wait(&cond, &io);
}

static void may_wait_holding_later(void)
{
	mutex_lock(&io);
	lockrank_may_acquire(RANK_page);
}

static void may_wait_holding_same(void)
{
	rwlock_read(&inode1);
	lockrank_may_acquire(RANK_inode);
}

static void something_is_held(void)
{
	char to;

	rwlock_read(&inode1);
	user_copy_out(&to, "x", 1);
}

static void assert_of_other_mutex(void)
{
	mutex_lock(&leaf);
	mutex_assert_held(&io);
}

static void too_many(void)
{
	for (uint64_t key = 0; key < 5000; key++)
		lockrank_acquire(RANK_page, key, (const void *)(uintptr_t)(key + 1));
}

static void locks_init(void)
{
	rwlock_init(&inode1, RANK_inode, 1);
	rwlock_init(&inode2, RANK_inode, 2);
	rwlock_init(&map1, RANK_map, 1);
	mutex_init(&io, RANK_io);
	mutex_init(&leaf, RANK_leaf);
	cond_init(&cond);
}

/* Runs @body in a child; returns its wait status and what it wrote to stderr. */
static int run_child(void (*body)(void), char *ret_words, size_t size)
{
	int fds[2], status;
	size_t used = 0;
	ssize_t n;
	pid_t child;

	assert_int_equal(pipe(fds), 0);
	fflush(NULL);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct rlimit no_core = { 0, 0 };

		setrlimit(RLIMIT_CORE, &no_core);
		dup2(fds[1], STDERR_FILENO);
		close(fds[0]);
		close(fds[1]);
		locks_init();
		body();
		_exit(0);
	}
	close(fds[1]);
	while ((n = read(fds[0], ret_words + used, size - 1 - used)) > 0)
		used += (size_t)n;
	ret_words[used] = '\0';
	close(fds[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

static const struct {
	void (*body)(void);
	const char *words; /* NULL: no mistake */
} cases[] = {
	{ in_order, NULL },
	{ tried_against_order, NULL },
	{ wrong_order, "inode (rank 20, key 1) is taken after map (rank 90)" },
	{ wrong_order_behind_tried, "map (rank 90, key 1) is taken after leaf (rank 119)" },
	{ wrong_order_of_bits, "page (rank 70, key 7) is taken after io (rank 100)" },
	{ same_rank_smaller_key, "inode with key 1 is taken after key 2" },
	{ same_rank_same_key, "page with key 7 is taken after key 7" },
	{ read_twice, "is taken a second time" },
	{ release_of_nothing, "is released, but not held" },
	{ wait_holding_later, "is given up for a wait while leaf is held" },
	{ wait_without_mutex, "must be held here" },
	{ may_wait_holding_later, "page (rank 70) may be waited for here, after io" },
	{ may_wait_holding_same, "inode (rank 20) may be waited for here, after inode" },
	{ something_is_held, "nothing may be held here" },
	{ assert_of_other_mutex, "io (at " },
	{ too_many, "locks held at once" },
};

static void checker_aborts_on_mistakes(void **state UNUSED)
{
	static char words[1 << 20];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int status = run_child(cases[i].body, words, sizeof(words));

		if (cases[i].words == NULL) {
			assert_string_equal(words, "");
			assert_true(WIFEXITED(status));
			assert_int_equal(WEXITSTATUS(status), 0);
			continue;
		}
		if (!WIFSIGNALED(status) || strstr(words, cases[i].words) == NULL)
			print_error("case %zu: status %x: %.300s\n", i, (unsigned)status, words);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGABRT);
		assert_non_null(strstr(words, cases[i].words));
		assert_non_null(strstr(words, "this thread holds"));
	}
}

#else

static void checker_aborts_on_mistakes(void **state UNUSED)
{
	print_message("built without the rank checker\n");
	skip();
}

#endif

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(checker_aborts_on_mistakes), /* forks: before there are threads */
		cmocka_unit_test(bit_lock_excludes),
		cmocka_unit_test(bit_lock_loses_no_wakeup),
		cmocka_unit_test(mutex_excludes),
		cmocka_unit_test(rwlock_excludes_writers),
		cmocka_unit_test(cond_wakes),
		cmocka_unit_test(time_passes),
		cmocka_unit_test(user_memory),
	};

	alarm(HANG_SECONDS);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
