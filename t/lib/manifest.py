# SPDX-License-Identifier: MIT
"""Everything a reader shows of a tree, in one comparable form: the manifest.

A manifest is a dict from path (percent-encoded, "" is the root) to a record, and from STATFS to the
mount's numbers.  scan() makes one from a mounted directory, load() from the JSON lines that
t/manifest.c prints from the library, from_tar() (tar.py) from an archive; they share this form:

    path      components joined by "/"; bytes outside "!".."~", and "%", as %XX
    ino       inode number.  A second name of an inode that was seen has only path and ino.
    type      reg dir lnk chr blk fifo sock
    mode, nlink, uid, gid, size, blocks, blksize
    rdev      "major:minor" of a device
    atime, mtime, ctime, crtime   "seconds.nanoseconds"; crtime null where the inode has no room
    target    of a symlink, encoded as path
    digest    of a file's contents, see Digest
    seek      [[data, hole], ...] as SEEK_DATA and SEEK_HOLE tell
    fiemap    [[logical, physical, length, flags], ...], see extents_of()
    xattrs    {name: value}, encoded by encode_value()
    flags, generation, projid     of files and directories
    entries   of a directory: count and a hash of the sorted (name, inode) pairs, "." and ".." too
    types     a hash of the sorted (name, type) pairs, the type as it is on disk

Directories are walked in byte order of their names, each before its contents, so that the first
name of an inode is the same one everywhere.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import stat
import struct

from .harness import libc

STATFS = "<statfs>"

WINDOW = 1 << 20       # contents are read in pieces of this
PIECE = 4096           # and hashed in pieces of this
HOLE_READ_MAX = 4 << 20  # a larger hole is read only in places
HOLE_PROBE = 65536     # this much at its start, middle and end
FULL_READ_MAX = 4 << 30  # a larger file is never read in full
DATA_READ_MAX = 64 << 30  # more "data" than this in one go is treated as a hole


def encode(raw):
    """Bytes as printable ASCII; "/" stays."""
    if raw.isalnum() and raw.isascii():
        return raw.decode("ascii")
    return "".join(chr(b) if 0x21 <= b <= 0x7E and b != 0x25 else f"%{b:02X}" for b in raw)


def decode(text):
    out = bytearray()
    at = 0
    while at < len(text):
        if text[at] == "%":
            out.append(int(text[at + 1:at + 3], 16))
            at += 3
        else:
            out.append(ord(text[at]))
            at += 1
    return bytes(out)


def encode_value(raw):
    """The value of an attribute: itself if short, else its length and hash."""
    if len(raw) <= 64:
        return encode(raw)
    return f"#{len(raw)}:{hashlib.sha256(raw).hexdigest()}"


class Digest:
    """The contents of a file without its zeros: a SHA-256 over (offset as le64, bytes) of each
    aligned 4096-byte piece that is not all zero.  It does not depend on where holes are."""

    _zeros = bytes(WINDOW)

    def __init__(self):
        self._hash = hashlib.sha256()

    def add(self, offset, data):
        """`offset` is a multiple of PIECE, and so is the length, but at the end of the file."""
        if data == self._zeros[:len(data)]:
            return
        for at in range(0, len(data), PIECE):
            piece = data[at:at + PIECE]
            if piece != self._zeros[:len(piece)]:
                self._hash.update(struct.pack("<Q", offset + at))
                self._hash.update(piece)

    def value(self):
        return self._hash.hexdigest()


def probes(start, end):
    """The ranges read of the hole [start, end): all of it, or its ends and its middle."""
    if end - start <= HOLE_READ_MAX:
        return [(start, end)]
    middle = start + (end - start) // 2
    return [(start, start + HOLE_PROBE), (middle, middle + HOLE_PROBE), (end - HOLE_PROBE, end)]


def ranges_to_read(size, segments, full):
    """What is read of a file, as aligned ranges that do not overlap, in order."""
    if full and size <= FULL_READ_MAX:
        return [(0, size)] if size else []
    wanted = []
    at = 0
    for start, end in segments + [[size, size]]:
        wanted += probes(at, start) if start > at else []
        if end - start > DATA_READ_MAX:
            wanted += probes(start, end)
        elif end > start:
            wanted.append((start, end))
        at = end
    merged = []
    for start, end in wanted:
        start -= start % PIECE
        end = min(size, end + -end % PIECE)
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        elif end > start:
            merged.append([start, end])
    return merged


# ---- system calls that Python lacks ------------------------------------------------------------


class Statx:
    """statx(2) of `path`, not following symlinks."""

    _buffer = ctypes.create_string_buffer(256)
    BTIME = 0x800

    def __init__(self, path):
        # AT_FDCWD, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME
        if libc.statx(-100, path, 0x100, 0xFFF, self._buffer) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        (self.mask, self.blksize, _, self.nlink, self.uid, self.gid, self.mode, self.ino,
         self.size, self.blocks, _) = struct.unpack_from("=IIQIIIH2xQQQQ", self._buffer, 0)
        times = [struct.unpack_from("=qI4x", self._buffer, 64 + 16 * i) for i in range(4)]
        self.atime, self.crtime, self.ctime, self.mtime = times
        self.rdev = struct.unpack_from("=II", self._buffer, 128)


def getdents(fd):
    """[(name, inode, type), ...] of an open directory, as the kernel gives them."""
    buffer = ctypes.create_string_buffer(1 << 16)
    entries = []
    while True:
        got = libc.getdents64(fd, buffer, len(buffer))
        if got < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if got == 0:
            return entries
        raw = buffer.raw[:got]
        at = 0
        while at < got:
            ino, _, length, kind = struct.unpack_from("=QqHB", raw, at)
            entries.append((raw[at + 19:raw.index(b"\0", at + 19)], ino, kind))
            at += length


FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IOC_GETVERSION = 0x80087601
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FIEMAP = 0xC020660B

FIEMAP_LAST, FIEMAP_INLINE, FIEMAP_UNWRITTEN = 0x1, 0x200, 0x800
EXTENT_LAST, EXTENT_UNWRITTEN, EXTENT_INLINE = 1, 2, 4  # as uext4.h numbers them


def get_u32(fd, request):
    return struct.unpack("=I4x", fcntl.ioctl(fd, request, bytes(8)))[0]


def fiemap(fd):
    """The raw extents [logical, physical, length, flags] of an open file."""
    batch = 512
    extents = []
    start = 0
    while True:
        buffer = bytearray(32 + 56 * batch)
        struct.pack_into("=QQIII", buffer, 0, start, (1 << 64) - 1 - start, 0, 0, batch)
        fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
        count = struct.unpack_from("=I", buffer, 20)[0]
        for i in range(count):
            logical, physical, length, flags = struct.unpack_from("=QQQ16xI", buffer, 32 + 56 * i)
            extents.append([logical, physical, length, flags])
        if count == 0 or extents[-1][3] & FIEMAP_LAST:
            return extents
        start = extents[-1][0] + extents[-1][2]


def merge(extents):
    """Joins neighbours; only UNWRITTEN and INLINE are kept of the flags.  How far a reader joins
    extents is its own affair, where they lie is not."""
    merged = []
    for logical, physical, length, flags in extents:
        flags &= EXTENT_UNWRITTEN | EXTENT_INLINE
        last = merged[-1] if merged else None
        if (last and last[0] + last[2] == logical and last[1] + last[2] == physical
                and last[3] == flags and not flags & EXTENT_INLINE):
            last[2] += length
        else:
            merged.append([logical, physical, length, flags])
    return merged


def extents_of(fd):
    flags = {FIEMAP_UNWRITTEN: EXTENT_UNWRITTEN, FIEMAP_INLINE: EXTENT_INLINE}
    return merge([e[:3] + [sum(ours for theirs, ours in flags.items() if e[3] & theirs)]
                  for e in fiemap(fd)])


def segments_of(fd, size):
    """The data segments of an open file."""
    segments = []
    at = 0
    while at < size:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as err:
            if err.errno != errno.ENXIO:
                raise
            break
        hole = os.lseek(fd, data, os.SEEK_HOLE)
        segments.append([data, hole])
        at = hole
    return segments


# ---- a mounted tree ----------------------------------------------------------------------------

_TYPES = {stat.S_IFREG: "reg", stat.S_IFDIR: "dir", stat.S_IFLNK: "lnk", stat.S_IFCHR: "chr",
          stat.S_IFBLK: "blk", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "sock"}
# Types of directory entries, the system call's to the disk's.
_DT = {0: 0, 8: 1, 4: 2, 2: 3, 6: 4, 1: 5, 12: 6, 10: 7}


def format_time(seconds, nanoseconds):
    return f"{seconds}.{nanoseconds:09d}"


def hash_entries(pairs):
    """pairs: (name, number), sorted by name."""
    hashed = hashlib.sha256()
    for name, number in pairs:
        hashed.update(name + b"\0" + struct.pack("<I", number))
    return hashed.hexdigest()


def optional(function, *args):
    """The result, or None where the file system does not have this call at all."""
    try:
        return function(*args)
    except OSError as err:
        if err.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS):
            return None
        raise


class Scanner:
    """Reads one mounted tree.  `full` reads large holes too."""

    def __init__(self, root, full=False):
        self.root = os.fsencode(root)
        self.full = full
        self.records = {}
        self._seen = set()

    def scan(self):
        waiting = [b""]
        while waiting:
            relative = waiting.pop()
            path = self.root + b"/" + relative if relative else self.root
            ino = os.lstat(path).st_ino
            record = {"path": encode(relative), "ino": ino}
            self.records[record["path"]] = record
            if ino in self._seen:
                continue
            self._seen.add(ino)
            names = self._inode(path, record)
            waiting.extend(relative + b"/" + n if relative else n for n in reversed(names))
        self._statfs()
        return self.records

    def _inode(self, path, record):
        """Completes a record; returns the names in it if it is a directory."""
        st = Statx(path)
        kind = _TYPES[stat.S_IFMT(st.mode)]
        record.update(
            type=kind, mode=st.mode, nlink=st.nlink, uid=st.uid, gid=st.gid, size=st.size,
            blocks=st.blocks, blksize=st.blksize, atime=format_time(*st.atime),
            mtime=format_time(*st.mtime), ctime=format_time(*st.ctime),
            crtime=format_time(*st.crtime) if st.mask & Statx.BTIME else None)
        if kind in ("chr", "blk"):
            record["rdev"] = f"{st.rdev[0]}:{st.rdev[1]}"
        if kind == "lnk":
            record["target"] = encode(os.readlink(path))
        record["xattrs"] = self._xattrs(path)
        names = []
        if kind in ("reg", "dir"):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME)
            try:
                self._open_inode(fd, record)
                if kind == "reg":
                    self._contents(fd, record)
                else:
                    names = self._entries(fd, record)
            finally:
                os.close(fd)
        return names

    @staticmethod
    def _xattrs(path):
        names = os.listxattr(path, follow_symlinks=False)
        return {encode(os.fsencode(n)): encode_value(os.getxattr(path, n, follow_symlinks=False))
                for n in names}

    @staticmethod
    def _open_inode(fd, record):
        record["flags"] = optional(get_u32, fd, FS_IOC_GETFLAGS)
        record["generation"] = optional(get_u32, fd, FS_IOC_GETVERSION)
        fsx = optional(fcntl.ioctl, fd, FS_IOC_FSGETXATTR, bytes(28))
        record["projid"] = struct.unpack_from("=I", fsx, 12)[0] if fsx else None
        record["fiemap"] = optional(extents_of, fd)

    def _contents(self, fd, record):
        size = record["size"]
        record["seek"] = segments_of(fd, size)
        digest = Digest()
        for start, end in ranges_to_read(size, record["seek"], self.full):
            for at in range(start, end, WINDOW):
                want = min(WINDOW, end - at)
                data = os.pread(fd, want, at)
                if len(data) != want:
                    raise OSError(errno.EIO, f"{len(data)} of {want} bytes at {at}")
                digest.add(at, data)
        record["digest"] = digest.value()

    @staticmethod
    def _entries(fd, record):
        entries = sorted(getdents(fd))
        record["entries"] = [len(entries), hash_entries((n, i) for n, i, _ in entries)]
        record["types"] = hash_entries((n, _DT[t]) for n, _, t in entries)
        return [n for n, _, _ in entries if n not in (b".", b"..")]

    def _statfs(self):
        fs = os.statvfs(self.root)
        self.records[STATFS] = {
            "blocks": fs.f_blocks, "blocks_free": fs.f_bfree, "blocks_available": fs.f_bavail,
            "inodes": fs.f_files, "inodes_free": fs.f_ffree, "block_size": fs.f_bsize,
            "name_max": fs.f_namemax, "fsid": fs.f_fsid}


def scan(root, full=False):
    """The manifest of a mounted directory.  The mount should be read-only and noatime."""
    return Scanner(root, full).scan()


def load(lines):
    """A manifest from JSON lines: records, and last {"statfs": {...}}."""
    records = {}
    for line in lines:
        record = json.loads(line)
        if "statfs" in record:
            records[STATFS] = record["statfs"]
            continue
        if record.get("fiemap") is not None:
            record["fiemap"] = merge(record["fiemap"])
        if record["path"] in records:
            raise ValueError(f"{record['path']} appears twice")
        records[record["path"]] = record
    return records


# ---- comparing ---------------------------------------------------------------------------------


def _show(value):
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 90 else text[:87] + "..."


def _list_difference(reference, got):
    """Where two long lists part."""
    for i, (a, b) in enumerate(zip(reference, got)):
        if a != b:
            return f"[{i}] {a} but {b}"
    return f"{len(reference)} items but {len(got)}"


def _difference(value, other, names):
    if isinstance(value, list) and isinstance(other, list):
        return f"{_list_difference(value, other)} ({names[0]}, {names[1]})"
    if isinstance(value, dict) and isinstance(other, dict):
        keys = [k for k in sorted(set(value) | set(other)) if value.get(k) != other.get(k)]
        return "; ".join(f"{k}: {_show(value.get(k))} {names[0]}, {_show(other.get(k))} {names[1]}"
                         for k in keys[:3])
    return f"{_show(value)} {names[0]}, {_show(other)} {names[1]}"


def _in_turn(found):
    """All lines, one of each field in turn, so that a short report shows every field; a summary
    before them if there are many."""
    lines = []
    for at in range(max(map(len, found.values()), default=0)):
        lines += [of_field[at] for of_field in found.values() if at < len(of_field)]
    if len(lines) > 10:
        lines.insert(0, "by field: " + ", ".join(f"{f} {len(v)}" for f, v in found.items()))
    return lines


def compare(reference, got, lacks=(), ignore=None, names=("kernel", "ours")):
    """Lines that say how `got` differs from `reference`.

    `lacks` are fields that `got` cannot carry.  `ignore(path, field, reference, got)` may excuse
    one difference of two records.  A field is compared where the reference has it.
    """
    found = {}  # field: lines
    missing = [(p, "missing in") for p in sorted(set(reference) - set(got))]
    missing += [(p, "only in") for p in sorted(set(got) - set(reference))]
    for path, how in missing:
        if not (ignore and ignore(path, None, reference.get(path), got.get(path))):
            found.setdefault(how, []).append(f"{path or '/'}: {how} {names[1]}")
    for path, want in reference.items():
        have = got.get(path)
        if have is None or have == want:
            continue
        for field, value in want.items():
            other = have.get(field)
            if value is None and field != "crtime" or value == other or field in lacks:
                continue
            if not (ignore and ignore(path, field, want, have)):
                found.setdefault(field, []).append(
                    f"{path or '/'}: {field}: {_difference(value, other, names)}")
    return _in_turn(found)
