// SPDX-License-Identifier: LGPL-2.1-or-later
/* devices with the cbw target: stacked, or inserted into a live one */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <linux/fs.h>

#include "internal.h"

/*
 * Targets of which two instances over the same devices may live side by side,
 * as long as only one of them is given I/O at a time. While a volume is
 * attached or detached there are two of them for a moment.
 */
static const char *const stateless[] = {
	"linear", "striped", "crypt", "thin", "delay", "flakey", "dust",
	"error", "zero", "unstriped",
};

static int check_name(const char *name, struct cbw_error *err)
{
	struct cbw_esc esc;

	if (!*name || strlen(name) > CBW_DM_NAME_MAX || strchr(name, '/') ||
	    !strcmp(name, ".") || !strcmp(name, "..") ||
	    !strcmp(name, "control"))
		return cbw_fail(err, EINVAL,
				"'%s' cannot be the name of a mapped device: 1 to %d bytes without '/'",
				cbw_esc(name, &esc), CBW_DM_NAME_MAX);
	return 0;
}

/* The table of one target over all of a device. */
static void one_target(struct cbw_table *table, struct cbw_target *t,
		       uint64_t size, char *params)
{
	*t = (struct cbw_target){ .length = size >> 9, .params = params };
	snprintf(t->type, sizeof(t->type), "cbw");
	table->nr = 1;
	table->target = t;
}

#define PARAMS	80

static void our_params(char params[PARAMS], struct cbw_devno origin,
		       struct cbw_devno container)
{
	int n = snprintf(params, PARAMS, "%u:%u", origin.major, origin.minor);

	if (container.major)
		snprintf(params + n, PARAMS - (size_t)n, " 2 container %u:%u",
			 container.major, container.minor);
}

static int create(const char *name, const char *origin, struct cbw_devno container,
		  const struct cbw_dm_hook *hook, struct cbw_dm_dev *info,
		  struct cbw_error *err)
{
	struct cbw_dm_dev there;
	struct cbw_table table;
	struct cbw_target t;
	struct cbw_esc esc;
	struct stat st;
	uint64_t size;
	char params[PARAMS], uuid[48], hex[17];
	int fd, ret, ro = 0;

	ret = check_name(name, err);
	if (ret)
		return ret;
	if (!cbw_dm_info(name, (struct cbw_devno){ 0 }, &there, NULL))
		return cbw_fail(err, EEXIST,
				"there is a mapped device '%s' already",
				cbw_esc(name, &esc));
	fd = open(origin, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return cbw_fail(err, errno, "%s: %s", cbw_esc(origin, &esc),
				strerror(errno));
	if (fstat(fd, &st) || !S_ISBLK(st.st_mode)) {
		close(fd);
		return cbw_fail(err, ENOTBLK, "%s: not a block device",
				cbw_esc(origin, &esc));
	}
	if (ioctl(fd, BLKGETSIZE64, &size) || ioctl(fd, BLKROGET, &ro)) {
		ret = cbw_fail(err, errno, "%s: its size: %s",
			       cbw_esc(origin, &esc), strerror(errno));
		close(fd);
		return ret;
	}
	close(fd);
	if (size < 512)
		return cbw_fail(err, EINVAL, "%s: the device is empty",
				cbw_esc(origin, &esc));
	ret = cbw_random_hex(hex, err);
	if (ret)
		return ret;
	snprintf(uuid, sizeof(uuid), CBW_UUID_DEV "%s", hex);
	our_params(params, (struct cbw_devno){ major(st.st_rdev), minor(st.st_rdev) }, container);
	one_target(&table, &t, size, params);
	ret = cbw_dm_make(name, uuid, &table, ro ? CBW_MAKE_RO : 0, hook, err);
	if (ret)
		return ret;
	if (info)
		return cbw_dm_info(name, (struct cbw_devno){ 0 }, info, err);
	return 0;
}

int cbw_dm_create(const char *name, const char *origin, struct cbw_dm_dev *info,
		  struct cbw_error *err)
{
	return create(name, origin, (struct cbw_devno){ 0 }, NULL, info, err);
}

int cbw_dm_create_container(const char *name, const char *origin,
			    struct cbw_devno container, cbw_dm_step step, void *arg,
			    struct cbw_dm_dev *info, struct cbw_error *err)
{
	const struct cbw_dm_hook hook = { step, arg };

