// SPDX-License-Identifier: GPL-2.0-only
/*
 * Merges: what follows a transaction in the background.
 *
 * A source is complete when the epoch that was current before the cut has been released:
 * until then a write that fetched that epoch may still mark it.  So the bits
 * are added after the publication, by a worker, and whoever asked waits for it.
 * Setting bits in what writes are marking is always safe.
 *
 * From the publication on the target counts its merges, which makes it busy, and whoever
 * consumes it once it has been frozen waits for them (cbw_bits_final).  A resize may put other
 * memory in its place meanwhile: then they are done when that has got what was merged, too.
 * The merges of a transaction are done in the order of its actions, so a source may be an
 * earlier one's target.  Another transaction waits until none is left (txn_settled).
 */
#include "cbw.h"

#include <linux/slab.h>

/**
 * struct cbw_merge - one merge; owned by its transaction, then by the worker
 * @node: in merges->list
 * @dev: device of @to, a reference
 * @to: the target, a reference
 * @from_dev: device of @from, a reference
 * @from: the source, a reference
 * @from_seq: @from is complete when this epoch of @from_dev has been released
 * @rest: @from was replaced by @to while something was being merged into it: it is
 *	complete when that has ended, too
 * @discards: see cbw_bits_merge()
 */
struct cbw_merge {
	struct list_head node;
	struct cbw_device *dev;
	struct cbw_bits *to;
	struct cbw_device *from_dev;
	struct cbw_bits *from;
	u64 from_seq;
	bool rest;
	bool discards;
};

/**
 * struct cbw_merges - the merges of a transaction
 * @ref: who waits for them and, once begun, the worker
 * @list: struct cbw_merge; the transaction's, then the worker's
 * @done: they have ended
 * @work: does them
 */
struct cbw_merges {
	struct kref ref;
	struct list_head list;
	struct completion done;
	struct work_struct work;
};

static void merges_free(struct kref *ref)
{
	kfree(container_of(ref, struct cbw_merges, ref));
}

static void merge_free(struct cbw_merge *m)
{
	list_del(&m->node);
	cbw_bits_put(m->to);
	cbw_bits_put(m->from);
	cbw_device_put(m->dev);
	cbw_device_put(m->from_dev);
	kfree(m);
}

/* One run at a time, so that a checkpoint need not wait for all of them. */
static void merge_cover(void *data, sector_t sector, sector_t nr, bool done)
{
	if (done) {
		cbw_intents_end(data);
		return;
	}
	cbw_intents_begin(data);
	cbw_intents_cover(data, sector, nr);
}

/* Into a bitmap that survives: its container has the intents first. */
static void merge_covered(struct cbw_container *c, struct cbw_merge *m)
{
	sector_t start, end = 0;

	/* All of them are asked for at once. */
	while (cbw_cured(17) && cbw_bits_next_run(m->from, end, &start, &end))
		cbw_intents_want(c, start, end - start);
	cbw_bits_merge_covered(m->to, m->from, m->discards, merge_cover, c);
}

static void merge_do(struct cbw_merge *m)
{
	struct cbw_container *c = NULL;

	cbw_hook_sleep(m->rest ? CBW_HOOK_MERGE_REST : CBW_HOOK_MERGE, 0, 1);
	if (m->to->persistent) {
		cbw_config_lock();
		c = cbw_container_sync_begin(m->dev);
		cbw_config_unlock();
	}
	if (c)
		merge_covered(c, m);
	else
		cbw_bits_merge(m->to, m->from, m->discards);
	/* Who sees it go sees the marks; pairs with cbw_bits_merged(). */
	atomic_dec_return_release(&m->to->merges);
	/* Its base may have waited for that. */
	if (c) {
		cbw_container_kick(c, false);
		cbw_container_put(c);
	}
}

/*
 * Wait for what a resize has put in the place of the target, which gets the rest from another
 * worker.  Not before all merges of the transaction are done: that one waits for them.
 */
static void merge_settle(struct cbw_merge *m)
{
	struct cbw_bits *bits = m->to;

	/* After what it has merged a resize sees all of that: there is no other one to come. */
	for (;;) {
		cbw_config_lock();
		bits = bits->successor;
		cbw_config_unlock();
		if (!bits || !cbw_cured(28))
			return;
		wait_event(m->dev->waitq, cbw_bits_merged(bits));
	}
}

