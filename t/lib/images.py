# SPDX-License-Identifier: MIT
"""Recipes for ext4 images, and making them.

A recipe says how mke2fs makes an image, how the kernel mounts it to be filled, and what is done to
it offline afterwards (what no running kernel here does: project ids, quota files, times of
creation before 1970).  Every image is checked by e2fsck before anybody reads it.

R1  The same recipe and seed give the same tree; inode numbers and times of change are the kernel's.
R2  An image that is handed out is clean, and no loop device is attached to it.
"""

import os
import re
import struct

from . import tree
from .harness import Failed, loop_device, mounted, run
from .manifest import PIECE, WINDOW, Digest, segments_of

UUID = "6f7e2b5c-1d3a-4c58-9b0e-2a4d6c8e0f13"
HASH_SEED = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
CONF = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mke2fs.conf")

EXT4_D13 = "metadata_csum_seed,orphan_file"  # what Debian 13 has by default beyond Debian 12


class Recipe:
    """
    name    of the image
    mke2fs  its arguments
    size    of the image, MiB
    mount   options of the kernel mount that fills it
    read    options of the kernel mount that is compared (besides ro,noatime)
    extras  of tree.build()
    before, after   functions of (Image), run after mke2fs and after filling
    full    large holes are read, too
    extended, external_journal   mke2fs -E; a journal on a device of its own
    """

    def __init__(self, name, mke2fs, size=64, mount="", read="", extras=(), before=(), after=(),
                 full=False, extended="", external_journal=False):
        self.name = name
        self.mke2fs = mke2fs.split()
        self.size = size
        self.mount = mount
        self.read = read
        self.extras = extras
        self.before = before
        self.after = after
        self.full = full
        self.extended = extended
        self.external_journal = external_journal


# ---- offline changes ---------------------------------------------------------------------------


def debugfs(image, commands, write=False, bitmaps=True):
    """Runs debugfs commands; returns what they print.  debugfs itself never fails, so that any
    message on stderr but the banner is an error.  Without bitmaps it opens dirty images, too."""
    flags = (["-w"] if write else []) + ([] if bitmaps else ["-c"])
    argv = ["debugfs", *flags, "-f", "-", image]
    result = run(*argv, input="\n".join(commands).encode() + b"\n")
    errors = [e for e in result.stderr.decode(errors="replace").splitlines()
              if not e.startswith("debugfs 1.")]
    if errors:
        raise Failed("debugfs failed", errors)
    return result.stdout.decode(errors="surrogateescape")


def tune2fs(*arguments):
    return lambda image: run("tune2fs", *arguments, image.path)


def set_super(field, value):
    return lambda image: debugfs(image.path, [f"set_super_value {field} {value}"], write=True)


def old_times(image):
    """Times of creation and change that no running kernel sets."""
    commands = []
    for name, seconds in (("t0", -2**31), ("t3", -2), ("t5", 0), ("t9", 2**31 - 1)):
        for field in ("crtime", "ctime"):
            commands.append(f"set_inode_field /times/{name} {field} @{seconds}")
    commands.append("set_inode_field /times/t7 crtime @1234567890")
    commands.append("set_inode_field /times/t7 crtime_extra 0xFFFFFFFD")
    commands.append("set_inode_field /times/t7 ctime_extra 2")
    commands.append("set_inode_field /times/t8 generation 0xFFFFFFFF")
    debugfs(image.path, commands, write=True)


def journalled_flag(image):
    """Flag j, where the kernel would take it."""
    if image.caps.has("has_journal") and not image.caps.has("inline_data"):
        name = "/flags/journalled"
        flags = re.search(r"Flags: (0x[0-9a-f]+)", debugfs(image.path, [f"stat {name}"])).group(1)
        debugfs(image.path, [f"set_inode_field {name} flags {int(flags, 16) | 0x4000:#x}"],
                write=True)


def project_ids(image):
    names = ["/types/reg", "/types/fifo", "/dirs", "/sizes/s0", "/sizes/s4096", "/symlinks/l1"]
    debugfs(image.path, [f"set_inode_field {name} projid {value}" for name, value in
                         zip(names, (1, 2, 3, 65536, 2**32 - 1, 77))], write=True)
    # The quota file is counted anew: e2fsck says 1, "corrected".
    run("e2fsck", "-fy", image.path, check=False)


