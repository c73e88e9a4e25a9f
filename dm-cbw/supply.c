// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory for copies, a little ahead of their need: the objects, batches up to the size of
 * the buffer, tables of the store's segments, and the reserve of the chunk map.  Copies only take what
 * is there, so they begin in any context; a worker brings the rest.
 *
 * The first batches are there from the start and never go, so a buffer that cannot grow
 * is slow, not stuck.  The others go when they have not been used for a while.
 */
#include "cbw.h"

#include <linux/mm.h>
#include <linux/slab.h>

#define DEFAULT_BUFFER_KIB	8192u
#define BATCHES_MIN		2u	/* never given back */
#define IDLE_WANTED		2u	/* batches to have at hand */
#define SEGS_WANTED		32u	/* fresh segments to have at hand */
#define COPIES_MIN		16u	/* never given back */
#define COPIES_WANTED		8u	/* copy objects to have at hand */
#define COPIES_MAX		1024u	/* in flight at once */
#define SHRINK_AFTER		(5 * HZ)
#define RETRY_AFTER		(HZ / 20)

/* Rather fails than tries hard: there will be another try. */
#define GFP_SUPPLY	(GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN | __GFP_NOMEMALLOC)

/* ---- memory of a batch ------------------------------------------------------------------ */

static void batch_pages_free(struct cbw_snap *snap, struct cbw_batch *batch)
{
	unsigned int i;

	for (i = 0; batch->pages && i < snap->batch_pages; i++)
		if (batch->pages[i])
			__free_page(batch->pages[i]);
	kfree(batch->pages);
	batch->pages = NULL;
}

/* Contiguous if that is cheap: then a run is one bio vector. */
static int batch_pages_alloc(struct cbw_snap *snap, struct cbw_batch *batch, gfp_t gfp)
{
	unsigned int order = get_order((size_t)snap->batch_pages << PAGE_SHIFT);
	struct page *block;
	unsigned int i;

	batch->pages = kcalloc(snap->batch_pages, sizeof(*batch->pages), gfp);
	if (!batch->pages)
		return -ENOMEM;
	block = alloc_pages((gfp & ~__GFP_DIRECT_RECLAIM) | __GFP_ZERO | __GFP_NOWARN,
			    order);
	batch->contig = block;
	if (block) {
		split_page(block, order);
		for (i = 0; i < snap->batch_pages; i++)
			batch->pages[i] = block + i;
		return 0;
	}
	for (i = 0; i < snap->batch_pages; i++) {
		batch->pages[i] = alloc_page(gfp | __GFP_ZERO);
		if (!batch->pages[i]) {
			batch_pages_free(snap, batch);
			return -ENOMEM;
		}
	}
	return 0;
}

/* One more batch.  May sleep as @gfp says. */
static int batch_add(struct cbw_snap *snap, gfp_t gfp)
{
	struct cbw_batch *batch;
	int r;

	spin_lock_irq(&snap->lock);
	batch = list_first_entry_or_null(&snap->bare, struct cbw_batch, node);
	if (batch)
		list_del_init(&batch->node);
	spin_unlock_irq(&snap->lock);
	if (!batch)
		return -EAGAIN;	/* the last one is on its way back from the shrinker */
	r = batch_pages_alloc(snap, batch, gfp);
	spin_lock_irq(&snap->lock);
	if (r) {
		list_add(&batch->node, &snap->bare);
	} else {
		list_add_tail(&batch->node, &snap->idle);
		snap->nr_idle++;
		snap->nr_filled++;
		snap->batch_used = jiffies;
		cbw_starved_kick(snap);
	}
	spin_unlock_irq(&snap->lock);
	return r;
}

/* ---- copy objects ------------------------------------------------------------------------ */

/* An object for a copy, or NULL. */
struct cbw_copy *cbw_copy_get(struct cbw_snap *snap)
{
	struct cbw_copy *copy = snap->copies;

