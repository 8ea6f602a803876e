/* SPDX-License-Identifier: MIT */
/*
 * The pipeline behind `export`: pieces of an archive, made in parallel, written in order.
 *
 * Pieces are collected in batches; the batches form a ring:
 *
 *	   filled (caller) ---> taken (workers) ---> done, in any order ---> written (writer)
 *
 * The counters only grow; batch number n lives in slot n % BATCHES_COUNT.
 *
 * P1  written <= taken <= filled <= written + BATCHES_COUNT.
 * P2  Batch n belongs to the caller while n == filled, to one worker from taken to done, and to the
 *     writer from then until it is written: nobody else touches it, so only the counters and
 *     batch.done are under the lock.
 * P3  An entry's header promises how many bytes follow.  What cannot be read is zeros: the archive
 *     stays readable, and the failure is reported.
 */
#include "tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "data.h"
#include "out.h"
#include "progress.h"

enum {
	BATCHES_COUNT = 16,
	PIECES_MAX = 128,
	BATCH_BYTES = DATA_CHUNK,     /* a batch is full when it is expected to give that much */
	BUFFER_KEEP = 4 * DATA_CHUNK, /* a larger one (many large attributes) is given back */
	WORKERS_MIN = 2,
	WORKERS_MAX = 8,
	POLL_MS = 250, /* how often the progress is looked at while waiting */
};

struct tar_file {
	struct uext4_file *file;
	char *path;
	_Atomic unsigned refs;
	_Atomic bool failed; /* reported once; what follows is zeros */
};

enum piece_kind { PIECE_ENTRY, PIECE_DATA, PIECE_BYTES };

struct piece {
	enum piece_kind kind;
	struct tar_entry entry;	    /* ENTRY; its strings are offsets until the batch is full */
	size_t path, name, link;    /* in batch.text; link is 0 when there is none */
	struct uext4_file *file;    /* ENTRY with contents, while a worker has it */
	struct tar_file *long_file; /* DATA: one reference */
	uint64_t offset;	    /* DATA: in the file; BYTES: in batch.text */
	uint32_t len;
};

struct batch {
	struct piece pieces[PIECES_MAX];
	size_t count;
	size_t expected; /* bytes, roughly */
	struct buffer text;
	struct buffer out;
	bool done; /* under tar.lock */
};

struct tar {
	struct image *image;
	struct tar_output output;
	struct archive *filter;

	pthread_mutex_t lock;
	pthread_cond_t work;  /* filled grew, or finished */
	pthread_cond_t ready; /* the next batch to be written is done, or finished */
	pthread_cond_t room;  /* written grew */
	uint64_t filled;      /* these under lock */
	uint64_t taken;
	uint64_t written;
	bool finished; /* nothing more will be filled */
	_Atomic bool failed;

	pthread_t workers[WORKERS_MAX];
	unsigned workers_count;
	pthread_t writer;
	struct batch batches[BATCHES_COUNT];
};

/* ---- workers -------------------------------------------------------------------------------- */

/* What a worker uses again and again. */
struct scratch {
	bool announce; /* reads go to the disk: worth telling it beforehand */
	struct buffer records;
	struct buffer names;
	struct buffer value;
	struct buffer link;
};

static void collect_xattrs(struct tar *tar, const struct piece *piece, const char *path,
			   struct scratch *s)
{
	struct place place = { tar->image->name, path };

	if (image_xattr_names(tar->image, piece->entry.ino, path, &s->names) < 0)
		return;
	for (size_t at = 0; at < s->names.len; at += strlen(s->names.data + at) + 1) {
		const char *name = s->names.data + at;

		if (image_xattr_value(tar->image, piece->entry.ino, path, name, &s->value) < 0)
			continue;
		if (!pax_add_xattr(&s->records, name, s->value.data, s->value.len)) {
			char *where = must_format("%s:%s", place.image, path);

			complain(STATUS_CORRUPT, where, "%s makes no sense: left out", name);
			free(where);
		}
	}
}

static void add_header(struct tar *tar, struct batch *batch, const struct piece *piece,
		       struct scratch *s)
{
	const char *path = batch->text.data + piece->path;
	const char *name = batch->text.data + piece->name;
	struct pax_entry entry = {
		.type = piece->entry.type,
		.name = name,
		.name_len = strlen(name),
		.st = &piece->entry.st,
		.stored = piece->entry.stored,
		.sparse = piece->entry.sparse,
	};

	s->records.len = 0;
	if (entry.type == PAX_HARDLINK) {
		entry.link = batch->text.data + piece->link;
		entry.link_len = strlen(entry.link);
	} else {
		collect_xattrs(tar, piece, path, s);
	}
	if (entry.type == PAX_SYMLINK) {
		/* An entry without its target would be a lie: better none. */
		if (image_readlink(tar->image, piece->entry.ino, path, &s->link) < 0)
			return;
		entry.link = s->link.data;
		entry.link_len = s->link.len;
	}
	pax_add_header(&batch->out, &entry, &s->records);
}

