/* SPDX-License-Identifier: MIT */
/* What the files of vm/ share. */
#ifndef VM_VM_PRIV_H
#define VM_VM_PRIV_H

#include "vm/vm.h"

/* Accesses to one page after the other, as far as faults tell: hints. */
struct vm_stream {
	_Atomic pgoff_t next;	/* a: where the next fault is, if it goes on */
	_Atomic uint32_t pages; /* a: what the last one mapped */
};

/* One mapping: a range of addresses that shows a range of a file. */
struct vma {
	struct vm_space *space;	     /* c */
	uintptr_t start, end;	     /* space exclusive + rmap to change */
	pgoff_t first;		     /* the same: page of the file at `start` */
	uint32_t prot;		     /* the same: enum vm_prot */
	bool shared;		     /* c: stores go to the file */
	bool may_write;		     /* c */
	bool unprivileged;	     /* c */
	enum vm_advice advice;	     /* space; a hint */
	struct vm_stream streams[2]; /* by enum vm_access */
	struct inode *ip;	     /* c: referenced */
	struct vm_memory *memory;    /* c: of the inode */
	struct list file_link;	     /* rmap: in memory->vmas */
	struct list gone_link;	     /* of who unmaps it */
	void *table;		     /* the backend's own: rmap */
};

/* Pages of one file that stay where they are: a part of a vm_pin. */
struct vm_pinned {
	struct list link; /* rmap: in memory->pins */
	pgoff_t first;	  /* c */
	size_t count;	  /* rmap */
	bool store;	  /* c */
};

/*
 * The engine's view of a memory, in pieces that never move: the first is `window_bytes` long (a
 * power of two), each further one as long as all before it.
 */
#define VM_WINDOWS_MAX 32u

/* The frames of a mapped file: memory.c. */
struct vm_memory {
	struct frames frames;
	struct mutex rmap; /* RANK_rmap */
	struct list vmas GUARDED(&rmap);
	struct list pins GUARDED(&rmap); /* of struct vm_pinned */
	_Atomic size_t pins_count;	 /* a: of `pins`; changed under rmap */
	struct cond unpinned;		 /* rmap: a pin ended */
	int fd;				 /* c: the memfd */
	uint64_t window_bytes;		 /* c */
	/* a: NULL until the file is that long, then c */
	_Atomic(uint8_t *) windows[VM_WINDOWS_MAX];
};

/* Makes the file mappable: M11.  Takes its lock and `invalidate`, exclusive.  Nothing held. */
int vm_memory_attach(struct inode *ip, struct vm_memory **ret_memory) MUST_CHECK;

/*
 * What a page table is.
 *
 * open, close: per space; its handler threads.  No mapping is left at close.
 *
 * area: addresses for @vma, without access and without entries, faults on which come to vm_fault():
 * sets start.  Nothing held.  open_area makes it accessible as prot says, when it is in the table
 * (M9). close_area: the addresses are free again; it is in no table any more.  rmap held.
 *
 * split: @head's table serves @tail too, which is cut off its end.  end: @vma uses it no more.
 * Both NULL where there is none; rmap held.
 *
 * install: PTEs for @pages at @addr, which lie in the memfd and are locked; writable or
 * write-protected; also of the first if there is one already, and wakes who waits there.  Those
 * behind it are neighbours that may as well be left out: returns how many it made at the front, or
 * a negative errno.  @flags: enum vm_install_flag.  rmap held.
 *
 * protect, zap: as frames_ops say, for the part of one mapping; rmap held.
 */
enum vm_install_flag {
	VM_INSTALL_WRITABLE = 1u << 0,
	/* The first has a PTE.  If not, it is enough to wake who waits there: he comes again. */
	VM_INSTALL_THERE = 1u << 1,
};

struct vm_backend {
	const char *name;
	int (*open)(struct vm_space *space);
	void (*close)(struct vm_space *space);
	int (*area)(struct vma *vma, uint64_t length);
	int (*open_area)(struct vm_space *space, uintptr_t addr, uint64_t length, uint32_t prot);
	void (*close_area)(struct vm_space *space, uintptr_t addr, uint64_t length);
	void (*split)(struct vma *head, struct vma *tail);
	void (*end)(struct vma *vma);
	int (*install)(struct vma *vma, uintptr_t addr, size_t pages, uint32_t flags);
	void (*protect)(struct vma *vma, uintptr_t addr, size_t pages);
	void (*zap)(struct vma *vma, uintptr_t addr, size_t pages);
};

struct vm_space {
	struct uext4_fs *fs;		  /* c */
	const struct vm_backend *backend; /* c */
	struct rwlock lock;		  /* RANK_space */
	struct vma **vmas GUARDED(&lock); /* by address */
	size_t count GUARDED(&lock);
	size_t room GUARDED(&lock);
	void *own; /* c: the backend's */
};

/*
 * vm_fault() that maps up to @pages from @addr on, as many as it can at once; 0: as many as seem
 * worth it.  *ret_pages: how many it mapped.
 */
enum vm_result vm_fault_run(struct vm_space *space, uintptr_t addr, size_t pages,
			    enum vm_access access, uint32_t flags, size_t *ret_pages, int *ret_err);

/*
 * There will be one mapping more of @ip, and there was: watch.c.  Nothing held; begin may fail with
 * what the hook says.
 */
int vm_watch_begin(struct inode *ip) MUST_CHECK;
void vm_watch_end(struct inode *ip);

/* How many pages the file has at this moment.  Takes xattr_lock. */
static inline pgoff_t vm_file_pages(struct inode *ip)
{
	uint64_t size;

	rwlock_read(&ip->xattr_lock);
	size = ip->size;
	rwlock_read_unlock(&ip->xattr_lock);
	return div_round_up(size, PAGE_BYTES);
}

/* The mapping of @addr, or NULL. */
struct vma *vm_find(struct vm_space *space, uintptr_t addr) REQUIRES_SHARED(&space->lock);

#endif
