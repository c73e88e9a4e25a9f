// SPDX-License-Identifier: LGPL-2.1-or-later
/* libdevmapper, one ioctl at a time */
#include <fcntl.h>
#include <libdevmapper.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "internal.h"

#define UDEV_HIDDEN	(DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG | \
			 DM_UDEV_DISABLE_DISK_RULES_FLAG | \
			 DM_UDEV_DISABLE_OTHER_RULES_FLAG)

/* what libdevmapper said last; it has one log for the process */
static char dm_said[256];

__attribute__((format(printf, 5, 6)))
static void dm_log_keep(int level, const char *file, int line, int dm_errno,
			const char *fmt, ...)
{
	va_list ap;

	(void)file;
	(void)line;
	(void)dm_errno;
	if ((level & 7) > 3)	/* errors and fatal ones */
		return;
	va_start(ap, fmt);
	vsnprintf(dm_said, sizeof(dm_said), fmt, ap);
	va_end(ap);
}

static struct dm_task *task_new(int type, const char *name)
{
	static bool ready;
	struct dm_task *dmt;

	if (!ready) {
		dm_log_with_errno_init(dm_log_keep);
		dm_set_name_mangling_mode(DM_STRING_MANGLING_NONE);
		ready = true;
	}
	dm_said[0] = '\0';
	dmt = dm_task_create(type);
	if (dmt && name && !dm_task_set_name(dmt, name)) {
		dm_task_destroy(dmt);
		return NULL;
	}
	return dmt;
}

/* Sets @err for a task that failed, destroys it. */
static int task_failed(struct dm_task *dmt, struct cbw_error *err,
		       const char *verb, const char *name)
{
	int code = dmt ? dm_task_get_errno(dmt) : 0;
	struct cbw_esc esc;

	if (dmt)
		dm_task_destroy(dmt);
	if (!code)
		code = EIO;
	if (code == EIO || code == EINVAL || code == ENODEV)
		return cbw_fail(err, code, "%s '%s': %s%s%s%s", verb,
				cbw_esc(name, &esc), strerror(code),
				dm_said[0] ? " (" : "", dm_said,
				dm_said[0] ? "); the kernel log says more" :
				"; the kernel log says more");
	return cbw_fail(err, code, "%s '%s': %s", verb, cbw_esc(name, &esc),
			strerror(code));
}

/* Runs a task that udev takes part in, and waits for udev. Destroys it. */
static int task_run_udev(struct dm_task *dmt, uint16_t flags,
			 struct cbw_error *err, const char *verb,
			 const char *name)
{
	uint32_t cookie = 0;
	int ok;

	if (!dm_task_set_cookie(dmt, &cookie, flags))
		return task_failed(dmt, err, verb, name);
	ok = dm_task_run(dmt);
	dm_udev_wait(cookie);
	if (!ok)
		return task_failed(dmt, err, verb, name);
	dm_task_destroy(dmt);
	return 0;
}

void cbw_table_free(struct cbw_table *table)
{
	size_t i;

	for (i = 0; i < table->nr; i++)
		free(table->target[i].params);
	free(table->target);
	table->target = NULL;
	table->nr = 0;
}

int cbw_dm_table(const char *name, enum cbw_table_kind kind,
		 struct cbw_table *table, struct cbw_error *err)
{
	struct dm_task *dmt;
	struct cbw_table t = { 0 };
	void *next = NULL;
	int ret = 0;

	dmt = task_new(kind == CBW_TABLE_STATUS ? DM_DEVICE_STATUS :
		       DM_DEVICE_TABLE, name);
	if (!dmt || !dm_task_secure_data(dmt) || !dm_task_no_flush(dmt) ||
	    !dm_task_no_open_count(dmt) ||
	    (kind == CBW_TABLE_LOADED && !dm_task_query_inactive_table(dmt)) ||
	    !dm_task_run(dmt))
		return task_failed(dmt, err, "table of", name);
	do {
		uint64_t start, length;
		char *type, *params;
		struct cbw_target *more;

		next = dm_get_next_target(dmt, next, &start, &length, &type,
					  &params);
		if (!type)
			continue;
		more = reallocarray(t.target, t.nr + 1, sizeof(*more));
		if (!more) {
			ret = cbw_fail(err, ENOMEM, "out of memory");
			break;
		}
		t.target = more;
		more += t.nr;
		*more = (struct cbw_target){ .start = start, .length = length };
		snprintf(more->type, sizeof(more->type), "%s", type);
		more->params = strdup(params ? params : "");
		if (!more->params) {
			ret = cbw_fail(err, ENOMEM, "out of memory");
			break;
		}
		t.nr++;
	} while (next);
	dm_task_destroy(dmt);
	if (ret)
		cbw_table_free(&t);
	else
		*table = t;
	return ret;
}

