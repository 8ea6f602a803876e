/* SPDX-License-Identifier: MIT */
/*
 * A filter that fails the read, write or flush the test has chosen, once or from then on;
 * everything else passes.
 *
 * Fails before the device below is asked: a failed read leaves the caller's memory untouched, a
 * failed write the device.
 */
#include "dev/dev.h"

#include "base/diag.h"
#include "base/mem.h"
#include "sync/sync.h"

/* shared */
struct fail_dev {
	struct dev dev;
	struct mutex lock; /* RANK_fail */
	/* Up to the one that fails, with it; 0: none fails. */
	uint64_t reads_left GUARDED(&lock);
	uint64_t writes_left GUARDED(&lock);
	uint64_t flushes_left GUARDED(&lock);
	bool for_good GUARDED(&lock);
	_Atomic uint64_t *count GUARDED(&lock); /* or NULL */
};

static const struct dev_ops fail_ops;

static struct fail_dev *fail_of(struct dev *d)
{
	assert(d->ops == &fail_ops);
	return container_of(d, struct fail_dev, dev);
}

static bool is_the_one(struct fail_dev *f, uint64_t *left)
{
	bool hit;

	mutex_lock(&f->lock);
	hit = *left == 1;
	if (*left > 1 || (hit && !f->for_good))
		(*left)--;
	if (hit && f->count != NULL)
		atomic_fetch_add(f->count, 1);
	mutex_unlock(&f->lock);
	return hit;
}

static int fail_read(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		     uint64_t bytes)
{
	struct fail_dev *f = fail_of(d);

	if (is_the_one(f, &f->reads_left))
		return fail(-EIO, "injected error reading %llu bytes at offset %llu",
			    (unsigned long long)bytes, (unsigned long long)offset);
	return dev_readv(d->below, offset, iov, iov_count);
}

static int fail_write(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		      uint64_t bytes)
{
	struct fail_dev *f = fail_of(d);

	if (is_the_one(f, &f->writes_left))
		return fail(-EIO, "injected error writing %llu bytes at offset %llu",
			    (unsigned long long)bytes, (unsigned long long)offset);
	return dev_writev(d->below, offset, iov, iov_count);
}

static int fail_flush(struct dev *d)
{
	struct fail_dev *f = fail_of(d);

	if (is_the_one(f, &f->flushes_left))
		return fail(-EIO, "injected error flushing");
	return dev_flush(d->below);
}

static void fail_discard(struct dev *d, uint64_t offset, uint64_t bytes)
{
	dev_discard(d->below, offset, bytes);
}

static void fail_prefetch(struct dev *d, uint64_t offset, uint64_t bytes)
{
	dev_prefetch(d->below, offset, bytes);
}

static void fail_close(struct dev *d)
{
	struct fail_dev *f = fail_of(d);

	mutex_finish(&f->lock);
	mem_free(f);
}

static const struct dev_ops fail_ops = {
	.name = "fail",
	.read = fail_read,
	.write = fail_write,
	.flush = fail_flush,
	.discard = fail_discard,
	.prefetch = fail_prefetch,
	.close = fail_close,
};

int dev_fail_create(struct dev *below, struct dev **ret_dev)
{
	struct fail_dev *f = mem_zalloc(sizeof(*f));

	if (f == NULL)
		return -ENOMEM;
	dev_init(&f->dev, &fail_ops, below->size, below);
	mutex_init(&f->lock, RANK_fail);
	*ret_dev = &f->dev;
	return 0;
}

static void plan(struct fail_dev *f, uint64_t *left, uint64_t nth)
{
	mutex_lock(&f->lock);
	*left = nth;
	mutex_unlock(&f->lock);
}

void dev_fail_nth_read(struct dev *d, uint64_t nth)
{
	plan(fail_of(d), &fail_of(d)->reads_left, nth);
}

void dev_fail_nth_write(struct dev *d, uint64_t nth)
{
	plan(fail_of(d), &fail_of(d)->writes_left, nth);
}

void dev_fail_nth_flush(struct dev *d, uint64_t nth)
{
	plan(fail_of(d), &fail_of(d)->flushes_left, nth);
}

void dev_fail_for_good(struct dev *d, bool for_good)
{
	struct fail_dev *f = fail_of(d);

	mutex_lock(&f->lock);
	f->for_good = for_good;
	mutex_unlock(&f->lock);
}

void dev_fail_count_in(struct dev *d, _Atomic uint64_t *count)
{
	struct fail_dev *f = fail_of(d);

	mutex_lock(&f->lock);
	f->count = count;
	mutex_unlock(&f->lock);
}
