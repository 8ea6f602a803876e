/* SPDX-License-Identifier: MIT */
/* What implementations of sync.h ask of the rank checker beyond it; empty where it is. */
#ifndef SYNC_SYNC_PRIV_H
#define SYNC_SYNC_PRIV_H

#include "sync/sync.h"

#ifdef UEXT4_LOCKRANK
/* A try-lock that succeeded: held from now on.  It did not wait, so no order was broken by it. */
void lockrank_acquire_tried(enum lock_rank rank, uint64_t key, const void *instance);
void lockrank_assert_held(enum lock_rank rank, const void *instance);
/* @instance is held, and nothing that is not ranked before it. */
void lockrank_assert_last(enum lock_rank rank, const void *instance);

/*
 * For a scheduler, which does not see pseudo ranks otherwise: told of each event behind its check.
 * NULL: nobody.  Set while there is one thread.
 */
enum lockrank_event { LOCKRANK_ACQUIRE, LOCKRANK_RELEASE, LOCKRANK_MAY };
typedef void lockrank_watch_fn(enum lockrank_event event, enum lock_rank rank, uint64_t key,
			       const void *instance);
extern lockrank_watch_fn *lockrank_watch;
#else
static inline void lockrank_acquire_tried(enum lock_rank r UNUSED, uint64_t k UNUSED,
					  const void *i UNUSED)
{
}
static inline void lockrank_assert_held(enum lock_rank r UNUSED, const void *i UNUSED) {}
static inline void lockrank_assert_last(enum lock_rank r UNUSED, const void *i UNUSED) {}
#endif

#endif
