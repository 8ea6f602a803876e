/* SPDX-License-Identifier: MIT */
/*
 * Multiple-mount protection: a block in which whoever has the file system in use counts mmp_seq up
 * all the time, so that a second host sees it, even where no lock reaches.
 *
 *  P1  A reader waits only where the block was not left clean, to see whether somebody counts.
 *  P2  A writer claims the block with a number of his own, waits, and goes on only if it is still
 *      there; then it counts in a thread, and gives up (no more writes) when somebody else's number
 *      appears.
 */
#include "fs/fs_priv.h"

#include "base/diag.h"
#include "base/mem.h"
#include "disk/seal.h"

#define UPDATE_SECONDS_DEFAULT 5u
#define CHECK_SECONDS_MIN 5u

/* shared */
struct mmp {
	struct uext4_fs *fs;   /* c */
	struct thread *thread; /* c */
	struct mutex lock;     /* RANK_leaf */
	struct cond wakeup;
	bool stop GUARDED(&lock);
	uint32_t seq;		  /* thread only, or while there is none */
	uint32_t update_ms;	  /* c */
	struct mmp_struct *block; /* the same as seq: geom.block_size bytes */
};

static int mmp_read(struct uext4_fs *fs, struct mmp_struct *ret)
{
	uint8_t *block FREE_SCOPE = mem_alloc(fs->geom.block_size);
	uint64_t blk = le64_get(fs->super.s_mmp_block);
	int err;

	if (!block)
		return -ENOMEM;
	if (blk < fs->geom.first_data_block || blk >= fs->geom.blocks)
		return corrupt("MMP block %llu lies outside of the file system",
			       (unsigned long long)blk);
	err = dev_read(fs->dev, blk << fs->geom.block_bits, block, fs->geom.block_size);
	if (err < 0)
		return err;
	err = verify_mmp(&fs->geom, block);
	if (err < 0)
		return err;
	memcpy(ret, block, sizeof(*ret));
	return 0;
}

/* Long enough for a host that is alive to have counted. */
static void mmp_wait(const struct mmp_struct *mmp)
{
	uint64_t interval = max_u64(le16_get(mmp->mmp_check_interval), 1);

	sleep_ms((uint32_t)min_u64(2 * interval + 1, 60) * 1000);
}

int mmp_check(struct uext4_fs *fs)
{
	struct mmp_struct before, after;
	int err;

	if (!geom_has_incompat(&fs->geom, EXT4_FEATURE_INCOMPAT_MMP))
		return 0;
	err = mmp_read(fs, &before);
	if (err < 0)
		return err;
	if (le32_get(before.mmp_seq) == EXT4_MMP_SEQ_CLEAN)
		return 0;
	if (le32_get(before.mmp_seq) == EXT4_MMP_SEQ_FSCK)
		return fail(-EBUSY, "fsck is running on it (MMP, host %.64s)", before.mmp_nodename);
	mmp_wait(&before);
	err = mmp_read(fs, &after);
	if (err < 0)
		return err;
	if (le32_get(after.mmp_seq) != le32_get(before.mmp_seq))
		return fail(-EBUSY, "it is mounted on host %.64s (MMP)", after.mmp_nodename);
	return 0;
}

/* ---- a writer's claim (P2) ------------------------------------------------------------------- */

static int mmp_write(struct mmp *m, uint32_t seq)
{
	struct uext4_fs *fs = m->fs;
	int64_t sec;
	uint32_t nsec;
	int err;

	clock_real(&sec, &nsec);
	m->block->mmp_seq = le32_make(seq);
	m->block->mmp_time = le64_make((uint64_t)sec);
	seal_mmp(&fs->geom, m->block);
	err = dev_write(fs->dev, le64_get(fs->super.s_mmp_block) << fs->geom.block_bits, m->block,
			fs->geom.block_size);
	return err < 0 ? err : dev_flush(fs->dev);
}

