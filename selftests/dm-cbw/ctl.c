// SPDX-License-Identifier: GPL-2.0-or-later
/* See ctl.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "ctl.h"

static int call(int fd, unsigned long nr, void *arg)
{
	int ret;

	do {
		ret = ioctl(fd, nr, arg);
	} while (ret && errno == EINTR);
	return ret ? -errno : 0;
}

int ctl_open(void)
{
	int fd = open("/dev/cbw-control", O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int ctl_devno(const char *path, struct cbw_devno *dev)
{
	struct stat st;

	if (stat(path, &st))
		return -errno;
	if (!S_ISBLK(st.st_mode))
		return -ENOTBLK;
	dev->major = major(st.st_rdev);
	dev->minor = minor(st.st_rdev);
	return 0;
}

int ctl_transaction(int fd, const struct cbw_action *actions, uint32_t nr,
		    struct cbw_cut_id *cut, uint32_t *failed)
{
	struct cbw_transaction t = {
		.size = sizeof(t),
		.nr_actions = nr,
		.action_size = sizeof(*actions),
		.actions = (uintptr_t)actions,
	};
	int ret = call(fd, CBW_TRANSACTION, &t);

	if (cut)
		*cut = t.out_cut;
	if (failed)
		*failed = t.out_failed;
	return ret;
}

int ctl_commit(int fd, struct cbw_devno dev, const struct cbw_cut_id *cut, uint32_t mode)
{
	struct cbw_commit a = {
		.size = sizeof(a), .dev = dev, .cut = *cut, .mode = mode,
	};

	return call(fd, CBW_COMMIT, &a);
}

int ctl_abort(int fd, struct cbw_devno dev, const struct cbw_cut_id *cut)
{
	struct cbw_abort a = { .size = sizeof(a), .dev = dev, .cut = *cut };

	return call(fd, CBW_ABORT, &a);
}

int ctl_detach(int fd, const struct cbw_cut_id *cut)
{
	struct cbw_session_detach a = { .size = sizeof(a), .cut = *cut };

	return call(fd, CBW_SESSION_DETACH, &a);
}

int ctl_extents(int fd, struct cbw_devno dev, struct ctl_name name,
		const struct cbw_cut_id *cut, uint64_t from, uint32_t room,
		struct cbw_extent **extents, size_t *nr, uint32_t *granularity)
{
	struct cbw_bitmap_extents a = {
		.size = sizeof(a),
		.dev = dev,
		.cut = *cut,
		.name = (uintptr_t)name.s,
		.name_len = name.len,
		.offset = from,
	};
	struct cbw_extent *e = NULL, *more;
	size_t n = 0;
	int ret;

	do {
		more = realloc(e, (n + room) * sizeof(*e));
		if (!more) {
			free(e);
			return -ENOMEM;
		}
		e = more;
		a.extents = (uintptr_t)(e + n);
		a.nr_extents = room;
		ret = call(fd, CBW_BITMAP_EXTENTS, &a);
		if (ret) {
			free(e);
			return ret;
		}
		n += a.nr_extents;
	} while (a.nr_extents == room);
	*extents = e;
	*nr = n;
	*granularity = a.out_granularity;
	return 0;
}

int ctl_list(int fd, struct cbw_devno dev, struct cbw_bitmap_entry **buf,
	     uint32_t *nr, uint64_t *device_size)
{
	struct cbw_bitmap_list a = { .size = sizeof(a), .dev = dev, .buf_len = 16384 };
	int ret;

	*buf = NULL;
	do {
		free(*buf);
		*buf = calloc(1, a.buf_len + 8);
		if (!*buf)
			return -ENOMEM;
		a.buf = (uintptr_t)*buf;
		ret = call(fd, CBW_BITMAP_LIST, &a);
	} while (ret == -EMSGSIZE);
	if (ret) {
		free(*buf);
		*buf = NULL;
		return ret;
	}
	*nr = a.out_nr;
	*device_size = a.out_device_size;
	return 0;
}

/* ---- device-mapper ------------------------------------------------------------ */

#define DM_BUF	16384u

