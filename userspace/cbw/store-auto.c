// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A store of our own: free space in the volume's group, or a sparse file. It is given back
 * at the end; what a run that was killed has left, the next one finds by name, and knows by
 * its tag or mark: what only has such a name is somebody else's.
 *
 * A logical volume of ours is in use while somebody has it open, a file while somebody has
 * it locked, or a loop device has it. Between making and opening lies a moment; a lock keeps
 * the next run from looking into it.
 */
#include <fcntl.h>
#include <glob.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "cbw.h"
#include "lvm.h"
#include "store.h"

#define LOCK_PATH	"/run/lock/cbw-store"
/* of a file system: what is left to others */
#define SPARE		(64ull << 20)

static uint64_t align(uint64_t size)
{
	return (size + STORE_ALIGN - 1) / STORE_ALIGN * STORE_ALIGN;
}

uint64_t store_first_size(uint64_t volume, uint64_t most)
{
	/* not much, and not so little that it has to grow at once */
	uint64_t size = volume / 32;

	if (size < STORE_FIRST_MIN)
		size = STORE_FIRST_MIN;
	if (size > STORE_FIRST_MAX)
		size = STORE_FIRST_MAX;
	if (size > most)
		size = most;
	return align(size ? size : STORE_ALIGN);
}

uint64_t store_next_size(uint64_t size, uint64_t used, uint64_t rate, uint64_t most)
{
	uint64_t step = size / 2, next;

	if (used / 4 < size / 5 && used + STORE_AHEAD_S * rate < size)
		return size;
	/* twice what comes until we look again, at least */
	if (step < 2 * STORE_AHEAD_S * rate)
		step = 2 * STORE_AHEAD_S * rate;
	if (step < STORE_ALIGN)
		step = STORE_ALIGN;
	next = align(size + step);
	if (next > most)
		next = align(most);
	return next > size ? next : size;
}

/* ---- the lock ---------------------------------------------------------- */

static int lock_stores(struct cbw_error *err)
{
	int fd = open(LOCK_PATH, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600), tries;

	if (fd < 0)
		return fail_with(err, errno, LOCK_PATH ": %s", strerror(errno));
	for (tries = 0; flock(fd, LOCK_EX | LOCK_NB); tries++) {
		if (errno != EWOULDBLOCK || tries == 600 || stop_signal) {
			int code = stop_signal ? EINTR : errno;

			close(fd);
			return fail_with(err, code, LOCK_PATH
					 ": another run is making a store, and does not end");
		}
		nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
	}
	return fd;
}

/* ---- logical volumes --------------------------------------------------- */

static void drop_lv(const char *lv, void *arg)
{
	struct cbw_error err;

	(void)arg;
	if (lvm_remove(lv, &err))
		say("leftover of an interrupted backup: %s: %s", esc(lv), err.msg);
	else
		say("leftover of an interrupted backup: logical volume %s is removed", esc(lv));
}

static int take_lv(const char *path, struct store *store, struct cbw_error *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) || ioctl(fd, BLKGETSIZE64, &store->size)) {
		int ret = fail_with(err, errno, "%s: %s", esc(path), strerror(errno));

		if (fd >= 0)
			close(fd);
		return ret;
	}
	/* open until the end: so nobody takes it for a leftover */
	store->fd = fd;
	store->dev.major = major(st.st_rdev);
	store->dev.minor = minor(st.st_rdev);
	return 0;
}

/* What there is to have of what is wanted; 0: less than the least. */
static uint64_t affordable(const struct store_wish *wish, uint64_t room)
{
	if (room >= wish->first)
		return wish->first;
	return room >= wish->least ? room / STORE_ALIGN * STORE_ALIGN : 0;
}

static int make_in_group(const struct lvm_group *group, const struct store_wish *wish,
			 struct store *store, struct cbw_error *err)
{
	uint64_t size = affordable(wish, group->free / group->extent * group->extent);
	struct timespec now;
	char name[48];
	int ret;

	if (!size)
		return fail_with(err, ENOSPC, "volume group %s has %s free, %s are wanted",
				 esc(group->name), human(group->free), human(wish->first));
	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(name, sizeof(name), LVM_NAME "%llx%05lx", (ull)now.tv_sec, now.tv_nsec >> 10);
	ret = lvm_create(group, name, size, &store->path, err);
	if (ret)
		return ret;
	store->lv = xasprintf("%s/%s", group->name, name);
	store->kind = STORE_LV;
	ret = take_lv(store->path, store, err);
	if (ret)
		store_drop(store);
	return ret;
}

/* -ENOENT: the volume is in no group */
static int make_lv(const struct cbw_dm_dev *vol, const struct store_wish *wish,
		   struct store *store, struct cbw_error *err)
{
	struct cbw_dm_dev below, *on = NULL;
	struct lvm_group group;
	char number[32];
	int ret;

