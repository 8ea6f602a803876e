#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`uext4 check` against e2fsck: clean images are clean, damage is found and its place named.

    recipes   every kind of image of t/lib/images.py, filled by the kernel or by mke2fs, is clean
    damages   a table of damages, one of each kind: found, and said what and where; e2fsck agrees
    command   the exit status is that of fsck(8), and what was replayed is said
    flips     random changes of metadata: what e2fsck complains of is a problem for us too

--flips N sets how many changes are made to each image; the rate of what is found is printed.
"""

import json
import os
import random
import re
import shutil
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from bad import DATA, fill  # noqa: E402
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


# ---- small images to be damaged ------------------------------------------------------------------

# name -> mke2fs arguments, MiB.  Those without checksums get damages that a checksum would tell.
BASES = {
    "ext4": ("-t ext4 -b 4096 -I 256", 8),
    "plain": ("-t ext4 -b 1024 -I 256 -O ^metadata_csum,uninit_bg -g 2048", 12),
    "plain-4k": ("-t ext4 -b 4096 -I 256 -O ^metadata_csum", 8),
    "ext2": ("-t ext2 -b 1024 -I 128", 6),
    "ext3": ("-t ext3 -b 2048 -I 256", 8),
    "inline": ("-t ext4 -b 1024 -I 512 -O inline_data,metadata_csum_seed", 6),
    "inline-plain": ("-t ext4 -b 1024 -I 256 -O inline_data,^metadata_csum", 8),
    "ea-inode": ("-t ext4 -b 1024 -I 256 -O ea_inode,^metadata_csum", 8),
    "quota": ("-t ext4 -b 1024 -I 256 -O quota,project,^metadata_csum", 8),
    "orphan-file": ("-t ext4 -b 1024 -I 256 -O orphan_file,^metadata_csum", 8),
    "mmp": ("-t ext4 -b 1024 -I 256 -O mmp,^metadata_csum", 8),
    "bigalloc": ("-t ext4 -b 1024 -C 8192 -O bigalloc,^metadata_csum,^resize_inode", 16),
    "meta-bg": ("-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode,^metadata_csum,^flex_bg", 24),
    "sparse-super2": ("-t ext4 -b 1024 -g 1024 -O sparse_super2,^metadata_csum", 24),
    "block-64k": ("-t ext4 -b 65536 -O ^metadata_csum", 128),
}


def set_xattr(ctx, path, name, size, *files):
    value = ctx.path("value")
    with open(value, "wb") as f:
        f.write(DATA * size)
    images.debugfs(path, [f"ea_set -f {value} {file} {name}" for file in files], write=True)


def make_base(ctx, name):
    """A small image with one of everything that needs no kernel: its path."""
    arguments, size = BASES[name]
    source, path = ctx.path("source"), ctx.path(name + ".base")
    if not os.path.exists(source):
        fill(source)
        os.makedirs(os.path.join(source, "linear"))
        for i in range(100):
            open(os.path.join(source, "linear", f"entry-{i:02}"), "wb").close()
        with open(os.path.join(source, "huge"), "wb") as f:
            f.truncate(3 << 30)
    run("mke2fs", "-q", "-F", "-U", images.UUID, "-E", f"hash_seed={images.HASH_SEED}",
        "-N", "1024", *arguments.split(), "-d", source, path, f"{size}M",
        env={"MKE2FS_CONFIG": images.CONF})
    big = 9000 if name == "ea-inode" else 500
    set_xattr(ctx, path, "user.block", big, "/file4095", "/file70000")
    # Indexes directories, and mends what debugfs left (i_blocks of owners of values).
    for _ in range(2):
        if run("e2fsck", "-fyD", path, check=False).returncode > 1:
            raise Failed("e2fsck -fyD")
    images.e2fsck(path)
    return path


def complains(path):
    """What e2fsck -fn finds, a line each; [] if it finds nothing."""
    result = run("e2fsck", "-fn", path, check=False)
    said = (result.stdout + result.stderr).decode(errors="replace").splitlines()
    wrong = result.returncode != 0 or any("? no" in line for line in said)
    return [line for line in said if line.strip()] if wrong else []


# ---- a table of damages --------------------------------------------------------------------------


class Base:
    """An image and what is where in it."""

    def __init__(self, path):
        self.path = path
        text = run("dumpe2fs", path).stdout.decode()
        self.block = int(re.search(r"^Block size:\s*(\d+)", text, re.M)[1])
        self.first = int(re.search(r"^First block:\s*(\d+)", text, re.M)[1])
        group = text[text.index("\nGroup 0:"):]
        self.block_bitmap = int(re.search(r"Block bitmap at (\d+)", group)[1])
        self.inode_bitmap = int(re.search(r"Inode bitmap at (\d+)", group)[1])
        self.inode_table = int(re.search(r"Inode table at (\d+)", group)[1])
        free = re.search(r"Free blocks: (\d+)", group)
        self.free_block = int(free[1]) if free else 0
        self.free_inode = int(re.search(r"Free inodes: (\d+)", group)[1])

    def ask(self, command):
        return images.debugfs(self.path, [command])

    def stat(self, name):
        return self.ask(f"stat {name}")

    def ino(self, name):
        return int(re.search(r"Inode: (\d+)", self.stat(name))[1])

    def blocks(self, name):
        """Its blocks, those of the map too."""
        return [int(b) for b in self.ask(f"blocks {name}").split("\n")[1].split()]

    def map_blocks(self, name):
        """The first block of its map."""
        found = re.search(r"\((?:ETB\d+|IND|DIND)\):(\d+)", self.stat(name))
        return [int(found[1])]

    def file_acl(self, name):
        return int(re.search(r"File ACL: (\d+)", self.stat(name))[1])

    def inode_place(self, name):
        found = re.search(r"located at block (\d+), offset (0x[0-9a-f]+)", self.ask(f"imap {name}"))
        return int(found[1]) * self.block + int(found[2], 16)

    def read(self, offset, count):
        with open(self.path, "rb") as f:
            return os.pread(f.fileno(), count, offset)

    def find(self, what, block):
        """Where in a block the bytes `what` are."""
        at = self.read(block * self.block, self.block).find(what)
        if at < 0:
            raise Failed(f"{what!r} is not in block {block}")
        return block * self.block + at

    def entry(self, directory, name):
        """(block, byte) of the directory entry."""
        for block in self.blocks(directory):
            data = self.read(block * self.block, self.block)
            at = 0
            while at < len(data):
                rec_len = struct.unpack_from("<H", data, at + 4)[0]
                if data[at + 8:at + 8 + data[at + 6]] == name:
                    return block, block * self.block + at
                at += rec_len or len(data)
        raise Failed(f"no entry {name} in {directory}")


def poke(offset, data):
    """Bytes to be written."""
    return offset, data


def apply(image, steps):
    """Commands of debugfs, and bytes to be written."""
    commands = [s for s in steps if isinstance(s, str)]
    if commands:
        # Its complaints about what is wrong already do not matter here.
        run("debugfs", "-w", "-f", "-", image, input="\n".join(commands).encode() + b"\n")
    with open(image, "r+b") as f:
        for step in steps:
            if not isinstance(step, str):
                os.pwrite(f.fileno(), step[1], step[0])


def sif(name, field, value):
    return f"set_inode_field {name} {field} {value}"


# Each: base, what it is, function of Base that gives the steps, and what must be said.  A name that
# ends in "*" is one that e2fsck 1.47.0 does not find.
DAMAGES = []


def damage(base, name, said):
    def add(function):
        DAMAGES.append((base, name, said, function))
        return function
    return add


def simple(base, name, said, *steps):
    DAMAGES.append((base, name, said, lambda b: steps))


def table():
    # Bitmaps and counts.
    damage("ext4", "block-freed", r"group 0: block \d+ is in use, but marked as free")(
        lambda b: [f"freeb {b.blocks('/file70000')[3]}"])
    damage("ext4", "block-marked", r"group 0: block {free} is marked as in use, but nobody's")(
        lambda b: [f"setb {b.free_block}"])
    damage("bigalloc", "cluster-freed", r"group 0: blocks \d+ to \d+ are in use, but marked as free")(
        lambda b: [f"freeb {b.blocks('/file70000')[3]}"])
    damage("ext4", "inode-freed", r"group 0: inode \d+ is in use, but marked as free")(
        lambda b: ["freei /file60"])
    damage("ext4", "inode-marked", r"group 0: inode \d+ is marked as in use, but nobody's")(
        lambda b: [f"seti <{b.free_inode}>"])
    damage("plain", "bitmap-padding", r"bit \d+ of its block bitmap, behind the end, is not set")(
        lambda b: [poke(b.block_bitmap * b.block + b.block - 1, b"\x7f")])
    damage("plain", "inode-bitmap-padding", r"bit \d+ of its inode bitmap, behind the end, is not")(
        lambda b: [poke(b.inode_bitmap * b.block + b.block - 1, b"\x7f")])
    simple("ext4", "group-free-blocks", r"group 0: \d+ free blocks, its descriptor says 77",
           "set_bg 0 free_blocks_count 77", "set_bg 0 checksum calc")
    simple("ext4", "group-free-inodes", r"group 0: \d+ free inodes, its descriptor says 77",
           "set_bg 0 free_inodes_count 77", "set_bg 0 checksum calc")
    simple("ext4", "group-directories", r"group 0: \d+ directories, its descriptor says 77",
           "set_bg 0 used_dirs_count 77", "set_bg 0 checksum calc")
    simple("ext4", "group-checksum", r"descriptor of group 0: checksum is", "set_bg 0 checksum 1")
    simple("ext4", "group-bitmap-checksum", r"block bitmap of group 0: checksum is",
           "set_bg 0 block_bitmap_csum 1", "set_bg 0 checksum calc")
    simple("plain", "group-inode-uninit", r"group 0: inodes are in use, but its inode bitmap is not",
           "set_bg 0 flags 1", "set_bg 0 checksum calc")
    simple("plain", "group-block-uninit", r"group 0: blocks are in use, but its block bitmap is not",
           "set_bg 0 flags 6", "set_bg 0 checksum calc")
    simple("plain", "group-itable-unused", r"its inode is not in use",
           "set_bg 0 itable_unused 100", "set_bg 0 checksum calc")
    simple("plain", "group-bitmap-outside", r"descriptor of group 0: block bitmap at block 9999999",
           "set_bg 0 block_bitmap 9999999", "set_bg 0 checksum calc")
    damage("plain", "group-table-overlap", r"its inode bitmap at block \d+ overlaps the inode table")(
        lambda b: [f"set_bg 0 inode_bitmap {b.inode_table + 1}", "set_bg 0 checksum calc"])

    # The superblock.
    simple("ext4", "super-free-blocks", r"superblock: 5 free blocks", "ssv free_blocks_count 5")
    simple("ext4", "super-free-inodes", r"superblock: 5 free inodes", "ssv free_inodes_count 5")
    simple("ext4", "super-reserved", r"superblock: 2000 of \d+ blocks are reserved",
           "ssv r_blocks_count 2000")
    simple("ext4", "super-no-journal", r"has_journal, but it says nowhere", "ssv journal_inum 0")
    simple("ext2", "super-journal", r"a journal \(inode 8, device 0\) without", "ssv journal_inum 8")
    simple("ext4", "super-orphan*", r"orphan list: inode 5 cannot be an orphan", "ssv last_orphan 5")
    simple("ext4", "super-revision", r"superblock: revision 2", "ssv rev_level 2")
    simple("ext4", "feature-dir-index", r"indexed directory without", "feature ^dir_index")
    simple("plain", "feature-extents", r"inode \d+: extents without", "feature ^extent")
    simple("ext4", "feature-large-file", r"files of 2 GiB or more without", "feature ^large_file")
    simple("plain", "feature-filetype", r"it has a type without", "feature ^filetype")

    damage("plain", "backup-magic*", r"group 1: the backup of the superblock in block 2049 is none")(
        lambda b: [poke(2049 * 1024 + 0x38, b"\0")])
    damage("plain", "backup-group*", r"group 1: its backup of the superblock says that it is of 3")(
        lambda b: [poke(2049 * 1024 + 0x5A, b"\3")])

    # Fields of inodes.
    simple("ext4", "links-more", r"inode \d+: link count is 7, 1 entry leads", sif("/file60", "links_count", 7))
    simple("ext4", "links-directory", r"inode \d+: link count is 9, 3 entr", sif("/a", "links_count", 9))
    simple("ext4", "links-none", r"\"file60\" .*its inode is not in use", sif("/file60", "links_count", 0))
    simple("ext4", "cleared", r"directory 2, entry \"file60\" \(inode \d+\): its inode is not in use",
           "clri /file60")
    simple("ext4", "nameless", r"inode \d+: in use, but it has no name", "unlink /fast")
    simple("ext4", "name-uncounted", r"inode \d+: link count is 1, 2 entries lead",
           "link /file60 /another")
    simple("ext4", "dtime", r"inode \d+: in use, but it has a time of deletion",
           sif("/file60", "dtime", "@1500000000"))
    simple("ext4", "size-less", r"inode \d+: size is 10, but blocks up to byte", sif("/file70000", "size", 10))
    simple("ext2", "size-beyond-map", r"inode \d+: size is \d+, its map reaches",
           sif("/file70000", "size", 1 << 40))
    simple("ext4", "blocks", r"inode \d+: i_blocks is 5, it has", sif("/file70000", "blocks", 5))
    simple("bigalloc", "blocks-clusters", r"inode \d+: i_blocks is 5, it has", sif("/file70000", "blocks", 5))
    simple("ext4", "mode", r"inode \d+: impossible type in mode 170644", sif("/file60", "mode", "0170644"))
    simple("ext4", "mode-directory", r"its type is not that of the inode", sif("/file4096", "mode", "0040755"))
    simple("ext4", "mode-device", r"inode \d+: special file of 70000 bytes",
           sif("/file70000", "mode", "0020644"))
    simple("ext4", "file-acl-outside", r"inode \d+: xattr block is 99999999",
           sif("/file60", "file_acl", 99999999))
    simple("ext4", "extra-isize", r"inode \d+: i_extra_isize is 250 of 128",
           sif("/file60", "extra_isize", 250))
    simple("ext4", "faddr", r"inode \d+: i_obso_faddr is 3", sif("/file60", "faddr", 3))
    simple("ext4", "generation", r"directory \d+, .*: checksum is", sif("/many", "generation", 77))
    simple("ext4", "flags-extents", r"inode \d+: i_block\[0\] is", sif("/file70000", "flags", 0))
    simple("ext4", "flags-index", r"inode \d+: the flag of indexed directories",
           sif("/file70000", "flags", "0x81000"))
    simple("ext4", "flags-inline", r"inode \d+: inline data without",
           sif("/file70000", "flags", "0x10000000"))
    simple("ext4", "symlink-size", r"inode \d+: symlink of 50 bytes, its target has 5", sif("/fast", "size", 50))
    simple("ext4", "symlink-slow", r"inode \d+: symlink of 150 bytes|inode \d+: symlink of 250 bytes",
           sif("/slow", "size", 250))
    damage("ext4", "inode-checksum", r"inode \d+: checksum is")(
        lambda b: [poke(b.inode_place("/file60") + 0x7C, b"\x12\x34")])
    damage("ext4", "unused-checksum", r"inode \d+: checksum is")(
        lambda b: ["rm /file4096", poke(b.inode_place("/file4096") + 0x7C, b"\x12\x34")])
    simple("ext4", "journal-cleared", r"inode 8: a file of the file system's own", "clri <8>")
    simple("ext4", "journal-size", r"journal: inode 8 has 8192 bytes", sif("<8>", "size", 8192))
    damage("ext4", "journal-magic", r"journal")(
        lambda b: [poke(b.blocks("<8>")[0] * b.block, bytes(12))])
    simple("ext4", "reserved-used", r"inode 9: reserved, but in use", sif("<9>", "mode", "0100644"),
           sif("<9>", "links_count", 1))
    simple("ext4", "resize-mode", r"inode 7.*mode 040600", sif("<7>", "mode", "0040600"))
    simple("ext4", "no-root", r"there is no root directory", sif("<2>", "mode", "0100755"))

    # Maps.
    damage("ext2", "pointer-outside", r"inode \d+: i_block\[2\] is")(
        lambda b: [sif("/file70000", "block[2]", 99999999)])
    damage("ext2", "pointer-shared", r"inode \d+: block \d+ has more than one owner")(
        lambda b: [sif("/file70000", "block[2]", b.blocks("/file4096")[0])])
    damage("ext2", "pointer-twice", r"inode \d+: block \d+ has more than one owner")(
        lambda b: [sif("/file70000", "block[2]", b.blocks("/file70000")[0])])
    damage("ext2", "pointer-to-table", r"block \d+ of its inode table is a file's too")(
        lambda b: [sif("/file70000", "block[2]", b.inode_table + 1)])
    damage("ext2", "indirect-pointer", r"inode \d+, indirect block \d+: pointer 0 is block")(
        lambda b: [poke(b.map_blocks("/file70000")[0] * b.block, b"\xff\xff\xff\x7f")])
    damage("ext2", "indirect-loop", r"has more than one owner")(
        lambda b: [sif("/file70000", "block[DIND]", b.map_blocks("/file70000")[0])])
    damage("plain", "extent-magic", r"inode \d+: extent node \(block \d+\): magic")(
        lambda b: [poke(b.map_blocks("/islands")[0] * b.block, b"\0\0")])
    damage("plain", "extent-order", r"inode \d+: extent node \(block \d+\): extent 1 maps")(
        lambda b: [poke(b.map_blocks("/islands")[0] * b.block + 24, b"\0\0\0\0")])
    damage("plain", "extent-empty", r"inode \d+: extent node \(block \d+\): extent 1 is empty")(
        lambda b: [poke(b.map_blocks("/islands")[0] * b.block + 28, b"\0\0")])
    damage("plain", "extent-outside", r"extent 1 lies at")(
        lambda b: [poke(b.map_blocks("/islands")[0] * b.block + 32, b"\xff\xff\xff\x7f")])
    damage("plain", "extent-depth*", r"extent node \(block \d+\): depth is 1")(
        lambda b: [poke(b.map_blocks("/islands")[0] * b.block + 6, b"\1\0")])
    damage("plain", "extent-index-start", r"does not begin at block \d+ as the node above says")(
        lambda b: [poke(b.map_blocks("/islands")[0] * b.block + 12, b"\1\0\0\0")])
    damage("plain", "extent-shared", r"inode \d+: block \d+ has more than one owner")(
        lambda b: [poke(b.map_blocks("/islands")[0] * b.block + 32,
                        struct.pack("<I", b.blocks("/file70000")[0]))])
    damage("ext4", "extent-checksum", r"extent node \(block \d+\): checksum is")(
        lambda b: [poke(b.map_blocks("/islands")[0] * b.block + 24, b"\0\0\0\0")])

    # Directories.
    simple("ext4", "dir-unreachable", r"directory \d+: no entry leads to it", "unlink /a/b")
    simple("ext4", "dir-twice", r"entry \"(b|twice)\" .*: a directory with a second name", "link /a/b /twice")
    simple("ext4", "dir-to-root", r"entry \"top\" .*: it leads to the root", "link / /a/top")
    simple("ext4", "dir-size-less", r"inode \d+: directory of 1 blocks, \d+ are mapped",
           sif("/many", "size", 4096))
    simple("ext4", "dir-size-odd", r"inode \d+: directory of 4097 bytes", sif("/a", "size", 4097))
    simple("ext4", "dir-size-more", r"inode \d+: directory of 3 blocks with holes", sif("/a", "size", 12288))
    damage("plain", "dir-dot", r"directory \d+: its first entry is not \"\.\"")(
        lambda b: [poke(b.entry("/a", b".")[1] + 8, b"x")])
    damage("plain", "dir-dot-inode", r"\"\.\" .*it does not lead to its own directory")(
        lambda b: [poke(b.entry("/a", b".")[1], struct.pack("<I", b.ino("/tiny")))])
    damage("plain", "dir-dotdot", r"directory \d+: \"\.\.\" is inode \d+, but it lies in \d+")(
        lambda b: [poke(b.entry("/a/b", b"..")[1], struct.pack("<I", b.ino("/tiny")))])
    damage("plain", "dir-dotdot-gone", r"its second entry is not \"\.\.\"")(
        lambda b: [poke(b.entry("/a/b", b"..")[1] + 8, b"xx")])
    damage("plain", "entry-type", r"\"file60\" .*its type is not that of the inode")(
        lambda b: [poke(b.entry("/", b"file60")[1] + 7, b"\2")])
    damage("plain", "entry-rec-len", r"directory 2, block \d+, byte \d+: impossible record length")(
        lambda b: [poke(b.entry("/", b"file60")[1] + 4, b"\6\0")])
    damage("plain", "entry-slash", r"name with a slash or NUL")(
        lambda b: [poke(b.entry("/", b"file60")[1] + 10, b"/")])
    damage("plain", "entry-inode", r"impossible inode number")(
        lambda b: [poke(b.entry("/", b"file60")[1], b"\xff\xff\xff\x7f")])
    damage("plain", "entry-reserved", r"\"file60\" .*it leads to a reserved inode")(
        lambda b: [poke(b.entry("/", b"file60")[1], b"\x09\0\0\0")])
    damage("plain", "name-twice", r"\"file61\" .*the name is there twice")(
        lambda b: [poke(b.entry("/", b"file60")[1] + 8, b"file61")])
    damage("plain", "name-twice-linear", r"\"entry-07\" .*the name is there twice")(
        lambda b: [poke(b.entry("/linear", b"entry-06")[1] + 8, b"entry-07")])
    damage("plain", "loop", r"directory \d+: it lies in itself")(
        lambda b: [poke(b.entry("/", b"a")[1], struct.pack("<I", b.ino("/tiny"))),
                   poke(b.entry("/a/b/c", b"d")[1], struct.pack("<I", b.ino("/a")))])
    simple("ext2", "dir-hole", r"directory of \d+ blocks with holes", sif("/linear", "block[1]", 0))
    damage("ext4", "dir-checksum", r"directory 2, block \d+: checksum is")(
        lambda b: [poke(b.entry("/", b"file60")[1] + 8, b"File60")])

    # Hash trees.
    damage("plain", "htree-hash", r"its hash does not belong into this block|hashes out of order")(
        lambda b: [poke(b.blocks("/many")[0] * b.block + 0x28, b"\0\0\0\x10")])
    damage("plain", "htree-order", r"hash \w+ of entry \d+ after")(
        lambda b: [poke(b.blocks("/many")[0] * b.block + 0x28, b"\xfe\xff\xff\xff")])
    damage("plain", "htree-name", r"\"x\d\d-.*its hash does not belong into this block")(
        lambda b: [poke(b.entry("/many", b"251-" + b"n" * 11)[1] + 8, b"x")])
    damage("plain", "htree-limit", r"index block \d+: \d+ entries, limit 77")(
        lambda b: [poke(b.blocks("/many")[0] * b.block + 0x20, b"\x4d\0")])
    damage("plain", "htree-count", r"index block \d+: 0 entries")(
        lambda b: [poke(b.blocks("/many")[0] * b.block + 0x22, b"\0\0")])
    damage("plain", "htree-twice", r"index: block \d+ is led to twice")(
        lambda b: [poke(b.blocks("/many")[0] * b.block + 0x2C,
                        b.read(b.blocks("/many")[0] * b.block + 0x34, 4))])
    damage("plain", "htree-outside", r"index: block 9999 is led to, but is not there")(
        lambda b: [poke(b.blocks("/many")[0] * b.block + 0x2C, struct.pack("<I", 9999))])
    damage("plain", "htree-unreached", r"index: block \d+ is not led to")(
        lambda b: [poke(b.blocks("/many")[0] * b.block + 0x22,
                        struct.pack("<H", struct.unpack("<H", b.read(
                            b.blocks("/many")[0] * b.block + 0x22, 2))[0] - 1))])
    damage("plain", "htree-version", r"unknown hash version 9|hash version 9")(
        lambda b: [poke(b.blocks("/many")[0] * b.block + 0x1C, b"\x09")])
    damage("plain", "htree-levels", r"index block \d+: 3 levels")(
        lambda b: [poke(b.blocks("/many")[0] * b.block + 0x1E, b"\x03")])

    # Attributes.
    damage("plain", "xattr-magic", r"xattr block \d+: magic number is")(
        lambda b: [poke(b.file_acl("/file4095") * b.block, b"\1")])
    damage("plain", "xattr-refcount", r"xattr block \d+: \d+ inodes? uses? it, its count is 9")(
        lambda b: [poke(b.file_acl("/file4095") * b.block + 4, b"\x09")])
    damage("plain", "xattr-hash", r"xattr block \d+: attribute 1.\"block\": its hash is wrong")(
        lambda b: [poke(b.file_acl("/file4095") * b.block + 32 + 12, b"\1\2\3\4")])
    damage("plain", "xattr-value", r"its hash is wrong")(
        lambda b: [poke(b.file_acl("/file4095") * b.block + b.block - 4, b"\1\2\3\4")])
    damage("plain", "xattr-name-length", r"xattr block \d+: name of an xattr")(
        lambda b: [poke(b.file_acl("/file4095") * b.block + 32, b"\xff\1\xff\xff")])
    damage("plain", "xattr-size", r"xattr block \d+: xattr of 65535 bytes")(
        lambda b: [poke(b.file_acl("/file4095") * b.block + 32 + 8, b"\xff\xff\0\0")])
    damage("plain", "xattr-shared-with-data", r"has more than one owner")(
        lambda b: [sif("/file60", "file_acl", b.blocks("/file70000")[0])])
    damage("ext4", "xattr-checksum", r"xattr block \d+: checksum is")(
        lambda b: [poke(b.file_acl("/file4095") * b.block + 4, b"\x09")])
    damage("inline-plain", "body-xattr", r"inode \d+: xattr of \d+ bytes at")(
        lambda b: [poke(b.find(b"data", b.inode_place("/file61") // b.block) - 16 + 8, b"\xff\xff")])
    damage("ea-inode", "ea-size*", r"its value is not where it says")(
        lambda b: [sif(f"<{ea_inode(b)}>", "size", 100)])
    damage("ea-inode", "ea-hash", r"its hash does not fit|has hash \w+, not")(
        lambda b: [sif(f"<{ea_inode(b)}>", "atime", "@77")])
    damage("ea-inode", "ea-refcount", r"inode \d+: \d+ attributes? ha\w+ their value in it, its count is 77")(
        lambda b: [sif(f"<{ea_inode(b)}>", "version", 77)])
    damage("ea-inode", "ea-contents*", r"inode \d+: the value of an attribute has hash")(
        lambda b: [poke(b.blocks(f"<{ea_inode(b)}>")[0] * b.block, b"x")])
    damage("ea-inode", "ea-cleared", r"its value is not where it says")(
        lambda b: [f"clri <{ea_inode(b)}>"])

    # Inline data.
    simple("inline", "inline-both", r"inode \d+: both inline data and extents",
           sif("/file61", "flags", "0x10080000"))
    damage("inline-plain", "inline-no-value", r"inode \d+: inline data without system.data")(
        lambda b: [poke(b.find(b"data", b.inode_place("/file61") // b.block), b"datx")])
    damage("inline-plain", "inline-dir-entry", r"directory \d+.*(impossible|crosses|record)")(
        lambda b: [poke(b.inode_place("/tiny") + 0x28 + 8, b"\x05\0")])
    damage("inline-plain", "inline-dir-parent", r"directory \d+: \"\.\.\" is inode \d+, but it lies in")(
        lambda b: [poke(b.inode_place("/tiny") + 0x28, struct.pack("<I", b.ino("/a")))])

    # Files of the file system's own.
    simple("quota", "quota-owner", r"user quota: 5 uses 0 bytes and 1 inodes|user quota: 5 uses",
           sif("/file0", "uid", 5))
    damage("quota", "quota-usage", r"user quota: 0 uses \d+ bytes and \d+ inodes, its record says")(
        lambda b: [poke(quota_record(b, "<3>") + 48, b"\x77")])
    damage("quota", "quota-group", r"group quota: 0 uses \d+ bytes")(
        lambda b: [poke(quota_record(b, "<4>") + 24, b"\x77")])
    damage("quota", "quota-magic*", r"user quota: magic number is")(
        lambda b: [poke(b.blocks("<3>")[0] * b.block, b"\0")])
    damage("quota", "quota-tree", r"user quota: (there is no block|block \d+)")(
        lambda b: [poke(b.blocks("<3>")[1] * b.block, b"\xff\xff\0\0")])
    simple("quota", "quota-gone", r"inode 3: a file of the file system's own|user quota", "clri <3>")
    damage("orphan-file", "orphan-magic", r"orphan file, block \d+: magic")(
        lambda b: [poke((b.blocks(f"<{orphan_file(b)}>")[0] + 1) * b.block - 8, b"\0")])
    damage("orphan-file", "orphan-entry", r"orphan file: it has entries, but orphan_present")(
        lambda b: [poke(b.blocks(f"<{orphan_file(b)}>")[0] * b.block, struct.pack("<I", b.ino("/file60")))])
    damage("mmp", "mmp-magic", r"MMP block: magic")(
        lambda b: [poke(mmp_block(b) * b.block, b"\0\0\0\0")])
    damage("mmp", "mmp-outside", r"MMP block 0 lies outside")(lambda b: ["ssv mmp_block 0"])


def ea_inode(b):
    """The inode that holds the value of /file4095's attribute."""
    raw = b.read(b.inode_place("/file4095"), 256)
    at = raw.find(b"block", 0xA0)
    return struct.unpack_from("<I", raw, at - 12)[0]


