// SPDX-License-Identifier: GPL-2.0-or-later
/* where things lie in a container, attached and detached */
#include <inttypes.h>

#include "cbw.h"
#include "container.h"

#define SPACES_MAX	1024	/* bitmaps that stand for free space */

static unsigned int log2_of(uint64_t n)
{
	return 63 - (unsigned int)__builtin_clzll(n);
}

static uint64_t clusters_of(const struct container *c, const struct state_bitmap *b)
{
	return bitmap_clusters(c->state.device_size, log2_of(b->granularity));
}

static bool is_pseudo(const struct container *c, const char *name)
{
	return !strncmp(name, PSEUDO, strlen(PSEUDO)) &&
	       (c->no_state || !state_find(&c->state, name));
}

/* ---- what somebody else has changed ------------------------------------ */

static int adopt_one(struct container *c, const struct entry *e, struct state *to,
		     bool *changed, struct cbw_error *err)
{
	const struct state_bitmap *was = state_find(&c->state, e->name);
	uint32_t flags = e->flags & ENTRY_AUTO ? CBW_STATE_ENABLED : 0;
	const char *why = NULL;
	struct state_bitmap *b;
	struct bits bits;
	uint64_t place;
	uint32_t crc;
	int ret;

	if (strchr(e->name, '/') || !strncmp(e->name, PSEUDO, strlen(PSEUDO)))
		return fail_with(err, EINVAL,
				 "%s: bitmap '%s' has a name that is not possible here: with a '/' in it, or '" PSEUDO "' in front; remove it with 'qemu-img bitmap --remove'",
				 esc(c->f.path), esc(e->name));
	if (to->nr == CBW_BITMAPS_MAX)
		return fail_with(err, ENOSPC, "%s: it has more than %u bitmaps", esc(c->f.path),
				 CBW_BITMAPS_MAX);
	bits_of_entry(&c->img, e, &bits);
	ret = bits_crc(&bits, &crc, err);
	if (ret)
		return ret;
	place = entry_place(e);
	if (!place) {
		ret = image_take(&c->img, e->clusters, &place, err);
		if (!ret)
			ret = bits_copy(&bits, &c->f, place, err);
		if (ret)
			return ret;
		*changed = true;
	}
	b = state_add(to, e->name);
	b->flags = flags;
	b->granularity = 1u << e->bits;
	b->crc32c = crc;
	b->offset = place;
	b->length = e->clusters * CLUSTER;
	if (!was)
		why = "is new: it was not made by cbw, so it has no base";
	else if (was->granularity != b->granularity)
		why = "has another granularity than it had";
	else if (was->crc32c != crc)
		why = "was changed by another program";
	else if (was->flags != flags)
		why = "was enabled or disabled by another program";
	else
		b->base = was->base;
	if (why && was && !cbw_cut_is_none(&was->base))
		say("%s: bitmap '%s' %s; it has no base any more, the next backup with it will be a full one",
		    esc(c->f.path), esc(e->name), why);
	else if (why)
		say("%s: bitmap '%s' %s", esc(c->f.path), esc(e->name), why);
	if (why || was->offset != b->offset || was->length != b->length)
		*changed = true;
	return 0;
}

int layout_adopt(struct container *c, bool *changed, struct cbw_error *err)
{
	struct state to;
	size_t i;
	int ret = 0;

	/* also an image that was written anew has to be put in order */
	*changed = c->img.slots != IMAGE_SLOTS;
	state_copy(&to, &c->state);
	to.nr = 0;
	for (i = 0; i < c->img.nr && !ret; i++)
		ret = adopt_one(c, &c->img.entry[i], &to, changed, err);
	for (i = 0; i < c->state.nr && !ret; i++) {
		if (image_find(&c->img, c->state.bitmap[i].name))
			continue;
		say("%s: bitmap '%s' was removed by another program", esc(c->f.path),
		    esc(c->state.bitmap[i].name));
		*changed = true;
	}
	if (ret) {
		state_free(&to);
		return ret;
	}
	state_free(&c->state);
	c->state = to;
	return 0;
}

/* ---- places ------------------------------------------------------------ */

/* What only stood for intents and free space of the last time is free. */
static void free_pseudo(struct container *c)
{
	const struct state *s = &c->state;
	size_t i;
	uint64_t k;

	for (i = 0; i < c->img.nr; i++) {
		const struct entry *e = &c->img.entry[i];

		for (k = 0; k < e->clusters && is_pseudo(c, e->name); k++)
			if (e->table[k] > 1)
				image_mark(&c->img, e->table[k], CLUSTER, false);
	}
	for (i = 0; i < s->nr; i++)
		image_mark(&c->img, s->bitmap[i].offset, s->bitmap[i].length, true);
	if (!(s->flags & CBW_STATE_CLEAN)) {
		image_mark(&c->img, s->intent_offset[0], s->intent_length, true);
		image_mark(&c->img, s->intent_offset[1], s->intent_length, true);
	}
}

