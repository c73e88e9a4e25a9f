// SPDX-License-Identifier: GPL-2.0-or-later
/* the container as a qcow2 image: reading it, and what is free in it */
#include <inttypes.h>

#include "cbw.h"
#include "image.h"
#include "image-int.h"

uint64_t bitmap_clusters(uint64_t size, uint32_t bits)
{
	uint64_t bytes = bits_bytes(size, 1ull << bits);

	return bytes / CLUSTER + (bytes % CLUSTER != 0);
}

static uint64_t file_clusters(const struct cfile *f)
{
	/* what is behind the end of a device cannot be written */
	return f->size / CLUSTER + (!f->block && f->size % CLUSTER);
}

static bool within(const struct image *img, uint64_t offset, uint64_t length)
{
	return offset <= img->clusters * CLUSTER && length <= img->clusters * CLUSTER - offset;
}

void image_mark(struct image *img, uint64_t offset, uint64_t length, bool used)
{
	uint64_t i, end;

	if (!length || offset >= img->clusters * CLUSTER)
		return;
	end = (offset + length - 1) / CLUSTER;
	for (i = offset / CLUSTER; i <= end && i < img->clusters; i++)
		img->used[i] = used;
}

/* What exactly two things may not share. */
static int claim(struct image *img, uint64_t offset, uint64_t length, const char *what,
		 struct cbw_error *err)
{
	uint64_t i;

	if (offset % CLUSTER || !offset || !within(img, offset, length))
		return fail_with(err, EUCLEAN,
				 "%s: %s: %" PRIu64 " bytes at %" PRIu64 " are not within the file",
				 esc(img->f->path), what, length, offset);
	for (i = offset / CLUSTER; i * CLUSTER < offset + length; i++)
		if (img->used[i])
			return fail_with(err, EUCLEAN,
					 "%s: %s: the cluster at %" PRIu64 " is used twice",
					 esc(img->f->path), what, i * CLUSTER);
	image_mark(img, offset, length, true);
	return 0;
}

/* ---- header ------------------------------------------------------------ */

static int foreign(const struct image *img, struct cbw_error *err, const char *why)
{
	return fail_with(err, ENODATA, "%s: it is no container: %s", esc(img->f->path), why);
}

/* The extensions; what makes no sense ends the list: a header may be half written. */
static void find_ext(const unsigned char *h, uint32_t want, uint64_t *offset, uint32_t *len)
{
	uint64_t at = get32(h + Q_LENGTH), end = CLUSTER, backing = get64(h + Q_BACKING_OFF);

	*offset = 0;
	*len = 0;
	if (backing && backing < end)
		end = backing;
	while (at + 8 <= end) {
		uint32_t type = get32(h + at), size = get32(h + at + 4);

		if (type == Q_EXT_END || size > end - at - 8)
			return;
		if (type == want) {
			*offset = at + 8;
			*len = size;
			return;
		}
		at += 8 + (((uint64_t)size + 7) & ~7ull);
	}
}

static int load_refcounts(struct image *img, struct cbw_error *err)
{
	uint64_t off = get64(img->head + Q_REFT_OFF), i, k;
	uint64_t nr = get32(img->head + Q_REFT_CLUSTERS);
	unsigned char *table;
	int ret;

	if (!nr || nr > 128)
		return fail_with(err, EUCLEAN, "%s: a refcount table of %" PRIu64 " clusters",
				 esc(img->f->path), nr);
	ret = claim(img, off, nr * CLUSTER, "refcount table", err);
	if (ret)
		return ret;
	table = cfile_buffer(CLUSTER);
	for (i = 0; i < nr && !ret; i++) {
		ret = cfile_read(img->f, table, CLUSTER, off + i * CLUSTER, err);
		for (k = 0; k < CLUSTER / 8 && !ret; k++)
			if (get64(table + k * 8))
				ret = claim(img, get64(table + k * 8), CLUSTER, "refcount block",
					    err);
	}
	free(table);
	return ret;
}

