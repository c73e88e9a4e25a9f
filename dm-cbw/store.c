// SPDX-License-Identifier: GPL-2.0-only
/*
 * The store: slots, segments, and the batches in memory that fill them.
 *
 * A slot holds one chunk.  Slots are handed out by segments of up to 64, from one
 * batch at a time, so that what is copied together is written together.
 *
 * A slot is free for reuse when nothing refers to it any more: it was released, and no
 * batch that may still write it is alive, and no snapshot read of its segment is in
 * flight.  Until then it is `pending`.
 */
#include "cbw.h"

#include <linux/mm.h>
#include <linux/slab.h>

/* ---- segments ---------------------------------------------------------------- */

enum seg_list {
	SEG_FREE,		/* no slot taken */
	SEG_PART,		/* some */
	SEG_NO_LIST,		/* all, or a batch fills it */
};

static u64 seg_all(const struct cbw_snap *snap)
{
	return snap->seg_slots == 64 ? ~0ULL : (1ULL << snap->seg_slots) - 1;
}

/* A segment that has been used, or is about to be. */
struct cbw_segment *cbw_seg(const struct cbw_snap *snap, u64 i)
{
	return &snap->seg_pages[i / CBW_SEG_PAGE][i % CBW_SEG_PAGE];
}

static void seg_unlist(struct cbw_snap *snap, struct cbw_segment *seg)
{
	if (seg->list == SEG_NO_LIST)
		return;
	if (seg->next != CBW_SEG_NONE)
		cbw_seg(snap, seg->next)->prev = seg->prev;
	if (seg->prev != CBW_SEG_NONE)
		cbw_seg(snap, seg->prev)->next = seg->next;
	else
		snap->seg_lists[seg->list] = seg->next;
	seg->list = SEG_NO_LIST;
}

/* Where can slots be found?  Keep the lists right. */
static void seg_index(struct cbw_snap *snap, u64 i)
{
	struct cbw_segment *seg = cbw_seg(snap, i);
	enum seg_list list = SEG_NO_LIST;

	lockdep_assert_held(&snap->lock);
	if (!seg->batch && seg->used != seg_all(snap))
		list = seg->used ? SEG_PART : SEG_FREE;
	if (seg->list == list)
		return;
	seg_unlist(snap, seg);
	seg->list = list;
	if (list == SEG_NO_LIST)
		return;
	seg->prev = CBW_SEG_NONE;
	seg->next = snap->seg_lists[list];
	if (seg->next != CBW_SEG_NONE)
		cbw_seg(snap, seg->next)->prev = i;
	snap->seg_lists[list] = i;
}

/* Give back what was released while something still used the segment. */
static void seg_settle(struct cbw_snap *snap, u64 i)
{
	struct cbw_segment *seg = cbw_seg(snap, i);

	lockdep_assert_held(&snap->lock);
	if ((seg->batch || seg->readers) && cbw_cured(6))
		return;
	if (seg->pending) {
		seg->used &= ~seg->pending;
		seg->pending = 0;
		cbw_starved_kick(snap);
	}
	if (!seg->batch)
		seg_index(snap, i);
}

/* Slots of a segment that lie beyond the store's end: taken for ever. */
static u64 seg_beyond(const struct cbw_snap *snap, u64 i)
{
	unsigned int tail = snap->nr_slots % snap->seg_slots;

	return i == snap->nr_segs - 1 && tail ?
	       seg_all(snap) & ~((1ULL << tail) - 1) : 0;
}

/* A segment with a free slot; rather one that was in use before than a new one. */
static u64 seg_take(struct cbw_snap *snap)
{
	struct cbw_segment *seg;
	u64 i;

	lockdep_assert_held(&snap->lock);
	if (snap->seg_lists[SEG_FREE] != CBW_SEG_NONE) {
		i = snap->seg_lists[SEG_FREE];
		seg_unlist(snap, cbw_seg(snap, i));
	} else if (snap->seg_fresh < snap->seg_tabled) {
		i = snap->seg_fresh++;
		seg = cbw_seg(snap, i);
		seg->list = SEG_NO_LIST;
		seg->used = seg_beyond(snap, i);
	} else if (snap->seg_lists[SEG_PART] != CBW_SEG_NONE) {
		i = snap->seg_lists[SEG_PART];
		seg_unlist(snap, cbw_seg(snap, i));
	} else {
		return U64_MAX;
	}
	return i;
}

/**
 * cbw_slot_release - the chunk in a slot is no longer wanted
 * @snap: the snapshot
 * @slot: the slot; nothing in the map points to it any more
 */
void cbw_slot_release(struct cbw_snap *snap, u32 slot)
{
	u64 i = slot / snap->seg_slots;
	struct cbw_segment *seg = cbw_seg(snap, i);
	u64 bit = 1ULL << (slot % snap->seg_slots);

	lockdep_assert_held(&snap->lock);
	seg->pending |= bit;
	snap->nr_used--;
	if (seg->batch) {
		struct cbw_batch *batch = &snap->batches[seg->batch - 1];

		if (batch->alloc & bit)
			batch->cancelled |= bit;
		/* It may have been the last one that the batch had to write. */
		cbw_batch_settle(snap, batch);
	}
	seg_settle(snap, i);
}

