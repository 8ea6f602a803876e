/* SPDX-License-Identifier: MIT */
/*
 * Pages: the data of files, found by their place in the file, filled from above.
 *
 *  G1  While a thread holds the locks of more than one page it has made all of them and put them
 *      into the index itself: it waits for none.  Pages that others are reading are waited for
 *      afterwards, one at a time.
 *  G2  A page whose read failed leaves the index before its lock is given up: those who waited see
 *      the error, and whoever comes later makes a new page (C4).
 *  G3  A page in the index that is unlocked and not uptodate was meant to be read ahead, in a
 *      request that failed, or is about to be written (pages_grab()).  Nobody knows whether it can
 *      be read: the next one who wants it finds out.
 *  G4  A dirty page is in mapping->dirty, and so is one under writeback; that index references it.
 *      Dirty is set under the page's and the mapping's lock.  So who holds the latter knows both.
 */
#include "cache/cache_priv.h"

#include "base/diag.h"

#define FRESH_MAX (2 * PAGES_BATCH_MAX)

/* Freed at once when a mapping ends. */
#define FINISH_BATCH 64

static struct page_counts *counts_of(struct mapping *m, pgoff_t first)
{
	uint64_t h = ((uint64_t)(uintptr_t)m + first / 64) * UINT64_C(0x9e3779b97f4a7c15);

	return &m->cache->counts[h >> 60];
}

_Static_assert(PAGE_COUNTS == 16, "counts_of() takes four bits");

/* ---- lock bit, states ------------------------------------------------------------------------ */

void page_lock(struct page *page)
{
	bit_lock(&page->state, STATE_LOCK, RANK_page, page->index);
}

void page_unlock(struct page *page)
{
	bit_unlock(&page->state, STATE_LOCK, RANK_page);
}

void page_unlock_put(struct page *page)
{
	page_unlock(page);
	page_put(page);
}

static bool page_is_locked(struct page *page)
{
	return atomic_load_explicit(&page->state, memory_order_relaxed) & STATE_LOCK;
}

bool page_is_uptodate(struct page *page)
{
	return atomic_load_explicit(&page->state, memory_order_acquire) & STATE_UPTODATE;
}

void page_set_uptodate(struct page *page)
{
	atomic_fetch_or_explicit(&page->state, STATE_UPTODATE, memory_order_release);
}

void page_ref(struct page *page)
{
	uint32_t before = atomic_fetch_add_explicit(&page->refs, 1, memory_order_relaxed);

	assert((before & ~REFS_GONE) < REFS_GONE - 1);
	(void)before;
}

void page_put(struct page *page)
{
	uint32_t before = atomic_fetch_sub_explicit(&page->refs, 1, memory_order_acq_rel);

	assert((before & ~REFS_GONE) != 0);
	if (before == (REFS_GONE | 1))
		page_slots_put(&page, 1);
}

void pages_put(struct page *const *pages, size_t count)
{
	for (size_t i = 0; i < count; i++)
		page_put(pages[i]);
}

/* ---- the index ------------------------------------------------------------------------------- */

static void index_remove(struct mapping *m, struct page *page) REQUIRES(&m->lock)
{
	struct page *removed = xarray_remove(&m->pages, page->index);

	assert(removed == page);
	(void)removed;
	atomic_store_explicit(&page->mapping, NULL, memory_order_relaxed);
}

void page_leave(struct mapping *m, struct page *page)
{
	index_remove(m, page);
	atomic_fetch_or_explicit(&page->refs, REFS_GONE, memory_order_relaxed);
}

/* The end of a failed read (G2); the caller, who holds a reference, gives up the lock bit. */
static void page_set_failed(struct mapping *m, struct page *page, int err)
{
	page->error = err;
	rwlock_write(&m->lock);
	page_leave(m, page);
	rwlock_write_unlock(&m->lock);
}

