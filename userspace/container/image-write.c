// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * the container as a qcow2 image: writing it
 *
 * The first cluster of an image of ours:
 *	0	header, extensions: bitmaps, backing format, filler
 *	4088	head of the extension that is the state
 *	4096	two slots; the kernel writes there while a volume is attached
 *	61440	end of the extensions; the backing file's name at one of two places
 * All that ever changes at once is in the first 512 bytes, which are written at once.
 */
#include <inttypes.h>

#include "cbw.h"
#include "image.h"
#include "image-int.h"

#define TAIL		(IMAGE_SLOTS + STATE_BYTES)
#define NAME_A		(TAIL + 512)
#define NAME_B		(TAIL + 2048)
#define REF_BITS	15u	/* log2 of the refcounts in a block */

struct commit {
	struct image *img;
	struct entry *list;
	size_t nr;
	uint64_t dir, dir_bytes;
	uint64_t reft;
	uint64_t *block, nr_blocks;
	struct cbw_error *err;
};

/* ---- metadata behind the header ---------------------------------------- */

static int write_tables(struct commit *c)
{
	uint64_t i, k;
	int ret = 0;

	for (i = 0; i < c->nr && !ret; i++) {
		struct entry *e = &c->list[i];
		uint64_t clusters = (e->clusters * 8 + CLUSTER - 1) / CLUSTER;
		unsigned char *buf;

		ret = image_take(c->img, clusters, &e->table_offset, c->err);
		if (ret)
			return ret;
		buf = cfile_buffer(clusters * CLUSTER);
		for (k = 0; k < e->clusters; k++)
			put64(buf + k * 8, e->table[k]);
		ret = cfile_write(c->img->f, buf, clusters * CLUSTER, e->table_offset, c->err);
		free(buf);
	}
	return ret;
}

static int write_directory(struct commit *c)
{
	unsigned char *buf, *p;
	uint64_t clusters;
	size_t i;
	int ret;

	c->dir_bytes = 0;
	for (i = 0; i < c->nr; i++)
		c->dir_bytes += (Q_DIR_ENTRY + strlen(c->list[i].name) + 7) & ~7ull;
	if (!c->nr)
		return 0;
	clusters = (c->dir_bytes + CLUSTER - 1) / CLUSTER;
	ret = image_take(c->img, clusters, &c->dir, c->err);
	if (ret)
		return ret;
	p = buf = cfile_buffer(clusters * CLUSTER);
	for (i = 0; i < c->nr; i++) {
		const struct entry *e = &c->list[i];
		size_t len = strlen(e->name);

		put64(p, e->table_offset);
		put32(p + 8, (uint32_t)e->clusters);
		put32(p + 12, e->flags);
		p[16] = 1;
		p[17] = (unsigned char)e->bits;
		put16(p + 18, (uint16_t)len);
		memcpy(p + Q_DIR_ENTRY, e->name, len);
		p += (Q_DIR_ENTRY + len + 7) & ~(size_t)7;
	}
	ret = cfile_write(c->img->f, buf, clusters * CLUSTER, c->dir, c->err);
	free(buf);
	return ret;
}

/* Which clusters the new image uses, and no other. */
static unsigned char *new_use(const struct commit *c)
{
	struct image n = {
		.clusters = c->img->clusters,
		.used = xcalloc(c->img->clusters + 1, 1),
	};
	uint64_t k;
	size_t i;

	n.used[0] = 1;
	image_mark(&n, c->img->l1_offset, get32(c->img->head + Q_L1_ENTRIES) * 8ull, true);
	image_mark(&n, c->dir, c->dir_bytes, true);
	image_mark(&n, c->reft, CLUSTER, true);
	for (k = 0; k < c->nr_blocks; k++)
		image_mark(&n, c->block[k], CLUSTER, true);
	for (i = 0; i < c->nr; i++) {
		const struct entry *e = &c->list[i];

		image_mark(&n, e->table_offset, e->clusters * 8, true);
		for (k = 0; k < e->clusters; k++)
			if (e->table[k] > 1)
				image_mark(&n, e->table[k], CLUSTER, true);
	}
	return n.used;
}

