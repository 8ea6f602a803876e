/* SPDX-License-Identifier: MIT */
/*
 * Pages of files that address spaces map: their memory is the file's own (struct frames), and page
 * tables point at it.
 *
 * They are pages like others for everybody who locks them.  What is different is here: nobody
 * clears a dirty bit while a PTE is writable (P2), nobody frees the memory under a PTE, and
 * reclaim, which may not call the host, leaves them alone: who makes new ones trims old ones.
 *
 *  FR1 A page leaves the index after its PTEs and its memory are gone, under its lock: so whoever
 *      makes the next page at this place finds memory nobody is about to take away.
 *  FR2 Trimming waits for nothing (S12) and takes clean pages only, which have no writable PTE
 *      (P2), and only while nobody else can find pages and count on his reference (C2).
 */
#include "cache/cache_priv.h"

#define BATCH 64u
/* What one turn gives back; and how many files it looks at. */
#define TRIM_PAGES 256u
#define TRIM_FILES 8u
/* Files that may keep frames though nobody uses them. */
#define UNUSED_MAX 64u

/* ---- begin and end --------------------------------------------------------------------------- */

void mapping_set_frames(struct mapping *m, struct frames *f)
{
	struct dirty_state *d = &m->cache->dirty;

	assert(mapping_frames(m) == NULL && m->pages.count == 0);
	f->mapping = m;
	mutex_lock(&d->lock);
	list_add_tail(&d->mapped, &f->cache_link);
	atomic_fetch_add(&d->mapped_count, 1);
	mutex_unlock(&d->lock);
	atomic_store_explicit(&m->frames, f, memory_order_release);
}

void frames_finish(struct mapping *m)
{
	struct frames *f = mapping_frames(m);
	struct dirty_state *d = &m->cache->dirty;

	if (f == NULL)
		return;
	mutex_lock(&d->lock);
	list_del(&f->cache_link);
	atomic_fetch_sub(&d->mapped_count, 1);
	mutex_unlock(&d->lock);
	f->ops->destroy(f);
}

/* ---- the size, M8 ---------------------------------------------------------------------------- */

int mapping_extend_frames(struct mapping *m, pgoff_t pages)
{
	struct frames *f = mapping_frames(m);
	int err;

	if (f == NULL || pages <= atomic_load(&f->pages))
		return 0;
	err = f->ops->resize(f, pages);
	assert(err < 0 || atomic_load(&f->pages) == pages);
	return err;
}

void mapping_cut_frames(struct mapping *m, pgoff_t pages)
{
	struct frames *f = mapping_frames(m);
	int err;

	if (f == NULL || pages >= atomic_load(&f->pages))
		return;
	err = f->ops->resize(f, pages);
	assert(err == 0 && atomic_load(&f->pages) == pages);
	(void)err;
}

/* ---- upcalls --------------------------------------------------------------------------------- */

/* How many of pages[] from @i on are neighbours. */
static size_t run_length(struct page *const *pages, size_t i, size_t count)
{
	size_t n = 1;

	while (i + n < count && pages[i + n]->index == pages[i]->index + n)
		n++;
	return n;
}

static struct mapping *mapping_of(struct page *page)
{
	return atomic_load_explicit(&page->mapping, memory_order_relaxed);
}

void pages_protect(struct page *const *pages, size_t count)
{
	struct frames *f = count > 0 ? mapping_frames(mapping_of(pages[0])) : NULL;
	size_t n;

	if (f == NULL)
		return;
	for (size_t i = 0; i < count; i += n) {
		n = run_length(pages, i, count);
		f->ops->protect(f, pages[i]->index, n);
	}
}

void page_protect(struct page *page)
{
	pages_protect(&page, 1);
}

void frames_discard(struct mapping *m, struct page *const *pages, size_t count)
{
	struct frames *f = mapping_frames(m);
	size_t n;

	if (f == NULL)
		return;
	for (size_t i = 0; i < count; i += n) {
		n = run_length(pages, i, count);
		f->ops->discard(f, pages[i]->index, n);
	}
}

bool mapping_is_pinned(struct mapping *m, pgoff_t first, pgoff_t last)
{
	struct frames *f = mapping_frames(m);

	return f != NULL && f->ops->pinned(f, first, last, false);
}

bool page_is_pinned_for_stores(struct page *page)
{
	struct frames *f = mapping_frames(mapping_of(page));

	return f != NULL && f->ops->pinned(f, page->index, page->index, true);
}

