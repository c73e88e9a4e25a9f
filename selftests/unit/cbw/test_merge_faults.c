// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merges of chains with a kill, a power cut or an error at any call that changes a file:
 * every point in time that stays reads as before, and what was begun is ended.
 */
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "faults.h"
#include "fixture.h"
#include "points.h"
#include "prune.h"
#include "qcow2.h"
#include "restore.h"

#define MIB	(1024u * 1024)

/* for what is made anew again and again; there is no O_DIRECT on it */
static char fast[64] = "/dev/shm/cbw-unit-XXXXXX";

static char *in_fast(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", fast, name);
	return path;
}

static int begin(void **state)
{
	(void)state;
	if (access("/dev/shm", W_OK))
		snprintf(fast, sizeof(fast), "/tmp/cbw-unit-XXXXXX");
	return mkdtemp(fast) ? 0 : -1;
}

static int end(void **state)
{
	(void)state;
	fx_shell("rm -rf %s", fast);
	return 0;
}

/* Readers go on meanwhile: all that is not given up reads as it has to. */
static void readable(const struct points *p, unsigned int n)
{
	unsigned char *buf = malloc(p->size);
	struct qcow2_error qerr;
	struct qcow2_image *img;
	struct cbw_error err;
	struct chain c;
	size_t i;
	int ret;

	ret = chain_open(p->dir, false, &c, &err);
	if (ret) {
		if (ret != -EUCLEAN || !strstr(err.msg, "just before its end"))
			fail_msg("call %u: %s", n, err.msg);
		free(buf);
		return;
	}
	for (i = 0; i < c.nr; i++) {
		if (chain_giving_up(&c, &c.entry[i]))
			continue;
		if (open_entry(&c, &c.entry[i], &img, &err))
			fail_msg("call %u: %s", n, err.msg);
		assert_int_equal(qcow2_read(img, 0, buf, p->size, &qerr), 0);
		if (memcmp(buf, p->data[c.entry[i].id], p->size))
			fail_msg("call %u: id %u reads as something else", n, c.entry[i].id);
		qcow2_close(img);
	}
	chain_close(&c);
	free(buf);
}

/* One merge, with a fault at call @n; whether there was a call @n. */
static bool one_fault(const struct points *p, uint32_t id, bool punch, enum fault kind,
		      unsigned int n)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct cbw_error err;
		int ret;

		srand(n * 7 + 1);
		faults_begin(kind, n, in_fast("kept"));
		ret = points_merge(p->dir, id, id - 2, punch, &err);
		if (kind == FAULT_ERROR && faults_happened() && !ret) {
			fprintf(stderr, "call %u: an error was not noticed\n", n);
			_exit(1);
		}
		if (ret && !faults_happened()) {
			fprintf(stderr, "call %u: %s\n", n, err.msg);
			_exit(1);
		}
		_exit(faults_happened() ? FAULT_EXIT : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) && WEXITSTATUS(status) != FAULT_EXIT)
		fail_msg("call %u: status %d", n, WEXITSTATUS(status));
	return WEXITSTATUS(status);
}

static void restore_copy(const char *dir)
{
	fx_shell("rm -rf %s; cp -a --sparse=always %s.orig %s", dir, dir, dir);
}

/*
 * In make check-long there is a fault at each call (CBW_FAULT_STEP=1), else at some, others each
 * time: all of them take minutes.
 */
static unsigned int fault_step(void)
{
	const char *text = getenv("CBW_FAULT_STEP");
	unsigned int step = text ? (unsigned int)strtoul(text, NULL, 10) : 96;

	return step ? step : 1;
}

