/* SPDX-License-Identifier: MIT */
/*
 * Verifiers of what belongs to one inode: the inode itself, nodes of its extent tree, its xattrs.
 *
 * Blocks named by block maps beyond the inode (indirect blocks have no header and no checksum) are
 * checked by the code that walks them.
 *
 *  I1  An inode that is in use and passed has a known type, a size that fits lblk_t, and an
 *      i_block[] that is what its flags say: extent root, block map, inline data or target.
 *  I2  An inline inode that passed has system.data, and its size fits into i_block[] and that
 *      value.
 *  I3  The entries of an extent node that passed are sorted and disjoint and lie inside the
 *      parent's range; their blocks lie inside the file system.
 *  I4  A row of xattrs that passed can be walked to its end, and each value that it holds lies
 *      behind the end of the row and before the end of its area.
 */
#include <inttypes.h>

#include "disk/verify.h"
#include "disk/verify_priv.h"

#include "base/diag.h"

/* ---- extent trees ---------------------------------------------------------------------------- */

/* Inode and block; 0 for the root, which lies in the inode. */
#define NODE_FMT "inode %u: extent node (block %" PRIu64 ")"

/* The logical blocks from next to vi->end are still to be had. */
static int check_extents(const struct verify_inode *vi, const struct ext4_extent *ext,
			 uint32_t count, blk_t blk)
{
	uint64_t next = vi->first;

	for (uint32_t i = 0; i < count; i++, ext++) {
		uint64_t first = le32_get(ext->ee_block);
		uint32_t len = le16_get(ext->ee_len);
		blk_t start = (blk_t)le16_get(ext->ee_start_hi) << 32 | le32_get(ext->ee_start_lo);

		if (len > EXT_INIT_MAX_LEN)
			len -= EXT_INIT_MAX_LEN;
		if (len == 0)
			return corrupt(NODE_FMT ": extent %u is empty", vi->ino, blk, i);
		if (first < next || first + len > vi->end)
			return corrupt(NODE_FMT ": extent %u maps blocks %" PRIu64 " to %" PRIu64
						", allowed are %" PRIu64 " to %u",
				       vi->ino, blk, i, first, first + len - 1, next, vi->end - 1);
		if (!blocks_in_fs(vi->geom, start, len))
			return corrupt(NODE_FMT ": extent %u lies at %u blocks from %" PRIu64,
				       vi->ino, blk, i, len, start);
		next = first + len;
	}
	return 0;
}

static int check_extent_indexes(const struct verify_inode *vi, const struct ext4_extent_idx *idx,
				uint32_t count, blk_t blk)
{
	uint64_t next = vi->first;

	for (uint32_t i = 0; i < count; i++, idx++) {
		uint64_t first = le32_get(idx->ei_block);
		blk_t leaf = (blk_t)le16_get(idx->ei_leaf_hi) << 32 | le32_get(idx->ei_leaf_lo);

		if (first < next || first >= vi->end)
			return corrupt(NODE_FMT ": index %u begins at block %" PRIu64
						", allowed are %" PRIu64 " to %u",
				       vi->ino, blk, i, first, next, vi->end - 1);
		if (!blocks_in_fs(vi->geom, leaf, 1))
			return corrupt(NODE_FMT ": index %u leads to block %" PRIu64, vi->ino, blk,
				       i, leaf);
		next = first + 1;
	}
	return 0;
}

uint32_t sum_extent_block(const struct verify_inode *vi, const struct ext4_extent_header *eh,
			  size_t *ret_tail_at)
{
	size_t at = sizeof(*eh) + le16_get(eh->eh_max) * sizeof(struct ext4_extent);

	*ret_tail_at = at;
	return crc32c(vi->csum_seed, eh, at);
}

static int check_extent_checksum(const struct verify_inode *vi, const struct ext4_extent_header *eh,
				 blk_t blk)
{
	size_t at;
	uint32_t wanted = sum_extent_block(vi, eh, &at);
	const struct ext4_extent_tail *tail = (const void *)((const uint8_t *)eh + at);
	uint32_t found = le32_get(tail->et_checksum);

	if (!checksum_fits(found, wanted))
		return bad_checksum(NODE_FMT ": checksum is %08x, should be %08x", vi->ino, blk,
				    found, wanted);
	return 0;
}

