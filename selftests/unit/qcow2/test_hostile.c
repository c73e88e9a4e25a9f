// SPDX-License-Identifier: GPL-2.0-or-later
/* Broken headers, tables and chains: each with its exact error */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"

#define CS	65536u
#define SIZE	(4 * CS - 512)		/* of the guest; 3.99 clusters of data */
#define REFB	(1 * CS)
#define REFT	(2 * CS)
#define L1	(3 * CS)
#define L2	(4 * CS)
#define DATA	(5 * CS)
#define FILE_SIZE (9 * CS)
#define EXT	112

struct patch {
	uint32_t off;
	unsigned int width;	/* bytes; 0 = end of the list */
	uint64_t value;
};

struct bad {
	struct patch p[8];
	uint64_t cut;		/* length of the file; 0 = all of it */
	int ret;
	const char *msg;	/* after the file's name */
};

static uint8_t *good;

static int setup(void **state)
{
	const char *path;
	struct qcow2_image *img = NULL;
	uint8_t *buf = malloc(SIZE);
	size_t size;

	if (scratch_setup(state) || !buf)
		return -1;
	path = scratch("good.qcow2");
	stamp(buf, 0, SIZE, 1);
	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = SIZE }, &img, err));
	engine_write(img, 0, buf, SIZE);
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	free(buf);
	good = read_file(path, &size);
	/* the tables below rely on this layout */
	return size == FILE_SIZE ? 0 : -1;
}

static int teardown(void **state)
{
	free(good);
	return scratch_teardown(state);
}

static void make(const char *path, const struct patch *p, uint64_t cut)
{
	uint8_t *f = malloc(FILE_SIZE);

	assert_non_null(f);
	memcpy(f, good, FILE_SIZE);
	for (; p->width; p++) {
		uint64_t v = htobe64(p->value << (64 - 8 * p->width));

		memcpy(f + p->off, &v, p->width);
	}
	write_file(path, f, cut ? cut : FILE_SIZE);
	free(f);
}

static void expect(unsigned int nr, int ret, const struct qcow2_error *e, const struct bad *b, const char *path)
{
	char want[1024];

	snprintf(want, sizeof(want), "%s: %s", path, b->msg);
	if (ret != b->ret || strcmp(e->msg, want) || e->code != -b->ret)
		fail_msg("case %u: %d\n got: %s\nwant: %d\n      %s", nr, ret, ret ? e->msg : "", b->ret, want);
}

