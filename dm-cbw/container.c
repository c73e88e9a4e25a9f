// SPDX-License-Identifier: GPL-2.0-only
/*
 * The container of a device, from the delivery of its layout to its end.
 *
 *   attach	the layout comes; all bitmaps are written; then the device may be resumed
 *   suspend	nothing is done: what is on disk is enough at any time.  But if the end was
 *		announced, everything is written and the state says that it is clean
 *   resume	before the first write the state says that it is not
 *   failure	an error, or a write that takes too long: both slots of the state say that
 *		writes go by, if that can be written; then the writes that wait go on
 *   end	the last table of ours goes.  If that was not announced, the same
 */
#include "container.h"

#include <linux/slab.h>
#include <linux/sort.h>

static void container_free(struct kref *ref)
{
	struct cbw_container *c = container_of(ref, struct cbw_container, ref);

	cbw_room_destroy(c);
	kvfree(c->binding);
	if (c->dev)
		cbw_device_put(c->dev);
	kfree(c);
}

/* Any context: what is large was freed at the end. */
void cbw_container_put(struct cbw_container *c)
{
	kref_put(&c->ref, container_free);
}

/* Free all but the struct; nothing is in flight any more.  May sleep. */
static void container_release(struct cbw_container *c)
{
	/* Who merges or marks has seen by now that it has failed, or has no look at it. */
	down_write(&c->flip_sem);
	up_write(&c->flip_sem);
	cbw_intents_exit(c);
	cbw_checkpoint_exit(c);
	cbw_cbuf_put(c->fail_buf);
	kvfree(c->fail_state);
	bioset_exit(&c->fail_bios);
	bioset_exit(&c->bios);
}

/* ---- attach ------------------------------------------------------------------------ */

static struct cbw_container *container_new(const struct cbw_container_attach *cmd)
{
	struct cbw_container *c = kzalloc(sizeof(*c), GFP_KERNEL);

	if (!c)
		return NULL;
	kref_init(&c->ref);
	spin_lock_init(&c->lock);
	INIT_LIST_HEAD(&c->room);
	INIT_LIST_HEAD(&c->freed);
	INIT_LIST_HEAD(&c->freeing);
	cbw_intents_setup(c);
	cbw_checkpoint_setup(c);
	memcpy(c->id, cmd->id, sizeof(c->id));
	memcpy(c->boot_id, cmd->boot_id, sizeof(c->boot_id));
	c->generation = cmd->generation;
	c->policy = cmd->policy;
	c->timeout_ms = cmd->timeout_ms ? cmd->timeout_ms : CBW_CONTAINER_TIMEOUT_DEFAULT;
	/* Two parts for what is written, one to say that it has failed. */
	c->limit_ms = max(c->timeout_ms * 2 / 3, 1u);
	c->state_offset[0] = cmd->state_offset[0];
	c->state_offset[1] = cmd->state_offset[1];
	c->state_seq = cmd->state_seq;
	c->written = cmd->written;
	c->region_shift = cmd->region_shift - SECTOR_SHIFT;
	c->intent_offset[0] = cmd->intent_offset[0];
	c->intent_offset[1] = cmd->intent_offset[1];
	c->intent_blocks = cmd->intent_length / CBW_BLOCK;
	c->nr_regions = cmd->intent_length * 8;
	if (bioset_init(&c->bios, 2 * CBW_CBUF_BLOCKS, 0, BIOSET_NEED_BVECS))
		goto free;
	if (bioset_init(&c->fail_bios, 2, 0, BIOSET_NEED_BVECS)) {
		bioset_exit(&c->bios);
		goto free;
	}
	c->fail_buf = cbw_cbuf_alloc(c, &c->fail_bios, max(c->timeout_ms / 3, 1u));
	if (c->fail_buf)
		c->fail_buf->last_words = true;
	c->fail_state = kvzalloc(CBW_STATE_SLOT_SIZE, GFP_KERNEL);
	if (!c->fail_buf || !c->fail_state || cbw_intents_init(c) || cbw_checkpoint_init(c)) {
		container_release(c);
		goto free;
	}
	return c;
free:
	kfree(c);
	return NULL;
}

