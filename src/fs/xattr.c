/* SPDX-License-Identifier: MIT */
/*
 * Extended attributes: in the inode behind its fields, in a block that inodes may share, and large
 * values in inodes of their own.
 *
 * Rows of entries were verified with the inode or the block they lie in, i_file_acl with the inode.
 * A value in an inode of its own is checked when it is read: nothing but the entry's hash ties the
 * two together.
 *
 * X1  An attribute in the inode hides one of the same name in the block.
 * X2  No other inode is loaded while xattr_lock is held: facts about an entry are copied out first.
 */
#include "fs/fs.h"
#include "fs/map.h"

#include "base/diag.h"
#include "base/mem.h"
#include "base/sum.h"

#define VALUE_BYTES_MAX 65536u /* as the system call's */
#define NAME_HASH_SHIFT 5
#define VALUE_HASH_SHIFT 16

/* ---- names ----------------------------------------------------------------------------------- */

/* An attribute's name as it lies on disk. */
struct key {
	uint8_t index;
	const char *name;
	size_t name_len;
};

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

static bool key_is_inline_data(uint8_t index, const char *name, size_t name_len)
{
	return index == EXT4_XATTR_INDEX_SYSTEM && name_len == 4 && memcmp(name, "data", 4) == 0;
}

static bool key_parse(const char *name, struct key *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
		const struct prefix *p = &prefixes[i];
		size_t len = strlen(p->text);

		if (strncmp(name, p->text, len) != 0 || p->whole != (name[len] == '\0'))
			continue;
		*ret = (struct key){ p->index, name + len, strlen(name + len) };
		return !key_is_inline_data(p->index, name + len, ret->name_len);
	}
	return false;
}

/* The prefix under which @entry is shown; NULL: it is not. */
static const struct prefix *entry_prefix(const struct ext4_xattr_entry *entry)
{
	if (key_is_inline_data(entry->e_name_index, entry->e_name, entry->e_name_len))
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (prefixes[i].index == entry->e_name_index &&
		    prefixes[i].whole == (entry->e_name_len == 0))
			return &prefixes[i];
	return NULL;
}

static bool entry_has_key(const struct ext4_xattr_entry *entry, const struct key *key)
{
	return entry->e_name_index == key->index && entry->e_name_len == key->name_len &&
	       memcmp(entry->e_name, key->name, key->name_len) == 0;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* A verified row of entries: it is terminated, and what it points to lies behind @base. */
struct row {
	const struct ext4_xattr_entry *first; /* NULL: there is none */
	const uint8_t *base;
};

static bool entry_is_last(const struct ext4_xattr_entry *entry)
{
	static const uint8_t zeros[4];

	return memcmp(entry, zeros, sizeof(zeros)) == 0;
}

static const struct ext4_xattr_entry *entry_next(const struct ext4_xattr_entry *entry)
{
	return (const void *)((const uint8_t *)entry + EXT4_XATTR_LEN(entry->e_name_len));
}

#define row_for_each(entry, row)                                                                  \
	for (const struct ext4_xattr_entry *entry = (row)->first; entry && !entry_is_last(entry); \
	     entry = entry_next(entry))

static const struct ext4_xattr_entry *row_find(const struct row *row, const struct key *key)
{
	row_for_each(entry, row)
	{
		if (entry_has_key(entry, key))
			return entry;
	}
	return NULL;
}

/* The row inside the inode.  Requires xattr_lock shared. */
static struct row ibody_row(const struct inode *ip)
{
	const struct ext4_xattr_ibody_header *header;
	uint32_t extra = 0, inode_size = ip->fs->geom.inode_size;
	size_t at;

	if (inode_size > EXT4_GOOD_OLD_INODE_SIZE)
		extra = le16_get(ip->raw->i_extra_isize);
	at = EXT4_GOOD_OLD_INODE_SIZE + extra;
	/* With i_extra_isize 0 the area was never laid out, whatever lies there. */
	if (extra == 0 || at + sizeof(*header) > inode_size)
		return (struct row){ NULL, NULL };
	header = (const void *)((const uint8_t *)ip->raw + at);
	if (le32_get(header->h_magic) != EXT4_XATTR_MAGIC)
		return (struct row){ NULL, NULL };
	return (struct row){ (const void *)(header + 1), (const uint8_t *)(header + 1) };
}

static int xattr_block_verify(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return verify_xattr_block(arg, data, blk);
}

static const struct buf_ops xattr_block_ops = { "xattr block", xattr_block_verify };

/* The row in the block, valid while *ret_buf is referenced.  Requires xattr_lock shared. */
static int block_row(struct inode *ip, struct buf **ret_buf, struct row *ret_row)
{
	const struct geom *g = &ip->fs->geom;
	blk_t blk = le32_get(ip->raw->i_file_acl_lo);
	struct buf *buf;
	int err;

	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_64BIT))
		blk |= (blk_t)le16_get(ip->raw->l_i_file_acl_high) << 32;
	if (blk == 0) {
		*ret_row = (struct row){ NULL, NULL };
		return 0;
	}
	err = buf_read(ip->fs->cache, blk, &xattr_block_ops, 0, g, 0, &buf);
	if (err < 0)
		return fail_in(err, "inode %u", ip->ino);
	*ret_row = (struct row){
		(const void *)((const struct ext4_xattr_header *)(const void *)buf->data + 1),
		buf->data,
	};
	*ret_buf = buf;
	return 0;
}

