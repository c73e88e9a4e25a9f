// SPDX-License-Identifier: GPL-2.0-only
/*
 * Epochs: what a write must do, published by RCU.
 *
 * The life of an epoch:
 *
 *   built	by a transaction, under cbw_config_mutex, from the device's bitmaps
 *		and snapshots; the memory was allocated before
 *   current	dev->epoch points to it; writes take it under RCU and get its ref
 *   old	another one was published and its ref was killed; writes that got
 *		it are still in flight
 *   released	it has drained, and so have all older ones; freed
 *
 * "Old" is not enough for those who must know that no earlier write is still
 * in flight: an older epoch may have a write in flight that is slower than all
 * of this one's.  So each epoch pins its successor until it has itself been
 * released, and releases happen in the order of publication.
 */
#include "cbw.h"

#include <linux/slab.h>

static void epoch_release(struct percpu_ref *ref)
{
	struct cbw_epoch *e = container_of(ref, struct cbw_epoch, ref);

	queue_work(cbw_wq, &e->release_work);
}

static void epoch_drop_contents(struct cbw_epoch *e)
{
	while (e->nr_marks)
		cbw_bits_put(e->marks[--e->nr_marks].bits);
	while (e->nr_snaps)
		cbw_snap_put(e->snaps[--e->nr_snaps]);
}

/*
 * The last ref of the epoch is gone: it was killed after it was unpublished,
 * the grace period of the kill has passed, every write under it has ended and
 * its predecessor has been released.  Nobody can mark its bitmaps any more.
 */
static void epoch_release_work(struct work_struct *work)
{
	struct cbw_epoch *e = container_of(work, struct cbw_epoch, release_work);
	struct cbw_device *dev = e->dev;
	struct cbw_epoch *next = e->next;
	unsigned int i;

	/* Pairs with cbw_released(). */
	smp_store_release(&dev->released_seq, e->seq);
	wake_up_all(&dev->waitq);
	if (next) {
		for (i = 0; i < next->nr_snaps; i++)
			if (next->snaps[i]->start_seq == next->seq)
				cbw_snap_ready(next->snaps[i]);
		percpu_ref_put(&next->ref);
	}
	epoch_drop_contents(e);
	percpu_ref_exit(&e->ref);
	kfree(e);
	cbw_device_put(dev);
}

/**
 * cbw_epoch_pair_alloc - allocate all that a publication needs
 * @pair: to be filled in
 *
 * May sleep.  Returns 0 or -ENOMEM.
 */
int cbw_epoch_pair_alloc(struct cbw_epoch_pair *pair)
{
	pair->next = kzalloc(sizeof(*pair->next), GFP_KERNEL);
	pair->hold = kzalloc(sizeof(*pair->hold), GFP_KERNEL);
	if (!pair->next || !pair->hold)
		goto fail;
	if (percpu_ref_init(&pair->next->ref, epoch_release, 0, GFP_KERNEL))
		goto fail;
	INIT_WORK(&pair->next->release_work, epoch_release_work);
	pair->hold->slow = CBW_SLOW_GATE;
	return 0;

fail:
	kfree(pair->hold);
	kfree(pair->next);
	pair->hold = NULL;
	pair->next = NULL;
	return -ENOMEM;
}

/* Free what was not published.  May sleep. */
void cbw_epoch_pair_free(struct cbw_epoch_pair *pair)
{
	if (pair->next)
		percpu_ref_exit(&pair->next->ref);
	kfree(pair->next);
	kfree(pair->hold);
	pair->next = NULL;
	pair->hold = NULL;
}

/* The path of a write computes a granule once for neighbours of one granularity. */
static void epoch_add_bits(struct cbw_epoch *e, struct cbw_bits *bits)
{
	unsigned int i = e->nr_marks++;

	for (; i && e->marks[i - 1].shift > bits->shift; i--)
		e->marks[i] = e->marks[i - 1];
	e->marks[i].bits = cbw_bits_get(bits);
	e->marks[i].words = bits->words;
	e->marks[i].shift = bits->shift;
}

static void epoch_group_bits(struct cbw_epoch *e)
{
	struct cbw_mark *m = e->marks, *stop = m + e->nr_marks, *first;

	while (m < stop) {
		for (first = m; m < stop && m->shift == first->shift; m++)
			;
		first->end = m;
	}
	stop->end = NULL;
}

