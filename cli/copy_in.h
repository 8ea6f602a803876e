/* SPDX-License-Identifier: MIT */
/* `cp` with an image as its target: the operands behind the options, the target last. */
#ifndef CLI_COPY_IN_H
#define CLI_COPY_IN_H

#include <stdbool.h>

#include "cli.h"

void copy_into_image(const struct options *opts, bool recursive, bool archive, int argc,
		     char **argv);

#endif
