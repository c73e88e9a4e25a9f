// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which clusters the bitmaps on disk take
 *
 * Tables are known to be apart before any is read, and a cluster that is met
 * twice ends it: so time and memory are bounded by the file.
 */
#include <stdio.h>

#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

#define TABLE_CHUNK	512u

struct list {
	struct q2_own *own;
	size_t nr, max;
};

static int add(struct q2_layer *l, struct list *o, struct q2_own own, struct qcow2_error *err)
{
	struct q2_own *last = o->nr ? &o->own[o->nr - 1] : NULL;

	if (last && last->data && own.data && last->bitmap == own.bitmap && last->first + last->count == own.first) {
		last->count += own.count;
		return 0;
	}
	if (o->nr == o->max) {
		size_t max = o->max ? o->max * 2 : 16;
		struct q2_own *p = realloc(o->own, max * sizeof(*p));

		if (!p)
			return q2_err(err, ENOMEM, "%s: out of memory", l->name);
		o->own = p;
		o->max = max;
	}
	o->own[o->nr++] = own;
	return 0;
}

static int by_place(const void *a, const void *b)
{
	uint64_t x = ((const struct q2_own *)a)->first, y = ((const struct q2_own *)b)->first;

	return x < y ? -1 : x > y;
}

static int sort(struct q2_layer *l, struct list *o, struct qcow2_error *err)
{
	size_t i;

	if (o->nr)
		qsort(o->own, o->nr, sizeof(*o->own), by_place);
	for (i = 1; i < o->nr; i++)
		if (o->own[i - 1].first + o->own[i - 1].count > o->own[i].first)
			return q2_err(err, EUCLEAN, "%s: the cluster at %llu is taken twice by bitmaps, their tables or directory",
				      l->name, ull(o->own[i].first << l->cluster_bits));
	return 0;
}

static int read_table(struct q2_layer *l, struct q2_bitmaps *bm, uint32_t nr, struct list *o,
		      struct qcow2_error *err)
{
	uint64_t entries[TABLE_CHUNK], idx, k, n, most = q2_div_up(l->file_size, l->cluster_bits);
	const struct qcow2_bitmap *b = &bm->b[nr];

	for (idx = 0; idx < b->table_entries; idx += n) {
		int ret;

		n = q2_min(b->table_entries - idx, TABLE_CHUNK);
		ret = q2_bitmap_table(l, b, idx, n, entries, err);
		for (k = 0; !ret && k < n; k++) {
			ret = q2_bitmap_entry_ok(l, b, idx + k, entries[k], err);
			if (!ret && entries[k] & Q2_OFFSET_MASK)
				ret = add(l, o, (struct q2_own){ (entries[k] & Q2_OFFSET_MASK) >> l->cluster_bits,
								 1, nr, true }, err);
		}
		if (!ret && o->nr > most)
			ret = q2_err(err, EUCLEAN, "%s: bitmap '%s': there are more clusters in bitmaps than the file's %llu",
				     l->name, q2_label(b->name).s, ull(most));
		if (ret)
			return ret;
	}
	return 0;
}

/* in ascending order; the caller frees them. Wants a writer. */
int q2_own_load(struct q2_layer *l, struct q2_bitmaps *bm, struct q2_own **own, size_t *nr,
		struct qcow2_error *err)
{
	struct list o = { 0 };
	uint64_t c;
	uint32_t i;
	size_t k;
	int ret = 0;

	if (bm->nr)
		ret = add(l, &o, (struct q2_own){ bm->dir_off >> l->cluster_bits, q2_div_up(bm->dir_len, l->cluster_bits),
						  UINT32_MAX, false }, err);
	for (i = 0; !ret && i < bm->nr; i++)
		ret = add(l, &o, (struct q2_own){ bm->b[i].table_offset >> l->cluster_bits,
						  q2_div_up((uint64_t)bm->b[i].table_entries * 8, l->cluster_bits),
						  i, false }, err);
	if (!ret)
		ret = sort(l, &o, err);
	for (i = 0; !ret && i < bm->nr; i++)
		ret = read_table(l, bm, i, &o, err);
	if (!ret)
		ret = sort(l, &o, err);
	for (k = 0; !ret && k < o.nr; k++) {
		for (c = o.own[k].first; !ret && c < o.own[k].first + o.own[k].count; c++) {
			uint16_t count;

			ret = q2_refcount_get(l, c, &count, err);
			if (!ret && count != 1)
				ret = q2_err(err, EUCLEAN, "%s: the cluster at %llu, which bitmaps take, has refcount %u, not 1; see `qemu-img check`",
					     l->name, ull(c << l->cluster_bits), count);
		}
	}
	if (ret) {
		free(o.own);
		return ret;
	}
	*own = o.own;
	*nr = o.nr;
	return 0;
}
