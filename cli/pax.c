/* SPDX-License-Identifier: MIT */
/*
 * Headers of a tar archive in POSIX pax format.
 *
 * An entry is a ustar header, preceded by an extended header ('x') for what ustar cannot say: names
 * that are long or not ASCII, large numbers, times with a fraction or outside of 1970 to 2242,
 * access and change time, attributes (SCHILY.xattr.*), ACLs (SCHILY.acl.*), file flags
 * (SCHILY.fflags), and holes (GNU.sparse.*, version 1.0).  These are the keys that GNU tar and
 * libarchive know.
 *
 * T1  Names are bytes.  A record is UTF-8 by definition: a name that is not goes into the ustar
 *     field, which is raw, or, if too long for it, into a record marked hdrcharset=BINARY.
 * T2  The same entry gives the same bytes: no user names, no process numbers, no present time.
 */
#include "pax.h"

#include <string.h>
#include <sys/stat.h>

#include "out.h"

struct ustar {
	char name[100];
	char mode[8];
	char uid[8];
	char gid[8];
	char size[12];
	char mtime[12];
	char checksum[8];
	char type;
	char link[100];
	char magic[6];
	char version[2];
	char uname[32];
	char gname[32];
	char devmajor[8];
	char devminor[8];
	char prefix[155];
	char padding[12];
};

_Static_assert(sizeof(struct ustar) == PAX_BLOCK, "a header is one block");

#define OCTAL_MAX_7 UINT64_C(07777777)
#define OCTAL_MAX_11 UINT64_C(077777777777)

size_t pax_padding(uint64_t len)
{
	return (size_t)(-len & (PAX_BLOCK - 1));
}

/* ---- records -------------------------------------------------------------------------------- */

enum { DECIMAL_MAX = 20 }; /* digits of a 64-bit number */

/* Writes @value in front of @end; returns where it begins.  (Several a file: printf would show.) */
static char *put_decimal(char *end, uint64_t value)
{
	do {
		*--end = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	return end;
}

static size_t decimal_digits(size_t value)
{
	size_t digits = 1;

	for (; value >= 10; value /= 10)
		digits++;
	return digits;
}

void pax_add_record(struct buffer *records, const char *key, const void *value, size_t len)
{
	size_t key_len = strlen(key);
	size_t rest = 1 + key_len + 1 + len + 1;
	size_t total = rest + decimal_digits(rest);

	/* The length counts its own digits, which can make it one digit longer. */
	total = rest + decimal_digits(total);
	buffer_room(records, total);
	buffer_add_decimal(records, total);
	buffer_add(records, " ", 1);
	buffer_add(records, key, key_len);
	buffer_add(records, "=", 1);
	buffer_add(records, value, len);
	buffer_add(records, "\n", 1);
}

static void add_text_record(struct buffer *records, const char *key, const char *value)
{
	pax_add_record(records, key, value, strlen(value));
}

static void add_number_record(struct buffer *records, const char *key, uint64_t value)
{
	char text[DECIMAL_MAX];
	char *start = put_decimal(text + sizeof(text), value);

	pax_add_record(records, key, start, (size_t)(text + sizeof(text) - start));
}

/*
 * A time is a decimal fraction: ext4's second -1 and 200,000,000 nanoseconds, which count forward,
 * are "-0.8".
 */
static void add_time_record(struct buffer *records, const char *key, const struct uext4_time *time)
{
	bool negative = time->sec < 0;
	uint64_t sec = negative ? -(uint64_t)time->sec : (uint64_t)time->sec;
	uint32_t nsec = time->nsec;
	char text[1 + DECIMAL_MAX + 10];
	char *end = text + sizeof(text), *start = end;

	if (negative && nsec) {
		sec--;
		nsec = 1000000000 - nsec;
	}
	if (nsec) {
		start = put_decimal(end, nsec);
		while (end - start < 9)
			*--start = '0';
		*--start = '.';
	}
	start = put_decimal(start, sec);
	if (negative)
		*--start = '-';
	pax_add_record(records, key, start, (size_t)(end - start));
}

/* ---- attributes ----------------------------------------------------------------------------- */

static uint32_t le16(const unsigned char *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t le32(const unsigned char *p)
{
	return le16(p) | le16(p + 2) << 16;
}

/*
 * The text of an ACL as the system calls give it: 32 bits of version (2), then for each entry 16
 * bits of tag, 16 of permissions and 32 of id.  Ids stay numbers.
 */
static bool acl_text(struct buffer *text, const unsigned char *acl, size_t len)
{
	static const struct {
		uint32_t tag;
		bool has_id;
		const char *name;
	} tags[] = {
		{ 0x01, false, "user" }, { 0x02, true, "user" },  { 0x04, false, "group" },
		{ 0x08, true, "group" }, { 0x10, false, "mask" }, { 0x20, false, "other" },
	};

	if (len < 4 || le32(acl) != 2 || (len - 4) % 8 != 0)
		return false;
	for (size_t at = 4; at < len; at += 8) {
		uint32_t tag = le16(acl + at), perm = le16(acl + at + 2);
		size_t i = 0;

		while (i < sizeof(tags) / sizeof(tags[0]) && tags[i].tag != tag)
			i++;
		if (i == sizeof(tags) / sizeof(tags[0]))
			return false;
		if (at > 4)
			buffer_add(text, ",", 1);
		buffer_add_text(text, tags[i].name);
		buffer_add(text, ":", 1);
		if (tags[i].has_id)
			buffer_add_decimal(text, le32(acl + at + 4));
		buffer_add(text, ":", 1);
		buffer_add(text, (perm & 4) ? "r" : "-", 1);
		buffer_add(text, (perm & 2) ? "w" : "-", 1);
		buffer_add(text, (perm & 1) ? "x" : "-", 1);
	}
	return true;
}

static bool add_acl(struct buffer *records, const char *key, const void *value, size_t len)
{
	struct buffer text = { 0 };
	bool valid = acl_text(&text, value, len);

	if (valid)
		pax_add_record(records, key, text.data, text.len);
	buffer_finish(&text);
	return valid;
}

bool pax_add_xattr(struct buffer *records, const char *name, const void *value, size_t len)
{
	struct buffer key = { 0 };

	if (strcmp(name, "system.posix_acl_access") == 0)
		return add_acl(records, "SCHILY.acl.access", value, len);
	if (strcmp(name, "system.posix_acl_default") == 0)
		return add_acl(records, "SCHILY.acl.default", value, len);
	buffer_add_text(&key, "SCHILY.xattr.");
	/* '=' would end the key; GNU tar writes and reads it, and '%', this way. */
	for (; *name; name++) {
		if (*name == '=')
			buffer_add_text(&key, "%3D");
		else if (*name == '%')
			buffer_add_text(&key, "%25");
		else
			buffer_add(&key, name, 1);
	}
	pax_add_record(records, buffer_text(&key), value, len);
	buffer_finish(&key);
	return true;
}

/* The flags that star, and after it libarchive, has names for. */
static void add_flags(struct buffer *records, uint32_t flags)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} names[] = {
		{ 0x8, "sync" },      { 0x10, "schg" },	      { 0x20, "sappnd" },
		{ 0x40, "nodump" },   { 0x80, "noatime" },    { 0x4000, "journal-data" },
		{ 0x8000, "notail" }, { 0x10000, "dirsync" }, { 0x20000, "topdir" },
	};
	struct buffer text = { 0 };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!(flags & names[i].bit))
			continue;
		if (text.len)
			buffer_add(&text, ",", 1);
		buffer_add_text(&text, names[i].name);
	}
	if (text.len)
		pax_add_record(records, "SCHILY.fflags", text.data, text.len);
	buffer_finish(&text);
}

