/* SPDX-License-Identifier: MIT */
/* What the files of the model share. */
#ifndef T_MODEL_INTERNAL_H
#define T_MODEL_INTERNAL_H

#include "model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define T(kind) (1u << MODEL_##kind) /* a time, in a set of them */

/* Ends the program if there is none. */
void *model_need(void *memory);
void *model_zalloc(size_t bytes);

static inline bool model_is_locked(const struct model_node *n)
{
	return n->flags & (MODEL_FL_IMMUTABLE | MODEL_FL_APPEND);
}

/* model_attr.c */
void model_touch(struct model *m, struct model_node *n, unsigned kinds);
/* Where systems differ: it becomes now, or stays. */
void model_touch_perhaps(struct model *m, struct model_node *n, unsigned kinds);
struct model_xattr *model_xattr_new(const char *name, const void *value, size_t size);
/* What goes when contents or owner change. */
void model_drop_capability(struct model_node *n);
void model_drop_setuid(struct model_node *n);
/* What a new node gets of @dir's default ACL: its mode is narrowed, or the umask is. */
void model_acl_inherit(const struct model_node *dir, struct model_node *n, uint32_t umask);

/* model_data.c */
void model_put_bytes(struct model_node *n, uint64_t offset, const uint8_t *data, size_t len);
void model_drop_pages(struct model_node *n, uint64_t first, uint64_t end);
void model_set_size(struct model_node *n, uint64_t size);

/* model.c */
void model_check_gone(struct model *m, struct model_node *n); /* O2 */

#endif
