/* SPDX-License-Identifier: MIT */
/*
 * libuext4: ext4 in user space.
 *
 * Opens ext2, ext3 and ext4 images and devices, without root, a kernel mount or a virtual machine.
 * Opened for reading (the default) the image is never written: a journal that was left dirty is
 * replayed into memory.  With UEXT4_OPEN_WRITE it is replayed into the image first, and every
 * change goes through the journal, as the kernel does it.
 *
 * CONTRACT
 *
 *  Errors    Functions that can fail return 0 or a negative errno; results go to `ret_` parameters,
 *            which are untouched on failure.  uext4_last_error() explains the calling thread's last
 *            failure in words.  -EUCLEAN: the image's structure is wrong.  -EBADMSG: a checksum is
 *            wrong.  -EOPNOTSUPP: a feature this version does not know (named in the text).
 *            -EBUSY: somebody else is using the image.  -EROFS: it was opened for reading, or
 *            became read-only after an error, which the text names.
 *  Changes   Who may do what is the caller's business: calls that change act as root would, and say
 *            whom new files belong to.  What POSIX ties to a change (times, dropped setuid bits and
 *            capabilities, setgid directories, default ACLs) happens by itself.
 *  Crashes   After a crash at any point the image is what some moment between the last sync and
 *            the crash was, file by file as the kernel's data=ordered; what uext4_fsync() or
 *            uext4_sync() returned 0 for is there.
 *  Threads   Every function may be called from any thread at any time, on the same objects, with
 *            two exceptions: nothing may use an object while or after it is closed, and the buffers
 *            given to a call belong to that call until it returns.  No function takes a lock that
 *            spans the file system; readers of one file run in parallel.
 *  State     There is no global state: any number of images may be open in one process.
 *  Names     are byte strings without encoding.  A component has 1 to 255 bytes, none of them
 *            '/' or NUL.  Inode numbers are ext4's own: the root directory is UEXT4_ROOT_INO.
 *  ABI       Structs that the caller fills start with `size`, set to sizeof; structs that the
 *            library fills may grow at the end only with a new SONAME.
 */
#ifndef UEXT4_H
#define UEXT4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define UEXT4_MUST_CHECK __attribute__((warn_unused_result))
#else
#define UEXT4_MUST_CHECK
#endif

#define UEXT4_ROOT_INO 2u
#define UEXT4_NAME_MAX 255u

struct uext4_fs;   /* one open image */
struct uext4_file; /* one open regular file */
struct uext4_dir;  /* one open directory listing */

/* The library's version, "MAJOR.MINOR.PATCH".  Never fails. */
const char *uext4_version(void);

/*
 * The text of the calling thread's last failed call, "" if there was none.  Valid until the same
 * thread calls the library again.
 */
const char *uext4_last_error(void);

/* ---- open and close ------------------------------------------------------------------------ */

enum uext4_open_flag {
	/* Show the image as it lies, without replaying its journal. */
	UEXT4_OPEN_NORECOVERY = 1u << 0,
	/*
	 * Do not lock the image or look for other users of it.  What is read may be inconsistent.
	 */
	UEXT4_OPEN_NOLOCK = 1u << 1,
	/*
	 * For changes.  Takes an exclusive lock, replays a dirty journal, finishes what a crash
	 * left, and marks the image as in use.  Not together with NORECOVERY, NOLOCK or a backup
	 * superblock.
	 */
	UEXT4_OPEN_WRITE = 1u << 2,
	/* Blocks are allocated by the call that writes, not when the data is written back. */
	UEXT4_OPEN_NODELALLOC = 1u << 3,
	/*
	 * No flushes of the device: several times faster, and a crash of the machine (not of the
	 * program) may cost the image.  For images that would be thrown away then.
	 */
	UEXT4_OPEN_NOBARRIER = 1u << 4,
};

enum uext4_data_mode { UEXT4_DATA_ORDERED, UEXT4_DATA_JOURNAL, UEXT4_DATA_WRITEBACK };

/*
 * What to do when the structure on disk turns out to be wrong while the image is open for writing.
 */
enum uext4_errors {
	UEXT4_ERRORS_DEFAULT,  /* as the superblock says */
	UEXT4_ERRORS_CONTINUE, /* note it in the superblock and go on */
	UEXT4_ERRORS_RO,       /* from then on every change is -EROFS */
	UEXT4_ERRORS_PANIC, /* the same, and reading fails too: the program should stop serving */
};

