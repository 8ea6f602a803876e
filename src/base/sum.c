/* SPDX-License-Identifier: MIT */
/*
 * Checksums of the format.
 *
 * crc32c is on the path of every metadata block, so it has two forms: by the processor's
 * instruction where there is one (SSE 4.2, ARMv8 CRC; looked up at run time), and by tables, eight
 * bytes at a time.  The other two protect little and go byte by byte.
 *
 * A table entry T[i] is linear in the bits of i: it is the sum of T[1 << n] over the set bits n.
 * So each table is written down as its eight entries at powers of two, from which the compiler
 * makes the rest.  t/unit/base.c compares everything with the definition, bit by bit.
 */
#include "base/sum.h"

#include "base/sum_priv.h"

/* Three of them fit into a block of 1 KiB with its tail. */
#define LANE_BYTES 336u

#define TERM(i, n, value) (((unsigned)(i) >> (n)&1u) * (value))
#define LINEAR(i, b0, b1, b2, b3, b4, b5, b6, b7)                                             \
	(TERM(i, 0, b0) ^ TERM(i, 1, b1) ^ TERM(i, 2, b2) ^ TERM(i, 3, b3) ^ TERM(i, 4, b4) ^ \
	 TERM(i, 5, b5) ^ TERM(i, 6, b6) ^ TERM(i, 7, b7))
#define ROW4(T, i) T(i), T((i) + 1), T((i) + 2), T((i) + 3)
#define ROW16(T, i) ROW4(T, i), ROW4(T, (i) + 4), ROW4(T, (i) + 8), ROW4(T, (i) + 12)
#define ROW64(T, i) ROW16(T, i), ROW16(T, (i) + 16), ROW16(T, (i) + 32), ROW16(T, (i) + 48)
#define TABLE(T)                                                        \
	{                                                               \
		ROW64(T, 0), ROW64(T, 64), ROW64(T, 128), ROW64(T, 192) \
	}

/* CRC32C_n(i): byte i followed by n zero bytes. */
#define CRC32C_0(i)                                                                             \
	LINEAR(i, 0xf26b8303u, 0xe13b70f7u, 0xc79a971fu, 0x8ad958cfu, 0x105ec76fu, 0x20bd8edeu, \
	       0x417b1dbcu, 0x82f63b78u)
#define CRC32C_1(i)                                                                             \
	LINEAR(i, 0x13a29877u, 0x274530eeu, 0x4e8a61dcu, 0x9d14c3b8u, 0x3fc5f181u, 0x7f8be302u, \
	       0xff17c604u, 0xfbc3faf9u)
#define CRC32C_2(i)                                                                             \
	LINEAR(i, 0xa541927eu, 0x4f6f520du, 0x9edea41au, 0x38513ec5u, 0x70a27d8au, 0xe144fb14u, \
	       0xc76580d9u, 0x8b277743u)
#define CRC32C_3(i)                                                                             \
	LINEAR(i, 0xdd45aab8u, 0xbf672381u, 0x7b2231f3u, 0xf64463e6u, 0xe964b13du, 0xd725148bu, \
	       0xaba65fe7u, 0x52a0c93fu)
#define CRC32C_4(i)                                                                             \
	LINEAR(i, 0x38116facu, 0x7022df58u, 0xe045beb0u, 0xc5670b91u, 0x8f2261d3u, 0x1ba8b557u, \
	       0x37516aaeu, 0x6ea2d55cu)
#define CRC32C_5(i)                                                                             \
	LINEAR(i, 0xef306b19u, 0xdb8ca0c3u, 0xb2f53777u, 0x6006181fu, 0xc00c303eu, 0x85f4168du, \
	       0x0e045bebu, 0x1c08b7d6u)
#define CRC32C_6(i)                                                                             \
	LINEAR(i, 0x68032cc8u, 0xd0065990u, 0xa5e0c5d1u, 0x4e2dfd53u, 0x9c5bfaa6u, 0x3d5b83bdu, \
	       0x7ab7077au, 0xf56e0ef4u)
