/* SPDX-License-Identifier: MIT */
/*
 * What the user sees: exit status, messages, quoting of names, JSON.
 *
 * O1  The exit status only ever gets worse: a failure that was reported cannot be forgotten.
 * O2  Bytes from an image reach a terminal only through quote() or escape(), messages included.
 * O3  Nothing here depends on the locale: the same image gives the same output everywhere.
 */
#include "out.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "progress.h"

/* ---- names ---------------------------------------------------------------------------------- */

size_t utf8_sequence(const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *)text;
	uint32_t code;
	size_t need;

	if (len == 0)
		return 0;
	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		need = 2;
	else if ((s[0] & 0xf0) == 0xe0)
		need = 3;
	else if (s[0] >= 0xf0 && s[0] <= 0xf4)
		need = 4;
	else
		return 0;
	if (len < need)
		return 0;
	code = s[0] & (0x7fu >> need);
	for (size_t i = 1; i < need; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (s[i] & 0x3f);
	}
	/* Overlong forms, surrogates, and what is beyond Unicode. */
	if ((need == 3 && code < 0x800) || (need == 4 && (code < 0x10000 || code > 0x10ffff)) ||
	    (code >= 0xd800 && code <= 0xdfff))
		return 0;
	return need;
}

bool utf8_valid(const char *text, size_t len)
{
	for (size_t at = 0; at < len;) {
		size_t step = utf8_sequence(text + at, len - at);

		if (step == 0)
			return false;
		at += step;
	}
	return true;
}

/* C0, DEL, and C1, whose two-byte form some terminals obey too. */
static bool is_control(const char *text, size_t step)
{
	const unsigned char *s = (const unsigned char *)text;

	if (step == 1)
		return s[0] < 0x20 || s[0] == 0x7f;
	return step == 2 && s[0] == 0xc2 && s[1] < 0xa0;
}

static bool is_harmless(const char *text, size_t len)
{
	for (size_t at = 0; at < len;) {
		size_t step = utf8_sequence(text + at, len - at);

		if (step == 0 || is_control(text + at, step))
			return false;
		at += step;
	}
	return true;
}

static void quote_byte(struct buffer *buf, unsigned char byte)
{
	static const char letters[] = "\a\b\t\n\v\f\r";
	const char *letter = byte ? strchr(letters, byte) : NULL;
	char text[5];

	if (letter)
		snprintf(text, sizeof(text), "\\%c", "abtnvfr"[letter - letters]);
	else
		snprintf(text, sizeof(text), "\\%03o", byte);
	buffer_add_text(buf, text);
}

/* Escapes what could harm a terminal, and, inside $'...', what would end it. */
static void escape(struct buffer *buf, const char *text, size_t len, bool quoted)
{
	for (size_t at = 0; at < len;) {
		size_t step = utf8_sequence(text + at, len - at);

		if (step == 0 || is_control(text + at, step)) {
			quote_byte(buf, (unsigned char)text[at]);
			at++;
			continue;
		}
		if (quoted && (text[at] == '\'' || text[at] == '\\'))
			buffer_add(buf, "\\", 1);
		buffer_add(buf, text + at, step);
		at += step;
	}
}

void quote(struct buffer *buf, const char *text, size_t len)
{
	if (is_harmless(text, len)) {
		buffer_add(buf, text, len);
		return;
	}
	buffer_add_text(buf, "$'");
	escape(buf, text, len, true);
	buffer_add_text(buf, "'");
}

void print_name(const char *text, size_t len)
{
	static int terminal = -1;
	struct buffer buf = { 0 };

	if (terminal < 0)
		terminal = isatty(STDOUT_FILENO);
	if (!terminal) {
		fwrite(text, 1, len, stdout);
		return;
	}
	quote(&buf, text, len);
	fwrite(buf.data, 1, buf.len, stdout);
	buffer_finish(&buf);
}

/* ---- exit status and messages --------------------------------------------------------------- */

static pthread_mutex_t message_lock = PTHREAD_MUTEX_INITIALIZER;
static enum status final_status; /* under message_lock */

/* How bad each status is; damage outranks everything but what stopped us before any work. */
static unsigned status_weight(enum status status)
{
	switch (status) {
	case STATUS_OK: return 0;
	case STATUS_FAILED: return 1;
	case STATUS_UNSUPPORTED: return 2;
	case STATUS_BUSY: return 3;
	case STATUS_JOURNAL: return 4;
	case STATUS_CORRUPT: return 5;
	case STATUS_USAGE: return 6;
	}
	return 1;
}