static const struct bad bad_header[] = {
	{ { { 0, 4, 0x514649fc } }, 0, -EUCLEAN,
	  "no qcow2 image: magic is 0x514649fc, not 0x514649fb (a new image has none until it is complete)" },
	{ { { 4, 4, 2 } }, 0, -EOPNOTSUPP,
	  "header: version 2 is not supported, only 3 (`qemu-img amend -o compat=1.1` converts version 2)" },
	{ { { 4, 4, 4 } }, 0, -EUCLEAN,
	  "header: version 4 is not supported, only 3 (`qemu-img amend -o compat=1.1` converts version 2)" },
	{ { { 0 } }, 7, -EUCLEAN, "no qcow2 image: 7 bytes are too short for a header" },
	{ { { 0 } }, 72, -EUCLEAN, "header is cut short: the file has 72 bytes, a header 104" },
	{ { { 20, 4, 8 } }, 0, -EUCLEAN, "header: cluster_bits 8 is not within 9 to 21" },
	{ { { 20, 4, 22 } }, 0, -EUCLEAN, "header: cluster_bits 22 is not within 9 to 21" },
	{ { { 20, 4, UINT32_MAX } }, 0, -EUCLEAN, "header: cluster_bits 4294967295 is not within 9 to 21" },
	{ { { 100, 4, 72 } }, 0, -EUCLEAN,
	  "header: header_length 72 is not within 104 to the cluster size 65536, or no multiple of 8" },
	{ { { 100, 4, 108 } }, 0, -EUCLEAN,
	  "header: header_length 108 is not within 104 to the cluster size 65536, or no multiple of 8" },
	{ { { 100, 4, 0xfffffff8 } }, 0, -EUCLEAN,
	  "header: header_length 4294967288 is not within 104 to the cluster size 65536, or no multiple of 8" },
	{ { { 32, 4, 1 } }, 0, -EOPNOTSUPP, "header: crypt_method 1: encrypted images are not supported" },
	{ { { 72, 8, 1 } }, 0, -EOPNOTSUPP,
	  "incompatible feature bit 0 (dirty) is set: refcounts are stale; run `qemu-img check -r all`" },
	{ { { 72, 8, 2 } }, 0, -EOPNOTSUPP,
	  "incompatible feature bit 1 (corrupt) is set: QEMU found the image damaged; see `qemu-img check`" },
	{ { { 72, 8, 4 } }, 0, -EUCLEAN,
	  "header: incompatible feature bit 2 (external data file), and no extension 0x44415441 that names the file" },
	{ { { 72, 8, 4 }, { EXT, 4, QCOW2_EXT_DATA_FILE }, { EXT + 4, 4, 0 } }, 0, -EUCLEAN,
	  "header: data file name of 0 bytes, not 1 to 1023" },
	{ { { 72, 8, 4 }, { EXT, 4, QCOW2_EXT_DATA_FILE }, { EXT + 4, 4, 1024 } }, 0, -EUCLEAN,
	  "header: data file name of 1024 bytes, not 1 to 1023" },
	{ { { 72, 8, 4 }, { EXT, 4, QCOW2_EXT_DATA_FILE }, { EXT + 4, 4, 3 }, { EXT + 8, 3, 0x610062 } }, 0, -EUCLEAN,
	  "header: data file name contains a NUL byte" },
	{ { { 72, 8, 4 }, { EXT, 4, QCOW2_EXT_DATA_FILE }, { EXT + 4, 4, 6 }, { EXT + 8, 6, 0x6e62643a2f2f } }, 0,
	  -EOPNOTSUPP,
	  "data file 'nbd://': protocols are not supported, only files and block devices (write ./ before a name with a colon)" },
	{ { { 72, 8, 8 }, { 104, 1, 2 } }, 0, -EOPNOTSUPP,
	  "header: compression_type 2 is not supported, only 0 (deflate) and 1 (zstd)" },
	{ { { 72, 8, 8 } }, 0, -EUCLEAN, "header: incompatible feature bit 3 with compression_type 0, deflate" },
	{ { { 72, 8, 8 }, { 100, 4, 104 }, { 104, 1, 1 } }, 0, -EUCLEAN,
	  "header: incompatible feature bit 3 with compression_type 0, deflate" },
	{ { { 104, 1, 1 } }, 0, -EUCLEAN, "header: compression_type 1 without incompatible feature bit 3" },
	{ { { 72, 8, 16 } }, 0, -EOPNOTSUPP, "incompatible feature bit 4 (extended L2 entries) is not supported" },
	{ { { 72, 8, 1ull << 63 } }, 0, -EOPNOTSUPP, "incompatible feature bit 63 is unknown" },
	/* a feature name table names it, with a byte that is not to reach a terminal */
	{ { { 72, 8, 32 }, { EXT, 4, QCOW2_EXT_FEATURE_NAMES }, { EXT + 4, 4, 48 }, { EXT + 8, 2, 5 },
	    { EXT + 10, 4, 0x6672001b }, { EXT + 12, 2, 0x1b62 } }, 0, -EOPNOTSUPP,
	  "incompatible feature bit 5 (the image calls it 'fr\\x1bb') is not supported" },
	{ { { 96, 4, 7 } }, 0, -EUCLEAN, "header: refcount_order 7 is over 6" },
	{ { { 24, 8, UINT64_MAX } }, 0, -EUCLEAN, "header: size 18446744073709551615 is impossible" },
	{ { { 24, 8, 1ull << 62 } }, 0, -EUCLEAN,
	  "header: l1_size 1 is too small for size 4611686018427387904, which needs 8589934592" },
	{ { { 24, 8, 536870913 } }, 0, -EUCLEAN, "header: l1_size 1 is too small for size 536870913, which needs 2" },
	{ { { 36, 4, 0 } }, 0, -EUCLEAN, "header: l1_size 0 is too small for size 261632, which needs 1" },
	{ { { 36, 4, UINT32_MAX } }, 0, -EUCLEAN, "header: l1_size 4294967295 is over the limit of 4194304" },
	{ { { 36, 4, 4194304 } }, 0, -EUCLEAN,
	  "header: L1 table of 33554432 bytes at 196608 reaches past the end of the file at 589824" },
	{ { { 40, 8, 0 } }, 0, -EUCLEAN,
	  "header: l1_table_offset 0 is not a multiple of the cluster size 65536, or 0" },
	{ { { 40, 8, L1 + 512 } }, 0, -EUCLEAN,
	  "header: l1_table_offset 197120 is not a multiple of the cluster size 65536, or 0" },
	{ { { 40, 8, 1ull << 40 } }, 0, -EUCLEAN,
	  "header: L1 table of 8 bytes at 1099511627776 reaches past the end of the file at 589824" },
	{ { { 40, 8, 0xffffffffffff0000 } }, 0, -EUCLEAN,
	  "header: L1 table of 8 bytes at 18446744073709486080 reaches past the end of the file at 589824" },
	{ { { 48, 8, 0 } }, 0, -EUCLEAN,
	  "header: refcount_table_offset 0 is not a multiple of the cluster size 65536, or 0" },
	{ { { 48, 8, 513 } }, 0, -EUCLEAN,
	  "header: refcount_table_offset 513 is not a multiple of the cluster size 65536, or 0" },
	{ { { 48, 8, 0xffffffffffff0000 } }, 0, -EUCLEAN,
	  "header: refcount table of 65536 bytes at 18446744073709486080 reaches past the end of the file at 589824" },
	{ { { 48, 8, L1 } }, 0, -EUCLEAN, "header: L1 table at 196608 and refcount table at 196608 overlap" },
	{ { { 56, 4, 2 } }, 0, -EUCLEAN, "header: L1 table at 196608 and refcount table at 131072 overlap" },
	{ { { 56, 4, 0 } }, 0, -EUCLEAN, "header: refcount_table_clusters is 0" },
	{ { { 56, 4, UINT32_MAX } }, 0, -EUCLEAN,
	  "header: refcount_table_clusters 4294967295 is over the limit of 8388608 bytes" },
	{ { { 56, 4, 8 } }, 0, -EUCLEAN,
	  "header: refcount table of 524288 bytes at 131072 reaches past the end of the file at 589824" },
	{ { { 60, 4, 1 }, { 64, 8, 1 } }, 0, -EUCLEAN,
	  "header: snapshots_offset 1 is not aligned, or not within the file" },
	{ { { 60, 4, 1 }, { 64, 8, 1ull << 40 } }, 0, -EUCLEAN,
	  "header: snapshots_offset 1099511627776 is not aligned, or not within the file" },
	{ { { 8, 8, 50 }, { 16, 4, 1 } }, 0, -EUCLEAN,
	  "header: backing_file_offset 50 is not between the header's end 112 and the cluster size 65536" },
	{ { { 8, 8, 1ull << 32 }, { 16, 4, 1 } }, 0, -EUCLEAN,
	  "header: backing_file_offset 4294967296 is not between the header's end 112 and the cluster size 65536" },
	{ { { 8, 8, 200 }, { 16, 4, 1024 } }, 0, -EUCLEAN,
	  "header: backing_file_size 1024 is over 1023, or reaches past the header cluster or the file" },
	{ { { 8, 8, 65535 }, { 16, 4, 2 } }, 0, -EUCLEAN,
	  "header: backing_file_size 2 is over 1023, or reaches past the header cluster or the file" },
	{ { { 8, 8, 200 }, { 16, 4, 2 }, { 200, 2, 0x6100 } }, 0, -EUCLEAN,
	  "header: backing file name contains a NUL byte" },
	{ { { EXT, 4, 0x11223344 }, { EXT + 4, 4, UINT32_MAX } }, 0, -EUCLEAN,
	  "header extension 0x11223344 at 112: length 4294967295 reaches past the end of the extensions at 65536" },
	{ { { EXT, 4, 0x11223344 }, { EXT + 4, 4, 81 }, { 8, 8, 200 } }, 0, -EUCLEAN,
	  "header extension 0x11223344 at 112: length 81 reaches past the end of the extensions at 200" },
	{ { { EXT, 4, 0x11223344 }, { EXT + 4, 4, 0 }, { EXT + 8, 4, 0x11223344 } }, 0, -EUCLEAN,
	  "header extension 0x11223344 at 120: is there twice" },
	{ { { EXT, 4, QCOW2_EXT_BACKING_FORMAT }, { EXT + 4, 4, 64 } }, 0, -EUCLEAN,
	  "header: backing format name of 64 bytes, not 1 to 63" },
	{ { { EXT, 4, QCOW2_EXT_BACKING_FORMAT }, { EXT + 4, 4, 3 }, { EXT + 8, 3, 0x720077 } }, 0, -EUCLEAN,
	  "header: backing format name contains a NUL byte" },
};

