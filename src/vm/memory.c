/* SPDX-License-Identifier: MIT */
/*
 * The memory of a mapped file: one memfd, at the same offsets as the file.
 *
 * Address spaces map it; the engine has a view of its own, on which nothing ever faults to us.  Who
 * has which of its pages in a page table is known by the list of mappings (rmap).
 *
 *  F1  The view only grows, in pieces that stay where they are: at() takes no lock.
 *  F2  Every PTE belongs to a mapping in `vmas`: it is entered before its first PTE is made, and
 *      leaves when nothing can make one any more.
 *  F3  A page is entered into a pin under its lock, and so is everything that asks for pins before
 *      it takes PTEs away: whoever was told that a page is not pinned may protect it.
 */
#include "vm/vm_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define WINDOW_BYTES_MIN (UINT64_C(1) << 26)

static struct vm_memory *memory_of(struct frames *f)
{
	return container_of(f, struct vm_memory, frames);
}

static uint64_t pages_bytes(pgoff_t pages)
{
	return pages << PAGE_BITS;
}

/* ---- the engine's view --------------------------------------------------------------------- */

/* The window that byte @offset lies in, and where that begins. */
static unsigned window_of(const struct vm_memory *mem, uint64_t offset, uint64_t *ret_start)
{
	uint64_t turns = offset / mem->window_bytes;
	unsigned window = turns ? 64 - (unsigned)__builtin_clzll(turns) : 0;

	*ret_start = window ? mem->window_bytes << (window - 1) : 0;
	return window;
}

static uint8_t *memory_at(struct frames *f, pgoff_t index)
{
	struct vm_memory *mem = memory_of(f);
	uint64_t start, offset = pages_bytes(index);
	unsigned window = window_of(mem, offset, &start);

	assert(window < VM_WINDOWS_MAX);
	return atomic_load_explicit(&mem->windows[window], memory_order_acquire) + (offset - start);
}

static uint64_t window_size(const struct vm_memory *mem, unsigned window)
{
	return window ? mem->window_bytes << (window - 1) : mem->window_bytes;
}

static int window_add(struct vm_memory *mem, unsigned window)
{
	uint64_t bytes = window_size(mem, window);
	uint64_t start = window ? bytes : 0;
	void *view;

	lockrank_acquire(RANK_host_mm, 0, mem);
	view = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, mem->fd,
		    (off_t)start);
	/* A child has no engine; it could only do harm there. */
	if (view != MAP_FAILED)
		(void)madvise(view, bytes, MADV_DONTFORK);
	lockrank_release(RANK_host_mm, mem);
	if (view == MAP_FAILED)
		return fail(-ENOMEM, "no address space for a mapped file: %s", strerror(errno));
	atomic_store_explicit(&mem->windows[window], view, memory_order_release);
	return 0;
}

/* The view reaches up to @pages.  The inode's lock, exclusive. */
static int view_extend(struct vm_memory *mem, pgoff_t pages)
{
	uint64_t start;
	unsigned last = window_of(mem, pages_bytes(pages ? pages - 1 : 0), &start);

	if (last >= VM_WINDOWS_MAX)
		return fail(-EFBIG, "a file too large to be mapped");
	for (unsigned i = 0; i <= last; i++) {
		if (!atomic_load_explicit(&mem->windows[i], memory_order_relaxed)) {
			int err = window_add(mem, i);

			if (err < 0)
				return err;
		}
	}
	return 0;
}

static int set_length(struct vm_memory *mem, pgoff_t pages)
{
	int err = 0;

	lockrank_acquire(RANK_host_mm, 0, mem);
	if (ftruncate(mem->fd, (off_t)pages_bytes(pages)) < 0)
		err = -errno;
	lockrank_release(RANK_host_mm, mem);
	return err;
}

/* ---- who maps it --------------------------------------------------------------------------- */

