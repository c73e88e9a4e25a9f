// SPDX-License-Identifier: GPL-2.0-only
/*
 * Intents: in which regions bits may have been set that are not on the container yet.
 *
 *   a write	that would set a bit in a region whose intent is not durable parks here
 *		(map.c); all that wait share one small write, and are mapped again then
 *   a merge	and whoever else sets bits asks for the intents first (cbw_intents_cover)
 *   a checkpoint changes the generation (flip), writes what has changed in the bitmaps, and
 *		only then clears the old one (retire)
 *
 * So the bit of a region in either generation is durable before any bit that depends on it is
 * set in memory, and stays until that is durable itself.  "Set already, so go" is safe.
 *
 * One write of intents is in flight at a time.  Two of one block could land in the wrong
 * order, and the older one would take a bit away that the newer one has made durable.
 */
#include "container.h"

#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/slab.h>

/* Blocks written at once. */
#define INTENT_BATCH	CBW_CBUF_BLOCKS
/* Regions that are asked for with the lock held. */
#define WANT_STEP	4096

static u64 region_of(const struct cbw_container *c, sector_t sector)
{
	return min_t(u64, sector >> c->region_shift, c->nr_regions - 1);
}

/* The intents as they are on disk. */
static void block_fill(struct page *page, const unsigned long *words)
{
	__le64 *to = page_address(page);
	unsigned int i;

	for (i = 0; i < CBW_BLOCK_WORDS; i++)
		to[i] = cpu_to_le64(words[i]);
}

static unsigned long *block_words(unsigned long *words, unsigned int block)
{
	return words + (size_t)block * CBW_BLOCK_WORDS;
}

/* May sleep.  Returns 0 or -ENOMEM; then cbw_intents_exit() frees what there is. */
int cbw_intents_init(struct cbw_container *c)
{
	size_t bytes = (size_t)c->intent_blocks * CBW_BLOCK;

	c->durable[0] = kvzalloc(bytes, GFP_KERNEL);
	c->durable[1] = kvzalloc(bytes, GFP_KERNEL);
	c->used = kvzalloc(bytes, GFP_KERNEL);
	c->want = kvzalloc(bytes, GFP_KERNEL);
	c->want_blocks = bitmap_zalloc(c->intent_blocks, GFP_KERNEL);
	c->intent_buf = cbw_cbuf_alloc(c, &c->bios, c->limit_ms);
	if (!c->durable[0] || !c->durable[1] || !c->used || !c->want || !c->want_blocks ||
	    !c->intent_buf)
		return -ENOMEM;
	return 0;
}

void cbw_intents_exit(struct cbw_container *c)
{
	cbw_cbuf_put(c->intent_buf);
	bitmap_free(c->want_blocks);
	kvfree(c->want);
	kvfree(c->used);
	kvfree(c->durable[1]);
	kvfree(c->durable[0]);
}

/* Is every region of the range durable in the generation that counts? */
static bool covered(const struct cbw_container *c, sector_t sector, sector_t nr)
{
	const unsigned long *durable = c->durable[READ_ONCE(c->cur)];
	u64 region = region_of(c, sector), last = region_of(c, sector + nr - 1);

	if (READ_ONCE(c->failed))
		return true;
	for (; region <= last; region++)
		if (!test_bit(region, durable))
			return false;
	return true;
}

/**
 * cbw_intents_ok - may bits be set for a write?
 * @c: the container
 * @sector: first sector
 * @nr: sectors
 *
 * Any context.  The caller is in the RCU section in which it sets them, or has
 * c->flip_sem: a checkpoint that changes the generation waits for the end of that, and
 * sees the bits.
 */
bool cbw_intents_ok(struct cbw_container *c, sector_t sector, sector_t nr)
{
	u64 region, last;

	if (!covered(c, sector, nr) && cbw_cured(11))
		return false;
	/* Its memory may be gone, but for those that write through the device. */
	if (READ_ONCE(c->failed))
		return true;
	region = region_of(c, sector);
	last = region_of(c, sector + nr - 1);
	for (; region <= last; region++)
		if (!test_bit(region, c->used))
			set_bit(region, c->used);
	return true;
}

static void want(struct cbw_container *c, sector_t sector, sector_t nr)
{
	u64 region = region_of(c, sector), last = region_of(c, sector + nr - 1);

	lockdep_assert_held(&c->lock);
	for (; region <= last; region++) {
		if (test_bit(region, c->durable[c->cur]))
			continue;
		__set_bit(region, c->want);
		__set_bit(region / CBW_BLOCK_BITS, c->want_blocks);
	}
}

