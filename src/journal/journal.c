/* SPDX-License-Identifier: MIT */
/*
 * An open journal: its superblock, where its blocks lie, and its fast-commit area.
 *
 * The log itself is the business of recover.c and commit.c.  All that is written here is the
 * superblock.
 *
 *  JS1  What the superblock says was checked against what is there: after journal_open() every
 *       block below maxlen has a place on the device, and log and fast-commit area lie inside
 *       without overlap.
 *  JS2  Of the fast commits only whole ones are handed out: up to the last tail whose checksum and
 *       transaction fit, without gap from the first.
 */
#include "journal/journal_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "base/sum.h"

#define WINDOW_BYTES (128u << 10)

/* ---- blocks ---------------------------------------------------------------------------------- */

/* The run that holds block @index < maxlen. */
static const struct journal_run *run_of(const struct journal *j, uint32_t index)
{
	size_t low = 0, high = j->run_count;

	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;

		if (j->runs[mid].logical <= index)
			low = mid;
		else
			high = mid;
	}
	assert(index - j->runs[low].logical < j->runs[low].count);
	return &j->runs[low];
}

uint64_t journal_place(const struct journal *j, uint32_t index)
{
	const struct journal_run *run = run_of(j, index);

	return (run->physical + (index - run->logical)) * j->block_size;
}

int journal_block(struct journal *j, uint32_t index, const uint8_t **ret_data)
{
	const struct journal_run *run;
	uint32_t count, skip;
	int err;

	if (index >= j->maxlen)
		return corrupt("journal: block %u of %u", index, j->maxlen);
	if (index - j->window_first >= j->window_count) {
		run = run_of(j, index);
		skip = index - run->logical;
		count = (uint32_t)min_u64(run->count - skip, j->maxlen - index);
		count = (uint32_t)min_u64(count, j->window_max);
		j->window_count = 0;
		err = dev_read(j->dev, (run->physical + skip) * j->block_size, j->window,
			       (size_t)count * j->block_size);
		if (err < 0)
			return fail_in(err, "journal block %u", index);
		j->window_first = index;
		j->window_count = count;
	}
	*ret_data = j->window + (size_t)(index - j->window_first) * j->block_size;
	return 0;
}

/* Runs without gap from 0, each on the device, [0, @maxlen) covered. */
static int check_runs(const struct journal *j)
{
	uint64_t dev_blocks = j->dev->size / j->block_size, next = 0;

	for (size_t i = 0; i < j->run_count; i++) {
		const struct journal_run *run = &j->runs[i];

		if (run->logical != next || run->count == 0)
			return corrupt("journal: block %llu lies nowhere",
				       (unsigned long long)next);
		if (run->physical >= dev_blocks || run->count > dev_blocks - run->physical)
			return corrupt("journal: block %llu lies behind the end of the device",
				       (unsigned long long)next);
		next += run->count;
	}
	if (j->maxlen > next)
		return corrupt("journal: has %llu blocks, its superblock says %u",
			       (unsigned long long)next, j->maxlen);
	return 0;
}

/* ---- superblock ------------------------------------------------------------------------------ */

#define INCOMPAT_KNOWN                                                        \
	(JBD2_FEATURE_INCOMPAT_REVOKE | JBD2_FEATURE_INCOMPAT_64BIT |         \
	 JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT | JBD2_FEATURE_INCOMPAT_CSUM_V2 | \
	 JBD2_FEATURE_INCOMPAT_CSUM_V3 | JBD2_FEATURE_INCOMPAT_FAST_COMMIT)

