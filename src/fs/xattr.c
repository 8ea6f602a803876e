/* SPDX-License-Identifier: MIT */
/*
 * Extended attributes as they are read: in the inode behind its fields, in a block that inodes may
 * share, and large values in inodes of their own.
 *
 * Rows of entries were verified with the inode or the block they lie in, i_file_acl with the inode.
 * A value in an inode of its own is checked when it is read: nothing but the entry's hash ties the
 * two together.
 *
 * X1  An attribute in the inode hides one of the same name in the block.
 * X2  An inode with a value is found while xattr_lock is held: as long as the entry is there so is
 *     the inode.  What it holds is read with the reference alone.
 */
#include "fs/xattr_priv.h"

#include "base/diag.h"
#include "base/mem.h"

/* ---- names ----------------------------------------------------------------------------------- */

/*
 * How names begin.  @whole: that is all of the name, the entry has none.  Kinds that are not here
 * (those of Lustre, the context of encryption) are not shown, as the kernel does not.
 */
static const struct prefix {
	uint8_t index;
	bool whole;
	const char *text;
} prefixes[] = {
	{ EXT4_XATTR_INDEX_USER, false, "user." },
	{ EXT4_XATTR_INDEX_POSIX_ACL_ACCESS, true, "system.posix_acl_access" },
	{ EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT, true, "system.posix_acl_default" },
	{ EXT4_XATTR_INDEX_TRUSTED, false, "trusted." },
	{ EXT4_XATTR_INDEX_SECURITY, false, "security." },
	{ EXT4_XATTR_INDEX_RICHACL, true, "system.richacl" },
	{ EXT4_XATTR_INDEX_SYSTEM, false, "system." },
	{ EXT4_XATTR_INDEX_HURD, false, "gnu." },
};

bool xattr_key_parse(const char *name, struct xattr_key *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
		const struct prefix *p = &prefixes[i];
		size_t len = strlen(p->text);

		if (strncmp(name, p->text, len) != 0 || p->whole != (name[len] == '\0'))
			continue;
		*ret = (struct xattr_key){ p->index, name + len, strlen(name + len) };
		return !xattr_key_is_inline_data(ret);
	}
	return false;
}

bool xattr_is_prefix_alone(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (!prefixes[i].whole && strcmp(name, prefixes[i].text) == 0)
			return true;
	return false;
}

/* The prefix under which @entry is shown; NULL: it is not. */
static const struct prefix *entry_prefix(const struct ext4_xattr_entry *entry)
{
	const struct xattr_key key = xattr_entry_key(entry);

	if (xattr_key_is_inline_data(&key))
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (prefixes[i].index == entry->e_name_index &&
		    prefixes[i].whole == (entry->e_name_len == 0))
			return &prefixes[i];
	return NULL;
}

/* ---- the two places -------------------------------------------------------------------------- */

struct xattr_area xattr_body_area(const struct inode *ip)
{
	const struct ext4_xattr_ibody_header *header;
	uint32_t extra = 0, inode_size = ip->fs->geom.inode_size;
	struct xattr_area area = { 0 };
	size_t at;

	if (inode_size > EXT4_GOOD_OLD_INODE_SIZE)
		extra = le16_get(ip->raw->i_extra_isize);
	at = EXT4_GOOD_OLD_INODE_SIZE + extra;
	/* With i_extra_isize 0 the area was never laid out, whatever lies there. */
	if (extra == 0 || at + sizeof(*header) + EXT4_XATTR_PAD > inode_size)
		return area;
	header = (const void *)((const uint8_t *)ip->raw + at);
	at += sizeof(*header);
	area.base = (uint8_t *)ip->raw + at;
	area.end = inode_size - (uint32_t)at;
	area.is_blank = le32_get(header->h_magic) != EXT4_XATTR_MAGIC;
	return area;
}

static struct xattr_row body_row(const struct inode *ip)
{
	const struct xattr_area area = xattr_body_area(ip);

	return xattr_area_row(&area);
}

