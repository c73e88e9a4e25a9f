/* SPDX-License-Identifier: GPL-2.0-or-later */
/* the memory of the pipeline's pieces: they are begun, and end, in one order, so it is a ring */
#ifndef CBW_XFER_BUFS_H
#define CBW_XFER_BUFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct xfer_bufs;

/**
 * struct bufs - a ring of memory
 * @map, @mapped: as the kernel gave it
 * @base: aligned for huge pages; with @extra there are @size bytes more behind the first
 * @size: bytes
 * @head, @tail: bytes given back and taken since the beginning, with those left out at the
 *	ring's end, where a piece has to be in one part
 */
struct bufs {
	char *map, *base;
	size_t mapped, size;
	bool extra;
	uint64_t head, tail;
};

/* @size: a power of two, from 4096 on; 0 or -ENOMEM */
int bufs_make(struct bufs *b, size_t size, bool extra);
void bufs_free(struct bufs *b);
/* Whether bufs_take() of so much can be done now. */
bool bufs_room(const struct bufs *b, uint32_t length);
/* @length: up to @size, rounded up to 4096 bytes; there is room. bufs_give() gets what it returns. */
uint64_t bufs_take(struct bufs *b, uint32_t length, struct xfer_bufs *out);
/* All up to there; what has been given back already is no matter. */
void bufs_give(struct bufs *b, uint64_t mark);

#endif
