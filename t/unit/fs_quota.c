/* SPDX-License-Identifier: MIT */
/*
 * fs/quota: accounts are exact, on disk and in memory, and limits hold, on images by mke2fs.
 *
 *  - Records of thousands of ids, near and far from each other, are made, and found again after the
 *    image was closed; e2fsck and our verifier have nothing to say of the tree.
 *  - Limits: a table of what may be added to what, and what becomes of the grace time.
 *  - Files at random: owners that create, write, cut, punch, change hands, carry attributes and go;
 *    afterwards usage is what e2fsck and the verifier count, and nothing is promised any more.
 *  - The same with limits in the way: what is refused leaves no trace.
 *  - The same by several threads at once, with owners in common.
 *  - Records are made, and looked for, while charges write into those beside them: also into that
 *    of id 0, which is all zeros but for one byte when this owner uses nothing.
 *  - A hard limit stops writes, creation and chown, and changes nothing else; what was promised
 *    within the limit reaches the disk with all it needs.
 *  - No room for a new record, and the Nth allocation failing: nothing has changed.
 *
 * Usage: fs_quota [SEED [STEPS]].
 */
#include "base/base.h"
#include "base/diag.h"
#include "base/mem.h"
#include "fs/balloc.h"
#include "fs/quota_priv.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static _Thread_local uint64_t seed = 1;
static unsigned steps = 700; /* on each image */
static char scratch[128];

static uint64_t rnd(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * UINT64_C(2685821657736338717);
}

/* ---- images ---------------------------------------------------------------------------------- */

static const struct recipe {
	const char *name;
	unsigned mib;
	const char *options;
} recipes[] = {
	{ "1k", 32, "-t ext4 -b 1024 -I 256 -O quota,project" },
	{ "4k-orphan-file", 64, "-t ext4 -b 4096 -I 256 -O quota,project,orphan_file" },
	{ "users-only", 32, "-t ext4 -b 2048 -O quota -E quotatype=usrquota" },
	{ "no-csum-no-journal", 32, "-t ext4 -b 1024 -O quota,^metadata_csum,^has_journal" },
	{ "block-mapped", 32, "-t ext4 -b 1024 -I 256 -O quota,project,^extent,^64bit" },
	{ "bigalloc", 64, "-t ext4 -b 1024 -C 8192 -I 256 -O quota,project,bigalloc" },
	{ "inline-ea-inode", 32, "-t ext4 -b 1024 -I 256 -O quota,project,ea_inode,inline_data" },
};

enum { USERS_ONLY = 2 };

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
	snprintf(scratch, sizeof(scratch), "%s/uext4-quota-XXXXXX",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state)
{
	return run("rm -rf %s", scratch);
}

struct rig {
	const struct recipe *recipe;
	char path[256];
	bool limited; /* owners meet limits */
	struct uext4_fs *fs;
};

/* What @call did not do. */
static void must(const struct rig *rig, int err, const char *call)
{
	if (err < 0)
		fail_msg("%s: %s: %d %s", rig->recipe->name, call, err, uext4_last_error());
}

#define MUST(rig, call) must(rig, call, #call)

/* What a limit may refuse. */
#define MAY(rig, call) may(rig, call, #call)

static bool may(const struct rig *rig, int err, const char *call)
{
	if (err == -EDQUOT && rig->limited)
		return false;
	must(rig, err, call);
	return true;
}

static void open_fs(struct rig *rig)
{
	const struct uext4_open_options options = { .size = sizeof(options),
						    .flags = UEXT4_OPEN_WRITE };

	MUST(rig, uext4_open(rig->path, &options, &rig->fs));
}

static void make(struct rig *rig, const struct recipe *recipe)
{
	*rig = (struct rig){ .recipe = recipe };
	snprintf(rig->path, sizeof(rig->path), "%s/%s.img", scratch, recipe->name);
	unlink(rig->path);
	if (run("mke2fs -F -q %s %s %uM >/dev/null 2>&1", recipe->options, rig->path,
		recipe->mib) != 0) {
		print_message("no mke2fs that makes %s\n", recipe->name);
		skip();
	}
	open_fs(rig);
}

static void close_fs(struct rig *rig)
{
	MUST(rig, uext4_close(rig->fs));
	rig->fs = NULL;
}

