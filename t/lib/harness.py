# SPDX-License-Identifier: MIT
"""Running tests and leaving nothing behind.

A test program is a list of jobs.  A job makes one thing that is expensive (an image, a set of
points in time) and reports any number of results about it; it runs in a child process of its own,
so that several run at once and a crash in one is a failure of that one.

One line per result: `ok NAME`, `not ok NAME: WHY` (details follow, indented), `skip NAME: WHY`; the
last line is `N passed, N failed, N skipped`.  The exit status is 1 if anything failed.

H1  Whatever a process mounts or attaches is registered before it is made, and undone in reverse
    order when the process ends: normally, by an exception, by SIGINT, SIGTERM or SIGHUP, or
    because its parent died.
H2  What cannot run here is a `skip` with its reason, never a silent pass.
"""

import argparse
import atexit
import contextlib
import ctypes
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback

REPORT_LINES_MAX = 20
GRACE_SECONDS = 20  # from being asked to end to being killed
SCRATCH_MEMORY_MIN = 4 << 30  # bytes free
WAIT_S = 20  # for what comes by itself, and comes soon

libc = ctypes.CDLL(None, use_errno=True)


class Skip(Exception):
    """Raised inside a test: it cannot run here, and why."""


class Failed(Exception):
    """Raised inside a test: a short reason, and lines of detail."""

    def __init__(self, why, details=()):
        super().__init__(why)
        self.details = list(details)


# ---- cleanup -----------------------------------------------------------------------------------

_cleanups = []


def at_end(function, *args):
    """Registers `function(*args)` for the end of this process.  Returns a handle for done()."""
    entry = (function, args)
    _cleanups.append(entry)
    return entry


def done(entry):
    """The registered action was carried out early, or is no longer needed."""
    if entry in _cleanups:
        _cleanups.remove(entry)


def _run_cleanups():
    while _cleanups:
        function, args = _cleanups.pop()
        try:
            function(*args)
        except Exception as err:  # the others must still run
            print(f"cleanup: {err}", file=sys.stderr)


def _on_signal(number, _frame):
    raise SystemExit(128 + number)


def _arm_cleanup():
    atexit.register(_run_cleanups)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)


# ---- commands, mounts --------------------------------------------------------------------------


def run(*argv, check=True, input=None, timeout=300, env=None):
    """Runs a command; returns its CompletedProcess (bytes).  A failure shows what it printed."""
    result = subprocess.run(
        [os.fspath(a) for a in argv], input=input, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, timeout=timeout, check=False,
        stdin=subprocess.DEVNULL if input is None else None,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC", **(env or {})})
    if check and result.returncode != 0:
        text = (result.stderr or result.stdout).decode(errors="replace").splitlines()
        shown = " ".join(os.fsdecode(a) for a in argv)
        raise Failed(f"`{shown[:200]}` exited {result.returncode}", text[-REPORT_LINES_MAX:])
    return result


def wait_until(what, condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what} did not happen within {WAIT_S} s")
        time.sleep(0.01)


def _umount_quietly(directory):
    subprocess.run(["umount", "-l", directory], stderr=subprocess.DEVNULL, check=False)


def loops_of(image):
    """The loop devices that `image` backs."""
    out = run("losetup", "-n", "-O", "NAME", "-j", image).stdout.decode()
    return out.split()


def wait_unused(image):
    """Waits until no loop device is attached to `image`: detaching is asynchronous."""
    wait_until(f"the release of {image} by its loop device", lambda: not loops_of(image))


@contextlib.contextmanager
def mounted(image, directory, options="", fstype="ext4"):
    """The kernel's mount of a block device, or of an image through a loop device; unmounted, and
    detached, afterwards."""
    os.makedirs(directory, exist_ok=True)
    loop = None if stat.S_ISBLK(os.stat(image).st_mode) else "loop"
    argv = ["mount", "-t", fstype, "-o", ",".join(filter(None, [loop, options])) or "defaults"]
    entry = at_end(_umount_quietly, directory)
    try:
        run(*argv, image, directory)
    except Failed:
        done(entry)
        raise
    try:
        yield directory
    finally:
        run("umount", directory)
        done(entry)
        if loop:
            wait_unused(image)


@contextlib.contextmanager
def fuse_mounted(uext4, image, directory, options="ro"):
    """Our own FUSE mount of `image`."""
    os.makedirs(directory, exist_ok=True)
    entry = at_end(_umount_quietly, directory)
    # The server inherits no pipe of ours: waiting for the end of its output would hang.
    with tempfile.TemporaryFile() as log:
        result = subprocess.run([uext4, "mount", image, directory, "-o", options],
                                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                timeout=60, check=False)
        log.seek(0)
        text = log.read().decode(errors="replace").splitlines()
    if result.returncode != 0:
        raise Failed(f"uext4 mount exited {result.returncode}", text)
    try:
        yield directory
    finally:
        if os.path.ismount(directory):
            run("fusermount3", "-u", directory)
        done(entry)


def servers_of(image):
    """The processes that serve a FUSE mount of `image`."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
        except OSError:
            continue
        if b"mount" in words[1:2] and os.fsencode(image) in words[2:]:
            found.append(int(pid))
    return found


def wait_server_gone(image):
    """The end of a server is not waited for by what unmounts."""
    wait_until("the end of the server", lambda: not servers_of(image))


@contextlib.contextmanager
def loop_device(path, *options):
    """A loop device over `path`."""
    device = run("losetup", "-f", "--show", *options, path).stdout.decode().strip()
    entry = at_end(subprocess.run, ["losetup", "-d", device])
    try:
        yield device
    finally:
        run("losetup", "-d", device)
        done(entry)
        wait_unused(path)


def why_no_kernel_mounts():
    """None, or the reason why this process cannot mount through loop devices."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/loop-control"):
        return "no loop devices"
    with open("/proc/filesystems", encoding="ascii") as f:
        if "ext4" not in f.read().split():
            return "no ext4 in this kernel"
    return None


