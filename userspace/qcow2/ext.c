// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Header extensions: find them, arrange them anew
 *
 * When a header is arranged here the slot of the bitmaps extension comes right
 * behind the backing format's, so that it ends within the first sector: then
 * bitmaps can be replaced by one write of that sector. While there are no
 * bitmaps a padding extension keeps the slot. The others follow as they came,
 * those that must lie at a certain place there, with padding in between.
 */
#include <stdio.h>

#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

struct item {
	uint32_t type;
	uint32_t len;
	const uint8_t *data;
	size_t at;		/* of the extension's own header; 0: no place yet */
	bool wish;		/* @at is where it was, not where it must be */
};

struct layout {
	struct item *items;
	unsigned int nr;
	size_t start, limit;
};

static size_t item_size(const struct item *it)
{
	return 8 + (((size_t)it->len + 7) & ~(size_t)7);
}

const struct qcow2_header_ext *q2_ext_find(const struct q2_layer *l, uint32_t type)
{
	unsigned int i;

	for (i = 0; i < l->ext_count; i++)
		if (l->ext[i].type == type)
			return &l->ext[i];
	return NULL;
}

/* types that the library gives out itself */
bool q2_ext_is_ours(uint32_t type)
{
	switch (type) {
	case QCOW2_EXT_END:
	case QCOW2_EXT_BACKING_FORMAT:
	case QCOW2_EXT_FEATURE_NAMES:
	case QCOW2_EXT_BITMAPS:
	case QCOW2_EXT_CRYPTO:
	case QCOW2_EXT_DATA_FILE:
	case QCOW2_EXT_PADDING:
		return true;
	}
	return false;
}

static const struct qcow2_header_ext *in_set(const struct qcow2_header_ext *set, unsigned int nr, uint32_t type)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		if (set[i].type == type)
			return &set[i];
	return NULL;
}

/* does [at, at + size) touch an item with a place, other than @self? */
static const struct item *hit(const struct layout *y, const struct item *self, size_t at, size_t size)
{
	unsigned int i;

	for (i = 0; i < y->nr; i++) {
		const struct item *it = &y->items[i];

		if (it != self && it->at && at < it->at + item_size(it) && it->at < at + size)
			return it;
	}
	return NULL;
}

/* the lowest place for an item; false: there is none */
static bool place(struct layout *y, struct item *it)
{
	size_t at = y->start;
	const struct item *other;

	while ((other = hit(y, it, at, item_size(it))))
		at = other->at + item_size(other);
	if (item_size(it) > y->limit || at > y->limit - item_size(it))
		return false;
	it->at = at;
	return true;
}

static int by_place(const void *a, const void *b)
{
	size_t x = ((const struct item *)a)->at, y = ((const struct item *)b)->at;

	return x < y ? -1 : x > y;
}

static int no_room(const struct q2_layer *l, struct qcow2_error *err)
{
	return q2_err(err, EINVAL,
		      "%s: header extensions and backing file name do not fit into one cluster of %u bytes: take a larger cluster_size",
		      l->name, l->cluster_size);
}

/* what stays, in its order, then what is set; first of all those with a fixed order */
static void collect(struct q2_layer *l, struct layout *y, const struct qcow2_header_ext *set, unsigned int nr,
		    const uint8_t *bitmaps, bool names)
{
	static const uint8_t nothing[Q2_BITMAPS_EXT_LEN];
	const struct qcow2_header_ext *e;
	unsigned int i;

	y->nr = 0;
	if (l->backing_format)
		y->items[y->nr++] = (struct item){ QCOW2_EXT_BACKING_FORMAT, (uint32_t)strlen(l->backing_format),
						   (const uint8_t *)l->backing_format, 0, false };
	y->items[y->nr++] = (struct item){ bitmaps ? QCOW2_EXT_BITMAPS : QCOW2_EXT_PADDING, Q2_BITMAPS_EXT_LEN,
					   bitmaps ? bitmaps : nothing, 0, false };
	e = q2_ext_find(l, QCOW2_EXT_DATA_FILE);
	if (e)
		y->items[y->nr++] = (struct item){ e->type, e->len, e->data, 0, false };
	for (i = 0; i < l->ext_count; i++) {
		e = &l->ext[i];
		if (e->type == QCOW2_EXT_BACKING_FORMAT || e->type == QCOW2_EXT_DATA_FILE ||
		    e->type == QCOW2_EXT_BITMAPS || e->type == QCOW2_EXT_PADDING || in_set(set, nr, e->type) ||
		    (e->type == QCOW2_EXT_FEATURE_NAMES && !names))
			continue;
		y->items[y->nr++] = (struct item){ e->type, e->len, e->data, 0, false };
		/* padding in front of it: somebody wanted it where it is */
		if (i && l->ext[i - 1].type == QCOW2_EXT_PADDING) {
			y->items[y->nr - 1].at = (size_t)e->data_offset - 8;
			y->items[y->nr - 1].wish = true;
		}
	}
	for (i = 0; i < nr; i++)
		y->items[y->nr++] = (struct item){ set[i].type, set[i].len, set[i].data,
						   set[i].data_offset ? (size_t)set[i].data_offset - 8 : 0, false };
}

