/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The memory of a chunk map, for chunkmap.c.
 */
#ifndef DM_CBW_CHUNKMAP_POOL_H
#define DM_CBW_CHUNKMAP_POOL_H

#include "chunkmap.h"

#include <linux/compiler.h>

/* Not the memory that is for those who free memory: the reserve will do. */
#define CBW_MAP_GFP		(GFP_NOWAIT | __GFP_NOWARN | __GFP_NOMEMALLOC)

void *cbw_map_pool_get(struct cbw_map *map, struct cbw_map_pool *pool);
void cbw_map_pool_put(struct cbw_map *map, struct cbw_map_pool *pool, void *obj);
void cbw_map_pool_exit(struct cbw_map_pool *pool);

static inline void cbw_map_account(struct cbw_map *map, s64 bytes)
{
	/* Read without the lock. */
	WRITE_ONCE(map->bytes, map->bytes + bytes);
}

#endif /* DM_CBW_CHUNKMAP_POOL_H */
