/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The objects of dm-cbw, who owns them and what guards each member.
 *
 * Locks, outer to inner:
 *
 *   cbw_config_mutex	every change of configuration: the lists of devices,
 *			bitmaps and snapshots, and every publication of an epoch.
 *			Never held while waiting for I/O or for an epoch to drain.
 *			A device's first discard waits for it.
 *   bucket->lock	(irq) copies in flight of some regions of a snapshot, the writes
 *			that wait for them, and changes of those words of snap->done
 *   snap->lock		(irq) batches, slots and the chunk map of one snapshot
 *   dev->gate_lock	(irq) writes parked at a shut gate, and first discards
 *   remap->lock	(irq) writes on their way back to be mapped
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
#include <linux/hrtimer.h>
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
#include "bits.h"
#include "hooks.h"

struct cbw_batch;
struct cbw_container;
struct cbw_disk;
struct cbw_device;
struct cbw_origin;
struct cbw_session;
struct cbw_snap;

extern struct mutex cbw_config_mutex;
void cbw_config_lock(void);
bool cbw_config_trylock(void);
void cbw_config_unlock(void);

/* Remapping, breaking, epochs: never waits for a store. */
extern struct workqueue_struct *cbw_wq;
/* Store writes and snapshot reads: may hang with the store. */
extern struct workqueue_struct *cbw_store_wq;
/* Aborts and the like: may wait for epochs to drain. */
extern struct workqueue_struct *cbw_wait_wq;
/* Merges: many of them may wait for epochs, and keep nothing else waiting. */
extern struct workqueue_struct *cbw_merge_wq;
/* Memory for planes: discards wait for it. */
extern struct workqueue_struct *cbw_discard_wq;
/* Freezes: may hang with a file system. */
extern struct workqueue_struct *cbw_freeze_wq;
/* Checkpoints: may wait for epochs to drain. */
extern struct workqueue_struct *cbw_container_wq;
/* Intents: guest writes wait for them. */
extern struct workqueue_struct *cbw_intent_wq;
/* What submits to containers, and may hang with them. */
extern struct workqueue_struct *cbw_container_io_wq;

/* ---- epoch.c --------------------------------------------------------------- */

/*
 * Why a write under an epoch takes the slow path.  One test on the fast path serves all
 * reasons there may be.
 */
#define CBW_SLOW_GATE	(1u << 0)	/* the gate is shut: park */

/**
 * struct cbw_mark - a bitmap as the path of a write sees it
 * @end: in the first of those with one granularity: after the last of them; NULL:
 *	there are no more
 * @words: bits->words
 * @shift: bits->shift
 * @bits: the bitmap, a reference
 */
struct cbw_mark {
	struct cbw_mark *end;
	unsigned long *words;
	unsigned int shift;
	struct cbw_bits *bits;
};

/**
 * struct cbw_epoch - what a write must do; immutable once published
 * @ref: writes in flight under this epoch; its predecessor, until that has
 *	been released; the publication itself (killed by the next one).
 *	Not initialised with CBW_SLOW_GATE.
 * @dev: owner, a reference (not with CBW_SLOW_GATE)
 * @next: the successor, set before it is published, cbw_config_mutex
 * @prev: with CBW_SLOW_GATE: the epoch it stands in for
 * @seq: position among the device's epochs, from 1
 * @slow: not 0: a write has to look at more than bitmaps and snapshots
 * @container: bits of persistent bitmaps are set only where it has an intent; NULL: there
 *	is none.  The device's, valid while a write is in flight
 * @planes: some of its bitmaps may have a second plane, for discards
 * @nr_marks: bitmaps to mark
 * @nr_snaps: snapshots to protect
 * @release_work: runs when this epoch and all older ones have drained
 * @rcu: to free a hold epoch
 * @marks: the bitmaps, those of one granularity side by side, and an end
 * @snaps: references, and NULL
 */