struct uext4_open_options {
	size_t size;		  /* sizeof(struct uext4_open_options) */
	uint32_t flags;		  /* enum uext4_open_flag */
	uint32_t block_size;	  /* bytes; only with superblock != 0; 0 tries every size */
	uint64_t offset;	  /* where the file system starts in the image, bytes */
	uint64_t length;	  /* how many bytes of the image belong to it; 0: up to the end */
	uint64_t superblock;	  /* block number of a backup superblock; 0: the primary one */
	uint64_t cache_bytes;	  /* bound of data and metadata kept in memory; 0: 32 MiB */
	const char *journal_path; /* the external journal of a dirty image; NULL: none is given */
	uint32_t data_mode;	  /* enum uext4_data_mode; for writing */
	uint32_t errors;	  /* enum uext4_errors; for writing */
	uint32_t commit_ms;	  /* the running transaction commits after this; 0: 5,000 */
	uint32_t unused;	  /* 0 */
	uint64_t dirty_bytes;	  /* writers wait when so much is dirty; 0: half of cache_bytes */
};

/*
 * Opens the image at @path: a regular file or block device.  @options may be NULL.
 * Reads the superblock, the journal if it is dirty, and little else, whatever the image's size.
 * Errors: -EBUSY in use by somebody else; -EOPNOTSUPP an incompatible feature; -EINVAL no ext4
 * here, or bad options; -ENOTRECOVERABLE a journal is pending that cannot be replayed (an external
 * one that was not given, or a damaged one); -EUCLEAN, -EBADMSG damaged; -EIO, -ENOMEM, and those
 * of open(2).
 */
int uext4_open(const char *path, const struct uext4_open_options *options, struct uext4_fs **ret_fs)
	UEXT4_MUST_CHECK;

/* The same for an open file descriptor, which is duplicated: the caller keeps its own. */
int uext4_open_fd(int fd, const struct uext4_open_options *options, struct uext4_fs **ret_fs)
	UEXT4_MUST_CHECK;

/*
 * Closes @fs (NULL is fine).  All files and directories of it must have been closed before; while
 * any is mapped or pinned it does nothing and returns -EBUSY.
 * Opened for writing: writes all that is dirty, empties the journal and marks the image clean; the
 * first error of that is returned, and @fs is closed all the same.
 */
int uext4_close(struct uext4_fs *fs);

/* ---- about the file system ------------------------------------------------------------------ */

enum uext4_feature_set { UEXT4_COMPAT, UEXT4_INCOMPAT, UEXT4_RO_COMPAT };

struct uext4_info {
	uint8_t uuid[16];
	char label[17];		    /* NUL-terminated */
	char last_mounted[65];	    /* NUL-terminated */
	uint32_t features[3];	    /* by enum uext4_feature_set */
	uint32_t unknown_ro_compat; /* bits of features[] this version does not know */
	uint32_t revision;
	uint32_t state;		/* s_state: 1 clean, 2 errors, 4 orphans; after replay */
	uint32_t errors_policy; /* s_errors */
	uint32_t error_count;	/* s_error_count */
	uint32_t block_size;
	uint32_t cluster_size; /* bytes; block_size without bigalloc */
	uint32_t inode_size;
	uint32_t desc_size;
	uint32_t blocks_per_group;
	uint32_t inodes_per_group;
	uint32_t groups;
	uint32_t hash_version; /* s_def_hash_version */
	uint64_t blocks;
	uint64_t blocks_free;
	uint64_t blocks_reserved;
	uint32_t inodes;
	uint32_t inodes_free;
	int64_t made_time; /* s_mkfs_time, seconds */
	int64_t mount_time;
	int64_t write_time;
	int64_t check_time;
	uint32_t mount_count;
	/* journal */
	uint32_t journal_ino;	      /* 0: none, or external */
	uint32_t journal_blocks;      /* journal blocks; 0 when external or none */
	uint32_t journal_fast_blocks; /* of these, fast-commit blocks */
	uint8_t journal_external;
	uint8_t journal_dirty;	  /* the image as it lies needs recovery */
	uint8_t journal_replayed; /* this view has the journal applied, in memory */
	uint8_t journal_checksum; /* 0 none, 1, 2, 3: jbd2 checksum version */
	uint32_t replayed_transactions;
	uint32_t replayed_blocks;
	uint32_t replayed_revokes;
	uint32_t replayed_fast_commits;
	uint32_t orphans;      /* inodes on the orphan list or in the orphan file, after replay */
	uint8_t free_known;    /* 0: descriptors are damaged; blocks_free, inodes_free are 0 */
	uint8_t orphans_known; /* 0: the orphan list is damaged; orphans is 0 */
};

/* Never fails: what is damaged is left out. */
int uext4_info(struct uext4_fs *fs, struct uext4_info *ret_info) UEXT4_MUST_CHECK;

/*
 * The name of bit @bit (0 to 31) of a feature set as mke2fs spells it, or NULL if it has none.
 * Never fails; the string is constant.
 */
const char *uext4_feature_name(enum uext4_feature_set set, unsigned bit);

