/* SPDX-License-Identifier: MIT */
/*
 * The threads that answer the kernel.
 *
 * A lone client waits for each answer before it asks again: a second thread could only take turns
 * with the first, and each turn wakes another processor.  So while requests come from one task
 * after the other, one thread reads and answers and the others are parked; when they come from
 * several by turns, as many read as there may be.
 *
 *  T1  A reader that is stuck in an answer holds up others for a tick or two: one parked thread,
 *      the standby, looks once a tick whether nobody reads and nothing came, and reads then.
 *  T2  Where nothing is asked nobody ticks: the standby sleeps until the next request.
 *  T3  The only reader looks for the next request for a moment before it sleeps: to wake a
 *      processor may take longer than all the rest.  It does so while that pays, and nobody else
 *      wants the processor.
 *  T4  A thread answers what it has read before it reads again (wire.c builds on that).
 */
#include "mount_priv.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
	TICK_NS = 5000000,
	LINGER_NS = 200000,
	LINGER_PROBE = 256, /* of so many requests one shows whether it would pay */
	PATIENCE_MAX = 16,
	STUCK_THREADS_MAX = 10, /* in all, however few may read */

	/* The mean of how often a request comes from another task than the one before. */
	SWITCH = 1 << 16,
	SWITCH_WEIGHT_SHIFT = 5, /* one request counts for 1/32 */
	CROWD_BEGINS = SWITCH / 4,
	CROWD_ENDS = SWITCH / 10,
};

struct loop {
	struct fuse_session *session;
	unsigned readers_max;
	unsigned threads_max;
	sem_t finish;

	pthread_mutex_t lock;	/* of all below */
	pthread_cond_t wanted;	/* the parked: to read, or to be the standby */
	pthread_cond_t request; /* the standby */
	unsigned threads;	/* started */
	unsigned running;
	unsigned parked;
	unsigned readers; /* that read a request, or wait for one */
	bool has_standby;
	bool standby_sleeps;
	bool is_crowded;
	bool has_ended;
	int err;
	uint64_t requests;
	uint32_t last_task;
	unsigned switches;
	bool may_linger;
	unsigned patience; /* 0: the only reader goes to sleep at once */
	pthread_t thread[];
};

static void start_thread(struct loop *loop);

static void end(struct loop *loop, int err)
{
	if (!loop->err)
		loop->err = err;
	loop->has_ended = true;
	pthread_cond_broadcast(&loop->wanted);
	pthread_cond_broadcast(&loop->request);
	sem_post(&loop->finish);
}

/* ---- turns ----------------------------------------------------------------------------------- */

static bool may_read(const struct loop *loop)
{
	return loop->readers < (loop->is_crowded ? loop->readers_max : 1);
}

/* Somebody who was parked is wanted; if nobody is, a new thread is made. */
static void call_parked(struct loop *loop, unsigned threads_max)
{
	if (loop->parked > loop->has_standby)
		pthread_cond_signal(&loop->wanted);
	else if (loop->threads < threads_max)
		start_thread(loop);
}

/* Until the only reader is stuck, or the end. */
static void stand_by(struct loop *loop)
{
	uint64_t seen = loop->requests;
	bool is_idle = false, is_stuck = false;

	loop->has_standby = true;
	while (!loop->has_ended && !is_stuck) {
		if (is_idle) {
			loop->standby_sleeps = true;
			pthread_cond_wait(&loop->request, &loop->lock);
			loop->standby_sleeps = false;
		} else {
			struct timespec until;

			clock_gettime(CLOCK_MONOTONIC, &until);
			until.tv_nsec += TICK_NS;
			until.tv_sec += until.tv_nsec / 1000000000;
			until.tv_nsec %= 1000000000;
			pthread_cond_timedwait(&loop->request, &loop->lock, &until);
		}
		is_stuck = loop->requests == seen && loop->readers == 0;
		is_idle = loop->requests == seen && loop->readers > 0;
		seen = loop->requests;
	}
	loop->has_standby = false;
	if (is_stuck)
		call_parked(loop, loop->threads_max); /* to be the next */
}

/* Waits until the calling thread is to read; false: it is to end. */
static bool take_turn(struct loop *loop)
{
	bool is_called = true;

	while (!loop->has_ended && !(is_called && may_read(loop))) {
		loop->parked++;
		if (!loop->has_standby) {
			stand_by(loop);
			is_called = true;
		} else {
			pthread_cond_wait(&loop->wanted, &loop->lock);
			is_called = loop->is_crowded;
		}
		loop->parked--;
	}
	loop->readers += !loop->has_ended;
	return !loop->has_ended;
}

static void note_task(struct loop *loop, uint32_t task)
{
	if (task == 0) /* the kernel itself */
		return;
	if (task != loop->last_task)
		loop->switches += SWITCH >> SWITCH_WEIGHT_SHIFT;
	loop->switches -= loop->switches >> SWITCH_WEIGHT_SHIFT;
	loop->last_task = task;
	loop->is_crowded = loop->switches > (loop->is_crowded ? CROWD_ENDS : CROWD_BEGINS);
}

static void note_request(struct loop *loop)
{
	loop->requests++;
	if (loop->standby_sleeps)
		pthread_cond_signal(&loop->request);
	note_task(loop, wire_task());
	if (loop->is_crowded && loop->threads - loop->parked < loop->readers_max)
		call_parked(loop, loop->readers_max + 1);
}