static int write_refcounts(struct commit *c)
{
	struct image *img = c->img;
	uint64_t i, k, per = 1u << REF_BITS;
	unsigned char *buf, *used;
	int ret;

	/* one cluster of table is enough for 16 TiB of container */
	ret = image_take(img, 1, &c->reft, c->err);
	/* a block may make the file longer, and so need another block */
	for (k = 0; !ret && k * per < img->clusters; k++) {
		uint64_t *more = reallocarray(c->block, k + 1, 8);

		if (!more || k == CLUSTER / 8)
			return fail_with(c->err, more ? EFBIG : ENOMEM,
					 "%s: the container is too large", esc(img->f->path));
		c->block = more;
		ret = image_take(img, 1, &c->block[k], c->err);
		c->nr_blocks = k + 1;
	}
	if (ret)
		return ret;
	used = new_use(c);
	buf = cfile_buffer(CLUSTER);
	for (k = 0; k < c->nr_blocks && !ret; k++) {
		memset(buf, 0, CLUSTER);
		for (i = 0; i < per && k * per + i < img->clusters; i++)
			put16(buf + i * 2, used[k * per + i]);
		ret = cfile_write(img->f, buf, CLUSTER, c->block[k], c->err);
	}
	memset(buf, 0, CLUSTER);
	for (k = 0; k < c->nr_blocks; k++)
		put64(buf + k * 8, c->block[k]);
	if (!ret)
		ret = cfile_write(img->f, buf, CLUSTER, c->reft, c->err);
	free(buf);
	free(used);
	return ret;
}

/* ---- header ------------------------------------------------------------ */

static unsigned char *put_ext(unsigned char *p, uint32_t type, uint32_t len)
{
	put32(p, type);
	put32(p + 4, len);
	return p + 8;
}

/* The first 4096 bytes, without the state. */
static void build_head(struct commit *c, unsigned char *h, uint64_t backing_offset,
		       const char *backing)
{
	const struct image *img = c->img;
	unsigned char *p = h + Q_HEADER;

	memset(h, 0, IMAGE_SLOTS);
	put32(h, Q_MAGIC);
	put32(h + Q_VERSION, 3);
	put64(h + Q_BACKING_OFF, *backing ? backing_offset : 0);
	put32(h + Q_BACKING_LEN, (uint32_t)strlen(backing));
	put32(h + Q_CLUSTER_BITS, CLUSTER_BITS);
	put64(h + Q_SIZE, img->size);
	put32(h + Q_L1_ENTRIES, get32(img->head + Q_L1_ENTRIES));
	put64(h + Q_L1_OFF, img->l1_offset);
	put64(h + Q_REFT_OFF, c->reft);
	put32(h + Q_REFT_CLUSTERS, 1);
	put64(h + Q_AUTOCLEAR, c->nr ? Q_AUTOCLEAR_BITMAPS : 0);
	put32(h + Q_REFCOUNT_ORDER, 4);
	put32(h + Q_LENGTH, Q_HEADER);
	if (c->nr) {
		p = put_ext(p, Q_EXT_BITMAPS, 24);
		put32(p, (uint32_t)c->nr);
		put64(p + 8, c->dir_bytes);
		put64(p + 16, c->dir);
		p += 24;
	}
	if (*backing) {
		p = put_ext(p, Q_EXT_FORMAT, 3);
		memcpy(p, "raw", 3);
		p += 8;
	}
	p = put_ext(p, IMAGE_EXT_FILL, (uint32_t)(h + IMAGE_SLOTS - 8 - (p + 8)));
	put_ext(h + IMAGE_SLOTS - 8, IMAGE_EXT, STATE_BYTES);
}

/* The new name goes where the old one is not. */
static int write_name(struct image *img, const char *backing, uint64_t *offset,
		      struct cbw_error *err)
{
	unsigned char *tail = cfile_buffer(CLUSTER - TAIL);
	uint64_t old = img->backing_offset;
	int ret;

	/* 0 is the end of the extensions */
	if (old >= TAIL)
		memcpy(tail, img->head + TAIL, CLUSTER - TAIL);
	memset(tail, 0, 8);
	*offset = old + Q_NAME_MAX >= NAME_A && old < NAME_B ? NAME_B : NAME_A;
	memcpy(tail + *offset - TAIL, backing, strlen(backing));
	ret = cfile_write(img->f, tail, CLUSTER - TAIL, TAIL, err);
	if (!ret)
		ret = cfile_sync(img->f, err);
	if (!ret)
		memcpy(img->head + TAIL, tail, CLUSTER - TAIL);
	free(tail);
	return ret;
}

static int write_head(struct commit *c, const char *backing)
{
	struct image *img = c->img;
	unsigned char *h = cfile_buffer(IMAGE_SLOTS);
	uint64_t name = img->backing_offset;
	int ret = 0;

	if (strcmp(backing, img->backing) || (name != NAME_A && name != NAME_B))
		ret = write_name(img, backing, &name, c->err);
	if (!ret) {
		build_head(c, h, name, backing);
		ret = cfile_write(img->f, h, IMAGE_SLOTS, 0, c->err);
	}
	if (!ret)
		ret = cfile_sync(img->f, c->err);
	if (!ret) {
		char *copy = xstrdup(backing);

		memcpy(img->head, h, IMAGE_SLOTS);
		img->slots = IMAGE_SLOTS;
		img->backing_offset = name;
		free(img->backing);
		img->backing = copy;
	}
	free(h);
	return ret;
}

