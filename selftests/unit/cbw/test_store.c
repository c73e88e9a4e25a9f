// SPDX-License-Identifier: GPL-2.0-or-later
/* how large a store is, and when it has to grow */
#include "common.h"
#include "store.h"

#define MIB	(1ull << 20)

static void first(void **state)
{
	(void)state;
	assert_int_equal(store_first_size(100 * MIB, 100 * MIB), 100 * MIB);
	assert_int_equal(store_first_size(10240 * MIB, 10240 * MIB), 320 * MIB);
	assert_int_equal(store_first_size(1024 * MIB, 1024 * MIB), STORE_FIRST_MIN);
	assert_int_equal(store_first_size(1ull << 50, 1ull << 50), STORE_FIRST_MAX);
	/* an increment of little */
	assert_int_equal(store_first_size(1ull << 40, 3 * MIB), STORE_ALIGN);
	assert_int_equal(store_first_size(1ull << 40, 0), STORE_ALIGN);
}

static void next(void **state)
{
	uint64_t size, most = 1000 * MIB;

	(void)state;
	/* less than four fifths, and nothing comes */
	assert_int_equal(store_next_size(100 * MIB, 79 * MIB, 0, most), 100 * MIB);
	assert_true(store_next_size(100 * MIB, 80 * MIB, 0, most) >= 150 * MIB);
	/* by what comes */
	assert_int_equal(store_next_size(100 * MIB, 10 * MIB, 20 * MIB, most), 100 * MIB);
	assert_true(store_next_size(100 * MIB, 30 * MIB, 20 * MIB, most) > 100 * MIB);
	assert_true(store_next_size(100 * MIB, 10 * MIB, 100 * MIB, most) >= 900 * MIB);
	/* up to the limit, and not beyond, and never less */
	assert_int_equal(store_next_size(900 * MIB, 890 * MIB, 0, most), most);
	assert_int_equal(store_next_size(most, most, 100 * MIB, most), most);
	assert_int_equal(store_next_size(2 * most, 2 * most, 0, most), 2 * most);
	for (size = STORE_ALIGN; size < most;) {
		uint64_t more = store_next_size(size, size, 0, most);

		assert_true(more > size);
		size = more;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first),
		cmocka_unit_test(next),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
