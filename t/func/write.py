#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The commands that change an image, against coreutils on a directory.

Each scenario is a list of commands.  They run once as coreutils in a directory of the host and once as
uext4 in an image; exit statuses must agree, and so must the two trees afterwards.  Behind each the image is
clean for e2fsck and for `uext4 check`.

    verbs   mkdir rmdir rm mv ln chmod chown touch truncate mknod xattr
    copy    cp from the host into an image, from an image into it, and back out
    state   a dirty journal is replayed before the first change; images in use are refused; errors count
"""

import functools
import os
import shutil
import stat
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from lib import harness, images  # noqa: E402
from lib.harness import Skip, run  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EXIT_FAILED, EXIT_BUSY = 1, 4

make_image = functools.partial(images.plain, size=64)


def tree(top, with_times=False):
    """path -> what is there, for comparing two trees.  Directories' sizes and lost+found are left out."""
    found, links = {}, {}
    for where, dirs, names in os.walk(top):
        if where == top and "lost+found" in dirs:
            dirs.remove("lost+found")
        for name in dirs + names:
            path = os.path.join(where, name)
            st = os.lstat(path)
            what = [stat.filemode(st.st_mode), st.st_uid, st.st_gid, st.st_nlink]
            if not stat.S_ISDIR(st.st_mode):
                first = links.setdefault(st.st_ino, os.path.relpath(path, top))
                what += [st.st_size, st.st_rdev, first]
            if stat.S_ISLNK(st.st_mode):
                what.append(os.readlink(path))
            elif stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    what.append(hash(f.read()))
            what.append({n: os.getxattr(path, n, follow_symlinks=False)
                         for n in os.listxattr(path, follow_symlinks=False)})
            if with_times:
                what += [st.st_mtime_ns]
            found[os.path.relpath(path, top)] = what
    return found


def compare(a, b):
    lines = [f"{p}: only on the host" for p in sorted(a.keys() - b.keys())]
    lines += [f"{p}: only in the image" for p in sorted(b.keys() - a.keys())]
    return lines + [f"{p}: {a[p]} on the host, {b[p]} in the image"
                    for p in sorted(a.keys() & b.keys()) if a[p] != b[p]]


class Pair:
    """A directory of the host and an image that get the same commands."""

    def __init__(self, ctx, *mkfs):
        self.ctx, self.host, self.image = ctx, ctx.path("host"), ctx.path("image")
        for path in (self.host, ctx.path("out")):
            shutil.rmtree(path, ignore_errors=True)
        os.mkdir(self.host)
        make_image(self.image, *mkfs)
        self.wrong = []

    def do(self, verb, *words, host=None):
        """Words that start with ':/' are paths; `host` replaces the whole coreutils command."""
        there = [os.path.join(self.host, w[2:]) if w.startswith(":/") else w for w in words]
        here = [self.image + w if w.startswith(":/") else w for w in words]
        a = subprocess.run(host or [verb, *there], capture_output=True, check=False)
        b = subprocess.run([self.ctx.options.uext4, verb, *here], capture_output=True, check=False)
        if (a.returncode == 0) != (b.returncode == 0):
            shown = " ".join(words)[:100]
            self.wrong.append(f"{verb} {shown}: {a.returncode} {a.stderr.decode().strip()} on "
                              f"the host, {b.returncode} {b.stderr.decode().strip()} in the image")
        if b.returncode != 0 and not b.stderr:
            self.wrong.append(f"{verb} {' '.join(words)}: fails without a word")

    def end(self):
        images.judge(self.ctx, self.image)
        run(self.ctx.options.uext4, "cp", "-a", f"{self.image}:/", self.ctx.path("out"))
        return self.wrong + compare(tree(self.host), tree(self.ctx.path("out")))


