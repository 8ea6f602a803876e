/* SPDX-License-Identifier: MIT */
/*
 * sim/: the scheduler finds what is planted, the same seed is the same run, and depth-first search
 * sees every schedule once.
 *
 * Bodies run in children: they check with SIM_ASSERT(), and tell the test more only through
 * `shared`.  Locks that deadlock are taken in an order that the rank checker cannot see: two of one
 * rank, each under the key that the thread says.
 */
#include "base/base.h"
#include "sim/sim.h"
#include "sync/sync.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

#define BIT (1u << 3)
#define NS_PER_S UINT64_C(1000000000)

static struct {
	unsigned orders_count;
	uint32_t orders[64];
	unsigned calls;
} * shared;

static void forget(void)
{
	memset(shared, 0, sizeof(*shared));
}

static struct sim_result explore(struct sim_options options, int (*body)(void *arg), void *arg)
{
	struct sim_result r;

	(void)sim_explore(&options, body, arg, &r);
	return r;
}

/* Explores, expects an outcome, and forgets the rest. */
static void expect(struct sim_options options, int (*body)(void *arg), void *arg,
		   enum sim_outcome outcome)
{
	struct sim_result r = explore(options, body, arg);

	if (r.outcome != outcome)
		fprintf(stderr, "%s instead of %s:\n%s", sim_outcome_name(r.outcome),
			sim_outcome_name(outcome), r.report ? r.report : "");
	assert_int_equal(r.outcome, outcome);
	sim_result_finish(&r);
}

static void expect_in(const char *report, const char *words)
{
	if (!report || !strstr(report, words))
		fprintf(stderr, "'%s' is not in:\n%s", words, report ? report : "nothing\n");
	assert_non_null(report);
	assert_non_null(strstr(report, words));
}

/* ---- lost updates ---------------------------------------------------------------------------- */

enum guard { GUARD_NONE, GUARD_MUTEX, GUARD_WRITE, GUARD_READ, GUARD_BIT, GUARD_TRY };

static struct {
	enum guard guard;
	unsigned count;
	struct mutex mutex;
	struct rwlock rwlock;
	_Atomic uint32_t word;
} counter;

static void guard_lock(void)
{
	switch (counter.guard) {
	case GUARD_NONE: break;
	case GUARD_MUTEX: mutex_lock(&counter.mutex); break;
	case GUARD_WRITE: rwlock_write(&counter.rwlock); break;
	case GUARD_READ: rwlock_read(&counter.rwlock); break;
	case GUARD_BIT: bit_lock(&counter.word, BIT, RANK_page, 7); break;
	case GUARD_TRY:
		while (!bit_trylock(&counter.word, BIT, RANK_page, 7))
			sleep_ms(1);
		break;
	}
}

static void guard_unlock(void)
{
	switch (counter.guard) {
	case GUARD_NONE: break;
	case GUARD_MUTEX: mutex_unlock(&counter.mutex); break;
	case GUARD_WRITE: rwlock_write_unlock(&counter.rwlock); break;
	case GUARD_READ: rwlock_read_unlock(&counter.rwlock); break;
	case GUARD_BIT:
	case GUARD_TRY: bit_unlock(&counter.word, BIT, RANK_page); break;
	}
}

static void add_one(void *arg UNUSED)
{
	unsigned n;

	guard_lock();
	n = counter.count;
	sim_point("has read %u", n);
	counter.count = n + 1;
	guard_unlock();
}

static int count_to_three(void *arg)
{
	const struct sim_body adders[] = {
		{ "one", add_one, NULL },
		{ "two", add_one, NULL },
		{ "three", add_one, NULL },
	};

	counter.guard = *(const enum guard *)arg;
	mutex_init(&counter.mutex, RANK_leaf);
	rwlock_init(&counter.rwlock, RANK_map, 3);
	sim_threads(adders, ARRAY_SIZE(adders));
	mutex_finish(&counter.mutex);
	rwlock_finish(&counter.rwlock);
	SIM_ASSERT(counter.count == ARRAY_SIZE(adders));
	SIM_ASSERT(atomic_load(&counter.word) == 0);
	return 0;
}