/* places for all; the places that are wished may be refused */
static int arrange(const struct q2_layer *l, struct layout *y, struct qcow2_error *err)
{
	unsigned int i, fixed = 0;
	size_t first = y->start;
	struct item *it;

	/* the head of the list takes its places before anything else can */
	for (i = 0; i < y->nr; i++) {
		it = &y->items[i];
		if (it->type != QCOW2_EXT_BACKING_FORMAT && it->type != QCOW2_EXT_BITMAPS &&
		    it->type != QCOW2_EXT_PADDING && it->type != QCOW2_EXT_DATA_FILE)
			break;
		if (item_size(it) > y->limit || first > y->limit - item_size(it))
			return no_room(l, err);
		it->at = first;
		first += item_size(it);
		fixed++;
	}
	for (i = fixed; i < y->nr; i++) {
		const struct item *other = NULL;

		it = &y->items[i];
		if (!it->at || it->wish)
			continue;
		if (it->at % 8 || item_size(it) > y->limit || it->at > y->limit - item_size(it))
			return q2_err(err, EINVAL,
				      "%s: header extension 0x%08x: data_offset %llu with %u bytes is not a multiple of 8, or reaches past %llu, where the room in the header cluster ends",
				      l->name, it->type, ull(it->at + 8), it->len, ull(y->limit));
		for (unsigned int k = 0; k < y->nr && !other; k++) {
			const struct item *o = &y->items[k];

			if (o != it && o->at && !o->wish && it->at < o->at + item_size(o) &&
			    o->at < it->at + item_size(it))
				other = o;
		}
		if (other)
			return q2_err(err, EINVAL,
				      "%s: header extension 0x%08x: data_offset %llu overlaps header extension 0x%08x at %llu",
				      l->name, it->type, ull(it->at + 8), other->type, ull(other->at));
	}
	for (i = fixed; i < y->nr; i++) {
		it = &y->items[i];
		if (it->wish && (it->at < y->start || it->at % 8 || item_size(it) > y->limit ||
				 it->at > y->limit - item_size(it) || hit(y, it, it->at, item_size(it))))
			it->at = 0;
	}
	for (i = fixed; i < y->nr; i++)
		if (!y->items[i].at && !place(y, &y->items[i]))
			return no_room(l, err);
	qsort(y->items, y->nr, sizeof(*y->items), by_place);
	return 0;
}

static size_t put_item(uint8_t *h, size_t at, uint32_t type, uint32_t len, const void *data)
{
	put32(h + at, type);
	put32(h + at + 4, len);
	if (len && data)
		memcpy(h + at + 8, data, len);
	return at + 8 + (((size_t)len + 7) & ~(size_t)7);
}

static void write_out(struct q2_layer *l, const struct layout *y, uint8_t *h)
{
	size_t at = y->start, len = l->backing_file ? strlen(l->backing_file) : 0;
	unsigned int i;

	for (i = 0; i < y->nr; i++) {
		const struct item *it = &y->items[i];

		if (at < it->at)
			at = put_item(h, at, QCOW2_EXT_PADDING, (uint32_t)(it->at - at - 8), NULL);
		at = put_item(h, at, it->type, it->len, it->data);
	}
	at = put_item(h, at, QCOW2_EXT_END, 0, NULL);
	if (len)
		memcpy(h + at, l->backing_file, len);
	q2_header_set_backing(h, len ? at : 0, (uint32_t)len);
}

