// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What merging images is made of: places that are given up and punched out, compressed
 * clusters as they are, another backing file, headers before they are written
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common.h"
#include "record.h"

#define SIZE	(3 * MIB + 512)

static uint64_t blocks_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* a raw backing file with a stamp, if wanted, and an image on it that is full */
static struct qcow2_image *full_image(const char *name, bool backed, uint32_t cs, uint8_t *below, uint8_t *ref)
{
	struct qcow2_create_opts o = { .virtual_size = SIZE, .cluster_size = cs };
	struct qcow2_image *img = NULL;

	memset(below, 0, SIZE);
	if (backed) {
		stamp(below, 0, SIZE, 77);
		write_file(scratch("below.raw"), below, SIZE);
		o.backing_file = "below.raw";
		o.backing_format = "raw";
	}
	stamp(ref, 0, SIZE, 1);
	ok(qcow2_create(scratch(name), &o, &img, err));
	engine_write(img, 0, ref, SIZE);
	ok(qcow2_flush(img, err));
	return img;
}

static void discard_kind(bool backed, bool punch, uint32_t cs)
{
	uint8_t *ref = malloc(SIZE), *below = malloc(SIZE);
	const char *path = scratch("discard.qcow2");
	struct qcow2_image *img;
	uint64_t before, clusters = (SIZE + cs - 1) / cs, i;
	struct qcow2_error e;

	assert_true(ref && below);
	img = full_image("discard.qcow2", backed, cs, below, ref);
	qcow2_close(img);
	before = blocks_of(path);
	ok(qcow2_open(path, QCOW2_OPEN_WRITE | (punch ? QCOW2_OPEN_PUNCH : 0), &img, err));
	for (i = 0; i < 60; i++) {
		uint64_t first = rnd_below(clusters), n = 1 + rnd_below(8), off = first * cs, len = n * cs;
		bool through = rnd_below(2);

		if (off + len > SIZE)
			len = SIZE - off;
		ok(qcow2_discard(img, off, len, through ? QCOW2_DISCARD_BACKING : 0, err));
		if (through)
			memcpy(ref + off, below + off, len);
		else
			memset(ref + off, 0, len);
		if (rnd_below(3))
			continue;
		ok(qcow2_flush(img, err));
		/* what is free is used again only by who asks for that */
		off = rnd_below(clusters) * cs;
		len = SIZE - off < cs ? SIZE - off : cs;
		stamp(ref + off, off, len, i + 2);
		ok(qcow2_write(img, off, ref + off, len, err));
	}
	same_content(img, ref, SIZE);
	assert_int_equal(qcow2_discard(img, 512, cs, 0, &e), cs > 512 ? -EINVAL : 0);
	assert_int_equal(qcow2_discard(img, 0, SIZE + 1, 0, &e), -EINVAL);
	assert_int_equal(qcow2_discard(img, 0, cs, 8, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "unknown flags"));
	/* all of it */
	ok(qcow2_discard(img, 0, SIZE, QCOW2_DISCARD_BACKING, err));
	ok(qcow2_flush(img, err));
	same_content(img, below, SIZE);
	qcow2_close(img);
	check_clean(path);
	if (punch)
		assert_true(blocks_of(path) < before / 8 + 512 * KIB);
	ok(qcow2_open(path, 0, &img, err));
	same_content(img, below, SIZE);
	assert_int_equal(qcow2_discard(img, 0, cs, 0, &e), -EROFS);
	qcow2_close(img);
	free(ref);
	free(below);
}

static void discard(void **state)
{
	(void)state;
	rnd_seed(61);
	discard_kind(false, false, 65536);
	discard_kind(true, false, 65536);
	discard_kind(true, true, 65536);
	discard_kind(false, true, 4096);
	discard_kind(true, true, 4096);
}

/* after a crash each cluster is as before or reads as the backing file, which has the same */
static void discard_crash(void **state)
{
	uint8_t *ref = malloc(SIZE), *below = malloc(SIZE), *buf = malloc(SIZE);
	struct qcow2_check_report rep;
	struct qcow2_image *img;
	size_t from, to;
	char crashed[512];
	unsigned int i;

	(void)state;
	rnd_seed(62);
	assert_true(ref && below && buf);
	img = full_image("dcrash.qcow2", true, 4096, below, ref);
	qcow2_close(img);
	/* the backing file has taken in what the image has */
	write_file(scratch("below.raw"), ref, SIZE);
	record_start(scratch("dcrash.qcow2"));
	ok(qcow2_open(scratch("dcrash.qcow2"), QCOW2_OPEN_WRITE | QCOW2_OPEN_PUNCH, &img, err));
	from = record_ops();
	for (i = 0; i < SIZE / 4096; i += 64) {
		ok(qcow2_discard(img, i * 4096, 48 * 4096, QCOW2_DISCARD_BACKING, err));
		ok(qcow2_flush(img, err));
	}
	to = record_ops();
	qcow2_close(img);
	snprintf(crashed, sizeof(crashed), "%s", scratch("crashed.qcow2"));
	for (i = 0; i < 200; i++) {
		record_crash(from + rnd_below(to - from + 1), crashed);
		ok(qcow2_open(crashed, 0, &img, err));
		ok(qcow2_check(img, 0, &rep, err));
		if (rep.corruptions)
			fail_msg("after a crash: %s", rep.first);
		ok(qcow2_read(img, 0, buf, SIZE, err));
		assert_memory_equal(buf, ref, SIZE);
		qcow2_close(img);
	}
	record_stop();
	check_clean(scratch("dcrash.qcow2"));
	free(ref);
	free(below);
	free(buf);
}