static void on_problem(void *arg, const char *text)
{
	print_message("%s: %s\n", (const char *)arg, text);
}

/* Closes it; both verifiers agree that all is well. */
static void end(struct rig *rig)
{
	struct uext4_check_options options = { .size = sizeof(options), .problem = on_problem };
	struct uext4_check_result result;
	struct uext4_fs *fs;

	close_fs(rig);
	options.arg = rig->path;
	MUST(rig, uext4_open(rig->path, NULL, &fs));
	MUST(rig, uext4_check(fs, &options, &result));
	assert_int_equal(result.problems, 0);
	MUST(rig, uext4_close(fs));
	if (run("e2fsck -fn %s >%s/e2fsck.out 2>&1", rig->path, scratch) != 0) {
		run("cat %s/e2fsck.out", scratch);
		fail_msg("%s: e2fsck complains", rig->recipe->name);
	}
}

static struct dquot *dquot_of(struct rig *rig, unsigned type, uint32_t id)
{
	struct quota *q = rig->fs->quota;
	struct dquot *dq;

	mutex_lock(&q->lock);
	dq = xarray_find(&q->dquots[type], id);
	mutex_unlock(&q->lock);
	return dq;
}

/* ---- records --------------------------------------------------------------------------------- */

enum { IDS = 1200 };

static uint32_t some_id(unsigned i)
{
	static const uint32_t special[] = { 0, 1, 255, 256, 65535, 65536, 0x7fffffff, 0xfffffffe };

	if (i < ARRAY_SIZE(special))
		return special[i];
	switch (rnd() % 3) {
	case 0: return (uint32_t)(rnd() % 3000);
	case 1: return (uint32_t)(rnd() % 3 << 24 | rnd() % 70000);
	default: return (uint32_t)rnd();
	}
}

static void records_of(const struct recipe *recipe)
{
	static uint32_t ids[IDS];
	static struct {
		blk_t blk;
		uint32_t offset;
	} places[IDS];
	uint64_t size;
	struct rig rig;

	make(&rig, recipe);
	for (unsigned i = 0; i < IDS; i++) {
		struct quota_owner owner = { { some_id(i), 0, 0 } };
		const struct dquot *dq;

		ids[i] = owner.id[0];
		MUST(&rig, quota_prepare(rig.fs, &owner));
		dq = dquot_of(&rig, 0, ids[i]);
		places[i].blk = dq->buf->blk;
		places[i].offset = dq->offset;
	}
	size = rig.fs->quota->file[0].ip->size;
	end(&rig);

	open_fs(&rig);
	for (unsigned i = 0; i < IDS; i++) {
		struct quota_owner owner = { { ids[i], 0, 0 } };
		const struct dquot *dq;

		MUST(&rig, quota_prepare(rig.fs, &owner));
		dq = dquot_of(&rig, 0, ids[i]);
		assert_int_equal(dq->buf->blk, places[i].blk);
		assert_int_equal(dq->offset, places[i].offset);
	}
	assert_int_equal(rig.fs->quota->file[0].ip->size, size); /* nothing was made anew */
	close_fs(&rig);
	/* Its own library reads as many. */
	if (run("debugfs -R 'list_quota user' %s 2>/dev/null | tail -n +2 | wc -l >%s/count",
		rig.path, scratch) == 0)
		assert_int_equal(run("test $(cat %s/count) -gt %d", scratch, IDS / 2), 0);
	unlink(rig.path);
}

static void records_are_made_and_found(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
		records_of(&recipes[i]);
}

/* ---- limits ---------------------------------------------------------------------------------- */

static uint32_t create(struct rig *rig, const char *name, uint32_t uid, uint32_t mode, int *ret_err)
{
	const struct uext4_new new = { .mode = mode, .uid = uid, .gid = uid };
	uint32_t ino = 0;

	*ret_err = uext4_create(rig->fs, UEXT4_ROOT_INO, name, strlen(name), &new, &ino);
	return ino;
}

/* One change of @blocks in a handle. */
static int charge(struct rig *rig, struct inode *ip, int64_t blocks)
{
	struct handle *h;
	int err;

	MUST(rig, handle_start(rig->fs->log, quota_credits(rig->fs), &h));
	err = quota_charge_blocks(h, ip, blocks);
	MUST(rig, handle_stop(h));
	return err;
}

