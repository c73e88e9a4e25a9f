// SPDX-License-Identifier: GPL-2.0-or-later
/* which kind of backup it is to be */
#include "cbw.h"
#include "chain.h"

char *chain_second(const struct chain *chain)
{
	/* by the chain's id: the first one's name may be a user's, and so may this be then */
	return xasprintf("cbw-%02x%02x%02x%02x-d", chain->id.b[0], chain->id.b[1],
			 chain->id.b[2], chain->id.b[3]);
}

static const struct entry *newest_of(const struct chain *chain, bool full)
{
	size_t i;

	for (i = chain->nr; i; i--) {
		enum entry_type type = chain->entry[i - 1].type;

		if (full ? type == ENTRY_FULL : type != ENTRY_DIFFERENTIAL)
			return &chain->entry[i - 1];
	}
	return NULL;
}

static bool has_gap(const struct cbw_bitmap *bitmap)
{
	return (bitmap->flags & CBW_BITMAP_INCONSISTENT) ||
		!(bitmap->flags & CBW_BITMAP_ENABLED);
}

/* Why a bitmap cannot be trusted whatever its base is, or false. */
static bool untrusted(const struct cbw_bitmap *bitmap, const char *name, struct decision *d)
{
	if (!bitmap)
		snprintf(d->reason, sizeof(d->reason),
			 "the volume has no bitmap '%s' (it ends with a detach or a reboot)",
			 esc(name));
	else if (bitmap->flags & CBW_BITMAP_INCONSISTENT)
		snprintf(d->reason, sizeof(d->reason),
			 "bitmap '%s' is inconsistent", esc(bitmap->name));
	else if (!(bitmap->flags & CBW_BITMAP_ENABLED))
		snprintf(d->reason, sizeof(d->reason),
			 "bitmap '%s' is disabled, so it has not recorded everything",
			 esc(bitmap->name));
	else if (cbw_cut_is_none(&bitmap->base))
		snprintf(d->reason, sizeof(d->reason),
			 "bitmap '%s' has no base, no backup with it was committed",
			 esc(bitmap->name));
	else
		return false;
	return true;
}

static bool resized(const struct entry *below, uint64_t size, struct decision *d)
{
	if (size == below->size)
		return false;
	snprintf(d->reason, sizeof(d->reason),
		 "the volume has %llu bytes now, and had %llu in the image it would go on top of",
		 (ull)size, (ull)below->size);
	return true;
}

static void wrong_base(const struct cbw_bitmap *bitmap, const struct entry *below,
		       struct decision *d)
{
	char a[CBW_CUT_HEX], b[CBW_CUT_HEX];

	snprintf(d->reason, sizeof(d->reason),
		 "the base of bitmap '%s' is %s, but the newest %simage is %s",
		 esc(bitmap->name), cbw_cut_to_text(&bitmap->base, a),
		 below->type == ENTRY_FULL ? "full " : "", cbw_cut_to_text(&below->cut, b));
}

static bool can_increment(const struct chain *chain, const struct cbw_bitmap *bitmap,
			  const struct entry *below, uint64_t size, struct decision *d)
{
	if (untrusted(bitmap, chain->bitmap, d) || resized(below, size, d))
		return false;
	if (chain_depth(chain, below) >= CHAIN_DEPTH_MAX) {
		snprintf(d->reason, sizeof(d->reason),
			 "there are %d images on top of each other, which is the most",
			 CHAIN_DEPTH_MAX);
		return false;
	}
	if (cbw_cut_equal(&bitmap->base, &below->cut) ||
	    cbw_cut_equal(&bitmap->base, &below->base))
		return true;
	wrong_base(bitmap, below, d);
	return false;
}

/* Of a full one that is not newer than @full, so all changes since then are there. */
static bool base_is_full(const struct chain *chain, const struct cbw_cut_id *base,
			 const struct entry *full)
{
	const struct entry *e;

	for (e = chain->entry; e <= full; e++)
		if (e->type == ENTRY_FULL && cbw_cut_equal(&e->cut, base))
			return true;
	return false;
}

static bool can_differ(const struct chain *chain, const struct cbw_bitmap *bitmap,
		       const struct cbw_bitmap *second, const struct entry *full, uint64_t size,
		       struct decision *d)
{
	char *name;
	bool bad;

	if (resized(full, size, d))
		return false;
	if (chain_giving_up(chain, full)) {
		snprintf(d->reason, sizeof(d->reason),
			 "the newest full image is being merged, and what it was has ended; 'cbw chain merge' brings that to its end");
		return false;
	}
	name = chain_second(chain);
	bad = untrusted(second, name, d);
	free(name);
	if (!bad && base_is_full(chain, &second->base, full))
		return true;
	if (!bad)
		wrong_base(second, full, d);
	/* as long as there was no increment since then the other bitmap has the same */
	if (!bitmap || has_gap(bitmap) || !cbw_cut_equal(&bitmap->base, &full->cut))
		return false;
	d->second = SECOND_COPY;
	d->second_replace = second;
	return true;
}

/*
 * So that a full one can be the base of what comes: what it is (transient, its granularity)
 * stays, and if the backup fails it is as it was.
 */
static void mend(const struct cbw_bitmap *bitmap, struct decision *d)
{
	if (bitmap->flags & CBW_BITMAP_INCONSISTENT)
		d->add = d->replace = true;
	else if (!(bitmap->flags & CBW_BITMAP_ENABLED))
		d->enable = true;
}

void chain_decide(const struct chain *chain, const struct cbw_bitmap *bitmap,
		  const struct cbw_bitmap *second, uint64_t size, enum backup_mode mode,
		  struct decision *d)
{
	const struct entry *below = newest_of(chain, mode == MODE_DIFFERENTIAL);

	*d = (struct decision){ .type = ENTRY_FULL };
	if (mode == MODE_DIFFERENTIAL && below &&
	    can_differ(chain, bitmap, second, below, size, d)) {
		d->type = ENTRY_DIFFERENTIAL;
	} else if ((mode == MODE_AUTO || mode == MODE_INCREMENTAL) && below &&
		   can_increment(chain, bitmap, below, size, d)) {
		d->type = ENTRY_INCREMENTAL;
	}
	if (d->type != ENTRY_FULL) {
		d->parent = below->id;
		return;
	}
	d->add = !bitmap;
	if (bitmap)
		mend(bitmap, d);
	d->second = second ? SECOND_ROTATE :
		mode == MODE_DIFFERENTIAL ? SECOND_ADD : SECOND_LEAVE;
	if (second && has_gap(second)) {
		d->second = SECOND_ADD;
		d->second_replace = true;
	}
	if (mode == MODE_FULL)
		return;
	d->fallback = true;
	if (below)
		return;
	/* the first backup of a chain has no choice, which is no failure */
	snprintf(d->reason, sizeof(d->reason),
		 "the chain is empty, there is nothing to add an increment to");
	d->fallback = mode == MODE_INCREMENTAL;
}

void chain_decide_alone(const struct cbw_bitmap *bitmap, const char *name,
			enum backup_mode mode, struct decision *d)
{
	*d = (struct decision){ .type = ENTRY_FULL };
	if (mode != MODE_FULL) {
		if (!untrusted(bitmap, name, d)) {
			d->type = ENTRY_INCREMENTAL;
			return;
		}
		d->fallback = true;
	}
	if (bitmap)
		mend(bitmap, d);
}
