/* SPDX-License-Identifier: MIT */
/*
 * Our own mount as a backend: what the kernel's mount is asked (backend_posix.c), with `uext4
 * mount` in its place.  The server is a child in the foreground: that it ended well, and so has let
 * go of the image, is seen by waiting for it.
 *
 * Its files may be mapped: the kernel's side of FUSE does that with pages of its own.
 */
#include "backend.h"
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAITS_MAX 3000u
#define WAIT_US 10000u
#define PIECES 5
#define ALIGNMENT 4096u

static dev_t device_of(const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 ? 0 : st.st_dev;
}

static void serve(const struct backend *b)
{
	const char *argv[] = { b->program, "mount",	     "-f", b->image, b->mount_dir,
			       "-o",	   b->mount_options, NULL };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execv(b->program, (char *const *)(uintptr_t)argv);
	_exit(127);
}

int backend_fuse_open(struct backend *b)
{
	dev_t below = device_of(b->mount_dir);
	int status;

	b->server = fork();
	if (b->server < 0)
		die("fork: %s", strerror(errno));
	if (b->server == 0)
		serve(b);
	for (unsigned i = 0; device_of(b->mount_dir) == below; i++) {
		if (waitpid(b->server, &status, WNOHANG) != 0 || i == WAITS_MAX)
			die("%s: the mount does not come", b->program);
		usleep(WAIT_US);
	}
	b->root = open(b->mount_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return b->root < 0 ? -errno : 0;
}

int backend_fuse_close(struct backend *b)
{
	const char *argv[] = { "fusermount3", "-u", b->mount_dir, NULL };
	char *output;
	int status;

	close(b->root);
	if (run_program(argv, &output) != 0)
		die("fusermount3: %s", output);
	free(output);
	while (waitpid(b->server, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		die("the server ended with status %#x", (unsigned)status);
	return 0;
}

/* libfuse 3.14 knows no request for it. */
int backend_fuse_tmpfile(struct backend *b, const struct target *t, const struct model_new *new,
			 uint32_t flags, void **ret_file, uint32_t *ret_ino)
{
	(void)b, (void)t, (void)new, (void)flags, (void)ret_file, (void)ret_ino;
	return BACKEND_CANNOT;
}

/* ---- other ways of reading and writing ------------------------------------------------------ */

/* The same file with a descriptor, and flags, of its own. */
static int open_again(void *file, int flags)
{
	char proc[64];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", backend_posix_fd(file));
	return open(proc, flags | O_CLOEXEC);
}

static int cut_up(struct iovec *pieces, void *buf, size_t len)
{
	int count = 0;

	for (size_t at = 0; at < len; count++) {
		size_t bytes = (len - at) / 3 + 1;

		if (count == PIECES - 1)
			bytes = len - at;
		pieces[count] = (struct iovec){ (uint8_t *)buf + at, bytes };
		at += bytes;
	}
	return count;
}

/* Bytes [@offset, @offset + @len) of a file, in a mapping of it that @unmap() undoes. */
struct view {
	uint8_t *start, *bytes;
	size_t len;
};

static int map_view(void *file, int prot, uint64_t offset, size_t len, struct view *view)
{
	size_t before = offset % ALIGNMENT;

	view->len = len + before;
	view->start = mmap(NULL, view->len, prot, MAP_SHARED, backend_posix_fd(file),
			   (off_t)(offset - before));
	if (view->start == MAP_FAILED)
		return -errno;
	view->bytes = view->start + before;
	return 0;
}

static ssize_t move_direct(void *file, void *buf, size_t len, uint64_t offset, bool is_write)
{
	int fd = open_again(file, (is_write ? O_RDWR : O_RDONLY) | O_DIRECT), err;
	void *aligned;
	ssize_t n;

	if (fd < 0)
		return fd;
	if (posix_memalign(&aligned, ALIGNMENT, len + 1))
		die("out of memory");
	if (is_write)
		memcpy(aligned, buf, len);
	n = is_write ? pwrite(fd, aligned, len, (off_t)offset)
		     : pread(fd, aligned, len, (off_t)offset);
	err = errno;
	if (!is_write && n > 0)
		memcpy(buf, aligned, (size_t)n);
	free(aligned);
	close(fd);
	errno = err;
	return n;
}

static ssize_t append(void *file, const void *buf, size_t len)
{
	int fd = open_again(file, O_WRONLY | O_APPEND), err;
	ssize_t n;

	if (fd < 0)
		return fd;
	n = write(fd, buf, len);
	err = errno;
	close(fd);
	errno = err;
	return n;
}

int backend_fuse_read(struct backend *b, void *file, enum backend_way way, void *buf, size_t len,
		      uint64_t offset, size_t *ret_read)
{
	struct iovec pieces[PIECES];
	struct view view;
	ssize_t n;
	int err;

	if (way == WAY_MAPPED) {
		err = map_view(file, PROT_READ, offset, len, &view);
		if (err < 0)
			return err;
		memcpy(buf, view.bytes, len);
		munmap(view.start, view.len);
		*ret_read = len;
		return 0;
	}
	if (way == WAY_VECTOR)
		n = preadv(backend_posix_fd(file), pieces, cut_up(pieces, buf, len), (off_t)offset);
	else if (way == WAY_DIRECT)
		n = move_direct(file, buf, len, offset, false);
	else
		return b->ops->read(b, file, buf, len, offset, ret_read);
	if (n < 0)
		return -errno;
	*ret_read = (size_t)n;
	return 0;
}

int backend_fuse_write(struct backend *b, void *file, enum backend_way way, const void *buf,
		       size_t len, uint64_t offset, size_t *ret_written)
{
	void *bytes = (void *)(uintptr_t)buf; /* iovec has no const */
	struct iovec pieces[PIECES];
	struct view view;
	ssize_t n;
	int err;

	if (way == WAY_MAPPED) {
		err = map_view(file, PROT_READ | PROT_WRITE, offset, len, &view);
		if (err < 0)
			return err;
		memcpy(view.bytes, buf, len);
		munmap(view.start, view.len);
		*ret_written = len;
		return 0;
	}
	if (way == WAY_VECTOR)
		n = pwritev(backend_posix_fd(file), pieces, cut_up(pieces, bytes, len),
			    (off_t)offset);
	else if (way == WAY_DIRECT)
		n = move_direct(file, bytes, len, offset, true);
	else if (way == WAY_APPEND)
		n = append(file, buf, len);
	else
		return b->ops->write(b, file, buf, len, offset, ret_written);
	if (n < 0)
		return -errno;
	*ret_written = (size_t)n;
	return 0;
}

int backend_fuse_copy(struct backend *b, void *from, uint64_t from_offset, void *to,
		      uint64_t to_offset, size_t len, bool by_range, size_t *ret_copied)
{
	int in = backend_posix_fd(from), out = backend_posix_fd(to);
	off_t in_at = (off_t)from_offset, out_at = (off_t)to_offset;
	size_t done = 0;

	(void)b;
	if (!by_range && lseek(out, out_at, SEEK_SET) < 0)
		return -errno;
	while (done < len) {
		ssize_t n = by_range ? copy_file_range(in, &in_at, out, &out_at, len - done, 0)
				     : sendfile(out, in, &in_at, len - done);

		if (n < 0 && done == 0)
			return -errno;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	*ret_copied = done;
	return 0;
}
