// SPDX-License-Identifier: GPL-2.0-only
/*
 * Flat bitmaps.  Their memory comes from bits-alloc.c.
 *
 * Bits are set by writes under RCU and never cleared: to clear a bitmap is to
 * rotate it and drop the old half.  So "test before set" never races a clear.
 *
 * The second plane is different: its bits come and go.  Where two meet, the one that
 * clears wins: what is dirty and nothing else is always right.
 */
#include "bits.h"

#include <linux/bitmap.h>
#include <linux/blkdev.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/slab.h>

static u64 bits_blocks(const struct cbw_bits *bits)
{
	return ((bits->nr - 1) >> CBW_BITS_BLOCK_SHIFT) + 1;
}

/**
 * cbw_bits_persist - it is to be written to a container
 * @bits: the bitmap; nobody marks it yet
 * @all: all of it has still to be written
 *
 * May sleep.  Without memory to know what has changed,
 * it is always all of it.
 */
void cbw_bits_persist(struct cbw_bits *bits, bool all)
{
	u64 words = DIV_ROUND_UP_ULL(bits_blocks(bits), BITS_PER_LONG);

	if (!bits->touched)
		bits->touched = kvzalloc(words * sizeof(unsigned long), GFP_KERNEL | __GFP_NOWARN);
	if (bits->touched && all)
		memset(bits->touched, 0xff, words * sizeof(unsigned long));
	bits->persistent = true;
}

/**
 * cbw_bits_touch - bits have been set
 * @bits: the bitmap
 * @first: first granule
 * @last: last one
 *
 * Any context.  Either who writes the block sees the bits, or it is seen here that it has
 * taken the block's mark away, and that is set again.
 */
void cbw_bits_touch(struct cbw_bits *bits, u64 first, u64 last)
{
	unsigned long *touched = bits->touched;
	u64 block = first >> CBW_BITS_BLOCK_SHIFT;

	if (!touched)
		return;
	smp_mb();	/* pairs with cbw_bits_fetch_touched() */
	for (; block <= last >> CBW_BITS_BLOCK_SHIFT; block++)
		if (!test_bit(block, touched))
			set_bit(block, touched);
}

/* Has a block changed since the last time?  To be asked before it is read. */
bool cbw_bits_fetch_touched(struct cbw_bits *bits, u64 block)
{
	if (!bits->touched)
		return true;
	if (block >= bits_blocks(bits) || !test_bit(block, bits->touched))
		return false;
	clear_bit(block, bits->touched);
	/* Before it is read; pairs with cbw_bits_touch(). */
	smp_mb__after_atomic();
	return true;
}

/* What is in @from was written together with @to, and shall be so no longer. */
void cbw_bits_touch_like(struct cbw_bits *to, const struct cbw_bits *from)
{
	u64 granule = 0, nr = min(to->nr, from->nr);

	for (;;) {
		/* Nobody marks it any more, or what is marked is touched by who does. */
		granule = data_race(find_next_bit(from->words, nr, granule));
		if (granule >= nr)
			return;
		cbw_bits_touch(to, granule, granule);
		granule = ((granule >> CBW_BITS_BLOCK_SHIFT) + 1) << CBW_BITS_BLOCK_SHIFT;
	}
}

/* Is every granule that a range touches marked already? */
bool cbw_bits_all_set(const struct cbw_bits *bits, sector_t sector, sector_t nr)
{
	u64 first = sector >> bits->shift;
	u64 end = min_t(u64, (sector + nr - 1) >> bits->shift, bits->nr - 1) + 1;

	if (first >= end)
		return true;
	/* Bits are only ever set. */
	return data_race(find_next_zero_bit(bits->words, end, first)) >= end;
}

/*
 * A whole word is stored as such: then there is nothing in it that could get lost.  Not with
 * WRITE_ONCE(): where atomic operations are made of a lock, it could come between.
 */
static __always_inline bool bits_or_word(unsigned long *word, unsigned long mask)
{
	if ((READ_ONCE(*word) & mask) == mask)
		return false;
	if (mask == ~0UL)
		atomic_long_set((atomic_long_t *)word, mask);
	else
		atomic_long_or(mask, (atomic_long_t *)word);
	return true;
}

