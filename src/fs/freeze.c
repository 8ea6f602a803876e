/* SPDX-License-Identifier: MIT */
/*
 * Who is changing the file system, and keeping them out.
 *
 *  Z1  A modifying call is counted from fs_write_begin() to fs_write_end().  While it is frozen
 *      nobody is counted: who comes waits, holding nothing.
 *      Write faults are counted too, from fs_fault_begin() on; who comes then is told, and waits
 *      with nothing held (M1).
 *  Z2  The counters and the flag are both sequentially consistent, and each side sets its own
 *      before it looks at the other's: so either the caller sees the freeze, or the freeze the
 *      caller.
 *  Z3  Inodes that went with their last reference are finished by fs_reap(), which is such a call,
 *      but does not wait: while it is frozen they stay queued, and the thaw finishes them.
 */
#include "fs/fs_priv.h"

#include "base/diag.h"
#include "base/mem.h"

/* shared */
struct freeze {
	_Atomic uint32_t inside;   /* a: modifying calls, and write faults */
	_Atomic bool frozen;	   /* a; changed under the lock */
	struct mutex lock;	   /* RANK_leaf */
	struct cond changed;	   /* thawed, or nobody inside */
	bool taken GUARDED(&lock); /* somebody freezes, or has */
};

int freeze_create(struct uext4_fs *fs)
{
	struct freeze *f = mem_zalloc(sizeof(*f));

	if (!f)
		return -ENOMEM;
	mutex_init(&f->lock, RANK_leaf);
	cond_init(&f->changed);
	fs->freeze = f;
	return 0;
}

void freeze_destroy(struct freeze *f)
{
	if (!f)
		return;
	assert(atomic_load(&f->inside) == 0);
	mutex_finish(&f->lock);
	cond_finish(&f->changed);
	mem_free(f);
}

static void leave(struct freeze *f)
{
	if (atomic_fetch_sub(&f->inside, 1) != 1 || !atomic_load(&f->frozen))
		return;
	mutex_lock(&f->lock);
	cond_broadcast(&f->changed);
	mutex_unlock(&f->lock);
}

static void wait_thawed(struct freeze *f)
{
	mutex_lock(&f->lock);
	while (atomic_load(&f->frozen))
		cond_wait(&f->changed, &f->lock);
	mutex_unlock(&f->lock);
}

/* False: it is frozen. */
static bool enter(struct freeze *f)
{
	atomic_fetch_add(&f->inside, 1);
	if (likely(!atomic_load(&f->frozen)))
		return true;
	leave(f);
	return false;
}

int fs_write_begin(struct uext4_fs *fs)
{
	struct freeze *f = fs->freeze;
	int err;

	err = fs_check_writable(fs);
	if (err < 0)
		return err;
	lockrank_may_acquire(RANK_freeze_write);
	while (!enter(f))
		wait_thawed(f);
	lockrank_acquire(RANK_freeze_write, 0, fs);
	return 0;
}

void fs_write_end(struct uext4_fs *fs)
{
	lockrank_release(RANK_freeze_write, fs);
	leave(fs->freeze);
}

int fs_fault_begin(struct uext4_fs *fs)
{
	int err;

	err = fs_check_writable(fs);
	if (err < 0)
		return err;
	if (!enter(fs->freeze))
		return -EAGAIN;
	lockrank_acquire(RANK_freeze_fault, 0, fs);
	return 0;
}

void fs_fault_end(struct uext4_fs *fs)
{
	lockrank_release(RANK_freeze_fault, fs);
	leave(fs->freeze);
}

void fs_wait_thawed(struct uext4_fs *fs)
{
	lockrank_assert_none();
	wait_thawed(fs->freeze);
}

int fs_reap(struct uext4_fs *fs)
{
	int err;

	lockrank_assert_none();
	if (!fs->log || !icache_has_todo(fs->icache) || !enter(fs->freeze))
		return 0;
	lockrank_acquire(RANK_freeze_write, 0, fs);
	err = inode_reap(fs);
	fs_write_end(fs);
	return err;
}

bool fs_is_frozen(const struct uext4_fs *fs)
{
	return atomic_load(&fs->freeze->frozen);
}

/* Nobody is inside when it returns; false: somebody else has frozen it. */
static bool keep_out(struct freeze *f)
{
	bool ours;

	mutex_lock(&f->lock);
	ours = !f->taken;
	if (ours) {
		f->taken = true;
		atomic_store(&f->frozen, true);
		while (atomic_load(&f->inside) != 0)
			cond_wait(&f->changed, &f->lock);
	}
	mutex_unlock(&f->lock);
	return ours;
}

static bool let_in(struct freeze *f)
{
	bool was;

	mutex_lock(&f->lock);
	was = f->taken;
	f->taken = false;
	atomic_store(&f->frozen, false);
	cond_broadcast(&f->changed);
	mutex_unlock(&f->lock);
	return was;
}

int fs_freeze(struct uext4_fs *fs)
{
	int err;

	err = fs_check_writable(fs);
	if (err < 0)
		return err;
	if (!keep_out(fs->freeze))
		return fail(-EBUSY, "it is frozen already");
	if (atomic_load(&fs->store_pins) != 0) /* Z2: who begins one now finds it frozen */
		err = fail(-EBUSY, "pages are pinned for stores");
	if (err == 0)
		err = fs_sync(fs);
	if (err == 0)
		err = inode_reap(fs); /* nobody else does it now */
	if (err == 0)
		err = txn_log_flush(fs->log);
	if (err == 0)
		err = super_write_clean(fs);
	if (err < 0)
		(void)let_in(fs->freeze);
	return err;
}

int fs_thaw(struct uext4_fs *fs)
{
	int err;

	if (!fs->writable)
		return fail(-EROFS, "the image is open for reading");
	err = super_write_in_use(fs);
	if (!let_in(fs->freeze))
		return fail(-EINVAL, "it is not frozen");
	return err;
}
