// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state of a mapped device, found again by every table that is loaded into
 * it, and the origin below it.
 */
#include "cbw.h"

#include <linux/slab.h>

static LIST_HEAD(cbw_devices);	/* cbw_config_mutex */

/* ---- the origin ---------------------------------------------------------------- */

static void origin_drained(struct percpu_ref *ref)
{
	complete_all(&container_of(ref, struct cbw_origin, reads)->drained);
}

/* May sleep.  NULL without memory. */
struct cbw_origin *cbw_origin_alloc(struct block_device *bdev)
{
	struct cbw_origin *origin = kzalloc(sizeof(*origin), GFP_KERNEL);

	if (!origin)
		return NULL;
	if (percpu_ref_init(&origin->reads, origin_drained, 0, GFP_KERNEL)) {
		kfree(origin);
		return NULL;
	}
	init_completion(&origin->drained);
	origin->bdev = bdev;
	return origin;
}

/*
 * Let no new read begin and wait for those in flight, as long as the origin takes for
 * them.  Who calls it twice does not call it at the same time.  May sleep.
 */
void cbw_origin_drain(struct cbw_origin *origin)
{
	if (!percpu_ref_is_dying(&origin->reads))
		percpu_ref_kill(&origin->reads);
	wait_for_completion(&origin->drained);
}

/* Drain and free it; nobody can find it any more.  May sleep. */
void cbw_origin_free(struct cbw_origin *origin)
{
	cbw_origin_drain(origin);
	percpu_ref_exit(&origin->reads);
	/* cbw_origin_get() looks at it under RCU. */
	synchronize_rcu();
	kfree(origin);
}

/**
 * cbw_origin_get - hold the origin for a read
 * @dev: the device
 *
 * Any context.  Returns NULL when the source is gone.  Suspending the source
 * does not get in the way: a reader of a snapshot goes on.
 */
struct cbw_origin *cbw_origin_get(struct cbw_device *dev)
{
	struct cbw_origin *origin;

	rcu_read_lock();
	do {
		origin = rcu_dereference(dev->origin);
		/* The get fails only when a newer pointer is there. */
	} while (origin && !percpu_ref_tryget_live(&origin->reads));
	rcu_read_unlock();
	return origin;
}

/* Any context. */
void cbw_origin_put(struct cbw_origin *origin)
{
	percpu_ref_put(&origin->reads);
}

/* Publish @origin (NULL: none) in place of the old one, which its owner frees. */
void cbw_origin_switch(struct cbw_device *dev, struct cbw_origin *origin)
{
	lockdep_assert_held(&cbw_config_mutex);
	rcu_assign_pointer(dev->origin, origin);
}

/* ---- the device ------------------------------------------------------------------ */

struct cbw_device *cbw_device_next(struct cbw_device *dev)
{
	struct list_head *pos = dev ? dev->node.next : cbw_devices.next;

	lockdep_assert_held(&cbw_config_mutex);
	return pos == &cbw_devices ? NULL :
				     list_entry(pos, struct cbw_device, node);
}

/* The device with this number, or NULL; good as long as the mutex is held. */
struct cbw_device *cbw_device_find(dev_t devt)
{
	struct cbw_device *dev;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(dev, &cbw_devices, node)
		if (dev->devt == devt)
			return dev;
	return NULL;
}

static struct cbw_device *device_find_md(struct mapped_device *md)
{
	struct cbw_device *dev;

	list_for_each_entry(dev, &cbw_devices, node)
		if (dev->md == md)
			return dev;
	return NULL;
}

static void device_free(struct kref *ref)
{
	struct cbw_device *dev = container_of(ref, struct cbw_device, ref);

	kfree(dev);
}

/* Any context that may take the last reference away: frees without waiting. */
void cbw_device_put(struct cbw_device *dev)
{
	kref_put(&dev->ref, device_free);
}

static struct cbw_device *device_new(struct dm_target *ti)
{
	struct cbw_device *dev = kzalloc(sizeof(*dev), GFP_KERNEL);

