// SPDX-License-Identifier: GPL-2.0-only
/*
 * A snapshot from its cut to its end.
 *
 *   armed	no cut yet
 *   active	the epoch published by the cut protects it
 *   drained	nothing is needed any more
 *   failed	snap->over says why; set before any write is let go, so that a
 *		reader that sees it clear after its read has good data
 */
#include "cbw.h"

#include <linux/slab.h>

/* All snapshots, also those whose source is gone; cbw_config_mutex. */
LIST_HEAD(cbw_snaps);

static const char * const reason_names[] = {
	[CBW_REASON_NONE] = "-",
	[CBW_REASON_STORE_FULL] = "store-full",
	[CBW_REASON_STORE_IO] = "store-io",
	[CBW_REASON_ORIGIN_IO] = "origin-io",
	[CBW_REASON_TIMEOUT] = "timeout",
	[CBW_REASON_MAP_LIMIT] = "map-limit",
	[CBW_REASON_SOURCE_GONE] = "source-gone",
	[CBW_REASON_SOURCE_RESIZED] = "source-resized",
};

const char *cbw_reason_name(unsigned int reason)
{
	return reason < ARRAY_SIZE(reason_names) ? reason_names[reason] : "-";
}

/* Any context. */
unsigned int cbw_snap_state(struct cbw_snap *snap)
{
	unsigned int over = READ_ONCE(snap->over);

	if (over && over != CBW_OVER_ENDED)
		return CBW_SNAPSHOT_FAILED;
	if (!READ_ONCE(snap->start_seq))
		return CBW_SNAPSHOT_ARMED;
	if (over || !READ_ONCE(snap->nr_needed))
		return CBW_SNAPSHOT_DRAINED;
	return CBW_SNAPSHOT_ACTIVE;
}

/* The snapshot with this number, or NULL; good as long as the mutex is held. */
struct cbw_snap *cbw_snap_find(dev_t devt)
{
	struct cbw_snap *snap;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(snap, &cbw_snaps, all_node)
		if (snap->devt == devt)
			return snap;
	return NULL;
}

static void snap_free_ref(struct kref *ref)
{
	cbw_snap_free(container_of(ref, struct cbw_snap, ref));
}

/* May sleep. */
void cbw_snap_put(struct cbw_snap *snap)
{
	kref_put(&snap->ref, snap_free_ref);
}

/* An I/O of ours has ended; nothing of the snapshot is touched after it. */
void cbw_snap_io_done(struct cbw_snap *snap)
{
	unsigned long flags;

	/* The lock keeps who waits from freeing it under our wake-up. */
	spin_lock_irqsave(&snap->waitq.lock, flags);
	if (atomic_dec_and_test(&snap->nr_ios))
		wake_up_locked(&snap->waitq);
	spin_unlock_irqrestore(&snap->waitq.lock, flags);
}

/* ---- events ------------------------------------------------------------------------- */

void cbw_snap_event(struct cbw_snap *snap)
{
	cbw_snap_get(snap);
	if (!queue_work(cbw_wait_wq, &snap->event_work))
		cbw_snap_put(snap);
}

/* Raise one when a threshold is crossed.  Any context, no lock held. */
void cbw_snap_event_check(struct cbw_snap *snap)
{
	bool raise = false;
	unsigned long flags;

	if (likely(READ_ONCE(snap->nr_needed) &&
		   (READ_ONCE(snap->low_space) ||
		    READ_ONCE(snap->nr_used) * 5 < snap->nr_slots * 4)))
		return;
	spin_lock_irqsave(&snap->lock, flags);
	if (!snap->low_space && snap->nr_used * 5 >= snap->nr_slots * 4) {
		snap->low_space = true;
		raise = true;
	}
	if (!snap->drained && !snap->nr_needed) {
		snap->drained = true;
		raise = true;
	}
	spin_unlock_irqrestore(&snap->lock, flags);
	if (raise)
		cbw_snap_event(snap);
}

