// SPDX-License-Identifier: GPL-2.0-only
/*
 * Containers when the machine goes down in order.
 */
#include "container.h"

#include <linux/reboot.h>

/* A volume that is in use to the end is never suspended: what is recorded by now is exact. */
static int container_reboot(struct notifier_block *nb, unsigned long event, void *data)
{
	struct cbw_device *dev;
	struct cbw_container *c;
	dev_t devt = 0;
	u64 asked;

	do {
		c = NULL;
		cbw_config_lock();
		for (dev = cbw_device_next(NULL); dev; dev = cbw_device_next(dev)) {
			if (dev->devt <= devt || !dev->container || !dev->container->ready)
				continue;
			if (!c || dev->devt < c->dev->devt)
				c = dev->container;
		}
		if (c) {
			devt = c->dev->devt;
			cbw_container_get(c);
		}
		cbw_config_unlock();
		if (c) {
			asked = cbw_container_kick(c, true);
			wait_event_timeout(c->waitq, cbw_container_done(c, asked),
					   msecs_to_jiffies(c->timeout_ms));
			cbw_container_put(c);
		}
	} while (c);
	return NOTIFY_DONE;
}

static struct notifier_block container_reboot_nb = {
	.notifier_call = container_reboot,
};

int cbw_container_init(void)
{
	return register_reboot_notifier(&container_reboot_nb);
}

void cbw_container_exit(void)
{
	unregister_reboot_notifier(&container_reboot_nb);
}