def quota_record(b, name):
    """Where the only record of a quota file lies: in its last block, behind the header."""
    return b.blocks(name)[-1] * b.block + 16


def orphan_file(b):
    text = run("dumpe2fs", "-h", b.path).stdout.decode()
    return int(re.search(r"^Orphan file inode:\s*(\d+)", text, re.M)[1])


def mmp_block(b):
    text = run("dumpe2fs", "-h", b.path).stdout.decode()
    return int(re.search(r"^MMP block number:\s*(\d+)", text, re.M)[1])


def damaged(ctx, base, name, said, function):
    image = ctx.path("damaged.img")
    b = Base(base)
    shutil.copyfile(base, image)
    apply(image, function(b))
    if not complains(image) and not name.endswith("*"):
        raise Failed("e2fsck finds nothing wrong: no damage")
    result = run(ctx.options.uext4, "check", "--max-problems", "100000", image, check=False)
    problems = (result.stdout + result.stderr).decode().splitlines()
    if result.returncode not in (4, 8):
        raise Failed(f"uext4 check exited {result.returncode}", problems)
    said = said.replace("{free}", str(b.free_block))
    if not any(re.search(said, p) for p in problems):
        raise Failed(f"nobody says {said}", problems or ["(clean)"])


def damages_job(base):
    rows = [row for row in DAMAGES if row[0] == base]

    def function(ctx):
        path = make_base(ctx, base)
        problems, _ = check(ctx.options, path)
        if problems:
            raise Failed("the sound image is not clean", problems)
        for _, name, said, steps in rows:
            ctx.test(name, lambda name=name, said=said, steps=steps:
                     damaged(ctx, path, name, said, steps))

    return harness.Job(f"damage-{base}", function, [row[1] for row in rows])


