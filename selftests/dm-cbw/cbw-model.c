// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A model checker: random operations on the module and on a simple model of it, which have
 * to agree about every result, every flag and every granule.
 *
 *	cbw-model DEVICE[=LOWER]... [--seed N] [--seconds N] [--ops N] [--writers N]
 *
 * DEVICE is the name of a mapped device with a cbw table, LOWER that of a mapped device
 * below it, which is suspended to hold writes in flight.  At best there are two of one
 * size, no multiple of a granularity, and a smaller one.  Phases follow each other:
 *
 *	quiet	every operation by itself: the module is exactly as the model
 *	pinned	writes are held below the device while bitmaps are changed: exact, too
 *	loaded	writers race with the operations; model-load.c says what is known then.
 *		Afterwards, when nothing is in flight, what the module has becomes the truth.
 *
 * What a bitmap says is discarded has to read as zeroes, so discards on these devices must
 * have that effect.
 *
 * --seed repeats the operations (not the timing of the writers).  Without --ops it goes on
 * for so many seconds.  Status: 0; 1 a mismatch, with the last operations; 2 usage; 3 an
 * error.
 */
#include <getopt.h>
#include <time.h>
#include <unistd.h>

#include "model.h"

static uint64_t seed, max_ops;
static unsigned int max_seconds = 10, writers = 3;
static uint64_t phases[3];

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static bool pinnable(void)
{
	unsigned int i;

	for (i = 0; i < nr_devices; i++)
		if (device[i].lower)
			return true;
	return false;
}

/* An exact state to begin with, whatever came before. */
static void rest(void)
{
	ops_rest();
	check_all(0);
}

static void quiet(void)
{
	unsigned int n = 10 + ops_random(60);

	while (n--)
		ops_step(QUIET);
	rest();
}

static void with_pinned(void)
{
	unsigned int n = 1 + ops_random(12);

	if (!pinnable())
		return;
	check_settle();
	pin_start(1 + ops_random(8));
	while (n--)
		ops_step(PINNED);
	ops_last_pinned();
	pin_end();
	rest();
}

static void loaded(void)
{
	unsigned int n = 10 + ops_random(40);

	check_settle();
	load_start(writers, seed + phases[LOADED]);
	while (n--)
		ops_step(LOADED);
	ops_rest();
	load_stop();
	rest();
	check_resync();
}

static void run(void)
{
	static void (*const phase[])(void) = { quiet, with_pinned, loaded };
	static const unsigned int mix[] = { 0, 0, 1, 1, 1, 2 };
	double end = seconds() + max_seconds;
	unsigned int p;

	do {
		p = mix[ops_random(6)];
		phases[p]++;
		phase[p]();
	} while (max_ops ? ops_done < max_ops : seconds() < end);
}

int main(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "seed", 1, NULL, 's' }, { "seconds", 1, NULL, 't' },
		{ "ops", 1, NULL, 'o' },  { "writers", 1, NULL, 'w' }, { 0 },
	};
	int c;

	seed = time(NULL) * 1000 + getpid() % 1000;
	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		if (c == 's')
			seed = parse_size(optarg);
		else if (c == 't')
			max_seconds = parse_size(optarg);
		else if (c == 'o')
			max_ops = parse_size(optarg);
		else if (c == 'w')
			writers = parse_size(optarg);
		else
			die(EXIT_USAGE, "see the head of cbw-model.c");
	}
	if (optind == argc || argc - optind > (int)DEVS_MAX || !writers)
		die(EXIT_USAGE, "see the head of cbw-model.c");
	printf("seed %llu\n", (ull)seed);
	fflush(stdout);
	model_setup(argc - optind, argv + optind);
	ops_setup(seed);
	run();
	printf("operations=%llu cuts=%llu writes=%llu checks=%llu halves=%llu discarded=%llu quiet=%llu pinned=%llu loaded=%llu\n",
	       (ull)ops_done, (ull)cuts_made, (ull)load_writes(), (ull)checks, (ull)compared,
	       (ull)hidden,
	       (ull)phases[QUIET], (ull)phases[PINNED], (ull)phases[LOADED]);
	return 0;
}