static uint64_t seconds(void)
{
	int64_t sec;
	uint32_t nsec;

	clock_real(&sec, &nsec);
	return (uint64_t)sec;
}

static void limits_are_those_of_the_kernel(void **state)
{
	enum { PAST = 1, FUTURE = 2, NONE = 0, SET = 3 };
	static const struct {
		unsigned soft, hard, used, add; /* blocks */
		unsigned deadline;
		int err;
		unsigned deadline_after;
	} rows[] = {
		{ 0, 0, 100, 1000, NONE, 0, NONE },   { 0, 10, 9, 1, NONE, 0, NONE },
		{ 0, 10, 9, 2, NONE, -EDQUOT, NONE }, { 0, 10, 20, 1, NONE, -EDQUOT, NONE },
		{ 10, 0, 9, 1, NONE, 0, NONE },	      { 10, 0, 9, 2, NONE, 0, SET },
		{ 10, 0, 11, 1, FUTURE, 0, FUTURE },  { 10, 0, 11, 1, PAST, -EDQUOT, PAST },
		{ 10, 20, 19, 1, FUTURE, 0, FUTURE }, { 10, 20, 19, 2, FUTURE, -EDQUOT, FUTURE },
		{ 10, 20, 5, 1, NONE, 0, NONE },      { 10, 20, 5, 16, NONE, -EDQUOT, NONE },
	};
	struct inode *ip;
	struct dquot *dq;
	struct rig rig;
	uint32_t ino;
	int err;

	make(&rig, &recipes[USERS_ONLY]); /* the account that is set is the only one */
	ino = create(&rig, "file", 7, 0100644, &err);
	MUST(&rig, err);
	MUST(&rig, inode_get(rig.fs, ino, &ip));
	MUST(&rig, quota_load(ip));
	dq = dquot_of(&rig, 0, 7);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const uint64_t bytes = rig.fs->geom.block_size,
			       times[] = { 0, 1, seconds() + 9000 };
		uint64_t before;

		print_message("row %zu\n", i);
		dq->bytes = (struct dquot_account){ .used = rows[i].used * bytes,
						    .soft = rows[i].soft * bytes,
						    .hard = rows[i].hard * bytes,
						    .deadline = times[rows[i].deadline] };
		before = seconds();
		err = charge(&rig, ip, rows[i].add);
		assert_int_equal(err, rows[i].err);
		assert_int_equal(dq->bytes.used,
				 (rows[i].used + (err == 0 ? rows[i].add : 0)) * bytes);
		if (rows[i].deadline_after == SET) {
			assert_true(dq->bytes.deadline >=
				    before + rig.fs->quota->file[0].grace_bytes);
			assert_true(dq->bytes.deadline <=
				    seconds() + rig.fs->quota->file[0].grace_bytes);
		} else {
			assert_int_equal(dq->bytes.deadline, times[rows[i].deadline_after]);
		}
		/* Whoever falls below the soft limit is forgiven. */
		if (dq->bytes.used > 0)
			assert_int_equal(charge(&rig, ip, -(int64_t)(dq->bytes.used / bytes)), 0);
		assert_int_equal(dq->bytes.used, 0);
		assert_int_equal(dq->bytes.deadline, 0);
	}
	dq->bytes = (struct dquot_account){ 0 };
	inode_put(ip);
	end(&rig);
	unlink(rig.path);
}

/* ---- files ----------------------------------------------------------------------------------- */

enum { FILES = 40 };

static const uint32_t owners[] = { 0, 5, 300, 70000, 0xfffffffe };

static uint32_t some_owner(void)
{
	return owners[rnd() % ARRAY_SIZE(owners)];
}

struct world {
	struct rig *rig;
	char prefix;	     /* of its names */
	uint32_t ino[FILES]; /* 0: there is none */
	struct uext4_file *file[FILES];
};

static void name_of(const struct world *w, unsigned i, char name[16])
{
	snprintf(name, 16, "%c-%u", w->prefix, i);
}

