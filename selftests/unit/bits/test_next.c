// SPDX-License-Identifier: GPL-2.0-or-later
/* finding runs, and counting; Documentation/qemu-tests.rst says after which tests */
#include "common.h"

#define W	64u		/* granules of a word */
#define P	4096u		/* of 64 words */

static struct twin t;

static void expect_run(const struct cbw_bits *bits, sector_t from, sector_t start, sector_t end)
{
	sector_t s, e;

	assert_true(cbw_bits_next_run(bits, from, &s, &e));
	assert_int_equal(s, start);
	assert_int_equal(e, end);
}

static void expect_none(const struct cbw_bits *bits, sector_t from)
{
	sector_t s = 77, e = 78;

	assert_false(cbw_bits_next_run(bits, from, &s, &e));
	/* A caller's variables keep what they have. */
	assert_true(s == 77 && e == 78);
}

static void iter_empty(void **state)
{
	(void)state;
	twin_alloc(&t, P, 0, 0);
	expect_none(t.bits, 0);
	expect_none(t.bits, P - 1);
	expect_none(t.bits, P);
	expect_none(t.bits, P + 1);
	twin_check(&t);
	twin_free(&t);
}

static void iter_partial(void **state)
{
	static const sector_t from[] = { 0, 1, W - 1, W, W + 1, P - 1, P, P + 1, 2 * P - 1 };
	unsigned int i;

	(void)state;
	twin_alloc(&t, 2 * P, 0, 0);
	twin_mark(&t, 0, 2 * P);
	/* From the middle of a run: what is left of it. */
	for (i = 0; i < ARRAY_SIZE(from); i++)
		expect_run(t.bits, from[i], from[i], 2 * P);
	expect_none(t.bits, 2 * P);
	twin_free(&t);
}

static void iter_granularity(void **state)
{
	const unsigned int shift = 7;
	const u64 nr = 131072, g = P + W + 1;

	(void)state;
	twin_alloc(&t, nr << shift, shift, shift);
	expect_none(t.bits, 0);
	twin_mark(&t, (g << shift) + 8, 8);
	expect_run(t.bits, 0, g << shift, (g + 1) << shift);
	expect_run(t.bits, g << shift, g << shift, (g + 1) << shift);
	expect_none(t.bits, (g + 1) << shift);
	twin_mark(&t, (nr << shift) - 8, 8);
	expect_run(t.bits, 0, g << shift, (g + 1) << shift);
	expect_run(t.bits, (g + 1) << shift, (nr - 1) << shift, nr << shift);
	expect_none(t.bits, nr << shift);
	twin_check(&t);
	twin_free(&t);
}

/* From each granule on, after each change. */
static void next(unsigned int shift, sector_t len)
{
	twin_alloc(&t, len, shift, 0);
	twin_check_runs(&t);
	twin_mark(&t, P, 1);
	twin_check_runs(&t);
	twin_mark(&t, P + 5, W);
	twin_check_runs(&t);
	twin_mark(&t, 2 * P, len - 2 * P);
	twin_check_runs(&t);
	twin_mark(&t, 0, len);
	twin_check_runs(&t);
	twin_free(&t);
}

static void next_0(void **state)
{
	(void)state;
	next(0, 3 * P);
	next(0, 3 * P + 1);
}

static void next_1(void **state)
{
	(void)state;
	next(1, 4 * P);
	next(1, 4 * P - 1);
}

static void next_4(void **state)
{
	(void)state;
	next(4, 8 * P);
	next(4, 8 * P + 7);
}

/* One clean granule, one dirty one, at all places of a word. */
static void next_one(void **state)
{
	u64 i;

	(void)state;
	for (i = 0; i < 2 * W + 1; i++) {
		twin_alloc(&t, 2 * W + 1, 0, 0);
		twin_mark(&t, i, 1);
		twin_check(&t);
		twin_free(&t);
		twin_alloc(&t, 2 * W + 1, 0, 0);
		if (i)
			twin_mark(&t, 0, i);
		if (i < 2 * W)
			twin_mark(&t, i + 1, 2 * W - i);
		twin_check(&t);
		twin_free(&t);
	}
}

static void next_random(void **state)
{
	unsigned int round;

	(void)state;
	rnd_seed("next_random", 1);
	for (round = 0; round < 150; round++) {
		unsigned int shift = rnd(SHIFT_MAX + 1), unit = shift > 2 ? shift - rnd(3) : shift;

		twin_alloc(&t, (1 + rnd(rnd(2) ? 100 : 1500)) * (1ull << shift) + rnd(1ull << shift),
			   shift, unit);
		mark_some(&t, rnd(30));
		twin_check(&t);
		twin_free(&t);
	}
}

