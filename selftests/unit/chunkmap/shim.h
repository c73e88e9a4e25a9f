/* SPDX-License-Identifier: GPL-2.0-or-later */
/* As much of the kernel as chunkmap.c needs, on the host. */
#ifndef SHIM_H
#define SHIM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long s64;
typedef unsigned int gfp_t;

#define U32_MAX		UINT32_MAX
#define U64_MAX		(~0ull)
#define BIT_ULL(n)	(1ull << (n))
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define PAGE_SIZE	4096ul
#define PAGE_ALIGN(x)	(((x) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1))
#define min(x, y)	((x) < (y) ? (x) : (y))
#define min_t(t, x, y)	min((t)(x), (t)(y))
#define READ_ONCE(x)	(*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v)	(*(volatile __typeof__(x) *)&(x) = (v))
#define cond_resched()	do { } while (0)
#undef static_assert
#define static_assert(x)	_Static_assert(x, #x)

/* A parameter can be set by the test. */
#define module_param(name, type, perm)	unsigned long *const shim_##name = &(name)
#define MODULE_PARM_DESC(name, text)	extern int shim_unused
extern unsigned long *const shim_map_limit_mib;

/* As the kernel does it on a machine that has no instruction for it. */
static inline unsigned int hweight64(u64 w)
{
	w -= (w >> 1) & 0x5555555555555555ull;
	w = (w & 0x3333333333333333ull) + ((w >> 2) & 0x3333333333333333ull);
	w = (w + (w >> 4)) & 0x0f0f0f0f0f0f0f0full;
	return (w * 0x0101010101010101ull) >> 56;
}

static inline unsigned int __ffs64(u64 w)
{
	return __builtin_ctzll(w);
}

static inline u64 roundup_pow_of_two(u64 n)
{
	return n < 2 ? 1 : 1ull << (64 - __builtin_clzll(n - 1));
}

/* What should not be is counted: a test looks at shim_warnings. */
extern unsigned int shim_warnings;
#define WARN_ON_ONCE(x)	({ bool shim_x = (x); shim_warnings += shim_x; shim_x; })

typedef struct {
	bool held;
} spinlock_t;

/* The one lock: nothing may sleep while it is held. */
extern spinlock_t shim_lock;
void shim_assert(bool ok, const char *what);
#define lockdep_assert_held(l)	shim_assert((l)->held, "lock held")

static inline void spin_lock_irqsave(spinlock_t *l, unsigned long flags)
{
	(void)flags;
	shim_assert(!l->held, "lock not held twice");
	l->held = true;
}
#define spin_lock_irqsave(l, flags)	spin_lock_irqsave(l, flags = 0)

static inline void spin_unlock_irqrestore(spinlock_t *l, unsigned long flags)
{
	(void)flags;
	shim_assert(l->held, "lock held");
	l->held = false;
}

#define GFP_KERNEL		1u	/* may sleep */
#define GFP_NOWAIT		2u
#define __GFP_NOWARN		4u
#define __GFP_NOMEMALLOC	8u

void *kmalloc(size_t size, gfp_t gfp);
void *kzalloc(size_t size, gfp_t gfp);
void *vzalloc(size_t size);
void kfree(const void *p);
void kvfree(const void *p);

#endif /* SHIM_H */
