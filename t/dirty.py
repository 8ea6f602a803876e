#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Images that the kernel left with a journal to replay, at true points in time.

Under load (t/lib/load.py) an image is caught in two ways: the file system is shut down by
EXT4_IOC_SHUTDOWN, with the log flushed or not, or the default way; or the image file, on a
loop-mounted XFS, is reflinked while the kernel writes to it, which is atomic.  Every point must
have something in its journal; but for the default shutdown, which freezes first and so leaves an
empty journal, and orphans.  Every point is copied:

    copy A   the kernel replays it (and finishes its orphans); e2fsck finds nothing wrong
             afterwards; a second, read-only mount is the reference
    copy B   is read by the library, which replays in memory: it shows the same, and B stays as
             it is
    copy C   is replayed by the library, which finishes its orphans, too; e2fsck finds nothing
             wrong, and the kernel then shows the same as of A

Rules of the comparison:
    D1  Every name, attribute and byte is that of the reference.
    D2  Where the kernel finished an orphan (a truncation; blocks freed of files without a name),
        the fields blocks, fiemap, mtime, ctime and statfs may instead be those that the kernel
        shows after its replay without orphan processing (which it leaves out when the superblock
        says that there were errors).
    D3  The kernel's replay of fast commits miscounts at times: i_blocks, links, directories of a
        group.  Where e2fsck then corrects copy A, the fields blocks and nlink may instead be those
        of the corrected image; of other images e2fsck has nothing to correct.  It also sets mtime
        and ctime of what it replays to the present, and frees files that were unlinked: where
        there are fast commits, such times and the free counts of statfs are not compared.
    D4  `uext4 check` finds nothing wrong with B, orphans and all; where fast commits are to be
        replayed it says that it cannot check, with status 8.
    D5  With norecovery the same image may be inconsistent: the walk ends by itself, well or with an
        error, and changes nothing.

The kernel's replay of fast commits also fails at times (mount: "Structure needs cleaning"), or
records errors.  Such a point has no reference, so that another one is taken in its place.

