// SPDX-License-Identifier: GPL-2.0-only
/*
 * powerlog: a device-mapper target for tests of power cuts.
 *
 *	0 <sectors> powerlog <device> <id>
 *
 * It passes everything on, and while logging is on it keeps what is written,
 * flushed and completed on all its devices in one log in memory, in order: see
 * powerlog.h.  What the devices may hold after a cut at any event of the log
 * follows from that; selftests/dm-cbw/cbw-power.c says how.  Its devices say that
 * they have a volatile cache and FUA, whatever is below.
 *
 * Messages, to any of the devices: `start` empties the log and begins (EBUSY while
 * something is in flight, it would be missing), `stop` ends (ENOSPC: it was full),
 * `reset` empties and ends, `mark TEXT`.  debugfs has the log, readable while it is
 * off, and `mark`, to be written.
 */
#include <linux/bio.h>
#include <linux/bvec.h>
#include <linux/debugfs.h>
#include <linux/device-mapper.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>

#include "powerlog.h"

#define DM_MSG_PREFIX	"powerlog"
#define MARK_MAX	256

static unsigned int mib = 64;
module_param(mib, uint, 0444);
MODULE_PARM_DESC(mib, "the log's size in MiB");

static struct dentry *dir;
static struct powerlog_head *plog;	/* of log_size bytes */
static u64 log_size;

static DEFINE_SPINLOCK(lock);		/* the head, and what follows */
static u32 generation;			/* of the log: completions of another do not count */
static unsigned int in_flight;		/* write-like bios and flushes */
static unsigned int copying;		/* records whose data is not there yet */
static DECLARE_WAIT_QUEUE_HEAD(copied);

static DEFINE_MUTEX(control);		/* who starts, stops and reads */
static unsigned int readers;

struct power_dev {
	struct dm_dev *dev;
	unsigned int id;
};

struct power_bio {
	struct powerlog_rec *rec;	/* NULL: not in the log */
	u32 generation;
	bool counted;
};

/* ---- the log ------------------------------------------------------------------ */

/* NULL if there is no log, or no room.  @lock is held. */
static struct powerlog_rec *rec_new(u32 type, u32 id, u32 data)
{
	u64 len = sizeof(struct powerlog_rec) + round_up(data, 8);
	struct powerlog_rec *rec;

	lockdep_assert_held(&lock);
	if (plog->state != POWERLOG_ON)
		return NULL;
	if (len > log_size - plog->bytes) {
		plog->state = POWERLOG_FULL;
		DMERR("the log is full after %llu records, %u MiB: what follows is missing",
		      plog->records, mib);
		return NULL;
	}
	rec = (void *)plog + plog->bytes;
	memset(rec, 0, sizeof(*rec));
	rec->type = type;
	rec->id = id;
	rec->data = data;
	rec->submit = ++plog->seq;
	plog->bytes += len;
	plog->records++;
	return rec;
}

static void copy_begin(void)
{
	lockdep_assert_held(&lock);
	copying++;
}

static void copy_end(void)
{
	bool last;

	spin_lock_irq(&lock);
	last = !--copying;
	spin_unlock_irq(&lock);
	if (last)
		wake_up_all(&copied);
}

static bool nothing_copied(void)
{
	bool none;

	spin_lock_irq(&lock);
	none = !copying;
	spin_unlock_irq(&lock);
	return none;
}

static int log_reset(enum powerlog_state state)
{
	int r = 0;

	lockdep_assert_held(&control);
	if (readers)
		return -EBUSY;
	spin_lock_irq(&lock);
	if (in_flight && state == POWERLOG_ON) {
		r = -EBUSY;
	} else {
		plog->state = state;
		plog->seq = 0;
		plog->records = 0;
		plog->bytes = sizeof(*plog);
		generation++;
	}
	spin_unlock_irq(&lock);
	return r;
}

static int log_stop(void)
{
	int r = 0;

	lockdep_assert_held(&control);
	spin_lock_irq(&lock);
	if (plog->state == POWERLOG_FULL)
		r = -ENOSPC;
	else
		plog->state = POWERLOG_OFF;
	generation++;
	spin_unlock_irq(&lock);
	wait_event(copied, nothing_copied());
	return r;
}

static int log_mark(const char *text)
{
	struct powerlog_rec *rec;
	int r = 0;

	spin_lock_irq(&lock);
	rec = rec_new(POWERLOG_MARK, 0, strlen(text) + 1);
	if (rec) {
		strcpy((char *)(rec + 1), text);
		rec->complete = rec->submit;
	} else {
		r = plog->state == POWERLOG_FULL ? -ENOSPC : -ENODATA;
	}
	spin_unlock_irq(&lock);
	return r;
}

