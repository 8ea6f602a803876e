/* SPDX-License-Identifier: MIT */
/*
 * Dirty pages: which there are, how they become clean again, and how much of them there may be.
 *
 * Life of a page's contents (transition: function):
 *
 *	CLEAN --> DIRTY				pages_set_dirty()
 *	DIRTY --> WRITEBACK			pages_start_writeback()
 *	WRITEBACK --> WRITEBACK and DIRTY	pages_set_dirty(): it changed while it was written
 *	WRITEBACK --> CLEAN or DIRTY		pages_end_writeback(); DIRTY if it is, or failed
 *	DIRTY --> gone				mapping_drop()
 *
 *  W1  A page that is dirty or under writeback is in mapping->dirty and referenced by it (G4); a
 *      mapping with such a page is in the cache's list and held by it.  Both lag behind only
 *      within the call that makes it so.
 *  W2  Nobody but pages_start_writeback() and mapping_drop() makes a dirty page clean, and both
 *      after its page-table entries were taken care of (S7, I8).
 *  W3  A failed write loses nothing: the page is dirty again before it ceases to be under
 *      writeback.
 *  W4  The list is in the order in which files became dirty.  Walks through it (walk_begin())
 *      leave a node of their own in it, so that they hold no lock while a file is written.
 *
 * The flusher writes what became dirty long ago, and under pressure the oldest files until there is
 * room.  Writers wait for it in cache_throttle(), before they lock anything.
 */
#include "cache/cache_priv.h"

#include "base/diag.h"

#define NS_PER_MS UINT64_C(1000000)

/* The flusher looks for old pages a few times in this time; what is dirty for longer is old. */
#define DIRTY_AGE_NS (5000 * NS_PER_MS)
#define LOOKS 5
/* After a pass that could not write enough, writers get its error for so long without a new one. */
#define PASS_ERROR_NS (1000 * NS_PER_MS)
/* A pass that wrote nothing, as others were writing it, is not repeated at once. */
#define PASS_PAUSE_NS (10 * NS_PER_MS)

#define DIRTY_PAGES_MIN 16u
#define BATCH 64u

/* Bits of mapping.error_seq that hold the error. */
#define ERROR_BITS 12

/* ---- upcalls: the one caller of each slot ---------------------------------------------------- */

static int mapping_writepages(struct mapping *m, pgoff_t first, pgoff_t last, bool wait)
{
	int err;

	assert(m->ops->writepages != NULL && first <= last);
	lockrank_may_acquire(RANK_commit);
	err = m->ops->writepages(m, first, last, wait);
	lockrank_may_acquire(RANK_commit); /* what it took it gave back */
	assert(err <= 0);
	return err;
}

static int mapping_writepages_together(struct mapping *const *ms, size_t count)
{
	int err = 0;

	lockrank_may_acquire(RANK_commit);
	if (ms[0]->ops->writepages_together != NULL)
		return ms[0]->ops->writepages_together(ms, count);
	for (size_t i = 0; i < count; i++)
		err = first_error(err, mapping_writepages(ms[i], 0, UINT64_MAX, false));
	return err;
}

static void mapping_hold(struct mapping *m)
{
	assert(m->ops->hold != NULL && m->ops->release != NULL);
	m->ops->hold(m);
}

/* @m may be gone afterwards, unless the caller holds it too. */
static void mapping_release(struct mapping *m)
{
	lockrank_may_acquire(RANK_icache);
	m->ops->release(m);
}

static void mapping_drop_page(struct mapping *m, struct page *page)
{
	if (m->ops->drop != NULL)
		m->ops->drop(m, page);
	assert(page->reserved == 0);
}

/* ---- states of a page ------------------------------------------------------------------------ */

static uint32_t page_state(struct page *page)
{
	return atomic_load_explicit(&page->state, memory_order_acquire);
}

bool page_is_dirty(struct page *page)
{
	return page_state(page) & STATE_DIRTY;
}

bool page_is_writeback(struct page *page)
{
	return page_state(page) & STATE_WRITEBACK;
}