static void open_contents(struct tar *tar, struct batch *batch, struct piece *piece, bool announce)
{
	const char *path = batch->text.data + piece->path;
	int err;

	piece->file = NULL;
	if (piece->kind != PIECE_ENTRY || !piece->entry.contents)
		return;
	err = uext4_file_open(tar->image->fs, piece->entry.ino, 0, &piece->file);
	if (err < 0)
		complain_fs((struct place){ tar->image->name, path }, err);
	else if (announce && piece->entry.stored)
		uext4_prefetch(piece->file, 0, piece->entry.stored);
}

static void add_contents(struct tar *tar, struct batch *batch, struct piece *piece)
{
	struct place place = { tar->image->name, batch->text.data + piece->path };
	size_t len = (size_t)piece->entry.stored;
	char *room;

	if (!piece->file)
		return; /* It could not be opened: there is no header either. */
	room = buffer_room(&batch->out, len);
	if (len && data_read(place, piece->file, room, len, 0) < 0)
		memset(room, 0, len); /* P3 */
	batch->out.len += len;
	buffer_add_zeros(&batch->out, pax_padding(len));
	uext4_file_close(piece->file);
	piece->file = NULL;
}

static void add_data(struct tar *tar, struct batch *batch, struct piece *piece)
{
	struct tar_file *file = piece->long_file;
	struct place place = { tar->image->name, file->path };
	char *room = buffer_room(&batch->out, piece->len);

	if (atomic_load(&file->failed)) {
		memset(room, 0, piece->len);
	} else if (data_read(place, file->file, room, piece->len, piece->offset) < 0) {
		atomic_store(&file->failed, true);
		memset(room, 0, piece->len);
	}
	batch->out.len += piece->len;
	tar_file_put(file);
}

static void make_piece(struct tar *tar, struct batch *batch, struct piece *piece, struct scratch *s)
{
	switch (piece->kind) {
	case PIECE_ENTRY:
		if (piece->entry.contents && !piece->file)
			break;
		add_header(tar, batch, piece, s);
		if (piece->entry.contents)
			add_contents(tar, batch, piece);
		break;
	case PIECE_DATA: add_data(tar, batch, piece); break;
	case PIECE_BYTES:
		buffer_add(&batch->out, batch->text.data + piece->offset, piece->len);
		break;
	}
}

/* Blocks that this thread has had to read from a disk so far. */
static long blocks_read(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_inblock : 0;
}

/*
 * All reads of a batch are announced before the first one waits: on a disk that is several times
 * faster. Where everything is in memory already the announcements are a tenth of all the work, so
 * they stop while batches show that none was needed.
 */
static void make_batch(struct tar *tar, struct batch *batch, struct scratch *s)
{
	long before = blocks_read();

	buffer_room(&batch->out, batch->expected);
	for (size_t i = 0; i < batch->count; i++)
		open_contents(tar, batch, &batch->pieces[i], s->announce);
	for (size_t i = 0; i < batch->count; i++)
		make_piece(tar, batch, &batch->pieces[i], s);
	s->announce = blocks_read() != before;
}

static void *worker_main(void *arg)
{
	struct scratch scratch = { .announce = true };
	struct tar *tar = arg;

	pthread_mutex_lock(&tar->lock);
	for (;;) {
		struct batch *batch;
		uint64_t number;

		while (tar->taken == tar->filled && !tar->finished)
			pthread_cond_wait(&tar->work, &tar->lock);
		if (tar->taken == tar->filled)
			break;
		number = tar->taken++;
		batch = &tar->batches[number % BATCHES_COUNT];
		pthread_mutex_unlock(&tar->lock);

		make_batch(tar, batch, &scratch);

		pthread_mutex_lock(&tar->lock);
		batch->done = true;
		if (number == tar->written)
			pthread_cond_signal(&tar->ready);
	}
	pthread_mutex_unlock(&tar->lock);
	buffer_finish(&scratch.records);
	buffer_finish(&scratch.names);
	buffer_finish(&scratch.value);
	buffer_finish(&scratch.link);
	return NULL;
}

/* ---- the writer ----------------------------------------------------------------------------- */

static void write_bytes(struct tar *tar, const void *bytes, size_t len)
{
	int err = 0;

	if (atomic_load(&tar->failed))
		return;
	if (!tar->filter) {
		err = write_all(tar->output.fd, bytes, len);
		if (err < 0)
			complain_sys(tar->output.name, -err, "write error");
	} else if (archive_write_data(tar->filter, bytes, len) < (la_ssize_t)len) {
		complain(STATUS_FAILED, tar->output.name, "write error: %s",
			 archive_error_string(tar->filter));
		err = -EIO;
	}
	if (err < 0)
		atomic_store(&tar->failed, true);
	else
		progress_count(0, len);
}

