/* SPDX-License-Identifier: MIT */
/*
 * Many schedules of one body, each in a child process.
 *
 * The child fills a record that it shares with us, and ends with the schedule; so a failure of any
 * kind leaves the parent whole, and the next child begins with the same memory.  Depth-first search
 * reads from the record where the schedule could have been another, and plans the next one.
 *
 *  X1  A choice that is planned is made, or the child ends with SIM_DIVERGED: all else the run
 *      depends on is the same in every child.  Only while a failure is made simpler, what does not
 *      fit is passed over.
 */
#include "sim/sim_priv.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HANG_SECONDS 120
#define SAID_MAX 8192

struct explorer {
	const struct sim_options *options;
	int (*body)(void *arg);
	void *arg;
	struct record *record;
	int said; /* a file for what the child says on stderr */
	uint64_t steps_hint;
	struct sim_result *result;
};

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

static double seconds(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

const char *sim_outcome_name(enum sim_outcome outcome)
{
	switch (outcome) {
	case SIM_OK: return "ok";
	case SIM_CHECK: return "check failed";
	case SIM_DEADLOCK: return "deadlock";
	case SIM_ENDLESS: return "endless";
	case SIM_CRASH: return "crash";
	case SIM_HANG: return "hang";
	case SIM_DIVERGED: return "diverged";
	}
	return "?";
}

void sim_fix_addresses(char **argv)
{
	int persona = personality(0xffffffff);

	if (persona < 0 || persona & ADDR_NO_RANDOMIZE)
		return;
	if (personality((unsigned long)persona | ADDR_NO_RANDOMIZE) >= 0)
		(void)execv("/proc/self/exe", argv);
	/* Without it a seed is good for this process only. */
}

/* ---- one schedule ---------------------------------------------------------------------------- */

/* The plan is left. */
static void record_reset(struct record *r)
{
	memset(r, 0, offsetof(struct record, threads));
	for (unsigned i = 0; i < SIM_THREADS_MAX; i++)
		memset(&r->threads[i], 0, offsetof(struct sim_thread, held));
	r->choices_count = 0;
}

/* Handing the baton over is cheap only where nobody has to wake another processor. */
static void stay_on_one_cpu(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET((unsigned)cpu, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

/* A signal ends the child; test frameworks would rather catch it and go on with their next test. */
static void die_of_signals(void)
{
	static const int signals[] = { SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGALRM };
	const struct rlimit no_core = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		(void)signal(signals[i], SIG_DFL);
	(void)setrlimit(RLIMIT_CORE, &no_core);
}

static void run_in_child(const struct explorer *x, const struct sim_options *options, uint64_t seed)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)dup2(x->said, STDERR_FILENO);
	die_of_signals();
	(void)alarm(HANG_SECONDS);
	stay_on_one_cpu();
	sched_run(x->record, options, seed, x->steps_hint, x->body, x->arg);
}

static void judge_end(struct record *r, int status)
{
	if (r->ended)
		return;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
		r->outcome = SIM_HANG;
		(void)snprintf(r->text, sizeof(r->text), "no end within %d seconds", HANG_SECONDS);
		return;
	}
	r->outcome = SIM_CRASH;
	if (WIFSIGNALED(status))
		(void)snprintf(r->text, sizeof(r->text), "signal %s",
			       sigabbrev_np(WTERMSIG(status)));
	else
		(void)snprintf(r->text, sizeof(r->text), "exit status %d", WEXITSTATUS(status));
}

static void run_one(struct explorer *x, const struct sim_options *options, uint64_t seed)
{
	int status;
	pid_t child, ended;

	record_reset(x->record);
	must(ftruncate(x->said, 0) == 0 && lseek(x->said, 0, SEEK_SET) == 0, "sim");
	child = fork();
	must(child >= 0, "fork");
	if (child == 0)
		run_in_child(x, options, seed);
	do
		ended = waitpid(child, &status, 0);
	while (ended < 0 && errno == EINTR);
	must(ended == child, "waitpid");
	judge_end(x->record, status);
	x->steps_hint = x->record->choices_count;
	x->result->schedules++;
	x->result->steps_total += x->record->steps;
}

/* ---- depth first ----------------------------------------------------------------------------- */

/* The alternative behind @id: the default, then the others by number, then the deadline. */
static uint8_t alternative_after(const struct choice *c, uint8_t id)
{
	uint8_t first = choice_default(c), next = id == first ? 0 : (uint8_t)(id + 1);

	if (c->is_value)
		return (uint32_t)id + 1 < c->could ? (uint8_t)(id + 1) : NOBODY;
	if (id == c->timer)
		return NOBODY;
	for (; next < SIM_THREADS_MAX; next++) {
		if (next != first && (c->could & only(next)))
			return next;
	}
	return c->timer != first ? c->timer : NOBODY;
}

/* Plans the next schedule: like the last one up to a choice.  False: there is none. */
static bool plan_next(struct record *r, uint32_t preemptions_max)
{
	uint32_t preemptions = r->preemptions;

	for (uint32_t i = r->choices_count; i-- > 0;) {
		const struct choice *c = &r->choices[i];
		uint8_t id = c->picked;

		preemptions -= choice_preempts(c, id);
		while ((id = alternative_after(c, id)) != NOBODY) {
			if (preemptions + choice_preempts(c, id) > preemptions_max)
				continue;
			for (uint32_t k = 0; k < i; k++)
				r->plan[k] = r->choices[k].picked;
			r->plan[i] = id;
			r->plan_count = i + 1;
			return true;
		}
	}
	return false;
}

/* ---- simpler failures ------------------------------------------------------------------------ */

