// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of a snapshot: all of it is allocated before the cut.
 */
#include "cbw.h"

#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

/* Requests in flight that are possible without any memory to be had. */
#define WRITE_RESERVE	4
#define READ_RESERVE	4

/* May sleep; nothing refers to it any more.  Also for one that is half made. */
void cbw_snap_free(struct cbw_snap *snap)
{
	cbw_map_exit(&snap->map);
	kvfree(snap->buckets);
	kvfree(snap->done);
	mempool_exit(&snap->write_pool);
	mempool_exit(&snap->read_pool);
	cbw_store_exit(snap);
	cbw_epoch_pair_free(&snap->pair);
	cbw_bits_put(snap->limit);
	kfree(snap->bitmap);
	cbw_device_put(snap->dev);
	kfree(snap);
}

/**
 * cbw_snap_create - make the state of a new snapshot
 * @dev: the source
 * @args: from the table, checked; the bitmap's name is copied, the devices are not
 * @error: what went wrong
 *
 * May sleep.  Returns the snapshot (a reference; not in any list) or an ERR_PTR.
 */
struct cbw_snap *cbw_snap_create(struct cbw_device *dev,
				 const struct cbw_snap_args *args, char **error)
{
	struct cbw_snap *snap = kzalloc(sizeof(*snap), GFP_KERNEL);
	size_t done_bytes;
	unsigned int i;

	*error = "Cannot allocate the snapshot's state";
	if (!snap)
		return ERR_PTR(-ENOMEM);
	kref_init(&snap->ref);
	INIT_LIST_HEAD(&snap->node);
	INIT_LIST_HEAD(&snap->all_node);
	INIT_LIST_HEAD(&snap->txn_node);
	spin_lock_init(&snap->lock);
	bio_list_init(&snap->starved);
	bio_list_init(&snap->parked);
	bio_list_init(&snap->reads);
	init_waitqueue_head(&snap->waitq);
	atomic_set(&snap->nr_ios, 0);
	atomic_set(&snap->nr_held, 0);
	cbw_snap_init_works(snap);
	cbw_ahead_init(snap);

	snap->dev = cbw_device_get(dev);
	snap->source = args->source;
	snap->len = args->len;
	snap->shift = ilog2(args->chunk_sectors);
	snap->nr_chunks = ((snap->len - 1) >> snap->shift) + 1;
	snap->nr_needed = snap->nr_chunks;
	snap->armed = args->armed;
	snap->break_guest = args->break_guest;
	snap->timeout_ms = args->timeout_ms;
	snap->buffer_kib = args->buffer_kib;
	snap->read_once = args->read_once;
	snap->discard_releases = args->discard_releases;
	if (args->bitmap.len) {
		snap->bitmap = kmemdup(args->bitmap.s, args->bitmap.len,
				       GFP_KERNEL);
		if (!snap->bitmap)
			goto fail;
		snap->bitmap_len = args->bitmap.len;
	}

	*error = "Cannot allocate the map of chunks";
	done_bytes = BITS_TO_LONGS(snap->nr_chunks) * sizeof(long);
	snap->done = kvzalloc(done_bytes, GFP_KERNEL | __GFP_NOWARN);
	snap->buckets = kvcalloc(CBW_BUCKETS, sizeof(*snap->buckets), GFP_KERNEL);
	if (!snap->done || !snap->buckets ||
	    cbw_map_init(&snap->map, snap->nr_chunks, &snap->lock))
		goto fail;
	for (i = 0; i < CBW_BUCKETS; i++) {
		spin_lock_init(&snap->buckets[i].lock);
		INIT_HLIST_HEAD(&snap->buckets[i].copies);
	}

	*error = "Cannot allocate the tables of the store and its buffer";
	if (cbw_store_init(snap, args->store))
		goto fail;

	*error = "Cannot allocate reserves";
	if (mempool_init_kmalloc_pool(&snap->write_pool, WRITE_RESERVE,
				      cbw_store_write_size(snap)) ||
	    mempool_init_kmalloc_pool(&snap->read_pool, READ_RESERVE,
				      cbw_snap_block_size()) ||
	    cbw_epoch_pair_alloc(&snap->pair))
		goto fail;
	*error = NULL;
	return snap;

fail:
	cbw_snap_free(snap);
	return ERR_PTR(-ENOMEM);
}
