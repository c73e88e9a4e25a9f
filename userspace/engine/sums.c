// SPDX-License-Identifier: GPL-2.0-or-later
/* checksums of what an image itself has */
#include "cbw.h"
#include "crc.h"
#include "sums.h"

void sums_init(struct sums *s, uint64_t size)
{
	*s = (struct sums){ .nr = size / SUMS_RANGE + !!(size % SUMS_RANGE) };
	s->crc = xcalloc(s->nr ? s->nr : 1, sizeof(*s->crc));
}

void sums_free(struct sums *s)
{
	free(s->crc);
	*s = (struct sums){ 0 };
}

void sums_add(struct sums *s, uint64_t offset, uint32_t crc, uint64_t bytes)
{
	uint32_t *range = &s->crc[offset / SUMS_RANGE];

	*range = crc32c_combine(*range, crc, bytes);
	s->total = crc32c_combine(s->total, crc, bytes);
}