void page_wait_writeback(struct page *page)
{
	bit_wait_clear(&page->state, STATE_WRITEBACK, RANK_writeback);
}

/* ---- the list of files ----------------------------------------------------------------------- */

void dirty_mapping_init(struct mapping *m)
{
	xarray_init(&m->dirty);
	list_init(&m->dirty_node.link);
	m->dirty_node.mapping = m;
	atomic_init(&m->listed, false);
	atomic_init(&m->error_seq, 0);
}

static void mapping_list(struct mapping *m)
{
	struct dirty_state *d = &m->cache->dirty;

	mutex_lock(&d->lock);
	if (!atomic_load_explicit(&m->listed, memory_order_relaxed)) {
		mapping_hold(m);
		m->listed_seq = ++d->listed_seq;
		m->listed_ns = clock_mono_ns();
		m->flushed_ns = 0;
		list_add_tail(&d->files, &m->dirty_node.link);
		atomic_store_explicit(&m->listed, true, memory_order_release);
		if (d->asleep) {
			d->asleep = false;
			cond_broadcast(&d->wakeup);
		}
	}
	mutex_unlock(&d->lock);
}

/* If nothing of it is dirty any more.  The caller holds @m too. */
static void mapping_unlist(struct mapping *m)
{
	struct dirty_state *d = &m->cache->dirty;
	bool unlisted = false;

	mutex_lock(&d->lock);
	rwlock_read(&m->lock); /* whoever makes a page dirty from here on lists it again */
	if (m->dirty.count == 0 && atomic_load_explicit(&m->listed, memory_order_relaxed)) {
		list_del(&m->dirty_node.link);
		atomic_store_explicit(&m->listed, false, memory_order_relaxed);
		unlisted = true;
	}
	rwlock_read_unlock(&m->lock);
	mutex_unlock(&d->lock);
	if (unlisted)
		mapping_release(m);
}

/* A walk over the list, from the oldest on: @position is where it stands. */
static void walk_begin(struct dirty_state *d, struct dirty_node *position) REQUIRES(&d->lock)
{
	position->mapping = NULL;
	list_add_head(&d->files, &position->link);
}

/* The next file, NULL at the end; it can go away when the lock is given up, unless it is held. */
static struct mapping *walk_next(struct dirty_state *d, struct dirty_node *position)
	REQUIRES(&d->lock)
{
	for (struct list *at = position->link.next; at != &d->files; at = at->next) {
		struct dirty_node *node = list_entry(at, struct dirty_node, link);

		if (node->mapping != NULL) {
			list_del(&position->link);
			list_add_head(at, &position->link); /* behind it */
			return node->mapping;
		}
	}
	return NULL;
}

static void walk_end(struct dirty_state *d, struct dirty_node *position) REQUIRES(&d->lock)
{
	list_del(&position->link);
}

/* ---- becoming dirty -------------------------------------------------------------------------- */

static uint64_t background_pages(struct dirty_state *d)
{
	return atomic_load_explicit(&d->pages_max, memory_order_relaxed) / 2;
}

static COLD void flusher_wake(struct dirty_state *d)
{
	mutex_lock(&d->lock);
	d->wanted = true;
	cond_broadcast(&d->wakeup);
	mutex_unlock(&d->lock);
}

static void count_dirty(struct dirty_state *d, size_t pages)
{
	uint64_t before = atomic_fetch_add(&d->pages, pages), limit = background_pages(d);

	if (before <= limit && before + pages > limit)
		flusher_wake(d);
}

static void count_clean(struct dirty_state *d, size_t pages)
{
	if (pages == 0)
		return;
	atomic_fetch_add_explicit(&d->cleaned, pages, memory_order_relaxed);
	atomic_fetch_sub(&d->pages, pages);
	/* One of the two sees the other: who waits counts itself before it looks at d->pages. */
	if (unlikely(atomic_load(&d->throttled) != 0)) {
		mutex_lock(&d->lock);
		cond_broadcast(&d->progress);
		mutex_unlock(&d->lock);
	}
}