def share_blocks(image):
    """Lets two files have the same blocks, as a deduplicated read-only image does."""
    source, copy = "/sizes/s65536", "/sizes/shared-copy"
    with open(image.path + ".empty", "wb"):
        pass
    debugfs(image.path, [f"write {image.path}.empty {copy}"], write=True)
    raw = debugfs(image.path, [f"inode_dump {source}"])
    i_block = inode_bytes(raw)[40:100]
    words = struct.unpack("<15I", i_block)
    kept = [f"set_inode_field {copy} block[{i}] {word:#x}" for i, word in enumerate(words[:12])]
    kept += [f"set_inode_field {copy} block[{name}] {words[12 + i]:#x}"
             for i, name in enumerate(("IND", "DIND", "TIND"))]
    kept += [f"set_inode_field {copy} size 65536",
             f"set_inode_field {copy} blocks {65536 // 512}",
             f"set_inode_field {copy} flags 0x80000",
             "feature shared_blocks"]
    debugfs(image.path, kept, write=True)


def inode_bytes(dump):
    """The bytes of debugfs' inode_dump."""
    raw = bytearray()
    for line in dump.splitlines():
        match = re.match(r"^[0-9a-f]{4,}  ((?:[0-9a-f]{4} ?)+)", line)
        if match:
            raw += bytes.fromhex(match.group(1).replace(" ", ""))
    return bytes(raw)


# ---- the recipes -------------------------------------------------------------------------------


def recipes():
    """All images that the kernel fills and mounts."""
    r = []

    def add(name, version, block, rest="", **more):
        r.append(Recipe(name, f"-t {version} -b {block} {rest}", **more))

    # The order is that of running: the slow ones first, so that the end is not waiting for one.
    add("large-dir-1k", "ext4", 1024, "-O large_dir", size=128, extras=("long",))
    add("ext4-d13-4k", "ext4", 4096, f"-O {EXT4_D13}", size=128, extras=("big",),
        after=(tune2fs("-U", "9d1c3c0e-5a83-4f8b-8f63-0f3f6f1f9a10"), old_times), full=True)
    add("ext4-inline-256", "ext4", 4096, "-O inline_data -I 256", after=(old_times,))
    add("ext2-1k", "ext2", 1024, "-I 128", full=True)

    # Versions, block sizes and inode sizes.
    add("ext2-2k-256", "ext2", 2048, "-I 256")
    add("ext2-4k-128", "ext2", 4096, "-I 128")
    add("ext2-rev0", "ext2", 1024, "-r 0 -O none -I 128")
    add("ext3-1k-128", "ext3", 1024, "-I 128")
    add("ext3-4k-256", "ext3", 4096, "-I 256", after=(old_times,))
    add("ext4-d12-4k", "ext4", 4096, after=(old_times,))
    add("ext4-d12-2k", "ext4", 2048)
    add("ext4-d12-1k", "ext4", 1024)
    add("ext4-d13-1k", "ext4", 1024, f"-O {EXT4_D13}")
    add("ext4-i128-4k", "ext4", 4096, "-I 128")
    add("ext4-i512-2k", "ext4", 2048, "-I 512")
    add("ext4-i1024-4k", "ext4", 4096, "-I 1024", after=(old_times,))
    add("ext4-i4096-4k", "ext4", 4096, "-I 4096", size=96)

    # Block maps, descriptors, checksums.
    add("no-extent-4k", "ext4", 4096, "-O ^extent,^64bit,uninit_bg,^metadata_csum")
    add("no-extent-1k", "ext4", 1024, "-O ^extent,^64bit")
    add("uninit-bg-4k", "ext4", 4096, "-O ^metadata_csum,uninit_bg")
    add("uninit-bg-1k-64bit-off", "ext4", 1024, "-O ^metadata_csum,uninit_bg,^64bit")
    add("no-checksums-2k", "ext4", 2048, "-O ^metadata_csum")
    add("64bit-off", "ext4", 4096, "-O ^64bit")
    add("meta-bg-1k", "ext4", 1024, "-O meta_bg,^resize_inode -g 512")
    add("meta-bg-4k-csum", "ext4", 4096, "-O meta_bg,^resize_inode,^flex_bg -g 1024")
    add("flex-bg-off", "ext4", 1024, "-O ^flex_bg")
    add("flex-bg-small-groups", "ext4", 1024, "-g 1024 -G 8")
    add("sparse-super2", "ext4", 4096, "-O sparse_super2 -g 2048")
    add("sparse-super-off", "ext4", 1024, "-O ^sparse_super,^resize_inode,^flex_bg -g 2048")
    add("bigalloc-4k-16k", "ext4", 4096, "-O bigalloc -C 16384", size=192)
    add("bigalloc-4k-64k", "ext4", 4096, "-O bigalloc -C 65536", size=448)
    add("bigalloc-1k-16k-inline", "ext4", 1024, "-O bigalloc,inline_data -C 16384", size=160)

    # Inline data, large attributes.
    add("inline-512", "ext4", 4096, "-O inline_data -I 512")
    add("inline-1024-2k", "ext4", 2048, "-O inline_data -I 1024")
    add("inline-256-1k", "ext4", 1024, "-O inline_data -I 256")
    add("inline-d13-dir-index-off", "ext4", 4096, f"-O inline_data,{EXT4_D13},^dir_index")
    add("ea-inode-4k", "ext4", 4096, "-O ea_inode")
    add("ea-inode-1k", "ext4", 1024, "-O ea_inode")
    add("ea-inode-inline-csum-off", "ext4", 4096, "-O ea_inode,inline_data,^metadata_csum -I 512")

    # Directories and their hashes; what the sign of a char once decided.
    add("dir-index-off", "ext4", 4096, "-O ^dir_index")
    add("filetype-off", "ext4", 4096, "-O ^filetype")
    add("dir-nlink-off", "ext4", 4096, "-O ^dir_nlink")
    for algorithm in ("legacy", "half_md4", "tea"):
        add(f"hash-{algorithm}-signed", "ext4", 1024, before=(
            tune2fs("-E", f"hash_alg={algorithm}"), set_super("flags", 1)))
        add(f"hash-{algorithm}-unsigned", "ext4", 1024, before=(
            tune2fs("-E", f"hash_alg={algorithm}"), set_super("flags", 2)))

    # Journals.
    add("no-journal", "ext4", 4096, "-O ^has_journal")
    add("journal-data", "ext4", 4096, mount="data=journal", read="data=journal")
    add("journal-writeback", "ext4", 4096, mount="data=writeback")
    add("journal-async-1k", "ext4", 1024, mount="journal_async_commit,data=writeback")
    add("fast-commit", "ext4", 4096, "-O fast_commit")
    add("external-journal", "ext4", 4096, external_journal=True)

    # Read-only-compatible and harmless ones.
    add("quota", "ext4", 4096, after=(tune2fs("-O", "quota"),))
    add("project", "ext4", 4096, after=(tune2fs("-O", "project"), project_ids))
    add("mmp", "ext4", 4096, after=(tune2fs("-O", "mmp"),))
    add("ext-attr-off", "ext4", 4096, "-O ^ext_attr")
    add("huge-file-off", "ext4", 4096, "-O ^huge_file,^large_file,^extra_isize")
    add("stripe", "ext4", 4096, extended="stride=16,stripe_width=64")
    add("packed-meta", "ext4", 4096, "-O ^resize_inode",
        extended="packed_meta_blocks=1,num_backup_sb=0,lazy_itable_init=0")
    add("verity-feature", "ext4", 4096, after=(tune2fs("-O", "verity"),))
    add("stable-inodes", "ext4", 4096, after=(tune2fs("-O", "stable_inodes"),))
    add("resize-inode-off", "ext4", 4096, "-O ^resize_inode", size=40)
    add("shared-blocks", "ext4", 4096, after=(share_blocks,))
    return r