/* A snapshot read of a slot in this segment has ended. */
void cbw_seg_unpin(struct cbw_snap *snap, u64 i)
{
	lockdep_assert_held(&snap->lock);
	cbw_seg(snap, i)->readers--;
	seg_settle(snap, i);
}

/* ---- batches --------------------------------------------------------------------- */

static struct cbw_batch *batch_open(struct cbw_snap *snap)
{
	struct cbw_batch *batch;
	u64 seg;

	lockdep_assert_held(&snap->lock);
	batch = list_first_entry_or_null(&snap->idle, struct cbw_batch, node);
	if (!batch)
		return NULL;
	seg = seg_take(snap);
	if (seg == U64_MAX)
		return NULL;
	list_move_tail(&batch->node, &snap->busy);
	snap->nr_idle--;
	snap->batch_used = jiffies;
	batch->seg = seg;
	batch->live = true;
	batch->alloc = 0;
	batch->ready = 0;
	batch->writing = 0;
	batch->written = 0;
	batch->cancelled = 0;
	batch->first_ready = 0;
	cbw_seg(snap, seg)->batch = batch->index + 1;
	return batch;
}

/**
 * cbw_batch_settle - is a batch done with?  Then let its memory and segment go
 * @snap: the snapshot
 * @batch: a batch in use
 */
void cbw_batch_settle(struct cbw_snap *snap, struct cbw_batch *batch)
{
	struct cbw_segment *seg = cbw_seg(snap, batch->seg);

	lockdep_assert_held(&snap->lock);
	if (!batch->live)
		return;
	if (batch == snap->filling) {
		/* Closed when it has no slot left to give. */
		if (seg->used != seg_all(snap))
			return;
		snap->filling = NULL;
	}
	if (batch->reads || batch->readers || batch->writing ||
	    (batch->alloc & ~(batch->written | batch->cancelled)))
		return;
	batch->live = false;
	seg->batch = 0;
	seg_settle(snap, batch->seg);
	seg_index(snap, batch->seg);
	list_move(&batch->node, &snap->idle);
	snap->nr_idle++;
	cbw_starved_kick(snap);
}

/**
 * cbw_slots_get - neighbouring slots for a run of chunks
 * @snap: the snapshot
 * @want: at most so many
 * @slot: the first one within its segment
 * @got: how many
 * @full: set when there is none and none will come free by waiting
 *
 * Returns the batch that they belong to, or NULL.
 */
struct cbw_batch *cbw_slots_get(struct cbw_snap *snap, unsigned int want,
				unsigned int *slot, unsigned int *got, bool *full)
{
	struct cbw_batch *batch = snap->filling;
	struct cbw_segment *seg;
	unsigned int first, n;

	lockdep_assert_held(&snap->lock);
	*full = false;
	if (!batch) {
		batch = batch_open(snap);
		if (!batch) {
			*full = list_empty(&snap->busy) &&
				snap->nr_used >= snap->nr_slots;
			return NULL;
		}
		snap->filling = batch;
	}
	seg = cbw_seg(snap, batch->seg);
	first = __ffs64(~seg->used);
	for (n = 1; n < want && first + n < snap->seg_slots; n++)
		if (seg->used & (1ULL << (first + n)))
			break;
	seg->used |= GENMASK_ULL(first + n - 1, first);
	batch->alloc |= GENMASK_ULL(first + n - 1, first);
	batch->reads++;
	snap->nr_used += n;
	*slot = first;
	*got = n;
	cbw_batch_settle(snap, batch);	/* closes it, if that was the last one */
	return batch;
}

/* A slot of a batch will not be written: nothing was put there, or it was released. */
void cbw_batch_cancel(struct cbw_snap *snap, struct cbw_batch *batch,
		      unsigned int slot)
{
	lockdep_assert_held(&snap->lock);
	cbw_slot_release(snap, batch->seg * snap->seg_slots + slot);
}

/**
 * cbw_batch_filled - a copy into the batch has ended
 * @snap: the snapshot
 * @batch: the batch; ready and cancelled are up to date
 *
 * Any context.  A full batch goes to the store at once, what does not fill one a little
 * later: nothing needs it there early, and what is released before is never written.
 */
void cbw_batch_filled(struct cbw_snap *snap, struct cbw_batch *batch)
{
	u64 todo = batch->ready & ~(batch->written | batch->writing |
				    batch->cancelled);

	lockdep_assert_held(&snap->lock);
	if (todo && !batch->first_ready)
		batch->first_ready = ktime_get();
	if (todo && (snap->break_guest ||
		     (batch != snap->filling && !batch->reads)))
		queue_work(cbw_store_wq, &snap->store_work);
	else if (todo)
		queue_delayed_work(cbw_store_wq, &snap->flush_work,
				   msecs_to_jiffies(20));
	cbw_batch_settle(snap, batch);
}