/* As statfs(2) of a kernel mount of the image (bsddf, unless @minixdf counts overhead in). */
struct uext4_statfs {
	uint64_t blocks; /* of block_size bytes */
	uint64_t blocks_free;
	uint64_t blocks_available; /* to unprivileged users */
	uint64_t inodes;
	uint64_t inodes_free;
	uint64_t fsid; /* as the kernel folds it from the UUID */
	uint32_t block_size;
	uint32_t name_max;
};

enum uext4_statfs_flag { UEXT4_STATFS_MINIXDF = 1u << 0 };

int uext4_statfs(struct uext4_fs *fs, uint32_t flags, struct uext4_statfs *ret) UEXT4_MUST_CHECK;

/* What the engine has done since the image was opened. */
struct uext4_stats {
	uint64_t device_reads; /* read requests to the image */
	uint64_t device_bytes_read;
	uint64_t buffer_hits; /* metadata blocks found in memory */
	uint64_t buffer_misses;
	uint64_t page_hits; /* file pages found in memory */
	uint64_t page_misses;
	uint64_t cache_bytes;	/* now in use for both */
	uint64_t device_writes; /* write requests */
	uint64_t device_bytes_written;
	uint64_t device_flushes;
	uint64_t commits; /* transactions */
};

int uext4_stats(struct uext4_fs *fs, struct uext4_stats *ret_stats) UEXT4_MUST_CHECK;

/* ---- names and attributes ------------------------------------------------------------------- */

/*
 * Finds the entry @name of directory @dir_ino.  "." and ".." are looked up like any other.
 * Errors: -ENOENT, -ENOTDIR, -ENAMETOOLONG, -EINVAL (empty, '/' or NUL inside).
 */
int uext4_lookup(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 uint32_t *ret_ino) UEXT4_MUST_CHECK;

enum uext4_resolve_flag {
	UEXT4_RESOLVE_NOFOLLOW = 1u << 0,    /* do not follow a symlink in the last component */
	UEXT4_RESOLVE_NO_SYMLINKS = 1u << 1, /* -ELOOP on any symlink */
};

/*
 * Walks @path from @start_ino ('/' at its head starts at the image's root), following symlinks as
 * if the image were the whole world: ".." of the root is the root.  "" is @start_ino itself.
 * Errors: those of uext4_lookup(), and -ELOOP after 40 symlinks.
 */
int uext4_resolve(struct uext4_fs *fs, uint32_t start_ino, const char *path, uint32_t flags,
		  uint32_t *ret_ino) UEXT4_MUST_CHECK;

struct uext4_time {
	int64_t sec; /* since 1970, UTC */
	uint32_t nsec;
};

struct uext4_stat {
	uint32_t ino;
	uint32_t mode; /* type and permissions, as st_mode */
	uint32_t nlink;
	uint32_t uid;
	uint32_t gid;
	uint32_t projid;
	uint32_t rdev_major; /* of a device node */
	uint32_t rdev_minor;
	uint32_t flags; /* i_flags as lsattr shows them */
	uint32_t generation;
	uint32_t block_size; /* st_blksize */
	uint64_t size;
	uint64_t blocks; /* of 512 bytes, as st_blocks */
	uint64_t version;
	struct uext4_time atime;
	struct uext4_time mtime;
	struct uext4_time ctime;
	struct uext4_time crtime; /* 0.0 where the inode has no room for it */
	uint8_t has_crtime;
	uint8_t is_inline; /* the contents lie inside the inode */
	uint8_t is_mapped; /* uext4_mmap() has mappings of it */
};

/* The attributes of inode @ino.  Errors: -ESTALE not in use; -EINVAL no such number. */
int uext4_stat(struct uext4_fs *fs, uint32_t ino, struct uext4_stat *ret_stat) UEXT4_MUST_CHECK;

/*
 * The target of symlink @ino, without a NUL, into @buf.  -ERANGE if it does not fit into @size
 * bytes; @size of 4096 always suffices unless blocks are larger.  -EINVAL: no symlink.
 */
int uext4_readlink(struct uext4_fs *fs, uint32_t ino, void *buf, size_t size, size_t *ret_len)
	UEXT4_MUST_CHECK;

/* ---- directories ---------------------------------------------------------------------------- */

enum uext4_file_type { /* as in directory entries on disk */
		       UEXT4_FT_UNKNOWN = 0,
		       UEXT4_FT_REG = 1,
		       UEXT4_FT_DIR = 2,
		       UEXT4_FT_CHR = 3,
		       UEXT4_FT_BLK = 4,
		       UEXT4_FT_FIFO = 5,
		       UEXT4_FT_SOCK = 6,
		       UEXT4_FT_LNK = 7,
};