void mapping_wait_unpinned(struct mapping *m, pgoff_t first, pgoff_t last)
{
	struct frames *f = mapping_frames(m);

	lockrank_assert_none();
	if (f != NULL)
		f->ops->wait_unpinned(f, first, last);
}

int page_mkwrite(struct page *page, uint32_t flags)
{
	struct mapping *m = mapping_of(page);
	int err;

	assert(page_is_uptodate(page) && m->ops->mkwrite != NULL);
	err = m->ops->mkwrite(m, page, flags);
	assert(err < 0 || page_is_dirty(page));
	return err;
}

bool mapping_retry_nospc(struct mapping *m, int err, unsigned *tries)
{
	lockrank_assert_none();
	return m->ops->retry_nospc != NULL && m->ops->retry_nospc(m, err, tries);
}

/* ---- trimming -------------------------------------------------------------------------------- */

/* Locks it if it can go; the caller has one reference. */
static bool lock_to_trim(struct mapping *m, struct page *page)
{
	const uint32_t busy = STATE_DIRTY | STATE_WRITEBACK;

	if (state_unmark(&page->state) || !page_trylock_in(m, page))
		return false;
	if (!(atomic_load(&page->state) & busy) && page->reserved == 0 &&
	    atomic_load(&page->refs) == 1)
		return true;
	page_unlock(page);
	return false;
}

/* FR1. */
static void trim_locked(struct mapping *m, struct page *const *pages, size_t count)
{
	frames_discard(m, pages, count);
	rwlock_write(&m->lock);
	for (size_t i = 0; i < count; i++)
		page_leave(m, pages[i]);
	rwlock_write_unlock(&m->lock);
	for (size_t i = 0; i < count; i++)
		page_unlock_put(pages[i]);
}

/* As far as one batch of pages goes; *@first is moved behind it. */
static size_t trim_batch(struct mapping *m, pgoff_t *first, pgoff_t last, size_t max, bool *ret_end)
{
	struct page *found[BATCH], *pages[BATCH];
	size_t count, taken = 0;

	count = pages_find(m, &m->pages, 0, first, last, found, BATCH);
	*ret_end = count == 0;
	for (size_t i = 0; i < count; i++) {
		if (taken < max && lock_to_trim(m, found[i]))
			pages[taken++] = found[i];
		else
			page_put(found[i]);
	}
	trim_locked(m, pages, taken);
	return taken;
}

size_t mapping_trim(struct mapping *m, pgoff_t first, pgoff_t last, size_t count)
{
	size_t done = 0;
	bool end = false;

	lockrank_may_acquire(RANK_page);
	if (mapping_frames(m) == NULL)
		return 0;
	while (done < count && !end)
		done += trim_batch(m, &first, last, count - done, &end);
	return done;
}

/* The file whose turn it is, held; NULL: there is none, or it is just going. */
static struct mapping *next_mapped(struct dirty_state *d)
{
	struct mapping *m = NULL;

	mutex_lock(&d->lock);
	if (!list_empty(&d->mapped)) {
		struct frames *f = list_entry(d->mapped.next, struct frames, cache_link);

		list_del(&f->cache_link);
		list_add_tail(&d->mapped, &f->cache_link);
		/* It is there: frames_finish() comes before it goes. */
		if (f->mapping->ops->try_hold(f->mapping))
			m = f->mapping;
	}
	mutex_unlock(&d->lock);
	return m;
}

static size_t trim_next(struct cache *cache)
{
	struct mapping *m = next_mapped(&cache->dirty);
	size_t done = 0;

	if (m == NULL)
		return 0;
	if (m->ops->try_lock(m)) {
		done = mapping_trim(m, 0, UINT64_MAX, TRIM_PAGES);
		m->ops->unlock(m);
	}
	m->ops->release(m);
	return done;
}

void cache_trim_frames(struct cache *cache)
{
	size_t done = 0;

	lockrank_assert_none();
	for (unsigned i = 0; i < TRIM_FILES && done < TRIM_PAGES; i++) {
		if (!reclaim_is_over_budget(cache))
			return;
		done += trim_next(cache);
	}
}

void cache_evict_frames(struct cache *cache)
{
	struct dirty_state *d = &cache->dirty;

	lockrank_assert_none();
	for (unsigned i = 0; i < TRIM_FILES && atomic_load(&d->mapped_count) > UNUSED_MAX; i++) {
		struct mapping *m = next_mapped(d);

		if (m != NULL)
			m->ops->evict(m);
	}
}
