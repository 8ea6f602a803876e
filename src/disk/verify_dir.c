/* SPDX-License-Identifier: MIT */
/*
 * Verifiers of directory blocks: leaves (and the parts of inline directories), roots and inner
 * nodes of hash trees.
 *
 * Whether the first two entries are "." and "..", and whether a name lies in the leaf its hash
 * belongs to, is not decided here: a reader survives both.
 *
 *  D1  The records of a leaf that passed fill it exactly: a walk by rec_len meets its end, and each
 *      step is at least 12 bytes.
 *  D2  A name in use has 1 to 255 bytes, all inside its record, none of them '/' or NUL: whoever
 *      builds a path from it stays where he is.
 *  D3  The entries of a hash tree node lie inside it, in ascending order of hashes, and none leads
 *      to block 0.
 */
#include <inttypes.h>

#include "disk/verify.h"
#include "disk/verify_priv.h"

#include "base/diag.h"

#define LEAF_FMT "directory %u, block %" PRIu64
#define INDEX_FMT "directory %u, index block %" PRIu64
#define DIRENT_BYTES_MIN EXT4_DIR_ENTRY_BYTES(1)

/* ---- leaves ---------------------------------------------------------------------------------- */

uint32_t sum_dirents(const struct verify_inode *vi, const void *data, uint32_t bytes)
{
	return crc32c(vi->csum_seed, data, bytes);
}

static int check_leaf_checksum(const struct verify_inode *vi, const void *data, uint32_t bytes,
			       blk_t blk)
{
	const struct ext4_dir_entry_tail *tail = (const void *)((const uint8_t *)data + bytes);
	uint32_t found, wanted;

	if (le32_get(tail->det_reserved_zero1) != 0 ||
	    le16_get(tail->det_rec_len) != sizeof(*tail) || tail->det_reserved_zero2 != 0 ||
	    tail->det_reserved_ft != EXT4_FT_DIR_CSUM)
		return corrupt(LEAF_FMT ": no checksum tail", vi->ino, blk);
	found = le32_get(tail->det_checksum);
	wanted = sum_dirents(vi, data, bytes);
	if (!checksum_fits(found, wanted))
		return bad_checksum(LEAF_FMT ": checksum is %08x, should be %08x", vi->ino, blk,
				    found, wanted);
	return 0;
}

/* What is wrong with the record at @at, or NULL. */
static const char *dirent_fault(const struct geom *g, const struct ext4_dir_entry_2 *de,
				uint32_t rec_len, uint32_t room)
{
	if (rec_len < DIRENT_BYTES_MIN || rec_len % EXT4_DIR_ROUND != 0)
		return "impossible record length";
	if (rec_len > room)
		return "record crosses the end";
	if (rec_len != room && room - rec_len < DIRENT_BYTES_MIN)
		return "no room for a record behind it";
	if (EXT4_DIR_ENTRY_BYTES(de->name_len) > rec_len)
		return "name crosses the end of the record";
	if (le32_get(de->inode) > g->inodes)
		return "impossible inode number";
	if (le32_get(de->inode) == 0)
		return NULL;
	if (de->name_len == 0)
		return "empty name";
	if (memchr(de->name, '/', de->name_len) || memchr(de->name, '\0', de->name_len))
		return "name with a slash or NUL";
	return NULL;
}

int verify_dirents(const struct verify_inode *vi, const void *data, uint32_t bytes, blk_t blk,
		   bool has_tail)
{
	const struct geom *g = vi->geom;
	uint32_t at = 0;
	int err;

	if (has_tail) {
		assert(bytes > sizeof(struct ext4_dir_entry_tail));
		bytes -= (uint32_t)sizeof(struct ext4_dir_entry_tail);
		err = check_leaf_checksum(vi, data, bytes, blk);
		if (err)
			return err;
	}
	if (bytes != 0 && bytes < DIRENT_BYTES_MIN)
		return corrupt(LEAF_FMT ": only %u bytes", vi->ino, blk, bytes);
	while (at < bytes) {
		const struct ext4_dir_entry_2 *de = (const void *)((const uint8_t *)data + at);
		uint32_t rec_len = dirent_rec_len(de->rec_len, g->block_size);
		const char *fault = dirent_fault(g, de, rec_len, bytes - at);

		if (fault)
			return corrupt(LEAF_FMT
				       ", byte %u: %s (inode %u, record of %u bytes, name of %u)",
				       vi->ino, blk, at, fault, le32_get(de->inode), rec_len,
				       de->name_len);
		at += rec_len;
	}
	return 0;
}

/* ---- hash trees ------------------------------------------------------------------------------ */

