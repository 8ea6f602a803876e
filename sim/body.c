/* SPDX-License-Identifier: MIT */
/*
 * What bodies call: threads, points with names, choices, checks; and a device with points.
 */
#include "sim/sim_priv.h"

#include "base/mem.h"
#include "dev/dev.h"

#include <stdio.h>
#include <stdlib.h>

void sim_threads(const struct sim_body *bodies, size_t count)
{
	struct thread *threads[SIM_THREADS_MAX];

	SIM_ASSERT(count <= SIM_THREADS_MAX);
	for (size_t i = 0; i < count; i++)
		SIM_ASSERT(thread_create(bodies[i].name, bodies[i].fn, bodies[i].arg,
					 &threads[i]) == 0);
	for (size_t i = 0; i < count; i++)
		thread_join(threads[i]);
}

void sim_point(const char *fmt, ...)
{
	va_list args;

	if (!sched_self())
		return;
	va_start(args, fmt);
	sched_text(true, fmt, args);
	va_end(args);
}

void sim_note(const char *fmt, ...)
{
	va_list args;

	if (!sched_self())
		return;
	va_start(args, fmt);
	sched_text(false, fmt, args);
	va_end(args);
}

void sim_calm(bool calm)
{
	sched_calm(calm);
}

uint32_t sim_choose(uint32_t count)
{
	return sched_choose(count);
}

void sim_fail(const char *fmt, ...)
{
	char text[RECORD_TEXT];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (sched_self())
		sched_end(SIM_CHECK, "%s", text);
	fprintf(stderr, "sim: %s\n", text);
	abort();
}

/* ---- a device -------------------------------------------------------------------------------- */

struct sim_dev {
	struct dev dev;
	uint32_t block_size;
};

static void say_request(struct dev *d, const char *what, uint64_t offset, uint64_t bytes)
{
	uint32_t size = container_of(d, struct sim_dev, dev)->block_size;

	sim_point("%s blk %llu+%llu", what, (unsigned long long)(offset / size),
		  (unsigned long long)div_round_up(bytes, size));
}

static void say_done(const char *what)
{
	sim_point("%s done", what);
}

static int sim_read(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		    uint64_t bytes)
{
	int err;

	say_request(d, "read", offset, bytes);
	err = dev_readv(d->below, offset, iov, iov_count);
	say_done("read");
	return err;
}

static int sim_write(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		     uint64_t bytes)
{
	int err;

	say_request(d, "write", offset, bytes);
	err = dev_writev(d->below, offset, iov, iov_count);
	say_done("write");
	return err;
}

static int sim_flush(struct dev *d)
{
	int err;

	sim_point("flush");
	err = dev_flush(d->below);
	say_done("flush");
	return err;
}

static void sim_discard(struct dev *d, uint64_t offset, uint64_t bytes)
{
	say_request(d, "discard", offset, bytes);
	dev_discard(d->below, offset, bytes);
}

static void sim_close(struct dev *d)
{
	mem_free(container_of(d, struct sim_dev, dev));
}

static const struct dev_ops sim_dev_ops = {
	.name = "sim",
	.read = sim_read,
	.write = sim_write,
	.flush = sim_flush,
	.discard = sim_discard,
	.close = sim_close,
};

int sim_dev_create(struct dev *below, uint32_t block_size, struct dev **ret_dev)
{
	struct sim_dev *s = mem_zalloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	assert(block_size != 0);
	dev_init(&s->dev, &sim_dev_ops, below->size, below);
	s->block_size = block_size;
	*ret_dev = &s->dev;
	return 0;
}
