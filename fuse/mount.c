/* SPDX-License-Identifier: MIT */
/*
 * The life of a mount: open the image, mount, say so, serve, unmount.
 *
 * Two processes.  The one the user started waits for a status on a pipe and passes it on; its child
 * does everything else and serves until the end.  The image is opened after the fork, because
 * threads of the engine would not survive one.
 *
 * L1  The user's process returns 0 only after a stat of the mount point was answered by the server,
 *     through the kernel.
 * L2  Before that the child keeps the terminal: its session, its signals and stderr; a failure is
 *     told there.  After that it has nothing of the caller's any more, not even the directory.
 * L3  The image is closed after the last request has been answered.
 * L4  A signal that ends the mount first lets the kernel hand over what was written to it.
 */
#include "mount.h"

#include "mount_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

/* Why there is no mount, by what a caller can do about it. */
enum outcome {
	OUTCOME_OK,
	OUTCOME_FAILED,
	OUTCOME_USAGE,
	OUTCOME_UNSUPPORTED,
	OUTCOME_BUSY,
	OUTCOME_CORRUPT,
	OUTCOME_JOURNAL,
	OUTCOME_SYSTEM,
};

struct mount {
	struct mount_options *options;
	struct server server;
	struct fuse_session *session;
	struct uext4_info info;
	char why_read_only[256]; /* of a mount that was to be writable; "": it is as asked for */
	char *dir;		 /* absolute: the server works in "/" */
	int ready_fd;		 /* where the user's process waits; -1 in the foreground */
	bool is_ready;		 /* written by announce(), read after it was joined */
	bool is_asked_to_end;	 /* written by watch_signals(), read after it was joined */
	atomic_bool has_ended;
	sigset_t signals;
	pthread_t announcer;
	pthread_t watcher;
	pthread_t server_thread;
};

static bool is_writable(const struct mount *mount)
{
	return mount->options->open.flags & UEXT4_OPEN_WRITE;
}

static int exit_status(const struct mount_options *options, enum outcome outcome)
{
	static const int statuses[] = {
		[OUTCOME_OK] = 0,	   [OUTCOME_FAILED] = 1, [OUTCOME_USAGE] = 2,
		[OUTCOME_UNSUPPORTED] = 3, [OUTCOME_BUSY] = 4,	 [OUTCOME_CORRUPT] = 5,
		[OUTCOME_JOURNAL] = 6,	   [OUTCOME_SYSTEM] = 1,
	};
	/* mount(8): 1 wrong call or permission, 2 system error, 32 the mount failed. */
	static const int helper_statuses[] = {
		[OUTCOME_OK] = 0,	    [OUTCOME_FAILED] = 32, [OUTCOME_USAGE] = 1,
		[OUTCOME_UNSUPPORTED] = 32, [OUTCOME_BUSY] = 32,   [OUTCOME_CORRUPT] = 32,
		[OUTCOME_JOURNAL] = 32,	    [OUTCOME_SYSTEM] = 2,
	};

	return options->is_helper ? helper_statuses[outcome] : statuses[outcome];
}

static enum outcome outcome_of(int err)
{
	switch (err) {
	case 0: return OUTCOME_OK;
	case -EOPNOTSUPP: return OUTCOME_UNSUPPORTED;
	case -EBUSY: return OUTCOME_BUSY;
	case -EUCLEAN:
	case -EBADMSG: return OUTCOME_CORRUPT;
	case -ENOTRECOVERABLE: return OUTCOME_JOURNAL;
	case -ENOMEM:
	case -EAGAIN:
	case -ENFILE:
	case -EMFILE: return OUTCOME_SYSTEM;
	default: return OUTCOME_FAILED;
	}
}

static enum outcome complain(const char *path, int err)
{
	fprintf(stderr, "uext4: %s: %s\n", path, strerror(-err));
	return outcome_of(err);
}

