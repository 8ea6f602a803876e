#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Power cuts (t/crash.c): recovered, an image is right and holds what was promised.

    cuts     workloads on small images of each kind, their cuts judged in one process, samples also
             by e2fsck -fn, recovered by e2fsck -fy, or recovered by the kernel
    canary   with flushes that do nothing the same judges must find something

--full judges all cuts of long workloads, each by e2fsck, 20,000 and more of them.
"""

import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import changes, harness, images  # noqa: E402
from lib.harness import Failed, Job, run  # noqa: E402

# name, mke2fs, MiB, arguments of uext4-crash.  Small journals: the log goes round.
KINDS = [
    ("1k", "-t ext4 -b 1024 -J size=1", 16, []),
    ("4k", "-t ext4 -b 4096 -J size=4", 24, []),
    ("d13-1k", f"-t ext4 -b 1024 -J size=1 -O {images.EXT4_D13}", 16, []),
    ("inline-1k", "-t ext4 -b 1024 -J size=1 -O inline_data", 16, []),
    ("inline-4k-orphan-file", "-t ext4 -b 4096 -J size=4 -O inline_data,orphan_file", 24, []),
    ("data-journal-1k", "-t ext4 -b 1024 -J size=1", 16, ["--data-mode", "journal"]),
    ("ext3-1k", "-t ext3 -b 1024 -J size=1 -I 128", 16, []),
    ("csum-off-1k", "-t ext4 -b 1024 -J size=1 -O ^metadata_csum", 16, []),
    ("bigalloc", "-t ext4 -b 1024 -C 4096 -J size=1 -O bigalloc", 24, []),
    ("quota-1k", "-t ext4 -b 1024 -J size=1 -O quota,project -I 256", 16, []),
    ("ea-inode-1k", "-t ext4 -b 1024 -J size=1 -O ea_inode", 16, []),
]
CANARY_KINDS = ("1k", "inline-1k")
NO_KERNEL = ("quota-1k", "data-journal-1k")  # recovered by the kernel only where it mounts them


def judge(ctx, kind, seed, numbers, kernel):
    name, arguments, size, more = kind
    image = ctx.path("image")
    how_made = changes.make(image, arguments, size, inodes=1024)
    mount = ctx.path("mount") if kernel else None
    argv = [ctx.options.crash, "--seed", str(seed), "--scratch", ctx.dir, *numbers, *more]
    if ctx.options.evidence:
        kept = os.path.join(ctx.options.evidence, f"{name}-{seed}")
        os.makedirs(kept, exist_ok=True)
        argv += ["--keep", kept]
    if mount:
        argv += ["--kernel", mount]
    changes.call(ctx, how_made, *argv, image, mount=mount, timeout=ctx.options.timeout)


def canary(ctx, kind):
    def test():
        _, arguments, size, more = kind
        changes.make(ctx.path("image"), arguments, size, inodes=1024)
        result = run(ctx.options.crash, "--ops", "150", "--lose-flushes", "--scratch", ctx.dir,
                     *more, ctx.path("image"), check=False)
        if result.returncode != 1:
            raise Failed(f"lost flushes were not found: exit status {result.returncode}",
                         (result.stdout + result.stderr).decode(errors="replace").splitlines())
    return test


def job(kind):
    def function(ctx):
        options = ctx.options
        kernel = kind[0] not in NO_KERNEL and not harness.why_no_kernel_mounts()

        def cuts():
            if options.full:
                numbers = ["--ops", "400", "--e2fsck", "1", "--others", "40", "--again", "40"]
                seeds = range(options.seed, options.seed + 4)
            else:
                numbers = ["--ops", "150", "--cuts", "20", "--others", "9", "--again", "8",
                           "--e2fsck", "6"]
                seeds = range(options.seed, options.seed + 3)
            for seed in seeds:
                judge(ctx, kind, seed, numbers, kernel)

        ctx.test("cuts", cuts)
        if kind[0] in CANARY_KINDS:
            ctx.test("canary", canary(ctx, kind))

    return Job(kind[0], function, ["cuts", "canary"] if kind[0] in CANARY_KINDS else ["cuts"])


def extra_options(parser):
    parser.add_argument("--crash", required=True, help="the program uext4-crash")
    parser.add_argument("--evidence", metavar="DIR", help="where log and image of a failure are kept")


if __name__ == "__main__":
    opts = harness.parse_options(__doc__.splitlines()[0], extra_options)
    opts.timeout = max(opts.timeout, 7200 if opts.full else 600)
    harness.main(opts, [job(kind) for kind in KINDS])
