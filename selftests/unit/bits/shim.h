/* SPDX-License-Identifier: GPL-2.0-or-later */
/* As much of the kernel as bits.c and bits-alloc.c need, on the host. */
#ifndef SHIM_H
#define SHIM_H

#include "../shim/kernel.h"

typedef u64 sector_t;

struct list_head {
	struct list_head *next, *prev;
};

static inline void INIT_LIST_HEAD(struct list_head *list)
{
	list->next = list->prev = list;
}

#define SECTOR_SHIFT	9
#define SZ_1M		0x00100000
#define BITS_PER_LONG	64
#define DIV_ROUND_UP_ULL(n, d)	(((u64)(n) + (d) - 1) / (d))
#define BITMAP_FIRST_WORD_MASK(first)	(~0ul << ((first) % BITS_PER_LONG))
#define BITMAP_LAST_WORD_MASK(nr)	(~0ul >> (-(nr) % BITS_PER_LONG))
#define data_race(x)	(x)

static inline unsigned int hweight_long(unsigned long w)
{
	return hweight64(w);
}

/* The first bit from @first on that is @set, or @nr. */
static inline unsigned long shim_find(const unsigned long *words, unsigned long nr,
				      unsigned long first, bool set)
{
	unsigned long same = set ? 0 : ~0ul;

	while (first < nr) {
		unsigned long word = READ_ONCE(words[first / BITS_PER_LONG]);

		if (word == same)
			first = (first / BITS_PER_LONG + 1) * BITS_PER_LONG;
		else if ((word >> first % BITS_PER_LONG & 1) == set)
			return first;
		else
			first++;
	}
	return nr;
}
#define find_next_bit(words, nr, first)		shim_find(words, nr, first, true)
#define find_next_zero_bit(words, nr, first)	shim_find(words, nr, first, false)

/* ---- atomic ---------------------------------------------------------------- */

typedef struct {
	int val;
} atomic_t;

typedef struct {
	s64 val;
} atomic64_t;

typedef struct {
	long val;
} atomic_long_t;

typedef struct {
	int val;
} refcount_t;

static inline int atomic_read_acquire(const atomic_t *v)
{
	return __atomic_load_n(&v->val, __ATOMIC_ACQUIRE);
}

/* Another CPU changes the word right before this one does; NULL: none does. */
extern void (*shim_meet)(unsigned long *word);

static inline void atomic_long_or(long mask, atomic_long_t *v)
{
	if (shim_meet)
		shim_meet((unsigned long *)&v->val);
	__atomic_fetch_or(&v->val, mask, __ATOMIC_RELAXED);
}

static inline void atomic_long_set(atomic_long_t *v, long n)
{
	__atomic_store_n(&v->val, n, __ATOMIC_RELAXED);
}

static inline void atomic_long_andnot(long mask, atomic_long_t *v)
{
	if (shim_meet)
		shim_meet((unsigned long *)&v->val);
	__atomic_fetch_and(&v->val, ~mask, __ATOMIC_RELAXED);
}

static inline long atomic_long_fetch_or(long mask, atomic_long_t *v)
{
	if (shim_meet)
		shim_meet((unsigned long *)&v->val);
	return __atomic_fetch_or(&v->val, mask, __ATOMIC_SEQ_CST);
}

static inline bool test_bit(unsigned long nr, const unsigned long *words)
{
	return READ_ONCE(words[nr / BITS_PER_LONG]) >> nr % BITS_PER_LONG & 1;
}

static inline void set_bit(unsigned long nr, unsigned long *words)
{
	__atomic_fetch_or(&words[nr / BITS_PER_LONG], 1ul << nr % BITS_PER_LONG, __ATOMIC_RELAXED);
}

static inline void clear_bit(unsigned long nr, unsigned long *words)
{
	__atomic_fetch_and(&words[nr / BITS_PER_LONG], ~(1ul << nr % BITS_PER_LONG), __ATOMIC_RELAXED);
}

#define smp_mb__after_atomic()	smp_mb()
#define smp_mb()		__atomic_thread_fence(__ATOMIC_SEQ_CST)
#define smp_store_release(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)

/* Such counters are what all bitmaps take; the tests look at the sum. */
extern s64 shim_accounted;

static inline s64 atomic64_add_return(s64 n, atomic64_t *v)
{
	shim_accounted += n;
	return __atomic_add_fetch(&v->val, n, __ATOMIC_SEQ_CST);
}

static inline s64 atomic64_read(const atomic64_t *v)
{
	return __atomic_load_n(&v->val, __ATOMIC_RELAXED);
}

static inline void atomic64_sub(s64 n, atomic64_t *v)
{
	(void)atomic64_add_return(-n, v);
}

static inline void refcount_set(refcount_t *ref, int n)
{
	ref->val = n;
}

static inline void refcount_inc(refcount_t *ref)
{
	ref->val++;
}

static inline bool refcount_dec_and_test(refcount_t *ref)
{
	return !--ref->val;
}

/* ---- shim.c ------------------------------------------------------------------- */

extern unsigned long *const shim_bitmap_limit_mib;
extern unsigned long shim_pages;	/* RAM */
extern u64 shim_words;			/* bytes in use for words */
extern u64 shim_structs;		/* other bytes in use */
extern unsigned int shim_calls;		/* allocations so far */
extern unsigned int shim_fail_at;	/* this call of them fails; 0: none */
extern unsigned int shim_warnings;
extern bool shim_atomic;		/* nothing may sleep now */
extern u64 shim_rescheds;

/* Everything as a test begins with it. */
void shim_reset(void);
/* Ends the test. The tests have one, the fuzzer has another. */
__attribute__((format(printf, 1, 2), noreturn)) void shim_fail(const char *fmt, ...);

static inline unsigned long totalram_pages(void)
{
	return shim_pages;
}

void *kzalloc(size_t size, gfp_t gfp);
void *kvzalloc(size_t size, gfp_t gfp);
void *__vmalloc(size_t size, gfp_t gfp);
void kfree(const void *p);
void kvfree(const void *p);
void cond_resched(void);
__attribute__((format(printf, 1, 2))) void shim_warn(const char *fmt, ...);
#define DMWARN_LIMIT(...)	shim_warn(DM_MSG_PREFIX ": " __VA_ARGS__)

#endif /* SHIM_H */