static uint64_t sysfs_size(struct cbw_devno dev)
{
	char path[64];
	unsigned long long sectors = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/size", dev.major,
		 dev.minor);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fscanf(f, "%llu", &sectors) != 1)
		sectors = 0;
	fclose(f);
	return (uint64_t)sectors << 9;
}

static bool uuid_hidden(const char *uuid)
{
	size_t len = strlen(uuid), tail = strlen(CBW_UUID_ORIGIN);

	return !strncmp(uuid, CBW_UUID_PREFIX, strlen(CBW_UUID_PREFIX)) &&
		len > tail && !strcmp(uuid + len - tail, CBW_UUID_ORIGIN);
}

static int info_only(const char *name, struct cbw_devno dev,
		     struct cbw_dm_dev *info, struct cbw_error *err)
{
	struct dm_task *dmt = task_new(DM_DEVICE_INFO, name);
	struct cbw_dm_dev out = { 0 };
	struct dm_info di;
	char number[32];
	const char *s;

	snprintf(number, sizeof(number), "%u:%u", dev.major, dev.minor);
	if (!dmt)
		return task_failed(dmt, err, "device", name ? name : number);
	if (!name && (!dm_task_set_major(dmt, (int)dev.major) ||
		      !dm_task_set_minor(dmt, (int)dev.minor)))
		return task_failed(dmt, err, "device", number);
	if (!dm_task_run(dmt) || !dm_task_get_info(dmt, &di))
		return task_failed(dmt, err, "device", name ? name : number);
	if (!di.exists) {
		struct cbw_esc esc;

		dm_task_destroy(dmt);
		return cbw_fail(err, ENXIO, "there is no mapped device '%s'",
				cbw_esc(name ? name : number, &esc));
	}
	s = dm_task_get_name(dmt);
	snprintf(out.name, sizeof(out.name), "%s", s ? s : "");
	s = dm_task_get_uuid(dmt);
	snprintf(out.uuid, sizeof(out.uuid), "%s", s ? s : "");
	out.dev.major = di.major;
	out.dev.minor = di.minor;
	out.open_count = di.open_count;
	out.suspended = di.suspended;
	out.read_only = di.read_only;
	out.loaded = di.inactive_table;
	dm_task_destroy(dmt);
	out.size = sysfs_size(out.dev);
	*info = out;
	return 0;
}

/* The feature "container MAJ:MIN" of a table. */
static void find_container(const char *params, struct cbw_devno *container)
{
	const char *p = strstr(params, " container ");

	if (!p || sscanf(p, " container %u:%u", &container->major, &container->minor) != 2)
		*container = (struct cbw_devno){ 0 };
}

int cbw_dm_info(const char *name, struct cbw_devno dev, struct cbw_dm_dev *info,
		struct cbw_error *err)
{
	struct cbw_dm_dev out, below;
	struct cbw_table table;
	int ret;

	ret = info_only(name, dev, &out, err);
	if (ret)
		return ret;
	ret = cbw_dm_table(out.name, CBW_TABLE_LIVE, &table, err);
	if (ret)
		return ret;
	if (uuid_hidden(out.uuid)) {
		out.kind = CBW_DM_HIDDEN;
	} else if (table.nr == 1) {
		const struct cbw_target *t = &table.target[0];

		if (!strcmp(t->type, "cbw"))
			out.kind = CBW_DM_TRACKED;
		else if (!strcmp(t->type, "cbw-snapshot"))
			out.kind = CBW_DM_SNAPSHOT;
		if (out.kind != CBW_DM_OTHER &&
		    sscanf(t->params, "%u:%u", &out.origin.major,
			   &out.origin.minor) != 2)
			out.origin = (struct cbw_devno){ 0 };
		if (out.kind == CBW_DM_TRACKED)
			find_container(t->params, &out.container);
	}
	cbw_table_free(&table);
	if (out.kind == CBW_DM_TRACKED && out.origin.major &&
	    !info_only(NULL, out.origin, &below, NULL))
		out.attached = uuid_hidden(below.uuid);
	*info = out;
	return 0;
}

