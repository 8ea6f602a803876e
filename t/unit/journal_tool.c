/* SPDX-License-Identifier: MIT */
/*
 * uext4-txn: writes transactions into an image, through its journal, and dies or ends well; for
 * t/txn.py, which has others replay them.
 *
 *	uext4-txn IMAGE SEED OPERATIONS crash|close BLOCK... [--journal DEVICE]
 *
 * The blocks are those of one file.  The first is the map: it says which operation was the last,
 * and what each of the others holds: metadata (through the journal), data (past it), or nothing.
 * Each operation also writes its number into the label of the superblock.  Prints the operation
 * that was acknowledged last.  "crash" leaves without a word to the journal: what is in the log
 * stays there.
 */
#include "base/diag.h"
#include "disk/seal.h"
#include "fs/fs_priv.h"
#include "journal/handle.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BLOCKS_MAX 60u

enum use { USE_FREE, USE_META, USE_DATA };

struct map {
	uint32_t op;
	struct {
		uint32_t use, value;
	} block[BLOCKS_MAX];
};

struct client {
	struct uext4_fs *fs;
	struct txn_log *log;
	uint64_t rnd;
	blk_t blocks[BLOCKS_MAX];
	uint32_t count;
	struct map map;
	bool frozen[BLOCKS_MAX]; /* freed, and not yet committed */
};

static NORETURN void die(const char *what)
{
	fprintf(stderr, "uext4-txn: %s: %s\n", what, diag_text());
	exit(1);
}

static void must(int err, const char *what)
{
	if (err < 0)
		die(what);
}

static uint32_t below(struct client *c, uint32_t n)
{
	c->rnd ^= c->rnd >> 12;
	c->rnd ^= c->rnd << 25;
	c->rnd ^= c->rnd >> 27;
	return (uint32_t)((c->rnd * UINT64_C(2685821657736338717)) >> 33) % n;
}

static int verify_any(const void *data, uint32_t bytes, blk_t blk, const void *arg)
{
	return 0;
}

static const struct buf_ops any_ops = { .name = "block", .verify = verify_any };

/* As t/txn.py has it: some begin as the blocks of a journal do. */
static void fill(uint8_t *data, uint32_t bytes, uint32_t i, uint32_t use, uint32_t value)
{
	be32 magic = be32_make(JBD2_MAGIC_NUMBER);
	le32 number = le32_make(value);

	memset(data, (int)(value * (use == USE_META ? 7 : 13) + i), bytes);
	memcpy(data + 16, &number, sizeof(number));
	if (use == USE_META && value % 3 == 0)
		memcpy(data, &magic, sizeof(magic));
}

static void put_block(struct client *c, struct handle *h, uint32_t i, const void *bytes, size_t n)
{
	struct buf *buf;

	must(buf_create(c->fs->cache, c->blocks[i], &any_ops, 1, &buf), "buffer");
	must(handle_get_create(h, buf), "write access");
	if (bytes != NULL)
		memcpy(buf->data, bytes, n);
	else
		fill(buf->data, buf->bytes, i, USE_META, c->map.block[i].value);
	handle_dirty(h, buf);
	buf_put(buf);
}

static void put_map(struct client *c, struct handle *h)
{
	le32 words[1 + 2 * BLOCKS_MAX] = { { 0 } };

	words[0] = le32_make(c->map.op);
	for (uint32_t i = 0; i < c->count; i++) {
		words[1 + 2 * i] = le32_make(c->map.block[i].use);
		words[2 + 2 * i] = le32_make(c->map.block[i].value);
	}
	put_block(c, h, 0, words, sizeof(words));
}

static void put_label(struct client *c, struct handle *h)
{
	uint32_t bs = c->fs->geom.block_size;
	struct ext4_super_block *sb;
	struct buf *buf;

	must(buf_read(c->fs->cache, EXT4_SUPER_OFFSET / bs, &any_ops, 0, NULL, 0, &buf), "super");
	must(handle_get_write(h, buf), "write access");
	sb = (struct ext4_super_block *)(void *)(buf->data + EXT4_SUPER_OFFSET % bs);
	memset(sb->s_volume_name, 0, sizeof(sb->s_volume_name));
	(void)snprintf(sb->s_volume_name, sizeof(sb->s_volume_name), "op%u", c->map.op);
	seal_super(sb);
	handle_dirty(h, buf);
	buf_put(buf);
}

static void write_data(struct client *c, uint32_t i)
{
	uint32_t bs = c->fs->geom.block_size;
	uint8_t *data = malloc(bs);

	fill(data, bs, i, USE_DATA, c->map.block[i].value);
	must(dev_write(c->fs->dev, c->blocks[i] * bs, data, bs), "data");
	free(data);
}

