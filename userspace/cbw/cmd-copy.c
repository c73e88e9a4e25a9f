// SPDX-License-Identifier: GPL-2.0-or-later
/* copy: the engine alone, on any files and devices; needs no module */
#include <sys/stat.h>

#include "cbw.h"
#include "engine.h"
#include "stream.h"
#include "target.h"

struct args {
	const char *map, *format, *source_format, *compress, *backing, *ioprio;
	uint64_t rate, cluster, threads;
	bool force, only_changed, salvage, json, stream;
};

static int check_args(const struct args *a, char **arg, int *level)
{
	bool image = target_is_image(arg[1], a->format), stream = target_is_stream(arg[1]);

	*level = 0;
	if (!target_format_ok(a->format) || !target_format_ok(a->source_format))
		return usage("cbw copy: formats are raw and qcow2");
	if (a->compress && parse_compress(a->compress, level))
		return usage("cbw copy: --compress %s: it is none, zstd or zstd:LEVEL, 1 to 22",
			     esc(a->compress));
	if (*level && !image)
		return usage("cbw copy: --compress is for qcow2 images");
	if ((a->cluster || a->backing) && !image)
		return usage("cbw copy: --cluster and --backing are for qcow2 images");
	if (a->cluster && (a->cluster & (a->cluster - 1) || a->cluster < 4096 ||
			   a->cluster > XFER_PIECE))
		return usage("cbw copy: --cluster %llu: it has to be a power of two from 4K to 1M",
			     (ull)a->cluster);
	if (a->threads > XFER_WORKERS_MAX)
		return usage("cbw copy: --threads %llu: %d at most", (ull)a->threads,
			     XFER_WORKERS_MAX);
	if (a->only_changed && (image || stream))
		return usage("cbw copy: --only-changed needs a raw target, which is read");
	if (!strcmp(arg[0], "-"))
		return usage("cbw copy: from standard input takes 'cbw restore - --to DST'");
	return -1;
}

/* A copy onto itself, or onto an image below it, would destroy what is copied. */
static int not_the_same(const struct source *src, const char *dst, struct cbw_error *err)
{
	struct stat d;

	if (target_is_uri(dst) || stat(dst, &d) || !source_uses(src, &d))
		return 0;
	return fail_with(err, EINVAL, "%s is, or is below, what is copied: %s", esc(dst),
			 esc(src->name));
}

/* Lines of "offset length [flags]", as 'cbw map' prints them. */
static int read_map(const char *path, uint64_t size, struct ranges *data, struct ranges *zero,
		    struct cbw_error *err)
{
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t room = 0, nr = 0;
	uint64_t at = 0;
	int ret = 0;

	if (!f)
		return fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	while (!ret && getline(&line, &room, f) > 0) {
		char flags[32] = "";
		ull offset, length;

		nr++;
		if (*line == '#' || *line == '\n')
			continue;
		if (sscanf(line, "%llu %llu %31s", &offset, &length, flags) < 2 ||
		    strchr(line, '-'))
			ret = fail_with(err, EINVAL, "%s: line %zu is not \"offset length flags\"",
					esc(path), nr);
		else if (offset < at || offset > size || length > size - offset)
			ret = fail_with(err, EINVAL,
					"%s: line %zu: the range is not behind the one before, or not within the source's %llu bytes",
					esc(path), nr, (ull)size);
		else
			ranges_add(strstr(flags, "discarded") || strstr(flags, "zero") ? zero :
				   data, offset, length);
		at = offset + length;
	}
	if (!ret && ferror(f))
		ret = fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	free(line);
	fclose(f);
	return ret;
}

static void lost(void *arg, uint64_t offset, uint64_t length, const char *why)
{
	const struct args *a = arg;

	if (a->json && !a->stream)
		json_lost(offset, length, why);
	else
		say("copy: %llu bytes at offset %llu cannot be read, and are zeros in the copy: %s",
		    (ull)length, (ull)offset, why);
}

static void report(const struct args *a, const struct engine *e, const char *dst)
{
	FILE *to = target_is_stream(dst) ? stderr : stdout;

	if (a->json && to == stdout) {
		json_copied(e->copied, e->unchanged, e->zeros, e->unreadable);
		return;
	}
	fprintf(to, "%s: %s of data, %s zero", esc(dst), human(e->copied), human(e->zeros));
	if (e->only_changed)
		fprintf(to, ", %s were there already", human(e->unchanged));
	fputc('\n', to);
}

static int copy_to(const struct args *a, int level, struct engine *e, struct target *t,
		   struct cbw_error *err)
{
	const struct target_opts o = {
		.format = a->format,
		.backing = a->backing,
		.cluster = (uint32_t)a->cluster,
		.level = level,
		.workers = e->workers,
		.force = a->force,
		.keep = a->only_changed || a->map,
	};
	struct ranges data = { 0 }, zero = { 0 };
	int ret = 0;

