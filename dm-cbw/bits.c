// SPDX-License-Identifier: GPL-2.0-only
/*
 * Flat bitmap memory.
 *
 * Bits are set by writes under RCU and never cleared: to clear a bitmap is to
 * rotate it and drop the old half.  So "test before set" never races a clear.
 */
#define DM_MSG_PREFIX "cbw"

#include "bits.h"

#include <linux/bitmap.h>
#include <linux/device-mapper.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

static unsigned long bitmap_limit_mib;
module_param(bitmap_limit_mib, ulong, 0644);
MODULE_PARM_DESC(bitmap_limit_mib,
		 "Most memory for all bitmaps together, in MiB (0: a quarter of the RAM)");

static atomic64_t bits_total;

static bool bits_admit(u64 bytes)
{
	u64 limit = (u64)READ_ONCE(bitmap_limit_mib) << 20;

	if (!limit)
		limit = ((u64)totalram_pages() << PAGE_SHIFT) / 4;
	if (atomic64_add_return(bytes, &bits_total) <= limit)
		return true;
	atomic64_sub(bytes, &bits_total);
	DMWARN_LIMIT("bitmap of %llu KiB refused: the limit for all bitmaps is %llu MiB (parameter bitmap_limit_mib)",
		     bytes >> 10, limit >> 20);
	return false;
}

/**
 * cbw_bits_alloc - make an empty bitmap
 * @len: size of the device in sectors, not 0
 * @shift: log2 of the granularity in sectors
 *
 * May sleep.  Returns NULL without memory or when the limit is reached.
 */
struct cbw_bits *cbw_bits_alloc(sector_t len, unsigned int shift)
{
	struct cbw_bits *bits = kzalloc(sizeof(*bits), GFP_KERNEL);

	if (!bits)
		return NULL;
	refcount_set(&bits->ref, 1);
	bits->shift = shift;
	bits->len = len;
	bits->nr = ((len - 1) >> shift) + 1;
	bits->bytes = DIV_ROUND_UP_ULL(bits->nr, BITS_PER_LONG) *
		      sizeof(unsigned long);
	if (!bits_admit(bits->bytes))
		goto free_bits;
	bits->words = kvzalloc(bits->bytes, GFP_KERNEL | __GFP_NOWARN);
	if (!bits->words)
		goto forget;
	return bits;

forget:
	atomic64_sub(bits->bytes, &bits_total);
free_bits:
	kfree(bits);
	return NULL;
}

/**
 * cbw_bits_put - drop a reference
 * @bits: may be NULL
 *
 * May sleep (vfree).  Whoever drops the last one knows that no RCU reader can
 * still come here: epochs drop theirs when they have been released.
 */
void cbw_bits_put(struct cbw_bits *bits)
{
	if (!bits || !refcount_dec_and_test(&bits->ref))
		return;
	atomic64_sub(bits->bytes, &bits_total);
	kvfree(bits->words);
	kfree(bits);
}

static void bits_or_word(unsigned long *word, unsigned long mask)
{
	if ((READ_ONCE(*word) & mask) != mask)
		atomic_long_or(mask, (atomic_long_t *)word);
}

/**
 * cbw_bits_mark_range - mark every granule that a range touches
 * @bits: the bitmap
 * @sector: first sector
 * @nr: sectors, not 0
 *
 * Any context.  Whole words are stored as such: they only ever gain bits.
 */
void cbw_bits_mark_range(struct cbw_bits *bits, sector_t sector, sector_t nr)
{
	u64 first = sector >> bits->shift;
	u64 last = min_t(u64, (sector + nr - 1) >> bits->shift, bits->nr - 1);
	u64 word = first / BITS_PER_LONG, last_word = last / BITS_PER_LONG;
	unsigned long head = BITMAP_FIRST_WORD_MASK(first);
	unsigned long tail = BITMAP_LAST_WORD_MASK(last + 1);

	if (first >= bits->nr)
		return;
	if (word == last_word) {
		bits_or_word(&bits->words[word], head & tail);
		return;
	}
	bits_or_word(&bits->words[word], head);
	while (++word < last_word)
		if (READ_ONCE(bits->words[word]) != ~0UL)
			WRITE_ONCE(bits->words[word], ~0UL);
	bits_or_word(&bits->words[word], tail);
}

