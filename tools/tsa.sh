#!/bin/sh
# SPDX-License-Identifier: MIT
# clang's thread-safety analysis over the engine.  clang 14 cannot parse guarded_by() of a member, so
# GUARDED() is on only where the compiler is new enough (CLANG=clang-22).
set -u
clang=${CLANG:-clang}
command -v "$clang" >/dev/null || { echo "skipped: no $clang"; exit 0; }
status=0
for f in src/*/*.c; do
	"$clang" -std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DUEXT4_VERSION='""' -DUEXT4_TSA \
		-Isrc -Iinclude -fsyntax-only -Wthread-safety -Wthread-safety-beta -Werror "$f" || status=1
done
exit $status