/* ---- bios --------------------------------------------------------------------- */

static void copy_data(struct bio *bio, struct powerlog_rec *rec)
{
	char *to = (char *)(rec + 1);
	struct bvec_iter iter;
	struct bio_vec bv;

	bio_for_each_segment(bv, bio, iter) {
		memcpy_from_bvec(to, &bv);
		to += bv.bv_len;
	}
}

static u32 type_of(struct bio *bio)
{
	if (!bio_sectors(bio))
		return bio->bi_opf & REQ_PREFLUSH ? POWERLOG_FLUSH : 0;
	switch (bio_op(bio)) {
	case REQ_OP_WRITE:
		return POWERLOG_WRITE;
	case REQ_OP_WRITE_ZEROES:
		return POWERLOG_ZEROES;
	case REQ_OP_DISCARD:
		return POWERLOG_DISCARD;
	default:
		return 0;
	}
}

static int power_map(struct dm_target *ti, struct bio *bio)
{
	struct power_bio *pb = dm_per_bio_data(bio, sizeof(*pb));
	struct power_dev *pd = ti->private;
	u32 type = type_of(bio);

	bio_set_dev(bio, pd->dev->bdev);
	bio->bi_iter.bi_sector = dm_target_offset(ti, bio->bi_iter.bi_sector);
	pb->rec = NULL;
	pb->counted = type;
	if (!type)
		return DM_MAPIO_REMAPPED;

	spin_lock_irq(&lock);
	in_flight++;
	pb->rec = rec_new(type, pd->id, type == POWERLOG_WRITE ? bio->bi_iter.bi_size : 0);
	if (pb->rec) {
		pb->generation = generation;
		pb->rec->sector = bio->bi_iter.bi_sector;
		pb->rec->sectors = bio_sectors(bio);
		if (bio->bi_opf & REQ_FUA)
			pb->rec->flags |= POWERLOG_FUA;
		if (bio->bi_opf & REQ_PREFLUSH)
			pb->rec->flags |= POWERLOG_PREFLUSH;
		copy_begin();
	}
	spin_unlock_irq(&lock);
	if (pb->rec) {
		if (type == POWERLOG_WRITE)
			copy_data(bio, pb->rec);
		copy_end();
	}
	return DM_MAPIO_REMAPPED;
}

static int power_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct power_bio *pb = dm_per_bio_data(bio, sizeof(*pb));
	unsigned long flags;

	if (!pb->counted)
		return DM_ENDIO_DONE;
	pb->counted = false;
	spin_lock_irqsave(&lock, flags);
	in_flight--;
	if (pb->rec && pb->generation == generation && plog->state == POWERLOG_ON) {
		pb->rec->error = (__force u32)*error;
		pb->rec->complete = ++plog->seq;
	}
	spin_unlock_irqrestore(&lock, flags);
	return DM_ENDIO_DONE;
}

/* ---- the target --------------------------------------------------------------- */

static int power_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct power_dev *pd;
	int r;

	if (argc != 2) {
		ti->error = "powerlog takes a device and an id";
		return -EINVAL;
	}
	pd = kzalloc(sizeof(*pd), GFP_KERNEL);
	if (!pd)
		return -ENOMEM;
	r = kstrtouint(argv[1], 10, &pd->id);
	if (r || !pd->id) {
		ti->error = "The id has to be a number from 1 on";
		r = -EINVAL;
		goto free;
	}
	r = dm_get_device(ti, argv[0], dm_table_get_mode(ti->table), &pd->dev);
	if (r) {
		ti->error = "Cannot open the device";
		goto free;
	}
	ti->num_flush_bios = 1;
	ti->num_discard_bios = 1;
	ti->num_write_zeroes_bios = 1;
	ti->flush_supported = true;
	ti->per_io_data_size = sizeof(struct power_bio);
	ti->private = pd;
	return 0;

free:
	kfree(pd);
	return r;
}

static void power_dtr(struct dm_target *ti)
{
	struct power_dev *pd = ti->private;

	dm_put_device(ti, pd->dev);
	kfree(pd);
}

