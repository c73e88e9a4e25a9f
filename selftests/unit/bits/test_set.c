// SPDX-License-Identifier: GPL-2.0-or-later
/* marking, and what the words are then; Documentation/qemu-tests.rst says after which tests */
#include "common.h"

#define W	64u		/* granules of a word */
#define P	4096u		/* of 64 words */

static struct twin t;

struct range {
	sector_t sector;
	sector_t nr;
};

/* Mark them one after another, with a look at everything after each. */
static void mark_all(sector_t len, unsigned int shift, const struct range *r, unsigned int nr)
{
	twin_alloc(&t, len, shift, 0);
	while (nr--) {
		twin_mark(&t, r->sector, r->nr);
		twin_check(&t);
		r++;
	}
}
#define MARK(len, shift, ...) do {						\
	static const struct range ranges[] = { __VA_ARGS__ };			\
										\
	mark_all(len, shift, ranges, ARRAY_SIZE(ranges));			\
	twin_free(&t);								\
} while (0)

static void size_one(void **state)
{
	unsigned int shift;

	(void)state;
	/* A bitmap of no sectors cannot be asked for: no device has none. */
	for (shift = 0; shift <= SHIFT_MAX; shift++) {
		twin_alloc(&t, 1, shift, 0);
		assert_int_equal(t.bits->nr, 1);
		twin_check(&t);
		twin_mark(&t, 0, 1);
		twin_check(&t);
		assert_int_equal(cbw_bits_dirty_bytes(t.bits, NULL), 512);
		twin_free(&t);
	}
}

static void size_unaligned(void **state)
{
	(void)state;
	/* A sector more, and one less, than words or granules are; their 304. */
	MARK(P + 23, 0, { 0, 1 }, { P + 22, 1 }, { P, 1 }, { 0, P + 23 });
	MARK(9, 3, { 0, 8 }, { 8, 1 });
	MARK(W + 1, 0, { W, 1 }, { W - 1, 2 });
	MARK(W - 1, 0, { W - 2, 1 }, { 0, W - 1 });
	MARK(8 * W + 1, 3, { 8 * W, 1 }, { 8 * W - 1, 2 });
	MARK(8 * W - 1, 3, { 8 * W - 2, 1 }, { 8 * W - 9, 1 });
}

static void get_all(void **state)
{
	(void)state;
	MARK(16 * P, 0, { 0, 16 * P });
}

static void get_some(void **state)
{
	(void)state;
	MARK(2 * P, 0, { 10, 1 }, { W - 1, 1 }, { W, 1 }, { P - 1, 1 }, { P, 1 });
}

static void set_all(void **state)
{
	u64 i;

	(void)state;
	MARK(2 * P, 3, { 0, 2 * P });
	/* Whole words, and no bit more than there are granules. */
	twin_alloc(&t, 5 * W + 7, 0, 0);
	twin_mark(&t, 0, 5 * W + 7);
	for (i = 0; i < 5; i++)
		assert_true(t.bits->words[i] == ~0ul);
	assert_int_equal(t.bits->words[5], 0x7f);
	twin_free(&t);
}

static void set_one(void **state)
{
	sector_t s;

	(void)state;
	for (s = 0; s < 3 * W + 5; s++) {
		twin_alloc(&t, 3 * W + 5, 0, 0);
		twin_mark(&t, s, 1);
		twin_check(&t);
		twin_free(&t);
	}
}

static void set_two_words(void **state)
{
	(void)state;
	MARK(2 * P, 0, { W - 1, 2 }, { 2 * W - 1, 4 }, { 4 * W, W + 1 }, { 8 * W - 1, W + 1 },
	     { P - 1, 2 }, { P + W - 1, 8 }, { P + 4 * W, W + 1 }, { P + 8 * W - 1, W + 1 });
}

static void set_general(void **state)
{
	(void)state;
	/* Of some words, with parts of others at one end or both. */
	MARK(4 * P, 0, { W - 1, W + 2 }, { 3 * W - 1, W + 2 }, { 5 * W, 2 * W + 1 },
	     { 8 * W - 1, 2 * W + 1 }, { P - 1, W + 2 }, { P + 2 * W - 1, 3 * W + 2 },
	     { 2 * P - 1, 2 * P + 1 });
}

static void set_twice(void **state)
{
	(void)state;
	MARK(3 * W, 0, { 0, 3 * W }, { W, 1 }, { 0, 3 * W });
	MARK(3 * W, 0, { W, 1 }, { W, 1 }, { 0, W + 1 }, { W - 1, 3 });
}

static void set_overlap(void **state)
{
	(void)state;
	MARK(4 * P, 0, { W - 1, W + 2 }, { 2 * W - 1, 2 * W + 2 }, { 0, 3 * W }, { 8 * W - 1, P },
	     { P, W }, { P - W - 1, 8 * W + 2 }, { P, 2 * P + 1 }, { 2 * P - W, 3 * W },
	     { 3 * P - 1, 3 }, { 3 * P - 1, P });
}

/* Every range there is, in granules of one sector, two, four and eight; the last is short. */
static void set_every_range(void **state)
{
	static const sector_t len[] = { 2 * W + 3, 2 * W + 3, 5 * W - 1, 9 * W + 5 };
	unsigned int shift;
	sector_t s, n;
	u64 i;

	(void)state;
	for (shift = 0; shift < ARRAY_SIZE(len); shift++) {
		twin_alloc(&t, len[shift], shift, 0);
		for (s = 0; s < len[shift]; s++) {
			for (n = 1; s + n <= len[shift]; n += n < 3 * W ? 1 : 5) {
				memset(t.bits->words, 0, t.bits->bytes);
				memset(t.dirty, 0, t.nr_cells);
				twin_mark(&t, s, n);
				/* Nothing but the granules from the first to the last. */
				for (i = 0; i < t.bits->nr; i++)
					if (bits_test(t.bits, i) !=
					    (i >= s >> shift && i <= (s + n - 1) >> shift))
						fail_msg("%llu + %llu, shift %u: granule %llu",
							 s, n, shift, i);
				if ((s + n) % 61 == 0)
					twin_check(&t);
			}
		}
		twin_free(&t);
	}
}

