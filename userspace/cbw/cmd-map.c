// SPDX-License-Identifier: GPL-2.0-or-later
/* map: what a bitmap says, or an image of a chain has changed, in the words of others */
#include <sys/stat.h>

#include "cbw.h"
#include "map.h"
#include "report.h"

struct map_args {
	const char *what;
	const char *name;
	const char *format;
	const char *id;
	uint64_t block;
};

static int check_args(const struct map_args *a, struct map_out *out)
{
	out->format = map_format_find(a->format ? a->format : "text");
	if (!out->format)
		return usage("cbw map: --format %s: %s are known", esc(a->format),
			     map_format_names());
	if (out->format == &map_qcow2 && !out->path)
		return usage("cbw map: --format qcow2 needs --output FILE");
	if (a->block && strcmp(out->format->name, "blocklist"))
		return usage("cbw map: --block-size is for --format blocklist");
	if (a->block && (a->block & (a->block - 1) || a->block < 512))
		return usage("cbw map: --block-size %llu: it has to be a power of two from 512 up",
			     (ull)a->block);
	out->block = a->block;
	return -1;
}

static bool is_chain(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static int run(const struct map_args *a, struct map_out *out)
{
	struct cbw_dm_dev dev;
	bool ours = !cbw_dm_find(a->what, &dev, NULL);

	if (ours && dev.kind == CBW_DM_SNAPSHOT)
		return a->id ? usage("cbw map: --id is for the directory of a chain") :
			map_snapshot(&dev, a->name, out);
	if (is_chain(a->what))
		return map_chain(a->what, a->name, a->id, out);
	if (a->id)
		return usage("cbw map: --id is for the directory of a chain");
	if (!a->name)
		return usage("cbw map: which bitmap? give --bitmap NAME");
	if (ours && dev.kind == CBW_DM_TRACKED)
		return map_device(&dev, a->name, out);
	if (is_container_path(a->what))
		return map_container(a->what, a->name, out);
	return failed("map: %s: it is neither a tracked device, a snapshot, a container nor the directory of a chain",
		      esc(a->what));
}

int cmd_map(int argc, char **argv)
{
	struct map_out out = { 0 };
	struct map_args a = { 0 };
	struct opt opts[] = {
		{ "bitmap", OPT_TEXT, &a.name, "NAME", "the bitmap" },
		{ "format", OPT_TEXT, &a.format, "F",
		  "text (default), json, borg, benji, csi, blocklist or qcow2; cbw(8) has them" },
		{ "id", OPT_TEXT, &a.id, "ID",
		  "of a chain: the image of that point in time; default the newest" },
		{ "output", OPT_TEXT, &out.path, "FILE",
		  "write FILE, once all went well; qcow2 needs it" },
		{ "block-size", OPT_SIZE, &a.block, "N",
		  "of the block list; default the bitmap's granularity" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw map",
		.args = "DEV|SNAP|CONTAINER|DIR[/VOLUME] [--bitmap NAME] [--format F] [--id ID] [--output FILE]",
		.about = "Prints what is dirty in a bitmap of tracked device DEV, or of a container that is\n"
			"not attached, or was at the cut of snapshot SNAP; or what an image of the chain\n"
			"in DIR has that its parent has not.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_error err;

	if (status >= 0)
		return status;
	a.what = cl.arg[0];
	status = check_args(&a, &out);
	if (status >= 0)
		return status;
	status = map_open(&out, &err) ? failed("map: %s", err.msg) : run(&a, &out);
	if (status == EXIT_OK && map_end(&out, &err))
		status = failed("map: %s", err.msg);
	map_close(&out);
	return status;
}
