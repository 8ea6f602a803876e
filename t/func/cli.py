#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The command line as a program: exit status, messages, JSON, what lands where.

That every kind of image is exported as the kernel shows it is t/matrix.py's business; here a few images
serve to hold each command to its word, with the kernel's mount and the usual tools as judges.

    usage    mistakes on the command line, help, what this version does not do
    status   3 to 6: unsupported, busy, corrupt, journal; never 0 when output was lost
    names    operands with colons, descriptors, partitions; bytes that are no text; a terminal
    show     info, stat, ls, find, du, df, xattr against the same questions asked of the kernel's mount
    copy     cp: attributes, holes, links; nothing lands outside of the target
    archive  export: extracted by GNU tar, reproducible, compressed, refused where it must be
    hostile  loops, impossible names, unreadable files: an end, a message, status 5
"""

import base64
import hashlib
import json
import os
import pty
import re
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from lib import harness, images, manifest  # noqa: E402
from lib.harness import Failed, Skip, run  # noqa: E402

OK, FAILED, USAGE, UNSUPPORTED, BUSY, CORRUPT, JOURNAL = range(7)
SUPER = 1024  # where the superblock starts
PLAIN = ("-t", "ext4", "-b", "4096", "-O", "^metadata_csum,^has_journal,^dir_index")


# ---- around one call ---------------------------------------------------------------------------


def call(ctx, *arguments, stdout=None, input=None):
    """Runs the program; returns its CompletedProcess (bytes)."""
    return subprocess.run(
        [ctx.options.uext4, *arguments], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if stdout is None else stdout, stderr=subprocess.PIPE, timeout=120,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"}, check=False)


def expect(what, got, want):
    if got != want:
        raise Failed(f"{what}: {got!r}, expected {want!r}")


def good(ctx, *arguments):
    """Standard output of a call that must succeed in silence."""
    result = call(ctx, *arguments)
    if result.returncode != OK or result.stderr:
        raise Failed(f"`{' '.join(map(os.fsdecode, arguments))}` exited {result.returncode}",
                     result.stderr.decode(errors="replace").splitlines())
    return result.stdout


def fails(ctx, status, reason, *arguments, stdout=None):
    """The call ends with this status and gives this reason (a regular expression) on stderr."""
    result = call(ctx, *arguments, stdout=stdout)
    text = result.stderr.decode(errors="replace")
    shown = " ".join(map(os.fsdecode, arguments))
    if result.returncode != status:
        raise Failed(f"`{shown}` exited {result.returncode}, expected {status}", text.splitlines())
    if not re.search(reason, text):
        raise Failed(f"`{shown}` does not say {reason!r}", text.splitlines())
    for line in text.splitlines():
        if not line.startswith(("uext4: ", "Try 'uext4 ")):
            raise Failed(f"`{shown}` says something unnamed", [line])
    return result


def objects(text):
    """The objects of JSON lines."""
    return [json.loads(line) for line in text.decode("utf-8").splitlines()]


def make_image(path, *arguments, size=16, source=None):
    with open(path, "wb") as f:
        f.truncate(size << 20)
    run("mke2fs", "-q", "-F", "-E", "root_owner=0:0", *(("-d", source) if source else ()), *arguments,
        path)
    return path


def patch(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def get_bytes(path, offset, size):
    with open(path, "rb") as f:
        f.seek(offset)
        return f.read(size)


def plain_tree(ctx):
    """A small tree on the host, to make images from without mounting anything."""
    top = ctx.path("source")
    os.makedirs(f"{top}/dir/below")
    for name, data in (("hello", b"hello\n"), ("dir/one", b"1" * 5000), ("dir/below/two", b"2")):
        with open(f"{top}/{name}", "wb") as f:
            f.write(data)
    os.symlink("hello", f"{top}/link")
    return top


def needs_kernel():
    why = harness.why_no_kernel_mounts()
    if why:
        raise Skip(why)


# ---- usage -------------------------------------------------------------------------------------


def usage(ctx):
    image = make_image(ctx.path("u.img"), source=plain_tree(ctx))
    before = images.digest(image)

    def mistakes():
        for arguments in ((), ("ls",), ("nonsense", image), ("ls", "-Z", image), ("--offset",),
                          ("ls", "--offset"), ("ls", "--offset", "x", image),
                          ("--partition", "0", "ls", image), ("--progress=loud", "ls", image),
                          ("-o", "rw", "ls", image), ("du", "-d", "x", image), ("find",),
                          ("find", image, "-nosuch"), ("find", image, "-name"),
                          ("find", image, "("), ("find", image, "-type", "z"),
                          ("find", image, "-size", "5q"), ("find", image, "-perm", "9"),
                          ("find", image, "-true", ")"), ("xattr", image),
                          ("xattr", "get", f"{image}:/hello"), ("cp", f"{image}:/hello"),
                          ("cp", "/etc/hostname", ctx.path("x")), ("export", image, image),
                          ("cp", f"{image}:/hello", f"{image}:/link", ctx.path("missing"))):
            fails(ctx, USAGE, "Try 'uext4 ", *arguments)
        for place in (("--partition", "2", "--offset", "4096"), ("--offset=1M", "--partition=1")):
            fails(ctx, USAGE, "exclude each other", *place, "ls", image)
            fails(ctx, USAGE, "exclude each other", "mount", image, ctx.dir, *place)
        for command in (("cat", f"{image}:/hello"), ("export", image), ("mount", image, ctx.dir)):
            fails(ctx, USAGE, "JSON", *command, "--json")
        for command in ("info", "df"):
            fails(ctx, USAGE, "takes an image", command, image, f"{image}:/dir")

    def not_yet():
        for arguments in (("import", image), ("build", "-o", "x"), ("mkfs", image), ("edit", image),
                          ("diff", image, image)):
            fails(ctx, UNSUPPORTED, "not in this version", *arguments)

    def help():
        commands = re.findall(r"^  ([a-z]+) ", good(ctx, "--help").decode(), re.M)
        expect("commands", set(commands) >= {"info", "ls", "cp", "export", "mount"}, True)
        for command in commands:
            expect("usage", good(ctx, command, "--help").startswith(b"Usage: uext4 " +
                                                                    command.encode()), True)
            expect("help", good(ctx, "help", command), good(ctx, command, "--help"))
        expect("version", bool(re.match(rb"uext4 \d+\.\d+\.\d+\n$", good(ctx, "--version"))), True)

    def anywhere():
        want = good(ctx, "ls", image)
        for arguments in (("--norecovery", "ls", image), ("ls", image, "--norecovery"),
                          ("-o", "norecovery", "ls", image), ("ls", "-o", "norecovery", image),
                          ("ls", "--cache-size=1M", image), ("--no-lock", "ls", "--", image),
                          ("--offset=0", "--progress", "none", "ls", image)):
            expect(" ".join(arguments), good(ctx, *arguments), want)

    def untouched():
        expect("the image", images.digest(image), before)

    for test in (mistakes, not_yet, help, anywhere, untouched):
        ctx.test(test.__name__.replace("_", " "), test)


# ---- status ------------------------------------------------------------------------------------


def status(ctx):
    source = plain_tree(ctx)
    image = make_image(ctx.path("s.img"), *PLAIN, source=source)

    def copy(name, *patches):
        path = shutil.copy(image, ctx.path(name))
        for offset, data in patches:
            patch(path, offset, data)
        return path

    def failed():
        fails(ctx, FAILED, "No such file", "ls", ctx.path("missing"))
        fails(ctx, FAILED, "No such file", "ls", ctx.path("missing") + ":/x")
        fails(ctx, FAILED, "/nothing", "cat", f"{image}:/nothing")
        fails(ctx, FAILED, "", "cat", f"{image}:/dir")
        fails(ctx, FAILED, "", "ls", source)
        fails(ctx, FAILED, "", "info", os.path.abspath(__file__))
        fails(ctx, FAILED, "attribute user.none: No data", "xattr", "get", "user.none",
              f"{image}:/hello")
        fails(ctx, FAILED, "only with -r", "cp", f"{image}:/dir", ctx.path("x"))

    def goes_on():
        result = fails(ctx, FAILED, "/nothing", "cat", f"{image}:/nothing", f"{image}:/hello")
        expect("output", result.stdout, b"hello\n")
        result = fails(ctx, FAILED, "/nothing", "stat", "--json", f"{image}:/nothing",
                       f"{image}:/hello")
        expect("objects", len(objects(result.stdout)), 1)

    def unsupported():
        incompat = struct.unpack("<I", get_bytes(image, SUPER + 0x60, 4))[0]
        for bit, name in ((0x10000, "encrypt"), (0x20000, "casefold"), (0x800000, "")):
            path = copy("incompat.img", (SUPER + 0x60, struct.pack("<I", incompat | bit)))
            fails(ctx, UNSUPPORTED, name, "ls", path)

    def read_only_compatible():
        known = struct.unpack("<I", get_bytes(image, SUPER + 0x64, 4))[0]
        path = copy("rocompat.img", (SUPER + 0x64, struct.pack("<I", known | 1 << 27)))
        expect("tree", good(ctx, "ls", path), good(ctx, "ls", image))
        info = objects(good(ctx, "info", "--json", path))[0]
        expect("unknown", info["unknown_ro_compat"], ["FEATURE_R27"])
        expect("text", b"FEATURE_R27" in good(ctx, "info", path), True)

    def corrupt():
        summed = make_image(ctx.path("sum.img"), "-t", "ext4", source=source)
        patch(summed, SUPER + 0x78, b"another label")
        fails(ctx, CORRUPT, "checksum", "ls", summed)
        # The first group's inode table lies outside of the image.
        fails(ctx, CORRUPT, "", "ls", copy("desc.img", (4096 + 8, struct.pack("<I", 1 << 30))))

    def journal():
        dirty = make_image(ctx.path("journal.img"), "-t", "ext4", "-b", "4096", "-O",
                           "^metadata_csum", source=source)
        blocks = [int(n) for n in re.findall(r"\d+", images.debugfs(dirty, ["bmap <8> 0"]))]
        incompat = struct.unpack("<I", get_bytes(dirty, SUPER + 0x60, 4))[0]
        patch(dirty, SUPER + 0x60, struct.pack("<I", incompat | 4))
        patch(dirty, blocks[-1] * 4096, bytes(1024))
        fails(ctx, JOURNAL, "journal", "ls", dirty)
        expect("norecovery", good(ctx, "ls", "--norecovery", dirty), good(ctx, "ls", image))

    def replayed():
        dirty = make_image(ctx.path("replay.img"), "-t", "ext4", "-b", "1024", size=20)
        with open(ctx.path("block"), "wb") as f:
            f.write(bytes(1024))
        images.debugfs(dirty, ["jo", f"jw -b 15000 {ctx.path('block')}", "jc"], write=True)
        text = good(ctx, "info", dirty).decode()
        if "1 transaction, 1 block, 0 revokes, 0 fast commits" not in text:
            raise Failed("info does not tell what was replayed", text.splitlines())
        # Backup superblocks never say that a journal is pending.
        text = good(ctx, "info", "--superblock", "8193", dirty).decode()
        if "1 transaction, 1 block" not in text:
            raise Failed("a backup superblock hides the journal", text.splitlines())

    def damaged_counts():
        # Inodes 12 and 13 are each other's next orphan.
        path = make_image(ctx.path("cycle.img"), "-t", "ext4", "-O", "^metadata_csum", source=source)
        images.debugfs(path, ["ssv last_orphan 12", "sif <12> dtime @13", "sif <13> dtime @12"],
                       write=True)
        result = fails(ctx, CORRUPT, "orphan list", "info", "--json", path)
        expect("orphans", objects(result.stdout)[0]["orphans"], None)
        path = make_image(ctx.path("groups.img"), "-t", "ext4", "-b", "1024", size=32, source=source)
        before = get_bytes(path, 2048 + 2 * 64 + 12, 1)[0]
        patch(path, 2048 + 2 * 64 + 12, bytes([before ^ 1]))
        result = fails(ctx, CORRUPT, "descriptors", "info", "--json", path)
        expect("free", objects(result.stdout)[0]["blocks_free"], None)
        good(ctx, "ls", path)

    def busy():
        needs_kernel()
        with harness.loop_device(image):
            fails(ctx, BUSY, "", "ls", image)
            expect("no-lock", call(ctx, "ls", "--no-lock", image).returncode, OK)
        good(ctx, "ls", image)

    def lost_output():
        with open("/dev/full", "wb") as full:
            for arguments in (("info",), ("ls",), ("find",), ("du",), ("df",), ("stat",),
                              ("ls", "--json"), ("export",)):
                fails(ctx, FAILED, "standard output.*No space", *arguments, image, stdout=full)
            fails(ctx, FAILED, "standard output.*No space", "cat", f"{image}:/dir/one", stdout=full)
            fails(ctx, FAILED, "standard output.*No space", "--help", stdout=full)
        fails(ctx, FAILED, "No space", "export", image, "-o", "/dev/full")
        for words in (f"ls {image}", f"cat {image}:/hello", f"export {image}"):
            closed = run("sh", "-c", f"exec {ctx.options.uext4} {words} >&-", check=False)
            expect(f"`{words}`, closed", closed.returncode, FAILED)
        # Who stops reading ends us by SIGPIPE, or, that ignored, by an error.
        pipe = run("sh", "-c", f"{{ {ctx.options.uext4} export {image}; echo $? >&2; }} | true",
                   check=False)
        expect("SIGPIPE", pipe.stderr.split()[-1:] != [b"0"], True)

    for test in (failed, goes_on, unsupported, read_only_compatible, corrupt, journal,
                 replayed, damaged_counts, busy, lost_output):
        ctx.test(test.__name__.replace("_", " "), test)


# ---- names -------------------------------------------------------------------------------------


def on_terminal(ctx, *arguments):
    """What the call writes to a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([ctx.options.uext4, *arguments], stdin=subprocess.DEVNULL,
                               stdout=follower, stderr=follower)
    os.close(follower)
    text = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # how Linux says that the other side is gone
            break
        text += part
    os.close(leader)
    return process.wait(), text.replace(b"\r\n", b"\n")


