// SPDX-License-Identifier: GPL-2.0-or-later
/* create, remove, attach, detach */
#include "cbw.h"

int cmd_create(int argc, char **argv)
{
	struct cmdline cl = {
		.command = "cbw create",
		.args = "NAME ORIGIN",
		.about = "Makes /dev/mapper/NAME, a tracked device of the same size on top of block\n"
			"device ORIGIN. From then on write only through NAME.",
		.min_args = 2, .max_args = 2,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_error err;
	struct cbw_dm_dev dev;

	if (status >= 0)
		return status;
	if (cbw_dm_create(cl.arg[0], cl.arg[1], &dev, &err))
		return failed("create: %s", err.msg);
	return EXIT_OK;
}

int cmd_remove(int argc, char **argv)
{
	struct cmdline cl = {
		.command = "cbw remove",
		.args = "NAME",
		.about = "Removes a device that 'cbw create' made. Its bitmaps end with it.",
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_error err;

	if (status >= 0)
		return status;
	if (cbw_dm_remove(cl.arg[0], &err))
		return failed("remove: %s", err.msg);
	return EXIT_OK;
}

int cmd_attach(int argc, char **argv)
{
	const char *container = NULL;
	struct opt opts[] = {
		{ "container", OPT_TEXT, &container, "FILE|DEV",
		  "not supported in this version" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw attach",
		.args = "DEV",
		.about = "Inserts the cbw target under DEV, a device-mapper volume (a path, a name in\n"
			"/dev/mapper or MAJOR:MINOR), which may be mounted and under load. Its own\n"
			"table moves to a hidden device, NAME-cbw-origin.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_error err;
	struct cbw_dm_dev dev;

	if (status >= 0)
		return status;
	if (container)
		return usage("cbw attach: --container: persistent bitmaps are not supported in this version");
	if (cbw_dm_attach(cl.arg[0], &dev, &err))
		return failed("attach: %s", err.msg);
	return EXIT_OK;
}

/* Says which bitmaps end now. */
static void say_lost(const char *name)
{
	struct cbw_session *session;
	struct cbw_bitmap *list;
	struct cbw_dm_dev dev;
	size_t nr, i;

	if (cbw_dm_find(name, &dev, NULL) || !dev.attached ||
	    cbw_session_open(&session, NULL))
		return;
	if (!cbw_bitmap_list(session, dev.dev, &list, &nr, NULL, NULL)) {
		for (i = 0; i < nr; i++)
			say("%s: bitmap '%s' ends with the detach; the next backup with it will be a full one",
			    esc(dev.name), esc(list[i].name));
		free(list);
	}
	cbw_session_close(session);
}

int cmd_detach(int argc, char **argv)
{
	bool force = false;
	struct opt opts[] = {
		{ "force", OPT_FLAG, &force, NULL,
		  "also while snapshots live: they fail (source-gone)" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw detach",
		.args = "DEV [--force]",
		.about = "Takes the cbw target out of DEV again, live: puts back the volume's own table.\n"
			"Refused while a snapshot lives. Bitmaps end (they are not persistent yet).",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_error err;

	if (status >= 0)
		return status;
	say_lost(cl.arg[0]);
	if (cbw_dm_detach(cl.arg[0], force, &err))
		return failed("detach: %s", err.msg);
	return EXIT_OK;
}
