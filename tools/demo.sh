#!/bin/sh
# SPDX-License-Identifier: MIT
# The main job on a real image, shown: read without root, mount or change; then changed, and judged.
set -eu
uext4=$(realpath "$1")
dir=$(mktemp -d)
mounted=""
cleanup() {
	[ -z "$mounted" ] || fusermount3 -u "$dir/mnt" 2>/dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT
cd "$dir"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
if [ -n "${NO_COLOR:-}" ] || [ ! -t 1 ]; then say() { printf '\n== %s\n' "$*"; }; fi
show() { printf '$ %s\n' "$*"; "$@"; }

say "An ext4 image made by mke2fs, with this machine's headers in it"
mkdir -p tree/etc tree/empty
cp -a /usr/include/linux tree/include
ln -s include/fs.h tree/link
ln tree/include/fs.h tree/hard
printf 'hello\n' >tree/etc/motd
setfattr -n user.colour -v blue tree/etc/motd 2>/dev/null || true
truncate -s 3G tree/sparse
printf 'end' >>tree/sparse
mke2fs -q -t ext4 -b 4096 -O inline_data -d tree demo.img 256M 2>/dev/null
sha256sum demo.img >before
PATH=$(dirname "$uext4"):$PATH

show uext4 info demo.img
say "List, read, search"
show uext4 ls -l demo.img:/
show uext4 cat demo.img:/etc/motd
show uext4 find demo.img:/include -name "fuse*.h"
show uext4 du -s -h demo.img:/include
show uext4 df -h demo.img
say "Copy out and export"
show uext4 cp -a demo.img:/include out
diff -r tree/include out && echo "the copy is the same, byte for byte"
printf '$ uext4 export demo.img | tar -t | wc -l\n'
uext4 export demo.img | tar -t | wc -l
say "A journal that was left dirty is replayed in memory; the image stays as it is"
# debugfs writes a transaction into the journal, and nobody brings it home.
cp demo.img dirty.img
block=$(debugfs -R 'blocks /include' demo.img 2>/dev/null | awk '{ print $1 }')
dd if=demo.img of=block bs=4096 skip="$block" count=1 2>/dev/null
printf 'jo\njw -b %s block\njc\n' "$block" >commands
debugfs -w -f commands dirty.img >/dev/null 2>&1
sha256sum dirty.img >>before
printf '$ uext4 info dirty.img | grep -A1 Journal\n'
uext4 info dirty.img | grep -A1 Journal
uext4 cat dirty.img:/etc/motd
say "Mount"
if [ -e /dev/fuse ] && command -v fusermount3 >/dev/null; then
	mkdir mnt
	show uext4 mount demo.img mnt -o ro
	mounted=yes
	show ls -l mnt
	diff -r tree/include mnt/include && echo "the mount shows the same"
	show fusermount3 -u mnt
	mounted=""
else
	echo "skipped: no /dev/fuse here"
fi
say "And the image was not changed by a byte"
show sha256sum -c before

say "Now change it: no mount, no root, through the journal"
show uext4 mkdir -p demo.img:/srv/www
show uext4 cp -a tree/include demo.img:/srv/www
show uext4 mv demo.img:/etc/motd demo.img:/etc/issue
show uext4 chmod 600 demo.img:/etc/issue
show uext4 rm -r demo.img:/include
say "Or by a mount that writes"
if [ -e /dev/fuse ] && command -v fusermount3 >/dev/null; then
	show uext4 mount demo.img mnt
	mounted=yes
	printf '$ tar -C tree/include -c . | tar -C mnt/empty -x\n'
	tar -C tree/include -c . | tar -C mnt/empty -x
	diff -r tree/include mnt/empty && echo "the same through the mount"
	show fusermount3 -u mnt
	mounted=""
	# The server writes what is left and then lets the image go.
	while ! uext4 info demo.img >/dev/null 2>&1; do sleep 0.1; done
else
	echo "skipped: no /dev/fuse here"
fi
say "The journal that was left dirty is replayed before the first change"
show uext4 touch dirty.img:/changed
say "Judged by uext4 itself and by e2fsck"
show uext4 check demo.img
show uext4 check dirty.img
show e2fsck -fn demo.img
