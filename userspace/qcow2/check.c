// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Compare refcounts with use
 *
 * Every table is read once at most, whatever a damaged image says: a cluster of
 * tables that is met a second time is a corruption and not followed. So time
 * and memory are bounded by the file.
 */
#include <stdarg.h>
#include <stdio.h>

#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

#define PAGE_BITS	11		/* counts per page */
#define PAGE_COUNTS	(1u << PAGE_BITS)

struct page {
	uint64_t nr;
	struct page *next;
	uint16_t count[PAGE_COUNTS];
};

struct check {
	struct q2_layer *l;
	struct qcow2_check_report *r;
	struct qcow2_error *err;
	uint64_t clusters;		/* of the file */
	struct page **hash;
	uint64_t mask, pages;
	struct page *last;
	uint64_t *reft, reft_entries;
	unsigned int block_bits;	/* counts per refcount block */
	struct q2_cache blocks;
	bool have_corruption_text;
	bool repair;
	uint64_t *shared;		/* in use by a guest's entry, and counted more than once */
	size_t nr_shared, max_shared;
};

static void __attribute__((format(printf, 3, 4)))
note(struct check *c, bool corruption, const char *fmt, ...)
{
	va_list ap;

	if (corruption)
		c->r->corruptions++;
	else
		c->r->leaks++;
	if (c->have_corruption_text || (!corruption && c->r->first[0]))
		return;
	va_start(ap, fmt);
	vsnprintf(c->r->first, sizeof(c->r->first), fmt, ap);
	va_end(ap);
	c->have_corruption_text = corruption;
}

static int no_memory(struct check *c)
{
	return q2_err(c->err, ENOMEM, "%s: out of memory for the check", c->l->name);
}

static int grow_hash(struct check *c)
{
	uint64_t size = c->hash ? (c->mask + 1) * 2 : 64, i;
	struct page **h = calloc(size, sizeof(*h)), *p, *next;

	if (!h)
		return no_memory(c);
	for (i = 0; c->hash && i <= c->mask; i++) {
		for (p = c->hash[i]; p; p = next) {
			next = p->next;
			p->next = h[p->nr & (size - 1)];
			h[p->nr & (size - 1)] = p;
		}
	}
	free(c->hash);
	c->hash = h;
	c->mask = size - 1;
	return 0;
}

static struct page *find_page(struct check *c, uint64_t nr)
{
	struct page *p;

	if (c->last && c->last->nr == nr)
		return c->last;
	for (p = c->hash[nr & c->mask]; p && p->nr != nr; p = p->next)
		;
	if (p)
		c->last = p;
	return p;
}

static uint16_t used(struct check *c, uint64_t cluster)
{
	struct page *p = find_page(c, cluster >> PAGE_BITS);

	return p ? p->count[cluster & (PAGE_COUNTS - 1)] : 0;
}

/* count a use of [off, off + len), which @what lives in; @again: was in use before */
static int use(struct check *c, uint64_t off, uint64_t len, const char *what, bool *again)
{
	uint64_t first = off >> c->l->cluster_bits, end;

	*again = false;
	if (!len)
		return 0;
	end = ((off + len - 1) >> c->l->cluster_bits) + 1;
	if (end > c->clusters) {
		note(c, true, "%s at %llu reaches past the end of the file", what, ull(off));
		end = q2_min(end, c->clusters);
	}
	for (; first < end; first++) {
		struct page *p = find_page(c, first >> PAGE_BITS);
		uint16_t *count;

		if (!p) {
			if (c->pages > c->mask && grow_hash(c))
				return -ENOMEM;
			p = calloc(1, sizeof(*p));
			if (!p)
				return no_memory(c);
			p->nr = first >> PAGE_BITS;
			p->next = c->hash[p->nr & c->mask];
			c->hash[p->nr & c->mask] = p;
			c->pages++;
			c->last = p;
		}
		count = &p->count[first & (PAGE_COUNTS - 1)];
		if (*count)
			*again = true;
		if (*count < UINT16_MAX)
			++*count;
		c->r->end_offset = q2_max(c->r->end_offset, (first + 1) << c->l->cluster_bits);
	}
	return 0;
}

