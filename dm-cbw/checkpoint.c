// SPDX-License-Identifier: GPL-2.0-only
/*
 * Checkpoints: bring bitmaps to their container.
 *
 *   flip	another generation of intents counts from now on (only if some are to be
 *		retired)
 *   snapshot	what is to be written is looked up
 *   origin	is flushed, if a bitmap gets another base
 *   pages	the blocks that have changed are copied and written
 *   state	and what the bitmaps are, after these are durable
 *   retire	now the old generation of intents is cleared
 *
 * On disk a bitmap has what it has recorded and what is frozen or kept (cbw_disk_keep), so
 * everything since the base that the state says.  The state gets another base only when all
 * that was in flight at its cut has ended, so that nothing is marked any more that would be
 * missing; only after that what the older base needed is dropped.
 *
 * After a power cut anywhere in between there is an old or a new state, pages that have at
 * least what it needs, and intents for what was not written.
 */
#include "container.h"

#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>

static unsigned int checkpoint_ms = 10000;
module_param(checkpoint_ms, uint, 0644);
MODULE_PARM_DESC(checkpoint_ms,
		 "How often bitmaps are written to their containers while they change, in ms");

static void item_drop(struct cbw_cp_item *item)
{
	struct cbw_bits *bits, *tmp;

	list_for_each_entry_safe(bits, tmp, &item->kept, kept_node) {
		list_del_init(&bits->kept_node);
		cbw_bits_touch_like(item->active, bits);
		cbw_bits_put(bits);
	}
}

static void items_put(struct cbw_container *c)
{
	while (c->nr_items) {
		struct cbw_cp_item *item = &c->items[--c->nr_items];

		item_drop(item);
		cbw_bits_put(item->active);
		cbw_bits_put(item->frozen);
		cbw_disk_put(item->disk);
		cbw_bitmap_put(item->b);
	}
}

/* What base may the state say?  Sets item->pending if that is not yet what memory has. */
static void item_base(struct cbw_container *c, struct cbw_cp_item *item)
{
	const struct cbw_bitmap_state *s = &item->b->cur;
	struct cbw_disk *disk = item->disk;

	item->pending = false;
	item->demoted = disk->demoted;
	if (disk->demoted || !s->enabled) {
		memset(&item->base, 0, sizeof(item->base));
		return;
	}
	item->base = s->base;
	if (cbw_cut_same(&s->base, &disk->base) && disk->listed)
		return;
	/* "None" can be said at any time. */
	if (cbw_cut_none(&s->base))
		return;
	if (!cbw_bits_merged(s->active)) {
		/* Who merges asks again. */
		item->pending = true;
	} else if (!cbw_released(c->dev, disk->settle_seq) && cbw_cured(18)) {
		item->pending = true;
		c->cp_wait_seq = max(c->cp_wait_seq, disk->settle_seq);
		c->cp_again = true;
	}
	if (item->pending)
		item->base = disk->base;
}

static void items_take(struct cbw_container *c)
{
	struct cbw_bitmap *b;

	lockdep_assert_held(&c->cp_mutex);
	lockdep_assert_held(&cbw_config_mutex);
	/*
	 * A resize may come before the state is built: it would say that pages of the old size
	 * are all there is of the new one.  What is of the old size the next attach refuses.
	 */
	c->items_len = c->dev->len;
	list_for_each_entry(b, &c->dev->bitmaps, node) {
		struct cbw_cp_item *item = &c->items[c->nr_items];

		if (!b->cur.present || !b->cur.disk)
			continue;
		kref_get(&b->ref);
		item->b = b;
		item->disk = cbw_disk_get(b->cur.disk);
		item->active = cbw_bits_get(b->cur.active);
		item->frozen = b->cur.frozen ? cbw_bits_get(b->cur.frozen) : NULL;
		item->place = item->disk->room->place;
		item->enabled = b->cur.enabled;
		INIT_LIST_HEAD(&item->kept);
		list_splice_init(&item->disk->kept, &item->kept);
		item_base(c, item);
		c->nr_items++;
	}
	cbw_room_begin(c);
}