/* Called with the page's shard locked, so the mapping seen here is alive (L2 in reclaim.c). */
bool page_evict(struct page *page, struct index_hold *hold) NO_TSA
{
	struct mapping *m = atomic_load_explicit(&page->mapping, memory_order_relaxed);

	if (m == NULL) /* mapping_finish() took it out and is about to free it */
		return false;
	if (hold->mapping != m) {
		index_hold_release(hold);
		rwlock_write(&m->lock);
		hold->mapping = m;
	}
	if (atomic_load_explicit(&page->refs, memory_order_acquire) != 0 ||
	    atomic_load_explicit(&page->mapping, memory_order_relaxed) != m)
		return false;
	assert(!(atomic_load(&page->state) & (STATE_LOCK | STATE_DIRTY | STATE_WRITEBACK)));
	index_remove(m, page);
	m->evicted = true;
	return true;
}

void mapping_init(struct mapping *m, struct cache *cache, const struct mapping_ops *ops)
{
	atomic_init(&m->frames, NULL);
	rwlock_init(&m->lock, RANK_mapping, 0);
	xarray_init(&m->pages);
	m->used = m->evicted = false;
	m->ops = ops;
	m->cache = cache;
	dirty_mapping_init(m);
}

/* Up to FINISH_BATCH pages, out of the index. */
static size_t index_pop(struct mapping *m, struct page **ret_pages)
{
	struct page *page;
	uint64_t index = 0;
	size_t count = 0;

	rwlock_write(&m->lock);
	while (count < FINISH_BATCH && (page = xarray_next(&m->pages, &index)) != NULL) {
		assert(atomic_load(&page->refs) == 0);
		index_remove(m, page);
		ret_pages[count++] = page;
	}
	rwlock_write_unlock(&m->lock);
	return count;
}

/*
 * Reclaim may just have evicted the last page and still be about to unlock the mapping: the barrier
 * waits for it.
 */
void mapping_finish(struct mapping *m) NO_TSA
{
	struct page *pages[FINISH_BATCH];
	size_t count;

	assert(m->dirty.count == 0 && !atomic_load(&m->listed));
	if (m->used) {
		while ((count = index_pop(m, pages)) > 0)
			page_slots_put(pages, count);
		if (m->evicted)
			reclaim_barrier(m->cache);
	}
	frames_finish(m);
	xarray_finish(&m->pages);
	xarray_finish(&m->dirty);
	rwlock_finish(&m->lock);
}

/* ---- filling --------------------------------------------------------------------------------- */

/* The one caller of the slot. */
static int mapping_fill(struct mapping *m, struct page *const *pages, size_t count)
{
	int err;

	assert(count > 0 && count <= FRESH_MAX);
	for (size_t i = 0; i < count; i++) {
		uint32_t state = atomic_load_explicit(&pages[i]->state, memory_order_relaxed);

		assert((state & STATE_LOCK) && !(state & STATE_UPTODATE));
		assert(pages[i]->index == pages[0]->index + i);
		(void)state;
	}
	err = m->ops->fill(m, pages, count);
	assert(err <= 0);
	return err;
}

/* Fills one locked page. */
static int fill_one(struct mapping *m, struct page *page)
{
	int err = mapping_fill(m, &page, 1);

	if (err < 0)
		page_set_failed(m, page, err);
	else
		page_set_uptodate(page);
	return err;
}

/*
 * Fills @count neighbours, all locked and new, of which the first @wanted were asked for.  If that
 * fails these are tried one by one, so that each gets the error that is its own and no other:
 * somebody may be waiting for a page that can be read.  The rest is left as it is (G3).
 */
static int fill_run(struct mapping *m, struct page *const *pages, size_t count, size_t wanted)
{
	int err = 0;

	assert(wanted > 0 && wanted <= count);
	if (count == 1)
		return fill_one(m, pages[0]);
	if (mapping_fill(m, pages, count) == 0) {
		for (size_t i = 0; i < count; i++)
			page_set_uptodate(pages[i]);
		return 0;
	}
	for (size_t i = 0; i < wanted; i++) {
		err = fill_one(m, pages[i]);
		if (err < 0)
			break;
	}
	return err;
}

