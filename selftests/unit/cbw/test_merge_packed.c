// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merges that have begun, and meet a compressed cluster that cannot be decompressed any more:
 * they can be ended, what can be read is kept, and the rest stays known as damaged.
 */
#include <unistd.h>

#include "cutoff.h"
#include "qcow2.h"
#include "restore.h"

#define BLOCK	512u

struct kind {
	const char *name;
	uint32_t low, up;
	unsigned int low_flags, up_flags;
	bool lower;		/* it is hit, else the upper one */
	enum { ANY, UNCOVERED, IN_PART } where;	/* by the upper one */
	const char *says;	/* by check -r; NULL: the merge just ends */
	bool fails;		/* afterwards it cannot be read, else it reads as something else */
};

static enum qcow2_run_type type_at(struct qcow2_image *img, uint64_t at, uint64_t *len)
{
	struct qcow2_error err;
	struct qcow2_run r;

	assert_int_equal(qcow2_map_layer(img, 0, at, qcow2_size(img) - at, &r, &err), 0);
	if (len)
		*len = r.length;
	return r.type;
}

/* How much of a piece the upper image has. */
static uint64_t covered(struct qcow2_image *up, uint64_t at, uint64_t len)
{
	uint64_t end = at + len, sum = 0, n;

	for (; at < end; at += n) {
		bool has = type_at(up, at, &n) != QCOW2_RUN_UNALLOCATED;

		n = n < end - at ? n : end - at;
		sum += has ? n : 0;
	}
	return sum;
}

/* A compressed cluster that is hit as @k says; 1 MiB and up. */
static uint64_t find(const struct points *p, const struct kind *k)
{
	struct qcow2_image *low = image_of(p, "000001-full.qcow2");
	struct qcow2_image *up = image_of(p, "000002-inc.qcow2");
	struct qcow2_image *img = k->lower ? low : up;
	uint32_t cluster = k->lower ? k->low : k->up;
	uint64_t at, has;

	for (at = MIB; at + cluster <= p->size; at += cluster) {
		if (type_at(img, at, NULL) != QCOW2_RUN_COMPRESSED)
			continue;
		has = covered(up, at, cluster);
		if (!k->lower || k->where == ANY || (k->where == UNCOVERED ? !has :
		    has && has < cluster))
			break;
	}
	assert_true(at + cluster <= p->size);
	qcow2_close(low);
	qcow2_close(up);
	return at;
}

/* Its beginning is made something that is no frame of zstd, and no block of deflate. */
static void spoil(const struct points *p, const char *file, uint64_t at, uint32_t cluster)
{
	unsigned int shift = 62 - ((unsigned int)__builtin_ctz(cluster) - 8);
	uint64_t entry = number_at(p, file, l2_place(p, file, at));
	struct qcow2_image *img;
	struct qcow2_error err;
	char buf[BLOCK];

	assert_true(entry & 1ull << 62);
	put_at(p, file, entry & ((1ull << shift) - 1), "\xff\xff\xff\xff", 4);
	img = image_of(p, file);
	assert_int_equal(qcow2_read(img, at, buf, sizeof(buf), &err), -EUCLEAN);
	qcow2_close(img);
}

/* All of point in time 2 but @len bytes at @at reads as it has to; how many blocks there do not. */
static unsigned int reads_but(const struct points *p, uint64_t at, uint64_t len, unsigned int *fail)
{
	unsigned char buf[BLOCK];
	unsigned int other = 0;
	struct qcow2_image *img;
	struct qcow2_error qerr;
	struct cbw_error err;
	struct chain c;
	uint64_t i;

	*fail = 0;
	assert_int_equal(chain_open(p->dir, false, &c, &err), 0);
	assert_int_equal(open_entry(&c, chain_by_id(&c, 2), &img, &err), 0);
	for (i = 0; i < p->size; i += BLOCK) {
		bool bad = qcow2_read(img, i, buf, BLOCK, &qerr);
		bool same = !bad && !memcmp(buf, p->data[2] + i, BLOCK);

		if (!same && (i < at || i >= at + len))
			fail_msg("byte %llu: %s", (ull)i, bad ? qerr.msg : "it is something else");
		*fail += bad;
		other += !bad && !same;
	}
	qcow2_close(img);
	chain_close(&c);
	return other;
}

