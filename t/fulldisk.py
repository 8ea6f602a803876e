#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Full disks and broken ones.

    full      8 threads fill an image to the last block and inode while others delete (t/fulldisk.c)
    read, write, flush, memory   the Nth one fails, for every N of a small workload (t/fault.c)
    write-for-good, flush-for-good   and all behind it
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import changes, harness, images  # noqa: E402
from lib.harness import Job  # noqa: E402

# name, mke2fs, MiB, number of inodes
FULL_KINDS = [
    ("4k", f"-t ext4 -b 4096 -O {images.EXT4_D13}", 64, 2048),
    ("1k", "-t ext4 -b 1024", 32, 1024),
    ("inline", "-t ext4 -b 1024 -O inline_data", 32, 1024),
    ("bigalloc", "-t ext4 -b 4096 -C 16384 -O bigalloc", 160, 2048),
    ("ext3", "-t ext3 -b 1024", 32, 1024),
    ("no-journal", "-t ext4 -b 4096 -O ^has_journal", 64, 2048),
    ("quota", "-t ext4 -b 1024 -O quota,project -I 256", 32, 1024),
]
FAULT_KINDS = [
    ("1k", "-t ext4 -b 1024 -J size=1", 12),
    ("inline", f"-t ext4 -b 1024 -J size=1 -O inline_data,{images.EXT4_D13}", 12),
    ("ext3", "-t ext3 -b 1024 -J size=1", 12),
    ("ea-inode-quota", "-t ext4 -b 1024 -J size=1 -O ea_inode,quota,project -I 256", 12),
]
FAULTS = ["read", "write", "flush", "memory", "write-for-good", "flush-for-good"]


def full_job(kind):
    name, arguments, size, inodes = kind

    def function(ctx):
        def test():
            options = ctx.options
            for seed in range(options.seed, options.seed + (10 if options.full else 1)):
                how_made = changes.make(ctx.path("image"), arguments, size, inodes=inodes)
                changes.call(ctx, how_made, options.fulldisk, "--seed", str(seed),
                             "--rounds", "20000" if options.full else "1500", ctx.path("image"))
        ctx.test("full", test)

    return Job("full-" + name, function, ["full"])


def fault_job(kind):
    name, arguments, size = kind

    def function(ctx):
        options = ctx.options
        how_made = changes.make(ctx.path("image"), arguments, size, inodes=512)
        ops = "150" if options.full else "50"
        step = {"memory": "1" if options.full else "7"}

        def fault(what):
            more = ["--for-good"] if what.endswith("-for-good") else []
            changes.call(ctx, how_made, options.fault, "--seed", str(options.seed), "--ops", ops,
                         "--step", step.get(what, "1" if options.full else "3"),
                         "--scratch", ctx.dir, *more, what.split("-")[0], ctx.path("image"),
                         timeout=options.timeout)

        for what in FAULTS:
            ctx.test(what, lambda what=what: fault(what))

    return Job("fault-" + name, function, FAULTS)


def extra_options(parser):
    parser.add_argument("--fulldisk", required=True, help="the program uext4-fulldisk")
    parser.add_argument("--fault", required=True, help="the program uext4-fault")


if __name__ == "__main__":
    opts = harness.parse_options(__doc__.splitlines()[0], extra_options)
    opts.timeout = max(opts.timeout, 7200 if opts.full else 600)
    harness.main(opts, [full_job(k) for k in FULL_KINDS] + [fault_job(k) for k in FAULT_KINDS])