static void print_help(void)
{
	puts("Usage: uext4 mount IMAGE DIR [-f] [-d] [-s] [-o OPTION[,OPTION...]]\n"
	     "\n"
	     "Shows the ext2, ext3 or ext4 file system in IMAGE at DIR, to read and write.\n"
	     "fusermount3 -u DIR, or umount DIR, ends it; so does SIGTERM to the server.\n"
	     "sync DIR writes all that was changed; sync without it does not reach FUSE mounts.\n"
	     "\n"
	     "  -f                   stay in the foreground\n"
	     "  -d, -o debug         print every request; implies -f\n"
	     "  -s                   serve with one thread\n"
	     "  --offset, -o offset=BYTES   the file system starts there in IMAGE\n"
	     "  -o ro                read-only: the image is not changed by a byte\n"
	     "  -o rw                to read and write, or not at all (without it an image that\n"
	     "                       cannot be written is mounted read-only, and that is said)\n"
	     "  -o data=MODE         ordered (default), journal or writeback\n"
	     "  -o commit=SECONDS    a transaction commits after so long at the latest (5)\n"
	     "  -o nobarrier         no flushes: fast, for images that a crash may cost\n"
	     "  -o nodelalloc        blocks are allocated when they are written to\n"
	     "  -o sb=N              use the backup superblock in block N, counted in the\n"
	     "                       file system's blocks (the kernel's sb counts KiB)\n"
	     "  -o nolock            mount although somebody else may be changing the image\n"
	     "  -o norecovery        show the image as it lies, without replaying its journal\n"
	     "  -o cache_size=BYTES  memory for the image's blocks\n"
	     "  -o allow_other       let other users in, with permission checks\n"
	     "  -o acl, noacl        check and show ACLs, or do neither\n"
	     "  -o fakeroot          no permission checks, no setuid programs, no devices\n"
	     "  -o kernel            allow_other,acl,suid,dev: like the kernel's own mounts\n"
	     "  -o uid=N,gid=N,umask=M   what attributes show\n"
	     "  -o minixdf           count the file system's own blocks in df\n"
	     "  -o errors=WHAT       when the image turns out to be damaged: continue,\n"
	     "                       remount-ro, or panic (dump core)\n"
	     "  -o journal_path=PATH the external journal of a dirty image\n"
	     "  -o lockfile=PATH     a file that exists while the image is mounted\n"
	     "  -o max_threads=N     serve with up to N threads\n"
	     "Options of mount.fuse(8), and those of ext4 without a meaning here, are accepted.");
}

/* ---- the moment of being ready -------------------------------------------------------------- */

static void print_notes(const struct mount *mount)
{
	const struct mount_options *options = mount->options;
	const struct uext4_info *info = &mount->info;

	if (mount->why_read_only[0])
		fprintf(stderr, "uext4: %s: mounted read-only: %s\n", options->image,
			mount->why_read_only);
	if (info->journal_replayed && is_writable(mount))
		fprintf(stderr, "uext4: %s: the journal was replayed (%u transaction%s)\n",
			options->image, info->replayed_transactions,
			info->replayed_transactions == 1 ? "" : "s");
	else if (info->journal_replayed)
		fprintf(stderr,
			"uext4: %s: the journal was replayed in memory (%u transaction%s); "
			"the image stays as it is\n",
			options->image, info->replayed_transactions,
			info->replayed_transactions == 1 ? "" : "s");
	else if (info->journal_dirty)
		fprintf(stderr, "uext4: %s: the journal was not replayed: files may be wrong\n",
			options->image);
}

/*
 * Lets the kernel read ahead as far as one request can carry.  It starts with 128 KiB and only root
 * may tell it, so this is an attempt.
 */
static void raise_readahead(dev_t dev, unsigned bytes)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(dev), minor(dev));
	file = fopen(path, "we");
	if (!file)
		return;
	fprintf(file, "%u\n", bytes / 1024);
	fclose(file);
}