/* Features, of which a superblock of version 1 has none; fills all that follows from them. */
static int load_features(struct journal *j, const struct journal_superblock_s *sb,
			 uint32_t *ret_incompat)
{
	uint32_t compat, incompat, ro_compat;

	j->checksum = JOURNAL_CSUM_NONE;
	j->tag_bytes = sizeof(struct journal_block_tag_s) - sizeof(be32);
	*ret_incompat = 0;
	if (be32_get(sb->s_header.h_blocktype) == JBD2_SUPERBLOCK_V1)
		return 0;

	compat = be32_get(sb->s_feature_compat);
	incompat = be32_get(sb->s_feature_incompat);
	ro_compat = be32_get(sb->s_feature_ro_compat);
	if (incompat & ~INCOMPAT_KNOWN)
		return fail(-EOPNOTSUPP, "journal: unknown feature incompat_0x%x",
			    incompat & ~INCOMPAT_KNOWN);
	if (ro_compat != 0)
		return fail(-EOPNOTSUPP, "journal: unknown feature ro_compat_0x%x", ro_compat);

	if (incompat & JBD2_FEATURE_INCOMPAT_CSUM_V3)
		j->checksum = JOURNAL_CSUM_V3;
	else if (incompat & JBD2_FEATURE_INCOMPAT_CSUM_V2)
		j->checksum = JOURNAL_CSUM_V2;
	else if (compat & JBD2_FEATURE_COMPAT_CHECKSUM)
		j->checksum = JOURNAL_CSUM_V1;
	if (journal_has_block_csum(j) &&
	    ((compat & JBD2_FEATURE_COMPAT_CHECKSUM) ||
	     (~incompat & (JBD2_FEATURE_INCOMPAT_CSUM_V2 | JBD2_FEATURE_INCOMPAT_CSUM_V3)) == 0))
		return corrupt("journal: more than one kind of checksum");

	j->wide = incompat & JBD2_FEATURE_INCOMPAT_64BIT;
	j->async_commit = incompat & JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT;
	if (j->checksum == JOURNAL_CSUM_V3) {
		j->tag_bytes = sizeof(struct journal_block_tag3_s);
	} else {
		if (j->wide)
			j->tag_bytes += (uint32_t)sizeof(be32);
		if (j->checksum == JOURNAL_CSUM_V2)
			j->tag_bytes += (uint32_t)sizeof(be16);
	}
	*ret_incompat = incompat;
	return 0;
}

static uint32_t super_csum(const struct journal_superblock_s *sb)
{
	static const be32 zero;
	const size_t at = offsetof(struct journal_superblock_s, s_checksum);
	const size_t behind = at + sizeof(sb->s_checksum);
	uint32_t sum;

	sum = crc32c(~0u, sb, at);
	sum = crc32c(sum, &zero, sizeof(zero));
	return crc32c(sum, (const uint8_t *)sb + behind, sizeof(*sb) - behind);
}

static int check_super_csum(struct journal *j, const struct journal_superblock_s *sb)
{
	uint32_t sum;

	if (!journal_has_block_csum(j))
		return 0;
	if (sb->s_checksum_type != JBD2_CRC32C_CHKSUM)
		return corrupt("journal: unknown type of checksum %u", sb->s_checksum_type);
	sum = super_csum(sb);
	if (sum != be32_get(sb->s_checksum))
		return bad_checksum("journal: superblock: checksum is 0x%08x, should be 0x%08x",
				    be32_get(sb->s_checksum), sum);
	j->csum_seed = crc32c(~0u, sb->s_uuid, sizeof(sb->s_uuid));
	return 0;
}

/* Where log and fast commits lie. */
static int load_areas(struct journal *j, const struct journal_superblock_s *sb, uint32_t incompat)
{
	uint32_t fast = 0;

	j->maxlen = be32_get(sb->s_maxlen);
	j->first = be32_get(sb->s_first);
	j->start = be32_get(sb->s_start);
	j->sequence = be32_get(sb->s_sequence);
	j->last = j->fast_first = j->maxlen;
	if (incompat & JBD2_FEATURE_INCOMPAT_FAST_COMMIT) {
		fast = be32_get(sb->s_num_fc_blks);
		if (fast == 0)
			fast = JBD2_DEFAULT_FAST_COMMIT_BLOCKS;
		if (fast > j->maxlen || j->maxlen - fast < JBD2_MIN_JOURNAL_BLOCKS)
			return corrupt("journal: %u blocks are too few for %u of fast commits",
				       j->maxlen, fast);
		j->last = j->maxlen - fast;
		/*
		 * Everybody leaves the first block of the area unused, so it is part of the format.
		 */
		j->fast_first = j->last + 1;
	}
	if (j->first == 0 || j->first >= j->last)
		return corrupt("journal: the log begins at block %u of %u", j->first, j->last);
	if (j->start != 0 && (j->start < j->first || j->start >= j->last))
		return corrupt("journal: the first transaction is at block %u, outside of [%u, %u)",
			       j->start, j->first, j->last);
	return 0;
}

