// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merges that were cut off and have to be ended: with and without what they need, with more
 * or less space, and with something damaged meanwhile.
 */
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "faults.h"
#include "merge.h"
#include "points.h"
#include "qcow2.h"
#include "restore.h"

#define MIB	(1024u * 1024)

static char top[64] = "/dev/shm/cbw-unit-XXXXXX";

static void run(const char *fmt, const char *a)
{
	char *cmd = xasprintf(fmt, a);

	if (system(cmd))
		fail_msg("%s", cmd);
	free(cmd);
}

static void run_in(const struct points *p, const char *cmd)
{
	char *text = xasprintf("cd '%s' && %s", p->dir, cmd);

	run("%s", text);
	free(text);
}

/* 1 and 2 have all of it, 3 and 4 a part. */
static void build(struct points *p, const char *name)
{
	char *dir = xasprintf("%s/%s", top, name);
	uint32_t i;

	srand(21);
	points_init(p, dir, 12 * MIB + 512);
	for (i = 0; i < 4; i++)
		points_add(p, i, i == 3 ? 4096 : 65536, i < 2 ? POINT_DENSE : 0, 1700000000 + i);
	free(dir);
}

/* Dies at call @n of a merge of @id into what it stands on, or of ending one; whether it got there. */
static bool cut_off(const struct points *p, uint32_t id, const struct merge_opts *o, unsigned int n)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct cbw_error err;
		struct chain c;

		if (chain_open_locked(p->dir, &c, &err))
			_exit(1);
		faults_begin(FAULT_KILL, n, NULL);
		_exit(c.merge.state ? !!merge_resume(&c, o, &err) : !!merge_into(&c, id, o, &err));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status) == FAULT_EXIT;
}

static enum merge_state state_of(const struct points *p, struct chain_merge *m)
{
	struct cbw_error err;
	struct chain c;

	if (chain_open(p->dir, false, &c, &err))
		return MERGE_NAMES;
	*m = c.merge;
	chain_close(&c);
	return m->state;
}

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

static void ids_are(const struct points *p, const char *want)
{
	char text[256];

	points_ids(p, text);
	assert_string_equal(text, want);
}

/* A command, on the chain. */
static void tool(int (*fn)(int, char **), const struct points *p, const char *line, int status,
		 const char *says)
{
	char *words = xstrdup(line), *argv[8] = { NULL }, out[4096], *at;
	int argc = 0, got;

	for (at = strtok(words, " "); at && argc < 7; at = strtok(NULL, " "))
		argv[argc++] = strcmp(at, "DIR") ? at : p->dir;
	got = run_quiet(fn, argc, argv, out);
	if (got != status || (says && !strstr(out, says)))
		fail_msg("%s: status %d, not %d; says: %s", line, got, status, out);
	free(words);
}

/* Turns a byte over of what layer 0 has of the last of the volume. */
static void poke(const struct points *p, const char *file)
{
	char *path = xasprintf("%s/%s", p->dir, file), byte;
	struct qcow2_run r = { .type = QCOW2_RUN_ZERO };
	struct qcow2_image *img;
	struct qcow2_error err;
	uint64_t at;
	FILE *f;

	assert_int_equal(qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, &err), 0);
	for (at = 8 * MIB; r.type != QCOW2_RUN_DATA; at += r.length)
		assert_int_equal(qcow2_map_layer(img, 0, at, qcow2_size(img) - at, &r, &err), 0);
	qcow2_close(img);
	f = fopen(path, "r+");
	assert_non_null(f);
	fseek(f, (long)r.host_offset + 100, SEEK_SET);
	byte = (char)~fgetc(f);
	fseek(f, (long)r.host_offset + 100, SEEK_SET);
	fputc(byte, f);
	fclose(f);
	free(path);
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
		ids_are(&p, "2 3 4");
		points_check(&p, true);
		tool(cmd_verify, &p, "verify DIR", EXIT_OK, NULL);
		points_free(&p);
		run("rm -r %s/*", top);
	}
}

/* Nor is the file of the merge, if it has not changed anything yet. */
static void sums_lost_early(void **state)
{
	const struct merge_opts o = { 0 };
	struct chain_merge m = { 0 };
	struct points p;
	unsigned int n;

	(void)state;
	build(&p, "early");
	for (n = 0; m.state == MERGE_NONE; n++) {
		assert_true(cut_off(&p, 2, &o, n));
		state_of(&p, &m);
	}
	run_in(&p, "rm merge.json 000001-full.json");
	ok_resume(&p, &o);
	ids_are(&p, "2 3 4");
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
		ids_are(&p, "2 3 4");
		points_check(&p, true);
		tool(cmd_check, &p, "check DIR", EXIT_OK, NULL);
		tool(cmd_verify, &p, "verify DIR", EXIT_OK, NULL);
		points_free(&p);
		run("rm -r %s/*", top);
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
	ids_are(&p, "2 3 4");
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
		ids_are(&p, "1 2 3 4");
		/* put back, it ends well */
		if (i < 2) {
			poke(&p, file[1]);
			ok_resume(&p, &o);
			points_check(&p, true);
		} else {
			tool(cmd_check, &p, "check -r DIR", EXIT_DISTRUST, "cbw verify");
			ids_are(&p, "2 3 4");
			tool(cmd_check, &p, "check DIR", EXIT_OK, NULL);
			tool(cmd_verify, &p, "verify DIR", EXIT_DISTRUST, "000002-full.qcow2");
		}
		points_free(&p);
		run("rm -r %s/*", top);
	}
}

/* Of the lower image what the upper one does not hide; in the details of both it is not told. */
static void damage_below(void **state)
{
	const struct merge_opts o = { .punch = true, .batch = 4 * MIB };
	struct chain_merge m = { 0 };
	struct cbw_error err;
	struct points p;
	unsigned int n;

	(void)state;
	build(&p, "below");
	/* 3 goes into 2, which has all of it: of most clusters 3 has nothing */
	for (n = 0; m.state == MERGE_NONE; n++) {
		assert_true(cut_off(&p, 3, &o, n));
		state_of(&p, &m);
	}
	assert_true(cut_off(&p, 3, &o, 2));
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
	ids_are(&p, "2 3 4");
	points_check(&p, true);
	tool(cmd_verify, &p, "verify DIR", EXIT_OK, NULL);
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
	char *cmd;
	int ret;

	if (access("/dev/shm", W_OK))
		snprintf(top, sizeof(top), "/tmp/cbw-unit-XXXXXX");
	if (!mkdtemp(top))
		return 1;
	if (getenv("CBW_TEST"))
		cmocka_set_test_filter(getenv("CBW_TEST"));
	ret = cmocka_run_group_tests_name("cbw merges that are ended", tests, NULL, NULL);
	cmd = xasprintf("rm -rf %s", top);
	if (system(cmd))
		ret = 1;
	free(cmd);
	return ret;
}