/* Gives back what belongs to the process that was started by hand, and lets it go. */
static void detach(struct mount *mount)
{
	unsigned char status = 0;
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	fflush(NULL);
	if (null_fd >= 0) {
		dup2(null_fd, STDIN_FILENO);
		dup2(null_fd, STDOUT_FILENO);
		dup2(null_fd, STDERR_FILENO);
		close(null_fd);
	}
	/* If nobody waits any more there is nobody to tell. */
	if (write(mount->ready_fd, &status, sizeof(status)) < 0)
		syslog(LOG_WARNING, "%s: the mounting process is gone", mount->options->image);
	close(mount->ready_fd);
}

/* A thread of its own: the answer to its stat comes from this process. */
static void *announce(void *arg)
{
	struct mount *mount = arg;
	struct stat stat_buf;

	if (stat(mount->dir, &stat_buf) == 0)
		raise_readahead(stat_buf.st_dev, mount->options->readahead_bytes);
	else if (errno == ENOTCONN || errno == ECONNABORTED)
		return NULL;
	print_notes(mount);
	mount->is_ready = true;
	if (mount->ready_fd >= 0)
		detach(mount);
	return NULL;
}

/* ---- serving -------------------------------------------------------------------------------- */

/*
 * Waits for a signal that asks for the end.  The kernel still has bytes that were written here:
 * they come while we go on serving (syncfs), then the mount goes (L4).  A second signal ends it at
 * once.
 */
static void *watch_signals(void *arg)
{
	struct mount *mount = arg;
	int signal_number, fd;

	if (sigwait(&mount->signals, &signal_number) != 0 || signal_number == SIGUSR1)
		return NULL;
	fd = open(mount->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0) {
		if (syncfs(fd) < 0)
			syslog(LOG_ERR, "%s: %s", mount->dir, strerror(errno));
		close(fd);
	}
	mount->is_asked_to_end = true;
	fuse_session_exit(mount->session);
	/* The loop looks at that when it is interrupted, unless it is just about to wait again. */
	while (!atomic_load(&mount->has_ended)) {
		pthread_kill(mount->server_thread, SIGUSR2);
		usleep(10000);
	}
	return NULL;
}

static void do_nothing(int signal_number)
{
	(void)signal_number;
}

/* Before there are threads: all of them inherit the mask. */
static void block_signals(struct mount *mount)
{
	struct sigaction wake = { .sa_handler = do_nothing };

	sigemptyset(&mount->signals);
	sigaddset(&mount->signals, SIGTERM);
	sigaddset(&mount->signals, SIGINT);
	sigaddset(&mount->signals, SIGHUP);
	sigaddset(&mount->signals, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &mount->signals, NULL);
	sigaction(SIGUSR2, &wake, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* From the mounted session to its end; libfuse has already said what failed. */
static enum outcome serve(struct mount *mount)
{
	int err;

	mount->server_thread = pthread_self();
	err = pthread_create(&mount->watcher, NULL, watch_signals, mount);
	if (!err) {
		err = pthread_create(&mount->announcer, NULL, announce, mount);
		if (err) {
			pthread_kill(mount->watcher, SIGUSR1);
			pthread_join(mount->watcher, NULL);
		}
	}
	if (err) {
		fuse_session_unmount(mount->session);
		return complain(mount->dir, -err);
	}
	err = session_loop(mount->session, mount->options);
	atomic_store(&mount->has_ended, true);
	/* Also wakes the announcer if nobody will answer it any more. */
	fuse_session_unmount(mount->session);
	pthread_kill(mount->watcher, SIGUSR1);
	pthread_join(mount->watcher, NULL);
	pthread_join(mount->announcer, NULL);
	if (err < 0 && !mount->is_asked_to_end)
		return OUTCOME_FAILED;
	/* Asked to end at once: no failure, unless somebody was promised a mount that stays. */
	if (!mount->is_ready && mount->ready_fd >= 0) {
		fprintf(stderr, "uext4: %s: the mount ended before it was ready\n", mount->dir);
		return OUTCOME_FAILED;
	}
	return OUTCOME_OK;
}

/* libfuse says what failed, but neither who it is nor what it takes. */
static void __attribute__((format(printf, 2, 0)))
log_fuse(enum fuse_log_level level, const char *format, va_list args)
{
	if (level < FUSE_LOG_DEBUG)
		fputs("uext4: ", stderr);
	vfprintf(stderr, format, args);
}

static void hint_fuse(const struct mount *mount)
{
	if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) < 0)
		fprintf(stderr,
			"uext4: %s: not mounted; that needs access to /dev/fuse and, without root, "
			"fusermount3 installed and a directory of one's own\n",
			mount->dir);
}

