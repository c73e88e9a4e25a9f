// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merges that were cut off and have to be ended: with and without what they need, with more
 * or less space, and with something damaged meanwhile.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "cutoff.h"
#include "qcow2.h"
#include "restore.h"

static uint64_t bytes_of(const struct points *p, const char *file)
{
	char *path = xasprintf("%s/%s", p->dir, file);
	struct stat st = { 0 };

	stat(path, &st);
	free(path);
	return (uint64_t)st.st_blocks * 512;
}

/* A merge of 2 into 1 that dies when it has done about half of it. */
static void half(struct points *p, const char *name, bool punch)
{
	const struct merge_opts o = { .punch = punch, .batch = 4 * MIB };
	struct chain_merge m;
	static unsigned int span[2][2];
	unsigned int n;

	build(p, name);
	run("cp -a --sparse=always '%1$s' '%1$s.orig'", p->dir);
	/* between which calls is it? */
	for (n = 0; !span[punch][1]; n += 4) {
		run("rm -r '%1$s' && cp -a --sparse=always '%1$s.orig' '%1$s'", p->dir);
		if (!cut_off(p, 2, &o, n) || state_of(p, &m) == MERGE_NAMES)
			span[punch][1] = n;
		else if (m.state == MERGE_DATA && !span[punch][0])
			span[punch][0] = n;
	}
	run("rm -r '%1$s' && cp -a --sparse=always '%1$s.orig' '%1$s'", p->dir);
	assert_true(cut_off(p, 2, &o, (span[punch][0] + span[punch][1]) / 2));
	assert_int_equal(state_of(p, &m), MERGE_DATA);
	assert_int_equal(m.punch, punch);
}

static int resume(const struct points *p, const struct merge_opts *o, struct cbw_error *err)
{
	struct chain c;
	int ret = chain_open_locked(p->dir, &c, err);

	if (ret)
		return ret;
	ret = merge_resume(&c, o, err);
	chain_close(&c);
	return ret;
}

static void ok_resume(const struct points *p, const struct merge_opts *o)
{
	struct cbw_error err;

	if (resume(p, o, &err))
		fail_msg("%s", err.msg);
}

/* ---- what was lost ------------------------------------------------------- */

/* Details of the two images are not needed to end it, with punching or without. */
static void details_lost(void **state)
{
	static const char *const lose[] = { "rm 000001-full.json", "rm 000002-inc.json",
		"rm 00000[123]-*.json", "sed -i s/cbw/xyz/ 00000[123]-*.json" };
	const struct merge_opts o = { 0 };
	struct points p;
	size_t i;

	(void)state;
	for (i = 0; i < 8; i++) {
		half(&p, "lost", i % 2);
		run_in(&p, lose[i / 2]);
		ok_resume(&p, &o);
		sound(&p, "2 3 4");
		drop(&p);
	}
}

/* Nor is the file of the merge, if it has not changed anything yet. */
static void sums_lost_early(void **state)
{
	const struct merge_opts o = { 0 };
	struct points p;

	(void)state;
	build(&p, "early");
	begun(&p, 2, false, 0);
	run_in(&p, "rm merge.json 000001-full.json");
	ok_resume(&p, &o);
	points_are(&p, "2 3 4");
	points_check(&p, true);
	points_free(&p);
}

/* All of it is lost: who only goes on is told what to do, a check with repair ends it. */
static void all_lost(void **state)
{
	static const char *const lose[] = { "rm merge.json", "rm merge.json 0*.json" };
	struct points p;
	size_t i;

	(void)state;
	for (i = 0; i < 4; i++) {
		half(&p, "all", i % 2);
		run_in(&p, lose[i / 2]);
		tool(cmd_chain, &p, "chain merge DIR", EXIT_DISTRUST, "cbw check -r");
		tool(cmd_check, &p, "check DIR", EXIT_FAILED, "cut off");
		tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "nothing tells whether");
		points_are(&p, "2 3 4");
		points_check(&p, true);
		tool(cmd_check, &p, "check DIR", EXIT_OK, NULL);
		tool(cmd_verify, &p, "verify DIR", EXIT_OK, NULL);
		drop(&p);
	}
}

/*
 * An image on top of it that has to get another header was damaged, and lost its details:
 * it stays known as damaged, and does not keep all others from being read.
 */
