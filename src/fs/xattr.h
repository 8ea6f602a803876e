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

/*
 * ---- attributes: requires the inode's lock exclusive -------------------------------------------
 */

/*
 * Sets attribute @name (as setxattr(2) spells it; ACLs in the form of setxattr(2)) to @size bytes,
 * or removes it (@value NULL).  Starts handles of its own, as large values need several.
 * -EEXIST, -ENODATA, -ENOSPC (no room, also where there are free blocks: one block is all an inode
 * without ea_inode has), -ERANGE, -EOPNOTSUPP (unknown prefix), -E2BIG.  The system call's checks
 * of who may do so are the caller's.  system.posix_acl_access changes the mode as the kernel does.
 */
int xattr_set(struct inode *ip, const char *name, const void *value, size_t size, uint32_t flags)
	MUST_CHECK;
/* For an inode being created, in its handle: an attribute of at most a block. */
int xattr_set_handle(struct handle *h, struct inode *ip, uint8_t index, const char *name,
		     size_t name_len, const void *value, size_t size) MUST_CHECK;
uint32_t xattr_set_credits(const struct inode *ip, size_t size);
/* security.capability goes, as after a write or chown by anybody. *ret_changed.  0 if none. */
int xattr_drop_capability(struct inode *ip) MUST_CHECK;
bool xattr_has_capability(struct inode *ip);

/*
 * An unlinked inode loses all attributes: shared blocks lose a reference, EA inodes too.  Restarts
 * @h.  Nothing else is held.
 */
int xattr_delete_all(struct handle *h, struct inode *ip) MUST_CHECK;

/*
 * ---- ACLs: acl.c -------------------------------------------------------------------------------
 */

/*
 * What a new inode inherits from the default ACL of @dir: *mode is narrowed, and the ACLs (disk
 * form, mem_free()) are to be set on it; both NULL where there is none: then the umask applies.
 */
struct acl_inherited {
	void *access, *dflt;
	size_t access_size, default_size;
};
int acl_inherit(struct inode *dir, uint16_t *mode, struct acl_inherited *ret) MUST_CHECK;
void acl_inherited_finish(struct acl_inherited *a);
/* chmod rewrites the access ACL's mask or group entry.  Requires lock exclusive; own handle. */
int acl_chmod(struct inode *ip, uint16_t mode) MUST_CHECK;
/* From the form of setxattr(2) to the disk's: -EINVAL. *ret (mem_free()). */
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
/* The most that could be made room for, attributes as they are.  EMPTY or INLINE. */
int inline_capacity_max(struct inode *ip, uint32_t *ret_bytes) MUST_CHECK REQUIRES(&ip->xattr_lock);
/*
 * Makes room for @bytes; an EMPTY inode becomes INLINE (flag, system.data, zeroed body).  -ENOSPC:
 * they do not fit, nothing has changed.  Does not touch the size.
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

#endif
