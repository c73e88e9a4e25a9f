// SPDX-License-Identifier: GPL-2.0-or-later
/* how much memory the chunk map takes, what it does without, and its limit */
#include "common.h"

#define TIB_CHUNKS	(1ull << 28)	/* of 4 KiB */
#define DIR_CHUNKS	65536u
#define DIR_BYTES	4096u

static struct cbw_map map;

static void empty(void **state)
{
	static const u64 tib[] = { 1, 2, 3, 64 };
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(tib); i++) {
		assert_int_equal(cbw_map_init(&map, tib[i] * TIB_CHUNKS, &shim_lock), 0);
		assert_int_equal(cbw_map_bytes(&map), shim_live);
		printf("# empty, %llu TiB: %llu KiB\n", tib[i], shim_live >> 10);
		assert_true(shim_live <= tib[i] << 16);
		/* The array of directories, and the reserve. */
		assert_true(shim_live <= (tib[i] << 15) + (32 << 10));
		cbw_map_exit(&map);
		assert_int_equal(shim_live, 0);
	}
	/* One chunk, one directory, and one chunk more. */
	for (i = 0; i < 3; i++) {
		static const u64 nr[] = { 1, DIR_CHUNKS, DIR_CHUNKS + 1 };

		assert_int_equal(cbw_map_init(&map, nr[i], &shim_lock), 0);
		assert_int_equal(cbw_map_bytes(&map), shim_live);
		assert_int_equal(put(&map, nr[i] - 1, 1, 77), 0);
		lock();
		assert_int_equal(cbw_map_get(&map, nr[i] - 1), 77);
		assert_int_equal(cbw_map_run(&map, nr[i] - 1, 10), 1);
		unlock();
		cbw_map_exit(&map);
		assert_int_equal(shim_live, 0);
	}
}

/* Preserve @percent of the chunks of 16 GiB in runs of @run; bytes per chunk. */
static double fill(unsigned int percent, unsigned int run)
{
	u64 nr = TIB_CHUNKS / 64, chunk, base, set = 0;
	double each;

	assert_int_equal(cbw_map_init(&map, nr, &shim_lock), 0);
	base = shim_live;
	for (chunk = 0; chunk < nr; chunk += run) {
		if (rnd(100) >= percent)
			continue;
		assert_int_equal(put(&map, chunk, run, 1 + chunk), 0);
		set += run;
	}
	assert_int_equal(cbw_map_bytes(&map), shim_live);
	each = (double)shim_live / set;
	printf("# %u %% in runs of %u: %.2f bytes each, %.2f without what is there at first\n",
	       percent, run, each, (double)(shim_live - base) / set);
	cbw_map_exit(&map);
	assert_int_equal(shim_live, 0);
	return each;
}

/* Preserve @percent of the chunks of 16 GiB one by one in random order; bytes per chunk. */
static double scatter(unsigned int percent)
{
	u64 nr = TIB_CHUNKS / 64, left = nr * percent / 100, set = left;
	double each;

	assert_int_equal(cbw_map_init(&map, nr, &shim_lock), 0);
	while (left) {
		u64 chunk = rnd(nr);
		u32 entry;

		lock();
		entry = cbw_map_get(&map, chunk);
		unlock();
		if (entry != CBW_SLOT_NONE)
			continue;
		assert_int_equal(put(&map, chunk, 1, left--), 0);
	}
	assert_int_equal(cbw_map_bytes(&map), shim_live);
	each = (double)shim_live / set;
	printf("# %u %% one by one: %.2f bytes each\n", percent, each);
	cbw_map_exit(&map);
	return each;
}

static void figures(void **state)
{
	double each;

	(void)state;
	rnd_seed("figures", 1);
	each = scatter(10);
	assert_true(each <= 24 && each / sizeof(u32) <= 8);
	scatter(1);
	scatter(50);
	each = fill(10, 1);
	assert_true(each <= 24 && each / sizeof(u32) <= 8);
	assert_true(fill(10, 8) <= 24);
	assert_true(fill(10, 64) <= 24);
	assert_true(fill(100, 1) <= 5);
	assert_true(fill(100, 64) <= 5);
}