static int load_super(struct journal *j)
{
	const struct journal_superblock_s *sb = journal_super(j);
	uint32_t type, incompat;
	int err;

	err = dev_read(j->dev, j->runs[0].physical * j->block_size, j->super, j->block_size);
	if (err < 0)
		return fail_in(err, "journal superblock");
	type = be32_get(sb->s_header.h_blocktype);
	if (be32_get(sb->s_header.h_magic) != JBD2_MAGIC_NUMBER ||
	    (type != JBD2_SUPERBLOCK_V1 && type != JBD2_SUPERBLOCK_V2))
		return corrupt("journal: no superblock in its first block");
	if (be32_get(sb->s_blocksize) != j->block_size)
		return corrupt("journal: block size is %u, that of the file system %u",
			       be32_get(sb->s_blocksize), j->block_size);
	err = load_features(j, sb, &incompat);
	if (err < 0)
		return err;
	err = check_super_csum(j, sb);
	if (err < 0)
		return err;
	return load_areas(j, sb, incompat);
}

int journal_write_super(struct journal *j, uint32_t start, uint32_t sequence)
{
	struct journal_superblock_s *sb = journal_super(j);
	int err;

	assert(start == 0 || (start >= j->first && start < j->last));
	sb->s_start = be32_make(start);
	sb->s_sequence = be32_make(sequence);
	if (journal_has_block_csum(j))
		sb->s_checksum = be32_make(super_csum(sb));
	err = dev_write(j->dev, journal_place(j, 0), j->super, j->block_size);
	if (err < 0)
		return fail_in(err, "journal superblock");
	j->start = start;
	j->sequence = sequence;
	return 0;
}

int journal_mark_empty(struct journal *j, uint32_t next_tid)
{
	int err;

	if (j->start == 0)
		return 0;
	err = journal_write_super(j, 0, next_tid + 1);
	if (err == 0)
		err = dev_flush(j->dev);
	return err;
}

int journal_discard(struct journal *j)
{
	/* Each transaction took more than a block: none of them has this number, or the next. */
	return journal_mark_empty(j, j->sequence + (j->last - j->first));
}

/* A superblock of version 1 says nothing behind s_errno. */
static void convert_v1(struct journal_superblock_s *sb)
{
	const size_t at = offsetof(struct journal_superblock_s, s_feature_compat);

	memset((uint8_t *)sb + at, 0, sizeof(*sb) - at);
	sb->s_header.h_blocktype = be32_make(JBD2_SUPERBLOCK_V2);
	sb->s_nr_users = be32_make(1);
}

void journal_set_features(struct journal *j, bool wide, bool csum)
{
	struct journal_superblock_s *sb = journal_super(j);
	uint32_t compat, incompat;
	int err;

	assert(j->start == 0);
	if (be32_get(sb->s_header.h_blocktype) == JBD2_SUPERBLOCK_V1)
		convert_v1(sb);
	compat = be32_get(sb->s_feature_compat);
	incompat = be32_get(sb->s_feature_incompat) | JBD2_FEATURE_INCOMPAT_REVOKE;
	incompat &= ~JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT;
	if (wide)
		incompat |= JBD2_FEATURE_INCOMPAT_64BIT;
	if (csum) {
		compat &= ~JBD2_FEATURE_COMPAT_CHECKSUM;
		incompat &= ~JBD2_FEATURE_INCOMPAT_CSUM_V2;
		incompat |= JBD2_FEATURE_INCOMPAT_CSUM_V3;
		sb->s_checksum_type = JBD2_CRC32C_CHKSUM;
		j->csum_seed = crc32c(~0u, sb->s_uuid, sizeof(sb->s_uuid));
	}
	sb->s_feature_compat = be32_make(compat);
	sb->s_feature_incompat = be32_make(incompat);
	err = load_features(j, sb, &incompat);
	assert(err == 0);
	(void)err;
}

