// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * External data files, raw or not: with stock tools, hostile names and tables, crashes.
 * QEMU looks for a relative data file where it runs, so it runs in the scratch directory.
 */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "record.h"

static int setup(void **state)
{
	return scratch_setup(state) || chdir(scratch(""));
}

static int teardown(void **state)
{
	return chdir("/") || scratch_teardown(state);
}

/* as engine_write(), which knows images without */
static void data_write(struct qcow2_image *img, uint64_t off, const uint8_t *buf, uint64_t len)
{
	while (len) {
		uint64_t host = 0, got = 0;

		ok(qcow2_alloc_write(img, off, len, &host, &got, err));
		assert_true(got && got <= len);
		assert_int_equal(host, off);
		assert_int_equal(pwrite(qcow2_data_fd(img), buf, got, (off_t)host), got);
		off += got;
		buf += got;
		len -= got;
	}
}

static void some_step(struct qcow2_image *img, uint8_t *ref, uint64_t size, uint64_t gen)
{
	uint64_t cs = qcow2_cluster_size(img), off, len;

	off = rnd_below(size) / cs * cs;
	len = (1 + rnd_below(8)) * cs;
	if (len > size - off)
		len = size - off;
	switch (rnd_below(4)) {
	case 0:
		memset(ref + off, 0, len);
		ok(qcow2_set_zero(img, off, len, err));
		break;
	case 1:
		stamp(ref + off, off, len, gen);
		data_write(img, off, ref + off, len);
		break;
	default:
		off = rnd_below(size);
		len = 1 + rnd_below(size - off < 3 * cs ? size - off : 3 * cs);
		stamp(ref + off, off, len, gen);
		ok(qcow2_write(img, off, ref + off, len, err));
	}
}

static void same_everywhere(const char *image, const char *data, bool raw, const uint8_t *ref, uint64_t size)
{
	struct qcow2_image *img = NULL;
	size_t len;
	uint8_t *f;

	check_clean(image);
	ok(qcow2_open(image, 0, &img, err));
	same_content(img, ref, size);
	qcow2_close(img);
	write_file("ref.raw", ref, size);
	run_ok("qemu-img compare -q -f qcow2 -F raw %s ref.raw && qemu-img convert -f qcow2 -O raw %s out.raw && cmp out.raw ref.raw",
	       image, image);
	f = read_file(data, &len);
	/* QEMU fills the last cluster up */
	assert_true(len >= size);
	if (raw)
		assert_memory_equal(f, ref, size);
	free(f);
}

static const uint32_t sizes[] = { 512, 4096, 65536, 2 << 20 };

static void ours(void **state)
{
	uint64_t size = 5 * MIB + 1536;
	unsigned int i, k;

	(void)state;
	rnd_seed(71);
	for (i = 0; i < 8; i++) {
		bool raw = i & 1;
		uint8_t *ref = calloc(1, size), junk[70000];
		struct qcow2_create_opts o = { .virtual_size = size, .cluster_size = sizes[i / 2], .data_file = "our.data",
			.data_file_raw = raw };
		struct qcow2_header_ext ext = { 0 };
		struct qcow2_image *img = NULL;
		struct qcow2_layer l;
		struct stat st;

		assert_non_null(ref);
		/* a raw one has what the file has; else that is nobody's */
		memset(junk, 0x77, sizeof(junk));
		write_file("our.data", junk, sizeof(junk));
		if (raw)
			memcpy(ref, junk, sizeof(junk));
		ok(qcow2_create("our.qcow2", &o, &img, err));
		assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
		assert_string_equal(l.data_file, "our.data");
		assert_true(l.data_fd >= 0 && l.data_fd != l.fd && l.data_fd == qcow2_data_fd(img));
		assert_int_equal(l.incompatible, 4);
		assert_int_equal(l.autoclear, raw ? 2 : 0);
		ok(qcow2_get_ext(img, 0, QCOW2_EXT_DATA_FILE, &ext));
		assert_int_equal(ext.len, 8);
		ok(qcow2_flush(img, err));
		same_everywhere("our.qcow2", "our.data", raw, ref, size);
		for (k = 0; k < 40; k++)
			some_step(img, ref, size, k + 1);
		same_content(img, ref, size);
		ok(qcow2_flush(img, err));
		qcow2_close(img);
		same_everywhere("our.qcow2", "our.data", raw, ref, size);
		assert_int_equal(stat("our.data", &st), 0);
		assert_int_equal(st.st_size, size);
		/* they go on, and then we */
		run_ok("qemu-io -f qcow2 -c 'write -P 9 512 70k' -c 'write -z 128k 300k' -c 'write -P 8 3M 1M' our.qcow2");
		memset(ref + 512, 9, 70 * KIB);
		memset(ref + 128 * KIB, 0, 300 * KIB);
		memset(ref + 3 * MIB, 8, MIB);
		same_everywhere("our.qcow2", "our.data", raw, ref, size);
		ok(qcow2_open("our.qcow2", QCOW2_OPEN_WRITE, &img, err));
		for (k = 0; k < 40; k++)
			some_step(img, ref, size, k + 100);
		ok(qcow2_flush(img, err));
		assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
		assert_int_equal(l.autoclear, raw ? 2 : 0);
		qcow2_close(img);
		same_everywhere("our.qcow2", "our.data", raw, ref, size);
		free(ref);
	}
}

