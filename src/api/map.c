/* SPDX-License-Identifier: MIT */
/*
 * The public functions of mapped files.  The rules are api.c's; the work is that of vm/.
 */
#include "api/api_priv.h"
#include "api/test_hooks.h"

#include "base/diag.h"
#include "base/mem.h"
#include "vm/vm.h"

struct uext4_pin {
	struct uext4_fs *fs;
	struct vm_pin *pin;
};

static struct vm_space *space_of(struct uext4_fs *fs)
{
	return atomic_load_explicit(&fs->space, memory_order_acquire);
}

/* One that nothing was ever mapped in. */
static void discard(struct vm_space *space)
{
	int err = vm_space_destroy(space);

	assert(err == 0);
	(void)err;
}

/* That of @fs; made by @backend if there is none yet. */
static int space_get(struct uext4_fs *fs, const struct vm_backend *backend,
		     struct vm_space **ret_space)
{
	struct vm_space *fresh, *space = space_of(fs);
	int err;

	if (!space) {
		err = vm_space_create(fs, backend, &fresh);
		if (err < 0)
			return err;
		/* Of two threads that made one the first has it. */
		if (atomic_compare_exchange_strong(&fs->space, &space, fresh))
			space = fresh;
		else
			discard(fresh);
	}
	*ret_space = space;
	return 0;
}

int uext4_mmap_soft_for_test(struct uext4_fs *fs, struct vm_space **ret_space)
{
	diag_clear();
	return api_end(space_get(fs, &vm_soft, ret_space));
}

int api_space_close(struct uext4_fs *fs)
{
	int err;

	if (atomic_load(&fs->mapped) != 0)
		return fail(-EBUSY, "files of the image are mapped");
	err = vm_space_destroy(space_of(fs));
	if (err == 0)
		atomic_store(&fs->space, NULL);
	return err;
}

/* ---- mapping ------------------------------------------------------------------------------- */

#define PROTS (UEXT4_PROT_READ | UEXT4_PROT_WRITE)
#define MAP_FLAGS (UEXT4_MAP_SHARED | UEXT4_MAP_PRIVATE | UEXT4_MAP_POPULATE)

static uint32_t map_flags(const struct uext4_file *file, uint32_t flags)
{
	return (flags & UEXT4_MAP_PRIVATE ? VM_MAP_PRIVATE : 0) |
	       (flags & UEXT4_MAP_POPULATE ? VM_MAP_POPULATE : 0) |
	       (file->flags & UEXT4_FILE_KILL_PRIV ? VM_MAP_UNPRIVILEGED : 0);
}

static uint32_t prot_of(uint32_t prot)
{
	return (prot & UEXT4_PROT_READ ? VM_PROT_READ : 0) |
	       (prot & UEXT4_PROT_WRITE ? VM_PROT_WRITE : 0);
}

int uext4_mmap(struct uext4_file *file, uint64_t offset, size_t length, uint32_t prot,
	       uint32_t flags, void **ret_addr)
{
	struct uext4_fs *fs = file->ip->fs;
	bool shared = flags & UEXT4_MAP_SHARED, writable = file->flags & UEXT4_FILE_WRITE;
	struct vm_space *space;
	uintptr_t addr;
	int err;

	diag_clear();
	if ((prot & ~(uint32_t)PROTS) || (flags & ~(uint32_t)MAP_FLAGS) || !ret_addr)
		return api_invalid("a flag that this version does not know, or a NULL pointer");
	if (shared == !!(flags & UEXT4_MAP_PRIVATE))
		return api_invalid("a mapping is either shared or private");
	if (fs->in_scope)
		return api_end(fail(-EBUSY, "several changes are being made at once"));
	if (shared && writable && inode_has_flag(file->ip, EXT4_APPEND_FL))
		return api_end(fail(-EACCES, "inode %u is append-only", file->ip->ino));
	err = space_get(fs, &vm_uffd, &space);
	if (err == 0)
		err = vm_map(space, file->ip, writable, offset, length, prot_of(prot),
			     map_flags(file, flags), &addr);
	if (err == 0)
		*ret_addr = (void *)addr;
	return api_end_reap(fs, err);
}

int uext4_set_map_hook(struct uext4_fs *fs, uext4_map_hook hook, void *arg)
{
	diag_clear();
	return api_end(vm_watch(fs, hook, arg));
}

/* The calls below are about mappings, which nobody has who never made one. */
static int space_need(struct uext4_fs *fs, struct vm_space **ret_space)
{
	*ret_space = space_of(fs);
	return *ret_space ? 0 : fail(-ENOMEM, "no file of the image is mapped");
}

int uext4_munmap(struct uext4_fs *fs, void *addr, size_t length)
{
	struct vm_space *space;
	int err;

	diag_clear();
	err = space_need(fs, &space);
	if (err == 0)
		err = vm_unmap(space, (uintptr_t)addr, length);
	return api_end_reap(fs, err);
}

