/* SPDX-License-Identifier: MIT */
/*
 * fs/xattr*, ea_inode, acl, inline: attributes and data inside inodes as they change, on images of
 * many layouts made by mke2fs.
 *
 *  - Rows of attributes in memory: random changes against a model; values that share bytes, by
 *    damage, never lead outside.
 *  - Random changes of attributes of all sizes, and of data inside the same inodes, against a
 *    model; then e2fsck has nothing to say, and debugfs and the kernel read the same.  The kernel,
 *    doing the same to a copy, gives the same results.
 *  - Inodes with the same attributes share blocks and values, up to the limit; after all is deleted
 *    the counts of free blocks and inodes are what they were.
 *  - No space, and the Nth allocation of memory failing: an error, and nothing has changed.
 *  - A file stays inside its inode exactly as long as one the kernel writes; attributes take only
 *    the room that its size does not need.
 *  - After a crash between the steps of a large value, and with damaged values, others find an
 *    image that they can finish.
 *  - Inodes with few fields get more, where no attribute has to leave for it.
 *  - ACLs: results, modes and what is inherited are those of the kernel.
 *  - Threads that change inodes which share what they have.
 *
 * Usage: fs_xattr [SEED [ROUNDS]]
 */
#include "base/base.h"
#include "base/diag.h"
#include "base/mem.h"
#include "fs/balloc.h"
#include "fs/xattr_priv.h"
#include "ops/ops.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

static uint64_t seed = 1;
static unsigned rounds = 1200; /* on each image */
static char scratch[128];

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

