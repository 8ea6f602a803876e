#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Does the simulator find what is wrong?

Each bug here is a change of the engine's text: a design of the mailing list that has a known counterexample, or a rule left
out.  The changed file is compiled with the flags of the build and linked before the engine that unit-sim_vm uses, and the scenario
that is said to find it is explored.  The test passes if a schedule fails, and its columns are shown; the unchanged engine passes the
same scenarios in unit-sim_vm.

A text that is not found fails: the engine has changed, and so must the bug.
"""
import json
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib.harness import Failed, Job, main, parse_options  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Locks are kept account of, but no order is asked for: so that a deadlock can be met, not only its possibility.
NO_RANKS = [("src/sync/lockrank.c", "	abort();\n}\n", "	exit(0);\n}\n"),
            ("src/sync/lockrank.c", "		if (held[i].rank > rank)\n", "		if (held[i].rank > 1000)\n"),
            ("src/sync/lockrank.c", "		if (held[i].rank == rank && held[i].key >= key)\n", "		if (held[i].rank > 1000)\n"),
            ("src/sync/lockrank.c", "		if (held[i].rank >= rank)\n			die(\"%s (rank %d) may be",
             "		if (held[i].rank > 1000)\n			die(\"%s (rank %d) may be"),
            ("src/sync/lockrank.c", "	if (held_count != 0)\n		die(\"nothing may", "	if (held_count > 1000)\n		die(\"nothing may")]

WRITE_STAGED = [
    ("src/ops/file_write.c", "		err = stage(ip, user, len, offset, &staged);\n		if (err < 0)\n			return err;\n",
     "		inode_lock(ip, INODE_CHILD);\n		err = stage(ip, user, len, offset, &staged);\n"
     "		inode_unlock(ip);\n		if (err < 0)\n			return err;\n")]

FAULT_LOCKS_INODE = [
    ("src/ops/mkwrite.c", "	shape = file_shape(ip); /* MW1 */\n",
     "	page_unlock(page);\n	rwlock_write(&ip->lock);\n	rwlock_write_unlock(&ip->lock);\n	page_lock(page);\n"
     "	shape = file_shape(ip);\n")]

# name, edits (file, text, instead), scenario, how it is explored, what its end must say
BUGS = [
    ("D1: a fault converts, so a write decides twice",
     [("src/ops/mkwrite.c", "		err = page_set_dirty(page, PAGE_ALL_PARTS);\n",
       "	{\n		page_unlock(page);\n		err = inline_convert(ip, true);\n		page_lock(page);\n"
       "		if (err == 0)\n			err = -EAGAIN;\n	}\n"),
      *NO_RANKS],
     "R-D it leaves the inode", ["--count", "400"], "."),
    ("D1: ... on a full disk a store fails",
     [("src/ops/mkwrite.c", "		err = page_set_dirty(page, PAGE_ALL_PARTS);\n",
       "	{\n		page_unlock(page);\n		err = inline_convert(ip, true);\n		page_lock(page);\n"
       "		if (err == 0)\n			err = -EAGAIN;\n	}\n"),
      *NO_RANKS],
     "T4 full: store and msync", ["--count", "100"], "."),
    ("S7: dirty is cleared, and the entries are protected only behind the copy",
     [("src/cache/writeback.c", "	pages_protect(pages, count); /* W2, S7 */\n", ""),
      ("src/ops/file_inline.c", "	flushing_unlock(f);\n	err = first_error(err, handle_stop(h));\n",
       "	pages_protect(f->pages, f->count);\n	flushing_unlock(f);\n	err = first_error(err, handle_stop(h));\n")],
     "R-G growth that fits", ["--count", "1000"], "."),
    ("S8: the end of a write stores its bytes and clears dirty",
     [("src/cache/writeback.c", "	pages_protect(pages, count); /* W2, S7 */\n",
       "	if (count > 0 && pages[0]->dirty != 0x7)\n		pages_protect(pages, count);\n"),
      ("src/ops/file_inline.c",
       "		copy_row(&ps, offset, from, skip, bytes);\n		if (end > old)\n			set_size(ip, end);\n	}\n"
       "	pages_unlock(&ps);\n",
       "		copy_row(&ps, offset, from, skip, bytes);\n		if (end > old)\n			set_size(ip, end);\n	}\n"
       "	pages_unlock(&ps);\n"
       "	{\n		struct handle *h;\n		uint8_t parts[PAGES_MAX];\n"
       "		if (handle_start(ip->fs->log, INODE_STORE_CREDITS, &h) == 0) {\n"
       "			pages_lock(&ps);\n			rwlock_write(&ip->xattr_lock);\n"
       "			bool clean = page_is_dirty(ps.pages[0]) && !page_is_writeback(ps.pages[0]);\n"
       "			if (clean) {\n				(void)!inline_store(h, ip, ps.pages[0]->data, (uint32_t)ip->size);\n"
       "				ps.pages[0]->dirty = 0x7;\n				pages_start_writeback(ps.pages, parts, 1);\n			}\n"
       "			rwlock_write_unlock(&ip->xattr_lock);\n			pages_unlock(&ps);\n"
       "			(void)!handle_stop(h);\n			if (clean)\n				pages_end_writeback(ps.pages, parts, 1, 0);\n"
       "		}\n	}\n")],
     "R-A no journal, full", ["--count", "2000"], "."),
    ("S9: conversion without the lock of page 0",
     [("src/ops/file_inline.c", "		pages_lock(&ps);\n		err = leave(h, &ps, &l);\n		pages_unlock(&ps);\n",
       "		err = leave(h, &ps, &l);\n")],
     "R-D it leaves the inode", ["--count", "2000"], "."),
    ("S9: conversion without page 0: the inode's bytes go to the block",
     [("src/ops/file_inline.c", "	for (size_t i = 0; i < l->runs && err == 0; i++)\n		err = write_run(ps, l->run[i]",
       "	(void)!inline_read(ip, 0, ps->pages[0]->data, PAGE_BYTES);\n"
       "	for (size_t i = 0; i < l->runs && err == 0; i++)\n		err = write_run(ps, l->run[i]")],
     "R-D it leaves the inode", ["--count", "500"], "."),
    ("D2: a fault takes the inode's lock: the rank checker",
     FAULT_LOCKS_INODE, "DL-1 write from the mapping, fault, mmap", ["--count", "50"], "inode .* is taken after"),
    ("D2: a fault takes the inode's lock, user memory under it: DL-1 itself",
     FAULT_LOCKS_INODE + WRITE_STAGED + NO_RANKS,
     "DL-1 write from the mapping, fault, mmap", ["--count", "3000"], "deadlock"),
    ("S5: user memory is touched under the inode's lock: the rank checker",
     WRITE_STAGED, "DL-2 write from the mapping, mmap", ["--count", "50"], "nothing may be held"),
    ("S11: the size grows over what was scribbled behind the end",
     [("src/ops/file_inline.c", "	pages_protect(ps->pages, ps->count); /* S11: no store is between the zeros and the size */\n", ""),
      ("src/ops/file_inline.c", "		pages_zero(&ps, old);\n		set_size(ip, size);\n", "		set_size(ip, size);\n")],
     "T8 scribbles behind the end, up only", ["--count", "500"], "."),
    ("S11: zeros without protection",
     [("src/ops/truncate.c",
       "	rwlock_write(&ip->invalidate);\n	err = zero_tail_on_disk(ip, ip->size, FILE_TAIL_PAGE); /* T3 */\n	if (err == 0)\n"
       "		err = file_grow_pinned(ip, size);\n	if (err == 0)\n		err = store_size(ip, size);\n"
       "	rwlock_write_unlock(&ip->invalidate);\n",
       "	err = zero_tail_on_disk(ip, ip->size, FILE_TAIL_PAGE); /* T3 */\n	if (err == 0)\n		err = store_size(ip, size);\n")],
     "T8 scribbles behind the end, block", ["--count", "3000"], "."),
    ("M8: the size grows before the memory",
     [("src/ops/truncate.c", "	err = mapping_extend_frames(&ip->pages, div_round_up(size, PAGE_BYTES)); /* M8 */\n", "	err = 0;\n")],
     "T5 blocks, power cut", ["--count", "300"], "."),
    ("M5: truncate does not wait for a pin",
     [("src/ops/truncate.c", "	if (cuts_pinned(ip, size))\n		return -EAGAIN;\n", "	(void)cuts_pinned;\n")],
     "pins and truncate", ["--count", "500"], "."),
    ("P2: what of a page has no place any more can still be stored to",
     [("src/ops/file_write.c", "	page_protect(page); /* P2 */\n", "")],
     "T9 small blocks", ["--count", "2000"], "."),
    ("P2: pins are asked for behind the protection",
     [("src/cache/writeback.c", "	pages_protect(pages, count); /* W2, S7 */\n", ""),
      ("src/cache/writeback.c", "	for (size_t i = 0; i < count; i++) {\n		struct page *page = pages[i];\n",
       "	pages_protect(pages, count);\n	for (size_t i = 0; i < count; i++) {\n		struct page *page = pages[i];\n")],
     "pins that end while it is written", ["--count", "2000"], "."),
    ("P2: a file grows under a pin",
     [("src/ops/truncate.c", "	if (err == 0)\n		err = file_grow_pinned(ip, size);\n", "")],
     "pins and growth", ["--count", "100"], "."),
    ("M5: a pin begins while a hole is made",
     [("src/vm/space.c", "	rwlock_read(&part->ip->invalidate);\n	entered", "	entered"),
      ("src/vm/space.c", "	rwlock_read_unlock(&part->ip->invalidate);\n	return entered", "	return entered")],
     "pins of pages that go", ["--pct", "3", "--count", "3000"], "."),
    ("fallocate lets stores promise places meanwhile",
     [("src/ops/fallocate.c", "	rwlock_write(&ip->invalidate);\n	err = allocate_blocks(r);\n	rwlock_write_unlock(&ip->invalidate);\n",
       "	err = allocate_blocks(r);\n")],
     "T9 fallocate into a hole", ["--count", "3000"], "."),
    ("freeze: stores go on",
     [("src/fs/freeze.c", "	if (!enter(fs->freeze))\n		return -EAGAIN;\n", "	atomic_fetch_add(&fs->freeze->inside, 1);\n")],
     "freeze: nothing changes", ["--count", "1000"], "."),
]


def compile_command(build, source):
    """How the build compiles @source for the engine: words, without input and output."""
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as f:
        for entry in json.load(f):
            if entry["output"].startswith("libengine-core") and entry["file"].endswith("/" + source):
                words = re.findall(r"'[^']*'|\S+", entry["command"])
                words = [w.strip("'") for w in words]
                keep, skip = [], 0
                for w in words:
                    if skip:
                        skip -= 1
                    elif w in ("-MQ", "-MF", "-o", "-c"):
                        skip = 1
                    elif w != "-MD":
                        keep.append(w)
                return keep
    raise Failed(f"the build does not compile {source}")


def plant(context, edits):
    """The changed files as objects."""
    build = os.path.dirname(context.options.uext4)
    texts = {}
    for source, old, new in edits:
        if source not in texts:
            with open(os.path.join(TOP, source), encoding="utf-8") as f:
                texts[source] = f.read()
        if texts[source].count(old) != 1:
            raise Failed(f"{source} has the text {texts[source].count(old)} times", [old])
        texts[source] = texts[source].replace(old, new)
    objects = []
    for source, text in texts.items():
        # Beside its own headers are found by the include paths of the build.
        changed = context.path(source.replace("/", "_"))
        with open(changed, "w", encoding="utf-8") as f:
            f.write(text)
        command = compile_command(build, source) + ["-Wno-error", "-w", "-I", os.path.join(TOP, "src"),
                                                    "-I", os.path.dirname(os.path.join(TOP, source)), "-c", changed, "-o", changed + ".o"]
        done = subprocess.run(command, cwd=build, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"the changed {source} does not compile", done.stderr.splitlines())
        objects.append(changed + ".o")
    return objects


def link(context, objects):
    build = os.path.dirname(context.options.uext4)
    program = context.path("planted")
    tests = [os.path.join(build, "unit-sim_vm.p", f"t_unit_{name}.c.o") for name in ("sim_vm", "sim_kit")]
    command = ["cc", "-o", program, *tests, *objects, os.path.join(build, "libengine-sim.a"), "-lcmocka", "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed("it does not link", done.stderr.splitlines())
    return program


def job(bug):
    name, edits, scenario, how, expected = bug

    def function(context):
        def test():
            program = link(context, plant(context, edits))
            done = subprocess.run([program, "--only", scenario, "--minimise", "100", *how], capture_output=True, text=True,
                                  errors="replace", check=False, timeout=600)
            report = done.stdout + done.stderr
            if done.returncode == 0:
                raise Failed(f"not found by {scenario}", report.splitlines()[-5:])
            if not re.search(expected, report):
                raise Failed(f"found, but not as {expected}", report.splitlines()[-20:])
            if context.options.show:
                print(f"--- {name}\n{report}", flush=True)

        context.test(name, test)

    return Job(name, function, [name])


def options(parser):
    parser.add_argument("--show", action="store_true", help="print the schedules that were found")


if __name__ == "__main__":
    opts = parse_options(__doc__.splitlines()[0], options)
    main(opts, [job(bug) for bug in BUGS])
