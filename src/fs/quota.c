/* SPDX-License-Identifier: MIT */
/*
 * Quota: without the features there is nothing to do.  Images that have them are opened for reading
 * only.
 */
#include "fs/quota.h"

#include "base/diag.h"

int quota_open(struct uext4_fs *fs)
{
	if (geom_has_ro_compat(&fs->geom, EXT4_FEATURE_RO_COMPAT_QUOTA) ||
	    geom_has_ro_compat(&fs->geom, EXT4_FEATURE_RO_COMPAT_PROJECT))
		return fail(-EOPNOTSUPP, "feature quota: can only be opened for reading");
	return 0;
}

void quota_close(struct uext4_fs *fs) {}

uint32_t quota_credits(const struct uext4_fs *fs)
{
	return 0;
}

int quota_load(struct inode *ip)
{
	return 0;
}

void quota_unload(struct inode *ip) {}

int quota_charge_blocks(struct handle *h, struct inode *ip, int64_t blocks)
{
	return 0;
}

int quota_charge_inode(struct handle *h, struct inode *ip)
{
	return 0;
}

void quota_release_inode(struct handle *h, struct inode *ip) {}
void quota_count_file(struct handle *h, struct inode *ip, bool counts) {}

int quota_reserve(struct inode *ip, uint64_t blocks)
{
	return 0;
}

void quota_unreserve(struct inode *ip, uint64_t blocks) {}

int quota_transfer(struct inode *ip, const struct quota_owner *to)
{
	return 0;
}