static void reset_batch(struct batch *batch)
{
	batch->count = 0;
	batch->expected = 0;
	batch->done = false;
	if (batch->out.size > BUFFER_KEEP)
		buffer_finish(&batch->out);
	if (batch->text.size > BUFFER_KEEP)
		buffer_finish(&batch->text);
	batch->out.len = 0;
	batch->text.len = 0;
}

static void *writer_main(void *arg)
{
	struct tar *tar = arg;

	pthread_mutex_lock(&tar->lock);
	for (;;) {
		struct batch *batch = &tar->batches[tar->written % BATCHES_COUNT];

		while (!(tar->written < tar->filled && batch->done) &&
		       !(tar->finished && tar->written == tar->filled))
			pthread_cond_wait(&tar->ready, &tar->lock);
		if (tar->written == tar->filled)
			break;
		pthread_mutex_unlock(&tar->lock);

		write_bytes(tar, batch->out.data, batch->out.len);

		pthread_mutex_lock(&tar->lock);
		reset_batch(batch);
		tar->written++;
		pthread_cond_signal(&tar->room);
	}
	pthread_mutex_unlock(&tar->lock);
	return NULL;
}

/* ---- the caller's side ---------------------------------------------------------------------- */

/* Waits until the slot that will be filled next is free. */
static void wait_for_room(struct tar *tar)
{
	pthread_mutex_lock(&tar->lock);
	while (tar->filled - tar->written == BATCHES_COUNT) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += POLL_MS * 1000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&tar->room, &tar->lock, &until);
		pthread_mutex_unlock(&tar->lock);
		progress_poll();
		pthread_mutex_lock(&tar->lock);
	}
	pthread_mutex_unlock(&tar->lock);
}

static void submit(struct tar *tar)
{
	pthread_mutex_lock(&tar->lock);
	tar->filled++;
	pthread_cond_signal(&tar->work);
	pthread_mutex_unlock(&tar->lock);
	wait_for_room(tar);
	progress_poll();
}

/* A new piece in the batch that is being filled, which is handed on when it is full. */
static struct piece *add_piece(struct tar *tar, size_t expected)
{
	/* Only this thread changes filled. */
	struct batch *batch = &tar->batches[tar->filled % BATCHES_COUNT];

	if (batch->count == PIECES_MAX ||
	    (batch->count && batch->expected + expected > BATCH_BYTES)) {
		submit(tar);
		batch = &tar->batches[tar->filled % BATCHES_COUNT];
	}
	batch->expected += expected;
	return &batch->pieces[batch->count++];
}

static size_t add_text(struct tar *tar, const void *text, size_t len)
{
	struct buffer *buf = &tar->batches[tar->filled % BATCHES_COUNT].text;
	size_t offset = buf->len;

	buffer_add(buf, text, len);
	return offset;
}

void tar_add_entry(struct tar *tar, const struct tar_entry *entry)
{
	/* Two headers, records, padding. */
	size_t expected = 4 * PAX_BLOCK + (entry->contents ? (size_t)entry->stored : 0);
	struct piece *piece = add_piece(tar, expected);

	assert(!entry->contents || entry->stored <= DATA_CHUNK);
	piece->kind = PIECE_ENTRY;
	piece->entry = *entry;
	piece->path = add_text(tar, entry->path, strlen(entry->path) + 1);
	piece->name = add_text(tar, entry->name, strlen(entry->name) + 1);
	if (entry->link)
		piece->link = add_text(tar, entry->link, strlen(entry->link) + 1);
}

void tar_add_data(struct tar *tar, struct tar_file *file, uint64_t offset, uint32_t len)
{
	struct piece *piece = add_piece(tar, len);

	uext4_prefetch(file->file, offset, len);
	atomic_fetch_add(&file->refs, 1);
	piece->kind = PIECE_DATA;
	piece->long_file = file;
	piece->offset = offset;
	piece->len = len;
}

void tar_add_bytes(struct tar *tar, const void *bytes, size_t len)
{
	struct piece *piece = add_piece(tar, len);

	assert(len <= UINT32_MAX);
	piece->kind = PIECE_BYTES;
	piece->offset = add_text(tar, bytes, len);
	piece->len = (uint32_t)len;
}

void tar_add_zeros(struct tar *tar, uint64_t len)
{
	static const char zeros[16384];

	for (size_t part; len > 0 && tar_works(tar); len -= part) {
		part = len < sizeof(zeros) ? (size_t)len : sizeof(zeros);
		tar_add_bytes(tar, zeros, part);
	}
}