int verify_extent_node(const struct verify_inode *vi, const struct ext4_extent_header *eh,
		       uint32_t bytes, blk_t blk)
{
	bool is_root = bytes == EXT4_I_BLOCK_BYTES;
	uint32_t room = (bytes - (uint32_t)sizeof(*eh)) / (uint32_t)sizeof(struct ext4_extent);
	uint32_t entries = le16_get(eh->eh_entries), max = le16_get(eh->eh_max);
	uint32_t depth = le16_get(eh->eh_depth);
	int err;

	assert(is_root || bytes == vi->geom->block_size);
	if (le16_get(eh->eh_magic) != EXT4_EXT_MAGIC)
		return corrupt(NODE_FMT ": magic number is %04x", vi->ino, blk,
			       le16_get(eh->eh_magic));
	/* Behind the last entry of a block there is always room left for the tail. */
	if (max == 0 || max > room)
		return corrupt(NODE_FMT ": eh_max is %u, there is room for %u", vi->ino, blk, max,
			       room);
	if (!is_root && geom_has_csum(vi->geom)) {
		err = check_extent_checksum(vi, eh, blk);
		if (err)
			return err;
	}
	if (depth > EXT4_MAX_EXTENT_DEPTH || (!is_root && depth != vi->depth))
		return corrupt(NODE_FMT ": depth is %u", vi->ino, blk, depth);
	if (entries > max || (entries == 0 && depth > 0))
		return corrupt(NODE_FMT ": %u entries of at most %u at depth %u", vi->ino, blk,
			       entries, max, depth);
	if (depth > 0)
		return check_extent_indexes(vi, (const void *)(eh + 1), entries, blk);
	return check_extents(vi, (const void *)(eh + 1), entries, blk);
}

/* ---- extended attributes --------------------------------------------------------------------- */

#define EXT4_XATTR_SIZE_MAX (1u << 24)

/* Four zero bytes follow the last entry. */
static bool xattr_is_last(const uint8_t *at)
{
	return (at[0] | at[1] | at[2] | at[3]) == 0;
}

static const struct ext4_xattr_entry *xattr_entry(const uint8_t *at)
{
	return (const void *)at;
}

/* Finds the end of the row, *@ret_end, with the names inside the area. */
static int check_xattr_names(const uint8_t *first, const uint8_t *end, const uint8_t **ret_end)
{
	const uint8_t *at = first;

	while (end - at >= 4 && !xattr_is_last(at)) {
		const struct ext4_xattr_entry *e = xattr_entry(at);
		size_t left = (size_t)(end - at);

		if (left < sizeof(*e) || left < EXT4_XATTR_LEN(e->e_name_len))
			return corrupt("name of an xattr crosses the end");
		if (memchr(e->e_name, '\0', e->e_name_len))
			return corrupt("name of an xattr contains NUL");
		at += EXT4_XATTR_LEN(e->e_name_len);
	}
	if (end - at < 4)
		return corrupt("xattrs without an end");
	*ret_end = at + 4;
	return 0;
}

static int check_xattr_value(const struct geom *g, const struct ext4_xattr_entry *e,
			     uint64_t values_start, uint64_t values_end)
{
	uint32_t size = le32_get(e->e_value_size), offset = le16_get(e->e_value_offs);
	uint32_t value_ino = le32_get(e->e_value_inum);

	if (size > EXT4_XATTR_SIZE_MAX)
		return corrupt("xattr of %u bytes", size);
	if (value_ino != 0) {
		if (!geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_EA_INODE))
			return corrupt("xattr in inode %u without ea_inode", value_ino);
		if (value_ino < g->first_ino || value_ino > g->inodes || size == 0)
			return corrupt("xattr of %u bytes in inode %u", size, value_ino);
		return 0;
	}
	/* A value of size 0 has no place. */
	if (size == 0)
		return 0;
	if (offset < values_start || offset > values_end ||
	    round_up_pow2(size, EXT4_XATTR_PAD) > values_end - offset)
		return corrupt("xattr of %u bytes at %u, values lie at %" PRIu64 " to %" PRIu64,
			       size, offset, values_start, values_end);
	return 0;
}