def why_no_fuse():
    """None, or the reason why FUSE mounts cannot be tested."""
    return None if os.path.exists("/dev/fuse") else "no /dev/fuse"


def why_no_fuse_for_root():
    """The same for those tests that let root use the mount."""
    return why_no_fuse() or (None if os.geteuid() == 0 else "needs root")


# ---- jobs --------------------------------------------------------------------------------------


class Job:
    """One job: its name, the function that runs it, and the results it will report.

    judge_may_hang: nothing of ours runs while the kernel does its part, and that part is known to
    stop some kernels; a job that even SIGKILL does not end says so as a skip.
    """

    def __init__(self, name, function, results, judge_may_hang=False):
        self.name = name
        self.function = function
        self.results = results
        self.judge_may_hang = judge_may_hang


class Context:
    """What a job's function gets: options, a directory of its own, and test()."""

    def __init__(self, options, job, pipe):
        self.options = options
        self.job = job
        self.dir = os.path.join(options.work, job.name)
        self._pipe = pipe
        self._wanted = re.compile(options.only) if options.only else None

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def wants(self, result):
        return not self._wanted or bool(self._wanted.search(f"{self.job.name}/{result}"))

    def report(self, status, result, why="", details=()):
        line = f"{status} {self.job.name}/{result}" + (f": {why}" if why else "")
        more = [f"    {d}" for d in list(details)[:REPORT_LINES_MAX]]
        if len(list(details)) > REPORT_LINES_MAX:
            more.append(f"    ... and {len(list(details)) - REPORT_LINES_MAX} more")
        os.write(self._pipe, ("\n".join([line] + more) + "\n").encode(errors="backslashreplace"))

    def test(self, result, function):
        """Runs one test and reports it.  `function` returns None or a list of differences."""
        if not self.wants(result):
            return
        try:
            differences = function()
        except Skip as skip:
            self.report("skip", result, str(skip))
        except Failed as failed:
            self.report("not ok", result, str(failed), failed.details)
        except Exception as err:
            self.report("not ok", result, f"{type(err).__name__}: {err}",
                        traceback.format_exc().splitlines())
        else:
            if differences:
                self.report("not ok", result, f"{len(differences)} differences", differences)
            else:
                self.report("ok", result)


def _child(options, job, pipe):
    _cleanups.clear()
    os.setpgid(0, 0)
    libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    status = 0
    context = Context(options, job, pipe)
    try:
        os.makedirs(context.dir)
        job.function(context)
    except Skip as skip:
        for result in job.results:
            if context.wants(result):
                context.report("skip", result, str(skip))
    except Failed as failed:
        context.report("not ok", "setup", str(failed), failed.details)
    except SystemExit as end:
        status = end.code or 0
        context.report("not ok", "setup", f"ended by signal {status - 128}")
    except Exception as err:
        context.report("not ok", "setup", f"{type(err).__name__}: {err}",
                       traceback.format_exc().splitlines())
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        _run_cleanups()
        if not options.keep:
            shutil.rmtree(context.dir, ignore_errors=True)
        os._exit(status)


class _Running:
    def __init__(self, options, job):
        self.job = job
        self.reports = 0
        self.asked = False  # to end
        self.started = time.monotonic()
        self.fd, pipe = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.fd)
            _child(options, job, pipe)
        os.close(pipe)


