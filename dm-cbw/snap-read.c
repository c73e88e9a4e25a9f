// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads of a snapshot.
 *
 * A run of chunks comes from where it is: preserved chunks from the store or, while
 * they are still there, from the batch in memory; all others from the origin.
 *
 * Reads of the origin are optimistic, so that no guest write ever waits for a reader:
 * read, and look again when the read has ended.  A guest write is let go only after its
 * chunks are done (or the snapshot is over), so if they are not done now, no new
 * data can have been there when the origin was read; if they are, the chunk is read
 * again from where it is now.
 *
 * What was in flight before the cut is not held back, so reads of the origin wait
 * until all older epochs have been released.
 */
#include "cbw.h"

#include <linux/highmem.h>

enum source {
	FROM_ORIGIN,
	FROM_STORE,
	FROM_MEMORY,
	GONE,		/* released, or never protected: ENODATA */
	LOST,		/* could not be read from the origin: EIO */
	FAILED,		/* the snapshot failed: EIO */
};

/**
 * struct run - neighbouring sectors with one source
 * @from: the source
 * @nr: sectors
 * @origin: FROM_ORIGIN: a reference
 * @sector: FROM_STORE: where
 * @seg: FROM_STORE: the segment, pinned
 * @batch: FROM_MEMORY: the batch, pinned
 * @offset: FROM_MEMORY: bytes into the batch
 */
struct run {
	enum source from;
	sector_t nr;
	struct cbw_origin *origin;
	sector_t sector;
	u64 seg;
	struct cbw_batch *batch;
	size_t offset;
};

/**
 * struct cbw_snap_io - per-bio data of the snapshot target
 * @sector: where it starts
 * @nr: sectors
 * @iter: its data
 * @run: in flight as one run (@direct)
 * @direct: the bio itself is in flight, to @run's source
 * @moved: some of it was read from the origin too late: read again,
 * @moved_from: from here; snap->lock
 * @moved_to: to here, sectors from the start; snap->lock
 * @verify: some of it was read from the origin while the source was suspended
 * @pieces: pieces in flight, and the one who makes them
 * @status: the first error of a piece
 */
struct cbw_snap_io {
	sector_t sector;
	sector_t nr;
	struct bvec_iter iter;
	struct run run;
	bool direct;
	bool moved;
	sector_t moved_from;
	sector_t moved_to;
	bool verify;
	atomic_t pieces;
	blk_status_t status;
};

/**
 * struct piece - a part of a read that is in flight by itself
 * @parent: the bio that dm gave us
 * @off: first sector, from the parent's
 * @run: its source
 * @bio: a clone of that part
 */
struct piece {
	struct bio *parent;
	sector_t off;
	struct run run;
	struct bio bio;
};

size_t cbw_snap_io_size(void)
{
	return sizeof(struct cbw_snap_io);
}

size_t cbw_snap_read_pad(void)
{
	return offsetof(struct piece, bio);
}

static struct cbw_snap_io *snap_io(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct cbw_snap_io));
}

static struct cbw_snap *snap_of(struct dm_target *ti)
{
	return ((struct cbw_snap_target *)ti->private)->snap;
}

/* ---- where is it? --------------------------------------------------------------------- */

static enum source over_source(const struct cbw_snap *snap)
{
	return READ_ONCE(snap->over) == CBW_OVER_ENDED ? GONE : FAILED;
}

/* Does any part of a range have to be read from elsewhere than the origin by now? */
static bool range_moved(const struct cbw_snap *snap, sector_t sector, sector_t nr)
{
	u64 first = cbw_chunk(snap, sector);
	u64 last = cbw_chunk(snap, sector + nr - 1);

	if (!cbw_cured(4))
		return false;
	/* The read has ended before we look. */
	smp_rmb();
	if (READ_ONCE(snap->over))
		return true;
	return find_next_bit(snap->done, last + 1, first) <= last;
}

/* A run of preserved chunks in neighbouring slots of one segment.  Pins it. */
static void run_preserved(struct cbw_snap *snap, sector_t sector, sector_t nr,
			  struct run *run)
{
	u64 chunk = cbw_chunk(snap, sector), end = cbw_chunk(snap, sector + nr - 1) + 1;
	sector_t in = sector - ((sector_t)chunk << snap->shift);
	u64 next = chunk + 1, in_memory = 0;
	struct cbw_segment *seg;
	u32 entry, slot;