int uext4_mprotect(struct uext4_fs *fs, void *addr, size_t length, uint32_t prot)
{
	struct vm_space *space;
	int err;

	diag_clear();
	if (prot & ~(uint32_t)PROTS)
		return api_invalid("a flag that this version does not know");
	err = space_need(fs, &space);
	if (err == 0)
		err = vm_protect(space, (uintptr_t)addr, length, prot_of(prot));
	return api_end_reap(fs, err);
}

/* ---- what is in it ------------------------------------------------------------------------- */

#define SYNC_FLAGS (UEXT4_MS_ASYNC | UEXT4_MS_SYNC | UEXT4_MS_INVALIDATE)

static int sync_piece(struct inode *ip, uint64_t offset UNUSED, uint64_t length UNUSED,
		      void *arg UNUSED)
{
	uint64_t seen = mapping_error_now(&ip->pages);

	return ip->fs->writable ? file_fsync(ip, false, &seen) : 0;
}

static int nothing(struct inode *ip UNUSED, uint64_t offset UNUSED, uint64_t length UNUSED,
		   void *arg UNUSED)
{
	return 0;
}

int uext4_msync(struct uext4_fs *fs, void *addr, size_t length, uint32_t flags)
{
	struct vm_space *space;
	int err;

	diag_clear();
	if ((flags & ~(uint32_t)SYNC_FLAGS) ||
	    ((flags & UEXT4_MS_ASYNC) && (flags & UEXT4_MS_SYNC)))
		return api_invalid("no flags of msync");
	err = space_need(fs, &space);
	/* What is stored is dirty by itself, and nothing has another copy. */
	if (err == 0)
		err = vm_walk(space, (uintptr_t)addr, length,
			      flags & UEXT4_MS_SYNC ? sync_piece : nothing, NULL);
	return api_end_reap(fs, err);
}

int uext4_madvise(struct uext4_fs *fs, void *addr, size_t length, enum uext4_advice advice)
{
	static const enum vm_advice advices[] = {
		[UEXT4_MADV_NORMAL] = VM_NORMAL,	 [UEXT4_MADV_RANDOM] = VM_RANDOM,
		[UEXT4_MADV_SEQUENTIAL] = VM_SEQUENTIAL, [UEXT4_MADV_WILLNEED] = VM_WILLNEED,
		[UEXT4_MADV_DONTNEED] = VM_DONTNEED,
	};
	struct vm_space *space;
	int err;

	diag_clear();
	if ((unsigned)advice >= ARRAY_SIZE(advices))
		return api_invalid("no advice that this version knows");
	err = space_need(fs, &space);
	if (err == 0)
		err = vm_advise(space, (uintptr_t)addr, length, advices[advice]);
	return api_end_reap(fs, err);
}

int uext4_mincore(struct uext4_fs *fs, void *addr, size_t length, uint8_t *vec)
{
	size_t pages = div_round_up(length, PAGE_BYTES);
	uint8_t *own FREE_SCOPE = NULL;
	struct vm_space *space;
	int err;

	diag_clear();
	own = mem_calloc(pages ? pages : 1, 1);
	if (!own)
		return api_end(-ENOMEM);
	err = space_need(fs, &space);
	if (err == 0)
		err = vm_incore(space, (uintptr_t)addr, length, own);
	if (err == 0)
		user_copy_out(vec, own, pages);
	return api_end_reap(fs, err);
}

/* ---- pins ---------------------------------------------------------------------------------- */

int uext4_pin(struct uext4_fs *fs, void *addr, size_t length, uint32_t flags,
	      struct uext4_pin **ret_pin)
{
	struct uext4_pin *pin;
	struct vm_space *space;
	uintptr_t start = round_down_pow2((uintptr_t)addr, PAGE_BYTES);
	int err;

	diag_clear();
	if ((flags & ~(uint32_t)(UEXT4_PIN_WRITE | UEXT4_PIN_WAIT)) || !ret_pin)
		return api_invalid("a flag that this version does not know, or a NULL pointer");
	pin = mem_alloc(sizeof(*pin));
	if (!pin)
		return api_end(-ENOMEM);
	pin->fs = fs;
	err = space_need(fs, &space);
	if (err == 0)
		err = vm_pin(space, start, length + ((uintptr_t)addr - start),
			     flags & UEXT4_PIN_WRITE ? VM_STORE : VM_LOAD, flags & UEXT4_PIN_WAIT,
			     &pin->pin);
	if (err < 0)
		mem_free(pin);
	else
		*ret_pin = pin;
	return api_end_reap(fs, err);
}

void uext4_unpin(struct uext4_pin *pin)
{
	struct uext4_fs *fs;

	if (!pin)
		return;
	fs = pin->fs;
	vm_unpin(pin->pin);
	mem_free(pin);
	(void)api_end_reap(fs, 0);
}
