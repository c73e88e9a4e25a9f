// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transactions: several changes on several devices, all or none, at one
 * instant.
 *
 * An action stages what it wants in bitmap->next (or by linking a snapshot into
 * txn->snaps) and allocates what that needs.  cbw_txn_end() either throws all of it
 * away or, once the epochs' memory is there and nothing can fail any more,
 * makes it the current state and publishes.  Merges come after that (merge.c).
 */
#include "session.h"

#include <linux/random.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

DEFINE_MUTEX(cbw_config_mutex);
static unsigned int config_noio;	/* cbw_config_mutex */

/*
 * Who holds the mutex may keep a device suspended (its preresume wants it), so no
 * allocation under it may wait for writeback to that device.
 */
void cbw_config_lock(void)
{
	mutex_lock(&cbw_config_mutex);
	config_noio = memalloc_noio_save();
}

/* The same, if it can be had at once. */
bool cbw_config_trylock(void)
{
	if (!mutex_trylock(&cbw_config_mutex))
		return false;
	config_noio = memalloc_noio_save();
	return true;
}

void cbw_config_unlock(void)
{
	unsigned int noio = config_noio;

	mutex_unlock(&cbw_config_mutex);
	memalloc_noio_restore(noio);
}

/**
 * cbw_txn_begin - begin a transaction
 * @txn: the transaction
 * @session: who owns what is rotated; NULL: anyone
 *
 * Takes cbw_config_mutex, which cbw_txn_end() gives back.
 */
void cbw_txn_begin(struct cbw_txn *txn, struct cbw_session *session)
{
	INIT_LIST_HEAD(&txn->devs);
	INIT_LIST_HEAD(&txn->snaps);
	INIT_LIST_HEAD(&txn->syncs);
	txn->sync = false;
	txn->demote = NULL;
	txn->session = session;
	txn->merges = NULL;
	txn->freeze = NULL;
	txn->wait = NULL;
	txn->wait_merge = NULL;
	txn->wait_dev = NULL;
	do {
		get_random_bytes(&txn->cut, sizeof(txn->cut));
	} while (cbw_cut_none(&txn->cut));
	cbw_config_lock();
}

/**
 * struct cbw_sync - a container that is to be written before a transaction is acknowledged
 * @node: in txn->syncs
 * @container: a reference
 */
struct cbw_sync {
	struct list_head node;
	struct cbw_container *container;
};

static int txn_add_sync(struct cbw_txn *txn, struct cbw_device *dev)
{
	struct cbw_container *c = cbw_container_sync_begin(dev);
	struct cbw_sync *sync;

	if (!c)
		return 0;
	sync = kmalloc(sizeof(*sync), GFP_KERNEL);
	if (!sync) {
		cbw_container_put(c);
		return -ENOMEM;
	}
	sync->container = c;
	list_add_tail(&sync->node, &txn->syncs);
	return 0;
}

/* Write them, or not.  Returns 0 or -EINTR when killed. */
static int txn_sync(struct cbw_txn *txn, bool write)
{
	struct cbw_sync *sync, *tmp;
	int r = 0;

	list_for_each_entry_safe(sync, tmp, &txn->syncs, node) {
		if (write && !r)
			r = cbw_container_sync(sync->container);
		else
			cbw_container_put(sync->container);
		kfree(sync);
	}
	INIT_LIST_HEAD(&txn->syncs);
	return r;
}

static int txn_touch(struct cbw_txn *txn, struct cbw_device *dev)
{
	lockdep_assert_held(&cbw_config_mutex);
	if (!list_empty(&dev->txn_node))
		return 0;
	if (txn_add_sync(txn, dev) || cbw_epoch_pair_alloc(&dev->txn_pair))
		return -ENOMEM;
	cbw_device_get(dev);
	list_add_tail(&dev->txn_node, &txn->devs);
	return 0;
}

static void bitmap_stage(struct cbw_bitmap *b)
{
	if (b->staged)
		return;
	b->next = b->cur;
	if (b->next.active)
		cbw_bits_get(b->next.active);
	if (b->next.frozen)
		cbw_bits_get(b->next.frozen);
	cbw_disk_get(b->next.disk);
	b->staged = true;
}

