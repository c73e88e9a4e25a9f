// SPDX-License-Identifier: GPL-2.0-or-later
/* the bits in a container */
#include "cbw.h"
#include "container.h"
#include "crc.h"

static void fill_in(struct bits *b, uint64_t size, uint64_t granularity)
{
	uint64_t bits = size / granularity + (size % granularity != 0);

	b->bytes = bits / 8 + (bits % 8 != 0);
	b->tail = bits % 8 ? (unsigned char)((1u << bits % 8) - 1) : 0xff;
}

void bits_of_entry(const struct image *img, const struct entry *e, struct bits *b)
{
	*b = (struct bits){ .f = img->f, .table = e->table };
	fill_in(b, img->size, 1ull << e->bits);
}

void bits_of_place(const struct container *c, uint64_t offset, uint64_t granularity,
		   struct bits *b)
{
	*b = (struct bits){ .f = &c->f, .offset = offset };
	fill_in(b, c->state.device_size, granularity);
}

/* What is there, and zeros behind the last byte, in whole CFILE_ALIGNs. */
static int read_raw(const struct bits *b, uint64_t at, unsigned char *buf, size_t *len,
		    struct cbw_error *err)
{
	uint64_t left = b->bytes - at, entry;
	size_t aligned;
	int ret = 0;

	*len = left < BITS_STEP ? (size_t)left : BITS_STEP;
	aligned = (*len + CFILE_ALIGN - 1) / CFILE_ALIGN * CFILE_ALIGN;
	if (!b->table) {
		ret = cfile_read(b->f, buf, aligned, b->offset + at, err);
	} else {
		entry = b->table[at / CLUSTER];
		if (entry > 1)
			ret = cfile_read(b->f, buf, aligned, entry, err);
		else
			memset(buf, entry ? 0xff : 0, *len);
	}
	memset(buf + *len, 0, BITS_STEP - *len);
	return ret;
}

int bits_read(const struct bits *b, uint64_t at, unsigned char *buf, struct cbw_error *err)
{
	size_t len;
	int ret = read_raw(b, at, buf, &len, err);

	if (!ret && at + len == b->bytes && len)
		buf[len - 1] &= b->tail;
	return ret;
}

int bits_crc(const struct bits *b, uint32_t *crc, struct cbw_error *err)
{
	unsigned char *buf = cfile_buffer(BITS_STEP);
	uint64_t at;
	int ret = 0;

	*crc = 0;
	for (at = 0; at < b->bytes && !ret; at += BITS_STEP) {
		uint64_t left = b->bytes - at;

		ret = bits_read(b, at, buf, err);
		*crc = crc32c(*crc, buf, left < BITS_STEP ? (size_t)left : BITS_STEP);
	}
	free(buf);
	return ret;
}

int bits_copy(const struct bits *from, const struct cfile *f, uint64_t offset,
	      struct cbw_error *err)
{
	unsigned char *buf = cfile_buffer(BITS_STEP);
	uint64_t at;
	int ret = 0;

	for (at = 0; at < from->bytes && !ret; at += BITS_STEP) {
		ret = bits_read(from, at, buf, err);
		if (!ret)
			ret = cfile_write(f, buf, BITS_STEP, offset + at, err);
	}
	free(buf);
	return ret;
}

int bits_count(const struct bits *b, uint64_t *set, bool *behind, struct cbw_error *err)
{
	unsigned char *buf = cfile_buffer(BITS_STEP);
	uint64_t at;
	size_t len, i;
	int ret = 0;

	*set = 0;
	*behind = false;
	for (at = 0; at < b->bytes && !ret; at += BITS_STEP) {
		ret = read_raw(b, at, buf, &len, err);
		if (!ret && at + len == b->bytes && buf[len - 1] & ~b->tail) {
			*behind = true;
			buf[len - 1] &= b->tail;
		}
		for (i = 0; i < len && !ret; i++)
			*set += (uint64_t)__builtin_popcount(buf[i]);
	}
	free(buf);
	return ret;
}

static bool bit(const unsigned char *p, uint64_t n)
{
	return p[n / 8] >> n % 8 & 1;
}

uint64_t bits_expand(unsigned char *buf, size_t len, uint64_t at, uint64_t granules,
		     unsigned int granularity_shift, const unsigned char *intent,
		     uint64_t regions, unsigned int region_shift)
{
	uint64_t first = at * 8, end = first + len * 8, g, added = 0;

	if (end > granules)
		end = granules;
	for (g = first; g < end; g++) {
		uint64_t from = g << granularity_shift >> region_shift;
		uint64_t to = (((g + 1) << granularity_shift) - 1) >> region_shift, r;

		for (r = from; r <= to && r < regions && !bit(intent, r); r++)
			;
		if (r > to || r >= regions || bit(buf, g - first))
			continue;
		buf[(g - first) / 8] |= (unsigned char)(1u << (g - first) % 8);
		added++;
	}
	return added;
}

int read_intents(const struct container *c, unsigned char **intent, uint64_t *regions,
		 struct cbw_error *err)
{
	uint64_t region = 1ull << c->state.region_shift, at;
	struct bits a, b;
	unsigned char *out, *buf = cfile_buffer(BITS_STEP);
	size_t i;
	int ret = 0;

	bits_of_place(c, c->state.intent_offset[0], region, &a);
	bits_of_place(c, c->state.intent_offset[1], region, &b);
	out = cfile_buffer((a.bytes + BITS_STEP - 1) / BITS_STEP * BITS_STEP);
	for (at = 0; at < a.bytes && !ret; at += BITS_STEP) {
		ret = bits_read(&a, at, out + at, err);
		if (!ret)
			ret = bits_read(&b, at, buf, err);
		for (i = 0; i < BITS_STEP && !ret; i++)
			out[at + i] |= buf[i];
	}
	free(buf);
	if (ret) {
		free(out);
		return ret;
	}
	*intent = out;
	*regions = c->state.device_size / region + (c->state.device_size % region != 0);
	return 0;
}
