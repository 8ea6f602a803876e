/* SPDX-License-Identifier: MIT */
/*
 * Tags of fast commits, read: for who shows what they say (fastcommit.c), and for who makes it so
 * (fastcommit_write.c).
 */
#ifndef FS_FASTCOMMIT_PRIV_H
#define FS_FASTCOMMIT_PRIV_H

#include "fs/fs_priv.h"

struct fc_tag {
	uint32_t tag; /* EXT4_FC_TAG_* */
	const uint8_t *value;
	size_t bytes; /* as many as the tag demands: JS2 */
};

/* The tag at *@at, which moves behind it; false at the end. */
bool fc_tag_next(const uint8_t *tags, size_t bytes, size_t *at, struct fc_tag *ret);

/* May a tag be about inode @ino? */
int fc_check_ino(const struct uext4_fs *fs, uint32_t ino) MUST_CHECK;

int fc_read_add_range(const struct uext4_fs *fs, const uint8_t *value, uint32_t *ret_ino,
		      struct map_ext *ret_ext) MUST_CHECK;
/* A hole; of no blocks, if the tag says nothing. */
void fc_read_del_range(const uint8_t *value, uint32_t *ret_ino, struct map_ext *ret_hole);

struct fc_dentry {
	uint32_t dir, ino;
	const char *name;
	size_t name_len;
};

int fc_read_dentry(const struct fc_tag *tag, struct fc_dentry *ret) MUST_CHECK;

/* INODE: the number, and *@raw, of geom.inode_size bytes, as the tag has it, zeros behind. */
int fc_read_inode(const struct uext4_fs *fs, const struct fc_tag *tag, uint32_t *ret_ino,
		  struct ext4_inode *raw) MUST_CHECK;

#endif
