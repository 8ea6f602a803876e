/* SPDX-License-Identifier: MIT */
/*
 * base/: checksums against their definition bit by bit and the published check values; the xarray
 * against a plain sorted list under seeded random operations, and with every allocation failing
 * once; error texts, their bounds, and that threads do not see each other's.
 *
 * Usage: base [SEED]
 */
#include "base/base.h"
#include "base/diag.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/sum.h"
#include "base/sum_priv.h"
#include "base/xarray.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#undef fail /* ours is meant */

static uint64_t seed = 1;

/* xorshift64*: the same numbers everywhere. */
static uint64_t rnd(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

/* ---- checksums ----------------------------------------------------------------------------- */

static uint32_t crc_reflected(uint32_t poly, uint32_t crc, const uint8_t *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		crc ^= p[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? poly : 0);
	}
	return crc;
}

static uint32_t crc_straight(uint32_t poly, uint32_t crc, const uint8_t *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		crc ^= (uint32_t)p[i] << 24;
		for (int bit = 0; bit < 8; bit++)
			crc = crc << 1 ^ (crc >> 31 ? poly : 0);
	}
	return crc;
}

static void sum_check_values(void **state UNUSED)
{
	static const char digits[] = "123456789";
	uint8_t zeros[32] = { 0 };

	assert_int_equal(~crc32c(~0u, digits, 9), 0xE3069283u);
	assert_int_equal(~crc32c(~0u, zeros, 32), 0x8A9136AAu); /* RFC 3720 */
	assert_int_equal(crc16(0, digits, 9), 0xBB3D);
	assert_int_equal(crc16(0xffff, digits, 9), 0x4B37);
	assert_int_equal(crc32_be(~0u, digits, 9), 0x0376E6E7u);
}

static void sum_equals_definition(void **state UNUSED)
{
	uint8_t data[4200];
	uint64_t r = seed;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)rnd(&r);
	/* Every length at every alignment, from another seed each. */
	for (size_t start = 0; start < 9; start++) {
		for (size_t bytes = 0; bytes + start <= sizeof(data); bytes += 1 + bytes / 40) {
			const uint8_t *p = data + start;
			uint32_t s = (uint32_t)rnd(&r);
			uint32_t want = crc_reflected(0x82F63B78, s, p, bytes);

			assert_int_equal(crc32c(s, p, bytes), want);
			assert_int_equal(crc32c_by_table(s, p, bytes), want);
			if (crc32c_cpu_can())
				assert_int_equal(crc32c_by_cpu(s, p, bytes), want);
			assert_int_equal(crc16((uint16_t)s, p, bytes),
					 crc_reflected(0xA001, s & 0xffff, p, bytes));
			assert_int_equal(crc32_be(s, p, bytes),
					 crc_straight(0x04C11DB7, s, p, bytes));
		}
	}
	if (!crc32c_cpu_can())
		print_message("this processor has no crc32c instruction: only the tables ran\n");
}

static void sum_chains(void **state UNUSED)
{
	static const char text[] = "a checksum may be made of parts";
	size_t all = sizeof(text);

	for (size_t cut = 0; cut <= all; cut++) {
		uint32_t part = crc32c(7, text, cut);

		assert_int_equal(crc32c(part, text + cut, all - cut), crc32c(7, text, all));
	}
}

/* ---- xarray -------------------------------------------------------------------------------- */

#define MODEL_MAX 512

struct model {
	uint64_t index[MODEL_MAX]; /* ascending */
	void *item[MODEL_MAX];
	size_t count;
};

static size_t model_at_or_behind(const struct model *m, uint64_t index)
{
	size_t i = 0;

	while (i < m->count && m->index[i] < index)
		i++;
	return i;
}

static void *model_find(const struct model *m, uint64_t index)
{
	size_t i = model_at_or_behind(m, index);

	return i < m->count && m->index[i] == index ? m->item[i] : NULL;
}