/* ---- lingering ------------------------------------------------------------------------------- */

static bool wants_to_linger(const struct loop *loop)
{
	return loop->may_linger && !loop->is_crowded &&
	       (loop->patience > 0 || loop->requests % LINGER_PROBE == 0);
}

static long preemptions(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) < 0 ? 0 : usage.ru_nivcsw;
}

/* Returns whether it paid: a request came, and nobody else wanted the processor. */
static bool linger(struct loop *loop)
{
	long before = preemptions();

	return wire_linger(loop->session, LINGER_NS) && preemptions() == before;
}

static void note_linger(struct loop *loop, bool paid)
{
	if (!paid)
		loop->patience -= loop->patience > 0;
	else if (loop->patience < PATIENCE_MAX)
		loop->patience += 2;
}

/* ---- threads --------------------------------------------------------------------------------- */

static void *answer(void *arg)
{
	struct loop *loop = arg;
	struct fuse_buf buf = { 0 };

	if (loop->readers_max > 1)
		wire_open_own(loop->session);
	pthread_mutex_lock(&loop->lock);
	while (take_turn(loop)) {
		bool lingers = wants_to_linger(loop), paid = false;
		int len;

		pthread_mutex_unlock(&loop->lock);
		if (lingers)
			paid = linger(loop);
		len = fuse_session_receive_buf(loop->session, &buf);
		pthread_mutex_lock(&loop->lock);
		loop->readers--;
		if (lingers)
			note_linger(loop, paid);
		if (fuse_session_exited(loop->session) || (len <= 0 && len != -EINTR))
			end(loop, len);
		if (loop->has_ended || len <= 0)
			continue;
		note_request(loop);
		pthread_mutex_unlock(&loop->lock);
		fuse_session_process_buf(loop->session, &buf);
		pthread_mutex_lock(&loop->lock);
	}
	loop->running--;
	pthread_mutex_unlock(&loop->lock);
	wire_close_own();
	free(buf.mem);
	return NULL;
}

/* Without it there are fewer, and somebody has to wait. */
static void start_thread(struct loop *loop)
{
	if (pthread_create(&loop->thread[loop->threads], NULL, answer, loop) == 0) {
		loop->threads++;
		loop->running++;
	}
}

/* One is the fastest for one client, as many as there are processors for several. */
unsigned session_readers(const struct mount_options *options)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	if (options->single_thread)
		return 1;
	if (options->threads_max)
		return options->threads_max;
	return processors > 2 ? (unsigned)processors : 2;
}

static int create(struct fuse_session *session, const struct mount_options *options,
		  struct loop **ret_loop)
{
	unsigned readers_max = session_readers(options);
	unsigned threads_max = readers_max + 1;
	pthread_condattr_t attr;
	struct loop *loop;

	if (readers_max == 1)
		threads_max = 1;
	else if (threads_max < STUCK_THREADS_MAX)
		threads_max = STUCK_THREADS_MAX;
	loop = calloc(1, sizeof(*loop) + threads_max * sizeof(loop->thread[0]));
	if (!loop)
		return -ENOMEM;
	loop->session = session;
	loop->readers_max = readers_max;
	loop->threads_max = threads_max;
	loop->may_linger = sysconf(_SC_NPROCESSORS_ONLN) > 1;
	sem_init(&loop->finish, 0, 0);
	pthread_mutex_init(&loop->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&loop->wanted, NULL);
	pthread_cond_init(&loop->request, &attr);
	pthread_condattr_destroy(&attr);
	*ret_loop = loop;
	return 0;
}

static void destroy(struct loop *loop)
{
	pthread_cond_destroy(&loop->request);
	pthread_cond_destroy(&loop->wanted);
	pthread_mutex_destroy(&loop->lock);
	sem_destroy(&loop->finish);
	free(loop);
}

/* Those that wait for a request hear of the end from the kernel, or by a signal. */
static void end_threads(struct loop *loop, bool is_asked)
{
	pthread_mutex_lock(&loop->lock);
	if (is_asked)
		end(loop, 0);
	while (is_asked && loop->running > 0) {
		for (unsigned i = 0; i < loop->threads; i++)
			pthread_kill(loop->thread[i], SIGUSR2);
		pthread_mutex_unlock(&loop->lock);
		usleep(10000);
		pthread_mutex_lock(&loop->lock);
	}
	pthread_mutex_unlock(&loop->lock);
	for (unsigned i = 0; i < loop->threads; i++)
		pthread_join(loop->thread[i], NULL);
}

int session_loop(struct fuse_session *session, const struct mount_options *options)
{
	struct loop *loop;
	bool is_asked = false;
	int err;

	err = create(session, options, &loop);
	if (err < 0)
		return err;
	pthread_mutex_lock(&loop->lock);
	for (unsigned i = 0; i < 2 && loop->threads < loop->threads_max; i++)
		start_thread(loop);
	if (loop->threads == 0)
		end(loop, -EAGAIN);
	pthread_mutex_unlock(&loop->lock);
	/* fuse_session_exit() and a signal to this thread interrupt it. */
	while (sem_wait(&loop->finish) < 0 && !is_asked)
		is_asked = fuse_session_exited(session);
	end_threads(loop, is_asked);
	err = loop->err;
	destroy(loop);
	return err;
}
