// SPDX-License-Identifier: GPL-2.0-only
/*
 * File systems frozen over a cut.
 *
 * Workers freeze them, one for each, one after the other in the order of the actions, and
 * thaw them whatever becomes of the caller:
 *
 *   FREEZING	not all of them are; who waits may give up
 *   FROZEN	until the deadline
 *   CUTTING	the cut is being made, which takes no time and nobody can stop
 *   OVER	too late, or nobody wants it any more: thawed, or will be
 *
 * A freeze takes as long as the writeback of the file system.  If one hangs so does its
 * worker, but neither the caller nor the others: that may be what it waits for, when it is
 * in a file of one of them.
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
 * struct freeze_dev - a device whose file system is frozen; its worker's
 * @work: the worker
 * @freeze: what it is part of, a reference
 * @bdev: opened, so that it cannot go
 */
struct freeze_dev {
	struct work_struct work;
	struct cbw_freeze *freeze;
	struct cbw_bdev_handle bdev;
};

/**
 * struct cbw_freeze - devices whose file systems are frozen
 * @ref: the caller and the workers
 * @state: enum freeze_state, changed with cmpxchg
 * @deadline: in jiffies
 * @left: how many are not frozen yet
 * @error: the first that a worker met, changed with cmpxchg
 * @settled: completed when all are frozen, or one has failed
 * @cut: completed when nobody needs it any more
 * @nr: devices
 * @devs: the devices
 */
struct cbw_freeze {
	struct kref ref;
	atomic_t state;
	unsigned long deadline;
	atomic_t left;
	atomic_t error;
	struct completion settled;
	struct completion cut;
	unsigned int nr;
	struct freeze_dev devs[];
};

static void freeze_free(struct kref *ref)
{
	kvfree(container_of(ref, struct cbw_freeze, ref));
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

/* No cut any more, unless it is being made. */
static void freeze_give_up(struct cbw_freeze *f)
{
	if (freeze_move(f, FREEZING, OVER) || freeze_move(f, FROZEN, OVER))
		complete_all(&f->cut);
}

/* This one is frozen: until the cut, or the deadline. */
static void freeze_hold(struct cbw_freeze *f)
{
	if (atomic_dec_and_test(&f->left) && freeze_move(f, FREEZING, FROZEN))
		complete_all(&f->settled);
	if (wait_for_completion_timeout(&f->cut, time_left(f)))
		return;
	freeze_give_up(f);
	/* At once, or the cut is being made. */
	wait_for_completion(&f->cut);
}

static void freeze_start(struct cbw_freeze *f, struct freeze_dev *d);

/*
 * The next one.  A file system in a file of another one is frozen before that, if the caller
 * has named it before: it could not be written back any more.
 */
static void freeze_next(struct cbw_freeze *f, struct freeze_dev *d)
{
	struct freeze_dev *end = f->devs + f->nr;

	if (++d < end && atomic_read(&f->state) == FREEZING) {
		freeze_start(f, d);
		return;
	}
	/* Those that are never started. */
	for (; d < end; d++)
		cbw_bdev_close(&d->bdev);
}

static void freeze_work(struct work_struct *work)
{
	struct freeze_dev *d = container_of(work, struct freeze_dev, work);
	struct cbw_freeze *f = d->freeze;
	int r;

	r = cbw_bdev_freeze(cbw_bdev(&d->bdev));
	if (r) {
		atomic_cmpxchg(&f->error, 0, r);
		freeze_give_up(f);
		complete_all(&f->settled);
		freeze_next(f, d);
	} else {
		freeze_next(f, d);
		freeze_hold(f);
		r = cbw_bdev_thaw(cbw_bdev(&d->bdev));
		if (r)
			DMWARN_LIMIT("device %u:%u: somebody else thawed the file system, or has it frozen: %d",
				     MAJOR(cbw_bdev(&d->bdev)->bd_dev),
				     MINOR(cbw_bdev(&d->bdev)->bd_dev), r);
	}
	cbw_bdev_close(&d->bdev);
	kref_put(&f->ref, freeze_free);
}

static void freeze_start(struct cbw_freeze *f, struct freeze_dev *d)
{
	kref_get(&f->ref);
	d->freeze = f;
	INIT_WORK(&d->work, freeze_work);
	queue_work(cbw_freeze_wq, &d->work);
}

/**
 * cbw_freeze_begin - freeze the file systems on devices
 * @devts: their numbers, none twice
 * @nr: how many, not 0
 * @timeout_ms: until they are frozen and the cut is made
 *
 * May sleep, killable; no lock held.  Returns what cbw_freeze_end() wants, or an ERR_PTR:
 * -E2BIG, -ETIMEDOUT, -EINTR or what the file system said.
 */
struct cbw_freeze *cbw_freeze_begin(const dev_t *devts, unsigned int nr,
				    unsigned int timeout_ms)
{
	struct cbw_freeze *f;
	int r = 0;

	/* Each keeps a worker. */
	if (nr > CBW_FREEZE_MAX)
		return ERR_PTR(-E2BIG);
	f = kvzalloc(struct_size(f, devs, nr), GFP_KERNEL);
	if (!f)
		return ERR_PTR(-ENOMEM);
	kref_init(&f->ref);
	atomic_set(&f->state, FREEZING);
	f->deadline = jiffies + msecs_to_jiffies(timeout_ms);
	init_completion(&f->settled);
	init_completion(&f->cut);
	for (; f->nr < nr && !r; f->nr += !r)
		r = cbw_bdev_open(devts[f->nr], &f->devs[f->nr].bdev);
	if (r) {
		while (f->nr)
			cbw_bdev_close(&f->devs[--f->nr].bdev);
		kvfree(f);
		return ERR_PTR(r);
	}
	atomic_set(&f->left, nr);
	freeze_start(f, f->devs);
	if (wait_for_completion_killable_timeout(&f->settled, time_left(f)) > 0)
		r = atomic_read(&f->error);
	else
		r = fatal_signal_pending(current) ? -EINTR : -ETIMEDOUT;
	if (!r)
		return f;
	freeze_give_up(f);
	kref_put(&f->ref, freeze_free);
	return ERR_PTR(r);
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
	if (!f)
		return;
	cbw_freeze_thaw(f);
	kref_put(&f->ref, freeze_free);
}
