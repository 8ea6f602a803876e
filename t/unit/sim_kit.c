/* SPDX-License-Identifier: MIT */
/* See sim_kit.h. */
#include "sim_kit.h"

#include "api/test_hooks.h"
#include "dev/dev.h"
#include "sync/sync.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct uext4_fs *fs;
struct dev *kit_fail_dev;

static const struct kit_image *image;
static uint8_t *image_bytes, *cut_bytes;
static size_t image_size;

void kit_load(const struct kit_image *i)
{
	char dir[] = "/tmp/uext4-sim-XXXXXX", command[512], path[64];
	struct stat st;
	int fd;

	if (image_bytes)
		(void)munmap(image_bytes, image_size);
	image = i;
	if (mkdtemp(dir) == NULL)
		abort();
	(void)snprintf(path, sizeof(path), "%s/image", dir);
	(void)snprintf(command, sizeof(command),
		       "truncate -s %uM %s && mke2fs -q -F -N 64 %s %s >/dev/null 2>&1", i->mib,
		       path, i->options, path);
	if (system(command) != 0) {
		fprintf(stderr, "%s failed\n", command);
		abort();
	}
	fd = open(path, O_RDONLY);
	if (fd < 0 || fstat(fd, &st) != 0)
		abort();
	image_size = (size_t)st.st_size;
	image_bytes = mmap(NULL, image_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (image_bytes == MAP_FAILED)
		abort();
	(void)close(fd);
	(void)unlink(path);
	(void)rmdir(dir);
}

uint32_t rnd(uint32_t end)
{
	return (uint32_t)(random_u64() >> 8) % end;
}

int kit_open(const struct uext4_open_options *options)
{
	struct dev *ram, *dev;

	OK(dev_ram_create(image_bytes, image_size, &ram));
	OK(dev_fail_create(ram, &kit_fail_dev));
	OK(sim_dev_create(kit_fail_dev, image->block_size, &dev));
	return uext4_open_dev_for_test(dev, options, &fs);
}

static void say_problem(void *arg UNUSED, const char *text)
{
	fprintf(stderr, "check: %s\n", text);
}

void kit_open_and_check(void)
{
	struct uext4_open_options o = { .size = sizeof(o) };
	struct uext4_check_options check = { .size = sizeof(check), .problem = say_problem };
	struct uext4_check_result result;

	OK(kit_open(&o));
	OK(uext4_check(fs, &check, &result));
	SIM_ASSERT(result.problems == 0);
}

void kit_cut(void)
{
	if (cut_bytes == NULL)
		cut_bytes = malloc(image_size);
	SIM_ASSERT(cut_bytes != NULL);
	memcpy(cut_bytes, image_bytes, image_size);
}

uint64_t kit_sum(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i + 8 <= image_size; i += 8) {
		uint64_t word;

		memcpy(&word, image_bytes + i, sizeof(word));
		sum = (sum ^ word) * UINT64_C(0x9e3779b97f4a7c15);
	}
	return sum;
}

void kit_restore(void)
{
	memcpy(image_bytes, cut_bytes, image_size);
}

void kit_fill_disk(unsigned keep)
{
	static const char block[65536];
	struct uext4_file *f;
	uint64_t at = 0;
	uint32_t ino;
	size_t done;

	OK(uext4_create(fs, UEXT4_ROOT_INO, "fill", 4, &(struct uext4_new){ .mode = 0600 }, &ino));
	OK(uext4_file_open(fs, ino, UEXT4_FILE_WRITE, &f));
	for (size_t step = sizeof(block); step >= 512; step /= 2) {
		while (uext4_pwrite(f, block, step, at, &done) == 0 && done == step)
			at += step;
	}
	OK(uext4_fsync(f, 0));
	uext4_file_close(f);
	if (keep > 0) {
		struct uext4_attr size = { .valid = UEXT4_ATTR_SIZE, .size = at - keep * 1024 };

		OK(uext4_setattr(fs, ino, &size));
		OK(uext4_sync(fs));
	}
}