static __always_inline bool bits_clear_word(unsigned long *word, unsigned long mask)
{
	if (!(READ_ONCE(*word) & mask))
		return false;
	atomic_long_andnot(mask, (atomic_long_t *)word);
	return true;
}

/*
 * Do @fn to the words of all granules that a range touches: which, and their bits in it.
 * Returns whether it has changed any of them.
 */
static __always_inline bool bits_for_range(struct cbw_bits *bits, sector_t sector, sector_t nr,
					   bool (*fn)(unsigned long *word, unsigned long mask))
{
	bool changed;
	u64 first = sector >> bits->shift;
	u64 last = min_t(u64, (sector + nr - 1) >> bits->shift, bits->nr - 1);
	u64 word = first / BITS_PER_LONG, last_word = last / BITS_PER_LONG;
	unsigned long head = BITMAP_FIRST_WORD_MASK(first);
	unsigned long tail = BITMAP_LAST_WORD_MASK(last + 1);

	if (first >= bits->nr)
		return false;
	if (word == last_word)
		return fn(&bits->words[word], head & tail);
	changed = fn(&bits->words[word], head);
	while (++word < last_word)
		changed |= fn(&bits->words[word], ~0UL);
	return changed | fn(&bits->words[word], tail);
}

/**
 * cbw_bits_mark_range - mark every granule that a range touches
 * @bits: the bitmap
 * @sector: first sector
 * @nr: sectors, not 0
 *
 * Any context.
 */
void cbw_bits_mark_range(struct cbw_bits *bits, sector_t sector, sector_t nr)
{
	if (bits_for_range(bits, sector, nr, bits_or_word) && bits->persistent)
		cbw_bits_touch(bits, sector >> bits->shift,
			       min_t(u64, (sector + nr - 1) >> bits->shift, bits->nr - 1));
}

/**
 * cbw_bits_undiscard_ordered - there may be data in a range
 * @bits: the bitmap, in which it has been marked before a full barrier
 * @sector: first sector
 * @nr: sectors, not 0
 *
 * Any context.  The barrier: either merge_discarded() sees that mark, or what it has set is
 * seen here.
 */
void cbw_bits_undiscard_ordered(struct cbw_bits *bits, sector_t sector, sector_t nr)
{
	struct cbw_bits *plane = READ_ONCE(bits->discarded);

	if (plane)
		bits_for_range(plane, sector, nr, bits_clear_word);
}

/* The same, with the barrier. */
void cbw_bits_undiscard(struct cbw_bits *bits, sector_t sector, sector_t nr)
{
	smp_mb();	/* see there */
	cbw_bits_undiscard_ordered(bits, sector, nr);
}

/**
 * cbw_bits_discard - the content of a range does not matter
 * @bits: the bitmap, in which it has been marked before
 * @sector: first sector
 * @nr: sectors, not 0
 *
 * For the granules that the range covers whole.  Any context.  To be called before the
 * discard goes down: a write that ends after that clears what it covers.
 */
void cbw_bits_discard(struct cbw_bits *bits, sector_t sector, sector_t nr)
{
	struct cbw_bits *plane = READ_ONCE(bits->discarded);
	const sector_t granule = (sector_t)1 << bits->shift;
	u64 first = (sector + granule - 1) >> bits->shift;
	u64 end = (sector + nr) >> bits->shift;

	/* The last granule may be short. */
	if (sector + nr >= bits->len)
		end = bits->nr;
	if (!plane || first >= end)
		return;
	cbw_bits_mark_range(plane, (sector_t)first << bits->shift,
			    (sector_t)(end - first) << bits->shift);
	/* A write that ends from now on sees it. */
	smp_mb();
}

/* Writes went by, or will, that are not recorded here. */
void cbw_bits_forget_discards(struct cbw_bits *bits)
{
	WRITE_ONCE(bits->forgetful, true);
}