/* a table that must be alone in its clusters; *skip: not to be followed */
static int use_table(struct check *c, uint64_t off, uint64_t len, const char *what, bool *skip)
{
	int ret = use(c, off, len, what, skip);

	if (!ret && *skip)
		note(c, true, "%s at %llu overlaps other metadata, or is in use twice", what, ull(off));
	return ret;
}

static int get_block(struct check *c, uint64_t idx, struct q2_ent **out)
{
	struct q2_ent *e = q2_cache_find(&c->blocks, idx);
	int ret;

	if (!e) {
		e = q2_cache_victim(&c->blocks);
		if (!e)
			return no_memory(c);
		q2_cache_drop(&c->blocks, e);
		ret = q2_pread(c->l, e->buf, c->l->cluster_size, c->reft[idx], "a refcount block", c->err);
		if (ret)
			return ret;
		q2_cache_insert(&c->blocks, e, idx);
	}
	*out = e;
	return 0;
}

/* what the image says; blocks that are missing or bad count 0 */
static int refcount(struct check *c, uint64_t cluster, uint64_t *count)
{
	uint64_t idx = cluster >> c->block_bits;
	struct q2_ent *e;
	int ret;

	*count = 0;
	if (idx >= c->reft_entries || !c->reft[idx])
		return 0;
	ret = get_block(c, idx, &e);
	if (!ret)
		*count = q2_refcount_in(e->buf, c->l->refcount_order,
					cluster & ((1ull << c->block_bits) - 1));
	return ret;
}

static int note_shared(struct check *c, uint64_t cluster)
{
	if (c->nr_shared == c->max_shared) {
		size_t max = c->max_shared ? c->max_shared * 2 : 64;
		uint64_t *p = realloc(c->shared, max * sizeof(*p));

		if (!p)
			return no_memory(c);
		c->shared = p;
		c->max_shared = max;
	}
	c->shared[c->nr_shared++] = cluster;
	return 0;
}

static int check_copied(struct check *c, uint64_t entry, const char *what, uint64_t nr)
{
	uint64_t count;
	int ret = refcount(c, (entry & Q2_OFFSET_MASK) >> c->l->cluster_bits, &count);

	if (!ret && (count == 1) != !!(entry & Q2_COPIED))
		note(c, true, "%s %llu is 0x%llx: COPIED flag does not fit the refcount %llu", what,
		     ull(nr), ull(entry), ull(count));
	if (!ret && count > 1 && c->repair)
		ret = note_shared(c, (entry & Q2_OFFSET_MASK) >> c->l->cluster_bits);
	return ret;
}

static int check_refblocks(struct check *c)
{
	struct qcow2_error e;
	uint64_t i;

	for (i = 0; i < c->reft_entries; i++) {
		uint64_t off = c->reft[i];
		bool skip;
		int ret;

		if (!off)
			continue;
		if (q2_refb_ok(c->l, i, off, &e)) {
			note(c, true, "refcount table entry %llu: bad offset 0x%llx", ull(i), ull(off));
			c->reft[i] = 0;
			continue;
		}
		ret = use_table(c, off, c->l->cluster_size, "refcount block", &skip);
		if (ret)
			return ret;
		if (skip)
			c->reft[i] = 0;
	}
	return 0;
}

/* data in another file: there is nothing to count, but the entry has to be right */
static void check_data_entry(struct check *c, uint64_t guest, uint64_t entry)
{
	struct q2_layer *l = c->l;
	uint64_t off = entry & Q2_OFFSET_MASK, need;

	if (entry & (Q2_COMPRESSED | Q2_L2_RESERVED))
		note(c, true, "L2 entry of guest offset %llu is 0x%llx: compressed or with reserved bits, with a data file",
		     ull(guest), ull(entry));
	if (entry & Q2_ZERO)
		c->r->zero_clusters++;
	if (entry & Q2_COMPRESSED || (!off && (!(entry & Q2_COPIED) || entry & Q2_ZERO)))
		return;
	if (!(entry & Q2_ZERO))
		c->r->allocated_clusters++;
	if (!q2_aligned(l, off) || (q2_data_raw(l) && off != guest))
		note(c, true, "L2 entry of guest offset %llu: data offset %llu is not aligned, or not the same in a raw data file",
		     ull(guest), ull(off));
	else if (!(entry & Q2_COPIED))
		note(c, true, "L2 entry of guest offset %llu is 0x%llx: COPIED flag is not set, with a data file",
		     ull(guest), ull(entry));
	need = guest < l->size ? q2_min(l->cluster_size, l->size - guest) : 0;
	if (l->data && !(entry & Q2_ZERO) && !q2_within(off, need, l->data->file_size))
		note(c, true, "L2 entry of guest offset %llu: data at %llu reaches past the end of the data file at %llu",
		     ull(guest), ull(off), ull(l->data->file_size));
}

