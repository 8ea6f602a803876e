/* SPDX-License-Identifier: MIT */
/*
 * ops/attr: what attr_set() and attr_xattr_set() do and refuse is what the kernel does and refuses.
 *
 *  - Random changes of mode, owner, times, flags and xattrs, of every type of file, with setuid and
 *    setgid bits, capabilities and ACLs about, on an image here and on a copy of it that the kernel
 *    has mounted: the same results and the same attributes, and e2fsck has nothing to say.
 *  - What has no system call: creation time, ctime, generation.
 *  - Attributes that belong together change together or not at all.
 *  - Times at and beyond what an inode can keep.
 *
 * Usage: ops_attr [SEED [ROUNDS]]
 */
#include "base/base.h"
#include "base/diag.h"
#include "base/mem.h"
#include "fs/balloc.h"
#include "fs/xattr.h"
#include "ops/ops.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

static uint64_t seed = 1;
static unsigned rounds = 3000;
static char scratch[128];

static uint64_t rnd(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * UINT64_C(2685821657736338717);
}

static int run(const char *fmt, ...) PRINTF(1, 2);
static int run(const char *fmt, ...)
{
	char command[1024];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	status = system(command);
	assert_true(status != -1 && WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int make_scratch(void **state)
{
	snprintf(scratch, sizeof(scratch), "%s/uext4-attr-XXXXXX",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state)
{
	run("umount %s/mnt 2>/dev/null", scratch); /* of a test that failed */
	return run("rm -rf %s", scratch);
}

/* ---- images ---------------------------------------------------------------------------------- */

enum node { FILE1, FILE2, DIR1, LINK, FIFO, CHR, NODES };

static const char *const node_names[NODES] = { "file1", "file2", "dir1", "link", "fifo", "chr" };

struct rig {
	char path[256];
	struct uext4_fs *fs;
	struct inode *nodes[NODES];
};

static void make_image(struct rig *rig, const char *options)
{
	memset(rig, 0, sizeof(*rig));
	if (run("command -v mke2fs >/dev/null && command -v e2fsck >/dev/null") != 0)
		skip();
	snprintf(rig->path, sizeof(rig->path), "%s/image", scratch);
	assert_int_equal(
		run("rm -rf %s/tree %s && mkdir %s/tree && cd %s/tree && touch file1 file2 && "
		    "mkdir dir1 && ln -s target link && mkfifo fifo",
		    scratch, rig->path, scratch, scratch),
		0);
	if (run("mknod %s/tree/chr c 1 3 2>/dev/null", scratch) != 0)
		assert_int_equal(run("touch %s/tree/chr", scratch), 0);
	assert_int_equal(run("mke2fs -q -F %s -d %s/tree %s 16M >/dev/null 2>&1", options, scratch,
			     rig->path),
			 0);
	/* mke2fs counts what it makes the file system with, and not what it copies. */
	if (strstr(options, "quota"))
		assert_true(run("e2fsck -fy %s >/dev/null 2>&1", rig->path) <= 1);
}

static void open_rig(struct rig *rig)
{
	const struct fs_options options = { .cache_bytes = 16 << 20,
					    .nolock = true,
					    .write = true };
	struct inode *root;
	struct dev *dev;
	uint32_t ino;
	int err;

	err = dev_file_open(rig->path, 0, 0, DEV_FILE_NOLOCK | DEV_FILE_WRITE, &dev);
	if (err == 0)
		err = fs_open(dev, &options, &file_mapping_ops, &rig->fs);
	if (err < 0)
		fail_msg("%s", diag_text());
	assert_int_equal(inode_get(rig->fs, 2, &root), 0);
	for (unsigned i = 0; i < NODES; i++) {
		assert_int_equal(dir_find(root, node_names[i], strlen(node_names[i]), &ino), 0);
		assert_int_equal(inode_get(rig->fs, ino, &rig->nodes[i]), 0);
	}
	inode_put(root);
}

static void close_rig(struct rig *rig)
{
	for (unsigned i = 0; i < NODES; i++)
		inode_put(rig->nodes[i]);
	if (fs_close(rig->fs) < 0)
		fail_msg("%s", diag_text());
	if (run("e2fsck -fn %s >%s/fsck 2>&1", rig->path, scratch) != 0) {
		run("cat %s/fsck >&2", scratch);
		fail_msg("e2fsck");
	}
}

/* ---- here and with the kernel ---------------------------------------------------------------- */

enum kind { CHMOD, CHOWN, TIMES, FLAGS, TRUNCATE, SETXATTR, REMOVEXATTR, KINDS };

struct op {
	enum kind kind;
	enum node node;
	uint32_t mode, uid, gid, flags;
	struct timespec times[2]; /* as utimensat(2) takes them */
	const char *name;
	uint8_t value[64];
	size_t size;
	uint64_t length; /* of the file */
};

static const uint8_t acl_value[] = { 2,	  0,   0,   0,	 1,   0,   6,  0,   255, 255, 255,
				     255, 2,   0,   7,	 0,   1,   2,  0,   0,	 4,   0,
				     4,	  0,   255, 255, 255, 255, 16, 0,   5,	 0,   255,
				     255, 255, 255, 32,	 0,   0,   0,  255, 255, 255, 255 };
/* cap_net_raw, permitted and effective, revision 2 */
static const uint8_t capability[20] = { 1, 0, 0, 2, 0, 32 };

static struct timespec random_time(void)
{
	struct timespec t = { .tv_sec = (time_t)(rnd() % 4000000000u),
			      .tv_nsec = (long)(rnd() % 1000000000u) };

	if (rnd() % 3 == 0)
		t.tv_nsec = UTIME_NOW;
	else if (rnd() % 3 == 0)
		t.tv_nsec = UTIME_OMIT;
	return t;
}

static const uint32_t flag_choice[] = {
	0,
	FS_NODUMP_FL,
	FS_NOATIME_FL | FS_SYNC_FL,
	FS_APPEND_FL,
	FS_IMMUTABLE_FL,
	FS_IMMUTABLE_FL | FS_NODUMP_FL,
	FS_DIRSYNC_FL,
	FS_TOPDIR_FL,
	FS_SECRM_FL | FS_UNRM_FL | FS_COMPR_FL,
	FS_NOTAIL_FL,
	FS_INDEX_FL,
	0x80000000, /* unknown */
};

static struct op random_op(void)
{
	static const uint32_t modes[] = { 0644, 04755, 02755, 06711, 0777, 0, 01777, 02644 };
	static const char *const names[] = { "user.a", "trusted.b", "security.capability",
					     "system.posix_acl_access" };
	struct op op = { .kind = (enum kind)(rnd() % KINDS), .node = (enum node)(rnd() % NODES) };

	op.mode = modes[rnd() % ARRAY_SIZE(modes)];
	op.uid = rnd() % 3 ? (uint32_t)(rnd() % 100000) : UINT32_MAX;
	op.gid = rnd() % 3 ? (uint32_t)(rnd() % 100000) : UINT32_MAX;
	op.flags = flag_choice[rnd() % ARRAY_SIZE(flag_choice)];
	/* Most of the time nothing is protected. */
	if ((op.flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)) && rnd() % 3)
		op.flags = 0;
	op.length = rnd() % (rnd() % 2 ? 100 : 100000);
	op.times[0] = random_time();
	op.times[1] = random_time();
	op.name = names[rnd() % ARRAY_SIZE(names)];
	op.size = 1 + (size_t)(rnd() % 30);
	if (strcmp(op.name, "security.capability") == 0) {
		memcpy(op.value, capability, sizeof(capability));
		op.size = sizeof(capability);
	} else if (strncmp(op.name, "system", 6) == 0) {
		memcpy(op.value, acl_value, sizeof(acl_value));
		op.size = sizeof(acl_value);
	}
	return op;
}

static bool can_open(enum node node)
{
	return node == FILE1 || node == FILE2 || node == DIR1;
}

/* The system call has no way to these. */
static bool is_possible(const struct op *op)
{
	if (op->kind == CHMOD)
		return op->node != LINK;
	if (op->kind == TRUNCATE)
		return op->node == FILE1 || op->node == FILE2 || op->node == DIR1;
	return op->kind != FLAGS || can_open(op->node);
}

static int kernel_flags(const char *path, uint32_t flags, bool set, uint32_t *ret)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW), err, value = (int)flags;

	if (fd < 0)
		return -errno;
	if (set) {
		/* As chattr: what is not meant to change stays. */
		err = ioctl(fd, FS_IOC_GETFLAGS, &value) < 0 ? -errno : 0;
		value = (int)(flags | ((uint32_t)value & FS_EXTENT_FL));
		if (err == 0)
			err = ioctl(fd, FS_IOC_SETFLAGS, &value) < 0 ? -errno : 0;
	} else {
		err = ioctl(fd, FS_IOC_GETFLAGS, &value) < 0 ? -errno : 0;
		*ret = (uint32_t)value;
	}
	close(fd);
	return err;
}