static void dirty_last_short(void **state)
{
	unsigned int shift;

	(void)state;
	for (shift = 1; shift <= SHIFT_MAX; shift++) {
		const u64 g = 1ull << shift, len = 130 * g + 1;
		struct cbw_bits *bits = cbw_bits_alloc(len, shift);

		assert_non_null(bits);
		assert_int_equal(cbw_bits_dirty_bytes(bits, NULL), 0);
		cbw_bits_mark_range(bits, 129 * g, 1);
		assert_int_equal(cbw_bits_dirty_bytes(bits, NULL), g * 512);
		expect_run(bits, 0, 129 * g, 130 * g);
		cbw_bits_mark_range(bits, 130 * g, 1);
		assert_int_equal(cbw_bits_dirty_bytes(bits, NULL), g * 512 + 512);
		expect_run(bits, 0, 129 * g, len);
		expect_run(bits, 130 * g, 130 * g, len);
		cbw_bits_mark_range(bits, 0, len);
		assert_int_equal(cbw_bits_dirty_bytes(bits, NULL), len * 512);
		cbw_bits_put(bits);
	}
}

/* What is dirty in either counts once; the last granule may be in one, the other or both. */
static void dirty_union(void **state)
{
	struct twin a, b;
	unsigned int round;

	(void)state;
	rnd_seed("dirty_union", 1);
	for (round = 0; round < 200; round++) {
		unsigned int shift = rnd(6);
		sector_t len = 1 + rnd(4000);

		twin_alloc(&a, len, shift, 0);
		twin_alloc(&b, len, shift, 0);
		mark_some(&a, rnd(8));
		mark_some(&b, rnd(8));
		if (round & 1)
			twin_mark(&a, len - 1, 1);
		if (round & 2)
			twin_mark(&b, len - 1, 1);
		twin_check_bytes(&a, NULL);
		twin_check_bytes(&b, NULL);
		twin_check_bytes(&a, &b);
		twin_check_bytes(&b, &a);
		twin_check_bytes(&a, &a);
		twin_free(&a);
		twin_free(&b);
	}
}

/* 64 TiB in granules of 64 KiB; there is no model of that size. */
static void huge(void **state)
{
	const u64 len = 1ull << 37, nr = 1ull << 30;
	const unsigned int shift = 7;
	struct cbw_bits *bits = cbw_bits_alloc(len, shift);
	sector_t s, e = 0;
	u64 g = 0, i, n = 0;

	(void)state;
	rnd_seed("huge", 1);
	assert_non_null(bits);
	assert_int_equal(bits->nr, nr);
	assert_int_equal(bits->bytes, 128u << 20);
	assert_int_equal(cbw_bits_dirty_bytes(bits, NULL), 0);
	/* Some of a word, and far apart. */
	for (i = 0; i < 1000; i++) {
		u64 run = 1 + rnd(200), gap = 1 + rnd(nr / 1000 - 300);

		cbw_bits_mark_range(bits, ((g + gap) << shift) + rnd(128), ((run - 1) << shift) + 1);
		expect_run(bits, e, (g + gap) << shift, (g + gap + run) << shift);
		g += gap + run;
		e = g << shift;
		n += run;
	}
	assert_true(g < nr);
	assert_int_equal(cbw_bits_dirty_bytes(bits, NULL), n << 16);
	for (i = 0, e = 0; cbw_bits_next_run(bits, e, &s, &e); i++)
		n -= (e - s) >> shift;
	assert_int_equal(i, 1000);
	assert_int_equal(n, 0);
	cbw_bits_mark_range(bits, len - 1, 1);
	expect_run(bits, e, len - 128, len);
	cbw_bits_put(bits);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		bits_test_case(iter_empty),
		bits_test_case(iter_partial),
		bits_test_case(iter_granularity),
		bits_test_case(next_0),
		bits_test_case(next_1),
		bits_test_case(next_4),
		bits_test_case(next_one),
		bits_test_case(next_random),
		bits_test_case(dirty_last_short),
		bits_test_case(dirty_union),
		bits_test_case(huge),
	};

	bits_args(argc, argv);
	return cmocka_run_group_tests_name("bits-next", tests, NULL, NULL);
}
