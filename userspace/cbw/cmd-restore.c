// SPDX-License-Identifier: GPL-2.0-or-later
/* restore */
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "engine.h"
#include "qcow2.h"
#include "restore.h"
#include "stream.h"

/* Text by text of what could not be read; as a line of JSON each, with --json. */
struct report {
	bool json;
	unsigned int nr;
};

static void lost(void *arg, uint64_t offset, uint64_t length, const char *why)
{
	struct report *r = arg;

	r->nr++;
	if (r->json)
		json_lost(offset, length, why);
	else
		say("restore: %llu bytes at offset %llu of the volume cannot be read, and are zeros now: %s",
		    (ull)length, (ull)offset, why);
}

struct args {
	const char *to, *until;
	uint64_t rate;
	bool json, force, only_changed, salvage;
};

static int check_args(const struct args *a, const char *from)
{
	if (!a->to)
		return usage("cbw restore: --to TARGET is missing");
	if (!strcmp(from, "-") && (a->until || a->salvage || a->only_changed))
		return usage("cbw restore: --until, --only-changed and --salvage need a directory, not a stream");
	return -1;
}

static int open_sink(const struct args *a, uint64_t size, struct sink **dst,
		     struct cbw_error *err)
{
	const struct sink_file_opts o = {
		.size = size,
		.force = a->force,
		.keep = a->only_changed,
	};

	if (!strncmp(a->to, "nbd", 3) && strstr(a->to, "://"))
		return sink_nbd(a->to, size, xfer_workers(&(const struct xfer_params){ 0 }), dst, err);
	return sink_file(a->to, &o, dst, err);
}

/* @ret: of all that was written to @dst, which is closed. What was made goes if it is not complete. */
static int ended(const struct args *a, struct sink *dst, int ret, const struct cbw_error *err)
{
	bool gone = false;

	/* as long as it is locked: nobody may take it and then find it gone */
	if (ret && dst->made) {
		gone = !unlink(a->to) || errno == ENOENT;
		if (!gone)
			say("restore: %s: %s", esc(a->to), strerror(errno));
	}
	sink_close(dst);
	if (!ret)
		return EXIT_OK;
	if (!gone)
		fprintf(stderr, "cbw: restore: %s is incomplete now\n", esc(a->to));
	say("restore: %s", err->msg);
	return distrust(ret) ? EXIT_DISTRUST : EXIT_FAILED;
}

static int run(const struct args *a, const struct chain *chain, const struct entry *entry,
	       struct qcow2_image *img)
{
	struct report report = { .json = a->json };
	struct engine e = {
		.what = "restore",
		.name = a->to,
		.rate = a->rate,
		.json = a->json,
		.only_changed = a->only_changed,
		.salvage = a->salvage,
		.lost = lost,
		.arg = &report,
	};
	struct cbw_error err;
	struct stat st;
	int ret, status;

	e.src = source_qcow2(entry->file, img);
	if (!stat(a->to, &st) && source_uses(e.src, &st))
		ret = fail_with(&err, EINVAL, "%s is an image of what is restored", esc(a->to));
	else
		ret = open_sink(a, entry->size, &e.dst, &err);
	if (ret) {
		source_close(e.src);
		qcow2_close(img);
		return failed("restore: %s", err.msg);
	}
	ret = engine_run(&e, &err);
	if (!ret)
		ret = e.dst->ops->flush(e.dst, &err);
	source_close(e.src);
	if (!e.stuck)
		qcow2_close(img);
	status = ended(a, e.dst, ret, &err);
	if (status)
		return status;
	if (report.nr) {
		say("restore: %s of the volume could not be read, %s has zeros there",
		    human(e.unreadable), esc(a->to));
		return EXIT_DISTRUST;
	}
	if (!a->json && a->only_changed)
		printf("%s: point in time %u of %s, %s, of which %s were there already\n", esc(a->to),
		       entry->id, esc(chain->volume), human(entry->size), human(e.unchanged));
	else if (!a->json)
		printf("%s: point in time %u of %s, %s\n", esc(a->to), entry->id,
		       esc(chain->volume), human(entry->size));
	return EXIT_OK;
}

static int from_chain(const struct args *a, const char *path)
{
	const struct entry *entry;
	struct qcow2_image *img;
	struct chain chain;
	struct cbw_error err;
	int status = pick_chain("restore", path, &chain), ret;

	if (status)
		return status;
	entry = pick_entry("restore", &chain, a->until);
	if (!entry) {
		chain_close(&chain);
		return EXIT_FAILED;
	}
	ret = open_entry(&chain, entry, &img, &err);
	if (ret) {
		chain_close(&chain);
		say("restore: %s", err.msg);
		return distrust(ret) ? EXIT_DISTRUST : EXIT_FAILED;
	}
	/* closes the image */
	status = run(a, &chain, entry, img);
	chain_close(&chain);
	return status;
}

static int from_stream(const struct args *a)
{
	struct stream_in in;
	struct cbw_error err;
	struct sink *dst;
	int ret = stream_open(&in, 0, &err), status;

	if (!ret)
		ret = open_sink(a, in.size, &dst, &err);
	if (ret)
		return failed("restore: %s", err.msg);
	ret = stream_restore(&in, dst, &err);
	if (!ret)
		ret = dst->ops->flush(dst, &err);
	status = ended(a, dst, ret, &err);
	if (!status && !a->json)
		printf("%s: %s, from a stream\n", esc(a->to), human(in.size));
	return status;
}

int cmd_restore(int argc, char **argv)
{
	struct args a = { 0 };
	struct opt opts[] = {
		{ "to", OPT_TEXT, &a.to, "TARGET",
		  "block device, not in use, at least as large, which is overwritten whatever it holds; or a file to be made; or an NBD URI" },
		{ "until", OPT_TEXT, &a.until, "ID",
		  "point in time: an id, or 8 digits of its cut; default the newest" },
		{ "only-changed", OPT_FLAG, &a.only_changed, NULL,
		  "read TARGET, and write only what differs" },
		{ "salvage", OPT_FLAG, &a.salvage, NULL,
		  "go on over what cannot be read: zeros, a message for each, exit status 4" },
		{ "rate", OPT_SIZE, &a.rate, "N", "read at most N bytes per second" },
		{ "force", OPT_FLAG, &a.force, NULL, "overwrite a file" },
		{ "json", OPT_FLAG, &a.json, NULL, "lines of JSON on stdout" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw restore",
		.args = "DIR[/VOLUME]|- --to TARGET [--until ID] [--only-changed] [--salvage] [--force] [--json]",
		.about = "Writes a point in time of a volume to TARGET, data and zeros. With - it takes what\n"
			"'cbw copy ... -' wrote, from standard input.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);

	if (status < 0)
		status = check_args(&a, cl.arg[0]);
	if (status >= 0)
		return status;
	catch_signals();
	return strcmp(cl.arg[0], "-") ? from_chain(&a, cl.arg[0]) : from_stream(&a);
}
