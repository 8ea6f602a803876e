/* SPDX-License-Identifier: MIT */
/* Memory for the copies of blocks that are written, and requests made of them. */
#include "journal/txn_priv.h"

#include "base/mem.h"

#define CHUNK_BYTES (256u * 1024)
#define COPY_ALIGN 4096u
#define KEPT_BYTES (4u * 1024 * 1024)

int copy_pool_init(struct copy_pool *p, uint32_t block_size, size_t slots_max)
{
	*p = (struct copy_pool){ .block_size = block_size };
	p->chunk_slots = CHUNK_BYTES / block_size;
	p->chunk_max = (size_t)div_round_up(slots_max, p->chunk_slots);
	p->chunks = mem_calloc(p->chunk_max, sizeof(*p->chunks));
	return p->chunks == NULL ? -ENOMEM : 0;
}

static void drop_chunks(struct copy_pool *p, size_t kept)
{
	while (p->chunk_count > kept)
		mem_free(p->chunks[--p->chunk_count]);
}

void copy_pool_finish(struct copy_pool *p)
{
	drop_chunks(p, 0);
	mem_free(p->chunks);
	p->chunks = NULL;
}

int copy_pool_reserve(struct copy_pool *p, size_t slots)
{
	while (p->chunk_count * p->chunk_slots < slots) {
		uint8_t *chunk;

		assert(p->chunk_count < p->chunk_max);
		chunk = mem_alloc_aligned(CHUNK_BYTES, COPY_ALIGN);
		if (chunk == NULL)
			return -ENOMEM;
		p->chunks[p->chunk_count++] = chunk;
	}
	return 0;
}

void copy_pool_trim(struct copy_pool *p, size_t slots)
{
	size_t wanted = slots / p->chunk_slots + 1;

	if (p->chunk_count * CHUNK_BYTES > KEPT_BYTES && p->chunk_count > 4 * wanted)
		drop_chunks(p, 2 * wanted);
}

uint8_t *copy_pool_slot(const struct copy_pool *p, size_t slot)
{
	return p->chunks[slot / p->chunk_slots] + slot % p->chunk_slots * p->block_size;
}

/* ---- requests -------------------------------------------------------------------------------- */

void io_run_init(struct io_run *io, struct dev *dev, const _Atomic int *abort)
{
	io->dev = dev;
	io->abort = abort;
	io->offset = 0;
	io->bytes = 0;
	io->pieces = 0;
}

int io_run_write(struct io_run *io)
{
	int err = atomic_load(io->abort);

	if (err == 0 && io->pieces > 0)
		err = dev_writev(io->dev, io->offset, io->iov, io->pieces);
	io->pieces = 0;
	io->bytes = 0;
	return err;
}

int io_run_add(struct io_run *io, uint64_t offset, uint8_t *data, size_t bytes)
{
	struct iovec *last;
	int err;

	if (io->pieces > 0 && io->offset + io->bytes != offset) {
		err = io_run_write(io);
		if (err < 0)
			return err;
	}
	last = io->pieces > 0 ? &io->iov[io->pieces - 1] : NULL;
	if (last != NULL && (uint8_t *)last->iov_base + last->iov_len == data) {
		last->iov_len += bytes;
		io->bytes += bytes;
		return 0;
	}
	if (io->pieces == DEV_IOV_MAX) {
		err = io_run_write(io);
		if (err < 0)
			return err;
	}
	if (io->pieces == 0)
		io->offset = offset;
	io->iov[io->pieces++] = (struct iovec){ data, bytes };
	io->bytes += bytes;
	return 0;
}
