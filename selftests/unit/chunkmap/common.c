// SPDX-License-Identifier: GPL-2.0-or-later
#include <malloc.h>

#include "common.h"

spinlock_t shim_lock;
unsigned int shim_warnings;
u64 shim_live, shim_calls, shim_fail_at;
unsigned int shim_fail_percent;
static u64 rnd_state = 1;

void shim_assert(bool ok, const char *what)
{
	if (!ok)
		fail_msg("not so: %s", what);
}

/* kmalloc's sizes, or pages for what is bigger than one. */
static u64 given(const void *p)
{
	static const u16 sizes[] = { 8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096 };
	/* With the address sanitizer this is what was asked for. */
	size_t size = malloc_usable_size((void *)p);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		if (size <= sizes[i])
			return sizes[i];
	return PAGE_ALIGN(size);
}

static void *get(size_t size, int fill)
{
	void *p;

	if (++shim_calls == shim_fail_at || (shim_fail_percent && rnd(100) < shim_fail_percent))
		return NULL;
	p = malloc(size);
	assert_non_null(p);
	memset(p, fill, size);
	shim_live += given(p);
	return p;
}

void *kmalloc(size_t size, gfp_t gfp)
{
	assert_true(size <= 4096);
	assert_true(gfp & GFP_KERNEL ? !shim_lock.held : gfp & GFP_NOWAIT);
	return get(size, 0xa5);
}

void *kzalloc(size_t size, gfp_t gfp)
{
	assert_true(gfp & GFP_KERNEL && !shim_lock.held);
	return get(size, 0);
}

void *vzalloc(size_t size)
{
	assert_false(shim_lock.held);
	return get(PAGE_ALIGN(size), 0);
}

void kfree(const void *p)
{
	if (!p)
		return;
	shim_live -= given(p);
	free((void *)p);
}

void kvfree(const void *p)
{
	assert_false(shim_lock.held);
	kfree(p);
}

void lock(void)
{
	unsigned long flags;

	spin_lock_irqsave(&shim_lock, flags);
}

void unlock(void)
{
	spin_unlock_irqrestore(&shim_lock, 0);
}

int shim_reset(void **state)
{
	(void)state;
	shim_lock.held = false;
	shim_warnings = 0;
	shim_live = shim_calls = shim_fail_at = 0;
	shim_fail_percent = 0;
	*shim_map_limit_mib = 1024;
	return 0;
}

int shim_check(void **state)
{
	(void)state;
	return shim_live || shim_warnings || shim_lock.held ? -1 : 0;
}

/* CBW_SEED=N: the seed of all tests. */
void rnd_seed(const char *test, u64 seed)
{
	const char *env = getenv("CBW_SEED");

	if (env)
		seed = strtoull(env, NULL, 0);
	printf("# %s: CBW_SEED=%llu\n", test, seed);
	rnd_state = seed * 0x9e3779b97f4a7c15ull + 1;
}

u64 rnd(u64 below)
{
	u64 z = rnd_state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (z ^ z >> 31) % below;
}

int put(struct cbw_map *map, u64 chunk, unsigned int nr, u32 val)
{
	unsigned int i;
	int ret;

	lock();
	ret = cbw_map_reserve(map, chunk, nr);
	for (i = 0; !ret && i < nr; i++)
		cbw_map_set(map, chunk + i, val + i);
	unlock();
	return ret;
}