--full takes more points.
"""

import contextlib
import fcntl
import os
import random
import re
import shutil
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import harness, images, load, manifest  # noqa: E402
from lib.harness import Failed, Skip, run  # noqa: E402
from matrix import library_manifest  # noqa: E402

EXT4_IOC_SHUTDOWN = 0x8004587D
SHUTDOWNS = {"default": 0, "logflush": 1, "nologflush": 2}
TRIES_MAX = 10  # to catch a usable point in one run
RUNS_MAX = 10
XFS_MIB = 1024
JOURNAL_MIB = 4  # the load goes round several times
JOURNAL_MIB_ROOMY = 32  # it never waits for log space, where kernels with inline_data hang

ORPHAN_FIELDS = ("blocks", "fiemap", "mtime", "ctime")
COUNTED_FIELDS = ("blocks", "nlink")
STATFS_FIELDS = ("blocks_free", "blocks_available", "inodes_free")

# name, mke2fs, mount options, share of calls that are followed by an fsync
KINDS = [
    ("ext4-d12-4k", "-t ext4 -b 4096", "", 0.15),
    ("ext4-d12-1k", "-t ext4 -b 1024", "", 0.15),
    ("orphan-file-4k", f"-t ext4 -b 4096 -O {images.EXT4_D13}", "", 0.15),
    ("orphan-file-1k-inline", f"-t ext4 -b 1024 -O inline_data,{images.EXT4_D13}", "", 0.15),
    ("inline-256", "-t ext4 -b 4096 -O inline_data", "", 0.15),
    ("inline-512-data-journal", "-t ext4 -b 4096 -I 512 -O inline_data", "data=journal", 0.15),
    ("data-journal-4k", "-t ext4 -b 4096", "data=journal", 0.15),
    ("data-journal-1k", "-t ext4 -b 1024", "data=journal", 0.15),
    ("fast-commit-4k", "-t ext4 -b 4096 -O fast_commit", "", 0.5),
    ("fast-commit-1k", "-t ext4 -b 1024 -O fast_commit", "", 0.5),
    ("fast-commit-orphan-file", f"-t ext4 -b 4096 -O fast_commit,{images.EXT4_D13}", "", 0.5),
    ("csum-off", "-t ext4 -b 4096 -O ^metadata_csum", "", 0.15),
    ("csum-off-journal-checksum", "-t ext4 -b 4096 -O ^metadata_csum", "journal_checksum", 0.15),
    ("async-commit", "-t ext4 -b 4096 -O ^metadata_csum,^64bit",
     "journal_checksum,journal_async_commit,data=writeback", 0.15),
    ("64bit-off-1k", "-t ext4 -b 1024 -O ^64bit", "", 0.15),
    ("bigalloc", "-t ext4 -b 4096 -O bigalloc -C 16384", "", 0.15),
    ("ext3-1k", "-t ext3 -b 1024 -I 128", "", 0.15),
    ("ext3-data-journal", "-t ext3 -b 4096", "data=journal", 0.15),
]


def journal_state(path):
    """(the image needs recovery, blocks of fast commits in its journal)."""
    text = run("dumpe2fs", "-h", path).stdout.decode()
    start = re.search(r"^Journal start:\s*(\d+)", text, re.M)
    dirty = "needs_recovery" in text and bool(start) and int(start.group(1)) != 0
    return dirty, fast_commit_blocks(path, text) if "fast_commit" in text else 0


def fast_commit_blocks(path, text):
    """Blocks in the fast-commit area that begin with the head of a fast commit that is to be
    replayed: one whose transaction follows those of the journal."""
    block_size = int(re.search(r"^Block size:\s*(\d+)", text, re.M).group(1))
    length = int(re.search(r"^Fast commit length:\s*(\d+)", text, re.M).group(1))
    sequence = int(re.search(r"^Journal sequence:\s*(0x[0-9a-f]+)", text, re.M).group(1), 16)
    blocks = []
    for match in re.finditer(r"\(\d+(?:-\d+)?\):(\d+)(?:-(\d+))?",
                             images.debugfs(path, ["stat <8>"], bitmaps=False)
                             .split("EXTENTS:")[-1]):
        first = int(match.group(1))
        blocks += range(first, int(match.group(2) or first) + 1)
    found = 0
    with open(path, "rb") as f:
        for block in blocks[-length:]:
            tag, _, _, tid = struct.unpack("<HHII", os.pread(f.fileno(), 12, block * block_size))
            found += tag == 9 and tid >= sequence
    return found


# ---- taking points -------------------------------------------------------------------------------


class Catcher:
    """Makes images of one kind and catches them."""

    def __init__(self, ctx, kind):
        self.ctx = ctx
        self.name, arguments, self.mount, self.fsync_share = kind
        self.arguments = arguments.split()
        self.random = random.Random(f"{ctx.options.seed}:{self.name}")

    def fresh(self, path):
        roomy = re.search("inline_data|fast_commit", self.arguments[-1])
        journal = JOURNAL_MIB_ROOMY if roomy else JOURNAL_MIB
        images.mke2fs(path, [*self.arguments, "-J", f"size={journal}"], 128, inodes=4096)
        return images.read_caps(path)

    @contextlib.contextmanager
    def loaded(self, path, directory):
        """A new image, mounted, under load."""
        caps = self.fresh(path)
        options = ",".join(filter(None, ["noinit_itable", self.mount]))
        with harness.mounted(path, directory, options):
            worker = load.Worker(directory, self.random.random(), caps, self.fsync_share)
            try:
                yield
            finally:
                worker.stop()

    def usable(self, point):
        """There is something to replay, and the kernel can."""
        if not journal_state(point)[0]:
            return False
        if "fast_commit" not in self.arguments[-1]:
            return True
        copy = self.ctx.path("usable.img")
        try:
            return self.replayable(point, copy)
        finally:
            os.unlink(copy)

    def replayable(self, point, copy):
        """The kernel replays it without recording an error."""
        run("cp", "--sparse=always", point, copy)
        try:
            with harness.mounted(copy, self.ctx.path("usable"), "noatime"):
                pass
        except Failed:
            return False
        text = run("dumpe2fs", "-h", copy).stdout.decode()
        return bool(re.search(r"^Filesystem state:\s*clean$", text, re.M))

    def shut_down(self, how, point):
        path = self.ctx.path("shutdown.img")
        directory = self.ctx.path("mnt")
        for _ in range(RUNS_MAX):
            with self.loaded(path, directory):
                load.pause(self.random, 0.05, 0.3)
                fd = os.open(directory, os.O_RDONLY)
                try:
                    fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("=I", SHUTDOWNS[how]))
                finally:
                    os.close(fd)
            if how == "default" or self.usable(path):
                os.rename(path, point)
                return
        raise Failed(f"no usable point in {RUNS_MAX} runs")

    def reflinks(self, points):
        """Catches one run at several moments."""
        xfs = self.ctx.path("xfs.img")
        with open(xfs, "wb") as f:
            f.truncate(XFS_MIB << 20)
        run("mkfs.xfs", "-q", "-m", "reflink=1", xfs)
        with harness.mounted(xfs, self.ctx.path("xfs"), fstype="xfs") as under:
            path = os.path.join(under, "live.img")
            for _ in range(RUNS_MAX):
                with self.loaded(path, self.ctx.path("mnt")):
                    while points and self.reflink(path, points[0]):
                        points = points[1:]
                if not points:
                    break
            else:
                raise Failed(f"no usable point in {RUNS_MAX} runs")
        os.unlink(xfs)

    def reflink(self, path, point):
        """True when a usable point was caught."""
        copy = path + ".point"
        for _ in range(TRIES_MAX):
            load.pause(self.random, 0.02, 0.2)
            run("cp", "--reflink=always", path, copy)
            usable = self.usable(copy)
            if usable:
                run("cp", "--sparse=always", copy, point)
            os.unlink(copy)
            if usable:
                return True
        return False


# ---- comparing -----------------------------------------------------------------------------------


def kernel_replayed(ctx, image):
    """What the kernel shows after its own replay of `image`, which it changes; and what it shows
    after e2fsck corrected the counts, or None where there is nothing to correct."""
    directory = ctx.path("kernel")
    with harness.mounted(image, directory, "noatime"):
        pass
    with harness.mounted(image, directory, "ro,noatime"):
        shown = manifest.scan(directory)
    if "fast_commit" not in images.read_caps(image).features:
        images.e2fsck(image)
        return shown, None
    if run("e2fsck", "-fy", image, check=False).returncode == 0:
        return shown, None
    images.e2fsck(image)
    with harness.mounted(image, directory, "ro,noatime"):
        return shown, manifest.scan(directory)


def mark_errors(image):
    """Sets the error flag in the superblock: the kernel then replays the journal as ever, and drops
    its list of orphans unprocessed."""
    with open(image, "r+b") as f:
        sb = bytearray(os.pread(f.fileno(), 1024, 1024))
        sb[0x3A] |= 2  # s_state: EXT4_ERROR_FS
        if sb[0x65] & 4:  # s_feature_ro_compat: metadata_csum
            sb[0x3FC:] = struct.pack("<I", images.crc32c(sb[:0x3FC]))
        os.pwrite(f.fileno(), sb, 1024)


def before_orphans(ctx, image):
    """What the kernel shows after its own replay of `image`, its orphans not processed."""
    mark_errors(image)
    with harness.mounted(image, ctx.path("orphans"), "noatime,noinit_itable,errors=continue"):
        return manifest.scan(ctx.path("orphans"))


def either(other, fields):
    """A rule for compare(): in these fields, and in statfs, ours may be as `other` has it."""
    def excused(path, field, _reference, ours):
        if path not in other or ours is None:
            return False
        allowed = STATFS_FIELDS if path == manifest.STATFS else fields
        return field in allowed and ours[field] == other[path].get(field)
    return excused


def fast_commit_rule(since):
    """D3: times that the kernel's replay made up, later than `since`, and free counts."""
    def excused(path, field, reference, _ours):
        if path == manifest.STATFS:
            return field in STATFS_FIELDS
        return field in ("mtime", "ctime") and float(reference[field]) >= since
    return excused