/* The L1 table has to be empty: a container is nobody's overlay. */
static int load_l1(struct image *img, struct cbw_error *err)
{
	uint64_t entries = get32(img->head + Q_L1_ENTRIES), bytes = entries * 8, at;
	unsigned char *buf;
	size_t i;
	int ret;

	img->l1_offset = get64(img->head + Q_L1_OFF);
	if (bytes > 32u << 20 || entries < (img->size + (1ull << 29) - 1) >> 29)
		return fail_with(err, EUCLEAN, "%s: an L1 table of %" PRIu64 " entries",
				 esc(img->f->path), entries);
	ret = claim(img, img->l1_offset, bytes, "L1 table", err);
	if (ret)
		return ret;
	buf = cfile_buffer(CLUSTER);
	for (at = 0; at < bytes && !ret; at += CLUSTER) {
		size_t len = bytes - at < CLUSTER ? (size_t)(bytes - at) : CLUSTER;

		ret = cfile_read(img->f, buf, CLUSTER, img->l1_offset + at, err);
		for (i = 0; i < len && !ret; i++)
			if (buf[i])
				ret = foreign(img, err,
					      "it holds data of its own: somebody has written to it as to a disk image");
	}
	free(buf);
	return ret;
}

static int load_header(struct image *img, struct cbw_error *err)
{
	unsigned char *h = img->head;
	uint64_t backing;
	uint32_t len;

	if (get32(h) != Q_MAGIC)
		return foreign(img, err, "there is no qcow2 header");
	if (get32(h + Q_VERSION) != 3 || get32(h + Q_CLUSTER_BITS) != CLUSTER_BITS)
		return foreign(img, err, "it is a qcow2 image of another kind");
	if (get32(h + Q_LENGTH) < 104 || get32(h + Q_LENGTH) > CLUSTER || get32(h + Q_LENGTH) % 8)
		return fail_with(err, EUCLEAN, "%s: a header of %u bytes", esc(img->f->path),
				 get32(h + Q_LENGTH));
	if (get64(h + Q_INCOMPAT) || get32(h + Q_CRYPT) || get32(h + Q_SNAPSHOTS))
		return foreign(img, err,
			       "it has snapshots, encryption, or features that a container has not");
	img->size = get64(h + Q_SIZE);
	if (!img->size || img->size > INT64_MAX)
		return fail_with(err, EUCLEAN, "%s: the volume has %" PRIu64 " bytes",
				 esc(img->f->path), img->size);
	backing = get64(h + Q_BACKING_OFF);
	len = get32(h + Q_BACKING_LEN);
	img->backing_offset = backing;
	if (backing && (backing > CLUSTER || len > Q_NAME_MAX || len > CLUSTER - backing ||
			memchr(h + backing, '\0', len)))
		return fail_with(err, EUCLEAN, "%s: its backing file's name makes no sense",
				 esc(img->f->path));
	img->backing = backing ? strndup((const char *)h + backing, len) : xstrdup("");
	find_ext(h, IMAGE_EXT, &img->slots, &len);
	if (len != STATE_BYTES)
		img->slots = 0;
	return 0;
}

/* ---- directory --------------------------------------------------------- */

static int load_table(struct image *img, struct entry *e, struct cbw_error *err)
{
	uint64_t at, i, bytes = e->clusters * 8;
	unsigned char *buf = cfile_buffer(CLUSTER);
	int ret = claim(img, e->table_offset, bytes, "table of a bitmap", err);

	e->table = xcalloc(e->clusters, 8);
	for (at = 0; at < bytes && !ret; at += CLUSTER) {
		uint64_t n = bytes - at < CLUSTER ? (bytes - at) / 8 : CLUSTER / 8;

		ret = cfile_read(img->f, buf, CLUSTER, e->table_offset + at, err);
		for (i = 0; i < n && !ret; i++) {
			uint64_t v = get64(buf + i * 8);

			e->table[at / 8 + i] = v;
			if (v & ~(Q_OFFSET_MASK | 1) || (v > 1 && v & 1))
				ret = fail_with(err, EUCLEAN,
						"%s: bitmap '%s': its table has 0x%" PRIx64,
						esc(img->f->path), esc(e->name), v);
			else if (v > 1)
				ret = claim(img, v, CLUSTER, "bitmap", err);
		}
	}
	free(buf);
	return ret;
}

