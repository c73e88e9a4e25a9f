/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The container of a device: bitmaps that survive.  For container*.c, intent.c, checkpoint.c.
 *
 * Locks, outer to inner, beside those of cbw.h:
 *
 *   c->cp_mutex	one checkpoint at a time.  Taken before cbw_config_mutex; held
 *			while the container is written.
 *   c->flip_sem	read: between looking for intents and marking, for who sleeps in
 *			between; write: to change the generation that counts
 *   c->intent_mutex	writes of intents: one at a time, so that two of one block cannot
 *			land in the wrong order
 *   c->lock		(irq) what is asked for
 */
#ifndef DM_CBW_CONTAINER_H
#define DM_CBW_CONTAINER_H

#include "cbw.h"

#include <linux/rwsem.h>

/* What is written at once, and read from where it lies. */
#define CBW_BLOCK		4096u
#define CBW_BLOCK_BITS		(CBW_BLOCK * 8)
#define CBW_BLOCK_WORDS		(CBW_BLOCK / sizeof(unsigned long))
/* Blocks of a buffer, and ranges that it is written to. */
#define CBW_CBUF_BLOCKS		64u
/* User space's clusters: a bitmap's place is whole ones. */
#define CBW_CLUSTER		65536u
#define CBW_STATE_BLOCKS	(CBW_STATE_SLOT_SIZE / CBW_BLOCK)

/**
 * struct cbw_cbuf - memory to write from, with what is to be written from it
 * @ref: who uses it, and each bio; a bio may end after everybody has given it up
 * @c: the container; not used any more once it was given up
 * @bios: for its bios
 * @left: bios that have not ended, and the submitter
 * @limit_ms: for how long at most
 * @done: all have
 * @last_words: may be written also when the container has failed
 * @given_up: bios of it may still be in flight, nobody waits for them: not to be used any more
 * @submit: submits them, which may take as long as the device likes
 * @status: the first error
 * @nr: ranges
 * @range: blocks of @page that go to a place
 * @page: one page for each block
 */
struct cbw_cbuf {
	refcount_t ref;
	struct cbw_container *c;
	atomic_t left;
	unsigned int limit_ms;
	struct completion done;
	bool last_words;
	bool given_up;
	struct work_struct submit;
	struct bio_set *bios;
	blk_status_t status;
	unsigned int nr;
	struct {
		u64 offset;
		unsigned int first, nr;
		blk_opf_t opf;
	} range[CBW_CBUF_BLOCKS];
	struct page *page[CBW_CBUF_BLOCKS];
};

/**
 * struct cbw_room - a free range of the container
 * @node: in c->room, or c->freed
 * @place: the range
 */
struct cbw_room {
	struct list_head node;
	struct cbw_place place;
};

/**
 * struct cbw_disk - where a bitmap lies in the container
 * @ref: the states of a bitmap, and checkpoints
 * @c: the container, a reference
 * @room: its place; its own memory, so that freeing needs none
 * @base: what the newest state says, cbw_config_mutex
 * @listed: the newest state lists it, cbw_config_mutex
 * @demoted: the state must not say that it has a base: soon there will be writes that it
 *	does not record; cbw_config_mutex
 * @demotion_durable: it does not; cbw_config_mutex
 * @settle_seq: the bitmap's base may be written when this epoch has been released: until then
 *	a write that is in flight may mark what has been recorded since; cbw_config_mutex
 * @kept: struct cbw_bits by kept_node: what memory has dropped and the state's base still
 *	needs; cbw_config_mutex
 */
struct cbw_disk {
	refcount_t ref;
	struct cbw_container *c;
	struct cbw_room *room;
	struct cbw_cut_id base;
	bool listed;
	bool demoted;
	bool demotion_durable;
	u64 settle_seq;
	struct list_head kept;
};

/**
 * struct cbw_cp_item - a bitmap as a checkpoint writes it
 * @b: the bitmap, a reference
 * @disk: its place, a reference
 * @active, @frozen: its memory, references; @frozen may be NULL
 * @kept: what has also to be written, taken from @disk
 * @place: of @disk, which a resize may change
 * @base: what the state will say
 * @enabled: the same
 * @demoted: it is without a base for that reason
 * @pending: @base is not yet what memory has
 */
struct cbw_cp_item {
	struct cbw_bitmap *b;
	struct cbw_disk *disk;
	struct cbw_bits *active, *frozen;
	struct list_head kept;
	struct cbw_place place;
	struct cbw_cut_id base;
	bool enabled;
	bool demoted;
	bool pending;
};