static void w_create(struct world *w, unsigned i)
{
	struct uext4_new new = { .mode = 0100644, .uid = some_owner(), .gid = some_owner() };
	char name[16];

	name_of(w, i, name);
	if (rnd() % 8 == 0)
		new.mode = 0040755;
	if (rnd() % 8 == 0) {
		static const char target[] = { [0 ... 499] = 'x' };

		(void)MAY(w->rig,
			  uext4_symlink(w->rig->fs, UEXT4_ROOT_INO, name, strlen(name), target,
					1 + rnd() % sizeof(target), &new, &w->ino[i]));
		return;
	}
	if (!MAY(w->rig,
		 uext4_create(w->rig->fs, UEXT4_ROOT_INO, name, strlen(name), &new, &w->ino[i])))
		return;
	if (new.mode == 0100644)
		MUST(w->rig, uext4_file_open(w->rig->fs, w->ino[i], UEXT4_FILE_WRITE, &w->file[i]));
}

/* An open file goes with its last close, which may come later. */
static void w_remove(struct world *w, unsigned i)
{
	char name[16];

	name_of(w, i, name);
	if (w->file[i]) {
		MUST(w->rig, uext4_unlink(w->rig->fs, UEXT4_ROOT_INO, name, strlen(name)));
		if (rnd() % 2 == 0)
			MUST(w->rig, uext4_sync(w->rig->fs));
		uext4_file_close(w->file[i]);
	} else if (uext4_unlink(w->rig->fs, UEXT4_ROOT_INO, name, strlen(name)) == -EISDIR) {
		MUST(w->rig, uext4_rmdir(w->rig->fs, UEXT4_ROOT_INO, name, strlen(name)));
	}
	w->ino[i] = 0;
	w->file[i] = NULL;
}

static void w_write(struct world *w, unsigned i)
{
	static _Thread_local uint8_t bytes[40000];
	size_t len = 1 + rnd() % (rnd() % 2 ? 100 : sizeof(bytes)), done;

	memset(bytes, (int)i + 1, sizeof(bytes));
	if (MAY(w->rig, uext4_pwrite(w->file[i], bytes, len, rnd() % (rnd() % 4 ? 200000 : 3000000),
				     &done)))
		assert_true(done == len || w->rig->limited);
}

static void w_space(struct world *w, unsigned i)
{
	static const uint32_t kinds[] = { 0, UEXT4_FALLOC_KEEP_SIZE,
					  UEXT4_FALLOC_KEEP_SIZE | UEXT4_FALLOC_PUNCH_HOLE,
					  UEXT4_FALLOC_ZERO_RANGE };
	struct uext4_attr attr = { .valid = UEXT4_ATTR_SIZE, .size = rnd() % 300000 };
	int err;

	if (rnd() % 2) {
		(void)MAY(w->rig, uext4_setattr(w->rig->fs, w->ino[i], &attr));
		return;
	}
	err = uext4_fallocate(w->file[i], kinds[rnd() % ARRAY_SIZE(kinds)], rnd() % 200000,
			      1 + rnd() % 100000);
	if (err != -EOPNOTSUPP)
		(void)MAY(w->rig, err);
}

static void w_owner(struct world *w, unsigned i)
{
	struct uext4_attr attr = { .valid = UEXT4_ATTR_UID | UEXT4_ATTR_GID,
				   .uid = some_owner(),
				   .gid = some_owner(),
				   .projid = some_owner() };

	if (geom_has_ro_compat(&w->rig->fs->geom, EXT4_FEATURE_RO_COMPAT_PROJECT))
		attr.valid |= UEXT4_ATTR_PROJID;
	(void)MAY(w->rig, uext4_setattr(w->rig->fs, w->ino[i], &attr));
}

static void w_attribute(struct world *w, unsigned i)
{
	static _Thread_local uint8_t value[5000];
	bool large = geom_has_incompat(&w->rig->fs->geom, EXT4_FEATURE_INCOMPAT_EA_INODE);
	size_t size = rnd() % (rnd() % 2 ? 60 : large ? sizeof(value) : 700);
	char name[16];
	int err;

	snprintf(name, sizeof(name), "user.%u", (unsigned)(rnd() % 3));
	memset(value, (int)(rnd() % 3), sizeof(value)); /* some are shared */
	if (rnd() % 3 == 0)
		err = uext4_xattr_remove(w->rig->fs, w->ino[i], name);
	else
		err = uext4_xattr_set(w->rig->fs, w->ino[i], name, value, size, 0);
	if (err != -ENODATA && err != -ENOSPC && err != -EPERM) /* user.* of a symlink */
		(void)MAY(w->rig, err);
}

