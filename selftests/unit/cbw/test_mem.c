// SPDX-License-Identifier: GPL-2.0-or-later
/* from memory to memory, with one thread and with as many as there can be: how it ends early */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <unistd.h>

#include "common.h"
#include "engine.h"

#define SIZE	(24u << 20)
#define UNIT	65536u

static const unsigned int workers[] = { 1, 2, XFER_WORKERS_MAX };
static char path[] = "/dev/shm/cbw-unit-XXXXXX";
static char *data, *copied;

/**
 * struct full - a target in memory
 * @room: bytes until it is full
 * @slow: nanoseconds of a write
 * @writes, @failed: how many there were, of them with an error
 * @in: who is in it now
 */
struct full {
	struct sink s;
	uint64_t room;
	long slow;
	unsigned int writes, failed;
	atomic_int in;
};

static int put(struct sink *s, uint64_t offset, void *buf, uint32_t length, struct xfer_write *w,
	       unsigned int room, struct cbw_error *err)
{
	(void)s;
	(void)err;
	assert_true(room > 0);
	w[0] = (struct xfer_write){ buf, length, XFER_CALL, -1, offset };
	return 1;
}

static int put_now(struct sink *s, const struct xfer_write *w, unsigned int worker,
		   struct cbw_error *err)
{
	struct full *f = (struct full *)s;
	int ret = 0;

	(void)worker;
	/* one at a time */
	if (atomic_fetch_add(&f->in, 1))
		abort();
	f->writes++;
	if (f->slow)
		nanosleep(&(struct timespec){ .tv_nsec = f->slow }, NULL);
	if (f->room < w->length) {
		f->failed++;
		ret = fail_with(err, ENOSPC, "%s: no room", s->name);
	} else {
		f->room -= w->length;
		memcpy(copied + w->dst_offset, w->data, w->length);
	}
	atomic_fetch_sub(&f->in, 1);
	return ret;
}

static const struct sink_ops full_ops = { .data = put, .write = put_now };

static struct full target(uint64_t room)
{
	static char name[] = "full";

	memset(copied, 0, SIZE);
	return (struct full){
		.s = { .ops = &full_ops, .name = name, .unit = UNIT, .zero_min = UNIT,
		       .sync_fd = -1, .memory = true },
		.room = room,
	};
}

static struct engine begin(struct full *f, unsigned int nr)
{
	struct engine e = { .what = "copy", .name = "x", .dst = &f->s, .workers = nr };
	struct cbw_error err;

	assert_int_equal(source_open(path, "raw", nr, &e.src, &err), 0);
	assert_true(e.src->memory);
	return e;
}

static void all(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(workers) / sizeof(workers[0]); i++) {
		struct full f = target(SIZE);
		struct engine e = begin(&f, workers[i]);
		struct cbw_error err;

		assert_int_equal(engine_run(&e, &err), 0);
		assert_int_equal(e.copied, SIZE);
		assert_memory_equal(copied, data, SIZE);
		source_close(e.src);
	}
}

/* It is told as it is, and nothing is written after it. */
static void no_room(void **state)
{
	static const uint64_t rooms[] = { 0, UNIT, SIZE / 2, SIZE - 1 };
	size_t i, k;

	(void)state;
	for (i = 0; i < sizeof(workers) / sizeof(workers[0]); i++) {
		for (k = 0; k < sizeof(rooms) / sizeof(rooms[0]); k++) {
			struct full f = target(rooms[k]);
			struct engine e = begin(&f, workers[i]);
			struct cbw_error err;

			assert_int_equal(engine_run(&e, &err), -ENOSPC);
			assert_int_equal(err.code, ENOSPC);
			assert_string_equal(err.msg, "full: no room");
			assert_int_equal(f.failed, 1);
			assert_false(e.stuck);
			source_close(e.src);
		}
	}
}

