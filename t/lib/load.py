# SPDX-License-Identifier: MIT
"""A seeded load on a mounted file system, for images that are caught in the middle of it.

Does what applications do, in one thread, with many small fsyncs: creates, writes, overwrites,
renames, links, unlinks, truncates, attributes, directories; and keeps files open that have no name
any more, so that there are orphans.  It keeps account of what exists, and so expects no error, but
those of a file system that was shut down under it.

What the kernel does not survive, or not always (seen with 6.18), it leaves alone:
    L1  No file is mapped.
    L2  With inline_data no file that has blocks is cut down: ordered data of an inode that became
        inline again makes the commit thread start a handle, and wait for itself when the log is
        full.
    L3  With fast_commit only simple operations (GENTLE) on files of few extents in one directory,
        and no open file without a name: the replay of others fails ("journal recovery failed") or
        stops the kernel.  So no fast_commit with inline_data.
"""

import errno
import os
import random
import signal
import time
import traceback

from . import tree
from .harness import Failed, at_end, done

FILES_MAX = 300
FILES_GENTLE = 25  # their names fit into one block
HELD_MAX = 12
LENGTHS = (0, 1, 40, 60, 61, 130, 150, 160, 1000, 4096, 5000, 20000, 60000)


class Load:
    def __init__(self, root, seed, caps, fsync_share):
        self.root = os.fsencode(root)
        self.random = random.Random(seed)
        self.caps = caps
        self.fsync_share = fsync_share
        self.files = []
        self.directories = [self.root]
        self.held = []  # open descriptors without a name
        self.count = 0
        self.gentle = caps.has("fast_commit")  # L3

    # ---- names ---------------------------------------------------------------------------------

    def new_path(self):
        self.count += 1
        filler = b"n" * (1 if self.gentle else self.random.choice((1, 1, 8, 40, 150)))
        return self.random.choice(self.directories) + b"/%05d" % self.count + filler

    def some_file(self):
        return self.random.choice(self.files) if self.files else self.create()

    def data(self):
        return self.random.randbytes(self.random.choice(LENGTHS))

    def opened(self, path):
        return os.open(path, os.O_RDWR)

    def maybe_sync(self, fd):
        if self.random.random() < self.fsync_share:
            self.random.choice((os.fsync, os.fdatasync))(fd)

    # ---- operations ----------------------------------------------------------------------------

    def create(self):
        path = self.new_path()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, self.data())
        self.maybe_sync(fd)
        os.close(fd)
        self.files.append(path)
        return path

    def overwrite(self):
        fd = self.opened(self.some_file())
        size = os.fstat(fd).st_size
        os.pwrite(fd, self.data(), self.random.randrange(size + (1 if self.gentle else 5000)))
        self.maybe_sync(fd)
        os.close(fd)

    def append(self):
        fd = self.opened(self.some_file())
        if os.fstat(fd).st_size < (20000 if self.gentle else 300000):
            os.lseek(fd, 0, os.SEEK_END)
            os.write(fd, self.data())
        self.maybe_sync(fd)
        os.close(fd)

    def truncate(self):
        fd = self.opened(self.some_file())
        size = os.fstat(fd).st_size
        sizes = [size + 100, size + 50000]
        if not self.caps.has("inline_data") or size <= 60:  # L2
            sizes += [0, 30, size // 2]
        os.ftruncate(fd, self.random.choice(sizes))
        self.maybe_sync(fd)
        os.close(fd)

    def large(self):
        """A file of many extents, cut down in one go."""
        path = self.new_path()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self.files.append(path)
        for i in range(60):
            os.pwrite(fd, b"large" * 100, 2 * i * self.caps.block_size)
        os.fsync(fd)
        os.ftruncate(fd, 50000 if self.caps.has("inline_data") else  # L2
                     self.random.choice((0, 100, 50000)))
        self.maybe_sync(fd)
        os.close(fd)

    def fallocate(self):
        if not self.caps.has("extent"):
            return
        fd = self.opened(self.some_file())
        mode = self.random.choice((0, tree.KEEP_SIZE, tree.PUNCH_HOLE | tree.KEEP_SIZE,
                                   tree.ZERO_RANGE))
        tree.fallocate(fd, mode, self.random.randrange(40000), 1 + self.random.randrange(40000))
        self.maybe_sync(fd)
        os.close(fd)

    def unlink(self):
        path = self.some_file()
        self.files.remove(path)
        os.unlink(path)

    def unlink_open(self):
        path = self.some_file()
        fd = self.opened(path)
        self.files.remove(path)
        os.unlink(path)
        os.pwrite(fd, self.data(), 10000)
        self.held.append(fd)
        if len(self.held) > HELD_MAX:
            os.close(self.held.pop(self.random.randrange(len(self.held))))

    def rename(self):
        old = self.some_file()
        new = self.new_path() if self.random.random() < 0.5 else self.some_file()
        os.rename(old, new)
        # Two names of one inode are both kept by rename(2).
        if old != new and not os.path.lexists(old):
            self.files.remove(old)
        if new not in self.files:
            self.files.append(new)

    def link(self):
        new = self.new_path()
        os.link(self.some_file(), new)
        self.files.append(new)

    def symlink(self):
        path = self.new_path()
        os.symlink(b"t" * self.random.choice((5, 59, 60, 61, 200, 900)), path)

    def mkdir(self):
        if len(self.directories) < 30:
            path = self.new_path()
            os.mkdir(path)
            self.directories.append(path)

    def rmdir(self):
        path = self.new_path()
        os.mkdir(path)
        os.rmdir(path)

    def sync_directory(self):
        fd = os.open(self.random.choice(self.directories), os.O_RDONLY)
        self.maybe_sync(fd)
        os.close(fd)

    def xattr(self):
        path = self.some_file()
        name = "user." + self.random.choice("abcd")
        if self.random.random() < 0.3 and name in os.listxattr(path):
            os.removexattr(path, name)
        else:
            os.setxattr(path, name, self.random.randbytes(self.random.choice((0, 1, 20, 90, 180))))

    def attributes(self):
        path = self.some_file()
        os.chmod(path, self.random.randrange(0o1000) | 0o600)
        os.chown(path, self.random.randrange(100000), self.random.randrange(100000))
        stamp = self.random.randrange(-2**31, 2**33) * 10**9 + self.random.randrange(10**9)
        os.utime(path, ns=(stamp, stamp))

    OPERATIONS = ((create, 22), (overwrite, 14), (append, 12), (truncate, 8), (unlink, 6),
                  (unlink_open, 5), (rename, 7), (link, 4), (symlink, 3), (mkdir, 3), (rmdir, 2),
                  (sync_directory, 2), (xattr, 8), (attributes, 4), (fallocate, 5), (large, 2))

    GENTLE = ((create, 20), (overwrite, 15), (append, 20), (unlink, 10), (rename, 10), (link, 2),
              (attributes, 5))

    def step(self):
        if len(self.files) > (FILES_GENTLE if self.gentle else FILES_MAX):
            self.unlink()
        operations, weights = zip(*(self.GENTLE if self.gentle else self.OPERATIONS))
        self.random.choices(operations, weights)[0](self)


def _run(root, seed, caps, fsync_share, ready):
    load = Load(root, seed, caps, fsync_share)
    for _ in range(150):
        load.step()
    os.write(ready, b"r")
    while True:
        load.step()


class Worker:
    """The load in a process of its own; ready after its first 150 steps."""

    # What a file system that was shut down answers.
    AFTER_SHUTDOWN = (errno.EIO, errno.EROFS)

    def __init__(self, root, seed, caps, fsync_share=0.15):
        reading, writing = os.pipe()
        errors, complain = os.pipe()
        self.errors = errors
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                _run(root, seed, caps, fsync_share, writing)
            except OSError as err:
                if err.errno in self.AFTER_SHUTDOWN:
                    os._exit(0)
                os.write(complain, traceback.format_exc().encode())
            except BaseException:
                os.write(complain, traceback.format_exc().encode())
            os._exit(1)
        self._entry = at_end(self._kill)
        os.close(writing)
        os.close(complain)
        ok = os.read(reading, 1)
        os.close(reading)
        if not ok:
            self.stop()
            raise Failed("the load ended before it was ready")

    def _kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def stop(self):
        """Ends the load; it must not have ended by itself, but through a shutdown."""
        try:
            os.kill(self.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        _, status = os.waitpid(self.pid, 0)
        done(self._entry)
        said = os.read(self.errors, 65536).decode(errors="replace")
        os.close(self.errors)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGTERM):
            raise Failed(f"the load ended with {code}", said.splitlines())


def pause(generator, shortest, longest):
    time.sleep(generator.uniform(shortest, longest))