/* Not while something else is at work on it: then the transaction is begun again. */
static int txn_settled(struct cbw_txn *txn, struct cbw_bitmap *b)
{
	lockdep_assert_held(&cbw_config_mutex);
	/* What this transaction itself wants merged has not begun. */
	if (b->staged)
		return b->next.frozen ? -EBUSY : 0;
	/* Its abort is as good as under way: who comes after a close does not find it busy. */
	if (cbw_session_died(b))
		cbw_bitmap_abort_start(b);
	if (b->aborting) {
		if (!txn->wait && !txn->wait_merge) {
			kref_get(&b->ref);
			txn->wait = b;
		}
		return -EBUSY;
	}
	if (b->cur.frozen)
		return -EBUSY;
	if (!cbw_bits_merged(b->cur.active)) {
		if (!txn->wait && !txn->wait_merge) {
			txn->wait_merge = cbw_bits_get(b->cur.active);
			txn->wait_dev = cbw_device_get(b->dev);
		}
		return -EBUSY;
	}
	return 0;
}

/**
 * cbw_txn_settled_bitmap - find a bitmap that nothing else is at work on
 * @txn: the transaction
 * @dev: the device
 * @name: its name
 *
 * Returns the bitmap, or an ERR_PTR; cbw_txn_retry() waits then if that helps.
 */
struct cbw_bitmap *cbw_txn_settled_bitmap(struct cbw_txn *txn, struct cbw_device *dev,
					  struct cbw_name name)
{
	struct cbw_bitmap *b = cbw_bitmap_find(dev, name);
	int r;

	if (!b)
		return ERR_PTR(-ENOENT);
	r = txn_settled(txn, b);
	return r ? ERR_PTR(r) : b;
}

/*
 * The same for an action of the transaction.  Its device gets a new epoch: when the old
 * one has been released, all that was written before the cut has been marked.
 */
static struct cbw_bitmap *txn_find(struct cbw_txn *txn, struct cbw_device *dev,
				   struct cbw_name name)
{
	int r = txn_touch(txn, dev);

	return r ? ERR_PTR(r) : cbw_txn_settled_bitmap(txn, dev, name);
}

/* Find a bitmap that may be changed and stage it. */
static struct cbw_bitmap *txn_bitmap(struct cbw_txn *txn, struct cbw_device *dev,
				     struct cbw_name name)
{
	struct cbw_bitmap *b = txn_find(txn, dev, name);

	if (!IS_ERR(b))
		bitmap_stage(b);
	return b;
}

static struct cbw_bits *fresh_bits(const struct cbw_bitmap *b)
{
	struct cbw_bits *bits = cbw_bits_alloc(b->dev->len, b->next.active->shift);

	if (!bits)
		return NULL;
	cbw_discards_prepare(b->dev, bits);
	/* On disk there is what it takes the place of, and that is written with it. */
	if (b->next.disk)
		cbw_bits_persist(bits, false);
	return bits;
}

/*
 * Writes will go by that the bitmap does not record: its container has to say first that it
 * has no base.  Returns 0 or -EBUSY: then cbw_txn_retry() does that, and it is begun again.
 */
static int txn_demote(struct cbw_txn *txn, struct cbw_bitmap *b)
{
	struct cbw_disk *disk = b->was_disk ? b->was_disk : b->cur.disk;

	txn->demoted = true;
	if (!cbw_disk_demote(disk))
		return 0;
	if (!txn->demote)
		txn->demote = cbw_disk_get(disk);
	return -EBUSY;
}

/* A new bitmap of @bits shall survive, if its device has a container. */
static int txn_place(struct cbw_txn *txn, struct cbw_device *dev, struct cbw_name name,
		     struct cbw_bits *bits, struct cbw_disk **disk)
{
	struct cbw_container *c = cbw_container_live(dev);

	*disk = NULL;
	if (cbw_container_coming(dev))
		return -EBUSY;
	if (!c)
		return 0;
	if (cbw_state_length(c, name.len) > CBW_STATE_SLOT_SIZE)
		return -ENOSPC;
	*disk = cbw_disk_alloc(c, bits->bytes);
	if (IS_ERR(*disk)) {
		int r = PTR_ERR(*disk);

		*disk = NULL;
		return r;
	}
	cbw_bits_persist(bits, true);
	txn->sync = true;
	return 0;
}

/* A bitmap that will be there; its state is in next, and still empty. */
static struct cbw_bitmap *bitmap_new(struct cbw_device *dev, struct cbw_name name)
{
	struct cbw_bitmap *b = kzalloc(struct_size(b, name, name.len), GFP_KERNEL);

	if (!b)
		return NULL;
	kref_init(&b->ref);
	b->dev = cbw_device_get(dev);
	b->name_len = name.len;
	memcpy(b->name, name.s, name.len);
	b->next.present = true;
	b->staged = true;
	list_add_tail(&b->node, &dev->bitmaps);
	dev->nr_bitmaps++;
	return b;
}