/* Waits until a referenced page is read, or reads it (G3). */
static int page_wait(struct mapping *m, struct page *page)
{
	int err = 0;

	if (likely(page_is_uptodate(page)))
		return 0;
	page_lock(page);
	if (page->error != 0)
		err = fail(page->error, "page %llu of the file could not be read",
			   (unsigned long long)page->index);
	else if (!page_is_uptodate(page))
		err = fill_one(m, page);
	page_unlock(page);
	return err;
}

/* ---- pages_get ------------------------------------------------------------------------------- */

/*
 * References to those of @count pages from @first on that are in the index; returns how many are
 * not.
 */
static size_t find_pages(struct mapping *m, pgoff_t first, size_t count, struct page **ret_pages)
{
	size_t missing = 0;

	rwlock_read(&m->lock);
	for (size_t i = 0; i < count; i++) {
		struct page *page = xarray_find(&m->pages, first + i);

		ret_pages[i] = page;
		if (page == NULL) {
			missing++;
			continue;
		}
		page_ref(page);
		state_mark_hit(&page->state);
	}
	rwlock_read_unlock(&m->lock);
	return missing;
}

static void count_hits(struct mapping *m, pgoff_t first, size_t hits, size_t misses)
{
	struct page_counts *counts = counts_of(m, first);

	if (hits > 0)
		atomic_fetch_add_explicit(&counts->hits, hits, memory_order_relaxed);
	if (misses > 0)
		atomic_fetch_add_explicit(&counts->misses, misses, memory_order_relaxed);
}

/* New pages for @m, without a place yet. */
static int new_pages(struct mapping *m, size_t min, size_t max, struct page **ret_pages,
		     size_t *ret_count)
{
	if (unlikely(mapping_frames(m) != NULL))
		return frame_slots_get(m->cache, min, max, ret_pages, ret_count);
	return page_slots_get(m->cache, min, max, ret_pages, ret_count);
}

/* A new page gets its place, which for a mapped file is also where its bytes are. */
static void page_set_index(struct mapping *m, struct page *page, pgoff_t index)
{
	struct frames *f = mapping_frames(m);

	page->index = index;
	if (unlikely(f != NULL)) {
		assert(index < atomic_load(&f->pages)); /* M8 */
		page->data = f->ops->at(f, index);
	}
}

static void put_found(struct page *const *pages, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (pages[i] != NULL)
			page_put(pages[i]);
	}
}

/* The pages one pages_get() makes: ascending, locked.  Those in the index come first. */
struct fresh {
	size_t count;	 /* all */
	size_t inserted; /* in the index */
	size_t wanted;	 /* of these, asked for; the rest is read ahead */
	struct page *pages[FRESH_MAX];
};

/*
 * Memory for the @missing pages among pages[0, @count) and up to @ahead behind them.  Locked before
 * anybody can find them (G1).
 */
static int fresh_get(struct mapping *m, pgoff_t first, struct page *const *pages, size_t count,
		     size_t missing, size_t ahead, struct fresh *fresh)
{
	struct frames *f = mapping_frames(m);
	size_t at = 0;
	int err;

	if (f != NULL) {
		assert(first + count <= atomic_load(&f->pages));
		ahead = (size_t)min_u64(ahead, atomic_load(&f->pages) - first - count);
	}
	/* Only what can be read in the same request as the last page asked for. */
	if (pages[count - 1] != NULL)
		ahead = 0;
	ahead = min_size(ahead, ahead_bytes_max(m->cache) / PAGE_BYTES);
	ahead = min_size(ahead, FRESH_MAX - missing);
	err = new_pages(m, missing, missing + ahead, fresh->pages, &fresh->count);
	if (err < 0)
		return err;
	for (size_t i = 0; at < fresh->count; i++) {
		if (i < count && pages[i] != NULL)
			continue;
		page_set_index(m, fresh->pages[at], first + i);
		page_lock(fresh->pages[at]);
		at++;
	}
	return 0;
}

