// SPDX-License-Identifier: GPL-2.0-or-later
/* which points in time are kept, and how the others go */
#include <time.h>

#include "cbw.h"
#include "prune.h"

/* ---- the choice -------------------------------------------------------- */

/* A number for the period that @when is in. */
static int64_t period_of(int64_t when, const char *format)
{
	time_t t = (time_t)when;
	char text[32] = "";
	struct tm tm;

	if (gmtime_r(&t, &tm))
		strftime(text, sizeof(text), format, &tm);
	return strtoll(text, NULL, 10);
}

/* The newest of each of @nr periods, as restic does: looking back from the newest. */
static void keep_periods(const struct chain *chain, uint64_t nr,
			 const char *format, unsigned int why, unsigned int *keep)
{
	int64_t last = -1;
	size_t i;

	for (i = chain->nr; i-- && nr;) {
		int64_t now = period_of(chain->entry[i].time, format);

		if (now == last)
			continue;
		last = now;
		keep[i] |= why;
		nr--;
	}
}

static unsigned int children(const struct chain *chain, uint32_t id)
{
	unsigned int nr = 0;
	size_t i;

	for (i = 0; i < chain->nr; i++)
		nr += chain->entry[i].parent == id;
	return nr;
}

/*
 * An image that several stand on, directly or not, cannot take in one of them. @need: of
 * an entry, how many images that stay stand on it directly.
 */
static void keep_shared(const struct chain *chain, unsigned int *keep)
{
	unsigned int *need = xcalloc(chain->nr, sizeof(*need));
	size_t i, k;

	/* parents come before their children */
	for (i = chain->nr; i--;) {
		const struct entry *e = &chain->entry[i];

		if (!keep[i] && need[i] > 1)
			keep[i] = KEEP_SHARED;
		if ((!keep[i] && !need[i]) || !e->parent)
			continue;
		for (k = i; k--;)
			if (chain->entry[k].id == e->parent)
				break;
		if (k < i)
			need[k]++;
	}
	free(need);
}

/* What the next backups go on top of: increments on @full false, differentials on @full. */
static void keep_newest(const struct chain *chain, bool full, unsigned int *keep)
{
	size_t i;

	for (i = chain->nr; i--;) {
		enum entry_type type = chain->entry[i].type;

		if (full ? type != ENTRY_FULL : type == ENTRY_DIFFERENTIAL)
			continue;
		if (!keep[i])
			keep[i] = KEEP_NEWEST;
		return;
	}
}

static bool has_differentials(const struct chain *chain)
{
	size_t i;

	for (i = 0; i < chain->nr; i++)
		if (chain->entry[i].type == ENTRY_DIFFERENTIAL)
			return true;
	return false;
}

void retention_choose(const struct chain *chain, const struct retention *r,
		      unsigned int *keep)
{
	size_t i;

	for (i = 0; i < chain->nr; i++)
		keep[i] = chain->nr - i <= r->last ? KEEP_LAST : 0;
	keep_periods(chain, r->daily, "%Y%m%d", KEEP_DAILY, keep);
	/* %G: the year that the ISO week belongs to */
	keep_periods(chain, r->weekly, "%G%V", KEEP_WEEKLY, keep);
	keep_periods(chain, r->monthly, "%Y%m", KEEP_MONTHLY, keep);
	if (chain->nr && !keep[chain->nr - 1])
		keep[chain->nr - 1] = KEEP_NEWEST;
	keep_newest(chain, false, keep);
	if (has_differentials(chain))
		keep_newest(chain, true, keep);
	keep_shared(chain, keep);
}

/* ---- doing it ---------------------------------------------------------- */

/* Of those that go, without an image on top: they just go, the newest first. */
static int remove_leaves(struct chain *chain, uint32_t *going, size_t *nr,
			 unsigned int *removed, struct cbw_error *err)
{
	size_t i, before = *nr;
	int ret;

	for (i = *nr; i--;) {
		if (children(chain, going[i]))
			continue;
		chain_remove(chain, going[i]);
		memmove(&going[i], &going[i + 1], (*nr - i - 1) * sizeof(*going));
		--*nr;
	}
	if (*nr == before)
		return 0;
	ret = chain_save(chain, NULL, err);
	if (ret)
		return ret;
	*removed += (unsigned int)(before - *nr);
	return chain_clean(chain, NULL, err);
}

static uint32_t only_child(const struct chain *chain, uint32_t id)
{
	size_t i;

	for (i = 0; i < chain->nr; i++)
		if (chain->entry[i].parent == id)
			return chain->entry[i].id;
	return 0;
}

int prune_run(struct chain *chain, const unsigned int *keep,
	      const struct merge_opts *opts, unsigned int *removed,
	      struct cbw_error *err)
{
	uint32_t *going = xcalloc(chain->nr, sizeof(*going));
	size_t nr = 0, i;
	int ret;

	*removed = 0;
	for (i = 0; i < chain->nr; i++)
		if (!keep[i])
			going[nr++] = chain->entry[i].id;
	ret = remove_leaves(chain, going, &nr, removed, err);
	/* from the lowest up, so that the data of each image moves once */
	for (i = 0; i < nr && !ret; i++) {
		ret = merge_into(chain, only_child(chain, going[i]), opts, err);
		if (!ret)
			++*removed;
	}
	free(going);
	return ret;
}