struct uext4_dirent {
	uint32_t ino;
	uint8_t type;	  /* enum uext4_file_type; UNKNOWN where the image does not store it */
	uint8_t name_len; /* 1 to 255 */
	uint64_t cookie;  /* continue behind this entry; never 0, fits 63 bits */
	char name[256];	  /* name_len bytes and a NUL */
};

int uext4_dir_open(struct uext4_fs *fs, uint32_t ino, struct uext4_dir **ret_dir) UEXT4_MUST_CHECK;
void uext4_dir_close(struct uext4_dir *dir);

/*
 * Fills @entries with up to @count entries behind @cookie (0: from the start), "." and ".."
 * included; *ret_count of 0 is the end.  Cookies stay valid while the directory changes and across
 * handles of the same directory: an entry that is there from the first to the last call of a
 * listing appears exactly once.  Any cookie may be given at any time; sequential calls are fast.
 */
int uext4_dir_read(struct uext4_dir *dir, uint64_t cookie, struct uext4_dirent *entries,
		   size_t count, size_t *ret_count) UEXT4_MUST_CHECK;

/* ---- file contents -------------------------------------------------------------------------- */

enum uext4_file_flag {
	UEXT4_FILE_WRITE = 1u << 0,
	UEXT4_FILE_APPEND = 1u << 1, /* every write goes to the end */
	UEXT4_FILE_SYNC = 1u << 2,   /* every write is followed by what uext4_fsync() does */
	UEXT4_FILE_DIRECT = 1u << 3, /* large aligned reads and writes may pass the cache by */
	/*
	 * The writer is not privileged: setuid, setgid and capabilities go with the first write,
	 * and reserved blocks are not for him, nor for stores through mappings of the file.
	 */
	UEXT4_FILE_KILL_PRIV = 1u << 4,
	/*
	 * The caller has done what write(2) does first: looked whether an append-only file is
	 * appended to, and taken capabilities away.
	 */
	UEXT4_FILE_CHECKED = 1u << 5,
};

/*
 * Opens regular file @ino.  A file that is open stays when its last link goes.
 * Errors: -EISDIR, -EINVAL (a symlink, device, ...), -ESTALE; for writing -EROFS, -EPERM
 * (immutable, or append-only without APPEND).
 */
int uext4_file_open(struct uext4_fs *fs, uint32_t ino, uint32_t flags, struct uext4_file **ret_file)
	UEXT4_MUST_CHECK;
void uext4_file_close(struct uext4_file *file);

/*
 * Reads up to @len bytes at @offset into @buf.  *ret_read is short only at the end of the file (0
 * behind it).  On an error nothing is reported as read.
 */
int uext4_pread(struct uext4_file *file, void *buf, size_t len, uint64_t offset, size_t *ret_read)
	UEXT4_MUST_CHECK;

/* A hint that [@offset, @offset + @len) will be read soon.  Starts I/O where that costs nothing. */
void uext4_prefetch(struct uext4_file *file, uint64_t offset, uint64_t len);

enum uext4_seek { UEXT4_SEEK_DATA, UEXT4_SEEK_HOLE };

/*
 * The next data or hole at or behind @offset, as lseek(2): -ENXIO behind the end of the file, and
 * for SEEK_DATA where only a hole is left.  Unwritten extents are holes; the end of the file is one
 * too.
 */
int uext4_seek(struct uext4_file *file, uint64_t offset, enum uext4_seek what, uint64_t *ret_offset)
	UEXT4_MUST_CHECK;

enum uext4_extent_flag {
	UEXT4_EXTENT_LAST = 1u << 0,	  /* no data behind it */
	UEXT4_EXTENT_UNWRITTEN = 1u << 1, /* allocated, reads as zeros */
	UEXT4_EXTENT_INLINE = 1u << 2,	  /* physical is the place inside the inode table */
};

struct uext4_extent {
	uint64_t logical;  /* bytes from the start of the file */
	uint64_t physical; /* bytes from the start of the file system */
	uint64_t length;   /* bytes */
	uint32_t flags;	   /* enum uext4_extent_flag */
};

/*
 * The allocated extents of inode @ino that overlap [@offset, @offset + @len), up to @count of them,
 * in order; neighbours are merged.  Works on regular files, directories and symlinks.
 */
int uext4_extents(struct uext4_fs *fs, uint32_t ino, uint64_t offset, uint64_t len,
		  struct uext4_extent *extents, size_t count, size_t *ret_count) UEXT4_MUST_CHECK;

/* ---- extended attributes -------------------------------------------------------------------- */

/*
 * The names of all attributes of inode @ino as listxattr(2) lists them, each with its prefix and a
 * NUL.  @size 0 asks for the size only; -ERANGE if they do not fit.  Unlike the system call it
 * lists trusted.* for everybody: who may see what is the caller's business.  Data kept inside the
 * inode (system.data) is not an attribute.
 */