/*
 * Not truncate(2): of a file with data inside its inode that nobody has open for writing Linux 6.18
 * reads the journal's part of the inode, which is not there, and dies.
 */
static int kernel_truncate(const char *path, uint64_t length)
{
	int fd = open(path, O_WRONLY | O_NOFOLLOW), err;

	if (fd < 0)
		return -errno;
	err = ftruncate(fd, (off_t)length) < 0 ? -errno : 0;
	close(fd);
	return err;
}

static int kernel_apply(const char *path, const struct op *op)
{
	int err = 0;

	switch (op->kind) {
	case CHMOD: err = chmod(path, op->mode); break;
	case CHOWN: err = lchown(path, op->uid, op->gid); break;
	case TIMES: err = utimensat(AT_FDCWD, path, op->times, AT_SYMLINK_NOFOLLOW); break;
	case FLAGS: return kernel_flags(path, op->flags, true, NULL);
	case TRUNCATE: return kernel_truncate(path, op->length);
	case SETXATTR: err = lsetxattr(path, op->name, op->value, op->size, 0); break;
	case REMOVEXATTR: err = lremovexattr(path, op->name); break;
	case KINDS: break;
	}
	return err < 0 ? -errno : 0;
}

static void take_time(const struct timespec *t, uint32_t given, uint32_t now, uint32_t *valid,
		      struct uext4_time *ret)
{
	if (t->tv_nsec == UTIME_NOW) {
		*valid |= now;
	} else if (t->tv_nsec != UTIME_OMIT) {
		*valid |= given;
		*ret = (struct uext4_time){ .sec = t->tv_sec, .nsec = (uint32_t)t->tv_nsec };
	}
}

