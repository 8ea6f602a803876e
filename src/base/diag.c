/* SPDX-License-Identifier: MIT */
/*
 * Error records: one text per thread, of bounded length.
 *
 *  D1  A new text is made complete before it replaces the old one, so that the old one (what
 *      diag_text() returned) may be an argument of the new one.
 *  D2  The text always ends in NUL; one that did not fit ends in "...".
 *  D3  last_text is not looked at before diag_text() has made it of last_plain, if that is there.
 */
#include "base/diag.h"

#include <stdarg.h>
#include <stdio.h>

#define DIAG_BYTES 512

static _Thread_local char last_text[DIAG_BYTES];

/* The last failure, if it was one of fail_plainly(): its text is not made yet. */
static _Thread_local struct {
	const char *what; /* NULL: it was not */
	const char *how;
	uint32_t number;
} last_plain;

static void mark_truncated(char *text, int wanted)
{
	if (wanted >= DIAG_BYTES)
		memcpy(text + DIAG_BYTES - 4, "...", 4);
}

static void record(const char *fmt, va_list args) PRINTF(1, 0);

static void record(const char *fmt, va_list args)
{
	char text[DIAG_BYTES];
	int wanted = vsnprintf(text, sizeof(text), fmt, args);

	if (wanted < 0)
		text[0] = '\0';
	mark_truncated(text, wanted);
	memcpy(last_text, text, sizeof(last_text));
	last_plain.what = NULL;
}

int fail(int err, const char *fmt, ...)
{
	va_list args;

	assert(err < 0);
	va_start(args, fmt);
	record(fmt, args);
	va_end(args);
	return err;
}

int fail_plainly(int err, const char *what, uint32_t number, const char *how)
{
	assert(err < 0);
	last_plain.what = what;
	last_plain.number = number;
	last_plain.how = how;
	return err;
}

int corrupt(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	record(fmt, args);
	va_end(args);
	return -EFSCORRUPTED;
}

int bad_checksum(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	record(fmt, args);
	va_end(args);
	return -EFSBADCRC;
}

int fail_in(int err, const char *fmt, ...)
{
	char inner[DIAG_BYTES];
	va_list args;
	size_t used;
	int wanted;

	assert(err < 0);
	memcpy(inner, diag_text(), sizeof(inner));
	va_start(args, fmt);
	record(fmt, args);
	va_end(args);
	if (inner[0] == '\0')
		return err;

	used = strlen(last_text);
	wanted = snprintf(last_text + used, sizeof(last_text) - used, ": %s", inner);
	if (wanted > 0)
		mark_truncated(last_text, (int)used + wanted);
	return err;
}

const char *diag_text(void)
{
	if (last_plain.what != NULL)
		(void)fail(-1, "%s %u %s", last_plain.what, last_plain.number, last_plain.how);
	return last_text;
}

bool diag_has_text(void)
{
	return last_plain.what != NULL || last_text[0] != '\0';
}

void diag_clear(void)
{
	last_text[0] = '\0';
	last_plain.what = NULL;
}