static enum outcome run_session(struct mount *mount)
{
	enum outcome outcome = OUTCOME_FAILED;

	fuse_set_log_func(log_fuse);
	mount->session = fuse_session_new(&mount->options->session_args, &server_ops,
					  sizeof(server_ops), &mount->server);
	if (!mount->session)
		return OUTCOME_USAGE;
	mount->server.session = mount->session;
	/* Before there is something that a signal would leave behind. */
	block_signals(mount);
	if (wire_mount(mount->session, mount->dir) == 0) {
		if (chdir("/") < 0)
			outcome = complain("/", -errno);
		else
			outcome = serve(mount);
	} else {
		hint_fuse(mount);
	}
	fuse_session_destroy(mount->session);
	return outcome;
}

static enum outcome run_server(struct mount *mount)
{
	struct mount_options *options = mount->options;
	enum outcome outcome;
	int err;

	err = session_add_args(&mount->server, options, &mount->info, is_writable(mount));
	if (err < 0)
		return complain(options->image, err);
	mount->server.conn_opts = fuse_parse_conn_info_opts(&options->conn_args);
	if (!mount->server.conn_opts)
		return OUTCOME_USAGE;
	err = handles_create(mount->server.fs, &mount->server.handles);
	if (err == 0 && is_writable(mount))
		err = nodes_create(mount->server.fs, &mount->server.nodes);
	if (err < 0)
		outcome = complain(options->image, err);
	else
		outcome = run_session(mount);
	handles_destroy(mount->server.handles);
	nodes_destroy(mount->server.nodes);
	free(mount->server.conn_opts);
	return outcome;
}

static enum outcome engine_failed(const struct mount_options *options, int err)
{
	const char *text = uext4_last_error();

	fprintf(stderr, "uext4: %s: %s\n", options->image, *text ? text : strerror(-err));
	return outcome_of(err);
}

/* What may be a reason to look at an image without changing it. */
static bool is_read_only_error(int err)
{
	return err == -EACCES || err == -EPERM || err == -EROFS || err == -EOPNOTSUPP;
}

/* For writing unless that was not wanted, or cannot be had and was not insisted on. */
static int open_image(struct mount *mount)
{
	struct mount_options *options = mount->options;
	uint32_t only_read = UEXT4_OPEN_NORECOVERY | UEXT4_OPEN_NOLOCK;
	int err;

	if (!options->read_only && !(options->open.flags & only_read) &&
	    !options->open.superblock) {
		options->open.flags |= UEXT4_OPEN_WRITE;
		err = uext4_open(options->image, &options->open, &mount->server.fs);
		if (!is_read_only_error(err) || options->read_write)
			return err;
		snprintf(mount->why_read_only, sizeof(mount->why_read_only), "%s",
			 uext4_last_error());
		options->open.flags &= ~(uint32_t)UEXT4_OPEN_WRITE;
	}
	return uext4_open(options->image, &options->open, &mount->server.fs);
}

/* The last chance to hear that something could not be written. */
static enum outcome close_image(struct mount *mount, enum outcome outcome)
{
	int err = uext4_close(mount->server.fs);

	if (err >= 0)
		return outcome;
	syslog(LOG_ERR, "%s: closing: %s", mount->options->image, uext4_last_error());
	return outcome == OUTCOME_OK ? engine_failed(mount->options, err) : outcome;
}

static enum outcome run_image(struct mount *mount)
{
	const struct mount_options *options = mount->options;
	struct uext4_stat root;
	enum outcome outcome;
	int err;

