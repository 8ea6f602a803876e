/* SPDX-License-Identifier: MIT */
/*
 * The random test of changes: what its files share.  world.c runs it, world_ops.c has the
 * operations, world_compare.c holds a file system against the model.
 *
 *  W1  An operation is decided by the seed, its thread and its number, and by what the model holds:
 *      so a sequence can be repeated, also with operations left out.
 *  W2  The model is changed and read under world.lock.  What a thread owns alone is changed by it
 *      alone.
 */
#ifndef T_WORLD_H
#define T_WORLD_H

#include "backend.h"
#include "model.h"
#include "tool.h"

#include <pthread.h>

#define THREADS_MAX 4u
#define HANDLES 8u
#define LISTINGS 2u
#define NAMES_MAX 4096u
#define NOBODY 0u /* owner of what no thread touches */

/* OP(name, weight, needs several changes at once or the like) */
#define OPS(OP)          \
	OP(create, 8)    \
	OP(mkdir, 4)     \
	OP(mknod, 2)     \
	OP(symlink, 4)   \
	OP(link, 5)      \
	OP(unlink, 8)    \
	OP(rmdir, 3)     \
	OP(rename, 8)    \
	OP(tmpfile, 2)   \
	OP(open, 4)      \
	OP(close, 3)     \
	OP(write, 14)    \
	OP(append, 5)    \
	OP(read, 6)      \
	OP(truncate, 6)  \
	OP(fallocate, 4) \
	OP(punch, 4)     \
	OP(zero, 3)      \
	OP(seek, 2)      \
	OP(fsync, 3)     \
	OP(fsyncdir, 1)  \
	OP(sync, 1)      \
	OP(chmod, 3)     \
	OP(chown, 2)     \
	OP(utimes, 3)    \
	OP(chattr, 2)    \
	OP(project, 1)   \
	OP(restore, 1)   \
	OP(setxattr, 7)  \
	OP(rmxattr, 3)   \
	OP(acl, 3)       \
	OP(lookup, 2)    \
	OP(list, 3)      \
	OP(verify, 4)    \
	OP(odd, 1)       \
	OP(txn, 1)

enum op_kind {
#define OP(name, weight) OP_##name,
	OPS(OP)
#undef OP
		OP_KINDS
};

struct world;
struct seen;

struct handle {
	struct model_node *node; /* NULL: a free place */
	void *file;
	uint32_t flags;
};

/* A directory that is being listed while it changes. */
struct listing {
	struct model_node *node; /* NULL: a free place */
	void *dir;
	uint64_t cookie;
	uint64_t born;	   /* entries up to this one were there at the start */
	struct seen *seen; /* names that came */
};

/* shared: one thread's part */
struct actor {
	struct world *w;
	pthread_t thread;
	uint32_t number;       /* from 1 */
	uint64_t first, count; /* its operations in this leg */
	uint64_t op;	       /* the one that runs */
	enum op_kind kind;
	struct rng rng;		  /* of the operation that runs */
	char about[1200];	  /* what it does */
	struct uext4_time before; /* when the call began */
	struct model_node *home;
	struct model_node **pool; /* nodes of its own, in any order */
	size_t pool_count, pool_room;
	struct handle handles[HANDLES];
	struct listing listings[LISTINGS];
	bool in_txn, txn_too_big;
	uint64_t done[OP_KINDS]; /* succeeded */
	uint64_t failed;	 /* as foreseen */
	uint64_t refused;	 /* no space */
	uint64_t missing;	 /* the backend cannot do it (yet) */
	uint8_t *buf, *buf2;	 /* IO_MAX bytes each */
};

#define IO_MAX (2u << 20)

/* What a seed picks. */
struct mix {
	uint32_t weights[OP_KINDS], total;
	uint32_t threads;
	bool shared; /* the threads work in the same directories */
	size_t nodes_max;
	uint32_t io_bits; /* most writes are shorter than 1 << this */
	uint64_t far;	  /* offsets of sparse files end here */
	uint32_t umask;
	bool crowd;    /* most names go into few directories */
	bool tight;    /* nobody makes room; on our own mount there is little from the start */
	uint64_t room; /* that little, in bytes */
};

struct world {
	/* how it was called */
	const char *program;
	struct backend *b;
	struct backend library, posix;
	uint64_t seed, ops, legs;
	const char *only, *without, *more;
	const char *keep; /* numbers of operations, "1:5-9,2:100"; NULL: all */
	bool trace;
	int round_trips;
	uint32_t threads;    /* 0: as the seed says */
	uint64_t big_dir;    /* entries of one directory */
	const char *scratch; /* a file for copies of the image */

	struct mix mix;
	struct model_rules rules;
	bool has_filetype, has_inline_data;
	struct uext4_info info;
	pthread_mutex_t lock;
	struct model *model; /* lock */
	char *names[NAMES_MAX];
	size_t names_count;
	struct actor actors[THREADS_MAX];
	struct timespec gone_last;     /* lock; a node went */
	uint32_t inodes_hidden;	       /* in use, and not in the model */
	uint64_t checks;	       /* of the image by e2fsck and by our own checker */
	bool named_only;	       /* compare_all(): what has no name is not there */
	struct model_node *meeting[4]; /* directories that all threads use */
	size_t meetings;
};

/* The test has failed: says how to repeat it, and ends the program with status 1. */
void bad(struct actor *a, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));
const char *words(int err);
/* A name that can be printed, in one of a few buffers. */
const char *shown(const char *name, size_t len);

/* ---- world_ops.c ---------------------------------------------------------------------------- */

extern const char *const op_names[OP_KINDS];
void run_op(struct actor *a, uint64_t number);
/* Closes everything @a has open. */
void close_all(struct actor *a);
void pool_add(struct actor *a, struct model_node *n);
void pool_rebuild(struct world *w);
void node_gone(void *world, struct model_node *n);
uint32_t inodes_used(struct actor *a);
/*
 * What has no name any more goes when the kernel forgets it, which it says a little later.  Values
 * in inodes of their own are none of the model's: then this cannot be asked.
 */
void wait_for_frees(struct actor *a);
struct target target_of(struct actor *a, struct model_node *n);

/* ---- world_compare.c ------------------------------------------------------------------------ */

/* Each ends the program if there is a difference. */
void compare_stat(struct actor *a, struct model_node *n);
void compare_contents(struct actor *a, struct model_node *n, void *file);
void compare_xattrs(struct actor *a, struct model_node *n);
void compare_listing(struct actor *a, struct model_node *n);
void compare_node(struct actor *a, struct model_node *n); /* all of the above */
void compare_all(struct actor *a);

#endif