static void model_insert(struct model *m, uint64_t index, void *item)
{
	size_t i = model_at_or_behind(m, index), moved = m->count - i;

	assert_true(m->count < MODEL_MAX);
	memmove(&m->index[i + 1], &m->index[i], moved * sizeof(m->index[0]));
	memmove(&m->item[i + 1], &m->item[i], moved * sizeof(m->item[0]));
	m->index[i] = index;
	m->item[i] = item;
	m->count++;
}

static void model_remove(struct model *m, uint64_t index)
{
	size_t i = model_at_or_behind(m, index), moved = m->count - i - 1;

	memmove(&m->index[i], &m->index[i + 1], moved * sizeof(m->index[0]));
	memmove(&m->item[i], &m->item[i + 1], moved * sizeof(m->item[0]));
	m->count--;
}

/* Indexes that meet: small ones, neighbours of powers of two, and the largest. */
static uint64_t pick_index(uint64_t *r)
{
	uint64_t near = rnd(r) % 5 - 2;

	switch (rnd(r) % 4) {
	case 0: return rnd(r) % 200;
	case 1: return (UINT64_C(1) << rnd(r) % 64) + near;
	case 2: return UINT64_MAX - rnd(r) % 100;
	default: return (rnd(r) % 16 << 40) + rnd(r) % 16;
	}
}

static void compare(const struct xarray *xa, const struct model *m)
{
	uint64_t index = 0;
	size_t i = 0;

	assert_int_equal(xa->count, m->count);
	while (xarray_next(xa, &index) != NULL) {
		assert_true(i < m->count);
		assert_true(index == m->index[i]);
		assert_ptr_equal(xarray_find(xa, index), m->item[i]);
		i++;
		if (index++ == UINT64_MAX)
			break;
	}
	assert_int_equal(i, m->count);
}

static void compare_next(const struct xarray *xa, const struct model *m, uint64_t from)
{
	size_t i = model_at_or_behind(m, from);
	uint64_t index = from;
	void *item = xarray_next(xa, &index);

	if (i == m->count) {
		assert_null(item);
		assert_true(index == from);
	} else {
		assert_ptr_equal(item, m->item[i]);
		assert_true(index == m->index[i]);
	}
}

static void xarray_equals_model(void **state UNUSED)
{
	static struct model m;
	static char items[64];
	uint64_t r = seed;
	struct xarray xa;

	m.count = 0;
	xarray_init(&xa);
	for (int step = 0; step < 60000; step++) {
		/* Fills up for a while, empties for a while. */
		bool filling = step / 3000 % 2 == 0;
		uint64_t index = pick_index(&r);
		void *have = model_find(&m, index);

		assert_ptr_equal(xarray_find(&xa, index), have);
		compare_next(&xa, &m, index);
		if (have == NULL && filling && m.count < MODEL_MAX) {
			void *item = &items[rnd(&r) % sizeof(items)];

			assert_int_equal(xarray_insert(&xa, index, item), 0);
			model_insert(&m, index, item);
		} else {
			if (!filling && have == NULL && m.count > 0) {
				index = m.index[rnd(&r) % m.count];
				have = model_find(&m, index);
			}
			assert_ptr_equal(xarray_remove(&xa, index), have);
			if (have != NULL)
				model_remove(&m, index);
		}
		if (step % 500 == 0)
			compare(&xa, &m);
	}
	while (m.count > 0) {
		assert_ptr_equal(xarray_remove(&xa, m.index[0]), m.item[0]);
		model_remove(&m, m.index[0]);
	}
	assert_null(xa.root); /* an empty array keeps no memory */
	assert_int_equal(xa.height, 0);
	xarray_finish(&xa);
}

static void xarray_finish_frees_nodes(void **state UNUSED)
{
	uint64_t r = seed;
	struct xarray xa;
	char item;

	xarray_init(&xa);
	for (int i = 0; i < 3000; i++) {
		uint64_t index = pick_index(&r);

		if (xarray_find(&xa, index) == NULL)
			assert_int_equal(xarray_insert(&xa, index, &item), 0);
	}
	xarray_finish(&xa); /* the leak checker judges */
	assert_null(xa.root);
}