#define IN_INDEX (STATE_DIRTY | STATE_WRITEBACK)

/* Enters those that are not there into the dirty index; all or none.  *ret_added: how many. */
static int index_add(struct mapping *m, struct page *const *pages, size_t count, size_t *ret_added)
	REQUIRES(&m->lock)
{
	size_t added = 0, i;
	int err = 0;

	for (i = 0; i < count; i++) {
		if (page_state(pages[i]) & IN_INDEX)
			continue;
		err = xarray_insert(&m->dirty, pages[i]->index, pages[i]);
		if (err < 0)
			break;
		added++;
	}
	while (err < 0 && i-- > 0) {
		if (!(page_state(pages[i]) & IN_INDEX))
			(void)xarray_remove(&m->dirty, pages[i]->index);
	}
	*ret_added = added;
	return err;
}

static int mark_dirty(struct mapping *m, struct page *const *pages, size_t count)
{
	size_t added;
	bool listed;
	int err;

	rwlock_write(&m->lock);
	err = index_add(m, pages, count, &added);
	for (size_t i = 0; i < count && err == 0; i++) {
		if (!(page_state(pages[i]) & IN_INDEX))
			page_ref(pages[i]);
		atomic_fetch_or_explicit(&pages[i]->state, STATE_DIRTY, memory_order_relaxed);
	}
	listed = atomic_load_explicit(&m->listed, memory_order_acquire);
	rwlock_write_unlock(&m->lock);
	if (err < 0)
		return err;
	if (!listed)
		mapping_list(m);
	if (added > 0)
		count_dirty(&m->cache->dirty, added);
	return 0;
}

int pages_set_dirty(struct page *const *pages, const uint8_t *parts, size_t count)
{
	struct mapping *m = atomic_load_explicit(&pages[0]->mapping, memory_order_relaxed);
	bool all_dirty = true;
	int err;

	assert(m != NULL);
	for (size_t i = 0; i < count; i++) {
		uint32_t state = page_state(pages[i]);

		assert(state & STATE_LOCK);
		assert(parts[i] != 0 && (parts[i] & ~PAGE_ALL_PARTS) == 0);
		assert(atomic_load_explicit(&pages[i]->mapping, memory_order_relaxed) == m);
		all_dirty = all_dirty && (state & STATE_DIRTY);
	}
	if (!all_dirty) {
		err = mark_dirty(m, pages, count);
		if (err < 0)
			return err;
	}
	for (size_t i = 0; i < count; i++)
		pages[i]->dirty |= parts[i];
	return 0;
}

int page_set_dirty(struct page *page, uint8_t parts)
{
	return pages_set_dirty(&page, &parts, 1);
}

/* ---- writeback ------------------------------------------------------------------------------- */

size_t mapping_find_dirty(struct mapping *m, pgoff_t *first, pgoff_t last, struct page **ret_pages,
			  size_t max)
{
	return pages_find(m, &m->dirty, STATE_DIRTY, first, last, ret_pages, max);
}

void pages_start_writeback(struct page *const *pages, uint8_t *ret_parts, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct page *page = pages[i];
		uint32_t state = page_state(page);

		assert((state & STATE_LOCK) && (state & STATE_UPTODATE));
		assert((state & STATE_DIRTY) && !(state & STATE_WRITEBACK));
		(void)state;
		ret_parts[i] = page->dirty;
		atomic_fetch_or(&page->state, STATE_WRITEBACK);
		/*
		 * Asked before the protection: a pin may end at any time, and a page that was
		 * passed over has to stay dirty.  None begins, as the pages are locked.
		 */
		if (unlikely(page_is_pinned_for_stores(page)))
			continue;
		atomic_fetch_and(&page->state, ~(uint32_t)STATE_DIRTY);
		page->dirty = 0;
	}
	pages_protect(pages, count); /* W2, S7 */
}

