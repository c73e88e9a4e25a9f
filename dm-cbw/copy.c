// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies in flight: from the first write to a chunk until its old data is safe.
 *
 *   cbw_copy_start()	reads the old data of neighbouring chunks in one piece, straight
 *			to where a batch will write them from
 *   copy_finish()	the data is in memory: the chunks are done, and the guest's
 *			writes go.  With break_guest_write they go only when the
 *			store has the data (cbw_copy_stored)
 *   cbw_chunk_release() the reader has the chunk: nobody waits any more, and when
 *			the read ends its slot is simply given back
 */
#include "cbw.h"

#include <linux/mm.h>

size_t cbw_copy_size(const struct cbw_snap *snap)
{
	struct cbw_copy *copy;

	return struct_size(copy, vecs, snap->batches[0].nr_pages);
}

/* ---- the table ---------------------------------------------------------------------- */

static struct cbw_copy *copy_find(struct cbw_snap *snap, u64 chunk)
{
	struct rb_node *node = snap->copies.rb_node;

	lockdep_assert_held(&snap->lock);
	while (node) {
		struct cbw_copy *copy = rb_entry(node, struct cbw_copy, node);

		if (chunk < copy->first)
			node = node->rb_left;
		else if (chunk >= copy->first + copy->nr)
			node = node->rb_right;
		else
			return copy;
	}
	return NULL;
}

static void copy_insert(struct cbw_snap *snap, struct cbw_copy *new)
{
	struct rb_node **link = &snap->copies.rb_node, *parent = NULL;

	lockdep_assert_held(&snap->lock);
	while (*link) {
		struct cbw_copy *copy;

		parent = *link;
		copy = rb_entry(parent, struct cbw_copy, node);
		link = new->first < copy->first ? &parent->rb_left :
						  &parent->rb_right;
	}
	rb_link_node(&new->node, parent, link);
	rb_insert_color(&new->node, &snap->copies);
}

/* Chunks from @chunk on, at most @want, that are neither done nor being copied. */
static unsigned int copy_run(struct cbw_snap *snap, u64 chunk, unsigned int want)
{
	unsigned int n;

	lockdep_assert_held(&snap->lock);
	for (n = 1; n < want; n++)
		if (test_bit(chunk + n, snap->done) ||
		    copy_find(snap, chunk + n))
			break;
	return n;
}

/* ---- the end of a copy --------------------------------------------------------------- */

static u64 slot_bit(const struct cbw_copy *copy, unsigned int i)
{
	return 1ULL << (copy->slot + i);
}

/* It has left the table and has no waiters. */
static void copy_free(struct cbw_copy *copy)
{
	struct cbw_snap *snap = copy->snap;

	lockdep_assert_held(&snap->lock);
	mempool_free(copy, &snap->copy_pool);
	cbw_snap_wake_starved(snap);
}

/*
 * Slots of a copy that waits for the store will not be written any more.  What is being
 * written is left to cbw_copy_stored().
 */
static void copy_forget(struct cbw_copy *copy, u64 mask)
{
	struct cbw_snap *snap = copy->snap;

	lockdep_assert_held(&snap->lock);
	copy->storing &= ~(mask & ~copy->batch->writing);
	if (copy->storing)
		return;
	rb_erase(&copy->node, &snap->copies);
	cbw_snap_wake(snap, &copy->waiters, BLK_STS_OK);
	copy_free(copy);
}

