// SPDX-License-Identifier: LGPL-2.1-or-later
/* Where are the bytes: L2 tables, one layer, the chain; and reading them */
#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

/* bound on the L2 entries one call looks at in one layer */
#define MAP_ENTRIES	8192u

/* does [off, off + len) touch what every image has: header, L1, refcount table */
bool q2_overlaps_meta(const struct q2_layer *l, uint64_t off, uint64_t len, const char **what)
{
	uint64_t end = off + len;

	if (off < l->cluster_size)
		*what = "header";
	else if (l->l1_off && off < l->l1_off + (uint64_t)l->l1_entries * 8 && end > l->l1_off)
		*what = "L1 table";
	else if (off < l->reft_off + ((uint64_t)l->reft_clusters << l->cluster_bits) &&
		 end > l->reft_off)
		*what = "refcount table";
	else
		return false;
	return true;
}

/* the L2 table of L1 entry @idx, which has one */
int q2_l2_get(struct q2_layer *l, uint64_t idx, struct q2_ent **ent, struct qcow2_error *err)
{
	struct q2_ent *e = q2_cache_find(&l->l2, idx);
	uint64_t entry = l->l1[idx], off = entry & Q2_OFFSET_MASK;
	const char *what;
	int ret;

	if (e) {
		*ent = e;
		return 0;
	}
	if (l->w)
		entry &= ~Q2_L1_PENDING;
	if (entry & Q2_L1_RESERVED)
		return q2_err(err, EUCLEAN, "%s: L1 entry %llu is 0x%llx: reserved bits are set", l->name,
			      ull(idx), ull(entry));
	if (!q2_aligned(l, off))
		return q2_err(err, EUCLEAN, "%s: L1 entry %llu: L2 table offset %llu is not a multiple of the cluster size %u",
			      l->name, ull(idx), ull(off), l->cluster_size);
	if (!q2_within(off, l->cluster_size, l->file_size))
		return q2_err(err, EUCLEAN, "%s: L1 entry %llu: L2 table at %llu reaches past the end of the file at %llu",
			      l->name, ull(idx), ull(off), ull(l->file_size));
	if (q2_overlaps_meta(l, off, l->cluster_size, &what))
		return q2_err(err, EUCLEAN, "%s: L1 entry %llu: L2 table at %llu overlaps the %s", l->name,
			      ull(idx), ull(off), what);
	ret = q2_l2_room(l, &e, err);
	if (ret)
		return ret;
	ret = q2_pread(l, e->buf, l->cluster_size, off, "an L2 table", err);
	if (ret)
		return ret;
	q2_cache_insert(&l->l2, e, idx);
	*ent = e;
	return 0;
}

/* place and length of compressed data: whole sectors from a byte offset on */
void q2_compressed_place(const struct q2_layer *l, uint64_t entry, uint64_t *off, uint64_t *len)
{
	unsigned int shift = 62 - (l->cluster_bits - 8);
	uint64_t sectors = ((entry & ~(Q2_COPIED | Q2_COMPRESSED)) >> shift) + 1;

	*off = entry & ((1ull << shift) - 1);
	*len = sectors * 512 - (*off & 511);
}

/* @need bytes of the cluster are wanted; @x->length stays as it is */
static int decode(struct q2_layer *l, uint64_t guest, uint64_t entry, uint64_t need,
		  struct q2_extent *x, struct qcow2_error *err)
{
	uint64_t off, len;
	const char *what;