/* W3.  They stay in the index, as they are still under writeback. */
static COLD void redirty(struct page *const *pages, const uint8_t *parts, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		page_lock(pages[i]);
		pages[i]->dirty |= parts[i];
		atomic_fetch_or(&pages[i]->state, STATE_DIRTY);
		page_unlock(pages[i]);
	}
}

static COLD void remember_error(struct mapping *m, int err)
{
	uint64_t seq = atomic_load(&m->error_seq), next;

	assert(err < 0 && -err < 1 << ERROR_BITS);
	do
		next = ((seq >> ERROR_BITS) + 1) << ERROR_BITS | (uint64_t)-err;
	while (!atomic_compare_exchange_weak(&m->error_seq, &seq, next));
}

/* A page the caller references leaves the dirty index, and what that referenced goes. */
static void index_del(struct mapping *m, struct page *page) REQUIRES(&m->lock)
{
	struct page *removed = xarray_remove(&m->dirty, page->index);
	uint32_t before = atomic_fetch_sub_explicit(&page->refs, 1, memory_order_acq_rel);

	assert(removed == page && before > 1);
	(void)removed;
	(void)before;
}

void pages_end_writeback(struct page *const *pages, const uint8_t *parts, size_t count, int err)
{
	struct mapping *m = atomic_load_explicit(&pages[0]->mapping, memory_order_relaxed);
	size_t cleaned = 0;
	bool none;

	lockrank_may_acquire(RANK_page);
	if (err < 0) {
		redirty(pages, parts, count);
		remember_error(m, err);
	}
	rwlock_write(&m->lock);
	for (size_t i = 0; i < count; i++) {
		assert(page_is_writeback(pages[i]));
		if (!page_is_dirty(pages[i])) {
			index_del(m, pages[i]);
			cleaned++;
		}
		bit_clear_wake(&pages[i]->state, STATE_WRITEBACK);
	}
	none = m->dirty.count == 0;
	rwlock_write_unlock(&m->lock);
	count_clean(&m->cache->dirty, cleaned);
	if (none)
		mapping_unlist(m);
}

int mapping_flush(struct mapping *m, pgoff_t first, pgoff_t last)
{
	uint64_t seen = mapping_error_now(m);
	struct page *pages[BATCH];
	pgoff_t at = first;
	size_t count;
	int err;

	if (!mapping_is_dirty(m))
		return 0;
	err = mapping_writepages(m, first, last, true);
	while ((count = pages_find(m, &m->dirty, STATE_WRITEBACK, &at, last, pages, BATCH)) > 0) {
		for (size_t i = 0; i < count; i++)
			page_wait_writeback(pages[i]);
		pages_put(pages, count);
	}
	return err < 0 ? err : mapping_error(m, &seen);
}

bool mapping_is_dirty(struct mapping *m)
{
	bool dirty;

	rwlock_read(&m->lock);
	dirty = m->dirty.count > 0;
	rwlock_read_unlock(&m->lock);
	return dirty;
}

bool mapping_has_dirty(struct mapping *m, pgoff_t first, pgoff_t last)
{
	uint64_t index = first;
	bool dirty;

	rwlock_read(&m->lock);
	dirty = xarray_next(&m->dirty, &index) != NULL && index <= last;
	rwlock_read_unlock(&m->lock);
	return dirty;
}

uint64_t mapping_error_now(struct mapping *m)
{
	return atomic_load(&m->error_seq);
}

int mapping_error(struct mapping *m, uint64_t *seen)
{
	uint64_t now = atomic_load(&m->error_seq);
	int err = -(int)(now & ((1u << ERROR_BITS) - 1));

	if (now == *seen)
		return 0;
	*seen = now;
	return fail(err, "data of the file could not be written: %s", strerror(-err));
}

/* ---- throwing pages away --------------------------------------------------------------------- */

