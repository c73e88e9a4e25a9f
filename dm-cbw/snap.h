/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Snapshots: their objects, who owns them and what guards each member.  Part of
 * cbw.h, which has the order of the locks.
 */
#ifndef DM_CBW_SNAP_H
#define DM_CBW_SNAP_H

/* ---- snapshots: snap.c and below --------------------------------------------------- */

/* Units of the store that are written in one piece and tracked together. */
#define CBW_SEGMENT_BYTES	(256u << 10)
#define CBW_SEGMENT_SLOTS	64u
#define CBW_CHUNK_SECTORS_MIN	8u
#define CBW_CHUNK_SECTORS_MAX	2048u

/* snap->over: why nothing is needed any more; else an enum cbw_reason */
#define CBW_OVER_ENDED		255	/* removed, or its session died */

/**
 * struct cbw_segment - a run of slots of the store; snap->lock
 * @used: slots taken
 * @pending: taken slots that are free as soon as nothing reads or writes them
 * @readers: snapshot reads of slots in flight
 * @batch: 1 + index of the batch that fills it, 0: none
 */
struct cbw_segment {
	u64 used;
	u64 pending;
	u32 readers;
	u32 batch;
};

/**
 * struct cbw_batch - memory for one segment while it is being filled; snap->lock
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
 * @nr_pages: pages of @pages
 * @pages: the memory, set up once
 */
struct cbw_batch {
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
	unsigned int nr_pages;
	struct page **pages;
};

enum cbw_copy_state {
	CBW_COPY_READING,
	CBW_COPY_STORING,	/* only with break_guest_write */
};

/**
 * struct cbw_copy - a run of chunks being copied
 *
 * Never part of a guest bio: a release lets the guest's write go while the
 * read is still in flight.
 *
 * @node: in snap->copies, by @first; snap->lock
 * @snap: the snapshot (which waits for its copies before it goes)
 * @first: first chunk
 * @nr: chunks
 * @batch: where the data goes
 * @slot: first slot within the segment
 * @state: snap->lock
 * @storing: with CBW_COPY_STORING: slots not yet stored, as in the batch's masks
 * @poison: chunks of the run that could not be read; snap->lock
 * @waiters: guest writes that wait for this copy; snap->lock
 * @origin: reference for the read
 * @work: reads chunk by chunk after an error
 * @bio: the read
 * @vecs: its vector
 */
struct cbw_copy {
	struct rb_node node;
	struct cbw_snap *snap;
	u64 first;
	unsigned int nr;
	struct cbw_batch *batch;
	unsigned int slot;
	enum cbw_copy_state state;
	u64 storing;
	u64 poison;
	struct bio_list waiters;
	struct cbw_origin *origin;
	struct work_struct work;
	struct bio bio;
	struct bio_vec vecs[];
};

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
 *	Set (never cleared) after the chunk's place in @map
 * @map: pages of chunk -> 1 + slot; the top is fixed, pages are added under @lock
 * @map_pages: pages in @map
 * @lock: guards what follows
 * @copies: struct cbw_copy by first chunk
 * @starved: guest writes waiting for a batch, a slot or a copy object
 * @freed: counts what came free of these, so that none parks after the last wake-up
 * @nr_held: guest writes held
 * @max_hold_us: longest hold so far
 * @nr_needed, @nr_released, @nr_copied, @nr_poisoned: chunks
 * @discards: bytes of guest discards not passed down
 * @nr_used: slots taken, pending ones not
 * @nr_slots: capacity
 * @seg_slots: slots in a segment
 * @nr_segs: segments
 * @segs: their state
 * @seg_free: segments without any slot taken and without a batch
 * @seg_part: segments with a free slot and without a batch
 * @seg_cursor: where to look next
 * @batches: all batches
 * @nr_batches: their number
 * @filling: the batch that gives out slots, or NULL
 * @nr_ios: copies and store writes in flight (dm drains the reads)
 * @waitq: woken when @nr_ios falls to 0
 * @parked: snapshot reads that wait for older epochs; @lock
 * @reads: snapshot reads to be done by @read_work; @lock
 * @low_space: 80 % of the store are taken, reported once; @lock
 * @drained: nothing was needed any more, reported once; @lock
 * @store_dev: where slots are; changed in preresume, nothing in flight
 * @copy_pool: struct cbw_copy
 * @write_pool: struct cbw_store_write
 * @read_bios: clones for snapshot reads
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
	u32 **map;
	unsigned int map_pages;

	spinlock_t lock;
	struct rb_root copies;
	struct bio_list starved;
	u64 freed;
	unsigned int nr_held;
	u64 max_hold_us;
	u64 nr_needed;
	u64 nr_released;
	u64 nr_copied;
	u64 nr_poisoned;
	u64 discards;

	u64 nr_used;
	u64 nr_slots;
	unsigned int seg_slots;
	u64 nr_segs;
	struct cbw_segment *segs;
	unsigned long *seg_free;
	unsigned long *seg_part;
	u64 seg_cursor;
	struct cbw_batch *batches;
	unsigned int nr_batches;
	struct cbw_batch *filling;

	atomic_t nr_ios;
	wait_queue_head_t waitq;
	struct bio_list parked;
	struct bio_list reads;
	bool low_space;
	bool drained;

	struct block_device *store_dev;
	mempool_t copy_pool;
	mempool_t write_pool;
	struct bio_set read_bios;

	struct delayed_work flush_work;
	struct work_struct store_work;
	struct delayed_work timeout_work;
	struct work_struct read_work;
	struct work_struct event_work;
	struct work_struct limit_work;
};