	/* the volume is a logical one, or stands on one */
	ret = lvm_group_of(vol, &group, err);
	if (ret == -ENOENT) {
		snprintf(number, sizeof(number), "%u:%u", vol->origin.major, vol->origin.minor);
		if (cbw_dm_find(number, &below, NULL))
			return ret;
		on = &below;
		ret = lvm_group_of(on, &group, err);
	}
	if (!ret)
		ret = lvm_unused(&group, drop_lv, NULL, err);
	if (ret)
		return ret;
	/* there may be more room now */
	lvm_group_free(&group);
	ret = lvm_group_of(on ? on : vol, &group, err);
	if (ret)
		return ret;
	ret = make_in_group(&group, wish, store, err);
	lvm_group_free(&group);
	return ret;
}

/* ---- files ------------------------------------------------------------- */

static void drop_files(const char *dir)
{
	char *pattern = xasprintf("%s/" STORE_NAME "*", dir);
	struct cbw_error err;
	glob_t g;
	size_t i;

	if (glob(pattern, GLOB_NOSORT, NULL, &g)) {
		free(pattern);
		return;
	}
	free(pattern);
	for (i = 0; i < g.gl_pathc; i++) {
		int fd = open(g.gl_pathv[i], O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

		if (fd < 0)
			continue;
		if (store_marked(g.gl_pathv[i], fd) &&
		    !store_file_free(g.gl_pathv[i], fd, &err)) {
			if (unlink(g.gl_pathv[i]))
				say("leftover of an interrupted backup: %s: %s",
				    esc(g.gl_pathv[i]), strerror(errno));
			else
				say("leftover of an interrupted backup: %s is removed",
				    esc(g.gl_pathv[i]));
		}
		close(fd);
	}
	globfree(&g);
}

/* What the file could have, with what it has: the rest of the file system, but for a little. */
static int file_room(int fd, uint64_t *room, struct cbw_error *err)
{
	struct statvfs vfs;
	struct stat st;
	uint64_t left;

	if (fstatvfs(fd, &vfs) || fstat(fd, &st))
		return fail_with(err, errno, "the file system of the store: %s", strerror(errno));
	left = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	*room = (left > SPARE ? left - SPARE : 0) + (uint64_t)st.st_blocks * 512;
	return 0;
}

static int make_file(const char *dir, const struct store_wish *wish,
		     const struct cbw_dm_dev *volumes, size_t nr, struct store *store,
		     struct cbw_error *err)
{
	uint64_t room = 0;
	int fd, ret;

	ret = check_not_on(dir, "store", volumes, nr, err);
	if (ret)
		return ret;
	drop_files(dir);
	store->path = xasprintf("%s/" STORE_NAME "XXXXXX", dir);
	fd = mkostemp(store->path, O_CLOEXEC);
	if (fd < 0) {
		ret = fail_with(err, errno, "%s: no file for the store can be made there: %s",
				esc(dir), strerror(errno));
		free(store->path);
		store->path = NULL;
		return ret;
	}
	store->kind = STORE_FILE;
	store->lock = fd;
	ret = file_room(fd, &room, err);
	/* a loop device has whole sectors, and the mark comes behind them */
	store->size = affordable(wish, room) / 512 * 512;
	if (!ret && !store->size)
		ret = fail_with(err, ENOSPC, "%s: there is room for %s, %s are wanted for the store",
				esc(dir), human(room), human(wish->first));
	if (!ret && flock(fd, LOCK_EX | LOCK_NB))
		ret = fail_with(err, errno, "%s: %s", esc(store->path), strerror(errno));
	if (!ret) {
		int code = store_mark(store->path, fd, store->size);

		/* after a power cut, too, it is to be known as ours */
		if (!code && fdatasync(fd))
			code = -errno;
		if (code)
			ret = fail_with(err, code, "%s: %s", esc(store->path), strerror(-code));
	}
	if (ret)
		store_drop(store);
	return ret;
}

/* ---- both -------------------------------------------------------------- */

int store_auto(const struct cbw_dm_dev *vol, const struct cbw_dm_dev *volumes, size_t nr,
	       const struct store_wish *wish, struct store *store, struct cbw_error *err)
{
	struct cbw_error why = { .msg = "" };
	int lock, ret = -ENOENT;

	*store = (struct store){ .fd = -1, .loop = -1, .lock = -1, .most = align(wish->most) };
	lock = lock_stores(err);
	if (lock < 0)
		return lock;
	/* who names a directory wants a file */
	if (!wish->dir)
		ret = make_lv(vol, wish, store, &why);
	if (ret == -EINTR) {
		*err = why;
	} else if (ret) {
		ret = make_file(wish->dir ? wish->dir : STORE_DIR, wish, volumes, nr, store, err);
		/* what kept us from the group, if there is one */
		if (ret && why.msg[0] && why.code != ENOENT) {
			struct cbw_error both = *err;

			fail_with(err, both.code, "%.250s; and %.200s", both.msg, why.msg);
		}
	}
	close(lock);
	return ret;
}

void store_again(enum store_kind kind, const char *path, const char *lv, uint64_t most,
		 struct store *store)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	bool ours = (kind == STORE_FILE && fd >= 0 && store_marked(path, fd)) ||
		(kind == STORE_LV && lvm_is_ours(lv));
	struct stat st;

	*store = (struct store){ .kind = ours ? kind : STORE_GIVEN, .path = xstrdup(path),
		.lv = ours && kind == STORE_LV ? xstrdup(lv) : NULL, .most = most,
		.fd = -1, .loop = -1, .lock = -1 };
	if (fd < 0 || fstat(fd, &st)) {
		if (fd >= 0)
			close(fd);
		return;
	}
	/* as a loop device has it */
	store->size = (uint64_t)st.st_size / 512 * 512;
	if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &store->size))
		store->size = 0;
	/* somebody else's, and not one that was given: it is not to be wiped either */
	if (!ours && kind != STORE_GIVEN)
		store->size = 0;
	if (S_ISBLK(st.st_mode)) {
		/* as take_lv() keeps it; a given device is wiped by who can have it alone */
		if (store->kind == STORE_LV)
			store->fd = fd;
		else
			close(fd);
		return;
	}
	store->loop = store_loop(path);
	/* the lock is no more than a hint to others here: a loop device has the file */
	(void)flock(fd, LOCK_EX | LOCK_NB);
	store->lock = fd;
}

