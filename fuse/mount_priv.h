/* SPDX-License-Identifier: MIT */
/*
 * What the files of the FUSE front end share: the options of a mount, the server behind its
 * requests, and the handles the server keeps open.
 */
#ifndef UEXT4_FUSE_MOUNT_PRIV_H
#define UEXT4_FUSE_MOUNT_PRIV_H

#define FUSE_USE_VERSION 314

#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "uext4.h"

/* ---- options.c ------------------------------------------------------------------------------ */

enum mount_acl {
	MOUNT_ACL_AUTO, /* where permissions are checked and the image may have ACLs */
	MOUNT_ACL_OFF,
	MOUNT_ACL_ON,
};

enum mount_action { MOUNT_RUN, MOUNT_HELP, MOUNT_VERSION, MOUNT_FAKE };

/* Everything the command line says.  Strings point into it or are freed with it. */
struct mount_options {
	enum mount_action action;
	const char *image;
	const char *dir;
	bool is_helper; /* called by mount(8) */
	bool foreground;
	bool debug;
	bool single_thread;
	bool read_only;	 /* asked for by name */
	bool read_write; /* asked for by name: no fall back */
	bool fakeroot;
	bool allow_other; /* or allow_root: the mount has more users than one */
	bool default_permissions;
	bool suid_dev; /* suid,dev as the kernel's own mounts have it */
	bool no_default_opts;
	bool errors_panic;
	enum mount_acl acl;
	bool has_uid;
	bool has_gid;
	bool has_umask;
	uid_t uid;
	gid_t gid;
	mode_t umask;
	unsigned threads_max;	 /* 0: by the number of processors */
	unsigned read_bytes_max; /* 0: the kernel's limit */
	unsigned readahead_bytes;
	uint32_t statfs_flags;
	char *lockfile;
	char *journal_path;
	struct uext4_open_options open;
	struct fuse_args session_args; /* what libfuse is told */
	struct fuse_args conn_args;    /* the options of fuse_parse_conn_info_opts() */
};

/*
 * Reads the command line into @options.  On failure, after saying why on stderr, returns -EINVAL
 * or -ENOMEM.  mount_options_finish() is due in any case.
 */
int mount_options_parse(struct mount_options *options, int argc, char **argv);
void mount_options_finish(struct mount_options *options);

/* ---- handles.c ------------------------------------------------------------------------------ */

struct handles;

/*
 * Files and directories stay open between requests, in bounded tables: the kernel opens and closes
 * without telling.  May be called from any thread.
 */
int handles_create(struct uext4_fs *fs, struct handles **ret_handles);
void handles_destroy(struct handles *handles);

/* An open regular file, shared by all who ask for the same inode and flags. */
struct open_file {
	uint32_t ino;
	unsigned users;	    /* requests that work with it now */
	bool is_private;    /* not in the table: there was no room */
	uint32_t flags;	    /* enum uext4_file_flag */
	bool is_forgotten;  /* the last user closes it */
	uint64_t used_last; /* for the choice of whom to close */
	struct uext4_file *file;
};

/* @flags 0: to read, for which any handle will do. */
int handles_get_file(struct handles *handles, uint32_t ino, uint32_t flags,
		     struct open_file **ret_file);
void handles_put_file(struct handles *handles, struct open_file *file);
/* Nobody needs @ino any more: it is not kept open for the next request. */
void handles_forget(struct handles *handles, uint32_t ino);

enum { DIR_BATCH_COUNT = 128 };

/* A listing in progress.  One request at a time has it; `next` to `count` are still to be sent. */
struct open_dir {
	uint32_t ino;
	uint64_t cookie; /* where the listing stands: of the last entry sent */
	bool is_busy;
	bool is_private;
	bool is_forgotten; /* who uses it closes it */
	uint32_t user_ino; /* busy: of which directory it is wanted */
	bool is_at_end;	   /* the engine has said that nothing follows */
	uint64_t used_last;
	struct uext4_dir *dir; /* NULL: free */
	size_t next;
	size_t count;
	struct uext4_dirent batch[DIR_BATCH_COUNT];
};

/* The listing of directory @ino that stands at @cookie, or a new one set there. */
int handles_take_dir(struct handles *handles, uint32_t ino, uint64_t cookie,
		     struct open_dir **ret_dir);
void handles_give_dir(struct handles *handles, struct open_dir *dir);