/* Pages that are locked, referenced and not under writeback. */
static void drop_locked(struct mapping *m, struct page *const *pages, size_t count)
{
	size_t cleaned = 0;
	bool none;

	frames_discard(m, pages, count); /* W2 */
	for (size_t i = 0; i < count; i++) {
		if (page_is_dirty(pages[i]) || pages[i]->reserved != 0)
			mapping_drop_page(m, pages[i]);
		pages[i]->dirty = 0;
	}
	rwlock_write(&m->lock);
	for (size_t i = 0; i < count; i++) {
		if (page_is_dirty(pages[i])) {
			atomic_fetch_and(&pages[i]->state, ~(uint32_t)STATE_DIRTY);
			index_del(m, pages[i]);
			cleaned++;
		}
		page_leave(m, pages[i]);
	}
	none = m->dirty.count == 0;
	rwlock_write_unlock(&m->lock);
	for (size_t i = 0; i < count; i++)
		page_unlock(pages[i]);
	count_clean(&m->cache->dirty, cleaned);
	if (none && cleaned > 0)
		mapping_unlist(m);
}

/* Locks a page that is still in @m and not under writeback. */
static bool lock_to_drop(struct mapping *m, struct page *page)
{
	if (!page_lock_in(m, page))
		return false;
	if (!page_is_writeback(page))
		return true;
	page_unlock(page);
	return false;
}

/* As many as need not be waited for go together; *ret_done are gone. */
static void drop_some(struct mapping *m, struct page *const *pages, size_t count, size_t *ret_done)
{
	size_t locked = 0;

	while (locked < count && lock_to_drop(m, pages[locked]))
		locked++;
	if (locked > 0) {
		drop_locked(m, pages, locked);
		*ret_done = locked;
		return;
	}
	page_wait_writeback(pages[0]);
	*ret_done = atomic_load_explicit(&pages[0]->mapping, memory_order_relaxed) != m;
}

void mapping_drop(struct mapping *m, pgoff_t first, pgoff_t last)
{
	struct page *pages[BATCH];
	size_t count, done;

	lockrank_may_acquire(RANK_writeback);
	while ((count = pages_find(m, &m->pages, 0, &first, last, pages, BATCH)) > 0) {
		for (size_t i = 0; i < count; i += done)
			drop_some(m, pages + i, count - i, &done);
		pages_put(pages, count);
	}
}

/* ---- some files ------------------------------------------------------------------------------ */

/* Files of one kind that a walk has come to, held, to be written together. */
struct together {
	size_t count;
	struct mapping *files[MAPPINGS_TOGETHER];
	int err; /* the first */
};

static void together_write(struct together *t, struct dirty_state *d) REQUIRES(&d->lock)
{
	if (t->count == 0)
		return;
	mutex_unlock(&d->lock);
	t->err = first_error(t->err, mapping_writepages_together(t->files, t->count));
	for (size_t i = 0; i < t->count; i++)
		mapping_release(t->files[i]);
	t->count = 0;
	mutex_lock(&d->lock);
}

static void together_add(struct together *t, struct dirty_state *d, struct mapping *m)
	REQUIRES(&d->lock)
{
	mapping_hold(m);
	t->files[t->count++] = m;
	if (t->count == MAPPINGS_TOGETHER)
		together_write(t, d);
}

/* ---- all files ------------------------------------------------------------------------------- */

/* Up to the one that was listed as number @last. */
static int write_listed(struct dirty_state *d, uint64_t last) REQUIRES(&d->lock)
{
	struct together together = { .count = 0 };
	struct dirty_node position;
	struct mapping *m;

	walk_begin(d, &position);
	while ((m = walk_next(d, &position)) != NULL && m->listed_seq <= last) /* W4 */
		together_add(&together, d, m);
	walk_end(d, &position);
	together_write(&together, d);
	return together.err;
}

/* What can be written together, and then, one by one, what others were writing meanwhile. */
int cache_flush(struct cache *cache)
{
	struct dirty_state *d = &cache->dirty;
	struct mapping *m;
	struct dirty_node position;
	uint64_t last;
	int err;

	lockrank_may_acquire(RANK_commit);
	mutex_lock(&d->lock);
	last = d->listed_seq;
	err = write_listed(d, last);
	walk_begin(d, &position);
	while ((m = walk_next(d, &position)) != NULL && m->listed_seq <= last) { /* W4 */
		int failed;

		mapping_hold(m);
		mutex_unlock(&d->lock);
		failed = mapping_flush(m, 0, UINT64_MAX);
		mapping_release(m);
		err = first_error(err, failed);
		mutex_lock(&d->lock);
	}
	walk_end(d, &position);
	mutex_unlock(&d->lock);
	return err;
}