	if (a->map) {
		ret = read_map(a->map, e->src->size, &data, &zero, err);
		e->ranges = &data;
		e->zero = &zero;
	}
	if (!ret)
		ret = target_open(t, e->name, &o, e->src->size, err);
	if (!ret && a->map) {
		/* as little more than was asked for as can be: there may be no more to be read */
		if (!t->img)
			t->sink->unit = t->sink->zero_min = 4096;
		ranges_align(&data, &zero, t->sink->unit, e->src->size);
	}
	e->dst = t->sink;
	if (!ret)
		ret = engine_run(e, err);
	if (!ret)
		ret = target_sync(t, err);
	ranges_free(&data);
	ranges_free(&zero);
	return ret;
}

static int run(struct args *a, const char *src, const char *dst, int level)
{
	struct target t = { .fd = -1 };
	bool made;
	struct engine e = {
		.what = "copy",
		.name = dst,
		.rate = a->rate,
		.workers = (unsigned int)a->threads,
		.json = a->json && !target_is_stream(dst),
		.only_changed = a->only_changed,
		.salvage = a->salvage,
		.lost = lost,
		.arg = a,
	};
	const struct xfer_params params = { .workers = e.workers };
	struct cbw_error err;
	int ret;

	e.workers = xfer_workers(&params);
	a->stream = target_is_stream(dst);
	ret = source_open(src, a->source_format, e.workers, &e.src, &err);
	if (ret)
		return failed("copy: %s", err.msg);
	ret = not_the_same(e.src, dst, &err);
	if (!ret)
		ret = copy_to(a, level, &e, &t, &err);
	source_close(e.src);
	made = t.made;
	target_close(&t, ret);
	if (ret)
		return failed("copy: %s%s", err.msg, made || !e.copied ? "" :
			      "; what was copied until then stays");
	report(a, &e, dst);
	return e.unreadable ? EXIT_DISTRUST : EXIT_OK;
}

int cmd_copy(int argc, char **argv)
{
	struct args a = { 0 };
	struct opt opts[] = {
		{ "map", OPT_TEXT, &a.map, "FILE",
		  "copy only these ranges (as 'cbw map' prints them); a raw target keeps the rest" },
		{ "format", OPT_TEXT, &a.format, "raw|qcow2",
		  "of DST; default qcow2 if its name ends so, else raw" },
		{ "source-format", OPT_TEXT, &a.source_format, "raw|qcow2", "of SRC, likewise" },
		{ "compress", OPT_TEXT, &a.compress, "zstd[:LEVEL]|none", "clusters of a qcow2 image" },
		{ "cluster", OPT_SIZE, &a.cluster, "N", "cluster size, 4K to 1M, default 64K" },
		{ "backing", OPT_TEXT, &a.backing, "FILE",
		  "backing file (qcow2) of a qcow2 image: what is not copied is its" },
		{ "only-changed", OPT_FLAG, &a.only_changed, NULL,
		  "read DST, and write only what differs" },
		{ "salvage", OPT_FLAG, &a.salvage, NULL,
		  "go on over what cannot be read: zeros, a message for each, exit status 4" },
		{ "rate", OPT_SIZE, &a.rate, "N", "read at most N bytes per second" },
		{ "threads", OPT_SIZE, &a.threads, "N", "default: one for each processor" },
		{ "ioprio", OPT_TEXT, &a.ioprio, "idle|low|normal", "of what is read and written; default normal" },
		{ "force", OPT_FLAG, &a.force, NULL, "overwrite a file" },
		{ "json", OPT_FLAG, &a.json, NULL, "lines of JSON on stdout" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw copy",
		.args = "SRC DST [--map FILE] [--format F] [--compress zstd] [--only-changed] [--rate N] [--json]",
		.about = "Copies files, block devices, qcow2 images with their backing files, and NBD URIs:\n"
			"zeros and holes are left out. DST is durable at the end; a device is overwritten\n"
			"whatever it holds. With - as DST it is\n"
			"a stream to standard output, which 'cbw restore -' takes. Needs no kernel module.",
		.opts = opts,
		.min_args = 2, .max_args = 2,
	};
	int status = opts_parse(&cl, argc, argv), level;

	if (status < 0)
		status = check_args(&a, cl.arg, &level);
	if (status < 0 && set_ioprio(a.ioprio))
		status = usage("cbw copy: --ioprio %s: it is idle, low or normal", esc(a.ioprio));
	if (status >= 0)
		return status;
	catch_signals();
	return run(&a, cl.arg[0], cl.arg[1], level);
}