class _Pool:
    def __init__(self, options, jobs):
        self.options = options
        self.waiting = list(jobs)
        self.running = []
        self.counts = {"ok": 0, "not ok": 0, "skip": 0}

    def _line(self, line):
        for status in self.counts:
            if line.startswith(status + " "):
                self.counts[status] += 1
        print(line, flush=True)

    def _finish(self, child):
        self.running.remove(child)
        os.close(child.fd)
        _, status = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if child.asked:
            self._line(f"not ok {child.job.name}/time: over {self.options.timeout} s")
        elif code != 0 and code < 128:
            self._line(f"not ok {child.job.name}/exit: the process ended with {code}")
        elif child.reports == 0:
            self._line(f"not ok {child.job.name}/exit: nothing was reported")
        if self.options.verbose:
            print(f"    {child.job.name}: {time.monotonic() - child.started:.1f} s", flush=True)

    def stop(self):
        for child in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for child in self.running:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(child.pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
                    time.sleep(0.05)

    def _overdue(self, child):
        """Ends a job that takes too long; gives up one that the kernel does not let end."""
        late = time.monotonic() - child.started - self.options.timeout
        if late > 0 and not child.asked:
            child.asked = True
            os.kill(child.pid, signal.SIGTERM)
        if late > GRACE_SECONDS:
            os.kill(child.pid, signal.SIGKILL)
        if late > 2 * GRACE_SECONDS:
            status = "skip" if child.job.judge_may_hang else "not ok"
            self._line(f"{status} {child.job.name}/end: stuck inside the kernel, even when killed")
            self.running.remove(child)
            os.close(child.fd)

    def run(self):
        buffers = {}
        while self.waiting or self.running:
            while self.waiting and len(self.running) < self.options.jobs:
                self.running.append(_Running(self.options, self.waiting.pop(0)))
            ready, _, _ = select.select([c.fd for c in self.running], [], [], 5)
            for child in [c for c in self.running if c.fd in ready]:
                data = os.read(child.fd, 65536)
                text = buffers.pop(child.fd, b"") + data
                lines = text.split(b"\n")
                buffers[child.fd] = lines.pop()
                for line in lines:
                    child.reports += 1
                    self._line(line.decode(errors="replace"))
                if not data:
                    buffers.pop(child.fd, None)
                    self._finish(child)
            for child in list(self.running):
                self._overdue(child)


def parse_options(description, extra=None):
    """The options every test program has; `extra(parser)` may add its own."""
    here = os.path.dirname(os.path.abspath(__file__))
    build = os.path.normpath(os.path.join(here, "..", "..", "build"))
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--uext4", default=os.environ.get("UEXT4", os.path.join(build, "uext4")),
                        help="the command line program")
    parser.add_argument("--manifest", default=os.environ.get("UEXT4_MANIFEST"),
                        help="the program made of t/manifest.c (default: beside --uext4)")
    parser.add_argument("--only", metavar="REGEX", help="only results whose name matches")
    parser.add_argument("--work", metavar="DIR", help="scratch directory (default: a new one)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=int, default=300, help="seconds for one job")
    parser.add_argument("--keep", action="store_true", help="leave the images")
    parser.add_argument("--list", action="store_true", help="show the names and end")
    parser.add_argument("--verbose", action="store_true", help="show the time of each job")
    parser.add_argument("--full", action="store_true", help="more and larger")
    parser.add_argument("--seed", type=int, default=1)
    if extra:
        extra(parser)
    options = parser.parse_args()
    options.uext4 = os.path.abspath(options.uext4)
    if not options.manifest:
        beside = os.path.dirname(options.uext4)
        places = [os.path.join(beside, p, "uext4-manifest") for p in ("", "t", "../t")]
        options.manifest = next((p for p in places if os.path.exists(p)), places[0])
    options.manifest = os.path.abspath(options.manifest)
    return options


def scratch():
    """Where images are made: in memory where there is plenty, several times faster than a disk."""
    if "TMPDIR" not in os.environ and os.access("/dev/shm", os.W_OK):
        fs = os.statvfs("/dev/shm")
        if fs.f_bavail * fs.f_frsize >= SCRATCH_MEMORY_MIN:
            return "/dev/shm"
    return None


def main(options, jobs):
    """Runs the jobs and exits."""
    if options.only:
        wanted = re.compile(options.only)
        jobs = [j for j in jobs if any(wanted.search(f"{j.name}/{r}") for r in j.results)]
    if options.list:
        for job in jobs:
            for result in job.results:
                print(f"{job.name}/{result}")
        raise SystemExit(0)
    made = options.work is None
    options.work = options.work or tempfile.mkdtemp(prefix="uext4-test-", dir=scratch())
    os.makedirs(options.work, exist_ok=True)
    _arm_cleanup()
    if made and not options.keep:
        at_end(shutil.rmtree, options.work, True)
    pool = _Pool(options, jobs)
    at_end(pool.stop)
    pool.run()
    if options.keep:
        print(f"images are in {options.work}")
    counts = pool.counts
    print(f"{counts['ok']} passed, {counts['not ok']} failed, {counts['skip']} skipped", flush=True)
    raise SystemExit(1 if counts["not ok"] else 0)
