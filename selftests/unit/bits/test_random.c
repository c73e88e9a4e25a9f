// SPDX-License-Identifier: GPL-2.0-or-later
/* programs of random bytes, as the fuzzer runs them */
#include "common.h"
#include "program.h"

static void run(const char *test, u64 seed, unsigned int programs, size_t most)
{
	u8 data[4096];
	size_t i, size;

	rnd_seed(test, seed);
	while (programs--) {
		size = 1 + rnd(most);
		for (i = 0; i < size; i++)
			data[i] = rnd(256);
		program_run(data, size);
	}
}

static void random_short(void **state)
{
	(void)state;
	run("random_short", 1, 400, 60);
}

static void random_long(void **state)
{
	(void)state;
	run("random_long", 2, 60, 4096);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		bits_test_case(random_short),
		bits_test_case(random_long),
	};

	bits_args(argc, argv);
	return cmocka_run_group_tests_name("bits-random", tests, NULL, NULL);
}