/* The part of [@first, @first + @count) that @vma shows: false: none. */
static bool overlap(const struct vma *vma, pgoff_t first, size_t count, uintptr_t *ret_addr,
		    size_t *ret_pages)
{
	pgoff_t vma_end = vma->first + ((vma->end - vma->start) >> PAGE_BITS);
	pgoff_t from = max_u64(first, vma->first);
	pgoff_t to = min_u64(first + count, vma_end);

	if (from >= to)
		return false;
	*ret_addr = vma->start + pages_bytes(from - vma->first);
	*ret_pages = to - from;
	return true;
}

static void protect_run(struct vm_memory *mem, pgoff_t first, size_t count) REQUIRES(&mem->rmap)
{
	uintptr_t addr;
	size_t pages;

	list_for_each(link, &mem->vmas) {
		struct vma *vma = list_entry(link, struct vma, file_link);

		/* Stores into a private mapping never reach the file's pages. */
		if (vma->shared && overlap(vma, first, count, &addr, &pages))
			vma->space->backend->protect(vma, addr, pages);
	}
}

static bool is_pinned(struct vm_memory *mem, pgoff_t first, pgoff_t last, bool store)
	REQUIRES(&mem->rmap)
{
	list_for_each(link, &mem->pins) {
		struct vm_pinned *pin = list_entry(link, struct vm_pinned, link);

		if (pin->count != 0 && first < pin->first + pin->count && last >= pin->first &&
		    (pin->store || !store))
			return true;
	}
	return false;
}

static void memory_protect(struct frames *f, pgoff_t first, size_t count)
{
	struct vm_memory *mem = memory_of(f);

	mutex_lock(&mem->rmap);
	if (list_empty(&mem->pins)) {
		protect_run(mem, first, count);
	} else {
		for (pgoff_t i = first; i < first + count; i++) {
			if (!is_pinned(mem, i, i, true))
				protect_run(mem, i, 1);
		}
	}
	mutex_unlock(&mem->rmap);
}

static void zap_run(struct vm_memory *mem, pgoff_t first, size_t count) REQUIRES(&mem->rmap)
{
	uintptr_t addr;
	size_t pages;

	list_for_each(link, &mem->vmas) {
		struct vma *vma = list_entry(link, struct vma, file_link);

		if (overlap(vma, first, count, &addr, &pages))
			vma->space->backend->zap(vma, addr, pages);
	}
}

static void memory_discard(struct frames *f, pgoff_t first, size_t count)
{
	struct vm_memory *mem = memory_of(f);

	mutex_lock(&mem->rmap);
	zap_run(mem, first, count);
	lockrank_acquire(RANK_host_mm, 0, mem);
	/* Of a memfd it fails only for a signal, and then it may be done again. */
	while (fallocate(mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 (off_t)pages_bytes(first), (off_t)pages_bytes(count)) < 0 &&
	       errno == EINTR)
		;
	lockrank_release(RANK_host_mm, mem);
	mutex_unlock(&mem->rmap);
}

static int memory_resize(struct frames *f, pgoff_t pages)
{
	struct vm_memory *mem = memory_of(f);
	pgoff_t before = atomic_load(&f->pages);
	int err;

	if (pages >= before) {
		err = view_extend(mem, pages);
		if (err == 0)
			err = set_length(mem, pages);
		if (err < 0)
			return fail_in(err, "memory of a mapped file");
		atomic_store(&f->pages, pages);
		return 0;
	}
	mutex_lock(&mem->rmap);
	atomic_store(&f->pages, pages);
	zap_run(mem, pages, before - pages);
	err = set_length(mem, pages);
	assert(err == 0);
	mutex_unlock(&mem->rmap);
	return err;
}

static bool memory_pinned(struct frames *f, pgoff_t first, pgoff_t last, bool store)
{
	struct vm_memory *mem = memory_of(f);
	bool pinned;

	if (atomic_load(&mem->pins_count) == 0)
		return false;
	mutex_lock(&mem->rmap);
	pinned = is_pinned(mem, first, last, store);
	mutex_unlock(&mem->rmap);
	return pinned;
}

static void memory_wait_unpinned(struct frames *f, pgoff_t first, pgoff_t last)
{
	struct vm_memory *mem = memory_of(f);

	lockrank_assert_none();
	mutex_lock(&mem->rmap);
	while (is_pinned(mem, first, last, false))
		cond_wait(&mem->unpinned, &mem->rmap);
	mutex_unlock(&mem->rmap);
}