/* When what was reserved for is given back or cleared, its memory is, too. */
static void gives_back(void **state)
{
	u64 base, chunk, i;

	(void)state;
	rnd_seed("gives_back", 2);
	assert_int_equal(cbw_map_init(&map, TIB_CHUNKS, &shim_lock), 0);
	base = shim_live;
	lock();
	assert_int_equal(cbw_map_reserve(&map, 5 * DIR_CHUNKS, 64), 0);
	assert_true(shim_live > base);
	cbw_map_unreserve(&map, 5 * DIR_CHUNKS + 1, 63);
	cbw_map_unreserve(&map, 5 * DIR_CHUNKS, 0);
	/* What is left needs no more than the smallest leaf. */
	assert_int_equal(shim_live, base + DIR_BYTES + 64);
	cbw_map_unreserve(&map, 5 * DIR_CHUNKS, 1);
	assert_int_equal(shim_live, base);
	unlock();

	for (chunk = 0; chunk < 2 * DIR_CHUNKS; chunk += 64)
		assert_int_equal(put(&map, chunk, 64, 1 + chunk), 0);
	lock();
	/* One of 256 is left. */
	for (chunk = 0; chunk < 2 * DIR_CHUNKS; chunk++)
		if (chunk % 256 != 200)
			cbw_map_clear(&map, chunk);
	assert_true(shim_live <= base + 2 * DIR_BYTES + 2 * DIR_CHUNKS / 256 * 64);
	for (i = 0; i < 2 * DIR_CHUNKS / 256; i++) {
		assert_int_equal(cbw_map_get(&map, i * 256 + 200), 1 + i * 256 + 200);
		cbw_map_clear(&map, i * 256 + 200);
		cbw_map_clear(&map, i * 256 + 200);
	}
	unlock();
	assert_int_equal(shim_live, base);
	assert_int_equal(cbw_map_bytes(&map), base);
	assert_false(cbw_map_low(&map));
	cbw_map_exit(&map);
	/* Harmless. */
	cbw_map_exit(&map);
}

/* No memory at all: as far as the reserve goes, and again when it is refilled. */
static void reserve(void **state)
{
	const unsigned int dirs = 4, leaves = 12;
	u64 chunk = 0, bytes, calls;
	unsigned int round, i;

	(void)state;
	assert_int_equal(cbw_map_init(&map, TIB_CHUNKS, &shim_lock), 0);
	assert_false(cbw_map_low(&map));
	for (round = 0; round < 3; round++) {
		shim_fail_percent = 100;
		for (i = 0; i < dirs; i++, chunk += DIR_CHUNKS)
			assert_int_equal(put(&map, chunk, 64, 1 + chunk), 0);
		assert_true(cbw_map_low(&map));
		bytes = cbw_map_bytes(&map);
		/* A new directory is needed: no way, and no leaf is lost by that. */
		assert_int_equal(put(&map, chunk, 1, 1), -ENOMEM);
		assert_int_equal(put(&map, chunk, 1, 1), -ENOMEM);
		for (i = 0; i < leaves - dirs; i++)
			assert_int_equal(put(&map, chunk - DIR_CHUNKS + 256 * (i + 1), 1, 9), 0);
		assert_int_equal(put(&map, chunk - 256, 1, 1), -ENOMEM);
		assert_int_equal(cbw_map_bytes(&map), bytes);
		/* A leaf of the reserve has room for all of its chunks. */
		calls = shim_calls;
		assert_int_equal(put(&map, chunk - DIR_CHUNKS + 64, 64, 1), 0);
		assert_int_equal(put(&map, chunk - DIR_CHUNKS + 128, 64, 1), 0);
		assert_int_equal(put(&map, chunk - DIR_CHUNKS + 192, 64, 1), 0);
		assert_int_equal(shim_calls, calls);
		assert_int_equal(cbw_map_refill(&map, GFP_KERNEL), -ENOMEM);
		assert_true(cbw_map_low(&map));
		shim_fail_percent = 0;
		assert_int_equal(cbw_map_refill(&map, GFP_NOWAIT), 0);
		assert_false(cbw_map_low(&map));
		assert_int_equal(cbw_map_bytes(&map), shim_live);
	}
	/* A directory but no leaf: the directory is not lost. */
	shim_fail_percent = 100;
	for (i = 0; i < leaves; i++)
		assert_int_equal(put(&map, chunk - DIR_CHUNKS + 256 * (i + 20), 1, 9), 0);
	for (i = 0; i < 2 * dirs; i++)
		assert_int_equal(put(&map, chunk + i * DIR_CHUNKS, 1, 1), -ENOMEM);
	/* What is freed fills the reserve first. */
	lock();
	bytes = cbw_map_bytes(&map);
	for (i = 0; i < leaves; i++)
		cbw_map_clear(&map, chunk - DIR_CHUNKS + 256 * (i + 20));
	unlock();
	assert_false(cbw_map_low(&map));
	assert_int_equal(cbw_map_bytes(&map), bytes);
	cbw_map_exit(&map);
}