static void theirs(void **state)
{
	uint64_t size = 5 * MIB + 1536;
	unsigned int i, k;

	(void)state;
	rnd_seed(72);
	for (i = 0; i < 8; i++) {
		const char *raw = i & 1 ? "on" : "off";
		struct qcow2_image *img = NULL;
		struct qcow2_layer l;
		size_t len;
		uint8_t *ref;

		run_ok("rm -f their.*; qemu-img create -q -f qcow2 -o cluster_size=%u,data_file=their.data,data_file_raw=%s their.qcow2 %llu",
		       sizes[i / 2], raw, (unsigned long long)size);
		run_ok("qemu-io -f qcow2 -c 'write -P 3 1k 100k' -c 'write -P 4 2M 2M' -c 'write -z 2100k 200k' -c 'write -P 5 5M 1536' their.qcow2");
		run_ok("qemu-img convert -f qcow2 -O raw their.qcow2 their.raw");
		ref = read_file("their.raw", &len);
		assert_int_equal(len, size);
		ok(qcow2_open("their.qcow2", QCOW2_OPEN_SAME_DIR, &img, err));
		assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
		assert_string_equal(l.data_file, "their.data");
		same_content(img, ref, size);
		qcow2_close(img);
		check_clean("their.qcow2");
		ok(qcow2_open("their.qcow2", QCOW2_OPEN_WRITE, &img, err));
		for (k = 0; k < 40; k++)
			some_step(img, ref, size, k + 1);
		ok(qcow2_flush(img, err));
		qcow2_close(img);
		same_everywhere("their.qcow2", "their.data", i & 1, ref, size);
		free(ref);
	}
}

/* a chain of both kinds; a data file is found next to its image */
static void chain(void **state)
{
	uint64_t size = MIB;
	uint8_t *ref = malloc(size);
	struct qcow2_create_opts o = { .virtual_size = size, .data_file = "base.data", .data_file_raw = true };
	struct qcow2_image *img = NULL;
	struct qcow2_run r;

	(void)state;
	rnd_seed(73);
	assert_non_null(ref);
	assert_int_equal(mkdir("sub", 0700), 0);
	stamp(ref, 0, size, 1);
	ok(qcow2_create("sub/base.qcow2", &o, &img, err));
	ok(qcow2_write(img, 0, ref, size, err));
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	assert_int_equal(access("sub/base.data", F_OK), 0);
	o = (struct qcow2_create_opts){ .virtual_size = size, .backing_file = "sub/base.qcow2", .backing_format = "qcow2",
		.data_file = "top.data", .cluster_size = 4096 };
	ok(qcow2_create("top.qcow2", &o, &img, err));
	for (unsigned int k = 0; k < 20; k++)
		some_step(img, ref, size, k + 2);
	same_content(img, ref, size);
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	ok(qcow2_open("top.qcow2", 0, &img, err));
	same_content(img, ref, size);
	ok(qcow2_map_layer(img, 1, 65536, 65536, &r, err));
	assert_int_equal(r.type, QCOW2_RUN_DATA);
	assert_int_equal(r.host_offset, 65536);
	qcow2_close(img);
	free(ref);
}