/* ---- headers -------------------------------------------------------------------------------- */

/* Octal with a NUL at the end; what does not fit is said by a record, and 0 here. */
static void set_octal(char *field, size_t size, uint64_t value)
{
	uint64_t max = (UINT64_C(1) << 3 * (size - 1)) - 1;

	if (value > max)
		value = 0;
	field[size - 1] = '\0';
	for (size_t i = size - 1; i-- > 0; value >>= 3)
		field[i] = (char)('0' + (value & 7));
}

/* Beyond 8 GiB in base 256: who does not read the record has to find the next entry, too. */
static void set_size(char field[12], uint64_t value)
{
	if (value <= OCTAL_MAX_11) {
		set_octal(field, 12, value);
		return;
	}
	memset(field, 0, 12);
	field[0] = (char)0x80;
	for (size_t i = 11; i > 3; i--, value >>= 8)
		field[i] = (char)(value & 0xff);
}

/* The sum of all bytes: eight at once, in four lanes of 16 bits, which 64 words cannot overflow. */
static void set_checksum(struct ustar *header)
{
	const uint64_t low_bytes = UINT64_C(0x00ff00ff00ff00ff);
	uint64_t words[PAX_BLOCK / 8], lanes = 0;

	memset(header->checksum, ' ', sizeof(header->checksum));
	memcpy(words, header, sizeof(words));
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		lanes += (words[i] & low_bytes) + (words[i] >> 8 & low_bytes);
	set_octal(header->checksum, 7,
		  (lanes & 0xffff) + (lanes >> 16 & 0xffff) + (lanes >> 32 & 0xffff) +
			  (lanes >> 48));
}

/* Splits @name at a '/' into prefix and name, where it is too long for one field. */
static bool set_name(struct ustar *header, const char *name, size_t len)
{
	size_t at;

	if (len <= sizeof(header->name)) {
		memcpy(header->name, name, len);
		return true;
	}
	/* The last slash that leaves the prefix short enough; the rest must not be empty. */
	at = len - 1 < sizeof(header->prefix) ? len - 2 : sizeof(header->prefix);
	while (at > 0 && name[at] != '/')
		at--;
	if (at == 0 || len - at - 1 > sizeof(header->name) || len == at + 1) {
		memcpy(header->name, name, sizeof(header->name));
		return false;
	}
	memcpy(header->prefix, name, at);
	memcpy(header->name, name + at + 1, len - at - 1);
	return true;
}