	if (!dev)
		return NULL;
	kref_init(&dev->ref);
	dev->md = dm_table_get_md(ti->table);
	dev->devt = disk_devt(dm_disk(dev->md));
	dev->len = ti->len;
	init_waitqueue_head(&dev->waitq);
	spin_lock_init(&dev->inst_lock);
	INIT_LIST_HEAD(&dev->instances);
	INIT_LIST_HEAD(&dev->bitmaps);
	INIT_LIST_HEAD(&dev->snaps);
	INIT_LIST_HEAD(&dev->txn_node);
	spin_lock_init(&dev->gate_lock);
	bio_list_init(&dev->gate_bios);
	cbw_discards_init(dev);
	cbw_remap_init(dev);
	atomic_set(&dev->copy_reads, 0);
	if (cbw_epoch_first(dev)) {
		kfree(dev);
		return NULL;
	}
	list_add_tail(&dev->node, &cbw_devices);
	return dev;
}

/* dm lets its own devices share what they claim; writes there would go untracked. */
static const char *origin_in_use(struct cbw_device *self, dev_t devt)
{
	struct cbw_device *dev;
	struct cbw_target *ct;
	struct cbw_snap *snap;
	bool used = false;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(dev, &cbw_devices, node) {
		spin_lock_irq(&dev->inst_lock);
		list_for_each_entry(ct, &dev->instances, node)
			if ((dev != self && ct->dd->bdev->bd_dev == devt) ||
			    (ct->container && ct->container->bdev->bd_dev == devt))
				used = true;
		spin_unlock_irq(&dev->inst_lock);
	}
	if (used)
		return "The origin is that of another device with a cbw table, or a container";
	list_for_each_entry(snap, &cbw_snaps, all_node)
		if (snap->store_dev->bd_dev == devt)
			return "The origin is the store of a snapshot";
	return NULL;
}

/* The container of a device is that of all its tables, and nobody else's anything. */
static const char *container_misfit(struct cbw_device *self, struct cbw_target *new)
{
	struct block_device *bdev = new->container ? new->container->bdev : NULL;
	struct cbw_target *ct;
	const char *what;

	lockdep_assert_held(&cbw_config_mutex);
	if (self && !cbw_container_fits(self, bdev))
		return "The device has a container, which all its tables have to name";
	if (!bdev)
		return NULL;
	if (bdev == new->dd->bdev)
		return "The container is the origin";
	if (self && self->container)
		return NULL;
	if (cbw_bdev_in_use(bdev->bd_dev, self, &what))
		return "The container is in use as an origin, a store or another container";
	if (!self)
		return NULL;
	spin_lock_irq(&self->inst_lock);
	list_for_each_entry(ct, &self->instances, node)
		if (ct->live)
			what = "The device is live without a container";
	spin_unlock_irq(&self->inst_lock);
	return what;
}

/**
 * cbw_device_attach - find or make the state for a new table instance
 * @ti: the instance; @ti->error is set on failure
 * @ct: its data
 *
 * May sleep.  Returns the device (a reference) or an ERR_PTR.
 */
struct cbw_device *cbw_device_attach(struct dm_target *ti,
				     struct cbw_target *ct)
{
	struct cbw_device *dev;

	cbw_config_lock();
	dev = device_find_md(dm_table_get_md(ti->table));
	ti->error = (char *)origin_in_use(dev, ct->dd->bdev->bd_dev);
	if (!ti->error)
		ti->error = (char *)container_misfit(dev, ct);
	if (ti->error) {
		cbw_config_unlock();
		return ERR_PTR(-EBUSY);
	}
	if (!dev) {
		dev = device_new(ti);
		if (!dev) {
			cbw_config_unlock();
			ti->error = "Cannot allocate the device's state";
			return ERR_PTR(-ENOMEM);
		}
	} else {
		cbw_device_get(dev);
	}
	spin_lock_irq(&dev->inst_lock);
	list_add_tail(&ct->node, &dev->instances);
	spin_unlock_irq(&dev->inst_lock);
	cbw_config_unlock();
	return dev;
}

/*
 * Break every snapshot: writes to the origin no longer pass here, or soon
 * will not.
 */
void cbw_device_source_gone(struct cbw_device *dev)
{
	struct cbw_snap *snap;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(snap, &dev->snaps, node)
		if (snap->start_seq)
			cbw_snap_break(snap, CBW_REASON_SOURCE_GONE);
}

/**
 * cbw_device_detach - a table instance goes away
 * @ct: its data; ct->origin and ct->dd are still there
 *
 * May sleep: when it is the last instance, until the last write has drained.
 * The caller frees the origin afterwards.
 */
