// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merges of chains whose files are hit, before or meanwhile: nothing that could be repaired is
 * lost by it, nothing damaged gets a checksum that fits, and it can be ended.
 */
#include <unistd.h>

#include "cutoff.h"
#include "qcow2.h"
#include "restore.h"

/* The first L1 entry of an image is lost. */
static void zero_l1(const struct points *p, const char *file)
{
	struct qcow2_image *img = image_of(p, file);
	struct qcow2_layer l;

	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	qcow2_close(img);
	put_at(p, file, l.l1_offset, "\0\0\0\0\0\0\0", 8);
}

/* What is damaged is put back from what is known of it, and then @ids are good. */
static void repaired(const struct points *p, const char *ids)
{
	tool(cmd_check, p, "check -r DIR", EXIT_OK, "restored from its details");
	sound(p, ids);
}

/* ---- before it begins ---------------------------------------------------- */

/* A merge that is refused has changed nothing: what could be repaired still can be. */
static void l1_before(void **state)
{
	static const char *const file[] = { "000001-full.qcow2", "000002-inc.qcow2" };
	struct points p;
	size_t i;

	(void)state;
	for (i = 0; i < 2; i++) {
		build(&p, "before");
		zero_l1(&p, file[i]);
		run_in(&p, "cp -a . ../before.hit");
		tool(cmd_chain, &p, "chain merge DIR 1..2", EXIT_DISTRUST, "L1 table is not");
		run_in(&p, "diff -r . ../before.hit");
		repaired(&p, "1 2 3 4");
		tool(cmd_chain, &p, "chain merge DIR 1..2", EXIT_OK, NULL);
		sound(&p, "2 3 4");
		drop(&p);
	}
}

/* What an image on top of it has is not what it has to have only because it is there. */
static void child_header(void **state)
{
	struct points p;

	(void)state;
	build(&p, "child");
	run_in(&p, "printf X | dd of=000003-inc.qcow2 bs=1 seek=130 conv=notrunc status=none");
	tool(cmd_chain, &p, "chain merge DIR 1..2", EXIT_OK, NULL);
	tool(cmd_check, &p, "check DIR", EXIT_OK, NULL);
	sound(&p, "2 3 4");
	drop(&p);
}

/* One that is missing, or in whose place another is, does not keep the rest from being merged. */
static void child_missing(void **state)
{
	static const char *const put[] = { "rm 000003-inc.qcow2",
		"cp 000004-inc.qcow2 000003-inc.qcow2", "dd if=/dev/zero of=000003-inc.qcow2 bs=512 count=1 conv=notrunc status=none" };
	struct points p;
	size_t i;

	(void)state;
	for (i = 0; i < 3; i++) {
		build(&p, "missing");
		run_in(&p, "cp 000003-inc.qcow2 ../copy");
		run_in(&p, put[i]);
		run_in(&p, "cp 000004-inc.qcow2 ../other");
		tool(cmd_chain, &p, "chain merge DIR 1..2", EXIT_OK, i < 2 ? "cannot be read until" : NULL);
		points_are(&p, "2 3 4");
		if (i == 1)
			run_in(&p, "cmp 000003-inc.qcow2 ../other");
		/* where it is found again, it is repaired */
		run_in(&p, "cp ../copy 000003-inc.qcow2");
		repaired(&p, "2 3 4");
		drop(&p);
	}
}

/* Nothing is said of one whose backing file keeps its name. */
static void child_same_name(void **state)
{
	char *argv[] = { "chain", "merge", NULL, "2..3", NULL }, out[4096];
	struct points p;

	(void)state;
	build(&p, "same");
	run_in(&p, "rm 000004-inc.json");
	argv[2] = p.dir;
	assert_int_equal(run_quiet(cmd_chain, 4, argv, out), EXIT_OK);
	if (strstr(out, "000004"))
		fail_msg("%s", out);
	points_are(&p, "1 3 4");
	drop(&p);
}

/* One that cannot begin, as without space, leaves nothing that takes more of it. */
static void nothing_left(void **state)
{
	const struct merge_opts o = { 0 };
	enum merge_state now = MERGE_NONE;
	struct points p;
	unsigned int n;

	(void)state;
	build(&p, "left");
	run("cp -a --sparse=always '%1$s' '%1$s.orig'", p.dir);
	for (n = 0; now == MERGE_NONE; n++) {
		assert_true(hit_at(&p, 2, &o, FAULT_ERROR, n));
		now = state_of(&p, NULL);
		if (now == MERGE_NONE)
			run("diff -r '%1$s' '%1$s.orig'", p.dir);
	}
	printf("# %u calls until it begins\n", n);
	/* what is named, if not durably, has what it needs */
	assert_int_equal(now, MERGE_DATA);
	tool(cmd_chain, &p, "chain merge DIR", EXIT_OK, "was ended");
	sound(&p, "2 3 4");
	drop(&p);
}

