// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * After a crash at any operation, with any subset of what was not synced, the
 * image is what a flush made durable, or on its way to the next one (each
 * cluster as before or as after), with leaks at most; before the first flush it
 * is no image.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "record.h"

struct world {
	struct qcow2_image *img;
	uint64_t size, cs, clusters;
	uint8_t *now, *flushed;
	uint8_t *durable_data;		/* per cluster: has a place with data on disk */
	uint8_t *has_data;		/* ... and since the last flush */
};

/* new data only where no durable data is: in place nothing is promised */
static void step(struct world *w, uint64_t gen)
{
	uint64_t c = rnd_below(w->clusters), n = 1 + rnd_below(6), i;

	for (i = 0; i < n && c + i < w->clusters; i++) {
		uint64_t off = (c + i) * w->cs, len = w->size - off < w->cs ? w->size - off : w->cs;

		if (rnd_below(5) == 0) {
			ok(qcow2_set_zero(w->img, off, len, err));
			memset(w->now + off, 0, len);
			w->has_data[c + i] = 0;
		} else if (!w->durable_data[c + i]) {
			stamp(w->now + off, off, len, gen);
			engine_write(w->img, off, w->now + off, len);
			w->has_data[c + i] = 1;
		}
	}
}

static void flush(struct world *w)
{
	ok(qcow2_flush(w->img, err));
	memcpy(w->durable_data, w->has_data, w->clusters);
}

/* @old to @new: what may be there; NULL @old: no image is fine too */
static bool look(const char *path, struct world *w, const uint8_t *old, const uint8_t *new)
{
	struct qcow2_image *img = NULL;
	struct qcow2_check_report rep;
	struct qcow2_error e;
	uint8_t *buf;
	uint64_t c;

	if (qcow2_open(path, 0, &img, &e)) {
		if (old)
			fail_msg("after a crash: %s", e.msg);
		assert_non_null(strstr(e.msg, "no qcow2 image"));
		return false;
	}
	ok(qcow2_check(img, 0, &rep, err));
	if (rep.corruptions)
		fail_msg("after a crash: %llu corruptions: %s", (unsigned long long)rep.corruptions, rep.first);
	buf = malloc(w->size);
	assert_non_null(buf);
	ok(qcow2_read(img, 0, buf, w->size, err));
	for (c = 0; c < w->clusters; c++) {
		uint64_t off = c * w->cs, len = w->size - off < w->cs ? w->size - off : w->cs;

		if (memcmp(buf + off, new + off, len) && (!old || memcmp(buf + off, old + off, len)))
			fail_msg("after a crash: cluster %llu is neither old nor new", (unsigned long long)c);
	}
	free(buf);
	qcow2_close(img);
	return true;
}

static void world_init(struct world *w, uint64_t size, uint64_t cs)
{
	memset(w, 0, sizeof(*w));
	w->size = size;
	w->cs = cs;
	w->clusters = (size + cs - 1) / cs;
	w->now = calloc(1, size);
	w->flushed = calloc(1, size);
	w->durable_data = calloc(1, w->clusters);
	w->has_data = calloc(1, w->clusters);
	assert_true(w->now && w->flushed && w->durable_data && w->has_data);
}

static void world_free(struct world *w)
{
	free(w->now);
	free(w->flushed);
	free(w->durable_data);
	free(w->has_data);
}

/* steps and flushes; crashes between the beginning of the last step and the end of its flush */
static void rounds(struct world *w, bool fresh, unsigned int nr, unsigned int steps,
		   unsigned int crashes)
{
	char crashed[512];
	unsigned int r, k;
	uint64_t images = 0;

	snprintf(crashed, sizeof(crashed), "%s", scratch("crashed.qcow2"));
	for (r = 0; r < nr; r++) {
		size_t from = record_ops(), to;

		for (k = 0; k < steps; k++)
			step(w, r * 1000 + k + 1);
		flush(w);
		to = record_ops();
		for (k = 0; k < crashes; k++) {
			/* the flush is the interesting part, the end of it most */
			size_t at = k & 1 ? to - rnd_below(to - from < 12 ? to - from : 12) :
					    from + rnd_below(to - from + 1);

			record_crash(at, crashed);
			images += look(crashed, w, fresh && !r ? NULL : w->flushed, w->now);
		}
		memcpy(w->flushed, w->now, w->size);
	}
	printf("# %llu of %u crashes left an image\n", (unsigned long long)images, nr * crashes);
}