# ---- the command -----------------------------------------------------------------------------------


def exits(ctx, wanted, *arguments):
    """What `uext4 check` prints, which must end with that status."""
    result = run(ctx.options.uext4, "check", *arguments, check=False)
    said = (result.stdout + result.stderr).decode(errors="replace")
    if result.returncode != wanted:
        raise Failed(f"uext4 check {' '.join(arguments)} exited {result.returncode}, not {wanted}",
                     said.splitlines())
    return said


def statuses(ctx, path):
    damaged_one = ctx.path("damaged.img")
    shutil.copyfile(path, damaged_one)
    apply(damaged_one, ["freei /file60", "clri /file61"])
    nothing = ctx.path("nothing.img")
    with open(nothing, "wb") as f:
        f.truncate(1 << 20)
    if "clean" not in exits(ctx, 0, path):
        raise Failed("nobody says that it is clean")
    exits(ctx, 4, damaged_one)
    exits(ctx, 4, path, damaged_one)
    exits(ctx, 8, nothing)
    exits(ctx, 8, ctx.path("missing.img"))
    exits(ctx, 12, damaged_one, nothing)
    exits(ctx, 16)
    exits(ctx, 16, "--no-such-option", path)
    if len(exits(ctx, 4, "--max-problems=1", damaged_one).splitlines()) != 2:
        raise Failed("more than one problem and the summary")
    if '"progress":"check, quota"' not in exits(ctx, 0, "--progress=json", quota_image(ctx)):
        raise Failed("no progress is told")


