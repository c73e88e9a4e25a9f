// SPDX-License-Identifier: GPL-2.0-or-later
/* status, list: tracked devices, their bitmaps and snapshots */
#include <json-c/json.h>

#include "cbw.h"
#include "show.h"

struct json_object *json_bitmap(const struct cbw_bitmap *b)
{
	struct json_object *o = json_object_new_object();
	char text[CBW_CUT_HEX];

	json_object_object_add(o, "name", json_object_new_string(esc(b->name)));
	json_object_object_add(o, "granularity",
			       json_object_new_int64(b->granularity));
	json_object_object_add(o, "dirty_bytes",
			       json_object_new_uint64(b->dirty_bytes));
	json_object_object_add(o, "enabled", json_object_new_boolean(
			       !!(b->flags & CBW_BITMAP_ENABLED)));
	json_object_object_add(o, "busy", json_object_new_boolean(
			       !!(b->flags & CBW_BITMAP_BUSY)));
	json_object_object_add(o, "persistent", json_object_new_boolean(
			       !!(b->flags & CBW_BITMAP_PERSISTENT)));
	json_object_object_add(o, "inconsistent", json_object_new_boolean(
			       !!(b->flags & CBW_BITMAP_INCONSISTENT)));
	json_object_object_add(o, "base", cbw_cut_is_none(&b->base) ? NULL :
			       json_object_new_string(
			       cbw_cut_to_text(&b->base, text)));
	json_object_object_add(o, "cut", cbw_cut_is_none(&b->cut) ? NULL :
			       json_object_new_string(
			       cbw_cut_to_text(&b->cut, text)));
	return o;
}

void show_bitmap(const struct cbw_bitmap *b, const char *indent)
{
	char base[CBW_CUT_HEX], cut[CBW_CUT_HEX];

	printf("%sbitmap %s  granularity %s  dirty %s  %s%s%s%s  base %s", indent,
	       esc(b->name), human(b->granularity), human(b->dirty_bytes),
	       b->flags & CBW_BITMAP_ENABLED ? "recording" : "disabled",
	       b->flags & CBW_BITMAP_BUSY ? ", busy" : "",
	       b->flags & CBW_BITMAP_PERSISTENT ? ", persistent" : "",
	       b->flags & CBW_BITMAP_INCONSISTENT ? ", inconsistent" : "",
	       cbw_cut_is_none(&b->base) ? "none" :
	       cbw_cut_to_text(&b->base, base));
	if (!cbw_cut_is_none(&b->cut))
		printf("  frozen at %s", cbw_cut_to_text(&b->cut, cut));
	putchar('\n');
}

static struct json_object *json_snapshot(const struct cbw_dm_dev *dev,
					 const struct cbw_snapshot_info *i)
{
	struct json_object *o = json_object_new_object();
	char text[CBW_CUT_HEX];

	json_object_object_add(o, "name",
			       json_object_new_string(esc(dev->name)));
	json_object_object_add(o, "state", json_object_new_string(
			       cbw_state_text(i->out_state)));
	json_object_object_add(o, "reason", i->out_reason ?
			       json_object_new_string(
			       cbw_reason_text(i->out_reason)) : NULL);
	json_object_object_add(o, "cut", cbw_cut_is_none(&i->cut) ? NULL :
			       json_object_new_string(
			       cbw_cut_to_text(&i->cut, text)));
#define NUM(key, value) json_object_object_add(o, key, \
		json_object_new_uint64(value))
	NUM("chunk_size", i->out_chunk_size);
	NUM("store_used_chunks", i->out_store_used);
	NUM("store_chunks", i->out_store_chunks);
	NUM("needed_chunks", i->out_needed);
	NUM("released_chunks", i->out_released);
	NUM("copied_chunks", i->out_copied);
	NUM("held_writes", i->out_held);
	NUM("max_hold_us", i->out_max_hold_us);
	NUM("discards_deferred_bytes", i->out_discards_deferred);
	NUM("poisoned_chunks", i->out_poisoned);
#undef NUM
	return o;
}

static void show_snapshot(const struct cbw_dm_dev *dev,
			  const struct cbw_snapshot_info *i)
{
	char text[CBW_CUT_HEX];

	printf("  snapshot %s  %s%s%s  cut %s  chunk %s  store %llu of %llu chunks  needed %llu  released %llu  copied %llu\n",
	       esc(dev->name), cbw_state_text(i->out_state),
	       i->out_reason ? " " : "",
	       i->out_reason ? cbw_reason_text(i->out_reason) : "",
	       cbw_cut_is_none(&i->cut) ? "none" :
	       cbw_cut_to_text(&i->cut, text), human(i->out_chunk_size),
	       (ull)i->out_store_used, (ull)i->out_store_chunks,
	       (ull)i->out_needed, (ull)i->out_released, (ull)i->out_copied);
	if (i->out_poisoned)
		printf("    %llu chunks are unreadable on the origin\n",
		       (ull)i->out_poisoned);
}

