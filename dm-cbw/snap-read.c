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
#include "snap-read.h"

/**
 * struct piece - a part of a read that is in flight by itself
 * @bio: reads that part
 * @vec: its vector, if it has but one
 */
struct piece {
	struct bio bio;
	struct bio_vec vec;
};

/* A block and its pieces are one allocation of this size. */
#define BLOCK_BYTES	4096u
#define BLOCK_RUNS	((BLOCK_BYTES - 64) / (sizeof(struct cbw_run) + sizeof(struct piece)))

/**
 * struct block - neighbouring runs of a read; the pieces follow it in memory
 * @snap: the snapshot
 * @parent: the bio that dm gave us
 * @left: pieces in flight, and the one who makes them
 * @nr: runs
 * @runs: the runs, one after the other
 */
struct block {
	struct cbw_snap *snap;
	struct bio *parent;
	atomic_t left;
	unsigned int nr;
	struct cbw_run runs[BLOCK_RUNS];
};
static_assert(sizeof(struct block) + BLOCK_RUNS * sizeof(struct piece) <= BLOCK_BYTES);

/* The read of a run. */
static struct piece *block_pieces(struct block *block)
{
	return (struct piece *)(block + 1);
}

size_t cbw_snap_io_size(void)
{
	return sizeof(struct cbw_snap_io);
}

size_t cbw_snap_block_size(void)
{
	return BLOCK_BYTES;
}

static struct cbw_snap *snap_of(struct dm_target *ti)
{
	return ((struct cbw_snap_target *)ti->private)->snap;
}

/* ---- in pieces ------------------------------------------------------------------------- */

static void queue_read(struct cbw_snap *snap, struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&snap->lock, flags);
	bio_list_add(&snap->reads, bio);
	queue_work(cbw_store_wq, &snap->read_work);
	spin_unlock_irqrestore(&snap->lock, flags);
}

/* When all of the bio has ended it goes to the worker, for this part (at least). */
static void read_again(struct cbw_snap *snap, struct cbw_snap_io *io, sector_t off,
		       sector_t nr)
{
	unsigned long flags;

	spin_lock_irqsave(&snap->lock, flags);
	io->again_from = io->again ? min(io->again_from, off) : off;
	io->again_to = io->again ? max(io->again_to, off + nr) : off + nr;
	io->again = true;
	spin_unlock_irqrestore(&snap->lock, flags);
}

/*
 * A read of the origin has ended.  Returns false if what it read may be too new and has
 * to be read again.
 */
static bool origin_read_good(struct cbw_snap *snap, struct cbw_snap_io *io,
			     sector_t off, sector_t nr)
{
	if (cbw_range_moved(snap, io->sector + off, nr)) {
		read_again(snap, io, off, nr);
		return false;
	}
	if (READ_ONCE(snap->dev->suspended))
		WRITE_ONCE(io->verify, true);
	return true;
}

static void parent_error(struct bio *parent, blk_status_t status)
{
	struct cbw_snap_io *io = cbw_snap_io(parent);

	if (status && !READ_ONCE(io->status))
		WRITE_ONCE(io->status, status);
}

static void parent_put(struct cbw_snap *snap, struct bio *parent)
{
	struct cbw_snap_io *io = cbw_snap_io(parent);

	if (!atomic_dec_and_test(&io->blocks))
		return;
	if (io->again || io->verify) {
		queue_read(snap, parent);
		return;
	}
	parent->bi_status = io->status;
	bio_endio(parent);
}

static void block_put(struct block *block)
{
	struct cbw_snap *snap = block->snap;
	struct bio *parent = block->parent;

	if (!atomic_dec_and_test(&block->left))
		return;
	cbw_runs_put(snap, block->runs, block->nr, CBW_FROM_STORE);
	mempool_free(block, &snap->read_pool);
	parent_put(snap, parent);
}

static void piece_end(struct bio *bio)
{
	struct piece *piece = container_of(bio, struct piece, bio);
	struct block *block = bio->bi_private;
	struct cbw_run *run = &block->runs[piece - block_pieces(block)];
	struct cbw_snap_io *io = cbw_snap_io(block->parent);
	bool good = true;

	if (run->from == CBW_FROM_ORIGIN) {
		cbw_origin_put(run->origin);
		good = origin_read_good(block->snap, io, run->sector - io->sector,
					run->nr);
	}
	if (unlikely(bio->bi_status) && good)
		parent_error(block->parent, BLK_STS_IOERR);
	bio_uninit(bio);
	block_put(block);
}

