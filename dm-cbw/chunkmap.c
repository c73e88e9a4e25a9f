// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where the chunks of a snapshot are: chunk -> u32 (none, poison or 1 + slot).
 *
 * An array of directories, each a page of cells that comes with its first entry and
 * goes with its last; a cell has a leaf, the entries of LEAF_CHUNKS chunks. A leaf
 * is one of
 *
 *   packed	a mask of the chunks that have an entry, and the entries in the order
 *		of their chunks, so that an entry is found by the number of bits below
 *		its chunk's.  Its size is always one that kmalloc() has.
 *   direct	an array of all entries, once packing would save little.  It never
 *		has to grow, which is why the reserve is made of such leaves.
 *
 * An entry is reserved before it is set: what a copy will need is there before its read
 * begins. Its memory: chunkmap-pool.c.
 */
#include "chunkmap-pool.h"

#include <linux/bitops.h>
#include <linux/bug.h>
#include <linux/build_bug.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/lockdep.h>
#include <linux/log2.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#define LEAF_SHIFT	8
#define LEAF_CHUNKS	(1u << LEAF_SHIFT)
#define DIR_SHIFT	8
#define DIR_CELLS	(1u << DIR_SHIFT)

/* The reserve: that many writes to places far apart go on without memory. */
#define SPARE_DIRS	4u
#define SPARE_LEAVES	12u

static unsigned long map_limit_mib = 1024;
module_param(map_limit_mib, ulong, 0644);
MODULE_PARM_DESC(map_limit_mib,
		 "Most memory for the chunk map of one snapshot, in MiB (default 1024)");

/**
 * struct map_packed - a packed leaf
 * @mask: chunks that have an entry
 * @below: byte i: bits in the words of @mask below word i; packed leaves have less than 256
 * @slot: their entries, room for cell->cap
 */
struct map_packed {
	u64 mask[LEAF_CHUNKS / 64];
	u32 below;
	u32 slot[];
};

/**
 * struct map_cell - a leaf and what is known of it
 * @leaf: struct map_packed or, with @cap LEAF_CHUNKS, u32[LEAF_CHUNKS]; NULL: none
 * @nr: entries
 * @reserved: entries that may be set without memory
 * @cap: room for entries, at least @nr + @reserved
 * @leaves: in the first cell of a directory: leaves of the directory
 */
struct map_cell {
	void *leaf;
	u16 nr;
	u16 reserved;
	u16 cap;
	u16 leaves;
};

struct cbw_map_dir {
	struct map_cell cell[DIR_CELLS];
};

/* With what comes before: 64, 96, 128, 192, 256, 512 and, a direct leaf, 1024 bytes. */
static const u16 leaf_caps[] = { 7, 15, 23, 39, 55, 119, LEAF_CHUNKS };

static unsigned int leaf_cap(unsigned int nr)
{
	const u16 *cap = leaf_caps;

	while (*cap < nr && *cap < LEAF_CHUNKS)
		cap++;
	return *cap;
}

static unsigned int leaf_bytes(unsigned int cap)
{
	static_assert(offsetof(struct map_packed, slot) == 36);
	static_assert(sizeof(struct cbw_map_dir) == 4096);

	if (cap == LEAF_CHUNKS)
		return LEAF_CHUNKS * sizeof(u32);
	return offsetof(struct map_packed, slot) + cap * sizeof(u32);
}

static bool cell_direct(const struct map_cell *cell)
{
	return cell->cap == LEAF_CHUNKS;
}

static unsigned int cell_load(const struct map_cell *cell)
{
	return cell->nr + cell->reserved;
}

static struct cbw_map_dir **map_dirp(const struct cbw_map *map, u64 chunk)
{
	return &map->top[chunk >> (LEAF_SHIFT + DIR_SHIFT)];
}

static struct map_cell *dir_cell(struct cbw_map_dir *dir, u64 chunk)
{
	return &dir->cell[chunk >> LEAF_SHIFT & (DIR_CELLS - 1)];
}

