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

#include <linux/bitmap.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#define DEFAULT_BUFFER_KIB	8192u

/* ---- segments ---------------------------------------------------------------- */

static u64 seg_all(const struct cbw_snap *snap)
{
	return snap->seg_slots == 64 ? ~0ULL : (1ULL << snap->seg_slots) - 1;
}

/* Where can slots be found?  Keep the two indexes right. */
static void seg_index(struct cbw_snap *snap, u64 i)
{
	const struct cbw_segment *seg = &snap->segs[i];
	bool idle = !seg->batch;

	lockdep_assert_held(&snap->lock);
	if (idle && !seg->used)
		__set_bit(i, snap->seg_free);
	else
		__clear_bit(i, snap->seg_free);
	if (idle && seg->used && seg->used != seg_all(snap))
		__set_bit(i, snap->seg_part);
	else
		__clear_bit(i, snap->seg_part);
}

/* Give back what was released while something still used the segment. */
static void seg_settle(struct cbw_snap *snap, u64 i)
{
	struct cbw_segment *seg = &snap->segs[i];

	lockdep_assert_held(&snap->lock);
	if ((seg->batch || seg->readers) && cbw_cured(6))
		return;
	if (seg->pending) {
		seg->used &= ~seg->pending;
		seg->pending = 0;
		cbw_snap_wake_starved(snap);
	}
	if (!seg->batch)
		seg_index(snap, i);
}

static u64 seg_find(struct cbw_snap *snap)
{
	unsigned long *maps[] = { snap->seg_free, snap->seg_part };
	unsigned int m;
	u64 i;

	for (m = 0; m < ARRAY_SIZE(maps); m++) {
		i = find_next_bit(maps[m], snap->nr_segs, snap->seg_cursor);
		if (i >= snap->nr_segs)
			i = find_next_bit(maps[m], snap->nr_segs, 0);
		if (i < snap->nr_segs)
			return i;
	}
	return U64_MAX;
}

/**
 * cbw_slot_release - the chunk in a slot is no longer wanted
 * @snap: the snapshot
 * @slot: the slot; nothing in the map points to it any more
 */
void cbw_slot_release(struct cbw_snap *snap, u32 slot)
{
	u64 i = slot / snap->seg_slots;
	struct cbw_segment *seg = &snap->segs[i];
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
	snap->segs[i].readers--;
	seg_settle(snap, i);
}

/* ---- batches --------------------------------------------------------------------- */

static struct cbw_batch *batch_open(struct cbw_snap *snap)
{
	struct cbw_batch *batch = NULL;
	unsigned int i;
	u64 seg;

	for (i = 0; i < snap->nr_batches; i++) {
		if (!snap->batches[i].live) {
			batch = &snap->batches[i];
			break;
		}
	}
	if (!batch)
		return NULL;
	seg = seg_find(snap);
	if (seg == U64_MAX)
		return NULL;
	snap->seg_cursor = seg + 1;
	batch->seg = seg;
	batch->live = true;
	batch->alloc = 0;
	batch->ready = 0;
	batch->writing = 0;
	batch->written = 0;
	batch->cancelled = 0;
	batch->first_ready = 0;
	snap->segs[seg].batch = batch->index + 1;
	seg_index(snap, seg);
	return batch;
}

static bool batches_live(const struct cbw_snap *snap)
{
	unsigned int i;

	for (i = 0; i < snap->nr_batches; i++)
		if (snap->batches[i].live)
			return true;
	return false;
}

/**
 * cbw_batch_settle - is a batch done with?  Then let its memory and segment go
 * @snap: the snapshot
 * @batch: a batch in use
 */
void cbw_batch_settle(struct cbw_snap *snap, struct cbw_batch *batch)
{
	struct cbw_segment *seg = &snap->segs[batch->seg];

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
	cbw_snap_wake_starved(snap);
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
			*full = !batches_live(snap) &&
				snap->nr_used >= snap->nr_slots;
			return NULL;
		}
		snap->filling = batch;
	}
	seg = &snap->segs[batch->seg];
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
unsigned int cbw_batch_add_pages(struct cbw_batch *batch, struct bio *bio,
				 size_t offset, size_t len)
{
	size_t done = 0;

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

static void batches_free(struct cbw_snap *snap)
{
	unsigned int i, j;

	for (i = 0; snap->batches && i < snap->nr_batches; i++) {
		struct cbw_batch *batch = &snap->batches[i];

		for (j = 0; batch->pages && j < batch->nr_pages; j++)
			if (batch->pages[j])
				__free_page(batch->pages[j]);
		kvfree(batch->pages);
	}
	kvfree(snap->batches);
	snap->batches = NULL;
}

/* Contiguous if that is cheap: then a run is one bio vector. */
static int batch_pages_alloc(struct cbw_batch *batch)
{
	unsigned int order = get_order((size_t)batch->nr_pages << PAGE_SHIFT);
	struct page *block;
	unsigned int j;

	block = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_NORETRY |
			    __GFP_NOWARN, order);
	if (block) {
		split_page(block, order);
		for (j = 0; j < batch->nr_pages; j++)
			batch->pages[j] = block + j;
		return 0;
	}
	for (j = 0; j < batch->nr_pages; j++) {
		batch->pages[j] = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!batch->pages[j])
			return -ENOMEM;
	}
	return 0;
}

