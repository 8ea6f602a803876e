#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every kind of ext2, ext3 and ext4 image, read by everybody.

For each recipe of t/lib/images.py mke2fs makes an image and the kernel fills it with one of
everything (t/lib/tree.py).  Then, of every attribute and every byte:

    made       e2fsck finds nothing wrong; the kernel reads the same twice
    library    uext4.h shows what the kernel's read-only mount shows
    fuse       `uext4 mount -o ro` shows it
    export     the archive of `uext4 export` says it, as far as an archive can
    special    flags, generations of symlinks, devices, pipes, shown by no system call: debugfs
    unchanged  the image's bytes, size and mtime are the same as before

Kinds that no kernel here mounts (blocks larger than a page), and those that only mke2fs makes (a
file of zeros that is inline and larger than an inode), are made by `mke2fs -d` from a tree that the
kernel made; that tree judges names, types and contents, debugfs judges inodes and maps, e2fsck the
image: their results end in -by-debugfs.  Kinds that are to be refused are, by name.

--full also reads the holes of every file in full.
"""

import contextlib
import os
import random
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import debugfs, harness, images, manifest, tar  # noqa: E402
from lib.harness import Failed, Skip, run  # noqa: E402

RESULTS = ["made", "library", "fuse", "export", "special", "unchanged"]
BIG_RESULTS = ["made", "library-by-debugfs", "fuse", "export", "unchanged"]

# A FUSE server is not asked for these: statx's btime and FIEMAP have no message in the protocol,
# and the kernel makes the fsid itself.
FUSE_LACKS = ("crtime", "fiemap", "fsid")


def library_manifest(options, image, full, *arguments):
    """What the library shows, by the manifest program."""
    if not os.path.exists(options.manifest):
        raise Skip(f"no {options.manifest}")
    extra = ["--full"] if full else []
    result = run(options.manifest, *extra, *arguments, image, check=False)
    if result.returncode != 0:
        said = result.stderr.decode(errors="replace").splitlines()
        raise Failed(f"uext4-manifest exited {result.returncode}", said[-harness.REPORT_LINES_MAX:])
    return manifest.load(result.stdout.splitlines())


def need_program(options):
    if not os.path.exists(options.uext4):
        raise Skip(f"no {options.uext4}")


def fuse_manifest(ctx, image, full):
    need_program(ctx.options)
    why = harness.why_no_fuse()
    if why:
        raise Skip(why)
    with harness.fuse_mounted(ctx.options.uext4, image, ctx.path("fuse")) as directory:
        return manifest.scan(directory, full)


def export_manifest(ctx, image):
    """The archive's manifest.  That sockets are left out must be said, on stderr."""
    need_program(ctx.options)
    archive = ctx.path("export.tar")
    with open(archive, "wb") as out:
        result = subprocess.run([ctx.options.uext4, "export", image], stdout=out,
                                stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    said = result.stderr.decode(errors="replace").splitlines()
    if result.returncode != 0:
        raise Failed(f"uext4 export exited {result.returncode}", said)
    if not any("sock" in line for line in said):
        raise Failed("uext4 export left out sockets and did not say so", said)
    records = tar.from_tar(archive)
    os.unlink(archive)
    return tar.canonical(records)


def types_unknown_in_image(path, field, _reference, _got):
    """Without the filetype feature an image stores no types; a FUSE server knows them anyway."""
    return field == "types"


def compare_special(image, reference, library):
    """Inodes that no ioctl reaches, after debugfs."""
    odd = {p: r for p, r in reference.items()
           if r.get("type") not in (None, "reg", "dir")}
    judge = debugfs.stat(image.path, {r["ino"] for r in odd.values()}, image.caps.block_size)
    fields = ("flags", "generation", "projid", "uid", "gid", "size", "blocks")
    wanted = {p: {f: judge[r["ino"]][f] for f in fields} for p, r in odd.items()}
    got = {p: library[p] for p in wanted if p in library}
    return manifest.compare(wanted, got, names=("debugfs", "library"))


@contextlib.contextmanager
def kernel_mounted(image, directory, *options):
    """The kernel's read-only mount of a clean image."""
    with contextlib.ExitStack() as stack:
        options = ["ro", "noatime", *filter(None, options)]
        if image.journal:
            device = stack.enter_context(harness.loop_device(image.journal))
            options.append(f"journal_path={device}")
        yield stack.enter_context(harness.mounted(image.path, directory, ",".join(options)))


class Matrix:
    """One recipe: what is read once and compared several times."""

    def __init__(self, ctx, recipe):
        self.ctx = ctx
        self.recipe = recipe
        self.full = recipe.full or ctx.options.full
        self.image = None
        self.before = None
        self.kernel = None
        self.library_shows = None

    def run(self):
        ctx = self.ctx
        self.image = images.make(self.recipe, ctx.dir, ctx.options.seed)
        self.before = images.digest(self.image.path)
        with kernel_mounted(self.image, ctx.path("kernel"), self.recipe.read) as directory:
            self.kernel = manifest.scan(directory, self.full)
        with kernel_mounted(self.image, ctx.path("kernel"), self.recipe.read) as directory:
            ctx.test("made", lambda: self.made(directory))
        ctx.test("library", self.library)
        ctx.test("fuse", self.fuse)
        ctx.test("export", self.export)
        ctx.test("special", self.special)
        ctx.test("unchanged", self.unchanged)

    def made(self, directory):
        """The oracle agrees with itself: nothing it reads depends on when it is read."""
        if len(self.kernel) < 1500:
            raise Failed(f"the tree has {len(self.kernel)} names only")
        if self.full or "big" in self.recipe.extras:
            return None  # slow, and the smaller recipes show it
        return manifest.compare(self.kernel, manifest.scan(directory), names=("first", "second"))

    def library(self):
        self.library_shows = library_manifest(self.ctx.options, self.image.path, self.full)
        return manifest.compare(self.kernel, self.library_shows, names=("kernel", "library"))

    def fuse(self):
        shown = fuse_manifest(self.ctx, self.image.path, self.full)
        ignore = None if self.image.caps.has("filetype") else types_unknown_in_image
        return manifest.compare(self.kernel, shown, lacks=FUSE_LACKS, ignore=ignore,
                                names=("kernel", "fuse"))

    def export(self):
        shown = export_manifest(self.ctx, self.image.path)
        return manifest.compare(tar.expected(self.kernel), shown, names=("kernel", "archive"))

    def special(self):
        if self.library_shows is None:
            self.library_shows = library_manifest(self.ctx.options, self.image.path, False)
        return compare_special(self.image, self.kernel, self.library_shows)

    def unchanged(self):
        if images.digest(self.image.path) != self.before:
            raise Failed("the image file is not what it was")
        images.check_made(self.image)


class BigBlocks(Matrix):
    """An image that no kernel here mounts, after debugfs and the tree it was made from."""

    # mke2fs -d keeps no flags, the low 32 bits of whole seconds, and makes each name of a symlink
    # a symlink of its own; of the root it sets the time.
    SOURCE_FIELDS = ("type", "mode", "uid", "gid", "rdev", "target", "digest", "xattrs")

    def run(self):
        ctx = self.ctx
        source = images.make(images.big_block_source(), ctx.dir, ctx.options.seed)
        path = ctx.path(self.recipe.name + ".img")
        with kernel_mounted(source, ctx.path("kernel")) as directory:
            self.kernel = manifest.scan(directory, self.full)
            images.mke2fs(path, self.recipe.mke2fs + ["-d", directory], self.recipe.size)
        os.unlink(source.path)
        self.image = images.Image(self.recipe, path)
        self.image.caps = images.read_caps(path)
        self.before = images.digest(path)
        ctx.test("made", lambda: images.e2fsck(path))
        ctx.test("library-by-debugfs", self.library)
        ctx.test("fuse", self.fuse)
        ctx.test("export", self.export)
        ctx.test("unchanged", self.unchanged)

    def reference(self):
        """The source's records, less what mke2fs -d does not keep.

        With inline_data mke2fs 1.47.0 cuts off a hole at the end of a file: there debugfs alone
        judges the size, and the source the contents, whose digest leaves zeros out.
        """
        cuts = "inline_data" in self.image.caps.features
        records = {}
        for path, record in self.kernel.items():
            if path == manifest.STATFS:
                continue
            kept = {f: record[f] for f in self.SOURCE_FIELDS if f in record}
            if record.get("type") == "lnk" or (record.get("type") == "reg" and not cuts):
                kept["size"] = record["size"]
            if "type" in record and record["type"] != "lnk":
                kept["nlink"] = record["nlink"]
            if "type" in record and path:
                low = int(record["mtime"].split(".")[0]) & 0xFFFFFFFF
                kept["mtime"] = str(low - ((low & 0x80000000) << 1))
            records[path] = kept
        return records

    def library(self):
        shown = library_manifest(self.ctx.options, self.image.path, self.full)
        self.library_shows = shown
        statfs = shown.pop(manifest.STATFS)
        cut = {p: {**r, "mtime": r["mtime"].split(".")[0]} if "type" in r else r
               for p, r in shown.items()}
        lines = manifest.compare(self.reference(), cut, names=("source", "library"))
        lines += self.inodes(shown)
        free = debugfs.super_numbers(self.image.path)
        lines += manifest.compare({manifest.STATFS: free}, {manifest.STATFS: statfs},
                                  names=("dumpe2fs", "library"))
        shown[manifest.STATFS] = statfs
        return lines

    def inodes(self, shown):
        judge = debugfs.stat(self.image.path, {r["ino"] for r in shown.values()},
                             self.image.caps.block_size)
        wanted = {}
        for path, record in shown.items():
            if "type" not in record:
                continue
            by = dict(judge[record["ino"]])
            inline = by.pop("raw_flags") & 0x10000000
            if by.pop("permissions") != record["mode"] & 0o7777:
                by["mode"] = "other permissions"
            if inline or record["type"] not in ("reg", "dir"):
                by.pop("fiemap")
            if inline:
                by.pop("blocks")
            elif record["type"] == "reg":
                by["seek"] = debugfs.seek_map(by["fiemap"], by["size"])
            wanted[path] = by
        described = {path: shown[path] for path in wanted}
        return manifest.compare(wanted, described, names=("debugfs", "library"))

    def fuse(self):
        """The library was judged; FUSE must agree with it, in what it can show."""
        if self.library_shows is None:
            self.library()
        reference = {
            path: record if record.get("type") in ("reg", "dir", None) else
            {k: v for k, v in record.items() if k not in ("flags", "generation", "projid")}
            for path, record in self.library_shows.items()}
        shown = fuse_manifest(self.ctx, self.image.path, self.full)
        return manifest.compare(reference, shown, lacks=FUSE_LACKS,
                                names=("library", "fuse"))

    def export(self):
        if self.library_shows is None:
            self.library()
        shown = export_manifest(self.ctx, self.image.path)
        return manifest.compare(tar.expected(self.library_shows), shown,
                                names=("library", "archive"))

    def unchanged(self):
        if images.digest(self.image.path) != self.before:
            raise Failed("the image file is not what it was")


def refused(feature):
    """An image with an incompatible feature that is not read yet is refused by name, status 3."""

    def check(ctx):
        def test():
            need_program(ctx.options)
            image = ctx.path("refused.img")
            images.mke2fs(image, ["-t", "ext4", "-O", feature], 16)
            before = images.digest(image)
            result = run(ctx.options.uext4, "ls", image, check=False)
            said = (result.stderr + result.stdout).decode(errors="replace")
            if result.returncode != 3 or not re.search(rf"\b{feature}\b", said):
                raise Failed(f"exited {result.returncode}, expected 3 and the name {feature}",
                             said.splitlines())
            if images.digest(image) != before:
                raise Failed("the image file is not what it was")

        ctx.test("refused", test)

    return check


def verity_contents(ctx):
    """A verity file, its hash tree behind its end: debugfs judges, as a kernel without fs-verity
    does not open such a file."""

    def test():
        need_program(ctx.options)
        os.makedirs(ctx.path("source"))
        contents = random.Random(ctx.options.seed).randbytes(12288)
        with open(ctx.path("source", "file"), "wb") as f:
            f.write(contents + bytes(53248) + b"tree" * 1024)
        image = ctx.path("verity.img")
        images.mke2fs(image, ["-t", "ext4", "-O", "verity", "-d", ctx.path("source")], 16)
        images.debugfs(image, ["set_inode_field /file flags 0x180000",
                               "set_inode_field /file size 12288"], write=True)
        images.e2fsck(image)
        before = images.digest(image)
        images.debugfs(image, [f"dump /file {ctx.path('dumped')}"])
        with open(ctx.path("dumped"), "rb") as f:
            dumped = f.read()
        shown = run(ctx.options.uext4, "cat", f"{image}:/file").stdout
        if not contents == dumped == shown:
            raise Failed(f"{len(shown)} bytes shown, {len(dumped)} by debugfs, 12288 written")
        if images.digest(image) != before:
            raise Failed("the image file is not what it was")

    ctx.test("cat-by-debugfs", test)


def main():
    options = harness.parse_options(__doc__.splitlines()[0])
    why = harness.why_no_kernel_mounts()

    def job(recipe, kind, results):
        def function(ctx):
            if why:
                raise Skip(why)
            kind(ctx, recipe).run()
        return harness.Job(recipe.name, function, results)

    jobs = [job(recipe, Matrix, RESULTS) for recipe in images.recipes()]
    jobs += [job(recipe, BigBlocks, BIG_RESULTS) for recipe in images.big_block_recipes()]
    jobs += [harness.Job(f"refused-{f}", refused(f), ["refused"]) for f in ("encrypt", "casefold")]
    jobs.append(harness.Job("verity", verity_contents, ["cat-by-debugfs"]))
    harness.main(options, jobs)


if __name__ == "__main__":
    main()
