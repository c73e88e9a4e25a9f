// SPDX-License-Identifier: GPL-2.0-only
/*
 * The control device: argument checks of each call, as the UAPI header documents
 * them.  The calls about bitmaps are in control-bitmap.c.
 */
#include "control.h"

#include <linux/capability.h>
#include <linux/compat.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

union cbw_cmd_buffer {
	struct cbw_info info;
	struct cbw_transaction transaction;
	struct cbw_commit commit;
	struct cbw_abort abort;
	struct cbw_session_detach session_detach;
	struct cbw_release release;
	struct cbw_snapshot_info snapshot_info;
	struct cbw_bitmap_list bitmap_list;
	struct cbw_bitmap_extents bitmap_extents;
	struct cbw_bitmap_read bitmap_read;
	struct cbw_bitmap_load bitmap_load;
	struct cbw_mark_dirty mark_dirty;
	struct cbw_stats stats;
	struct cbw_container_attach container_attach;
	struct cbw_container_detach container_detach;
	struct cbw_container_info container_info;
	struct cbw_container_grow container_grow;
};

/* Numbers that do not fit are those of no device. */
dev_t cbw_control_devt(struct cbw_devno no)
{
	dev_t devt = MKDEV(no.major, no.minor);

	return MAJOR(devt) == no.major && MINOR(devt) == no.minor ? devt : 0;
}

struct cbw_device *cbw_control_device(struct cbw_devno no)
{
	dev_t devt = cbw_control_devt(no);

	return devt ? cbw_device_find(devt) : NULL;
}

static struct cbw_snap *find_snap(struct cbw_devno no)
{
	dev_t devt = cbw_control_devt(no);

	return devt ? cbw_snap_find(devt) : NULL;
}

static int cbw_do_info(struct cbw_session *session, void *arg)
{
	struct cbw_info *cmd = arg;

	if (cmd->flags)
		return -EINVAL;
	cmd->out_version = 1;
	cmd->out_reserved = 0;
	cmd->out_features = 0;
	return 0;
}

/* ---- transaction ------------------------------------------------------------------ */

static int action_check(const struct cbw_action *a)
{
	bool second = false;
	u32 flags = 0;

	if (a->reserved)
		return -EINVAL;
	switch (a->type) {
	case CBW_ACTION_BITMAP_ADD:
		flags = CBW_ADD_DISABLED | CBW_ADD_TRANSIENT;
		break;
	case CBW_ACTION_SNAPSHOT_START:
		if (a->name || a->name_len)
			return -EINVAL;
		break;
	case CBW_ACTION_BITMAP_REMOVE:
	case CBW_ACTION_BITMAP_CLEAR:
	case CBW_ACTION_BITMAP_ENABLE:
	case CBW_ACTION_BITMAP_DISABLE:
	case CBW_ACTION_BITMAP_ROTATE:
		break;
	case CBW_ACTION_BITMAP_MERGE:
	case CBW_ACTION_BITMAP_COPY:
	case CBW_ACTION_BITMAP_RENAME:
		second = true;
		break;
	default:
		return -EINVAL;
	}
	if (second ? !a->name2_len || a->name2_len > CBW_NAME_MAX :
		     a->name2 || a->name2_len)
		return -EINVAL;
	if ((a->dev2.major || a->dev2.minor) && a->type != CBW_ACTION_BITMAP_MERGE &&
	    a->type != CBW_ACTION_BITMAP_COPY)
		return -EINVAL;
	if (a->flags & ~flags)
		return -EINVAL;
	if (a->granularity && a->type != CBW_ACTION_BITMAP_ADD)
		return -EINVAL;
	if (a->type != CBW_ACTION_SNAPSHOT_START &&
	    (!a->name_len || a->name_len > CBW_NAME_MAX))
		return -EINVAL;
	return 0;
}

