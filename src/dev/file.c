/* SPDX-License-Identifier: MIT */
/*
 * A part of an image file or block device.
 *
 * Most of this file answers one question: is somebody else changing this image?  Reading under a
 * live file system gives nonsense, and replaying its journal destroys it.  There is no one lock
 * that tells:
 *
 *  F1  Other users of this library, and whoever else plays by the rules, hold an OFD lock on the
 *      file: a shared one to read, an exclusive one to write.
 *  F2  QEMU holds shared locks on single bytes; the one at 101 means that it may write.
 *  F3  The kernel locks no file for a loop device.  The backing file is found by device and inode.
 *  F4  A block device in use by the kernel (mounted, below dm or md) refuses O_EXCL.
 *
 * Where a file system has no locks, or /sys is not mounted, there is less to go by and the open
 * goes on.
 *
 * Reads go through the kernel's page cache with its readahead left on: a single small read at
 * random brings in what was asked and no more, and a stream is read ahead without our doing.  What
 * the engine itself knows about the next reads it says through dev_prefetch().
 */
#include "dev/dev.h"

#include "base/diag.h"
#include "base/mem.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFETCH_RECENT 1024u

/* shared */
struct file_dev {
	struct dev dev;
	int fd;		/* c: our own open file description where one could be had */
	bool is_block;	/* c */
	uint64_t start; /* c: of the part, in the file */
	_Atomic uint64_t recent[PREFETCH_RECENT]; /* a: windows lately asked for, plus 1 */
};

/* An image while it is being opened. */
struct image {
	const char *name; /* for messages */
	int fd;
	bool is_shared;	 /* fd is a duplicate of the caller's: locks on it would be the caller's */
	short lock_type; /* F_RDLCK, or F_WRLCK to write */
	struct stat st;
};

static struct file_dev *file_of(struct dev *d)
{
	return container_of(d, struct file_dev, dev);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* Moves the start of @iov by @bytes; returns how many pieces are done with. */
static int iov_advance(struct iovec *iov, int iov_count, size_t bytes)
{
	int i = 0;

	while (i < iov_count && bytes >= iov[i].iov_len)
		bytes -= iov[i++].iov_len;
	if (i < iov_count) {
		iov[i].iov_base = (uint8_t *)iov[i].iov_base + bytes;
		iov[i].iov_len -= bytes;
	}
	return i;
}

enum direction { READ, WRITE };

/* One system call's worth, at least a byte. */
static int transfer_some(const struct file_dev *f, enum direction direction, uint64_t at,
			 const struct iovec *iov, int iov_count, size_t *ret_bytes)
{
	ssize_t n;

	do {
		n = direction == READ ? preadv(f->fd, iov, iov_count, (off_t)at)
				      : pwritev(f->fd, iov, iov_count, (off_t)at);
	} while (n < 0 && errno == EINTR);

	if (n < 0)
		return fail(-errno, "cannot %s at byte %llu of the image: %s",
			    direction == READ ? "read" : "write", (unsigned long long)at,
			    strerror(errno));
	if (n == 0)
		return fail(-EIO, "the image ends at byte %llu: it shrank while it was open",
			    (unsigned long long)at);
	*ret_bytes = (size_t)n;
	return 0;
}

static int transfer(const struct file_dev *f, enum direction direction, uint64_t offset,
		    const struct iovec *iov, int iov_count, uint64_t bytes)
{
	struct iovec rest[DEV_IOV_MAX];
	uint64_t at = f->start + offset;
	size_t n = 0;
	int first = 0;
	int err = transfer_some(f, direction, at, iov, iov_count, &n);

	if (err < 0 || n == bytes)
		return err;

	/* Short, as very large requests are: go on behind what was done. */
	memcpy(rest, iov, (size_t)iov_count * sizeof(*iov));
	while (err == 0 && n < bytes) {
		at += n;
		bytes -= n;
		first += iov_advance(rest + first, iov_count - first, n);
		err = transfer_some(f, direction, at, rest + first, iov_count - first, &n);
	}
	return err;
}

static int file_read(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		     uint64_t bytes)
{
	return transfer(file_of(d), READ, offset, iov, iov_count, bytes);
}

static int file_write(struct dev *d, uint64_t offset, const struct iovec *iov, int iov_count,
		      uint64_t bytes)
{
	return transfer(file_of(d), WRITE, offset, iov, iov_count, bytes);
}

static int file_flush(struct dev *d)
{
	if (fdatasync(file_of(d)->fd) < 0)
		return fail(-errno, "cannot make the image durable: %s", strerror(errno));
	return 0;
}

/* Only a file's: to discard on a block device is for those who asked for it. */
static void file_discard(struct dev *d, uint64_t offset, uint64_t bytes)
{
	const struct file_dev *f = file_of(d);

	if (!f->is_block)
		(void)fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)(f->start + offset), (off_t)bytes);
}