/* What was taken for a commit that failed is free again. */
int image_commit(struct image *img, struct entry *list, size_t nr, const char *backing,
		 struct cbw_error *err)
{
	struct commit c = { .img = img, .list = list, .nr = nr, .err = err };
	int ret = 0;

	if (!backing)
		backing = img->backing;
	if (strlen(backing) > Q_NAME_MAX)
		ret = fail_with(err, ENAMETOOLONG, "%s: the path is too long for a container",
				esc(backing));
	if (!ret)
		ret = write_tables(&c);
	if (!ret)
		ret = write_directory(&c);
	if (!ret)
		ret = write_refcounts(&c);
	if (!ret)
		ret = cfile_sync(img->f, err);
	if (!ret)
		ret = write_head(&c, backing);
	if (ret) {
		entries_free(list, nr);
	} else {
		free(img->used);
		img->used = new_use(&c);
		entries_free(img->entry, img->nr);
		img->entry = list;
		img->nr = nr;
	}
	free(c.block);
	return ret;
}

int image_create(struct cfile *f, uint64_t size, struct image *img, struct cbw_error *err)
{
	struct image i = {
		.f = f,
		.size = size,
		.head = cfile_buffer(CLUSTER),
		.backing = xstrdup(""),
		.slots = IMAGE_SLOTS,
	};
	uint64_t entries = (size + (1ull << 29) - 1) >> 29, bytes = entries * 8;
	int ret = 0;

	if (bytes > 32u << 20)
		ret = fail_with(err, EFBIG, "a volume of %s is too large for a container",
				human(size));
	if (!ret)
		ret = cfile_grow(f, f->block ? 0 : 2 * CLUSTER, err);
	i.clusters = f->size / CLUSTER;
	i.used = xcalloc(i.clusters + 1, 1);
	i.used[0] = 1;
	if (!ret)
		ret = image_take(&i, (bytes + CLUSTER - 1) / CLUSTER, &i.l1_offset, err);
	if (!ret)
		ret = cfile_zero(f, i.l1_offset, (bytes + CLUSTER - 1) / CLUSTER * CLUSTER, err);
	if (!ret)
		ret = cfile_zero(f, 0, CLUSTER, err);
	put32(i.head + Q_L1_ENTRIES, (uint32_t)entries);
	if (ret)
		image_free(&i);
	else
		*img = i;
	return ret;
}

int image_resize(struct image *img, uint64_t size, struct cbw_error *err)
{
	uint64_t entries = (size + (1ull << 29) - 1) >> 29;
	uint64_t clusters = (entries * 8 + CLUSTER - 1) / CLUSTER;
	int ret;

	if (entries > get32(img->head + Q_L1_ENTRIES)) {
		if (entries * 8 > 32u << 20)
			return fail_with(err, EFBIG,
					 "a volume of %s is too large for a container", human(size));
		ret = image_take(img, clusters, &img->l1_offset, err);
		if (!ret)
			ret = cfile_zero(img->f, img->l1_offset, clusters * CLUSTER, err);
		if (ret)
			return ret;
		put32(img->head + Q_L1_ENTRIES, (uint32_t)entries);
	}
	img->size = size;
	return 0;
}

/* ---- states ------------------------------------------------------------ */

int image_write_state(struct image *img, struct state *state, struct cbw_error *err)
{
	unsigned char *slot = cfile_buffer(CBW_STATE_SLOT_SIZE);
	uint64_t at;
	int ret;

	state->seq++;
	at = IMAGE_SLOTS + state->seq % STATE_SLOTS * CBW_STATE_SLOT_SIZE;
	ret = state_build(state, slot, err);
	if (!ret)
		ret = cfile_sync(img->f, err);
	if (!ret)
		ret = cfile_write(img->f, slot, CBW_STATE_SLOT_SIZE, at, err);
	if (!ret)
		ret = cfile_sync(img->f, err);
	if (!ret)
		memcpy(img->head + at, slot, CBW_STATE_SLOT_SIZE);
	free(slot);
	return ret;
}

int image_read_state(const struct image *img, struct state *state, struct cbw_error *err)
{
	struct state here, there;
	struct cbw_error why;
	bool have;
	int ret;

	/* in an image that QEMU has written anew they are elsewhere */
	have = img->slots && img->slots != IMAGE_SLOTS && img->slots <= CLUSTER - STATE_BYTES &&
		!state_newest(img->head + img->slots, &there, NULL);
	ret = state_newest(img->head + IMAGE_SLOTS, &here, &why);
	if (!ret && have && there.seq > here.seq) {
		state_free(&here);
		here = there;
	} else if (!ret && have) {
		state_free(&there);
	} else if (have) {
		here = there;
		ret = 0;
	}
	if (ret)
		return fail_with(err, -ret, "%s: %s", esc(img->f->path), why.msg);
	*state = here;
	return 0;
}