static void child_lost(void **state)
{
	const struct merge_opts o = { 0 };
	struct points p;

	(void)state;
	half(&p, "child", false);
	run_in(&p, "rm 000003-inc.json");
	poke(&p, "000003-inc.qcow2");
	ok_resume(&p, &o);
	points_are(&p, "2 3 4");
	tool(cmd_verify, &p, "verify DIR", EXIT_DISTRUST, "000003-inc.qcow2");
	poke(&p, "000003-inc.qcow2");
	tool(cmd_verify, &p, "verify DIR", EXIT_OK, NULL);
	points_check(&p, false);
	points_free(&p);
}

/* ---- damage between the beginning and the end ---------------------------- */

/* No checksum is made over what was damaged meanwhile, whichever image it is in. */
static void damage(void **state)
{
	static const char *const file[] = { "000001-full.qcow2", "000002-inc.qcow2" };
	const struct merge_opts o = { 0 };
	struct cbw_error err;
	struct points p;
	size_t i;

	(void)state;
	for (i = 0; i < 4; i++) {
		half(&p, "damage", i % 2);
		/* the upper one covers all of the lower one: what it hides does not matter */
		poke(&p, file[1]);
		assert_int_equal(resume(&p, &o, &err), -EUCLEAN);
		assert_non_null(strstr(err.msg, "what they were when the merge began"));
		tool(cmd_chain, &p, "chain merge DIR", EXIT_DISTRUST, "cbw check -r");
		points_are(&p, "1 2 3 4");
		/* put back, it ends well */
		if (i < 2) {
			poke(&p, file[1]);
			ok_resume(&p, &o);
			points_check(&p, true);
		} else {
			tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "cbw verify");
			points_are(&p, "2 3 4");
			tool(cmd_check, &p, "check DIR", EXIT_OK, NULL);
			tool(cmd_verify, &p, "verify DIR", EXIT_DISTRUST, "000002-full.qcow2");
		}
		drop(&p);
	}
}

/* Of the lower image what the upper one does not hide; in the details of both it is not told. */
static void damage_below(void **state)
{
	const struct merge_opts o = { .punch = true, .batch = 4 * MIB };
	struct cbw_error err;
	struct points p;

	(void)state;
	build(&p, "below");
	/* 3 goes into 2, which has all of it: of most clusters 3 has nothing */
	begun(&p, 3, true, 2);
	/* 8 MiB and up: not merged yet */
	poke(&p, "000002-inc.qcow2");
	assert_int_equal(resume(&p, &o, &err), -EUCLEAN);
	assert_non_null(strstr(err.msg, "when the merge began"));
	tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "cbw verify");
	tool(cmd_verify, &p, "verify DIR", EXIT_DISTRUST, "damaged");
	points_free(&p);
}

/* ---- punching that is wanted later --------------------------------------- */

static void punch_later(void **state)
{
	const struct merge_opts o = { .punch = true, .batch = 4 * MIB };
	struct chain_merge m;
	uint64_t before, now;
	struct points p;
	unsigned int n;

	(void)state;
	half(&p, "later", false);
	before = bytes_of(&p, "000002-inc.qcow2");
	assert_true(before > 6 * MIB);
	/* it dies while it is punched, too */
	for (n = 0, now = before; now > before / 2; n++) {
		assert_true(cut_off(&p, 2, &o, n * 8));
		assert_int_equal(state_of(&p, &m), MERGE_DATA);
		now = bytes_of(&p, "000002-inc.qcow2");
	}
	assert_true(m.punch);
	/* a reader goes on meanwhile, where it is not given up */
	tool(cmd_verify, &p, "verify DIR", EXIT_FAILED, "left out");
	/* once begun with it, it goes on with it */
	tool(cmd_chain, &p, "chain merge DIR", EXIT_OK, "was ended");
	sound(&p, "2 3 4");
	points_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(details_lost),
		cmocka_unit_test(sums_lost_early),
		cmocka_unit_test(all_lost),
		cmocka_unit_test(child_lost),
		cmocka_unit_test(damage),
		cmocka_unit_test(damage_below),
		cmocka_unit_test(punch_later),
	};

	return run_merges("cbw merges that are ended", tests, sizeof(tests) / sizeof(tests[0]));
}
