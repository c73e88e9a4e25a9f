// SPDX-License-Identifier: GPL-2.0-or-later
/* bits of a volume, against bytes; what of a range counts inwards, and what outwards */
#include "common.h"
#include "export.h"

#define UNIT	4096u

static void check(const struct plane *p, const char *ref, uint64_t size, uint64_t at, uint64_t len)
{
	uint64_t run = 0, n;
	bool is = plane_run(p, at, len, &run);

	assert_int_equal(is, ref[at / UNIT]);
	assert_in_range(run, 1, len);
	for (n = at / UNIT; n <= (at + run - 1) / UNIT; n++)
		if (ref[n] != is)
			fail_msg("from %llu, unit %llu is another", (ull)at, (ull)n);
	/* all of it */
	if (run < len)
		assert_int_not_equal(ref[(at + run) / UNIT], is);
	assert_true(at + run <= size);
}

static void against_bytes(void **state)
{
	const uint64_t size = 300 * UNIT + 512;
	struct cbw_error err;
	unsigned int round, i;

	(void)state;
	for (round = 0; round < 200; round++) {
		struct plane p;
		char ref[301] = { 0 };

		srand(round);
		assert_int_equal(plane_init(&p, size, UNIT, &err), 0);
		assert_int_equal(p.bits, 301);
		for (i = 0; i < round / 10; i++) {
			uint64_t at = (uint64_t)rand() % size, len = (uint64_t)rand() % (size - at);
			uint64_t u;

			if (rand() % 2)
				len %= 64 * UNIT;
			if (rand() % 4 == 0)
				len = size - at;
			if (rand() % 2) {
				plane_set_touched(&p, at, len);
				for (u = at / UNIT; len && u <= (at + len - 1) / UNIT; u++)
					ref[u] = 1;
				continue;
			}
			plane_set_inside(&p, at, len, size);
			for (u = 0; u < 301; u++) {
				uint64_t end = u == 300 ? size : (u + 1) * UNIT;

				if (len && at <= u * UNIT && end <= at + len)
					ref[u] = 1;
			}
		}
		for (i = 0; i < 200; i++) {
			uint64_t at = (uint64_t)rand() % size;

			check(&p, ref, size, at, 1 + (uint64_t)rand() % (size - at));
			check(&p, ref, size, at, size - at);
		}
		plane_free(&p);
	}
}

/* A run may be longer than one word has bits, and than 4 GiB. */
static void large(void **state)
{
	const uint64_t size = 1ull << 44;
	struct cbw_error err;
	struct plane p;
	uint64_t run;

	(void)state;
	assert_int_equal(plane_init(&p, size, 65536, &err), 0);
	assert_false(plane_run(&p, 0, size, &run));
	assert_int_equal(run, size);
	plane_set_touched(&p, size - 1, 1);
	assert_false(plane_run(&p, 5, size - 5, &run));
	assert_int_equal(run, size - 65536 - 5);
	assert_true(plane_run(&p, size - 65536, 65536, &run));
	plane_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(against_bytes),
		cmocka_unit_test(large),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