/* How many there will be.  One that is to be removed is in the list until then. */
static unsigned int txn_count(struct cbw_device *dev)
{
	struct cbw_bitmap *b;
	unsigned int nr = 0;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(b, &dev->bitmaps, node)
		nr += b->staged ? b->next.present : b->cur.present;
	return nr;
}

int cbw_txn_add(struct cbw_txn *txn, struct cbw_device *dev,
		struct cbw_name name, u32 granularity, u32 flags)
{
	struct cbw_disk *disk = NULL;
	struct cbw_bits *bits;
	struct cbw_bitmap *b;
	int r;

	if (!granularity)
		granularity = CBW_GRANULARITY_DEFAULT;
	if (!cbw_name_valid(name) || !is_power_of_2(granularity) ||
	    granularity < CBW_GRANULARITY_MIN ||
	    granularity > CBW_GRANULARITY_MAX)
		return -EINVAL;
	r = txn_touch(txn, dev);
	if (r)
		return r;
	if (cbw_bitmap_find(dev, name))
		return -EEXIST;
	if (txn_count(dev) >= CBW_BITMAPS_MAX)
		return -ENOSPC;
	bits = cbw_bits_alloc(dev->len, ilog2(granularity) - SECTOR_SHIFT);
	if (!bits)
		return -ENOMEM;
	cbw_discards_prepare(dev, bits);
	if (!(flags & CBW_ADD_TRANSIENT))
		r = txn_place(txn, dev, name, bits, &disk);
	b = r ? NULL : bitmap_new(dev, name);
	if (!b) {
		cbw_disk_put(disk);
		cbw_bits_put(bits);
		return r ? r : -ENOMEM;
	}
	b->next.disk = disk;
	b->transient = flags & CBW_ADD_TRANSIENT;
	b->next.enabled = !(flags & CBW_ADD_DISABLED);
	b->next.active = bits;
	return 0;
}

int cbw_txn_remove(struct cbw_txn *txn, struct cbw_device *dev,
		   struct cbw_name name)
{
	struct cbw_bitmap *b = txn_bitmap(txn, dev, name);
	int r;

	if (IS_ERR(b))
		return PTR_ERR(b);
	r = txn_demote(txn, b);
	if (r)
		return r;
	txn->sync = true;
	cbw_state_drop(&b->next);
	b->next.present = false;
	return 0;
}

/* Nothing is cleared in place: record into an empty one and drop the old. */
int cbw_txn_clear(struct cbw_txn *txn, struct cbw_device *dev,
		  struct cbw_name name)
{
	struct cbw_bitmap *b = txn_bitmap(txn, dev, name);
	struct cbw_bits *fresh;

	if (IS_ERR(b))
		return PTR_ERR(b);
	fresh = fresh_bits(b);
	if (!fresh)
		return -ENOMEM;
	cbw_bits_put(b->next.active);
	b->next.active = fresh;
	b->forget = !b->next.enabled;
	txn->sync = true;
	/* What it will say is no longer "changed since the base". */
	memset(&b->next.base, 0, sizeof(b->next.base));
	return 0;
}

int cbw_txn_enable(struct cbw_txn *txn, struct cbw_device *dev,
		   struct cbw_name name, bool enable)
{
	struct cbw_bitmap *b = txn_bitmap(txn, dev, name);
	int r;

	if (IS_ERR(b))
		return PTR_ERR(b);
	r = enable ? 0 : txn_demote(txn, b);
	if (r)
		return r;
	txn->sync = true;
	/* What was, or will be, written without being recorded: see above. */
	if (!enable || !b->next.enabled)
		memset(&b->next.base, 0, sizeof(b->next.base));
	if (!enable)
		b->forget = true;
	b->next.enabled = enable;
	return 0;
}

static struct cbw_bitmap_state *txn_state(struct cbw_bitmap *b)
{
	return b->staged ? &b->next : &b->cur;
}

static int txn_sizes_differ(const struct cbw_device *dev, const struct cbw_device *from_dev)
{
	DMERR_LIMIT("merge or copy: the target's device has %llu sectors, the source's %llu",
		    (u64)dev->len, (u64)from_dev->len);
	return -EINVAL;
}

int cbw_txn_merge(struct cbw_txn *txn, struct cbw_device *dev, struct cbw_name name,
		  struct cbw_device *from_dev, struct cbw_name from)
{
	struct cbw_bitmap *b = txn_bitmap(txn, dev, name), *source;