static void step(struct world *w)
{
	unsigned i = (unsigned)(rnd() % FILES);

	if (w->ino[i] == 0) {
		w_create(w, i);
		return;
	}
	switch (rnd() % 12) {
	case 0: w_remove(w, i); break;
	case 1:
	case 2: w_owner(w, i); break;
	case 3:
	case 4: w_attribute(w, i); break;
	case 5:
		if (rnd() % 4 == 0)
			MUST(w->rig, uext4_sync(w->rig->fs));
		break;
	case 6:
	case 7:
		if (w->file[i])
			w_space(w, i);
		break;
	default:
		if (w->file[i])
			w_write(w, i);
	}
}

static void nothing_is_promised(struct rig *rig)
{
	struct quota *q = rig->fs->quota;

	for (unsigned type = 0; type < QUOTA_TYPES; type++) {
		for (size_t i = 0; i < ARRAY_SIZE(owners); i++) {
			struct dquot *dq = dquot_of(rig, type, owners[i]);

			if (q->file[type].ip && dq)
				assert_int_equal(dq->bytes.promised, 0);
		}
	}
}

/* Tight ones, in memory: what is refused depends on nothing on disk. */
static void set_limits(struct rig *rig)
{
	rig->limited = true;
	for (size_t i = 1; i < ARRAY_SIZE(owners); i++) {
		const struct quota_owner owner = { { owners[i], owners[i], owners[i] } };

		MUST(rig, quota_prepare(rig->fs, &owner));
		for (unsigned type = 0; type < QUOTA_TYPES; type++) {
			struct dquot *dq = dquot_of(rig, type, owners[i]);

			if (!dq)
				continue;
			dq->bytes.hard = 30000 << rnd() % 4;
			dq->inodes.hard = 3 + rnd() % 6;
		}
	}
}

static void files_of(const struct recipe *recipe, bool limited)
{
	struct world w = { .prefix = 'f' };
	struct rig rig;

	print_message("%s\n", recipe->name);
	make(&rig, recipe);
	w.rig = &rig;
	if (limited)
		set_limits(&rig);
	for (unsigned i = 0; i < steps; i++)
		step(&w);
	MUST(&rig, uext4_sync(rig.fs));
	nothing_is_promised(&rig);
	for (unsigned i = 0; i < FILES; i++)
		uext4_file_close(w.file[i]);
	end(&rig);

	/* And all of it goes again, as others see it. */
	open_fs(&rig);
	for (unsigned i = 0; i < FILES; i++) {
		w.file[i] = NULL;
		if (w.ino[i] != 0) {
			int err = uext4_file_open(rig.fs, w.ino[i], UEXT4_FILE_WRITE, &w.file[i]);

			if (err != -EISDIR && err != -EINVAL)
				MUST(&rig, err);
			w_remove(&w, i);
		}
	}
	for (size_t i = 1; i < ARRAY_SIZE(owners); i++) {
		const struct quota_owner owner = { { owners[i], owners[i], owners[i] } };

		MUST(&rig, quota_prepare(rig.fs, &owner));
		assert_int_equal(dquot_of(&rig, 0, owners[i])->bytes.used, 0);
		assert_int_equal(dquot_of(&rig, 0, owners[i])->inodes.used, 0);
	}
	end(&rig);
	unlink(rig.path);
}

static void usage_is_exact(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
		files_of(&recipes[i], false);
}

static void usage_is_exact_at_limits(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
		files_of(&recipes[i], true);
}

/* ---- threads --------------------------------------------------------------------------------- */

enum { THREADS = 4 };

struct worker {
	struct world world;
	struct thread *thread;
	uint64_t seed;
};

static void work(void *arg)
{
	struct worker *worker = arg;

	seed = worker->seed;
	for (unsigned i = 0; i < steps; i++)
		step(&worker->world);
	for (unsigned i = 0; i < FILES; i++)
		uext4_file_close(worker->world.file[i]);
}

