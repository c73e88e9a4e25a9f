// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Places for guest data, zero clusters, and the L2 tables that say so
 *
 * An L2 table in the cache may be dirty. One that the L1 on disk does not refer
 * to (Q2_L1_PENDING) can go to its place at any time. One that it does refer to
 * must wait for the flush: when the cache needs its room earlier, it moves to a
 * new place. So the cache is bounded, however rare flushes are.
 */
#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

void q2_set_l1(struct q2_layer *l, uint64_t idx, uint64_t cluster)
{
	l->l1[idx] = cluster << l->cluster_bits | Q2_COPIED | Q2_L1_PENDING;
	l->w->l1_lo = q2_min(l->w->l1_lo, idx);
	l->w->l1_hi = q2_max(l->w->l1_hi, idx + 1);
	l->w->dirty = true;
}

void q2_l2_changed(struct q2_layer *l, struct q2_ent *e)
{
	e->dirty = true;
	l->w->dirty = true;
}

/* save a dirty table that is to leave the cache */
static int l2_evict(struct q2_layer *l, struct q2_ent *e, struct qcow2_error *err)
{
	uint64_t old = l->l1[e->key], first, got;
	int ret;

	if (!(old & Q2_L1_PENDING)) {
		ret = q2_alloc(l, 1, &first, &got, err);
		if (!ret)
			ret = q2_free_later(l, old & Q2_OFFSET_MASK, l->cluster_size, err);
		if (ret)
			return ret;
		q2_set_l1(l, e->key, first);
	}
	ret = q2_pwrite(l, e->buf, l->cluster_size, l->l1[e->key] & Q2_OFFSET_MASK, "an L2 table", err);
	if (!ret)
		e->dirty = false;
	return ret;
}

/* room in the cache for another table, under no key yet */
int q2_l2_room(struct q2_layer *l, struct q2_ent **ent, struct qcow2_error *err)
{
	struct q2_ent *e = q2_cache_victim(&l->l2);
	int ret;

	if (!e)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	if (e->dirty) {
		ret = l2_evict(l, e, err);
		if (ret)
			return ret;
	}
	q2_cache_drop(&l->l2, e);
	*ent = e;
	return 0;
}

/* the table for L1 entry @idx, to be changed; a new one if there is none */
static int l2_for_write(struct q2_layer *l, uint64_t idx, struct q2_ent **ent,
			struct qcow2_error *err)
{
	uint64_t first, got;
	struct q2_ent *e;
	int ret;

	if (l->l1[idx] & Q2_OFFSET_MASK) {
		if (!(l->l1[idx] & Q2_COPIED))
			return q2_err(err, EUCLEAN,
				      "%s: L1 entry %llu: the L2 table is not marked as the image's own (COPIED); see `qemu-img check`",
				      l->name, ull(idx));
		return q2_l2_get(l, idx, ent, err);
	}
	ret = q2_l2_room(l, &e, err);
	if (ret)
		return ret;
	ret = q2_alloc(l, 1, &first, &got, err);
	if (ret)
		return ret;
	memset(e->buf, 0, l->cluster_size);
	q2_cache_insert(&l->l2, e, idx);
	q2_set_l1(l, idx, first);
	q2_l2_changed(l, e);
	*ent = e;
	return 0;
}

/* the L2 entry of guest offset @off, to be changed */
int q2_l2_entry(struct q2_layer *l, uint64_t off, struct q2_ent **ent, uint64_t **p,
		struct qcow2_error *err)
{
	uint64_t cluster = off >> l->cluster_bits;
	int ret = l2_for_write(l, cluster >> l->l2_bits, ent, err);

	if (!ret)
		*p = (uint64_t *)(*ent)->buf + (cluster & ((1ull << l->l2_bits) - 1));
	return ret;
}

/* has the cluster a place of its own, to be (over)written? */
static bool own(uint64_t entry)
{
	return !(entry & Q2_COMPRESSED) && entry & Q2_COPIED && entry & Q2_OFFSET_MASK;
}

static int check_own(struct q2_layer *l, uint64_t guest, uint64_t entry, struct qcow2_error *err)
{
	uint64_t off = entry & Q2_OFFSET_MASK;
	const char *what;

	if (entry & Q2_L2_RESERVED)
		return q2_err(err, EUCLEAN, "%s: L2 entry of guest offset %llu is 0x%llx: reserved bits are set",
			      l->name, ull(guest), ull(entry));
	if (!q2_aligned(l, off) || off >= l->file_size)
		return q2_err(err, EUCLEAN,
			      "%s: L2 entry of guest offset %llu: data offset %llu is not aligned, or past the end of the file",
			      l->name, ull(guest), ull(off));
	if (q2_overlaps_meta(l, off, l->cluster_size, &what))
		return q2_err(err, EUCLEAN, "%s: L2 entry of guest offset %llu: data at %llu overlaps the %s",
			      l->name, ull(guest), ull(off), what);
	return 0;
}

