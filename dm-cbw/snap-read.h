/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reads of a snapshot: what snap-read.c, snap-run.c and snap-release.c share.
 */
#ifndef DM_CBW_SNAP_READ_H
#define DM_CBW_SNAP_READ_H

#include "cbw.h"

/* No bio that we get is larger, so the work done in map and at its end is bounded. */
#define CBW_READ_SECTORS_MAX	CBW_CHUNK_SECTORS_MAX
#define CBW_DISCARD_CHUNKS	(64 * CBW_REGION_CHUNKS)
#define CBW_DISCARD_SECTORS	(1u << (30 - SECTOR_SHIFT))

enum cbw_source {
	CBW_FROM_ORIGIN,
	CBW_FROM_STORE,
	CBW_FROM_MEMORY,
	CBW_GONE,	/* released, or never protected: ENODATA */
	CBW_LOST,	/* could not be read from the origin: EIO */
	CBW_FAILED,	/* the snapshot failed: EIO */
};

/**
 * struct cbw_run - neighbouring sectors with one source
 * @from: the source
 * @nr_segs: CBW_FROM_STORE: as many segments are pinned
 * @nr: sectors
 * @sector: CBW_FROM_ORIGIN, CBW_FROM_STORE: where
 * @origin: CBW_FROM_ORIGIN: a reference
 * @seg: CBW_FROM_STORE: the first of the segments
 * @batch: CBW_FROM_MEMORY: the batch, pinned
 * @offset: CBW_FROM_MEMORY: bytes into the batch
 */
struct cbw_run {
	enum cbw_source from;
	unsigned int nr_segs;
	sector_t nr;
	union {
		struct {
			sector_t sector;
			union {
				struct cbw_origin *origin;
				u64 seg;
			};
		};
		struct {
			struct cbw_batch *batch;
			size_t offset;
		};
	};
};

/**
 * struct cbw_snap_io - per-bio data of the snapshot target
 * @sector: where it starts
 * @nr: sectors
 * @iter: its data
 * @run: in flight as one run (@direct)
 * @direct: the bio itself is in flight, to @run's source
 * @again: a part of it has to be read (again),
 * @again_from: from here; snap->lock
 * @again_to: to here, sectors from the start; snap->lock
 * @verify: some of it was read from the origin while the source was suspended
 * @blocks: blocks of pieces in flight, and the one who makes them
 * @status: the first error of a piece
 */
struct cbw_snap_io {
	sector_t sector;
	sector_t nr;
	struct bvec_iter iter;
	struct cbw_run run;
	bool direct;
	bool again;
	sector_t again_from;
	sector_t again_to;
	bool verify;
	atomic_t blocks;
	blk_status_t status;
};

static inline struct cbw_snap_io *cbw_snap_io(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct cbw_snap_io));
}

/* Only a released or unprotected chunk is ENODATA (BLK_STS_MEDIUM). */
static inline blk_status_t cbw_source_status(enum cbw_source from)
{
	return from == CBW_GONE ? BLK_STS_MEDIUM : BLK_STS_IOERR;
}

/* snap-run.c */
unsigned int cbw_runs_get(struct cbw_snap *snap, sector_t sector, sector_t nr,
			  struct cbw_run *runs, unsigned int max);
void cbw_runs_put(struct cbw_snap *snap, const struct cbw_run *runs,
		  unsigned int nr, enum cbw_source from);
bool cbw_range_moved(const struct cbw_snap *snap, sector_t sector, sector_t nr);
void cbw_run_copy_out(const struct cbw_run *run, struct bio *bio,
		      struct bvec_iter iter);

/* snap-release.c */
void cbw_read_once(struct cbw_snap *snap, sector_t sector, sector_t nr);
int cbw_snap_discard(struct cbw_snap *snap, struct bio *bio);

#endif /* DM_CBW_SNAP_READ_H */
