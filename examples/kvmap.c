/* SPDX-License-Identifier: MIT */
/*
 * A table of keys and values in a file of an image, which is mapped: to look something up is to
 * read memory, to change it is to write memory, from as many threads as there are.
 *
 *	kvmap IMAGE put KEY VALUE
 *	kvmap IMAGE get KEY
 *	kvmap IMAGE fill THREADS COUNT		each thread puts tN-0 ... tN-(COUNT-1), together
 *	kvmap IMAGE count
 *
 * The file "/table.kv" is a row of slots.  A key lies in the first free slot from the one its hash
 * says; nothing is ever removed.
 *
 * Its blocks are allocated when it is made, so no store can fail for want of space.  Slots do not
 * lie across pages, and a page is written as a whole: after a crash each slot is as it was at some
 * moment behind the last uext4_msync(); one that was not finished keeps its place, without a key.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "uext4.h"

#define FILE_NAME "table.kv"
#define SLOTS (1u << 16)
#define LOCKS 64u

struct slot {
	_Atomic uint32_t used;
	char key[20];
	char value[40];
};

#define TABLE_BYTES (SLOTS * sizeof(struct slot))

static struct slot *table;
/* By the slot where a key's search begins; writers of one key meet in one of these. */
static pthread_mutex_t locks[LOCKS];

static int complain(const char *what)
{
	fprintf(stderr, "kvmap: %s: %s\n", what, uext4_last_error());
	return 1;
}

/* ---- the table ----------------------------------------------------------------------------- */

static uint32_t hash(const char *key)
{
	uint32_t h = 2166136261u;

	for (; *key; key++)
		h = (h ^ (uint8_t)*key) * 16777619u;
	return h % SLOTS;
}

static const char *get(const char *key)
{
	for (uint32_t i = 0, at = hash(key); i < SLOTS; i++, at = (at + 1) % SLOTS) {
		if (!atomic_load_explicit(&table[at].used, memory_order_acquire))
			return NULL;
		if (strcmp(table[at].key, key) == 0)
			return table[at].value;
	}
	return NULL;
}

/* A slot may be wanted under several locks: who changes 0 to 1 has it, fills it, and says 2. */
static int put(const char *key, const char *value)
{
	uint32_t first = hash(key);
	pthread_mutex_t *lock = &locks[first % LOCKS];
	int done = 0;

	if (strlen(key) >= sizeof(table->key) || strlen(value) >= sizeof(table->value))
		return -1;
	pthread_mutex_lock(lock);
	for (uint32_t i = 0, at = first; !done && i < SLOTS; i++, at = (at + 1) % SLOTS) {
		struct slot *s = &table[at];
		uint32_t none = 0;

		if (atomic_compare_exchange_strong(&s->used, &none, 1)) {
			strcpy(s->key, key);
			strcpy(s->value, value);
			atomic_store_explicit(&s->used, 2, memory_order_release);
			done = 1;
		} else {
			while (atomic_load_explicit(&s->used, memory_order_acquire) == 1)
				; /* somebody is just filling it */
			if (strcmp(s->key, key) == 0) {
				strcpy(s->value, value);
				done = 1;
			}
		}
	}
	pthread_mutex_unlock(lock);
	return done ? 0 : -1;
}

/* ---- the file ------------------------------------------------------------------------------ */

static int open_table(struct uext4_fs *fs, struct uext4_file **ret_file)
{
	struct uext4_new new = { .mode = 0644 };
	uint32_t ino;
	int err;

	err = uext4_lookup(fs, UEXT4_ROOT_INO, FILE_NAME, strlen(FILE_NAME), &ino);
	if (err < 0)
		err = uext4_create(fs, UEXT4_ROOT_INO, FILE_NAME, strlen(FILE_NAME), &new, &ino);
	if (err == 0)
		err = uext4_file_open(fs, ino, UEXT4_FILE_WRITE, ret_file);
	if (err < 0)
		return err;
	err = uext4_fallocate(*ret_file, 0, 0, TABLE_BYTES);
	if (err < 0)
		uext4_file_close(*ret_file);
	return err;
}

