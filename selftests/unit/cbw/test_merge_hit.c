// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merges of chains whose files are hit, before or meanwhile: nothing that could be repaired is
 * lost by it, nothing damaged gets a checksum that fits, and it can be ended.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "details.h"
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
	static const uint32_t cluster[] = { 65536, 65536, 65536, 4096 };
	static const unsigned int flags[] = { POINT_DENSE, POINT_DENSE, 0, 0 };
	char *dir = xasprintf("%s/%s", top, name);

	srand(21);
	points_build(p, dir, 12 * MIB + 512, 4, cluster, flags, 4);
	free(dir);
}

/* A command, on the chain; says is what it has to say. */
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

/* The first L1 entry of an image is lost. */
static void zero_l1(const struct points *p, const char *file)
{
	char *path = xasprintf("%s/%s", p->dir, file), zero[8] = { 0 };
	struct qcow2_image *img;
	struct qcow2_layer l;
	struct qcow2_error err;
	FILE *f;

	assert_int_equal(qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, &err), 0);
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	qcow2_close(img);
	f = fopen(path, "r+");
	assert_non_null(f);
	assert_int_equal(fseek(f, (long)l.l1_offset, SEEK_SET), 0);
	assert_int_equal(fwrite(zero, 1, sizeof(zero), f), sizeof(zero));
	assert_int_equal(fclose(f), 0);
	free(path);
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
		tool(cmd_check, &p, "check -r DIR", EXIT_OK, "restored from its details");
		points_check(&p, true);
		tool(cmd_verify, &p, "verify DIR", EXIT_OK, NULL);
		tool(cmd_chain, &p, "chain merge DIR 1..2", EXIT_OK, NULL);
		points_are(&p, "2 3 4");
		points_check(&p, true);
		points_free(&p);
		run("rm -r %s/*", top);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(l1_before),
	};
	char *cmd;
	int ret;

	if (access("/dev/shm", W_OK))
		snprintf(top, sizeof(top), "/tmp/cbw-unit-XXXXXX");
	if (!mkdtemp(top))
		return 1;
	if (getenv("CBW_TEST"))
		cmocka_set_test_filter(getenv("CBW_TEST"));
	ret = cmocka_run_group_tests_name("cbw merges of what was hit", tests, NULL, NULL);
	cmd = xasprintf("rm -rf %s", top);
	if (system(cmd))
		ret = 1;
	free(cmd);
	return ret;
}