static void headers(void **state)
{
	const char *path = scratch("h.qcow2");
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(bad_header) / sizeof(bad_header[0]); i++) {
		struct qcow2_image *img = NULL;
		struct qcow2_error e = { 0 };
		int ret;

		make(path, bad_header[i].p, bad_header[i].cut);
		ret = qcow2_open(path, 0, &img, &e);
		expect(i, ret, &e, &bad_header[i], path);
		assert_null(img);
		/* writing is not a way around it, and does not touch the file */
		ret = qcow2_open(path, QCOW2_OPEN_WRITE, &img, &e);
		expect(i, ret, &e, &bad_header[i], path);
		assert_int_equal(qcow2_open(path, 0, &img, NULL), bad_header[i].ret);
	}
}

#define COPIED	(1ull << 63)
#define COMPR	(1ull << 62)

/* guest offset 0 is read */
static const struct bad bad_table[] = {
	{ { { L1, 8, COPIED | L2 | 1 } }, 0, -EUCLEAN, "L1 entry 0 is 0x8000000000040001: reserved bits are set" },
	{ { { L1, 8, 1ull << 56 } }, 0, -EUCLEAN, "L1 entry 0 is 0x100000000000000: reserved bits are set" },
	{ { { L1, 8, COPIED | (L2 + 512) } }, 0, -EUCLEAN,
	  "L1 entry 0: L2 table offset 262656 is not a multiple of the cluster size 65536" },
	{ { { L1, 8, COPIED | FILE_SIZE } }, 0, -EUCLEAN,
	  "L1 entry 0: L2 table at 589824 reaches past the end of the file at 589824" },
	{ { { L1, 8, 0x00ffffffffff0000 } }, 0, -EUCLEAN,
	  "L1 entry 0: L2 table at 72057594037862400 reaches past the end of the file at 589824" },
	{ { { L1, 8, COPIED | L1 } }, 0, -EUCLEAN, "L1 entry 0: L2 table at 196608 overlaps the L1 table" },
	{ { { L1, 8, COPIED | REFT } }, 0, -EUCLEAN, "L1 entry 0: L2 table at 131072 overlaps the refcount table" },
	{ { { L2, 8, COPIED | DATA | 2 } }, 0, -EUCLEAN,
	  "L2 entry of guest offset 0 is 0x8000000000050002: reserved bits are set" },
	{ { { L2, 8, COPIED | (DATA + 512) } }, 0, -EUCLEAN,
	  "L2 entry of guest offset 0: data offset 328192 is not a multiple of the cluster size 65536" },
	{ { { L2, 8, COPIED | (DATA + 512) | 1 } }, 0, -EUCLEAN,
	  "L2 entry of guest offset 0: data offset 328192 is not a multiple of the cluster size 65536" },
	{ { { L2, 8, COPIED } }, 0, -EUCLEAN,
	  "L2 entry of guest offset 0 is 0x8000000000000000: COPIED without an offset" },
	{ { { L2, 8, COPIED | FILE_SIZE } }, 0, -EUCLEAN,
	  "L2 entry of guest offset 0: data at 589824, 65536 bytes, reaches past the end of the file at 589824" },
	{ { { L2, 8, COPIED | 0x00ffffffffff0000 } }, 0, -EUCLEAN,
	  "L2 entry of guest offset 0: data at 72057594037862400, 65536 bytes, reaches past the end of the file at 589824" },
	{ { { L2, 8, COPIED | L1 } }, 0, -EUCLEAN, "L2 entry of guest offset 0: data at 196608 overlaps the L1 table" },
	{ { { L2, 8, COPIED | REFT } }, 0, -EUCLEAN,
	  "L2 entry of guest offset 0: data at 131072 overlaps the refcount table" },
	{ { { L2, 8, COPIED | COMPR | DATA } }, 0, -EUCLEAN,
	  "L2 entry of guest offset 0 is 0xc000000000050000: compressed and COPIED" },
	{ { { L2, 8, COMPR | FILE_SIZE } }, 0, -EUCLEAN,
	  "L2 entry of guest offset 0: compressed data at 589824 is past the end of the file at 589824" },
	{ { { L2, 8, COMPR | 100 } }, 0, -EUCLEAN,
	  "L2 entry of guest offset 0: compressed data at 100 overlaps the header" },
	/* deflate data that ends, that is nonsense, that ends too early */
	{ { { L2, 8, COMPR | (DATA + 5) }, { DATA + 5, 8, 0x0300000000000000 } }, 0, -EUCLEAN,
	  "compressed data of guest offset 0 at 327685 does not inflate to a cluster (ends early, 65536 bytes short)" },
	{ { { L2, 8, COMPR | DATA }, { DATA, 8, UINT64_MAX } }, 0, -EUCLEAN,
	  "compressed data of guest offset 0 at 327680 does not inflate to a cluster (invalid block type, 65536 bytes short)" },
	/* the last cluster was cut off, as by an interrupted copy */
	{ { { L2, 8, COPIED | (8 * CS) } }, FILE_SIZE - 512, -EUCLEAN,
	  "L2 entry of guest offset 0: data at 524288, 65536 bytes, reaches past the end of the file at 589312" },
};

