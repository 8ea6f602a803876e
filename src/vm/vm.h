/* SPDX-License-Identifier: MIT */
/*
 * Address spaces: files of an image mapped into the memory of this process.
 *
 * A space is the mappings of one open image.  What happens at a fault is one plain function,
 * vm_fault(); what a page table is, and how a fault gets there, is a table of functions:
 * userfaultfd (uffd.c) for real memory, or a page table in software (soft.c) for tests.  What a
 * mapped file's bytes mean is told by mapping_ops, and where they lie by frames (cache.h); this
 * folder does not know ops/.
 *
 *  V1  Nothing is held while a fault waits for I/O, for space or for a thaw, if its caller can
 *      start over (M1, M7); otherwise only what is shared.
 *  V2  The inode's lock is never taken from a fault, and nothing is converted (I6, S6).
 *  V3  PTEs are made under `space` shared, the page's lock and rmap; a mapping is entered into or
 *      leaves the file's list under rmap, and after its addresses were given back, so protect and
 *      discard meet every PTE (R of the protocol).
 *  V4  The last reference of an inode is never put with anything held: inode_put() queues (M2).
 *  V5  No host call that can populate runs under `space` (M9).
 */
#ifndef VM_VM_H
#define VM_VM_H

#include "fs/fs.h"

struct vm_space;
struct vm_backend;

enum vm_access { VM_LOAD, VM_STORE };

/* As the kernel's FAULT_FLAG_*. */
enum vm_fault_flag {
	VM_ALLOW_RETRY = 1u << 0, /* the caller can start over; so it may wait with nothing held */
	VM_TRIED = 1u << 1,	  /* it did once: waits are done in place now */
	VM_NOWAIT = 1u << 2,	  /* never sleeps: VM_RETRY instead */
	VM_NOTHAW = 1u << 3,	  /* does not wait for a thaw: VM_FROZEN instead */
	VM_PROTECTED = 1u << 4,	  /* there was a PTE that did not allow it: a hint */
};

/* I7. */
enum vm_result {
	VM_MAPPED, /* there is a PTE that allows the access */
	VM_RETRY,  /* start over */
	VM_NOPAGE, /* no mapping there, or it is about to end or begin: the access is tried again */
	VM_BEYOND, /* behind the end of the file: SIGBUS, or NOPAGE while the size changes */
	VM_FAILED, /* SIGBUS: *ret_err says why (-EIO, -ENOSPC, -EDQUOT, -EROFS, -EPERM, -ENOMEM) */
	VM_FROZEN, /* without VM_ALLOW_RETRY or with VM_NOTHAW: the image is frozen */
};

/*
 * One fault at @addr.  Nothing held, before and after.  May put inodes: inode_reap() some time.
 */
enum vm_result vm_fault(struct vm_space *space, uintptr_t addr, enum vm_access access,
			uint32_t flags, int *ret_err);

/* ---- spaces, mappings: space.c ------------------------------------------------------------- */

enum vm_prot { VM_PROT_READ = 1, VM_PROT_WRITE = 2 };
enum vm_map_flag {
	VM_MAP_PRIVATE = 1u << 0,
	VM_MAP_POPULATE = 1u << 1,
	VM_MAP_UNPRIVILEGED = 1u << 2, /* holes are not filled from the reserved blocks */
};

/* @backend: vm_uffd or vm_soft.  -EPERM, -EOPNOTSUPP: the host does not let us, or cannot. */
int vm_space_create(struct uext4_fs *fs, const struct vm_backend *backend,
		    struct vm_space **ret_space) MUST_CHECK;
/* -EBUSY while anything is mapped. */
int vm_space_destroy(struct vm_space *space) MUST_CHECK;

/*
 * [@offset, +@length) of a regular file, page-aligned; beyond the end of the file too.
 * @writable_file: the file was opened for writing (then VM_PROT_WRITE may be given now or by
 * vm_protect()).  Keeps a reference. Nothing held.
 */
int vm_map(struct vm_space *space, struct inode *ip, bool writable_file, uint64_t offset,
	   uint64_t length, uint32_t prot, uint32_t flags, uintptr_t *ret_addr) MUST_CHECK;
int vm_unmap(struct vm_space *space, uintptr_t addr, uint64_t length) MUST_CHECK;
int vm_protect(struct vm_space *space, uintptr_t addr, uint64_t length, uint32_t prot) MUST_CHECK;

enum vm_advice { VM_NORMAL, VM_RANDOM, VM_SEQUENTIAL, VM_WILLNEED, VM_DONTNEED };
int vm_advise(struct vm_space *space, uintptr_t addr, uint64_t length, enum vm_advice advice)
	MUST_CHECK;
/* One byte a page, bit 0: in memory. */
int vm_incore(struct vm_space *space, uintptr_t addr, uint64_t length, uint8_t *vec) MUST_CHECK;

/* uext4_set_map_hook(). */
int vm_watch(struct uext4_fs *fs, uext4_map_hook hook, void *arg) MUST_CHECK;

/*
 * Calls @fn for each piece of a file that lies in [@addr, +@length), with nothing held and the
 * inode referenced; -ENOMEM for a range that is not all mapped.  For msync.
 */
int vm_walk(struct vm_space *space, uintptr_t addr, uint64_t length,
	    int (*fn)(struct inode *ip, uint64_t offset, uint64_t length, void *arg), void *arg)
	MUST_CHECK;

/*
 * The pages of [@addr, +@length) are in memory, and every access the pin is for works without a
 * fault until vm_unpin(); they are not evicted, and truncate and punch wait for it, with nothing
 * held (M5). -EAGAIN: frozen, without @wait.
 */
struct vm_pin;
int vm_pin(struct vm_space *space, uintptr_t addr, uint64_t length, enum vm_access access,
	   bool wait, struct vm_pin **ret_pin) MUST_CHECK;
void vm_unpin(struct vm_pin *pin);

/* ---- page tables ---------------------------------------------------------------------------- */

extern const struct vm_backend vm_uffd; /* uffd.c */
extern const struct vm_backend vm_soft; /* soft.c */

/*
 * Accesses through a space of vm_soft, as a CPU would: they fault, and start over.  Nothing held.
 * 0, or what vm_fault() failed with; -EFAULT: no mapping there, or it does not allow it; -ERANGE:
 * behind the end of the file (SIGBUS).
 */
int vm_soft_load(struct vm_space *space, uintptr_t addr, void *buf, size_t bytes) MUST_CHECK;
int vm_soft_store(struct vm_space *space, uintptr_t addr, const void *data, size_t bytes)
	MUST_CHECK;
/* For sync_set_user_copy(): memory of the caller's that may lie in any space of vm_soft. */
void vm_soft_user_copy_in(void *to, const void *user, size_t bytes);
void vm_soft_user_copy_out(void *user, const void *from, size_t bytes);

#endif
