/* SPDX-License-Identifier: MIT */
/*
 * `info`, `stat` and `df`: what an image, a file and the free space are.
 *
 * Text is written for people and may change; the JSON keys are for programs and do not.
 */
#include "cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "image.h"
#include "out.h"

/* ---- info: as text -------------------------------------------------------------------------- */

static void print_field(const char *name)
{
	printf("  %-13s ", name);
}

static void print_bytes(uint64_t bytes)
{
	char human[24];

	printf("%s", human_size(bytes, human));
	if (bytes >= 1024)
		printf(" (%" PRIu64 " bytes)", bytes);
}

static uint32_t percent(uint64_t part, uint64_t whole)
{
	return whole ? (uint32_t)((double)part * 100.0 / (double)whole + 0.5) : 0;
}

static void uuid_text(const uint8_t uuid[16], char ret[37])
{
	char *at = ret;

	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*at++ = '-';
		snprintf(at, 3, "%02x", uuid[i]);
		at += 2;
	}
}

/* The name of a feature bit; a bit nobody has named gets one after its place, as in e2fsprogs. */
static const char *feature_text(enum uext4_feature_set set, unsigned bit, char buf[24])
{
	const char *name = uext4_feature_name(set, bit);

	if (name)
		return name;
	snprintf(buf, 24, "FEATURE_%c%u", "CIR"[set], bit);
	return buf;
}

static void print_features(const uint32_t features[3])
{
	size_t column = 16;
	char buf[24];

	print_field("Features");
	for (unsigned set = UEXT4_COMPAT; set <= UEXT4_RO_COMPAT; set++) {
		for (unsigned bit = 0; bit < 32; bit++) {
			const char *name;

			if (!(features[set] & 1u << bit))
				continue;
			name = feature_text(set, bit, buf);
			if (column + strlen(name) > 94) {
				printf("\n%16s", "");
				column = 16;
			}
			printf("%s ", name);
			column += strlen(name) + 1;
		}
	}
	printf("\n");
}

static void print_unknown_features(uint32_t unknown)
{
	char buf[24];

	if (!unknown)
		return;
	print_field("Unknown");
	for (unsigned bit = 0; bit < 32; bit++) {
		if (unknown & 1u << bit)
			printf("%s ", feature_text(UEXT4_RO_COMPAT, bit, buf));
	}
	printf("(unknown to this version, compatible for reading: opened read-only)\n");
}

/* ext2 has no journal, ext3 none of what came with ext4: those names are what people ask for. */
static const char *generation_of(const struct uext4_info *info)
{
	const uint32_t journal = 0x4, ext4_incompat = 0x40 | 0x80 | 0x10 | 0x200 | 0x400 | 0x8000;
	const uint32_t ext4_ro_compat = 0x8 | 0x10 | 0x20 | 0x40 | 0x200 | 0x400;

	if ((info->features[UEXT4_INCOMPAT] & ext4_incompat) ||
	    (info->features[UEXT4_RO_COMPAT] & ext4_ro_compat))
		return "ext4";
	return (info->features[UEXT4_COMPAT] & journal) ? "ext3" : "ext2";
}

static void print_state(const struct uext4_info *info)
{
	print_field("State");
	printf("%s", (info->state & 1) ? "clean" : "not cleanly unmounted");
	if (info->state & 2)
		printf(", with errors");
	if (info->state & 4)
		printf(", orphans being recovered");
	if (info->error_count)
		printf(", %" PRIu32 " errors recorded", info->error_count);
	if (info->orphans)
		printf(", %" PRIu32 " orphaned inode%s", info->orphans,
		       info->orphans == 1 ? "" : "s");
	printf("\n");
}

static void print_count(const char *before, uint32_t count, const char *unit)
{
	printf("%s%" PRIu32 " %s%s", before, count, unit, count == 1 ? "" : "s");
}

