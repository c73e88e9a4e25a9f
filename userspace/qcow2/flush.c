// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Bring the metadata to disk, in an order that survives a crash at any point
 *
 * 1. what nothing on disk refers to yet: guest data (the caller's), refcount
 *    blocks, new L2 tables; in a new image all but the header          - sync
 * 2. the way to new refcount blocks: refcount table or its place       - sync
 *    (needed seldom)
 * 3. the way to the data: L1, L2 tables that are in use, or the header - sync
 * 4. free what was referred to before 3
 */
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qcow2-int.h"

/* big endian copies of @t[lo..hi) to @base + lo * 8 */
static int write_table(struct q2_layer *l, const uint64_t *t, uint64_t lo, uint64_t hi,
		       uint64_t base, uint64_t drop, const char *what, struct qcow2_error *err)
{
	uint64_t buf[1024], n, i;

	for (; lo < hi; lo += n) {
		int ret;

		n = q2_min(hi - lo, sizeof(buf) / sizeof(buf[0]));
		for (i = 0; i < n; i++)
			buf[i] = htobe64(t[lo + i] & ~drop);
		ret = q2_pwrite(l, buf, n * 8, base + lo * 8, what, err);
		if (ret)
			return ret;
	}
	return 0;
}

static int write_l2(struct q2_layer *l, bool pending, struct qcow2_error *err)
{
	struct q2_ent *e;

	for (e = l->l2.lru.next; e != &l->l2.lru; e = e->next) {
		int ret;

		if (!e->dirty || !(l->l1[e->key] & Q2_L1_PENDING) == pending)
			continue;
		ret = q2_pwrite(l, e->buf, l->cluster_size, l->l1[e->key] & Q2_OFFSET_MASK,
				"an L2 table", err);
		if (ret)
			return ret;
		e->dirty = false;
	}
	return 0;
}

static int write_l1(struct q2_layer *l, struct qcow2_error *err)
{
	return write_table(l, l->l1, l->w->l1_lo, l->w->l1_hi, l->l1_off, Q2_L1_PENDING,
			   "the L1 table", err);
}

static int write_header(struct q2_layer *l, struct qcow2_error *err)
{
	size_t len = l->w->fresh ? l->cluster_size : Q2_V3_HEADER_LEN;

	q2_header_update(l->header, l);
	return q2_pwrite(l, l->header, len, 0, "the header", err);
}

static int extend(struct q2_layer *l, struct qcow2_error *err)
{
	off_t end = (off_t)(l->w->end << l->cluster_bits);
	struct stat st;

	if (l->rdev)
		return 0;
	if (fstat(l->fd, &st))
		return q2_err(err, errno, "%s: fstat: %s", l->name, strerror(errno));
	if (st.st_size < end && ftruncate(l->fd, end))
		return q2_err(err, errno, "%s: cannot extend the file to %lld bytes: %s", l->name,
			      (long long)end, strerror(errno));
	return 0;
}

/* see above; who calls sets w->failed when it fails */
int q2_flush(struct q2_layer *l, struct qcow2_error *err)
{
	struct q2_writer *w = l->w;
	uint64_t i;
	int ret;

	ret = l->data ? q2_sync(l->data, err) : 0;
	if (ret)
		return ret;
	if (!w->dirty)
		return q2_sync(l, err);

	ret = extend(l, err);
	if (!ret)
		ret = q2_refb_write(l, err);
	if (!ret)
		ret = write_l2(l, true, err);
	if (!ret && (w->fresh || w->reft_moved))
		ret = write_table(l, w->reft, 0, w->reft_entries, l->reft_off, 0, "the refcount table", err);
	if (!ret && w->fresh) {
		/* a file reads as zeros where nothing was written, a device does not */
		if (l->rdev) {
			w->l1_lo = 0;
			w->l1_hi = l->l1_entries;
		}
		ret = write_l1(l, err);
	}
	if (!ret)
		ret = q2_sync(l, err);
	if (ret)
		return ret;

	if (!w->fresh && (w->reft_moved || w->reft_lo < w->reft_hi)) {
		if (w->reft_moved)
			ret = write_header(l, err);
		else
			ret = write_table(l, w->reft, w->reft_lo, w->reft_hi, l->reft_off, 0,
					  "the refcount table", err);
		if (!ret)
			ret = q2_sync(l, err);
		if (ret)
			return ret;
	}

	ret = write_l2(l, false, err);
	if (!ret)
		ret = w->fresh ? write_header(l, err) : write_l1(l, err);
	if (!ret)
		ret = q2_sync(l, err);
	if (ret)
		return ret;

	for (i = w->l1_lo; i < w->l1_hi; i++)
		l->l1[i] &= ~Q2_L1_PENDING;
	w->l1_lo = w->reft_lo = UINT64_MAX;
	w->l1_hi = w->reft_hi = 0;
	w->reft_moved = false;
	w->fresh = false;

	ret = q2_do_frees(l, err);
	if (!ret)
		ret = q2_packed_flushed(l, err);
	if (!ret)
		ret = q2_refb_write(l, err);
	if (!ret)
		w->dirty = false;
	return ret;
}

int qcow2_flush(struct qcow2_image *img, struct qcow2_error *err)
{
	struct q2_layer *l = img->layers[0];
	int ret;

	if (!l->w)
		return q2_err(err, EROFS, "%s: is open for reading only", l->name);
	pthread_mutex_lock(&img->lock);
	if (l->w->failed)
		ret = q2_err(err, ESHUTDOWN, "%s: an earlier write of metadata failed: nothing more can be written",
			     l->name);
	else
		ret = q2_flush(l, err);
	if (ret)
		l->w->failed = true;
	pthread_mutex_unlock(&img->lock);
	return ret;
}
