// SPDX-License-Identifier: GPL-2.0-or-later
/* the memory of the pipeline's pieces */
#include <errno.h>
#include <sys/mman.h>

#include "xfer-bufs.h"
#include "xfer.h"

#define PAGE	4096u
#define HUGE	(2u << 20)

int bufs_make(struct bufs *b, size_t size, bool extra)
{
	size_t all = extra ? 2 * size : size;

	*b = (struct bufs){ .size = size, .extra = extra, .mapped = all + HUGE };
	b->map = mmap(NULL, b->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->map == MAP_FAILED)
		return -ENOMEM;
	b->base = b->map + (HUGE - (uintptr_t)b->map % HUGE) % HUGE;
	if (all >= HUGE)
		(void)madvise(b->base, all, MADV_HUGEPAGE);
	return 0;
}

void bufs_free(struct bufs *b)
{
	munmap(b->map, b->mapped);
}

/* Where a piece of @length begins: not so that it would lie across the ring's end. */
static uint64_t begin(const struct bufs *b, uint32_t length)
{
	size_t at = b->tail % b->size;

	/* nothing is taken: the same memory again, and a piece as large as the ring has room */
	if (b->tail == b->head)
		return b->tail + (at ? b->size - at : 0);
	return at + length > b->size ? b->tail + (b->size - at) : b->tail;
}

static uint32_t whole(uint32_t length)
{
	return (length + PAGE - 1) / PAGE * PAGE;
}

bool bufs_room(const struct bufs *b, uint32_t length)
{
	length = whole(length);
	if (b->tail == b->head)
		return length <= b->size;
	return begin(b, length) + length - b->head <= b->size;
}

uint64_t bufs_take(struct bufs *b, uint32_t length, struct xfer_bufs *out)
{
	bool empty;
	size_t at;

	length = whole(length);
	empty = b->tail == b->head;
	b->tail = begin(b, length);
	if (empty)
		b->head = b->tail;
	at = b->tail % b->size;
	b->tail += length;
	out->data = b->base + at;
	out->extra = b->extra ? b->base + b->size + at : NULL;
	return b->tail;
}

void bufs_give(struct bufs *b, uint64_t mark)
{
	if (mark > b->head)
		b->head = mark;
}
