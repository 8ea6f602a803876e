#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random changes: every result, attribute and byte is held against a model (t/world.c).

For each kind of image, seeds one after the other on fresh images:

    library   the library changes it; e2fsck and our checker look at every pause
    scopes    the same with several changes that are committed or cancelled together
    kernel    the kernel's mount does the same, as a judge of the model and of our checker
    fuse      our own mount does it, made anew at every pause, and with what only system calls can;
              in a third of the seeds the disk is nearly full
    large     --full: many more operations, and where directories may be large one of a million names

A seed that fails prints the command that repeats it; with --shrink the operations that are not
needed for it are left out first.
"""

import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import changes, harness, images  # noqa: E402
from lib.harness import Failed, Job, Skip, run  # noqa: E402

SHRINK_RUNS_MAX = 400
BIG_DIRECTORY = 1000000


class World:
    """One kind of image."""

    def __init__(self, ctx, kind):
        self.ctx = ctx
        self.name, self.arguments, self.size, self.kernel_mounts = kind

    def fresh(self):
        return changes.make(self.ctx.path("image"), self.arguments, self.size)

    def command(self, seed, ops, *more):
        return [self.ctx.options.world, "--seed", str(seed), "--ops", str(ops),
                "--scratch", self.ctx.path("copy"), *more, self.ctx.path("image")]

    def one(self, seed, ops, *more, mount=None, why_not=harness.why_no_kernel_mounts):
        how_made = self.fresh()
        argv = self.command(seed, ops, *more)
        try:
            changes.call(self.ctx, how_made, *argv, mount=mount, why_not=why_not,
                         timeout=self.ctx.options.timeout)
        except Failed as failed:
            if self.ctx.options.shrink and not mount:
                failed.details = self.shrunk(argv, failed.details)
            raise
        finally:
            for name in ("image", "copy"):
                if os.path.exists(self.ctx.path(name)) and not self.ctx.options.keep:
                    os.unlink(self.ctx.path(name))

    def library(self, seeds, ops):
        def test():
            for seed in seeds:
                self.one(seed, ops, "--without", "txn")
        return test

    def scopes(self, seeds, ops):
        def test():
            if "^has_journal" in self.arguments or "ext2" in self.arguments:
                raise Skip("without a journal there are none")
            for seed in seeds:
                self.one(seed, ops, "--threads", "1", "--more", "txn")
        return test

    def kernel(self, seeds, ops):
        def test():
            if not self.kernel_mounts:
                raise Skip("the kernel here does not mount it for writing, or not well")
            for seed in seeds:
                # Who writes inline data by several threads may stop the kernel.
                more = ["--threads", "1"] if "inline" in self.name else []
                mount = self.ctx.path("mount")
                self.one(seed, ops, "--kernel", mount, *more, mount=mount)
        return test

    def fuse(self, seeds, ops):
        def test():
            for seed in seeds:
                mount = self.ctx.path("mount")
                self.one(seed, ops, "--without", "txn", "--fuse", self.ctx.options.uext4, "--mount", mount,
                         mount=mount, why_not=harness.why_no_fuse_for_root)
        return test

    # ---- leaving out what is not needed ----------------------------------------------------------

    def fails(self, argv, kept):
        """The last lines of a run with only these operations, or None if it does not fail."""
        self.fresh()
        ranges = ",".join(f"{thread}:{first}-{last}" for thread, first, last in kept)
        result = run(*argv[:-1], "--keep", ranges or "1:0", argv[-1], check=False)
        if result.returncode in (0, 2, changes.UNFINISHED):
            return None
        return result.stderr.decode(errors="replace").splitlines()

    def shrunk(self, argv, details):
        match = next((re.search(r"thread (\d), operation (\d+)", line) for line in details
                      if "operation" in line), None)
        if not match:
            return details
        last = int(match.group(2))
        kept = [(thread, first, min(first + 15, last)) for thread in range(1, 5)
                for first in range(0, last + 1, 16)]
        runs, step = 0, max(len(kept) // 2, 1)
        best = details
        while step >= 1 and runs < SHRINK_RUNS_MAX:
            at = 0
            while at < len(kept) and runs < SHRINK_RUNS_MAX:
                fewer = kept[:at] + kept[at + step:]
                runs += 1
                said = self.fails(argv, fewer)
                if said:
                    kept, best = fewer, said
                else:
                    at += step
            if step == 1 and any(first != end for _, first, end in kept):
                kept = [(thread, n, n) for thread, first, end in kept for n in range(first, end + 1)]
                step = len(kept)
            step //= 2
        return best


def job(kind):
    full_size = {"large-dir": 1024}

    def function(ctx):
        options = ctx.options
        world = World(ctx, kind)
        first = options.seed
        count = options.seeds or (60 if options.full else 8)
        ops = options.ops or (2000 if options.full else 250)
        ctx.test("library", world.library(range(first, first + count), ops))
        ctx.test("scopes", world.scopes(range(first, first + max(count // 4, 1)), ops))
        ctx.test("kernel", world.kernel(range(first, first + max(count // 4, 1)), ops))
        ctx.test("fuse", world.fuse(range(first, first + max(count // 2, 1)), ops))
        if options.full:
            world.size = full_size.get(world.name, world.size)

            def large():
                more = ["--big-dir", str(BIG_DIRECTORY)] if "large_dir" in world.arguments else []
                world.one(first, 200000, "--legs", "50", "--without", "txn", *more)
            ctx.test("large", large)

    return Job(kind[0], function, ["library", "scopes", "kernel", "fuse", "large"])


def extra_options(parser):
    parser.add_argument("--world", required=True, help="the program uext4-world")
    parser.add_argument("--ops", type=int, default=0, help="operations of a seed and thread")
    parser.add_argument("--seeds", type=int, default=0, help="how many, of each kind")
    parser.add_argument("--shrink", action="store_true", help="leave out what a failure does not need")


if __name__ == "__main__":
    opts = harness.parse_options(__doc__.splitlines()[0], extra_options)
    opts.timeout = max(opts.timeout, 7200 if opts.full else 600)
    harness.main(opts, [job(kind) for kind in changes.KINDS])