static void xarray_survives_no_memory(void **state UNUSED)
{
	static const uint64_t start[] = { 3, 70, 5000 };
	static const uint64_t added[] = { 4, 64, 4096, 1u << 30, UINT64_MAX };
	char item;

	for (size_t s = 0; s <= ARRAY_SIZE(start); s++) {
		for (size_t a = 0; a < ARRAY_SIZE(added); a++) {
			struct xarray xa, before;
			uint64_t nth = 0;
			int err;

			xarray_init(&xa);
			for (size_t i = 0; i < s; i++)
				assert_int_equal(xarray_insert(&xa, start[i], &item), 0);
			before = xa;
			do {
				(void)mem_fail_nth(++nth);
				err = xarray_insert(&xa, added[a], &item);
				(void)mem_fail_nth(0);
				if (err == 0)
					break;
				assert_int_equal(err, -ENOMEM);
				assert_memory_equal(&xa, &before, sizeof(xa));
				assert_null(xarray_find(&xa, added[a]));
				for (size_t i = 0; i < s; i++)
					assert_non_null(xarray_find(&xa, start[i]));
			} while (nth < 100);
			assert_int_equal(err, 0);
			assert_ptr_equal(xarray_find(&xa, added[a]), &item);
			xarray_finish(&xa);
		}
	}
}

/* ---- error texts --------------------------------------------------------------------------- */

static void diag_texts(void **state UNUSED)
{
	diag_clear();
	assert_string_equal(diag_text(), "");
	assert_int_equal(fail(-EIO, "block %d", 7), -EIO);
	assert_string_equal(diag_text(), "block 7");
	assert_int_equal(fail_in(-EIO, "inode %d", 12), -EIO);
	assert_string_equal(diag_text(), "inode 12: block 7");
	assert_int_equal(corrupt("extent %u", 3u), -EUCLEAN);
	assert_int_equal(bad_checksum("bitmap"), -EBADMSG);
	assert_string_equal(diag_text(), "bitmap");

	/* The old text as an argument of the new one. */
	assert_int_equal(fail(-EIO, "again %s", diag_text()), -EIO);
	assert_string_equal(diag_text(), "again bitmap");

	assert_int_equal(fail_plainly(-ENOENT, "directory", 12, "is empty"), -ENOENT);
	assert_int_equal(fail_in(-ENOENT, "path"), -ENOENT);
	assert_string_equal(diag_text(), "path: directory 12 is empty");
	(void)fail(-EIO, "block 7");
	(void)fail_plainly(-ENOENT, "directory", 12, "is empty");
	assert_string_equal(diag_text(), "directory 12 is empty");
	(void)fail_plainly(-ENOENT, "directory", 12, "is empty");
	assert_int_equal(fail(-EIO, "block 7"), -EIO);
	assert_string_equal(diag_text(), "block 7");
	(void)fail_plainly(-ENOENT, "directory", 12, "is empty");
	assert_true(diag_has_text());
	diag_clear();
	assert_false(diag_has_text());
	assert_string_equal(diag_text(), "");

	diag_clear();
	assert_int_equal(fail_in(-EIO, "nothing inside"), -EIO);
	assert_string_equal(diag_text(), "nothing inside");
}

static void diag_is_bounded(void **state UNUSED)
{
	char text[2000];

	/* Around the length that just fits. */
	for (size_t len = 505; len < 520; len++) {
		memset(text, 'x', len);
		text[len] = '\0';
		(void)fail(-EIO, "%s", text);
		if (len <= 511) {
			assert_string_equal(diag_text(), text);
		} else {
			assert_int_equal(strlen(diag_text()), 511);
			assert_string_equal(diag_text() + 508, "...");
		}
		(void)fail(-EIO, "short");
		(void)fail_in(-EIO, "%s", text);
		assert_int_equal(strlen(diag_text()), 511);
		assert_string_equal(diag_text() + 508, "...");
	}
}

static void *other_thread(void *arg UNUSED)
{
	assert_string_equal(diag_text(), "");
	(void)fail(-EIO, "of the other thread");
	return NULL;
}