/* A signal while it is at work, with no limit of the rate: not much more is done. */
static void stopped(void **state)
{
	struct itimerval soon = { .it_value.tv_usec = 100000 };
	size_t i;

	(void)state;
	catch_signals();
	for (i = 0; i < sizeof(workers) / sizeof(workers[0]); i++) {
		struct full f = target(SIZE);
		struct engine e = begin(&f, workers[i]);
		uint64_t start = now_ns();
		struct cbw_error err;

		f.slow = 30000000;
		assert_int_equal(setitimer(ITIMER_REAL, &soon, NULL), 0);
		assert_int_equal(engine_run(&e, &err), -EINTR);
		assert_non_null(strstr(err.msg, "stopped by signal 15"));
		/* all of it would take 0.7 s at least */
		assert_true(f.writes >= 1 && f.writes < SIZE / XFER_PIECE / 2);
		assert_true(now_ns() - start < 5000000000ull);
		assert_int_equal(atomic_load(&f.in), 0);
		stop_signal = 0;
		source_close(e.src);
	}
	/* one that came before it began */
	for (i = 0; i < sizeof(workers) / sizeof(workers[0]); i++) {
		struct full f = target(SIZE);
		struct engine e = begin(&f, workers[i]);
		struct cbw_error err;

		stop_signal = SIGTERM;
		assert_int_equal(engine_run(&e, &err), -EINTR);
		assert_int_equal(f.writes, 0);
		stop_signal = 0;
		source_close(e.src);
	}
}

static void on_alarm(int sig)
{
	(void)sig;
	kill(getpid(), SIGTERM);
}

struct gone {
	uint64_t bytes;
	atomic_int in;
};

static void lost(void *arg, uint64_t offset, uint64_t length, const char *why)
{
	struct gone *g = arg;

	/* one at a time */
	if (atomic_fetch_add(&g->in, 1))
		abort();
	assert_true(offset >= SIZE / 2 && *why);
	g->bytes += length;
	atomic_fetch_sub(&g->in, 1);
}

/* What cannot be read is tried again by several threads at once. */
static void salvaged(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(workers) / sizeof(workers[0]); i++) {
		struct full f = target(SIZE);
		struct engine e = begin(&f, workers[i]);
		struct gone gone = { 0 };
		struct cbw_error err;

		assert_int_equal(truncate(path, SIZE / 2), 0);
		assert_int_equal(engine_run(&e, &err), -EUCLEAN);
		e.salvage = true;
		e.lost = lost;
		e.arg = &gone;
		assert_int_equal(engine_run(&e, &err), 0);
		assert_int_equal(gone.bytes, SIZE / 2);
		assert_int_equal(e.unreadable, SIZE / 2);
		assert_memory_equal(copied, data, SIZE / 2);
		source_close(e.src);
		assert_int_equal(truncate(path, SIZE), 0);
	}
}

/* Each has its own ring. */
static void *texts(void *arg)
{
	uint64_t mine = (uint64_t)(uintptr_t)arg, i;
	char want[32];

	snprintf(want, sizeof(want), "%llu B", (ull)mine);
	for (i = 0; i < 200000; i++)
		if (strcmp(human(mine), want))
			return arg;
	return NULL;
}

static void threads(void **state)
{
	pthread_t id[4];
	uintptr_t i;

	(void)state;
	for (i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&id[i], NULL, texts, (void *)(i + 1)), 0);
	for (i = 0; i < 4; i++) {
		void *bad;

		assert_int_equal(pthread_join(id[i], &bad), 0);
		assert_null(bad);
	}
}

static int begin_group(void **state)
{
	int fd = mkstemp(path);
	size_t i;

	(void)state;
	data = malloc(SIZE);
	copied = malloc(SIZE);
	if (fd < 0 || !data || !copied)
		return -1;
	for (i = 0; i < SIZE; i += sizeof(i)) {
		size_t word = i * 2654435761u | 1;

		memcpy(data + i, &word, sizeof(word));
	}
	i = (size_t)write_all(fd, data, SIZE);
	close(fd);
	signal(SIGALRM, on_alarm);
	return (int)i;
}

static int end_group(void **state)
{
	(void)state;
	free(data);
	free(copied);
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all),
		cmocka_unit_test(no_room),
		cmocka_unit_test(stopped),
		cmocka_unit_test(salvaged),
		cmocka_unit_test(threads),
	};

	return cmocka_run_group_tests(tests, begin_group, end_group);
}