int uext4_xattr_list(struct uext4_fs *fs, uint32_t ino, char *buf, size_t size, size_t *ret_size)
	UEXT4_MUST_CHECK;

/*
 * The value of attribute @name.  @size 0 asks for the size only; -ERANGE if it does not fit;
 * -ENODATA if there is none.  POSIX ACLs are given as the kernel gives them
 * (system.posix_acl_access).
 */
int uext4_xattr_get(struct uext4_fs *fs, uint32_t ino, const char *name, void *buf, size_t size,
		    size_t *ret_size) UEXT4_MUST_CHECK;

/* ---- changes: names -------------------------------------------------------------------------- */

/* A new inode.  In a setgid directory gid is the directory's, and a directory is setgid too. */
struct uext4_new {
	uint32_t mode;	/* type and permissions, as st_mode; without a type: a regular file */
	uint32_t umask; /* taken away unless the directory has a default ACL */
	uint32_t uid;
	uint32_t gid;
	uint32_t rdev_major; /* of a device node */
	uint32_t rdev_minor;
};

/*
 * Makes a file of any type but a symlink, directories included.  Errors: -EEXIST, -ENOENT (the
 * directory is gone), -ENOTDIR, -ENOSPC (blocks or inodes), -EDQUOT, -EMLINK, -EPERM (immutable
 * directory), -EROFS, -EINVAL, -ENAMETOOLONG.  Those of the calls below are of the same kind.
 */
int uext4_create(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 const struct uext4_new *attrs, uint32_t *ret_ino) UEXT4_MUST_CHECK;
/* @target: 1 byte up to a block's; -ENAMETOOLONG.  The mode is 0777. */
int uext4_symlink(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		  const void *target, size_t target_len, const struct uext4_new *attrs,
		  uint32_t *ret_ino) UEXT4_MUST_CHECK;
/* -EPERM: a directory, or an inode that must not be linked; -ENOENT: it has no links any more. */
int uext4_link(struct uext4_fs *fs, uint32_t ino, uint32_t dir_ino, const void *name,
	       size_t name_len) UEXT4_MUST_CHECK;
int uext4_unlink(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len)
	UEXT4_MUST_CHECK; /* -EISDIR */
int uext4_rmdir(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len)
	UEXT4_MUST_CHECK; /* -ENOTEMPTY, -ENOTDIR, -EINVAL (".") */

enum uext4_rename_flag {
	UEXT4_RENAME_NOREPLACE = 1u << 0,
	UEXT4_RENAME_EXCHANGE = 1u << 1,
	UEXT4_RENAME_WHITEOUT = 1u << 2, /* a device node 0:0 takes the old place */
};

/* As renameat2(2). -EINVAL: a directory into itself; -EXDEV: between projects. */
int uext4_rename(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 uint32_t new_dir_ino, const void *new_name, size_t new_name_len, uint32_t flags)
	UEXT4_MUST_CHECK;
/* O_TMPFILE: a regular file without a name, which goes when it is closed, unless it is linked. */
int uext4_tmpfile(struct uext4_fs *fs, uint32_t dir_ino, const struct uext4_new *attrs,
		  uint32_t flags, struct uext4_file **ret_file) UEXT4_MUST_CHECK;
/*
 * Keeps inode @ino, which has a name or is open, in existence until uext4_release(), also when its
 * last name goes: for servers whose clients know inodes by number.
 */
int uext4_hold(struct uext4_fs *fs, uint32_t ino) UEXT4_MUST_CHECK;
void uext4_release(struct uext4_fs *fs, uint32_t ino);
/* The inode behind a handle. */
uint32_t uext4_file_ino(const struct uext4_file *file);

/*
 * ---- changes: attributes -----------------------------------------------------------------------
 */

enum uext4_attr_flag {
	UEXT4_ATTR_MODE = 1u << 0, /* the permissions; the type is not looked at */
	UEXT4_ATTR_UID = 1u << 1,
	UEXT4_ATTR_GID = 1u << 2,
	UEXT4_ATTR_SIZE = 1u << 3,
	UEXT4_ATTR_ATIME = 1u << 4,
	UEXT4_ATTR_MTIME = 1u << 5,
	UEXT4_ATTR_ATIME_NOW = 1u << 6,
	UEXT4_ATTR_MTIME_NOW = 1u << 7,
	UEXT4_ATTR_FLAGS = 1u << 8, /* as chattr(1); -EOPNOTSUPP: one that cannot be changed */
	UEXT4_ATTR_PROJID = 1u << 9,
	UEXT4_ATTR_GENERATION = 1u << 10,
	UEXT4_ATTR_CRTIME = 1u << 11, /* for restoring; no system call can */
	UEXT4_ATTR_CTIME = 1u << 12,  /* the same; without it ctime becomes now */
	/*
	 * The caller is not privileged: setuid, setgid and capabilities go as chown(2), write(2)
	 * say.
	 */
	UEXT4_ATTR_KILL_PRIV = 1u << 13,
};

