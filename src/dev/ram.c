/* SPDX-License-Identifier: MIT */
/*
 * A device in the caller's memory, for tests.  The memory stays the caller's.  Reads and writes of
 * the same bytes at once are the test's own race, as they would be on a disk.
 */
#include "dev/dev.h"

#include "base/mem.h"

struct ram_dev {
	struct dev dev;
	uint8_t *data;
};

static struct ram_dev *ram_of(struct dev *d)
{
	return container_of(d, struct ram_dev, dev);
}

static int ram_read(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		    uint64_t bytes UNUSED)
{
	const uint8_t *from = ram_of(d)->data + offset;

	for (int i = 0; i < iov_count; from += iov[i].iov_len, i++) {
		if (iov[i].iov_len != 0)
			memcpy(iov[i].iov_base, from, iov[i].iov_len);
	}
	return 0;
}

static int ram_write(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		     uint64_t bytes UNUSED)
{
	uint8_t *to = ram_of(d)->data + offset;

	for (int i = 0; i < iov_count; to += iov[i].iov_len, i++) {
		if (iov[i].iov_len != 0)
			memcpy(to, iov[i].iov_base, iov[i].iov_len);
	}
	return 0;
}

static void ram_close(struct dev *d)
{
	mem_free(ram_of(d));
}

static const struct dev_ops ram_ops = {
	.name = "ram",
	.read = ram_read,
	.write = ram_write,
	.close = ram_close,
};

int dev_ram_create(void *data, uint64_t size, struct dev **ret_dev)
{
	struct ram_dev *ram = mem_zalloc(sizeof(*ram));

	if (ram == NULL)
		return -ENOMEM;
	dev_init(&ram->dev, &ram_ops, size, NULL);
	ram->data = data;
	*ret_dev = &ram->dev;
	return 0;
}