/**
 * cbw_intents_park - let a write wait for the intents of its regions
 * @c: the container of the device that it is in flight in
 * @bio: the write
 *
 * Any context.  Returns false if it can be mapped again at once.
 */
bool cbw_intents_park(struct cbw_container *c, struct bio *bio)
{
	const struct cbw_io *io = cbw_io(bio);
	unsigned long flags;
	bool parked;

	spin_lock_irqsave(&c->lock, flags);
	/* Looked at once more: who makes them durable takes the list after that. */
	parked = !covered(c, io->sector, io->nr);
	if (parked) {
		want(c, io->sector, io->nr);
		bio_list_add(&c->parked, bio);
		atomic64_inc(&c->intent_held);
		queue_work(cbw_intent_wq, &c->intent_work);
	}
	spin_unlock_irqrestore(&c->lock, flags);
	return parked;
}

/* Between looking for intents and marking, for who sleeps; see cbw_intents_ok(). */
void cbw_intents_begin(struct cbw_container *c)
{
	down_read(&c->flip_sem);
}

void cbw_intents_end(struct cbw_container *c)
{
	up_read(&c->flip_sem);
}

/* A suspend that need not flush begins: what is parked goes back to dm. */
void cbw_intents_wake(struct cbw_device *dev)
{
	lockdep_assert_held(&cbw_config_mutex);
	if (dev->container)
		cbw_intents_release(dev->container);
}

/* Everything that is parked is mapped again. */
void cbw_intents_release(struct cbw_container *c)
{
	struct bio_list bios;

	spin_lock_irq(&c->lock);
	bios = c->parked;
	bio_list_init(&c->parked);
	spin_unlock_irq(&c->lock);
	cbw_remap_queue(c->dev, &bios);
	wake_up_all(&c->intent_waitq);
}

/*
 * Ask for what has not been asked for; see cbw_intents_cover().  May sleep: a range may be
 * all of the device.
 */
void cbw_intents_want(struct cbw_container *c, sector_t sector, sector_t nr)
{
	sector_t step = (sector_t)WANT_STEP << c->region_shift, n;

	for (; nr; sector += n, nr -= n) {
		n = min(nr, step);
		spin_lock_irq(&c->lock);
		if (!c->failed) {
			want(c, sector, n);
			queue_work(cbw_intent_wq, &c->intent_work);
		}
		spin_unlock_irq(&c->lock);
		cond_resched();
	}
}

/**
 * cbw_intents_cover - make the intents of a range durable
 * @c: the container
 * @sector: first sector
 * @nr: sectors
 *
 * May sleep.  The caller has c->flip_sem, and marks before it gives it back.
 */
void cbw_intents_cover(struct cbw_container *c, sector_t sector, sector_t nr)
{
	lockdep_assert_held_read(&c->flip_sem);
	if (!cbw_cured(17))
		return;
	while (!covered(c, sector, nr)) {
		cbw_intents_want(c, sector, nr);
		wait_event(c->intent_waitq, covered(c, sector, nr));
	}
	cbw_intents_ok(c, sector, nr);
}

/*
 * Take what is asked for, as much as goes at once: which blocks, and what they shall be in
 * the buffer.
 */
static unsigned int intents_take(struct cbw_container *c, unsigned int *blocks)
{
	unsigned int n = 0, block, i;

	lockdep_assert_held(&c->intent_mutex);
	spin_lock_irq(&c->lock);
	for_each_set_bit(block, c->want_blocks, c->intent_blocks) {
		unsigned long *add = page_address(c->intent_buf->page[n]);
		unsigned long *from = block_words(c->want, block);

		if (n == INTENT_BATCH)
			break;
		memcpy(add, from, CBW_BLOCK);
		memset(from, 0, CBW_BLOCK);
		for (i = 0; i < CBW_BLOCK_WORDS; i++)
			add[i] |= block_words(c->durable[c->cur], block)[i];
		blocks[n++] = block;
		__clear_bit(block, c->want_blocks);
	}
	spin_unlock_irq(&c->lock);
	return n;
}