static int load_entry(struct image *img, const unsigned char *p, size_t left, size_t *size,
		      struct cbw_error *err)
{
	struct entry *e = &img->entry[img->nr];
	size_t name, extra;
	uint64_t table;

	if (left < Q_DIR_ENTRY)
		goto bad;
	name = get16(p + 18);
	extra = get32(p + 20);
	table = get32(p + 8);
	e->flags = get32(p + 12);
	e->bits = p[17];
	e->table_offset = get64(p);
	if (!name || name > Q_NAME_MAX || extra || p[16] != 1 || e->bits < Q_BITS_MIN ||
	    e->bits > Q_BITS_MAX || e->flags & ~(ENTRY_IN_USE | ENTRY_AUTO) ||
	    left - Q_DIR_ENTRY < name || memchr(p + Q_DIR_ENTRY, '\0', name))
		goto bad;
	memcpy(e->name, p + Q_DIR_ENTRY, name);
	e->clusters = bitmap_clusters(img->size, e->bits);
	if (e->clusters != table || e->clusters * CLUSTER > Q_BITMAP_BYTES_MAX ||
	    image_find(img, e->name))
		goto bad;
	img->nr++;
	*size = (Q_DIR_ENTRY + name + 7) & ~(size_t)7;
	return load_table(img, e, err);
bad:
	return fail_with(err, EUCLEAN, "%s: entry %zu of the directory of bitmaps makes no sense",
			 esc(img->f->path), img->nr);
}

static int load_directory(struct image *img, struct cbw_error *err)
{
	uint64_t ext, bytes, offset;
	unsigned char *dir;
	uint32_t len, nr, i;
	size_t at = 0, size = 0;
	int ret;

	find_ext(img->head, Q_EXT_BITMAPS, &ext, &len);
	if (!ext)
		return 0;
	if (!(get64(img->head + Q_AUTOCLEAR) & Q_AUTOCLEAR_BITMAPS))
		return fail_with(err, EUCLEAN,
				 "%s: it was changed by a program that does not know bitmaps",
				 esc(img->f->path));
	nr = get32(img->head + ext);
	bytes = get64(img->head + ext + 8);
	offset = get64(img->head + ext + 16);
	if (len != 24 || !nr || nr > Q_BITMAPS_MAX || bytes > Q_DIR_MAX ||
	    bytes < (uint64_t)nr * Q_DIR_ENTRY)
		return fail_with(err, EUCLEAN,
				 "%s: a directory of %u bitmaps in %" PRIu64 " bytes",
				 esc(img->f->path), nr, bytes);
	ret = claim(img, offset, bytes, "directory of bitmaps", err);
	if (ret)
		return ret;
	dir = cfile_buffer(bytes);
	img->entry = xcalloc(nr, sizeof(*img->entry));
	ret = cfile_read(img->f, dir, (bytes + CFILE_ALIGN - 1) / CFILE_ALIGN * CFILE_ALIGN, offset,
			 err);
	for (i = 0; i < nr && !ret; i++) {
		ret = load_entry(img, dir + at, bytes - at, &size, err);
		at += size;
		if (at > bytes)
			at = bytes;
	}
	free(dir);
	return ret;
}

