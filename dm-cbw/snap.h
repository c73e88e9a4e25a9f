/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Snapshots: their objects, who owns them and what guards each member.  Part of
 * cbw.h, which has the order of the locks.
 */
#ifndef DM_CBW_SNAP_H
#define DM_CBW_SNAP_H

#include "chunkmap.h"

/* ---- snapshots: snap.c and below --------------------------------------------------- */

/* Units of the store that are written in one piece and tracked together. */
#define CBW_SEGMENT_BYTES	(256u << 10)
#define CBW_SEGMENT_SLOTS	64u
#define CBW_CHUNK_SECTORS_MIN	8u
#define CBW_CHUNK_SECTORS_MAX	2048u

/* snap->over: why nothing is needed any more; else an enum cbw_reason */
#define CBW_OVER_ENDED		255	/* removed, or its session died */

/* Chunks whose bits share a word of snap->done; no copy crosses a region's end. */
#define CBW_REGION_CHUNKS	64u
#define CBW_BUCKETS		64u	/* of the table of copies */

#define CBW_SEG_NONE		U32_MAX

/**
 * struct cbw_segment - a run of slots of the store; snap->lock
 * @used: slots taken
 * @pending: taken slots that are free as soon as nothing reads or writes them
 * @readers: snapshot reads of slots in flight
 * @batch: 1 + index of the batch that fills it, 0: none
 * @list: the list that it is in, enum seg_list of store.c
 * @prev: in that list, CBW_SEG_NONE: none
 * @next: in that list
 */
struct cbw_segment {
	u64 used;
	u64 pending;
	u32 readers;
	u16 batch;
	u16 list;
	u32 prev;
	u32 next;
};

#define CBW_SEG_PAGE		(PAGE_SIZE / sizeof(struct cbw_segment))

/**
 * struct cbw_batch - memory for one segment while it is being filled; snap->lock
 * @node: in snap->idle (has memory), snap->bare (has none) or snap->busy (@live)
 * @index: in snap->batches
 * @seg: the segment, valid while @live
 * @live: in use
 * @alloc: slots given to copies
 * @ready: slots whose data is in memory
 * @writing: slots being written to the store
 * @written: slots that are in the store
 * @cancelled: slots released before they were written
 * @reads: copies in flight into it
 * @readers: snapshot reads from memory
 * @first_ready: when the oldest unwritten data came
 * @storing: with break_guest_write: copies that wait for the store
 * @pages: the memory, snap->batch_pages of them; NULL: none
 * @contig: they follow each other in memory
 */
struct cbw_batch {
	struct list_head node;
	unsigned int index;
	u64 seg;
	bool live;
	u64 alloc;
	u64 ready;
	u64 writing;
	u64 written;
	u64 cancelled;
	unsigned int reads;
	unsigned int readers;
	ktime_t first_ready;
	struct list_head storing;
	struct page **pages;
	bool contig;
};

/**
 * struct cbw_copy - a run of chunks of one region being copied
 *
 * Never part of a guest bio: a release lets the guest's write go while the
 * read is still in flight.
 *
 * @node: in its bucket; the bucket's lock
 * @batch_node: in batch->storing; snap->lock
 * @next: to be submitted, the one who began it; or in the sharers of another copy, its
 *	owner; or in snap->copies, snap->lock
 * @sharers: copies for other snapshots that get what this one has read; who submits the
 *	read, then who has it ended
 * @snap: the snapshot (which waits for its copies before it goes)
 * @first: first chunk
 * @nr: chunks
 * @batch: where the data goes
 * @slot: first slot within the segment
 * @wanted: chunks of the run that guest writes wait for, the others were read
 *	ahead; the bucket's lock
 * @storing: with break_guest_write: slots not yet stored, as in the batch's masks;
 *	snap->lock
 * @failed: with break_guest_write: slots that could not be stored; snap->lock
 * @poison: chunks of the run that could not be read; whoever has the ended read
 * @waiters: guest writes that wait for this copy; the bucket's lock
 * @origin: reference for the read
 * @work: reads chunk by chunk after an error
 * @bio: the read; of a sharer only its status, unless that is an error
 * @vecs: its vector
 */
