/* SPDX-License-Identifier: MIT */
/*
 * Copy on write in memory: written blocks live here, all others below.
 *
 *  O1  The device below is never written.
 *  O2  A byte that was written is never read from below, not even to be thrown away: a journal may
 *      hold the only good copy of a block whose place on the device cannot be read any more.
 *  O3  No lock is held while the device below is waited for.
 *
 * A block never leaves the overlay, so a run of blocks found missing can at worst be written while
 * it is being read from below: two requests at once on the same bytes, whose order nobody promised.
 */
#include "dev/dev.h"

#include "base/mem.h"
#include "base/xarray.h"
#include "sync/sync.h"

/* shared */
struct overlay_dev {
	struct dev dev;
	uint32_t block_size;		     /* c */
	struct rwlock lock;		     /* RANK_overlay */
	struct xarray blocks GUARDED(&lock); /* block number -> uint8_t[block_size] */
};

/* A place in a row of iovecs. */
struct iov_pos {
	const struct iovec *iov;
	size_t used; /* bytes of *iov that are done */
};

static struct overlay_dev *overlay_of(struct dev *d)
{
	return container_of(d, struct overlay_dev, dev);
}

/* Describes the next @bytes from @pos in @ret_iov (DEV_IOV_MAX) and moves @pos behind them. */
static int iov_take(struct iov_pos *pos, uint64_t bytes, struct iovec *ret_iov)
{
	int count = 0;

	while (bytes > 0) {
		size_t left = pos->iov->iov_len - pos->used;
		size_t n = (size_t)min_u64(left, bytes);

		if (n > 0) {
			ret_iov[count].iov_base = (uint8_t *)pos->iov->iov_base + pos->used;
			ret_iov[count].iov_len = n;
			count++;
		}
		pos->used += n;
		bytes -= n;
		if (n == left) {
			pos->iov++;
			pos->used = 0;
		}
	}
	return count;
}

static void iov_fill(struct iov_pos *pos, const uint8_t *from, size_t bytes)
{
	struct iovec parts[DEV_IOV_MAX];
	int count = iov_take(pos, bytes, parts);

	for (int i = 0; i < count; from += parts[i].iov_len, i++)
		memcpy(parts[i].iov_base, from, parts[i].iov_len);
}

/*
 * Copies what is here of [@offset, @end), up to the first block that is not.  Returns where that
 * is, and in *@ret_missing_end where the missing run ends.
 */
static uint64_t copy_present(struct overlay_dev *o, uint64_t offset, uint64_t end,
			     struct iov_pos *pos, uint64_t *ret_missing_end)
{
	uint32_t bs = o->block_size;
	uint64_t next;

	*ret_missing_end = end;
	rwlock_read(&o->lock);
	while (offset < end) {
		const uint8_t *block = xarray_find(&o->blocks, offset / bs);
		uint64_t in_block = offset % bs;
		uint64_t bytes = min_u64(bs - in_block, end - offset);

		if (block == NULL)
			break;
		iov_fill(pos, block + in_block, (size_t)bytes);
		offset += bytes;
	}
	next = offset / bs;
	if (offset < end && xarray_next(&o->blocks, &next) != NULL && next <= (end - 1) / bs)
		*ret_missing_end = next * bs;
	rwlock_read_unlock(&o->lock);
	return offset;
}

static int overlay_read(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
			uint64_t bytes)
{
	struct overlay_dev *o = overlay_of(d);
	struct iov_pos pos = { .iov = iov };
	uint64_t at = offset, end = offset + bytes;

	while (at < end) {
		struct iovec parts[DEV_IOV_MAX];
		uint64_t missing_end;
		int err;

		at = copy_present(o, at, end, &pos, &missing_end);
		if (at == end)
			break;
		if (at == offset && missing_end == end) /* nothing is here: as it came */
			return dev_readv(d->below, offset, iov, iov_count);
		err = dev_readv(d->below, at, parts, iov_take(&pos, missing_end - at, parts));
		if (err < 0)
			return err;
		at = missing_end;
	}
	return 0;
}

static int write_block(struct overlay_dev *o, uint64_t index, const uint8_t *data)
{
	uint8_t *block;
	int err = 0;

	rwlock_write(&o->lock);
	block = xarray_find(&o->blocks, index);
	if (block == NULL) {
		block = mem_alloc(o->block_size);
		err = block != NULL ? xarray_insert(&o->blocks, index, block) : -ENOMEM;
	}
	if (err == 0)
		memcpy(block, data, o->block_size);
	else
		mem_free(block);
	rwlock_write_unlock(&o->lock);
	return err;
}

/* After -ENOMEM the first blocks may be the new ones: as when a disk fails in the middle. */
static int overlay_write(struct dev *d, uint64_t offset, const void *data, size_t bytes)
{
	struct overlay_dev *o = overlay_of(d);
	const uint8_t *from = data;
	uint64_t index = offset / o->block_size;

	assert(offset % o->block_size == 0);
	assert(bytes % o->block_size == 0);
	for (; bytes > 0; bytes -= o->block_size, from += o->block_size, index++) {
		int err = write_block(o, index, from);

		if (err < 0)
			return err;
	}
	return 0;
}

static void overlay_prefetch(struct dev *d, uint64_t offset, uint64_t bytes)
{
	dev_prefetch(d->below, offset, bytes);
}

/* Nobody else uses the device any more, so no lock is needed. */
static NO_TSA void overlay_close(struct dev *d)
{
	struct overlay_dev *o = overlay_of(d);
	uint64_t index = 0;
	void *block;

	while ((block = xarray_next(&o->blocks, &index)) != NULL) {
		(void)xarray_remove(&o->blocks, index);
		mem_free(block);
	}
	xarray_finish(&o->blocks);
	rwlock_finish(&o->lock);
	mem_free(o);
}

static const struct dev_ops overlay_ops = {
	.name = "overlay",
	.read = overlay_read,
	.write = overlay_write,
	.prefetch = overlay_prefetch,
	.close = overlay_close,
};

int dev_overlay_create(struct dev *below, uint32_t block_size, struct dev **ret_dev)
{
	struct overlay_dev *o = mem_zalloc(sizeof(*o));

	assert(is_pow2(block_size));
	if (o == NULL)
		return -ENOMEM;
	dev_init(&o->dev, &overlay_ops, below->size, below);
	o->block_size = block_size;
	rwlock_init(&o->lock, RANK_overlay, 0);
	xarray_init(&o->blocks);
	*ret_dev = &o->dev;
	return 0;
}