static void print_journal(const struct uext4_info *info)
{
	char human[24];

	print_field("Journal");
	if (info->journal_external) {
		printf("external\n");
	} else if (!info->journal_ino) {
		printf("none\n");
		return;
	} else {
		printf("inode %" PRIu32 ", %s (%" PRIu32 " blocks", info->journal_ino,
		       human_size((uint64_t)info->journal_blocks * info->block_size, human),
		       info->journal_blocks);
		if (info->journal_fast_blocks)
			printf(", %" PRIu32 " of them for fast commits", info->journal_fast_blocks);
		if (info->journal_checksum)
			printf("), checksums version %u\n", info->journal_checksum);
		else
			printf("), no checksums\n");
	}
	print_field("Recovery");
	if (!info->journal_dirty) {
		printf("not needed\n");
	} else if (!info->journal_replayed) {
		printf("needed; the image is shown as it lies\n");
	} else {
		printf("needed; replayed in memory: ");
		print_count("", info->replayed_transactions, "transaction");
		print_count(", ", info->replayed_blocks, "block");
		print_count(", ", info->replayed_revokes, "revoke");
		print_count(", ", info->replayed_fast_commits, "fast commit");
		printf("\n");
	}
}

static void print_date(const char *name, int64_t sec)
{
	struct uext4_time time = { .sec = sec };
	const char *dot;
	char buf[48];

	print_field(name);
	if (sec == 0) {
		printf("never\n");
		return;
	}
	/* The superblock has seconds only: leave out the nine digits of the fraction. */
	dot = strchr(time_long(&time, buf), '.');
	printf("%.*s%s\n", (int)(dot - buf), buf, dot + 10);
}

static void print_usage(const struct uext4_info *info)
{
	uint64_t used = info->blocks - info->blocks_free;
	char human[24];

	print_field("Size");
	print_bytes(info->blocks * info->block_size);
	printf(", %" PRIu64 " blocks of %" PRIu32 " bytes in %" PRIu32 " group%s\n", info->blocks,
	       info->block_size, info->groups, info->groups == 1 ? "" : "s");
	if (info->cluster_size != info->block_size) {
		print_field("Clusters");
		printf("%s\n", human_size(info->cluster_size, human));
	}
	print_field("Used");
	if (info->free_known) {
		printf("%s, %" PRIu32 "%%; ", human_size(used * info->block_size, human),
		       percent(used, info->blocks));
		printf("%s free, ", human_size(info->blocks_free * info->block_size, human));
	} else {
		printf("unknown, ");
	}
	printf("%s reserved\n", human_size(info->blocks_reserved * info->block_size, human));
	print_field("Inodes");
	printf("%" PRIu32 " of %" PRIu32 " bytes, ", info->inodes, info->inode_size);
	if (info->free_known)
		printf("%" PRIu32 " used, ", info->inodes - info->inodes_free);
	printf("%" PRIu32 " per group\n", info->inodes_per_group);
}

static void print_info(const char *name, const struct uext4_info *info)
{
	static const char *const policies[] = { "unset", "continue", "read-only", "panic" };
	static const char *const hashes[] = {
		"legacy",	"half_md4", "tea", "legacy_unsigned", "half_md4_unsigned",
		"tea_unsigned", "siphash",
	};
	char uuid[37];

	uuid_text(info->uuid, uuid);
	print_name(name, strlen(name));
	printf(": %s, revision %" PRIu32 "\n", generation_of(info), info->revision);
	print_field("Label");
	print_name(info->label, strlen(info->label));
	printf("\n");
	print_field("UUID");
	printf("%s\n", uuid);
	print_field("Last mounted");
	print_name(info->last_mounted, strlen(info->last_mounted));
	printf("\n");
	print_state(info);
	print_usage(info);
	print_features(info->features);
	print_unknown_features(info->unknown_ro_compat);
	print_journal(info);
	print_field("Layout");
	printf("%" PRIu32 " blocks per group, descriptors of %" PRIu32 " bytes, hash %s\n",
	       info->blocks_per_group, info->desc_size,
	       info->hash_version < 7 ? hashes[info->hash_version] : "unknown");
	print_field("On errors");
	printf("%s\n", info->errors_policy < 4 ? policies[info->errors_policy] : "unknown");
	print_date("Created", info->made_time);
	print_date("Mounted", info->mount_time);
	print_date("Written", info->write_time);
	print_date("Checked", info->check_time);
	print_field("Mount count");
	printf("%" PRIu32 "\n", info->mount_count);
}

/* ---- info: as JSON -------------------------------------------------------------------------- */