int image_load(struct cfile *f, struct image *img, struct cbw_error *err)
{
	struct image i = { .f = f, .head = cfile_buffer(CLUSTER) };
	int ret = cfile_read(f, i.head, CLUSTER, 0, err);

	i.clusters = file_clusters(f);
	if (!ret && i.clusters > 1u << 30)
		ret = fail_with(err, EFBIG, "%s: the container is too large", esc(f->path));
	i.used = xcalloc(i.clusters + 1, 1);
	i.used[0] = 1;
	if (!ret)
		ret = load_header(&i, err);
	if (!ret)
		ret = load_l1(&i, err);
	if (!ret)
		ret = load_refcounts(&i, err);
	if (!ret)
		ret = load_directory(&i, err);
	if (ret)
		image_free(&i);
	else
		*img = i;
	return ret;
}

void entries_free(struct entry *list, size_t nr)
{
	size_t i;

	for (i = 0; i < nr; i++)
		free(list[i].table);
	free(list);
}

void image_free(struct image *img)
{
	entries_free(img->entry, img->nr);
	free(img->backing);
	free(img->head);
	free(img->used);
	memset(img, 0, sizeof(*img));
}

/* ---- what is in it ----------------------------------------------------- */

bool image_in_use(const struct image *img)
{
	size_t i;

	for (i = 0; i < img->nr; i++)
		if (img->entry[i].flags & ENTRY_IN_USE)
			return true;
	return false;
}

struct entry *image_find(const struct image *img, const char *name)
{
	size_t i;

	for (i = 0; i < img->nr; i++)
		if (!strcmp(img->entry[i].name, name))
			return &img->entry[i];
	return NULL;
}

uint64_t entry_place(const struct entry *e)
{
	uint64_t i;

	if (!e->clusters || e->table[0] < CLUSTER)
		return 0;
	for (i = 1; i < e->clusters; i++)
		if (e->table[i] != e->table[0] + i * CLUSTER)
			return 0;
	return e->table[0];
}

uint64_t image_free_run(const struct image *img, uint64_t *offset)
{
	uint64_t i, start = 0, best = 0;

	for (i = 1; i <= img->clusters; i++) {
		if (i < img->clusters && !img->used[i])
			continue;
		if (i - start - 1 > best) {
			best = i - start - 1;
			*offset = (start + 1) * CLUSTER;
		}
		start = i;
	}
	return best;
}

static int more_clusters(struct image *img, uint64_t clusters, struct cbw_error *err)
{
	int ret = cfile_grow(img->f, clusters * CLUSTER, err);

	if (ret)
		return ret;
	img->used = realloc(img->used, clusters + 1);
	if (!img->used)
		return fail_with(err, ENOMEM, "out of memory");
	memset(img->used + img->clusters, 0, clusters + 1 - img->clusters);
	img->clusters = clusters;
	return 0;
}

int image_take(struct image *img, uint64_t want, uint64_t *offset, struct cbw_error *err)
{
	uint64_t i, run = 0;
	int ret;

	for (i = 1; i < img->clusters && run < want; i++)
		run = img->used[i] ? 0 : run + 1;
	if (run < want) {
		ret = more_clusters(img, img->clusters + want - run, err);
		if (ret)
			return ret;
		i = img->clusters;
	}
	*offset = (i - want) * CLUSTER;
	image_mark(img, *offset, want * CLUSTER, true);
	return 0;
}

void entries_add(struct entry **list, size_t *nr, const char *name, uint32_t flags,
		 uint32_t bits, uint64_t clusters, uint64_t offset)
{
	struct entry *more = reallocarray(*list, *nr + 1, sizeof(*more)), *e;
	uint64_t i;

	if (!more) {
		fputs("cbw: out of memory\n", stderr);
		exit(EXIT_FAILED);
	}
	*list = more;
	e = &more[(*nr)++];
	memset(e, 0, sizeof(*e));
	snprintf(e->name, sizeof(e->name), "%s", name);
	e->flags = flags;
	e->bits = bits;
	e->clusters = clusters;
	e->table = xcalloc(clusters, 8);
	for (i = 0; i < clusters; i++)
		e->table[i] = offset + i * CLUSTER;
}
