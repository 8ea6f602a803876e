/* SPDX-License-Identifier: MIT */
/*
 * POSIX ACLs: from the form on disk (version 1, short entries where no id is needed) to the form of
 * the system call (version 2, all entries alike).
 *
 * Does not judge what the entries say: an ACL the kernel hands out as it is, we do too.
 */
#include "fs/fs.h"

#include "base/diag.h"

#define POSIX_ACL_XATTR_VERSION 2u
#define ACL_UNDEFINED_ID UINT32_MAX

/* e_tag */
#define ACL_USER_OBJ 0x01u
#define ACL_USER 0x02u
#define ACL_GROUP_OBJ 0x04u
#define ACL_GROUP 0x08u
#define ACL_MASK 0x10u
#define ACL_OTHER 0x20u

struct PACKED posix_acl_xattr_header {
	le32 a_version;
};

struct PACKED posix_acl_xattr_entry {
	le16 e_tag;
	le16 e_perm;
	le32 e_id;
};

/* Bytes on disk of an entry with @tag, 0: there is no such tag. */
static size_t entry_bytes(uint16_t tag)
{
	switch (tag) {
	case ACL_USER_OBJ:
	case ACL_GROUP_OBJ:
	case ACL_MASK:
	case ACL_OTHER: return sizeof(struct ext4_acl_entry_short);
	case ACL_USER:
	case ACL_GROUP: return sizeof(struct ext4_acl_entry);
	default: return 0;
	}
}

/* The entry at @disk, of which @left bytes are there; the bytes it takes in *ret_bytes. */
static int entry_convert(const uint8_t *disk, size_t left, struct posix_acl_xattr_entry *ret,
			 size_t *ret_bytes)
{
	struct ext4_acl_entry entry = { .e_id = le32_make(ACL_UNDEFINED_ID) };
	size_t bytes;

	if (left < sizeof(struct ext4_acl_entry_short))
		return corrupt("ACL: an entry is cut off");
	memcpy(&entry, disk, sizeof(struct ext4_acl_entry_short));
	bytes = entry_bytes(le16_get(entry.e_tag));
	if (bytes == 0)
		return corrupt("ACL: no such tag as %#x", le16_get(entry.e_tag));
	if (left < bytes)
		return corrupt("ACL: an entry is cut off");
	memcpy(&entry, disk, bytes);
	*ret = (struct posix_acl_xattr_entry){ entry.e_tag, entry.e_perm, entry.e_id };
	*ret_bytes = bytes;
	return 0;
}

int acl_from_disk(const void *disk, size_t disk_size, void *buf, size_t size, size_t *ret_size)
{
	const struct posix_acl_xattr_header head = { le32_make(POSIX_ACL_XATTR_VERSION) };
	struct ext4_acl_header disk_head;
	size_t at = sizeof(disk_head), out = sizeof(head);

	if (disk_size < sizeof(disk_head))
		return corrupt("ACL: %zu bytes are no ACL", disk_size);
	memcpy(&disk_head, disk, sizeof(disk_head));
	if (le32_get(disk_head.a_version) != EXT4_ACL_VERSION)
		return corrupt("ACL: version %u", le32_get(disk_head.a_version));
	if (at == disk_size)
		return -ENODATA; /* as the kernel: no entries, no ACL */

	if (size >= sizeof(head))
		memcpy(buf, &head, sizeof(head));
	while (at < disk_size) {
		struct posix_acl_xattr_entry entry;
		size_t bytes = 0;
		int err;

		err = entry_convert((const uint8_t *)disk + at, disk_size - at, &entry, &bytes);
		if (err < 0)
			return err;
		if (out + sizeof(entry) <= size)
			memcpy((uint8_t *)buf + out, &entry, sizeof(entry));
		at += bytes;
		out += sizeof(entry);
	}
	if (size > 0 && size < out)
		return fail(-ERANGE, "the ACL has %zu bytes", out);
	*ret_size = out;
	return 0;
}