/*
 * Read one run.  A clone, but in the block's memory: no allocation per piece, and no
 * look at its vector where that is a single one.
 */
static void piece_submit(struct block *block, unsigned int i,
			 const struct bvec_iter *iter)
{
	struct cbw_run *run = &block->runs[i];
	struct piece *piece = &block_pieces(block)[i];
	struct bio *parent = block->parent, *bio = &piece->bio;
	bool origin = run->from == CBW_FROM_ORIGIN;
	struct block_device *bdev = origin ? run->origin->bdev :
					     block->snap->store_dev;

	piece->vec = bio_iter_iovec(parent, *iter);
	if (piece->vec.bv_len >= run->nr << SECTOR_SHIFT) {
		bio_init(bio, bdev, &piece->vec, 1, parent->bi_opf);
		bio->bi_vcnt = 1;
	} else {
		bio_init(bio, bdev, parent->bi_io_vec, 0, parent->bi_opf);
		bio_set_flag(bio, BIO_CLONED);
		bio->bi_iter = *iter;
	}
	bio->bi_opf &= ~(REQ_NOWAIT | REQ_POLLED);
	bio->bi_ioprio = parent->bi_ioprio;
	bio->bi_iter.bi_sector = run->sector;
	bio->bi_iter.bi_size = run->nr << SECTOR_SHIFT;
	bio->bi_end_io = piece_end;
	bio->bi_private = block;
	cbw_hook_sleep(origin ? CBW_HOOK_SNAP_ORIGIN : CBW_HOOK_SNAP_STORE,
		       cbw_snap_io(parent)->sector +
		       ((cbw_snap_io(parent)->iter.bi_size - iter->bi_size) >> SECTOR_SHIFT),
		       run->nr);
	submit_bio_noacct(bio);
}

/* Read the first runs of [@off, @off + @nr), the data of which is at @iter. */
static sector_t block_read(struct block *block, struct cbw_snap *snap,
			   struct bio *parent, sector_t off, sector_t nr,
			   struct bvec_iter *iter)
{
	struct cbw_snap_io *io = cbw_snap_io(parent);
	struct bvec_iter pos = *iter;
	bool memory = false;
	sector_t got = 0;
	unsigned int i;

	block->snap = snap;
	block->parent = parent;
	block->nr = cbw_runs_get(snap, io->sector + off, nr, block->runs, BLOCK_RUNS);
	atomic_set(&block->left, 1);
	atomic_inc(&io->blocks);
	/*
	 * What is in memory first, and let go of it: guest writes may need that, and a store
	 * that hangs may keep us in a submission.
	 */
	for (i = 0; i < block->nr; i++) {
		struct cbw_run *run = &block->runs[i];

		if (run->from == CBW_FROM_MEMORY) {
			cbw_run_copy_out(run, parent, pos);
			memory = true;
		}
		bio_advance_iter(parent, &pos, run->nr << SECTOR_SHIFT);
	}
	if (memory)
		cbw_runs_put(snap, block->runs, block->nr, CBW_FROM_MEMORY);
	for (i = 0; i < block->nr; i++) {
		struct cbw_run *run = &block->runs[i];

		switch (run->from) {
		case CBW_FROM_ORIGIN:
		case CBW_FROM_STORE:
			atomic_inc(&block->left);
			piece_submit(block, i, iter);
			break;
		case CBW_FROM_MEMORY:
			break;
		default:
			parent_error(parent, cbw_source_status(run->from));
		}
		bio_advance_iter(parent, iter, run->nr << SECTOR_SHIFT);
		got += run->nr;
	}
	block_put(block);
	return got;
}

/*
 * Read a part of a bio, run by run.  May sleep if @gfp does; else what there is no memory
 * for is left to the worker.  Each time that something has to be read again there are
 * fewer chunks that can still move.
 */
