// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a path lies on: through file systems, loop devices, partitions and device-mapper down to a
 * volume. A file whose writes go to the volume that is backed up would be its own store.
 *
 * Not all of that can be seen from here: a file may be in another mount namespace, or deleted. Then
 * it is told by who uses the volume (below-use.c), or the answer is that it is not known, which is
 * not the same as no.
 */
#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <linux/loop.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "below.h"
#include "cbw.h"
#include "store.h"
#include "sysfs.h"

#define DEPTH_MAX	32

/**
 * struct search
 * @volumes, @nr: what is looked for
 * @which: the one that was found, or that nothing is known about; -1: of none of them
 * @why: nothing is known
 */
struct search {
	const struct cbw_dm_dev *volumes;
	size_t nr;
	ssize_t which;
	char why[300];
};

/* that what cannot be told lies elsewhere: who runs us says so */
static bool elsewhere;

static enum answer device_is_on(struct search *s, struct cbw_devno dev, int depth);
static enum answer path_is_on(struct search *s, const char *path, int depth);

static enum answer not_known(struct search *s, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static enum answer not_known(struct search *s, const char *fmt, ...)
{
	va_list ap;

	if (*s->why)
		return UNKNOWN;
	va_start(ap, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
	return UNKNOWN;
}

/* Where the search ends without an answer. @path: in the file system that it ends at, or NULL */
static enum answer by_use(struct search *s, const char *path, const char *what)
{
	size_t i;

	for (i = 0; i < s->nr; i++) {
		if (volume_carries(s->volumes[i].dev, path) == NO)
			continue;
		s->which = (ssize_t)i;
		return not_known(s, "%s", what);
	}
	return NO;
}

static bool is_volume(struct search *s, struct cbw_devno dev)
{
	size_t i;

	for (i = 0; i < s->nr; i++) {
		if (s->volumes[i].dev.major == dev.major && s->volumes[i].dev.minor == dev.minor) {
			s->which = (ssize_t)i;
			return true;
		}
	}
	return false;
}

static struct cbw_devno devno(uint64_t dev)
{
	return (struct cbw_devno){ major(dev), minor(dev) };
}

/* ---- devices ------------------------------------------------------------------- */

/* What the kernel says of a loop device: it needs no path. */
static bool loop_status(const char *dir, struct loop_info64 *info)
{
	char link[PATH_MAX], path[64];
	ssize_t n = readlink(dir, link, sizeof(link) - 1);
	const char *name;
	int fd;
	bool ok;

	if (n < 0)
		return false;
	link[n] = '\0';
	name = strrchr(link, '/');
	if (!name || strlen(name) > 32)
		return false;
	snprintf(path, sizeof(path), "/dev%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ok = !ioctl(fd, LOOP_GET_STATUS64, info);
	close(fd);
	return ok;
}

static enum answer mount_is_on(struct search *s, struct mount *m, const char *path, int depth);

/* The file under a loop device. */
static enum answer loop_file_is_on(struct search *s, const char *dir, const char *file, int depth)
{
	struct loop_info64 info = { 0 };
	char path[160];
	struct mount m;
	struct stat st;
	bool known;

	known = loop_status(dir, &info);
	if (known && info.lo_rdevice)
		return device_is_on(s, devno(info.lo_rdevice), depth + 1);
	if (known && major(info.lo_device))
		return device_is_on(s, devno(info.lo_device), depth + 1);
	/* of that name there may be another one here */
	if (known && !stat(file, &st) && st.st_dev == info.lo_device && st.st_ino == info.lo_inode)
		return path_is_on(s, file, depth + 1);
	if (known && mount_by_dev(devno(info.lo_device), &m)) {
		enum answer a = mount_is_on(s, &m, m.at, depth);

		mount_free(&m);
		return a;
	}
	snprintf(path, sizeof(path), "the file of a loop device below it, %.80s, is not to be seen from here",
		 esc(file));
	if (known)
		/* it may be a device, which a loop device leaves to others, too */
		return by_use(s, NULL, path);
	return !stat(file, &st) && path_is_on(s, file, depth + 1) == YES ? YES :
		not_known(s, "%s", path);
}

static enum answer loop_is_on(struct search *s, const char *dir, struct cbw_devno dev, int depth)
{
	char *file = loop_file(dev);
	enum answer a = file ? loop_file_is_on(s, dir, file, depth) : NO;

	free(file);
	return a;
}

/* Devices in a directory of sysfs, each with a file "dev". */
static enum answer one_is_on(struct search *s, const char *dir, int depth)
{
	struct cbw_devno below;
	struct dirent *de;
	enum answer all = NO;
	char path[600];
	DIR *d = opendir(dir);

	if (!d)
		return errno == ENOENT ? NO : not_known(s, "%s: %s", dir, strerror(errno));
	while (all != YES && (de = readdir(d))) {
		if (de->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s/dev", dir, de->d_name);
		all = either(all, read_devno(path, &below) ? device_is_on(s, below, depth + 1) :
			     not_known(s, "%s cannot be read", path));
	}
	closedir(d);
	return all;
}

static enum answer device_is_on(struct search *s, struct cbw_devno dev, int depth)
{
	char dir[64], path[400];
	struct cbw_devno below;
	enum answer a = NO;

	if (is_volume(s, dev))
		return YES;
	snprintf(dir, sizeof(dir), "/sys/dev/block/%u:%u", dev.major, dev.minor);
	if (depth > DEPTH_MAX || access(dir, F_OK))
		return not_known(s, "what device %u:%u stands on is not in /sys", dev.major,
				 dev.minor);
	/* a partition stands on its disk */
	snprintf(path, sizeof(path), "%s/partition", dir);
	if (!access(path, F_OK)) {
		snprintf(path, sizeof(path), "%s/../dev", dir);
		a = read_devno(path, &below) ? device_is_on(s, below, depth + 1) :
			not_known(s, "%s cannot be read", path);
	}
	if (a != YES)
		a = either(a, loop_is_on(s, dir, dev, depth));
	if (a == YES)
		return a;
	snprintf(path, sizeof(path), "%s/slaves", dir);
	return either(a, one_is_on(s, path, depth));
}

/* ---- file systems ---------------------------------------------------------------- */

/* All devices of the file system that one of them was mounted by. */
static enum answer btrfs_is_on(struct search *s, struct cbw_devno one, int depth)
{
	bool found = false;
	enum answer a = NO;
	glob_t g;
	size_t i;

	if (!glob("/sys/fs/btrfs/*/devices", 0, NULL, &g)) {
		for (i = 0; i < g.gl_pathc && !found; i++) {
			found = btrfs_has(g.gl_pathv[i], one);
			if (found)
				a = one_is_on(s, g.gl_pathv[i], depth);
		}
		globfree(&g);
	}
	return found ? a : not_known(s, "the devices of the btrfs below it are not in /sys");
}

/* Where an overlay writes. */
static enum answer overlay_is_on(struct search *s, char *opts, const char *path, int depth)
{
	char *at, *save;

	for (at = strtok_r(opts, ",", &save); at; at = strtok_r(NULL, ",", &save)) {
		if (strncmp(at, "upperdir=", 9))
			continue;
		at += 9;
		unescape(at);
		/* of that name there may be another one here */
		if (*at == '/' && same_now(path, at))
			return path_is_on(s, at, depth + 1);
		return by_use(s, path, "the directory that the overlay below it writes to is not to be seen from here");
	}
	/* it is read-only */
	return NO;
}

/* Memory, and other machines. */
bool has_no_device(const char *type)
{
	static const char *const types[] = {
		"tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs", "nfs", "nfs4", "cifs", "smb3",
		"9p", "virtiofs", "ceph", "fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse",
		"fuse.curlftpfs", "fuse.davfs", "davfs",
	};
	size_t i;

	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (!strcmp(type, types[i]))
			return true;
	return false;
}

/* Of several directories, which may be anywhere; their figures are sums. */
static bool is_pool(const char *type)
{
	static const char *const types[] = {
		"fuse.mergerfs", "fuse.unionfs", "fuse.unionfs-fuse", "fuse.mhddfs",
		"fuse.glusterfs", "aufs", "unionfs",
	};
	size_t i;

	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (!strcmp(type, types[i]))
			return true;
	return false;
}

/* @path: in it */
static enum answer mount_is_on(struct search *s, struct mount *m, const char *path, int depth)
{
	char what[160];
	struct stat st;
	enum answer a;

	if (!strcmp(m->type, "overlay"))
		return overlay_is_on(s, m->opts, path, depth);
	if (has_no_device(m->type))
		return NO;
	if (*m->source == '/' && !stat(m->source, &st) && S_ISBLK(st.st_mode)) {
		a = device_is_on(s, devno(st.st_rdev), depth + 1);
		return a == YES || strcmp(m->type, "btrfs") ? a :
			either(a, btrfs_is_on(s, devno(st.st_rdev), depth));
	}
	/* some stand on a directory */
	if (*m->source == '/' && !stat(m->source, &st) && S_ISDIR(st.st_mode))
		return path_is_on(s, m->source, depth + 1);
	snprintf(what, sizeof(what), "what the file system below it (%.20s, %.60s) stands on is not to be seen from here",
		 esc(m->type), esc(m->source));
	return by_use(s, is_pool(m->type) ? NULL : path, what);
}

/* A file whose device number is made up. */
static enum answer nodev_is_on(struct search *s, const char *path, int depth)
{
	struct statx sx;
	struct mount m;
	enum answer a;

	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_MNT_ID, &sx) ||
	    !(sx.stx_mask & STATX_MNT_ID) || !mount_by_id(sx.stx_mnt_id, &m))
		return by_use(s, path, "the file system below it is not in /proc/self/mountinfo");
	a = mount_is_on(s, &m, path, depth);
	mount_free(&m);
	return a;
}

static enum answer path_is_on(struct search *s, const char *path, int depth)
{
	struct stat st;

	if (depth > DEPTH_MAX || stat(path, &st))
		return by_use(s, NULL, "it cannot be followed down to a device");
	if (S_ISBLK(st.st_mode))
		return device_is_on(s, devno(st.st_rdev), depth);
	if (major(st.st_dev))
		return device_is_on(s, devno(st.st_dev), depth);
	return nodev_is_on(s, path, depth);
}

void assume_elsewhere(void)
{
	elsewhere = true;
}

int check_not_on(const char *path, const char *what, const struct cbw_dm_dev *volumes, size_t nr,
		 struct cbw_error *err)
{
	struct search s = { .volumes = volumes, .nr = nr, .which = nr == 1 ? 0 : -1 };
	struct stat st;

	if (stat(path, &st))
		return fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	switch (path_is_on(&s, path, 0)) {
	case NO:
		return 0;
	case YES:
		return fail_with(err, EBUSY,
				 "%s: the %s lies on volume %s itself, which it must not; take another place",
				 esc(path), what, esc(volumes[s.which].name));
	default:
		if (elsewhere)
			return 0;
		return fail_with(err, EBUSY,
				 "%s: the %s may lie on %s%s itself, which it must not: %s; take another place, or --elsewhere if you know that it does not",
				 esc(path), what, s.which < 0 ? "a volume" : "volume ",
				 s.which < 0 ? "" : esc(volumes[s.which].name), s.why);
	}
}
