// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Refcounts, and the allocation of clusters that goes with them
 *
 * Clusters are appended to the file, or, if asked for (QCOW2_OPEN_REUSE), taken
 * from those below its end that are free. Nothing on disk refers to either. So a
 * refcount block may be written as soon as one likes: counts of clusters that
 * nothing on disk refers to are a leak at worst. What must wait is the other direction, freeing: the
 * clusters are noted, and freed when the flush that drops the last reference to
 * them is through.
 *
 * A block that is missing is put where the next cluster would have gone; in a
 * file of our own it is then the first cluster of those that it counts.
 */
#include <fcntl.h>

#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

#define REFB_CACHE	(1u << 19)

/* refcount blocks of a writer have 16 bit entries: 2^(cluster_bits - 1) */
static unsigned int refb_bits(const struct q2_layer *l)
{
	return l->cluster_bits - 1;
}

/* any width of the format */
uint64_t q2_refcount_in(const void *block, unsigned int order, uint64_t idx)
{
	const uint8_t *p = block;
	uint16_t v16;
	uint32_t v32;
	uint64_t v64;

	switch (order) {
	case 4:
		memcpy(&v16, p + idx * 2, 2);
		return be16toh(v16);
	case 5:
		memcpy(&v32, p + idx * 4, 4);
		return be32toh(v32);
	case 6:
		memcpy(&v64, p + idx * 8, 8);
		return be64toh(v64);
	case 3:
		return p[idx];
	default:
		/* 1, 2 or 4 bits, from the least significant on */
		return p[(idx << order) / 8] >> ((idx << order) % 8) & ((1u << (1u << order)) - 1);
	}
}

/* the whole refcount table in host order; the caller frees it */
int q2_reft_load(struct q2_layer *l, uint64_t **table, uint64_t *entries, struct qcow2_error *err)
{
	size_t bytes = (size_t)l->reft_clusters << l->cluster_bits, i;
	size_t have = (size_t)q2_min(bytes, l->file_size - l->reft_off);
	uint64_t *t = calloc(1, bytes);
	int ret;

	if (!t)
		return q2_err(err, ENOMEM, "%s: out of memory for a refcount table of %zu bytes", l->name, bytes);
	ret = q2_pread(l, t, have, l->reft_off, "the refcount table", err);
	if (ret) {
		free(t);
		return ret;
	}
	for (i = 0; i < bytes / 8; i++)
		t[i] = be64toh(t[i]);
	*table = t;
	*entries = bytes / 8;
	return 0;
}

/* may refcount table entry @idx, @off, be used? */
int q2_refb_ok(const struct q2_layer *l, uint64_t idx, uint64_t off, struct qcow2_error *err)
{
	const char *what;

	if (!q2_aligned(l, off))
		return q2_err(err, EUCLEAN,
			      "%s: refcount table entry %llu: offset %llu is not a multiple of the cluster size %u",
			      l->name, ull(idx), ull(off), l->cluster_size);
	if (!q2_within(off, l->cluster_size, l->file_size))
		return q2_err(err, EUCLEAN,
			      "%s: refcount table entry %llu: block at %llu reaches past the end of the file at %llu",
			      l->name, ull(idx), ull(off), ull(l->file_size));
	if (q2_overlaps_meta(l, off, l->cluster_size, &what))
		return q2_err(err, EUCLEAN, "%s: refcount table entry %llu: block at %llu overlaps the %s",
			      l->name, ull(idx), ull(off), what);
	return 0;
}

static int write_block(struct q2_layer *l, struct q2_ent *e, struct qcow2_error *err)
{
	int ret = q2_pwrite(l, e->buf, l->cluster_size, l->w->reft[e->key], "a refcount block", err);

	if (!ret)
		e->dirty = false;
	return ret;
}

static int take_victim(struct q2_layer *l, struct q2_ent **out, struct qcow2_error *err)
{
	struct q2_ent *e = q2_cache_victim(&l->w->refb);

	if (!e)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	if (e->dirty) {
		int ret = write_block(l, e, err);

		if (ret)
			return ret;
	}
	q2_cache_drop(&l->w->refb, e);
	*out = e;
	return 0;
}

static int get_block(struct q2_layer *l, uint64_t idx, struct q2_ent **out, struct qcow2_error *err)
{
	struct q2_ent *e = q2_cache_find(&l->w->refb, idx);
	int ret;

	if (!e) {
		ret = q2_refb_ok(l, idx, l->w->reft[idx], err);
		if (!ret)
			ret = take_victim(l, &e, err);
		if (!ret)
			ret = q2_pread(l, e->buf, l->cluster_size, l->w->reft[idx],
				       "a refcount block", err);
		if (ret)
			return ret;
		q2_cache_insert(&l->w->refb, e, idx);
	}
	*out = e;
	return 0;
}

