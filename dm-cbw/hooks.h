/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Delay hooks and mutations, for the tests.  Nothing of it is in a normal build.
 *
 * A hook is a place where a test can stop a write, a copy or a publication in
 * order to force an interleaving.  A mutation takes the cure of one hazard of
 * the design out (module parameter `uncured`), so that a test can be shown to
 * notice.
 */
#ifndef DM_CBW_HOOKS_H
#define DM_CBW_HOOKS_H

#include <linux/types.h>
#include <linux/workqueue.h>

enum cbw_hook {
	CBW_HOOK_MAP_EPOCH,	/* spins */
	CBW_HOOK_MAP_DISCARD,	/* spins */
	CBW_HOOK_MAP_MARKED,	/* sleeps */
	CBW_HOOK_GATE_SEEN,	/* sleeps */
	CBW_HOOK_GATE_SHUT,	/* spins */
	CBW_HOOK_END_IO,	/* deferred */
	CBW_HOOK_COPY_READ,	/* deferred */
	CBW_HOOK_STORE_WRITE,	/* sleeps */
	CBW_HOOK_STORE_NEXT,	/* sleeps; no sector */
	CBW_HOOK_SNAP_ORIGIN,	/* sleeps */
	CBW_HOOK_SNAP_STORE,	/* sleeps */
	CBW_HOOK_ABORT_WORK,	/* sleeps */
	CBW_HOOK_TXN_END,	/* sleeps; no sector */
	CBW_HOOK_DISCARD_WORK,	/* sleeps; no sector */
	CBW_HOOK_ABORT_MERGE,	/* sleeps; no sector */
	CBW_HOOK_MERGE,		/* sleeps; no sector */
	CBW_HOOK_MERGE_REST,	/* sleeps; no sector */
	CBW_HOOK_INTENT_SEEN,	/* spins */
	CBW_HOOK_INTENT_WORK,	/* sleeps; no sector */
	CBW_HOOK_INTENT_WRITE,	/* sleeps; no sector */
	CBW_HOOK_INTENT_DONE,	/* sleeps; no sector */
	CBW_HOOK_CP_BEGIN,	/* sleeps; no sector */
	CBW_HOOK_CP_FLIP,	/* sleeps; no sector */
	CBW_HOOK_FAIL_TOLD,	/* sleeps; no sector */
	CBW_HOOK_CP_TAKEN,	/* sleeps; no sector */
	CBW_HOOK_CP_PAGES,	/* sleeps; no sector */
	CBW_HOOK_CP_STATE,	/* sleeps; no sector */
	CBW_HOOK_CP_RETIRE,	/* sleeps; no sector */
	CBW_NR_HOOKS
};

#ifdef CONFIG_DM_CBW_DEBUG

extern unsigned int cbw_uncured;

#define cbw_cured(hazard)	(READ_ONCE(cbw_uncured) != (hazard))

void cbw_hook_sleep(enum cbw_hook hook, sector_t sector, sector_t nr);
void cbw_hook_spin(enum cbw_hook hook, sector_t sector, sector_t nr);
bool cbw_hook_defer(enum cbw_hook hook, sector_t sector, sector_t nr,
		    void (*fn)(void *data), void *data);
int cbw_hooks_init(void);
void cbw_hooks_exit(void);

#define cbw_hook_reset(flag)	((flag) = false)

#else

#define cbw_hook_reset(flag)	do { } while (0)

#define cbw_cured(hazard)	true

static inline void cbw_hook_sleep(enum cbw_hook hook, sector_t sector, sector_t nr)
{
}

static inline void cbw_hook_spin(enum cbw_hook hook, sector_t sector, sector_t nr)
{
}

static inline bool cbw_hook_defer(enum cbw_hook hook, sector_t sector,
				  sector_t nr, void (*fn)(void *data), void *data)
{
	return false;
}

static inline int cbw_hooks_init(void)
{
	return 0;
}

static inline void cbw_hooks_exit(void)
{
}

#endif /* CONFIG_DM_CBW_DEBUG */

#endif /* DM_CBW_HOOKS_H */
