/* SPDX-License-Identifier: MIT */
/*
 * The log of a recording device (record.c): a head, then entries one behind the other, each
 * followed by `bytes` bytes of data if it is a write.  Integers are the host's: a log is read where
 * it was made.
 *
 * What may be on the disk when the power fails behind entry P follows from it: every write whose
 * DONE comes before a FLUSH whose FLUSHED comes before P is there; of the other writes before P any
 * sector may be there or not, where two of them overlap the later one on top.
 */
#ifndef DEV_RECORD_H
#define DEV_RECORD_H

#include "base/base.h"

#define RECORD_MAGIC UINT64_C(0x0130636572347875)

struct record_head {
	uint64_t magic;
	uint64_t device_bytes;
};

enum record_kind {
	RECORD_WRITE = 1, /* was given to the device below */
	RECORD_DONE,	  /* write @id has succeeded; one that fails has none */
	RECORD_FLUSH,	  /* was given to the device below */
	RECORD_FLUSHED,	  /* flush @id has succeeded */
	RECORD_DISCARD,	  /* from here on the bytes may read as anything */
	RECORD_MARK,	  /* dev_record_mark(): the mark is in @id */
};

struct record_entry {
	uint32_t kind;
	uint32_t unused; /* 0 */
	uint64_t id;	 /* counts writes and flushes together, from 1 */
	uint64_t offset;
	uint64_t bytes;
};

#endif
