/* SPDX-License-Identifier: GPL-2.0-or-later */
/* what an increment reads, and what it needs not */
#ifndef CBW_EXTENTS_H
#define CBW_EXTENTS_H

#include "copy.h"

/**
 * extents_split - data and zeros of an increment
 * @dirty: what the frozen bitmap says is dirty, in order, what was discarded included;
 *	widened to multiples of @unit here, which is what the snapshot protects
 * @discarded: the part of it whose content does not matter
 * @unit: a multiple of the granule, the chunk and the image's cluster
 * @size: of the volume; its end counts as the end of a unit
 * @data: what has to be read
 * @zero: units that were discarded whole; neither has a byte that the other one has, both
 *	together are @dirty
 *
 * A unit that was discarded in part only is data: the rest of it may be.
 */
void extents_split(struct ranges *dirty, const struct ranges *discarded, uint64_t unit,
		   uint64_t size, struct ranges *data, struct ranges *zero);

/* What lies in front of @offset goes. */
void ranges_from(struct ranges *r, uint64_t offset);

#endif