	spin_lock_irq(&snap->lock);
	if (READ_ONCE(snap->over)) {
		/* A slot whose write failed is in no batch any more. */
		run->from = over_source(snap);
		next = end;
		goto out;
	}
	entry = cbw_map_get(&snap->map, chunk);
	if (entry == CBW_SLOT_NONE || entry == CBW_SLOT_POISON) {
		run->from = entry == CBW_SLOT_NONE ? GONE : LOST;
		while (next < end && test_bit(next, snap->done) &&
		       cbw_map_get(&snap->map, next) == entry)
			next++;
		goto out;
	}
	slot = entry - 1;
	run->seg = slot / snap->seg_slots;
	seg = cbw_seg(snap, run->seg);
	/* A segment that was partly free may have old slots in the store and new ones here. */
	if (seg->batch)
		in_memory = snap->batches[seg->batch - 1].alloc;
	run->from = in_memory & (1ULL << (slot % snap->seg_slots)) ? FROM_MEMORY :
								     FROM_STORE;
	while (next < end && test_bit(next, snap->done) &&
	       cbw_map_get(&snap->map, next) == entry + (next - chunk)) {
		u32 s = slot + (next - chunk);

		if (s / snap->seg_slots != run->seg)
			break;
		if (!!(in_memory & (1ULL << (s % snap->seg_slots))) !=
		    (run->from == FROM_MEMORY))
			break;
		next++;
	}
	if (run->from == FROM_MEMORY) {
		run->batch = &snap->batches[seg->batch - 1];
		run->offset = (slot % snap->seg_slots) * (size_t)cbw_chunk_bytes(snap) +
			      (in << SECTOR_SHIFT);
		run->batch->readers++;
	} else {
		run->sector = cbw_slot_sector(snap, slot) + in;
		seg->readers++;
	}
out:
	spin_unlock_irq(&snap->lock);
	run->nr = min_t(sector_t, nr, ((sector_t)next << snap->shift) - sector);
}

/* The first run of a range, pinned.  Process context. */
static void run_get(struct cbw_snap *snap, sector_t sector, sector_t nr,
		    struct run *run)
{
	u64 chunk = cbw_chunk(snap, sector);
	u64 last = cbw_chunk(snap, sector + nr - 1);
	u64 next;

	memset(run, 0, sizeof(*run));
	run->nr = nr;
	if (READ_ONCE(snap->over)) {
		run->from = over_source(snap);
		return;
	}
	if (test_bit(chunk, snap->done)) {
		smp_rmb();	/* pairs with region_done() */
		run_preserved(snap, sector, nr, run);
		return;
	}
	next = find_next_bit(snap->done, last + 1, chunk);
	run->nr = min_t(sector_t, nr, ((sector_t)next << snap->shift) - sector);
	run->origin = cbw_origin_get(snap->dev);
	run->from = run->origin ? FROM_ORIGIN : FAILED;
	run->sector = sector;
}

/* Any context. */
static void run_put(struct cbw_snap *snap, struct run *run)
{
	unsigned long flags;

	switch (run->from) {
	case FROM_ORIGIN:
		cbw_origin_put(run->origin);
		break;
	case FROM_STORE:
		spin_lock_irqsave(&snap->lock, flags);
		cbw_seg_unpin(snap, run->seg);
		spin_unlock_irqrestore(&snap->lock, flags);
		break;
	case FROM_MEMORY:
		spin_lock_irqsave(&snap->lock, flags);
		run->batch->readers--;
		cbw_batch_settle(snap, run->batch);
		spin_unlock_irqrestore(&snap->lock, flags);
		break;
	default:
		break;
	}
}

static void run_copy_out(struct run *run, struct bio *bio, struct bvec_iter iter)
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

/* Only a released or unprotected chunk is ENODATA (BLK_STS_MEDIUM). */
static blk_status_t source_status(enum source from)
{
	return from == GONE ? BLK_STS_MEDIUM : BLK_STS_IOERR;
}

/* ---- in pieces, by the worker ------------------------------------------------------------ */

static void queue_read(struct cbw_snap *snap, struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&snap->lock, flags);
	bio_list_add(&snap->reads, bio);
	queue_work(cbw_store_wq, &snap->read_work);
	spin_unlock_irqrestore(&snap->lock, flags);
}

/*
 * A read of the origin has ended.  If what it read may be too new, the bio goes to the
 * worker when all of it has ended.  Returns true if it has to be read again.
 */
static bool origin_read_done(struct cbw_snap *snap, struct cbw_snap_io *io,
			     sector_t off, sector_t nr)
{
	unsigned long flags;

	if (!range_moved(snap, io->sector + off, nr)) {
		if (READ_ONCE(snap->dev->suspended))
			WRITE_ONCE(io->verify, true);
		return false;
	}
	spin_lock_irqsave(&snap->lock, flags);
	io->moved_from = io->moved ? min(io->moved_from, off) : off;
	io->moved_to = io->moved ? max(io->moved_to, off + nr) : off + nr;
	io->moved = true;
	spin_unlock_irqrestore(&snap->lock, flags);
	return true;
}

