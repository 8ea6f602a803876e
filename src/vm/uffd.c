/* SPDX-License-Identifier: MIT */
/*
 * Page tables of the host, by userfaultfd(2).
 *
 * The application gets a mapping of the file's memfd on which every access without a PTE, and every
 * store to a write-protected one, becomes a message to us; the thread sleeps until it is answered.
 * One thread reads the messages and answers what needs no waiting; the rest goes to a few workers.
 *
 *  U1  The handler waits for nothing but `space`, and allocates nothing for what is in memory: who
 *      faulted may hold any lock of the application's.  For the same reason it says nothing (M14,
 *      S13).  Two exceptions: the map of a hole that is stored to may have to be read, and without
 *      delayed allocation it is filled.
 *  U2  A fault that waits for a thaw, or for a size to settle, is only an entry of a list (M1).
 *  U3  A host call on addresses of a mapping is made under rmap, or while the mapping is in the
 *      table: these addresses are ours then and nobody else's.
 *  U4  Answering twice is harmless, and so is waking a thread for nothing: it tries again.
 *  U5  Every first store is a message: WP_ASYNC, for which M10 would be needed, is not used.
 *
 * What Linux does (tried on 6.18): UFFDIO_CONTINUE stops at a page that has a PTE, and says how far
 * it came; it replaces the marks of write protection and of poison.  UFFDIO_POISON does not replace
 * a mark of write protection (EEXIST).  Poison is sticky: every access is SIGBUS without a message,
 * through punched holes and changes of write protection; it goes by MADV_DONTNEED, CONTINUE, or
 * when the memfd is cut before it.
 */
#include "vm/uffd_abi.h"
#include "vm/vm_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WORKERS_MAX 4u
#define MESSAGES_MAX 16u

#define SETTLE_MS 1u /* a size that is being changed */
#define THAW_MS 10u  /* how often a frozen image is looked at */
/*
 * How long a failed page stays poisoned: long enough for who faulted to get his SIGBUS (who is too
 * late gets another one), and short because a load by others, which would succeed, gets it too.
 */
#define POISON_MS 20u
#define NS_PER_MS UINT64_C(1000000)

#define FEATURES                                                                                  \
	(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | \
	 UFFD_FEATURE_EXACT_ADDRESS | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |                           \
	 UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_POISON)

enum todo { TODO_FAULT, TODO_WAKE, TODO_UNPOISON };

/* One that could not be answered at once. */
struct fault {
	struct list link;
	uintptr_t addr;
	enum vm_access access;
	enum todo todo;
	uint64_t due_ns; /* in `later` */
};

/* shared */
struct uffd {
	struct vm_space *space;		     /* c */
	int fd;				     /* c */
	int kick_fd;			     /* c: an eventfd: something is new for the handler */
	struct thread *handler;		     /* c */
	struct thread *workers[WORKERS_MAX]; /* the handler's, until it ended */
	unsigned workers_count;		     /* the same */
	struct mutex lock;		     /* RANK_leaf */
	struct cond changed;		     /* something is in `queue`, or it ends */
	struct list queue GUARDED(&lock);    /* for the workers */
	unsigned queued GUARDED(&lock);	     /* how many that is */
	struct list later GUARDED(&lock);    /* for the handler, when it is due */
	unsigned idle GUARDED(&lock);	     /* workers that wait */
	bool ending GUARDED(&lock);
};

/* ---- host calls ---------------------------------------------------------------------------- */

/* 0, or a negative errno.  No text: the handler does not talk. */
static int host_ioctl(struct uffd *u, unsigned long request, void *arg)
{
	int err = 0;

	lockrank_acquire(RANK_host_mm, 0, u);
	while (ioctl(u->fd, request, arg) < 0) {
		err = -errno;
		if (err != -EINTR)
			break;
		err = 0;
	}
	lockrank_release(RANK_host_mm, u);
	return err;
}

static void host_forget(struct uffd *u, uintptr_t addr, size_t bytes)
{
	lockrank_acquire(RANK_host_mm, 0, u);
	(void)madvise((void *)addr, bytes, MADV_DONTNEED);
	lockrank_release(RANK_host_mm, u);
}

