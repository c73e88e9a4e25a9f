// SPDX-License-Identifier: GPL-2.0-or-later
/* Both ways with stock qemu-img and qemu-io: what they write we read, and the reverse */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

static uint8_t *to_raw(const char *path, size_t *size)
{
	char raw[512];

	snprintf(raw, sizeof(raw), "%s", scratch("converted.raw"));
	run_ok("qemu-img convert -f qcow2 -O raw '%s' '%s'", path, raw);
	return read_file(raw, size);
}

/* we read of @path what qemu-img reads */
static void reads_equal(const char *path)
{
	struct qcow2_image *img = NULL;
	size_t size;
	uint8_t *ref = to_raw(path, &size);

	ok(qcow2_open(path, 0, &img, err));
	same_content(img, ref, size);
	qcow2_close(img);
	free(ref);
}

/* an image that qemu-io wrote random pieces to; QEMU wants multiples of 512 */
static void qemu_writes(const char *path, uint64_t size, unsigned int n, const char *more)
{
	char cmd[3500], *p = cmd;
	unsigned int i;

	p += sprintf(p, "qemu-io -f qcow2 ");
	for (i = 0; i < n; i++) {
		uint64_t off = rnd_below(size / 512) * 512, len = (1 + rnd_below(300)) * 512;

		if (len > size - off)
			len = size - off;
		p += sprintf(p, "-c 'write %s %llu %llu' ",
			     rnd_below(4) ? (rnd_below(2) ? "-P 0x5a" : "-P 0xc3") : "-z",
			     (unsigned long long)off, (unsigned long long)len);
	}
	run_ok("%s %s '%s'", cmd, more, path);
}

static void read_what_qemu_wrote(void **state)
{
	static const char * const opts[] = {
		"cluster_size=512", "cluster_size=4096", "cluster_size=65536", "cluster_size=2097152",
		"cluster_size=65536,preallocation=metadata", "cluster_size=4096,lazy_refcounts=on",
		"cluster_size=65536,refcount_bits=1", "cluster_size=4096,refcount_bits=64",
		"cluster_size=65536,preallocation=falloc",
	};
	uint64_t size = 3 * MIB + 1536;
	unsigned int i;

	(void)state;
	rnd_seed(11);
	for (i = 0; i < sizeof(opts) / sizeof(opts[0]); i++) {
		struct qcow2_check_report rep;
		struct qcow2_image *img = NULL;
		char path[512];

		snprintf(path, sizeof(path), "%s", scratch("q.qcow2"));
		run_ok("qemu-img create -q -f qcow2 -o %s '%s' %llu", opts[i], path, (unsigned long long)size);
		qemu_writes(path, size, 20, i & 1 ? "-c 'discard 65536 131072'" : "");
		reads_equal(path);
		ok(qcow2_open(path, 0, &img, err));
		ok(qcow2_check(img, 0, &rep, err));
		if (rep.corruptions || rep.leaks)
			fail_msg("%s: %s", opts[i], rep.first);
		qcow2_close(img);
	}
}

static void read_compressed(void **state)
{
	static const unsigned int cs[] = { 512, 4096, 65536, 2097152 };
	uint64_t size = 5 * MIB + 512 * 3, off;
	uint8_t *ref = calloc(1, size);
	char raw[512], path[512];
	unsigned int i, k;

	(void)state;
	rnd_seed(12);
	assert_non_null(ref);
	/* runs that compress, that do not, and zeros */
	for (off = 0; off + 100000 < size; off += 150000) {
		stamp(ref + off, off, 40000, off);
		memset(ref + off + 40000, (int)(off >> 10), 60000);
	}
	snprintf(raw, sizeof(raw), "%s", scratch("c.raw"));
	snprintf(path, sizeof(path), "%s", scratch("c.qcow2"));
	write_file(raw, ref, size);
	for (i = 0; i < 4; i++) {
		struct qcow2_check_report rep;
		struct qcow2_image *img = NULL;
		uint64_t clusters = (size + cs[i] - 1) / cs[i];

		run_ok("qemu-img convert -c -f raw -O qcow2 -o cluster_size=%u '%s' '%s'", cs[i], raw, path);
		/* overwrite compressed clusters, whole and in part: their places are freed */
		ok(qcow2_open(path, QCOW2_OPEN_WRITE, &img, err));
		same_content(img, ref, size);
		ok(qcow2_check(img, 0, &rep, err));
		assert_int_equal(rep.corruptions + rep.leaks, 0);
		assert_true(rep.compressed_clusters > 0);
		for (k = 0; k < 30; k++)
			random_step(img, ref, size, k + 1);
		off = rnd_below(clusters - 1) * cs[i];
		stamp(ref + off, off, cs[i], 77);
		engine_write(img, off, ref + off, cs[i]);
		ok(qcow2_flush(img, err));
		same_content(img, ref, size);
		qcow2_close(img);
		check_clean(path);
		write_file(scratch("c2.raw"), ref, size);
		run_ok("qemu-img compare -q -f qcow2 -F raw '%s' '%s'", path, scratch("c2.raw"));
		memset(ref, 0, size);
		/* the same content for the next round */
		for (off = 0; off + 100000 < size; off += 150000) {
			stamp(ref + off, off, 40000, off);
			memset(ref + off + 40000, (int)(off >> 10), 60000);
		}
	}
	free(ref);
}