void status_raise(enum status status)
{
	pthread_mutex_lock(&message_lock);
	if (status_weight(status) > status_weight(final_status))
		final_status = status;
	pthread_mutex_unlock(&message_lock);
}

enum status status_now(void)
{
	enum status status;

	pthread_mutex_lock(&message_lock);
	status = final_status;
	pthread_mutex_unlock(&message_lock);
	return status;
}

static enum status status_of(int err)
{
	switch (err) {
	case -EOPNOTSUPP: return STATUS_UNSUPPORTED;
	case -EBUSY: return STATUS_BUSY;
	case -EUCLEAN:
	case -EBADMSG: return STATUS_CORRUPT;
	case -ENOTRECOVERABLE: return STATUS_JOURNAL;
	default: return STATUS_FAILED;
	}
}

/* One line in one write(2): messages of several threads, and of several processes, stay whole. */
static void print_message(struct buffer *line)
{
	size_t done = 0;

	buffer_add(line, "\n", 1);
	pthread_mutex_lock(&message_lock);
	progress_clear();
	while (done < line->len) {
		ssize_t n = write(STDERR_FILENO, line->data + done, line->len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break; /* The exit status still tells. */
		done += (size_t)n;
	}
	pthread_mutex_unlock(&message_lock);
	buffer_finish(line);
}

static void begin_message(struct buffer *line, const char *path)
{
	buffer_add_text(line, "uext4: ");
	if (path) {
		quote(line, path, strlen(path));
		buffer_add_text(line, ": ");
	}
}

static void __attribute__((format(printf, 2, 0)))
add_formatted(struct buffer *line, const char *fmt, va_list args)
{
	char *text;

	if (vasprintf(&text, fmt, args) < 0)
		return;
	escape(line, text, strlen(text), false);
	free(text);
}

/* What these say is known to everybody in the system's words; the library's add only numbers. */
static bool is_plain_error(int err)
{
	return err == -ENOENT || err == -ENOTDIR || err == -EISDIR || err == -ELOOP ||
	       err == -ENAMETOOLONG || err == -ENODATA;
}

static void complain_about(struct place place, const char *attribute, int err)
{
	struct buffer line = { 0 };
	struct buffer where = { 0 };
	const char *why = is_plain_error(err) ? "" : uext4_last_error();

	buffer_add_text(&where, place.image);
	if (place.path) {
		buffer_add_text(&where, ":");
		buffer_add_text(&where, place.path);
	}
	begin_message(&line, buffer_text(&where));
	if (attribute) {
		buffer_add_text(&line, "attribute ");
		escape(&line, attribute, strlen(attribute), false);
		buffer_add_text(&line, ": ");
	}
	if (!why[0])
		why = strerror(-err);
	escape(&line, why, strlen(why), false);
	print_message(&line);
	buffer_finish(&where);
	status_raise(status_of(err));
}

void complain_fs(struct place place, int err)
{
	complain_about(place, NULL, err);
}

void complain_attribute(struct place place, const char *name, int err)
{
	complain_about(place, name, err);
}

void complain_sys(const char *path, int err, const char *action)
{
	struct buffer line = { 0 };

	begin_message(&line, path);
	if (action) {
		buffer_add_text(&line, action);
		buffer_add_text(&line, ": ");
	}
	buffer_add_text(&line, strerror(err));
	print_message(&line);
	status_raise(STATUS_FAILED);
}

void complain(enum status status, const char *path, const char *fmt, ...)
{
	struct buffer line = { 0 };
	va_list args;

	begin_message(&line, path);
	va_start(args, fmt);
	add_formatted(&line, fmt, args);
	va_end(args);
	print_message(&line);
	status_raise(status);
}

void remark(const char *path, const char *fmt, ...)
{
	struct buffer line = { 0 };
	va_list args;

	begin_message(&line, path);
	va_start(args, fmt);
	add_formatted(&line, fmt, args);
	va_end(args);
	print_message(&line);
}

static int usage_status = STATUS_USAGE;

void usage_exits_with(int status)
{
	usage_status = status;
}

void usage_error(const char *command, const char *fmt, ...)
{
	struct buffer line = { 0 };
	va_list args;

	begin_message(&line, command);
	va_start(args, fmt);
	add_formatted(&line, fmt, args);
	va_end(args);
	buffer_add_text(&line, "\nTry 'uext4 ");
	if (command) {
		buffer_add_text(&line, command);
		buffer_add_text(&line, " ");
	}
	buffer_add_text(&line, "--help'.");
	print_message(&line);
	exit(usage_status);
}

/* ---- standard output ------------------------------------------------------------------------ */

void out_init(void)
{
	/*
	 * Standard output is replaced by something that cannot be written, so that printing to a
	 * closed descriptor remains an error.
	 */
	static const int modes[] = { O_RDONLY, O_RDONLY, O_RDWR };

	for (int fd = 0; fd <= 2; fd++) {
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", modes[fd]) != fd)
			_exit(STATUS_FAILED);
	}
	setvbuf(stdout, NULL, isatty(STDOUT_FILENO) ? _IOLBF : _IOFBF, 65536);
}

bool out_works(void)
{
	return !ferror(stdout);
}

void out_finish(void)
{
	bool failed = ferror(stdout);

	errno = 0;
	if (fflush(stdout) != 0)
		failed = true;
	/* Some file systems report a failed write only here.  A pipe or terminal stays usable. */
	if (!failed && close(STDOUT_FILENO) != 0)
		failed = true;
	if (failed)
		complain_sys("standard output", errno ? errno : EIO, "write error");
}

/* ---- values --------------------------------------------------------------------------------- */

const char *human_size(uint64_t value, char buf[24])
{
	static const char units[] = "KMGTPE";
	uint64_t unit = 1024;
	size_t i = 0;

	if (value < 1024) {
		snprintf(buf, 24, "%" PRIu64, value);
		return buf;
	}
	/* Rounded up, so 1023.5K is 1.0M: go on while it would not be below 1024. */
	while (i + 1 < sizeof(units) - 1 && (value - 1) / unit + 1 >= 1024) {
		unit *= 1024;
		i++;
	}
	if (value / unit < 10 && (value % unit * 10 + unit - 1) / unit + value / unit * 10 < 100) {
		uint64_t tenths = value / unit * 10 + (value % unit * 10 + unit - 1) / unit;

		snprintf(buf, 24, "%" PRIu64 ".%" PRIu64 "%c", tenths / 10, tenths % 10, units[i]);
	} else {
		snprintf(buf, 24, "%" PRIu64 "%c", (value - 1) / unit + 1, units[i]);
	}
	return buf;
}

void mode_text(uint32_t mode, char ret[11])
{
	static const struct {
		uint32_t type;
		char letter;
	} types[] = {
		{ S_IFREG, '-' }, { S_IFDIR, 'd' }, { S_IFLNK, 'l' },  { S_IFCHR, 'c' },
		{ S_IFBLK, 'b' }, { S_IFIFO, 'p' }, { S_IFSOCK, 's' },
	};

	ret[0] = '?';
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		if (types[i].type == (mode & S_IFMT))
			ret[0] = types[i].letter;
	}
	for (unsigned i = 0; i < 9; i++)
		ret[i + 1] = (mode & (0400u >> i)) ? "rwx"[i % 3] : '-';
	if (mode & S_ISUID)
		ret[3] = (mode & S_IXUSR) ? 's' : 'S';
	if (mode & S_ISGID)
		ret[6] = (mode & S_IXGRP) ? 's' : 'S';
	if (mode & S_ISVTX)
		ret[9] = (mode & S_IXOTH) ? 't' : 'T';
	ret[10] = '\0';
}

