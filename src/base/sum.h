/* SPDX-License-Identifier: MIT */
/* Checksums of the format.  All are plain functions of their arguments. */
#ifndef BASE_SUM_H
#define BASE_SUM_H

#include "base/base.h"

/* CRC-32C (Castagnoli), reflected, no inversion anywhere: chains as ext4 and jbd2 chain it. */
uint32_t crc32c(uint32_t seed, const void *data, size_t bytes);
/* CRC-16 (ANSI, reflected 0xA001) of group descriptors with uninit_bg. */
uint16_t crc16(uint16_t seed, const void *data, size_t bytes);
/* CRC-32 big endian (polynomial 04C11DB7, not reflected) of jbd2 commit blocks with checksum v1. */
uint32_t crc32_be(uint32_t seed, const void *data, size_t bytes);

#endif