/* the entry is about to be replaced: what it had is free after the next flush */
int q2_drop_old(struct q2_layer *l, uint64_t entry, struct qcow2_error *err)
{
	uint64_t off, len;

	/* clusters of a data file are not counted */
	if (q2_has_data_file(l))
		return 0;
	if (entry & Q2_COMPRESSED) {
		q2_compressed_place(l, entry, &off, &len);
		return q2_free_later(l, off, len, err);
	}
	off = entry & Q2_OFFSET_MASK;
	return off ? q2_free_later(l, off, l->cluster_size, err) : 0;
}

/* @off aligned; gives at least one cluster, at most what one L2 table covers */
static int alloc_write(struct q2_layer *l, uint64_t off, uint64_t len, uint64_t *host,
		       uint64_t *got, struct qcow2_error *err)
{
	uint64_t cluster = off >> l->cluster_bits, mask = (1ull << l->l2_bits) - 1;
	uint64_t in = cluster & mask, want, n, i, first, *t;
	struct q2_ent *e;
	int ret;

	if (q2_has_data_file(l))
		return q2_data_alloc(l, off, len, host, got, err);
	want = q2_min(q2_div_up(len, l->cluster_bits), mask + 1 - in);
	ret = l2_for_write(l, cluster >> l->l2_bits, &e, err);
	if (ret)
		return ret;
	t = (uint64_t *)e->buf + in;
	if (own(be64toh(t[0]))) {
		uint64_t place = be64toh(t[0]) & Q2_OFFSET_MASK;

		for (n = 0; n < want; n++) {
			uint64_t entry = be64toh(t[n]);

			if (!own(entry) || (entry & Q2_OFFSET_MASK) != place + (n << l->cluster_bits))
				break;
			ret = check_own(l, off + (n << l->cluster_bits), entry, err);
			if (ret)
				return ret;
			if (entry & Q2_ZERO) {
				t[n] = htobe64(entry & ~Q2_ZERO);
				q2_l2_changed(l, e);
			}
		}
		*host = place;
		*got = q2_min(len, n << l->cluster_bits);
		return 0;
	}
	for (n = 1; n < want && !own(be64toh(t[n])); n++)
		;
	/* the L2 cache is not touched by this, so @t stays */
	ret = q2_alloc(l, n, &first, &n, err);
	if (ret)
		return ret;
	for (i = 0; i < n; i++) {
		ret = q2_drop_old(l, be64toh(t[i]), err);
		if (ret) {
			/* some entries are new already, and the caller will write to none */
			l->w->failed = true;
			return ret;
		}
		t[i] = htobe64((first + i) << l->cluster_bits | Q2_COPIED);
	}
	q2_l2_changed(l, e);
	*host = first << l->cluster_bits;
	*got = q2_min(len, n << l->cluster_bits);
	return 0;
}

static int set_zero(struct q2_layer *l, uint64_t off, uint64_t len, struct qcow2_error *err)
{
	uint64_t cluster = off >> l->cluster_bits, end = cluster + q2_div_up(len, l->cluster_bits);
	uint64_t mask = (1ull << l->l2_bits) - 1;
	bool done;
	int ret;

	ret = q2_data_zero(l, off, len, &done, err);
	if (ret || done)
		return ret;
	while (cluster < end) {
		uint64_t idx = cluster >> l->l2_bits, stop = q2_min(end, (idx + 1) << l->l2_bits);
		struct q2_ent *e;

		if (!(l->l1[idx] & Q2_OFFSET_MASK) && !l->backing_file) {
			cluster = stop;
			continue;
		}
		ret = l2_for_write(l, idx, &e, err);
		if (ret)
			return ret;
		for (; cluster < stop; cluster++) {
			uint64_t *p = (uint64_t *)e->buf + (cluster & mask), entry = be64toh(*p);

			if (!entry && !l->backing_file)
				continue;
			if (!own(entry)) {
				if (entry == Q2_ZERO)
					continue;
				ret = q2_drop_old(l, entry, err);
				if (ret)
					return ret;
				entry = 0;
			}
			*p = htobe64(entry | Q2_ZERO);
			q2_l2_changed(l, e);
		}
	}
	return 0;
}

/* may layer 0 be changed? The first change is announced on disk. */
int q2_begin(struct q2_layer *l, struct qcow2_error *err)
{
	int ret;

	if (!l->w)
		return q2_err(err, EROFS, "%s: is open for reading only", l->name);
	if (l->w->failed)
		return q2_err(err, ESHUTDOWN, "%s: an earlier write of metadata failed: nothing more can be written",
			      l->name);
	if (l->w->begun)
		return 0;
	ret = q2_drop_autoclear(l, true, err);
	if (ret)
		return ret;
	l->w->begun = true;
	return 0;
}

