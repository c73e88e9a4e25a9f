// SPDX-License-Identifier: GPL-2.0-only
/*
 * The path of a write.
 *
 *   cbw_map()		from dm: reads go straight down; a write takes the epoch,
 *			marks its bitmaps and goes down.  No lock, no allocation.
 *   cbw_end_io()	the write has ended: mark again if its epoch is over
 *
 * and only if it has to wait:
 *
 *   hold_bio()		a chunk has still to be preserved: over to the worker
 *   cbw_remap_work()	starts the copies (copy.c) and parks the write with them;
 *			when they are done the write comes back here
 *			(cbw_remap_queue) and is mapped from the start, under
 *			the epoch of that moment
 *   gate_park()	the gate is shut (epoch.c): park until it opens
 *
 * A held write has no reference to any epoch: a slow store cannot delay those who
 * wait for old epochs to drain.
 */
#include "cbw.h"

#include <linux/rcupdate.h>

enum verdict {
	GO,		/* marked, holds its epoch */
	GATE,		/* the gate is shut */
	NEEDED,		/* some chunk has to be preserved first */
	SWALLOW,	/* a discard of needed chunks: done without being passed down */
};

/*
 * A discard is a hint: where chunks are still needed it is not passed down and
 * the data stays as it was.  Answers for the chunk at the start of the range and
 * cuts *@nr to where the answer changes.
 */
static bool discard_needed(const struct cbw_epoch *e, sector_t sector,
			   sector_t *nr)
{
	sector_t needed_end = sector, free_end = sector + *nr;
	unsigned int i;

	for (i = 0; i < e->nr_snaps; i++) {
		const struct cbw_snap *snap = e->snaps[i];
		u64 first = cbw_chunk(snap, sector);
		u64 end = cbw_chunk(snap, sector + *nr - 1) + 1;
		u64 next;

		end = min(end, snap->nr_chunks);
		if (READ_ONCE(snap->over) || first >= end)
			continue;
		if (!test_bit(first, snap->done)) {
			next = find_next_bit(snap->done, end, first);
			needed_end = max_t(sector_t, needed_end,
					   (sector_t)next << snap->shift);
		} else {
			next = find_next_zero_bit(snap->done, end, first);
			if (next < end)
				free_end = min_t(sector_t, free_end,
						 (sector_t)next << snap->shift);
		}
	}
	if (needed_end > sector) {
		*nr = min(*nr, needed_end - sector);
		return true;
	}
	*nr = free_end - sector;
	return false;
}

static void count_discard(const struct cbw_epoch *e, sector_t sector, sector_t nr)
{
	unsigned int i;

	for (i = 0; i < e->nr_snaps; i++) {
		struct cbw_snap *snap = e->snaps[i];
		unsigned long flags;

		if (!cbw_snap_needs(snap, sector, nr))
			continue;
		spin_lock_irqsave(&snap->lock, flags);
		snap->discards += (u64)nr << SECTOR_SHIFT;
		spin_unlock_irqrestore(&snap->lock, flags);
	}
}

static void mark(const struct cbw_epoch *e, const struct cbw_io *io)
{
	unsigned int i;

	for (i = 0; i < e->nr_bits; i++)
		cbw_bits_mark(e->bits[i], io->sector, io->nr);
}

/*
 * Decide about a write under the current epoch.
 *
 * One RCU section from fetching the epoch to the last mark: who waits for a
 * grace period after publishing another epoch knows that all marks under the
 * old one are there, and getting the ref is safe against the kill.
 *
 * A discard that @may_split is cut where the answer changes: io->nr.
 */
static enum verdict decide(struct cbw_device *dev, struct cbw_io *io,
			   bool discard, bool may_split)
{
	const sector_t whole = io->nr;
	struct cbw_epoch *e;
	enum verdict verdict = GO;
	unsigned int i;

	rcu_read_lock();
	e = rcu_dereference(dev->epoch);
	if (unlikely(e->hold)) {
		verdict = GATE;
		goto out;
	}
	if (unlikely(discard && e->nr_snaps) && cbw_cured(10)) {
		bool needed = discard_needed(e, io->sector, &io->nr);

		if (!may_split && io->nr != whole) {
			/* Held once, it cannot be split: it is but a hint. */
			io->nr = whole;
			needed = true;
		}
		if (needed) {
			count_discard(e, io->sector, io->nr);
			verdict = SWALLOW;
			goto out;
		}
	} else if (!discard || cbw_cured(10)) {
		for (i = 0; i < e->nr_snaps; i++) {
			if (cbw_snap_needs(e->snaps[i], io->sector, io->nr)) {
				verdict = NEEDED;
				goto out;
			}
		}
	}
	cbw_hook_spin(CBW_HOOK_MAP_EPOCH, io->sector, io->nr);
	percpu_ref_get(&e->ref);
	io->epoch = e;
	mark(e, io);
out:
	rcu_read_unlock();
	return verdict;
}