struct cbw_copy {
	struct hlist_node node;
	struct list_head batch_node;
	struct cbw_copy *next;
	struct cbw_copy *sharers;
	struct cbw_snap *snap;
	u64 first;
	unsigned int nr;
	struct cbw_batch *batch;
	unsigned int slot;
	u64 wanted;
	u64 storing;
	u64 failed;
	u64 poison;
	struct bio_list waiters;
	struct cbw_origin *origin;
	struct work_struct work;
	struct bio bio;
	struct bio_vec vecs[];
};

/**
 * struct cbw_bucket - a part of the table of copies in flight
 * @lock: (irq) guards the copies of its regions, the writes that wait for them, and
 *	the words of snap->done of its regions against other writers
 * @copies: struct cbw_copy
 */
struct cbw_bucket {
	spinlock_t lock;
	struct hlist_head copies;
} ____cacheline_aligned_in_smp;

/**
 * struct cbw_stream - a sequential writer; snap->lock
 * @next: the first chunk that was not copied for it
 * @window: chunks to copy ahead of it, 0: not seen to be sequential yet
 */
struct cbw_stream {
	u64 next;
	u32 window;
};

#define CBW_STREAMS		4u
#define CBW_AHEAD_NONE		U64_MAX

/**
 * struct cbw_snap - the state of one snapshot; belongs to its mapped device
 *
 * @ref: table instances, epochs, users in flight
 * @node: in dev->snaps, cbw_config_mutex
 * @all_node: in the list of all snapshots, until the last instance goes;
 *	cbw_config_mutex
 * @txn_node: in a transaction, cbw_config_mutex
 * @md: the snapshot's mapped device
 * @devt: its number
 * @dev: the source, a reference
 * @source: keeps the source open, so that it cannot be removed
 * @instances: table instances, cbw_config_mutex
 * @ti: the instance to raise events on, cbw_config_mutex
 * @pair: memory for the epoch without this snapshot; set aside so that
 *	removal cannot fail; cbw_config_mutex
 * @len: size in sectors
 * @shift: log2 of the chunk in sectors
 * @nr_chunks: chunks of the device
 * @break_guest: on_cbw_error break_guest_write
 * @timeout_ms: longest hold, 0: no bound
 * @buffer_kib: as asked for, 0: default
 * @bitmap: name of the bitmap it is limited to, len 0: none
 * @armed: only a transaction makes the cut
 * @limit: the frozen bitmap it is limited to, until @limit_work is done with it
 * @cut: cbw_config_mutex; set at the cut
 * @start_seq: the epoch that the cut published; 0: no cut yet; set once
 * @session: the session that started it; cbw_config_mutex; compared, not followed
 * @over: not 0: nothing is needed any more; set once, before any write is let go
 * @done: chunks not needed: preserved, released or not protected.
 *	Set (never cleared) after the chunk's place in @map, under the bucket's lock
 * @buckets: copies in flight
 * @nr_held: guest writes held
 * @max_hold_us: longest hold so far
 * @ahead_at: a write here has the next window copied ahead; read freely, set
 *	under @lock; CBW_AHEAD_NONE: none
 * @lock: guards what follows
 * @map: chunk -> 1 + slot
 * @starved: guest writes waiting for a batch, a slot, a copy object or memory
 * @starving: @starved_work is at work: nobody else may take what came free
 * @streams: sequential writers
 * @stream: the newest of them
 * @ahead_stream: the one that @ahead_at belongs to
 * @ahead_from: what @ahead_work has to copy,
 * @ahead_to: up to here
 * @nr_needed, @nr_released, @nr_copied, @nr_poisoned: chunks
 * @discards: bytes of guest discards not passed down
 * @nr_used: slots taken, pending ones not
 * @nr_slots: capacity
 * @seg_slots: slots in a segment
 * @nr_segs: segments
 * @seg_pages: their state, in pages that are added as the store fills
 * @seg_tabled: segments that have one
 * @seg_fresh: the first segment that was never used
 * @seg_lists: segments without a batch that have a free slot
 * @batches: all batches
 * @nr_batches: their number
 * @batch_pages: pages of each
 * @copies: copy objects not in use
 * @nr_copies: their number
 * @nr_copies_all: those in use as well
 * @idle: batches with memory; the others are in @bare, those in use in @busy
 * @nr_idle: how many are in @idle
 * @nr_filled: how many have memory
 * @batch_used: when one was last taken, in jiffies
 * @filling: the batch that gives out slots, or NULL
 * @nr_ios: copies and store writes in flight (dm drains the reads)
 * @waitq: woken when @nr_ios falls to 0
 * @parked: snapshot reads that wait for older epochs; @lock
 * @reads: snapshot reads to be done by @read_work; @lock
 * @low_space: 80 % of the store are taken, reported once; @lock
 * @drained: nothing was needed any more, reported once; @lock
 * @told: bits of enum cbw_event_type that sessions were told of; @event_work
 * @store_dev: where slots are; a reload may give it anew, but it is the same device
 * @write_pool: struct cbw_store_write
 * @read_pool: blocks of snapshot reads
 * @read_once: a chunk that was read whole is released
 * @discard_releases: a discard of the snapshot's device releases
 */
