/* SPDX-License-Identifier: MIT */
/* The oracle of model.h: times, attributes, ACLs. */
#include "model_internal.h"

#define XATTR_SIZE_MAX 65536u
#define ACCESS "system.posix_acl_access"
#define DEFAULT "system.posix_acl_default"
#define CAPABILITY "security.capability"

/* ---- times ---------------------------------------------------------------------------------- */

static int compare_times(struct uext4_time a, struct uext4_time b)
{
	if (a.sec != b.sec)
		return a.sec < b.sec ? -1 : 1;
	return a.nsec < b.nsec ? -1 : a.nsec > b.nsec;
}

static bool same_time(struct uext4_time a, struct uext4_time b)
{
	return compare_times(a, b) == 0;
}

/* An inode of 128 bytes has room for 32 bits of seconds only. */
static bool has_fractions(const struct model *m)
{
	return m->rules.inode_size > 128;
}

static struct uext4_time clamped(const struct model *m, struct uext4_time t)
{
	int64_t min = INT32_MIN, max = INT32_MAX;
	bool stock = m->rules.kernel && !m->rules.fuse;

	if (has_fractions(m))
		max = (INT64_C(1) << 34) - 1 + INT32_MIN;
	/* The kernel knows no fractions in the first and last second. */
	if (t.sec > max || t.sec < min || (stock && (t.sec == max || t.sec == min)))
		return (struct uext4_time){ .sec = t.sec <= min ? min : max };
	if (!has_fractions(m))
		t.nsec = 0;
	return t;
}

void model_touch(struct model *m, struct model_node *n, unsigned kinds)
{
	for (unsigned k = 0; k < MODEL_TIMES; k++) {
		if (kinds & 1u << k)
			n->times[k] = (struct model_time){ .t = m->now.lo,
							   .hi = m->now.hi,
							   .open = true };
	}
}

/* Where systems differ: it becomes now, or stays. */
void model_touch_perhaps(struct model *m, struct model_node *n, unsigned kinds)
{
	for (unsigned k = 0; k < MODEL_TIMES; k++) {
		struct model_time *t = &n->times[k];

		if (!(kinds & 1u << k))
			continue;
		if (t->open) {
			t->hi = m->now.hi;
			continue;
		}
		*t = (struct model_time){
			.t = m->now.lo, .hi = m->now.hi, .open = true, .or_same = true, .was = t->t
		};
	}
}

void model_may_have_touched(struct model *m, struct model_node *n)
{
	model_touch_perhaps(m, n, T(MTIME) | T(CTIME));
}

static void set_time(struct model *m, struct model_node *n, enum model_time_kind kind,
		     struct uext4_time t)
{
	n->times[kind] = (struct model_time){ .t = clamped(m, t) };
}

bool model_learn_time(const struct model *m, struct model_node *n, enum model_time_kind kind,
		      struct uext4_time seen)
{
	struct model_time *t = &n->times[kind];
	struct uext4_time lo = t->t;
	bool ok;

	if (!t->open)
		return same_time(t->t, seen);
	if (!has_fractions(m))
		lo.nsec = 0;
	ok = compare_times(lo, seen) <= 0 && compare_times(seen, t->hi) <= 0;
	if (!ok && !(t->or_same && same_time(t->was, seen)))
		return false;
	*t = (struct model_time){ .t = seen };
	return true;
}

/* ---- attributes with names, ACLs ------------------------------------------------------------ */

struct model_xattr *model_xattr_new(const char *name, const void *value, size_t size)
{
	struct model_xattr *x = model_zalloc(sizeof(*x) + size);

	snprintf(x->name, sizeof(x->name), "%s", name);
	x->size = size;
	memcpy(x->value, value, size);
	return x;
}

struct model_xattr *model_xattr_find(const struct model_node *n, const char *name)
{
	struct model_xattr *x = n->xattrs;

	while (x && strcmp(x->name, name) != 0)
		x = x->next;
	return x;
}