#define CRC32C_7(i)                                                                             \
	LINEAR(i, 0x493c7d27u, 0x9278fa4eu, 0x211d826du, 0x423b04dau, 0x847609b4u, 0x0d006599u, \
	       0x1a00cb32u, 0x34019664u)

static const uint32_t crc32c_table[8][256] = {
	TABLE(CRC32C_0), TABLE(CRC32C_1), TABLE(CRC32C_2), TABLE(CRC32C_3),
	TABLE(CRC32C_4), TABLE(CRC32C_5), TABLE(CRC32C_6), TABLE(CRC32C_7),
};

/* LANE_n(i): what a crc of i << 8 * n becomes over LANE_BYTES zero bytes. */
#define LANE_0(i)                                                                               \
	LINEAR(i, 0x8f158014u, 0x1bc776d9u, 0x378eedb2u, 0x6f1ddb64u, 0xde3bb6c8u, 0xb99b1b61u, \
	       0x76da4033u, 0xedb48066u)
#define LANE_1(i)                                                                               \
	LINEAR(i, 0xde85763du, 0xb8e69a8bu, 0x742143e7u, 0xe84287ceu, 0xd569796du, 0xaf3e842bu, \
	       0x5b917ea7u, 0xb722fd4eu)
#define LANE_2(i)                                                                               \
	LINEAR(i, 0x6ba98c6du, 0xd75318dau, 0xab4a4745u, 0x5378f87bu, 0xa6f1f0f6u, 0x480f971du, \
	       0x901f2e3au, 0x25d22a85u)
#define LANE_3(i)                                                                               \
	LINEAR(i, 0x4ba4550au, 0x9748aa14u, 0x2b7d22d9u, 0x56fa45b2u, 0xadf48b64u, 0x5e056039u, \
	       0xbc0ac072u, 0x7df9f615u)

static const uint32_t crc32c_lane_table[4][256] = {
	TABLE(LANE_0),
	TABLE(LANE_1),
	TABLE(LANE_2),
	TABLE(LANE_3),
};

#define CRC16(i) \
	(uint16_t) LINEAR(i, 0xc0c1u, 0xc181u, 0xc301u, 0xc601u, 0xcc01u, 0xd801u, 0xf001u, 0xa001u)

static const uint16_t crc16_table[256] = TABLE(CRC16);

#define CRC32_BE(i)                                                                             \
	LINEAR(i, 0x04c11db7u, 0x09823b6eu, 0x130476dcu, 0x2608edb8u, 0x4c11db70u, 0x9823b6e0u, \
	       0x34867077u, 0x690ce0eeu)

static const uint32_t crc32_be_table[256] = TABLE(CRC32_BE);

static uint64_t load_le64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return BASE_LE(64, v);
}

uint32_t crc32c_by_table(uint32_t seed, const void *data, size_t bytes)
{
	const uint32_t(*t)[256] = crc32c_table;
	const uint8_t *p = data;
	uint32_t crc = seed;

	for (; bytes >= 8; bytes -= 8, p += 8) {
		uint64_t v = load_le64(p) ^ crc;

		crc = t[7][v & 0xff] ^ t[6][v >> 8 & 0xff] ^ t[5][v >> 16 & 0xff] ^
		      t[4][v >> 24 & 0xff] ^ t[3][v >> 32 & 0xff] ^ t[2][v >> 40 & 0xff] ^
		      t[1][v >> 48 & 0xff] ^ t[0][v >> 56];
	}
	for (; bytes > 0; bytes--, p++)
		crc = crc >> 8 ^ t[0][(crc ^ *p) & 0xff];
	return crc;
}

/*
 * One block a processor, each with: is the instruction there, one step of eight bytes, one of a
 * byte.  CRC_TARGET marks the function that the steps are inlined into.
 */
#if defined(__x86_64__)

#include <nmmintrin.h>

