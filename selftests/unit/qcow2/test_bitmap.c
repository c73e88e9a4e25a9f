// SPDX-License-Identifier: GPL-2.0-or-later
/* Bitmaps that stock tools made, and broken ones */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

static bool bit(const uint8_t *bits, uint64_t nr)
{
	return bits[nr / 8] >> (nr % 8) & 1;
}

/* all of a bitmap, in odd pieces; the caller frees it */
static uint8_t *read_bitmap(struct qcow2_image *img, unsigned int i, const struct qcow2_bitmap *b)
{
	uint8_t *buf = malloc(b->bytes + 1);
	uint64_t off, n;

	assert_non_null(buf);
	for (off = 0; off < b->bytes; off += n) {
		n = 1 + rnd_below(b->bytes / 2 + 1);
		if (n > b->bytes - off)
			n = b->bytes - off;
		ok(qcow2_bitmap_read(img, i, off, buf + off, n, err));
	}
	return buf;
}

/* a bitmap says exactly that [off, off + len) of each pair was written */
static void says(struct qcow2_image *img, const char *name, uint32_t flags, unsigned int bits,
		 const uint64_t (*range)[2], unsigned int nr)
{
	struct qcow2_bitmap b;
	unsigned int i, k;
	uint8_t *buf;
	uint64_t g;

	assert_int_equal(qcow2_find_bitmap(img, name, strlen(name), &i), 0);
	assert_int_equal(qcow2_get_bitmap(img, i, &b), 0);
	assert_string_equal(b.name, name);
	assert_int_equal(b.name_len, strlen(name));
	assert_int_equal(b.flags, flags);
	assert_int_equal(b.granularity_bits, bits);
	assert_int_equal(b.granules, (qcow2_size(img) + (1ull << bits) - 1) >> bits);
	assert_int_equal(b.bytes, (b.granules + 7) / 8);
	buf = read_bitmap(img, i, &b);
	for (g = 0; g < b.bytes * 8; g++) {
		bool want = false;

		for (k = 0; k < nr && g < b.granules; k++)
			want |= range[k][1] && g >= range[k][0] >> bits && g <= (range[k][0] + range[k][1] - 1) >> bits;
		if (bit(buf, g) != want)
			fail_msg("%s: granule %llu is %d", name, (unsigned long long)g, !want);
	}
	free(buf);
}

static void of_qemu(void **state)
{
	static const unsigned int cs[] = { 512, 4096, 65536, 2097152 };
	static const uint64_t written[][2] = { { 0, 70000 }, { 5 * MIB + 512, 512 }, { 36 * MIB, 600 * KIB } };
	static const uint64_t later[][2] = { { 36 * MIB, 600 * KIB } };
	uint64_t size = 40 * MIB + 1536;
	unsigned int i, nr;

	(void)state;
	rnd_seed(41);
	for (i = 0; i < 4; i++) {
		const char *path = scratch("q.qcow2");
		struct qcow2_check_report rep;
		struct qcow2_image *img = NULL;
		const uint64_t whole[][2] = { { 0, size } };

		run_ok("rm -f '%s'; qemu-img create -q -f qcow2 -o cluster_size=%u '%s' %llu", path, cs[i], path,
		       (unsigned long long)size);
		run_ok("cd '%s' && for g in 512 4k 64k 2M; do qemu-img bitmap --add -g $g q.qcow2 g$g || exit 1; done && "
		       "qemu-io -f qcow2 -c 'write 0 70000' -c 'write 5243392 512' q.qcow2 && "
		       "qemu-img bitmap --disable q.qcow2 g4k && qemu-img bitmap --disable q.qcow2 g64k && "
		       "qemu-img bitmap --add --disable -g 1M q.qcow2 'a b\\' && "
		       "qemu-io -f qcow2 -c 'write 36M 600k' q.qcow2", scratch(""));
		ok(qcow2_open(path, 0, &img, err));
		ok(qcow2_bitmap_count(img, &nr, err));
		assert_int_equal(nr, 5);
		says(img, "g512", QCOW2_BITMAP_AUTO, 9, written, 3);
		says(img, "g4k", 0, 12, written, 2);
		says(img, "g64k", 0, 16, written, 2);
		says(img, "g2M", QCOW2_BITMAP_AUTO, 21, written, 3);
		says(img, "a b\\", 0, 20, later, 0);
		assert_int_equal(qcow2_find_bitmap(img, "g51", 3, &nr), -ENOENT);
		assert_int_equal(qcow2_find_bitmap(img, "g5120", 5, &nr), -ENOENT);
		assert_int_equal(qcow2_find_bitmap(img, "", 0, &nr), -ENOENT);
		ok(qcow2_check(img, 0, &rep, err));
		assert_int_equal(rep.corruptions + rep.leaks, 0);
		assert_int_equal(rep.bitmaps, 5);
		assert_int_equal(rep.bitmaps_in_use + rep.bitmaps_inconsistent, 0);
		qcow2_close(img);
		/* all ones: the table says so, without data */
		run_ok("cd '%s' && qemu-img bitmap --add -g 512 q.qcow2 all && "
		       "qemu-io -f qcow2 -c 'write -z 0 %llu' q.qcow2", scratch(""), (unsigned long long)size);
		ok(qcow2_open(path, 0, &img, err));
		says(img, "all", QCOW2_BITMAP_AUTO, 9, whole, 1);
		says(img, "g512", QCOW2_BITMAP_AUTO, 9, whole, 1);
		says(img, "g64k", 0, 16, written, 2);
		qcow2_close(img);
	}
}

