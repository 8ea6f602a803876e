/* SPDX-License-Identifier: MIT */
/*
 * What the user sees: exit status, messages, quoting of names, JSON.
 *
 * Every failure passes through one of the complain functions: they print one line
 * `uext4: PATH: message` and raise the exit status, which never falls again.  They may be called
 * from any thread.
 */
#ifndef CLI_OUT_H
#define CLI_OUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uext4.h>

#include "buffer.h"

/* ---- exit status and messages --------------------------------------------------------------- */

enum status {
	STATUS_OK = 0,
	STATUS_FAILED = 1,
	STATUS_USAGE = 2,
	STATUS_UNSUPPORTED = 3,
	STATUS_BUSY = 4,
	STATUS_CORRUPT = 5,
	STATUS_JOURNAL = 6,
};

void status_raise(enum status status);
enum status status_now(void);

/* Where something failed: "IMAGE:/path", or "IMAGE" without @path.  Printed in quoted form. */
struct place {
	const char *image;
	const char *path;
};

/* The library's last failure in this thread was @err (negative errno) at @place. */
void complain_fs(struct place place, int err);

/* The same for attribute @name of the file at @place. */
void complain_attribute(struct place place, const char *name, int err);

/* A system call failed with @err (errno) on the host's @path; @action says what was tried. */
void complain_sys(const char *path, int err, const char *action);

/* Anything else that leaves @status. */
void complain(enum status status, const char *path, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* A remark that is no failure. */
void remark(const char *path, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A mistake on the command line of @command (NULL: before any command).  Does not return. */
void usage_error(const char *command, const char *fmt, ...)
	__attribute__((format(printf, 2, 3), noreturn));

/* From now on usage_error() ends the process with this status instead of STATUS_USAGE. */
void usage_exits_with(int status);

/* ---- standard output ------------------------------------------------------------------------ */

/* Makes sure that descriptors 0 to 2 exist, so that no file opened later becomes one of them. */
void out_init(void);

/* False once writing to standard output has failed: no need to go on. */
bool out_works(void);

/* Flushes and closes standard output; complains if anything was not written. */
void out_finish(void);

/* ---- names ---------------------------------------------------------------------------------- */

/* The length of the valid UTF-8 sequence at @text (1 to 4), 0 if there is none. */
size_t utf8_sequence(const char *text, size_t len);
bool utf8_valid(const char *text, size_t len);

/*
 * Adds a name to @buf so that it cannot harm a terminal: with control bytes, or bytes that are no
 * UTF-8, as $'...' with escapes, otherwise as it is.
 */
void quote(struct buffer *buf, const char *text, size_t len);

/* Prints a name to standard output: quoted on a terminal, raw into a pipe or file. */
void print_name(const char *text, size_t len);

/* ---- values --------------------------------------------------------------------------------- */

/* @value in powers of 1024 as `ls -h` writes it, rounded up: 0, 999, 1.1K, 12M. */
const char *human_size(uint64_t value, char buf[24]);

/* "drwxr-xr-x" */
void mode_text(uint32_t mode, char ret[11]);

/* "file", "directory", "symlink", ...: the word used in JSON. */
const char *type_word(uint32_t mode);

/* Local time: "2026-11-22 14:42", and "2026-11-22 14:42:00.123456789 +0000". */
const char *time_short(int64_t sec, char buf[24]);
const char *time_long(const struct uext4_time *time, char buf[48]);

/* ---- JSON: one object a line ---------------------------------------------------------------- */

/* Prints @object and a newline, and drops the caller's reference. */
void json_print(json_t *object);

/*
 * Sets @key to bytes that need not be text: as UTF-8 with U+FFFD for what is none, and then also
 * exactly, as base64 in @key with "_b64" appended.
 */
void json_set_bytes(json_t *object, const char *key, const char *bytes, size_t len);
void json_set_base64(json_t *object, const char *key, const void *bytes, size_t len);
void json_set_integer(json_t *object, const char *key, uint64_t value);

/* All of @st, under the keys that stat, ls and find share. */
void json_set_stat(json_t *object, const struct uext4_stat *st);

#endif
