// SPDX-License-Identifier: GPL-2.0-or-later
/* the engine between all its sources and sinks: content, holes, compression, what cannot be read */
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "crc.h"
#include "engine.h"
#include "qcow2.h"
#include "stream.h"

#define SIZE	(9u * 1024 * 1024 + 512 * 5)
#define CLUSTER	65536u

static const char *top;
static char *data, *back;

static const char *path_of(const char *name)
{
	static char ring[4][128];
	static int at;
	char *p = ring[at++ % 4];

	snprintf(p, sizeof(ring[0]), "%s/%s", top, name);
	return p;
}

/* Data that compresses, data that does not, zeros of all lengths; sectors say where they are. */
static void make(void)
{
	size_t i;

	for (i = 0; i < SIZE; i += 512) {
		unsigned int kind = (unsigned int)(i / 8192 * 2654435761u) >> 29;

		memset(data + i, 0, 512);
		if (kind < 3 || i / 1048576 == 4)
			continue;
		memcpy(data + i, &i, sizeof(i));
		if (kind < 6)
			memset(data + i + 8, (int)i / 512, 300);
		else
			for (size_t k = 8; k < 512; k++)
				data[i + k] = (char)rand();
	}
}

/* With holes where there are zeros of 4 KiB, so that SEEK_HOLE has something to say. */
static void put_sparse(const char *path)
{
	static const char zeros[4096];
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
	size_t at;

	assert_true(fd >= 0);
	for (at = 0; at < SIZE; at += 4096) {
		size_t len = SIZE - at < 4096 ? SIZE - at : 4096;

		if (memcmp(data + at, zeros, len))
			assert_int_equal(pwrite(fd, data + at, len, (off_t)at), len);
	}
	assert_int_equal(ftruncate(fd, SIZE), 0);
	close(fd);
}

static void is_equal(const char *path)
{
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0);
	memset(back, 0x55, SIZE);
	assert_int_equal(lseek(fd, 0, SEEK_END), SIZE);
	assert_int_equal(pread(fd, back, SIZE, 0), SIZE);
	assert_memory_equal(back, data, SIZE);
	close(fd);
}

static void image_is_equal(const char *path)
{
	struct qcow2_check_report rep;
	struct qcow2_image *img;

	assert_int_equal(qcow2_open(path, 0, &img, NULL), 0);
	assert_int_equal(qcow2_size(img), SIZE);
	assert_int_equal(qcow2_read(img, 0, back, SIZE, NULL), 0);
	assert_memory_equal(back, data, SIZE);
	assert_int_equal(qcow2_check(img, 0, &rep, NULL), 0);
	assert_int_equal(rep.corruptions + rep.leaks, 0);
	qcow2_close(img);
}

static struct qcow2_image *new_image(const char *path, uint32_t cluster, unsigned int type,
				     struct sink **dst, int level)
{
	const struct qcow2_create_opts o = {
		.virtual_size = SIZE, .cluster_size = cluster, .compression = type,
	};
	struct qcow2_image *img;
	struct qcow2_error err;

	if (qcow2_create(path, &o, &img, &err))
		fail_msg("%s", err.msg);
	*dst = sink_qcow2(path, img, qcow2_fd(img), false, level);
	return img;
}

static struct engine begin(const char *src, const char *format)
{
	struct engine e = { .what = "copy", .name = "x" };
	struct cbw_error err;

	assert_int_equal(source_open(src, format, 2, &e.src, &err), 0);
	assert_int_equal(e.src->size, SIZE);
	return e;
}

