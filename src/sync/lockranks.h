/* SPDX-License-Identifier: MIT */
/*
 * THE lock order.  A thread takes locks downwards in this table only; equal ranks only with a
 * larger key (inode number, page index).  sync/lockrank.c checks it at run time in every build but
 * release; docs/locking.md is made from it.
 *
 *	LOCK_RANK(value, name, kind, what it protects)
 *
 * kind: mutex, rwlock, bit (a lock bit in an atomic word), pseudo (something that can be waited
 * for).  Ranks without a lock yet belong to the writing engine; they stand here because the order
 * is one.
 */
LOCK_RANK(5, usermem, pseudo, "touching memory of the caller")
LOCK_RANK(20, inode, rwlock,
	  "contents, size and entries of one inode; parent before child, then by number")
LOCK_RANK(25, dir_cursor, mutex, "position and batch of one open directory listing")
LOCK_RANK(50, invalidate, rwlock, "a file's cached pages against truncate and punch")
LOCK_RANK(70, page, bit, "one page; several: ascending index")
LOCK_RANK(80, xattr, rwlock, "in-inode attributes and the inline state")
LOCK_RANK(90, map, rwlock, "logical to physical blocks of one inode")
LOCK_RANK(99, buf, bit, "one metadata buffer while it is read and verified")
LOCK_RANK(100, io, pseudo, "waiting for a device")
LOCK_RANK(110, icache, mutex, "one shard of the inode table in memory")
LOCK_RANK(111, lru, mutex,
	  "one shard of the reclaim clock; before the indexes, which eviction changes")
LOCK_RANK(112, mapping, rwlock, "the page index of one file")
LOCK_RANK(113, bufhash, mutex, "one shard of the buffer index")
LOCK_RANK(115, overlay, rwlock, "the index of blocks kept in memory over a device")
LOCK_RANK(117, fail, mutex, "the plan of a fault-injecting device")
LOCK_RANK(119, leaf, mutex, "small things that call nothing")