/**
 * cbw_snap_break - the snapshot is lost, or is not needed any more
 * @snap: the snapshot
 * @reason: enum cbw_reason or CBW_OVER_ENDED
 *
 * Any context, no lock of the snapshot held.  Neither allocates nor waits.
 */
void cbw_snap_break(struct cbw_snap *snap, unsigned int reason)
{
	/* A full barrier: readers see it before any write that it lets go. */
	if (cmpxchg(&snap->over, 0, reason))
		return;
	if (reason != CBW_OVER_ENDED)
		DMERR_LIMIT("snapshot %u:%u of %u:%u failed: %s",
			    MAJOR(snap->devt), MINOR(snap->devt),
			    MAJOR(snap->dev->devt), MINOR(snap->dev->devt),
			    cbw_reason_name(reason));
	WRITE_ONCE(snap->ahead_at, CBW_AHEAD_NONE);
	if (snap->break_guest)
		cbw_copies_forget(snap);
	cbw_hold_wake_all(snap, BLK_STS_OK, KTIME_MAX);
	cbw_snap_ready(snap);
	cbw_snap_event(snap);
}

/* ---- cut, release, end ---------------------------------------------------------------- */

/* The cut was made. */
void cbw_snap_started(struct cbw_snap *snap, u64 seq)
{
	lockdep_assert_held(&cbw_config_mutex);
	WARN_ON_ONCE(snap->start_seq != seq);
	if (snap->limit) {
		cbw_snap_get(snap);
		queue_work(cbw_wait_wq, &snap->limit_work);
	}
	cbw_snap_event(snap);
}

/*
 * Every write from before the cut has ended: what has not been preserved can be
 * read from the origin.  Any context.
 */
void cbw_snap_ready(struct cbw_snap *snap)
{
	unsigned long flags;

	spin_lock_irqsave(&snap->lock, flags);
	bio_list_merge(&snap->reads, &snap->parked);
	bio_list_init(&snap->parked);
	if (!bio_list_empty(&snap->reads))
		queue_work(cbw_store_wq, &snap->read_work);
	spin_unlock_irqrestore(&snap->lock, flags);
}

/**
 * cbw_snap_release_chunks - chunks are not wanted any more
 * @snap: the snapshot, started
 * @first: the first
 * @end: the one after the last
 * @count: it is a release (else they were never protected)
 *
 * May sleep.
 */
void cbw_snap_release_chunks(struct cbw_snap *snap, u64 first, u64 end, bool count)
{
	while (first < end) {
		u64 region = first / CBW_REGION_CHUNKS;
		u64 base = region * CBW_REGION_CHUNKS;
		u64 last = min(end - base, (u64)CBW_REGION_CHUNKS) - 1;

		cbw_region_release(snap, region, GENMASK_ULL(last, first - base),
				   count);
		first = base + CBW_REGION_CHUNKS;
		if (!(region % 64))
			cond_resched();
	}
	cbw_snap_event_check(snap);
}

/**
 * cbw_snap_release - the reader has a range
 * @snap: the snapshot, started
 * @offset: in bytes, a multiple of the chunk
 * @length: in bytes, a multiple of the chunk or up to the end
 *
 * May sleep.
 */
int cbw_snap_release(struct cbw_snap *snap, u64 offset, u64 length)
{
	u64 size = (u64)snap->len << SECTOR_SHIFT;
	u64 mask = cbw_chunk_bytes(snap) - 1;

	if (!length || (offset & mask) || offset >= size ||
	    length > size - offset ||
	    ((length & mask) && offset + length != size))
		return -EINVAL;
	cbw_snap_release_chunks(snap, offset >> (snap->shift + SECTOR_SHIFT),
				((offset + length - 1) >>
				 (snap->shift + SECTOR_SHIFT)) + 1, true);
	return 0;
}

/*
 * Limited to a bitmap: give up what it does not say is dirty.  The frozen bitmap is
 * final only when its epoch has been released and what is merged into it is there; until
 * then everything is protected.
 */
