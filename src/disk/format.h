/* SPDX-License-Identifier: MIT */
/*
 * ext2/3/4 and jbd2 as they lie on disk: the structures and constants, nothing else.
 *
 * Structures and fields bear the names of the ext4 documentation.  Above each structure: its place,
 * and who verifies it (verify.h); what "the reader" checks is checked by the code that uses it.
 *
 *  F1  Integers are leN or beN, never plain, except single bytes.
 *  F2  A structure that may lie at an address that is not a multiple of its largest integer is
 *      PACKED; all others may be reached through an aligned block only.
 *  F3  Sizes and offsets are asserted here: this file is right for every target or does not
 *      compile.
 *  F4  A field at or behind a size that is given on disk (s_desc_size, i_extra_isize) may be
 *      touched only after asking whether it is there.
 */
#ifndef DISK_FORMAT_H
#define DISK_FORMAT_H

#include "base/base.h"

#define PACKED __attribute__((packed))
#define ASSERT_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), "size of " #type)
#define ASSERT_AT(type, field, at) \
	_Static_assert(offsetof(struct type, field) == (at), "place of " #type "." #field)

/* ---- superblock ------------------------------------------------------------------------------ */

#define EXT4_SUPER_OFFSET 1024u
#define EXT4_SUPER_BYTES 1024u
#define EXT4_SUPER_MAGIC 0xEF53u
#define EXT4_MIN_BLOCK_LOG_SIZE 10u
#define EXT4_MAX_BLOCK_LOG_SIZE 16u
#define EXT4_MAX_CLUSTER_LOG_SIZE 30u
#define EXT4_GOOD_OLD_REV 0u
#define EXT4_DYNAMIC_REV 1u
#define EXT4_GOOD_OLD_INODE_SIZE 128u
#define EXT4_GOOD_OLD_FIRST_INO 11u
#define EXT4_MIN_DESC_SIZE 32u
#define EXT4_MIN_DESC_SIZE_64BIT 64u
#define EXT4_MAX_DESC_SIZE 1024u
#define EXT4_CRC32C_CHKSUM 1u /* s_checksum_type: the only one */

/* At byte 1024 of the device; backups at the start of their group's first block.  geom_init(). */
struct ext4_super_block {
	le32 s_inodes_count;
	le32 s_blocks_count_lo;
	le32 s_r_blocks_count_lo;
	le32 s_free_blocks_count_lo; /* in blocks, even with bigalloc */
	le32 s_free_inodes_count;
	le32 s_first_data_block;
	le32 s_log_block_size; /* block size is 1024 << this */
	le32 s_log_cluster_size;
	le32 s_blocks_per_group;
	le32 s_clusters_per_group;
	le32 s_inodes_per_group;
	le32 s_mtime;
	le32 s_wtime;
	le16 s_mnt_count;
	le16 s_max_mnt_count;
	le16 s_magic;
	le16 s_state; /* EXT4_VALID_FS, ... */
	le16 s_errors;
	le16 s_minor_rev_level;
	le32 s_lastcheck;
	le32 s_checkinterval;
	le32 s_creator_os;
	le32 s_rev_level;
	le16 s_def_resuid;
	le16 s_def_resgid;
	/* From here on valid for EXT4_DYNAMIC_REV only. */
	le32 s_first_ino;
	le16 s_inode_size;
	le16 s_block_group_nr;
	le32 s_feature_compat;
	le32 s_feature_incompat;
	le32 s_feature_ro_compat;
	uint8_t s_uuid[16];
	char s_volume_name[16];
	char s_last_mounted[64];
	le32 s_algorithm_usage_bitmap;
	uint8_t s_prealloc_blocks;
	uint8_t s_prealloc_dir_blocks;
	le16 s_reserved_gdt_blocks;
	uint8_t s_journal_uuid[16];
	le32 s_journal_inum;
	le32 s_journal_dev;
	le32 s_last_orphan;
	le32 s_hash_seed[4];
	uint8_t s_def_hash_version;
	uint8_t s_jnl_backup_type; /* 1: s_jnl_blocks holds i_block[] and i_size */
	le16 s_desc_size;
	le32 s_default_mount_opts;
	le32 s_first_meta_bg;
	le32 s_mkfs_time;
	le32 s_jnl_blocks[17]; /* [15] i_size_high, [16] i_size_lo */
	le32 s_blocks_count_hi;
	le32 s_r_blocks_count_hi;
	le32 s_free_blocks_count_hi;
	le16 s_min_extra_isize;
	le16 s_want_extra_isize;
	le32 s_flags; /* EXT4_FLAGS_* */
	le16 s_raid_stride;
	le16 s_mmp_interval;
	le64 s_mmp_block;
	le32 s_raid_stripe_width;
	uint8_t s_log_groups_per_flex;
	uint8_t s_checksum_type;
	uint8_t s_encryption_level;
	uint8_t s_reserved_pad;
	le64 s_kbytes_written;
	le32 s_snapshot_inum;
	le32 s_snapshot_id;
	le64 s_snapshot_r_blocks_count;
	le32 s_snapshot_list;
	le32 s_error_count;
	le32 s_first_error_time;
	le32 s_first_error_ino;
	le64 s_first_error_block;
	uint8_t s_first_error_func[32];
	le32 s_first_error_line;
	le32 s_last_error_time;
	le32 s_last_error_ino;
	le32 s_last_error_line;
	le64 s_last_error_block;
	uint8_t s_last_error_func[32];
	uint8_t s_mount_opts[64];
	le32 s_usr_quota_inum;
	le32 s_grp_quota_inum;
	le32 s_overhead_blocks;
	le32 s_backup_bgs[2]; /* sparse_super2 */
	uint8_t s_encrypt_algos[4];
	uint8_t s_encrypt_pw_salt[16];
	le32 s_lpf_ino;
	le32 s_prj_quota_inum;
	le32 s_checksum_seed; /* with metadata_csum_seed: crc32c(~0, s_uuid) of the time of mkfs */
	uint8_t s_wtime_hi;
	uint8_t s_mtime_hi;
	uint8_t s_mkfs_time_hi;
	uint8_t s_lastcheck_hi;
	uint8_t s_first_error_time_hi;
	uint8_t s_last_error_time_hi;
	uint8_t s_first_error_errcode;
	uint8_t s_last_error_errcode;
	le16 s_encoding;
	le16 s_encoding_flags;
	le32 s_orphan_file_inum;
	le32 s_reserved[94];
	le32 s_checksum; /* crc32c(~0, all before) */
};
ASSERT_SIZE(ext4_super_block, EXT4_SUPER_BYTES);
ASSERT_AT(ext4_super_block, s_magic, 0x38);
ASSERT_AT(ext4_super_block, s_rev_level, 0x4C);
ASSERT_AT(ext4_super_block, s_inode_size, 0x58);
ASSERT_AT(ext4_super_block, s_feature_compat, 0x5C);
ASSERT_AT(ext4_super_block, s_uuid, 0x68);
ASSERT_AT(ext4_super_block, s_reserved_gdt_blocks, 0xCE);
ASSERT_AT(ext4_super_block, s_journal_inum, 0xE0);
ASSERT_AT(ext4_super_block, s_hash_seed, 0xEC);
ASSERT_AT(ext4_super_block, s_desc_size, 0xFE);
ASSERT_AT(ext4_super_block, s_first_meta_bg, 0x104);
ASSERT_AT(ext4_super_block, s_jnl_blocks, 0x10C);
ASSERT_AT(ext4_super_block, s_blocks_count_hi, 0x150);
ASSERT_AT(ext4_super_block, s_flags, 0x160);
ASSERT_AT(ext4_super_block, s_mmp_block, 0x168);
ASSERT_AT(ext4_super_block, s_checksum_type, 0x175);
ASSERT_AT(ext4_super_block, s_error_count, 0x194);
ASSERT_AT(ext4_super_block, s_last_error_block, 0x1D8);
ASSERT_AT(ext4_super_block, s_mount_opts, 0x200);
ASSERT_AT(ext4_super_block, s_backup_bgs, 0x24C);
ASSERT_AT(ext4_super_block, s_checksum_seed, 0x270);
ASSERT_AT(ext4_super_block, s_encoding, 0x27C);
ASSERT_AT(ext4_super_block, s_orphan_file_inum, 0x280);
ASSERT_AT(ext4_super_block, s_checksum, 0x3FC);

/* s_state */
#define EXT4_VALID_FS 0x0001u  /* cleanly unmounted */
#define EXT4_ERROR_FS 0x0002u  /* errors were found */
#define EXT4_ORPHAN_FS 0x0004u /* orphans are being processed */
#define EXT4_FC_REPLAY 0x0020u /* fast-commit replay is going on */

/* s_flags */
#define EXT4_FLAGS_SIGNED_HASH 0x0001u
#define EXT4_FLAGS_UNSIGNED_HASH 0x0002u
#define EXT4_FLAGS_TEST_FILESYS 0x0004u

/* s_errors */
#define EXT4_ERRORS_CONTINUE 1u
#define EXT4_ERRORS_RO 2u
#define EXT4_ERRORS_PANIC 3u

/* s_creator_os */
#define EXT4_OS_LINUX 0u
#define EXT4_OS_HURD 1u
#define EXT4_OS_MASIX 2u
#define EXT4_OS_FREEBSD 3u
#define EXT4_OS_LITES 4u

#define EXT4_FEATURE_COMPAT_DIR_PREALLOC 0x0001u
#define EXT4_FEATURE_COMPAT_IMAGIC_INODES 0x0002u
#define EXT4_FEATURE_COMPAT_HAS_JOURNAL 0x0004u
#define EXT4_FEATURE_COMPAT_EXT_ATTR 0x0008u
#define EXT4_FEATURE_COMPAT_RESIZE_INODE 0x0010u
#define EXT4_FEATURE_COMPAT_DIR_INDEX 0x0020u
#define EXT4_FEATURE_COMPAT_LAZY_BG 0x0040u
#define EXT4_FEATURE_COMPAT_EXCLUDE_INODE 0x0080u
#define EXT4_FEATURE_COMPAT_EXCLUDE_BITMAP 0x0100u
#define EXT4_FEATURE_COMPAT_SPARSE_SUPER2 0x0200u
#define EXT4_FEATURE_COMPAT_FAST_COMMIT 0x0400u
#define EXT4_FEATURE_COMPAT_STABLE_INODES 0x0800u
#define EXT4_FEATURE_COMPAT_ORPHAN_FILE 0x1000u

#define EXT4_FEATURE_INCOMPAT_COMPRESSION 0x00001u
#define EXT4_FEATURE_INCOMPAT_FILETYPE 0x00002u
#define EXT4_FEATURE_INCOMPAT_RECOVER 0x00004u
#define EXT4_FEATURE_INCOMPAT_JOURNAL_DEV 0x00008u
#define EXT4_FEATURE_INCOMPAT_META_BG 0x00010u
#define EXT4_FEATURE_INCOMPAT_EXTENTS 0x00040u
#define EXT4_FEATURE_INCOMPAT_64BIT 0x00080u
#define EXT4_FEATURE_INCOMPAT_MMP 0x00100u
#define EXT4_FEATURE_INCOMPAT_FLEX_BG 0x00200u
#define EXT4_FEATURE_INCOMPAT_EA_INODE 0x00400u
#define EXT4_FEATURE_INCOMPAT_DIRDATA 0x01000u
#define EXT4_FEATURE_INCOMPAT_CSUM_SEED 0x02000u
#define EXT4_FEATURE_INCOMPAT_LARGEDIR 0x04000u
#define EXT4_FEATURE_INCOMPAT_INLINE_DATA 0x08000u
#define EXT4_FEATURE_INCOMPAT_ENCRYPT 0x10000u
#define EXT4_FEATURE_INCOMPAT_CASEFOLD 0x20000u

#define EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER 0x00001u
#define EXT4_FEATURE_RO_COMPAT_LARGE_FILE 0x00002u
#define EXT4_FEATURE_RO_COMPAT_BTREE_DIR 0x00004u
#define EXT4_FEATURE_RO_COMPAT_HUGE_FILE 0x00008u
#define EXT4_FEATURE_RO_COMPAT_GDT_CSUM 0x00010u
#define EXT4_FEATURE_RO_COMPAT_DIR_NLINK 0x00020u
#define EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE 0x00040u
#define EXT4_FEATURE_RO_COMPAT_HAS_SNAPSHOT 0x00080u
#define EXT4_FEATURE_RO_COMPAT_QUOTA 0x00100u
#define EXT4_FEATURE_RO_COMPAT_BIGALLOC 0x00200u
#define EXT4_FEATURE_RO_COMPAT_METADATA_CSUM 0x00400u
#define EXT4_FEATURE_RO_COMPAT_REPLICA 0x00800u
#define EXT4_FEATURE_RO_COMPAT_READONLY 0x01000u
#define EXT4_FEATURE_RO_COMPAT_PROJECT 0x02000u
#define EXT4_FEATURE_RO_COMPAT_SHARED_BLOCKS 0x04000u
#define EXT4_FEATURE_RO_COMPAT_VERITY 0x08000u
#define EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT 0x10000u

/* ---- block groups ---------------------------------------------------------------------------- */

/*
 * s_desc_size (32 without 64bit) bytes each, in the descriptor blocks behind the superblock or,
 * with meta_bg, in the meta group.  What lies at or behind 0x20 exists with 64bit only.
 * verify_group_desc().
 */
struct ext4_group_desc {
	le32 bg_block_bitmap_lo;
	le32 bg_inode_bitmap_lo;
	le32 bg_inode_table_lo;
	le16 bg_free_blocks_count_lo; /* clusters, with bigalloc */
	le16 bg_free_inodes_count_lo;
	le16 bg_used_dirs_count_lo;
	le16 bg_flags; /* EXT4_BG_* */
	le32 bg_exclude_bitmap_lo;
	le16 bg_block_bitmap_csum_lo;
	le16 bg_inode_bitmap_csum_lo;
	le16 bg_itable_unused_lo;
	le16 bg_checksum; /* crc16, or the low half of crc32c */
	le32 bg_block_bitmap_hi;
	le32 bg_inode_bitmap_hi;
	le32 bg_inode_table_hi;
	le16 bg_free_blocks_count_hi;
	le16 bg_free_inodes_count_hi;
	le16 bg_used_dirs_count_hi;
	le16 bg_itable_unused_hi;
	le32 bg_exclude_bitmap_hi;
	le16 bg_block_bitmap_csum_hi;
	le16 bg_inode_bitmap_csum_hi;
	le32 bg_reserved;
};
ASSERT_SIZE(ext4_group_desc, 64);
ASSERT_AT(ext4_group_desc, bg_flags, 0x12);
ASSERT_AT(ext4_group_desc, bg_block_bitmap_csum_lo, 0x18);
ASSERT_AT(ext4_group_desc, bg_checksum, 0x1E);
ASSERT_AT(ext4_group_desc, bg_block_bitmap_hi, 0x20);
ASSERT_AT(ext4_group_desc, bg_itable_unused_hi, 0x32);
ASSERT_AT(ext4_group_desc, bg_inode_bitmap_csum_hi, 0x3A);

#define EXT4_BG_INODE_UNINIT 0x0001u /* inode bitmap and table are not initialised */
#define EXT4_BG_BLOCK_UNINIT 0x0002u /* block bitmap is not initialised */
#define EXT4_BG_INODE_ZEROED 0x0004u /* inode table is zeroed */

/* ---- inodes ---------------------------------------------------------------------------------- */

#define EXT4_BAD_INO 1u
#define EXT4_ROOT_INO 2u
#define EXT4_USR_QUOTA_INO 3u
#define EXT4_GRP_QUOTA_INO 4u
#define EXT4_BOOT_LOADER_INO 5u
#define EXT4_UNDEL_DIR_INO 6u
#define EXT4_RESIZE_INO 7u
#define EXT4_JOURNAL_INO 8u
#define EXT4_EXCLUDE_INO 9u
#define EXT4_REPLICA_INO 10u

#define EXT4_NDIR_BLOCKS 12u
#define EXT4_IND_BLOCK 12u
#define EXT4_DIND_BLOCK 13u
#define EXT4_TIND_BLOCK 14u
#define EXT4_N_BLOCKS 15u
#define EXT4_I_BLOCK_BYTES 60u

/*
 * s_inode_size bytes each in the inode table; this is the fixed part, of which [0x80, 0x80 +
 * i_extra_isize) exists for larger inodes only.  Behind it the in-inode xattrs.  verify_inode().
 * osd1 and osd2 are given in Linux' form.
 */
struct ext4_inode {
	le16 i_mode;
	le16 i_uid;
	le32 i_size_lo;
	le32 i_atime;
	le32 i_ctime;
	le32 i_mtime;
	le32 i_dtime; /* next orphan, while on the orphan list */
	le16 i_gid;
	le16 i_links_count;
	le32 i_blocks_lo; /* of 512 bytes, or of the block size with EXT4_HUGE_FILE_FL */
	le32 i_flags;
	le32 l_i_version;
	le32 i_block[EXT4_N_BLOCKS]; /* map, extent root, inline data or short symlink */
	le32 i_generation;
	le32 i_file_acl_lo;
	le32 i_size_high;
	le32 i_obso_faddr;
	le16 l_i_blocks_high;
	le16 l_i_file_acl_high;
	le16 l_i_uid_high;
	le16 l_i_gid_high;
	le16 l_i_checksum_lo;
	le16 l_i_reserved;
	le16 i_extra_isize; /* bytes in use behind the first 128 */
	le16 i_checksum_hi;
	le32 i_ctime_extra; /* ns << 2 | two further bits of the seconds */
	le32 i_mtime_extra;
	le32 i_atime_extra;
	le32 i_crtime;
	le32 i_crtime_extra;
	le32 i_version_hi;
	le32 i_projid;
};
ASSERT_SIZE(ext4_inode, 160);
ASSERT_AT(ext4_inode, i_links_count, 0x1A);
ASSERT_AT(ext4_inode, i_flags, 0x20);
ASSERT_AT(ext4_inode, i_block, 0x28);
ASSERT_AT(ext4_inode, i_generation, 0x64);
ASSERT_AT(ext4_inode, i_size_high, 0x6C);
ASSERT_AT(ext4_inode, l_i_blocks_high, 0x74);
ASSERT_AT(ext4_inode, l_i_checksum_lo, 0x7C);
ASSERT_AT(ext4_inode, i_extra_isize, 0x80);
ASSERT_AT(ext4_inode, i_checksum_hi, 0x82);
ASSERT_AT(ext4_inode, i_crtime, 0x90);
ASSERT_AT(ext4_inode, i_projid, 0x9C);

/*
 * Does the inode at @raw, whose i_extra_isize is @extra (0 for inodes of 128 bytes), hold @field?
 */
#define EXT4_INODE_HAS(field, extra)                                                        \
	(offsetof(struct ext4_inode, field) + sizeof(((struct ext4_inode *)NULL)->field) <= \
	 EXT4_GOOD_OLD_INODE_SIZE + (size_t)(extra))

#define EXT4_SECRM_FL 0x00000001u
#define EXT4_UNRM_FL 0x00000002u
#define EXT4_COMPR_FL 0x00000004u
#define EXT4_SYNC_FL 0x00000008u
#define EXT4_IMMUTABLE_FL 0x00000010u
#define EXT4_APPEND_FL 0x00000020u
#define EXT4_NODUMP_FL 0x00000040u
#define EXT4_NOATIME_FL 0x00000080u
#define EXT4_DIRTY_FL 0x00000100u
#define EXT4_COMPRBLK_FL 0x00000200u
#define EXT4_NOCOMPR_FL 0x00000400u
#define EXT4_ENCRYPT_FL 0x00000800u
#define EXT4_INDEX_FL 0x00001000u
#define EXT4_IMAGIC_FL 0x00002000u
#define EXT4_JOURNAL_DATA_FL 0x00004000u
#define EXT4_NOTAIL_FL 0x00008000u
#define EXT4_DIRSYNC_FL 0x00010000u
#define EXT4_TOPDIR_FL 0x00020000u
#define EXT4_HUGE_FILE_FL 0x00040000u
#define EXT4_EXTENTS_FL 0x00080000u
#define EXT4_VERITY_FL 0x00100000u
#define EXT4_EA_INODE_FL 0x00200000u
#define EXT4_EOFBLOCKS_FL 0x00400000u
#define EXT4_SNAPFILE_FL 0x01000000u
#define EXT4_DAX_FL 0x02000000u
#define EXT4_SNAPFILE_DELETED_FL 0x04000000u
#define EXT4_SNAPFILE_SHRUNK_FL 0x08000000u
#define EXT4_INLINE_DATA_FL 0x10000000u
#define EXT4_PROJINHERIT_FL 0x20000000u
#define EXT4_CASEFOLD_FL 0x40000000u
#define EXT4_RESERVED_FL 0x80000000u

/* ---- extent trees ---------------------------------------------------------------------------- */

#define EXT4_EXT_MAGIC 0xF30Au
#define EXT4_MAX_EXTENT_DEPTH 5u
#define EXT_INIT_MAX_LEN 32768u /* ee_len above it: unwritten, of ee_len - 32768 blocks */

/* At the start of i_block[] and of every extent block.  All of a node: verify_extent_node(). */
struct ext4_extent_header {
	le16 eh_magic;
	le16 eh_entries;
	le16 eh_max;
	le16 eh_depth; /* 0: leaf */
	le32 eh_generation;
};
ASSERT_SIZE(ext4_extent_header, 12);
ASSERT_AT(ext4_extent_header, eh_depth, 6);

/* In leaves. */
struct ext4_extent {
	le32 ee_block;
	le16 ee_len;
	le16 ee_start_hi;
	le32 ee_start_lo;
};
ASSERT_SIZE(ext4_extent, 12);
ASSERT_AT(ext4_extent, ee_start_lo, 8);

/* In inner nodes. */
struct ext4_extent_idx {
	le32 ei_block;
	le32 ei_leaf_lo;
	le16 ei_leaf_hi;
	le16 ei_unused;
};
ASSERT_SIZE(ext4_extent_idx, 12);
ASSERT_AT(ext4_extent_idx, ei_leaf_hi, 8);

/* Behind eh_max entries of an extent block, not of the root. */
struct ext4_extent_tail {
	le32 et_checksum; /* crc32c(inode seed, all before) */
};
ASSERT_SIZE(ext4_extent_tail, 4);

/* ---- directories ----------------------------------------------------------------------------- */

#define EXT4_NAME_LEN 255u
#define EXT4_LINK_MAX 65000u
#define EXT4_DIR_ROUND 4u

#define EXT4_FT_UNKNOWN 0u
#define EXT4_FT_REG_FILE 1u
#define EXT4_FT_DIR 2u
#define EXT4_FT_CHRDEV 3u
#define EXT4_FT_BLKDEV 4u
#define EXT4_FT_FIFO 5u
#define EXT4_FT_SOCK 6u
#define EXT4_FT_SYMLINK 7u
#define EXT4_FT_MAX 8u
#define EXT4_FT_DIR_CSUM 0xDEu

/*
 * In directory blocks and inline directories, whose start a damaged xattr may place anywhere.
 * rec_len: see dirent_rec_len().  Without filetype, file_type is the high byte of the length of the
 * name and 0. verify_dirents().
 */
struct PACKED ext4_dir_entry_2 {
	le32 inode; /* 0: not in use */
	le16 rec_len;
	uint8_t name_len;
	uint8_t file_type; /* EXT4_FT_* */
	char name[];
};
ASSERT_SIZE(ext4_dir_entry_2, 8);
ASSERT_AT(ext4_dir_entry_2, name, 8);

/*
 * The last 12 bytes of a directory leaf with metadata_csum: an entry not in use.  verify_dirents().
 */
struct PACKED ext4_dir_entry_tail {
	le32 det_reserved_zero1;
	le16 det_rec_len; /* 12 */
	uint8_t det_reserved_zero2;
	uint8_t det_reserved_ft; /* EXT4_FT_DIR_CSUM */
	le32 det_checksum;	 /* crc32c(inode seed, all before the tail) */
};
ASSERT_SIZE(ext4_dir_entry_tail, 12);
ASSERT_AT(ext4_dir_entry_tail, det_checksum, 8);

/* Bytes an entry with a name of @name_len bytes needs. */
#define EXT4_DIR_ENTRY_BYTES(name_len) \
	((uint32_t)((name_len) + sizeof(struct ext4_dir_entry_2) + 3u) & ~3u)

/*
 * Length of a record in a block of @block_size bytes.  16 bits do not hold 65536: there 65535 and 0
 * stand for it, and the two lowest bits of a length, else always 0, are its bits 16 and 17.
 */
static inline uint32_t dirent_rec_len(le16 rec_len, uint32_t block_size)
{
	uint32_t len = le16_get(rec_len);

	if (block_size < 65536)
		return len;
	if (len == 65535 || len == 0)
		return block_size;
	return (len & 65532u) | (len & 3u) << 16;
}

/* The other way; @len is a multiple of 4 up to the size of the block. */
static inline le16 dirent_rec_len_make(uint32_t len, uint32_t block_size)
{
	if (block_size < 65536 || len < 65536)
		return le16_make((uint16_t)len);
	return le16_make(65535);
}

#define DX_HASH_LEGACY 0u
#define DX_HASH_HALF_MD4 1u
#define DX_HASH_TEA 2u
#define DX_HASH_LEGACY_UNSIGNED 3u
#define DX_HASH_HALF_MD4_UNSIGNED 4u
#define DX_HASH_TEA_UNSIGNED 5u
#define DX_HASH_SIPHASH 6u

/* Entry 0 of an htree node has this in place of its hash, which counts as 0. */
struct dx_countlimit {
	le16 limit;
	le16 count;
};
ASSERT_SIZE(dx_countlimit, 4);

struct dx_entry {
	le32 hash;  /* bit 0: the names of this hash began in the block before */
	le32 block; /* of the directory; the low 28 bits */
};
ASSERT_SIZE(dx_entry, 8);

#define DX_BLOCK_MASK 0x0FFFFFFFu

struct dx_root_info {
	le32 reserved_zero;
	uint8_t hash_version; /* DX_HASH_* */
	uint8_t info_length;  /* 8 */
	uint8_t indirect_levels;
	uint8_t unused_flags;
};
ASSERT_SIZE(dx_root_info, 8);

/* An entry with a name as short as "." and "..", or with none. */
struct fake_dirent {
	le32 inode;
	le16 rec_len;
	uint8_t name_len;
	uint8_t file_type;
};
ASSERT_SIZE(fake_dirent, 8);

/* Logical block 0 of an indexed directory.  verify_dx_root(). */
struct dx_root {
	struct fake_dirent dot;
	char dot_name[4];
	struct fake_dirent dotdot; /* rec_len: to the end of the block */
	char dotdot_name[4];
	struct dx_root_info info;
	struct dx_entry entries[];
};
ASSERT_SIZE(dx_root, 32);
ASSERT_AT(dx_root, dotdot, 0xC);
ASSERT_AT(dx_root, info, 0x18);
ASSERT_AT(dx_root, entries, 0x20);

/* An inner node.  verify_dx_node(). */
struct dx_node {
	struct fake_dirent fake; /* not in use, as long as the block */
	struct dx_entry entries[];
};
ASSERT_SIZE(dx_node, 8);

/* Behind dx_countlimit.limit entries of root and node with metadata_csum. */
struct dx_tail {
	le32 dt_reserved;
	le32 dt_checksum; /* crc32c(inode seed, block up to the last used entry, dt_reserved, 0) */
};
ASSERT_SIZE(dx_tail, 8);

/* ---- extended attributes --------------------------------------------------------------------- */

#define EXT4_XATTR_MAGIC 0xEA020000u
#define EXT4_XATTR_PAD 4u

#define EXT4_XATTR_INDEX_USER 1u
#define EXT4_XATTR_INDEX_POSIX_ACL_ACCESS 2u
#define EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT 3u
#define EXT4_XATTR_INDEX_TRUSTED 4u
#define EXT4_XATTR_INDEX_LUSTRE 5u
#define EXT4_XATTR_INDEX_SECURITY 6u
#define EXT4_XATTR_INDEX_SYSTEM 7u
#define EXT4_XATTR_INDEX_RICHACL 8u
#define EXT4_XATTR_INDEX_ENCRYPTION 9u
#define EXT4_XATTR_INDEX_HURD 10u

/* The start of an xattr block (i_file_acl).  verify_xattr_block(). */
struct ext4_xattr_header {
	le32 h_magic;
	le32 h_refcount;
	le32 h_blocks; /* 1 */
	le32 h_hash;
	le32 h_checksum; /* crc32c(fs seed, le64 block number, block with this field 0) */
	le32 h_reserved[3];
};
ASSERT_SIZE(ext4_xattr_header, 32);
ASSERT_AT(ext4_xattr_header, h_checksum, 0x10);

/* At 128 + i_extra_isize of an inode that has xattrs there.  verify_inode(). */
struct ext4_xattr_ibody_header {
	le32 h_magic;
};
ASSERT_SIZE(ext4_xattr_ibody_header, 4);

/*
 * Row of entries, ended by four zero bytes.  e_value_offs counts from the start of the block, or in
 * an inode from the first entry.  verify_xattr_entries().
 */
struct ext4_xattr_entry {
	uint8_t e_name_len;
	uint8_t e_name_index; /* EXT4_XATTR_INDEX_* */
	le16 e_value_offs;
	le32 e_value_inum; /* ea_inode: the inode with the value, or 0 */
	le32 e_value_size;
	le32 e_hash;
	char e_name[];
};
ASSERT_SIZE(ext4_xattr_entry, 16);
ASSERT_AT(ext4_xattr_entry, e_value_inum, 4);
ASSERT_AT(ext4_xattr_entry, e_hash, 12);

/* Bytes of an entry whose name has @name_len bytes. */
#define EXT4_XATTR_LEN(name_len) \
	((uint32_t)((name_len) + sizeof(struct ext4_xattr_entry) + 3u) & ~3u)

#define EXT4_ACL_VERSION 1u

/*
 * Value of system.posix_acl_*: a header, then entries, short unless they name a user or group.  The
 * reader.
 */
struct PACKED ext4_acl_header {
	le32 a_version;
};
ASSERT_SIZE(ext4_acl_header, 4);

struct PACKED ext4_acl_entry {
	le16 e_tag;
	le16 e_perm;
	le32 e_id;
};
ASSERT_SIZE(ext4_acl_entry, 8);

struct PACKED ext4_acl_entry_short {
	le16 e_tag;
	le16 e_perm;
};
ASSERT_SIZE(ext4_acl_entry_short, 4);

/* ---- multiple mount protection --------------------------------------------------------------- */

#define EXT4_MMP_MAGIC 0x004D4D50u
#define EXT4_MMP_SEQ_CLEAN 0xFF4D4D50u /* unmounted */
#define EXT4_MMP_SEQ_FSCK 0xE24D4D50u  /* being checked */
#define EXT4_MMP_SEQ_MAX 0xE24D4D4Fu

/* The block s_mmp_block.  verify_mmp(). */
struct mmp_struct {
	le32 mmp_magic;
	le32 mmp_seq;
	le64 mmp_time;
	char mmp_nodename[64];
	char mmp_bdevname[32];
	le16 mmp_check_interval;
	le16 mmp_pad1;
	le32 mmp_pad2[226];
	le32 mmp_checksum; /* crc32c(fs seed, all before) */
};
ASSERT_SIZE(mmp_struct, 1024);
ASSERT_AT(mmp_struct, mmp_check_interval, 0x70);
ASSERT_AT(mmp_struct, mmp_checksum, 0x3FC);

/* ---- orphan file ----------------------------------------------------------------------------- */

#define EXT4_ORPHAN_BLOCK_MAGIC 0x0B10CA04u

/*
 * The last 8 bytes of a block of the orphan file; before it le32 inode numbers, 0 unused.
 * verify_orphan_block().
 */
struct ext4_orphan_block_tail {
	le32 ob_magic;
	le32 ob_checksum; /* crc32c(inode seed, le64 block number, all before the tail) */
};
ASSERT_SIZE(ext4_orphan_block_tail, 8);

/* ---- quota files ----------------------------------------------------------------------------- */

/*
 * A file of blocks of QUOTA_BLOCK_BYTES, whatever the file system's are: block 0 is header and
 * info, block 1 the root of a tree of QUOTA_DEPTH levels of 256 block numbers, by the bytes of the
 * id, the highest first; the lowest level leads to the block of records that holds the id.  The
 * reader, in fs/.
 */
#define QUOTA_BLOCK_BITS 10u
#define QUOTA_BLOCK_BYTES (1u << QUOTA_BLOCK_BITS)
#define QUOTA_ROOT_BLOCK 1u
#define QUOTA_DEPTH 4u
#define QUOTA_FANOUT 256u

#define QUOTA_MAGIC_USER 0xD9C01F11u
#define QUOTA_MAGIC_GROUP 0xD9C01927u
#define QUOTA_MAGIC_PROJECT 0xD9C03F14u
#define QUOTA_VERSION 1u /* records of struct v2r1_disk_dqblk */

struct v2_disk_dqheader {
	le32 dqh_magic;
	le32 dqh_version;
};
ASSERT_SIZE(v2_disk_dqheader, 8);

/* Behind the header. */
struct v2_disk_dqinfo {
	le32 dqi_bgrace; /* seconds */
	le32 dqi_igrace;
	le32 dqi_flags;
	le32 dqi_blocks;     /* of the file */
	le32 dqi_free_blk;   /* head of the list of free blocks; 0: empty */
	le32 dqi_free_entry; /* head of the list of record blocks with room */
};
ASSERT_SIZE(v2_disk_dqinfo, 24);

/* The start of a block of records, and of a free one. */
struct qt_disk_dqdbheader {
	le32 dqdh_next_free;
	le32 dqdh_prev_free;
	le16 dqdh_entries; /* records in use */
	le16 dqdh_pad1;
	le32 dqdh_pad2;
};
ASSERT_SIZE(qt_disk_dqdbheader, 16);

/* A record; all zero: not in use.  Limits of blocks are in units of QUOTA_BLOCK_BYTES. */
struct v2r1_disk_dqblk {
	le32 dqb_id;
	le32 dqb_pad;
	le64 dqb_ihardlimit;
	le64 dqb_isoftlimit;
	le64 dqb_curinodes;
	le64 dqb_bhardlimit;
	le64 dqb_bsoftlimit;
	le64 dqb_curspace; /* bytes */
	le64 dqb_btime;	   /* until when the soft limit may be exceeded; 0: it is not */
	le64 dqb_itime;	   /* the same; 1 in a record of id 0 that would else be all zero */
};
ASSERT_SIZE(v2r1_disk_dqblk, 72);
ASSERT_AT(v2r1_disk_dqblk, dqb_curspace, 48);

#define QUOTA_RECORDS_PER_BLOCK \
	((QUOTA_BLOCK_BYTES - sizeof(struct qt_disk_dqdbheader)) / sizeof(struct v2r1_disk_dqblk))

/* ---- journal --------------------------------------------------------------------------------- */

#define JBD2_MAGIC_NUMBER 0xC03B3998u

/* h_blocktype */
#define JBD2_DESCRIPTOR_BLOCK 1u
#define JBD2_COMMIT_BLOCK 2u
#define JBD2_SUPERBLOCK_V1 3u
#define JBD2_SUPERBLOCK_V2 4u
#define JBD2_REVOKE_BLOCK 5u

/* t_flags */
#define JBD2_FLAG_ESCAPE 1u    /* the block began with JBD2_MAGIC_NUMBER, here zeroed */
#define JBD2_FLAG_SAME_UUID 2u /* no uuid follows this tag */
#define JBD2_FLAG_DELETED 4u
#define JBD2_FLAG_LAST_TAG 8u

#define JBD2_FEATURE_COMPAT_CHECKSUM 0x00000001u
#define JBD2_FEATURE_INCOMPAT_REVOKE 0x00000001u
#define JBD2_FEATURE_INCOMPAT_64BIT 0x00000002u
#define JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT 0x00000004u
#define JBD2_FEATURE_INCOMPAT_CSUM_V2 0x00000008u
#define JBD2_FEATURE_INCOMPAT_CSUM_V3 0x00000010u
#define JBD2_FEATURE_INCOMPAT_FAST_COMMIT 0x00000020u

/* s_checksum_type, h_chksum_type */
#define JBD2_CRC32_CHKSUM 1u
#define JBD2_MD5_CHKSUM 2u
#define JBD2_SHA1_CHKSUM 3u
#define JBD2_CRC32C_CHKSUM 4u

#define JBD2_MIN_JOURNAL_BLOCKS 1024u
#define JBD2_DEFAULT_FAST_COMMIT_BLOCKS 256u

/*
 * The start of every journal block that is not a copy.  All of the journal: the reader, in
 * journal/.
 */
struct journal_header_s {
	be32 h_magic;
	be32 h_blocktype;
	be32 h_sequence;
};
ASSERT_SIZE(journal_header_s, 12);

/* Block 0 of the journal. */
struct journal_superblock_s {
	struct journal_header_s s_header;
	be32 s_blocksize;
	be32 s_maxlen;
	be32 s_first;
	be32 s_sequence;
	be32 s_start; /* 0: the journal is empty */
	be32 s_errno;
	/* From here on valid for JBD2_SUPERBLOCK_V2 only. */
	be32 s_feature_compat;
	be32 s_feature_incompat;
	be32 s_feature_ro_compat;
	uint8_t s_uuid[16];
	be32 s_nr_users;
	be32 s_dynsuper;
	be32 s_max_transaction;
	be32 s_max_trans_data;
	uint8_t s_checksum_type;
	uint8_t s_padding2[3];
	be32 s_num_fc_blks; /* 0: JBD2_DEFAULT_FAST_COMMIT_BLOCKS */
	be32 s_head;
	be32 s_padding[40];
	be32 s_checksum; /* crc32c(~0, all with this field 0) */
	uint8_t s_users[16 * 48];
};
ASSERT_SIZE(journal_superblock_s, 1024);
ASSERT_AT(journal_superblock_s, s_feature_compat, 0x24);
ASSERT_AT(journal_superblock_s, s_uuid, 0x30);
ASSERT_AT(journal_superblock_s, s_checksum_type, 0x50);
ASSERT_AT(journal_superblock_s, s_num_fc_blks, 0x54);
ASSERT_AT(journal_superblock_s, s_checksum, 0xFC);
ASSERT_AT(journal_superblock_s, s_users, 0x100);

/* In descriptor blocks with CSUM_V3: always 16 bytes. */
struct PACKED journal_block_tag3_s {
	be32 t_blocknr;
	be32 t_flags;
	be32 t_blocknr_high;
	be32 t_checksum;
};
ASSERT_SIZE(journal_block_tag3_s, 16);

/*
 * In descriptor blocks else.  8 bytes on disk, 12 with 64BIT; CSUM_V2 adds 2 bytes of padding,
 * which is why tags lie at odd places.
 */
struct PACKED journal_block_tag_s {
	be32 t_blocknr;
	be16 t_checksum; /* low half of crc32c, with CSUM_V2 */
	be16 t_flags;
	be32 t_blocknr_high; /* with 64BIT only */
};
ASSERT_SIZE(journal_block_tag_s, 12);
ASSERT_AT(journal_block_tag_s, t_flags, 6);

/* The last 4 bytes of descriptor and revoke blocks with CSUM_V2 or V3. */
struct jbd2_journal_block_tail {
	be32 t_checksum; /* crc32c(journal seed, block with this field 0) */
};
ASSERT_SIZE(jbd2_journal_block_tail, 4);

/* Revoke block; block numbers of 4 bytes, 8 with 64BIT, follow. */
struct jbd2_journal_revoke_header_s {
	struct journal_header_s r_header;
	be32 r_count; /* bytes in use, with this header */
};
ASSERT_SIZE(jbd2_journal_revoke_header_s, 16);

/* Commit block. */
struct commit_header {
	be32 h_magic;
	be32 h_blocktype;
	be32 h_sequence;
	uint8_t h_chksum_type;
	uint8_t h_chksum_size;
	uint8_t h_padding[2];
	be32 h_chksum[8]; /* V2, V3: [0] is crc32c(journal seed, block with this field 0) */
	be64 h_commit_sec;
	be32 h_commit_nsec;
	be32 h_pad2;
};
ASSERT_SIZE(commit_header, 64);
ASSERT_AT(commit_header, h_chksum, 0x10);
ASSERT_AT(commit_header, h_commit_sec, 0x30);
ASSERT_AT(commit_header, h_commit_nsec, 0x38);

/* ---- fast commits ---------------------------------------------------------------------------- */

/* fc_tag */
#define EXT4_FC_TAG_ADD_RANGE 0x0001u
#define EXT4_FC_TAG_DEL_RANGE 0x0002u
#define EXT4_FC_TAG_CREAT 0x0003u
#define EXT4_FC_TAG_LINK 0x0004u
#define EXT4_FC_TAG_UNLINK 0x0005u
#define EXT4_FC_TAG_INODE 0x0006u
#define EXT4_FC_TAG_PAD 0x0007u
#define EXT4_FC_TAG_TAIL 0x0008u
#define EXT4_FC_TAG_HEAD 0x0009u

#define EXT4_FC_SUPPORTED_FEATURES 0u

/*
 * Before each value in the fast-commit blocks.  Nothing there is aligned.  The reader, in journal/.
 */
struct PACKED ext4_fc_tl {
	le16 fc_tag;
	le16 fc_len; /* of the value, without this */
};
ASSERT_SIZE(ext4_fc_tl, 4);

struct PACKED ext4_fc_head {
	le32 fc_features;
	le32 fc_tid;
};
ASSERT_SIZE(ext4_fc_head, 8);

struct PACKED ext4_fc_add_range {
	le32 fc_ino;
	uint8_t fc_ex[12]; /* struct ext4_extent */
};
ASSERT_SIZE(ext4_fc_add_range, 16);

struct PACKED ext4_fc_del_range {
	le32 fc_ino;
	le32 fc_lblk;
	le32 fc_len;
};
ASSERT_SIZE(ext4_fc_del_range, 12);

/* EXT4_FC_TAG_CREAT, LINK and UNLINK. */
struct PACKED ext4_fc_dentry_info {
	le32 fc_parent_ino;
	le32 fc_ino;
	uint8_t fc_dname[];
};
ASSERT_SIZE(ext4_fc_dentry_info, 8);

struct PACKED ext4_fc_inode {
	le32 fc_ino;
	uint8_t fc_raw_inode[];
};
ASSERT_SIZE(ext4_fc_inode, 4);

struct PACKED ext4_fc_tail {
	le32 fc_tid;
	le32 fc_crc; /* crc32c(0, all of this fast commit up to here) */
};
ASSERT_SIZE(ext4_fc_tail, 8);

#endif
