/* SPDX-License-Identifier: MIT */
/*
 * disk/: the shape of a file system, and the verifiers.
 *
 *  - Superblocks changed by hand: what the kernel refuses is refused, what is computed is right.
 *  - Images made by mke2fs, of many kinds: every superblock, descriptor, bitmap, inode, directory
 *    block, extent node, xattr block, MMP and orphan block in them passes.  Each is a block that
 *    some other program wrote, so this is the proof that offsets and checksums are right.
 *  - Of each kind of block with a checksum, every single flipped bit is found.
 *  - Of each block with a checksum, seal_...() makes exactly what those programs wrote when its own
 *    checksum is spoiled, and what the verifier accepts when its contents change.
 *  - Blocks damaged at random, with checksums made right again or switched off: no verifier reads
 *    outside of its block, and a block that passes can be walked inside its bounds (run under
 *    ASan).
 *
 * Usage: disk [SEED [ROUNDS]]
 */
#include "base/base.h"
#include "base/diag.h"
#include "base/sum.h"
#include "disk/geom.h"
#include "disk/seal.h"
#include "disk/verify.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* Images are the same from run to run but for their times. */
#define UUID "01234567-89ab-cdef-0123-456789abcdef"

static uint64_t seed = 1;
static unsigned rounds = 200; /* of damage, to each kind of block in each image */
static char scratch[128];

static uint64_t rnd(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * UINT64_C(2685821657736338717);
}

/* ---- images ---------------------------------------------------------------------------------- */

/* How mke2fs is called, beyond what image_open() adds. */
static const struct recipe {
	const char *name;
	unsigned megabytes;
	const char *options;
} recipes[] = {
	{ "ext2-rev0", 16, "-t ext2 -b 1024 -r 0 -O none" },
	{ "ext2-1k", 16, "-t ext2 -b 1024 -g 1024" },
	{ "ext3-2k", 16, "-t ext3 -b 2048 -J size=4" },
	{ "ext4-1k", 24, "-t ext4 -b 1024 -g 2048" },
	{ "ext4-2k", 24, "-t ext4 -b 2048" },
	{ "ext4-4k", 24, "-t ext4 -b 4096" },
	{ "ext4-64k", 96, "-t ext4 -b 65536 -O ^has_journal" },
	{ "no-csum", 16, "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg -g 2048" },
	{ "no-csum-64bit", 16,
	  "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,64bit,^resize_inode -g 2048" },
	{ "csum-32bit", 16, "-t ext4 -b 1024 -O ^64bit -g 2048" },
	{ "desc-size-256", 16, "-t ext4 -b 1024 -g 2048 -E desc_size=256,hash_seed=" UUID },
	{ "inode-128", 16, "-t ext4 -b 1024 -I 128" },
	{ "inode-1024", 24, "-t ext4 -b 4096 -I 1024" },
	{ "inline-data", 16, "-t ext4 -b 1024 -O inline_data" },
	{ "inline-data-large", 24, "-t ext4 -b 4096 -O inline_data -I 512" },
	{ "bigalloc-1k", 24, "-t ext4 -b 1024 -O bigalloc -C 4096" },
	{ "bigalloc-4k", 32, "-t ext4 -b 4096 -O bigalloc -C 65536 -O ^has_journal" },
	{ "meta-bg", 24, "-t ext4 -b 1024 -O meta_bg,^resize_inode -g 256" },
	{ "meta-bg-bigalloc-1k", 24,
	  "-t ext4 -b 1024 -O meta_bg,bigalloc,^resize_inode -C 2048 -g 512" },
	{ "no-flex-bg", 16, "-t ext4 -b 1024 -O ^flex_bg -g 2048" },
	{ "sparse-super2", 16, "-t ext4 -b 1024 -O sparse_super2,^resize_inode -g 2048" },
	{ "mmp", 24, "-t ext4 -b 1024 -O mmp" },
	{ "mmp-4k", 24, "-t ext4 -b 4096 -O mmp" },
	{ "orphan-file-1k", 24, "-t ext4 -b 1024 -O orphan_file" },
	{ "orphan-file-4k", 24, "-t ext4 -b 4096 -O orphan_file" },
	{ "csum-seed-ea-inode", 24, "-t ext4 -b 4096 -O metadata_csum_seed,ea_inode,large_dir" },
	{ "quota-project", 24, "-t ext4 -b 4096 -O quota,project,verity" },
};

static void run(const char *fmt, ...) PRINTF(1, 2);
static void run(const char *fmt, ...)
{
	char command[2048];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	status = system(command);
	if (status == -1 || !WIFEXITED(status) || WEXITSTATUS(status) > 1)
		fail_msg("'%s' failed (%d)", command, status);
}

static void make_file(const char *name, size_t bytes)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/tree/%s", scratch, name);
	f = fopen(path, "w");
	assert_non_null(f);
	for (size_t i = 0; i < bytes; i++)
		fputc('a' + (int)(i % 26), f);
	assert_int_equal(fclose(f), 0);
}

/* 400 blocks with holes between them: an extent tree of two levels, or indirect blocks. */
static void make_fragmented(void)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/tree/fragmented", scratch);
	fd = open(path, O_CREAT | O_WRONLY, 0644);
	assert_true(fd >= 0);
	for (off_t i = 0; i < 400; i++)
		assert_int_equal(pwrite(fd, "data", 4, i * 131072), 4);
	assert_int_equal(close(fd), 0);
}

/*
 * Names as long as 120 bytes make two levels of index in blocks of 1024 bytes; they are links to
 * one file.
 */
static void make_big_directory(void)
{
	char file[256], path[512];

	snprintf(file, sizeof(file), "%s/tree/file", scratch);
	for (unsigned i = 0; i < 1500; i++) {
		snprintf(path, sizeof(path), "%s/tree/big/%0120u", scratch, i);
		assert_int_equal(link(file, path), 0);
	}
}

static int make_tree(void **state)
{
	FILE *f;
	char path[256], target[200];

	(void)state;
	snprintf(scratch, sizeof(scratch), "%s/uext4-disk-XXXXXX",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(scratch))
		return -1;
	run("mkdir -p %s/tree/big %s/tree/small/sub", scratch, scratch);
	make_file("file", 100);
	make_file("small/empty", 0);
	make_file("small/50", 50);
	make_file("small/120", 120);
	make_file("small/sub/9000", 9000);
	make_fragmented();
	make_big_directory();
	memset(target, 'x', sizeof(target) - 1);
	target[sizeof(target) - 1] = '\0';
	snprintf(path, sizeof(path), "%s/tree/long", scratch);
	assert_int_equal(symlink(target, path), 0);
	snprintf(path, sizeof(path), "%s/tree/short", scratch);
	assert_int_equal(symlink("file", path), 0);
	run("mkfifo %s/tree/fifo", scratch);

	/* Small values in the inode, a large one in a block; 6000 bytes need an inode, or fail. */
	make_file("../large", 700);
	make_file("../huge", 6000);
	snprintf(path, sizeof(path), "%s/commands", scratch);
	f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "ea_set /file user.one 1\nea_set /file user.two 22\nea_set /small user.dir d\n");
	fprintf(f, "ea_set -f %s/large /file user.large\n", scratch);
	fprintf(f, "ea_set -f %s/huge /small/empty user.huge\n", scratch);
	return fclose(f);
}

static int remove_tree(void **state)
{
	(void)state;
	run("rm -rf %s", scratch);
	return 0;
}

struct image {
	const struct recipe *recipe;
	uint8_t *data; /* a private mapping */
	size_t bytes;
	struct ext4_super_block *sb;
	struct geom geom;
};

