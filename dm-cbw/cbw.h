/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The objects of dm-cbw, who owns them and what guards each member.
 *
 * Locks, outer to inner:
 *
 *   cbw_config_mutex	every change of configuration: the lists of devices,
 *			bitmaps and snapshots, and every publication of an epoch.
 *			Never held while waiting for I/O or for an epoch to drain.
 *   snap->lock		(irq) copies in flight, batches and slots of one snapshot
 *   dev->gate_lock	(irq) writes parked at a shut gate
 *   dev->remap_lock	(irq) writes on their way back to cbw_remap()
 *
 * RCU guards dev->epoch and what it points to, and dev->origin.
 */
#ifndef DM_CBW_H
#define DM_CBW_H

#define DM_MSG_PREFIX "cbw"

#ifndef CONFIG_64BIT
#error "Slots and chunks are counted in 64-bit words"
#endif

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/device-mapper.h>
#include <linux/dm-cbw.h>
#include <linux/kref.h>
#include <linux/ktime.h>
#include <linux/list.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/percpu-refcount.h>
#include <linux/rbtree.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "../kernel/compat/compat.h"
#include "hooks.h"

struct cbw_batch;
struct cbw_device;
struct cbw_origin;
struct cbw_session;
struct cbw_snap;

extern struct mutex cbw_config_mutex;
void cbw_config_lock(void);
void cbw_config_unlock(void);

/* Remapping, breaking, epochs: never waits for a store. */
extern struct workqueue_struct *cbw_wq;
/* Store writes and snapshot reads: may hang with the store. */
extern struct workqueue_struct *cbw_store_wq;
/* Aborts and the like: may wait for epochs to drain. */
extern struct workqueue_struct *cbw_wait_wq;

/* ---- bits.c: flat bitmap memory ------------------------------------------ */

/**
 * struct cbw_bits - a flat bitmap; bits are only ever set
 * @ref: one for each epoch and each bitmap half that points here
 * @shift: log2 of the granularity in sectors
 * @nr: granules
 * @len: size of the device in sectors; the last granule may be short
 * @bytes: bytes of @words, accounted
 * @words: set with atomic operations or whole words of ones; read freely
 */
struct cbw_bits {
	refcount_t ref;
	unsigned int shift;
	u64 nr;
	sector_t len;
	size_t bytes;
	unsigned long *words;
};

struct cbw_bits *cbw_bits_alloc(sector_t len, unsigned int shift);
void cbw_bits_put(struct cbw_bits *bits);
void cbw_bits_mark_range(struct cbw_bits *bits, sector_t sector, sector_t nr);
void cbw_bits_or(struct cbw_bits *to, const struct cbw_bits *from);
u64 cbw_bits_dirty_bytes(const struct cbw_bits *a, const struct cbw_bits *b);
bool cbw_bits_next_run(const struct cbw_bits *bits, sector_t from,
		       sector_t *start, sector_t *end);

static inline struct cbw_bits *cbw_bits_get(struct cbw_bits *bits)
{
	refcount_inc(&bits->ref);
	return bits;
}

/* Test first: a bit that is set already costs no exclusive cache line. */
static inline void cbw_bits_mark(struct cbw_bits *bits, sector_t sector,
				 sector_t nr)
{
	u64 first = sector >> bits->shift;

	if (likely(first == (sector + nr - 1) >> bits->shift)) {
		if (!test_bit(first, bits->words))
			set_bit(first, bits->words);
	} else {
		cbw_bits_mark_range(bits, sector, nr);
	}
}

/* ---- epoch.c --------------------------------------------------------------- */

/**
 * struct cbw_epoch - what a write must do; immutable once published
 * @ref: writes in flight under this epoch; its predecessor, until that has
 *	been released; the publication itself (killed by the next one).
 *	Not initialised when @hold.
 * @dev: owner, a reference (not when @hold)
 * @next: the successor, set before it is published, cbw_config_mutex
 * @prev: when @hold: the epoch it stands in for
 * @seq: position among the device's epochs, from 1
 * @hold: the gate is shut: park the write
 * @nr_bits: bitmaps to mark
 * @nr_snaps: snapshots to protect
 * @release_work: runs when this epoch and all older ones have drained
 * @rcu: to free a hold epoch
 * @bits: references
 * @snaps: references
 */