static void fresh_image(uint64_t size, uint32_t cs)
{
	const char *path = scratch("fresh.qcow2");
	struct world w;

	world_init(&w, size, cs);
	remove(path);
	write_file(path, "", 0);
	record_start(path);
	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = size, .cluster_size = cs },
			&w.img, err));
	rounds(&w, true, 4, 12, 40);
	qcow2_close(w.img);
	record_stop();
	world_free(&w);
}

static void fresh_64k(void **state)
{
	(void)state;
	rnd_seed(21);
	fresh_image(3 * MIB + 512, 65536);
}

static void fresh_512(void **state)
{
	(void)state;
	rnd_seed(22);
	fresh_image(300 * KIB + 512, 512);
}

/* an increment: zero clusters and data over a backing file */
static void increment(void **state)
{
	const char *path = scratch("inc.qcow2");
	struct world w;

	(void)state;
	rnd_seed(23);
	world_init(&w, 700 * KIB, 4096);
	stamp(w.now, 0, w.size, 9999);
	memcpy(w.flushed, w.now, w.size);
	write_file(scratch("inc-base.raw"), w.now, w.size);
	write_file(path, "", 0);
	record_start(path);
	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = w.size, .cluster_size = 4096,
			.backing_file = "inc-base.raw", .backing_format = "raw" }, &w.img, err));
	rounds(&w, true, 4, 12, 40);
	qcow2_close(w.img);
	record_stop();
	world_free(&w);
}

/* the refcount table moves while the image is in use */
static void refcount_table_moves(void **state)
{
	const char *path = scratch("moves.qcow2");
	uint64_t full = 7900 * KIB;
	struct qcow2_layer l;
	struct world w;

	(void)state;
	rnd_seed(24);
	world_init(&w, full + 700 * KIB, 512);
	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = w.size, .cluster_size = 512 },
			&w.img, err));
	stamp(w.now, 0, full, 1);
	engine_write(w.img, 0, w.now, full);
	memset(w.has_data, 1, full / 512);
	flush(&w);
	memcpy(w.flushed, w.now, w.size);
	qcow2_close(w.img);
	record_start(path);
	ok(qcow2_open(path, QCOW2_OPEN_WRITE, &w.img, err));
	for (unsigned int i = 0; i < 3; i++) {
		uint64_t off = full + i * 200 * KIB;

		stamp(w.now + off, off, 200 * KIB, 2);
		engine_write(w.img, off, w.now + off, 200 * KIB);
		memset(w.has_data + off / 512, 1, 200 * KIB / 512);
		rounds(&w, false, 1, 3, 8);
	}
	assert_int_equal(qcow2_get_layer(w.img, 0, &l), 0);
	assert_true(l.file_size > 8 * MIB);
	qcow2_close(w.img);
	record_stop();
	check_clean(path);
	world_free(&w);
}

/* more dirty tables in use than the cache holds: they move before the flush */
static void tables_move(void **state)
{
	const char *path = scratch("tables.qcow2");
	uint64_t tables = 4300, step_len = 32 * KIB, i;
	struct qcow2_image *img = NULL;
	char crashed[512];
	struct world w;
	size_t from, to;
	unsigned int k;

	(void)state;
	rnd_seed(25);
	world_init(&w, tables * step_len, 512);
	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = w.size, .cluster_size = 512 },
			&img, err));
	for (i = 0; i < tables; i++) {
		stamp(w.now + i * step_len, i * step_len, 512, 1);
		engine_write(img, i * step_len, w.now + i * step_len, 512);
	}
	ok(qcow2_flush(img, err));
	memcpy(w.flushed, w.now, w.size);
	qcow2_close(img);
	record_start(path);
	ok(qcow2_open(path, QCOW2_OPEN_WRITE, &img, err));
	from = record_ops();
	for (i = 0; i < tables; i++) {
		uint64_t off = i * step_len + 512 * (1 + rnd_below(8));

		stamp(w.now + off, off, 512, 2);
		engine_write(img, off, w.now + off, 512);
	}
	ok(qcow2_flush(img, err));
	to = record_ops();
	snprintf(crashed, sizeof(crashed), "%s", scratch("crashed.qcow2"));
	for (k = 0; k < 4; k++) {
		record_crash(k & 1 ? to - rnd_below(500) : from + rnd_below(to - from), crashed);
		look(crashed, &w, w.flushed, w.now);
	}
	qcow2_close(img);
	record_stop();
	check_clean(path);
	world_free(&w);
}

