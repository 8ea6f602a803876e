#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""16 threads read one image at once, under TSan, with a cache too small for it; all see the same."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from bad import KINDS, make, walk  # noqa: E402
from lib.harness import Job, main, parse_options  # noqa: E402

THREADS, ROUNDS = "16", "3"


def job(kind):
    def function(context):
        image = make(context, kind)
        context.test("threads", lambda: walk(context, context.options.walk, "threads", THREADS, ROUNDS, image))

    return Job(kind[0], function, ["threads"])


if __name__ == "__main__":
    opts = parse_options(__doc__.splitlines()[0],
                         lambda parser: parser.add_argument("--walk", required=True))
    main(opts, [job(kind) for kind in KINDS])