/* Describe the device as it is, with what a transaction has staged. */
static void epoch_build(struct cbw_device *dev, struct cbw_epoch *e)
{
	struct cbw_bitmap *b;
	struct cbw_snap *snap;

	lockdep_assert_held(&cbw_config_mutex);
	e->dev = cbw_device_get(dev);
	e->seq = ++dev->seq;
	list_for_each_entry(b, &dev->bitmaps, node) {
		struct cbw_bitmap_state *s = b->staged ? &b->next : &b->cur;

		if (s->present && s->enabled)
			epoch_add_bits(e, s->active);
	}
	epoch_group_bits(e);
	e->container = cbw_container_live(dev);
	e->planes = e->nr_marks && atomic_read(&dev->discards_seen);
	list_for_each_entry(snap, &dev->snaps, node) {
		if (!snap->start_seq && list_empty(&snap->txn_node))
			continue;
		if (READ_ONCE(snap->over))
			continue;
		if (!snap->start_seq)
			snap->start_seq = e->seq;
		e->snaps[e->nr_snaps++] = cbw_snap_get(snap);
	}
}

/**
 * cbw_publish - publish new epochs on several devices at one instant
 * @devs: devices by txn_node, each with its txn_pair allocated
 *
 * Cannot fail.  Shut every gate, publish every epoch, which opens the gate, and let go
 * what was parked.  A write that depends on one acknowledged under a
 * new epoch was issued after all gates were shut, so it meets a shut gate or a new
 * epoch, on whichever device.  Nothing is drained: a write in flight was not
 * acknowledged.  Preemption is off in between, so the stall is that of a few stores.
 *
 * Process context, cbw_config_mutex held.
 */
void cbw_publish(struct list_head *devs)
{
	struct cbw_device *dev;
	struct cbw_epoch *old;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(dev, devs, txn_node) {
		struct cbw_epoch *next = dev->txn_pair.next;

		old = rcu_dereference_protected(dev->epoch,
						lockdep_is_held(&cbw_config_mutex));
		epoch_build(dev, next);
		dev->txn_pair.hold->prev = old;
		old->next = next;
		percpu_ref_get(&next->ref);	/* old's pin */
	}

	preempt_disable();
	list_for_each_entry(dev, devs, txn_node)
		rcu_assign_pointer(dev->epoch, dev->txn_pair.hold);
	smp_mb(); /* all gates are shut before any of them opens */
	list_for_each_entry(dev, devs, txn_node)
		cbw_hook_spin(CBW_HOOK_GATE_SHUT, 0, dev->len);
	list_for_each_entry(dev, devs, txn_node)
		rcu_assign_pointer(dev->epoch, dev->txn_pair.next);
	preempt_enable();

	list_for_each_entry(dev, devs, txn_node) {
		struct bio_list parked;
		unsigned long flags;

		/*
		 * Who parks takes the lock and looks at the epoch again: either
		 * it is on the list by now or it sees the new one.
		 */
		spin_lock_irqsave(&dev->gate_lock, flags);
		parked = dev->gate_bios;
		bio_list_init(&dev->gate_bios);
		spin_unlock_irqrestore(&dev->gate_lock, flags);
		cbw_remap_queue(dev, &parked);

		old = dev->txn_pair.hold->prev;
		kfree_rcu(dev->txn_pair.hold, rcu);
		dev->txn_pair.hold = NULL;
		dev->txn_pair.next = NULL;
		percpu_ref_kill(&old->ref);
	}
}

/* The first epoch of a device that nobody can write to yet.  May sleep. */
int cbw_epoch_first(struct cbw_device *dev)
{
	struct cbw_epoch_pair pair;

	lockdep_assert_held(&cbw_config_mutex);
	if (cbw_epoch_pair_alloc(&pair))
		return -ENOMEM;
	epoch_build(dev, pair.next);
	rcu_assign_pointer(dev->epoch, pair.next);
	kfree(pair.hold);
	return 0;
}

/*
 * The device is gone: nobody can write through it any more.  Its last epoch goes as
 * soon as the older ones have.
 */
void cbw_epoch_last(struct cbw_device *dev)
{
	struct cbw_epoch *e;

	lockdep_assert_held(&cbw_config_mutex);
	e = rcu_dereference_protected(dev->epoch,
				      lockdep_is_held(&cbw_config_mutex));
	RCU_INIT_POINTER(dev->epoch, NULL);
	percpu_ref_kill(&e->ref);
}