/* @names: the first name of the action and, right behind it, the second. */
static int action_do(struct cbw_txn *txn, const struct cbw_action *a, u8 *names)
{
	struct cbw_name name = { names, a->name_len };
	struct cbw_name name2 = { names + a->name_len, a->name2_len };
	struct cbw_device *dev, *dev2;
	struct cbw_snap *snap;

	if (a->type == CBW_ACTION_SNAPSHOT_START) {
		snap = find_snap(a->dev);
		if (!snap)
			return -ENODEV;
		if (!snap->armed)
			return -EBUSY;
		return cbw_txn_start(txn, snap);
	}
	dev = cbw_control_device(a->dev);
	if (!dev)
		return -ENODEV;
	switch (a->type) {
	case CBW_ACTION_BITMAP_ADD:
		return cbw_txn_add(txn, dev, name, a->granularity, a->flags);
	case CBW_ACTION_BITMAP_REMOVE:
		return cbw_txn_remove(txn, dev, name);
	case CBW_ACTION_BITMAP_CLEAR:
		return cbw_txn_clear(txn, dev, name);
	case CBW_ACTION_BITMAP_ENABLE:
		return cbw_txn_enable(txn, dev, name, true);
	case CBW_ACTION_BITMAP_DISABLE:
		return cbw_txn_enable(txn, dev, name, false);
	case CBW_ACTION_BITMAP_ROTATE:
		return cbw_txn_rotate(txn, dev, name, NULL);
	case CBW_ACTION_BITMAP_RENAME:
		return cbw_txn_rename(txn, dev, name, name2);
	}
	dev2 = a->dev2.major || a->dev2.minor ? cbw_control_device(a->dev2) : dev;
	if (!dev2)
		return -ENODEV;
	if (a->type == CBW_ACTION_BITMAP_MERGE)
		return cbw_txn_merge(txn, dev, name, dev2, name2);
	return cbw_txn_copy(txn, dev, name, dev2, name2);
}

/* Both names of an action, as action_do() takes them; NULL: it has none. */
static u8 *action_names(const struct cbw_action *a)
{
	u8 *names;

	if (!a->name_len)
		return NULL;
	names = kmalloc(a->name_len + a->name2_len, GFP_KERNEL_ACCOUNT);
	if (!names)
		return ERR_PTR(-ENOMEM);
	if (copy_from_user(names, u64_to_user_ptr(a->name), a->name_len) ||
	    copy_from_user(names + a->name_len, u64_to_user_ptr(a->name2), a->name2_len)) {
		kfree(names);
		return ERR_PTR(-EFAULT);
	}
	return names;
}

/* Copy in the names before any lock is taken. */
static int names_copy(const struct cbw_action *actions, u32 nr, u8 ***out,
		      u32 *failed)
{
	u8 **names = kvcalloc(nr, sizeof(*names), GFP_KERNEL_ACCOUNT);
	int r = 0;
	u32 i;

	*out = names;
	if (!names)
		return -ENOMEM;
	for (i = 0; i < nr && !r; i++) {
		const struct cbw_action *a = &actions[i];

		*failed = i;
		r = action_check(a);
		if (r)
			continue;
		names[i] = action_names(a);
		if (IS_ERR(names[i])) {
			r = PTR_ERR(names[i]);
			names[i] = NULL;
		}
	}
	return r;
}

/* The device that an action cuts, 0: none.  It may be another one when that is done. */
static dev_t action_devt(const struct cbw_action *a)
{
	struct cbw_device *dev = NULL;
	struct cbw_snap *snap;

	lockdep_assert_held(&cbw_config_mutex);
	if (a->type != CBW_ACTION_SNAPSHOT_START) {
		dev = cbw_control_device(a->dev);
	} else {
		snap = find_snap(a->dev);
		dev = snap ? snap->dev : NULL;
	}
	return dev && !dev->gone ? dev->devt : 0;
}

/* Freeze what is on the devices of a transaction.  NULL: there is nothing. */
static struct cbw_freeze *freeze_all(const struct cbw_transaction *cmd,
				     const struct cbw_action *actions)
{
	dev_t *devts = kvcalloc(cmd->nr_actions, sizeof(*devts), GFP_KERNEL_ACCOUNT);
	struct cbw_freeze *freeze = NULL;
	unsigned int nr = 0, j;
	u32 i;

	if (!devts)
		return ERR_PTR(-ENOMEM);
	cbw_config_lock();
	for (i = 0; i < cmd->nr_actions; i++) {
		dev_t devt = action_devt(&actions[i]);

		for (j = 0; j < nr && devts[j] != devt; j++)
			;
		if (devt && j == nr)
			devts[nr++] = devt;
	}
	cbw_config_unlock();
	if (nr)
		freeze = cbw_freeze_begin(devts, nr, cmd->freeze_timeout_ms ?:
					  CBW_FREEZE_TIMEOUT_DEFAULT);
	kvfree(devts);
	return freeze;
}

