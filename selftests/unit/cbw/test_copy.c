// SPDX-License-Identifier: GPL-2.0-or-later
/* the engine, on files: a full image, an increment, a restore, failures */
#include <fcntl.h>
#include <unistd.h>

#include "common.h"
#include "copy.h"
#include "engine.h"
#include "qcow2.h"

#define SIZE	(5u * 1024 * 1024 + 512 * 3)
#define CHUNK	65536u

static char top[] = "/tmp/cbw-unit-XXXXXX";
static char *released;		/* one byte per sector */

static char *path_of(const char *name)
{
	return path_in(top, name);
}

static int release(void *arg, const struct ranges *r, struct cbw_error *err)
{
	size_t i;

	(void)arg;
	(void)err;
	for (i = 0; i < r->nr; i++) {
		uint64_t end = r->v[i].offset + r->v[i].length, at;

		assert_int_equal(r->v[i].offset % CHUNK, 0);
		assert_true(!(end % CHUNK) || end == SIZE);
		for (at = r->v[i].offset; at < end; at += 512)
			assert_int_equal(released[at / 512]++, 0);
	}
	return 0;
}

static void make(char *data, unsigned int seed)
{
	size_t i;

	srand(seed);
	for (i = 0; i < SIZE; i += 512) {
		size_t len = SIZE - i < 512 ? SIZE - i : 512, k;

		if (i / 262144 % 3 == 1 || !(rand() % 50)) {
			memset(data + i, 0, len);
			continue;
		}
		for (k = 0; k < len; k++)
			data[i + k] = (char)rand();
	}
}

static void put(const char *path, const char *data, size_t len)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write_all(fd, data, len), 0);
	close(fd);
}

static int copy(const char *src, const char *image, const char *backing,
		uint32_t cluster, const struct ranges *r, struct copy *c,
		struct cbw_error *err)
{
	struct qcow2_create_opts o = {
		.virtual_size = SIZE,
		.cluster_size = cluster,
		.backing_file = backing,
		.backing_format = backing ? "qcow2" : NULL,
	};
	struct qcow2_error qerr;
	int ret;

	*c = (struct copy){ .name = "v", .target = image, .size = SIZE,
		.ranges = r, .chunk = CHUNK, .backed = backing,
		.release = release };
	assert_int_equal(qcow2_create(image, &o, &c->img, &qerr), 0);
	c->img_fd = qcow2_fd(c->img);
	c->src = open(src, O_RDONLY);
	ret = copy_run(c, err);
	if (!ret)
		assert_int_equal(qcow2_flush(c->img, &qerr), 0);
	if (!ret)
		sums_free(&c->sums);
	close(c->src);
	qcow2_close(c->img);
	return ret;
}

static void same(const char *image, const char *data)
{
	struct qcow2_check_report rep;
	struct qcow2_image *img;
	struct qcow2_error err;
	char *buf = malloc(SIZE);

	assert_int_equal(qcow2_open(image, 0, &img, &err), 0);
	assert_int_equal(qcow2_read(img, 0, buf, SIZE, &err), 0);
	assert_memory_equal(buf, data, SIZE);
	assert_int_equal(qcow2_check(img, 0, &rep, &err), 0);
	assert_int_equal(rep.corruptions + rep.leaks, 0);
	qcow2_close(img);
	free(buf);
}

/* @blank: to a new file, else over what is there, all of it or only what differs */
static void restored(const char *image, const char *data, bool blank, bool only_changed)
{
	char *name = path_of("restored"), *buf = malloc(SIZE);
	const struct sink_file_opts o = { .size = SIZE, .keep = !blank };
	struct engine e = { .what = "restore", .name = "v", .only_changed = only_changed };
	struct qcow2_image *img;
	struct qcow2_error qerr;
	struct cbw_error err;
	int fd;

	if (blank)
		unlink(name);
	assert_int_equal(qcow2_open(image, 0, &img, &qerr), 0);
	e.src = source_qcow2(image, img);
	assert_int_equal(sink_file(name, &o, &e.dst, &err), 0);
	assert_int_equal(engine_run(&e, &err), 0);
	assert_int_equal(e.dst->ops->flush(e.dst, &err), 0);
	assert_int_equal(e.copied + e.zeros + e.unchanged, SIZE);
	source_close(e.src);
	sink_close(e.dst);
	qcow2_close(img);
	fd = open(name, O_RDONLY);
	assert_int_equal(pread(fd, buf, SIZE, 0), SIZE);
	assert_memory_equal(buf, data, SIZE);
	assert_int_equal(lseek(fd, 0, SEEK_END), SIZE);
	close(fd);
	free(buf);
	if (!only_changed)
		return;
	/* what was written is what differs, to the unit */
	assert_true(e.unchanged > SIZE / 4);
	assert_true(e.copied + e.zeros > 0 && e.copied + e.zeros < SIZE / 2 + SIZE / 4);
}