	if (q2_has_data_file(l))
		return q2_data_decode(l, guest, entry, need, x, err);
	x->host = 0;
	x->entry = entry;
	if (entry & Q2_COMPRESSED) {
		q2_compressed_place(l, entry, &off, &len);
		if (entry & Q2_COPIED)
			return q2_err(err, EUCLEAN, "%s: L2 entry of guest offset %llu is 0x%llx: compressed and COPIED",
				      l->name, ull(guest), ull(entry));
		if (off >= l->file_size)
			return q2_err(err, EUCLEAN,
				      "%s: L2 entry of guest offset %llu: compressed data at %llu is past the end of the file at %llu",
				      l->name, ull(guest), ull(off), ull(l->file_size));
		if (q2_overlaps_meta(l, off, len, &what))
			return q2_err(err, EUCLEAN, "%s: L2 entry of guest offset %llu: compressed data at %llu overlaps the %s",
				      l->name, ull(guest), ull(off), what);
		x->type = QCOW2_RUN_COMPRESSED;
		return 0;
	}
	if (entry & Q2_L2_RESERVED)
		return q2_err(err, EUCLEAN, "%s: L2 entry of guest offset %llu is 0x%llx: reserved bits are set",
			      l->name, ull(guest), ull(entry));
	off = entry & Q2_OFFSET_MASK;
	if (!q2_aligned(l, off))
		return q2_err(err, EUCLEAN,
			      "%s: L2 entry of guest offset %llu: data offset %llu is not a multiple of the cluster size %u",
			      l->name, ull(guest), ull(off), l->cluster_size);
	if (entry & Q2_ZERO) {
		x->type = QCOW2_RUN_ZERO;
		return 0;
	}
	if (!off) {
		if (entry & Q2_COPIED)
			return q2_err(err, EUCLEAN, "%s: L2 entry of guest offset %llu is 0x%llx: COPIED without an offset",
				      l->name, ull(guest), ull(entry));
		x->type = QCOW2_RUN_UNALLOCATED;
		return 0;
	}
	if (!q2_within(off, need, l->file_size))
		return q2_err(err, EUCLEAN,
			      "%s: L2 entry of guest offset %llu: data at %llu, %llu bytes, reaches past the end of the file at %llu",
			      l->name, ull(guest), ull(off), ull(need), ull(l->file_size));
	if (q2_overlaps_meta(l, off, l->cluster_size, &what))
		return q2_err(err, EUCLEAN, "%s: L2 entry of guest offset %llu: data at %llu overlaps the %s",
			      l->name, ull(guest), ull(off), what);
	x->type = QCOW2_RUN_DATA;
	x->host = off;
	return 0;
}

static bool joins(const struct q2_extent *x, const struct q2_extent *next)
{
	if (x->type != next->type || x->type == QCOW2_RUN_COMPRESSED)
		return false;
	return x->type != QCOW2_RUN_DATA || x->host + x->length == next->host;
}

/* A damaged entry ends the run before it; only at its beginning it is an error. */
int q2_map_layer(struct q2_layer *l, uint64_t off, uint64_t len, struct q2_extent *x,
		 struct qcow2_error *err)
{
	unsigned int budget = MAP_ENTRIES;
	uint64_t done = 0;

	if (l->format == QCOW2_FORMAT_RAW) {
		*x = (struct q2_extent){ .type = QCOW2_RUN_DATA, .length = len, .host = off };
		return 0;
	}
	while (done < len && budget) {
		uint64_t at = off + done, cluster = at >> l->cluster_bits;
		uint64_t in = at & (l->cluster_size - 1);
		uint64_t idx = cluster >> l->l2_bits, n;
		struct q2_extent next = { .type = QCOW2_RUN_UNALLOCATED };
		struct q2_ent *e;
		int ret = 0;

		budget--;
		/* an entry with nothing but reserved bits goes to q2_l2_get(), which objects */
		if (!(l->l1[idx] & ~Q2_COPIED)) {
			n = ((idx + 1) << (l->l2_bits + l->cluster_bits)) - at;
		} else {
			ret = q2_l2_get(l, idx, &e, done ? NULL : err);
			n = l->cluster_size - in;
		}
		next.length = q2_min(n, len - done);
		if (!ret && (l->l1[idx] & ~Q2_COPIED)) {
			const uint64_t *t = e->buf;

			ret = decode(l, at, be64toh(t[cluster & ((1u << l->l2_bits) - 1)]),
				     in + next.length, &next, done ? NULL : err);
			next.host += next.type == QCOW2_RUN_DATA ? in : 0;
		}
		if (!done) {
			if (ret)
				return ret;
			*x = next;
		} else if (ret || !joins(x, &next)) {
			break;
		} else {
			x->length += next.length;
		}
		done += next.length;
	}
	return 0;
}

/* as q2_map_layer(), from @first down; *layer: who decides, or QCOW2_LAYER_NONE */
static int map_chain(struct qcow2_image *img, uint64_t off, uint64_t len, struct q2_extent *x,
		     uint32_t *layer, struct qcow2_error *err)
{
	unsigned int i;
	int ret;

	for (i = 0; i < img->nr_layers; i++) {
		struct q2_layer *l = img->layers[i];

		if (off >= l->size) {
			/* the overlay is larger than its backing file: zeros */
			*x = (struct q2_extent){ .type = QCOW2_RUN_ZERO, .length = len };
			*layer = QCOW2_LAYER_NONE;
			return 0;
		}
		len = q2_min(len, l->size - off);
		ret = q2_map_layer(l, off, len, x, err);
		if (ret)
			return ret;
		*layer = i;
		if (x->type != QCOW2_RUN_UNALLOCATED)
			return 0;
		len = x->length;
	}
	*layer = QCOW2_LAYER_NONE;
	if (!img->no_backing)
		x->type = QCOW2_RUN_ZERO;
	return 0;
}

