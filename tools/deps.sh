#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs what building and testing need and is missing (Debian 12 packages).  Does nothing, and needs
# neither root nor a network, where all is there.
set -eu

# To build; to test.
packages="gcc libc6-dev meson ninja-build pkg-config python3 libfuse3-dev libarchive-dev \
libjansson-dev libblkid-dev libcmocka-dev \
clang libclang-rt-14-dev e2fsprogs fuse3 fuse2fs mount attr acl xfsprogs tar git rsync fio"

missing=""
for p in $packages; do
	dpkg-query -W -f '${Status}\n' "$p" 2>/dev/null | grep -q '^install ok installed$' ||
		missing="$missing $p"
done
[ -z "$missing" ] && exit 0

echo "installing:$missing"
sudo=""
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || { echo "missing packages and not root:$missing" >&2; exit 1; }
	sudo=sudo
fi
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