/* Files are each thread's own, owners are everybody's. */
static void threads_share_owners(void **state)
{
	struct worker workers[THREADS] = { 0 };
	struct rig rig;

	make(&rig, &recipes[1]);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i].world.rig = &rig;
		workers[i].world.prefix = (char)('a' + i);
		workers[i].seed = rnd();
		MUST(&rig, thread_create("worker", work, &workers[i], &workers[i].thread));
	}
	for (unsigned i = 0; i < THREADS; i++)
		thread_join(workers[i].thread);
	MUST(&rig, uext4_sync(rig.fs));
	nothing_is_promised(&rig);
	end(&rig);
	unlink(rig.path);
}

struct charger {
	struct rig *rig;
	struct inode *ip;
	atomic_bool stop;
};

static void charge_and_discharge(void *arg)
{
	struct charger *charger = arg;

	while (!atomic_load(&charger->stop)) {
		MUST(charger->rig, charge(charger->rig, charger->ip, 1));
		MUST(charger->rig, charge(charger->rig, charger->ip, -1));
	}
}

static void records_are_made_beside_charges(void **state)
{
	struct quota_owner owner = { { 0 } };
	struct dquot_account bytes, inodes;
	struct rig rig;
	struct charger charger = { .rig = &rig };
	struct thread *thread;
	struct dquot *nobody;

	make(&rig, &recipes[USERS_ONLY]);
	MUST(&rig, inode_get(rig.fs, UEXT4_ROOT_INO, &charger.ip));
	MUST(&rig, quota_load(charger.ip));
	nobody = dquot_of(&rig, 0, 0);
	bytes = nobody->bytes;
	inodes = nobody->inodes;
	nobody->bytes.used = nobody->inodes.used = 0;

	MUST(&rig, thread_create("charger", charge_and_discharge, &charger, &thread));
	for (unsigned i = 1; i < IDS; i++) {
		owner.id[0] = i;
		MUST(&rig, quota_prepare(rig.fs, &owner));
	}
	for (unsigned i = 0; i < IDS; i++) {
		const struct dquot *dq = dquot_of(&rig, 0, i);
		uint32_t offset;
		struct buf *buf;

		MUST(&rig, quota_file_find(&rig.fs->quota->file[0], i, &buf, &offset));
		assert_ptr_equal(buf, dq->buf);
		assert_int_equal(offset, dq->offset);
		buf_put(buf);
	}
	atomic_store(&charger.stop, true);
	thread_join(thread);

	nobody->bytes = bytes;
	nobody->inodes = inodes;
	MUST(&rig, charge(&rig, charger.ip, 0)); /* writes the record */
	inode_put(charger.ip);
	end(&rig);
	unlink(rig.path);
}

/* ---- at the limit ---------------------------------------------------------------------------- */

static void a_hard_limit_stops_and_breaks_nothing(void **state)
{
	static uint8_t bytes[300000];
	struct uext4_attr attr = { .valid = UEXT4_ATTR_UID, .uid = 9 };
	struct uext4_file *file;
	struct dquot *dq;
	struct rig rig;
	uint32_t ino, other;
	size_t done;
	int err;

	make(&rig, &recipes[0]);
	ino = create(&rig, "file", 9, 0100644, &err);
	MUST(&rig, err);
	dq = dquot_of(&rig, 0, 9);
	dq->bytes.hard = 100 << 10;
	dq->inodes.hard = 2;

	/* Every other block: the map needs blocks too, which no limit keeps from their place. */
	MUST(&rig, uext4_file_open(rig.fs, ino, UEXT4_FILE_WRITE, &file));
	for (unsigned i = 0; i < 100; i++)
		MUST(&rig, uext4_pwrite(file, bytes, 1024, i * 2048, &done));
	err = uext4_pwrite(file, bytes, 1024, 500000, &done);
	assert_int_equal(err, -EDQUOT);
	MUST(&rig, uext4_fsync(file, 0));
	assert_true(dq->bytes.used >= 100 << 10);
	assert_int_equal(dq->bytes.promised, 0);
	assert_int_equal(uext4_fallocate(file, 0, 600000, 50000), -EDQUOT);
	/* What lies there already may be overwritten. */
	MUST(&rig, uext4_pwrite(file, bytes, 1024, 2048, &done));

	(void)create(&rig, "second", 9, 0100644, &err);
	MUST(&rig, err);
	(void)create(&rig, "third", 9, 0100644, &err);
	assert_int_equal(err, -EDQUOT);
	(void)create(&rig, "third", 9, 0040755, &err);
	assert_int_equal(err, -EDQUOT);
	other = create(&rig, "other", 10, 0100644, &err);
	MUST(&rig, err);
	assert_int_equal(uext4_setattr(rig.fs, other, &attr), -EDQUOT);
	dq->inodes.hard = 0;
	MUST(&rig, uext4_setattr(rig.fs, other, &attr)); /* it uses no blocks */
	assert_int_equal(dq->inodes.used, 3);

	uext4_file_close(file);
	MUST(&rig, uext4_unlink(rig.fs, UEXT4_ROOT_INO, "file", 4));
	assert_int_equal(dq->bytes.used, 0);
	MUST(&rig, uext4_file_open(rig.fs, other, UEXT4_FILE_WRITE, &file));
	MUST(&rig, uext4_pwrite(file, bytes, sizeof(bytes), 0, &done));
	assert_in_range(done, 50 << 10, 100 << 10); /* as far as it goes */
	uext4_file_close(file);
	end(&rig);
	unlink(rig.path);
}