/**
 * cbw_bits_or - add all marks of a frozen bitmap to a recording one
 * @to: may be marked by writes at the same time
 * @from: of the same size and granularity; see cbw_bits_merge()
 *
 * May sleep.
 */
void cbw_bits_or(struct cbw_bits *to, const struct cbw_bits *from)
{
	u64 i, words = from->bytes / sizeof(unsigned long);

	for (i = 0; i < words; i++) {
		unsigned long word = READ_ONCE(from->words[i]);

		if (word)
			bits_or_word(&to->words[i], word);
		if (!(i % 65536))
			cond_resched();
	}
}

/**
 * cbw_bits_merge - add all marks of a bitmap to another one
 * @to: may be marked by writes at the same time
 * @from: may be, too: what comes meanwhile is added or not; same size, any granularity
 *
 * May sleep.  A granule of @to is marked if any part of it is in @from.
 */
void cbw_bits_merge(struct cbw_bits *to, const struct cbw_bits *from)
{
	const sector_t piece = (sector_t)SZ_1M << to->shift;
	sector_t start, end = 0;

	if (to == from)
		return;
	if (to->shift == from->shift) {
		cbw_bits_or(to, from);
		return;
	}
	while (cbw_bits_next_run(from, end, &start, &end)) {
		/* A run may be all of the device, and the target's granules small. */
		for (; end - start > piece; start += piece) {
			cbw_bits_mark_range(to, start, piece);
			cond_resched();
		}
		cbw_bits_mark_range(to, start, end - start);
	}
}

/**
 * cbw_bits_dirty_bytes - what is dirty in one bitmap or in either of two
 * @a: a bitmap
 * @b: another of the same size and granularity, or NULL
 *
 * May sleep.  The last granule counts up to the device's end.
 */
u64 cbw_bits_dirty_bytes(const struct cbw_bits *a, const struct cbw_bits *b)
{
	u64 i, words = a->bytes / sizeof(unsigned long), dirty = 0;
	u64 last = a->nr - 1;
	unsigned long word = 0;
	sector_t sectors;

	for (i = 0; i < words; i++) {
		word = READ_ONCE(a->words[i]);
		if (b)
			word |= READ_ONCE(b->words[i]);
		dirty += hweight_long(word);
		if (!(i % 65536))
			cond_resched();
	}
	sectors = dirty << a->shift;
	if (word & (1UL << (last % BITS_PER_LONG)))
		sectors -= (a->nr << a->shift) - a->len;
	return (u64)sectors << SECTOR_SHIFT;
}

/**
 * cbw_bits_next_run - find the next dirty run
 * @bits: the bitmap
 * @from: sector to begin at, a multiple of the granularity
 * @start: its first sector
 * @end: the sector behind it, at most the device's size
 *
 * May sleep.  Returns false when nothing is dirty from @from on.  Bits that writes set
 * meanwhile are seen or not: who must not miss any asks for a frozen bitmap whose epoch
 * has been released.
 */
bool cbw_bits_next_run(const struct cbw_bits *bits, sector_t from,
		       sector_t *start, sector_t *end)
{
	u64 first = from >> bits->shift, last;

	if (from >= bits->len)
		return false;
	/* Set meanwhile: see above. */
	first = data_race(find_next_bit(bits->words, bits->nr, first));
	if (first >= bits->nr)
		return false;
	/* The same. */
	last = data_race(find_next_zero_bit(bits->words, bits->nr, first));
	*start = (sector_t)first << bits->shift;
	*end = min_t(sector_t, (sector_t)last << bits->shift, bits->len);
	cond_resched();
	return true;
}
