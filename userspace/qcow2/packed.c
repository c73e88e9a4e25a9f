// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Places for compressed clusters, and the L2 entries that say so
 *
 * They lie in the file byte by byte, one behind the other, several in a cluster
 * of the file: its refcount is the number of those that touch it. Behind the
 * last one there is room for the next, until a flush: what is durable must not
 * be in a block that is written once more, and may be torn.
 */
#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

/* what a disk may write as one */
#define BLOCK	4096u

/* the entry's fields; where they do not fit the file is too long for compressed clusters */
static int make_entry(const struct q2_layer *l, uint64_t off, uint64_t len, uint64_t *entry,
		      struct qcow2_error *err)
{
	unsigned int shift = 62 - (l->cluster_bits - 8);
	uint64_t sectors = ((off + len - 1) >> 9) - (off >> 9), limit;

	limit = 1ull << (shift < 56 ? shift : 56);
	if (!q2_within(off, len, limit))
		return q2_err(err, EFBIG,
			      "%s: compressed data at %llu: with clusters of %u bytes they cannot be above %llu",
			      l->name, ull(off), l->cluster_size, ull(limit));
	*entry = Q2_COMPRESSED | sectors << shift | off;
	return 0;
}

/* a place for @len bytes, less than a cluster; each cluster it touches has one use more */
static int place(struct q2_layer *l, uint64_t len, uint64_t *off, struct qcow2_error *err)
{
	struct q2_writer *w = l->w;
	uint64_t at = w->packed, in = at & (l->cluster_size - 1), first, got;
	bool counted;
	int ret;

	if (in && len <= l->cluster_size - in) {
		ret = q2_ref(l, at >> l->cluster_bits, &counted, err);
		if (ret || counted) {
			*off = at;
			return ret;
		}
	}
	ret = q2_alloc(l, 1, &first, &got, err);
	if (ret)
		return ret;
	*off = first << l->cluster_bits;
	/* from the old cluster into the new one, if it is the next */
	if (in && len > l->cluster_size - in && (at >> l->cluster_bits) + 1 == first) {
		ret = q2_ref(l, first - 1, &counted, err);
		if (!ret && counted)
			*off = at;
	}
	return ret;
}

static int write_compressed(struct q2_layer *l, uint64_t guest, const void *data, uint64_t len,
			    struct qcow2_error *err)
{
	uint64_t off = 0, entry = 0, *p;
	struct q2_ent *e;
	int ret;

	ret = place(l, len, &off, err);
	if (!ret)
		ret = make_entry(l, off, len, &entry, err);
	if (!ret)
		ret = q2_pwrite(l, data, len, off, "compressed data", err);
	if (ret)
		return ret;
	l->w->packed = off + len;
	/* the place may have had another cluster once, with the same entry */
	l->zkey = 0;
	/* last of all, since what the entry had is given up here */
	ret = q2_l2_entry(l, guest, &e, &p, err);
	if (!ret)
		ret = q2_drop_old(l, be64toh(*p), err);
	if (ret)
		return ret;
	*p = htobe64(entry);
	q2_l2_changed(l, e);
	return 0;
}

/* a flush is through, and has freed what it could: perhaps the cluster with room in it */
int q2_packed_flushed(struct q2_layer *l, struct qcow2_error *err)
{
	uint64_t mask = q2_min(BLOCK, l->cluster_size) - 1, at = (l->w->packed + mask) & ~mask;
	uint16_t count = 0;
	int ret = 0;

	if (!q2_aligned(l, at))
		ret = q2_refcount_get(l, at >> l->cluster_bits, &count, err);
	l->w->packed = count ? at : 0;
	return ret;
}

int qcow2_write_compressed(struct qcow2_image *img, uint64_t off, const void *data, size_t len,
			   struct qcow2_error *err)
{
	struct q2_layer *l = img->layers[0];
	int ret;

	if (off >= l->size || !q2_aligned(l, off))
		return q2_err(err, EINVAL, "%s: guest offset %llu is not a multiple of the cluster size %u, or not below the size %llu",
			      l->name, ull(off), l->cluster_size, ull(l->size));
	if (!len || len >= l->cluster_size)
		return q2_err(err, EINVAL, "%s: compressed data of %zu bytes, not 1 to %u", l->name, len,
			      l->cluster_size - 1);
	if (l->incompatible & Q2_INCOMPAT_DATA_FILE)
		return q2_err(err, EOPNOTSUPP, "%s: has an external data file: there are no compressed clusters with it",
			      l->name);
	pthread_mutex_lock(&img->lock);
	ret = q2_begin(l, err);
	if (!ret)
		ret = write_compressed(l, off, data, len, err);
	pthread_mutex_unlock(&img->lock);
	return ret;
}
