/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flat bitmaps.  Nothing here knows of devices, so that it is tested on the host.
 */
#ifndef DM_CBW_BITS_H
#define DM_CBW_BITS_H

#include <linux/atomic.h>
#include <linux/list.h>
#include <linux/refcount.h>
#include <linux/types.h>

/**
 * struct cbw_bits - a flat bitmap; bits are only ever set, but those of a second plane
 * @ref: one for each epoch, each bitmap half and each merge that points here
 * @merges: merges into it that have not ended; raised under cbw_config_mutex
 * @successor: what has taken its place while some had not, and gets what they add, a
 *	reference; NULL: none.  Set once, under cbw_config_mutex
 * @shift: log2 of the granularity in sectors
 * @nr: granules
 * @len: size of the device in sectors; the last granule may be short
 * @bytes: bytes of @words, accounted
 * @is_plane: it is the second plane of another one
 * @words: set with atomic operations or whole words of ones; read freely
 * @discarded: the second plane, which is of the same size: of the dirty granules, those
 *	whose content does not matter; NULL: none.  Set once, under cbw_config_mutex or
 *	before anybody else has this; freed with it
 * @persistent: it is to be written to a container; set before anybody marks it
 * @touched: with @persistent: blocks of @words that have changed and were not written; NULL:
 *	any may have.  Set once, as @persistent
 * @kept_node: memory has dropped it, and what is on disk needs it still; cbw_config_mutex
 * @forgetful: writes went by unrecorded, so the second plane says nothing any more; once
 *	set it stays
 *
 * A bit of the second plane must never hide data.  Whoever records a write sets its bits
 * in @words first and then clears those in @discarded, when it goes down and again when it
 * has ended.
 */
struct cbw_bits {
	refcount_t ref;
	atomic_t merges;
	struct cbw_bits *successor;
	unsigned int shift;
	u64 nr;
	sector_t len;
	size_t bytes;
	bool is_plane;
	unsigned long *words;
	struct cbw_bits *discarded;
	bool persistent;
	unsigned long *touched;
	struct list_head kept_node;
	bool forgetful;
};

/* log2 of the granules in one block of a container, 4096 bytes. */
#define CBW_BITS_BLOCK_SHIFT	15

/* bits-alloc.c */
struct cbw_bits *cbw_bits_alloc(sector_t len, unsigned int shift);
void cbw_bits_put(struct cbw_bits *bits);
bool cbw_bits_add_plane(struct cbw_bits *bits);

/* bits.c */
void cbw_bits_mark_range(struct cbw_bits *bits, sector_t sector, sector_t nr);
void cbw_bits_mark_data(struct cbw_bits *bits, sector_t sector, sector_t nr);
void cbw_bits_mark_run(struct cbw_bits *to, sector_t start, sector_t end);
void cbw_bits_persist(struct cbw_bits *bits, bool all);
void cbw_bits_touch(struct cbw_bits *bits, u64 first, u64 last);
bool cbw_bits_fetch_touched(struct cbw_bits *bits, u64 block);
void cbw_bits_touch_like(struct cbw_bits *to, const struct cbw_bits *from);
bool cbw_bits_all_set(const struct cbw_bits *bits, sector_t sector, sector_t nr);
void cbw_bits_discard(struct cbw_bits *bits, sector_t sector, sector_t nr);
void cbw_bits_undiscard(struct cbw_bits *bits, sector_t sector, sector_t nr);
void cbw_bits_undiscard_ordered(struct cbw_bits *bits, sector_t sector, sector_t nr);
void cbw_bits_forget_discards(struct cbw_bits *bits);
void cbw_bits_or(struct cbw_bits *to, const struct cbw_bits *from, bool discards);
void cbw_bits_merge(struct cbw_bits *to, const struct cbw_bits *from, bool discards);
void cbw_bits_merge_covered(struct cbw_bits *to, const struct cbw_bits *from, bool discards,
			    void (*cover)(void *data, sector_t sector, sector_t nr, bool done),
			    void *data);
u64 cbw_bits_dirty_bytes(const struct cbw_bits *a, const struct cbw_bits *b);
bool cbw_bits_next_run(const struct cbw_bits *bits, sector_t from,
		       sector_t *start, sector_t *end);
bool cbw_bits_next_extent(const struct cbw_bits *bits, sector_t from,
			  sector_t *start, sector_t *end, bool *discarded);
void cbw_bits_resize(struct cbw_bits *to, const struct cbw_bits *from);
void cbw_bits_read(const struct cbw_bits *bits, u64 word, unsigned long *to, u64 nr);
int cbw_bits_load(struct cbw_bits *bits, u64 word, const unsigned long *from, u64 nr);

static inline struct cbw_bits *cbw_bits_get(struct cbw_bits *bits)
{
	refcount_inc(&bits->ref);
	return bits;
}

/* Have all merges into it ended? */
static inline bool cbw_bits_merged(const struct cbw_bits *bits)
{
	/* Pairs with merge_work(): what they marked is seen. */
	return !atomic_read_acquire(&bits->merges);
}

#endif /* DM_CBW_BITS_H */
