// SPDX-License-Identifier: GPL-2.0-or-later
#include <limits.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "shim.h"

unsigned long shim_pages;
s64 shim_accounted;
u64 shim_words, shim_structs, shim_rescheds;
unsigned int shim_calls, shim_fail_at, shim_warnings;
bool shim_atomic;
void (*shim_meet)(unsigned long *word);

void shim_reset(void)
{
	shim_pages = 1ul << (40 - PAGE_SHIFT);
	shim_calls = shim_fail_at = shim_warnings = 0;
	shim_rescheds = 0;
	shim_atomic = false;
	shim_meet = NULL;
	*shim_bitmap_limit_mib = 0;
}

static void *get(size_t size, u64 *live)
{
	void *p;

	if (shim_atomic)
		shim_fail("allocates where it must not sleep");
	if (++shim_calls == shim_fail_at)
		return NULL;
	p = calloc(1, size);
	if (!p)
		shim_fail("no memory: %zu bytes", size);
	/* With the address sanitizer this is what was asked for. */
	*live += malloc_usable_size(p);
	return p;
}

static void drop(const void *p, u64 *live)
{
	if (shim_atomic)
		shim_fail("frees where it must not sleep");
	if (p)
		*live -= malloc_usable_size((void *)p);
	free((void *)p);
}

void *kzalloc(size_t size, gfp_t gfp)
{
	if ((gfp & ~(__GFP_NOWARN | __GFP_NORETRY)) != GFP_KERNEL)
		shim_fail("kzalloc: flags %u", gfp);
	return get(size, &shim_structs);
}

void *kvzalloc(size_t size, gfp_t gfp)
{
	/* The kernel's gives no more. */
	if (size > INT_MAX) {
		if (!(gfp & __GFP_NOWARN))
			shim_fail("kvzalloc: %zu bytes, and a warning", size);
		return NULL;
	}
	return get(size, &shim_words);
}

/* More than this host shall give is more than there is. */
void *__vmalloc(size_t size, gfp_t gfp)
{
	if (!(gfp & __GFP_ZERO) || !(gfp & __GFP_NOWARN))
		shim_fail("__vmalloc: flags %u", gfp);
	return size > 4ul << 30 ? NULL : get(size, &shim_words);
}

void kfree(const void *p)
{
	drop(p, &shim_structs);
}

void kvfree(const void *p)
{
	drop(p, &shim_words);
}

void cond_resched(void)
{
	if (shim_atomic)
		shim_fail("cond_resched() where it must not sleep");
	shim_rescheds++;
}

void shim_warn(const char *fmt, ...)
{
	(void)fmt;
	shim_warnings++;
}
