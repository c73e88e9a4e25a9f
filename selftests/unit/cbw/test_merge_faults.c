// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merges of chains with a kill, a power cut or an error at any call that changes a file:
 * every point in time that stays reads as before, and what was begun is ended.
 */
#include <time.h>
#include <unistd.h>

#include "cutoff.h"
#include "prune.h"
#include "qcow2.h"
#include "restore.h"

static char *in_top(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", top, name);
	return path;
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

struct try {
	const struct points *p;
	uint32_t id;
	bool punch;
	enum fault kind;
	unsigned int n;
};

static int merge_try(const void *arg)
{
	const struct try *t = arg;
	struct cbw_error err;
	int ret;

	srand(t->n * 7 + 1);
	faults_begin(t->kind, t->n, in_top("kept"));
	ret = points_merge(t->p->dir, t->id, t->id - 2, t->punch, &err);
	if (t->kind == FAULT_ERROR && faults_happened() && !ret) {
		fprintf(stderr, "call %u: an error was not noticed\n", t->n);
		return 1;
	}
	if (ret && !faults_happened()) {
		fprintf(stderr, "call %u: %s\n", t->n, err.msg);
		return 1;
	}
	return faults_happened() ? FAULT_EXIT : 0;
}

/* One merge, with a fault at call @n; whether there was a call @n. */
static bool one_fault(const struct points *p, uint32_t id, bool punch, enum fault kind,
		      unsigned int n)
{
	const struct try t = { .p = p, .id = id, .punch = punch, .kind = kind, .n = n };
	int status = forked(merge_try, &t);

	if (status && status != FAULT_EXIT)
		fail_msg("call %u: status %d", n, status);
	return status;
}

static void restore_copy(const char *dir)
{
	run("rm -rf %1$s; cp -a --sparse=always %1$s.orig %1$s", dir);
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

struct plan {
	const char *name;
	enum fault kind;
	bool punch, twice;	/* twice: and once more while it is ended */
};

static void at_each_call(void **state)
{
	const struct plan *f = *state;
	static const uint32_t cluster[] = { 65536, 4096, 65536 };
	static const unsigned int flags[] = { 0, 0, POINT_ZSTD };
	static const uint32_t targets[] = { 2, 3 };
	unsigned int n, calls = 0, step = fault_step();
	unsigned int start = (unsigned int)(time(NULL) % step);
	struct cbw_error err;
	struct points p;
	size_t t;

	srand(11);
	points_build(&p, in_top(f->name), 5 * MIB + 512, 4, cluster, flags, 3);
	/* one more branch, so that two images get another backing file */
	points_add(&p, 2, 4096, 0, 1700100000);
	run("mv %1$s %1$s.orig", p.dir);
	run("mkdir -p %s", in_top("kept"));
	for (t = 0; t < 2; t++) {
		/* 2 into the full image, which gets another name; 4 into 3 */
		uint32_t id = targets[t] == 2 ? 2 : 4;
		bool more = true;

		for (n = start; more; n += step, calls++) {
			restore_copy(p.dir);
			more = one_fault(&p, id, f->punch, f->kind, n);
			readable(&p, n);
			if (more && f->twice)
				one_fault(&p, id, f->punch, f->kind, n / 2);
			readable(&p, n);
			if (points_merge(p.dir, id, id - 2, f->punch, &err))
				fail_msg("call %u: %s", n, err.msg);
			points_check(&p, !(n % 32));
			points_are(&p, id == 2 ? "2 3 4 5" : "1 2 4 5");
		}
	}
	printf("# %s: %u faults, from %u on each %u\n", f->name, calls, start, step);
	points_free(&p);
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

static const struct merge_opts small = { .punch = true, .batch = 4 * MIB };

/* Dies at a call, those that open the chain and end what is almost through among them. */
static int merge_killed(const void *arg)
{
	const struct try *t = arg;
	struct cbw_error err;
	struct chain c;

	faults_begin(FAULT_KILL, t->n, NULL);
	if (chain_open_locked(t->p->dir, &c, &err))
		return 1;
	return c.merge.state ? !!merge_resume(&c, &small, &err) :
		c.nr == 2 ? !!merge_into(&c, 2, &small, &err) : 0;
}

/* While it is punched, a batch is there twice, no more; killed wherever. */
static void space(void **state)
{
	uint64_t before, now, most = 0;
	struct cbw_error err;
	struct points p;
	struct chain c;
	unsigned int n;

	(void)state;
	srand(14);
	points_init(&p, in_top("space"), 64 * MIB);
	points_add(&p, 0, 65536, 0, 1);
	points_add(&p, 1, 65536, POINT_DENSE, 2);
	before = used(p.dir);
	for (n = 0;; n += 5) {
		const struct try t = { .p = &p, .n = n };
		int status = forked(merge_killed, &t);

		now = used(p.dir);
		most = now > most ? now : most;
		if (status != FAULT_EXIT)
			break;
	}
	printf("# %llu KiB before, %llu at most, %llu in the end\n", (ull)before / 1024,
	       (ull)most / 1024, (ull)used(p.dir) / 1024);
	assert_true(most < before + 10 * MIB);
	assert_int_equal(chain_open_locked(p.dir, &c, &err), 0);
	assert_int_equal(merge_resume(&c, &small, &err), 0);
	chain_close(&c);
	points_are(&p, "2");
	points_check(&p, true);
	points_free(&p);
}

int main(void)
{
	static struct plan plans[] = {
		{ "killed", FAULT_KILL, false, false },
		{ "killed_punch", FAULT_KILL, true, true },
		{ "power", FAULT_POWER, false, true },
		{ "power_punch", FAULT_POWER, true, true },
		{ "errors", FAULT_ERROR, false, false },
		{ "errors_punch", FAULT_ERROR, true, false },
	};
	struct CMUnitTest tests[1 + sizeof(plans) / sizeof(plans[0])] = { cmocka_unit_test(space) };
	size_t i;

	for (i = 0; i < sizeof(plans) / sizeof(plans[0]); i++)
		tests[1 + i] = (struct CMUnitTest){ .name = plans[i].name,
			.test_func = at_each_call, .initial_state = &plans[i] };
	return run_merges("cbw merges with faults", tests, sizeof(tests) / sizeof(tests[0]));
}
