// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What devices may hold after a power cut, from the log of the powerlog target
 * (selftests/powerlog/powerlog.h).
 *
 *	cbw-power dump LOG			every event, for people
 *	cbw-power info LOG [--at SEQ]		`events N records N`, then `flush SEQ ID` for
 *						each that was completed and `mark SEQ TEXT`;
 *						up to SEQ
 *	cbw-power points LOG N SEED [--from SEQ] [--to SEQ]
 *						N events to cut at: up to half of them
 *						completions of flushes, the others random
 *	cbw-power save DEV IMAGE		sparse
 *	cbw-power replay LOG --at SEQ [--seed N] [--sector B] [--choice MODE]
 *		[--mutate flush|fua|both[:ID]]... [--discard any|zeros]
 *		[--order N] ID=BASE:OUT...
 *	cbw-power revert BASE:OUT...		OUT as BASE again
 *
 * BASE is the device as it was when logging began.  OUT is made equal to it, whoever has
 * written to it, and then gets what is written below: all the same bytes for the same seed.
 * OUT.undo has what was written and its time, which no other writer leaves as it is: as
 * long as it fits only that is taken back, else all data is compared.
 *
 * At the cut all with a number up to SEQ has happened.  A write is durable when it was
 * completed and is FUA, or was completed before the submission of a flush of the same
 * device that was completed.  What was submitted and is not durable is there whole, in
 * part, or not at all, every sector (of --sector bytes, 512) for itself.  Of two that are
 * there the one that was submitted after the other was completed is seen; two that were
 * in flight together, in either order, durable or not.  So a sector has what one of its
 * writes put there, or was there before, unless a durable write came after that.  A flush
 * with data is one submitted before its data.  What a write that failed put there
 * is never durable.  A discard makes zeros, or does nothing, which no flush changes
 * (--discard zeros: it is as a write of zeros).  With --order the order of those that were in
 * flight together is drawn from N, so that it is the same for all seeds and all cuts after
 * both: who compares with what a device was read to hold has that from a replay, too.
 *
 * MODE, of what is not durable, is drawn from the seed for each device: none, all,
 * only-one, all-but-one, prefix (of the order of events), whole (of each bio all or
 * nothing), torn and mixed (some none, some whole, some torn).  --mutate makes a device
 * that forgets what flushes, FUA or both promise: whoever judges images has to notice.
 *
 * Status: 0; 2 usage; 3 I/O error, or a log that is no good.
 */
#include <getopt.h>

#include "power.h"

#define NEVER		UINT64_MAX

struct options opt = { .at = NEVER, .to = NEVER, .sector = SECTOR, .mode = -1 };

static void parse_mutation(char *s)
{
	char *id = strchr(s, ':');
	struct mutation *m = &opt.all;

	if (id) {
		*id++ = '\0';
		if (opt.nof == DEVS)
			die(EXIT_USAGE, "too many mutations");
		opt.of_id[opt.nof] = parse_size(id);
		m = &opt.of[opt.nof++];
	}
	if (strcmp(s, "flush") && strcmp(s, "fua") && strcmp(s, "both"))
		die(EXIT_USAGE, "--mutate flush, fua or both, not '%s'", s);
	m->flush |= strcmp(s, "fua") != 0;
	m->fua |= strcmp(s, "flush") != 0;
}

static int parse_mode(const char *s)
{
	int i;

	for (i = 0; i < MODES; i++)
		if (!strcmp(s, mode_names[i]))
			return i;
	die(EXIT_USAGE, "there is no --choice %s", s);
}

/* "BASE:OUT", with "ID=" in front */
static struct image parse_image(char *s, bool with_id)
{
	struct image im = { 0 };
	char *p;

	if (with_id) {
		p = strchr(s, '=');
		if (!p)
			die(EXIT_USAGE, "'%s' is not ID=BASE:OUT", s);
		*p = '\0';
		im.id = parse_size(s);
		s = p + 1;
	}
	p = strchr(s, ':');
	if (!p)
		die(EXIT_USAGE, "'%s' is not BASE:OUT", s);
	*p = '\0';
	im.base = s;
	im.out = p + 1;
	return im;
}

static void options(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "at", 1, NULL, 'a' },	    { "seed", 1, NULL, 's' },
		{ "sector", 1, NULL, 'S' }, { "choice", 1, NULL, 'c' },
		{ "mutate", 1, NULL, 'm' }, { "discard", 1, NULL, 'd' },
		{ "order", 1, NULL, 'o' },
		{ "from", 1, NULL, 'f' },   { "to", 1, NULL, 't' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		switch (c) {
		case 'a':
			opt.at = parse_size(optarg);
			break;
		case 's':
			opt.seed = parse_size(optarg);
			break;
		case 'S':
			opt.sector = parse_size(optarg);
			break;
		case 'c':
			opt.mode = parse_mode(optarg);
			break;
		case 'm':
			parse_mutation(optarg);
			break;
		case 'd':
			opt.discard_zeros = !strcmp(optarg, "zeros");
			break;
		case 'o':
			opt.order = parse_size(optarg);
			opt.ordered = true;
			break;
		case 'f':
			opt.from = parse_size(optarg);
			break;
		case 't':
			opt.to = parse_size(optarg);
			break;
		default:
			die(EXIT_USAGE, "see the head of cbw-power.c");
		}
	}
	if (opt.sector < SECTOR || opt.sector & (opt.sector - 1))
		die(EXIT_USAGE, "--sector is a power of two from 512 on");
}

int main(int argc, char **argv)
{
	const char *cmd = argc > 1 ? argv[1] : "";
	struct image im;
	bool is_replay;
	int i;

	options(--argc, ++argv);
	argc -= optind;
	argv += optind;
	is_replay = !strcmp(cmd, "replay");
	if (!strcmp(cmd, "save") && argc == 2) {
		do_save(argv[0], argv[1]);
		return 0;
	}
	if (!strcmp(cmd, "revert") && argc) {
		i = 0;
	} else {
		if (!argc)
			die(EXIT_USAGE, "see the head of cbw-power.c");
		log_open(argv[0]);
		i = 1;
		if (!strcmp(cmd, "dump") && argc == 1) {
			do_dump();
			return 0;
		}
		if (!strcmp(cmd, "info") && argc == 1) {
			do_info(opt.at);
			return 0;
		}
		if (!strcmp(cmd, "points") && argc == 3) {
			do_points(parse_size(argv[1]), parse_size(argv[2]), opt.from, opt.to);
			return 0;
		}
		if (!is_replay || argc < 2)
			die(EXIT_USAGE, "see the head of cbw-power.c");
		if (opt.at > plog.head->seq)
			die(EXIT_USAGE, "--at is a number up to %llu", (ull)plog.head->seq);
	}
	for (; i < argc; i++) {
		im = parse_image(argv[i], is_replay);
		image_open(&im);
		if (is_replay)
			replay(&im);
		else
			image_revert(&im);
		image_close(&im);
	}
	return 0;
}