static int batches_alloc(struct cbw_snap *snap)
{
	size_t bytes = (size_t)snap->seg_slots * cbw_chunk_bytes(snap);
	unsigned int kib = snap->buffer_kib ? snap->buffer_kib : DEFAULT_BUFFER_KIB;
	unsigned int i;

	snap->nr_batches = max_t(u64, 2, ((u64)kib << 10) / bytes);
	snap->batches = kvcalloc(snap->nr_batches, sizeof(*snap->batches),
				 GFP_KERNEL);
	if (!snap->batches)
		return -ENOMEM;
	for (i = 0; i < snap->nr_batches; i++) {
		struct cbw_batch *batch = &snap->batches[i];

		batch->index = i;
		batch->nr_pages = bytes >> PAGE_SHIFT;
		batch->pages = kvcalloc(batch->nr_pages, sizeof(*batch->pages),
					GFP_KERNEL);
		if (!batch->pages || batch_pages_alloc(batch))
			return -ENOMEM;
	}
	return 0;
}

struct seg_tables {
	u64 nr_slots, nr_segs;
	struct cbw_segment *segs;
	unsigned long *seg_free, *seg_part;
};

static void seg_tables_free(struct seg_tables *t)
{
	kvfree(t->segs);
	kvfree(t->seg_free);
	kvfree(t->seg_part);
}

static int seg_tables_alloc(struct cbw_snap *snap, sector_t sectors,
			    struct seg_tables *t)
{
	size_t words;

	memset(t, 0, sizeof(*t));
	/* Entries of the map are 1 + slot, and the last value is taken. */
	t->nr_slots = min_t(u64, sectors >> snap->shift, U32_MAX - 1);
	t->nr_segs = DIV_ROUND_UP_ULL(t->nr_slots, snap->seg_slots);
	words = BITS_TO_LONGS(t->nr_segs);
	t->segs = kvcalloc(t->nr_segs, sizeof(*t->segs),
			   GFP_KERNEL | __GFP_NOWARN);
	t->seg_free = kvcalloc(words, sizeof(long), GFP_KERNEL | __GFP_NOWARN);
	t->seg_part = kvcalloc(words, sizeof(long), GFP_KERNEL | __GFP_NOWARN);
	if (t->segs && t->seg_free && t->seg_part)
		return 0;
	seg_tables_free(t);
	return -ENOMEM;
}

/* Slots beyond the store's end are taken for ever. */
static void seg_mask_tail(struct cbw_snap *snap)
{
	unsigned int tail = snap->nr_slots % snap->seg_slots;

	if (tail)
		snap->segs[snap->nr_segs - 1].used |=
			seg_all(snap) & ~((1ULL << tail) - 1);
}

static void seg_tables_use(struct cbw_snap *snap, const struct seg_tables *t)
{
	u64 i;

	snap->nr_slots = t->nr_slots;
	snap->nr_segs = t->nr_segs;
	snap->segs = t->segs;
	snap->seg_free = t->seg_free;
	snap->seg_part = t->seg_part;
	seg_mask_tail(snap);
	for (i = 0; i < snap->nr_segs; i++)
		seg_index(snap, i);
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
	struct seg_tables t;

	snap->store_dev = store;
	snap->seg_slots = clamp(CBW_SEGMENT_BYTES / cbw_chunk_bytes(snap), 1u,
				CBW_SEGMENT_SLOTS);
	if (seg_tables_alloc(snap, bdev_nr_sectors(store), &t))
		return -ENOMEM;
	spin_lock_irq(&snap->lock);
	seg_tables_use(snap, &t);
	spin_unlock_irq(&snap->lock);
	return batches_alloc(snap);
}

/* May sleep; nothing is in flight any more. */
void cbw_store_exit(struct cbw_snap *snap)
{
	batches_free(snap);
	kvfree(snap->segs);
	kvfree(snap->seg_free);
	kvfree(snap->seg_part);
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
	struct seg_tables t, old;
	u64 i;

	if (seg_tables_alloc(snap, bdev_nr_sectors(store), &t))
		return -ENOMEM;
	if (t.nr_slots < snap->nr_slots) {
		seg_tables_free(&t);
		return -EINVAL;
	}
	spin_lock_irq(&snap->lock);
	old.segs = snap->segs;
	old.seg_free = snap->seg_free;
	old.seg_part = snap->seg_part;
	for (i = 0; i < snap->nr_segs; i++)
		t.segs[i] = snap->segs[i];
	if (snap->nr_slots % snap->seg_slots)
		t.segs[snap->nr_segs - 1].used &=
			(1ULL << (snap->nr_slots % snap->seg_slots)) - 1;
	snap->store_dev = store;
	snap->low_space = false;
	seg_tables_use(snap, &t);
	cbw_snap_wake_starved(snap);
	spin_unlock_irq(&snap->lock);
	seg_tables_free(&old);
	return 0;
}