static bool xattr_remove(struct model_node *n, const char *name)
{
	for (struct model_xattr **at = &n->xattrs; *at; at = &(*at)->next) {
		struct model_xattr *x = *at;

		if (strcmp(x->name, name) == 0) {
			*at = x->next;
			free(x);
			return true;
		}
	}
	return false;
}

static void xattr_put(struct model_node *n, const char *name, const void *value, size_t size)
{
	struct model_xattr *x = model_xattr_new(name, value, size);

	xattr_remove(n, name);
	x->next = n->xattrs;
	n->xattrs = x;
}

/* An ACL as setxattr(2) takes it; POSIX.1e draft 17, version 2. */
struct acl_entry {
	uint16_t tag, perm;
	uint32_t id;
};

struct acl {
	uint32_t version;
	struct acl_entry entries[];
};

enum {
	ACL_USER_OBJ = 1,
	ACL_USER = 2,
	ACL_GROUP_OBJ = 4,
	ACL_GROUP = 8,
	ACL_MASK = 16,
	ACL_OTHER = 32
};

static size_t acl_count(size_t size)
{
	return (size - sizeof(struct acl)) / sizeof(struct acl_entry);
}

static struct acl_entry *acl_find(struct acl *acl, size_t count, uint16_t tag)
{
	for (size_t i = 0; i < count; i++) {
		if (acl->entries[i].tag == tag)
			return &acl->entries[i];
	}
	return NULL;
}

/* 0, or what setxattr(2) says of it. */
static int acl_check(const struct acl *acl, size_t size)
{
	unsigned state = 0;
	bool named = false;

	if (size < sizeof(*acl))
		return -EINVAL;
	if (acl->version != 2)
		return -EOPNOTSUPP;
	if ((size - sizeof(*acl)) % sizeof(struct acl_entry))
		return -EINVAL;
	for (size_t i = 0; i < acl_count(size); i++) {
		uint16_t tag = acl->entries[i].tag;

		if (acl->entries[i].perm > 7 || (tag & (tag - 1)) || tag == 0 || tag > ACL_OTHER)
			return -EINVAL;
		/* Tags ascend; those that name somebody may repeat. */
		if (tag < state || (tag == state && tag != ACL_USER && tag != ACL_GROUP))
			return -EINVAL;
		if (state == 0 && tag != ACL_USER_OBJ)
			return -EINVAL;
		if (tag > ACL_GROUP_OBJ && state < ACL_GROUP_OBJ)
			return -EINVAL;
		if (tag == ACL_OTHER && named && state != ACL_MASK)
			return -EINVAL;
		named = named || tag == ACL_USER || tag == ACL_GROUP;
		state = tag;
	}
	return state == ACL_OTHER || acl_count(size) == 0 ? 0 : -EINVAL;
}

static bool acl_is_mode(const struct acl *acl, size_t size)
{
	for (size_t i = 0; i < acl_count(size); i++) {
		if (acl->entries[i].tag & (ACL_USER | ACL_GROUP | ACL_MASK))
			return false;
	}
	return true;
}

/* The class of the group: the mask where there is one. */
static struct acl_entry *acl_group(struct acl *acl, size_t count)
{
	struct acl_entry *mask = acl_find(acl, count, ACL_MASK);

	return mask ? mask : acl_find(acl, count, ACL_GROUP_OBJ);
}

static uint32_t acl_mode(struct acl *acl, size_t size)
{
	size_t count = acl_count(size);

	return (uint32_t)acl_find(acl, count, ACL_USER_OBJ)->perm << 6 |
	       (uint32_t)acl_group(acl, count)->perm << 3 | acl_find(acl, count, ACL_OTHER)->perm;
}

static void acl_follow_mode(struct model_node *n)
{
	struct model_xattr *x = model_xattr_find(n, ACCESS);
	struct acl *acl;
	size_t count;

	if (!x)
		return;
	acl = (struct acl *)x->value;
	count = acl_count(x->size);
	acl_find(acl, count, ACL_USER_OBJ)->perm = n->mode >> 6 & 7;
	acl_group(acl, count)->perm = n->mode >> 3 & 7;
	acl_find(acl, count, ACL_OTHER)->perm = n->mode & 7;
}