static json_t *json_features(enum uext4_feature_set set, uint32_t bits)
{
	json_t *names = json_array();
	char buf[24];

	for (unsigned bit = 0; bit < 32; bit++) {
		if (bits & 1u << bit)
			json_array_append_new(names, json_string(feature_text(set, bit, buf)));
	}
	return names;
}

static json_t *json_journal(const struct uext4_info *info)
{
	json_t *journal = json_object();

	json_set_integer(journal, "ino", info->journal_ino);
	json_set_integer(journal, "blocks", info->journal_blocks);
	json_set_integer(journal, "fast_commit_blocks", info->journal_fast_blocks);
	json_set_integer(journal, "checksum_version", info->journal_checksum);
	json_object_set_new(journal, "external", json_boolean(info->journal_external));
	json_object_set_new(journal, "dirty", json_boolean(info->journal_dirty));
	json_object_set_new(journal, "replayed", json_boolean(info->journal_replayed));
	json_set_integer(journal, "replayed_transactions", info->replayed_transactions);
	json_set_integer(journal, "replayed_blocks", info->replayed_blocks);
	json_set_integer(journal, "replayed_revokes", info->replayed_revokes);
	json_set_integer(journal, "replayed_fast_commits", info->replayed_fast_commits);
	return journal;
}

/* null where what is counted is damaged. */
static void json_set_counted(json_t *object, const char *key, uint64_t value, bool known)
{
	if (known)
		json_set_integer(object, key, value);
	else
		json_object_set_new(object, key, json_null());
}

static void json_info(const char *name, const struct uext4_info *info)
{
	json_t *o = json_object();
	char uuid[37];

	uuid_text(info->uuid, uuid);
	json_set_bytes(o, "image", name, strlen(name));
	json_object_set_new(o, "type", json_string(generation_of(info)));
	json_set_integer(o, "revision", info->revision);
	json_object_set_new(o, "uuid", json_string(uuid));
	json_set_bytes(o, "label", info->label, strlen(info->label));
	json_set_bytes(o, "last_mounted", info->last_mounted, strlen(info->last_mounted));
	json_object_set_new(o, "clean", json_boolean(info->state & 1));
	json_set_integer(o, "state", info->state);
	json_set_integer(o, "errors_policy", info->errors_policy);
	json_set_integer(o, "error_count", info->error_count);
	json_set_counted(o, "orphans", info->orphans, info->orphans_known);
	json_set_integer(o, "block_size", info->block_size);
	json_set_integer(o, "cluster_size", info->cluster_size);
	json_set_integer(o, "blocks", info->blocks);
	json_set_counted(o, "blocks_free", info->blocks_free, info->free_known);
	json_set_integer(o, "blocks_reserved", info->blocks_reserved);
	json_set_integer(o, "blocks_per_group", info->blocks_per_group);
	json_set_integer(o, "inode_size", info->inode_size);
	json_set_integer(o, "inodes", info->inodes);
	json_set_counted(o, "inodes_free", info->inodes_free, info->free_known);
	json_set_integer(o, "inodes_per_group", info->inodes_per_group);
	json_set_integer(o, "groups", info->groups);
	json_set_integer(o, "desc_size", info->desc_size);
	json_set_integer(o, "hash_version", info->hash_version);
	json_object_set_new(o, "features_compat",
			    json_features(UEXT4_COMPAT, info->features[UEXT4_COMPAT]));
	json_object_set_new(o, "features_incompat",
			    json_features(UEXT4_INCOMPAT, info->features[UEXT4_INCOMPAT]));
	json_object_set_new(o, "features_ro_compat",
			    json_features(UEXT4_RO_COMPAT, info->features[UEXT4_RO_COMPAT]));
	json_object_set_new(o, "unknown_ro_compat",
			    json_features(UEXT4_RO_COMPAT, info->unknown_ro_compat));
	json_object_set_new(o, "made_time", json_integer((json_int_t)info->made_time));
	json_object_set_new(o, "mount_time", json_integer((json_int_t)info->mount_time));
	json_object_set_new(o, "write_time", json_integer((json_int_t)info->write_time));
	json_object_set_new(o, "check_time", json_integer((json_int_t)info->check_time));
	json_set_integer(o, "mount_count", info->mount_count);
	json_object_set_new(o, "journal", json_journal(info));
	json_print(o);
}