static void host_wake(struct uffd *u, uintptr_t addr, uint64_t bytes)
{
	struct uffdio_range range = { .start = addr, .len = bytes };

	(void)host_ioctl(u, UFFDIO_WAKE, &range);
}

static int host_wp(struct uffd *u, uintptr_t addr, uint64_t bytes, uint64_t mode)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = addr, .len = bytes },
		.mode = mode,
	};

	return host_ioctl(u, UFFDIO_WRITEPROTECT, &wp);
}

static int host_poison(struct uffd *u, uintptr_t addr)
{
	struct uffdio_poison poison = { .range = { .start = addr, .len = PAGE_BYTES } };

	return host_ioctl(u, UFFDIO_POISON, &poison);
}

/* ---- page tables --------------------------------------------------------------------------- */

/* The page that faulted has a PTE already, or none any more. */
static int install_there(struct uffd *u, const struct vma *vma, uintptr_t addr, uint32_t flags)
{
	if ((flags & VM_INSTALL_WRITABLE) && vma->shared)
		return host_wp(u, addr, PAGE_BYTES, 0); /* wakes too */
	host_wake(u, addr, PAGE_BYTES);
	return 0;
}

/*
 * Neighbours of the page at @addr that have PTEs, most likely all that it has: one that has none is
 * found again by the next access, which costs a message.
 */
static int unprotect_run(struct uffd *u, uintptr_t addr, size_t pages)
{
	int err = host_wp(u, addr, pages * PAGE_BYTES, 0);

	/* The host may have split the mapping further than we know. */
	if (err == -ENOENT && pages > 1) {
		pages = 1;
		err = host_wp(u, addr, PAGE_BYTES, 0);
	}
	return err < 0 ? err : (int)pages;
}

static int uffd_install(struct vma *vma, uintptr_t addr, size_t pages, uint32_t flags)
{
	struct uffd *u = vma->space->own;
	uintptr_t start = addr, end = addr + pages * PAGE_BYTES;
	bool writable = flags & VM_INSTALL_WRITABLE;
	size_t step = pages * PAGE_BYTES;

	if (flags == (VM_INSTALL_WRITABLE | VM_INSTALL_THERE) && vma->shared)
		return unprotect_run(u, addr, pages);
	while (addr < end) {
		struct uffdio_continue cont = {
			.range = { .start = addr, .len = min_size(step, end - addr) },
			.mode = writable || !vma->shared ? 0 : UFFDIO_CONTINUE_MODE_WP,
		};
		int err = host_ioctl(u, UFFDIO_CONTINUE, &cont);

		if (err == 0 || cont.mapped > 0) {
			addr += (uint64_t)cont.mapped;
		} else if (err == -EEXIST) {
			/* One neighbour that has a PTE is seldom alone. */
			if (addr != start)
				break;
			err = install_there(u, vma, addr, flags);
			if (err < 0)
				return err;
			addr += PAGE_BYTES;
		} else if (err == -ENOENT && step > PAGE_BYTES) {
			/* The host may have split the mapping further than we know. */
			step = PAGE_BYTES;
		} else if (err != -EAGAIN) {
			if (addr == start)
				return err;
			break;
		}
	}
	return (int)((addr - start) >> PAGE_BITS);
}

static void uffd_protect(struct vma *vma, uintptr_t addr, size_t pages)
{
	struct uffd *u = vma->space->own;
	int err;

	err = host_wp(u, addr, pages * PAGE_BYTES, UFFDIO_WRITEPROTECT_MODE_WP);
	/*
	 * No memory for the marks of pages that have no PTE yet: without any PTE nothing is
	 * writable either.  Other errors tell that the range is not there any more.
	 */
	if (err == -ENOMEM)
		host_forget(u, addr, pages * PAGE_BYTES);
}

/* The hole that is punched into the memfd, or its new end, takes the entries away. */
static void uffd_zap(struct vma *vma UNUSED, uintptr_t addr UNUSED, size_t pages UNUSED) {}

