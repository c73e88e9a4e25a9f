// SPDX-License-Identifier: GPL-2.0-or-later
/* bitmap add, remove, clear, enable, disable, merge, copy, rename, list */
#include <json-c/json.h>

#include "attach.h"
#include "cbw.h"
#include "show.h"

/* DEV of the command line, which has to be tracked. */
int find_tracked(const char *what, const char *arg, struct cbw_dm_dev *dev)
{
	struct cbw_error err;

	if (cbw_dm_find(arg, dev, &err))
		return failed("%s: %s", what, err.msg);
	if (dev->kind != CBW_DM_TRACKED)
		return failed("%s: %s: it has no cbw target; attach it first (cbw attach)",
			      what, esc(dev->name));
	return EXIT_OK;
}

/* @room: granularity of the bitmap that is made, if the container may have to grow for it */
static int run(const char *what, struct cbw_txn *txn, const struct cbw_dm_dev *dev,
	       uint32_t room)
{
	struct cbw_session *session;
	struct cbw_error err;
	int status = EXIT_OK, ret;

	if (cbw_session_open(&session, &err)) {
		cbw_txn_free(txn);
		return failed("%s: %s", what, err.msg);
	}
	ret = cbw_txn_run(session, txn, NULL, &err);
	if (ret == -ENOSPC && room && dev->container.major &&
	    !container_make_room(session, dev, room, &err))
		ret = cbw_txn_run(session, txn, NULL, &err);
	if (ret)
		status = failed("%s: %s: %s", what, esc(dev->name), err.msg);
	cbw_txn_free(txn);
	cbw_session_close(session);
	return status;
}

