// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Details of images: text and back, hostile ones too; verify names what is damaged;
 * check finds what does not fit, and brings headers and L1 tables back.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "details.h"
#include "points.h"
#include "qcow2.h"

#define MIB	(1024u * 1024)

static char top[] = "/tmp/cbw-unit-XXXXXX";
static struct points p;

static char *path_of(const char *name)
{
	static char ring[4][300];
	static int at;
	char *path = ring[at++ % 4];

	snprintf(path, sizeof(ring[0]), "%s/%s", p.dir, name);
	return path;
}

static void shell(const char *fmt, const char *a, const char *b)
{
	char *cmd = xasprintf(fmt, a, b);

	assert_int_equal(system(cmd), 0);
	free(cmd);
}

static void fresh(const char *name, unsigned int flags)
{
	char *dir = xasprintf("%s/%s", top, name);

	srand(3);
	points_init(&p, dir, 13 * MIB + 512);
	points_add(&p, 0, 65536, flags, 1);
	points_add(&p, 1, 4096, 0, 2);
	points_add(&p, 2, 4096, POINT_ZSTD, 3);
	free(dir);
}

static void put(const char *name, uint64_t at, const void *buf, size_t len)
{
	int fd = open(path_of(name), O_WRONLY);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, buf, len, (off_t)at), len);
	close(fd);
}

/* ---- text ---------------------------------------------------------------- */

static struct details sample(void)
{
	struct details d = { .size = 5ull * SUMS_RANGE + 512, .l1_offset = 196608 };
	uint32_t i;

	memset(d.cut.b, 7, sizeof(d.cut.b));
	sums_init(&d.sums, d.size);
	assert_int_equal(d.sums.nr, 6);
	d.sums.crc[1] = 0x01020304;
	d.sums.crc[2] = 0xfffffffe;
	d.sums.crc[5] = 9;
	d.header_bytes = 250;
	d.header = xcalloc(d.header_bytes, 1);
	for (i = 0; i < d.header_bytes; i++)
		d.header[i] = (uint8_t)(i + 1);
	d.l1_bytes = 80;
	d.l1 = xcalloc(d.l1_bytes, 1);
	d.l1[8] = 0x80;
	d.l1[79] = 1;
	return d;
}

static void text(void **state)
{
	struct details d = sample(), e;
	struct cbw_error err;
	char *t = details_format(&d), *u;
	size_t len = strlen(t), i;

	(void)state;
	/* as one would write numbers, and nothing about what is not there */
	assert_non_null(strstr(t, "\"sums\":[[1,\"01020304fffffffe\"],[5,\"00000009\"]]"));
	assert_non_null(strstr(t, "[[1,\"8000000000000000\"],[9,\"0000000000000001\"]]"));
	if (details_parse(t, len, &e, &err))
		fail_msg("%s", err.msg);
	u = details_format(&e);
	assert_string_equal(t, u);
	assert_memory_equal(e.header, d.header, 250);
	assert_memory_equal(e.l1, d.l1, 80);
	details_free(&e);
	free(u);
	/* cut short, and with bytes that are others: an error, or something well formed */
	for (i = 0; i + 1 < len; i++)
		assert_int_equal(details_parse(t, i, &e, &err), -EUCLEAN);
	srand(5);
	for (i = 0; i < 20000; i++) {
		u = strdup(t);
		u[(size_t)rand() % len] = (char)(rand() % 256);
		if (!details_parse(u, len, &e, &err))
			details_free(&e);
		free(u);
	}
	details_free(&d);
	free(t);
}