/**
 * struct cbw_container - the container of a device; the device owns it until its end
 * @ref: the device, places, bios
 * @dev: the device, a reference
 * @bdev: what it lies on; each table instance of the device has it open
 * @inflight: bios that have not ended, and submitters
 * @bios: for them
 * @fail_bios: for those that say that it has failed, when all others hang
 * @ready: the initial checkpoint is there, cbw_config_mutex
 * @live: the device was resumed with it; of its resumes and its end, one at a time
 * @resized: it was since the last checkpoint of a resume, the same
 * @slipped: it was written to before it was resumed with it, cbw_config_mutex
 * @no_room: the device was resized, and a bitmap has no place any more; cbw_config_mutex
 * @failed: nothing is written any more; set once, lock; read freely
 * @ended: since the device has no table of ours any more, and not for an error; set once,
 *	before @failed, lock; read after that
 * @stopping: the end was announced, cbw_config_mutex
 * @clean: the state on disk says CBW_STATE_CLEAN, cp_mutex
 * @id, @boot_id, @generation: for the state
 * @policy, @timeout_ms: as in struct cbw_container_attach
 * @state_offset: the slots
 * @state_seq: of the newest state, cp_mutex
 * @limit_ms: for how long a write may take, so that what has to be done after its failure
 *	is done within @timeout_ms, too
 * @state_buf: the state being built, cp_mutex
 * @state_last: what was written last, changed with cp_mutex and lock
 * @fail_state: the same for @fail_buf, of who has set @failing
 * @fail_buf: to write that the container has failed
 * @failing: somebody does that, atomic
 * @told: it is written; of who has set @failing, and of the end
 * @binding: passed on, cbw_config_mutex
 * @binding_len: its bytes, the same
 * @written: what the device's statistics said when all that was written was recorded, and no
 *	write was in flight: user space's count, then that of an announced stop; cbw_config_mutex
 *
 * @region_shift: log2 of a region in sectors
 * @nr_regions: as many as there is room for
 * @intent_offset: the two generations on disk
 * @intent_blocks: of each of them
 * @cur: the generation that counts: read under RCU or with flip_sem; changed with flip_sem
 *	and intent_mutex
 * @durable: regions that each has on disk; read as @cur, set under intent_mutex
 * @used: regions in which a bit was set since the last flip; atomic
 * @want: regions that are asked for, lock
 * @want_blocks: blocks of @want with something in it, lock
 * @parked: writes that wait for intents, lock
 * @intent_work: writes intents
 * @intent_buf: from here, intent_mutex
 * @intent_list: the blocks being written, the same
 * @intent_waitq: woken when intents are durable
 *
 * @cp_work: writes checkpoints
 * @cp_buf: from here, cp_mutex
 * @items: what it writes, cp_mutex
 * @nr_items: their number, the same
 * @items_len: size of the device for which they are, in sectors, the same
 * @cp_again: there is something left to be written, cp_mutex
 * @cp_wait_seq: when this epoch has been released; 0: at once; cp_mutex
 * @cp_asked: checkpoints that were asked for, lock
 * @cp_done: as @cp_asked was when the newest complete one began; read freely
 * @flip_asked: all intents are to be retired, too; lock
 * @armed: @cp_work will run by itself, to retire those that are not in use; lock
 * @flip_at: when, in jiffies; lock
 * @waitq: woken when @cp_done grows
 *
 * @room: free, by offset; lock
 * @freed: given back, lock
 * @freeing: of these, those that the state being written does not refer to; cp_mutex
 *
 * @intent_writes, @intent_held, @checkpoints, @pages: counts
 */
struct cbw_container {
	struct kref ref;
	struct cbw_device *dev;
	struct block_device *bdev;
	atomic_t inflight;
	struct bio_set bios;
	struct bio_set fail_bios;
	bool ready;
	bool live;
	bool slipped;
	bool no_room;
	bool resized;
	bool failed;
	bool ended;
	bool stopping;
	bool clean;
	u8 id[16];
	u8 boot_id[16];
	u64 generation;
	u32 policy;
	u32 timeout_ms;
	u64 state_offset[2];
	u64 state_seq;
	unsigned int limit_ms;
	u8 *state_buf;
	u8 *state_last;
	u8 *fail_state;
	struct cbw_cbuf *fail_buf;
	atomic_t failing;
	bool told;
	void *binding;
	u32 binding_len;
	u64 written;

	unsigned int region_shift;
	u64 nr_regions;
	u64 intent_offset[2];
	unsigned int intent_blocks;
	unsigned int cur;
	unsigned long *durable[2];
	unsigned long *used;
	unsigned long *want;
	unsigned long *want_blocks;
	struct bio_list parked;
	struct work_struct intent_work;
	struct cbw_cbuf *intent_buf;
	unsigned int intent_list[CBW_CBUF_BLOCKS];
	wait_queue_head_t intent_waitq;

	struct mutex cp_mutex;
	struct rw_semaphore flip_sem;
	struct mutex intent_mutex;
	spinlock_t lock;

