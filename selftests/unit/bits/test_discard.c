// SPDX-License-Identifier: GPL-2.0-or-later
/* the second plane: what was discarded whole, and never what may be data */
#include "common.h"

#define W	64u		/* granules of a word */

static struct twin t, to, from;

static void make(struct twin *twin, sector_t len, unsigned int shift, unsigned int unit)
{
	twin_alloc(twin, len, shift, unit);
	twin_add_plane(twin);
}

/* Bits of the second plane, without that anything is done to them. */
static bool gone(const struct twin *twin, u64 granule)
{
	return bits_test(twin->bits->discarded, granule);
}

/* Only what a discard covers whole: each start and each end, over words and at the end. */
static void whole(void **state)
{
	const sector_t len = 3 * W * 4 + 2;
	sector_t start, end;

	(void)state;
	for (start = 0; start < 10; start++) {
		for (end = start + 1; end <= len; end += end < 12 || end > len - 12 ? 1 : 57) {
			make(&t, len, 2, 0);
			twin_discard(&t, start, end - start);
			twin_check(&t);
			twin_free(&t);
		}
	}
}

/* Together they cover it, but none of them does. */
static void halves(void **state)
{
	(void)state;
	make(&t, 100, 3, 0);
	twin_discard(&t, 0, 4);
	twin_discard(&t, 4, 4);
	assert_false(gone(&t, 0));
	twin_check(&t);
	/* what is discarded stays so when a part of it is discarded again */
	twin_discard(&t, 8, 8);
	twin_discard(&t, 10, 2);
	assert_true(gone(&t, 1));
	twin_check(&t);
	twin_free(&t);
}

static void written(void **state)
{
	unsigned int round;

	(void)state;
	rnd_seed("written", 1);
	for (round = 0; round < 300; round++) {
		unsigned int shift = rnd(6), i;

		make(&t, 1 + rnd(300ull << shift), shift, 0);
		for (i = 0; i < 8; i++) {
			sector_t s = rnd(t.bits->len), nr = 1 + rnd(t.bits->len - s);

			if (rnd(2))
				twin_discard(&t, s, nr);
			else
				twin_write(&t, s, min(nr, (sector_t)(1 + rnd(40))));
			twin_check(&t);
		}
		twin_free(&t);
	}
}

/* Without memory for it, discards are dirty and nothing else. */
static void no_plane(void **state)
{
	s64 before;

	(void)state;
	twin_alloc(&t, 1000, 0, 0);
	shim_calls = 0;
	shim_fail_at = 2;
	before = shim_accounted;
	assert_false(cbw_bits_add_plane(t.bits));
	shim_fail_at = 0;
	assert_int_equal(shim_accounted, before);
	assert_int_equal(shim_warnings, 1);
	shim_warnings = 0;
	twin_discard(&t, 0, 1000);
	twin_check(&t);
	twin_add_plane(&t);
	assert_true(cbw_bits_add_plane(t.bits));	/* it has one */
	assert_int_equal(shim_accounted, 2 * before);
	twin_discard(&t, 100, 10);
	twin_check(&t);
	twin_free(&t);
	assert_int_equal(shim_accounted, 0);
}

/* Some writes went by: it says nothing of discards any more. */
static void forgetful(void **state)
{
	(void)state;
	make(&t, 1000, 0, 0);
	make(&to, 1000, 3, 0);
	twin_discard(&t, 0, 100);
	cbw_bits_forget_discards(t.bits);
	twin_check(&t);
	twin_discard(&t, 200, 100);
	twin_check(&t);
	twin_merge(&to, &t, true);
	twin_check(&to);
	assert_false(gone(&to, 0));
	twin_free(&t);
	twin_free(&to);
}

static void some(struct twin *twin, unsigned int n)
{
	while (n--) {
		sector_t s = rnd(twin->bits->len), nr = 1 + rnd(twin->bits->len - s);

		if (rnd(3))
			twin_discard(twin, s, nr);
		else
			twin_write(twin, s, 1 + rnd(min(nr, 50)));
	}
}

