// SPDX-License-Identifier: GPL-2.0-or-later
/* backup: the command line, and what is refused before anything is touched */
#include <libgen.h>
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
	const char *format, *backing;
	uint64_t rate, chunk, store_size, store_max;
	bool full, incremental, differential, autom, freeze, force, elsewhere, json, resumable;
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
	    a->store_dir || a->store_size || a->store_max || a->format || a->backing ||
	    a->compress)
		return usage("cbw backup: --resume DIR goes on with what was begun, so nothing but --rate and --json goes with it");
	return -1;
}

/* --to is no directory of chains, but takes one point in time of one volume. */
static bool is_single(const struct args *a)
{
	size_t len = strlen(a->to);
	struct stat st;

	if (a->format || target_is_stream(a->to) || target_is_uri(a->to))
		return true;
	if (!stat(a->to, &st))
		return !S_ISDIR(st.st_mode);
	return target_is_image(a->to, NULL) ||
		(!strncmp(a->to, "/dev/", 5) && strncmp(a->to, "/dev/shm/", 9)) ||
		(len > 4 && (!strcmp(a->to + len - 4, ".raw") || !strcmp(a->to + len - 4, ".img")));
}

static int check_single(const struct args *a, int nr)
{
	bool image = target_is_image(a->to, a->format);
	bool more = a->incremental || a->autom;

	if (!target_format_ok(a->format))
		return usage("cbw backup: --format %s: it is raw or qcow2", esc(a->format));
	if (a->format && (target_is_stream(a->to) || target_is_uri(a->to)))
		return usage("cbw backup: --format is for files; a stream and an NBD server have none");
	if (nr > 1)
		return usage("cbw backup: --to %s takes one volume; a directory takes several",
			     esc(a->to));
	if (a->differential || a->resumable)
		return usage("cbw backup: --differential and --resumable need a chain; --to %s is no directory",
			     esc(a->to));
	if (more && !a->bitmap)
		return usage("cbw backup: an increment to %s needs the bitmap that says what has changed since it was written: --bitmap B",
			     esc(a->to));
	if (a->bitmap && target_is_stream(a->to))
		return usage("cbw backup: --bitmap does not go with --to -: whether what reads the stream keeps it is not known here; make a snapshot with --bitmap, 'cbw copy' it, and commit when it is safe");
	if (a->compress && strcmp(a->compress, "none") && !image)
		return usage("cbw backup: --compress is for qcow2 images");
	if (a->backing && (!image || !more))
		return usage("cbw backup: --backing is for increments in qcow2 images");
	if (more && image && !a->backing)
		return usage("cbw backup: an increment in an image of its own needs the image below it: --backing FILE");
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
	if (is_single(a) && check_single(a, nr) >= 0)
		return EXIT_USAGE;
	if (a->backing && !is_single(a))
		return usage("cbw backup: --backing is for increments in qcow2 images; a chain knows its own");
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

/* A directory of chains, made if it is not there. */
static int check_dir(const char *to, const struct cbw_dm_dev *volumes, size_t nr)
{
	struct cbw_error err;
	bool made = false;
	struct stat st;

	if (stat(to, &st)) {
		if (mkdir(to, 0700))
			return failed("backup: %s: %s", esc(to), strerror(errno));
		made = true;
	} else if (!S_ISDIR(st.st_mode)) {
		return failed("backup: %s: not a directory", esc(to));
	}
	if (check_not_on(to, "backup", volumes, nr, &err)) {
		if (made)
			rmdir(to);
		return failed("backup: %s", err.msg);
	}
	return EXIT_OK;
}

/* What is not there, and cannot become: told before there is a cut. */
static int check_target(const struct backup *b, const struct args *a,
			const struct cbw_dm_dev *volumes)
{
	const struct store *store = &b->job[0].store;
	struct cbw_error err;
	struct stat st, other;
	char *copy;
	int ret;

	if (target_is_stream(a->to))
		return isatty(STDOUT_FILENO) ?
			failed("backup: standard output is a terminal; the stream is for a file or a pipe") :
			EXIT_OK;
	if (target_is_uri(a->to))
		return EXIT_OK;
	if (stat(a->to, &st)) {
		copy = xstrdup(a->to);
		ret = check_not_on(dirname(copy), "backup", volumes, b->nr, &err);
		free(copy);
		return ret ? failed("backup: %s", err.msg) : EXIT_OK;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return failed("backup: %s: neither a file nor a block device", esc(a->to));
	if (S_ISBLK(st.st_mode) && target_is_image(a->to, a->format))
		return failed("backup: %s: images are made in files", esc(a->to));
	if (S_ISREG(st.st_mode) && !a->force && (b->mode == MODE_FULL || a->backing))
		return failed("backup: %s is there; --force if it is to be overwritten",
			      esc(a->to));
	if (b->job[0].have_store && !stat(store->path, &other) && other.st_dev == st.st_dev &&
	    other.st_ino == st.st_ino)
		return failed("backup: %s: it is the store", esc(a->to));
	if (check_not_on(a->to, "backup", volumes, b->nr, &err))
		return failed("backup: %s", err.msg);
	return EXIT_OK;
}

static int check_devices(struct backup *b, const struct cmdline *cl,
			 const struct args *a, struct cbw_dm_dev *volumes)
{
	struct cbw_error err;
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
	for (i = 0; i < b->nr && !b->single; i++) {
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
	return b->single ? check_target(b, a, volumes) : check_dir(a->to, volumes, b->nr);
}

int cmd_backup(int argc, char **argv)
{
	struct args a = { 0 };
	struct opt opts[] = {
		{ "to", OPT_TEXT, &a.to, "DIR",
		  "each volume has its chain of images in DIR/<volume>; or of one volume: a qcow2 or raw file, a device, an NBD URI, or - for a stream that 'cbw restore -' takes; a device is overwritten whatever it holds" },
		{ "format", OPT_TEXT, &a.format, "raw|qcow2",
		  "--to a file, of this kind; default: what its name says (.qcow2, .raw, .img)" },
		{ "backing", OPT_TEXT, &a.backing, "FILE",
		  "the image that an increment to a qcow2 file goes on top of" },
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
		  "use a store, or overwrite a file, although it holds data" },
		{ "elsewhere", OPT_FLAG, &a.elsewhere, NULL,
		  "store and target lie on no volume that is backed up, where cbw cannot tell" },
		{ "json", OPT_FLAG, &a.json, NULL, "lines of JSON on stdout" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw backup",
		.args = "DEV... --to DIR|FILE|URI|- [--store S]... [--full|--incremental|--differential|--auto] [--bitmap B] [--rate N] [--freeze] [--resumable] [--json]\n   or: cbw backup --resume DIR[/VOLUME] [--rate N] [--json]",
		.about = "Backs tracked volumes up, all at one instant, into chains of qcow2 images:\n"
			"a full one, and increments on top. Killed at any point it leaves chain and\n"
			"bitmap as they were. To anything else than a directory it is a full one, or with\n"
			"--bitmap B --incremental what has changed since B was committed.",
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
	if (a.elsewhere)
		assume_elsewhere();
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
		b.job[i].target.fd = -1;
	}
	b.dir = a.to;
	b.single = is_single(&a) ? a.to : NULL;
	b.json &= !b.single || !target_is_stream(b.single);
	b.target = (struct target_opts){
		.format = a.format,
		.backing = a.backing,
		.workers = xfer_workers(&(const struct xfer_params){ 0 }),
		.force = a.force,
	};
	b.bitmap = a.bitmap;
	b.mode = a.full ? MODE_FULL :
		a.incremental ? MODE_INCREMENTAL :
		a.differential ? MODE_DIFFERENTIAL :
		b.single && !a.autom ? MODE_FULL : MODE_AUTO;
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