def harmless(ctx, path):
    """What a crash of the kernel leaves of an inline file that was about to get its first block."""
    image = ctx.path("harmless.img")
    shutil.copyfile(path, image)
    apply(image, [sif("/file61", "size", 0)])
    images.e2fsck(image)
    exits(ctx, 0, image)


def quota_image(ctx):
    path = ctx.path("quota.base")
    if not os.path.exists(path):
        make_base(ctx, "quota")
    return path


def replayed(ctx, path):
    image = ctx.path("dirty.img")
    shutil.copyfile(path, image)
    block = Base(path).blocks("/")[0]
    run("dd", f"if={image}", f"of={ctx.path('block')}", "bs=4096", f"skip={block}", "count=1")
    run("debugfs", "-w", "-f", "-", image,
        input=f"jo\njw -b {block} {ctx.path('block')}\njc\n".encode())
    before = images.digest(image)
    if "replay of its journal" not in exits(ctx, 0, image):
        raise Failed("nobody says that the journal was replayed")
    if "without its pending journal" not in exits(ctx, 0, "--norecovery", image):
        raise Failed("nobody says that the journal was left alone")
    if images.digest(image) != before:
        raise Failed("the image file is not what it was")


def command_job():
    def function(ctx):
        path = make_base(ctx, "ext4")
        ctx.test("status", lambda: statuses(ctx, path))
        ctx.test("replayed", lambda: replayed(ctx, path))
        ctx.test("harmless", lambda: harmless(ctx, path))

    return harness.Job("command", function, ["status", "replayed", "harmless"])


