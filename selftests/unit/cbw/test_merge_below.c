// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merges that read through the lower image: where the upper one has only a part of a cluster,
 * the rest comes from further below, and what is damaged there gets no checksum that fits.
 */
#include <unistd.h>

#include "cutoff.h"
#include "qcow2.h"
#include "restore.h"

/* 1 has all of it; 3 has parts of clusters of 2, which has few. */
static void build_through(struct points *p, const char *name)
{
	static const uint32_t cluster[] = { 65536, 65536, 4096, 4096 };
	static const unsigned int flags[] = { POINT_DENSE, 0, 0, 0 };
	char *dir = xasprintf("%s/%s", top, name);

	srand(22);
	points_build(p, dir, 12 * MIB + 512, 4, cluster, flags, 4);
	free(dir);
}

/* 2 and 3 have few, some of it zeros. */
static void build_zeros(struct points *p)
{
	static const uint32_t cluster[] = { 65536, 65536, 65536, 4096 };
	static const unsigned int flags[] = { POINT_DENSE, 0, 0, 0 };
	char *dir = xasprintf("%s/zeros", top);

	srand(23);
	points_build(p, dir, 12 * MIB + 512, 4, cluster, flags, 4);
	free(dir);
}

/* The L2 entry of the first zero cluster that an image has: to be as if it had nothing there. */
static void lose_zero(const struct points *p, const char *file)
{
	struct qcow2_run r = { .type = QCOW2_RUN_DATA };
	struct qcow2_image *img = image_of(p, file);
	struct qcow2_error err;
	uint64_t at, next, place;

	for (at = next = 0; r.type != QCOW2_RUN_ZERO; next += r.length) {
		at = next;
		assert_int_equal(qcow2_map_layer(img, 0, at, qcow2_size(img) - at, &r, &err), 0);
	}
	qcow2_close(img);
	place = l2_place(p, file, at);
	assert_int_equal(number_at(p, file, place) & 1, 1);
	put_at(p, file, place, "\0\0\0\0\0\0\0", 8);
}

/* It is refused before anything is changed; with a good file again it ends well. */
static void refused(struct points *p, const char *line, const char *file, const char *good,
		    const char *says)
{
	char *cmd;

	run_in(p, "cp -a . ../refused");
	tool(cmd_chain, p, line, EXIT_DISTRUST, says);
	tool(cmd_chain, p, line, EXIT_DISTRUST, file);
	run_in(p, "diff -r . ../refused");
	cmd = xasprintf("cp ../%s %s", good, file);
	run_in(p, cmd);
	free(cmd);
	tool(cmd_chain, p, line, EXIT_OK, NULL);
	points_check(p, true);
	tool(cmd_verify, p, "verify DIR", EXIT_OK, NULL);
}

/* Data that is read through it. */
static void data(void **state)
{
	struct points p;

	(void)state;
	build_through(&p, "data");
	run_in(&p, "cp 000001-full.qcow2 ../good");
	poke(&p, "000001-full.qcow2");
	refused(&p, "chain merge DIR 2..3", "000001-full.qcow2", "good", "the merge would read that");
	points_are(&p, "1 3 4");
	drop(&p);
}

/* Without its details it is compared with the sum of it all, and gets them if it is good. */
static void no_details(void **state)
{
	struct points p;

	(void)state;
	build_through(&p, "none");
	run_in(&p, "cp 000001-full.qcow2 ../good && rm 000001-full.json");
	poke(&p, "000001-full.qcow2");
	refused(&p, "chain merge DIR 2..3", "000001-full.qcow2", "good", "content has changed");
	points_are(&p, "1 3 4");
	run_in(&p, "test -e 000001-full.json");
	drop(&p);
}

/* What hides something below with zeros has no checksum, but there is a number of them. */
static void zeros(void **state)
{
	static const char *const file[] = { "000002-inc.qcow2", "000003-inc.qcow2", "000002-inc.qcow2" };
	static const char *const line[] = { "chain merge DIR 2..3", "chain merge DIR 2..3",
		"chain merge DIR 3..4" };
	struct points p;
	char *cmd;
	size_t i;

	(void)state;
	for (i = 0; i < 3; i++) {
		/* of the lower one, the upper one, one below */
		build_zeros(&p);
		cmd = xasprintf("cp %s ../good", file[i]);
		run_in(&p, cmd);
		free(cmd);
		lose_zero(&p, file[i]);
		tool(cmd_verify, &p, "verify DIR", EXIT_DISTRUST, "zero clusters have changed");
		refused(&p, line[i], file[i], "good", "zero clusters have changed");
		drop(&p);
	}
}