static int check_xattr_row(const struct geom *g, const uint8_t *first, const uint8_t *base,
			   const uint8_t *end)
{
	const uint8_t *row_end = first;
	int err;

	err = check_xattr_names(first, end, &row_end);
	if (err)
		return err;
	for (const uint8_t *at = first; !xattr_is_last(at);
	     at += EXT4_XATTR_LEN(xattr_entry(at)->e_name_len)) {
		err = check_xattr_value(g, xattr_entry(at), (uint64_t)(row_end - base),
					(uint64_t)(end - base));
		if (err)
			return err;
	}
	return 0;
}

int verify_xattr_entries(const struct geom *g, uint32_t ino, const void *first, const void *base,
			 const void *end)
{
	int err = check_xattr_row(g, first, base, end);

	return err ? fail_in(err, "inode %u", ino) : 0;
}

uint32_t sum_xattr_block(const struct geom *g, const void *data, blk_t blk)
{
	const struct ext4_xattr_header *h = data;
	size_t at = offsetof(struct ext4_xattr_header, h_checksum);
	size_t behind = at + sizeof(h->h_checksum);
	const uint8_t *raw = data;
	uint32_t crc = crc32c(crc32c_u64(g->csum_seed, blk), raw, at);

	crc = crc32c_zeros(crc, sizeof(h->h_checksum));
	return crc32c(crc, raw + behind, g->block_size - behind);
}

int verify_xattr_block(const struct geom *g, const void *data, blk_t blk)
{
	const struct ext4_xattr_header *h = data;
	const uint8_t *raw = data;
	uint32_t found = le32_get(h->h_checksum), wanted;
	int err;

	if (le32_get(h->h_magic) != EXT4_XATTR_MAGIC || le32_get(h->h_blocks) != 1)
		return corrupt("xattr block %" PRIu64 ": magic number is %08x, blocks %u", blk,
			       le32_get(h->h_magic), le32_get(h->h_blocks));
	if (geom_has_csum(g)) {
		wanted = sum_xattr_block(g, data, blk);
		if (!checksum_fits(found, wanted))
			return bad_checksum("xattr block %" PRIu64
					    ": checksum is %08x, should be %08x",
					    blk, found, wanted);
	}
	err = check_xattr_row(g, (const uint8_t *)(h + 1), data, raw + g->block_size);
	return err ? fail_in(err, "xattr block %" PRIu64, blk) : 0;
}

/* ---- inodes ---------------------------------------------------------------------------------- */

#define MODE_TYPE 0170000u
#define MODE_FIFO 0010000u
#define MODE_CHR 0020000u
#define MODE_DIR 0040000u
#define MODE_BLK 0060000u
#define MODE_REG 0100000u
#define MODE_LNK 0120000u
#define MODE_SOCK 0140000u

uint32_t verify_inode_seed(const struct geom *g, uint32_t ino, uint32_t generation)
{
	return crc32c_u32(crc32c_u32(g->csum_seed, ino), generation);
}

bool inode_has_checksum_hi(const struct geom *g, const struct ext4_inode *raw)
{
	return g->inode_size > EXT4_GOOD_OLD_INODE_SIZE &&
	       EXT4_INODE_HAS(i_checksum_hi, le16_get(raw->i_extra_isize));
}

/*
 * The two halves of the checksum count as zero.  The upper one does not exist in inodes of 128
 * bytes, nor in those whose i_extra_isize ends before it; then the lower half is all there is.
 */
uint32_t verify_inode_checksum(const struct geom *g, uint32_t ino, const struct ext4_inode *raw)
{
	const uint8_t *bytes = (const uint8_t *)raw;
	size_t lo_at = offsetof(struct ext4_inode, l_i_checksum_lo);
	size_t hi_at = offsetof(struct ext4_inode, i_checksum_hi);
	size_t at = lo_at + sizeof(raw->l_i_checksum_lo);
	uint32_t crc = verify_inode_seed(g, ino, le32_get(raw->i_generation));

	crc = crc32c(crc, bytes, lo_at);
	crc = crc32c_zeros(crc, sizeof(raw->l_i_checksum_lo));
	if (inode_has_checksum_hi(g, raw)) {
		crc = crc32c(crc, bytes + at, hi_at - at);
		crc = crc32c_zeros(crc, sizeof(raw->i_checksum_hi));
		at = hi_at + sizeof(raw->i_checksum_hi);
	}
	crc = crc32c(crc, bytes + at, g->inode_size - at);
	return inode_has_checksum_hi(g, raw) ? crc : crc & 0xFFFF;
}

