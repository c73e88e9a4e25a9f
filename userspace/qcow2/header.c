// SPDX-License-Identifier: LGPL-2.1-or-later
/* The header cluster: parse it without trust, build it */
#include <stdio.h>

#include "qcow2-int.h"

/* byte offsets of the header's fields */
enum {
	H_MAGIC = 0, H_VERSION = 4, H_BACKING_OFF = 8, H_BACKING_LEN = 16,
	H_CLUSTER_BITS = 20, H_SIZE = 24, H_CRYPT = 32, H_L1_ENTRIES = 36,
	H_L1_OFF = 40, H_REFT_OFF = 48, H_REFT_CLUSTERS = 56, H_SNAPSHOTS = 60,
	H_SNAPSHOTS_OFF = 64, H_INCOMPAT = 72, H_COMPAT = 80, H_AUTOCLEAR = 88,
	H_REFCOUNT_ORDER = 96, H_LENGTH = 100, H_COMPRESSION = 104,
};

#define FEATURE_NAME_LEN	48

#define ull(x)	((unsigned long long)(x))

/* copy of @len bytes that must hold no NUL; @what goes into the message */
static int take_string(struct q2_layer *l, const uint8_t *p, size_t len,
		       const char *what, char **out, struct qcow2_error *err)
{
	char *s;

	if (memchr(p, 0, len))
		return q2_err(err, EUCLEAN, "%s: header: %s contains a NUL byte", l->name, what);
	s = malloc(len + 1);
	if (!s)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	memcpy(s, p, len);
	s[len] = '\0';
	*out = s;
	return 0;
}

static const struct qcow2_header_ext *find_ext(const struct q2_layer *l, uint32_t type)
{
	unsigned int i;

	for (i = 0; i < l->ext_count; i++)
		if (l->ext[i].type == type)
			return &l->ext[i];
	return NULL;
}

/* the extensions of l->header from @off on, into l->ext */
int q2_ext_parse(struct q2_layer *l, size_t off, size_t end, struct qcow2_error *err)
{
	unsigned int max = 0;

	while (off + 8 <= end) {
		uint32_t type = get32(l->header + off), len = get32(l->header + off + 4);
		struct qcow2_header_ext *ext;

		if (type == QCOW2_EXT_END)
			return 0;
		off += 8;
		if (len > end - off)
			return q2_err(err, EUCLEAN,
				      "%s: header extension 0x%08x at %zu: length %u reaches past the end of the extensions at %zu",
				      l->name, type, off - 8, len, end);
		if (type != QCOW2_EXT_PADDING && find_ext(l, type))
			return q2_err(err, EUCLEAN, "%s: header extension 0x%08x at %zu: is there twice",
				      l->name, type, off - 8);
		if (l->ext_count == max) {
			max = max ? max * 2 : 8;
			ext = realloc(l->ext, max * sizeof(*ext));
			if (!ext)
				return q2_err(err, ENOMEM, "%s: out of memory", l->name);
			l->ext = ext;
		}
		/* find_ext() is linear: bound the work a crafted header can cause */
		if (l->ext_count >= 256)
			return q2_err(err, EUCLEAN, "%s: header: more than 256 extensions", l->name);
		ext = &l->ext[l->ext_count++];
		ext->type = type;
		ext->len = len;
		ext->data = l->header + off;
		ext->data_offset = off;
		off += ((size_t)len + 7) & ~(size_t)7;
	}
	return 0;
}

