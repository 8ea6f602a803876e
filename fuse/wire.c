/* SPDX-License-Identifier: MIT */
/*
 * What the kernel says and libfuse 3.14 does not pass on: the protocol itself, just above the
 * device.  Everything else about requests is libfuse's.
 *
 * Two promises are added to the answer to INIT: PARALLEL_DIROPS, which libfuse knows and leaves
 * out, and HANDLE_KILLPRIV_V2.  With the latter the kernel asks once per file, not for each write,
 * whether it has a capability, and says with a request whether setuid and setgid have to go.
 *
 * W1  What is promised is kept: each request that may carry the word is read for it here, and
 *     answered by the thread that has read it; so the word is that thread's.
 * W2  FALLOCATE carries no such word, although the kernel relies on us there too: who is not root
 *     is not privileged.
 */
#include "mount_priv.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const uint32_t promises = FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2;

/* Of the calling thread. */
static _Thread_local struct {
	bool has_own;
	int own_fd;
	uint32_t task;
	bool kills_privileges;
} self;

uint32_t wire_task(void)
{
	return self.task;
}

bool wire_kills_privileges(void)
{
	return self.kills_privileges;
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static int own_or(int shared)
{
	return self.has_own ? self.own_fd : shared;
}

void wire_open_own(struct fuse_session *session)
{
	uint32_t shared = (uint32_t)fuse_session_fd(session);
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0) /* only fusermount3 may */
		return;
	if (ioctl(fd, FUSE_DEV_IOC_CLONE, &shared) < 0) {
		close(fd);
		return;
	}
	self.own_fd = fd;
	self.has_own = true;
}

void wire_close_own(void)
{
	if (self.has_own)
		close(self.own_fd);
	self.has_own = false;
}

bool wire_linger(struct fuse_session *session, uint64_t ns)
{
	struct pollfd poller = { .fd = own_or(fuse_session_fd(session)), .events = POLLIN };
	struct timespec start, now;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		if (poll(&poller, 1, 0) != 0)
			return true;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((uint64_t)((now.tv_sec - start.tv_sec) * 1000000000 + now.tv_nsec -
			    start.tv_nsec) < ns);
	return false;
}

/* ---- requests -------------------------------------------------------------------------------- */

/* The beginning of a request, as far as it is looked at. */
struct request {
	struct fuse_in_header header;
	union {
		struct fuse_init_in init;
		struct fuse_write_in write;
		struct fuse_setattr_in setattr;
	} in;
};

static bool says_kill(const struct request *r, size_t len)
{
	size_t in_len = len - sizeof(r->header);

	switch (r->header.opcode) {
	case FUSE_WRITE:
		return in_len >= sizeof(r->in.write) &&
		       r->in.write.write_flags & FUSE_WRITE_KILL_SUIDGID;
	case FUSE_SETATTR:
		return in_len >= sizeof(r->in.setattr) && r->in.setattr.valid & FATTR_KILL_SUIDGID;
	case FUSE_FALLOCATE: return r->header.uid != 0; /* W2 */
	default: return false;
	}
}

static ssize_t read_request(int fd, void *buf, size_t size, void *userdata)
{
	struct wire *wire = &((struct server *)userdata)->wire;
	const struct request *r = buf;
	ssize_t len = read(own_or(fd), buf, size);

	if (len < (ssize_t)sizeof(r->header))
		return len;
	if (r->header.opcode == FUSE_INIT &&
	    (size_t)len >= sizeof(r->header) + offsetof(struct fuse_init_in, flags2)) {
		wire->init_unique = r->header.unique;
		wire->promised = promises & r->in.init.flags;
	}
	self.task = r->header.pid;
	self.kills_privileges = says_kill(r, (size_t)len);
	return len;
}

/* ---- answers --------------------------------------------------------------------------------- */

/* An answer to INIT that was not refused, and says flags. */
static bool is_init_answer(const struct wire *wire, const struct iovec *iov, int count)
{
	const struct fuse_out_header *header = iov[0].iov_base;

	return wire->promised != 0 && count == 2 && iov[0].iov_len == sizeof(*header) &&
	       header->unique == wire->init_unique && header->error == 0 &&
	       iov[1].iov_len >= FUSE_COMPAT_22_INIT_OUT_SIZE &&
	       iov[1].iov_len <= sizeof(struct fuse_init_out);
}

static ssize_t write_answer(int fd, struct iovec *iov, int count, void *userdata)
{
	struct wire *wire = &((struct server *)userdata)->wire;
	struct fuse_init_out out;
	struct iovec added[2];

	/* What was read there is answered there; what nobody has asked for may go anywhere. */
	fd = own_or(fd);
	if (!is_init_answer(wire, iov, count))
		return writev(fd, iov, count);
	memcpy(&out, iov[1].iov_base, iov[1].iov_len);
	out.flags |= wire->promised;
	added[0] = iov[0];
	added[1] = (struct iovec){ &out, iov[1].iov_len };
	return writev(fd, added, count);
}

int wire_mount(struct fuse_session *session, const char *dir)
{
	static const struct fuse_custom_io io = { .read = read_request, .writev = write_answer };

	if (fuse_session_mount(session, dir) < 0)
		return -1;
	if (fuse_session_custom_io(session, &io, fuse_session_fd(session)) == 0)
		return 0;
	fuse_session_unmount(session);
	return -1;
}