/* ---- open and close -------------------------------------------------------------------------- */

int journal_open(struct dev *dev, const struct journal_run *runs, size_t run_count,
		 uint32_t block_size, struct journal **ret_journal)
{
	struct journal *j;
	int err;

	assert(is_pow2(block_size) && block_size >= sizeof(struct journal_superblock_s));
	if (run_count == 0)
		return corrupt("journal: has no blocks");
	j = mem_zalloc(sizeof(*j));
	if (j == NULL)
		return -ENOMEM;
	err = -ENOMEM;
	j->dev = dev;
	j->block_size = block_size;
	j->window_max = (uint32_t)max_u64(WINDOW_BYTES / block_size, 1);
	j->window = mem_alloc((size_t)j->window_max * block_size);
	j->super = mem_alloc(block_size);
	j->runs = mem_calloc(run_count, sizeof(*runs));
	if (j->window == NULL || j->super == NULL || j->runs == NULL)
		goto out;
	memcpy(j->runs, runs, run_count * sizeof(*runs));
	j->run_count = run_count;

	/*
	 * Twice, as the superblock is found through the runs and tells how many of them there must
	 * be.
	 */
	err = check_runs(j);
	if (err < 0)
		goto out;
	err = load_super(j);
	if (err < 0)
		goto out;
	err = check_runs(j);
out:
	if (err < 0) {
		journal_close(j);
		return err;
	}
	*ret_journal = j;
	return 0;
}

void journal_close(struct journal *j)
{
	if (j == NULL)
		return;
	mem_free(j->window);
	mem_free(j->super);
	mem_free(j->runs);
	mem_free(j);
}

void journal_get_info(const struct journal *j, struct journal_info *ret_info)
{
	ret_info->blocks = j->maxlen;
	ret_info->fast_blocks = j->maxlen - j->last;
	ret_info->start = j->start;
	ret_info->sequence = j->sequence;
	ret_info->checksum = (uint8_t)j->checksum;
}

/* ---- fast commits ---------------------------------------------------------------------------- */

/*
 * One walk through the fast-commit area.  Its end is the first thing that does not belong to a
 * whole fast commit of transaction @tid; that is no error, as a crash while one is written leaves
 * just this.
 */
struct fast_scan {
	uint32_t block_size;
	uint32_t tid;
	uint32_t crc; /* of the fast commit being read, up to here */
	uint32_t commits;
	size_t complete; /* bytes of tags that whole fast commits have */
	uint8_t *tags;
	size_t bytes, capacity;
	bool begun; /* the head was seen */
	bool ended;
};

static bool fast_value_fits(uint32_t tag, uint32_t len)
{
	const uint32_t dentry = sizeof(struct ext4_fc_dentry_info);

	switch (tag) {
	case EXT4_FC_TAG_ADD_RANGE: return len == sizeof(struct ext4_fc_add_range);
	case EXT4_FC_TAG_DEL_RANGE: return len == sizeof(struct ext4_fc_del_range);
	case EXT4_FC_TAG_CREAT:
	case EXT4_FC_TAG_LINK:
	case EXT4_FC_TAG_UNLINK: return len > dentry && len - dentry <= EXT4_NAME_LEN;
	case EXT4_FC_TAG_INODE:
		return len >= sizeof(struct ext4_fc_inode) + EXT4_GOOD_OLD_INODE_SIZE;
	case EXT4_FC_TAG_PAD: return true;
	case EXT4_FC_TAG_TAIL: return len >= sizeof(struct ext4_fc_tail);
	case EXT4_FC_TAG_HEAD: return len == sizeof(struct ext4_fc_head);
	default: return false;
	}
}

