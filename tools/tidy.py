#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The rules of the house that a program can check.

    tools/tidy.py [--build DIR]

    includes   src/LAYERS is obeyed; x_priv.h is seen by x/ and t/unit/ only; front ends see uext4.h
    headers    every header compiles alone
    columns    C lines are at most 100 wide, tabs counted as 8
    style      SPDX line, opening comment, trailing blanks, paths of one machine
    locking    docs/locking.md is what tools/mklocking.py makes
    calls      by `nm` on the objects of DIR: threads, I/O, memory and printing only where they belong
    exports    by `nm -D` on DIR's libuext4.so: uext4_* and nothing else

The last two need --build (a meson build directory); without it they are skipped.
"""
import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mklocking  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COLUMNS_MAX = 100
C_FOLDERS = ("src", "include", "cli", "fuse", "sim", "t", "bench", "examples")
FRONT_ENDS = ("cli", "fuse")
CFLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64"]

# Headers that are tables: compiled with an empty meaning for their macro.
TABLES = {"src/sync/lockranks.h": "-DLOCK_RANK(...)="}

# Roots that exist on some machine only.  Written so that this line is none of them.
MACHINE_PATH = re.compile(r"(?<![\w.}])/(?:work|farm|home/\w+|tmp/team)/")

# Who may call what, as patterns of symbol names.  The first rule that names a symbol decides; what no
# rule names is free.  Symbols come without the decorations of large files and fortification.
CALLS = [
    (["src/sync/*"], ["pthread_*", "sem_*", "nanosleep", "clock_[gsn]*", "clock", "usleep", "sleep", "time",
                      "gettimeofday", "getrandom", "sched_*", "thrd_*", "mtx_*", "cnd_*"]),
    (["src/base/mem.c", "src/vm/*"], ["mmap", "munmap", "madvise"]),
    (["src/vm/*"], ["mprotect", "memfd_create", "eventfd"]),
    (["src/dev/*", "src/vm/memory.c"], ["ftruncate", "fallocate"]),
    (["src/dev/*", "src/vm/memory.c", "src/vm/uffd.c"], ["close"]),
    (["src/dev/*", "src/vm/uffd.c"], ["open", "read", "write", "ioctl", "syscall", "poll"]),
    (["src/base/mem.c"], ["malloc", "calloc", "realloc", "reallocarray", "free", "posix_memalign",
                          "aligned_alloc", "memalign", "valloc", "mremap",
                          "strdup", "strndup", "asprintf", "vasprintf", "getline"]),
    (["src/dev/*"], ["open", "openat", "creat", "close", "read", "write", "readv", "writev", "pread*",
                     "pwrite*", "lseek", "ioctl", "fcntl", "posix_fadvise", "readahead", "stat",
                     "fstat", "lstat", "fstatat", "fsync", "fdatasync", "ftruncate", "fallocate",
                     "opendir", "fdopendir", "readdir", "closedir", "dirfd", "syscall", "io_uring_*"]),
    (["src/sync/lockrank.c"], ["fprintf", "vfprintf", "fflush", "fwrite", "fputs", "fputc", "stderr",
                               "abort"]),
    ([], ["printf", "vprintf", "fprintf", "vfprintf", "dprintf", "puts", "putchar", "putc", "fputs",
          "fputc", "fwrite", "fread", "fgets", "fopen", "fdopen", "fclose", "fflush", "perror", "warn*",
          "err", "errx", "stdout", "stderr", "stdin", "syslog", "exit", "_exit", "_Exit",
          "quick_exit", "atexit", "abort", "raise", "kill", "signal", "sigaction", "system", "popen",
          "fork", "exec*", "rand", "random", "srand", "srandom", "getrandom", "getentropy", "getenv",
          "setenv", "setlocale", "strtok", "localtime", "gmtime"]),
]


class Results:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def check(self, name, breaches):
        """One test: it passes if there is no breach."""
        for b in breaches:
            print(f"  {b}")
        if breaches:
            self.failed += 1
            print(f"FAIL {name}: {len(breaches)}")
        else:
            self.passed += 1
            print(f"ok   {name}")

    def skip(self, name, why):
        self.skipped += 1
        print(f"skip {name}: {why}")


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8", errors="replace") as f:
        return f.read()


def files_below(folders, suffixes):
    """Paths relative to the top, sorted."""
    found = []
    for folder in folders:
        for where, dirs, names in os.walk(os.path.join(TOP, folder)):
            dirs[:] = [d for d in dirs if d != "__pycache__"]
            found += [os.path.relpath(os.path.join(where, n), TOP) for n in names
                      if n.endswith(suffixes)]
    return sorted(found)


# ---- includes -----------------------------------------------------------------------------------


def read_layers():
    layers = {}
    for line in read("src/LAYERS").splitlines():
        line = line.split("#")[0].strip()
        if line:
            name, below = line.split(":")
            layers[name.strip()] = [] if below.strip() == "-" else below.split()
    return layers


def included(path):
    """(line number, name, is it in quotes) of every #include."""
    for number, line in enumerate(read(path).splitlines(), 1):
        m = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if m:
            yield number, m.group(2), m.group(1) == '"'


