// SPDX-License-Identifier: GPL-2.0-or-later
/* Compressed clusters, deflate and zstd: with stock tools, damaged, after a crash */
#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "common.h"
#include "record.h"

static const char * const type_name[] = { "zlib", "zstd" };

/* pieces that compress, that do not, and zeros */
static void mixture(uint8_t *buf, uint64_t size, uint64_t gen)
{
	uint64_t off, n;

	memset(buf, 0, size);
	for (off = 0; off < size; off += n) {
		n = 1 + rnd_below(150000);
		if (n > size - off)
			n = size - off;
		switch (rnd_below(4)) {
		case 0:
			stamp(buf + off, off, n, gen);
			break;
		case 1:
			memset(buf + off, (int)rnd_below(256), n);
			break;
		case 2:
			for (uint64_t i = 0; i < n; i++)
				buf[off + i] = (uint8_t)(rnd_below(64) ? i / 7 : rnd());
			break;
		}
	}
}

/* as a backup does: one cluster, compressed if that pays; was it? */
static bool put_cluster(struct qcow2_image *img, uint64_t off, const uint8_t *data, uint64_t len)
{
	uint32_t cs = qcow2_cluster_size(img);
	uint8_t *in = calloc(1, cs), *out = malloc(cs - 1);
	struct qcow2_layer l;
	size_t n = 0;
	int ret;

	assert_true(in && out);
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	memcpy(in, data, len);
	ret = qcow2_compress(l.compression, 0, in, cs, out, &n);
	assert_true(!ret || ret == -E2BIG);
	if (ret) {
		engine_write(img, off, data, len);
	} else {
		assert_true(n && n < cs);
		ok(qcow2_write_compressed(img, off, out, n, err));
	}
	free(in);
	free(out);
	return !ret;
}

static void same_as_raw(const char *path, const uint8_t *ref, uint64_t size)
{
	char raw[512];

	snprintf(raw, sizeof(raw), "%s", scratch("ref.raw"));
	write_file(raw, ref, size);
	run_ok("qemu-img compare -q -f qcow2 -F raw '%s' '%s'", path, raw);
	run_ok("qemu-img convert -f qcow2 -O raw '%s' '%s.out' && cmp '%s.out' '%s'", path, raw, raw, raw);
}

static void ours_read_by_qemu(void **state)
{
	static const uint32_t sizes[] = { 512, 4096, 65536, 2 << 20 };
	uint64_t size, off, n;
	unsigned int i, type, k;
	char path[512];

	(void)state;
	rnd_seed(61);
	snprintf(path, sizeof(path), "%s", scratch("w.qcow2"));
	for (i = 0; i < 8; i++) {
		uint32_t cs = sizes[i / 2];
		struct qcow2_image *img = NULL;
		struct qcow2_check_report rep;
		uint64_t packed = 0;
		uint8_t *ref;

		type = i & 1;
		size = (cs == 512 ? 1 : cs < MIB ? 2 : 10) * MIB + 512 * 3;
		ref = malloc(size);
		assert_non_null(ref);
		mixture(ref, size, i);
		ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = size, .cluster_size = cs,
				.compression = type }, &img, err));
		for (off = 0; off < size; off += n) {
			n = size - off < cs ? size - off : cs;
			packed += put_cluster(img, off, ref + off, n);
			if (!rnd_below(50))
				ok(qcow2_flush(img, err));
		}
		assert_true(packed);
		same_content(img, ref, size);
		ok(qcow2_flush(img, err));
		ok(qcow2_check(img, 0, &rep, err));
		assert_int_equal(rep.compressed_clusters, packed);
		check_clean(path);
		same_as_raw(path, ref, size);
		/* over compressed ones: again compressed, plain, in part, zeros */
		for (k = 0; k < 40; k++) {
			if (rnd_below(2)) {
				random_step(img, ref, size, k);
				continue;
			}
			off = rnd_below(size) / cs * cs;
			n = size - off < cs ? size - off : cs;
			mixture(ref + off, n, k);
			put_cluster(img, off, ref + off, n);
		}
		ok(qcow2_flush(img, err));
		same_content(img, ref, size);
		qcow2_close(img);
		check_clean(path);
		same_as_raw(path, ref, size);
		/* and they go on with it */
		run_ok("qemu-io -f qcow2 -c 'write -P 7 1024 70k' '%s'", path);
		check_clean(path);
		free(ref);
	}
}