/* without the data file: what the tables tell */
static void metadata_alone(void **state)
{
	struct qcow2_create_opts o = { .virtual_size = 10 * MIB, .data_file = "/nowhere/dev", .data_file_raw = true,
		.flags = QCOW2_CREATE_NO_DATA_FILE };
	struct qcow2_check_report rep;
	struct qcow2_image *img = NULL;
	struct qcow2_error e;
	struct qcow2_layer l;
	uint64_t host, got;
	char buf[512];

	(void)state;
	ok(qcow2_create("meta.qcow2", &o, &img, err));
	assert_int_equal(qcow2_write(img, 0, "abc", 3, &e), -EOPNOTSUPP);
	assert_int_equal(qcow2_alloc_write(img, 0, 65536, &host, &got, &e), -EOPNOTSUPP);
	assert_int_equal(qcow2_set_zero(img, 0, 65536, &e), -EOPNOTSUPP);
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	assert_int_equal(qcow2_open("meta.qcow2", 0, &img, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "meta.qcow2: data file: /nowhere/dev: cannot open: No such file"));
	assert_int_equal(qcow2_open("meta.qcow2", QCOW2_OPEN_SAME_DIR, &img, &e), -EACCES);
	assert_non_null(strstr(e.msg, "data file '/nowhere/dev' is not a plain name in the same directory"));
	ok(qcow2_open("meta.qcow2", QCOW2_OPEN_NO_DATA_FILE | QCOW2_OPEN_SAME_DIR, &img, err));
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	assert_int_equal(l.data_fd, -1);
	assert_int_equal(qcow2_data_fd(img), -1);
	ok(qcow2_check(img, 0, &rep, err));
	assert_int_equal(rep.corruptions + rep.leaks, 0);
	assert_int_equal(rep.allocated_clusters, 160);
	assert_int_equal(qcow2_read(img, 0, buf, sizeof(buf), &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "guest offset 0 is in the data file, which is not open"));
	qcow2_close(img);
}

static int try_create(const struct qcow2_create_opts *o, const char *msg)
{
	struct qcow2_image *img = NULL;
	struct qcow2_error e = { 0 };
	int ret = qcow2_create("c.qcow2", o, &img, &e);

	if (!ret)
		qcow2_close(img);
	else if (!strstr(e.msg, msg))
		fail_msg("'%s', not '%s'", e.msg, msg);
	return ret;
}

static void create_arguments(void **state)
{
	struct qcow2_create_opts o = { .virtual_size = MIB, .data_file_raw = true };
	struct qcow2_image *img = NULL;
	struct qcow2_error e;

	(void)state;
	assert_int_equal(try_create(&o, "data_file_raw needs a data_file"), -EINVAL);
	o.data_file = "";
	assert_int_equal(try_create(&o, "name is empty"), -EINVAL);
	o.data_file = "nbd:x";
	assert_int_equal(try_create(&o, "protocols are not supported"), -EOPNOTSUPP);
	o.data_file = "missing/x";
	assert_int_equal(try_create(&o, "data file: missing/x: cannot create"), -ENOENT);
	/* what was made is gone, what was there is not */
	assert_int_equal(access("c.qcow2", F_OK), -1);
	write_file("c.qcow2", "abc", 3);
	assert_int_equal(try_create(&o, "data file: missing/x: cannot create"), -ENOENT);
	assert_int_equal(access("c.qcow2", F_OK), 0);
	assert_int_equal(unlink("c.qcow2"), 0);
	o.data_file = "/dev/null";
	assert_int_equal(try_create(&o, "neither a regular file"), -EINVAL);
	o.data_file = "./c.qcow2";
	assert_int_equal(try_create(&o, "is another file of the image"), -ELOOP);
	o.data_file = "d";
	write_file("b", "abc", 3);
	o.backing_file = "b";
	o.backing_format = "raw";
	assert_int_equal(try_create(&o, "no backing file"), -EINVAL);
	o.data_file_raw = false;
	o.data_file = "b";
	assert_int_equal(try_create(&o, "is another file of the image"), -ELOOP);
	/* no compressed clusters with it */
	o.data_file = "d";
	ok(qcow2_create("c.qcow2", &o, &img, err));
	assert_int_equal(qcow2_write_compressed(img, 0, "abc", 3, &e), -EOPNOTSUPP);
	qcow2_close(img);
}

static off_t size_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_size;
}