static uint64_t rnd(void)
{
	return next_random(&seed);
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
	snprintf(scratch, sizeof(scratch), "%s/uext4-xattr-XXXXXX",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state)
{
	run("umount %s/mnt 2>/dev/null", scratch); /* of a test that failed */
	return run("rm -rf %s", scratch);
}

/* ---- rows in memory -------------------------------------------------------------------------- */

#define AREA_MAX 1024u
#define ROW_NAMES 12u

struct row_model {
	bool is_there;
	uint32_t size;
	uint32_t inum;
	uint8_t value[AREA_MAX];
};

static struct xattr_key row_key(char name[16], unsigned i)
{
	unsigned len = 1 + i % 7;

	memset(name, 'a' + (int)i, 15);
	return (struct xattr_key){ (uint8_t)(1 + i % 3), name, len };
}

static uint32_t model_bytes(const struct row_model *model)
{
	uint32_t bytes = 4;

	for (unsigned i = 0; i < ROW_NAMES; i++) {
		if (!model[i].is_there)
			continue;
		bytes += EXT4_XATTR_LEN(1 + i % 7);
		bytes += model[i].inum ? 0 : (model[i].size + 3) & ~3u;
	}
	return bytes;
}

static void compare_row(const struct xattr_area *area, const struct row_model *model)
{
	const struct xattr_row row = xattr_area_row(area);
	const struct ext4_xattr_entry *before = NULL;
	unsigned count = 0;
	char name[16];

	for (unsigned i = 0; i < ROW_NAMES; i++) {
		const struct xattr_key key = row_key(name, i);
		const struct ext4_xattr_entry *e = xattr_row_find(&row, &key);

		assert_int_equal(e != NULL, model[i].is_there);
		count += model[i].is_there;
		if (!e)
			continue;
		assert_int_equal(le32_get(e->e_value_size), model[i].size);
		assert_int_equal(le32_get(e->e_value_inum), model[i].inum);
		if (!model[i].inum)
			assert_memory_equal(area->base + le16_get(e->e_value_offs), model[i].value,
					    model[i].size);
	}
	xattr_row_for_each(entry, &row)
	{
		count--;
		if (area->is_block && before)
			assert_true(
				before->e_name_index < entry->e_name_index ||
				(before->e_name_index == entry->e_name_index &&
				 (before->e_name_len < entry->e_name_len ||
				  (before->e_name_len == entry->e_name_len &&
				   memcmp(before->e_name, entry->e_name, entry->e_name_len) < 0))));
		before = entry;
	}
	assert_int_equal(count, 0);
}

/* Returns how often something did not fit. */
static unsigned random_rows(bool is_block)
{
	static uint8_t memory[2][AREA_MAX];
	static struct row_model model[ROW_NAMES];
	struct xattr_area area = { .first = is_block ? 32 : 0,
				   .end = 64 + (uint32_t)(rnd() % (AREA_MAX / 4 - 16)) * 4,
				   .is_block = is_block };
	struct geom g = { .block_size = area.end, .inodes = 1000, .first_ino = 11 };
	unsigned refused = 0;

	g.incompat = EXT4_FEATURE_INCOMPAT_EA_INODE;
	memset(model, 0, sizeof(model));
	memset(memory, 0, sizeof(memory));
	area.base = memory[0];
	for (unsigned i = 0; i < 400; i++) {
		unsigned which = (unsigned)(rnd() % ROW_NAMES);
		struct row_model saved = model[which], *m = &model[which];
		struct xattr_area to = area;
		struct xattr_edit edit = { 0 };
		uint32_t room = 0;
		char name[16];
		int err;

		to.base = memory[area.base == memory[0]];
		edit.key = row_key(name, which);
		edit.remove = m->is_there && rnd() % 3 == 0;
		assert_int_equal(
			xattr_area_room(&area, &edit.key, &room),
			model_bytes(model) + (m->is_there ? 0 : EXT4_XATTR_LEN(1 + which % 7)) -
					(m->is_there && !m->inum ? (m->size + 3) & ~3u : 0) <=
				area.end - area.first);
		m->is_there = !edit.remove;
		m->inum = rnd() % 5 == 0 ? 11 + (uint32_t)(rnd() % 900) : 0;
		m->size = m->inum ? 5000 : (uint32_t)(rnd() % (rnd() % 4 ? 24 : 200));
		for (unsigned k = 0; k < m->size && !m->inum; k++)
			m->value[k] = (uint8_t)rnd();
		edit.value = m->value;
		edit.size = m->size;
		edit.value_bytes = m->inum ? 0 : m->size;
		edit.inum = m->inum;
		err = xattr_area_edit(&area, &edit, &to);
		if (edit.remove)
			assert_int_equal(err, 0);
		else
			assert_int_equal(err,
					 model_bytes(model) <= area.end - area.first ? 0 : -ENOSPC);
		if (!edit.remove && !m->inum && err == 0)
			assert_true(room >= m->size);
		if (err < 0) {
			*m = saved;
			refused++;
			continue;
		}
		area = to;
		compare_row(&area, model);
		assert_int_equal(verify_xattr_entries(&g, 1, area.base + area.first, area.base,
						      area.base + area.end),
				 0);
	}
	return refused;
}

static void rows_change_as_the_model(void **state)
{
	unsigned refused = 0;

	for (unsigned i = 0; i < 60; i++)
		refused += random_rows(i % 2);
	assert_true(refused > 0);
}

/* A row whose values share bytes passes the verifier; all of it must not lead outside (R1). */
static void shared_bytes_stay_inside(void **state)
{
	uint8_t from[256] = { 0 }, *to = malloc(256);
	struct xattr_area area = { .base = from, .end = 256 }, out = { .base = to, .end = 256 };
	struct geom g = { .block_size = 256, .inodes = 1000, .first_ino = 11 };
	char name[16];
	uint32_t at = 0;

	for (unsigned i = 0; i < 4; i++) {
		const struct xattr_key key = row_key(name, i);
		struct ext4_xattr_entry *e = (void *)(from + at);

		e->e_name_len = (uint8_t)key.name_len;
		e->e_name_index = key.index;
		e->e_value_offs = le16_make(156);
		e->e_value_size = le32_make(100);
		memcpy(e->e_name, key.name, key.name_len);
		at += EXT4_XATTR_LEN(key.name_len);
	}
	assert_int_equal(verify_xattr_entries(&g, 1, from, from, from + 256), 0);
	for (unsigned i = 0; i < 4; i++) {
		struct xattr_edit edit = { .remove = true };
		uint32_t room;

		edit.key = row_key(name, i);
		assert_int_equal(xattr_area_edit(&area, &edit, &out), -EFSCORRUPTED);
		assert_false(xattr_area_room(&area, &edit.key, &room));
		assert_false(xattr_area_shift(&area, 128));
	}
	free(to);
}

/* ---- images ---------------------------------------------------------------------------------- */

#define FILES 18u
#define DIRS 3u
#define LINKS 3u
#define NODES (FILES + DIRS + LINKS)
#define LONG_TARGET                                                                     \
	"a/target/of/one/hundred/bytes/that/is/too/long/for/the/sixty/bytes/of/i_block" \
	"/and/not/for/an/inode"

static const struct recipe {
	const char *name;
	unsigned kib;
	const char *options;
	bool is_sample; /* the kernel looks at it too, which takes a second */
} recipes[] = {
	{ "4k-256", 16 * 1024, "-t ext4 -b 4096 -I 256", true },
	{ "1k-128", 16 * 1024, "-t ext4 -b 1024 -I 128", true },
	{ "1k-1024", 16 * 1024, "-t ext4 -b 1024 -I 1024", false },
	{ "4k-512-ea_inode", 16 * 1024, "-t ext4 -b 4096 -I 512 -O ea_inode", true },
	{ "1k-128-ea_inode", 16 * 1024, "-t ext4 -b 1024 -I 128 -O ea_inode -J size=4", true },
	{ "1k-256-ea_inode-csum_seed", 16 * 1024,
	  "-t ext4 -b 1024 -O ea_inode,metadata_csum_seed,^has_journal", false },
	{ "no-csum", 16 * 1024, "-t ext4 -b 1024 -O ^metadata_csum,ea_inode", false },
	{ "64k", 128 * 1024, "-t ext4 -b 65536 -I 256 -O ^has_journal", false },
	{ "64k-ea_inode", 128 * 1024, "-t ext4 -b 65536 -I 256 -O ea_inode,^has_journal", false },
	{ "inline-256", 16 * 1024, "-t ext4 -b 4096 -I 256 -O inline_data", true },
	{ "inline-1024-ea_inode", 16 * 1024,
	  "-t ext4 -b 1024 -I 1024 -O inline_data,ea_inode -J size=4", true },
	{ "inline-512-no-csum", 16 * 1024,
	  "-t ext4 -b 1024 -I 512 -O inline_data,^metadata_csum,^has_journal", false },
	{ "bigalloc-ea_inode", 64 * 1024, "-t ext4 -b 1024 -O bigalloc,ea_inode -C 8192 -J size=8",
	  true },
	{ "ext2-no-ext_attr", 16 * 1024, "-t ext2 -b 1024 -O ^ext_attr -I 128", false },
	{ "ext3", 16 * 1024, "-t ext3 -b 1024 -I 256", true },
	{ "no-extents-ea_inode", 16 * 1024, "-t ext4 -b 1024 -O ^extent,^64bit,ea_inode", false },
	{ "quota-ea_inode", 16 * 1024, "-t ext4 -b 1024 -I 256 -O quota,project,ea_inode -J size=4",
	  false },
	{ "orphan-file", 16 * 1024, "-t ext4 -b 1024 -O orphan_file,ea_inode", false },
};

struct rig {
	const struct recipe *recipe;
	char path[256];
	struct uext4_fs *fs;
	struct inode *nodes[NODES];
};

static int no_fill(struct mapping *m, struct page *const *pages, size_t count)
{
	return -EIO;
}

static const struct mapping_ops no_files = { .fill = no_fill };

static void node_name(unsigned i, char name[16])
{
	snprintf(name, 16, "%c%02u", i < FILES ? 'f' : i < FILES + DIRS ? 'd' : 'l', i);
}

static void make_image(struct rig *rig, const struct recipe *recipe)
{
	char name[16];

	memset(rig, 0, sizeof(*rig));
	rig->recipe = recipe;
	if (run("command -v mke2fs >/dev/null && command -v e2fsck >/dev/null") != 0)
		skip();
	snprintf(rig->path, sizeof(rig->path), "%s/%s.img", scratch, recipe->name);
	assert_int_equal(run("rm -rf %s/tree && mkdir %s/tree", scratch, scratch), 0);
	for (unsigned i = 0; i < NODES; i++) {
		node_name(i, name);
		assert_int_equal(run(i < FILES		? "touch %s/tree/%s"
				     : i < FILES + DIRS ? "mkdir %s/tree/%s"
							: "ln -s target %s/tree/%s",
				     scratch, name),
				 0);
		/* One that is too long for i_block; where data may be inside, it is. */
		if (i == NODES - 1)
			assert_int_equal(run("ln -sf %s %s/tree/%s", LONG_TARGET, scratch, name),
					 0);
		/* Owners, for what they are charged. */
		run("chown -h %u:%u %s/tree/%s 2>/dev/null", 1000 + i % 3, 2000 + i % 2, scratch,
		    name);
	}
	assert_int_equal(run("rm -f %s && mke2fs -q -F -E nodiscard %s -d %s/tree %s %u "
			     ">/dev/null 2>&1",
			     rig->path, recipe->options, scratch, rig->path, recipe->kib),
			 0);
	/* mke2fs counts what it makes the file system with, and not what it copies. */
	if (strstr(recipe->options, "quota"))
		assert_true(run("e2fsck -fy %s >/dev/null 2>&1", rig->path) <= 1);
}

static int open_image(struct rig *rig, bool write)
{
	const struct fs_options options = { .cache_bytes = 16 << 20,
					    .nolock = true,
					    .write = write };
	struct inode *root;
	struct dev *dev;
	char name[16];
	uint32_t ino;
	int err;

	err = dev_file_open(rig->path, 0, 0, DEV_FILE_NOLOCK | (write ? DEV_FILE_WRITE : 0), &dev);
	if (err == 0)
		err = fs_open(dev, &options, &no_files, &rig->fs);
	if (err < 0)
		return err;
	assert_int_equal(inode_get(rig->fs, 2, &root), 0);
	for (unsigned i = 0; i < NODES; i++) {
		node_name(i, name);
		if (dir_find(root, name, 3, &ino) < 0 ||
		    inode_get(rig->fs, ino, &rig->nodes[i]) < 0)
			fail_msg("%s: %s: %s", rig->recipe->name, name, diag_text());
	}
	inode_put(root);
	return 0;
}

static void open_rig(struct rig *rig, bool write)
{
	int err = open_image(rig, write);

	if (err < 0)
		fail_msg("%s: %s", rig->recipe->name, diag_text());
}

static void put_nodes(struct rig *rig)
{
	for (unsigned i = 0; i < NODES; i++) {
		inode_put(rig->nodes[i]);
		rig->nodes[i] = NULL;
	}
}

static void close_rig(struct rig *rig)
{
	put_nodes(rig);
	if (fs_close(rig->fs) < 0)
		fail_msg("%s: %s", rig->recipe->name, diag_text());
	rig->fs = NULL;
}

static void check_image(const struct rig *rig)
{
	int status = run("e2fsck -fn %s >%s/fsck 2>&1", rig->path, scratch);

	if (status != 0) {
		run("cat %s/fsck >&2", scratch);
		fail_msg("%s: e2fsck says %d", rig->recipe->name, status);
	}
}

static bool has_inline(const struct rig *rig)
{
	return geom_has_incompat(&rig->fs->geom, EXT4_FEATURE_INCOMPAT_INLINE_DATA);
}

/* What deletes itself is done, and what it freed is free. */
static void settle(struct uext4_fs *fs)
{
	assert_int_equal(inode_reap(fs), 0);
	assert_int_equal(txn_log_sync(fs->log), 0);
}

/* ---- the model ------------------------------------------------------------------------------- */

#define NAMES 12u
#define VALUE_MAX 65536u

/* Values come from a pool, so that inodes come to have the same ones. */
struct value {
	unsigned pool;
	uint32_t size;
};

static const char *const names[NAMES] = {
	"user.a",
	"user.bb",
	"user.some-longer-name",
	"trusted.a",
	"trusted.overlay.opaque",
	"security.selinux",
	"security.test",
	"user.\xc3\xa4\xff",
	"user.x1",
	"user.x2",
	"user.x3",
	"user.01234567890123456789012345678901234567890123456789012345678901234567890123456789"
	"012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
	"01234567890123456789012345678901234567890123456789012345678901234567890123456789",
};

struct node_model {
	bool is_there[NAMES];
	struct value value[NAMES];
	unsigned data_pool; /* of what lies inside the inode */
	uint32_t data_size;
};

static void fill_value(struct value v, uint8_t *to)
{
	uint64_t state = 0x9e3779b97f4a7c15u * (v.pool + 1);

	for (uint32_t i = 0; i < v.size; i++)
		to[i] = (uint8_t)(next_random(&state) >> 32);
}

static struct value random_value(const struct geom *g)
{
	bool has_large = geom_has_incompat(g, EXT4_FEATURE_INCOMPAT_EA_INODE);
	uint32_t max;

	switch (rnd() % 10) {
	case 0: max = 1; break;
	case 1:
	case 2:
	case 3:
	case 4: max = 40; break;
	case 5:
	case 6: max = 300; break;
	case 7:
	case 8: max = (uint32_t)min_u64(g->block_size + 8, VALUE_MAX + 1); break;
	default: max = has_large ? VALUE_MAX + 1 : 100; break;
	}
	/* Few sizes, so that values are the same. */
	return (struct value){ (unsigned)(rnd() % 3),
			       rnd() % 2 ? max - 1 : (uint32_t)(rnd() % max) };
}

static bool name_fits(unsigned node, unsigned name)
{
	return node < FILES + DIRS || strncmp(names[name], "user.", 5) != 0;
}

static uint8_t *scratch_value(void)
{
	static uint8_t value[VALUE_MAX];

	return value;
}

static void compare_node(const struct rig *rig, struct inode *ip, const struct node_model *m)
{
	static char list[65536];
	static uint8_t got[VALUE_MAX];
	size_t size, expected = 0;

	for (unsigned i = 0; i < NAMES; i++) {
		int err = xattr_get(ip, names[i], got, sizeof(got), &size);

		if (!m->is_there[i]) {
			assert_int_equal(err, -ENODATA);
			continue;
		}
		if (err < 0)
			fail_msg("%s: inode %u: %s", rig->recipe->name, ip->ino, diag_text());
		assert_int_equal(size, m->value[i].size);
		fill_value(m->value[i], scratch_value());
		assert_memory_equal(got, scratch_value(), size);
		expected += strlen(names[i]) + 1;
	}
	assert_int_equal(xattr_list(ip, list, sizeof(list), &size), 0);
	assert_int_equal(size, expected);
	if (ip == rig->nodes[NODES - 1]) {
		assert_int_equal(symlink_read(ip, list, sizeof(list), &size), 0);
		assert_int_equal(size, strlen(LONG_TARGET));
		assert_memory_equal(list, LONG_TARGET, size);
	}
	if (inode_is_reg(ip) && ip->state == INODE_INLINE) {
		struct value data = { m->data_pool, m->data_size };

		assert_int_equal(ip->size, m->data_size);
		assert_int_equal(inline_read(ip, 0, got, sizeof(got)), 0);
		fill_value(data, scratch_value());
		assert_memory_equal(got, scratch_value(), m->data_size);
		for (size_t i = m->data_size; i < sizeof(got); i++)
			assert_int_equal(got[i], 0);
	}
}

/* ---- random changes -------------------------------------------------------------------------- */

/* What was done, for the kernel to do the same. */
struct op {
	unsigned node, name;
	bool remove;
	struct value value;
	uint32_t flags;
	int result;
};

static struct op random_op(const struct rig *rig)
{
	struct op op = { .node = (unsigned)(rnd() % NODES), .remove = rnd() % 3 == 0 };

	do
		op.name = (unsigned)(rnd() % NAMES);
	while (!name_fits(op.node, op.name));
	op.value = random_value(&rig->fs->geom);
	/*
	 * Symlinks have no values in inodes of their own: the kernel makes such, and e2fsck, which
	 * takes a short target for a block then, wants to clear them.
	 */
	if (op.node >= FILES + DIRS && op.value.size > 100)
		op.value.size = 100;
	if (!op.remove && rnd() % 5 == 0)
		op.flags = rnd() % 2 ? XATTR_SET_CREATE : XATTR_SET_REPLACE;
	return op;
}

static int apply_op(struct inode *ip, struct node_model *m, struct op *op)
{
	bool is_there = m->is_there[op->name];
	int expected = 0;

	fill_value(op->value, scratch_value());
	inode_lock(ip, INODE_CHILD);
	op->result = xattr_set(ip, names[op->name], op->remove ? NULL : scratch_value(),
			       op->remove ? 0 : op->value.size, op->flags);
	inode_unlock(ip);
	if (is_there && (op->flags & XATTR_SET_CREATE))
		expected = -EEXIST;
	else if (!is_there && (op->remove || (op->flags & XATTR_SET_REPLACE)))
		expected = -ENODATA;
	if (expected == 0 && op->result == -ENOSPC && !op->remove)
		return op->result; /* the kernel says later whether that is right */
	if (op->result != expected)
		fail_msg("inode %u: %s: %d, not %d (%s)", ip->ino, names[op->name], op->result,
			 expected, diag_text());
	if (op->result == 0) {
		m->is_there[op->name] = !op->remove;
		m->value[op->name] = op->value;
	}
	return op->result;
}

/* Data inside the inode as a writer and its flush change it. */
static void change_inline_locked(struct handle *h, struct inode *ip, struct node_model *m)
{
	uint32_t max = 0, capacity = 0, wanted;
	int err;

	assert_int_equal(inline_capacity_max(ip, &max), 0);
	if (ip->state == INODE_INLINE) {
		assert_int_equal(inline_capacity(ip, &capacity), 0);
		assert_true(capacity >= ip->size && max >= capacity);
	}
	wanted = (uint32_t)(rnd() % (max + 20));
	if (rnd() % 4 == 0)
		wanted = (uint32_t)(rnd() % 20); /* leaves slack */
	err = inline_make_room(h, ip, wanted);
	if (wanted > max || max == 0) {
		assert_int_equal(err, -ENOSPC);
		return;
	}
	assert_int_equal(err, 0);
	assert_int_equal(ip->state, INODE_INLINE);
	m->data_pool = (unsigned)(rnd() % 3);
	m->data_size = wanted;
	fill_value((struct value){ m->data_pool, wanted }, scratch_value());
	ip->size = wanted;
	assert_int_equal(inline_store(h, ip, scratch_value(), wanted), 0);
}

static void change_inline(struct inode *ip, struct node_model *m)
{
	struct handle *h;

	if (ip->state != INODE_INLINE && ip->state != INODE_EMPTY)
		return;
	inode_lock(ip, INODE_CHILD);
	assert_int_equal(handle_start(ip->fs->log, 4, &h), 0);
	rwlock_write(&ip->xattr_lock);
	if (ip->state == INODE_INLINE && rnd() % 30 == 0) {
		ip->size = 0;
		inode_set_disk_size(ip, 0);
		assert_int_equal(inline_remove(h, ip), 0);
		m->data_size = 0;
		assert_int_equal(ip->state, INODE_BLOCKS);
	} else {
		change_inline_locked(h, ip, m);
	}
	rwlock_write_unlock(&ip->xattr_lock);
	assert_int_equal(handle_stop(h), 0);
	inode_unlock(ip);
}

static void check_debugfs(const struct rig *rig, const struct node_model *model)
{
	char name[16], line[8192];
	unsigned node = (unsigned)(rnd() % FILES), count = 0, expected = 0;
	FILE *f;

	node_name(node, name);
	snprintf(line, sizeof(line), "debugfs -R 'ea_list %s' %s 2>/dev/null", name, rig->path);
	f = popen(line, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		count += strchr(line, '(') && line[0] == ' ' && !strstr(line, "system.data");
	assert_int_equal(pclose(f), 0);
	for (unsigned i = 0; i < NAMES; i++)
		expected += model[node].is_there[i];
	assert_int_equal(count, expected);
	for (unsigned i = 0; i < NAMES; i++) {
		struct stat st;

		if (!model[node].is_there[i] || strchr(names[i], '\xff'))
			continue;
		assert_int_equal(run("debugfs -R 'ea_get -f %s/value %s %s' %s >/dev/null 2>&1",
				     scratch, name, names[i], rig->path),
				 0);
		snprintf(line, sizeof(line), "%s/value", scratch);
		assert_int_equal(stat(line, &st), 0);
		assert_int_equal(st.st_size, model[node].value[i].size);
	}
}

/* ---- the kernel ------------------------------------------------------------------------------ */

static bool can_mount(void)
{
	return geteuid() == 0 &&
	       run("grep -qw ext4 /proc/filesystems && test -e /dev/loop-control") == 0;
}

static bool mount_image(const char *path, char at[160])
{
	snprintf(at, 160, "%s/mnt", scratch);
	return run("mkdir -p %s && mount -o loop,user_xattr,acl %s %s 2>/dev/null", at, path, at) ==
	       0;
}

static void unmount(const char *at)
{
	assert_int_equal(run("umount %s", at), 0);
}

static void kernel_reads_the_same(const struct rig *rig, const struct node_model *model)
{
	static char list[65536];
	static uint8_t got[VALUE_MAX];
	char at[160], path[192], name[16];

	if (!mount_image(rig->path, at)) {
		print_message("%s: not mounted\n", rig->recipe->name);
		return;
	}
	for (unsigned node = 0; node < NODES; node++) {
		ssize_t expected = 0, size;

		node_name(node, name);
		snprintf(path, sizeof(path), "%s/%s", at, name);
		for (unsigned i = 0; i < NAMES; i++) {
			const struct node_model *m = &model[node];

			size = lgetxattr(path, names[i], got, sizeof(got));
			if (!m->is_there[i]) {
				assert_int_equal(size, -1);
				continue;
			}
			assert_int_equal(size, m->value[i].size);
			fill_value(m->value[i], scratch_value());
			assert_memory_equal(got, scratch_value(), size);
			expected += (ssize_t)strlen(names[i]) + 1;
		}
		assert_int_equal(llistxattr(path, list, sizeof(list)), expected);
		if (node == NODES - 1) {
			assert_int_equal(readlink(path, list, sizeof(list)), strlen(LONG_TARGET));
			assert_memory_equal(list, LONG_TARGET, strlen(LONG_TARGET));
		}
		if (node < FILES && model[node].data_size > 0) {
			struct value data = { model[node].data_pool, model[node].data_size };
			int fd = open(path, O_RDONLY);

			assert_true(fd >= 0);
			assert_int_equal(read(fd, got, sizeof(got)), data.size);
			close(fd);
			fill_value(data, scratch_value());
			assert_memory_equal(got, scratch_value(), data.size);
		}
	}
	unmount(at);
}

/* @blocks: what each node has in the end. */
static void kernel_does_the_same(const struct rig *rig, const char *copy, const struct op *ops,
				 size_t count, const uint64_t *blocks)
{
	char at[160], path[192], name[16];

	if (!mount_image(copy, at))
		return;
	for (size_t i = 0; i < count; i++) {
		const struct op *op = &ops[i];
		int result, flags = 0;

		node_name(op->node, name);
		snprintf(path, sizeof(path), "%s/%s", at, name);
		fill_value(op->value, scratch_value());
		if (op->flags & XATTR_SET_CREATE)
			flags = XATTR_CREATE;
		if (op->flags & XATTR_SET_REPLACE)
			flags = XATTR_REPLACE;
		if (op->remove)
			result = lremovexattr(path, names[op->name]);
		else
			result = lsetxattr(path, names[op->name], scratch_value(), op->value.size,
					   flags);
		if (result < 0)
			result = -errno;
		if (result != op->result) {
			int status = result;

			unmount(at);
			fail_msg("%s: change %zu: %s of %s, %u bytes: %d, the kernel says %d",
				 rig->recipe->name, i, names[op->name], name, op->value.size,
				 op->result, status);
		}
	}
	for (unsigned node = 0; node < NODES; node++) {
		struct stat st;

		node_name(node, name);
		snprintf(path, sizeof(path), "%s/%s", at, name);
		assert_int_equal(lstat(path, &st), 0);
		if (st.st_blocks != (blkcnt_t)blocks[node]) {
			unmount(at);
			fail_msg("%s: %s has %llu blocks, with the kernel %llu", rig->recipe->name,
				 name, (unsigned long long)blocks[node],
				 (unsigned long long)st.st_blocks);
		}
	}
	unmount(at);
}

/* ---- images under random changes ------------------------------------------------------------- */

static void random_changes(const struct recipe *recipe)
{
	struct node_model *model = calloc(NODES, sizeof(*model));
	struct op *ops = calloc(rounds, sizeof(*ops));
	uint64_t blocks[NODES];
	unsigned refused = 0;
	char copy[300];
	struct rig rig;
	bool is_inline;

	make_image(&rig, recipe);
	snprintf(copy, sizeof(copy), "%s.copy", rig.path);
	assert_int_equal(run("cp %s %s", rig.path, copy), 0);
	open_rig(&rig, true);
	is_inline = has_inline(&rig);
	for (unsigned i = 0; i < rounds; i++) {
		ops[i] = random_op(&rig);
		refused += apply_op(rig.nodes[ops[i].node], &model[ops[i].node], &ops[i]) ==
			   -ENOSPC;
		if (is_inline && rnd() % 2) {
			unsigned node = (unsigned)(rnd() % FILES);

			change_inline(rig.nodes[node], &model[node]);
		}
		assert_int_equal(inode_reap(rig.fs), 0);
		if (i % 200 == 199) {
			for (unsigned node = 0; node < NODES; node++)
				compare_node(&rig, rig.nodes[node], &model[node]);
			close_rig(&rig);
			check_image(&rig);
			open_rig(&rig, true);
		}
	}
	for (unsigned node = 0; node < NODES; node++)
		compare_node(&rig, rig.nodes[node], &model[node]);
	if (!geom_has_incompat(&rig.fs->geom, EXT4_FEATURE_INCOMPAT_EA_INODE) && rounds > 500)
		assert_true(refused > 0);
	close_rig(&rig);
	check_image(&rig);
	check_debugfs(&rig, model);
	open_rig(&rig, false);
	for (unsigned node = 0; node < NODES; node++) {
		struct uext4_stat st;

		compare_node(&rig, rig.nodes[node], &model[node]);
		inode_stat(rig.nodes[node], &st);
		blocks[node] = st.blocks;
	}
	close_rig(&rig);
	if (recipe->is_sample && can_mount()) {
		kernel_reads_the_same(&rig, model);
		/* With data in the inodes the room for attributes is another one there. */
		if (!is_inline)
			kernel_does_the_same(&rig, copy, ops, rounds, blocks);
	}
	run("rm -f %s %s", rig.path, copy);
	free(model);
	free(ops);
}

static void changes_are_right_on_every_image(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(recipes); i++)
		random_changes(&recipes[i]);
}

/* ---- what is shared -------------------------------------------------------------------------- */

/* An inode without a name, as O_TMPFILE makes it: it goes with the reference. */
static struct inode *new_inode(struct uext4_fs *fs, uint16_t mode)
{
	const struct inode_create attrs = { .mode = mode };
	struct inode *root, *ip;
	struct handle *h;

	assert_int_equal(inode_get(fs, 2, &root), 0);
	assert_int_equal(handle_start(fs->log, INODE_CREATE_CREDITS + ORPHAN_CREDITS, &h), 0);
	if (inode_create(h, root, &attrs, &ip) < 0)
		fail_msg("%s", diag_text());
	inode_set_links(ip, 0);
	assert_int_equal(orphan_add(h, ip), 0);
	assert_int_equal(inode_store(h, ip), 0);
	inode_unlock(ip);
	assert_int_equal(handle_stop(h), 0);
	inode_put(root);
	return ip;
}

static int set(struct inode *ip, const char *name, struct value v)
{
	uint8_t *value = malloc(v.size + 1u);
	int err;

	assert_non_null(value);
	fill_value(v, value);
	inode_lock(ip, INODE_CHILD);
	err = xattr_set(ip, name, value, v.size, 0);
	inode_unlock(ip);
	free(value);
	return err;
}

static int unset(struct inode *ip, const char *name)
{
	int err;

	inode_lock(ip, INODE_CHILD);
	err = xattr_set(ip, name, NULL, 0, 0);
	inode_unlock(ip);
	return err;
}

static const struct recipe *recipe_named(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(recipes); i++)
		if (strcmp(recipes[i].name, name) == 0)
			return &recipes[i];
	return NULL;
}