	struct delayed_work cp_work;
	struct cbw_cbuf *cp_buf;
	struct cbw_cp_item *items;
	unsigned int nr_items;
	sector_t items_len;
	bool cp_again;
	u64 cp_wait_seq;
	u64 cp_asked;
	u64 cp_done;
	bool flip_asked;
	bool armed;
	unsigned long flip_at;
	wait_queue_head_t waitq;

	struct list_head room;
	struct list_head freed;
	struct list_head freeing;

	atomic64_t intent_writes;
	atomic64_t intent_held;
	atomic64_t checkpoints;
	atomic64_t pages;
};

/**
 * struct cbw_layout - what a call about a container points to
 * @binding: the binding
 * @bitmaps: places of bitmaps
 * @names: their names
 * @places: places that are free
 */
struct cbw_layout {
	void *binding;
	struct cbw_container_bitmap *bitmaps;
	struct cbw_name *names;
	struct cbw_place *places;
};

/* container.c */
int cbw_container_attach(const struct cbw_container_attach *cmd, struct cbw_layout *layout,
			 dev_t devt, dev_t container);
struct cbw_container *cbw_container_find(dev_t devt);
int cbw_container_announce(struct cbw_container *c, void **binding, u32 len);
int cbw_container_grow(struct cbw_container *c, const struct cbw_container_grow *cmd,
		       struct cbw_layout *layout);
void cbw_container_info(struct cbw_container *c, struct cbw_container_info *cmd);

static inline bool cbw_container_done(const struct cbw_container *c, u64 asked)
{
	return READ_ONCE(c->cp_done) >= asked || READ_ONCE(c->failed);
}

static inline struct cbw_container *cbw_container_get(struct cbw_container *c)
{
	kref_get(&c->ref);
	return c;
}

/* container-io.c */
struct cbw_cbuf *cbw_cbuf_alloc(struct cbw_container *c, struct bio_set *bios,
				unsigned int limit_ms);
void cbw_cbuf_put(struct cbw_cbuf *buf);
void cbw_cbuf_range(struct cbw_cbuf *buf, u64 offset, unsigned int first, unsigned int nr,
		    blk_opf_t opf);
int cbw_cbuf_write(struct cbw_cbuf *buf);
int cbw_cbuf_flush(struct cbw_cbuf *buf);

/* container-fail.c */
void cbw_container_fail(struct cbw_container *c, int err);
int cbw_container_untracked(struct cbw_container *c);
void cbw_container_over(struct cbw_container *c, bool ended);

/* container-tell.c */
void cbw_container_tell(struct cbw_container *c);

/* space.c */
int cbw_room_add(struct cbw_container *c, u64 offset, u64 length);
void cbw_room_destroy(struct cbw_container *c);
struct cbw_disk *cbw_disk_alloc(struct cbw_container *c, u64 bytes);
int cbw_disk_move(struct cbw_disk *disk, u64 bytes);
struct cbw_disk *cbw_disk_at(struct cbw_container *c, const struct cbw_place *place);
void cbw_room_begin(struct cbw_container *c);
void cbw_room_settle(struct cbw_container *c);
u64 cbw_room_free(struct cbw_container *c);

/* intent.c */
void cbw_intents_setup(struct cbw_container *c);
int cbw_intents_init(struct cbw_container *c);
void cbw_intents_exit(struct cbw_container *c);
int cbw_intents_flip(struct cbw_container *c, bool carry, bool *flipped);
int cbw_intents_retire(struct cbw_container *c);
int cbw_intents_wipe(struct cbw_container *c);
bool cbw_intents_none(struct cbw_container *c);
u64 cbw_intents_count(struct cbw_container *c);
void cbw_intents_release(struct cbw_container *c);

/* state.c */
u64 cbw_device_written(struct cbw_device *dev);
int cbw_state_build(struct cbw_container *c, bool clean, u32 *len);
void cbw_state_seal(struct cbw_state *s, u64 seq);
void cbw_state_untracked(struct cbw_container *c, struct cbw_state *s);

/* checkpoint.c */
void cbw_checkpoint_setup(struct cbw_container *c);
int cbw_checkpoint_init(struct cbw_container *c);
void cbw_checkpoint_exit(struct cbw_container *c);
int cbw_checkpoint_now(struct cbw_container *c, unsigned int flags);
int cbw_checkpoint_last(struct cbw_container *c, unsigned int flags);
#define CBW_CP_FLIP	(1u << 0)	/* retire intents, if that can be done now */
#define CBW_CP_ALL	(1u << 1)	/* also those in use */
#define CBW_CP_CLEAN	(1u << 2)	/* the state shall say CBW_STATE_CLEAN */
#define CBW_CP_UNCLEAN	(1u << 3)	/* no longer; else it stays as it is */
void cbw_checkpoint_arm(struct cbw_container *c);

#endif /* DM_CBW_CONTAINER_H */