/* Whatever fails: a data file that was made for the image goes with it, another is as it was. */
static void create_fails(void **state)
{
	struct qcow2_create_opts o = { .virtual_size = MIB, .data_file = "made", .data_file_raw = true,
		.cluster_size = 4096 };
	struct qcow2_image *img = NULL;
	struct qcow2_error e;
	unsigned int there, n;
	int ret = -EIO;

	(void)state;
	write_file("there", "abc", 3);
	for (there = 0; there < 2; there++, ret = -EIO) {
		o.data_file = there ? "there" : "made";
		for (n = 0; ret; n++) {
			unlink("c.qcow2");
			record_fail(n, EIO);
			ret = qcow2_create("c.qcow2", &o, &img, &e);
			assert_int_equal(!ret, !record_failed());
			record_fail(0, 0);
			if (!ret)
				break;
			assert_int_equal(access("c.qcow2", F_OK), -1);
			assert_int_equal(access("made", F_OK), -1);
			assert_int_equal(size_of("there"), 3);
		}
		/* the file is extended, and an L2 table is written */
		assert_true(n >= 2);
		assert_int_equal(size_of(o.data_file), MIB);
		qcow2_close(img);
		unlink("made");
	}
	unlink("there");
	unlink("c.qcow2");
}

/* ---- hostile ---- */

#define CS	65536u
#define SIZE	(4 * CS - 512)
#define EXT	112
#define COPIED	(1ull << 63)
#define COMPR	(1ull << 62)

static uint8_t *good;
static size_t good_len;
static uint64_t l2;

static void make_good(bool raw)
{
	struct qcow2_create_opts o = { .virtual_size = SIZE, .data_file = "h.data", .data_file_raw = raw };
	struct qcow2_image *img = NULL;
	uint8_t *buf = malloc(SIZE);
	uint64_t l1;

	assert_non_null(buf);
	stamp(buf, 0, SIZE, 1);
	unlink("h.data");
	ok(qcow2_create("h.qcow2", &o, &img, err));
	ok(qcow2_write(img, 0, buf, SIZE, err));
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	free(buf);
	free(good);
	good = read_file("h.qcow2", &good_len);
	memcpy(&l1, good + 40, 8);
	memcpy(&l2, good + be64toh(l1), 8);
	l2 = be64toh(l2) & ~COPIED;
	assert_true(l2 < good_len);
}

static int open_named(const char *name, size_t len, unsigned int flags, const char *msg)
{
	struct qcow2_image *img = NULL;
	struct qcow2_error e = { 0 };
	uint8_t *f = malloc(good_len);
	uint32_t v = htobe32((uint32_t)len);
	int ret;

	assert_non_null(f);
	memcpy(f, good, good_len);
	assert_int_equal(f[EXT], 0x44);
	memcpy(f + EXT + 4, &v, 4);
	memset(f + EXT + 8, 0, 64);
	memcpy(f + EXT + 8, name, len);
	write_file("n.qcow2", f, good_len);
	free(f);
	ret = qcow2_open("n.qcow2", flags, &img, &e);
	if (!ret)
		qcow2_close(img);
	else if (!strstr(e.msg, msg))
		fail_msg("'%s', not '%s'", e.msg, msg);
	return ret;
}

static void names(void **state)
{
	char path[512];

	(void)state;
	make_good(false);
	assert_int_equal(open_named("h.data", 6, QCOW2_OPEN_SAME_DIR, ""), 0);
	assert_int_equal(open_named("./h.data", 8, 0, ""), 0);
	assert_int_equal(open_named("h.d\0ta", 6, 0, "data file name contains a NUL byte"), -EUCLEAN);
	assert_int_equal(open_named("h.d\0ta", 6, QCOW2_OPEN_NO_DATA_FILE, "contains a NUL byte"), -EUCLEAN);
	snprintf(path, sizeof(path), "%s", scratch("h.data"));
	if (strlen(path) < 56) {
		assert_int_equal(open_named(path, strlen(path), 0, ""), 0);
		assert_int_equal(open_named(path, strlen(path), QCOW2_OPEN_SAME_DIR, "not a plain name"), -EACCES);
	}
	assert_int_equal(open_named("/etc/passwd", 11, QCOW2_OPEN_SAME_DIR, "not a plain name"), -EACCES);
	assert_int_equal(open_named("../x", 4, QCOW2_OPEN_SAME_DIR, "not a plain name"), -EACCES);
	assert_int_equal(open_named("..", 2, QCOW2_OPEN_SAME_DIR, "neither a regular file"), -EINVAL);
	assert_int_equal(open_named("gone\n", 5, 0, "n.qcow2: data file: gone\\x0a: cannot open: No such file"), -ENOENT);
	assert_int_equal(open_named("n.qcow2", 7, 0, "is another file of the image"), -ELOOP);
	assert_int_equal(symlink("n.qcow2", "n.link"), 0);
	assert_int_equal(open_named("n.link", 6, QCOW2_OPEN_SAME_DIR | QCOW2_OPEN_WRITE, "is another file"), -ELOOP);
	assert_int_equal(mkfifo("fifo", 0600), 0);
	assert_int_equal(open_named("fifo", 4, 0, "neither a regular file"), -EINVAL);
	assert_int_equal(open_named("json:{}", 7, 0, "protocols are not supported"), -EOPNOTSUPP);
}

