// SPDX-License-Identifier: GPL-2.0-only
/*
 * The control device's calls about containers.
 */
#include "container.h"
#include "control.h"

#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

static void layout_free(struct cbw_layout *layout, unsigned int nr_names)
{
	while (nr_names)
		kfree(layout->names[--nr_names].s);
	kvfree(layout->names);
	kvfree(layout->bitmaps);
	kvfree(layout->places);
	kvfree(layout->binding);
}

/* An array of user space; NULL for none. */
static void *get_array(u64 from, u32 nr, size_t size)
{
	return nr ? vmemdup_user(u64_to_user_ptr(from), nr * size) : NULL;
}

static int get_binding(struct cbw_layout *layout, u64 from, u32 len)
{
	if (len > CBW_BINDING_MAX)
		return -EINVAL;
	layout->binding = get_array(from, len, 1);
	if (!IS_ERR(layout->binding))
		return 0;
	layout->binding = NULL;
	return -EFAULT;
}

static int get_places(struct cbw_layout *layout, u64 from, u32 nr)
{
	int r;

	if (nr > CBW_PLACES_MAX)
		return -EINVAL;
	layout->places = get_array(from, nr, sizeof(*layout->places));
	if (!IS_ERR(layout->places))
		return 0;
	r = PTR_ERR(layout->places);
	layout->places = NULL;
	return r;
}

/* @nr: how many names there are, for layout_free() */
static int get_bitmaps(struct cbw_layout *layout, u64 from, u32 count, unsigned int *nr)
{
	u32 i;

	if (count > CBW_BITMAPS_MAX)
		return -EINVAL;
	if (!count)
		return 0;
	layout->bitmaps = get_array(from, count, sizeof(*layout->bitmaps));
	if (IS_ERR(layout->bitmaps)) {
		int r = PTR_ERR(layout->bitmaps);

		layout->bitmaps = NULL;
		return r;
	}
	layout->names = kvcalloc(count, sizeof(*layout->names), GFP_KERNEL);
	if (!layout->names)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		const struct cbw_container_bitmap *b = &layout->bitmaps[i];
		u8 *s;

		if (b->reserved || !b->name_len || b->name_len > CBW_NAME_MAX)
			return -EINVAL;
		s = memdup_user(u64_to_user_ptr(b->name), b->name_len);
		if (IS_ERR(s))
			return PTR_ERR(s);
		layout->names[i].s = s;
		layout->names[i].len = b->name_len;
		*nr = i + 1;
	}
	return 0;
}

static bool attach_ok(const struct cbw_container_attach *cmd)
{
	return !cmd->flags && cmd->region_shift >= CBW_REGION_SHIFT_MIN &&
	       cmd->region_shift <= CBW_REGION_SHIFT_MAX &&
	       cmd->timeout_ms <= CBW_CONTAINER_TIMEOUT_MAX &&
	       (cmd->policy == CBW_CONTAINER_CONTINUE || cmd->policy == CBW_CONTAINER_HOLD) &&
	       cmd->intent_length && !(cmd->intent_length % 4096) &&
	       cmd->intent_length <= CBW_INTENT_LENGTH_MAX;
}

int cbw_do_container_attach(struct cbw_session *session, void *arg)
{
	struct cbw_container_attach *cmd = arg;
	struct cbw_layout layout = {};
	unsigned int names = 0;
	dev_t devt, container;
	int r;

	if (!attach_ok(cmd))
		return -EINVAL;
	devt = cbw_control_devt(cmd->dev);
	container = cbw_control_devt(cmd->container);
	if (!devt || !container)
		return -ENODEV;
	r = get_binding(&layout, cmd->binding, cmd->binding_len);
	if (!r)
		r = get_places(&layout, cmd->places, cmd->nr_places);
	if (!r)
		r = get_bitmaps(&layout, cmd->bitmaps, cmd->nr_bitmaps, &names);
	if (!r)
		r = cbw_container_attach(cmd, &layout, devt, container);
	layout_free(&layout, names);
	return r;
}

int cbw_do_container_detach(struct cbw_session *session, void *arg)
{
	struct cbw_container_detach *cmd = arg;
	struct cbw_layout layout = {};
	struct cbw_container *c;
	bool cancel = cmd->flags & CBW_DETACH_CANCEL;
	int r;

	if (cmd->flags & ~CBW_DETACH_CANCEL || cmd->reserved ||
	    (cancel && (cmd->binding || cmd->binding_len)))
		return -EINVAL;
	r = get_binding(&layout, cmd->binding, cmd->binding_len);
	if (r)
		return r;
	c = cbw_container_find(cbw_control_devt(cmd->dev));
	if (c) {
		r = cbw_container_announce(c, cancel ? NULL : &layout.binding,
					   cmd->binding_len);
		if (r == -EIO)
			r = -ENODEV;
		cbw_container_put(c);
	} else {
		r = -ENODEV;
	}
	layout_free(&layout, 0);
	return r;
}

int cbw_do_container_info(struct cbw_session *session, void *arg)
{
	struct cbw_container_info *cmd = arg;
	struct cbw_container *c;
	struct cbw_device *dev;
	int r = 0;

	if (cmd->flags & ~CBW_INFO_CHECKPOINT)
		return -EINVAL;
	c = cbw_container_find(cbw_control_devt(cmd->dev));
	if (!c)
		return -ENODEV;
	if (cmd->flags & CBW_INFO_CHECKPOINT)
		r = cbw_container_wait(c, cbw_container_kick(c, true));
	if (r == -EIO)
		r = -ENODEV;
	if (!r) {
		cbw_config_lock();
		dev = cbw_control_device(cmd->dev);
		if (dev && dev->container == c)
			cbw_container_info(c, cmd);
		else
			r = -ENODEV;
		cbw_config_unlock();
	}
	if (!r && cmd->flags & CBW_INFO_CHECKPOINT && cmd->out_flags & CBW_CONTAINER_FAILED)
		r = -EIO;
	cbw_container_put(c);
	return r;
}

int cbw_do_container_grow(struct cbw_session *session, void *arg)
{
	struct cbw_container_grow *cmd = arg;
	struct cbw_layout layout = {};
	struct cbw_container *c;
	struct cbw_device *dev;
	int r;

	if (cmd->flags || cmd->reserved || !cmd->nr_places)
		return -EINVAL;
	r = get_places(&layout, cmd->places, cmd->nr_places);
	if (r)
		return r;
	/* Under the mutex, so that its device stays open. */
	cbw_config_lock();
	dev = cbw_control_device(cmd->dev);
	c = dev ? cbw_container_live(dev) : NULL;
	r = c ? cbw_container_grow(c, cmd, &layout) : -ENODEV;
	cbw_config_unlock();
	layout_free(&layout, 0);
	return r;
}
