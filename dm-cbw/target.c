// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cbw target: table line, suspend and resume, status.
 *
 *   0 <len> cbw <origin> [<#features> <feature>...]
 *
 * with the feature `container <dev>'.
 *
 * Ioctls of the origin are not passed through (no prepare_ioctl): a command sent to
 * the device below could write without being tracked.
 */
#include "cbw.h"

#include <linux/slab.h>

/*
 * Write-zeroes over chunks that are needed are preserved like data: in pieces that can be
 * copied in time.  Discards are marked or deferred, which is cheap, but not free.
 */
#define WRITE_ZEROES_SECTORS	(1u << (20 - SECTOR_SHIFT))
#define DISCARD_SECTORS		(1u << (26 - SECTOR_SHIFT))

static int parse_features(struct dm_target *ti, struct dm_arg_set *as, const char **container)
{
	static const struct dm_arg count[] = {
		{ 0, 2, "Bad number of features: 0 to 2 words" },
	};
	unsigned int left;
	int r;

	r = dm_read_arg_group(count, as, &left, &ti->error);
	if (r)
		return r;
	if (left) {
		const char *name = dm_shift_arg(as);

		if (!strcasecmp(name, "container")) {
			if (left != 2) {
				ti->error = "Feature container needs a block device";
				return -EINVAL;
			}
			*container = dm_shift_arg(as);
			left = 0;
		}
	}
	if (left) {
		ti->error = "Unknown feature";
		return -EINVAL;
	}
	if (as->argc) {
		ti->error = "More words behind the features than their number says";
		return -EINVAL;
	}
	return 0;
}

/*
 * The container stays the same over all tables.  A device that goes on without the one it has
 * would leave it as if it were complete.
 */
static int open_container(struct dm_target *ti, struct cbw_target *ct, const char *path)
{
	int r;

	if (!path)
		return 0;
	r = dm_get_device(ti, path, CBW_OPEN_RW, &ct->container);
	if (r) {
		ti->error = "Cannot open the container (is it there, and not in use?)";
		return r;
	}
	if (bdev_logical_block_size(ct->container->bdev) <= 4096)
		return 0;
	ti->error = "The container has logical blocks of more than 4096 bytes";
	dm_put_device(ti, ct->container);
	return -EINVAL;
}

static int cbw_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	const char *container = NULL;
	struct cbw_target *ct;
	struct dm_arg_set as;
	int r;

	if (!argc) {
		ti->error = "Needs <origin> [<#features> <feature>...]";
		return -EINVAL;
	}
	as.argc = argc - 1;
	as.argv = argv + 1;
	if (as.argc) {
		r = parse_features(ti, &as, &container);
		if (r)
			return r;
	}
	ct = kzalloc(sizeof(*ct), GFP_KERNEL);
	if (!ct) {
		ti->error = "Cannot allocate the target";
		return -ENOMEM;
	}
	ct->ti = ti;
	r = dm_get_device(ti, argv[0], dm_table_get_mode(ti->table), &ct->dd);
	if (r) {
		ti->error = "Cannot open the origin (is it there, and not in use?)";
		goto free_target;
	}
	r = -EINVAL;
	if (bdev_is_zoned(ct->dd->bdev)) {
		ti->error = "The origin is a zoned device, which is not supported";
		goto put_device;
	}
	if (ti->len > bdev_nr_sectors(ct->dd->bdev)) {
		ti->error = "The length is more than the size of the origin";
		goto put_device;
	}
	r = open_container(ti, ct, container);
	if (r)
		goto put_device;
	r = -ENOMEM;
	ct->origin = cbw_origin_alloc(ct->dd->bdev);
	if (!ct->origin) {
		ti->error = "Cannot allocate the origin";
		goto put_container;
	}
	ct->dev = cbw_device_attach(ti, ct);
	if (IS_ERR(ct->dev)) {
		r = PTR_ERR(ct->dev);
		goto free_origin;
	}
	r = cbw_resize_alloc(ct->dev, ct);
	if (r) {
		ti->error = "Cannot allocate the bitmaps for the new size";
		goto detach;
	}
	ti->private = ct;
	ti->per_io_data_size = sizeof(struct cbw_io);
	ti->num_flush_bios = 1;
	ti->num_discard_bios = 1;
	ti->num_write_zeroes_bios = 1;
	return 0;

detach:
	cbw_device_detach(ct);
	cbw_resize_free(ct);
free_origin:
	cbw_origin_free(ct->origin);
put_container:
	if (ct->container)
		dm_put_device(ti, ct->container);
put_device:
	dm_put_device(ti, ct->dd);
free_target:
	kfree(ct);
	return r;
}

static void cbw_dtr(struct dm_target *ti)
{
	struct cbw_target *ct = ti->private;

	cbw_device_detach(ct);
	cbw_resize_free(ct);
	cbw_origin_free(ct->origin);
	if (ct->container)
		dm_put_device(ti, ct->container);
	dm_put_device(ti, ct->dd);
	kfree(ct);
}

/*
 * A suspend waits for every write that dm has given us.  Held ones wait for reads of the
 * origin and, when the buffer is full or with break_guest_write, for the store,
 * for cbw_timeout_ms at most.  A suspend that need not flush does not wait for the
 * store: they go back to dm, which sends them again after the resume.
 */
static void cbw_presuspend(struct dm_target *ti)
{
	struct cbw_target *ct = ti->private;
	struct cbw_snap *snap;

	if (!dm_noflush_suspending(ti) || !cbw_cured(8))
		return;
	cbw_config_lock();
	WRITE_ONCE(ct->dev->requeue, ti);
	cbw_intents_wake(ct->dev);
	list_for_each_entry(snap, &ct->dev->snaps, node)
		cbw_hold_wake_all(snap, BLK_STS_OK, KTIME_MAX);
	cbw_config_unlock();
}

static void cbw_presuspend_undo(struct dm_target *ti)
{
	struct cbw_target *ct = ti->private;

	WRITE_ONCE(ct->dev->requeue, NULL);
}

/*
 * Nothing is in flight through us any more.  Wait for our own reads for copies, which
 * a release may have left behind; never for a store.  Snapshot reads go on.
 */
static void cbw_postsuspend(struct dm_target *ti)
{
	struct cbw_target *ct = ti->private;
	struct cbw_device *dev = ct->dev;

	WRITE_ONCE(dev->requeue, NULL);
	/*
	 * From here on somebody else's table may be swapped in.  Who begins a copy that no
	 * write waits for counts it and then looks at this.
	 */
	smp_store_mb(dev->suspended, true);
	if (cbw_cured(8))
		wait_event(dev->waitq, !atomic_read(&dev->copy_reads));
	cbw_container_suspended(dev);
}

static int cbw_preresume(struct dm_target *ti)
{
	struct cbw_target *ct = ti->private;
	struct cbw_device *dev = ct->dev;
	struct cbw_origin *old;
	int r;

	if (ct->container && !cbw_container_ready(dev)) {
		DMERR("%s: the layout of its container was not delivered (cbw attach does it)",
		      dm_device_name(dev->md));
		return -EAGAIN;
	}
	cbw_config_lock();
	old = rcu_dereference_protected(dev->origin,
					lockdep_is_held(&cbw_config_mutex));
	/*
	 * Also when that fails: dm has put this table in the place of the old one, which
	 * is about to go, and will resume it when it is asked again.
	 */
	r = cbw_resize(dev, ct);
	ct->live = true;
	if (old != ct->origin)
		cbw_origin_switch(dev, ct->origin);
	else
		old = NULL;
	cbw_config_unlock();
	/*
	 * Snapshot reads of the old origin end before anything is written to the
	 * new one.
	 */
	if (old && cbw_cured(8))
		cbw_origin_drain(old);
	if (r)
		return r;
	if (ct->container)
		cbw_container_resume(dev);
	WRITE_ONCE(dev->resumes, dev->resumes + 1);
	/* Old reads are over before new writes begin. */
	smp_store_release(&dev->suspended, false);
	wake_up_all(&dev->waitq);
	return 0;
}

static unsigned int status_bitmap(struct cbw_bitmap *b,
				  const struct cbw_dirty_set *dirty, char *result,
				  unsigned int sz, unsigned int maxlen)
{
	struct cbw_name name = { b->name, b->name_len };
	bool busy = cbw_bitmap_busy(b);

	DMEMIT(" ");
	if (sz < maxlen)
		sz += cbw_name_escape(name, result + sz, maxlen - sz);
	DMEMIT(" %llu %llu ", 1ULL << (b->cur.active->shift + SECTOR_SHIFT),
	       cbw_dirty_bytes(dirty, b));
	if (!b->cur.enabled && !busy && !cbw_disk_persistent(b->cur.disk))
		DMEMIT("-");
	else
		DMEMIT("%s%s%s", b->cur.enabled ? "e" : "", busy ? "b" : "",
		       cbw_disk_persistent(b->cur.disk) ? "p" : "");
	DMEMIT(" %*phN", (int)sizeof(b->cur.base), b->cur.base.b);
	return sz;
}

static void cbw_status(struct dm_target *ti, status_type_t type,
		       unsigned int flags, char *result, unsigned int maxlen)
{
	struct cbw_target *ct = ti->private;
	struct cbw_device *dev = ct->dev;
	struct cbw_dirty_set *dirty;
	struct cbw_bitmap *b;
	unsigned int sz = 0;

	switch (type) {
	case STATUSTYPE_INFO:
		cbw_config_lock();
		dirty = cbw_dirty_count(dev);
		DMEMIT("%s %u", ct->dd->name, dev->nr_bitmaps);
		list_for_each_entry(b, &dev->bitmaps, node)
			sz = status_bitmap(b, dirty, result, sz, maxlen);
		DMEMIT(" %u", dev->nr_snaps);
		cbw_config_unlock();
		kfree(dirty);
		break;
	case STATUSTYPE_TABLE:
		DMEMIT("%s", ct->dd->name);
		if (ct->container)
			DMEMIT(" 2 container %s", ct->container->name);
		break;
	case STATUSTYPE_IMA:
		*result = '\0';
		break;
	}
}

static int cbw_iterate_devices(struct dm_target *ti,
			       iterate_devices_callout_fn fn, void *data)
{
	struct cbw_target *ct = ti->private;

	return fn(ti, ct->dd, 0, ti->len, data);
}

static void cbw_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	cbw_limit_write_zeroes(limits, WRITE_ZEROES_SECTORS);
	cbw_limit_discards(limits, DISCARD_SECTORS);
}

struct target_type cbw_target_type = {
	.name = "cbw",
	.version = { 1, 0, 0 },
	.features = DM_TARGET_SINGLETON | DM_TARGET_NOWAIT |
		    DM_TARGET_PASSES_CRYPTO,
	.module = THIS_MODULE,
	.ctr = cbw_ctr,
	.dtr = cbw_dtr,
	.map = cbw_map,
	.end_io = cbw_end_io,
	.presuspend = cbw_presuspend,
	.presuspend_undo = cbw_presuspend_undo,
	.postsuspend = cbw_postsuspend,
	.preresume = cbw_preresume,
	.message = cbw_message,
	.status = cbw_status,
	.iterate_devices = cbw_iterate_devices,
	.io_hints = cbw_io_hints,
};