def partition_table(disk, label, parts):
    """Writes a partition table; `parts` are (first sector, sectors)."""
    def mbr(entries):
        body = b"".join(struct.pack("<B3sB3sII", 0, b"\0\2\0", kind, b"\xff\xff\xff", start, count)
                        for kind, start, count in entries)
        return bytes(446) + body.ljust(64, b"\0") + b"\x55\xaa"

    sectors = os.path.getsize(disk) // 512
    if label == "dos":
        patch(disk, 0, mbr([(0x83, start, count) for start, count in parts]))
        return
    linux = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
    table = b"".join(linux + bytes([i + 1] * 16) + struct.pack("<QQQ", start, start + count - 1, 0) +
                     bytes(72) for i, (start, count) in enumerate(parts)).ljust(128 * 128, b"\0")

    def header(at, other, entries):
        fields = [b"EFI PART", 0x10000, 92, 0, 0, at, other, 34, sectors - 34, b"\7" * 16, entries,
                  128, 128, zlib.crc32(table)]
        packed = struct.pack("<8sIIIIQQQQ16sQIII", *fields)
        fields[3] = zlib.crc32(packed)
        return struct.pack("<8sIIIIQQQQ16sQIII", *fields).ljust(512, b"\0")

    patch(disk, 0, mbr([(0xee, 1, sectors - 1)]) + header(1, sectors - 1, 2) + table)
    patch(disk, (sectors - 33) * 512, table + header(sectors - 1, 1, sectors - 33))


