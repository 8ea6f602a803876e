/* SPDX-License-Identifier: MIT */
/*
 * Rows of attributes in memory: finding, changing, comparing.  Knows the layout and no inode.
 *
 * A change never moves bytes inside an area: it writes the area anew into other memory, so that
 * what fails leaves everything as it was, and what lies oddly (by others' hands) comes out packed.
 *
 *  R1  Whatever a verified row says, nothing outside of the two areas is read or written: each
 *      entry's value lies inside the area, but values may share bytes, which then do not fit.
 *  R2  What is written here is as e2fsck and the kernel want it: entries of a block are sorted by
 *      index, length and name; values begin and end at multiples of 4, filled up with zeros; an
 *      empty value has offset 0.
 */
#include "fs/xattr_priv.h"

#include "base/diag.h"

#define NAME_HASH_SHIFT 5
#define VALUE_HASH_SHIFT 16
#define BLOCK_HASH_SHIFT 16
#define ROW_END_BYTES 4u /* zeros behind the last entry */

static uint32_t padded(uint32_t size)
{
	return (size + EXT4_XATTR_PAD - 1) & ~(EXT4_XATTR_PAD - 1);
}

static uint32_t rotate(uint32_t v, unsigned by)
{
	return v << by | v >> (32 - by);
}

/* ---- rows ------------------------------------------------------------------------------------ */

bool xattr_entry_is_last(const struct ext4_xattr_entry *entry)
{
	static const uint8_t zeros[ROW_END_BYTES];

	return memcmp(entry, zeros, sizeof(zeros)) == 0;
}

const struct ext4_xattr_entry *xattr_entry_next(const struct ext4_xattr_entry *entry)
{
	return (const void *)((const uint8_t *)entry + EXT4_XATTR_LEN(entry->e_name_len));
}

/* By index, length, name: the order in a block. */
static int key_compare(const struct xattr_key *a, const struct xattr_key *b)
{
	if (a->index != b->index)
		return a->index < b->index ? -1 : 1;
	if (a->name_len != b->name_len)
		return a->name_len < b->name_len ? -1 : 1;
	return a->name_len > 0 ? memcmp(a->name, b->name, a->name_len) : 0;
}

static bool entry_has_key(const struct ext4_xattr_entry *entry, const struct xattr_key *key)
{
	const struct xattr_key own = xattr_entry_key(entry);

	return key_compare(&own, key) == 0;
}

const struct ext4_xattr_entry *xattr_row_find(const struct xattr_row *row,
					      const struct xattr_key *key)
{
	xattr_row_for_each(entry, row)
	{
		if (entry_has_key(entry, key))
			return entry;
	}
	return NULL;
}

uint32_t xattr_row_count_ea(const struct xattr_row *row)
{
	uint32_t count = 0;

	xattr_row_for_each(entry, row) count += le32_get(entry->e_value_inum) != 0;
	return count;
}

/* Bytes of @entry's value in its own area. */
static uint32_t entry_value_bytes(const struct ext4_xattr_entry *entry)
{
	return le32_get(entry->e_value_inum) == 0 ? padded(le32_get(entry->e_value_size)) : 0;
}

/* ---- areas ----------------------------------------------------------------------------------- */

struct xattr_row xattr_area_row(const struct xattr_area *area)
{
	if (!area->base || area->is_blank)
		return (struct xattr_row){ NULL, NULL };
	return (struct xattr_row){ (const void *)(area->base + area->first), area->base };
}

bool xattr_area_is_empty(const struct xattr_area *area)
{
	const struct xattr_row row = xattr_area_row(area);

	return !row.first || xattr_entry_is_last(row.first);
}

struct xattr_area xattr_block_area(const struct geom *g, void *data)
{
	return (struct xattr_area){
		.base = data,
		.first = sizeof(struct ext4_xattr_header),
		.end = g->block_size,
		.is_block = true,
	};
}

uint32_t xattr_entry_hash(const struct xattr_key *key, const le32 *words, size_t count,
			  bool is_signed)
{
	uint32_t hash = 0;

	for (size_t i = 0; i < key->name_len; i++) {
		uint8_t byte = (uint8_t)key->name[i];

		hash = rotate(hash, NAME_HASH_SHIFT) ^ (is_signed ? (uint32_t)(int8_t)byte : byte);
	}
	for (size_t i = 0; i < count; i++)
		hash = rotate(hash, VALUE_HASH_SHIFT) ^ le32_get(words[i]);
	return hash;
}