#define CRC_TARGET __attribute__((target("sse4.2")))

bool crc32c_cpu_can(void)
{
	return __builtin_cpu_supports("sse4.2") != 0;
}

CRC_TARGET static inline uint32_t step8(uint32_t crc, uint64_t v)
{
	return (uint32_t)_mm_crc32_u64(crc, v);
}

CRC_TARGET static inline uint32_t step1(uint32_t crc, uint8_t v)
{
	return _mm_crc32_u8(crc, v);
}

#elif defined(__aarch64__) && defined(__linux__)

#include <asm/hwcap.h>
#include <sys/auxv.h>

#define CRC_TARGET

bool crc32c_cpu_can(void)
{
	return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
}

/* Assembly, because gcc and clang do not agree on how a single function gets at the intrinsics. */
static inline uint32_t step8(uint32_t crc, uint64_t v)
{
	__asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(v));
	return crc;
}

static inline uint32_t step1(uint32_t crc, uint8_t v)
{
	__asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"((uint32_t)v));
	return crc;
}

#else

#define CRC_TARGET

bool crc32c_cpu_can(void)
{
	return false;
}

static inline uint32_t step8(uint32_t crc, uint64_t v)
{
	v = BASE_LE(64, v);
	return crc32c_by_table(crc, &v, sizeof(v));
}

static inline uint32_t step1(uint32_t crc, uint8_t v)
{
	return crc32c_by_table(crc, &v, sizeof(v));
}

#endif

/* @crc, and then a lane of zero bytes. */
static inline uint32_t over_lane(uint32_t crc)
{
	const uint32_t(*t)[256] = crc32c_lane_table;

	return t[0][crc & 0xff] ^ t[1][crc >> 8 & 0xff] ^ t[2][crc >> 16 & 0xff] ^ t[3][crc >> 24];
}

/*
 * The instruction takes three cycles, but one can be begun each cycle: three lanes at once, which
 * are then added up as if each had been followed by zeros.
 */
CRC_TARGET static inline uint32_t three_lanes(uint32_t crc, const uint8_t *p)
{
	uint32_t crc1 = 0, crc2 = 0;

	for (size_t i = 0; i < LANE_BYTES; i += 8) {
		crc = step8(crc, load_le64(p + i));
		crc1 = step8(crc1, load_le64(p + LANE_BYTES + i));
		crc2 = step8(crc2, load_le64(p + 2 * LANE_BYTES + i));
	}
	return over_lane(over_lane(crc) ^ crc1) ^ crc2;
}

CRC_TARGET uint32_t crc32c_by_cpu(uint32_t seed, const void *data, size_t bytes)
{
	const uint8_t *p = data;
	uint32_t crc = seed;

	for (; bytes >= 3 * LANE_BYTES; bytes -= 3 * LANE_BYTES, p += 3 * LANE_BYTES)
		crc = three_lanes(crc, p);
	for (; bytes >= 8; bytes -= 8, p += 8)
		crc = step8(crc, load_le64(p));
	for (; bytes > 0; bytes--, p++)
		crc = step1(crc, *p);
	return crc;
}

uint32_t crc32c(uint32_t seed, const void *data, size_t bytes)
{
	if (crc32c_cpu_can())
		return crc32c_by_cpu(seed, data, bytes);
	return crc32c_by_table(seed, data, bytes);
}

uint16_t crc16(uint16_t seed, const void *data, size_t bytes)
{
	const uint8_t *p = data;
	unsigned crc = seed;

	for (; bytes > 0; bytes--, p++)
		crc = crc >> 8 ^ crc16_table[(crc ^ *p) & 0xff];
	return (uint16_t)crc;
}

uint32_t crc32_be(uint32_t seed, const void *data, size_t bytes)
{
	const uint8_t *p = data;
	uint32_t crc = seed;

	for (; bytes > 0; bytes--, p++)
		crc = crc << 8 ^ crc32_be_table[crc >> 24 ^ *p];
	return crc;
}
