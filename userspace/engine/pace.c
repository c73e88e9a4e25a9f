// SPDX-License-Identifier: GPL-2.0-or-later
/* how long requests should be */
#include "pace.h"

/* A figure is taken over so much, and at least so long. */
#define WINDOW_BYTES	(48u << 20)
#define WINDOW_NS	50000000ull
/* What is less is chance. */
#define BETTER		1.04
/* Windows until another size is tried again, since things change. */
#define HOLD		40

void pace_begin(struct pace *p, uint32_t min, uint32_t max)
{
	*p = (struct pace){ .size = max / 2 < min ? min : max / 2, .min = min, .max = max };
}

uint32_t pace_size(const struct pace *p)
{
	return p->size;
}

static uint32_t other(struct pace *p)
{
	if (p->min == p->max)
		return p->size;
	if (p->shorter ? p->size == p->min : p->size == p->max)
		p->shorter = !p->shorter;
	return p->shorter ? p->size / 2 : p->size * 2;
}

static void window(struct pace *p, double rate)
{
	uint32_t back = p->was;

	if (p->hold) {
		p->hold--;
		p->rate = rate;
		return;
	}
	if (back && rate < p->rate * BETTER) {
		/* not worth it: back, and the other way the next time */
		p->size = back;
		p->was = 0;
		p->shorter = !p->shorter;
		p->hold = HOLD;
		return;
	}
	p->was = p->size;
	p->rate = rate;
	p->size = other(p);
}

void pace_moved(struct pace *p, uint64_t bytes, uint64_t now)
{
	if (!p->since)
		p->since = now;
	p->bytes += bytes;
	if (p->bytes < WINDOW_BYTES || now - p->since < WINDOW_NS)
		return;
	window(p, (double)p->bytes / (double)(now - p->since));
	p->bytes = 0;
	p->since = now;
}