struct cbw_snap {
	struct kref ref;
	struct list_head node;
	struct list_head all_node;
	struct list_head txn_node;
	struct mapped_device *md;
	dev_t devt;
	struct cbw_device *dev;
	struct cbw_bdev_handle source;
	unsigned int instances;
	struct dm_target *ti;
	struct cbw_epoch_pair pair;

	sector_t len;
	unsigned int shift;
	u64 nr_chunks;
	bool break_guest;
	unsigned int timeout_ms;
	unsigned int buffer_kib;
	u8 *bitmap;
	unsigned int bitmap_len;
	bool armed;
	struct cbw_bits *limit;

	struct cbw_cut_id cut;
	u64 start_seq;
	struct cbw_session *session;

	unsigned int over;
	unsigned long *done;
	struct cbw_bucket *buckets;
	atomic_t nr_held;
	u64 max_hold_us;
	u64 ahead_at;

	spinlock_t lock;
	struct cbw_map map;
	struct bio_list starved;
	bool starving;
	struct cbw_stream streams[CBW_STREAMS];
	unsigned int stream;
	unsigned int ahead_stream;
	u64 ahead_from;
	u64 ahead_to;
	u64 nr_needed;
	u64 nr_released;
	u64 nr_copied;
	u64 nr_poisoned;
	u64 discards;

	u64 nr_used;
	u64 nr_slots;
	unsigned int seg_slots;
	u64 nr_segs;
	struct cbw_segment **seg_pages;
	u64 seg_tabled;
	u64 seg_fresh;
	u32 seg_lists[2];
	struct cbw_batch *batches;
	unsigned int nr_batches;
	unsigned int batch_pages;
	struct cbw_copy *copies;
	unsigned int nr_copies;
	unsigned int nr_copies_all;
	struct list_head idle;
	struct list_head bare;
	struct list_head busy;
	unsigned int nr_idle;
	unsigned int nr_filled;
	unsigned long batch_used;
	struct cbw_batch *filling;

	atomic_t nr_ios;
	wait_queue_head_t waitq;
	struct bio_list parked;
	struct bio_list reads;
	bool low_space;
	bool drained;
	unsigned int told;

	struct block_device *store_dev;
	mempool_t write_pool;
	mempool_t read_pool;

	struct delayed_work flush_work;
	struct work_struct store_work;
	struct delayed_work supply_work;
	struct delayed_work shrink_work;
	struct work_struct starved_work;
	struct work_struct ahead_work;
	struct delayed_work timeout_work;
	struct work_struct read_work;
	struct work_struct event_work;
	struct work_struct limit_work;

	bool read_once;
	bool discard_releases;
};

static inline u64 cbw_chunk(const struct cbw_snap *snap, sector_t sector)
{
	return sector >> snap->shift;
}

/* Sectors of a chunk: the last one may be short. */
static inline sector_t cbw_chunk_end(const struct cbw_snap *snap, u64 chunk)
{
	return min_t(sector_t, (chunk + 1) << snap->shift, snap->len);
}

static inline unsigned int cbw_chunk_bytes(const struct cbw_snap *snap)
{
	return 1u << (snap->shift + SECTOR_SHIFT);
}

