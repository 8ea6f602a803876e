/* SPDX-License-Identifier: MIT */
/*
 * A file system as plain data in memory: the oracle of the tests that change images.
 *
 * It is written for being right, not for speed: names in hash tables, bytes in sorted pages, every
 * rule of POSIX and of Linux' ext4 once and in words.  Each call exists in two steps: MODEL_ASK
 * says what must come out (0 or a negative errno) and changes nothing; MODEL_DO makes the change,
 * after the file system under test has made it.  So a caller can accept -ENOSPC, which no model
 * can foretell, and leave the model as it was.
 *
 *  O1  A time that a call sets to "now" is known only as a span (model.now) until somebody has
 *      looked at it: model_learn_time().
 *  O2  A node lives while it has a name or is open.
 *  O3  Nothing here takes a lock: threads that share a model take turns.
 */
#ifndef T_MODEL_H
#define T_MODEL_H

#include "uext4.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_PAGE 4096u
#define MODEL_NAME_MAX 255u
#define MODEL_XATTR_NAME_MAX 262u /* longest prefix and name */

/* Flags of chattr that the model knows the meaning of; others are not compared. */
#define MODEL_FL_SYNC 0x00000008u
#define MODEL_FL_IMMUTABLE 0x00000010u
#define MODEL_FL_APPEND 0x00000020u
#define MODEL_FL_NODUMP 0x00000040u
#define MODEL_FL_NOATIME 0x00000080u
#define MODEL_FL_DIRSYNC 0x00010000u
#define MODEL_FL_TOPDIR 0x00020000u
#define MODEL_FL_PROJINHERIT 0x20000000u
#define MODEL_FL_ALL                                                              \
	(MODEL_FL_SYNC | MODEL_FL_IMMUTABLE | MODEL_FL_APPEND | MODEL_FL_NODUMP | \
	 MODEL_FL_NOATIME | MODEL_FL_DIRSYNC | MODEL_FL_TOPDIR | MODEL_FL_PROJINHERIT)

enum model_step { MODEL_ASK, MODEL_DO };

/* What kind of ext4 it stands for. */
struct model_rules {
	uint32_t block_size;
	uint32_t inode_size;
	uint64_t size_max; /* of a file */
	bool extents;	   /* of new files: unwritten blocks exist */
	bool ea_inode;
	bool metadata_csum;
	bool project;
	bool dir_nlink;
	bool kernel; /* system calls of root are asked, not the library; */
	bool fuse;   /* and our own mount answers */
};

struct model_time {
	struct uext4_time t; /* or, while @open: not before this */
	struct uext4_time hi;
	bool open;    /* somewhere in [t, hi] */
	bool or_same; /* or not changed at all: still @was */
	struct uext4_time was;
};

enum model_time_kind { MODEL_ATIME, MODEL_MTIME, MODEL_CTIME, MODEL_CRTIME, MODEL_TIMES };

struct model_page {
	uint64_t index;
	uint8_t *data; /* MODEL_PAGE bytes */
};

struct model_xattr {
	struct model_xattr *next;
	char name[MODEL_XATTR_NAME_MAX + 1];
	size_t size;
	uint8_t value[];
};

struct model_node;

/* A name: in a bucket of its directory, and in the list of its node. */
struct model_entry {
	struct model_entry *next_in_bucket;
	struct model_entry *prev_link, *next_link;
	struct model_node *dir, *node;
	uint64_t born; /* counts the entries that were ever made */
	uint32_t hash;
	uint8_t name_len;
	char name[];
};

struct model_node {
	uint32_t id; /* counts the nodes that were ever made; the root is 1 */
	uint32_t mode;
	uint32_t uid, gid, projid;
	uint32_t flags; /* MODEL_FL_* */
	uint32_t rdev_major, rdev_minor;
	uint32_t nlink;
	uint32_t opens;
	bool linkable; /* has no name yet, but may get one (O_TMPFILE) */
	struct model_time times[MODEL_TIMES];
	/* a regular file; a symlink's target is its contents */
	uint64_t size;
	struct model_page *pages; /* sorted; what is in none is zero */
	size_t pages_count, pages_room;
	struct model_xattr *xattrs;
	/* a directory */
	struct model_node *parent; /* NULL: removed */
	struct model_entry **buckets;
	size_t buckets_count, entries_count;
	struct model_entry *links; /* its names */
	struct model_node *prev, *next;

	/* The caller's. */
	uint32_t ino; /* in the file system under test */
	uint32_t generation;
	uint32_t owner; /* the thread that alone may use it */
	bool shared;	/* several threads do: its own attributes are not foreseen */
	size_t pool_index;
};

