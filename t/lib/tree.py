# SPDX-License-Identifier: MIT
"""Fills a mounted ext4 file system with one of everything.

The tree follows from a seed and from what the file system can hold (Caps); where a kind of file
system cannot hold something, the rule stands beside it here, so that no error is ever swallowed:

    symlinks       one block at most, the NUL counted
    preallocation  extents only (fallocate is refused on block maps); holes can be punched anywhere
    top of a file  extents and huge_file only: the last blocks of the largest file
    attributes     only with ext_attr; up to what one block holds, 64 KiB with ea_inode
    journalled j   cannot be set here without CAP_SYS_RESOURCE; images.py does, with debugfs
    times          128-byte inodes: the kernel clamps them to 32 bits by itself
    project ids    cannot be set here: a kernel without quota mounts `project` read-only;
                   images.py sets them with debugfs
"""

import contextlib
import ctypes
import fcntl
import os
import random
import socket
import stat
import struct

from .harness import libc
from .manifest import FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, get_u32

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT = 1, 2, 8, 16, 32

SIZES = [0, 1, 59, 60, 61, 100, 127, 128, 155, 156, 157, 159, 160, 161, 162, 163, 164, 411, 412,
         413, 511, 512, 900, 923, 924, 925, 1023, 1024, 1025, 2048, 4095, 4096, 4097, 8191, 12288,
         65535, 65536, 65537, 300001]

# Without those between 2310 and 2378: older kernels wrote them for times before 1970, and e2fsck
# takes them for that.
TIMES = [(-2**31, 0), (-2**31, 999999999), (-86400 * 365, 500000000), (-1, 1), (-1, 999999999),
         (0, 0), (0, 1), (1, 123456789), (1700000000, 987654321), (2**31 - 1, 999999999),
         (2**31, 0), (2**31 + 1, 1), (2**32 - 1, 999999999), (2**32, 5), (2**32 + 2**31, 77),
         (2**33, 0), (2**33 + 2**30, 123), (3 * 2**32 + 2**31 - 1, 999999999)]

IDS = [0, 1, 65533, 65534, 65535, 65536, 100000, 2**31 - 1, 2**31, 2**32 - 2]

DEVICES = [(0, 0), (1, 3), (8, 0), (255, 255), (255, 256), (256, 0), (256, 255), (291, 0x45678),
           (4095, 1048575)]

# A file whose extent tree has at least two levels below the inode, where there are extents.
DEEP_FILE = "frag/deep"
# The largest directory, where the recipe asks for one.
BIG_DIRECTORY = "dirs/100000"
LONG_DIRECTORY = "dirs/long"


class Caps:
    """What a file system can hold."""

    def __init__(self, features, block_size, inode_size, cluster_size):
        self.features = frozenset(features)
        self.block_size = block_size
        self.inode_size = inode_size
        self.cluster_size = cluster_size

    def has(self, feature):
        return feature in self.features

    def symlink_max(self):
        return min(4095, self.block_size - 1)

    def deep_extents(self):
        """Extents that fill more than the four leaves an inode can point to."""
        return 4 * ((self.block_size - 12) // 12) + 40

    def value_max(self, suffix):
        """The longest value of one attribute, alone, in a block of its own."""
        if self.has("ea_inode"):
            return 65536
        return self.block_size - 32 - 4 - (16 + len(suffix) + -len(suffix) % 4)


def fallocate(fd, mode, offset, length):
    call = libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"fallocate mode {mode}: {os.strerror(number)}")


def acl(entries):
    """The value of system.posix_acl_*: entries are (tag letter, id or None, permissions)."""
    tags = {"u": (1, 2), "g": (4, 8), "m": (16, 16), "o": (32, 32)}
    raw = struct.pack("<I", 2)
    for letter, qualifier, perm in entries:
        tag = tags[letter][qualifier is not None]
        raw += struct.pack("<HHI", tag, perm, 0xFFFFFFFF if qualifier is None else qualifier)
    return raw


def capability(permitted):
    """A valid security.capability, revision 2, effective."""
    return struct.pack("<5I", 0x02000001, permitted & 0xFFFFFFFF, 0, permitted >> 32, 0)


