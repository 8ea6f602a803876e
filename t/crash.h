/* SPDX-License-Identifier: MIT */
/*
 * The test of power cuts: what its files share.  crash.c runs it and judges images, crash_work.c
 * changes an image through a recording device and keeps account of what was promised, crash_log.c
 * makes from the record what the disk may hold after a cut.
 *
 * What an image must hold after a cut, thread by thread (each has a directory of its own):
 *
 *  K1  Names, links, modes, owners, attributes and targets are those after operation k, for one k
 *      for all of them: names go through one journal, in order.  k lies between what the last
 *      promise before the cut says and the last operation that had begun.
 *  K2  The bytes of a file are, each for itself, of some version between the one that was promised
 *      and the last that was begun; zero where one of these has a hole or ends.  Nothing else: no
 *      other file's bytes, no older ones.
 *  K3  Its size lies between the smallest and largest of those versions.
 *  K4  What fsync() and the like returned 0 for is a promise (P): the versions of that file's
 *      bytes, and the last operation that changed its inode or names; sync() promises all.
 */
#ifndef T_CRASH_H
#define T_CRASH_H

#include "model.h"
#include "tool.h"

#include "api/test_hooks.h"
#include "dev/dev.h"
#include "dev/record.h"

#include <pthread.h>

#define CRASH_THREADS_MAX 3u
#define FILE_MAX (320u << 10) /* bytes; whole versions are kept */

/* The contents of a file after operation `op` of its thread. */
struct version {
	uint64_t op;
	uint64_t size;
	uint8_t *data;
};

struct history {
	uint32_t id; /* of the node */
	struct version *versions;
	size_t count, room;
	uint64_t last_meta; /* the last operation that changed its inode or names */
};

struct snap_entry {
	char *path; /* from the thread's directory; "" is that itself */
	uint32_t id;
	uint64_t digest; /* of all that K1 speaks of */
	char text[96];	 /* the same for people */
};

/* Names after an operation, sorted by path. */
struct snap {
	struct snap_entry *entries;
	size_t count;
	uint64_t digest;
};

/* K4: from the end of operation @op of @thread on. */
struct promise {
	uint32_t thread;
	uint64_t op;
	uint64_t k[CRASH_THREADS_MAX]; /* operations, by thread; of sync() the log tells them */
	bool all;		       /* data, too, of everything up to k */
	uint32_t node;		       /* or of this file up to `op` */
};

/* ---- crash_plan.c: what is to be done ---- */

enum step_kind {
	STEP_MAKE,	 /* a name of type and mode `a`; a symlink to `b` bytes */
	STEP_WRITE,	 /* `b` bytes at `a` */
	STEP_APPEND,	 /* `b` bytes */
	STEP_TRUNCATE,	 /* to `a` */
	STEP_FALLOCATE,	 /* `b` bytes at `a`, flags `c` */
	STEP_FSYNC,	 /* flags `c` */
	STEP_FSYNC_NODE, /* the directory, or what is not a regular file */
	STEP_SYNC,
	STEP_FREEZE,
	STEP_RENAME, /* to `to`, flags `c` */
	STEP_LINK,   /* as `to` */
	STEP_UNLINK,
	STEP_RMDIR,
	STEP_CHMOD,    /* `a` */
	STEP_SETXATTR, /* `b` bytes, which `a` */
	STEP_OPEN,     /* in place `a` */
	STEP_CLOSE,    /* of place `a` */
	STEP_REST,     /* let the threads of the engine work */
};

/* A directory, by its node's number, and a name in it. */
struct place {
	uint32_t dir;
	char name[80];
};

struct step {
	enum step_kind kind;
	struct place at, to;
	int handle; /* of worker.open[], instead of `at`; -1 */
	uint64_t a, b, c;
};

/* One thread of the workload. */
struct worker {
	struct work *work;
	pthread_t thread;
	uint32_t number; /* from 0 */
	uint32_t dir_ino;
	struct model *model; /* its root is the thread's directory */
	struct rng rng;
	struct snap **snaps; /* [0, ops], the first operation is 1; neighbours may be the same */
	char (*texts)[100];  /* what each operation was, for people */
	struct history *histories; /* by id of the node */
	size_t histories_room;
	struct step *steps; /* to come */
	size_t steps_first, steps_count, steps_room;
	uint64_t begun, ended; /* operations */
	struct {
		struct model_node *node;
		struct uext4_file *file;
	} open[4];
	uint64_t skipped; /* the library cannot do it yet */
	unsigned names;	  /* given so far */
	uint8_t *buf;
};

