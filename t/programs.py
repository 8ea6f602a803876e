#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A mount that writes, used by real programs, and what POSIX promises them.

After each job the image must be clean for e2fsck and for `uext4 check`, and the kernel's own mount of it
must show the same tree that was seen through ours.

    programs  git, SQLite, tar and a build, rsync, fio with verify
    posix     open files without names, renames, holes, flags, appends, direct I/O, locks, handles,
              what is kept to write later, mappings, privileges that go with a change
    ends      SIGTERM, umount, kill -9 in the middle of an untar with fsyncs
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import harness, images  # noqa: E402
from lib.harness import Failed, Skip, run  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
FALLOC_COLLAPSE_RANGE, FALLOC_INSERT_RANGE, FALLOC_UNSHARE_RANGE = 8, 32, 64
CAPABILITY = bytes([1, 0, 0, 2]) + bytes(16)  # version 2, effective
NOBODY = 65534
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NODUMP_FL = 0x10, 0x20, 0x40

libc = ctypes.CDLL(None, use_errno=True)


def needs_mounts():
    why = harness.why_no_fuse()
    if why or os.geteuid() != 0:
        raise Skip(why or "needs root")


@contextlib.contextmanager
def mounted(ctx, image, options="rw"):
    directory = ctx.path("mnt")
    with harness.fuse_mounted(ctx.options.uext4, image, directory, options):
        try:
            yield directory
        except BaseException:
            # What failed may have left files open: its reason is wanted, not that of the umount.
            subprocess.run(["umount", "-l", directory], stderr=subprocess.DEVNULL, check=False)
            raise
    harness.wait_server_gone(image)


def need(program):
    if shutil.which(program) is None:
        raise Skip(f"no {program}")