void cbw_device_detach(struct cbw_target *ct)
{
	struct cbw_device *dev = ct->dev;
	bool last, foreign;

	cbw_config_lock();
	spin_lock_irq(&dev->inst_lock);
	list_del(&ct->node);
	last = list_empty(&dev->instances);
	spin_unlock_irq(&dev->inst_lock);
	/*
	 * It was live and no other table of ours was resumed in its place: writes
	 * pass us by from now on, even if one of ours is loaded and waits.
	 */
	foreign = ct->live && rcu_access_pointer(dev->origin) == ct->origin;
	if (rcu_access_pointer(dev->origin) == ct->origin)
		cbw_origin_switch(dev, NULL);
	if (foreign && !last)
		cbw_device_source_gone(dev);
	if (last) {
		cbw_device_source_gone(dev);
		WRITE_ONCE(dev->gone, true);
		list_del(&dev->node);
	}
	if (foreign)
		cbw_event(CBW_EVENT_SOURCE_GONE, dev->devt, NULL, CBW_REASON_NONE);
	wake_up_all(&dev->waitq);
	cbw_config_unlock();
	if (foreign || last)
		cbw_container_end(dev);
	if (!last) {
		if (foreign)
			cbw_bitmaps_destroy(dev);
		cbw_device_put(dev);
		return;
	}

	/* Off the list: nobody finds it any more, but its snapshots. */
	cbw_bitmaps_destroy(dev);
	cbw_remap_exit(dev);
	cbw_config_lock();
	cbw_epoch_last(dev);
	cbw_config_unlock();
	wait_event(dev->waitq, cbw_released(dev, dev->seq));
	wait_event(dev->waitq, !atomic_read(&dev->copy_reads));
	cbw_container_free(dev);
	cbw_device_put(dev);
}

/**
 * cbw_device_foreign - is a table of somebody else's live in the source?
 * @dev: the device
 *
 * From the swap to another target's table until our dtor runs, writes pass us
 * by; dm does not tell us of the swap.  While our table is suspended, none do.  Asked
 * after a read of the origin has completed: if the answer is no, the read was
 * good.
 *
 * When another table is resumed, its first I/O runs before dm says that the device is not
 * suspended any more, and a file system may be thawed in between.  So wait until our
 * own resume answers the question, or for long enough: reads of a snapshot whose
 * source stays suspended go on, slowly.
 *
 * Process context; the source cannot be removed (a snapshot has it open).
 */
bool cbw_device_foreign(struct cbw_device *dev)
{
	unsigned int resumes = READ_ONCE(dev->resumes);
	struct cbw_target *ct;
	bool running = true;

	/* Pairs with cbw_postsuspend(). */
	if (!smp_load_acquire(&dev->suspended))
		return false;
	wait_event_timeout(dev->waitq, READ_ONCE(dev->resumes) != resumes ||
			   READ_ONCE(dev->gone), HZ);
	spin_lock_irq(&dev->inst_lock);
	ct = list_first_entry_or_null(&dev->instances, struct cbw_target, node);
	if (ct)
		running = !dm_suspended(ct->ti);
	spin_unlock_irq(&dev->inst_lock);
	/*
	 * Our preresume clears this before dm lets the device run, and counts: it may
	 * have been suspended again since.
	 */
	return running && smp_load_acquire(&dev->suspended) &&
	       READ_ONCE(dev->resumes) == resumes;
}

/* Is this block device a source, an origin, a store or a container of ours, but of @but? */
bool cbw_bdev_in_use(dev_t devt, const struct cbw_device *but, const char **what)
{
	struct cbw_device *dev;
	struct cbw_target *ct;
	struct cbw_snap *snap;
	bool origin = false, container = false;

	lockdep_assert_held(&cbw_config_mutex);
	*what = NULL;
	list_for_each_entry(dev, &cbw_devices, node) {
		if (dev == but)
			continue;
		if (dev->devt == devt)
			*what = "The store is a device with a cbw table";
		spin_lock_irq(&dev->inst_lock);
		list_for_each_entry(ct, &dev->instances, node)
			if (ct->dd->bdev->bd_dev == devt)
				origin = true;
			else if (ct->container && ct->container->bdev->bd_dev == devt)
				container = true;
		spin_unlock_irq(&dev->inst_lock);
		if (origin)
			*what = "The store is the origin of a device with a cbw table";
		if (container)
			*what = "The store is the container of a device with a cbw table";
	}
	list_for_each_entry(snap, &cbw_snaps, all_node) {
		if (snap->store_dev->bd_dev == devt)
			*what = "The store is in use by another snapshot";
		if (snap->devt == devt)
			*what = "The store is a snapshot";
	}
	return *what;
}
