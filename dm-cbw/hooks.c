// SPDX-License-Identifier: GPL-2.0-only
/*
 * Delay hooks, by debugfs file dm-cbw/hooks.  Debug builds only.
 *
 *   arm <point> [sector <s>] [count <n>] [timeout_ms <n>]
 *   release <point>
 *   reset
 */
#include "cbw.h"

#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

unsigned int cbw_uncured;
module_param_named(uncured, cbw_uncured, uint, 0644);
MODULE_PARM_DESC(uncured, "Number of the hazard whose cure is taken out (0: none)");

/**
 * struct point - a hook; under hooks_lock
 * @name: its name
 * @armed: passages that are still to be stopped
 * @any: whatever the sector
 * @sector: stop what covers it
 * @timeout_ms: how long at most
 * @gen: changed by a release
 * @stopped: waiting now
 * @passed: went on
 * @expired: went on by itself
 */
struct point {
	const char *name;
	unsigned int armed;
	bool any;
	sector_t sector;
	unsigned int timeout_ms;
	unsigned int gen;
	unsigned int stopped;
	unsigned int passed;
	unsigned int expired;
};

static struct point points[CBW_NR_HOOKS] = {
	[CBW_HOOK_MAP_EPOCH] = { "map-epoch" },
	[CBW_HOOK_MAP_DISCARD] = { "map-discard" },
	[CBW_HOOK_MAP_MARKED] = { "map-marked" },
	[CBW_HOOK_GATE_SEEN] = { "gate-seen" },
	[CBW_HOOK_GATE_SHUT] = { "gate-shut" },
	[CBW_HOOK_TXN_END] = { "txn-end" },
	[CBW_HOOK_DISCARD_WORK] = { "discard-work" },
	[CBW_HOOK_END_IO] = { "end-io" },
	[CBW_HOOK_COPY_READ] = { "copy-read" },
	[CBW_HOOK_STORE_WRITE] = { "store-write" },
	[CBW_HOOK_STORE_NEXT] = { "store-next" },
	[CBW_HOOK_SNAP_ORIGIN] = { "snap-origin" },
	[CBW_HOOK_SNAP_STORE] = { "snap-store" },
	[CBW_HOOK_ABORT_WORK] = { "abort-work" },
	[CBW_HOOK_ABORT_MERGE] = { "abort-merge" },
	[CBW_HOOK_MERGE] = { "merge" },
	[CBW_HOOK_MERGE_REST] = { "merge-rest" },
	[CBW_HOOK_INTENT_SEEN] = { "intent-seen" },
	[CBW_HOOK_INTENT_WORK] = { "intent-work" },
	[CBW_HOOK_INTENT_WRITE] = { "intent-write" },
	[CBW_HOOK_INTENT_DONE] = { "intent-done" },
	[CBW_HOOK_CP_BEGIN] = { "cp-begin" },
	[CBW_HOOK_CP_FLIP] = { "cp-flip" },
	[CBW_HOOK_FAIL_TOLD] = { "fail-told" },
	[CBW_HOOK_CP_TAKEN] = { "cp-taken" },
	[CBW_HOOK_CP_PAGES] = { "cp-pages" },
	[CBW_HOOK_CP_STATE] = { "cp-state" },
	[CBW_HOOK_CP_RETIRE] = { "cp-retire" },
};

static DEFINE_SPINLOCK(hooks_lock);
static DECLARE_WAIT_QUEUE_HEAD(hooks_wait);
static struct dentry *hooks_dir;

struct deferred {
	struct delayed_work work;
	struct list_head node;
	enum cbw_hook hook;
	unsigned int gen;
	void (*fn)(void *data);
	void *data;
};

static LIST_HEAD(deferred_list);	/* hooks_lock */

/* Is this passage to be stopped?  Then it is counted as stopped. */
static bool hook_enter(enum cbw_hook hook, sector_t sector, sector_t nr,
		       unsigned int *gen, unsigned int *timeout_ms)
{
	struct point *p = &points[hook];
	unsigned long flags;
	bool stop = false;

	if (!READ_ONCE(p->armed))
		return false;
	spin_lock_irqsave(&hooks_lock, flags);
	if (p->armed && (p->any || (p->sector >= sector &&
				    p->sector < sector + nr))) {
		p->armed--;
		p->stopped++;
		*gen = p->gen;
		*timeout_ms = p->timeout_ms;
		stop = true;
	}
	spin_unlock_irqrestore(&hooks_lock, flags);
	return stop;
}

static void hook_leave(enum cbw_hook hook, unsigned int gen)
{
	struct point *p = &points[hook];
	unsigned long flags;

	spin_lock_irqsave(&hooks_lock, flags);
	p->stopped--;
	p->passed++;
	p->expired += p->gen == gen;
	spin_unlock_irqrestore(&hooks_lock, flags);
}

void cbw_hook_sleep(enum cbw_hook hook, sector_t sector, sector_t nr)
{
	unsigned int gen, ms;

	if (!hook_enter(hook, sector, nr, &gen, &ms))
		return;
	wait_event_timeout(hooks_wait, READ_ONCE(points[hook].gen) != gen,
			   msecs_to_jiffies(ms));
	hook_leave(hook, gen);
}

