// SPDX-License-Identifier: GPL-2.0-or-later
/* random operations on the chunk map, against arrays */
#include "common.h"

#define NR		(3u * 65536 + 777)
#define OPS		300000u

enum mark { FREE, RESERVED, SET };

static struct cbw_map map;
static u32 entry[NR];
static unsigned char mark[NR];
static u64 nr_enomem, nr_edquot, nr_reserve, nr_most, nr_set;

/* Mostly in a few leaves, which fill; some at the ends of directories and of the device. */
static u32 any_chunk(void)
{
	switch (rnd(8)) {
	case 0:
		return rnd(NR);
	case 1:
		return NR - 1 - rnd(300);
	case 2:
		return 65536 - 200 + rnd(400);
	case 3:
		return rnd(256);
	default:
		return 2 * 65536 + rnd(12) * 300;
	}
}

/* Entries of neighbours are often consecutive, or poison. */
static u32 any_val(u32 chunk)
{
	switch (rnd(10)) {
	case 0:
		return CBW_SLOT_POISON;
	case 1:
		return 1 + rnd(U32_MAX - 1);
	case 2:
		return U32_MAX - 1;
	case 3:
		return chunk && entry[chunk - 1] && entry[chunk - 1] < U32_MAX - 1 ?
			entry[chunk - 1] + 1 : CBW_SLOT_POISON;
	default:
		return chunk + 1000;
	}
}

/* How many chunks from @chunk on are in state @m, in its block of 64 and at most @most. */
static unsigned int same(u32 chunk, enum mark m, unsigned int most)
{
	unsigned int n = 0;

	while (n < most && chunk + n < NR && mark[chunk + n] == m &&
	       (!n || (chunk + n) % CBW_MAP_RUN_MAX))
		n++;
	return n;
}

static void check_one(u32 chunk)
{
	assert_int_equal(cbw_map_get(&map, chunk), entry[chunk]);
}

static void check_run(u32 chunk, unsigned int max)
{
	u32 first = entry[chunk], step = first && first != U32_MAX;
	unsigned int n = 0;

	while (n < max && chunk + n < NR && entry[chunk + n] == first + n * step &&
	       (!n || !step || entry[chunk + n] != U32_MAX))
		n++;
	assert_int_equal(cbw_map_run(&map, chunk, max), n);
}

static void check_all(void)
{
	u32 chunk;

	for (chunk = 0; chunk < NR; chunk++)
		check_one(chunk);
	assert_int_equal(cbw_map_bytes(&map), shim_live);
	assert_int_equal(shim_warnings, 0);
}

static void op_reserve(u32 chunk)
{
	unsigned int n = same(chunk, FREE, 1 + rnd(rnd(2) ? CBW_MAP_RUN_MAX : 3));
	u64 bytes = cbw_map_bytes(&map);
	int ret;

	if (!n)
		return;
	nr_reserve++;
	ret = cbw_map_reserve(&map, chunk, n);
	if (!ret) {
		memset(mark + chunk, RESERVED, n);
		return;
	}
	/* Only when it may be so, and nothing has changed. */
	if (ret == -ENOMEM) {
		nr_enomem++;
		assert_true(shim_fail_percent);
		assert_true(cbw_map_low(&map));
	} else {
		assert_int_equal(ret, -EDQUOT);
		nr_edquot++;
		assert_true(*shim_map_limit_mib == 0);
	}
	assert_int_equal(cbw_map_bytes(&map), bytes);
}

static void op_set(u32 chunk)
{
	unsigned int n = same(chunk, RESERVED, 1 + rnd(64));

	/* A part of a reservation, forwards or backwards. */
	for (u32 c = chunk, back = rnd(2), i = 0; i < n; i++) {
		c = back ? chunk + n - 1 - i : chunk + i;
		entry[c] = any_val(c);
		mark[c] = SET;
		nr_set++;
		cbw_map_set(&map, c, entry[c]);
	}
}

static void op_unreserve(u32 chunk)
{
	unsigned int n = same(chunk, RESERVED, 1 + rnd(64));

	cbw_map_unreserve(&map, chunk, n);
	memset(mark + chunk, FREE, n);
}

