// SPDX-License-Identifier: GPL-2.0-or-later
/* lists of ranges */
#include "cbw.h"
#include "ranges.h"

void ranges_add(struct ranges *r, uint64_t offset, uint64_t length)
{
	struct cbw_range *last = r->nr ? &r->v[r->nr - 1] : NULL;

	if (!length)
		return;
	if (last && offset <= last->offset + last->length) {
		if (offset + length > last->offset + last->length)
			last->length = offset + length - last->offset;
		return;
	}
	if (r->nr == r->room) {
		struct cbw_range *more;

		r->room = r->room ? 2 * r->room : 64;
		more = xcalloc(r->room, sizeof(*more));
		if (r->nr)
			memcpy(more, r->v, r->nr * sizeof(*more));
		free(r->v);
		r->v = more;
	}
	r->v[r->nr++] = (struct cbw_range){ offset, length };
}

void ranges_free(struct ranges *r)
{
	free(r->v);
	*r = (struct ranges){ 0 };
}

void ranges_widen(struct ranges *r, uint64_t unit, uint64_t size)
{
	struct ranges out = { 0 };
	size_t i;

	for (i = 0; i < r->nr; i++) {
		uint64_t from = r->v[i].offset / unit * unit;
		uint64_t to = r->v[i].offset + r->v[i].length;

		to = to > size ? size : to;
		if (to % unit)
			to = to / unit * unit + unit;
		if (to > size)
			to = size;
		if (from < to)
			ranges_add(&out, from, to - from);
	}
	ranges_free(r);
	*r = out;
}

uint64_t ranges_total(const struct ranges *r)
{
	uint64_t total = 0;
	size_t i;

	for (i = 0; i < r->nr; i++)
		total += r->v[i].length;
	return total;
}

void ranges_take_whole(struct ranges *from, struct ranges *to, uint64_t chunk,
		       uint64_t size)
{
	struct ranges rest = { 0 };
	size_t i;

	for (i = 0; i < from->nr; i++) {
		uint64_t begin = from->v[i].offset, end = begin +
			from->v[i].length;
		uint64_t first = (begin + chunk - 1) / chunk * chunk;
		uint64_t last = end == size ? size : end / chunk * chunk;

		if (first < last)
			ranges_add(to, first, last - first);
		/* only the last range can still grow */
		if (i + 1 == from->nr && end > last)
			ranges_add(&rest, last > begin ? last : begin,
				   end - (last > begin ? last : begin));
	}
	ranges_free(from);
	*from = rest;
}

/* Appends what of @from lies in none of @less, both in order. */
static void subtract(const struct ranges *from, const struct ranges *less, struct ranges *to)
{
	size_t i, k = 0;

	for (i = 0; i < from->nr; i++) {
		uint64_t at = from->v[i].offset, end = at + from->v[i].length;

		while (k < less->nr && less->v[k].offset + less->v[k].length <= at)
			k++;
		for (size_t n = k; at < end && n < less->nr && less->v[n].offset < end; n++) {
			uint64_t stop = less->v[n].offset + less->v[n].length;

			if (less->v[n].offset > at)
				ranges_add(to, at, less->v[n].offset - at);
			at = stop > at ? stop : at;
		}
		if (at < end)
			ranges_add(to, at, end - at);
	}
}

/* Appends both, in order. */
static void merge(const struct ranges *a, const struct ranges *b, struct ranges *to)
{
	size_t i = 0, k = 0;

	while (i < a->nr || k < b->nr) {
		const struct cbw_range *r = k == b->nr || (i < a->nr && a->v[i].offset < b->v[k].offset) ?
			&a->v[i++] : &b->v[k++];

		ranges_add(to, r->offset, r->length);
	}
}

void ranges_align(struct ranges *data, struct ranges *zero, uint64_t unit, uint64_t size)
{
	struct ranges whole = { 0 }, rest = { 0 }, all = { 0 }, none = { 0 };
	size_t i;

	for (i = 0; i < zero->nr; i++) {
		uint64_t from = (zero->v[i].offset + unit - 1) / unit * unit;
		uint64_t end = zero->v[i].offset + zero->v[i].length;
		uint64_t to = end == size ? size : end / unit * unit;

		if (from < to)
			ranges_add(&whole, from, to - from);
	}
	/* the parts of units that are left are data */
	subtract(zero, &whole, &rest);
	merge(data, &rest, &all);
	ranges_widen(&all, unit, size);
	/* data wins */
	subtract(&whole, &all, &none);
	ranges_free(&whole);
	ranges_free(&rest);
	ranges_free(data);
	ranges_free(zero);
	*data = all;
	*zero = none;
}

void ranges_from(struct ranges *r, uint64_t offset)
{
	struct ranges front = { 0 }, rest = { 0 };

	if (offset)
		ranges_add(&front, 0, offset);
	subtract(r, &front, &rest);
	ranges_free(&front);
	ranges_free(r);
	*r = rest;
}
