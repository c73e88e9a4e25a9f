// SPDX-License-Identifier: GPL-2.0-or-later
/* map: a bitmap in a container that is not attached */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "cbw.h"
#include "container.h"
#include "map.h"

/* One piece of bits, the first of them granule @first. */
static int put_bits(struct map_out *out, const unsigned char *buf, uint64_t bytes, uint64_t first,
		    struct cbw_error *err)
{
	uint64_t i, from, to, granularity = out->info.granularity, size = out->info.size;
	int ret = 0;

	for (i = 0; i < bytes * 8 && !ret; i++) {
		if (!(buf[i / 8] >> i % 8 & 1))
			continue;
		from = (first + i) * granularity;
		to = size - from < granularity ? size : from + granularity;
		ret = map_put(out, &(struct cbw_extent){
			.offset = from, .length = to - from, .flags = CBW_EXTENT_DIRTY,
		}, err);
	}
	return ret;
}

static int put_bitmap(struct container *c, const struct state_bitmap *b, struct map_out *out,
		      struct cbw_error *err)
{
	unsigned char *buf = NULL, *intent = NULL;
	uint64_t at, bytes, granules, regions = 0;
	const struct entry *e;
	struct bits bits;
	int ret = 0;

	if (c->phase == PHASE_OPEN)
		ret = read_intents(c, &intent, &regions, err);
	if (ret)
		return ret;
	e = c->phase == PHASE_CLEAN ? image_find(&c->img, b->name) : NULL;
	if (e && 1ull << e->bits == b->granularity)
		bits_of_entry(&c->img, e, &bits);
	else
		bits_of_place(c, b->offset, b->granularity, &bits);
	granules = c->state.device_size / b->granularity +
		!!(c->state.device_size % b->granularity);
	buf = cfile_buffer(BITS_STEP);
	for (at = 0; at < bits.bytes && !ret; at += BITS_STEP) {
		ret = bits_read(&bits, at, buf, err);
		bytes = bits.bytes - at < BITS_STEP ? bits.bytes - at : BITS_STEP;
		if (!ret && intent)
			bits_expand(buf, bytes, at, granules,
				    (unsigned int)__builtin_ctz(b->granularity), intent, regions,
				    c->state.region_shift);
		if (!ret)
			ret = put_bits(out, buf, bytes, at * 8, err);
	}
	free(intent);
	free(buf);
	return ret;
}

/* What tells the volume, if it is here. -ENODEV: it is not */
static int look_at_volume(const struct container *c, struct binding *now, struct cbw_error *err)
{
	struct cbw_devno dev;
	struct stat st;
	char *path;
	int fd, ret;

	fd = c->img.backing ? open(c->img.backing, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
	if (fd < 0)
		return -ENODEV;
	if (fstat(fd, &st) || !S_ISBLK(st.st_mode)) {
		close(fd);
		return -ENODEV;
	}
	dev = (struct cbw_devno){ .major = major(st.st_rdev), .minor = minor(st.st_rdev) };
	path = xasprintf("/proc/self/fd/%d", fd);
	ret = binding_take(path, dev, now, err);
	free(path);
	close(fd);
	return ret;
}

/* What an attach would refuse is not told either; -EUCLEAN. */
static int judge(const struct container *c, struct cbw_error *err)
{
	struct binding now = { 0 };
	struct cbw_cut_id boot;
	struct cbw_dm_dev live;
	enum take take;
	int ret;

	if (c->phase == PHASE_BAD)
		return fail_with(err, EUCLEAN, "%s", c->why.msg);
	ret = container_noted(c, err);
	if (ret || container_live(c, &live))
		return ret;
	ret = read_boot_id(&boot, err);
	if (ret)
		return ret;
	ret = look_at_volume(c, &now, err);
	if (!ret)
		return container_judge(c, &now, &boot, &take, err);
	if (ret != -ENODEV)
		return ret;
	if (c->phase == PHASE_OPEN && cbw_cut_equal(&c->state.boot_id, &boot))
		return fail_with(err, EUCLEAN,
				 "%s: it was not stopped in order in this boot, so writes may have gone by",
				 esc(c->f.path));
	say("%s: its volume (%s) is not here: nobody looks whether that was written to while the container was not attached",
	    esc(c->f.path), esc(c->img.backing ? c->img.backing : "?"));
	return 0;
}

int map_container(const char *path, const char *name, struct map_out *out)
{
	const struct state_bitmap *b = NULL;
	struct container c = { .f = { .fd = -1 }, .no_state = true };
	struct cbw_error err, why;
	uint32_t i;
	int ret;

	ret = cfile_open(path, 0, &c.f, &err);
	if (!ret)
		ret = container_load(&c, &err);
	if (!ret && c.phase != PHASE_EMPTY)
		ret = judge(&c, &err);
	if (ret == -EUCLEAN) {
		say("map: %s", err.msg);
		say("map: %s: its bitmaps are not to be trusted: treat all of the volume as changed",
		    esc(path));
		container_close(&c);
		return EXIT_DISTRUST;
	}
	if (!ret && (c.phase == PHASE_EMPTY || c.no_state))
		ret = fail_with(&err, ENODATA, "%s: it has no bitmaps that can be read ('cbw info' tells more)",
				esc(path));
	for (i = 0; !ret && i < c.state.nr; i++)
		if (!strcmp(c.state.bitmap[i].name, name))
			b = &c.state.bitmap[i];
	/* detached, the directory says which there are: somebody may have removed it */
	if (b && c.phase == PHASE_CLEAN && !image_find(&c.img, b->name))
		b = NULL;
	if (!ret && !b)
		ret = fail_with(&err, ENOENT, "%s has no bitmap '%s'", esc(path), esc(name));
	if (!ret) {
		const struct map_info info = {
			.size = c.state.device_size, .granularity = b->granularity,
			.name = b->name, .backing = c.img.backing, .backing_format = "raw",
		};

		if (c.phase == PHASE_OPEN)
			say("%s: it is attached, or was when the power failed: what a recovery would say",
			    esc(path));
		ret = map_begin(out, &info, &why);
		if (ret)
			ret = fail_with(&err, -ret, "%s: %s", esc(path), why.msg);
	}
	if (!ret)
		ret = put_bitmap(&c, b, out, &err);
	out->info.name = out->info.backing = NULL;
	container_close(&c);
	return ret ? failed("map: %s", err.msg) : EXIT_OK;
}
