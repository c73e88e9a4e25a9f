/* SPDX-License-Identifier: GPL-2.0-or-later */
/* which points in time are kept, and how the others go */
#ifndef CBW_PRUNE_H
#define CBW_PRUNE_H

#include <stdbool.h>

#include "chain.h"
#include "merge.h"

/**
 * struct retention - how many are kept, 0: none for this reason
 * @last: the newest
 * @daily, @weekly, @monthly: the newest of each of so many days, ISO weeks, months
 *	(UTC) that have any
 */
struct retention {
	uint64_t last, daily, weekly, monthly;
};

/* reasons to keep a point in time; several may hold */
#define KEEP_LAST	(1u << 0)
#define KEEP_DAILY	(1u << 1)
#define KEEP_WEEKLY	(1u << 2)
#define KEEP_MONTHLY	(1u << 3)
#define KEEP_NEWEST	(1u << 4)	/* the newest; the next increment or differential goes on top */
#define KEEP_SHARED	(1u << 5)	/* several that are kept stand on it */

/**
 * retention_choose - which are kept
 * @keep: KEEP_*, one for each entry, 0: it goes
 */
void retention_choose(const struct chain *chain, const struct retention *r,
		      unsigned int *keep);

/**
 * prune_run - remove what is not kept, and merge what is needed below what is
 * @chain: locked, without an open journal
 * @keep: as retention_choose() filled it in
 * @removed: points in time that have gone
 *
 * Each one for itself: after an error, or a crash, fewer have gone.
 */
int prune_run(struct chain *chain, const unsigned int *keep,
	      const struct merge_opts *opts, unsigned int *removed,
	      struct cbw_error *err);

#endif
