#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints docs/locking.md, made from src/sync/lockranks.h.

The table of that header is the only statement of the lock order; the words around it are below.
`make locking` writes the file, tools/tidy.py fails when it is out of date.
"""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HEADER = "src/sync/lockranks.h"
RANK = re.compile(
    r'^LOCK_RANK\(\s*(\d+),\s*(\w+),\s*(\w+),\s*((?:"(?:[^"\\]|\\.)*"\s*)+)\)', re.M)
KINDS = ("mutex", "rwlock", "bit", "pseudo")

HEAD = """\
# The lock order

Made by `make locking` from `{header}`, which is the only statement of the order. Do not edit.

A thread takes locks downwards in this table only. It may skip ranks, and it may release in any order.

| rank | name | kind | what it protects |
|---:|---|---|---|
"""

TAIL = """
Ranks without a lock in the code yet belong to the writing engine. They stand here because the order is one.

## Rules

**Equal ranks** follow each other only with a larger key: inodes by number, pages by index. A mutex
has no key, so of each mutex rank a thread holds one at a time. Shared and exclusive count alike: a
thread that reads one lock twice deadlocks as soon as a writer queues in between.

**Kinds.** `mutex` and `rwlock` are what they are everywhere. `bit` is one bit of an atomic word, for
objects too many to carry a mutex (pages, buffers); waiters sleep in a table shared by address.
`pseudo` is a thing that can be waited for without being a lock, such as {pseudo}. It has a rank all
the same: whoever waits for it with a later lock held can deadlock as with any lock. A function that
*may* wait says so at its head with `lockrank_may_acquire()`, whether or not it waits this time.

**Try-locks** wait for nothing and may be taken against the order. What they took counts as held.
Reclaim waits only for its shard of the clock and then for one index, both held for short and never
across a wait; it never starts I/O.

**Condition variables.** While a thread waits, nothing ranked with or after the mutex it gives up is held.

**I/O.** A device is waited for with nothing ranked after `{last_io}` held; `dev_readv()` checks it.

**The caller's memory** is touched only by `user_copy_out()` and `user_copy_in()`, with nothing held at all. The buffer may
lie in a mapping of a file that this engine serves; a plain `memcpy` into it can then wait for our own
fault handler, and with it for any lock of this table. Hence `usermem` is the first rank.

**The end of a call.** Every function of the API asserts at its end that its thread holds nothing.

## Who checks it

- `sync/lockrank.c`, in every build but release: each thread keeps the list of what it holds, and the
  process ends with that list when the order is broken, when a lock is released that is not held, and
  when an assertion (`mutex_assert_held()`, `lockrank_assert_none()`) does not hold. A wrong order is found the
  first time one thread takes that path; no second thread and no deadlock is needed.
- clang's thread-safety analysis (`make tsa`): locks leaked on a path, functions called without the
  lock that they require; with clang 22 or later also members touched without their lock (`GUARDED`).
- ThreadSanitizer (`make tsan`): races, in what the tests run.
- `tools/tidy.py`: only `src/sync/` calls pthread, so no lock escapes the table.
"""


def read_ranks(text):
    """[(value, name, kind, what)] in the order of the header, or a ValueError that says what is wrong."""
    ranks = []
    for value, name, kind, strings in RANK.findall(text):
        what = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', strings))
        if kind not in KINDS:
            raise ValueError(f"{HEADER}: {name} is of unknown kind {kind}")
        if ranks and int(value) <= ranks[-1][0]:
            raise ValueError(f"{HEADER}: {name} ({value}) does not come after {ranks[-1][1]}")
        ranks.append((int(value), name, kind, what))
    if len(ranks) != len(re.findall(r"^LOCK_RANK\(", text, re.M)):
        raise ValueError(f"{HEADER}: not every LOCK_RANK() could be read")
    if len({r[1] for r in ranks}) != len(ranks):
        raise ValueError(f"{HEADER}: a name stands there twice")
    return ranks


def render(text):
    ranks = read_ranks(text)
    rows = "".join(f"| {v} | `{n}` | {k} | {w} |\n" for v, n, k, w in ranks)
    pseudo = ", ".join(f"`{n}` ({w})" for _, n, k, w in ranks if k == "pseudo")
    return HEAD.format(header=HEADER) + rows + TAIL.format(pseudo=pseudo, last_io="buf")


def main():
    with open(os.path.join(TOP, HEADER), encoding="utf-8") as f:
        text = f.read()
    try:
        sys.stdout.write(render(text))
    except ValueError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