void command_info(const struct options *opts, int argc, char **argv)
{
	while (command_option(argc, argv, ":", NULL) != -1)
		;
	operands_are_images(argv[0], argc - optind, argv + optind);
	for (int i = optind; i < argc; i++) {
		struct uext4_info info;
		struct image *image;
		int err;

		if (image_open(opts, argv[i], IMAGE_READ, &image) < 0)
			continue;
		err = uext4_info(image->fs, &info);
		if (err < 0)
			complain_fs((struct place){ image->name, NULL }, err);
		else if (opts->json)
			json_info(argv[i], &info);
		else
			print_info(argv[i], &info);
		if (err == 0 && !info.free_known)
			complain(STATUS_CORRUPT, argv[i],
				 "group descriptors are damaged: what is free is unknown");
		if (err == 0 && !info.orphans_known)
			complain(STATUS_CORRUPT, argv[i], "the orphan list is damaged");
	}
}

/* ---- stat ----------------------------------------------------------------------------------- */

static const struct {
	uint32_t bit;
	const char *name;
} inode_flags[] = {
	{ 0x1, "secure_deletion" },
	{ 0x2, "undelete" },
	{ 0x4, "compressed" },
	{ 0x8, "sync" },
	{ 0x10, "immutable" },
	{ 0x20, "append" },
	{ 0x40, "nodump" },
	{ 0x80, "noatime" },
	{ 0x800, "encrypted" },
	{ 0x1000, "indexed" },
	{ 0x4000, "journal_data" },
	{ 0x8000, "notail" },
	{ 0x10000, "dirsync" },
	{ 0x20000, "topdir" },
	{ 0x40000, "huge_file" },
	{ 0x80000, "extents" },
	{ 0x100000, "verity" },
	{ 0x200000, "ea_inode" },
	{ 0x2000000, "dax" },
	{ 0x10000000, "inline_data" },
	{ 0x20000000, "project_inherit" },
	{ 0x40000000, "casefold" },
};

static void print_inode_flags(uint32_t flags)
{
	printf("   Flags:");
	for (size_t i = 0; i < sizeof(inode_flags) / sizeof(inode_flags[0]); i++) {
		if (flags & inode_flags[i].bit)
			printf(" %s", inode_flags[i].name);
	}
	printf(" (0x%" PRIx32 ")\n", flags);
}

static void print_stat(const struct target *target, const struct uext4_stat *st, const char *link)
{
	char mode[11], buf[48];

	mode_text(st->mode, mode);
	printf("    File: ");
	print_name(target->path, strlen(target->path));
	if (link) {
		printf(" -> ");
		print_name(link, strlen(link));
	}
	printf("\n    Type: %s\n", type_word(st->mode));
	printf("    Size: %-15" PRIu64 " Blocks: %-10" PRIu64 " IO Block: %" PRIu32 "\n", st->size,
	       st->blocks, st->block_size);
	printf("   Inode: %-15" PRIu32 " Links: %" PRIu32, st->ino, st->nlink);
	if (S_ISCHR(st->mode) || S_ISBLK(st->mode))
		printf("           Device: %" PRIu32 ",%" PRIu32, st->rdev_major, st->rdev_minor);
	printf("\n    Mode: %04o/%s Uid: %" PRIu32 " Gid: %" PRIu32 " Project: %" PRIu32 "\n",
	       st->mode & 07777, mode, st->uid, st->gid, st->projid);
	printf("  Access: %s\n", time_long(&st->atime, buf));
	printf("  Modify: %s\n", time_long(&st->mtime, buf));
	printf("  Change: %s\n", time_long(&st->ctime, buf));
	printf("   Birth: %s\n", st->has_crtime ? time_long(&st->crtime, buf) : "-");
	printf(" Version: %" PRIu64 "\n    Gen.: %" PRIu32 "\n", st->version, st->generation);
	print_inode_flags(st->flags);
}

