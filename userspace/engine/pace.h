/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long requests should be: what is fastest here.  Some devices want long ones, others are
 * done with short ones sooner and overlap them better; which it is shows only in the rate.
 */
#ifndef CBW_PACE_H
#define CBW_PACE_H

#include <stdbool.h>
#include <stdint.h>

/**
 * struct pace
 * @size: now, a power of two, @min to @max
 * @was: the size before, 0: none yet; @rate: with it
 * @hold: windows to go before the next try
 */
struct pace {
	uint32_t size, min, max;
	uint32_t was;
	double rate;
	unsigned int hold;
	bool shorter;
	uint64_t bytes, since;
};

void pace_begin(struct pace *p, uint32_t min, uint32_t max);
uint32_t pace_size(const struct pace *p);
/* @bytes have been moved by @now, nanoseconds. */
void pace_moved(struct pace *p, uint64_t bytes, uint64_t now);

#endif
