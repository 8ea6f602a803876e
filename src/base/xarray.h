/* SPDX-License-Identifier: MIT */
/*
 * Index to pointer: a radix tree of 64-way nodes, as deep as its largest index needs.  The caller
 * locks: finds may run together, changes alone.
 */
#ifndef BASE_XARRAY_H
#define BASE_XARRAY_H

#include "base/base.h"

struct xarray {
	void *only;	 /* the entry at 0, if there never was another one beside it; or NULL */
	void *root;	 /* struct xnode, or NULL */
	unsigned height; /* levels below root */
	size_t count;	 /* entries that are not NULL */
};

void xarray_init(struct xarray *xa);
void xarray_finish(struct xarray *xa); /* must be empty of meaning: pointers are not freed */
void *xarray_find(const struct xarray *xa, uint64_t index);
/* The entry at or behind *@index, whose index is stored; NULL if there is none. */
void *xarray_next(const struct xarray *xa, uint64_t *index);
/* Stores @item (not NULL) at @index, which must be empty.  -ENOMEM leaves the array as it was. */
int xarray_insert(struct xarray *xa, uint64_t index, void *item) MUST_CHECK;
/* Takes the entry at @index out and returns it, NULL if there was none.  Never fails. */
void *xarray_remove(struct xarray *xa, uint64_t index);

#endif