/*
 * Each write, sync or truncate in turn fails: what was durable stays, and if a
 * later flush says it is done, the metadata is sound.
 */
static void any_call_fails(void **state)
{
	static const uint32_t cs[] = { 512, 4096 };
	const char *path = scratch("fails.qcow2");
	uint64_t size = 400 * KIB, off, len;
	uint8_t *ref = malloc(size), *next = malloc(size);
	unsigned int n, k, i, fired = 0;

	(void)state;
	assert_true(ref && next);
	rnd_seed(26);
	for (n = 0; n < 96; n++) {
		struct qcow2_check_report rep;
		struct qcow2_image *img = NULL;
		struct qcow2_error e;
		int ret = 0, flushed = -1;

		stamp(ref, 0, size, 1);
		memset(ref + size / 4, 0, size / 2);
		ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = size, .cluster_size = cs[n & 1] },
				&img, err));
		ok(qcow2_write(img, 0, ref, size / 4, err));
		ok(qcow2_write(img, size / 4 * 3, ref + size / 4 * 3, size / 4, err));
		ok(qcow2_flush(img, err));
		memcpy(next, ref, size);
		/* among the writes, or in the flush */
		if (n & 4)
			record_fail(rnd_below(40), n % 3 ? EIO : ENOSPC);
		/* only the half that has no data: in place nothing is promised */
		for (k = 0; !ret && k < 8; k++) {
			off = size / 4 + rnd_below(size / 4);
			len = 1 + rnd_below(size / 4);
			stamp(next + off, off, len, k + 2);
			for (i = 0; !ret && i < len; i += 5000)
				ret = qcow2_write(img, off + i, next + off + i, len - i < 5000 ? len - i : 5000, &e);
			if (ret || k < 7)
				continue;
			if (!(n & 4))
				record_fail(rnd_below(12), n % 3 ? EIO : ENOSPC);
			ret = qcow2_flush(img, &e);
		}
		/* not every call's failure must show: an unneeded one, or none was left */
		if (ret && n & 2)
			flushed = qcow2_flush(img, &e);
		fired += record_failed();
		record_fail(0, 0);
		qcow2_close(img);
		ok(qcow2_open(path, QCOW2_OPEN_WRITE, &img, err));
		ok(qcow2_check(img, 0, &rep, err));
		if (rep.corruptions)
			fail_msg("round %u: %llu corruptions: %s", n, (unsigned long long)rep.corruptions, rep.first);
		if (ret && flushed)
			/* a flush that failed late may be there in part: cluster by cluster old or new */
			for (off = 0; off < size; off += cs[n & 1]) {
				uint8_t buf[4096];

				len = size - off < cs[n & 1] ? size - off : cs[n & 1];
				ok(qcow2_read(img, off, buf, len, err));
				if (memcmp(buf, ref + off, len) && memcmp(buf, next + off, len))
					fail_msg("round %u: cluster at %llu is neither old nor new", n,
						 (unsigned long long)off);
			}
		else if (!ret)
			same_content(img, next, size);
		/* and one can go on */
		ok(qcow2_write(img, 0, next, size, err));
		ok(qcow2_flush(img, err));
		same_content(img, next, size);
		ok(qcow2_check(img, 0, &rep, err));
		assert_int_equal(rep.corruptions, 0);
		qcow2_close(img);
	}
	printf("# %u of %u rounds had a failure\n", fired, n);
	assert_true(fired > n / 3);
	free(ref);
	free(next);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fresh_64k),
		cmocka_unit_test(fresh_512),
		cmocka_unit_test(increment),
		cmocka_unit_test(refcount_table_moves),
		cmocka_unit_test(tables_move),
		cmocka_unit_test(any_call_fails),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("qcow2-crash", tests, scratch_setup, scratch_teardown);
}