/* The read of all or of each chunk has ended.  Any context. */
static void copy_finish(struct cbw_copy *copy)
{
	struct cbw_snap *snap = copy->snap;
	struct cbw_batch *batch = copy->batch;
	struct cbw_device *dev = snap->dev;
	unsigned long flags;
	unsigned int i;

	bio_uninit(&copy->bio);
	cbw_origin_put(copy->origin);

	spin_lock_irqsave(&snap->lock, flags);
	copy->storing = 0;
	for (i = 0; i < copy->nr; i++) {
		u64 chunk = copy->first + i;
		u64 slot = batch->seg * snap->seg_slots + copy->slot + i;

		if (test_bit(chunk, snap->done) || READ_ONCE(snap->over)) {
			/* Released meanwhile, or all is over. */
			cbw_batch_cancel(snap, batch, copy->slot + i);
		} else if (copy->poison & (1ULL << i)) {
			cbw_map_set(snap, chunk, CBW_SLOT_POISON);
			cbw_chunk_done(snap, chunk);
			snap->nr_poisoned++;
			cbw_batch_cancel(snap, batch, copy->slot + i);
		} else {
			cbw_map_set(snap, chunk, slot + 1);
			batch->ready |= slot_bit(copy, i);
			snap->nr_copied++;
			if (snap->break_guest)
				copy->storing |= slot_bit(copy, i);
			else
				cbw_chunk_done(snap, chunk);
		}
	}
	batch->reads--;
	if (copy->storing) {
		copy->state = CBW_COPY_STORING;
	} else {
		rb_erase(&copy->node, &snap->copies);
		cbw_snap_wake(snap, &copy->waiters, BLK_STS_OK);
		copy_free(copy);
	}
	cbw_batch_filled(snap, batch);
	spin_unlock_irqrestore(&snap->lock, flags);

	if (atomic_dec_and_test(&dev->copy_reads))
		wake_up_all(&dev->waitq);
	cbw_snap_event_check(snap);
	cbw_snap_io_done(snap);
}

/**
 * cbw_copy_stored - break_guest_write: slots have reached the store, or could not
 * @snap: the snapshot
 * @batch: their batch
 * @mask: the slots
 * @status: of the write
 */
void cbw_copy_stored(struct cbw_snap *snap, struct cbw_batch *batch, u64 mask,
		     blk_status_t status)
{
	struct rb_node *node = rb_first(&snap->copies);

	lockdep_assert_held(&snap->lock);
	while (node) {
		struct cbw_copy *copy = rb_entry(node, struct cbw_copy, node);
		unsigned int i;

		node = rb_next(node);
		if (copy->batch != batch || copy->state != CBW_COPY_STORING ||
		    !(copy->storing & mask))
			continue;
		for (i = 0; i < copy->nr; i++) {
			u64 chunk = copy->first + i;

			if (!(copy->storing & mask & slot_bit(copy, i)) ||
			    test_bit(chunk, snap->done))
				continue;
			if (!status) {
				cbw_chunk_done(snap, chunk);
				continue;
			}
			cbw_map_set(snap, chunk, CBW_SLOT_NONE);
			snap->nr_copied--;
			cbw_batch_cancel(snap, batch, copy->slot + i);
		}
		copy->storing &= ~mask;
		/* An error goes to those that wait for any part of the copy. */
		if (status)
			cbw_snap_wake(snap, &copy->waiters, status);
		if (copy->storing)
			continue;
		rb_erase(&copy->node, &snap->copies);
		cbw_snap_wake(snap, &copy->waiters, BLK_STS_OK);
		copy_free(copy);
	}
}

/*
 * A read of several chunks failed: find out which of them cannot be read.  Only
 * those are lost to the snapshot.
 */
static void copy_retry_work(struct work_struct *work)
{
	struct cbw_copy *copy = container_of(work, struct cbw_copy, work);
	struct cbw_snap *snap = copy->snap;
	size_t chunk_bytes = cbw_chunk_bytes(snap);
	unsigned int i;

	for (i = 0; i < copy->nr; i++) {
		u64 chunk = copy->first + i;
		sector_t sector = (sector_t)chunk << snap->shift;
		size_t len = (cbw_chunk_end(snap, chunk) - sector) << SECTOR_SHIFT;

		bio_uninit(&copy->bio);
		bio_init(&copy->bio, copy->origin->bdev, copy->vecs,
			 copy->batch->nr_pages, REQ_OP_READ);
		copy->bio.bi_iter.bi_sector = sector;
		cbw_batch_add_pages(copy->batch, &copy->bio,
				    (copy->slot + i) * chunk_bytes, len);
		if (submit_bio_wait(&copy->bio))
			copy->poison |= 1ULL << i;
	}
	copy_finish(copy);
}

static void copy_read_done(void *data)
{
	struct cbw_copy *copy = data;

	if (likely(!copy->bio.bi_status)) {
		copy_finish(copy);
		return;
	}
	INIT_WORK(&copy->work, copy_retry_work);
	queue_work(cbw_wait_wq, &copy->work);
}