static int cbw_do_transaction(struct cbw_session *session, void *arg)
{
	struct cbw_transaction *cmd = arg;
	struct cbw_freeze *freeze = NULL;
	struct cbw_action *actions;
	struct cbw_txn txn = {};
	u8 **names = NULL;
	u32 i;
	int r;

	if (cmd->flags & ~CBW_TXN_FREEZE)
		return -EINVAL;
	if (cmd->freeze_timeout_ms && !(cmd->flags & CBW_TXN_FREEZE))
		return -EINVAL;
	if (cmd->freeze_timeout_ms > CBW_FREEZE_TIMEOUT_MAX)
		return -EINVAL;
	if (!cmd->nr_actions || cmd->nr_actions > CBW_ACTIONS_MAX ||
	    cmd->action_size != sizeof(*actions))
		return -EINVAL;
	cmd->out_failed = cmd->nr_actions;
	actions = vmemdup_user(u64_to_user_ptr(cmd->actions),
			       (size_t)cmd->nr_actions * sizeof(*actions));
	if (IS_ERR(actions))
		return PTR_ERR(actions);
	r = names_copy(actions, cmd->nr_actions, &names, &cmd->out_failed);
	if (r)
		goto out;
	do {
		cmd->out_failed = cmd->nr_actions;
		if (cmd->flags & CBW_TXN_FREEZE) {
			freeze = freeze_all(cmd, actions);
			r = PTR_ERR_OR_ZERO(freeze);
			if (r)
				break;
		}
		cbw_txn_begin(&txn, session);
		txn.freeze = freeze;
		for (i = 0; i < cmd->nr_actions && !r; i++) {
			cmd->out_failed = i;
			r = action_do(&txn, &actions[i], names[i]);
		}
		if (!r)
			cmd->out_failed = cmd->nr_actions;
		r = cbw_txn_end(&txn, r);
		/* Not while it waits: they are frozen again then. */
		cbw_freeze_end(freeze);
		r = cbw_txn_retry(&txn, r);
		if (r == -EAGAIN)
			r = fatal_signal_pending(current) ? -EINTR : 0;
		else
			break;
	} while (!r);
	if (!r)
		cmd->out_cut = txn.cut;
	cbw_txn_give_up(&txn, r);
out:
	for (i = 0; names && i < cmd->nr_actions; i++)
		kfree(names[i]);
	kvfree(names);
	kvfree(actions);
	return r;
}

/* ---- commit, abort, detach ---------------------------------------------------------- */

/* A device with a cbw table, or a snapshot and through it its source. */
static int find_cut(struct cbw_devno no, const struct cbw_cut_id *cut,
		    struct cbw_device **dev, struct cbw_snap **snap)
{
	*snap = NULL;
	if (cbw_cut_none(cut))
		return -ESTALE;
	*dev = cbw_control_device(no);
	if (*dev)
		return 0;
	*snap = find_snap(no);
	if (!*snap)
		return -ENODEV;
	if (!cbw_cut_same(&(*snap)->cut, cut))
		return -ESTALE;
	*dev = (*snap)->dev;
	return 0;
}

static int cbw_do_commit(struct cbw_session *session, void *arg)
{
	struct cbw_container *container = NULL;
	struct cbw_commit *cmd = arg;
	struct cbw_device *dev;
	struct cbw_snap *snap;
	int r;

	if (cmd->flags || cmd->reserved)
		return -EINVAL;
	if (cmd->mode != CBW_COMMIT_ON_SUCCESS && cmd->mode != CBW_COMMIT_NEVER &&
	    cmd->mode != CBW_COMMIT_ALWAYS)
		return -EINVAL;
	cbw_config_lock();
	r = find_cut(cmd->dev, &cmd->cut, &dev, &snap);
	if (r)
		goto unlock;
	container = cbw_container_sync_begin(dev);
	switch (cmd->mode) {
	case CBW_COMMIT_ON_SUCCESS:
		r = cbw_bitmap_commit(dev, NULL, &cmd->cut, session, snap);
		break;
	case CBW_COMMIT_NEVER:
		r = cbw_abort_cut(dev, &cmd->cut, snap);	/* unlocks */
		goto sync;
	case CBW_COMMIT_ALWAYS:
		r = cbw_commit_always(dev, &cmd->cut, session, snap);	/* unlocks */
		goto sync;
	}
unlock:
	cbw_config_unlock();
sync:
	return cbw_container_sync_end(container, r);
}

