#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""An image that one program maps and shows at a directory, where another one works (t/fusemap.c); e2fsck is the judge of what
is left.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import changes, harness  # noqa: E402
from lib.harness import Failed, Job, Skip  # noqa: E402

SKIPPED = 77

# name, mke2fs, options of t/fusemap.c
KINDS = [
    ("ext4-4k", "-t ext4 -b 4096", []),
    ("ext4-1k", "-t ext4 -b 1024", []),
    ("no-journal", "-t ext4 -b 4096 -O ^has_journal", []),
    ("one-thread", "-t ext4 -b 4096", ["--options", "max_threads=1"]),
]


def coherent(ctx, arguments, more):
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Skip("no access to /dev/fuse")
    image, directory = ctx.path("image"), ctx.path("directory")
    changes.make(image, arguments, 64)
    os.makedirs(directory, exist_ok=True)
    command = [ctx.options.fusemap, "--seed", str(ctx.options.seed), "--rounds", str(ctx.options.rounds), *more, image, directory]
    try:
        done = harness.run(*command, check=False, timeout=30 + 10 * ctx.options.rounds)
    finally:
        changes.unmount(directory)
    said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
    if done.returncode == SKIPPED:
        raise Skip(said)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: status {done.returncode}: {said}")
    harness.run("e2fsck", "-fn", image)


def job(kind):
    name, arguments, more = kind

    def function(ctx):
        ctx.test("coherent", lambda: coherent(ctx, arguments, more))

    return Job("fusemap-" + name, function, ["coherent"])


def options(parser):
    parser.add_argument("--fusemap", required=True, help="the program made of t/fusemap.c")
    parser.add_argument("--rounds", type=int, default=8)


if __name__ == "__main__":
    opts = harness.parse_options(__doc__.splitlines()[0], options)
    opts.timeout = max(opts.timeout, 60 + 10 * opts.rounds)
    harness.main(opts, [job(kind) for kind in KINDS])
