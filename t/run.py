#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs the test programs of one suite and adds up their results.

Every program prints a line a test and closes with `N passed, N failed, N skipped`; unit tests speak TAP.
The output of a program that fails is shown whole, that of others is reduced to its skips.  The last line is
the sum over all programs.  Exit status 1 if anything failed, also a program that died without its last line.
"""
import argparse
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
UNITS = [
    "base",
    "sync",
    "sim",
    "sim_engine",
    "dev",
    "disk",
    "cache",
    "cache_write",
    "journal",
    "journal_write",
    "fs",
    "fs_balloc",
    "fs_map",
    "fs_fastcommit",
    "fs_quota",
    "ops_file",
    "fs_xattr",
    "ops_attr",
    "api_handles",
    "api_scope",
    "fs_dir",
    "ops_names",
    "vm",
]
SUM = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")


def script(path, *args):
    return [sys.executable, os.path.join(TOP, path), *args]


def suites(build):
    """name -> list of (test program, command)."""
    def at(config, program):
        return os.path.join(build, config, program)

    def units(config):
        return [(f"unit-{u} ({config})", [at(config, f"unit-{u}")]) for u in UNITS]

    uext4 = at("check", "uext4")
    tidy = [("tidy", script("tools/tidy.py", "--build", at("check", "")))]
    common = ["--uext4", uext4]
    manifest = ["--manifest", at("check", "uext4-manifest")]
    world = ["--world", at("check", "uext4-world")]
    crash = ["--crash", at("check", "uext4-crash")]
    fusemap = ["--fusemap", at("check", "uext4-fusemap")]
    fulldisk = ["--fulldisk", at("check", "uext4-fulldisk"), "--fault", at("check", "uext4-fault")]
    quick = tidy + units("check") + [("cli", script("t/func/cli.py", *common)),
                                     ("write", script("t/func/write.py", *common)),
                                     ("kvmap", script("t/func/kvmap.py", "--kvmap", at("check", "kvmap")))]
    asan = units("asan") + [("bad images", script("t/bad.py", "--walk", at("asan", "uext4-walk")))]
    # The server of the mount: a few seeds of what `world` does with it.
    asan += [("our mount", script("t/world.py", "--uext4", at("asan", "uext4"), "--world", at("asan", "uext4-world"),
                                  "--only", "^(d12-4k|inline-1k-512|bigalloc|ext3-1k-128|quota-project)/fuse$",
                                  "--seeds", "8"))]
    # Under the simulator one thread runs at a time: there is nothing for the thread sanitizer.
    tsan = [u for u in units("tsan") if not u[0].startswith("unit-sim")]
    tsan += [("threads", script("t/threads.py", "--walk", at("tsan", "uext4-walk")))]
    # What explores schedules and what changes the engine's text runs once, with one build.
    mapped = [
        ("unit-sim_vm (check)", [at("check", "unit-sim_vm")]),
        ("unit-sim_fault (check)", [at("check", "unit-sim_fault")]),
        ("planted", script("t/planted.py", *common)),
        ("storm", script("t/storm.py", *common, "--storm", at("check", "uext4-storm"))),
    ]
    kernel = [
        ("fuse", script("t/func/fuse.py", *common)),
        ("fusemap", script("t/func/fusemap.py", *fusemap)),
        ("matrix", script("t/matrix.py", *common, *manifest)),
        ("dirty", script("t/dirty.py", *common, *manifest)),
        ("txn", script("t/txn.py", *common)),
        ("check", script("t/check.py", *common)),
        ("programs", script("t/programs.py", *common)),
        ("world", script("t/world.py", *common, *world)),
        ("crash", script("t/crash.py", *common, *crash)),
        ("fulldisk", script("t/fulldisk.py", *common, *fulldisk)),
        ("roundtrip", script("t/roundtrip.py", *common, *world)),
    ]
    full = [
        ("fuse", script("t/func/fuse.py", *common)),
        ("fusemap", script("t/func/fusemap.py", *fusemap, "--rounds", "100")),
        ("matrix", script("t/matrix.py", *common, *manifest, "--full")),
        ("dirty", script("t/dirty.py", *common, *manifest, "--full")),
        ("txn", script("t/txn.py", *common, "--full")),
        ("check", script("t/check.py", *common)),
        ("programs", script("t/programs.py", *common, "--full")),
        ("world", script("t/world.py", *common, *world, "--full")),
        ("crash", script("t/crash.py", *common, *crash, "--full")),
        ("fulldisk", script("t/fulldisk.py", *common, *fulldisk, "--full")),
        ("roundtrip", script("t/roundtrip.py", *common, *world, "--full")),
        ("valgrind", script("t/valgrind.py", *common)),
        ("bad images, all", script("t/bad.py", "--walk", at("asan", "uext4-walk"), "--flips", "2000")),
    ]
    return {
        "quick": quick,
        "asan": asan,
        "tsan": tsan,
        "check": quick + mapped + kernel + asan + tsan,
        "full": quick + mapped + [("unit-sim_vm (more)", [at("check", "unit-sim_vm"), "--factor", "20"])] + full + asan + tsan,
    }


def read_tap(text):
    """Counts of a unit test's TAP output, or None if it did not come to its end."""
    plan = re.search(r"^1\.\.(\d+)", text, re.M)
    lines = re.findall(r"^(ok|not ok)\b(.*)", text, re.M)
    if not plan or int(plan.group(1)) != len(lines):
        return None
    # cmocka says `not ok N # SKIP` of a test that skipped itself.
    skipped = sum(1 for _, rest in lines if "# SKIP" in rest)
    failed = sum(1 for ok, rest in lines if ok == "not ok" and "# SKIP" not in rest)
    return len(lines) - failed - skipped, failed, skipped


