// SPDX-License-Identifier: GPL-2.0-or-later
/* What we write we read again, in every geometry; qemu-img judges the result */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"

static struct qcow2_image *create(const char *path, uint64_t size, uint32_t cluster,
				  const char *backing, const char *format)
{
	struct qcow2_create_opts o = { .virtual_size = size, .cluster_size = cluster,
				       .backing_file = backing, .backing_format = format };
	struct qcow2_image *img = NULL;

	ok(qcow2_create(path, &o, &img, err));
	return img;
}

static struct qcow2_image *reopen(const char *path, unsigned int flags)
{
	struct qcow2_image *img = NULL;

	ok(qcow2_open(path, flags, &img, err));
	return img;
}

/* is the image, to stock tools, what @ref is? */
static void same_to_qemu(const char *path, const uint8_t *ref, uint64_t size)
{
	char raw[512];

	snprintf(raw, sizeof(raw), "%s", scratch("ref.raw"));
	write_file(raw, ref, size);
	run_ok("qemu-img compare -q -f qcow2 -F raw '%s' '%s'", path, raw);
}

static void all_cluster_sizes(void **state)
{
	uint32_t cs;

	(void)state;
	rnd_seed(1);
	for (cs = QCOW2_MIN_CLUSTER; cs <= QCOW2_MAX_CLUSTER; cs *= 2) {
		/* no multiple of the cluster, nor (in half of the cases) of 512 */
		uint64_t clusters = cs > 256 * KIB ? 5 : 40, size = cs * clusters + cs / 3 + 7;
		uint8_t *ref = calloc(1, size);
		struct qcow2_image *img;
		const char *path = scratch("size.qcow2");
		unsigned int i;

		size = size / 512 * 512;
		assert_non_null(ref);
		img = create(path, size, cs, NULL, NULL);
		for (i = 0; i < 60; i++)
			random_step(img, ref, size, i + 1);
		same_content(img, ref, size);
		ok(qcow2_flush(img, err));
		same_content(img, ref, size);
		qcow2_close(img);
		check_clean(path);
		img = reopen(path, QCOW2_OPEN_WRITE);
		for (i = 0; i < 30; i++)
			random_step(img, ref, size, i + 100);
		ok(qcow2_flush(img, err));
		qcow2_close(img);
		img = reopen(path, 0);
		same_content(img, ref, size);
		qcow2_close(img);
		check_clean(path);
		same_to_qemu(path, ref, size);
		free(ref);
	}
}

static void odd_sizes(void **state)
{
	static const uint64_t sizes[] = { 0, 1, 511, 512, 513, 65535, 65536, 65537, 131072 + 1, 1000003 };
	unsigned int i, k;

	(void)state;
	rnd_seed(2);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t size = sizes[i];
		uint8_t *ref = calloc(1, size + 1);
		struct qcow2_image *img;
		const char *path = scratch("odd.qcow2");

		assert_non_null(ref);
		img = create(path, size, 0, NULL, NULL);
		for (k = 0; size && k < 20; k++)
			random_step(img, ref, size, k + 1);
		ok(qcow2_flush(img, err));
		qcow2_close(img);
		img = reopen(path, 0);
		same_content(img, ref, size);
		qcow2_close(img);
		check_clean(path);
		free(ref);
	}
}

