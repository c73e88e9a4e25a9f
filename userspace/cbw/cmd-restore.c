// SPDX-License-Identifier: GPL-2.0-or-later
/* restore */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "qcow2.h"
#include "restore.h"

static int open_block(struct restore_target *t, uint64_t need,
		      struct cbw_error *err)
{
	int lbs = 512, ro = 0;

	/* O_EXCL: neither mounted, nor part of another device */
	t->fd = open(t->path, O_RDWR | O_EXCL | O_CLOEXEC);
	if (t->fd < 0)
		return fail_with(err, errno, "%s: %s", esc(t->path),
				 errno == EBUSY ?
				 "it is in use (mounted, or part of another device)" :
				 strerror(errno));
	if (ioctl(t->fd, BLKGETSIZE64, &t->size) ||
	    ioctl(t->fd, BLKSSZGET, &lbs) || ioctl(t->fd, BLKROGET, &ro))
		return fail_with(err, errno, "%s: %s", esc(t->path),
				 strerror(errno));
	if (ro)
		return fail_with(err, EROFS, "%s: the device is read-only",
				 esc(t->path));
	if (t->size < need)
		return fail_with(err, ENOSPC,
				 "%s: the device has %llu bytes, the volume needs %llu",
				 esc(t->path), (ull)t->size, (ull)need);
	t->block = true;
	t->lbs = (uint32_t)lbs;
	return 0;
}

static int open_file(struct restore_target *t, bool force, uint64_t need,
		     struct cbw_error *err)
{
	t->fd = open(t->path, O_RDWR | O_CREAT | O_CLOEXEC |
		     (force ? O_TRUNC : O_EXCL), 0600);
	if (t->fd < 0)
		return fail_with(err, errno, "%s: %s%s", esc(t->path),
				 strerror(errno), errno == EEXIST ?
				 "; --force if it is to be overwritten" : "");
	if (ftruncate(t->fd, (off_t)need))
		return fail_with(err, errno, "%s: %s", esc(t->path),
				 strerror(errno));
	t->blank = true;
	t->lbs = 4096;
	return 0;
}

static int open_target(struct restore_target *t, bool force, uint64_t need,
		       struct cbw_error *err)
{
	char path[40];
	struct stat st;
	int ret;

	if (stat(t->path, &st)) {
		if (errno != ENOENT)
			return fail_with(err, errno, "%s: %s", esc(t->path),
					 strerror(errno));
		if (!strncmp(t->path, "/dev/", 5))
			return fail_with(err, ENOENT, "%s: there is no such device",
					 esc(t->path));
		ret = open_file(t, force, need, err);
	} else if (S_ISBLK(st.st_mode)) {
		ret = open_block(t, need, err);
	} else if (S_ISREG(st.st_mode)) {
		ret = open_file(t, force, need, err);
	} else {
		ret = fail_with(err, EINVAL,
				"%s: neither a block device nor a file",
				esc(t->path));
	}
	if (ret)
		return ret;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", t->fd);
	t->direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (t->direct < 0)
		t->direct = t->fd;
	return 0;
}

static void close_target(struct restore_target *t)
{
	if (t->direct >= 0 && t->direct != t->fd)
		close(t->direct);
	if (t->fd >= 0)
		close(t->fd);
}

int cmd_restore(int argc, char **argv)
{
	struct restore_target t = { .direct = -1, .fd = -1 };
	const char *until = NULL;
	bool json = false, force = false;
	struct opt opts[] = {
		{ "to", OPT_TEXT, &t.path, "TARGET",
		  "block device, not in use, at least as large; or a file to be made" },
		{ "until", OPT_TEXT, &until, "ID",
		  "point in time: an id, or 8 digits of its cut; default the newest" },
		{ "force", OPT_FLAG, &force, NULL, "overwrite a file" },
		{ "json", OPT_FLAG, &json, NULL, "lines of JSON on stdout" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw restore",
		.args = "DIR[/VOLUME] --to TARGET [--until ID] [--force] [--json]",
		.about = "Writes a point in time of a volume to TARGET, data and zeros.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);
	const struct entry *e;
	struct qcow2_image *img;
	struct chain chain;
	struct cbw_error err;
	int ret;

	if (status >= 0)
		return status;
	if (!t.path)
		return usage("cbw restore: --to TARGET is missing");
	status = pick_chain("restore", cl.arg[0], &chain);
	if (status)
		return status;
	e = pick_entry("restore", &chain, until);
	if (!e) {
		chain_close(&chain);
		return EXIT_FAILED;
	}
	catch_signals();
	ret = open_entry(&chain, e, &img, &err);
	if (ret) {
		chain_close(&chain);
		say("restore: %s", err.msg);
		return distrust(ret) ? EXIT_DISTRUST : EXIT_FAILED;
	}
	ret = open_target(&t, force, e->size, &err);
	if (!ret) {
		ret = restore_image(img, &t, json, &err);
		if (!ret && fsync(t.fd))
			ret = fail_with(&err, errno, "%s: fsync: %s", esc(t.path),
					strerror(errno));
		if (ret)
			fprintf(stderr, "cbw: restore: %s is incomplete now\n",
				esc(t.path));
	}
	close_target(&t);
	qcow2_close(img);
	if (ret) {
		status = failed("restore: %s", err.msg);
	} else {
		if (!json)
			printf("%s: point in time %u of %s, %s\n", esc(t.path),
			       e->id, esc(chain.volume), human(e->size));
		status = EXIT_OK;
	}
	chain_close(&chain);
	return status;
}