int layout_places(struct container *c, bool *changed, struct cbw_error *err)
{
	uint32_t i;
	int ret = 0;

	free_pseudo(c);
	for (i = 0; i < c->state.nr && !ret; i++) {
		struct state_bitmap *b = &c->state.bitmap[i];
		uint64_t clusters = clusters_of(c, b), place;
		struct bits bits;

		if (!(b->offset % CLUSTER) && b->length >= clusters * CLUSTER) {
			/* of a volume that was larger; the directory has no more than this */
			*changed |= b->length != clusters * CLUSTER;
			b->length = clusters * CLUSTER;
			continue;
		}
		bits_of_place(c, b->offset, b->granularity, &bits);
		ret = image_take(&c->img, clusters, &place, err);
		if (!ret)
			ret = bits_copy(&bits, &c->f, place, err);
		b->offset = place;
		b->length = clusters * CLUSTER;
		*changed = true;
	}
	return ret;
}

int layout_reset(struct container *c, struct cbw_error *err)
{
	struct state to = c->state;
	uint32_t i;
	size_t k;
	int ret = 0;

	free_pseudo(c);
	/* a state that says that the container has failed has no list of bitmaps */
	for (k = 0; k < c->img.nr; k++) {
		const struct entry *e = &c->img.entry[k];
		struct state_bitmap *b;

		if (is_pseudo(c, e->name) || strchr(e->name, '/') || to.nr == CBW_BITMAPS_MAX ||
		    state_find(&to, e->name))
			continue;
		b = state_add(&to, e->name);
		b->granularity = 1u << e->bits;
		b->flags = e->flags & ENTRY_AUTO ? CBW_STATE_ENABLED : 0;
	}
	to.device_size = c->img.size;
	to.flags = CBW_STATE_CLEAN;
	to.intent_length = 0;
	c->state = to;
	c->no_state = false;
	for (i = 0; i < to.nr && !ret; i++) {
		struct state_bitmap *b = &to.bitmap[i];
		struct bits bits;

		b->length = clusters_of(c, b) * CLUSTER;
		memset(&b->base, 0, sizeof(b->base));
		ret = image_take(&c->img, b->length / CLUSTER, &b->offset, err);
		if (!ret)
			ret = cfile_zero(&c->f, b->offset, b->length, err);
		bits_of_place(c, b->offset, b->granularity, &bits);
		if (!ret)
			ret = bits_crc(&bits, &b->crc32c, err);
	}
	return ret;
}

/* ---- free space -------------------------------------------------------- */

/* Clusters of the largest bitmap that takes no more than @clusters; 0: none does. */
static uint64_t best_cover(uint64_t size, uint64_t clusters, uint32_t *bits)
{
	uint32_t b;

	for (b = 9; b <= 31; b++) {
		uint64_t n = bitmap_clusters(size, b);

		if (n > clusters || n * CLUSTER > 512u << 20)
			continue;
		*bits = b;
		return n;
	}
	return 0;
}

/* Bitmaps of the directory that stand for @clusters. */
static uint64_t covers(uint64_t size, uint64_t clusters)
{
	uint64_t nr = 0, n;
	uint32_t bits;

	while ((n = best_cover(size, clusters, &bits)) && nr <= SPACES_MAX) {
		nr += clusters / n;
		clusters %= n;
	}
	return nr;
}

static void add_spaces(struct container *c, struct entry **list, size_t *nr,
		       unsigned int number, const struct cbw_place *space)
{
	uint64_t at = 0, n;
	uint32_t bits;

	while (at < space->length &&
	       (n = best_cover(c->img.size, (space->length - at) / CLUSTER, &bits))) {
		char *name = xasprintf(SPACE "%u", number++);

		entries_add(list, nr, name, ENTRY_IN_USE, bits, n, space->offset + at);
		free(name);
		at += n * CLUSTER;
	}
}

/* As much as possible, but for what directories and refcounts need, now and two times more. */
static uint64_t largest_room(const struct container *c, uint64_t *offset)
{
	uint64_t i, free = 0, run = image_free_run(&c->img, offset), room, meta;

	for (i = 0; i < c->img.clusters; i++)
		free += !c->img.used[i];
	for (room = run; room; room -= room < 8 ? 1 : room / 8) {
		meta = c->state.nr + 8 + covers(c->img.size, room) + c->img.clusters / 32768;
		if (covers(c->img.size, room) <= SPACES_MAX && room + 3 * meta <= free)
			break;
	}
	return room;
}

/* Whole bitmaps: the largest volumes have none of one cluster. */
static uint64_t whole(uint64_t size, uint64_t clusters)
{
	uint64_t n = bitmap_clusters(size, 31);

	return clusters / n * n;
}

