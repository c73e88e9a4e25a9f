// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merges and prunings of chains: every point in time that stays reads as before, whatever
 * the clusters, compressed or not.
 */
#include <fcntl.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "fixture.h"
#include "points.h"
#include "prune.h"
#include "qcow2.h"
#include "restore.h"

#define MIB	(1024u * 1024)

static int merge(const char *dir, uint32_t id, bool punch, struct cbw_error *err)
{
	return points_merge(dir, id, 0, punch, err);
}

static void ok_merge(const char *dir, uint32_t id, bool punch)
{
	struct cbw_error err;

	if (merge(dir, id, punch, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(points_beyond, 0);
}

/* ---- all kinds of clusters ---------------------------------------------- */

static void kinds(void **state)
{
	static const struct {
		uint32_t low, up;
		unsigned int low_flags, up_flags;
		bool punch;
	} t[] = {
		{ 65536, 65536, 0, 0, false },
		{ 65536, 65536, 0, 0, true },
		{ 65536, 4096, 0, 0, false },
		{ 65536, 4096, 0, 0, true },
		{ 4096, 65536, 0, 0, false },
		{ 65536, 16384, POINT_ZSTD, POINT_ZSTD, false },
		{ 65536, 65536, POINT_ZSTD, POINT_ZSTD, true },
		{ 65536, 65536, POINT_DEFLATE, POINT_DEFLATE, false },
		{ 65536, 65536, POINT_DEFLATE, POINT_ZSTD, true },
		{ 65536, 65536, 0, POINT_ZSTD, false },
		{ 65536, 65536, POINT_ZSTD, 0, true },
		{ 4096, 32768, POINT_ZSTD, POINT_DEFLATE, true },
		{ 65536, 65536, POINT_OLD, POINT_OLD, false },
		{ 65536, 4096, POINT_OLD, 0, true },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		char *name = xasprintf("kinds-%zu", i);
		struct points p;

		srand((unsigned int)i + 1);
		points_init(&p, fx_path(name), 9 * MIB + 512 * 5);
		points_add(&p, 0, t[i].low, t[i].low_flags, 1);
		points_add(&p, 1, t[i].low, t[i].low_flags, 2);
		points_add(&p, 2, t[i].up, t[i].up_flags, 3);
		points_add(&p, 3, t[i].up, t[i].up_flags, 4);
		points_check(&p, true);
		/* an increment into an increment, and then into the full one */
		ok_merge(p.dir, 3, t[i].punch);
		points_are(&p, "1 3 4");
		points_check(&p, true);
		ok_merge(p.dir, 3, t[i].punch);
		points_are(&p, "3 4");
		points_check(&p, true);
		ok_merge(p.dir, 4, t[i].punch);
		points_are(&p, "4");
		points_check(&p, true);
		points_free(&p);
		fx_shell("rm -r %s", fx_path(name));
		free(name);
	}
}

/* ---- a deep chain -------------------------------------------------------- */

static void deep(void **state)
{
	static const uint32_t cluster[] = { 65536, 4096, 4096, 65536, 16384, 8192 };
	static const unsigned int flags[] = { 0, 0, POINT_ZSTD, POINT_ZSTD, 0, POINT_DEFLATE };
	unsigned int keep[POINTS_MAX], removed, i;
	const struct merge_opts o = { .punch = true };
	const struct retention r = { .last = 3, .daily = 2 };
	struct cbw_error err;
	struct points p;
	struct chain c;

	(void)state;
	srand(7);
	points_build(&p, fx_path("deep"), 5 * MIB + 512, 33, cluster, flags, 6);
	points_check(&p, false);
	/* from the middle: 10 to 19 become one */
	for (i = 11; i <= 19; i++)
		ok_merge(p.dir, i, i % 2);
	points_are(&p, "1 2 3 4 5 6 7 8 9 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33");
	points_check(&p, true);
	/* an hour apart, from 22:13: 33 is of the third day, 26 the last of the second */
	assert_int_equal(chain_open_locked(p.dir, &c, &err), 0);
	retention_choose(&c, &r, keep);
	if (prune_run(&c, keep, &o, &removed, &err))
		fail_msg("%s", err.msg);
	chain_close(&c);
	points_are(&p, "26 31 32 33");
	assert_int_equal(removed, 20);
	points_check(&p, true);
	/* what stock tools do with a chain, they can do with this one */
	fx_shell("cp -r %s %s", fx_path("deep"), fx_path("stock"));
	fx_shell("cd %s && qemu-img convert -O raw 000033-inc.qcow2 ../raw &&"
	    " qemu-img rebase -u -f qcow2 -b 000031-inc.qcow2 -F qcow2 000032-inc.qcow2 &&"
	    " qemu-img rebase -f qcow2 -b 000026-full.qcow2 -F qcow2 000033-inc.qcow2 &&"
	    " qemu-img compare -q -f qcow2 -F raw 000033-inc.qcow2 ../raw &&"
	    " qemu-img commit -q -f qcow2 -b 000026-full.qcow2 000033-inc.qcow2 &&"
	    " qemu-img compare -q -f qcow2 -F raw 000026-full.qcow2 ../raw", fx_path("stock"));
	points_free(&p);
}

/* ---- the choice ---------------------------------------------------------- */

static void choose(const char *const *when, size_t nr, const struct retention *r,
		   const char *want)
{
	unsigned int keep[POINTS_MAX];
	struct entry e = { .size = 512 };
	struct chain c = { 0 };
	char got[POINTS_MAX + 1] = "";
	size_t i;

	for (i = 0; i < nr; i++) {
		struct tm tm = { 0 };

		assert_non_null(strptime(when[i], "%Y-%m-%d %H:%M", &tm));
		e.id = (uint32_t)i + 1;
		e.parent = (uint32_t)i;
		e.time = timegm(&tm);
		chain_add(&c, &e);
	}
	retention_choose(&c, r, keep);
	for (i = 0; i < nr; i++)
		got[i] = keep[i] ? 'k' : '-';
	assert_string_equal(got, want);
	free(c.entry);
}

static void retention(void **state)
{
	static const char *const when[] = {
		"2025-12-28 10:00",	/* Sunday of week 52 */
		"2025-12-29 10:00",	/* Monday of week 1 of 2026 */
		"2025-12-31 23:59",
		"2026-01-01 00:01",	/* the same week, another month */
		"2026-01-04 12:00",	/* Sunday */
		"2026-01-05 12:00",	/* Monday of week 2 */
		"2026-01-05 23:00",
		"2026-02-01 00:00",	/* Sunday */
		"2026-02-01 23:00",
	};
	const size_t nr = sizeof(when) / sizeof(when[0]);

	(void)state;
	choose(when, nr, &(struct retention){ .last = 2 }, "-------kk");
	choose(when, nr, &(struct retention){ .last = 100 }, "kkkkkkkkk");
	choose(when, nr, &(struct retention){ .daily = 3 }, "----k-k-k");
	choose(when, nr, &(struct retention){ .weekly = 3 }, "----k-k-k");
	choose(when, nr, &(struct retention){ .weekly = 4 }, "k---k-k-k");
	choose(when, nr, &(struct retention){ .monthly = 2 }, "------k-k");
	choose(when, nr, &(struct retention){ .monthly = 9 }, "--k---k-k");
	choose(when, nr, &(struct retention){ .last = 1, .daily = 2, .monthly = 3 }, "--k---k-k");
	/* none asked for: the newest all the same */
	choose(when, nr, &(struct retention){ 0 }, "--------k");
	choose(when, 0, &(struct retention){ .last = 1 }, "");
}

/* Behind the newest differentials the image stays that the next increment goes on top of. */
static void differentials(void **state)
{
	static const struct {
		uint32_t parent;
		enum entry_type type;
	} t[] = {
		{ 0, ENTRY_FULL }, { 1, ENTRY_DIFFERENTIAL }, { 1, ENTRY_INCREMENTAL },
		{ 1, ENTRY_DIFFERENTIAL }, { 1, ENTRY_DIFFERENTIAL },
	};
	unsigned int keep[POINTS_MAX];
	struct chain c = { 0 };
	uint32_t i;

	(void)state;
	for (i = 0; i < 5; i++) {
		struct entry e = { .id = i + 1, .parent = t[i].parent, .type = t[i].type,
			.size = 512, .time = 1700000000 + i };

		chain_add(&c, &e);
	}
	retention_choose(&c, &(struct retention){ .last = 1 }, keep);
	assert_int_equal(keep[4], KEEP_LAST);
	assert_int_equal(keep[3], 0);
	assert_int_equal(keep[2], KEEP_NEWEST);
	assert_int_equal(keep[1], 0);
	/* and the full one, for the next differential */
	assert_int_equal(keep[0], KEEP_NEWEST);
	free(c.entry);
}

/* Trees, as differential backups make them, and series that are over. */
static void branches(void **state)
{
	unsigned int keep[POINTS_MAX], removed;
	const struct merge_opts o = { 0 };
	struct cbw_error err;
	struct points p;
	struct chain c;

	(void)state;
	srand(9);
	points_init(&p, fx_path("branches"), MIB);
	points_add(&p, 0, 65536, 0, 1);		/* 1: an old series */
	points_add(&p, 1, 4096, 0, 2);		/* 2 */
	points_add(&p, 0, 65536, 0, 3);		/* 3: full */
	points_add(&p, 3, 4096, 0, 4);		/* 4, 5, 6: on 3 */
	points_add(&p, 3, 4096, 0, 5);
	points_add(&p, 3, 4096, 0, 6);
	points_add(&p, 5, 4096, 0, 7);		/* 7: on 5 */
	points_check(&p, true);
	/* 3 cannot take in one of three */
	assert_int_equal(chain_open_locked(p.dir, &c, &err), 0);
	assert_int_equal(merge_possible(&c, 5, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "stands on 3 too"));
	assert_int_equal(merge_possible(&c, 3, &err), -EINVAL);
	assert_int_equal(merge_possible(&c, 9, &err), -EINVAL);
	/* 6 and 7 stay: 4 just goes, 5 is merged, 3 has to stay */
	retention_choose(&c, &(struct retention){ .last = 2 }, keep);
	assert_int_equal(keep[2], KEEP_SHARED);
	assert_int_equal(prune_run(&c, keep, &o, &removed, &err), 0);
	assert_int_equal(removed, 4);
	chain_close(&c);
	points_are(&p, "3 6 7");
	points_check(&p, true);
	points_free(&p);
}

/* ---- damage -------------------------------------------------------------- */

/* Turns a byte of its data over. */
static void poke(const char *dir, const char *file)
{
	char *path = xasprintf("%s/%s", dir, file), byte;
	struct qcow2_run run = { .type = QCOW2_RUN_ZERO };
	FILE *f = fopen(path, "r+");
	struct qcow2_image *img;
	struct qcow2_error err;
	uint64_t at;

	assert_non_null(f);
	assert_int_equal(qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, &err), 0);
	for (at = 4 * MIB; run.type != QCOW2_RUN_DATA; at += run.length)
		assert_int_equal(qcow2_map_layer(img, 0, at, qcow2_size(img) - at, &run, &err), 0);
	at = run.host_offset + 100;
	qcow2_close(img);
	assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
	byte = (char)~fgetc(f);
	assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
	fputc(byte, f);
	fclose(f);
	free(path);
}

/* What is damaged is found before anything is changed: the chain stays as it is. */
static void damage(void **state)
{
	static const uint32_t cluster[] = { 65536, 4096 };
	static const unsigned int flags[] = { 0, 0 };
	struct cbw_error err;
	struct points p;

	(void)state;
	srand(10);
	points_build(&p, fx_path("damage"), 9 * MIB, 3, cluster, flags, 2);
	poke(p.dir, "000002-inc.qcow2");
	assert_int_equal(merge(p.dir, 2, false, &err), -EUCLEAN);
	assert_non_null(strstr(err.msg, "000002-inc.qcow2: damaged: bytes "));
	points_are(&p, "1 2 3");
	poke(p.dir, "000002-inc.qcow2");
	poke(p.dir, "000001-full.qcow2");
	assert_int_equal(merge(p.dir, 2, true, &err), -EUCLEAN);
	assert_non_null(strstr(err.msg, "000001-full.qcow2: damaged: bytes "));
	poke(p.dir, "000001-full.qcow2");
	points_check(&p, false);
	/* details that are gone are made anew, and trusted only if all of it has its sum */
	fx_shell("rm %s/000002-inc.json", p.dir);
	poke(p.dir, "000002-inc.qcow2");
	assert_int_equal(merge(p.dir, 2, false, &err), -EUCLEAN);
	assert_non_null(strstr(err.msg, "content has changed"));
	poke(p.dir, "000002-inc.qcow2");
	ok_merge(p.dir, 2, false);
	points_check(&p, true);
	points_free(&p);
}

/* ---- readers ------------------------------------------------------------- */

/* What somebody reads is not merged, and what is merged is not read. */
static void readers(void **state)
{
	static const uint32_t cluster[] = { 65536, 4096 };
	static const unsigned int flags[] = { 0, 0 };
	unsigned char *buf = malloc(3 * MIB);
	struct qcow2_error qerr;
	struct qcow2_image *img, *second;
	struct cbw_error err;
	struct points p;
	struct chain c;
	char *path;
	int fd;

	(void)state;
	srand(12);
	points_build(&p, fx_path("readers"), 3 * MIB, 4, cluster, flags, 2);
	assert_int_equal(chain_open(p.dir, false, &c, &err), 0);
	assert_int_equal(open_entry(&c, chain_by_id(&c, 4), &img, &err), 0);
	assert_int_equal(open_entry(&c, chain_by_id(&c, 3), &second, &err), 0);
	assert_int_equal(merge(p.dir, 2, true, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "it is being read"));
	/* nothing was begun: 1 can still be restored */
	points_check(&p, false);
	points_are(&p, "1 2 3 4");
	qcow2_close(second);
	assert_int_equal(merge(p.dir, 4, true, &err), -EBUSY);
	assert_int_equal(qcow2_read(img, 0, buf, p.size, &qerr), 0);
	assert_memory_equal(buf, p.data[4], p.size);
	qcow2_close(img);
	/* a merge at work */
	path = chain_path(&c, "000002-inc.qcow2");
	fd = open(path, O_RDWR);
	free(path);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(open_entry(&c, chain_by_id(&c, 4), &img, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "it is being merged"));
	assert_int_equal(open_entry(&c, chain_by_id(&c, 1), &img, &err), 0);
	qcow2_close(img);
	close(fd);
	chain_close(&c);
	ok_merge(p.dir, 2, true);
	points_check(&p, true);
	points_free(&p);
	free(buf);
}

/* ---- the commands -------------------------------------------------------- */

static void tool(const struct points *p, const char *line, int status, const char *says)
{
	char *words = xasprintf("chain %s", line), *argv[8] = { NULL }, out[4096], *at = NULL;
	int argc = 0, got;

	for (at = strtok(words, " "); at && argc < 7; at = strtok(NULL, " "))
		argv[argc++] = strcmp(at, "DIR") ? at : p->dir;
	got = run_quiet(cmd_chain, argc, argv, out);
	if (got != status || (says && !strstr(out, says)))
		fail_msg("%s: status %d, not %d; says: %s", line, got, status, out);
	free(words);
}

static void commands(void **state)
{
	static const uint32_t cluster[] = { 65536, 4096 };
	static const unsigned int flags[] = { 0, 0 };
	struct points p;

	(void)state;
	srand(13);
	points_build(&p, fx_path("commands"), 3 * MIB, 6, cluster, flags, 2);
	points_add(&p, 4, 4096, 0, 1700090000);
	tool(&p, "merge DIR 3..x", EXIT_FAILED, "no point in time 'x'");
	tool(&p, "merge DIR 3", EXIT_USAGE, "not a range");
	tool(&p, "merge DIR 3..", EXIT_USAGE, "not a range");
	tool(&p, "merge DIR 3..3", EXIT_FAILED, "does not stand on");
	tool(&p, "merge DIR 5..3", EXIT_FAILED, "does not stand on");
	tool(&p, "merge DIR 6..7", EXIT_FAILED, "does not stand on");
	/* 4 cannot take in one of two: nothing of it is done, not the first step either */
	tool(&p, "merge DIR 3..5", EXIT_FAILED, "stands on 4 too");
	points_are(&p, "1 2 3 4 5 6 7");
	/* by the digits of a cut, as everywhere */
	tool(&p, "merge DIR 02020202..4", EXIT_OK, "3 has been merged into 4");
	points_are(&p, "1 4 5 6 7");
	points_check(&p, true);
	tool(&p, "merge DIR", EXIT_OK, NULL);
	tool(&p, "prune DIR --keep 2 --dry-run", EXIT_OK, "keep: several stand on it");
	points_are(&p, "1 4 5 6 7");
	/* a backup that is not finished stays what it goes on top of */
	fx_shell("touch %s/resume", p.dir);
	tool(&p, "merge DIR 5..6", EXIT_FAILED, "--resume");
	tool(&p, "prune DIR --keep 1", EXIT_FAILED, "--resume");
	points_are(&p, "1 4 5 6 7");
	fx_shell("rm %s/resume", p.dir);
	tool(&p, "prune DIR --keep 2 --punch", EXIT_OK, "2 removed");
	points_are(&p, "4 6 7");
	points_check(&p, true);
	tool(&p, "prune DIR --keep-daily 1 --keep-weekly 1", EXIT_OK, "2 removed");
	points_are(&p, "7");
	points_check(&p, true);
	points_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kinds),
		cmocka_unit_test(deep),
		cmocka_unit_test(retention),
		cmocka_unit_test(differentials),
		cmocka_unit_test(branches),
		cmocka_unit_test(damage),
		cmocka_unit_test(readers),
		cmocka_unit_test(commands),
	};

	if (getenv("CBW_TEST"))
		cmocka_set_test_filter(getenv("CBW_TEST"));
	return cmocka_run_group_tests_name("cbw merges", tests, fx_begin, fx_end);
}