struct plan {
	uint32_t count;
	uint32_t preemptions;
	uint8_t picks[CHOICES_MAX];
};

static void plan_keep(struct plan *plan, const struct record *r)
{
	plan->count = r->choices_count;
	plan->preemptions = r->preemptions;
	for (uint32_t i = 0; i < plan->count; i++)
		plan->picks[i] = r->choices[i].picked;
}

/*
 * The plan without the preemption at choice @at of the last run: whoever ran goes on, and what the
 * others did until he ran again comes behind that, or, if @drop, when nobody asks.  Returns false
 * if there is none.
 */
static bool plan_without(struct record *r, const struct plan *best, uint32_t at, bool drop)
{
	const struct choice *c = &r->choices[at];
	const uint8_t *picks = best->picks;
	uint32_t again = at + 1, end;
	uint8_t *to = r->plan;

	if (!choice_preempts(c, picks[at]) || c->current == NOBODY)
		return false;
	while (again < best->count && picks[again] != c->current)
		again++;
	end = again;
	while (end < best->count && picks[end] == c->current)
		end++;
	to = mempcpy(to, picks, at);
	to = mempcpy(to, picks + again, end - again);
	if (!drop)
		to = mempcpy(to, picks + at, again - at);
	to = mempcpy(to, picks + end, best->count - end);
	r->plan_count = (uint32_t)(to - r->plan);
	r->plan_loose = true;
	return true;
}

static void run_plan(struct explorer *x, const struct plan *plan, uint64_t seed)
{
	struct sim_options options = *x->options;

	options.strategy = SIM_REPLAY;
	memcpy(x->record->plan, plan->picks, plan->count);
	x->record->plan_count = plan->count;
	x->record->plan_loose = true;
	run_one(x, &options, seed);
}

/* Does it fail as before, and with fewer preemptions?  The record is that of the better one. */
static bool try_without(struct explorer *x, struct plan *best, uint32_t at, bool drop,
			enum sim_outcome outcome, uint64_t seed)
{
	struct sim_options options = *x->options;

	options.strategy = SIM_REPLAY;
	if (!plan_without(x->record, best, at, drop))
		return false;
	run_one(x, &options, seed);
	if (x->record->outcome == outcome && x->record->preemptions < best->preemptions) {
		plan_keep(best, x->record);
		return true;
	}
	run_plan(x, best, seed);
	return false;
}

/* From the last preemption to the first: can it be left out?  As long as one could. */
static void minimise(struct explorer *x, uint64_t seed)
{
	struct plan *best = malloc(sizeof(*best));
	enum sim_outcome outcome = x->record->outcome;
	uint64_t most = x->result->schedules + x->options->minimise;
	bool better = true;

	must(best != NULL, "sim");
	plan_keep(best, x->record);
	run_plan(x, best, seed);
	while (better && x->record->outcome == outcome) {
		better = false;
		for (uint32_t at = best->count; at-- > 0 && x->result->schedules < most;) {
			better |= try_without(x, best, at, false, outcome, seed) ||
				  try_without(x, best, at, true, outcome, seed);
			at = (uint32_t)min_u64(at, best->count);
		}
	}
	free(best);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static char *read_said(int fd)
{
	char *text = calloc(1, SAID_MAX + 1);
	ssize_t got;

	must(text != NULL, "sim");
	got = pread(fd, text, SAID_MAX, 0);
	text[got > 0 ? got : 0] = '\0';
	return text;
}

static void explore(struct explorer *x)
{
	const struct sim_options *o = x->options;
	uint64_t most = o->schedules;

	if (most == 0)
		most = o->strategy == SIM_DFS ? UINT64_MAX : 1;
	x->result->seed = o->seed;
	while (x->result->schedules < most) {
		run_one(x, o, x->result->seed);
		if (x->record->outcome != SIM_OK)
			break;
		if (o->strategy == SIM_DFS && !plan_next(x->record, o->preemptions)) {
			x->result->complete = true;
			break;
		}
		if (o->strategy != SIM_DFS && x->result->schedules < most)
			x->result->seed++;
	}
}

enum sim_outcome sim_explore(const struct sim_options *options, int (*body)(void *arg), void *arg,
			     struct sim_result *ret_result)
{
	struct sim_result result = { 0 }, found;
	struct explorer x = { .options = options, .body = body, .arg = arg, .result = &result };
	double start = seconds();
	char *said;

	x.record = mmap(NULL, sizeof(*x.record), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(x.record != MAP_FAILED, "sim");
	x.said = memfd_create("sim", MFD_CLOEXEC);
	must(x.said >= 0, "sim");
	if (options->strategy == SIM_REPLAY && schedule_parse(options->schedule, x.record) < 0) {
		fprintf(stderr, "sim: this is no schedule: %s\n", options->schedule);
		abort();
	}
	explore(&x);
	result.seconds = seconds() - start;
	found = result;
	if (x.record->outcome != SIM_OK && options->minimise != 0)
		minimise(&x, result.seed);
	result = found;

	result.outcome = x.record->outcome;
	result.steps = x.record->steps;
	result.hash = x.record->hash;
	result.preemptions = x.record->preemptions;
	result.schedule = schedule_text(x.record);
	said = read_said(x.said);
	if (result.outcome != SIM_OK)
		result.report = report_make(x.record, &result, options->show, said);
	free(said);
	(void)close(x.said);
	(void)munmap(x.record, sizeof(*x.record));
	*ret_result = result;
	return result.outcome;
}

void sim_result_finish(struct sim_result *result)
{
	free(result->schedule);
	free(result->report);
	memset(result, 0, sizeof(*result));
}