def verbs(ctx):
    if os.geteuid() != 0:
        raise Skip("needs root: owners and device nodes")
    kinds = {"plain": ("-b", "4096"), "inline": ("-b", "4096", "-O", "inline_data"),
             "no journal": ("-O", "^has_journal"), "blocks of 1k": ("-b", "1024")}

    def scenario(body):
        def test():
            lines = []
            for name, mkfs in kinds.items():
                pair = Pair(ctx, *mkfs)
                body(pair)
                lines += [f"{name}: {line}" for line in pair.end()]
            return lines
        return test

    def directories(p):
        p.do("mkdir", ":/a", ":/b")
        p.do("mkdir", ":/a")
        p.do("mkdir", ":/x/y/z")
        p.do("mkdir", "-p", ":/x/y/z", ":/x/y/z")
        p.do("mkdir", "-m", "2750", ":/m")
        p.do("mkdir", "-p", "-m", "700", ":/n/o")
        p.do("mkdir", ":/m/below")
        p.do("rmdir", ":/x")
        p.do("rmdir", ":/b")
        p.do("rmdir", ":/b")

    def removing(p):
        p.do("mkdir", "-p", ":/d/e/f")
        p.do("touch", ":/d/1", ":/d/e/2", ":/d/e/f/3", ":/keep")
        p.do("rm", ":/d")
        p.do("rm", ":/nothing")
        p.do("rm", "-f", ":/nothing")
        p.do("rm", "-r", ":/d/e")
        p.do("rm", ":/d/1", ":/keep")
        p.do("touch", ":/keep")

    def moving(p):
        p.do("mkdir", ":/a", ":/b")
        p.do("touch", ":/f", ":/g", ":/a/h")
        p.do("mv", ":/f", ":/f2")
        p.do("mv", ":/f2", ":/b")
        p.do("mv", ":/g", ":/a/h")
        p.do("mv", ":/a", ":/b")
        p.do("mv", ":/b", ":/b/a")
        p.do("mv", ":/b/f2", ":/b/a/h", ":/")
        p.do("mv", ":/missing", ":/x")
        p.do("touch", ":/one", ":/two")
        p.do("chmod", "600", ":/one")
        p.do("mv", "-n", ":/one", ":/three")

    def linking(p):
        p.do("touch", ":/f")
        p.do("ln", ":/f", ":/g")
        p.do("ln", ":/f", ":/g")
        p.do("ln", "-f", ":/f", ":/g")
        p.do("mkdir", ":/d")
        p.do("ln", ":/f", ":/d")
        p.do("ln", ":/d", ":/d2")
        p.do("ln", "-s", "target", ":/s")
        p.do("ln", "-s", "x" * 300, ":/long")
        p.do("ln", "-s", "other", ":/s")
        p.do("ln", "-sf", "other", ":/s")
        p.do("ln", "-s", "d/f", "../f", ":/d")
        p.do("rm", ":/f")

    def permissions(p):
        p.do("touch", ":/f")
        p.do("mkdir", "-p", ":/d/e")
        p.do("touch", ":/d/e/g")
        for mode in ("4711", "u+s,g-x", "a=r", "+w", "u=rwx,go=u-w", "o+t", "g=u", "-x", "ug+rwX"):
            p.do("chmod", mode, ":/f", host=["sh", "-c", f'umask 0; chmod -- {mode} "$1"', "sh",
                                             os.path.join(p.host, "f")])
        p.do("chmod", "-R", "g+sX,o-r", ":/d")
        p.do("chmod", "nonsense", ":/f")
        p.do("chmod", "0", ":/missing")
        p.do("chown", "1234:70000", ":/f")
        p.do("chmod", "6755", ":/f")
        p.do("chown", ":5", ":/f")
        p.do("chown", "-R", "77", ":/d")
        p.do("ln", "-s", "f", ":/l")
        p.do("chown", "-h", "8:9", ":/l")

    def sizes(p):
        p.do("truncate", "-s", "100", ":/f")
        p.do("truncate", "-s", "+1M", ":/f")
        p.do("truncate", "-s", "-500", ":/f")
        p.do("truncate", "-s", "5K", ":/f", ":/g")
        p.do("truncate", "-c", "-s", "1", ":/none")
        p.do("truncate", "-s", "0", ":/g")

    def nodes(p):
        p.do("mknod", ":/null", "c", "1", "3")
        p.do("mknod", "-m", "600", ":/disk", "b", "259", "70000")
        p.do("mknod", ":/pipe", "p")
        p.do("mknod", ":/pipe", "p")
        p.do("mknod", ":/bad", "c")

    def attributes(p):
        path = os.path.join(p.host, "f")
        p.do("touch", ":/f")
        p.do("xattr", "set", "user.a", "value", ":/f",
             host=["setfattr", "-n", "user.a", "-v", "value", path])
        p.do("xattr", "set", "user.b", "x" * 700, ":/f",
             host=["setfattr", "-n", "user.b", "-v", "x" * 700, path])
        p.do("xattr", "rm", "user.a", ":/f", host=["setfattr", "-x", "user.a", path])
        p.do("xattr", "rm", "user.a", ":/f", host=["setfattr", "-x", "user.a", path])

    def times():
        pair = Pair(ctx)
        pair.do("touch", "-d", "@1234567890.5", ":/f", host=["touch", "-d", "@1234567890.5",
                                                            os.path.join(pair.host, "f")])
        pair.do("touch", "-d", "2040-01-02 03:04:05", ":/g")
        pair.do("touch", "-c", ":/none")
        lines = pair.end()
        return lines + compare(tree(pair.host, True), tree(ctx.path("out"), True))

    for name, body in (("directories", directories), ("removing", removing), ("moving", moving),
                       ("linking", linking), ("permissions", permissions), ("sizes", sizes),
                       ("nodes", nodes), ("attributes", attributes)):
        ctx.test(name, scenario(body))
    ctx.test("times", times)