static int map_table(struct uext4_fs *fs)
{
	struct uext4_file *file;
	void *addr;
	int err;

	err = open_table(fs, &file);
	if (err < 0)
		return err;
	err = uext4_mmap(file, 0, TABLE_BYTES, UEXT4_PROT_READ | UEXT4_PROT_WRITE, UEXT4_MAP_SHARED,
			 &addr);
	uext4_file_close(file); /* the mapping keeps it */
	if (err < 0)
		return err;
	table = addr;
	for (unsigned i = 0; i < SLOTS; i++) {
		if (atomic_load(&table[i].used) == 1) { /* a crash came between */
			table[i].key[0] = '\0';
			atomic_store(&table[i].used, 2);
		}
	}
	return 0;
}

/* ---- commands ------------------------------------------------------------------------------ */

struct filler {
	pthread_t thread;
	unsigned number, count;
	int failed;
};

static void *fill(void *arg)
{
	struct filler *f = arg;
	char key[20], value[40];

	for (unsigned i = 0; i < f->count; i++) {
		snprintf(key, sizeof(key), "t%u-%u", f->number, i);
		snprintf(value, sizeof(value), "value %u of thread %u", i, f->number);
		f->failed |= put(key, value);
	}
	return NULL;
}

static int fill_all(unsigned threads, unsigned count)
{
	struct filler *fillers = calloc(threads, sizeof(*fillers));
	int failed = !fillers;

	for (unsigned i = 0; fillers && i < threads; i++) {
		fillers[i].number = i;
		fillers[i].count = count;
		if (pthread_create(&fillers[i].thread, NULL, fill, &fillers[i]) != 0)
			abort();
	}
	for (unsigned i = 0; fillers && i < threads; i++) {
		pthread_join(fillers[i].thread, NULL);
		failed |= fillers[i].failed;
	}
	free(fillers);
	if (failed)
		fprintf(stderr, "kvmap: the table is full\n");
	return failed ? 1 : 0;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: kvmap IMAGE put KEY VALUE | get KEY | fill THREADS COUNT | count\n");
	return 2;
}

static int run(int argc, char **argv)
{
	const char *command = argv[2], *value;
	unsigned count = 0;

	if (strcmp(command, "put") == 0 && argc == 5) {
		if (put(argv[3], argv[4]) == 0)
			return 0;
		fprintf(stderr, "kvmap: too long, or the table is full\n");
		return 1;
	}
	if (strcmp(command, "get") == 0 && argc == 4) {
		value = get(argv[3]);
		if (value)
			puts(value);
		return value ? 0 : 1;
	}
	if (strcmp(command, "fill") == 0 && argc == 5)
		return fill_all((unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]));
	if (strcmp(command, "count") == 0 && argc == 3) {
		for (unsigned i = 0; i < SLOTS; i++)
			count += atomic_load(&table[i].used) != 0;
		printf("%u\n", count);
		return 0;
	}
	return usage();
}

int main(int argc, char **argv)
{
	struct uext4_open_options options = { .size = sizeof(options), .flags = UEXT4_OPEN_WRITE };
	struct uext4_fs *fs;
	int status;

	if (argc < 3)
		return usage();
	for (unsigned i = 0; i < LOCKS; i++)
		pthread_mutex_init(&locks[i], NULL);
	if (uext4_open(argv[1], &options, &fs) < 0)
		return complain(argv[1]);
	if (map_table(fs) < 0) {
		status = complain(FILE_NAME);
		return uext4_close(fs) < 0 ? complain("close") : status;
	}
	status = run(argc, argv);
	if (uext4_msync(fs, table, TABLE_BYTES, UEXT4_MS_SYNC) < 0)
		status = complain("msync");
	if (uext4_munmap(fs, table, TABLE_BYTES) < 0 || uext4_close(fs) < 0)
		status = complain("close");
	return status;
}