static void image_open(struct image *img, const struct recipe *r)
{
	char path[256];
	struct stat st;
	int fd, err;

	snprintf(path, sizeof(path), "%s/%s.img", scratch, r->name);
	if (access(path, F_OK) != 0) {
		run("mke2fs -F -q -N 1024 -U " UUID " -E hash_seed=" UUID " %s -d %s/tree %s %uM "
		    ">/dev/null 2>&1",
		    r->options, scratch, path, r->megabytes);
		/*
		 * debugfs sets attributes, e2fsck hashes the directories.  Revision 0 has neither,
		 * and with mmp both tools wait half a minute.
		 */
		if (!strstr(r->options, "-r 0") && !strstr(r->options, "mmp")) {
			run("debugfs -w -f %s/commands %s >/dev/null 2>&1", scratch, path);
			run("e2fsck -fyD %s >/dev/null 2>&1", path);
		}
	}
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	img->recipe = r;
	img->bytes = (size_t)st.st_size;
	img->data = mmap(NULL, img->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(img->data, MAP_FAILED);
	close(fd);
	img->sb = (void *)(img->data + EXT4_SUPER_OFFSET);
	err = geom_init(img->sb, img->bytes, &img->geom);
	if (err)
		fail_msg("%s: %s", r->name, diag_text());
}

static void image_close(struct image *img)
{
	munmap(img->data, img->bytes);
}

static const uint8_t *image_block(const struct image *img, blk_t blk)
{
	assert_true(blk < img->geom.blocks);
	return img->data + (blk << img->geom.block_bits);
}

/* ---- blocks found in an image ---------------------------------------------------------------- */

enum kind {
	SUPER,
	DESC,
	BLOCK_BITMAP,
	INODE_BITMAP,
	INODE,
	EXTENTS,
	LEAF,
	INLINE_DIR,
	DX_ROOT,
	DX_NODE,
	XATTRS,
	MMP,
	ORPHANS,
	KINDS
};

static const char *const kind_names[KINDS] = {
	"superblock",	"group descriptor", "block bitmap",	"inode bitmap", "inode",
	"extent block", "directory leaf",   "inline directory", "dx root",	"dx node",
	"xattr block",	"MMP block",	    "orphan block",
};

struct sample {
	enum kind kind;
	const uint8_t *data;
	uint32_t bytes;
	struct verify_inode vi; /* its geom is that of the image */
	blk_t blk;
	uint32_t group;
	struct ext4_group_desc gd; /* of a bitmap */
	uint64_t dev_bytes;	   /* of a superblock */
};

/*
 * @data: the sample's own bytes, or a damaged copy.  @geom: the image's, or one without checksums.
 */
static int sample_verify(const struct sample *s, const struct geom *geom, const void *data)
{
	struct verify_inode vi = s->vi;
	struct geom ignored;

	vi.geom = geom;
	switch (s->kind) {
	case SUPER: return geom_init(data, s->dev_bytes, &ignored);
	case DESC: return verify_group_desc(geom, s->group, data);
	case BLOCK_BITMAP:
	case INODE_BITMAP:
		return verify_bitmap(geom, s->group, &s->gd, data, s->kind == INODE_BITMAP);
	case INODE: return verify_inode(geom, vi.ino, data);
	case EXTENTS: return verify_extent_node(&vi, data, s->bytes, s->blk);
	case LEAF: return verify_dirents(&vi, data, s->bytes, s->blk, geom_has_csum(geom));
	case INLINE_DIR: return verify_dirents(&vi, data, s->bytes, s->blk, false);
	case DX_ROOT: return verify_dx_root(&vi, data, s->blk);
	case DX_NODE: return verify_dx_node(&vi, data, s->blk);
	case XATTRS: return verify_xattr_block(geom, data, s->blk);
	case MMP: return verify_mmp(geom, data);
	case ORPHANS: return verify_orphan_block(&vi, data, s->blk);
	case KINDS: break;
	}
	abort();
}

typedef void (*visit_fn)(const struct image *img, const struct sample *s, void *arg);

struct walk {
	const struct image *img;
	visit_fn visit;
	void *arg;
	struct verify_inode vi; /* of the inode being walked */
};

/* Every sample must pass before anything else is done with it. */
static void walk_visit(struct walk *w, struct sample s)
{
	const struct geom *g = &w->img->geom;

	s.vi.geom = g;
	if (s.kind != SUPER && s.kind != DESC && s.bytes == 0)
		s.bytes = g->block_size;
	if (sample_verify(&s, g, s.data) != 0)
		fail_msg("%s: %s %" PRIu64 ": %s", w->img->recipe->name, kind_names[s.kind], s.blk,
			 diag_text());
	w->visit(w->img, &s, w->arg);
}

static void walk_block(struct walk *w, enum kind kind, blk_t blk)
{
	walk_visit(w, (struct sample){ .kind = kind,
				       .data = image_block(w->img, blk),
				       .vi = w->vi,
				       .blk = blk });
}

static uint32_t extent_len(const struct ext4_extent *e)
{
	uint32_t len = le16_get(e->ee_len);

	return len > EXT_INIT_MAX_LEN ? len - EXT_INIT_MAX_LEN : len;
}

/*
 * Visits the extent blocks of a tree, and finds where its logical block @wanted lies (0: nowhere).
 */
static blk_t walk_extents(struct walk *w, const struct ext4_inode *raw, lblk_t wanted, bool visit)
{
	struct {
		const struct ext4_extent_header *eh;
		unsigned next;
		lblk_t end;
	} path[6];
	unsigned level = 0;
	blk_t found = 0;

	path[0].eh = (const void *)raw->i_block;
	path[0].next = 0;
	path[0].end = UINT32_MAX;
	for (;;) {
		const struct ext4_extent_header *eh = path[level].eh;
		const struct ext4_extent_idx *idx = (const void *)(eh + 1);
		const struct ext4_extent *ext = (const void *)(eh + 1);
		unsigned i = path[level].next++;
		blk_t blk;

		if (i >= le16_get(eh->eh_entries)) {
			if (level == 0)
				return found;
			level--;
			continue;
		}
		if (le16_get(eh->eh_depth) == 0) {
			uint32_t offset = wanted - le32_get(ext[i].ee_block);

			if (wanted >= le32_get(ext[i].ee_block) && offset < extent_len(&ext[i]))
				found = ((blk_t)le16_get(ext[i].ee_start_hi) << 32 |
					 le32_get(ext[i].ee_start_lo)) +
					offset;
			continue;
		}
		blk = (blk_t)le16_get(idx[i].ei_leaf_hi) << 32 | le32_get(idx[i].ei_leaf_lo);
		w->vi.depth = (uint16_t)(le16_get(eh->eh_depth) - 1);
		w->vi.first = le32_get(idx[i].ei_block);
		w->vi.end = i + 1u < le16_get(eh->eh_entries) ? le32_get(idx[i + 1].ei_block)
							      : path[level].end;
		if (visit)
			walk_block(w, EXTENTS, blk);
		level++;
		assert_true(level < ARRAY_SIZE(path));
		path[level].eh = (const void *)image_block(w->img, blk);
		path[level].next = 0;
		path[level].end = w->vi.end;
	}
}

/* Where logical block @lblk lies: direct, and the first two kinds of indirect blocks. */
static blk_t map_indirect(const struct image *img, const struct ext4_inode *raw, lblk_t lblk)
{
	uint32_t per_block = img->geom.block_size / 4;
	const le32 *table;
	blk_t blk;

	if (lblk < EXT4_NDIR_BLOCKS)
		return le32_get(raw->i_block[lblk]);
	lblk -= EXT4_NDIR_BLOCKS;
	if (lblk < per_block) {
		table = (const void *)image_block(img, le32_get(raw->i_block[EXT4_IND_BLOCK]));
		return le32_get(table[lblk]);
	}
	lblk -= per_block;
	assert_true(lblk < per_block * per_block);
	table = (const void *)image_block(img, le32_get(raw->i_block[EXT4_DIND_BLOCK]));
	blk = le32_get(table[lblk / per_block]);
	table = (const void *)image_block(img, blk);
	return le32_get(table[lblk % per_block]);
}

static blk_t walk_map(struct walk *w, const struct ext4_inode *raw, lblk_t lblk)
{
	if (le32_get(raw->i_flags) & EXT4_EXTENTS_FL)
		return walk_extents(w, raw, lblk, false);
	return map_indirect(w->img, raw, lblk);
}

/*
 * Without checksums a leaf that became empty looks like a node, but for what lies behind its one
 * record.
 */
static bool is_dx_node(const struct geom *g, const uint8_t *data)
{
	const struct dx_node *node = (const void *)data;
	const struct dx_countlimit *cl = (const void *)node->entries;
	uint32_t tail = geom_has_csum(g) ? sizeof(struct dx_tail) : 0;

	return le32_get(node->fake.inode) == 0 &&
	       dirent_rec_len(node->fake.rec_len, g->block_size) == g->block_size &&
	       le16_get(cl->limit) ==
		       (g->block_size - sizeof(*node) - tail) / sizeof(struct dx_entry);
}

static void walk_directory(struct walk *w, const struct ext4_inode *raw)
{
	const struct geom *g = &w->img->geom;
	bool indexed = le32_get(raw->i_flags) & EXT4_INDEX_FL;
	uint32_t blocks = le32_get(raw->i_size_lo) >> g->block_bits;

	for (lblk_t lblk = 0; lblk < blocks; lblk++) {
		blk_t blk = walk_map(w, raw, lblk);

		assert_int_not_equal(blk, 0);
		if (indexed && lblk == 0)
			walk_block(w, DX_ROOT, blk);
		else if (indexed && is_dx_node(g, image_block(w->img, blk)))
			walk_block(w, DX_NODE, blk);
		else
			walk_block(w, LEAF, blk);
	}
}

/* The value of system.data of an inode that passed. */
static const uint8_t *inline_value(const struct geom *g, const struct ext4_inode *raw,
				   uint32_t *ret_size)
{
	const uint8_t *first = (const uint8_t *)raw + EXT4_GOOD_OLD_INODE_SIZE +
			       le16_get(raw->i_extra_isize) +
			       sizeof(struct ext4_xattr_ibody_header);
	const struct ext4_xattr_entry *e = (const void *)first;

	while (e->e_name_index != EXT4_XATTR_INDEX_SYSTEM || e->e_name_len != 4 ||
	       memcmp(e->e_name, "data", 4) != 0) {
		e = (const void *)((const uint8_t *)e + EXT4_XATTR_LEN(e->e_name_len));
		assert_true((const uint8_t *)e < (const uint8_t *)raw + g->inode_size);
	}
	*ret_size = le32_get(e->e_value_size);
	return first + le16_get(e->e_value_offs);
}

static void walk_inline_directory(struct walk *w, const struct ext4_inode *raw)
{
	struct sample s = { .kind = INLINE_DIR, .vi = w->vi };

	/* The first four bytes are the parent's number. */
	s.data = (const uint8_t *)raw->i_block + 4;
	s.bytes = EXT4_I_BLOCK_BYTES - 4;
	walk_visit(w, s);
	s.data = inline_value(&w->img->geom, raw, &s.bytes);
	if (s.bytes > 0)
		walk_visit(w, s);
}

static void walk_inode(struct walk *w, uint32_t ino, const struct ext4_inode *raw)
{
	const struct geom *g = &w->img->geom;
	uint16_t type = le16_get(raw->i_mode) & S_IFMT;
	uint32_t flags = le32_get(raw->i_flags);

	w->vi = (struct verify_inode){ .geom = g, .ino = ino, .end = UINT32_MAX };
	w->vi.generation = le32_get(raw->i_generation);
	w->vi.csum_seed = verify_inode_seed(g, ino, w->vi.generation);
	walk_visit(w, (struct sample){ .kind = INODE,
				       .data = (const uint8_t *)raw,
				       .vi = w->vi,
				       .bytes = g->inode_size,
				       .blk = ino });
	if (le16_get(raw->i_links_count) == 0)
		return;
	if (le32_get(raw->i_file_acl_lo) != 0)
		walk_block(w, XATTRS, le32_get(raw->i_file_acl_lo));
	if (flags & EXT4_INLINE_DATA_FL) {
		if (type == S_IFDIR)
			walk_inline_directory(w, raw);
		return;
	}
	if (flags & EXT4_EXTENTS_FL)
		walk_extents(w, raw, 0, true);
	if (type == S_IFDIR)
		walk_directory(w, raw);
	if (geom_has_compat(g, EXT4_FEATURE_COMPAT_ORPHAN_FILE) &&
	    ino == le32_get(w->img->sb->s_orphan_file_inum))
		for (lblk_t lblk = 0; lblk < le32_get(raw->i_size_lo) >> g->block_bits; lblk++)
			walk_block(w, ORPHANS, walk_map(w, raw, lblk));
}

static void walk_group(struct walk *w, uint32_t group)
{
	const struct geom *g = &w->img->geom;
	bool wide = g->desc_size >= 64;
	struct sample s = { .kind = DESC, .group = group, .bytes = g->desc_size };
	blk_t super_blk = g->block_size == 1024 ? 1 : 0;
	blk_t blk = geom_desc_block(g, super_blk, group / g->desc_per_block);
	const uint8_t *table;
	uint32_t in_use = g->inodes_per_group;

	s.data = image_block(w->img, blk) + group % g->desc_per_block * g->desc_size;
	walk_visit(w, s);

	memcpy(&s.gd, s.data, wide ? sizeof(s.gd) : EXT4_MIN_DESC_SIZE);
	s.bytes = g->block_size;
	s.kind = BLOCK_BITMAP;
	s.data = image_block(w->img,
			     u64_from_lo_hi(s.gd.bg_block_bitmap_lo, s.gd.bg_block_bitmap_hi));
	if (!(le16_get(s.gd.bg_flags) & EXT4_BG_BLOCK_UNINIT))
		walk_visit(w, s);
	if (le16_get(s.gd.bg_flags) & EXT4_BG_INODE_UNINIT)
		return;
	s.kind = INODE_BITMAP;
	s.data = image_block(w->img,
			     u64_from_lo_hi(s.gd.bg_inode_bitmap_lo, s.gd.bg_inode_bitmap_hi));
	walk_visit(w, s);

	if (geom_has_csum(g) || geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_GDT_CSUM))
		in_use -= le16_get(s.gd.bg_itable_unused_lo);
	table = image_block(w->img, u64_from_lo_hi(s.gd.bg_inode_table_lo, s.gd.bg_inode_table_hi));
	for (uint32_t i = 0; i < in_use; i++)
		walk_inode(w, group * g->inodes_per_group + i + 1,
			   (const void *)(table + (size_t)i * g->inode_size));
}