static struct json_object *json_device(const struct cbw_dm_dev *dev)
{
	struct json_object *o = json_object_new_object();
	char *text;

	json_object_object_add(o, "name",
			       json_object_new_string(esc(dev->name)));
	text = xasprintf("%u:%u", dev->dev.major, dev->dev.minor);
	json_object_object_add(o, "device", json_object_new_string(text));
	free(text);
	text = xasprintf("%u:%u", dev->origin.major, dev->origin.minor);
	json_object_object_add(o, "origin", json_object_new_string(text));
	free(text);
	text = dev->container.major ? xasprintf("%u:%u", dev->container.major,
						dev->container.minor) : NULL;
	json_object_object_add(o, "container", text ? json_object_new_string(text) : NULL);
	free(text);
	json_object_object_add(o, "size", json_object_new_uint64(dev->size));
	json_object_object_add(o, "attached",
			       json_object_new_boolean(dev->attached));
	json_object_object_add(o, "suspended",
			       json_object_new_boolean(dev->suspended));
	return o;
}

static int one_device(struct cbw_session *session,
		      const struct cbw_dm_dev *dev,
		      const struct cbw_dm_dev *all, size_t nr_all,
		      struct json_object *array)
{
	struct json_object *o = NULL, *jb = NULL, *js = NULL;
	struct cbw_bitmap *list;
	struct cbw_error err;
	size_t nr, i;

	if (cbw_bitmap_list(session, dev->dev, &list, &nr, NULL, &err))
		return failed("%s: %s", esc(dev->name), err.msg);
	if (array) {
		o = json_device(dev);
		jb = json_object_new_array();
		js = json_object_new_array();
	} else {
		printf("%s  %u:%u  %s  origin %u:%u  %s%s", esc(dev->name),
		       dev->dev.major, dev->dev.minor, human(dev->size),
		       dev->origin.major, dev->origin.minor,
		       dev->attached ? "attached" : "stacked",
		       dev->suspended ? ", suspended" : "");
		if (dev->container.major)
			printf("  container %u:%u", dev->container.major, dev->container.minor);
		putchar('\n');
	}
	for (i = 0; i < nr; i++) {
		if (array)
			json_object_array_add(jb, json_bitmap(&list[i]));
		else
			show_bitmap(&list[i], "  ");
	}
	free(list);
	for (i = 0; i < nr_all; i++) {
		struct cbw_snapshot_info info;

		if (all[i].kind != CBW_DM_SNAPSHOT ||
		    all[i].origin.major != dev->dev.major ||
		    all[i].origin.minor != dev->dev.minor ||
		    cbw_snapshot_get_info(session, all[i].dev, NULL, &info,
					  NULL))
			continue;
		if (array)
			json_object_array_add(js, json_snapshot(&all[i],
								&info));
		else
			show_snapshot(&all[i], &info);
	}
	if (array) {
		json_object_object_add(o, "bitmaps", jb);
		json_object_object_add(o, "snapshots", js);
		json_object_array_add(array, o);
	}
	return EXIT_OK;
}

int cmd_status(int argc, char **argv)
{
	bool json = false;
	struct opt opts[] = {
		{ "json", OPT_FLAG, &json, NULL, "one line of JSON" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw status",
		.args = "[DEV] [--json]",
		.about = "Shows the tracked devices, or DEV alone, with bitmaps and snapshots.",
		.opts = opts,
		.min_args = 0, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct json_object *array = NULL;
	struct cbw_session *session;
	struct cbw_dm_dev one, *all;
	struct cbw_error err;
	size_t nr, i;

	if (status >= 0)
		return status;
	if (cl.nr_args) {
		if (cbw_dm_find(cl.arg[0], &one, &err))
			return failed("status: %s", err.msg);
		if (one.kind != CBW_DM_TRACKED)
			return failed("status: %s: it has no cbw target",
				      esc(one.name));
	}
	if (cbw_session_open(&session, &err) ||
	    cbw_dm_list(&all, &nr, &err))
		return failed("status: %s", err.msg);
	if (json)
		array = json_object_new_array();
	status = EXIT_OK;
	for (i = 0; i < nr && status == EXIT_OK; i++) {
		if (all[i].kind != CBW_DM_TRACKED ||
		    (cl.nr_args && (all[i].dev.major != one.dev.major ||
				    all[i].dev.minor != one.dev.minor)))
			continue;
		status = one_device(session, &all[i], all, nr, array);
	}
	free(all);
	cbw_session_close(session);
	if (json) {
		struct json_object *o = json_object_new_object();

		json_object_object_add(o, "devices", array);
		json_line(o);
	}
	return status;
}
