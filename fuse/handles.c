/* SPDX-License-Identifier: MIT */
/*
 * What the server keeps between two requests: open files, listings in progress, and one buffer a
 * thread.
 *
 * The kernel is told to open and close by itself, so a read names an inode and nothing else.  The
 * tables here are caches with a fixed number of places.  Nothing is lost when a place is taken from
 * somebody: the next request opens the inode again.
 *
 * H1  A place is emptied or given to another inode only while nobody uses it: `users` is 0 or
 *     `is_busy` is false, seen with the lock of the table held.  What is forgotten while it is used
 *     (a request is answered before its place is given back), the last user closes: else it would
 *     keep an unlinked inode from going.
 * H2  The engine is never called with a lock of a table held: opening may wait for the disk.
 * H3  A listing is used by one request at a time; two readers of a directory have one each.
 */
#include "mount_priv.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* 64 files: more than readers run at once, few enough to pin little memory in the engine. */
enum { FILE_SETS_COUNT = 16, FILES_PER_SET = 4, DIRS_COUNT = 16 };

struct file_set {
	pthread_mutex_t lock;
	uint64_t clock;
	struct open_file files[FILES_PER_SET];
};

struct handles {
	struct uext4_fs *fs;
	struct file_set sets[FILE_SETS_COUNT];
	pthread_mutex_t dirs_lock;
	uint64_t dirs_clock;
	struct open_dir *dirs[DIRS_COUNT]; /* allocated when first needed, then kept */
};

/* The buffer of the calling thread; the key frees it when the thread ends. */
struct thread_memory {
	size_t size;
	void *buffer;
};

static pthread_once_t memory_once = PTHREAD_ONCE_INIT;
static pthread_key_t memory_key;
static int memory_key_err;

static void free_thread_memory(void *arg)
{
	struct thread_memory *memory = arg;

	free(memory->buffer);
	free(memory);
}

static void create_memory_key(void)
{
	memory_key_err = pthread_key_create(&memory_key, free_thread_memory);
}

void *thread_buffer(size_t size)
{
	struct thread_memory *memory;
	void *buffer;

	pthread_once(&memory_once, create_memory_key);
	if (memory_key_err)
		return NULL;
	memory = pthread_getspecific(memory_key);
	if (!memory) {
		memory = calloc(1, sizeof(*memory));
		if (!memory || pthread_setspecific(memory_key, memory)) {
			free(memory);
			return NULL;
		}
	}
	if (memory->size < size || !memory->buffer) {
		/* What was in it is of no use to anybody: not realloc. */
		buffer = malloc(size ? size : 1);
		if (!buffer)
			return NULL;
		free(memory->buffer);
		memory->buffer = buffer;
		memory->size = size;
	}
	return memory->buffer;
}

int handles_create(struct uext4_fs *fs, struct handles **ret_handles)
{
	struct handles *handles = calloc(1, sizeof(*handles));

	if (!handles)
		return -ENOMEM;
	handles->fs = fs;
	for (size_t i = 0; i < FILE_SETS_COUNT; i++)
		pthread_mutex_init(&handles->sets[i].lock, NULL);
	pthread_mutex_init(&handles->dirs_lock, NULL);
	*ret_handles = handles;
	return 0;
}

static void close_listing(struct open_dir *dir)
{
	if (dir->dir)
		uext4_dir_close(dir->dir);
	dir->dir = NULL;
}

void handles_destroy(struct handles *handles)
{
	if (!handles)
		return;
	for (size_t i = 0; i < FILE_SETS_COUNT; i++) {
		for (size_t j = 0; j < FILES_PER_SET; j++) {
			if (handles->sets[i].files[j].file)
				uext4_file_close(handles->sets[i].files[j].file);
		}
		pthread_mutex_destroy(&handles->sets[i].lock);
	}
	for (size_t i = 0; i < DIRS_COUNT && handles->dirs[i]; i++) {
		close_listing(handles->dirs[i]);
		free(handles->dirs[i]);
	}
	pthread_mutex_destroy(&handles->dirs_lock);
	free(handles);
}

/* ---- files ---------------------------------------------------------------------------------- */