uint32_t sum_dx(const struct verify_inode *vi, const void *data, uint32_t at)
{
	const struct dx_entry *entries = (const void *)((const uint8_t *)data + at);
	const struct dx_countlimit *cl = (const void *)entries;
	const struct dx_tail *tail = (const void *)(entries + le16_get(cl->limit));
	uint32_t crc = crc32c(vi->csum_seed, data, at + le16_get(cl->count) * sizeof(*entries));

	crc = crc32c(crc, &tail->dt_reserved, sizeof(tail->dt_reserved));
	return crc32c_zeros(crc, sizeof(tail->dt_checksum));
}

/* Root and node differ only in where their row of entries begins: at byte @at of the block. */
static int check_dx_entries(const struct verify_inode *vi, const void *data, uint32_t at,
			    const struct dx_entry *entries, blk_t blk)
{
	const struct dx_countlimit *cl = (const void *)entries;
	uint32_t limit = le16_get(cl->limit), count = le16_get(cl->count);
	uint32_t room = vi->geom->block_size - at, hash_before = 0;

	if (geom_has_csum(vi->geom))
		room -= (uint32_t)sizeof(struct dx_tail);
	if (limit != room / sizeof(*entries) || count == 0 || count > limit)
		return corrupt(INDEX_FMT ": %u entries, limit %u, room for %zu", vi->ino, blk,
			       count, limit, room / sizeof(*entries));
	if (geom_has_csum(vi->geom)) {
		const struct dx_tail *tail = (const void *)(entries + limit);
		uint32_t found = le32_get(tail->dt_checksum);
		uint32_t wanted = sum_dx(vi, data, at);

		if (!checksum_fits(found, wanted))
			return bad_checksum(INDEX_FMT ": checksum is %08x, should be %08x", vi->ino,
					    blk, found, wanted);
	}
	for (uint32_t i = 0; i < count; i++) {
		/* Bit 0 says that a hash goes on here; equal hashes may fill several leaves. */
		uint32_t hash = i == 0 ? 0 : le32_get(entries[i].hash) & ~1u;

		if (hash < hash_before)
			return corrupt(INDEX_FMT ": hash %08x of entry %u after %08x", vi->ino, blk,
				       hash, i, hash_before);
		if ((le32_get(entries[i].block) & DX_BLOCK_MASK) == 0)
			return corrupt(INDEX_FMT ": entry %u leads to the root", vi->ino, blk, i);
		hash_before = hash;
	}
	return 0;
}

int verify_dx_root(const struct verify_inode *vi, const void *data, blk_t blk)
{
	const struct geom *g = vi->geom;
	const struct dx_root *root = data;
	const struct dx_root_info *info = &root->info;
	uint32_t levels_max = geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_LARGEDIR) ? 2 : 1;

	if (dirent_rec_len(root->dot.rec_len, g->block_size) != offsetof(struct dx_root, dotdot) ||
	    dirent_rec_len(root->dotdot.rec_len, g->block_size) !=
		    g->block_size - offsetof(struct dx_root, dotdot) ||
	    root->dot.name_len != 1 || root->dotdot.name_len != 2 || root->dot_name[0] != '.' ||
	    memcmp(root->dotdot_name, "..", 2) != 0)
		return corrupt(INDEX_FMT ": no \".\" and \"..\"", vi->ino, blk);
	if (le32_get(root->dotdot.inode) > g->inodes)
		return corrupt(INDEX_FMT ": parent inode %u", vi->ino, blk,
			       le32_get(root->dotdot.inode));
	if (le32_get(info->reserved_zero) != 0 || info->info_length != sizeof(*info) ||
	    (info->unused_flags & 1) || info->indirect_levels > levels_max)
		return corrupt(INDEX_FMT ": %u levels, header of %u bytes, flags %02x", vi->ino,
			       blk, info->indirect_levels, info->info_length, info->unused_flags);
	if (info->hash_version > DX_HASH_TEA_UNSIGNED)
		return corrupt(INDEX_FMT ": unknown hash version %u", vi->ino, blk,
			       info->hash_version);
	return check_dx_entries(vi, data, offsetof(struct dx_root, entries), root->entries, blk);
}

int verify_dx_node(const struct verify_inode *vi, const void *data, blk_t blk)
{
	const struct dx_node *node = data;

	if (le32_get(node->fake.inode) != 0 ||
	    dirent_rec_len(node->fake.rec_len, vi->geom->block_size) != vi->geom->block_size)
		return corrupt(LEAF_FMT " is not an index block", vi->ino, blk);
	return check_dx_entries(vi, data, offsetof(struct dx_node, entries), node->entries, blk);
}