static void tables(void **state)
{
	const char *path = scratch("t.qcow2");
	uint8_t *buf = malloc(SIZE);
	unsigned int i;

	(void)state;
	assert_non_null(buf);
	for (i = 0; i < sizeof(bad_table) / sizeof(bad_table[0]); i++) {
		struct qcow2_check_report rep;
		struct qcow2_image *img = NULL;
		struct qcow2_error e = { 0 };
		struct qcow2_run r;
		int ret;

		make(path, bad_table[i].p, bad_table[i].cut);
		ok(qcow2_open(path, 0, &img, err));
		ret = qcow2_read(img, 0, buf, SIZE, &e);
		expect(i, ret, &e, &bad_table[i], path);
		/* the same for a part, but what is good is still there */
		ret = qcow2_read(img, 1000, buf, 1, &e);
		if (!bad_table[i].cut)
			assert_int_equal(ret, bad_table[i].ret);
		if (bad_table[i].p[0].off != L1) {
			ok(qcow2_read(img, CS, buf, 512, err));
			assert_memory_equal(buf, good + DATA + CS, 512);
			ok(qcow2_map(img, CS, SIZE - CS, &r, err));
			assert_int_equal(r.type, QCOW2_RUN_DATA);
			assert_int_equal(r.host_offset, DATA + CS);
		}
		/* the check ends, whatever it finds */
		ok(qcow2_check(img, 0, &rep, err));
		/* the content of compressed clusters is not its business */
		if (!bad_table[i].cut && !bad_table[i].p[1].width && !rep.corruptions)
			fail_msg("case %u: the check finds nothing", i);
		qcow2_close(img);
		/* nor does writing run wild */
		if (!qcow2_open(path, QCOW2_OPEN_WRITE, &img, &e)) {
			ret = qcow2_write(img, 100, "abc", 3, &e);
			if (!ret)
				ret = qcow2_write(img, 0, good, CS, &e);
			if (!ret)
				ret = qcow2_set_zero(img, 0, SIZE, &e);
			(void)ret;
			ret = qcow2_flush(img, &e);
			qcow2_close(img);
		}
	}
	/* the guest's last cluster needs only what the guest has of it */
	{
		struct qcow2_image *img = NULL;

		make(path, (struct patch[]){ { 0 } }, FILE_SIZE - 512);
		ok(qcow2_open(path, 0, &img, err));
		ok(qcow2_read(img, 0, buf, SIZE, err));
		assert_memory_equal(buf, good + DATA, SIZE);
		qcow2_close(img);
	}
	free(buf);
}

