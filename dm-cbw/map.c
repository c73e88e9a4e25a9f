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
 *   needed()		chunks have still to be preserved: begins their copies (copy.c)
 *			and parks the write with the first.  Waits for nothing, so
 *			cbw_map() does it by itself.
 *   cbw_remap()		when the copies are done the write comes here (by remap.c)
 *			and is mapped from the start, under the epoch of that moment
 *   gate_park()	the gate is shut (epoch.c): park until it opens
 *   cbw_intents_park()	bits would be set where the container has no intent (intent.c): park
 *			until it has
 *   cbw_discards_park()	the device's first discard: park until there is memory for
 *			what is discarded (discard.c)
 *
 * A held write has no reference to any epoch: a slow store cannot delay those who
 * wait for old epochs to drain.
 */
#include "cbw.h"

#include <linux/rcupdate.h>

enum verdict {
	GO,		/* marked, holds its epoch */
	SWALLOW,	/* a discard of needed chunks: done without being passed down */
	GATE,		/* the gate is shut */
	PLANES,		/* a discard that has to wait for memory */
	INTENT,		/* it has to wait for the container */
	HELD,		/* parked: not the caller's any more */
	STARVED,	/* the same, and what came free was not enough for it */
	RETRY,		/* what it had to wait for is there by now */
	BACK,		/* must not wait: dm takes it back */
	AGAIN,		/* would have to wait and must not: REQ_NOWAIT */
	FAIL,		/* break_guest_write: bi_status is set */
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
		/*
		 * Bits are only ever set, and the first one may be while we look: it is
		 * looked at once, so that either it is needed or what follows is free as
		 * far as bits are set.
		 */
		next = data_race(find_next_bit(snap->done, end, first));
		if (next > first) {
			needed_end = max_t(sector_t, needed_end,
					   (sector_t)next << snap->shift);
		} else {
			/* As above. */
			next = data_race(find_next_zero_bit(snap->done, end, first));
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
	atomic64_add((u64)nr << SECTOR_SHIFT, &e->dev->stats.discards);
}

/*
 * Set the bit of a persistent bitmap.  Any other bit that the write would set needs the same
 * intents, so when they are not there it has set none yet.
 */
static noinline bool mark_persistent(const struct cbw_mark *m, u64 granule, sector_t sector,
				     sector_t nr, struct cbw_container *c)
{
	bool ok = !c || cbw_intents_ok(c, sector, nr);

	cbw_hook_spin(CBW_HOOK_INTENT_SEEN, sector, nr);
	if (ok || !cbw_cured(16)) {
		set_bit(granule, m->words);
		cbw_bits_touch(m->bits, granule, granule);
	}
	return ok;
}

/* The same for several granules. */
static noinline bool mark_range(const struct cbw_mark *m, sector_t sector, sector_t nr,
				struct cbw_container *c)
{
	if (c && m->bits->persistent && !cbw_bits_all_set(m->bits, sector, nr) &&
	    !cbw_intents_ok(c, sector, nr) && cbw_cured(16))
		return false;
	cbw_bits_mark_range(m->bits, sector, nr);
	return true;
}

/*
 * Test first: a bit that is set already costs no exclusive cache line.  @c: bits are set only
 * where it has intents, false: it has not; NULL: wherever.
 */
static __always_inline bool mark(const struct cbw_epoch *e, sector_t sector,
				 sector_t nr, struct cbw_container *c)
{
	const struct cbw_mark *m = e->marks, *end;
	u64 first, last;

	while ((end = m->end)) {
		first = sector >> m->shift;
		last = (sector + nr - 1) >> m->shift;
		if (likely(first == last)) {
			do {
				if (test_bit(first, m->words))
					continue;
				if (likely(!m->bits->persistent))
					set_bit(first, m->words);
				else if (!mark_persistent(m, first, sector, nr, c))
					return false;
			} while (++m < end);
		} else {
			for (; m < end; m++)
				if (!mark_range(m, sector, nr, c))
					return false;
		}
	}
	return true;
}

/*
 * Without looking for intents: until all such writes have ended the container keeps what
 * they marked when they went down (checkpoint.c).
 */
static noinline void mark_again(const struct cbw_epoch *e, const struct cbw_io *io)
{
	mark(e, io->sector, io->nr, NULL);
}

/*
 * Take an epoch that was fetched in this RCU section.  Fails if it has been killed since:
 * then another one is current.
 */
static __always_inline bool epoch_get(struct cbw_epoch *e)
{
	return percpu_ref_tryget_live_rcu(&e->ref);
}

/*
 * The first discard waits until bitmaps can say what was discarded.  Not one that must not
 * wait, nor one that somebody who gets memory free waits for.
 */
static bool planes_wanted(struct cbw_device *dev, const struct cbw_epoch *e,
			  const struct bio *bio)
{
	if (!e->nr_marks || READ_ONCE(dev->discards_ready))
		return false;
	if (!(bio->bi_opf & REQ_NOWAIT) && !(current->flags & PF_MEMALLOC))
		return true;
	cbw_discards_want(dev);
	return false;
}

/*
 * Snapshots from the @i'th on need chunks of the write: begin the copies, of all of them
 * at once, and park it with the first that is not done.  Does not sleep; leaves the RCU
 * section, which has kept the epoch and its snapshots.
 */
static noinline enum verdict needed(struct cbw_device *dev,
				    const struct cbw_epoch *e, unsigned int i,
				    struct bio *bio, struct cbw_io *io, bool fresh,
				    const struct cbw_snap *turn)
	__releases(RCU)
{
	const sector_t sector = io->sector, nr = io->nr;
	struct cbw_hold hold = { .bio = bio, .turn = turn };
	enum verdict verdict;

	if (fresh)
		io->hold_start = 0;
	if (bio->bi_opf & REQ_NOWAIT) {
		verdict = AGAIN;
		goto out;
	}
	if (cbw_giving_back(dev)) {
		verdict = BACK;
		goto out;
	}
	bio->bi_opf &= ~REQ_POLLED;
	if (!io->hold_start)
		io->hold_start = ktime_get();
	/* Once it is parked the write may be gone: no look at it any more. */
	for (; i < e->nr_snaps && !hold.status; i++)
		if (cbw_snap_needs(e->snaps[i], sector, nr))
			cbw_copy_hold(e->snaps[i], sector, nr, &hold);
	if (hold.parked && turn && hold.starved == turn)
		verdict = STARVED;
	else if (hold.parked)
		verdict = HELD;
	else if (hold.status)
		verdict = FAIL;
	else
		verdict = RETRY;
	if (verdict == FAIL)
		bio->bi_status = hold.status;
out:
	rcu_read_unlock();
	cbw_copies_submit(&hold);
	return verdict;
}

/*
 * Look at all snapshots of an epoch.  Returns the first that needs chunks of the range,
 * or its number of snapshots.
 */
static noinline unsigned int first_that_needs(const struct cbw_epoch *e,
					      sector_t sector, sector_t nr)
{
	unsigned int i;

	for (i = 0; i < e->nr_snaps; i++) {
		if (cbw_snap_needs(e->snaps[i], sector, nr))
			break;
		if (cbw_ahead_hit(e->snaps[i], sector, nr))
			cbw_ahead_kick(e->snaps[i]);
	}
	return i;
}

/*
 * Decide about a write under the current epoch.
 *
 * One RCU section from fetching the epoch to the last mark: who waits for a
 * grace period after publishing another epoch knows that all marks under the
 * old one are there, and getting the ref is safe against the kill.
 *
 * @fresh: it comes from cbw_map(), so a @discard may be split: it is cut where the answer
 * changes, io->nr.  @turn: the snapshot whose starved writes are served, if it is one.
 */
static __always_inline enum verdict decide(struct cbw_device *dev, struct bio *bio,
					   struct cbw_io *io, bool discard,
					   bool fresh, const struct cbw_snap *turn)
{
	sector_t sector = io->sector, nr = io->nr;
	struct cbw_snap *const *snap;
	enum verdict verdict = GO;
	struct cbw_epoch *e;
	unsigned int i;

	rcu_read_lock();
again:
	/* Cut under an epoch that is over since, it may meet a shut gate: whole again. */
	if (discard)
		io->nr = nr = bio_sectors(bio);
	e = rcu_dereference(dev->epoch);
	if (unlikely(e->slow)) {
		verdict = GATE;
		goto out;
	}
	if (discard && e->nr_snaps && cbw_cured(10)) {
		bool swallow = discard_needed(e, sector, &nr);

		if (!fresh && nr != io->nr) {
			/* Held once, it cannot be split: it is but a hint. */
			nr = io->nr;
			swallow = true;
		}
		io->nr = nr;
		cbw_hook_spin(CBW_HOOK_MAP_DISCARD, sector, nr);
		if (swallow) {
			count_discard(e, sector, nr);
			verdict = SWALLOW;
			goto out;
		}
	} else if (!discard || cbw_cured(10)) {
		for (snap = e->snaps; *snap; snap++) {
			if (likely(cbw_snap_quick(*snap, sector, nr)))
				continue;
			i = first_that_needs(e, sector, nr);
			if (i < e->nr_snaps)
				return needed(dev, e, i, bio, io, fresh, turn);
			break;
		}
	}
	if (discard && planes_wanted(dev, e, bio)) {
		verdict = PLANES;
		goto out;
	}
	if (unlikely(!epoch_get(e)))
		goto again;
	cbw_hook_spin(CBW_HOOK_MAP_EPOCH, sector, nr);
	if (unlikely(!mark(e, sector, nr, e->container))) {
		percpu_ref_put(&e->ref);
		verdict = bio->bi_opf & REQ_NOWAIT ? AGAIN :
			  cbw_giving_back(dev) ? BACK : INTENT;
		goto out;
	}
	io->epoch = e;
	if (unlikely(e->planes)) {
		if (discard)
			cbw_discards_mark(e, sector, nr);
		else
			cbw_discards_unmark(e, sector, nr);
	}
out:
	rcu_read_unlock();
	return verdict;
}

/* dm sends the rest of a discard, behind where the answer changes, once more. */
static void accept_part(struct bio *bio)
{
	if (cbw_io(bio)->nr != bio_sectors(bio))
		dm_accept_partial_bio(bio, cbw_io(bio)->nr);
}

static noinline enum verdict decide_discard(struct cbw_device *dev, struct bio *bio,
					    struct cbw_io *io, bool fresh)
{
	enum verdict verdict = decide(dev, bio, io, true, fresh, NULL);

	if (verdict == GO)
		accept_part(bio);
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
		parked = rcu_dereference(dev->epoch)->slow & CBW_SLOW_GATE;
		rcu_read_unlock();
	}
	if (parked)
		bio_list_add(&dev->gate_bios, bio);
	spin_unlock_irqrestore(&dev->gate_lock, flags);
	return parked;
}

static int end_now(struct bio *bio, blk_status_t status)
{
	bio->bi_status = status;
	bio_endio(bio);
	return DM_MAPIO_SUBMITTED;
}

static int end_again(struct cbw_device *dev, struct bio *bio)
{
	atomic64_inc(&dev->stats.again);
	return end_now(bio, BLK_STS_AGAIN);
}

static void remap_one(struct cbw_device *dev, struct bio *bio)
{
	struct bio_list one;

	bio_list_init(&one);
	bio_list_add(&one, bio);
	cbw_remap_queue(dev, &one);
}

/* What cbw_map() does about a write that does not simply go down. */
static noinline int map_slow(struct cbw_device *dev, struct bio *bio,
			     enum verdict verdict)
{
	switch (verdict) {
	case SWALLOW:
		accept_part(bio);
		return end_now(bio, BLK_STS_OK);
	case PLANES:
		accept_part(bio);
		cbw_io(bio)->hold_start = ktime_get();
		if (!cbw_discards_park(dev, bio))
			remap_one(dev, bio);
		return DM_MAPIO_SUBMITTED;
	case INTENT:
		if (bio_op(bio) == REQ_OP_DISCARD)
			accept_part(bio);
		bio->bi_opf &= ~REQ_POLLED;
		cbw_io(bio)->hold_start = ktime_get();
		if (!cbw_intents_park(dev->container, bio))
			remap_one(dev, bio);
		return DM_MAPIO_SUBMITTED;
	case GATE:
		if (bio->bi_opf & REQ_NOWAIT)
			return end_again(dev, bio);
		bio->bi_opf &= ~REQ_POLLED;
		cbw_io(bio)->hold_start = ktime_get();
		cbw_hook_sleep(CBW_HOOK_GATE_SEEN, cbw_io(bio)->sector,
			       cbw_io(bio)->nr);
		if (!gate_park(dev, bio))
			remap_one(dev, bio);
		return DM_MAPIO_SUBMITTED;
	case BACK:
	case RETRY:
		remap_one(dev, bio);
		return DM_MAPIO_SUBMITTED;
	case HELD:
	case STARVED:
		cbw_remap_help(dev);
		return DM_MAPIO_SUBMITTED;
	case AGAIN:
		return end_again(dev, bio);
	case FAIL:
		return end_now(bio, bio->bi_status);
	case GO:
		break;
	}
	return DM_MAPIO_KILL;
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
	enum verdict verdict;

	io->epoch = NULL;
	bio_set_dev(bio, ct->dd->bdev);
	if (!op_is_write(bio_op(bio)) || !bio_sectors(bio))
		return DM_MAPIO_REMAPPED;	/* a read or a flush */
	cbw_hook_reset(io->deferred);
	/* What bi_iter says now is gone at end_io. */
	io->sector = bio->bi_iter.bi_sector;
	io->nr = bio_sectors(bio);

	if (likely(bio_op(bio) != REQ_OP_DISCARD))
		verdict = decide(ct->dev, bio, io, false, true, NULL);
	else
		verdict = decide_discard(ct->dev, bio, io, true);
	if (unlikely(verdict != GO))
		return map_slow(ct->dev, bio, verdict);
	cbw_hook_sleep(CBW_HOOK_MAP_MARKED, io->sector, io->nr);
	return DM_MAPIO_REMAPPED;
}

/*
 * A write has ended whose epoch @e may be over, or has bitmaps with second planes.
 * @discarded: it was a discard, and has not failed.
 */
static noinline void end_slow(struct cbw_device *dev, const struct cbw_epoch *e,
			      const struct cbw_io *io, bool discarded)
{
	const struct cbw_epoch *cur;
	bool over;

	rcu_read_lock();
	cur = rcu_dereference(dev->epoch);
	/*
	 * While the gate is shut the cut has not been made: nothing can have been
	 * copied for it, and what is current is still the epoch before.
	 */
	if (cur && (cur->slow & CBW_SLOW_GATE))
		cur = cur->prev;
	over = cur != e;
	if (cur && over && cbw_cured(1)) {
		mark_again(cur, io);
		atomic64_inc(&dev->stats.marked_again);
	}
	if (over || !discarded)
		cbw_discards_unmark(e, io->sector, io->nr);
	if (cur && over)
		cbw_discards_unmark(cur, io->sector, io->nr);
	rcu_read_unlock();
}

static void end_io_deferred(void *data)
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
 *
 * What is said to be discarded is so only if no write was in flight when the discard went
 * down: one that was says here that there may be data after all.
 */
int cbw_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct cbw_target *ct = ti->private;
	struct cbw_io *io = cbw_io(bio);
	struct cbw_epoch *e = io->epoch;

	if (!e)
		return DM_ENDIO_DONE;
	if (!io->deferred &&
	    cbw_hook_defer(CBW_HOOK_END_IO, io->sector, io->nr, end_io_deferred, bio)) {
		io->deferred = true;
		return DM_ENDIO_INCOMPLETE;
	}
	if (unlikely(rcu_access_pointer(ct->dev->epoch) != e || e->planes))
		end_slow(ct->dev, e, io, bio_op(bio) == REQ_OP_DISCARD && !*error);
	percpu_ref_put(&e->ref);
	return DM_ENDIO_DONE;
}

/* A write that was held goes; it may have been brought here without. */
static void count_held(struct cbw_device *dev, struct bio *bio, bool failed)
{
	if (cbw_io(bio)->hold_start)
		cbw_stats_held(&dev->stats, cbw_io(bio)->hold_start, failed);
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
	count_held(dev, bio, false);
	submit_bio_noacct(bio);
}

/*
 * A suspend that need not flush does not wait for held writes: dm sends them again after
 * the resume.  Not once dm has given that suspend up: it would take it for an error.
 */
static bool give_back(struct cbw_device *dev, struct bio *bio)
{
	if (!cbw_giving_back(dev))
		return false;
	end_now(bio, BLK_STS_DM_REQUEUE);
	return true;
}

/**
 * cbw_remap - map a held write again
 * @dev: the device
 * @bio: the write, the caller's
 * @turn: the snapshot whose starved writes are being served, and it is one; or NULL
 *
 * Process context; does not sleep if called from cbw_map().  Each round either lets the
 * write go, parks it, or has made progress: what was preserved stays preserved.
 * Returns false if @turn has not got enough for it: it is back at the head of those.
 */
bool cbw_remap(struct cbw_device *dev, struct bio *bio, const struct cbw_snap *turn)
{
	struct cbw_io *io = cbw_io(bio);
	enum verdict verdict;

	if (bio->bi_status) {
		/* break_guest_write: its old content could not be preserved. */
		count_held(dev, bio, true);
		bio_endio(bio);
		return true;
	}
	for (;;) {
		if (likely(bio_op(bio) != REQ_OP_DISCARD))
			verdict = decide(dev, bio, io, false, false, turn);
		else
			verdict = decide_discard(dev, bio, io, false);
		switch (verdict) {
		case GO:
			submit_held(dev, bio);
			return true;
		case SWALLOW:
		case FAIL:
			count_held(dev, bio, verdict == FAIL);
			bio_endio(bio);
			return true;
		case GATE:
			if (gate_park(dev, bio))
				return true;
			break;
		case PLANES:
			if (cbw_discards_park(dev, bio))
				return true;
			break;
		case INTENT:
			if (cbw_intents_park(dev->container, bio))
				return true;
			break;
		case HELD:
			return true;
		case STARVED:
			return false;
		case BACK:
			if (give_back(dev, bio))
				return true;
			break;
		case AGAIN:	/* is never held */
		case RETRY:
			break;
		}
		cpu_relax();
	}
}