/* the count of a cluster whose block exists */
static uint16_t *count_of(struct q2_layer *l, struct q2_ent *e, uint64_t cluster)
{
	return (uint16_t *)e->buf + (cluster & ((1ull << refb_bits(l)) - 1));
}

/* make @n free clusters from @first on used; their blocks exist */
static int take(struct q2_layer *l, uint64_t first, uint64_t n, struct qcow2_error *err)
{
	while (n--) {
		struct q2_ent *e;
		int ret = get_block(l, first >> refb_bits(l), &e, err);

		if (ret)
			return ret;
		*count_of(l, e, first) = htobe16(1);
		e->dirty = true;
		first++;
	}
	l->w->dirty = true;
	return 0;
}

/* the end of the allocated area goes up, and with it what may be referred to */
static void set_end(struct q2_layer *l, uint64_t end)
{
	l->w->end = end;
	l->file_size = q2_max(l->file_size, end << l->cluster_bits);
}

static int room_for(struct q2_layer *l, uint64_t n, struct qcow2_error *err)
{
	if (!q2_within(l->w->end, n, l->w->limit))
		return q2_err(err, ENOSPC, "%s: no room for %llu clusters of %u bytes after %llu", l->name,
			      ull(n), l->cluster_size, ull(l->w->end << l->cluster_bits));
	return 0;
}

static int grow_table(struct q2_layer *l, uint64_t need, struct qcow2_error *err);

/*
 * Make block @idx, or at least come nearer to it: it counts cluster end, or the
 * block that does exists and end is free. The caller looks again.
 */
static int add_block(struct q2_layer *l, uint64_t idx, struct qcow2_error *err)
{
	struct q2_writer *w = l->w;
	struct q2_ent *e;
	uint64_t at;
	int ret;

	/* growing allocates: the end is elsewhere then, the caller looks again */
	if (idx >= w->reft_entries)
		return grow_table(l, idx + 1, err);
	ret = room_for(l, 1, err);
	if (!ret)
		ret = take_victim(l, &e, err);
	if (ret)
		return ret;
	at = w->end;
	memset(e->buf, 0, l->cluster_size);
	q2_cache_insert(&w->refb, e, idx);
	e->dirty = true;
	w->reft[idx] = at << l->cluster_bits;
	w->reft_lo = q2_min(w->reft_lo, idx);
	w->reft_hi = q2_max(w->reft_hi, idx + 1);
	set_end(l, at + 1);
	return take(l, at, 1, err);
}

/* Is cluster end free? Skips those that are not (leaks at the end of the file). */
static int skip_used(struct q2_layer *l, struct qcow2_error *err)
{
	for (;;) {
		uint64_t idx = l->w->end >> refb_bits(l);
		struct q2_ent *e;
		int ret;

		if (idx >= l->w->reft_entries || !l->w->reft[idx]) {
			ret = room_for(l, 1, err);
			if (!ret)
				ret = add_block(l, idx, err);
			if (ret)
				return ret;
			continue;
		}
		ret = get_block(l, idx, &e, err);
		if (ret)
			return ret;
		if (!*count_of(l, e, l->w->end))
			return 0;
		l->w->end++;
	}
}

/*
 * Free clusters in a row below the end, the lowest there are: up to @want, or
 * exactly that many. *got = 0: there are none. Where a block is missing all is
 * free, but it would take a cluster to say otherwise: not looked at.
 */
static int find_free(struct q2_layer *l, uint64_t want, bool exact, uint64_t *first, uint64_t *got,
		     struct qcow2_error *err)
{
	struct q2_writer *w = l->w;
	uint64_t c = w->hint, run = 0, per = 1ull << refb_bits(l);
	bool lowest = true;
	const char *what;