static void walk_image(const struct image *img, visit_fn visit, void *arg)
{
	struct walk w = { .img = img, .visit = visit, .arg = arg };

	walk_visit(&w, (struct sample){ .kind = SUPER,
					.data = (const uint8_t *)img->sb,
					.bytes = EXT4_SUPER_BYTES,
					.dev_bytes = img->bytes });
	if (geom_has_incompat(&img->geom, EXT4_FEATURE_INCOMPAT_MMP))
		walk_visit(&w, (struct sample){
				       .kind = MMP,
				       .bytes = sizeof(struct mmp_struct),
				       .data = image_block(img, le64_get(img->sb->s_mmp_block)) });
	for (uint32_t group = 0; group < img->geom.groups; group++)
		walk_group(&w, group);
}

static void visit_count(const struct image *img, const struct sample *s, void *arg)
{
	unsigned *counts = arg;

	(void)img;
	counts[s->kind]++;
}

static void images_pass(void **state)
{
	unsigned total[KINDS] = { 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
		unsigned counts[KINDS] = { 0 };
		struct image img;

		image_open(&img, &recipes[i]);
		walk_image(&img, visit_count, counts);
		image_close(&img);
		assert_true(counts[SUPER] > 0 && counts[DESC] > 0 && counts[INODE] > 10);
		for (unsigned k = 0; k < KINDS; k++)
			total[k] += counts[k];
	}
	/* A walk that finds nothing proves nothing. */
	for (unsigned k = 0; k < KINDS; k++) {
		print_message("%8u %s\n", total[k], kind_names[k]);
		assert_true(total[k] > 0);
	}
}

/*
 * A superblock, and behind it descriptors equal to the primary ones but for what changes without
 * them.
 */
static void check_backup(const struct image *img, uint32_t group)
{
	const struct geom *g = &img->geom;
	blk_t super_blk = geom_group_first_block(g, group);
	const struct ext4_super_block *sb = (const void *)image_block(img, super_blk);
	struct geom backup;

	assert_int_equal(le16_get(sb->s_block_group_nr), group);
	if (geom_init(sb, img->bytes, &backup) != 0)
		fail_msg("%s: backup in group %u: %s", img->recipe->name, group, diag_text());
	assert_int_equal(backup.groups, g->groups);
	for (uint32_t i = 0; i < g->groups; i++) {
		blk_t blk = geom_desc_block(g, super_blk, i / g->desc_per_block);
		const uint8_t *desc = image_block(img, blk) + i % g->desc_per_block * g->desc_size;

		if (verify_group_desc(g, i, (const void *)desc) != 0)
			fail_msg("%s: backups in group %u: %s", img->recipe->name, group,
				 diag_text());
	}
}

static void backups_are_found(void **state)
{
	unsigned backups = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
		struct image img;

		image_open(&img, &recipes[i]);
		for (uint32_t group = 1; group < img.geom.groups; group++) {
			blk_t blk = geom_group_first_block(&img.geom, group);
			const struct ext4_super_block *sb = (const void *)image_block(&img, blk);
			bool has = geom_group_has_super(&img.geom, group);

			assert_int_equal(has, le16_get(sb->s_magic) == EXT4_SUPER_MAGIC);
			if (!has)
				continue;
			check_backup(&img, group);
			backups++;
		}
		image_close(&img);
	}
	assert_true(backups > 20);
}

/* ---- flipped bits ---------------------------------------------------------------------------- */

/* Is byte @at of a sample covered by its checksum?  (The checksum itself counts as covered.) */
static bool is_covered(const struct sample *s, uint32_t at)
{
	const struct geom *g = s->vi.geom;
	const struct ext4_extent_header *eh = (const void *)s->data;
	const struct dx_countlimit *cl;
	uint32_t row;

	switch (s->kind) {
	case SUPER:
		/* The bit that says whether there is a checksum at all. */
		return at != offsetof(struct ext4_super_block, s_feature_ro_compat) + 1;
	case BLOCK_BITMAP: return at < g->clusters_per_group / 8;
	case INODE_BITMAP: return at < g->inodes_per_group / 8;
	case EXTENTS:
		return at < sizeof(*eh) + le16_get(eh->eh_max) * sizeof(struct ext4_extent) + 4;
	case DX_ROOT:
	case DX_NODE:
		row = s->kind == DX_ROOT ? sizeof(struct dx_root) : sizeof(struct dx_node);
		cl = (const void *)(s->data + row);
		return at < row + le16_get(cl->count) * sizeof(struct dx_entry) ||
		       (at >= row + le16_get(cl->limit) * sizeof(struct dx_entry) &&
			at < row + le16_get(cl->limit) * sizeof(struct dx_entry) +
					sizeof(struct dx_tail));
	default: return true;
	}
}

/*
 * A checksum of 16 bits cut out of one of 32 misses some single bits: that is the format's
 * weakness.
 */
static bool has_short_checksum(const struct sample *s)
{
	const struct geom *g = s->vi.geom;
	const struct ext4_inode *raw = (const void *)s->data;

	switch (s->kind) {
	case DESC: return true;
	case BLOCK_BITMAP:
	case INODE_BITMAP: return g->desc_size < 64;
	case INODE: return g->inode_size == 128 || le16_get(raw->i_extra_isize) < 4;
	default: return false;
	}
}