static void lost_update_needs_one_preemption(void **state UNUSED)
{
	enum guard none = GUARD_NONE;
	struct sim_options o = { .strategy = SIM_DFS, .preemptions = 0 };
	struct sim_result r = explore(o, count_to_three, &none);

	assert_int_equal(r.outcome, SIM_OK);
	assert_true(r.complete);
	sim_result_finish(&r);

	o.preemptions = 1;
	r = explore(o, count_to_three, &none);
	assert_int_equal(r.outcome, SIM_CHECK);
	assert_int_equal(r.preemptions, 1);
	expect_in(r.report, "has read 0");
	expect_in(r.report, "counter.count == ARRAY_SIZE(adders) does not hold");
	sim_result_finish(&r);
}

static void every_strategy_finds_it(void **state UNUSED)
{
	enum guard guards[] = { GUARD_NONE, GUARD_READ };

	for (unsigned i = 0; i < ARRAY_SIZE(guards); i++) {
		expect((struct sim_options){ .schedules = 500, .seed = 1 }, count_to_three,
		       &guards[i], SIM_CHECK);
		expect((struct sim_options){ .strategy = SIM_PCT,
					     .preemptions = 2,
					     .schedules = 500,
					     .seed = 1 },
		       count_to_three, &guards[i], SIM_CHECK);
		expect((struct sim_options){ .strategy = SIM_DFS, .preemptions = 1 },
		       count_to_three, &guards[i], SIM_CHECK);
	}
}

static void locks_exclude(void **state UNUSED)
{
	enum guard guards[] = { GUARD_MUTEX, GUARD_WRITE, GUARD_BIT, GUARD_TRY };

	for (unsigned i = 0; i < ARRAY_SIZE(guards); i++) {
		struct sim_result r = explore((struct sim_options){ .strategy = SIM_DFS,
								    .preemptions = 1,
								    .coarse = true },
					      count_to_three, &guards[i]);

		if (r.report)
			fprintf(stderr, "%s", r.report);
		assert_int_equal(r.outcome, SIM_OK);
		assert_true(r.complete);
		sim_result_finish(&r);
		expect((struct sim_options){ .schedules = 100, .seed = 5, .timers = true },
		       count_to_three, &guards[i], SIM_OK);
	}
}

/* ---- how many schedules there are ------------------------------------------------------------ */

static void nothing(void *arg UNUSED) {}

static int two_threads(void *arg UNUSED)
{
	const struct sim_body bodies[] = { { "one", nothing, NULL }, { "two", nothing, NULL } };

	sim_threads(bodies, ARRAY_SIZE(bodies));
	return 0;
}

static int two_values(void *arg UNUSED)
{
	uint32_t a = sim_choose(3), b = a == 1 ? 0 : sim_choose(2);

	shared->orders[shared->calls++] = a * 10 + b;
	return 0;
}

/*
 * main waits for the first: the second first (1), or the first, and then the second (2) or main,
 * which waits for the second (3).
 */
static void depth_first_sees_every_schedule_once(void **state UNUSED)
{
	static const uint32_t values[] = { 0, 1, 10, 20, 21 };
	struct sim_options o = { .strategy = SIM_DFS };
	struct sim_result r = explore(o, two_threads, NULL);

	assert_int_equal(r.outcome, SIM_OK);
	assert_true(r.complete);
	assert_int_equal(r.schedules, 3);
	sim_result_finish(&r);

	forget();
	r = explore(o, two_values, NULL);
	assert_true(r.complete);
	assert_int_equal(r.schedules, ARRAY_SIZE(values));
	assert_memory_equal(shared->orders, values, sizeof(values));
	sim_result_finish(&r);
}

static uint32_t order;

static void note_order(void *arg)
{
	for (unsigned i = 0; i < 3; i++) {
		sim_point("%u", i);
		order = order << 2 | *(const uint32_t *)arg;
	}
}

static int interleave(void *arg UNUSED)
{
	static const uint32_t one = 1, two = 2;
	const struct sim_body bodies[] = { { "one", note_order, (void *)(uintptr_t)&one },
					   { "two", note_order, (void *)(uintptr_t)&two } };

	order = 0;
	sim_threads(bodies, ARRAY_SIZE(bodies));
	for (unsigned i = 0; i < shared->orders_count; i++) {
		if (shared->orders[i] == order)
			return 0;
	}
	SIM_ASSERT(shared->orders_count < ARRAY_SIZE(shared->orders));
	shared->orders[shared->orders_count++] = order;
	return 0;
}