/* The chunk's cell if it has a leaf. */
static struct map_cell *map_cell(const struct cbw_map *map, u64 chunk)
{
	struct cbw_map_dir *dir = *map_dirp(map, chunk);
	struct map_cell *cell;

	if (!dir)
		return NULL;
	cell = dir_cell(dir, chunk);
	return cell->leaf ? cell : NULL;
}

/* ---- leaves ------------------------------------------------------------------------ */

static void leaf_put(struct cbw_map *map, void *leaf, unsigned int cap)
{
	if (cap == LEAF_CHUNKS) {
		cbw_map_pool_put(map, &map->leaves, leaf);
	} else if (leaf) {
		cbw_map_account(map, -(s64)leaf_bytes(cap));
		kfree(leaf);
	}
}

/* Where in a packed leaf a chunk's entry is, or would be. */
static unsigned int leaf_rank(const struct map_packed *leaf, unsigned int i)
{
	unsigned int word = i / 64;

	return (leaf->below >> (8 * word) & 0xff) +
	       hweight64(leaf->mask[word] & (BIT_ULL(i % 64) - 1));
}

/* What an entry in a word adds to @below: one in each byte above the word's. */
static u32 leaf_above(unsigned int word)
{
	return 0x01010100u << (8 * word);
}

static void leaf_mark(struct map_packed *leaf, unsigned int i)
{
	leaf->mask[i / 64] |= BIT_ULL(i % 64);
	leaf->below += leaf_above(i / 64);
}

static void leaf_unmark(struct map_packed *leaf, unsigned int i)
{
	leaf->mask[i / 64] &= ~BIT_ULL(i % 64);
	leaf->below -= leaf_above(i / 64);
}

static bool leaf_test(const struct map_packed *leaf, unsigned int i)
{
	return leaf->mask[i / 64] >> (i % 64) & 1;
}

/* The first of the chunks i to end - 1 that has (flip: has not) an entry, or end. */
static unsigned int leaf_next(const struct map_packed *leaf, unsigned int i,
			      unsigned int end, u64 flip)
{
	while (i < end) {
		u64 word = (leaf->mask[i / 64] ^ flip) >> (i % 64);

		if (word)
			return min_t(unsigned int, i + __ffs64(word), end);
		i = (i | 63) + 1;
	}
	return end;
}

static void leaf_unpack(u32 *to, const struct map_packed *from)
{
	const u32 *slot = from->slot;
	unsigned int word;

	for (word = 0; word < ARRAY_SIZE(from->mask); word++, to += 64) {
		u64 mask;

		for (mask = from->mask[word]; mask; mask &= mask - 1)
			to[__ffs64(mask)] = *slot++;
	}
}

/* The new leaf has no entry yet. */
static void leaf_pack(struct map_packed *to, const u32 *from)
{
	u32 *slot = to->slot;
	unsigned int i;

	for (i = 0; i < LEAF_CHUNKS; i++) {
		if (from[i] == CBW_SLOT_NONE)
			continue;
		leaf_mark(to, i);
		*slot++ = from[i];
	}
}

/*
 * Give a cell a leaf, or one of another size.  @spare: when there is no memory of
 * that size, a direct one from the reserve will do.
 */
static bool cell_resize(struct cbw_map *map, struct map_cell *cell,
			unsigned int cap, bool spare)
{
	void *leaf = NULL;

	if (cap != LEAF_CHUNKS) {
		leaf = kmalloc(leaf_bytes(cap), CBW_MAP_GFP);
		if (leaf) {
			cbw_map_account(map, leaf_bytes(cap));
			memset(leaf, 0, offsetof(struct map_packed, slot));
		}
	}
	if (!leaf) {
		if (!spare)
			return false;
		cap = LEAF_CHUNKS;
		leaf = cbw_map_pool_get(map, &map->leaves);
		if (!leaf)
			return false;
	}
	if (!cell->leaf)
		; /* nothing to take over */
	else if (cell_direct(cell))
		leaf_pack(leaf, cell->leaf);
	else if (cap == LEAF_CHUNKS)
		leaf_unpack(leaf, cell->leaf);
	else
		memcpy(leaf, cell->leaf, leaf_bytes(cell->nr));
	leaf_put(map, cell->leaf, cell->cap);
	cell->leaf = leaf;
	cell->cap = cap;
	return true;
}

