/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What sources of the module need of any kernel header, on the host. */
#ifndef SHIM_KERNEL_H
#define SHIM_KERNEL_H

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long s64;
typedef unsigned int gfp_t;

#define U32_MAX		UINT32_MAX
#define U64_MAX		(~0ull)
#define BIT_ULL(n)	(1ull << (n))
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define PAGE_SHIFT	12
#define PAGE_SIZE	(1ul << PAGE_SHIFT)
#define PAGE_ALIGN(x)	(((x) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1))
#define min(x, y)	((x) < (y) ? (x) : (y))
#define min_t(t, x, y)	min((t)(x), (t)(y))
#define max(x, y)	((x) > (y) ? (x) : (y))
#define READ_ONCE(x)	(*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v)	(*(volatile __typeof__(x) *)&(x) = (v))
#undef static_assert
#define __force
#define cpu_to_le64(x)	htole64(x)
#define static_assert(x)	_Static_assert(x, #x)

/* A parameter can be set by the test, which declares shim_NAME. */
#define module_param(name, type, perm)	unsigned long *const shim_##name = &(name)
#define MODULE_PARM_DESC(name, text)	extern int shim_unused

#define GFP_KERNEL		1u	/* may sleep */
#define GFP_NOWAIT		2u
#define __GFP_NOWARN		4u
#define __GFP_NOMEMALLOC	8u
#define __GFP_ZERO		16u
#define __GFP_RETRY_MAYFAIL	32u
#define __GFP_NORETRY		64u

/* As the kernel does it on a machine that has no instruction for it. */
static inline unsigned int hweight64(u64 w)
{
	w -= (w >> 1) & 0x5555555555555555ull;
	w = (w & 0x3333333333333333ull) + ((w >> 2) & 0x3333333333333333ull);
	w = (w + (w >> 4)) & 0x0f0f0f0f0f0f0f0full;
	return (w * 0x0101010101010101ull) >> 56;
}

#endif /* SHIM_KERNEL_H */