/* map[] entries */
#define CBW_SLOT_NONE		0u
#define CBW_SLOT_POISON		U32_MAX
#define CBW_MAP_PAGE_CHUNKS	(PAGE_SIZE / sizeof(u32))

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
 * Does any chunk of this range still have to be preserved?  Pairs with the
 * release in cbw_chunk_done(): the fast path of a write, no lock.
 */
static inline bool cbw_snap_needs(const struct cbw_snap *snap, sector_t sector,
				  sector_t nr)
{
	u64 first = sector >> snap->shift;
	u64 last = (sector + nr - 1) >> snap->shift;

	if (unlikely(READ_ONCE(snap->over)))
		return false;
	/* Writes beyond the snapshot's end (the source has grown) are free. */
	if (unlikely(last >= snap->nr_chunks)) {
		if (first >= snap->nr_chunks)
			return false;
		last = snap->nr_chunks - 1;
	}
	if (likely(first == last))
		return !test_bit(first, snap->done);
	return find_next_zero_bit(snap->done, last + 1, first) <= last;
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
void cbw_snap_info(struct cbw_snap *snap, struct cbw_snapshot_info *info);
void cbw_snap_event(struct cbw_snap *snap);
void cbw_snap_io_done(struct cbw_snap *snap);
void cbw_snap_wake(struct cbw_snap *snap, struct bio_list *from,
		   blk_status_t status);
void cbw_snap_wake_starved(struct cbw_snap *snap);
void cbw_snap_wake_before(struct cbw_snap *snap, struct bio_list *from,
			  blk_status_t status, ktime_t before);
void cbw_snap_event_check(struct cbw_snap *snap);
unsigned long cbw_snap_timeout_tick(const struct cbw_snap *snap);
void cbw_snap_timeout(struct work_struct *work);
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
};

struct cbw_snap *cbw_snap_create(struct cbw_device *dev,
				 const struct cbw_snap_args *args, char **error);
void cbw_snap_free(struct cbw_snap *snap);

/* chunkmap.c */
u32 cbw_map_get(struct cbw_snap *snap, u64 chunk);
int cbw_map_prepare(struct cbw_snap *snap, u64 chunk);
void cbw_map_set(struct cbw_snap *snap, u64 chunk, u32 val);
void cbw_chunk_done(struct cbw_snap *snap, u64 chunk);

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
unsigned int cbw_batch_add_pages(struct cbw_batch *batch, struct bio *bio,
				 size_t offset, size_t len);

static inline sector_t cbw_slot_sector(const struct cbw_snap *snap, u64 slot)
{
	return (sector_t)slot << snap->shift;
}

/* store-write.c */
void cbw_store_work(struct work_struct *work);
void cbw_flush_work(struct work_struct *work);
size_t cbw_store_write_size(const struct cbw_snap *snap);

/* copy.c */
blk_status_t cbw_copy_start(struct cbw_snap *snap, sector_t sector, sector_t nr);
bool cbw_copy_park(struct cbw_snap *snap, struct bio *bio, u64 freed);
void cbw_chunk_release(struct cbw_snap *snap, u64 chunk, bool count);
void cbw_copy_stored(struct cbw_snap *snap, struct cbw_batch *batch, u64 mask,
		     blk_status_t status);
void cbw_copies_wake(struct cbw_snap *snap, blk_status_t status, ktime_t before);
size_t cbw_copy_size(const struct cbw_snap *snap);

/* snap-read.c */
int cbw_snap_map(struct dm_target *ti, struct bio *bio);
int cbw_snap_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error);
void cbw_snap_read_work(struct work_struct *work);
size_t cbw_snap_io_size(void);
size_t cbw_snap_read_pad(void);

#endif /* DM_CBW_SNAP_H */
