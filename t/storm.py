#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Stores through shared mappings of inline files against everything that changes them (t/storm.c), on images of all kinds, with
room and full; afterwards e2fsck and the verifier find nothing.

Never done on a kernel's own mount: Debian's stops within seconds (docs/inline-data.md).
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import changes, harness  # noqa: E402
from lib.harness import Job  # noqa: E402

# name, mke2fs, MiB, options of t/storm.c
KINDS = [
    ("journal", "-t ext4 -b 1024 -O inline_data -I 256", 16, []),
    ("journal-full", "-t ext4 -b 1024 -O inline_data -I 256", 16, ["--full"]),
    ("data-journal", "-t ext4 -b 4096 -O inline_data -I 512", 24, ["--data", "journal"]),
    ("data-journal-full-nodelalloc", "-t ext4 -b 1024 -O inline_data -I 256", 16,
     ["--data", "journal", "--full", "--nodelalloc"]),
    ("no-journal-full", "-t ext4 -b 4096 -O inline_data,^has_journal -I 256", 16, ["--full"]),
    ("no-journal-nodelalloc", "-t ext4 -b 1024 -O inline_data,^has_journal -I 1024", 16, ["--nodelalloc"]),
    ("writeback-quota-full", "-t ext4 -b 1024 -O inline_data,quota,project -I 512", 16, ["--data", "writeback", "--full"]),
    ("bigalloc", "-t ext4 -b 1024 -O inline_data,bigalloc -C 16384 -I 256", 64, []),
    ("bigalloc-full", "-t ext4 -b 1024 -O inline_data,bigalloc -C 16384 -I 256", 64, ["--full"]),
    ("plain", "-t ext4 -b 4096", 24, []),
]


def job(kind):
    name, arguments, size, more = kind

    def function(ctx):
        def test():
            seconds = ctx.options.seconds
            how_made = changes.make(ctx.path("image"), arguments, size, inodes=64)
            changes.call(ctx, how_made, ctx.options.storm, "--seed", str(ctx.options.seed), "--seconds", str(seconds), *more,
                         ctx.path("image"), timeout=3 * seconds + 120)
        ctx.test("storm", test)

    return Job(name, function, ["storm"])


def options(parser):
    parser.add_argument("--storm", required=True, help="the program made of t/storm.c")
    parser.add_argument("--seconds", type=int, default=6, help="of each kind of image")


if __name__ == "__main__":
    opts = harness.parse_options(__doc__.splitlines()[0], options)
    opts.timeout = max(opts.timeout, 3 * opts.seconds + 240)
    harness.main(opts, [job(kind) for kind in KINDS])