static int check_clusters(const struct q2_layer *l, uint64_t off, uint64_t len, bool zero_ok,
			  struct qcow2_error *err)
{
	if ((!len && !zero_ok) || !q2_within(off, len, l->size))
		return q2_err(err, EINVAL, "%s: the range of %llu bytes at %llu is empty or not within the size %llu",
			      l->name, ull(len), ull(off), ull(l->size));
	if (!q2_aligned(l, off) || (!q2_aligned(l, len) && off + len != l->size))
		return q2_err(err, EINVAL,
			      "%s: the range of %llu bytes at %llu is not made of whole clusters of %u (only the last may be short)",
			      l->name, ull(len), ull(off), l->cluster_size);
	return 0;
}

int qcow2_alloc_write(struct qcow2_image *img, uint64_t off, uint64_t len, uint64_t *host,
		      uint64_t *got, struct qcow2_error *err)
{
	struct q2_layer *l = img->layers[0];
	uint64_t at = 0, n = 0;
	int ret;

	ret = check_clusters(l, off, len, false, err);
	if (ret)
		return ret;
	pthread_mutex_lock(&img->lock);
	ret = q2_begin(l, err);
	if (!ret)
		ret = alloc_write(l, off, len, &at, &n, err);
	pthread_mutex_unlock(&img->lock);
	if (!ret) {
		*host = at;
		*got = n;
	}
	return ret;
}

int qcow2_set_zero(struct qcow2_image *img, uint64_t off, uint64_t len, struct qcow2_error *err)
{
	struct q2_layer *l = img->layers[0];
	int ret;

	ret = check_clusters(l, off, len, true, err);
	if (ret)
		return ret;
	pthread_mutex_lock(&img->lock);
	ret = q2_begin(l, err);
	if (!ret && len)
		ret = set_zero(l, off, len, err);
	pthread_mutex_unlock(&img->lock);
	return ret;
}

static int has_own(struct q2_layer *l, uint64_t off, bool *yes, struct qcow2_error *err)
{
	uint64_t cluster = off >> l->cluster_bits, mask = (1ull << l->l2_bits) - 1, entry;
	struct q2_ent *e;
	int ret;

	*yes = false;
	if (!(l->l1[cluster >> l->l2_bits] & Q2_OFFSET_MASK))
		return 0;
	ret = q2_l2_get(l, cluster >> l->l2_bits, &e, err);
	if (ret)
		return ret;
	entry = be64toh(((uint64_t *)e->buf)[cluster & mask]);
	*yes = q2_has_data_file(l) ? entry & Q2_COPIED : own(entry);
	return 0;
}

/* @len bytes within one cluster, that does not become whole by them */
static int write_part(struct qcow2_image *img, uint64_t off, const uint8_t *buf, uint64_t len,
		      uint8_t **bounce, struct qcow2_error *err)
{
	struct q2_layer *l = img->layers[0];
	uint64_t in = off & (l->cluster_size - 1), start = off - in, host, got;
	uint64_t valid = q2_min(l->cluster_size, l->size - start);
	struct q2_extent x;
	bool inplace;
	int ret;

	ret = q2_map_layer(l, start, valid, &x, err);
	if (!ret)
		ret = has_own(l, start, &inplace, err);
	if (ret)
		return ret;
	if (x.type == QCOW2_RUN_DATA && inplace)
		return q2_pwrite(q2_data_of(l), buf, len, x.host + in, "data", err);
	if (!*bounce)
		*bounce = malloc(l->cluster_size);
	if (!*bounce)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	memset(*bounce + valid, 0, l->cluster_size - valid);
	ret = q2_read(img, start, *bounce, valid, err);
	if (ret)
		return ret;
	memcpy(*bounce + in, buf, len);
	ret = alloc_write(l, start, valid, &host, &got, err);
	if (ret)
		return ret;
	/* a data file is as long as the guest, and may be a device */
	return q2_pwrite(q2_data_of(l), *bounce, l->data ? valid : l->cluster_size, host, "data", err);
}

int qcow2_write(struct qcow2_image *img, uint64_t off, const void *data, size_t length,
		struct qcow2_error *err)
{
	struct q2_layer *l = img->layers[0];
	const uint8_t *buf = data;
	uint64_t len = length, n, host;
	uint8_t *bounce = NULL;
	int ret;

	if (!q2_within(off, len, l->size))
		return q2_err(err, EINVAL, "%s: the range of %llu bytes at %llu is not within the size %llu",
			      l->name, ull(len), ull(off), ull(l->size));
	pthread_mutex_lock(&img->lock);
	ret = q2_begin(l, err);
	while (!ret && len) {
		uint64_t in = off & (l->cluster_size - 1);

		n = q2_min(len, l->cluster_size - in);
		if (!in && (len >= l->cluster_size || off + len == l->size)) {
			n = off + len == l->size ? len : len & ~(uint64_t)(l->cluster_size - 1);
			ret = alloc_write(l, off, n, &host, &n, err);
			if (!ret)
				ret = q2_pwrite(q2_data_of(l), buf, n, host, "data", err);
		} else {
			ret = write_part(img, off, buf, n, &bounce, err);
		}
		off += n;
		buf += n;
		len -= n;
	}
	pthread_mutex_unlock(&img->lock);
	free(bounce);
	return ret;
}