/*
 * Puts fresh pages into the index.  Where somebody was faster pages[] gets a reference to his page;
 * what is only read ahead ends there, or with the memory.  Pages that did not get in are moved
 * behind the others.  -ENOMEM if that is true of one that was asked for.
 */
static int fresh_insert(struct mapping *m, pgoff_t first, struct page **pages, size_t count,
			struct fresh *fresh)
{
	struct page *spare[FRESH_MAX];
	size_t spares = 0, i = 0;
	int err = 0;

	fresh->inserted = fresh->wanted = 0;
	rwlock_write(&m->lock);
	m->used = true;
	for (; i < fresh->count; i++) {
		struct page *page = fresh->pages[i], *other = xarray_find(&m->pages, page->index);
		size_t slot = (size_t)(page->index - first);

		if (slot >= count && (other != NULL || fresh->inserted == 0 ||
				      fresh->pages[fresh->inserted - 1]->index + 1 != page->index))
			break;
		if (other != NULL) {
			page_ref(other);
			pages[slot] = other;
			spare[spares++] = page;
			continue;
		}
		err = xarray_insert(&m->pages, page->index, page);
		if (err < 0)
			break;
		atomic_store_explicit(&page->mapping, m, memory_order_relaxed);
		fresh->pages[fresh->inserted++] = page;
		if (slot < count) {
			atomic_fetch_or_explicit(&page->state, STATE_ASKED, memory_order_relaxed);
			pages[slot] = page;
			fresh->wanted++;
		}
	}
	rwlock_write_unlock(&m->lock);

	if (i < fresh->count && fresh->pages[i]->index >= first + count)
		err = 0; /* nobody asked for it */
	/* Those behind i are in their place already. */
	memcpy(fresh->pages + fresh->inserted, spare, spares * sizeof(spare[0]));
	assert(fresh->inserted + spares == i);
	return err;
}

/*
 * Fills, run by run, what is in the index, and unlocks it.  After an error the rest is left to G3.
 */
static int fresh_fill(struct mapping *m, const struct fresh *fresh, int err)
{
	size_t start = 0;

	while (start < fresh->inserted) {
		struct page *const *run = fresh->pages + start;
		size_t count = 1;

		while (start + count < fresh->inserted &&
		       run[count]->index == run[0]->index + count)
			count++;
		if (err == 0)
			err = fill_run(m, run, count, min_size(count, fresh->wanted - start));
		for (size_t i = 0; i < count; i++)
			page_unlock(run[i]);
		start += count;
	}
	return err;
}

/* Gets the missing ones among pages[], read here or being read by others. */
static int read_missing(struct mapping *m, pgoff_t first, struct page **pages, size_t count,
			size_t missing, size_t ahead)
{
	struct fresh fresh;
	int err;

	err = fresh_get(m, first, pages, count, missing, ahead, &fresh);
	if (err < 0)
		return err;
	err = fresh_insert(m, first, pages, count, &fresh);
	for (size_t i = fresh.inserted; i < fresh.count; i++)
		page_unlock(fresh.pages[i]);
	page_slots_put(fresh.pages + fresh.inserted, fresh.count - fresh.inserted);
	err = fresh_fill(m, &fresh, err);
	/* pages[] has taken over the references to those that were asked for. */
	pages_put(fresh.pages + fresh.wanted, fresh.inserted - fresh.wanted);
	return err;
}

int pages_get(struct mapping *m, pgoff_t first, size_t count, size_t ahead, struct page **ret_pages)
{
	struct page *pages[PAGES_BATCH_MAX];
	size_t missing;
	int err = 0;

	assert(count > 0 && count <= PAGES_BATCH_MAX);
	lockrank_may_acquire(RANK_page);

	missing = find_pages(m, first, count, pages);
	count_hits(m, first, count - missing, missing);
	if (missing > 0)
		err = read_missing(m, first, pages, count, missing, ahead);
	for (size_t i = 0; err == 0 && i < count; i++)
		err = page_wait(m, pages[i]);
	if (err < 0) {
		put_found(pages, count);
		return err;
	}
	memcpy(ret_pages, pages, count * sizeof(pages[0]));
	return 0;
}