def names(ctx):
    source = ctx.path("names")
    os.makedirs(source)
    raw = [b"plain", b"new\nline", b"esc\x1b[31m", b"\xff\xfe", "Größe".encode(), b"sp ace", b"c1\xc2\x9b"]
    for name in raw:
        with open(os.path.join(os.fsencode(source), name), "wb") as f:
            f.write(name)
    image = make_image(ctx.path("n.img"), *PLAIN, source=source)

    def pipe_is_raw():
        listed = good(ctx, "ls", "-A", image)
        expect("ls", listed, b"".join(n + b"\n" for n in sorted(raw + [b"lost+found"])))
        found = good(ctx, "find", image, "-type", "f", "-print0").split(b"\0")[:-1]
        expect("find", found, sorted(b"/" + n for n in raw))

    def terminal_is_quoted():
        code, text = on_terminal(ctx, "ls", image)
        expect("status", code, OK)
        for part in (b"$'new\\nline'", b"$'esc\\033[31m'", b"$'\\377\\376'", "Größe".encode(),
                     b"sp ace", b"$'c1\\302\\233'"):
            if part + b"\n" not in text:
                raise Failed(f"{part!r} is not there", [repr(text)])
        expect("escape bytes", b"\x1b" in text, False)

    def messages_are_quoted():
        result = call(ctx, "cat", b"%s:/no\x1b[31m\xff\n" % image.encode())
        expect("status", result.returncode, FAILED)
        expect("escape bytes", b"\x1b" in result.stderr or b"\xff" in result.stderr, False)
        expect("lines", result.stderr.count(b"\n"), 1)

    def json_is_exact():
        for command in (("ls",), ("find",)):
            rows = objects(good(ctx, *command, "--json", image))
            got = set()
            for row in rows:
                got.add(base64.b64decode(row["name_b64"]) if "name_b64" in row
                        else row["name"].encode())
            expect(" ".join(command), got >= set(raw), True)

    def json_of_find():
        want = good(ctx, "find", "--json", image)
        expect("-ls", good(ctx, "find", "--json", image, "-ls"), want)

    def attributes_have_files():
        source = plain_tree(ctx)
        for name in ("hello", "dir/one"):
            os.setxattr(f"{source}/{name}", f"user.of-{os.path.basename(name)}", b"x")
        path = make_image(ctx.path("xattr.img"), *PLAIN, source=source)
        operands = [f"{path}:/{name}" for name in ("hello", "dir/below/two", "dir/one")]
        expect("several", good(ctx, "xattr", "list", *operands),
               b"# file: /hello\nuser.of-hello\n\n# file: /dir/one\nuser.of-one\n")
        expect("one", good(ctx, "xattr", "list", operands[0]), b"user.of-hello\n")

    def cat_any():
        for name in raw:
            expect(repr(name), good(ctx, "cat", image.encode() + b":/" + name), name)

    def colons():
        strange = shutil.copy(image, ctx.path("a:b.img"))
        expect("colon", good(ctx, "cat", f"{strange}:/plain"), b"plain")
        os.makedirs(ctx.path("x:"))
        nested = shutil.copy(image, ctx.path("x:", "plain"))
        # ctx/x:/plain is an image itself; it holds /plain.
        expect("nested", good(ctx, "cat", f"{nested}:/plain"), b"plain")
        expect("whole", good(ctx, "ls", nested), good(ctx, "ls", image))

    def descriptor():
        with open(image, "rb") as f:
            for path in (f"/proc/self/fd/{f.fileno()}", f"/dev/fd/{f.fileno()}"):
                result = subprocess.run([ctx.options.uext4, "cat", f"{path}:/plain"],
                                        pass_fds=[f.fileno()], stdout=subprocess.PIPE, check=False)
                expect(path, (result.returncode, result.stdout), (OK, b"plain"))

    def partitions():
        for label in ("dos", "gpt"):
            disk = ctx.path(f"{label}.disk")
            with open(disk, "wb") as f:
                f.truncate(40 << 20)
            partition_table(disk, label, [(2048, 4096), (8192, 32768)])
            with open(image, "rb") as f:
                patch(disk, 8192 * 512, f.read())
            want = good(ctx, "ls", image)
            expect(label, good(ctx, "ls", "--partition", "2", disk), want)
            expect(label, good(ctx, "--offset", str(8192 * 512), "ls", disk), want)
            expect(label, good(ctx, "--offset", "4M", "ls", disk), want)
            fails(ctx, FAILED, "partition 3", "ls", "--partition=3", disk)
            fails(ctx, FAILED, "--partition", "ls", disk)
        fails(ctx, FAILED, "no partition table", "ls", "--partition=1", image)
        os.truncate(ctx.path("gpt.disk"), 30 << 20)
        fails(ctx, FAILED, "not usable.*cut.*--offset", "ls", "--partition=2", ctx.path("gpt.disk"))
        fails(ctx, FAILED, "not usable.*cut.*--offset", "ls", ctx.path("gpt.disk"))
        result = fails(ctx, FAILED, "", "ls", os.path.abspath(__file__))
        expect("no backup in so small a file", b"--superblock" in result.stderr, False)

    def backup():
        large = make_image(ctx.path("backup.img"), "-t", "ext4", "-b", "1024", size=32, source=source)
        want = good(ctx, "ls", large)
        patch(large, 1024, bytes(1024))
        fails(ctx, FAILED, "--superblock 32768, or 8193", "ls", large)
        expect("backup", good(ctx, "ls", "--superblock", "8193", large), want)
        other = ctx.path("swap.img")
        with open(other, "wb") as f:
            f.truncate(1 << 20)
        run("mkswap", other)
        result = fails(ctx, FAILED, "looks like swap", "ls", other)
        expect("no backup", b"--superblock" in result.stderr, False)

    for test in (pipe_is_raw, terminal_is_quoted, messages_are_quoted, json_is_exact, json_of_find,
                 attributes_have_files, cat_any, colons, descriptor, partitions, backup):
        ctx.test(test.__name__.replace("_", " "), test)