def tree_sums(top):
    """path -> (mode, uid, gid, nlink, size, mtime, sha256 or target) of everything below."""
    sums = {}
    for where, dirs, names in os.walk(top):
        for name in sorted(dirs + names):
            path = os.path.join(where, name)
            st = os.lstat(path)
            what = ""
            if stat.S_ISLNK(st.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    what = hashlib.sha256(f.read()).hexdigest()
            size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
            sums[os.path.relpath(path, top)] = (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, size,
                                                st.st_mtime_ns, what)
    return sums


def differences(a, b):
    lines = [f"{p}: only in the first" for p in sorted(a.keys() - b.keys())]
    lines += [f"{p}: only in the second" for p in sorted(b.keys() - a.keys())]
    lines += [f"{p}: {a[p]} against {b[p]}" for p in sorted(a.keys() & b.keys()) if a[p] != b[p]]
    return lines


def same_for_the_kernel(ctx, image, sums):
    """The kernel's read-only mount shows what was seen through ours."""
    if harness.why_no_kernel_mounts():
        return []
    with harness.mounted(image, ctx.path("kernel"), "ro") as directory:
        return differences(sums, {p: v for p, v in tree_sums(directory).items()})


def with_image(ctx, body, *mkfs, options="rw", size=512):
    """Runs body(directory) on a new image's mount, and all judges behind it."""
    image = images.plain(ctx.path("image"), *mkfs, size=size)
    with mounted(ctx, image, options) as directory:
        found = body(directory) or []
        sums = tree_sums(directory)
    images.judge(ctx, image)
    found += same_for_the_kernel(ctx, image, sums)
    os.unlink(image)
    return found


# ---- programs ----------------------------------------------------------------------------------


def git_env():
    return {"GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent", "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def programs(ctx):
    needs_mounts()

    def git():
        need("git")

        def body(d):
            a, b = os.path.join(d, "a"), os.path.join(d, "b")
            run("git", "init", "-q", a, env=git_env())
            for folder in ("src", "cli", "fuse", "t"):
                shutil.copytree(os.path.join(TOP, folder), os.path.join(a, folder))
            for commit in range(5):
                with open(os.path.join(a, f"file{commit}"), "w", encoding="ascii") as f:
                    f.write(str(commit) * 5000)
                run("git", "-C", a, "add", "-A", env=git_env())
                run("git", "-C", a, "commit", "-qm", f"{commit}", env=git_env())
            run("git", "clone", "-q", a, b, env=git_env())
            run("git", "-C", a, "gc", "-q", env=git_env())
            run("git", "-C", a, "fsck", "--strict", env=git_env())
            run("git", "-C", b, "fsck", "--strict", env=git_env())
            if run("git", "-C", b, "status", "--porcelain", env=git_env()).stdout:
                return ["the clone's work tree differs"]
        return with_image(ctx, body)

    def sqlite(mode):
        def body(d):
            path = os.path.join(d, "db")
            db = sqlite3.connect(path, isolation_level=None)
            if db.execute(f"pragma journal_mode={mode}").fetchone()[0] != mode.lower():
                return [f"journal_mode {mode} is not taken"]
            db.execute("create table t(k integer primary key, v blob)")
            for round_ in range(20):
                db.execute("begin")
                db.executemany("insert or replace into t values(?, ?)",
                               [(k, os.urandom(200)) for k in range(round_ * 50, round_ * 50 + 200)])
                db.execute("rollback" if round_ % 5 == 4 else "commit")
            found = db.execute("pragma integrity_check").fetchone()[0]
            count = db.execute("select count(*) from t").fetchone()[0]
            db.close()
            return [] if found == "ok" and count == 1100 else [f"{found}, {count} rows"]
        return lambda: with_image(ctx, body)

    def build():
        def body(d):
            need("meson")
            archive = ctx.path("tree.tar")
            run("tar", "-C", TOP, "-cf", archive, "src", "include", "cli", "fuse", "t", "bench",
                "meson.build", "meson_options.txt")
            run("tar", "-C", d, "-xf", archive)
            run("meson", "setup", os.path.join(d, "b"), d, "-Dtests=false")
            run("ninja", "-C", os.path.join(d, "b"), "libuext4.so.0.1.0", timeout=280)
            if not os.path.getsize(os.path.join(d, "b", "libuext4.so.0.1.0")):
                return ["the library is empty"]
        return with_image(ctx, body, "-O", "inline_data")

    def rsync():
        need("rsync")

        def body(d):
            source, copy = ctx.path("source"), os.path.join(d, "copy")
            shutil.copytree(os.path.join(TOP, "t"), source)
            os.link(os.path.join(source, "run.py"), os.path.join(source, "other name"))
            os.symlink("run.py", os.path.join(source, "link"))
            os.setxattr(os.path.join(source, "run.py"), "user.a", b"value")
            os.chown(os.path.join(source, "bad.py"), 1234, 5678)
            os.utime(os.path.join(source, "bad.py"), ns=(10**18 + 1, 10**18 + 123456789))
            with open(os.path.join(source, "sparse"), "wb") as f:
                f.seek(1 << 20)
                f.write(b"x" * 5000)
            run("rsync", "-aHAX", source + "/", copy)
            again = run("rsync", "-aHAXni", "--checksum", source + "/", copy).stdout.decode()
            shutil.rmtree(source)
            return again.splitlines()
        return with_image(ctx, body)

    def fio():
        need("fio")

        def body(d):
            for mode in ("randwrite", "randrw"):
                run("fio", "--name=v", f"--directory={d}", f"--rw={mode}", "--bs=1k-64k", "--size=24m",
                    "--verify=crc32c", "--verify_state_save=0", "--do_verify=1", "--verify_fatal=1", "--ioengine=psync",
                    "--fsync=64", "--numjobs=2", "--unlink=1")
        return with_image(ctx, body)

    ctx.test("git", git)
    ctx.test("sqlite wal", sqlite("WAL"))
    ctx.test("sqlite delete", sqlite("DELETE"))
    ctx.test("tar and build", build)
    ctx.test("rsync", rsync)
    ctx.test("fio", fio)


# ---- posix -------------------------------------------------------------------------------------


def expect(what, got, want):
    if got != want:
        raise Failed(f"{what}: {got!r}, expected {want!r}")


def errno_of(function, *args):
    try:
        function(*args)
    except OSError as err:
        return errno.errorcode[err.errno]
    return "OK"


def renameat2(old, new, flags):
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def flags_of(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return struct.unpack("I", fcntl.ioctl(fd, FS_IOC_GETFLAGS, b"\0" * 4)[:4])[0]
    finally:
        os.close(fd)


def set_flags(path, flags):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("I", flags))
    finally:
        os.close(fd)


def in_child(function, user=None):
    """What function() does in a process of its own, of another user perhaps: "OK", or the name of
    its error or signal.  A relative path finds files that `user` cannot reach from the root."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            if user is not None:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            function()
            status = 0
        except OSError as err:
            status = err.errno
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    code = os.waitstatus_to_exitcode(status)
    return errno.errorcode.get(code, str(code)) if code else "OK"


def posix(ctx):
    needs_mounts()
    image = images.plain(ctx.path("image"), size=64)

    def again(d, options="rw"):
        """A new mount, which knows what was really kept."""
        os.chdir("/")
        harness.run("fusermount3", "-u", d)
        harness.wait_server_gone(image)
        harness.run(ctx.options.uext4, "mount", image, d, "-o", options)
        os.chdir(d)

    def on_mount(function, options="rw"):
        def test():
            with mounted(ctx, image, options) as d:
                os.chdir(d)
                try:
                    found = function(d)
                finally:
                    os.chdir("/")
            images.judge(ctx, image)
            return found
        return test

    def open_unlinked(d):
        free = os.statvfs(d).f_bfree
        fd = os.open("gone", os.O_RDWR | os.O_CREAT, 0o600)
        os.write(fd, b"a" * 3000000)
        os.fsync(fd)
        os.unlink("gone")
        expect("links", os.fstat(fd).st_nlink, 0)
        os.lseek(fd, 0, 0)
        expect("bytes", os.read(fd, 10), b"a" * 10)
        os.pwrite(fd, b"more", 4000000)
        os.fsync(fd)
        expect("more bytes", os.pread(fd, 4, 4000000), b"more")
        os.close(fd)
        harness.wait_until("freeing its blocks", lambda: os.statvfs(d).f_bfree >= free)
        expect("free blocks", os.statvfs(d).f_bfree, free)
        os.mkdir("dir")
        handle = os.open("dir", os.O_RDONLY)
        os.rmdir("dir")
        expect("a removed directory", os.listdir(handle), [])
        expect("create in it", errno_of(lambda: os.mkdir("x", dir_fd=handle)), "ENOENT")
        os.close(handle)

    def renames(_):
        for name in ("a", "b"):
            with open(name, "w", encoding="ascii") as f:
                f.write(name)
        expect("noreplace", errno_of(renameat2, "a", "b", RENAME_NOREPLACE), "EEXIST")
        renameat2("a", "b", RENAME_EXCHANGE)
        expect("exchanged", (open("a").read(), open("b").read()), ("b", "a"))
        held = open("b")
        os.rename("a", "b")
        expect("replaced", (open("b").read(), held.read()), ("b", "a"))
        held.close()
        os.makedirs("d1/d2")
        expect("into itself", errno_of(os.rename, "d1", "d1/d2/x"), "EINVAL")
        os.mkdir("empty")
        os.rename("d1", "empty")
        expect("over an empty directory", os.listdir("empty"), ["d2"])
        os.mkdir("other")
        expect("over a full one", errno_of(os.rename, "other", "empty"), "ENOTEMPTY")
        expect("file over directory", errno_of(os.rename, "b", "other"), "EISDIR")
        expect("directory over file", errno_of(os.rename, "other", "b"), "ENOTDIR")

    def holes(_):
        fd = os.open("sparse", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(fd, b"x" * 4096, 1 << 20)
        os.fsync(fd)
        expect("data", os.lseek(fd, 0, os.SEEK_DATA), 1 << 20)
        expect("hole", os.lseek(fd, 1 << 20, os.SEEK_HOLE), (1 << 20) + 4096)
        fallocate(fd, 0, 0, 1 << 19)
        expect("zeros", os.pread(fd, 8192, 4096), bytes(8192))
        os.pwrite(fd, b"y" * 100000, 0)
        fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 5000, 50000)
        expect("punched", os.pread(fd, 60000, 0), b"y" * 5000 + bytes(50000) + b"y" * 5000)
        fallocate(fd, FALLOC_ZERO_RANGE, 100, 1000)
        expect("zeroed", os.pread(fd, 1200, 0), b"y" * 100 + bytes(1000) + b"y" * 100)
        fallocate(fd, FALLOC_KEEP_SIZE, 2 << 20, 1 << 20)
        expect("size kept", os.fstat(fd).st_size, (1 << 20) + 4096)
        os.ftruncate(fd, 50)
        os.ftruncate(fd, 5000)
        expect("cut and grown", os.pread(fd, 6000, 0), b"y" * 50 + bytes(4950))
        os.close(fd)
        os.unlink("sparse")

    def flags(_):
        with open("f", "w", encoding="ascii") as f:
            f.write("x")
        set_flags("f", flags_of("f") | FS_NODUMP_FL)
        expect("nodump", bool(flags_of("f") & FS_NODUMP_FL), True)
        set_flags("f", flags_of("f") | FS_IMMUTABLE_FL)
        expect("unlink immutable", errno_of(os.unlink, "f"), "EPERM")
        expect("chmod immutable", errno_of(os.chmod, "f", 0o600), "EPERM")
        set_flags("f", (flags_of("f") & ~FS_IMMUTABLE_FL) | FS_APPEND_FL)
        expect("truncate append-only", errno_of(os.truncate, "f", 0), "EPERM")
        set_flags("f", flags_of("f") & ~FS_APPEND_FL)
        os.unlink("f")

    def truncating_opens(d):
        """Also behind the kernel's back: another mount shows what was really kept."""
        for data in (b"long contents", b"short", b""):
            with open("t", "wb") as f:
                f.write(data)
            expect("seen at once", open("t", "rb").read(), data)
            again(d)
            expect("seen by the next mount", open("t", "rb").read(), data)
        os.unlink("t")

    def append_only(d):
        """The kernel opens without asking: that has to be taken."""
        with open("log", "w", encoding="ascii") as f:
            f.write("1")
        set_flags("log", flags_of("log") | FS_APPEND_FL)
        # Also while the server keeps open what was written before.
        fd = os.open("log", os.O_WRONLY)
        expect("overwrite at once", errno_of(os.pwrite, fd, b"x", 0), "EPERM")
        os.close(fd)
        for line in ("2", "3"):
            again(d)
            fd = os.open("log", os.O_WRONLY | os.O_APPEND)
            os.write(fd, line.encode())
            expect("fsync", errno_of(os.fsync, fd), "OK")
            os.close(fd)
        again(d)
        expect("all lines", open("log", encoding="ascii").read(), "123")
        expect("mtime moves", abs(time.time() - os.stat("log").st_mtime) < 3600, True)
        expect("truncate", errno_of(os.truncate, "log", 0), "EPERM")
        fd = os.open("log", os.O_WRONLY)
        expect("overwrite", errno_of(os.pwrite, fd, b"x", 0), "EPERM")
        os.close(fd)
        expect("a time that is named", errno_of(lambda: os.utime("log", (1, 1))), "EPERM")
        expect("a time that is now", errno_of(os.utime, "log"), "OK")
        set_flags("log", flags_of("log") & ~FS_APPEND_FL)
        os.unlink("log")

    def kept_writes(d):
        """What is set before data is written back stays behind it."""
        fd = os.open("kept", os.O_RDWR | os.O_CREAT, 0o755)
        os.write(fd, b"x" * 5000)
        os.setxattr(fd, "security.capability", CAPABILITY)
        os.setxattr(fd, "user.a", b"b")
        os.fchmod(fd, 0o4755)
        os.utime(fd, ns=(10**18, 10**18 + 5))
        os.close(fd)
        for _ in range(2):
            st = os.stat("kept")
            expect("mode", st.st_mode & 0o7777, 0o4755)
            expect("mtime", st.st_mtime_ns, 10**18 + 5)
            expect("attributes", sorted(os.listxattr("kept")), ["security.capability", "user.a"])
            expect("bytes", open("kept", "rb").read(), b"x" * 5000)
            again(d)
        os.unlink("kept")

    def mapped(d):
        import mmap
        fd = os.open("map", os.O_RDWR | os.O_CREAT, 0o600)
        os.write(fd, b"a" * 10000)
        one, two = mmap.mmap(fd, 10000), mmap.mmap(fd, 10000)
        one[5000:5003] = b"one"
        expect("the other mapping", two[4999:5004], b"aonea")
        expect("read", os.pread(fd, 5, 4999), b"aonea")

        def store():
            mmap.mmap(fd, 10000)[9000:9005] = b"child"
        expect("a store by a child", in_child(store), "OK")
        expect("is seen", one[9000:9005], b"child")
        os.pwrite(fd, b"write", 20)
        expect("a write is seen", two[20:25], b"write")
        os.ftruncate(fd, 100)
        expect("behind the end", in_child(lambda: one[9000]), "SIGBUS")
        os.ftruncate(fd, 10000)
        expect("zeros behind what was cut", one[90:110], b"a" * 10 + bytes(10))
        one[8000:8004] = b"last"
        one.flush()
        one.close()
        two.close()
        os.close(fd)
        again(d)
        want = bytearray(b"a" * 100 + bytes(9900))
        want[20:25] = b"write"
        want[8000:8004] = b"last"
        expect("what was kept", open("map", "rb").read(), bytes(want))
        os.unlink("map")

    def copies(_):
        """copy_file_range(2) and sendfile(2), and what ways of fallocate(2) there are not."""
        data = os.urandom(3000000)
        with open("from", "wb") as f:
            f.write(data)
        a, b = os.open("from", os.O_RDWR), os.open("to", os.O_RDWR | os.O_CREAT, 0o600)
        done = 0
        while done < len(data):
            done += os.copy_file_range(a, b, len(data) - done, done, done)
        expect("copied", os.pread(b, len(data), 0) == data, True)
        expect("onto itself", errno_of(os.copy_file_range, a, a, 1000, 0, 500), "EINVAL")
        expect("behind the end", os.copy_file_range(a, b, 1000, len(data), 0), 0)
        os.lseek(b, 5, os.SEEK_SET)
        expect("sent", os.sendfile(b, a, 100, 1000), 1000)
        expect("what was sent", os.pread(b, 1000, 5), data[100:1100])
        for mode in (FALLOC_COLLAPSE_RANGE, FALLOC_INSERT_RANGE, FALLOC_UNSHARE_RANGE, FALLOC_PUNCH_HOLE):
            expect(f"fallocate {mode}", errno_of(fallocate, b, mode, 0, 4096), "ENOTSUP")
        expect("fallocate", errno_of(fallocate, b, 0, 0, 0), "EINVAL")
        # libfuse 3.14 has no request for it.
        expect("O_TMPFILE", errno_of(os.open, ".", os.O_RDWR | os.O_TMPFILE, 0o600), "ENOTSUP")
        os.close(a)
        os.close(b)
        os.unlink("from")
        os.unlink("to")

    def privileges(d):
        """setuid, setgid and capabilities go when contents or owner change, or remain, as on ext4."""
        def write(path):
            fd = os.open(path, os.O_WRONLY)
            os.pwrite(fd, b"y", 1)
            os.close(fd)

        def append(path):
            fd = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.write(fd, b"y")
            os.close(fd)

        def opened(path):
            os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))

        def allocate(path):
            fd = os.open(path, os.O_WRONLY)
            fallocate(fd, 0, 0, 10000)
            os.close(fd)

        def copy(path):
            a, b = os.open("source", os.O_RDONLY), os.open(path, os.O_WRONLY)
            os.copy_file_range(a, b, 100)
            os.close(a)
            os.close(b)

        ways = {"write": write, "append": append, "truncate": lambda p: os.truncate(p, 10), "open": opened,
                "same size": lambda p: os.truncate(p, 100), "fallocate": allocate, "copy": copy}
        # Of nobody's own files: another owner he cannot give them, a group of his he can.
        own = {"chown": lambda p: os.chown(p, -1, NOBODY)}
        as_root = {"chown": lambda p: os.chown(p, 12, 34), "chmod": lambda p: os.chmod(p, 0o6777)}
        again(d, "rw,allow_other,suid,dev")
        os.mkdir("p")
        with open("source", "wb") as f:
            f.write(b"s" * 100)
        os.chmod("source", 0o644)
        wanted = {}

        def make(name, owner=0):
            path = f"p/{name}"
            with open(path, "wb") as f:
                f.write(b"x" * 100)
            os.chown(path, owner, owner)
            os.chmod(path, 0o6777)
            os.setxattr(path, "security.capability", CAPABILITY)
            return path

        def state(path):
            return os.stat(path).st_mode & 0o7777, "security.capability" in os.listxattr(path)

        for user, mode, some in ((NOBODY, 0o777, {**ways, **own}), (None, 0o6777, {**ways, **as_root})):
            for name, way in some.items():
                path = make(f"{name} {user}", NOBODY if user and name in own else 0)
                expect(f"{name} by {user}", in_child(lambda: way(path), user), "OK")
                wanted[path] = (0o777 if name == "chown" else mode, name == "chmod")
        found = [f"{path}: {state(path)}, expected {want}" for path, want in wanted.items()
                 if state(path) != want]
        os.mkdir("p/dir")
        os.chmod("p/dir", 0o6777)
        os.chown("p/dir", 12, 34)
        expect("a directory keeps its bits", os.stat("p/dir").st_mode & 0o7777, 0o6777)
        again(d, "rw,allow_other,suid,dev")
        found += [f"{path} after a new mount: {state(path)}, expected {want}" for path, want in wanted.items()
                  if state(path) != want]
        shutil.rmtree("p")
        os.unlink("source")
        return found

    def appends(_):
        fds = [os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for _ in range(2)]
        for i in range(2000):
            os.write(fds[i % 2], b"%09d\n" % i)
        for fd in fds:
            os.close(fd)
        with open("log", "rb") as f:
            expect("lines", f.read(), b"".join(b"%09d\n" % i for i in range(2000)))
        os.unlink("log")

    def direct(_):
        buffer = memoryview(bytearray(b"d" * (1 << 16)))
        fd = os.open("direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
        import mmap
        page = mmap.mmap(-1, 1 << 16)
        page.write(buffer)
        expect("written", os.pwritev(fd, [page], 1 << 16), 1 << 16)
        expect("size", os.fstat(fd).st_size, 1 << 17)
        back = mmap.mmap(-1, 1 << 16)
        expect("read", os.preadv(fd, [back], 1 << 16), 1 << 16)
        expect("the same", bytes(back), bytes(buffer))
        os.close(fd)
        with open("direct", "rb") as f:
            expect("cached view", f.read(), bytes(1 << 16) + bytes(buffer))
        os.unlink("direct")

    def locks(_):
        a = os.open("lock", os.O_RDWR | os.O_CREAT, 0o600)
        b = os.open("lock", os.O_RDWR)
        fcntl.flock(a, fcntl.LOCK_EX)
        expect("flock", errno_of(fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB), "EAGAIN")
        os.close(a)
        os.close(b)
        os.unlink("lock")

    def handles(d):
        class Handle(ctypes.Structure):
            _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
        with open("named", "w", encoding="ascii") as f:
            f.write("by handle")
        handle, mount = Handle(128), ctypes.c_int()
        if libc.name_to_handle_at(-100, b"named", ctypes.byref(handle), ctypes.byref(mount), 0) < 0:
            raise Failed(f"name_to_handle_at: {os.strerror(ctypes.get_errno())}")
        top = os.open(d, os.O_RDONLY)
        fd = libc.open_by_handle_at(top, ctypes.byref(handle), os.O_RDONLY)
        os.close(top)
        if fd < 0:
            raise Failed(f"open_by_handle_at: {os.strerror(ctypes.get_errno())}")
        expect("contents", os.read(fd, 100), b"by handle")
        os.close(fd)
        os.unlink("named")

    def times(_):
        with open("t", "w", encoding="ascii") as f:
            f.write("x")
        os.utime("t", ns=(12345678901234567, 98765432109876543))
        st = os.stat("t")
        expect("times", (st.st_atime_ns, st.st_mtime_ns), (12345678901234567, 98765432109876543))
        before = st.st_ctime_ns
        time.sleep(0.01)
        os.chmod("t", 0o640)
        expect("ctime moves", os.stat("t").st_ctime_ns > before, True)
        with open("t", "a", encoding="ascii") as f:
            f.write("y")
        expect("mtime moves", os.stat("t").st_mtime_ns > 98765432109876543, True)
        os.unlink("t")

    def many_names(_):
        os.mkdir("many")
        for i in range(5000):
            os.close(os.open(f"many/{i:05}", os.O_CREAT | os.O_WRONLY, 0o600))
        expect("names", sorted(os.listdir("many")), [f"{i:05}" for i in range(5000)])
        shutil.rmtree("many")

    def full(d):
        """Writers hear of a full file system, at the latest when they sync; nothing is lost after."""
        with open("keep", "wb") as f:
            f.write(b"k" * 100000)
            f.flush()
            os.fsync(f.fileno())
        free = os.statvfs(d).f_bfree
        heard = False
        try:
            with open("fill", "wb") as f:
                for _ in range(100):
                    f.write(bytes(1 << 20))
                    f.flush()
                    os.fsync(f.fileno())
        except OSError as err:
            expect("error", err.errno, errno.ENOSPC)
            heard = True
        expect("it was heard", heard, True)
        expect("kept", open("keep", "rb").read(), b"k" * 100000)
        os.unlink("fill")
        # Its blocks go when the kernel has let go of it, which it says a little later.
        harness.wait_until("freeing its blocks", lambda: os.statvfs(d).f_bfree >= free)
        with open("after", "wb") as f:
            f.write(bytes(1 << 20))
            f.flush()
            os.fsync(f.fileno())
        os.unlink("after")
        os.unlink("keep")

    for name, function in (("open unlinked", open_unlinked), ("renames", renames), ("holes", holes),
                           ("flags", flags), ("truncating opens", truncating_opens), ("append-only", append_only),
                           ("kept writes", kept_writes), ("mapped", mapped), ("copies", copies),
                           ("privileges", privileges), ("appends", appends),
                           ("direct", direct), ("locks", locks), ("handles", handles), ("times", times),
                           ("many names", many_names), ("full", full)):
        ctx.test(name, on_mount(function))


# ---- ends --------------------------------------------------------------------------------------


def contents(i):
    return (b"%d " % i) * (1 + i * 37 % 3000)


def untar(d, upto, fsync_every, promise):
    """Files like those of an untar; promise(i) is called when file i was fsynced."""
    for i in range(upto):
        path = os.path.join(d, f"d{i % 7}")
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, f"f{i}"), "wb") as f:
            f.write(contents(i))
            f.flush()
            if i % fsync_every == 0:
                os.fsync(f.fileno())
                promise(i)