/* ---- pages that change ----------------------------------------------------------------------- */

/* New pages where pages[] has none, or those of who was faster.  -ENOMEM: some may be NULL. */
static int make_missing(struct mapping *m, pgoff_t first, size_t count, size_t missing,
			struct page **pages)
{
	struct page *fresh[PAGES_BATCH_MAX];
	size_t got, used = 0;
	int err;

	err = new_pages(m, missing, missing, fresh, &got);
	if (err < 0)
		return err;
	rwlock_write(&m->lock);
	m->used = true;
	for (size_t i = 0; i < count && err == 0; i++) {
		struct page *page;

		if (pages[i] != NULL)
			continue;
		pages[i] = xarray_find(&m->pages, first + i);
		if (pages[i] != NULL) {
			page_ref(pages[i]);
			continue;
		}
		page = fresh[used];
		page_set_index(m, page, first + i);
		err = xarray_insert(&m->pages, first + i, page);
		if (err < 0)
			break;
		atomic_fetch_or_explicit(&page->state, STATE_ASKED, memory_order_relaxed);
		atomic_store_explicit(&page->mapping, m, memory_order_relaxed);
		pages[i] = page;
		used++;
	}
	rwlock_write_unlock(&m->lock);
	page_slots_put(fresh + used, got - used);
	return err;
}

int pages_grab(struct mapping *m, pgoff_t first, size_t count, struct page **ret_pages)
{
	struct page *pages[PAGES_BATCH_MAX];
	size_t missing;
	int err = 0;

	assert(count > 0 && count <= PAGES_BATCH_MAX);
	missing = find_pages(m, first, count, pages);
	if (missing > 0)
		err = make_missing(m, first, count, missing, pages);
	if (err < 0) {
		put_found(pages, count);
		return err;
	}
	memcpy(ret_pages, pages, count * sizeof(pages[0]));
	return 0;
}

bool page_lock_in(struct mapping *m, struct page *page)
{
	page_lock(page);
	/* Who takes it out holds its lock, or nobody else could. */
	if (likely(atomic_load_explicit(&page->mapping, memory_order_relaxed) == m))
		return true;
	page_unlock(page);
	return false;
}

bool page_trylock_in(struct mapping *m, struct page *page)
{
	if (!bit_trylock(&page->state, STATE_LOCK, RANK_page, page->index))
		return false;
	if (likely(atomic_load_explicit(&page->mapping, memory_order_relaxed) == m))
		return true;
	page_unlock(page);
	return false;
}

int page_grab(struct mapping *m, pgoff_t index, struct page **ret_page)
{
	struct page *page;
	int err;

	for (;;) { /* each turn more a read by others has failed */
		err = pages_grab(m, index, 1, &page);
		if (err < 0)
			return err;
		if (page_lock_in(m, page))
			break;
		page_put(page);
	}
	*ret_page = page;
	return 0;
}

struct page *page_grab_present(struct mapping *m, pgoff_t index)
{
	struct page *page;

	if (find_pages(m, index, 1, &page) > 0)
		return NULL;
	if (page_lock_in(m, page))
		return page;
	page_put(page);
	return NULL;
}

struct page *page_find_locked(struct mapping *m, pgoff_t index, bool wait, bool *ret_busy)
{
	struct page *page;

	*ret_busy = false;
	if (wait)
		return page_grab_present(m, index);
	if (find_pages(m, index, 1, &page) > 0)
		return NULL;
	if (page_trylock_in(m, page))
		return page;
	page_put(page);
	*ret_busy = true;
	return NULL;
}

