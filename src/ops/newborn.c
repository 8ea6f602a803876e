/* SPDX-License-Identifier: MIT */
/*
 * New inodes: what they inherit, what belongs to them from the beginning, and how one that is not
 * wanted after all goes again.
 *
 *  B1  What can fail for lack of space comes before the inode has a name.
 *  B2  An inode that has taken blocks when its creation fails becomes an orphan and is deleted like
 *      any other; it never had a name.
 */
#include "fs/balloc.h"
#include "fs/quota.h"
#include "fs/xattr.h"
#include "ops/namei_priv.h"

#include "base/diag.h"

#define TYPE_MASK 0170000u
#define SETGID 02000u

#define FLAGS_INHERITED                                                                 \
	(EXT4_SECRM_FL | EXT4_UNRM_FL | EXT4_COMPR_FL | EXT4_SYNC_FL | EXT4_NODUMP_FL | \
	 EXT4_NOATIME_FL | EXT4_NOCOMPR_FL | EXT4_JOURNAL_DATA_FL | EXT4_NOTAIL_FL |    \
	 EXT4_DIRSYNC_FL | EXT4_PROJINHERIT_FL | EXT4_CASEFOLD_FL | EXT4_DAX_FL)
/* What means nothing, or something else, for files, and for all that is neither. */
#define FLAGS_OF_DIRS (EXT4_DIRSYNC_FL | EXT4_TOPDIR_FL | EXT4_CASEFOLD_FL | EXT4_PROJINHERIT_FL)
#define FLAGS_OF_OTHERS (EXT4_NODUMP_FL | EXT4_NOATIME_FL)

static bool is_type(const struct newborn *nb, uint32_t type)
{
	return (nb->attrs.mode & TYPE_MASK) == type;
}

static uint32_t inherit_flags(const struct newborn *nb, uint32_t dir_flags)
{
	uint32_t flags = dir_flags & FLAGS_INHERITED;

	if (is_type(nb, 0040000))
		return flags;
	return flags & (is_type(nb, 0100000) ? ~FLAGS_OF_DIRS : FLAGS_OF_OTHERS);
}

static int prepare_owner(struct inode *dir, const struct newborn *nb)
{
	const struct quota_owner owner = { { nb->attrs.uid, nb->attrs.gid, nb->attrs.projid } };

	return quota_prepare(dir->fs, &owner);
}

static uint32_t dir_gid(struct inode *dir)
{
	return le16_get(dir->raw->i_gid) | (uint32_t)le16_get(dir->raw->l_i_gid_high) << 16;
}

int newborn_init(struct newborn *nb, struct inode *dir, const struct namei_new *new)
{
	uint32_t dir_flags = inode_flags(dir);
	int err;

	*nb = (struct newborn){ .attrs = new->attrs };
	if (le16_get(dir->raw->i_mode) & SETGID) {
		nb->attrs.gid = dir_gid(dir);
		if (is_type(nb, 0040000))
			nb->attrs.mode |= SETGID;
	}
	nb->attrs.flags = inherit_flags(nb, dir_flags);
	nb->attrs.projid = 0;
	if (dir_flags & EXT4_PROJINHERIT_FL)
		nb->attrs.projid = inode_projid(dir);
	err = prepare_owner(dir, nb);
	if (err < 0)
		return err;
	if (is_type(nb, 0120000)) {
		nb->attrs.mode = 0120777;
		return 0;
	}
	err = acl_inherit(dir, &nb->attrs.mode, &nb->acl);
	if (err == 0 && !nb->acl.is_there)
		nb->attrs.mode &= (uint16_t) ~new->umask;
	return err;
}

void newborn_finish(struct newborn *nb)
{
	acl_inherited_finish(&nb->acl);
}

uint32_t newborn_credits(const struct newborn *nb, struct inode *dir)
{
	uint32_t credits = INODE_CREATE_CREDITS + quota_credits(dir->fs) + ORPHAN_CREDITS;

	if (is_type(nb, 0040000) || nb->target)
		credits += dir_init_credits(dir->fs);
	if (nb->acl.access)
		credits += xattr_set_credits(dir, nb->acl.access_size);
	if (nb->acl.dflt)
		credits += xattr_set_credits(dir, nb->acl.default_size);
	return credits;
}

static int set_acls(struct handle *h, struct inode *ip, const struct acl_inherited *acl)
{
	int err = 0;

	if (acl->dflt)
		err = xattr_set_handle(h, ip, EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT, "", 0, acl->dflt,
				       acl->default_size);
	if (err == 0 && acl->access)
		err = xattr_set_handle(h, ip, EXT4_XATTR_INDEX_POSIX_ACL_ACCESS, "", 0, acl->access,
				       acl->access_size);
	return err;
}

int newborn_create(struct handle *h, struct inode *dir, const struct newborn *nb,
		   struct inode **ret_ip)
{
	struct inode *ip;
	int err;

	err = inode_create(h, dir, &nb->attrs, &ip);
	if (err < 0)
		return err;
	err = set_acls(h, ip, &nb->acl);
	if (err == 0 && inode_is_dir(ip))
		err = dir_init(h, ip, dir->ino);
	if (err == 0 && inode_is_lnk(ip))
		err = symlink_init(h, ip, nb->target, nb->target_len);
	if (err < 0) {
		newborn_undo(h, ip);
		return err;
	}
	*ret_ip = ip;
	return 0;
}

static bool has_blocks(struct inode *ip)
{
	bool has;

	mutex_lock(&ip->raw_lock);
	has = le32_get(ip->raw->i_blocks_lo) != 0 || le16_get(ip->raw->l_i_blocks_high) != 0;
	mutex_unlock(&ip->raw_lock);
	return has;
}

void newborn_undo(struct handle *h, struct inode *ip) NO_TSA
{
	int err;

	if (!has_blocks(ip)) {
		inode_create_undo(h, ip);
		return;
	}
	inode_set_links(ip, 0); /* B2 */
	err = orphan_add(h, ip);
	if (err == 0)
		err = inode_store(h, ip);
	if (err < 0)
		txn_log_abort(ip->fs->log, err);
	inode_unlock(ip);
	inode_put(ip);
}