void cache_drop_dirty(struct cache *cache)
{
	struct dirty_state *d = &cache->dirty;
	struct mapping *m;
	struct dirty_node position;

	mutex_lock(&d->lock);
	walk_begin(d, &position);
	while ((m = walk_next(d, &position)) != NULL) {
		mapping_hold(m);
		mutex_unlock(&d->lock);
		mapping_drop(m, 0, UINT64_MAX);
		mapping_release(m);
		mutex_lock(&d->lock);
	}
	walk_end(d, &position);
	mutex_unlock(&d->lock);
}

/* ---- the flusher ----------------------------------------------------------------------------- */

/* One walk of the flusher. */
struct pass {
	bool pressure; /* until there is room; otherwise what is old */
	uint64_t now;
	int err; /* the first */
};

static bool pass_is_over(const struct pass *pass, struct dirty_state *d, const struct mapping *m)
{
	if (d->stop)
		return true;
	if (pass->pressure)
		return atomic_load(&d->pages) <= background_pages(d) / 2;
	return pass->now - m->listed_ns < d->age_ns; /* W4: the rest is younger */
}

static void flush_pass(struct pass *pass, struct dirty_state *d) REQUIRES(&d->lock)
{
	struct together together = { .count = 0 };
	struct mapping *m;
	struct dirty_node position;

	walk_begin(d, &position);
	while ((m = walk_next(d, &position)) != NULL && !pass_is_over(pass, d, m)) {
		/* Written all the time, so it never leaves its place. */
		if (!pass->pressure && m->flushed_ns != 0 && pass->now - m->flushed_ns < d->age_ns)
			continue;
		m->flushed_ns = pass->now;
		together_add(&together, d, m);
	}
	walk_end(d, &position);
	together_write(&together, d);
	pass->err = together.err;
}

/* Until there may be something to do. */
static void flusher_wait(struct dirty_state *d) REQUIRES(&d->lock)
{
	uint64_t deadline;

	if (list_empty(&d->files)) {
		d->asleep = true;
		while (d->asleep && !d->stop && !d->wanted)
			cond_wait(&d->wakeup, &d->lock);
		d->asleep = false;
	}
	deadline = clock_mono_ns() + d->age_ns / LOOKS;
	while (!d->stop && !d->wanted) {
		if (!cond_wait_until(&d->wakeup, &d->lock, deadline))
			break;
	}
}

static void flusher_pause(struct dirty_state *d) REQUIRES(&d->lock)
{
	uint64_t deadline = clock_mono_ns() + PASS_PAUSE_NS;

	while (!d->stop && cond_wait_until(&d->wakeup, &d->lock, deadline))
		;
}

static void flusher_main(void *arg)
{
	struct dirty_state *d = &((struct cache *)arg)->dirty;

	mutex_lock(&d->lock);
	for (;;) {
		struct pass pass = { 0 };
		uint64_t cleaned;

		flusher_wait(d);
		if (d->stop)
			break;
		cleaned = atomic_load(&d->cleaned);
		pass.pressure = d->wanted;
		d->wanted = false;
		pass.now = clock_mono_ns();
		flush_pass(&pass, d);
		if (!pass.pressure)
			continue;

		cleaned = atomic_load(&d->cleaned) - cleaned;
		d->pass_error = 0;
		if (pass.err < 0 && atomic_load(&d->pages) > atomic_load(&d->pages_max)) {
			d->pass_error = pass.err;
			d->pass_error_until = clock_mono_ns() + PASS_ERROR_NS;
		} else if (cleaned > 0 && atomic_load(&d->pages) > background_pages(d)) {
			d->wanted = true;
		}
		cond_broadcast(&d->progress);
		if (cleaned == 0)
			flusher_pause(d);
	}
	mutex_unlock(&d->lock);
}

