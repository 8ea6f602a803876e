/* SPDX-License-Identifier: MIT */
/*
 * What the test programs in C have in common: random numbers, other programs, copies of images.
 */
#ifndef T_TOOL_H
#define T_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* One number of many from one: for seeds, and for bytes that say where they belong. */
uint64_t mix64(uint64_t x);

struct rng {
	uint64_t state;
};

uint64_t rnd(struct rng *r);
uint64_t rnd_below(struct rng *r, uint64_t bound); /* bound > 0 */
bool rnd_one_in(struct rng *r, uint64_t n);

/*
 * Bytes [@offset, @offset + @len) of an endless text that belongs to @seed: misplaced or foreign
 * bytes show.
 */
void fill_text(uint8_t *buf, uint64_t offset, size_t len, uint64_t seed);

/* Ends the program with status 2 and a message: the test itself cannot go on. */
void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void *must_alloc(size_t bytes); /* zeroed */

/*
 * Runs a program; returns its exit status, and what it printed in memory of the caller's
 * (free()), cut off if long.
 */
int run_program(const char *const argv[], char **ret_output);

/* Copies what is not zero of @from to @to, which gets the same size. */
void copy_sparse(const char *from, const char *to);
void write_sparse(const char *to, const uint8_t *data, size_t bytes);

#endif