struct cbw_epoch {
	struct percpu_ref ref;
	struct cbw_device *dev;
	struct cbw_epoch *next;
	struct cbw_epoch *prev;
	u64 seq;
	bool hold;
	unsigned int nr_bits;
	unsigned int nr_snaps;
	struct work_struct release_work;
	struct rcu_head rcu;
	struct cbw_bits *bits[CBW_BITMAPS_MAX];
	struct cbw_snap *snaps[CBW_SNAPSHOTS_MAX];
};

/**
 * struct cbw_epoch_pair - the memory that one publication needs
 * @next: the epoch to publish
 * @hold: what stands in for the old one while the gate is shut
 */
struct cbw_epoch_pair {
	struct cbw_epoch *next;
	struct cbw_epoch *hold;
};

int cbw_epoch_pair_alloc(struct cbw_epoch_pair *pair);
void cbw_epoch_pair_free(struct cbw_epoch_pair *pair);
int cbw_epoch_first(struct cbw_device *dev);
void cbw_epoch_last(struct cbw_device *dev);
void cbw_publish(struct list_head *devs);

/* ---- device.c --------------------------------------------------------------- */

/**
 * struct cbw_origin - the device below, as one table instance has it open
 * @reads: our own reads of it that are in flight (copies and snapshot reads)
 * @drained: completed when @reads is gone for good
 * @bdev: valid as long as @reads can be got
 */
struct cbw_origin {
	struct percpu_ref reads;
	struct completion drained;
	struct block_device *bdev;
};

/**
 * struct cbw_target - one table instance of the cbw target (ti->private)
 * @node: in dev->instances, dev->inst_lock
 * @ti: the instance
 * @dev: a reference
 * @dd: the origin, opened by this instance
 * @origin: what this instance publishes as dev->origin when it is resumed
 * @live: it was resumed, cbw_config_mutex
 */
struct cbw_target {
	struct list_head node;
	struct dm_target *ti;
	struct cbw_device *dev;
	struct dm_dev *dd;
	struct cbw_origin *origin;
	bool live;
};

/**
 * struct cbw_device - the state of one mapped device with a cbw table
 *
 * Belongs to the mapped device, not to a table: a reload inherits it.
 *
 * @ref: table instances, epochs, snapshots
 * @node: in the list of devices, cbw_config_mutex
 * @md: the mapped device; valid while there is an instance
 * @devt: its number
 * @len: its size in sectors, cbw_config_mutex
 * @gone: the last instance went away, cbw_config_mutex
 * @epoch: RCU; changed under cbw_config_mutex
 * @seq: number of @epoch, cbw_config_mutex
 * @released_seq: the newest epoch that has been released, as have all older ones
 * @waitq: woken when @released_seq grows and when an abort ends
 * @origin: RCU; changed under cbw_config_mutex; NULL when gone
 * @suspended: our table is suspended: another one may be swapped in
 * @resumes: how often a table of ours was resumed; by dm one at a time
 * @requeue: a suspend without flush is under way in this instance: give back what
 *	would be held; NULL: none
 * @inst_lock: guards @instances
 * @instances: table instances, live, new or old
 * @bitmaps: struct cbw_bitmap, cbw_config_mutex
 * @nr_bitmaps: their number, staged ones included, cbw_config_mutex
 * @snaps: struct cbw_snap, cbw_config_mutex
 * @nr_snaps: their number, cbw_config_mutex
 * @txn_node: in a transaction, cbw_config_mutex
 * @txn_pair: memory for its publication, cbw_config_mutex
 * @gate_lock: guards @gate_bios
 * @gate_bios: writes that met a shut gate
 * @remap_lock: guards @remap_bios
 * @remap_bios: writes to be mapped again
 * @remap_work: maps them
 * @copy_reads: reads for copies in flight
 */
struct cbw_device {
	struct kref ref;
	struct list_head node;
	struct mapped_device *md;
	dev_t devt;
	sector_t len;
	bool gone;

	struct cbw_epoch __rcu *epoch;
	u64 seq;
	u64 released_seq;
	wait_queue_head_t waitq;

	struct cbw_origin __rcu *origin;
	bool suspended;
	unsigned int resumes;
	struct dm_target *requeue;
	spinlock_t inst_lock;
	struct list_head instances;

	struct list_head bitmaps;
	unsigned int nr_bitmaps;
	struct list_head snaps;
	unsigned int nr_snaps;
	struct list_head txn_node;
	struct cbw_epoch_pair txn_pair;