static int engine_apply(struct inode *ip, const struct op *op)
{
	struct uext4_attr attr = { .mode = op->mode, .uid = op->uid, .gid = op->gid };
	int err;

	switch (op->kind) {
	case CHMOD: attr.valid = UEXT4_ATTR_MODE; break;
	case CHOWN:
		attr.valid = UEXT4_ATTR_KILL_PRIV;
		if (op->uid != UINT32_MAX)
			attr.valid |= UEXT4_ATTR_UID;
		if (op->gid != UINT32_MAX)
			attr.valid |= UEXT4_ATTR_GID;
		break;
	case TIMES:
		take_time(&op->times[0], UEXT4_ATTR_ATIME, UEXT4_ATTR_ATIME_NOW, &attr.valid,
			  &attr.atime);
		take_time(&op->times[1], UEXT4_ATTR_MTIME, UEXT4_ATTR_MTIME_NOW, &attr.valid,
			  &attr.mtime);
		break;
	case FLAGS:
		attr.valid = UEXT4_ATTR_FLAGS;
		attr.flags = op->flags | (le32_get(ip->raw->i_flags) & EXT4_EXTENTS_FL);
		break;
	case TRUNCATE:
		attr.valid = UEXT4_ATTR_SIZE;
		attr.size = op->length;
		err = attr_set(ip, &attr);
		/* The kernel takes it away whoever truncates, and leaves root the rest. */
		if (err == 0)
			(void)!attr_xattr_set(ip, "security.capability", NULL, 0, 0);
		return err;
	case SETXATTR: return attr_xattr_set(ip, op->name, op->value, op->size, 0);
	case REMOVEXATTR: return attr_xattr_set(ip, op->name, NULL, 0, UEXT4_XATTR_REPLACE);
	case KINDS: break;
	}
	return attr_set(ip, &attr);
}