static void hostile(void **state)
{
	static const struct {
		const char *from, *to, *why;
	} t[] = {
		{ "cbw-image", "cbw-chain", "format" },
		{ "\"version\":1", "\"version\":2", "version" },
		{ "\"cut\":\"07", "\"cut\":\"7", "cut" },
		{ "\"size\":20972032", "\"size\":0", "size" },
		{ "\"size\":20972032", "\"size\":-5", "size" },
		{ "\"size\":20972032", "\"size\":9223372036854775807", "size" },
		{ "\"size\":20972032", "\"size\":512", "sums" },
		{ "\"range\":4194304", "\"range\":65536", "range" },
		{ "[[1,\"01020304", "[[1,\"0102030", "sums" },
		{ "[[1,\"01020304", "[[1,\"0102030G", "sums" },
		{ "[[1,\"01020304", "[[1,\"0102030A", "sums" },
		{ "[[1,\"01020304", "[[5,\"01020304", "sums" },
		{ "[[1,\"01020304", "[[-1,\"01020304", "sums" },
		{ "[[1,\"01020304", "[[18446744073709551615,\"01020304", "sums" },
		{ "[5,\"00000009\"]", "[2,\"00000009\"]", "sums" },
		{ "[5,\"00000009\"]", "[6,\"00000009\"]", "sums" },
		{ "[5,\"00000009\"]", "[5,\"\"]", "sums" },
		{ "[5,\"00000009\"]", "[5]", "sums" },
		{ "[5,\"00000009\"]", "7", "sums" },
		{ "\"data\":\"01", "\"data\":\"02", "header" },
		{ "\"length\":250", "\"length\":249", "header" },
		{ "\"length\":250", "\"length\":8", "header" },
		{ "\"length\":250", "\"length\":4294967296", "header" },
		{ "\"length\":80", "\"length\":81", "l1" },
		{ "\"length\":80", "\"length\":72", "l1" },
		{ "\"length\":80", "\"length\":40000000", "l1" },
		{ "\"offset\":196608", "\"offset\":9223372036854775807", "l1" },
		{ "8000000000000000", "8000000000000001", "l1" },
	};
	struct details d = sample(), e;
	struct cbw_error err;
	char *good = details_format(&d);
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		const char *at = strstr(good, t[i].from);
		char *bad;

		assert_non_null(at);
		bad = xasprintf("%.*s%s%s", (int)(at - good), good, t[i].to,
				at + strlen(t[i].from));
		if (details_parse(bad, strlen(bad), &e, &err) != -EUCLEAN)
			fail_msg("accepted with %s", t[i].to);
		if (!strstr(err.msg, t[i].why))
			fail_msg("%s: says '%s', not %s", t[i].to, err.msg, t[i].why);
		assert_null(e.header);
		free(bad);
	}
	details_free(&d);
	free(good);
}

/* An increment of a large volume has small details. */
static void small(void **state)
{
	struct details d = sample();
	char *t;

	(void)state;
	sums_free(&d.sums);
	d.size = 1ull << 40;
	sums_init(&d.sums, d.size);
	d.sums.crc[200000] = 1;
	t = details_format(&d);
	assert_true(strlen(t) < 2000);
	free(t);
	memset(d.sums.crc, 0x5a, d.sums.nr * 4);
	t = details_format(&d);
	assert_true(strlen(t) < 3 * MIB);
	free(t);
	details_free(&d);
}

/* ---- the tool ------------------------------------------------------------ */

static void tool(int (*cmd)(int, char **), const char *name, const char *option,
		 int status, const char *says)
{
	char *first = strdup(name), *last = strdup(option ? option : ""), out[4096];
	char *argv[] = { first, p.dir, last, NULL };
	int got = run_quiet(cmd, option ? 3 : 2, argv, out);

	if (got != status || (says && !strstr(out, says)))
		fail_msg("%s: status %d, not %d; says: %s", name, got, status, out);
	/* the command may have put something else into argv */
	free(first);
	free(last);
}

