/* SPDX-License-Identifier: MIT */
/*
 * Progress of long work, on stderr.
 *
 * The line uses no colour, so NO_COLOR has nothing to switch off.
 *
 * G1  Nothing is printed when stderr is no terminal, unless asked for by --progress or SIGUSR1.
 */
#include "progress.h"

#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "out.h"

enum { INTERVAL_MS = 200 };

static struct {
	enum progress_mode mode; /* never AUTO while there is work */
	const char *label;	 /* NULL: no work */
	uint64_t entries_total;
	int64_t start_ms;
	int64_t printed_ms;
	_Atomic uint64_t entries;
	_Atomic uint64_t bytes;
	_Atomic bool shown; /* a line stands on the terminal */
} work;

static volatile sig_atomic_t asked;

static void on_sigusr1(int sig)
{
	(void)sig;
	asked = 1;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void progress_start(enum progress_mode mode, const char *label, uint64_t entries_total)
{
	struct sigaction action = { .sa_handler = on_sigusr1, .sa_flags = SA_RESTART };

	if (mode == PROGRESS_AUTO)
		mode = isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO) ? PROGRESS_BAR
								       : PROGRESS_NONE;
	work.mode = mode;
	work.label = label;
	work.entries_total = entries_total;
	work.start_ms = now_ms();
	work.printed_ms = work.start_ms;
	sigaction(SIGUSR1, &action, NULL);
}

void progress_count(uint64_t entries, uint64_t bytes)
{
	atomic_fetch_add_explicit(&work.entries, entries, memory_order_relaxed);
	atomic_fetch_add_explicit(&work.bytes, bytes, memory_order_relaxed);
}

void progress_set(const char *label, uint64_t entries, uint64_t entries_total)
{
	work.label = label;
	work.entries_total = entries_total;
	atomic_store_explicit(&work.entries, entries, memory_order_relaxed);
}

static void print_text(const char *start, const char *end)
{
	uint64_t entries = atomic_load_explicit(&work.entries, memory_order_relaxed);
	uint64_t bytes = atomic_load_explicit(&work.bytes, memory_order_relaxed);
	uint64_t ms = (uint64_t)(now_ms() - work.start_ms);
	uint64_t per_second = ms ? (uint64_t)((double)bytes * 1000.0 / (double)ms) : 0;
	char done[24], rate[24], line[160], moved[64] = "", percent[16] = "";
	int len;

	if (work.entries_total)
		snprintf(percent, sizeof(percent), ", %.0f%%",
			 entries >= work.entries_total
				 ? 100.0
				 : 100.0 * (double)entries / (double)work.entries_total);
	if (bytes)
		snprintf(moved, sizeof(moved), ", %s, %s/s", human_size(bytes, done),
			 human_size(per_second, rate));
	len = snprintf(line, sizeof(line), "%s%s: %" PRIu64 " entries%s%s%s", start, work.label,
		       entries, moved, percent, end);
	if (len > 0 && write(STDERR_FILENO, line, (size_t)len) < 0)
		work.mode = PROGRESS_NONE;
}

static void print_json(void)
{
	char line[200];
	int len = snprintf(line, sizeof(line),
			   "{\"progress\":\"%s\",\"entries\":%" PRIu64 ",\"bytes\":%" PRIu64
			   ",\"entries_total\":%" PRIu64 ",\"elapsed_ms\":%" PRId64 "}\n",
			   work.label, atomic_load_explicit(&work.entries, memory_order_relaxed),
			   atomic_load_explicit(&work.bytes, memory_order_relaxed),
			   work.entries_total, now_ms() - work.start_ms);

	if (len > 0 && write(STDERR_FILENO, line, (size_t)len) < 0)
		work.mode = PROGRESS_NONE;
}

void progress_clear(void)
{
	static const char wipe[] = "\r\033[K";

	if (atomic_exchange(&work.shown, false) && write(STDERR_FILENO, wipe, sizeof(wipe) - 1) < 0)
		work.mode = PROGRESS_NONE;
}

void progress_poll(void)
{
	int64_t now;

	if (!work.label)
		return;
	if (asked) {
		asked = 0;
		progress_clear();
		if (work.mode == PROGRESS_JSON)
			print_json();
		else
			print_text("", "\n");
	}
	if (work.mode == PROGRESS_NONE)
		return;
	now = now_ms();
	if (now - work.printed_ms < INTERVAL_MS)
		return;
	work.printed_ms = now;
	if (work.mode == PROGRESS_JSON) {
		print_json();
	} else {
		print_text("\r", "\033[K");
		atomic_store(&work.shown, true);
	}
}

void progress_finish(void)
{
	progress_clear();
	if (work.mode == PROGRESS_JSON)
		print_json();
	work.mode = PROGRESS_NONE;
}
