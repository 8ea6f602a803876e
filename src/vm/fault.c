/* SPDX-License-Identifier: MIT */
/*
 * One fault: from an address to a PTE that allows the access.
 *
 *	freeze-fault (stores) -> space -> invalidate -> page -> [mkwrite] -> rmap: PTE
 *
 * all shared but the page (S6, I6).  Nothing here knows whether a file's data is in its inode:
 * mkwrite does, and it never converts.
 *
 *  F1  What takes long (reading, throttling, a thaw, room on the disk) is waited for with nothing
 *      held but a reference to the inode, and the fault starts over (M1, M7, M13).  Who cannot
 *      start over reads in place, with what is shared held, and gets VM_FROZEN instead of a thaw.
 *  F2  The size is looked at under the page's lock: what shrinks it holds `invalidate` exclusive
 *      until pages and memory are gone, and who grows it writes it under that lock, or `invalidate`
 *      (M8).
 *  F3  A PTE is made for pages that are locked and uptodate only (P1, I14), writable only behind
 *      mkwrite (P2).
 */
#include "vm/vm_priv.h"

#include "base/diag.h"

/*
 * Neighbours that are mapped with the page of a fault: behind a load some, and if it goes on where
 * the last one ended twice as many each time.
 *
 * With a store they become dirty, and are written in vain if nothing is stored to them; so behind
 * it only as many as there were stores in order before.  But what lies together is written
 * together: where an aligned group has a dirty page already, the second store takes all of the
 * group that has its place (the kernel does it with the whole of a large folio, and at the first).
 */
#define AROUND_LOAD 32u
#define AROUND_MAX 64u
#define GROUP_PAGES 16u
/* What is read with it. */
#define AHEAD_PAGES 16u
#define AHEAD_SEQUENTIAL 128u

struct fault {
	struct vm_space *space;
	uintptr_t addr; /* of the page */
	enum vm_access access;
	uint32_t flags;
	size_t wanted; /* pages that shall be mapped; 0: it is free to choose */
	size_t mapped; /* of VM_MAPPED: how many were */
	int begun;     /* fs_fault_begin(); of stores */
	int err;       /* of VM_FAILED */
	/* while `space` is held */
	struct vma *vma;
	pgoff_t index;
	bool store; /* it goes to the file */
	/* what is to be done with nothing held before it starts over */
	struct inode *wait_ip; /* referenced; read its page, or make room */
	size_t ahead;
	int nospc;
	bool thaw;
};

static struct mapping *pages_of(const struct fault *f)
{
	return &f->vma->ip->pages;
}

static bool may_wait(const struct fault *f)
{
	return !(f->flags & VM_NOWAIT);
}

/* It can start over, and has not yet. */
static bool may_start_over(const struct fault *f)
{
	return (f->flags & VM_ALLOW_RETRY) && !(f->flags & VM_TRIED);
}

static enum vm_result failed(struct fault *f, int err)
{
	f->err = err;
	return VM_FAILED;
}

static bool is_beyond(const struct fault *f, pgoff_t index)
{
	return index >= vm_file_pages(f->vma->ip);
}

