// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where the chunks of a snapshot are: a two-level table of u32, chunk -> 1 + slot
 * of the store, in pages that are added as the chunks come.
 *
 * Pages are looked up without a lock and never go away before the snapshot does.
 * An entry is written before the chunk's bit in snap->done is set, and only
 * cleared (never changed to another slot) afterwards, so whoever has seen the bit sees
 * the chunk's only slot or none.
 */
#include "cbw.h"

#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>

static unsigned long map_limit_mib = 1024;
module_param(map_limit_mib, ulong, 0644);
MODULE_PARM_DESC(map_limit_mib,
		 "Most memory for the chunk map of one snapshot, in MiB (default 1024)");

static u32 *map_page(struct cbw_snap *snap, u64 chunk)
{
	/* Pairs with cbw_map_prepare(). */
	return smp_load_acquire(&snap->map[chunk / CBW_MAP_PAGE_CHUNKS]);
}

/* Any context.  CBW_SLOT_NONE, CBW_SLOT_POISON or 1 + slot. */
u32 cbw_map_get(struct cbw_snap *snap, u64 chunk)
{
	u32 *page = map_page(snap, chunk);

	return page ? READ_ONCE(page[chunk % CBW_MAP_PAGE_CHUNKS]) :
		      CBW_SLOT_NONE;
}

/**
 * cbw_map_prepare - make sure that an entry can be set
 * @snap: the snapshot
 * @chunk: the chunk
 *
 * Process context, no lock held.  Rather fails than waits for memory: it is on the path
 * of a write that reclaim may be waiting for.  Returns 0 or -ENOMEM.
 */
int cbw_map_prepare(struct cbw_snap *snap, u64 chunk)
{
	u32 **slot = &snap->map[chunk / CBW_MAP_PAGE_CHUNKS];
	u64 limit = (u64)READ_ONCE(map_limit_mib) << 20;
	unsigned long page;

	/* Pairs with the release below. */
	if (likely(smp_load_acquire(slot)))
		return 0;
	if ((u64)(READ_ONCE(snap->map_pages) + 1) << PAGE_SHIFT > limit)
		return -ENOMEM;
	page = __get_free_page(GFP_NOIO | __GFP_ZERO | __GFP_NORETRY |
			       __GFP_NOWARN | __GFP_NOMEMALLOC);
	if (!page)
		return -ENOMEM;
	spin_lock_irq(&snap->lock);
	if (!*slot) {
		/* Zeroed before it is seen: map_page(). */
		smp_store_release(slot, (u32 *)page);
		snap->map_pages++;
		page = 0;
	}
	spin_unlock_irq(&snap->lock);
	free_page(page);
	return 0;
}

/* Any context; the entry was prepared. */
void cbw_map_set(struct cbw_snap *snap, u64 chunk, u32 val)
{
	u32 *page = map_page(snap, chunk);

	lockdep_assert_held(&snap->lock);
	if (page)
		WRITE_ONCE(page[chunk % CBW_MAP_PAGE_CHUNKS], val);
	else
		WARN_ON_ONCE(val != CBW_SLOT_NONE);
}

/**
 * cbw_chunk_done - a chunk need not be preserved any more
 * @snap: the snapshot
 * @chunk: the chunk, not done yet; its entry says where it is
 *
 * From here on the guest may overwrite it.
 */
void cbw_chunk_done(struct cbw_snap *snap, u64 chunk)
{
	lockdep_assert_held(&snap->lock);
	/* The entry and the data come before the bit. */
	smp_mb__before_atomic();
	set_bit(chunk, snap->done);
	/* And the bit before any write that it lets go. */
	smp_mb__after_atomic();
	snap->nr_needed--;
}
