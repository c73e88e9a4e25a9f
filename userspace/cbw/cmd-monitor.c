// SPDX-License-Identifier: GPL-2.0-or-later
/* monitor: a line for each event */
#include <json-c/json.h>
#include <time.h>

#include "cbw.h"

static const struct {
	enum cbw_event_type type;
	const char *name;	/* in JSON */
	const char *text;
} events[] = {
	{ CBW_EVENT_SNAPSHOT_FAILED, "snapshot-failed", "snapshot failed" },
	{ CBW_EVENT_SNAPSHOT_LOW_SPACE, "snapshot-low-space",
	  "snapshot: four fifths of its store are taken" },
	{ CBW_EVENT_SNAPSHOT_DRAINED, "snapshot-drained", "snapshot: nothing is needed any more" },
	{ CBW_EVENT_SOURCE_RESIZED, "source-resized", "has another size" },
	{ CBW_EVENT_SOURCE_GONE, "source-gone", "is tracked no more, and its bitmaps are gone" },
	{ CBW_EVENT_BITMAP_INCONSISTENT, "bitmap-inconsistent", "a bitmap is inconsistent" },
};

/* Its name while there is such a device; what happened may have been its end. */
static const char *device_name(struct cbw_devno dev, struct cbw_dm_dev *info)
{
	char number[32];

	snprintf(number, sizeof(number), "%u:%u", dev.major, dev.minor);
	return cbw_dm_find(number, info, NULL) ? NULL : info->name;
}

static void show(const struct cbw_event *e, bool json)
{
	const char *name, *text = "unknown event", *key = "unknown";
	char when[64], cut[CBW_CUT_HEX];
	time_t now = time(NULL);
	struct cbw_dm_dev info;
	struct json_object *o;
	struct tm tm;
	size_t i;

	for (i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		if (events[i].type != e->type)
			continue;
		key = events[i].name;
		text = events[i].text;
	}
	if (!gmtime_r(&now, &tm) || !strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm))
		when[0] = '\0';
	name = device_name(e->dev, &info);
	if (!json) {
		if (e->lost)
			printf("%s %u events were lost\n", when, e->lost);
		printf("%s %s (%u:%u): %s%s%s\n", when, name ? esc(name) : "a device",
		       e->dev.major, e->dev.minor, text, e->reason ? ", " : "",
		       e->reason ? cbw_reason_text(e->reason) : "");
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "time", json_object_new_string(when));
	json_object_object_add(o, "event", json_object_new_string(key));
	snprintf(when, sizeof(when), "%u:%u", e->dev.major, e->dev.minor);
	json_object_object_add(o, "device", json_object_new_string(when));
	json_object_object_add(o, "name", name ? json_object_new_string(esc(name)) : NULL);
	json_object_object_add(o, "cut", cbw_cut_is_none(&e->cut) ? NULL :
			       json_object_new_string(cbw_cut_to_text(&e->cut, cut)));
	json_object_object_add(o, "reason", e->reason ?
			       json_object_new_string(cbw_reason_text(e->reason)) : NULL);
	json_object_object_add(o, "lost", json_object_new_int64(e->lost));
	json_line(o);
}

int cmd_monitor(int argc, char **argv)
{
	bool json = false;
	struct opt opts[] = {
		{ "json", OPT_FLAG, &json, NULL, "a line of JSON for each" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw monitor",
		.args = "[--json]",
		.about = "Prints a line for each event, from now on, until it is stopped: snapshots that\n"
			"fail, run short of space or have been read, tracked devices that change their\n"
			"size or go.",
		.opts = opts,
		.min_args = 0, .max_args = 0,
	};
	int status = opts_parse(&cl, argc, argv), ret;
	struct cbw_session *session;
	struct cbw_event event;
	struct cbw_error err;

	if (status >= 0)
		return status;
	if (cbw_session_open(&session, &err))
		return failed("monitor: %s", err.msg);
	catch_signals();
	while (!stop_signal) {
		/* not for ever: a signal may come just before it waits */
		ret = cbw_event_next(session, 1000, &event, &err);
		if (ret == -EINTR || ret == -ETIMEDOUT)
			continue;
		if (ret) {
			cbw_session_close(session);
			return failed("monitor: %s", err.msg);
		}
		show(&event, json);
		/* for who reads it as it comes */
		if (fflush(stdout))
			break;
	}
	cbw_session_close(session);
	return EXIT_OK;
}