/* ours on theirs on ours; each tool goes on with the other's image */
static void take_turns(void **state)
{
	uint64_t size = 2 * MIB + 512;
	uint8_t *ref = calloc(1, size);
	struct qcow2_create_opts o = { .virtual_size = size };
	struct qcow2_image *img = NULL;
	char a[512], b[512], c[512];
	unsigned int i;
	size_t n;

	(void)state;
	rnd_seed(13);
	assert_non_null(ref);
	snprintf(a, sizeof(a), "%s", scratch("a.qcow2"));
	snprintf(b, sizeof(b), "%s", scratch("b.qcow2"));
	snprintf(c, sizeof(c), "%s", scratch("c.qcow2"));
	ok(qcow2_create(a, &o, &img, err));
	for (i = 0; i < 20; i++)
		random_step(img, ref, size, i + 1);
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	check_clean(a);
	run_ok("qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 -o cluster_size=4096 '%s'", b);
	qemu_writes(b, size, 20, "");
	free(ref);
	ref = to_raw(b, &n);
	assert_int_equal(n, size);
	o.backing_file = "b.qcow2";
	o.backing_format = "qcow2";
	o.cluster_size = 65536;
	ok(qcow2_create(c, &o, &img, err));
	assert_int_equal(qcow2_layers(img), 3);
	for (i = 0; i < 20; i++)
		random_step(img, ref, size, i + 100);
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	/* they go on with ours */
	check_clean(c);
	reads_equal(c);
	qemu_writes(c, size, 20, "-c 'discard 65536 65536'");
	check_clean(c);
	reads_equal(c);
	/* and we with theirs */
	free(ref);
	ref = to_raw(c, &n);
	ok(qcow2_open(c, QCOW2_OPEN_WRITE, &img, err));
	for (i = 0; i < 30; i++)
		random_step(img, ref, size, i + 200);
	ok(qcow2_flush(img, err));
	same_content(img, ref, size);
	qcow2_close(img);
	check_clean(c);
	write_file(scratch("c.raw"), ref, size);
	run_ok("qemu-img compare -q -f qcow2 -F raw '%s' '%s'", c, scratch("c.raw"));
	/* the chain operations of stock tools work on it */
	run_ok("cd '%s' && qemu-img commit -q -f qcow2 c.qcow2 && qemu-img check -q b.qcow2 && "
	       "qemu-img compare -q -f qcow2 -F raw b.qcow2 c.raw", scratch(""));
	run_ok("cd '%s' && qemu-img rebase -q -f qcow2 -b a.qcow2 -F qcow2 c.qcow2 && qemu-img check -q c.qcow2 && "
	       "qemu-img compare -q -f qcow2 -F raw c.qcow2 c.raw", scratch(""));
	reads_equal(c);
	free(ref);
}

/* an image with bitmaps: counted by the check, invalidated by a change */
static void bitmaps_of_qemu(void **state)
{
	struct qcow2_check_report rep;
	struct qcow2_header_ext ext;
	struct qcow2_image *img = NULL;
	struct qcow2_layer l;
	char path[512];

	(void)state;
	snprintf(path, sizeof(path), "%s", scratch("bm.qcow2"));
	run_ok("qemu-img create -q -f qcow2 '%s' 64M && qemu-img bitmap --add '%s' one && "
	       "qemu-img bitmap --add -g 512 '%s' two && "
	       "qemu-io -f qcow2 -c 'write 0 1M' -c 'write 10M 3M' '%s'", path, path, path, path);
	ok(qcow2_open(path, QCOW2_OPEN_WRITE, &img, err));
	assert_int_equal(qcow2_get_ext(img, 0, QCOW2_EXT_BITMAPS, &ext), 0);
	assert_int_equal(ext.len, 24);
	ok(qcow2_check(img, 0, &rep, err));
	if (rep.corruptions || rep.leaks)
		fail_msg("%s", rep.first);
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	assert_int_equal(l.autoclear, 1);
	ok(qcow2_write(img, 20 * MIB, "x", 1, err));
	ok(qcow2_flush(img, err));
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	assert_int_equal(l.autoclear, 0);
	qcow2_close(img);
	/* QEMU sees that the bitmaps missed a write, and drops them */
	run_ok("! qemu-img info '%s' | grep -q 'name: one'", path);
	run_ok("qemu-io -f qcow2 -c 'read -P 0x78 20M 1' '%s' | grep -q 'read 1/1'", path);
}