def check_engine_include(path, name, layers):
    """What is wrong with file @path of src/ including "@name", or None."""
    folder = path.split("/")[1]
    if name == "uext4.h":
        allowed = "*" in layers[folder] or name in layers[folder]
        return None if allowed else f"{folder}/ may not know the public header (src/LAYERS)"
    if "/" not in name:
        return "the engine includes by folder"
    if not os.path.exists(os.path.join(TOP, "src", name)):
        return "does not exist in src/"
    other = name.split("/")[0]
    if other == folder:
        return None
    if name.endswith("_priv.h"):
        return f"private to {other}/"
    if "*" not in layers[folder] and other not in layers[folder]:
        return f"{folder}/ may not know {other}/ (src/LAYERS)"
    return None


def check_front_end_include(path, name):
    if name == "uext4.h":
        return None
    candidates = [os.path.join(os.path.dirname(path), name), name]
    own = [c for c in candidates if c.startswith(tuple(f + "/" for f in FRONT_ENDS))
           and os.path.exists(os.path.join(TOP, c))]
    if not own:
        return "front ends see include/uext4.h and their own headers"
    if name.endswith("_priv.h") and os.path.dirname(own[0]) != os.path.dirname(path):
        return "private to another folder"
    return None


def check_sim_include(name, layers):
    """The simulator implements sync/, so that it knows what is private there."""
    if name.startswith("sim/"):
        return None if os.path.exists(os.path.join(TOP, name)) else "does not exist"
    folder = name.split("/")[0]
    if "/" not in name or folder not in layers["sim"]:
        return "sim/ may not know it (src/LAYERS)"
    if name.endswith("_priv.h") and folder != "sync":
        return f"private to {folder}/"
    return None


def check_public_include(_path, _name):
    return "the public header stands alone"


def includes_breaches():
    layers = read_layers()
    engine_folders = [d for d in os.listdir(os.path.join(TOP, "src"))
                      if os.path.isdir(os.path.join(TOP, "src", d))]
    breaches = [f"src/{d}: has no line in src/LAYERS" for d in engine_folders if d not in layers]
    if breaches:
        return breaches
    for path in files_below(("src", "include", "sim") + FRONT_ENDS, (".c", ".h")):
        for number, name, quoted in included(path):
            if path.startswith("sim/"):
                wrong = check_sim_include(name, layers) if quoted else None
            elif path.startswith("src/"):
                wrong = check_engine_include(path, name, layers) if quoted or name == "uext4.h" else None
            elif path.startswith("include/"):
                wrong = check_public_include(path, name) if quoted else None
            else:
                wrong = check_front_end_include(path, name) if quoted else None
            if wrong:
                breaches.append(f'{path}:{number}: "{name}": {wrong}')
    for path in files_below(("t", "bench"), (".c", ".h")):
        for number, name, quoted in included(path):
            if quoted and name.endswith("_priv.h") and not path.startswith("t/unit/"):
                breaches.append(f'{path}:{number}: "{name}": for its own folder and t/unit/ only')
    return breaches