struct counts {
	uint64_t clusters;
	uint32_t inodes;
};

static struct counts count_free(struct uext4_fs *fs)
{
	settle(fs);
	return (struct counts){ balloc_free_clusters(fs), ialloc_free_inodes(fs) };
}

static void assert_used(struct uext4_fs *fs, struct counts before, uint64_t clusters,
			uint32_t inodes)
{
	struct counts now = count_free(fs);

	assert_int_equal(before.clusters - now.clusters, clusters);
	assert_int_equal(before.inodes - now.inodes, inodes);
}

#define MANY 1500u

/* 1,500 inodes with the same attributes need two blocks: 1,024 share one. */
static void blocks_are_shared_up_to_the_limit(void **state)
{
	static struct inode *many[MANY];
	struct counts before;
	uint32_t made = 0;
	struct rig rig;

	make_image(&rig, recipe_named("1k-128"));
	open_rig(&rig, true);
	before = count_free(rig.fs);
	for (made = 0; made < MANY; made++) {
		many[made] = new_inode(rig.fs, 0100644);
		assert_int_equal(set(many[made], "user.same", (struct value){ 0, 100 }), 0);
		assert_int_equal(set(many[made], "trusted.same", (struct value){ 1, 0 }), 0);
	}
	assert_used(rig.fs, before, 2, MANY);
	assert_int_equal(set(many[0], "user.own", (struct value){ 2, 7 }), 0);
	assert_used(rig.fs, before, 3, MANY);
	assert_int_equal(set(many[1], "user.own", (struct value){ 2, 7 }), 0);
	assert_used(rig.fs, before, 3, MANY);
	assert_int_equal(unset(many[0], "user.own"), 0);
	assert_int_equal(unset(many[1], "user.own"), 0);
	assert_used(rig.fs, before, 2, MANY);
	for (unsigned i = 0; i < MANY; i++)
		inode_put(many[i]);
	assert_used(rig.fs, before, 0, 0);
	close_rig(&rig);
	check_image(&rig);
}

