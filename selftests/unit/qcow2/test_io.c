// SPDX-License-Identifier: GPL-2.0-or-later
/* Where the file ends: block devices, full and failing files; several threads */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common.h"

static char loops[4][64];
static unsigned int nr_loops;

/* a loop device over @len bytes of garbage, or NULL where there is none to be had */
static const char *loop_add(const char *name, size_t len)
{
	char *d = loops[nr_loops], cmd[700];
	uint8_t *junk = malloc(len);
	FILE *p;

	assert_non_null(junk);
	assert_true(nr_loops < 4);
	memset(junk, 0xfb, len);
	write_file(scratch(name), junk, len);
	free(junk);
	snprintf(cmd, sizeof(cmd), "losetup -f --show '%s' 2>/dev/null", scratch(name));
	p = popen(cmd, "r");
	assert_non_null(p);
	if (!fgets(d, sizeof(loops[0]), p))
		*d = '\0';
	pclose(p);
	d[strcspn(d, "\n")] = '\0';
	nr_loops += *d != '\0';
	return *d ? d : NULL;
}

static int teardown(void **state)
{
	while (nr_loops)
		(void)run("losetup -d %s", loops[--nr_loops]);
	return scratch_teardown(state);
}

static void block_devices(void **state)
{
	const char *dev = loop_add("dev", 24 * MIB), *base;
	uint64_t size = 5 * MIB + 512;
	struct qcow2_create_opts o = { .virtual_size = size, .backing_format = "raw" };
	struct qcow2_image *img = NULL, *other = NULL;
	struct qcow2_layer l;
	struct qcow2_error e;
	uint64_t host, got, off;
	uint8_t *ref = calloc(1, size);
	unsigned int i;
	int ret;

	(void)state;
	if (!dev) {
		print_message("no loop device to be had: not tested\n");
		free(ref);
		skip();
	}
	assert_non_null(ref);
	rnd_seed(41);
	base = loop_add("base", 3 * MIB);
	assert_non_null(base);
	memset(ref, 0xfb, 3 * MIB);
	o.backing_file = base;
	ok(qcow2_create(dev, &o, &img, err));
	assert_int_equal(qcow2_get_layer(img, 1, &l), 0);
	assert_int_equal(l.file_size, 3 * MIB);
	for (i = 0; i < 60; i++)
		random_step(img, ref, size, i + 1);
	ok(qcow2_flush(img, err));
	same_content(img, ref, size);
	qcow2_close(img);
	check_clean(dev);
	/* on with what is there: the end of what is used is found again */
	for (i = 0; i < 3; i++) {
		ok(qcow2_open(dev, QCOW2_OPEN_WRITE, &img, err));
		random_step(img, ref, size, i + 100);
		random_step(img, ref, size, i + 200);
		ok(qcow2_flush(img, err));
		qcow2_close(img);
		check_clean(dev);
	}
	ok(qcow2_open(dev, 0, &img, err));
	same_content(img, ref, size);
	qcow2_close(img);

	/* an image that was there is gone at once; a device too small says so */
	o = (struct qcow2_create_opts){ .virtual_size = 100 * MIB };
	ok(qcow2_create(dev, &o, &img, err));
	assert_int_equal(qcow2_open(dev, 0, &other, &e), -EUCLEAN);
	for (off = 0, ret = 0; !ret; off += got)
		ret = qcow2_alloc_write(img, off, 100 * MIB - off, &host, &got, &e);
	assert_int_equal(ret, -ENOSPC);
	assert_non_null(strstr(e.msg, "no room for"));
	assert_true(off > 23 * MIB);
	qcow2_close(img);
	o.cluster_size = 2 * MIB;
	assert_int_equal(qcow2_create(base, &o, &img, &e), -ENOSPC);
	free(ref);
}

/* the device ends where the refcount table must move: refused, what was durable stays */
static void no_room_for_the_refcount_table(void **state)
{
	uint64_t size = 16 * MIB, half = 4 * MIB, off, host, got;
	const char *dev = loop_add("full", 8 * MIB + 1024);
	uint8_t *ref = calloc(1, size);
	struct qcow2_image *img = NULL;
	struct qcow2_error e;
	int ret = 0;

	(void)state;
	if (!dev) {
		print_message("no loop device to be had: not tested\n");
		free(ref);
		skip();
	}
	rnd_seed(44);
	assert_non_null(ref);
	stamp(ref, 0, half, 1);
	ok(qcow2_create(dev, &(struct qcow2_create_opts){ .virtual_size = size, .cluster_size = 512 }, &img, err));
	engine_write(img, 0, ref, half);
	ok(qcow2_flush(img, err));
	for (off = half; !ret; off += got)
		ret = qcow2_alloc_write(img, off, size - off, &host, &got, &e);
	assert_int_equal(ret, -ENOSPC);
	assert_int_equal(qcow2_flush(img, &e), -ESHUTDOWN);
	assert_int_equal(qcow2_alloc_write(img, 0, 512, &host, &got, &e), -ESHUTDOWN);
	qcow2_close(img);
	ok(qcow2_open(dev, 0, &img, err));
	same_content(img, ref, size);
	qcow2_close(img);
	run_ok("qemu-img check -q -f qcow2 '%s'; test $? = 0 -o $? = 3", dev);
	free(ref);
}

