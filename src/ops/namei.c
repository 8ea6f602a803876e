/* SPDX-License-Identifier: MIT */
/*
 * Paths: one component, and whole walks with symlinks.
 *
 * The image is the whole world: an absolute symlink starts at its root, and ".." of the root is the
 * root.  No lock is held from one component to the next; each lookup sees its directory as it is
 * then.
 *
 *  N1  A walk ends: at most SYMLINKS_MAX symlinks, and what is left to walk never exceeds WALK_MAX
 *      bytes.
 */
#include "ops/namei_priv.h"

#include "base/diag.h"
#include "base/mem.h"

#define SYMLINKS_MAX 40
#define TARGET_MAX 65536u /* a symlink's target is at most one block */
#define WALK_MAX (2 * TARGET_MAX)

int namei_check_name(const char *name, size_t len)
{
	if (len == 0)
		return fail(-EINVAL, "an empty name");
	if (len > UEXT4_NAME_MAX)
		return fail(-ENAMETOOLONG, "a name of %zu bytes", len);
	if (memchr(name, '/', len) || memchr(name, '\0', len))
		return fail(-EINVAL, "a name with '/' or NUL inside");
	return 0;
}

/* An entry may name only inodes that a user can have. */
static int check_entry(struct inode *dir, uint32_t ino)
{
	const struct geom *g = &dir->fs->geom;

	if (ino > g->inodes || (ino < g->first_ino && ino != EXT4_ROOT_INO))
		return corrupt("directory %u has an entry for inode %u", dir->ino, ino);
	return 0;
}

uint8_t namei_type(const struct inode *ip)
{
	switch (ip->type) {
	case 0100000: return UEXT4_FT_REG;
	case 0040000: return UEXT4_FT_DIR;
	case 0020000: return UEXT4_FT_CHR;
	case 0060000: return UEXT4_FT_BLK;
	case 0010000: return UEXT4_FT_FIFO;
	case 0140000: return UEXT4_FT_SOCK;
	case 0120000: return UEXT4_FT_LNK;
	default: return UEXT4_FT_UNKNOWN;
	}
}

int namei_get_dir(struct uext4_fs *fs, uint32_t ino, struct inode **ret_dir)
{
	struct inode *dir;
	int err;

	err = inode_get(fs, ino, &dir);
	if (err < 0)
		return err;
	if (!inode_is_dir(dir)) {
		inode_put(dir);
		return fail(-ENOTDIR, "inode %u is no directory", ino);
	}
	*ret_dir = dir;
	return 0;
}

int namei_find_locked(struct inode *dir, const char *name, size_t len, struct inode **ret_ip)
{
	uint32_t ino;
	int err;

	if (atomic_load(&dir->flags) & INODE_UNLINKED)
		return fail(-ENOENT, "directory %u is removed", dir->ino);
	err = dir_find_locked(dir, name, len, &ino);
	if (err < 0)
		return err;
	err = check_entry(dir, ino);
	if (err < 0)
		return err;
	err = inode_get(dir->fs, ino, ret_ip);
	if (err == -ESTALE)
		return corrupt("directory %u has an entry for inode %u, which is not in use",
			       dir->ino, ino);
	return err;
}

static int find_in(struct inode *dir, const char *name, size_t len, uint32_t *ret_ino)
{
	uint32_t ino;
	int err;

	if (!inode_is_dir(dir))
		return fail(-ENOTDIR, "inode %u is no directory", dir->ino);
	err = dir_find(dir, name, len, &ino);
	if (err < 0)
		return err;
	err = check_entry(dir, ino);
	if (err < 0)
		return err;
	*ret_ino = ino;
	return 0;
}

int namei_lookup(struct uext4_fs *fs, uint32_t dir_ino, const void *name, size_t name_len,
		 uint32_t *ret_ino)
{
	struct inode *dir INODE_SCOPE = NULL;
	int err;

	err = namei_check_name(name, name_len);
	if (err < 0)
		return err;
	err = inode_get(fs, dir_ino, &dir);
	if (err < 0)
		return err;
	return find_in(dir, name, name_len, ret_ino);
}