	return create(name, origin, container, &hook, info, err);
}

/* -EBUSY, with its name, if a snapshot of the device is there. */
static int check_snapshots(const struct cbw_dm_dev *dev, const char *what,
			   struct cbw_error *err)
{
	struct cbw_dm_dev *list;
	struct cbw_esc a, b;
	size_t nr, i;
	int ret;

	ret = cbw_dm_list(&list, &nr, err);
	if (ret)
		return ret;
	for (i = 0; i < nr; i++) {
		if (list[i].kind != CBW_DM_SNAPSHOT ||
		    list[i].origin.major != dev->dev.major ||
		    list[i].origin.minor != dev->dev.minor)
			continue;
		ret = cbw_fail(err, EBUSY,
			       "%s: snapshot '%s' lives on it; remove it first (cbw snapshot remove)%s",
			       cbw_esc(dev->name, &a), cbw_esc(list[i].name, &b),
			       what);
		break;
	}
	free(list);
	return ret;
}

int cbw_dm_remove(const char *name, struct cbw_error *err)
{
	struct cbw_dm_dev dev;
	struct cbw_esc esc;
	int ret;

	ret = cbw_dm_find(name, &dev, err);
	if (ret)
		return ret;
	/* without a table: a create that died half way */
	if (dev.kind == CBW_DM_OTHER && !dev.size &&
	    !strncmp(dev.uuid, CBW_UUID_DEV, strlen(CBW_UUID_DEV)))
		return cbw_dm_delete(dev.name, true, err);
	if (dev.kind != CBW_DM_TRACKED)
		return cbw_fail(err, EINVAL,
				"%s: not a device that 'cbw create' made%s",
				cbw_esc(dev.name, &esc),
				dev.kind == CBW_DM_SNAPSHOT ?
				"; it is a snapshot: cbw snapshot remove" : "");
	if (dev.attached || strncmp(dev.uuid, CBW_UUID_DEV,
				    strlen(CBW_UUID_DEV)))
		return cbw_fail(err, EINVAL,
				"%s: %s, so it is not removed",
				cbw_esc(dev.name, &esc), dev.attached ?
				"the target was inserted with 'cbw attach' ('cbw detach' takes it out)" :
				"it was not made by 'cbw create'");
	ret = check_snapshots(&dev, "", err);
	if (ret)
		return ret;
	if (dev.open_count)
		return cbw_fail(err, EBUSY,
				"%s: it is in use (opened %d times); unmount or close it first",
				cbw_esc(dev.name, &esc), dev.open_count);
	return cbw_dm_delete(dev.name, true, err);
}

static int check_types(const struct cbw_dm_dev *dev,
		       const struct cbw_table *table, struct cbw_error *err)
{
	struct cbw_esc esc, type;
	size_t i, k;

	if (!table->nr)
		return cbw_fail(err, EINVAL, "%s: the device has no table",
				cbw_esc(dev->name, &esc));
	for (i = 0; i < table->nr; i++) {
		for (k = 0; k < sizeof(stateless) / sizeof(stateless[0]); k++)
			if (!strcmp(table->target[i].type, stateless[k]))
				break;
		if (k == sizeof(stateless) / sizeof(stateless[0]))
			return cbw_fail(err, EOPNOTSUPP,
					"%s: its target '%s' keeps state of its own, so its table cannot move while it is live; attach a device above it, or stack one with 'cbw create'",
					cbw_esc(dev->name, &esc),
					cbw_esc(table->target[i].type, &type));
	}
	return 0;
}

static void hidden_name(const char *name, const char *hex,
			char out[CBW_DM_NAME_MAX + 1])
{
	const char *tail = "-cbw" CBW_UUID_ORIGIN;

	if (strlen(name) + strlen(tail) <= CBW_DM_NAME_MAX)
		snprintf(out, CBW_DM_NAME_MAX + 1, "%s%s", name, tail);
	else
		snprintf(out, CBW_DM_NAME_MAX + 1, "cbw-%s" CBW_UUID_ORIGIN,
			 hex);
}

/*
 * Swaps in what was loaded. The kernel drains the device with the table it has,
 * changes the table and resumes, in one call. If that fails the device may be left
 * suspended, with either table: then @was is put back and the device resumed.
 */
static int swap_or_undo(const struct cbw_dm_dev *dev,
			const struct cbw_table *was, struct cbw_error *err)
{
	struct cbw_error why;
	struct cbw_dm_dev now;
	int ret;

	ret = cbw_dm_swap(dev->name, 0, err);
	if (!ret)
		return 0;
	/* the inactive slot may hold the new table still */
	cbw_dm_clear(dev->name, NULL);
	if (cbw_dm_info(NULL, dev->dev, &now, &why) || !now.suspended)
		return ret;
	if (now.kind != dev->kind &&
	    cbw_dm_load(dev->name, was, dev->read_only, &why))
		goto stuck;
	if (cbw_dm_swap(dev->name, 0, &why))
		goto stuck;
	return ret;
stuck:
	return cbw_fail(err, -ret,
			"device %s is suspended and its own table could not be put back: %s; look at 'dmsetup info' and 'dmsetup table'",
			now.name, why.msg);
}

/* Removes the hidden device that an attach left which died half way. */
static int remove_leftover(const char *hidden, struct cbw_error *err)
{
	struct cbw_dm_dev dev;
	struct cbw_esc esc;

	if (cbw_dm_info(hidden, (struct cbw_devno){ 0 }, &dev, NULL))
		return 0;
	if (dev.kind != CBW_DM_HIDDEN || dev.open_count)
		return cbw_fail(err, EEXIST,
				"there is a mapped device '%s' already, and it is %s",
				cbw_esc(hidden, &esc), dev.open_count ?
				"in use" : "not one of cbw's");
	return cbw_dm_delete(hidden, true, err);
}

static bool same_table(const struct cbw_table *a, const struct cbw_table *b)
{
	size_t i;

	if (a->nr != b->nr)
		return false;
	for (i = 0; i < a->nr; i++)
		if (a->target[i].start != b->target[i].start ||
		    a->target[i].length != b->target[i].length ||
		    strcmp(a->target[i].type, b->target[i].type) ||
		    strcmp(a->target[i].params, b->target[i].params))
			return false;
	return true;
}

/*
 * Nobody else may be changing the device's table. What an attach or detach has
 * loaded that died before the change does not count: @want, or for NULL a table of ours.
 */
static int check_quiet(const struct cbw_dm_dev *dev,
		       const struct cbw_table *want, struct cbw_error *err)
{
	struct cbw_table table;
	struct cbw_esc esc;
	bool ours;
	int ret;

	if (dev->suspended)
		return cbw_fail(err, EBUSY,
				"%s: it is suspended; resume it first (dmsetup resume)",
				cbw_esc(dev->name, &esc));
	if (!dev->loaded)
		return 0;
	ret = cbw_dm_table(dev->name, CBW_TABLE_LOADED, &table, err);
	if (ret)
		return ret;
	ours = want ? same_table(&table, want) :
		table.nr == 1 && !strcmp(table.target[0].type, "cbw");
	cbw_table_free(&table);
	if (!ours)
		return cbw_fail(err, EBUSY,
				"%s: a table is loaded that is not live yet; is LVM or dmsetup at work on it? (dmsetup resume or clear)",
				cbw_esc(dev->name, &esc));
	return cbw_dm_clear(dev->name, err);
}

static int attach(const char *name, struct cbw_devno container,
		  const struct cbw_dm_hook *hook, struct cbw_dm_dev *info,
		  struct cbw_error *err)
{
	struct cbw_table own = { 0 }, ours;
	struct cbw_dm_dev dev, below;
	struct cbw_target t;
	struct cbw_esc esc;
	char uuid[48], hex[17], hidden[CBW_DM_NAME_MAX + 1], params[PARAMS];
	int ret;

