/* SPDX-License-Identifier: MIT */
/*
 * Copy on write in memory: written blocks live here, redirected ones elsewhere below, all others
 * at their own place below.
 *
 * The copies in a journal stay where they are as long as the device is open, so a replayed block
 * need not be kept: it is enough to know where its copy lies.
 *
 *  O1  The device below is never written.
 *  O2  The place below of a byte that was written or redirected is never read, not even to be
 *      thrown away: a journal may hold the only good copy of a block whose place on the device
 *      cannot be read any more.
 *  O3  No lock is held while the device below is waited for.
 *  O4  What a redirected block holds is decided when it is redirected: nothing that is written to
 *      its source later, through the overlay, changes it.
 *  O5  Memory is bounded (MEMORY_MAX), whatever a hostile journal says.
 *
 * A block never leaves the overlay, so a run of blocks found missing can at worst be written while
 * it is being read from below: two requests at once on the same bytes, whose order nobody promised.
 */
#include "dev/dev.h"

#include "base/diag.h"
#include "base/mem.h"
#include "base/xarray.h"
#include "sync/sync.h"

#define MEMORY_MAX (UINT64_C(256) << 20)

/*
 * What an entry takes, about: itself, and the part of the index that is there for it and up to 63
 * neighbours.
 */
#define ENTRY_BYTES 48u
#define INDEX_RUN 64u
#define INDEX_RUN_BYTES 640u

/* A block that is not what lies at its place below. */
struct block {
	uint8_t *data;	 /* or NULL: it is redirected */
	uint64_t source; /* where it lies below */
};

/* shared */
struct overlay_dev {
	struct dev dev;
	uint32_t block_size;		     /* c */
	struct rwlock lock;		     /* RANK_overlay */
	struct xarray blocks GUARDED(&lock); /* block number -> struct block */
	uint64_t memory GUARDED(&lock);	     /* taken, about */
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

/* Bytes [at, end) of the overlay that lie in one piece below, at source. */
struct run {
	uint64_t end;
	uint64_t source;
};

/* The run that begins at @at, which is not in memory. */
static struct run run_at(struct overlay_dev *o, uint64_t at, uint64_t end) REQUIRES_SHARED(&o->lock)
{
	uint32_t bs = o->block_size;
	uint64_t index = at / bs;
	const struct block *b = xarray_find(&o->blocks, index);
	struct run run = { .end = end, .source = at };

	if (b == NULL) {
		if (xarray_next(&o->blocks, &index) != NULL && index <= (end - 1) / bs)
			run.end = index * bs;
		return run;
	}
	run.source = b->source + at % bs;
	for (uint64_t next = b->source; index * bs < end; index++, next += bs) {
		b = xarray_find(&o->blocks, index);
		if (b == NULL || b->data != NULL || b->source != next)
			break;
	}
	run.end = min_u64(end, index * bs);
	return run;
}

/*
 * Copies what is in memory of [@offset, @end), up to the first block that is not.  Returns where
 * that is, and in *ret_run what to read below from there on.
 */
static uint64_t copy_present(struct overlay_dev *o, uint64_t offset, uint64_t end,
			     struct iov_pos *pos, struct run *ret_run)
{
	uint32_t bs = o->block_size;

	rwlock_read(&o->lock);
	while (offset < end) {
		const struct block *b = xarray_find(&o->blocks, offset / bs);
		uint64_t in_block = offset % bs;
		uint64_t bytes = min_u64(bs - in_block, end - offset);

		if (b == NULL || b->data == NULL)
			break;
		iov_fill(pos, b->data + in_block, (size_t)bytes);
		offset += bytes;
	}
	if (offset < end)
		*ret_run = run_at(o, offset, end);
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
		struct run run = { 0 };
		int err;

		at = copy_present(o, at, end, &pos, &run);
		if (at == end)
			break;
		if (at == offset && run.end == end) /* all in one piece: as it came */
			return dev_readv(d->below, run.source, iov, iov_count);
		err = dev_readv(d->below, run.source, parts, iov_take(&pos, run.end - at, parts));
		if (err < 0)
			return err;
		at = run.end;
	}
	return 0;
}

/* ---- changing -------------------------------------------------------------------------------- */

static int memory_take(struct overlay_dev *o, uint64_t bytes) REQUIRES(&o->lock)
{
	if (bytes > MEMORY_MAX - o->memory)
		return fail(-ENOMEM, "replaying the journal needs more than %u MiB of memory",
			    (unsigned)(MEMORY_MAX >> 20));
	o->memory += bytes;
	return 0;
}

static void block_free(struct block *b)
{
	if (b != NULL)
		mem_free(b->data);
	mem_free(b);
}