static void parent_put(struct cbw_snap *snap, struct bio *parent)
{
	struct cbw_snap_io *io = snap_io(parent);

	if (!atomic_dec_and_test(&io->pieces))
		return;
	if (io->moved || io->verify) {
		queue_read(snap, parent);
		return;
	}
	parent->bi_status = io->status;
	bio_endio(parent);
}

static void parent_error(struct bio *parent, blk_status_t status)
{
	struct cbw_snap_io *io = snap_io(parent);

	if (status && !READ_ONCE(io->status))
		WRITE_ONCE(io->status, status);
}

static void piece_end(struct bio *bio)
{
	struct piece *piece = container_of(bio, struct piece, bio);
	struct bio *parent = piece->parent;
	struct cbw_snap *snap = bio->bi_private;

	run_put(snap, &piece->run);
	if ((piece->run.from != FROM_ORIGIN ||
	     !origin_read_done(snap, snap_io(parent), piece->off, piece->run.nr)) &&
	    bio->bi_status)
		parent_error(parent, BLK_STS_IOERR);
	bio_put(bio);
	parent_put(snap, parent);
}

/*
 * Read a part of a bio, run by run.  May sleep.  Each time that it has to be done again
 * there are fewer chunks that can still move.
 */
static void read_pieces(struct cbw_snap *snap, struct bio *parent, sector_t off,
			sector_t nr)
{
	struct cbw_snap_io *io = snap_io(parent);

	io->direct = false;
	io->moved = false;
	atomic_set(&io->pieces, 1);

	while (nr) {
		struct bvec_iter iter = io->iter;
		sector_t sector = io->sector + off;
		struct piece *piece;
		struct bio *bio;
		struct run run;

		run_get(snap, sector, nr, &run);
		bio_advance_iter(parent, &iter, off << SECTOR_SHIFT);
		if (run.from == FROM_ORIGIN || run.from == FROM_STORE) {
			bool origin = run.from == FROM_ORIGIN;
			struct block_device *bdev = origin ? run.origin->bdev :
							     snap->store_dev;

			bio = bio_alloc_clone(bdev, parent, GFP_NOIO,
					      &snap->read_bios);
			/*
			 * The parent may have been down there before: then it says that
			 * a partition's offset is in its sector, and so does the clone.
			 */
			bio_set_dev(bio, bdev);
			piece = container_of(bio, struct piece, bio);
			piece->parent = parent;
			piece->off = off;
			piece->run = run;
			bio->bi_iter = iter;
			bio->bi_iter.bi_sector = run.sector;
			bio->bi_iter.bi_size = run.nr << SECTOR_SHIFT;
			bio->bi_end_io = piece_end;
			bio->bi_private = snap;
			bio->bi_opf &= ~(REQ_NOWAIT | REQ_POLLED);
			atomic_inc(&io->pieces);
			cbw_hook_sleep(origin ? CBW_HOOK_SNAP_ORIGIN :
						CBW_HOOK_SNAP_STORE, sector, run.nr);
			submit_bio_noacct(bio);
		} else if (run.from == FROM_MEMORY) {
			run_copy_out(&run, parent, iter);
			run_put(snap, &run);
		} else {
			parent_error(parent, source_status(run.from));
		}
		off += run.nr;
		nr -= run.nr;
	}
	parent_put(snap, parent);
}

/* Writes may have passed us by: the snapshot is lost. */
static void check_foreign(struct cbw_snap *snap)
{
	if (likely(!READ_ONCE(snap->dev->suspended)) ||
	    !cbw_device_foreign(snap->dev))
		return;
	cbw_config_lock();
	cbw_device_source_gone(snap->dev);
	cbw_config_unlock();
}

void cbw_snap_read_work(struct work_struct *work)
{
	struct cbw_snap *snap = container_of(work, struct cbw_snap, read_work);
	struct bio_list reads;
	struct blk_plug plug;
	bool verified = false;
	struct bio *bio;

	spin_lock_irq(&snap->lock);
	reads = snap->reads;
	bio_list_init(&snap->reads);
	spin_unlock_irq(&snap->lock);

	blk_start_plug(&plug);
	while ((bio = bio_list_pop(&reads))) {
		struct cbw_snap_io *io = snap_io(bio);

		if (io->verify && !verified) {
			/* For all of the list: they have all ended. */
			check_foreign(snap);
			verified = true;
		}
		if (io->verify && READ_ONCE(snap->over))
			io->moved = false;	/* nothing of it is good */
		else if (io->verify && !io->moved) {
			io->direct = false;
			bio->bi_status = io->status;
			bio_endio(bio);
			continue;
		}
		io->verify = false;
		if (io->moved)
			read_pieces(snap, bio, io->moved_from,
				    io->moved_to - io->moved_from);
		else
			read_pieces(snap, bio, 0, io->nr);
	}
	blk_finish_plug(&plug);
}