static void read_pieces(struct cbw_snap *snap, struct bio *parent, sector_t off,
			sector_t nr, gfp_t gfp)
{
	struct cbw_snap_io *io = cbw_snap_io(parent);
	struct bvec_iter iter = io->iter;

	io->direct = false;
	io->again = false;
	atomic_set(&io->blocks, 1);
	bio_advance_iter(parent, &iter, off << SECTOR_SHIFT);
	while (nr && !READ_ONCE(io->status)) {
		struct block *block = mempool_alloc(&snap->read_pool, gfp);
		sector_t got;

		if (!block) {
			read_again(snap, io, off, nr);
			break;
		}
		got = block_read(block, snap, parent, off, nr, &iter);
		off += got;
		nr -= got;
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
		struct cbw_snap_io *io = cbw_snap_io(bio);

		if (io->verify && !verified) {
			/* For all of the list: they have all ended. */
			check_foreign(snap);
			verified = true;
		}
		if (io->verify && READ_ONCE(snap->over))
			io->again = false;	/* nothing of it is good */
		else if (io->verify && !io->again) {
			io->direct = false;
			bio->bi_status = io->status;
			bio_endio(bio);
			continue;
		}
		io->verify = false;
		if (io->again)
			read_pieces(snap, bio, io->again_from,
				    io->again_to - io->again_from, GFP_NOIO);
		else
			read_pieces(snap, bio, 0, io->nr, GFP_NOIO);
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
 * A read from one source goes there itself, one from several in pieces, from here:
 * they go out when we return and do not depend on each other.  Never sleeps; what
 * has to wait goes to the worker.
 */
int cbw_snap_map(struct dm_target *ti, struct bio *bio)
{
	struct cbw_snap *snap = snap_of(ti);
	struct cbw_snap_io *io = cbw_snap_io(bio);
	struct cbw_run *run = &io->run;

	io->direct = false;
	io->again = false;
	io->verify = false;
	io->status = BLK_STS_OK;
	io->sector = bio->bi_iter.bi_sector;
	io->nr = bio_sectors(bio);
	io->iter = bio->bi_iter;
	atomic_set(&io->blocks, 0);

	if (!READ_ONCE(snap->start_seq))
		return DM_MAPIO_KILL;	/* armed */
	if (bio_op(bio) == REQ_OP_DISCARD)
		return cbw_snap_discard(snap, bio);
	if (bio_op(bio) != REQ_OP_READ || !io->nr)
		return DM_MAPIO_KILL;
	if (!cbw_released(snap->dev, READ_ONCE(snap->start_seq) - 1) &&
	    (bio->bi_opf & REQ_NOWAIT))
		return end_now(bio, BLK_STS_AGAIN);
	if (read_park(snap, bio))
		return DM_MAPIO_SUBMITTED;

	cbw_runs_get(snap, io->sector, io->nr, run, 1);
	if (run->nr < io->nr) {
		cbw_runs_put(snap, run, 1, run->from);
		if (bio->bi_opf & REQ_NOWAIT)
			return end_now(bio, BLK_STS_AGAIN);
		read_pieces(snap, bio, 0, io->nr, GFP_NOWAIT | __GFP_NOWARN);
		return DM_MAPIO_SUBMITTED;
	}
	switch (run->from) {
	case CBW_FROM_ORIGIN:
		io->direct = true;
		bio_set_dev(bio, run->origin->bdev);
		cbw_hook_sleep(CBW_HOOK_SNAP_ORIGIN, io->sector, io->nr);
		return DM_MAPIO_REMAPPED;
	case CBW_FROM_STORE:
		io->direct = true;
		bio_set_dev(bio, snap->store_dev);
		bio->bi_iter.bi_sector = run->sector;
		cbw_hook_sleep(CBW_HOOK_SNAP_STORE, io->sector, io->nr);
		return DM_MAPIO_REMAPPED;
	case CBW_FROM_MEMORY:
		cbw_run_copy_out(run, bio, bio->bi_iter);
		cbw_runs_put(snap, run, 1, run->from);
		return end_now(bio, BLK_STS_OK);
	default:
		return end_now(bio, cbw_source_status(run->from));
	}
}

/* Any context. */
int cbw_snap_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct cbw_snap *snap = snap_of(ti);
	struct cbw_snap_io *io = cbw_snap_io(bio);

	if (io->direct) {
		cbw_runs_put(snap, &io->run, 1, io->run.from);
		if (*error == BLK_STS_AGAIN && (bio->bi_opf & REQ_NOWAIT))
			return DM_ENDIO_DONE;
		if (*error)
			*error = BLK_STS_IOERR;
		if (io->run.from == CBW_FROM_ORIGIN) {
			if (origin_read_good(snap, io, 0, io->nr))
				io->status = *error;
			if (io->again || io->verify) {
				bio->bi_iter = io->iter;
				queue_read(snap, bio);
				return DM_ENDIO_INCOMPLETE;
			}
		}
	}
	/* All of its data has come, and is good. */
	if (unlikely(snap->read_once) && !*error && bio_op(bio) == REQ_OP_READ)
		cbw_read_once(snap, io->sector, io->nr);
	return DM_ENDIO_DONE;
}