static void compare_xattr(struct inode *ip, const char *path, const char *name)
{
	uint8_t ours[256], kernels[256];
	size_t size = 0;
	int err = xattr_get(ip, name, ours, sizeof(ours), &size);
	ssize_t kernel = lgetxattr(path, name, kernels, sizeof(kernels));

	if ((err == 0) != (kernel >= 0))
		fail_msg("%s of %s: %d, the kernel says %zd", name, path, err, kernel);
	if (err == 0) {
		assert_int_equal(size, kernel);
		assert_memory_equal(ours, kernels, size);
	}
}

static void compare_times(const struct uext4_stat *ours, const struct stat *st,
			  const struct timespec times[2])
{
	if (times[0].tv_nsec < 1000000000) {
		assert_int_equal(ours->atime.sec, st->st_atim.tv_sec);
		assert_int_equal(ours->atime.nsec, st->st_atim.tv_nsec);
	}
	if (times[1].tv_nsec < 1000000000) {
		assert_int_equal(ours->mtime.sec, st->st_mtim.tv_sec);
		assert_int_equal(ours->mtime.nsec, st->st_mtim.tv_nsec);
	}
}

static void compare(struct inode *ip, const char *path, const struct op *op, int err)
{
	static const char *const names[] = { "user.a", "trusted.b", "security.capability",
					     "system.posix_acl_access" };
	struct uext4_stat ours;
	struct stat st;
	uint32_t flags;

	inode_stat(ip, &ours);
	assert_int_equal(lstat(path, &st), 0);
	if (ours.mode != st.st_mode || ours.uid != st.st_uid || ours.gid != st.st_gid)
		fail_msg("%s after %d: %o %u:%u, with the kernel %o %u:%u", path, op->kind,
			 ours.mode, ours.uid, ours.gid, st.st_mode, st.st_uid, st.st_gid);
	if (S_ISREG(st.st_mode) && op->node != CHR)
		assert_int_equal(ours.size, st.st_size);
	if (op->kind == TIMES && err == 0)
		compare_times(&ours, &st, op->times);
	if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
		assert_int_equal(kernel_flags(path, 0, false, &flags), 0);
		assert_int_equal(ours.flags, flags);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		compare_xattr(ip, path, names[i]);
}

/* Such files are not truncated where the kernel does it too: see kernel_truncate(). */
static bool is_inline(const struct rig *rig)
{
	return geom_has_incompat(&rig->fs->geom, EXT4_FEATURE_INCOMPAT_INLINE_DATA);
}

/* One change; @at: where the kernel has its copy, or NULL. */
static void compare_once(struct rig *rig, const char *at, unsigned number)
{
	struct op op = random_op();
	struct inode *ip = rig->nodes[op.node];
	char path[192];
	int err, kernel;

	if (!is_possible(&op) || (op.kind == TRUNCATE && at && is_inline(rig)))
		return;
	err = engine_apply(ip, &op);
	if (!at)
		return;
	snprintf(path, sizeof(path), "%s/%s", at, node_names[op.node]);
	kernel = kernel_apply(path, &op);
	/*
	 * Setting what is set: the kernel takes flags that it masks itself, of data inside the
	 * inode, for a change.
	 */
	if (err == 0 && kernel == -EPERM && op.kind == FLAGS && (op.flags & FS_IMMUTABLE_FL) &&
	    inode_has_flag(ip, EXT4_INLINE_DATA_FL))
		return;
	if (err != kernel)
		fail_msg("change %u of %s, kind %d, flags %#x, %s: %d (%s), the kernel says %d",
			 number, node_names[op.node], op.kind, op.flags, op.name, err, diag_text(),
			 kernel);
	compare(ip, path, &op, err);
}

/* Where the kernel does not mount the image (quota, or no privileges) e2fsck alone judges. */
static void compare_with_kernel(const char *options)
{
	char copy[300], at[160];
	bool is_mounted;
	struct rig rig;

	make_image(&rig, options);
	snprintf(copy, sizeof(copy), "%s.copy", rig.path);
	snprintf(at, sizeof(at), "%s/mnt", scratch);
	assert_int_equal(run("cp %s %s && mkdir -p %s", rig.path, copy, at), 0);
	is_mounted = geteuid() == 0 &&
		     run("mount -o loop,acl,user_xattr %s %s 2>/dev/null", copy, at) == 0;
	if (!is_mounted)
		print_message("without the kernel: %s\n", options);
	open_rig(&rig);
	for (unsigned i = 0; i < rounds; i++)
		compare_once(&rig, is_mounted ? at : NULL, i);
	if (is_mounted)
		assert_int_equal(run("umount %s", at), 0);
	close_rig(&rig);
}