bool tar_works(struct tar *tar)
{
	return !atomic_load_explicit(&tar->failed, memory_order_relaxed);
}

/* ---- long files ----------------------------------------------------------------------------- */

struct tar_file *tar_file_create(struct uext4_file *file, const char *path)
{
	struct tar_file *tar_file = must_alloc(sizeof(*tar_file));

	*tar_file = (struct tar_file){ .file = file, .path = must_copy(path), .refs = 1 };
	return tar_file;
}

void tar_file_put(struct tar_file *file)
{
	if (atomic_fetch_sub(&file->refs, 1) > 1)
		return;
	uext4_file_close(file->file);
	free(file->path);
	free(file);
}

/* ---- begin and end -------------------------------------------------------------------------- */

bool tar_can_compress(const char *name)
{
	struct archive *a = archive_write_new();
	bool can = a && archive_write_add_filter_by_name(a, name) == ARCHIVE_OK;

	if (!can)
		complain(STATUS_USAGE, name, "no such compression");
	archive_write_free(a);
	return can;
}

/* The archive's bytes are one file to libarchive, which only compresses them. */
static void open_filter(struct tar *tar)
{
	struct archive_entry *entry = archive_entry_new();
	struct archive *a = archive_write_new();

	if (!a || !entry)
		abort(); /* Nothing was allocated yet that could have used memory up. */
	archive_entry_set_filetype(entry, AE_IFREG);
	archive_entry_set_pathname(entry, "data");
	if (archive_write_add_filter_by_name(a, tar->output.compress) != ARCHIVE_OK ||
	    archive_write_set_format_raw(a) != ARCHIVE_OK ||
	    archive_write_set_bytes_in_last_block(a, 1) != ARCHIVE_OK ||
	    archive_write_open_fd(a, tar->output.fd) != ARCHIVE_OK ||
	    archive_write_header(a, entry) != ARCHIVE_OK) {
		complain(STATUS_FAILED, tar->output.compress, "%s", archive_error_string(a));
		atomic_store(&tar->failed, true);
	}
	archive_entry_free(entry);
	tar->filter = a;
}

static void start_thread(pthread_t *thread, void *(*run)(void *), struct tar *tar)
{
	int err = pthread_create(thread, NULL, run, tar);

	if (err) {
		complain_sys(NULL, err, "cannot start a thread");
		_exit(STATUS_FAILED);
	}
}

struct tar *tar_create(struct image *image, const struct tar_output *output)
{
	struct tar *tar = must_alloc(sizeof(*tar));
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	memset(tar, 0, sizeof(*tar));
	tar->image = image;
	tar->output = *output;
	pthread_mutex_init(&tar->lock, NULL);
	pthread_cond_init(&tar->work, NULL);
	pthread_cond_init(&tar->ready, NULL);
	pthread_cond_init(&tar->room, NULL);
	if (output->compress)
		open_filter(tar);
	tar->workers_count = cpus < WORKERS_MIN	  ? WORKERS_MIN
			     : cpus > WORKERS_MAX ? WORKERS_MAX
						  : (unsigned)cpus;
	for (unsigned i = 0; i < tar->workers_count; i++)
		start_thread(&tar->workers[i], worker_main, tar);
	start_thread(&tar->writer, writer_main, tar);
	return tar;
}

static bool end_filter(struct tar *tar)
{
	bool ok = tar_works(tar);

	if (archive_write_close(tar->filter) != ARCHIVE_OK && ok) {
		complain(STATUS_FAILED, tar->output.name, "write error: %s",
			 archive_error_string(tar->filter));
		ok = false;
	}
	archive_write_free(tar->filter);
	return ok;
}

bool tar_finish(struct tar *tar)
{
	bool ok;

	/* Two empty blocks end an archive. */
	tar_add_zeros(tar, 2 * PAX_BLOCK);
	submit(tar);
	pthread_mutex_lock(&tar->lock);
	tar->finished = true;
	pthread_cond_broadcast(&tar->work);
	pthread_cond_signal(&tar->ready);
	pthread_mutex_unlock(&tar->lock);
	for (unsigned i = 0; i < tar->workers_count; i++)
		pthread_join(tar->workers[i], NULL);
	pthread_join(tar->writer, NULL);
	ok = tar->filter ? end_filter(tar) : tar_works(tar);
	for (size_t i = 0; i < BATCHES_COUNT; i++) {
		buffer_finish(&tar->batches[i].text);
		buffer_finish(&tar->batches[i].out);
	}
	pthread_cond_destroy(&tar->work);
	pthread_cond_destroy(&tar->ready);
	pthread_cond_destroy(&tar->room);
	pthread_mutex_destroy(&tar->lock);
	free(tar);
	return ok;
}
