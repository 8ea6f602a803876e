/* SPDX-License-Identifier: MIT */
/*
 * The verifier of a whole image: what e2fsck -fn would find, and more.
 */
#ifndef FS_CHECK_H
#define FS_CHECK_H

#include "fs/fs.h"

/*
 * As uext4_check().  @fs must be open for reading, and nobody may change what lies below.  Reads
 * the device, past the cache.  -ENOMEM, -ECANCELED, -EOPNOTSUPP (what is shown is not all on the
 * disk); problems of the image are results.  Takes no lock.
 */
int check_run(struct uext4_fs *fs, const struct uext4_check_options *options,
	      struct uext4_check_result *ret_result) MUST_CHECK;

#endif
