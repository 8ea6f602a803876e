/* SPDX-License-Identifier: MIT */
/*
 * Memory: the only user of malloc and of anonymous mmap in the engine.
 *
 * Every allocation can fail and every caller handles it; tests make the Nth one fail.  Sizes that
 * come from disk are checked by the caller against the geometry before they get here.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include "base/base.h"

/* NULL on failure, with the text "out of memory" recorded; the caller returns -ENOMEM. */
void *mem_alloc(size_t bytes) MUST_CHECK __attribute__((malloc, alloc_size(1)));
void *mem_zalloc(size_t bytes) MUST_CHECK __attribute__((malloc, alloc_size(1)));
/* @count * @bytes, checked; zeroed. */
void *mem_calloc(size_t count, size_t bytes) MUST_CHECK __attribute__((malloc, alloc_size(1, 2)));
void *mem_realloc(void *old, size_t bytes) MUST_CHECK __attribute__((alloc_size(2)));
void mem_free(void *p); /* NULL is fine */

/* Aligned to @align (a power of two); freed with mem_free().  Not zeroed. */
void *mem_alloc_aligned(size_t bytes, size_t align) MUST_CHECK __attribute__((malloc));

static inline void mem_free_scope(void *pp)
{
	mem_free(*(void **)pp);
}
#define FREE_SCOPE CLEANUP(mem_free_scope)

/*
 * Tests: the @nth allocation from now on fails, once (1 is the next; 0 turns it off).  Process
 * wide; returns how many allocations were counted since the last call.
 */
uint64_t mem_fail_nth(uint64_t nth);

#endif