static void change_block(struct client *c, struct handle *h, uint32_t i)
{
	uint32_t dice = below(c, 3), use = c->map.block[i].use;

	if (use == USE_FREE && c->frozen[i])
		return;
	if (use != USE_FREE && dice == 0) {
		if (use == USE_META)
			must(handle_forget(h, c->blocks[i]), "forget");
		c->frozen[i] = true;
		c->map.block[i].use = USE_FREE;
	} else if (use == USE_META || (use == USE_FREE && dice != 0)) {
		c->map.block[i].use = USE_META;
		c->map.block[i].value = c->map.op;
		put_block(c, h, i, NULL, 0);
	} else if (use == USE_FREE) {
		c->map.block[i].use = USE_DATA;
		c->map.block[i].value = c->map.op;
		write_data(c, i);
	}
}

static void operation(struct client *c)
{
	struct handle *h;

	must(handle_start(c->log, 12, &h), "handle");
	c->map.op++;
	for (uint32_t n = below(c, 10); n > 0; n--)
		change_block(c, h, 1 + below(c, c->count - 1));
	put_map(c, h);
	put_label(c, h);
	must(handle_stop(h), "handle");
}

static void on_committed(void *arg, tid_t tid)
{
	struct client *c = arg;

	memset(c->frozen, 0, sizeof(c->frozen));
}

static const struct txn_log_ops ops = { .committed = on_committed };

/* RECOVER, as a mount for writing sets it, past the journal. */
static void mark(struct client *c, bool recover)
{
	struct ext4_super_block sb;
	uint32_t incompat;

	must(dev_read(c->fs->dev, EXT4_SUPER_OFFSET, &sb, sizeof(sb)), "super");
	incompat = le32_get(sb.s_feature_incompat) & ~EXT4_FEATURE_INCOMPAT_RECOVER;
	if (recover)
		incompat |= EXT4_FEATURE_INCOMPAT_RECOVER;
	sb.s_feature_incompat = le32_make(incompat);
	seal_super(&sb);
	must(dev_write(c->fs->dev, EXT4_SUPER_OFFSET, &sb, sizeof(sb)), "super");
	must(dev_flush(c->fs->dev), "super");
}

static void start(struct client *c, const char *image, const char *journal)
{
	struct fs_options options = { .cache_bytes = 16 << 20 };
	struct txn_log_options log_options = { .ops = &ops, .arg = c };
	struct dev *dev, *external = NULL;
	struct journal *j;

	must(dev_file_open(image, 0, 0, DEV_FILE_WRITE, &dev), "image");
	if (journal != NULL)
		must(dev_file_open(journal, 0, 0, DEV_FILE_WRITE, &external), "journal");
	must(fs_open(dev, &options, NULL, &c->fs), "open");
	must(super_journal_open(c->fs, external, &j), "journal");
	log_options.cache = c->fs->cache;
	log_options.dev = c->fs->dev;
	log_options.wide = geom_has_incompat(&c->fs->geom, EXT4_FEATURE_INCOMPAT_64BIT);
	log_options.csum = geom_has_ro_compat(&c->fs->geom, EXT4_FEATURE_RO_COMPAT_METADATA_CSUM);
	mark(c, true);
	must(txn_log_create(j, &log_options, &c->log), "log");
}

int main(int argc, char **argv)
{
	static struct client c;
	const char *journal = NULL;
	uint32_t acked = 0;

	if (argc > 6 && strcmp(argv[argc - 2], "--journal") == 0) {
		journal = argv[argc - 1];
		argc -= 2;
	}
	if (argc < 7 || argc - 5 > (int)BLOCKS_MAX) {
		fprintf(stderr, "usage: uext4-txn IMAGE SEED OPERATIONS crash|close BLOCK...\n");
		return 2;
	}
	c.rnd = strtoull(argv[2], NULL, 0) * 2 + 1;
	for (int i = 5; i < argc; i++)
		c.blocks[c.count++] = strtoull(argv[i], NULL, 0);
	start(&c, argv[1], journal);
	for (uint32_t n = (uint32_t)strtoul(argv[3], NULL, 0); n > 0; n--) {
		operation(&c);
		if (n == 1 || below(&c, 3) == 0) {
			must(txn_log_sync(c.log), "sync");
			acked = c.map.op;
		}
	}
	printf("%u\n", acked);
	fflush(stdout);
	if (strcmp(argv[4], "crash") == 0)
		_exit(0);
	must(txn_log_destroy(c.log), "end");
	mark(&c, false);
	return 0;
}
