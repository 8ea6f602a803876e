#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Damaged images: an error or correct data, never a crash, a hang, a leak or a wrong answer.

Small images of different kinds are cut at every power of two, and changed in their metadata many times
(seeded), and walked whole each time by t/walk.c under ASan and UBSan: as they are; where all metadata has
checksums, held against the sound image; and by an engine that accepts every checksum.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib.harness import Failed, Job, main, parse_options, run  # noqa: E402

DATA = b"\xda"  # as t/walk.c: all that files hold
STRICT = True

# name, mke2fs arguments, MiB, whether all metadata is checksummed, what else
KINDS = [
    ("default", "-t ext4 -b 4096 -I 256", 8, STRICT, ()),
    ("small-blocks", "-t ext4 -b 1024 -I 128 -O ^metadata_csum,^64bit", 6, False, ("htree",)),
    ("ext2", "-t ext2 -b 1024 -I 128", 6, False, ()),
    ("ext3-htree", "-t ext3 -b 2048 -I 256", 8, False, ("htree",)),
    ("inline", "-t ext4 -b 1024 -I 512 -O inline_data,metadata_csum_seed", 6, STRICT, ("htree",)),
    ("ea-inode", "-t ext4 -b 4096 -I 256 -O ea_inode,large_dir", 8, STRICT, ("htree", "ea")),
    ("bigalloc", "-t ext4 -b 1024 -C 8192 -O bigalloc,meta_bg,^resize_inode,sparse_super2", 8, STRICT, ()),
    ("dirty", "-t ext4 -b 1024 -J size=1", 6, False, ("htree", "dirty")),
]


def fill(directory):
    """A small tree with every kind of thing that mke2fs -d takes from an ordinary user."""
    os.makedirs(os.path.join(directory, "many"))
    for size in (0, 1, 60, 61, 156, 1024, 4095, 4096, 4097, 70000):
        with open(os.path.join(directory, f"file{size}"), "wb") as f:
            f.write(DATA * size)
    with open(os.path.join(directory, "islands"), "wb") as f:
        for i in range(220):
            f.seek(i * 8192)
            f.write(DATA * 4096)
    for i in range(500):
        name = f"{i:03}-{'n' * (i % 60)}"
        open(os.path.join(directory, "many", name), "wb").close()
    os.link(os.path.join(directory, "file1"), os.path.join(directory, "hard"))
    os.symlink("file1", os.path.join(directory, "fast"))
    os.symlink("x" * 200, os.path.join(directory, "slow"))
    os.makedirs(os.path.join(directory, "a/b/c/d"))
    os.makedirs(os.path.join(directory, "tiny"))
    with open(os.path.join(directory, "tiny", "e"), "wb") as f:
        f.write(DATA * 10)
    os.mkfifo(os.path.join(directory, "fifo"))
    for i, size in enumerate((1, 40, 300, 700)):
        path = os.path.join(directory, f"file{(1, 60, 61, 4096)[i]}")
        try:
            os.setxattr(path, f"user.attribute{size}", DATA * size)
        except OSError:
            pass  # the scratch directory cannot hold it; the other three kinds of place remain


def make(context, kind):
    name, args, size, _, extras = kind
    tree, image = context.path("tree"), context.path("image")
    fill(tree)
    run("mke2fs", "-q", "-F", *args.split(), "-d", tree, image, f"{size}M")
    if "htree" in extras:
        # mke2fs fills directories without an index; e2fsck makes one. 1: it changed something.
        result = run("e2fsck", "-fyD", image, check=False)
        if result.returncode > 1:
            raise Failed("e2fsck -D", result.stdout.decode(errors="replace").splitlines())
    if "ea" in extras:
        value = context.path("value")
        with open(value, "wb") as f:
            f.write(DATA * 9000)
        run("debugfs", "-w", "-R", f"ea_set -f {value} /file4095 user.big", image)
        # debugfs forgets the value in the owner's i_blocks.  1: that was mended.
        if run("e2fsck", "-fy", image, check=False).returncode > 1:
            raise Failed("e2fsck -y")
    if "dirty" in extras:
        # One transaction that rewrites the root directory's block and revokes another.
        block = run("debugfs", "-R", "blocks /", image).stdout.split()[0].decode()
        run("dd", f"if={image}", f"of={context.path('block')}", "bs=1024", f"skip={block}", "count=1")
        script = f"jo\njw -b {block} -r 5000 {context.path('block')}\njc\n"
        run("debugfs", "-w", "-f", "/dev/stdin", image, input=script.encode())
        if b"needs_recovery" not in run("dumpe2fs", "-h", image).stdout:
            raise Failed("the image is not dirty")
    return image


def walk(context, program, *args):
    result = run(program, *args, check=False, timeout=context.options.timeout)
    if result.returncode != 0:
        text = (result.stdout + result.stderr).decode(errors="replace").splitlines()
        keep = os.environ.get("UEXT4_KEEP_BAD")
        if keep:
            run("cp", context.path("image"), os.path.join(keep, context.job.name))
        raise Failed(f"`{os.path.basename(program)} {' '.join(args)}` ended with {result.returncode}", text)


def job(kind):
    def function(context):
        image = make(context, kind)
        options = context.options
        seed, flips = str(options.seed), str(options.flips)
        strict = ["--strict"] if kind[3] else []
        context.test("truncated", lambda: walk(context, options.walk, "truncate", image))
        context.test("changed", lambda: walk(context, options.walk, "flip", seed, flips, image, *strict))
        context.test("changed, checksums accepted",
                     lambda: walk(context, options.walk + "-fuzz", "flip", seed, flips, image))

    return Job(kind[0], function, ["truncated", "changed", "changed, checksums accepted"])


def extra_options(parser):
    parser.add_argument("--walk", required=True, help="the program uext4-walk; -fuzz is beside it")
    parser.add_argument("--flips", type=int, default=200, help="images for each kind and engine")


if __name__ == "__main__":
    opts = parse_options(__doc__.splitlines()[0], extra_options)
    opts.timeout = max(opts.timeout, opts.flips * 4)
    main(opts, [job(kind) for kind in KINDS])