static void copy_read_end(struct bio *bio)
{
	struct cbw_copy *copy = container_of(bio, struct cbw_copy, bio);

	if (cbw_hook_defer(CBW_HOOK_COPY_READ,
			   (sector_t)copy->first << copy->snap->shift,
			   (sector_t)copy->nr << copy->snap->shift,
			   copy_read_done, copy))
		return;
	copy_read_done(copy);
}

/* ---- the start of copies -------------------------------------------------------------- */

static void copy_submit(struct cbw_copy *copy)
{
	struct cbw_snap *snap = copy->snap;
	sector_t sector = (sector_t)copy->first << snap->shift;
	sector_t end = cbw_chunk_end(snap, copy->first + copy->nr - 1);
	size_t len = (end - sector) << SECTOR_SHIFT;

	bio_init(&copy->bio, copy->origin->bdev, copy->vecs,
		 copy->batch->nr_pages, REQ_OP_READ);
	copy->bio.bi_iter.bi_sector = sector;
	copy->bio.bi_end_io = copy_read_end;
	WARN_ON_ONCE(cbw_batch_add_pages(copy->batch, &copy->bio,
					 copy->slot * (size_t)cbw_chunk_bytes(snap),
					 len) != len);
	submit_bio(&copy->bio);
}

/* The store or memory cannot take it: the snapshot breaks, or the guest gets the error. */
static blk_status_t copy_fail(struct cbw_snap *snap, unsigned int reason)
{
	if (snap->break_guest)
		return reason == CBW_REASON_STORE_FULL ? BLK_STS_NOSPC :
							 BLK_STS_RESOURCE;
	cbw_snap_break(snap, reason);
	return BLK_STS_OK;
}

/**
 * cbw_copy_start - start the copies that a write to a range needs
 * @snap: the snapshot
 * @sector: start of the range
 * @nr: sectors
 *
 * Process context.  Starts as many as there is room for; what is in flight or done
 * is left alone.  The caller looks again (cbw_copy_park).  Returns an error only
 * with break_guest_write.
 */
blk_status_t cbw_copy_start(struct cbw_snap *snap, sector_t sector, sector_t nr)
{
	u64 chunk = cbw_chunk(snap, sector);
	u64 end = min(cbw_chunk(snap, sector + nr - 1) + 1, snap->nr_chunks);

	while ((chunk = find_next_zero_bit(snap->done, end, chunk)) < end) {
		unsigned int want = min_t(u64, end - chunk, snap->seg_slots);
		struct cbw_copy *copy, *other;
		bool full;

		if (READ_ONCE(snap->over))
			break;
		want = min_t(u64, want, CBW_MAP_PAGE_CHUNKS -
				chunk % CBW_MAP_PAGE_CHUNKS);
		if (cbw_map_prepare(snap, chunk))
			return copy_fail(snap, CBW_REASON_MAP_LIMIT);
		copy = mempool_alloc(&snap->copy_pool, GFP_NOWAIT | __GFP_NOWARN);
		if (!copy)
			break;
		copy->origin = cbw_origin_get(snap->dev);
		if (!copy->origin) {
			mempool_free(copy, &snap->copy_pool);
			cbw_snap_break(snap, CBW_REASON_SOURCE_GONE);
			break;
		}
		spin_lock_irq(&snap->lock);
		other = copy_find(snap, chunk);
		if (other || test_bit(chunk, snap->done) || READ_ONCE(snap->over)) {
			chunk = other ? other->first + other->nr : chunk + 1;
			spin_unlock_irq(&snap->lock);
			cbw_origin_put(copy->origin);
			mempool_free(copy, &snap->copy_pool);
			continue;
		}
		copy->batch = cbw_slots_get(snap, copy_run(snap, chunk, want),
					    &copy->slot, &copy->nr, &full);
		if (!copy->batch) {
			spin_unlock_irq(&snap->lock);
			cbw_origin_put(copy->origin);
			mempool_free(copy, &snap->copy_pool);
			if (full)
				return copy_fail(snap, CBW_REASON_STORE_FULL);
			break;
		}
		copy->snap = snap;
		copy->first = chunk;
		copy->state = CBW_COPY_READING;
		copy->storing = 0;
		copy->poison = 0;
		bio_list_init(&copy->waiters);
		copy_insert(snap, copy);
		cbw_snap_io_start(snap);
		atomic_inc(&snap->dev->copy_reads);
		chunk += copy->nr;
		spin_unlock_irq(&snap->lock);
		copy_submit(copy);
	}
	return BLK_STS_OK;
}

