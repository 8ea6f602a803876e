#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`uext4 check` against e2fsck: clean images are clean, damage is found and its place named.

    recipes   every kind of image of t/lib/images.py, filled by the kernel
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import harness, images  # noqa: E402
from lib.harness import Failed, Skip, run  # noqa: E402


def check(options, image, *arguments):
    """(problems, summary) of `uext4 check`; fails if it does not come to a verdict."""
    result = run(options.uext4, "check", "--json", *arguments, image, check=False)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    if result.returncode not in (0, 4) or not lines or "clean" not in lines[-1]:
        raise Failed(f"uext4 check exited {result.returncode}",
                     (result.stdout + result.stderr).decode(errors="replace").splitlines())
    problems = [line["problem"] for line in lines[:-1]]
    summary = lines[-1]
    if (result.returncode == 0) != summary["clean"] or summary["clean"] != (not problems):
        raise Failed(f"uext4 check exited {result.returncode}: {summary}", problems)
    return problems, summary


# ---- clean images --------------------------------------------------------------------------------


def clean(ctx, image):
    before = images.digest(image.path)
    journal = ["--journal", image.journal] if image.journal else []
    problems, _ = check(ctx.options, image.path, *journal)
    if problems:
        raise Failed(f"{len(problems)} problems in a clean image", problems)
    if images.digest(image.path) != before:
        raise Failed("the image file is not what it was")


def recipe_job(recipe):
    def function(ctx):
        why = harness.why_no_kernel_mounts()
        if why:
            raise Skip(why)
        image = images.make(recipe, ctx.dir, ctx.options.seed)
        ctx.test("clean", lambda: clean(ctx, image))

    return harness.Job(recipe.name, function, ["clean"])


def big_block_job(recipe):
    """Kinds that no kernel here mounts: filled by mke2fs -d with what the kernel made elsewhere."""
    def function(ctx):
        why = harness.why_no_kernel_mounts()
        if why:
            raise Skip(why)
        source = images.make(images.big_block_source(), ctx.dir, ctx.options.seed)
        image = images.Image(recipe, ctx.path(recipe.name + ".img"))
        with harness.mounted(source.path, ctx.path("source"), "ro") as directory:
            images.mke2fs(image.path, recipe.mke2fs + ["-d", directory], recipe.size)
        images.e2fsck(image.path)
        ctx.test("clean", lambda: clean(ctx, image))

    return harness.Job(recipe.name, function, ["clean"])


def main():
    options = harness.parse_options(__doc__.splitlines()[0])
    jobs = [recipe_job(recipe) for recipe in images.recipes()]
    jobs += [big_block_job(recipe) for recipe in images.big_block_recipes()]
    harness.main(options, jobs)


if __name__ == "__main__":
    main()
