# SPDX-License-Identifier: MIT
"""What the drivers of the tests that change images share: kinds of images, and running a program
of t/ on a fresh one.
"""

import os
import subprocess

from . import harness, images
from .harness import Failed, Skip, run

# name, mke2fs, MiB, whether the kernel here mounts it for writing
KINDS = [
    ("d12-4k", "-t ext4 -b 4096", 48, True),
    ("d13-4k", f"-t ext4 -b 4096 -O {images.EXT4_D13}", 48, True),
    ("d12-1k", "-t ext4 -b 1024", 48, True),
    ("64k", "-t ext4 -b 65536", 512, False),
    ("no-journal", "-t ext4 -b 4096 -O ^has_journal", 48, True),
    ("inline-4k", "-t ext4 -b 4096 -O inline_data -J size=32", 96, True),
    ("inline-1k-512", "-t ext4 -b 1024 -I 512 -O inline_data,orphan_file -J size=32", 96, True),
    ("bigalloc", "-t ext4 -b 4096 -O bigalloc -C 16384", 192, True),
    ("bigalloc-1k-inline", "-t ext4 -b 1024 -O bigalloc,inline_data -C 16384", 160, False),
    ("ext2", "-t ext2 -b 1024 -I 128", 48, True),
    ("ext3", "-t ext3 -b 4096 -I 256", 48, True),
    ("ext3-1k-128", "-t ext3 -b 1024 -I 128", 48, True),
    ("quota-project", "-t ext4 -b 4096 -O quota,project -I 256", 48, False),
    ("csum-off", "-t ext4 -b 4096 -O ^metadata_csum", 48, True),
    ("uninit-bg-64bit-off", "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^64bit", 48, True),
    ("meta-bg", "-t ext4 -b 1024 -O meta_bg,^resize_inode -g 1024", 48, True),
    ("large-dir", "-t ext4 -b 1024 -O large_dir", 64, True),
    ("ea-inode", "-t ext4 -b 4096 -O ea_inode", 48, True),
    ("ea-inode-1k-inline", "-t ext4 -b 1024 -O ea_inode,inline_data -J size=32", 96, False),
    ("no-dir-index", "-t ext4 -b 1024 -O ^dir_index", 48, True),
    # The kernel (6.18) stores types in it all the same.
    ("no-filetype", "-t ext4 -b 4096 -O ^filetype", 48, False),
]

UNFINISHED = 3  # exit status: the library left something out


def make(path, arguments, size, inodes=4096):
    """A fresh image; returns how it is made, for people."""
    images.mke2fs(path, arguments.split(), size, inodes=inodes)
    return (f"truncate -s {size}M IMAGE; MKE2FS_CONFIG={os.path.relpath(images.CONF)}"
            f" mke2fs -q -F -E hash_seed={images.HASH_SEED} -U {images.UUID} -N {inodes}"
            f" {arguments} IMAGE")


def unmount(directory):
    subprocess.run(["umount", "-l", directory], stderr=subprocess.DEVNULL, check=False)


def call(ctx, how_made, program, *arguments, mount=None, why_not=harness.why_no_kernel_mounts,
         timeout=900):
    """Runs a test program; an exit status other than 0 is a failure that shows what it said."""
    entry = None
    if mount:
        why = why_not()
        if why:
            raise Skip(why)
        os.makedirs(mount, exist_ok=True)
        entry = harness.at_end(unmount, mount)
    result = run(program, *arguments, check=False, timeout=timeout)
    text = (result.stdout + result.stderr).decode(errors="replace").splitlines()
    if result.returncode == UNFINISHED:
        raise Skip(f"the library leaves something out: {text[-1] if text else ''}")
    if result.returncode != 0:
        found = [line for line in text[:-17] if line.startswith("SUMMARY: ")]  # a sanitizer's
        raise Failed(f"{os.path.basename(program)} ended with {result.returncode}",
                     found + text[-17:] + [f"image: {how_made}"])
    if entry:
        harness.done(entry)
    return text