	err = open_image(mount);
	if (err < 0) {
		outcome = engine_failed(options, err);
		if (err == -EINVAL && !options->open.superblock)
			fprintf(stderr,
				"uext4: %s: if only its superblock is damaged, a backup may help: "
				"-o sb=32768, or 8193 with blocks of 1 KiB\n",
				options->image);
		return outcome;
	}
	err = uext4_info(mount->server.fs, &mount->info);
	/* The one inode that a mount cannot do without. */
	if (!err)
		err = uext4_stat(mount->server.fs, UEXT4_ROOT_INO, &root);
	if (err < 0)
		outcome = engine_failed(options, err);
	else
		outcome = run_server(mount);
	return close_image(mount, outcome);
}

static enum outcome run_with_lockfile(struct mount *mount)
{
	const char *given = mount->options->lockfile;
	enum outcome outcome;
	char *path;
	int fd;

	if (!given)
		return run_image(mount);
	fd = open(given, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		return complain(given, -errno);
	close(fd);
	path = realpath(given, NULL);
	outcome = run_image(mount);
	if (path)
		unlink(path);
	free(path);
	return outcome;
}

static enum outcome run(struct mount_options *options, int ready_fd)
{
	struct mount mount = { .options = options, .ready_fd = ready_fd };
	struct stat stat_buf;
	enum outcome outcome;

	mount.dir = realpath(options->dir, NULL);
	if (!mount.dir || stat(mount.dir, &stat_buf) < 0)
		outcome = complain(options->dir, -errno);
	else if (!S_ISDIR(stat_buf.st_mode))
		outcome = complain(options->dir, -ENOTDIR);
	else
		outcome = run_with_lockfile(&mount);
	free(mount.dir);
	return outcome;
}

/* ---- two processes -------------------------------------------------------------------------- */

/* The user's process: what becomes of the mount. */
static int wait_for_child(const struct mount_options *options, pid_t child, int fd)
{
	unsigned char status;
	int wait_status;
	ssize_t got;

	do {
		got = read(fd, &status, sizeof(status));
	} while (got < 0 && errno == EINTR);
	close(fd);
	if (got == sizeof(status))
		return status;

	/* It ended without a word on the pipe: its exit status says why. */
	while (waitpid(child, &wait_status, 0) < 0) {
		if (errno != EINTR)
			return exit_status(options, complain("waitpid", -errno));
	}
	if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status))
		return WEXITSTATUS(wait_status);
	if (WIFSIGNALED(wait_status))
		fprintf(stderr, "uext4: %s: the server died of signal %d\n", options->image,
			WTERMSIG(wait_status));
	return exit_status(options, OUTCOME_FAILED);
}

static int run_in_background(struct mount_options *options)
{
	int pipe_fds[2];
	pid_t child;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return exit_status(options, complain("pipe", -errno));
	fflush(NULL);
	child = fork();
	if (child < 0)
		return exit_status(options, complain("fork", -errno));
	if (child > 0) {
		close(pipe_fds[1]);
		return wait_for_child(options, child, pipe_fds[0]);
	}
	close(pipe_fds[0]);
	openlog("uext4", LOG_PID, LOG_DAEMON);
	return exit_status(options, run(options, pipe_fds[1]));
}

/* The exit status of having printed something. */
static int flush_output(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	fprintf(stderr, "uext4: standard output: %s\n", strerror(errno));
	return 1;
}

int uext4_mount_main(int argc, char **argv)
{
	struct mount_options options;
	int status;

	if (mount_options_parse(&options, argc, argv) < 0) {
		status = exit_status(&options, OUTCOME_USAGE);
	} else if (options.action == MOUNT_HELP) {
		print_help();
		status = flush_output();
	} else if (options.action == MOUNT_VERSION) {
		printf("uext4 %s, FUSE %s\n", uext4_version(), fuse_pkgversion());
		status = flush_output();
	} else if (options.action == MOUNT_FAKE) {
		status = 0;
	} else if (options.foreground) {
		status = exit_status(&options, run(&options, -1));
	} else {
		status = run_in_background(&options);
	}
	mount_options_finish(&options);
	return status;
}