static void diag_is_per_thread(void **state UNUSED)
{
	pthread_t t;

	(void)fail(-EIO, "of this thread");
	assert_int_equal(pthread_create(&t, NULL, other_thread, NULL), 0);
	assert_int_equal(pthread_join(t, NULL), 0);
	assert_string_equal(diag_text(), "of this thread");
}

/* ---- memory, arithmetic, lists ------------------------------------------------------------- */

static void mem_fails_the_nth(void **state UNUSED)
{
	void *p[3];

	(void)mem_fail_nth(2);
	p[0] = mem_alloc(10);
	p[1] = mem_zalloc(10);
	p[2] = mem_alloc_aligned(100, 64);
	assert_int_equal(mem_fail_nth(0), 3);
	assert_non_null(p[0]);
	assert_null(p[1]);
	assert_string_equal(diag_text(), "out of memory");
	assert_non_null(p[2]);
	assert_int_equal((uintptr_t)p[2] % 64, 0);
	mem_free(p[0]);
	mem_free(p[2]);
	assert_int_equal(mem_fail_nth(0), 0);
}

static void mem_checks_products(void **state UNUSED)
{
	volatile size_t half = SIZE_MAX / 2; /* volatile: the compiler would warn of what we test */
	void *p = mem_calloc(half, 3);

	assert_null(p);
	p = mem_calloc(0, 8); /* nothing is not a failure */
	assert_non_null(p);
	mem_free(p);
	p = mem_alloc(half * 0);
	assert_non_null(p);
	p = mem_realloc(p, 100);
	assert_non_null(p);
	mem_free(p);
	mem_free(NULL);
}

static void checked_arithmetic(void **state UNUSED)
{
	uint64_t v = 7;

	assert_false(add_ok(UINT64_MAX, 1, &v));
	assert_true(add_ok(UINT64_MAX, 0, &v));
	assert_true(v == UINT64_MAX);
	assert_false(mul_ok(UINT64_C(1) << 32, UINT64_C(1) << 32, &v));
	assert_true(mul_ok(UINT64_C(1) << 32, UINT64_C(1) << 31, &v));
	assert_int_equal(div_round_up(0, 5), 0);
	assert_true(div_round_up(UINT64_MAX, 2) == UINT64_C(1) << 63);
	assert_true(is_pow2(UINT64_C(1) << 63));
	assert_false(is_pow2(0));
	assert_int_equal(le32_get(le32_make(0x12345678)), 0x12345678);
	assert_int_equal(*(uint8_t *)&(be32){ be32_make(0x12345678).raw }, 0x12);
	assert_int_equal(*(uint8_t *)&(le32){ le32_make(0x12345678).raw }, 0x78);
}

static void lists(void **state UNUSED)
{
	struct list head, item[4];
	size_t n = 0;

	list_init(&head);
	assert_true(list_empty(&head));
	list_add_tail(&head, &item[1]);
	list_add_tail(&head, &item[2]);
	list_add_head(&head, &item[0]);
	list_for_each(pos, &head)
		assert_ptr_equal(pos, &item[n++]);
	assert_int_equal(n, 3);
	list_for_each_safe(pos, &head)
		list_del(pos);
	assert_true(list_empty(&head));
	list_del(&item[0]); /* twice is harmless */
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(sum_check_values),
		cmocka_unit_test(sum_equals_definition),
		cmocka_unit_test(sum_chains),
		cmocka_unit_test(xarray_equals_model),
		cmocka_unit_test(xarray_finish_frees_nodes),
		cmocka_unit_test(xarray_survives_no_memory),
		cmocka_unit_test(diag_texts),
		cmocka_unit_test(diag_is_bounded),
		cmocka_unit_test(diag_is_per_thread),
		cmocka_unit_test(mem_fails_the_nth),
		cmocka_unit_test(mem_checks_products),
		cmocka_unit_test(checked_arithmetic),
		cmocka_unit_test(lists),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	print_message("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