struct uext4_attr {
	uint32_t valid; /* enum uext4_attr_flag */
	uint32_t mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t flags;
	uint32_t projid;
	uint32_t generation;
	uint64_t size;
	struct uext4_time atime, mtime, ctime, crtime;
};

/* All of it or nothing. -EPERM: immutable or append-only; -EFBIG, -ENOSPC, -EDQUOT. */
int uext4_setattr(struct uext4_fs *fs, uint32_t ino, const struct uext4_attr *attr)
	UEXT4_MUST_CHECK;

enum uext4_xattr_flag { UEXT4_XATTR_CREATE = 1u << 0, UEXT4_XATTR_REPLACE = 1u << 1 };

/* -EEXIST, -ENODATA, -ENOSPC (no room for it), -E2BIG, -ERANGE, -EOPNOTSUPP (its prefix). */
int uext4_xattr_set(struct uext4_fs *fs, uint32_t ino, const char *name, const void *value,
		    size_t size, uint32_t flags) UEXT4_MUST_CHECK;
int uext4_xattr_remove(struct uext4_fs *fs, uint32_t ino, const char *name) UEXT4_MUST_CHECK;

/*
 * ---- changes: contents -------------------------------------------------------------------------
 */

/*
 * Writes @len bytes at @offset; *ret_written is short only where the disk, a quota or the largest
 * file size ends behind some bytes.  -ENOSPC, -EDQUOT, -EFBIG, -EBADF (not open for writing), -EIO.
 */
int uext4_pwrite(struct uext4_file *file, const void *buf, size_t len, uint64_t offset,
		 size_t *ret_written) UEXT4_MUST_CHECK;

enum uext4_fallocate_flag { /* as fallocate(2) */
			    UEXT4_FALLOC_KEEP_SIZE = 1u << 0,
			    UEXT4_FALLOC_PUNCH_HOLE = 1u << 1, /* with KEEP_SIZE */
			    UEXT4_FALLOC_ZERO_RANGE = 1u << 4,
};

/*
 * -EOPNOTSUPP: the file is block-mapped, which has no unwritten blocks (punch works).  -ENOSPC,
 * -EDQUOT: what was allocated before stays with the file, as the kernel's does; the size, which
 * grows there as far as that, does not.
 */
int uext4_fallocate(struct uext4_file *file, uint32_t flags, uint64_t offset, uint64_t len)
	UEXT4_MUST_CHECK;

enum uext4_fsync_flag { UEXT4_FSYNC_DATA = 1u << 0 }; /* as fdatasync(2) */

/*
 * Everything written to the file before is durable.  An error of writing it back, also by somebody
 * else, is reported once per handle; the data is kept and tried again.
 */
int uext4_fsync(struct uext4_file *file, uint32_t flags) UEXT4_MUST_CHECK;
/* The same for any inode: a directory's entries, an inode's attributes. */
int uext4_fsync_inode(struct uext4_fs *fs, uint32_t ino, uint32_t flags) UEXT4_MUST_CHECK;
/* Everything is durable. */
int uext4_sync(struct uext4_fs *fs) UEXT4_MUST_CHECK;

/*
 * Freeze: when it returns the image on disk is right without a replay, and stays so until thaw;
 * changes wait meanwhile.  A close does not: what goes with it is finished by the thaw.  -EBUSY: it
 * is frozen, or pages are pinned for stores, which nothing could keep out; -EINVAL: thawed already.
 */
int uext4_freeze(struct uext4_fs *fs) UEXT4_MUST_CHECK;
int uext4_thaw(struct uext4_fs *fs) UEXT4_MUST_CHECK;

/*
 * ---- mapped files ------------------------------------------------------------------------------
 */