/* what the checks of both say of damage: the same class of verdict */
static void same_verdict_on_damage(void **state)
{
	static const struct {
		const char *what;
		uint64_t off;		/* 0: refcount of the cluster numbered pos; else L2 entry pos */
		unsigned int pos;
		const char *bytes;
		size_t len;
		int status;		/* of qemu-img check */
	} damage[] = {
		{ "refcount of data 0", 0, 5, "\0\0", 2, 2 },
		{ "refcount of data 2", 0, 5, "\0\2", 2, 2 },	/* COPIED does not fit */
		{ "refcount of an unused cluster", 0, 9, "\0\1", 2, 3 },
		{ "two entries, one cluster", 1, 1, "\x80\0\0\0\0\5\0\0", 8, 2 },
		{ "no COPIED", 1, 0, "\0\0\0\0\0\5\0\0", 8, 2 },
		{ "entry gone", 1, 0, "\0\0\0\0\0\0\0\0", 8, 3 },
		{ "zero with its place kept", 1, 0, "\x80\0\0\0\0\5\0\1", 8, 0 },
		{ "data on the L1", 1, 0, "\x80\0\0\0\0\3\0\0", 8, 2 },
		{ "unaligned data", 1, 0, "\x80\0\0\0\0\5\2\0", 8, 2 },
		{ "data behind the end", 1, 0, "\x80\0\0\0\x10\5\0\0", 8, 2 },
	};
	uint8_t *ref = malloc(4 * 65536);
	char good[512], bad[512];
	struct qcow2_image *img = NULL;
	unsigned int i;
	uint8_t *file;
	size_t size;

	(void)state;
	assert_non_null(ref);
	stamp(ref, 0, 4 * 65536, 1);
	snprintf(good, sizeof(good), "%s", scratch("good.qcow2"));
	snprintf(bad, sizeof(bad), "%s", scratch("bad.qcow2"));
	ok(qcow2_create(good, &(struct qcow2_create_opts){ .virtual_size = 100 * MIB }, &img, err));
	/* header, refcount block, table, L1, L2, data from cluster 5 on, one unused cluster */
	engine_write(img, 0, ref, 4 * 65536);
	engine_write(img, 0, ref, 4 * 65536);
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	file = read_file(good, &size);
	assert_int_equal(size, 9 * 65536);
	file = realloc(file, 10 * 65536);
	assert_non_null(file);
	memset(file + size, 0, 65536);
	size += 65536;
	for (i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
		uint8_t *p = file + (damage[i].off ? 4 * 65536 + damage[i].pos * 8 : 65536 + damage[i].pos * 2);
		struct qcow2_check_report rep;
		uint8_t old[8];
		int status;

		memcpy(old, p, damage[i].len);
		memcpy(p, damage[i].bytes, damage[i].len);
		write_file(bad, file, size);
		memcpy(p, old, damage[i].len);
		if (run("qemu-img check -f qcow2 '%s'; test $? = %d", bad, damage[i].status))
			fail_msg("%s: qemu-img check says otherwise", damage[i].what);
		ok(qcow2_open(bad, 0, &img, err));
		ok(qcow2_check(img, 0, &rep, err));
		qcow2_close(img);
		status = rep.corruptions ? 2 : rep.leaks ? 3 : 0;
		if (status != damage[i].status || (status && !rep.first[0]))
			fail_msg("%s: verdict %d (%s), not %d", damage[i].what, status, rep.first, damage[i].status);
	}
	free(file);
	free(ref);
}

/* what stock tools can make and we do not read: refused by name */
static void refused_by_name(void **state)
{
	static const struct {
		const char *cmd;
		const char *msg;
	} c[] = {
		{ "qemu-img create -q -f qcow2 -o compat=0.10 r.qcow2 1M", "version 2" },
		{ "qemu-img create -q -f qcow2 -o extended_l2=on r.qcow2 1M", "extended L2" },
	};
	struct qcow2_image *img = NULL;
	struct qcow2_error e;
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
		run_ok("cd '%s' && rm -f r.qcow2 && %s", scratch(""), c[i].cmd);
		assert_int_equal(qcow2_open(scratch("r.qcow2"), 0, &img, &e), -EOPNOTSUPP);
		if (!strstr(e.msg, c[i].msg) || !strstr(e.msg, "r.qcow2"))
			fail_msg("'%s', not '%s'", e.msg, c[i].msg);
	}
	run_ok("cd '%s' && qemu-img create -q -f qcow2 s.qcow2 1M && qemu-io -f qcow2 -c 'write -P 1 0 1M' s.qcow2 && "
	       "qemu-img snapshot -c snap s.qcow2 && qemu-io -f qcow2 -c 'write -P 2 0 128k' s.qcow2", scratch(""));
	reads_equal(scratch("s.qcow2"));
	assert_int_equal(qcow2_open(scratch("s.qcow2"), QCOW2_OPEN_WRITE, &img, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "1 internal snapshots"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(read_what_qemu_wrote),
		cmocka_unit_test(read_compressed),
		cmocka_unit_test(take_turns),
		cmocka_unit_test(bitmaps_of_qemu),
		cmocka_unit_test(same_verdict_on_damage),
		cmocka_unit_test(refused_by_name),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("qcow2-interop", tests, scratch_setup, scratch_teardown);
}