static int find_space(struct container *c, uint64_t room, struct cbw_place *space,
		      struct cbw_error *err)
{
	uint64_t run, offset = 0;
	int ret;

	if (!room) {
		run = whole(c->img.size, largest_room(c, &offset));
		image_mark(&c->img, offset, run * CLUSTER, true);
		*space = (struct cbw_place){ offset, run * CLUSTER };
		return 0;
	}
	room = whole(c->img.size, room + bitmap_clusters(c->img.size, 31) - 1);
	ret = image_take(&c->img, room, &offset, err);
	if (!ret)
		*space = (struct cbw_place){ offset, room * CLUSTER };
	return ret;
}

/* ---- directories ------------------------------------------------------- */

static void list_bitmaps(struct container *c, uint32_t flags, struct entry **list, size_t *nr)
{
	uint32_t i;

	for (i = 0; i < c->state.nr; i++) {
		const struct state_bitmap *b = &c->state.bitmap[i];

		entries_add(list, nr, b->name,
			    flags | (b->flags & CBW_STATE_ENABLED ? ENTRY_AUTO : 0),
			    log2_of(b->granularity), clusters_of(c, b), b->offset);
	}
}

static int take_intents(struct container *c, uint32_t region_shift, struct cbw_error *err)
{
	uint64_t n = bitmap_clusters(c->state.device_size, region_shift);
	int i, ret = 0;

	c->state.region_shift = region_shift;
	c->state.intent_length = n * CLUSTER;
	for (i = 0; i < 2 && !ret; i++) {
		ret = image_take(&c->img, n, &c->state.intent_offset[i], err);
		if (!ret)
			ret = cfile_zero(&c->f, c->state.intent_offset[i], n * CLUSTER, err);
	}
	return ret;
}

int layout_attached(struct container *c, const char *backing, uint32_t region_shift,
		    uint64_t room, struct cbw_place *space, struct cbw_error *err)
{
	struct entry *list = NULL;
	uint64_t clusters;
	size_t nr = 0;
	int ret;

	free_pseudo(c);
	ret = image_resize(&c->img, c->state.device_size, err);
	if (!ret && c->state.flags & CBW_STATE_CLEAN)
		ret = take_intents(c, region_shift, err);
	if (!ret)
		ret = find_space(c, room, space, err);
	if (ret)
		return ret;
	list_bitmaps(c, ENTRY_IN_USE, &list, &nr);
	region_shift = c->state.region_shift;
	clusters = bitmap_clusters(c->state.device_size, region_shift);
	entries_add(&list, &nr, INTENT_A, ENTRY_IN_USE, region_shift, clusters,
		    c->state.intent_offset[0]);
	entries_add(&list, &nr, INTENT_B, ENTRY_IN_USE, region_shift, clusters,
		    c->state.intent_offset[1]);
	add_spaces(c, &list, &nr, 0, space);
	return image_commit(&c->img, list, nr, backing, err);
}

int layout_detached(struct container *c, struct cbw_error *err)
{
	struct entry *list = NULL;
	bool changed = false;
	size_t nr = 0;
	uint32_t i;
	int ret;

	ret = image_resize(&c->img, c->state.device_size, err);
	if (!ret)
		ret = layout_places(c, &changed, err);
	for (i = 0; i < c->state.nr && !ret; i++) {
		struct state_bitmap *b = &c->state.bitmap[i];
		struct bits bits;

		bits_of_place(c, b->offset, b->granularity, &bits);
		ret = bits_crc(&bits, &b->crc32c, err);
	}
	c->state.intent_length = 0;
	c->state.intent_offset[0] = 0;
	c->state.intent_offset[1] = 0;
	if (!ret)
		ret = image_write_state(&c->img, &c->state, err);
	if (ret)
		return ret;
	list_bitmaps(c, 0, &list, &nr);
	ret = image_commit(&c->img, list, nr, NULL, err);
	if (!ret)
		c->phase = PHASE_CLEAN;
	return ret;
}

int layout_grow(struct container *c, uint64_t clusters, struct cbw_place *space,
		struct cbw_error *err)
{
	struct entry *list = NULL;
	unsigned int number = 0, n;
	size_t nr = 0, i;
	int ret, end;

	ret = find_space(c, clusters, space, err);
	if (ret)
		return ret;
	for (i = 0; i < c->img.nr; i++) {
		const struct entry *e = &c->img.entry[i];

		entries_add(&list, &nr, e->name, e->flags, e->bits, e->clusters, 0);
		memcpy(list[nr - 1].table, e->table, e->clusters * 8);
		end = 0;
		if (sscanf(e->name, SPACE "%9u%n", &n, &end) == 1 && !e->name[end] && n >= number)
			number = n + 1;
	}
	add_spaces(c, &list, &nr, number, space);
	return image_commit(&c->img, list, nr, NULL, err);
}