/*
 * Park a write that has seen a shut gate.  Returns false if the gate has been opened
 * since: the opener splices the list under the same lock after it has published
 * the new epoch, so a write parked without this second look could
 * sleep on a list that nobody will look at again.
 */
static bool gate_park(struct cbw_device *dev, struct bio *bio)
{
	unsigned long flags;
	bool parked = true;

	spin_lock_irqsave(&dev->gate_lock, flags);
	if (cbw_cured(9)) {
		rcu_read_lock();
		parked = rcu_dereference(dev->epoch)->hold;
		rcu_read_unlock();
	}
	if (parked)
		bio_list_add(&dev->gate_bios, bio);
	spin_unlock_irqrestore(&dev->gate_lock, flags);
	return parked;
}

/* Hand writes to the worker.  Any context. */
void cbw_remap_queue(struct cbw_device *dev, struct bio_list *bios)
{
	unsigned long flags;

	if (bio_list_empty(bios))
		return;
	spin_lock_irqsave(&dev->remap_lock, flags);
	bio_list_merge(&dev->remap_bios, bios);
	spin_unlock_irqrestore(&dev->remap_lock, flags);
	bio_list_init(bios);
	queue_work(cbw_wq, &dev->remap_work);
}

/* A write has to wait: from now on it is ours until it is mapped again. */
static int hold_bio(struct cbw_device *dev, struct bio *bio, bool gate)
{
	struct bio_list one;

	if (bio->bi_opf & REQ_NOWAIT) {
		bio->bi_status = BLK_STS_AGAIN;
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	}
	bio->bi_opf &= ~REQ_POLLED;
	if (gate) {
		cbw_hook_sleep(CBW_HOOK_GATE_SEEN, cbw_io(bio)->sector,
			       cbw_io(bio)->nr);
		if (gate_park(dev, bio))
			return DM_MAPIO_SUBMITTED;
	}
	if (!gate)
		cbw_io(bio)->hold_start = ktime_get();
	bio_list_init(&one);
	bio_list_add(&one, bio);
	cbw_remap_queue(dev, &one);
	return DM_MAPIO_SUBMITTED;
}

/**
 * cbw_map - map a bio of a device with a cbw table
 * @ti: the table instance
 * @bio: the bio
 *
 * Called by dm for every bio.  Never sleeps, takes no lock and allocates nothing for
 * reads, tracked writes and writes to chunks that have been preserved.
 */
int cbw_map(struct dm_target *ti, struct bio *bio)
{
	struct cbw_target *ct = ti->private;
	struct cbw_io *io = cbw_io(bio);
	bool discard = bio_op(bio) == REQ_OP_DISCARD;

	bio_set_dev(bio, ct->dd->bdev);
	io->epoch = NULL;
	io->hold_start = 0;
	io->deferred = false;
	/* What bi_iter says now is gone at end_io. */
	io->sector = bio->bi_iter.bi_sector;
	io->nr = bio_sectors(bio);
	if (!op_is_write(bio_op(bio)) || !io->nr)
		return DM_MAPIO_REMAPPED;	/* a read or a flush */

	switch (decide(ct->dev, io, discard, true)) {
	case GO:
		if (unlikely(io->nr != bio_sectors(bio)))
			dm_accept_partial_bio(bio, io->nr);
		cbw_hook_sleep(CBW_HOOK_MAP_MARKED, io->sector, io->nr);
		return DM_MAPIO_REMAPPED;
	case SWALLOW:
		if (io->nr != bio_sectors(bio))
			dm_accept_partial_bio(bio, io->nr);
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	case GATE:
		return hold_bio(ct->dev, bio, true);
	case NEEDED:
		return hold_bio(ct->dev, bio, false);
	}
	return DM_MAPIO_KILL;
}

static void end_io_again(void *data)
{
	bio_endio(data);
}

/**
 * cbw_end_io - a bio of ours has ended
 * @ti: the table instance
 * @bio: the bio
 * @error: its status, left as it is
 *
 * Any context.  If the write's epoch is over, a cut was made while it was in flight.  The
 * backup of that cut may hold the data from before it (a later write to the same
 * chunk copied it first), and the mark it made went to the frozen bitmap:
 * so it is marked in the current ones as well, else it would be in no later increment.
 * A write that failed may have changed anything in its range, the same.  (There is no
 * current epoch when the device is being taken down.)
 */