int xattr_ibody_find(struct inode *ip, uint8_t index, const char *name, size_t name_len,
		     const uint8_t **ret_value, uint32_t *ret_size)
{
	const struct key key = { index, name, name_len };
	const struct row row = ibody_row(ip);
	const struct ext4_xattr_entry *entry = row_find(&row, &key);

	if (!entry)
		return -ENODATA;
	if (le32_get(entry->e_value_inum) != 0)
		return corrupt("inode %u: an attribute of kind %u has its value in another inode",
			       ip->ino, index);
	*ret_value = row.base + le16_get(entry->e_value_offs);
	*ret_size = le32_get(entry->e_value_size);
	return 0;
}

/* ---- values in inodes of their own ----------------------------------------------------------- */

/* What is known of an attribute once xattr_lock is dropped. */
struct value {
	uint32_t inum; /* 0: the value is @data */
	uint32_t size;
	uint32_t hash;
	const uint8_t *data;
	struct buf *buf; /* that holds @data, or NULL */
};

/* Seed of the hashes of such values: that of metadata_csum, but there without it as well. */
static uint32_t value_hash_seed(const struct uext4_fs *fs)
{
	if (geom_has_incompat(&fs->geom, EXT4_FEATURE_INCOMPAT_CSUM_SEED))
		return le32_get(fs->super.s_checksum_seed);
	return crc32c(UINT32_MAX, fs->geom.uuid, sizeof(fs->geom.uuid));
}

/*
 * Hash of an entry over its name and the hash of its value; some kernels took characters as signed.
 */
static uint32_t entry_hash(const struct key *key, uint32_t value_hash, bool is_signed)
{
	uint32_t hash = 0;

	for (size_t i = 0; i < key->name_len; i++) {
		uint8_t byte = (uint8_t)key->name[i];

		hash = hash << NAME_HASH_SHIFT ^ hash >> (32 - NAME_HASH_SHIFT) ^
		       (is_signed ? (uint32_t)(int8_t)byte : byte);
	}
	return hash << VALUE_HASH_SHIFT ^ hash >> (32 - VALUE_HASH_SHIFT) ^ value_hash;
}

/* Made by Lustre, an inode with a value points back to its only user, and has no hash. */
static bool is_of_lustre(const struct inode *ip, const struct inode *ea, uint32_t hash)
{
	return hash != le32_get(ea->raw->i_atime) && le32_get(ea->raw->i_mtime) == ip->ino &&
	       ea->generation == ip->generation;
}

static int value_check(const struct inode *ip, const struct inode *ea, const struct key *key,
		       const struct value *v, const void *data)
{
	uint32_t hash;

	if (is_of_lustre(ip, ea, v->hash))
		return 0;
	hash = crc32c(value_hash_seed(ip->fs), data, v->size);
	if (hash != le32_get(ea->raw->i_atime))
		return corrupt("inode %u: the attribute value in inode %u has hash %08x, not %08x",
			       ip->ino, ea->ino, hash, le32_get(ea->raw->i_atime));
	if (entry_hash(key, hash, false) != v->hash && entry_hash(key, hash, true) != v->hash)
		return corrupt("inode %u: the attribute value in inode %u belongs to another entry",
			       ip->ino, ea->ino);
	return 0;
}

/* Reads @size bytes of @ea past the caches: they are wanted once. */
static int value_read_blocks(struct inode *ea, uint8_t *to, uint32_t size)
{
	struct uext4_fs *fs = ea->fs;
	const uint32_t block_bits = fs->geom.block_bits;
	uint32_t done = 0;

	while (done < size) {
		struct map_ext ext;
		uint64_t bytes;
		int err;

		err = map_read(ea, done >> block_bits, &ext);
		if (err < 0)
			return err;
		if (ext.state != MAP_WRITTEN)
			return corrupt("inode %u: an attribute value with a hole", ea->ino);
		bytes = min_u64((uint64_t)ext.count << block_bits, size - done);
		err = dev_read(fs->dev, ext.physical << block_bits, to + done, (size_t)bytes);
		if (err < 0)
			return err;
		done += (uint32_t)bytes;
	}
	return 0;
}