/* raw <- qcow2 x 5, each with its own cluster size and (growing) size */
static void deep_chain(void **state)
{
	static const uint32_t cs[] = { 65536, 512, 4096, 65536, 2097152, 1024 };
	uint64_t size = 700 * KIB + 512, max = 3 * MIB;
	uint8_t *ref = calloc(1, max);
	char name[32], prev[32] = "base.raw", path[512] = "";
	struct qcow2_image *img;
	struct qcow2_layer l;
	unsigned int i, k;

	(void)state;
	rnd_seed(3);
	assert_non_null(ref);
	stamp(ref, 0, size, 999);
	write_file(scratch(prev), ref, size);
	for (i = 0; i < 6; i++) {
		snprintf(name, sizeof(name), "layer%u.qcow2", i);
		snprintf(path, sizeof(path), "%s", scratch(name));
		/* the overlay grows; once it is smaller than what is below */
		size = i == 4 ? 1 * MIB + 512 : size + 300 * KIB + 512;
		img = create(path, size, cs[i], prev, i ? "qcow2" : "raw");
		assert_int_equal(qcow2_layers(img), i + 2);
		for (k = 0; k < 12; k++)
			random_step(img, ref, size, i * 1000 + k + 1);
		same_content(img, ref, size);
		ok(qcow2_flush(img, err));
		qcow2_close(img);
		img = reopen(path, 0);
		same_content(img, ref, size);
		qcow2_close(img);
		check_clean(path);
		/* what a smaller overlay hides stays hidden for those above it */
		if (i == 4)
			memset(ref + size, 0, max - size);
		snprintf(prev, sizeof(prev), "%s", name);
	}
	same_to_qemu(path, ref, size);
	img = reopen(path, QCOW2_OPEN_SAME_DIR);
	assert_int_equal(qcow2_get_layer(img, 6, &l), 0);
	assert_int_equal(l.format, QCOW2_FORMAT_RAW);
	assert_int_equal(qcow2_get_layer(img, 7, &l), -EINVAL);
	qcow2_close(img);
	free(ref);
}

