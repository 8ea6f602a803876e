/* SPDX-License-Identifier: MIT */
/*
 * Memory: malloc with a text for the failure and a failure for the tests.
 *
 * The counters of mem_fail_nth() are the one piece of state the process shares here.  They are not
 * touched, only one flag is read, until a test calls mem_fail_nth() for the first time: counting
 * every allocation would make all threads write one cache line.
 */
#include "base/mem.h"

#include "base/diag.h"

#include <stdatomic.h>
#include <stdlib.h>

static _Atomic bool counting;
static _Atomic uint64_t counted; /* since the last mem_fail_nth() */
static _Atomic uint64_t failing; /* the value of `counted` that fails; 0: none */

static bool must_fail(void)
{
	if (likely(!atomic_load_explicit(&counting, memory_order_relaxed)))
		return false;
	return atomic_fetch_add(&counted, 1) + 1 == atomic_load(&failing);
}

static void *checked(void *p)
{
	if (unlikely(p == NULL))
		(void)fail(-ENOMEM, "out of memory");
	return p;
}

/* malloc(0) may be NULL, which callers would take for a failure. */
static size_t at_least_one(size_t bytes)
{
	return bytes != 0 ? bytes : 1;
}

void *mem_alloc(size_t bytes)
{
	return checked(must_fail() ? NULL : malloc(at_least_one(bytes)));
}

/* Not calloc(): glibc's has no part in the caches that threads have of small pieces. */
void *mem_zalloc(size_t bytes)
{
	void *p = mem_alloc(bytes);

	if (p != NULL)
		memset(p, 0, bytes);
	return p;
}

/* The product is checked here: under a sanitizer calloc() would end the process. */
void *mem_calloc(size_t count, size_t bytes)
{
	uint64_t total;

	if (must_fail() || !mul_ok(count, bytes, &total) || total > PTRDIFF_MAX)
		return checked(NULL);
	return checked(calloc(1, at_least_one((size_t)total)));
}

void *mem_realloc(void *old, size_t bytes)
{
	return checked(must_fail() ? NULL : realloc(old, at_least_one(bytes)));
}

void *mem_alloc_aligned(size_t bytes, size_t align)
{
	void *p = NULL;

	assert(is_pow2(align));
	if (align < sizeof(void *))
		align = sizeof(void *);
	if (must_fail() || posix_memalign(&p, align, at_least_one(bytes)) != 0)
		p = NULL;
	return checked(p);
}

void mem_free(void *p)
{
	free(p);
}

uint64_t mem_fail_nth(uint64_t nth)
{
	uint64_t before;

	atomic_store(&counting, true);
	atomic_store(&failing, 0);
	before = atomic_exchange(&counted, 0);
	atomic_store(&failing, nth);
	return before;
}