/* From 512 bytes to 2 GiB: at and around the ends of granules. */
static void set_granularity(void **state)
{
	unsigned int shift, unit, i;

	(void)state;
	rnd_seed("set_granularity", 1);
	for (shift = 0; shift <= SHIFT_MAX; shift++) {
		const u64 g = 1ull << shift;

		unit = shift > 4 ? shift - 4 : 0;
		for (i = 0; i < 4; i++) {
			const u64 last = rnd(g), len = (60 + rnd(80)) * g + last;
			const struct range r[] = {
				{ 0, 1 }, { 2 * g - 1, 1 }, { 4 * g - 1, 2 }, { 8 * g, g },
				{ 11 * g, g + 1 }, { 15 * g - 1, g + 1 }, { 20 * g + g / 2, 3 * g },
				{ len - 1, 1 }, { len - last - 1, last + 1 }, { 40 * g + rnd(g), rnd(30 * g) + 1 },
			};
			unsigned int k;

			twin_alloc(&t, len, shift, unit);
			for (k = 0; k < ARRAY_SIZE(r); k++) {
				twin_mark(&t, r[k].sector, min(r[k].nr, len - r[k].sector));
				twin_check(&t);
			}
			mark_some(&t, 10);
			twin_check(&t);
			twin_free(&t);
		}
	}
}

/* What lies behind the end is not marked, and harms nothing. */
static void set_past_end(void **state)
{
	(void)state;
	MARK(3 * W, 0, { 3 * W - 1, 2 }, { 3 * W, 1 }, { 3 * W + 1000, P }, { W, P });
	MARK(3 * W + 5, 3, { 3 * W + 8, 1 }, { 3 * W + 4, 100 }, { W + 5, 1ull << 54 });
}

/* Granule i is bit i % 64 of word i / 64; in bytes as qcow2 has it, too. */
static void layout(void **state)
{
	const u8 *bytes;
	sector_t s;

	(void)state;
	for (s = 0; s < 2 * W + 3; s++) {
		twin_alloc(&t, 2 * W + 3, 0, 0);
		twin_mark(&t, s, 1);
		assert_true(t.bits->words[s / 64] == 1ul << s % 64);
		bytes = (const u8 *)t.bits->words;
		assert_int_equal(bytes[s / 8], 1 << s % 8);
		assert_int_equal(t.bits->bytes, 3 * 8);
		twin_free(&t);
	}
}

/*
 * Another writer comes after the look at a word and before its bits are set: neither's
 * are lost. What is set other than with an atomic operation does not let it come at all.
 */
static u64 met;

static void meet(unsigned long *word)
{
	/* A bit that nobody else sets. */
	met += !(*word & 1);
	*word |= 1;
}

static void concurrent(void **state)
{
	const u64 nr = 40 * W;
	struct cbw_bits *same, *finer;
	u64 i;

	(void)state;
	same = cbw_bits_alloc(nr << 1, 1);
	finer = cbw_bits_alloc(nr << 1, 0);
	twin_alloc(&t, nr << 1, 1, 0);
	assert_true(same && finer);
	for (i = 0; i < nr; i += W) {
		cbw_bits_mark_range(same, (i + 7) << 1, 3 << 1);
		cbw_bits_mark_range(finer, ((i + 20) << 1) + 1, 1);
	}
	shim_meet = meet;
	met = 0;
	/* Parts of two words, and the one between them as a whole. */
	cbw_bits_mark_range(t.bits, (3 * W + 50) << 1, (W + 20) << 1);
	cbw_bits_mark_range(t.bits, (30 * W + 50) << 1, 2 * W << 1);
	assert_int_equal(met, 4);
	for (i = 0; i < nr; i += W)
		cbw_bits_mark_range(t.bits, (i + 2) << 1, 1);
	/* Once in each word, but not in the two whole ones. */
	assert_int_equal(met, 40 - 2);
	memset(t.bits->words, 0, t.bits->bytes);
	met = 0;
	cbw_bits_or(t.bits, same, false);
	assert_int_equal(met, 40);
	for (i = 0; i < nr / W; i++)
		assert_true(t.bits->words[i] == (7ul << 7 | 1));
	memset(t.bits->words, 0, t.bits->bytes);
	met = 0;
	cbw_bits_merge(t.bits, finer, false);
	assert_int_equal(met, 40);
	for (i = 0; i < nr / W; i++)
		assert_true(t.bits->words[i] == (1ul << 20 | 1));
	shim_meet = NULL;
	cbw_bits_put(same);
	cbw_bits_put(finer);
	twin_free(&t);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		bits_test_case(size_one),
		bits_test_case(size_unaligned),
		bits_test_case(get_all),
		bits_test_case(get_some),
		bits_test_case(set_all),
		bits_test_case(set_one),
		bits_test_case(set_two_words),
		bits_test_case(set_general),
		bits_test_case(set_twice),
		bits_test_case(set_overlap),
		bits_test_case(set_every_range),
		bits_test_case(set_granularity),
		bits_test_case(set_past_end),
		bits_test_case(layout),
		bits_test_case(concurrent),
	};

	bits_args(argc, argv);
	return cmocka_run_group_tests_name("bits-set", tests, NULL, NULL);
}