static bool has_checksum(const struct sample *s)
{
	const struct geom *g = s->vi.geom;

	if (s->kind == INLINE_DIR)
		return false;
	if (s->kind == DESC && geom_has_ro_compat(g, EXT4_FEATURE_RO_COMPAT_GDT_CSUM))
		return true;
	return geom_has_csum(g);
}

/* The first block of each kind in an image; an inode that is in use. */
static bool take_first(const struct sample *s, bool *taken)
{
	const struct ext4_inode *raw = (const void *)s->data;

	if (taken[s->kind] || (s->kind == INODE && le16_get(raw->i_links_count) == 0))
		return false;
	taken[s->kind] = true;
	return true;
}

static void visit_flip(const struct image *img, const struct sample *s, void *arg)
{
	uint32_t bytes = s->bytes, missed = 0;
	uint8_t *copy;

	if (!has_checksum(s) || !take_first(s, arg))
		return;
	/* The copy is as large as the block: a read behind it is seen. */
	copy = malloc(bytes);
	assert_non_null(copy);
	memcpy(copy, s->data, bytes);
	for (uint32_t bit = 0; bit < bytes * 8; bit++) {
		if (!is_covered(s, bit / 8))
			continue;
		copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
		if (sample_verify(s, &img->geom, copy) == 0) {
			missed++;
			if (!has_short_checksum(s))
				fail_msg("%s: %s %" PRIu64 ": bit %u flipped, still passes",
					 img->recipe->name, kind_names[s->kind], s->blk, bit);
		}
		copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(sample_verify(s, &img->geom, copy), 0);
	if (missed > 2)
		fail_msg("%s: %s: %u bits missed", img->recipe->name, kind_names[s->kind], missed);
	free(copy);
}

/* Blocks beyond 2 KiB only cost time: bits times bytes. */
static void flipped_bits_are_found(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
		bool taken[KINDS] = { false };
		struct image img;

		image_open(&img, &recipes[i]);
		if (img.geom.block_size <= 2048)
			walk_image(&img, visit_flip, taken);
		image_close(&img);
	}
}

/* ---- sealing --------------------------------------------------------------------------------- */

/* Where the checksum of a sample lies; at offset @ret_hi its upper half, or 0. */
static uint32_t checksum_at(const struct sample *s, const uint8_t *data, uint32_t *ret_hi)
{
	const struct geom *g = s->vi.geom;
	uint32_t max = le16_get(((const struct ext4_extent_header *)(const void *)data)->eh_max),
		 row;

	*ret_hi = 0;
	switch (s->kind) {
	case SUPER: return offsetof(struct ext4_super_block, s_checksum);
	case DESC: return offsetof(struct ext4_group_desc, bg_checksum);
	case INODE:
		if (g->inode_size > 128 && data[offsetof(struct ext4_inode, i_extra_isize)] >= 4)
			*ret_hi = offsetof(struct ext4_inode, i_checksum_hi);
		return offsetof(struct ext4_inode, l_i_checksum_lo);
	case EXTENTS:
		return (uint32_t)(sizeof(struct ext4_extent_header) +
				  max * sizeof(struct ext4_extent));
	case LEAF:
	case ORPHANS: return s->bytes - 4;
	case DX_ROOT:
	case DX_NODE:
		row = s->kind == DX_ROOT ? sizeof(struct dx_root) : sizeof(struct dx_node);
		max = (g->block_size - row - (uint32_t)sizeof(struct dx_tail)) / 8;
		return row + max * 8 + 4;
	case XATTRS: return offsetof(struct ext4_xattr_header, h_checksum);
	default: return offsetof(struct mmp_struct, mmp_checksum);
	}
}

/* @gd: of a bitmap. */
static void sample_seal(const struct sample *s, uint8_t *data, struct ext4_group_desc *gd)
{
	const struct geom *g = s->vi.geom;
	void *block = data;
	uint32_t generation;

	switch (s->kind) {
	case SUPER: seal_super(block); return;
	case DESC: seal_group_desc(g, s->group, block); return;
	case BLOCK_BITMAP:
	case INODE_BITMAP: seal_bitmap(g, gd, data, s->kind == INODE_BITMAP); return;
	case INODE:
		generation = le32_get(((const struct ext4_inode *)block)->i_generation);
		seal_inode(g, verify_inode_seed(g, s->vi.ino, generation), block);
		return;
	case EXTENTS: seal_extent_block(&s->vi, block); return;
	case LEAF: seal_dirent_block(&s->vi, data); return;
	case DX_ROOT: seal_dx_root(&s->vi, data); return;
	case DX_NODE: seal_dx_node(&s->vi, data); return;
	case XATTRS: seal_xattr_block(g, data, s->blk); return;
	case MMP: seal_mmp(g, block); return;
	case ORPHANS: seal_orphan_block(&s->vi, data, s->blk); return;
	default: fail_msg("no seal for %s", kind_names[s->kind]);
	}
}

/* A byte whose change no verifier minds but for the checksum. */
static uint32_t harmless_at(const struct sample *s)
{
	switch (s->kind) {
	case SUPER: return offsetof(struct ext4_super_block, s_mnt_count);
	case DESC: return offsetof(struct ext4_group_desc, bg_used_dirs_count_lo);
	case BLOCK_BITMAP: return s->vi.geom->clusters_per_group / 8 - 1;
	case INODE_BITMAP: return s->vi.geom->inodes_per_group / 8 - 1;
	case INODE: return offsetof(struct ext4_inode, i_mtime);
	case EXTENTS: return offsetof(struct ext4_extent_header, eh_generation);
	case LEAF: return offsetof(struct ext4_dir_entry_2, file_type);
	case DX_ROOT: return offsetof(struct dx_root, dot) + offsetof(struct fake_dirent, inode);
	case DX_NODE: return offsetof(struct dx_node, fake.file_type);
	case XATTRS: return offsetof(struct ext4_xattr_header, h_refcount);
	case MMP: return offsetof(struct mmp_struct, mmp_seq);
	default: fail_msg("nothing harmless in %s", kind_names[s->kind]); return 0;
	}
}

/* Spoils what the seal has to write, and nothing else. */
static void break_seal(const struct sample *s, uint8_t *data, struct ext4_group_desc *gd)
{
	uint32_t hi, at;

	if (s->kind == BLOCK_BITMAP || s->kind == INODE_BITMAP) {
		bool inodes = s->kind == INODE_BITMAP;
		le16 *lo = inodes ? &gd->bg_inode_bitmap_csum_lo : &gd->bg_block_bitmap_csum_lo;

		*lo = le16_make(le16_get(*lo) ^ 0xFFFF);
		return;
	}
	at = checksum_at(s, data, &hi);
	data[at] ^= 0xFF;
	data[at + 1] ^= 0xFF;
	if (hi)
		data[hi] ^= 0xFF;
	if (s->kind == LEAF)
		memset(data + s->bytes - sizeof(struct ext4_dir_entry_tail), 0xFF,
		       sizeof(struct ext4_dir_entry_tail));
	if (s->kind == ORPHANS)
		memset(data + s->bytes - sizeof(struct ext4_orphan_block_tail), 0xFF,
		       sizeof(struct ext4_orphan_block_tail));
}

static bool is_sealed(const struct sample *s)
{
	const struct ext4_inode *raw = (const void *)s->data;
	uint16_t flags = le16_get(s->gd.bg_flags);

	if (!has_checksum(s))
		return false;
	switch (s->kind) {
	case INODE: return le16_get(raw->i_links_count) != 0;
	case BLOCK_BITMAP: return !(flags & EXT4_BG_BLOCK_UNINIT);
	case INODE_BITMAP: return !(flags & EXT4_BG_INODE_UNINIT);
	default: return true;
	}
}

struct seal_totals {
	unsigned sealed[KINDS];
};

static void visit_seal(const struct image *img, const struct sample *s, void *arg)
{
	struct seal_totals *t = arg;
	struct sample copied = *s;
	uint8_t *copy;

	if (!is_sealed(s))
		return;
	copy = malloc(s->bytes);
	assert_non_null(copy);
	memcpy(copy, s->data, s->bytes);
	break_seal(s, copy, &copied.gd);
	assert_int_not_equal(sample_verify(&copied, &img->geom, copy), 0);
	sample_seal(s, copy, &copied.gd);
	assert_memory_equal(copy, s->data, s->bytes);
	assert_memory_equal(&copied.gd, &s->gd, sizeof(s->gd));

	if (s->kind != ORPHANS)
		copy[harmless_at(s)] ^= 1;
	sample_seal(s, copy, &copied.gd);
	if (sample_verify(&copied, &img->geom, copy) != 0)
		fail_msg("%s: %s %" PRIu64 ": %s", img->recipe->name, kind_names[s->kind], s->blk,
			 diag_text());
	free(copy);
	t->sealed[s->kind]++;
}