/* in one piece, or not */
static void places(void **state)
{
	const char *path = scratch("p.qcow2");
	struct qcow2_image *img = NULL;
	struct qcow2_error e;
	struct qcow2_bitmap b;
	unsigned int i, k;
	uint64_t host = 0;
	uint8_t *got, byte;

	(void)state;
	rnd_seed(42);
	run_ok("cd '%s' && qemu-img create -q -f qcow2 -o cluster_size=512 p.qcow2 8M && "
	       "qemu-img bitmap --add -g 4k p.qcow2 none && qemu-img bitmap --disable p.qcow2 none && "
	       "qemu-img bitmap --add -g 4k p.qcow2 one && qemu-io -f qcow2 -c 'write 0 4k' p.qcow2 && "
	       "qemu-io -f qcow2 -c 'write 5M 8k' p.qcow2 && qemu-img bitmap --add -g 4k p.qcow2 two", scratch(""));
	ok(qcow2_open(path, 0, &img, err));
	assert_int_equal(qcow2_find_bitmap(img, "none", 4, &i), 0);
	assert_int_equal(qcow2_bitmap_place(img, i, &host, &e), -ENODATA);
	assert_non_null(strstr(e.msg, "bitmap 'none': its data is not in one piece: table entry 0 is 0x0"));
	assert_int_equal(qcow2_find_bitmap(img, "one", 3, &i), 0);
	assert_int_equal(qcow2_get_bitmap(img, i, &b), 0);
	if (!qcow2_bitmap_place(img, i, &host, &e)) {
		got = read_bitmap(img, i, &b);
		for (k = 0; k < b.bytes; k++) {
			assert_int_equal(pread(qcow2_fd(img), &byte, 1, (off_t)(host + k)), 1);
			assert_int_equal(byte, got[k]);
		}
		free(got);
	}
	assert_int_equal(qcow2_bitmap_place(img, 3, &host, &e), -EINVAL);
	assert_int_equal(qcow2_get_bitmap(img, 3, &b), -EINVAL);
	assert_int_equal(qcow2_bitmap_read(img, i, 0, &byte, 100000, &e), -EINVAL);
	qcow2_close(img);
}

/* whoever was writing was killed */
static void in_use(void **state)
{
	static const uint64_t nothing[1][2] = { { 0, 0 } };
	struct qcow2_check_report rep;
	struct qcow2_image *img = NULL;
	struct qcow2_layer l;

	(void)state;
	run_ok("cd '%s' && qemu-img create -q -f qcow2 u.qcow2 4M && qemu-img bitmap --add u.qcow2 one && "
	       "qemu-img bitmap --add --disable u.qcow2 two", scratch(""));
	/* sigraise ends it with the image open */
	(void)run("cd '%s' && qemu-io -f qcow2 -c 'write 0 64k' -c 'flush' -c 'sigraise 9' u.qcow2; true", scratch(""));
	ok(qcow2_open(scratch("u.qcow2"), 0, &img, err));
	says(img, "one", QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO, 16, nothing, 1);
	ok(qcow2_check(img, 0, &rep, err));
	assert_int_equal(rep.bitmaps, 2);
	assert_true(rep.bitmaps_in_use >= 1);
	assert_int_equal(rep.corruptions, 0);
	qcow2_close(img);
	/* guest data may change: none was valid and recorded */
	ok(qcow2_open(scratch("u.qcow2"), QCOW2_OPEN_WRITE, &img, err));
	ok(qcow2_write(img, MIB, "x", 1, err));
	ok(qcow2_flush(img, err));
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	assert_int_equal(l.autoclear, 1);
	qcow2_close(img);
	run_ok("qemu-img info '%s' | grep -q 'in-use'", scratch("u.qcow2"));
}