/*
 * Is a sequential writer at the place where its next window should be copied?
 * A hint: no lock.
 */
static inline bool cbw_ahead_hit(const struct cbw_snap *snap, sector_t sector,
				 sector_t nr)
{
	u64 first = sector >> snap->shift;
	u64 last = (sector + nr - 1) >> snap->shift;

	return READ_ONCE(snap->ahead_at) - first <= last - first;
}

/*
 * Does any chunk of this range still have to be preserved?  Pairs with the
 * release in region_done(): no lock.
 */
static inline bool cbw_snap_needs(const struct cbw_snap *snap, sector_t sector,
				  sector_t nr)
{
	u64 first = sector >> snap->shift;
	u64 last = (sector + nr - 1) >> snap->shift;

	if (READ_ONCE(snap->over))
		return false;
	/* Writes beyond the snapshot's end (the source has grown) are free. */
	if (unlikely(last >= snap->nr_chunks)) {
		if (first >= snap->nr_chunks)
			return false;
		last = snap->nr_chunks - 1;
	}
	/* Bits are only ever set, and who finds a zero looks again under the lock. */
	return data_race(find_next_zero_bit(snap->done, last + 1, first)) <= last;
}

/*
 * The answer that most writes get, in few instructions: this one is to a single chunk
 * that is not needed, and nothing else is to be done about it.  If not, cbw_snap_needs()
 * and cbw_ahead_hit() tell.
 */
static __always_inline bool cbw_snap_quick(const struct cbw_snap *snap,
					   sector_t sector, sector_t nr)
{
	u64 first = sector >> snap->shift;
	u64 last = (sector + nr - 1) >> snap->shift;

	return first == last && first < snap->nr_chunks &&
	       test_bit(first, snap->done) && first != READ_ONCE(snap->ahead_at);
}

/* snap.c */
extern struct list_head cbw_snaps;

struct cbw_snap *cbw_snap_find(dev_t devt);
void cbw_snap_put(struct cbw_snap *snap);
void cbw_snap_break(struct cbw_snap *snap, unsigned int reason);
void cbw_snap_started(struct cbw_snap *snap, u64 seq);
void cbw_snap_ready(struct cbw_snap *snap);
void cbw_snap_remove(struct cbw_snap *snap);
int cbw_snap_release(struct cbw_snap *snap, u64 offset, u64 length);
void cbw_snap_release_chunks(struct cbw_snap *snap, u64 first, u64 end, bool count);
bool cbw_snap_next_unreleased(struct cbw_snap *snap, sector_t from, sector_t end,
			      sector_t *start, sector_t *stop);
void cbw_snap_info(struct cbw_snap *snap, struct cbw_snapshot_info *info);
void cbw_snap_event(struct cbw_snap *snap);
void cbw_snap_io_done(struct cbw_snap *snap);
void cbw_snap_event_check(struct cbw_snap *snap);
void cbw_snap_init_works(struct cbw_snap *snap);
unsigned int cbw_snap_state(struct cbw_snap *snap);
const char *cbw_reason_name(unsigned int reason);

static inline struct cbw_snap *cbw_snap_get(struct cbw_snap *snap)
{
	kref_get(&snap->ref);
	return snap;
}

static inline void cbw_snap_io_start(struct cbw_snap *snap)
{
	atomic_inc(&snap->nr_ios);
}

/* hold.c */
void cbw_hold_add(struct cbw_snap *snap, struct bio_list *list, struct bio *bio,
		  bool head);
void cbw_hold_wake(struct cbw_snap *snap, struct bio_list *from,
		   blk_status_t status, ktime_t before);
void cbw_hold_wake_all(struct cbw_snap *snap, blk_status_t status, ktime_t before);
void cbw_starved_kick(struct cbw_snap *snap);
void cbw_starved_work(struct work_struct *work);
void cbw_hold_timeout(struct work_struct *work);

/* snap-init.c */
struct cbw_snap_args {
	struct cbw_bdev_handle source;
	struct block_device *store;
	sector_t len;
	unsigned int chunk_sectors;
	bool armed;
	bool break_guest;
	unsigned int timeout_ms;
	unsigned int buffer_kib;
	struct cbw_name bitmap;
	bool read_once;
	bool discard_releases;
};