/* ---- compressed clusters ----------------------------------------------- */

static void move_compressed(const char *from, unsigned int type, uint32_t cs, const uint8_t *ref)
{
	struct qcow2_create_opts o = { .virtual_size = SIZE, .cluster_size = cs, .compression = type };
	const char *path = scratch("moved.qcow2");
	struct qcow2_image *src = NULL, *dst = NULL;
	uint8_t *buf = malloc(2 * cs), *again = malloc(2 * cs);
	struct qcow2_error e;
	struct qcow2_run r;
	unsigned int moved = 0;
	uint64_t off;
	size_t len, n;

	assert_true(buf && again);
	ok(qcow2_open(from, 0, &src, err));
	ok(qcow2_create(path, &o, &dst, err));
	for (off = 0; off < SIZE; off += r.length) {
		ok(qcow2_map_layer(src, 0, off, SIZE - off, &r, err));
		if (r.type != QCOW2_RUN_COMPRESSED) {
			assert_int_equal(qcow2_read_compressed(src, 0, off, buf, 2 * cs, &len, &e), -EINVAL);
			ok(qcow2_write(dst, off, ref + off, r.length, err));
			continue;
		}
		assert_int_equal(qcow2_read_compressed(src, 0, off, buf, 1, &len, &e), -E2BIG);
		ok(qcow2_read_compressed(src, 0, off, buf, cs - 1, &len, err));
		ok(qcow2_write_compressed(dst, off, buf, len, err));
		/* the length is that of the data, wherever it lies */
		ok(qcow2_read_compressed(dst, 0, off, again, cs - 1, &n, err));
		assert_int_equal(n, len);
		assert_memory_equal(again, buf, len);
		moved++;
	}
	assert_int_equal(qcow2_read_compressed(src, 0, 1, buf, cs, &len, &e), -EINVAL);
	assert_int_equal(qcow2_read_compressed(src, 1, 0, buf, cs, &len, &e), -EINVAL);
	assert_true(moved > 5);
	ok(qcow2_flush(dst, err));
	same_content(dst, ref, SIZE);
	qcow2_close(dst);
	qcow2_close(src);
	check_clean(path);
	run_ok("qemu-img compare -q -f qcow2 -F qcow2 '%s' '%s'", from, path);
	free(again);
	free(buf);
}

static void compressed(void **state)
{
	static const uint32_t cs[] = { 4096, 65536 };
	uint8_t *ref = calloc(1, SIZE);
	char from[512];
	unsigned int i;
	uint64_t off;

	(void)state;
	rnd_seed(63);
	assert_non_null(ref);
	/* text, noise that does not compress, nothing */
	for (off = 0; off < SIZE; off++)
		ref[off] = off / 131072 % 3 == 0 ? (uint8_t)("merge "[off % 6] + off / 9999 % 3) :
			   off / 131072 % 3 == 1 ? (uint8_t)rnd() : 0;
	write_file(scratch("plain.raw"), ref, SIZE);
	snprintf(from, sizeof(from), "%s", scratch("from.qcow2"));
	for (i = 0; i < 2; i++) {
		run_ok("qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=%u '%s' '%s'", cs[i],
		       scratch("plain.raw"), from);
		move_compressed(from, QCOW2_COMPRESSION_DEFLATE, cs[i], ref);
		run_ok("qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=%u,compression_type=zstd '%s' '%s'", cs[i],
		       scratch("plain.raw"), from);
		move_compressed(from, QCOW2_COMPRESSION_ZSTD, cs[i], ref);
		/* and once more what we have packed */
		remove(from);
		assert_int_equal(rename(scratch("moved.qcow2"), from), 0);
		move_compressed(from, QCOW2_COMPRESSION_ZSTD, cs[i], ref);
	}
	free(ref);
}

/* ---- another backing file ---------------------------------------------- */

static const char ext_data[] = "whatever a private extension has";