struct cbw_epoch {
	struct percpu_ref ref;
	struct cbw_device *dev;
	struct cbw_epoch *next;
	struct cbw_epoch *prev;
	u64 seq;
	unsigned int slow;
	struct cbw_container *container;
	bool planes;
	unsigned int nr_marks;
	unsigned int nr_snaps;
	struct work_struct release_work;
	struct rcu_head rcu;
	struct cbw_mark marks[CBW_BITMAPS_MAX + 1];
	struct cbw_snap *snaps[CBW_SNAPSHOTS_MAX + 1];
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

/* ---- event.c ---------------------------------------------------------------- */

/**
 * struct cbw_counts - what guest writes of a device had to wait for; see struct cbw_stats
 * @hist: by how long they were held
 * @held_us: sum
 * @max_held_us: longest
 * @failed: went back with an error
 * @again: REQ_NOWAIT, not held
 * @marked_again: were in flight at a cut
 * @discards: bytes not passed down
 */
struct cbw_counts {
	atomic64_t hist[CBW_STATS_BUCKETS];
	atomic64_t held_us;
	atomic64_t max_held_us;
	atomic64_t failed;
	atomic64_t again;
	atomic64_t marked_again;
	atomic64_t discards;
};

void cbw_event(enum cbw_event_type type, dev_t devt, const struct cbw_cut_id *cut,
	       unsigned int reason);
void cbw_stats_held(struct cbw_counts *stats, ktime_t since, bool failed);
void cbw_stats_get(const struct cbw_counts *stats, struct cbw_stats *out);

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
 * @container: the device its container lies on, opened by this instance; NULL: none
 * @origin: what this instance publishes as dev->origin when it is resumed
 * @live: it was resumed, cbw_config_mutex
 * @resize_bits: memory for bitmaps if it changes the device's size; of the load, the
 *	resume and the end of the instance, which dm does one at a time
 * @nr_resize_bits: how many of them, the same
 * @resize_pair: memory for the publication of that, the same
 */
struct cbw_target {
	struct list_head node;
	struct dm_target *ti;
	struct cbw_device *dev;
	struct dm_dev *dd;
	struct dm_dev *container;
	struct cbw_origin *origin;
	bool live;
	struct cbw_bits *resize_bits[CBW_BITMAPS_MAX];
	unsigned int nr_resize_bits;
	struct cbw_epoch_pair resize_pair;
};

/* Workers that map writes again, by CPU. */
#define CBW_REMAPS	4u

/**
 * struct cbw_remap - writes on their way back to be mapped
 * @lock: (irq) guards what follows
 * @bios: the writes
 * @since: when the first of them came
 * @timed: @timer is running
 * @helper: the task that was last held in cbw_map() here; compared, not followed
 * @work: maps them
 * @timer: starts @work if no writer has mapped them by then
 * @dev: the device it is part of
 */
struct cbw_remap {
	spinlock_t lock;
	struct bio_list bios;
	ktime_t since;
	bool timed;
	struct task_struct *helper;
	struct work_struct work;
	struct hrtimer timer;
	struct cbw_device *dev;
} ____cacheline_aligned_in_smp;

/**
 * struct cbw_device - the state of one mapped device with a cbw table
 *
 * Belongs to the mapped device, not to a table: a reload inherits it.
 *
 * @ref: table instances, epochs, snapshots, merges
 * @node: in the list of devices, cbw_config_mutex
 * @md: the mapped device; valid while there is an instance
 * @devt: its number
 * @len: its size in sectors, cbw_config_mutex
 * @gone: the last instance went away, cbw_config_mutex
 * @epoch: RCU; changed under cbw_config_mutex
 * @seq: number of @epoch, cbw_config_mutex
 * @released_seq: the newest epoch that has been released, as have all older ones
 * @waitq: woken when @released_seq grows and when an abort or a merge ends
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
 * @attaching: a layout is being delivered, cbw_config_mutex; read freely
 * @container: where its bitmaps survive; NULL: none.  Set once, before the device is live;
 *	cbw_config_mutex
 * @discard_work: gives the bitmaps their second planes
 * @discards_seen: a discard has come, so it was asked to; any context
 * @discards_ready: it has; read freely, set under @gate_lock
 * @discard_bios: discards that wait for it, @gate_lock
 * @gate_lock: guards @gate_bios
 * @gate_bios: writes that met a shut gate
 * @remap: writes to be mapped again
 * @copy_reads: reads for copies in flight
 * @stats: counts; any context
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
	struct cbw_container *container;
	bool attaching;

	struct work_struct discard_work;
	atomic_t discards_seen;
	bool discards_ready;
	struct bio_list discard_bios;

	spinlock_t gate_lock;
	struct bio_list gate_bios;
	struct cbw_remap remap[CBW_REMAPS];
	atomic_t copy_reads;
	struct cbw_counts stats;
};

struct cbw_device *cbw_device_attach(struct dm_target *ti,
				     struct cbw_target *ct);
void cbw_device_detach(struct cbw_target *ct);
struct cbw_device *cbw_device_find(dev_t devt);
struct cbw_device *cbw_device_next(struct cbw_device *dev);
void cbw_device_put(struct cbw_device *dev);
bool cbw_device_foreign(struct cbw_device *dev);
void cbw_device_source_gone(struct cbw_device *dev);
bool cbw_bdev_in_use(dev_t devt, const struct cbw_device *but, const char **what);

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

/*
 * Will nothing be marked any more in what was frozen when epoch @seq ended?  Whoever
 * consumes it waits for that on dev->waitq.
 */
static inline bool cbw_bits_final(struct cbw_device *dev, const struct cbw_bits *bits,
				  u64 seq)
{
	return cbw_released(dev, seq) && cbw_bits_merged(bits);
}

/* ---- discard.c -------------------------------------------------------------- */

void cbw_discards_init(struct cbw_device *dev);
void cbw_discards_want(struct cbw_device *dev);
void cbw_discards_prepare(struct cbw_device *dev, struct cbw_bits *bits);
bool cbw_discards_park(struct cbw_device *dev, struct bio *bio);
void cbw_discards_mark(const struct cbw_epoch *e, sector_t sector, sector_t nr);
void cbw_discards_unmark(const struct cbw_epoch *e, sector_t sector, sector_t nr);

/* ---- container.c, intent.c, checkpoint.c, space.c ------------------------------- */

void cbw_container_resume(struct cbw_device *dev);
void cbw_container_suspended(struct cbw_device *dev);
void cbw_container_resized(struct cbw_device *dev);
void cbw_container_end(struct cbw_device *dev);
void cbw_container_free(struct cbw_device *dev);
void cbw_container_put(struct cbw_container *c);
int cbw_container_init(void);
void cbw_container_exit(void);
u64 cbw_container_kick(struct cbw_container *c, bool retire);
int cbw_container_wait(struct cbw_container *c, u64 asked);
struct cbw_container *cbw_container_live(struct cbw_device *dev);
bool cbw_container_coming(struct cbw_device *dev);
struct cbw_container *cbw_container_sync_begin(struct cbw_device *dev);
int cbw_container_sync(struct cbw_container *c);
int cbw_container_sync_end(struct cbw_container *c, int err);
bool cbw_container_ready(struct cbw_device *dev);
bool cbw_container_fits(const struct cbw_device *dev, const struct block_device *bdev);
u32 cbw_state_length(struct cbw_container *c, u32 more);

bool cbw_intents_ok(struct cbw_container *c, sector_t sector, sector_t nr);
bool cbw_intents_park(struct cbw_container *c, struct bio *bio);
void cbw_intents_wake(struct cbw_device *dev);
void cbw_intents_begin(struct cbw_container *c);
void cbw_intents_end(struct cbw_container *c);
void cbw_intents_want(struct cbw_container *c, sector_t sector, sector_t nr);
void cbw_intents_cover(struct cbw_container *c, sector_t sector, sector_t nr);

struct cbw_disk *cbw_disk_alloc(struct cbw_container *c, u64 bytes);
struct cbw_disk *cbw_disk_get(struct cbw_disk *disk);
void cbw_disk_put(struct cbw_disk *disk);
void cbw_disk_keep(struct cbw_disk *disk, struct cbw_bits *bits, u64 seq);
int cbw_disk_sync(struct cbw_disk *disk);
bool cbw_disk_demote(struct cbw_disk *disk);
void cbw_disk_promote(struct cbw_disk *disk);
void cbw_disks_promote(void);
bool cbw_disk_persistent(const struct cbw_disk *disk);

/* ---- resize.c --------------------------------------------------------------- */

int cbw_resize_alloc(struct cbw_device *dev, struct cbw_target *ct);
void cbw_resize_free(struct cbw_target *ct);
int cbw_resize(struct cbw_device *dev, struct cbw_target *ct);

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
bool cbw_remap(struct cbw_device *dev, struct bio *bio,
	       const struct cbw_snap *turn);

/* remap.c */
void cbw_remap_init(struct cbw_device *dev);
void cbw_remap_exit(struct cbw_device *dev);
void cbw_remap_queue(struct cbw_device *dev, struct bio_list *bios);
void cbw_remap_help(struct cbw_device *dev);

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
 * @disk: its place in the device's container, a reference; NULL: none
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
	struct cbw_disk *disk;
};