/* A value that many have is one inode, from the body and from blocks; it goes with the last. */
static void large_values_are_shared(void **state)
{
	static const char *const on[] = { "1k-128-ea_inode", "4k-512-ea_inode",
					  "bigalloc-ea_inode" };

	for (unsigned r = 0; r < ARRAY_SIZE(on); r++) {
		struct inode *many[50], *file;
		struct counts before;
		uint64_t value_clusters, cluster;
		struct rig rig;
		char at[160];

		make_image(&rig, recipe_named(on[r]));
		open_rig(&rig, true);
		cluster = rig.fs->geom.block_size * rig.fs->geom.cluster_ratio;
		value_clusters = div_round_up(60000, cluster);
		file = rig.nodes[0];
		before = count_free(rig.fs);
		for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
			many[i] = new_inode(rig.fs, 0100644);
			assert_int_equal(set(many[i], "user.large", (struct value){ 0, 60000 }), 0);
			assert_int_equal(set(many[i], "user.id", (struct value){ i, 30 }), 0);
		}
		assert_true(before.inodes - count_free(rig.fs).inodes == ARRAY_SIZE(many) + 1);
		assert_int_equal(set(file, "user.large", (struct value){ 0, 60000 }), 0);
		for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
			inode_put(many[i]);
		/* The file's own block, where the entry does not fit into the inode. */
		assert_used(rig.fs, before, value_clusters + (rig.fs->geom.inode_size == 128), 1);
		close_rig(&rig);
		check_image(&rig);
		if (can_mount() && mount_image(rig.path, at)) {
			char path[200];

			snprintf(path, sizeof(path), "%s/f00", at);
			assert_int_equal(getxattr(path, "user.large", scratch_value(), VALUE_MAX),
					 60000);
			assert_int_equal(removexattr(path, "user.large"), 0);
			unmount(at);
			check_image(&rig);
			open_rig(&rig, true);
			assert_used(rig.fs, before, 0, 0);
			close_rig(&rig);
		}
	}
}

/* ---- what fails ------------------------------------------------------------------------------ */

struct snapshot {
	uint8_t raw[65536];
	char list[4096];
	size_t list_size;
	uint64_t blocks;
};