size_t pages_find(struct mapping *m, struct xarray *index, uint32_t states, pgoff_t *first,
		  pgoff_t last, struct page **ret_pages, size_t max)
{
	uint64_t at = *first;
	struct page *page;
	size_t count = 0;

	rwlock_read(&m->lock);
	while (count < max && (page = xarray_next(index, &at)) != NULL && at <= last) {
		if (states == 0 || (atomic_load(&page->state) & states)) {
			page_ref(page);
			ret_pages[count++] = page;
		}
		at++;
	}
	rwlock_read_unlock(&m->lock);
	*first = at;
	return count;
}

int page_fill(struct mapping *m, struct page *page)
{
	return fill_one(m, page);
}

/* ---- staged pages ---------------------------------------------------------------------------- */

int pages_stage(struct cache *cache, size_t count, struct page **ret_pages)
{
	size_t got;

	return page_slots_get(cache, count, count, ret_pages, &got);
}

void pages_unstage(struct page *const *pages, size_t count)
{
	size_t end;

	for (size_t i = 0; i < count; i = end + 1) {
		for (end = i; end < count && pages[end] != NULL; end++)
			;
		if (end > i)
			page_slots_put(pages + i, end - i);
	}
}

/* How many pages from @first on, at most @count, are not there. */
static size_t count_absent(struct mapping *m, pgoff_t first, size_t count) REQUIRES_SHARED(&m->lock)
{
	size_t absent = 0;

	while (absent < count && xarray_find(&m->pages, first + absent) == NULL)
		absent++;
	return absent;
}

static size_t insert_staged(struct mapping *m, pgoff_t first, struct page *const *staged,
			    size_t count) REQUIRES(&m->lock)
{
	size_t done;

	count = count_absent(m, first, count);
	for (done = 0; done < count; done++) {
		struct page *page = staged[done];

		if (xarray_insert(&m->pages, first + done, page) < 0)
			break;
		atomic_fetch_or_explicit(&page->state, STATE_ASKED, memory_order_relaxed);
		atomic_store_explicit(&page->mapping, m, memory_order_relaxed);
	}
	m->used = m->used || done > 0;
	return done;
}

/*
 * Locked before anybody can find them (G1).  The pages of a mapped file have memory of their own.
 */
size_t pages_adopt(struct mapping *m, pgoff_t first, struct page *const *staged, size_t count)
{
	size_t done;

	if (mapping_frames(m) != NULL)
		return 0;
	rwlock_read(&m->lock);
	count = count_absent(m, first, count);
	rwlock_read_unlock(&m->lock);
	if (count == 0)
		return 0;
	for (size_t i = 0; i < count; i++) {
		staged[i]->index = first + i;
		page_lock(staged[i]);
	}
	rwlock_write(&m->lock);
	done = insert_staged(m, first, staged, count);
	rwlock_write_unlock(&m->lock);
	for (size_t i = done; i < count; i++)
		page_unlock(staged[i]);
	return done;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/*
 * Who has a reference only may look at the bytes while they change (cache.h), which the thread
 * sanitizer cannot know: it is not told of these stores.
 */
#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define HIDE_STORES
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define HIDE_STORES
#endif

#ifdef HIDE_STORES
__attribute__((no_sanitize("thread"))) static void store_bytes(uint8_t *to, const uint8_t *from,
							       size_t bytes)
{
	volatile uint8_t *at = to;

	for (size_t i = 0; i < bytes; i++)
		at[i] = from != NULL ? from[i] : 0;
}
#else
static void store_bytes(uint8_t *to, const uint8_t *from, size_t bytes)
{
	if (from != NULL)
		memcpy(to, from, bytes);
	else
		memset(to, 0, bytes);
}
#endif

void page_copy_in(struct page *page, size_t at, const void *from, size_t bytes)
{
	assert(page_is_locked(page) && at + bytes <= PAGE_BYTES);
	store_bytes(page->data + at, from, bytes);
}

void page_zero(struct page *page, size_t at, size_t bytes)
{
	assert(page_is_locked(page) && at + bytes <= PAGE_BYTES);
	store_bytes(page->data + at, NULL, bytes);
}