static int register_area(struct uffd *u, const struct vma *vma, void *addr, uint64_t length)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)addr, .len = length },
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
			(vma->shared ? UFFDIO_REGISTER_MODE_WP : 0),
	};
	int err = host_ioctl(u, UFFDIO_REGISTER, &reg);

	return err < 0 ? fail(err, "cannot watch a mapping: %s", strerror(-err)) : 0;
}

static int uffd_area(struct vma *vma, uint64_t length)
{
	struct uffd *u = vma->space->own;
	int flags = (vma->shared ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE;
	void *addr;
	int err;

	lockrank_acquire(RANK_host_mm, 0, u);
	addr = mmap(NULL, length, PROT_NONE, flags, vma->memory->fd,
		    (off_t)(vma->first << PAGE_BITS));
	err = addr == MAP_FAILED ? -errno : 0;
	if (err == 0 && madvise(addr, length, MADV_DONTFORK) < 0)
		err = -errno;
	/* A host without huge pages does not know the word. */
	if (err == 0)
		(void)madvise(addr, length, MADV_NOHUGEPAGE);
	lockrank_release(RANK_host_mm, u);
	if (err < 0)
		(void)fail(err, "no address space for a mapping: %s", strerror(-err));
	if (err == 0)
		err = register_area(u, vma, addr, length);
	if (err < 0 && addr != MAP_FAILED)
		(void)munmap(addr, length);
	if (err == 0)
		vma->start = (uintptr_t)addr;
	return err;
}

/* Nothing ranked may be held: with mlockall(2) it faults. */
static int uffd_open_area(struct vm_space *space UNUSED, uintptr_t addr, uint64_t length,
			  uint32_t prot)
{
	int host = (prot & VM_PROT_READ ? PROT_READ : 0) |
		   (prot & VM_PROT_WRITE ? PROT_READ | PROT_WRITE : 0);

	lockrank_assert_none();
	if (mprotect((void *)addr, length, host) < 0)
		return fail(-errno, "cannot change the access to a mapping: %s", strerror(errno));
	return 0;
}

static void uffd_close_area(struct vm_space *space, uintptr_t addr, uint64_t length)
{
	struct uffd *u = space->own;

	lockrank_acquire(RANK_host_mm, 0, u);
	(void)munmap((void *)addr, length);
	lockrank_release(RANK_host_mm, u);
	/* The host forgets to wake those who slept there. */
	host_wake(u, addr, length);
}

/* ---- answers ------------------------------------------------------------------------------- */

static void kick(struct uffd *u)
{
	uint64_t one = 1;

	(void)!write(u->kick_fd, &one, sizeof(one));
}

/* NULL, without memory: the caller makes do. */
static struct fault *fault_create(uintptr_t addr, enum vm_access access, enum todo todo)
{
	struct fault *fault = mem_zalloc(sizeof(*fault));

	if (fault) {
		fault->addr = addr;
		fault->access = access;
		fault->todo = todo;
	}
	return fault;
}

/* The handler looks at it in @ms.  Without memory: false, and nothing happens. */
static bool defer(struct uffd *u, uintptr_t addr, enum vm_access access, enum todo todo,
		  uint32_t ms)
{
	struct fault *fault = fault_create(addr, access, todo);

	if (!fault)
		return false;
	fault->due_ns = clock_mono_ns() + ms * NS_PER_MS;
	mutex_lock(&u->lock);
	list_add_tail(&u->later, &fault->link);
	mutex_unlock(&u->lock);
	kick(u);
	return true;
}

/* SIGBUS for who faulted at @addr. */
static void poison(struct uffd *u, uintptr_t addr)
{
	struct vm_space *space = u->space;
	struct vma *vma;
	int err = -ENOENT;

	rwlock_read(&space->lock);
	vma = vm_find(space, addr);
	if (vma) {
		mutex_lock(&vma->memory->rmap);
		err = host_poison(u, addr);
		/* It could be read; or is marked, to be write-protected when it is there. */
		if (err == -EEXIST && vma->shared) {
			host_forget(u, addr, PAGE_BYTES);
			(void)host_wp(u, addr, PAGE_BYTES, UFFDIO_WRITEPROTECT_MODE_DONTWAKE);
			err = host_poison(u, addr);
		}
		mutex_unlock(&vma->memory->rmap);
	}
	rwlock_read_unlock(&space->lock);
	if (err < 0)
		host_wake(u, addr, PAGE_BYTES);
}

/*
 * From now on an access is tried anew.  Not in a private mapping, where the page could be one that
 * was stored to meanwhile, and exists nowhere else.
 */
static void unpoison(struct uffd *u, uintptr_t addr)
{
	struct vm_space *space = u->space;
	struct vma *vma;

	rwlock_read(&space->lock);
	vma = vm_find(space, addr);
	if (vma && vma->shared) {
		mutex_lock(&vma->memory->rmap);
		host_forget(u, addr, PAGE_BYTES);
		mutex_unlock(&vma->memory->rmap);
	}
	rwlock_read_unlock(&space->lock);
}

/* Anything but VM_RETRY. */
static void answer(struct uffd *u, uintptr_t addr, enum vm_access access, enum vm_result result)
{
	switch (result) {
	case VM_MAPPED: break; /* install() woke him */
	case VM_FAILED:
		poison(u, addr);
		(void)defer(u, addr, access, TODO_UNPOISON, POISON_MS);
		break;
	case VM_BEYOND:
		/* The memfd is longer for a moment; else the host had given SIGBUS. */
		if (!defer(u, addr, access, TODO_WAKE, SETTLE_MS))
			host_wake(u, addr, PAGE_BYTES);
		break;
	case VM_FROZEN:
		if (!defer(u, addr, access, TODO_FAULT, THAW_MS))
			host_wake(u, addr, PAGE_BYTES);
		break;
	case VM_NOPAGE:
	case VM_RETRY: host_wake(u, addr, PAGE_BYTES); break;
	}
}

/* To the end, whatever it takes but a thaw. */
static void serve(struct uffd *u, uintptr_t addr, enum vm_access access)
{
	uint32_t flags = VM_ALLOW_RETRY | VM_NOTHAW;
	enum vm_result result;
	int err;

	while ((result = vm_fault(u->space, addr, access, flags, &err)) == VM_RETRY)
		flags |= VM_TRIED;
	answer(u, addr, access, result);
}

/* ---- workers ------------------------------------------------------------------------------- */

/* The next one of the queue, or NULL. */
static struct fault *dequeue(struct uffd *u) REQUIRES(&u->lock)
{
	struct fault *fault;

	if (list_empty(&u->queue))
		return NULL;
	fault = list_entry(u->queue.next, struct fault, link);
	list_del(&fault->link);
	u->queued--;
	return fault;
}

static void worker_main(void *arg)
{
	struct uffd *u = arg;

	mutex_lock(&u->lock);
	while (!u->ending) {
		struct fault *fault = dequeue(u);

		if (!fault) {
			u->idle++;
			cond_wait(&u->changed, &u->lock);
			u->idle--;
			continue;
		}
		mutex_unlock(&u->lock);
		serve(u, fault->addr, fault->access);
		mem_free(fault);
		mutex_lock(&u->lock);
	}
	mutex_unlock(&u->lock);
}

/*
 * One that waits in the queue already answers for others of its page; but not a store for a load,
 * which does not wait for a thaw.
 */
static bool is_queued(struct uffd *u, const struct fault *fault) REQUIRES(&u->lock)
{
	list_for_each(link, &u->queue) {
		struct fault *other = list_entry(link, struct fault, link);

		if (other->addr == fault->addr && other->access == fault->access)
			return true;
	}
	return false;
}

/* Takes @fault over. */
static void enqueue(struct uffd *u, struct fault *fault)
{
	bool queued, busy;

	mutex_lock(&u->lock);
	queued = is_queued(u, fault);
	if (!queued) {
		list_add_tail(&u->queue, &fault->link);
		u->queued++;
	}
	busy = u->idle < u->queued;
	mutex_unlock(&u->lock);
	if (queued)
		mem_free(fault);
	else
		cond_signal(&u->changed);
	if (busy && u->workers_count < WORKERS_MAX &&
	    thread_create("uext4-fault", worker_main, u, &u->workers[u->workers_count]) == 0)
		u->workers_count++;
}

/* ---- the handler --------------------------------------------------------------------------- */

static void on_message(struct uffd *u, const struct uffd_msg *msg)
{
	uint32_t flags = VM_ALLOW_RETRY | VM_NOWAIT | VM_NOTHAW;
	enum vm_access access = VM_LOAD;
	enum vm_result result;
	struct fault *fault;
	uintptr_t addr;
	int err;

	if (msg->event != UFFD_EVENT_PAGEFAULT)
		return;
	addr = (uintptr_t)round_down_pow2(msg->arg.pagefault.address, PAGE_BYTES);
	if (msg->arg.pagefault.flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP))
		access = VM_STORE;
	if (msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
		flags |= VM_PROTECTED;
	result = vm_fault(u->space, addr, access, flags, &err);
	if (result != VM_RETRY) {
		answer(u, addr, access, result);
		return;
	}
	fault = fault_create(addr, access, TODO_FAULT);
	if (fault)
		enqueue(u, fault);
	/* Without a thread for it everybody waits for this one. */
	if (!fault)
		serve(u, addr, access);
	while (u->workers_count == 0) {
		mutex_lock(&u->lock);
		fault = dequeue(u);
		mutex_unlock(&u->lock);
		if (!fault)
			break;
		serve(u, fault->addr, fault->access);
		mem_free(fault);
	}
}

static bool is_frozen(struct uext4_fs *fs)
{
	int err = fs_fault_begin(fs);

	if (err == 0)
		fs_fault_end(fs);
	return err == -EAGAIN;
}

/* One whose time has come. */
static void on_due(struct uffd *u, struct fault *fault)
{
	switch (fault->todo) {
	case TODO_FAULT:
		if (is_frozen(u->space->fs)) {
			fault->due_ns = clock_mono_ns() + THAW_MS * NS_PER_MS;
			mutex_lock(&u->lock);
			list_add_tail(&u->later, &fault->link);
			mutex_unlock(&u->lock);
		} else {
			enqueue(u, fault);
		}
		return;
	case TODO_WAKE: host_wake(u, fault->addr, PAGE_BYTES); break;
	case TODO_UNPOISON: unpoison(u, fault->addr); break;
	}
	mem_free(fault);
}

/* Does what is due; returns in how many ms there is more, -1: never. */
static int run_due(struct uffd *u)
{
	uint64_t next = UINT64_MAX, now = clock_mono_ns();
	struct list due;

	list_init(&due);
	mutex_lock(&u->lock);
	list_for_each_safe(link, &u->later) {
		struct fault *fault = list_entry(link, struct fault, link);

		if (fault->due_ns <= now) {
			list_del(&fault->link);
			list_add_tail(&due, &fault->link);
		}
	}
	mutex_unlock(&u->lock);
	while (!list_empty(&due)) {
		struct fault *fault = list_entry(due.next, struct fault, link);

		list_del(&fault->link);
		on_due(u, fault);
	}
	mutex_lock(&u->lock);
	list_for_each(link, &u->later)
		next = min_u64(next, list_entry(link, struct fault, link)->due_ns);
	mutex_unlock(&u->lock);
	if (next == UINT64_MAX)
		return -1;
	return next <= now ? 0 : (int)min_u64((next - now) / NS_PER_MS + 1, 1000);
}

static bool is_ending(struct uffd *u)
{
	bool ending;

	mutex_lock(&u->lock);
	ending = u->ending;
	mutex_unlock(&u->lock);
	return ending;
}

static void handler_main(void *arg)
{
	struct uffd *u = arg;
	struct uffd_msg msgs[MESSAGES_MAX];
	struct pollfd fds[] = { { .fd = u->fd, .events = POLLIN },
				{ .fd = u->kick_fd, .events = POLLIN } };
	uint64_t kicks;
	ssize_t got;

	while (!is_ending(u)) {
		(void)poll(fds, ARRAY_SIZE(fds), run_due(u));
		if (fds[1].revents)
			(void)!read(u->kick_fd, &kicks, sizeof(kicks));
		got = read(u->fd, msgs, sizeof(msgs));
		for (ssize_t at = 0; at + (ssize_t)sizeof(msgs[0]) <= got; at += sizeof(msgs[0]))
			on_message(u, &msgs[at / (ssize_t)sizeof(msgs[0])]);
	}
}

/* ---- open, close --------------------------------------------------------------------------- */

/* -EPERM: the host lets us have none. */
static int host_open(int *ret_fd)
{
	int flags = O_CLOEXEC | O_NONBLOCK;
	int fd, dev;

	fd = (int)syscall(SYS_userfaultfd, flags);
	if (fd < 0 && errno != ENOSYS) {
		dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		if (dev >= 0) {
			fd = ioctl(dev, USERFAULTFD_IOC_NEW, flags);
			(void)close(dev);
		}
		if (fd < 0)
			fd = (int)syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
	}
	if (fd < 0 && errno == EPERM)
		return fail(-EPERM, "mapping files needs userfaultfd, which is not allowed here: "
				    "set vm.unprivileged_userfaultfd=1, or give access to "
				    "/dev/userfaultfd");
	if (fd < 0)
		return fail(-errno, "mapping files needs userfaultfd: %s", strerror(errno));
	*ret_fd = fd;
	return 0;
}

/* A descriptor that was asked once what the kernel can do is of no further use. */
static int probe(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int err, fd;

	err = host_open(&fd);
	if (err < 0)
		return err;
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		err = fail(-errno, "userfaultfd: %s", strerror(errno));
	else if ((api.features & FEATURES) != FEATURES)
		err = fail(
			-EOPNOTSUPP,
			"mapping files needs Linux 6.6: this kernel's userfaultfd lacks features "
			"0x%llx",
			(unsigned long long)(FEATURES & ~api.features));
	(void)close(fd);
	return err;
}

static void uffd_free(struct uffd *u)
{
	if (u->fd >= 0)
		(void)close(u->fd);
	if (u->kick_fd >= 0)
		(void)close(u->kick_fd);
	cond_finish(&u->changed);
	mutex_finish(&u->lock);
	mem_free(u);
}

static int start(struct uffd *u)
{
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };
	int err;

	err = probe();
	if (err == 0)
		err = host_open(&u->fd);
	if (err < 0)
		return err;
	if (ioctl(u->fd, UFFDIO_API, &api) < 0)
		return fail(-errno, "userfaultfd: %s", strerror(errno));
	u->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->kick_fd < 0)
		return fail(-errno, "eventfd: %s", strerror(errno));
	return thread_create("uext4-faults", handler_main, u, &u->handler);
}

