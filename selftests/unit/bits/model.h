/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A bitmap beside the simplest thing that could be one: a bool for each sector. Where
 * that would be too many, one for each cell of 2^unit sectors; no granule is smaller
 * than a cell, so a range may as well be all of the cells that it touches.
 */
#ifndef BITS_MODEL_H
#define BITS_MODEL_H

#include "shim.h"
#include "bits.h"

struct twin {
	struct cbw_bits *bits;
	bool *dirty;
	bool *gone;		/* of those, what was discarded; if there is a second plane */
	u64 nr_cells;
	u64 cells;		/* in a granule; the last one may have less */
	unsigned int unit;
};

/* Returns false when cbw_bits_alloc() returns NULL. */
bool twin_try_alloc(struct twin *t, sector_t len, unsigned int shift, unsigned int unit);
void twin_alloc(struct twin *t, sector_t len, unsigned int shift, unsigned int unit);
void twin_free(struct twin *t);

void twin_mark(struct twin *t, sector_t sector, sector_t nr);
/* A write, or a discard. */
void twin_write(struct twin *t, sector_t sector, sector_t nr);
void twin_discard(struct twin *t, sector_t sector, sector_t nr);
void twin_add_plane(struct twin *t);
/* What either function did to @to->bits is done to the model, granule by granule. */
void twin_or(struct twin *to, const struct twin *from, bool discards);
void twin_merge(struct twin *to, const struct twin *from, bool discards);

/* Bits, and none behind the last one. */
void twin_check_words(const struct twin *t);
/* The next run from each granule on, and from behind the last one. */
void twin_check_runs(const struct twin *t);
/* The same for extents, which end where it changes whether they are discarded. */
void twin_check_extents(const struct twin *t);
void twin_check_bytes(const struct twin *a, const struct twin *b);
void twin_check(const struct twin *t);

static inline bool bits_test(const struct cbw_bits *bits, u64 granule)
{
	return bits->words[granule / BITS_PER_LONG] >> granule % BITS_PER_LONG & 1;
}

#endif
