// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A store of our own for a snapshot that outlives who makes it: nobody makes it larger, so it
 * has room for all from the beginning. It goes with 'cbw snapshot remove'; if the snapshot went
 * another way, it is a leftover that the next store_auto() finds.
 */
#include <fcntl.h>
#include <libdevmapper.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
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

/* What has a name as ours is one of ours if store_again() finds that it is marked as such. */
static bool is_ours(struct store *store)
{
	if (store->kind != STORE_GIVEN)
		return true;
	store_leave(store);
	return false;
}

/* Where we have it made; not another file of that name, which the loop device has not. */
static bool file_of(struct cbw_devno dev, struct store *store)
{
	static const char begin[] = STORE_DIR "/" STORE_NAME;
	char *path = loop_file(dev), node[32];
	struct stat st;
	bool ours = false;

	if (path && !strncmp(path, begin, sizeof(begin) - 1)) {
		snprintf(node, sizeof(node), "/dev/loop%d", store_loop(path));
		ours = !stat(node, &st) && S_ISBLK(st.st_mode) &&
			st.st_rdev == makedev(dev.major, dev.minor);
	}
	if (ours) {
		store_again(STORE_FILE, path, NULL, 0, store);
		ours = is_ours(store);
	}
	free(path);
	return ours;
}

static bool lv_of(struct cbw_devno devno, struct store *store)
{
	struct lvm_group group;
	struct cbw_dm_dev dev;
	char *lv, *path, number[32];
	const char *name;

	snprintf(number, sizeof(number), "%u:%u", devno.major, devno.minor);
	if (cbw_dm_find(number, &dev, NULL))
		return false;
	/* ours have no hyphen, which would stand there twice */
	name = strrchr(dev.name, '-');
	if (!name || name == dev.name || name[-1] == '-' ||
	    strncmp(name + 1, LVM_NAME, sizeof(LVM_NAME) - 1) || lvm_group_of(&dev, &group, NULL))
		return false;
	lv = xasprintf("%s/%s", group.name, name + 1);
	path = xasprintf("/dev/mapper/%s", dev.name);
	store_again(STORE_LV, path, lv, 0, store);
	free(path);
	free(lv);
	lvm_group_free(&group);
	return is_ours(store);
}

bool store_kept_by(const struct cbw_dm_dev *snap, struct store *store)
{
	struct cbw_devno dev;

	return !store_dev(snap, &dev) && (file_of(dev, store) || lv_of(dev, store));
}