static void seals_fit(void **state)
{
	struct seal_totals t = { { 0 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
		struct image img;

		image_open(&img, &recipes[i]);
		walk_image(&img, visit_seal, &t);
		image_close(&img);
	}
	for (unsigned k = 0; k < KINDS; k++) {
		if (k != INLINE_DIR && t.sealed[k] == 0)
			fail_msg("no %s was sealed", kind_names[k]);
	}
}

/* What has no checksum on disk is not touched. */
static void nothing_is_sealed_without_the_feature(void **state)
{
	const struct geom g = { .block_size = 1024, .desc_size = 32, .inode_size = 128 };
	const struct verify_inode vi = { .geom = &g, .ino = 12 };
	uint8_t block[1024], as_before[1024];
	void *data = block;

	(void)state;
	memset(block, 0, sizeof(block));
	memset(as_before, 0, sizeof(as_before));
	seal_super(data);
	seal_group_desc(&g, 0, data);
	seal_bitmap(&g, data, as_before, false);
	seal_inode(&g, 12, data);
	seal_extent_block(&vi, data);
	seal_dirent_block(&vi, data);
	seal_dx_root(&vi, data);
	seal_dx_node(&vi, data);
	seal_xattr_block(&g, data, 7);
	seal_mmp(&g, data);
	assert_memory_equal(block, as_before, sizeof(block));
}

/* ---- random damage --------------------------------------------------------------------------- */

static void damage(uint8_t *data, uint32_t bytes)
{
	static const uint32_t words[] = { 0,	   1,	       2,	   3,	      4,
					  8,	   12,	       0x7F,	   0xFF,      0x100,
					  0x7FFF,  0x8000,     0x8001,	   0xFFFC,    0xFFFF,
					  0x10000, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF };
	unsigned count = 1 + (unsigned)(rnd() % 4);

	for (unsigned i = 0; i < count; i++) {
		uint32_t width = 1u << rnd() % 3;
		/* Half of all hits go where headers and first entries are. */
		uint32_t range = rnd() % 2 ? bytes : (uint32_t)min_u64(bytes, 96);
		uint32_t at = (uint32_t)(rnd() % range) & ~(width - 1);
		uint32_t word = words[rnd() % ARRAY_SIZE(words)];

		switch (rnd() % 4) {
		case 0: data[at] ^= (uint8_t)(1u << rnd() % 8); break;
		case 1: data[at] = (uint8_t)rnd(); break;
		case 2: data[at] = (uint8_t)(data[at] + (rnd() % 2 ? 1 : -1)); break;
		default: memcpy(data + at, &word, width); break;
		}
	}
}

/* Puts the right checksum, which the verifier's complaint names, where the wrong one is. */
static void fix_checksum(const struct sample *s, uint8_t *data)
{
	const char *said = strstr(diag_text(), "should be ");
	uint32_t hi, at = checksum_at(s, data, &hi), wanted;
	bool is_short = s->kind == DESC || s->kind == INODE;

	assert_non_null(said);
	wanted = (uint32_t)strtoul(said + strlen("should be "), NULL, 16);
	memcpy(data + at, &wanted, is_short ? 2 : 4);
	if (hi) {
		wanted >>= 16;
		memcpy(data + hi, &wanted, 2);
	}
}

/* Reads of a block that passed all that later code reads; ASan sees a step outside. */
static uint64_t read_entries(const uint8_t *first, const uint8_t *base)
{
	uint64_t sum = 0;
	const struct ext4_xattr_entry *e = (const void *)first;

	for (; e->e_name_len || e->e_name_index || le16_get(e->e_value_offs);
	     e = (const void *)((const uint8_t *)e + EXT4_XATTR_LEN(e->e_name_len))) {
		for (uint32_t i = 0; i < e->e_name_len; i++)
			sum += (uint8_t)e->e_name[i];
		if (le32_get(e->e_value_inum) != 0)
			continue;
		for (uint32_t i = 0; i < le32_get(e->e_value_size); i++)
			sum += base[le16_get(e->e_value_offs) + i];
	}
	return sum;
}

static uint64_t read_dirents(const struct sample *s, const struct geom *g, const uint8_t *data)
{
	uint32_t bytes = s->bytes, steps = 0, rec_len;
	uint64_t sum = 0;

	if (s->kind == LEAF && geom_has_csum(g))
		bytes -= (uint32_t)sizeof(struct ext4_dir_entry_tail);
	for (uint32_t at = 0; at < bytes; at += rec_len) {
		const struct ext4_dir_entry_2 *de = (const void *)(data + at);

		rec_len = dirent_rec_len(de->rec_len, g->block_size);
		for (uint32_t i = 0; le32_get(de->inode) && i < de->name_len; i++)
			sum += (uint8_t)de->name[i];
		assert_true(++steps <= s->bytes / 12);
		assert_true(at + rec_len <= bytes);
	}
	return sum;
}

static void read_extents(const struct sample *s, const struct geom *g, const uint8_t *data)
{
	const struct ext4_extent_header *eh = (const void *)data;
	const struct ext4_extent *ext = (const void *)(eh + 1);
	uint64_t next = s->vi.first;

	for (unsigned i = 0; le16_get(eh->eh_depth) == 0 && i < le16_get(eh->eh_entries); i++) {
		blk_t start = (blk_t)le16_get(ext[i].ee_start_hi) << 32 |
			      le32_get(ext[i].ee_start_lo);

		assert_true(le32_get(ext[i].ee_block) >= next);
		next = (uint64_t)le32_get(ext[i].ee_block) + extent_len(&ext[i]);
		assert_true(next <= s->vi.end && extent_len(&ext[i]) > 0);
		assert_true(start > g->first_data_block &&
			    start + extent_len(&ext[i]) <= g->blocks);
	}
}

static void read_dx(const struct sample *s, const uint8_t *data)
{
	uint32_t row = s->kind == DX_ROOT ? sizeof(struct dx_root) : sizeof(struct dx_node);
	const struct dx_entry *entries = (const void *)(data + row);
	const struct dx_countlimit *cl = (const void *)entries;
	uint32_t count = le16_get(cl->count);

	assert_true(count > 0);
	for (uint32_t i = 0; i < count; i++)
		assert_true((le32_get(entries[i].block) & DX_BLOCK_MASK) > 0);
}

static uint64_t read_inode(const struct sample *s, const struct geom *g, const uint8_t *data)
{
	const struct ext4_inode *raw = (const void *)data;
	struct sample root = *s;
	uint32_t size = 0;

	if (le16_get(raw->i_links_count) == 0)
		return 0;
	if (le32_get(raw->i_flags) & EXT4_INLINE_DATA_FL) {
		const uint8_t *value = inline_value(g, raw, &size);
		uint64_t sum = 0;

		for (uint32_t i = 0; i < size; i++)
			sum += value[i];
		return sum;
	}
	root.vi.first = 0;
	if ((le32_get(raw->i_flags) & EXT4_EXTENTS_FL) && S_ISREG(le16_get(raw->i_mode)))
		read_extents(&root, g, (const uint8_t *)raw->i_block);
	return 0;
}

static uint64_t read_sample(const struct sample *s, const struct geom *g, const uint8_t *data)
{
	switch (s->kind) {
	case LEAF:
	case INLINE_DIR: return read_dirents(s, g, data);
	case XATTRS: return read_entries(data + sizeof(struct ext4_xattr_header), data);
	case EXTENTS: read_extents(s, g, data); return 0;
	case DX_ROOT:
	case DX_NODE: read_dx(s, data); return 0;
	case INODE: return read_inode(s, g, data);
	default: return 0;
	}
}

struct damage_totals {
	unsigned rounds_left[KINDS];
	uint64_t passed, refused, sum;
};

static void visit_damage(const struct image *img, const struct sample *s, void *arg)
{
	struct damage_totals *t = arg;
	struct geom bare = img->geom;
	uint8_t *copy;
	int err;

	/* Some rounds for each of several blocks of a kind. */
	if (t->rounds_left[s->kind] == 0 || (s->kind == INODE && rnd() % 8 != 0))
		return;
	bare.ro_compat &= ~(EXT4_FEATURE_RO_COMPAT_METADATA_CSUM | EXT4_FEATURE_RO_COMPAT_GDT_CSUM);
	copy = malloc(s->bytes);
	assert_non_null(copy);
	for (unsigned i = 0; i < 20 && t->rounds_left[s->kind] > 0;
	     i++, t->rounds_left[s->kind]--) {
		const struct geom *g = rnd() % 2 ? &img->geom : &bare;

		memcpy(copy, s->data, s->bytes);
		damage(copy, s->bytes);
		err = sample_verify(s, g, copy);
		if (err == -EFSBADCRC && s->kind != BLOCK_BITMAP && s->kind != INODE_BITMAP) {
			fix_checksum(s, copy);
			err = sample_verify(s, g, copy);
		}
		if (err == 0) {
			t->sum += read_sample(s, g, copy);
			t->passed++;
		} else {
			assert_true(err == -EFSCORRUPTED || err == -EFSBADCRC ||
				    (s->kind == SUPER && (err == -EINVAL || err == -EOPNOTSUPP)));
			assert_string_not_equal(diag_text(), "");
			t->refused++;
		}
	}
	free(copy);
}

static void damage_stays_inside(void **state)
{
	uint64_t passed = 0, refused = 0, sum = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
		struct damage_totals t = { .passed = 0 };
		struct image img;

		for (unsigned k = 0; k < KINDS; k++)
			t.rounds_left[k] = rounds;
		image_open(&img, &recipes[i]);
		walk_image(&img, visit_damage, &t);
		image_close(&img);
		passed += t.passed;
		refused += t.refused;
		sum += t.sum;
	}
	print_message("%" PRIu64 " damaged blocks passed and were read (sum %" PRIu64 "), %" PRIu64
		      " were refused\n",
		      passed, sum, refused);
	assert_true(passed > 100 && refused > 100);
}