/*
 * The kernel takes no more than its readahead window from one hint, so hints are cut into windows.
 * Small files lie side by side: a window that was asked for lately is not asked for again, which
 * saves most of the system calls of a walk.
 */
#define PREFETCH_WINDOW (128u << 10)

static bool window_is_recent(struct file_dev *f, uint64_t window)
{
	_Atomic uint64_t *slot = &f->recent[window % PREFETCH_RECENT];

	return atomic_exchange_explicit(slot, window + 1, memory_order_relaxed) == window + 1;
}

static void file_prefetch(struct dev *d, uint64_t offset, uint64_t bytes)
{
	struct file_dev *f = file_of(d);
	uint64_t first = (f->start + offset) / PREFETCH_WINDOW;
	uint64_t last = (f->start + offset + bytes - 1) / PREFETCH_WINDOW;

	for (uint64_t window = first; window <= last; window++) {
		if (!window_is_recent(f, window))
			(void)posix_fadvise(f->fd, (off_t)(window * PREFETCH_WINDOW),
					    PREFETCH_WINDOW, POSIX_FADV_WILLNEED);
	}
}

static void file_close(struct dev *d)
{
	(void)close(file_of(d)->fd); /* drops the lock too */
	mem_free(file_of(d));
}

static const struct dev_ops file_read_ops = {
	.name = "file",
	.read = file_read,
	.prefetch = file_prefetch,
	.close = file_close,
};

static const struct dev_ops file_write_ops = {
	.name = "file",
	.read = file_read,
	.write = file_write,
	.flush = file_flush,
	.discard = file_discard,
	.prefetch = file_prefetch,
	.close = file_close,
};

/* ---- who else is using it: file locks (F1, F2) --------------------------------------------- */

/* QEMU's raw format: byte 100 + n is locked by who has permission n, 200 + n by who denies it. */
#define QEMU_PERMS_START 100
#define QEMU_PERM_WRITE 101
#define QEMU_PERMS_END 200

static bool qemu_may_write(int fd)
{
	struct flock probe = {
		.l_type = F_WRLCK,
		.l_whence = SEEK_SET,
		.l_start = QEMU_PERM_WRITE,
		.l_len = 1,
	};

	if (fcntl(fd, F_OFD_GETLK, &probe) < 0 || probe.l_type == F_UNLCK)
		return false;
	/* A reader's lock is on the whole file; QEMU's neighbouring bytes come as one range. */
	return probe.l_start >= QEMU_PERMS_START && probe.l_len > 0 &&
	       probe.l_start + probe.l_len <= QEMU_PERMS_END;
}

static int refuse_locked(const struct image *img)
{
	struct flock holder = { .l_type = img->lock_type, .l_whence = SEEK_SET };
	const char *what = "in use by";

	if (fcntl(img->fd, F_OFD_GETLK, &holder) < 0 || holder.l_type == F_UNLCK)
		holder.l_pid = 0;
	else if (holder.l_type == F_WRLCK)
		what = "locked for writing by";
	/* Only classic locks have an owner with a number; an OFD lock gives -1. */
	if (holder.l_pid > 0)
		return fail(-EBUSY, "%s is %s process %d", img->name, what, (int)holder.l_pid);
	return fail(-EBUSY, "%s is %s another program", img->name, what);
}