static int xattr_block_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return verify_xattr_block(arg, data, blk);
}

const struct buf_ops xattr_block_ops = { .name = "xattr block", .verify = xattr_block_verify };

blk_t xattr_block_blk(const struct inode *ip)
{
	blk_t blk = le32_get(ip->raw->i_file_acl_lo);

	if (geom_has_incompat(&ip->fs->geom, EXT4_FEATURE_INCOMPAT_64BIT))
		blk |= (blk_t)le16_get(ip->raw->l_i_file_acl_high) << 32;
	return blk;
}

int xattr_block_read(struct inode *ip, struct buf **ret_buf)
{
	const struct geom *g = &ip->fs->geom;
	blk_t blk = xattr_block_blk(ip);
	int err;

	if (blk == 0) {
		*ret_buf = NULL;
		return 0;
	}
	err = buf_read(ip->fs->cache, blk, &xattr_block_ops, 0, g, 0, ret_buf);
	return err < 0 ? fail_in(err, "inode %u", ip->ino) : 0;
}

/* The row in the block, valid while *ret_buf is referenced.  Requires xattr_lock shared. */
static int block_row(struct inode *ip, struct buf **ret_buf, struct xattr_row *ret_row)
{
	struct xattr_area area = { 0 };
	int err;

	err = xattr_block_read(ip, ret_buf);
	if (err < 0)
		return err;
	if (*ret_buf)
		area = xattr_block_area(&ip->fs->geom, (*ret_buf)->data);
	*ret_row = xattr_area_row(&area);
	return 0;
}

int xattr_ibody_find(struct inode *ip, uint8_t index, const char *name, size_t name_len,
		     const uint8_t **ret_value, uint32_t *ret_size)
{
	const struct xattr_key key = { index, name, name_len };
	const struct xattr_row row = body_row(ip);
	const struct ext4_xattr_entry *entry = xattr_row_find(&row, &key);

	if (!entry)
		return -ENODATA;
	if (le32_get(entry->e_value_inum) != 0)
		return corrupt("inode %u: an attribute of kind %u has its value in another inode",
			       ip->ino, index);
	*ret_value = row.base + le16_get(entry->e_value_offs);
	*ret_size = le32_get(entry->e_value_size);
	return 0;
}

/* ---- getting --------------------------------------------------------------------------------- */

/* What is found of an attribute; good while xattr_lock is held, @ea as long as it is referenced. */
struct value {
	struct inode *ea; /* the value is there */
	uint32_t size;
	uint32_t hash;
	const uint8_t *data;
	struct buf *buf; /* that holds @data, or NULL */
};

/* Requires xattr_lock shared. */
static int value_find(struct inode *ip, const struct xattr_key *key, struct value *ret)
{
	struct xattr_row row = body_row(ip);
	const struct ext4_xattr_entry *entry = xattr_row_find(&row, key);
	struct buf *buf = NULL;
	int err = 0;

	if (!entry) {
		err = block_row(ip, &buf, &row);
		if (err < 0)
			return err;
		entry = xattr_row_find(&row, key);
	}
	if (!entry) {
		buf_put(buf);
		return -ENODATA;
	}
	*ret = (struct value){
		.size = le32_get(entry->e_value_size),
		.hash = le32_get(entry->e_hash),
		.data = row.base + le16_get(entry->e_value_offs),
		.buf = buf,
	};
	if (le32_get(entry->e_value_inum) != 0)
		err = ea_inode_get(ip, le32_get(entry->e_value_inum), ret->size, &ret->ea);
	return err;
}

/* Copies the value @data out, or tells its size. */
static int value_give(uint8_t index, const void *data, size_t data_size, void *buf, size_t size,
		      size_t *ret_size)
{
	if (xattr_index_is_acl(index))
		return acl_from_disk(data, data_size, buf, size, ret_size);
	if (size > 0 && size < data_size)
		return fail(-ERANGE, "the value has %zu bytes", data_size);
	if (size > 0 && data)
		memcpy(buf, data, data_size);
	*ret_size = data_size;
	return 0;
}