/* ---- superblocks by hand --------------------------------------------------------------------- */

/* 100 MiB of ext2 in blocks of 1 KiB; tests change it. */
static struct ext4_super_block plain_super(void)
{
	struct ext4_super_block sb;

	memset(&sb, 0, sizeof(sb));
	sb.s_magic = le16_make(EXT4_SUPER_MAGIC);
	sb.s_rev_level = le32_make(EXT4_DYNAMIC_REV);
	sb.s_blocks_count_lo = le32_make(102400);
	sb.s_first_data_block = le32_make(1);
	sb.s_blocks_per_group = le32_make(8192);
	sb.s_clusters_per_group = le32_make(8192);
	sb.s_inodes_per_group = le32_make(2000);
	sb.s_inodes_count = le32_make(13 * 2000);
	sb.s_first_ino = le32_make(11);
	sb.s_inode_size = le16_make(128);
	return sb;
}

#define MIB100 (UINT64_C(100) << 20)

static void geometry_plain(void **state)
{
	struct ext4_super_block sb = plain_super();
	struct geom g;

	(void)state;
	assert_int_equal(geom_init(&sb, MIB100, &g), 0);
	assert_int_equal(g.block_size, 1024);
	assert_int_equal(g.block_bits, 10);
	assert_int_equal(g.cluster_ratio, 1);
	assert_int_equal(g.groups, 13);
	assert_int_equal(g.desc_size, 32);
	assert_int_equal(g.desc_per_block, 32);
	assert_int_equal(g.desc_blocks, 1);
	assert_int_equal(g.inodes_per_block, 8);
	assert_int_equal(g.inode_table_blocks, 250);
	assert_int_equal(g.extra_isize_want, 0);
	assert_int_equal(g.csum_seed, 0);
	assert_int_equal(geom_group_first_block(&g, 12), 1 + 12 * 8192);
	assert_int_equal(geom_desc_block(&g, 1, 0), 2);
	assert_int_equal(geom_desc_block(&g, 8193, 0), 8194);
	for (uint32_t group = 0; group < 13; group++)
		assert_true(geom_group_has_super(&g, group));
}

static void geometry_sparse_super(void **state)
{
	struct ext4_super_block sb = plain_super();
	uint32_t found = 0;
	struct geom g;

	(void)state;
	sb.s_feature_ro_compat = le32_make(EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER);
	assert_int_equal(geom_init(&sb, MIB100, &g), 0);
	for (uint32_t group = 0; group < 13; group++)
		found |= (uint32_t)geom_group_has_super(&g, group) << group;
	assert_int_equal(found, 1u << 0 | 1u << 1 | 1u << 3 | 1u << 5 | 1u << 7 | 1u << 9);

	sb.s_feature_compat = le32_make(EXT4_FEATURE_COMPAT_SPARSE_SUPER2);
	sb.s_backup_bgs[0] = le32_make(1);
	sb.s_backup_bgs[1] = le32_make(12);
	assert_int_equal(geom_init(&sb, MIB100, &g), 0);
	found = 0;
	for (uint32_t group = 0; group < 13; group++)
		found |= (uint32_t)geom_group_has_super(&g, group) << group;
	assert_int_equal(found, 1u << 0 | 1u << 1 | 1u << 12);
}

/* 16 EiB minus little would overflow; 1 PiB does not. */
static void geometry_64bit(void **state)
{
	struct ext4_super_block sb = plain_super();
	struct geom g;

	(void)state;
	sb.s_feature_incompat = le32_make(EXT4_FEATURE_INCOMPAT_64BIT |
					  EXT4_FEATURE_INCOMPAT_META_BG);
	sb.s_feature_ro_compat = le32_make(EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER);
	sb.s_log_block_size = sb.s_log_cluster_size = le32_make(2);
	sb.s_blocks_count_lo = le32_make(0);
	sb.s_blocks_count_hi = le32_make(64); /* 2^38 blocks of 2^12 bytes */
	sb.s_first_data_block = le32_make(0);
	sb.s_blocks_per_group = sb.s_clusters_per_group = le32_make(32768);
	sb.s_desc_size = le16_make(64);
	sb.s_inodes_per_group = le32_make(256);
	sb.s_inodes_count = le32_make(256u << 23);
	assert_int_equal(geom_init(&sb, UINT64_C(1) << 50, &g), 0);
	assert_int_equal(g.groups, 1u << 23);
	assert_int_equal(g.desc_blocks, 1u << 17);
	/* The group of the last descriptor block, and its copy one group behind. */
	assert_int_equal(geom_desc_block(&g, 0, 131071), UINT64_C(131071) * 64 * 32768);
	assert_int_equal(geom_desc_block(&g, 32768, 131071), (UINT64_C(131071) * 64 + 1) * 32768);

	assert_int_equal(geom_init(&sb, (UINT64_C(1) << 50) - 1, &g), -EFSCORRUPTED);
	assert_non_null(strstr(diag_text(), "274877906944 blocks of 4096"));
	assert_non_null(strstr(diag_text(), "1125899906842623 bytes"));
	sb.s_blocks_count_hi = le32_make(UINT32_MAX);
	assert_int_equal(geom_init(&sb, UINT64_MAX, &g), -EFSCORRUPTED);
	/* Without 64bit the upper halves mean nothing. */
	sb.s_feature_incompat = le32_make(0);
	sb.s_blocks_count_lo = le32_make(32768);
	sb.s_inodes_count = le32_make(256);
	assert_int_equal(geom_init(&sb, UINT64_C(1) << 27, &g), 0);
	assert_int_equal(g.desc_size, 32);
}

static void geometry_bigalloc(void **state)
{
	struct ext4_super_block sb = plain_super();
	struct geom g;

	(void)state;
	sb.s_feature_ro_compat = le32_make(EXT4_FEATURE_RO_COMPAT_BIGALLOC);
	sb.s_log_cluster_size = le32_make(4);
	sb.s_first_data_block = le32_make(0);
	sb.s_blocks_per_group = le32_make(8192 * 16);
	sb.s_inodes_count = le32_make(2000);
	assert_int_equal(geom_init(&sb, MIB100, &g), 0);
	assert_int_equal(g.cluster_ratio, 16);
	assert_int_equal(g.cluster_ratio_bits, 4);
	assert_int_equal(g.clusters_per_group, 8192);
	assert_int_equal(g.blocks_per_group, 131072);
	assert_int_equal(g.groups, 1);
	sb.s_blocks_per_group = le32_make(8192);
	assert_int_equal(geom_init(&sb, MIB100, &g), -EFSCORRUPTED);
	sb.s_blocks_per_group = le32_make(8192 * 16);
	sb.s_log_cluster_size = le32_make(21);
	assert_int_equal(geom_init(&sb, MIB100, &g), -EFSCORRUPTED);
	/* A ratio so large that the product needs more than 32 bits. */
	sb.s_log_cluster_size = le32_make(20);
	sb.s_blocks_per_group = le32_make(0);
	assert_int_equal(geom_init(&sb, MIB100, &g), -EFSCORRUPTED);
}

static void geometry_bad_fields(void **state)
{
#define FIELD32(f, v)                                          \
	{                                                      \
#f, offsetof(struct ext4_super_block, f), 4, v \
	}
#define FIELD16(f, v)                                          \
	{                                                      \
#f, offsetof(struct ext4_super_block, f), 2, v \
	}
	static const struct {
		const char *name;
		size_t at, width;
		uint32_t value;
	} changes[] = {
		FIELD32(s_log_block_size, 7),
		FIELD32(s_log_block_size, UINT32_MAX),
		FIELD32(s_log_cluster_size, 1),
		FIELD32(s_log_cluster_size, UINT32_MAX),
		FIELD32(s_blocks_per_group, 0),
		FIELD32(s_blocks_per_group, 8193),
		FIELD32(s_blocks_per_group, UINT32_MAX),
		FIELD32(s_blocks_per_group, 8191 / 2),
		FIELD32(s_inodes_per_group, 0),
		FIELD32(s_inodes_per_group, 7),
		FIELD32(s_inodes_per_group, 8193),
		FIELD32(s_inodes_per_group, 1999),
		FIELD32(s_inodes_count, 0),
		FIELD32(s_inodes_count, 25999),
		FIELD32(s_blocks_count_lo, 0),
		FIELD32(s_blocks_count_lo, 1),
		FIELD32(s_blocks_count_lo, 102401),
		FIELD32(s_first_data_block, 0),
		FIELD32(s_first_data_block, 102400),
		FIELD32(s_first_ino, 10),
		FIELD32(s_first_ino, 26001),
		FIELD16(s_inode_size, 0),
		FIELD16(s_inode_size, 64),
		FIELD16(s_inode_size, 192),
		FIELD16(s_inode_size, 2048),
		FIELD16(s_reserved_gdt_blocks, 257),
	};
#undef FIELD32
#undef FIELD16
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		struct ext4_super_block sb = plain_super();
		struct geom g = { .groups = 4711 };
		le32 value = le32_make(changes[i].value);

		memcpy((uint8_t *)&sb + changes[i].at, &value, changes[i].width);
		if (geom_init(&sb, MIB100, &g) != -EFSCORRUPTED)
			fail_msg("%s = %u is accepted", changes[i].name, changes[i].value);
		assert_int_equal(g.groups, 4711);
	}
}