	if (IS_ERR(b))
		return PTR_ERR(b);
	source = txn_find(txn, from_dev, from);
	if (IS_ERR(source))
		return PTR_ERR(source);
	if (dev->len != from_dev->len)
		return txn_sizes_differ(dev, from_dev);
	txn->sync = true;
	/* What was discarded on another device, or before it recorded, may be data here. */
	return cbw_merges_add(&txn->merges, dev, b->next.active, from_dev,
			      txn_state(source)->active, false,
			      from_dev == dev && b->next.enabled);
}

int cbw_txn_copy(struct cbw_txn *txn, struct cbw_device *dev, struct cbw_name name,
		 struct cbw_device *from_dev, struct cbw_name from)
{
	struct cbw_bitmap *source = txn_find(txn, from_dev, from), *b;
	const struct cbw_bitmap_state *state;
	int r;

	if (IS_ERR(source))
		return PTR_ERR(source);
	state = txn_state(source);
	if (dev->len != from_dev->len)
		return txn_sizes_differ(dev, from_dev);
	r = cbw_txn_add(txn, dev, name, 1u << (state->active->shift + SECTOR_SHIFT),
			(state->enabled ? 0 : CBW_ADD_DISABLED) |
			(source->transient ? CBW_ADD_TRANSIENT : 0));
	if (r)
		return r;
	b = cbw_bitmap_find(dev, name);
	/*
	 * A write in flight since before the base's cut is marked again at its end, in what
	 * records on its own device then: elsewhere the base holds only if there is none.
	 */
	if (state->enabled && (from_dev == dev || READ_ONCE(from_dev->suspended)))
		b->next.base = state->base;
	return cbw_txn_merge(txn, dev, name, from_dev, from);
}

/* Another bitmap takes over all that the one of the old name has. */
int cbw_txn_rename(struct cbw_txn *txn, struct cbw_device *dev, struct cbw_name name,
		   struct cbw_name to)
{
	struct cbw_bitmap *b = txn_bitmap(txn, dev, name), *renamed;

	if (IS_ERR(b))
		return PTR_ERR(b);
	if (!cbw_name_valid(to))
		return -EINVAL;
	if (cbw_bitmap_find(dev, to))
		return -EEXIST;
	if (b->next.disk && cbw_container_live(dev) &&
	    cbw_state_length(cbw_container_live(dev), to.len) > CBW_STATE_SLOT_SIZE)
		return -ENOSPC;
	renamed = bitmap_new(dev, to);
	if (!renamed)
		return -ENOMEM;
	/* What other actions replace in it is needed on disk until the state says so. */
	if (b->was_disk) {
		swap(renamed->was_active, b->was_active);
		swap(renamed->was_disk, b->was_disk);
	} else if (b->cur.disk) {
		renamed->was_active = cbw_bits_get(b->cur.active);
		renamed->was_disk = cbw_disk_get(b->cur.disk);
	}
	txn->sync = true;
	renamed->transient = b->transient;
	renamed->forget = b->forget;
	renamed->next = b->next;
	memset(&b->next, 0, sizeof(b->next));
	return 0;
}

/* @snap: the snapshot that is started with it, or NULL */
int cbw_txn_rotate(struct cbw_txn *txn, struct cbw_device *dev,
		   struct cbw_name name, struct cbw_snap *snap)
{
	struct cbw_bitmap *b;
	struct cbw_bits *fresh;

	b = cbw_bitmap_find(dev, name);
	if (b && b->staged && b->next.frozen)
		return -EINVAL;		/* twice in one transaction */
	b = txn_bitmap(txn, dev, name);
	if (IS_ERR(b))
		return PTR_ERR(b);
	fresh = fresh_bits(b);
	if (!fresh)
		return -ENOMEM;
	b->next.frozen = b->next.active;
	cbw_merges_frozen(txn->merges, b->next.frozen);
	b->next.active = fresh;
	b->forget = !b->next.enabled;
	b->next.frozen_seq = dev->seq;	/* the epoch that is about to be old */
	b->next.cut = txn->cut;
	b->next.owner = txn->session ? CBW_OWNER_SESSION :
			snap ? CBW_OWNER_SNAP : CBW_OWNER_ANYONE;
	b->next.session = txn->session;
	b->next.snap = snap;
	return 0;
}

