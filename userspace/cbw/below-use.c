// SPDX-License-Identifier: GPL-2.0-or-later
/* who uses a volume: what nobody has mounted carries no file; and the mount table */
#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "below.h"
#include "cbw.h"

#define DEPTH_MAX	32
#define SAME_TRIES	100

bool read_devno(const char *path, struct cbw_devno *dev)
{
	FILE *f = fopen(path, "re");
	bool ok;

	if (!f)
		return false;
	ok = fscanf(f, "%u:%u", &dev->major, &dev->minor) == 2;
	fclose(f);
	return ok;
}

static bool same_dev(struct cbw_devno a, struct cbw_devno b)
{
	return a.major == b.major && a.minor == b.minor;
}

/* ---- the mount table --------------------------------------------------------------- */

void unescape(char *s)
{
	char *o = s;

	for (; *s; s++) {
		unsigned int c;

		if (*s == '\\' && sscanf(s + 1, "%3o", &c) == 1) {
			*o++ = (char)c;
			s += 3;
		} else {
			*o++ = *s;
		}
	}
	*o = '\0';
}

void mount_free(struct mount *m)
{
	free(m->at);
	free(m->type);
	free(m->source);
	free(m->opts);
}

static bool parse_mount(const char *line, struct mount *m)
{
	const char *dash = strstr(line, " - ");
	ull id;

	*m = (struct mount){ 0 };
	if (!dash || sscanf(line, "%llu %*u %u:%u %*s %ms", &id, &m->dev.major, &m->dev.minor,
			    &m->at) != 4 ||
	    sscanf(dash, " - %ms %ms %ms", &m->type, &m->source, &m->opts) != 3) {
		mount_free(m);
		return false;
	}
	m->id = id;
	unescape(m->at);
	unescape(m->source);
	return true;
}