static void results_are_the_kernels(void **state)
{
	compare_with_kernel("-t ext4 -b 4096 -I 256");
	compare_with_kernel("-t ext4 -b 1024 -I 128");
	compare_with_kernel("-t ext4 -b 1024 -I 512 -O inline_data");
	compare_with_kernel("-t ext4 -b 1024 -I 256 -O quota,project,ea_inode");
}

/* ---- what has no system call ----------------------------------------------------------------- */

static void assert_time(struct uext4_time t, int64_t sec, uint32_t nsec)
{
	assert_int_equal(t.sec, sec);
	assert_int_equal(t.nsec, nsec);
}

static void times_are_restored(void **state)
{
	static const struct {
		int64_t asked, got;
	} table[] = {
		{ 0, 0 },
		{ -1, -1 },
		{ INT32_MAX, INT32_MAX },
		{ INT64_C(0x80000000), INT64_C(0x80000000) },
		{ INT64_C(0x37fffffff), INT64_C(0x37fffffff) },
		{ INT64_C(0x380000000), INT64_C(0x37fffffff) },
		{ INT32_MIN, INT32_MIN },
		{ INT64_C(-0x80000001), INT32_MIN },
	};
	struct uext4_stat st;
	struct rig rig;

	make_image(&rig, "-t ext4 -b 4096 -I 256");
	open_rig(&rig);
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		struct uext4_attr attr = { .valid = UEXT4_ATTR_ATIME | UEXT4_ATTR_MTIME |
						    UEXT4_ATTR_CTIME | UEXT4_ATTR_CRTIME };
		uint32_t nsec = table[i].asked == table[i].got ? 999999999 : 0;

		attr.atime = attr.mtime = attr.ctime = attr.crtime =
			(struct uext4_time){ .sec = table[i].asked, .nsec = 999999999 };
		assert_int_equal(attr_set(rig.nodes[FILE1], &attr), 0);
		inode_stat(rig.nodes[FILE1], &st);
		assert_time(st.atime, table[i].got, nsec);
		assert_time(st.mtime, table[i].got, nsec);
		assert_time(st.ctime, table[i].got, nsec);
		assert_time(st.crtime, table[i].got, nsec);
		attr.mtime.nsec = 1000000000;
		assert_int_equal(attr_set(rig.nodes[FILE1], &attr), -EINVAL);
	}
	close_rig(&rig);
}

static void generations_change_where_nothing_hangs_on_them(void **state)
{
	const struct uext4_attr attr = { .valid = UEXT4_ATTR_GENERATION, .generation = 4711 };
	struct uext4_stat st;
	struct rig rig;

	make_image(&rig, "-t ext4 -b 4096");
	open_rig(&rig);
	assert_int_equal(attr_set(rig.nodes[FILE1], &attr), -EOPNOTSUPP);
	close_rig(&rig);
	make_image(&rig, "-t ext4 -b 4096 -O ^metadata_csum");
	open_rig(&rig);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(attr_set(rig.nodes[i ? DIR1 : FILE1], &attr), 0);
		inode_stat(rig.nodes[i ? DIR1 : FILE1], &st);
		assert_int_equal(st.generation, 4711);
	}
	close_rig(&rig);
}

/* For the kernel this takes a privilege that the tests may not have. */
static void data_goes_through_the_journal_on_demand(void **state)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_FLAGS };
	struct uext4_stat st;
	struct rig rig;

	make_image(&rig, "-t ext4 -b 4096");
	open_rig(&rig);
	for (unsigned i = 0; i < 2; i++) {
		attr.flags = EXT4_EXTENTS_FL | (i ? 0 : EXT4_JOURNAL_DATA_FL);
		assert_int_equal(attr_set(rig.nodes[FILE1], &attr), 0);
		assert_int_equal(attr_set(rig.nodes[DIR1], &attr), 0);
		inode_stat(rig.nodes[FILE1], &st);
		assert_int_equal(st.flags, attr.flags);
	}
	attr.flags = EXT4_JOURNAL_DATA_FL;
	assert_int_equal(attr_set(rig.nodes[FIFO], &attr), -EOPNOTSUPP);
	close_rig(&rig);
}