/* The next entry to send; NULL at the end of the directory. */
int open_dir_peek(struct open_dir *dir, const struct uext4_dirent **ret_entry);
void open_dir_advance(struct open_dir *dir);

/* At least @size bytes that belong to the calling thread until its next call; NULL: no memory. */
void *thread_buffer(size_t size);

/* ---- nodes.c -------------------------------------------------------------------------------- */

struct nodes;

int nodes_create(struct uext4_fs *fs, struct nodes **ret_nodes);
void nodes_destroy(struct nodes *nodes);
/* The kernel is about to be told of @ino once more. */
int nodes_add(struct nodes *nodes, uint32_t ino);
/* It has forgotten @lookups of these; true: all of them. */
bool nodes_forget(struct nodes *nodes, uint32_t ino, uint64_t lookups);
/* Holds @ino in the engine if the kernel knows it; false: it does not. */
bool nodes_hold(struct nodes *nodes, uint32_t ino);
void nodes_unhold(struct nodes *nodes, uint32_t ino);

/* ---- share.c -------------------------------------------------------------------------------- */

struct share;

int share_create(struct uext4_fs *fs, struct share **ret_share);
void share_destroy(struct share *share);
/* From now on the library's mappings are heard of; -EBUSY: there are some. */
int share_begin(struct share *share, struct fuse_session *session);
/* No more: the kernel asks nothing any more. */
void share_end(struct share *share);
/* The kernel is about to open @ino, so or so; and closed what share_open() told. */
int share_open(struct share *share, uint32_t ino, bool *ret_direct);
void share_release(struct share *share, uint32_t ino, bool direct);

/* ---- wire.c --------------------------------------------------------------------------------- */

/* Between INIT and its answer, which one thread gives before all others have anything to do. */
struct wire {
	uint64_t init_unique;
	uint32_t promised; /* FUSE_* flags that the answer gets; 0: no INIT, or nothing to add */
};

/* As fuse_session_mount(); the session's userdata is a struct server. */
int wire_mount(struct fuse_session *session, const char *dir);
/* Of the request that the calling thread has read last: */
/* who asks; 0: the kernel itself, or it does not say. */
uint32_t wire_task(void);
/* Does it take setuid and setgid from the file? */
bool wire_kills_privileges(void);

/*
 * A descriptor of the connection for the calling thread alone, if it may have one: several that
 * read one descriptor get in each other's way.
 */
void wire_open_own(struct fuse_session *session);
void wire_close_own(void);
/* Looks for a request, for up to @ns, without sleeping; false: there is none. */
bool wire_linger(struct fuse_session *session, uint64_t ns);

/* ---- fuse.c --------------------------------------------------------------------------------- */

/* The server of one mount; every field is constant once init has been answered. */
struct server {
	struct uext4_fs *fs;
	struct handles *handles;
	struct nodes *nodes;	      /* NULL: a read-only mount, where nothing goes */
	struct share *share;	      /* NULL: the image belongs to the mount alone */
	struct fuse_session *session; /* of a mount that has the image alone */
	const struct mount_options *options;
	struct fuse_conn_info_opts *conn_opts;
	struct wire wire;
	bool use_acl;	     /* the kernel enforces ACLs */
	bool hide_acl;	     /* ACLs are not shown as attributes */
	bool seconds_only;   /* inodes have no room for fractions of them */
	bool has_no_open;    /* the kernel opens files without asking, */
	bool has_no_opendir; /* and directories; both set by init */
};

extern const struct fuse_lowlevel_ops server_ops;

static inline uint32_t ino_of(fuse_ino_t node)
{
	return node == FUSE_ROOT_ID ? UEXT4_ROOT_INO : (uint32_t)node;
}

static inline fuse_ino_t node_of(uint32_t ino)
{
	return ino == UEXT4_ROOT_INO ? FUSE_ROOT_ID : ino;
}

/* ---- session.c ------------------------------------------------------------------------------ */

/* What libfuse is told beyond what the user says; sets @server's options, and what ACLs mean. */
int session_add_args(struct server *server, struct mount_options *options,
		     const struct uext4_info *info, bool writable);

/* ---- loop.c --------------------------------------------------------------------------------- */

/* How many threads may read requests at the same time; 1: there is no other one at all. */
unsigned session_readers(const struct mount_options *options);

/*
 * Answers until the end of the mount, or until fuse_session_exit() and a signal (SIGUSR2, caught)
 * to the calling thread; 0, or why not.
 */
int session_loop(struct fuse_session *session, const struct mount_options *options);

#endif
