/* SPDX-License-Identifier: MIT */
/*
 * What every file of the engine may use: annotations, on-disk integers, small arithmetic, and the
 * index types whose confusion would cost data.  Knows nothing of file systems.
 */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define CLEANUP(fn) __attribute__((cleanup(fn)))
#define UNUSED __attribute__((unused))
#define NORETURN __attribute__((noreturn))
#define COLD __attribute__((cold))

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* The two classes of "the disk lies"; see diag.h. */
#define EFSCORRUPTED EUCLEAN
#define EFSBADCRC EBADMSG

typedef uint64_t blk_t;	  /* physical block of the file system */
typedef uint32_t lblk_t;  /* logical block of a file */
typedef uint64_t pgoff_t; /* page of a file */

/*
 * Integers as they lie on disk.  One-field structs, so that mixing them with host order does not
 * compile.  They may lie unaligned only inside packed structs.
 */
typedef struct {
	uint16_t raw;
} le16;
typedef struct {
	uint32_t raw;
} le32;
typedef struct {
	uint64_t raw;
} le64;
typedef struct {
	uint16_t raw;
} be16;
typedef struct {
	uint32_t raw;
} be32;
typedef struct {
	uint64_t raw;
} be64;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BASE_LE(bits, v) (v)
#define BASE_BE(bits, v) __builtin_bswap##bits(v)
#else
#define BASE_LE(bits, v) __builtin_bswap##bits(v)
#define BASE_BE(bits, v) (v)
#endif

static inline uint16_t le16_get(le16 v)
{
	return BASE_LE(16, v.raw);
}
static inline uint32_t le32_get(le32 v)
{
	return BASE_LE(32, v.raw);
}
static inline uint64_t le64_get(le64 v)
{
	return BASE_LE(64, v.raw);
}
static inline uint16_t be16_get(be16 v)
{
	return BASE_BE(16, v.raw);
}
static inline uint32_t be32_get(be32 v)
{
	return BASE_BE(32, v.raw);
}
static inline uint64_t be64_get(be64 v)
{
	return BASE_BE(64, v.raw);
}
static inline le16 le16_make(uint16_t v)
{
	return (le16){ BASE_LE(16, v) };
}
static inline le32 le32_make(uint32_t v)
{
	return (le32){ BASE_LE(32, v) };
}
static inline le64 le64_make(uint64_t v)
{
	return (le64){ BASE_LE(64, v) };
}
static inline be16 be16_make(uint16_t v)
{
	return (be16){ BASE_BE(16, v) };
}
static inline be64 be64_make(uint64_t v)
{
	return (be64){ BASE_BE(64, v) };
}
static inline be32 be32_make(uint32_t v)
{
	return (be32){ BASE_BE(32, v) };
}

static inline uint64_t u64_from_lo_hi(le32 lo, le32 hi)
{
	return (uint64_t)le32_get(hi) << 32 | le32_get(lo);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}
static inline size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}
static inline bool is_pow2(uint64_t v)
{
	return v != 0 && (v & (v - 1)) == 0;
}
static inline uint64_t div_round_up(uint64_t a, uint64_t b)
{
	return a / b + (a % b != 0);
}
static inline uint64_t round_down_pow2(uint64_t a, uint64_t p)
{
	return a & ~(p - 1);
}
static inline uint64_t round_up_pow2(uint64_t a, uint64_t p)
{
	return (a + p - 1) & ~(p - 1);
}

/* Checked arithmetic on lengths from disk: false if the result does not fit. */
static inline bool add_ok(uint64_t a, uint64_t b, uint64_t *ret_sum)
{
	return !__builtin_add_overflow(a, b, ret_sum);
}

static inline bool mul_ok(uint64_t a, uint64_t b, uint64_t *ret_product)
{
	return !__builtin_mul_overflow(a, b, ret_product);
}

/* The first error of two: cleanup must not hide what went wrong before it. */
static inline int first_error(int a, int b)
{
	return a < 0 ? a : b;
}

#endif
