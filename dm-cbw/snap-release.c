// SPDX-License-Identifier: GPL-2.0-only
/*
 * Chunks that their reader releases: by having read them (read_once), or by discarding
 * them (discard_releases).  Both count whole chunks only, and neither waits.  And which
 * chunks those are.
 */
#include "snap-read.h"

/*
 * Release the chunks that a range covers whole, the short last one when it is
 * covered to the device's end.  Any context: no more than a discard's worth.
 */
static void release_whole(struct cbw_snap *snap, sector_t sector, sector_t nr)
{
	u64 first = (sector + (1u << snap->shift) - 1) >> snap->shift;
	u64 end = sector + nr >= snap->len ? snap->nr_chunks :
					     cbw_chunk(snap, sector + nr);

	if (first >= end)
		return;
	while (first < end) {
		u64 region = first / CBW_REGION_CHUNKS;
		u64 base = region * CBW_REGION_CHUNKS;
		u64 last = min(end - base, (u64)CBW_REGION_CHUNKS) - 1;

		cbw_region_release(snap, region, GENMASK_ULL(last, first - base), true);
		first = base + CBW_REGION_CHUNKS;
	}
	cbw_snap_event_check(snap);
}

/**
 * cbw_read_once - a read has succeeded, its chunks are not wanted any more
 * @snap: the snapshot
 * @sector: start of the bio
 * @nr: its sectors
 *
 * Any context.  Other reads of these chunks that are in flight end with their data,
 * if they have it or a slot pinned, or find them released when they look again.
 */
void cbw_read_once(struct cbw_snap *snap, sector_t sector, sector_t nr)
{
	if (likely(!READ_ONCE(snap->over)))
		release_whole(snap, sector, nr);
}

/**
 * cbw_snap_discard - a discard on the snapshot's device
 * @snap: the snapshot, started
 * @bio: the discard, of CBW_DISCARD_CHUNKS at most
 */
int cbw_snap_discard(struct cbw_snap *snap, struct bio *bio)
{
	unsigned int over = READ_ONCE(snap->over);

	if (!snap->discard_releases || (over && over != CBW_OVER_ENDED))
		return DM_MAPIO_KILL;
	if (!over)
		release_whole(snap, bio->bi_iter.bi_sector, bio_sectors(bio));
	bio_endio(bio);
	return DM_MAPIO_SUBMITTED;
}

/* So many chunks are looked at in one go, with the lock held. */
#define LIKE_MAX	65536u

/* The end of the chunks from @chunk on that are like it: released, or not. */
static u64 like_chunk(struct cbw_snap *snap, u64 chunk, u64 end, bool *released)
{
	u64 next;

	lockdep_assert_held(&snap->lock);
	end = min(end, chunk + LIKE_MAX);
	/* Bits are set meanwhile, with another lock: what is released then counts or not. */
	next = data_race(find_next_bit(snap->done, end, chunk));
	if (next > chunk) {
		*released = false;
		return next;
	}
	/* As above; the first one is set. */
	next = data_race(find_next_zero_bit(snap->done, end, chunk));
	*released = cbw_map_get(&snap->map, chunk) == CBW_SLOT_NONE;
	if (next - chunk > 1)
		next = chunk + cbw_map_run(&snap->map, chunk, next - chunk);
	else
		next = chunk + 1;
	return next;
}

/**
 * cbw_snap_next_unreleased - the next part of a range that its reader has not released
 * @snap: the snapshot, started; it may have failed or ended since
 * @from: start of the range
 * @end: its end
 * @start: where that part begins
 * @stop: where it ends, in the range
 *
 * The range is protected.  What is released meanwhile counts or not.  What is beyond the
 * snapshot's end was never released.  May sleep.  Returns false when there is none.
 */
bool cbw_snap_next_unreleased(struct cbw_snap *snap, sector_t from, sector_t end,
			      sector_t *start, sector_t *stop)
{
	while (from < end) {
		u64 last = min(cbw_chunk(snap, end - 1), snap->nr_chunks - 1);
		u64 chunk = cbw_chunk(snap, from), next;
		bool released = false;

		/* The last chunk may be a short one. */
		if (from >= snap->len) {
			*start = from;
			*stop = end;
			return true;
		}
		spin_lock_irq(&snap->lock);
		next = like_chunk(snap, chunk, last + 1, &released);
		spin_unlock_irq(&snap->lock);
		if (!released) {
			*start = from;
			*stop = min(end, cbw_chunk_end(snap, next - 1));
			return true;
		}
		from = cbw_chunk_end(snap, next - 1);
		cond_resched();
	}
	return false;
}
