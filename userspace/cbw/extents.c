// SPDX-License-Identifier: GPL-2.0-or-later
/* what an increment reads, and what it needs not */
#include "cbw.h"
#include "extents.h"

/* Inwards to multiples of @unit. */
static void narrow(const struct ranges *r, uint64_t unit, uint64_t size, struct ranges *out)
{
	size_t i;

	for (i = 0; i < r->nr; i++) {
		uint64_t begin = r->v[i].offset, end = begin + r->v[i].length;
		uint64_t first = begin / unit * unit;

		if (first < begin)
			first += unit;
		end = end >= size ? size : end / unit * unit;
		if (first < end)
			ranges_add(out, first, end - first);
	}
}

static void subtract(const struct ranges *from, const struct ranges *what, struct ranges *out)
{
	size_t i, k = 0;

	for (i = 0; i < from->nr; i++) {
		uint64_t at = from->v[i].offset, end = at + from->v[i].length;

		for (; k < what->nr && what->v[k].offset < end; k++) {
			uint64_t gone = what->v[k].offset + what->v[k].length;

			if (gone <= at)
				continue;
			if (what->v[k].offset > at)
				ranges_add(out, at, what->v[k].offset - at);
			at = gone < end ? gone : end;
			/* it may reach into the next one */
			if (gone > end)
				break;
		}
		if (at < end)
			ranges_add(out, at, end - at);
	}
}

void extents_split(struct ranges *dirty, const struct ranges *discarded, uint64_t unit,
		   uint64_t size, struct ranges *data, struct ranges *zero)
{
	ranges_widen(dirty, unit, size);
	narrow(discarded, unit, size, zero);
	subtract(dirty, zero, data);
}

void ranges_from(struct ranges *r, uint64_t offset)
{
	struct ranges rest = { 0 };
	size_t i;

	for (i = 0; i < r->nr; i++) {
		uint64_t begin = r->v[i].offset, end = begin + r->v[i].length;

		if (begin < offset)
			begin = offset;
		if (begin < end)
			ranges_add(&rest, begin, end - begin);
	}
	ranges_free(r);
	*r = rest;
}