/* Whichever allocation fails: no leak, and afterwards the reserve hides it. */
static void one_fails(void **state)
{
	u64 k, chunk, calls = 1;
	unsigned int i;

	(void)state;
	for (k = 1; k <= calls; k++) {
		shim_calls = 0;
		shim_fail_at = k;
		if (cbw_map_init(&map, 3 * DIR_CHUNKS, &shim_lock)) {
			assert_int_equal(shim_live, 0);
			assert_int_equal(shim_calls, k);
			calls = k + 1;
			continue;
		}
		for (i = 0; i < 3; i++)
			for (chunk = 0; chunk < 256; chunk++)
				assert_int_equal(put(&map, i * DIR_CHUNKS + chunk * 3, 1, 1 + chunk), 0);
		lock();
		for (i = 0; i < 3; i++)
			for (chunk = 0; chunk < 256; chunk++)
				assert_int_equal(cbw_map_get(&map, i * DIR_CHUNKS + chunk * 3), 1 + chunk);
		for (i = 0; i < 3; i++)
			for (chunk = 0; chunk < 256; chunk++) {
				cbw_map_clear(&map, i * DIR_CHUNKS + chunk * 3);
				assert_int_equal(cbw_map_get(&map, i * DIR_CHUNKS + chunk * 3), 0);
				if (chunk < 255)
					assert_int_equal(cbw_map_get(&map, i * DIR_CHUNKS + 765), 256);
			}
		unlock();
		assert_int_equal(cbw_map_refill(&map, GFP_KERNEL), 0);
		assert_int_equal(cbw_map_bytes(&map), shim_live);
		calls = shim_calls;
		cbw_map_exit(&map);
		assert_int_equal(shim_live, 0);
	}
	assert_true(k > 40);
}

static void limit(void **state)
{
	u64 chunk, n = 0, last;

	(void)state;
	*shim_map_limit_mib = 1;
	assert_int_equal(cbw_map_init(&map, TIB_CHUNKS, &shim_lock), 0);
	for (chunk = 0; !put(&map, chunk, 64, 1 + chunk); chunk += 64)
		n += 64;
	assert_int_equal(put(&map, chunk, 64, 1), -EDQUOT);
	assert_true(shim_live <= 1 << 20);
	assert_true(shim_live > (1 << 20) - 8192);
	assert_true(n > 200000);
	last = chunk - 1;
	lock();
	assert_int_equal(cbw_map_run(&map, 0, n + 1), n);
	assert_int_equal(cbw_map_get(&map, last), 1 + last);
	/* Room again. */
	for (chunk = 0; chunk < 2048; chunk++)
		cbw_map_clear(&map, chunk);
	unlock();
	assert_int_equal(put(&map, last + 1, 64, 1), 0);
	/* The limit may change. */
	*shim_map_limit_mib = 0;
	assert_int_equal(put(&map, DIR_CHUNKS * 2000, 1, 1), -EDQUOT);
	/* No memory is needed for it: an entry of a leaf that has room. */
	lock();
	cbw_map_clear(&map, last);
	unlock();
	assert_int_equal(put(&map, last, 1, 1), 0);
	*shim_map_limit_mib = ~0ul;
	assert_int_equal(put(&map, DIR_CHUNKS * 2000, 1, 1), 0);
	assert_int_equal(cbw_map_bytes(&map), shim_live);
	cbw_map_exit(&map);
}

/* What a caller must not do is seen and does no harm. */
static void misuse(void **state)
{
	(void)state;
	assert_int_equal(cbw_map_init(&map, TIB_CHUNKS, &shim_lock), 0);
	lock();
	cbw_map_set(&map, 5, 1);
	assert_int_equal(shim_warnings, 1);
	assert_int_equal(cbw_map_reserve(&map, 5, 2), 0);
	cbw_map_set(&map, 5, CBW_SLOT_NONE);
	assert_int_equal(shim_warnings, 2);
	cbw_map_set(&map, 5, 9);
	assert_int_equal(shim_warnings, 2);
	cbw_map_set(&map, 5, 8);
	assert_int_equal(shim_warnings, 3);
	assert_int_equal(cbw_map_get(&map, 5), 9);
	cbw_map_unreserve(&map, 5, 2);
	assert_int_equal(shim_warnings, 4);
	cbw_map_unreserve(&map, 5, 1);
	assert_int_equal(shim_warnings, 4);
	unlock();
	shim_warnings = 0;
	cbw_map_exit(&map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(empty, shim_reset, shim_check),
		cmocka_unit_test_setup_teardown(figures, shim_reset, shim_check),
		cmocka_unit_test_setup_teardown(gives_back, shim_reset, shim_check),
		cmocka_unit_test_setup_teardown(reserve, shim_reset, shim_check),
		cmocka_unit_test_setup_teardown(one_fails, shim_reset, shim_check),
		cmocka_unit_test_setup_teardown(limit, shim_reset, shim_check),
		cmocka_unit_test_setup_teardown(misuse, shim_reset, shim_check),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
