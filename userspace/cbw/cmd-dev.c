// SPDX-License-Identifier: GPL-2.0-or-later
/* create, remove, attach, detach */
#include "attach.h"
#include "cbw.h"

#define CONTAINER_OPTS(o) \
	{ "container", OPT_TEXT, &(o).path, "FILE|DEV", \
	  "keep the bitmaps there; made if it is not there" }, \
	{ "region", OPT_SIZE, &(o).region, "N", \
	  "of a crash, mark this much at least (4M)" }, \
	{ "size", OPT_SIZE, &(o).size, "N", \
	  "the container's file is this large at least" }, \
	{ "policy", OPT_TEXT, &(o).policy, "continue|hold", \
	  "when the container fails: go on without it at once, or hold writes for the timeout" }, \
	{ "timeout", OPT_SIZE, &(o).timeout_ms, "MS", \
	  "hold a write no longer for the container (5000)" }, \
	{ "force", OPT_FLAG, &(o).force, NULL, \
	  "make the container on a device that holds something else" }, \
	{ "elsewhere", OPT_FLAG, &(o).elsewhere, NULL, \
	  "the container does not lie on the volume, where cbw cannot tell" }, \
	{ "force-full", OPT_FLAG, &(o).force_full, NULL, \
	  "start with empty bitmaps if what is there cannot be trusted" }

int cmd_create(int argc, char **argv)
{
	struct container_opts o = { 0 };
	struct opt opts[] = { CONTAINER_OPTS(o), { 0 } };
	struct cmdline cl = {
		.command = "cbw create",
		.args = "NAME ORIGIN [--container FILE|DEV [options]]",
		.about = "Makes /dev/mapper/NAME, a tracked device of the same size on top of block\n"
			"device ORIGIN. From then on write only through NAME.",
		.opts = opts,
		.min_args = 2, .max_args = 2,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_error err;
	struct cbw_dm_dev dev;

	if (status < 0)
		status = container_opts_check(cl.command, &o);
	if (status >= 0)
		return status;
	if (o.path)
		return container_attach(cl.arg[0], cl.arg[1], &o);
	if (cbw_dm_create(cl.arg[0], cl.arg[1], &dev, &err))
		return failed("create: %s", err.msg);
	return EXIT_OK;
}

static int end_remove(const struct cbw_dm_dev *dev, void *arg, struct cbw_error *err)
{
	(void)arg;
	return cbw_dm_remove(dev->name, err);
}

int cmd_remove(int argc, char **argv)
{
	struct cmdline cl = {
		.command = "cbw remove",
		.args = "NAME",
		.about = "Removes a device that 'cbw create' made. Bitmaps that are not in a container end\n"
			"with it.",
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_dm_dev dev;
	struct cbw_error err;

	if (status >= 0)
		return status;
	/* what cannot be removed is refused before its container is stopped */
	if (!cbw_dm_find(cl.arg[0], &dev, NULL) && dev.container.major && !dev.attached &&
	    !dev.open_count)
		return container_detach("remove", &dev, end_remove, NULL);
	if (cbw_dm_remove(cl.arg[0], &err))
		return failed("remove: %s", err.msg);
	return EXIT_OK;
}

int cmd_attach(int argc, char **argv)
{
	struct container_opts o = { 0 };
	struct opt opts[] = { CONTAINER_OPTS(o), { 0 } };
	struct cmdline cl = {
		.command = "cbw attach",
		.args = "DEV [--container FILE|DEV [options]]",
		.about = "Inserts the cbw target under DEV, a device-mapper volume (a path, a name in\n"
			"/dev/mapper or MAJOR:MINOR), which may be mounted and under load. Its own\n"
			"table moves to a hidden device, NAME-cbw-origin.\n"
			"With a container, a qcow2 image, its bitmaps are loaded from there, and are kept\n"
			"there: they survive detach, reboot and power cuts. Bitmaps that cannot be trusted are\n"
			"refused (exit status 4), with the reason.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_error err;
	struct cbw_dm_dev dev;

	if (status < 0)
		status = container_opts_check(cl.command, &o);
	if (status >= 0)
		return status;
	if (o.path)
		return container_attach(cl.arg[0], NULL, &o);
	if (cbw_dm_attach(cl.arg[0], &dev, &err))
		return failed("attach: %s", err.msg);
	return EXIT_OK;
}

/* Says which bitmaps end now: all, or the transient ones. */
static void say_lost(const struct cbw_dm_dev *dev)
{
	struct cbw_session *session;
	struct cbw_bitmap *list;
	size_t nr, i;

	if (!dev->attached || cbw_session_open(&session, NULL))
		return;
	if (!cbw_bitmap_list(session, dev->dev, &list, &nr, NULL, NULL)) {
		for (i = 0; i < nr; i++) {
			if (dev->container.major && list[i].flags & CBW_BITMAP_PERSISTENT)
				continue;
			say("%s: bitmap '%s' ends with the detach; the next backup with it will be a full one",
			    esc(dev->name), esc(list[i].name));
		}
		free(list);
	}
	cbw_session_close(session);
}

static int end_detach(const struct cbw_dm_dev *dev, void *arg, struct cbw_error *err)
{
	return cbw_dm_detach(dev->name, *(bool *)arg, err);
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
			"Refused while a snapshot lives. Bitmaps are saved in the container; without one\n"
			"they end.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_dm_dev dev;
	struct cbw_error err;

	if (status >= 0)
		return status;
	if (cbw_dm_find(cl.arg[0], &dev, &err))
		return failed("detach: %s", err.msg);
	say_lost(&dev);
	if (dev.container.major && dev.attached)
		return container_detach("detach", &dev, end_detach, &force);
	if (cbw_dm_detach(cl.arg[0], force, &err))
		return failed("detach: %s", err.msg);
	return EXIT_OK;
}