static void theirs_read_by_us(void **state)
{
	static const uint32_t sizes[] = { 512, 4096, 65536, 2 << 20 };
	uint64_t size = 3 * MIB + 1536;
	uint8_t *ref = malloc(size);
	char path[512], raw[512];
	unsigned int i, k;

	(void)state;
	rnd_seed(62);
	assert_non_null(ref);
	snprintf(path, sizeof(path), "%s", scratch("t.qcow2"));
	snprintf(raw, sizeof(raw), "%s", scratch("t.raw"));
	for (i = 0; i < 8; i++) {
		struct qcow2_check_report rep;
		struct qcow2_image *img = NULL;
		struct qcow2_layer l;

		mixture(ref, size, i);
		write_file(raw, ref, size);
		run_ok("qemu-img convert -c -f raw -O qcow2 -o cluster_size=%u,compression_type=%s '%s' '%s'", sizes[i / 2],
		       type_name[i & 1], raw, path);
		ok(qcow2_open(path, QCOW2_OPEN_WRITE, &img, err));
		assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
		assert_int_equal(l.compression, i & 1);
		same_content(img, ref, size);
		ok(qcow2_check(img, 0, &rep, err));
		assert_int_equal(rep.corruptions + rep.leaks, 0);
		assert_true(rep.compressed_clusters > 0);
		for (k = 0; k < 20; k++) {
			uint64_t off = rnd_below(size) / sizes[i / 2] * sizes[i / 2];
			uint64_t n = size - off < sizes[i / 2] ? size - off : sizes[i / 2];

			mixture(ref + off, n, k);
			put_cluster(img, off, ref + off, n);
			random_step(img, ref, size, k);
		}
		ok(qcow2_flush(img, err));
		same_content(img, ref, size);
		qcow2_close(img);
		check_clean(path);
		same_as_raw(path, ref, size);
	}
	free(ref);
}

/* more in one cluster than its refcount can tell */
static void many_in_a_cluster(void **state)
{
	const char *path = scratch("many.qcow2");
	uint64_t cs = 2 * MIB, n = 70000, i;
	struct qcow2_check_report rep;
	struct qcow2_image *img = NULL;
	struct qcow2_layer l;
	uint8_t data[11];

	(void)state;
	memset(data, 0, sizeof(data));
	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = n * cs, .cluster_size = (uint32_t)cs,
			.compression = QCOW2_COMPRESSION_ZSTD }, &img, err));
	for (i = 0; i < n; i++)
		ok(qcow2_write_compressed(img, i * cs, data, sizeof(data), err));
	ok(qcow2_flush(img, err));
	ok(qcow2_check(img, 0, &rep, err));
	assert_int_equal(rep.compressed_clusters, n);
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	/* header, tables, and two clusters of data */
	assert_true(l.file_size <= 8 * cs);
	qcow2_close(img);
	check_clean(path);
}

static uint64_t table_entry(const uint8_t *file, uint64_t off)
{
	uint64_t v;

	memcpy(&v, file + off, 8);
	return be64toh(v);
}

/* L2 entry of guest cluster @nr, without the highest bits */
static uint64_t l2_entry(const uint8_t *file, unsigned int nr)
{
	uint64_t l2 = table_entry(file, table_entry(file, 40)) & ~(1ull << 63);

	return table_entry(file, l2 + nr * 8) & ~(3ull << 62);
}

/* the next compressed cluster is in the same cluster of the file, but not in the same block */
static void durable_is_left_alone(void **state)
{
	const char *path = scratch("blocks.qcow2");
	struct qcow2_image *img = NULL;
	uint8_t data[100], *file;
	uint64_t at[6];
	unsigned int i;
	size_t len;

	(void)state;
	memset(data, 0x55, sizeof(data));
	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = 16 * 65536 }, &img, err));
	for (i = 0; i < 5; i++) {
		ok(qcow2_write_compressed(img, i * 65536, data, sizeof(data), err));
		if (i & 1)
			ok(qcow2_flush(img, err));
	}
	/* all that the cluster had is replaced: it is free, and so is the room in it */
	for (i = 0; i < 5; i++)
		ok(qcow2_set_zero(img, i * 65536, 65536, err));
	ok(qcow2_write_compressed(img, 6 * 65536, data, sizeof(data), err));
	ok(qcow2_set_zero(img, 6 * 65536, 65536, err));
	ok(qcow2_flush(img, err));
	ok(qcow2_write_compressed(img, 5 * 65536, data, sizeof(data), err));
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	check_clean(path);
	file = read_file(path, &len);
	at[5] = l2_entry(file, 5) & 0xffffffff;
	assert_int_equal(at[5] % 65536, 0);
	free(file);

	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = 16 * 65536 }, &img, err));
	for (i = 0; i < 5; i++) {
		ok(qcow2_write_compressed(img, i * 65536, data, sizeof(data), err));
		if (i & 1)
			ok(qcow2_flush(img, err));
	}
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	check_clean(path);
	file = read_file(path, &len);
	for (i = 0; i < 5; i++)
		at[i] = l2_entry(file, i) & 0xffffffff;
	free(file);
	assert_int_equal(at[0] % 65536, 0);
	assert_int_equal(at[1], at[0] + 100);
	assert_int_equal(at[2], at[0] + 4096);
	assert_int_equal(at[3], at[2] + 100);
	assert_int_equal(at[4], at[2] + 4096);
}