def make_source(top):
    shutil.copytree(os.path.join(TOP, "src"), os.path.join(top, "src"))
    os.link(os.path.join(top, "src", "LAYERS"), os.path.join(top, "src", "layers"))
    os.symlink("src/LAYERS", os.path.join(top, "symlink"))
    os.mkfifo(os.path.join(top, "fifo"))
    with open(os.path.join(top, "sparse"), "wb") as f:
        f.seek(3 << 20)
        f.write(b"end")
        f.truncate(5 << 20)
    with open(os.path.join(top, "big"), "wb") as f:
        f.write(os.urandom(3000001))
    os.mkdir(os.path.join(top, "empty"))
    os.setxattr(os.path.join(top, "big"), "user.note", b"kept")
    if os.geteuid() == 0:
        os.chown(os.path.join(top, "big"), 4321, 1234)
        os.chmod(os.path.join(top, "big"), 0o4755)
        subprocess.run(["setfacl", "-m", "u:7:rw", os.path.join(top, "src", "layers")], check=False)
    os.utime(os.path.join(top, "sparse"), ns=(1, 1234567890987654321))


def copy(ctx):
    source = ctx.path("source")
    os.mkdir(source)
    make_source(source)

    def whole(*mkfs):
        def test():
            image, out = make_image(ctx.path("image"), *mkfs), ctx.path("out")
            shutil.rmtree(out, ignore_errors=True)
            run(ctx.options.uext4, "cp", "-a", source + "/.", f"{image}:/")
            images.judge(ctx, image)
            run(ctx.options.uext4, "cp", "-a", f"{image}:/", out)
            lines = compare(tree(source, True), tree(out, True))
            run(ctx.options.uext4, "cp", "-a", f"{image}:/src", f"{image}:/copy")
            second = make_image(ctx.path("second"), *mkfs)
            run(ctx.options.uext4, "cp", "-a", f"{image}:/copy", f"{second}:/again")
            for i in (image, second):
                images.judge(ctx, i)
            shutil.rmtree(out)
            run(ctx.options.uext4, "cp", "-a", f"{second}:/again", out)
            return lines + compare(tree(os.path.join(source, "src"), True), tree(out, True))
        return test

    def kept_holes():
        image = make_image(ctx.path("image"))
        run(ctx.options.uext4, "cp", os.path.join(source, "sparse"), f"{image}:/sparse")
        blocks = int(run("debugfs", "-R", "stat /sparse", image).stdout.decode()
                     .split("Blockcount: ")[1].split()[0])
        return [] if blocks <= 16 else [f"{blocks} blocks of 512 bytes for three bytes of data"]

    def places():
        image = make_image(ctx.path("image"))
        u = ctx.options.uext4
        run(u, "mkdir", f"{image}:/d")
        run(u, "cp", "/etc/hostname", "/etc/passwd", f"{image}:/d")
        run(u, "cp", "/etc/hostname", f"{image}:/d/name")
        run(u, "cp", "/etc/passwd", f"{image}:/d/name")  # replaces it
        lines = []
        for path, wanted in (("/d/hostname", "/etc/hostname"), ("/d/passwd", "/etc/passwd"),
                             ("/d/name", "/etc/passwd")):
            with open(wanted, "rb") as f:
                if run(u, "cat", f"{image}:{path}").stdout != f.read():
                    lines.append(f"{path} is not {wanted}")
        for bad in (["/etc/hostname", f"{image}:/none/x"], ["/etc", f"{image}:/d"],
                    ["/missing", f"{image}:/d"], ["-a", image, f"{image}:/self"],
                    ["/etc/hostname", "/etc/passwd", f"{image}:/new"]):
            if subprocess.run([u, "cp", *bad], capture_output=True, check=False).returncode == 0:
                lines.append(f"cp {' '.join(bad)}: exits 0")
        images.judge(ctx, image)
        return lines

    def full():
        image = make_image(ctx.path("image"), size=4)
        done = subprocess.run([ctx.options.uext4, "cp", os.path.join(source, "big"), "-r",
                               os.path.join(source, "src"), f"{image}:/"], capture_output=True, check=False)
        images.judge(ctx, image)
        if done.returncode != EXIT_FAILED or b"space" not in done.stderr:
            return [f"status {done.returncode}", done.stderr.decode()[:500]]

    ctx.test("whole tree", whole())
    ctx.test("whole tree, inline", whole("-O", "inline_data"))
    ctx.test("whole tree, ext3", whole("-O", "^extents,^64bit"))
    ctx.test("holes", kept_holes)
    ctx.test("places", places)
    ctx.test("full", full)


