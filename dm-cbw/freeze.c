// SPDX-License-Identifier: GPL-2.0-only
/*
 * File systems frozen over a cut.
 *
 * A worker freezes them, and thaws them whatever becomes of the caller:
 *
 *   FREEZING	the worker is at it; who waits may give up
 *   FROZEN	until the deadline
 *   CUTTING	the cut is being made, which takes no time and nobody can stop
 *   OVER	too late, or nobody wants it any more: thawed, or will be
 *
 * A freeze takes as long as the writeback of the file system: if that hangs so does the
 * worker, with what it has frozen, but not the caller.
 */
#include "cbw.h"

#include <linux/slab.h>

enum freeze_state {
	FREEZING,
	FROZEN,
	CUTTING,
	OVER,
};

/**
 * struct cbw_freeze - devices whose file systems are frozen
 * @ref: the caller and the worker
 * @state: enum freeze_state, changed with cmpxchg
 * @deadline: in jiffies
 * @frozen: completed when the worker has frozen all, or has failed
 * @error: with @frozen: why it failed
 * @cut: completed by the caller: nobody needs it any more
 * @work: the worker
 * @nr: devices
 * @devs: opened, so that none can go; the worker's
 */
struct cbw_freeze {
	struct kref ref;
	atomic_t state;
	unsigned long deadline;
	struct completion frozen;
	int error;
	struct completion cut;
	struct work_struct work;
	unsigned int nr;
	struct cbw_bdev_handle devs[] __counted_by(nr);
};

static void freeze_free(struct kref *ref)
{
	kfree(container_of(ref, struct cbw_freeze, ref));
}

/* Returns whether it was in state @from. */
static bool freeze_move(struct cbw_freeze *f, enum freeze_state from, enum freeze_state to)
{
	return atomic_cmpxchg(&f->state, from, to) == from;
}

static long time_left(const struct cbw_freeze *f)
{
	return max_t(long, (long)(f->deadline - jiffies), 0);
}

static void freeze_work(struct work_struct *work)
{
	struct cbw_freeze *f = container_of(work, struct cbw_freeze, work);
	unsigned int n = 0, i;
	int r = 0;

	while (n < f->nr && !r && atomic_read(&f->state) == FREEZING) {
		r = cbw_bdev_freeze(cbw_bdev(&f->devs[n]));
		n += !r;
	}
	f->error = r;
	if (!r && freeze_move(f, FREEZING, FROZEN)) {
		complete(&f->frozen);
		if (!wait_for_completion_timeout(&f->cut, time_left(f)) &&
		    !freeze_move(f, FROZEN, OVER))
			wait_for_completion(&f->cut);
	}
	/* In the reverse order: one may be on top of another. */
	while (n)
		cbw_bdev_thaw(cbw_bdev(&f->devs[--n]));
	for (i = 0; i < f->nr; i++)
		cbw_bdev_close(&f->devs[i]);
	complete(&f->frozen);
	kref_put(&f->ref, freeze_free);
}

/**
 * cbw_freeze_begin - freeze the file systems on devices
 * @devts: their numbers, none twice
 * @nr: how many, not 0
 * @timeout_ms: until they are frozen and the cut is made
 *
 * May sleep, killable; no lock held.  Returns what cbw_freeze_end() wants, or an ERR_PTR:
 * -ETIMEDOUT, -EINTR or what the file system said.
 */
struct cbw_freeze *cbw_freeze_begin(const dev_t *devts, unsigned int nr,
				    unsigned int timeout_ms)
{
	struct cbw_freeze *f = kzalloc(struct_size(f, devs, nr), GFP_KERNEL);
	long left;
	int r = 0;

	if (!f)
		return ERR_PTR(-ENOMEM);
	kref_init(&f->ref);
	atomic_set(&f->state, FREEZING);
	f->deadline = jiffies + msecs_to_jiffies(timeout_ms);
	init_completion(&f->frozen);
	init_completion(&f->cut);
	INIT_WORK(&f->work, freeze_work);
	for (; f->nr < nr && !r; f->nr += !r)
		r = cbw_bdev_open(devts[f->nr], &f->devs[f->nr]);
	if (r) {
		while (f->nr)
			cbw_bdev_close(&f->devs[--f->nr]);
		kfree(f);
		return ERR_PTR(r);
	}
	kref_get(&f->ref);
	queue_work(cbw_merge_wq, &f->work);

	left = wait_for_completion_killable_timeout(&f->frozen, time_left(f));
	if (left <= 0 && freeze_move(f, FREEZING, OVER))
		r = left ? -EINTR : -ETIMEDOUT;
	else
		r = f->error;
	if (r) {
		kref_put(&f->ref, freeze_free);
		return ERR_PTR(r);
	}
	return f;
}

/**
 * cbw_freeze_claim - the cut is about to be made
 * @f: or NULL
 *
 * Returns 0: they stay frozen until cbw_freeze_thaw(); or -ETIMEDOUT: they are not any
 * more.
 */
int cbw_freeze_claim(struct cbw_freeze *f)
{
	return !f || freeze_move(f, FROZEN, CUTTING) ? 0 : -ETIMEDOUT;
}

/* The cut was made, or there will be none.  @f may be NULL.  Does not wait. */
void cbw_freeze_thaw(struct cbw_freeze *f)
{
	if (f)
		complete_all(&f->cut);
}

/* As cbw_freeze_thaw(), and the caller has no use for it any more. */
void cbw_freeze_end(struct cbw_freeze *f)
{
	cbw_freeze_thaw(f);
	if (f)
		kref_put(&f->ref, freeze_free);
}