static void arguments(void **state)
{
	uint8_t in[4096], out[4096];
	struct qcow2_image *img = NULL;
	struct qcow2_error e;
	size_t n = 77;

	(void)state;
	stamp(in, 0, sizeof(in), 1);
	assert_int_equal(qcow2_compress(0, 0, in, sizeof(in), out, &n), -E2BIG);
	assert_int_equal(qcow2_compress(1, 0, in, sizeof(in), out, &n), -E2BIG);
	assert_int_equal(qcow2_compress(2, 0, in, sizeof(in), out, &n), -EINVAL);
	assert_int_equal(qcow2_compress(0, 10, in, sizeof(in), out, &n), -EINVAL);
	assert_int_equal(qcow2_compress(0, -1, in, sizeof(in), out, &n), -EINVAL);
	assert_int_equal(qcow2_compress(1, 1000, in, sizeof(in), out, &n), -EINVAL);
	assert_int_equal(qcow2_compress(1, 0, in, 256, out, &n), -EINVAL);
	assert_int_equal(n, 77);
	memset(in, 5, sizeof(in));
	for (int level = 0; level <= 22; level++) {
		if (level <= 9)
			assert_int_equal(qcow2_compress(0, level, in, sizeof(in), out, &n), 0);
		assert_int_equal(qcow2_compress(1, level, in, sizeof(in), out, &n), 0);
	}
	ok(qcow2_create(scratch("arg.qcow2"), &(struct qcow2_create_opts){ .virtual_size = 10000,
			.cluster_size = 4096 }, &img, err));
	assert_int_equal(qcow2_write_compressed(img, 512, in, 5, &e), -EINVAL);
	assert_int_equal(qcow2_write_compressed(img, 12288, in, 5, &e), -EINVAL);
	assert_int_equal(qcow2_write_compressed(img, 0, in, 0, &e), -EINVAL);
	assert_int_equal(qcow2_write_compressed(img, 0, in, 4096, &e), -EINVAL);
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	ok(qcow2_open(scratch("arg.qcow2"), 0, &img, err));
	assert_int_equal(qcow2_write_compressed(img, 0, in, 5, &e), -EROFS);
	qcow2_close(img);
	assert_int_equal(qcow2_create(scratch("arg2.qcow2"), &(struct qcow2_create_opts){ .virtual_size = 10000,
			.compression = 2 }, &img, &e), -EINVAL);
}

/* ---- several threads ---- */

#define NR_THREADS	4

struct thread {
	pthread_t id;
	struct qcow2_image *img;
	const uint8_t *ref;
	uint64_t size, first;
};

static void *compressor(void *arg)
{
	struct thread *t = arg;
	uint64_t cs = qcow2_cluster_size(t->img), off;
	uint8_t *out = malloc(cs), *back = malloc(cs);

	assert_true(out && back);
	for (off = t->first * cs; off < t->size; off += NR_THREADS * cs) {
		size_t n = 0;

		ok(qcow2_compress(QCOW2_COMPRESSION_ZSTD, 1, t->ref + off, cs, out, &n));
		ok(qcow2_write_compressed(t->img, off, out, n, err));
		ok(qcow2_read(t->img, off, back, cs, err));
		assert_memory_equal(back, t->ref + off, cs);
	}
	free(out);
	free(back);
	return NULL;
}

