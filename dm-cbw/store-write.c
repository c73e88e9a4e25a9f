// SPDX-License-Identifier: GPL-2.0-only
/*
 * From the batches to the store.
 *
 * Runs on a workqueue of its own: a store that hangs keeps this worker, and nothing
 * that a guest write or a break waits for.
 */
#include "cbw.h"

#define WRITE_BEHIND_MS	20

/**
 * struct cbw_store_write - a write of neighbouring slots
 * @snap: the snapshot
 * @batch: where the data is; it stays while slots of it are `writing`
 * @mask: the slots
 * @bio: the write
 * @vecs: its vector
 */
struct cbw_store_write {
	struct cbw_snap *snap;
	struct cbw_batch *batch;
	u64 mask;
	struct bio bio;
	struct bio_vec vecs[];
};

size_t cbw_store_write_size(const struct cbw_snap *snap)
{
	struct cbw_store_write *w;

	return struct_size(w, vecs, snap->batch_pages);
}

static void store_write_end(struct bio *bio)
{
	struct cbw_store_write *w = container_of(bio, struct cbw_store_write, bio);
	struct cbw_snap *snap = w->snap;
	struct cbw_batch *batch = w->batch;
	blk_status_t status = bio->bi_status;
	unsigned long flags;

	if (status && !snap->break_guest)
		cbw_snap_break(snap, CBW_REASON_STORE_IO);
	/* While they are `writing` the batch stays what it is. */
	if (snap->break_guest)
		cbw_copies_stored(snap, batch, w->mask, status);
	spin_lock_irqsave(&snap->lock, flags);
	batch->writing &= ~w->mask;
	/* After an error as well: the snapshot, or those slots, are lost. */
	batch->written |= w->mask;
	cbw_batch_settle(snap, batch);
	spin_unlock_irqrestore(&snap->lock, flags);
	bio_uninit(bio);
	mempool_free(w, &snap->write_pool);
	cbw_snap_event_check(snap);
	cbw_snap_io_done(snap);
}

/* Write one run of slots.  May sleep until older store writes have ended. */
static void store_write(struct cbw_snap *snap, struct cbw_batch *batch, u64 mask)
{
	unsigned int first = __ffs64(mask), nr = hweight64(mask);
	size_t chunk = cbw_chunk_bytes(snap);
	u64 slot = batch->seg * snap->seg_slots + first;
	struct cbw_store_write *w;

	cbw_hook_sleep(CBW_HOOK_STORE_WRITE, cbw_slot_sector(snap, slot),
		       nr << snap->shift);
	w = mempool_alloc(&snap->write_pool, GFP_NOIO);
	w->snap = snap;
	w->batch = batch;
	w->mask = mask;
	bio_init(&w->bio, snap->store_dev, w->vecs, snap->batch_pages,
		 REQ_OP_WRITE);
	w->bio.bi_iter.bi_sector = cbw_slot_sector(snap, slot);
	w->bio.bi_end_io = store_write_end;
	WARN_ON_ONCE(cbw_batch_add_pages(snap, batch, &w->bio, first * chunk,
					 nr * chunk) != nr * chunk);
	submit_bio_noacct(&w->bio);
}

/*
 * Which slots of a batch should go to the store now?  *@later: some will in a while.
 * A copy that is stuck in its batch does not keep the others' data from
 * going.
 */
static u64 batch_due(struct cbw_snap *snap, struct cbw_batch *batch, bool *later)
{
	u64 todo;

	lockdep_assert_held(&snap->lock);
	if (!batch->live)
		return 0;
	todo = batch->ready & ~(batch->written | batch->writing |
				batch->cancelled);
	if (!todo)
		return 0;
	if (snap->break_guest || (batch != snap->filling && !batch->reads))
		return todo;
	if (ktime_ms_delta(ktime_get(), batch->first_ready) >= WRITE_BEHIND_MS)
		return todo;
	*later = true;
	return 0;
}

/* The next run of slots that should go to the store now.  Returns its batch or NULL. */
static struct cbw_batch *next_due(struct cbw_snap *snap, u64 *run, bool *later)
{
	struct cbw_batch *batch;
	unsigned int first, end;
	u64 due;

	lockdep_assert_held(&snap->lock);
	if (READ_ONCE(snap->over))
		return NULL;
	list_for_each_entry(batch, &snap->busy, node) {
		due = batch_due(snap, batch, later);
		if (!due)
			continue;
		first = __ffs64(due);
		for (end = first + 1; end < snap->seg_slots; end++)
			if (!(due & (1ULL << end)))
				break;
		*run = GENMASK_ULL(end - 1, first);
		batch->writing |= *run;
		if (!(due & ~*run))
			batch->first_ready = 0;
		cbw_snap_io_start(snap);
		return batch;
	}
	return NULL;
}

static void store_flush(struct cbw_snap *snap)
{
	struct cbw_batch *batch;
	bool later;
	u64 run;

	do {
		later = false;
		spin_lock_irq(&snap->lock);
		batch = next_due(snap, &run, &later);
		spin_unlock_irq(&snap->lock);
		if (batch) {
			store_write(snap, batch, run);
			cbw_hook_sleep(CBW_HOOK_STORE_NEXT, 0, 1);
		}
		cond_resched();
	} while (batch);
	if (later)
		queue_delayed_work(cbw_store_wq, &snap->flush_work,
				   msecs_to_jiffies(WRITE_BEHIND_MS));
}

void cbw_store_work(struct work_struct *work)
{
	store_flush(container_of(work, struct cbw_snap, store_work));
}

void cbw_flush_work(struct work_struct *work)
{
	store_flush(container_of(to_delayed_work(work), struct cbw_snap,
				 flush_work));
}