static bool is_ascii(const char *text, size_t len)
{
	unsigned char all = 0;

	for (size_t i = 0; i < len; i++)
		all |= (unsigned char)text[i];
	return all < 0x80;
}

/* @fits: the name is complete in its ustar field.  T1. */
static void add_name_record(struct buffer *records, const char *key, const char *name, size_t len,
			    bool fits)
{
	bool ascii = is_ascii(name, len);

	if (fits && (ascii || !utf8_valid(name, len)))
		return;
	if (!ascii && !utf8_valid(name, len))
		add_text_record(records, "hdrcharset", "BINARY");
	pax_add_record(records, key, name, len);
}

/* The name of a header that is not the file's own: @folder and the last component. */
static void set_helper_name(struct ustar *header, const char *folder, const char *name, size_t len)
{
	size_t start, folder_len = strlen(folder);

	while (len > 1 && name[len - 1] == '/')
		len--;
	for (start = len; start > 0 && name[start - 1] != '/';)
		start--;
	len -= start;
	if (len > sizeof(header->name) - folder_len)
		len = sizeof(header->name) - folder_len;
	memcpy(header->name, folder, folder_len);
	memcpy(header->name + folder_len, name + start, len);
}

static bool time_needs_record(const struct uext4_time *time)
{
	return time->nsec || time->sec < 0 || (uint64_t)time->sec > OCTAL_MAX_11;
}

static void set_attributes(struct ustar *header, struct buffer *records,
			   const struct pax_entry *entry)
{
	const struct uext4_stat *st = entry->st;

	set_octal(header->mode, sizeof(header->mode), st->mode & 07777);
	set_octal(header->uid, sizeof(header->uid), st->uid);
	set_octal(header->gid, sizeof(header->gid), st->gid);
	set_size(header->size, entry->stored);
	set_octal(header->mtime, sizeof(header->mtime), st->mtime.sec < 0 ? 0 : st->mtime.sec);
	if (entry->type == PAX_CHAR || entry->type == PAX_BLOCK_DEVICE) {
		set_octal(header->devmajor, sizeof(header->devmajor), st->rdev_major);
		set_octal(header->devminor, sizeof(header->devminor), st->rdev_minor);
	}
	if (st->uid > OCTAL_MAX_7)
		add_number_record(records, "uid", st->uid);
	if (st->gid > OCTAL_MAX_7)
		add_number_record(records, "gid", st->gid);
	if (entry->stored > OCTAL_MAX_11)
		add_number_record(records, "size", entry->stored);
	if (time_needs_record(&st->mtime))
		add_time_record(records, "mtime", &st->mtime);
	add_time_record(records, "atime", &st->atime);
	add_time_record(records, "ctime", &st->ctime);
	add_flags(records, st->flags);
}

static void set_magic(struct ustar *header, enum pax_type type)
{
	memcpy(header->magic, "ustar", 6);
	memcpy(header->version, "00", 2);
	header->type = (char)type;
}

static void add_extended(struct buffer *out, const struct pax_entry *entry,
			 const struct buffer *records)
{
	struct ustar header = { .name = "" };

	set_helper_name(&header, "./PaxHeaders/", entry->name, entry->name_len);
	set_magic(&header, (enum pax_type)'x');
	set_octal(header.mode, sizeof(header.mode), 0644);
	set_octal(header.uid, sizeof(header.uid), 0);
	set_octal(header.gid, sizeof(header.gid), 0);
	set_octal(header.mtime, sizeof(header.mtime), 0);
	set_size(header.size, records->len);
	set_checksum(&header);
	buffer_add(out, &header, sizeof(header));
	buffer_add(out, records->data, records->len);
	buffer_add_zeros(out, pax_padding(records->len));
}

static void set_names(struct ustar *header, struct buffer *records, const struct pax_entry *entry)
{
	size_t link_len = entry->link_len;

	if (entry->sparse) {
		set_helper_name(header, "./GNUSparseFile.0/", entry->name, entry->name_len);
		if (!utf8_valid(entry->name, entry->name_len))
			add_text_record(records, "hdrcharset", "BINARY");
		add_text_record(records, "GNU.sparse.major", "1");
		add_text_record(records, "GNU.sparse.minor", "0");
		pax_add_record(records, "GNU.sparse.name", entry->name, entry->name_len);
		add_number_record(records, "GNU.sparse.realsize", entry->st->size);
	} else {
		bool fits = set_name(header, entry->name, entry->name_len);

		add_name_record(records, "path", entry->name, entry->name_len, fits);
	}
	if (!entry->link)
		return;
	if (link_len > sizeof(header->link))
		link_len = sizeof(header->link);
	memcpy(header->link, entry->link, link_len);
	add_name_record(records, "linkpath", entry->link, entry->link_len,
			link_len == entry->link_len);
}

void pax_add_header(struct buffer *out, const struct pax_entry *entry, struct buffer *records)
{
	struct ustar header = { .name = "" };

	set_names(&header, records, entry);
	set_magic(&header, entry->type);
	set_attributes(&header, records, entry);
	set_checksum(&header);
	add_extended(out, entry, records);
	buffer_add(out, &header, sizeof(header));
}