	spinlock_t gate_lock;
	struct bio_list gate_bios;
	spinlock_t remap_lock;
	struct bio_list remap_bios;
	struct work_struct remap_work;
	atomic_t copy_reads;
};

struct cbw_device *cbw_device_attach(struct dm_target *ti,
				     struct cbw_target *ct);
void cbw_device_detach(struct cbw_target *ct);
struct cbw_device *cbw_device_find(dev_t devt);
struct cbw_device *cbw_device_next(struct cbw_device *dev);
void cbw_device_put(struct cbw_device *dev);
bool cbw_device_foreign(struct cbw_device *dev);
void cbw_device_source_gone(struct cbw_device *dev);
bool cbw_bdev_in_use(dev_t devt, const char **what);

struct cbw_origin *cbw_origin_alloc(struct block_device *bdev);
void cbw_origin_drain(struct cbw_origin *origin);
void cbw_origin_free(struct cbw_origin *origin);
struct cbw_origin *cbw_origin_get(struct cbw_device *dev);
void cbw_origin_put(struct cbw_origin *origin);
void cbw_origin_switch(struct cbw_device *dev, struct cbw_origin *origin);

static inline struct cbw_device *cbw_device_get(struct cbw_device *dev)
{
	kref_get(&dev->ref);
	return dev;
}

/* Is a suspend that need not flush under way?  Then dm takes held writes back. */
static inline bool cbw_giving_back(struct cbw_device *dev)
{
	struct dm_target *ti = READ_ONCE(dev->requeue);

	return unlikely(ti) && dm_noflush_suspending(ti);
}

/* True when all epochs up to and including @seq have been released. */
static inline bool cbw_released(struct cbw_device *dev, u64 seq)
{
	/* Pairs with epoch_release_work(): what their writes marked is seen. */
	return smp_load_acquire(&dev->released_seq) >= seq;
}

/* ---- map.c: the path of a write ---------------------------------------------- */

/**
 * struct cbw_io - per-bio data of the cbw target; belongs to whoever has the bio
 * @epoch: the epoch the write is in flight under, a reference; NULL: none
 * @sector: where it starts
 * @nr: sectors
 * @hold_start: when it was first held, 0: never
 * @deferred: a hook deferred its end_io already (debug builds)
 */
struct cbw_io {
	struct cbw_epoch *epoch;
	sector_t sector;
	sector_t nr;
	ktime_t hold_start;
	bool deferred;
};

int cbw_map(struct dm_target *ti, struct bio *bio);
int cbw_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error);
void cbw_remap_queue(struct cbw_device *dev, struct bio_list *bios);
void cbw_remap_work(struct work_struct *work);

static inline struct cbw_io *cbw_io(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct cbw_io));
}

/* ---- bitmap.c, txn.c ------------------------------------------------------------ */

enum cbw_owner {
	CBW_OWNER_ANYONE,	/* rotated by message, or detached from its session */
	CBW_OWNER_SESSION,
	CBW_OWNER_SNAP,
};

/**
 * struct cbw_bitmap_state - what a transaction changes at once
 * @present: there is such a bitmap
 * @enabled: it records
 * @active: what it records into, a reference
 * @frozen: what it had recorded until the cut, a reference; NULL: not frozen
 * @frozen_seq: @frozen is final when this epoch has been released
 * @base: last committed cut
 * @cut: the cut of @frozen
 * @owner: who may commit
 * @session: with CBW_OWNER_SESSION; compared, not followed
 * @snap: the snapshot that was started with this bitmap; compared, not followed
 */
struct cbw_bitmap_state {
	bool present;
	bool enabled;
	struct cbw_bits *active;
	struct cbw_bits *frozen;
	u64 frozen_seq;
	struct cbw_cut_id base;
	struct cbw_cut_id cut;
	enum cbw_owner owner;
	struct cbw_session *session;
	struct cbw_snap *snap;
};

/**
 * struct cbw_bitmap - a named bitmap; everything under cbw_config_mutex
 * @node: in dev->bitmaps
 * @dev: the device, a reference
 * @ref: the list, an abort under way, and whoever waits for that
 * @cur: the state
 * @next: what a transaction makes of it, while @staged
 * @staged: part of the current transaction
 * @aborting: an abort is under way: busy
 * @transient: never persist it
 * @abort_work: the abort
 * @name_len: bytes of @name
 * @name: not NUL terminated
 */