/* refcounts matter to who writes */
static void refcounts(void **state)
{
	static const struct bad bad[] = {
		{ { { REFT, 8, REFB + 512 } }, 0, -EUCLEAN,
		  "refcount table entry 0: offset 66048 is not a multiple of the cluster size 65536" },
		{ { { REFT, 8, 1ull << 40 } }, 0, -EUCLEAN,
		  "refcount table entry 0: block at 1099511627776 reaches past the end of the file at 589824" },
		{ { { REFT, 8, L1 } }, 0, -EUCLEAN, "refcount table entry 0: block at 196608 overlaps the L1 table" },
		{ { { REFT, 8, REFT } }, 0, -EUCLEAN,
		  "refcount table entry 0: block at 131072 overlaps the refcount table" },
		{ { { L1, 8, L2 } }, 0, -EUCLEAN,
		  "L1 entry 0: the L2 table is not marked as the image's own (COPIED); see `qemu-img check`" },
	};
	const char *path = scratch("r.qcow2");
	struct qcow2_image *img = NULL;
	struct qcow2_error e;
	unsigned int i;
	int ret;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct patch p[4] = { bad[i].p[0], { L2, 8, 0 } };
		uint64_t host, got;

		make(path, p, 0);
		ok(qcow2_open(path, QCOW2_OPEN_WRITE, &img, err));
		ret = qcow2_alloc_write(img, 0, CS, &host, &got, &e);
		expect(i, ret, &e, &bad[i], path);
		qcow2_close(img);
	}
	make(path, (struct patch[]){ { 96, 4, 3 }, { 0 } }, 0);
	assert_int_equal(qcow2_open(path, QCOW2_OPEN_WRITE, &img, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "refcount_order is 3"));
}