static void take_snapshot(struct inode *ip, struct snapshot *s)
{
	struct uext4_stat st;

	assert_int_equal(xattr_list(ip, s->list, sizeof(s->list), &s->list_size), 0);
	memcpy(s->raw, ip->raw, ip->fs->geom.inode_size);
	inode_stat(ip, &st);
	s->blocks = st.blocks;
}

static void assert_unchanged(struct inode *ip, const struct snapshot *before)
{
	static struct snapshot now;

	take_snapshot(ip, &now);
	assert_memory_equal(now.raw, before->raw, ip->fs->geom.inode_size);
	assert_int_equal(now.blocks, before->blocks);
	assert_int_equal(now.list_size, before->list_size);
	assert_memory_equal(now.list, before->list, now.list_size);
}

/* Takes every cluster there is, in memory. */
static size_t take_all(struct uext4_fs *fs, struct blk_run **ret_runs)
{
	struct blk_run *runs = calloc(65536, sizeof(*runs));
	struct balloc_request rq = { .count = 4096, .flags = BALLOC_ROOT | BALLOC_META };
	size_t count = 0;

	assert_non_null(runs);
	while (balloc_alloc(fs, &rq, &runs[count]) == 0)
		assert_true(++count < 65536);
	*ret_runs = runs;
	return count;
}

static void no_space_changes_nothing(void **state)
{
	static const char *const on[] = { "4k-256", "1k-128", "4k-512-ea_inode", "1k-1024" };
	static struct snapshot before;

	for (unsigned r = 0; r < ARRAY_SIZE(on); r++) {
		struct inode *shared, *other, *plain;
		struct blk_run *runs;
		struct rig rig;
		size_t count;
		bool has_body;
		int err;

		make_image(&rig, recipe_named(on[r]));
		open_rig(&rig, true);
		has_body = rig.fs->geom.inode_size > 128;
		shared = rig.nodes[0];
		other = rig.nodes[1];
		plain = rig.nodes[2];
		assert_int_equal(set(shared, "user.same", (struct value){ 0, 900 }), 0);
		assert_int_equal(set(other, "user.same", (struct value){ 0, 900 }), 0);
		count = take_all(rig.fs, &runs);

		take_snapshot(shared, &before); /* a copy of its block would be needed */
		if (rig.fs->geom.inode_size < 1024)
			assert_int_equal(set(shared, "user.same", (struct value){ 1, 890 }),
					 -ENOSPC);
		assert_unchanged(shared, &before);
		take_snapshot(plain, &before);
		assert_int_equal(set(plain, "user.a", (struct value){ 0, 930 }), -ENOSPC);
		assert_int_equal(set(plain, "user.large", (struct value){ 0, 9000 }), -ENOSPC);
		assert_int_equal(inode_reap(rig.fs), 0);
		assert_unchanged(plain, &before);
		diag_clear();
		err = set(plain, "user.a", (struct value){ 0, 10 });
		if (err != (has_body ? 0 : -ENOSPC))
			fail_msg("%s: %d: %s", on[r], err, diag_text());
		assert_int_equal(unset(other, "user.same"), 0); /* gives, and needs nothing */

		for (size_t i = 0; i < count; i++)
			balloc_cancel(rig.fs, &runs[i], false);
		free(runs);
		settle(rig.fs);
		assert_int_equal(set(shared, "user.same", (struct value){ 1, 890 }), 0);
		close_rig(&rig);
		check_image(&rig);
	}
}

/* The Nth allocation of memory fails: -ENOMEM, and nothing has changed, or it was not needed. */
static void no_memory_changes_nothing(void **state)
{
	static const char *const on[] = { "1k-128-ea_inode", "4k-512-ea_inode", "inline-256" };
	static struct snapshot before;

	for (unsigned r = 0; r < ARRAY_SIZE(on); r++) {
		struct counts counts;
		struct rig rig;

		make_image(&rig, recipe_named(on[r]));
		open_rig(&rig, true);
		counts = count_free(rig.fs);
		for (unsigned step = 0; step < 7; step++) {
			static const uint32_t sizes[] = { 10, 300, 20000, 300, 0, 900, 20000 };
			struct value v = { step, sizes[step] };
			struct inode *ip = rig.nodes[step % 2];
			bool large = geom_has_incompat(&rig.fs->geom,
						       EXT4_FEATURE_INCOMPAT_EA_INODE);
			int err = -ENOMEM;

			for (uint64_t nth = 1; err == -ENOMEM; nth++) {
				assert_true(nth < 2000);
				take_snapshot(ip, &before);
				mem_fail_nth(nth);
				err = step == 4 ? unset(ip, "user.a") : set(ip, "user.a", v);
				mem_fail_nth(0);
				if (err < 0)
					assert_unchanged(ip, &before);
				assert_int_equal(inode_reap(rig.fs), 0);
			}
			if (err != 0 && !(step == 4 && err == -ENODATA))
				assert_true(err == -ENOSPC && !large && v.size == 20000);
		}
		for (unsigned i = 0; i < 2; i++)
			(void)unset(rig.nodes[i], "user.a");
		assert_used(rig.fs, counts, 0, 0);
		assert_int_equal(txn_log_error(rig.fs->log), 0);
		close_rig(&rig);
		check_image(&rig);
	}
}

static void names_and_sizes_are_judged(void **state)
{
	static const struct {
		const char *name;
		size_t size;
		uint32_t flags;
		int result;
	} table[] = {
		{ "user.", 1, 0, -EINVAL },
		{ "trusted.", 1, 0, -EINVAL },
		{ "user", 1, 0, -EOPNOTSUPP },
		{ "", 1, 0, -ERANGE },
		{ "system.data", 1, 0, -EOPNOTSUPP },
		{ "system.", 1, 0, -EOPNOTSUPP },
		{ "system.other", 1, 0, -EOPNOTSUPP },
		{ "system.richacl", 1, 0, -EOPNOTSUPP },
		{ "nonsense.a", 1, 0, -EOPNOTSUPP },
		{ "user.a", 65537, 0, -E2BIG },
		{ "user.a", 65536, 0, -ENOSPC },
		{ "user.a", 1, XATTR_SET_REPLACE, -ENODATA },
		{ "user.a", 1, XATTR_SET_CREATE, 0 },
		{ "user.a", 1, XATTR_SET_CREATE, -EEXIST },
		{ "user.a", 1, XATTR_SET_REPLACE, 0 },
		{ "gnu.translator", 5, 0, 0 },
	};
	static const uint8_t value[65537];
	struct uext4_stat before, after;
	struct rig rig;
	char name[300];

	make_image(&rig, recipe_named("4k-256"));
	open_rig(&rig, true);
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		inode_lock(rig.nodes[0], INODE_CHILD);
		assert_int_equal(xattr_set(rig.nodes[0], table[i].name, value, table[i].size,
					   table[i].flags),
				 table[i].result);
		inode_unlock(rig.nodes[0]);
	}
	memset(name, 'x', sizeof(name));
	memcpy(name, "user.", 5);
	name[256] = '\0';
	assert_int_equal(set(rig.nodes[0], name, (struct value){ 0, 1 }), -ERANGE);
	name[255] = '\0';
	assert_int_equal(set(rig.nodes[0], name, (struct value){ 0, 1 }), 0);
	/* The same once more is no change. */
	inode_stat(rig.nodes[0], &before);
	assert_int_equal(set(rig.nodes[0], name, (struct value){ 0, 1 }), 0);
	inode_stat(rig.nodes[0], &after);
	assert_int_equal(before.version, after.version);
	close_rig(&rig);
	check_image(&rig);
}

/* A regular file gives away what its size does not need, never more (M12). */
static void inline_data_keeps_its_room(void **state)
{
	struct node_model model = { 0 };
	uint32_t max = 0, now = 0;
	struct inode *ip;
	struct handle *h;
	struct rig rig;

	make_image(&rig, recipe_named("inline-256"));
	open_rig(&rig, true);
	ip = rig.nodes[0];
	inode_lock(ip, INODE_CHILD);
	assert_int_equal(handle_start(rig.fs->log, 4, &h), 0);
	rwlock_write(&ip->xattr_lock);
	assert_int_equal(inline_capacity_max(ip, &max), 0);
	assert_int_equal(inline_make_room(h, ip, max), 0);
	assert_int_equal(inline_make_room(h, ip, max + 1), -ENOSPC);
	ip->size = model.data_size = max - 40;
	fill_value((struct value){ 0, max - 40 }, scratch_value());
	assert_int_equal(inline_store(h, ip, scratch_value(), max - 40), 0);
	rwlock_write_unlock(&ip->xattr_lock);
	assert_int_equal(handle_stop(h), 0);
	inode_unlock(ip);

	/* 40 bytes are to be had: this fits into the inode, */
	assert_int_equal(set(ip, names[0], (struct value){ 0, 8 }), 0);
	assert_int_equal(ip->raw->i_file_acl_lo.raw, 0);
	model.is_there[0] = true;
	model.value[0] = (struct value){ 0, 8 };
	/* and this does not any more. */
	assert_int_equal(set(ip, names[1], (struct value){ 0, 40 }), 0);
	assert_int_not_equal(ip->raw->i_file_acl_lo.raw, 0);
	model.is_there[1] = true;
	model.value[1] = (struct value){ 0, 40 };
	compare_node(&rig, ip, &model);
	rwlock_write(&ip->xattr_lock);
	assert_int_equal(inline_capacity(ip, &now), 0);
	rwlock_write_unlock(&ip->xattr_lock);
	assert_true(now >= ip->size && now < max);
	close_rig(&rig);
	check_image(&rig);
}