/* They are durable: let everybody see it. */
static void intents_publish(struct cbw_container *c, const unsigned int *blocks, unsigned int nr)
{
	unsigned int n, i;

	lockdep_assert_held(&c->intent_mutex);
	for (n = 0; n < nr; n++) {
		const __le64 *written = page_address(c->intent_buf->page[n]);
		unsigned long *durable = block_words(c->durable[c->cur], blocks[n]);

		for (i = 0; i < CBW_BLOCK_WORDS; i++)
			atomic_long_or(le64_to_cpu(written[i]), (atomic_long_t *)&durable[i]);
	}
}

/*
 * Will no intent be written any more?  Then what is parked waits for cbw_container_over(), and
 * nobody asks in vain until then.
 */
static bool no_more(struct cbw_container *c)
{
	lockdep_assert_held(&c->intent_mutex);
	return READ_ONCE(c->failed) || c->intent_buf->given_up ||
	       (atomic_read(&c->failing) && cbw_cured(33));
}

/*
 * Those that have what they wait for go.  The others stay, since a suspend may want them, and
 * ask again: of several regions one may have been durable when they asked, in a generation
 * that does not count any more.
 */
static void parked_serve(struct cbw_container *c)
{
	struct bio_list ready, wait;
	struct bio *bio;

	bio_list_init(&ready);
	bio_list_init(&wait);
	spin_lock_irq(&c->lock);
	while ((bio = bio_list_pop(&c->parked))) {
		const struct cbw_io *io = cbw_io(bio);

		if (covered(c, io->sector, io->nr)) {
			bio_list_add(&ready, bio);
			continue;
		}
		if (cbw_cured(22) && !no_more(c))
			want(c, io->sector, io->nr);
		bio_list_add(&wait, bio);
	}
	c->parked = wait;
	if (!bio_list_empty(&wait) && !no_more(c))
		queue_work(cbw_intent_wq, &c->intent_work);
	spin_unlock_irq(&c->lock);
	cbw_remap_queue(c->dev, &ready);
	wake_up_all(&c->intent_waitq);
}

/* Process context; waits for the container, and nothing else. */
static void intent_work(struct work_struct *work)
{
	struct cbw_container *c = container_of(work, struct cbw_container, intent_work);
	unsigned int *blocks = c->intent_list, nr, n;
	int r;

	cbw_hook_sleep(CBW_HOOK_INTENT_WORK, 0, 1);
	mutex_lock(&c->intent_mutex);
	while (!no_more(c) && (nr = intents_take(c, blocks))) {
		if (!cbw_cured(12)) {
			/* The mutation that writes them after the data. */
			intents_publish(c, blocks, nr);
			parked_serve(c);
		}
		for (n = 0; n < nr; n++) {
			struct page *page = c->intent_buf->page[n];

			block_fill(page, page_address(page));
			cbw_cbuf_range(c->intent_buf, c->intent_offset[c->cur] +
				       (u64)blocks[n] * CBW_BLOCK, n, 1, REQ_FUA);
		}
		cbw_hook_sleep(CBW_HOOK_INTENT_WRITE, 0, 1);
		r = cbw_cbuf_write(c->intent_buf);
		cbw_hook_sleep(CBW_HOOK_INTENT_DONE, 0, 1);
		if (!r) {
			intents_publish(c, blocks, nr);
			atomic64_add(nr, &c->intent_writes);
		} else {
			cbw_container_fail(c, r);
		}
		parked_serve(c);
		cbw_checkpoint_arm(c);
	}
	/* Also what found its intent durable when it asked. */
	parked_serve(c);
	mutex_unlock(&c->intent_mutex);
	if (READ_ONCE(c->failed))
		cbw_intents_release(c);
}

bool cbw_intents_none(struct cbw_container *c)
{
	return bitmap_empty(c->durable[c->cur], (size_t)c->intent_blocks * CBW_BLOCK_BITS) &&
	       bitmap_empty(c->durable[!c->cur], (size_t)c->intent_blocks * CBW_BLOCK_BITS);
}

/* Regions that have an intent. */
u64 cbw_intents_count(struct cbw_container *c)
{
	size_t i, words = (size_t)c->intent_blocks * CBW_BLOCK_WORDS;
	u64 nr = 0;

	for (i = 0; i < words; i++)
		nr += hweight_long(READ_ONCE(c->durable[0][i]) | READ_ONCE(c->durable[1][i]));
	return nr;
}