# ---- headers --------------------------------------------------------------------------------------


def headers_breaches(cc):
    breaches = []
    with tempfile.TemporaryDirectory() as scratch:
        for path in files_below(("src", "include", "sim") + FRONT_ENDS, (".h",)):
            source = os.path.join(scratch, "alone.c")
            with open(source, "w", encoding="utf-8") as f:
                f.write(f'#include "{os.path.join(TOP, path)}"\n')
            flags = CFLAGS + [f"-I{TOP}/include", f"-I{TOP}"]
            if path.startswith(("src/", "sim/")):
                flags += [f"-I{TOP}/src"]
            if path.startswith(FRONT_ENDS):
                flags += package_flags()
            if path in TABLES:
                flags.append(TABLES[path])
            done = subprocess.run([cc, *flags, "-Wall", "-Werror", "-fsyntax-only", source],
                                  capture_output=True, text=True, check=False)
            if done.returncode != 0:
                first = next((x for x in done.stderr.splitlines() if "error" in x), "?")
                breaches.append(f"{path}: does not compile alone: {first}")
    return breaches


def package_flags():
    done = subprocess.run(["pkg-config", "--cflags", "fuse3", "libarchive", "jansson"],
                          capture_output=True, text=True, check=False)
    return shlex.split(done.stdout) if done.returncode == 0 else []


# ---- style ----------------------------------------------------------------------------------------


def style_of_c(path, lines):
    if not lines or lines[0] != "/* SPDX-License-Identifier: MIT */":
        yield f"{path}:1: the first line is not the SPDX line"
    if len(lines) < 2 or not lines[1].startswith("/*"):
        yield f"{path}:2: no opening comment"


def style_of_any(path, lines):
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            yield f"{path}:{number}: blanks at the end of the line"
        if MACHINE_PATH.search(line) or (len(TOP) > 4 and TOP + "/" in line):
            yield f"{path}:{number}: a path of one machine"


def columns_breaches():
    for path in files_below(C_FOLDERS, (".c", ".h")):
        for number, line in enumerate(read(path).split("\n"), 1):
            columns = len(line.expandtabs(8))
            if columns > COLUMNS_MAX:
                yield f"{path}:{number}: {columns} columns"


def style_breaches():
    breaches = []
    for path in files_below(C_FOLDERS, (".c", ".h")):
        breaches += style_of_c(path, read(path).split("\n"))
    top = [n for n in os.listdir(TOP) if os.path.isfile(os.path.join(TOP, n)) and n != ".git"]
    texts = (".c", ".h", ".py", ".sh", ".md", ".build", ".txt", ".map", ".conf", "LAYERS")
    for path in sorted(top) + files_below(C_FOLDERS + ("tools", "docs", ".ci"), texts):
        breaches += style_of_any(path, read(path).split("\n"))
        if not read(path).endswith("\n"):
            breaches.append(f"{path}: the last line does not end")
    for path in files_below(("tools", "t", "bench"), (".py", ".sh")):
        if "SPDX-License-Identifier: MIT" not in "".join(read(path).splitlines()[:2]):
            if read(path).strip():
                breaches.append(f"{path}: no SPDX line at its head")
    return breaches


def locking_breaches():
    try:
        want = mklocking.render(read(mklocking.HEADER))
        have = read("docs/locking.md")
    except (OSError, ValueError) as e:
        return [str(e)]
    return [] if want == have else ["docs/locking.md is out of date: run `make locking`"]


# ---- calls and exports ------------------------------------------------------------------------------


def engine_objects(build):
    """source path relative to the top -> its objects that were built, from the build's records."""
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as f:
        commands = json.load(f)
    objects = {}
    for c in commands:
        source = os.path.realpath(os.path.join(c["directory"], c["file"]))
        path = os.path.relpath(source, os.path.realpath(TOP))
        if path.startswith("src/") and "output" in c:
            obj = os.path.join(c["directory"], c["output"])
            objects.setdefault(path, []).extend([obj] if os.path.exists(obj) else [])
    return objects


