// SPDX-License-Identifier: GPL-2.0-only
/*
 * A container that fails: its device goes on without it.
 */
#include "container.h"

/*
 * Say on disk, in both slots, that writes go by.  Of who has set c->failing, and of the end after
 * that.  May sleep.  Returns 0 or an error.
 */
int cbw_container_untracked(struct cbw_container *c)
{
	/* Larger than that of any checkpoint which may still be in flight, and even. */
	u64 seq = (READ_ONCE(c->state_seq) | U32_MAX) + 1;
	struct cbw_state *s = (struct cbw_state *)c->fail_state;
	unsigned int slot, i, nr, page = 0;
	int r;

	/* What was given up is still being read. */
	if (c->fail_buf->given_up)
		return -ETIMEDOUT;
	cbw_state_untracked(c, s);
	nr = DIV_ROUND_UP(le32_to_cpu(s->length), CBW_BLOCK);
	for (slot = 0; slot < 2; slot++) {
		cbw_state_seal(s, seq + slot);
		cbw_cbuf_range(c->fail_buf, c->state_offset[slot], page, nr, REQ_FUA);
		for (i = 0; i < nr; i++)
			memcpy(page_address(c->fail_buf->page[page++]),
			       c->fail_state + i * CBW_BLOCK, CBW_BLOCK);
	}
	r = cbw_cbuf_write(c->fail_buf);
	c->told = !r;
	return r;
}

/*
 * Nothing is written there any more: what waits goes on.  @ended: for no other reason than that
 * the device loses its table.  May sleep.
 */
void cbw_container_over(struct cbw_container *c, bool ended)
{
	unsigned long flags;

	/* Under the lock: nothing is queued any more by who comes after that. */
	spin_lock_irqsave(&c->lock, flags);
	if (ended && !c->failed)
		c->ended = true;
	/* What waits looks at it after it has been put on a list. */
	smp_store_mb(c->failed, true);
	spin_unlock_irqrestore(&c->lock, flags);
	cbw_intents_release(c);
	wake_up_all(&c->waitq);
	wake_up_all(&c->dev->waitq);
}

/**
 * cbw_container_fail - go on without the container
 * @c: the container
 * @err: why
 *
 * May sleep: it tries to leave a note there, so that nobody trusts it after a crash.  The
 * writes that wait go on after that.
 */
void cbw_container_fail(struct cbw_container *c, int err)
{
	struct cbw_device *dev = c->dev;

	if (atomic_xchg(&c->failing, 1))
		return;
	/* Nothing is missing there as long as nothing was written; see check_failed(). */
	if (READ_ONCE(c->live) && cbw_container_untracked(c))
		DMERR("%u:%u: the container fails (%d), and cannot be told so: bitmaps are exact, but not persistent any more; do not trust the container after a crash",
		      MAJOR(dev->devt), MINOR(dev->devt), err);
	else
		DMERR("%u:%u: the container fails (%d): bitmaps are exact, but not persistent any more",
		      MAJOR(dev->devt), MINOR(dev->devt), err);
	cbw_hook_sleep(CBW_HOOK_FAIL_TOLD, 0, 1);
	cbw_container_over(c, false);
	if (READ_ONCE(c->live))
		cbw_container_tell(c);
	cbw_event(CBW_EVENT_CONTAINER_FAILED, dev->devt, NULL, CBW_REASON_NONE);
}
