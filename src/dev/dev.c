/* SPDX-License-Identifier: MIT */
/*
 * The contract of block devices, checked in one place.
 *
 * What reaches a slot lies inside the device and is not empty.  A range behind the end is -EIO and
 * no assertion: the numbers come from disk.
 */
#include "dev/dev.h"

#include "base/diag.h"
#include "sync/sync.h"

void dev_init(struct dev *d, const struct dev_ops *ops, uint64_t size, struct dev *below)
{
	d->ops = ops;
	d->size = size;
	d->below = below;
	atomic_init(&d->stats.reads, 0);
	atomic_init(&d->stats.bytes_read, 0);
	atomic_init(&d->stats.writes, 0);
	atomic_init(&d->stats.bytes_written, 0);
	atomic_init(&d->stats.flushes, 0);
}

static int check_range(const struct dev *d, uint64_t offset, uint64_t bytes)
{
	uint64_t end;

	if (add_ok(offset, bytes, &end) && end <= d->size)
		return 0;
	return fail(-EIO,
		    "%llu bytes at offset %llu reach behind the end of the image (%llu bytes)",
		    (unsigned long long)bytes, (unsigned long long)offset,
		    (unsigned long long)d->size);
}

int dev_read(struct dev *d, uint64_t offset, void *buf, size_t bytes)
{
	struct iovec iov = { .iov_base = buf, .iov_len = bytes };

	return dev_readv(d, offset, &iov, 1);
}

int dev_readv(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count)
{
	uint64_t bytes = 0;
	int err;

	assert(iov_count >= 0 && iov_count <= DEV_IOV_MAX);
	lockrank_may_acquire(RANK_io); /* waits for I/O: nothing behind `buf` may be held */
	for (int i = 0; i < iov_count; i++)
		bytes += iov[i].iov_len;
	err = check_range(d, offset, bytes);
	if (err < 0 || bytes == 0)
		return err;

	atomic_fetch_add_explicit(&d->stats.reads, 1, memory_order_relaxed);
	err = d->ops->read(d, offset, iov, iov_count, bytes);
	assert(err <= 0);
	if (err == 0)
		atomic_fetch_add_explicit(&d->stats.bytes_read, bytes, memory_order_relaxed);
	return err;
}

int dev_write(struct dev *d, uint64_t offset, const void *data, size_t bytes)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = bytes };

	return dev_writev(d, offset, &iov, 1);
}

int dev_writev(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count)
{
	uint64_t bytes = 0;
	int err;

	assert(iov_count >= 0 && iov_count <= DEV_IOV_MAX);
	lockrank_may_acquire(RANK_io);
	if (d->ops->write == NULL)
		return fail(-EROFS, "the image is open read-only");
	for (int i = 0; i < iov_count; i++)
		bytes += iov[i].iov_len;
	err = check_range(d, offset, bytes);
	if (err < 0 || bytes == 0)
		return err;
	atomic_fetch_add_explicit(&d->stats.writes, 1, memory_order_relaxed);
	err = d->ops->write(d, offset, iov, iov_count, bytes);
	assert(err <= 0);
	if (err == 0)
		atomic_fetch_add_explicit(&d->stats.bytes_written, bytes, memory_order_relaxed);
	return err;
}

int dev_flush(struct dev *d)
{
	int err = 0;

	lockrank_may_acquire(RANK_io);
	if (d->ops->flush != NULL) {
		atomic_fetch_add_explicit(&d->stats.flushes, 1, memory_order_relaxed);
		err = d->ops->flush(d);
		assert(err <= 0);
	}
	return err;
}

/* A hint may be wrong: what lies behind the end is cut off. */
static bool cut_hint(const struct dev *d, uint64_t offset, uint64_t *bytes)
{
	if (offset >= d->size)
		return false;
	*bytes = min_u64(*bytes, d->size - offset);
	return *bytes != 0;
}

void dev_discard(struct dev *d, uint64_t offset, uint64_t bytes)
{
	if (d->ops->discard != NULL && cut_hint(d, offset, &bytes))
		d->ops->discard(d, offset, bytes);
}

bool dev_is_writable(const struct dev *d)
{
	return d->ops->write != NULL;
}

int dev_redirect(struct dev *d, uint64_t offset, struct dev *source, uint64_t source_offset,
		 size_t bytes)
{
	int err;

	if (d->ops->redirect == NULL)
		return -EOPNOTSUPP;
	err = check_range(d, offset, bytes);
	if (err == 0)
		err = check_range(source, source_offset, bytes);
	if (err < 0)
		return err;
	return d->ops->redirect(d, offset, source, source_offset);
}

void dev_prefetch(struct dev *d, uint64_t offset, uint64_t bytes)
{
	if (d->ops->prefetch != NULL && cut_hint(d, offset, &bytes))
		d->ops->prefetch(d, offset, bytes);
}

const struct dev_stats *dev_bottom_stats(const struct dev *d)
{
	while (d->below != NULL)
		d = d->below;
	return &d->stats;
}

void dev_close(struct dev *d)
{
	while (d != NULL) {
		struct dev *below = d->below;

		d->ops->close(d);
		d = below;
	}
}
