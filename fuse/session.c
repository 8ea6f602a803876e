/* SPDX-License-Identifier: MIT */
/* The words that libfuse is told of a session with the kernel, whoever starts it. */
#include "mount_priv.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum { COMPAT_EXT_ATTR = 0x8, INODE_BYTES_MIN = 128 };

/*
 * A mount for one user shows him all of his image.  Where others are let in, or where it is asked
 * for, the kernel checks permissions, by ACLs too.
 */
static bool decide_permissions(struct server *server, const struct uext4_info *info)
{
	const struct mount_options *options = server->options;
	bool may_have_acls = info->features[UEXT4_COMPAT] & COMPAT_EXT_ATTR;
	bool checked = options->default_permissions || options->acl == MOUNT_ACL_ON ||
		       (options->allow_other && !options->fakeroot);

	/* With other permission bits than the image's its ACLs mean nothing. */
	server->use_acl = options->acl == MOUNT_ACL_ON ||
			  (options->acl == MOUNT_ACL_AUTO && checked && may_have_acls &&
			   !options->has_umask);
	server->hide_acl = options->acl == MOUNT_ACL_OFF;
	return checked;
}

/* Puts our own words first: what the user says later wins. */
int session_add_args(struct server *server, struct mount_options *options,
		     const struct uext4_info *info, bool writable)
{
	struct fuse_args *args = &options->session_args;
	char *real_image = realpath(options->image, NULL);
	char source[PATH_MAX + 16];
	char *list = NULL;
	int err;

	server->options = options;
	server->seconds_only = info->inode_size == INODE_BYTES_MIN;
	snprintf(source, sizeof(source), "fsname=%s", real_image ? real_image : options->image);
	free(real_image);
	err = writable ? 0 : fuse_opt_add_opt(&list, "ro");
	if (!err && decide_permissions(server, info))
		err = fuse_opt_add_opt(&list, "default_permissions");
	if (!err && !options->no_default_opts)
		err = fuse_opt_add_opt(&list, "subtype=uext4");
	if (!err && !options->no_default_opts)
		err = fuse_opt_add_opt_escaped(&list, source);
	if (!err && list)
		err = fuse_opt_insert_arg(args, 1, list);
	if (!err && list)
		err = fuse_opt_insert_arg(args, 1, "-o");
	if (!err && options->debug)
		err = fuse_opt_insert_arg(args, 1, "-d");
	free(list);
	return err ? -ENOMEM : 0;
}
