// SPDX-License-Identifier: GPL-2.0-only
/*
 * A container has failed, and may not even take a note of that: leave one elsewhere.
 *
 * A program of user space is started, `<helper> container-failed <id> <generation>', which
 * writes it to the system's own disk (the tool does: /var/lib/cbw/failed).  Who attaches the
 * container after a crash does not trust that generation then.  Nobody waits for it: it may
 * need what is tracked here.
 */
#include "container.h"

#include <linux/kmod.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/umh.h>

static char failed_helper[256] = "/usr/sbin/cbw";
module_param_string(failed_helper, failed_helper, sizeof(failed_helper), 0644);
MODULE_PARM_DESC(failed_helper,
		 "Program that notes that a container has failed (default /usr/sbin/cbw, empty: none)");

/**
 * struct tell - a note to be left
 * @work: does it
 * @id: of the container, as text
 * @generation: the same
 */
struct tell {
	struct work_struct work;
	char id[33];
	char generation[24];
};

static void tell_work(struct work_struct *work)
{
	struct tell *tell = container_of(work, struct tell, work);
	char path[sizeof(failed_helper)];
	char *argv[5] = {}, *envp[3] = {};
	int r = 0;

	argv[0] = path;
	argv[1] = "container-failed";
	argv[2] = tell->id;
	argv[3] = tell->generation;
	envp[0] = "HOME=/";
	envp[1] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

	kernel_param_lock(THIS_MODULE);
	strscpy(path, failed_helper, sizeof(path));
	kernel_param_unlock(THIS_MODULE);
	/* What sysfs was given ends with a newline. */
	strim(path);
	if (*path)
		r = call_usermodehelper(path, argv, envp, UMH_WAIT_EXEC);
	if (r)
		DMWARN("container %s, generation %s, has failed, and %s cannot be started to note it (%d)",
		       tell->id, tell->generation, path, r);
	kfree(tell);
}

/* May sleep. */
void cbw_container_tell(struct cbw_container *c)
{
	struct tell *tell = kzalloc(sizeof(*tell), GFP_KERNEL);

	if (!tell)
		return;
	INIT_WORK(&tell->work, tell_work);
	snprintf(tell->id, sizeof(tell->id), "%*phN", (int)sizeof(c->id), c->id);
	snprintf(tell->generation, sizeof(tell->generation), "%llu", c->generation);
	/* It may wait for this very device: nothing that writes need waits behind it. */
	queue_work(cbw_freeze_wq, &tell->work);
}
