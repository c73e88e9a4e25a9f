/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The chunk map of a snapshot: chunk -> where its preserved copy is.
 */
#ifndef DM_CBW_CHUNKMAP_H
#define DM_CBW_CHUNKMAP_H

#include <linux/gfp.h>
#include <linux/spinlock.h>
#include <linux/types.h>

/* An entry: one of these, or 1 + slot of the store. */
#define CBW_SLOT_NONE		0u
#define CBW_SLOT_POISON		U32_MAX

/* Most chunks of one reservation; it does not cross a multiple of this. */
#define CBW_MAP_RUN_MAX		64u

struct cbw_map_dir;
struct cbw_map_spare;

/**
 * struct cbw_map_pool - objects of one size, some of them kept in reserve
 * @spare: the reserve
 * @nr: objects in it
 * @want: as many as it should have
 * @size: bytes of an object
 */
struct cbw_map_pool {
	struct cbw_map_spare *spare;
	unsigned int nr;
	unsigned int want;
	unsigned int size;
};

/**
 * struct cbw_map - the chunk map of one snapshot
 * @top: the directories, NULL where nothing is; each is for CBW_MAP_DIR_CHUNKS
 * @nr_dirs: entries of @top
 * @nr_chunks: chunks of the snapshot
 * @lock: the owner's, guards everything here
 * @bytes: memory in use, with the reserve; written under @lock
 * @dirs: directories
 * @leaves: leaves that have room for all of their chunks
 */
struct cbw_map {
	struct cbw_map_dir **top;
	u64 nr_dirs;
	u64 nr_chunks;
	spinlock_t *lock;
	u64 bytes;
	struct cbw_map_pool dirs;
	struct cbw_map_pool leaves;
};

int cbw_map_init(struct cbw_map *map, u64 nr_chunks, spinlock_t *lock);
void cbw_map_exit(struct cbw_map *map);
u32 cbw_map_get(const struct cbw_map *map, u64 chunk);
unsigned int cbw_map_run(const struct cbw_map *map, u64 chunk, unsigned int max);
int cbw_map_reserve(struct cbw_map *map, u64 chunk, unsigned int nr);
void cbw_map_unreserve(struct cbw_map *map, u64 chunk, unsigned int nr);
void cbw_map_set(struct cbw_map *map, u64 chunk, u32 val);
void cbw_map_clear(struct cbw_map *map, u64 chunk);
u64 cbw_map_bytes(const struct cbw_map *map);
bool cbw_map_low(const struct cbw_map *map);
int cbw_map_refill(struct cbw_map *map, gfp_t gfp);

#endif /* DM_CBW_CHUNKMAP_H */