/* a flush that fails is the last word; what was durable stays */
static void failing_flush(void **state)
{
	struct rlimit old, low;
	const char *path = scratch("limit.qcow2");
	uint8_t *ref = calloc(1, 8 * MIB);
	struct qcow2_image *img = NULL;
	struct qcow2_error e;
	uint64_t host, got;

	(void)state;
	rnd_seed(42);
	assert_non_null(ref);
	stamp(ref, 0, MIB, 1);
	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = 8 * MIB }, &img, err));
	engine_write(img, 0, ref, MIB);
	ok(qcow2_flush(img, err));
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	low = old;
	low.rlim_cur = 2 * MIB;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
	assert_int_equal(qcow2_write(img, MIB, ref, MIB, &e), -EFBIG);
	ok(qcow2_alloc_write(img, 2 * MIB, MIB, &host, &got, err));
	assert_int_equal(qcow2_flush(img, &e), -EFBIG);
	assert_non_null(strstr(e.msg, "limit.qcow2: cannot extend the file"));
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(qcow2_flush(img, &e), -ESHUTDOWN);
	assert_int_equal(qcow2_write(img, 0, ref, 1, &e), -ESHUTDOWN);
	assert_int_equal(qcow2_set_zero(img, 0, 65536, &e), -ESHUTDOWN);
	assert_int_equal(qcow2_alloc_write(img, 0, 65536, &host, &got, &e), -ESHUTDOWN);
	ok(qcow2_read(img, 0, ref + MIB, MIB, err));
	assert_memory_equal(ref, ref + MIB, MIB);
	memset(ref + MIB, 0, MIB);
	qcow2_close(img);
	ok(qcow2_open(path, 0, &img, err));
	same_content(img, ref, 8 * MIB);
	qcow2_close(img);
	check_clean(path);
	free(ref);
}

#define THREADS	4
#define PART	(4 * MIB)

struct worker {
	struct qcow2_image *img;
	uint64_t start;
	uint8_t *ref;
	pthread_t thread;
	struct qcow2_error e;
	int ret;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	uint8_t *buf = malloc(PART);
	uint64_t off, host, got;
	struct qcow2_run r;

	for (off = 0; !w->ret && off < PART; off += got) {
		uint64_t at = w->start + off;

		w->ret = qcow2_alloc_write(w->img, at, PART - off < 256 * KIB ? PART - off : 256 * KIB, &host,
					   &got, &w->e);
		if (!w->ret && pwrite(qcow2_fd(w->img), w->ref + at, got, (off_t)host) != (ssize_t)got)
			w->ret = -EIO;
		if (!w->ret)
			w->ret = qcow2_map(w->img, at, got, &r, &w->e);
		if (!w->ret && (r.host_offset != host || r.length > got))
			w->ret = -EPROTO;
	}
	if (!w->ret)
		w->ret = qcow2_read(w->img, w->start, buf, PART, &w->e);
	if (!w->ret && memcmp(buf, w->ref + w->start, PART))
		w->ret = -EBADMSG;
	free(buf);
	return NULL;
}

static void threads(void **state)
{
	const char *path = scratch("threads.qcow2");
	uint8_t *ref = malloc(THREADS * PART);
	struct worker w[THREADS] = { 0 };
	struct qcow2_image *img = NULL;
	unsigned int i;

	(void)state;
	assert_non_null(ref);
	rnd_seed(43);
	stamp(ref, 0, THREADS * PART, 1);
	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = THREADS * PART, .cluster_size = 4096 },
			&img, err));
	for (i = 0; i < THREADS; i++) {
		w[i].img = img;
		w[i].start = i * PART;
		w[i].ref = ref;
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	for (i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(w[i].thread, NULL), 0);
		if (w[i].ret)
			fail_msg("thread %u: %d %s", i, w[i].ret, w[i].e.msg);
	}
	ok(qcow2_flush(img, err));
	same_content(img, ref, THREADS * PART);
	qcow2_close(img);
	check_clean(path);
	free(ref);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(block_devices),
		cmocka_unit_test(no_room_for_the_refcount_table),
		cmocka_unit_test(failing_flush),
		cmocka_unit_test(threads),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("qcow2-io", tests, scratch_setup, teardown);
}