/**
 * cbw_copy_park - let a guest write wait for what it needs
 * @snap: the snapshot
 * @bio: the write
 * @freed: snap->freed before cbw_copy_start()
 *
 * It waits for the first copy that is not done; when that is, it is mapped again and
 * maybe waits for the next.  Returns false, and does not take the bio, when there is
 * nothing to wait for or when something came free that it could use.
 */
bool cbw_copy_park(struct cbw_snap *snap, struct bio *bio, u64 freed)
{
	struct cbw_io *io = cbw_io(bio);
	u64 first = cbw_chunk(snap, io->sector);
	u64 end = min(cbw_chunk(snap, io->sector + io->nr - 1) + 1, snap->nr_chunks);
	struct cbw_copy *copy;
	bool parked = false;
	u64 chunk;

	spin_lock_irq(&snap->lock);
	/* Both are set before those on the lists are woken. */
	if (READ_ONCE(snap->over) || cbw_giving_back(snap->dev))
		goto out;
	chunk = find_next_zero_bit(snap->done, end, first);
	if (chunk >= end)
		goto out;
	copy = copy_find(snap, chunk);
	if (copy) {
		bio_list_add(&copy->waiters, bio);
	} else {
		if (snap->freed != freed)
			goto out;
		bio_list_add(&snap->starved, bio);
	}
	parked = true;
	snap->nr_held++;
	if (snap->timeout_ms)
		queue_delayed_work(cbw_wq, &snap->timeout_work,
				   cbw_snap_timeout_tick(snap));
out:
	spin_unlock_irq(&snap->lock);
	return parked;
}

/**
 * cbw_chunk_release - a chunk is not wanted any more
 * @snap: the snapshot
 * @chunk: the chunk
 * @count: it is a release (else it was never protected)
 *
 * A copy of it in flight is cancelled: the writes that wait go at once, and whatever
 * comes of the read later has no effect, since the chunk is done.
 */
void cbw_chunk_release(struct cbw_snap *snap, u64 chunk, bool count)
{
	struct cbw_copy *copy;
	u32 entry;

	lockdep_assert_held(&snap->lock);
	if (test_bit(chunk, snap->done)) {
		entry = cbw_map_get(snap, chunk);
		if (entry == CBW_SLOT_NONE)
			return;
		cbw_map_set(snap, chunk, CBW_SLOT_NONE);
		if (entry != CBW_SLOT_POISON)
			cbw_slot_release(snap, entry - 1);
		snap->nr_released += count;
		return;
	}
	copy = copy_find(snap, chunk);
	cbw_chunk_done(snap, chunk);
	snap->nr_released += count;
	if (!copy)
		return;
	if (cbw_cured(5))
		cbw_snap_wake(snap, &copy->waiters, BLK_STS_OK);
	if (copy->state == CBW_COPY_STORING) {
		unsigned int slot = copy->slot + (chunk - copy->first);

		/* Unless its write has failed: then the slot was given back. */
		if (cbw_map_get(snap, chunk) != CBW_SLOT_NONE) {
			cbw_map_set(snap, chunk, CBW_SLOT_NONE);
			cbw_batch_cancel(snap, copy->batch, slot);
		}
		copy_forget(copy, 1ULL << slot);
	}
}

/*
 * Wake guest writes held since before a time, all lists: all go on to be mapped again
 * (or end, with a status).
 */
void cbw_copies_wake(struct cbw_snap *snap, blk_status_t status, ktime_t before)
{
	struct rb_node *node = rb_first(&snap->copies);

	lockdep_assert_held(&snap->lock);
	while (node) {
		struct cbw_copy *copy = rb_entry(node, struct cbw_copy, node);

		node = rb_next(node);
		cbw_snap_wake_before(snap, &copy->waiters, status, before);
		/* Nothing goes to the store any more once all is over. */
		if (READ_ONCE(snap->over) && copy->state == CBW_COPY_STORING)
			copy_forget(copy, ~0ULL);
	}
	cbw_snap_wake_before(snap, &snap->starved, status, before);
}