static int refuse_features(struct q2_layer *l, struct qcow2_error *err)
{
	uint64_t bits = l->incompatible;
	const struct qcow2_header_ext *names;
	unsigned int bit;
	uint32_t i;

	if (bits & Q2_INCOMPAT_CORRUPT)
		return q2_err(err, EOPNOTSUPP,
			      "%s: incompatible feature bit 1 (corrupt) is set: QEMU found the image damaged; see `qemu-img check`",
			      l->name);
	if (bits & Q2_INCOMPAT_DIRTY)
		return q2_err(err, EOPNOTSUPP,
			      "%s: incompatible feature bit 0 (dirty) is set: refcounts are stale; run `qemu-img check -r all`",
			      l->name);
	if (bits & Q2_INCOMPAT_EXTL2)
		return q2_err(err, EOPNOTSUPP,
			      "%s: incompatible feature bit 4 (extended L2 entries) is not supported", l->name);
	bits &= ~(Q2_INCOMPAT_COMPRESSION | Q2_INCOMPAT_DATA_FILE);
	if (!bits)
		return 0;
	bit = (unsigned int)__builtin_ctzll(bits);
	names = find_ext(l, QCOW2_EXT_FEATURE_NAMES);
	for (i = 0; names && names->len - i >= FEATURE_NAME_LEN; i += FEATURE_NAME_LEN) {
		const uint8_t *p = (const uint8_t *)names->data + i;
		char raw[FEATURE_NAME_LEN - 1], *name;
		int ret;

		if (p[0] != 0 || p[1] != bit)
			continue;
		memcpy(raw, p + 2, FEATURE_NAME_LEN - 2);
		raw[FEATURE_NAME_LEN - 2] = '\0';
		name = q2_printable(raw);
		ret = q2_err(err, EOPNOTSUPP,
			     "%s: incompatible feature bit %u (the image calls it '%s') is not supported",
			     l->name, bit, name ? name : "?");
		free(name);
		return ret;
	}
	return q2_err(err, EOPNOTSUPP, "%s: incompatible feature bit %u is unknown", l->name, bit);
}

/* the bit is there to keep those out that do not know the field */
static int parse_compression(struct q2_layer *l, uint32_t length, struct qcow2_error *err)
{
	bool bit = l->incompatible & Q2_INCOMPAT_COMPRESSION;

	l->compression = length > H_COMPRESSION ? l->header[H_COMPRESSION] : QCOW2_COMPRESSION_DEFLATE;
	if (l->compression && !bit)
		return q2_err(err, EUCLEAN, "%s: header: compression_type %u without incompatible feature bit 3",
			      l->name, l->compression);
	if (!l->compression && bit)
		return q2_err(err, EUCLEAN, "%s: header: incompatible feature bit 3 with compression_type 0, deflate",
			      l->name);
	if (l->compression > QCOW2_COMPRESSION_ZSTD)
		return q2_err(err, EOPNOTSUPP,
			      "%s: header: compression_type %u is not supported, only 0 (deflate) and 1 (zstd)",
			      l->name, l->compression);
	return 0;
}

static int parse_data_file(struct q2_layer *l, struct qcow2_error *err)
{
	const struct qcow2_header_ext *ext = find_ext(l, QCOW2_EXT_DATA_FILE);

	if (!q2_has_data_file(l))
		return 0;
	if (!ext)
		return q2_err(err, EUCLEAN,
			      "%s: header: incompatible feature bit 2 (external data file), and no extension 0x%08x that names the file",
			      l->name, QCOW2_EXT_DATA_FILE);
	if (!ext->len || ext->len > QCOW2_MAX_BACKING_NAME)
		return q2_err(err, EUCLEAN, "%s: header: data file name of %u bytes, not 1 to %u", l->name, ext->len,
			      QCOW2_MAX_BACKING_NAME);
	return take_string(l, ext->data, ext->len, "data file name", &l->data_file, err);
}

static bool overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return alen && blen && a < b + blen && b < a + alen;
}