static bool is_dm(struct cbw_devno dev)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/dm", dev.major,
		 dev.minor);
	return !access(path, F_OK);
}

int cbw_dm_find(const char *dev, struct cbw_dm_dev *info, struct cbw_error *err)
{
	struct cbw_devno no;
	struct cbw_esc esc;
	struct stat st;
	int end = 0;

	if (sscanf(dev, "%u:%u%n", &no.major, &no.minor, &end) == 2 &&
	    !dev[end]) {
		/* a number, as it is */
	} else if (strchr(dev, '/')) {
		if (stat(dev, &st))
			return cbw_fail(err, errno, "%s: %s",
					cbw_esc(dev, &esc), strerror(errno));
		if (!S_ISBLK(st.st_mode))
			return cbw_fail(err, ENOTBLK,
					"%s: not a block device",
					cbw_esc(dev, &esc));
		no.major = major(st.st_rdev);
		no.minor = minor(st.st_rdev);
	} else {
		if (!*dev || strlen(dev) > CBW_DM_NAME_MAX)
			return cbw_fail(err, EINVAL,
					"'%s' is no name of a mapped device",
					cbw_esc(dev, &esc));
		return cbw_dm_info(dev, (struct cbw_devno){ 0 }, info, err);
	}
	if (!is_dm(no)) {
		char path[64];

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", no.major,
			 no.minor);
		if (access(path, F_OK))
			return cbw_fail(err, ENXIO, "%s: there is no such device",
					cbw_esc(dev, &esc));
		return cbw_fail(err, EINVAL,
				"%s: not a device-mapper device, so nothing can be inserted under it; stack one on it with 'cbw create' and use that instead",
				cbw_esc(dev, &esc));
	}
	return cbw_dm_info(NULL, no, info, err);
}

int cbw_dm_list(struct cbw_dm_dev **list, size_t *nr, struct cbw_error *err)
{
	struct dm_task *dmt = task_new(DM_DEVICE_LIST, NULL);
	struct cbw_dm_dev *out = NULL;
	struct dm_names *names;
	size_t n = 0;
	unsigned int next = 0;

	if (!dmt || !dm_task_run(dmt))
		return task_failed(dmt, err, "list", "mapped devices");
	names = dm_task_get_names(dmt);
	if (names && names->dev) {
		do {
			struct cbw_dm_dev *more;

			names = (struct dm_names *)((char *)names + next);
			more = reallocarray(out, n + 1, sizeof(*out));
			if (!more) {
				free(out);
				dm_task_destroy(dmt);
				return cbw_fail(err, ENOMEM, "out of memory");
			}
			out = more;
			/* one that goes away meanwhile is not there */
			if (!cbw_dm_info(names->name, (struct cbw_devno){ 0 },
					 &out[n], NULL))
				n++;
			next = names->next;
		} while (next);
	}
	dm_task_destroy(dmt);
	*list = out;
	*nr = n;
	return 0;
}

int cbw_dm_status(const char *name, char **text, struct cbw_error *err)
{
	struct cbw_table table;
	struct cbw_esc esc;
	int ret;

	ret = cbw_dm_table(name, CBW_TABLE_STATUS, &table, err);
	if (ret)
		return ret;
	if (!table.nr)
		return cbw_fail(err, ENODATA, "device '%s' has no table",
				cbw_esc(name, &esc));
	*text = table.target[0].params;
	table.target[0].params = NULL;
	cbw_table_free(&table);
	return 0;
}