/* The file that we have open is the one of that name. */
static bool still_there(const struct store *store)
{
	struct stat st, now;

	return !fstat(store->lock, &st) && !lstat(store->path, &now) &&
		st.st_dev == now.st_dev && st.st_ino == now.st_ino;
}

void store_drop(struct store *store)
{
	struct cbw_error err;

	if (store->kind == STORE_FILE && still_there(store) && unlink(store->path))
		say("%s: the store stays behind: %s", esc(store->path), strerror(errno));
	if (store->kind == STORE_LV) {
		if (store->fd >= 0)
			close(store->fd);
		store->fd = -1;
		if (lvm_remove(store->lv, &err))
			say("%s: the store stays behind: %s", esc(store->lv), err.msg);
	}
	store->kind = STORE_GIVEN;
	free(store->lv);
	store->lv = NULL;
	store_close(store);
}

void store_leave(struct store *store)
{
	free(store->lv);
	store->lv = NULL;
	store_close(store);
}

/* ---- growth ------------------------------------------------------------ */

static int grow_file(struct store *store, uint64_t *size, struct cbw_error *err)
{
	int fd = open(store->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW), loop = -1, ret = 0;
	char dev[32];
	uint64_t room;

	snprintf(dev, sizeof(dev), "/dev/loop%d", store->loop);
	if (fd >= 0)
		loop = open(dev, O_RDWR | O_CLOEXEC);
	if (loop < 0) {
		ret = fail_with(err, errno, "%s: %s", esc(fd < 0 ? store->path : dev), strerror(errno));
		goto out;
	}
	ret = file_room(fd, &room, err);
	if (!ret && *size > room)
		*size = room / STORE_ALIGN * STORE_ALIGN;
	if (!ret && *size <= store->size)
		ret = fail_with(err, ENOSPC, "%s: the file system has no more room", esc(store->path));
	if (!ret) {
		int code = store_mark(store->path, fd, *size);

		if (!code && ioctl(loop, LOOP_SET_CAPACITY, 0))
			code = -errno;
		if (code)
			ret = fail_with(err, code, "%s: %s", esc(store->path), strerror(-code));
	}
out:
	if (loop >= 0)
		close(loop);
	if (fd >= 0)
		close(fd);
	return ret;
}

static int grow_lv(struct store *store, uint64_t *size, struct cbw_error *err)
{
	struct lvm_group group;
	struct cbw_dm_dev dev;
	int fd, ret;

	ret = cbw_dm_find(store->path, &dev, err);
	if (!ret)
		ret = lvm_group_of(&dev, &group, err);
	if (ret)
		return ret;
	if (*size > store->size + group.free)
		*size = store->size + group.free;
	if (*size <= store->size)
		ret = fail_with(err, ENOSPC, "volume group %s has no more room", esc(group.name));
	else
		ret = lvm_extend(store->lv, *size, err);
	lvm_group_free(&group);
	if (ret)
		return ret;
	/* whole extents, so maybe a little more */
	fd = open(store->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, size))
		ret = fail_with(err, errno, "%s: %s", esc(store->path), strerror(errno));
	if (fd >= 0)
		close(fd);
	return ret;
}

int store_grow(struct store *store, uint64_t size, struct cbw_error *err)
{
	int ret = store->kind == STORE_LV ? grow_lv(store, &size, err) :
		grow_file(store, &size, err);

	if (!ret)
		store->size = size;
	return ret;
}
