/* SPDX-License-Identifier: MIT */
/*
 * Rows of directory entries: records that fill a block, or a part of an inode, without gaps.
 *
 * Knows nothing of blocks, checksums and trees.  A record that is not in use has inode 0; the bytes
 * of a name that is gone are zeroed.
 *
 *  R1  Only rows that passed verify_dirents() are walked: a walk by rec_len meets their end.
 *  R2  What a function here made of a verified row is one that verify_dirents() would pass.
 *  R3  dirents_insert(), dirents_remove() and dirents_close() move no entry: its place in the row
 *      is its place in a listing (dir_cursor.c).
 */
#include "fs/fs_priv.h"

/* ---- reading --------------------------------------------------------------------------------- */

static uint32_t rec_len(const struct dirents *row, uint32_t at)
{
	return dirent_rec_len(dirents_at(row, at)->rec_len, row->block_size);
}

/* Bytes of the record at @at that its entry needs. */
static uint32_t used_bytes(const struct dirents *row, uint32_t at)
{
	const struct ext4_dir_entry_2 *de = dirents_at(row, at);

	return le32_get(de->inode) == 0 ? 0 : EXT4_DIR_ENTRY_BYTES(de->name_len);
}

const struct ext4_dir_entry_2 *dirents_next(const struct dirents *row, uint32_t *at,
					    uint32_t *ret_at)
{
	while (*at < row->bytes) {
		const struct ext4_dir_entry_2 *de = dirents_at(row, *at);

		*ret_at = *at;
		*at += rec_len(row, *at);
		if (le32_get(de->inode) != 0)
			return de;
	}
	return NULL;
}

bool dirents_find(const struct dirents *row, const void *name, size_t name_len,
		  struct dirent_place *ret_place)
{
	const char last = ((const char *)name)[name_len - 1];
	uint32_t before = DIRENT_NONE;

	for (uint32_t at = 0; at < row->bytes; before = at, at += rec_len(row, at)) {
		const struct ext4_dir_entry_2 *de = dirents_at(row, at);

		/* Names of one directory often begin alike. */
		if (de->name_len != name_len || de->name[name_len - 1] != last ||
		    le32_get(de->inode) == 0 || memcmp(de->name, name, name_len) != 0)
			continue;
		*ret_place = (struct dirent_place){ .at = at, .before = before };
		return true;
	}
	return false;
}

bool dirents_are_empty(const struct dirents *row)
{
	const struct ext4_dir_entry_2 *de;
	uint32_t at = 0, place;

	while ((de = dirents_next(row, &at, &place)))
		if (!name_is_dot(de->name, de->name_len) && !name_is_dotdot(de->name, de->name_len))
			return false;
	return true;
}

bool dirents_find_room(const struct dirents *row, size_t name_len, uint32_t *ret_at)
{
	uint32_t wanted = EXT4_DIR_ENTRY_BYTES(name_len);

	for (uint32_t at = 0; at < row->bytes; at += rec_len(row, at)) {
		if (rec_len(row, at) - used_bytes(row, at) < wanted)
			continue;
		*ret_at = at;
		return true;
	}
	return false;
}

uint32_t dirents_free_bytes(const struct dirents *row)
{
	uint32_t bytes = row->bytes;

	for (uint32_t at = 0; at < row->bytes; at += rec_len(row, at))
		bytes -= used_bytes(row, at);
	return bytes;
}

/* ---- changing -------------------------------------------------------------------------------- */

static struct ext4_dir_entry_2 *entry_at(uint8_t *data, uint32_t at)
{
	return (void *)(data + at);
}

void dirents_clear(uint8_t *data, uint32_t block_size, uint32_t bytes)
{
	if (bytes == 0)
		return;
	memset(data, 0, bytes);
	entry_at(data, 0)->rec_len = dirent_rec_len_make(bytes, block_size);
}

void dirents_insert(uint8_t *data, uint32_t block_size, uint32_t at, const struct dirent_new *entry)
{
	struct ext4_dir_entry_2 *de = entry_at(data, at);
	uint32_t len = dirent_rec_len(de->rec_len, block_size);

	if (le32_get(de->inode) != 0) {
		uint32_t used = EXT4_DIR_ENTRY_BYTES(de->name_len);

		de->rec_len = dirent_rec_len_make(used, block_size);
		len -= used;
		de = entry_at(data, at + used);
	}
	assert(len >= EXT4_DIR_ENTRY_BYTES(entry->name_len));
	de->inode = le32_make(entry->ino);
	de->rec_len = dirent_rec_len_make(len, block_size);
	de->name_len = entry->name_len;
	de->file_type = entry->type;
	memcpy(de->name, entry->name, entry->name_len);
}

void dirents_set(uint8_t *data, uint32_t at, const struct dirent_new *entry)
{
	struct ext4_dir_entry_2 *de = entry_at(data, at);

	assert(le32_get(de->inode) != 0);
	de->inode = le32_make(entry->ino);
	de->file_type = entry->type;
}

void dirents_remove(uint8_t *data, uint32_t block_size, const struct dirent_place *place)
{
	struct ext4_dir_entry_2 *de = entry_at(data, place->at), *before;
	uint32_t len = dirent_rec_len(de->rec_len, block_size);

	if (place->before == DIRENT_NONE) {
		dirents_clear(data + place->at, block_size, len);
		return;
	}
	memset(de, 0, len);
	before = entry_at(data, place->before);
	assert(place->before + dirent_rec_len(before->rec_len, block_size) == place->at);
	before->rec_len = dirent_rec_len_make(place->at - place->before + len, block_size);
}

void dirents_close(uint8_t *data, uint32_t block_size, uint32_t end, uint32_t bytes)
{
	const struct dirents row = { data, end, block_size };
	uint32_t last = 0;

	assert(end <= bytes);
	if (end == 0) {
		dirents_clear(data, block_size, bytes);
		return;
	}
	for (uint32_t at = 0; at < end; at += rec_len(&row, at))
		last = at;
	memset(data + end, 0, bytes - end);
	entry_at(data, last)->rec_len = dirent_rec_len_make(bytes - last, block_size);
}

void dirents_pack(uint8_t *data, uint32_t block_size, uint32_t bytes)
{
	const struct dirents row = { data, bytes, block_size };
	const struct ext4_dir_entry_2 *de;
	uint32_t at = 0, place, end = 0;

	while ((de = dirents_next(&row, &at, &place))) {
		uint32_t used = EXT4_DIR_ENTRY_BYTES(de->name_len);

		memmove(data + end, de, used);
		entry_at(data, end)->rec_len = dirent_rec_len_make(used, block_size);
		end += used;
	}
	dirents_close(data, block_size, end, bytes);
}