static int parse_tables(struct q2_layer *l, const uint8_t *h, struct qcow2_error *err)
{
	uint64_t need, l1_bytes, reft_bytes, padded, snap_off;

	if (l->size > INT64_MAX - QCOW2_MAX_CLUSTER)
		return q2_err(err, EUCLEAN, "%s: header: size %llu is impossible", l->name, ull(l->size));
	l->l1_entries = get32(h + H_L1_ENTRIES);
	l->l1_off = get64(h + H_L1_OFF);
	l1_bytes = (uint64_t)l->l1_entries * 8;
	need = q2_div_up(l->size, l->cluster_bits + l->l2_bits);
	if (l1_bytes > QCOW2_MAX_L1_BYTES)
		return q2_err(err, EUCLEAN, "%s: header: l1_size %u is over the limit of %u",
			      l->name, l->l1_entries, QCOW2_MAX_L1_BYTES / 8);
	if (l->l1_entries < need)
		return q2_err(err, EUCLEAN, "%s: header: l1_size %u is too small for size %llu, which needs %llu",
			      l->name, l->l1_entries, ull(l->size), ull(need));
	if (l->l1_entries && (!l->l1_off || !q2_aligned(l, l->l1_off)))
		return q2_err(err, EUCLEAN, "%s: header: l1_table_offset %llu is not a multiple of the cluster size %u, or 0",
			      l->name, ull(l->l1_off), l->cluster_size);
	if (l->l1_entries && !q2_within(l->l1_off, l1_bytes, l->file_size))
		return q2_err(err, EUCLEAN, "%s: header: L1 table of %llu bytes at %llu reaches past the end of the file at %llu",
			      l->name, ull(l1_bytes), ull(l->l1_off), ull(l->file_size));

	l->reft_off = get64(h + H_REFT_OFF);
	l->reft_clusters = get32(h + H_REFT_CLUSTERS);
	reft_bytes = (uint64_t)l->reft_clusters << l->cluster_bits;
	if (!l->reft_clusters)
		return q2_err(err, EUCLEAN, "%s: header: refcount_table_clusters is 0", l->name);
	if (reft_bytes > QCOW2_MAX_REFTABLE_BYTES)
		return q2_err(err, EUCLEAN, "%s: header: refcount_table_clusters %u is over the limit of %u bytes",
			      l->name, l->reft_clusters, QCOW2_MAX_REFTABLE_BYTES);
	if (!l->reft_off || !q2_aligned(l, l->reft_off))
		return q2_err(err, EUCLEAN,
			      "%s: header: refcount_table_offset %llu is not a multiple of the cluster size %u, or 0",
			      l->name, ull(l->reft_off), l->cluster_size);
	padded = q2_div_up(l->file_size, l->cluster_bits) << l->cluster_bits;
	if (!q2_within(l->reft_off, reft_bytes, padded))
		return q2_err(err, EUCLEAN,
			      "%s: header: refcount table of %llu bytes at %llu reaches past the end of the file at %llu",
			      l->name, ull(reft_bytes), ull(l->reft_off), ull(l->file_size));
	if (overlap(l->l1_off, l1_bytes, l->reft_off, reft_bytes))
		return q2_err(err, EUCLEAN, "%s: header: L1 table at %llu and refcount table at %llu overlap",
			      l->name, ull(l->l1_off), ull(l->reft_off));

	l->snapshots = get32(h + H_SNAPSHOTS);
	snap_off = get64(h + H_SNAPSHOTS_OFF);
	if (l->snapshots && (!snap_off || !q2_aligned(l, snap_off) || snap_off >= l->file_size))
		return q2_err(err, EUCLEAN, "%s: header: snapshots_offset %llu is not aligned, or not within the file",
			      l->name, ull(snap_off));
	return 0;
}