static COLD int throttle_wait(struct dirty_state *d)
{
	int err = 0;

	mutex_lock(&d->lock);
	atomic_fetch_add(&d->throttled, 1);
	while (!d->stop && atomic_load(&d->pages) > atomic_load(&d->pages_max)) {
		if (d->pass_error < 0 && clock_mono_ns() < d->pass_error_until) {
			err = d->pass_error;
			break;
		}
		d->wanted = true;
		cond_broadcast(&d->wakeup);
		cond_wait(&d->progress, &d->lock);
	}
	atomic_fetch_sub(&d->throttled, 1);
	mutex_unlock(&d->lock);
	if (err < 0)
		return fail(err, "no room for more data, as earlier data cannot be written: %s",
			    strerror(-err));
	return 0;
}

bool cache_is_throttled(struct cache *cache)
{
	struct dirty_state *d = &cache->dirty;

	return atomic_load_explicit(&d->pages, memory_order_relaxed) >
	       atomic_load_explicit(&d->pages_max, memory_order_relaxed);
}

bool cache_take_pins(struct cache *cache, size_t pages)
{
	struct dirty_state *d = &cache->dirty;
	uint64_t before = atomic_fetch_add(&d->pinned, pages);

	if (before + pages <= atomic_load(&d->pages_max) / 4)
		return true;
	cache_give_pins(cache, pages);
	return false;
}

void cache_give_pins(struct cache *cache, size_t pages)
{
	atomic_fetch_sub(&cache->dirty.pinned, pages);
}

int cache_throttle(struct cache *cache)
{
	lockrank_assert_none();
	return likely(!cache_is_throttled(cache)) ? 0 : throttle_wait(&cache->dirty);
}

int cache_start_flusher(struct cache *cache, uint64_t dirty_max_bytes)
{
	struct dirty_state *d = &cache->dirty;
	uint64_t most = cache->budget - cache->budget / 4;
	int err;

	assert(d->flusher == NULL);
	if (dirty_max_bytes == 0)
		dirty_max_bytes = cache->budget / 2;
	dirty_max_bytes = min_u64(dirty_max_bytes, most);
	mutex_lock(&d->lock);
	d->stop = false;
	atomic_store(&d->pages_max, max_u64(dirty_max_bytes / PAGE_BYTES, DIRTY_PAGES_MIN));
	d->wanted = atomic_load(&d->pages) > background_pages(d);
	mutex_unlock(&d->lock);
	err = thread_create("uext4-flusher", flusher_main, cache, &d->flusher);
	if (err < 0)
		atomic_store(&d->pages_max, UINT64_MAX);
	return err;
}

void cache_stop_flusher(struct cache *cache)
{
	struct dirty_state *d = &cache->dirty;

	mutex_lock(&d->lock);
	d->stop = true;
	atomic_store(&d->pages_max, UINT64_MAX);
	cond_broadcast(&d->wakeup);
	cond_broadcast(&d->progress);
	mutex_unlock(&d->lock);
	thread_join(d->flusher);
	d->flusher = NULL;
}

void dirty_init(struct cache *cache)
{
	struct dirty_state *d = &cache->dirty;

	mutex_init(&d->lock, RANK_dirty);
	list_init(&d->files);
	list_init(&d->mapped);
	cond_init(&d->wakeup);
	cond_init(&d->progress);
	atomic_init(&d->pages_max, UINT64_MAX);
	d->age_ns = DIRTY_AGE_NS;
}

void dirty_finish(struct cache *cache)
{
	struct dirty_state *d = &cache->dirty;

	assert(d->flusher == NULL);
	assert(list_empty(&d->files) && list_empty(&d->mapped) && atomic_load(&d->pages) == 0);
	cond_finish(&d->wakeup);
	cond_finish(&d->progress);
	mutex_finish(&d->lock);
}