/*
 * A header cluster with the extensions that are there, those of @set added or in
 * the place of their like, and @bitmaps (24 bytes; NULL: none). In memory only;
 * on failure all stays as it was.
 */
int q2_header_compose(struct q2_layer *l, const struct qcow2_header_ext *set, unsigned int nr,
		      const uint8_t *bitmaps, struct qcow2_error *err)
{
	size_t length = q2_header_length(l->header);
	size_t tail = 8 + (l->backing_file ? strlen(l->backing_file) : 0);
	struct layout y = { .start = length };
	struct qcow2_header_ext *old_ext = l->ext;
	unsigned int old_count = l->ext_count;
	uint8_t *h, *old = l->header;
	unsigned int i;
	bool names;
	int ret;

	if (length + tail > l->cluster_size)
		return no_room(l, err);
	y.limit = l->cluster_size - tail;
	h = calloc(1, l->cluster_size);
	y.items = calloc((size_t)l->ext_count + nr + 3, sizeof(*y.items));
	if (!h || !y.items) {
		ret = q2_err(err, ENOMEM, "%s: out of memory", l->name);
		goto fail;
	}
	for (i = 0; i < nr; i++) {
		if (set[i].data_offset && set[i].data_offset < length + 8) {
			ret = q2_err(err, EINVAL, "%s: header extension 0x%08x: data_offset %llu is below %llu, where the first can have data",
				     l->name, set[i].type, ull(set[i].data_offset), ull(length + 8));
			goto fail;
		}
	}
	names = q2_ext_find(l, QCOW2_EXT_FEATURE_NAMES);
	collect(l, &y, set, nr, bitmaps, true);
	ret = arrange(l, &y, names ? NULL : err);
	if (ret && names) {
		/* nice to have, no more; QEMU leaves it out where room is short, too */
		collect(l, &y, set, nr, bitmaps, false);
		ret = arrange(l, &y, err);
	}
	if (ret)
		goto fail;
	memcpy(h, old, length);
	write_out(l, &y, h);
	l->header = h;
	l->ext = NULL;
	l->ext_count = 0;
	ret = q2_ext_parse(l, length, l->cluster_size, err);
	if (ret) {
		free(l->ext);
		l->header = old;
		l->ext = old_ext;
		l->ext_count = old_count;
		goto fail;
	}
	free(old_ext);
	free(old);
	free(y.items);
	return 0;
fail:
	free(y.items);
	free(h);
	return ret;
}

/* may layer 0 be changed? */
int q2_writable(const struct q2_layer *l, struct qcow2_error *err)
{
	if (!l->w)
		return q2_err(err, EROFS, "%s: is open for reading only", l->name);
	if (l->w->failed)
		return q2_err(err, ESHUTDOWN, "%s: an earlier write of metadata failed: nothing more can be written",
			      l->name);
	return 0;
}

/*
 * Behind the first sector the caller may have written data of its extension in
 * place; take what is there, before all is written again.
 */
static int refresh(struct q2_layer *l, struct qcow2_error *err)
{
	if (l->w->fresh || l->cluster_size == Q2_SECTOR)
		return 0;
	return q2_pread(l, l->header + Q2_SECTOR, l->cluster_size - Q2_SECTOR, Q2_SECTOR, "the header", err);
}

