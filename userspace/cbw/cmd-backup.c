// SPDX-License-Identifier: GPL-2.0-or-later
/* backup: the command line, and what is refused before anything is touched */
#include <sys/stat.h>
#include <unistd.h>

#include "backup.h"
#include "cbw.h"

struct args {
	struct text_list stores;
	const char *to;
	const char *bitmap;
	const char *compress;
	uint64_t rate, chunk;
	bool full, incremental, differential, autom, freeze, force, json;
};

static int check_args(const struct args *a, int nr)
{
	struct cbw_error err;

	if (a->full + a->incremental + a->differential + a->autom > 1)
		return usage("cbw backup: --full, --incremental, --differential and --auto exclude each other");
	if (a->differential)
		return usage("cbw backup: --differential is not supported in this version");
	if (a->compress && strcmp(a->compress, "none"))
		return usage("cbw backup: --compress %s is not supported in this version, only none",
			     esc(a->compress));
	if (!a->to)
		return usage("cbw backup: --to DIR is missing");
	if (!a->stores.nr)
		return usage("cbw backup: --store is missing: a block device or a file for the data that has to be preserved meanwhile, one for each volume");
	if (a->stores.nr != (size_t)nr)
		return usage("cbw backup: %d volumes but %zu --store; one for each is needed, in the same order",
			     nr, a->stores.nr);
	if (!strcmp(a->stores.v[0], "auto"))
		return usage("cbw backup: --store auto is not supported in this version; name a block device or a file");
	if (a->chunk && (a->chunk & (a->chunk - 1) || a->chunk < 4096 ||
			 a->chunk > 1 << 20))
		return usage("cbw backup: --chunk %llu: it has to be a power of two from 4K to 1M",
			     (ull)a->chunk);
	if (a->bitmap && cbw_name_check(a->bitmap, &err))
		return usage("cbw backup: %s", err.msg);
	return -1;
}

static int check_devices(struct backup *b, const struct cmdline *cl,
			 const struct args *a, struct cbw_dm_dev *volumes)
{
	struct cbw_error err;
	bool made = false;
	struct stat st;
	size_t i, k;
	int status;

	for (i = 0; i < b->nr; i++) {
		struct job *j = &b->job[i];

		status = find_tracked("backup", cl->arg[i], &j->dev);
		if (status)
			return status;
		volumes[i] = j->dev;
		for (k = 0; k < i; k++) {
			if (b->job[k].dev.dev.minor == j->dev.dev.minor)
				return usage("cbw backup: %s is named twice",
					     esc(j->dev.name));
			if (!strcmp(a->stores.v[k], a->stores.v[i]))
				return usage("cbw backup: --store %s is named twice",
					     esc(a->stores.v[i]));
		}
	}
	/* the snapshot of a run that was killed still has the store */
	if (in_child(remove_stale, NULL) < 0)
		say("the snapshot of an interrupted backup cannot be removed: its store hangs");
	for (i = 0; i < b->nr; i++) {
		struct job *j = &b->job[i];

		if (store_check(a->stores.v[i], volumes, b->nr, a->force,
				&j->store, &err))
			return failed("backup: %s", err.msg);
		j->have_store = true;
	}
	if (stat(a->to, &st)) {
		if (mkdir(a->to, 0700))
			return failed("backup: %s: %s", esc(a->to),
				      strerror(errno));
		made = true;
	} else if (!S_ISDIR(st.st_mode)) {
		return failed("backup: %s: not a directory", esc(a->to));
	}
	if (check_not_on(a->to, "backup", volumes, b->nr, &err)) {
		if (made)
			rmdir(a->to);
		return failed("backup: %s", err.msg);
	}
	return EXIT_OK;
}

int cmd_backup(int argc, char **argv)
{
	struct args a = { 0 };
	struct opt opts[] = {
		{ "to", OPT_TEXT, &a.to, "DIR",
		  "each volume has its chain of images in DIR/<volume>" },
		{ "store", OPT_LIST, &a.stores, "S",
		  "block device or file for data that has to be preserved; one per DEV" },
		{ "auto", OPT_FLAG, &a.autom, NULL,
		  "incremental if possible, else full and exit status 3 (default)" },
		{ "full", OPT_FLAG, &a.full, NULL, "full" },
		{ "incremental", OPT_FLAG, &a.incremental, NULL,
		  "incremental, or exit status 4" },
		{ "differential", OPT_FLAG, &a.differential, NULL,
		  "not supported in this version" },
		{ "bitmap", OPT_TEXT, &a.bitmap, "B",
		  "use this bitmap instead of the chain's own" },
		{ "chunk", OPT_SIZE, &a.chunk, "N",
		  "unit of preserving: power of two, 4K (default) to 1M" },
		{ "compress", OPT_TEXT, &a.compress, "none", "only none yet" },
		{ "rate", OPT_SIZE, &a.rate, "N", "read at most N bytes per second" },
		{ "freeze", OPT_FLAG, &a.freeze, NULL,
		  "freeze the file systems on the volumes for the cut" },
		{ "force", OPT_FLAG, &a.force, NULL,
		  "use a store although it holds data" },
		{ "json", OPT_FLAG, &a.json, NULL, "lines of JSON on stdout" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw backup",
		.args = "DEV... --to DIR --store S... [--full|--incremental|--auto] [--bitmap B] [--rate N] [--freeze] [--json]",
		.about = "Backs tracked volumes up, all at one instant, into chains of qcow2 images:\n"
			"a full one, and increments on top. Killed at any point it leaves chain and\n"
			"bitmap as they were.",
		.opts = opts,
		.min_args = 1, .max_args = -1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_dm_dev *volumes;
	struct backup b = { 0 };
	size_t i;

	if (status < 0)
		status = check_args(&a, cl.nr_args);
	if (status >= 0)
		return status;
	catch_signals();
	umask(077);
	b.nr = (size_t)cl.nr_args;
	b.job = xcalloc(b.nr, sizeof(*b.job));
	for (i = 0; i < b.nr; i++) {
		b.job[i].snap_fd = -1;
		b.job[i].img_fd = -1;
	}
	b.dir = a.to;
	b.bitmap = a.bitmap;
	b.mode = a.full ? MODE_FULL :
		a.incremental ? MODE_INCREMENTAL : MODE_AUTO;
	b.chunk = a.chunk;
	b.rate = a.rate;
	b.json = a.json;
	b.freeze = a.freeze;
	volumes = xcalloc(b.nr, sizeof(*volumes));
	status = check_devices(&b, &cl, &a, volumes);
	free(volumes);
	if (status == EXIT_OK)
		status = backup_plan(&b);
	if (status == EXIT_OK)
		status = backup_run(&b);
	backup_free(&b);
	return status;
}
