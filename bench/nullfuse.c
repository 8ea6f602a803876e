/* SPDX-License-Identifier: MIT */
/*
 * A FUSE server with nothing behind it: the ceiling that a real one is measured against.
 *
 *	nullfuse DIR [-n FILES] [-s BYTES] [-w FILES_PER_DIR] [-t THREADS] [-f] [-o OPTION]...
 *
 * Shows FILES files of BYTES zeros each, in directories d0, d1, ... of FILES_PER_DIR files named
 * f0, f1, ...  Nothing is stored: node ids are computed from names and back.  The connection is set
 * up as the one of `uext4 mount` is, but for fuse/wire.c and loop.c: libfuse's threads answer, out
 * of one buffer of zeros, so what is measured is the kernel and libfuse alone.
 *
 * Node ids: 1 is the root, 2 + d directory d, 2 + dirs + f file f (files are counted through).
 */
#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TIMEOUT_FOREVER (365.0 * 86400.0)

enum { READ_BYTES_MAX = 1 << 20, NAME_BYTES_MAX = 32, LIST_BYTES_MAX = 1 << 20 };

struct tree {
	uint64_t files;
	uint64_t files_per_dir;
	uint64_t dirs;
	uint64_t file_bytes;
	bool has_no_open;
	bool has_no_opendir;
};

static struct tree tree = { .files = 1000, .files_per_dir = 100, .file_bytes = 4096 };
static const char zeros[READ_BYTES_MAX];

static uint64_t files_in_dir(uint64_t dir)
{
	uint64_t before = dir * tree.files_per_dir;

	return tree.files - before < tree.files_per_dir ? tree.files - before : tree.files_per_dir;
}

static bool is_dir(fuse_ino_t node)
{
	return node < 2 + tree.dirs;
}

static void fill_attr(fuse_ino_t node, struct stat *attr)
{
	memset(attr, 0, sizeof(*attr));
	attr->st_ino = node;
	attr->st_blksize = 4096;
	if (is_dir(node)) {
		attr->st_mode = S_IFDIR | 0755;
		attr->st_nlink = 2;
		attr->st_size = 4096;
		return;
	}
	attr->st_mode = S_IFREG | 0644;
	attr->st_nlink = 1;
	attr->st_size = (off_t)tree.file_bytes;
	attr->st_blocks = (blkcnt_t)((tree.file_bytes + 511) / 512);
}

static void fill_entry(fuse_ino_t node, struct fuse_entry_param *entry)
{
	memset(entry, 0, sizeof(*entry));
	entry->ino = node;
	entry->entry_timeout = TIMEOUT_FOREVER;
	entry->attr_timeout = TIMEOUT_FOREVER;
	if (node)
		fill_attr(node, &entry->attr);
}

/* The node called @name, 0 if there is none. */
static fuse_ino_t find(fuse_ino_t parent, const char *name)
{
	unsigned long long number;
	char *end;

	if (name[0] != (parent == FUSE_ROOT_ID ? 'd' : 'f') || !is_dir(parent))
		return 0;
	number = strtoull(name + 1, &end, 10);
	if (end == name + 1 || *end)
		return 0;
	if (parent == FUSE_ROOT_ID)
		return number < tree.dirs ? 2 + number : 0;
	if (number >= files_in_dir(parent - 2))
		return 0;
	return 2 + tree.dirs + (parent - 2) * tree.files_per_dir + number;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry;

	fill_entry(find(parent, name), &entry);
	fuse_reply_entry(req, &entry);
}

static void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	struct stat attr;

	(void)fi;
	fill_attr(node, &attr);
	fuse_reply_attr(req, &attr, TIMEOUT_FOREVER);
}

static void op_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	(void)node;
	fi->keep_cache = 1;
	fi->noflush = 1;
	if (tree.has_no_open)
		fuse_reply_err(req, ENOSYS);
	else
		fuse_reply_open(req, fi);
}