/* ---- failures -------------------------------------------------------------------------------- */

static void no_room_for_a_record(void **state)
{
	static uint8_t bytes[65536];
	struct quota_owner owner = { { 0 } };
	uint64_t size, offset = 0;
	struct uext4_file *file;
	struct rig rig;
	uint32_t ino;
	size_t done;
	int err;

	make(&rig, &recipes[0]);
	ino = create(&rig, "file", 0, 0100644, &err);
	MUST(&rig, err);
	MUST(&rig, uext4_file_open(rig.fs, ino, UEXT4_FILE_WRITE, &file));
	while (uext4_pwrite(file, bytes, sizeof(bytes), offset, &done) == 0 && done > 0)
		offset += done;
	MUST(&rig, uext4_fsync(file, 0));
	size = rig.fs->quota->file[0].ip->size;
	for (uint32_t i = 1; i < 1000; i++) {
		owner.id[0] = i << 20;
		err = quota_prepare(rig.fs, &owner);
		if (err < 0)
			break;
	}
	assert_int_equal(err, -ENOSPC);
	assert_null(dquot_of(&rig, 0, owner.id[0]));
	assert_true(rig.fs->quota->file[0].ip->size >= size);
	uext4_file_close(file);
	MUST(&rig, uext4_unlink(rig.fs, UEXT4_ROOT_INO, "file", 4));
	MUST(&rig, uext4_sync(rig.fs));
	MUST(&rig, quota_prepare(rig.fs, &owner));
	end(&rig);
	unlink(rig.path);
}

static void the_nth_allocation_fails(void **state)
{
	struct quota_owner owner = { { 77, 77, 77 } };
	struct rig rig;

	make(&rig, &recipes[0]);
	for (uint64_t nth = 1;; nth++) {
		int err;

		(void)mem_fail_nth(nth);
		err = quota_prepare(rig.fs, &owner);
		if (mem_fail_nth(0) < nth && err == 0)
			break;
		if (err < 0)
			assert_int_equal(err, -ENOMEM);
		else
			owner = (struct quota_owner){ { 77 + (uint32_t)nth * 300, 77, 77 } };
		assert_true(nth < 1000);
	}
	end(&rig);
	unlink(rig.path);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_are_made_and_found),
		cmocka_unit_test(limits_are_those_of_the_kernel),
		cmocka_unit_test(usage_is_exact),
		cmocka_unit_test(usage_is_exact_at_limits),
		cmocka_unit_test(threads_share_owners),
		cmocka_unit_test(records_are_made_beside_charges),
		cmocka_unit_test(a_hard_limit_stops_and_breaks_nothing),
		cmocka_unit_test(no_room_for_a_record),
		cmocka_unit_test(the_nth_allocation_fails),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	if (argc > 2)
		steps = (unsigned)strtoul(argv[2], NULL, 0);
	print_message("seed %" PRIu64 "\n", seed);
	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
