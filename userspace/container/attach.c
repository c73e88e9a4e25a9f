// SPDX-License-Identifier: GPL-2.0-or-later
/* a volume gets its container */
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "attach.h"
#include "cbw.h"
#include "deliver.h"
#include "marker.h"
#include "store.h"

#define ROOM_BITMAPS	4
#define ROOM_MIN	8

struct attach {
	const struct container_opts *o;
	const char *what;		/* "attach" or "create", for messages */
	const char *name;		/* of the volume */
	const char *origin;		/* "create": its path */
	struct cbw_devno volume;	/* the device that is bound to the container */
	int volume_fd;
	struct container c;
	struct delivery d;
	struct store loop;
	bool forgot;			/* what an attach had loaded that died */
};

int container_opts_check(const char *command, const struct container_opts *o)
{
	uint64_t r = o->region;

	if (!o->path && (r || o->size || o->timeout_ms || o->policy || o->force || o->force_full ||
			 o->elsewhere))
		return usage("%s: --region, --size, --timeout, --policy, --force, --force-full and --elsewhere need --container",
			     command);
	if (r && (r & (r - 1) || r < 1ull << CBW_REGION_SHIFT_MIN ||
		  r > 1ull << CBW_REGION_SHIFT_MAX))
		return usage("%s: --region %" PRIu64 ": it has to be a power of two from 64K to 1G",
			     command, r);
	if (o->timeout_ms > CBW_CONTAINER_TIMEOUT_MAX)
		return usage("%s: --timeout %" PRIu64 ": at most %u (milliseconds)", command,
			     o->timeout_ms, CBW_CONTAINER_TIMEOUT_MAX);
	if (o->policy && strcmp(o->policy, "continue") && strcmp(o->policy, "hold"))
		return usage("%s: --policy %s: it has to be continue or hold", command,
			     esc(o->policy));
	return -1;
}

/* ---- the container's file ---------------------------------------------- */

static int check_place(struct attach *a, struct cbw_error *err)
{
	struct cbw_dm_dev volume = { .dev = a->volume };
	const char *path = a->o->path;
	char *copy, *dir;
	struct stat st;
	int ret;

	snprintf(volume.name, sizeof(volume.name), "%s", a->name);
	if (!stat(path, &st))
		return check_not_on(path, "container", &volume, 1, err);
	if (errno != ENOENT)
		return fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	copy = xstrdup(path);
	dir = dirname(copy);
	ret = check_not_on(dir, "container", &volume, 1, err);
	free(copy);
	return ret;
}