/* bitmaps of a clean layout to damage: 512 byte clusters, granularity 512 */
static uint64_t dir_at, table_at, data_at, file_len;
static uint8_t *good;

static void make_good(void)
{
	const char *path = scratch("good.qcow2");
	struct qcow2_image *img = NULL;
	struct qcow2_bitmaps_edit *edit = NULL;
	struct qcow2_header_ext ext;
	struct qcow2_bitmap b;
	uint8_t ones[1024];
	uint64_t host;
	size_t size;

	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = 4 * MIB, .cluster_size = 512,
			.flags = QCOW2_CREATE_BITMAPS }, &img, err));
	ok(qcow2_write(img, 0, "guest", 5, err));
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	/* 8192 granules: two clusters */
	ok(qcow2_edit_add(edit, "first", 5, 9, 0, &host, err));
	memset(ones, 0xff, sizeof(ones));
	assert_int_equal(pwrite(qcow2_fd(img), ones, 1024, (off_t)host), 1024);
	data_at = host;
	ok(qcow2_edit_add(edit, "second", 6, 16, QCOW2_BITMAP_AUTO, &host, err));
	assert_int_equal(pwrite(qcow2_fd(img), ones, 512, (off_t)host), 512);
	ok(qcow2_edit_commit(edit, err));
	assert_int_equal(qcow2_get_ext(img, 0, QCOW2_EXT_BITMAPS, &ext), 0);
	assert_int_equal(ext.data_offset, 120);
	dir_at = be64toh(*(const uint64_t *)((const uint8_t *)ext.data + 16));
	assert_int_equal(qcow2_get_bitmap(img, 0, &b), 0);
	table_at = b.table_offset;
	qcow2_close(img);
	check_clean(path);
	good = read_file(path, &size);
	file_len = size;
}

#define EXT	120
#define DIR	(1u << 20)	/* added to an offset: from the directory on */
#define TABLE	(2u << 20)	/* ... from the first table on */

static void make(const char *path, uint32_t where, unsigned int width, uint64_t value)
{
	uint8_t *f = malloc(file_len);
	uint64_t v = htobe64(value << (64 - 8 * width)), at = where & 0xfffff;

	assert_non_null(f);
	memcpy(f, good, file_len);
	at += where & DIR ? dir_at : where & TABLE ? table_at : 0;
	memcpy(f + at, &v, width);
	write_file(path, f, file_len);
	free(f);
}