/* An image that is not read through does not keep others from being merged. */
static void not_read(void **state)
{
	struct points p;

	(void)state;
	build_through(&p, "other");
	run_in(&p, "cp 000001-full.qcow2 ../good");
	poke(&p, "000001-full.qcow2");
	/* clusters of the same size: all that is taken in is whole */
	tool(cmd_chain, &p, "chain merge DIR 3..4", EXIT_OK, NULL);
	points_are(&p, "1 2 4");
	run_in(&p, "cp ../good 000001-full.qcow2");
	points_check(&p, true);
	tool(cmd_verify, &p, "verify DIR", EXIT_OK, NULL);
	drop(&p);
}

/* A merge that has begun, and lost what it ends with: the range stays known as damaged. */
static void lost(void **state)
{
	static const char *const lose[] = { "rm merge.json", "rm merge.json 000003-*.json",
		"rm merge.json 000001-*.json" };
	struct points p;
	size_t i;

	(void)state;
	for (i = 0; i < 3; i++) {
		build_through(&p, "lost");
		begun(&p, 3, false, 0);
		run_in(&p, "cp 000001-full.qcow2 ../good");
		run_in(&p, lose[i]);
		poke(&p, "000001-full.qcow2");
		tool(cmd_chain, &p, "chain merge DIR", EXIT_DISTRUST, "cbw check -r");
		tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "000001-full.qcow2");
		points_are(&p, "1 3 4");
		/* whatever becomes of the image that was damaged */
		run_in(&p, "cp ../good 000001-full.qcow2");
		/* with no details of it nothing tells which part that was */
		tool(cmd_verify, &p, "verify DIR", EXIT_DISTRUST, i < 2 ?
		     "000003-inc.qcow2: damaged: bytes 8388608 to" : "000003-inc.qcow2: damaged: bytes 0 to");
		drop(&p);
	}
}

/*
 * Once it has begun, whether something was changed then or not, too: with a good file again it
 * ends well, else they stay known as damaged.
 */
static void zeros_meanwhile(void **state)
{
	static const char *const file[] = { "000003-inc.qcow2", "000002-inc.qcow2" };
	struct points p;
	unsigned int i;

	(void)state;
	for (i = 0; i < 9; i++) {
		char *copy = xasprintf("cp %s ../good", file[i % 2]);
		char *back = xasprintf("cp ../good %s", file[i % 2]);

		build_zeros(&p);
		begun(&p, 3, false, i / 4 % 2 * 4);
		run_in(&p, copy);
		lose_zero(&p, file[i % 2]);
		if (i < 8)
			tool(cmd_chain, &p, "chain merge DIR", EXIT_DISTRUST, "zero clusters of");
		if (i / 2 % 2) {
			run_in(&p, back);
			tool(cmd_chain, &p, "chain merge DIR", EXIT_OK, NULL);
			sound(&p, "1 3 4");
		} else {
			/* what it ends with is lost too: the upper one's is known */
			if (i == 8)
				run_in(&p, "rm merge.json");
			tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "goes on to say so");
			tool(cmd_verify, &p, "verify DIR", EXIT_DISTRUST, "000003-inc.qcow2: its zero clusters have changed");
		}
		free(copy);
		free(back);
		drop(&p);
	}
	/* of a full image nothing is known of them later, so that is not promised */
	build_zeros(&p);
	begun(&p, 2, false, 4);
	lose_zero(&p, "000002-inc.qcow2");
	run_in(&p, "rm merge.json");
	tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "tells nothing of that");
	drop(&p);
}

/* Zeros lost below one that has begun, without what it ends with: in any range they may be missing. */
static void zeros_below(void **state)
{
	struct points p;

	(void)state;
	build_zeros(&p);
	begun(&p, 4, false, 0);
	run_in(&p, "rm merge.json");
	lose_zero(&p, "000002-inc.qcow2");
	run_in(&p, "cp -a . ../again");
	tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "bytes 0 to 4194303 of the volume in 4 go on");
	run_in(&p, "rm -r * && cp -a ../again/. .");
	tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "bytes 4194304 to 8388607 of the volume in 4 go on");
	drop(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(data),
		cmocka_unit_test(no_details),
		cmocka_unit_test(zeros),
		cmocka_unit_test(zeros_meanwhile),
		cmocka_unit_test(zeros_below),
		cmocka_unit_test(not_read),
		cmocka_unit_test(lost),
	};

	return run_merges("cbw merges that read through", tests, sizeof(tests) / sizeof(tests[0]));
}