/* The cut of a snapshot that has not been started. */
int cbw_txn_start(struct cbw_txn *txn, struct cbw_snap *snap)
{
	struct cbw_device *dev = snap->dev;
	int r;

	lockdep_assert_held(&cbw_config_mutex);
	if (dev->gone)
		return -ENODEV;
	if (snap->start_seq || !list_empty(&snap->txn_node))
		return -EBUSY;
	if (dev->len != snap->len) {
		DMERR_LIMIT("snapshot %u:%u: the source has %llu sectors, the snapshot's table says %llu",
			    MAJOR(snap->devt), MINOR(snap->devt),
			    (u64)dev->len, (u64)snap->len);
		return -EINVAL;
	}
	r = txn_touch(txn, dev);
	if (r)
		return r;
	if (snap->bitmap_len) {
		struct cbw_name name = { snap->bitmap, snap->bitmap_len };
		struct cbw_bitmap *b;

		r = cbw_txn_rotate(txn, dev, name, snap);
		if (r)
			return r;
		b = cbw_bitmap_find(dev, name);
		snap->limit = cbw_bits_get(b->next.frozen);
	}
	list_add_tail(&snap->txn_node, &txn->snaps);
	return 0;
}

/* Writes will go by that some bitmaps do not record: before the first of them can. */
static void txn_forget(struct cbw_txn *txn)
{
	struct cbw_device *dev;
	struct cbw_bitmap *b;

	list_for_each_entry(dev, &txn->devs, txn_node)
		list_for_each_entry(b, &dev->bitmaps, node)
			if (b->forget && b->next.active)
				cbw_bits_forget_discards(b->next.active);
}

/* @again: the transaction will be begun again, and what was demoted for it stays so */
static void bitmap_settle(struct cbw_bitmap *b, bool keep, bool again)
{
	struct cbw_device *dev = b->dev;
	struct cbw_bits *was;

	b->staged = false;
	b->forget = false;
	if (keep)
		swap(b->cur, b->next);
	was = b->was_active ? b->was_active : b->next.active;
	/* It was cleared: on disk that is not so before the state says it. */
	if (keep && b->cur.disk && was && was != b->cur.active && was != b->cur.frozen)
		cbw_disk_keep(b->cur.disk, was, dev->seq - 1);
	cbw_bits_put(b->was_active);
	cbw_disk_put(b->was_disk);
	b->was_active = NULL;
	b->was_disk = NULL;
	if (!again)
		cbw_disk_promote(b->cur.disk);
	cbw_state_drop(&b->next);
	if (b->cur.present)
		return;
	list_del_init(&b->node);
	dev->nr_bitmaps--;
	cbw_bitmap_put(b);
}

/**
 * cbw_txn_end - do it all, or nothing
 * @txn: the transaction
 * @err: 0: do it; else the error for which it is given up
 *
 * Gives cbw_config_mutex back.  May sleep: it waits (killable) for what it merges, and until
 * the containers have what was changed.  Returns
 * @err; -ETIMEDOUT: what was to be frozen is so no longer, and nothing was done; or -EINTR:
 * all is done but the merges, which go on, and that.
 */
int cbw_txn_end(struct cbw_txn *txn, int err)
{
	struct cbw_device *dev, *tmp;
	struct cbw_snap *snap, *tmp_snap;
	struct cbw_bitmap *b, *tmp_b;
	bool sync;
	int r;

	lockdep_assert_held(&cbw_config_mutex);
	if (!err) {
		cbw_hook_sleep(CBW_HOOK_TXN_END, 0, 1);
		err = cbw_freeze_claim(txn->freeze);
	}
	if (!err) {
		txn_forget(txn);
		cbw_merges_begin(txn->merges);
		cbw_publish(&txn->devs);
		cbw_freeze_thaw(txn->freeze);
	} else {
		cbw_merges_drop(txn->merges);
		txn->merges = NULL;
	}
	list_for_each_entry_safe(snap, tmp_snap, &txn->snaps, txn_node) {
		list_del_init(&snap->txn_node);
		if (err) {
			cbw_bits_put(snap->limit);
			snap->limit = NULL;
			continue;
		}
		snap->cut = txn->cut;
		snap->session = txn->session;
		cbw_snap_started(snap, snap->dev->seq);
	}
	list_for_each_entry_safe(dev, tmp, &txn->devs, txn_node) {
		list_for_each_entry_safe(b, tmp_b, &dev->bitmaps, node)
			if (b->staged)
				bitmap_settle(b, !err, txn->demote);
		list_del_init(&dev->txn_node);
		cbw_epoch_pair_free(&dev->txn_pair);
		cbw_device_put(dev);
	}
	cbw_config_unlock();
	sync = !err && txn->sync;
	if (!err)
		err = cbw_merges_wait(txn->merges);
	r = txn_sync(txn, sync && !err);
	return err ? err : r;
}