int cbw_dm_open(struct cbw_devno dev, int flags, struct cbw_error *err)
{
	struct cbw_dm_dev info;
	char path[3][160];
	int ret, i, fd, code = ENOENT;

	ret = info_only(NULL, dev, &info, err);
	if (ret)
		return ret;
	snprintf(path[0], sizeof(path[0]), "/dev/mapper/%s", info.name);
	snprintf(path[1], sizeof(path[1]), "/dev/dm-%u", dev.minor);
	memcpy(path[2], path[0], sizeof(path[2]));
	for (i = 0; i < 3; i++) {
		struct stat st;

		if (i == 2)
			dm_mknodes(info.name);
		fd = open(path[i], flags | O_CLOEXEC);
		if (fd < 0) {
			if (errno != ENOENT && errno != ENXIO)
				code = errno;
			continue;
		}
		if (!fstat(fd, &st) && S_ISBLK(st.st_mode) &&
		    major(st.st_rdev) == dev.major &&
		    minor(st.st_rdev) == dev.minor)
			return fd;
		close(fd);
	}
	return cbw_fail(err, code, "%s: %s", path[0], strerror(code));
}

static bool add_targets(struct dm_task *dmt, const struct cbw_table *table)
{
	size_t i;

	for (i = 0; i < table->nr; i++)
		if (!dm_task_add_target(dmt, table->target[i].start,
					table->target[i].length,
					table->target[i].type,
					table->target[i].params))
			return false;
	return true;
}

int cbw_dm_make(const char *name, const char *uuid,
		const struct cbw_table *table, unsigned int flags,
		const struct cbw_dm_hook *hook, struct cbw_error *err)
{
	uint16_t udev = flags & CBW_MAKE_HIDDEN ? UDEV_HIDDEN : 0;
	bool ro = flags & CBW_MAKE_RO;
	struct dm_task *dmt = task_new(DM_DEVICE_CREATE, name);
	int ret;

	/* in three steps: only so the error of each is known */
	if (!dmt || !dm_task_set_uuid(dmt, uuid) ||
	    (ro && !dm_task_set_ro(dmt)) || !dm_task_run(dmt))
		return task_failed(dmt, err, "create device", name);
	dm_task_destroy(dmt);
	ret = cbw_dm_load(name, table, ro, err);
	if (!ret && hook) {
		struct cbw_dm_dev dev;

		ret = cbw_dm_info(name, (struct cbw_devno){ 0 }, &dev, err);
		if (!ret)
			ret = hook->fn(&dev, hook->arg, err);
	}
	if (!ret) {
		dmt = task_new(DM_DEVICE_RESUME, name);
		if (dmt)
			ret = task_run_udev(dmt, udev, err, "create device",
					    name);
		else
			ret = task_failed(dmt, err, "create device", name);
	}
	if (ret)
		cbw_dm_delete(name, true, NULL);
	return ret;
}

int cbw_dm_load(const char *name, const struct cbw_table *table, bool ro,
		struct cbw_error *err)
{
	struct dm_task *dmt = task_new(DM_DEVICE_RELOAD, name);

	if (!dmt || !add_targets(dmt, table) || (ro && !dm_task_set_ro(dmt)) ||
	    !dm_task_secure_data(dmt) || !dm_task_run(dmt))
		return task_failed(dmt, err, "load a table into device", name);
	dm_task_destroy(dmt);
	return 0;
}

int cbw_dm_clear(const char *name, struct cbw_error *err)
{
	struct dm_task *dmt = task_new(DM_DEVICE_CLEAR, name);

	if (!dmt || !dm_task_run(dmt))
		return task_failed(dmt, err, "clear the loaded table of device",
				   name);
	dm_task_destroy(dmt);
	return 0;
}

int cbw_dm_swap(const char *name, unsigned int flags, struct cbw_error *err)
{
	uint16_t udev = flags & CBW_MAKE_HIDDEN ? UDEV_HIDDEN : 0;
	struct dm_task *dmt = task_new(DM_DEVICE_RESUME, name);

	if (!dmt || !dm_task_skip_lockfs(dmt))
		return task_failed(dmt, err, "change the table of device",
				   name);
	return task_run_udev(dmt, udev, err, "change the table of device", name);
}

int cbw_dm_delete(const char *name, bool retry, struct cbw_error *err)
{
	struct dm_task *dmt = task_new(DM_DEVICE_REMOVE, name);

	if (!dmt || (retry && !dm_task_retry_remove(dmt)))
		return task_failed(dmt, err, "remove device", name);
	return task_run_udev(dmt, 0, err, "remove device", name);
}
