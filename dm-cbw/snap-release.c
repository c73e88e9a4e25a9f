// SPDX-License-Identifier: GPL-2.0-only
/*
 * Chunks that their reader releases: by having read them (read_once), or by discarding
 * them (discard_releases).  Both count whole chunks only, and neither waits.
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
