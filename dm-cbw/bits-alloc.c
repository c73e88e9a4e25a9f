// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of flat bitmaps, and the limit for that of all of them.
 */
#define DM_MSG_PREFIX "cbw"

#include "bits.h"

#include <linux/device-mapper.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

static unsigned long bitmap_limit_mib;
module_param(bitmap_limit_mib, ulong, 0644);
MODULE_PARM_DESC(bitmap_limit_mib,
		 "Most memory for all bitmaps together, in MiB (0: a quarter of the RAM)");

/* Bytes: of bitmaps; of their second planes, which do not count against the limit. */
static atomic64_t bits_total, planes_total;

/*
 * A second plane is worth having, but must keep no memory from what has to be had: there are
 * some as long as all of it is within half of the limit.
 */
static bool bits_admit(const struct cbw_bits *bits)
{
	u64 limit = (u64)READ_ONCE(bitmap_limit_mib) << 20, bytes = bits->bytes;

	if (!limit)
		limit = ((u64)totalram_pages() << PAGE_SHIFT) / 4;
	if (bits->is_plane) {
		if (atomic64_add_return(bytes, &planes_total) +
		    atomic64_read(&bits_total) <= limit / 2)
			return true;
		atomic64_sub(bytes, &planes_total);
		DMWARN_LIMIT("no %llu KiB to tell what is discarded: that is for bitmaps within half of the limit, %llu MiB (parameter bitmap_limit_mib)",
			     bytes >> 10, limit >> 21);
		return false;
	}
	if (atomic64_add_return(bytes, &bits_total) <= limit)
		return true;
	atomic64_sub(bytes, &bits_total);
	DMWARN_LIMIT("bitmap of %llu KiB refused: the limit for all bitmaps is %llu MiB (parameter bitmap_limit_mib)",
		     bytes >> 10, limit >> 20);
	return false;
}

static void bits_unaccount(const struct cbw_bits *bits)
{
	atomic64_sub(bits->bytes, bits->is_plane ? &planes_total : &bits_total);
}

static struct cbw_bits *bits_alloc(sector_t len, unsigned int shift, bool plane)
{
	/*
	 * Rather none than somebody killed for it, or a resume that tries for ever; and a
	 * discard waits for a plane.
	 */
	const gfp_t gfp = GFP_KERNEL | __GFP_NOWARN |
			  (plane ? __GFP_NORETRY : __GFP_RETRY_MAYFAIL);
	struct cbw_bits *bits = kzalloc(sizeof(*bits), plane ? gfp : GFP_KERNEL);

	if (!bits)
		return NULL;
	refcount_set(&bits->ref, 1);
	INIT_LIST_HEAD(&bits->kept_node);
	bits->is_plane = plane;
	bits->shift = shift;
	bits->len = len;
	bits->nr = ((len - 1) >> shift) + 1;
	bits->bytes = DIV_ROUND_UP_ULL(bits->nr, BITS_PER_LONG) *
		      sizeof(unsigned long);
	if (!bits_admit(bits))
		goto free_bits;
	/* kvzalloc() has nothing larger. */
	if (bits->bytes <= INT_MAX)
		bits->words = kvzalloc(bits->bytes, gfp);
	else
		bits->words = __vmalloc(bits->bytes, gfp | __GFP_ZERO);
	if (!bits->words) {
		DMWARN_LIMIT("no memory for a %s of %zu KiB",
			     plane ? "plane of discards" : "bitmap", bits->bytes >> 10);
		goto forget;
	}
	return bits;

forget:
	bits_unaccount(bits);
free_bits:
	kfree(bits);
	return NULL;
}

/**
 * cbw_bits_alloc - make an empty bitmap, without a second plane
 * @len: size of the device in sectors, not 0
 * @shift: log2 of the granularity in sectors
 *
 * May sleep.  Returns NULL without memory or when the limit is reached.
 */
struct cbw_bits *cbw_bits_alloc(sector_t len, unsigned int shift)
{
	return bits_alloc(len, shift, false);
}

/**
 * cbw_bits_add_plane - give a bitmap its second plane, if it has none
 * @bits: the bitmap; writes may be marking it
 *
 * May sleep.  One at a time.  Returns false without memory; then discards are dirty and
 * nothing else.
 */
bool cbw_bits_add_plane(struct cbw_bits *bits)
{
	struct cbw_bits *plane;

	if (bits->discarded)
		return true;
	plane = bits_alloc(bits->len, bits->shift, true);
	if (!plane)
		return false;
	/* Pairs with the READ_ONCE() of those who follow it. */
	smp_store_release(&bits->discarded, plane);
	return true;
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
	cbw_bits_put(bits->discarded);
	cbw_bits_put(bits->successor);
	bits_unaccount(bits);
	kvfree(bits->touched);
	kvfree(bits->words);
	kfree(bits);
}
