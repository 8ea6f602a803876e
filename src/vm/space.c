/* SPDX-License-Identifier: MIT */
/*
 * The mappings of one open image: a table by address, and what mmap(2) and its relatives do to it.
 *
 *  V6  A mapping is entered into the table, then into the file's list, then made accessible; it
 *      leaves the table, then its addresses are given back, then it leaves the list: as long as a
 *      store into it is possible, whoever protects its pages meets it (S13).  In between, an
 *      access finds no mapping and starts over.
 *  V7  Nothing is allocated and no host call is made under `space`, so a fault never waits for
 *      either.
 *  V8  A page is in a pin before it is made accessible for it: see pin_page().
 */
#include "vm/vm_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "fs/quota.h"

#define TABLE_ROOM_MIN 16u

/* ---- the table ----------------------------------------------------------------------------- */

/* The first mapping that ends behind @addr: where one of @addr is, or would be. */
static size_t find_index(struct vm_space *space, uintptr_t addr) REQUIRES_SHARED(&space->lock)
{
	size_t low = 0, high = space->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (space->vmas[middle]->end <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct vma *vm_find(struct vm_space *space, uintptr_t addr)
{
	size_t i = find_index(space, addr);

	return i < space->count && space->vmas[i]->start <= addr ? space->vmas[i] : NULL;
}

/* `space`, exclusive, with room for @more mappings.  False: no memory, and it is not taken. */
static bool lock_with_room(struct vm_space *space, size_t more) TRY_ACQUIRES(true, space->lock)
	NO_TSA
{
	struct vma **fresh, **old;
	size_t want;

	for (;;) {
		rwlock_write(&space->lock);
		if (space->count + more <= space->room)
			return true;
		want = max_u64(space->room * 2, space->count + more + TABLE_ROOM_MIN);
		rwlock_write_unlock(&space->lock);
		fresh = mem_calloc(want, sizeof(struct vma *));
		if (!fresh)
			return false;
		rwlock_write(&space->lock);
		old = fresh;
		if (want > space->room) {
			old = space->vmas;
			if (space->count)
				memcpy(fresh, old, space->count * sizeof(struct vma *));
			space->vmas = fresh;
			space->room = want;
		}
		rwlock_write_unlock(&space->lock);
		mem_free(old);
	}
}

static void table_insert(struct vm_space *space, struct vma *vma) REQUIRES(&space->lock)
{
	size_t i = find_index(space, vma->start);

	assert(space->count < space->room);
	assert(i == space->count || vma->end <= space->vmas[i]->start);
	memmove(&space->vmas[i + 1], &space->vmas[i], (space->count - i) * sizeof(struct vma *));
	space->vmas[i] = vma;
	space->count++;
}

/*
 * If a mapping reaches over @at it becomes two.  *spare, not used yet, is the second; taken from
 * there then.
 */
static void split_at(struct vm_space *space, uintptr_t at, struct vma **spare)
	REQUIRES(&space->lock)
{
	struct vma *head = vm_find(space, at), *tail = *spare;

	if (!head || head->start == at)
		return;
	*spare = NULL;
	*tail = *head;
	inode_ref(tail->ip);
	atomic_fetch_add(&tail->ip->mappings, 1); /* which is not 0 */
	atomic_fetch_add(&space->fs->mapped, 1);
	mutex_lock(&head->memory->rmap);
	tail->start = at;
	tail->first = head->first + ((at - head->start) >> PAGE_BITS);
	head->end = at;
	if (space->backend->split)
		space->backend->split(head, tail);
	list_add_tail(&head->memory->vmas, &tail->file_link);
	mutex_unlock(&head->memory->rmap);
	table_insert(space, tail);
}

/* @ret_end: the end of a range of whole pages. */
static int check_range(uintptr_t addr, uint64_t length, uintptr_t *ret_end)
{
	uint64_t bytes = round_up_pow2(length, PAGE_BYTES);

	if (addr % PAGE_BYTES != 0)
		return fail(-EINVAL, "an address that is not a multiple of %u", PAGE_BYTES);
	if (bytes < length || addr + bytes < addr)
		return fail(-ENOMEM, "a range that ends behind all addresses");
	*ret_end = addr + bytes;
	return 0;
}

/* Is all of [@addr, @end) mapped?  -ENOMEM; -EACCES: @write, and a part must not be. */
static int check_mapped(struct vm_space *space, uintptr_t addr, uintptr_t end, bool write)
	REQUIRES_SHARED(&space->lock)
{
	while (addr < end) {
		struct vma *vma = vm_find(space, addr);

		if (!vma)
			return fail(-ENOMEM, "a part of the range is not mapped");
		if (write && !vma->may_write)
			return fail(-EACCES, "the file was not opened for writing");
		addr = vma->end;
	}
	return 0;
}

/* ---- spaces -------------------------------------------------------------------------------- */

int vm_space_create(struct uext4_fs *fs, const struct vm_backend *backend,
		    struct vm_space **ret_space)
{
	struct vm_space *space = mem_zalloc(sizeof(*space));
	int err;

	if (!space)
		return -ENOMEM;
	space->fs = fs;
	space->backend = backend;
	rwlock_init(&space->lock, RANK_space, 0);
	err = backend->open(space);
	if (err < 0) {
		rwlock_finish(&space->lock);
		mem_free(space);
		return err;
	}
	*ret_space = space;
	return 0;
}

int vm_space_destroy(struct vm_space *space)
{
	size_t count;

	if (!space)
		return 0;
	rwlock_read(&space->lock);
	count = space->count;
	rwlock_read_unlock(&space->lock);
	if (count != 0)
		return fail(-EBUSY, "files of the image are mapped");
	space->backend->close(space);
	rwlock_finish(&space->lock);
	mem_free(space->vmas);
	mem_free(space);
	return 0;
}

/* ---- mmap, munmap, mprotect ---------------------------------------------------------------- */

/* It is in no table and no list, or never was. */
static void vma_destroy(struct vma *vma)
{
	struct inode *ip = vma->ip;

	vm_watch_end(ip);
	atomic_fetch_sub(&ip->fs->mapped, 1);
	mem_free(vma);
	inode_put(ip);
}

static int vma_create(struct vm_space *space, struct inode *ip, struct vma **ret_vma)
{
	struct vma *vma = mem_zalloc(sizeof(*vma));
	int err;

	if (!vma)
		return -ENOMEM;
	vma->space = space;
	vma->ip = ip;
	list_init(&vma->file_link);
	atomic_fetch_add(&space->fs->mapped, 1);
	err = vm_watch_begin(ip);
	if (err < 0) {
		atomic_fetch_sub(&space->fs->mapped, 1);
		mem_free(vma);
		return err;
	}
	inode_ref(ip);
	*ret_vma = vma;
	return 0;
}

static int check_map(const struct inode *ip, uint64_t offset, uint64_t length)
{
	uint64_t end;

	if (!inode_is_reg(ip))
		return fail(-ENODEV, "inode %u is no regular file", ip->ino);
	if (offset % PAGE_BYTES != 0 || length == 0)
		return fail(-EINVAL, "no pages, or an offset that is not a multiple of %u",
			    PAGE_BYTES);
	if (length > UINTPTR_MAX / 2 || !add_ok(offset, length, &end) || end > INT64_MAX)
		return fail(-EOVERFLOW, "a mapping that ends behind the largest file");
	return 0;
}

/*
 * As a processor would: until the access is possible, or cannot be.  Up to @pages at once;
 * *ret_pages: of how many it is.
 */
static int touch_run(struct vm_space *space, uintptr_t addr, size_t pages, enum vm_access access,
		     bool thaw, size_t *ret_pages)
{
	uint32_t flags = VM_ALLOW_RETRY | (thaw ? 0 : VM_NOTHAW);
	int err;

	for (;;) {
		switch (vm_fault_run(space, addr, pages, access, flags, ret_pages, &err)) {
		case VM_MAPPED: return 0;
		case VM_RETRY: flags |= VM_TRIED; break;
		case VM_NOPAGE: return fail(-ENOMEM, "a part of the range is not mapped");
		case VM_BEYOND:
			return fail(-ERANGE, "a part of the range is behind the end of the file");
		case VM_FAILED: return err;
		case VM_FROZEN: return fail(-EAGAIN, "the image is frozen");
		}
	}
}

static int touch(struct vm_space *space, uintptr_t addr, enum vm_access access, bool thaw)
{
	size_t pages;

	return touch_run(space, addr, 1, access, thaw, &pages);
}

/*
 * What fails will fail again when it is touched, as for MAP_POPULATE.  Reading goes in large
 * pieces, not far ahead, so that it is still in memory.
 */
static void populate(struct vm_space *space, uintptr_t addr, uint64_t length, bool write)
{
	const uint64_t piece = PAGES_BATCH_MAX * PAGE_BYTES;
	enum vm_access access = write ? VM_STORE : VM_LOAD;
	uintptr_t piece_end, end = addr + length;
	int err = 0;

	for (; addr < end && err != -ERANGE; addr = piece_end) {
		piece_end = addr + min_u64(piece, end - addr);
		if (vm_advise(space, addr, piece_end - addr, VM_WILLNEED) < 0)
			break;
		for (uintptr_t at = addr; at < piece_end && err != -ERANGE;) {
			size_t pages = 1;

			err = touch_run(space, at, (piece_end - at) >> PAGE_BITS, access, true,
					&pages);
			at += pages << PAGE_BITS;
		}
	}
	diag_clear();
}

/* Its addresses, under rmap.  It is in no table; in the file's list, or never was (V6). */
static void give_back(struct vm_space *space, struct vma *vma)
{
	mutex_lock(&vma->memory->rmap);
	space->backend->close_area(space, vma->start, vma->end - vma->start);
	list_del(&vma->file_link);
	if (space->backend->end)
		space->backend->end(vma);
	mutex_unlock(&vma->memory->rmap);
}

/* Addresses, and a place in the table and in the file's list: faults are answered from now on. */
static int enter(struct vm_space *space, struct vma *vma, uint64_t length)
{
	int err;

	err = space->backend->area(vma, length);
	if (err < 0)
		return err;
	vma->end = vma->start + length;
	if (!lock_with_room(space, 1)) {
		give_back(space, vma);
		return -ENOMEM;
	}
	table_insert(space, vma);
	mutex_lock(&vma->memory->rmap);
	list_add_tail(&vma->memory->vmas, &vma->file_link);
	mutex_unlock(&vma->memory->rmap);
	rwlock_write_unlock(&space->lock);
	return 0;
}

int vm_map(struct vm_space *space, struct inode *ip, bool writable_file, uint64_t offset,
	   uint64_t length, uint32_t prot, uint32_t flags, uintptr_t *ret_addr)
{
	bool shared = !(flags & VM_MAP_PRIVATE);
	struct vma *vma;
	uintptr_t addr;
	int err;

	err = check_map(ip, offset, length);
	if (err == 0 && shared && (prot & VM_PROT_WRITE) && !writable_file)
		err = fail(-EACCES, "the file was not opened for writing");
	if (err < 0)
		return err;
	length = round_up_pow2(length, PAGE_BYTES);
	err = vma_create(space, ip, &vma);
	if (err < 0)
		return err;
	vma->first = offset >> PAGE_BITS;
	vma->prot = prot;
	vma->shared = shared;
	vma->may_write = !shared || writable_file;
	vma->unprivileged = flags & VM_MAP_UNPRIVILEGED;
	/* A store cannot read the quota files: who pays for its blocks is known before. */
	if (shared && writable_file)
		err = quota_load(ip);
	if (err == 0)
		err = vm_memory_attach(ip, &vma->memory);
	if (err == 0)
		err = enter(space, vma, length);
	if (err < 0) {
		vma_destroy(vma);
		return err;
	}
	addr = vma->start;
	err = space->backend->open_area(space, addr, length, prot);
	if (err < 0) {
		/* Nobody else knows the address; it is taken back as any other mapping. */
		int undone = vm_unmap(space, addr, length);

		return undone < 0 ? undone : err;
	}
	if ((flags & VM_MAP_POPULATE) && prot != 0)
		populate(space, addr, length, shared && (prot & VM_PROT_WRITE));
	*ret_addr = addr;
	return 0;
}

/* The mappings of [@addr, @end) leave the table, to @gone. */
static void leave(struct vm_space *space, uintptr_t addr, uintptr_t end, struct list *gone)
	REQUIRES(&space->lock)
{
	size_t from = find_index(space, addr), to = find_index(space, end);

	for (size_t i = from; i < to; i++)
		list_add_tail(gone, &space->vmas[i]->gone_link);
	memmove(&space->vmas[from], &space->vmas[to], (space->count - to) * sizeof(struct vma *));
	space->count -= to - from;
}

/* What a change of a range needs where it cuts a mapping in two, at one end or both. */
struct change {
	struct vma *spare[2];
};

static void change_finish(struct change *c)
{
	mem_free(c->spare[0]);
	mem_free(c->spare[1]);
}

static bool reaches_over(struct vm_space *space, uintptr_t at) REQUIRES_SHARED(&space->lock)
{
	struct vma *vma = vm_find(space, at);

	return vma && vma->start != at;
}

/*
 * `space`, exclusive, with what changing [@addr, @end) needs: memory only if something is cut, so
 * that whole mappings can always go.  False: no memory.  change_finish() in any case, with nothing
 * held.
 */
static bool change_lock(struct vm_space *space, uintptr_t addr, uintptr_t end, struct change *c)
	TRY_ACQUIRES(true, space->lock) NO_TSA
{
	for (;;) {
		if (!lock_with_room(space, c->spare[0] ? 2 : 0))
			return false;
		if (c->spare[0] || (!reaches_over(space, addr) && !reaches_over(space, end)))
			return true;
		rwlock_write_unlock(&space->lock);
		for (unsigned i = 0; i < 2; i++) {
			c->spare[i] = mem_alloc(sizeof(struct vma));
			if (!c->spare[i])
				return false;
		}
	}
}

/* No mapping reaches over @addr or @end. */
static void cut_ends(struct vm_space *space, uintptr_t addr, uintptr_t end, struct change *c)
	REQUIRES(&space->lock)
{
	split_at(space, addr, &c->spare[0]);
	split_at(space, end, &c->spare[1]);
}

int vm_unmap(struct vm_space *space, uintptr_t addr, uint64_t length)
{
	struct change change = { 0 };
	struct list gone;
	uintptr_t end;
	int err;

	err = check_range(addr, length, &end);
	if (err == 0 && addr == end)
		err = fail(-EINVAL, "no pages");
	if (err < 0)
		return err;
	if (!change_lock(space, addr, end, &change)) {
		change_finish(&change);
		return -ENOMEM;
	}
	list_init(&gone);
	cut_ends(space, addr, end, &change);
	leave(space, addr, end, &gone);
	rwlock_write_unlock(&space->lock);
	while (!list_empty(&gone)) {
		struct vma *vma = list_entry(gone.next, struct vma, gone_link);

		list_del(&vma->gone_link);
		give_back(space, vma);
		vma_destroy(vma);
	}
	change_finish(&change);
	return 0;
}

static void set_prot(struct vma *vma, uint32_t prot)
{
	mutex_lock(&vma->memory->rmap);
	vma->prot = prot;
	mutex_unlock(&vma->memory->rmap);
}

static void set_advice(struct vma *vma, uint32_t advice)
{
	vma->advice = (enum vm_advice)advice;
}

/* @set of every mapping of [@addr, @end), all of which is mapped; @write as check_mapped(). */
static int change_range(struct vm_space *space, uintptr_t addr, uintptr_t end, bool write,
			void (*set)(struct vma *vma, uint32_t value), uint32_t value)
{
	struct change change = { 0 };
	int err;

	if (!change_lock(space, addr, end, &change)) {
		change_finish(&change);
		return -ENOMEM;
	}
	err = check_mapped(space, addr, end, write);
	if (err == 0) {
		cut_ends(space, addr, end, &change);
		for (size_t i = find_index(space, addr), last = find_index(space, end); i < last;
		     i++)
			set(space->vmas[i], value);
	}
	rwlock_write_unlock(&space->lock);
	change_finish(&change);
	return err;
}

/* What the table says of @addr, and up to where, at most @end.  False: nothing. */
static bool prot_at(struct vm_space *space, uintptr_t addr, uintptr_t end, uint32_t *ret_prot,
		    uintptr_t *ret_end)
{
	struct vma *vma;

	rwlock_read(&space->lock);
	vma = vm_find(space, addr);
	if (vma) {
		*ret_prot = vma->prot;
		*ret_end = min_u64(end, vma->end);
	}
	rwlock_read_unlock(&space->lock);
	return vma != NULL;
}

/*
 * The host follows the table.  Of several threads the last one to ask the host may be one of the
 * first in the table: so whoever asked looks again.
 */
static int apply_prot(struct vm_space *space, uintptr_t addr, uintptr_t end)
{
	uint32_t prot, now;
	uintptr_t until, next;
	int err = 0;

	while (err == 0 && addr < end && prot_at(space, addr, end, &prot, &until)) {
		err = space->backend->open_area(space, addr, until - addr, prot);
		if (prot_at(space, addr, end, &now, &next) && (now != prot || next < until))
			continue;
		addr = until;
	}
	return err;
}

int vm_protect(struct vm_space *space, uintptr_t addr, uint64_t length, uint32_t prot)
{
	uintptr_t end;
	int err;

	err = check_range(addr, length, &end);
	if (err == 0)
		err = change_range(space, addr, end, prot & VM_PROT_WRITE, set_prot, prot);
	return err < 0 ? err : apply_prot(space, addr, end);
}

/* ---- ranges -------------------------------------------------------------------------------- */

/* A part of one file that lies at some addresses. */
struct piece {
	struct inode *ip; /* referenced */
	struct vm_memory *memory;
	pgoff_t first;
	size_t count;
	bool shared, may_read, may_write;
};

/* The piece that begins at @addr, none of it behind @end. */
static int piece_get(struct vm_space *space, uintptr_t addr, uintptr_t end, struct piece *ret)
{
	struct vma *vma;

	rwlock_read(&space->lock);
	vma = vm_find(space, addr);
	if (vma) {
		*ret = (struct piece){
			.ip = vma->ip,
			.memory = vma->memory,
			.first = vma->first + ((addr - vma->start) >> PAGE_BITS),
			.count = (min_u64(end, vma->end) - addr) >> PAGE_BITS,
			.shared = vma->shared,
			.may_read = vma->prot != 0,
			.may_write = vma->prot & VM_PROT_WRITE,
		};
		inode_ref(ret->ip);
	}
	rwlock_read_unlock(&space->lock);
	return vma ? 0 : fail(-ENOMEM, "a part of the range is not mapped");
}

static int for_each_piece(struct vm_space *space, uintptr_t addr, uint64_t length,
			  int (*fn)(struct piece *piece, void *arg), void *arg)
{
	struct piece piece = { 0 };
	uintptr_t end;
	int err;

	err = check_range(addr, length, &end);
	while (err == 0 && addr < end) {
		err = piece_get(space, addr, end, &piece);
		if (err < 0)
			break;
		err = fn(&piece, arg);
		inode_put(piece.ip);
		addr += piece.count << PAGE_BITS;
	}
	return err;
}

struct walk {
	int (*fn)(struct inode *ip, uint64_t offset, uint64_t length, void *arg);
	void *arg;
};

static int walk_piece(struct piece *piece, void *arg)
{
	struct walk *walk = arg;

	if (!piece->shared)
		return 0;
	return walk->fn(piece->ip, piece->first << PAGE_BITS, (uint64_t)piece->count << PAGE_BITS,
			walk->arg);
}

int vm_walk(struct vm_space *space, uintptr_t addr, uint64_t length,
	    int (*fn)(struct inode *ip, uint64_t offset, uint64_t length, void *arg), void *arg)
{
	struct walk walk = { fn, arg };

	return for_each_piece(space, addr, length, walk_piece, &walk);
}

/* Reads what is missing.  Only advice: an error will be met again by who needs the page. */
static int read_piece(struct piece *piece, void *arg UNUSED)
{
	struct page *pages[PAGES_BATCH_MAX];
	struct inode *ip = piece->ip;
	pgoff_t end, next = piece->first;
	bool good = true;

	while (good && next < piece->first + piece->count) {
		size_t count = 0;

		cache_trim_frames(ip->fs->cache);
		rwlock_read(&ip->invalidate);
		end = min_u64(vm_file_pages(ip), piece->first + piece->count);
		if (next < end)
			count = min_u64(end - next, PAGES_BATCH_MAX);
		good = count != 0 && pages_get(&ip->pages, next, count, 0, pages) == 0;
		rwlock_read_unlock(&ip->invalidate);
		if (good)
			pages_put(pages, count);
		next += count;
	}
	diag_clear();
	return 0;
}

static int trim_piece(struct piece *piece, void *arg UNUSED)
{
	struct inode *ip = piece->ip;

	inode_lock(ip, INODE_CHILD);
	rwlock_write(&ip->invalidate);
	(void)mapping_trim(&ip->pages, piece->first, piece->first + piece->count - 1, piece->count);
	rwlock_write_unlock(&ip->invalidate);
	inode_unlock(ip);
	return 0;
}

int vm_advise(struct vm_space *space, uintptr_t addr, uint64_t length, enum vm_advice advice)
{
	uintptr_t end;
	int err;

	switch (advice) {
	case VM_WILLNEED: return for_each_piece(space, addr, length, read_piece, NULL);
	case VM_DONTNEED: return for_each_piece(space, addr, length, trim_piece, NULL);
	case VM_NORMAL:
	case VM_RANDOM:
	case VM_SEQUENTIAL:
		err = check_range(addr, length, &end);
		return err < 0 ? err : change_range(space, addr, end, false, set_advice, advice);
	}
	return fail(-EINVAL, "no advice that this version knows");
}

static int incore_piece(struct piece *piece, void *arg)
{
	uint8_t **vec = arg;

	for (size_t i = 0; i < piece->count; i++) {
		bool busy = false;
		struct page *page;

		page = page_find_locked(&piece->ip->pages, piece->first + i, false, &busy);
		*(*vec)++ = busy || (page && page_is_uptodate(page));
		if (page)
			page_unlock_put(page);
	}
	return 0;
}

int vm_incore(struct vm_space *space, uintptr_t addr, uint64_t length, uint8_t *vec)
{
	return for_each_piece(space, addr, length, incore_piece, &vec);
}

/* ---- pins ---------------------------------------------------------------------------------- */

/* The pages of one file in a pin. */
struct pin_part {
	struct vm_pinned pinned;
	struct list link; /* in vm_pin */
	struct inode *ip; /* referenced */
	struct vm_memory *memory;
	size_t room, count;   /* of pages[]; of these that are referenced */
	struct page *pages[]; /* room for all of them */
};

struct vm_pin {
	struct list parts; /* of struct pin_part; one thread */
};

/*
 * Enters the page, referenced, into the pin while it is locked; false: it is not in memory.  From
 * then on nobody takes its PTEs away (F3), so the fault that comes after it is the last one.
 */
static bool pin_enter(struct pin_part *part)
{
	pgoff_t index = part->pinned.first + part->count;
	bool busy = false;
	struct page *page = page_find_locked(&part->ip->pages, index, true, &busy);

	if (!page)
		return false;
	if (!page_is_uptodate(page)) {
		page_unlock_put(page);
		return false;
	}
	mutex_lock(&part->memory->rmap);
	part->pinned.count++;
	mutex_unlock(&part->memory->rmap);
	part->pages[part->count++] = page;
	page_unlock(page);
	return true;
}

/* Who was told that nothing is pinned is done with the pages, or has not asked yet (M5). */
static bool pin_next(struct pin_part *part)
{
	bool entered;

	rwlock_read(&part->ip->invalidate);
	entered = pin_enter(part);
	rwlock_read_unlock(&part->ip->invalidate);
	return entered;
}

/*
 * The fault of a store may find that it has to write to a page under writeback, or be undone by a
 * writeback that comes between it and the pin; so the pin comes first, and needs the page in
 * memory, which takes a fault of its own.
 */
static int pin_page(struct vm_space *space, struct pin_part *part, uintptr_t addr,
		    enum vm_access access, bool wait)
{
	int err;

	do {
		err = touch(space, addr, VM_LOAD, wait);
		if (err < 0)
			return err;
	} while (!pin_next(part));
	return touch(space, addr, access, wait);
}

static void part_destroy(struct pin_part *part)
{
	list_del(&part->link);
	mutex_lock(&part->memory->rmap);
	list_del(&part->pinned.link);
	atomic_fetch_sub(&part->memory->pins_count, 1);
	cond_broadcast(&part->memory->unpinned);
	mutex_unlock(&part->memory->rmap);
	pages_put(part->pages, part->count);
	atomic_fetch_sub(&part->ip->fs->mapped, 1);
	if (part->pinned.store) {
		atomic_fetch_sub(&part->ip->fs->store_pins, 1);
		cache_give_pins(part->ip->fs->cache, part->room);
	}
	inode_put(part->ip);
	mem_free(part);
}

struct pinning {
	struct vm_space *space;
	struct vm_pin *pin;
	uintptr_t addr;
	enum vm_access access;
	bool wait;
};

static int pin_piece(struct piece *piece, void *arg)
{
	struct pinning *p = arg;
	struct pin_part *part;
	int err = 0;

	if (!piece->shared)
		return fail(-EINVAL, "pages of a private mapping cannot be pinned");
	if (!piece->may_read || (p->access == VM_STORE && !piece->may_write))
		return fail(-EACCES, "the mapping does not allow the access");
	if (p->access == VM_STORE && !cache_take_pins(p->space->fs->cache, piece->count))
		return fail(-ENOMEM, "more pages pinned for stores than the cache can do without");
	part = mem_zalloc(sizeof(*part) + piece->count * sizeof(part->pages[0]));
	if (!part) {
		if (p->access == VM_STORE)
			cache_give_pins(p->space->fs->cache, piece->count);
		return -ENOMEM;
	}
	part->room = piece->count;
	part->ip = piece->ip;
	part->memory = piece->memory;
	part->pinned.first = piece->first;
	part->pinned.store = p->access == VM_STORE;
	inode_ref(part->ip);
	atomic_fetch_add(&p->space->fs->mapped, 1);
	if (part->pinned.store)
		atomic_fetch_add(&p->space->fs->store_pins, 1);
	list_add_tail(&p->pin->parts, &part->link);
	mutex_lock(&part->memory->rmap);
	list_add_tail(&part->memory->pins, &part->pinned.link);
	atomic_fetch_add(&part->memory->pins_count, 1);
	mutex_unlock(&part->memory->rmap);
	for (size_t i = 0; err == 0 && i < piece->count; i++) {
		err = pin_page(p->space, part, p->addr, p->access, p->wait);
		p->addr += PAGE_BYTES;
	}
	return err;
}

int vm_pin(struct vm_space *space, uintptr_t addr, uint64_t length, enum vm_access access,
	   bool wait, struct vm_pin **ret_pin)
{
	struct pinning pinning = { space, NULL, addr, access, wait };
	int err;

	if (length == 0)
		return fail(-EINVAL, "no pages");
	pinning.pin = mem_alloc(sizeof(struct vm_pin));
	if (!pinning.pin)
		return -ENOMEM;
	list_init(&pinning.pin->parts);
	err = for_each_piece(space, addr, length, pin_piece, &pinning);
	if (err < 0) {
		vm_unpin(pinning.pin);
		return err;
	}
	*ret_pin = pinning.pin;
	return 0;
}

void vm_unpin(struct vm_pin *pin)
{
	if (!pin)
		return;
	while (!list_empty(&pin->parts))
		part_destroy(list_entry(pin->parts.next, struct pin_part, link));
	mem_free(pin);
}
