/* SPDX-License-Identifier: MIT */
/*
 * Progress of long work, on stderr.
 *
 * One work at a time.  Counting may happen in any thread; the lines are printed by the thread that
 * calls progress_poll().
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdint.h>

enum progress_mode { PROGRESS_AUTO, PROGRESS_BAR, PROGRESS_JSON, PROGRESS_NONE };

/*
 * Begins work called @label, of @entries_total entries as far as known (0: not).  In mode AUTO a
 * line is shown when stderr is a terminal and standard output is not (they would overwrite each
 * other). SIGUSR1 prints a line in every mode.
 */
void progress_start(enum progress_mode mode, const char *label, uint64_t entries_total);
void progress_count(uint64_t entries, uint64_t bytes);
/* Of work in steps: the step is called @label, and so much of it is done. */
void progress_set(const char *label, uint64_t entries, uint64_t entries_total);
void progress_poll(void);
void progress_finish(void);

/* Wipes the line, for a message is about to be printed. */
void progress_clear(void);

#endif