/* May sleep, for as long as the origin takes. */
static int origin_flush(struct cbw_container *c)
{
	struct cbw_origin *origin;
	int r;

	/* Nothing was written yet through this device. */
	if (!c->live)
		return 0;
	origin = cbw_origin_get(c->dev);
	if (!origin)
		return -ENODEV;
	r = blkdev_issue_flush(origin->bdev);
	cbw_origin_put(origin);
	return r;
}

/* Make durable what other bases stand for.  Those for which that fails stay as they are. */
static void items_flush(struct cbw_container *c)
{
	unsigned int i;
	int r = 1;

	for (i = 0; i < c->nr_items; i++) {
		struct cbw_cp_item *item = &c->items[i];

		if (cbw_cut_none(&item->base) || !cbw_cured(21) ||
		    cbw_cut_same(&item->base, &item->disk->base))
			continue;
		if (r > 0)
			r = origin_flush(c);
		if (!r)
			continue;
		item->base = item->disk->base;
		item->pending = true;
	}
}

/* The state is durable: nothing older is needed any more, but for what is pending. */
static void items_done(struct cbw_container *c)
{
	unsigned int i;

	cbw_config_lock();
	for (i = 0; i < c->nr_items; i++) {
		struct cbw_cp_item *item = &c->items[i];

		item->disk->base = item->base;
		item->disk->listed = true;
		item->disk->demotion_durable = item->demoted && item->disk->demoted;
		if (item->pending)
			list_splice_init(&item->kept, &item->disk->kept);
		else if (!list_empty(&item->kept))
			c->cp_again = true;
	}
	cbw_config_unlock();
	cbw_room_settle(c);
}

/* Nothing of it is certain: what would have been dropped is needed for the next try. */
static void items_undo(struct cbw_container *c)
{
	unsigned int i;

	cbw_config_lock();
	for (i = 0; i < c->nr_items; i++)
		list_splice_init(&c->items[i].kept, &c->items[i].disk->kept);
	cbw_config_unlock();
}

/* ---- pages ----------------------------------------------------------------------- */

static u64 bits_words(const struct cbw_bits *bits)
{
	return bits->bytes / sizeof(unsigned long);
}

static void add_words(u64 *to, const struct cbw_bits *bits, u64 word, u64 nr)
{
	u64 i;

	for (i = 0; i < nr && word + i < bits_words(bits); i++)
		to[i] |= READ_ONCE(bits->words[word + i]);
}

/* Copy a block of a bitmap, as it goes to disk. */
static void copy_block(const struct cbw_cp_item *item, u64 block, struct page *page)
{
	const struct cbw_bits *active = item->active, *bits;
	u64 word = block * CBW_BLOCK_WORDS, i;
	u64 nr = min_t(u64, CBW_BLOCK_WORDS, bits_words(active) - word);
	u64 *to = page_address(page);

	memset(to, 0, CBW_BLOCK);
	add_words(to, active, word, nr);
	if (item->frozen)
		add_words(to, item->frozen, word, nr);
	list_for_each_entry(bits, &item->kept, kept_node)
		add_words(to, bits, word, nr);
	/* What was frozen when the device was larger. */
	if (word + nr == bits_words(active))
		to[nr - 1] &= BITMAP_LAST_WORD_MASK(active->nr);
	for (i = 0; i < nr; i++)
		((__le64 *)to)[i] = cpu_to_le64(to[i]);
}

static bool block_changed(const struct cbw_cp_item *item, u64 block)
{
	struct cbw_bits *bits;
	bool changed;

	/* All of them: each is written now. */
	changed = cbw_bits_fetch_touched(item->active, block);
	if (item->frozen)
		changed |= cbw_bits_fetch_touched(item->frozen, block);
	list_for_each_entry(bits, &item->kept, kept_node)
		changed |= cbw_bits_fetch_touched(bits, block);
	return changed;
}