static void snap_limit_work(struct work_struct *work)
{
	struct cbw_snap *snap = container_of(work, struct cbw_snap, limit_work);
	struct cbw_device *dev = snap->dev;
	sector_t start, end, pos = 0;
	u64 first, stop;
	bool more = true;

	if (cbw_cured(2))
		wait_event(dev->waitq, cbw_bits_final(dev, snap->limit, snap->start_seq - 1));
	while (more && !READ_ONCE(snap->over)) {
		more = cbw_bits_next_run(snap->limit, pos, &start, &end);
		/* Chunks that lie in the gap as a whole. */
		first = (pos + (1u << snap->shift) - 1) >> snap->shift;
		stop = more ? start >> snap->shift : snap->nr_chunks;
		if (first < stop)
			cbw_snap_release_chunks(snap, first, stop, false);
		pos = end;
	}
	cbw_bits_put(snap->limit);
	snap->limit = NULL;
	cbw_snap_put(snap);
}

/*
 * Each is told once, and nothing of one that is being removed. What led to an end comes before it:
 * one write can take four fifths of the store and the rest, and is told of by one run of the work.
 * @low_space is set before @over is, and read after it.
 */
static void snap_tell(struct cbw_snap *snap)
{
	static const enum cbw_event_type in_order[] = {
		CBW_EVENT_SNAPSHOT_LOW_SPACE,
		CBW_EVENT_SNAPSHOT_FAILED,
		CBW_EVENT_SNAPSHOT_DRAINED,
	};
	/* In this order: what has failed has a reason. */
	unsigned int state = cbw_snap_state(snap), over = READ_ONCE(snap->over);
	unsigned int is = 0, i;

	lockdep_assert_held(&cbw_config_mutex);
	if (list_empty(&snap->all_node))
		return;
	/* Pairs with the cmpxchg() of @over, which is behind the check that sets @low_space. */
	smp_rmb();
	if (READ_ONCE(snap->low_space))
		is |= BIT(CBW_EVENT_SNAPSHOT_LOW_SPACE);
	if (state == CBW_SNAPSHOT_FAILED)
		is |= BIT(CBW_EVENT_SNAPSHOT_FAILED);
	else if (state == CBW_SNAPSHOT_DRAINED)
		is |= BIT(CBW_EVENT_SNAPSHOT_DRAINED);
	is &= ~snap->told;
	snap->told |= is;
	for (i = 0; i < ARRAY_SIZE(in_order); i++)
		if (is & BIT(in_order[i]))
			cbw_event(in_order[i], snap->devt, &snap->cut,
				  in_order[i] == CBW_EVENT_SNAPSHOT_FAILED ? over :
				  CBW_REASON_NONE);
}

static void snap_event_work(struct work_struct *work)
{
	struct cbw_snap *snap = container_of(work, struct cbw_snap, event_work);

	cbw_config_lock();
	snap_tell(snap);
	if (snap->ti)
		dm_table_event(snap->ti->table);
	cbw_config_unlock();
	cbw_snap_put(snap);
}

void cbw_snap_init_works(struct cbw_snap *snap)
{
	INIT_DELAYED_WORK(&snap->flush_work, cbw_flush_work);
	INIT_WORK(&snap->store_work, cbw_store_work);
	INIT_DELAYED_WORK(&snap->supply_work, cbw_supply_work);
	INIT_DELAYED_WORK(&snap->shrink_work, cbw_shrink_work);
	INIT_WORK(&snap->starved_work, cbw_starved_work);
	INIT_WORK(&snap->ahead_work, cbw_ahead_work);
	INIT_DELAYED_WORK(&snap->timeout_work, cbw_hold_timeout);
	INIT_WORK(&snap->read_work, cbw_snap_read_work);
	INIT_WORK(&snap->event_work, snap_event_work);
	INIT_WORK(&snap->limit_work, snap_limit_work);
}

