// SPDX-License-Identifier: GPL-2.0-or-later
/* a volume and its container part; more room for one that is attached */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "attach.h"
#include "cbw.h"
#include "sysfs.h"

/*
 * Does somebody have it open? He writes on when nothing is recorded any more. Programs that udev
 * runs close it again at once.
 */
static bool in_use(const struct cbw_dm_dev *dev)
{
	struct cbw_dm_dev now = *dev;
	char number[32];
	int tries;

	snprintf(number, sizeof(number), "%u:%u", dev->dev.major, dev->dev.minor);
	for (tries = 0; now.open_count && tries < 10; tries++) {
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
		if (cbw_dm_find(number, &now, NULL))
			return true;
	}
	return now.open_count;
}

/* What tells the volume from now on; of a stacked device that is its origin. */
static int take_binding(const struct cbw_dm_dev *dev, char *text, uint32_t *len,
			struct cbw_error *err)
{
	struct cbw_devno volume = dev->attached ? dev->dev : dev->origin;
	char *path = xasprintf("/dev/block/%u:%u", volume.major, volume.minor);
	/* before we have it open ourselves; below a stacked device nobody else may be */
	bool open = dev->attached && in_use(dev);
	struct binding b;
	int fd = -1, ret;

	if (dev->attached || access(path, R_OK)) {
		fd = cbw_dm_open(volume, O_RDONLY, err);
		free(path);
		if (fd < 0)
			return fd;
		path = xasprintf("/proc/self/fd/%d", fd);
	}
	ret = binding_take(path, volume, &b, err);
	b.stacked = !dev->attached;
	b.open = open;
	if (!ret && open)
		say("%s: it is in use: what is written from now on is not recorded, and its bitmaps will be trusted only if it is attached again in this boot and was not written to",
		    esc(dev->name));
	if (!ret && b.uncounted)
		say("%s: its statistics are switched off (queue/iostats in sysfs): an attach in this boot will not trust its bitmaps",
		    esc(dev->name));
	if (!ret)
		ret = binding_print(&b, text, len, err);
	free(path);
	if (fd >= 0)
		close(fd);
	return ret;
}

/* The target is gone: what the kernel has left becomes an image that everybody can use. */
static int finish(const char *what, const char *name, struct container *c, uint64_t generation)
{
	struct cbw_error err;
	int ret = container_load(c, &err);

	if (!ret && c->phase == PHASE_BAD)
		ret = fail_with(&err, EUCLEAN, "%s", c->why.msg);
	if (ret) {
		failed("%s: %s: its bitmaps could not be saved, and will not be trusted: %s",
		       what, esc(name), err.msg);
		return EXIT_DISTRUST;
	}
	if (c->phase != PHASE_STOPPED || c->state.generation != generation) {
		failed("%s: %s: its bitmaps could not be saved (the kernel log may say why), and will not be trusted: the next attach will refuse them without --force-full",
		       what, esc(name));
		return EXIT_DISTRUST;
	}
	if (layout_detached(c, &err))
		return failed("%s: %s: its bitmaps are saved, but the container is not put in order: %s; the next attach, or 'cbw check -r', does that",
			      what, esc(name), err.msg);
	return EXIT_OK;
}

int container_detach(const char *what, const struct cbw_dm_dev *dev,
		     int (*end)(const struct cbw_dm_dev *dev, void *arg, struct cbw_error *err),
		     void *arg)
{
	struct container c = { .f = { .fd = -1 }, .no_state = true };
	struct cbw_container_info info;
	struct cbw_session *session;
	char binding[CBW_BINDING_MAX];
	struct cbw_error err;
	int ret, status = EXIT_FAILED;
	uint32_t len = 0;

	if (cbw_session_open(&session, &err))
		return failed("%s: %s", what, err.msg);
	ret = cbw_container_get_info(session, dev->dev, false, &info, &err);
	if (!ret)
		ret = cfile_open_dev(dev->container, &c.f, &err);
	if (!ret)
		ret = take_binding(dev, binding, &len, &err);
	if (!ret)
		ret = cbw_container_detach(session, dev->dev, binding, len, &err);
	if (ret) {
		failed("%s: %s: %s", what, esc(dev->name), err.msg);
		goto out;
	}
	if (end(dev, arg, &err)) {
		failed("%s: %s", what, err.msg);
		if (cbw_container_detach_cancel(session, dev->dev, &err) && err.code != ENODEV)
			say("%s: %s", what, err.msg);
		goto out;
	}
	status = finish(what, dev->name, &c, info.out_generation);
out:
	cbw_session_close(session);
	container_close(&c);
	return status;
}

/* ---- room -------------------------------------------------------------- */

/* The loop device has to see that its file has grown. */
static int tell_loop(struct cbw_devno dev, struct cbw_error *err)
{
	char path[32];
	int fd, ret = 0;

	snprintf(path, sizeof(path), "/dev/loop%u", dev.minor);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, LOOP_SET_CAPACITY, 0))
		ret = fail_with(err, errno, "%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return ret;
}

int container_make_room(struct cbw_session *session, const struct cbw_dm_dev *dev,
			uint32_t granularity, struct cbw_error *err)
{
	struct container c = { .f = { .fd = -1 }, .no_state = true };
	char *file = loop_file(dev->container);
	struct cbw_place space = { 0 };
	uint64_t clusters;
	int ret;

	if (!granularity)
		granularity = CBW_GRANULARITY_DEFAULT;
	clusters = bitmap_clusters(dev->size, (uint32_t)__builtin_ctz(granularity));
	if (file)
		ret = cfile_open(file, CFILE_WRITE, &c.f, err);
	else
		ret = cfile_open_dev(dev->container, &c.f, err);
	if (!ret && file && (c.f.loop.major != dev->container.major ||
			     c.f.loop.minor != dev->container.minor))
		ret = fail_with(err, ESTALE, "%s: it is not the file of /dev/loop%u any more",
				esc(file), dev->container.minor);
	/* one at a time */
	if (!ret && flock(c.f.fd, LOCK_EX))
		ret = fail_with(err, errno, "%s: %s", esc(c.f.path), strerror(errno));
	if (!ret)
		ret = container_load(&c, err);
	if (!ret && c.phase != PHASE_OPEN)
		ret = fail_with(err, EUCLEAN, "%s: it does not look attached: %s", esc(c.f.path),
				c.phase == PHASE_BAD ? c.why.msg : "no state of an attached volume");
	if (!ret)
		ret = layout_grow(&c, clusters, &space, err);
	if (!ret && file)
		ret = tell_loop(dev->container, err);
	if (!ret)
		ret = cbw_container_grow(session, dev->dev, &space, 1, err);
	container_close(&c);
	free(file);
	return ret;
}