static int place_compare(const void *a, const void *b)
{
	const struct cbw_place *p = a, *q = b;

	return p->offset < q->offset ? -1 : p->offset > q->offset;
}

/* All of them aligned, within @size and apart from each other?  Sorts them. */
static int places_check(struct cbw_place *places, unsigned int nr, u64 size)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		if (!places[i].length || places[i].offset % CBW_BLOCK ||
		    places[i].length % CBW_BLOCK || places[i].length > size ||
		    places[i].offset > size - places[i].length)
			return -EINVAL;
	}
	sort(places, nr, sizeof(*places), place_compare, NULL);
	for (i = 1; i < nr; i++)
		if (places[i - 1].offset + places[i - 1].length > places[i].offset)
			return -EINVAL;
	return 0;
}

static int layout_check(const struct cbw_container_attach *cmd, const struct cbw_layout *layout,
			u64 size)
{
	struct cbw_place *all;
	unsigned int nr = 0, i;
	int r;

	all = kvcalloc(4 + cmd->nr_bitmaps + cmd->nr_places, sizeof(*all), GFP_KERNEL);
	if (!all)
		return -ENOMEM;
	for (i = 0; i < 2; i++) {
		all[nr++] = (struct cbw_place){ cmd->state_offset[i], CBW_STATE_SLOT_SIZE };
		all[nr++] = (struct cbw_place){ cmd->intent_offset[i], cmd->intent_length };
	}
	for (i = 0; i < cmd->nr_bitmaps; i++)
		all[nr++] = layout->bitmaps[i].place;
	for (i = 0; i < cmd->nr_places; i++)
		all[nr++] = layout->places[i];
	r = places_check(all, nr, size);
	kvfree(all);
	return r;
}

/* Is there a table with this container, and none that is live? */
static struct cbw_target *find_instance(struct cbw_device *dev, dev_t devt, bool *live)
{
	struct cbw_target *ct, *found = NULL;

	lockdep_assert_held(&cbw_config_mutex);
	*live = false;
	spin_lock_irq(&dev->inst_lock);
	list_for_each_entry(ct, &dev->instances, node) {
		*live |= ct->live;
		if (ct->container && ct->container->bdev->bd_dev == devt)
			found = ct;
	}
	spin_unlock_irq(&dev->inst_lock);
	return found;
}

static void bitmaps_unplace(struct cbw_device *dev)
{
	struct cbw_bitmap *b;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(b, &dev->bitmaps, node) {
		cbw_disk_put(b->cur.disk);
		b->cur.disk = NULL;
	}
}

/* Those that the layout names are where it says, the others get a place. */
static int bitmaps_place(struct cbw_container *c, const struct cbw_container_attach *cmd,
			 const struct cbw_layout *layout)
{
	struct cbw_bitmap *b;
	unsigned int i;

	lockdep_assert_held(&cbw_config_mutex);
	for (i = 0; i < cmd->nr_bitmaps; i++) {
		struct cbw_disk *disk;

		b = cbw_bitmap_find(c->dev, layout->names[i]);
		if (!b || b->transient || b->cur.disk ||
		    b->cur.active->bytes > layout->bitmaps[i].place.length)
			return -EINVAL;
		disk = cbw_disk_at(c, &layout->bitmaps[i].place);
		if (IS_ERR(disk))
			return PTR_ERR(disk);
		b->cur.disk = disk;
	}
	list_for_each_entry(b, &c->dev->bitmaps, node) {
		struct cbw_disk *disk;

		if (b->transient)
			continue;
		if (!b->cur.disk) {
			disk = cbw_disk_alloc(c, b->cur.active->bytes);
			if (IS_ERR(disk))
				return PTR_ERR(disk);
			b->cur.disk = disk;
		}
		cbw_bits_persist(b->cur.active, true);
		if (b->cur.frozen)
			cbw_bits_persist(b->cur.frozen, true);
	}
	return cbw_state_length(c, 0) > CBW_STATE_SLOT_SIZE ? -ENOSPC : 0;
}

