/* SPDX-License-Identifier: MIT */
/*
 * The operations of the random test: what the files that have them share.  Each operation asks the
 * model what must come out (lock_model()), makes the call (begin_call()), judges, and lets the
 * model follow (follow_call()).
 */
#ifndef T_WORLD_OPS_H
#define T_WORLD_OPS_H

#include "world.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* OP(name): op_name(). */
#define OP(name, weight) void op_##name(struct actor *a);
OPS(OP)
#undef OP

/* ---- world_ops.c: judging ---- */

/* Says what is about to be done: for reports. */
void say_op(struct actor *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A call begins. */
struct backend *begin_call(struct actor *a);
/* The model is to follow what was called between begin_call() and now; ends with unlock_model(). */
struct model *follow_call(struct actor *a);
/* The model is only asked; ends with unlock_model(). */
struct model *lock_model(struct actor *a);
void unlock_model(struct actor *a);
/* Is so little left that a call may fail for lack of it? */
bool space_is_short(struct actor *a, uint64_t wanted);
/*
 * True: it was done, and the model is to do the same.  @wanted: bytes it needs, 0: none;
 * @perhaps: it may find no room though there is space.  Any difference ends the program.
 */
bool judge_space(struct actor *a, int want, int got, uint64_t wanted, bool perhaps);
bool judge(struct actor *a, int want, int got);	      /* it needs no space */
bool judge_alloc(struct actor *a, int want, int got); /* it needs some */
/*
 * A kernel (6.18) that writes inline_data loses bytes, or stops for ever, once files are cut, grown
 * or punched otherwise than by writes: it is not asked to.
 */
bool is_fragile(const struct actor *a);
/*
 * What the kernel's side of FUSE does otherwise than ext4, and no server can change:
 *
 *  - It opens files without asking: whoever writes to an immutable file, or into an append-only
 *    one, hears of it only then (model_data.c).
 *  - What is stored through a mapping is refused, or finds no room, too late for whoever stored it:
 *    it may be stored, and there has to be some.
 *  - A direct write that finds room for a part fails all the same, and is cut where it made the
 *    file longer: there has to be room for it.
 *  - It takes capabilities away before it asks for what is refused then: learn_capability(); and
 *    it does so as a user, who may not where a file is append-only: then nobody writes to it.
 *  - Attributes that are on their way, by a lookup of somebody else, while a name or an attribute
 *    of the node changes it takes for new ones: where several threads work the server is asked.
 *  - It says a little later that it has forgotten what went with its last name: frees_are_due(),
 *    wait_for_frees().
 *  - It says that what was named is a directory, or none, before the server can say that it may
 *    not be removed (check_delete() in model.c), and what is wrong with an ACL (model_attr.c).
 *  - It passes no syncfs(2) on: the root directory is synced instead, which means all.
 *  - There is no O_TMPFILE (libfuse 3.14).
 */

/* After a call that was refused: has @n lost its capability all the same? */
void learn_capability(struct actor *a, struct model_node *n);

/* ---- world_ops.c: choosing ---- */

struct name {
	char bytes[300];
	size_t len;
};

/* A node of the thread's own; NULL: none was found. */
struct model_node *pick_node(struct actor *a, bool (*fits)(const struct model_node *n));
bool has_name(const struct model_node *n);
bool is_live_dir(const struct model_node *n);
bool is_named(const struct model_node *n);
bool is_not_lnk(const struct model_node *n);
bool is_reg_or_dir(const struct model_node *n);
struct model_node *pick_dir(struct actor *a);
/* Where others work too each thread has names of its own. */
struct name pick_name(struct actor *a);
/* A directory and a name that is mostly in it. */
struct model_node *pick_entry(struct actor *a, struct name *ret_name);
uint64_t pick_bits(struct actor *a, unsigned bits_max);
uint64_t pick_offset(struct actor *a, const struct model_node *n);
size_t pick_len(struct actor *a);
struct uext4_time pick_time(struct actor *a);
struct model_new pick_new(struct actor *a, uint32_t type);
/* One of its open handles of @n; NULL: there is none. */
struct handle *handle_of(struct actor *a, const struct model_node *n);

/* ---- others ---- */

/* world_names.c: a node was made; with world.lock held. */
void note_made(struct actor *a, struct model_node *n, uint32_t ino);
void listing_end(struct actor *a, struct listing *l);
/* world_files.c */
void close_handle(struct actor *a, struct handle *h);
/* world_attrs.c */
void set_attr(struct actor *a, struct model_node *n, const struct uext4_attr *attr);

#endif