/* Write blocks of a generation as memory has it: those with a bit in @which. */
static int generation_write(struct cbw_container *c, unsigned int gen, const unsigned long *which,
			    bool zero)
{
	unsigned int block, n = 0;
	int r = 0;

	lockdep_assert_held(&c->intent_mutex);
	for (block = 0; block < c->intent_blocks && !r; block++) {
		struct page *page = c->intent_buf->page[n];

		if (c->intent_buf->given_up)
			return -ETIMEDOUT;
		if (which && bitmap_empty(which + (size_t)block * CBW_BLOCK_WORDS, CBW_BLOCK_BITS))
			continue;
		if (zero)
			memset(page_address(page), 0, CBW_BLOCK);
		else
			block_fill(page, block_words(c->durable[gen], block));
		cbw_cbuf_range(c->intent_buf, c->intent_offset[gen] + (u64)block * CBW_BLOCK, n, 1,
			       zero ? 0 : REQ_FUA);
		if (++n == INTENT_BATCH) {
			r = cbw_cbuf_write(c->intent_buf);
			n = 0;
		}
	}
	return n ? cbw_cbuf_write(c->intent_buf) : r;
}

/**
 * cbw_intents_flip - change the generation, so that the old one can be retired
 * @c: the container
 * @carry: regions that have been in use since the last time keep their intent: who goes
 *	on writing there need not wait for it again
 * @flipped: whether it was done
 *
 * May sleep.  Not while a write of an older epoch than the current one is in flight: what it
 * marks at its end would have neither intent nor checkpoint.  That is looked at
 * where no new epoch can come.
 */
int cbw_intents_flip(struct cbw_container *c, bool carry, bool *flipped)
{
	struct cbw_device *dev = c->dev;
	unsigned int next = !c->cur;
	size_t i, words = (size_t)c->intent_blocks * CBW_BLOCK_WORDS;
	int r = 0;

	lockdep_assert_held(&c->cp_mutex);
	*flipped = false;
	down_write(&c->flip_sem);
	mutex_lock(&c->intent_mutex);
	for (i = 0; i < words; i++) {
		unsigned long hot = xchg(&c->used[i], 0) & READ_ONCE(c->durable[c->cur][i]);

		if (carry)
			c->durable[next][i] |= hot;
	}
	if (carry)
		r = generation_write(c, next, c->durable[next], false);
	/*
	 * Writes wait for who has intent_mutex, and who has the other one may wait for memory,
	 * and so for writes.  Another time, then.
	 */
	if (!r && cbw_config_trylock()) {
		if (cbw_released(dev, dev->seq - 1)) {
			WRITE_ONCE(c->cur, next);
			*flipped = true;
		}
		cbw_config_unlock();
	}
	mutex_unlock(&c->intent_mutex);
	up_write(&c->flip_sem);
	cbw_hook_sleep(CBW_HOOK_CP_FLIP, 0, 1);
	/* Who has looked at the old generation has set its bits when this returns. */
	if (*flipped && cbw_cured(13))
		synchronize_rcu();
	return r;
}

/*
 * What has been recorded until the flip is durable: clear the old generation.  It need not be
 * durable itself: what is left of it is only too much.  May sleep.
 */
int cbw_intents_retire(struct cbw_container *c)
{
	unsigned int old = !c->cur;
	int r;

	lockdep_assert_held(&c->cp_mutex);
	mutex_lock(&c->intent_mutex);
	r = generation_write(c, old, c->durable[old], true);
	if (!r)
		memset(c->durable[old], 0, (size_t)c->intent_blocks * CBW_BLOCK);
	mutex_unlock(&c->intent_mutex);
	return r;
}

/* Clear both, whatever is there.  Nobody writes yet, or any more.  May sleep. */
int cbw_intents_wipe(struct cbw_container *c)
{
	unsigned int gen;
	int r = 0;

	mutex_lock(&c->intent_mutex);
	for (gen = 0; gen < 2 && !r; gen++) {
		memset(c->durable[gen], 0, (size_t)c->intent_blocks * CBW_BLOCK);
		r = generation_write(c, gen, NULL, true);
	}
	mutex_unlock(&c->intent_mutex);
	return r;
}

void cbw_intents_setup(struct cbw_container *c)
{
	mutex_init(&c->intent_mutex);
	init_rwsem(&c->flip_sem);
	bio_list_init(&c->parked);
	init_waitqueue_head(&c->intent_waitq);
	INIT_WORK(&c->intent_work, intent_work);
}
