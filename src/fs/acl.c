/* SPDX-License-Identifier: MIT */
/*
 * POSIX ACLs: between the form on disk (version 1, short entries where no id is needed) and the
 * form of the system call (version 2, all entries alike), and what they have to do with the mode.
 *
 * What is read is not judged: an ACL the kernel hands out as it is, we do too.  What is to be
 * written is: entries in their order, each of the three of the mode once, and a mask where a user
 * or a group is named.
 */
#include "fs/xattr_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#define POSIX_ACL_XATTR_VERSION 2u
#define ACL_UNDEFINED_ID UINT32_MAX

/* e_tag */
#define ACL_USER_OBJ 0x01u
#define ACL_USER 0x02u
#define ACL_GROUP_OBJ 0x04u
#define ACL_GROUP 0x08u
#define ACL_MASK 0x10u
#define ACL_OTHER 0x20u

#define ACL_PERM_BITS 7u

struct PACKED posix_acl_xattr_header {
	le32 a_version;
};

struct PACKED posix_acl_xattr_entry {
	le16 e_tag;
	le16 e_perm;
	le32 e_id;
};

/* ---- forms ----------------------------------------------------------------------------------- */

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

/* ---- in memory ------------------------------------------------------------------------------- */

struct acl_entry {
	uint16_t tag, perm;
	uint32_t id;
};

struct acl {
	size_t count;
	struct acl_entry entries[];
};

static struct acl *acl_alloc(size_t count)
{
	struct acl *acl = mem_alloc(sizeof(*acl) + count * sizeof(acl->entries[0]));

	if (acl)
		acl->count = count;
	return acl;
}

static bool names_nobody(const struct acl_entry *e)
{
	return (e->tag == ACL_USER || e->tag == ACL_GROUP) && e->id == ACL_UNDEFINED_ID;
}

/* *ret_acl: NULL for one without entries, which is none. */
static int acl_parse(const void *value, size_t size, struct acl **ret_acl)
{
	struct posix_acl_xattr_header head;
	struct posix_acl_xattr_entry entry;
	struct acl *acl;
	size_t count;

	*ret_acl = NULL;
	if (!value || size == 0)
		return 0;
	if (size < sizeof(head))
		return fail(-EINVAL, "ACL: %zu bytes are none", size);
	memcpy(&head, value, sizeof(head));
	if (le32_get(head.a_version) != POSIX_ACL_XATTR_VERSION)
		return fail(-EOPNOTSUPP, "ACL: version %u", le32_get(head.a_version));
	if ((size - sizeof(head)) % sizeof(entry) != 0)
		return fail(-EINVAL, "ACL: %zu bytes are none", size);
	count = (size - sizeof(head)) / sizeof(entry);
	if (count == 0)
		return 0;
	acl = acl_alloc(count);
	if (!acl)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		memcpy(&entry, (const uint8_t *)value + sizeof(head) + i * sizeof(entry),
		       sizeof(entry));
		acl->entries[i] = (struct acl_entry){ le16_get(entry.e_tag), le16_get(entry.e_perm),
						      le32_get(entry.e_id) };
		if (entry_bytes(le16_get(entry.e_tag)) == 0 || names_nobody(&acl->entries[i])) {
			mem_free(acl);
			return fail(-EINVAL, "ACL: an entry of tag %#x for %#x",
				    le16_get(entry.e_tag), le32_get(entry.e_id));
		}
	}
	*ret_acl = acl;
	return 0;
}

/* Which tag may follow; USER and GROUP stand for themselves and what comes behind them. */
static bool acl_is_valid(const struct acl *acl)
{
	uint16_t expected = ACL_USER_OBJ;
	bool needs_mask = false;

	for (size_t i = 0; i < acl->count; i++) {
		const struct acl_entry *e = &acl->entries[i];

		if (e->perm & ~ACL_PERM_BITS)
			return false;
		switch (e->tag) {
		case ACL_USER_OBJ:
			if (expected != ACL_USER_OBJ)
				return false;
			expected = ACL_USER;
			break;
		case ACL_GROUP_OBJ:
			if (expected != ACL_USER)
				return false;
			expected = ACL_GROUP;
			break;
		case ACL_USER:
		case ACL_GROUP:
			if (expected != e->tag)
				return false;
			needs_mask = true;
			break;
		case ACL_MASK:
			if (expected != ACL_GROUP)
				return false;
			expected = ACL_OTHER;
			break;
		case ACL_OTHER:
			if (expected != ACL_OTHER && (expected != ACL_GROUP || needs_mask))
				return false;
			expected = 0;
			break;
		default: return false;
		}
	}
	return expected == 0;
}