static void backed_image(const char *name, uint32_t cs, unsigned int flags)
{
	const struct qcow2_header_ext ext = { .type = 0x43425799, .len = sizeof(ext_data), .data = ext_data };
	struct qcow2_create_opts o = { .virtual_size = SIZE, .cluster_size = cs, .backing_file = "one.raw",
				       .backing_format = "raw", .ext = &ext, .ext_count = 1, .flags = flags };
	struct qcow2_image *img = NULL;

	ok(qcow2_create(scratch(name), &o, &img, err));
	ok(qcow2_write(img, 100000, "own", 3, err));
	ok(qcow2_flush(img, err));
	qcow2_close(img);
}

static void two_files(uint8_t *one, uint8_t *two)
{
	stamp(one, 0, SIZE, 1);
	stamp(two, 0, SIZE, 2);
	write_file(scratch("one.raw"), one, SIZE);
	write_file(scratch("two.raw"), two, SIZE);
}

static void rebase(void **state)
{
	uint8_t *one = malloc(SIZE), *two = malloc(SIZE), *zero = calloc(1, SIZE);
	static const uint32_t cs[] = { 512, 4096, 65536 };
	struct qcow2_header_ext ext;
	struct qcow2_image *img;
	struct qcow2_error e;
	char path[512], longest[QCOW2_MAX_BACKING_NAME + 2];
	unsigned int i;

	(void)state;
	assert_true(one && two && zero);
	snprintf(path, sizeof(path), "%s", scratch("rebase.qcow2"));
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	for (i = 0; i < 3; i++) {
		two_files(one, two);
		remove(path);
		backed_image("rebase.qcow2", cs[i], i == 1 ? QCOW2_CREATE_BITMAPS : 0);
		ok(qcow2_open(path, QCOW2_OPEN_WRITE, &img, err));
		assert_int_equal(qcow2_set_backing(img, "two.raw", "raw", &e), -EBUSY);
		qcow2_close(img);
		ok(qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, err));
		assert_int_equal(qcow2_set_backing(img, "two.raw", "raw", &e), -EROFS);
		qcow2_close(img);
		ok(qcow2_open(path, QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_BACKING, &img, err));
		assert_int_equal(qcow2_set_backing(img, "two.raw", NULL, &e), -EINVAL);
		assert_int_equal(qcow2_set_backing(img, NULL, "raw", &e), -EINVAL);
		assert_int_equal(qcow2_set_backing(img, "", "raw", &e), -EINVAL);
		assert_int_equal(qcow2_set_backing(img, longest, "raw", &e), -EINVAL);
		assert_int_equal(qcow2_set_backing(img, "nbd:x", "raw", &e), -EOPNOTSUPP);
		assert_int_equal(qcow2_set_backing(img, "two.raw", "vmdk", &e), -EOPNOTSUPP);
		/* it fits the name's limit, and not the cluster: all stays as it is */
		longest[QCOW2_MAX_BACKING_NAME] = '\0';
		assert_int_equal(qcow2_set_backing(img, longest, "raw", &e), cs[i] == 512 ? -EINVAL : 0);
		longest[QCOW2_MAX_BACKING_NAME] = 'x';
		ok(qcow2_set_backing(img, "two.raw", "raw", err));
		/* and the image goes on */
		ok(qcow2_write(img, 0, zero, cs[i], err));
		memset(two, 0, cs[i]);
		memset(one, 0, cs[i]);
		memcpy(two + 100000 / cs[i] * cs[i], one + 100000 / cs[i] * cs[i], cs[i]);
		memcpy(two + 100000, "own", 3);
		ok(qcow2_flush(img, err));
		qcow2_close(img);
		check_clean(path);
		ok(qcow2_open(path, 0, &img, err));
		same_content(img, two, SIZE);
		assert_int_equal(qcow2_get_ext(img, 0, 0x43425799, &ext), 0);
		assert_int_equal(ext.len, sizeof(ext_data));
		assert_memory_equal(ext.data, ext_data, sizeof(ext_data));
		qcow2_close(img);
		run_ok("qemu-img info '%s' | grep -q 'backing file: two.raw'", path);
		run_ok("qemu-img info '%s' | grep -q 'backing file format: raw'", path);
		/* none, and one again */
		ok(qcow2_open(path, QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_BACKING, &img, err));
		ok(qcow2_set_backing(img, NULL, NULL, err));
		qcow2_close(img);
		check_clean(path);
		run_ok("! qemu-img info '%s' | grep -q backing", path);
		ok(qcow2_open(path, QCOW2_OPEN_WRITE, &img, err));
		ok(qcow2_set_backing(img, "two.raw", "raw", err));
		qcow2_close(img);
		ok(qcow2_open(path, 0, &img, err));
		same_content(img, two, SIZE);
		qcow2_close(img);
	}
	free(one);
	free(two);
	free(zero);
}

