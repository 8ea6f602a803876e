#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The FUSE mount as a program: when it starts, what it says, whom it lets in, how it ends.

That every kind of image is shown as the kernel shows it is t/matrix.py's business; here one rich
tree is enough, and the kernel's own mount of it is the judge.

    refuse   what cannot be mounted: the status, the reason on stderr, and nothing left behind
    life     from ready to gone: signals, umount, the image clean
    show     the same tree as the kernel's, for root and for others; options that change the view
    damage   one bad inode is an error of that inode alone
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from lib import harness, images, manifest  # noqa: E402
from lib.harness import Failed, Skip, run  # noqa: E402

# What a FUSE mount cannot carry: times of creation, extents, the id of the file system.
LACKS = ("crtime", "fiemap", "fsid")

EXIT_FAILED, EXIT_USAGE, EXIT_UNSUPPORTED, EXIT_BUSY, EXIT_CORRUPT, EXIT_JOURNAL = range(1, 7)


# ---- around one mount --------------------------------------------------------------------------


def small_image(path, *arguments, size=8):
    return images.plain(path, "-O", "^has_journal", *arguments, size=size)


def mount_line(directory):
    """[source, type, options] of what is mounted at `directory`, or None."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            words = line.split(" ")
            if words[1] == directory:
                return [words[0], words[2], words[3].split(",")]
    return None


def umount_quietly(directory):
    subprocess.run(["umount", "-l", directory], stderr=subprocess.DEVNULL, check=False)


def call(ctx, *arguments, program=None):
    """Runs `uext4 mount`; returns (status, stderr)."""
    argv = [program] if program else [ctx.options.uext4, "mount"]
    if len(arguments) > 1:
        harness.at_end(umount_quietly, os.path.abspath(arguments[1]))
    # A file, not a pipe: the server would keep it open.
    with open(ctx.path("stderr"), "w+b") as log:
        result = subprocess.run([*argv, *arguments], stdin=subprocess.DEVNULL, stdout=log,
                                stderr=log, timeout=60, check=False)
        log.seek(0)
        return result.returncode, log.read().decode(errors="replace")


@contextlib.contextmanager
def mounted(ctx, image, directory, options="ro", program=None):
    """A mount of ours, and that its end leaves no process."""
    os.makedirs(directory, exist_ok=True)
    status, text = call(ctx, image, directory, "-o", options, program=program)
    if status != 0:
        raise Failed(f"mount -o {options} exited {status}", text.splitlines())
    if mount_line(directory) is None:
        raise Failed("the mount is not there though its command has returned 0")
    try:
        yield directory
    finally:
        run("fusermount3", "-u", directory)
        if not program:
            harness.wait_server_gone(image)


def expect(what, got, want):
    if got != want:
        raise Failed(f"{what}: {got!r}, expected {want!r}")


# ---- refuse ------------------------------------------------------------------------------------


def refuse(ctx):
    target = ctx.path("mnt")
    os.makedirs(target)
    image = small_image(ctx.path("good.img"))
    before = images.digest(image)

    def refused(status, reason, *arguments):
        def check():
            got, text = call(ctx, *arguments)
            expect("status", got, status)
            if reason not in text:
                raise Failed(f"stderr does not say {reason!r}", text.splitlines())
            if mount_line(target):
                run("umount", target)
                raise Failed("it was mounted all the same")
            for argument in arguments[:1]:
                harness.wait_server_gone(argument)
        return check

    missing = ctx.path("missing.img")
    text_file = ctx.path("text.img")
    with open(text_file, "wb") as f:
        f.write(b"not a file system\n" * 1000)

    ctx.test("image missing", refused(EXIT_FAILED, "No such file", missing, target))
    ctx.test("image is no file system", refused(EXIT_FAILED, text_file, text_file, target))
    ctx.test("image is a directory", refused(EXIT_FAILED, ctx.dir, ctx.dir, target))
    ctx.test("directory missing", refused(EXIT_FAILED, "No such file", image, ctx.path("none")))
    ctx.test("directory is a file", refused(EXIT_FAILED, "Not a directory", image, text_file))
    ctx.test("no directory", refused(EXIT_USAGE, "directory", image))
    ctx.test("too many arguments", refused(EXIT_USAGE, "third", image, target, "third"))
    ctx.test("unknown option", refused(EXIT_USAGE, "'nonsense=1'",
                                       image, target, "-o", "ro,nonsense=1"))
    ctx.test("rw", refused(EXIT_USAGE, "rw", image, target, "-o", "rw,norecovery"))
    ctx.test("value missing", refused(EXIT_USAGE, "offset", image, target, "-o", "offset"))
    ctx.test("value not a number", refused(EXIT_USAGE, "'much'",
                                           image, target, "-o", "cache_size=much"))
    ctx.test("value not wanted", refused(EXIT_USAGE, "fakeroot", image, target, "-o", "fakeroot=1"))
    ctx.test("lock file impossible", refused(EXIT_FAILED, "/nowhere", image, target,
                                             "-o", "lockfile=/nowhere/at/all"))

    def unsupported():
        path = small_image(ctx.path("unsupported.img"))
        images.debugfs(path, ["feature FEATURE_I30"], write=True)
        refused(EXIT_UNSUPPORTED, "", path, target)()

    def corrupt():
        path = small_image(ctx.path("corrupt.img"), "-O", "metadata_csum")
        with open(path, "r+b") as f:
            f.seek(1024 + 0x78)  # the label: s_checksum no longer fits
            f.write(b"surprise")
        refused(EXIT_CORRUPT, "", path, target)()

    def journal():
        path = ctx.path("journal.img")
        small_image(path, "-O", "has_journal", size=16)
        dump = images.debugfs(path, ["bmap <8> 0"])
        block = int(dump.split()[-1])
        size = images.read_caps(path).block_size
        images.debugfs(path, ["feature needs_recovery"], write=True)
        with open(path, "r+b") as f:
            f.seek(block * size)
            f.write(bytes(1024))
        refused(EXIT_JOURNAL, "", path, target)()

    def busy():
        reason = harness.why_no_kernel_mounts()
        if reason:
            raise Skip(reason)
        path = small_image(ctx.path("busy.img"))
        with harness.loop_device(path):
            refused(EXIT_BUSY, "", path, target)()

    def helper():
        link = ctx.path("mount.fuse.uext4")
        os.symlink(ctx.options.uext4, link)
        expect("status of a failed mount", call(ctx, missing, target, "-o", "rw", program=link)[0],
               32)
        expect("status of a wrong call",
               call(ctx, image, target, "-o", "nonsense", program=link)[0], 1)

    def without_root():
        if os.geteuid() != 0:
            raise Skip("needs root")
        for path in (ctx.options.work, ctx.dir):
            os.chmod(path, 0o755)
        program = shutil.copy(ctx.options.uext4, ctx.path("program"))
        result = subprocess.run(
            [program, "mount", image, target], user=65534, group=65534, extra_groups=[],
            env={**os.environ, "LD_LIBRARY_PATH": os.path.dirname(ctx.options.uext4)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        text = result.stderr.decode()
        if "shared libraries" in text:
            raise Skip("the build directory is not readable for others")
        expect("status", result.returncode, EXIT_FAILED)
        if not re.search("^uext4: .*/dev/fuse.*fusermount3", text, re.M):
            raise Failed("nothing said about what a mount needs", text.splitlines())

    ctx.test("no superblock", refused(EXIT_FAILED, "-o sb=32768", text_file, target))
    ctx.test("without root", without_root)
    ctx.test("unknown feature", unsupported)
    ctx.test("corrupt superblock", corrupt)
    ctx.test("journal not replayable", journal)
    ctx.test("busy", busy)
    ctx.test("helper's status", helper)
    ctx.test("image untouched", lambda: expect("digest", images.digest(image), before))


REFUSE = ["image missing", "image is no file system", "image is a directory", "directory missing",
          "directory is a file", "no directory", "too many arguments", "unknown option", "rw",
          "value missing", "value not a number", "value not wanted", "lock file impossible",
          "no superblock", "without root", "unknown feature", "corrupt superblock",
          "journal not replayable", "busy",
          "helper's status", "image untouched"]


def image_clean(image):
    run("e2fsck", "-fn", image)


# ---- life --------------------------------------------------------------------------------------


def life(ctx):
    target = ctx.path("mnt")
    os.makedirs(target)
    image = small_image(ctx.path("life.img"), "-d", os.path.dirname(os.path.abspath(__file__)))

    def proc_mounts():
        with mounted(ctx, image, target, "ro"):
            source, kind, options = mount_line(target)
            expect("source", source, image)
            expect("type", kind, "fuse.uext4")
            missing = {"ro", "nosuid", "nodev"} - set(options)
            if missing:
                raise Failed(f"not in /proc/mounts: {missing}")
        with mounted(ctx, image, target, "fsname=a name,subtype=other"):
            expect("source, type", mount_line(target)[:2], ["a\\040name", "fuse.other"])

    def writable():
        for arguments, word in (([], "rw"), (["-o", "ro"], "ro"), (["-o", "rw"], "rw")):
            status, text = call(ctx, image, target, *arguments)
            options = mount_line(target)[2]
            run("umount", target)
            harness.wait_server_gone(image)
            expect(f"{arguments}: status, stderr", (status, text), (0, ""))
            expect(f"{arguments}: {word} in /proc/mounts", word in options, True)

    def no_writes():
        with mounted(ctx, image, target):
            for what in (lambda: os.mkdir(f"{target}/new"), lambda: os.unlink(f"{target}/fuse.py"),
                         lambda: open(f"{target}/fuse.py", "ab"),
                         lambda: os.chmod(f"{target}/fuse.py", 0)):
                try:
                    what()
                except OSError as err:
                    expect("errno", errno.errorcode[err.errno], "EROFS")
                else:
                    raise Failed("a write succeeded")

    def relative_paths():
        place = ctx.path("place")
        os.makedirs(os.path.join(place, "dir"))
        os.symlink(image, os.path.join(place, "link"))
        here = os.getcwd()
        os.chdir(place)
        try:
            expect("status", call(ctx, "link", "dir", "-o", "ro")[0], 0)
        finally:
            os.chdir(here)
        mounted_at = os.path.join(place, "dir")
        expect("source", mount_line(mounted_at)[0], image)
        if "fuse.py" not in os.listdir(mounted_at):
            raise Failed("the tree is not there")
        run("umount", mounted_at)
        harness.wait_server_gone("link")

    def mounts(path, *arguments):
        expect(f"status of {arguments}", call(ctx, path, target, *arguments), (0, ""))
        expect("the tree", "fuse.py" in os.listdir(target), True)
        run("fusermount3", "-u", target)
        harness.wait_server_gone(path)

    def shared_options():
        for arguments in (["--norecovery"], ["--no-lock"], ["--cache-size", "8M"],
                          ["--cache-size=8M", "--offset", "0"]):
            mounts(image, "-o", "ro", *arguments)

    def backup_superblock():
        path = small_image(ctx.path("backup.img"), "-b", "1024", "-d",
                           os.path.dirname(os.path.abspath(__file__)), size=16)
        with open(path, "r+b") as f:
            f.seek(1024)
            f.write(bytes(1024))
        expect("status without", call(ctx, path, target)[0], EXIT_FAILED)
        mounts(path, "-o", "ro", "--superblock", "8193")
        mounts(path, "-o", "ro,sb=8193,nolock")

    def foreground(number):
        def check():
            with open(ctx.path("log"), "w+b") as log:
                server = subprocess.Popen([ctx.options.uext4, "mount", "-f", image, target],
                                          stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                harness.at_end(umount_quietly, target)
                entry = harness.at_end(server.kill)
                harness.wait_until("the mount", lambda: mount_line(target))
                os.listdir(target)
                if number is None:
                    # The server's own look at the mount point may still be under way.
                    harness.wait_until("the unmount", lambda: run("fusermount3", "-u", target,
                                                                  check=False).returncode == 0)
                else:
                    server.send_signal(number)
                expect("status", server.wait(harness.WAIT_S), 0)
                harness.done(entry)
            if mount_line(target):
                raise Failed("still mounted")
        return check

    def requests():
        """What the kernel asks while somebody writes: how fast that is hangs on it more than on anything."""
        path = small_image(ctx.path("requests.img"))
        counts = {}
        with open(ctx.path("requests"), "w+b") as log:
            server = subprocess.Popen([ctx.options.uext4, "mount", "-f", "-d", path, target],
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            harness.at_end(umount_quietly, target)
            entry = harness.at_end(server.kill)
            harness.wait_until("the mount", lambda: mount_line(target))
            fd = os.open(f"{target}/file", os.O_CREAT | os.O_WRONLY, 0o600)
            for i in range(50):
                os.pwrite(fd, b"x" * 100, 4096 * i)
            os.fchown(fd, 0, 0)
            os.close(fd)
            for _ in range(50):
                os.stat(f"{target}/file")
                os.close(os.open(f"{target}/file", os.O_RDONLY))
            os.unlink(f"{target}/file")
            harness.wait_until("the unmount", lambda: run("fusermount3", "-u", target, check=False).returncode == 0)
            expect("status", server.wait(harness.WAIT_S), 0)
            harness.done(entry)
            log.seek(0)
            for name in re.findall(r"opcode: (\w+)", log.read().decode(errors="replace")):
                counts[name] = counts.get(name, 0) + 1
        expect("writes", counts.get("WRITE"), 50)
        # One of the first write, which may have to take a capability away, and one of fchown.
        for name, most in (("GETXATTR", 2), ("SETATTR", 1), ("OPEN", 1), ("RELEASE", 0), ("FLUSH", 1), ("UNLINK", 1)):
            if counts.get(name, 0) > most:
                raise Failed(f"{counts[name]} {name}, expected at most {most}: {counts}")
        # Of the root, and of what another process looks at meanwhile.
        if counts.get("GETATTR", 0) > 10 or counts.get("LOOKUP", 0) > 10:
            raise Failed(f"{counts}")

    def lockfile():
        path = ctx.path("lock")
        with mounted(ctx, image, target, f"ro,lockfile={path}"):
            if not os.path.exists(path):
                raise Failed("no lock file while mounted")
        if os.path.exists(path):
            raise Failed("the lock file stayed")

    def twice():
        second = ctx.path("second")
        with mounted(ctx, image, target):
            os.makedirs(second)
            expect("status", call(ctx, image, second, "-o", "ro")[0], 0)
            expect("trees", os.listdir(target), os.listdir(second))
            run("umount", second)

    def busy_unmount():
        with mounted(ctx, image, target):
            with open(f"{target}/fuse.py", "rb") as f:
                result = run("fusermount3", "-u", target, check=False)
                if result.returncode == 0:
                    raise Failed("an open file did not keep it mounted")
                if not f.read(10):
                    raise Failed("nothing read")

    def helper():
        link = ctx.path("mount.fuse.uext4")
        os.symlink(ctx.options.uext4, link)
        # As mount(8) calls it: rw where the user has said nothing.
        with mounted(ctx, image, target, "rw,nosuid,nodev,_netdev,x-systemd.automount", link):
            expect("rw", "rw" in mount_line(target)[2], True)
        status, _ = call(ctx, image, target, "-f", "-n", "-v", "-o", "ro", program=link)
        expect("status of a fake mount", status, 0)
        expect("fake mount", mount_line(target), None)

    def noise():
        options = ("defaults,noauto,nofail,user,_netdev,x-a.b=c,comment=d,data=ordered,commit=5,"
                   "discard,noatime,relatime,lazytime,errors=remount-ro,barrier=1,direct,"
                   "cache_size=4M,no_default_opts,big_writes,kernel_cache,max_read=65536")
        with mounted(ctx, image, target, options):
            os.listdir(target)

    ctx.test("proc mounts", proc_mounts)
    ctx.test("writable unless told", writable)
    ctx.test("writes are refused", no_writes)
    ctx.test("relative paths", relative_paths)
    ctx.test("shared options", shared_options)
    ctx.test("backup superblock", backup_superblock)
    ctx.test("SIGTERM", foreground(signal.SIGTERM))
    ctx.test("SIGINT", foreground(signal.SIGINT))
    ctx.test("foreground unmounted", foreground(None))
    ctx.test("requests", requests)
    ctx.test("lock file", lockfile)
    ctx.test("mounted twice", twice)
    ctx.test("busy unmount", busy_unmount)
    ctx.test("helper", helper)
    ctx.test("options without effect", noise)
    ctx.test("image clean", lambda: image_clean(image))


LIFE = ["proc mounts", "writable unless told", "writes are refused", "relative paths", "shared options",
        "backup superblock", "SIGTERM", "SIGINT", "foreground unmounted", "requests", "lock file",
        "mounted twice", "busy unmount", "helper",
        "options without effect", "image clean"]


# ---- show --------------------------------------------------------------------------------------


def as_user(uid, gid, function):
    """The result of `function`, run by another user in a process of its own."""
    fd, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(fd)
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            with os.fdopen(pipe, "w") as out:
                json.dump(function(), out)
            status = 0
        finally:
            os._exit(status)
    os.close(pipe)
    with os.fdopen(fd) as f:
        text = f.read()
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise Failed(f"the process of user {uid} ended with {status}")
    return json.loads(text)


def attempt(function, *arguments, **more):
    try:
        return function(*arguments, **more)
    except OSError as err:
        return errno.errorcode[err.errno]


def visible(root, paths):
    """What the calling user may do with each path of a mounted tree."""
    found = {}
    for path in paths:
        full = os.fsencode(root) + b"/" + manifest.decode(path)
        st = attempt(os.lstat, full)
        record = {"stat": st if isinstance(st, str) else st.st_mode}
        record["access"] = [os.access(full, how, follow_symlinks=False)
                            for how in (os.R_OK, os.X_OK)]
        names = attempt(os.listxattr, full, follow_symlinks=False)
        record["names"] = names if isinstance(names, str) else sorted(map(ascii, names))
        if not isinstance(st, str) and (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)):
            fd = attempt(os.open, full, os.O_RDONLY)
            if isinstance(fd, int):
                os.close(fd)
            record["open"] = fd if isinstance(fd, str) else "ok"
        found[path] = record
    return found


def read_all(root, paths):
    """path -> digest, by plain reads in an order of its own."""
    found = {}
    for path in paths:
        digest = manifest.Digest()
        with open(os.fsencode(root) + b"/" + manifest.decode(path), "rb", buffering=0) as f:
            at = 0
            while data := f.read(1 << 20):
                digest.add(at, data)
                at += len(data)
        found[path] = digest.value()
    return found


def make_handle(path):
    """name_to_handle_at(2): the bytes of a struct file_handle."""
    raw = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 136)
    if harness.libc.name_to_handle_at(-100, os.fsencode(path), raw, ctypes.byref(ctypes.c_int()),
                                      0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return raw.raw


def open_handle(mount_fd, raw):
    fd = harness.libc.open_by_handle_at(mount_fd, ctypes.create_string_buffer(raw, len(raw)),
                                        os.O_RDONLY)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def with_node(raw, node):
    """The handle of another FUSE node: its id stands first, the high word before the low one."""
    return raw[:8] + struct.pack("=II", node >> 32, node & 0xFFFFFFFF) + raw[16:]


def show(ctx):
    reason = harness.why_no_kernel_mounts()
    if reason:
        raise Skip(reason)
    # Other users must be able to come here.
    os.chmod(ctx.options.work, 0o755)
    recipe = images.Recipe("show", "-t ext4 -b 4096 -O inline_data,ea_inode", size=64)
    image = images.make(recipe, ctx.dir, ctx.options.seed).path
    ours, kernels = ctx.path("ours"), ctx.path("kernel")
    kernel_copy = ctx.path("copy.img")
    # The kernel gets a copy: an image that backs a loop device is refused.
    shutil.copyfile(image, kernel_copy)

    with harness.mounted(kernel_copy, kernels, "ro,noatime"):
        want = manifest.scan(kernels)
        paths = [p for p in want if p != manifest.STATFS]
        small = [p for p in paths if want[p].get("type") == "reg" and want[p]["size"] < 4 << 20]

        def same_as_kernel():
            with mounted(ctx, image, ours):
                first = manifest.compare(want, manifest.scan(ours), LACKS)
                # Now out of the kernel's caches of our mount.
                return first or manifest.compare(want, manifest.scan(ours), LACKS)

        def other_users():
            wrong = []
            with mounted(ctx, image, ours, "ro,allow_other"):
                for uid, gid in ((1000, 1000), (1001, 1), (70000, 70000), (65534, 65534)):
                    theirs = as_user(uid, gid, lambda: visible(kernels, paths))
                    here = as_user(uid, gid, lambda: visible(ours, paths))
                    wrong += [f"user {uid}: {line}" for line in
                              manifest.compare(theirs, here)]
            return wrong

        def not_allowed():
            with mounted(ctx, image, ours):
                expect("another user", as_user(1000, 1000, lambda: attempt(os.listdir, ours)),
                       "EACCES")

        def readers():
            with mounted(ctx, image, ours):
                results = [None] * 4

                def reader(i):
                    order = small[i * 7:] + small[:i * 7]
                    results[i] = read_all(ours, order if i % 2 else order[::-1])

                threads = [threading.Thread(target=reader, args=(i,)) for i in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            right = {p: want[p]["digest"] for p in small if "digest" in want[p]}
            return [f"reader {i}: {p}" for i, got in enumerate(results) for p in right
                    if not got or got.get(p) != right[p]]

        ctx.test("same as the kernel", same_as_kernel)
        ctx.test("other users", other_users)
        ctx.test("other users without allow_other", not_allowed)
        ctx.test("parallel readers", readers)

    def minixdf():
        numbers = []
        with harness.mounted(kernel_copy, kernels, "ro,noatime,minixdf"):
            numbers.append(tuple(os.statvfs(kernels))[:8])
        with mounted(ctx, image, ours, "ro,minixdf"):
            numbers.append(tuple(os.statvfs(ours))[:8])
        expect("statfs", numbers[1], numbers[0])

    def owners():
        with mounted(ctx, image, ours, "ro,uid=12,gid=34,umask=027"):
            st = os.stat(f"{ours}/types/reg")
            expect("uid, gid, mode", (st.st_uid, st.st_gid, oct(st.st_mode)), (12, 34, "0o100750"))

    def acl_options():
        path = f"{ours}/acls/access"
        name = "system.posix_acl_access"
        for options, shown in (("ro", True), ("ro,allow_other", True), ("ro,noacl", False)):
            with mounted(ctx, image, ours, options):
                expect(f"{options}: listed", name in os.listxattr(path), shown)
                value = attempt(os.getxattr, path, name)
                expect(f"{options}: value", isinstance(value, bytes), shown)

    def fakeroot():
        with mounted(ctx, image, ours, "suid,dev,fakeroot,allow_other"):
            options = set(mount_line(ours)[2])
            if not {"nosuid", "nodev"} <= options or "default_permissions" in options:
                raise Failed(f"mounted with {options}")
            found = as_user(1000, 1000, lambda: visible(ours, ["owners/m0000"]))
            expect("open of a file with mode 0", found["owners/m0000"]["open"], "ok")

    def kernel_option():
        with mounted(ctx, image, ours, "kernel"):
            options = set(mount_line(ours)[2])
            needed = {"default_permissions", "allow_other"}
            if {"nosuid", "nodev"} & options or not needed <= options:
                raise Failed(f"mounted with {options}")

    def offset():
        moved = ctx.path("moved.img")
        with open(moved, "wb") as out, open(image, "rb") as source:
            out.seek(1 << 20)
            shutil.copyfileobj(source, out)
        for options in ("ro,offset=1048576", "ro,offset=1M"):
            with mounted(ctx, moved, ours, options):
                expect("contents", read_all(ours, ["sizes/s65537"]),
                       {"sizes/s65537": want["sizes/s65537"]["digest"]})

    def long_names():
        with mounted(ctx, image, ours):
            expect("256 bytes", attempt(os.stat, f"{ours}/{'n' * 256}"), "ENAMETOOLONG")
            expect("255 bytes", attempt(os.stat, f"{ours}/{'n' * 255}"), "ENOENT")
            expect("below a file", attempt(os.stat, f"{ours}/types/reg/x"), "ENOTDIR")

    def ioctls():
        with mounted(ctx, image, ours):
            with open(f"{ours}/types/reg", "rb") as f:
                word = fcntl.ioctl(f, 0x80087601, struct.pack("=ii", 7, 7))  # FS_IOC_GETVERSION
                expect("bytes beyond the int", struct.unpack("=ii", word)[1], 7)
                expect("another ioctl", attempt(fcntl.ioctl, f, 0x5401, bytes(64)), "ENOTTY")

    def handles():
        """As an NFS server uses them: made in one mount, opened in another that knows nothing."""
        handle = {}
        with mounted(ctx, image, ours):
            for path in ("types/reg", "dirs"):
                handle[path] = make_handle(f"{ours}/{path}")
        with mounted(ctx, image, ours):
            root = os.open(ours, os.O_RDONLY)
            try:
                for path, raw in handle.items():
                    fd = open_handle(root, raw)
                    got, right = os.fstat(fd), os.stat(f"{ours}/{path}")
                    os.close(fd)
                    expect(path, (got.st_ino, got.st_size), (right.st_ino, right.st_size))
                # Node ids that were never given out: the root's number, the journal, nothing.
                for node in (0, 2, 8, 2**32 + 12, 2**32 - 1):
                    expect(f"node {node}", attempt(open_handle, root, with_node(raw, node)),
                           "ESTALE")
            finally:
                os.close(root)

    ctx.test("file handles", handles)
    ctx.test("minixdf", minixdf)
    ctx.test("uid, gid, umask", owners)
    ctx.test("acl and noacl", acl_options)
    ctx.test("fakeroot", fakeroot)
    ctx.test("kernel", kernel_option)
    ctx.test("offset", offset)
    ctx.test("names", long_names)
    ctx.test("ioctls", ioctls)
    ctx.test("image clean", lambda: image_clean(image))


SHOW = ["same as the kernel", "other users", "other users without allow_other", "parallel readers",
        "file handles", "minixdf", "uid, gid, umask", "acl and noacl", "fakeroot", "kernel",
        "offset", "names", "ioctls", "image clean"]


# ---- damage ------------------------------------------------------------------------------------


def damage(ctx):
    source = ctx.path("source")
    os.makedirs(os.path.join(source, "dir"))
    for name in ("first", "bad", "last"):
        with open(os.path.join(source, name), "wb") as f:
            f.write(name.encode() * 3000)
    image = small_image(ctx.path("damage.img"), "-O", "metadata_csum,^inline_data", "-d", source)
    place = re.search(r"located at block (\d+), offset (0x[0-9a-f]+)",
                      images.debugfs(image, ["imap /bad"]))
    block, start = int(place[1]), int(place[2], 16)
    with open(image, "r+b") as f:
        f.seek(block * images.read_caps(image).block_size + start + 4)  # i_size_lo
        f.write(b"\xff")
    target = ctx.path("mnt")

    def neighbours():
        with mounted(ctx, image, target):
            expect("names", sorted(os.listdir(target)),
                   ["bad", "dir", "first", "last", "lost+found"])
            expect("the bad file", attempt(os.stat, f"{target}/bad"), "EBADMSG")
            for name in ("first", "last"):
                with open(f"{target}/{name}", "rb") as f:
                    expect(name, f.read(), name.encode() * 3000)

    def said():
        with open(ctx.path("log"), "w+b") as log:
            server = subprocess.Popen([ctx.options.uext4, "mount", "-f", image, target, "-oro"],
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            harness.at_end(umount_quietly, target)
            entry = harness.at_end(server.kill)
            harness.wait_until("the mount", lambda: mount_line(target))
            attempt(os.stat, f"{target}/bad")
            server.terminate()
            server.wait(harness.WAIT_S)
            harness.done(entry)
            log.seek(0)
            text = log.read().decode()
        if "inode" not in text:
            raise Failed("the server does not say what is wrong", text.splitlines())

    ctx.test("neighbours", neighbours)
    ctx.test("said on stderr", said)


DAMAGE = ["neighbours", "said on stderr"]


def needs_fuse(function):
    def checked(ctx):
        reason = harness.why_no_fuse()
        if reason:
            raise Skip(reason)
        function(ctx)
    return checked


if __name__ == "__main__":
    chosen = harness.parse_options(__doc__)
    if chosen.work:
        chosen.work = os.path.realpath(chosen.work)  # as /proc/mounts has it
    harness.main(chosen, [
        harness.Job("show", needs_fuse(show), SHOW),
        harness.Job("life", needs_fuse(life), LIFE),
        harness.Job("refuse", needs_fuse(refuse), REFUSE),
        harness.Job("damage", needs_fuse(damage), DAMAGE),
    ])
