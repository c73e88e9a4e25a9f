/* SPDX-License-Identifier: GPL-2.0-or-later */
/* As much of the kernel as chunkmap.c and chunkmap-pool.c need, on the host. */
#ifndef SHIM_H
#define SHIM_H

#include "../shim/kernel.h"

#define cond_resched()	do { } while (0)

extern unsigned long *const shim_map_limit_mib;

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

void *kmalloc(size_t size, gfp_t gfp);
void *kzalloc(size_t size, gfp_t gfp);
void *vzalloc(size_t size);
void kfree(const void *p);
void kvfree(const void *p);

#endif /* SHIM_H */