/*
 * A regular file in the memory of this process, as mmap(2) has it: loads and stores instead of
 * calls.  Linux 6.6 or newer is needed; an older kernel, or one that does not allow userfaultfd(2)
 * to the caller, makes uext4_mmap() fail, and the text names the setting.
 *
 *  Coherence  All mappings of a file, uext4_pread() and uext4_pwrite() see the same bytes at once.
 *             Buffers given to any call may lie in mappings, also of the same file.
 *  Durable    What was stored before uext4_msync(..., UEXT4_MS_SYNC), uext4_fsync() or uext4_sync()
 *             began is on disk when it returns 0, as if it had been written.  Stores never change
 *             the size.
 *  SIGBUS     As from the kernel: a page wholly behind the end of the file, also one that was cut
 *             off since; a load whose page cannot be read; a store into a hole with no room or
 *             quota left, or after the image became read-only.  Never for a store to a place that
 *             has its room already: blocks that are allocated (uext4_fallocate()), or a file inside
 *             its inode, however full the image is.  The next access tries again; for a moment
 *             other threads' accesses to a page whose store failed get the signal as well, and in a
 *             private mapping a page that could not be read stays so.
 *  Frozen     A store that has to make a page dirty waits for uext4_thaw().
 *  Kernel     System calls of the process may use mapped memory.  Without privilege
 *             (CAP_SYS_PTRACE, access to /dev/userfaultfd, or vm.unprivileged_userfaultfd=1) they
 *             fail with EFAULT on a page that has not been touched: see UEXT4_MAP_POPULATE and
 *             uext4_pin().  Other processes that are given the addresses (process_vm_readv(2), a
 *             debugger) wait for this one to answer.  What the kernel keeps for writing beyond a
 *             system call (buffers registered with io_uring) has to be pinned for as long.
 *  fork       A child does not inherit mappings: touching one there is SIGSEGV.
 *  Signals    A handler that touches mappings must not run in a thread that is inside a function of
 *             this library: block its signal around the calls.
 *  Memory     The engine allocates with malloc() while it answers: an allocator must not keep its
 *             own state in a mapping.
 */
enum uext4_prot { UEXT4_PROT_NONE = 0, UEXT4_PROT_READ = 1u << 0, UEXT4_PROT_WRITE = 1u << 1 };

enum uext4_map_flag {
	UEXT4_MAP_SHARED = 1u << 0,  /* stores go to the file */
	UEXT4_MAP_PRIVATE = 1u << 1, /* stores stay here, in pages of their own */
	/* Touches every page first, for stores if they may be made; failures show when accessed. */
	UEXT4_MAP_POPULATE = 1u << 2,
};

/*
 * Maps [@offset, @offset + @length): @offset is a multiple of 4096, and the end may lie behind the
 * file's.  The mapping keeps the file in existence; @file may be closed.  Of the mappings of one
 * image parts may be given to the calls below.
 * Errors: -EACCES stores to a file not opened for writing, or append-only; -EPERM no userfaultfd;
 * -EOPNOTSUPP the kernel is too old; -EBUSY between uext4_txn_begin() and its end, and where the
 * hook of uext4_set_map_hook() says so; -ENOMEM, -EINVAL, -EOVERFLOW, and those of reading and, to
 * write what is dirty, of uext4_fsync().
 */
int uext4_mmap(struct uext4_file *file, uint64_t offset, size_t length, uint32_t prot,
	       uint32_t flags, void **ret_addr) UEXT4_MUST_CHECK;
/*
 * The mappings of @fs in [@addr, @addr + @length), whole pages, are gone; what was stored is not.
 * munmap(2) must not be used, nor mprotect(2), mremap(2), or madvise(2) with MADV_DONTNEED, _REMOVE
 * or MADV_DOFORK.
 */
int uext4_munmap(struct uext4_fs *fs, void *addr, size_t length) UEXT4_MUST_CHECK;
/* -EACCES: stores to a file that was not opened for writing.  -ENOMEM: not all of it is mapped. */
int uext4_mprotect(struct uext4_fs *fs, void *addr, size_t length, uint32_t prot) UEXT4_MUST_CHECK;

enum uext4_msync_flag {
	UEXT4_MS_ASYNC = 1u << 0,      /* nothing to do: it is written by and by */
	UEXT4_MS_INVALIDATE = 1u << 1, /* nothing to do: there is one copy */
	UEXT4_MS_SYNC = 1u << 2,       /* the files mapped there are durable: uext4_fsync() */
};
int uext4_msync(struct uext4_fs *fs, void *addr, size_t length, uint32_t flags) UEXT4_MUST_CHECK;

/*
 * DONTNEED: pages that are clean leave memory, nothing is lost.  WILLNEED: they are read now.
 * RANDOM: nothing is read or mapped along with a page, and only pages that were stored to are
 * written; otherwise neighbours of theirs may be, with the bytes they have.
 */
enum uext4_advice {
	UEXT4_MADV_NORMAL,
	UEXT4_MADV_RANDOM,
	UEXT4_MADV_SEQUENTIAL,
	UEXT4_MADV_WILLNEED,
	UEXT4_MADV_DONTNEED,
};
int uext4_madvise(struct uext4_fs *fs, void *addr, size_t length, enum uext4_advice advice)
	UEXT4_MUST_CHECK;
/* A byte a page to @vec: bit 0 says that it is in memory. */
int uext4_mincore(struct uext4_fs *fs, void *addr, size_t length, uint8_t *vec) UEXT4_MUST_CHECK;