static int acl_parse_valid(const void *value, size_t size, struct acl **ret_acl)
{
	struct acl *acl;
	int err;

	err = acl_parse(value, size, &acl);
	if (err < 0)
		return err;
	if (acl && !acl_is_valid(acl)) {
		mem_free(acl);
		return fail(-EINVAL, "ACL: entries are missing, or in a wrong order");
	}
	*ret_acl = acl;
	return 0;
}

static int acl_encode(const struct acl *acl, void **ret, size_t *ret_size)
{
	const struct ext4_acl_header head = { le32_make(EXT4_ACL_VERSION) };
	size_t size = sizeof(head);
	uint8_t *disk;

	for (size_t i = 0; i < acl->count; i++)
		size += entry_bytes(acl->entries[i].tag);
	disk = mem_alloc(size);
	if (!disk)
		return -ENOMEM;
	*ret = disk;
	*ret_size = size;
	memcpy(disk, &head, sizeof(head));
	disk += sizeof(head);
	for (size_t i = 0; i < acl->count; i++) {
		const struct acl_entry *e = &acl->entries[i];
		const struct ext4_acl_entry entry = { le16_make(e->tag), le16_make(e->perm),
						      le32_make(e->id) };

		memcpy(disk, &entry, entry_bytes(e->tag));
		disk += entry_bytes(e->tag);
	}
	return 0;
}

int acl_to_disk(const void *value, size_t size, void **ret, size_t *ret_size)
{
	struct acl *acl FREE_SCOPE = NULL;
	int err;

	err = acl_parse_valid(value, size, &acl);
	if (err < 0)
		return err;
	if (!acl) {
		*ret = NULL;
		*ret_size = 0;
		return 0;
	}
	return acl_encode(acl, ret, ret_size);
}

/* The ACL @name of @ip; *ret_acl NULL: it has none. */
static int acl_get(struct inode *ip, const char *name, struct acl **ret_acl)
{
	void *value FREE_SCOPE = NULL;
	size_t size;
	int err;

	err = xattr_get(ip, name, NULL, 0, &size);
	if (err == -ENODATA) {
		*ret_acl = NULL;
		return 0;
	}
	if (err < 0)
		return err;
	value = mem_alloc(size);
	if (!value)
		return -ENOMEM;
	err = xattr_get(ip, name, value, size, &size);
	if (err < 0)
		return err;
	err = acl_parse_valid(value, size, ret_acl);
	return err == -EINVAL ? corrupt("inode %u: %s is no ACL", ip->ino, name) : err;
}

/* ---- the mode -------------------------------------------------------------------------------- */

/* What in a valid ACL stands for the mode's group bits: the mask, or the owning group. */
static struct acl_entry *acl_group_class(struct acl *acl)
{
	struct acl_entry *group = NULL;

	for (size_t i = 0; i < acl->count; i++)
		if (acl->entries[i].tag == ACL_MASK ||
		    (acl->entries[i].tag == ACL_GROUP_OBJ && !group))
			group = &acl->entries[i];
	assert(group);
	return group;
}

/* Says the ACL no more than a mode can?  *mode's permissions become what it says. */
static bool acl_is_mode(struct acl *acl, uint16_t *mode)
{
	uint16_t permissions = (uint16_t)(acl_group_class(acl)->perm << 3);

	for (size_t i = 0; i < acl->count; i++) {
		if (acl->entries[i].tag == ACL_USER_OBJ)
			permissions |= (uint16_t)(acl->entries[i].perm << 6);
		else if (acl->entries[i].tag == ACL_OTHER)
			permissions |= acl->entries[i].perm;
	}
	*mode = (uint16_t)((*mode & ~0777u) | permissions);
	return acl->count == 3;
}

static void acl_take_mode(struct acl *acl, uint16_t mode)
{
	for (size_t i = 0; i < acl->count; i++) {
		if (acl->entries[i].tag == ACL_USER_OBJ)
			acl->entries[i].perm = mode >> 6 & ACL_PERM_BITS;
		else if (acl->entries[i].tag == ACL_OTHER)
			acl->entries[i].perm = mode & ACL_PERM_BITS;
	}
	acl_group_class(acl)->perm = mode >> 3 & ACL_PERM_BITS;
}

