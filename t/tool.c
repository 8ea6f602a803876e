/* SPDX-License-Identifier: MIT */
/* Helpers of the test programs: see tool.h. */
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_MAX (1u << 20)
#define COPY_BYTES (1u << 16)

uint64_t mix64(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

uint64_t rnd(struct rng *r)
{
	uint64_t x = mix64(r->state);

	r->state += UINT64_C(0x9e3779b97f4a7c15);
	return x;
}

uint64_t rnd_below(struct rng *r, uint64_t bound)
{
	return rnd(r) % bound;
}

bool rnd_one_in(struct rng *r, uint64_t n)
{
	return rnd(r) % n == 0;
}

void fill_text(uint8_t *buf, uint64_t offset, size_t len, uint64_t seed)
{
	while (len > 0) {
		uint64_t word = mix64(seed ^ (offset / 8) * UINT64_C(0xd6e8feb86659fd93));
		size_t in_word = offset % 8, bytes = 8 - in_word;

		if (bytes > len)
			bytes = len;
		/* A byte that is never 0: zeros are holes. */
		word |= UINT64_C(0x0101010101010101);
		memcpy(buf, (uint8_t *)&word + in_word, bytes);
		buf += bytes;
		offset += bytes;
		len -= bytes;
	}
}

void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(2);
}

void *must_alloc(size_t bytes)
{
	void *p = calloc(1, bytes ? bytes : 1);

	if (!p)
		die("out of memory");
	return p;
}

int run_program(const char *const argv[], char **ret_output)
{
	char *output = must_alloc(OUTPUT_MAX + 1);
	posix_spawn_file_actions_t actions;
	extern char **environ;
	size_t used = 0;
	int fds[2], status, err;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		die("pipe: %s", strerror(errno));
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
	posix_spawn_file_actions_adddup2(&actions, fds[1], 2);
	err = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(fds[1]);
	if (err)
		die("%s: %s", argv[0], strerror(err));
	for (;;) {
		char rest[4096];
		bool full = used == OUTPUT_MAX;
		ssize_t n = read(fds[0], full ? rest : output + used,
				 full ? sizeof(rest) : OUTPUT_MAX - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		used += full ? 0 : (size_t)n;
	}
	close(fds[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (ret_output)
		*ret_output = output;
	else
		free(output);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool all_zero(const uint8_t *p, size_t bytes)
{
	return bytes == 0 || (p[0] == 0 && memcmp(p, p + 1, bytes - 1) == 0);
}

static void must_write(int fd, const uint8_t *data, size_t bytes, off_t offset, const char *name)
{
	while (bytes > 0) {
		ssize_t n = pwrite(fd, data, bytes, offset);

		if (n <= 0)
			die("writing %s: %s", name, strerror(errno));
		data += n;
		offset += n;
		bytes -= (size_t)n;
	}
}

static int create_file(const char *path, off_t bytes)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (fd < 0 || ftruncate(fd, bytes) < 0)
		die("%s: %s", path, strerror(errno));
	return fd;
}

void copy_sparse(const char *from, const char *to)
{
	int in = open(from, O_RDONLY | O_CLOEXEC), out;
	uint8_t *buf = must_alloc(COPY_BYTES);
	off_t at = 0, hole;
	struct stat st;

	if (in < 0 || fstat(in, &st) < 0)
		die("%s: %s", from, strerror(errno));
	out = create_file(to, st.st_size);
	while ((at = lseek(in, at, SEEK_DATA)) >= 0) {
		hole = lseek(in, at, SEEK_HOLE);
		while (at < hole) {
			size_t want = hole - at < COPY_BYTES ? (size_t)(hole - at) : COPY_BYTES;
			ssize_t n = pread(in, buf, want, at);

			if (n <= 0)
				die("reading %s: %s", from, strerror(errno));
			must_write(out, buf, (size_t)n, at, to);
			at += n;
		}
	}
	free(buf);
	close(in);
	if (close(out) < 0)
		die("%s: %s", to, strerror(errno));
}

void write_sparse(const char *to, const uint8_t *data, size_t bytes)
{
	int out = create_file(to, (off_t)bytes);

	for (size_t at = 0; at < bytes; at += 4096) {
		size_t n = bytes - at < 4096 ? bytes - at : 4096;

		if (!all_zero(data + at, n))
			must_write(out, data + at, n, (off_t)at, to);
	}
	if (close(out) < 0)
		die("%s: %s", to, strerror(errno));
}