static void merge_work(struct work_struct *work)
{
	struct cbw_merges *merges = container_of(work, struct cbw_merges, work);
	struct cbw_merge *m, *tmp;

	list_for_each_entry(m, &merges->list, node) {
		if (cbw_cured(2))
			wait_event(m->from_dev->waitq,
				   cbw_released(m->from_dev, m->from_seq));
		if (m->rest)
			wait_event(m->from_dev->waitq, cbw_bits_merged(m->from));
		merge_do(m);
		wake_up_all(&m->dev->waitq);
	}
	list_for_each_entry_safe(m, tmp, &merges->list, node) {
		merge_settle(m);
		merge_free(m);
	}
	complete_all(&merges->done);
	kref_put(&merges->ref, merges_free);
}

/**
 * cbw_merges_add - a merge is part of a transaction
 * @list: the transaction's merges; NULL: none yet
 * @dev: device of the target
 * @to: its bits
 * @from_dev: device of the source, part of the transaction
 * @from: its bits
 * @rest: @to replaces @from, and has what is there already
 * @discards: see cbw_bits_merge()
 *
 * May sleep.  Nothing happens before cbw_merges_begin().  Returns 0 or -ENOMEM.
 */
int cbw_merges_add(struct cbw_merges **list, struct cbw_device *dev, struct cbw_bits *to,
		   struct cbw_device *from_dev, struct cbw_bits *from, bool rest,
		   bool discards)
{
	struct cbw_merges *merges = *list;
	struct cbw_merge *m;

	lockdep_assert_held(&cbw_config_mutex);
	if (!merges) {
		merges = kzalloc(sizeof(*merges), GFP_KERNEL);
		if (!merges)
			return -ENOMEM;
		kref_init(&merges->ref);
		INIT_LIST_HEAD(&merges->list);
		init_completion(&merges->done);
		INIT_WORK(&merges->work, merge_work);
		*list = merges;
	}
	m = kzalloc(sizeof(*m), GFP_KERNEL);
	if (!m)
		return -ENOMEM;
	m->dev = cbw_device_get(dev);
	m->to = cbw_bits_get(to);
	m->from_dev = cbw_device_get(from_dev);
	m->from = cbw_bits_get(from);
	m->from_seq = from_dev->seq;
	m->rest = rest;
	m->discards = discards;
	list_add_tail(&m->node, &merges->list);
	return 0;
}

/**
 * cbw_merges_frozen - what the same transaction merges into is frozen by it
 * @merges: its merges so far, or NULL
 * @to: the memory
 *
 * The sources go on recording until the worker has come to them: what is discarded in them
 * by then may not have been at the cut.
 */
void cbw_merges_frozen(struct cbw_merges *merges, const struct cbw_bits *to)
{
	struct cbw_merge *m;

	lockdep_assert_held(&cbw_config_mutex);
	if (!merges)
		return;
	list_for_each_entry(m, &merges->list, node)
		if (m->to == to)
			m->discards = false;
}

/* The transaction is given up.  @merges may be NULL. */
void cbw_merges_drop(struct cbw_merges *merges)
{
	struct cbw_merge *m, *tmp;

	if (!merges)
		return;
	list_for_each_entry_safe(m, tmp, &merges->list, node)
		merge_free(m);
	kref_put(&merges->ref, merges_free);
}

/**
 * cbw_merges_begin - the transaction is about to be published
 * @merges: its merges, or NULL
 *
 * The worker waits for the end of the epochs that are current now.
 */
void cbw_merges_begin(struct cbw_merges *merges)
{
	struct cbw_merge *m;

	lockdep_assert_held(&cbw_config_mutex);
	if (!merges)
		return;
	list_for_each_entry(m, &merges->list, node)
		atomic_inc(&m->to->merges);
	kref_get(&merges->ref);
	queue_work(cbw_merge_wq, &merges->work);
}

/* Nobody waits for them.  @merges: begun, or NULL. */
void cbw_merges_forget(struct cbw_merges *merges)
{
	if (merges)
		kref_put(&merges->ref, merges_free);
}

/* May sleep.  Returns 0, or -EINTR when killed: then they go on. */
int cbw_merges_wait(struct cbw_merges *merges)
{
	int r;

	if (!merges)
		return 0;
	r = wait_for_completion_killable(&merges->done);
	kref_put(&merges->ref, merges_free);
	return r ? -EINTR : 0;
}
