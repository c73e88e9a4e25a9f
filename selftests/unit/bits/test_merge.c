// SPDX-License-Identifier: GPL-2.0-or-later
/* merging: a granule becomes dirty if any part of it is in the source, and no other does */
#include "common.h"

#define W	64u		/* granules of a word */

static struct twin to, from;

static void pair_alloc(sector_t len, unsigned int to_shift, unsigned int from_shift)
{
	unsigned int unit = min(to_shift, from_shift);

	twin_alloc(&to, len, to_shift, unit);
	twin_alloc(&from, len, from_shift, unit);
}

static void pair_free(void)
{
	twin_free(&to);
	twin_free(&from);
}

/* Merge, and look at what came of it; the source is as it was. */
static void pair_merge(void)
{
	twin_merge(&to, &from, false);
	twin_check(&to);
	twin_check_words(&from);
}

static void same(void **state)
{
	unsigned int round;

	(void)state;
	rnd_seed("same", 1);
	for (round = 0; round < 200; round++) {
		unsigned int shift = rnd(SHIFT_MAX + 1);

		pair_alloc((1 + rnd(400)) * (1ull << shift) - rnd(1ull << shift), shift, shift);
		mark_some(&to, rnd(5));
		mark_some(&from, rnd(5));
		if (round & 1)
			twin_merge(&to, &from, false);
		else
			twin_or(&to, &from, false);
		twin_check(&to);
		twin_check(&from);
		pair_free();
	}
}

static void self(void **state)
{
	(void)state;
	rnd_seed("self", 1);
	twin_alloc(&to, 1000, 2, 0);
	mark_some(&to, 5);
	twin_merge(&to, &to, false);
	twin_check(&to);
	twin_free(&to);
}

static void empty(void **state)
{
	(void)state;
	pair_alloc(1000, 5, 2);
	pair_merge();
	assert_int_equal(cbw_bits_dirty_bytes(to.bits, NULL), 0);
	twin_mark(&to, 500, 200);
	pair_merge();
	pair_free();
}

/* One granule of the source, at all places: it and its neighbours. */
static void one_granule(void **state)
{
	static const unsigned int shifts[][2] = { { 0, 3 }, { 3, 0 }, { 2, 3 }, { 3, 2 }, { 1, 7 }, { 7, 1 } };
	unsigned int i;
	u64 g;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(shifts); i++) {
		const sector_t len = 5 * W + 3;
		u64 nr = (len - 1) / (1u << shifts[i][1]) + 1;

		for (g = 0; g < nr; g++) {
			pair_alloc(len, shifts[i][0], shifts[i][1]);
			twin_mark(&from, g << shifts[i][1], 1);
			pair_merge();
			pair_free();
		}
	}
}

/* Each granularity into each. */
static void all_pairs(void **state)
{
	unsigned int a, b, i;

	(void)state;
	rnd_seed("all_pairs", 1);
	for (a = 0; a <= SHIFT_MAX; a++) {
		for (b = 0; b <= SHIFT_MAX; b++) {
			const unsigned int coarse = a > b ? a : b, apart = a > b ? a - b : b - a;
			const u64 most = apart < 4 ? 200 : apart < 9 ? 20 : 2;

			/* Of those far apart all are very large: once will do. */
			for (i = 0; i < (apart < 12 ? 6 : 1); i++) {
				pair_alloc((1 + rnd(most)) * (1ull << coarse) - rnd(1ull << coarse), a, b);
				mark_some(&to, rnd(3));
				mark_some(&from, rnd(6));
				twin_merge(&to, &from, false);
				twin_check_words(&to);
				if (apart < 12) {
					twin_check(&to);
					twin_check(&from);
				}
				pair_free();
			}
		}
	}
}

/* Several into one, coarser and finer in turn; and back, which rounds outwards. */
static void chain(void **state)
{
	unsigned int round, i;

	(void)state;
	rnd_seed("chain", 1);
	for (round = 0; round < 30; round++) {
		const sector_t len = 1 + rnd(6000);
		unsigned int shift[3];
		struct twin s[3];

		for (i = 0; i < 3; i++) {
			shift[i] = rnd(9);
			twin_alloc(&s[i], len, shift[i], 0);
			mark_some(&s[i], rnd(3));
		}
		for (i = 0; i < 10; i++) {
			unsigned int k = rnd(3), l = rnd(3);

			if (k != l)
				twin_merge(&s[k], &s[l], false);
			if (!rnd(3))
				mark_some(&s[rnd(3)], 1);
		}
		for (i = 0; i < 3; i++) {
			twin_check(&s[i]);
			twin_free(&s[i]);
		}
	}
}

/* A run of so many granules that they are marked in pieces; in between, others may run. */
static void long_run(void **state)
{
	static const struct { sector_t start, nr; } runs[] = {
		{ 0, 1 }, { 0, 2 }, { 1, 1 }, { 1, 5 }, { 3, 4 }, { 0, 9 }, { 8, 1 },
	};
	/* Each granule of 512 MiB is a piece, or a part of one; the device ends within one. */
	const unsigned int shift = 20;
	const sector_t len = (8ull << shift) + 4712;
	struct cbw_bits *fine, *coarse;
	unsigned int i, to_shift;
	sector_t s, e;

	(void)state;
	for (to_shift = 0; to_shift < 4; to_shift++) {
		const sector_t piece = (1ull << 20) << to_shift;

		for (i = 0; i < ARRAY_SIZE(runs); i++) {
			const sector_t start = runs[i].start << shift;
			const sector_t end = min((runs[i].start + runs[i].nr) << shift, len);
			u64 before;

			fine = cbw_bits_alloc(len, to_shift);
			coarse = cbw_bits_alloc(len, shift);
			assert_true(fine && coarse);
			cbw_bits_mark_range(coarse, start, end - start);
			before = shim_rescheds;
			cbw_bits_merge(fine, coarse, false);
			/* After all pieces but the last. */
			assert_true(shim_rescheds - before >= (end - start - 1) / piece);
			assert_true(cbw_bits_next_run(fine, 0, &s, &e));
			assert_true(s == start && e == end);
			assert_int_equal(cbw_bits_dirty_bytes(fine, NULL), (end - start) * 512);
			cbw_bits_put(fine);
			cbw_bits_put(coarse);
		}
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		bits_test_case(same),
		bits_test_case(self),
		bits_test_case(empty),
		bits_test_case(one_granule),
		bits_test_case(all_pairs),
		bits_test_case(chain),
		bits_test_case(long_run),
	};

	bits_args(argc, argv);
	return cmocka_run_group_tests_name("bits-merge", tests, NULL, NULL);
}
