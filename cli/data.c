/* SPDX-License-Identifier: MIT */
/*
 * The contents of a file in an image: where they are, and out of it into a descriptor.
 */
#include "data.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "progress.h"

static int complain_corrupt(struct place place, const char *what)
{
	char *where = must_format("%s:%s", place.image, place.path);

	complain(STATUS_CORRUPT, where, "%s", what);
	free(where);
	return -EUCLEAN;
}

int data_next(struct place place, struct uext4_file *file, uint64_t offset, uint64_t size,
	      struct data_range *ret)
{
	uint64_t start, end;
	int err;

	if (offset >= size)
		return 0;
	err = uext4_seek(file, offset, UEXT4_SEEK_DATA, &start);
	if (err == -ENXIO || (err == 0 && start >= size))
		return 0;
	if (err == 0)
		err = uext4_seek(file, start, UEXT4_SEEK_HOLE, &end);
	if (err < 0) {
		complain_fs(place, err);
		return err;
	}
	/* A map that does not move on would keep us here forever. */
	if (start < offset || end <= start)
		return complain_corrupt(place, "the map of its blocks makes no sense");
	*ret = (struct data_range){ start, end < size ? end : size };
	return 1;
}

int data_read(struct place place, struct uext4_file *file, void *buf, size_t len, uint64_t offset)
{
	size_t got;
	int err = uext4_pread(file, buf, len, offset, &got);

	if (err < 0)
		complain_fs(place, err);
	else if (got != len)
		err = complain_corrupt(place, "the file ends before its size");
	return err;
}

int write_all(int fd, const void *buf, size_t len)
{
	const char *at = buf;

	while (len > 0) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static int write_zeros(int fd, uint64_t len)
{
	static const char zeros[65536];
	int err = 0;

	while (len > 0 && err == 0) {
		size_t part = len < sizeof(zeros) ? (size_t)len : sizeof(zeros);

		err = write_all(fd, zeros, part);
		len -= part;
	}
	return err;
}

/* Leaves out [from, to), which is a hole. */
static int copy_hole(int fd, uint64_t from, uint64_t to, enum data_holes holes)
{
	if (from == to)
		return 0;
	if (holes == DATA_HOLES_FILL)
		return write_zeros(fd, to - from);
	return lseek(fd, (off_t)to, SEEK_SET) < 0 ? -errno : 0;
}

static int copy_range(struct place place, struct uext4_file *file, const struct data_range *range,
		      int fd, const char *fd_name, char *buf)
{
	for (uint64_t at = range->start; at < range->end;) {
		uint64_t left = range->end - at;
		size_t part = left < DATA_CHUNK ? (size_t)left : DATA_CHUNK;
		int err;

		uext4_prefetch(file, at + part, DATA_CHUNK);
		err = data_read(place, file, buf, part, at);
		if (err < 0)
			return err;
		err = write_all(fd, buf, part);
		if (err < 0) {
			complain_sys(fd_name, -err, "write error");
			return err;
		}
		progress_count(0, part);
		progress_poll();
		at += part;
	}
	return 0;
}

int data_copy(struct place place, struct uext4_file *file, uint64_t size, int fd,
	      const char *fd_name, enum data_holes holes)
{
	char *buf = must_alloc(DATA_CHUNK);
	struct data_range range;
	uint64_t at = 0;
	int found, err = 0;

	while ((found = data_next(place, file, at, size, &range)) > 0) {
		err = copy_hole(fd, at, range.start, holes);
		if (err < 0)
			complain_sys(fd_name, -err, "write error");
		else
			err = copy_range(place, file, &range, fd, fd_name, buf);
		if (err < 0)
			break;
		at = range.end;
	}
	free(buf);
	if (found != 0)
		return found < 0 ? found : err;
	err = copy_hole(fd, at, size, holes);
	/* A hole at the end exists only through the size. */
	if (err == 0 && holes == DATA_HOLES_KEEP && ftruncate(fd, (off_t)size) < 0)
		err = -errno;
	if (err < 0)
		complain_sys(fd_name, -err, "write error");
	return err;
}
