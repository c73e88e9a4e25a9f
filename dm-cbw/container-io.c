// SPDX-License-Identifier: GPL-2.0-only
/*
 * Writing to a container, which may fail or hang.
 *
 * Whoever writes waits, but not longer than the container's timeout: a guest write may be
 * waiting for it.  What has not ended by then is given up: its memory stays until its bios
 * have ended, and the container has failed.
 */
#include "container.h"

#include <linux/delay.h>
#include <linux/slab.h>

/* With CBW_CONTAINER_HOLD, between two tries. */
#define RETRY_MS	100

static void cbuf_free(struct cbw_cbuf *buf)
{
	unsigned int i;

	for (i = 0; i < CBW_CBUF_BLOCKS; i++)
		if (buf->page[i])
			__free_page(buf->page[i]);
	kfree(buf);
}

static void cbuf_submit_work(struct work_struct *work);

/* May sleep.  NULL without memory. */
struct cbw_cbuf *cbw_cbuf_alloc(struct cbw_container *c, struct bio_set *bios,
				unsigned int limit_ms)
{
	struct cbw_cbuf *buf = kzalloc(sizeof(*buf), GFP_KERNEL);
	unsigned int i;

	if (!buf)
		return NULL;
	refcount_set(&buf->ref, 1);
	buf->c = c;
	buf->bios = bios;
	buf->limit_ms = limit_ms;
	INIT_WORK(&buf->submit, cbuf_submit_work);
	init_completion(&buf->done);
	for (i = 0; i < CBW_CBUF_BLOCKS; i++) {
		buf->page[i] = alloc_page(GFP_KERNEL);
		if (!buf->page[i]) {
			cbuf_free(buf);
			return NULL;
		}
	}
	return buf;
}

/* Any context.  @buf may be NULL. */
void cbw_cbuf_put(struct cbw_cbuf *buf)
{
	if (buf && refcount_dec_and_test(&buf->ref))
		cbuf_free(buf);
}

/* The next write goes also there. */
void cbw_cbuf_range(struct cbw_cbuf *buf, u64 offset, unsigned int first, unsigned int nr,
		    blk_opf_t opf)
{
	if (buf->given_up)
		return;
	buf->range[buf->nr].offset = offset;
	buf->range[buf->nr].first = first;
	buf->range[buf->nr].nr = nr;
	buf->range[buf->nr].opf = REQ_OP_WRITE | REQ_SYNC | opf;
	buf->nr++;
}

static void cbuf_begin(struct cbw_cbuf *buf)
{
	refcount_inc(&buf->ref);
	atomic_inc(&buf->left);
	atomic_inc(&buf->c->inflight);
	cbw_container_get(buf->c);
}

/* Any context. */
static void cbuf_end(struct cbw_cbuf *buf)
{
	struct cbw_container *c = buf->c;

	if (atomic_dec_and_test(&buf->left))
		complete_all(&buf->done);
	cbw_cbuf_put(buf);
	if (atomic_dec_and_test(&c->inflight))
		wake_up_all(&c->waitq);
	cbw_container_put(c);
}

static void cbuf_end_io(struct bio *bio)
{
	struct cbw_cbuf *buf = bio->bi_private;

	if (bio->bi_status)
		WRITE_ONCE(buf->status, bio->bi_status);
	bio_put(bio);
	cbuf_end(buf);
}

static void cbuf_submit(struct cbw_cbuf *buf, unsigned int n)
{
	struct cbw_container *c = buf->c;
	unsigned int i, nr = buf->range[n].nr;
	struct bio *bio;

	bio = bio_alloc_bioset(c->bdev, nr, buf->range[n].opf, GFP_NOIO, buf->bios);
	bio->bi_iter.bi_sector = buf->range[n].offset >> SECTOR_SHIFT;
	bio->bi_private = buf;
	bio->bi_end_io = cbuf_end_io;
	for (i = 0; i < nr; i++)
		__bio_add_page(bio, buf->page[buf->range[n].first + i], CBW_BLOCK, 0);
	cbuf_begin(buf);
	submit_bio(bio);
}

/* Waits for the device's queue, if that is full or frozen; nobody waits for this for ever. */
static void cbuf_submit_work(struct work_struct *work)
{
	struct cbw_cbuf *buf = container_of(work, struct cbw_cbuf, submit);
	struct blk_plug plug;
	unsigned int i;

	blk_start_plug(&plug);
	for (i = 0; i < buf->nr; i++)
		cbuf_submit(buf, i);
	blk_finish_plug(&plug);
	cbuf_end(buf);
}

static int cbuf_try(struct cbw_cbuf *buf, unsigned long deadline)
{
	long left = deadline - jiffies;

	buf->status = BLK_STS_OK;
	reinit_completion(&buf->done);
	atomic_set(&buf->left, 0);
	cbuf_begin(buf);
	queue_work(cbw_container_io_wq, &buf->submit);
	if (!wait_for_completion_timeout(&buf->done, max(left, 1L))) {
		buf->given_up = true;
		return -ETIMEDOUT;
	}
	return blk_status_to_errno(READ_ONCE(buf->status));
}

/**
 * cbw_cbuf_write - write all ranges of a buffer, and wait
 * @buf: the buffer; its ranges are gone afterwards.  The caller has it for itself
 *
 * May sleep, for as long as the buffer says.  Returns 0, -EIO or the like, or
 * -ETIMEDOUT: then the buffer must not be used any more, but put.
 */
int cbw_cbuf_write(struct cbw_cbuf *buf)
{
	struct cbw_container *c = buf->c;
	unsigned long deadline = jiffies + msecs_to_jiffies(buf->limit_ms);
	int r = -EIO;

	if (buf->given_up)
		return -ETIMEDOUT;
	while (buf->last_words || !READ_ONCE(c->failed)) {
		r = cbuf_try(buf, deadline);
		if (!r || r == -ETIMEDOUT || c->policy != CBW_CONTAINER_HOLD ||
		    time_after_eq(jiffies + msecs_to_jiffies(RETRY_MS), deadline))
			break;
		msleep(RETRY_MS);
	}
	/* Else it is still being read. */
	if (!buf->given_up)
		buf->nr = 0;
	return r;
}

/* Make durable what was written.  As above. */
int cbw_cbuf_flush(struct cbw_cbuf *buf)
{
	cbw_cbuf_range(buf, 0, 0, 0, REQ_PREFLUSH);
	return cbw_cbuf_write(buf);
}