static struct file_set *set_of(struct handles *handles, uint32_t ino)
{
	return &handles->sets[ino % FILE_SETS_COUNT];
}

static struct open_file *find_file(struct file_set *set, uint32_t ino, uint32_t flags)
{
	for (size_t i = 0; i < FILES_PER_SET; i++) {
		struct open_file *file = &set->files[i];

		if (file->file && file->ino == ino && (!flags || file->flags == flags))
			return file;
	}
	return NULL;
}

/* The place that has been unused for longest, NULL if all are in use. */
static struct open_file *find_idle_file(struct file_set *set)
{
	struct open_file *best = NULL;

	for (size_t i = 0; i < FILES_PER_SET; i++) {
		struct open_file *file = &set->files[i];

		if (!file->users && (!best || file->used_last < best->used_last))
			best = file;
	}
	return best;
}

static int open_private(uint32_t ino, uint32_t flags, struct uext4_file *opened,
			struct open_file **ret_file)
{
	struct open_file *file = calloc(1, sizeof(*file));

	if (!file) {
		uext4_file_close(opened);
		return -ENOMEM;
	}
	*file = (struct open_file){
		.ino = ino, .users = 1, .is_private = true, .flags = flags, .file = opened
	};
	*ret_file = file;
	return 0;
}

int handles_get_file(struct handles *handles, uint32_t ino, uint32_t flags,
		     struct open_file **ret_file)
{
	struct file_set *set = set_of(handles, ino);
	struct open_file *file;
	struct uext4_file *opened = NULL;
	struct uext4_file *closing = NULL;
	int err;

	pthread_mutex_lock(&set->lock);
	file = find_file(set, ino, flags);
	if (!file) {
		pthread_mutex_unlock(&set->lock);
		err = uext4_file_open(handles->fs, ino, flags, &opened);
		if (err < 0)
			return err;
		pthread_mutex_lock(&set->lock);
		/* Another request may have opened it meanwhile: one of the two is enough. */
		closing = opened;
		file = find_file(set, ino, flags);
		if (!file) {
			file = find_idle_file(set);
			if (!file) {
				pthread_mutex_unlock(&set->lock);
				return open_private(ino, flags, opened, ret_file);
			}
			closing = file->file;
			file->file = opened;
			file->ino = ino;
			file->flags = flags;
		}
	}
	file->users++;
	file->used_last = ++set->clock;
	pthread_mutex_unlock(&set->lock);

	if (closing)
		uext4_file_close(closing);
	*ret_file = file;
	return 0;
}

void handles_put_file(struct handles *handles, struct open_file *file)
{
	struct file_set *set = set_of(handles, file->ino);
	struct uext4_file *closing = NULL;

	if (file->is_private) {
		uext4_file_close(file->file);
		free(file);
		return;
	}
	pthread_mutex_lock(&set->lock);
	if (--file->users == 0 && file->is_forgotten) {
		closing = file->file;
		file->file = NULL;
		file->is_forgotten = false;
	}
	pthread_mutex_unlock(&set->lock);
	uext4_file_close(closing);
}

static void forget_file(struct handles *handles, uint32_t ino)
{
	struct file_set *set = set_of(handles, ino);
	struct uext4_file *closing[FILES_PER_SET];
	size_t count = 0;

	pthread_mutex_lock(&set->lock);
	for (size_t i = 0; i < FILES_PER_SET; i++) {
		struct open_file *file = &set->files[i];

		if (!file->file || file->ino != ino)
			continue;
		if (file->users) {
			file->is_forgotten = true;
			continue;
		}
		closing[count++] = file->file;
		file->file = NULL;
	}
	pthread_mutex_unlock(&set->lock);
	for (size_t i = 0; i < count; i++)
		uext4_file_close(closing[i]);
}

/* ---- directories ---------------------------------------------------------------------------- */

/*
 * Marks a place busy and returns it: the one whose listing stands at @cookie of @ino, else a free
 * one, else the one unused for longest.  NULL: all are busy, or there is no memory.
 */
static struct open_dir *claim_dir(struct handles *handles, uint32_t ino, uint64_t cookie)
{
	struct open_dir *best = NULL;

