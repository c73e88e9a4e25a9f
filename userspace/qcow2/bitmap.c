// SPDX-License-Identifier: LGPL-2.1-or-later
/* Bitmaps: the directory, the tables, the bits; without trust */
#include <stdio.h>

#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

#define TABLE_CHUNK	512u

/* byte offsets in an entry of the directory */
enum {
	D_TABLE_OFF = 0, D_TABLE_ENTRIES = 8, D_FLAGS = 12, D_TYPE = 16,
	D_GRANULARITY = 17, D_NAME_LEN = 18, D_EXTRA_LEN = 20,
};

static uint32_t get16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

void q2_bitmaps_forget(struct q2_layer *l)
{
	struct q2_bitmaps *bm = l->bitmaps;

	l->bitmaps = NULL;
	if (!bm)
		return;
	free(bm->b);
	free(bm->by_name);
	free(bm->dir);
	free(bm);
}

static uint64_t granules(const struct q2_layer *l, unsigned int bits)
{
	return q2_div_up(l->size, bits);
}

/* what a table of a bitmap of the image's size has */
uint64_t q2_bitmap_entries(const struct q2_layer *l, unsigned int granularity_bits)
{
	return q2_div_up(q2_div_up(granules(l, granularity_bits), 3), l->cluster_bits);
}

/* 0, or the error for a bitmap whose table is not of the image's size */
int q2_bitmap_fits(struct q2_layer *l, const struct qcow2_bitmap *b, struct qcow2_error *err)
{
	uint64_t need = q2_bitmap_entries(l, b->granularity_bits);

	if (b->table_entries == need)
		return 0;
	return q2_err(err, EUCLEAN,
		      "%s: bitmap '%s': bitmap_table_size %u is not %llu, what size %llu with granularity_bits %u needs",
		      l->name, q2_label(b->name).s, b->table_entries, ull(need), ull(l->size), b->granularity_bits);
}

