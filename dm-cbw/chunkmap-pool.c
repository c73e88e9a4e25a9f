// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory of a chunk map.  It comes from the allocator without waiting, then from the
 * reserve, which a worker of the owner refills.
 */
#include "chunkmap-pool.h"

#include <linux/errno.h>
#include <linux/slab.h>
#include <linux/string.h>

/* An object of the reserve; the rest of it is undefined. */
struct cbw_map_spare {
	struct cbw_map_spare *next;
};

static void *pool_pop(struct cbw_map_pool *pool)
{
	struct cbw_map_spare *spare = pool->spare;

	if (spare) {
		pool->spare = spare->next;
		WRITE_ONCE(pool->nr, pool->nr - 1);
	}
	return spare;
}

static bool pool_push(struct cbw_map_pool *pool, void *obj)
{
	struct cbw_map_spare *spare = obj;

	if (pool->nr >= pool->want)
		return false;
	spare->next = pool->spare;
	pool->spare = spare;
	WRITE_ONCE(pool->nr, pool->nr + 1);
	return true;
}

/* Zeroed.  Any context, with the lock, interrupts off; NULL: there is none. */
void *cbw_map_pool_get(struct cbw_map *map, struct cbw_map_pool *pool)
{
	void *obj = kmalloc(pool->size, CBW_MAP_GFP);

	if (obj)
		cbw_map_account(map, pool->size);
	else
		obj = pool_pop(pool);
	return obj ? memset(obj, 0, pool->size) : NULL;
}

/* Any context, with the lock, interrupts off. */
void cbw_map_pool_put(struct cbw_map *map, struct cbw_map_pool *pool, void *obj)
{
	if (pool_push(pool, obj))
		return;
	cbw_map_account(map, -(s64)pool->size);
	kfree(obj);
}

/**
 * cbw_map_low - is the reserve not full?
 * @map: the map
 *
 * Any context, no lock needed.  If so, cbw_map_refill() is due.
 */
bool cbw_map_low(const struct cbw_map *map)
{
	return READ_ONCE(map->dirs.nr) < map->dirs.want ||
	       READ_ONCE(map->leaves.nr) < map->leaves.want;
}

static int pool_refill(struct cbw_map *map, struct cbw_map_pool *pool, gfp_t gfp)
{
	unsigned long flags;
	void *obj;

	while (READ_ONCE(pool->nr) < pool->want) {
		obj = kmalloc(pool->size, gfp);
		if (!obj)
			return -ENOMEM;
		spin_lock_irqsave(map->lock, flags);
		if (pool_push(pool, obj)) {
			cbw_map_account(map, pool->size);
			obj = NULL;
		}
		spin_unlock_irqrestore(map->lock, flags);
		/* Others have freed some meanwhile. */
		kfree(obj);
	}
	return 0;
}

/**
 * cbw_map_refill - fill the reserve
 * @map: the map
 * @gfp: how to allocate
 *
 * Sleeps as @gfp says; without the lock.  Returns 0 or -ENOMEM.
 */
int cbw_map_refill(struct cbw_map *map, gfp_t gfp)
{
	int ret = pool_refill(map, &map->leaves, gfp);

	return ret ?: pool_refill(map, &map->dirs, gfp);
}

/* May sleep; nobody uses it any more. */
void cbw_map_pool_exit(struct cbw_map_pool *pool)
{
	void *obj;

	while ((obj = pool_pop(pool)))
		kfree(obj);
	pool->want = 0;
}
