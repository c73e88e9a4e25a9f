// SPDX-License-Identifier: GPL-2.0-or-later
/* what bitmaps take, the limit for all of them, and what happens without memory */
#include "common.h"

#define MIB_SECTORS	(8ull << 20)	/* in granules of a sector: 1 MiB of bits */

static void accounting(void **state)
{
	struct cbw_bits *bits[64];
	unsigned int i;

	(void)state;
	rnd_seed("accounting", 1);
	for (i = 0; i < ARRAY_SIZE(bits); i++) {
		bits[i] = cbw_bits_alloc(1 + rnd(1 << 20), rnd(SHIFT_MAX + 1));
		assert_non_null(bits[i]);
		assert_int_equal(shim_accounted, shim_words);
	}
	/* Not in the order in which they came. */
	for (i = 0; i < ARRAY_SIZE(bits); i++) {
		cbw_bits_put(bits[i * 23 % ARRAY_SIZE(bits)]);
		assert_int_equal(shim_accounted, shim_words);
	}
	assert_int_equal(shim_accounted, 0);
	cbw_bits_put(NULL);
}

static void references(void **state)
{
	struct cbw_bits *bits = cbw_bits_alloc(1000, 0);

	(void)state;
	assert_non_null(bits);
	assert_ptr_equal(cbw_bits_get(bits), bits);
	cbw_bits_get(bits);
	cbw_bits_put(bits);
	cbw_bits_put(bits);
	cbw_bits_mark_range(bits, 999, 1);
	assert_int_equal(shim_accounted, 128);
	/* Merges into it are not references, but count. */
	assert_true(cbw_bits_merged(bits));
	bits->merges.val = 1;
	assert_false(cbw_bits_merged(bits));
	cbw_bits_put(bits);
	assert_int_equal(shim_accounted, 0);
}

/* As much as the limit, and not a word more; what is refused is not accounted for. */
static void limit(void **state)
{
	struct cbw_bits *a, *b;

	(void)state;
	*shim_bitmap_limit_mib = 2;
	a = cbw_bits_alloc(MIB_SECTORS, 0);
	b = cbw_bits_alloc(MIB_SECTORS, 0);
	assert_true(a && b);
	assert_int_equal(shim_warnings, 0);
	assert_int_equal(shim_accounted, 2 << 20);
	assert_null(cbw_bits_alloc(1, 0));
	assert_null(cbw_bits_alloc(1ull << 54, 0));
	assert_int_equal(shim_warnings, 2);
	assert_int_equal(shim_accounted, 2 << 20);
	cbw_bits_put(b);
	assert_null(cbw_bits_alloc(MIB_SECTORS + 1, 0));
	assert_int_equal(shim_warnings, 3);
	b = cbw_bits_alloc(MIB_SECTORS, 0);
	assert_non_null(b);
	/* It may change: less takes nothing away. */
	*shim_bitmap_limit_mib = 1;
	cbw_bits_mark_range(b, 0, MIB_SECTORS);
	assert_null(cbw_bits_alloc(1, 0));
	cbw_bits_put(a);
	assert_null(cbw_bits_alloc(1, 0));
	cbw_bits_put(b);
	assert_int_equal(shim_accounted, 0);
	a = cbw_bits_alloc(MIB_SECTORS, 0);
	assert_non_null(a);
	cbw_bits_put(a);
	shim_warnings = 0;
}

static void limit_default(void **state)
{
	struct cbw_bits *bits;

	(void)state;
	/* A quarter of 4 MiB. */
	shim_pages = 1024;
	assert_null(cbw_bits_alloc(MIB_SECTORS + 1, 0));
	assert_int_equal(shim_warnings, 1);
	bits = cbw_bits_alloc(MIB_SECTORS, 0);
	assert_non_null(bits);
	assert_null(cbw_bits_alloc(1, 0));
	cbw_bits_put(bits);
	shim_warnings = 0;
}

/* More than kvzalloc() gives; and more than there is: no bitmap, and it is said why. */
static void too_large(void **state)
{
	struct cbw_bits *bits;

	(void)state;
	*shim_bitmap_limit_mib = 1 << 20;
	/* 64 TiB in granules of 4 KiB: 2 GiB. */
	bits = cbw_bits_alloc(1ull << 37, 3);
	assert_non_null(bits);
	cbw_bits_mark_range(bits, (1ull << 37) - 1, 1);
	assert_true(bits_test(bits, (1ull << 34) - 1));
	cbw_bits_put(bits);
	assert_int_equal(shim_accounted, 0);
	assert_int_equal(shim_warnings, 0);
	assert_int_equal(shim_structs, 0);
	/* The largest device in the smallest granules. */
	*shim_bitmap_limit_mib = 1ull << 40;
	assert_null(cbw_bits_alloc((1ull << 54) - 1, 0));
	assert_int_equal(shim_accounted, 0);
	assert_int_equal(shim_warnings, 1);
	shim_warnings = 0;
}

/* Whichever allocation fails: nothing is left. */
static void one_fails(void **state)
{
	struct cbw_bits *bits;
	unsigned int k;

	(void)state;
	for (k = 1; ; k++) {
		shim_calls = 0;
		shim_fail_at = k;
		bits = cbw_bits_alloc(1000000, 0);
		if (shim_calls < k)
			break;
		assert_null(bits);
		assert_int_equal(shim_accounted, 0);
		assert_int_equal(shim_words + shim_structs, 0);
	}
	assert_true(k > 2);
	assert_non_null(bits);
	cbw_bits_put(bits);
	/* that there is none for the words is said */
	assert_int_equal(shim_warnings, 1);
	shim_warnings = 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		bits_test_case(accounting),
		bits_test_case(references),
		bits_test_case(limit),
		bits_test_case(limit_default),
		bits_test_case(too_large),
		bits_test_case(one_fails),
	};

	bits_args(argc, argv);
	return cmocka_run_group_tests_name("bits-memory", tests, NULL, NULL);
}