#define bad(code, fmt, ...)	\
	q2_err(err, code, "%s: bitmap directory: entry %u: " fmt, l->name, nr, ##__VA_ARGS__)

static int check_entry(struct q2_layer *l, unsigned int nr, const struct qcow2_bitmap *b,
		       struct qcow2_error *err)
{
	uint64_t bytes = (uint64_t)b->table_entries << l->cluster_bits;
	const char *what;

	if (b->granularity_bits < Q2_BM_MIN_BITS || b->granularity_bits > Q2_BM_MAX_BITS)
		return bad(EUCLEAN, "granularity_bits %u is not within %u to %u", b->granularity_bits, Q2_BM_MIN_BITS,
			   Q2_BM_MAX_BITS);
	if (!b->table_entries || bytes > Q2_BM_MAX_BYTES)
		return bad(EUCLEAN, "bitmap_table_size %u is 0, or stands for more than %u bytes", b->table_entries,
			   Q2_BM_MAX_BYTES);
	if (!b->table_offset || !q2_aligned(l, b->table_offset))
		return bad(EUCLEAN, "bitmap_table_offset %llu is not a multiple of the cluster size %u, or 0",
			   ull(b->table_offset), l->cluster_size);
	if (!q2_within(b->table_offset, (uint64_t)b->table_entries * 8, l->file_size))
		return bad(EUCLEAN, "bitmap_table_offset %llu: a table of %u entries reaches past the end of the file at %llu",
			   ull(b->table_offset), b->table_entries, ull(l->file_size));
	if (q2_overlaps_meta(l, b->table_offset, (uint64_t)b->table_entries * 8, &what))
		return bad(EUCLEAN, "bitmap_table_offset %llu: the table overlaps the %s", ull(b->table_offset), what);
	if (b->flags & ~(QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO))
		return bad(EOPNOTSUPP, "flags 0x%x: there are unknown ones", b->flags);
	/* who was cut off while it changed the size may have left another one */
	return b->flags & QCOW2_BITMAP_IN_USE ? 0 : q2_bitmap_fits(l, b, err);
}

/* the entry at @e, of which @left bytes are in the directory; *size: what it takes */
static int parse_entry(struct q2_layer *l, unsigned int nr, uint8_t *e, uint64_t left, struct qcow2_bitmap *b,
		       uint64_t *size, struct qcow2_error *err)
{
	uint32_t name_len, extra;
	uint8_t type;

	if (left < Q2_BM_DIR_ENTRY)
		return bad(EUCLEAN, "%llu bytes are left in the directory, an entry has %u and a name", ull(left),
			   Q2_BM_DIR_ENTRY);
	name_len = get16(e + D_NAME_LEN);
	extra = get32(e + D_EXTRA_LEN);
	type = e[D_TYPE];
	if (extra)
		return bad(EOPNOTSUPP, "extra_data_size %u: extra data is not supported", extra);
	if (!name_len || name_len > QCOW2_MAX_BITMAP_NAME)
		return bad(EUCLEAN, "name_size %u is not within 1 to %u", name_len, QCOW2_MAX_BITMAP_NAME);
	*size = (Q2_BM_DIR_ENTRY + name_len + 7) & ~7u;
	if (*size > left)
		return bad(EUCLEAN, "name_size %u: %llu bytes are left in the directory, not %llu", name_len, ull(left),
			   ull(*size));
	if (type != 1)
		return bad(EOPNOTSUPP, "type %u is not 1 (dirty tracking)", type);
	if (memchr(e + Q2_BM_DIR_ENTRY, 0, name_len))
		return bad(EUCLEAN, "the name contains a NUL byte");
	*b = (struct qcow2_bitmap) {
		.name = (char *)e + Q2_BM_DIR_ENTRY - 1,
		.name_len = (uint16_t)name_len,
		.flags = get32(e + D_FLAGS),
		.granularity_bits = e[D_GRANULARITY],
		.table_entries = get32(e + D_TABLE_ENTRIES),
		.table_offset = get64(e + D_TABLE_OFF),
	};
	/* one byte down, for the NUL behind it: the fields before it are taken */
	memmove(e + Q2_BM_DIR_ENTRY - 1, e + Q2_BM_DIR_ENTRY, name_len);
	e[Q2_BM_DIR_ENTRY - 1 + name_len] = '\0';
	if (b->granularity_bits >= Q2_BM_MIN_BITS && b->granularity_bits <= Q2_BM_MAX_BITS) {
		b->granules = granules(l, b->granularity_bits);
		b->bytes = q2_div_up(b->granules, 3);
	}
	return check_entry(l, nr, b, err);
}

static int compare_names(const void *a, const void *b, void *arg)
{
	const struct q2_bitmaps *bm = arg;

	return strcmp(bm->b[*(const uint32_t *)a].name, bm->b[*(const uint32_t *)b].name);
}

static int parse_dir(struct q2_layer *l, struct q2_bitmaps *bm, struct qcow2_error *err)
{
	uint64_t at = 0, size = 0;
	unsigned int nr;

	for (nr = 0; nr < bm->nr; nr++, at += size) {
		int ret = parse_entry(l, nr, bm->dir + at, bm->dir_len - at, &bm->b[nr], &size, err);

		if (ret)
			return ret;
		bm->by_name[nr] = nr;
	}
	if (at != bm->dir_len)
		return q2_err(err, EUCLEAN, "%s: bitmaps extension: bitmap_directory_size %llu: nb_bitmaps %u entries have %llu bytes",
			      l->name, ull(bm->dir_len), bm->nr, ull(at));
	qsort_r(bm->by_name, bm->nr, sizeof(*bm->by_name), compare_names, bm);
	for (nr = 1; nr < bm->nr; nr++)
		if (!compare_names(&bm->by_name[nr - 1], &bm->by_name[nr], bm))
			return q2_err(err, EUCLEAN, "%s: bitmap directory: entry %u: the name '%s' is there twice",
				      l->name, bm->by_name[nr], q2_label(bm->b[bm->by_name[nr]].name).s);
	return 0;
}

static int load_dir(struct q2_layer *l, const struct qcow2_header_ext *ext, struct q2_bitmaps *bm,
		    struct qcow2_error *err)
{
	const uint8_t *p = ext->data;
	const char *what;
	int ret;

	if (ext->len != Q2_BITMAPS_EXT_LEN)
		return q2_err(err, EUCLEAN, "%s: bitmaps extension: length %u is not %u", l->name, ext->len,
			      Q2_BITMAPS_EXT_LEN);
	bm->nr = get32(p);
	bm->dir_len = get64(p + 8);
	bm->dir_off = get64(p + 16);
	if (!bm->nr || bm->nr > QCOW2_MAX_BITMAPS)
		return q2_err(err, EUCLEAN, "%s: bitmaps extension: nb_bitmaps %u is not within 1 to %u", l->name,
			      bm->nr, QCOW2_MAX_BITMAPS);
	if (get32(p + 4))
		return q2_err(err, EUCLEAN, "%s: bitmaps extension: the reserved field is 0x%x, not 0", l->name,
			      get32(p + 4));
	if (bm->dir_len > Q2_BM_MAX_DIR || bm->dir_len < (uint64_t)bm->nr * (Q2_BM_DIR_ENTRY + 8))
		return q2_err(err, EUCLEAN, "%s: bitmaps extension: bitmap_directory_size %llu is over %llu, or too small for nb_bitmaps %u",
			      l->name, ull(bm->dir_len), Q2_BM_MAX_DIR, bm->nr);
	if (!bm->dir_off || !q2_aligned(l, bm->dir_off))
		return q2_err(err, EUCLEAN, "%s: bitmaps extension: bitmap_directory_offset %llu is not a multiple of the cluster size %u, or 0",
			      l->name, ull(bm->dir_off), l->cluster_size);
	if (!q2_within(bm->dir_off, bm->dir_len, l->file_size))
		return q2_err(err, EUCLEAN, "%s: bitmaps extension: bitmap_directory_offset %llu: %llu bytes reach past the end of the file at %llu",
			      l->name, ull(bm->dir_off), ull(bm->dir_len), ull(l->file_size));
	if (q2_overlaps_meta(l, bm->dir_off, bm->dir_len, &what))
		return q2_err(err, EUCLEAN, "%s: bitmaps extension: bitmap_directory_offset %llu: the directory overlaps the %s",
			      l->name, ull(bm->dir_off), what);
	bm->dir = malloc(bm->dir_len);
	bm->b = calloc(bm->nr, sizeof(*bm->b));
	bm->by_name = calloc(bm->nr, sizeof(*bm->by_name));
	if (!bm->dir || !bm->b || !bm->by_name)
		return q2_err(err, ENOMEM, "%s: out of memory for a bitmap directory of %llu bytes", l->name,
			      ull(bm->dir_len));
	ret = q2_pread(l, bm->dir, bm->dir_len, bm->dir_off, "the bitmap directory", err);
	return ret ? ret : parse_dir(l, bm, err);
}

/* the directory, read once; a bad one is an error each time */
int q2_bitmaps_load(struct q2_layer *l, struct q2_bitmaps **out, struct qcow2_error *err)
{
	const struct qcow2_header_ext *ext = NULL;
	int ret = 0;

	if (l->format != QCOW2_FORMAT_QCOW2)
		return q2_err(err, EINVAL, "%s: is raw: it has no bitmaps", l->name);
	if (!l->bitmaps) {
		l->bitmaps = calloc(1, sizeof(*l->bitmaps));
		if (!l->bitmaps)
			return q2_err(err, ENOMEM, "%s: out of memory", l->name);
		if (l->autoclear & Q2_AUTOCLEAR_BITMAPS)
			ext = q2_ext_find(l, QCOW2_EXT_BITMAPS);
		if (ext)
			ret = load_dir(l, ext, l->bitmaps, err);
		if (ret) {
			q2_bitmaps_forget(l);
			return ret;
		}
	}
	*out = l->bitmaps;
	return 0;
}

#undef bad
#define bad(fmt, ...)	\
	q2_err(err, EUCLEAN, "%s: bitmap '%s': table entry %llu " fmt, l->name, q2_label(b->name).s, ull(idx), ##__VA_ARGS__)

/* may entry @idx be used? */
int q2_bitmap_entry_ok(struct q2_layer *l, const struct qcow2_bitmap *b, uint64_t idx, uint64_t entry,
		       struct qcow2_error *err)
{
	uint64_t off = entry & Q2_OFFSET_MASK;
	const char *what;

	if (entry & Q2_BM_RESERVED)
		return bad("is 0x%llx: reserved bits are set", ull(entry));
	if (!off)
		return 0;
	if (entry & Q2_BM_ONES)
		return bad("is 0x%llx: bit 0 is set, and there is an offset", ull(entry));
	if (!q2_aligned(l, off))
		return bad("is 0x%llx: the offset is not a multiple of the cluster size %u", ull(entry), l->cluster_size);
	if (!q2_within(off, l->cluster_size, l->file_size))
		return bad("is 0x%llx: the cluster reaches past the end of the file at %llu", ull(entry), ull(l->file_size));
	if (q2_overlaps_meta(l, off, l->cluster_size, &what))
		return bad("is 0x%llx: the cluster overlaps the %s", ull(entry), what);
	return 0;
}

/* entries of the table, in host order, not checked */
int q2_bitmap_table(struct q2_layer *l, const struct qcow2_bitmap *b, uint64_t first, uint64_t n,
		    uint64_t *entries, struct qcow2_error *err)
{
	uint64_t i;
	int ret;

	ret = q2_pread(l, entries, n * 8, b->table_offset + first * 8, "a bitmap table", err);
	if (ret)
		return ret;
	for (i = 0; i < n; i++)
		entries[i] = be64toh(entries[i]);
	return 0;
}

/* for the calls: the bitmap numbered @i, to be read */
static int get(struct q2_layer *l, unsigned int i, const struct qcow2_bitmap **b, struct qcow2_error *err)
{
	struct q2_bitmaps *bm;
	int ret = q2_bitmaps_load(l, &bm, err);

	if (ret)
		return ret;
	if (i >= bm->nr)
		return q2_err(err, EINVAL, "%s: bitmap %u of %u", l->name, i, bm->nr);
	*b = &bm->b[i];
	return q2_bitmap_fits(l, *b, err);
}

int qcow2_bitmap_count(struct qcow2_image *img, unsigned int *nr, struct qcow2_error *err)
{
	struct q2_bitmaps *bm;
	int ret;

	pthread_mutex_lock(&img->lock);
	ret = q2_bitmaps_load(img->layers[0], &bm, err);
	if (!ret)
		*nr = bm->nr;
	pthread_mutex_unlock(&img->lock);
	return ret;
}

int qcow2_get_bitmap(struct qcow2_image *img, unsigned int i, struct qcow2_bitmap *b)
{
	struct q2_bitmaps *bm;
	int ret;

	pthread_mutex_lock(&img->lock);
	ret = q2_bitmaps_load(img->layers[0], &bm, NULL);
	if (!ret && i >= bm->nr)
		ret = -EINVAL;
	if (!ret)
		*b = bm->b[i];
	pthread_mutex_unlock(&img->lock);
	return ret;
}

int qcow2_find_bitmap(struct qcow2_image *img, const char *name, size_t len, unsigned int *i)
{
	struct q2_bitmaps *bm;
	uint32_t lo = 0, hi;
	int ret;

	pthread_mutex_lock(&img->lock);
	ret = q2_bitmaps_load(img->layers[0], &bm, NULL);
	if (ret)
		goto out;
	ret = -ENOENT;
	if (memchr(name, 0, len))
		goto out;
	for (hi = bm->nr; lo < hi;) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct qcow2_bitmap *b = &bm->b[bm->by_name[mid]];
		int c = strncmp(name, b->name, len);

		if (!c && len == b->name_len) {
			*i = bm->by_name[mid];
			ret = 0;
			break;
		}
		/* equal so far: the shorter comes first */
		if (c > 0)
			lo = mid + 1;
		else
			hi = mid;
	}
out:
	pthread_mutex_unlock(&img->lock);
	return ret;
}

static int read_bits(struct q2_layer *l, const struct qcow2_bitmap *b, uint64_t off, uint8_t *buf, uint64_t len,
		     struct qcow2_error *err)
{
	uint64_t entries[TABLE_CHUNK], have = 0, first = 0;

	while (len) {
		uint64_t idx = off >> l->cluster_bits, in = off & (l->cluster_size - 1), entry;
		uint64_t n = q2_min(len, l->cluster_size - in);
		int ret = 0;

		if (!have || idx >= first + have) {
			first = idx;
			have = q2_min(q2_div_up(in + len, l->cluster_bits), TABLE_CHUNK);
			ret = q2_bitmap_table(l, b, first, have, entries, err);
			if (ret)
				return ret;
		}
		entry = entries[idx - first];
		ret = q2_bitmap_entry_ok(l, b, idx, entry, err);
		if (!ret && entry & Q2_OFFSET_MASK)
			ret = q2_pread(l, buf, n, (entry & Q2_OFFSET_MASK) + in, "bits of a bitmap", err);
		else if (!ret)
			memset(buf, entry & Q2_BM_ONES ? 0xff : 0, n);
		if (ret)
			return ret;
		buf += n;
		off += n;
		len -= n;
	}
	return 0;
}

int qcow2_bitmap_read(struct qcow2_image *img, unsigned int i, uint64_t off, void *buf, size_t len,
		      struct qcow2_error *err)
{
	struct q2_layer *l = img->layers[0];
	const struct qcow2_bitmap *b;
	int ret;

	pthread_mutex_lock(&img->lock);
	ret = get(l, i, &b, err);
	if (!ret && !q2_within(off, len, b->bytes))
		ret = q2_err(err, EINVAL, "%s: bitmap '%s': the range of %zu bytes at %llu is not within its %llu",
			     l->name, q2_label(b->name).s, len, ull(off), ull(b->bytes));
	if (!ret)
		ret = read_bits(l, b, off, buf, len, err);
	if (!ret && len && off + len == b->bytes && b->granules & 7)
		((uint8_t *)buf)[len - 1] &= (uint8_t)((1u << (b->granules & 7)) - 1);
	pthread_mutex_unlock(&img->lock);
	return ret;
}

int qcow2_bitmap_place(struct qcow2_image *img, unsigned int i, uint64_t *host_offset, struct qcow2_error *err)
{
	uint64_t entries[TABLE_CHUNK], idx, k, n, place = 0;
	struct q2_layer *l = img->layers[0];
	const struct qcow2_bitmap *b;
	int ret;

	pthread_mutex_lock(&img->lock);
	ret = get(l, i, &b, err);
	for (idx = 0; !ret && idx < b->table_entries; idx += n) {
		n = q2_min(b->table_entries - idx, TABLE_CHUNK);
		ret = q2_bitmap_table(l, b, idx, n, entries, err);
		for (k = 0; !ret && k < n; k++) {
			uint64_t at = entries[k] & Q2_OFFSET_MASK;

			ret = q2_bitmap_entry_ok(l, b, idx + k, entries[k], err);
			if (!ret && !(idx + k))
				place = at;
			if (!ret && (!at || at != place + ((idx + k) << l->cluster_bits)))
				ret = q2_err(err, ENODATA, "%s: bitmap '%s': its data is not in one piece: table entry %llu is 0x%llx",
					     l->name, q2_label(b->name).s, ull(idx + k), ull(entries[k]));
		}
	}
	if (!ret)
		*host_offset = place;
	pthread_mutex_unlock(&img->lock);
	return ret;
}
