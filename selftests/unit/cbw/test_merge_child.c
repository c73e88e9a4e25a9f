// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merges under an image whose backing file gets another name by it: what could keep it from
 * getting its header is found before anything begins.
 */
#include <unistd.h>

#include "cutoff.h"
#include "restore.h"

struct bad {
	const char *how, *says;
	int status;
};

/* Refused, with nothing changed; and with the files put back it ends well. */
static void refused(const struct bad *h, size_t nr)
{
	struct points p;
	size_t i;

	for (i = 0; i < nr; i++, h++) {
		build(&p, "child");
		run_in(&p, "cp -a . ../good");
		run_in(&p, h->how);
		run_in(&p, "cp -a . ../hit");
		tool(cmd_chain, &p, "chain merge DIR 1..2", h->status, h->says);
		tool(cmd_chain, &p, "chain merge DIR 1..2", h->status,
		     "000003-inc.qcow2, which stands on 2, could not get its new backing file");
		run_in(&p, "diff -r . ../hit");
		points_are(&p, "1 2 3 4");
		run_in(&p, "rm -rf 000003* && cp -a ../good/000003* .");
		tool(cmd_chain, &p, "chain merge DIR 1..2", EXIT_OK, NULL);
		sound(&p, "2 3 4");
		drop(&p);
	}
}

/* Without details nothing would be left that tells what its header has to be. */
static void no_details(void **state)
{
	static const struct bad hit[] = {
		{ "rm 000003-inc.qcow2 000003-inc.json", "No such file", EXIT_FAILED },
		{ "cp 000004-inc.qcow2 000003-inc.qcow2 && rm 000003-inc.json",
		  "another point in time", EXIT_DISTRUST },
		{ "rm 000003-inc.json && dd if=/dev/zero of=000003-inc.qcow2 bs=512 count=1 conv=notrunc status=none",
		  "000003-inc.qcow2", EXIT_DISTRUST },
		{ "rm 000003-inc.json && ln -sf 000004-inc.qcow2 000003-inc.qcow2",
		  "another point in time", EXIT_DISTRUST },
	};

	(void)state;
	refused(hit, sizeof(hit) / sizeof(hit[0]));
}

/* Nor could it be gone on with when its turn comes. */
static void unreadable(void **state)
{
	static const struct bad hit[] = {
		{ "rm 000003-inc.qcow2 && mkdir 000003-inc.qcow2", "Is a directory", EXIT_FAILED },
	};

	(void)state;
	refused(hit, sizeof(hit) / sizeof(hit[0]));
}

static void altered(void **state)
{
	struct points p;

	(void)state;
	build(&p, "altered");
	run_in(&p, "rm 000003-inc.json");
	poke(&p, "000003-inc.qcow2");
	run_in(&p, "cp -a . ../hit");
	tool(cmd_chain, &p, "chain merge DIR 1..2", EXIT_DISTRUST, "content has changed");
	run_in(&p, "diff -r . ../hit");
	/* of one that has its details nothing is needed */
	drop(&p);
	build(&p, "altered");
	poke(&p, "000003-inc.qcow2");
	tool(cmd_chain, &p, "chain merge DIR 1..2", EXIT_OK, NULL);
	tool(cmd_verify, &p, "verify DIR", EXIT_DISTRUST, "000003-inc.qcow2: damaged");
	poke(&p, "000003-inc.qcow2");
	points_check(&p, true);
	drop(&p);
}

/* One without details that is sound gets them before it begins. */
static void old(void **state)
{
	struct points p;

	(void)state;
	build(&p, "old");
	run_in(&p, "rm 000003-inc.json");
	begun(&p, 2, false, 0);
	run_in(&p, "ls 000003-inc.json* >/dev/null && rm 000003-inc.qcow2 && cp 000004-inc.qcow2 ../other");
	tool(cmd_chain, &p, "chain merge DIR", EXIT_OK, "cannot be read until");
	points_are(&p, "2 3 4");
	drop(&p);
}

/* What its details can bring back does not keep it from being merged, but is said at once. */
static void said_first(void **state)
{
	static const char *const hit[] = { "rm 000003-inc.qcow2", "cp 000004-inc.qcow2 000003-inc.qcow2" };
	char *argv[] = { "chain", "merge", NULL, "1..2", NULL }, out[4096];
	struct points p;
	size_t i;

	(void)state;
	for (i = 0; i < 2; i++) {
		build(&p, "said");
		run_in(&p, hit[i]);
		/* what is said after that is said when it has begun, and here it does not begin */
		run_in(&p, "rm 000001-full.json 000001-full.qcow2");
		argv[2] = p.dir;
		assert_int_equal(run_quiet(cmd_chain, 4, argv, out), EXIT_FAILED);
		if (!strstr(out, "000003-inc.qcow2") || !strstr(out, "its details have what its header will be"))
			fail_msg("%s", out);
		points_are(&p, "1 2 3 4");
		drop(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_details),
		cmocka_unit_test(unreadable),
		cmocka_unit_test(altered),
		cmocka_unit_test(old),
		cmocka_unit_test(said_first),
	};

	return run_merges("cbw merges under others", tests, sizeof(tests) / sizeof(tests[0]));
}
