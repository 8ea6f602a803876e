# SPDX-License-Identifier: MIT
"""A manifest from a pax archive: what `uext4 export` says of a tree.

An archive carries less than a mount (LACKS), and nothing of sockets; a hard link is known by the
name it repeats.  Attributes come as SCHILY.xattr.*, access lists as text in SCHILY.acl.*: they are
turned back into the values that the kernel shows.
"""

import tarfile
from decimal import Decimal

from .manifest import STATFS, WINDOW, Digest, decode, encode, encode_value, format_time
from .tree import acl

# Fields that a record made here never has.
LACKS = ("ino", "nlink", "blocks", "blksize", "crtime", "seek", "fiemap", "flags", "generation",
         "projid", "entries", "types")

_TYPES = {tarfile.REGTYPE: "reg", tarfile.AREGTYPE: "reg", tarfile.DIRTYPE: "dir",
          tarfile.SYMTYPE: "lnk", tarfile.CHRTYPE: "chr", tarfile.BLKTYPE: "blk",
          tarfile.FIFOTYPE: "fifo", tarfile.GNUTYPE_SPARSE: "reg"}
_MODES = {"reg": 0o100000, "dir": 0o040000, "lnk": 0o120000, "chr": 0o020000, "blk": 0o060000,
          "fifo": 0o010000}
_TAGS = {"user": "u", "group": "g", "mask": "m", "other": "o"}


def _raw(text):
    return text.encode("utf-8", "surrogateescape")


def _path(name):
    parts = [p for p in _raw(name).split(b"/") if p not in (b"", b".")]
    return encode(b"/".join(parts))


def _time(text):
    """A pax time, a decimal number of any sign, as the system call gives it."""
    seconds, nanoseconds = divmod(int(Decimal(text) * 10**9), 10**9)
    return format_time(seconds, nanoseconds)


def acl_value(text):
    """The attribute's value from the text form: user:NAME-OR-ID:rwx[:ID],..."""
    entries = []
    for entry in text.replace("\n", ",").split(","):
        if not entry.strip():
            continue
        parts = entry.strip().split(":")
        if parts[0] == "default":
            parts.pop(0)
        letter = _TAGS[parts[0]]
        qualifier = None
        if len(parts) > 2 and (parts[1] or len(parts) > 3):
            qualifier = int(parts[3] if len(parts) > 3 else parts[1])
        perm = parts[2] if len(parts) > 2 else parts[-1]
        bits = sum(bit for bit, c in zip((4, 2, 1), "rwx") if c in perm)
        entries.append((letter, qualifier, bits))
    order = {"u": 0, "g": 1, "m": 2, "o": 3}
    entries.sort(key=lambda e: (order[e[0]], e[1] is not None, e[1] or 0))
    return acl(entries)


def _xattrs(headers):
    found = {}
    for key, value in headers.items():
        if key.startswith("SCHILY.xattr."):
            found[encode(_raw(key[len("SCHILY.xattr."):]))] = encode_value(_raw(value))
        elif key in ("SCHILY.acl.access", "SCHILY.acl.default"):
            found["system.posix_acl_" + key.rsplit(".", 1)[1]] = encode_value(acl_value(value))
    return found


def _contents(archive, member):
    """The digest of a file's contents; of a sparse one only its data is read."""
    digest = Digest()
    data = archive.extractfile(member)
    segments = member.sparse or [(0, member.size)]
    at = 0  # what is before this was read: segments need not lie on the digest's boundaries
    for offset, length in segments:
        start = max(at, offset - offset % 4096)
        end = min(member.size, offset + length + -(offset + length) % 4096)
        for piece in range(start, end, WINDOW):
            data.seek(piece)
            digest.add(piece, data.read(min(WINDOW, end - piece)))
        at = max(at, end)
    return digest.value()


def _record(archive, member):
    kind = _TYPES[member.type]
    headers = member.pax_headers
    record = {"path": _path(member.name), "type": kind, "mode": _MODES[kind] | member.mode,
              "uid": member.uid, "gid": member.gid,
              "mtime": _time(headers.get("mtime", str(int(member.mtime)))),
              "xattrs": _xattrs(headers)}
    for field in ("atime", "ctime"):
        if field in headers:
            record[field] = _time(headers[field])
    if kind == "lnk":
        record["target"] = encode(_raw(member.linkname))
        record["size"] = len(_raw(member.linkname))
    if kind in ("chr", "blk"):
        record["rdev"] = f"{member.devmajor}:{member.devminor}"
    if kind == "reg":
        record["size"] = member.size
        record["digest"] = _contents(archive, member)
    return record


def from_tar(path):
    """The manifest of an archive, in which a further name of an inode has `link`, not `ino`."""
    records = {}
    with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            archive.members = []  # or it would remember all of them
            if member.type == tarfile.LNKTYPE:
                record = {"path": _path(member.name), "link": _path(member.linkname)}
            else:
                record = _record(archive, member)
            if record["path"] in records:
                raise ValueError(f"{record['path']} appears twice")
            records[record["path"]] = record
    return records


def expected(reference):
    """What an archive of the tree should say: `reference` in the archive's terms.  The first name
    of an inode is the one that carries it."""
    first = {}
    records = {}
    for path, record in reference.items():
        if path == STATFS:
            continue
        ino = record["ino"]
        if "type" in record:
            first[ino] = record
        if first[ino]["type"] == "sock":
            continue
        if "type" in record:
            kept = {k: v for k, v in record.items() if k not in LACKS}
            if record["type"] not in ("reg", "lnk"):
                kept.pop("size")
            records[path] = kept
        else:
            records[path] = {"path": path, "link": first[ino]["path"]}
    return records


def canonical(records):
    """Lets the alphabetically first name of each inode carry it, as it does in expected().  Not
    every writer walks in that order."""
    groups = {}
    for path, record in records.items():
        groups.setdefault(record.get("link", path), []).append(path)
    out = {}
    for carrier, paths in groups.items():
        if carrier not in records:  # a link to nothing: shows as it is
            out.update({path: records[path] for path in paths})
            continue
        leader = min(paths, key=walk_key)
        out[leader] = {**records[carrier], "path": leader}
        for path in paths:
            if path != leader:
                out[path] = {"path": path, "link": leader}
    return out


def walk_key(path):
    """Sorts as the walk does: by components, as bytes."""
    return decode(path).split(b"/")