/* Wants fd and file_size; fills in all that the header tells. */
int q2_header_parse(struct q2_layer *l, struct qcow2_error *err)
{
	uint8_t fixed[Q2_V3_HEADER_LEN];
	uint32_t bits, length, backing_len, crypt;
	uint64_t backing_off;
	const struct qcow2_header_ext *ext;
	size_t have, ext_end;
	int ret;

	if (l->file_size < 8)
		return q2_err(err, EUCLEAN, "%s: no qcow2 image: %llu bytes are too short for a header",
			      l->name, ull(l->file_size));
	have = (size_t)q2_min(sizeof(fixed), l->file_size);
	ret = q2_pread(l, fixed, have, 0, "the header", err);
	if (ret)
		return ret;
	if (get32(fixed + H_MAGIC) != Q2_MAGIC)
		return q2_err(err, EUCLEAN,
			      "%s: no qcow2 image: magic is 0x%08x, not 0x%08x (a new image has none until it is complete)",
			      l->name, get32(fixed + H_MAGIC), Q2_MAGIC);
	if (get32(fixed + H_VERSION) != 3)
		return q2_err(err, get32(fixed + H_VERSION) == 2 ? EOPNOTSUPP : EUCLEAN,
			      "%s: header: version %u is not supported, only 3 (`qemu-img amend -o compat=1.1` converts version 2)",
			      l->name, get32(fixed + H_VERSION));
	if (have < Q2_V3_HEADER_LEN)
		return q2_err(err, EUCLEAN, "%s: header is cut short: the file has %llu bytes, a header %u",
			      l->name, ull(l->file_size), Q2_V3_HEADER_LEN);
	bits = get32(fixed + H_CLUSTER_BITS);
	if (bits < 9 || bits > 21)
		return q2_err(err, EUCLEAN, "%s: header: cluster_bits %u is not within 9 to 21", l->name, bits);
	l->cluster_bits = bits;
	l->cluster_size = 1u << bits;
	l->l2_bits = bits - 3;

	length = get32(fixed + H_LENGTH);
	if (length < Q2_V3_HEADER_LEN || length > l->cluster_size || length % 8)
		return q2_err(err, EUCLEAN, "%s: header: header_length %u is not within %u to the cluster size %u, or no multiple of 8",
			      l->name, length, Q2_V3_HEADER_LEN, l->cluster_size);
	l->header = calloc(1, l->cluster_size);
	if (!l->header)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	ret = q2_pread(l, l->header, (size_t)q2_min(l->cluster_size, l->file_size), 0,
		       "the header", err);
	if (ret)
		return ret;

	crypt = get32(fixed + H_CRYPT);
	if (crypt)
		return q2_err(err, EOPNOTSUPP, "%s: header: crypt_method %u: encrypted images are not supported",
			      l->name, crypt);
	l->incompatible = get64(fixed + H_INCOMPAT);
	l->compatible = get64(fixed + H_COMPAT);
	l->autoclear = get64(fixed + H_AUTOCLEAR);
	l->refcount_order = get32(fixed + H_REFCOUNT_ORDER);
	l->size = get64(fixed + H_SIZE);

	backing_off = get64(fixed + H_BACKING_OFF);
	backing_len = get32(fixed + H_BACKING_LEN);
	ext_end = (size_t)q2_min(l->cluster_size, l->file_size);
	if (backing_off) {
		if (backing_off < length || backing_off > l->cluster_size)
			return q2_err(err, EUCLEAN,
				      "%s: header: backing_file_offset %llu is not between the header's end %u and the cluster size %u",
				      l->name, ull(backing_off), length, l->cluster_size);
		if (backing_len > QCOW2_MAX_BACKING_NAME ||
		    !q2_within(backing_off, backing_len, ext_end))
			return q2_err(err, EUCLEAN,
				      "%s: header: backing_file_size %u is over %u, or reaches past the header cluster or the file",
				      l->name, backing_len, QCOW2_MAX_BACKING_NAME);
		ext_end = (size_t)q2_min(ext_end, backing_off);
	}
	if (length < ext_end) {
		ret = q2_ext_parse(l, length, ext_end, err);
		if (ret)
			return ret;
	}
	ret = refuse_features(l, err);
	if (ret)
		return ret;
	ret = parse_compression(l, length, err);
	if (!ret)
		ret = parse_data_file(l, err);
	if (ret)
		return ret;
	if (l->refcount_order > 6)
		return q2_err(err, EUCLEAN, "%s: header: refcount_order %u is over 6", l->name, l->refcount_order);
	ret = parse_tables(l, fixed, err);
	if (ret)
		return ret;

	if (backing_off && backing_len) {
		ret = take_string(l, l->header + backing_off, backing_len, "backing file name",
				  &l->backing_file, err);
		if (ret)
			return ret;
	}
	ext = find_ext(l, QCOW2_EXT_BACKING_FORMAT);
	if (ext) {
		if (!ext->len || ext->len > 63)
			return q2_err(err, EUCLEAN, "%s: header: backing format name of %u bytes, not 1 to 63",
				      l->name, ext->len);
		ret = take_string(l, ext->data, ext->len, "backing format name", &l->backing_format, err);
	}
	return ret;
}