/* A file that the kernel writes stays inside its inode exactly up to what we call the most. */
static void inline_room_is_the_kernels(void **state)
{
	static const char *const on[] = { "inline-256", "inline-1024-ea_inode" };

	for (unsigned r = 0; r < ARRAY_SIZE(on); r++) {
		uint32_t max[FILES];
		char at[160], path[200], name[16];
		struct rig rig;

		make_image(&rig, recipe_named(on[r]));
		open_rig(&rig, true);
		for (unsigned i = 0; i < FILES; i++) {
			struct inode *ip = rig.nodes[i];

			for (unsigned k = 0; k < i % 4; k++)
				assert_int_equal(set(ip, names[k],
						     (struct value){ i, (uint32_t)(rnd() % 30) }),
						 0);
			rwlock_write(&ip->xattr_lock);
			assert_int_equal(inline_capacity_max(ip, &max[i]), 0);
			rwlock_write_unlock(&ip->xattr_lock);
		}
		close_rig(&rig);
		check_image(&rig);
		if (!can_mount() || !mount_image(rig.path, at))
			skip();
		for (unsigned i = 0; i < FILES; i++) {
			int fd;

			node_name(i, name);
			snprintf(path, sizeof(path), "%s/%s", at, name);
			fd = open(path, O_WRONLY);
			assert_true(fd >= 0);
			assert_int_equal(write(fd, scratch_value(), max[i] + i % 2),
					 max[i] + i % 2);
			assert_int_equal(fsync(fd), 0);
			close(fd);
		}
		unmount(at);
		check_image(&rig);
		open_rig(&rig, false);
		for (unsigned i = 0; i < FILES; i++)
			if (max[i] >
			    EXT4_I_BLOCK_BYTES) /* with no room behind it the kernel has none */
				assert_int_equal(rig.nodes[i]->state,
						 i % 2 ? INODE_BLOCKS : INODE_INLINE);
		close_rig(&rig);
	}
}

/* The image as a power cut would leave it now: others finish it, and nothing is left. */
static void crash_now(struct rig *rig)
{
	char copy[300], at[160];
	struct rig crashed = *rig;

	assert_int_equal(txn_log_sync(rig->fs->log), 0);
	snprintf(copy, sizeof(copy), "%s.crash", rig->path);
	assert_int_equal(run("cp %s %s", rig->path, copy), 0);
	assert_int_equal(run("cp %s %s.fsck && e2fsck -p %s.fsck >/dev/null 2>&1; test $? -le 1 && "
			     "e2fsck -fn %s.fsck >/dev/null 2>&1",
			     copy, copy, copy, copy),
			 0);
	memcpy(crashed.path, copy, sizeof(crashed.path));
	if (can_mount() && mount_image(copy, at)) {
		unmount(at);
		check_image(&crashed);
		assert_int_not_equal(
			run("dumpe2fs -h %s 2>/dev/null | grep -q 'FS Error count'", copy), 0);
	}
	run("rm -f %s %s.fsck", copy, copy);
}

/* E2: a value that nothing refers to yet, or any more, is an orphan like any other. */
static void a_crash_leaves_ordinary_orphans(void **state)
{
	struct inode *ip, *ea;
	struct counts before;
	struct rig rig;

	make_image(&rig, recipe_named("4k-512-ea_inode"));
	open_rig(&rig, true);
	before = count_free(rig.fs);
	ip = rig.nodes[0];
	fill_value((struct value){ 0, 30000 }, scratch_value());
	inode_lock(ip, INODE_CHILD);
	assert_int_equal(ea_inode_make(ip, scratch_value(), 30000, &ea), 0);
	inode_unlock(ip);
	crash_now(&rig);
	inode_put(ea);
	assert_used(rig.fs, before, 0, 0);

	assert_int_equal(set(ip, "user.a", (struct value){ 0, 30000 }), 0);
	inode_lock(ip, INODE_CHILD);
	assert_int_equal(ea_inode_make(ip, scratch_value(), 30000, &ea), 0);
	inode_unlock(ip);
	assert_true(inode_has_flag(ea, EXT4_EA_INODE_FL)); /* the same one, found */
	assert_int_equal(unset(ip, "user.a"), 0);
	assert_false(inode_has_flag(ea, EXT4_EA_INODE_FL));
	crash_now(&rig);
	/* As long as somebody has it it can be used again. */
	assert_int_equal(set(ip, "user.b", (struct value){ 0, 30000 }), 0);
	inode_put(ea);
	settle(rig.fs);
	assert_int_equal(unset(ip, "user.b"), 0);
	assert_used(rig.fs, before, 0, 0);
	close_rig(&rig);
	check_image(&rig);
}

/* e2fsck does not look at blocks of a symlink whose target is inside: so its target moves out. */
static void a_target_makes_room_for_a_block(void **state)
{
	static struct snapshot before;
	static struct blk_run *runs;
	size_t count;
	struct inode *ip;
	struct rig rig;
	char target[128];
	size_t size;

	make_image(&rig, recipe_named("inline-256"));
	open_rig(&rig, true);
	ip = rig.nodes[NODES - 1];
	assert_int_equal(ip->state, INODE_INLINE);
	assert_int_equal(set(ip, "trusted.a", (struct value){ 0, 0 }), 0); /* fits */
	assert_int_equal(ip->state, INODE_INLINE);
	count = take_all(rig.fs, &runs);
	take_snapshot(ip, &before);
	assert_int_equal(set(ip, "trusted.b", (struct value){ 0, 500 }), -ENOSPC);
	assert_unchanged(ip, &before);
	for (size_t i = 0; i < count; i++)
		balloc_cancel(rig.fs, &runs[i], false);
	free(runs);
	assert_int_equal(set(ip, "trusted.b", (struct value){ 0, 5000 }), -ENOSPC);
	assert_unchanged(ip, &before);
	for (uint64_t nth = 1;; nth++) {
		int err;

		mem_fail_nth(nth);
		err = set(ip, "trusted.b", (struct value){ 0, 500 });
		mem_fail_nth(0);
		assert_int_equal(inode_reap(rig.fs), 0);
		if (err == 0)
			break;
		assert_int_equal(err, -ENOMEM);
		assert_int_equal(symlink_read(ip, target, sizeof(target), &size), 0);
		assert_memory_equal(target, LONG_TARGET, size);
	}
	assert_int_equal(ip->state, INODE_BLOCKS);
	assert_int_equal(txn_log_error(rig.fs->log), 0);
	assert_int_equal(symlink_read(ip, target, sizeof(target), &size), 0);
	assert_memory_equal(target, LONG_TARGET, size);
	close_rig(&rig);
	check_image(&rig);
}

/* An inode goes, whatever became of its values; what is damaged is noted in the superblock. */
static void damage_does_not_stop_a_deletion(void **state)
{
	uint32_t with_value[3], found = 0;
	struct inode *ip;
	struct handle *h;
	struct rig rig;

	make_image(&rig, recipe_named("1k-128-ea_inode"));
	open_rig(&rig, true);
	ip = rig.nodes[0];
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(set(ip, names[i], (struct value){ i, 5000 }), 0);
	for (uint32_t ino = 11; found < 3; ino++) {
		assert_true(ino < 100);
		if (inode_get(rig.fs, ino, &ip) < 0)
			continue;
		if (inode_has_flag(ip, EXT4_EA_INODE_FL))
			with_value[found++] = ino;
		inode_put(ip);
	}
	close_rig(&rig);
	/* Of the three one is not there, and another has too few references. */
	assert_int_equal(
		run("debugfs -w -R 'clri <%u>' %s >/dev/null 2>&1", with_value[0], rig.path), 0);
	assert_int_equal(run("debugfs -w -R 'set_inode_field <%u> version 0' %s >/dev/null 2>&1",
			     with_value[1], rig.path),
			 0);
	open_rig(&rig, true);
	ip = rig.nodes[0];
	inode_lock(ip, INODE_CHILD);
	assert_int_equal(handle_start(rig.fs->log, ORPHAN_CREDITS + 1, &h), 0);
	inode_set_links(ip, 0);
	assert_int_equal(orphan_add(h, ip), 0);
	assert_int_equal(inode_store(h, ip), 0);
	assert_int_equal(handle_stop(h), 0);
	inode_unlock(ip);
	inode_put(ip);
	rig.nodes[0] = NULL;
	assert_int_equal(inode_reap(rig.fs), 0);
	assert_int_equal(txn_log_error(rig.fs->log), 0);
	close_rig(&rig);
	assert_int_equal(run("dumpe2fs -h %s 2>/dev/null | grep -q 'FS Error count'", rig.path), 0);
}

/* ---- ACLs ------------------------------------------------------------------------------------ */

/* Entries as "tag perm id" of the system call's form; -1 ends the list. */
struct acl_text {
	const char *what;
	int version;
	int cut; /* bytes missing at the end */
	struct {
		int tag, perm, id;
	} entries[8];
};