static int check_l2_entry(struct check *c, uint64_t guest, uint64_t entry)
{
	struct q2_layer *l = c->l;
	uint64_t off, len;
	bool again;
	int ret;

	if (!entry)
		return 0;
	if (q2_has_data_file(l)) {
		check_data_entry(c, guest, entry);
		return 0;
	}
	if (entry & Q2_COMPRESSED) {
		c->r->compressed_clusters++;
		c->r->allocated_clusters++;
		if (entry & Q2_COPIED)
			note(c, true, "L2 entry of guest offset %llu: compressed and COPIED", ull(guest));
		q2_compressed_place(l, entry, &off, &len);
		return use(c, off, len, "compressed data", &again);
	}
	if (entry & Q2_L2_RESERVED)
		note(c, true, "L2 entry of guest offset %llu is 0x%llx: reserved bits are set",
		     ull(guest), ull(entry));
	if (entry & Q2_ZERO)
		c->r->zero_clusters++;
	off = entry & Q2_OFFSET_MASK;
	if (!off) {
		if (entry & Q2_COPIED)
			note(c, true, "L2 entry of guest offset %llu: COPIED without an offset", ull(guest));
		return 0;
	}
	if (!(entry & Q2_ZERO))
		c->r->allocated_clusters++;
	if (!q2_aligned(l, off)) {
		note(c, true, "L2 entry of guest offset %llu: data offset %llu is not aligned", ull(guest),
		     ull(off));
		return 0;
	}
	ret = use(c, off, l->cluster_size, "data", &again);
	if (!ret)
		ret = check_copied(c, entry, "L2 entry of guest offset", guest);
	return ret;
}

static int check_l1(struct check *c)
{
	struct q2_layer *l = c->l;
	uint64_t *t = malloc(l->cluster_size), i, j, n = 1ull << l->l2_bits;
	int ret = 0;

	if (!t)
		return no_memory(c);
	for (i = 0; !ret && i < l->l1_entries; i++) {
		uint64_t entry = l->l1[i], off = entry & Q2_OFFSET_MASK;
		bool skip;

		if (!entry)
			continue;
		if (entry & Q2_L1_RESERVED) {
			note(c, true, "L1 entry %llu is 0x%llx: reserved bits are set", ull(i), ull(entry));
			if (!off)
				continue;
		}
		if (!q2_aligned(l, off) || !q2_within(off, l->cluster_size, l->file_size) || !off) {
			note(c, true, "L1 entry %llu: L2 table offset %llu is not aligned or not within the file",
			     ull(i), ull(off));
			continue;
		}
		ret = use_table(c, off, l->cluster_size, "L2 table", &skip);
		if (!ret)
			ret = check_copied(c, entry, "L1 entry", i);
		if (ret || skip)
			continue;
		ret = q2_pread(l, t, l->cluster_size, off, "an L2 table", c->err);
		for (j = 0; !ret && j < n; j++)
			ret = check_l2_entry(c, ((i << l->l2_bits) + j) << l->cluster_bits, be64toh(t[j]));
	}
	free(t);
	return ret;
}

/* the report is about one file */
static const char *without_name(const struct check *c, const struct qcow2_error *e)
{
	size_t n = strlen(c->l->name) + 2;

	return n < strlen(e->msg) ? e->msg + n : e->msg;
}