static void one(const struct kind *k, bool punch, bool lost)
{
	const char *file = k->lower ? "000001-full.qcow2" : "000002-inc.qcow2";
	uint32_t cluster = k->lower ? k->low : k->up;
	unsigned int fail, other;
	char *dir = xasprintf("%s/packed", top);
	struct points p;
	uint64_t at;

	srand(31);
	points_init(&p, dir, 6 * MIB + 512);
	free(dir);
	points_add(&p, 0, k->low, k->low_flags, 1);
	points_add(&p, 1, k->up, k->up_flags, 2);
	points_add(&p, 2, 65536, 0, 3);
	at = find(&p, k);
	begun(&p, 2, punch, 0);
	if (lost)
		run_in(&p, "rm merge.json");
	spoil(&p, file, at, cluster);
	printf("# %s%s%s: %s at %llu\n", k->name, punch ? ", punched" : "",
	       lost ? ", sums lost" : "", file, (ull)at);
	if (!k->says && !lost) {
		tool(cmd_chain, &p, "chain merge DIR", EXIT_OK, NULL);
		points_are(&p, "2 3");
		points_check(&p, true);
		tool(cmd_verify, &p, "verify DIR", EXIT_OK, NULL);
		goto out;
	}
	tool(cmd_chain, &p, "chain merge DIR", EXIT_DISTRUST, "cbw check -r");
	points_are(&p, "1 2 3");
	tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, k->says ? k->says : "nothing tells whether");
	points_are(&p, "2 3");
	tool(cmd_check, &p, "check DIR", EXIT_OK, NULL);
	other = reads_but(&p, at, cluster, &fail);
	if (k->says) {
		tool(cmd_verify, &p, "verify DIR", EXIT_DISTRUST, k->fails ? "it cannot be read" :
		     "the checksum does not fit");
		assert_int_equal(!!fail, k->fails);
		assert_int_equal(!!other, !k->fails);
	} else {
		assert_int_equal(fail + other, 0);
	}
out:
	drop(&p);
}

static const struct kind kinds[] = {
	{ "as it is, zstd", 65536, 65536, POINT_ZSTD, POINT_ZSTD | POINT_DENSE, false, ANY, "they stay what they are", true },
	{ "as it is, deflate", 65536, 65536, POINT_DEFLATE, POINT_DEFLATE | POINT_DENSE, false, ANY, "they stay what they are", true },
	{ "deflate to zstd", 65536, 65536, POINT_ZSTD, POINT_DEFLATE | POINT_DENSE, false, ANY, "they stay what they are", true },
	{ "zstd to deflate", 65536, 65536, POINT_DEFLATE, POINT_ZSTD | POINT_DENSE, false, ANY, "they stay what they are", true },
	{ "large to small", 4096, 65536, POINT_ZSTD, POINT_ZSTD | POINT_DENSE, false, ANY, "they stay what they are", true },
	{ "small to large", 65536, 4096, POINT_ZSTD | POINT_DENSE, POINT_ZSTD | POINT_DENSE, false, ANY, "stands what was below", false },
	{ "small to large, alone", 65536, 4096, POINT_DENSE, POINT_ZSTD, false, ANY, "stands what was below", false },
	{ "covered", 65536, 65536, POINT_ZSTD | POINT_DENSE, POINT_DENSE, true, ANY, NULL, false },
	{ "beside it", 65536, 65536, POINT_ZSTD | POINT_DENSE, 0, true, UNCOVERED, "they stay what they are", true },
	{ "under a part", 65536, 4096, POINT_ZSTD | POINT_DENSE, 0, true, IN_PART, "stand zeros", false },
};

static void all(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		one(&kinds[i], i % 2, false);
}

static void all_lost(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		one(&kinds[i], !(i % 2), true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all),
		cmocka_unit_test(all_lost),
	};

	return run_merges("cbw merges of what cannot be decompressed", tests,
			  sizeof(tests) / sizeof(tests[0]));
}