static void dir_put(struct cbw_map *map, u64 chunk)
{
	struct cbw_map_dir **dirp = map_dirp(map, chunk);

	cbw_map_pool_put(map, &map->dirs, *dirp);
	*dirp = NULL;
}

/* Something has gone: the leaf goes, or gets smaller, if it is worth it. */
static void cell_shrink(struct cbw_map *map, u64 chunk, struct map_cell *cell)
{
	unsigned int load = cell_load(cell);

	if (!load) {
		leaf_put(map, cell->leaf, cell->cap);
		cell->leaf = NULL;
		cell->cap = 0;
		if (!--(*map_dirp(map, chunk))->cell->leaves)
			dir_put(map, chunk);
	} else if (load <= (cell_direct(cell) ? LEAF_CHUNKS / 8 : cell->cap / 4) &&
		   leaf_cap(load) < cell->cap) {
		/* As good as it is when there is no memory. */
		cell_resize(map, cell, leaf_cap(load), false);
	}
}

/* ---- entries ----------------------------------------------------------------------- */

/**
 * cbw_map_get - where is a chunk
 * @map: the map
 * @chunk: the chunk
 *
 * Any context, with the lock.  Returns its entry or CBW_SLOT_NONE.
 */
u32 cbw_map_get(const struct cbw_map *map, u64 chunk)
{
	const struct map_cell *cell = map_cell(map, chunk);
	unsigned int i = chunk % LEAF_CHUNKS;
	const struct map_packed *leaf;

	lockdep_assert_held(map->lock);
	if (!cell)
		return CBW_SLOT_NONE;
	if (cell_direct(cell))
		return ((const u32 *)cell->leaf)[i];
	leaf = cell->leaf;
	if (!leaf_test(leaf, i))
		return CBW_SLOT_NONE;
	return leaf->slot[leaf_rank(leaf, i)];
}

/* How many chunks of a leaf from @i on, at most @nr, have @want, @want + @step, ... */
static unsigned int cell_run(const struct map_cell *cell, unsigned int i,
			     unsigned int nr, u32 want, u32 step)
{
	const struct map_packed *leaf;
	const u32 *slot;
	unsigned int k;

	if (!cell)
		return want == CBW_SLOT_NONE ? nr : 0;
	if (cell_direct(cell)) {
		slot = (const u32 *)cell->leaf + i;
	} else {
		leaf = cell->leaf;
		if (want == CBW_SLOT_NONE)
			return leaf_next(leaf, i, i + nr, 0) - i;
		nr = leaf_next(leaf, i, i + nr, U64_MAX) - i;
		slot = leaf->slot + leaf_rank(leaf, i);
	}
	for (k = 0; k < nr && slot[k] == want; k++)
		want += step;
	return k;
}

/**
 * cbw_map_run - how many chunks are alike
 * @map: the map
 * @chunk: the first
 * @max: as many are of interest
 *
 * Any context, with the lock.  Returns how many chunks from @chunk on are in
 * consecutive slots or, when @chunk has no entry or is poison, have none or are
 * poison, too: 1 to @max, within the device.
 */
unsigned int cbw_map_run(const struct cbw_map *map, u64 chunk, unsigned int max)
{
	u32 want = cbw_map_get(map, chunk);
	u32 step = want != CBW_SLOT_NONE && want != CBW_SLOT_POISON;
	unsigned int run = 0, nr, got;

	max = min_t(u64, max, map->nr_chunks - chunk);
	if (step)
		max = min(max, CBW_SLOT_POISON - want);
	while (run < max) {
		unsigned int i = (chunk + run) % LEAF_CHUNKS;

		nr = min(max - run, LEAF_CHUNKS - i);
		got = cell_run(map_cell(map, chunk + run), i, nr,
			       want + run * step, step);
		run += got;
		if (got < nr)
			break;
	}
	return run;
}