/* What a new node gets of @dir's default ACL: its mode is narrowed, or the umask is. */
void model_acl_inherit(const struct model_node *dir, struct model_node *n, uint32_t umask)
{
	const struct model_xattr *dflt = model_xattr_find(dir, DEFAULT);
	struct acl *acl;
	size_t count;

	if (model_is_lnk(n))
		return;
	if (!dflt) {
		n->mode &= ~(umask & 0777);
		return;
	}
	acl = model_need(malloc(dflt->size));
	memcpy(acl, dflt->value, dflt->size);
	count = acl_count(dflt->size);
	acl_find(acl, count, ACL_USER_OBJ)->perm &= n->mode >> 6 & 7;
	acl_group(acl, count)->perm &= n->mode >> 3 & 7;
	acl_find(acl, count, ACL_OTHER)->perm &= n->mode & 7;
	n->mode = (n->mode & ~0777u) | acl_mode(acl, dflt->size);
	if (!acl_is_mode(acl, dflt->size))
		xattr_put(n, ACCESS, acl, dflt->size);
	if (model_is_dir(n))
		xattr_put(n, DEFAULT, dflt->value, dflt->size);
	free(acl);
}

static bool is_acl(const char *name)
{
	return strcmp(name, ACCESS) == 0 || strcmp(name, DEFAULT) == 0;
}

static int set_acl(struct model *m, enum model_step step, struct model_node *n, const char *name,
		   const void *value, size_t size)
{
	bool access = strcmp(name, ACCESS) == 0, had, keep;
	uint32_t old_mode;
	struct acl *acl;
	int err;

	if (model_is_lnk(n))
		return -EOPNOTSUPP;
	if (value && size > sizeof(*acl) && !access && !model_is_dir(n))
		return -EACCES;
	if (value && size) {
		err = acl_check(value, size);
		if (err < 0)
			return err;
	}
	if (!value || size <= sizeof(*acl)) {
		/* None at all.  That there was none before is no error. */
		if (step == MODEL_DO && xattr_remove(n, name))
			model_touch(m, n, T(CTIME));
		return 0;
	}
	if (step == MODEL_ASK)
		return 0;
	old_mode = n->mode;
	had = model_xattr_find(n, name) != NULL;
	acl = model_need(malloc(size));
	memcpy(acl, value, size);
	xattr_remove(n, name);
	if (access)
		n->mode = (n->mode & ~0777u) | acl_mode(acl, size);
	keep = !access || !acl_is_mode(acl, size);
	if (keep)
		xattr_put(n, name, acl, size);
	free(acl);
	if (!had && !keep && n->mode == old_mode)
		model_touch_perhaps(m, n, T(CTIME)); /* it said what the mode says already */
	else
		model_touch(m, n, T(CTIME));
	return 0;
}

/* Bytes of a name without its prefix; 0: an unknown prefix. */
static size_t xattr_suffix(const char *name)
{
	static const char *const prefixes[] = { "user.", "trusted.", "security." };

	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
		size_t len = strlen(prefixes[i]);

		if (strncmp(name, prefixes[i], len) == 0)
			return strlen(name) - len;
	}
	return 0;
}

