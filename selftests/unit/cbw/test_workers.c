// SPDX-License-Identifier: GPL-2.0-or-later
/* the threads: every job is done once, and of the serial ones one at a time, in their order */
#include <poll.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "workers.h"

#define THREADS	4
#define JOBS	2000

struct item {
	struct job job;
	unsigned int nr;
	bool serial;
	atomic_uint done;
};

struct run {
	atomic_uint serial_now, most_serial, next_serial, free_beside;
	atomic_bool out_of_order, no_such_thread;
};

static void nap(long ns)
{
	nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
}

static void run_one(void *ctx, struct job *job, unsigned int worker)
{
	struct item *item = (struct item *)job;
	struct run *r = ctx;

	if (worker >= THREADS)
		r->no_such_thread = true;
	if (item->serial) {
		unsigned int now = atomic_fetch_add(&r->serial_now, 1) + 1;

		if (now > atomic_load(&r->most_serial))
			atomic_store(&r->most_serial, now);
		if (atomic_fetch_add(&r->next_serial, 1) != item->nr)
			r->out_of_order = true;
		nap(20000);
		atomic_fetch_sub(&r->serial_now, 1);
	} else if (atomic_load(&r->serial_now)) {
		atomic_fetch_add(&r->free_beside, 1);
	}
	atomic_fetch_add(&item->done, 1);
}

/* Waits until @nr more have ended. */
static void collect(struct workers *w, unsigned int nr)
{
	struct pollfd p = { .fd = workers_fd(w), .events = POLLIN };
	uint64_t event;

	while (nr) {
		assert_int_equal(poll(&p, 1, 10000), 1);
		assert_int_equal(read(p.fd, &event, sizeof(event)), sizeof(event));
		while (workers_ended(w)) {
			assert_true(nr);
			nr--;
		}
	}
}

static void one_at_a_time(void **state)
{
	struct item *item = xcalloc(JOBS, sizeof(*item));
	struct run r = { .serial_now = 0 };
	struct workers *w = workers_start(THREADS, run_one, &r);
	unsigned int i, serial = 0;

	(void)state;
	assert_non_null(w);
	for (i = 0; i < JOBS; i++) {
		item[i].serial = i % 4 == 0;
		if (item[i].serial) {
			item[i].nr = serial++;
			workers_add_serial(w, &item[i].job);
		} else {
			workers_add(w, &item[i].job);
		}
		if (i % 64 == 0)
			nap(100000);
	}
	collect(w, JOBS);
	assert_int_equal(atomic_load(&r.most_serial), 1);
	assert_false(r.out_of_order);
	assert_false(r.no_such_thread);
	assert_int_equal(atomic_load(&r.next_serial), serial);
	/* nor do they keep the others waiting */
	assert_true(atomic_load(&r.free_beside) > 0);
	for (i = 0; i < JOBS; i++)
		assert_int_equal(atomic_load(&item[i].done), 1);
	workers_stop(w);
	free(item);
}

/* Threads that sleep are woken for either kind. */
static void are_woken(void **state)
{
	struct item item = { .serial = true };
	struct run r = { .serial_now = 0 };
	struct workers *w = workers_start(THREADS, run_one, &r);
	unsigned int i;

	(void)state;
	assert_non_null(w);
	for (i = 0; i < 200; i++) {
		item.nr = i / 2;
		item.serial = i % 2;
		if (item.serial)
			workers_add_serial(w, &item.job);
		else
			workers_add(w, &item.job);
		collect(w, 1);
	}
	assert_int_equal(atomic_load(&item.done), 200);
	assert_false(r.out_of_order);
	workers_stop(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_at_a_time),
		cmocka_unit_test(are_woken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
