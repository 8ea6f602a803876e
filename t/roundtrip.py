#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Round trips: the library and the kernel change an image by turns, ten times each.

The random operations of t/world.c; what one has left the other finds whole (names, attributes,
contents, free counts), and e2fsck and our checker find nothing wrong at any change of hands.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import changes, harness  # noqa: E402
from lib.harness import Job  # noqa: E402

ROUNDS = 10


def job(kind):
    name, arguments, size, _ = kind

    def function(ctx):
        def test():
            options = ctx.options
            for seed in range(options.seed, options.seed + (10 if options.full else 1)):
                how_made = changes.make(ctx.path("image"), arguments, size)
                changes.call(ctx, how_made, options.world, "--seed", str(seed),
                             "--ops", "4000" if options.full else "600",
                             "--round-trips", str(ROUNDS), "--threads", "1",
                             "--without", "txn",
                             "--mount", ctx.path("mount"), ctx.path("image"),
                             mount=ctx.path("mount"), timeout=options.timeout)
        ctx.test("trips", test)

    return Job(name, function, ["trips"])


if __name__ == "__main__":
    opts = harness.parse_options(
        __doc__.splitlines()[0],
        lambda parser: parser.add_argument("--world", required=True, help="the program uext4-world"))
    opts.timeout = max(opts.timeout, 3600 if opts.full else 600)
    harness.main(opts, [job(kind) for kind in changes.KINDS if kind[3]])