/**
 * struct cbw_bitmap - a named bitmap; everything under cbw_config_mutex
 * @node: in dev->bitmaps
 * @dev: the device, a reference
 * @ref: the list, an abort under way, and whoever waits for that
 * @cur: the state
 * @next: what a transaction makes of it, while @staged
 * @staged: part of the current transaction
 * @aborting: the frozen half is being merged back: busy
 * @committing: what is merged back is the rest of a commit (CBW_COMMIT_ALWAYS)
 * @released_by: with @committing: the snapshot whose released chunks are left out, a
 *	reference; NULL: none
 * @was_active: with @staged, of one that a transaction renames: what it had before that, a
 *	reference; NULL: it is none
 * @was_disk: the same of its place
 * @forget: a transaction stops it from recording: what it says of discards ends
 * @transient: never persist it
 * @abort_work: merges back
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
	bool committing;
	struct cbw_snap *released_by;
	struct cbw_bits *was_active;
	struct cbw_disk *was_disk;
	bool forget;
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
int cbw_commit_always(struct cbw_device *dev, const struct cbw_cut_id *cut,
		      struct cbw_session *session, struct cbw_snap *through);
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
	return b->cur.frozen || b->aborting || !cbw_bits_merged(b->cur.active);
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

struct cbw_merges;
struct cbw_freeze;

/**
 * struct cbw_txn - a transaction while it is being staged
 * @devs: devices it touches, by txn_node
 * @snaps: snapshots it starts, by txn_node
 * @cut: its cut id
 * @session: owner of what it rotates; NULL: by message or by a snapshot's resume
 * @merges: what is to be merged when it is done; NULL: nothing
 * @freeze: what has to be frozen at the cut, the caller's; NULL: nothing
 * @syncs: containers to be written before it is acknowledged: struct cbw_sync
 * @sync: there is something that needs it
 * @demote: a place whose state has to say first that the bitmap has no base, a reference
 * @demoted: there were such places; over all tries, so the caller begins with false
 * @wait: an abort that has to end first, a reference
 * @wait_merge: a bitmap's memory into which a merge has to end first, a reference
 * @wait_dev: its device, a reference
 */