struct dm_call {
	struct dm_ioctl d;
	char room[DM_BUF - sizeof(struct dm_ioctl)];
};

static int dm_control(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	return fd;
}

static void dm_prepare(struct dm_call *c, const char *name, uint32_t flags)
{
	memset(c, 0, sizeof(*c));
	c->d.version[0] = 4;
	c->d.data_size = sizeof(*c);
	c->d.data_start = sizeof(c->d);
	c->d.flags = flags;
	snprintf(c->d.name, sizeof(c->d.name), "%s", name);
}

static int dm_simple(const char *name, unsigned long nr, uint32_t flags)
{
	struct dm_call c;

	dm_prepare(&c, name, flags);
	return call(dm_control(), nr, &c);
}

int dm_make(const char *name, struct cbw_devno *dev)
{
	struct dm_call c;
	int ret;

	dm_prepare(&c, name, 0);
	ret = call(dm_control(), DM_DEV_CREATE, &c);
	if (!ret) {
		dev->major = major(c.d.dev);
		dev->minor = minor(c.d.dev);
	}
	return ret;
}

int dm_load(const char *name, const char *table)
{
	struct dm_target_spec *t;
	unsigned long long start, len;
	struct dm_call c;
	int used, n;

	dm_prepare(&c, name, 0);
	t = (void *)c.room;
	if (sscanf(table, "%llu %llu %15s %n", &start, &len, t->target_type, &used) != 3)
		return -EINVAL;
	t->sector_start = start;
	t->length = len;
	n = snprintf((char *)(t + 1), sizeof(c.room) - sizeof(*t), "%s", table + used);
	if (n >= (int)(sizeof(c.room) - sizeof(*t)))
		return -ENAMETOOLONG;
	t->next = (sizeof(*t) + n + 8) & ~7u;
	c.d.target_count = 1;
	return call(dm_control(), DM_TABLE_LOAD, &c);
}

int dm_unload(const char *name)
{
	return dm_simple(name, DM_TABLE_CLEAR, 0);
}

int dm_suspend(const char *name, unsigned int how)
{
	return dm_simple(name, DM_DEV_SUSPEND, DM_SUSPEND_FLAG |
			 (how & DM_WITHOUT_FLUSH ? DM_NOFLUSH_FLAG : 0) |
			 (how & DM_WITHOUT_FS ? DM_SKIP_LOCKFS_FLAG : 0));
}

int dm_resume(const char *name)
{
	return dm_simple(name, DM_DEV_SUSPEND, 0);
}

int dm_remove(const char *name)
{
	return dm_simple(name, DM_DEV_REMOVE, 0);
}

int dm_table(const char *name, char *line, size_t size)
{
	struct dm_target_spec *t;
	struct dm_call c;
	int ret, n;

	dm_prepare(&c, name, DM_STATUS_TABLE_FLAG | DM_NOFLUSH_FLAG);
	ret = call(dm_control(), DM_TABLE_STATUS, &c);
	if (ret)
		return ret;
	if (c.d.flags & DM_BUFFER_FULL_FLAG || c.d.target_count != 1)
		return -E2BIG;
	t = (void *)((char *)&c + c.d.data_start);
	n = snprintf(line, size, "%llu %llu %s %s", (unsigned long long)t->sector_start,
		     (unsigned long long)t->length, t->target_type, (char *)(t + 1));
	return n < (int)size ? 0 : -ENAMETOOLONG;
}

int dm_message(const char *name, const char *words, char *reply, size_t size)
{
	struct dm_target_msg *m;
	struct dm_call c;
	int ret, n;

	dm_prepare(&c, name, 0);
	m = (void *)c.room;
	n = snprintf(m->message, sizeof(c.room) - sizeof(*m), "%s", words);
	if (n >= (int)(sizeof(c.room) - sizeof(*m)))
		return -ENAMETOOLONG;
	ret = call(dm_control(), DM_TARGET_MSG, &c);
	if (!ret && reply)
		snprintf(reply, size, "%s",
			 c.d.flags & DM_DATA_OUT_FLAG ? (char *)&c + c.d.data_start : "");
	return ret;
}