/* Under the mutex: the device has the container, but nothing is there yet. */
static int container_install(struct cbw_container *c, const struct cbw_container_attach *cmd,
			     const struct cbw_layout *layout, dev_t devt, dev_t container)
{
	struct cbw_device *dev = cbw_device_find(devt);
	struct cbw_target *ct;
	bool live;
	int r;

	if (!dev)
		return -ENODEV;
	ct = find_instance(dev, container, &live);
	if (!ct)
		return -ENODEV;
	if (live || dev->container)
		return -EBUSY;
	if (dev->len > (c->nr_regions << c->region_shift))
		return -EINVAL;
	r = layout_check(cmd, layout, bdev_nr_bytes(ct->container->bdev));
	if (r)
		return r;
	c->dev = cbw_device_get(dev);
	c->bdev = ct->container->bdev;
	r = bitmaps_place(c, cmd, layout);
	if (r) {
		bitmaps_unplace(dev);
		return r;
	}
	dev->container = cbw_container_get(c);
	dev->attaching = true;
	return 0;
}

/* All is on disk: from now on writes look for intents. */
static int container_publish(struct cbw_container *c)
{
	struct cbw_device *dev = c->dev;
	LIST_HEAD(devs);
	int r = 0;

	cbw_config_lock();
	if (dev->gone || dev->container != c)
		r = -ENODEV;
	else
		r = cbw_epoch_pair_alloc(&dev->txn_pair);
	if (!r) {
		c->ready = true;
		list_add(&dev->txn_node, &devs);
		cbw_publish(&devs);
		list_del_init(&dev->txn_node);
	}
	cbw_config_unlock();
	return r;
}

static void container_uninstall(struct cbw_container *c)
{
	cbw_config_lock();
	if (c->dev->container == c) {
		c->dev->container = NULL;
		bitmaps_unplace(c->dev);
		cbw_container_put(c);
	}
	cbw_config_unlock();
}

/* Stop all work and I/O.  May sleep, as long as the container takes for its I/O. */
static void container_stop(struct cbw_container *c)
{
	cbw_container_over(c, true);
	cancel_work_sync(&c->intent_work);
	cancel_delayed_work_sync(&c->cp_work);
	/* Once more: what came while they were ending. */
	cbw_intents_release(c);
	wait_event(c->waitq, !atomic_read(&c->inflight));
}

/* Done, or not: the device's last table may go. */
static void attached(struct cbw_container *c)
{
	cbw_config_lock();
	WRITE_ONCE(c->dev->attaching, false);
	cbw_config_unlock();
	wake_up_all(&c->dev->waitq);
}

/**
 * cbw_container_attach - deliver the layout of a container
 * @cmd: the call, its numbers checked
 * @layout: what it points to; the binding becomes the container's
 * @devt: the device
 * @container: the block device
 *
 * May sleep, no lock held.  Errors as in the UAPI header.
 */
int cbw_container_attach(const struct cbw_container_attach *cmd, struct cbw_layout *layout,
			 dev_t devt, dev_t container)
{
	struct cbw_container *c = container_new(cmd);
	unsigned int i;
	int r = 0;

	if (!c)
		return -ENOMEM;
	swap(c->binding, layout->binding);
	c->binding_len = cmd->binding_len;
	for (i = 0; i < cmd->nr_places && !r; i++)
		r = cbw_room_add(c, layout->places[i].offset, layout->places[i].length);
	cbw_config_lock();
	if (!r)
		r = container_install(c, cmd, layout, devt, container);
	cbw_config_unlock();
	if (r)
		goto free;
	r = cbw_checkpoint_now(c, 0);
	if (!r)
		r = cbw_intents_wipe(c);
	if (!r)
		r = container_publish(c);
	if (!r) {
		attached(c);
		cbw_container_put(c);
		return 0;
	}
	container_uninstall(c);
	container_stop(c);
	attached(c);
free:
	container_release(c);
	cbw_container_put(c);
	return r;
}