/* ---- the target's map and end_io -------------------------------------------------------- */

/* Writes from before the cut may be in flight: park until they are not. */
static bool read_park(struct cbw_snap *snap, struct bio *bio)
{
	u64 before = READ_ONCE(snap->start_seq) - 1;
	bool parked = false;

	if (cbw_released(snap->dev, before) || READ_ONCE(snap->over) ||
	    !cbw_cured(3))
		return false;
	spin_lock_irq(&snap->lock);
	/* cbw_snap_ready() takes the list after either has changed. */
	if (!cbw_released(snap->dev, before) && !READ_ONCE(snap->over)) {
		bio_list_add(&snap->parked, bio);
		parked = true;
	}
	spin_unlock_irq(&snap->lock);
	return parked;
}

static int end_now(struct bio *bio, blk_status_t status)
{
	bio->bi_status = status;
	bio_endio(bio);
	return DM_MAPIO_SUBMITTED;
}

/**
 * cbw_snap_map - map a bio of a snapshot
 * @ti: the table instance
 * @bio: the bio
 *
 * A read from one source goes there itself; one from several goes to the worker.
 */
int cbw_snap_map(struct dm_target *ti, struct bio *bio)
{
	struct cbw_snap *snap = snap_of(ti);
	struct cbw_snap_io *io = snap_io(bio);
	struct run *run = &io->run;

	io->direct = false;
	io->moved = false;
	io->verify = false;
	io->status = BLK_STS_OK;
	io->sector = bio->bi_iter.bi_sector;
	io->nr = bio_sectors(bio);
	io->iter = bio->bi_iter;
	atomic_set(&io->pieces, 0);

	if (bio_op(bio) != REQ_OP_READ || !io->nr)
		return DM_MAPIO_KILL;
	if (!READ_ONCE(snap->start_seq))
		return DM_MAPIO_KILL;	/* armed */
	if (!cbw_released(snap->dev, READ_ONCE(snap->start_seq) - 1) &&
	    (bio->bi_opf & REQ_NOWAIT))
		return end_now(bio, BLK_STS_AGAIN);
	if (read_park(snap, bio))
		return DM_MAPIO_SUBMITTED;

	run_get(snap, io->sector, io->nr, run);
	if (run->nr < io->nr) {
		run_put(snap, run);
		if (bio->bi_opf & REQ_NOWAIT)
			return end_now(bio, BLK_STS_AGAIN);
		queue_read(snap, bio);
		return DM_MAPIO_SUBMITTED;
	}
	switch (run->from) {
	case FROM_ORIGIN:
		io->direct = true;
		bio_set_dev(bio, run->origin->bdev);
		cbw_hook_sleep(CBW_HOOK_SNAP_ORIGIN, io->sector, io->nr);
		return DM_MAPIO_REMAPPED;
	case FROM_STORE:
		io->direct = true;
		bio_set_dev(bio, snap->store_dev);
		bio->bi_iter.bi_sector = run->sector;
		cbw_hook_sleep(CBW_HOOK_SNAP_STORE, io->sector, io->nr);
		return DM_MAPIO_REMAPPED;
	case FROM_MEMORY:
		run_copy_out(run, bio, bio->bi_iter);
		run_put(snap, run);
		return end_now(bio, BLK_STS_OK);
	default:
		return end_now(bio, source_status(run->from));
	}
}

/* Any context. */
int cbw_snap_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct cbw_snap *snap = snap_of(ti);
	struct cbw_snap_io *io = snap_io(bio);

	if (!io->direct)
		return DM_ENDIO_DONE;
	run_put(snap, &io->run);
	if (*error == BLK_STS_AGAIN && (bio->bi_opf & REQ_NOWAIT))
		return DM_ENDIO_DONE;
	if (*error)
		*error = BLK_STS_IOERR;
	if (io->run.from == FROM_ORIGIN) {
		if (!origin_read_done(snap, io, 0, io->nr))
			io->status = *error;
		if (io->moved || io->verify) {
			bio->bi_iter = io->iter;
			queue_read(snap, bio);
			return DM_ENDIO_INCOMPLETE;
		}
	}
	return DM_ENDIO_DONE;
}