/* Three steps against three: 20 ways, of which 2 need no preemption, and 4 more only one. */
static void depth_first_sees_every_order(void **state UNUSED)
{
	static const unsigned want[] = { 2, 6, 14, 18, 20 };

	for (unsigned bound = 0; bound < ARRAY_SIZE(want); bound++) {
		struct sim_result r;

		forget();
		r = explore((struct sim_options){ .strategy = SIM_DFS, .preemptions = bound },
			    interleave, NULL);
		assert_int_equal(r.outcome, SIM_OK);
		assert_true(r.complete);
		fprintf(stderr, "# %u preemptions: %llu schedules, %.0f/s, %u orders\n", bound,
			(unsigned long long)r.schedules, (double)r.schedules / r.seconds,
			shared->orders_count);
		assert_int_equal(shared->orders_count, want[bound]);
		sim_result_finish(&r);
	}
}

/* ---- one seed, one run ----------------------------------------------------------------------- */

static int some_of_all(void *arg UNUSED)
{
	static const enum guard guards[] = { GUARD_MUTEX, GUARD_WRITE, GUARD_READ, GUARD_BIT };
	enum guard g = guards[sim_choose(ARRAY_SIZE(guards))];

	if (g == GUARD_READ)
		g = random_u64() % 2 ? GUARD_BIT : GUARD_TRY;
	return count_to_three(&g);
}

static void same_seed_is_the_same_run(void **state UNUSED)
{
	static const enum sim_strategy strategies[] = { SIM_RANDOM, SIM_PCT };
	unsigned differ = 0;

	for (unsigned i = 0; i < 40; i++) {
		struct sim_options o = { .strategy = strategies[i % 2],
					 .preemptions = 3,
					 .seed = i / 2,
					 .timers = true };
		struct sim_result a = explore(o, some_of_all, NULL);
		struct sim_result b = explore(o, some_of_all, NULL), c;
		struct sim_options replay = { .strategy = SIM_REPLAY,
					      .seed = o.seed,
					      .timers = true,
					      .schedule = a.schedule };

		assert_int_equal(a.outcome, SIM_OK);
		assert_int_equal(a.hash, b.hash);
		assert_string_equal(a.schedule, b.schedule);
		c = explore(replay, some_of_all, NULL);
		assert_int_equal(c.outcome, SIM_OK);
		assert_int_equal(a.hash, c.hash);
		assert_string_equal(a.schedule, c.schedule);
		sim_result_finish(&c);
		o.seed += 1000;
		c = explore(o, some_of_all, NULL);
		differ += a.hash != c.hash;
		sim_result_finish(&a);
		sim_result_finish(&b);
		sim_result_finish(&c);
	}
	assert_true(differ > 30);
}

static void failure_is_replayed_and_made_simpler(void **state UNUSED)
{
	enum guard none = GUARD_NONE;
	struct sim_options o = { .seed = 1, .schedules = 1000, .minimise = 200 };
	struct sim_result r = explore(o, count_to_three, &none), again;
	struct sim_options replay = { .strategy = SIM_REPLAY, .seed = r.seed };

	assert_int_equal(r.outcome, SIM_CHECK);
	assert_int_equal(r.preemptions, 1);
	replay.schedule = r.schedule;
	again = explore(replay, count_to_three, &none);
	assert_int_equal(again.outcome, SIM_CHECK);
	assert_int_equal(again.hash, r.hash);
	sim_result_finish(&again);
	sim_result_finish(&r);

	replay.schedule = "0,19";
	expect(replay, count_to_three, &none, SIM_DIVERGED);
}

/* ---- deadlocks ------------------------------------------------------------------------------- */

static struct rwlock lock_a, lock_b;

static void locks_init(void)
{
	rwlock_init(&lock_a, RANK_inode, 12);
	rwlock_init(&lock_b, RANK_inode, 13);
}

static void a_then_b(void *arg UNUSED)
{
	rwlock_write_as(&lock_a, 1);
	rwlock_write_as(&lock_b, 2);
	rwlock_write_unlock(&lock_b);
	rwlock_write_unlock(&lock_a);
}