static int cbw_do_abort(struct cbw_session *session, void *arg)
{
	struct cbw_abort *cmd = arg;
	struct cbw_device *dev;
	struct cbw_snap *snap;
	int r;

	if (cmd->flags)
		return -EINVAL;
	cbw_config_lock();
	r = find_cut(cmd->dev, &cmd->cut, &dev, &snap);
	if (!r)
		return cbw_abort_cut(dev, &cmd->cut, snap);	/* unlocks */
	cbw_config_unlock();
	return r;
}

static int cbw_do_session_detach(struct cbw_session *session, void *arg)
{
	struct cbw_session_detach *cmd = arg;

	if (cmd->flags)
		return -EINVAL;
	return cbw_session_detach(session, &cmd->cut);
}

/* ---- snapshots ------------------------------------------------------------------------- */

/* The snapshot with this cut, a reference. */
static struct cbw_snap *get_snap(struct cbw_devno no, const struct cbw_cut_id *cut)
{
	struct cbw_snap *snap;

	cbw_config_lock();
	snap = find_snap(no);
	if (!snap)
		snap = ERR_PTR(-ENODEV);
	else if (!cbw_cut_same(&snap->cut, cut) || !snap->start_seq)
		snap = ERR_PTR(-ESTALE);
	else
		cbw_snap_get(snap);
	cbw_config_unlock();
	return snap;
}

static bool range_ok(const struct cbw_snap *snap, const struct cbw_range *range)
{
	u64 size = (u64)snap->len << SECTOR_SHIFT;
	u64 mask = cbw_chunk_bytes(snap) - 1;

	return range->length && !(range->offset & mask) && range->offset < size &&
	       range->length <= size - range->offset &&
	       (!(range->length & mask) || range->offset + range->length == size);
}

static int cbw_do_release(struct cbw_session *session, void *arg)
{
	struct cbw_release *cmd = arg;
	struct cbw_range *ranges;
	struct cbw_snap *snap;
	int r = 0;
	u32 i;

	if (cmd->flags || cmd->reserved || !cmd->nr_ranges ||
	    cmd->nr_ranges > CBW_RANGES_MAX)
		return -EINVAL;
	ranges = vmemdup_user(u64_to_user_ptr(cmd->ranges),
			      (size_t)cmd->nr_ranges * sizeof(*ranges));
	if (IS_ERR(ranges))
		return PTR_ERR(ranges);
	snap = get_snap(cmd->dev, &cmd->cut);
	if (IS_ERR(snap)) {
		r = PTR_ERR(snap);
		goto out;
	}
	for (i = 0; i < cmd->nr_ranges && !r; i++)
		if (!range_ok(snap, &ranges[i]))
			r = -EINVAL;
	for (i = 0; i < cmd->nr_ranges && !r; i++)
		cbw_snap_release(snap, ranges[i].offset, ranges[i].length);
	cbw_snap_put(snap);
out:
	kvfree(ranges);
	return r;
}

static int cbw_do_snapshot_info(struct cbw_session *session, void *arg)
{
	struct cbw_snapshot_info *cmd = arg;
	struct cbw_snap *snap;
	int r = 0;

	if (cmd->flags)
		return -EINVAL;
	cbw_config_lock();
	snap = find_snap(cmd->dev);
	if (!snap)
		r = -ENODEV;
	else if (!cbw_cut_none(&cmd->cut) &&
		 !cbw_cut_same(&snap->cut, &cmd->cut))
		r = -ESTALE;
	else
		cbw_snap_info(snap, cmd);
	cmd->out_reserved = 0;
	cbw_config_unlock();
	return r;
}

/* ---- what has happened ------------------------------------------------------------------- */

static int cbw_do_stats(struct cbw_session *session, void *arg)
{
	struct cbw_stats *cmd = arg;
	struct cbw_device *dev;
	int r = 0;

	if (cmd->flags)
		return -EINVAL;
	cbw_config_lock();
	dev = cbw_control_device(cmd->dev);
	if (dev)
		cbw_stats_get(&dev->stats, cmd);
	else
		r = -ENODEV;
	cbw_config_unlock();
	return r;
}