/* An old inode without room for a project gets it. */
static void projects_are_set(void **state)
{
	const struct uext4_attr attr = { .valid = UEXT4_ATTR_PROJID, .projid = 42 };
	struct uext4_stat st;
	struct rig rig;

	make_image(&rig, "-t ext4 -b 1024 -I 256 -O quota,project");
	assert_int_equal(
		run("debugfs -w -R 'set_inode_field file2 extra_isize 4' %s >/dev/null 2>&1",
		    rig.path),
		0);
	open_rig(&rig);
	for (unsigned i = 0; i < NODES; i++) {
		assert_int_equal(attr_set(rig.nodes[i], &attr), 0);
		inode_stat(rig.nodes[i], &st);
		assert_int_equal(st.projid, 42);
	}
	close_rig(&rig);
}

/* ---- together or not at all ------------------------------------------------------------------ */

static void one_refusal_refuses_all(void **state)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_MODE | UEXT4_ATTR_UID | UEXT4_ATTR_MTIME,
				   .mode = 0600,
				   .uid = 77 };
	struct uext4_stat before, after;
	struct rig rig;

	make_image(&rig, "-t ext4 -b 4096 -I 256");
	open_rig(&rig);
	inode_stat(rig.nodes[FILE1], &before);
	for (unsigned i = 0; i < 6; i++) {
		struct uext4_attr more = attr;
		int expected = -EOPNOTSUPP;

		switch (i) {
		case 0:
			more.valid |= UEXT4_ATTR_FLAGS;
			more.flags = EXT4_DIRSYNC_FL | EXT4_EXTENTS_FL;
			break;
		case 1:
			more.valid |= UEXT4_ATTR_FLAGS; /* no extents any more */
			break;
		case 2:
			more.valid |= UEXT4_ATTR_PROJID;
			more.projid = 5;
			break;
		case 3:
			more.valid |= UEXT4_ATTR_GID;
			more.gid = UINT32_MAX;
			expected = -EINVAL;
			break;
		case 4:
			more.valid |= 1u << 30;
			expected = -EINVAL;
			break;
		default:
			more.valid |= UEXT4_ATTR_SIZE;
			more.size = UINT64_MAX / 2;
			expected = -EFBIG;
		}
		assert_int_equal(attr_set(rig.nodes[FILE1], &more), expected);
		inode_stat(rig.nodes[FILE1], &after);
		assert_memory_equal(&before, &after, sizeof(before));
	}
	attr.valid |= UEXT4_ATTR_SIZE;
	assert_int_equal(attr_set(rig.nodes[DIR1], &attr), -EISDIR);
	assert_int_equal(attr_set(rig.nodes[FIFO], &attr), -EINVAL);
	close_rig(&rig);
}

static void take_all(struct uext4_fs *fs, struct blk_run *runs, size_t max, size_t *ret_count)
{
	const struct balloc_request rq = { .count = 4096, .flags = BALLOC_ROOT | BALLOC_META };

	*ret_count = 0;
	while (balloc_alloc(fs, &rq, &runs[*ret_count]) == 0)
		assert_true(++*ret_count < max);
}