static void op_opendir(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	(void)node;
	fi->keep_cache = 1;
	fi->cache_readdir = 1;
	if (tree.has_no_opendir)
		fuse_reply_err(req, ENOSYS);
	else
		fuse_reply_open(req, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
		    struct fuse_file_info *fi)
{
	uint64_t left = (uint64_t)offset < tree.file_bytes ? tree.file_bytes - (uint64_t)offset : 0;

	(void)node;
	(void)fi;
	if (size > left)
		size = (size_t)left;
	if (size > sizeof(zeros))
		size = sizeof(zeros);
	fuse_reply_buf(req, zeros, size);
}

static void list(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, bool plus)
{
	static __thread char buf[LIST_BYTES_MAX];
	bool is_root = node == FUSE_ROOT_ID;
	uint64_t count = is_root ? tree.dirs : files_in_dir(node - 2);
	uint64_t first = is_root ? 2 : 2 + tree.dirs + (node - 2) * tree.files_per_dir;
	size_t used = 0;

	if (size > sizeof(buf))
		size = sizeof(buf);
	for (uint64_t i = (uint64_t)offset; i < count; i++) {
		struct fuse_entry_param entry;
		char name[NAME_BYTES_MAX];
		size_t len;

		snprintf(name, sizeof(name), "%c%llu", is_root ? 'd' : 'f', (unsigned long long)i);
		fill_entry(first + i, &entry);
		if (plus)
			len = fuse_add_direntry_plus(req, buf + used, size - used, name, &entry,
						     (off_t)(i + 1));
		else
			len = fuse_add_direntry(req, buf + used, size - used, name, &entry.attr,
						(off_t)(i + 1));
		if (len > size - used)
			break;
		used += len;
	}
	fuse_reply_buf(req, buf, used);
}

static void op_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
		       struct fuse_file_info *fi)
{
	(void)fi;
	list(req, node, size, offset, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
			   struct fuse_file_info *fi)
{
	(void)fi;
	list(req, node, size, offset, true);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->want |= conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS |
				       FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_READDIRPLUS);
	conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_READDIRPLUS_AUTO |
				  FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
				  FUSE_CAP_SPLICE_MOVE);
	conn->max_readahead = READ_BYTES_MAX;
	conn->max_background = 64;
	conn->congestion_threshold = 48;
	tree.has_no_open = conn->capable & FUSE_CAP_NO_OPEN_SUPPORT;
	tree.has_no_opendir = conn->capable & FUSE_CAP_NO_OPENDIR_SUPPORT;
}

static const struct fuse_lowlevel_ops ops = {
	.init = op_init,
	.lookup = op_lookup,
	.getattr = op_getattr,
	.open = op_open,
	.read = op_read,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
};

static int usage(void)
{
	fputs("usage: nullfuse DIR [-n FILES] [-s BYTES] [-w FILES_PER_DIR] [-t THREADS] [-f] "
	      "[-o OPTION]...\n",
	      stderr);
	return 2;
}

static int serve(struct fuse_session *session, unsigned threads)
{
	struct fuse_loop_config *config;
	int err;

	if (threads == 1)
		return fuse_session_loop(session);
	config = fuse_loop_cfg_create();
	if (!config)
		return -ENOMEM;
	fuse_loop_cfg_set_max_threads(config, threads);
	fuse_loop_cfg_set_idle_threads(config, threads);
	fuse_loop_cfg_set_clone_fd(config, 1);
	err = fuse_session_loop_mt(session, config);
	fuse_loop_cfg_destroy(config);
	return err;
}

static int run(struct fuse_args *args, const char *dir, bool foreground, unsigned threads)
{
	struct fuse_session *session = fuse_session_new(args, &ops, sizeof(ops), NULL);
	char *real_dir = realpath(dir, NULL);
	int err = -1;

	if (!real_dir)
		perror(dir);
	/* The kernel queues requests until somebody serves them: going away right after is fine. */
	if (session && real_dir && !fuse_set_signal_handlers(session)) {
		if (!fuse_session_mount(session, real_dir)) {
			if (!fuse_daemonize(foreground))
				err = serve(session, threads);
			fuse_session_unmount(session);
		}
		fuse_remove_signal_handlers(session);
	}
	if (session)
		fuse_session_destroy(session);
	free(real_dir);
	return err < 0;
}

int main(int argc, char **argv)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	const char *dir = NULL;
	bool foreground = false;
	unsigned threads = 2;
	int letter;
	int failed;

	if (fuse_opt_add_arg(&args, "nullfuse") || fuse_opt_add_arg(&args, "-oro,subtype=null"))
		return 1;
	/* '-' first: the directory may stand anywhere. */
	while ((letter = getopt(argc, argv, "-n:s:w:t:fo:")) != -1) {
		switch (letter) {
		case 1: dir = optarg; break;
		case 'n': tree.files = strtoull(optarg, NULL, 10); break;
		case 's': tree.file_bytes = strtoull(optarg, NULL, 10); break;
		case 'w': tree.files_per_dir = strtoull(optarg, NULL, 10); break;
		case 't': threads = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'f': foreground = true; break;
		case 'o':
			if (fuse_opt_add_arg(&args, "-o") || fuse_opt_add_arg(&args, optarg))
				return 1;
			break;
		default: return usage();
		}
	}
	if (!dir || !tree.files || !tree.files_per_dir || !threads)
		return usage();
	tree.dirs = (tree.files - 1) / tree.files_per_dir + 1;
	failed = run(&args, dir, foreground, threads);
	fuse_opt_free_args(&args);
	return failed;
}