def check_written(ctx, image, reference, rules, since):
    """The library's replay into the image, as e2fsck and the kernel see it."""
    directory = ctx.path("written")
    result = run(ctx.options.uext4, "replay", image, check=False)
    if result.returncode:
        raise Failed(f"replay: exited {result.returncode}",
                     result.stderr.decode(errors="replace").splitlines())
    images.e2fsck(image)
    with harness.mounted(image, directory, "ro,noatime"):
        shown = manifest.scan(directory)

    flatter = {path: (int(was["blocks"]) - int(shown[path]["blocks"])) * 512
               for path, was in reference.items()
               if path != manifest.STATFS and "blocks" in shown.get(path, ())
               and float(was.get("ctime", 0)) >= since}
    block_bytes = int(reference[manifest.STATFS]["block_size"])

    def finished(path, field, was, ours):
        """Files whose truncation was finished: their times, and blocks of the tree of extents: the
        kernel leaves a tree as deep as it was, we make it flat where it fits.  These are free."""
        if path == manifest.STATFS:
            return (field in ("blocks_free", "blocks_available")
                    and int(ours[field]) - int(was[field]) == sum(flatter.values()) // block_bytes)
        if field == "blocks":
            return flatter.get(path, -1) > 0
        return field in ("mtime", "ctime") and float(was[field]) >= since

    return manifest.compare(reference, shown, names=("kernel", "written"),
                            ignore=lambda *which: any(rule(*which)
                                                      for rule in [*rules, finished]))


def check_norecovery(ctx, image):
    result = run(ctx.options.manifest, "--norecovery", image, check=False, timeout=60)
    if result.returncode not in (0, 1):
        raise Failed(f"norecovery: uext4-manifest exited {result.returncode}",
                     result.stderr.decode(errors="replace").splitlines())


def check_verifier(ctx, image):
    """The list of what `uext4 check` finds against D4."""
    result = run(ctx.options.uext4, "check", image, check=False)
    said = (result.stdout + result.stderr).decode(errors="replace").splitlines()
    if result.returncode == 8 and journal_state(image)[1]:
        return []
    return [] if result.returncode == 0 else said


def check_point(ctx, point):
    """One point in time, all rules."""
    if not os.path.exists(point):
        raise Failed("the point was not taken")
    copy = point + ".a"
    try:
        run("cp", "--sparse=always", point, copy)
        since = time.time() - 0.05  # the kernel's clock for this ticks slowly
        reference, corrected = kernel_replayed(ctx, copy)
        before = images.digest(point)
        shown = library_manifest(ctx.options, point, False)
        lines = manifest.compare(reference, shown, names=("kernel", "library"))
        rules = [either(corrected, COUNTED_FIELDS)] if corrected else []
        rules += [fast_commit_rule(since)] if journal_state(point)[1] else []
        run("cp", "--sparse=always", point, copy)
        written = check_written(ctx, copy, reference, rules, since)
        if lines:
            run("cp", "--sparse=always", point, copy)
            rules += [either(before_orphans(ctx, copy), ORPHAN_FIELDS)]
            lines = manifest.compare(reference, shown, names=("kernel", "library"),
                                     ignore=lambda *which: any(rule(*which) for rule in rules))
        lines += written + check_verifier(ctx, point)
        check_norecovery(ctx, point)
        if images.digest(point) != before:
            raise Failed("the image file is not what it was")
        return lines
    finally:
        for path in (copy, point):
            if os.path.exists(path) and not ctx.options.keep:
                os.unlink(path)


def catch(ctx, kind, reflinks):
    """One kind: takes all points, then compares each."""
    catcher = Catcher(ctx, kind)
    for how in SHUTDOWNS:
        if ctx.wants(f"shutdown-{how}"):
            catcher.shut_down(how, ctx.path(f"shutdown-{how}.img"))
    wanted = [i for i in range(1, reflinks + 1) if ctx.wants(f"reflink-{i}")]
    if wanted:
        catcher.reflinks([ctx.path(f"reflink-{i}.img") for i in wanted])
    names = [f"shutdown-{how}" for how in SHUTDOWNS if ctx.wants(f"shutdown-{how}")]
    names += [f"reflink-{i}" for i in wanted]
    fast = sum(journal_state(ctx.path(f"{name}.img"))[1] for name in names)

    def fast_commits():
        if not fast:
            raise Failed("none of the points has a fast commit to replay")

    if "fast_commit" in kind[1]:
        ctx.test("fast-commits", fast_commits)
    for name in names:
        ctx.test(name, lambda name=name: check_point(ctx, ctx.path(f"{name}.img")))


def main():
    options = harness.parse_options(__doc__.splitlines()[0])
    reflinks = 12 if options.full else 2
    why = harness.why_no_kernel_mounts()
    if not why and not shutil.which("mkfs.xfs"):
        why = "no mkfs.xfs"

    def job(kind):
        def function(ctx):
            if why:
                raise Skip(why)
            catch(ctx, kind, reflinks)
        results = [f"shutdown-{how}" for how in SHUTDOWNS]
        results += [f"reflink-{i}" for i in range(1, reflinks + 1)]
        return harness.Job(kind[0], function, results, judge_may_hang=True)

    harness.main(options, [job(kind) for kind in KINDS])


if __name__ == "__main__":
    main()