static void chain(void **state)
{
	char *data = malloc(SIZE), *after = malloc(SIZE), *before = malloc(SIZE);
	const char *full = strdup(path_of("full")), *inc = strdup(path_of("inc"));
	struct ranges r = { 0 };
	struct cbw_error err;
	struct copy c;
	uint64_t at;
	size_t i;

	(void)state;
	make(data, 1);
	make(after, 2);
	memcpy(before, data, SIZE);
	put(path_of("src"), data, SIZE);
	ranges_add(&r, 0, SIZE);
	memset(released, 0, SIZE / 512 + 1);
	assert_int_equal(copy(path_of("src"), full, NULL, 65536, &r, &c, &err), 0);
	assert_int_equal(c.copied + c.zeros, SIZE);
	assert_true(c.zeros > 0);
	for (i = 0; i < SIZE / 512; i++)
		assert_int_equal(released[i], 1);
	same(full, data);
	restored(full, data, true, false);
	ranges_free(&r);
	/* some chunks change, also to zeros, also the short one at the end */
	for (at = 0; at < SIZE; at += CHUNK) {
		size_t len = SIZE - at < CHUNK ? SIZE - at : CHUNK;

		if (at / CHUNK % 4 == 1 || len < CHUNK) {
			memcpy(data + at, after + at, len);
			ranges_add(&r, at, len);
		} else if (at / CHUNK % 7 == 2) {
			memset(data + at, 0, len);
			ranges_add(&r, at, len);
		}
	}
	put(path_of("src"), data, SIZE);
	memset(released, 0, SIZE / 512 + 1);
	assert_int_equal(copy(path_of("src"), inc, "full", 4096, &r, &c, &err), 0);
	assert_int_equal(c.copied + c.zeros, ranges_total(&r));
	same(inc, data);
	/* over what is there, zeros have to be written */
	restored(inc, data, false, false);
	restored(full, before, false, false);
	restored(inc, data, false, true);
	ranges_free(&r);
	free(data);
	free(after);
	free(before);
	free((void *)full);
	free((void *)inc);
}

static int why(void *arg, uint64_t offset, int code, struct cbw_error *err)
{
	*(uint64_t *)arg = offset;
	return fail_with(err, code, "because");
}

/* The source ends early: an error, from the owner's text, and nothing hangs. */
static void short_source(void **state)
{
	char *data = malloc(SIZE);
	struct ranges r = { 0 };
	struct cbw_error err;
	struct copy c = { 0 };
	struct qcow2_create_opts o = { .virtual_size = SIZE };
	struct qcow2_error qerr;
	uint64_t where = 0;

	(void)state;
	make(data, 3);
	put(path_of("src"), data, SIZE / 2);
	ranges_add(&r, 0, SIZE);
	assert_int_equal(qcow2_create(path_of("x"), &o, &c.img, &qerr), 0);
	c.name = "v";
	c.target = "x";
	c.src = open(path_of("src"), O_RDONLY);
	c.size = SIZE;
	c.ranges = &r;
	c.chunk = CHUNK;
	c.img_fd = qcow2_fd(c.img);
	c.why = why;
	c.arg = &where;
	assert_int_equal(copy_run(&c, &err), -EUCLEAN);
	assert_string_equal(err.msg, "because");
	assert_true(where < SIZE && where + (256u << 10) > SIZE / 2);
	/* a descriptor that cannot be written */
	close(c.src);
	put(path_of("src"), data, SIZE);
	c.src = open(path_of("src"), O_RDONLY);
	c.img_fd = c.src;
	assert_int_equal(copy_run(&c, &err), -EBADF);
	assert_non_null(strstr(err.msg, "writing"));
	/* a signal */
	c.img_fd = qcow2_fd(c.img);
	stop_signal = 15;
	assert_int_equal(copy_run(&c, &err), -EINTR);
	assert_non_null(strstr(err.msg, "signal 15"));
	stop_signal = 0;
	close(c.src);
	qcow2_close(c.img);
	ranges_free(&r);
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chain),
		cmocka_unit_test(short_source),
	};
	char *cmd;
	int ret;

	if (!mkdtemp(top))
		return 1;
	released = malloc(SIZE / 512 + 1);
	ret = cmocka_run_group_tests_name("cbw engine", tests, NULL, NULL);
	free(released);
	cmd = xasprintf("rm -r %s", top);
	if (system(cmd))
		ret = 1;
	free(cmd);
	return ret;
}