static void geometry_revisions_and_extra(void **state)
{
	struct ext4_super_block sb = plain_super();
	struct geom g;

	(void)state;
	/* Revision 0 has no field for the size of inodes; what lies there means nothing. */
	sb.s_rev_level = le32_make(EXT4_GOOD_OLD_REV);
	sb.s_inode_size = le16_make(77);
	sb.s_first_ino = le32_make(0);
	assert_int_equal(geom_init(&sb, MIB100, &g), 0);
	assert_int_equal(g.inode_size, 128);
	assert_int_equal(g.first_ino, 11);

	sb = plain_super();
	sb.s_inode_size = le16_make(256);
	assert_int_equal(geom_init(&sb, MIB100, &g), 0);
	assert_int_equal(g.extra_isize_want, 32);
	sb.s_feature_ro_compat = le32_make(EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE);
	sb.s_want_extra_isize = le16_make(28);
	sb.s_min_extra_isize = le16_make(64);
	assert_int_equal(geom_init(&sb, MIB100, &g), 0);
	assert_int_equal(g.extra_isize_want, 64);
	sb.s_want_extra_isize = le16_make(129);
	assert_int_equal(geom_init(&sb, MIB100, &g), -EFSCORRUPTED);
	/* A size nobody can use is no reason to refuse: the kernel ignores it. */
	sb = plain_super();
	sb.s_log_groups_per_flex = 200;
	assert_int_equal(geom_init(&sb, MIB100, &g), 0);
}

static void features_are_refused_by_name(void **state)
{
	struct ext4_super_block sb = plain_super();
	struct geom g;

	(void)state;
	sb.s_feature_incompat = le32_make(EXT4_FEATURE_INCOMPAT_ENCRYPT |
					  EXT4_FEATURE_INCOMPAT_CASEFOLD | 1u << 30);
	assert_int_equal(geom_init(&sb, MIB100, &g), -EOPNOTSUPP);
	assert_non_null(strstr(diag_text(), "encrypt"));
	assert_non_null(strstr(diag_text(), "casefold"));
	assert_non_null(strstr(diag_text(), "FEATURE_I30"));
	sb.s_feature_incompat = le32_make(UINT32_MAX & ~EXT4_FEATURE_INCOMPAT_JOURNAL_DEV);
	assert_int_equal(geom_init(&sb, MIB100, &g), -EOPNOTSUPP);
	assert_non_null(strstr(diag_text(), "FEATURE_I31"));
	sb.s_feature_incompat = le32_make(EXT4_FEATURE_INCOMPAT_JOURNAL_DEV);
	assert_int_equal(geom_init(&sb, MIB100, &g), -EOPNOTSUPP);
	assert_non_null(strstr(diag_text(), "external journal"));
	/* Unknown compatible ones do not matter here. */
	sb.s_feature_incompat = le32_make(0);
	sb.s_feature_compat = le32_make(UINT32_MAX & ~EXT4_FEATURE_COMPAT_SPARSE_SUPER2);
	sb.s_feature_ro_compat = le32_make(1u << 29);
	assert_int_equal(geom_init(&sb, MIB100, &g), 0);
	sb.s_magic = le16_make(0x4711);
	assert_int_equal(geom_init(&sb, MIB100, &g), -EINVAL);
}

/*
 * dumpe2fs says how each bit is called: bit by bit, on an otherwise empty superblock of 1 KiB
 * blocks.
 */
static void feature_names_are_those_of_e2fsprogs(void **state)
{
	static const size_t at[3] = { offsetof(struct ext4_super_block, s_feature_compat),
				      offsetof(struct ext4_super_block, s_feature_incompat),
				      offsetof(struct ext4_super_block, s_feature_ro_compat) };
	char command[512], line[256];

	(void)state;
	run("mke2fs -F -q -t ext4 -b 1024 -O 64bit,^has_journal %s/features.img 1M >/dev/null 2>&1",
	    scratch);
	for (unsigned set = 0; set < 3; set++) {
		for (unsigned bit = 0; bit < 32; bit++) {
			const char *name = feature_name(set, bit);
			char expected[64], found[64] = "";
			FILE *f;

			snprintf(command, sizeof(command), "%s/features.img", scratch);
			f = fopen(command, "r+");
			assert_non_null(f);
			for (unsigned i = 0; i < 3; i++) {
				le32 value = le32_make(i == set ? 1u << bit : 0);

				fseek(f, (long)(EXT4_SUPER_OFFSET + at[i]), SEEK_SET);
				assert_int_equal(fwrite(&value, sizeof(value), 1, f), 1);
			}
			fclose(f);
			snprintf(command, sizeof(command),
				 "dumpe2fs -f -h %s/features.img 2>/dev/null", scratch);
			f = popen(command, "r");
			assert_non_null(f);
			while (fgets(line, sizeof(line), f))
				if (sscanf(line, "Filesystem features: %63s", found) == 1)
					break;
			pclose(f);
			if (name)
				snprintf(expected, sizeof(expected), "%s", name);
			else
				snprintf(expected, sizeof(expected), "FEATURE_%c%u", "CIR"[set],
					 bit);
			assert_string_equal(found, expected);
		}
	}
	assert_null(feature_name(3, 0));
	assert_null(feature_name(0, 32));
}

static void record_lengths(void **state)
{
	(void)state;
	assert_int_equal(dirent_rec_len(le16_make(12), 4096), 12);
	assert_int_equal(dirent_rec_len(le16_make(0), 4096), 0);
	assert_int_equal(dirent_rec_len(le16_make(65535), 65536), 65536);
	assert_int_equal(dirent_rec_len(le16_make(0), 65536), 65536);
	assert_int_equal(dirent_rec_len(le16_make(65524), 65536), 65524);
	assert_int_equal(dirent_rec_len(le16_make(5), 65536), 4 + 65536);
}

/* ---- inodes by hand -------------------------------------------------------------------------- */

/* 100,000 blocks of 1 KiB, no checksums; inodes of 256 bytes. */
static const struct geom plain_geom = {
	.block_size = 1024,
	.block_bits = 10,
	.inode_size = 256,
	.inodes = 1000,
	.first_ino = 11,
	.first_data_block = 1,
	.blocks = 100000,
};

union inode_buf {
	struct ext4_inode raw;
	uint8_t bytes[256];
};

static union inode_buf plain_inode(uint16_t mode, uint32_t flags)
{
	union inode_buf buf;

	memset(&buf, 0, sizeof(buf));
	buf.raw.i_mode = le16_make(mode);
	buf.raw.i_links_count = le16_make(1);
	buf.raw.i_flags = le32_make(flags);
	buf.raw.i_extra_isize = le16_make(32);
	return buf;
}

static int check(const union inode_buf *buf)
{
	return verify_inode(&plain_geom, 12, &buf->raw);
}

static void inodes_unused_and_typed(void **state)
{
	static const uint16_t extras[] = { 0, 4, 28, 32, 124, 128 };
	union inode_buf buf;

	(void)state;
	memset(&buf, 0, sizeof(buf));
	assert_int_equal(check(&buf), 0);
	/* What was never in use may hold anything, as blocks of an old file do. */
	memset(&buf, 0xA5, sizeof(buf));
	buf.raw.i_mode = buf.raw.i_links_count = le16_make(0);
	assert_int_equal(check(&buf), 0);

	for (uint16_t type = 0; type < 16; type++) {
		bool known = strchr("\x1\x2\x4\x6\x8\xa\xc", type) && type != 0;

		buf = plain_inode((uint16_t)(type << 12 | 0644), 0);
		assert_int_equal(check(&buf), known ? 0 : -EFSCORRUPTED);
	}
	buf = plain_inode(0, 0);
	assert_int_equal(verify_inode(&plain_geom, EXT4_BOOT_LOADER_INO, &buf.raw), 0);

	for (size_t i = 0; i < ARRAY_SIZE(extras); i++) {
		buf = plain_inode(S_IFREG, 0);
		buf.raw.i_extra_isize = le16_make(extras[i]);
		assert_int_equal(check(&buf), 0);
		buf.raw.i_extra_isize = le16_make((uint16_t)(extras[i] + 2));
		assert_int_equal(check(&buf), -EFSCORRUPTED);
	}
	buf.raw.i_extra_isize = le16_make(132);
	assert_int_equal(check(&buf), -EFSCORRUPTED);
}