uint32_t xattr_block_hash(const struct xattr_area *area)
{
	const struct xattr_row row = xattr_area_row(area);
	uint32_t hash = 0;

	xattr_row_for_each(entry, &row)
	{
		if (le32_get(entry->e_hash) == 0)
			return 0;
		hash = rotate(hash, BLOCK_HASH_SHIFT) ^ le32_get(entry->e_hash);
	}
	return hash;
}

static bool entries_equal(const struct ext4_xattr_entry *a, const uint8_t *a_base,
			  const struct ext4_xattr_entry *b, const uint8_t *b_base)
{
	const struct xattr_key b_key = xattr_entry_key(b);
	uint32_t size = le32_get(a->e_value_size);

	if (le32_get(a->e_hash) != le32_get(b->e_hash) || size != le32_get(b->e_value_size) ||
	    le32_get(a->e_value_inum) != le32_get(b->e_value_inum) || !entry_has_key(a, &b_key))
		return false;
	if (le32_get(a->e_value_inum) != 0 || size == 0)
		return true;
	return memcmp(a_base + le16_get(a->e_value_offs), b_base + le16_get(b->e_value_offs),
		      size) == 0;
}

bool xattr_area_equal(const struct xattr_area *a, const struct xattr_area *b)
{
	const struct xattr_row a_row = xattr_area_row(a), b_row = xattr_area_row(b);
	const struct ext4_xattr_entry *other = b_row.first;

	xattr_row_for_each(entry, &a_row)
	{
		if (!other || xattr_entry_is_last(other) ||
		    !entries_equal(entry, a->base, other, b->base))
			return false;
		other = xattr_entry_next(other);
	}
	return !other || xattr_entry_is_last(other);
}

/* ---- changing -------------------------------------------------------------------------------- */

/* The area being written: entries grow from the front, values from the end. */
struct writer {
	const struct xattr_area *to;
	uint32_t entry_at, value_at;
};

/* One more entry with a value of @size bytes, whose place is *@ret_value: NULL if it needs none. */
static int put_entry(struct writer *w, const struct xattr_key *key, uint32_t size, uint32_t inum,
		     struct ext4_xattr_entry **ret_entry, uint8_t **ret_value)
{
	uint32_t entry_bytes = EXT4_XATTR_LEN(key->name_len);
	uint32_t value_bytes = inum == 0 ? padded(size) : 0;
	struct ext4_xattr_entry *entry;

	if ((uint64_t)w->entry_at + entry_bytes + ROW_END_BYTES + value_bytes > w->value_at)
		return -ENOSPC;
	entry = (struct ext4_xattr_entry *)(void *)(w->to->base + w->entry_at);
	w->entry_at += entry_bytes;
	w->value_at -= value_bytes;
	entry->e_name_len = (uint8_t)key->name_len;
	entry->e_name_index = key->index;
	entry->e_value_offs = le16_make(value_bytes ? (uint16_t)w->value_at : 0);
	entry->e_value_inum = le32_make(inum);
	entry->e_value_size = le32_make(size);
	if (key->name_len > 0)
		memcpy(entry->e_name, key->name, key->name_len);
	*ret_entry = entry;
	*ret_value = value_bytes ? w->to->base + w->value_at : NULL;
	return 0;
}

static int put_copy(struct writer *w, const struct ext4_xattr_entry *from, const uint8_t *base)
{
	const struct xattr_key key = xattr_entry_key(from);
	uint32_t size = le32_get(from->e_value_size);
	struct ext4_xattr_entry *entry;
	uint8_t *value;
	int err;

	err = put_entry(w, &key, size, le32_get(from->e_value_inum), &entry, &value);
	if (err < 0)
		return err;
	entry->e_hash = from->e_hash;
	if (value)
		memcpy(value, base + le16_get(from->e_value_offs), size);
	return 0;
}

