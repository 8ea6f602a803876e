/* SPDX-License-Identifier: MIT */
/*
 * For the programs in t/, which link the engine statically: what no user of the library can do.
 */
#ifndef API_TEST_HOOKS_H
#define API_TEST_HOOKS_H

#include "dev/dev.h"
#include "uext4.h"

/*
 * uext4_open() of a stack of devices (in memory, recording, failing), which it takes over, also
 * when it fails.  Of @options offset and length are not looked at.
 */
int uext4_open_dev_for_test(struct dev *dev, const struct uext4_open_options *options,
			    struct uext4_fs **ret_fs) UEXT4_MUST_CHECK;

/*
 * Before the first uext4_mmap(): what it maps is accessed through vm_soft_load() and
 * vm_soft_store() of this space; see vm/vm.h.
 */
struct vm_space;
int uext4_mmap_soft_for_test(struct uext4_fs *fs, struct vm_space **ret_space) UEXT4_MUST_CHECK;

#endif
