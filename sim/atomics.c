/* SPDX-License-Identifier: MIT */
/*
 * Atomic operations as scheduling points.
 *
 * Where the engine is compiled with -fsanitize=thread each access to memory is a call.  Instead of
 * the sanitizer's library these calls come here: an atomic operation is a point and then done,
 * everything else is let through.  So the parts that are made of atomics alone (who may enter, who
 * is inside) are explored, too, at the price of objects of their own.
 *
 * Only what compilers call is here; names and types are theirs.
 */
#include "sim/sim_priv.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wmissing-declarations"

static void point(void)
{
	if (sched_self())
		sched_pause();
}

/* ---- plain accesses -------------------------------------------------------------------------- */

#define PLAIN(name)         \
	void name(void *at) \
	{                   \
		(void)at;   \
	}
#define PLAIN_SIZES(name) \
	PLAIN(name##1) PLAIN(name##2) PLAIN(name##4) PLAIN(name##8) PLAIN(name##16)

PLAIN_SIZES(__tsan_read)
PLAIN_SIZES(__tsan_write)
PLAIN_SIZES(__tsan_unaligned_read)
PLAIN_SIZES(__tsan_unaligned_write)
PLAIN_SIZES(__tsan_volatile_read)
PLAIN_SIZES(__tsan_volatile_write)
PLAIN_SIZES(__tsan_read_write)
PLAIN_SIZES(__tsan_unaligned_read_write)
PLAIN(__tsan_func_entry)

void __tsan_read_range(void *at, size_t bytes)
{
	(void)at;
	(void)bytes;
}

void __tsan_write_range(void *at, size_t bytes)
{
	(void)at;
	(void)bytes;
}

void __tsan_func_exit(void) {}
void __tsan_init(void) {}

void *__tsan_memcpy(void *to, const void *from, size_t bytes)
{
	return memcpy(to, from, bytes);
}

void *__tsan_memmove(void *to, const void *from, size_t bytes)
{
	return memmove(to, from, bytes);
}

void *__tsan_memset(void *to, int value, size_t bytes)
{
	return memset(to, value, bytes);
}

/* ---- atomic ones ----------------------------------------------------------------------------- */

#define FETCH(bits, type, op)                                                           \
	type __tsan_atomic##bits##_fetch_##op(volatile type *at, type value, int order) \
	{                                                                               \
		(void)order;                                                            \
		point();                                                                \
		return __atomic_fetch_##op(at, value, __ATOMIC_SEQ_CST);                \
	}

#define EXCHANGE(bits, type, kind)                                                                 \
	int __tsan_atomic##bits##_compare_exchange_##kind(volatile type *at, type *expected,       \
							  type desired, int order, int failed)     \
	{                                                                                          \
		(void)order;                                                                       \
		(void)failed;                                                                      \
		point();                                                                           \
		return __atomic_compare_exchange_n(at, expected, desired, false, __ATOMIC_SEQ_CST, \
						   __ATOMIC_SEQ_CST);                              \
	}

#define ATOMIC(bits, type)                                                            \
	type __tsan_atomic##bits##_load(const volatile type *at, int order)           \
	{                                                                             \
		(void)order;                                                          \
		point();                                                              \
		return __atomic_load_n(at, __ATOMIC_SEQ_CST);                         \
	}                                                                             \
	void __tsan_atomic##bits##_store(volatile type *at, type value, int order)    \
	{                                                                             \
		(void)order;                                                          \
		point();                                                              \
		__atomic_store_n(at, value, __ATOMIC_SEQ_CST);                        \
	}                                                                             \
	type __tsan_atomic##bits##_exchange(volatile type *at, type value, int order) \
	{                                                                             \
		(void)order;                                                          \
		point();                                                              \
		return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);              \
	}                                                                             \
	FETCH(bits, type, add)                                                        \
	FETCH(bits, type, sub)                                                        \
	FETCH(bits, type, and)                                                        \
	FETCH(bits, type, or)                                                         \
	FETCH(bits, type, xor)                                                        \
	EXCHANGE(bits, type, strong)                                                  \
	EXCHANGE(bits, type, weak)

ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)

void __tsan_atomic_thread_fence(int order)
{
	(void)order;
	point();
}

void __tsan_atomic_signal_fence(int order)
{
	(void)order;
}