static int put_new(struct writer *w, const struct xattr_edit *edit)
{
	const le32 hash = le32_make(edit->hash);
	struct ext4_xattr_entry *entry;
	uint8_t *value;
	int err;

	err = put_entry(w, &edit->key, edit->size, edit->inum, &entry, &value);
	if (err < 0)
		return err;
	if (value && edit->value_bytes > 0)
		memcpy(value, edit->value, edit->value_bytes);
	if (edit->inum != 0)
		entry->e_hash = le32_make(xattr_entry_hash(&edit->key, &hash, 1, false));
	else if (w->to->is_block)
		entry->e_hash = le32_make(xattr_entry_hash(&edit->key, (const le32 *)(void *)value,
							   padded(edit->size) / sizeof(le32),
							   false));
	return 0;
}

/* Does the new entry come before @entry? */
static bool comes_before(const struct xattr_area *area, const struct xattr_key *key,
			 const struct ext4_xattr_entry *entry)
{
	const struct xattr_key other = xattr_entry_key(entry);

	return area->is_block && key_compare(key, &other) < 0;
}

/* Do the values of @row fit side by side into @area (R1)? */
static bool row_fits(const struct xattr_row *row, const struct xattr_area *area)
{
	uint64_t bytes = ROW_END_BYTES;

	xattr_row_for_each(entry, row)
		bytes += EXT4_XATTR_LEN(entry->e_name_len) + entry_value_bytes(entry);
	return bytes <= area->end - area->first;
}

int xattr_area_edit(const struct xattr_area *from, const struct xattr_edit *edit,
		    struct xattr_area *to)
{
	const struct xattr_row row = xattr_area_row(from);
	struct writer w = { .to = to, .entry_at = to->first, .value_at = to->end };
	bool found = edit->remove; /* nothing is left to be put */
	int err = 0;

	if (!to->base)
		return -ENOSPC;
	assert(from->first == to->first && from->end == to->end);
	assert(edit->value_bytes <= edit->size);
	if (!row_fits(&row, to))
		return corrupt("attributes whose values share bytes");
	memset(to->base + to->first, 0, to->end - to->first);
	xattr_row_for_each(entry, &row)
	{
		if (entry_has_key(entry, &edit->key)) {
			if (!found)
				err = put_new(&w, edit);
			found = true;
		} else {
			if (!found && comes_before(to, &edit->key, entry) &&
			    !xattr_row_find(&row, &edit->key)) {
				err = put_new(&w, edit);
				found = true;
			}
			if (err == 0)
				err = put_copy(&w, entry, row.base);
		}
		if (err < 0)
			return err;
	}
	if (!found)
		err = put_new(&w, edit);
	if (err == 0 && to->is_block && !edit->remove && edit->inum == 0 && edit->size > 0 &&
	    w.value_at < edit->values_min)
		err = -ENOSPC;
	return err;
}

bool xattr_area_room(const struct xattr_area *area, const struct xattr_key *key, uint32_t *ret)
{
	const struct xattr_row row = xattr_area_row(area);
	uint64_t used = ROW_END_BYTES + EXT4_XATTR_LEN(key->name_len);

	if (!area->base)
		return false;
	xattr_row_for_each(entry, &row)
	{
		if (!entry_has_key(entry, key))
			used += EXT4_XATTR_LEN(entry->e_name_len) + entry_value_bytes(entry);
	}
	if (used > area->end - area->first)
		return false;
	*ret = (uint32_t)(area->end - area->first - used) & ~(EXT4_XATTR_PAD - 1);
	return true;
}

bool xattr_area_shift(const struct xattr_area *area, uint32_t by)
{
	const struct xattr_row row = xattr_area_row(area);
	uint32_t row_end = area->first + ROW_END_BYTES, values_start = area->end;
	struct xattr_area moved = *area;

	xattr_row_for_each(entry, &row)
	{
		row_end += EXT4_XATTR_LEN(entry->e_name_len);
		if (entry_value_bytes(entry) > 0)
			values_start = (uint32_t)min_u64(values_start,
							 le16_get(entry->e_value_offs));
	}
	if (row_end + by > values_start)
		return false;
	moved.base += by;
	memmove(moved.base + area->first, area->base + area->first, row_end - area->first);
	for (uint32_t at = area->first; at + ROW_END_BYTES < row_end;) {
		struct ext4_xattr_entry *entry = (struct ext4_xattr_entry *)(void *)(moved.base +
										     at);

		if (entry_value_bytes(entry) > 0)
			entry->e_value_offs = le16_make(
				(uint16_t)(le16_get(entry->e_value_offs) - by));
		at += EXT4_XATTR_LEN(entry->e_name_len);
	}
	return true;
}
