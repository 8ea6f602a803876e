/* SPDX-License-Identifier: MIT */
/*
 * A schedule for people: what each thread did, in columns, and how it ended.
 */
#include "sim/sim_priv.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define SHOW_DEFAULT 60
#define LINE_WIDTH 110
#define NUMBER_WIDTH 8
#define COLUMN_MAX 36
#define SCHEDULE_SHOWN 4000

enum rank_kind { KIND_none, KIND_mutex, KIND_rwlock, KIND_bit, KIND_pseudo };

struct rank_words {
	const char *name;
	enum rank_kind kind;
};

static struct rank_words words_of(uint8_t rank)
{
	switch (rank) {
#define LOCK_RANK(value, name, kind, what) \
	case RANK_##name:                  \
		return (struct rank_words){ #name, KIND_##kind };
#include "sync/lockranks.h"
#undef LOCK_RANK
	default: return (struct rank_words){ "bit", KIND_none };
	}
}

/* "inode 12", "lru#3", "handle" */
static const char *name_of(const struct object *o, char *to, size_t size)
{
	struct rank_words w = words_of(o->rank);

	if (w.kind == KIND_rwlock || (w.kind == KIND_bit && o->bit != 0))
		(void)snprintf(to, size, "%s %llu", w.name, (unsigned long long)o->key);
	else if (w.kind == KIND_none)
		(void)snprintf(to, size, "%s %#x", w.name, o->bit);
	else if (o->serial != 0)
		(void)snprintf(to, size, "%s#%u", w.name, o->serial);
	else
		(void)snprintf(to, size, "%s", w.name);
	return to;
}

static const char *verb_of(const struct step *s)
{
	bool waits = s->note == NOTE_WAITS;

	switch ((enum op)s->op) {
	case OP_LOCK:
	case OP_BIT: return "lock";
	case OP_READ: return "read-lock";
	case OP_WRITE:
	case OP_QUEUED: return "write-lock";
	case OP_BIT_CLEAR: return waits ? "wait for" : "waited for";
	case OP_COND:
		if (s->note == NOTE_DEADLINE)
			return "deadline, has";
		return waits ? "sleep, gives up" : "woken, has";
	case OP_TRY: return "try-lock";
	case OP_UNLOCK: return "unlock";
	case OP_CLEAR: return "clear";
	case OP_ENTER: return s->object.rank == RANK_handle ? "start" : "enter";
	case OP_LEAVE: return s->object.rank == RANK_handle ? "stop" : "leave";
	case OP_MAY: return "may wait for";
	default: return "?";
	}
}

static void say_step(const struct record *r, const struct step *s, char *to, size_t size)
{
	const char *end = "";
	char name[64];

	if (s->note == NOTE_FAILED)
		end = ": no";
	else if (s->note == NOTE_WAITS && s->op != OP_COND && s->op != OP_BIT_CLEAR)
		end = s->op == OP_QUEUED ? ": queued" : ": waits";
	switch ((enum op)s->op) {
	case OP_TEXT: (void)snprintf(to, size, "%s", s->text); break;
	case OP_END: (void)snprintf(to, size, "end"); break;
	case OP_BROADCAST: (void)snprintf(to, size, "wake all"); break;
	case OP_SLEEP:
		(void)snprintf(to, size, "sleep %llu ms", (unsigned long long)s->object.key);
		break;
	case OP_CREATE:
	case OP_JOIN:
		(void)snprintf(to, size, "%s %s%s", s->op == OP_JOIN ? "join" : "make",
			       r->threads[s->object.key].name, end);
		break;
	default:
		(void)snprintf(to, size, "%s %s%s", verb_of(s),
			       name_of(&s->object, name, sizeof(name)), end);
	}
}

/* ---- columns --------------------------------------------------------------------------------- */

static void print_columns(FILE *f, const struct record *r, uint32_t show)
{
	uint64_t shown = min_u64(min_u64(show, STEPS_KEPT), r->steps), first = r->steps - shown;
	unsigned column[SIM_THREADS_MAX] = { 0 }, count = 0, width;
	char text[128];

	for (uint64_t n = first; n < r->steps; n++)
		column[r->kept[n % STEPS_KEPT].thread] = 1;
	for (unsigned i = 0; i < SIM_THREADS_MAX; i++)
		column[i] = column[i] ? count++ : SIM_THREADS_MAX;
	if (count == 0)
		return;
	width = (unsigned)min_u64((LINE_WIDTH - NUMBER_WIDTH) / count, COLUMN_MAX);
	fprintf(f, "%*s", NUMBER_WIDTH, "");
	for (unsigned i = 0; i < SIM_THREADS_MAX; i++) {
		if (column[i] < SIM_THREADS_MAX)
			fprintf(f, "%-*s", (int)width, r->threads[i].name);
	}
	fprintf(f, "\n");
	for (uint64_t n = first; n < r->steps; n++) {
		const struct step *s = &r->kept[n % STEPS_KEPT];

		say_step(r, s, text, sizeof(text));
		fprintf(f, "%6llu  %*s%.*s\n", (unsigned long long)n,
			(int)(column[s->thread] * width), "", LINE_WIDTH / 2, text);
	}
}

/* ---- who holds and waits --------------------------------------------------------------------- */

static void print_waits(FILE *f, const struct record *r, const struct sim_thread *t)
{
	threads_t holders = 0;
	char name[64];

	(void)name_of(&t->object, name, sizeof(name));
	switch (t->op) {
	case OP_LOCK:
	case OP_READ:
	case OP_QUEUED:
	case OP_BIT: fprintf(f, "waits for %s", name); break;
	case OP_BIT_CLEAR: fprintf(f, "waits for the end of %s", name); return;
	case OP_COND: fprintf(f, "waits to be woken, with %s given up", name); return;
	case OP_SLEEP: fprintf(f, "sleeps"); return;
	case OP_JOIN: fprintf(f, "waits for the end of %s", r->threads[t->target].name); return;
	default: fprintf(f, "%s", r->running == t->id ? "runs" : "could run"); return;
	}
	for (unsigned i = 0; i < r->threads_count; i++) {
		const struct sim_thread *other = &r->threads[i];

		for (unsigned k = 0; k < other->held_count; k++) {
			if (other->held[k].object.at == t->object.at &&
			    other->held[k].object.bit == t->object.bit &&
			    other->held[k].object.rank == t->object.rank)
				holders |= only(i);
		}
		if (t->op == OP_READ && other->used && !other->done && other->op == OP_QUEUED &&
		    other->object.at == t->object.at)
			fprintf(f, ", for which %s is queued", other->name);
	}
	for (unsigned i = 0; i < r->threads_count; i++) {
		if (holders & only(i))
			fprintf(f, ", held by %s", r->threads[i].name);
	}
}

static void print_threads(FILE *f, const struct record *r)
{
	char name[64];

	for (unsigned i = 0; i < r->threads_count; i++) {
		const struct sim_thread *t = &r->threads[i];

		if (!t->used || t->done)
			continue;
		fprintf(f, "  %s: ", t->name);
		for (unsigned k = 0; k < t->held_count && k < 16; k++)
			fprintf(f, "%s%s (rank %u%s)", k ? ", " : "holds ",
				name_of(&t->held[k].object, name, sizeof(name)),
				t->held[k].object.rank, t->held[k].shared ? ", shared" : "");
		if (t->held_count > 16)
			fprintf(f, " and %u more", t->held_count - 16);
		if (t->held_count > 0)
			fprintf(f, "; ");
		print_waits(f, r, t);
		fprintf(f, "\n");
	}
	for (unsigned i = 0; i < r->cycle_length; i++)
		fprintf(f, "%s%s", i ? " > " : "  circle: ", r->threads[r->cycle[i]].name);
	if (r->cycle_length != 0)
		fprintf(f, " > %s\n", r->threads[r->cycle[0]].name);
}

char *report_make(const struct record *r, const struct sim_result *result, uint32_t show,
		  const char *said)
{
	size_t size;
	char *text = NULL;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	print_columns(f, r, show ? show : SHOW_DEFAULT);
	fprintf(f, "%s: %s\n", sim_outcome_name(r->outcome), r->text);
	print_threads(f, r);
	if (said[0])
		fprintf(f, "%s", said);
	fprintf(f, "seed %llu, schedule %llu, %llu steps, %u preemptions\n",
		(unsigned long long)result->seed, (unsigned long long)result->schedules,
		(unsigned long long)r->steps, r->preemptions);
	if (strlen(result->schedule) <= SCHEDULE_SHOWN)
		fprintf(f, "replay: %s\n", result->schedule);
	if (fclose(f) != 0)
		return NULL;
	return text;
}

/* ---- schedules as text ----------------------------------------------------------------------- */

/* Runs of one number: "0*12,1,0*3".  "-": no choice was made. */
char *schedule_text(const struct record *r)
{
	size_t size;
	char *text = NULL;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	if (r->choices_count == 0)
		fprintf(f, "-");
	for (uint32_t i = 0, run; i < r->choices_count; i += run) {
		uint8_t id = r->choices[i].picked;

		for (run = 1; i + run < r->choices_count; run++) {
			if (r->choices[i + run].picked != id)
				break;
		}
		fprintf(f, "%s%u", i ? "," : "", id);
		if (run > 1)
			fprintf(f, "*%u", run);
	}
	if (fclose(f) != 0)
		return NULL;
	return text;
}

int schedule_parse(const char *text, struct record *r)
{
	r->plan_count = 0;
	if (!text || strcmp(text, "-") == 0)
		return 0;
	for (;;) {
		unsigned long id, times = 1;
		char *end;

		if (!isdigit((unsigned char)*text))
			return -EINVAL;
		id = strtoul(text, &end, 10);
		if (*end == '*' && isdigit((unsigned char)end[1]))
			times = strtoul(end + 1, &end, 10);
		if (id >= NOBODY || times > CHOICES_MAX - r->plan_count)
			return -EINVAL;
		memset(r->plan + r->plan_count, (int)id, times);
		r->plan_count += (uint32_t)times;
		if (*end == '\0')
			return 0;
		if (*end != ',')
			return -EINVAL;
		text = end + 1;
	}
}
