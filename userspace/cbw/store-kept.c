// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A store of our own for a snapshot that outlives who makes it: nobody makes it larger, so it
 * has room for all from the beginning. It goes with 'cbw snapshot remove'; if the snapshot went
 * another way, it is a leftover that the next store_auto() finds.
 */
#include <fcntl.h>
#include <libdevmapper.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "lvm.h"
#include "store.h"
#include "sysfs.h"

int store_auto_kept(const struct cbw_dm_dev *vol, const struct cbw_dm_dev *volumes, size_t nr,
		    uint64_t size, struct store *store, struct cbw_error *err)
{
	const struct store_wish wish = { .first = size, .least = size, .most = size };
	int ret = store_auto(vol, volumes, nr, &wish, store, err);

	if (ret || store->kind != STORE_FILE)
		return ret;
	/* what the file system has now others may have when it is needed */
	if (fallocate(store->lock, 0, 0, (off_t)store->size)) {
		ret = fail_with(err, errno, "%s: %s for the store cannot be set aside: %s",
				esc(store->path), human(store->size), strerror(errno));
		store_drop(store);
	}
	return ret;
}

/* The block device of its store, from its table. */
static int store_dev(const struct cbw_dm_dev *snap, struct cbw_devno *dev)
{
	struct dm_task *dmt = dm_task_create(DM_DEVICE_TABLE);
	char *type, *params = NULL;
	uint64_t start, length;
	int ret = -EIO;

	if (dmt && dm_task_set_name(dmt, snap->name) && dm_task_run(dmt))
		dm_get_next_target(dmt, NULL, &start, &length, &type, &params);
	/* source, then store */
	if (params && sscanf(params, "%*u:%*u %u:%u", &dev->major, &dev->minor) == 2)
		ret = 0;
	if (dmt)
		dm_task_destroy(dmt);
	return ret;
}

/* As mkostemp() has made it, where we have it made. */
static bool is_file_of_ours(const char *path)
{
	static const char begin[] = STORE_DIR "/" STORE_NAME;
	struct stat st;

	return !strncmp(path, begin, sizeof(begin) - 1) && strlen(path) == sizeof(begin) - 1 + 6 &&
		!strchr(path + sizeof(begin) - 1, '/') && !lstat(path, &st) &&
		S_ISREG(st.st_mode) && st.st_uid == geteuid();
}

static bool file_of(struct cbw_devno dev, struct store *store)
{
	char *path = loop_file(dev);
	bool ours = path && is_file_of_ours(path);

	if (ours)
		store_again(STORE_FILE, path, NULL, 0, store);
	free(path);
	return ours;
}

static bool lv_of(struct cbw_devno devno, struct store *store)
{
	static const char begin[] = "-" LVM_NAME;
	struct lvm_group group;
	struct cbw_dm_dev dev;
	char *lv, *path, number[32];
	const char *name;

	snprintf(number, sizeof(number), "%u:%u", devno.major, devno.minor);
	if (cbw_dm_find(number, &dev, NULL))
		return false;
	name = strstr(dev.name, begin);
	if (!name || lvm_group_of(&dev, &group, NULL))
		return false;
	lv = xasprintf("%s/%s", group.name, name + 1);
	path = xasprintf("/dev/mapper/%s", dev.name);
	store_again(STORE_LV, path, lv, 0, store);
	free(path);
	free(lv);
	lvm_group_free(&group);
	return true;
}

bool store_kept_by(const struct cbw_dm_dev *snap, struct store *store)
{
	struct cbw_devno dev;

	return !store_dev(snap, &dev) && (file_of(dev, store) || lv_of(dev, store));
}