/* What does not differ is not written: one sector cannot tear. */
static int write_cluster(struct q2_layer *l, struct qcow2_error *err)
{
	size_t from = 0, to = l->cluster_size;
	uint8_t *old;
	int ret;

	if (l->w->fresh) {
		l->w->dirty = true;
		return 0;
	}
	q2_header_update(l->header, l);
	old = malloc(l->cluster_size);
	ret = old ? q2_pread(l, old, l->cluster_size, 0, "the header", err) :
		    q2_err(err, ENOMEM, "%s: out of memory", l->name);
	if (!ret) {
		while (from < to && !memcmp(old + from, l->header + from, Q2_SECTOR))
			from += Q2_SECTOR;
		while (from < to && !memcmp(old + to - Q2_SECTOR, l->header + to - Q2_SECTOR, Q2_SECTOR))
			to -= Q2_SECTOR;
		if (from < to)
			ret = q2_pwrite(l, l->header + from, to - from, from, "the header", err);
	}
	free(old);
	if (!ret)
		ret = q2_sync(l, err);
	if (ret)
		l->w->failed = true;
	return ret;
}

/* the extension whose place the bitmaps take: within the first sector, or none */
static struct qcow2_header_ext *slot_of(struct q2_layer *l)
{
	struct qcow2_header_ext *e, *bitmaps = NULL, *padding = NULL;
	unsigned int i;

	for (i = 0; i < l->ext_count; i++) {
		e = &l->ext[i];
		if (e->type == QCOW2_EXT_BITMAPS)
			bitmaps = e;
		else if (e->type == QCOW2_EXT_PADDING && e->len == Q2_BITMAPS_EXT_LEN && !padding)
			padding = e;
	}
	e = bitmaps ? bitmaps : padding;
	if (!e || e->len != Q2_BITMAPS_EXT_LEN || e->data_offset + e->len > Q2_SECTOR)
		return NULL;
	return e;
}

/*
 * The step from the old bitmaps to the new ones (24 bytes, NULL: none), on disk.
 * Everything else was flushed. All that the new ones need is durable.
 */
int q2_header_set_bitmaps(struct q2_layer *l, const uint8_t *bitmaps, struct qcow2_error *err)
{
	struct qcow2_header_ext *slot = slot_of(l);
	uint64_t autoclear = l->autoclear & ~Q2_AUTOCLEAR_BITMAPS;
	int ret;

	autoclear |= bitmaps ? Q2_AUTOCLEAR_BITMAPS : 0;
	if (!bitmaps && !q2_ext_find(l, QCOW2_EXT_BITMAPS) && !(l->autoclear & Q2_AUTOCLEAR_BITMAPS))
		return 0;
	if (!slot) {
		ret = refresh(l, err);
		if (!ret)
			ret = q2_header_compose(l, NULL, 0, bitmaps, err);
		if (ret)
			return ret;
		l->autoclear = autoclear;
		return write_cluster(l, err);
	}
	l->autoclear = autoclear;
	slot->type = bitmaps ? QCOW2_EXT_BITMAPS : QCOW2_EXT_PADDING;
	put32(l->header + slot->data_offset - 8, slot->type);
	if (bitmaps)
		memcpy(l->header + slot->data_offset, bitmaps, Q2_BITMAPS_EXT_LEN);
	else
		memset(l->header + slot->data_offset, 0, Q2_BITMAPS_EXT_LEN);
	q2_header_update(l->header, l);
	ret = q2_pwrite(l, l->header, Q2_SECTOR, 0, "the header", err);
	if (!ret)
		ret = q2_sync(l, err);
	if (ret)
		l->w->failed = true;
	return ret;
}

/* do the bitmaps say what they said before, whatever is written for the guest? */
static int bitmaps_stay(struct q2_layer *l, bool *stay, struct qcow2_error *err)
{
	struct q2_bitmaps *bm;
	unsigned int i;
	int ret;

	*stay = false;
	if (!(l->autoclear & Q2_AUTOCLEAR_BITMAPS))
		return 0;
	ret = q2_bitmaps_load(l, &bm, err);
	if (ret == -EUCLEAN || ret == -EOPNOTSUPP)
		return 0;
	if (ret)
		return ret;
	for (i = 0; i < bm->nr; i++)
		if ((bm->b[i].flags & (QCOW2_BITMAP_AUTO | QCOW2_BITMAP_IN_USE)) == QCOW2_BITMAP_AUTO)
			return 0;
	*stay = bm->nr > 0;
	return 0;
}

