#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The example examples/kvmap.c does what it says, on images of several kinds; e2fsck is the judge."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import changes, harness  # noqa: E402
from lib.harness import Job  # noqa: E402

KINDS = [
    ("ext4-4k", "-t ext4 -b 4096"),
    ("ext4-1k", "-t ext4 -b 1024"),
    ("inline", "-t ext4 -b 4096 -O inline_data -I 256"),
    ("no-journal", "-t ext4 -b 4096 -O ^has_journal"),
]
THREADS, COUNT = 8, 2000


def expect(condition, why):
    if not condition:
        raise harness.Failed(why)


def table(ctx, arguments):
    image = ctx.path("image")
    changes.make(image, arguments, 48)

    def kvmap(*args, check=True):
        return harness.run(ctx.options.kvmap, image, *args, check=check)

    def lines(*args):
        return kvmap(*args).stdout.decode().strip()

    kvmap("put", "colour", "red")
    kvmap("fill", str(THREADS), str(COUNT))
    kvmap("put", "colour", "green")
    expect(lines("count") == str(THREADS * COUNT + 1), "keys are missing")
    expect(lines("get", "colour") == "green", "an old value")
    for thread in range(THREADS):
        number = COUNT - 1 - thread
        expect(lines("get", f"t{thread}-{number}") == f"value {number} of thread {thread}", "a wrong value")
    expect(kvmap("get", "nothing", check=False).returncode == 1, "found what is not there")
    # Again: no key twice.
    kvmap("fill", str(THREADS), str(COUNT))
    expect(lines("count") == str(THREADS * COUNT + 1), "keys are there twice")
    harness.run("e2fsck", "-fn", image)


def job(kind):
    def function(ctx):
        ctx.test("table", lambda: table(ctx, kind[1]))

    return Job("kvmap-" + kind[0], function, ["table"])


if __name__ == "__main__":
    opts = harness.parse_options(__doc__.splitlines()[0],
                                 lambda parser: parser.add_argument("--kvmap", required=True))
    harness.main(opts, [job(kind) for kind in KINDS])
