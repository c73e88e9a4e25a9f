// SPDX-License-Identifier: GPL-2.0-only
/*
 * dm-cbw: copy-before-write snapshots and named dirty bitmaps.
 *
 * To follow a write begin with cbw_map() in map.c; to follow a configuration
 * change, with cbw_txn_begin() in txn.c.  Documentation/design.rst has the
 * reasons.
 */
#include "cbw.h"

#include <linux/module.h>

struct workqueue_struct *cbw_wq;
struct workqueue_struct *cbw_store_wq;
struct workqueue_struct *cbw_wait_wq;
struct workqueue_struct *cbw_discard_wq;
struct workqueue_struct *cbw_merge_wq;
struct workqueue_struct *cbw_freeze_wq;
struct workqueue_struct *cbw_container_wq;
struct workqueue_struct *cbw_intent_wq;
struct workqueue_struct *cbw_container_io_wq;

static void workqueues_destroy(void)
{
	if (cbw_freeze_wq)
		destroy_workqueue(cbw_freeze_wq);
	if (cbw_merge_wq)
		destroy_workqueue(cbw_merge_wq);
	/* These queue works on cbw_wq. */
	if (cbw_container_wq)
		destroy_workqueue(cbw_container_wq);
	if (cbw_intent_wq)
		destroy_workqueue(cbw_intent_wq);
	if (cbw_container_io_wq)
		destroy_workqueue(cbw_container_io_wq);
	if (cbw_discard_wq)
		destroy_workqueue(cbw_discard_wq);
	if (cbw_wait_wq)
		destroy_workqueue(cbw_wait_wq);
	if (cbw_store_wq)
		destroy_workqueue(cbw_store_wq);
	if (cbw_wq)
		destroy_workqueue(cbw_wq);
}

static int __init dm_cbw_init(void)
{
	int r;

	/* Each has a rescuer of its own: none waits for another's memory. */
	cbw_wq = alloc_workqueue("cbw", WQ_UNBOUND | WQ_MEM_RECLAIM | WQ_HIGHPRI, 0);
	cbw_store_wq = alloc_workqueue("cbw-store", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	cbw_wait_wq = alloc_workqueue("cbw-wait", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	cbw_merge_wq = alloc_workqueue("cbw-merge", WQ_UNBOUND | WQ_MEM_RECLAIM,
				       WQ_MAX_ACTIVE);
	cbw_freeze_wq = alloc_workqueue("cbw-freeze", WQ_UNBOUND, WQ_MAX_ACTIVE);
	cbw_discard_wq = alloc_workqueue("cbw-discard", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	cbw_container_wq = alloc_workqueue("cbw-container", WQ_UNBOUND | WQ_MEM_RECLAIM,
					   WQ_MAX_ACTIVE);
	cbw_intent_wq = alloc_workqueue("cbw-intent", WQ_UNBOUND | WQ_MEM_RECLAIM | WQ_HIGHPRI,
					WQ_MAX_ACTIVE);
	cbw_container_io_wq = alloc_workqueue("cbw-container-io", WQ_UNBOUND | WQ_MEM_RECLAIM |
					      WQ_HIGHPRI, WQ_MAX_ACTIVE);
	if (!cbw_wq || !cbw_store_wq || !cbw_wait_wq || !cbw_merge_wq || !cbw_freeze_wq ||
	    !cbw_discard_wq || !cbw_container_wq || !cbw_intent_wq || !cbw_container_io_wq) {
		r = -ENOMEM;
		goto destroy;
	}
	r = cbw_hooks_init();
	if (r)
		goto destroy;
	r = dm_register_target(&cbw_target_type);
	if (r)
		goto hooks;
	r = dm_register_target(&cbw_snap_target_type);
	if (r)
		goto unregister;
	r = cbw_container_init();
	if (r)
		goto unregister_snap;
	r = cbw_control_init();
	if (r)
		goto container;
	return 0;

container:
	cbw_container_exit();
unregister_snap:
	dm_unregister_target(&cbw_snap_target_type);
unregister:
	dm_unregister_target(&cbw_target_type);
hooks:
	cbw_hooks_exit();
destroy:
	workqueues_destroy();
	return r;
}

static void __exit dm_cbw_exit(void)
{
	cbw_control_exit();
	cbw_container_exit();
	dm_unregister_target(&cbw_snap_target_type);
	dm_unregister_target(&cbw_target_type);
	cbw_hooks_exit();
	workqueues_destroy();
	rcu_barrier();
}

module_init(dm_cbw_init);
module_exit(dm_cbw_exit);

MODULE_DESCRIPTION(DM_NAME " copy-before-write snapshots and named dirty bitmaps");
MODULE_AUTHOR("The dm-cbw authors");
MODULE_LICENSE("GPL");
