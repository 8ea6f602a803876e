/* SPDX-License-Identifier: MIT */
/* The two ways to compute crc32c(), so that the unit test can compare them on one machine. */
#ifndef BASE_SUM_PRIV_H
#define BASE_SUM_PRIV_H

#include "base/base.h"

uint32_t crc32c_by_table(uint32_t seed, const void *data, size_t bytes);

/* Does this processor have an instruction for it?  crc32c_by_cpu() may be called only then. */
bool crc32c_cpu_can(void);
uint32_t crc32c_by_cpu(uint32_t seed, const void *data, size_t bytes);

#endif
