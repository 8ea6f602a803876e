#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Ratios against the kernel on a loop device, Debian's fuse2fs, a null FUSE server and plain memory, in one run.

Times on one machine mean nothing to another: each line is a ratio of medians of interleaved runs, peer by
peer (1.00 is as fast as the peer, 0.50 twice as fast).  Needs root; nothing here decides a test.
"""
import argparse
import contextlib
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "t"))

from lib.harness import at_end, done, mounted, run, _arm_cleanup, _umount_quietly  # noqa: E402

FILES, BYTES, SEED = 30000, 182 << 20, 7
NULL = "/dev/null"


# ---- what is read ---------------------------------------------------------------------------------


def make_tree(directory):
    """About 30,000 files in 2,500 directories: many small ones, as sources are, and some documents."""
    rng = random.Random(SEED)
    sizes = [min(int(rng.lognormvariate(7.6, 1.3)), 4 << 20) for _ in range(FILES)]
    scale = BYTES / sum(sizes)
    dirs = [directory]
    for i in range(2500):
        parent = dirs[int(len(dirs) * rng.random() ** 2)]
        dirs.append(os.path.join(parent, f"directory{i:04}"))
        os.mkdir(dirs[-1])
    block = rng.randbytes(1 << 20)
    homes = sorted(rng.choice(dirs) for _ in sizes)  # directory by directory, as tar unpacks
    for i, size in enumerate(sizes):
        with open(os.path.join(homes[i], f"file{i:05}.c"), "wb") as f:
            left = int(size * scale)
            while left > 0:
                f.write(block[:left])
                left -= len(block)


def make_image(work):
    image = os.path.join(work, "tree.img")
    run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", image, "1G")
    with mounted(image, os.path.join(work, "m")) as mnt:
        make_tree(mnt)
    return image


def make_large_image(work, files):
    """1 TiB, with a million files."""
    image = os.path.join(work, "large.img")
    run("mke2fs", "-q", "-t", "ext4", "-N", "4000000", image, "1T")
    with mounted(image, os.path.join(work, "m")) as mnt:
        for d in range(100):
            os.mkdir(f"{mnt}/{d}")
            for i in range(files // 100):
                os.close(os.open(f"{mnt}/{d}/{i}", os.O_CREAT | os.O_WRONLY))
    return image


# ---- who reads it ------------------------------------------------------------------------------------


@contextlib.contextmanager
def fuse(command, directory):
    """A FUSE server in the background, by a command that returns when it is mounted."""
    os.makedirs(directory, exist_ok=True)
    entry = at_end(_umount_quietly, directory)
    run(*command)
    deadline = time.monotonic() + 10
    while not os.path.ismount(directory) and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield directory
    finally:
        run("fusermount3", "-u", directory)
        done(entry)
        time.sleep(0.1)  # the server closes the image behind our back


def kernel(image, work):
    return mounted(image, os.path.join(work, "kernel"), "ro,noatime")


def uext4(image, work, opts):
    mnt = os.path.join(work, "uext4")
    os.makedirs(mnt, exist_ok=True)
    return fuse([opts.uext4, "mount", image, mnt, "-o", "ro"], mnt)


def fuse2fs(image, work):
    mnt = os.path.join(work, "fuse2fs")
    os.makedirs(mnt, exist_ok=True)
    return fuse(["fuse2fs", image, mnt, "-o", "ro"], mnt)


def null(work, opts):
    mnt = os.path.join(work, "null")
    os.makedirs(mnt, exist_ok=True)
    return fuse([opts.nullfuse, mnt, "-n", str(FILES)], mnt)


def drop_cache(image):
    """Makes the host forget @image; what a mount has cached goes with the mount."""
    with open(image, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(command):
    start = time.perf_counter()
    p = subprocess.Popen(["bash", "-c", "set -o pipefail; " + command], stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE)
    text = p.stderr.read()
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode:
        raise SystemExit(f"{command}: {text.decode(errors='replace')}")
    return time.perf_counter() - start, usage


# ---- the table -----------------------------------------------------------------------------------------


def ratio_line(name, ours, peers, goal=""):
    """ours: times; peers: name -> times."""
    mine = statistics.median(ours)
    cells = [f"{peer} {mine / statistics.median(times):.2f}" for peer, times in peers.items()]
    print(f"{name:44} {mine * 1000:8.1f} ms   of {', '.join(cells)}" + (f"   (goal {goal})" if goal else ""),
          flush=True)


def interleave(runs, contestants):
    """contestants: name -> function returning seconds.  Returns name -> list."""
    times = {name: [] for name in contestants}
    for i in range(runs + 1):
        for name, function in contestants.items():
            seconds = function()
            if i:  # the first warms up
                times[name].append(seconds)
    return times


def bench_export(image, work, opts):
    export = f"{opts.uext4} export -o - {image} | cat >{NULL}"
    with kernel(image, work) as mnt:
        for tar, what in ((f"tar -C {mnt} -cf - .", "tar"),
                          (f"tar -C {mnt} --xattrs --acls --sparse --format=posix -cf - .", "tar, all attributes")):
            t = interleave(opts.runs, {"uext4": lambda: timed(export)[0],
                                       "kernel": lambda tar=tar: timed(f"{tar} | cat >{NULL}")[0]})
            ratio_line(f"export, warm, against {what}", t["uext4"], {"kernel": t["kernel"]}, "< 1")

    def cold_uext4():
        drop_cache(image)
        return timed(export)[0]

    def cold_kernel():
        drop_cache(image)
        with kernel(image, work) as mnt:
            return timed(f"tar -C {mnt} -cf - . | cat >{NULL}")[0]

    t = interleave(opts.runs, {"uext4": cold_uext4, "kernel": cold_kernel})
    ratio_line("export, cold, against tar", t["uext4"], {"kernel": t["kernel"]}, "< 1")
    _, usage = timed(f"exec {opts.uext4} export -o {work}/out.tar {image}")
    print(f"{'export, peak memory':44} {usage.ru_maxrss / 1024:8.1f} MiB  (goal < 64 plus 32 of cache)")


def bench_mount(image, work, opts):
    def tar(mnt):
        return lambda: timed(f"tar -C {mnt} -cf - . | cat >{NULL}")[0]

    def find(mnt):
        return lambda: timed(f"find {mnt} -ls")[0]

    def two(mnt):
        # Two clients, each with its half of the files.
        return lambda: timed(f"find {mnt} -type f -name '*[02468]*' -print0 | xargs -0 cat >{NULL} & "
                             f"find {mnt} -type f -name '*[13579]*' -print0 | xargs -0 cat >{NULL}; wait")[0]

    with kernel(image, work) as k, uext4(image, work, opts) as u:
        t = interleave(opts.runs, {"uext4": tar(u), "kernel": tar(k)})
        ratio_line("mount: tar, warm", t["uext4"], {"kernel": t["kernel"]}, "< 3")
        warm = statistics.median(t["uext4"])
        t = interleave(opts.runs, {"uext4": find(u), "kernel": find(k)})
        ratio_line("mount: find -ls, warm", t["uext4"], {"kernel": t["kernel"]}, "1")
    with fuse2fs(image, work) as f:
        seconds = min(tar(f)() for _ in range(2))
    ratio_line("mount: tar, warm", [warm], {"fuse2fs": [seconds]}, "< 0.1")

    def cold(mount):
        def go():
            drop_cache(image)
            with mount() as mnt:
                return timed(f"find {mnt} -ls")[0]
        return go

    t = interleave(opts.runs, {"uext4": cold(lambda: uext4(image, work, opts)),
                               "kernel": cold(lambda: kernel(image, work))})
    ratio_line("mount: find -ls, cold", t["uext4"], {"kernel": t["kernel"]}, "< 3")

    def readers(count):
        def go(mnt):
            each = f"dd if={mnt} of={NULL} bs=4096 iflag=direct status=none"
            return timed(" & ".join([each] * count) + "; wait")[0]
        return go

    big = os.path.join(work, "big.img")
    if not os.path.exists(big):
        run("mke2fs", "-q", "-t", "ext4", big, "1G")
        with mounted(big, os.path.join(work, "m")) as mnt:
            for i in range(2):
                run("dd", "if=/dev/urandom", f"of={mnt}/{i}", "bs=1M", "count=128", "status=none")
    gains = {}
    with uext4(big, work, opts) as u, null(work, opts) as n:
        files = {"uext4": [f"{u}/0", f"{u}/1"], "null": null_files(n)}
        for name, (a, b) in files.items():
            one = statistics.median(timed(f"dd if={a} of={NULL} bs=4096 count=30000 iflag=direct status=none")[0]
                                    for _ in range(opts.runs))
            both = statistics.median(timed(
                f"dd if={a} of={NULL} bs=4096 count=30000 iflag=direct status=none & "
                f"dd if={b} of={NULL} bs=4096 count=30000 iflag=direct status=none; wait")[0]
                                     for _ in range(opts.runs))
            gains[name] = 2 * one / both
    print(f"{'mount: two readers against one, 4 KiB direct':44} {gains['uext4']:8.2f} x   "
          f"null server {gains['null']:.2f} x")
    t = {}
    with uext4(big, work, opts) as u, kernel(big, work) as k:
        t = interleave(opts.runs, {
            "uext4": lambda: timed(f"dd if={u}/0 of={NULL} bs=1M iflag=direct status=none")[0],
            "kernel": lambda: timed(f"dd if={k}/0 of={NULL} bs=1M iflag=direct status=none")[0]})
    ratio_line("mount: 1 MiB stream, direct", t["uext4"], {"kernel": t["kernel"]})


def null_files(mnt):
    found = []
    for directory, _, files in os.walk(mnt):
        found += [os.path.join(directory, f) for f in files]
        if len(found) >= 2:
            return found[:2]
    raise SystemExit("the null server shows no files")


def bench_open(work, opts):
    image = make_large_image(work, opts.large_files)
    log = os.path.join(work, "strace")
    if shutil.which("strace"):
        run("strace", "-f", "-e", "trace=pread64,preadv", "-o", log, opts.uext4, "info", image)
        with open(log, encoding="ascii", errors="replace") as f:
            sizes = [int(m) for m in re.findall(r"= (\d+)$", f.read(), re.M)]
        print(f"{'open of 1 TiB with a million files':44} {len(sizes):8} reads, "
              f"{sum(sizes) / 2**20:.2f} MiB, with all free counts (goal <= 2 MiB)", flush=True)
    else:
        print("open of 1 TiB: reads not counted, no strace")

    def ours():
        drop_cache(image)
        start = time.perf_counter()
        with uext4(image, work, opts):
            return time.perf_counter() - start

    def theirs():
        drop_cache(image)
        start = time.perf_counter()
        with kernel(image, work):
            return time.perf_counter() - start

    t = interleave(opts.runs, {"uext4": ours, "kernel": theirs})
    ratio_line("mount of it, cold", t["uext4"], {"kernel": t["kernel"]})


# ---- writing -------------------------------------------------------------------------------------------

SMALL_FILES, SMALL_BYTES = 50000, 100


def new_image(work, name, *argv):
    """An empty file system of 1 GiB, complete: nobody finishes it in the background later."""
    image = os.path.join(work, name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(image)
    run("mke2fs", "-q", "-t", "ext4", "-N", "131072", "-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
        *argv, image, "1G")
    return image


def used_blocks(image):
    """After a check: a wrong image would have no honest number."""
    run("e2fsck", "-fn", image)
    text = run("dumpe2fs", "-h", image).stdout.decode()
    count, free = (int(re.search(rf"^{what}:\s+(\d+)$", text, re.M)[1]) for what in ("Block count", "Free blocks"))
    return count - free


def flush(mnt):
    """All that is mounted there, and nothing else, is on the disk: syncfs(2), and its root for FUSE, which knows no syncfs."""
    run("sync", "-f", mnt)
    run("sync", mnt)


@contextlib.contextmanager
def clock(times, name):
    start = time.perf_counter()
    yield
    times.setdefault(name, []).append(time.perf_counter() - start)


def write_files(directory, count, size):
    os.mkdir(directory)
    data = b"x" * size
    for i in range(count):
        fd = os.open(f"{directory}/{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        if size:
            os.write(fd, data)
        os.close(fd)


def trees(mnt, times, opts):
    with clock(times, "untar and flush"):
        os.mkdir(f"{mnt}/tree")
        run("tar", "-C", f"{mnt}/tree", "-xf", opts.tar)
        flush(mnt)
    with clock(times, "rm -rf"):
        run("rm", "-rf", f"{mnt}/tree")
    flush(mnt)


def small_files(mnt, times, opts):
    with clock(times, "50,000 files of 100 bytes, and flush"):
        write_files(f"{mnt}/small", SMALL_FILES, SMALL_BYTES)
        flush(mnt)
    run("rm", "-rf", f"{mnt}/small")
    with clock(times, "one directory: create"):
        write_files(f"{mnt}/many", opts.many, 0)
    with clock(times, "one directory: stat"):
        for i in range(opts.many):
            os.stat(f"{mnt}/many/{i}")
    with clock(times, "one directory: unlink"):
        for i in range(opts.many):
            os.unlink(f"{mnt}/many/{i}")
    os.rmdir(f"{mnt}/many")
    flush(mnt)


def streams(mnt, times, _opts):
    data = random.Random(SEED).randbytes(1 << 20)
    with open(f"{mnt}/stream", "wb", buffering=0) as f:
        with clock(times, "1 MiB stream, and flush"):
            for _ in range(256):
                f.write(data)
            os.fsync(f.fileno())
    os.unlink(f"{mnt}/stream")
    rng = random.Random(SEED)
    places = [rng.randrange(64 << 8) << 12 for _ in range(50000)]
    fd = os.open(f"{mnt}/random", os.O_CREAT | os.O_RDWR, 0o644)
    for _ in range(64):
        os.write(fd, data)
    os.fsync(fd)
    with clock(times, "cached rewrites of 4 KiB"):
        for at in places:
            os.pwrite(fd, data[:4096], at)
    with clock(times, "cached rereads of 4 KiB"):
        for at in places:
            os.pread(fd, 4096, at)
    os.fsync(fd)
    with clock(times, "4 KiB and fdatasync"):
        for at in places[:500]:
            os.pwrite(fd, data[:4096], at)
            os.fdatasync(fd)
    os.close(fd)
    os.unlink(f"{mnt}/random")
    flush(mnt)


def two_clients(mnt, times, opts):
    """What a second one gains.  The null server takes no writes: the kernel is the peer here."""
    def client(number):
        child = os.fork()
        if child == 0:
            write_files(f"{mnt}/client{number}", opts.many // 4, SMALL_BYTES)
            os._exit(0)
        return child

    for count, name in ((1, "one client"), (2, "two clients")):
        with clock(times, name):
            for child in [client(i) for i in range(count)]:
                if os.waitpid(child, 0)[1]:
                    raise SystemExit("a client failed")
        run("rm", "-rf", *(f"{mnt}/client{i}" for i in range(count)))
        flush(mnt)


GOALS = {"4 KiB and fdatasync": "<= 1", "cached rewrites of 4 KiB": "< 1.5", "cached rereads of 4 KiB": "< 1.5"}


def bench_write_mounted(work, opts):
    ours, theirs = new_image(work, "ours.img"), new_image(work, "theirs.img")
    mine, kernels, clients = {}, {}, ({}, {})
    mnt = os.path.join(work, "uext4")
    os.makedirs(mnt, exist_ok=True)
    with mounted(theirs, os.path.join(work, "kernel"), "noatime") as k, \
            fuse([opts.uext4, "mount", ours, mnt], mnt) as u:
        for part in (trees, small_files, streams):
            for i in range(opts.runs + 1):
                for at, times in ((u, mine), (k, kernels)):
                    part(at, times if i else {}, opts)  # the first warms up
        for _ in range(opts.runs):
            for at, times in zip((u, k), clients):
                two_clients(at, times, opts)
    for name, times in mine.items():
        ratio_line(f"mount: {name}", times, {"kernel": kernels[name]}, GOALS.get(name, "< 2"))
    gains = [2 * statistics.median(t["one client"]) / statistics.median(t["two clients"]) for t in clients]
    print(f"{'mount: two clients against one, small files':44} {gains[0]:8.2f} x   kernel {gains[1]:.2f} x", flush=True)
    for image in (ours, theirs):
        run("e2fsck", "-fn", image)
    if opts.fuse2fs:
        times, mnt = {}, os.path.join(work, "fuse2fs")
        with fuse(["fuse2fs", new_image(work, "theirs.img"), mnt], mnt):
            trees(mnt, times, opts)
        for name, seconds in times.items():
            ratio_line(f"mount: {name}", mine[name], {"fuse2fs": seconds}, "< 0.2")


def bench_copy(work, opts):
    cpu = {"uext4": [], "mke2fs": []}
    images = {name: os.path.join(work, f"copy-{name}.img") for name in ("uext4", "kernel", "mke2fs")}

    def counted(name, command):
        seconds, usage = timed(command)
        cpu[name].append(usage.ru_utime + usage.ru_stime)
        return seconds

    def ours():
        image = new_image(work, "copy-uext4.img")
        return counted("uext4", f"exec {opts.uext4} cp -a {opts.tree} {image}:/")

    def kernels():
        image = new_image(work, "copy-kernel.img")
        with mounted(image, os.path.join(work, "kernel"), "noatime") as mnt:
            return timed(f"cp -a {opts.tree} {mnt}/ && sync -f {mnt}")[0]

    def mke2fs():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(images["mke2fs"])
        return counted("mke2fs", f"exec mke2fs -q -t ext4 -N 131072 -E lazy_itable_init=0,lazy_journal_init=0 "
                                 f"-d {opts.tree} {images['mke2fs']} 1G")

    t = interleave(opts.runs, {"uext4": ours, "kernel": kernels, "mke2fs": mke2fs})
    ratio_line("cp -a into an image", t["uext4"], {"kernel": t["kernel"]}, "< 1")
    ratio_line("cp -a into an image", t["uext4"], {"mke2fs -d": t["mke2fs"]}, "< 0.5")
    ratio_line("cp -a into an image, processor time", cpu["uext4"], {"mke2fs -d": cpu["mke2fs"]})
    used = {name: used_blocks(images[name]) for name in ("uext4", "kernel")}
    print(f"{'cp -a into an image, blocks used':44} {used['uext4']:8}      kernel {used['kernel']}   (goal <=)",
          flush=True)


def bench_inline(work, opts):
    """The small files, with and without inline data."""
    small = os.path.join(work, "small")
    if not os.path.isdir(small):
        write_files(small, SMALL_FILES, SMALL_BYTES)
    used = []
    for features in ("^inline_data", "inline_data"):
        image = new_image(work, "inline.img", "-O", features, "-I", "256")
        before = used_blocks(image)
        timed(f"exec {opts.uext4} cp -a {small} {image}:/")
        used.append(used_blocks(image) - before)
    print(f"{'50,000 files of 100 bytes, blocks, inline':44} {used[1]:8}      of {used[0]}: {used[1] / used[0]:.2f}   "
          "(goal < 0.2)", flush=True)


def bench_write(work, opts):
    opts.tree, opts.tar = os.path.join(work, "tree"), os.path.join(work, "tree.tar")
    if not os.path.exists(opts.tar):
        os.mkdir(opts.tree)
        make_tree(opts.tree)
        run("tar", "-C", opts.tree, "-cf", opts.tar, ".")
    bench_copy(work, opts)
    bench_inline(work, opts)
    bench_write_mounted(work, opts)


# ---- mapped files -------------------------------------------------------------------------------------

MAP_GOALS = {"first stores, random": "<= 1.5", "first stores, in order": "<= 1.5", "msync of 10,000 pages, random": "<= 1.5",
             "msync of 10,000 pages, in order": "<= 1.5", "warm loads": "1", "warm stores": "1"}


def map_costs(opts, *side):
    """Seconds of one access, by what it is."""
    costs = {}
    for line in run(opts.mapbench, *side).stdout.decode().splitlines():
        count, seconds, name = line.split(" ", 2)
        costs[name] = float(seconds) / int(count)
    return costs


def bench_map(work, opts):
    ours, theirs = new_image(work, "ours.img"), new_image(work, "theirs.img")
    mine, kernels = {}, {}
    with mounted(theirs, os.path.join(work, "kernel"), "noatime") as k:
        for i in range(opts.runs + 1):
            for side, times in ((("--image", ours), mine), (("--posix", k), kernels)):
                for name, seconds in map_costs(opts, *side).items() if i else ():  # the first warms up
                    times.setdefault(name, []).append(seconds)
    for name, times in mine.items():
        if name.endswith("(memfd)"):
            continue
        peers = {"kernel": kernels[name]}
        if f"{name} (memfd)" in mine:
            peers["memfd"] = mine[f"{name} (memfd)"]
        cost = statistics.median(times)
        cells = ", ".join(f"{peer} {cost / statistics.median(t):.2f}" for peer, t in peers.items())
        goal = f"   (goal {MAP_GOALS[name]})" if name in MAP_GOALS else ""
        if name == "first loads, in order":
            goal = f"   {1 / cost:,.0f} a second (goal >= 500,000)"
        print(f"{'map: ' + name:44} {cost * 1e6:11.3f} us   of {cells}{goal}", flush=True)
    for image in (ours, theirs):
        run("e2fsck", "-fn", image)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--uext4", required=True)
    parser.add_argument("--nullfuse", required=True)
    parser.add_argument("--mapbench", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--large-files", type=int, default=1000000)
    parser.add_argument("--many", type=int, default=50000, help="files in one directory")
    parser.add_argument("--fuse2fs", action="store_true", help="writes through it, too (slow)")
    parser.add_argument("--only", choices=["export", "mount", "open", "write", "map"])
    parser.add_argument("--work")
    opts = parser.parse_args()
    for program in ("uext4", "nullfuse", "mapbench"):
        setattr(opts, program, os.path.abspath(getattr(opts, program)))
    if os.geteuid() != 0:
        raise SystemExit("needs root: the kernel's mounts are the peer")
    _arm_cleanup()
    work = opts.work or tempfile.mkdtemp(prefix="uext4-bench-")
    os.makedirs(work, exist_ok=True)
    if not opts.work:
        at_end(shutil.rmtree, work, True)
    image = os.path.join(work, "tree.img")
    if opts.only not in ("open", "write", "map") and not os.path.exists(image):
        image = make_image(work)
    if opts.only in (None, "export"):
        bench_export(image, work, opts)
    if opts.only in (None, "mount"):
        bench_mount(image, work, opts)
    if opts.only in (None, "open"):
        bench_open(work, opts)
    if opts.only in (None, "write"):
        bench_write(work, opts)
    if opts.only in (None, "map"):
        bench_map(work, opts)


if __name__ == "__main__":
    main()