int model_xattr_set(struct model *m, enum model_step step, struct model_node *n, const char *name,
		    const void *value, size_t size, uint32_t flags)
{
	const struct model_xattr *old = model_xattr_find(n, name);
	bool same = old && value && old->size == size && memcmp(old->value, value, size) == 0;

	if (size > XATTR_SIZE_MAX)
		return -E2BIG;
	/* An ACL is looked at before FUSE asks the server, who alone knows of flags. */
	if (m->rules.fuse && is_acl(name) && model_is_locked(n)) {
		int err = set_acl(m, MODEL_ASK, n, name, value, size);

		if (err < 0 || (strcmp(name, DEFAULT) == 0 && !model_is_dir(n)))
			return err;
	}
	if (n->flags & (MODEL_FL_IMMUTABLE | MODEL_FL_APPEND))
		return -EPERM;
	if (is_acl(name))
		return set_acl(m, step, n, name, value, size);
	if (xattr_suffix(name) == 0)
		return -EOPNOTSUPP;
	if (xattr_suffix(name) > MODEL_NAME_MAX)
		return -ERANGE;
	if (!old && (!value || flags & UEXT4_XATTR_REPLACE))
		return -ENODATA;
	if (old && flags & UEXT4_XATTR_CREATE)
		return -EEXIST;
	if (step == MODEL_ASK)
		return 0;
	if (value)
		xattr_put(n, name, value, size);
	else
		xattr_remove(n, name);
	if (same)
		model_touch_perhaps(m, n, T(CTIME));
	else
		model_touch(m, n, T(CTIME));
	return 0;
}

/* Bytes an attribute takes in the inode's body or in the block. */
static size_t xattr_bytes(const char *name, size_t size, bool value_outside)
{
	size_t suffix = xattr_suffix(name);

	if (is_acl(name)) {
		suffix = 0;
		size = 4 + 8 * acl_count(size);
	}
	return 16 + (suffix + 3) / 4 * 4 + (value_outside ? 0 : (size + 3) / 4 * 4);
}

enum model_room model_xattr_room(const struct model *m, const struct model_node *n,
				 const char *name, size_t size)
{
	size_t block = m->rules.block_size - 32 - 4;
	size_t body = m->rules.inode_size > 160 ? m->rules.inode_size - 160 - 8 : 0;
	size_t mine = xattr_bytes(name, size, false), all = mine;

	for (const struct model_xattr *x = n->xattrs; x; x = x->next) {
		if (strcmp(x->name, name) != 0)
			all += xattr_bytes(x->name, x->size, false);
	}
	if (all <= block)
		return MODEL_ROOM;
	if (m->rules.ea_inode)
		return MODEL_ROOM_PERHAPS;
	return mine > block && mine > body ? MODEL_NO_ROOM : MODEL_ROOM_PERHAPS;
}

/* What goes when contents or owner change. */
void model_drop_capability(struct model_node *n)
{
	xattr_remove(n, CAPABILITY);
}

void model_drop_setuid(struct model_node *n)
{
	if (model_is_dir(n))
		return;
	n->mode &= ~(uint32_t)S_ISUID;
	if (n->mode & S_IXGRP)
		n->mode &= ~(uint32_t)S_ISGID;
}

/* ---- attributes ----------------------------------------------------------------------------- */

static int check_attr(const struct model *m, const struct model_node *n,
		      const struct uext4_attr *attr)
{
	uint32_t v = attr->valid;

	if (v & UEXT4_ATTR_SIZE && model_is_dir(n))
		return -EISDIR;
	if (v & UEXT4_ATTR_SIZE && !model_is_reg(n))
		return -EINVAL;
	if (v & UEXT4_ATTR_GENERATION && m->rules.metadata_csum)
		return -EOPNOTSUPP; /* checksums are seeded with it */
	if (n->flags & MODEL_FL_IMMUTABLE &&
	    v & (UEXT4_ATTR_CRTIME | UEXT4_ATTR_CTIME | UEXT4_ATTR_GENERATION | UEXT4_ATTR_PROJID))
		return -EPERM;
	if (model_is_locked(n) && v & (UEXT4_ATTR_MODE | UEXT4_ATTR_UID | UEXT4_ATTR_GID |
				       UEXT4_ATTR_SIZE | UEXT4_ATTR_ATIME | UEXT4_ATTR_MTIME))
		return -EPERM;
	if (n->flags & MODEL_FL_IMMUTABLE && v & (UEXT4_ATTR_ATIME_NOW | UEXT4_ATTR_MTIME_NOW))
		return -EPERM;
	if (v & UEXT4_ATTR_CRTIME && !has_fractions(m))
		return -EOPNOTSUPP;
	/* What is immutable and stays so changes in nothing. */
	if (v & UEXT4_ATTR_FLAGS && n->flags & attr->flags & MODEL_FL_IMMUTABLE &&
	    n->flags != (attr->flags & MODEL_FL_ALL))
		return -EPERM;
	if (v & UEXT4_ATTR_SIZE && attr->size > m->rules.size_max)
		return -EFBIG;
	return 0;
}

