/* SPDX-License-Identifier: MIT */
/*
 * Block devices: a table of operations, stackable, behind one contract wrapper.
 *
 * A device is a row of bytes of fixed size.  Filters (overlay, failing) stand on another device and
 * own it: closing the top closes all below.  Callers use the dev_*() functions, never the slots:
 * the wrapper checks ranges and counts requests.  All of it may be called from any thread at once.
 */
#ifndef DEV_DEV_H
#define DEV_DEV_H

#include "base/base.h"

#include <stdatomic.h>
#include <sys/uio.h>

struct dev;

/*
 * Slots.  The wrapper has checked that the range lies inside the device and is not empty.  A read
 * that succeeds filled everything.  No slot may be called with a mutex held that I/O completion
 * needs; ranks up to `buf` may be held across read.
 */
struct dev_ops {
	const char *name;
	int (*read)(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		    uint64_t bytes);
	/*
	 * NULL: the device is read-only and dev_write() gives -EROFS.  What it wrote is seen by
	 * reads at once, and durable after the next flush.
	 */
	int (*write)(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		     uint64_t bytes);
	/*
	 * Everything written before it was called is durable when it returns 0.  NULL: nothing to
	 * do.
	 */
	int (*flush)(struct dev *d);
	/* A hint that the bytes are not needed any more; they may read as anything.  NULL: none. */
	void (*discard)(struct dev *d, uint64_t offset, uint64_t bytes);
	/* See dev_redirect(); NULL: -EOPNOTSUPP. */
	int (*redirect)(struct dev *d, uint64_t offset, struct dev *source, uint64_t source_offset);
	/* A hint; NULL: none. */
	void (*prefetch)(struct dev *d, uint64_t offset, uint64_t bytes);
	void (*close)(struct dev *d);
};

struct dev_stats {
	_Atomic uint64_t reads;
	_Atomic uint64_t bytes_read;
	_Atomic uint64_t writes;
	_Atomic uint64_t bytes_written;
	_Atomic uint64_t flushes;
};

struct dev {
	const struct dev_ops *ops; /* c */
	uint64_t size;		   /* c: bytes */
	struct dev *below;	   /* c: of a filter; NULL at the bottom */
	struct dev_stats stats;	   /* a */
};

#define DEV_IOV_MAX 256

/* Fills @buf with [@offset, @offset + @bytes).  -EIO behind the end of the device. */
int dev_read(struct dev *d, uint64_t offset, void *buf, size_t bytes) MUST_CHECK;
/* The same into @iov, at most DEV_IOV_MAX pieces, in one request. */
int dev_readv(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count) MUST_CHECK;
int dev_write(struct dev *d, uint64_t offset, const void *data, size_t bytes) MUST_CHECK;
/* The same from @iov, at most DEV_IOV_MAX pieces, in one request. */
int dev_writev(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count) MUST_CHECK;
/*
 * Makes durable what was written before.  A flush that failed must not be tried again as if nothing
 * had been lost: the caller gives up (aborts the journal).
 */
int dev_flush(struct dev *d) MUST_CHECK;
void dev_discard(struct dev *d, uint64_t offset, uint64_t bytes);
bool dev_is_writable(const struct dev *d);
/*
 * Instead of a write of one block: from now on @d has at @offset what @source has at @source_offset
 * now, which is not copied.  -EOPNOTSUPP, without text: @d cannot do this, or not from there; write
 * it then.
 */
int dev_redirect(struct dev *d, uint64_t offset, struct dev *source, uint64_t source_offset,
		 size_t bytes) MUST_CHECK;
void dev_prefetch(struct dev *d, uint64_t offset, uint64_t bytes);
/* Requests that reached the bottom device of the stack. */
const struct dev_stats *dev_bottom_stats(const struct dev *d);
void dev_close(struct dev *d); /* NULL is fine; closes what is below too */

/* For implementations: fills the common part. */
void dev_init(struct dev *d, const struct dev_ops *ops, uint64_t size, struct dev *below);

/* ---- kinds --------------------------------------------------------------------------------- */

enum dev_file_flag {
	DEV_FILE_NOLOCK = 1u << 0, /* take no lock and look for no other users */
	/*
	 * For writing: the OFD lock is exclusive, so nobody else reads it either, and a file that
	 * backs any loop device, also a read-only one, is refused.
	 */
	DEV_FILE_WRITE = 1u << 1,
};

/*
 * The part [@offset, @offset + @length) of a regular file or block device, opened read-only
 * unless DEV_FILE_WRITE; @length 0: up to the end.  Unless NOLOCK: takes a shared OFD lock, opens
 * block devices O_EXCL, and refuses with -EBUSY a file that somebody holds locked for writing or
 * that backs a writable loop device (which an OFD lock does not see), naming the user.
 */
int dev_file_open(const char *path, uint64_t offset, uint64_t length, uint32_t flags,
		  struct dev **ret_dev) MUST_CHECK;
/* The same on a duplicate of @fd. */
int dev_file_open_fd(int fd, uint64_t offset, uint64_t length, uint32_t flags, struct dev **ret_dev)
	MUST_CHECK;

/*
 * Copy on write in memory over @below, which it owns from now on (also on failure it is left to the
 * caller).  Writes are whole blocks of @block_size, at multiples of it, and never reach @below.
 * Blocks can be redirected to others of @below.  -ENOMEM from a write or redirect: no memory, or
 * more than an overlay may take.
 */
int dev_overlay_create(struct dev *below, uint32_t block_size, struct dev **ret_dev) MUST_CHECK;

/*
 * For tests: a device in the caller's memory, and a filter that fails the @nth read, write or flush
 * from now (1: the next) with -EIO; 0: none.
 */
int dev_ram_create(void *data, uint64_t size, struct dev **ret_dev) MUST_CHECK;
int dev_fail_create(struct dev *below, struct dev **ret_dev) MUST_CHECK;
void dev_fail_nth_read(struct dev *d, uint64_t nth);
void dev_fail_nth_write(struct dev *d, uint64_t nth);
void dev_fail_nth_flush(struct dev *d, uint64_t nth);
/* The device stays broken: behind the one that fails all others of its kind fail, too. */
void dev_fail_for_good(struct dev *d, bool for_good);
/* Each request that fails adds one to @count, which may outlive the device. */
void dev_fail_count_in(struct dev *d, _Atomic uint64_t *count);

/*
 * A filter that appends every write (offset, bytes, data) and flush, in the order in which they
 * were issued, and when each was done, to the file @log_path: see record.h for the format.  The
 * crash tester rebuilds images from it.
 */
int dev_record_create(struct dev *below, const char *log_path, struct dev **ret_dev) MUST_CHECK;
/* A mark (not 0) in the log: what was acknowledged before it must survive a cut behind it. */
void dev_record_mark(struct dev *d, uint64_t mark);

#endif
