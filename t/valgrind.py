#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Mapped files with the page table in software (t/unit/vm.c) under valgrind: no byte is used that was never set, no memory that
is gone.  valgrind does not know userfaultfd.
"""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib.harness import Failed, Job, Skip, main, parse_options  # noqa: E402


def job():
    def function(context):
        def test():
            if not shutil.which("valgrind"):
                raise Skip("valgrind is not installed")
            unit = os.path.join(os.path.dirname(context.options.uext4), "unit-vm")
            done = subprocess.run(["valgrind", "-q", "--error-exitcode=9", unit, "*in software"], capture_output=True,
                                  text=True, errors="replace", check=False, timeout=context.options.timeout)
            report = done.stdout + done.stderr
            passed = re.search(r"PASSED  \] (\d+) test", report)
            if done.returncode != 0 or not passed or int(passed.group(1)) < 20:
                raise Failed(f"exit status {done.returncode}", report.splitlines()[-20:])

        context.test("unit-vm", test)

    return Job("valgrind", function, ["unit-vm"])


if __name__ == "__main__":
    opts = parse_options(__doc__.splitlines()[0])
    opts.timeout = max(opts.timeout, 900)
    main(opts, [job()])