/* where the extensions begin */
size_t q2_header_length(const uint8_t *h)
{
	return get32(h + H_LENGTH);
}

void q2_header_set_backing(uint8_t *h, uint64_t off, uint32_t len)
{
	put64(h + H_BACKING_OFF, off);
	put32(h + H_BACKING_LEN, len);
}

/* the autoclear bits alone: the rest of @h stays what the disk has */
void q2_header_set_autoclear(uint8_t *h, uint64_t bits)
{
	put64(h + H_AUTOCLEAR, bits);
}

static uint8_t *put_ext(uint8_t *p, const uint8_t *end, uint32_t type, const void *data, size_t len)
{
	size_t padded = (len + 7) & ~(size_t)7;

	if (!p || len > UINT32_MAX - 8 || (size_t)(end - p) < 8 + padded)
		return NULL;
	put32(p, type);
	put32(p + 4, (uint32_t)len);
	if (len)
		memcpy(p + 8, data, len);
	return p + 8 + padded;
}

/*
 * The header cluster of a new image, into l->header, and what parsing it would
 * yield; places of tables come with q2_header_update().
 */
int q2_header_build(struct q2_layer *l, const struct qcow2_create_opts *opts,
		    struct qcow2_error *err)
{
	size_t backing_len = opts->backing_file ? strlen(opts->backing_file) : 0;
	uint8_t *h = calloc(1, l->cluster_size), *p, *end;
	unsigned int i;
	int ret;

	if (!h)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	l->header = h;
	end = h + l->cluster_size;
	put32(h + H_MAGIC, Q2_MAGIC);
	put32(h + H_VERSION, 3);
	put32(h + H_CLUSTER_BITS, l->cluster_bits);
	put64(h + H_SIZE, l->size);
	put32(h + H_REFCOUNT_ORDER, 4);
	put32(h + H_LENGTH, Q2_HEADER_LEN);
	h[H_COMPRESSION] = (uint8_t)l->compression;
	put64(h + H_INCOMPAT, l->incompatible);
	p = h + Q2_HEADER_LEN;
	if (backing_len)
		p = put_ext(p, end, QCOW2_EXT_BACKING_FORMAT, opts->backing_format,
			    strlen(opts->backing_format));
	if (opts->data_file)
		p = put_ext(p, end, QCOW2_EXT_DATA_FILE, opts->data_file, strlen(opts->data_file));
	for (i = 0; i < opts->ext_count; i++)
		p = put_ext(p, end, opts->ext[i].type, opts->ext[i].data, opts->ext[i].len);
	p = put_ext(p, end, QCOW2_EXT_END, NULL, 0);
	if (!p || (size_t)(end - p) < backing_len)
		return q2_err(err, EINVAL,
			      "%s: header extensions and backing file name do not fit into one cluster of %u bytes: take a larger cluster_size",
			      l->name, l->cluster_size);
	ret = q2_ext_parse(l, Q2_HEADER_LEN, (size_t)(p - h), err);
	if (!ret)
		ret = parse_data_file(l, err);
	if (ret || !backing_len)
		return ret;
	q2_header_set_backing(h, (uint64_t)(p - h), (uint32_t)backing_len);
	memcpy(p, opts->backing_file, backing_len);
	l->backing_file = strdup(opts->backing_file);
	l->backing_format = strdup(opts->backing_format);
	if (!l->backing_file || !l->backing_format)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	return 0;
}

/* bring the fields that change into a header that was read or built */
void q2_header_update(uint8_t *h, const struct q2_layer *l)
{
	put32(h + H_L1_ENTRIES, l->l1_entries);
	put64(h + H_L1_OFF, l->l1_off);
	put64(h + H_REFT_OFF, l->reft_off);
	put32(h + H_REFT_CLUSTERS, l->reft_clusters);
	put64(h + H_AUTOCLEAR, l->autoclear);
}
