/* SPDX-License-Identifier: MIT */
/*
 * Attributes as a caller changes them: mode, owner, times, flags, project, size, xattrs.
 *
 * Who may do it is the caller's business; that an immutable or append-only file refuses it is ours.
 *
 *  A1  All of a call or nothing.  Everything but a size is one handle.  A size takes handles of its
 *      own; it comes behind the rest, which goes back to what it was if the size cannot be had.
 *  A2  Times that were asked for are set last: the size changes mtime and ctime by itself.
 *  A3  With the mode changes the access ACL, in the same handle.
 */
#include "fs/quota.h"
#include "fs/xattr.h"
#include "ops/ops.h"

#include "base/diag.h"
#include "base/mem.h"

#include <inttypes.h>

#define S_ISUID_BIT 04000u
#define S_ISGID_BIT 02000u
#define S_IXGRP_BIT 00010u
#define PERMISSIONS 07777u

#define ROOT_INO 2u
#define ID_NONE UINT32_MAX
#define NSEC_MAX 999999999u

/* Flags of chattr(1): which are known, and of these which change; the others are passed over. */
#define FLAGS_VISIBLE 0x725BDFFFu
#define FLAGS_SETTABLE                                                                     \
	(EXT4_SECRM_FL | EXT4_UNRM_FL | EXT4_COMPR_FL | EXT4_SYNC_FL | EXT4_IMMUTABLE_FL | \
	 EXT4_APPEND_FL | EXT4_NODUMP_FL | EXT4_NOATIME_FL | EXT4_JOURNAL_DATA_FL |        \
	 EXT4_NOTAIL_FL | EXT4_DIRSYNC_FL | EXT4_TOPDIR_FL | EXT4_PROJINHERIT_FL)
#define FLAGS_DIR_ONLY (EXT4_DIRSYNC_FL | EXT4_TOPDIR_FL | EXT4_PROJINHERIT_FL)
#define FLAGS_ANY_TYPE (EXT4_NODUMP_FL | EXT4_NOATIME_FL)
/* What the kernel converts, and we do not. */
#define FLAGS_CONVERTING (EXT4_EXTENTS_FL | EXT4_CASEFOLD_FL)

#define TIMES_GIVEN (UEXT4_ATTR_ATIME | UEXT4_ATTR_MTIME)
#define TIMES_NOW (UEXT4_ATTR_ATIME_NOW | UEXT4_ATTR_MTIME_NOW)
#define ATTR_KNOWN                                                                           \
	(UEXT4_ATTR_MODE | UEXT4_ATTR_UID | UEXT4_ATTR_GID | UEXT4_ATTR_SIZE | TIMES_GIVEN | \
	 TIMES_NOW | UEXT4_ATTR_FLAGS | UEXT4_ATTR_PROJID | UEXT4_ATTR_GENERATION |          \
	 UEXT4_ATTR_CRTIME | UEXT4_ATTR_CTIME | UEXT4_ATTR_KILL_PRIV)

/* ---- what an inode is now -------------------------------------------------------------------- */

/* The fields that change here. */
struct fields {
	uint16_t mode;
	uint32_t uid, gid, projid, flags, generation;
};

static uint32_t wide_id(le16 lo, le16 hi)
{
	return le16_get(lo) | (uint32_t)le16_get(hi) << 16;
}

static bool has_field(const struct inode *ip, size_t end)
{
	return ip->fs->geom.inode_size > EXT4_GOOD_OLD_INODE_SIZE &&
	       end <= EXT4_GOOD_OLD_INODE_SIZE + (size_t)le16_get(ip->raw->i_extra_isize);
}
#define HAS_FIELD(ip, field) has_field(ip, offsetof(struct ext4_inode, field) + sizeof(le32))

static bool has_projects(const struct uext4_fs *fs)
{
	return geom_has_ro_compat(&fs->geom, EXT4_FEATURE_RO_COMPAT_PROJECT);
}