	*got = 0;
	while (c < w->end && run < want) {
		uint64_t idx = c >> refb_bits(l);
		struct q2_ent *e;
		int ret;

		if (idx >= w->reft_entries)
			break;
		if (!w->reft[idx]) {
			if (run && !exact)
				break;
			run = 0;
			c = (idx + 1) * per;
			continue;
		}
		ret = get_block(l, idx, &e, err);
		if (ret)
			return ret;
		for (; c < w->end && c >> refb_bits(l) == idx && run < want; c++) {
			if (*count_of(l, e, c)) {
				if (run && !exact)
					goto found;
				run = 0;
				continue;
			}
			if (lowest)
				w->hint = c;
			lowest = false;
			run++;
		}
	}
	if (lowest)
		w->hint = w->end;
	if (!run || (exact && run < want))
		return 0;
found:
	*first = c - run;
	*got = run;
	if (q2_overlaps_meta(l, *first << l->cluster_bits, run << l->cluster_bits, &what))
		return q2_err(err, EUCLEAN, "%s: clusters from %llu on have a refcount of 0, but the %s is there; see `qemu-img check`",
			      l->name, ull(*first), what);
	/* the file may have ended in the middle of the last cluster */
	l->file_size = q2_max(l->file_size, (*first + run) << l->cluster_bits);
	return take(l, *first, run, err);
}

/* Up to @want clusters in a row, as many as one refcount block counts; at least one. */
int q2_alloc(struct q2_layer *l, uint64_t want, uint64_t *first, uint64_t *got,
	     struct qcow2_error *err)
{
	uint64_t n, at, left;
	struct q2_ent *e;
	int ret;

	if (l->w->reuse) {
		ret = find_free(l, want, false, first, got, err);
		if (ret || *got)
			return ret;
	}
	ret = skip_used(l, err);
	if (!ret)
		ret = room_for(l, 1, err);
	if (ret)
		return ret;
	at = l->w->end;
	ret = get_block(l, at >> refb_bits(l), &e, err);
	if (ret)
		return ret;
	left = (1ull << refb_bits(l)) - (at & ((1ull << refb_bits(l)) - 1));
	left = q2_min(q2_min(left, want), l->w->limit - at);
	for (n = 1; n < left && !*count_of(l, e, at + n); n++)
		;
	ret = take(l, at, n, err);
	if (ret)
		return ret;
	set_end(l, at + n);
	*first = at;
	*got = n;
	return 0;
}

/* Exactly @n clusters in a row, whatever it takes. */
int q2_alloc_contig(struct q2_layer *l, uint64_t n, uint64_t *first, struct qcow2_error *err)
{
	struct q2_writer *w = l->w;
	uint64_t got;
	int ret;

	if (w->reuse) {
		ret = find_free(l, n, true, first, &got, err);
		if (ret || got)
			return ret;
	}
again:
	ret = skip_used(l, err);
	if (!ret)
		ret = room_for(l, n, err);
	if (ret)
		return ret;
	for (uint64_t c = w->end; c < w->end + n; c++) {
		uint64_t idx = c >> refb_bits(l);
		struct q2_ent *e;

		if (idx >= w->reft_entries || !w->reft[idx]) {
			ret = add_block(l, idx, err);
			if (ret)
				return ret;
			goto again;
		}
		ret = get_block(l, idx, &e, err);
		if (ret)
			return ret;
		if (*count_of(l, e, c)) {
			w->end = c + 1;
			goto again;
		}
	}
	ret = take(l, w->end, n, err);
	if (ret)
		return ret;
	*first = w->end;
	set_end(l, w->end + n);
	return 0;
}

/* one more use of a cluster that is in use; *counted: there was room for it in the count */
int q2_ref(struct q2_layer *l, uint64_t cluster, bool *counted, struct qcow2_error *err)
{
	struct q2_ent *e;
	uint16_t *p;
	int ret;

	ret = get_block(l, cluster >> refb_bits(l), &e, err);
	if (ret)
		return ret;
	p = count_of(l, e, cluster);
	*counted = be16toh(*p) < UINT16_MAX;
	if (*counted) {
		*p = htobe16((uint16_t)(be16toh(*p) + 1));
		e->dirty = true;
		l->w->dirty = true;
	}
	return 0;
}

/*
 * A larger table, elsewhere. It must be able to count itself, and the blocks
 * that it takes: twice the size is plenty, but the first time in an image with
 * tiny clusters.
 */