static int check_inode_checksum(const struct geom *g, uint32_t ino, const struct ext4_inode *raw)
{
	uint32_t found = le16_get(raw->l_i_checksum_lo);
	uint32_t crc = verify_inode_checksum(g, ino, raw);

	if (inode_has_checksum_hi(g, raw))
		found |= (uint32_t)le16_get(raw->i_checksum_hi) << 16;
	if (!checksum_fits(found, crc))
		return bad_checksum("inode %u: checksum is %08x, should be %08x", ino, found, crc);
	return 0;
}

static int check_type_and_size(const struct geom *g, uint32_t ino, const struct ext4_inode *raw,
			       uint32_t type, uint64_t size)
{
	switch (type) {
	case MODE_REG:
		/* One block less than lblk_t counts: the block behind the last has a number too. */
		if (size > (uint64_t)UINT32_MAX << g->block_bits)
			return corrupt("inode %u: size is %" PRIu64, ino, size);
		return 0;
	case MODE_DIR:
		if (size >> g->block_bits >= UINT32_MAX)
			return corrupt("inode %u: directory of %" PRIu64 " bytes", ino, size);
		return 0;
	case MODE_LNK:
		if (size >= g->block_size)
			return corrupt("inode %u: symlink of %" PRIu64 " bytes", ino, size);
		return 0;
	case MODE_FIFO:
	case MODE_CHR:
	case MODE_BLK:
	case MODE_SOCK: return 0;
	case 0:
		/* The boot loader's inode is used without ever having been created as something. */
		if (ino == EXT4_BOOT_LOADER_INO)
			return 0;
	}
	return corrupt("inode %u: impossible type in mode %06o", ino, le16_get(raw->i_mode));
}

/* Size of the value of system.data in a row of entries that passed, or -1. */
static int64_t inline_value_size(const uint8_t *at)
{
	for (; !xattr_is_last(at); at += EXT4_XATTR_LEN(xattr_entry(at)->e_name_len)) {
		const struct ext4_xattr_entry *e = xattr_entry(at);

		if (e->e_name_index == EXT4_XATTR_INDEX_SYSTEM && e->e_name_len == 4 &&
		    memcmp(e->e_name, "data", 4) == 0 && le32_get(e->e_value_inum) == 0)
			return le32_get(e->e_value_size);
	}
	return -1;
}

/* *@ret_row: the verified xattr entries in the body, or NULL if it holds none. */
static int check_body_xattrs(const struct geom *g, uint32_t ino, const struct ext4_inode *raw,
			     uint32_t extra, const uint8_t **ret_row)
{
	const uint8_t *end = (const uint8_t *)raw + g->inode_size;
	const uint8_t *at = (const uint8_t *)raw + EXT4_GOOD_OLD_INODE_SIZE + extra;
	const struct ext4_xattr_ibody_header *h = (const void *)at;
	int err;

	/* With i_extra_isize 0 the area was never laid out. */
	if (extra == 0 || (size_t)(end - at) < sizeof(*h) ||
	    le32_get(h->h_magic) != EXT4_XATTR_MAGIC) {
		*ret_row = NULL;
		return 0;
	}
	at += sizeof(*h);
	err = verify_xattr_entries(g, ino, at, at, end);
	if (err)
		return err;
	*ret_row = at;
	return 0;
}

