/* SPDX-License-Identifier: MIT */
/*
 * A page table in software, for tests: loads and stores are functions, which fault as a processor
 * would.
 *
 * The addresses of a mapping are reserved but never accessible.  What the engine would tell the
 * host it does to a byte a page here; so every order of fault, store and writeback can be tried
 * without the host's help, under sanitizers too.
 *
 *  O1  An entry is made, changed and used under rmap: a store that found its entry writable is in
 *      the page before protect() returns.
 *  O2  A private page that was stored to belongs to the table; it goes with the mapping, or when
 *      the file ends before it.
 */
#include "vm/vm_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <sys/mman.h>

#define SPACES_MAX 8u

enum entry { ENTRY_PRESENT = 1, ENTRY_WRITABLE = 2 };

/* What area() made, and all mappings it was split into share: rmap. */
struct soft_table {
	uintptr_t start; /* c */
	size_t pages;	 /* c */
	size_t users;
	uint8_t *entries;
	uint8_t **own; /* private: pages that were stored to, or NULL */
};

/* Where addresses of the caller's may lie.  Of the process, as addresses are. */
static _Atomic(struct vm_space *) spaces[SPACES_MAX];

static int soft_open(struct vm_space *space)
{
	for (unsigned i = 0; i < SPACES_MAX; i++) {
		struct vm_space *none = NULL;

		if (atomic_compare_exchange_strong(&spaces[i], &none, space))
			return 0;
	}
	return fail(-ENOSPC, "too many spaces");
}

static void soft_close(struct vm_space *space)
{
	for (unsigned i = 0; i < SPACES_MAX; i++) {
		struct vm_space *this = space;

		(void)atomic_compare_exchange_strong(&spaces[i], &this, NULL);
	}
}

/* ---- the page table ------------------------------------------------------------------------ */

static void table_free(struct soft_table *t)
{
	for (size_t i = 0; t->own && i < t->pages; i++)
		mem_free(t->own[i]);
	mem_free(t->own);
	mem_free(t->entries);
	mem_free(t);
}

static int soft_area(struct vma *vma, uint64_t length)
{
	struct soft_table *t = mem_zalloc(sizeof(*t));
	void *addr;

	if (!t)
		return -ENOMEM;
	t->pages = length >> PAGE_BITS;
	t->users = 1;
	t->entries = mem_calloc(t->pages, 1);
	if (!vma->shared)
		t->own = mem_calloc(t->pages, sizeof(t->own[0]));
	if (!t->entries || (!vma->shared && !t->own)) {
		table_free(t);
		return -ENOMEM;
	}
	addr = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (addr == MAP_FAILED) {
		table_free(t);
		return fail(-errno, "no address space for a mapping");
	}
	t->start = (uintptr_t)addr;
	vma->start = t->start;
	vma->table = t;
	return 0;
}

static int soft_open_area(struct vm_space *space UNUSED, uintptr_t addr UNUSED,
			  uint64_t length UNUSED, uint32_t prot UNUSED)
{
	return 0;
}

static void soft_close_area(struct vm_space *space UNUSED, uintptr_t addr, uint64_t length)
{
	(void)munmap((void *)addr, length);
}

static void soft_split(struct vma *head, struct vma *tail)
{
	struct soft_table *t = head->table;

	tail->table = t;
	t->users++;
}

static void soft_end(struct vma *vma)
{
	struct soft_table *t = vma->table;

	if (--t->users == 0)
		table_free(t);
}

static size_t entry_of(const struct soft_table *t, uintptr_t addr)
{
	assert(addr >= t->start && (addr - t->start) >> PAGE_BITS < t->pages);
	return (addr - t->start) >> PAGE_BITS;
}

static int soft_install(struct vma *vma, uintptr_t addr, size_t pages, uint32_t flags)
{
	struct soft_table *t = vma->table;
	size_t first = entry_of(t, addr);
	bool writable = flags & VM_INSTALL_WRITABLE;

	for (size_t i = first; i < first + pages; i++)
		t->entries[i] |= ENTRY_PRESENT | (writable ? ENTRY_WRITABLE : 0);
	return (int)pages;
}

static void soft_protect(struct vma *vma, uintptr_t addr, size_t pages)
{
	struct soft_table *t = vma->table;
	size_t first = entry_of(t, addr);

	for (size_t i = first; i < first + pages; i++)
		t->entries[i] &= (uint8_t)~ENTRY_WRITABLE;
}

static void soft_zap(struct vma *vma, uintptr_t addr, size_t pages)
{
	struct soft_table *t = vma->table;
	size_t first = entry_of(t, addr);
	pgoff_t file_end = atomic_load(&vma->memory->frames.pages);

	for (size_t i = first; i < first + pages; i++) {
		pgoff_t index = vma->first + ((addr - vma->start) >> PAGE_BITS) + (i - first);

		t->entries[i] = 0;
		if (t->own && index >= file_end) {
			mem_free(t->own[i]);
			t->own[i] = NULL;
		}
	}
}

const struct vm_backend vm_soft = {
	.name = "soft",
	.open = soft_open,
	.close = soft_close,
	.area = soft_area,
	.open_area = soft_open_area,
	.close_area = soft_close_area,
	.split = soft_split,
	.end = soft_end,
	.install = soft_install,
	.protect = soft_protect,
	.zap = soft_zap,
};

/* ---- loads and stores ---------------------------------------------------------------------- */

struct access {
	enum vm_access kind;
	uint8_t *to;	     /* of a load */
	const uint8_t *from; /* of a store */
};

