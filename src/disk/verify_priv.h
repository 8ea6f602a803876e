/* SPDX-License-Identifier: MIT */
/* What the verifiers of one kind of block share with those of another. */
#ifndef DISK_VERIFY_PRIV_H
#define DISK_VERIFY_PRIV_H

#include "base/sum.h"
#include "disk/verify.h"

/* Checksums run over numbers as they lie on disk, and over zeros where the checksum itself lies. */
static inline uint32_t crc32c_u32(uint32_t seed, uint32_t v)
{
	le32 disk = le32_make(v);

	return crc32c(seed, &disk, sizeof(disk));
}

static inline uint32_t crc32c_u64(uint32_t seed, uint64_t v)
{
	return crc32c_u32(crc32c_u32(seed, (uint32_t)v), (uint32_t)(v >> 32));
}

static inline uint32_t crc32c_zeros(uint32_t seed, size_t bytes)
{
	static const uint8_t zeros[4];

	assert(bytes <= sizeof(zeros));
	return crc32c(seed, zeros, bytes);
}

/* A fuzzer cannot guess checksums: built for it, the engine takes every one for right. */
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
#define CHECKSUMS_COUNT false
#else
#define CHECKSUMS_COUNT true
#endif

static inline bool checksum_fits(uint32_t found, uint32_t wanted)
{
	return found == wanted || !CHECKSUMS_COUNT;
}

/*
 * May a file's blocks lie at [@blk, @blk + @count)?  Nothing belongs to a file up to the first data
 * block.
 */
static inline bool blocks_in_fs(const struct geom *g, blk_t blk, uint64_t count)
{
	return blk > g->first_data_block && blk < g->blocks && count <= g->blocks - blk;
}

#endif