/* Any granularity into any: dirty wins, and nothing that is a part. */
static void merged(void **state)
{
	unsigned int a, b, i;

	(void)state;
	rnd_seed("merged", 1);
	for (a = 0; a < 9; a++) {
		for (b = 0; b < 9; b++) {
			for (i = 0; i < 20; i++) {
				sector_t len = 1 + rnd(200ull << (a > b ? a : b));

				make(&to, len, a, a < b ? a : b);
				make(&from, len, b, a < b ? a : b);
				some(&to, rnd(4));
				some(&from, 1 + rnd(4));
				twin_merge(&to, &from, i & 1);
				twin_check(&to);
				twin_check(&from);
				twin_free(&to);
				twin_free(&from);
			}
		}
	}
}

/* Data that is marked or loaded by a call. */
static void told(void **state)
{
	unsigned long data[2] = { htole64(1ul << 5), 0 };

	(void)state;
	make(&t, 100, 0, 0);
	twin_discard(&t, 0, 100);
	cbw_bits_mark_data(t.bits, 20, 3);
	assert_true(gone(&t, 19) && !gone(&t, 20) && !gone(&t, 22) && gone(&t, 23));
	assert_int_equal(cbw_bits_load(t.bits, 0, data, 2), 0);
	assert_true(gone(&t, 4) && !gone(&t, 5) && gone(&t, 6) && gone(&t, 70));
	twin_free(&t);
}

/* Another size: a granule that was short and is not, may be data. */
static void resized(void **state)
{
	static const sector_t lens[] = { 1, 63, 64, 100, 101, 103, 104, 500, 512, 1000 };
	unsigned int i, k;
	u64 g;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		for (k = 0; k < ARRAY_SIZE(lens); k++) {
			make(&from, lens[i], 3, 0);
			make(&to, lens[k], 3, 0);
			twin_discard(&from, 0, lens[i]);
			if (lens[i] > 80)
				twin_write(&from, 77, 1);
			cbw_bits_resize(to.bits, from.bits);
			for (g = 0; g < to.bits->nr; g++) {
				sector_t end = min((g + 1) * 8, lens[k]);
				bool was = end <= lens[i] && (lens[i] <= 80 || g != 9);

				assert_true(bits_test(to.bits, g));
				assert_int_equal(gone(&to, g), was);
			}
			twin_free(&from);
			twin_free(&to);
		}
	}
	make(&from, 100, 3, 0);
	make(&to, 100, 3, 0);
	cbw_bits_forget_discards(from.bits);
	cbw_bits_resize(to.bits, from.bits);
	assert_true(to.bits->forgetful);
	twin_free(&from);
	twin_free(&to);
}

/* A write that marks while a merge adds what was discarded. */
static unsigned int meet_at, meets;

static void write_meets(unsigned long *word)
{
	(void)word;
	if (meets++ != meet_at)
		return;
	shim_meet = NULL;
	cbw_bits_mark_data(to.bits, 8, 8);
	shim_meet = write_meets;
}

/* At each step of the merge; before it and after it, too. */
static void meeting(void **state)
{
	unsigned int shift;

	(void)state;
	for (shift = 0; shift < 4; shift += 3) {
		for (meet_at = 0; meet_at < 8; meet_at++) {
			make(&to, 100, shift, 0);
			make(&from, 100, 0, 0);
			twin_discard(&from, 0, 64);
			meets = 0;
			shim_meet = write_meets;
			cbw_bits_merge(to.bits, from.bits, true);
			shim_meet = NULL;
			if (meets <= meet_at)
				cbw_bits_mark_data(to.bits, 8, 8);
			assert_true(bits_test(to.bits, 8 >> shift) && !gone(&to, 8 >> shift));
			assert_true(bits_test(to.bits, 15 >> shift) && !gone(&to, 15 >> shift));
			/* what it does not touch is as it would be without */
			assert_true(gone(&to, 7 >> shift) && gone(&to, 16 >> shift));
			assert_true(bits_test(to.bits, 7 >> shift));
			twin_free(&to);
			twin_free(&from);
		}
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		bits_test_case(whole),
		bits_test_case(halves),
		bits_test_case(written),
		bits_test_case(no_plane),
		bits_test_case(forgetful),
		bits_test_case(merged),
		bits_test_case(told),
		bits_test_case(resized),
		bits_test_case(meeting),
	};

	bits_args(argc, argv);
	return cmocka_run_group_tests_name("bits-discard", tests, NULL, NULL);
}