struct uext4_pin;
enum uext4_pin_flag {
	UEXT4_PIN_WRITE = 1u << 0, /* for stores; without it for loads */
	UEXT4_PIN_WAIT = 1u << 1,  /* while the image is frozen; without it -EAGAIN */
};
/*
 * Until uext4_unpin() accesses to these pages of a shared mapping, by the kernel too, wait for
 * nothing and cannot fail.  The pages stay in memory, and calls that would take them from the file
 * (truncate, punch) wait: so the thread that pins does not make one before it unpins.
 * Errors: what an access would have met: -ERANGE (behind the end of the file), -EIO, -ENOSPC,
 * -EDQUOT, -EROFS; -EACCES, -ENOMEM, -EINVAL.  What is pinned for stores stays dirty: a quarter of
 * what may be dirty is the most (-ENOMEM).
 */
int uext4_pin(struct uext4_fs *fs, void *addr, size_t length, uint32_t flags,
	      struct uext4_pin **ret_pin) UEXT4_MUST_CHECK;
void uext4_unpin(struct uext4_pin *pin); /* NULL is fine */

/*
 * For who keeps copies of a file's bytes outside of the library, as the kernel does for a FUSE
 * mount.  @hook is called with @mapped before the first mapping of inode @ino is made: from then on
 * no new copy is kept, and those there are have been written with uext4_pwrite() and dropped when
 * it returns 0.  If it returns a negative errno (-EBUSY) there is no mapping, and uext4_mmap()
 * fails with that.  Called without @mapped: the last mapping is gone.
 *
 * Calls come one at a time, from the threads that map and unmap, with nothing held; the hook may
 * call all functions but this one and those that map or unmap.  -EBUSY while files are mapped.
 * NULL ends it, which never fails: when that returns no call is running any more.
 */
typedef int (*uext4_map_hook)(void *arg, uint32_t ino, bool mapped);
int uext4_set_map_hook(struct uext4_fs *fs, uext4_map_hook hook, void *arg);

/*
 * ---- several changes at once
 * ---------------------------------------------------------------------
 */

/*
 * What happens between begin and commit is durable together or not at all, also in a crash.  The
 * scope has @fs for itself: one thread uses it, and it begins with nothing open.  It is bounded by
 * the journal (a quarter of it in changed metadata): -E2BIG from the call that would exceed it,
 * which may be the commit, where what was written gets its place; only cancel is possible then.
 * Without a journal: -EOPNOTSUPP; -EBUSY while files are mapped.  Cancel: everything is as it was
 * at begin; files must have been closed.
 */
int uext4_txn_begin(struct uext4_fs *fs) UEXT4_MUST_CHECK;
int uext4_txn_commit(struct uext4_fs *fs) UEXT4_MUST_CHECK;
int uext4_txn_cancel(struct uext4_fs *fs) UEXT4_MUST_CHECK;

/*
 * ---- checking
 * ------------------------------------------------------------------------------------
 */

enum uext4_check_pass {				 /* in this order; progress counts in each */
			UEXT4_CHECK_INODES,	 /* of inodes: maps, attributes, sizes */
			UEXT4_CHECK_DIRECTORIES, /* of directories: entries, hash trees */
			UEXT4_CHECK_CONNECTIONS, /* every directory is reached from the root */
			UEXT4_CHECK_LINKS,	 /* link counts, orphans */
			UEXT4_CHECK_GROUPS,	 /* of groups: bitmaps, counts */
			UEXT4_CHECK_QUOTA,
			UEXT4_CHECK_PASSES
};

struct uext4_check_options {
	size_t size; /* sizeof(struct uext4_check_options) */
	void *arg;
	/* One finding, a line without end. NULL: only count. */
	void (*problem)(void *arg, const char *text);
	/* NULL: none.  Not zero stops the check with -ECANCELED. */
	int (*progress)(void *arg, enum uext4_check_pass pass, uint64_t done, uint64_t total);
	uint64_t problems_max; /* stop telling (not counting) after so many; 0: 1,000 */
};

struct uext4_check_result {
	uint64_t problems;
	uint64_t inodes, directories, files, symlinks, special; /* in use */
	uint64_t blocks_used;
	uint64_t fragmented; /* files in more than one extent */
};

/*
 * Verifies the whole image as this view shows it, which must not change meanwhile: @fs is open for
 * reading.  Problems are no failure: 0, and their number.
 * Errors: -EINVAL open for writing; -EOPNOTSUPP it cannot be said whether all is well: a feature is
 * not known, or fast commits wait to be replayed; -ECANCELED; -ENOMEM.
 */
int uext4_check(struct uext4_fs *fs, const struct uext4_check_options *options,
		struct uext4_check_result *ret_result) UEXT4_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
