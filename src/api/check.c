/* SPDX-License-Identifier: MIT */
/* The public function that verifies an image. */
#pragma GCC visibility push(default)
#include "uext4.h"
#pragma GCC visibility pop

#include "base/diag.h"
#include "fs/check.h"

/* Copies what the caller knows of the options. */
static int options_take(const struct uext4_check_options *options, struct uext4_check_options *ret)
{
	struct uext4_check_options o = { .size = sizeof(o) };
	const uint8_t *bytes = (const uint8_t *)options;

	if (options) {
		if (options->size < offsetof(struct uext4_check_options, arg))
			return fail(-EINVAL, "the options' size is not set");
		for (size_t i = sizeof(o); i < options->size; i++) {
			if (bytes[i] != 0)
				return fail(-EINVAL, "an option that this version does not know");
		}
		memcpy(&o, options, min_size(options->size, sizeof(o)));
	}
	*ret = o;
	return 0;
}

int uext4_check(struct uext4_fs *fs, const struct uext4_check_options *options,
		struct uext4_check_result *ret_result)
{
	struct uext4_check_options o;
	struct uext4_check_result result;
	int err;

	diag_clear();
	err = options_take(options, &o);
	if (err == 0)
		err = check_run(fs, &o, &result);
	lockrank_assert_none();
	if (err < 0)
		return err;
	diag_clear();
	user_copy_out(ret_result, &result, sizeof(result));
	return 0;
}