/* The next mount that fits, until @fits says so or there is none. */
static bool find_mount(bool (*fits)(const struct mount *m, const void *arg), const void *arg,
		       struct mount *m)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	bool found = false;
	char *line = NULL;
	size_t room = 0;

	while (f && !found && getline(&line, &room, f) > 0) {
		if (!parse_mount(line, m))
			continue;
		found = fits(m, arg);
		if (!found)
			mount_free(m);
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

static bool has_id(const struct mount *m, const void *arg)
{
	return m->id == *(const uint64_t *)arg;
}

bool mount_by_id(uint64_t id, struct mount *m)
{
	return find_mount(has_id, &id, m);
}

/* Whether the path of a mount leads to it, and not to another on top. */
static bool on_top(const struct mount *m)
{
	struct statx sx;

	return !statx(AT_FDCWD, m->at, AT_STATX_DONT_SYNC, STATX_MNT_ID, &sx) &&
		sx.stx_mask & STATX_MNT_ID && sx.stx_mnt_id == m->id;
}

static bool has_dev(const struct mount *m, const void *arg)
{
	return same_dev(m->dev, *(const struct cbw_devno *)arg) && on_top(m);
}

bool mount_by_dev(struct cbw_devno dev, struct mount *m)
{
	return find_mount(has_dev, &dev, m);
}

/* ---- who uses it ------------------------------------------------------------------- */

bool same_figures(const char *a, const char *b)
{
	struct statfs x, y;

	if (statfs(a, &x) || statfs(b, &y))
		return false;
	/* some tell nothing */
	return !x.f_blocks || !y.f_blocks || (uint64_t)x.f_blocks * (uint64_t)x.f_frsize ==
		(uint64_t)y.f_blocks * (uint64_t)y.f_frsize;
}

bool same_now(const char *a, const char *b)
{
	struct statfs x, y, z;
	int tries;

	if (!same_figures(a, b))
		return false;
	for (tries = 0; tries < SAME_TRIES; tries++) {
		if (statfs(a, &x) || statfs(b, &y) || statfs(a, &z))
			return false;
		if (x.f_bfree == y.f_bfree && x.f_ffree == y.f_ffree)
			return true;
		/* somebody writes there: once more, until nothing has changed in between */
		if (x.f_bfree == z.f_bfree && x.f_ffree == z.f_ffree)
			return false;
	}
	return false;
}

bool btrfs_has(const char *dir, struct cbw_devno dev)
{
	struct cbw_devno one;
	bool found = false;
	char path[PATH_MAX];
	struct dirent *de;
	DIR *d = opendir(dir);

	while (d && !found && (de = readdir(d))) {
		snprintf(path, sizeof(path), "%s/%s/dev", dir, de->d_name);
		found = de->d_name[0] != '.' && read_devno(path, &one) && same_dev(one, dev);
	}
	if (d)
		closedir(d);
	return found;
}

/* Of one btrfs. */
static bool btrfs_both(struct cbw_devno a, struct cbw_devno b)
{
	bool both = false;
	glob_t g;
	size_t i;

	if (glob("/sys/fs/btrfs/*/devices", 0, NULL, &g))
		return false;
	for (i = 0; i < g.gl_pathc && !both; i++)
		both = btrfs_has(g.gl_pathv[i], a) && btrfs_has(g.gl_pathv[i], b);
	globfree(&g);
	return both;
}

static bool stands_on(const struct mount *m, const void *arg)
{
	const struct cbw_devno *dev = arg;
	struct cbw_devno source;
	struct stat st;

	if (same_dev(m->dev, *dev))
		return on_top(m);
	if (strcmp(m->type, "btrfs") || stat(m->source, &st) || !S_ISBLK(st.st_mode))
		return false;
	source = (struct cbw_devno){ major(st.st_rdev), minor(st.st_rdev) };
	return (same_dev(source, *dev) || btrfs_both(source, *dev)) && on_top(m);
}

static bool is_swap(struct cbw_devno dev)
{
	FILE *f = fopen("/proc/swaps", "re");
	char *line = NULL;
	bool found = false;
	size_t room = 0;
	struct stat st;

	while (f && !found && getline(&line, &room, f) > 0) {
		line[strcspn(line, " \t\n")] = '\0';
		unescape(line);
		found = !stat(line, &st) && S_ISBLK(st.st_mode) &&
			major(st.st_rdev) == dev.major && minor(st.st_rdev) == dev.minor;
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

/* A file system, or another device, has it: the kernel lets nobody else have it alone then. */
static bool is_claimed(struct cbw_devno dev)
{
	char dir[64], link[PATH_MAX], path[PATH_MAX + 8];
	struct cbw_error err;
	struct stat st;
	ssize_t n;
	int fd = cbw_dm_open(dev, O_RDONLY | O_EXCL, &err);

	if (fd >= 0) {
		close(fd);
		return false;
	}
	if (fd == -EBUSY)
		return true;
	snprintf(dir, sizeof(dir), "/sys/dev/block/%u:%u", dev.major, dev.minor);
	n = readlink(dir, link, sizeof(link) - 1);
	link[n > 0 ? n : 0] = '\0';
	snprintf(path, sizeof(path), "/dev/%s", strrchr(link, '/') ? strrchr(link, '/') + 1 : "");
	if (stat(path, &st) || !S_ISBLK(st.st_mode) ||
	    st.st_rdev != makedev(dev.major, dev.minor))
		return true;
	fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return fd < 0;
}

/**
 * struct use - who uses a volume
 * @path: in the file system that is looked for; NULL: it is not to be seen
 * @loops, @nr: the devices of all loop devices, and what each has; those that were looked at are 0
 */
struct use {
	const char *path;
	struct loop *loops;
	size_t nr;
};

struct loop {
	struct cbw_devno dev;
	struct loop_info64 info;
};

static enum answer carries(struct use *u, struct cbw_devno dev, int depth);

static void find_loops(struct use *u)
{
	struct loop l;
	struct stat st;
	glob_t g;
	size_t i;

	if (glob("/dev/loop[0-9]*", 0, NULL, &g))
		return;
	u->loops = xcalloc(g.gl_pathc, sizeof(*u->loops));
	for (i = 0; i < g.gl_pathc; i++) {
		int fd = open(g.gl_pathv[i], O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			continue;
		if (!ioctl(fd, LOOP_GET_STATUS64, &l.info) && !fstat(fd, &st)) {
			l.dev = (struct cbw_devno){ major(st.st_rdev), minor(st.st_rdev) };
			u->loops[u->nr++] = l;
		}
		close(fd);
	}
	globfree(&g);
}

/*
 * A file in a file system whose device number is made up: that may stand on any volume, if it is
 * not known to stand on none.
 */
static bool in_some(const struct loop *l)
{
	struct cbw_devno dev = { major(l->info.lo_device), minor(l->info.lo_device) };
	struct mount m;
	bool none;

	if (dev.major || l->info.lo_rdevice || !mount_by_dev(dev, &m))
		return !dev.major && !l->info.lo_rdevice;
	none = has_no_device(m.type);
	mount_free(&m);
	return !none;
}

/* Loop devices of it, which do not claim it; @files: of files in the file system on it. */
static enum answer loops_carry(struct use *u, struct cbw_devno dev, bool files, int depth)
{
	enum answer all = NO;
	size_t i;

	for (i = 0; i < u->nr && all != UNKNOWN; i++) {
		struct loop *l = &u->loops[i];
		uint64_t on = files ? l->info.lo_device : l->info.lo_rdevice;
		struct cbw_devno above = l->dev;

		if (!above.major || (files && l->info.lo_rdevice) ||
		    (on != makedev(dev.major, dev.minor) && !(files && in_some(l))))
			continue;
		/* once is enough, whichever way it was come to */
		l->dev = (struct cbw_devno){ 0 };
		all = either(all, depth < DEPTH_MAX ? carries(u, above, depth + 1) : UNKNOWN);
	}
	return all;
}

/* Of a directory with a quota of its own the figures are those of the quota. */
static bool figures_tell(const struct mount *m)
{
	return !strstr(m->opts, "prjquota") && !strstr(m->opts, "pquota") &&
		!strstr(m->opts, "pqnoenforce");
}

static enum answer carries(struct use *u, struct cbw_devno dev, int depth)
{
	enum answer all = loops_carry(u, dev, false, depth);
	char dir[64], file[PATH_MAX];
	struct cbw_devno above;
	bool any = false;
	struct dirent *de;
	struct mount m;
	DIR *d;

	if (all == UNKNOWN || !is_claimed(dev))
		return all;
	snprintf(dir, sizeof(dir), "/sys/dev/block/%u:%u/holders", dev.major, dev.minor);
	d = opendir(dir);
	while (d && (de = readdir(d))) {
		if (de->d_name[0] == '.')
			continue;
		any = true;
		snprintf(file, sizeof(file), "%s/%s/dev", dir, de->d_name);
		all = either(all, depth < DEPTH_MAX && read_devno(file, &above) ?
			     carries(u, above, depth + 1) : UNKNOWN);
	}
	if (d)
		closedir(d);
	if (any)
		return all;
	if (is_swap(dev))
		return NO;
	/* a file system: if it is to be seen, and is another one, only its files can carry more */
	if (!u->path || !find_mount(stands_on, &dev, &m))
		return UNKNOWN;
	if (same_figures(u->path, m.at) || !figures_tell(&m))
		all = UNKNOWN;
	mount_free(&m);
	return all == UNKNOWN ? all : loops_carry(u, dev, true, depth);
}

enum answer volume_carries(struct cbw_devno dev, const char *path)
{
	struct use u = { .path = path };
	enum answer a;

	find_loops(&u);
	a = carries(&u, dev, 0);
	free(u.loops);
	return a;
}