/* The second plane, if what it says holds. */
static struct cbw_bits *bits_plane(const struct cbw_bits *bits)
{
	return READ_ONCE(bits->forgetful) ? NULL : READ_ONCE(bits->discarded);
}

/**
 * cbw_bits_mark_data - mark every granule that a range touches; there may be data
 * @bits: the bitmap
 * @sector: first sector
 * @nr: sectors, not 0
 *
 * Any context.
 */
void cbw_bits_mark_data(struct cbw_bits *bits, sector_t sector, sector_t nr)
{
	cbw_bits_mark_range(bits, sector, nr);
	cbw_bits_undiscard(bits, sector, nr);
}

/* The same for granules of one word. */
static void mark_data_word(struct cbw_bits *bits, u64 word, unsigned long mask)
{
	struct cbw_bits *plane = READ_ONCE(bits->discarded);

	if (bits_or_word(&bits->words[word], mask) && bits->persistent)
		cbw_bits_touch(bits, word * BITS_PER_LONG, word * BITS_PER_LONG);
	if (!plane || !mask)
		return;
	smp_mb();	/* as for cbw_bits_undiscard_ordered() */
	bits_clear_word(&plane->words[word], mask);
}

/*
 * Add granules of one word that were discarded.  Those that are dirty here stay as they
 * are: dirty wins.  The others become dirty and discarded, unless a write marks them in
 * these nanoseconds: its mark is seen by the second look at the word, which sets them dirty,
 * or the write, which clears what is discarded after it has marked, sees what was set.
 */
