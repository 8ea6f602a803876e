/* SPDX-License-Identifier: MIT */
/* The oracle of model.h: contents of files. */
#include "model_internal.h"

/* ---- contents ------------------------------------------------------------------------------- */

/* The place of page @index among the pages, or where it would go. */
static size_t page_place(const struct model_node *n, uint64_t index)
{
	size_t lo = 0, hi = n->pages_count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (n->pages[mid].index < index)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static uint8_t *page_find(const struct model_node *n, uint64_t index)
{
	size_t at = page_place(n, index);

	return at < n->pages_count && n->pages[at].index == index ? n->pages[at].data : NULL;
}

static uint8_t *page_make(struct model_node *n, uint64_t index)
{
	size_t at = page_place(n, index);

	if (at < n->pages_count && n->pages[at].index == index)
		return n->pages[at].data;
	if (n->pages_count == n->pages_room) {
		n->pages_room = n->pages_room ? 2 * n->pages_room : 4;
		n->pages = model_need(realloc(n->pages, n->pages_room * sizeof(*n->pages)));
	}
	memmove(n->pages + at + 1, n->pages + at, (n->pages_count - at) * sizeof(*n->pages));
	n->pages_count++;
	n->pages[at] = (struct model_page){ index, model_zalloc(MODEL_PAGE) };
	return n->pages[at].data;
}

/* Drops the pages that lie in [@first, @end) wholly. */
void model_drop_pages(struct model_node *n, uint64_t first, uint64_t end)
{
	size_t from = page_place(n, first), to = page_place(n, end);

	for (size_t i = from; i < to; i++)
		free(n->pages[i].data);
	if (to > from) {
		memmove(n->pages + from, n->pages + to, (n->pages_count - to) * sizeof(*n->pages));
		n->pages_count -= to - from;
	}
}

void model_put_bytes(struct model_node *n, uint64_t offset, const uint8_t *data, size_t len)
{
	while (len > 0) {
		size_t in_page = offset % MODEL_PAGE, bytes = MODEL_PAGE - in_page;

		if (bytes > len)
			bytes = len;
		memcpy(page_make(n, offset / MODEL_PAGE) + in_page, data, bytes);
		offset += bytes;
		data += bytes;
		len -= bytes;
	}
}

/* Bytes [@offset, @end) become zero; whole pages become holes. */
static void zero_bytes(struct model_node *n, uint64_t offset, uint64_t end)
{
	uint64_t first = (offset + MODEL_PAGE - 1) / MODEL_PAGE, last = end / MODEL_PAGE;
	uint8_t *page;

	if (offset >= end)
		return;
	if (offset / MODEL_PAGE == end / MODEL_PAGE) {
		page = page_find(n, offset / MODEL_PAGE);
		if (page)
			memset(page + offset % MODEL_PAGE, 0, (size_t)(end - offset));
		return;
	}
	page = page_find(n, offset / MODEL_PAGE);
	if (page && offset % MODEL_PAGE)
		memset(page + offset % MODEL_PAGE, 0, MODEL_PAGE - offset % MODEL_PAGE);
	page = page_find(n, last);
	if (page)
		memset(page, 0, end % MODEL_PAGE);
	if (first < last)
		model_drop_pages(n, first, last);
}

void model_set_size(struct model_node *n, uint64_t size)
{
	if (size < n->size) {
		uint8_t *page = page_find(n, size / MODEL_PAGE);

		if (page)
			memset(page + size % MODEL_PAGE, 0, MODEL_PAGE - size % MODEL_PAGE);
		model_drop_pages(n, (size + MODEL_PAGE - 1) / MODEL_PAGE, UINT64_MAX);
	}
	n->size = size;
}

size_t model_read(const struct model_node *n, uint64_t offset, uint8_t *buf, size_t len)
{
	size_t done = 0;

	if (offset >= n->size)
		return 0;
	if (len > n->size - offset)
		len = (size_t)(n->size - offset);
	while (done < len) {
		size_t in_page = offset % MODEL_PAGE, bytes = MODEL_PAGE - in_page;
		const uint8_t *page = page_find(n, offset / MODEL_PAGE);

		if (bytes > len - done)
			bytes = len - done;
		if (page)
			memcpy(buf + done, page + in_page, bytes);
		else
			memset(buf + done, 0, bytes);
		offset += bytes;
		done += bytes;
	}
	return len;
}

const struct model_page *model_next_page(const struct model_node *n, uint64_t offset)
{
	size_t at = page_place(n, offset / MODEL_PAGE);

	return at < n->pages_count ? &n->pages[at] : NULL;
}

/* ---- files ---------------------------------------------------------------------------------- */

int model_open(struct model *m, enum model_step step, struct model_node *n, uint32_t flags)
{
	if (model_is_dir(n) && !(step == MODEL_DO && flags == 0))
		return -EISDIR;
	if (!model_is_dir(n) && !model_is_reg(n))
		return -EINVAL;
	/* FUSE opens without asking; who writes hears of it. */
	if (flags & UEXT4_FILE_WRITE && !m->rules.fuse) {
		if (n->flags & MODEL_FL_IMMUTABLE)
			return -EPERM;
		if (n->flags & MODEL_FL_APPEND && !(flags & UEXT4_FILE_APPEND))
			return -EPERM;
	}
	if (step == MODEL_DO)
		n->opens++;
	return 0;
}

void model_close(struct model *m, struct model_node *n)
{
	n->opens--;
	model_check_gone(m, n);
}

int model_write(struct model *m, enum model_step step, struct model_node *n, uint32_t file_flags,
		uint64_t offset, const uint8_t *data, size_t len, uint64_t *ret_offset,
		size_t *ret_len)
{
	if (!(file_flags & UEXT4_FILE_WRITE))
		return -EBADF;
	if (file_flags & UEXT4_FILE_APPEND)
		offset = n->size;
	*ret_offset = offset;
	*ret_len = 0;
	if (len == 0)
		return 0;
	if (m->rules.fuse &&
	    n->flags & (file_flags & UEXT4_FILE_APPEND ? MODEL_FL_IMMUTABLE
						       : MODEL_FL_IMMUTABLE | MODEL_FL_APPEND))
		return -EPERM;
	if (offset >= m->rules.size_max)
		return -EFBIG;
	if (len > m->rules.size_max - offset)
		len = (size_t)(m->rules.size_max - offset);
	*ret_len = len;
	if (step == MODEL_ASK)
		return 0;
	model_put_bytes(n, offset, data, len);
	if (offset + len > n->size)
		n->size = offset + len;
	model_drop_capability(n); /* whoever writes */
	if (file_flags & UEXT4_FILE_KILL_PRIV)
		model_drop_setuid(n);
	model_touch(m, n, T(MTIME) | T(CTIME));
	return 0;
}

void model_store(struct model *m, struct model_node *n, uint64_t offset, const uint8_t *data,
		 size_t len)
{
	model_put_bytes(n, offset, data, len);
	model_touch(m, n, T(MTIME) | T(CTIME)); /* privileges stay */
}

int model_fallocate(struct model *m, enum model_step step, struct model_node *n,
		    uint32_t file_flags, uint32_t flags, uint64_t offset, uint64_t len)
{
	bool keep = flags & UEXT4_FALLOC_KEEP_SIZE, punch = flags & UEXT4_FALLOC_PUNCH_HOLE;

	if (len == 0)
		return -EINVAL;
	if (punch && !keep)
		return -EOPNOTSUPP;
	if (n->flags & MODEL_FL_IMMUTABLE ||
	    (n->flags & MODEL_FL_APPEND && flags & ~(uint32_t)UEXT4_FALLOC_KEEP_SIZE))
		return -EPERM;
	if (offset > m->rules.size_max || len > m->rules.size_max - offset)
		return -EFBIG;
	if (!m->rules.extents && !punch)
		return -EOPNOTSUPP;
	if (step == MODEL_ASK)
		return 0;
	if (punch || flags & UEXT4_FALLOC_ZERO_RANGE)
		zero_bytes(n, offset, offset + len < n->size ? offset + len : n->size);
	if (!keep && offset + len > n->size)
		n->size = offset + len;
	model_drop_capability(n);
	if (file_flags & UEXT4_FILE_KILL_PRIV)
		model_drop_setuid(n);
	model_touch_perhaps(m, n, T(MTIME) | T(CTIME));
	return 0;
}