/* Puts @b, which becomes the overlay's, in at @index, where nothing is. */
static int block_insert(struct overlay_dev *o, uint64_t index, struct block *b) REQUIRES(&o->lock)
{
	uint64_t first = index - index % INDEX_RUN, bytes = ENTRY_BYTES;
	int err;

	if (xarray_next(&o->blocks, &first) == NULL || first / INDEX_RUN != index / INDEX_RUN)
		bytes += INDEX_RUN_BYTES;
	err = memory_take(o, bytes);
	if (err < 0)
		return err;
	err = xarray_insert(&o->blocks, index, b);
	if (err < 0)
		o->memory -= bytes;
	return err;
}

/* Gives @b, in the index or not yet, memory of its own. */
static int block_take_data(struct overlay_dev *o, struct block *b) REQUIRES(&o->lock)
{
	int err;

	if (b->data != NULL)
		return 0;
	err = memory_take(o, o->block_size);
	if (err < 0)
		return err;
	b->data = mem_alloc(o->block_size);
	if (b->data != NULL)
		return 0;
	o->memory -= o->block_size;
	return -ENOMEM;
}

static void block_drop_data(struct overlay_dev *o, struct block *b) REQUIRES(&o->lock)
{
	if (b->data == NULL)
		return;
	mem_free(b->data);
	b->data = NULL;
	o->memory -= o->block_size;
}

static int write_locked(struct overlay_dev *o, uint64_t index, const uint8_t *data)
	REQUIRES(&o->lock)
{
	struct block *b = xarray_find(&o->blocks, index), *new = NULL;
	int err;

	if (b == NULL) {
		b = new = mem_zalloc(sizeof(*new));
		if (new == NULL)
			return -ENOMEM;
	}
	err = block_take_data(o, b);
	if (err == 0 && new != NULL)
		err = block_insert(o, index, new);
	if (err == 0) {
		memcpy(b->data, data, o->block_size);
	} else if (new != NULL) {
		block_drop_data(o, new);
		block_free(new);
	}
	return err;
}

/* After -ENOMEM the first blocks may be the new ones: as when a disk fails in the middle. */
static int write_piece(struct overlay_dev *o, uint64_t index, const struct iovec *piece)
{
	assert(piece->iov_len % o->block_size == 0);
	for (size_t at = 0; at < piece->iov_len; at += o->block_size, index++) {
		int err;

		rwlock_write(&o->lock);
		err = write_locked(o, index, (const uint8_t *)piece->iov_base + at);
		rwlock_write_unlock(&o->lock);
		if (err < 0)
			return err;
	}
	return 0;
}

static int overlay_write(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
			 uint64_t bytes UNUSED)
{
	struct overlay_dev *o = overlay_of(d);
	uint64_t index = offset / o->block_size;

	assert(offset % o->block_size == 0);
	for (int i = 0; i < iov_count; i++) {
		int err = write_piece(o, index, &iov[i]);

		if (err < 0)
			return err;
		index += iov[i].iov_len / o->block_size;
	}
	return 0;
}

static int redirect_locked(struct overlay_dev *o, uint64_t index, uint64_t source)
	REQUIRES(&o->lock)
{
	struct block *b = xarray_find(&o->blocks, index);
	int err;

	if (b == NULL) {
		b = mem_zalloc(sizeof(*b));
		if (b == NULL)
			return -ENOMEM;
		err = block_insert(o, index, b);
		if (err < 0) {
			block_free(b);
			return err;
		}
	}
	block_drop_data(o, b);
	b->source = source;
	return 0;
}

/*
 * The source is the device below, or the overlay where it is still the same.  Where it is not,
 * whoever asks may have read the source before it changed: he must write what he means.
 */
static int overlay_redirect(struct dev *d, uint64_t offset, struct dev *source,
			    uint64_t source_offset)
{
	struct overlay_dev *o = overlay_of(d);
	uint32_t bs = o->block_size;
	int err = -EOPNOTSUPP;

	assert(offset % bs == 0);
	if ((source != d && source != d->below) || source_offset % bs != 0)
		return -EOPNOTSUPP;
	rwlock_write(&o->lock);
	if (source == d->below || xarray_find(&o->blocks, source_offset / bs) == NULL)
		err = redirect_locked(o, offset / bs, source_offset);
	rwlock_write_unlock(&o->lock);
	return err;
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
	struct block *b;

	while ((b = xarray_next(&o->blocks, &index)) != NULL) {
		(void)xarray_remove(&o->blocks, index);
		block_free(b);
	}
	xarray_finish(&o->blocks);
	rwlock_finish(&o->lock);
	mem_free(o);
}

static const struct dev_ops overlay_ops = {
	.name = "overlay",
	.read = overlay_read,
	.write = overlay_write,
	.redirect = overlay_redirect,
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
