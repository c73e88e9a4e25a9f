// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where the sectors of a snapshot are: cut into runs, each with one source.
 *
 * Slots that are neighbours in the store are one run whatever segments they lie in.
 * What a run refers to is pinned until cbw_runs_put().
 */
#include "snap-read.h"

#include <linux/highmem.h>

/*
 * Bits are set meanwhile, under the lock of their region and with release order. One that is
 * missed is one that was set later: who read the origin on the strength of it looks
 * again (cbw_range_moved), who has snap->lock sees a shorter or longer run, each of which
 * was right at some time since.
 */
static u64 next_done(const struct cbw_snap *snap, u64 end, u64 chunk)
{
	/* As above. */
	return data_race(find_next_bit(snap->done, end, chunk));
}

static u64 next_needed(const struct cbw_snap *snap, u64 end, u64 chunk)
{
	/* As above. */
	return data_race(find_next_zero_bit(snap->done, end, chunk));
}

static enum cbw_source over_source(const struct cbw_snap *snap)
{
	return READ_ONCE(snap->over) == CBW_OVER_ENDED ? CBW_GONE : CBW_FAILED;
}

/**
 * cbw_range_moved - may the origin have had newer data when it was read?
 * @snap: the snapshot
 * @sector: start of what was read
 * @nr: sectors
 *
 * Any context.  Then the range has to be read again, some of it from elsewhere.
 */
bool cbw_range_moved(const struct cbw_snap *snap, sector_t sector, sector_t nr)
{
	u64 first = cbw_chunk(snap, sector);
	u64 last = cbw_chunk(snap, sector + nr - 1);

	if (!cbw_cured(4))
		return false;
	/* The read has ended before we look. */
	smp_rmb();
	if (READ_ONCE(snap->over))
		return true;
	return next_done(snap, last + 1, first) <= last;
}

/* Slots of a segment whose data may not be in the store yet. */
static u64 seg_in_memory(const struct cbw_snap *snap, const struct cbw_segment *seg)
{
	/* A segment that was partly free may have old slots in the store and new ones here. */
	return seg->batch ? snap->batches[seg->batch - 1].alloc : 0;
}

/* From @bit on, slots of a mask that are like the first one: set, or not. */
static unsigned int alike(u64 mask, unsigned int bit, unsigned int slots)
{
	if (mask & (1ULL << bit))
		mask = ~mask;
	mask &= ~0ULL << bit;
	return (mask ? min_t(unsigned int, __ffs64(mask), slots) : slots) - bit;
}

/*
 * The slots of @nr chunks, neighbours from @slot on: as many as have one source.
 * Pins them.  Returns their number.
 */
static unsigned int run_slots(struct cbw_snap *snap, u32 slot, unsigned int nr,
			      struct cbw_run *run)
{
	unsigned int bit = slot % snap->seg_slots, got = 0;
	u64 i = slot / snap->seg_slots;
	struct cbw_segment *seg = cbw_seg(snap, i);
	u64 in_memory = seg_in_memory(snap, seg);

	lockdep_assert_held(&snap->lock);
	if (in_memory & (1ULL << bit)) {
		run->from = CBW_FROM_MEMORY;
		run->batch = &snap->batches[seg->batch - 1];
		run->batch->readers++;
		run->offset = bit * (size_t)cbw_chunk_bytes(snap);
		return min(nr, alike(in_memory, bit, snap->seg_slots));
	}
	run->from = CBW_FROM_STORE;
	run->sector = cbw_slot_sector(snap, slot);
	run->seg = i;
	run->nr_segs = 0;
	for (;;) {
		unsigned int n = min(nr - got, alike(in_memory, bit, snap->seg_slots));

		seg->readers++;
		run->nr_segs++;
		got += n;
		if (got == nr || bit + n < snap->seg_slots)
			break;
		seg = cbw_seg(snap, ++i);
		in_memory = seg_in_memory(snap, seg);
		bit = 0;
		if (in_memory & 1)
			break;
	}
	return got;
}

/* The run at @chunk, which is done, as is all before @end.  Returns its end. */
static u64 run_preserved(struct cbw_snap *snap, u64 chunk, u64 end,
			 struct cbw_run *run)
{
	unsigned int nr = 1;
	u32 entry;

	lockdep_assert_held(&snap->lock);
	entry = cbw_map_get(&snap->map, chunk);
	if (end - chunk > 1)
		nr = cbw_map_run(&snap->map, chunk, end - chunk);
	switch (entry) {
	case CBW_SLOT_NONE:
		run->from = CBW_GONE;
		break;
	case CBW_SLOT_POISON:
		run->from = CBW_LOST;
		break;
	default:
		nr = run_slots(snap, entry - 1, nr, run);
	}
	return chunk + nr;
}