/* The value of @v, which lies in another inode, into @buf of v->size bytes. */
static int value_read_inode(struct inode *ip, const struct key *key, const struct value *v,
			    void *buf)
{
	struct inode *ea INODE_SCOPE = NULL;
	int err;

	err = inode_get(ip->fs, v->inum, &ea);
	if (err == -ESTALE || err == -EINVAL)
		return corrupt("inode %u: the attribute value in inode %u does not exist", ip->ino,
			       v->inum);
	if (err < 0)
		return fail_in(err, "inode %u: attribute value", ip->ino);
	if (!inode_is_reg(ea) || !inode_has_flag(ea, EXT4_EA_INODE_FL) || ea->size != v->size ||
	    (v->size > 0 && ea->state != INODE_BLOCKS))
		return corrupt("inode %u: inode %u is no attribute value of %u bytes", ip->ino,
			       ea->ino, v->size);
	err = value_read_blocks(ea, buf, v->size);
	if (err < 0)
		return fail_in(err, "inode %u: attribute value", ip->ino);
	return value_check(ip, ea, key, v, buf);
}

/* ---- getting --------------------------------------------------------------------------------- */

static struct value value_of(const struct row *row, const struct ext4_xattr_entry *entry)
{
	struct value v = {
		.inum = le32_get(entry->e_value_inum),
		.size = le32_get(entry->e_value_size),
		.hash = le32_get(entry->e_hash),
	};

	if (v.inum == 0)
		v.data = row->base + le16_get(entry->e_value_offs);
	return v;
}

/* Requires xattr_lock shared; value.data is good as long as it and value.buf are. */
static int value_find(struct inode *ip, const struct key *key, struct value *ret)
{
	struct row row = ibody_row(ip);
	const struct ext4_xattr_entry *entry = row_find(&row, key);
	struct buf *buf = NULL;
	int err;

	if (!entry) {
		err = block_row(ip, &buf, &row);
		if (err < 0)
			return err;
		entry = row_find(&row, key);
	}
	if (!entry) {
		buf_put(buf);
		return -ENODATA;
	}
	*ret = value_of(&row, entry);
	ret->buf = buf;
	return 0;
}

static bool index_is_acl(uint8_t index)
{
	return index == EXT4_XATTR_INDEX_POSIX_ACL_ACCESS ||
	       index == EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT;
}

/* Copies the value @data out, or tells its size. */
static int value_give(uint8_t index, const void *data, size_t data_size, void *buf, size_t size,
		      size_t *ret_size)
{
	if (index_is_acl(index))
		return acl_from_disk(data, data_size, buf, size, ret_size);
	if (size > 0 && size < data_size)
		return fail(-ERANGE, "the value has %zu bytes", data_size);
	if (size > 0 && data_size > 0)
		memcpy(buf, data, data_size);
	*ret_size = data_size;
	return 0;
}

static int value_give_inode(struct inode *ip, const struct key *key, const struct value *v,
			    void *buf, size_t size, size_t *ret_size)
{
	void *data FREE_SCOPE = NULL;
	int err;

	if (v->size > VALUE_BYTES_MAX)
		return fail(-E2BIG, "inode %u: an attribute value of %u bytes", ip->ino, v->size);
	if (!index_is_acl(key->index) && size < v->size)
		return value_give(key->index, NULL, v->size, buf, size, ret_size);
	data = mem_alloc(v->size + 1u);
	if (!data)
		return -ENOMEM;
	err = value_read_inode(ip, key, v, data);
	if (err < 0)
		return err;
	return value_give(key->index, data, v->size, buf, size, ret_size);
}

int xattr_get(struct inode *ip, const char *name, void *buf, size_t size, size_t *ret_size)
{
	struct value v = { 0 };
	struct key key;
	int err;

	if (!key_parse(name, &key))
		return fail(-ENODATA, "inode %u has no attribute %s", ip->ino, name);
	rwlock_read(&ip->xattr_lock);
	err = value_find(ip, &key, &v);
	if (err == 0 && v.inum == 0)
		err = value_give(key.index, v.data, v.size, buf, size, ret_size);
	rwlock_read_unlock(&ip->xattr_lock);
	buf_put(v.buf);

	if (err == 0 && v.inum != 0)
		err = value_give_inode(ip, &key, &v, buf, size, ret_size);
	if (err == -ENODATA)
		return fail(err, "inode %u has no attribute %s", ip->ino, name);
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
static void names_add_row(struct names *names, const struct row *row, const struct row *hidden_by)
{
	row_for_each(entry, row)
	{
		const struct key key = { entry->e_name_index, entry->e_name, entry->e_name_len };
		const struct prefix *prefix = entry_prefix(entry);

		if (!prefix || row_find(hidden_by, &key))
			continue;
		names_add(names, prefix->text, strlen(prefix->text));
		names_add(names, entry->e_name, entry->e_name_len);
		names_add(names, "", 1);
	}
}

int xattr_list(struct inode *ip, char *buf, size_t size, size_t *ret_size)
{
	static const struct row nothing;
	struct names names = { .buf = buf, .size = size };
	struct buf *block BUF_SCOPE = NULL;
	struct row ibody, row;
	int err;

	rwlock_read(&ip->xattr_lock);
	ibody = ibody_row(ip);
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
