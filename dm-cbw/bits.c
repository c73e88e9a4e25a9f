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
	/* Rather none than somebody killed for it, or a resume that tries for ever. */
	const gfp_t gfp = GFP_KERNEL | __GFP_NOWARN | __GFP_RETRY_MAYFAIL;
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
	/* kvzalloc() has nothing larger. */
	if (bits->bytes <= INT_MAX)
		bits->words = kvzalloc(bits->bytes, gfp);
	else
		bits->words = __vmalloc(bits->bytes, gfp | __GFP_ZERO);
	if (!bits->words) {
		DMWARN_LIMIT("no memory for a bitmap of %zu KiB", bits->bytes >> 10);
		goto forget;
	}
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

/* The bits of the last word that are granules. */
static unsigned long last_word_mask(const struct cbw_bits *bits)
{
	return BITMAP_LAST_WORD_MASK(bits->nr);
}

/**
 * cbw_bits_or - add all marks of a frozen bitmap to a recording one
 * @to: may be marked by writes at the same time
 * @from: of the same granularity; see cbw_bits_merge().  Where the sizes differ, the
 *	device was resized meanwhile: what is beyond the end of @to is left out
 *
 * May sleep.
 */
void cbw_bits_or(struct cbw_bits *to, const struct cbw_bits *from)
{
	u64 i, to_words = to->bytes / sizeof(unsigned long);
	u64 words = min_t(u64, from->bytes / sizeof(unsigned long), to_words);

	for (i = 0; i < words; i++) {
		unsigned long word = READ_ONCE(from->words[i]);

		if (i == to_words - 1)
			word &= last_word_mask(to);
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
 * @b: another of the same granularity, or NULL; what is beyond the end of @a, which was
 *	resized then, does not count
 *
 * May sleep.  The last granule counts up to the device's end.
 */
u64 cbw_bits_dirty_bytes(const struct cbw_bits *a, const struct cbw_bits *b)
{
	u64 i, words = a->bytes / sizeof(unsigned long), dirty = 0;
	u64 b_words = b ? b->bytes / sizeof(unsigned long) : 0;
	u64 last = a->nr - 1;
	unsigned long word = 0;
	sector_t sectors;

	for (i = 0; i < words; i++) {
		word = READ_ONCE(a->words[i]);
		if (i < b_words)
			word |= READ_ONCE(b->words[i]);
		if (i == words - 1)
			word &= last_word_mask(a);
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

/**
 * cbw_bits_resize - the content of a bitmap in one of another size
 * @to: empty, of the same granularity
 * @from: the bitmap; nothing marks it any more
 *
 * May sleep.  What is beyond the old end is dirty: nobody knows what is there.
 */
void cbw_bits_resize(struct cbw_bits *to, const struct cbw_bits *from)
{
	const sector_t piece = (sector_t)SZ_1M << to->shift;
	sector_t start;

	cbw_bits_or(to, from);
	/* A short last granule gets longer: it is as new as what follows. */
	for (start = from->len; start < to->len; start += piece) {
		cbw_bits_mark_range(to, start, min(piece, to->len - start));
		cond_resched();
	}
}

/* The first granule is in the lowest bit of the first byte. */
static unsigned long word_to_le(unsigned long word)
{
#if BITS_PER_LONG == 64
	return (__force unsigned long)cpu_to_le64(word);
#else
	return (__force unsigned long)cpu_to_le32(word);
#endif
}

/**
 * cbw_bits_read - the bits as bytes, the first granule in the lowest bit
 * @bits: the bitmap
 * @word: where to begin, in words of unsigned long
 * @to: room for @nr of them
 * @nr: words
 */
void cbw_bits_read(const struct cbw_bits *bits, u64 word, unsigned long *to, u64 nr)
{
	while (nr--) {
		*to++ = word_to_le(READ_ONCE(bits->words[word]));
		word++;
	}
}

/**
 * cbw_bits_load - add bits that cbw_bits_read() gave
 * @bits: the bitmap; may be marked by writes at the same time
 * @word: where to begin, in words
 * @from: the bits
 * @nr: words of them
 *
 * Returns 0 or -EINVAL: one of them is beyond the end, and nothing was added.
 */
int cbw_bits_load(struct cbw_bits *bits, u64 word, const unsigned long *from, u64 nr)
{
	u64 words = bits->bytes / sizeof(unsigned long), i;

	for (i = 0; i < nr; i++) {
		unsigned long w = word_to_le(from[i]);

		if (word + i == words - 1)
			w &= ~last_word_mask(bits);
		else if (word + i < words)
			w = 0;
		if (w)
			return -EINVAL;
	}
	for (i = 0; i < nr && word + i < words; i++)
		bits_or_word(&bits->words[word + i], word_to_le(from[i]));
	return 0;
}