/* A1: the size cannot be had, so all the rest is taken back. */
static void a_size_that_fails_takes_the_rest_back(void **state)
{
	static struct blk_run runs[20000];
	struct uext4_attr attr = { .valid = UEXT4_ATTR_MODE | UEXT4_ATTR_UID | UEXT4_ATTR_GID |
					    UEXT4_ATTR_FLAGS | UEXT4_ATTR_KILL_PRIV |
					    UEXT4_ATTR_SIZE,
				   .mode = 0640,
				   .uid = 5,
				   .gid = 6,
				   .flags = EXT4_NODUMP_FL,
				   .size = 5000 };
	struct uext4_stat before, after;
	uint8_t acl[2][64], got[64];
	size_t acl_size[2], written, count, size;
	uint64_t offset;
	struct inode *ip;
	struct rig rig;

	make_image(&rig, "-t ext4 -b 4096 -I 512 -O inline_data");
	open_rig(&rig);
	ip = rig.nodes[FILE1];
	assert_int_equal(file_write(ip, "some data", 9, 0, 0, &written, &offset), 0);
	assert_int_equal(attr_xattr_set(ip, "security.capability", capability, 20, 0), 0);
	assert_int_equal(
		attr_xattr_set(ip, "system.posix_acl_access", acl_value, sizeof(acl_value), 0), 0);
	assert_int_equal(ip->state, INODE_INLINE);
	take_all(rig.fs, runs, ARRAY_SIZE(runs), &count);
	inode_stat(ip, &before);
	assert_int_equal(
		xattr_get(ip, "system.posix_acl_access", acl[0], sizeof(acl[0]), &acl_size[0]), 0);

	assert_int_equal(attr_set(ip, &attr), -ENOSPC);
	inode_stat(ip, &after);
	assert_int_equal(after.mode, before.mode);
	assert_int_equal(after.uid, before.uid);
	assert_int_equal(after.gid, before.gid);
	assert_int_equal(after.flags, before.flags);
	assert_int_equal(after.size, before.size);
	assert_int_equal(
		xattr_get(ip, "system.posix_acl_access", acl[1], sizeof(acl[1]), &acl_size[1]), 0);
	assert_int_equal(acl_size[0], acl_size[1]);
	assert_memory_equal(acl[0], acl[1], acl_size[0]);
	assert_int_equal(xattr_get(ip, "security.capability", got, sizeof(got), &size), 0);

	for (size_t i = 0; i < count; i++)
		balloc_cancel(rig.fs, &runs[i], false);
	assert_int_equal(attr_set(ip, &attr), 0);
	inode_stat(ip, &after);
	assert_int_equal(after.mode & 07777, 0640);
	assert_int_equal(after.uid, 5);
	assert_int_equal(after.size, 5000);
	assert_int_equal(xattr_get(ip, "security.capability", got, sizeof(got), &size), -ENODATA);
	close_rig(&rig);
}

/* A2 */
static void times_stay_behind_a_size(void **state)
{
	const struct uext4_attr attr = { .valid = UEXT4_ATTR_MTIME | UEXT4_ATTR_CTIME |
						  UEXT4_ATTR_SIZE,
					 .mtime = { 1000, 1 },
					 .ctime = { 2000, 2 },
					 .size = 12345 };
	struct uext4_stat st;
	struct rig rig;

	make_image(&rig, "-t ext4 -b 4096");
	open_rig(&rig);
	assert_int_equal(attr_set(rig.nodes[FILE1], &attr), 0);
	inode_stat(rig.nodes[FILE1], &st);
	assert_int_equal(st.size, 12345);
	assert_time(st.mtime, 1000, 1);
	assert_time(st.ctime, 2000, 2);
	close_rig(&rig);
}

/* The file system's own inodes are left alone. */
static void system_inodes_are_refused(void **state)
{
	const struct uext4_attr attr = { .valid = UEXT4_ATTR_MODE, .mode = 0777 };
	struct inode *journal;
	struct rig rig;

	make_image(&rig, "-t ext4 -b 4096");
	open_rig(&rig);
	assert_int_equal(inode_get(rig.fs, 8, &journal), 0);
	assert_int_equal(attr_set(journal, &attr), -EPERM);
	assert_int_equal(attr_xattr_set(journal, "user.a", "x", 1, 0), -EPERM);
	inode_put(journal);
	close_rig(&rig);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(results_are_the_kernels),
		cmocka_unit_test(times_are_restored),
		cmocka_unit_test(generations_change_where_nothing_hangs_on_them),
		cmocka_unit_test(data_goes_through_the_journal_on_demand),
		cmocka_unit_test(projects_are_set),
		cmocka_unit_test(one_refusal_refuses_all),
		cmocka_unit_test(a_size_that_fails_takes_the_rest_back),
		cmocka_unit_test(times_stay_behind_a_size),
		cmocka_unit_test(system_inodes_are_refused),
	};

	seed = argc > 1 ? strtoull(argv[1], NULL, 0) | 1 : random_u64() | 1;
	if (argc > 2)
		rounds = (unsigned)strtoul(argv[2], NULL, 0);
	print_message("seed %" PRIu64 ", %u rounds\n", seed, rounds);
	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