static void b_then_a(void *arg UNUSED)
{
	rwlock_write_as(&lock_b, 1);
	rwlock_write_as(&lock_a, 2);
	rwlock_write_unlock(&lock_a);
	rwlock_write_unlock(&lock_b);
}

/* Sleeps and wakes for ever: a deadlock of others must be seen all the same. */
static void tick(void *arg)
{
	while (!atomic_load((_Atomic bool *)arg))
		sleep_ms(1000);
}

static int abba(void *arg UNUSED)
{
	static _Atomic bool stop;
	const struct sim_body bodies[] = { { "writer", a_then_b, NULL },
					   { "renamer", b_then_a, NULL } };
	struct thread *ticker;

	locks_init();
	SIM_ASSERT(thread_create("ticker", tick, &stop, &ticker) == 0);
	sim_threads(bodies, ARRAY_SIZE(bodies));
	atomic_store(&stop, true);
	thread_join(ticker);
	return 0;
}

static void two_locks_in_two_orders(void **state UNUSED)
{
	struct sim_options o = { .strategy = SIM_DFS };
	struct sim_result r;

	expect(o, abba, NULL, SIM_OK);
	o.preemptions = 1;
	r = explore(o, abba, NULL);
	assert_int_equal(r.outcome, SIM_DEADLOCK);
	expect_in(r.report, "writer: holds inode 1 (rank 20); waits for inode 2, held by renamer");
	expect_in(r.report, "renamer: holds inode 1 (rank 20); waits for inode 2, held by writer");
	expect_in(r.report, "circle: ");
	expect_in(r.report, "write-lock inode 2: queued");
	fprintf(stderr, "%s", r.report);
	sim_result_finish(&r);
}

static void write_faults(void *arg UNUSED) /* the file's lock, then the mapping's */
{
	rwlock_write_as(&lock_a, 1);
	rwlock_read_as(&lock_b, 2);
	rwlock_read_unlock(&lock_b);
	rwlock_write_unlock(&lock_a);
}

static void store_faults(void *arg UNUSED)
{
	rwlock_read_as(&lock_b, 1);
	rwlock_write_as(&lock_a, 2);
	rwlock_write_unlock(&lock_a);
	rwlock_read_unlock(&lock_b);
}

static void maps(void *arg UNUSED)
{
	rwlock_write(&lock_b);
	rwlock_write_unlock(&lock_b);
}

static int fault_under_lock(void *arg)
{
	const struct sim_body bodies[] = { { "write", write_faults, NULL },
					   { "store", store_faults, NULL },
					   { "mmap", maps, NULL } };

	locks_init();
	sim_threads(bodies, *(const size_t *)arg);
	return 0;
}

/* Two readers of one lock wait for each other only because a writer stands between them. */
static void queued_writer_closes_a_circle(void **state UNUSED)
{
	struct sim_options o = { .strategy = SIM_DFS, .preemptions = 2 };
	size_t without = 2, with = 3;
	struct sim_result r;

	expect(o, fault_under_lock, &without, SIM_OK);
	r = explore(o, fault_under_lock, &with);
	assert_int_equal(r.outcome, SIM_DEADLOCK);
	expect_in(r.report, "write: holds inode 1 (rank 20); waits for inode 2, for which mmap is "
			    "queued, held by store");
	expect_in(r.report, "mmap: waits for inode 13, held by store");
	expect_in(r.report, "circle: ");
	sim_result_finish(&r);
	expect((struct sim_options){ .schedules = 2000, .seed = 1 }, fault_under_lock, &with,
	       SIM_DEADLOCK);
}

/* ---- waits ----------------------------------------------------------------------------------- */

static struct {
	bool looks_first; /* the mistake */
	bool flag;
	struct mutex mutex;
	struct cond cond;
} door;

static void open_door(void *arg UNUSED)
{
	mutex_lock(&door.mutex);
	door.flag = true;
	cond_broadcast(&door.cond);
	mutex_unlock(&door.mutex);
}