static void go(struct engine *e)
{
	struct cbw_error err;

	if (engine_run(e, &err) || e->dst->ops->flush(e->dst, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(e->copied + e->zeros + e->unchanged, SIZE);
	source_close(e->src);
	sink_close(e->dst);
}

static void to_raw(const char *src, const char *format, uint64_t hole)
{
	const struct sink_file_opts o = { .size = SIZE, .force = true };
	struct engine e = begin(src, format);
	struct cbw_error err;
	struct stat st;

	assert_int_equal(sink_file(path_of("raw"), &o, &e.dst, &err), 0);
	go(&e);
	is_equal(path_of("raw"));
	assert_int_equal(stat(path_of("raw"), &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 <= SIZE - hole + CLUSTER);
}

/* As test of what the engine sums up: the definition, over what the image has. */
static void sums_are_right(const char *path, const struct sums *s)
{
	struct qcow2_image *img;
	struct sums want;
	uint64_t at;

	sums_init(&want, SIZE);
	assert_int_equal(qcow2_open(path, 0, &img, NULL), 0);
	for (at = 0; at < SIZE; at += CLUSTER) {
		struct qcow2_run run;
		size_t len = SIZE - at < CLUSTER ? SIZE - at : CLUSTER;

		assert_int_equal(qcow2_map_layer(img, 0, at, len, &run, NULL), 0);
		if (run.type != QCOW2_RUN_DATA && run.type != QCOW2_RUN_COMPRESSED)
			continue;
		memset(back, 0, CLUSTER);
		assert_int_equal(qcow2_read(img, at, back, len, NULL), 0);
		sums_add(&want, at, crc_cluster(0, at, back, CLUSTER), CRC_CLUSTER_BYTES(CLUSTER));
	}
	qcow2_close(img);
	assert_int_equal(s->nr, want.nr);
	assert_int_equal(s->total, want.total);
	assert_memory_equal(s->crc, want.crc, want.nr * sizeof(*want.crc));
	sums_free(&want);
}

/* Raw to images of all kinds, and back. */
static void images(void **state)
{
	static const struct {
		uint32_t cluster;
		int level;
	} kind[] = { { CLUSTER, 0 }, { CLUSTER, 3 }, { 4096, 0 }, { 4096, 1 }, { 1u << 20, 0 },
		     { 1u << 20, 9 }, { CLUSTER, 19 } };
	size_t i;

	(void)state;
	put_sparse(path_of("src"));
	for (i = 0; i < sizeof(kind) / sizeof(kind[0]); i++) {
		struct engine e = begin(path_of("src"), "raw");
		struct sums sums;
		struct qcow2_image *img;
		struct qcow2_check_report rep;

		img = new_image(path_of("img.qcow2"), kind[i].cluster, kind[i].level ?
				QCOW2_COMPRESSION_ZSTD : 0, &e.dst, kind[i].level);
		sums_init(&sums, SIZE);
		e.sums = &sums;
		go(&e);
		qcow2_close(img);
		image_is_equal(path_of("img.qcow2"));
		if (kind[i].cluster == CLUSTER)
			sums_are_right(path_of("img.qcow2"), &sums);
		sums_free(&sums);
		assert_int_equal(qcow2_open(path_of("img.qcow2"), 0, &img, NULL), 0);
		assert_int_equal(qcow2_check(img, 0, &rep, NULL), 0);
		assert_true(!kind[i].level == !rep.compressed_clusters);
		qcow2_close(img);
		/* the hole of a megabyte is one */
		to_raw(path_of("img.qcow2"), NULL, 1u << 20);
	}
	to_raw(path_of("src"), NULL, 1u << 20);
}

/* Small clusters into large ones, over a chain: several runs meet in one unit. */
static void chains(void **state)
{
	const struct qcow2_create_opts o = {
		.virtual_size = SIZE, .cluster_size = 512, .backing_file = "low.qcow2",
		.backing_format = "qcow2",
	};
	struct qcow2_image *img;
	struct engine e;
	unsigned int i;

	(void)state;
	put_sparse(path_of("src"));
	e = begin(path_of("src"), "raw");
	img = new_image(path_of("low.qcow2"), CLUSTER, 0, &e.dst, 0);
	go(&e);
	qcow2_close(img);
	assert_int_equal(qcow2_create(path_of("up.qcow2"), &o, &img, NULL), 0);
	for (i = 0; i < 400; i++) {
		size_t at = (size_t)rand() % (SIZE - 8192) / 512 * 512, len = (size_t)(rand() % 12 + 1) * 512;

		if (rand() % 3)
			memset(data + at, rand() | 1, len);
		else
			memset(data + at, 0, len);
		assert_int_equal(qcow2_write(img, at, data + at, len, NULL), 0);
	}
	assert_int_equal(qcow2_flush(img, NULL), 0);
	qcow2_close(img);
	to_raw(path_of("up.qcow2"), NULL, 0);
	e = begin(path_of("up.qcow2"), NULL);
	img = new_image(path_of("one.qcow2"), CLUSTER, QCOW2_COMPRESSION_ZSTD, &e.dst, 3);
	go(&e);
	qcow2_close(img);
	image_is_equal(path_of("one.qcow2"));
	make();
}

static int stream_to(const char *path, const char *out)
{
	const struct sink_file_opts o = { .size = SIZE, .force = true };
	struct stream_in in;
	struct cbw_error err;
	struct sink *dst;
	int fd = open(path, O_RDONLY), ret = stream_open(&in, fd, &err);

	if (!ret) {
		assert_int_equal(in.size, SIZE);
		assert_int_equal(sink_file(out, &o, &dst, &err), 0);
		ret = stream_restore(&in, dst, &err);
		sink_close(dst);
	}
	close(fd);
	return ret;
}

/* A stream comes back; cut short or with a flipped bit anywhere it is refused. */
static void streams(void **state)
{
	struct engine e;
	off_t len;
	int fd, i;

	(void)state;
	put_sparse(path_of("src"));
	e = begin(path_of("src"), NULL);
	fd = open(path_of("stream"), O_CREAT | O_TRUNC | O_RDWR, 0600);
	e.dst = sink_stream(fd, SIZE);
	go(&e);
	assert_int_equal(stream_to(path_of("stream"), path_of("raw")), 0);
	is_equal(path_of("raw"));
	len = lseek(fd, 0, SEEK_END);
	for (i = 0; i < 60; i++) {
		off_t at = i < 30 ? i : i < 50 ? len - 1 - (i - 30) : rand() % len;
		char byte, bad;

		/* the volume's size can be anything; it is judged by what it is used for */
		if (at >= 13 && at < 21)
			continue;
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		bad = (char)(byte ^ 1 << rand() % 8);
		assert_int_equal(pwrite(fd, &bad, 1, at), 1);
		assert_int_equal(stream_to(path_of("stream"), path_of("raw")), -EUCLEAN);
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	for (i = 0; i < 40; i++) {
		assert_int_equal(ftruncate(fd, i < 20 ? len - 1 - i : rand() % len), 0);
		assert_int_equal(stream_to(path_of("stream"), path_of("raw")), -EUCLEAN);
		/* only shorter each time: what is behind is zeros, which are no record either */
	}
	close(fd);
}

/* qemu-nbd for @file; @clients: at once. It ends with the last of them that leaves. */
static void serve(const char *file, int clients, const char *sock)
{
	char *cmd = xasprintf("qemu-nbd --fork -e %d -f raw --discard=unmap --detect-zeroes=off -k %s %s",
			      clients, sock, file);

	assert_int_equal(system(cmd), 0);
	free(cmd);
}

/* From one server to another; to one that takes a single client; over what is there. */
static void servers(void **state)
{
	char *from = xasprintf("nbd+unix:///?socket=%s/a", top), *to = xasprintf("nbd+unix:///?socket=%s/b", top);
	const uint64_t full = (SIZE + 511) / 512 * 512;
	struct cbw_error err;
	struct engine e;
	int round, fd;

	(void)state;
	assert_int_equal(full, SIZE);
	put_sparse(path_of("src"));
	for (round = 0; round < 3; round++) {
		fd = open(path_of("raw"), O_CREAT | O_TRUNC | O_RDWR, 0600);
		/* garbage that zeros have to replace, or that is right already */
		memset(back, 0x77, SIZE);
		assert_int_equal(pwrite(fd, round == 2 ? data : back, SIZE, 0), SIZE);
		if (round == 2)
			assert_int_equal(pwrite(fd, back, 4096, 3 * 65536), 4096);
		close(fd);
		serve(path_of("src"), round ? 4 : 1, path_of("a"));
		serve(path_of("raw"), round ? 4 : 1, path_of("b"));
		e = begin(from, NULL);
		assert_int_equal(sink_nbd(to, SIZE + 512, 2, &e.dst, &err), -ENOSPC);
		/* it went with that client */
		serve(path_of("raw"), round ? 4 : 1, path_of("b"));
		if (sink_nbd(to, SIZE, 2, &e.dst, &err))
			fail_msg("%s", err.msg);
		e.only_changed = round == 2;
		go(&e);
		assert_true(round != 2 || e.unchanged == SIZE - 65536);
		is_equal(path_of("raw"));
	}
	/* nobody is there */
	unlink(path_of("a"));
	assert_true(source_nbd(from, 2, &e.src, &err) < 0);
	assert_non_null(strstr(err.msg, "connecting"));
	free(from);
	free(to);
}

struct gone {
	uint64_t bytes;
	unsigned int nr;
};

static void lost(void *arg, uint64_t offset, uint64_t length, const char *why)
{
	struct gone *g = arg;

	assert_true(offset + length <= SIZE);
	assert_non_null(why);
	memset(data + offset, 0, length);
	g->bytes += length;
	g->nr++;
}

/* An image with clusters that cannot be read: an error, or with salvage all the rest. */
static void salvage(void **state)
{
	const struct sink_file_opts o = { .size = SIZE, .force = true };
	struct gone gone = { 0 };
	struct cbw_error err;
	struct qcow2_image *img;
	struct qcow2_run run;
	struct engine e;
	uint64_t at;
	int fd, hit = 0;

	(void)state;
	put_sparse(path_of("src"));
	e = begin(path_of("src"), "raw");
	img = new_image(path_of("img.qcow2"), CLUSTER, QCOW2_COMPRESSION_ZSTD, &e.dst, 3);
	go(&e);
	qcow2_close(img);
	/* no zstd frame any more, in two of them; and the last one is cut off */
	assert_int_equal(qcow2_open(path_of("img.qcow2"), 0, &img, NULL), 0);
	fd = open(path_of("img.qcow2"), O_RDWR);
	for (at = 0; at < SIZE && hit < 2; at += 3 * CLUSTER) {
		assert_int_equal(qcow2_map(img, at, CLUSTER, &run, NULL), 0);
		if (run.type != QCOW2_RUN_COMPRESSED)
			continue;
		for (off_t host = CLUSTER; host < (off_t)lseek(fd, 0, SEEK_END); host++) {
			static const unsigned char magic[4] = { 0x28, 0xb5, 0x2f, 0xfd };
			unsigned char got[4];

			if (pread(fd, got, 4, host) == 4 && !memcmp(got, magic, 4)) {
				assert_int_equal(pwrite(fd, "XXXX", 4, host), 4);
				hit++;
				break;
			}
		}
	}
	qcow2_close(img);
	close(fd);
	assert_int_equal(hit, 2);
	e = begin(path_of("img.qcow2"), NULL);
	assert_int_equal(sink_file(path_of("raw"), &o, &e.dst, &err), 0);
	assert_int_equal(engine_run(&e, &err), -EUCLEAN);
	sink_close(e.dst);
	assert_int_equal(sink_file(path_of("raw"), &o, &e.dst, &err), 0);
	e.salvage = true;
	e.lost = lost;
	e.arg = &gone;
	go(&e);
	assert_int_equal(gone.bytes, 2 * CLUSTER);
	assert_int_equal(e.unreadable, gone.bytes);
	is_equal(path_of("raw"));
	make();
}

static int no_more(void *arg, struct cbw_error *err)
{
	(void)arg;
	return fail_with(err, ECANCELED, "no more");
}

/* What ends a copy early: a check, a signal, a target that is full. */
static void ends(void **state)
{
	const struct sink_file_opts o = { .size = SIZE, .force = true };
	struct engine e;
	struct cbw_error err;
	int fd;

	(void)state;
	put_sparse(path_of("src"));
	e = begin(path_of("src"), "raw");
	assert_int_equal(sink_file(path_of("raw"), &o, &e.dst, &err), 0);
	e.check = no_more;
	/* slow enough that it is asked */
	e.rate = 4u << 20;
	assert_int_equal(engine_run(&e, &err), -ECANCELED);
	assert_string_equal(err.msg, "no more");
	e.check = NULL;
	stop_signal = 2;
	assert_int_equal(engine_run(&e, &err), -EINTR);
	stop_signal = 0;
	e.rate = 0;
	sink_close(e.dst);
	fd = open("/dev/full", O_WRONLY);
	e.dst = sink_stream(fd, SIZE);
	assert_int_equal(engine_run(&e, &err), -ENOSPC);
	sink_close(e.dst);
	close(fd);
	/* the source becomes shorter: an error, and not zeros */
	assert_int_equal(sink_file(path_of("raw"), &o, &e.dst, &err), 0);
	assert_int_equal(truncate(path_of("src"), SIZE / 2 / 4096 * 4096), 0);
	assert_int_equal(engine_run(&e, &err), -EUCLEAN);
	sink_close(e.dst);
	source_close(e.src);
}

#define CHECKERED	(160u << 20)

/* Each other block of 4 KiB is data: as many writes as a piece can have, also of the longest. */
static void checkered(void **state)
{
	const struct sink_file_opts o = { .size = CHECKERED, .force = true };
	static char block[8192], got[8192];
	struct engine e = { .what = "copy", .name = "x" };
	struct qcow2_create_opts c = { .virtual_size = CHECKERED, .cluster_size = 4096 };
	struct qcow2_image *img;
	struct cbw_error err;
	uint64_t at;
	int fd, round;

	(void)state;
	fd = open(path_of("board"), O_CREAT | O_TRUNC | O_RDWR, 0600);
	for (at = 0; at < CHECKERED; at += sizeof(block)) {
		memset(block, (int)(at >> 13) | 1, 4096);
		memcpy(block, &at, sizeof(at));
		assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
	}
	close(fd);
	for (round = 0; round < 2; round++) {
		assert_int_equal(source_open(path_of("board"), "raw", 2, &e.src, &err), 0);
		if (round) {
			assert_int_equal(qcow2_create(path_of("board.qcow2"), &c, &img, NULL), 0);
			e.dst = sink_qcow2("board.qcow2", img, qcow2_fd(img), false, 0);
		} else {
			assert_int_equal(sink_file(path_of("raw"), &o, &e.dst, &err), 0);
			e.dst->unit = e.dst->zero_min = 4096;
		}
		if (engine_run(&e, &err) || e.dst->ops->flush(e.dst, &err))
			fail_msg("%s", err.msg);
		assert_int_equal(e.copied, CHECKERED / 2);
		source_close(e.src);
		sink_close(e.dst);
		fd = round ? -1 : open(path_of("raw"), O_RDONLY);
		for (at = 0; at < CHECKERED; at += sizeof(block)) {
			memset(block, (int)(at >> 13) | 1, 4096);
			memcpy(block, &at, sizeof(at));
			if (round)
				assert_int_equal(qcow2_read(img, at, got, sizeof(got), NULL), 0);
			else
				assert_int_equal(pread(fd, got, sizeof(got), (off_t)at), sizeof(got));
			if (memcmp(got, block, sizeof(got)))
				fail_msg("round %d: at %llu", round, (ull)at);
		}
		if (round)
			qcow2_close(img);
		else
			close(fd);
	}
}

/* A target that is kept and longer stays so; what the source reads is known, all the way down. */
static void kept(void **state)
{
	const struct sink_file_opts o = { .size = SIZE, .keep = true };
	const struct qcow2_create_opts c = {
		.virtual_size = SIZE, .backing_file = "src", .backing_format = "raw",
	};
	struct qcow2_image *img;
	struct cbw_error err;
	struct engine e;
	struct stat st;

	(void)state;
	put_sparse(path_of("src"));
	put_sparse(path_of("raw"));
	assert_int_equal(truncate(path_of("raw"), 2 * SIZE), 0);
	e = begin(path_of("src"), NULL);
	assert_int_equal(sink_file(path_of("raw"), &o, &e.dst, &err), 0);
	assert_false(e.dst->made);
	e.only_changed = true;
	go(&e);
	assert_int_equal(e.unchanged, SIZE);
	assert_int_equal(stat(path_of("raw"), &st), 0);
	assert_int_equal(st.st_size, 2 * SIZE);
	assert_int_equal(qcow2_create(path_of("over.qcow2"), &c, &img, NULL), 0);
	assert_int_equal(qcow2_flush(img, NULL), 0);
	qcow2_close(img);
	e = begin(path_of("over.qcow2"), NULL);
	assert_false(source_uses(e.src, &st));
	assert_int_equal(stat(path_of("src"), &st), 0);
	assert_true(source_uses(e.src, &st));
	source_close(e.src);
}

static bool has(const struct ranges *r, uint64_t at)
{
	size_t i;

	for (i = 0; i < r->nr; i++)
		if (at >= r->v[i].offset && at < r->v[i].offset + r->v[i].length)
			return true;
	return false;
}

/* Each sector by itself: data stays data, zero is zero only where all of the unit is. */
static void aligned(void **state)
{
	unsigned int round;

	(void)state;
	for (round = 0; round < 300; round++) {
		uint64_t size = (uint64_t)(rand() % 400 + 1) * 512, at = 0, unit = 512u << rand() % 6;
		struct ranges d = { 0 }, z = { 0 };
		char kind[400] = { 0 };

		while (at < size) {
			uint64_t len = (uint64_t)(rand() % 40 + 1) * 512;
			int k = rand() % 3;

			if (len > size - at)
				len = size - at;
			if (k)
				ranges_add(k == 1 ? &d : &z, at, len);
			memset(kind + at / 512, k, len / 512);
			at += len;
		}
		ranges_align(&d, &z, unit, size);
		for (at = 0; at < size; at += 512) {
			uint64_t from = at / unit * unit, to = from + unit < size ? from + unit : size;
			bool all_zero = true, any = false;

			for (uint64_t i = from; i < to; i += 512) {
				all_zero &= kind[i / 512] == 2;
				any |= kind[i / 512] != 0;
			}
			assert_int_equal(has(&z, at), all_zero);
			assert_int_equal(has(&d, at), any && !all_zero);
		}
		ranges_free(&d);
		ranges_free(&z);
	}
}

/* Each test on a disk, and in memory, which goes another way. */
static int in_dir(void **state)
{
	top = *state;
	return 0;
}

#define BOTH(test) \
	cmocka_unit_test_prestate_setup_teardown(test, in_dir, NULL, disk), \
	cmocka_unit_test_prestate_setup_teardown(test, in_dir, NULL, memory)

int main(void)
{
	static char disk[] = "/var/tmp/cbw-unit.XXXXXX", memory[] = "/dev/shm/cbw-unit.XXXXXX";
	const struct CMUnitTest tests[] = {
		BOTH(images),
		BOTH(chains),
		BOTH(streams),
		BOTH(servers),
		BOTH(salvage),
		BOTH(ends),
		BOTH(checkered),
		BOTH(kept),
		BOTH(aligned),
	};
	unsigned int seed = (unsigned int)time(NULL);
	char *cmd;
	int ret;

	print_message("# seed %u\n", seed);
	srand(seed);
	if (!mkdtemp(disk) || !mkdtemp(memory))
		return 1;
	data = malloc(SIZE + 4096);
	back = malloc(SIZE + 4096);
	make();
	ret = cmocka_run_group_tests_name("cbw engine", tests, NULL, NULL);
	free(data);
	free(back);
	cmd = xasprintf("rm -r %s %s", disk, memory);
	if (system(cmd))
		ret = 1;
	free(cmd);
	return ret;
}