static void threads(void **state)
{
	char path[512];
	uint64_t size = 16 * MIB, i;
	struct qcow2_image *img = NULL;
	uint8_t *ref = malloc(size);
	struct thread t[NR_THREADS];

	(void)state;
	assert_non_null(ref);
	snprintf(path, sizeof(path), "%s", scratch("threads.qcow2"));
	for (i = 0; i < size; i++)
		ref[i] = (uint8_t)(i / 37 ^ i >> 16);
	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = size,
			.compression = QCOW2_COMPRESSION_ZSTD }, &img, err));
	for (i = 0; i < NR_THREADS; i++) {
		t[i] = (struct thread){ .img = img, .ref = ref, .size = size, .first = i };
		assert_int_equal(pthread_create(&t[i].id, NULL, compressor, &t[i]), 0);
	}
	for (i = 0; i < NR_THREADS; i++)
		pthread_join(t[i].id, NULL);
	ok(qcow2_flush(img, err));
	same_content(img, ref, size);
	qcow2_close(img);
	check_clean(path);
	same_as_raw(path, ref, size);
	free(ref);
}

/* ---- damaged ---- */

#define CS	4096u

/* @data, @len bytes, as the content of the first cluster, with no more sectors than it needs */
static int read_back(const void *data, size_t len, struct qcow2_error *e, uint8_t *buf)
{
	const char *path = scratch("bad.qcow2");
	struct qcow2_image *img = NULL;
	int ret;

	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = CS * 4, .cluster_size = CS,
			.compression = QCOW2_COMPRESSION_ZSTD }, &img, err));
	ok(qcow2_write_compressed(img, 0, data, len, err));
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	ok(qcow2_open(path, 0, &img, err));
	ret = qcow2_read(img, 0, buf, CS, e);
	qcow2_close(img);
	return ret;
}

static void expect_bad(const void *data, size_t len, const char *msg)
{
	struct qcow2_error e = { 0 };
	uint8_t buf[CS];

	assert_int_equal(read_back(data, len, &e, buf), -EUCLEAN);
	if (!strstr(e.msg, msg) || !strstr(e.msg, "bad.qcow2: compressed data of guest offset 0 at "))
		fail_msg("'%s', not '%s'", e.msg, msg);
}

