/* SPDX-License-Identifier: MIT */
/*
 * The caller's memory: the only way to it (S5), whichever implementation the locks have.
 */
#include "sync/sync.h"

static void (*copy_in)(void *to, const void *user, size_t bytes);
static void (*copy_out)(void *user, const void *from, size_t bytes);

void sync_set_user_copy(void (*in)(void *to, const void *user, size_t bytes),
			void (*out)(void *user, const void *from, size_t bytes))
{
	copy_in = in;
	copy_out = out;
}

void user_copy_out(void *user, const void *from, size_t bytes)
{
	lockrank_assert_none();
	if (unlikely(copy_out != NULL))
		copy_out(user, from, bytes);
	else if (bytes != 0)
		memcpy(user, from, bytes);
}

void user_copy_in(void *to, const void *user, size_t bytes)
{
	lockrank_assert_none();
	if (unlikely(copy_in != NULL))
		copy_in(to, user, bytes);
	else if (bytes != 0)
		memcpy(to, user, bytes);
}