static int uffd_open(struct vm_space *space)
{
	struct uffd *u = mem_zalloc(sizeof(*u));
	int err;

	if (!u)
		return -ENOMEM;
	u->space = space;
	u->fd = u->kick_fd = -1;
	mutex_init(&u->lock, RANK_leaf);
	cond_init(&u->changed);
	list_init(&u->queue);
	list_init(&u->later);
	space->own = u;
	err = start(u);
	if (err < 0)
		uffd_free(u);
	return err;
}

static void faults_free(struct list *faults)
{
	while (!list_empty(faults)) {
		struct fault *fault = list_entry(faults->next, struct fault, link);

		list_del(&fault->link);
		mem_free(fault);
	}
}

static void uffd_close(struct vm_space *space)
{
	struct uffd *u = space->own;

	mutex_lock(&u->lock);
	u->ending = true;
	cond_broadcast(&u->changed);
	mutex_unlock(&u->lock);
	kick(u);
	thread_join(u->handler);
	for (unsigned i = 0; i < u->workers_count; i++)
		thread_join(u->workers[i]);
	faults_free(&u->queue);
	faults_free(&u->later);
	uffd_free(u);
}

const struct vm_backend vm_uffd = {
	.name = "userfaultfd",
	.open = uffd_open,
	.close = uffd_close,
	.area = uffd_area,
	.open_area = uffd_open_area,
	.close_area = uffd_close_area,
	.install = uffd_install,
	.protect = uffd_protect,
	.zap = uffd_zap,
};