void cbw_hook_spin(enum cbw_hook hook, sector_t sector, sector_t nr)
{
	unsigned int gen, ms;
	ktime_t end;

	if (!hook_enter(hook, sector, nr, &gen, &ms))
		return;
	end = ktime_add_ms(ktime_get(), ms);
	while (READ_ONCE(points[hook].gen) == gen && ktime_before(ktime_get(), end))
		cpu_relax();
	hook_leave(hook, gen);
}

static void deferred_work(struct work_struct *work)
{
	struct deferred *d = container_of(to_delayed_work(work), struct deferred,
					  work);
	unsigned long flags;

	spin_lock_irqsave(&hooks_lock, flags);
	list_del(&d->node);
	spin_unlock_irqrestore(&hooks_lock, flags);
	hook_leave(d->hook, d->gen);
	d->fn(d->data);
	kfree(d);
}

/* Any context.  True: @fn will be called later, from a worker. */
bool cbw_hook_defer(enum cbw_hook hook, sector_t sector, sector_t nr,
		    void (*fn)(void *data), void *data)
{
	unsigned int gen, ms;
	struct deferred *d;
	unsigned long flags;

	if (!hook_enter(hook, sector, nr, &gen, &ms))
		return false;
	d = kzalloc(sizeof(*d), GFP_ATOMIC);
	if (!d) {
		hook_leave(hook, gen);
		return false;
	}
	INIT_DELAYED_WORK(&d->work, deferred_work);
	d->hook = hook;
	d->gen = gen;
	d->fn = fn;
	d->data = data;
	spin_lock_irqsave(&hooks_lock, flags);
	list_add_tail(&d->node, &deferred_list);
	if (points[hook].gen != gen)
		ms = 0;
	queue_delayed_work(cbw_wait_wq, &d->work, msecs_to_jiffies(ms));
	spin_unlock_irqrestore(&hooks_lock, flags);
	return true;
}

static void point_release(enum cbw_hook hook)
{
	struct deferred *d;
	unsigned long flags;

	spin_lock_irqsave(&hooks_lock, flags);
	points[hook].armed = 0;
	points[hook].gen++;
	list_for_each_entry(d, &deferred_list, node)
		if (d->hook == hook)
			mod_delayed_work(cbw_wait_wq, &d->work, 0);
	spin_unlock_irqrestore(&hooks_lock, flags);
	wake_up_all(&hooks_wait);
}

static int point_find(const char *name)
{
	int i;

	for (i = 0; name && i < CBW_NR_HOOKS; i++)
		if (!strcmp(points[i].name, name))
			return i;
	return -ENOENT;
}

static int point_arm(int hook, char *args)
{
	struct point *p = &points[hook];
	unsigned int count = 1, ms = 10000;
	unsigned long long sector = 0;
	bool any = true;
	char *word, *val;
	int r = 0;

	while (!r && (word = strsep(&args, " "))) {
		val = strsep(&args, " ");
		if (!val)
			return -EINVAL;
		if (!strcmp(word, "sector")) {
			any = false;
			r = kstrtoull(val, 10, &sector);
		} else if (!strcmp(word, "count")) {
			r = kstrtouint(val, 10, &count);
		} else if (!strcmp(word, "timeout_ms")) {
			r = kstrtouint(val, 10, &ms);
		} else {
			r = -EINVAL;
		}
	}
	if (r)
		return r;
	spin_lock_irq(&hooks_lock);
	p->any = any;
	p->sector = sector;
	p->timeout_ms = ms;
	p->armed = count;
	spin_unlock_irq(&hooks_lock);
	return 0;
}

static ssize_t hooks_write(struct file *file, const char __user *ubuf,
			   size_t len, loff_t *ppos)
{
	char *buf, *args, *verb;
	int hook, r = 0;

	if (len > 256)
		return -EINVAL;
	buf = memdup_user_nul(ubuf, len);
	if (IS_ERR(buf))
		return PTR_ERR(buf);
	args = strim(buf);
	verb = strsep(&args, " ");
	if (!strcmp(verb, "reset")) {
		for (hook = 0; hook < CBW_NR_HOOKS; hook++)
			point_release(hook);
	} else {
		hook = point_find(strsep(&args, " "));
		if (hook < 0)
			r = hook;
		else if (!strcmp(verb, "release"))
			point_release(hook);
		else if (!strcmp(verb, "arm"))
			r = point_arm(hook, args);
		else
			r = -EINVAL;
	}
	kfree(buf);
	return r ? r : len;
}

static int hooks_show(struct seq_file *m, void *v)
{
	int i;

	spin_lock_irq(&hooks_lock);
	for (i = 0; i < CBW_NR_HOOKS; i++)
		seq_printf(m, "%s armed=%u stopped=%u passed=%u expired=%u\n",
			   points[i].name, points[i].armed, points[i].stopped,
			   points[i].passed, points[i].expired);
	spin_unlock_irq(&hooks_lock);
	return 0;
}

static int hooks_open(struct inode *inode, struct file *file)
{
	return single_open(file, hooks_show, NULL);
}

static const struct file_operations hooks_fops = {
	.owner = THIS_MODULE,
	.open = hooks_open,
	.read = seq_read,
	.write = hooks_write,
	.llseek = seq_lseek,
	.release = single_release,
};

int cbw_hooks_init(void)
{
	hooks_dir = debugfs_create_dir("dm-cbw", NULL);
	debugfs_create_file("hooks", 0600, hooks_dir, NULL, &hooks_fops);
	return 0;
}

void cbw_hooks_exit(void)
{
	debugfs_remove_recursive(hooks_dir);
}
