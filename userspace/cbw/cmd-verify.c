// SPDX-License-Identifier: GPL-2.0-or-later
/* verify */
#include <fcntl.h>
#include <json-c/json.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cbw.h"
#include "details.h"
#include "progress.h"
#include "qcow2.h"
#include "restore.h"
#include "scan.h"

#define PIECE	(1u << 20)

static int pread_all(int fd, char *buf, size_t len, uint64_t offset)
{
	while (len) {
		ssize_t n = pread(fd, buf, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EUCLEAN;
		buf += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* A line for each run of ranges, up to so many. */
#define SHOW_MAX	16

/* What is damaged: bytes @offset to @end of the volume. */
static void show_damage(const struct chain *chain, const struct entry *e,
			uint64_t offset, uint64_t end, const char *why, bool json)
{
	struct json_object *o;

	if (!json) {
		say("%s/%s: damaged: bytes %llu to %llu of the volume: %s",
		    esc(chain->dir), e->file, (ull)offset, (ull)end - 1, why);
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "event", json_object_new_string("damaged"));
	json_object_object_add(o, "dir", json_object_new_string(esc(chain->dir)));
	json_object_object_add(o, "file", json_object_new_string(e->file));
	json_object_object_add(o, "offset", json_object_new_uint64(offset));
	json_object_object_add(o, "length", json_object_new_uint64(end - offset));
	json_object_object_add(o, "why", json_object_new_string(why));
	json_line(o);
}

enum damage { GOOD, CHANGED, UNREADABLE };

static enum damage damage_of(const struct scan *scan, const struct details *d,
			     uint64_t nr)
{
	if (scan->bad[nr])
		return UNREADABLE;
	return d && d->sums.crc[nr] != scan->sums.crc[nr] ? CHANGED : GOOD;
}

/* Names what differs; the number of ranges. */
static uint64_t name_damage(const struct chain *chain, const struct entry *e,
			    const struct scan *scan, const struct details *d,
			    bool json)
{
	uint64_t nr, end, total = 0, shown = 0;

	for (nr = 0; nr < scan->sums.nr; nr = end) {
		enum damage what = damage_of(scan, d, nr);
		uint64_t to;

		end = nr + 1;
		if (what == GOOD)
			continue;
		while (end < scan->sums.nr && damage_of(scan, d, end) == what)
			end++;
		total += end - nr;
		to = end * SUMS_RANGE < e->size ? end * SUMS_RANGE : e->size;
		if (json || shown++ < SHOW_MAX)
			show_damage(chain, e, nr * SUMS_RANGE, to, what == CHANGED ?
				    "the checksum does not fit" : "it cannot be read",
				    json);
	}
	if (shown > SHOW_MAX)
		say("%s/%s: and %llu more", esc(chain->dir), e->file,
		    (ull)(shown - SHOW_MAX));
	return total;
}

/* Reads all that the image itself has, and compares with the checksums. */
static int check_content(struct qcow2_image *img, const struct chain *chain,
			 const struct entry *e, bool json, bool *no_details,
			 struct cbw_error *err)
{
	char *path = chain_path(chain, e->file);
	struct progress progress;
	struct details d = { 0 };
	struct cbw_error why;
	struct scan scan;
	uint64_t bad;
	int ret;

	/* images of older versions have none: then there is just the sum of it all */
	ret = details_load(chain, e, &d, &why);
	if (ret && ret != -ENODATA) {
		say("verify: %s", why.msg);
		*no_details = true;
	}
	progress_begin(&progress, "verify", e->file, e->copied, json);
	ret = scan_image(img, path, &progress, &scan, err);
	progress_end(&progress);
	if (!ret) {
		bad = name_damage(chain, e, &scan, d.header ? &d : NULL, json);
		if (scan.nr_bad)
			ret = fail_with(err, EUCLEAN, "%s/%s: %llu of its ranges cannot be read, the first: %s",
					esc(chain->dir), e->file, (ull)scan.nr_bad,
					scan.first.msg);
		else
			ret = scan_compare(chain, e, &scan, err);
		if (!ret && bad)
			ret = fail_with(err, EUCLEAN, "%s/%s: %llu of its ranges have another checksum than the details say",
					esc(chain->dir), e->file, (ull)bad);
		scan_free(&scan);
	}
	details_free(&d);
	free(path);
	return ret;
}

static int check_entry(const struct chain *chain, const struct entry *e,
		       bool json, bool *no_details, struct cbw_error *err)
{
	struct qcow2_check_report rep;
	struct qcow2_image *img;
	struct qcow2_error qerr;
	int ret = open_entry(chain, e, &img, err);

	if (ret)
		return ret;
	ret = qcow2_check(img, 0, &rep, &qerr);
	if (ret)
		ret = fail_with(err, ret, "%s", qerr.msg);
	else if (rep.corruptions)
		ret = fail_with(err, EUCLEAN, "%s/%s: %llu corruptions, the first: %s",
				esc(chain->dir), e->file, (ull)rep.corruptions,
				rep.first);
	else
		ret = check_content(img, chain, e, json, no_details, err);
	if (!ret && rep.leaks)
		say("%s/%s: %llu clusters are allocated but not used, which is harmless",
		    esc(chain->dir), e->file, (ull)rep.leaks);
	qcow2_close(img);
	return ret;
}

/* Byte by byte; 0 equal, 1 not, or an error. */
static int compare(struct qcow2_image *img, const char *path, bool json,
		   struct cbw_error *err)
{
	uint64_t at, size = qcow2_size(img), have;
	struct progress progress;
	struct qcow2_error qerr;
	char *mine = xcalloc(PIECE, 1), *theirs;
	int fd, ret = 0;

	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		free(mine);
		return fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	}
	if (ioctl(fd, BLKGETSIZE64, &have))
		have = (uint64_t)lseek(fd, 0, SEEK_END);
	if (have < size) {
		close(fd);
		free(mine);
		fail_with(err, 1, "%s: it has %llu bytes, the image %llu",
			  esc(path), (ull)have, (ull)size);
		return 1;
	}
	if (posix_memalign((void **)&theirs, 4096, PIECE)) {
		close(fd);
		free(mine);
		return fail_with(err, ENOMEM, "out of memory");
	}
	progress_begin(&progress, "compare", path, size, json);
	for (at = 0; at < size && !ret; at += PIECE) {
		size_t now = size - at < PIECE ? (size_t)(size - at) : PIECE, i;

		ret = qcow2_read(img, at, mine, now, &qerr);
		if (ret) {
			ret = fail_with(err, ret, "%s", qerr.msg);
			break;
		}
		ret = pread_all(fd, theirs, now, at);
		if (ret) {
			ret = fail_with(err, ret, "%s: reading at offset %llu: %s",
					esc(path), (ull)at, strerror(-ret));
			break;
		}
		if (memcmp(mine, theirs, now)) {
			for (i = 0; mine[i] == theirs[i]; i++)
				;
			fail_with(err, 1, "%s: it differs from the image, first at offset %llu",
				  esc(path), (ull)(at + i));
			ret = 1;
		}
		if (stop_signal)
			ret = fail_with(err, EINTR, "stopped by signal %d",
					(int)stop_signal);
		progress_tick(&progress, at);
	}
	progress_end(&progress);
	free(mine);
	free(theirs);
	close(fd);
	return ret;
}

static int verify_chain(const struct chain *chain, bool json)
{
	struct cbw_error err;
	int status = EXIT_OK;
	size_t i;

	if (!chain->nr)
		say("%s: no backup has been completed here", esc(chain->dir));
	if (chain->merge.state != MERGE_NONE)
		say("verify: %s: a merge of %u into %u is under way, or was cut off ('cbw chain merge' ends it): both are left out",
		    esc(chain->dir), chain->merge.from, chain->merge.into);
	for (i = 0; i < chain->nr; i++) {
		bool no_details = false;
		uint32_t id = chain->entry[i].id;
		int ret;

		if (chain->merge.state != MERGE_NONE &&
		    (id == chain->merge.from || id == chain->merge.into)) {
			status = status == EXIT_OK ? EXIT_FAILED : status;
			continue;
		}
		ret = check_entry(chain, &chain->entry[i], json, &no_details, &err);
		if (no_details && status == EXIT_OK)
			status = EXIT_FAILED;
		if (ret) {
			/* not trusted is more than not readable */
			say("verify: %s", err.msg);
			if (status != EXIT_DISTRUST)
				status = ret == -EINTR || ret == -ENOMEM || ret == -EBUSY ?
					EXIT_FAILED : EXIT_DISTRUST;
			if (ret == -EINTR)
				break;
		} else if (!json) {
			printf("%s/%s: good, %s of data\n", esc(chain->dir),
			       chain->entry[i].file,
			       human(chain->entry[i].copied));
		}
	}
	return status;
}

static int against(const struct chain *chain, const char *until,
		   const char *path, bool json)
{
	const struct entry *e = pick_entry("verify", chain, until);
	struct qcow2_image *img;
	struct cbw_error err;
	int ret;

	if (!e)
		return EXIT_FAILED;
	ret = open_entry(chain, e, &img, &err);
	if (ret) {
		say("verify: %s", err.msg);
		return distrust(ret) ? EXIT_DISTRUST : EXIT_FAILED;
	}
	ret = compare(img, path, json, &err);
	qcow2_close(img);
	if (ret)
		return failed("verify: %s", err.msg);
	if (!json)
		printf("%s: equal to point in time %u of %s\n", esc(path),
		       e->id, esc(chain->volume));
	return EXIT_OK;
}

int cmd_verify(int argc, char **argv)
{
	const char *dev = NULL, *until = NULL;
	bool json = false;
	struct opt opts[] = {
		{ "against", OPT_TEXT, &dev, "DEV",
		  "compare with this device, snapshot or file instead" },
		{ "until", OPT_TEXT, &until, "ID",
		  "with --against: the point in time; default the newest" },
		{ "json", OPT_FLAG, &json, NULL, "lines of JSON on stdout" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw verify",
		.args = "DIR[/VOLUME] [--against DEV [--until ID]] [--json]",
		.about = "Reads all images: their structure, the ids that chain them, the checksums of\n"
			"their content. With --against compares a point in time with a device, byte by byte.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv), one;
	struct cbw_error err;
	struct chain chain;
	char **dirs;
	size_t nr, i;

	if (status >= 0)
		return status;
	if (until && !dev)
		return usage("cbw verify: --until goes with --against only");
	catch_signals();
	if (dev) {
		status = pick_chain("verify", cl.arg[0], &chain);
		if (status)
			return status;
		status = against(&chain, until, dev, json);
		chain_close(&chain);
		return status;
	}
	if (chain_find_dirs(cl.arg[0], &dirs, &nr, &err))
		return failed("verify: %s", err.msg);
	status = EXIT_OK;
	for (i = 0; i < nr; i++) {
		one = chain_open(dirs[i], false, &chain, &err);
		if (one) {
			say("verify: %s", err.msg);
			one = one == -EUCLEAN ? EXIT_DISTRUST : EXIT_FAILED;
		} else {
			one = verify_chain(&chain, json);
			chain_close(&chain);
		}
		if (one > status)
			status = one;
		free(dirs[i]);
	}
	free(dirs);
	return status;
}
