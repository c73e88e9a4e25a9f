// SPDX-License-Identifier: GPL-2.0-only
/*
 * A table of another size.
 *
 * Loading it allocates: the old table is live meanwhile, and the new one may be thrown
 * away.  Resuming it puts every recording half into memory of the new size and publishes.
 * No write is in flight then, but workers may be merging into what records: they are
 * waited for.
 *
 *   growth	what is new is dirty in every bitmap, whether it records or not
 *   shrinking	what was behind the new end is forgotten.  Snapshots fail: what they
 *		have not preserved there may be gone
 *
 * A frozen half stays as large as the device was at its cut, as do snapshots.
 */
#include "cbw.h"

#include <linux/slab.h>

/* Is the table of another size than the device, and does that concern anybody? */
static bool resize_needed(const struct cbw_device *dev, const struct cbw_target *ct)
{
	lockdep_assert_held(&cbw_config_mutex);
	return dev->len != ct->ti->len &&
	       (!list_empty(&dev->bitmaps) || !list_empty(&dev->snaps));
}

/**
 * cbw_resize_alloc - memory for the case that the table is resumed
 * @dev: the device
 * @ct: the instance
 *
 * May sleep.  Returns 0 or -ENOMEM; cbw_resize_free() frees what was allocated.
 */
int cbw_resize_alloc(struct cbw_device *dev, struct cbw_target *ct)
{
	struct cbw_bitmap *b;

	lockdep_assert_held(&cbw_config_mutex);
	if (!resize_needed(dev, ct))
		return 0;
	if (cbw_epoch_pair_alloc(&ct->resize_pair))
		return -ENOMEM;
	list_for_each_entry(b, &dev->bitmaps, node) {
		struct cbw_bits *bits = cbw_bits_alloc(ct->ti->len, b->cur.active->shift);

		if (!bits)
			return -ENOMEM;
		ct->resize_bits[ct->nr_resize_bits++] = bits;
	}
	return 0;
}

/* May sleep; nobody else has the instance. */
void cbw_resize_free(struct cbw_target *ct)
{
	while (ct->nr_resize_bits)
		cbw_bits_put(ct->resize_bits[--ct->nr_resize_bits]);
	cbw_epoch_pair_free(&ct->resize_pair);
}

/* Empty memory of the new size for a bitmap; there may be others than at the load. */
static struct cbw_bits *resize_bits(struct cbw_target *ct, unsigned int shift)
{
	struct cbw_bits *bits;
	unsigned int i;

	for (i = 0; i < ct->nr_resize_bits; i++) {
		bits = ct->resize_bits[i];
		if (bits->shift != shift)
			continue;
		ct->resize_bits[i] = ct->resize_bits[--ct->nr_resize_bits];
		return bits;
	}
	return cbw_bits_alloc(ct->ti->len, shift);
}

/* A bitmap that is being merged into, its memory, a reference; or NULL. */
static struct cbw_bits *unsettled(struct cbw_device *dev, struct cbw_bitmap **aborting)
{
	struct cbw_bitmap *b;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(b, &dev->bitmaps, node) {
		if (!b->aborting && cbw_bits_merged(b->cur.active))
			continue;
		*aborting = b->aborting ? b : NULL;
		if (b->aborting)
			kref_get(&b->ref);
		return cbw_bits_get(b->cur.active);
	}
	return NULL;
}

/* Takes the mutex when nothing is merged any more.  Returns 0 or -EINTR without it. */
static int lock_settled(struct cbw_device *dev)
{
	struct cbw_bitmap *aborting;
	struct cbw_bits *bits;
	int r = 0;

	for (;;) {
		cbw_config_lock();
		bits = unsettled(dev, &aborting);
		if (!bits)
			return 0;
		cbw_config_unlock();
		if (aborting)
			r = cbw_bitmap_abort_wait(aborting);
		else if (wait_event_killable(dev->waitq, cbw_bits_merged(bits)))
			r = -EINTR;
		cbw_bits_put(bits);
		if (r)
			return r;
	}
}

/*
 * Allocate what is missing, so that nothing can fail after it: as many as there are
 * bitmaps, each of its granularity, in their order.
 */
static int resize_prepare(struct cbw_device *dev, struct cbw_target *ct,
			  struct cbw_bits **fresh)
{
	struct cbw_bitmap *b;
	unsigned int n = 0;

	if (!ct->resize_pair.next && cbw_epoch_pair_alloc(&ct->resize_pair))
		return -ENOMEM;
	list_for_each_entry(b, &dev->bitmaps, node) {
		fresh[n] = resize_bits(ct, b->cur.active->shift);
		if (fresh[n]) {
			n++;
			continue;
		}
		while (n)
			cbw_bits_put(fresh[--n]);
		return -ENOMEM;
	}
	return 0;
}

static void resize_do(struct cbw_device *dev, struct cbw_target *ct, struct cbw_bits **fresh)
{
	bool shrinks = ct->ti->len < dev->len;
	struct cbw_bitmap *b;
	struct cbw_snap *snap;
	LIST_HEAD(devs);

	list_for_each_entry(b, &dev->bitmaps, node) {
		cbw_bits_resize(*fresh, b->cur.active);
		swap(b->cur.active, *fresh);
		fresh++;
	}
	dev->len = ct->ti->len;
	list_for_each_entry(snap, &dev->snaps, node)
		if (shrinks && snap->start_seq)
			cbw_snap_break(snap, CBW_REASON_SOURCE_RESIZED);
	dev->txn_pair = ct->resize_pair;
	ct->resize_pair.next = NULL;
	ct->resize_pair.hold = NULL;
	list_add(&dev->txn_node, &devs);
	cbw_publish(&devs);
	list_del_init(&dev->txn_node);
}

/**
 * cbw_resize_lock - the table is about to be resumed: give the device its size
 * @dev: the device; it is suspended
 * @ct: the instance
 *
 * Takes cbw_config_mutex, also on failure.  May sleep.  Returns 0, -ENOMEM or -EINTR, and
 * then nothing has changed.
 */
int cbw_resize_lock(struct cbw_device *dev, struct cbw_target *ct)
{
	struct cbw_bits **fresh;
	unsigned int i, nr;
	int r;

	cbw_config_lock();
	/* Only a resume changes the size, and dm has one at a time. */
	if (!resize_needed(dev, ct)) {
		dev->len = ct->ti->len;
		return 0;
	}
	cbw_config_unlock();
	r = lock_settled(dev);
	if (r) {
		cbw_config_lock();
		return r;
	}
	nr = dev->nr_bitmaps;
	fresh = kcalloc(nr + 1, sizeof(*fresh), GFP_KERNEL);
	r = fresh ? resize_prepare(dev, ct, fresh) : -ENOMEM;
	if (r) {
		DMERR("%s: no memory for bitmaps of the new size", dm_device_name(dev->md));
		goto out;
	}
	resize_do(dev, ct, fresh);
	for (i = 0; i < nr; i++)
		cbw_bits_put(fresh[i]);
	cbw_event(CBW_EVENT_SOURCE_RESIZED, dev->devt, NULL, CBW_REASON_NONE);
out:
	kfree(fresh);
	cbw_resize_free(ct);
	return r;
}