/*
 * As a processor's: the engine reads and writes the bytes meanwhile, where P3 lets it, which the
 * thread sanitizer cannot know; it is not told of these.
 */
__attribute__((no_sanitize("thread"))) static void move(uint8_t *to, const uint8_t *from,
							size_t bytes)
{
	volatile uint8_t *dst = to;
	const volatile uint8_t *src = from;

	for (size_t i = 0; i < bytes; i++)
		dst[i] = src[i];
}

/* Where the page of @addr is for this access, or NULL.  rmap held. */
static uint8_t *translate(struct vma *vma, uintptr_t addr, enum vm_access kind)
{
	struct frames *f = &vma->memory->frames;
	struct soft_table *t = vma->table;
	size_t i = entry_of(t, addr);
	pgoff_t index = vma->first + ((addr - vma->start) >> PAGE_BITS);

	if (t->own && t->own[i])
		return t->own[i];
	if (!(t->entries[i] & ENTRY_PRESENT))
		return NULL;
	assert(index < atomic_load(&f->pages));
	if (kind == VM_LOAD)
		return f->ops->at(f, index);
	if (!t->own)
		return t->entries[i] & ENTRY_WRITABLE ? f->ops->at(f, index) : NULL;
	t->own[i] = mem_alloc(PAGE_BYTES);
	assert(t->own[i]);
	move(t->own[i], f->ops->at(f, index), PAGE_BYTES);
	return t->own[i];
}

/* Both of one page. 0; -EAGAIN: it faults; -EFAULT. */
static int try_access(struct vm_space *space, uintptr_t addr, const struct access *access,
		      size_t bytes)
{
	size_t at = addr % PAGE_BYTES;
	struct vma *vma;
	uint8_t *page;
	int err = -EAGAIN;

	rwlock_read(&space->lock);
	vma = vm_find(space, addr);
	if (!vma || vma->prot == 0 || (access->kind == VM_STORE && !(vma->prot & VM_PROT_WRITE)))
		err = fail(-EFAULT, "no mapping for this access");
	if (err == -EAGAIN) {
		mutex_lock(&vma->memory->rmap);
		page = translate(vma, addr - at, access->kind);
		if (page && access->kind == VM_LOAD)
			move(access->to, page + at, bytes);
		else if (page)
			move(page + at, access->from, bytes);
		mutex_unlock(&vma->memory->rmap);
		if (page)
			err = 0;
	}
	rwlock_read_unlock(&space->lock);
	return err;
}

static int access_page(struct vm_space *space, uintptr_t addr, const struct access *access,
		       size_t bytes)
{
	uint32_t flags = VM_ALLOW_RETRY;
	int err;

	for (;;) {
		int failed;

		err = try_access(space, addr, access, bytes);
		if (err != -EAGAIN)
			return err;
		switch (vm_fault(space, addr & ~(uintptr_t)(PAGE_BYTES - 1), access->kind, flags,
				 &failed)) {
		case VM_FAILED: return failed;
		case VM_BEYOND: return fail(-ERANGE, "behind the end of the file");
		case VM_RETRY: flags |= VM_TRIED; break;
		case VM_MAPPED:
		case VM_NOPAGE:
		case VM_FROZEN: flags = VM_ALLOW_RETRY; break;
		}
	}
}

static int access_range(struct vm_space *space, uintptr_t addr, struct access access, size_t bytes)
{
	int err = 0;

	while (err == 0 && bytes != 0) {
		size_t piece = min_size(bytes, PAGE_BYTES - addr % PAGE_BYTES);

		err = access_page(space, addr, &access, piece);
		addr += piece;
		bytes -= piece;
		if (access.kind == VM_LOAD)
			access.to += piece;
		else
			access.from += piece;
	}
	return err;
}

int vm_soft_load(struct vm_space *space, uintptr_t addr, void *buf, size_t bytes)
{
	return access_range(space, addr, (struct access){ .kind = VM_LOAD, .to = buf }, bytes);
}

int vm_soft_store(struct vm_space *space, uintptr_t addr, const void *data, size_t bytes)
{
	return access_range(space, addr, (struct access){ .kind = VM_STORE, .from = data }, bytes);
}

/* ---- the caller's memory ------------------------------------------------------------------- */

/* The space that has @addr mapped, or NULL. */
static struct vm_space *space_of(uintptr_t addr)
{
	for (unsigned i = 0; i < SPACES_MAX; i++) {
		struct vm_space *space = atomic_load(&spaces[i]);
		bool here = false;

		if (space) {
			rwlock_read(&space->lock);
			here = vm_find(space, addr);
			rwlock_read_unlock(&space->lock);
		}
		if (here)
			return space;
	}
	return NULL;
}

/* A buffer is in one mapping or in none; an access that fails is a SIGBUS. */
void vm_soft_user_copy_in(void *to, const void *user, size_t bytes)
{
	struct vm_space *space = space_of((uintptr_t)user);
	int err = 0;

	if (space)
		err = vm_soft_load(space, (uintptr_t)user, to, bytes);
	else if (bytes != 0)
		memcpy(to, user, bytes);
	assert(err == 0);
}

void vm_soft_user_copy_out(void *user, const void *from, size_t bytes)
{
	struct vm_space *space = space_of((uintptr_t)user);
	int err = 0;

	if (space)
		err = vm_soft_store(space, (uintptr_t)user, from, bytes);
	else if (bytes != 0)
		memcpy(user, from, bytes);
	assert(err == 0);
}
