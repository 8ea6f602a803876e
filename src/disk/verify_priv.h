/* SPDX-License-Identifier: MIT */
/* What the verifiers of one kind of block share with those of another, and with seal.c. */
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

/* ---- the checksum a block ought to bear ----------------------------------------------------- */

/* Low halves are all there is in descriptors of 32 bytes. */
static inline bool desc_is_wide(const struct geom *g)
{
	return g->desc_size >= EXT4_MIN_DESC_SIZE_64BIT;
}
bool desc_has_checksum(const struct geom *g);
bool inode_has_checksum_hi(const struct geom *g, const struct ext4_inode *raw);

uint32_t sum_super(const struct ext4_super_block *sb);
uint16_t sum_group_desc(const struct geom *g, uint32_t group, const struct ext4_group_desc *gd);
uint32_t sum_bitmap(const struct geom *g, const void *data, bool inode_bitmap);
uint32_t sum_mmp(const struct geom *g, const struct mmp_struct *mmp);
uint32_t sum_orphan_block(const struct verify_inode *vi, const void *data, blk_t blk);
/* @bytes: without the tail. */
uint32_t sum_dirents(const struct verify_inode *vi, const void *data, uint32_t bytes);
/* @at: where the row of entries begins.  Its count and limit lie inside the block. */
uint32_t sum_dx(const struct verify_inode *vi, const void *data, uint32_t at);
/* *@ret_tail_at: where the tail lies.  eh_max entries lie inside the block. */
uint32_t sum_extent_block(const struct verify_inode *vi, const struct ext4_extent_header *eh,
			  size_t *ret_tail_at);
uint32_t sum_xattr_block(const struct geom *g, const void *data, blk_t blk);

/*
 * May a file's blocks lie at [@blk, @blk + @count)?  Nothing belongs to a file up to the first data
 * block.
 */
static inline bool blocks_in_fs(const struct geom *g, blk_t blk, uint64_t count)
{
	return blk > g->first_data_block && blk < g->blocks && count <= g->blocks - blk;
}

#endif