static void merge_discarded(struct cbw_bits *to, u64 word, unsigned long mask)
{
	struct cbw_bits *plane = READ_ONCE(to->discarded);
	atomic_long_t *words = (atomic_long_t *)to->words;
	unsigned long old = READ_ONCE(to->words[word]);

	mask &= ~old;
	if (!mask)
		return;
	if (plane)
		atomic_long_or(mask, (atomic_long_t *)&plane->words[word]);
	/* Fully ordered. */
	old = atomic_long_fetch_or(mask, &words[word]);
	if (to->persistent)
		cbw_bits_touch(to, word * BITS_PER_LONG, word * BITS_PER_LONG);
	if (plane)
		bits_clear_word(&plane->words[word], mask & old);
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
 * @discards: see cbw_bits_merge()
 *
 * May sleep.
 */
void cbw_bits_or(struct cbw_bits *to, const struct cbw_bits *from, bool discards)
{
	const struct cbw_bits *plane = discards ? bits_plane(from) : NULL;
	u64 i, to_words = to->bytes / sizeof(unsigned long);
	u64 words = min_t(u64, from->bytes / sizeof(unsigned long), to_words);

	for (i = 0; i < words; i++) {
		unsigned long word = READ_ONCE(from->words[i]), gone = 0;

		if (i == to_words - 1)
			word &= last_word_mask(to);
		if (plane)
			gone = READ_ONCE(plane->words[i]) & word;
		if (gone)
			merge_discarded(to, i, gone);
		if (word & ~gone)
			mark_data_word(to, i, word & ~gone);
		if (!(i % 65536))
			cond_resched();
	}
}

/**
 * cbw_bits_mark_run - the same as cbw_bits_mark_data() for however many granules
 * @to: the bitmap
 * @start: first sector
 * @end: the sector behind the last, more than @start
 *
 * May sleep: a run may be all of the device, and the granules small.
 */
void cbw_bits_mark_run(struct cbw_bits *to, sector_t start, sector_t end)
{
	const sector_t piece = (sector_t)SZ_1M << to->shift;

	for (; end - start > piece; start += piece) {
		cbw_bits_mark_data(to, start, piece);
		cond_resched();
	}
	cbw_bits_mark_data(to, start, end - start);
}

/* The same; but at the ends of the run only a part of a granule may be discarded. */
static void merge_run_discarded(struct cbw_bits *to, sector_t start, sector_t end)
{
	const sector_t granule = (sector_t)1 << to->shift;
	u64 first = ((start + granule - 1) >> to->shift), last = end >> to->shift;
	u64 word, stop;

	if (end == to->len)
		last = to->nr;
	if (first >= last) {
		cbw_bits_mark_run(to, start, end);
		return;
	}
	if (start < (sector_t)first << to->shift)
		cbw_bits_mark_data(to, start, 1);
	if (end > (sector_t)last << to->shift)
		cbw_bits_mark_data(to, end - 1, 1);
	for (; first < last; first = stop) {
		word = first / BITS_PER_LONG;
		stop = min((word + 1) * BITS_PER_LONG, last);
		merge_discarded(to, word, BITMAP_FIRST_WORD_MASK(first) &
					  BITMAP_LAST_WORD_MASK(stop));
		if (!(word % 65536))
			cond_resched();
	}
}

/**
 * cbw_bits_merge - add all marks of a bitmap to another one
 * @to: may be marked by writes at the same time
 * @from: may be, too: what comes meanwhile is added or not; same size, any granularity
 * @discards: @to has recorded all writes since before anybody can have written to what
 *	@from says is discarded, and records now: then what was discarded in @from, and is
 *	not dirty in @to, is discarded there
 *
 * May sleep.  A granule of @to is marked if any part of it is in @from; as discarded only
 * if all of it is that.
 */
void cbw_bits_merge(struct cbw_bits *to, const struct cbw_bits *from, bool discards)
{
	if (to == from)
		return;
	if (to->shift == from->shift)
		cbw_bits_or(to, from, discards);
	else
		cbw_bits_merge_covered(to, from, discards, NULL, NULL);
}

/**
 * cbw_bits_merge_covered - the same, with something to be done before bits are set
 * @to: as above
 * @from: as above
 * @discards: as above
 * @cover: called with each range whose granules are about to be marked, and when they are;
 *	NULL: nothing
 * @data: for @cover
 */
void cbw_bits_merge_covered(struct cbw_bits *to, const struct cbw_bits *from, bool discards,
			    void (*cover)(void *data, sector_t sector, sector_t nr, bool done),
			    void *data)
{
	sector_t start, end = 0;
	bool gone;

	while (cbw_bits_next_extent(from, end, &start, &end, &gone)) {
		if (cover)
			cover(data, start, end - start, false);
		if (gone && discards)
			merge_run_discarded(to, start, end);
		else
			cbw_bits_mark_run(to, start, end);
		if (cover)
			cover(data, start, end - start, true);
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
 * cbw_bits_next_extent - find the next dirty run that is discarded as a whole, or not at all
 * @bits: the bitmap
 * @from: sector to begin at, a multiple of the granularity
 * @start: its first sector
 * @end: the sector behind it, at most the device's size
 * @discarded: which
 *
 * May sleep.  As cbw_bits_next_run().
 */
bool cbw_bits_next_extent(const struct cbw_bits *bits, sector_t from,
			  sector_t *start, sector_t *end, bool *discarded)
{
	const struct cbw_bits *plane = bits_plane(bits);
	u64 first, last, changes;

	*discarded = false;
	if (!cbw_bits_next_run(bits, from, start, end))
		return false;
	if (!plane)
		return true;
	first = *start >> bits->shift;
	last = ((*end - 1) >> bits->shift) + 1;
	/* Writes come and go meanwhile, as in cbw_bits_next_run(). */
	changes = data_race(find_next_bit(plane->words, last, first));
	if (changes == first) {
		*discarded = true;
		/* The same; it was set when we looked first. */
		changes = data_race(find_next_zero_bit(plane->words, last, first));
		changes = max(changes, first + 1);
	}
	*end = min_t(sector_t, (sector_t)changes << bits->shift, *end);
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
	if (READ_ONCE(from->forgetful))
		cbw_bits_forget_discards(to);
	cbw_bits_or(to, from, true);
	/* A short last granule gets longer: it is as new as what follows. */
	if (from->len < to->len)
		cbw_bits_mark_run(to, from->len, to->len);
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
 * cbw_bits_read - what is dirty as bytes, the first granule in the lowest bit
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
 * cbw_bits_load - add bits that cbw_bits_read() gave, as data
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
		mark_data_word(bits, word + i, word_to_le(from[i]));
	return 0;
}