/* What is still to be walked: a suffix of a buffer that symlinks grow at its front. */
struct walk {
	char *rest; /* NUL-terminated */
	char *buf;  /* owned; NULL while rest is still the caller's path */
	unsigned symlinks;
};

/*
 * Replaces the walk by @link's target followed by the rest.  @slash: the path had a '/' behind the
 * link, so that the target must be a directory even if nothing follows.
 */
static int walk_into_symlink(struct walk *walk, struct inode *link, bool slash)
{
	char *target FREE_SCOPE = mem_alloc(TARGET_MAX);
	size_t target_len, rest_len = strlen(walk->rest);
	char *buf;
	int err;

	if (!target)
		return -ENOMEM;
	if (++walk->symlinks > SYMLINKS_MAX)
		return fail(-ELOOP, "more than %u symlinks", SYMLINKS_MAX);
	err = symlink_read(link, target, TARGET_MAX, &target_len);
	if (err < 0)
		return err;
	if (target_len + 1 + rest_len >= WALK_MAX)
		return fail(-ENAMETOOLONG, "the path grows too long through symlinks");
	buf = mem_alloc(target_len + 1 + rest_len + 1);
	if (!buf)
		return -ENOMEM;
	memcpy(buf, target, target_len);
	buf[target_len] = '/';
	memcpy(buf + target_len + 1, walk->rest, rest_len + 1);
	if (!slash)
		buf[target_len] = '\0';
	mem_free(walk->buf);
	walk->buf = walk->rest = buf;
	return 0;
}

/* One component from @ino on; *ret_ino is the directory to go on from, or the end. */
static int walk_step(struct uext4_fs *fs, struct walk *walk, uint32_t flags, uint32_t ino,
		     uint32_t *ret_ino)
{
	struct inode *dir INODE_SCOPE = NULL, *ip INODE_SCOPE = NULL;
	char *name = walk->rest;
	size_t len = strcspn(name, "/");
	bool last = name[len + strspn(name + len, "/")] == '\0', slash = name[len] == '/';
	uint32_t next;
	int err;

	err = namei_check_name(name, len);
	if (err < 0)
		return err;
	err = inode_get(fs, ino, &dir);
	if (err < 0)
		return err;
	err = find_in(dir, name, len, &next);
	if (err < 0)
		return err;
	err = inode_get(fs, next, &ip);
	if (err < 0)
		return err;
	walk->rest += len + strspn(name + len, "/");
	if (!inode_is_lnk(ip) || (last && !slash && (flags & UEXT4_RESOLVE_NOFOLLOW))) {
		if (slash && !inode_is_dir(ip))
			return fail(-ENOTDIR, "inode %u is no directory", ip->ino);
		*ret_ino = next;
		return 0;
	}
	if (flags & UEXT4_RESOLVE_NO_SYMLINKS)
		return fail(-ELOOP, "inode %u is a symlink", ip->ino);
	err = walk_into_symlink(walk, ip, slash);
	if (err < 0)
		return err;
	*ret_ino = walk->rest[0] == '/' ? EXT4_ROOT_INO : ino;
	return 0;
}

int namei_resolve(struct uext4_fs *fs, uint32_t start_ino, const char *path, uint32_t flags,
		  uint32_t *ret_ino)
{
	size_t len = strlen(path);
	struct walk walk = { 0 };
	uint32_t ino = start_ino;
	int err = 0;

	if (len >= WALK_MAX)
		return fail(-ENAMETOOLONG, "a path of %zu bytes", len);
	walk.buf = mem_alloc(len + 1);
	if (!walk.buf)
		return -ENOMEM;
	walk.rest = memcpy(walk.buf, path, len + 1);
	if (walk.rest[0] == '/')
		ino = EXT4_ROOT_INO;
	for (;;) {
		walk.rest += strspn(walk.rest, "/");
		if (walk.rest[0] == '\0')
			break;
		err = walk_step(fs, &walk, flags, ino, &ino);
		if (err < 0)
			break;
	}
	mem_free(walk.buf);
	if (err < 0)
		return err;
	*ret_ino = ino;
	return 0;
}
