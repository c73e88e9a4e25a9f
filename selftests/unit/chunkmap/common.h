/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CHUNKMAP_COMMON_H
#define CHUNKMAP_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shim.h"
#include "chunkmap.h"

/* The allocator: bytes as the kernel's would give them, and when it fails. */
extern u64 shim_live;			/* bytes in use */
extern u64 shim_calls;			/* allocations so far */
extern u64 shim_fail_at;		/* this call of them fails; 0: none */
extern unsigned int shim_fail_percent;	/* so many fail, at random */

void lock(void);
void unlock(void);
/* The state of a test: nothing allocated, nothing fails, the lock is free. */
int shim_reset(void **state);
int shim_check(void **state);

void rnd_seed(const char *test, u64 seed);
u64 rnd(u64 below);

/* Reserve and set; @val counts up. Returns what the reservation returned. */
int put(struct cbw_map *map, u64 chunk, unsigned int nr, u32 val);

#endif