static int item_write(struct cbw_container *c, const struct cbw_cp_item *item, u64 *written)
{
	u64 block, blocks = DIV_ROUND_UP_ULL(bits_words(item->active), CBW_BLOCK_WORDS);
	const struct cbw_place *place = &item->place;
	unsigned int n = 0, first = 0;
	u64 start = 0;
	int r = 0;

	for (block = 0; block < blocks && !r; block++) {
		if (!(block % 1024))
			cond_resched();
		if (!block_changed(item, block))
			continue;
		if (n > first && block != start + (n - first)) {
			cbw_cbuf_range(c->cp_buf, place->offset + start * CBW_BLOCK, first,
				       n - first, 0);
			first = n;
		}
		if (n == first)
			start = block;
		copy_block(item, block, c->cp_buf->page[n++]);
		++*written;
		if (n < CBW_CBUF_BLOCKS)
			continue;
		cbw_cbuf_range(c->cp_buf, place->offset + start * CBW_BLOCK, first, n - first, 0);
		r = cbw_cbuf_write(c->cp_buf);
		n = first = 0;
	}
	if (r || n == first)
		return r;
	cbw_cbuf_range(c->cp_buf, place->offset + start * CBW_BLOCK, first, n - first, 0);
	return cbw_cbuf_write(c->cp_buf);
}

/* ---- state ----------------------------------------------------------------------- */

static bool state_changed(const struct cbw_container *c)
{
	struct cbw_state *now = (struct cbw_state *)c->state_buf;
	struct cbw_state *last = (struct cbw_state *)c->state_last;

	now->seq = last->seq;
	now->crc32c = last->crc32c;
	return now->length != last->length ||
	       memcmp(now, last, le32_to_cpu(now->length));
}

/* Write it to the older slot, when all that it says is durable. */
static int state_write(struct cbw_container *c, u32 len)
{
	unsigned int i, nr = DIV_ROUND_UP(len, CBW_BLOCK);
	u64 seq = c->state_seq + 1;
	int r;

	/*
	 * Somebody says that it has failed.  One of ours that is on its way may still land on
	 * that in one slot; another one would in the other.
	 */
	if (atomic_read(&c->failing) && cbw_cured(30))
		return -EIO;
	cbw_state_seal((struct cbw_state *)c->state_buf, seq);
	for (i = 0; i < nr; i++)
		memcpy(page_address(c->cp_buf->page[i]), c->state_buf + i * CBW_BLOCK, CBW_BLOCK);
	cbw_cbuf_range(c->cp_buf, c->state_offset[seq % 2], 0, nr, REQ_PREFLUSH | REQ_FUA);
	r = cbw_cbuf_write(c->cp_buf);
	if (r)
		return r;
	WRITE_ONCE(c->state_seq, seq);
	/* Whoever says that the container has failed takes it at any time. */
	spin_lock_irq(&c->lock);
	memcpy(c->state_last, c->state_buf, CBW_STATE_SLOT_SIZE);
	spin_unlock_irq(&c->lock);
	return 0;
}

/* ---- the whole ------------------------------------------------------------------- */

