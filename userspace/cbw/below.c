// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a path lies on: through file systems, loop devices, partitions and device-mapper down to a
 * volume. A file whose writes go to the volume that is backed up would be its own store.
 */
#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "cbw.h"
#include "store.h"

#define DEPTH_MAX	32

/**
 * struct search
 * @volumes, @nr: what is looked for
 * @which: the one that was found
 */
struct search {
	const struct cbw_dm_dev *volumes;
	size_t nr;
	size_t which;
};

static bool device_is_on(struct search *s, struct cbw_devno dev, int depth);
static bool path_is_on(struct search *s, const char *path, int depth);

static bool is_volume(struct search *s, struct cbw_devno dev)
{
	size_t i;

	for (i = 0; i < s->nr; i++) {
		if (s->volumes[i].dev.major == dev.major && s->volumes[i].dev.minor == dev.minor) {
			s->which = i;
			return true;
		}
	}
	return false;
}

/* ---- devices ------------------------------------------------------------------- */

/* A device number out of a one-line file of sysfs. */
static bool read_devno(const char *path, struct cbw_devno *dev)
{
	FILE *f = fopen(path, "re");
	bool ok;

	if (!f)
		return false;
	ok = fscanf(f, "%u:%u", &dev->major, &dev->minor) == 2;
	fclose(f);
	return ok;
}

/* The file under a loop device. */
static bool loop_is_on(struct search *s, const char *dir, int depth)
{
	char path[160], file[PATH_MAX];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "%s/loop/backing_file", dir);
	f = fopen(path, "re");
	if (!f)
		return false;
	n = fread(file, 1, sizeof(file) - 1, f);
	fclose(f);
	if (n && file[n - 1] == '\n')
		n--;
	file[n] = '\0';
	return path_is_on(s, file, depth + 1);
}

/* Devices in a directory of sysfs, each with a file "dev". */
static bool one_is_on(struct search *s, const char *dir, int depth)
{
	struct cbw_devno below;
	struct dirent *de;
	bool found = false;
	char path[600];
	DIR *d = opendir(dir);

	if (!d)
		return false;
	while (!found && (de = readdir(d))) {
		if (de->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s/dev", dir, de->d_name);
		found = read_devno(path, &below) && device_is_on(s, below, depth + 1);
	}
	closedir(d);
	return found;
}

static bool device_is_on(struct search *s, struct cbw_devno dev, int depth)
{
	char dir[64], path[400];
	struct cbw_devno below;

	if (is_volume(s, dev))
		return true;
	if (depth > DEPTH_MAX)
		return false;
	snprintf(dir, sizeof(dir), "/sys/dev/block/%u:%u", dev.major, dev.minor);
	/* a partition stands on its disk */
	snprintf(path, sizeof(path), "%s/partition", dir);
	if (!access(path, F_OK)) {
		snprintf(path, sizeof(path), "%s/../dev", dir);
		if (read_devno(path, &below) && device_is_on(s, below, depth + 1))
			return true;
	}
	if (loop_is_on(s, dir, depth))
		return true;
	snprintf(path, sizeof(path), "%s/slaves", dir);
	return one_is_on(s, path, depth);
}

/* ---- file systems ---------------------------------------------------------------- */

/* \040 and the like, as the mount table writes them, in place */
static void unescape(char *s)
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

/**
 * mount_of - how a mount was made
 * @id: of the mount
 * @type, @source, @opts: for free()
 *
 * The id, not the device: files of btrfs have other device numbers than their mount.
 */
static bool mount_of(uint64_t id, char **type, char **source, char **opts)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	bool found = false;
	char *line = NULL;
	size_t room = 0;

	while (f && !found && getline(&line, &room, f) > 0) {
		char *dash = strstr(line, " - ");
		ull mount;

		found = dash && sscanf(line, "%llu", &mount) == 1 && mount == id &&
			sscanf(dash, " - %ms %ms %ms", type, source, opts) == 3;
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

/* All devices of the file system that one of them was mounted by. */
static bool btrfs_is_on(struct search *s, struct cbw_devno one, int depth)
{
	bool found = false;
	glob_t g;
	size_t i;

	if (glob("/sys/fs/btrfs/*/devices", 0, NULL, &g))
		return false;
	for (i = 0; i < g.gl_pathc && !found; i++) {
		const struct cbw_dm_dev dev = { .dev = one };
		struct search is = { &dev, 1, 0 };

		found = one_is_on(&is, g.gl_pathv[i], DEPTH_MAX) &&
			one_is_on(s, g.gl_pathv[i], depth);
	}
	globfree(&g);
	return found;
}

static bool source_is_on(struct search *s, const char *type, const char *source, int depth)
{
	struct cbw_devno dev;
	struct stat st;

	if (stat(source, &st) || !S_ISBLK(st.st_mode))
		return false;
	dev = (struct cbw_devno){ major(st.st_rdev), minor(st.st_rdev) };
	return device_is_on(s, dev, depth + 1) ||
		(!strcmp(type, "btrfs") && btrfs_is_on(s, dev, depth));
}

/* Where an overlay writes. */
static bool overlay_is_on(struct search *s, char *opts, int depth)
{
	char *at, *save;

	for (at = strtok_r(opts, ",", &save); at; at = strtok_r(NULL, ",", &save)) {
		if (strncmp(at, "upperdir=", 9))
			continue;
		unescape(at + 9);
		return path_is_on(s, at + 9, depth + 1);
	}
	return false;
}

/* A file whose device number is made up. */
static bool nodev_is_on(struct search *s, const char *path, int depth)
{
	char *type = NULL, *source = NULL, *opts = NULL;
	struct statx sx;
	bool found = false;

	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_MNT_ID, &sx) ||
	    !(sx.stx_mask & STATX_MNT_ID) || !mount_of(sx.stx_mnt_id, &type, &source, &opts))
		return false;
	unescape(source);
	if (!strcmp(type, "overlay"))
		found = overlay_is_on(s, opts, depth);
	else
		found = source_is_on(s, type, source, depth);
	free(type);
	free(source);
	free(opts);
	return found;
}

static bool path_is_on(struct search *s, const char *path, int depth)
{
	struct stat st;

	if (depth > DEPTH_MAX || stat(path, &st))
		return false;
	if (S_ISBLK(st.st_mode))
		return device_is_on(s, (struct cbw_devno){ major(st.st_rdev), minor(st.st_rdev) },
				    depth);
	if (major(st.st_dev))
		return device_is_on(s, (struct cbw_devno){ major(st.st_dev), minor(st.st_dev) },
				    depth);
	return nodev_is_on(s, path, depth);
}

int check_not_on(const char *path, const char *what, const struct cbw_dm_dev *volumes, size_t nr,
		 struct cbw_error *err)
{
	struct search s = { volumes, nr, 0 };
	struct stat st;

	if (stat(path, &st))
		return fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	if (!path_is_on(&s, path, 0))
		return 0;
	return fail_with(err, EBUSY,
			 "%s: the %s lies on volume %s itself, which it must not; take another place",
			 esc(path), what, esc(volumes[s.which].name));
}