# ---- random changes ------------------------------------------------------------------------------


def metadata(path):
    """Where there is metadata: the files hold one byte only."""
    with open(path, "rb") as f:
        data = f.read()
    return data, [at for at in range(0, len(data) - 1023, 1024)
                  if data[at:at + 1024].strip(b"\0" + DATA)]


def change(rng, data, places):
    """A few bytes to be changed: (offset, value)."""
    for _ in range(1 if rng.random() < 0.7 else rng.randint(2, 5)):
        for _ in range(64):
            at = rng.choice(places) + rng.randrange(1024)
            if data[at] or rng.random() < 0.25:
                break
        was = data[at]
        yield at, rng.choice((was ^ 1 << rng.randrange(8), rng.randrange(256), was + 1 & 255,
                              was - 1 & 255, 0, 255))


def flips(ctx, base):
    """Whatever e2fsck complains of, we do."""
    path = make_base(ctx, base)
    image = ctx.path("flipped.img")
    data, places = metadata(path)
    shutil.copyfile(path, image)
    missed, both, alone = [], 0, 0
    with open(image, "r+b", buffering=0) as f:
        for i in range(ctx.options.flips):
            seed = f"{ctx.options.seed}:{base}:{i}"
            changes = list(change(random.Random(seed), data, places))
            for at, value in changes:
                os.pwrite(f.fileno(), bytes([value]), at)
            control = complains(image)
            result = run(ctx.options.uext4, "check", image, check=False)
            for at, _ in changes:
                os.pwrite(f.fileno(), data[at:at + 1], at)
            if result.returncode not in (0, 4, 8):
                raise Failed(f"{seed}: uext4 check exited {result.returncode}",
                             result.stderr.decode(errors="replace").splitlines())
            both += bool(control) and result.returncode != 0
            alone += not control and result.returncode != 0
            if control and result.returncode == 0:
                missed += [f"{seed}: {changes}", *("    " + line for line in control)]
    print(f"    {base}: {ctx.options.flips} images, {both} damaged for both, {alone} for us alone",
          flush=True)
    return missed


def flips_job(base):
    return harness.Job(f"flips-{base}", lambda ctx: ctx.test("found", lambda: flips(ctx, base)),
                       ["found"])


def extra_options(parser):
    parser.add_argument("--flips", type=int, default=60, help="random changes of each image")


def main():
    table()
    options = harness.parse_options(__doc__.splitlines()[0], extra_options)
    jobs = [recipe_job(recipe) for recipe in images.recipes()]
    jobs += [big_block_job(recipe) for recipe in images.big_block_recipes()]
    jobs += [damages_job(base) for base in BASES if any(row[0] == base for row in DAMAGES)]
    jobs.append(command_job())
    jobs += [flips_job(base) for base in BASES]
    harness.main(options, jobs)


if __name__ == "__main__":
    main()