/* a backing file that is the data file, and the reverse */
static void loops(void **state)
{
	struct qcow2_create_opts o = { .virtual_size = SIZE, .data_file = "l.data", .backing_file = "h.qcow2",
		.backing_format = "qcow2" };
	struct qcow2_image *img = NULL;
	struct qcow2_error e;

	(void)state;
	make_good(false);
	ok(qcow2_create("l.qcow2", &o, &img, err));
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	ok(qcow2_open("l.qcow2", 0, &img, err));
	qcow2_close(img);
	assert_int_equal(unlink("l.data"), 0);
	assert_int_equal(link("h.qcow2", "l.data"), 0);
	assert_int_equal(qcow2_open("l.qcow2", 0, &img, &e), -ELOOP);
	assert_int_equal(unlink("l.data"), 0);
	assert_int_equal(link("h.data", "l.data"), 0);
	assert_int_equal(qcow2_open("l.qcow2", 0, &img, &e), -ELOOP);
	assert_non_null(strstr(e.msg, "is another file of the image or its chain already"));
}

static void tables(void **state)
{
	static const struct {
		bool raw;
		uint64_t entry, cut;
		int ret;
		const char *msg;
		bool qemu_agrees;	/* the check of qemu-img complains too */
	} c[] = {
		{ false, COMPR | 5, 0, -EUCLEAN, "is 0x4000000000000005: compressed, in an image with a data file", true },
		{ false, COPIED | 2, 0, -EUCLEAN, "is 0x8000000000000002: reserved bits are set", false },
		{ false, COPIED | 512, 0, -EUCLEAN, "data offset 512 is not a multiple of the cluster size 65536", true },
		{ false, COPIED | 4 * CS, 0, -EUCLEAN,
		  "data at 262144, 65536 bytes, reaches past the end of the data file h.data at 261632", false },
		{ false, COPIED | 0x00ffffffffff0000, 0, -EUCLEAN, "reaches past the end of the data file h.data at 261632",
		  false },
		{ false, COPIED, 512, -EUCLEAN,
		  "data at 0, 65536 bytes, reaches past the end of the data file h.data at 512", false },
		{ true, COPIED | CS, 0, -EUCLEAN, "data at 65536 of the data file, which is raw: not at 0", false },
		{ true, COPIED, 512, -EUCLEAN, "reaches past the end of the data file h.data at 512", false },
	};
	uint8_t *buf = malloc(SIZE);
	unsigned int i;

	(void)state;
	assert_non_null(buf);
	for (i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
		uint64_t entry = htobe64(c[i].entry);
		struct qcow2_check_report rep;
		struct qcow2_image *img = NULL;
		struct qcow2_error e = { 0 };
		struct qcow2_run r;

		make_good(c[i].raw);
		memcpy(good + l2, &entry, 8);
		write_file("h.qcow2", good, good_len);
		if (c[i].cut)
			assert_int_equal(truncate("h.data", (off_t)c[i].cut), 0);
		ok(qcow2_open("h.qcow2", 0, &img, err));
		assert_int_equal(qcow2_read(img, 0, buf, CS, &e), c[i].ret);
		if (!strstr(e.msg, c[i].msg))
			fail_msg("case %u: '%s', not '%s'", i, e.msg, c[i].msg);
		assert_int_equal(qcow2_map(img, 0, SIZE, &r, &e), c[i].ret);
		if (!c[i].cut)
			ok(qcow2_read(img, CS, buf, CS, err));
		ok(qcow2_check(img, 0, &rep, err));
		if (!rep.corruptions || !rep.first[0])
			fail_msg("case %u: the check finds nothing", i);
		qcow2_close(img);
		if (c[i].qemu_agrees && run("qemu-img check -q h.qcow2; test $? = 2"))
			fail_msg("case %u: qemu-img check finds nothing", i);
		/* writing runs not wild either */
		ok(qcow2_open("h.qcow2", QCOW2_OPEN_WRITE, &img, err));
		(void)(qcow2_write(img, 100, "abc", 3, &e) + qcow2_write(img, 0, good, CS, &e) +
		       qcow2_set_zero(img, 0, SIZE, &e) + qcow2_flush(img, &e));
		qcow2_close(img);
	}
	/* data of another place is read where nothing says raw, and found */
	{
		uint64_t entry = htobe64(COPIED | CS);
		struct qcow2_image *img = NULL;
		uint8_t want[CS];

		make_good(false);
		memcpy(good + l2, &entry, 8);
		write_file("h.qcow2", good, good_len);
		ok(qcow2_open("h.qcow2", 0, &img, err));
		ok(qcow2_read(img, 0, buf, CS, err));
		stamp(want, CS, CS, 1);
		assert_memory_equal(buf, want, CS);
		qcow2_close(img);
	}
	/* no L2 entries where it says raw: zeros, as QEMU has it */
	{
		struct qcow2_image *img = NULL;

		make_good(true);
		memset(good + l2, 0, 8);
		write_file("h.qcow2", good, good_len);
		ok(qcow2_open("h.qcow2", 0, &img, err));
		ok(qcow2_read(img, 0, buf, CS, err));
		for (i = 0; i < CS; i++)
			assert_int_equal(buf[i], 0);
		qcow2_close(img);
		run_ok("qemu-io -f qcow2 -c 'read -P 0 0 64k' h.qcow2");
	}
	free(buf);
}

