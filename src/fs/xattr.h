/* SPDX-License-Identifier: MIT */
/*
 * Extended attributes, ACLs and inline data as they are changed.
 *
 * Attributes: in the inode's body, in one block that inodes with the same attributes share
 * (h_refcount), or, with ea_inode, in inodes of their own.  Inline data is the attribute
 * system.data and the 60 bytes of i_block.  Both live in the same room, so one file owns it.
 *
 * Everything here takes xattr_lock exclusive itself unless it says otherwise, stores the inode, and
 * leaves it unchanged when it fails.
 */
#ifndef FS_XATTR_H
#define FS_XATTR_H

#include "fs/fs.h"

enum xattr_set_flag { XATTR_SET_CREATE = 1u << 0, XATTR_SET_REPLACE = 1u << 1 };

/* What inodes have in common (shared blocks, values), remembered from open to close. */
int xattr_open(struct uext4_fs *fs) MUST_CHECK;
void xattr_close(struct uext4_fs *fs); /* nothing is fine */

/*
 * ---- attributes: requires the inode's lock exclusive -------------------------------------------
 */

/*
 * Sets attribute @name (as setxattr(2) spells it; ACLs in the form of setxattr(2)) to @size bytes,
 * or removes it (@value NULL).  Starts handles of its own, as large values need several.
 * -EEXIST, -ENODATA, -ENOSPC (no room, also where there are free blocks: one block is all an inode
 * without ea_inode has), -ERANGE (the name), -E2BIG (the value), -EOPNOTSUPP (unknown prefix),
 * -EINVAL.  The system call's checks of who may do so are the caller's.  For an ACL @flags count
 * for nothing, and system.posix_acl_access changes the mode, as with the kernel.
 */
int xattr_set(struct inode *ip, const char *name, const void *value, size_t size, uint32_t flags)
	MUST_CHECK;
/* For an inode being created, in its handle: an attribute of at most a block. */
int xattr_set_handle(struct handle *h, struct inode *ip, uint8_t index, const char *name,
		     size_t name_len, const void *value, size_t size) MUST_CHECK;
uint32_t xattr_set_credits(const struct inode *ip, size_t size);
/* security.capability goes, as after a write or chown by anybody.  0 if there is none. */
int xattr_drop_capability(struct inode *ip) MUST_CHECK;
bool xattr_has_capability(struct inode *ip);

/*
 * Several changes that are made together or not at all, in a handle of the caller's, who does other
 * things in it: create, add up to 4, prepare (before the handle), apply (in a handle with
 * xattr_batch_credits(); after a failure nothing has changed), destroy.  xattr_batch_run() prepares
 * and applies in a handle of its own.
 */
struct xattr_batch;
struct xattr_change {
	uint8_t index;
	const char *name; /* behind the prefix; stays the caller's, like @value */
	size_t name_len;
	const void *value; /* NULL: it goes.  ACLs in the form of the disk. */
	size_t size;
	uint32_t flags; /* enum xattr_set_flag */
};
int xattr_batch_create(struct inode *ip, struct xattr_batch **ret) MUST_CHECK;
void xattr_batch_destroy(struct xattr_batch *b); /* NULL is fine */
void xattr_batch_add(struct xattr_batch *b, const struct xattr_change *change);
void xattr_batch_add_drop_capability(struct xattr_batch *b);
/* In the same handle the mode's lower 12 bits become @permissions. */
void xattr_batch_set_mode(struct xattr_batch *b, uint16_t permissions);
int xattr_batch_prepare(struct xattr_batch *b) MUST_CHECK;
/* 0: there is nothing to change. */
uint32_t xattr_batch_credits(const struct xattr_batch *b);
int xattr_batch_apply(struct handle *h, struct xattr_batch *b) MUST_CHECK;
int xattr_batch_run(struct xattr_batch *b) MUST_CHECK;

/*
 * An old inode gets room for the fields that new ones have, if no attribute has to leave for it.
 * In memory: the caller stores the inode.  False: nothing has changed.
 */
bool xattr_expand(struct inode *ip);

/*
 * An unlinked inode loses its block of attributes and its values in other inodes: shared blocks
 * lose a reference, such inodes too.  Starts handles of its own.  Nobody else has a reference; no
 * lock is held.
 */
int xattr_delete_all(struct inode *ip) MUST_CHECK;

/*
 * ---- ACLs: acl.c -------------------------------------------------------------------------------
 */

/*
 * What a new inode inherits from the default ACL of @dir, whose lock is held: *mode is narrowed,
 * and the ACLs (disk form, NULL: none) are to be set on it.  Unless is_there the umask applies.
 */
struct acl_inherited {
	bool is_there; /* @dir has a default ACL */
	void *access, *dflt;
	size_t access_size, default_size;
};
int acl_inherit(struct inode *dir, uint16_t *mode, struct acl_inherited *ret) MUST_CHECK;
void acl_inherited_finish(struct acl_inherited *a);
/*
 * The access ACL of @ip with the mask, or the group's entry, that chmod to @mode gives it, in the
 * form of the disk (mem_free()); NULL: it has none.
 */
int acl_chmod(struct inode *ip, uint16_t mode, void **ret, size_t *ret_size) MUST_CHECK;
/*
 * From the form of setxattr(2) to the disk's (mem_free()); NULL where there are no entries, which
 * is no ACL.  -EINVAL, -EOPNOTSUPP (its version).
 */
int acl_to_disk(const void *value, size_t size, void **ret, size_t *ret_size) MUST_CHECK;

/*
 * ---- inline data: inline.c ---------------------------------------------------------------------
 */

/* Could an inode of this file system hold anything inline? */
bool inline_is_possible(const struct uext4_fs *fs);

/*
 * All of these require xattr_lock exclusive (S1, S2), and for a regular file the lock of page 0.
 */

/* Bytes that are there for data now: 60 and the value of system.data. INLINE only. */
int inline_capacity(struct inode *ip, uint32_t *ret_bytes) MUST_CHECK REQUIRES(&ip->xattr_lock);
/*
 * The most that could be made room for, attributes as they are.  EMPTY (or a directory with nothing
 * yet) or INLINE.  0: not even an empty file.
 */
int inline_capacity_max(struct inode *ip, uint32_t *ret_bytes) MUST_CHECK REQUIRES(&ip->xattr_lock);
/*
 * Makes room for @bytes; an EMPTY inode, or one with an empty map, becomes INLINE (flag,
 * system.data, zeroed body).  -ENOSPC: they do not fit, nothing has changed.  Does not touch the
 * size.  Each of the following: INODE_STORE_CREDITS.
 */
int inline_make_room(struct handle *h, struct inode *ip, uint32_t bytes)
	MUST_CHECK REQUIRES(&ip->xattr_lock);
/*
 * The body becomes @bytes of @data, zeros behind up to the capacity; raw i_size becomes @bytes.
 * S7.
 */
int inline_store(struct handle *h, struct inode *ip, const void *data, uint32_t bytes)
	MUST_CHECK REQUIRES(&ip->xattr_lock);
/*
 * INLINE -> BLOCKS with an empty map: flag and system.data go, i_block is a root (map_init()).  The
 * caller has allocated before and inserts the block in the same handle (S9).  Cannot fail for lack
 * of space.
 */
int inline_remove(struct handle *h, struct inode *ip) MUST_CHECK REQUIRES(&ip->xattr_lock);

/*
 * A block with the target of a symlink.  It has no structure and no checksum, and what it must be
 * depends on the size: symlink_read() sees to that.
 */
extern const struct buf_ops symlink_block_ops;

#endif
