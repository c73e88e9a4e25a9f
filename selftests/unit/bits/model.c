// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdlib.h>

#include "model.h"

bool twin_try_alloc(struct twin *t, sector_t len, unsigned int shift, unsigned int unit)
{
	u64 granule = 1ull << shift, cell = 1ull << unit;

	t->bits = cbw_bits_alloc(len, shift);
	if (!t->bits)
		return false;
	t->unit = unit;
	t->nr_cells = (len + cell - 1) / cell;
	t->cells = granule / cell;
	t->dirty = calloc(t->nr_cells, sizeof(bool));
	t->gone = calloc(t->nr_cells, sizeof(bool));
	if (!t->dirty || !t->gone || !t->cells)
		shim_fail("no model of %llu sectors in cells of %llu", len, cell);
	if (t->bits->len != len || t->bits->shift != shift ||
	    t->bits->nr != (len + granule - 1) / granule ||
	    t->bits->bytes != (t->bits->nr + 63) / 64 * 8 || !cbw_bits_merged(t->bits))
		shim_fail("%llu sectors in granules of %llu: not so", len, granule);
	return true;
}

void twin_alloc(struct twin *t, sector_t len, unsigned int shift, unsigned int unit)
{
	if (!twin_try_alloc(t, len, shift, unit))
		shim_fail("no bitmap of %llu sectors, shift %u", len, shift);
}

void twin_free(struct twin *t)
{
	cbw_bits_put(t->bits);
	free(t->dirty);
	free(t->gone);
	t->bits = NULL;
	t->dirty = NULL;
	t->gone = NULL;
}

/* A cell's first sector; what is behind the last cell is the end. */
static sector_t cell_sector(const struct twin *t, u64 cell)
{
	return cell == t->nr_cells ? t->bits->len : cell << t->unit;
}

static u64 granule_end(const struct twin *t, u64 first)
{
	return min(first + t->cells, t->nr_cells);
}

void twin_mark(struct twin *t, sector_t sector, sector_t nr)
{
	u64 cell = 1ull << t->unit, from = sector / cell, c;
	u64 to = min((sector + nr - 1) / cell + 1, t->nr_cells);

	for (from -= from % t->cells; from < to; from = c)
		for (c = from; c < granule_end(t, from); c++)
			t->dirty[c] = true;
	/* For any context. */
	shim_atomic = true;
	cbw_bits_mark_range(t->bits, sector, nr);
	shim_atomic = false;
}

void twin_write(struct twin *t, sector_t sector, sector_t nr)
{
	u64 cell = 1ull << t->unit, from = sector / cell, c;
	u64 to = min((sector + nr - 1) / cell + 1, t->nr_cells);

	twin_mark(t, sector, nr);
	for (from -= from % t->cells; from < to; from = c)
		for (c = from; c < granule_end(t, from); c++)
			t->gone[c] = false;
	shim_atomic = true;
	cbw_bits_undiscard(t->bits, sector, nr);
	shim_atomic = false;
}

void twin_discard(struct twin *t, sector_t sector, sector_t nr)
{
	u64 first, last, c;

	twin_mark(t, sector, nr);
	for (first = 0; first < t->nr_cells && t->bits->discarded; first = c) {
		last = granule_end(t, first);
		c = last;
		if (sector > cell_sector(t, first) || sector + nr < cell_sector(t, last))
			continue;
		while (last-- > first)
			t->gone[last] = true;
	}
	shim_atomic = true;
	cbw_bits_discard(t->bits, sector, nr);
	shim_atomic = false;
}

void twin_add_plane(struct twin *t)
{
	if (!cbw_bits_add_plane(t->bits) || !t->bits->discarded)
		shim_fail("no second plane");
	if (t->bits->discarded->nr != t->bits->nr || t->bits->discarded->len != t->bits->len)
		shim_fail("the second plane is of another size");
}

static void model_merge(struct twin *to, const struct twin *from, bool discards)
{
	const bool told = discards && from->bits->discarded && !from->bits->forgetful;
	u64 g, c;

	for (g = 0; g < to->nr_cells; g += to->cells) {
		bool any = false, all_gone = true, was = to->dirty[g];

		for (c = g; c < granule_end(to, g); c++) {
			any |= from->dirty[c];
			all_gone &= from->dirty[c] && from->gone[c] && told;
		}
		for (c = g; any && c < granule_end(to, g); c++) {
			to->dirty[c] = true;
			if (!all_gone)
				to->gone[c] = false;
			else if (!was)
				to->gone[c] = to->bits->discarded;
		}
	}
}