static int grow_table(struct q2_layer *l, uint64_t need, struct qcow2_error *err)
{
	struct q2_writer *w = l->w;
	uint64_t per = l->cluster_size / 8, clusters, entries, first, *t;
	int ret;

	entries = q2_max(need + 8, w->reft_entries * 2);
	clusters = (entries + per - 1) / per;
	/* the clusters of the table itself need blocks too, one each more than enough */
	clusters += 1 + (clusters >> refb_bits(l)) / per;
	entries = clusters * per;
	if (clusters << l->cluster_bits > QCOW2_MAX_REFTABLE_BYTES) {
		clusters = QCOW2_MAX_REFTABLE_BYTES >> l->cluster_bits;
		entries = clusters * per;
		if (need + 8 + (clusters >> refb_bits(l)) > entries)
			return q2_err(err, EFBIG,
				      "%s: the file would need a refcount table of more than %u bytes: take a larger cluster_size",
				      l->name, QCOW2_MAX_REFTABLE_BYTES);
	}
	t = realloc(w->reft, entries * 8);
	if (!t)
		return q2_err(err, ENOMEM, "%s: out of memory for a refcount table of %llu entries", l->name,
			      ull(entries));
	memset(t + w->reft_entries, 0, (entries - w->reft_entries) * 8);
	w->reft = t;
	w->reft_entries = entries;
	ret = q2_alloc_contig(l, clusters, &first, err);
	if (!ret && l->reft_clusters)
		ret = q2_free_later(l, l->reft_off, (uint64_t)l->reft_clusters << l->cluster_bits, err);
	if (ret) {
		/* blocks may have come that the table on disk has no entries for */
		w->failed = true;
		return ret;
	}
	l->reft_off = first << l->cluster_bits;
	l->reft_clusters = (uint32_t)clusters;
	w->reft_moved = true;
	return 0;
}

int q2_free_later(struct q2_layer *l, uint64_t off, uint64_t len, struct qcow2_error *err)
{
	struct q2_writer *w = l->w;
	uint64_t first = off >> l->cluster_bits;
	uint64_t count = ((off + len - 1) >> l->cluster_bits) - first + 1;
	struct q2_span *s = w->nr_frees ? &w->frees[w->nr_frees - 1] : NULL;

	if (s && s->first + s->count == first) {
		s->count += count;
		return 0;
	}
	if (w->nr_frees == w->max_frees) {
		size_t max = w->max_frees ? w->max_frees * 2 : 16;

		s = realloc(w->frees, max * sizeof(*s));
		if (!s)
			return q2_err(err, ENOMEM, "%s: out of memory", l->name);
		w->frees = s;
		w->max_frees = max;
	}
	w->frees[w->nr_frees++] = (struct q2_span){ first, count };
	return 0;
}

/* free clusters leave the file; that it cannot be done costs nothing but space */
static int punch(struct q2_layer *l, uint64_t first, uint64_t count, struct qcow2_error *err)
{
	if (!count || !l->w->punch)
		return 0;
	if (!fallocate(l->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first << l->cluster_bits),
		       (off_t)(count << l->cluster_bits)))
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return q2_err(err, errno, "%s: cannot punch out %llu clusters at %llu: %s", l->name, ull(count),
			      ull(first << l->cluster_bits), strerror(errno));
	l->w->punch = false;
	return 0;
}

/* nothing on disk refers to them any more; a count that is 0 already is not ours to judge */
int q2_free_now(struct q2_layer *l, uint64_t first, uint64_t count, struct qcow2_error *err)
{
	struct q2_writer *w = l->w;
	uint64_t c, end = first + count, hole = first, gone = 0;
	int ret;

	for (c = first; c < end; c++) {
		uint64_t idx = c >> refb_bits(l);
		struct q2_ent *e;
		uint16_t *p;

		if (idx >= w->reft_entries || !w->reft[idx])
			continue;
		ret = get_block(l, idx, &e, err);
		if (ret)
			return ret;
		p = count_of(l, e, c);
		if (!*p)
			continue;
		*p = htobe16((uint16_t)(be16toh(*p) - 1));
		e->dirty = true;
		if (*p)
			continue;
		w->hint = q2_min(w->hint, c);
		if (hole + gone != c) {
			ret = punch(l, hole, gone, err);
			if (ret)
				return ret;
			hole = c;
			gone = 0;
		}
		gone++;
	}
	return punch(l, hole, gone, err);
}

int q2_do_frees(struct q2_layer *l, struct qcow2_error *err)
{
	struct q2_writer *w = l->w;
	size_t i;

	for (i = 0; i < w->nr_frees; i++) {
		int ret = q2_free_now(l, w->frees[i].first, w->frees[i].count, err);

		if (ret)
			return ret;
	}
	w->nr_frees = 0;
	return 0;
}