/**
 * cbw_snap_remove - the last table instance of a snapshot goes away
 * @snap: the snapshot
 *
 * Called with cbw_config_mutex held, drops it: nobody can find the snapshot between
 * the end of its last instance and here.
 *
 * May sleep, as long as the origin or the store takes for what is in flight.
 * Cannot fail: the memory was set aside.  What it rotated and nobody committed is
 * aborted.
 */
void cbw_snap_remove(struct cbw_snap *snap)
{
	struct cbw_device *dev = snap->dev;
	struct cbw_bitmap *b;
	LIST_HEAD(devs);
	unsigned int i;

	lockdep_assert_held(&cbw_config_mutex);
	if (snap->start_seq)
		cbw_snap_break(snap, CBW_OVER_ENDED);
	list_del_init(&snap->all_node);
	list_del_init(&snap->node);
	dev->nr_snaps--;
	if (snap->start_seq && !dev->gone) {
		dev->txn_pair = snap->pair;
		snap->pair.next = NULL;
		snap->pair.hold = NULL;
		list_add(&dev->txn_node, &devs);
		cbw_publish(&devs);
		list_del_init(&dev->txn_node);
	}
	list_for_each_entry(b, &dev->bitmaps, node)
		if (b->cur.frozen && b->cur.snap == snap)
			cbw_bitmap_abort_start(b);
	cbw_config_unlock();

	/*
	 * Who begins a copy looks at snap->over under its bucket's lock: past all of
	 * these nobody begins one any more, and those that were begun are counted.
	 */
	for (i = 0; i < CBW_BUCKETS; i++) {
		spin_lock_irq(&snap->buckets[i].lock);
		spin_unlock_irq(&snap->buckets[i].lock);
	}
	/* The same for store writes and for what is queued under this lock. */
	spin_lock_irq(&snap->lock);
	spin_unlock_irq(&snap->lock);
	cancel_work_sync(&snap->ahead_work);
	wait_event(snap->waitq, !atomic_read(&snap->nr_ios));
	/* See cbw_snap_io_done(). */
	spin_lock_irq(&snap->waitq.lock);
	spin_unlock_irq(&snap->waitq.lock);
	cancel_delayed_work_sync(&snap->timeout_work);
	/* It queues itself and the one after it. */
	cancel_delayed_work_sync(&snap->supply_work);
	cancel_delayed_work_sync(&snap->shrink_work);
	/* That may have kicked this. */
	cancel_work_sync(&snap->starved_work);
	cancel_delayed_work_sync(&snap->flush_work);
	cancel_work_sync(&snap->store_work);
	cancel_delayed_work_sync(&snap->flush_work);
	flush_work(&snap->read_work);
}

/* May sleep. */
void cbw_snap_info(struct cbw_snap *snap, struct cbw_snapshot_info *info)
{
	unsigned int over = READ_ONCE(snap->over);

	lockdep_assert_held(&cbw_config_mutex);
	info->cut = snap->cut;
	info->out_source.major = MAJOR(snap->dev->devt);
	info->out_source.minor = MINOR(snap->dev->devt);
	info->out_chunk_size = cbw_chunk_bytes(snap);
	info->out_device_size = (u64)snap->len << SECTOR_SHIFT;
	info->out_reason = over == CBW_OVER_ENDED ? CBW_REASON_NONE : over;
	spin_lock_irq(&snap->lock);
	info->out_state = cbw_snap_state(snap);
	info->out_store_used = snap->nr_used;
	info->out_store_chunks = snap->nr_slots;
	info->out_needed = over ? 0 : snap->nr_needed;
	info->out_released = snap->nr_released;
	info->out_copied = snap->nr_copied;
	info->out_held = atomic_read(&snap->nr_held);
	info->out_max_hold_us = snap->max_hold_us;
	info->out_discards_deferred = snap->discards;
	info->out_poisoned = snap->nr_poisoned;
	spin_unlock_irq(&snap->lock);
}