struct cbw_snap *cbw_snap_create(struct cbw_device *dev,
				 const struct cbw_snap_args *args, char **error);
void cbw_snap_free(struct cbw_snap *snap);

/* store.c */
int cbw_store_init(struct cbw_snap *snap, struct block_device *store);
void cbw_store_exit(struct cbw_snap *snap);
int cbw_store_grow(struct cbw_snap *snap, struct block_device *store);
struct cbw_batch *cbw_slots_get(struct cbw_snap *snap, unsigned int want,
				unsigned int *slot, unsigned int *got, bool *full);
void cbw_slot_release(struct cbw_snap *snap, u32 slot);
void cbw_batch_filled(struct cbw_snap *snap, struct cbw_batch *batch);
void cbw_batch_cancel(struct cbw_snap *snap, struct cbw_batch *batch,
		      unsigned int slot);
void cbw_batch_settle(struct cbw_snap *snap, struct cbw_batch *batch);
void cbw_seg_unpin(struct cbw_snap *snap, u64 seg);
struct cbw_segment *cbw_seg(const struct cbw_snap *snap, u64 seg);
unsigned int cbw_batch_add_pages(const struct cbw_snap *snap,
				 struct cbw_batch *batch, struct bio *bio,
				 size_t offset, size_t len);

static inline sector_t cbw_slot_sector(const struct cbw_snap *snap, u64 slot)
{
	return (sector_t)slot << snap->shift;
}

/* supply.c */
int cbw_supply_init(struct cbw_snap *snap);
void cbw_supply_exit(struct cbw_snap *snap);
void cbw_supply_need(struct cbw_snap *snap);
struct cbw_copy *cbw_copy_get(struct cbw_snap *snap);
void cbw_copy_put(struct cbw_snap *snap, struct cbw_copy *copy);
void cbw_supply_work(struct work_struct *work);
void cbw_shrink_work(struct work_struct *work);

/* store-write.c */
void cbw_store_work(struct work_struct *work);
void cbw_flush_work(struct work_struct *work);
size_t cbw_store_write_size(const struct cbw_snap *snap);

/* copy.c */

/**
 * struct cbw_hold - what is done about a write that needs chunks; on the stack
 * @bio: the write; NULL: nobody waits, the chunks are copied ahead
 * @turn: the snapshot whose starved writes are being served, and it is one of them
 * @parked: somebody else has the write now
 * @starved: the snapshot whose memory or slots it waits for
 * @reads: copies to be submitted
 * @status: break_guest_write: what to end the write with
 */
struct cbw_hold {
	struct bio *bio;
	const struct cbw_snap *turn;
	bool parked;
	const struct cbw_snap *starved;
	struct cbw_copy *reads;
	blk_status_t status;
};

void cbw_copy_hold(struct cbw_snap *snap, sector_t sector, sector_t nr,
		   struct cbw_hold *hold);
void cbw_copy_finish(struct cbw_copy *copy);
void cbw_region_release(struct cbw_snap *snap, u64 region, u64 mask, bool count);
void cbw_copies_stored(struct cbw_snap *snap, struct cbw_batch *batch, u64 mask,
		       blk_status_t status);
void cbw_copies_forget(struct cbw_snap *snap);
size_t cbw_copy_size(const struct cbw_snap *snap);

/* copy-read.c */
void cbw_copies_submit(struct cbw_hold *hold);

/* ahead.c */
void cbw_ahead_init(struct cbw_snap *snap);
void cbw_ahead_seen(struct cbw_snap *snap, u64 from, u64 end);
void cbw_ahead_kick(struct cbw_snap *snap);
bool cbw_ahead_room(const struct cbw_snap *snap);
void cbw_ahead_work(struct work_struct *work);

/* snap-read.c */
int cbw_snap_map(struct dm_target *ti, struct bio *bio);
int cbw_snap_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error);
void cbw_snap_read_work(struct work_struct *work);
size_t cbw_snap_io_size(void);
size_t cbw_snap_block_size(void);

#endif /* DM_CBW_SNAP_H */