/* One beat: is the number on disk still ours, and if so the next one. */
static int mmp_beat(struct mmp *m)
{
	struct mmp_struct now;
	int err;

	err = mmp_read(m->fs, &now);
	if (err < 0)
		return err;
	if (le32_get(now.mmp_seq) != m->seq)
		return fail(-EBUSY, "host %.64s has taken the file system over (MMP)",
			    now.mmp_nodename);
	m->seq = m->seq >= EXT4_MMP_SEQ_MAX ? 1 : m->seq + 1;
	return mmp_write(m, m->seq);
}

static void mmp_main(void *arg)
{
	struct mmp *m = arg;
	uint64_t due = clock_mono_ns();

	mutex_lock(&m->lock);
	while (!m->stop) {
		int err;

		due += (uint64_t)m->update_ms * 1000000;
		while (!m->stop && cond_wait_until(&m->wakeup, &m->lock, due))
			;
		if (m->stop)
			break;
		mutex_unlock(&m->lock);
		err = mmp_beat(m);
		mutex_lock(&m->lock);
		if (err < 0) {
			mutex_unlock(&m->lock);
			if (m->fs->log)
				txn_log_abort(m->fs->log, err);
			return;
		}
	}
	mutex_unlock(&m->lock);
}

/* The block as it lies, with our name in it. */
static int mmp_prepare(struct mmp *m)
{
	static const char name[] = "uext4";
	struct uext4_fs *fs = m->fs;
	uint32_t update = le16_get(fs->super.s_mmp_interval);
	int err;

	m->block = mem_zalloc(fs->geom.block_size);
	if (!m->block)
		return -ENOMEM;
	err = dev_read(fs->dev, le64_get(fs->super.s_mmp_block) << fs->geom.block_bits, m->block,
		       fs->geom.block_size);
	if (err < 0)
		return err;
	if (update == 0)
		update = UPDATE_SECONDS_DEFAULT;
	m->update_ms = update * 1000;
	memset(m->block->mmp_nodename, 0, sizeof(m->block->mmp_nodename));
	memset(m->block->mmp_bdevname, 0, sizeof(m->block->mmp_bdevname));
	memcpy(m->block->mmp_nodename, name, sizeof(name));
	memcpy(m->block->mmp_bdevname, name, sizeof(name));
	m->block->mmp_check_interval = le16_make((uint16_t)max_u64(2 * update, CHECK_SECONDS_MIN));
	return 0;
}

int mmp_claim(struct uext4_fs *fs)
{
	struct mmp_struct now;
	struct mmp *m;
	int err;

	if (!geom_has_incompat(&fs->geom, EXT4_FEATURE_INCOMPAT_MMP))
		return 0;
	err = mmp_check(fs);
	if (err < 0)
		return err;
	m = mem_zalloc(sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->fs = fs;
	mutex_init(&m->lock, RANK_leaf);
	cond_init(&m->wakeup);
	fs->mmp = m;
	err = mmp_prepare(m);
	if (err < 0)
		return err;
	m->seq = 1 + (uint32_t)(random_u64() % EXT4_MMP_SEQ_MAX);
	err = mmp_write(m, m->seq);
	if (err < 0)
		return err;
	mmp_wait(m->block);
	err = mmp_read(fs, &now);
	if (err < 0)
		return err;
	if (le32_get(now.mmp_seq) != m->seq)
		return fail(-EBUSY, "host %.64s is mounting it too (MMP)", now.mmp_nodename);
	return thread_create("uext4-mmp", mmp_main, m, &m->thread);
}

void mmp_release(struct uext4_fs *fs)
{
	struct mmp *m = fs->mmp;

	if (!m)
		return;
	if (m->thread) {
		mutex_lock(&m->lock);
		m->stop = true;
		cond_broadcast(&m->wakeup);
		mutex_unlock(&m->lock);
		thread_join(m->thread);
		/*
		 * Left as it is after an abort: who comes next will wait and see that nobody
		 * counts.
		 */
		if (atomic_load(&fs->error) == 0)
			(void)mmp_write(m, EXT4_MMP_SEQ_CLEAN);
	}
	mutex_finish(&m->lock);
	cond_finish(&m->wakeup);
	mem_free(m->block);
	mem_free(m);
	fs->mmp = NULL;
}
