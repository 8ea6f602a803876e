/* SPDX-License-Identifier: MIT */
/*
 * An image in memory for tests under the simulator: made once by mke2fs, and each schedule, which
 * is a child process, has its own copy.
 */
#ifndef T_UNIT_SIM_KIT_H
#define T_UNIT_SIM_KIT_H

#include "base/base.h"
#include "sim/sim.h"
#include "uext4.h"

#define MIB (1024u * 1024)

struct kit_image {
	const char *name;
	unsigned mib;
	const char *options; /* of mke2fs */
	uint32_t block_size;
};

/* The image that is open, or will be. */
extern struct uext4_fs *fs;
extern struct dev *kit_fail_dev; /* below it: dev_fail_*() */

/* Makes @image the one under test. */
void kit_load(const struct kit_image *image);
/* Opens it, with scheduling points at its requests. */
int kit_open(const struct uext4_open_options *options) MUST_CHECK;
/* Opens it for reading, and fails the schedule if the verifier finds anything. */
void kit_open_and_check(void);
/* The image as it lies on the device at this moment: a power cut.  kit_restore() puts it back. */
void kit_cut(void);
void kit_restore(void);
/* Writes a file until no block is free, and gives @keep blocks of 1 KiB back. */
void kit_fill_disk(unsigned keep);
/* A sum of its bytes at this moment. */
uint64_t kit_sum(void);

/* 0 to @end - 1, from the schedule's seed. */
uint32_t rnd(uint32_t end);

#define OK(call)                                                                                   \
	do {                                                                                       \
		int err_ = (call);                                                                 \
		if (err_ != 0)                                                                     \
			sim_fail("%s:%d: %s: %s (%s)", __FILE__, __LINE__, #call, strerror(-err_), \
				 uext4_last_error());                                              \
	} while (0)

#endif