/* the table of one bitmap and the clusters it names */
static int check_bitmap(struct check *c, const struct qcow2_bitmap *b)
{
	struct q2_layer *l = c->l;
	uint64_t buf[512], i, j, n;
	bool skip, again, sound = true;
	struct qcow2_error e;
	int ret;

	c->r->bitmaps++;
	c->r->bitmaps_in_use += b->flags & QCOW2_BITMAP_IN_USE ? 1 : 0;
	if (q2_bitmap_fits(l, b, NULL))
		sound = false;
	ret = use_table(c, b->table_offset, (uint64_t)b->table_entries * 8, "bitmap table", &skip);
	if (skip)
		sound = false;
	for (i = 0; !ret && !skip && i < b->table_entries; i += n) {
		n = q2_min(b->table_entries - i, sizeof(buf) / sizeof(buf[0]));
		ret = q2_bitmap_table(l, b, i, n, buf, c->err);
		for (j = 0; !ret && j < n; j++) {
			if (q2_bitmap_entry_ok(l, b, i + j, buf[j], &e)) {
				note(c, true, "%s", without_name(c, &e));
				sound = false;
			} else if (buf[j] & Q2_OFFSET_MASK) {
				ret = use(c, buf[j] & Q2_OFFSET_MASK, l->cluster_size, "bitmap data", &again);
			}
		}
	}
	c->r->bitmaps_inconsistent += !sound;
	return ret;
}

static int check_bitmaps(struct check *c)
{
	struct q2_bitmaps *bm;
	struct qcow2_error e;
	unsigned int i;
	bool skip;
	int ret;

	ret = q2_bitmaps_load(c->l, &bm, &e);
	if (ret == -EUCLEAN) {
		note(c, true, "%s", without_name(c, &e));
		return 0;
	}
	if (ret)
		return q2_err(c->err, -ret, "%s", e.msg);
	if (!bm->nr)
		return 0;
	ret = use_table(c, bm->dir_off, bm->dir_len, "bitmap directory", &skip);
	for (i = 0; !ret && !skip && i < bm->nr; i++)
		ret = check_bitmap(c, &bm->b[i]);
	return ret;
}

/* counts of the image against the uses found */
static int compare(struct check *c)
{
	uint64_t i, j, per = 1ull << c->block_bits, cluster, stored;
	struct page *p;

	for (i = 0; i < c->reft_entries; i++) {
		struct q2_ent *e;
		int ret;

		if (!c->reft[i])
			continue;
		ret = get_block(c, i, &e);
		if (ret)
			return ret;
		for (j = 0; j < per; j++) {
			uint64_t n;

			cluster = i << c->block_bits | j;
			if (cluster >= c->clusters)
				break;
			stored = q2_refcount_in(e->buf, c->l->refcount_order, j);
			n = used(c, cluster);
			if (stored != n)
				note(c, stored < n, "cluster %llu at %llu: refcount %llu, used %llu times",
				     ull(cluster), ull(cluster << c->l->cluster_bits), ull(stored), ull(n));
		}
	}
	/* clusters in use that no block counts */
	for (i = 0; i <= c->mask; i++) {
		for (p = c->hash[i]; p; p = p->next) {
			for (j = 0; j < PAGE_COUNTS; j++) {
				uint64_t idx;

				cluster = p->nr << PAGE_BITS | j;
				idx = cluster >> c->block_bits;
				if (p->count[j] && (idx >= c->reft_entries || !c->reft[idx]))
					note(c, true, "cluster %llu at %llu: refcount 0, used %u times",
					     ull(cluster), ull(cluster << c->l->cluster_bits), p->count[j]);
			}
		}
	}
	return 0;
}

static int check_layer(struct check *c)
{
	struct q2_layer *l = c->l;
	bool skip;
	int ret;

	if (l->snapshots)
		return q2_err(c->err, EOPNOTSUPP, "%s: has %u internal snapshots: cannot be checked", l->name,
			      l->snapshots);
	if (l->w && (l->w->dirty || l->w->failed))
		return q2_err(c->err, EBUSY, "%s: has changes that were not flushed", l->name);
	c->clusters = q2_div_up(l->file_size, l->cluster_bits);
	c->block_bits = l->cluster_bits + 3 - l->refcount_order;
	c->r->total_clusters = q2_div_up(l->size, l->cluster_bits);
	if (grow_hash(c))
		return -ENOMEM;
	if (q2_cache_init(&c->blocks, l->cluster_size, 1u << 20))
		return no_memory(c);
	ret = q2_reft_load(l, &c->reft, &c->reft_entries, c->err);
	if (!ret)
		ret = use_table(c, 0, l->cluster_size, "header", &skip);
	if (!ret)
		ret = use_table(c, l->reft_off, (uint64_t)l->reft_clusters << l->cluster_bits,
				"refcount table", &skip);
	if (!ret && l->l1_off)
		ret = use_table(c, l->l1_off, (uint64_t)l->l1_entries * 8, "L1 table", &skip);
	if (!ret)
		ret = check_refblocks(c);
	if (!ret)
		ret = check_l1(c);
	if (!ret)
		ret = check_bitmaps(c);
	return ret ? ret : compare(c);
}