static void bad_frames(void **state)
{
	uint8_t in[2 * CS], frame[2 * CS], buf[CS];
	struct qcow2_error e = { 0 };
	size_t len, half, i;

	(void)state;
	rnd_seed(63);
	/* a frame of some length, but less than a cluster */
	for (i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(rnd_below(3) ? 'a' + rnd_below(4) : 0);
	len = ZSTD_compress(frame, sizeof(frame), in, CS, 3);
	assert_true(!ZSTD_isError(len) && len > 1000 && len < CS - 600);
	assert_int_equal(read_back(frame, len, &e, buf), 0);
	assert_memory_equal(buf, in, CS);
	/* bytes behind it have no meaning; in an entry they are what the sector has */
	memset(frame + len, 0xff, sizeof(frame) - len);
	assert_int_equal(read_back(frame, len + 511, &e, buf), 0);
	assert_memory_equal(buf, in, CS);
	/* cut short */
	expect_bad(frame, len - 513, "does not decompress to a cluster (Src size is incorrect, 4096 bytes short)");
	expect_bad(frame, 3, "does not decompress to a cluster (");
	/* nonsense, an earlier format, only bytes to skip */
	expect_bad("nonsense", 8, "(no zstd frame, 4096 bytes short)");
	expect_bad("\x25\xb5\x2f\xfd\0\0\0\0", 8, "(no zstd frame, 4096 bytes short)");
	expect_bad("\x50\x2a\x4d\x18\x08\0\0\0abcdefgh", 16, "(no zstd frame, 4096 bytes short)");
	/* longer than a cluster, by what its header says and without that */
	len = ZSTD_compress(frame, sizeof(frame), in, CS + 1, 3);
	assert_true(!ZSTD_isError(len) && len < CS);
	expect_bad(frame, len, "Destination buffer is too small");
	/* shorter than a cluster; then a second frame makes it full, as QEMU has it */
	half = ZSTD_compress(frame, sizeof(frame), in, CS / 2, 3);
	assert_false(ZSTD_isError(half));
	expect_bad(frame, half, "(no zstd frame, 2048 bytes short)");
	len = ZSTD_compress(frame + half, sizeof(frame) - half, in + CS / 2, CS / 2, 3);
	assert_false(ZSTD_isError(len));
	assert_int_equal(read_back(frame, half + len, &e, buf), 0);
	assert_memory_equal(buf, in, CS);
	len = ZSTD_compress(frame + half, sizeof(frame) - half, in + CS / 2, CS / 2 + 1, 3);
	assert_false(ZSTD_isError(len));
	expect_bad(frame, half + len, "Destination buffer is too small, 2048 bytes short");
	/* the header lies about the content's size; it asks for a window of 2 GiB and more */
	len = ZSTD_compress(frame, sizeof(frame), in, CS, 3);
	assert_int_equal(frame[4], 0x60);
	frame[5] ^= 1;
	expect_bad(frame, len, "does not decompress to a cluster (");
	frame[5] ^= 1;
	memmove(frame + 6, frame + 7, len - 7);
	frame[4] = 0;
	frame[5] = 0xff;
	expect_bad(frame, len - 1, "does not decompress to a cluster (");
	/* any byte of a frame: an error, or another content, but nothing worse */
	len = ZSTD_compress(frame, sizeof(frame), in, CS, 3);
	for (i = 0; i < 300; i++) {
		size_t at = rnd_below(i & 1 ? 40 : len);
		uint8_t old = frame[at];

		frame[at] ^= (uint8_t)(1u << rnd_below(8));
		(void)read_back(frame, len, &e, buf);
		frame[at] = old;
	}
}

/* ---- crashes ---- */

struct world {
	struct qcow2_image *img;
	uint64_t size, cs, clusters;
	uint8_t *now, *flushed;
	uint8_t *plain, *was_plain;	/* per cluster: has (had at the flush) a place of its own */
};

static void step(struct world *w, uint64_t gen)
{
	uint64_t c = rnd_below(w->clusters), n = 1 + rnd_below(8), i;

	for (i = 0; i < n && c + i < w->clusters; i++) {
		uint64_t off = (c + i) * w->cs, len = w->size - off < w->cs ? w->size - off : w->cs;
		uint64_t kind = rnd_below(8);

		if (kind == 0) {
			ok(qcow2_set_zero(w->img, off, len, err));
			memset(w->now + off, 0, len);
			/* it keeps its place: later data is in place of data that is durable */
		} else if (kind == 1 && !w->plain[c + i] && !w->was_plain[c + i]) {
			stamp(w->now + off, off, len, gen);
			engine_write(w->img, off, w->now + off, len);
			w->plain[c + i] = 1;
		} else {
			/* compressed: over whatever was there, durable or not */
			memset(w->now + off, (int)gen, len);
			stamp(w->now + off, off, 8 + rnd_below(len / 2), gen);
			if (put_cluster(w->img, off, w->now + off, len))
				w->plain[c + i] = 0;
			else
				fail_msg("does not compress");
		}
	}
}

static void look(const char *path, const struct world *w, bool may_be_none)
{
	struct qcow2_check_report rep;
	struct qcow2_image *img = NULL;
	struct qcow2_error e;
	uint8_t *buf = malloc(w->size);
	uint64_t off, len;

	assert_non_null(buf);
	if (qcow2_open(path, 0, &img, &e)) {
		if (!may_be_none || !strstr(e.msg, "no qcow2 image"))
			fail_msg("after a crash: %s", e.msg);
		free(buf);
		return;
	}
	ok(qcow2_check(img, 0, &rep, err));
	if (rep.corruptions)
		fail_msg("after a crash: %llu corruptions: %s", (unsigned long long)rep.corruptions, rep.first);
	ok(qcow2_read(img, 0, buf, w->size, err));
	for (off = 0; off < w->size; off += len) {
		len = w->size - off < w->cs ? w->size - off : w->cs;
		if (memcmp(buf + off, w->now + off, len) && memcmp(buf + off, w->flushed + off, len))
			fail_msg("after a crash: cluster at %llu is neither old nor new", (unsigned long long)off);
	}
	free(buf);
	qcow2_close(img);
}

static void crashes_of(uint32_t cs, uint64_t size, unsigned int type)
{
	char path[512];
	struct world w = { .size = size, .cs = cs, .clusters = (size + cs - 1) / cs };
	unsigned int r, k;
	char crashed[512];

	snprintf(path, sizeof(path), "%s", scratch("crash.qcow2"));
	snprintf(crashed, sizeof(crashed), "%s", scratch("crashed.qcow2"));
	w.now = calloc(1, size);
	w.flushed = calloc(1, size);
	w.plain = calloc(1, w.clusters);
	w.was_plain = calloc(1, w.clusters);
	assert_true(w.now && w.flushed && w.plain && w.was_plain);
	write_file(path, "", 0);
	record_start(path);
	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = size, .cluster_size = cs,
			.compression = type }, &w.img, err));
	for (r = 0; r < 5; r++) {
		size_t from = record_ops(), to;

		for (k = 0; k < 12; k++)
			step(&w, r * 1000 + k + 1);
		ok(qcow2_flush(w.img, err));
		to = record_ops();
		for (k = 0; k < 40; k++) {
			size_t end = to - from < 12 ? to - from : 12;

			record_crash(k & 1 ? to - rnd_below(end) : from + rnd_below(to - from + 1), crashed);
			look(crashed, &w, !r);
		}
		memcpy(w.flushed, w.now, size);
		memcpy(w.was_plain, w.plain, w.clusters);
	}
	qcow2_close(w.img);
	record_stop();
	check_clean(path);
	same_as_raw(path, w.now, size);
	free(w.now);
	free(w.flushed);
	free(w.plain);
	free(w.was_plain);
}