static void run_origin(struct cbw_snap *snap, sector_t sector, struct cbw_run *run)
{
	run->origin = cbw_origin_get(snap->dev);
	run->from = run->origin ? CBW_FROM_ORIGIN : CBW_FAILED;
	run->sector = sector;
}

/**
 * cbw_runs_get - the first runs of a range, pinned
 * @snap: the snapshot
 * @sector: start of the range
 * @nr: its sectors
 * @runs: where to put them
 * @max: at most so many
 *
 * Any context.  Returns how many there are, at least one; they have @nr sectors
 * together if that is fewer than @max.
 */
unsigned int cbw_runs_get(struct cbw_snap *snap, sector_t sector, sector_t nr,
			  struct cbw_run *runs, unsigned int max)
{
	u64 chunk = cbw_chunk(snap, sector);
	u64 end = cbw_chunk(snap, sector + nr - 1) + 1;
	sector_t stop = sector + nr;
	unsigned long flags;
	unsigned int n = 0;

	if (likely(!READ_ONCE(snap->over)) &&
	    next_done(snap, end, chunk) >= end) {
		runs->nr = nr;
		run_origin(snap, sector, runs);
		return 1;
	}
	spin_lock_irqsave(&snap->lock, flags);
	while (n < max && chunk < end) {
		struct cbw_run *run = &runs[n++];
		u64 next;

		if (unlikely(READ_ONCE(snap->over))) {
			/* A slot whose write failed is in no batch any more. */
			run->from = over_source(snap);
			next = end;
		} else if (test_bit(chunk, snap->done)) {
			/* Its entry was made under the lock before the bit was set. */
			next = next_needed(snap, end, chunk);
			next = run_preserved(snap, chunk, next, run);
			/* The run may begin within its first chunk. */
			if (run->from == CBW_FROM_MEMORY)
				run->offset += (sector - ((sector_t)chunk << snap->shift))
					       << SECTOR_SHIFT;
			else if (run->from == CBW_FROM_STORE)
				run->sector += sector - ((sector_t)chunk << snap->shift);
		} else {
			next = next_done(snap, end, chunk);
			run_origin(snap, sector, run);
		}
		run->nr = min_t(sector_t, (sector_t)next << snap->shift, stop) - sector;
		sector += run->nr;
		chunk = next;
	}
	spin_unlock_irqrestore(&snap->lock, flags);
	return n;
}

/**
 * cbw_runs_put - unpin the runs that have one source
 * @snap: the snapshot
 * @runs: the runs
 * @nr: their number
 * @from: those of this source
 *
 * Any context.
 */
void cbw_runs_put(struct cbw_snap *snap, const struct cbw_run *runs,
		  unsigned int nr, enum cbw_source from)
{
	unsigned long flags;
	unsigned int i, j;

	if (from == CBW_FROM_ORIGIN) {
		for (i = 0; i < nr; i++)
			if (runs[i].from == from)
				cbw_origin_put(runs[i].origin);
		return;
	}
	spin_lock_irqsave(&snap->lock, flags);
	for (i = 0; i < nr; i++) {
		if (runs[i].from != from)
			continue;
		if (from == CBW_FROM_STORE) {
			for (j = 0; j < runs[i].nr_segs; j++)
				cbw_seg_unpin(snap, runs[i].seg + j);
		} else if (from == CBW_FROM_MEMORY) {
			runs[i].batch->readers--;
			cbw_batch_settle(snap, runs[i].batch);
		}
	}
	spin_unlock_irqrestore(&snap->lock, flags);
}

/* Copy a run that is in memory to where @iter of the bio is. */
void cbw_run_copy_out(const struct cbw_run *run, struct bio *bio,
		      struct bvec_iter iter)
{
	size_t pos = run->offset;
	struct bio_vec bv;

	iter.bi_size = run->nr << SECTOR_SHIFT;
	__bio_for_each_segment(bv, bio, iter, iter) {
		char *to = bvec_kmap_local(&bv);
		size_t done = 0;

		while (done < bv.bv_len) {
			size_t in = offset_in_page(pos);
			size_t n = min_t(size_t, bv.bv_len - done, PAGE_SIZE - in);
			char *from = kmap_local_page(run->batch->pages[pos >> PAGE_SHIFT]);

			memcpy(to + done, from + in, n);
			kunmap_local(from);
			done += n;
			pos += n;
		}
		kunmap_local(to);
		flush_dcache_page(bv.bv_page);
	}
}
