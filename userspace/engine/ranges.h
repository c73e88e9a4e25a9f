/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CBW_RANGES_H
#define CBW_RANGES_H

#include <stddef.h>
#include <stdint.h>

#include "libcbw.h"

/* a growing list of ranges, in order, neighbours merged */
struct ranges {
	struct cbw_range *v;
	size_t nr, room;
};

/* Appends; offsets must not go back. */
void ranges_add(struct ranges *r, uint64_t offset, uint64_t length);
void ranges_free(struct ranges *r);
/* Outwards to multiples of @unit, at most to @size. */
void ranges_widen(struct ranges *r, uint64_t unit, uint64_t size);
uint64_t ranges_total(const struct ranges *r);
/*
 * Moves what covers whole chunks from @from to @to; the rest stays, for what
 * comes behind it. The end of the device counts as the end of a chunk.
 */
void ranges_take_whole(struct ranges *from, struct ranges *to, uint64_t chunk,
		       uint64_t size);

/*
 * Makes both multiples of @unit, which do not overlap: @data outwards, @zero inwards, and what is
 * zero in part is data.
 */
void ranges_align(struct ranges *data, struct ranges *zero, uint64_t unit, uint64_t size);
/* What lies in front of @offset goes. */
void ranges_from(struct ranges *r, uint64_t offset);

#endif
