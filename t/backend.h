/* SPDX-License-Identifier: MIT */
/*
 * A file system under test, as the random tests see it: the library (backend_uext4.c), the kernel's
 * mount of the same image (backend_posix.c), or our own mount of it (backend_fuse.c), so that one
 * sequence of operations can be given to all.
 *
 * Objects are nodes of the model; a backend finds its own by node->ino, or by the names the model
 * knows.  Everything returns 0 or a negative errno.  What a backend cannot do at all is
 * BACKEND_CANNOT: the operation is left out.
 */
#ifndef T_BACKEND_H
#define T_BACKEND_H

#include "model.h"

#include <sys/types.h>

#define BACKEND_CANNOT (-4096)

struct backend;

/* A node, and, if it is open, one of its handles: it may have no name any more. */
struct target {
	struct model_node *node;
	void *file;
};

struct backend_dirent {
	uint32_t ino;
	uint8_t type; /* enum uext4_file_type */
	uint64_t cookie;
	size_t len;
	char name[256];
};

struct backend_ops {
	const char *name;
	bool kernel; /* system calls of root; */
	bool fuse;   /* they end in our own mount */
	int (*open)(struct backend *b);
	int (*close)(struct backend *b);

	int (*lookup)(struct backend *b, const struct target *dir, const char *name, size_t len,
		      uint32_t *ret_ino);
	int (*make)(struct backend *b, const struct target *dir, const char *name, size_t len,
		    const struct model_new *new, uint32_t *ret_ino);
	int (*tmpfile)(struct backend *b, const struct target *dir, const struct model_new *new,
		       uint32_t flags, void **ret_file, uint32_t *ret_ino);
	int (*link)(struct backend *b, const struct target *t, const struct target *dir,
		    const char *name, size_t len);
	int (*unlink)(struct backend *b, const struct target *dir, const char *name, size_t len);
	int (*rmdir)(struct backend *b, const struct target *dir, const char *name, size_t len);
	int (*rename)(struct backend *b, const struct target *dir, const char *name, size_t len,
		      const struct target *new_dir, const char *new_name, size_t new_len,
		      uint32_t flags);

	int (*stat)(struct backend *b, const struct target *t, struct uext4_stat *ret);
	int (*readlink)(struct backend *b, const struct target *t, void *buf, size_t size,
			size_t *ret_len);
	int (*set_attr)(struct backend *b, const struct target *t, const struct uext4_attr *attr);
	/* @value NULL: it is removed. */
	int (*xattr_set)(struct backend *b, const struct target *t, const char *name,
			 const void *value, size_t size, uint32_t flags);
	int (*xattr_get)(struct backend *b, const struct target *t, const char *name, void *buf,
			 size_t size, size_t *ret_size);
	int (*xattr_list)(struct backend *b, const struct target *t, char *buf, size_t size,
			  size_t *ret_size);

	int (*dir_open)(struct backend *b, const struct target *t, void **ret_dir);
	int (*dir_read)(struct backend *b, void *dir, uint64_t cookie,
			struct backend_dirent *entries, size_t count, size_t *ret_count);
	void (*dir_close)(struct backend *b, void *dir);

	int (*file_open)(struct backend *b, const struct target *t, uint32_t flags,
			 void **ret_file);
	void (*file_close)(struct backend *b, void *file);
	int (*read)(struct backend *b, void *file, void *buf, size_t len, uint64_t offset,
		    size_t *ret_read);
	int (*write)(struct backend *b, void *file, const void *buf, size_t len, uint64_t offset,
		     size_t *ret_written);
	int (*fallocate)(struct backend *b, void *file, uint32_t flags, uint64_t offset,
			 uint64_t len);
	int (*seek)(struct backend *b, void *file, uint64_t offset, enum uext4_seek what,
		    uint64_t *ret_offset);
	int (*fsync)(struct backend *b, void *file, uint32_t flags);
	int (*fsync_node)(struct backend *b, const struct target *t, uint32_t flags);

	int (*sync)(struct backend *b);
	int (*statfs)(struct backend *b, struct uext4_statfs *ret);
	int (*freeze)(struct backend *b);
	int (*thaw)(struct backend *b);
	int (*txn_begin)(struct backend *b);
	int (*txn_commit)(struct backend *b);
	int (*txn_cancel)(struct backend *b);
};

struct backend {
	const struct backend_ops *ops;
	const char *image;
	const char *mount_dir;		   /* of the kernel's, or ours */
	const char *mount_options;	   /* of the kernel's, or ours */
	const char *program;		   /* that makes our mount */
	bool ask_anew;			   /* attributes: the kernel's may be old */
	pid_t server;			   /* of our mount */
	struct uext4_open_options options; /* of the library's */
	struct uext4_fs *fs;
	int root;
};

extern const struct backend_ops backend_uext4, backend_posix, backend_fuse;

/* Linux' own ext4: what it does otherwise than it should is not held against it. */
static inline bool backend_is_stock(const struct backend *b)
{
	return b->ops->kernel && !b->ops->fuse;
}

/* backend_fuse.c: what is not as with the kernel's mount. */
int backend_fuse_open(struct backend *b);
int backend_fuse_close(struct backend *b);

/* By which system calls bytes go. */
enum backend_way { WAY_PLAIN, WAY_VECTOR, WAY_DIRECT, WAY_APPEND, WAY_MAPPED };

/* As read and write of backend_ops.  A load or store through a mapping stays within the file. */
int backend_fuse_read(struct backend *b, void *file, enum backend_way way, void *buf, size_t len,
		      uint64_t offset, size_t *ret_read);
int backend_fuse_write(struct backend *b, void *file, enum backend_way way, const void *buf,
		       size_t len, uint64_t offset, size_t *ret_written);
/* By copy_file_range(2), or else by sendfile(2). */
int backend_fuse_copy(struct backend *b, void *from, uint64_t from_offset, void *to,
		      uint64_t to_offset, size_t len, bool by_range, size_t *ret_copied);
/* backend_posix.c */
int backend_posix_fd(void *file);
int backend_fuse_tmpfile(struct backend *b, const struct target *t, const struct model_new *new,
			 uint32_t flags, void **ret_file, uint32_t *ret_ino);

/* The words for the last failure, where there are any. */
const char *backend_error(const struct backend *b, int err);

#endif
