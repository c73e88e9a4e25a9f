// SPDX-License-Identifier: GPL-2.0-only
/*
 * A table of another size.
 *
 * Loading it allocates: the old table is live meanwhile, and the new one may be thrown
 * away.  Resuming it puts every recording half into memory of the new size and publishes.
 * No write is in flight then, but workers may be merging into what has recorded: they go
 * on, since they may have to wait for another device, and when they have ended the new
 * memory gets what they added.
 *
 *   growth	what is new is dirty in every bitmap, whether it records or not
 *   shrinking	what was behind the new end is forgotten.  Snapshots fail: what they
 *		have not preserved there may be gone
 *
 * A frozen half stays as large as the device was at its cut, as do snapshots.
 */
#include "cbw.h"

#include <linux/slab.h>

/* Does the table change the size? */
static bool resize_needed(const struct cbw_device *dev, const struct cbw_target *ct)
{
	lockdep_assert_held(&cbw_config_mutex);
	return dev->len != ct->ti->len;
}

/**
 * cbw_resize_alloc - memory for the case that the table is resumed
 * @dev: the device
 * @ct: the instance, being loaded
 *
 * May sleep, no lock held.  Returns 0 or -ENOMEM; cbw_resize_free() frees what was
 * allocated.
 */
int cbw_resize_alloc(struct cbw_device *dev, struct cbw_target *ct)
{
	unsigned int *shifts, nr = 0, i;
	struct cbw_bitmap *b;
	bool needed;
	int r = 0;

	shifts = kcalloc(CBW_BITMAPS_MAX, sizeof(*shifts), GFP_KERNEL);
	if (!shifts)
		return -ENOMEM;
	cbw_config_lock();
	needed = resize_needed(dev, ct);
	list_for_each_entry(b, &dev->bitmaps, node)
		shifts[nr++] = b->cur.active->shift;
	cbw_config_unlock();
	if (!needed)
		goto out;
	r = cbw_epoch_pair_alloc(&ct->resize_pair);
	for (i = 0; i < nr && !r; i++) {
		struct cbw_bits *bits = cbw_bits_alloc(ct->ti->len, shifts[i]);

		if (bits)
			ct->resize_bits[ct->nr_resize_bits++] = bits;
		else
			r = -ENOMEM;
	}
	/* What has to be had comes first. */
	for (i = 0; i < ct->nr_resize_bits && !r; i++)
		cbw_discards_prepare(dev, ct->resize_bits[i]);
out:
	kfree(shifts);
	return r;
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

/*
 * Allocate what is missing, so that nothing can fail after it: as many as there are
 * bitmaps, each of its granularity, in their order; and what has still to be merged.
 */
static int resize_prepare(struct cbw_device *dev, struct cbw_target *ct,
			  struct cbw_bits **fresh, struct cbw_merges **merges)
{
	struct cbw_bitmap *b;
	unsigned int n = 0;
	int r = 0;

	if (!ct->resize_pair.next && cbw_epoch_pair_alloc(&ct->resize_pair))
		return -ENOMEM;
	list_for_each_entry(b, &dev->bitmaps, node) {
		struct cbw_bits *old = b->cur.active;

		fresh[n] = resize_bits(ct, old->shift);
		if (!fresh[n]) {
			r = -ENOMEM;
			break;
		}
		n++;
		if (!cbw_bits_merged(old))
			r = cbw_merges_add(merges, dev, fresh[n - 1], dev, old, true,
					   true);
		if (r)
			break;
	}
	if (!r) {
		/* Mostly that was done at the load; and what has to be had comes first. */
		while (n)
			cbw_discards_prepare(dev, fresh[--n]);
		return 0;
	}
	cbw_merges_drop(*merges);
	*merges = NULL;
	/* For the next try. */
	while (n) {
		if (ct->nr_resize_bits < CBW_BITMAPS_MAX)
			ct->resize_bits[ct->nr_resize_bits++] = fresh[--n];
		else
			cbw_bits_put(fresh[--n]);
	}
	return r;
}

static void resize_do(struct cbw_device *dev, struct cbw_target *ct, struct cbw_bits **fresh,
		      struct cbw_merges *merges)
{
	bool shrinks = ct->ti->len < dev->len;
	struct cbw_bitmap *b;
	struct cbw_snap *snap;
	LIST_HEAD(devs);

	list_for_each_entry(b, &dev->bitmaps, node) {
		if (b->cur.disk)
			cbw_bits_persist(*fresh, true);
		/* Who merges into it waits for the rest. */
		if (!cbw_bits_merged(b->cur.active))
			b->cur.active->successor = cbw_bits_get(*fresh);
		cbw_bits_resize(*fresh, b->cur.active);
		swap(b->cur.active, *fresh);
		fresh++;
	}
	dev->len = ct->ti->len;
	cbw_container_resized(dev);
	list_for_each_entry(snap, &dev->snaps, node)
		if (shrinks && snap->start_seq)
			cbw_snap_break(snap, CBW_REASON_SOURCE_RESIZED);
	cbw_merges_begin(merges);
	dev->txn_pair = ct->resize_pair;
	ct->resize_pair.next = NULL;
	ct->resize_pair.hold = NULL;
	list_add(&dev->txn_node, &devs);
	/* Also without bitmaps: the epoch may mark some that are gone, of the old size. */
	cbw_publish(&devs);
	list_del_init(&dev->txn_node);
}

/**
 * cbw_resize - the table is about to be resumed: give the device its size
 * @dev: the device; it is suspended
 * @ct: the instance
 *
 * May sleep, but waits for nobody.  Returns 0 or -ENOMEM, and then nothing has changed.
 */
int cbw_resize(struct cbw_device *dev, struct cbw_target *ct)
{
	struct cbw_merges *merges = NULL;
	struct cbw_bits **fresh;
	unsigned int i, nr = dev->nr_bitmaps;
	int r;

	lockdep_assert_held(&cbw_config_mutex);
	if (!resize_needed(dev, ct)) {
		/* It was when it was loaded. */
		cbw_resize_free(ct);
		return 0;
	}
	fresh = kcalloc(nr + 1, sizeof(*fresh), GFP_KERNEL | __GFP_RETRY_MAYFAIL);
	r = fresh ? resize_prepare(dev, ct, fresh, &merges) : -ENOMEM;
	if (r) {
		DMERR("%s: no memory for bitmaps of the new size", dm_device_name(dev->md));
		kfree(fresh);
		return r;
	}
	resize_do(dev, ct, fresh, merges);
	cbw_merges_forget(merges);
	for (i = 0; i < nr; i++)
		cbw_bits_put(fresh[i]);
	kfree(fresh);
	cbw_resize_free(ct);
	cbw_event(CBW_EVENT_SOURCE_RESIZED, dev->devt, NULL, CBW_REASON_NONE);
	return 0;
}