void twin_or(struct twin *to, const struct twin *from, bool discards)
{
	cbw_bits_or(to->bits, from->bits, discards);
	model_merge(to, from, discards);
}

void twin_merge(struct twin *to, const struct twin *from, bool discards)
{
	cbw_bits_merge(to->bits, from->bits, discards);
	if (to != from)
		model_merge(to, from, discards);
}

void twin_check_words(const struct twin *t)
{
	u64 g;

	for (g = 0; g < t->bits->nr; g++)
		if (bits_test(t->bits, g) != t->dirty[g * t->cells])
			shim_fail("granule %llu of %llu is %s", g, t->bits->nr,
				  bits_test(t->bits, g) ? "dirty" : "clean");
	for (; g < t->bits->bytes * 8; g++)
		if (bits_test(t->bits, g))
			shim_fail("bit %llu is set, of %llu", g, t->bits->nr);
}

static void check_run(const struct twin *t, sector_t from, u64 first, u64 last)
{
	sector_t start = 1234567, end = 7654321;

	if (!cbw_bits_next_run(t->bits, from, &start, &end)) {
		if (first < t->nr_cells)
			shim_fail("no run from sector %llu on", from);
		return;
	}
	if (first == t->nr_cells || start != cell_sector(t, first) || end != cell_sector(t, last))
		shim_fail("from sector %llu on: %llu to %llu, not %llu to %llu", from, start, end,
			  cell_sector(t, first), cell_sector(t, last));
}

void twin_check_runs(const struct twin *t)
{
	u64 c = t->nr_cells, first = c, last = c;

	check_run(t, t->bits->len, c, c);
	while (c--) {
		/* Each granule is dirty or clean as a whole; the run grows towards the front. */
		if (t->dirty[c]) {
			if (c + 1 == t->nr_cells || !t->dirty[c + 1])
				last = c + 1;
			first = c;
		}
		if (c % t->cells == 0)
			check_run(t, c << t->unit, first, last);
	}
}

static bool told_gone(const struct twin *t, u64 cell)
{
	return t->gone[cell] && !t->bits->forgetful;
}

static void check_extent(const struct twin *t, sector_t from, u64 first, u64 last)
{
	sector_t start = 1234567, end = 7654321;
	bool gone;

	if (!cbw_bits_next_extent(t->bits, from, &start, &end, &gone)) {
		if (first < t->nr_cells)
			shim_fail("no extent from sector %llu on", from);
		return;
	}
	if (first == t->nr_cells || start != cell_sector(t, first) || end != cell_sector(t, last) ||
	    gone != told_gone(t, first))
		shim_fail("extent from sector %llu on: %llu to %llu, %d, not %llu to %llu", from,
			  start, end, gone, cell_sector(t, first), cell_sector(t, last));
}

void twin_check_extents(const struct twin *t)
{
	u64 c = t->nr_cells, first = c, last = c;

	check_extent(t, t->bits->len, c, c);
	while (c--) {
		if (t->dirty[c]) {
			if (c + 1 == t->nr_cells || !t->dirty[c + 1] ||
			    told_gone(t, c) != told_gone(t, c + 1))
				last = c + 1;
			first = c;
		}
		if (c % t->cells == 0)
			check_extent(t, c << t->unit, first, last);
	}
}

void twin_check_bytes(const struct twin *a, const struct twin *b)
{
	u64 want = 0, got, c;

	for (c = 0; c < a->nr_cells; c++)
		if (a->dirty[c] || (b && b->dirty[c]))
			want += cell_sector(a, c + 1) - cell_sector(a, c);
	want *= 512;
	got = cbw_bits_dirty_bytes(a->bits, b ? b->bits : NULL);
	if (got != want)
		shim_fail("%llu bytes dirty%s, not %llu", got, b ? " in two" : "", want);
}

void twin_check(const struct twin *t)
{
	twin_check_words(t);
	twin_check_runs(t);
	twin_check_extents(t);
	twin_check_bytes(t, NULL);
}