/* what is planned is what is written, and the image knows nothing of it */
static void planned(void **state)
{
	const struct qcow2_header_ext ext = { .type = 0x43425799, .len = 5, .data = "other" };
	const struct qcow2_header_change back = { .set_backing = true, .backing_file = "two.raw",
						  .backing_format = "raw" };
	const struct qcow2_header_change both = { .set_backing = true, .backing_file = "two.raw",
						  .backing_format = "raw", .ext = &ext };
	const struct qcow2_header_change wrong = { .set_backing = true, .backing_file = "two.raw" };
	const struct qcow2_header_ext ours = { .type = QCOW2_EXT_BITMAPS };
	const struct qcow2_header_change bad = { .ext = &ours };
	uint8_t *one = malloc(SIZE), *two = malloc(SIZE), *before, *after;
	struct qcow2_header_ext got;
	struct qcow2_image *img;
	struct qcow2_error e;
	char path[512];
	size_t len, n;
	void *h, *g;

	(void)state;
	assert_true(one && two);
	two_files(one, two);
	snprintf(path, sizeof(path), "%s", scratch("planned.qcow2"));
	backed_image("planned.qcow2", 4096, 0);
	before = read_file(path, &n);
	ok(qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, err));
	assert_int_equal(qcow2_plan_header(img, &wrong, &h, &len, &e), -EINVAL);
	assert_int_equal(qcow2_plan_header(img, &bad, &h, &len, &e), -EINVAL);
	ok(qcow2_plan_header(img, &back, &h, &len, err));
	assert_int_equal(len, 4096);
	/* twice the same: nothing is left behind by the first */
	ok(qcow2_plan_header(img, &both, &g, &len, err));
	free(g);
	ok(qcow2_plan_header(img, &back, &g, &len, err));
	assert_memory_equal(g, h, len);
	assert_int_equal(qcow2_get_ext(img, 0, 0x43425799, &got), 0);
	assert_memory_equal(got.data, ext_data, sizeof(ext_data));
	qcow2_close(img);
	after = read_file(path, &n);
	assert_memory_equal(before, after, n);
	free(after);
	ok(qcow2_open(path, QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_BACKING, &img, err));
	ok(qcow2_set_backing(img, "two.raw", "raw", err));
	qcow2_close(img);
	after = read_file(path, &n);
	assert_memory_equal(h, after, len);
	/* written by hand it is an image too */
	ok(qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, err));
	free(g);
	ok(qcow2_plan_header(img, &both, &g, &len, err));
	qcow2_close(img);
	memcpy(after, g, len);
	write_file(path, after, n);
	check_clean(path);
	ok(qcow2_open(path, 0, &img, err));
	assert_int_equal(qcow2_get_ext(img, 0, 0x43425799, &got), 0);
	assert_int_equal(got.len, 5);
	memcpy(two + 100000 / 4096 * 4096, one + 100000 / 4096 * 4096, 4096);
	memcpy(two + 100000, "own", 3);
	same_content(img, two, SIZE);
	qcow2_close(img);
	free(before);
	free(after);
	free(g);
	free(h);
	free(one);
	free(two);
}

/* a header within one sector is the old one or the new one, whenever the power fails */
static void rebase_crash(void **state)
{
	uint8_t *one = malloc(SIZE), *two = malloc(SIZE);
	unsigned int i, seen[2] = { 0 };
	struct qcow2_image *img;
	struct qcow2_layer l;
	char crashed[512];
	size_t from, to;

	(void)state;
	rnd_seed(64);
	assert_true(one && two);
	two_files(one, two);
	backed_image("rcrash.qcow2", 65536, 0);
	record_start(scratch("rcrash.qcow2"));
	ok(qcow2_open(scratch("rcrash.qcow2"), QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_BACKING, &img, err));
	from = record_ops();
	ok(qcow2_set_backing(img, "two.raw", "raw", err));
	to = record_ops();
	qcow2_close(img);
	snprintf(crashed, sizeof(crashed), "%s", scratch("crashed.qcow2"));
	for (i = 0; i < 100; i++) {
		record_crash(from + rnd_below(to - from + 1), crashed);
		ok(qcow2_open(crashed, 0, &img, err));
		assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
		seen[!strcmp(l.backing_file, "two.raw")]++;
		qcow2_close(img);
		check_clean(crashed);
	}
	assert_true(seen[0] && seen[1]);
	record_stop();
	free(one);
	free(two);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(discard),
		cmocka_unit_test(discard_crash),
		cmocka_unit_test(compressed),
		cmocka_unit_test(rebase),
		cmocka_unit_test(planned),
		cmocka_unit_test(rebase_crash),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("qcow2-merge", tests, scratch_setup, scratch_teardown);
}