/* A new inode of @mode inherits @acl: each of the two narrows the other. */
static void acl_narrow(struct acl *acl, uint16_t *mode)
{
	uint16_t both = *mode & 07000;
	struct acl_entry *group = acl_group_class(acl);

	for (size_t i = 0; i < acl->count; i++) {
		struct acl_entry *e = &acl->entries[i];

		if (e->tag == ACL_USER_OBJ) {
			e->perm &= *mode >> 6;
			both |= (uint16_t)(e->perm << 6);
		} else if (e->tag == ACL_OTHER) {
			e->perm &= *mode;
			both |= e->perm;
		}
	}
	group->perm &= *mode >> 3;
	both |= (uint16_t)(group->perm << 3);
	*mode = (uint16_t)((*mode & 0170000u) | both);
}

int acl_inherit(struct inode *dir, uint16_t *mode, struct acl_inherited *ret)
{
	struct acl *acl FREE_SCOPE = NULL;
	struct acl_inherited got = { 0 };
	uint16_t narrowed = *mode;
	bool is_dir = (*mode & 0170000u) == 0040000;
	int err;

	*ret = got;
	if ((*mode & 0170000u) == 0120000)
		return 0;
	err = acl_get(dir, "system.posix_acl_default", &acl);
	if (err < 0 || !acl)
		return err;
	if (is_dir)
		err = acl_encode(acl, &got.dflt, &got.default_size);
	acl_narrow(acl, &narrowed);
	if (err == 0 && acl->count > 3)
		err = acl_encode(acl, &got.access, &got.access_size);
	if (err < 0) {
		acl_inherited_finish(&got);
		return err;
	}
	got.is_there = true;
	*mode = narrowed;
	*ret = got;
	return 0;
}

void acl_inherited_finish(struct acl_inherited *a)
{
	mem_free(a->access);
	mem_free(a->dflt);
	*a = (struct acl_inherited){ 0 };
}

int acl_chmod(struct inode *ip, uint16_t mode, void **ret_value, size_t *ret_size)
{
	struct acl *acl FREE_SCOPE = NULL;
	int err;

	*ret_value = NULL;
	*ret_size = 0;
	err = acl_get(ip, "system.posix_acl_access", &acl);
	if (err < 0 || !acl)
		return err;
	acl_take_mode(acl, mode);
	return acl_encode(acl, ret_value, ret_size);
}

/* ---- setting --------------------------------------------------------------------------------- */

static int set_disk_form(struct inode *ip, uint8_t index, struct acl *acl)
{
	struct xattr_change change = { .index = index };
	uint16_t old_mode = le16_get(ip->raw->i_mode), mode = old_mode;
	struct xattr_batch *b;
	void *disk FREE_SCOPE = NULL;
	int err;

	err = xattr_batch_create(ip, &b);
	if (err < 0)
		return err;
	if (acl && index == EXT4_XATTR_INDEX_POSIX_ACL_ACCESS) {
		if (acl_is_mode(acl, &mode))
			acl = NULL; /* so it needs none */
		if (mode != old_mode)
			xattr_batch_set_mode(b, mode & 07777);
	}
	if (acl)
		err = acl_encode(acl, &disk, &change.size);
	if (err == 0) {
		change.value = disk;
		xattr_batch_add(b, &change);
		err = xattr_batch_run(b);
	}
	xattr_batch_destroy(b);
	return err;
}

int acl_set(struct inode *ip, uint8_t index, const void *value, size_t size)
{
	struct acl *acl FREE_SCOPE = NULL;
	int err;

	err = acl_parse(value, size, &acl);
	if (err < 0)
		return err;
	if (inode_is_lnk(ip))
		return fail(-EOPNOTSUPP, "inode %u: a symlink has no ACL", ip->ino);
	if (index == EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT && !inode_is_dir(ip))
		return acl ? fail(-EACCES, "inode %u: only directories have a default ACL", ip->ino)
			   : 0;
	if (acl && !acl_is_valid(acl))
		return fail(-EINVAL, "ACL: entries are missing, or in a wrong order");
	return set_disk_form(ip, index, acl);
}