/* ---- suspend, resume, end ------------------------------------------------------------ */

/*
 * Did somebody write after user space has looked, and before the device could have this table?
 * No bitmap has that.  Nothing is in flight now, so the count is exact.
 */
static void check_slip(struct cbw_container *c)
{
	u64 written = cbw_device_written(c->dev);
	struct cbw_bitmap *b;

	lockdep_assert_held(&cbw_config_mutex);
	if (written == c->written || !cbw_cured(24))
		return;
	DMWARN("%u:%u: written to while it was attached (%llu sectors, and %llu now): its bitmaps have no base any more, and all is dirty in them",
	       MAJOR(c->dev->devt), MINOR(c->dev->devt), c->written, written);
	c->slipped = true;
	list_for_each_entry(b, &c->dev->bitmaps, node) {
		if (!b->cur.disk || !b->cur.enabled)
			continue;
		memset(&b->cur.base, 0, sizeof(b->cur.base));
		/* Also for a cut that was made already: that will be its base. */
		cbw_bits_mark_run(b->cur.active, 0, b->cur.active->len);
	}
}

/*
 * Has it failed before it was live?  Then nothing was missing there, so nothing was said; now
 * there will be.
 */
static void check_failed(struct cbw_container *c)
{
	/* Pairs with cbw_container_fail(): it sees that it is live, or we see it fail. */
	smp_mb();
	if (!atomic_read(&c->failing) || !cbw_cured(32))
		return;
	/* From then on nobody else uses its memory. */
	wait_event(c->waitq, READ_ONCE(c->failed));
	if (c->told)
		return;
	if (cbw_container_untracked(c))
		DMERR("%u:%u: the container cannot be told that it has failed: do not trust it after a crash",
		      MAJOR(c->dev->devt), MINOR(c->dev->devt));
	cbw_container_tell(c);
}

/**
 * cbw_container_resume - the device is about to be resumed
 * @dev: the device, with the layout of its container
 *
 * May sleep.  The state says that it is in use before the first write can pass.
 */
void cbw_container_resume(struct cbw_device *dev)
{
	struct cbw_container *c;
	bool first;

	cbw_config_lock();
	c = dev->container;
	c->stopping = false;
	first = !c->live;
	if (first)
		check_slip(c);
	cbw_config_unlock();
	WRITE_ONCE(c->live, true);
	if (first)
		check_failed(c);
	if (c->no_room)
		cbw_container_fail(c, -ENOSPC);
	/*
	 * Whatever else has changed is covered by intents, but not what has slipped by; and the
	 * state says that writes pass before the first one does.
	 */
	if (READ_ONCE(c->clean) || c->resized || first)
		cbw_checkpoint_now(c, CBW_CP_UNCLEAN);
	c->resized = false;
}

/* It is suspended: if its end was announced, bring it to its end.  May sleep. */
void cbw_container_suspended(struct cbw_device *dev)
{
	struct cbw_container *c;
	bool stopping;

	cbw_config_lock();
	c = dev->container;
	stopping = c && c->ready && c->stopping;
	if (stopping)
		c->written = cbw_device_written(dev);
	cbw_config_unlock();
	if (stopping)
		cbw_checkpoint_now(c, CBW_CP_FLIP | CBW_CP_ALL | CBW_CP_CLEAN);
}

/**
 * cbw_container_end - writes pass the device by from now on, or soon will
 * @dev: the device; no write is in flight in it
 *
 * May sleep.  Whatever has not been announced is said on disk: bitmaps that were not
 * complete any more would be trusted else.
 */