struct cbw_bitmap {
	struct list_head node;
	struct cbw_device *dev;
	struct kref ref;
	struct cbw_bitmap_state cur;
	struct cbw_bitmap_state next;
	bool staged;
	bool aborting;
	bool transient;
	struct work_struct abort_work;
	unsigned int name_len;
	u8 name[];
};

struct cbw_name {
	const u8 *s;
	unsigned int len;
};

struct cbw_bitmap *cbw_bitmap_find(struct cbw_device *dev, struct cbw_name name);
int cbw_bitmap_commit(struct cbw_device *dev, struct cbw_bitmap *only,
		      const struct cbw_cut_id *cut, struct cbw_session *session,
		      struct cbw_snap *through);
int cbw_bitmap_abort_start(struct cbw_bitmap *b);
int cbw_bitmap_abort_wait(struct cbw_bitmap *b);
int cbw_abort_cut(struct cbw_device *dev, const struct cbw_cut_id *cut,
		  struct cbw_snap *through);
struct cbw_dirty_set *cbw_dirty_count(struct cbw_device *dev);
u64 cbw_dirty_bytes(const struct cbw_dirty_set *set, const struct cbw_bitmap *b);
void cbw_bitmaps_destroy(struct cbw_device *dev);
void cbw_bitmap_put(struct cbw_bitmap *b);
void cbw_state_drop(struct cbw_bitmap_state *state);
bool cbw_name_valid(struct cbw_name name);
int cbw_name_escape(struct cbw_name name, char *buf, size_t size);
int cbw_name_unescape(char *arg, struct cbw_name *name);

static inline bool cbw_bitmap_busy(const struct cbw_bitmap *b)
{
	return b->cur.frozen || b->aborting;
}

static inline bool cbw_cut_none(const struct cbw_cut_id *cut)
{
	return !memchr_inv(cut->b, 0, sizeof(cut->b));
}

static inline bool cbw_cut_same(const struct cbw_cut_id *a,
				const struct cbw_cut_id *b)
{
	return !memcmp(a->b, b->b, sizeof(a->b));
}

/**
 * struct cbw_txn - a transaction while it is being staged
 * @devs: devices it touches, by txn_node
 * @snaps: snapshots it starts, by txn_node
 * @cut: its cut id
 * @session: owner of what it rotates; NULL: by message or by a snapshot's resume
 * @wait: an abort that has to end first, a reference
 */
struct cbw_txn {
	struct list_head devs;
	struct list_head snaps;
	struct cbw_cut_id cut;
	struct cbw_session *session;
	struct cbw_bitmap *wait;
};

void cbw_txn_begin(struct cbw_txn *txn, struct cbw_session *session);
int cbw_txn_add(struct cbw_txn *txn, struct cbw_device *dev,
		struct cbw_name name, u32 granularity, u32 flags);
int cbw_txn_remove(struct cbw_txn *txn, struct cbw_device *dev,
		   struct cbw_name name);
int cbw_txn_clear(struct cbw_txn *txn, struct cbw_device *dev,
		  struct cbw_name name);
int cbw_txn_enable(struct cbw_txn *txn, struct cbw_device *dev,
		   struct cbw_name name, bool enable);
int cbw_txn_rotate(struct cbw_txn *txn, struct cbw_device *dev,
		   struct cbw_name name, struct cbw_snap *snap);
int cbw_txn_start(struct cbw_txn *txn, struct cbw_snap *snap);
int cbw_txn_end(struct cbw_txn *txn, int err);
int cbw_txn_retry(struct cbw_txn *txn, int err);

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

/* ---- targets ------------------------------------------------------------------------- */

/**
 * struct cbw_snap_target - one table instance of the snapshot target (ti->private)
 * @snap: a reference
 * @store: the store, opened by this instance
 */
struct cbw_snap_target {
	struct cbw_snap *snap;
	struct dm_dev *store;
};

extern struct target_type cbw_target_type;
extern struct target_type cbw_snap_target_type;

/* message.c */
int cbw_message(struct dm_target *ti, unsigned int argc, char **argv,
		char *result, unsigned int maxlen);

/* control.c */
int cbw_control_init(void);
void cbw_control_exit(void);

#endif /* DM_CBW_H */