/* where the image has its first byte for @at or later: of the file, and of the volume */
static uint64_t place(const char *name, uint64_t *at)
{
	struct qcow2_run run = { .type = QCOW2_RUN_ZERO };
	struct qcow2_image *img;
	struct qcow2_error err;

	assert_int_equal(qcow2_open(path_of(name), QCOW2_OPEN_NO_BACKING, &img, &err), 0);
	for (; run.type != QCOW2_RUN_DATA; *at += run.length)
		assert_int_equal(qcow2_map_layer(img, 0, *at, qcow2_size(img) - *at, &run, &err), 0);
	*at = run.offset;
	qcow2_close(img);
	return run.host_offset;
}

static void verify(void **state)
{
	uint64_t at = 4 * MIB, host;
	char want[200], old;
	int fd;

	(void)state;
	fresh("verify", 0);
	tool(cmd_verify, "verify", NULL, EXIT_OK, "000003-inc.qcow2: good");
	host = place("000001-full.qcow2", &at);
	fd = open(path_of("000001-full.qcow2"), O_RDWR);
	assert_int_equal(pread(fd, &old, 1, (off_t)host), 1);
	old = (char)~old;
	assert_int_equal(pwrite(fd, &old, 1, (off_t)host), 1);
	at = at / SUMS_RANGE * SUMS_RANGE;
	snprintf(want, sizeof(want), "000001-full.qcow2: damaged: bytes %llu to %llu of the volume: the checksum does not fit",
		 (ull)at, (ull)at + SUMS_RANGE - 1);
	tool(cmd_verify, "verify", NULL, EXIT_DISTRUST, want);
	tool(cmd_verify, "verify", NULL, EXIT_DISTRUST, "content has changed");
	tool(cmd_verify, "verify", "--json", EXIT_DISTRUST, "\"event\":\"damaged\"");
	/* the short range at the end */
	old = (char)~old;
	assert_int_equal(pwrite(fd, &old, 1, (off_t)host), 1);
	close(fd);
	tool(cmd_verify, "verify", NULL, EXIT_OK, NULL);
	/* without details the sum of it all is still there */
	shell("rm %s/%s", p.dir, "000001-full.json");
	tool(cmd_verify, "verify", NULL, EXIT_FAILED, "000001-full.json: No such file");
	put("000001-full.qcow2", host, "x", 1);
	tool(cmd_verify, "verify", NULL, EXIT_DISTRUST, "content has changed");
	points_free(&p);
}

static void old_chain(void **state)
{
	uint64_t at = 0, host;

	(void)state;
	fresh("old", POINT_OLD);
	tool(cmd_verify, "verify", NULL, EXIT_OK, NULL);
	host = place("000001-full.qcow2", &at);
	tool(cmd_check, "check", NULL, EXIT_OK, "it has no details");
	tool(cmd_check, "check", "-r", EXIT_OK, "details were made anew");
	tool(cmd_check, "check", NULL, EXIT_OK, NULL);
	points_check(&p, false);
	/* details are not made of what is damaged */
	shell("rm %s/%s", p.dir, "000001-full.json");
	put("000001-full.qcow2", host, "x", 1);
	tool(cmd_check, "check", "-r", EXIT_FAILED, "content has changed");
	points_free(&p);
}