/* Returns the bytes that fit into @bio. */
unsigned int cbw_batch_add_pages(const struct cbw_snap *snap,
				 struct cbw_batch *batch, struct bio *bio,
				 size_t offset, size_t len)
{
	size_t done = 0;

	if (batch->contig)
		return bio_add_page(bio, batch->pages[offset >> PAGE_SHIFT], len,
				    offset_in_page(offset));
	while (done < len) {
		size_t pos = offset + done;
		unsigned int in = offset_in_page(pos);
		unsigned int n = min_t(size_t, PAGE_SIZE - in, len - done);

		if (bio_add_page(bio, batch->pages[pos >> PAGE_SHIFT], n, in) != n)
			break;
		done += n;
	}
	return done;
}

/* ---- set up -------------------------------------------------------------------------- */

/* May sleep.  The table of pages; they come as the store fills (supply.c). */
static struct cbw_segment **seg_pages_alloc(u64 nr_segs)
{
	return kvcalloc(DIV_ROUND_UP_ULL(nr_segs, CBW_SEG_PAGE),
			sizeof(struct cbw_segment *), GFP_KERNEL | __GFP_NOWARN);
}

static u64 slots_of(const struct cbw_snap *snap, struct block_device *store)
{
	/* Entries of the map are 1 + slot, and the last value is taken. */
	return min_t(u64, bdev_nr_sectors(store) >> snap->shift, U32_MAX - 1);
}

/**
 * cbw_store_init - set up the store of a new snapshot
 * @snap: the snapshot; its chunk is known
 * @store: the device
 *
 * May sleep.  Returns 0 or -ENOMEM; cbw_store_exit() cleans up in either case.
 */
int cbw_store_init(struct cbw_snap *snap, struct block_device *store)
{
	snap->store_dev = store;
	snap->seg_slots = clamp(CBW_SEGMENT_BYTES / cbw_chunk_bytes(snap), 1u,
				CBW_SEGMENT_SLOTS);
	snap->nr_slots = slots_of(snap, store);
	snap->nr_segs = DIV_ROUND_UP_ULL(snap->nr_slots, snap->seg_slots);
	snap->seg_lists[SEG_FREE] = CBW_SEG_NONE;
	snap->seg_lists[SEG_PART] = CBW_SEG_NONE;
	snap->seg_pages = seg_pages_alloc(snap->nr_segs);
	if (!snap->seg_pages)
		return -ENOMEM;
	return cbw_supply_init(snap);
}

/* May sleep; nothing is in flight any more. */
void cbw_store_exit(struct cbw_snap *snap)
{
	u64 i;

	cbw_supply_exit(snap);
	if (!snap->seg_pages)
		return;
	for (i = 0; i < DIV_ROUND_UP_ULL(snap->nr_segs, CBW_SEG_PAGE); i++)
		free_page((unsigned long)snap->seg_pages[i]);
	kvfree(snap->seg_pages);
}

/**
 * cbw_store_grow - the snapshot was reloaded with its store grown
 * @snap: the snapshot
 * @store: the same device, as the new table has it open
 *
 * May sleep.  Returns 0, -ENOMEM, or -EINVAL when it has become smaller.
 */
int cbw_store_grow(struct cbw_snap *snap, struct block_device *store)
{
	u64 nr_slots = slots_of(snap, store), last = snap->nr_segs - 1;
	u64 nr_segs = DIV_ROUND_UP_ULL(nr_slots, snap->seg_slots);
	struct cbw_segment **pages, **old;

	if (nr_slots < snap->nr_slots)
		return -EINVAL;
	pages = seg_pages_alloc(nr_segs);
	if (!pages)
		return -ENOMEM;
	spin_lock_irq(&snap->lock);
	old = snap->seg_pages;
	memcpy(pages, old, DIV_ROUND_UP_ULL(snap->nr_segs, CBW_SEG_PAGE) *
			   sizeof(*pages));
	snap->seg_pages = pages;
	/* What lay beyond the end of the last segment has come free. */
	if (last < snap->seg_fresh)
		cbw_seg(snap, last)->used &= ~seg_beyond(snap, last);
	snap->nr_slots = nr_slots;
	snap->nr_segs = nr_segs;
	if (last < snap->seg_fresh) {
		cbw_seg(snap, last)->used |= seg_beyond(snap, last);
		if (!cbw_seg(snap, last)->batch)
			seg_index(snap, last);
	}
	/* Tables are made by pages: there may be some for the new ones already. */
	snap->seg_tabled = min(round_up(snap->seg_tabled, CBW_SEG_PAGE), nr_segs);
	snap->store_dev = store;
	snap->low_space = false;
	cbw_supply_need(snap);
	cbw_starved_kick(snap);
	spin_unlock_irq(&snap->lock);
	kvfree(old);
	return 0;
}