/* the image after a crash, with the data file as it is: what it says has data has it */
static void crashes(void **state)
{
	uint64_t size = 600 * KIB, cs = 4096, off;
	uint8_t *flushed = calloc(1, size), *now = calloc(1, size), *buf = malloc(size);
	struct qcow2_create_opts o = { .virtual_size = size, .cluster_size = (uint32_t)cs, .data_file = "crash.data" };
	struct qcow2_image *img = NULL;
	unsigned int r, k, images = 0;
	char target[512];

	(void)state;
	rnd_seed(74);
	assert_true(flushed && now && buf);
	snprintf(target, sizeof(target), "%s", scratch("crash.qcow2"));
	write_file(target, "", 0);
	record_start(target);
	ok(qcow2_create(target, &o, &img, err));
	for (r = 0; r < 4; r++) {
		size_t from = record_ops(), to;

		/* each round has clusters of its own: in place nothing is promised */
		for (k = 0; k < 30; k++) {
			off = (rnd_below(size / cs / 4) * 4 + r) * cs;
			stamp(now + off, off, cs, r * 100 + k);
			data_write(img, off, now + off, cs);
		}
		ok(qcow2_flush(img, err));
		to = record_ops();
		for (k = 0; k < 40; k++) {
			struct qcow2_check_report rep;
			struct qcow2_image *c = NULL;
			struct qcow2_error e;

			record_crash(from + rnd_below(to - from + 1), scratch("crashed.qcow2"));
			if (qcow2_open(scratch("crashed.qcow2"), 0, &c, &e)) {
				if (r || !strstr(e.msg, "no qcow2 image"))
					fail_msg("after a crash: %s", e.msg);
				continue;
			}
			images++;
			ok(qcow2_check(c, 0, &rep, err));
			assert_int_equal(rep.corruptions, 0);
			ok(qcow2_read(c, 0, buf, size, err));
			for (off = 0; off < size; off += cs)
				if (memcmp(buf + off, now + off, cs) && memcmp(buf + off, flushed + off, cs))
					fail_msg("after a crash: cluster at %llu is neither old nor new",
						 (unsigned long long)off);
			qcow2_close(c);
		}
		memcpy(flushed, now, size);
	}
	printf("# %u of %u crashes left an image\n", images, 4 * 40);
	qcow2_close(img);
	record_stop();
	free(flushed);
	free(now);
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ours),
		cmocka_unit_test(theirs),
		cmocka_unit_test(chain),
		cmocka_unit_test(metadata_alone),
		cmocka_unit_test(create_arguments),
		cmocka_unit_test(create_fails),
		cmocka_unit_test(names),
		cmocka_unit_test(loops),
		cmocka_unit_test(tables),
		cmocka_unit_test(crashes),
	};
	int ret;

	cmocka_set_message_output(CM_OUTPUT_TAP);
	ret = cmocka_run_group_tests_name("qcow2-datafile", tests, setup, teardown);
	free(good);
	return ret;
}
