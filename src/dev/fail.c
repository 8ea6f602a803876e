/* SPDX-License-Identifier: MIT */
/*
 * A filter that fails the read the test has chosen, once; everything else passes.
 *
 * Fails before the device below is asked, so a failed read leaves the caller's memory untouched.
 */
#include "dev/dev.h"

#include "base/diag.h"
#include "base/mem.h"
#include "sync/sync.h"

/* shared */
struct fail_dev {
	struct dev dev;
	struct mutex lock;		    /* RANK_fail */
	uint64_t reads_left GUARDED(&lock); /* up to the one that fails, with it; 0: none fails */
};

static const struct dev_ops fail_ops;

static struct fail_dev *fail_of(struct dev *d)
{
	assert(d->ops == &fail_ops);
	return container_of(d, struct fail_dev, dev);
}

static bool is_the_one(struct fail_dev *f)
{
	bool hit;

	mutex_lock(&f->lock);
	hit = f->reads_left == 1;
	if (f->reads_left > 0)
		f->reads_left--;
	mutex_unlock(&f->lock);
	return hit;
}

static int fail_read(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		     uint64_t bytes)
{
	if (is_the_one(fail_of(d)))
		return fail(-EIO, "injected error reading %llu bytes at offset %llu",
			    (unsigned long long)bytes, (unsigned long long)offset);
	return dev_readv(d->below, offset, iov, iov_count);
}

static int fail_write(struct dev *d, uint64_t offset, const void *data, size_t bytes)
{
	return dev_write(d->below, offset, data, bytes);
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

void dev_fail_nth_read(struct dev *d, uint64_t nth)
{
	struct fail_dev *f = fail_of(d);

	mutex_lock(&f->lock);
	f->reads_left = nth;
	mutex_unlock(&f->lock);
}