static void op_clear(u32 chunk)
{
	unsigned int n = rnd(4) ? 1 : 1 + rnd(100);

	for (; n-- && chunk < NR; chunk++) {
		cbw_map_clear(&map, chunk);
		entry[chunk] = CBW_SLOT_NONE;
		if (mark[chunk] == SET)
			mark[chunk] = FREE;
	}
}

/* Of 100: fail so many allocations; limit: now and then there is none to be had. */
static void run(u64 seed, unsigned int fail, bool with_limit)
{
	unsigned int op, weight_clear = 1;
	u64 base;
	u32 chunk;

	rnd_seed("random", seed);
	shim_reset(NULL);
	memset(entry, 0, sizeof(entry));
	memset(mark, FREE, sizeof(mark));
	nr_enomem = nr_edquot = nr_reserve = nr_most = nr_set = 0;
	assert_int_equal(cbw_map_init(&map, NR, &shim_lock), 0);
	base = shim_live;
	lock();
	for (op = 0; op < OPS; op++) {
		/* Phases in which it fills, and in which it empties. */
		if (!rnd(5000))
			weight_clear = 1 + rnd(12);
		if (!rnd(2000)) {
			shim_fail_percent = rnd(2) ? fail : 0;
			*shim_map_limit_mib = with_limit && !rnd(2) ? 0 : 1024;
		}
		chunk = any_chunk();
		switch (rnd(13 + weight_clear)) {
		case 0 ... 4:
			op_reserve(chunk);
			break;
		case 5 ... 8:
			op_set(chunk);
			break;
		case 9:
			op_unreserve(chunk);
			break;
		case 10:
			check_one(chunk);
			break;
		case 11:
			check_run(chunk, 1 + rnd(rnd(2) ? 2000 : 20));
			break;
		case 12:
			if (!cbw_map_low(&map) || rnd(10))
				break;
			unlock();
			if (!cbw_map_refill(&map, GFP_KERNEL))
				assert_false(cbw_map_low(&map));
			else
				assert_true(shim_fail_percent);
			lock();
			break;
		default:
			op_clear(chunk);
		}
		assert_int_equal(cbw_map_bytes(&map), shim_live);
		nr_most = shim_live > nr_most ? shim_live : nr_most;
		if (op % (OPS / 8) == 0)
			check_all();
	}
	check_all();
	printf("# %llu reservations, %llu entries; %llu -ENOMEM, %llu -EDQUOT; most %llu KiB\n",
	       nr_reserve, nr_set, nr_enomem, nr_edquot, nr_most >> 10);
	assert_true(fail < 90 || nr_enomem);
	assert_true(!with_limit || nr_edquot);
	/* Half of the runs leave it as it is for cbw_map_exit(). */
	if (seed % 2) {
		for (chunk = 0; chunk < NR; chunk++)
			if (mark[chunk] == SET)
				cbw_map_clear(&map, chunk);
			else if (mark[chunk] == RESERVED)
				cbw_map_unreserve(&map, chunk, 1);
		assert_true(shim_live <= base);
		unlock();
		shim_fail_percent = 0;
		assert_int_equal(cbw_map_refill(&map, GFP_KERNEL), 0);
		assert_int_equal(shim_live, base);
		assert_int_equal(cbw_map_bytes(&map), base);
	} else {
		unlock();
	}
	assert_int_equal(shim_warnings, 0);
	cbw_map_exit(&map);
	assert_int_equal(shim_live, 0);
}

static void plain(void **state)
{
	(void)state;
	run(1, 0, false);
	run(2, 0, false);
}

static void memory_fails(void **state)
{
	(void)state;
	run(3, 50, false);
	run(4, 100, false);
	run(5, 95, false);
}

static void limited(void **state)
{
	(void)state;
	run(6, 0, true);
	run(7, 80, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(plain, shim_reset, shim_check),
		cmocka_unit_test_setup_teardown(memory_fails, shim_reset, shim_check),
		cmocka_unit_test_setup_teardown(limited, shim_reset, shim_check),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