/* The cell, with a leaf that has room for @nr entries more. */
static int map_grow(struct cbw_map *map, u64 chunk, unsigned int nr)
{
	u64 limit = min_t(u64, READ_ONCE(map_limit_mib), U64_MAX >> 20) << 20;
	struct cbw_map_dir **dirp = map_dirp(map, chunk);
	struct map_cell *cell = *dirp ? dir_cell(*dirp, chunk) : NULL;
	unsigned int cap = leaf_cap(nr + (cell ? cell_load(cell) : 0));
	unsigned int more = leaf_bytes(cap);

	if (!cell)
		more += map->dirs.size;
	else if (cell->leaf)
		more -= leaf_bytes(cell->cap);
	if (map->bytes + more > limit)
		return -EDQUOT;
	if (!cell) {
		*dirp = cbw_map_pool_get(map, &map->dirs);
		if (!*dirp)
			return -ENOMEM;
		cell = dir_cell(*dirp, chunk);
	}
	if (!cell->leaf)
		(*dirp)->cell->leaves++;
	if (cell_resize(map, cell, cap, true))
		return 0;
	if (!cell->leaf && !--(*dirp)->cell->leaves)
		dir_put(map, chunk);
	return -ENOMEM;
}

/**
 * cbw_map_reserve - make sure that entries can be set
 * @map: the map
 * @chunk: the first of the chunks; none of them has an entry or a reservation
 * @nr: 1 to CBW_MAP_RUN_MAX, and the chunks do not cross a multiple of that
 *
 * Any context, with the lock, interrupts off.  Each cbw_map_set() consumes the
 * reservation of one chunk; cbw_map_unreserve() gives back the others.
 *
 * Returns 0; -EDQUOT: the map has all the memory that it may have; -ENOMEM: neither the
 * allocator nor the reserve has any, nothing has changed, try again after
 * cbw_map_refill().
 */
int cbw_map_reserve(struct cbw_map *map, u64 chunk, unsigned int nr)
{
	struct map_cell *cell = map_cell(map, chunk);
	int ret;

	lockdep_assert_held(map->lock);
	if (!cell || cell_load(cell) + nr > cell->cap) {
		ret = map_grow(map, chunk, nr);
		if (ret)
			return ret;
		cell = map_cell(map, chunk);
	}
	cell->reserved += nr;
	return 0;
}

/**
 * cbw_map_unreserve - give reservations back
 * @map: the map
 * @chunk: first chunk, or another of the same reservation
 * @nr: chunks of it that were not set, may be 0
 *
 * Any context, with the lock, interrupts off.
 */
void cbw_map_unreserve(struct cbw_map *map, u64 chunk, unsigned int nr)
{
	struct map_cell *cell = map_cell(map, chunk);

	lockdep_assert_held(map->lock);
	if (!nr || WARN_ON_ONCE(!cell || cell->reserved < nr))
		return;
	cell->reserved -= nr;
	cell_shrink(map, chunk, cell);
}

/**
 * cbw_map_set - set a reserved entry
 * @map: the map
 * @chunk: the chunk, has no entry yet
 * @val: CBW_SLOT_POISON or 1 + slot
 *
 * Any context, with the lock, interrupts off.
 */
void cbw_map_set(struct cbw_map *map, u64 chunk, u32 val)
{
	struct map_cell *cell = map_cell(map, chunk);
	unsigned int i = chunk % LEAF_CHUNKS, rank;
	struct map_packed *leaf;
	u32 *slot;

	lockdep_assert_held(map->lock);
	if (WARN_ON_ONCE(!cell || !cell->reserved || val == CBW_SLOT_NONE))
		return;
	leaf = cell->leaf;
	if (cell_direct(cell)) {
		slot = (u32 *)cell->leaf + i;
		if (WARN_ON_ONCE(*slot != CBW_SLOT_NONE))
			return;
	} else {
		if (WARN_ON_ONCE(leaf_test(leaf, i)))
			return;
		rank = leaf_rank(leaf, i);
		slot = leaf->slot + rank;
		memmove(slot + 1, slot, (cell->nr - rank) * sizeof(*slot));
		leaf_mark(leaf, i);
	}
	*slot = val;
	cell->reserved--;
	cell->nr++;
}

