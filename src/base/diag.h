/* SPDX-License-Identifier: MIT */
/*
 * Error records: the words behind a negative errno.
 *
 * The library never prints.  Where an error is born, fail() or corrupt() keeps a text for the
 * calling thread; uext4_last_error() hands it out.  Errors are of four kinds, never mixed: the
 * caller's fault (-EINVAL at the API), the environment (-EIO, -ENOMEM: propagate), the disk lies
 * (corrupt(), bad_checksum()), we lie (assert).
 */
#ifndef BASE_DIAG_H
#define BASE_DIAG_H

#include "base/base.h"

/* Records the text for this thread, in place of an earlier one, and returns @err (negative). */
int fail(int err, const char *fmt, ...) PRINTF(2, 3) COLD;

/* The disk lies: as fail() with -EFSCORRUPTED.  Say the place (inode, block) and what is wrong. */
int corrupt(const char *fmt, ...) PRINTF(1, 2) COLD;

/* A checksum does not fit: as fail() with -EFSBADCRC. */
int bad_checksum(const char *fmt, ...) PRINTF(1, 2) COLD;

/*
 * As fail() with the text "@what @number @how", for what is no surprise: a name that is looked for
 * and not there.  The words, which live on, are put together when somebody asks for them.
 */
int fail_plainly(int err, const char *what, uint32_t number, const char *how);

/* Puts "@fmt: " before the text of the failure being propagated, and returns @err. */
int fail_in(int err, const char *fmt, ...) PRINTF(2, 3) COLD;

/* Text of the calling thread's last failure, "" if none.  diag_clear() forgets it. */
const char *diag_text(void);
bool diag_has_text(void);
void diag_clear(void);

#endif