static int try_open(const char *name, unsigned int flags, const char *msg)
{
	struct qcow2_image *img = NULL;
	struct qcow2_error e = { 0 };
	int ret = qcow2_open(scratch(name), flags, &img, &e);

	if (!ret)
		qcow2_close(img);
	else if (!strstr(e.msg, msg))
		fail_msg("%s: '%s', not '%s'", name, e.msg, msg);
	return ret;
}

static void overlay(const char *name, const char *backing, const char *format)
{
	struct qcow2_image *img = NULL;

	ok(qcow2_create(scratch(name), &(struct qcow2_create_opts){ .virtual_size = SIZE, .cluster_size = 512,
			.backing_file = backing, .backing_format = format, .flags = QCOW2_CREATE_NO_BACKING },
			&img, err));
	ok(qcow2_flush(img, err));
	qcow2_close(img);
}

static void chains(void **state)
{
	struct qcow2_image *img = NULL;
	char name[32], prev[32];
	size_t size;
	uint8_t *f;
	unsigned int i;

	(void)state;
	overlay("a", "b", "qcow2");
	overlay("b", "c", "qcow2");
	overlay("c", "a", "qcow2");
	assert_int_equal(try_open("a", 0, "/a: the backing chain is a loop"), -ELOOP);
	assert_int_equal(try_open("b", 0, "/b: the backing chain is a loop"), -ELOOP);
	overlay("d", "link", "qcow2");
	assert_int_equal(symlink("d", scratch("link")), 0);
	assert_int_equal(try_open("d", 0, "/link: the backing chain is a loop"), -ELOOP);
	overlay("e", "e2", "raw");
	assert_int_equal(link(scratch("e"), scratch("e2")), 0);
	assert_int_equal(try_open("e", 0, "is a loop"), -ELOOP);
	assert_int_equal(try_open("a", QCOW2_OPEN_NO_BACKING, ""), 0);

	overlay("m", "nowhere/x\n", "qcow2");
	assert_int_equal(try_open("m", 0, "/m: backing file: "), -ENOENT);
	assert_int_equal(try_open("m", 0, "nowhere/x\\x0a: cannot open: No such file"), -ENOENT);
	assert_int_equal(try_open("m", QCOW2_OPEN_SAME_DIR, "is not a plain name"), -EACCES);

	assert_int_equal(mkfifo(scratch("fifo"), 0600), 0);
	overlay("f", "fifo", "raw");
	assert_int_equal(try_open("f", 0, "is neither a regular file nor a block device"), -EINVAL);
	overlay("f", ".", "raw");
	assert_int_equal(try_open("f", 0, "is neither a regular file nor a block device"), -EINVAL);
	assert_int_equal(try_open(".", 0, "neither a regular file"), -EINVAL);
	assert_int_equal(try_open("fifo", QCOW2_OPEN_WRITE, "neither a regular file"), -EINVAL);
	overlay("f", "/dev/zero", "raw");
	assert_int_equal(try_open("f", 0, "is neither a regular file nor a block device"), -EINVAL);

	/* a raw file that looks like qcow2 stays raw; without a format nothing is guessed */
	overlay("inner", "/etc/passwd", "raw");
	overlay("o", "inner", "raw");
	ok(qcow2_open(scratch("o"), 0, &img, err));
	assert_int_equal(qcow2_layers(img), 2);
	qcow2_close(img);
	f = read_file(scratch("o"), &size);
	assert_int_equal(f[112], 0xe2);
	f[112] = 0x12;
	write_file(scratch("o"), f, size);
	free(f);
	assert_int_equal(try_open("o", 0, "does not record its format"), -EOPNOTSUPP);
	overlay("p", "q", "raw");
	f = read_file(scratch("p"), &size);
	f[120] = 'R';
	write_file(scratch("p"), f, size);
	free(f);
	assert_int_equal(try_open("p", 0, "format 'Raw' is not supported"), -EOPNOTSUPP);
	overlay("g", "good.qcow2", "qcow2");
	assert_int_equal(try_open("g", QCOW2_OPEN_SAME_DIR, ""), 0);

	/* as deep as it may be, and one more */
	strcpy(prev, "good.qcow2");
	for (i = 1; i <= QCOW2_MAX_CHAIN; i++) {
		snprintf(name, sizeof(name), "deep%u", i);
		overlay(name, prev, "qcow2");
		strcpy(prev, name);
	}
	snprintf(name, sizeof(name), "deep%u", QCOW2_MAX_CHAIN - 1);
	assert_int_equal(try_open(name, 0, ""), 0);
	snprintf(name, sizeof(name), "deep%u", QCOW2_MAX_CHAIN);
	assert_int_equal(try_open(name, 0, "more than 256 layers"), -ELOOP);
}