static int value_give_inode(struct inode *ip, const struct xattr_key *key, const struct value *v,
			    void *buf, size_t size, size_t *ret_size)
{
	void *data FREE_SCOPE = NULL;
	int err;

	if (v->size > XATTR_VALUE_BYTES_MAX)
		return fail(-E2BIG, "inode %u: an attribute value of %u bytes", ip->ino, v->size);
	if (!xattr_index_is_acl(key->index) && size < v->size)
		return value_give(key->index, NULL, v->size, buf, size, ret_size);
	data = mem_alloc(v->size + 1u);
	if (!data)
		return -ENOMEM;
	err = ea_inode_read(ip, v->ea, key, v->hash, data);
	if (err < 0)
		return err;
	return value_give(key->index, data, v->size, buf, size, ret_size);
}

int xattr_get(struct inode *ip, const char *name, void *buf, size_t size, size_t *ret_size)
{
	struct value v = { 0 };
	struct xattr_key key;
	int err;

	if (!xattr_key_parse(name, &key))
		return fail(-ENODATA, "inode %u has no attribute %s", ip->ino, name);
	rwlock_read(&ip->xattr_lock);
	err = value_find(ip, &key, &v);
	if (err == 0 && !v.ea)
		err = value_give(key.index, v.data, v.size, buf, size, ret_size);
	rwlock_read_unlock(&ip->xattr_lock);
	buf_put(v.buf);

	if (err == 0 && v.ea)
		err = value_give_inode(ip, &key, &v, buf, size, ret_size);
	inode_put(v.ea);
	if (err == -ENODATA)
		return fail_plainly(err, "inode", ip->ino, "has no such attribute");
	return err;
}

/* ---- listing --------------------------------------------------------------------------------- */

struct names {
	char *buf;
	size_t size, used; /* used goes on counting behind size */
};

static void names_add(struct names *names, const char *bytes, size_t count)
{
	if (count > 0 && names->used + count <= names->size)
		memcpy(names->buf + names->used, bytes, count);
	names->used += count;
}

/* Those of @row that @hidden_by has not. */
static void names_add_row(struct names *names, const struct xattr_row *row,
			  const struct xattr_row *hidden_by)
{
	xattr_row_for_each(entry, row)
	{
		const struct xattr_key key = xattr_entry_key(entry);
		const struct prefix *prefix = entry_prefix(entry);

		if (!prefix || xattr_row_find(hidden_by, &key))
			continue;
		names_add(names, prefix->text, strlen(prefix->text));
		names_add(names, entry->e_name, entry->e_name_len);
		names_add(names, "", 1);
	}
}

int xattr_list(struct inode *ip, char *buf, size_t size, size_t *ret_size)
{
	static const struct xattr_row nothing;
	struct names names = { .buf = buf, .size = size };
	struct buf *block BUF_SCOPE = NULL;
	struct xattr_row ibody, row;
	int err;

	rwlock_read(&ip->xattr_lock);
	ibody = body_row(ip);
	err = block_row(ip, &block, &row);
	if (err == 0) {
		names_add_row(&names, &ibody, &nothing);
		names_add_row(&names, &row, &ibody);
	}
	rwlock_read_unlock(&ip->xattr_lock);
	if (err < 0)
		return err;
	if (size > 0 && names.used > size)
		return fail(-ERANGE, "the names have %zu bytes", names.used);
	*ret_size = names.used;
	return 0;
}

int xattr_count_ea(struct inode *ip, uint32_t *ret_count)
{
	struct buf *block BUF_SCOPE = NULL;
	struct xattr_row body, row;
	int err;

	*ret_count = 0;
	if (!xattr_has_ea_inode(ip->fs))
		return 0;
	rwlock_read(&ip->xattr_lock);
	body = body_row(ip);
	err = block_row(ip, &block, &row);
	if (err == 0)
		*ret_count = xattr_row_count_ea(&body) + xattr_row_count_ea(&row);
	rwlock_read_unlock(&ip->xattr_lock);
	return err;
}