static void pass_door(void *arg UNUSED)
{
	if (door.looks_first && door.flag)
		return;
	mutex_lock(&door.mutex);
	if (door.looks_first)
		cond_wait(&door.cond, &door.mutex);
	while (!door.flag)
		cond_wait(&door.cond, &door.mutex);
	mutex_unlock(&door.mutex);
}

static int door_body(void *arg)
{
	const struct sim_body bodies[] = { { "waits", pass_door, NULL },
					   { "opens", open_door, NULL } };

	door.looks_first = *(const bool *)arg;
	mutex_init(&door.mutex, RANK_leaf);
	cond_init(&door.cond);
	sim_threads(bodies, ARRAY_SIZE(bodies));
	cond_finish(&door.cond);
	mutex_finish(&door.mutex);
	return 0;
}

static void lost_wakeup_is_found(void **state UNUSED)
{
	struct sim_options o = { .strategy = SIM_DFS, .preemptions = 2 };
	bool wrong = true, right = false;
	struct sim_result r = explore(o, door_body, &right);

	assert_int_equal(r.outcome, SIM_OK);
	assert_true(r.complete);
	sim_result_finish(&r);
	r = explore(o, door_body, &wrong);
	assert_int_equal(r.outcome, SIM_DEADLOCK);
	expect_in(r.report, "nobody can go on");
	expect_in(r.report, "waits: waits to be woken, with leaf given up");
	sim_result_finish(&r);
}

static void clear_bit(void *arg)
{
	sleep_ms(10);
	bit_clear_wake(arg, BIT);
}

static int wait_for_bits(void *arg UNUSED)
{
	static _Atomic uint32_t word = BIT | 1;
	struct thread *t;

	SIM_ASSERT(thread_create("clears", clear_bit, &word, &t) == 0);
	bit_wait_clear(&word, BIT, RANK_writeback);
	SIM_ASSERT(atomic_load(&word) == 1);
	thread_join(t);
	return 0;
}

static void bit_is_waited_for(void **state UNUSED)
{
	expect((struct sim_options){ .strategy = SIM_DFS, .preemptions = 2 }, wait_for_bits, NULL,
	       SIM_OK);
}

static void sleep_and_note(void *arg)
{
	sleep_ms(1000 * *(const uint32_t *)arg);
	order = order * 10 + *(const uint32_t *)arg;
}

static int timed_waits(void *arg UNUSED)
{
	static const uint32_t seconds[] = { 3, 1, 2 };
	struct thread *threads[ARRAY_SIZE(seconds)];
	uint64_t start = clock_mono_ns();
	struct mutex m;
	struct cond c;

	mutex_init(&m, RANK_leaf);
	cond_init(&c);
	for (unsigned i = 0; i < ARRAY_SIZE(seconds); i++)
		SIM_ASSERT(thread_create("sleeper", sleep_and_note, (void *)(uintptr_t)&seconds[i],
					 &threads[i]) == 0);
	mutex_lock(&m);
	SIM_ASSERT(!cond_wait_until(&c, &m, start + 100 * NS_PER_S));
	mutex_unlock(&m);
	SIM_ASSERT(clock_mono_ns() >= start + 100 * NS_PER_S);
	SIM_ASSERT(clock_mono_ns() < start + 101 * NS_PER_S);
	SIM_ASSERT(order == 123);
	for (unsigned i = 0; i < ARRAY_SIZE(seconds); i++)
		thread_join(threads[i]);
	return 0;
}

static void time_is_a_number(void **state UNUSED)
{
	expect((struct sim_options){ .strategy = SIM_DFS, .preemptions = 1 }, timed_waits, NULL,
	       SIM_OK);
}

/* Nothing says that a thread waits long enough: its deadline may pass while others could run. */
static int hurried(void *arg UNUSED)
{
	struct thread *t;

	order = 0;
	SIM_ASSERT(thread_create("sleeper", sleep_and_note, &(uint32_t){ 1 }, &t) == 0);
	sim_point("quick");
	SIM_ASSERT(order == 0);
	sim_point("slow");
	thread_join(t);
	return 0;
}