def ends(ctx):
    needs_mounts()

    def sigterm():
        image = images.plain(ctx.path("image"), size=64)
        with mounted_by_hand(ctx, image) as (d, pid):
            untar(d, 300, 10**9, lambda i: None)
            wanted = tree_sums(d)
            os.kill(pid, signal.SIGTERM)
            harness.wait_server_gone(image)
        images.judge(ctx, image)
        run(ctx.options.uext4, "info", image)
        return same_for_the_kernel(ctx, image, wanted)

    def kill():
        """What fsync promised is there after the next mount; the rest may be or not."""
        rounds = 20 if ctx.options.full else 5
        for n in range(rounds):
            image = images.plain(ctx.path("image"), size=64)
            with mounted_by_hand(ctx, image) as (d, pid):
                worker = os.fork()
                if worker == 0:  # until its file system is gone
                    with contextlib.suppress(OSError), open(ctx.path("promised"), "wb", 0) as out:
                        untar(d, 100000, 3, lambda i: out.write(b"%d\n" % i))
                    os._exit(0)
                deadline = time.monotonic() + harness.WAIT_S
                wanted = 20 + n * 13
                while time.monotonic() < deadline:
                    if os.path.exists(ctx.path("promised")):
                        with open(ctx.path("promised"), "rb") as f:
                            if f.read().count(b"\n") >= wanted:
                                break
                    time.sleep(0.002)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(worker, 0)
                subprocess.run(["umount", "-l", d], stderr=subprocess.DEVNULL, check=False)
                harness.wait_server_gone(image)
            with open(ctx.path("promised"), "rb") as f:
                promised = [int(line) for line in f.read().split()]
            os.unlink(ctx.path("promised"))
            run(ctx.options.uext4, "replay", image)
            images.judge(ctx, image)
            for i in promised:
                got = run(ctx.options.uext4, "cat", f"{image}:/d{i % 7}/f{i}").stdout
                if got != contents(i):
                    return [f"round {n}: f{i} is not what was fsynced ({len(got)} bytes)"]
            os.unlink(image)

    def sync():
        """Syncing the root syncs everything: nothing else does, as FUSE knows no syncfs."""
        image = images.plain(ctx.path("image"), size=64)
        with mounted_by_hand(ctx, image) as (d, pid):
            for i in range(7):
                os.mkdir(f"{d}/d{i}")
            for i in range(200):
                with open(f"{d}/d{i % 7}/f{i}", "wb") as f:
                    f.write(contents(i))
            run("sync", d)
            os.kill(pid, signal.SIGKILL)
            subprocess.run(["umount", "-l", d], stderr=subprocess.DEVNULL, check=False)
            harness.wait_server_gone(image)
        run(ctx.options.uext4, "replay", image)
        images.judge(ctx, image)
        for i in range(200):
            got = run(ctx.options.uext4, "cat", f"{image}:/d{i % 7}/f{i}").stdout
            if got != contents(i):
                return [f"f{i} is not what was synced ({len(got)} bytes)"]

    def busy():
        image = images.plain(ctx.path("image"), size=64)
        with mounted(ctx, image):
            second = subprocess.run([ctx.options.uext4, "ls", image], capture_output=True, check=False)
            expect("status of a reader meanwhile", second.returncode, 4)
        images.judge(ctx, image)

    ctx.test("sigterm", sigterm)
    ctx.test("kill", kill)
    ctx.test("sync", sync)
    ctx.test("busy", busy)