static const struct acl_text acls[] = {
	{ "mode only", 2, 0, { { 1, 7, -1 }, { 4, 5, -1 }, { 32, 1, -1 } } },
	{ "mode only, other bits", 2, 0, { { 1, 6, -1 }, { 4, 0, -1 }, { 32, 4, -1 } } },
	{ "a user",
	  2,
	  0,
	  { { 1, 7, -1 }, { 2, 6, 1000 }, { 4, 5, -1 }, { 16, 7, -1 }, { 32, 0, -1 } } },
	{ "a group",
	  2,
	  0,
	  { { 1, 6, -1 }, { 4, 4, -1 }, { 8, 7, 50 }, { 16, 1, -1 }, { 32, 4, -1 } } },
	{ "users and groups",
	  2,
	  0,
	  { { 1, 7, -1 },
	    { 2, 1, 70000 },
	    { 2, 3, 5 },
	    { 4, 2, -1 },
	    { 8, 0, 0 },
	    { 16, 6, -1 },
	    { 32, 3, -1 } } },
	{ "mask alone", 2, 0, { { 1, 7, -1 }, { 4, 5, -1 }, { 16, 4, -1 }, { 32, 1, -1 } } },
	{ "no mask for a user", 2, 0, { { 1, 7, -1 }, { 2, 6, 1 }, { 4, 5, -1 }, { 32, 0, -1 } } },
	{ "no other", 2, 0, { { 1, 7, -1 }, { 4, 5, -1 } } },
	{ "no group", 2, 0, { { 1, 7, -1 }, { 32, 5, -1 } } },
	{ "no owner", 2, 0, { { 4, 7, -1 }, { 32, 5, -1 } } },
	{ "twice the owner", 2, 0, { { 1, 7, -1 }, { 1, 7, -1 }, { 4, 5, -1 }, { 32, 0, -1 } } },
	{ "wrong order", 2, 0, { { 4, 5, -1 }, { 1, 7, -1 }, { 32, 0, -1 } } },
	{ "behind other", 2, 0, { { 1, 7, -1 }, { 4, 5, -1 }, { 32, 0, -1 }, { 16, 7, -1 } } },
	{ "perm 8", 2, 0, { { 1, 8, -1 }, { 4, 5, -1 }, { 32, 0, -1 } } },
	{ "unknown tag", 2, 0, { { 1, 7, -1 }, { 4, 5, -1 }, { 64, 0, -1 }, { 32, 0, -1 } } },
	{ "user -1",
	  2,
	  0,
	  { { 1, 7, -1 }, { 2, 6, -1 }, { 4, 5, -1 }, { 16, 7, -1 }, { 32, 0, -1 } } },
	{ "version 1", 1, 0, { { 1, 7, -1 }, { 4, 5, -1 }, { 32, 1, -1 } } },
	{ "cut", 2, 3, { { 1, 7, -1 }, { 4, 5, -1 }, { 32, 1, -1 } } },
	{ "empty", 2, 0, { { 0 } } },
	{ "half a header", 2, 2, { { 0 } } },
};

static size_t acl_bytes(const struct acl_text *acl, uint8_t *to)
{
	size_t at = 4;

	memcpy(to, &(uint32_t){ (uint32_t)acl->version }, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(acl->entries) && acl->entries[i].tag; i++) {
		const uint16_t tag = (uint16_t)acl->entries[i].tag;
		const uint16_t perm = (uint16_t)acl->entries[i].perm;
		const uint32_t id = (uint32_t)acl->entries[i].id;

		memcpy(to + at, &tag, 2);
		memcpy(to + at + 2, &perm, 2);
		memcpy(to + at + 4, &id, 4);
		at += 8;
	}
	return at - (size_t)acl->cut;
}

static uint16_t mode_of(struct inode *ip)
{
	struct uext4_stat st;

	inode_stat(ip, &st);
	return (uint16_t)st.mode;
}

static void set_mode(struct inode *ip, uint16_t mode)
{
	struct handle *h;

	inode_lock(ip, INODE_CHILD);
	assert_int_equal(handle_start(ip->fs->log, 1, &h), 0);
	inode_set_mode(ip, mode);
	assert_int_equal(inode_store(h, ip), 0);
	assert_int_equal(handle_stop(h), 0);
	inode_unlock(ip);
}

static const char *const acl_names[] = { "system.posix_acl_access", "system.posix_acl_default" };

/* The ACL, or *@size -1. */
static void kernel_get(const char *path, const char *name, uint8_t *to, ssize_t *size)
{
	*size = lgetxattr(path, name, to, 1024);
}

static void engine_get(struct inode *ip, const char *name, uint8_t *to, ssize_t *size)
{
	size_t got;

	*size = xattr_get(ip, name, to, 1024, &got) < 0 ? -1 : (ssize_t)got;
}

static void compare_acls(struct inode *ip, const char *path, const char *what)
{
	uint8_t ours[1024], kernels[1024];
	struct stat st;

	assert_int_equal(lstat(path, &st), 0);
	if (mode_of(ip) != st.st_mode)
		fail_msg("%s: mode %o, the kernel has %o", what, mode_of(ip), st.st_mode);
	for (unsigned k = 0; k < 2; k++) {
		ssize_t size, kernel_size;

		engine_get(ip, acl_names[k], ours, &size);
		kernel_get(path, acl_names[k], kernels, &kernel_size);
		if (size != kernel_size)
			fail_msg("%s: %s has %zd bytes, the kernel's %zd", what, acl_names[k], size,
				 kernel_size);
		if (size > 0)
			assert_memory_equal(ours, kernels, (size_t)size);
	}
}

/* Setting, on a file, a directory and a symlink; then chmod. */
static void compare_setting(struct rig *rig, const char *at)
{
	static const unsigned nodes[] = { 0, FILES, FILES + DIRS };
	static const uint16_t modes[] = { 0, 0777, 02640, 04711 };
	uint8_t value[256];
	char path[200], name[16];

	for (unsigned i = 0; i < ARRAY_SIZE(acls) * ARRAY_SIZE(nodes) * 2; i++) {
		const struct acl_text *acl = &acls[i % ARRAY_SIZE(acls)];
		unsigned node = nodes[i / ARRAY_SIZE(acls) % ARRAY_SIZE(nodes)];
		unsigned kind = i / (unsigned)(ARRAY_SIZE(acls) * ARRAY_SIZE(nodes));
		size_t size = acl_bytes(acl, value);
		struct inode *ip = rig->nodes[node];
		int err, kernel_err;

		node_name(node, name);
		snprintf(path, sizeof(path), "%s/%s", at, name);
		inode_lock(ip, INODE_CHILD);
		err = xattr_set(ip, acl_names[kind], value, size, 0);
		inode_unlock(ip);
		kernel_err = lsetxattr(path, acl_names[kind], value, size, 0) < 0 ? -errno : 0;
		if (err != kernel_err)
			fail_msg("%s on %s, %s: %d, the kernel says %d", acl->what, name,
				 acl_names[kind], err, kernel_err);
		compare_acls(ip, path, acl->what);
		if (node == FILES + DIRS)
			continue;
		for (unsigned m = 0; m < ARRAY_SIZE(modes) && kind == 0; m++) {
			struct xattr_batch *b;
			struct xattr_change change = { .index = EXT4_XATTR_INDEX_POSIX_ACL_ACCESS };
			void *disk = NULL;

			inode_lock(ip, INODE_CHILD);
			assert_int_equal(acl_chmod(ip, modes[m], &disk, &change.size), 0);
			assert_int_equal(xattr_batch_create(ip, &b), 0);
			change.value = disk;
			if (disk)
				xattr_batch_add(b, &change);
			xattr_batch_set_mode(b, modes[m]);
			assert_int_equal(xattr_batch_run(b), 0);
			xattr_batch_destroy(b);
			free(disk);
			inode_unlock(ip);
			assert_int_equal(chmod(path, modes[m]), 0);
			compare_acls(ip, path, acl->what);
		}
		if (i % 3 == 0) {
			inode_lock(ip, INODE_CHILD);
			err = xattr_set(ip, acl_names[kind], NULL, 0, XATTR_SET_REPLACE);
			inode_unlock(ip);
			kernel_err = lremovexattr(path, acl_names[kind]) < 0 ? -errno : 0;
			assert_int_equal(err, kernel_err);
			compare_acls(ip, path, acl->what);
		}
	}
}

static void set_index(struct inode *ip, uint8_t index, const void *disk, size_t size)
{
	struct handle *h;

	if (!disk)
		return;
	assert_int_equal(handle_start(ip->fs->log, xattr_set_credits(ip, size), &h), 0);
	assert_int_equal(xattr_set_handle(h, ip, index, "", 0, disk, size), 0);
	assert_int_equal(handle_stop(h), 0);
}