/* random damage to tables and header: an error or not, never worse */
static void random_damage(void **state)
{
	static const uint32_t where[] = { 0, 0, REFB, REFT, L1, L2, L2 };
	const char *path = scratch("rnd.qcow2");
	uint8_t *buf = malloc(SIZE), *f = malloc(FILE_SIZE);
	unsigned int i, k, opened = 0;

	(void)state;
	rnd_seed(31);
	assert_true(buf && f);
	for (i = 0; i < 600; i++) {
		struct qcow2_check_report rep;
		struct qcow2_image *img = NULL;
		struct qcow2_error e;
		struct qcow2_run r;
		unsigned int flags = i & 1 ? QCOW2_OPEN_WRITE : 0;

		memcpy(f, good, FILE_SIZE);
		for (k = 0; k < 1 + i % 3; k++)
			f[where[rnd_below(7)] + rnd_below(120)] ^= (uint8_t)(1u << rnd_below(8));
		write_file(path, f, FILE_SIZE);
		if (qcow2_open(path, QCOW2_OPEN_NO_BACKING | flags, &img, &e))
			continue;
		opened++;
		for (k = 0; k < 8 && qcow2_size(img); k++) {
			uint64_t off = rnd_below(qcow2_size(img));
			uint64_t len = qcow2_size(img) - off < SIZE ? qcow2_size(img) - off : SIZE;

			(void)(qcow2_read(img, off, buf, len, &e) + qcow2_map(img, off, qcow2_size(img) - off, &r, &e));
			if (flags)
				(void)qcow2_write(img, off, good, len, &e);
		}
		if (flags)
			(void)qcow2_flush(img, &e);
		(void)qcow2_check(img, 0, &rep, &e);
		qcow2_close(img);
	}
	printf("# %u of 600 could be opened\n", opened);
	assert_true(opened > 200 && opened < 600);
	free(buf);
	free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(headers),
		cmocka_unit_test(tables),
		cmocka_unit_test(refcounts),
		cmocka_unit_test(chains),
		cmocka_unit_test(random_damage),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("qcow2-hostile", tests, setup, teardown);
}
