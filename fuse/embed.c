/* SPDX-License-Identifier: MIT */
/*
 * A mount inside of a program that has the image open: the same server, without a process, signals
 * and a terminal of its own.
 */
#include "mount.h"

#include "mount_priv.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

struct uext4_mount {
	struct mount_options options;
	struct server server;
	struct fuse_session *session;
	char *dir;
	pthread_t thread;
	atomic_bool has_ended;
};

static void *serve(void *arg)
{
	struct uext4_mount *mount = arg;

	(void)session_loop(mount->session, &mount->options);
	/* Whoever ended it: now the kernel keeps nothing, and could not be told to drop it. */
	share_end(mount->server.share);
	atomic_store(&mount->has_ended, true);
	return NULL;
}

static void free_mount(struct uext4_mount *mount)
{
	if (mount->session)
		fuse_session_destroy(mount->session);
	handles_destroy(mount->server.handles);
	nodes_destroy(mount->server.nodes);
	share_destroy(mount->server.share);
	free(mount->server.conn_opts);
	mount_options_finish(&mount->options);
	free(mount->dir);
	free(mount);
}

static int parse(struct uext4_mount *mount, const char *options)
{
	char name[] = "uext4", foreground[] = "-f", more[] = "-o";
	char *argv[] = { name, foreground, name, mount->dir, more, NULL, NULL };
	int argc = 4;
	int err;

	if (options && *options) {
		argv[5] = strdup(options);
		if (!argv[5])
			return -ENOMEM;
		argc = 6;
	}
	err = mount_options_parse(&mount->options, argc, argv);
	free(argv[5]);
	/* Where the image's path is otherwise. */
	mount->options.image = "uext4";
	return err;
}

static int create_server(struct uext4_mount *mount, struct uext4_fs *fs)
{
	struct server *server = &mount->server;
	struct uext4_info info;
	int err;

	server->fs = fs;
	err = uext4_info(fs, &info);
	if (!err)
		err = session_add_args(server, &mount->options, &info, !mount->options.read_only);
	if (err < 0)
		return err;
	server->conn_opts = fuse_parse_conn_info_opts(&mount->options.conn_args);
	if (!server->conn_opts)
		return -EINVAL;
	err = handles_create(fs, &server->handles);
	if (!err)
		err = nodes_create(fs, &server->nodes);
	if (!err)
		err = share_create(fs, &server->share);
	return err;
}

/* Signals are for the program's own threads. */
static int start_thread(struct uext4_mount *mount)
{
	sigset_t all, before;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&mount->thread, NULL, serve, mount);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -err;
}

/* The hook is there before the kernel could keep anything. */
static int mount_and_serve(struct uext4_mount *mount)
{
	int err;

	mount->session = fuse_session_new(&mount->options.session_args, &server_ops,
					  sizeof(server_ops), &mount->server);
	if (!mount->session)
		return -EINVAL;
	err = share_begin(mount->server.share, mount->session);
	if (err < 0)
		return err;
	/* It says what failed, but not by a number. */
	err = wire_mount(mount->session, mount->dir) < 0 ? -EIO : 0;
	if (!err) {
		err = start_thread(mount);
		if (err)
			fuse_session_unmount(mount->session);
	}
	if (err)
		share_end(mount->server.share);
	return err;
}

int uext4_mount_start(struct uext4_fs *fs, const char *dir, const char *options,
		      struct uext4_mount **ret_mount)
{
	struct uext4_mount *mount = calloc(1, sizeof(*mount));
	int err;

	if (!mount)
		return -ENOMEM;
	mount->dir = realpath(dir, NULL);
	if (!mount->dir) {
		err = -errno;
		free(mount);
		return err;
	}
	err = parse(mount, options);
	if (!err)
		err = create_server(mount, fs);
	if (!err)
		err = mount_and_serve(mount);
	if (err < 0) {
		free_mount(mount);
		return err;
	}
	*ret_mount = mount;
	return 0;
}

/* Who may not unmount has fusermount3 do it. */
static int unmount_by_helper(const char *dir)
{
	char *path = strdup(dir);
	char name[] = "fusermount3", unmount[] = "-u", end[] = "--";
	char *const argv[] = { name, unmount, end, path, NULL };
	int status = 0, err;
	pid_t child;

	if (!path)
		return -ENOMEM;
	err = -posix_spawnp(&child, argv[0], NULL, NULL, argv, environ);
	while (!err && waitpid(child, &status, 0) < 0)
		err = errno == EINTR ? 0 : -errno;
	free(path);
	return err < 0 ? err : status ? -EBUSY : 0;
}

int uext4_mount_stop(struct uext4_mount *mount)
{
	int err = 0;

	/* The kernel writes what it has, and is answered meanwhile. */
	if (!atomic_load(&mount->has_ended) && umount2(mount->dir, UMOUNT_NOFOLLOW) < 0)
		err = errno == EPERM ? unmount_by_helper(mount->dir) : -errno;
	if (err < 0 && err != -EINVAL)
		return err;
	pthread_join(mount->thread, NULL);
	fuse_session_unmount(mount->session);
	free_mount(mount);
	return 0;
}
