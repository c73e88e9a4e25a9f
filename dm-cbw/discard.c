// SPDX-License-Identifier: GPL-2.0-only
/*
 * The second plane of bitmaps: what was discarded.
 *
 * A granule that a discard has covered whole is dirty, and its content does not matter,
 * until a write comes.  Saying so must never hide data:
 *
 *   a write		clears what it covers when it goes down, and again when it has ended:
 *			a discard that was sent down while it was in flight has set it, and
 *			nobody knows which of them the device did first
 *   a discard		that has failed, or ends when its epoch is over, clears what it has set
 *   a merge		sets nothing that is dirty already (merge_discarded() in bits.c), nor
 *			in what a cut has frozen
 *   a gap		in what a bitmap has recorded makes it forget for good
 *
 * The planes take as much memory as the bitmaps, so a device gets them with its first
 * discard, which waits for that if it may.  They come with a new epoch, so that a write in
 * flight ends under one that is over: that way it finds the planes that were not there
 * when it went down.  A bit is only ever set in memory that is recorded under an epoch
 * built after the first discard was seen, and those all say that there may be planes.
 */
#include "cbw.h"

/* Without memory there is no plane, and what is discarded is dirty and nothing else. */
static void add_planes(struct cbw_device *dev)
{
	struct cbw_bitmap *b;
	LIST_HEAD(devs);

	lockdep_assert_held(&cbw_config_mutex);
	if (dev->gone || cbw_epoch_pair_alloc(&dev->txn_pair))
		return;
	list_for_each_entry(b, &dev->bitmaps, node)
		if (b->cur.enabled)
			cbw_bits_add_plane(b->cur.active);
	list_add(&dev->txn_node, &devs);
	cbw_publish(&devs);
	list_del_init(&dev->txn_node);
}

static void discard_work(struct work_struct *work)
{
	struct cbw_device *dev = container_of(work, struct cbw_device, discard_work);
	struct bio_list parked;

	cbw_hook_sleep(CBW_HOOK_DISCARD_WORK, 0, 1);
	cbw_config_lock();
	add_planes(dev);
	spin_lock_irq(&dev->gate_lock);
	WRITE_ONCE(dev->discards_ready, true);
	parked = dev->discard_bios;
	bio_list_init(&dev->discard_bios);
	spin_unlock_irq(&dev->gate_lock);
	cbw_config_unlock();
	cbw_remap_queue(dev, &parked);
	cbw_device_put(dev);
}

void cbw_discards_init(struct cbw_device *dev)
{
	INIT_WORK(&dev->discard_work, discard_work);
	bio_list_init(&dev->discard_bios);
}

/**
 * cbw_discards_prepare - memory for a bitmap of this device: with a second plane?
 * @dev: the device
 * @bits: the memory; nobody records into it yet
 *
 * May sleep.
 */
void cbw_discards_prepare(struct cbw_device *dev, struct cbw_bits *bits)
{
	if (atomic_read(&dev->discards_seen))
		cbw_bits_add_plane(bits);
}

/**
 * cbw_discards_want - a discard has come: the bitmaps shall get planes
 * @dev: the device; the discard is in flight in it
 *
 * Any context.
 */
void cbw_discards_want(struct cbw_device *dev)
{
	if (atomic_read(&dev->discards_seen) || atomic_xchg(&dev->discards_seen, 1))
		return;
	cbw_device_get(dev);
	queue_work(cbw_discard_wq, &dev->discard_work);
}

/**
 * cbw_discards_park - let a discard wait for the planes
 * @dev: the device; the discard is in flight in it
 * @bio: the discard
 *
 * Any context.  Returns false if they are there by now, or never will be.
 */
bool cbw_discards_park(struct cbw_device *dev, struct bio *bio)
{
	unsigned long flags;
	bool parked;

	spin_lock_irqsave(&dev->gate_lock, flags);
	parked = !dev->discards_ready;
	if (parked)
		bio_list_add(&dev->discard_bios, bio);
	/* Under the lock: once it is parked the discard may be gone, and the device. */
	cbw_discards_want(dev);
	spin_unlock_irqrestore(&dev->gate_lock, flags);
	return parked;
}

/**
 * cbw_discards_mark - a discard is about to go down
 * @e: its epoch, whose bitmaps it has marked
 * @sector: where it starts
 * @nr: sectors
 *
 * Any context.
 */
void cbw_discards_mark(const struct cbw_epoch *e, sector_t sector, sector_t nr)
{
	unsigned int i;

	for (i = 0; i < e->nr_marks; i++)
		cbw_bits_discard(e->marks[i].bits, sector, nr);
}

/**
 * cbw_discards_unmark - there may be data in a range
 * @e: an epoch, whose bitmaps it was marked in
 * @sector: where it starts
 * @nr: sectors
 *
 * Any context.
 */
void cbw_discards_unmark(const struct cbw_epoch *e, sector_t sector, sector_t nr)
{
	unsigned int i;

	/* Once for all of them; see there. */
	smp_mb();
	for (i = 0; i < e->nr_marks; i++)
		cbw_bits_undiscard_ordered(e->marks[i].bits, sector, nr);
}