/* before the first change: features that are not kept up lose their bit on disk */
int q2_drop_autoclear(struct q2_layer *l, bool guest_data, struct qcow2_error *err)
{
	uint64_t old = l->autoclear, keep = old & Q2_AUTOCLEAR_BITMAPS;
	uint64_t raw = q2_has_data_file(l) ? Q2_AUTOCLEAR_DATA_RAW : 0;
	bool stay;
	int ret;

	if (guest_data && keep) {
		ret = bitmaps_stay(l, &stay, err);
		if (ret)
			return ret;
		if (!stay && l->w->edit)
			return q2_err(err, EBUSY,
				      "%s: guest data cannot be written while bitmaps that record writes are edited", l->name);
		keep = stay ? keep : 0;
	}
	raw &= old;
	if (old == (keep | raw))
		return 0;
	l->autoclear = keep | raw;
	q2_header_set_autoclear(l->header, l->autoclear);
	ret = q2_pwrite(l, l->header, Q2_V3_HEADER_LEN, 0, "the header", err);
	if (!ret)
		ret = q2_sync(l, err);
	if (ret) {
		l->autoclear = old;
		q2_header_set_autoclear(l->header, old);
	} else if (!keep) {
		q2_bitmaps_forget(l);
	}
	return ret;
}

int qcow2_get_ext(struct qcow2_image *img, unsigned int layer, uint32_t type, struct qcow2_header_ext *ext)
{
	const struct qcow2_header_ext *e;

	if (layer >= img->nr_layers)
		return -EINVAL;
	pthread_mutex_lock(&img->lock);
	e = q2_ext_find(img->layers[layer], type);
	if (e)
		*ext = *e;
	pthread_mutex_unlock(&img->lock);
	return e ? 0 : -ENOENT;
}

int qcow2_ext_offset(struct qcow2_image *img, uint32_t type, uint64_t *offset)
{
	struct qcow2_header_ext ext;
	int ret = qcow2_get_ext(img, 0, type, &ext);

	if (!ret)
		*offset = ext.data_offset;
	return ret;
}

/* Before the header of an image is arranged anew: what it refers to is durable, what it has is known. */
int q2_header_prepare(struct q2_layer *l, struct qcow2_error *err)
{
	int ret = q2_writable(l, err);

	if (ret || l->w->fresh)
		return ret;
	ret = q2_drop_autoclear(l, false, err);
	if (!ret) {
		/* the header goes to disk with the places that it names now */
		ret = q2_flush(l, err);
		l->w->failed |= ret != 0;
	}
	return ret ? ret : refresh(l, err);
}

/* After q2_header_prepare(): with the extensions of @set, and what l says of the backing file. */
int q2_header_rewrite(struct q2_layer *l, const struct qcow2_header_ext *set, unsigned int nr,
		      struct qcow2_error *err)
{
	const struct qcow2_header_ext *e = q2_ext_find(l, QCOW2_EXT_BITMAPS);
	bool valid = e && e->len == Q2_BITMAPS_EXT_LEN && l->autoclear & Q2_AUTOCLEAR_BITMAPS;
	uint8_t bitmaps[Q2_BITMAPS_EXT_LEN];
	int ret;

	if (valid)
		memcpy(bitmaps, e->data, sizeof(bitmaps));
	ret = q2_header_compose(l, set, nr, valid ? bitmaps : NULL, err);
	if (ret)
		return ret;
	if (!valid)
		l->autoclear &= ~Q2_AUTOCLEAR_BITMAPS;
	return write_cluster(l, err);
}

int qcow2_set_ext(struct qcow2_image *img, uint32_t type, const void *data, uint32_t len, uint64_t data_offset,
		  struct qcow2_error *err)
{
	struct qcow2_header_ext ext = { .type = type, .len = len, .data = data, .data_offset = data_offset };
	struct q2_layer *l = img->layers[0];
	int ret;

	if (q2_ext_is_ours(type) || (len && !data))
		return q2_err(err, EINVAL, "%s: header extension 0x%08x is not a private one, or has no data", l->name,
			      type);
	pthread_mutex_lock(&img->lock);
	ret = q2_header_prepare(l, err);
	if (!ret)
		ret = q2_header_rewrite(l, &ext, 1, err);
	pthread_mutex_unlock(&img->lock);
	return ret;
}
