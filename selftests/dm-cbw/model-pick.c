// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Choices.  They depend on the seed and on the model, but not on what writers or the clock
 * do: a seed repeats them.
 */
#include "model.h"

#define CUTS	12u

uint64_t ops_rng;
bool careful;

static struct cbw_cut_id cuts[CUTS];	/* the last that were made */
static unsigned int nr_cuts;

uint64_t ops_random(uint64_t below)
{
	return rnd(&ops_rng) % below;
}

bool chance(unsigned int percent)
{
	return ops_random(100) < percent;
}

struct bitmap *some_bitmap(unsigned int dev)
{
	struct mdev *d = &model->dev[dev];

	return d->nr_bitmaps ? d->bitmap[ops_random(d->nr_bitmaps)] : NULL;
}

/* One that is there and idle, mostly; any of those that are used often; or a bad one. */
unsigned int some_name(unsigned int dev)
{
	struct bitmap *b = NULL;
	unsigned int i;

	if (!careful && chance(2))
		return NAMES + ops_random(4);
	if (careful || chance(80))
		for (i = 0; i < 8; i++) {
			b = some_bitmap(dev);
			if (!b || !b->is_frozen)
				break;
		}
	return b ? b->name : ops_random(NAMES_OFTEN);
}

unsigned int new_name(unsigned int dev)
{
	unsigned int i, name = 0;

	if (!careful && chance(2))
		return NAMES + ops_random(4);
	for (i = 0; i < 8; i++) {
		name = ops_random(NAMES_OFTEN);
		if (!model_find(model, dev, name))
			break;
	}
	return name;
}

uint32_t some_granularity(void)
{
	static const uint32_t bad[] = { 1, 256, 1000, 65535, 3u << 20 };

	if (!careful && chance(3))
		return bad[ops_random(5)];
	if (chance(3))
		return 0;
	return 512u << ops_random(chance(70) ? 8 : 23);
}

void remember(const struct cbw_cut_id *cut)
{
	cuts[nr_cuts++ % CUTS] = *cut;
}

/* One that there was, or is. */
struct cbw_cut_id some_cut(unsigned int dev, int *owner)
{
	struct cbw_cut_id cut = { 0 };
	struct bitmap *b = dev < nr_devices ? some_bitmap(dev) : NULL;

	if (chance(4))
		return cut;
	if (b && b->is_frozen && chance(75)) {
		if (b->owner == OWNER_SESSION && chance(75))
			*owner = b->session;
		return b->cut;
	}
	if (nr_cuts && chance(95))
		return cuts[ops_random(nr_cuts < CUTS ? nr_cuts : CUTS)];
	memset(&cut, 0xee, sizeof(cut));
	return cut;
}

unsigned int some_dev(void)
{
	return !careful && chance(1) ? nr_devices : ops_random(nr_devices);
}

struct cbw_devno devno(unsigned int dev)
{
	/* /dev/null's number is nobody's */
	return dev < nr_devices ? device[dev].no : (struct cbw_devno){ 1, 3 };
}

struct ctl_name name_bytes(unsigned int name)
{
	static char long_name[CBW_NAME_MAX + 1];
	static const struct ctl_name bad[] = {
		{ "a/b", 3 }, { "a\0b", 3 }, { "", 0 }, { long_name, sizeof(long_name) },
	};

	memset(long_name, 'l', sizeof(long_name));
	return name < NAMES ? names[name] : bad[name - NAMES];
}

/* Refused for its length, before anything is looked at. */
bool name_malformed(unsigned int name)
{
	return name >= NAMES + 2;
}