int q2_read(struct qcow2_image *img, uint64_t off, uint8_t *buf, uint64_t len,
	    struct qcow2_error *err)
{
	while (len) {
		struct q2_extent x;
		struct q2_layer *l;
		uint32_t layer;
		int ret = map_chain(img, off, len, &x, &layer, err);

		if (ret)
			return ret;
		l = layer == QCOW2_LAYER_NONE ? NULL : img->layers[layer];
		switch (x.type) {
		case QCOW2_RUN_ZERO:
			memset(buf, 0, x.length);
			break;
		case QCOW2_RUN_DATA:
			ret = q2_pread(q2_data_of(l), buf, x.length, x.host, "data", err);
			break;
		case QCOW2_RUN_COMPRESSED:
			ret = q2_decompress(l, off, x.entry, err);
			if (!ret)
				memcpy(buf, l->zbuf + (off & (l->cluster_size - 1)), x.length);
			break;
		case QCOW2_RUN_UNALLOCATED:
			ret = q2_err(err, EOPNOTSUPP,
				     "%s: guest offset %llu is in the backing file, which is not open",
				     img->layers[0]->name, ull(off));
			break;
		}
		if (ret)
			return ret;
		buf += x.length;
		off += x.length;
		len -= x.length;
	}
	return 0;
}

static int check_range(const struct q2_layer *l, uint64_t off, uint64_t len, bool zero_ok,
		       struct qcow2_error *err)
{
	if ((!len && !zero_ok) || !q2_within(off, len, l->size))
		return q2_err(err, EINVAL, "%s: the range of %llu bytes at %llu is empty or not within the size %llu",
			      l->name, ull(len), ull(off), ull(l->size));
	return 0;
}

static void to_run(struct qcow2_image *img, uint64_t off, const struct q2_extent *x, uint32_t layer,
		   struct qcow2_run *run)
{
	bool data = x->type == QCOW2_RUN_DATA;

	*run = (struct qcow2_run) {
		.offset = off,
		.length = x->length,
		.type = x->type,
		.layer = layer,
		.fd = data ? q2_data_of(img->layers[layer])->fd : -1,
		.host_offset = data ? x->host : 0,
	};
}

int qcow2_map(struct qcow2_image *img, uint64_t off, uint64_t len, struct qcow2_run *run,
	      struct qcow2_error *err)
{
	/*
	 * Look ahead no further than there is something to join: an upper layer
	 * must not be scanned to its end for every small run of a lower one.
	 */
	uint64_t look = 64ull * img->layers[0]->cluster_size;
	struct q2_extent x;
	uint32_t layer;
	int ret;

	ret = check_range(img->layers[0], off, len, false, err);
	if (ret)
		return ret;
	pthread_mutex_lock(&img->lock);
	for (;;) {
		uint64_t want = q2_min(len, look);

		ret = map_chain(img, off, want, &x, &layer, err);
		if (ret || x.length < want || want == len)
			break;
		look = look > len / 64 ? len : look * 64;
	}
	if (!ret)
		to_run(img, off, &x, layer, run);
	pthread_mutex_unlock(&img->lock);
	return ret;
}

int qcow2_map_layer(struct qcow2_image *img, unsigned int layer, uint64_t off, uint64_t len,
		    struct qcow2_run *run, struct qcow2_error *err)
{
	struct q2_extent x;
	int ret;

	if (layer >= img->nr_layers)
		return q2_err(err, EINVAL, "%s: layer %u of %u", img->layers[0]->name, layer, img->nr_layers);
	ret = check_range(img->layers[layer], off, len, false, err);
	if (ret)
		return ret;
	pthread_mutex_lock(&img->lock);
	ret = q2_map_layer(img->layers[layer], off, len, &x, err);
	if (!ret)
		to_run(img, off, &x, x.type == QCOW2_RUN_UNALLOCATED ? QCOW2_LAYER_NONE : layer, run);
	pthread_mutex_unlock(&img->lock);
	return ret;
}

int qcow2_read(struct qcow2_image *img, uint64_t off, void *buf, size_t len, struct qcow2_error *err)
{
	int ret = check_range(img->layers[0], off, len, true, err);

	if (ret)
		return ret;
	pthread_mutex_lock(&img->lock);
	ret = q2_read(img, off, buf, len, err);
	pthread_mutex_unlock(&img->lock);
	return ret;
}