struct model {
	struct model_rules rules;
	struct model_node *root;
	struct model_node *nodes; /* all of them, newest first */
	size_t nodes_count;
	uint32_t last_id;
	uint64_t last_born;
	/* The span in which the call that is being copied happened. */
	struct {
		struct uext4_time lo, hi;
	} now;
	/* Called when a node is gone. */
	void (*gone)(void *arg, struct model_node *node);
	void *arg;
};

struct model *model_create(const struct model_rules *rules);
void model_destroy(struct model *m);
/* A copy that shares nothing; `ino`, `owner` and the like are copied, too. */
struct model *model_copy(const struct model *m);
struct model_node *model_node(const struct model *m, uint32_t id); /* NULL: gone */

bool model_is_dir(const struct model_node *n);
bool model_is_reg(const struct model_node *n);
bool model_is_lnk(const struct model_node *n);
/* NULL: there is none. */
struct model_entry *model_find(const struct model_node *dir, const char *name, size_t len);
/* The next entry behind @e (NULL: the first) in no particular order; NULL: that was all. */
struct model_entry *model_next_entry(const struct model_node *dir, const struct model_entry *e);
/* Is @n inside of @dir, or @dir itself? */
bool model_is_below(const struct model_node *n, const struct model_node *dir);

/* ---- names: as the calls of the same name in uext4.h ---------------------------------------- */

struct model_new {
	struct uext4_new attrs;
	const uint8_t *target; /* of a symlink, or NULL */
	size_t target_len;
};

/* With MODEL_ASK @ret_node may be NULL. */
int model_make(struct model *m, enum model_step step, struct model_node *dir, const char *name,
	       size_t len, const struct model_new *new, struct model_node **ret_node);
int model_tmpfile(struct model *m, enum model_step step, struct model_node *dir,
		  const struct model_new *new, struct model_node **ret_node); /* it is open */
int model_link(struct model *m, enum model_step step, struct model_node *n, struct model_node *dir,
	       const char *name, size_t len);
int model_unlink(struct model *m, enum model_step step, struct model_node *dir, const char *name,
		 size_t len);
int model_rmdir(struct model *m, enum model_step step, struct model_node *dir, const char *name,
		size_t len);
int model_rename(struct model *m, enum model_step step, struct model_node *dir, const char *name,
		 size_t len, struct model_node *new_dir, const char *new_name, size_t new_len,
		 uint32_t flags, struct model_node **ret_whiteout);

/* ---- attributes ----------------------------------------------------------------------------- */

int model_set_attr(struct model *m, enum model_step step, struct model_node *n,
		   const struct uext4_attr *attr);
struct model_xattr *model_xattr_find(const struct model_node *n, const char *name);
/* @value NULL: it is removed. */
int model_xattr_set(struct model *m, enum model_step step, struct model_node *n, const char *name,
		    const void *value, size_t size, uint32_t flags);
/*
 * Must there be room for it, may there, or can there not?  What the layout of the inode decides is
 * not the model's business.
 */
enum model_room { MODEL_ROOM, MODEL_ROOM_PERHAPS, MODEL_NO_ROOM };
enum model_room model_xattr_room(const struct model *m, const struct model_node *n,
				 const char *name, size_t size);

/*
 * Compares a time with what a stat shows, and learns it where it was open.  False: it cannot be.
 */
bool model_learn_time(const struct model *m, struct model_node *n, enum model_time_kind kind,
		      struct uext4_time seen);

/* A call that failed may have changed mtime and ctime of @n all the same. */
void model_may_have_touched(struct model *m, struct model_node *n);

/* ---- contents ------------------------------------------------------------------------------- */

int model_open(struct model *m, enum model_step step, struct model_node *n, uint32_t flags);
void model_close(struct model *m, struct model_node *n);
/* *ret_len: how much of it, at *ret_offset, is written. */
int model_write(struct model *m, enum model_step step, struct model_node *n, uint32_t file_flags,
		uint64_t offset, const uint8_t *data, size_t len, uint64_t *ret_offset,
		size_t *ret_len);
/* Bytes within the file are stored through a mapping of it. */
void model_store(struct model *m, struct model_node *n, uint64_t offset, const uint8_t *data,
		 size_t len);
int model_fallocate(struct model *m, enum model_step step, struct model_node *n,
		    uint32_t file_flags, uint32_t flags, uint64_t offset, uint64_t len);
/* What is there of [@offset, @offset + @len): how many bytes. */
size_t model_read(const struct model_node *n, uint64_t offset, uint8_t *buf, size_t len);
/* The first page at or behind byte @offset that was ever written; NULL: there is none. */
const struct model_page *model_next_page(const struct model_node *n, uint64_t offset);

#endif