/* On a description that is the caller's we only look: our lock would replace the caller's own. */
static bool is_locked(const struct image *img)
{
	struct flock lock = { .l_type = img->lock_type, .l_whence = SEEK_SET };

	if (img->is_shared)
		return fcntl(img->fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
	/* Other errors (ENOLCK, EOPNOTSUPP, EINVAL): this file system has no locks. */
	return fcntl(img->fd, F_OFD_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES);
}

static int lock_image(const struct image *img)
{
	if (qemu_may_write(img->fd))
		return fail(-EBUSY, "%s is the disk of a running virtual machine (QEMU)",
			    img->name);
	if (is_locked(img))
		return refuse_locked(img);
	return 0;
}

/* ---- who else is using it: loop devices (F3) ----------------------------------------------- */

/* The text of one attribute below /sys/block, without its newline; false if there is none. */
static bool read_attribute(int sys_block, const char *path, char *buf, size_t size)
{
	int fd = openat(sys_block, path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, size - 1);
	(void)close(fd);
	if (n <= 0)
		return false;
	if (buf[n - 1] == '\n')
		n--;
	buf[n] = '\0';
	return true;
}

static bool is_same_file(const struct stat *a, const struct stat *b)
{
	if (S_ISBLK(a->st_mode) && S_ISBLK(b->st_mode))
		return a->st_rdev == b->st_rdev;
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/*
 * Asks the loop device itself.  Needs the right to open it, and delays a `losetup -d` for as long
 * as it is open; so this is for where the path in /sys says nothing.
 */
static bool loop_device_has(const char *loop, const struct stat *st)
{
	struct loop_info64 info;
	char path[64];
	int fd, err;

	(void)snprintf(path, sizeof(path), "/dev/%s", loop);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return false;
	err = ioctl(fd, LOOP_GET_STATUS64, &info);
	(void)close(fd);
	if (err < 0)
		return false;
	if (S_ISBLK(st->st_mode))
		return info.lo_rdevice == st->st_rdev;
	return info.lo_device == st->st_dev && info.lo_inode == st->st_ino;
}

static bool is_deleted_path(const char *path)
{
	static const char suffix[] = " (deleted)";
	size_t len = strlen(path);

	return len >= sizeof(suffix) - 1 && strcmp(path + len - (sizeof(suffix) - 1), suffix) == 0;
}

/* Does @loop lie over the file that @st describes, and can it write into it, if we only read? */
static bool loop_hinders(int sys_block, const char *loop, const struct image *img)
{
	char attribute[64], path[PATH_MAX + 32];
	const struct stat *st = &img->st;
	struct stat backing;

	(void)snprintf(attribute, sizeof(attribute), "%s/loop/backing_file", loop);
	if (!read_attribute(sys_block, attribute, path, sizeof(path)))
		return false; /* free */
	if (is_deleted_path(path) || stat(path, &backing) < 0) {
		if (!loop_device_has(loop, st))
			return false;
	} else if (!is_same_file(&backing, st)) {
		return false;
	}
	if (img->lock_type == F_WRLCK)
		return true; /* who reads there would see us write */

	(void)snprintf(attribute, sizeof(attribute), "%s/ro", loop);
	return !read_attribute(sys_block, attribute, path, sizeof(path)) || strcmp(path, "1") != 0;
}

static int refuse_loop_backing(const struct image *img)
{
	DIR *dir = opendir("/sys/block");
	const struct dirent *entry;
	int err = 0;

	if (dir == NULL)
		return 0;
	while (err == 0 && (entry = readdir(dir)) != NULL) {
		if (strncmp(entry->d_name, "loop", 4) != 0 || strlen(entry->d_name) > 32)
			continue;
		if (loop_hinders(dirfd(dir), entry->d_name, img))
			err = fail(-EBUSY, "%s backs /dev/%s, which is in use", img->name,
				   entry->d_name);
	}
	(void)closedir(dir);
	return err;
}

/* ---- opening ------------------------------------------------------------------------------- */

static int check_kind(const struct image *img)
{
	if (S_ISREG(img->st.st_mode) || S_ISBLK(img->st.st_mode))
		return 0;
	return fail(-EINVAL, "%s is neither a regular file nor a block device", img->name);
}

/* F4: the kernel answers EBUSY to O_EXCL without O_CREAT where a block device is in use. */
static int open_flags(const struct image *img, uint32_t flags)
{
	bool exclusive = S_ISBLK(img->st.st_mode) && !(flags & DEV_FILE_NOLOCK);

	return (flags & DEV_FILE_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY |
	       (exclusive ? O_EXCL : 0);
}

static int fail_open(const struct image *img, int err)
{
	if (err == -EBUSY)
		return fail(err, "%s is in use: mounted, or part of another device", img->name);
	return fail(err, "cannot open %s: %s", img->name, strerror(-err));
}

static int image_bytes(const struct image *img, uint64_t *ret_bytes)
{
	uint64_t bytes;

	if (S_ISREG(img->st.st_mode)) {
		*ret_bytes = (uint64_t)img->st.st_size;
		return 0;
	}
	if (ioctl(img->fd, BLKGETSIZE64, &bytes) < 0)
		return fail(-errno, "cannot get the size of %s: %s", img->name, strerror(errno));
	*ret_bytes = bytes;
	return 0;
}

static int check_window(const struct image *img, uint64_t offset, uint64_t *length)
{
	uint64_t bytes = 0;
	int err = image_bytes(img, &bytes);

	if (err < 0)
		return err;
	if (offset > bytes || *length > bytes - offset)
		return fail(-EINVAL,
			    "offset %llu and length %llu reach behind the end of %s (%llu bytes)",
			    (unsigned long long)offset, (unsigned long long)*length, img->name,
			    (unsigned long long)bytes);
	if (*length == 0)
		*length = bytes - offset;
	return 0;
}

static int check_users(const struct image *img)
{
	int err = lock_image(img);

	return err < 0 ? err : refuse_loop_backing(img);
}

/* Makes a device of @img->fd, which it owns from here on, also when it fails. */
static int image_to_dev(struct image *img, uint64_t offset, uint64_t length, uint32_t flags,
			struct dev **ret_dev)
{
	struct file_dev *f = NULL;
	int err;

	img->lock_type = flags & DEV_FILE_WRITE ? F_WRLCK : F_RDLCK;
	err = fstat(img->fd, &img->st) == 0 ? check_kind(img) : fail_open(img, -errno);
	if (err == 0 && (flags & DEV_FILE_WRITE) && (fcntl(img->fd, F_GETFL) & O_ACCMODE) != O_RDWR)
		err = fail(-EACCES, "%s is open for reading only", img->name);
	if (err == 0 && !(flags & DEV_FILE_NOLOCK))
		err = check_users(img);
	if (err == 0)
		err = check_window(img, offset, &length);
	if (err == 0) {
		f = mem_zalloc(sizeof(*f));
		err = f != NULL ? 0 : -ENOMEM;
	}
	if (err < 0) {
		(void)close(img->fd);
		return err;
	}
	dev_init(&f->dev, flags & DEV_FILE_WRITE ? &file_write_ops : &file_read_ops, length, NULL);
	f->fd = img->fd;
	f->is_block = S_ISBLK(img->st.st_mode);
	f->start = offset;
	*ret_dev = &f->dev;
	return 0;
}

int dev_file_open(const char *path, uint64_t offset, uint64_t length, uint32_t flags,
		  struct dev **ret_dev)
{
	struct image img = { .name = path };
	int err;

	/* Looked at first: to open a FIFO would wait, to open some devices does something. */
	err = stat(path, &img.st) == 0 ? check_kind(&img) : fail_open(&img, -errno);
	if (err < 0)
		return err;
	img.fd = open(path, open_flags(&img, flags));
	if (img.fd < 0)
		return fail_open(&img, -errno);
	return image_to_dev(&img, offset, length, flags, ret_dev);
}

/*
 * Opens what @fd refers to a second time: a duplicate would share the caller's locks, and O_EXCL is
 * only for open().  A descriptor that came from somebody with more rights may allow no second open;
 * that of a file is then duplicated.
 */
static int reopen(int fd, uint32_t flags, struct image *img)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	img->fd = open(path, open_flags(img, flags));
	if (img->fd >= 0)
		return 0;
	if (S_ISBLK(img->st.st_mode) && !(flags & DEV_FILE_NOLOCK))
		return fail_open(img, -errno);
	img->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	img->is_shared = true;
	return img->fd >= 0 ? 0 : fail_open(img, -errno);
}

int dev_file_open_fd(int fd, uint64_t offset, uint64_t length, uint32_t flags, struct dev **ret_dev)
{
	struct image img = { .name = NULL };
	char name[32];
	int err;

	(void)snprintf(name, sizeof(name), "file descriptor %d", fd);
	img.name = name;
	err = fstat(fd, &img.st) == 0 ? check_kind(&img) : fail_open(&img, -errno);
	if (err == 0)
		err = reopen(fd, flags, &img);
	if (err < 0)
		return err;
	return image_to_dev(&img, offset, length, flags, ret_dev);
}