class Tree:
    """Builds under `root`; `extras` may hold "big" and "long" (see BIG_DIRECTORY)."""

    def __init__(self, root, caps, seed, extras=()):
        self.root = os.fsencode(root)
        self.caps = caps
        self.extras = extras
        self.random = random.Random(seed)
        self.block = caps.block_size
        self.unit = max(caps.block_size, caps.cluster_size)

    def path(self, *parts):
        return b"/".join([self.root] + [os.fsencode(p) for p in parts])

    def dir(self, *parts):
        path = self.path(*parts)
        os.mkdir(path)
        return path

    def bytes(self, count):
        return self.random.randbytes(count)

    def file(self, path, data=b""):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        if data:
            os.write(fd, data)
        os.close(fd)
        return path

    def sync(self):
        """This file system only: sync(2) waits for every other one of the machine."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            if libc.syncfs(fd) != 0:
                raise OSError(ctypes.get_errno(), "syncfs")
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def opened(self, path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            yield fd
        finally:
            os.close(fd)

    def build(self):
        filler = self.filler()
        self.types()
        self.symlinks()
        self.names()
        self.directories()
        self.deep()
        self.thin(filler)
        self.sizes()
        self.sparse()
        self.fragmented()
        if self.caps.has("extent"):
            self.unwritten()
        self.punched()
        self.links()
        if self.caps.has("ext_attr"):
            self.xattrs()
            self.acls()
        self.owners()
        self.flags()
        self.times()

    # ---- fragmentation: files that are deleted between others -----------------------------------

    def filler(self):
        self.dir("filler")
        paths = [self.path("filler", f"f{i:03}") for i in range(120)]
        for i, path in enumerate(paths):
            self.file(path, self.bytes(self.block * (1 + i % 3)))
        self.sync()
        return paths

    @staticmethod
    def thin(paths):
        for path in paths[::2]:
            os.unlink(path)

    # ---- names and types ------------------------------------------------------------------------

    def types(self):
        self.dir("types")
        self.file(self.path("types", "reg"), b"plain\n")
        os.mkfifo(self.path("types", "fifo"), 0o640)
        with socket.socket(socket.AF_UNIX) as sock:
            here = os.getcwd()
            os.chdir(self.path("types"))  # the address holds no more than 107 bytes
            try:
                sock.bind("sock")
            finally:
                os.chdir(here)
        for major, minor in DEVICES:
            number = os.makedev(major, minor)
            os.mknod(self.path("types", f"chr-{major}-{minor}"), stat.S_IFCHR | 0o600, number)
            os.mknod(self.path("types", f"blk-{major}-{minor}"), stat.S_IFBLK | 0o660, number)

    def symlinks(self):
        self.dir("symlinks")
        most = self.caps.symlink_max()
        for length in sorted({1, 2, 58, 59, 60, 61, 100, 155, 156, 157, 160, 412, 924, 1000, 4000,
                              most}):
            if length <= most:
                target = b"/".join([b"t" * 99] * 41)[:length - 1] + b"z"
                os.symlink(target, self.path("symlinks", f"l{length}"))
        os.symlink(b"\xff\xfe\x01 %", self.path("symlinks", "bytes"))
        os.symlink("../types/reg", self.path("symlinks", "relative"))
        os.symlink("/", self.path("symlinks", "root"))
        os.symlink("loop", self.path("symlinks", "loop"))

    def name(self, length):
        """A name of any bytes, but neither "." nor ".."."""
        while True:
            raw = bytes(self.random.choice(range(1, 256)) for _ in range(length))
            if b"/" not in raw and raw not in (b".", b".."):
                return raw

    def names(self):
        self.dir("names")
        names = {bytes([b]) for b in range(1, 256)} - {b"/", b"."}
        names |= {self.name(length) for length in range(1, 256)}
        names |= {b"...", b"..x", b"-rf", b" ", b"a\nb", b"%41", b'"\\', b"x" * 255, b"\xff" * 255,
                  "n\u00e4me".encode(), "na\u0308me".encode()}
        for name in sorted(names):
            self.file(self.path("names", name))

    def directories(self):
        self.dir("dirs")
        self.dir("dirs", "0")
        self.dir("dirs", "1")
        self.file(self.path("dirs", "1", "only"), b"1")
        self.dir("dirs", "4")
        for i in range(4):
            self.dir("dirs", "4", f"sub{i}")
        self.dir("dirs", "1000")
        many = [self.file(self.path("dirs", "1000", f"e{i:04}-" + "n" * self.random.randrange(40)))
                for i in range(1300)]
        for path in self.random.sample(many, 300):
            os.unlink(path)
            many.remove(path)
        if "big" in self.extras:
            self.linked_directory(BIG_DIRECTORY, many, 100000, 4, 24)
        if "long" in self.extras:
            # Long names make few to a block: a third index level, on blocks of 1 KiB.
            self.linked_directory(LONG_DIRECTORY, many, 60000, 215, 245)

    def linked_directory(self, where, targets, count, shortest, longest):
        path = self.dir(where)
        for i in range(count):
            extra = self.random.randrange(shortest, longest)
            name = f"{i * 7919 % count:06x}".encode() + b"abcdefghij" * 25
            os.link(targets[i % len(targets)], path + b"/" + name[:extra + 6])

    def deep(self):
        path = self.dir("deep")
        for level in range(40):
            path += b"/" + f"level-{level:02}-".encode() + b"d" * self.random.randrange(40)
            os.mkdir(path)
        self.file(path + b"/bottom", b"deep\n")

    # ---- contents -------------------------------------------------------------------------------

    def sizes(self):
        self.dir("sizes")
        for size in sorted(set(SIZES) | {self.block - 1, self.block, self.block + 1}):
            self.file(self.path("sizes", f"s{size}"), self.bytes(size))
        # Grown and shrunk: through the inline limit and back.
        with self.opened(self.path("sizes", "shrunk")) as fd:
            os.write(fd, self.bytes(5000))
            os.fsync(fd)
            os.ftruncate(fd, 70)
        with self.opened(self.path("sizes", "extended")) as fd:
            os.write(fd, self.bytes(70))
            os.fsync(fd)
            os.ftruncate(fd, 150)
        with self.opened(self.path("sizes", "zeros")) as fd:
            os.write(fd, bytes(3 * self.block))

    def sparse(self):
        self.dir("sparse")
        with self.opened(self.path("sparse", "3g")) as fd:
            for offset, count in [(0, 100), (2**20 + 1, 5000), (2**28 - 1, 2), (2**31 - 100, 200),
                                  (3 * 2**30 - 5000, 9000)]:
                os.pwrite(fd, self.bytes(count), offset)
            os.ftruncate(fd, 3 * 2**30 + 12345)
        with self.opened(self.path("sparse", "hole")) as fd:
            os.ftruncate(fd, 5 * 2**30)
        with self.opened(self.path("sparse", "tail")) as fd:
            os.pwrite(fd, self.bytes(10), 0)
            os.ftruncate(fd, 10 * self.block + 1)
        if self.caps.has("extent") and self.caps.has("huge_file"):
            with self.opened(self.path("sparse", "top")) as fd:
                # The limit of a file that is inline is that of block maps: leave inline first.
                os.pwrite(fd, self.bytes(10), self.block + 7)
                os.pwrite(fd, self.bytes(10), (2**32 - 3) * self.block)

    def fragmented(self):
        self.dir("frag")
        with self.opened(self.path(DEEP_FILE)) as fd:
            for i in range(self.caps.deep_extents()):
                os.pwrite(fd, self.bytes(16), 2 * i * self.block)
        with self.opened(self.path("frag", "a")) as a, self.opened(self.path("frag", "b")) as b:
            for i in range(60):
                os.pwrite(a, self.bytes(self.block), i * self.block)
                os.pwrite(b, self.bytes(self.block), (59 - i) * self.block)
                if i % 10 == 9:
                    os.fdatasync(a)
                    os.fdatasync(b)
        # Through the direct, the indirect and into the double indirect blocks of a block map.
        with self.opened(self.path("frag", "contiguous")) as fd:
            os.write(fd, self.bytes((12 + self.block // 4 + 20) * min(self.block, 1024)))
        with self.opened(self.path("frag", "edges")) as fd:
            per = self.block // 4
            for index in (0, 11, 12, 12 + per - 1, 12 + per, 12 + per + per * per - 1,
                          12 + per + per * per, 12 + per + per * per + 1):
                os.pwrite(fd, self.bytes(self.block), index * self.block)

    def unwritten(self):
        self.dir("unwritten")
        with self.opened(self.path("unwritten", "whole")) as fd:
            fallocate(fd, 0, 0, 2**20)
        with self.opened(self.path("unwritten", "beyond")) as fd:
            os.write(fd, self.bytes(5000))
            fallocate(fd, KEEP_SIZE, 0, 2**18)
        with self.opened(self.path("unwritten", "only-beyond")) as fd:
            fallocate(fd, KEEP_SIZE, 2**18, 2**18)
        with self.opened(self.path("unwritten", "partial")) as fd:
            fallocate(fd, 0, 0, 64 * self.block)
            os.pwrite(fd, self.bytes(300), 10 * self.block + 100)
            os.pwrite(fd, self.bytes(10 * self.block), 20 * self.block)
            os.pwrite(fd, self.bytes(1), 64 * self.block - 1)
        with self.opened(self.path("unwritten", "islands")) as fd:
            fallocate(fd, 0, 0, 400 * self.block)
            for i in range(0, 400, 5):
                os.pwrite(fd, self.bytes(9), i * self.block)
        with self.opened(self.path("unwritten", "zeroed")) as fd:
            os.write(fd, self.bytes(32 * self.block))
            fallocate(fd, ZERO_RANGE, 4 * self.block + 10, 16 * self.block)
        with self.opened(self.path("unwritten", "collapsed")) as fd:
            os.write(fd, self.bytes(6 * self.unit + 10))
            fallocate(fd, COLLAPSE, self.unit, 2 * self.unit)
        with self.opened(self.path("unwritten", "inserted")) as fd:
            os.write(fd, self.bytes(3 * self.unit + 10))
            fallocate(fd, INSERT, self.unit, 2 * self.unit)

    def punched(self):
        self.dir("punched")
        for name, start, length in (("aligned", 8 * self.block, 4 * self.block),
                                    ("crooked", 5 * self.block + 3, 9 * self.block),
                                    ("start", 0, 3 * self.block)):
            with self.opened(self.path("punched", name)) as fd:
                os.write(fd, self.bytes(32 * self.block))
                os.fsync(fd)
                fallocate(fd, PUNCH_HOLE | KEEP_SIZE, start, length)

    # ---- attributes -----------------------------------------------------------------------------

    def links(self):
        self.dir("links")
        self.dir("links", "other")
        for kind in ("reg", "fifo", "sock", "chr-1-3"):
            os.link(self.path("types", kind), self.path("links", kind))
            os.link(self.path("types", kind), self.path("links", "other", kind))
        os.link(self.path("symlinks", "l1"), self.path("links", "symlink"), follow_symlinks=False)

    def set(self, path, name, value):
        os.setxattr(path, name, value, follow_symlinks=False)

    def xattrs(self):
        self.dir("xattrs")
        # Also for directories, symlinks and devices, where user.* is refused by the VFS.
        self.set(self.path("xattrs"), "user.of-a-directory", b"yes")
        os.symlink("x" * 50, self.path("xattrs", "symlink"))
        os.mkfifo(self.path("xattrs", "fifo"))
        for special in ("symlink", "fifo"):
            self.set(self.path("xattrs", special), "trusted.t", self.bytes(20))
            self.set(self.path("xattrs", special), "security.s", self.bytes(30))
        for size in (0, 1, 2, 3, 4, 5, 31, 32, 64, 65, 100, 255, 400):
            path = self.file(self.path("xattrs", f"v{size}"))
            self.set(path, "user.v", self.bytes(size))
        path = self.file(self.path("xattrs", "max"), b"max")
        self.set(path, "user.max", self.bytes(self.caps.value_max("max")))
        path = self.file(self.path("xattrs", "names"))
        for name in (b"user.a", b"user." + b"n" * 250, b"user.\xff\xfe \n", b"trusted.dotted.name",
                     b"security.other", b"trusted." + b"m" * 100):
            self.set(path, name, self.bytes(7))
        path = self.file(self.path("xattrs", "many"), self.bytes(80))
        for i in range(self.block // 60):
            self.set(path, f"{('user', 'trusted', 'security')[i % 3]}.k{i}", self.bytes(i % 13))
        path = self.file(self.path("xattrs", "capable"), b"#!/bin/true\n")
        self.set(path, "security.capability", capability(0x2400))
        # Equal blocks are shared between inodes.
        value = self.bytes(self.block // 2)
        for i in range(8):
            path = self.file(self.path("xattrs", f"shared{i}"))
            self.set(path, "user.shared", value)
            self.set(path, "trusted.shared", b"same")
        # Removed and changed ones leave gaps.
        path = self.file(self.path("xattrs", "changed"))
        for i in range(10):
            self.set(path, f"user.c{i}", self.bytes(20))
        for i in range(0, 10, 2):
            os.removexattr(path, f"user.c{i}")
        self.set(path, "user.c1", self.bytes(60))
        if self.caps.has("ea_inode"):
            self.large_values()

    def large_values(self):
        value = self.bytes(65536)
        for i in range(3):
            path = self.file(self.path("xattrs", f"large{i}"), b"large")
            self.set(path, "user.large", value)
            self.set(path, "trusted.own", self.bytes(self.block + 1 + i))
        path = self.file(self.path("xattrs", "larges"))
        for i in range(5):
            self.set(path, f"user.l{i}", self.bytes(self.block * (i + 1) % 65537))

    def acls(self):
        self.dir("acls")
        full = [("u", None, 7), ("u", 1000, 5), ("u", 70000, 0), ("g", None, 5), ("g", 1, 6),
                ("g", 2**32 - 2, 1), ("m", None, 7), ("o", None, 4)]
        path = self.file(self.path("acls", "access"), b"acl")
        self.set(path, "system.posix_acl_access", acl(full))
        path = self.file(self.path("acls", "minimal"))
        self.set(path, "system.posix_acl_access",
                 acl([("u", None, 6), ("g", None, 4), ("o", None, 0)]))
        path = self.dir("acls", "default")
        self.set(path, "system.posix_acl_default", acl(full))
        self.file(path + b"/inherits")
        os.mkdir(path + b"/inherits-dir")
        path = self.dir("acls", "both")
        self.set(path, "system.posix_acl_default", acl(full[:1] + full[3:4] + full[7:]))
        self.set(path, "system.posix_acl_access", acl(full))
        path = self.file(self.path("acls", "many"))
        count = 30 if self.block == 1024 else 60
        self.set(path, "system.posix_acl_access",
                 acl([("u", None, 7)] + [("u", 1000 + i, i % 8) for i in range(count)]
                     + [("g", None, 5), ("m", None, 7), ("o", None, 0)]))

    def owners(self):
        self.dir("owners")
        for i, (uid, gid) in enumerate(zip(IDS, reversed(IDS))):
            path = self.file(self.path("owners", f"o{i}"))
            os.chown(path, uid, gid)
        os.symlink("x", self.path("owners", "symlink"))
        os.lchown(self.path("owners", "symlink"), 100000, 200000)
        for mode in (0, 0o777, 0o4755, 0o2755, 0o1777, 0o6711, 0o7777, 0o111):
            os.chmod(self.file(self.path("owners", f"m{mode:04o}")), mode)
            os.chmod(self.dir("owners", f"d{mode:04o}"), mode)

    def flags(self):
        self.dir("flags")
        bits = {"sync": 0x8, "immutable": 0x10, "append": 0x20, "nodump": 0x40, "noatime": 0x80,
                "secure": 0x1, "undelete": 0x2, "journalled": 0, "all": 0x8 | 0x40 | 0x80}
        for name, bit in bits.items():
            self.set_flags(self.file(self.path("flags", name), b"flags"), bit)
        for name, bit in {"dirsync": 0x10000, "topdir": 0x20000, "nodump-dir": 0x40,
                          "immutable-dir": 0x10}.items():
            path = self.dir("flags", name)
            self.file(path + b"/inside")
            self.set_flags(path, bit)

    @staticmethod
    def set_flags(path, bits):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            old = get_u32(fd, FS_IOC_GETFLAGS)
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("=Q", old | bits))
        finally:
            os.close(fd)

    def times(self):
        self.dir("times")
        stamps = [s * 10**9 + ns for s, ns in TIMES]
        for i, ns in enumerate(stamps):
            path = self.file(self.path("times", f"t{i}"))
            os.utime(path, ns=(ns, stamps[-1 - i]))
            path = self.dir("times", f"d{i}")
            os.utime(path, ns=(stamps[-1 - i], ns))
        os.symlink("x", self.path("times", "symlink"))
        os.utime(self.path("times", "symlink"), ns=(stamps[3], stamps[-2]), follow_symlinks=False)


def build(root, caps, seed, extras=()):
    """Fills the file system mounted at `root`."""
    Tree(root, caps, seed, extras).build()