static int checkpoint(struct cbw_container *c, unsigned int flags)
{
	bool flipped = false;
	bool clean = flags & CBW_CP_CLEAN || (c->clean && !(flags & CBW_CP_UNCLEAN));
	u64 written = 0;
	unsigned int i;
	u32 len;
	int r = 0;

	cbw_hook_sleep(CBW_HOOK_CP_BEGIN, 0, 1);
	if (flags & CBW_CP_FLIP && !cbw_intents_none(c)) {
		r = cbw_intents_flip(c, !(flags & CBW_CP_ALL), &flipped);
		if (!flipped && flags & CBW_CP_ALL)
			c->cp_again = true;
	}
	if (r)
		return r;
	cbw_config_lock();
	if (c->cp_again)
		c->cp_wait_seq = c->dev->seq - 1;
	items_take(c);
	cbw_config_unlock();
	cbw_hook_sleep(CBW_HOOK_CP_TAKEN, 0, 1);
	items_flush(c);
	cbw_config_lock();
	r = cbw_state_build(c, clean, &len);
	cbw_config_unlock();
	for (i = 0; i < c->nr_items && !r; i++)
		r = item_write(c, &c->items[i], &written);
	atomic64_add(written, &c->pages);
	cbw_hook_sleep(CBW_HOOK_CP_PAGES, 0, 1);
	if (!r && state_changed(c))
		r = state_write(c, len);
	else if (!r && written)
		r = cbw_cbuf_flush(c->cp_buf);
	cbw_hook_sleep(CBW_HOOK_CP_STATE, 0, 1);
	if (r) {
		items_undo(c);
		return r;
	}
	c->clean = clean;
	items_done(c);
	if (flipped)
		r = cbw_intents_retire(c);
	cbw_hook_sleep(CBW_HOOK_CP_RETIRE, 0, 1);
	return r;
}

/*
 * Returns 0 or an error, and then the container has failed.  c->cp_again: there is more to
 * do, when epoch c->cp_wait_seq has been released.
 */
static int checkpoint_once(struct cbw_container *c, unsigned int flags)
{
	int r;

	lockdep_assert_held(&c->cp_mutex);
	c->cp_again = false;
	c->cp_wait_seq = 0;
	if (READ_ONCE(c->failed) || c->cp_buf->given_up)
		return -EIO;
	r = checkpoint(c, flags);
	items_put(c);
	if (r)
		cbw_container_fail(c, r);
	else
		atomic64_inc(&c->checkpoints);
	return r;
}

/**
 * cbw_checkpoint_now - write what has changed, until nothing is left to do
 * @c: the container
 * @flags: CBW_CP_*
 *
 * May sleep, for as long as writes of older epochs are in flight if anything depends on
 * them.  Returns 0 or an error, and then the container has failed.
 */
int cbw_checkpoint_now(struct cbw_container *c, unsigned int flags)
{
	bool again;
	u64 seq;
	int r;

	do {
		mutex_lock(&c->cp_mutex);
		r = checkpoint_once(c, flags);
		again = !r && c->cp_again;
		seq = c->cp_wait_seq;
		mutex_unlock(&c->cp_mutex);
		if (again)
			wait_event_idle(c->dev->waitq,
					cbw_released(c->dev, seq) || READ_ONCE(c->failed));
	} while (again);
	return r;
}

/* A checkpoint, which does what was @asked for.  Returns as cbw_checkpoint_now(). */
static int checkpoint_asked(struct cbw_container *c, unsigned int flags, u64 asked)
{
	int r = cbw_checkpoint_now(c, flags);

	/* Else the container has failed, and nothing is durable. */
	if (!r) {
		spin_lock_irq(&c->lock);
		WRITE_ONCE(c->cp_done, max(c->cp_done, asked));
		spin_unlock_irq(&c->lock);
		wake_up_all(&c->waitq);
	}
	return r;
}

/* The last one, of all that has happened by now: as cbw_checkpoint_now(). */
int cbw_checkpoint_last(struct cbw_container *c, unsigned int flags)
{
	u64 asked;

	spin_lock_irq(&c->lock);
	asked = c->cp_asked;
	spin_unlock_irq(&c->lock);
	return checkpoint_asked(c, flags, asked);
}