	lockdep_assert_held(&snap->lock);
	if (copy) {
		snap->copies = copy->next;
		snap->nr_copies--;
	}
	return copy;
}

void cbw_copy_put(struct cbw_snap *snap, struct cbw_copy *copy)
{
	lockdep_assert_held(&snap->lock);
	copy->next = snap->copies;
	snap->copies = copy;
	snap->nr_copies++;
}

static int copies_add(struct cbw_snap *snap, unsigned int n, gfp_t gfp)
{
	struct cbw_copy *copy;

	while (n--) {
		copy = kmalloc(cbw_copy_size(snap), gfp);
		if (!copy)
			return -ENOMEM;
		spin_lock_irq(&snap->lock);
		snap->nr_copies_all++;
		cbw_copy_put(snap, copy);
		cbw_starved_kick(snap);
		spin_unlock_irq(&snap->lock);
	}
	return 0;
}

/* ---- tables of segments -------------------------------------------------------------------- */

static int segs_add(struct cbw_snap *snap, gfp_t gfp)
{
	struct cbw_segment *page = (void *)__get_free_page(gfp | __GFP_ZERO);

	if (!page)
		return -ENOMEM;
	spin_lock_irq(&snap->lock);
	if (snap->seg_tabled < snap->nr_segs) {
		snap->seg_pages[snap->seg_tabled / CBW_SEG_PAGE] = page;
		snap->seg_tabled = min_t(u64, snap->seg_tabled + CBW_SEG_PAGE,
					 snap->nr_segs);
		page = NULL;
		cbw_starved_kick(snap);
	}
	spin_unlock_irq(&snap->lock);
	free_page((unsigned long)page);
	return 0;
}

/* ---- the worker ----------------------------------------------------------------------------- */

static bool batches_low(const struct cbw_snap *snap)
{
	return snap->nr_idle < IDLE_WANTED && snap->nr_filled < snap->nr_batches;
}

static bool segs_low(const struct cbw_snap *snap)
{
	return snap->seg_tabled - snap->seg_fresh < SEGS_WANTED &&
	       snap->seg_tabled < snap->nr_segs;
}

static bool copies_low(const struct cbw_snap *snap)
{
	return snap->nr_copies < COPIES_WANTED && snap->nr_copies_all < COPIES_MAX;
}

/* See whether something will run short, and have it brought.  Any context. */
void cbw_supply_need(struct cbw_snap *snap)
{
	lockdep_assert_held(&snap->lock);
	if (unlikely(copies_low(snap) || batches_low(snap) ||
		     segs_low(snap) || cbw_map_low(&snap->map)) &&
	    !delayed_work_pending(&snap->supply_work))
		queue_delayed_work(cbw_wq, &snap->supply_work, 0);
}

static bool supply_surplus(const struct cbw_snap *snap)
{
	return snap->nr_filled > BATCHES_MIN || snap->nr_copies_all > COPIES_MIN;
}

/* Process context, no lock held; waits neither for the origin nor for the store. */
void cbw_supply_work(struct work_struct *work)
{
	struct cbw_snap *snap = container_of(to_delayed_work(work),
					     struct cbw_snap, supply_work);
	bool copies, batches, segs, starved;
	int r = 0, err;

	while (!r) {
		spin_lock_irq(&snap->lock);
		segs = segs_low(snap);
		batches = batches_low(snap);
		copies = copies_low(snap);
		spin_unlock_irq(&snap->lock);
		if (!segs && !batches && !copies)
			break;
		if (copies)
			r = copies_add(snap, COPIES_WANTED, GFP_SUPPLY);
		if (!r && segs)
			r = segs_add(snap, GFP_SUPPLY);
		if (!r && batches)
			r = batch_add(snap, GFP_SUPPLY);
		cond_resched();
	}
	err = cbw_map_refill(&snap->map, GFP_SUPPLY);
	spin_lock_irq(&snap->lock);
	starved = !bio_list_empty(&snap->starved);
	cbw_starved_kick(snap);
	if (supply_surplus(snap) &&
	    !delayed_work_pending(&snap->shrink_work))
		queue_delayed_work(cbw_wait_wq, &snap->shrink_work, SHRINK_AFTER);
	spin_unlock_irq(&snap->lock);
	/* Writes that wait for memory are bounded by cbw_timeout_ms. */
	if ((r || err) && starved && !READ_ONCE(snap->over))
		queue_delayed_work(cbw_wq, &snap->supply_work, RETRY_AFTER);
}

