// SPDX-License-Identifier: GPL-2.0-or-later
/* what an increment reads: against the same thing, unit by unit */
#include "common.h"
#include "ranges.h"

#define SECTORS	128

/* 0 clean, 1 dirty, 2 discarded: runs of granules; then the answer for each unit. */
static void one(unsigned int granule, unsigned int unit, unsigned int size)
{
	char map[SECTORS], want[SECTORS], got[SECTORS];
	struct ranges data = { 0 }, zero = { 0 };
	unsigned int i, k, end;

	for (i = 0; i < size; i += granule) {
		char what = (char)(rand() % 4 ? rand() % 3 : 2);

		if (i && rand() % 3)
			what = map[i - 1];
		for (k = i; k < i + granule && k < size; k++)
			map[k] = what;
		if (what)
			ranges_add(what == 2 ? &zero : &data, i * 512ull, (k - i) * 512ull);
	}
	for (i = 0; i < size; i = end) {
		bool any = false, all = true;

		end = i + unit < size ? i + unit : size;
		for (k = i; k < end; k++) {
			any |= map[k] != 0;
			all &= map[k] == 2;
		}
		memset(want + i, !any ? 'c' : all ? 'z' : 'd', end - i);
	}
	ranges_align(&data, &zero, unit * 512ull, size * 512ull);
	memset(got, 'c', sizeof(got));
	for (i = 0; i < data.nr; i++)
		memset(got + data.v[i].offset / 512, 'd', data.v[i].length / 512);
	for (i = 0; i < zero.nr; i++)
		for (k = 0; k < zero.v[i].length / 512; k++) {
			assert_int_equal(got[zero.v[i].offset / 512 + k], 'c');
			got[zero.v[i].offset / 512 + k] = 'z';
		}
	if (memcmp(want, got, size))
		fail_msg("granule %u, unit %u, %u sectors:\nwant %.*s\ngot  %.*s", granule, unit,
			 size, (int)size, want, (int)size, got);
	ranges_from(&data, 512ull * (size / 2));
	for (i = 0; i < data.nr; i++)
		assert_true(data.v[i].offset >= 512ull * (size / 2));
	assert_true(ranges_total(&data) <= 512ull * (size - size / 2));
	ranges_free(&data);
	ranges_free(&zero);
}

static void split(void **state)
{
	unsigned int i;

	(void)state;
	srand(7);
	for (i = 0; i < 20000; i++) {
		unsigned int granule = 1u << rand() % 5, unit = granule << rand() % 3;

		one(granule, unit, 1 + (unsigned int)rand() % SECTORS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(split),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