def state(ctx):
    def replayed():
        """A change of an image with a pending journal survives the kernel's next mount."""
        why = harness.why_no_kernel_mounts()
        if why:
            raise Skip(why)
        image, dirty = make_image(ctx.path("image")), ctx.path("dirty")
        with harness.mounted(image, ctx.path("mnt")) as mnt:
            with open(os.path.join(mnt, "theirs"), "wb") as f:
                f.write(b"theirs" * 1000)
                f.flush()
                os.fsync(f.fileno())
            shutil.copyfile(image, dirty)
        if b"needs_recovery" not in run("dumpe2fs", "-h", dirty).stdout:
            raise Skip("the kernel has left no pending journal")
        run(ctx.options.uext4, "cp", "/etc/hostname", f"{dirty}:/ours")
        images.judge(ctx, dirty)
        with harness.mounted(dirty, ctx.path("mnt")) as mnt:
            with open(os.path.join(mnt, "theirs"), "rb") as f, open("/etc/hostname", "rb") as h, \
                    open(os.path.join(mnt, "ours"), "rb") as g:
                if f.read() != b"theirs" * 1000 or g.read() != h.read():
                    return ["one of the two changes is lost"]

    def refused():
        image = make_image(ctx.path("image"))
        lines = []
        why = harness.why_no_kernel_mounts()
        if why:
            raise Skip(why)
        for options in ("", "ro"):
            with harness.mounted(image, ctx.path("mnt"), options):
                done = subprocess.run([ctx.options.uext4, "mkdir", f"{image}:/x"], capture_output=True,
                                      check=False)
            if done.returncode != EXIT_BUSY:
                lines.append(f"mounted {options or 'rw'} by the kernel: status {done.returncode}")
        return lines

    def replay():
        image = make_image(ctx.path("image"))
        done = run(ctx.options.uext4, "replay", image).stdout.decode()
        images.judge(ctx, image)
        return [] if "nothing to replay" in done else [done]

    ctx.test("replayed first", replayed)
    ctx.test("refused in use", refused)
    ctx.test("replay", replay)


JOBS = [
    harness.Job("verbs", verbs, ["directories", "removing", "moving", "linking", "permissions", "sizes",
                                 "nodes", "attributes", "times"]),
    harness.Job("copy", copy, ["whole tree", "whole tree, inline", "whole tree, ext3", "holes", "places",
                               "full"]),
    harness.Job("state", state, ["replayed first", "refused in use", "replay"]),
]


if __name__ == "__main__":
    harness.main(harness.parse_options(__doc__.splitlines()[0]), JOBS)