static void at_each_call(const char *name, enum fault kind, bool punch, bool twice)
{
	static const uint32_t cluster[] = { 65536, 4096, 65536 };
	static const unsigned int flags[] = { 0, 0, POINT_ZSTD };
	static const uint32_t targets[] = { 2, 3 };
	unsigned int n, calls = 0, step = fault_step();
	unsigned int start = (unsigned int)(time(NULL) % step);
	struct cbw_error err;
	struct points p;
	size_t t;

	srand(11);
	points_build(&p, in_fast(name), 5 * MIB + 512, 4, cluster, flags, 3);
	/* one more branch, so that two images get another backing file */
	points_add(&p, 2, 4096, 0, 1700100000);
	fx_shell("mv %s %s.orig", p.dir, p.dir);
	fx_shell("mkdir -p %s", in_fast("kept"));
	for (t = 0; t < 2; t++) {
		/* 2 into the full image, which gets another name; 4 into 3 */
		uint32_t id = targets[t] == 2 ? 2 : 4;
		bool more = true;

		for (n = start; more; n += step, calls++) {
			restore_copy(p.dir);
			more = one_fault(&p, id, punch, kind, n);
			readable(&p, n);
			/* and once more while it is ended */
			if (more && twice)
				one_fault(&p, id, punch, kind, n / 2);
			readable(&p, n);
			if (points_merge(p.dir, id, id - 2, punch, &err))
				fail_msg("call %u: %s", n, err.msg);
			points_check(&p, !(n % 32));
			points_are(&p, id == 2 ? "2 3 4 5" : "1 2 4 5");
		}
	}
	printf("# %s: %u faults, from %u on each %u\n", name, calls, start, step);
	points_free(&p);
}

static void killed(void **state)
{
	(void)state;
	at_each_call("killed", FAULT_KILL, false, false);
}

static void killed_punch(void **state)
{
	(void)state;
	at_each_call("killed-punch", FAULT_KILL, true, true);
}

static void power(void **state)
{
	(void)state;
	at_each_call("power", FAULT_POWER, false, true);
}

static void power_punch(void **state)
{
	(void)state;
	at_each_call("power-punch", FAULT_POWER, true, true);
}

static void errors(void **state)
{
	(void)state;
	at_each_call("errors", FAULT_ERROR, false, false);
}

static void errors_punch(void **state)
{
	(void)state;
	at_each_call("errors-punch", FAULT_ERROR, true, false);
}

static uint64_t used(const char *dir)
{
	char *cmd = xasprintf("du -sk %s", dir);
	FILE *f = popen(cmd, "r");
	unsigned long kib;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%lu", &kib), 1);
	pclose(f);
	free(cmd);
	return (uint64_t)kib * 1024;
}

/* While it is punched, a batch is there twice, no more; killed wherever. */
static void space(void **state)
{
	const struct merge_opts o = { .punch = true, .batch = 4 * MIB };
	uint64_t before, now, most = 0;
	struct cbw_error err;
	struct points p;
	struct chain c;
	unsigned int n;

	(void)state;
	srand(14);
	points_init(&p, in_fast("space"), 64 * MIB);
	points_add(&p, 0, 65536, 0, 1);
	points_add(&p, 1, 65536, POINT_DENSE, 2);
	before = used(p.dir);
	for (n = 0;; n += 5) {
		int status;
		pid_t pid;

		fflush(NULL);
		pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			faults_begin(FAULT_KILL, n, NULL);
			if (chain_open_locked(p.dir, &c, &err))
				_exit(1);
			_exit(c.merge.state ? !!merge_resume(&c, &o, &err) :
			      c.nr == 2 ? !!merge_into(&c, 2, &o, &err) : 0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		now = used(p.dir);
		most = now > most ? now : most;
		if (WEXITSTATUS(status) != FAULT_EXIT)
			break;
	}
	printf("# %llu KiB before, %llu at most, %llu in the end\n", (ull)before / 1024,
	       (ull)most / 1024, (ull)used(p.dir) / 1024);
	assert_true(most < before + 10 * MIB);
	assert_int_equal(chain_open_locked(p.dir, &c, &err), 0);
	assert_int_equal(merge_resume(&c, &o, &err), 0);
	chain_close(&c);
	points_are(&p, "2");
	points_check(&p, true);
	points_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(space),
		cmocka_unit_test(killed),
		cmocka_unit_test(killed_punch),
		cmocka_unit_test(power),
		cmocka_unit_test(power_punch),
		cmocka_unit_test(errors),
		cmocka_unit_test(errors_punch),
	};

	if (getenv("CBW_TEST"))
		cmocka_set_test_filter(getenv("CBW_TEST"));
	return cmocka_run_group_tests_name("cbw merges with faults", tests, begin, end);
}