static int check_inline(const struct geom *g, uint32_t ino, const struct ext4_inode *raw,
			uint32_t type, uint64_t size, const uint8_t *xattrs)
{
	int64_t value_size = xattrs ? inline_value_size(xattrs) : -1;

	if (!geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_INLINE_DATA))
		return corrupt("inode %u: inline data without the feature inline_data", ino);
	if (le32_get(raw->i_flags) & EXT4_EXTENTS_FL)
		return corrupt("inode %u: both inline data and extents", ino);
	if (type != MODE_REG && type != MODE_DIR && type != MODE_LNK)
		return corrupt("inode %u: inline data with mode %06o", ino, le16_get(raw->i_mode));
	if (value_size < 0)
		return corrupt("inode %u: inline data without system.data", ino);
	/*
	 * mke2fs -d stores a sparse file of any size inline if its data is all zeros, and e2fsck
	 * agrees; what the inode does not hold of a regular file reads as zeros.
	 */
	if (type != MODE_REG && size > EXT4_I_BLOCK_BYTES + (uint64_t)value_size)
		return corrupt("inode %u: size is %" PRIu64
			       ", there is room inline for %u + %" PRId64,
			       ino, size, EXT4_I_BLOCK_BYTES, value_size);
	return 0;
}

/* What i_block[] holds when it is not inline data. */
static int check_map(const struct geom *g, uint32_t ino, const struct ext4_inode *raw,
		     uint32_t type, uint64_t size)
{
	struct verify_inode vi = { .geom = g, .ino = ino, .end = UINT32_MAX };

	if (type != MODE_REG && type != MODE_DIR && type != MODE_LNK)
		return 0;
	/* The target of a short symlink; ext4 of 2008 set EXT4_EXTENTS_FL there nevertheless. */
	if (type == MODE_LNK && size < EXT4_I_BLOCK_BYTES)
		return 0;
	if (le32_get(raw->i_flags) & EXT4_EXTENTS_FL)
		return verify_extent_node(&vi, (const void *)raw->i_block, EXT4_I_BLOCK_BYTES, 0);
	for (unsigned i = 0; i < EXT4_N_BLOCKS; i++) {
		blk_t blk = le32_get(raw->i_block[i]);

		if (blk != 0 && !blocks_in_fs(g, blk, 1))
			return corrupt("inode %u: i_block[%u] is %" PRIu64, ino, i, blk);
	}
	return 0;
}

static uint64_t inode_size(const struct geom *g, const struct ext4_inode *raw, uint32_t type)
{
	/* Elsewhere the upper half once held other things. */
	if (type == MODE_REG || geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_LARGEDIR))
		return u64_from_lo_hi(raw->i_size_lo, raw->i_size_high);
	return le32_get(raw->i_size_lo);
}

int verify_inode(const struct geom *g, uint32_t ino, const struct ext4_inode *raw)
{
	uint32_t type = le16_get(raw->i_mode) & MODE_TYPE;
	uint32_t flags = le32_get(raw->i_flags);
	uint32_t extra = 0;
	uint64_t size = inode_size(g, raw, type);
	blk_t file_acl = le32_get(raw->i_file_acl_lo);
	const uint8_t *xattrs;
	int err;

	if (le16_get(raw->i_mode) == 0 && le16_get(raw->i_links_count) == 0)
		return 0;
	if (g->inode_size > EXT4_GOOD_OLD_INODE_SIZE)
		extra = le16_get(raw->i_extra_isize);
	if (extra > g->inode_size - EXT4_GOOD_OLD_INODE_SIZE || extra % 4 != 0)
		return corrupt("inode %u: i_extra_isize is %u of %u", ino, extra,
			       g->inode_size - EXT4_GOOD_OLD_INODE_SIZE);
	if (geom_has_csum(g)) {
		err = check_inode_checksum(g, ino, raw);
		if (err)
			return err;
	}
	err = check_type_and_size(g, ino, raw, type, size);
	if (err)
		return err;
	/* Index blocks read as plain entries have checksums of another kind. */
	if ((flags & EXT4_INDEX_FL) && geom_has_csum(g) &&
	    !geom_has_compat(g, EXT4_FEATURE_COMPAT_DIR_INDEX))
		return corrupt("inode %u: indexed directory without the feature dir_index", ino);
	if (geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_64BIT))
		file_acl |= (blk_t)le16_get(raw->l_i_file_acl_high) << 32;
	if (file_acl != 0 && !blocks_in_fs(g, file_acl, 1))
		return corrupt("inode %u: xattr block is %" PRIu64, ino, file_acl);
	err = check_body_xattrs(g, ino, raw, extra, &xattrs);
	if (err)
		return err;
	if (flags & EXT4_INLINE_DATA_FL)
		return check_inline(g, ino, raw, type, size, xattrs);
	return check_map(g, ino, raw, type, size);
}