static int fast_keep(struct fast_scan *s, const uint8_t *tag, size_t bytes)
{
	if (s->capacity - s->bytes < bytes) {
		size_t capacity = max_u64(2 * s->capacity, s->block_size);
		uint8_t *tags = mem_realloc(s->tags, capacity);

		if (tags == NULL)
			return -ENOMEM;
		s->tags = tags;
		s->capacity = capacity;
	}
	memcpy(s->tags + s->bytes, tag, bytes);
	s->bytes += bytes;
	return 0;
}

static int fast_head(struct fast_scan *s, const uint8_t *value)
{
	struct ext4_fc_head head;

	memcpy(&head, value, sizeof(head));
	/* Left over from an earlier transaction. */
	if (le32_get(head.fc_tid) != s->tid) {
		s->ended = true;
		return 0;
	}
	if (le32_get(head.fc_features) & ~EXT4_FC_SUPPORTED_FEATURES)
		return fail(-EOPNOTSUPP, "journal: fast commit with unknown features 0x%x",
			    le32_get(head.fc_features));
	s->begun = true;
	return 0;
}

static void fast_tail(struct fast_scan *s, const uint8_t *tag, const uint8_t *value)
{
	const size_t summed = sizeof(struct ext4_fc_tl) + offsetof(struct ext4_fc_tail, fc_crc);
	struct ext4_fc_tail tail;

	memcpy(&tail, value, sizeof(tail));
	if (le32_get(tail.fc_tid) != s->tid ||
	    le32_get(tail.fc_crc) != crc32c(s->crc, tag, summed)) {
		s->ended = true;
		return;
	}
	s->crc = 0;
	s->complete = s->bytes;
	s->commits++;
}

/* One tag with its value, @bytes together. */
static int fast_tag(struct fast_scan *s, uint32_t tag, const uint8_t *data, size_t bytes)
{
	const uint8_t *value = data + sizeof(struct ext4_fc_tl);
	int err = 0;

	if (!s->begun && tag != EXT4_FC_TAG_HEAD) {
		s->ended = true;
		return 0;
	}
	switch (tag) {
	case EXT4_FC_TAG_TAIL: fast_tail(s, data, value); return 0;
	case EXT4_FC_TAG_HEAD: err = fast_head(s, value); break;
	case EXT4_FC_TAG_PAD: break;
	default: err = fast_keep(s, data, bytes);
	}
	s->crc = crc32c(s->crc, data, bytes);
	return err;
}

static int fast_block(struct fast_scan *s, const uint8_t *data)
{
	size_t at = 0;

	while (!s->ended && s->block_size - at >= sizeof(struct ext4_fc_tl)) {
		struct ext4_fc_tl tl;
		size_t bytes;
		int err;

		memcpy(&tl, data + at, sizeof(tl));
		bytes = sizeof(tl) + le16_get(tl.fc_len);
		if (bytes > s->block_size - at ||
		    !fast_value_fits(le16_get(tl.fc_tag), le16_get(tl.fc_len))) {
			s->ended = true;
			break;
		}
		err = fast_tag(s, le16_get(tl.fc_tag), data + at, bytes);
		if (err < 0)
			return err;
		at += bytes;
	}
	return 0;
}

int journal_fast_commits(struct journal *j, uint32_t next_tid, uint8_t **ret_tags,
			 size_t *ret_bytes, uint32_t *ret_commits)
{
	struct fast_scan s = { .block_size = j->block_size, .tid = next_tid };
	const uint8_t *data;
	int err;

	/* Fast commits stand on a transaction in the log: without one they are left over. */
	for (uint32_t i = j->fast_first; j->start != 0 && i < j->maxlen && !s.ended; i++) {
		err = journal_block(j, i, &data);
		if (err == 0)
			err = fast_block(&s, data);
		if (err < 0) {
			mem_free(s.tags);
			return err;
		}
	}
	if (s.complete == 0) {
		mem_free(s.tags);
		s.tags = NULL;
	}
	*ret_tags = s.tags;
	*ret_bytes = s.complete;
	*ret_commits = s.commits;
	return 0;
}