static void show_stat(const struct options *opts, const struct target *target)
{
	struct buffer link = { 0 };
	struct uext4_stat st;

	if (image_stat(target->image, target->ino, target->path, &st) < 0)
		return;
	if (S_ISLNK(st.mode) && image_readlink(target->image, target->ino, target->path, &link) < 0)
		buffer_finish(&link);
	if (opts->json) {
		json_t *o = json_object();

		json_set_bytes(o, "path", target->path, strlen(target->path));
		if (link.data)
			json_set_bytes(o, "target", link.data, link.len);
		json_set_stat(o, &st);
		json_print(o);
	} else {
		print_stat(target, &st, link.data);
	}
	buffer_finish(&link);
}

void command_stat(const struct options *opts, int argc, char **argv)
{
	enum target_follow follow = TARGET_NOFOLLOW;

	while (command_option(argc, argv, ":L", NULL) != -1)
		follow = TARGET_FOLLOW;
	if (optind == argc)
		usage_error(argv[0], "no file given");
	for (int i = optind; i < argc; i++) {
		struct target target;

		if (target_open(opts, argv[i], follow, &target) < 0)
			continue;
		show_stat(opts, &target);
		target_finish(&target);
	}
}

/* ---- df ------------------------------------------------------------------------------------- */

struct df_columns {
	uint64_t total;
	uint64_t used;
	uint64_t available;
	uint64_t unit; /* bytes; 1 for inodes */
};

/* Used space in percent of what users can have, rounded up, as df(1) does. */
static unsigned df_percent(const struct df_columns *c)
{
	double whole = (double)c->used + (double)c->available;
	double value = whole > 0 ? (double)c->used * 100.0 / whole : 0;

	return (unsigned)value + ((double)(unsigned)value < value);
}

static void print_df(const char *name, const struct df_columns *c, bool human)
{
	const uint64_t values[3] = { c->total, c->used, c->available };

	for (int i = 0; i < 3; i++) {
		char buf[24];

		if (human)
			human_size(values[i] * c->unit, buf);
		else if (c->unit == 1)
			snprintf(buf, sizeof(buf), "%" PRIu64, values[i]);
		else
			snprintf(buf, sizeof(buf), "%" PRIu64, values[i] * c->unit / 1024);
		printf("%12s ", buf);
	}
	printf("%4u%% ", df_percent(c));
	print_name(name, strlen(name));
	printf("\n");
}

static void json_df(const char *name, const struct uext4_statfs *fs)
{
	json_t *o = json_object();

	json_set_bytes(o, "image", name, strlen(name));
	json_set_integer(o, "block_size", fs->block_size);
	json_set_integer(o, "blocks", fs->blocks);
	json_set_integer(o, "blocks_free", fs->blocks_free);
	json_set_integer(o, "blocks_available", fs->blocks_available);
	json_set_integer(o, "inodes", fs->inodes);
	json_set_integer(o, "inodes_free", fs->inodes_free);
	json_print(o);
}

void command_df(const struct options *opts, int argc, char **argv)
{
	bool human = false, inodes = false, head = false;
	int c;

	while ((c = command_option(argc, argv, ":hik", NULL)) != -1) {
		human = c == 'h' || (human && c != 'k');
		inodes = inodes || c == 'i';
	}
	operands_are_images(argv[0], argc - optind, argv + optind);
	for (int i = optind; i < argc; i++) {
		struct df_columns columns;
		struct uext4_statfs fs;
		struct image *image;
		int err;

		if (image_open(opts, argv[i], IMAGE_READ, &image) < 0)
			continue;
		err = uext4_statfs(image->fs, 0, &fs);
		if (err < 0) {
			complain_fs((struct place){ image->name, NULL }, err);
			continue;
		}
		if (opts->json) {
			json_df(argv[i], &fs);
			continue;
		}
		columns = (struct df_columns){ fs.blocks, fs.blocks - fs.blocks_free,
					       fs.blocks_available, fs.block_size };
		if (inodes)
			columns = (struct df_columns){ fs.inodes, fs.inodes - fs.inodes_free,
						       fs.inodes_free, 1 };
		if (!head)
			printf("%12s %12s %12s %5s %s\n",
			       inodes  ? "Inodes"
			       : human ? "Size"
				       : "1K-blocks",
			       "Used", inodes ? "Free" : "Available", "Use%", "Image");
		head = true;
		print_df(argv[i], &columns, human);
	}
}