def undefined_symbols(nm, obj):
    done = subprocess.run([nm, "-u", obj], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        yield line.split()[-1].split("@")[0]


def plain_name(symbol):
    """open64 -> open, __vfprintf_chk -> vfprintf, __isoc99_sscanf -> sscanf, __open64_2 -> open."""
    m = re.fullmatch(r"__(\w+?)_(?:chk|2)", symbol)
    name = m.group(1) if m else re.sub(r"^__isoc\d\d_", "", symbol)
    name = re.sub(r"^__(\w?x?stat|sigsetjmp)", r"\1", name)
    return re.sub(r"(?<=[a-z])64(v2)?$", "", name)


def who_may_call(symbol):
    """The files that may call @symbol, or None if all may."""
    allowed, named = [], False
    for files, patterns in CALLS:
        if any(fnmatch.fnmatchcase(symbol, p) for p in patterns):
            allowed += files
            named = True
    return allowed if named else None


def calls_of_one(nm, path, objects):
    symbols = {s for o in objects for s in undefined_symbols(nm, o)}
    for symbol in sorted(symbols):
        allowed = who_may_call(plain_name(symbol))
        if allowed is None or any(fnmatch.fnmatchcase(path, a) for a in allowed):
            continue
        where = " and ".join(allowed) if allowed else "nobody in the engine"
        yield f"{path}: calls {symbol}, which is for {where}"


def calls_breaches(nm, build):
    breaches = []
    objects = engine_objects(build)
    for path in files_below(("src",), (".c",)):
        if path not in objects:
            breaches.append(f"{path}: is not part of the build")
        elif not objects[path]:
            breaches.append(f"{path}: is not built")
        else:
            breaches += calls_of_one(nm, path, objects[path])
    return breaches


def exports_breaches(nm, library):
    done = subprocess.run([nm, "-D", "--defined-only", library], capture_output=True, text=True,
                          check=True)
    # Absolute symbols are the names of versions.
    names = [x.split()[-1] for x in done.stdout.splitlines() if x.split()[-2] != "A"]
    breaches = [f"exports {n}" for n in names if not n.split("@")[0].startswith("uext4_")]
    exported = {n.split("@")[0] for n in names}
    declared = set(re.findall(r"\b(uext4_\w+)\(", re.sub(r"/\*.*?\*/", "", read("include/uext4.h"),
                                                         flags=re.S)))
    breaches += [f"uext4.h declares {n}(), which is not exported" for n in declared - exported]
    breaches += [f"exports {n}, which uext4.h does not declare" for n in exported - declared
                 if n.startswith("uext4_")]
    return sorted(breaches)


def check_build(results, build):
    nm = shutil.which("nm")
    library = os.path.join(build, "libuext4.so") if build else None
    if not build:
        for name in ("calls", "exports"):
            results.skip(name, "no --build DIR")
        return
    if not nm:
        for name in ("calls", "exports"):
            results.skip(name, "nm is not installed")
        return
    if os.path.exists(os.path.join(build, "compile_commands.json")):
        results.check("calls", calls_breaches(nm, build))
    else:
        results.check("calls", [f"{build} is no build directory: no compile_commands.json"])
    if os.path.exists(library):
        results.check("exports", exports_breaches(nm, library))
    else:
        results.check("exports", [f"{library} is not built"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", metavar="DIR", help="a meson build directory")
    args = parser.parse_args()
    results = Results()

    results.check("includes", includes_breaches())
    cc = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
    if cc:
        results.check("headers", headers_breaches(cc))
    else:
        results.skip("headers", "no compiler")
    results.check("columns", list(columns_breaches()))
    results.check("style", style_breaches())
    results.check("locking", locking_breaches())
    check_build(results, args.build)

    print(f"{results.passed} passed, {results.failed} failed, {results.skipped} skipped")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
