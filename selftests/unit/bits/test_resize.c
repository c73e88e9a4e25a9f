// SPDX-License-Identifier: GPL-2.0-or-later
/* another size: what was dirty stays so, what is new is dirty, what is gone is gone */
#include "common.h"

#define W	64u		/* granules of a word */

static struct cbw_bits *make(sector_t len, unsigned int shift)
{
	struct cbw_bits *bits = cbw_bits_alloc(len, shift);

	assert_non_null(bits);
	return bits;
}

/* Granule by granule; and no bit behind the last one. */
static void check(const struct cbw_bits *to, const struct cbw_bits *from)
{
	u64 g;

	for (g = 0; g < to->nr; g++) {
		const sector_t end = min((g + 1) << to->shift, to->len);
		bool was = g < from->nr && bits_test(from, g);
		bool fresh = to->len > from->len && end > from->len;

		assert_int_equal(bits_test(to, g), was || fresh);
	}
	for (; g < to->bytes * 8; g++)
		assert_false(bits_test(to, g));
}

/* Sparse, dense, all, none: from @old sectors to @new_len, and back. */
static void resize(sector_t old, sector_t new_len, unsigned int shift)
{
	unsigned int how;

	for (how = 0; how < 4; how++) {
		struct cbw_bits *a = make(old, shift), *b = make(new_len, shift), *c;
		u64 g;

		for (g = 0; g < a->nr; g++)
			if (how == 3 || (how == 2 && g % 5) || (how == 1 && !(g % 37)))
				cbw_bits_mark_range(a, g << shift, 1);
		cbw_bits_resize(b, a);
		check(b, a);
		/* and back: what was added is forgotten, what was dropped is dirty */
		c = make(old, shift);
		cbw_bits_resize(c, b);
		check(c, b);
		cbw_bits_put(a);
		cbw_bits_put(b);
		cbw_bits_put(c);
	}
}

/* As large as before, in granules: nothing, or a part of the last granule. */
static void nop(void **state)
{
	(void)state;
	resize(3 * W, 3 * W, 0);
	resize(1000, 1000, 3);
}

static void negligible(void **state)
{
	(void)state;
	resize(1001, 1007, 3);		/* the last granule stays short */
	resize(1001, 1008, 3);		/* it becomes a whole one */
	resize(1000, 1001, 3);
}

/* By a granule, in the same word and across its border. */
static void tiny(void **state)
{
	(void)state;
	resize(W - 2, W - 1, 0);
	resize(W - 1, W, 0);
	resize(W, W + 1, 0);
	resize(3 * W * 8 - 8, 3 * W * 8, 3);
	resize(3 * W * 8, 3 * W * 8 + 8, 3);
}

/* By half a word and by a whole one. */
static void small(void **state)
{
	(void)state;
	resize(3 * W, 3 * W + W / 2, 0);
	resize(3 * W + W / 2, 4 * W, 0);
	resize(3 * W, 4 * W, 0);
	resize(3 * W + 5, 4 * W + 5, 0);
}

static void medium(void **state)
{
	(void)state;
	resize(3 * W, 3 * W + 10 * W + 7, 0);
	resize(3 * W * 8 + 3, 13 * W * 8 + 1, 3);
}

static void large(void **state)
{
	(void)state;
	resize(3 * W, 3 * W + 1000 * W, 0);
	resize(1, 100000, 0);
	resize(5, 100000, 7);
}

static void any(void **state)
{
	unsigned int i;

	(void)state;
	rnd_seed("any", 1);
	for (i = 0; i < 300; i++) {
		unsigned int shift = rnd(12);

		resize(1 + rnd(300ull << shift), 1 + rnd(300ull << shift), shift);
	}
}

/* The next run after a change of size, from each granule on. */
static void next(void **state)
{
	struct cbw_bits *a = make(4 * W, 0), *b = make(6 * W + 3, 0), *c = make(2 * W, 0);
	sector_t s, e;

	(void)state;
	cbw_bits_mark_range(a, W - 1, 2);
	cbw_bits_mark_range(a, 3 * W, 1);
	cbw_bits_resize(b, a);
	assert_true(cbw_bits_next_run(b, W + 1, &s, &e) && s == 3 * W && e == 3 * W + 1);
	assert_true(cbw_bits_next_run(b, 3 * W + 1, &s, &e) && s == 4 * W && e == 6 * W + 3);
	assert_false(cbw_bits_next_run(b, 6 * W + 3, &s, &e));
	cbw_bits_resize(c, b);
	assert_true(cbw_bits_next_run(c, 0, &s, &e) && s == W - 1 && e == W + 1);
	assert_false(cbw_bits_next_run(c, W + 1, &s, &e));
	cbw_bits_put(a);
	cbw_bits_put(b);
	cbw_bits_put(c);
}

/* A frozen half is of the old size, the recording one of the new: their union, and an abort. */
static void halves(void **state)
{
	unsigned int i;

	(void)state;
	rnd_seed("halves", 1);
	for (i = 0; i < 300; i++) {
		unsigned int shift = rnd(9);
		struct cbw_bits *to = make(1 + rnd(200ull << shift), shift);
		struct cbw_bits *from = make(1 + rnd(200ull << shift), shift);
		u64 g, bytes = 0;

		for (g = 0; g < to->nr; g++)
			if (!rnd(4))
				cbw_bits_mark_range(to, g << shift, 1);
		for (g = 0; g < from->nr; g++)
			if (!rnd(4))
				cbw_bits_mark_range(from, g << shift, 1);
		for (g = 0; g < to->nr; g++)
			if (bits_test(to, g) || (g < from->nr && bits_test(from, g)))
				bytes += (min((g + 1) << shift, to->len) - (g << shift)) * 512;
		assert_int_equal(cbw_bits_dirty_bytes(to, from), bytes);
		cbw_bits_or(to, from, false);
		assert_int_equal(cbw_bits_dirty_bytes(to, NULL), bytes);
		for (g = to->nr; g < to->bytes * 8; g++)
			assert_false(bits_test(to, g));
		cbw_bits_put(to);
		cbw_bits_put(from);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		bits_test_case(nop),
		bits_test_case(negligible),
		bits_test_case(tiny),
		bits_test_case(small),
		bits_test_case(medium),
		bits_test_case(large),
		bits_test_case(any),
		bits_test_case(next),
		bits_test_case(halves),
	};

	bits_args(argc, argv);
	return cmocka_run_group_tests_name("bits-resize", tests, NULL, NULL);
}
