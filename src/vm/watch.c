/* SPDX-License-Identifier: MIT */
/*
 * Somebody outside hears of the first and the last mapping of an inode: who keeps copies of its
 * bytes (fuse/) gives them up before there are loads and stores.
 *
 * Calls to him are made in turns, one at a time, with nothing held.
 *
 *  V9  An inode has mappings only after he agreed, and he is told of the end of all for which he
 *      did, before he is asked again.  The count rises from 0 within a turn only.
 */
#include "vm/vm_priv.h"

#include "base/diag.h"

static void turn_begin(struct map_watch *w)
{
	lockrank_assert_none();
	mutex_lock(&w->lock);
	while (w->calling)
		cond_wait(&w->done, &w->lock);
	w->calling = true;
	mutex_unlock(&w->lock);
}

static void turn_end(struct map_watch *w)
{
	mutex_lock(&w->lock);
	w->calling = false;
	cond_broadcast(&w->done);
	mutex_unlock(&w->lock);
}

int vm_watch(struct uext4_fs *fs, uext4_map_hook hook, void *arg)
{
	struct map_watch *w = &fs->map_watch;
	int err = 0;

	turn_begin(w);
	/* A mapping counts before it takes its turn: it is seen here, or sees the hook. */
	if (hook && atomic_load(&fs->mapped) != 0) {
		err = fail(-EBUSY, "files of the image are mapped");
	} else {
		w->hook = hook;
		w->arg = arg;
	}
	turn_end(w);
	return err;
}

static bool is_mapped_more(struct inode *ip)
{
	uint32_t count = atomic_load(&ip->mappings);

	while (count > 0) {
		if (atomic_compare_exchange_weak(&ip->mappings, &count, count + 1))
			return true;
	}
	return false;
}

int vm_watch_begin(struct inode *ip)
{
	struct map_watch *w = &ip->fs->map_watch;
	int err = 0;

	if (is_mapped_more(ip))
		return 0;
	turn_begin(w);
	if (w->hook && !ip->watched)
		err = w->hook(w->arg, ip->ino, true);
	if (err == 0) {
		ip->watched = true;
		atomic_fetch_add(&ip->mappings, 1);
	}
	turn_end(w);
	return err == 0 ? 0 : fail(err, "inode %u is in use by who keeps copies of it", ip->ino);
}

void vm_watch_end(struct inode *ip)
{
	struct map_watch *w = &ip->fs->map_watch;

	if (atomic_fetch_sub(&ip->mappings, 1) != 1)
		return;
	turn_begin(w);
	/* Else it was mapped again meanwhile, and whose mapping that is tells of the end. */
	if (ip->watched && atomic_load(&ip->mappings) == 0) {
		if (w->hook)
			(void)w->hook(w->arg, ip->ino, false);
		ip->watched = false;
	}
	turn_end(w);
}