# ---- show --------------------------------------------------------------------------------------

RICH = images.Recipe("rich", "-t ext4 -b 1024 -I 256 -O inline_data", size=128)


def rich_image(ctx):
    needs_kernel()
    return images.make(RICH, ctx.dir, 1).path


def lines(text):
    return sorted(text.split(b"\n"))


def show(ctx):
    original = rich_image(ctx)
    # One copy for each reader: the kernel's stands behind a loop device.
    image = shutil.copy(original, ctx.path("copy.img"))
    before = images.digest(image)
    mnt = ctx.path("mnt")

    def stat_agrees():
        rows = {r["path"]: r for r in objects(good(ctx, "find", "--json", image))
                if "path_b64" not in r}
        wrong = []
        for path, row in rows.items():
            st = os.lstat(mnt + path)
            want = {"ino": st.st_ino, "nlink": st.st_nlink, "uid": st.st_uid, "gid": st.st_gid,
                    "size": st.st_size, "blocks": st.st_blocks,
                    "mode": f"{stat.S_IMODE(st.st_mode):04o}"}
            for which in ("atime", "mtime", "ctime"):
                ns = getattr(st, f"st_{which}_ns")
                want[which], want[which + "_nsec"] = divmod(ns, 10**9)
            if stat.S_ISLNK(st.st_mode):
                target = os.fsencode(os.readlink(mnt + path))
                if "target_b64" not in row:
                    want["target"] = target.decode()
            wrong += [f"{path}: {k}: {row.get(k)}, kernel {v}" for k, v in want.items()
                      if row.get(k) != v]
        expect("many", len(rows) > 1000, True)
        return wrong

    def find_agrees():
        wrong = []
        for words in ("", "-type f", "-type d,l", "-name *.c -o -name f*", "! -type d -size +1k",
                      "-size -2", "-size 3c", "-links +1", "-perm 644", "-perm -111", "-perm /6000",
                      "-empty", "-maxdepth 1", "-mindepth 2 -maxdepth 2", "-uid +0",
                      "-path */xattrs/v* -type f", "-iname *A* -type f", "-type d -prune",
                      "( -type l -o -type p ) -name *"):
            expression = ["(", *words.split(), ")"] if words else []
            theirs = subprocess.run(["find", ".", *expression, "-print0"], cwd=mnt,
                                    stdout=subprocess.PIPE, check=True)
            ours = good(ctx, "find", image, *expression, "-print0")
            want = sorted(p[1:] or b"/" for p in theirs.stdout.split(b"\0")[:-1])
            got = sorted(ours.split(b"\0")[:-1])
            if want != got:
                wrong.append(f"find {words}: {len(got)} paths, GNU find {len(want)}; " + repr(
                    sorted(set(want) ^ set(got))[:3]))
        return wrong

    def du_agrees():
        for flags in (["-s"], ["-s", "-b"], ["-a"], ["-d", "2"]):
            theirs = subprocess.run(["du", "-0", *flags, "."], cwd=mnt, stdout=subprocess.PIPE,
                                    check=True)
            want = {p[1:] or b"/": int(n) for n, p in
                    (line.split(b"\t", 1) for line in theirs.stdout.split(b"\0")[:-1])}
            rows = objects(good(ctx, "du", "--json", *flags, image))
            unit = 1 if "-b" in flags else 1024
            got = {r["path"].encode(): -(-r["bytes"] // unit) for r in rows if "path_b64" not in r}
            # Which name of a linked file is counted depends on the order of the walk.
            linked = {p for p in got if os.lstat(mnt.encode() + p).st_nlink > 1 and
                      not os.path.isdir(mnt.encode() + p)}
            dirs = {p for p in got if os.path.isdir(mnt.encode() + p)}
            wrong = [p for p in got if p not in linked and p not in dirs and want.get(p) != got[p]]
            expect(f"du {flags}", wrong, [])
            expect(f"du {flags}, root", got[b"/"], want[b"/"])

    def df_agrees():
        row = objects(good(ctx, "df", "--json", image))[0]
        fs = os.statvfs(mnt)
        expect("df", (row["blocks"], row["blocks_free"], row["blocks_available"], row["inodes"],
                      row["inodes_free"], row["block_size"]),
               (fs.f_blocks, fs.f_bfree, fs.f_bavail, fs.f_files, fs.f_ffree, fs.f_bsize))
        total, used, available, percent = good(ctx, "df", image).split(b"\n")[1].split()[:4]
        theirs = run("df", "--output=size,used,avail,pcent", mnt).stdout.split(b"\n")[1].split()
        expect("text", [total, used, available, percent], theirs)

    def info_agrees():
        info = objects(good(ctx, "info", "--json", image))[0]
        text = run("dumpe2fs", "-h", image).stdout.decode()
        fields = dict(re.findall(r"^([^:\n]+):\s*(.*)$", text, re.M))
        expect("uuid", info["uuid"], fields["Filesystem UUID"])
        expect("blocks", info["blocks"], int(fields["Block count"]))
        expect("free", info["blocks_free"], int(fields["Free blocks"]))
        expect("inodes", info["inodes_free"], int(fields["Free inodes"]))
        expect("journal", info["journal"]["dirty"], False)
        features = set(info["features_compat"] + info["features_incompat"] +
                       info["features_ro_compat"])
        expect("features", features, set(fields["Filesystem features"].split()))
        for part in (info["uuid"], "inline_data", "Journal", "not needed"):
            if part.encode() not in good(ctx, "info", image):
                raise Failed(f"the text lacks {part}")

    def xattr_agrees():
        wrong = []
        for top, _, files in os.walk(os.path.join(mnt, "xattrs")):
            for name in files:
                path = os.path.join(top, name)
                inside = f"{image}:{path[len(mnt):]}"
                got = {}
                for row in objects(good(ctx, "xattr", "list", "-h", "--json", inside)):
                    raw = base64.b64decode(row["name_b64"]) if "name_b64" in row else \
                        row["name"].encode()
                    got[raw] = base64.b64decode(row["value_b64"])
                want = {os.fsencode(n): os.getxattr(path, n, follow_symlinks=False)
                        for n in os.listxattr(path, follow_symlinks=False)}
                if got != want:
                    wrong.append(path)
                for n, value in list(want.items())[:2]:
                    if good(ctx, "xattr", "get", "-h", n, inside) != value:
                        wrong.append(f"{path}: {n!r}")
        return wrong

    def ls_agrees():
        listed = good(ctx, "ls", "-aiR", image)
        count = sum(1 for line in listed.split(b"\n") if re.match(rb" *\d+ ", line))
        expect("entries", count > 1000, True)
        theirs = subprocess.run(["ls", "-1", "-U", "-a", "types"], cwd=mnt, stdout=subprocess.PIPE,
                                check=True).stdout
        expect("ls -a", lines(good(ctx, "ls", "-a", f"{image}:/types")), lines(theirs))
        for name in os.listdir(os.path.join(mnt, "types")):
            row = good(ctx, "ls", "-ld", f"{image}:/types/{name}").split()
            theirs = subprocess.run(["ls", "-nd", f"types/{name}"], cwd=mnt, check=True,
                                    stdout=subprocess.PIPE).stdout.split()
            expect(name, row[:4], theirs[:4])

    def cat_agrees():
        wrong = []
        for directory in ("sizes", "frag", "unwritten", "punched"):
            for name in sorted(os.listdir(os.path.join(mnt, directory))):
                path = os.path.join(mnt, directory, name)
                if os.path.getsize(path) > 64 << 20:
                    continue
                with open(path, "rb") as f:
                    if good(ctx, "cat", f"{image}:/{directory}/{name}") != f.read():
                        wrong.append(path)
        return wrong

    with harness.mounted(original, mnt, "ro,noatime"):
        for test in (stat_agrees, find_agrees, du_agrees, df_agrees, info_agrees, xattr_agrees,
                     ls_agrees, cat_agrees):
            ctx.test(test.__name__.replace("_", " "), test)
    ctx.test("untouched", lambda: expect("the image", images.digest(image), before))


# ---- copy --------------------------------------------------------------------------------------

# What a copy cannot have from the original.
NOT_COPIED = ("ino", "ctime", "crtime", "blocks", "blksize", "fiemap", "flags", "generation", "projid",
              "entries", "types")


def by_first_name(records):
    """Lets a further name of an inode carry its first name, for inode numbers differ."""
    first = {}
    for path in sorted(records):
        record = records[path]
        if "ino" not in record:
            continue
        record["same_as"] = first.setdefault(record["ino"], path)
    full = {r["ino"]: r for r in records.values() if "type" in r}
    return {p: {**full[r["ino"]], "path": p, "same_as": r["same_as"]}
            for p, r in records.items() if "ino" in r and p != manifest.STATFS}


def copy(ctx):
    def whole_tree():
        image = rich_image(ctx)
        target = make_image(ctx.path("target.img"), "-t", "ext4", "-b", "1024", "-I", "256", "-O",
                            "inline_data", size=128)
        with harness.mounted(target, ctx.path("target")) as mnt:
            good(ctx, "cp", "-a", f"{image}:/", mnt)
            run("mount", "-o", "remount,ro,noatime", mnt)
            got = by_first_name(manifest.scan(mnt))
        with harness.mounted(image, ctx.path("mnt"), "ro,noatime") as mnt:
            want = by_first_name(manifest.scan(mnt))
        def ignore(path, field, ours, theirs):
            # Directories shrink, and data is inline where it fits now.
            return field == "size" and ours["type"] == "dir" or field == "seek"
        return manifest.compare(want, got, NOT_COPIED, ignore)

    def holes():
        source = ctx.path("sparse")
        os.makedirs(source)
        with open(f"{source}/big", "wb") as f:
            f.write(b"head")
            f.seek(1 << 30)
            f.write(b"middle")
            f.truncate(3 << 30)
        image = make_image(ctx.path("sparse.img"), "-t", "ext4", source=source)
        good(ctx, "cp", f"{image}:/big", ctx.path("out"))
        st = os.stat(ctx.path("out"))
        expect("size", st.st_size, 3 << 30)
        expect("few blocks", st.st_blocks < 200, True)
        expect("data", [get_bytes(ctx.path("out"), at, 6) for at in (0, 1 << 30)],
               [b"head\0\0", b"middle"])

    def small():
        return make_image(ctx.path("c.img"), *PLAIN, source=small.source)
    small.source = plain_tree(ctx)
    os.link(f"{small.source}/hello", f"{small.source}/dir/again")
    plain = small()

    def places():
        out = ctx.path("places")
        os.makedirs(out)
        good(ctx, "cp", f"{plain}:/hello", f"{plain}:/dir/one", out)
        expect("into", sorted(os.listdir(out)), ["hello", "one"])
        good(ctx, "cp", f"{plain}:/link", f"{out}/followed")
        expect("followed", open(f"{out}/followed", "rb").read(), b"hello\n")
        good(ctx, "cp", "-r", f"{plain}:/link", f"{out}/link")
        expect("link", os.readlink(f"{out}/link"), "hello")
        good(ctx, "cp", "-r", f"{plain}:/dir", f"{out}/new")
        expect("named", sorted(os.listdir(f"{out}/new")), ["again", "below", "one"])
        good(ctx, "cp", "-r", f"{plain}:/dir", out)
        expect("below", sorted(os.listdir(f"{out}/dir")), ["again", "below", "one"])
        for number, operand in enumerate(("/dir/.", "/dir/below/..", "/dir/below/../.", "/dir/./")):
            merged = f"{out}/merged{number}"
            os.makedirs(merged)
            good(ctx, "cp", "-r", f"{plain}:{operand}", merged)
            expect(operand, sorted(os.listdir(merged)), ["again", "below", "one"])
            expect(operand, os.listdir(f"{merged}/below"), ["two"])
        for target in ("missing/", "hello/"):
            fails(ctx, FAILED, "Not a directory", "cp", f"{plain}:/hello", f"{out}/{target}")
        expect("not made", os.path.exists(f"{out}/missing"), False)
        good(ctx, "cp", "-r", f"{plain}:/dir", f"{out}/slash/")
        expect("slash", sorted(os.listdir(f"{out}/slash")), ["again", "below", "one"])
        good(ctx, "cp", "-r", f"{plain}:/", f"{out}/all")
        expect("one file", os.stat(f"{out}/all/hello").st_ino, os.stat(f"{out}/all/dir/again").st_ino)
        piped = subprocess.run([ctx.options.uext4, "cp", f"{plain}:/hello", "/dev/stdout"],
                               stdout=subprocess.PIPE, check=True)
        expect("stdout", piped.stdout, b"hello\n")
        fails(ctx, FAILED, "No space", "cp", f"{plain}:/hello", "/dev/full")

    def stays_inside():
        out, outside = ctx.path("inside"), ctx.path("outside")
        os.makedirs(f"{out}/dir")
        os.makedirs(outside)
        for name in ("file", "linked"):
            with open(f"{outside}/{name}", "wb") as f:
                f.write(b"precious")
        os.symlink(outside, f"{out}/dir/below")
        os.symlink(f"{outside}/file", f"{out}/hello")
        os.link(f"{outside}/linked", f"{out}/dir/one")
        result = fails(ctx, FAILED, "below", "cp", "-a", f"{plain}:/", out)
        expect("objects", result.stderr.count(b"\n"), 1)
        expect("outside", sorted(os.listdir(outside)), ["file", "linked"])
        for name in ("file", "linked"):
            expect(name, open(f"{outside}/{name}", "rb").read(), b"precious")
        expect("replaced", os.path.islink(f"{out}/hello"), False)
        expect("replaced", open(f"{out}/dir/one", "rb").read(), b"1" * 5000)

    def never_the_image():
        before = images.digest(plain)[0]
        fails(ctx, FAILED, "image itself", "cp", f"{plain}:/hello", plain)
        os.makedirs(ctx.path("self"))
        inside = shutil.copy(plain, ctx.path("self", "hello"))
        fails(ctx, FAILED, "image itself", "cp", f"{inside}:/hello", ctx.path("self"))
        fails(ctx, FAILED, "image itself", "export", plain, "-o", plain)
        expect("images", [images.digest(plain)[0], images.digest(inside)[0]], [before, before])

    def full_target():
        needs_kernel()
        target = make_image(ctx.path("tiny.img"), "-t", "ext2", "-N", "32", size=1)
        source = ctx.path("large")
        os.makedirs(source)
        with open(f"{source}/large", "wb") as f:
            f.write(os.urandom(2 << 20))
        image = make_image(ctx.path("large.img"), *PLAIN, source=source)
        with harness.mounted(target, ctx.path("tiny"), fstype="ext2") as mnt:
            fails(ctx, FAILED, "No space", "cp", f"{image}:/large", mnt)
            expect("left over", os.path.exists(f"{mnt}/large"), False)

    def without_root():
        if os.geteuid() != 0:
            raise Skip("needs root")
        out = ctx.path("user")
        os.makedirs(out)
        os.chmod(ctx.dir, 0o755)
        os.chmod(ctx.options.work, 0o755)
        os.chown(out, 65534, 65534)
        os.chmod(plain, 0o644)
        program = shutil.copy(ctx.options.uext4, ctx.path("program"))
        libraries = os.path.dirname(ctx.options.uext4)
        result = subprocess.run(
            [program, "cp", "-a", f"{plain}:/hello", out], user=65534, group=65534, extra_groups=[],
            env={**os.environ, "LD_LIBRARY_PATH": libraries}, stderr=subprocess.PIPE, check=False)
        if b"shared libraries" in result.stderr:
            raise Skip("the build directory is not readable for others")
        expect("status", result.returncode, OK)
        expect("remark", b"owners of 1 files were not kept" in result.stderr, True)
        expect("owner", os.stat(f"{out}/hello").st_uid, 65534)

    for test in (whole_tree, holes, places, stays_inside, never_the_image, full_target, without_root):
        ctx.test(test.__name__.replace("_", " "), test)


# ---- archive -----------------------------------------------------------------------------------


def archive(ctx):
    source = plain_tree(ctx)
    os.link(f"{source}/hello", f"{source}/dir/again")
    os.makedirs(f"{source}/{'L' * 120}/{'M' * 120}")
    long_name = f"{'L' * 120}/{'M' * 120}/{'s' * 200}"
    with open(f"{source}/{long_name}", "wb") as f:
        f.seek(5 << 20)
        f.write(b"data")
        f.truncate(9 << 20)
    with open(os.fsencode(source) + b"/\xff" + b"x" * 150, "wb") as f:
        f.write(b"raw")
    image = make_image(ctx.path("a.img"), "-t", "ext4", "-b", "1024", source=source, size=32)
    # 1.2 seconds before 1970, and 2446: the last second of ext4.
    images.debugfs(image, ["set_inode_field hello mtime @-2",
                           "set_inode_field hello mtime_extra 3200000000",
                           "set_inode_field dir/one mtime @2147483647",
                           "set_inode_field dir/one mtime_extra 7"], write=True)

    def by_gnu_tar():
        needs_kernel()
        rich = rich_image(ctx)
        target = make_image(ctx.path("target.img"), "-t", "ext4", "-b", "1024", "-I", "256", "-O",
                            "inline_data", size=128)
        result = call(ctx, "export", "-o", ctx.path("rich.tar"), rich)
        expect("status", result.returncode, OK)
        with harness.mounted(target, ctx.path("target")) as mnt:
            run("tar", "-xpf", ctx.path("rich.tar"), "-C", mnt, "--numeric-owner", "--acls", "--xattrs",
                "--xattrs-include=*", "--same-owner", "--warning=no-unknown-keyword",
                "--warning=no-timestamp")
            run("mount", "-o", "remount,ro,noatime", mnt)
            got = by_first_name(manifest.scan(mnt))
        with harness.mounted(rich, ctx.path("mnt"), "ro,noatime") as mnt:
            want = manifest.scan(mnt)
        sockets = {r["ino"] for r in want.values() if r.get("type") == "sock"}
        want = by_first_name({p: r for p, r in want.items() if r.get("ino") not in sockets})

        def ignore(path, field, ours, theirs):
            return (field == "size" and ours["type"] == "dir" or field == "seek" or
                    # GNU tar takes no empty or strange attribute names and restores no access times.
                    field == "atime")
        return manifest.compare(want, got, NOT_COPIED, ignore)

    def by_python():
        good(ctx, "export", image, "-o", ctx.path("a.tar"))
        with tarfile.open(ctx.path("a.tar"), errors="surrogateescape") as tar:
            members = {m.name: m for m in tar}
            expect("long name", f"./{long_name}" in members, True)
            sparse = members[f"./{long_name}"]
            expect("sparse", (sparse.size, tar.extractfile(sparse).read()),
                   (9 << 20, bytes(5 << 20) + b"data" + bytes((4 << 20) - 4)))
            expect("raw name", "./\udcff" + "x" * 150 in members, True)
            expect("hard link", members["./hello"].linkname, "./dir/again")
            expect("before 1970", members["./dir/again"].pax_headers["mtime"], "-1.200000000")
            expect("2446", members["./dir/one"].pax_headers["mtime"], "15032385535.000000001")

    def small():
        expect("much smaller than the sparse file",
               os.path.getsize(ctx.path("a.tar")) < 1 << 20, True)

    def reproducible():
        first = good(ctx, "export", image)
        for _ in range(3):
            expect("again", hashlib.sha256(good(ctx, "export", image)).digest(),
                   hashlib.sha256(first).digest())
        with open(ctx.path("a.tar"), "rb") as f:
            expect("-o", f.read() == first, True)

    def compressed():
        want = good(ctx, "export", image)
        for name, tool in (("gzip", "gzip"), ("xz", "xz"), ("zstd", "zstd")):
            if not shutil.which(tool):
                continue
            packed = good(ctx, "export", f"--compress={name}", image)
            expect(name, run(tool, "-dc", input=packed).stdout == want, True)
        fails(ctx, USAGE, "nonsense", "export", "--compress=nonsense", image, "-o",
              ctx.path("none.tar"))
        expect("left over", os.path.exists(ctx.path("none.tar")), False)

    def parts():
        def members(operand):
            listed = run("tar", "-tf", "-", input=good(ctx, "export", operand)).stdout
            return listed.decode().split()
        expect("directory", members(f"{image}:/dir"),
               ["./", "./again", "./below/", "./below/two", "./one"])
        expect("file", members(f"{image}:/dir/one"), ["one"])

    def not_to_a_terminal():
        code, text = on_terminal(ctx, "export", image)
        expect("status", code, USAGE)
        expect("text", b"terminal" in text, True)

    def progress():
        result = call(ctx, "export", "--progress=json", image)
        rows = objects(result.stderr)
        expect("last", rows[-1]["bytes"], len(result.stdout))
        expect("quiet", call(ctx, "export", image).stderr, b"")

    for test in (by_gnu_tar, by_python, small, reproducible, compressed, parts, not_to_a_terminal,
                 progress):
        ctx.test(test.__name__.replace("_", " "), test)


# ---- hostile -----------------------------------------------------------------------------------


def replace_once(image, old, new):
    """Changes bytes that occur exactly once in the image."""
    with open(image, "r+b") as f:
        data = f.read()
        expect(f"occurrences of {old!r}", data.count(old), 1)
        f.seek(data.index(old))
        f.write(new)


def entry(ino, name, kind):
    """The start of a directory entry; its length is not part of the pattern."""
    return struct.pack("<I", ino), struct.pack("<BB", len(name), kind) + name


def set_entry_ino(image, name, ino):
    """Lets the one directory entry `name` point at another inode."""
    with open(image, "r+b") as f:
        data = f.read()
        at = [m.start() for m in re.finditer(re.escape(name), data)
              if data[m.start() - 2] == len(name)]
        expect(f"entries {name!r}", len(at), 1)
        f.seek(at[0] - 8)
        f.write(struct.pack("<I", ino))


def inode_of(image, path):
    return int(re.search(r"Inode: (\d+)", images.debugfs(image, [f"stat {path}"])).group(1))


def hostile(ctx):
    source = ctx.path("hostile")
    os.makedirs(f"{source}/upper/innermost-directory")
    os.makedirs(f"{source}/another-directory")
    with open(f"{source}/upper/a-file-in-upper", "wb") as f:
        f.write(b"x" * 10000)
    with open(f"{source}/upper/zz-good-file", "wb") as f:
        f.write(b"good")
    image = make_image(ctx.path("h.img"), *PLAIN, source=source)

    def everything(path, status, reason):
        for command in (("find",), ("du", "-s"), ("ls", "-R"), ("export", "-o", ctx.path("h.tar"))):
            fails(ctx, status, reason, *command, path)
        shutil.rmtree(ctx.path("h.out"), ignore_errors=True)
        fails(ctx, status, reason, "cp", "-r", f"{path}:/", ctx.path("h.out"))

    def directory_loop():
        path = shutil.copy(image, ctx.path("loop.img"))
        set_entry_ino(path, b"innermost-directory", inode_of(path, "upper"))
        everything(path, CORRUPT, "already met")

    def root_below_itself():
        path = shutil.copy(image, ctx.path("root.img"))
        set_entry_ino(path, b"innermost-directory", 2)
        everything(path, CORRUPT, "already met")

    def two_parents():
        path = shutil.copy(image, ctx.path("dag.img"))
        set_entry_ino(path, b"another-directory", inode_of(path, "upper/innermost-directory"))
        everything(path, CORRUPT, "already met")

    def names_that_leave():
        outside = ctx.path("escaped")
        for name in (b"../../../escaped", b"/tmp/uext4-escaped"):
            path = shutil.copy(image, ctx.path("name.img"))
            replace_once(path, b"a-file-in-upper", (name + b"/" * 15)[:15])
            everything(path, CORRUPT, "")
            expect("escaped", os.path.exists(outside) or os.path.exists("/tmp/uext4-escaped"), False)
            expect("the rest", sorted(os.listdir(ctx.path("h.out"))),
                   ["another-directory", "lost+found", "upper"])

    def dots():
        path = shutil.copy(image, ctx.path("dots.img"))
        with open(path, "r+b") as f:
            data = f.read()
            at = data.index(b"a-file-in-upper")
            f.seek(at - 2)
            f.write(b"\x02\x01..")
        for command in (("find",), ("export", "-o", ctx.path("h.tar"))):
            expect(command[0], call(ctx, *command, path).returncode in (OK, CORRUPT), True)
        shutil.rmtree(ctx.path("h.out"), ignore_errors=True)
        call(ctx, "cp", "-r", f"{path}:/", ctx.path("h.out"))
        expect("nothing above", sorted(os.listdir(ctx.path("h.out"))),
               ["another-directory", "lost+found", "upper"])

    def unreadable_file():
        path = shutil.copy(image, ctx.path("file.img"))
        # The file's first block lies far outside of the image.
        images.debugfs(path, ["set_inode_field upper/a-file-in-upper block[5] 0x7fffffff"], write=True)
        out = ctx.path("h.out")
        shutil.rmtree(out, ignore_errors=True)
        fails(ctx, CORRUPT, "a-file-in-upper", "cat", f"{path}:/upper/a-file-in-upper")
        fails(ctx, CORRUPT, "a-file-in-upper", "cp", "-r", f"{path}:/", out)
        expect("copied", sorted(os.listdir(f"{out}/upper")), ["innermost-directory", "zz-good-file"])
        fails(ctx, CORRUPT, "a-file-in-upper", "export", path, "-o", ctx.path("h.tar"))
        with tarfile.open(ctx.path("h.tar")) as tar:
            expect("archived", tar.extractfile("./upper/zz-good-file").read(), b"good")

    for test in (directory_loop, root_below_itself, two_parents, names_that_leave, dots,
                 unreadable_file):
        ctx.test(test.__name__.replace("_", " "), test)


JOBS = [
    harness.Job("usage", usage, ["mistakes", "not yet", "help", "anywhere", "untouched"]),
    harness.Job("status", status, ["failed", "goes on", "unsupported", "read only compatible",
                                   "corrupt", "journal", "replayed", "damaged counts", "busy",
                                   "lost output"]),
    harness.Job("names", names, ["pipe is raw", "terminal is quoted", "messages are quoted",
                                 "json is exact", "json of find",
                                 "attributes have files", "cat any", "colons", "descriptor", "partitions",
                                 "backup"]),
    harness.Job("show", show, ["stat agrees", "find agrees", "du agrees", "df agrees", "info agrees",
                               "xattr agrees", "ls agrees", "cat agrees", "untouched"]),
    harness.Job("copy", copy, ["whole tree", "holes", "places", "stays inside", "never the image",
                               "full target", "without root"]),
    harness.Job("archive", archive, ["by gnu tar", "by python", "small", "reproducible", "compressed",
                                     "parts", "not to a terminal", "progress"]),
    harness.Job("hostile", hostile, ["directory loop", "root below itself", "two parents",
                                     "names that leave", "dots", "unreadable file"]),
]


if __name__ == "__main__":
    harness.main(harness.parse_options(__doc__.splitlines()[0]), JOBS)
