// SPDX-License-Identifier: GPL-2.0-or-later
/* a container: what is in it, and whether it is to be trusted */
#include <inttypes.h>

#include "cbw.h"
#include "container.h"
#include "marker.h"

static bool all_zero(const unsigned char *p, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

static void bad(struct container *c, const struct cbw_error *why)
{
	c->phase = PHASE_BAD;
	c->why = *why;
}

/* Does an array with a byte for each cluster have all of a place? */
static bool has_all(const unsigned char *clusters, uint64_t offset, uint64_t length)
{
	uint64_t at;

	for (at = offset / CLUSTER; at * CLUSTER < offset + length; at++)
		if (!clusters[at])
			return false;
	return true;
}

/*
 * What the state refers to has to be what the directory has in use, and cbw, not another program:
 * that may have moved bitmaps, or removed what stands for room, and the place be anybody's now.
 */
static int check_claims(const struct container *c, struct cbw_error *why)
{
	const struct image *img = &c->img;
	const struct state *s = &c->state;
	uint64_t intents = bits_bytes(s->device_size, 1ull << s->region_shift), k;
	unsigned char *claimed;
	const char *what = NULL;
	uint32_t i;

	if (!image_find(img, INTENT_A))
		return fail_with(why, EUCLEAN,
				 "%s: its bitmaps are in use, but not attached: another program has changed it",
				 esc(c->f.path));
	claimed = xcalloc(img->clusters + 1, 1);
	for (i = 0; i < img->nr; i++)
		for (k = 0; img->entry[i].flags & ENTRY_IN_USE && k < img->entry[i].clusters; k++)
			if (img->entry[i].table[k] > 1)
				claimed[img->entry[i].table[k] / CLUSTER] = 1;
	for (i = 0; i < s->nr && !what; i++)
		if (!has_all(claimed, s->bitmap[i].offset,
			     bits_bytes(s->device_size, s->bitmap[i].granularity)))
			what = s->bitmap[i].name;
	if (!what && !(s->flags & CBW_STATE_CLEAN) &&
	    (!has_all(claimed, s->intent_offset[0], intents) ||
	     !has_all(claimed, s->intent_offset[1], intents)))
		what = INTENT_A;
	free(claimed);
	if (!what)
		return 0;
	return fail_with(why, EUCLEAN,
			 "%s: '%s' does not lie where the directory of bitmaps has it: another program has changed it",
			 esc(c->f.path), esc(what));
}

static void find_phase(struct container *c)
{
	bool clean = c->state.flags & CBW_STATE_CLEAN, in_use = image_in_use(&c->img);
	struct cbw_error why;
	uint32_t i;

	if (clean && !in_use) {
		c->phase = PHASE_CLEAN;
		if (c->state.device_size == c->img.size)
			return;
		fail_with(&why, EUCLEAN, "%s: its state is of a volume of %" PRIu64
			  " bytes, the image of one of %" PRIu64, esc(c->f.path),
			  c->state.device_size, c->img.size);
		bad(c, &why);
		return;
	}
	c->phase = clean ? PHASE_STOPPED : PHASE_OPEN;
	if (state_places(&c->state, CLUSTER, c->img.clusters * CLUSTER, STATE_ALIGN, &why)) {
		bad(c, &why);
	} else if (!clean && !in_use) {
		fail_with(&why, EUCLEAN,
			  "%s: it was attached, and its directory of bitmaps is that of a detached one: somebody else has changed it",
			  esc(c->f.path));
		bad(c, &why);
	} else if (check_claims(c, &why)) {
		bad(c, &why);
	} else {
		for (i = 0; i < c->state.nr; i++)
			image_mark(&c->img, c->state.bitmap[i].offset, c->state.bitmap[i].length,
				   true);
		image_mark(&c->img, c->state.intent_offset[0], c->state.intent_length, true);
		image_mark(&c->img, c->state.intent_offset[1], c->state.intent_length, true);
	}
}

int container_load(struct container *c, struct cbw_error *err)
{
	unsigned char *head = cfile_buffer(CFILE_ALIGN);
	struct cbw_error why = { 0 };
	int ret;

	c->phase = PHASE_EMPTY;
	c->no_state = true;
	ret = c->f.size ? cfile_read(&c->f, head, CFILE_ALIGN, 0, err) : 0;
	if (!ret && all_zero(head, CFILE_ALIGN)) {
		free(head);
		return 0;
	}
	free(head);
	if (ret)
		return ret;
	ret = image_load(&c->f, &c->img, &why);
	if (ret == -EUCLEAN) {
		bad(c, &why);
		return 0;
	}
	if (ret)
		return fail_with(err, -ret, "%s", why.msg);
	ret = image_read_state(&c->img, &c->state, &why);
	if (ret == -ENOENT && !c->img.slots) {
		image_free(&c->img);
		return fail_with(err, ENODATA,
				 "%s: it is a qcow2 image, but no container of cbw's",
				 esc(c->f.path));
	}
	if (ret) {
		bad(c, &why);
		return 0;
	}
	c->no_state = false;
	find_phase(c);
	return 0;
}

void container_free(struct container *c)
{
	state_free(&c->state);
	image_free(&c->img);
	c->no_state = true;
	c->phase = PHASE_EMPTY;
}

void container_close(struct container *c)
{
	container_free(c);
	cfile_close(&c->f);
}

/* ---- trust ------------------------------------------------------------- */

int read_boot_id(struct cbw_cut_id *id, struct cbw_error *err)
{
	static const char path[] = "/proc/sys/kernel/random/boot_id";
	char line[64], hex[CBW_CUT_HEX];
	FILE *f = fopen(path, "re");
	size_t i, n = 0;

	if (!f)
		return fail_with(err, errno, "%s: %s", path, strerror(errno));
	if (!fgets(line, sizeof(line), f))
		line[0] = '\0';
	fclose(f);
	for (i = 0; line[i] && n < sizeof(hex) - 1; i++)
		if (line[i] != '-' && line[i] != '\n')
			hex[n++] = line[i];
	hex[n] = '\0';
	if (cbw_cut_from_text(hex, id))
		return fail_with(err, EIO, "%s: it holds no id: '%s'", path, esc(line));
	return 0;
}

/*
 * Nobody has written to the volume since the bitmaps were what they are. In the same boot
 * the device's own statistics tell, if it is still the same device; another one, and any after
 * a reboot, was not written at all.
 */
static int check_written(const struct state *s, const struct binding *was,
			 const struct binding *now, bool same_boot, struct cbw_error *err)
{
	bool tracked = !(s->flags & (CBW_STATE_CLEAN | CBW_STATE_ATTACHING));
	bool same = same_boot && was->instance && was->instance == now->instance;
	bool clean = s->flags & CBW_STATE_CLEAN;
	uint64_t expected = 0;

	if (now->uncounted || (same && was->uncounted))
		return fail_with(err, EUCLEAN,
				 "its statistics %s switched off (queue/iostats in sysfs), so nobody can tell whether it was written to; leave them on",
				 now->uncounted ? "are" : "were");
	/* who had it open wrote on, and only that device's count tells whether */
	if (was->open && !tracked && !same)
		return fail_with(err, EUCLEAN,
				 "the volume was in use when it was detached, or not attached yet, so writes may have gone by until it was taken down");
	if (same)
		expected = clean && !was->stacked ? s->written : was->written;
	else if (same_boot && !clean)
		return fail_with(err, EUCLEAN,
				 "the volume was taken down in this boot without 'cbw detach' or 'cbw remove', so writes may have gone by");
	if (now->written == expected)
		return 0;
	if (expected)
		return fail_with(err, EUCLEAN,
				 "the volume was written to while detached (%" PRIu64 " sectors until then, %" PRIu64 " now)",
				 expected, now->written);
	return fail_with(err, EUCLEAN,
			 "the volume was written to before it was attached (%" PRIu64 " sectors)",
			 now->written);
}

int container_noted(const struct container *c, struct cbw_error *err)
{
	const struct state *s = &c->state;
	uint64_t noted;

	if (c->no_state)
		return 0;
	if (s->flags & CBW_STATE_UNTRACKED)
		return fail_with(err, EUCLEAN,
				 "%s: the volume ran on without its container, so writes may have gone by",
				 esc(c->f.path));
	noted = marker_read(&s->container);
	if (noted && noted >= s->generation)
		return fail_with(err, EUCLEAN,
				 "%s: it failed while the volume was attached (noted in " MARKER_DIR "), so writes have gone by",
				 esc(c->f.path));
	return 0;
}

int container_judge(const struct container *c, const struct binding *now,
		    const struct cbw_cut_id *boot_id, enum take *take, struct cbw_error *err)
{
	const struct state *s = &c->state;
	bool clean = s->flags & CBW_STATE_CLEAN, same_boot;
	struct cbw_error why;
	struct binding was;
	int ret;

	if (c->phase == PHASE_BAD)
		return fail_with(err, EUCLEAN, "%s", c->why.msg);
	ret = container_noted(c, err);
	if (ret)
		return ret;
	/* one that was just made, or emptied: there is nothing that could be wrong */
	if (clean && !s->nr && !s->binding_length && s->device_size == now->size) {
		*take = TAKE_EXACT;
		return 0;
	}
	same_boot = cbw_cut_equal(&s->boot_id, boot_id);
	ret = binding_parse(s->binding, s->binding_length, &was, &why);
	/* the size counts as the kernel has it: a volume may grow while it is attached */
	if (!ret) {
		was.size = s->device_size;
		ret = binding_compare(&was, now, s->flags & (CBW_STATE_CLEAN | CBW_STATE_ATTACHING),
				      &why);
	}
	if (!ret)
		ret = check_written(s, &was, now, same_boot, &why);
	if (ret)
		return fail_with(err, EUCLEAN, "%s: the bitmaps are not those of this volume as it is: %s",
				 esc(c->f.path), why.msg);
	*take = clean ? TAKE_EXACT : TAKE_RECOVER;
	return 0;
}