/* ---- while it is under way ------------------------------------------------ */

/* What the upper image does not have any more was not taken in because of that. */
static void l1_meanwhile(void **state)
{
	struct points p;
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		build(&p, "meanwhile");
		begun(&p, 2, false, i ? 6 : 0);
		run_in(&p, "cp 000002-inc.qcow2 ../copy");
		zero_l1(&p, "000002-inc.qcow2");
		tool(cmd_chain, &p, i == 2 ? "chain merge DIR --punch" : "chain merge DIR",
		     EXIT_DISTRUST, "when the merge began");
		points_are(&p, "1 2 3 4");
		if (!i)
			run_in(&p, "cp ../copy 000002-inc.qcow2");
		tool(cmd_check, &p, "check -r DIR", EXIT_OK, i ? "restored" : NULL);
		sound(&p, "2 3 4");
		drop(&p);
	}
}

/* Without its details, or if it is punched, the lower image is compared. */
static void l1_unknown(void **state)
{
	struct points p;
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		build(&p, "unknown");
		begun(&p, 2, i == 1, 0);
		run_in(&p, i == 0 ? "rm 000002-inc.json" : i == 1 ? "true" : "rm 00000[12]-*.json");
		run_in(&p, "cp 000002-inc.qcow2 ../copy");
		zero_l1(&p, "000002-inc.qcow2");
		tool(cmd_chain, &p, "chain merge DIR", EXIT_DISTRUST, "when the merge began");
		points_are(&p, "1 2 3 4");
		if (i) {
			run_in(&p, "cp ../copy 000002-inc.qcow2");
			tool(cmd_chain, &p, "chain merge DIR", EXIT_OK, "was ended");
			sound(&p, "2 3 4");
		} else {
			tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "cbw verify");
			tool(cmd_verify, &p, "verify DIR", EXIT_DISTRUST, "000002-full.qcow2");
		}
		points_are(&p, "2 3 4");
		drop(&p);
	}
}

/* Its header is put back, where it is known. */
static void header_meanwhile(void **state)
{
	struct points p;
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		build(&p, "header");
		begun(&p, 2, i, 6);
		run_in(&p, "dd if=/dev/zero of=000002-inc.qcow2 bs=1 count=64 conv=notrunc status=none");
		tool(cmd_chain, &p, "chain merge DIR", EXIT_DISTRUST, "cbw check -r");
		repaired(&p, "2 3 4");
		drop(&p);
	}
}

/* Without the checksums to end with, too, what is seen to be damaged stays known. */
static void damage_known(void **state)
{
	struct points p;

	(void)state;
	build(&p, "known");
	begun(&p, 2, false, 12);
	run_in(&p, "rm merge.json");
	poke(&p, "000002-inc.qcow2");
	tool(cmd_chain, &p, "chain merge DIR", EXIT_DISTRUST, "put that file back");
	tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "as said above");
	points_are(&p, "2 3 4");
	tool(cmd_check, &p, "check DIR", EXIT_OK, "good, 3 images");
	tool(cmd_verify, &p, "verify DIR", EXIT_DISTRUST, "000002-full.qcow2");
	drop(&p);
}

/* A file that cannot be read is as good as lost. */
static void sums_unreadable(void **state)
{
	struct points p;

	(void)state;
	build(&p, "unreadable");
	begun(&p, 2, false, 12);
	run_in(&p, "ln -sf nothing merge.json && ln -sf x 000001-full.json");
	tool(cmd_chain, &p, "chain merge DIR", EXIT_DISTRUST, "cbw check -r");
	tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "nothing tells whether");
	sound(&p, "2 3 4");
	drop(&p);
}

/* An older version wrote no such file: nobody is sent to look for it. */
static void old_journal(void **state)
{
	struct points p;

	(void)state;
	build(&p, "old");
	begun(&p, 2, false, 12);
	run_in(&p, "rm merge.json && sed -i 's/\"sums_size\": *[0-9]*/\"sums_size\": 0/' manifest.json");
	poke(&p, "000002-inc.qcow2");
	tool(cmd_chain, &p, "chain merge DIR", EXIT_DISTRUST, "were before; 'cbw check -r");
	drop(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(l1_before),
		cmocka_unit_test(child_header),
		cmocka_unit_test(child_missing),
		cmocka_unit_test(child_same_name),
		cmocka_unit_test(nothing_left),
		cmocka_unit_test(l1_meanwhile),
		cmocka_unit_test(l1_unknown),
		cmocka_unit_test(header_meanwhile),
		cmocka_unit_test(damage_known),
		cmocka_unit_test(sums_unreadable),
		cmocka_unit_test(old_journal),
	};

	return run_merges("cbw merges of what was hit", tests, sizeof(tests) / sizeof(tests[0]));
}
