// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guest writes that are held: with the copy that they wait for, or starved of memory or
 * slots.  How they are woken, and for how long they may wait.
 *
 * A woken write goes back to be mapped again (cbw_remap_queue), whatever the cause.
 */
#include "cbw.h"

/* How often to look for writes held too long: within 10 % of the bound. */
static unsigned long timeout_tick(const struct cbw_snap *snap)
{
	return max(1ul, msecs_to_jiffies(snap->timeout_ms / 40));
}

/* Park a write.  The lock of the list is held; any context. */
void cbw_hold_add(struct cbw_snap *snap, struct bio_list *list, struct bio *bio,
		  bool head)
{
	if (head)
		bio_list_add_head(list, bio);
	else
		bio_list_add(list, bio);
	atomic_inc(&snap->nr_held);
	if (snap->timeout_ms && !delayed_work_pending(&snap->timeout_work))
		queue_delayed_work(cbw_wq, &snap->timeout_work, timeout_tick(snap));
}

static void note_hold(struct cbw_snap *snap, u64 us)
{
	u64 max = READ_ONCE(snap->max_hold_us);

	while (us > max) {
		u64 was = cmpxchg64(&snap->max_hold_us, max, us);

		if (was == max)
			break;
		max = was;
	}
}

/**
 * cbw_hold_wake - wake those that are held since a time, or longer
 * @snap: the snapshot
 * @from: the list; its lock is held, or it is the caller's own
 * @status: what to end them with, or BLK_STS_OK: map them again
 * @before: the time; KTIME_MAX: all
 */
void cbw_hold_wake(struct cbw_snap *snap, struct bio_list *from,
		   blk_status_t status, ktime_t before)
{
	struct bio_list go, stay;
	unsigned int nr = 0;
	struct bio *bio;
	ktime_t now;

	if (bio_list_empty(from))
		return;
	now = ktime_get();
	bio_list_init(&go);
	bio_list_init(&stay);
	while ((bio = bio_list_pop(from))) {
		struct cbw_io *io = cbw_io(bio);

		if (ktime_after(io->hold_start, before)) {
			bio_list_add(&stay, bio);
			continue;
		}
		nr++;
		note_hold(snap, ktime_us_delta(now, io->hold_start));
		if (status)
			bio->bi_status = status;
		bio_list_add(&go, bio);
	}
	*from = stay;
	atomic_sub(nr, &snap->nr_held);
	cbw_remap_queue(snap->dev, &go);
}

/* The same for all that wait for this snapshot.  Any context, no lock held. */
void cbw_hold_wake_all(struct cbw_snap *snap, blk_status_t status, ktime_t before)
{
	struct cbw_bucket *bucket;
	struct cbw_copy *copy;
	unsigned long flags;
	unsigned int i;

	for (i = 0; i < CBW_BUCKETS; i++) {
		bucket = &snap->buckets[i];
		spin_lock_irqsave(&bucket->lock, flags);
		hlist_for_each_entry(copy, &bucket->copies, node)
			cbw_hold_wake(snap, &copy->waiters, status, before);
		spin_unlock_irqrestore(&bucket->lock, flags);
	}
	/* After the buckets: who starves has looked at snap->over under one of those. */
	spin_lock_irqsave(&snap->lock, flags);
	cbw_hold_wake(snap, &snap->starved, status, before);
	spin_unlock_irqrestore(&snap->lock, flags);
}

/* ---- starved writes -------------------------------------------------------------------- */

/* Something came free that starved writes could use. */
void cbw_starved_kick(struct cbw_snap *snap)
{
	lockdep_assert_held(&snap->lock);
	if (unlikely(!bio_list_empty(&snap->starved)))
		queue_work(cbw_wq, &snap->starved_work);
}

/*
 * Serve starved writes in their order, as many as what came free is enough for.  The first
 * that it is not enough for goes back to the head of the list, and waits there for the
 * next kick.  While this is at work newcomers queue up behind, so nobody is overtaken for
 * ever, and nobody is woken for nothing.
 */
void cbw_starved_work(struct work_struct *work)
{
	struct cbw_snap *snap = container_of(work, struct cbw_snap, starved_work);
	struct bio *bio;
	bool more = true;

	while (more) {
		spin_lock_irq(&snap->lock);
		bio = bio_list_pop(&snap->starved);
		snap->starving = !!bio;
		spin_unlock_irq(&snap->lock);
		if (!bio)
			return;
		note_hold(snap, ktime_us_delta(ktime_get(), cbw_io(bio)->hold_start));
		atomic_dec(&snap->nr_held);
		more = cbw_remap(snap->dev, bio, snap);
		cond_resched();
	}
	spin_lock_irq(&snap->lock);
	snap->starving = false;
	spin_unlock_irq(&snap->lock);
}

/* ---- the bound --------------------------------------------------------------------------- */

static bool any_before(struct bio_list *list, ktime_t before)
{
	struct bio *bio;

	bio_list_for_each(bio, list)
		if (!ktime_after(cbw_io(bio)->hold_start, before))
			return true;
	return false;
}

static bool held_before(struct cbw_snap *snap, ktime_t before)
{
	struct cbw_copy *copy;
	bool late = false;
	unsigned int i;

	for (i = 0; i < CBW_BUCKETS && !late; i++) {
		struct cbw_bucket *bucket = &snap->buckets[i];

		spin_lock_irq(&bucket->lock);
		hlist_for_each_entry(copy, &bucket->copies, node)
			late = late || any_before(&copy->waiters, before);
		spin_unlock_irq(&bucket->lock);
	}
	spin_lock_irq(&snap->lock);
	late = late || any_before(&snap->starved, before);
	spin_unlock_irq(&snap->lock);
	return late;
}

/*
 * A guest write has been held for cbw_timeout_ms: the snapshot breaks, or the write
 * fails.  Neither waits for the store nor allocates.
 */
void cbw_hold_timeout(struct work_struct *work)
{
	struct cbw_snap *snap = container_of(to_delayed_work(work),
					     struct cbw_snap, timeout_work);
	ktime_t before = ktime_sub(ktime_get(), ms_to_ktime(snap->timeout_ms));

	if (held_before(snap, before)) {
		if (!snap->break_guest) {
			cbw_snap_break(snap, CBW_REASON_TIMEOUT);
			return;
		}
		cbw_hold_wake_all(snap, BLK_STS_TIMEOUT, before);
	}
	/* Who is held from now on sees this pending, or queues it. */
	if (atomic_read(&snap->nr_held))
		queue_delayed_work(cbw_wq, &snap->timeout_work, timeout_tick(snap));
}
