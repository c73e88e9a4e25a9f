// SPDX-License-Identifier: GPL-2.0-or-later
/* verify */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cbw.h"
#include "crc.h"
#include "progress.h"
#include "qcow2.h"
#include "restore.h"

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

/* Reads all data of the topmost layer, and compares with the checksum. */
static int check_content(struct qcow2_image *img, const struct chain *chain,
			 const struct entry *e, bool json,
			 struct cbw_error *err)
{
	uint32_t cluster = qcow2_cluster_size(img), crc = 0;
	uint64_t at = 0, size = qcow2_size(img), data = 0;
	char *buf = xcalloc(cluster, 1);
	struct progress progress;
	struct qcow2_error qerr;
	struct qcow2_run run;
	int ret = 0;

	progress_begin(&progress, "verify", e->file, e->copied, json);
	while (at < size && !ret) {
		ret = qcow2_map_layer(img, 0, at, size - at, &run, &qerr);
		if (ret) {
			ret = fail_with(err, ret, "%s", qerr.msg);
			break;
		}
		at += run.length;
		while (run.type == QCOW2_RUN_DATA && run.length && !ret) {
			uint32_t now = cluster - (uint32_t)(run.offset %
							    cluster);

			if (now > run.length)
				now = (uint32_t)run.length;
			memset(buf, 0, cluster);
			ret = pread_all(run.fd, buf, now, run.host_offset);
			if (ret) {
				ret = fail_with(err, ret, "%s/%s: reading at %llu: %s",
						esc(chain->dir), e->file,
						(ull)run.host_offset,
						strerror(-ret));
				break;
			}
			crc = crc_cluster(crc, run.offset, buf, cluster);
			data += now;
			run.offset += now;
			run.host_offset += now;
			run.length -= now;
			progress_tick(&progress, data);
			if (stop_signal)
				ret = fail_with(err, EINTR, "stopped by signal %d",
						(int)stop_signal);
		}
	}
	progress_end(&progress);
	free(buf);
	if (!ret && (crc != e->crc || data != e->copied))
		ret = fail_with(err, EUCLEAN,
				"%s/%s: its content has changed: checksum %08x of %llu bytes, the manifest says %08x of %llu",
				esc(chain->dir), e->file, crc, (ull)data, e->crc,
				(ull)e->copied);
	return ret;
}

static int check_entry(const struct chain *chain, const struct entry *e,
		       bool json, struct cbw_error *err)
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
		ret = check_content(img, chain, e, json, err);
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
	for (i = 0; i < chain->nr; i++) {
		int ret = check_entry(chain, &chain->entry[i], json, &err);

		if (ret) {
			/* not trusted is more than not readable */
			say("verify: %s", err.msg);
			if (status != EXIT_DISTRUST)
				status = ret == -EINTR || ret == -ENOMEM ?
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
		return EXIT_DISTRUST;
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
