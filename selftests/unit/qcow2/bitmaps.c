// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bitmaps.h"

void models_copy(struct models *to, const struct models *from)
{
	unsigned int i;

	models_free(to);
	*to = *from;
	for (i = 0; i < to->nr; i++) {
		to->m[i].data = malloc(to->m[i].bytes);
		assert_non_null(to->m[i].data);
		memcpy(to->m[i].data, from->m[i].data, to->m[i].bytes);
	}
}

void models_free(struct models *m)
{
	while (m->nr)
		free(m->m[--m->nr].data);
}

bool models_match(struct qcow2_image *img, const struct models *m, bool loud)
{
	unsigned int nr, i;

	ok(qcow2_bitmap_count(img, &nr, err));
	if (nr != m->nr) {
		if (loud)
			print_error("%u bitmaps, not %u\n", nr, m->nr);
		return false;
	}
	for (i = 0; i < nr; i++) {
		const struct model *w = &m->m[i];
		struct qcow2_bitmap b;
		unsigned int found;
		uint8_t *buf;
		bool same;

		assert_int_equal(qcow2_get_bitmap(img, i, &b), 0);
		if (b.name_len != w->len || memcmp(b.name, w->name, w->len) || b.flags != w->flags ||
		    b.granularity_bits != w->bits || b.bytes != w->bytes || b.granules != w->granules) {
			if (loud)
				print_error("bitmap %u: '%s' flags %u, not '%s' flags %u\n", i, b.name, b.flags, w->name,
					    w->flags);
			return false;
		}
		assert_int_equal(qcow2_find_bitmap(img, w->name, w->len, &found), 0);
		assert_int_equal(found, i);
		buf = malloc(w->bytes);
		assert_non_null(buf);
		ok(qcow2_bitmap_read(img, i, 0, buf, w->bytes, err));
		same = !memcmp(buf, w->data, w->bytes);
		free(buf);
		if (!same) {
			if (loud)
				print_error("bitmap '%s': other bits\n", w->name);
			return false;
		}
	}
	return true;
}

static void write_bits(struct qcow2_image *img, const struct model *m, uint64_t host)
{
	uint64_t len = qcow2_edit_clusters(img, m->bits) * qcow2_cluster_size(img);
	uint8_t *buf = calloc(1, len);

	assert_non_null(buf);
	memcpy(buf, m->data, m->bytes);
	assert_int_equal(pwrite(qcow2_fd(img), buf, len, (off_t)host), len);
	free(buf);
}

static struct model *model_new(struct qcow2_image *img, struct models *all, const char *name, unsigned int bits,
			       uint32_t flags)
{
	struct model *m = &all->m[all->nr++];
	uint64_t g, n;

	assert_true(all->nr <= MAX_BITMAPS);
	memset(m, 0, sizeof(*m));
	m->len = (size_t)snprintf(m->name, sizeof(m->name), "%s", name);
	m->flags = flags;
	m->bits = bits;
	m->granules = (qcow2_size(img) + (1ull << bits) - 1) >> bits;
	m->bytes = (m->granules + 7) / 8;
	m->data = calloc(1, m->bytes);
	assert_non_null(m->data);
	for (g = rnd_below(20); g < m->granules; g += 1 + rnd_below(m->granules / 8 + 2))
		for (n = rnd_below(30); n && g < m->granules; n--, g++)
			m->data[g / 8] |= (uint8_t)(1u << (g % 8));
	return m;
}

void model_add(struct qcow2_image *img, struct qcow2_bitmaps_edit *edit, struct models *all, const char *name,
	       unsigned int bits, uint32_t flags)
{
	struct model *m = model_new(img, all, name, bits, flags);
	uint64_t host = 0;

	ok(qcow2_edit_add(edit, m->name, m->len, bits, flags, &host, err));
	assert_int_equal(host % qcow2_cluster_size(img), 0);
	write_bits(img, m, host);
}

struct qcow2_bitmaps_edit *random_edit(struct qcow2_image *img, struct models *now)
{
	static const unsigned int bits[] = { 9, 10, 12, 16, 21 };
	static unsigned int serial;
	struct qcow2_bitmaps_edit *edit = NULL;
	uint64_t cs = qcow2_cluster_size(img), host = 0, n;
	struct models old = { .nr = 0 }, new = { .nr = 0 };
	unsigned int i;
	char name[64];

	models_copy(&old, now);
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	for (i = 0; i < old.nr; i++) {
		struct model *m = &old.m[i];
		unsigned int what = (unsigned int)rnd_below(old.nr > 6 ? 8 : 5);
		uint32_t flags = (uint32_t)rnd_below(4);

		if (what >= 4)
			continue;
		snprintf(name, sizeof(name), "m%u \xff\n%llu", ++serial, (unsigned long long)rnd());
		if (what == 0) {
			ok(qcow2_edit_keep(edit, i, flags, err));
		} else if (what == 1) {
			ok(qcow2_edit_keep_as(edit, i, name, strlen(name), flags, err));
			m->len = (size_t)snprintf(m->name, sizeof(m->name), "%s", name);
		} else {
			struct qcow2_error e;

			ok(qcow2_bitmap_place(img, i, &host, err));
			/* a smaller one may sit in the middle of an older one's place; the same bits, if it is the same */
			ok(qcow2_edit_add_at(edit, name, strlen(name), m->bits, flags, host, err));
			assert_int_equal(qcow2_edit_keep(edit, i, 0, &e), -EINVAL);
			assert_int_equal(qcow2_edit_add_at(edit, "again", 5, m->bits, 0, host, &e), -EINVAL);
			m->len = (size_t)snprintf(m->name, sizeof(m->name), "%s", name);
		}
		m->flags = flags;
		new.m[new.nr++] = *m;
		m->data = NULL;
	}
	for (n = rnd_below(4); n && new.nr < MAX_BITMAPS; n--) {
		unsigned int b = bits[rnd_below(5)];

		snprintf(name, sizeof(name), "new%u", ++serial);
		if (rnd_below(2)) {
			model_add(img, edit, &new, name, b, (uint32_t)rnd_below(4));
		} else {
			struct model *m = model_new(img, &new, name, b, 0);
			uint64_t lead = rnd_below(3);

			ok(qcow2_edit_alloc(edit, qcow2_edit_clusters(img, b) + lead + rnd_below(3), &host, err));
			host += lead * cs;
			ok(qcow2_edit_add_at(edit, m->name, m->len, b, 0, host, err));
			write_bits(img, m, host);
		}
	}
	if (!rnd_below(3))
		ok(qcow2_edit_alloc(edit, 1 + rnd_below(4), &host, err));
	models_free(&old);
	models_free(now);
	*now = new;
	return edit;
}