/* Give back what has not been used for a while. */
void cbw_shrink_work(struct work_struct *work)
{
	struct cbw_snap *snap = container_of(to_delayed_work(work),
					     struct cbw_snap, shrink_work);
	struct cbw_batch *batch = NULL;
	struct cbw_copy *copy = NULL;

	spin_lock_irq(&snap->lock);
	if (time_after_eq(jiffies, snap->batch_used + SHRINK_AFTER)) {
		if (snap->nr_filled > BATCHES_MIN && !list_empty(&snap->idle)) {
			batch = list_last_entry(&snap->idle, struct cbw_batch, node);
			list_del_init(&batch->node);
			snap->nr_idle--;
			snap->nr_filled--;
		}
		if (snap->nr_copies_all > COPIES_MIN)
			copy = cbw_copy_get(snap);
		if (copy)
			snap->nr_copies_all--;
	}
	if (supply_surplus(snap))
		queue_delayed_work(cbw_wait_wq, &snap->shrink_work,
				   batch || copy ? 0 : SHRINK_AFTER);
	spin_unlock_irq(&snap->lock);
	kfree(copy);
	if (!batch)
		return;
	batch_pages_free(snap, batch);
	spin_lock_irq(&snap->lock);
	list_add(&batch->node, &snap->bare);
	spin_unlock_irq(&snap->lock);
}

/* ---- set up --------------------------------------------------------------------------------- */

/* May sleep.  Returns 0 or -ENOMEM; cbw_supply_exit() cleans up in either case. */
int cbw_supply_init(struct cbw_snap *snap)
{
	size_t bytes = (size_t)snap->seg_slots * cbw_chunk_bytes(snap);
	unsigned int kib = snap->buffer_kib ? snap->buffer_kib : DEFAULT_BUFFER_KIB;
	unsigned int i;

	INIT_LIST_HEAD(&snap->idle);
	INIT_LIST_HEAD(&snap->bare);
	INIT_LIST_HEAD(&snap->busy);
	snap->batch_pages = bytes >> PAGE_SHIFT;
	snap->nr_batches = clamp_t(u64, ((u64)kib << 10) / bytes, BATCHES_MIN,
				   U16_MAX - 1);
	snap->batches = kvcalloc(snap->nr_batches, sizeof(*snap->batches),
				 GFP_KERNEL);
	if (!snap->batches)
		return -ENOMEM;
	for (i = 0; i < snap->nr_batches; i++) {
		snap->batches[i].index = i;
		INIT_LIST_HEAD(&snap->batches[i].storing);
		list_add_tail(&snap->batches[i].node, &snap->bare);
	}
	for (i = 0; i < BATCHES_MIN; i++)
		if (batch_add(snap, GFP_KERNEL))
			return -ENOMEM;
	if (copies_add(snap, COPIES_MIN, GFP_KERNEL))
		return -ENOMEM;
	return segs_add(snap, GFP_KERNEL);
}

/* May sleep; nothing is in flight any more, and the workers have ended. */
void cbw_supply_exit(struct cbw_snap *snap)
{
	struct cbw_copy *copy;
	unsigned int i;

	while ((copy = snap->copies)) {
		snap->copies = copy->next;
		kfree(copy);
	}
	for (i = 0; snap->batches && i < snap->nr_batches; i++)
		batch_pages_free(snap, &snap->batches[i]);
	kvfree(snap->batches);
	snap->batches = NULL;
}