def big_block_source():
    """The tree that `mke2fs -d` copies into images that no kernel here mounts."""
    return Recipe("source", "-t ext4 -b 4096", size=96)


def big_block_recipes():
    """Images with blocks larger than a page, and what only mke2fs makes; judged by debugfs."""
    def big(name, block, rest="", size=128):
        return Recipe(name, f"-t ext4 -b {block} {rest}", size=size)

    return [
        big("block-8k", 8192),
        big("block-16k-d13", 16384, f"-O {EXT4_D13}"),
        big("block-32k-ext2", 32768, "-O none,ext_attr,filetype,dir_index -I 256", size=256),
        big("block-64k", 65536, size=448),
        big("block-64k-inline", 65536, "-O inline_data -I 1024", size=448),
        big("mke2fs-inline-4k", 4096, "-O inline_data"),
        big("block-64k-csum-off", 65536, "-O ^metadata_csum,uninit_bg,^64bit", size=448),
    ]


# ---- making ------------------------------------------------------------------------------------


class Image:
    """One image file, made by make()."""

    def __init__(self, recipe, path):
        self.recipe = recipe
        self.path = path
        self.caps = None
        self.journal = None  # the file that holds an external journal


def mke2fs(path, arguments, size_mib, extended="", inodes=8192):
    with open(path, "wb") as f:
        f.truncate(size_mib << 20)
    options = ",".join(filter(None, [f"hash_seed={HASH_SEED}", extended]))
    run("mke2fs", "-q", "-F", "-U", UUID, "-L", "matrix", "-N", str(inodes),
        "-E", options, *arguments, path, env={"MKE2FS_CONFIG": CONF})