static void sparse_16_tib(void **state)
{
	static const uint64_t at[] = { 0, 5 * GIB, 8 * TIB - 65536, 8 * TIB, 16 * TIB - 65536 };
	const char *path = scratch("sparse.qcow2");
	struct mallinfo2 before = mallinfo2(), after;
	uint8_t *buf = malloc(65536), *got = malloc(65536);
	struct qcow2_image *img;
	struct qcow2_run r = { 0 };
	struct stat st;
	uint64_t off, data = 0;
	unsigned int i, runs = 0;

	(void)state;
	rnd_seed(4);
	assert_true(buf && got);
	img = create(path, 16 * TIB, 0, NULL, NULL);
	for (i = 0; i < 5; i++) {
		stamp(buf, at[i], 65536, 1);
		engine_write(img, at[i], buf, 65536);
	}
	ok(qcow2_set_zero(img, 65536, 15 * TIB - 65536, err));
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	assert_int_equal(stat(path, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 < 2 * MIB);
	img = reopen(path, 0);
	for (off = 0; off < 16 * TIB; off += r.length, runs++) {
		ok(qcow2_map(img, off, 16 * TIB - off, &r, err));
		data += r.type == QCOW2_RUN_DATA ? r.length : 0;
	}
	/* set_zero took the place of two of the five */
	assert_int_equal(data, 2 * 65536);
	assert_true(runs < 40);
	stamp(buf, at[4], 65536, 1);
	ok(qcow2_read(img, at[4], got, 65536, err));
	assert_memory_equal(buf, got, 65536);
	after = mallinfo2();
	assert_true(after.uordblks + after.hblkhd < before.uordblks + before.hblkhd + 8 * MIB);
	qcow2_close(img);
	check_clean(path);
	free(buf);
	free(got);
}

/* tiny clusters: the refcount table moves several times, blocks come and go in the cache */
static void refcount_table_grows(void **state)
{
	const char *path = scratch("grow.qcow2");
	uint64_t size = 40 * MIB, off;
	uint8_t *ref = malloc(size);
	struct qcow2_image *img;

	(void)state;
	rnd_seed(5);
	assert_non_null(ref);
	stamp(ref, 0, size, 5);
	img = create(path, size, 512, NULL, NULL);
	for (off = 0; off < size; off += 4 * MIB) {
		engine_write(img, off, ref + off, 4 * MIB);
		if (off % (8 * MIB))
			ok(qcow2_flush(img, err));
		if (off == 20 * MIB) {
			qcow2_close(img);
			check_clean(path);
			img = reopen(path, QCOW2_OPEN_WRITE);
		}
	}
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	check_clean(path);
	same_to_qemu(path, ref, size);
	free(ref);
}

/* more dirty L2 tables than the cache holds, new ones and ones in use */
static void l2_cache_overflows(void **state)
{
	const char *path = scratch("l2.qcow2");
	uint64_t step = 32 * KIB, tables = 5000, size = tables * step, i;
	uint8_t *ref = calloc(1, size);
	struct qcow2_image *img;
	struct qcow2_check_report rep;

	(void)state;
	rnd_seed(6);
	assert_non_null(ref);
	img = create(path, size, 512, NULL, NULL);
	for (i = 0; i < tables; i++) {
		stamp(ref + i * step, i * step, 512, 1);
		engine_write(img, i * step, ref + i * step, 512);
	}
	assert_int_equal(qcow2_check(img, 0, &rep, NULL), -EBUSY);
	ok(qcow2_flush(img, err));
	ok(qcow2_check(img, 0, &rep, err));
	assert_int_equal(rep.corruptions + rep.leaks, 0);
	for (i = 0; i < tables; i++) {
		uint64_t off = i * step + 1024;

		stamp(ref + off, off, 512, 2);
		engine_write(img, off, ref + off, 512);
	}
	same_content(img, ref, size);
	ok(qcow2_flush(img, err));
	ok(qcow2_check(img, 0, &rep, err));
	assert_int_equal(rep.corruptions + rep.leaks, 0);
	assert_int_equal(rep.allocated_clusters, 2 * tables);
	qcow2_close(img);
	check_clean(path);
	img = reopen(path, 0);
	same_content(img, ref, size);
	qcow2_close(img);
	free(ref);
}

/* without a flush there is no image; with one, what came after it is not there */
static void close_does_not_flush(void **state)
{
	const char *path = scratch("noflush.qcow2");
	uint8_t *ref = calloc(1, MIB);
	struct qcow2_image *img;
	struct qcow2_error e;

	(void)state;
	rnd_seed(7);
	assert_non_null(ref);
	img = create(path, MIB, 0, NULL, NULL);
	stamp(ref, 0, 65536, 1);
	engine_write(img, 0, ref, 65536);
	qcow2_close(img);
	assert_int_equal(qcow2_open(path, 0, &img, &e), -EUCLEAN);
	assert_non_null(strstr(e.msg, "no qcow2 image"));
	img = create(path, MIB, 0, NULL, NULL);
	engine_write(img, 0, ref, 65536);
	ok(qcow2_flush(img, err));
	engine_write(img, 65536, ref, 65536);
	qcow2_close(img);
	img = reopen(path, 0);
	same_content(img, ref, MIB);
	qcow2_close(img);
	check_clean(path);
	free(ref);
}

static void zero_clusters_hide_the_backing_file(void **state)
{
	const char *path = scratch("zero.qcow2");
	uint8_t *ref = malloc(MIB);
	struct qcow2_image *img;
	struct qcow2_run r;

	(void)state;
	rnd_seed(8);
	assert_non_null(ref);
	stamp(ref, 0, MIB, 1);
	write_file(scratch("zbase.raw"), ref, MIB);
	img = create(path, MIB + 4096, 0, "zbase.raw", "raw");
	ok(qcow2_set_zero(img, 65536, 131072, err));
	memset(ref + 65536, 0, 131072);
	ok(qcow2_map_layer(img, 0, 65536, MIB - 65536, &r, err));
	assert_int_equal(r.type, QCOW2_RUN_ZERO);
	assert_int_equal(r.length, 131072);
	assert_int_equal(r.layer, 0);
	ok(qcow2_map_layer(img, 0, 196608, MIB - 196608, &r, err));
	assert_int_equal(r.type, QCOW2_RUN_UNALLOCATED);
	ok(qcow2_map(img, 196608, MIB - 196608, &r, err));
	assert_int_equal(r.type, QCOW2_RUN_DATA);
	assert_int_equal(r.layer, 1);
	assert_int_equal(r.host_offset, 196608);
	assert_int_equal(r.length, MIB - 196608);
	ok(qcow2_map(img, MIB, 4096, &r, err));
	assert_int_equal(r.type, QCOW2_RUN_ZERO);
	assert_int_equal(r.layer, QCOW2_LAYER_NONE);
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	check_clean(path);

	/* without the backing file only the layer's own is known */
	img = reopen(path, QCOW2_OPEN_NO_BACKING);
	ok(qcow2_map(img, 65536, MIB - 65536, &r, err));
	assert_int_equal(r.type, QCOW2_RUN_ZERO);
	ok(qcow2_map(img, 0, MIB, &r, err));
	assert_int_equal(r.type, QCOW2_RUN_UNALLOCATED);
	assert_int_equal(qcow2_read(img, 0, ref, 512, NULL), -EOPNOTSUPP);
	qcow2_close(img);
	free(ref);
}

static void header_extensions(void **state)
{
	struct qcow2_header_ext ext[2] = {
		{ .type = 0x63627731, .len = 5, .data = "hello" },
		{ .type = 0x63627732, .len = 0, .data = NULL },
	}, got;
	struct qcow2_create_opts o = { .virtual_size = MIB, .ext = ext, .ext_count = 2,
				       .cluster_size = 512, .flags = QCOW2_CREATE_NO_BACKING,
				       .backing_file = "not-there.qcow2", .backing_format = "qcow2" };
	const char *path = scratch("ext.qcow2");
	struct qcow2_image *img = NULL;
	struct qcow2_layer l;
	struct qcow2_error e;

	(void)state;
	ok(qcow2_create(path, &o, &img, err));
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	img = reopen(path, QCOW2_OPEN_NO_BACKING);
	assert_int_equal(qcow2_get_ext(img, 0, 0x63627731, &got), 0);
	assert_int_equal(got.len, 5);
	assert_memory_equal(got.data, "hello", 5);
	assert_int_equal(qcow2_get_ext(img, 0, 0x63627732, &got), 0);
	assert_int_equal(qcow2_get_ext(img, 0, 1, &got), -ENOENT);
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	assert_string_equal(l.backing_file, "not-there.qcow2");
	assert_string_equal(l.backing_format, "qcow2");
	qcow2_close(img);
	img = create(scratch("not-there.qcow2"), MIB, 0, NULL, NULL);
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	check_clean(path);
	assert_int_equal(unlink(scratch("not-there.qcow2")), 0);
	assert_int_equal(qcow2_open(path, 0, &img, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "not-there.qcow2"));
}

/* arguments that are wrong: an error, nothing changed */
static void bad_arguments(void **state)
{
	static const struct qcow2_header_ext bitmaps = { .type = QCOW2_EXT_BITMAPS };
	static const struct qcow2_header_ext large = { .type = 0x12345678, .len = 500, .data = &bitmaps };
	const struct {
		struct qcow2_create_opts o;
		int ret;
		const char *msg;
	} bad[] = {
		{ { .cluster_size = 256 }, -EINVAL, "cluster_size 256" },
		{ { .cluster_size = 65537 }, -EINVAL, "cluster_size 65537" },
		{ { .cluster_size = 4 << 20 }, -EINVAL, "cluster_size 4194304" },
		{ { .virtual_size = UINT64_MAX }, -EINVAL, "virtual_size 18446744073709551615" },
		{ { .virtual_size = 129 * GIB, .cluster_size = 512 }, -EINVAL, "virtual_size" },
		{ { .backing_file = "x" }, -EINVAL, "needs a backing_format" },
		{ { .backing_format = "raw" }, -EINVAL, "needs a backing_file" },
		{ { .backing_file = "", .backing_format = "raw" }, -EINVAL, "name is empty" },
		{ { .backing_file = "nbd://x", .backing_format = "raw" }, -EOPNOTSUPP, "protocols" },
		{ { .backing_file = "x", .backing_format = "vmdk" }, -EOPNOTSUPP, "'vmdk'" },
		{ { .backing_file = "missing", .backing_format = "raw" }, -ENOENT, "missing" },
		{ { .flags = 64 }, -EINVAL, "flags 0x40" },
		{ { .ext_count = 1, .ext = &bitmaps }, -EINVAL, "0x23852875" },
		{ { .ext_count = 1, .cluster_size = 512, .ext = &large }, -EINVAL, "do not fit" },
	};
	const char *path = scratch("bad.qcow2");
	struct qcow2_image *img = NULL;
	struct qcow2_error e;
	uint64_t host, got;
	struct qcow2_run r;
	uint8_t b[16] = { 0 };
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int ret = qcow2_create(path, &bad[i].o, &img, &e);

		if (ret != bad[i].ret || !strstr(e.msg, bad[i].msg))
			fail_msg("case %u: %d '%s', not %d '%s'", i, ret, ret ? e.msg : "", bad[i].ret, bad[i].msg);
		assert_null(img);
		assert_int_equal(e.code, -ret);
	}
	assert_int_equal(qcow2_create(scratch("no/dir"), &(struct qcow2_create_opts){ 0 }, &img, &e), -ENOENT);
	img = create(path, 100000, 0, NULL, NULL);
	assert_int_equal(qcow2_alloc_write(img, 512, 65536, &host, &got, &e), -EINVAL);
	assert_int_equal(qcow2_alloc_write(img, 0, 512, &host, &got, &e), -EINVAL);
	assert_int_equal(qcow2_alloc_write(img, 0, 0, &host, &got, &e), -EINVAL);
	assert_int_equal(qcow2_alloc_write(img, 65536, 65536, &host, &got, &e), -EINVAL);
	assert_int_equal(qcow2_alloc_write(img, 1ull << 63, 1ull << 63, &host, &got, &e), -EINVAL);
	assert_int_equal(qcow2_set_zero(img, 65536, 1, &e), -EINVAL);
	assert_int_equal(qcow2_write(img, 99999, b, 2, &e), -EINVAL);
	assert_int_equal(qcow2_read(img, UINT64_MAX, b, 2, &e), -EINVAL);
	assert_int_equal(qcow2_map(img, 100000, 1, &r, &e), -EINVAL);
	assert_int_equal(qcow2_map(img, 0, 0, &r, &e), -EINVAL);
	assert_int_equal(qcow2_map_layer(img, 1, 0, 1, &r, &e), -EINVAL);
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	img = reopen(path, 0);
	assert_int_equal(qcow2_alloc_write(img, 0, 65536, &host, &got, &e), -EROFS);
	assert_int_equal(qcow2_set_zero(img, 0, 65536, &e), -EROFS);
	assert_int_equal(qcow2_write(img, 0, b, 2, &e), -EROFS);
	assert_int_equal(qcow2_flush(img, &e), -EROFS);
	qcow2_close(img);
	img = NULL;
	assert_int_equal(qcow2_create(path, &(struct qcow2_create_opts){ .flags = QCOW2_CREATE_EXCL }, &img, &e),
			 -EEXIST);
	/* would empty its own backing file */
	assert_int_equal(qcow2_create(path, &(struct qcow2_create_opts){
			.virtual_size = MIB, .backing_file = "bad.qcow2", .backing_format = "qcow2" }, &img, &e),
			-ELOOP);
	assert_int_equal(qcow2_create(path, &(struct qcow2_create_opts){ .flags = QCOW2_CREATE_NO_BACKING,
			.virtual_size = MIB, .backing_file = "bad.qcow2", .backing_format = "qcow2" }, &img, &e),
			-ELOOP);
	check_clean(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_cluster_sizes),
		cmocka_unit_test(odd_sizes),
		cmocka_unit_test(deep_chain),
		cmocka_unit_test(sparse_16_tib),
		cmocka_unit_test(refcount_table_grows),
		cmocka_unit_test(l2_cache_overflows),
		cmocka_unit_test(close_does_not_flush),
		cmocka_unit_test(zero_clusters_hide_the_backing_file),
		cmocka_unit_test(header_extensions),
		cmocka_unit_test(bad_arguments),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("qcow2-roundtrip", tests, scratch_setup, scratch_teardown);
}