static void deadlines_pass_where_the_schedule_says(void **state UNUSED)
{
	struct sim_options o = { .strategy = SIM_DFS, .preemptions = 3 };

	expect(o, hurried, NULL, SIM_OK);
	o.timers = true;
	expect(o, hurried, NULL, SIM_CHECK);
	expect((struct sim_options){ .schedules = 3000, .seed = 1, .timers = true }, hurried, NULL,
	       SIM_CHECK);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static int dies(void *arg)
{
	switch (*(const unsigned *)arg) {
	case 0: assert(order == 77); break;
	case 1: (void)raise(SIGSEGV); break;
	case 2:
		for (;;)
			sim_point("again");
	case 3:
		for (;;)
			sleep_ms(1000);
	case 4: return 5;
	default: sim_fail("it is %d", 42);
	}
	return 0;
}

static void ends_are_told(void **state UNUSED)
{
	static const struct {
		enum sim_outcome outcome;
		const char *words;
	} want[] = {
		{ SIM_CRASH, "order == 77" },
		{ SIM_CRASH, "signal SEGV" },
		{ SIM_ENDLESS, "no end after 5000 steps" },
		{ SIM_ENDLESS, "no end after an hour" },
		{ SIM_CHECK, "the body says 5" },
		{ SIM_CHECK, "it is 42" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
		struct sim_result r = explore((struct sim_options){ .steps = 5000 }, dies, &i);

		assert_int_equal(r.outcome, want[i].outcome);
		expect_in(r.report, want[i].words);
		sim_result_finish(&r);
	}
}

#ifdef UEXT4_LOCKRANK
static int wrong_order(void *arg UNUSED)
{
	struct mutex first, second;

	mutex_init(&first, RANK_journal);
	mutex_init(&second, RANK_icache);
	mutex_lock(&second);
	mutex_lock(&first);
	return 0;
}

static int pseudo_ranks(void *arg UNUSED)
{
	lockrank_acquire(RANK_handle, 0, &order);
	sim_fail("here");
}

static void ranks_are_checked_and_shown(void **state UNUSED)
{
	struct sim_options o = { 0 };
	struct sim_result r = explore(o, wrong_order, NULL);

	assert_int_equal(r.outcome, SIM_CRASH);
	expect_in(r.report, "journal (rank 105, key 0) is taken after icache (rank 110)");
	sim_result_finish(&r);
	r = explore(o, pseudo_ranks, NULL);
	expect_in(r.report, "start handle");
	expect_in(r.report, "main: holds handle (rank 60, shared); runs");
	sim_result_finish(&r);
}
#endif

static void copy_and_count(void *to, const void *from, size_t bytes)
{
	sim_point("fault");
	memcpy(to, from, bytes);
	shared->calls++;
}

static int copies(void *arg UNUSED)
{
	char a[8] = "abcdefg", b[8] = "", c[8] = "";

	sync_set_user_copy(copy_and_count, NULL);
	user_copy_in(b, a, sizeof(b));
	user_copy_out(c, b, sizeof(c));
	SIM_ASSERT(memcmp(a, c, sizeof(a)) == 0);
	return 0;
}

static void user_memory_is_the_tests(void **state UNUSED)
{
	forget();
	expect((struct sim_options){ 0 }, copies, NULL, SIM_OK);
	assert_int_equal(shared->calls, 1);
}

int main(int argc UNUSED, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(lost_update_needs_one_preemption),
		cmocka_unit_test(every_strategy_finds_it),
		cmocka_unit_test(locks_exclude),
		cmocka_unit_test(depth_first_sees_every_schedule_once),
		cmocka_unit_test(depth_first_sees_every_order),
		cmocka_unit_test(same_seed_is_the_same_run),
		cmocka_unit_test(failure_is_replayed_and_made_simpler),
		cmocka_unit_test(two_locks_in_two_orders),
		cmocka_unit_test(queued_writer_closes_a_circle),
		cmocka_unit_test(lost_wakeup_is_found),
		cmocka_unit_test(bit_is_waited_for),
		cmocka_unit_test(time_is_a_number),
		cmocka_unit_test(deadlines_pass_where_the_schedule_says),
		cmocka_unit_test(ends_are_told),
#ifdef UEXT4_LOCKRANK
		cmocka_unit_test(ranks_are_checked_and_shown),
#endif
		cmocka_unit_test(user_memory_is_the_tests),
	};

	sim_fix_addresses(argv);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	assert(shared != MAP_FAILED);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
