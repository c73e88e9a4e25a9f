/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences between kernels, so that the sources read as for the newest.
 * What is defined here was found out by Kbuild.include.
 */
#ifndef DM_CBW_COMPAT_H
#define DM_CBW_COMPAT_H

#include <linux/blkdev.h>
#include <linux/hrtimer.h>
#ifdef CBW_HAVE_HEX_H
#include <linux/hex.h>
#endif

/* ---- a block device held open without a claim ------------------------------ */

struct cbw_bdev_handle {
#ifdef CBW_HAVE_BDEV_FILE
	struct file *file;
#else
	struct block_device *bdev;
#endif
};

#ifdef CBW_HAVE_BDEV_FILE

static inline int cbw_bdev_open(dev_t devt, struct cbw_bdev_handle *h)
{
	struct file *file = bdev_file_open_by_dev(devt, BLK_OPEN_READ, NULL, NULL);

	if (IS_ERR(file))
		return PTR_ERR(file);
	h->file = file;
	return 0;
}

static inline struct block_device *cbw_bdev(const struct cbw_bdev_handle *h)
{
	return file_bdev(h->file);
}

/* An empty handle may be closed. */
static inline void cbw_bdev_close(struct cbw_bdev_handle *h)
{
	/* At once: the source may be removed next, in the same call. */
	if (h->file)
		__fput_sync(h->file);
	h->file = NULL;
}

#else

static inline int cbw_bdev_open(dev_t devt, struct cbw_bdev_handle *h)
{
	struct block_device *bdev = blkdev_get_by_dev(devt, FMODE_READ, NULL);

	if (IS_ERR(bdev))
		return PTR_ERR(bdev);
	h->bdev = bdev;
	return 0;
}

static inline struct block_device *cbw_bdev(const struct cbw_bdev_handle *h)
{
	return h->bdev;
}

static inline void cbw_bdev_close(struct cbw_bdev_handle *h)
{
	if (h->bdev)
		blkdev_put(h->bdev, FMODE_READ);
	h->bdev = NULL;
}

#endif /* CBW_HAVE_BDEV_FILE */

#ifdef CBW_HAVE_BLK_MODE
#define CBW_OPEN_RW	(BLK_OPEN_READ | BLK_OPEN_WRITE)
#else
#define CBW_OPEN_RW	(FMODE_READ | FMODE_WRITE)
#endif

/*
 * A thaw that fails leaves the device counted as frozen, and as long as it is the next
 * freeze does nothing and says that it has.  It fails if somebody else has thawed the file
 * system meanwhile, and in 6.12 also if somebody else still has it frozen.
 */
#ifdef CBW_HAVE_BDEV_FREEZE
#define cbw_bdev_freeze	bdev_freeze

static inline int cbw_bdev_thaw(struct block_device *bdev)
{
	int r = bdev_thaw(bdev);

	if (r) {
		mutex_lock(&bdev->bd_fsfreeze_mutex);
		atomic_dec_if_positive(&bdev->bd_fsfreeze_count);
		mutex_unlock(&bdev->bd_fsfreeze_mutex);
	}
	return r;
}
#else
#define cbw_bdev_freeze	freeze_bdev

static inline int cbw_bdev_thaw(struct block_device *bdev)
{
	int r = thaw_bdev(bdev);

	if (r) {
		mutex_lock(&bdev->bd_fsfreeze_mutex);
		if (bdev->bd_fsfreeze_count > 0)
			bdev->bd_fsfreeze_count--;
		mutex_unlock(&bdev->bd_fsfreeze_mutex);
	}
	return r;
}
#endif

/* ---- queue limits ------------------------------------------------------------ */

static inline void cbw_limit_write_zeroes(struct queue_limits *limits,
					  unsigned int sectors)
{
	if (limits->max_write_zeroes_sectors > sectors)
		limits->max_write_zeroes_sectors = sectors;
#ifdef CBW_HAVE_WZEROES_UNMAP
	/* Either nothing or the same as the above. */
	if (limits->max_hw_wzeroes_unmap_sectors)
		limits->max_hw_wzeroes_unmap_sectors =
			limits->max_write_zeroes_sectors;
#endif
}

static inline void cbw_limit_discards(struct queue_limits *limits,
				      unsigned int sectors)
{
	limits->max_hw_discard_sectors = min(limits->max_hw_discard_sectors,
					     sectors);
	limits->max_discard_sectors = min(limits->max_discard_sectors, sectors);
}

/* For a device that has discards whatever is below. */
static inline void cbw_offer_discards(struct queue_limits *limits,
				      unsigned int sectors, unsigned int granularity)
{
	limits->max_hw_discard_sectors = sectors;
	limits->max_discard_sectors = sectors;
	limits->discard_granularity = granularity;
	limits->discard_alignment = 0;
}

/* ---- timers ------------------------------------------------------------------ */

#ifndef CBW_HAVE_HRTIMER_SETUP

static inline void hrtimer_setup(struct hrtimer *timer,
				 enum hrtimer_restart (*function)(struct hrtimer *),
				 clockid_t clock, enum hrtimer_mode mode)
{
	hrtimer_init(timer, clock, mode);
	timer->function = function;
}

#endif

#endif /* DM_CBW_COMPAT_H */