void cbw_container_end(struct cbw_device *dev)
{
	struct cbw_container *c;
	int r = -EIO;

	/* Who attaches sees that the device is gone. */
	wait_event(dev->waitq, !READ_ONCE(dev->attaching));
	c = dev->container;
	if (!c)
		return;
	/*
	 * Never resumed: nothing was written through it, so nothing is missing that was not
	 * when user space looked.  What was written since shows in the count.
	 */
	if (!c->live)
		cbw_checkpoint_last(c, CBW_CP_CLEAN);
	else if (READ_ONCE(c->clean))
		/* What came after the stop, and waits to be acknowledged. */
		r = cbw_cured(26) ? cbw_checkpoint_last(c, 0) : 0;
	if (c->live && r && (!c->clean || cbw_cured(31))) {
		/*
		 * Somebody may just be saying that it has failed.  And if it has, it may be
		 * better by now.
		 */
		wait_event(c->waitq, !atomic_xchg(&c->failing, 1) || READ_ONCE(c->failed));
		if (!c->told && cbw_container_untracked(c))
			DMERR("%u:%u: removed without notice, and the container cannot be told so: do not trust it",
			      MAJOR(dev->devt), MINOR(dev->devt));
	}
	container_stop(c);
}

/* Nothing refers to it any more but for its memory.  After cbw_container_end(). */
void cbw_container_free(struct cbw_device *dev)
{
	struct cbw_container *c;

	cbw_config_lock();
	c = dev->container;
	dev->container = NULL;
	cbw_config_unlock();
	if (!c)
		return;
	container_release(c);
	cbw_container_put(c);
}

/* The device has another size: do its bitmaps still fit where they are? */
void cbw_container_resized(struct cbw_device *dev)
{
	struct cbw_container *c = dev->container;
	struct cbw_bitmap *b;
	int r = 0;

	lockdep_assert_held(&cbw_config_mutex);
	if (!c || READ_ONCE(c->failed))
		return;
	if (dev->len > (c->nr_regions << c->region_shift))
		r = -ENOSPC;
	list_for_each_entry(b, &dev->bitmaps, node) {
		if (!r && b->cur.disk &&
		    b->cur.active->bytes > b->cur.disk->room->place.length)
			r = cbw_disk_move(b->cur.disk, b->cur.active->bytes);
	}
	c->resized = true;
	if (r)
		c->no_room = true;
}

/* ---- calls ------------------------------------------------------------------------- */

/* The container of a device, a reference; or NULL. */
struct cbw_container *cbw_container_find(dev_t devt)
{
	struct cbw_device *dev;
	struct cbw_container *c;

	cbw_config_lock();
	dev = cbw_device_find(devt);
	c = dev ? dev->container : NULL;
	if (c && c->ready)
		cbw_container_get(c);
	else
		c = NULL;
	cbw_config_unlock();
	return c;
}

/* The container that writes have to look at; NULL: none. */
struct cbw_container *cbw_container_live(struct cbw_device *dev)
{
	struct cbw_container *c = dev->container;

	lockdep_assert_held(&cbw_config_mutex);
	return c && c->ready && !READ_ONCE(c->failed) ? c : NULL;
}

/* Is there one whose layout is being delivered? */
bool cbw_container_coming(struct cbw_device *dev)
{
	lockdep_assert_held(&cbw_config_mutex);
	return dev->container && !dev->container->ready;
}

/* The same, a reference, for who changes what has to be written before it is acknowledged. */
struct cbw_container *cbw_container_sync_begin(struct cbw_device *dev)
{
	struct cbw_container *c = cbw_container_live(dev);

	return c ? cbw_container_get(c) : NULL;
}

