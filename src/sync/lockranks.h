/* SPDX-License-Identifier: MIT */
/*
 * THE lock order.  A thread takes locks downwards in this table only; equal ranks only with a
 * larger key (inode number, page index).  sync/lockrank.c checks it at run time in every build but
 * release; docs/locking.md is made from it.
 *
 *	LOCK_RANK(value, name, kind, what it protects)
 *
 * kind: mutex, rwlock, bit (a lock bit in an atomic word), pseudo (something that can be waited
 * for).
 */
LOCK_RANK(5, usermem, pseudo, "touching memory of the caller")
LOCK_RANK(10, freeze_write, pseudo, "a modifying call is inside; freeze and close wait for zero")
LOCK_RANK(15, rename, mutex, "shape of the directory tree")
LOCK_RANK(20, inode, rwlock,
	  "contents, size and entries of one inode; parent before child, then by number")
LOCK_RANK(25, dir_cursor, mutex, "position and batch of one open directory listing")
LOCK_RANK(28, freeze_fault, pseudo, "a write fault is inside; freeze waits for zero")
LOCK_RANK(30, space, rwlock, "the mappings of one address space")
LOCK_RANK(50, invalidate, rwlock, "a file's cached pages against truncate and punch")
LOCK_RANK(52, writepages, mutex,
	  "writeback of one file, where a block or cluster is shared by several pages")
LOCK_RANK(55, commit, pseudo, "waiting for a commit, or for room in the log")
LOCK_RANK(58, writeback, pseudo, "waiting for a page under writeback")
LOCK_RANK(60, handle, pseudo, "an open handle: a part of the running transaction")
LOCK_RANK(70, page, bit, "one page; several: ascending index")
LOCK_RANK(72, reserve, mutex,
	  "new promises of one file, where a block or cluster is shared by several pages")
LOCK_RANK(75, xattr_share, mutex,
	  "references to shared attribute blocks and to inodes with attribute values")
LOCK_RANK(80, xattr, rwlock, "in-inode attributes and the inline state")
LOCK_RANK(90, map, rwlock, "logical to physical blocks of one inode")
LOCK_RANK(92, quota, mutex, "usage and limits in memory, and the quota blocks")
LOCK_RANK(93, super, mutex, "the superblock's buffer and the orphans")
LOCK_RANK(94, raw, mutex, "the raw bytes of one inode, while they change or are copied")
LOCK_RANK(95, rmap, mutex, "who maps one file, and their page-table entries")
LOCK_RANK(96, group, mutex, "bitmaps, descriptor and free space of one group")
LOCK_RANK(97, host_mm, pseudo, "the host kernel's lock of our address space")
LOCK_RANK(99, buf, bit, "one metadata buffer while it is read and verified")
LOCK_RANK(100, io, pseudo, "waiting for a device")
LOCK_RANK(105, journal, mutex, "the lists and states of transactions")
LOCK_RANK(109, dirty, mutex, "which files have dirty pages, and how much is dirty")
LOCK_RANK(110, icache, mutex, "one shard of the inode table in memory")
LOCK_RANK(111, lru, mutex,
	  "one shard of the reclaim clock; before the indexes, which eviction changes")
LOCK_RANK(112, mapping, rwlock, "the page index of one file")
LOCK_RANK(113, bufhash, mutex, "one shard of the buffer index")
LOCK_RANK(115, overlay, rwlock, "the index of blocks kept in memory over a device")
LOCK_RANK(117, fail, mutex, "the plan of a fault-injecting device")
LOCK_RANK(118, record, mutex, "the log of a recording device")
LOCK_RANK(119, leaf, mutex, "small things that call nothing")