static const struct {
	uint32_t where;
	unsigned int width;
	uint64_t value;
	int ret;
	const char *msg;
	bool table;	/* an error of reading, not of the directory */
	bool ours;	/* QEMU does not mind, or minds later */
} bad[] = {
	{ EXT - 4, 4, 23, -EUCLEAN, "bitmaps extension: length 23 is not 24", false, false },
	{ EXT, 4, 0, -EUCLEAN, "bitmaps extension: nb_bitmaps 0 is not within 1 to 65535", false, false },
	{ EXT, 4, 65536, -EUCLEAN, "bitmaps extension: nb_bitmaps 65536 is not within 1 to 65535", false, false },
	{ EXT, 4, 1, -EUCLEAN, "bitmaps extension: bitmap_directory_size 64: nb_bitmaps 1 entries have 32 bytes", false, false },
	{ EXT, 4, 3, -EUCLEAN, "bitmap_directory_size 64 is over 67107840, or too small for nb_bitmaps 3", false, false },
	{ EXT + 4, 4, 7, -EUCLEAN, "bitmaps extension: the reserved field is 0x7, not 0", false, false },
	{ EXT + 8, 8, 67107841, -EUCLEAN, "bitmap_directory_size 67107841 is over 67107840", false, false },
	{ EXT + 8, 8, 56, -EUCLEAN, "bitmap_directory_size 56 is over 67107840, or too small for nb_bitmaps 2", false, false },
	{ EXT + 8, 8, 1 << 20, -EUCLEAN, "1048576 bytes reach past the end of the file at", false, true },
	{ EXT + 16, 8, 0, -EUCLEAN, "bitmap_directory_offset 0 is not a multiple of the cluster size 512, or 0", false, false },
	{ EXT + 16, 8, 513, -EUCLEAN, "bitmap_directory_offset 513 is not a multiple", false, false },
	{ EXT + 16, 8, 1ull << 50, -EUCLEAN, "64 bytes reach past the end of the file at", false, false },
	{ EXT + 16, 8, 0xfffffffffffffe00, -EUCLEAN, "64 bytes reach past the end of the file at", false, false },
	{ EXT + 16, 8, 1024, -EUCLEAN, "the directory overlaps the ", false, true },
	{ DIR, 8, 0, -EUCLEAN, "entry 0: bitmap_table_offset 0 is not a multiple of the cluster size 512, or 0", false, false },
	{ DIR, 8, 100, -EUCLEAN, "entry 0: bitmap_table_offset 100 is not a multiple", false, false },
	{ DIR, 8, 1ull << 40, -EUCLEAN, "bitmap_table_offset 1099511627776: a table of 2 entries reaches past the end of the file", false, true },
	{ DIR, 8, 1024, -EUCLEAN, "entry 0: bitmap_table_offset 1024: the table overlaps the ", false, true },
	{ DIR + 8, 4, 0, -EUCLEAN, "entry 0: bitmap_table_size 0 is 0, or stands for more than 536870912 bytes", false, false },
	{ DIR + 8, 4, 1048577, -EUCLEAN, "bitmap_table_size 1048577 is 0, or stands for more than 536870912 bytes", false, false },
	{ DIR + 8, 4, UINT32_MAX, -EUCLEAN, "bitmap_table_size 4294967295 is 0, or stands for more", false, false },
	{ DIR + 8, 4, 1, -EUCLEAN, "bitmap 'first': bitmap_table_size 1 is not 2, what size 4194304 with granularity_bits 9 needs", false, false },
	{ DIR + 8, 4, 3, -EUCLEAN, "bitmap 'first': bitmap_table_size 3 is not 2", false, false },
	{ DIR + 12, 4, 4, -EOPNOTSUPP, "entry 0: flags 0x4: there are unknown ones", false, false },
	{ DIR + 16, 1, 2, -EOPNOTSUPP, "entry 0: type 2 is not 1", false, false },
	{ DIR + 17, 1, 8, -EUCLEAN, "entry 0: granularity_bits 8 is not within 9 to 31", false, false },
	{ DIR + 17, 1, 32, -EUCLEAN, "entry 0: granularity_bits 32 is not within 9 to 31", false, false },
	{ DIR + 17, 1, 255, -EUCLEAN, "entry 0: granularity_bits 255 is not within 9 to 31", false, false },
	{ DIR + 18, 2, 0, -EUCLEAN, "entry 0: name_size 0 is not within 1 to 1023", false, false },
	{ DIR + 18, 2, 1024, -EUCLEAN, "entry 0: name_size 1024 is not within 1 to 1023", false, false },
	{ DIR + 18, 2, 1000, -EUCLEAN, "entry 0: name_size 1000: 64 bytes are left in the directory, not 1024", false, false },
	{ DIR + 20, 4, 8, -EOPNOTSUPP, "entry 0: extra_data_size 8: extra data is not supported", false, false },
	{ DIR + 24, 2, 0x6100, -EUCLEAN, "entry 0: the name contains a NUL byte", false, true },
	{ DIR + 32 + 8, 4, 2, -EUCLEAN, "bitmap 'second': bitmap_table_size 2 is not 1", false, false },
	{ DIR + 32 + 18, 2, 9, -EUCLEAN, "entry 1: name_size 9: 32 bytes are left in the directory, not 40", false, false },
	{ TABLE, 8, 2, -EUCLEAN, "bitmap 'first': table entry 0 is 0x2: reserved bits are set", true, false },
	{ TABLE, 8, 1ull << 56, -EUCLEAN, "table entry 0 is 0x100000000000000: reserved bits are set", true, false },
	{ TABLE, 8, 4097, -EUCLEAN, "table entry 0 is 0x1001: bit 0 is set, and there is an offset", true, false },
	{ TABLE + 8, 8, 0x00fffffffffffe00, -EUCLEAN, "table entry 1 is 0xfffffffffffe00: the cluster reaches past the end of the file", true, true },
	{ TABLE + 8, 8, 1024, -EUCLEAN, "table entry 1 is 0x400: the cluster overlaps the ", true, true },
};

