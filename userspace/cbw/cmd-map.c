// SPDX-License-Identifier: GPL-2.0-or-later
/* map: what a bitmap says, of a tracked device or of a container */
#include <json-c/json.h>

#include "cbw.h"
#include "container.h"
#include "report.h"
#include "show.h"

/**
 * struct map - extents on their way out: neighbours that are alike become one
 * @array: NULL: as text
 */
struct map {
	struct cbw_extent last;
	struct json_object *array;
};

static void put_last(struct map *m)
{
	bool gone = m->last.flags & CBW_EXTENT_DISCARDED;
	struct json_object *o;

	if (!m->last.length)
		return;
	if (!m->array) {
		printf("%llu %llu dirty%s\n", (ull)m->last.offset, (ull)m->last.length,
		       gone ? ",discarded" : "");
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "offset", json_object_new_int64((int64_t)m->last.offset));
	json_object_object_add(o, "length", json_object_new_int64((int64_t)m->last.length));
	json_object_object_add(o, "discarded", json_object_new_boolean(gone));
	json_object_array_add(m->array, o);
}

static int put_extent(const struct cbw_extent *extent, void *arg)
{
	struct map *m = arg;

	if (m->last.length && m->last.offset + m->last.length == extent->offset &&
	    m->last.flags == extent->flags) {
		m->last.length += extent->length;
		return 0;
	}
	put_last(m);
	m->last = *extent;
	return 0;
}

/* One piece of bits, the first of them granule @first. */
static void put_bits(struct map *m, const unsigned char *buf, uint64_t bytes, uint64_t first,
		     uint64_t granularity, uint64_t size)
{
	uint64_t i, from, to;

	for (i = 0; i < bytes * 8; i++) {
		if (!(buf[i / 8] >> i % 8 & 1))
			continue;
		from = (first + i) * granularity;
		to = size - from < granularity ? size : from + granularity;
		put_extent(&(struct cbw_extent){
			.offset = from, .length = to - from, .flags = CBW_EXTENT_DIRTY,
		}, m);
	}
}

static int map_container(const char *path, const char *name, struct map *m)
{
	const struct state_bitmap *b = NULL;
	unsigned char *buf = NULL, *intent = NULL;
	struct container c = { 0 };
	uint64_t at, bytes, granules, regions = 0;
	const struct entry *e;
	struct cbw_error err;
	struct bits bits;
	uint32_t i;
	int ret;

	ret = cfile_open(path, 0, &c.f, &err);
	if (!ret)
		ret = container_load(&c, &err);
	if (!ret && (c.phase == PHASE_EMPTY || c.phase == PHASE_BAD || c.no_state))
		ret = fail_with(&err, ENODATA, "%s: it has no bitmaps that can be read ('cbw info' tells more)",
				esc(path));
	for (i = 0; !ret && i < c.state.nr; i++)
		if (!strcmp(c.state.bitmap[i].name, name))
			b = &c.state.bitmap[i];
	if (!ret && !b)
		ret = fail_with(&err, ENOENT, "%s has no bitmap '%s'", esc(path), esc(name));
	if (!ret && c.phase == PHASE_OPEN) {
		say("%s: it is attached, or was when the power failed: what a recovery would say",
		    esc(path));
		ret = read_intents(&c, &intent, &regions, &err);
	}
	if (ret)
		goto out;
	e = c.phase == PHASE_CLEAN ? image_find(&c.img, name) : NULL;
	if (e && 1ull << e->bits == b->granularity)
		bits_of_entry(&c.img, e, &bits);
	else
		bits_of_place(&c, b->offset, b->granularity, &bits);
	granules = c.state.device_size / b->granularity + !!(c.state.device_size % b->granularity);
	buf = cfile_buffer(BITS_STEP);
	for (at = 0; at < bits.bytes && !ret; at += BITS_STEP) {
		ret = bits_read(&bits, at, buf, &err);
		bytes = bits.bytes - at < BITS_STEP ? bits.bytes - at : BITS_STEP;
		if (!ret && intent)
			bits_expand(buf, bytes, at, granules,
				    (unsigned int)__builtin_ctz(b->granularity), intent, regions,
				    c.state.region_shift);
		if (!ret)
			put_bits(m, buf, bytes, at * 8, b->granularity, c.state.device_size);
	}
out:
	free(intent);
	free(buf);
	container_close(&c);
	return ret ? failed("map: %s", err.msg) : EXIT_OK;
}

static int map_device(const struct cbw_dm_dev *dev, const char *name, struct map *m)
{
	struct cbw_session *session;
	struct cbw_error err;
	int ret;

	ret = cbw_session_open(&session, &err);
	if (ret)
		return failed("map: %s", err.msg);
	ret = cbw_bitmap_extents(session, dev->dev, name, NULL, 0, put_extent, m, &err);
	cbw_session_close(session);
	return ret ? failed("map: %s: %s", esc(dev->name), err.msg) : EXIT_OK;
}

int cmd_map(int argc, char **argv)
{
	const char *name = NULL, *format = NULL;
	struct opt opts[] = {
		{ "bitmap", OPT_TEXT, &name, "NAME", "the bitmap" },
		{ "format", OPT_TEXT, &format, "text|json",
		  "text (default): \"offset length flags\" per line, bytes" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw map",
		.args = "DEV|CONTAINER --bitmap NAME [--format text|json]",
		.about = "Prints what is dirty in a bitmap of tracked device DEV, or of a container that is\n"
			"not attached.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_dm_dev dev;
	struct map m = { 0 };

	if (status >= 0)
		return status;
	if (!name)
		return usage("cbw map: which bitmap? give --bitmap NAME");
	if (!format)
		format = "text";
	if (strcmp(format, "text") && strcmp(format, "json"))
		return usage("cbw map: --format %s: text and json are known", esc(format));
	if (!strcmp(format, "json"))
		m.array = json_object_new_array();
	if (!cbw_dm_find(cl.arg[0], &dev, NULL) && dev.kind == CBW_DM_TRACKED)
		status = map_device(&dev, name, &m);
	else if (is_container_path(cl.arg[0]))
		status = map_container(cl.arg[0], name, &m);
	else
		status = failed("map: %s: it is neither a tracked device nor a container",
				esc(cl.arg[0]));
	if (status == EXIT_OK) {
		put_last(&m);
		if (m.array) {
			struct json_object *o = json_object_new_object();

			json_object_object_add(o, "extents", m.array);
			json_line(o);
			m.array = NULL;
		}
	}
	json_object_put(m.array);
	return status;
}