def plain(path, *arguments, size):
    """An image as people make them, of `size` MiB."""
    with open(path, "wb") as f:
        f.truncate(size << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", *arguments, path)
    return path


def read_caps(path):
    """What the image can hold, from its superblock."""
    text = run("dumpe2fs", "-h", path).stdout.decode()
    fields = dict(re.findall(r"^([^:\n]+):\s*(.*)$", text, re.M))
    block = int(fields["Block size"])
    return tree.Caps(fields["Filesystem features"].split(), block,
                     int(fields.get("Inode size", 128)), int(fields.get("Cluster size", block)))


def e2fsck(path, *arguments):
    """Fails unless e2fsck finds nothing to say against the image."""
    result = run("e2fsck", *(arguments or ("-fn",)), path, check=False)
    if result.returncode != 0:
        raise Failed(f"e2fsck {' '.join(arguments or ('-fn',))} exited {result.returncode}",
                     (result.stdout + result.stderr).decode(errors="replace").splitlines())


def judge(ctx, image):
    """e2fsck and our own verifier: nothing to complain of, and nothing pending."""
    e2fsck(image)
    run(ctx.options.uext4, "check", image)


def extent_depth(path, name):
    """The depth of a file's extent tree."""
    out = debugfs(path, [f"dump_extents -n {name}"])
    return int(re.search(r"^\s*0/\s*(\d+)", out, re.M).group(1))


def htree_levels(path, name):
    out = debugfs(path, [f"htree_dump {name}"])
    return int(re.search(r"Indirect levels:\s*(\d+)", out).group(1))


def fill(image, directory, seed):
    """Mounts the image, builds the tree, unmounts."""
    recipe = image.recipe
    options = ["noinit_itable", recipe.mount]
    if image.journal:
        with loop_device(image.journal) as device:
            with mounted(image.path, directory, ",".join(options + [f"journal_path={device}"])):
                tree.build(directory, image.caps, seed, recipe.extras)
        return
    if not recipe.name.startswith(("ext2", "ext3")):
        options.append("auto_da_alloc")
    with mounted(image.path, directory, ",".join(filter(None, options))):
        tree.build(directory, image.caps, seed, recipe.extras)


def make(recipe, directory, seed):
    """Makes the image of a recipe inside `directory`; returns an Image."""
    image = Image(recipe, os.path.join(directory, recipe.name + ".img"))
    arguments = list(recipe.mke2fs)
    if recipe.external_journal:
        image.journal = os.path.join(directory, recipe.name + ".journal")
        mke2fs_journal(image.journal)
        with loop_device(image.journal) as device:
            mke2fs(image.path, arguments + ["-J", f"device={device}"], recipe.size)
    else:
        mke2fs(image.path, arguments, recipe.size, recipe.extended)
    for change in recipe.before:
        change(image)
    image.caps = read_caps(image.path)
    fill(image, os.path.join(directory, "fill"), f"{seed}:{recipe.name}")
    for change in (journalled_flag, *recipe.after):
        change(image)
    check_made(image)
    return image


def mke2fs_journal(path):
    with open(path, "wb") as f:
        f.truncate(8 << 20)
    run("mke2fs", "-q", "-F", "-b", "4096", "-O", "journal_dev", path, env={"MKE2FS_CONFIG": CONF})


def check_made(image):
    """The image is clean and holds what the tests are about."""
    recipe = image.recipe
    if image.journal:
        e2fsck(image.path, "-fn", "-j", image.journal)
    else:
        e2fsck(image.path)
    if image.caps.has("extent"):
        depth = extent_depth(image.path, "/" + tree.DEEP_FILE)
        if depth < 2:
            raise Failed(f"{tree.DEEP_FILE} has an extent tree of depth {depth} only")
    if "long" in recipe.extras:
        levels = htree_levels(image.path, "/" + tree.LONG_DIRECTORY)
        if levels < 2:
            raise Failed(f"{tree.LONG_DIRECTORY} has {levels} index levels below its root only")


def digest(path):
    """A hash of the image's bytes, its size and its mtime."""
    contents = Digest()
    with open(path, "rb") as f:
        st = os.fstat(f.fileno())
        for start, end in segments_of(f.fileno(), st.st_size):
            for at in range(start - start % PIECE, end, WINDOW):
                contents.add(at, os.pread(f.fileno(), min(WINDOW, end - at), at))
    return contents.value(), st.st_size, st.st_mtime_ns


def crc32c(data):
    """As the kernel stores it in superblocks: from all ones, not inverted at the end."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc
