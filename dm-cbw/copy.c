// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies in flight: from the first write to a chunk until its old data is safe.
 *
 *   cbw_copy_hold()	for a write that needs chunks: begins the copies and parks the
 *			write with the first of them.  Allocates from reserves and
 *			never waits, so cbw_map() itself calls it.
 *   cbw_copies_submit() (copy-read.c) reads their old data
 *   cbw_copy_finish()	the data is in memory: the chunks are done, and the guest's
 *			writes go.  With break_guest_write they go only when the
 *			store has the data (cbw_copies_stored)
 *   cbw_region_release() the reader has the chunks: nobody waits any more, and when
 *			the read ends its slots are simply given back
 *
 * The table is a hash of small lists by region, each with a lock.  A region is the chunks
 * of one word of snap->done, so that a word, its copies and those who wait for them
 * have one lock; slots, batches and the map are under snap->lock, inside.
 */
#include "cbw.h"

#include <linux/mm.h>

size_t cbw_copy_size(const struct cbw_snap *snap)
{
	struct cbw_copy *copy;

	return struct_size(copy, vecs, snap->batch_pages);
}

/* ---- the table ---------------------------------------------------------------------- */

static struct cbw_bucket *bucket_of(const struct cbw_snap *snap, u64 region)
{
	return &snap->buckets[region % CBW_BUCKETS];
}

static u64 region_of(const struct cbw_copy *copy)
{
	return copy->first / CBW_REGION_CHUNKS;
}

/* The chunks of a copy, as bits of its region's word. */
static u64 copy_mask(const struct cbw_copy *copy)
{
	unsigned int bit = copy->first % CBW_REGION_CHUNKS;

	return GENMASK_ULL(bit + copy->nr - 1, bit);
}

static u64 slot_bit(const struct cbw_copy *copy, unsigned int i)
{
	return 1ULL << (copy->slot + i);
}

static u64 slot_of(const struct cbw_copy *copy, unsigned int i)
{
	return copy->batch->seg * copy->snap->seg_slots + copy->slot + i;
}

/*
 * Chunks of a region need not be preserved any more: from here on the guest may
 * overwrite them.  The bucket's lock keeps other writers of the word away.
 */
static void region_done(struct cbw_snap *snap, u64 region, u64 mask)
{
	unsigned long *word = (unsigned long *)&snap->done[region];

	lockdep_assert_held(&bucket_of(snap, region)->lock);
	if (!mask)
		return;
	/* Their entries and data come before the bits. */
	smp_store_release(word, *word | mask);
	/* And the bits before any write that they let go. */
	smp_mb();
}

/* ---- the end of a copy --------------------------------------------------------------- */

/* It is in no list and nobody waits for it. */
static void copy_free(struct cbw_copy *copy)
{
	struct cbw_snap *snap = copy->snap;

	lockdep_assert_held(&snap->lock);
	cbw_copy_put(snap, copy);
	cbw_starved_kick(snap);
}

static void copy_read_put(struct cbw_device *dev)
{
	if (atomic_dec_and_test(&dev->copy_reads) && wq_has_sleeper(&dev->waitq))
		wake_up_all(&dev->waitq);
}

/**
 * cbw_copy_finish - the read of all or of each chunk has ended
 * @copy: the copy; copy->poison says which chunks could not be read
 *
 * Any context.  The copy is not the caller's any more.
 */
void cbw_copy_finish(struct cbw_copy *copy)
{
	struct cbw_snap *snap = copy->snap;
	struct cbw_batch *batch = copy->batch;
	u64 region = region_of(copy);
	struct cbw_bucket *bucket = bucket_of(snap, region);
	u64 word, done = 0, storing = 0;
	struct bio_list go;
	unsigned long flags;
	unsigned int i;

	cbw_origin_put(copy->origin);
	bio_list_init(&go);

	spin_lock_irqsave(&bucket->lock, flags);
	spin_lock(&snap->lock);
	word = READ_ONCE(snap->over) ? ~0ULL : snap->done[region];
	for (i = 0; i < copy->nr; i++) {
		u64 chunk = copy->first + i;
		u64 bit = 1ULL << (chunk % CBW_REGION_CHUNKS);

		if (word & bit) {
			/* Released meanwhile, or all is over. */
			cbw_map_unreserve(&snap->map, chunk, 1);
			cbw_batch_cancel(snap, batch, copy->slot + i);
			continue;
		}
		if (unlikely(copy->poison & (1ULL << i))) {
			cbw_batch_cancel(snap, batch, copy->slot + i);
			if (!(copy->wanted & (1ULL << i))) {
				/* Read ahead only: it stays as it was. */
				cbw_map_unreserve(&snap->map, chunk, 1);
				continue;
			}
			cbw_map_set(&snap->map, chunk, CBW_SLOT_POISON);
			snap->nr_poisoned++;
		} else {
			cbw_map_set(&snap->map, chunk, slot_of(copy, i) + 1);
			batch->ready |= slot_bit(copy, i);
			snap->nr_copied++;
			if (snap->break_guest) {
				storing |= slot_bit(copy, i);
				continue;
			}
		}
		done |= bit;
		snap->nr_needed--;
	}
	batch->reads--;
	copy->storing = storing;
	if (storing) {
		list_add_tail(&copy->batch_node, &batch->storing);
	} else {
		go = copy->waiters;
		hlist_del(&copy->node);
		copy_free(copy);
	}
	cbw_batch_filled(snap, batch);
	spin_unlock(&snap->lock);
	region_done(snap, region, done);
	cbw_hold_wake(snap, &go, BLK_STS_OK, KTIME_MAX);
	spin_unlock_irqrestore(&bucket->lock, flags);

	copy_read_put(snap->dev);
	cbw_snap_event_check(snap);
	cbw_snap_io_done(snap);
}

/*
 * break_guest_write: nothing of a copy waits for the store any more.  What still has its
 * slot is done, or could not be stored; the rest was released.  Frees the copy and returns the
 * chunks that are done, for region_done().
 */
static u64 copy_end(struct cbw_copy *copy, struct bio_list *go)
{
	struct cbw_snap *snap = copy->snap;
	unsigned int i;
	u64 done = 0;

	lockdep_assert_held(&snap->lock);
	for (i = 0; i < copy->nr; i++) {
		u64 chunk = copy->first + i;

		if (cbw_map_get(&snap->map, chunk) != slot_of(copy, i) + 1)
			continue;
		if (copy->failed & slot_bit(copy, i)) {
			cbw_map_clear(&snap->map, chunk);
			snap->nr_copied--;
			cbw_batch_cancel(snap, copy->batch, copy->slot + i);
			continue;
		}
		done |= 1ULL << (chunk % CBW_REGION_CHUNKS);
		snap->nr_needed--;
	}
	bio_list_merge(go, &copy->waiters);
	hlist_del(&copy->node);
	copy_free(copy);
	return done;
}

/*
 * The store has, or could not take, all of a copy.  It has left batch->storing, so it is
 * ours; a release may still take its chunks.
 */
static void copy_stored(struct cbw_copy *copy)
{
	struct cbw_snap *snap = copy->snap;
	u64 region = region_of(copy);
	struct cbw_bucket *bucket = bucket_of(snap, region);
	blk_status_t status = copy->failed ? BLK_STS_IOERR : BLK_STS_OK;
	struct bio_list go;
	unsigned long flags;
	u64 done;

	bio_list_init(&go);
	spin_lock_irqsave(&bucket->lock, flags);
	spin_lock(&snap->lock);
	done = copy_end(copy, &go);
	spin_unlock(&snap->lock);
	region_done(snap, region, done);
	/* An error goes to those that wait for any part of the copy. */
	cbw_hold_wake(snap, &go, status, KTIME_MAX);
	spin_unlock_irqrestore(&bucket->lock, flags);
}

/**
 * cbw_copies_stored - break_guest_write: slots have reached the store, or could not
 * @snap: the snapshot
 * @batch: their batch; they are still `writing`
 * @mask: the slots
 * @status: of the write
 *
 * Any context.
 */
void cbw_copies_stored(struct cbw_snap *snap, struct cbw_batch *batch, u64 mask,
		       blk_status_t status)
{
	struct cbw_copy *copy, *tmp;
	unsigned long flags;
	LIST_HEAD(ended);

	spin_lock_irqsave(&snap->lock, flags);
	list_for_each_entry_safe(copy, tmp, &batch->storing, batch_node) {
		if (!(copy->storing & mask))
			continue;
		if (status)
			copy->failed |= copy->storing & mask;
		copy->storing &= ~mask;
		if (!copy->storing)
			list_move_tail(&copy->batch_node, &ended);
	}
	spin_unlock_irqrestore(&snap->lock, flags);
	list_for_each_entry_safe(copy, tmp, &ended, batch_node)
		copy_stored(copy);
}

/*
 * break_guest_write: slots of a copy will not be written any more.  What is being
 * written is left to cbw_copies_stored().  If nothing is left to wait for, that ends the
 * copy: its other chunks have been stored before.  Returns those.
 */
static u64 copy_forget(struct cbw_copy *copy, u64 slots, struct bio_list *go)
{
	lockdep_assert_held(&copy->snap->lock);
	if (!copy->storing)
		return 0;
	copy->storing &= ~(slots & ~copy->batch->writing);
	if (copy->storing)
		return 0;
	list_del(&copy->batch_node);
	return copy_end(copy, go);
}

/* The snapshot is over: nothing goes to the store any more.  Any context. */
void cbw_copies_forget(struct cbw_snap *snap)
{
	struct cbw_bucket *bucket;
	struct hlist_node *tmp;
	struct cbw_copy *copy;
	struct bio_list go;
	unsigned long flags;
	unsigned int i;

	bio_list_init(&go);
	for (i = 0; i < CBW_BUCKETS; i++) {
		bucket = &snap->buckets[i];
		spin_lock_irqsave(&bucket->lock, flags);
		spin_lock(&snap->lock);
		hlist_for_each_entry_safe(copy, tmp, &bucket->copies, node) {
			u64 region = region_of(copy);

			region_done(snap, region, copy_forget(copy, ~0ULL, &go));
		}
		spin_unlock(&snap->lock);
		cbw_hold_wake(snap, &go, BLK_STS_OK, KTIME_MAX);
		spin_unlock_irqrestore(&bucket->lock, flags);
	}
}

/* ---- the start of copies -------------------------------------------------------------- */

/**
 * copy_begin - begin the copy of a run of chunks of one region
 * @snap: the snapshot
 * @chunk: the first
 * @nr: at most so many
 * @hold: for whom
 * @starve: park the write if there is no memory or slot for now
 * @reason: why there will be none, an enum cbw_reason
 *
 * Any context.  Returns the copy, in the table and in hold->reads, or NULL.
 */
static struct cbw_copy *copy_begin(struct cbw_snap *snap, u64 chunk,
				   unsigned int nr, struct cbw_hold *hold,
				   bool starve, unsigned int *reason)
{
	struct cbw_bucket *bucket = bucket_of(snap, chunk / CBW_REGION_CHUNKS);
	struct cbw_device *dev = snap->dev;
	struct cbw_copy *copy = NULL;
	struct cbw_origin *origin;
	bool full;
	int r;

	lockdep_assert_held(&bucket->lock);
	nr = min(nr, snap->seg_slots);
	origin = cbw_origin_get(dev);
	if (!origin) {
		*reason = CBW_REASON_SOURCE_GONE;
		return NULL;
	}
	atomic_inc(&dev->copy_reads);
	/*
	 * A suspend waits for the reads of those who have no write in flight, or they
	 * see that it is there: pairs with cbw_postsuspend().  A write that is parked may
	 * have been given back.
	 */
	smp_mb__after_atomic();
	if ((!hold->bio || hold->parked) && READ_ONCE(dev->suspended))
		goto put;

	spin_lock(&snap->lock);
	/* First come, first served. */
	if (hold->turn != snap && (snap->starving || !bio_list_empty(&snap->starved)))
		goto none;
	if (!hold->bio && !cbw_ahead_room(snap))
		goto none;
	copy = cbw_copy_get(snap);
	if (!copy)
		goto none;
	r = cbw_map_reserve(&snap->map, chunk, nr);
	if (r) {
		if (r == -EDQUOT)
			*reason = CBW_REASON_MAP_LIMIT;
		goto free;
	}
	copy->batch = cbw_slots_get(snap, nr, &copy->slot, &copy->nr, &full);
	if (!copy->batch) {
		cbw_map_unreserve(&snap->map, chunk, nr);
		if (full)
			*reason = CBW_REASON_STORE_FULL;
		goto free;
	}
	if (copy->nr < nr)
		cbw_map_unreserve(&snap->map, chunk + copy->nr, nr - copy->nr);
	cbw_snap_io_start(snap);
	cbw_supply_need(snap);
	spin_unlock(&snap->lock);

	copy->snap = snap;
	copy->first = chunk;
	copy->wanted = 0;
	copy->storing = 0;
	copy->failed = 0;
	copy->poison = 0;
	copy->origin = origin;
	copy->sharers = NULL;
	bio_list_init(&copy->waiters);
	hlist_add_head(&copy->node, &bucket->copies);
	copy->next = hold->reads;
	hold->reads = copy;
	return copy;

free:
	cbw_copy_put(snap, copy);
none:
	if (!*reason) {
		cbw_supply_need(snap);
		/* Under the same lock as what found nothing: no wake-up is missed. */
		if (starve) {
			cbw_hold_add(snap, &snap->starved, hold->bio,
				     hold->turn == snap);
			hold->parked = true;
			hold->starved = snap;
		}
	}
	spin_unlock(&snap->lock);
put:
	copy_read_put(dev);
	cbw_origin_put(origin);
	return NULL;
}

static void copy_park(struct cbw_copy *copy, struct cbw_hold *hold)
{
	lockdep_assert_held(&bucket_of(copy->snap, region_of(copy))->lock);
	cbw_hold_add(copy->snap, &copy->waiters, hold->bio, false);
	hold->parked = true;
}

/*
 * Begin copies of the chunks @want of a region as far as there is room, and park the
 * write with the first.  Returns what was begun.
 */
static u64 region_hold(struct cbw_snap *snap, u64 region, u64 want,
		       struct cbw_hold *hold, unsigned int *reason)
{
	struct cbw_bucket *bucket = bucket_of(snap, region);
	u64 first = want & -want, todo = want;
	struct cbw_copy *copy;
	u64 begun = 0;

	lockdep_assert_held(&bucket->lock);
	hlist_for_each_entry(copy, &bucket->copies, node) {
		u64 mask;

		if (region_of(copy) != region)
			continue;
		mask = copy_mask(copy) & want;
		if (!mask)
			continue;
		todo &= ~mask;
		if (!hold->bio)
			continue;
		copy->wanted |= mask >> (copy->first % CBW_REGION_CHUNKS);
		if (!hold->parked && (mask & first))
			copy_park(copy, hold);
	}
	while (todo) {
		unsigned int bit = __ffs64(todo);
		u64 run = todo >> bit;
		unsigned int nr = ~run ? __ffs64(~run) : CBW_REGION_CHUNKS;

		copy = copy_begin(snap, region * CBW_REGION_CHUNKS + bit, nr, hold,
				  hold->bio && !hold->parked, reason);
		if (!copy)
			break;
		begun |= copy_mask(copy);
		todo &= ~copy_mask(copy);
		if (!hold->bio)
			continue;
		copy->wanted = GENMASK_ULL(copy->nr - 1, 0);
		if (!hold->parked)
			copy_park(copy, hold);
	}
	return begun;
}

/* The store or memory cannot take it: the snapshot breaks, or the guest gets the error. */
static void copy_fail(struct cbw_snap *snap, struct cbw_hold *hold,
		      unsigned int reason)
{
	if (!hold->bio)
		return;
	if (!snap->break_guest || reason == CBW_REASON_SOURCE_GONE)
		cbw_snap_break(snap, reason);
	else
		hold->status = reason == CBW_REASON_STORE_FULL ?
				       BLK_STS_NOSPC : BLK_STS_RESOURCE;
}

/**
 * cbw_copy_hold - begin the copies that a write needs, and let it wait for them
 * @snap: the snapshot
 * @sector: start of the range
 * @nr: sectors
 * @hold: the write, and what becomes of it
 *
 * Does not sleep.  What is in flight or done is left alone; the caller submits what was
 * begun.  If the write is parked it is not the caller's any more.  It waits for the
 * first copy that is not done; when that is, it is mapped again and maybe waits
 * for the next.  If it is not, and there is no error: there was nothing to wait for.
 */
void cbw_copy_hold(struct cbw_snap *snap, sector_t sector, sector_t nr,
		   struct cbw_hold *hold)
{
	u64 first = cbw_chunk(snap, sector);
	u64 last = min(cbw_chunk(snap, sector + nr - 1), snap->nr_chunks - 1);
	u64 region, from = U64_MAX;
	unsigned int reason = 0;
	unsigned long flags;

	for (region = first / CBW_REGION_CHUNKS;
	     region <= last / CBW_REGION_CHUNKS && !reason; region++) {
		struct cbw_bucket *bucket = bucket_of(snap, region);
		u64 base = region * CBW_REGION_CHUNKS, begun = 0, want;

		want = GENMASK_ULL(min(last - base, CBW_REGION_CHUNKS - 1ULL),
				   first > base ? first - base : 0);
		spin_lock_irqsave(&bucket->lock, flags);
		/* Both are set before those that wait are woken. */
		if (READ_ONCE(snap->over) ||
		    (hold->bio && cbw_giving_back(snap->dev))) {
			spin_unlock_irqrestore(&bucket->lock, flags);
			return;
		}
		want &= ~snap->done[region];
		if (want)
			begun = region_hold(snap, region, want, hold, &reason);
		spin_unlock_irqrestore(&bucket->lock, flags);
		if (begun && from == U64_MAX)
			from = base + __ffs64(begun);
		if (hold->starved)
			break;
	}
	if (unlikely(reason) && !hold->parked)
		copy_fail(snap, hold, reason);
	if (hold->bio && from != U64_MAX)
		cbw_ahead_seen(snap, from, last + 1);
}

/*
 * Take the starved writes to a region off their list: what they starve for may not be needed
 * any more, and what was released need not be enough to kick the others before them.
 */
static void starved_take(struct cbw_snap *snap, u64 region, struct bio_list *go)
{
	sector_t start = (sector_t)(region * CBW_REGION_CHUNKS) << snap->shift;
	sector_t end = start + ((sector_t)CBW_REGION_CHUNKS << snap->shift);
	struct bio_list stay;
	struct bio *bio;

	lockdep_assert_held(&snap->lock);
	if (likely(bio_list_empty(&snap->starved)))
		return;
	bio_list_init(&stay);
	while ((bio = bio_list_pop(&snap->starved))) {
		const struct cbw_io *io = cbw_io(bio);

		if (io->sector < end && io->sector + io->nr > start)
			bio_list_add(go, bio);
		else
			bio_list_add(&stay, bio);
	}
	snap->starved = stay;
}

/**
 * cbw_region_release - chunks of a region are not wanted any more
 * @snap: the snapshot
 * @region: the region
 * @mask: the chunks
 * @count: it is a release (else they were never protected)
 *
 * Any context.  Copies of them in flight are cancelled: the writes that wait go at once,
 * and whatever comes of the read later has no effect, since the chunk is done.
 */
void cbw_region_release(struct cbw_snap *snap, u64 region, u64 mask, bool count)
{
	struct cbw_bucket *bucket = bucket_of(snap, region);
	u64 base = region * CBW_REGION_CHUNKS, fresh, kept, stored = 0;
	struct hlist_node *tmp;
	struct cbw_copy *copy;
	struct bio_list go;
	unsigned long flags;

	bio_list_init(&go);
	spin_lock_irqsave(&bucket->lock, flags);
	fresh = mask & ~snap->done[region];
	kept = mask & snap->done[region];
	spin_lock(&snap->lock);
	for (; kept; kept &= kept - 1) {
		u64 chunk = base + __ffs64(kept);
		u32 entry = cbw_map_get(&snap->map, chunk);

		if (entry == CBW_SLOT_NONE)
			continue;
		cbw_map_clear(&snap->map, chunk);
		if (entry != CBW_SLOT_POISON)
			cbw_slot_release(snap, entry - 1);
		snap->nr_released += count;
	}
	snap->nr_needed -= hweight64(fresh);
	if (count)
		snap->nr_released += hweight64(fresh);
	hlist_for_each_entry_safe(copy, tmp, &bucket->copies, node) {
		u64 slots = 0, hit;

		if (region_of(copy) != region || !(copy_mask(copy) & fresh))
			continue;
		if (cbw_cured(5)) {
			bio_list_merge(&go, &copy->waiters);
			bio_list_init(&copy->waiters);
		}
		if (!snap->break_guest)
			continue;
		for (hit = copy_mask(copy) & fresh; hit; hit &= hit - 1) {
			u64 chunk = base + __ffs64(hit);
			unsigned int i = chunk - copy->first;

			slots |= slot_bit(copy, i);
			/* Not read yet, or its write has failed: then it has no slot. */
			if (cbw_map_get(&snap->map, chunk) != slot_of(copy, i) + 1)
				continue;
			cbw_map_clear(&snap->map, chunk);
			cbw_batch_cancel(snap, copy->batch, copy->slot + i);
		}
		stored |= copy_forget(copy, slots, &go);
	}
	if (fresh)
		starved_take(snap, region, &go);
	spin_unlock(&snap->lock);
	region_done(snap, region, fresh | stored);
	cbw_hold_wake(snap, &go, BLK_STS_OK, KTIME_MAX);
	spin_unlock_irqrestore(&bucket->lock, flags);
}