static void checkpoint_work(struct work_struct *work)
{
	struct cbw_container *c = container_of(to_delayed_work(work), struct cbw_container,
					       cp_work);
	unsigned int flags = 0;
	u64 asked;

	spin_lock_irq(&c->lock);
	asked = c->cp_asked;
	if (c->flip_asked)
		flags = CBW_CP_FLIP | CBW_CP_ALL;
	else if (c->armed && time_after_eq(jiffies, c->flip_at))
		flags = CBW_CP_FLIP;
	if (flags)
		c->armed = false;
	c->flip_asked = false;
	spin_unlock_irq(&c->lock);

	checkpoint_asked(c, flags, asked);

	spin_lock_irq(&c->lock);
	if (c->armed && !c->failed)
		queue_delayed_work(cbw_container_wq, &c->cp_work,
				   time_after(c->flip_at, jiffies) ? c->flip_at - jiffies : 0);
	spin_unlock_irq(&c->lock);
	if (flags && !cbw_intents_none(c))
		cbw_checkpoint_arm(c);
}

/* There are intents: they are to be retired some time. */
void cbw_checkpoint_arm(struct cbw_container *c)
{
	unsigned long delay = msecs_to_jiffies(READ_ONCE(checkpoint_ms));

	spin_lock_irq(&c->lock);
	if (!c->armed && !c->failed) {
		c->armed = true;
		c->flip_at = jiffies + delay;
		queue_delayed_work(cbw_container_wq, &c->cp_work, delay);
	}
	spin_unlock_irq(&c->lock);
}

/**
 * cbw_container_kick - ask for a checkpoint of all that has happened by now
 * @c: the container
 * @retire: with all intents
 *
 * Any context.  Returns what to wait for with cbw_container_wait().
 */
u64 cbw_container_kick(struct cbw_container *c, bool retire)
{
	unsigned long flags;
	u64 asked;

	spin_lock_irqsave(&c->lock, flags);
	asked = ++c->cp_asked;
	c->flip_asked |= retire;
	if (!c->failed)
		mod_delayed_work(cbw_container_wq, &c->cp_work, 0);
	spin_unlock_irqrestore(&c->lock, flags);
	return asked;
}

/**
 * cbw_container_wait - wait for a checkpoint
 * @c: the container
 * @asked: what cbw_container_kick() returned
 *
 * May sleep.  Returns 0, also when the container has failed: then bitmaps are in memory and
 * persistent no more, and everybody is told that.  -EINTR when killed.  -EIO: the device has
 * lost its table before, and what is on the container does not have it.
 */
int cbw_container_wait(struct cbw_container *c, u64 asked)
{
	if (wait_event_killable(c->waitq, cbw_container_done(c, asked)))
		return -EINTR;
	if (READ_ONCE(c->cp_done) >= asked || !cbw_cured(25))
		return 0;
	/* Pairs with cbw_container_over(). */
	smp_rmb();
	return READ_ONCE(c->ended) ? -EIO : 0;
}

void cbw_checkpoint_setup(struct cbw_container *c)
{
	mutex_init(&c->cp_mutex);
	init_waitqueue_head(&c->waitq);
	INIT_DELAYED_WORK(&c->cp_work, checkpoint_work);
}

/* May sleep.  Returns 0 or -ENOMEM; then cbw_checkpoint_exit() frees what there is. */
int cbw_checkpoint_init(struct cbw_container *c)
{
	c->items = kvcalloc(CBW_BITMAPS_MAX, sizeof(*c->items), GFP_KERNEL);
	c->state_buf = kvzalloc(CBW_STATE_SLOT_SIZE, GFP_KERNEL);
	c->state_last = kvzalloc(CBW_STATE_SLOT_SIZE, GFP_KERNEL);
	c->cp_buf = cbw_cbuf_alloc(c, &c->bios, c->limit_ms);
	return c->items && c->state_buf && c->state_last && c->cp_buf ? 0 : -ENOMEM;
}

void cbw_checkpoint_exit(struct cbw_container *c)
{
	cbw_cbuf_put(c->cp_buf);
	kvfree(c->state_last);
	kvfree(c->state_buf);
	kvfree(c->items);
}