struct work {
	uint8_t *base; /* the fresh image */
	uint64_t base_bytes;
	uint64_t seed, ops; /* a thread */
	uint32_t threads;
	uint32_t block_size;
	bool has_extents, has_journal;
	struct uext4_open_options options;
	struct uext4_fs *fs;
	struct dev *record;
	struct worker workers[CRASH_THREADS_MAX];
	pthread_mutex_t lock; /* promises */
	struct promise *promises;
	size_t promises_count, promises_room;
	uint64_t bytes_max;   /* of live data, a thread */
	bool errors_expected; /* the disk or memory fails: the first error ends it */
	_Atomic bool stopped; /* a call of the workload had one */
	bool ready;	      /* the threads' directories are promised */
	int error;	      /* the first that anybody was told, 0: none */
};

/* Marks: which operation begins or ends. */
#define MARK_MAKE(thread, op, end) \
	(UINT64_C(1) << 63 | (uint64_t)(thread) << 48 | (op) << 1 | (end))
#define MARK_THREAD(mark) ((uint32_t)((mark) >> 48 & 0xff))
#define MARK_OP(mark) ((mark) >> 1 & 0x7fffffffffff)
#define MARK_IS_END(mark) ((mark)&1)

/* The test has failed: says how to repeat it, and ends the program.  In each program. */
void bad(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Reads the fresh image at @path into @w. */
void work_load(struct work *w, const char *path);
/* What the seed decides but the operations. */
void work_pick_options(struct work *w);
/*
 * Changes the image on @dev (taken over), which holds a fresh file system.  With @record, a
 * recording device in that stack, marks are made in its log.
 */
void work_run(struct work *w, struct dev *dev, struct dev *record);
void work_free(struct work *w);
/* What a directory's or file's node must look like: for snapshots and for images. */
struct look {
	uint32_t ino, mode, nlink, uid, gid;
	uint64_t xattrs; /* a digest */
	const uint8_t *target;
	size_t target_len;
};
uint64_t look_digest(const char *path, const struct look *l, char *ret_text, size_t text_size);
uint64_t xattr_digest(const char *name, const void *value, size_t size);

/* ---- crash_plan.c ---- */

/* Adds steps to those to come. */
void plan(struct worker *k);

/* ---- crash_account.c ---- */

struct history *history_of(struct worker *k, uint32_t id);
/* Operation @op changed the inode or the names of @n; its contents. */
void note_meta(struct worker *k, const struct model_node *n, uint64_t op);
void note_version(struct worker *k, const struct model_node *n, uint64_t op);
void note_promise(struct worker *k, const struct promise *p);
struct snap *take_snap(const struct model *m);

/* ---- crash_judge.c ---- */

struct progress;

/* A device of @image, which is as large as the base. */
struct dev *disk_of(const struct work *w, uint8_t *image);
/* K1 to K4; @at: what had begun and ended. */
void judge_promises(const struct work *w, struct uext4_fs *fs, const struct progress *at);
/* Opens @dev (taken over) for writing and closes it; @look: and judges what it shows between. */
void judge_recovery(const struct work *w, struct dev *dev, const struct progress *at, bool look);
/* A recovered image: nothing is wrong with it, and it holds what was promised. */
void judge_image(const struct work *w, uint8_t *image, const struct progress *at);

/* ---- crash_log.c ---------------------------------------------------------------------------- */

struct log;

/* A place in the log where the power may fail, and what is decided about it. */
struct cut {
	size_t at;     /* entries before it have happened */
	uint64_t seed; /* which unflushed sectors are there; 0: none, 1: all */
};

struct log *log_open(const char *path, const uint8_t *base, uint64_t base_bytes);
/* What sync() and freeze() promise: all that had ended in the log when they began. */
void log_fill_promises(const struct log *l, struct work *w);
void log_close(struct log *l);
/*
 * The places of all cuts worth trying, in order: around every flush, and behind the end of every
 * operation that promises.  @extra: more, with random sectors, for each flush.  free() it.
 */
struct cut *log_cuts(const struct log *l, const struct work *w, unsigned extra, uint64_t seed,
		     size_t *ret_count);
/*
 * The disk after @cut; cuts must be asked for in order.  Private memory of `base_bytes` bytes;
 * munmap() it.
 */
uint8_t *log_image(struct log *l, const struct cut *cut);
/* What has happened up to the last cut asked for. */
struct progress {
	uint64_t begun[CRASH_THREADS_MAX], ended[CRASH_THREADS_MAX];
	bool ready;	  /* the threads' directories are promised */
	size_t unflushed; /* writes */
};
const struct progress *log_progress(const struct log *l);
uint64_t log_flushes(const struct log *l);
uint64_t log_writes(const struct log *l);
/* Prints the entries around a cut, for people. */
void log_print(const struct log *l, const struct work *w, size_t from, size_t to);
/* Canary: flushes do nothing, so that the judges must find something. */
void log_lose_flushes(struct log *l);

#endif