/* What files and directories get from a directory's default ACL. */
static void compare_inheriting(struct rig *rig, const char *at)
{
	static const uint16_t modes[] = { 0644, 0777, 0600, 0031, 0 };
	struct inode *dir = rig->nodes[FILES + 1];
	uint8_t value[256];
	char dir_path[176], name[16], path[200];

	node_name(FILES + 1, name);
	snprintf(dir_path, sizeof(dir_path), "%s/%s", at, name);
	snprintf(path, sizeof(path), "%s/new", dir_path);
	umask(027);
	for (unsigned i = 0; i < 6 * ARRAY_SIZE(modes) * 2; i++) {
		const struct acl_text *acl = &acls[i % 6]; /* those that are valid */
		uint16_t mode = modes[i / 6 % ARRAY_SIZE(modes)];
		bool is_dir = i / (6 * (unsigned)ARRAY_SIZE(modes));
		struct acl_inherited got;
		struct inode *ip;
		size_t size = acl_bytes(acl, value);

		mode |= is_dir ? 040000 : 0100000;
		inode_lock(dir, INODE_CHILD);
		assert_int_equal(xattr_set(dir, acl_names[1], value, size, 0), 0);
		assert_int_equal(setxattr(dir_path, acl_names[1], value, size, 0), 0);
		ip = new_inode(rig->fs, mode);
		assert_int_equal(acl_inherit(dir, &mode, &got), 0);
		inode_unlock(dir);
		assert_true(got.is_there);
		set_mode(ip, mode & 07777);
		set_index(ip, EXT4_XATTR_INDEX_POSIX_ACL_ACCESS, got.access, got.access_size);
		set_index(ip, EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT, got.dflt, got.default_size);
		acl_inherited_finish(&got);

		mode = modes[i / 6 % ARRAY_SIZE(modes)];
		if (is_dir)
			assert_int_equal(mkdir(path, mode), 0);
		else
			close(open(path, O_CREAT | O_EXCL | O_RDWR, mode));
		compare_acls(ip, path, acl->what);
		assert_int_equal(is_dir ? rmdir(path) : unlink(path), 0);
		inode_put(ip);
		assert_int_equal(inode_reap(rig->fs), 0);
	}
	umask(022);
	{
		struct acl_inherited got;
		uint16_t mode = 0100666;

		inode_lock(rig->nodes[FILES], INODE_CHILD);
		(void)!xattr_set(rig->nodes[FILES], acl_names[1], NULL, 0, 0);
		assert_int_equal(acl_inherit(rig->nodes[FILES], &mode, &got), 0);
		inode_unlock(rig->nodes[FILES]);
		assert_true(!got.is_there && !got.access && !got.dflt && mode == 0100666);
	}
}

static void acls_are_the_kernels(void **state)
{
	static const char *const on[] = { "4k-256", "1k-128" };

	if (!can_mount())
		skip();
	for (unsigned r = 0; r < ARRAY_SIZE(on); r++) {
		char at[160], copy[300];
		struct rig rig;

		make_image(&rig, recipe_named(on[r]));
		snprintf(copy, sizeof(copy), "%s.copy", rig.path);
		assert_int_equal(run("cp %s %s", rig.path, copy), 0);
		if (!mount_image(copy, at))
			skip();
		open_rig(&rig, true);
		compare_setting(&rig, at);
		compare_inheriting(&rig, at);
		unmount(at);
		close_rig(&rig);
		check_image(&rig);
		run("rm -f %s", copy);
	}
}

/* ---- old inodes ------------------------------------------------------------------------------ */

/* An inode with fewer fields gets the others, if its attributes leave room for them. */
static void old_inodes_grow_where_that_is_harmless(void **state)
{
	for (unsigned fill = 0; fill < 2; fill++) {
		struct node_model model = { 0 };
		struct inode *ip;
		struct handle *h;
		struct rig rig;

		make_image(&rig, recipe_named("4k-256"));
		assert_int_equal(run("debugfs -w -R 'set_inode_field f00 extra_isize 4' %s "
				     ">/dev/null 2>&1",
				     rig.path),
				 0);
		open_rig(&rig, true);
		ip = rig.nodes[0];
		assert_int_equal(le16_get(ip->raw->i_extra_isize), 4);
		model.is_there[0] = model.is_there[1] = true;
		model.value[0] = (struct value){ 0, 20 };
		model.value[1] = (struct value){ 1, fill ? 32 : 0 };
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(set(ip, names[i], model.value[i]), 0);
		assert_int_equal(xattr_block_blk(ip), 0);
		inode_lock(ip, INODE_CHILD);
		assert_int_equal(handle_start(rig.fs->log, 1, &h), 0);
		assert_int_equal(xattr_expand(ip), !fill);
		assert_false(xattr_expand(ip));
		assert_int_equal(inode_store(h, ip), 0);
		assert_int_equal(handle_stop(h), 0);
		inode_unlock(ip);
		assert_int_equal(le16_get(ip->raw->i_extra_isize), fill ? 4 : 32);
		compare_node(&rig, ip, &model);
		close_rig(&rig);
		check_image(&rig);
		open_rig(&rig, false);
		compare_node(&rig, rig.nodes[0], &model);
		close_rig(&rig);
	}
}

/* ---- threads --------------------------------------------------------------------------------- */

#define THREADS 4u
#define OWN 6u /* inodes of a thread */

struct worker {
	struct uext4_fs *fs;
	uint64_t seed;
	struct inode *own[OWN];
	struct node_model model[OWN];
	_Atomic bool *reading;
	struct inode **all;
};

static void work(void *arg)
{
	static const uint32_t sizes[] = { 0, 60, 200, 5000, 5000, 700 };
	struct worker *w = arg;
	uint8_t value[5000];

	for (unsigned i = 0; i < rounds / 4; i++) {
		unsigned which = (unsigned)(next_random(&w->seed) % OWN);
		unsigned name = (unsigned)(next_random(&w->seed) % 4);
		struct value v = { (unsigned)(next_random(&w->seed) % 2),
				   sizes[next_random(&w->seed) % ARRAY_SIZE(sizes)] };
		bool remove = next_random(&w->seed) % 4 == 0;
		struct inode *ip = w->own[which], *other;
		size_t size;
		int err;

		fill_value(v, value);
		inode_lock(ip, INODE_CHILD);
		err = xattr_set(ip, names[name], remove ? NULL : value, v.size, 0);
		inode_unlock(ip);
		if (err == 0) {
			w->model[which].is_there[name] = !remove;
			w->model[which].value[name] = v;
		} else {
			assert_true(err == -ENOSPC || (remove && err == -ENODATA));
		}
		/* Others' are read while they change. */
		other = w->all[next_random(&w->seed) % (THREADS * OWN)];
		err = xattr_get(other, names[name], value, sizeof(value), &size);
		assert_true(err == 0 || err == -ENODATA);
		if (i % 16 == 0)
			assert_int_equal(inode_reap(w->fs), 0);
	}
}

static void threads_share_without_harm(void **state)
{
	static const char *const on[] = { "1k-128-ea_inode", "4k-512-ea_inode" };

	for (unsigned r = 0; r < ARRAY_SIZE(on); r++) {
		static struct worker workers[THREADS];
		struct inode *all[THREADS * OWN];
		struct thread *threads[THREADS];
		struct counts before;
		struct rig rig;

		make_image(&rig, recipe_named(on[r]));
		open_rig(&rig, true);
		before = count_free(rig.fs);
		for (unsigned i = 0; i < THREADS * OWN; i++)
			all[i] = new_inode(rig.fs, 0100600);
		for (unsigned t = 0; t < THREADS; t++) {
			memset(&workers[t], 0, sizeof(workers[t]));
			workers[t].fs = rig.fs;
			workers[t].seed = rnd() | 1;
			workers[t].all = all;
			memcpy(workers[t].own, &all[t * OWN], sizeof(workers[t].own));
		}
		for (unsigned t = 0; t < THREADS; t++)
			assert_int_equal(thread_create("worker", work, &workers[t], &threads[t]),
					 0);
		for (unsigned t = 0; t < THREADS; t++)
			thread_join(threads[t]);
		for (unsigned t = 0; t < THREADS; t++)
			for (unsigned i = 0; i < OWN; i++) {
				compare_node(&rig, workers[t].own[i], &workers[t].model[i]);
				inode_put(workers[t].own[i]);
			}
		assert_used(rig.fs, before, 0, 0);
		close_rig(&rig);
		check_image(&rig);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_change_as_the_model),
		cmocka_unit_test(shared_bytes_stay_inside),
		cmocka_unit_test(names_and_sizes_are_judged),
		cmocka_unit_test(inline_data_keeps_its_room),
		cmocka_unit_test(inline_room_is_the_kernels),
		cmocka_unit_test(changes_are_right_on_every_image),
		cmocka_unit_test(blocks_are_shared_up_to_the_limit),
		cmocka_unit_test(large_values_are_shared),
		cmocka_unit_test(no_space_changes_nothing),
		cmocka_unit_test(no_memory_changes_nothing),
		cmocka_unit_test(a_target_makes_room_for_a_block),
		cmocka_unit_test(a_crash_leaves_ordinary_orphans),
		cmocka_unit_test(damage_does_not_stop_a_deletion),
		cmocka_unit_test(acls_are_the_kernels),
		cmocka_unit_test(old_inodes_grow_where_that_is_harmless),
		cmocka_unit_test(threads_share_without_harm),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	else
		seed = random_u64() | 1;
	if (argc > 2)
		rounds = (unsigned)strtoul(argv[2], NULL, 0);
	print_message("seed %" PRIu64 ", %u rounds\n", seed, rounds);
	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
