# SPDX-License-Identifier: MIT
"""What debugfs says of inodes: the judge where the kernel does not show something, or cannot mount.

debugfs prints on-disk fields, so that a few rules turn them into what a reader shows.
"""

import re

from .harness import run
from .images import debugfs
from .manifest import EXTENT_UNWRITTEN, format_time, merge

VISIBLE_FLAGS = 0x705BDFFF  # i_flags bits that GETFLAGS shows

_FIELDS = re.compile(
    r"Inode: (?P<ino>\d+)\s+Type: (?P<type>.+?)\s+Mode:\s+(?P<mode>\d+)\s+"
    r"Flags: (?P<flags>0x[0-9a-f]+)\n"
    r"Generation: (?P<generation>\d+)\s+Version: .*\n"
    r"User:\s*(?P<uid>-?\d+)\s+Group:\s*(?P<gid>-?\d+)(?:\s+Project:\s*(?P<projid>-?\d+))?\s+"
    r"Size: (?P<size>\d+)\n"
    r"(?:.*\n)*?Links: (?P<nlink>\d+)\s+Blockcount: (?P<blocks>\d+)\n")
_TIME = re.compile(r"^ ?(\w+time): 0x([0-9a-f]{8})(?::([0-9a-f]{8}))? --", re.M)
_EXTENT = re.compile(r"\((\d+)(?:-(\d+))?(\[u\])?\):(\d+)")
_DEVICE = re.compile(r"Device major/minor number: \d+:\d+ \(hex ([0-9a-f]+):([0-9a-f]+)\)")
_TYPES = {"regular": "reg", "directory": "dir", "symlink": "lnk", "character special": "chr",
          "block special": "blk", "FIFO": "fifo", "socket": "sock"}


def _time(seconds, extra):
    seconds = int(seconds, 16)
    extra = int(extra or "0", 16)
    seconds -= (seconds & 0x80000000) << 1
    return format_time(seconds + ((extra & 3) << 32), extra >> 2)


def stat(image, inodes, block_size):
    """Records, by inode number: type, mode, owner, size, blocks, flags, generation, project, times,
    device numbers, extents."""
    found = {}
    inodes = list(inodes)
    text = debugfs(image, [f"stat <{ino}>" for ino in inodes])
    pieces = re.split(r"^debugfs: stat <\d+>\n", text, flags=re.M)[1:]
    for piece in pieces:
        match = _FIELDS.search(piece)
        if not match:
            raise ValueError(f"cannot parse what debugfs prints: {piece[:300]!r}")
        record = {k: int(match[k]) for k in ("ino", "generation", "size", "nlink", "blocks")}
        # These are printed with a sign.
        record.update({k: int(match[k] or 0) & 0xFFFFFFFF for k in ("uid", "gid", "projid")})
        record["type"] = _TYPES[match["type"]]
        record["permissions"] = int(match["mode"], 8)
        record["raw_flags"] = int(match["flags"], 16)
        record["flags"] = record["raw_flags"] & VISIBLE_FLAGS
        for name, seconds, extra in _TIME.findall(piece):
            record[name] = _time(seconds, extra)
        device = _DEVICE.search(piece)
        if device:
            record["rdev"] = f"{int(device[1], 16)}:{int(device[2], 16)}"
        record["fiemap"] = merge([
            [int(first) * block_size, int(physical) * block_size,
             (int(last or first) - int(first) + 1) * block_size, EXTENT_UNWRITTEN if mark else 0]
            for first, last, mark, physical in _EXTENT.findall(piece.split("BLOCKS:")[-1])])
        found[record["ino"]] = record
    if set(found) != set(inodes):
        raise ValueError(f"debugfs left out {len(set(inodes) - set(found))} inodes")
    return found


def seek_map(extents, size):
    """Data segments that follow from extents."""
    segments = []
    for logical, _, length, flags in extents:
        end = min(logical + length, size)
        if flags & EXTENT_UNWRITTEN or logical >= end:
            continue
        if segments and segments[-1][1] == logical:
            segments[-1][1] = end
        else:
            segments.append([logical, end])
    return segments


def super_numbers(image):
    """What statfs shows straight from the superblock."""
    text = run("dumpe2fs", "-h", image).stdout.decode()
    numbers = {k: int(v) for k, v in re.findall(r"^([^:\n]+):\s*(\d+)$", text, re.M)}
    return {"blocks_free": numbers["Free blocks"], "inodes": numbers["Inode count"],
            "inodes_free": numbers["Free inodes"], "block_size": numbers["Block size"]}