/**
 * cbw_container_sync - wait until what has been changed is durable
 * @c: what cbw_container_sync_begin() gave; the reference goes
 *
 * May sleep.  Returns 0, -EINTR when killed, or -EIO: see cbw_container_wait().
 */
int cbw_container_sync(struct cbw_container *c)
{
	int r = 0;

	if (!c)
		return 0;
	if (cbw_cured(20))
		r = cbw_container_wait(c, cbw_container_kick(c, false));
	cbw_container_put(c);
	return r;
}

/* The same after what may have failed, with @err: then there is nothing to wait for. */
int cbw_container_sync_end(struct cbw_container *c, int err)
{
	if (!err)
		return cbw_container_sync(c);
	if (c)
		cbw_container_put(c);
	return err;
}

/* Is the layout there? */
bool cbw_container_ready(struct cbw_device *dev)
{
	bool ready;

	cbw_config_lock();
	ready = dev->container && dev->container->ready;
	cbw_config_unlock();
	return ready;
}

/* May a table of the device have its container on @bdev?  NULL: without one */
bool cbw_container_fits(const struct cbw_device *dev, const struct block_device *bdev)
{
	lockdep_assert_held(&cbw_config_mutex);
	return !dev->container || dev->container->bdev == bdev;
}

/**
 * cbw_container_announce - the device's end is near, or not
 * @c: the container
 * @binding: what tells the volume then; becomes the container's, NULL: it is not near
 * @len: its bytes
 *
 * May sleep.  Returns 0, -ENOSPC, -EINTR, or -EIO: the end was faster.
 */
int cbw_container_announce(struct cbw_container *c, void **binding, u32 len)
{
	int r = 0;

	cbw_config_lock();
	if (!binding) {
		c->stopping = false;
	} else if (cbw_state_length(c, 0) - ALIGN(c->binding_len, 8) + ALIGN(len, 8) >
		   CBW_STATE_SLOT_SIZE) {
		r = -ENOSPC;
	} else {
		swap(c->binding, *binding);
		c->binding_len = len;
		c->stopping = true;
	}
	cbw_config_unlock();
	if (r || !binding)
		return r;
	return cbw_container_wait(c, cbw_container_kick(c, true));
}

/* More room.  May sleep. */
int cbw_container_grow(struct cbw_container *c, const struct cbw_container_grow *cmd,
		       struct cbw_layout *layout)
{
	unsigned int i;
	int r;

	/* That they are apart from those it has is for the caller to know. */
	r = places_check(layout->places, cmd->nr_places, bdev_nr_bytes(c->bdev));
	for (i = 0; i < cmd->nr_places && !r; i++)
		r = cbw_room_add(c, layout->places[i].offset, layout->places[i].length);
	return r;
}

void cbw_container_info(struct cbw_container *c, struct cbw_container_info *cmd)
{
	lockdep_assert_held(&cbw_config_mutex);
	cmd->out_container.major = MAJOR(c->bdev->bd_dev);
	cmd->out_container.minor = MINOR(c->bdev->bd_dev);
	memcpy(cmd->out_id, c->id, sizeof(cmd->out_id));
	cmd->out_generation = c->generation;
	cmd->out_state_seq = READ_ONCE(c->state_seq);
	cmd->out_flags = (READ_ONCE(c->failed) ? CBW_CONTAINER_FAILED : 0) |
			 (READ_ONCE(c->stopping) ? CBW_CONTAINER_STOPPING : 0) |
			 (c->slipped ? CBW_CONTAINER_SLIPPED : 0);
	cmd->out_region_shift = c->region_shift + SECTOR_SHIFT;
	cmd->out_regions = cbw_intents_count(c);
	cmd->out_intent_writes = atomic64_read(&c->intent_writes);
	cmd->out_intent_held = atomic64_read(&c->intent_held);
	cmd->out_checkpoints = atomic64_read(&c->checkpoints);
	cmd->out_pages = atomic64_read(&c->pages);
	cmd->out_free = cbw_room_free(c);
}
