// SPDX-License-Identifier: GPL-2.0-or-later
/* checksums: against the definition, bit by bit, and against themselves in pieces */
#include <time.h>

#include "common.h"
#include "crc.h"
#include "sums.h"

#define MOST	20000u

static unsigned char data[MOST + 64];

/* As the definition has it. */
static uint32_t slow(uint32_t crc, const unsigned char *p, size_t len)
{
	crc = ~crc;
	while (len--) {
		unsigned int k;

		crc ^= *p++;
		for (k = 0; k < 8; k++)
			crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
	}
	return ~crc;
}

static void known(void **state)
{
	(void)state;
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283u);
	assert_int_equal(crc32c(0, NULL, 0), 0);
}

static void any_length(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < 300; i++) {
		size_t len = (unsigned int)rand() % MOST, at = (unsigned int)rand() % 64;
		size_t cut = (unsigned int)rand() % (len + 1);
		uint32_t seed = (uint32_t)rand(), want = slow(seed, data + at, len);
		uint32_t front = crc32c(seed, data + at, cut);

		assert_int_equal(crc32c(seed, data + at, len), want);
		assert_int_equal(crc32c(front, data + at + cut, len - cut), want);
		assert_int_equal(crc32c_combine(front, crc32c(0, data + at + cut, len - cut),
						len - cut), want);
	}
}

/* Pieces of several clusters and single ones give the same, of a range and of all. */
static void ranges(void **state)
{
	const size_t cluster = 4096;
	struct sums one, more;
	uint64_t at;
	uint32_t crc;

	(void)state;
	sums_init(&one, 3ull * SUMS_RANGE - 512);
	sums_init(&more, 3ull * SUMS_RANGE - 512);
	assert_int_equal(one.nr, 3);
	for (at = SUMS_RANGE - 4 * cluster; at < SUMS_RANGE + 4 * cluster; at += 2 * cluster) {
		crc = crc_cluster(0, at, data, cluster);
		sums_add(&one, at, crc, CRC_CLUSTER_BYTES(cluster));
		sums_add(&one, at + cluster, crc_cluster(0, at + cluster, data + 512, cluster),
			 CRC_CLUSTER_BYTES(cluster));
		crc = crc_cluster(crc, at + cluster, data + 512, cluster);
		sums_add(&more, at, crc, 2 * CRC_CLUSTER_BYTES(cluster));
	}
	assert_int_equal(one.total, more.total);
	assert_int_equal(one.crc[0], more.crc[0]);
	assert_int_equal(one.crc[1], more.crc[1]);
	assert_int_not_equal(one.crc[0], one.crc[1]);
	assert_int_equal(one.crc[2], 0);
	/* the total goes over both, from the first cluster to the last */
	crc = 0;
	for (at = SUMS_RANGE - 4 * cluster; at < SUMS_RANGE + 4 * cluster; at += 2 * cluster) {
		crc = crc_cluster(crc, at, data, cluster);
		crc = crc_cluster(crc, at + cluster, data + 512, cluster);
	}
	assert_int_equal(one.total, crc);
	sums_free(&one);
	sums_free(&more);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known),
		cmocka_unit_test(any_length),
		cmocka_unit_test(ranges),
	};
	unsigned int seed = (unsigned int)time(NULL);
	size_t i;

	print_message("# seed %u\n", seed);
	srand(seed);
	for (i = 0; i < sizeof(data); i++)
		data[i] = (unsigned char)rand();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