static void hostile(void **state)
{
	const char *path = scratch("bad.qcow2");
	unsigned int i, nr, k;
	uint8_t buf[1024];

	(void)state;
	make_good();
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct qcow2_bitmaps_edit *edit = NULL;
		struct qcow2_check_report rep = { 0 };
		struct qcow2_image *img = NULL;
		struct qcow2_error e = { 0 };
		int ret;

		make(path, bad[i].where, bad[i].width, bad[i].value);
		for (k = 0; k < 2; k++) {
			/* guest data is there, whatever the bitmaps are */
			ok(qcow2_open(path, k ? QCOW2_OPEN_WRITE : 0, &img, err));
			ok(qcow2_read(img, 0, buf, 5, err));
			assert_memory_equal(buf, "guest", 5);
			ret = qcow2_bitmap_count(img, &nr, &e);
			if (bad[i].table) {
				assert_int_equal(ret, 0);
				ret = qcow2_bitmap_read(img, 0, 0, buf, 1024, &e);
			} else {
				struct qcow2_bitmap b;

				assert_int_equal(qcow2_get_bitmap(img, 0, &b), bad[i].ret);
				assert_int_equal(qcow2_find_bitmap(img, "first", 5, &nr), bad[i].ret);
			}
			if (ret != bad[i].ret || !strstr(e.msg, bad[i].msg) || strncmp(e.msg, path, strlen(path)))
				fail_msg("case %u: %d: '%s', not %d: '%s'", i, ret, e.msg, bad[i].ret, bad[i].msg);
			ret = qcow2_check(img, 0, &rep, &e);
			if (bad[i].ret == -EUCLEAN ? ret || !rep.corruptions || !strstr(rep.first, "bitmap") : ret != -EOPNOTSUPP)
				fail_msg("case %u: check: %d '%s'", i, ret, rep.first);
			if (!k) {
				qcow2_close(img);
				continue;
			}
			e.msg[0] = '\0';
			ret = qcow2_bitmaps_edit_begin(img, &edit, &e);
			if (ret != bad[i].ret || !strstr(e.msg, bad[i].msg))
				fail_msg("case %u: edit: %d: '%s', not %d: '%s'", i, ret, e.msg, bad[i].ret, bad[i].msg);
			ret = qcow2_repair(img, QCOW2_REPAIR_LEAKS, &rep, &e);
			assert_int_equal(ret, bad[i].ret);
			/* a change of guest data ends the bitmaps, and the image is sound again */
			ok(qcow2_write(img, 0, "other", 5, err));
			ok(qcow2_flush(img, err));
			if (!bad[i].table) {
				ok(qcow2_bitmap_count(img, &nr, err));
				assert_int_equal(nr, 0);
				ok(qcow2_repair(img, QCOW2_REPAIR_LEAKS, &rep, err));
				assert_true(rep.leaks_fixed == rep.leaks && rep.leaks);
			}
			qcow2_close(img);
		}
		if (!bad[i].table && i)
			check_clean(path);
		make(path, bad[i].where, bad[i].width, bad[i].value);
		if (!bad[i].ours && !bad[i].table && run("! qemu-img info -f qcow2 '%s'", path))
			fail_msg("case %u: QEMU accepts it", i);
	}
	/* in use, another size of the table is no damage, but nothing can be read */
	{
		struct qcow2_check_report rep;
		struct qcow2_image *img = NULL;
		struct qcow2_error e;

		make(path, DIR + 8, 8, 3ull << 32 | 1);
		ok(qcow2_open(path, 0, &img, err));
		ok(qcow2_bitmap_count(img, &nr, err));
		assert_int_equal(qcow2_bitmap_read(img, 0, 0, buf, 1, &e), -EUCLEAN);
		ok(qcow2_check(img, 0, &rep, err));
		assert_int_equal(rep.bitmaps_in_use, 1);
		assert_int_equal(rep.bitmaps_inconsistent, 1);
		qcow2_close(img);
	}
	/* the same name twice; a name that is not to reach a terminal */
	{
		struct qcow2_image *img = NULL;
		struct qcow2_error e;

		make(path, DIR + 24, 1, 0x1b);
		ok(qcow2_open(path, 0, &img, err));
		assert_int_equal(qcow2_find_bitmap(img, "\x1birst", 5, &nr), 0);
		assert_int_equal(qcow2_bitmap_read(img, nr, 1, buf, 1024, &e), -EINVAL);
		assert_non_null(strstr(e.msg, "bitmap '\\x1birst'"));
		qcow2_close(img);
		memcpy(good + dir_at + 32 + 18, "\0\5", 2);
		make(path, DIR + 32 + 24, 5, 0x6669727374);
		ok(qcow2_open(path, 0, &img, err));
		assert_int_equal(qcow2_bitmap_count(img, &nr, &e), -EUCLEAN);
		assert_non_null(strstr(e.msg, "entry 1: the name 'first' is there twice"));
		qcow2_close(img);
	}
	free(good);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(of_qemu),
		cmocka_unit_test(places),
		cmocka_unit_test(in_use),
		cmocka_unit_test(hostile),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("qcow2-bitmap", tests, scratch_setup, scratch_teardown);
}