	for (size_t i = 0; i < DIRS_COUNT; i++) {
		struct open_dir *dir = handles->dirs[i];

		if (!dir) {
			/* Places fill up from the left: all that follow are empty too. */
			if (best && !best->dir)
				break;
			dir = calloc(1, sizeof(*dir));
			if (!dir)
				break;
			handles->dirs[i] = dir;
			best = dir;
			break;
		}
		if (dir->is_busy)
			continue;
		if (dir->dir && dir->ino == ino && dir->cookie == cookie) {
			best = dir;
			break;
		}
		if (!best || (best->dir && (!dir->dir || dir->used_last < best->used_last)))
			best = dir;
	}
	if (best) {
		best->is_busy = true;
		best->user_ino = ino;
	}
	return best;
}

int handles_take_dir(struct handles *handles, uint32_t ino, uint64_t cookie,
		     struct open_dir **ret_dir)
{
	struct open_dir *dir;
	int err;

	pthread_mutex_lock(&handles->dirs_lock);
	dir = claim_dir(handles, ino, cookie);
	pthread_mutex_unlock(&handles->dirs_lock);
	if (!dir) {
		dir = calloc(1, sizeof(*dir));
		if (!dir)
			return -ENOMEM;
		dir->is_private = true;
	}
	if (dir->dir && dir->ino == ino && dir->cookie == cookie) {
		*ret_dir = dir;
		return 0;
	}

	close_listing(dir);
	err = uext4_dir_open(handles->fs, ino, &dir->dir);
	if (err < 0) {
		handles_give_dir(handles, dir);
		return err;
	}
	dir->ino = ino;
	dir->cookie = cookie;
	dir->is_at_end = false;
	dir->next = 0;
	dir->count = 0;
	*ret_dir = dir;
	return 0;
}

void handles_give_dir(struct handles *handles, struct open_dir *dir)
{
	struct uext4_dir *closing = NULL;

	if (dir->is_private) {
		close_listing(dir);
		free(dir);
		return;
	}
	pthread_mutex_lock(&handles->dirs_lock);
	dir->used_last = ++handles->dirs_clock;
	dir->is_busy = false;
	if (dir->is_forgotten) {
		closing = dir->dir;
		dir->dir = NULL;
		dir->is_forgotten = false;
	}
	pthread_mutex_unlock(&handles->dirs_lock);
	uext4_dir_close(closing);
}

int open_dir_peek(struct open_dir *dir, const struct uext4_dirent **ret_entry)
{
	size_t count;
	int err;

	if (dir->next == dir->count && !dir->is_at_end) {
		err = uext4_dir_read(dir->dir, dir->cookie, dir->batch, DIR_BATCH_COUNT, &count);
		if (err < 0)
			return err;
		dir->next = 0;
		dir->count = count;
		dir->is_at_end = count == 0;
	}
	*ret_entry = dir->next < dir->count ? &dir->batch[dir->next] : NULL;
	return 0;
}

void open_dir_advance(struct open_dir *dir)
{
	dir->cookie = dir->batch[dir->next].cookie;
	dir->next++;
}

/*
 * ---- forgetting -------------------------------------------------------------------------------
 */

static void forget_dir(struct handles *handles, uint32_t ino)
{
	struct uext4_dir *closing[DIRS_COUNT];
	size_t count = 0;

	pthread_mutex_lock(&handles->dirs_lock);
	for (size_t i = 0; i < DIRS_COUNT && handles->dirs[i]; i++) {
		struct open_dir *dir = handles->dirs[i];

		if (dir->is_busy) {
			if (dir->user_ino == ino)
				dir->is_forgotten = true;
			continue;
		}
		if (!dir->dir || dir->ino != ino)
			continue;
		closing[count++] = dir->dir;
		dir->dir = NULL;
	}
	pthread_mutex_unlock(&handles->dirs_lock);
	for (size_t i = 0; i < count; i++)
		uext4_dir_close(closing[i]);
}

void handles_forget(struct handles *handles, uint32_t ino)
{
	forget_file(handles, ino);
	forget_dir(handles, ino);
}
