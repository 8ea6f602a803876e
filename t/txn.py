#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Logs that we wrote, replayed by others.

uext4-txn (t/unit/journal_tool.c) writes transactions into an image of mke2fs, through its journal,
and dies.  Its blocks are those of one file, the first of which says what the others must hold, and
the label of the superblock.  Copies of what it leaves go to everybody who can replay:

    logdump  debugfs walks over the log to its end, and finds what was acknowledged last
    e2fsck   e2fsck -fy replays; then it has nothing more to say
    library  uext4 reads the dirty image, replaying in memory, and finds the same
    kernel   the kernel mounts it, which replays; then e2fsck has nothing to say
    closed   a log that was ended well is empty, and the image right without a replay

In all of them the file and the label are those of one operation, not older than the acknowledged.
"""

import contextlib
import os
import random
import re
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import harness, images  # noqa: E402
from lib.harness import Failed, Skip, run  # noqa: E402

BLOCKS = 40
USE_FREE, USE_META, USE_DATA = range(3)
JBD2_MAGIC = 0xC03B3998

# name, mke2fs, size in MiB, checksum of the journal to be set beforehand
KINDS = [
    ("4k", "-t ext4 -b 4096", 64, 0),
    ("1k-small-journal", "-t ext4 -b 1024 -J size=1", 32, 0),
    ("1k-32bit", "-t ext4 -b 1024 -O ^64bit -J size=4", 32, 0),
    ("2k", "-t ext4 -b 2048", 64, 0),
    ("64k", "-t ext4 -b 65536 -J size=64", 512, 0),
    ("csum-off", "-t ext4 -b 1024 -O ^metadata_csum -J size=4", 32, 0),
    ("csum-off-32bit", "-t ext4 -b 4096 -O ^metadata_csum,^64bit", 64, 0),
    ("csum-v1", "-t ext4 -b 1024 -O ^metadata_csum -J size=4", 32, 1),
    ("csum-v1-32bit", "-t ext4 -b 4096 -O ^metadata_csum,^64bit", 64, 1),
    ("csum-v2", "-t ext4 -b 1024 -O ^metadata_csum -J size=4", 32, 2),
    ("csum-v2-32bit", "-t ext4 -b 4096 -O ^metadata_csum,^64bit", 64, 2),
    ("fast-commit", "-t ext4 -b 4096 -O fast_commit", 64, 0),
    ("ext3", "-t ext3 -b 1024 -J size=4", 32, 0),
    ("external", "-t ext4 -b 4096 -J device=", 64, 0),
]


def file_blocks(image, name, count):
    out = images.debugfs(image, [f"bmap {name} {i}" for i in range(count)])
    return [int(b) for b in re.findall(r"^\d+$", out, re.M)]


def set_checksum(image, version, block_size):
    """Gives the journal, still empty, checksums of version 1 or 2."""
    place = file_blocks(image, "<8>", 1)[0] * block_size
    with open(image, "r+b") as f:
        sb = bytearray(os.pread(f.fileno(), 1024, place))
        if version == 1:
            sb[0x27] |= 1  # s_feature_compat: checksum
        else:
            sb[0x2B] |= 8  # s_feature_incompat: checksum v2
            sb[0x50] = 4  # s_checksum_type: crc32c
            sb[0xFC:0x100] = bytes(4)
            sb[0xFC:0x100] = struct.pack(">I", images.crc32c(sb))
        os.pwrite(f.fileno(), sb, place)


class Subject:
    """One image, with its file, and what was written into it."""

    def __init__(self, ctx, kind):
        self.ctx = ctx
        self.name, arguments, self.size, self.checksum = kind
        self.arguments = arguments.split()
        self.path = ctx.path("image")
        self.journal = None
        self.random = random.Random(f"{ctx.options.seed}:{self.name}")
        self.make()

    def make(self):
        block = int(self.arguments[self.arguments.index("-b") + 1])
        tree = self.ctx.path("tree")
        os.makedirs(tree, exist_ok=True)
        with open(os.path.join(tree, "file"), "wb") as f:
            f.write(self.random.randbytes(BLOCKS * block))
        if self.name == "external":
            self.make_external(tree)
        else:
            images.mke2fs(self.path, [*self.arguments, "-d", tree], self.size)
        self.block = block
        if self.checksum:
            set_checksum(self.path, self.checksum, block)
        self.blocks = file_blocks(self.path, "/file", BLOCKS)

    def make_external(self, tree):
        self.journal = self.ctx.path("journal")
        images.mke2fs_journal(self.journal)
        with harness.loop_device(self.journal) as device:
            arguments = [*self.arguments[:-1], f"device={device}", "-d", tree]
            images.mke2fs(self.path, arguments, self.size)

    def write(self, seed, operations, end):
        """Returns the operation that was acknowledged last: the last one."""
        more = ["--journal", self.journal] if self.journal else []
        out = run(self.ctx.options.txn, self.path, str(seed), str(operations), end,
                  *map(str, self.blocks), *more)
        return int(out.stdout)

    def copy(self):
        """The same, to be replayed by somebody."""
        other = object.__new__(Subject)
        other.__dict__.update(self.__dict__)
        other.path = self.ctx.path("copy")
        run("cp", "--sparse=always", self.path, other.path)
        if self.journal:
            other.journal = self.ctx.path("journal-copy")
            run("cp", "--sparse=always", self.journal, other.journal)
        return other

    def journal_option(self):
        return ["-j", self.journal] if self.journal else []

    def file_by_debugfs(self):
        out = self.ctx.path("dumped")
        images.debugfs(self.path, [f"dump /file {out}"])
        with open(out, "rb") as f:
            return f.read()

    def label(self):
        text = run("dumpe2fs", "-h", self.path).stdout.decode()
        return re.search(r"^Filesystem volume name:\s*(.*)$", text, re.M).group(1)


def filled(size, i, use, value):
    """What uext4-txn fills a block with."""
    data = bytearray([(value * (7 if use == USE_META else 13) + i) & 0xFF]) * size
    data[16:20] = struct.pack("<I", value)
    if use == USE_META and value % 3 == 0:
        data[:4] = struct.pack(">I", JBD2_MAGIC)
    return bytes(data)


def judge(subject, data, label, acked):
    """The list of what is wrong with the file and the label."""
    block = subject.block
    (op,) = struct.unpack_from("<I", data)
    wrong = [] if op == acked else [f"operation {op} was recovered, {acked} acknowledged"]
    if label is not None and label != f"op{op}":
        wrong.append(f"label is {label}, operation {op}")
    for i in range(1, BLOCKS):
        use, value = struct.unpack_from("<II", data, 4 + 8 * i)
        held = data[i * block:(i + 1) * block]
        if use != USE_FREE and held != filled(block, i, use, value):
            wrong.append(f"block {i} is not {'metadata' if use == USE_META else 'data'} {value}")
    return wrong


def check_logdump(subject, acked):
    """debugfs finds transactions up to the last one, and no damage."""
    command = f"logdump -f {subject.journal}" if subject.journal else "logdump"
    out = images.debugfs(subject.path, [command])
    found = [int(t) for t in re.findall(r"Found expected sequence (\d+), type 2", out)]
    if not found or re.search("mismatch|invalid|corrupt", out, re.I):
        raise Failed("debugfs does not understand the log", out.splitlines())
    if "type 5 (revoke table)" not in out and acked >= 100:
        raise Failed("nothing was revoked", out.splitlines())
    if found != list(range(found[0], found[-1] + 1)):
        raise Failed(f"numbers with gaps: {found}")


def check_e2fsck(subject, acked):
    copy = subject.copy()
    result = run("e2fsck", "-fy", *copy.journal_option(), copy.path, check=False)
    said = (result.stdout + result.stderr).decode(errors="replace").splitlines()
    if result.returncode not in (0, 1):
        raise Failed(f"e2fsck -fy exited {result.returncode}", said)
    images.e2fsck(copy.path, "-fn", *copy.journal_option())
    return judge(copy, copy.file_by_debugfs(), copy.label(), acked)


def check_library(subject, acked):
    more = ["--journal", subject.journal] if subject.journal else []
    before = images.digest(subject.path)
    out = run(subject.ctx.options.uext4, "cat", *more, f"{subject.path}:/file").stdout
    if images.digest(subject.path) != before:
        raise Failed("the image file is not what it was")
    return judge(subject, out, None, acked)


def check_kernel(subject, acked):
    why = harness.why_no_kernel_mounts()
    if not why and subject.block > os.sysconf("SC_PAGE_SIZE"):
        why = "blocks larger than a page"
    if why:
        raise Skip(why)
    copy = subject.copy()
    with contextlib.ExitStack() as stack:
        options = "noatime,noinit_itable"
        if copy.journal:
            device = stack.enter_context(harness.loop_device(copy.journal))
            options += f",journal_path={device}"
        mnt = stack.enter_context(harness.mounted(copy.path, subject.ctx.path("mnt"), options))
        with open(os.path.join(mnt, "file"), "rb") as f:
            data = f.read()
    images.e2fsck(copy.path, "-fn", *copy.journal_option())
    return judge(copy, data, copy.label(), acked)


def check_closed(subject):
    """Goes on where e2fsck replayed, and ends well this time."""
    run("e2fsck", "-fy", *subject.journal_option(), subject.path, check=False)
    acked = subject.write(99, 120, "close")
    text = run("dumpe2fs", "-h", subject.path).stdout.decode()
    start = re.search(r"^Journal start:\s*(\d+)", text, re.M)
    if "needs_recovery" in text or (start and int(start.group(1)) != 0):
        raise Failed("the journal is not empty")
    images.e2fsck(subject.path, "-fn", *subject.journal_option())
    return judge(subject, subject.file_by_debugfs(), subject.label(), acked)


def check_kind(ctx, kind):
    subject = Subject(ctx, kind)
    # Few operations lie in the log as one piece, many go around it.
    acked = subject.write(ctx.options.seed, ctx.random_operations(), "crash")
    ctx.test("logdump", lambda: check_logdump(subject, acked))
    ctx.test("library", lambda: check_library(subject, acked))
    ctx.test("e2fsck", lambda: check_e2fsck(subject, acked))
    ctx.test("kernel", lambda: check_kernel(subject, acked))
    ctx.test("closed", lambda: check_closed(subject))


def main():
    def extra(parser):
        parser.add_argument("--txn", help="the program made of t/unit/journal_tool.c "
                            "(default: beside --uext4)")

    options = harness.parse_options(__doc__.splitlines()[0], extra)
    options.txn = os.path.abspath(
        options.txn or os.path.join(os.path.dirname(options.uext4), "uext4-txn"))
    rounds = 5 if options.full else 2

    def job(kind, number):
        def function(ctx):
            ctx.random_operations = lambda: (30, 600, 200, 1000, 5)[number]
            check_kind(ctx, kind)
        return harness.Job(f"{kind[0]}-{number}", function,
                           ["logdump", "library", "e2fsck", "kernel", "closed"])

    harness.main(options, [job(kind, n) for kind in KINDS for n in range(rounds)])


if __name__ == "__main__":
    main()