struct cbw_txn {
	struct list_head devs;
	struct list_head snaps;
	struct cbw_cut_id cut;
	struct cbw_session *session;
	struct cbw_merges *merges;
	struct cbw_freeze *freeze;
	struct list_head syncs;
	bool sync;
	struct cbw_disk *demote;
	bool demoted;
	struct cbw_bitmap *wait;
	struct cbw_bits *wait_merge;
	struct cbw_device *wait_dev;
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
int cbw_txn_merge(struct cbw_txn *txn, struct cbw_device *dev, struct cbw_name name,
		  struct cbw_device *from_dev, struct cbw_name from);
int cbw_txn_copy(struct cbw_txn *txn, struct cbw_device *dev, struct cbw_name name,
		 struct cbw_device *from_dev, struct cbw_name from);
int cbw_txn_rename(struct cbw_txn *txn, struct cbw_device *dev, struct cbw_name name,
		   struct cbw_name to);
struct cbw_bitmap *cbw_txn_settled_bitmap(struct cbw_txn *txn, struct cbw_device *dev,
					  struct cbw_name name);
int cbw_txn_start(struct cbw_txn *txn, struct cbw_snap *snap);
int cbw_txn_end(struct cbw_txn *txn, int err);
int cbw_txn_retry(struct cbw_txn *txn, int err);
void cbw_txn_give_up(struct cbw_txn *txn, int err);

/* freeze.c */
struct cbw_freeze *cbw_freeze_begin(const dev_t *devts, unsigned int nr,
				    unsigned int timeout_ms);
int cbw_freeze_claim(struct cbw_freeze *f);
void cbw_freeze_thaw(struct cbw_freeze *f);
void cbw_freeze_end(struct cbw_freeze *f);

/* merge.c */
int cbw_merges_add(struct cbw_merges **list, struct cbw_device *dev, struct cbw_bits *to,
		   struct cbw_device *from_dev, struct cbw_bits *from, bool rest,
		   bool discards);
void cbw_merges_frozen(struct cbw_merges *merges, const struct cbw_bits *to);
void cbw_merges_forget(struct cbw_merges *merges);
void cbw_merges_drop(struct cbw_merges *merges);
void cbw_merges_begin(struct cbw_merges *merges);
int cbw_merges_wait(struct cbw_merges *merges);

#include "snap.h"

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
