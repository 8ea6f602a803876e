/* SPDX-License-Identifier: MIT */
/*
 * What attributes of different inodes have in common: the blocks and inodes with values that were
 * met lately, by hash, so that the next inode with the same attributes uses them too.
 *
 * A table of fixed size that forgets what was not added for long: what it forgets is not shared any
 * further, and that is all.  Who finds something compares the contents himself.
 */
#include "fs/xattr_priv.h"

#include "base/mem.h"

#define KINDS 2u
#define SETS 1024u
#define WAYS ARRAY_SIZE(((struct xattr_found *)NULL)->id)

struct slot {
	uint64_t id; /* 0: empty */
	uint32_t hash;
};

/* The latest first. */
struct set {
	struct slot slot[WAYS];
};

/* shared */
struct xattr_share {
	struct mutex lock; /* RANK_xattr_share */
	struct set sets[KINDS][SETS] GUARDED(&lock);
};

int xattr_open(struct uext4_fs *fs)
{
	struct xattr_share *share = mem_zalloc(sizeof(*share));

	if (!share)
		return -ENOMEM;
	mutex_init(&share->lock, RANK_xattr_share);
	fs->xattr_share = share;
	return 0;
}

void xattr_close(struct uext4_fs *fs)
{
	if (!fs->xattr_share)
		return;
	mutex_finish(&fs->xattr_share->lock);
	mem_free(fs->xattr_share);
	fs->xattr_share = NULL;
}

NO_TSA void xattr_share_lock(struct uext4_fs *fs)
{
	mutex_lock(&fs->xattr_share->lock);
}

NO_TSA void xattr_share_unlock(struct uext4_fs *fs)
{
	mutex_unlock(&fs->xattr_share->lock);
}

static struct set *set_of(struct uext4_fs *fs, enum xattr_share_kind kind, uint32_t hash)
{
	mutex_assert_held(&fs->xattr_share->lock);
	return &fs->xattr_share->sets[kind][(hash ^ hash >> 16) % SETS];
}

void xattr_share_remove(struct uext4_fs *fs, enum xattr_share_kind kind, uint32_t hash, uint64_t id)
{
	struct set *set = set_of(fs, kind, hash);

	for (unsigned i = 0; i < WAYS; i++)
		if (set->slot[i].id == id && set->slot[i].hash == hash)
			set->slot[i] = (struct slot){ 0 };
}

void xattr_share_add(struct uext4_fs *fs, enum xattr_share_kind kind, uint32_t hash, uint64_t id)
{
	struct set *set = set_of(fs, kind, hash);

	assert(id != 0);
	xattr_share_remove(fs, kind, hash, id);
	memmove(&set->slot[1], &set->slot[0], (WAYS - 1) * sizeof(struct slot));
	set->slot[0] = (struct slot){ .id = id, .hash = hash };
}

void xattr_share_find(struct uext4_fs *fs, enum xattr_share_kind kind, uint32_t hash,
		      struct xattr_found *ret)
{
	const struct set *set = set_of(fs, kind, hash);

	ret->count = 0;
	for (unsigned i = 0; i < WAYS; i++)
		if (set->slot[i].id != 0 && set->slot[i].hash == hash)
			ret->id[ret->count++] = set->slot[i].id;
}