/* ---- life ---------------------------------------------------------------------------------- */

static void memory_destroy(struct frames *f)
{
	struct vm_memory *mem = memory_of(f);

	assert(list_empty(&mem->vmas) && list_empty(&mem->pins));
	lockrank_acquire(RANK_host_mm, 0, mem);
	for (unsigned i = 0; i < VM_WINDOWS_MAX; i++) {
		uint8_t *view = atomic_load_explicit(&mem->windows[i], memory_order_relaxed);

		if (view)
			(void)munmap(view, window_size(mem, i));
	}
	(void)close(mem->fd);
	lockrank_release(RANK_host_mm, mem);
	cond_finish(&mem->unpinned);
	mutex_finish(&mem->rmap);
	mem_free(mem);
}

static const struct frames_ops memory_ops = {
	.at = memory_at,
	.resize = memory_resize,
	.protect = memory_protect,
	.discard = memory_discard,
	.pinned = memory_pinned,
	.wait_unpinned = memory_wait_unpinned,
	.destroy = memory_destroy,
};

static int memory_create(struct mapping *m, uint64_t size, struct vm_memory **ret_memory)
{
	struct vm_memory *mem = mem_zalloc(sizeof(*mem));
	int err;

	if (!mem)
		return -ENOMEM;
	mem->fd = memfd_create("uext4", MFD_CLOEXEC);
	if (mem->fd < 0) {
		err = fail(-errno, "no memory for a mapped file: %s", strerror(errno));
		mem_free(mem);
		return err;
	}
	mem->frames.ops = &memory_ops;
	mem->frames.mapping = m;
	list_init(&mem->frames.cache_link);
	list_init(&mem->vmas);
	list_init(&mem->pins);
	mutex_init(&mem->rmap, RANK_rmap);
	cond_init(&mem->unpinned);
	mem->window_bytes = WINDOW_BYTES_MIN;
	while (mem->window_bytes < size)
		mem->window_bytes *= 2;
	err = memory_resize(&mem->frames, div_round_up(size, PAGE_BYTES));
	if (err < 0) {
		memory_destroy(&mem->frames);
		return err;
	}
	*ret_memory = mem;
	return 0;
}

static struct vm_memory *attached(struct inode *ip)
{
	struct frames *f = mapping_frames(&ip->pages);

	return f ? memory_of(f) : NULL;
}

/* What is dirty is written, what is in memory leaves it, and the next pages lie in the memfd. */
static int attach_locked(struct inode *ip, struct vm_memory **ret_memory)
{
	struct vm_memory *mem;
	int err;

	err = mapping_flush(&ip->pages, 0, UINT64_MAX);
	if (err < 0)
		return err;
	err = memory_create(&ip->pages, ip->size, &mem);
	if (err < 0)
		return err;
	mapping_drop(&ip->pages, 0, UINT64_MAX);
	mapping_set_frames(&ip->pages, &mem->frames);
	*ret_memory = mem;
	return 0;
}

int vm_memory_attach(struct inode *ip, struct vm_memory **ret_memory)
{
	struct vm_memory *mem = attached(ip);
	bool writing, again;
	int err = 0;

	if (!mem)
		cache_evict_frames(ip->fs->cache);
	/* What is dirty is written as a change, so not behind the back of a freeze. */
	for (writing = false; !mem && err == 0; writing = again) {
		again = false;
		if (writing)
			err = fs_write_begin(ip->fs);
		if (err < 0)
			break;
		inode_lock(ip, INODE_CHILD);
		rwlock_write(&ip->invalidate);
		mem = attached(ip);
		again = !mem && !writing && mapping_is_dirty(&ip->pages);
		if (!mem && !again)
			err = attach_locked(ip, &mem);
		rwlock_write_unlock(&ip->invalidate);
		inode_unlock(ip);
		if (writing)
			fs_write_end(ip->fs);
	}
	if (err == 0)
		*ret_memory = mem;
	return err;
}
