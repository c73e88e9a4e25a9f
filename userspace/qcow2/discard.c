// SPDX-License-Identifier: LGPL-2.1-or-later
/* Places that are given up */
#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

static int discard(struct q2_layer *l, uint64_t off, uint64_t len, bool to_backing, struct qcow2_error *err)
{
	uint64_t cluster = off >> l->cluster_bits, end = cluster + q2_div_up(len, l->cluster_bits);
	/* without a backing file what has no place reads as zeros */
	uint64_t entry = to_backing || !l->backing_file ? 0 : Q2_ZERO;

	while (cluster < end) {
		uint64_t idx = cluster >> l->l2_bits, old, *p;
		struct q2_ent *e;
		int ret;

		if (!entry && !(l->l1[idx] & Q2_OFFSET_MASK)) {
			cluster = q2_min(end, (idx + 1) << l->l2_bits);
			continue;
		}
		ret = q2_l2_entry(l, cluster << l->cluster_bits, &e, &p, err);
		if (ret)
			return ret;
		cluster++;
		old = be64toh(*p);
		if (old == entry)
			continue;
		ret = q2_drop_old(l, old, err);
		if (ret)
			return ret;
		*p = htobe64(entry);
		q2_l2_changed(l, e);
	}
	return 0;
}

int qcow2_discard(struct qcow2_image *img, uint64_t off, uint64_t len, unsigned int flags,
		  struct qcow2_error *err)
{
	struct q2_layer *l = img->layers[0];
	int ret;

	if (flags & ~QCOW2_DISCARD_BACKING)
		return q2_err(err, EINVAL, "%s: unknown flags 0x%x", l->name, flags);
	if (!q2_within(off, len, l->size) || !q2_aligned(l, off) || (!q2_aligned(l, len) && off + len != l->size))
		return q2_err(err, EINVAL,
			      "%s: the range of %llu bytes at %llu is not within the size %llu, or not made of whole clusters of %u",
			      l->name, ull(len), ull(off), ull(l->size), l->cluster_size);
	if (q2_has_data_file(l))
		return q2_err(err, EOPNOTSUPP, "%s: has an external data file: its clusters have no place of their own",
			      l->name);
	pthread_mutex_lock(&img->lock);
	ret = q2_begin(l, err);
	if (!ret)
		ret = discard(l, off, len, flags & QCOW2_DISCARD_BACKING, err);
	pthread_mutex_unlock(&img->lock);
	return ret;
}