	ret = cbw_dm_find(name, &dev, err);
	if (ret)
		return ret;
	if (dev.kind == CBW_DM_TRACKED)
		return cbw_fail(err, EALREADY, "%s: it has the cbw target already",
				cbw_esc(dev.name, &esc));
	if (dev.kind != CBW_DM_OTHER)
		return cbw_fail(err, EINVAL,
				"%s: it is %s, which cannot be attached",
				cbw_esc(dev.name, &esc),
				dev.kind == CBW_DM_SNAPSHOT ?
				"a cbw snapshot" :
				"the hidden origin of an attached volume");
	ret = check_quiet(&dev, NULL, err);
	if (ret)
		return ret;
	ret = cbw_dm_table(dev.name, CBW_TABLE_LIVE, &own, err);
	if (ret)
		return ret;
	ret = check_types(&dev, &own, err);
	if (ret)
		goto out;
	ret = cbw_random_hex(hex, err);
	if (ret)
		goto out;
	hidden_name(dev.name, hex, hidden);
	ret = remove_leftover(hidden, err);
	if (ret)
		goto out;
	snprintf(uuid, sizeof(uuid), CBW_UUID_PREFIX "%s" CBW_UUID_ORIGIN, hex);
	ret = cbw_dm_make(hidden, uuid, &own, CBW_MAKE_HIDDEN |
			  (dev.read_only ? CBW_MAKE_RO : 0), NULL, err);
	if (ret)
		goto out;
	ret = cbw_dm_info(hidden, (struct cbw_devno){ 0 }, &below, err);
	if (ret)
		goto undo;
	our_params(params, below.dev, container);
	one_target(&ours, &t, dev.size, params);
	ret = cbw_dm_load(dev.name, &ours, dev.read_only, err);
	if (ret)
		goto undo;
	ret = hook ? hook->fn(&dev, hook->arg, err) : 0;
	if (ret) {
		cbw_dm_clear(dev.name, NULL);
		goto undo;
	}
	ret = swap_or_undo(&dev, &own, err);
	if (ret)
		goto undo;
	if (info)
		ret = cbw_dm_info(NULL, dev.dev, info, err);
	goto out;
undo:
	cbw_dm_delete(hidden, true, NULL);
out:
	cbw_table_free(&own);
	return ret;
}

int cbw_dm_attach(const char *name, struct cbw_dm_dev *info,
		  struct cbw_error *err)
{
	return attach(name, (struct cbw_devno){ 0 }, NULL, info, err);
}

int cbw_dm_attach_container(const char *name, struct cbw_devno container, cbw_dm_step step,
			    void *arg, struct cbw_dm_dev *info, struct cbw_error *err)
{
	const struct cbw_dm_hook hook = { step, arg };

	return attach(name, container, &hook, info, err);
}

int cbw_dm_attach_forget(const char *name, struct cbw_error *err)
{
	struct cbw_dm_dev dev;
	int ret = cbw_dm_find(name, &dev, err);

	if (ret || dev.kind != CBW_DM_OTHER)
		return ret;
	return check_quiet(&dev, NULL, err);
}

int cbw_dm_detach(const char *name, bool force, struct cbw_error *err)
{
	struct cbw_table own = { 0 }, ours = { 0 };
	struct cbw_dm_dev dev, below;
	struct cbw_esc esc, esc2;
	int ret;

	ret = cbw_dm_find(name, &dev, err);
	if (ret)
		return ret;
	if (dev.kind != CBW_DM_TRACKED)
		return cbw_fail(err, EINVAL, "%s: it has no cbw target",
				cbw_esc(dev.name, &esc));
	if (!dev.attached)
		return cbw_fail(err, EINVAL,
				"%s: it was not attached but made for cbw, there is no table to go back to; 'cbw remove' removes it",
				cbw_esc(dev.name, &esc));
	if (!force) {
		ret = check_snapshots(&dev, ", or make it fail with --force",
				      err);
		if (ret)
			return ret;
	}
	ret = cbw_dm_info(NULL, dev.origin, &below, err);
	if (ret)
		return ret;
	ret = cbw_dm_table(below.name, CBW_TABLE_LIVE, &own, err);
	if (!ret)
		ret = cbw_dm_table(dev.name, CBW_TABLE_LIVE, &ours, err);
	if (!ret)
		ret = check_quiet(&dev, &own, err);
	if (!ret && below.size < dev.size)
		ret = cbw_fail(err, EINVAL,
			       "%s: its hidden origin %s is smaller than the device",
			       cbw_esc(dev.name, &esc),
			       cbw_esc(below.name, &esc2));
	if (!ret)
		ret = cbw_dm_load(dev.name, &own, dev.read_only, err);
	if (!ret)
		ret = swap_or_undo(&dev, &ours, err);
	if (!ret && cbw_dm_delete(below.name, true, NULL))
		/* harmless: the next attach takes it away */
		ret = 0;
	cbw_table_free(&own);
	cbw_table_free(&ours);
	return ret;
}
