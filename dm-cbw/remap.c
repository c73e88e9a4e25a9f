// SPDX-License-Identifier: GPL-2.0-only
/*
 * Held writes on their way back to be mapped.
 *
 * A copy's read ends in interrupt context, where nothing can be submitted.  A worker does
 * it, at once; but if what was interrupted is a task that writes to needed chunks all the
 * time, it will soon be in cbw_map() again, and takes the writes that have become ready
 * with it: cheaper than switching to the worker and back for each of them.  If it
 * does not come within HELP_NS, the worker is started.
 */
#include "cbw.h"

#include <linux/sched.h>

/* For so long a write waits for a helper. */
#define HELP_NS		30000
/* So many writes of others a helper takes with it. */
#define HELP_MAX	16u

static struct cbw_remap *this_remap(struct cbw_device *dev)
{
	return &dev->remap[raw_smp_processor_id() % CBW_REMAPS];
}

/* Hand over writes to be mapped again.  Any context. */
void cbw_remap_queue(struct cbw_device *dev, struct bio_list *bios)
{
	struct cbw_remap *remap;
	unsigned long flags;
	bool help;

	if (bio_list_empty(bios))
		return;
	remap = this_remap(dev);
	spin_lock_irqsave(&remap->lock, flags);
	help = !in_task() && remap->helper == current;
	if (help && bio_list_empty(&remap->bios))
		remap->since = ktime_get();
	bio_list_merge(&remap->bios, bios);
	if (help && !remap->timed) {
		remap->timed = true;
		hrtimer_start(&remap->timer, ns_to_ktime(HELP_NS),
			      HRTIMER_MODE_REL_PINNED);
	}
	/* Before anybody else can take and end them: cbw_remap_exit() comes after that. */
	if (!help)
		queue_work(cbw_wq, &remap->work);
	spin_unlock_irqrestore(&remap->lock, flags);
	bio_list_init(bios);
}

/* No helper has come?  Interrupt context. */
static enum hrtimer_restart remap_timer(struct hrtimer *timer)
{
	struct cbw_remap *remap = container_of(timer, struct cbw_remap, timer);
	unsigned long flags;
	ktime_t due, now;

	spin_lock_irqsave(&remap->lock, flags);
	if (!bio_list_empty(&remap->bios)) {
		now = ktime_get();
		due = ktime_add_ns(remap->since, HELP_NS);
		if (ktime_before(now, due)) {
			hrtimer_set_expires(timer, due);
			spin_unlock_irqrestore(&remap->lock, flags);
			return HRTIMER_RESTART;
		}
		queue_work(cbw_wq, &remap->work);
	}
	remap->timed = false;
	spin_unlock_irqrestore(&remap->lock, flags);
	return HRTIMER_NORESTART;
}

/**
 * cbw_remap_help - a write has been held: map what has become ready meanwhile
 * @dev: the device
 *
 * From cbw_map(): does not sleep, what it submits goes to current->bio_list.
 */
void cbw_remap_help(struct cbw_device *dev)
{
	struct cbw_remap *remap = this_remap(dev);
	struct bio_list bios;
	struct bio *bio;
	unsigned int n;

	/*
	 * A look without the lock: who adds a write has seen that this task is the helper and
	 * has started the timer, so that a write which is missed here is late, not lost.
	 */
	if (data_race(remap->helper == current && bio_list_empty(&remap->bios)))
		return;
	bio_list_init(&bios);
	spin_lock_irq(&remap->lock);
	WRITE_ONCE(remap->helper, current);
	for (n = 0; n < HELP_MAX && (bio = bio_list_pop(&remap->bios)); n++)
		bio_list_add(&bios, bio);
	if (!bio_list_empty(&remap->bios))
		queue_work(cbw_wq, &remap->work);
	spin_unlock_irq(&remap->lock);
	while ((bio = bio_list_pop(&bios)))
		cbw_remap(dev, bio, NULL);
}

/* Process context; may wait for the origin's queue, never for a store. */
static void remap_work(struct work_struct *work)
{
	struct cbw_remap *remap = container_of(work, struct cbw_remap, work);
	struct bio_list bios;
	struct blk_plug plug;
	struct bio *bio;

	spin_lock_irq(&remap->lock);
	bios = remap->bios;
	bio_list_init(&remap->bios);
	spin_unlock_irq(&remap->lock);

	blk_start_plug(&plug);
	while ((bio = bio_list_pop(&bios))) {
		cbw_remap(remap->dev, bio, NULL);
		cond_resched();
	}
	blk_finish_plug(&plug);
}

void cbw_remap_init(struct cbw_device *dev)
{
	unsigned int i;

	for (i = 0; i < CBW_REMAPS; i++) {
		struct cbw_remap *remap = &dev->remap[i];

		spin_lock_init(&remap->lock);
		bio_list_init(&remap->bios);
		INIT_WORK(&remap->work, remap_work);
		hrtimer_setup(&remap->timer, remap_timer, CLOCK_MONOTONIC,
			      HRTIMER_MODE_REL_PINNED);
		remap->dev = dev;
	}
}

/* No write is held any more.  May sleep. */
void cbw_remap_exit(struct cbw_device *dev)
{
	unsigned int i;

	for (i = 0; i < CBW_REMAPS; i++) {
		hrtimer_cancel(&dev->remap[i].timer);
		flush_work(&dev->remap[i].work);
	}
}