static int bitmap_add(int argc, char **argv)
{
	uint64_t granularity = 0;
	bool disabled = false, transient = false;
	struct opt opts[] = {
		{ "granularity", OPT_SIZE, &granularity, "N",
		  "bytes per bit: a power of two, 512 to 2G; default 64K" },
		{ "disabled", OPT_FLAG, &disabled, NULL,
		  "do not record yet" },
		{ "transient", OPT_FLAG, &transient, NULL,
		  "never save it" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw bitmap add",
		.args = "DEV NAME [--granularity N] [--disabled] [--transient]",
		.about = "Adds bitmap NAME to tracked device DEV; it records from now on.",
		.opts = opts,
		.min_args = 2, .max_args = 2,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_dm_dev dev;
	struct cbw_error err;
	struct cbw_txn *txn;

	if (status >= 0)
		return status;
	if (granularity && (granularity & (granularity - 1) ||
			    granularity < CBW_GRANULARITY_MIN ||
			    granularity > CBW_GRANULARITY_MAX))
		return usage("cbw bitmap add: --granularity %llu: it has to be a power of two from 512 to 2G",
			     (ull)granularity);
	if (cbw_name_check(cl.arg[1], &err))
		return usage("cbw bitmap add: %s", err.msg);
	if (!strncmp(cl.arg[1], PSEUDO, strlen(PSEUDO)))
		return usage("cbw bitmap add: '%s': names that begin with " PSEUDO " are those of containers themselves",
			     esc(cl.arg[1]));
	status = find_tracked("bitmap add", cl.arg[0], &dev);
	if (status)
		return status;
	txn = cbw_txn_new();
	if (!txn)
		return failed("out of memory");
	cbw_txn_bitmap_add(txn, dev.dev, cl.arg[1], (uint32_t)granularity,
			   (disabled ? CBW_ADD_DISABLED : 0) |
			   (transient ? CBW_ADD_TRANSIENT : 0), NULL);
	return run("bitmap add", txn, &dev, transient ? 0 :
		   granularity ? (uint32_t)granularity : CBW_GRANULARITY_DEFAULT);
}

static int simple(int argc, char **argv, enum cbw_action_type action,
		  const char *command, const char *about)
{
	struct cmdline cl = {
		.command = command,
		.args = "DEV NAME",
		.about = about,
		.min_args = 2, .max_args = 2,
	};
	int status = opts_parse(&cl, argc, argv);
	const char *what = command + strlen("cbw ");
	struct cbw_dm_dev dev;
	struct cbw_error err;
	struct cbw_txn *txn;

	if (status >= 0)
		return status;
	if (cbw_name_check(cl.arg[1], &err))
		return usage("%s: %s", command, err.msg);
	status = find_tracked(what, cl.arg[0], &dev);
	if (status)
		return status;
	txn = cbw_txn_new();
	if (!txn)
		return failed("out of memory");
	cbw_txn_bitmap(txn, action, dev.dev, cl.arg[1], NULL);
	return run(what, txn, &dev, 0);
}

static int bitmap_remove(int argc, char **argv)
{
	return simple(argc, argv, CBW_ACTION_BITMAP_REMOVE, "cbw bitmap remove",
		      "Removes bitmap NAME of tracked device DEV.");
}

static int bitmap_clear(int argc, char **argv)
{
	return simple(argc, argv, CBW_ACTION_BITMAP_CLEAR, "cbw bitmap clear",
		      "Forgets what bitmap NAME of DEV has recorded, and its base: the next backup that\n"
		      "uses it is a full one.");
}

static int bitmap_enable(int argc, char **argv)
{
	return simple(argc, argv, CBW_ACTION_BITMAP_ENABLE, "cbw bitmap enable",
		      "Bitmap NAME of DEV records from now on.");
}

static int bitmap_disable(int argc, char **argv)
{
	return simple(argc, argv, CBW_ACTION_BITMAP_DISABLE,
		      "cbw bitmap disable",
		      "Bitmap NAME of DEV records no longer, and has no base any more: the next backup\n"
		      "that uses it is a full one.");
}

static int bitmap_list(int argc, char **argv)
{
	bool json = false;
	struct opt opts[] = {
		{ "json", OPT_FLAG, &json, NULL, "one line of JSON" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw bitmap list",
		.args = "DEV [NAME] [--json]",
		.about = "Lists the bitmaps of tracked device DEV.",
		.opts = opts,
		.min_args = 1, .max_args = 2,
	};
	int status = opts_parse(&cl, argc, argv);
	struct json_object *array = NULL;
	struct cbw_session *session;
	struct cbw_bitmap *list;
	struct cbw_dm_dev dev;
	struct cbw_error err;
	bool found = false;
	size_t nr, i;

	if (status >= 0)
		return status;
	status = find_tracked("bitmap list", cl.arg[0], &dev);
	if (status)
		return status;
	if (cbw_session_open(&session, &err) ||
	    cbw_bitmap_list(session, dev.dev, &list, &nr, NULL, &err))
		return failed("bitmap list: %s", err.msg);
	cbw_session_close(session);
	if (json)
		array = json_object_new_array();
	for (i = 0; i < nr; i++) {
		if (cl.nr_args == 2 && strcmp(cl.arg[1], list[i].name))
			continue;
		found = true;
		if (json)
			json_object_array_add(array, json_bitmap(&list[i]));
		else
			show_bitmap(&list[i], "");
	}
	free(list);
	if (json) {
		struct json_object *o = json_object_new_object();

		json_object_object_add(o, "bitmaps", array);
		json_line(o);
	}
	if (cl.nr_args == 2 && !found)
		return failed("bitmap list: %s has no bitmap '%s'",
			      esc(dev.name), esc(cl.arg[1]));
	return EXIT_OK;
}

static int names_ok(const struct cmdline *cl)
{
	struct cbw_error err;
	int i;

	for (i = 1; i < cl->nr_args; i++)
		if (cbw_name_check(cl->arg[i], &err))
			return usage("%s: %s", cl->command, err.msg);
	return EXIT_OK;
}

static uint32_t copy_granularity(const struct cbw_dm_dev *dev, const char *name)
{
	struct cbw_session *session;
	struct cbw_bitmap b = { 0 };

	if (cbw_session_open(&session, NULL))
		return 0;
	(void)cbw_bitmap_find(session, dev->dev, name, &b, NULL);
	cbw_session_close(session);
	return b.granularity;
}

/* A merge or a copy: DEV NAME SOURCE..., the sources on DEV or on @from. */
static int with_sources(const struct cmdline *cl, const char *from, bool copy)
{
	const char *what = cl->command + strlen("cbw ");
	struct cbw_dm_dev dev, source;
	struct cbw_txn *txn;
	int status, i;

	status = names_ok(cl);
	if (status == EXIT_OK)
		status = find_tracked(what, cl->arg[0], &dev);
	if (status == EXIT_OK)
		status = find_tracked(what, from ? from : cl->arg[0], &source);
	if (status)
		return status;
	txn = cbw_txn_new();
	if (!txn)
		return failed("out of memory");
	for (i = 2; i < cl->nr_args; i++) {
		if (copy)
			cbw_txn_bitmap_copy(txn, dev.dev, cl->arg[1], source.dev, cl->arg[i], NULL);
		else
			cbw_txn_bitmap_merge(txn, dev.dev, cl->arg[1], source.dev, cl->arg[i], NULL);
	}
	return run(what, txn, &dev, copy ? copy_granularity(&source, cl->arg[2]) : 0);
}

static int bitmap_merge(int argc, char **argv)
{
	const char *from = NULL;
	struct opt opts[] = {
		{ "from", OPT_TEXT, &from, "DEV2", "the sources are those of another tracked device of the same size" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw bitmap merge",
		.args = "DEV NAME SOURCE... [--from DEV2]",
		.about = "Adds what the SOURCE bitmaps have recorded to bitmap NAME of DEV, all at one instant.\n"
			 "They may have any granularities, and stay as they are.",
		.opts = opts,
		.min_args = 3, .max_args = -1,
	};
	int status = opts_parse(&cl, argc, argv);

	return status >= 0 ? status : with_sources(&cl, from, false);
}

static int bitmap_copy(int argc, char **argv)
{
	const char *from = NULL;
	struct opt opts[] = {
		{ "from", OPT_TEXT, &from, "DEV2", "the source is one of another tracked device of the same size" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw bitmap copy",
		.args = "DEV NEW SOURCE [--from DEV2]",
		.about = "Makes bitmap NEW of DEV with the granularity, the state, the content and the base of\n"
			 "bitmap SOURCE.",
		.opts = opts,
		.min_args = 3, .max_args = 3,
	};
	int status = opts_parse(&cl, argc, argv);

	return status >= 0 ? status : with_sources(&cl, from, true);
}

static int bitmap_rename(int argc, char **argv)
{
	struct cmdline cl = {
		.command = "cbw bitmap rename",
		.args = "DEV NAME NEW",
		.about = "Bitmap NAME of tracked device DEV is called NEW.",
		.min_args = 3, .max_args = 3,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_dm_dev dev;
	struct cbw_txn *txn;

	if (status >= 0)
		return status;
	status = names_ok(&cl);
	if (status == EXIT_OK)
		status = find_tracked("bitmap rename", cl.arg[0], &dev);
	if (status)
		return status;
	if (!strncmp(cl.arg[2], PSEUDO, strlen(PSEUDO)))
		return usage("cbw bitmap rename: '%s': names that begin with " PSEUDO " are those of containers themselves",
			     esc(cl.arg[2]));
	txn = cbw_txn_new();
	if (!txn)
		return failed("out of memory");
	cbw_txn_bitmap_rename(txn, dev.dev, cl.arg[1], cl.arg[2], NULL);
	return run("bitmap rename", txn, &dev, 0);
}

static const struct command verbs[] = {
	{ "add", bitmap_add, NULL },
	{ "remove", bitmap_remove, NULL },
	{ "clear", bitmap_clear, NULL },
	{ "enable", bitmap_enable, NULL },
	{ "disable", bitmap_disable, NULL },
	{ "list", bitmap_list, NULL },
	{ "merge", bitmap_merge, NULL },
	{ "copy", bitmap_copy, NULL },
	{ "rename", bitmap_rename, NULL },
	{ NULL, NULL, NULL }
};

int cmd_bitmap(int argc, char **argv)
{
	return run_verb("cbw bitmap", "DEV [NAME] ...", verbs, argc, argv);
}
