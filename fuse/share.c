/* SPDX-License-Identifier: MIT */
/*
 * An image that the program which serves it also uses itself: the kernel's cache of a file against
 * mappings of the library's (uext4_set_map_hook()).
 *
 * Here the kernel says what it opens and closes.  A handle is cached (pages of the file are kept in
 * the kernel) or direct (each read and write comes to the server).
 *
 *  C1  Of an inode there are never both kinds: what is opened is direct while the inode is mapped,
 *      and from then on as long as a direct handle is left.
 *  C2  An inode becomes mapped in this order: no cached handle is open; from now on what is opened
 *      is direct; the kernel writes back and drops the pages that are left from before; the mapping
 *      is made.  So there is no moment at which a page could be kept.
 *  C3  A handle is counted before the kernel hears of it, and uncounted if it did not.
 *
 * A cached handle cannot be made direct, and pages come back with its next read; so who maps gets
 * -EBUSY as long as there is one.  A kernel's mapping of the file is such a handle too.  The kernel
 * tells of the end of a handle after close(2) has returned: that is waited for, for a while.
 *
 * The kernel is told to drop pages with no lock held, by the thread that maps: it waits for pages
 * that are being read or written, which the threads of the server answer.
 */
#include "mount_priv.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { BUCKETS = 256, CLOSING_WAIT_S = 1 };

/* An inode that is open or mapped. */
struct shared {
	struct shared *next;
	uint32_t ino;
	bool is_mapped;
	uint64_t handles[2]; /* cached, direct */
};

struct share {
	struct uext4_fs *fs;
	struct fuse_session *session;
	pthread_mutex_t lock;
	pthread_cond_t closed; /* the last handle of its kind */
	struct shared *buckets[BUCKETS];
};

/* Where @ino is linked in, or would be. */
static struct shared **place_of(struct share *share, uint32_t ino)
{
	struct shared **place = &share->buckets[ino % BUCKETS];

	while (*place && (*place)->ino != ino)
		place = &(*place)->next;
	return place;
}

static struct shared *find_or_add(struct share *share, uint32_t ino)
{
	struct shared **place = place_of(share, ino);

	if (!*place) {
		*place = calloc(1, sizeof(**place));
		if (*place)
			(*place)->ino = ino;
	}
	return *place;
}

static void drop_if_idle(struct share *share, uint32_t ino)
{
	struct shared **place = place_of(share, ino), *shared = *place;

	if (!shared || shared->is_mapped || shared->handles[false] || shared->handles[true])
		return;
	*place = shared->next;
	free(shared);
}

int share_open(struct share *share, uint32_t ino, bool *ret_direct)
{
	struct shared *shared;
	int err;

	/* A name that goes by the library's calls does not take the file from who has it open. */
	err = uext4_hold(share->fs, ino);
	if (err < 0)
		return err;
	pthread_mutex_lock(&share->lock);
	shared = find_or_add(share, ino);
	if (shared) {
		*ret_direct = shared->is_mapped || shared->handles[true];
		shared->handles[*ret_direct]++;
	}
	pthread_mutex_unlock(&share->lock);
	if (shared)
		return 0;
	uext4_release(share->fs, ino);
	return -ENOMEM;
}

void share_release(struct share *share, uint32_t ino, bool direct)
{
	struct shared *shared;

	pthread_mutex_lock(&share->lock);
	shared = *place_of(share, ino);
	if (--shared->handles[direct] == 0)
		pthread_cond_broadcast(&share->closed);
	drop_if_idle(share, ino);
	pthread_mutex_unlock(&share->lock);
	uext4_release(share->fs, ino);
}

/* False: after a while there still is a cached handle. */
static bool wait_closed(struct share *share, uint32_t ino)
{
	struct timespec deadline;
	struct shared *shared;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += CLOSING_WAIT_S;
	for (;;) {
		shared = *place_of(share, ino);
		if (!shared || !shared->handles[false])
			return true;
		if (err)
			return false;
		err = pthread_cond_timedwait(&share->closed, &share->lock, &deadline);
	}
}

/* C2. */
static int begin_mapped(struct share *share, uint32_t ino)
{
	struct shared *shared;
	int err = -EBUSY;

	pthread_mutex_lock(&share->lock);
	if (wait_closed(share, ino)) {
		shared = find_or_add(share, ino);
		if (shared)
			shared->is_mapped = true;
		err = shared ? 0 : -ENOMEM;
	}
	pthread_mutex_unlock(&share->lock);
	if (err < 0)
		return err;
	err = fuse_lowlevel_notify_inval_inode(share->session, node_of(ino), 0, 0);
	/* It does not know the inode, or nothing at all: not yet, or not any more. */
	return err == -ENOENT || err == -ENOTCONN || err == -ENODEV ? 0 : err;
}

static void end_mapped(struct share *share, uint32_t ino)
{
	pthread_mutex_lock(&share->lock);
	if (*place_of(share, ino))
		(*place_of(share, ino))->is_mapped = false;
	drop_if_idle(share, ino);
	pthread_mutex_unlock(&share->lock);
}

static int on_map(void *arg, uint32_t ino, bool mapped)
{
	int err = mapped ? begin_mapped(arg, ino) : 0;

	if (!mapped || err < 0)
		end_mapped(arg, ino);
	return err;
}

int share_create(struct uext4_fs *fs, struct share **ret_share)
{
	struct share *share = calloc(1, sizeof(*share));
	pthread_condattr_t attr;

	if (!share)
		return -ENOMEM;
	share->fs = fs;
	pthread_mutex_init(&share->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&share->closed, &attr);
	pthread_condattr_destroy(&attr);
	*ret_share = share;
	return 0;
}

int share_begin(struct share *share, struct fuse_session *session)
{
	share->session = session;
	return uext4_set_map_hook(share->fs, on_map, share);
}

void share_end(struct share *share)
{
	(void)uext4_set_map_hook(share->fs, NULL, NULL);
}

/* Of a mount that was torn down handles may be left. */
void share_destroy(struct share *share)
{
	if (!share)
		return;
	for (size_t i = 0; i < BUCKETS; i++) {
		while (share->buckets[i]) {
			struct shared *shared = share->buckets[i];

			for (uint64_t n = shared->handles[false] + shared->handles[true]; n; n--)
				uext4_release(share->fs, shared->ino);
			share->buckets[i] = shared->next;
			free(shared);
		}
	}
	pthread_cond_destroy(&share->closed);
	pthread_mutex_destroy(&share->lock);
	free(share);
}
