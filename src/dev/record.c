/* SPDX-License-Identifier: MIT */
/*
 * A filter that writes down what passes it: writes with their data, flushes, marks.
 *
 *  R1  A request is in the log before the device below gets it, its success after the device
 *      below has reported it and before the caller hears of it.  So the log never shows anything
 *      as durable that was not, however many threads write.
 *  R2  What cannot be written down does not happen: the request fails.
 */
#include "dev/record.h"

#include "base/diag.h"
#include "base/mem.h"
#include "dev/dev.h"
#include "sync/sync.h"

#include <fcntl.h>
#include <unistd.h>

/* shared */
struct record_dev {
	struct dev dev;
	int fd;		   /* c: the log, appended to under lock */
	struct mutex lock; /* RANK_record */
	uint64_t last_id GUARDED(&lock);
	int error GUARDED(&lock); /* a log with a hole is of no use: the first error stays */
};

static const struct dev_ops record_ops;

static struct record_dev *record_of(struct dev *d)
{
	assert(d->ops == &record_ops);
	return container_of(d, struct record_dev, dev);
}

/* Appends all of @iov, which it uses up. */
static int append(int fd, struct iovec *iov, int count)
{
	while (count > 0) {
		ssize_t n = writev(fd, iov, count < DEV_IOV_MAX ? count : DEV_IOV_MAX);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(-EIO, "writing the log of the recording device: %s",
				    strerrordesc_np(errno));
		for (; count > 0 && (size_t)n >= iov->iov_len; iov++, count--)
			n -= (ssize_t)iov->iov_len;
		if (count > 0) {
			iov->iov_base = (uint8_t *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

/* @e->id 0: it gets a new one. */
static int record(struct record_dev *r, struct record_entry *e, const struct iovec *data, int count)
{
	struct iovec iov[1 + DEV_IOV_MAX];
	int err;

	iov[0] = (struct iovec){ .iov_base = e, .iov_len = sizeof(*e) };
	for (int i = 0; i < count; i++)
		iov[1 + i] = data[i];
	mutex_lock(&r->lock);
	err = r->error;
	if (err == 0) {
		if (e->id == 0)
			e->id = ++r->last_id;
		err = append(r->fd, iov, 1 + count);
		r->error = err;
	}
	mutex_unlock(&r->lock);
	return err;
}

static int record_done(struct record_dev *r, uint32_t kind, uint64_t id)
{
	struct record_entry e = { .kind = kind, .id = id };

	return record(r, &e, NULL, 0);
}

static int record_read(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		       uint64_t bytes UNUSED)
{
	return dev_readv(d->below, offset, iov, iov_count);
}

static int record_write(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
			uint64_t bytes)
{
	struct record_entry e = { .kind = RECORD_WRITE, .offset = offset, .bytes = bytes };
	int err = record(record_of(d), &e, iov, iov_count);

	if (err == 0)
		err = dev_writev(d->below, offset, iov, iov_count);
	if (err == 0)
		err = record_done(record_of(d), RECORD_DONE, e.id);
	return err;
}

static int record_flush(struct dev *d)
{
	struct record_entry e = { .kind = RECORD_FLUSH };
	int err = record(record_of(d), &e, NULL, 0);

	if (err == 0)
		err = dev_flush(d->below);
	if (err == 0)
		err = record_done(record_of(d), RECORD_FLUSHED, e.id);
	return err;
}

static void record_discard(struct dev *d, uint64_t offset, uint64_t bytes)
{
	struct record_entry e = { .kind = RECORD_DISCARD, .offset = offset, .bytes = bytes };

	/* A hint may be lost, but not passed on unrecorded. */
	if (record(record_of(d), &e, NULL, 0) == 0)
		dev_discard(d->below, offset, bytes);
}

static void record_prefetch(struct dev *d, uint64_t offset, uint64_t bytes)
{
	dev_prefetch(d->below, offset, bytes);
}

static void record_close(struct dev *d)
{
	struct record_dev *r = record_of(d);

	close(r->fd);
	mutex_finish(&r->lock);
	mem_free(r);
}

static const struct dev_ops record_ops = {
	.name = "record",
	.read = record_read,
	.write = record_write,
	.flush = record_flush,
	.discard = record_discard,
	.prefetch = record_prefetch,
	.close = record_close,
};

int dev_record_create(struct dev *below, const char *log_path, struct dev **ret_dev)
{
	struct record_head head = { .magic = RECORD_MAGIC, .device_bytes = below->size };
	struct iovec iov = { .iov_base = &head, .iov_len = sizeof(head) };
	struct record_dev *r;
	int err;

	r = mem_zalloc(sizeof(*r));
	if (r == NULL)
		return -ENOMEM;
	r->fd = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
	if (r->fd < 0) {
		err = fail(-errno, "%s: %s", log_path, strerrordesc_np(errno));
		mem_free(r);
		return err;
	}
	err = append(r->fd, &iov, 1);
	if (err < 0) {
		close(r->fd);
		mem_free(r);
		return err;
	}
	dev_init(&r->dev, &record_ops, below->size, below);
	mutex_init(&r->lock, RANK_record);
	*ret_dev = &r->dev;
	return 0;
}

void dev_record_mark(struct dev *d, uint64_t mark)
{
	struct record_entry e = { .kind = RECORD_MARK, .id = mark };

	assert(mark != 0); /* 0 would be counted as a request */
	(void)record(record_of(d), &e, NULL, 0);
}