@contextlib.contextmanager
def mounted_by_hand(ctx, image):
    """A mount in the foreground: (directory, pid).  It is the caller who ends it."""
    directory = ctx.path("mnt")
    os.makedirs(directory, exist_ok=True)
    harness.at_end(subprocess.run, ["umount", "-l", directory])
    with open(ctx.path("log"), "wb") as log:
        server = subprocess.Popen([ctx.options.uext4, "mount", image, directory, "-f"],
                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + harness.WAIT_S
    while not os.path.ismount(directory):
        if server.poll() is not None or time.monotonic() > deadline:
            raise Failed("the mount does not come", open(ctx.path("log")).read().splitlines())
        time.sleep(0.01)
    try:
        yield directory, server.pid
    finally:
        if server.poll() is None:
            subprocess.run(["umount", "-l", directory], stderr=subprocess.DEVNULL, check=False)
        server.wait(harness.WAIT_S)


JOBS = [
    harness.Job("programs", programs, ["git", "sqlite wal", "sqlite delete", "tar and build", "rsync",
                                       "fio"]),
    harness.Job("posix", posix, ["open unlinked", "renames", "holes", "flags", "truncating opens", "append-only",
                                 "kept writes", "mapped", "copies", "privileges", "appends", "direct", "locks",
                                 "handles", "times", "many names", "full"]),
    harness.Job("ends", ends, ["sigterm", "kill", "sync", "busy"]),
]


if __name__ == "__main__":
    harness.main(harness.parse_options(__doc__.splitlines()[0]), JOBS)