/* ---- the device ------------------------------------------------------------------------------ */

/**
 * struct call - an ioctl
 * @size: of its struct
 * @min_size: end of the last member that the first version had
 * @fn: does it
 */
struct call {
	unsigned int size;
	unsigned int min_size;
	int (*fn)(struct cbw_session *session, void *arg);
};

#define CALL(nr, name, last)						\
	[nr - CBW_CMD_BASE] = {						\
		.size = sizeof(struct cbw_##name),			\
		.min_size = offsetofend(struct cbw_##name, last),	\
		.fn = cbw_do_##name,					\
	}

static const struct call calls[] = {
	CALL(CBW_CMD_INFO, info, out_features),
	CALL(CBW_CMD_TRANSACTION, transaction, out_cut),
	CALL(CBW_CMD_COMMIT, commit, reserved),
	CALL(CBW_CMD_ABORT, abort, cut),
	CALL(CBW_CMD_SESSION_DETACH, session_detach, cut),
	CALL(CBW_CMD_RELEASE, release, ranges),
	CALL(CBW_CMD_SNAPSHOT_INFO, snapshot_info, out_poisoned),
	CALL(CBW_CMD_BITMAP_LIST, bitmap_list, out_device_size),
	CALL(CBW_CMD_BITMAP_EXTENTS, bitmap_extents, reserved),
	CALL(CBW_CMD_BITMAP_READ, bitmap_read, reserved),
	CALL(CBW_CMD_BITMAP_LOAD, bitmap_load, reserved),
	CALL(CBW_CMD_MARK_DIRTY, mark_dirty, ranges),
	CALL(CBW_CMD_STATS, stats, out_hist),
	CALL(CBW_CMD_CONTAINER_ATTACH, container_attach, places),
	CALL(CBW_CMD_CONTAINER_DETACH, container_detach, binding),
	CALL(CBW_CMD_CONTAINER_INFO, container_info, out_free),
	CALL(CBW_CMD_CONTAINER_GROW, container_grow, places),
};

static long control_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct cbw_session *session = file->private_data;
	void __user *uarg = (void __user *)arg;
	union cbw_cmd_buffer buf = {};
	const struct call *call;
	unsigned int nr = _IOC_NR(cmd);
	u32 user_size;
	int r;

	if (_IOC_TYPE(cmd) != CBW_TYPE || cmd != _IO(CBW_TYPE, nr) ||
	    nr < CBW_CMD_BASE || nr - CBW_CMD_BASE >= ARRAY_SIZE(calls))
		return -ENOTTY;
	call = &calls[nr - CBW_CMD_BASE];
	if (get_user(user_size, (u32 __user *)uarg))
		return -EFAULT;
	if (user_size < call->min_size)
		return -EINVAL;
	if (user_size > PAGE_SIZE)
		return -E2BIG;
	r = copy_struct_from_user(&buf, call->size, uarg, user_size);
	if (r)
		return r;
	r = call->fn(session, &buf);
	/* Also after an error: it says which action failed, or what is needed. */
	if (copy_to_user(uarg, &buf, min(user_size, call->size)))
		return -EFAULT;
	return r;
}

static int control_open(struct inode *inode, struct file *file)
{
	struct cbw_session *session;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	session = cbw_session_open();
	if (!session)
		return -ENOMEM;
	file->private_data = session;
	return nonseekable_open(inode, file);
}

static ssize_t control_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	return cbw_events_read(file->private_data, buf, count,
			       file->f_flags & O_NONBLOCK);
}

static __poll_t control_poll(struct file *file, poll_table *wait)
{
	return cbw_events_poll(file->private_data, file, wait);
}

static int control_release(struct inode *inode, struct file *file)
{
	cbw_session_close(file->private_data);
	return 0;
}

static const struct file_operations control_fops = {
	.owner = THIS_MODULE,
	.open = control_open,
	.release = control_release,
	.unlocked_ioctl = control_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.read = control_read,
	.poll = control_poll,
};

static struct miscdevice control_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "cbw-control",
	.mode = 0600,
	.fops = &control_fops,
};

int cbw_control_init(void)
{
	return misc_register(&control_misc);
}

void cbw_control_exit(void)
{
	misc_deregister(&control_misc);
}