/* INFO: off|on|full, the last number, bytes used and had. */
static void power_status(struct dm_target *ti, status_type_t type, unsigned int status_flags,
			 char *result, unsigned int maxlen)
{
	static const char *const states[] = { "off", "on", "full" };
	struct power_dev *pd = ti->private;
	unsigned int sz = 0;

	switch (type) {
	case STATUSTYPE_INFO:
		spin_lock_irq(&lock);
		DMEMIT("%s %llu %llu/%llu", states[plog->state], plog->seq, plog->bytes, log_size);
		spin_unlock_irq(&lock);
		break;
	case STATUSTYPE_TABLE:
		DMEMIT("%s %u", pd->dev->name, pd->id);
		break;
	default:
		*result = '\0';
		break;
	}
}

static int mark_words(unsigned int n, char **words)
{
	char text[MARK_MAX];
	unsigned int i;
	size_t len = 0;

	for (i = 0; i < n; i++) {
		len += scnprintf(text + len, sizeof(text) - len, "%s%s", i ? " " : "", words[i]);
		if (len == sizeof(text) - 1)
			return -EINVAL;
	}
	return log_mark(text);
}

static int power_message(struct dm_target *ti, unsigned int argc, char **argv, char *result,
			 unsigned int maxlen)
{
	int r = -EINVAL;

	if (argc > 1 && !strcasecmp(argv[0], "mark"))
		return mark_words(argc - 1, argv + 1);
	if (argc != 1)
		return -EINVAL;
	mutex_lock(&control);
	if (!strcasecmp(argv[0], "start"))
		r = log_reset(POWERLOG_ON);
	else if (!strcasecmp(argv[0], "reset"))
		r = log_reset(POWERLOG_OFF);
	else if (!strcasecmp(argv[0], "stop"))
		r = log_stop();
	mutex_unlock(&control);
	return r;
}

static int power_iterate_devices(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	struct power_dev *pd = ti->private;

	return fn(ti, pd->dev, 0, ti->len, data);
}

static struct target_type power_target = {
	.name = "powerlog",
	.version = { 1, 0, 0 },
	.module = THIS_MODULE,
	.ctr = power_ctr,
	.dtr = power_dtr,
	.map = power_map,
	.end_io = power_end_io,
	.status = power_status,
	.message = power_message,
	.iterate_devices = power_iterate_devices,
};

/* ---- debugfs ------------------------------------------------------------------ */

static int log_open(struct inode *inode, struct file *file)
{
	int r = 0;

	mutex_lock(&control);
	spin_lock_irq(&lock);
	if (plog->state == POWERLOG_ON)
		r = -EBUSY;
	spin_unlock_irq(&lock);
	if (!r) {
		wait_event(copied, nothing_copied());
		readers++;
	}
	mutex_unlock(&control);
	return r;
}

static int log_release(struct inode *inode, struct file *file)
{
	mutex_lock(&control);
	readers--;
	mutex_unlock(&control);
	return 0;
}

/* Nothing changes while there is a reader. */
static ssize_t log_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	return simple_read_from_buffer(buf, len, pos, plog, plog->bytes);
}

static const struct file_operations log_fops = {
	.owner = THIS_MODULE,
	.open = log_open,
	.release = log_release,
	.read = log_read,
};

static ssize_t mark_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	char text[MARK_MAX];
	int r;

	if (len >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, buf, len))
		return -EFAULT;
	text[len] = '\0';
	r = log_mark(strim(text));
	return r ? r : len;
}

static const struct file_operations mark_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = mark_write,
};

/* ---- the module --------------------------------------------------------------- */

static int __init power_init(void)
{
	int r;

	if (!mib || mib > 4096)
		return -EINVAL;
	log_size = (u64)mib << 20;
	plog = vmalloc(log_size);
	if (!plog)
		return -ENOMEM;
	memset(plog, 0, sizeof(*plog));
	plog->magic = POWERLOG_MAGIC;
	plog->version = POWERLOG_VERSION;
	plog->bytes = sizeof(*plog);
	r = dm_register_target(&power_target);
	if (r) {
		vfree(plog);
		return r;
	}
	dir = debugfs_create_dir("powerlog", NULL);
	debugfs_create_file("log", 0400, dir, NULL, &log_fops);
	debugfs_create_file("mark", 0200, dir, NULL, &mark_fops);
	return 0;
}

static void __exit power_exit(void)
{
	debugfs_remove_recursive(dir);
	dm_unregister_target(&power_target);
	vfree(plog);
}

module_init(power_init);
module_exit(power_exit);

MODULE_DESCRIPTION(DM_NAME " target that logs writes and flushes of several devices, for tests");
MODULE_AUTHOR("The dm-cbw authors");
MODULE_LICENSE("GPL");