const char *type_word(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG: return "file";
	case S_IFDIR: return "directory";
	case S_IFLNK: return "symlink";
	case S_IFCHR: return "char_device";
	case S_IFBLK: return "block_device";
	case S_IFIFO: return "fifo";
	case S_IFSOCK: return "socket";
	default: return "unknown";
	}
}

const char *time_short(int64_t sec, char buf[24])
{
	time_t t = (time_t)sec;
	struct tm tm;

	if (!localtime_r(&t, &tm) || strftime(buf, 24, "%Y-%m-%d %H:%M", &tm) == 0)
		snprintf(buf, 24, "%" PRId64, sec);
	return buf;
}

const char *time_long(const struct uext4_time *time, char buf[48])
{
	time_t t = (time_t)time->sec;
	char day[24], zone[8];
	struct tm tm;

	if (localtime_r(&t, &tm) && strftime(day, sizeof(day), "%Y-%m-%d %H:%M:%S", &tm) &&
	    strftime(zone, sizeof(zone), "%z", &tm))
		snprintf(buf, 48, "%s.%09" PRIu32 " %s", day, time->nsec, zone);
	else
		snprintf(buf, 48, "%" PRId64 ".%09" PRIu32, time->sec, time->nsec);
	return buf;
}

/* ---- JSON ----------------------------------------------------------------------------------- */