static void set_owner(struct model *m, struct model_node *n, const struct uext4_attr *attr)
{
	if (attr->valid & UEXT4_ATTR_UID)
		n->uid = attr->uid;
	if (attr->valid & UEXT4_ATTR_GID)
		n->gid = attr->gid;
	/* Linux does this for root, too. */
	if (!model_is_dir(n) && (m->rules.kernel || attr->valid & UEXT4_ATTR_KILL_PRIV)) {
		model_drop_setuid(n);
		model_drop_capability(n);
	}
}

static void change_size(struct model *m, struct model_node *n, const struct uext4_attr *attr)
{
	if (attr->size == n->size)
		model_touch_perhaps(m, n, T(MTIME) | T(CTIME));
	else
		model_touch(m, n, T(MTIME) | T(CTIME));
	model_set_size(n, attr->size);
	if (m->rules.kernel || attr->valid & UEXT4_ATTR_KILL_PRIV)
		model_drop_capability(n);
	if (attr->valid & UEXT4_ATTR_KILL_PRIV)
		model_drop_setuid(n);
}

static void set_attr_times(struct model *m, struct model_node *n, const struct uext4_attr *attr)
{
	uint32_t v = attr->valid;

	if (v & (UEXT4_ATTR_ATIME_NOW | UEXT4_ATTR_MTIME_NOW | UEXT4_ATTR_ATIME | UEXT4_ATTR_MTIME))
		model_touch(m, n, T(CTIME));
	if (v & UEXT4_ATTR_ATIME_NOW)
		model_touch(m, n, T(ATIME));
	if (v & UEXT4_ATTR_MTIME_NOW)
		model_touch(m, n, T(MTIME));
	if (v & UEXT4_ATTR_ATIME)
		set_time(m, n, MODEL_ATIME, attr->atime);
	if (v & UEXT4_ATTR_MTIME)
		set_time(m, n, MODEL_MTIME, attr->mtime);
	if (v & UEXT4_ATTR_CRTIME)
		set_time(m, n, MODEL_CRTIME, attr->crtime);
	if (v & UEXT4_ATTR_CTIME)
		set_time(m, n, MODEL_CTIME, attr->ctime);
}

int model_set_attr(struct model *m, enum model_step step, struct model_node *n,
		   const struct uext4_attr *attr)
{
	uint32_t v = attr->valid;
	int err = check_attr(m, n, attr);

	if (err < 0 || step == MODEL_ASK)
		return err;
	if (v & UEXT4_ATTR_SIZE)
		change_size(m, n, attr);
	if (v & (UEXT4_ATTR_UID | UEXT4_ATTR_GID))
		set_owner(m, n, attr);
	if (v & UEXT4_ATTR_MODE) {
		n->mode = (n->mode & S_IFMT) | (attr->mode & 07777);
		acl_follow_mode(n);
	}
	if (v & UEXT4_ATTR_FLAGS)
		n->flags = attr->flags & MODEL_FL_ALL;
	if (v & UEXT4_ATTR_PROJID)
		n->projid = attr->projid;
	if (v & UEXT4_ATTR_GENERATION)
		n->generation = attr->generation;
	if (v & (UEXT4_ATTR_MODE | UEXT4_ATTR_UID | UEXT4_ATTR_GID | UEXT4_ATTR_FLAGS |
		 UEXT4_ATTR_PROJID | UEXT4_ATTR_GENERATION))
		model_touch(m, n, T(CTIME));
	set_attr_times(m, n, attr);
	return 0;
}