static void inodes_map_blocks(void **state)
{
	union inode_buf buf = plain_inode(S_IFREG, 0);

	(void)state;
	buf.raw.i_block[14] = le32_make(99999);
	assert_int_equal(check(&buf), 0);
	buf.raw.i_block[14] = le32_make(100000);
	assert_int_equal(check(&buf), -EFSCORRUPTED);
	buf.raw.i_block[14] = le32_make(1); /* the superblock */
	assert_int_equal(check(&buf), -EFSCORRUPTED);
	/* A device number is no block. */
	buf.raw.i_mode = le16_make(S_IFCHR);
	assert_int_equal(check(&buf), 0);
	buf.raw.i_file_acl_lo = le32_make(100000);
	assert_int_equal(check(&buf), -EFSCORRUPTED);

	/* A short target is no block either, whatever the flags; a long one lies in a block. */
	buf = plain_inode(S_IFLNK, EXT4_EXTENTS_FL);
	memset(buf.raw.i_block, 'x', sizeof(buf.raw.i_block));
	buf.raw.i_size_lo = le32_make(59);
	assert_int_equal(check(&buf), 0);
	buf.raw.i_size_lo = le32_make(60);
	assert_int_equal(check(&buf), -EFSCORRUPTED);
	buf = plain_inode(S_IFLNK, 0);
	buf.raw.i_size_lo = le32_make(1023);
	assert_int_equal(check(&buf), 0);
	buf.raw.i_size_lo = le32_make(1024);
	assert_int_equal(check(&buf), -EFSCORRUPTED);

	/* Sizes: as large as lblk_t, and what lies above that. */
	buf = plain_inode(S_IFREG, 0);
	buf.raw.i_size_high = le32_make(1023);
	buf.raw.i_size_lo = le32_make(UINT32_MAX - 1023);
	assert_int_equal(check(&buf), 0);
	buf.raw.i_size_high = le32_make(0x80000000);
	assert_int_equal(check(&buf), -EFSCORRUPTED);
	buf.raw.i_mode = le16_make(S_IFDIR); /* once the directory's ACL */
	assert_int_equal(check(&buf), 0);
}

static union inode_buf extent_inode(uint16_t entries, uint16_t depth)
{
	union inode_buf buf = plain_inode(S_IFREG, EXT4_EXTENTS_FL);
	struct ext4_extent_header *eh = (void *)buf.raw.i_block;

	eh->eh_magic = le16_make(EXT4_EXT_MAGIC);
	eh->eh_entries = le16_make(entries);
	eh->eh_max = le16_make(4);
	eh->eh_depth = le16_make(depth);
	return buf;
}

static void set_extent(union inode_buf *buf, unsigned i, uint32_t block, uint16_t len,
		       uint32_t start)
{
	struct ext4_extent *ext = (void *)((uint8_t *)buf->raw.i_block + 12);

	ext[i].ee_block = le32_make(block);
	ext[i].ee_len = le16_make(len);
	ext[i].ee_start_lo = le32_make(start);
}

static void inodes_extent_roots(void **state)
{
	static const struct {
		uint32_t block0, start0, block1, start1;
		uint16_t len0, len1;
		int result;
	} cases[] = {
		{ 0, 1000, 10, 2000, 10, 1, 0 },
		{ 0, 1000, 9, 2000, 10, 1, -EFSCORRUPTED }, /* overlap */
		{ 10, 1000, 5, 2000, 1, 1, -EFSCORRUPTED }, /* order */
		{ 0, 1000, 10, 2000, 0, 1, -EFSCORRUPTED }, /* empty */
		{ 0, 1000, 32768, 2000, 32768, 1, 0 },	    /* longest */
		{ 0, 1000, 1, 2000, 32769, 65535, 0 },	    /* unwritten: 1 and 32767 */
		{ 0, 1000, 32767, 2000, 32768, 1, -EFSCORRUPTED },
		{ 0, 1000, 0xFFFFFFFE, 2000, 1, 1, 0 },
		{ 0, 1000, 0xFFFFFFFF, 2000, 1, 1, -EFSCORRUPTED }, /* lblk_t ends before */
		{ 0, 1000, 0xFFFFFFFE, 2000, 1, 2, -EFSCORRUPTED },
		{ 0, 1000, 10, 99999, 10, 1, 0 },
		{ 0, 1000, 10, 99999, 10, 2, -EFSCORRUPTED }, /* beyond the file system */
		{ 0, 1000, 10, 1, 10, 1, -EFSCORRUPTED },     /* the superblock */
	};
	union inode_buf buf;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		buf = extent_inode(2, 0);
		set_extent(&buf, 0, cases[i].block0, cases[i].len0, cases[i].start0);
		set_extent(&buf, 1, cases[i].block1, cases[i].len1, cases[i].start1);
		if (check(&buf) != cases[i].result)
			fail_msg("case %zu: %s", i, diag_text());
	}
	buf = extent_inode(0, 0);
	assert_int_equal(check(&buf), 0);
	buf = extent_inode(0, 1);
	assert_int_equal(check(&buf), -EFSCORRUPTED);
	/* As an index, the third word of an entry is the upper half of its block, and unused. */
	buf = extent_inode(1, 5);
	set_extent(&buf, 0, 0, 1000, 0);
	assert_int_equal(check(&buf), 0);
	buf = extent_inode(1, 6);
	set_extent(&buf, 0, 0, 1000, 0);
	assert_int_equal(check(&buf), -EFSCORRUPTED);
	buf = extent_inode(5, 0);
	assert_int_equal(check(&buf), -EFSCORRUPTED);
	buf = extent_inode(0, 0);
	((struct ext4_extent_header *)(void *)buf.raw.i_block)->eh_max = le16_make(5);
	assert_int_equal(check(&buf), -EFSCORRUPTED);
}

static void inodes_inline(void **state)
{
	struct geom g = plain_geom;
	union inode_buf buf = plain_inode(S_IFREG, EXT4_INLINE_DATA_FL);
	struct ext4_xattr_entry *e = (void *)(buf.bytes + 128 + 32 + 4);
	le32 magic = le32_make(EXT4_XATTR_MAGIC);

	(void)state;
	g.incompat = EXT4_FEATURE_INCOMPAT_INLINE_DATA;
	assert_int_equal(verify_inode(&g, 12, &buf.raw), -EFSCORRUPTED); /* no system.data */
	memcpy(buf.bytes + 128 + 32, &magic, sizeof(magic));
	e->e_name_index = EXT4_XATTR_INDEX_SYSTEM;
	e->e_name_len = 4;
	memcpy(e->e_name, "data", 4);
	e->e_value_size = le32_make(40);
	e->e_value_offs = le16_make(52); /* the last 40 bytes of 92 */
	buf.raw.i_size_lo = le32_make(100);
	assert_int_equal(verify_inode(&g, 12, &buf.raw), 0);
	assert_int_equal(verify_inode(&plain_geom, 12, &buf.raw), -EFSCORRUPTED); /* no feature */
	/* Beyond what fits: zeros in a file, nonsense in a directory. */
	buf.raw.i_size_lo = le32_make(101);
	assert_int_equal(verify_inode(&g, 12, &buf.raw), 0);
	buf.raw.i_mode = le16_make(S_IFDIR);
	assert_int_equal(verify_inode(&g, 12, &buf.raw), -EFSCORRUPTED);
	buf.raw.i_size_lo = le32_make(100);
	assert_int_equal(verify_inode(&g, 12, &buf.raw), 0);
	buf.raw.i_mode = le16_make(S_IFREG);
	e->e_value_offs = le16_make(56);
	assert_int_equal(verify_inode(&g, 12, &buf.raw), -EFSCORRUPTED);
	e->e_value_offs = le16_make(20); /* inside the row of entries */
	assert_int_equal(verify_inode(&g, 12, &buf.raw), -EFSCORRUPTED);
	e->e_value_offs = le16_make(52);
	buf.raw.i_flags = le32_make(EXT4_INLINE_DATA_FL | EXT4_EXTENTS_FL);
	assert_int_equal(verify_inode(&g, 12, &buf.raw), -EFSCORRUPTED);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(geometry_plain),
		cmocka_unit_test(geometry_sparse_super),
		cmocka_unit_test(geometry_64bit),
		cmocka_unit_test(geometry_bigalloc),
		cmocka_unit_test(geometry_bad_fields),
		cmocka_unit_test(geometry_revisions_and_extra),
		cmocka_unit_test(features_are_refused_by_name),
		cmocka_unit_test(record_lengths),
		cmocka_unit_test(inodes_unused_and_typed),
		cmocka_unit_test(inodes_map_blocks),
		cmocka_unit_test(inodes_extent_roots),
		cmocka_unit_test(inodes_inline),
		cmocka_unit_test(feature_names_are_those_of_e2fsprogs),
		cmocka_unit_test(images_pass),
		cmocka_unit_test(backups_are_found),
		cmocka_unit_test(flipped_bits_are_found),
		cmocka_unit_test(seals_fit),
		cmocka_unit_test(nothing_is_sealed_without_the_feature),
		cmocka_unit_test(damage_stays_inside),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	if (argc > 2)
		rounds = (unsigned)strtoul(argv[2], NULL, 0);
	print_message("seed %" PRIu64 "\n", seed);
	return cmocka_run_group_tests(tests, make_tree, remove_tree);
}