/**
 * cbw_map_clear - forget a chunk
 * @map: the map
 * @chunk: the chunk, may have no entry
 *
 * Any context, with the lock, interrupts off.
 */
void cbw_map_clear(struct cbw_map *map, u64 chunk)
{
	struct map_cell *cell = map_cell(map, chunk);
	unsigned int i = chunk % LEAF_CHUNKS, rank;
	struct map_packed *leaf;
	u32 *slot;

	lockdep_assert_held(map->lock);
	if (!cell)
		return;
	leaf = cell->leaf;
	if (cell_direct(cell)) {
		slot = (u32 *)cell->leaf + i;
		if (*slot == CBW_SLOT_NONE)
			return;
		*slot = CBW_SLOT_NONE;
	} else {
		if (!leaf_test(leaf, i))
			return;
		rank = leaf_rank(leaf, i);
		slot = leaf->slot + rank;
		memmove(slot, slot + 1, (cell->nr - rank - 1) * sizeof(*slot));
		leaf_unmark(leaf, i);
	}
	cell->nr--;
	cell_shrink(map, chunk, cell);
}

/* ---- the map ----------------------------------------------------------------------- */

/**
 * cbw_map_bytes - memory in use
 * @map: the map
 *
 * Any context, no lock needed.  What the allocator gives for it, the reserve included.
 */
u64 cbw_map_bytes(const struct cbw_map *map)
{
	return READ_ONCE(map->bytes);
}

/**
 * cbw_map_init - make an empty map
 * @map: the map, no matter what is in it
 * @nr_chunks: chunks of the snapshot, not 0
 * @lock: guards the map; initialized
 *
 * May sleep.  Returns 0 or -ENOMEM, and then there is nothing to free.
 */
int cbw_map_init(struct cbw_map *map, u64 nr_chunks, spinlock_t *lock)
{
	u64 nr_leaves = ((nr_chunks - 1) >> LEAF_SHIFT) + 1;
	u64 bytes;

	*map = (struct cbw_map) {
		.nr_dirs = ((nr_leaves - 1) >> DIR_SHIFT) + 1,
		.nr_chunks = nr_chunks,
		.lock = lock,
	};
	map->dirs.size = sizeof(struct cbw_map_dir);
	map->dirs.want = min_t(u64, SPARE_DIRS, map->nr_dirs);
	map->leaves.size = leaf_bytes(LEAF_CHUNKS);
	map->leaves.want = min_t(u64, SPARE_LEAVES, nr_leaves);

	/* Pages, not a power of two of them: of a big device it would be much. */
	bytes = map->nr_dirs * sizeof(*map->top);
	bytes = bytes < PAGE_SIZE ? roundup_pow_of_two(bytes) : PAGE_ALIGN(bytes);
	map->top = bytes < PAGE_SIZE ? kzalloc(bytes, GFP_KERNEL) : vzalloc(bytes);
	if (!map->top)
		return -ENOMEM;
	map->bytes = bytes;
	if (cbw_map_refill(map, GFP_KERNEL)) {
		cbw_map_exit(map);
		return -ENOMEM;
	}
	return 0;
}

/**
 * cbw_map_exit - free all of a map
 * @map: the map, or zeroes; nobody uses it any more
 *
 * May sleep.
 */
void cbw_map_exit(struct cbw_map *map)
{
	unsigned int i;
	u64 k;

	if (!map->top)
		return;
	for (k = 0; k < map->nr_dirs; k++) {
		struct cbw_map_dir *dir = map->top[k];

		if (!dir)
			continue;
		for (i = 0; i < DIR_CELLS; i++)
			kfree(dir->cell[i].leaf);
		kfree(dir);
		cond_resched();
	}
	cbw_map_pool_exit(&map->dirs);
	cbw_map_pool_exit(&map->leaves);
	kvfree(map->top);
	map->top = NULL;
	map->bytes = 0;
}