int cbw_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct cbw_target *ct = ti->private;
	struct cbw_io *io = cbw_io(bio);
	struct cbw_epoch *cur, *e = io->epoch;

	if (!e)
		return DM_ENDIO_DONE;
	if (!io->deferred &&
	    cbw_hook_defer(CBW_HOOK_END_IO, io->sector, io->nr, end_io_again, bio)) {
		io->deferred = true;
		return DM_ENDIO_INCOMPLETE;
	}
	rcu_read_lock();
	cur = rcu_dereference(ct->dev->epoch);
	/*
	 * While the gate is shut the cut has not been made: nothing can have been
	 * copied for it, and what is current is still the epoch before.
	 */
	if (cur && cur->hold)
		cur = cur->prev;
	if (unlikely(cur != e) && cur && cbw_cured(1))
		mark(cur, io);
	rcu_read_unlock();
	io->epoch = NULL;
	percpu_ref_put(&e->ref);
	return DM_ENDIO_DONE;
}

/* Let a write that was held go to the origin, or whatever is the origin now. */
static void submit_held(struct cbw_device *dev, struct bio *bio)
{
	struct cbw_origin *origin;

	/*
	 * The bio is in flight for dm, so the table that mapped it is live and its origin
	 * is the current one.
	 */
	rcu_read_lock();
	origin = rcu_dereference(dev->origin);
	if (origin)
		bio_set_dev(bio, origin->bdev);
	rcu_read_unlock();
	submit_bio_noacct(bio);
}

/*
 * Start what copies the write needs, of all snapshots at once, then park it with the
 * first that is not done.  Returns false if there was nothing to wait for, else the bio is not the
 * caller's any more.
 */
static bool copy_and_park(struct cbw_device *dev, struct bio *bio)
{
	struct cbw_snap *snaps[CBW_SNAPSHOTS_MAX];
	u64 freed[CBW_SNAPSHOTS_MAX];
	struct cbw_io *io = cbw_io(bio);
	blk_status_t status = BLK_STS_OK;
	unsigned int i, nr = 0;
	struct cbw_epoch *e;
	bool parked = false;

	rcu_read_lock();
	e = rcu_dereference(dev->epoch);
	for (i = 0; !e->hold && i < e->nr_snaps; i++)
		if (cbw_snap_needs(e->snaps[i], io->sector, io->nr))
			snaps[nr++] = cbw_snap_get(e->snaps[i]);
	rcu_read_unlock();

	for (i = 0; i < nr && !status; i++) {
		freed[i] = READ_ONCE(snaps[i]->freed);
		status = cbw_copy_start(snaps[i], io->sector, io->nr);
	}
	for (i = 0; i < nr; i++) {
		if (!parked && !status)
			parked = cbw_copy_park(snaps[i], bio, freed[i]);
		cbw_snap_put(snaps[i]);
	}
	if (!status)
		return parked;
	/* break_guest_write: the guest gets the error. */
	bio->bi_status = status;
	bio_endio(bio);
	return true;
}

/*
 * A suspend that need not flush does not wait for held writes: dm sends them again after
 * the resume.  Not once dm has given that suspend up: it would take it for an error.
 */
static bool give_back(struct cbw_device *dev, struct bio *bio)
{
	if (!cbw_giving_back(dev))
		return false;
	bio->bi_status = BLK_STS_DM_REQUEUE;
	bio_endio(bio);
	return true;
}

/*
 * Map one write again.  Each round either lets it go, parks it, or has made
 * progress: what was preserved stays preserved.
 */
static void remap_one(struct cbw_device *dev, struct bio *bio)
{
	struct cbw_io *io = cbw_io(bio);
	bool discard = bio_op(bio) == REQ_OP_DISCARD;

	if (bio->bi_status) {
		/* break_guest_write: its old content could not be preserved. */
		bio_endio(bio);
		return;
	}
	for (;;) {
		switch (decide(dev, io, discard, false)) {
		case GO:
			submit_held(dev, bio);
			return;
		case SWALLOW:
			bio_endio(bio);
			return;
		case GATE:
			if (gate_park(dev, bio))
				return;
			break;
		case NEEDED:
			if (unlikely(give_back(dev, bio)))
				return;
			if (!io->hold_start)
				io->hold_start = ktime_get();
			if (copy_and_park(dev, bio))
				return;
			break;
		}
		cond_resched();
	}
}

/* Process context; may wait for the origin's queue, never for a store. */
void cbw_remap_work(struct work_struct *work)
{
	struct cbw_device *dev = container_of(work, struct cbw_device, remap_work);
	struct bio_list bios;
	struct blk_plug plug;
	struct bio *bio;

	spin_lock_irq(&dev->remap_lock);
	bios = dev->remap_bios;
	bio_list_init(&dev->remap_bios);
	spin_unlock_irq(&dev->remap_lock);

	blk_start_plug(&plug);
	while ((bio = bio_list_pop(&bios)))
		remap_one(dev, bio);
	blk_finish_plug(&plug);
}
