/* SPDX-License-Identifier: MIT */
/* What the locks ask of the rank checker beyond sync.h; empty where it is. */
#ifndef SYNC_SYNC_PRIV_H
#define SYNC_SYNC_PRIV_H

#include "sync/sync.h"

#ifdef UEXT4_LOCKRANK
/* A try-lock that succeeded: held from now on.  It did not wait, so no order was broken by it. */
void lockrank_acquire_tried(enum lock_rank rank, uint64_t key, const void *instance);
void lockrank_assert_held(enum lock_rank rank, const void *instance);
/* @instance is held, and nothing that is not ranked before it. */
void lockrank_assert_last(enum lock_rank rank, const void *instance);
#else
static inline void lockrank_acquire_tried(enum lock_rank r UNUSED, uint64_t k UNUSED,
					  const void *i UNUSED)
{
}
static inline void lockrank_assert_held(enum lock_rank r UNUSED, const void *i UNUSED) {}
static inline void lockrank_assert_last(enum lock_rank r UNUSED, const void *i UNUSED) {}
#endif

#endif
