// SPDX-License-Identifier: GPL-2.0-or-later
#include "common.h"

static u64 rnd_state = 1;
/* What a test that failed has left is not the next one's fault. */
static u64 base_words, base_structs;
static s64 base_accounted;
static bool failed;

void shim_fail(const char *fmt, ...)
{
	char msg[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	failed = true;
	fail_msg("%s", msg);
	abort();
}

void bits_args(int argc, char **argv)
{
	if (argc > 1)
		setenv("CBW_SEED", argv[1], 1);
	cmocka_set_message_output(CM_OUTPUT_TAP);
}

void rnd_seed(const char *test, u64 seed)
{
	const char *env = getenv("CBW_SEED");

	if (env)
		seed = strtoull(env, NULL, 0);
	printf("# %s: CBW_SEED=%llu\n", test, seed);
	rnd_state = seed * 0x9e3779b97f4a7c15ull + 1;
}

u64 rnd(u64 below)
{
	u64 z = rnd_state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (z ^ z >> 31) % below;
}

int bits_setup(void **state)
{
	(void)state;
	shim_reset();
	failed = false;
	base_words = shim_words;
	base_structs = shim_structs;
	base_accounted = shim_accounted;
	return 0;
}

int bits_teardown(void **state)
{
	(void)state;
	/* Then it has been said, and of course there is something left. */
	if (failed)
		return 0;
	return shim_words != base_words || shim_structs != base_structs ||
	       shim_accounted != base_accounted || shim_warnings ? -1 : 0;
}

void mark_some(struct twin *t, unsigned int n)
{
	sector_t len = t->bits->len, granule = 1ull << t->bits->shift;

	while (n--) {
		sector_t sector = rnd(len), nr;

		switch (rnd(8)) {
		case 0:
			nr = 1 + rnd(len / 4 + 1);
			break;
		case 1:
			sector = len - 1 - rnd(min(len, 3 * granule));
			nr = len - sector;
			break;
		case 2:
			nr = 1 + rnd(200 * granule);
			break;
		default:
			nr = 1 + rnd(2 * granule);
		}
		twin_mark(t, sector, min(nr, len - sector));
	}
}