/* The header cluster full of noise, the L1 table empty, both, of any image. */
static void headers(void **state)
{
	static const char *const names[] = {
		"000001-full.qcow2", "000002-inc.qcow2", "000003-inc.qcow2"
	};
	char noise[65536];
	struct qcow2_image *img;
	struct qcow2_error err;
	struct qcow2_layer l;
	size_t i, k;

	(void)state;
	fresh("headers", 0);
	for (i = 0; i < sizeof(noise); i++)
		noise[i] = (char)rand();
	for (i = 0; i < 3; i++) {
		char *zeros;

		assert_int_equal(qcow2_open(path_of(names[i]), 0, &img, &err), 0);
		assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
		zeros = calloc(1, l.l1_bytes);
		for (k = 0; k < 3; k++) {
			if (k != 1)
				put(names[i], 0, noise, l.cluster_size);
			if (k)
				put(names[i], l.l1_offset, zeros, l.l1_bytes);
			tool(cmd_check, "check", NULL, EXIT_FAILED, names[i]);
			tool(cmd_check, "check", NULL, EXIT_FAILED,
			     k == 0 ? "header is not what was written" :
			     k == 1 ? "L1 table is not what was written" :
			     "header and its L1 table are not");
			tool(cmd_check, "check", "-r", EXIT_OK, "restored from its details");
			tool(cmd_check, "check", NULL, EXIT_OK, "good, 3 images");
			points_check(&p, k == 2);
		}
		free(zeros);
		qcow2_close(img);
	}
	/* details that are damaged themselves are no help, and are left alone */
	put("000002-inc.json", 100, "x", 1);
	put("000002-inc.qcow2", 0, noise, 4096);
	tool(cmd_check, "check", "-r", EXIT_FAILED, "000002-inc.json: its content has changed");
	tool(cmd_check, "check", "-r", EXIT_FAILED, "cannot be restored either: 3");
	points_free(&p);
}

static void missing(void **state)
{
	(void)state;
	fresh("missing", 0);
	shell("cp -a %s %s.orig", p.dir, p.dir);
	/* files of runs that did not end */
	shell("cp %s/000001-full.qcow2 %s/000009-full.qcow2", p.dir, p.dir);
	tool(cmd_check, "check", NULL, EXIT_OK, "1 files belong to a run that did not end");
	tool(cmd_check, "check", "-r", EXIT_OK, "1 leftovers");
	points_check(&p, false);
	/* a header that is sound, and of another image, is not overwritten */
	shell("cp %s/000003-inc.qcow2 %s/000002-inc.qcow2", p.dir, p.dir);
	tool(cmd_check, "check", "-r", EXIT_DISTRUST, "another point in time");
	shell("cmp %s/000003-inc.qcow2 %s/000002-inc.qcow2", p.dir, p.dir);
	shell("cp %s.orig/000002-inc.qcow2 %s/", p.dir, p.dir);
	/* nor is one that is of no chain */
	shell("cd %s && qemu-img create -q -f qcow2 ../foreign 3M && cp ../foreign %s/000002-inc.qcow2",
	      p.dir, p.dir);
	tool(cmd_check, "check", "-r", EXIT_DISTRUST, "000002-inc.qcow2");
	shell("cmp %s/../foreign %s/000002-inc.qcow2", p.dir, p.dir);
	shell("cp %s.orig/000002-inc.qcow2 %s/", p.dir, p.dir);
	/* details of another image */
	shell("cp %s/000003-inc.json %s/000002-inc.json", p.dir, p.dir);
	tool(cmd_check, "check", NULL, EXIT_FAILED, "000002-inc.json: ");
	tool(cmd_check, "check", "-r", EXIT_OK, "details were made anew");
	points_check(&p, false);
	/* an image is gone */
	shell("rm %s/%s", p.dir, "000001-full.qcow2");
	tool(cmd_check, "check", "-r", EXIT_FAILED, "000001-full.qcow2: No such file");
	tool(cmd_check, "check", NULL, EXIT_FAILED, "cannot be restored either: 2 3");
	/* and the manifest makes no sense */
	put("manifest.json", 0, "x", 1);
	tool(cmd_check, "check", NULL, EXIT_DISTRUST, "manifest.json");
	points_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text),
		cmocka_unit_test(hostile),
		cmocka_unit_test(small),
		cmocka_unit_test(verify),
		cmocka_unit_test(old_chain),
		cmocka_unit_test(headers),
		cmocka_unit_test(missing),
	};
	char *cmd;
	int ret;

	if (!mkdtemp(top))
		return 1;
	ret = cmocka_run_group_tests_name("cbw details", tests, NULL, NULL);
	cmd = xasprintf("rm -rf %s", top);
	if (system(cmd))
		ret = 1;
	free(cmd);
	return ret;
}