static void crashes(void **state)
{
	(void)state;
	rnd_seed(64);
	crashes_of(512, 200 * KIB + 512, QCOW2_COMPRESSION_DEFLATE);
	crashes_of(4096, 700 * KIB + 1024, QCOW2_COMPRESSION_ZSTD);
	crashes_of(65536, 3 * MIB + 512, QCOW2_COMPRESSION_DEFLATE);
	crashes_of(65536, 3 * MIB + 512, QCOW2_COMPRESSION_ZSTD);
}

/* each write or sync in turn fails: the image is sound, and what was durable is there */
static void any_call_fails(void **state)
{
	const char *path = scratch("fails.qcow2");
	uint64_t size = 256 * KIB, off;
	uint8_t *ref = malloc(size), buf[4096], out[4096];
	unsigned int n, fired = 0;

	(void)state;
	rnd_seed(65);
	assert_non_null(ref);
	for (n = 0; n < 80; n++) {
		struct qcow2_check_report rep;
		struct qcow2_image *img = NULL;
		struct qcow2_error e;
		int ret = 0;

		ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = size, .cluster_size = 4096,
				.compression = n & 1 }, &img, err));
		for (off = 0; off < size; off += 4096) {
			memset(ref + off, (int)(off >> 12) + 1, 4096);
			put_cluster(img, off, ref + off, 4096);
		}
		ok(qcow2_flush(img, err));
		record_fail(n, n & 2 ? EIO : ENOSPC);
		for (off = 0; !ret && off < size; off += 4096) {
			size_t len = 0;

			memset(buf, (int)(off >> 12) + 101, 4096);
			ok(qcow2_compress(n & 1, 0, buf, sizeof(buf), out, &len));
			ret = qcow2_write_compressed(img, off, out, len, &e);
		}
		if (!ret || n & 4)
			ret = qcow2_flush(img, &e);
		fired += record_failed();
		record_fail(0, 0);
		qcow2_close(img);
		ok(qcow2_open(path, QCOW2_OPEN_WRITE, &img, err));
		ok(qcow2_check(img, 0, &rep, err));
		if (rep.corruptions)
			fail_msg("round %u: %llu corruptions: %s", n, (unsigned long long)rep.corruptions, rep.first);
		for (off = 0; off < size; off += 4096) {
			ok(qcow2_read(img, off, buf, 4096, err));
			for (unsigned int i = 1; i < 4096; i++)
				assert_int_equal(buf[i], buf[0]);
			if (buf[0] != (uint8_t)((off >> 12) + 1) && buf[0] != (uint8_t)((off >> 12) + 101))
				fail_msg("round %u: cluster at %llu is 0x%02x", n, (unsigned long long)off, buf[0]);
			put_cluster(img, off, ref + off, 4096);
		}
		ok(qcow2_flush(img, err));
		same_content(img, ref, size);
		qcow2_close(img);
	}
	printf("# %u of %u rounds had a failure\n", fired, n);
	assert_true(fired > n / 2);
	free(ref);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ours_read_by_qemu),
		cmocka_unit_test(theirs_read_by_us),
		cmocka_unit_test(many_in_a_cluster),
		cmocka_unit_test(durable_is_left_alone),
		cmocka_unit_test(arguments),
		cmocka_unit_test(threads),
		cmocka_unit_test(bad_frames),
		cmocka_unit_test(crashes),
		cmocka_unit_test(any_call_fails),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("qcow2-compress", tests, scratch_setup, scratch_teardown);
}