/* False: it must not wait, and would have to. */
static bool lock_shared(const struct fault *f, struct rwlock *lock) TRY_ACQUIRES_SHARED(true, *lock)
	NO_TSA
{
	if (!may_wait(f))
		return rwlock_tryread(lock);
	rwlock_read(lock);
	return true;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* It is where the last one of its kind ended. */
static bool goes_on(const struct fault *f)
{
	return f->index ==
	       atomic_load_explicit(&f->vma->streams[f->access].next, memory_order_relaxed);
}

static size_t ahead_of(const struct fault *f)
{
	/* Stores here and there come to holes, mostly: these need no company of zeros. */
	if (f->access == VM_STORE && !goes_on(f))
		return 0;
	switch (f->vma->advice) {
	case VM_RANDOM: return 0;
	case VM_SEQUENTIAL: return AHEAD_SEQUENTIAL;
	default: return AHEAD_PAGES;
	}
}

/* Requires `invalidate` shared. */
static int read_page(struct inode *ip, pgoff_t index, size_t ahead)
{
	struct frames *frames = mapping_frames(&ip->pages);
	struct page *page;
	int err;

	if (index >= atomic_load(&frames->pages))
		return 0; /* cut off meanwhile: who starts over sees it */
	err = pages_get(&ip->pages, index, 1, ahead, &page);
	if (err == 0)
		pages_put(&page, 1);
	return err;
}

/* A page that is not in memory.  VM_MAPPED: it is now, or was; look again. */
static enum vm_result miss(struct fault *f)
{
	int err;

	if (!may_wait(f))
		return VM_RETRY;
	if (may_start_over(f)) {
		f->wait_ip = f->vma->ip;
		f->ahead = ahead_of(f);
		inode_ref(f->wait_ip);
		return VM_RETRY;
	}
	err = read_page(f->vma->ip, f->index, 0);
	return err < 0 ? failed(f, err) : VM_MAPPED;
}

/* The page, locked and uptodate, and below the end (F2).  VM_MAPPED: it is. */
static enum vm_result find_page(struct fault *f, struct page **ret_page)
{
	enum vm_result result;
	struct page *page;
	bool busy;

	do {
		if (is_beyond(f, f->index))
			return VM_BEYOND;
		page = page_find_locked(pages_of(f), f->index, may_wait(f), &busy);
		if (busy)
			return VM_RETRY;
		if (page != NULL && page_is_uptodate(page)) {
			if (is_beyond(f, f->index)) {
				page_unlock_put(page);
				return VM_BEYOND;
			}
			*ret_page = page;
			return VM_MAPPED;
		}
		if (page != NULL)
			page_unlock_put(page);
		result = miss(f);
	} while (result == VM_MAPPED);
	return result;
}

/* ---- the PTE --------------------------------------------------------------------------------- */

static uint32_t mkwrite_flags(const struct fault *f)
{
	return (f->vma->unprivileged ? MKWRITE_UNPRIVILEGED : 0) |
	       (may_wait(f) ? 0 : MKWRITE_NOWAIT);
}

/* F3. */
static enum vm_result allow_store(struct fault *f, struct page *page)
{
	int err = page_mkwrite(page, mkwrite_flags(f));

	if (err == -EAGAIN)
		return VM_RETRY;
	if ((err == -ENOSPC || err == -EDQUOT) && may_start_over(f)) {
		if (!may_wait(f))
			return VM_RETRY; /* room may come by a commit, which is waited for then */
		f->wait_ip = f->vma->ip;
		f->nospc = err;
		inode_ref(f->wait_ip);
		return VM_RETRY;
	}
	return err < 0 ? failed(f, err) : VM_MAPPED;
}

/* How many pages are mapped, if they are there. */
static size_t around(const struct fault *f)
{
	const struct vm_stream *stream = &f->vma->streams[f->access];
	size_t twice = (size_t)2 * atomic_load_explicit(&stream->pages, memory_order_relaxed);
	size_t least = f->store ? 1 : AROUND_LOAD;

	if (f->wanted > 0)
		return min_size(f->wanted, AROUND_MAX);
	if (f->vma->advice == VM_RANDOM || (f->access == VM_STORE && !f->store))
		return 1;
	return goes_on(f) && twice > least ? min_size(twice, AROUND_MAX) : least;
}

/* Behind the page of the fault, as it; without waiting.  A place is not promised for company. */
static bool lock_neighbour(struct fault *f, pgoff_t index, struct page **ret_page)
{
	uint32_t flags = mkwrite_flags(f) | MKWRITE_NOWAIT | MKWRITE_IN_PLACE;
	struct page *page;
	bool busy;

	page = page_find_locked(pages_of(f), index, false, &busy);
	if (page == NULL)
		return false;
	if (page_is_uptodate(page) &&
	    (!f->store || (!is_beyond(f, index) && page_mkwrite(page, flags) == 0))) {
		*ret_page = page;
		return true;
	}
	page_unlock_put(page);
	return false;
}

/* Others of the group are dirty. */
static bool is_in_dirty_group(const struct fault *f)
{
	pgoff_t first = round_down_pow2(f->index, GROUP_PAGES), last = first + GROUP_PAGES - 1;

	return f->store && f->wanted == 0 && f->vma->advice != VM_RANDOM &&
	       ((first < f->index && mapping_has_dirty(pages_of(f), first, f->index - 1)) ||
		(f->index < last && mapping_has_dirty(pages_of(f), f->index + 1, last)));
}

/* The page of the fault, which is locked, and those behind it. */
static size_t lock_behind(struct fault *f, size_t wanted, struct page **pages)
{
	size_t room = (f->vma->end - f->addr) >> PAGE_BITS, count = 1;
	struct frames *frames = mapping_frames(pages_of(f));

	room = min_size(room, wanted);
	room = (size_t)min_u64(room, atomic_load(&frames->pages) - f->index);
	while (count < room && lock_neighbour(f, f->index + count, &pages[count]))
		count++;
	return count;
}

/* Those before it, downwards. */
static size_t lock_before(struct fault *f, size_t wanted, struct page **pages)
{
	size_t room = min_size(wanted, (f->addr - f->vma->start) >> PAGE_BITS), count = 0;

	while (count < room && lock_neighbour(f, f->index - count - 1, &pages[count]))
		count++;
	return count;
}

static void unlock_neighbours(struct page *const *pages, size_t count)
{
	for (size_t i = 0; i < count; i++)
		page_unlock_put(pages[i]);
}

static int install(struct fault *f, uintptr_t addr, size_t pages)
{
	struct vm_memory *memory = f->vma->memory;
	uint32_t flags = (f->store ? VM_INSTALL_WRITABLE : 0) |
			 (f->flags & VM_PROTECTED ? VM_INSTALL_THERE : 0);
	int mapped;

	mutex_lock(&memory->rmap);
	mapped = f->space->backend->install(f->vma, addr, pages, flags);
	mutex_unlock(&memory->rmap);
	return mapped;
}

static enum vm_result map_page(struct fault *f, struct page *page)
{
	struct vm_stream *stream = &f->vma->streams[f->access];
	struct page *pages[AROUND_MAX], *before[GROUP_PAGES];
	size_t at = f->index % GROUP_PAGES, wanted = around(f), count, count_before = 0;
	int mapped;

	pages[0] = page;
	if (is_in_dirty_group(f)) {
		wanted = (size_t)max_u64(wanted, GROUP_PAGES - at);
		count_before = lock_before(f, at, before);
	}
	count = lock_behind(f, wanted, pages);
	if (count_before > 0) /* as well as it can be */
		(void)install(f, f->addr - (count_before << PAGE_BITS), count_before);
	mapped = install(f, f->addr, count);
	unlock_neighbours(before, count_before);
	unlock_neighbours(pages + 1, count - 1);
	if (mapped == -EAGAIN)
		return VM_NOPAGE; /* the addresses are changing */
	if (mapped < 0)
		return failed(f, mapped);
	f->mapped = (size_t)mapped;
	atomic_store_explicit(&stream->next, f->index + f->mapped, memory_order_relaxed);
	atomic_store_explicit(&stream->pages, (uint32_t)mapped, memory_order_relaxed);
	return VM_MAPPED;
}

/* With `invalidate` held shared. */
static enum vm_result fault_in_file(struct fault *f)
{
	enum vm_result result;
	struct page *page;

	for (;;) { /* again only if mkwrite allocated, which it does once */
		result = find_page(f, &page);
		if (result != VM_MAPPED)
			return result;
		if (f->store)
			result = allow_store(f, page);
		if (result == VM_MAPPED)
			result = map_page(f, page);
		page_unlock_put(page);
		if (result != VM_RETRY || f->wait_ip != NULL || !may_wait(f))
			return result;
	}
}

static enum vm_result fault_in_mapping(struct fault *f)
{
	struct inode *ip = f->vma->ip;
	enum vm_result result;

	if (!lock_shared(f, &ip->invalidate))
		return VM_RETRY;
	result = fault_in_file(f);
	rwlock_read_unlock(&ip->invalidate);
	return result;
}

/* ---- the mapping ----------------------------------------------------------------------------- */

/* M1. */
static enum vm_result frozen(struct fault *f)
{
	if (!(f->flags & VM_ALLOW_RETRY) || (f->flags & VM_NOTHAW))
		return VM_FROZEN;
	f->thaw = may_wait(f);
	return VM_RETRY;
}

static enum vm_result fault_in_space(struct fault *f) REQUIRES_SHARED(&f->space->lock)
{
	f->vma = vm_find(f->space, f->addr);
	if (f->vma == NULL)
		return VM_NOPAGE;
	f->index = f->vma->first + ((f->addr - f->vma->start) >> PAGE_BITS);
	f->store = f->access == VM_STORE && f->vma->shared;
	if (f->store && !(f->vma->prot & VM_PROT_WRITE))
		return VM_NOPAGE; /* it was taken away meanwhile: the access itself finds out */
	if (f->store && f->begun == -EAGAIN)
		return frozen(f);
	if (f->store && f->begun < 0)
		return failed(f, f->begun);
	return fault_in_mapping(f);
}

static enum vm_result fault_locked(struct fault *f) NO_TSA
{
	enum vm_result result;

	if (!lock_shared(f, &f->space->lock))
		return VM_RETRY;
	result = fault_in_space(f);
	rwlock_read_unlock(&f->space->lock);
	return result;
}

/* F1. */
static enum vm_result wait_and_start_over(struct fault *f)
{
	struct inode *ip = f->wait_ip;
	unsigned tries = 0;
	int err = 0;

	if (f->thaw)
		fs_wait_thawed(f->space->fs);
	if (ip == NULL)
		return VM_RETRY;
	if (f->nospc < 0) {
		if (!mapping_retry_nospc(&ip->pages, f->nospc, &tries))
			err = f->nospc;
	} else {
		cache_trim_frames(f->space->fs->cache);
		rwlock_read(&ip->invalidate);
		err = read_page(ip, f->index, f->ahead);
		rwlock_read_unlock(&ip->invalidate);
	}
	inode_put(ip); /* V4 */
	return err < 0 ? failed(f, err) : VM_RETRY;
}

enum vm_result vm_fault_run(struct vm_space *space, uintptr_t addr, size_t pages,
			    enum vm_access access, uint32_t flags, size_t *ret_pages, int *ret_err)
{
	struct fault f = {
		.space = space,
		.addr = addr & ~(uintptr_t)(PAGE_BYTES - 1),
		.access = access,
		.flags = flags,
		.wanted = pages,
	};
	enum vm_result result;

	lockrank_assert_none(); /* I4, I5; and when it ends */
	if (access == VM_STORE && cache_is_throttled(space->fs->cache)) {
		if (flags & VM_NOWAIT)
			return VM_RETRY;
		if (may_start_over(&f) && cache_throttle(space->fs->cache) < 0)
			diag_clear(); /* what cannot be written is not this store's mistake */
	}
	if (access == VM_STORE)
		f.begun = fs_fault_begin(space->fs);
	result = fault_locked(&f);
	if (access == VM_STORE && f.begun == 0)
		fs_fault_end(space->fs);
	if (result == VM_RETRY && may_wait(&f))
		result = wait_and_start_over(&f);
	lockrank_assert_none();
	if (result == VM_FAILED)
		*ret_err = f.err;
	if (result == VM_MAPPED)
		*ret_pages = f.mapped;
	return result;
}

enum vm_result vm_fault(struct vm_space *space, uintptr_t addr, enum vm_access access,
			uint32_t flags, int *ret_err)
{
	size_t pages;

	return vm_fault_run(space, addr, 0, access, flags, &pages, ret_err);
}