/* Requires the inode's lock. */
static void read_fields(struct inode *ip, struct fields *ret)
{
	const struct ext4_inode *raw = ip->raw;

	mutex_lock(&ip->raw_lock);
	*ret = (struct fields){
		.mode = le16_get(raw->i_mode),
		.uid = wide_id(raw->i_uid, raw->l_i_uid_high),
		.gid = wide_id(raw->i_gid, raw->l_i_gid_high),
		.flags = le32_get(raw->i_flags),
		.generation = le32_get(raw->i_generation),
	};
	if (has_projects(ip->fs) && HAS_FIELD(ip, i_projid))
		ret->projid = le32_get(raw->i_projid);
	mutex_unlock(&ip->raw_lock);
}

/* Metadata of the file system itself is nobody's to change. */
static int check_inode(const struct inode *ip)
{
	const struct ext4_super_block *sb = &ip->fs->super;

	if ((ip->ino < ip->fs->geom.first_ino && ip->ino != ROOT_INO) ||
	    inode_has_flag(ip, EXT4_EA_INODE_FL) ||
	    (geom_has_compat(&ip->fs->geom, EXT4_FEATURE_COMPAT_ORPHAN_FILE) &&
	     ip->ino == le32_get(sb->s_orphan_file_inum)) ||
	    (has_projects(ip->fs) && ip->ino == le32_get(sb->s_prj_quota_inum)))
		return fail(-EPERM, "inode %u belongs to the file system itself", ip->ino);
	return 0;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static int check_size(const struct inode *ip)
{
	if (inode_is_dir(ip))
		return fail(-EISDIR, "inode %u is a directory", ip->ino);
	if (!inode_is_reg(ip))
		return fail(-EINVAL, "inode %u is no regular file", ip->ino);
	return 0;
}

static int check_time(const struct uext4_time *t)
{
	return t->nsec > NSEC_MAX ? fail(-EINVAL, "a time of %u nanoseconds", t->nsec) : 0;
}

static int check_times(const struct uext4_attr *attr)
{
	int err = 0;

	if (attr->valid & UEXT4_ATTR_ATIME)
		err = check_time(&attr->atime);
	if (err == 0 && (attr->valid & UEXT4_ATTR_MTIME))
		err = check_time(&attr->mtime);
	if (err == 0 && (attr->valid & UEXT4_ATTR_CTIME))
		err = check_time(&attr->ctime);
	if (err == 0 && (attr->valid & UEXT4_ATTR_CRTIME))
		err = check_time(&attr->crtime);
	return err;
}

/* What can be said without a lock. */
static int check_request(const struct inode *ip, const struct uext4_attr *attr)
{
	int err;

	if (attr->valid & ~(uint32_t)ATTR_KNOWN)
		return fail(-EINVAL, "an attribute that this version does not know");
	err = check_inode(ip);
	if (err == 0 && (attr->valid & UEXT4_ATTR_SIZE))
		err = check_size(ip);
	if (err == 0)
		err = check_times(attr);
	if (err < 0)
		return err;
	if (((attr->valid & UEXT4_ATTR_UID) && attr->uid == ID_NONE) ||
	    ((attr->valid & UEXT4_ATTR_GID) && attr->gid == ID_NONE))
		return fail(-EINVAL, "an owner of -1");
	if ((attr->valid & UEXT4_ATTR_MODE) && inode_is_lnk(ip))
		return fail(-EOPNOTSUPP, "inode %u: the mode of a symlink", ip->ino);
	/* It is part of all checksums of the inode's blocks. */
	if ((attr->valid & UEXT4_ATTR_GENERATION) && geom_has_csum(&ip->fs->geom) &&
	    attr->generation != ip->generation)
		return fail(-EOPNOTSUPP, "inode %u: the generation, with metadata_csum", ip->ino);
	return 0;
}

/* As the kernel's ioctl: flags that it passes over are passed over. */
static int check_flags(const struct inode *ip, uint32_t old, uint32_t asked, uint32_t *ret_flags)
{
	uint32_t settable = FLAGS_SETTABLE, wanted = asked & FLAGS_SETTABLE;

	if (asked & ~FLAGS_VISIBLE)
		return fail(-EOPNOTSUPP, "inode %u: there are no flags %#x", ip->ino,
			    asked & ~FLAGS_VISIBLE);
	if ((asked ^ old) & FLAGS_CONVERTING)
		return fail(-EOPNOTSUPP, "inode %u: changing flags %#x", ip->ino,
			    (asked ^ old) & FLAGS_CONVERTING);
	if (inode_is_reg(ip))
		settable &= ~FLAGS_DIR_ONLY;
	else if (!inode_is_dir(ip))
		settable &= FLAGS_ANY_TYPE;
	if (wanted & ~settable)
		return fail(-EOPNOTSUPP, "inode %u: flags %#x are not for its type", ip->ino,
			    wanted & ~settable);
	wanted |= old & ~FLAGS_SETTABLE;
	if ((old & wanted & EXT4_IMMUTABLE_FL) && wanted != old)
		return fail(-EPERM, "inode %u is immutable", ip->ino);
	*ret_flags = wanted;
	return 0;
}

/* What immutable and append-only files refuse. */
static int check_protection(const struct inode *ip, uint32_t flags, uint32_t valid)
{
	uint32_t refused = 0;

	if (flags & EXT4_IMMUTABLE_FL)
		refused = ATTR_KNOWN & ~(uint32_t)UEXT4_ATTR_FLAGS;
	else if (flags & EXT4_APPEND_FL)
		refused = UEXT4_ATTR_MODE | UEXT4_ATTR_UID | UEXT4_ATTR_GID | UEXT4_ATTR_SIZE |
			  TIMES_GIVEN | TIMES_NOW;
	/* To bring both times up to now is to touch: what reading and appending do too. */
	if (!(flags & EXT4_IMMUTABLE_FL) && (valid & (TIMES_GIVEN | TIMES_NOW)) == TIMES_NOW)
		refused &= ~(uint32_t)TIMES_NOW;
	if (valid & refused)
		return fail(-EPERM, "inode %u is %s", ip->ino,
			    flags & EXT4_IMMUTABLE_FL ? "immutable" : "append-only");
	return 0;
}

static int check_project(struct inode *ip, uint32_t projid)
{
	if (!has_projects(ip->fs))
		return projid == 0 ? 0 : fail(-EOPNOTSUPP, "projects without the feature project");
	if (ip->fs->geom.inode_size == EXT4_GOOD_OLD_INODE_SIZE)
		return fail(-EOPNOTSUPP, "inodes of 128 bytes have no project");
	return 0;
}

/* ---- working it out -------------------------------------------------------------------------- */

struct setting {
	struct inode *ip;
	const struct uext4_attr *attr;
	struct fields old, new;
	bool drops_capability;
	struct xattr_batch *batch; /* the ACL and the capability that change too, or NULL */
	void *acl;		   /* in the form of the disk */
};

static bool wants(const struct setting *s, uint32_t valid)
{
	return s->attr->valid & valid;
}

/*
 * An executable that changes hands (to whom it belongs already, too), or contents, loses what made
 * it special.
 */
static void kill_privileges(struct setting *s)
{
	bool is_given = wants(s, UEXT4_ATTR_UID | UEXT4_ATTR_GID) ||
			s->attr->valid == UEXT4_ATTR_KILL_PRIV;

	if (!wants(s, UEXT4_ATTR_KILL_PRIV) || inode_is_dir(s->ip) ||
	    !(is_given || wants(s, UEXT4_ATTR_SIZE)))
		return;
	if (!wants(s, UEXT4_ATTR_MODE)) {
		s->new.mode &= (uint16_t)~S_ISUID_BIT;
		if (s->new.mode & S_IXGRP_BIT)
			s->new.mode &= (uint16_t)~S_ISGID_BIT;
	}
	s->drops_capability = xattr_has_capability(s->ip);
}

static int work_out(struct setting *s)
{
	const struct uext4_attr *attr = s->attr;
	int err;

	read_fields(s->ip, &s->old);
	s->new = s->old;
	err = check_protection(s->ip, s->old.flags, attr->valid);
	if (err == 0 && wants(s, UEXT4_ATTR_FLAGS))
		err = check_flags(s->ip, s->old.flags, attr->flags, &s->new.flags);
	if (err == 0 && wants(s, UEXT4_ATTR_PROJID))
		err = check_project(s->ip, attr->projid);
	if (err == 0 && wants(s, UEXT4_ATTR_SIZE) && s->ip->state != INODE_INLINE &&
	    attr->size > map_size_max(s->ip))
		err = fail(-EFBIG, "inode %u: %" PRIu64 " bytes", s->ip->ino, attr->size);
	if (err < 0)
		return err;
	if (wants(s, UEXT4_ATTR_MODE))
		s->new.mode = (uint16_t)(s->ip->type | (attr->mode & PERMISSIONS));
	if (wants(s, UEXT4_ATTR_UID))
		s->new.uid = attr->uid;
	if (wants(s, UEXT4_ATTR_GID))
		s->new.gid = attr->gid;
	if (wants(s, UEXT4_ATTR_PROJID) && has_projects(s->ip->fs))
		s->new.projid = attr->projid;
	if (wants(s, UEXT4_ATTR_GENERATION))
		s->new.generation = attr->generation;
	kill_privileges(s);
	if ((s->old.flags & EXT4_APPEND_FL) && s->new.mode != s->old.mode)
		return fail(-EPERM, "inode %u is append-only", s->ip->ino);
	return 0;
}

/* A3, and the capability. */
static int prepare_xattrs(struct setting *s)
{
	struct xattr_change acl = { .index = EXT4_XATTR_INDEX_POSIX_ACL_ACCESS };
	int err = 0;

	if (wants(s, UEXT4_ATTR_MODE))
		err = acl_chmod(s->ip, s->new.mode, &s->acl, &acl.size);
	if (err < 0 || (!s->acl && !s->drops_capability))
		return err;
	err = xattr_batch_create(s->ip, &s->batch);
	if (err < 0)
		return err;
	acl.value = s->acl;
	if (s->acl)
		xattr_batch_add(s->batch, &acl);
	if (s->drops_capability)
		xattr_batch_add_drop_capability(s->batch);
	return xattr_batch_prepare(s->batch);
}

/* ---- doing it -------------------------------------------------------------------------------- */

/* From here on: only abort.  @to over what is there. */
static void install(struct inode *ip, const struct fields *from, const struct fields *to)
{
	if (to->mode != from->mode)
		inode_set_mode(ip, to->mode & PERMISSIONS);
	if (to->uid != from->uid || to->gid != from->gid)
		inode_set_owner(ip, to->uid, to->gid);
	if (to->flags != from->flags)
		inode_set_flags(ip, to->flags & FLAGS_SETTABLE, ~to->flags & FLAGS_SETTABLE);
	if (to->projid != from->projid) {
		mutex_lock(&ip->raw_lock);
		ip->raw->i_projid = le32_make(to->projid);
		mutex_unlock(&ip->raw_lock);
	}
	if (to->generation != from->generation) {
		rwlock_write(&ip->xattr_lock);
		rwlock_write(&ip->map_lock);
		mutex_lock(&ip->raw_lock);
		ip->raw->i_generation = le32_make(to->generation);
		ip->generation = to->generation;
		ip->csum_seed = verify_inode_seed(&ip->fs->geom, ip->ino, to->generation);
		mutex_unlock(&ip->raw_lock);
		rwlock_write_unlock(&ip->map_lock);
		rwlock_write_unlock(&ip->xattr_lock);
	}
}

/* Seconds that an inode can keep: 32 bits, or 34. */
static struct uext4_time clamp_time(const struct inode *ip, struct uext4_time t)
{
	int64_t max = HAS_FIELD(ip, i_ctime_extra) ? INT64_C(0x37fffffff) : INT32_MAX;

	if (t.sec > max)
		return (struct uext4_time){ .sec = max };
	if (t.sec < INT32_MIN)
		return (struct uext4_time){ .sec = INT32_MIN };
	return t;
}

static void install_times(struct inode *ip, const struct uext4_attr *attr)
{
	uint32_t now = INODE_CTIME;

	if (attr->valid & UEXT4_ATTR_ATIME_NOW)
		now |= INODE_ATIME;
	if (attr->valid & UEXT4_ATTR_MTIME_NOW)
		now |= INODE_MTIME;
	inode_touch(ip, now);
	if (attr->valid & UEXT4_ATTR_ATIME)
		inode_set_time(ip, INODE_ATIME, clamp_time(ip, attr->atime));
	if (attr->valid & UEXT4_ATTR_MTIME)
		inode_set_time(ip, INODE_MTIME, clamp_time(ip, attr->mtime));
	if (attr->valid & UEXT4_ATTR_CTIME)
		inode_set_time(ip, INODE_CTIME, clamp_time(ip, attr->ctime));
	if (attr->valid & UEXT4_ATTR_CRTIME)
		inode_set_time(ip, INODE_CRTIME, clamp_time(ip, attr->crtime));
}

static bool changes_owner(const struct fields *a, const struct fields *b)
{
	return a->uid != b->uid || a->gid != b->gid || a->projid != b->projid;
}

static int prepare_owner(struct inode *ip, const struct fields *to)
{
	const struct quota_owner owner = { { to->uid, to->gid, to->projid } };

	return quota_prepare(ip->fs, &owner);
}

static int move_usage(struct handle *h, struct inode *ip, const struct fields *from,
		      const struct fields *to)
{
	const struct quota_owner owner = { { to->uid, to->gid, to->projid } };

	return changes_owner(from, to) ? quota_transfer(h, ip, &owner) : 0;
}

static int move_usage_back(struct handle *h, struct inode *ip, const struct fields *from,
			   const struct fields *to)
{
	const struct quota_owner owner = { { to->uid, to->gid, to->projid } };

	return changes_owner(from, to) ? quota_transfer_back(h, ip, &owner) : 0;
}

/* Whether data of the file goes through the journal changes: none may be on its way meanwhile. */
static int settle_data(struct setting *s)
{
	int err;

	if (!((s->old.flags ^ s->new.flags) & EXT4_JOURNAL_DATA_FL) || !inode_is_reg(s->ip))
		return 0;
	err = mapping_flush(&s->ip->pages, 0, UINT64_MAX);
	/* What is in the log would be replayed over what goes past it from now on. */
	if (err == 0 && (s->old.flags & EXT4_JOURNAL_DATA_FL))
		err = txn_log_flush(s->ip->fs->log);
	return err;
}

static int apply(struct handle *h, struct setting *s)
{
	struct inode *ip = s->ip;
	int err;

	(void)xattr_expand(ip); /* M12: the lock is held */
	if (s->new.projid != s->old.projid && !HAS_FIELD(ip, i_projid))
		return fail(-EOVERFLOW, "inode %u has no room for a project", ip->ino);
	if (wants(s, UEXT4_ATTR_CRTIME) && !HAS_FIELD(ip, i_crtime))
		return fail(-EOPNOTSUPP, "inode %u has no room for a time of creation", ip->ino);
	err = move_usage(h, ip, &s->old, &s->new);
	if (err < 0)
		return err;
	if (s->batch) {
		err = xattr_batch_apply(h, s->batch);
		if (err < 0) {
			int undo = move_usage_back(h, ip, &s->new, &s->old);

			if (undo < 0)
				txn_log_abort(ip->fs->log, undo);
			return err;
		}
	}
	install(ip, &s->old, &s->new);
	/* A2 */
	if (wants(s, UEXT4_ATTR_SIZE))
		inode_touch(ip, INODE_CTIME);
	else
		install_times(ip, s->attr);
	return inode_store_meta(h, ip);
}

static int change(struct setting *s)
{
	uint32_t credits = INODE_STORE_CREDITS + 2 * quota_credits(s->ip->fs);
	struct handle *h;
	int err;

	err = quota_load(s->ip);
	if (err == 0)
		err = prepare_owner(s->ip, &s->new);
	if (err == 0)
		err = prepare_xattrs(s);
	if (err == 0)
		err = settle_data(s);
	if (err < 0)
		return err;
	if (s->batch)
		credits += xattr_batch_credits(s->batch);
	err = handle_start(s->ip->fs->log, credits, &h);
	if (err < 0)
		return err;
	err = apply(h, s);
	return first_error(err, handle_stop(h));
}

/* ---- with a size ----------------------------------------------------------------------------- */

/* An attribute as it was; NULL: it was not there. */
struct saved {
	const char *name;
	void *value;
	size_t size;
};

static int save(struct inode *ip, const char *name, struct saved *ret)
{
	int err;

	*ret = (struct saved){ .name = name };
	err = xattr_get(ip, name, NULL, 0, &ret->size);
	if (err == -ENODATA)
		return 0;
	if (err < 0)
		return err;
	ret->value = mem_alloc(ret->size + 1);
	return ret->value ? xattr_get(ip, name, ret->value, ret->size, &ret->size) : -ENOMEM;
}

static int restore(const struct setting *s, const struct saved *saved, size_t count)
{
	const uint32_t credits = INODE_STORE_CREDITS + 2 * quota_credits(s->ip->fs);
	struct handle *h;
	int err = 0;

	for (size_t i = 0; i < count && err == 0; i++)
		if (saved[i].value)
			err = xattr_set(s->ip, saved[i].name, saved[i].value, saved[i].size, 0);
	if (err == 0)
		err = handle_start(s->ip->fs->log, credits, &h);
	if (err < 0)
		return err;
	err = move_usage_back(h, s->ip, &s->new, &s->old);
	if (err == 0) {
		install(s->ip, &s->new, &s->old);
		err = inode_store_meta(h, s->ip);
	}
	return first_error(err, handle_stop(h));
}

static int store_times(const struct setting *s)
{
	struct handle *h;
	int err;

	if (!wants(s, TIMES_GIVEN | TIMES_NOW | UEXT4_ATTR_CTIME | UEXT4_ATTR_CRTIME))
		return 0;
	err = handle_start(s->ip->fs->log, INODE_STORE_CREDITS, &h);
	if (err < 0)
		return err;
	install_times(s->ip, s->attr);
	err = inode_store_meta(h, s->ip);
	return first_error(err, handle_stop(h));
}

/* A1: @saved is what the rest of the change takes away. */
static int change_with_size(struct setting *s)
{
	struct saved saved[2] = { 0 };
	const size_t count = ARRAY_SIZE(saved);
	int err, undo;

	err = save(s->ip, "system.posix_acl_access", &saved[0]);
	if (err == 0)
		err = save(s->ip, "security.capability", &saved[1]);
	if (err == 0)
		err = change(s);
	if (err == 0) {
		err = file_set_size(s->ip, s->attr->size);
		if (err == 0) {
			err = store_times(s);
		} else {
			undo = restore(s, saved, count);
			if (undo < 0)
				err = fail_in(err, "attributes could not be taken back either");
		}
	}
	for (size_t i = 0; i < count; i++)
		mem_free(saved[i].value);
	return err;
}

/* ---- the calls ------------------------------------------------------------------------------- */

static int set_locked(struct inode *ip, const struct uext4_attr *attr)
{
	struct setting s = { .ip = ip, .attr = attr };
	int err;

	err = work_out(&s);
	if (err == 0)
		err = wants(&s, UEXT4_ATTR_SIZE) ? change_with_size(&s) : change(&s);
	xattr_batch_destroy(s.batch);
	mem_free(s.acl);
	return err;
}

int attr_set(struct inode *ip, const struct uext4_attr *attr)
{
	int err;

	err = check_request(ip, attr);
	if (err < 0 || attr->valid == 0)
		return err;
	for (;;) {
		err = fs_write_begin(ip->fs);
		if (err < 0)
			return err;
		inode_lock(ip, INODE_CHILD);
		err = set_locked(ip, attr);
		inode_unlock(ip);
		fs_write_end(ip->fs);
		if (err != -EAGAIN) /* what would be cut off is pinned */
			return err;
		mapping_wait_unpinned(&ip->pages, div_round_up(attr->size, PAGE_BYTES), UINT64_MAX);
	}
}

/* As the system call, which knows attributes of users on files and directories only. */
static int check_xattr(const struct inode *ip, const char *name)
{
	if (inode_has_flag(ip, EXT4_IMMUTABLE_FL | EXT4_APPEND_FL))
		return fail(-EPERM, "inode %u is immutable or append-only", ip->ino);
	if (strncmp(name, "user.", 5) == 0 && !inode_is_reg(ip) && !inode_is_dir(ip))
		return fail(-EPERM, "inode %u: %s is for files and directories", ip->ino, name);
	return 0;
}

int attr_xattr_set(struct inode *ip, const char *name, const void *value, size_t size,
		   uint32_t flags)
{
	int err;

	err = check_inode(ip);
	if (err < 0)
		return err;
	err = fs_write_begin(ip->fs);
	if (err < 0)
		return err;
	inode_lock(ip, INODE_CHILD);
	err = check_xattr(ip, name);
	if (err == 0)
		err = xattr_set(ip, name, value, size, flags);
	inode_unlock(ip);
	fs_write_end(ip->fs);
	return err;
}