static void check_free(struct check *c)
{
	uint64_t i;

	for (i = 0; c->hash && i <= c->mask; i++) {
		struct page *p, *next;

		for (p = c->hash[i]; p; p = next) {
			next = p->next;
			free(p);
		}
	}
	free(c->hash);
	free(c->reft);
	free(c->shared);
	q2_cache_free(&c->blocks);
}

int qcow2_check(struct qcow2_image *img, unsigned int layer, struct qcow2_check_report *report,
		struct qcow2_error *err)
{
	struct qcow2_check_report r = { 0 };
	struct check c = { .r = &r, .err = err };
	int ret = 0;

	if (layer >= img->nr_layers)
		return q2_err(err, EINVAL, "%s: layer %u of %u", img->layers[0]->name, layer, img->nr_layers);
	pthread_mutex_lock(&img->lock);
	c.l = img->layers[layer];
	if (c.l->format == QCOW2_FORMAT_QCOW2)
		ret = check_layer(&c);
	pthread_mutex_unlock(&img->lock);
	check_free(&c);
	if (!ret)
		*report = r;
	return ret;
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* nothing but leaks was found: nothing on disk refers to what is counted too often */
static int fix_leaks(struct check *c)
{
	uint64_t i, j, per = 1ull << c->block_bits;
	int ret = 0;

	if (c->nr_shared)
		qsort(c->shared, c->nr_shared, sizeof(*c->shared), by_number);
	for (i = 0; i < c->reft_entries; i++) {
		for (j = 0; c->reft[i] && j < per; j++) {
			uint64_t cluster = i << c->block_bits | j;
			uint16_t stored, n = used(c, cluster);

			if (cluster >= c->clusters)
				break;
			ret = q2_refcount_get(c->l, cluster, &stored, c->err);
			if (ret)
				return ret;
			if (stored <= n || (n == 1 && c->nr_shared &&
					    bsearch(&cluster, c->shared, c->nr_shared, sizeof(cluster), by_number)))
				continue;
			ret = q2_refcount_lower(c->l, cluster, n, c->err);
			if (ret)
				return ret;
			c->r->leaks_fixed++;
		}
	}
	ret = q2_refb_write(c->l, c->err);
	return ret ? ret : q2_sync(c->l, c->err);
}

int qcow2_repair(struct qcow2_image *img, unsigned int flags, struct qcow2_check_report *report,
		 struct qcow2_error *err)
{
	struct qcow2_check_report r = { 0 };
	struct q2_layer *l = img->layers[0];
	struct check c = { .l = l, .r = &r, .err = err, .repair = true };
	int ret;

	if (flags != QCOW2_REPAIR_LEAKS)
		return q2_err(err, EINVAL, "%s: flags 0x%x: only leaks can be repaired", l->name, flags);
	pthread_mutex_lock(&img->lock);
	ret = q2_writable(l, err);
	if (!ret && l->w->edit)
		ret = q2_err(err, EBUSY, "%s: its bitmaps are being edited", l->name);
	if (!ret)
		ret = check_layer(&c);
	if (!ret && r.corruptions) {
		ret = q2_err(err, EUCLEAN, "%s: nothing was repaired, as there are %llu corruptions: %s", l->name,
			     ull(r.corruptions), r.first);
		*report = r;
	} else if (!ret && r.leaks) {
		ret = fix_leaks(&c);
		if (ret)
			l->w->failed = true;
	}
	pthread_mutex_unlock(&img->lock);
	check_free(&c);
	if (!ret)
		*report = r;
	return ret;
}