/* 0 where no block counts */
int q2_refcount_get(struct q2_layer *l, uint64_t cluster, uint16_t *count, struct qcow2_error *err)
{
	uint64_t idx = cluster >> refb_bits(l);
	struct q2_ent *e;
	int ret;

	*count = 0;
	if (idx >= l->w->reft_entries || !l->w->reft[idx])
		return 0;
	ret = get_block(l, idx, &e, err);
	if (!ret)
		*count = be16toh(*count_of(l, e, cluster));
	return ret;
}

/* in memory; the cluster's block exists */
int q2_refcount_lower(struct q2_layer *l, uint64_t cluster, uint16_t count, struct qcow2_error *err)
{
	struct q2_ent *e;
	int ret = get_block(l, cluster >> refb_bits(l), &e, err);

	if (ret)
		return ret;
	*count_of(l, e, cluster) = htobe16(count);
	e->dirty = true;
	if (!count)
		l->w->hint = q2_min(l->w->hint, cluster);
	return 0;
}

int q2_refb_write(struct q2_layer *l, struct qcow2_error *err)
{
	struct q2_ent *e;
	int ret;

	for (e = l->w->refb.lru.next; e != &l->w->refb.lru; e = e->next) {
		if (!e->dirty)
			continue;
		ret = write_block(l, e, err);
		if (ret)
			return ret;
	}
	return 0;
}

void q2_writer_free(struct q2_writer *w)
{
	if (!w)
		return;
	q2_cache_free(&w->refb);
	free(w->reft);
	free(w->frees);
	free(w);
}

static int writer_new(struct q2_layer *l, struct qcow2_error *err)
{
	struct q2_writer *w = calloc(1, sizeof(*w));

	if (!w || q2_cache_init(&w->refb, l->cluster_size, REFB_CACHE)) {
		free(w);
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	}
	w->reft_lo = UINT64_MAX;
	w->l1_lo = UINT64_MAX;
	w->hint = 1;
	/* offsets in tables have 56 bits; off_t has 63 */
	w->limit = (l->rdev ? l->file_size : 1ull << 56) >> l->cluster_bits;
	l->w = w;
	return 0;
}

/* go on with an image that is there */
int q2_writer_init(struct q2_layer *l, struct qcow2_error *err)
{
	uint32_t i;
	int ret;

	if (l->snapshots)
		return q2_err(err, EOPNOTSUPP, "%s: has %u internal snapshots: cannot be written", l->name,
			      l->snapshots);
	if (l->refcount_order != 4)
		return q2_err(err, EOPNOTSUPP, "%s: header: refcount_order is %u: can be written only with 4 (16 bits)",
			      l->name, l->refcount_order);
	for (i = 0; i < l->l1_entries; i++)
		if (l->l1[i] & Q2_L1_RESERVED)
			return q2_err(err, EUCLEAN, "%s: L1 entry %u is 0x%llx: reserved bits are set", l->name,
				      i, ull(l->l1[i]));
	ret = writer_new(l, err);
	if (ret)
		return ret;
	ret = q2_reft_load(l, &l->w->reft, &l->w->reft_entries, err);
	if (ret)
		return ret;
	/*
	 * On a device the end of what is used is not known from its size. Behind
	 * the highest refcount block all is free; in its area skip_used() looks.
	 */
	l->w->end = q2_div_up(l->file_size, l->cluster_bits);
	if (l->rdev)
		l->w->end = 1;
	return 0;
}

/* a new image: lay out refcount table, first block, L1; the header is cluster 0 */
int q2_writer_create(struct q2_layer *l, struct qcow2_error *err)
{
	uint64_t l1_clusters = q2_div_up((uint64_t)l->l1_entries * 8, l->cluster_bits), first;
	struct q2_writer *w;
	int ret;

	ret = writer_new(l, err);
	if (ret)
		return ret;
	w = l->w;
	w->fresh = true;
	w->begun = true;
	w->dirty = true;
	w->end = 1;
	w->reft_entries = l->cluster_size / 8;
	w->reft = calloc(w->reft_entries, 8);
	if (!w->reft)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	ret = q2_alloc_contig(l, 1, &first, err);
	if (ret)
		return ret;
	/* the block that counts cluster 0 exists now, unless growing came first */
	ret = take(l, 0, 1, err);
	if (ret)
		return ret;
	l->reft_off = first << l->cluster_bits;
	l->reft_clusters = 1;
	if (!l1_clusters) {
		l->l1_off = 0;
		return 0;
	}
	ret = q2_alloc_contig(l, l1_clusters, &first, err);
	if (!ret)
		l->l1_off = first << l->cluster_bits;
	return ret;
}