/* libblkid reads as it likes, so not with our descriptor, which has O_DIRECT. */
static int container_blank(const struct cfile *f, struct cbw_error *err)
{
	int fd = open(f->path, O_RDONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return fail_with(err, errno, "%s: %s", esc(f->path), strerror(errno));
	ret = check_blank(f->path, fd, "container", err);
	close(fd);
	return ret;
}

static int open_container(struct attach *a, struct cbw_error *err)
{
	struct cfile *f = &a->c.f;
	int ret = check_place(a, err), tries;

	if (!ret)
		ret = cfile_open(a->o->path, CFILE_WRITE | CFILE_CREATE | CFILE_LOCK, f, err);
	/* it was open in a table that has just been dropped: a loop device takes its time */
	for (tries = 0; ret == -EBUSY && a->forgot && tries < 100; tries++) {
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
		ret = cfile_open(a->o->path, CFILE_WRITE | CFILE_CREATE | CFILE_LOCK, f, err);
	}
	if (ret)
		return ret;
	ret = container_load(&a->c, err);
	if (ret == -ENODATA && f->block) {
		a->c.phase = PHASE_EMPTY;
		/* what libblkid calls it says more */
		ret = a->o->force ? 0 : container_blank(f, err);
		if (!ret && !a->o->force)
			ret = fail_with(err, EEXIST,
					"%s: it holds something that is no container; --force makes one there",
					esc(f->path));
	} else if (!ret && a->c.phase == PHASE_EMPTY && f->size && !a->o->force) {
		ret = container_blank(f, err);
	}
	return ret;
}

/* ---- preparing it ------------------------------------------------------ */

static uint32_t region_shift(const struct attach *a)
{
	uint64_t region = a->o->region ? a->o->region : REGION_DEFAULT;

	return 63 - (uint32_t)__builtin_clzll(region);
}

static int new_container(struct attach *a, struct cbw_error *err)
{
	struct container *c = &a->c;
	int ret;

	container_free(c);
	ret = image_create(&c->f, a->d.now.size, &c->img, err);
	if (ret)
		return ret;
	c->no_state = false;
	c->phase = PHASE_CLEAN;
	c->state = (struct state){
		.flags = CBW_STATE_CLEAN,
		.region_shift = region_shift(a),
		.device_size = a->d.now.size,
	};
	if (getrandom(c->state.container.b, 16, 0) != 16)
		return fail_with(err, EIO, "getrandom gave no random number");
	return image_write_state(&c->img, &c->state, err);
}

/* Starts anew with empty bitmaps, whatever is in the container. */
static int start_anew(struct attach *a, struct cbw_error *err)
{
	struct container *c = &a->c;
	int ret;

	if (!c->img.f)
		return new_container(a, err);
	if (c->img.size != a->d.now.size) {
		ret = image_resize(&c->img, a->d.now.size, err);
		if (ret)
			return ret;
	}
	ret = layout_reset(c, err);
	if (ret)
		return ret;
	if (cbw_cut_is_none(&c->state.container) &&
	    getrandom(c->state.container.b, 16, 0) != 16)
		return fail_with(err, EIO, "getrandom gave no random number");
	c->state.region_shift = region_shift(a);
	ret = cfile_zero(&c->f, IMAGE_SLOTS, STATE_BYTES, err);
	if (!ret)
		ret = image_write_state(&c->img, &c->state, err);
	c->phase = PHASE_STOPPED;
	return ret;
}

static int decide(struct attach *a, int *status, struct cbw_error *err)
{
	struct container *c = &a->c;
	bool changed = false;
	int ret;

	*status = EXIT_FAILED;
	if (c->phase == PHASE_EMPTY)
		return new_container(a, err);
	ret = container_judge(c, &a->d.now, &a->d.boot_id, &a->d.take, err);
	if (ret == -EUCLEAN && a->o->force_full) {
		say("%s: %s", a->what, err->msg);
		say("%s: %s: starting anew as asked: all bitmaps are empty and have no base, the next backups will be full ones",
		    a->what, esc(a->name));
		a->d.take = TAKE_EXACT;
		a->d.anew = true;
		return start_anew(a, err);
	}
	if (ret) {
		*status = ret == -EUCLEAN ? EXIT_DISTRUST : EXIT_FAILED;
		return ret;
	}
	if (c->phase == PHASE_CLEAN)
		ret = layout_adopt(c, &changed, err);
	else
		ret = layout_places(c, &changed, err);
	if (!ret && changed)
		ret = image_write_state(&c->img, &c->state, err);
	return ret;
}

static uint64_t room_wanted(const struct attach *a)
{
	const struct container *c = &a->c;
	uint64_t used = 0, i, n, want;

	n = ROOM_BITMAPS * bitmap_clusters(c->state.device_size, 16);
	if (n < ROOM_MIN)
		n = ROOM_MIN;
	if (c->f.block)
		return 0;
	for (i = 0; i < c->img.clusters; i++)
		used += c->img.used[i];
	want = a->o->size / CLUSTER;
	return want > used + n ? want - used : n;
}

static char *backing_path(const struct attach *a)
{
	char *real;

	if (!a->origin)
		return xasprintf("/dev/mapper/%s", a->name);
	if (a->origin[0] == '/')
		return xstrdup(a->origin);
	real = realpath(a->origin, NULL);
	return real ? real : xstrdup(a->origin);
}

static int prepare(struct attach *a, int *status, struct cbw_error *err)
{
	struct container *c = &a->c;
	char *backing;
	int ret;

	ret = read_boot_id(&a->d.boot_id, err);
	if (!ret)
		ret = decide(a, status, err);
	if (ret)
		return ret;
	*status = EXIT_FAILED;
	if (!(c->state.flags & CBW_STATE_CLEAN) && a->o->region &&
	    c->state.region_shift != region_shift(a))
		say("%s: %s: the regions are %s until the next clean stop, since intents of that size are recovered",
		    a->what, esc(a->name), human(1ull << c->state.region_shift));
	backing = backing_path(a);
	ret = layout_attached(c, backing, region_shift(a), room_wanted(a), &a->d.space, err);
	free(backing);
	if (!ret)
		ret = cfile_grow(&c->f, c->img.clusters * CLUSTER, err);
	if (!ret)
		ret = binding_print(&a->d.now, a->d.binding, &a->d.binding_len, err);
	return ret;
}

/* ---- the block device of it -------------------------------------------- */

static int block_device(struct attach *a, struct cbw_error *err)
{
	struct cfile *f = &a->c.f;
	int fd;

	if (!f->block) {
		a->loop = (struct store){ .path = xstrdup(a->o->path), .fd = -1, .loop = -1,
					  .lock = -1 };
		if (store_ready(&a->loop, err))
			return -err->code;
		a->d.container = a->loop.dev;
		return 0;
	}
	/* the mapped device will have it for itself; until then we keep it open */
	a->d.container = f->dev;
	fd = open(a->o->path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		return fail_with(err, errno, "%s: %s", esc(f->path), strerror(errno));
	close(f->fd);
	f->fd = fd;
	return 0;
}

/*
 * The volume did not get its target: what is in the container is what was there before, so it
 * can be that of a detached one again. What is left undone here the next attach does.
 */
static void take_back(struct attach *a)
{
	struct cbw_error err;

	container_free(&a->c);
	if (!container_load(&a->c, &err) && a->c.phase == PHASE_STOPPED)
		layout_detached(&a->c, &err);
}

/* ---- all of it --------------------------------------------------------- */

static int find_volume(struct attach *a, const char *dev, struct cbw_dm_dev *there,
		       struct cbw_error *err)
{
	struct stat st;
	char *path;
	int ret;

	a->volume_fd = -1;
	if (!a->origin) {
		ret = cbw_dm_find(dev, there, err);
		if (ret)
			return ret;
		if (there->kind == CBW_DM_TRACKED)
			return fail_with(err, EALREADY, "%s: it has the cbw target already%s",
					 esc(there->name), there->container.major ?
					 ", with a container" :
					 "; detach it first, its bitmaps cannot move into a container");
		if (there->loaded) {
			ret = cbw_dm_attach_forget(dev, err);
			if (ret)
				return ret;
			a->forgot = true;
		}
		a->name = there->name;
		a->volume = there->dev;
		a->volume_fd = cbw_dm_open(there->dev, O_RDONLY, err);
		if (a->volume_fd < 0)
			return a->volume_fd;
	} else {
		a->name = a->origin;
		a->volume_fd = open(a->origin, O_RDONLY | O_CLOEXEC);
		if (a->volume_fd < 0 || fstat(a->volume_fd, &st))
			return fail_with(err, errno, "%s: %s", esc(a->origin), strerror(errno));
		if (!S_ISBLK(st.st_mode))
			return fail_with(err, ENOTBLK, "%s: not a block device", esc(a->origin));
		a->volume.major = major(st.st_rdev);
		a->volume.minor = minor(st.st_rdev);
	}
	path = xasprintf("/proc/self/fd/%d", a->volume_fd);
	ret = binding_take(path, a->volume, &a->d.now, err);
	free(path);
	a->d.now.stacked = a->origin;
	/* counted before we had it open ourselves */
	a->d.now.open = !a->origin && there->open_count;
	a->d.volume = a->volume;
	close(a->volume_fd);
	a->volume_fd = -1;
	return ret;
}

static int run(struct attach *a, const char *dev, struct cbw_error *err)
{
	struct cbw_dm_dev there = { 0 }, live;
	int status = EXIT_FAILED, ret;

	ret = find_volume(a, dev, &there, err);
	if (!ret)
		ret = open_container(a, err);
	if (!ret)
		ret = prepare(a, &status, err);
	if (ret)
		goto out;
	ret = block_device(a, err);
	if (!ret && a->origin)
		ret = cbw_dm_create_container(dev, a->origin, a->d.container, deliver, &a->d, &live,
					      err);
	else if (!ret)
		ret = cbw_dm_attach_container(dev, a->d.container, deliver, &a->d, &live, err);
	if (ret) {
		if (ret == -EUCLEAN)
			status = EXIT_DISTRUST;
		take_back(a);
		goto out;
	}
	/* what was noted is of an older generation now */
	if (a->d.anew)
		marker_remove(&a->c.state.container);
	status = deliver_report(&a->d, a->what, &live, !a->origin);
out:
	if (a->volume_fd >= 0)
		close(a->volume_fd);
	return ret ? (status == EXIT_OK ? EXIT_FAILED : status) : status;
}

int container_attach(const char *dev, const char *origin, const struct container_opts *opts)
{
	struct attach a = {
		.o = opts,
		.what = origin ? "create" : "attach",
		.origin = origin,
		.c = { .f = { .fd = -1 }, .no_state = true },
		.loop = { .fd = -1, .loop = -1, .lock = -1 },
		.volume_fd = -1,
	};
	struct cbw_error err = { 0 };
	int status;

	if (opts->elsewhere)
		assume_elsewhere();
	a.d.c = &a.c;
	a.d.policy = opts->policy && !strcmp(opts->policy, "hold") ? CBW_CONTAINER_HOLD :
								     CBW_CONTAINER_CONTINUE;
	a.d.timeout_ms = (uint32_t)opts->timeout_ms;
	status = run(&a, dev, &err);
	if (err.msg[0] && status != EXIT_OK && status != EXIT_FULL) {
		say("%s: %s", a.what, err.msg);
		if (status == EXIT_DISTRUST)
			say("%s: nothing was changed; --force-full starts anew with empty bitmaps",
			    a.what);
	}
	store_close(&a.loop);
	delivery_free(&a.d);
	container_close(&a.c);
	return status;
}
