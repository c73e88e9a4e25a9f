// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Preloaded into fio: when the first request was submitted and when the last
 * one ended, in nanoseconds. fio's own runtime has milliseconds, which is too
 * coarse for ratios of a fraction of a percent.
 *
 * Writes "<first submit> <last end> <requests ended> <longest gap>" to the file
 * that RIGCLOCK names. The gap is the longest time between two returns with
 * ended requests. With several threads only the number is exact; the times are
 * those of one or the other.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* libaio's, whose header is not needed for passing pointers on */
int io_submit(void *ctx, long nr, void **iocbs);
int io_getevents(void *ctx, long min, long nr, void *events,
		 struct timespec *timeout);

static int (*real_submit)(void *ctx, long nr, void **iocbs);
static int (*real_getevents)(void *ctx, long min, long nr, void *events,
			     struct timespec *timeout);
static uint64_t first, last, gap, ended;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int io_submit(void *ctx, long nr, void **iocbs)
{
	if (!first)
		first = now();
	return real_submit(ctx, nr, iocbs);
}

int io_getevents(void *ctx, long min, long nr, void *events,
		 struct timespec *timeout)
{
	int ret = real_getevents(ctx, min, nr, events, timeout);
	uint64_t t;

	if (ret > 0) {
		t = now();
		if (last && t > last && t - last > gap)
			gap = t - last;
		last = t;
		__sync_fetch_and_add(&ended, ret);
	}
	return ret;
}

__attribute__((constructor)) static void start(void)
{
	real_submit = dlsym(RTLD_NEXT, "io_submit");
	real_getevents = dlsym(RTLD_NEXT, "io_getevents");
}

__attribute__((destructor)) static void stop(void)
{
	const char *name = getenv("RIGCLOCK");
	FILE *f;

	if (!name || !ended)
		return;
	f = fopen(name, "w");
	if (!f)
		return;
	fprintf(f, "%llu %llu %llu %llu\n", (unsigned long long)first,
		(unsigned long long)last, (unsigned long long)ended,
		(unsigned long long)gap);
	fclose(f);
}
