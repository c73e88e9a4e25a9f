// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merges that are ended without knowing what they have to end with, by a check with repair that
 * dies on the way itself: who ends it then says so too, and what was known to be damaged is.
 */
#include <unistd.h>

#include "cutoff.h"
#include "restore.h"

static void copy(const struct points *p)
{
	run("rm -rf '%1$s' && cp -a --sparse=always '%1$s.orig' '%1$s'", p->dir);
}

/* Whether a reader finds the chain with no journal. */
static bool ended(const struct points *p)
{
	return state_of(p, NULL) == MERGE_NONE;
}

/* A merge of 2 into 1 that dies half way, and loses that; as an older version had it, or not. */
static void begin(struct points *p, bool punch, bool old)
{
	build(p, "doubt");
	begun(p, 2, punch, 12);
	run_in(p, old ? "rm merge.json && sed -i '/\"sums_/d; s/\\(\"punch\": *[a-z]*\\),/\\1/' manifest.json" :
	       "rm merge.json");
	assert_int_equal(state_of(p, NULL), MERGE_DATA);
	if (!punch)
		poke(p, "000002-inc.qcow2");
	run("cp -a --sparse=always '%1$s' '%1$s.orig'", p->dir);
}

static void forgotten(bool punch, bool old)
{
	const struct merge_opts repair = { .repair = true, .batch = 4 * MIB };
	unsigned int n, tries = 0;
	struct points p;

	begin(&p, punch, old);
	for (n = 0;; n += 3) {
		bool more;

		copy(&p);
		more = cut_off(&p, 2, &repair, n);
		if (!ended(&p)) {
			tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "damaged in part, or was not checked");
			tries++;
		}
		points_are(&p, "2 3 4");
		tool(cmd_check, &p, "check -r DIR", EXIT_OK, "good, 3 images");
		tool(cmd_verify, &p, "verify DIR", punch ? EXIT_OK : EXIT_DISTRUST,
		     punch ? NULL : "000002-full.qcow2: damaged: bytes");
		if (!more)
			break;
	}
	printf("# %s, %s: %u times\n", punch ? "punched" : "not punched",
	       old ? "of an older version" : "merge.json lost", tries);
	drop(&p);
}

static void at_each(void **state)
{
	(void)state;
	forgotten(false, false);
	forgotten(false, true);
	forgotten(true, true);
}

/* Nor is it when another command ends it. */
static void others(void **state)
{
	const struct merge_opts repair = { .repair = true };
	static const char *const line[] = { "chain merge DIR 2..3", "chain prune DIR --keep 9" };
	unsigned int n;
	struct points p;
	size_t i;

	(void)state;
	for (i = 0; i < 2; i++) {
		struct chain_merge m = { 0 };

		begin(&p, true, false);
		/* what it ends with is written down, and one that asks for nothing may go on */
		for (n = 0; !m.doubt; n++) {
			copy(&p);
			assert_true(cut_off(&p, 2, &repair, n));
			state_of(&p, &m);
		}
		assert_true(m.sums_size);
		tool(cmd_chain, &p, line[i], EXIT_DISTRUST, "damaged in part, or was not checked");
		points_are(&p, "2 3 4");
		points_check(&p, true);
		/* just before its end, too */
		for (n = 0; ; n++) {
			copy(&p);
			assert_true(cut_off(&p, 2, &repair, n));
			if (state_of(&p, NULL) == MERGE_NAMES)
				break;
		}
		tool(cmd_chain, &p, line[i], EXIT_DISTRUST, "damaged in part, or was not checked");
		points_are(&p, "2 3 4");
		tool(cmd_chain, &p, "chain merge DIR 2..3", EXIT_OK, NULL);
		points_are(&p, "3 4");
		points_check(&p, true);
		drop(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(at_each),
		cmocka_unit_test(others),
	};

	return run_merges("cbw merges in doubt", tests, sizeof(tests) / sizeof(tests[0]));
}