def read_sum(text):
    for line in reversed(text.splitlines()):
        m = SUM.match(line.strip())
        if m:
            return tuple(int(g) for g in m.groups())
    return None


def run(name, command):
    start = time.monotonic()
    # Virtual address space randomisation beyond what thread sanitizer knows would make it abort.
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP",
               ASAN_OPTIONS="detect_leaks=1:abort_on_error=0", UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1",
               # The order of locks is the rank checker's business: two directories are ordered by where they
               # lie, which changes.
               TSAN_OPTIONS="halt_on_error=1:detect_deadlocks=0")
    try:
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
                           stdin=subprocess.DEVNULL, timeout=3000)
        text, status = p.stdout.decode("utf-8", "replace"), p.returncode
    except subprocess.TimeoutExpired as e:
        text, status = (e.stdout or b"").decode("utf-8", "replace") + "\ntimed out", 1
    except OSError as e:
        text, status = f"{e}\n", 1
    counts = read_tap(text) if name.startswith("unit-") else read_sum(text)
    if counts is None or (status != 0 and counts[1] == 0):
        print(text)
        print(f"{name}: died with status {status}")
        passed, failed, skipped = counts or (0, 0, 0)
        counts = (passed, failed + 1, skipped)
    elif counts[1]:
        print(text)
    else:
        for line in text.splitlines():
            if re.match(r"skip\b|(not )?ok .*# SKIP", line):
                print(f"  {line}")
    passed, failed, skipped = counts
    print(f"{name}: {passed} passed, {failed} failed, {skipped} skipped"
          f" in {time.monotonic() - start:.0f} s", flush=True)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=os.path.join(TOP, "build"))
    parser.add_argument("--only", help="run only programs whose name matches this expression")
    parser.add_argument("suite")
    args = parser.parse_args()
    total = [0, 0, 0]
    for name, command in suites(os.path.abspath(args.build))[args.suite]:
        if args.only and not re.search(args.only, name):
            continue
        total = [a + b for a, b in zip(total, run(name, command))]
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
