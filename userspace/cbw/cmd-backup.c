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
	const char *store_dir;
	const char *resume;
	uint64_t rate, chunk, store_size, store_max;
	bool full, incremental, differential, autom, freeze, force, json, resumable;
};

static bool is_auto(const char *store)
{
	return !strcmp(store, "auto");
}

/* Of volume @i; "auto": none was named. */
static const char *store_of(const struct args *a, size_t i)
{
	if (!a->stores.nr)
		return "auto";
	return a->stores.v[a->stores.nr == 1 ? 0 : i];
}

static int check_resume(const struct args *a, int nr)
{
	if (nr || a->to || a->stores.nr || a->bitmap || a->chunk || a->full || a->incremental ||
	    a->differential || a->autom || a->freeze || a->force || a->resumable ||
	    a->store_dir || a->store_size || a->store_max)
		return usage("cbw backup: --resume DIR goes on with what was begun, so nothing but --rate and --json goes with it");
	return -1;
}

static int check_args(const struct args *a, int nr)
{
	struct cbw_error err;
	int level;
	size_t i;

	if (a->resume)
		return check_resume(a, nr);
	if (!nr)
		return usage("cbw backup: too few arguments: which volumes?");

	if (a->full + a->incremental + a->differential + a->autom > 1)
		return usage("cbw backup: --full, --incremental, --differential and --auto exclude each other");
	if (a->compress && parse_compress(a->compress, &level))
		return usage("cbw backup: --compress %s: it is none, zstd or zstd:LEVEL, 1 to 22",
			     esc(a->compress));
	if (!a->to)
		return usage("cbw backup: --to DIR is missing");
	if (!strcmp(a->to, "-") || strstr(a->to, "://"))
		return usage("cbw backup: --to %s: it takes a directory; for a stream or an NBD server make a snapshot and use 'cbw copy'",
			     esc(a->to));
	if (a->stores.nr > 1 && a->stores.nr != (size_t)nr)
		return usage("cbw backup: %d volumes but %zu --store; one for each is needed, in the same order, or --store auto for all",
			     nr, a->stores.nr);
	if (a->stores.nr == 1 && nr > 1 && !is_auto(a->stores.v[0]))
		return usage("cbw backup: %d volumes but 1 --store; one for each is needed, in the same order, or --store auto for all",
			     nr);
	for (i = 0; i < a->stores.nr && !is_auto(a->stores.v[i]); i++)
		;
	if (i && i == a->stores.nr && (a->store_dir || a->store_size || a->store_max))
		return usage("cbw backup: --store-dir, --store-size and --store-max are for --store auto");
	if (a->store_size && a->store_max && a->store_size > a->store_max)
		return usage("cbw backup: --store-size is larger than --store-max");
	if ((a->store_size && a->store_size < STORE_ALIGN) ||
	    (a->store_max && a->store_max < STORE_ALIGN))
		return usage("cbw backup: --store-size and --store-max: at least 4M");
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
			if (!is_auto(store_of(a, i)) &&
			    !strcmp(store_of(a, k), store_of(a, i)))
				return usage("cbw backup: --store %s is named twice",
					     esc(store_of(a, i)));
		}
	}
	/* the snapshot of a run that was killed still has the store */
	if (in_child(remove_stale, NULL) < 0)
		say("the snapshot of an interrupted backup cannot be removed: its store hangs");
	for (i = 0; i < b->nr; i++) {
		status = backup_settle(a->to, &volumes[i]);
		if (status != EXIT_OK)
			return status;
	}
	for (i = 0; i < b->nr; i++) {
		struct job *j = &b->job[i];

		j->auto_store = is_auto(store_of(a, i));
		if (j->auto_store)
			continue;
		if (store_check(store_of(a, i), volumes, b->nr, a->force,
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
		  "block device or file for data that has to be preserved, one per DEV; or auto (default): free space of the volume group, or a file in --store-dir" },
		{ "store-dir", OPT_TEXT, &a.store_dir, "DIR",
		  "--store auto: a sparse file in DIR (without: " STORE_DIR ", if the volume group has no room)" },
		{ "store-size", OPT_SIZE, &a.store_size, "N",
		  "--store auto: bytes to begin with; it grows before it is full" },
		{ "store-max", OPT_SIZE, &a.store_max, "N",
		  "--store auto: it does not grow beyond that (default: the volume's size)" },
		{ "auto", OPT_FLAG, &a.autom, NULL,
		  "incremental if possible, else full and exit status 3 (default)" },
		{ "full", OPT_FLAG, &a.full, NULL, "full" },
		{ "incremental", OPT_FLAG, &a.incremental, NULL,
		  "incremental, or exit status 4" },
		{ "differential", OPT_FLAG, &a.differential, NULL,
		  "what has changed since the newest full one, else full and exit status 3" },
		{ "bitmap", OPT_TEXT, &a.bitmap, "B",
		  "use this bitmap instead of the chain's own" },
		{ "chunk", OPT_SIZE, &a.chunk, "N",
		  "unit of preserving: power of two, 4K (default) to 1M" },
		{ "compress", OPT_TEXT, &a.compress, "zstd[:LEVEL]|none", "compress what is copied; default none" },
		{ "rate", OPT_SIZE, &a.rate, "N", "read at most N bytes per second" },
		{ "resumable", OPT_FLAG, &a.resumable, NULL,
		  "interrupted, it can be finished with --resume: the snapshot stays" },
		{ "resume", OPT_TEXT, &a.resume, "DIR",
		  "finish what was interrupted in DIR, or DIR/<volume>" },
		{ "freeze", OPT_FLAG, &a.freeze, NULL,
		  "freeze the file systems on the volumes for the cut" },
		{ "force", OPT_FLAG, &a.force, NULL,
		  "use a store although it holds data" },
		{ "json", OPT_FLAG, &a.json, NULL, "lines of JSON on stdout" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw backup",
		.args = "DEV... --to DIR [--store S]... [--full|--incremental|--differential|--auto] [--bitmap B] [--rate N] [--freeze] [--resumable] [--json]\n   or: cbw backup --resume DIR[/VOLUME] [--rate N] [--json]",
		.about = "Backs tracked volumes up, all at one instant, into chains of qcow2 images:\n"
			"a full one, and increments on top. Killed at any point it leaves chain and\n"
			"bitmap as they were.",
		.opts = opts,
		.min_args = 0, .max_args = -1,
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
	b.rate = a.rate;
	if (a.compress)
		(void)parse_compress(a.compress, &b.compress);
	b.json = a.json;
	if (a.resume) {
		status = backup_resume(&b, a.resume);
		backup_free(&b);
		return status;
	}
	b.nr = (size_t)cl.nr_args;
	b.job = xcalloc(b.nr, sizeof(*b.job));
	for (i = 0; i < b.nr; i++) {
		b.job[i].snap_fd = -1;
		b.job[i].img_fd = -1;
	}
	b.dir = a.to;
	b.bitmap = a.bitmap;
	b.mode = a.full ? MODE_FULL :
		a.incremental ? MODE_INCREMENTAL :
		a.differential ? MODE_DIFFERENTIAL : MODE_AUTO;
	b.store_dir = a.store_dir;
	b.store_size = a.store_size;
	b.store_max = a.store_max;
	b.chunk = a.chunk;
	b.resumable = a.resumable;
	b.freeze = a.freeze;
	volumes = xcalloc(b.nr, sizeof(*volumes));
	status = check_devices(&b, &cl, &a, volumes);
	free(volumes);
	if (status == EXIT_OK)
		status = backup_plan(&b);
	if (status == EXIT_OK)
		status = backup_stores(&b);
	if (status == EXIT_OK)
		status = backup_run(&b);
	backup_free(&b);
	return status;
}