void json_print(json_t *object)
{
	/* A failure to write shows in ferror(); a failure to build would mean no memory. */
	if (!object || (json_dumpf(object, stdout, JSON_COMPACT) != 0 && out_works()))
		complain_sys("standard output", ENOMEM, "JSON");
	putchar('\n');
	json_decref(object);
}

void json_set_bytes(json_t *object, const char *key, const char *bytes, size_t len)
{
	struct buffer text = { 0 };
	bool exact = true;
	char *key_b64;

	for (size_t at = 0; at < len;) {
		size_t step = utf8_sequence(bytes + at, len - at);

		if (step == 0) {
			buffer_add_text(&text, "\xef\xbf\xbd");
			exact = false;
			at++;
			continue;
		}
		buffer_add(&text, bytes + at, step);
		at += step;
	}
	buffer_text(&text);
	json_object_set_new(object, key, json_stringn_nocheck(text.data, text.len));
	buffer_finish(&text);
	if (exact)
		return;
	key_b64 = must_format("%s_b64", key);
	json_set_base64(object, key_b64, bytes, len);
	free(key_b64);
}

void json_set_base64(json_t *object, const char *key, const void *bytes, size_t len)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *s = bytes;
	struct buffer text = { 0 };

	for (size_t at = 0; at < len; at += 3) {
		size_t left = len - at;
		uint32_t bits = (uint32_t)s[at] << 16;
		char four[4];

		bits |= left > 1 ? (uint32_t)s[at + 1] << 8 : 0;
		bits |= left > 2 ? (uint32_t)s[at + 2] : 0;
		four[0] = digits[bits >> 18];
		four[1] = digits[bits >> 12 & 63];
		four[2] = '=';
		four[3] = '=';
		if (left > 1)
			four[2] = digits[bits >> 6 & 63];
		if (left > 2)
			four[3] = digits[bits & 63];
		buffer_add(&text, four, 4);
	}
	json_object_set_new(object, key, json_string_nocheck(buffer_text(&text)));
	buffer_finish(&text);
}

void json_set_integer(json_t *object, const char *key, uint64_t value)
{
	json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void json_set_time(json_t *object, const char *key, const struct uext4_time *time)
{
	char nsec_key[32];

	/* Two integers: nanoseconds since 1970 in one would overflow in 2262; ext4 goes to 2446. */
	json_object_set_new(object, key, json_integer((json_int_t)time->sec));
	snprintf(nsec_key, sizeof(nsec_key), "%s_nsec", key);
	json_set_integer(object, nsec_key, time->nsec);
}

void json_set_stat(json_t *object, const struct uext4_stat *st)
{
	char mode[16];

	snprintf(mode, sizeof(mode), "%04o", st->mode & 07777);
	json_set_integer(object, "ino", st->ino);
	json_object_set_new(object, "type", json_string(type_word(st->mode)));
	json_object_set_new(object, "mode", json_string(mode));
	json_set_integer(object, "nlink", st->nlink);
	json_set_integer(object, "uid", st->uid);
	json_set_integer(object, "gid", st->gid);
	json_set_integer(object, "projid", st->projid);
	json_set_integer(object, "size", st->size);
	json_set_integer(object, "blocks", st->blocks);
	json_set_integer(object, "block_size", st->block_size);
	if (S_ISCHR(st->mode) || S_ISBLK(st->mode)) {
		json_set_integer(object, "rdev_major", st->rdev_major);
		json_set_integer(object, "rdev_minor", st->rdev_minor);
	}
	json_set_integer(object, "flags", st->flags);
	json_set_integer(object, "generation", st->generation);
	json_set_integer(object, "version", st->version);
	json_set_time(object, "atime", &st->atime);
	json_set_time(object, "mtime", &st->mtime);
	json_set_time(object, "ctime", &st->ctime);
	if (st->has_crtime)
		json_set_time(object, "crtime", &st->crtime);
	json_object_set_new(object, "inline", json_boolean(st->is_inline));
}
