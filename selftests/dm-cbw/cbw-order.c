// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Does a cut over two devices keep the order of dependent writes?
 *
 *	cbw-order A B BITMAP [--cuts N] [--writers N] [--stores STORE STORE]
 *		[--snapshots NAME NAME]
 *
 * A and B are names of mapped devices with a bitmap BITMAP of 512 bytes.  Each writer
 * writes its number n to A, waits until that is acknowledged, writes n to B, waits, and
 * goes on with n + 1.  Each n has a sector of its own.  Meanwhile both devices are cut in
 * one transaction, again and again: the bitmaps are rotated and, given stores, armed
 * snapshots are started with it.
 *
 * After each cut, for each writer, with a(A) and a(B) the last numbers before the cut:
 *
 *	a(A) >= a(B) >= a(A) - 1
 *
 * In the snapshots they are what can be read; in the bitmaps, what the frozen halves hold.
 * A write that was in flight at the cut is on either side of it in a snapshot, and it is
 * marked in both halves when it was marked before the cut: so the frozen half may have one
 * more than the snapshot, and one that the cut before had as well.  All others have to be
 * in exactly one half: no number may be missing in between.  And nothing that was
 * acknowledged before the call may be missing, nor may anything be there that was
 * issued after it.
 *
 * Says how many cuts it made and between how many dependent writes they fell.  Status: 0;
 * 1 the order was violated; 2 usage; 3 an error.
 */
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "ctl.h"
#include "stamp.h"

#define WRITERS_MAX	16u

struct writer {
	pthread_t thread;
	unsigned int id;
	_Atomic uint64_t issued[2], acked[2];
	_Atomic uint64_t floor;		/* last number of the last cut that was looked at */
	uint64_t last[2];		/* the same, by device */
};

struct side {
	const char *name;
	struct target t;
	struct cbw_devno no;
	uint64_t slots;			/* sectors that each writer has */
	const char *snap_name;
	const char *store;
	struct cbw_devno snap_no;
	struct target snap;
	uint64_t seq[WRITERS_MAX];	/* by snapshot */
	uint64_t lo[WRITERS_MAX], hi[WRITERS_MAX];
	uint8_t *frozen;		/* by sector */
	uint64_t frozen_seq[WRITERS_MAX];
};

static struct side side[2];
static struct writer writer[WRITERS_MAX];
static unsigned int writers = 4;
static uint32_t gen;			/* of this run */
static bool snapshots;
static struct ctl_name bitmap;
static int control;
static atomic_bool stopping;
static uint64_t between, violations;
typedef unsigned long long ull;

static uint64_t slot(const struct side *s, unsigned int w, uint64_t n)
{
	return w * s->slots + n % s->slots;
}

static void *write_on(void *arg)
{
	struct writer *w = arg;
	struct stamp *buf = buffer_alloc(4096);
	uint64_t n, at;
	int d, ret;

	for (n = 1; !stopping; n++) {
		/* What the next cut will show must not meet what the last one did. */
		while (n - w->floor >= side[0].slots / 2 && !stopping)
			usleep(1000);
		for (d = 0; d < 2; d++) {
			at = slot(&side[d], w->id, n);
			stamp_make(buf, at, d, gen, w->id, n);
			w->issued[d] = n;
			ret = write_full(side[d].t.fd, buf, SECTOR, at * SECTOR);
			if (ret)
				die(EXIT_IO, "%s: write: %s", side[d].name, errname(ret));
			w->acked[d] = n;
		}
	}
	free(buf);
	return NULL;
}

static void violated(unsigned int w, unsigned int cut, const char *how)
{
	if (violations++ < 20)
		printf("cut %u, writer %u: %s: A %llu, B %llu; acknowledged before: %llu, %llu; issued before its end: %llu, %llu; frozen: %llu, %llu\n",
		       cut, w, how, (ull)side[0].seq[w], (ull)side[1].seq[w], (ull)side[0].lo[w],
		       (ull)side[1].lo[w], (ull)side[0].hi[w], (ull)side[1].hi[w],
		       (ull)side[0].frozen_seq[w], (ull)side[1].frozen_seq[w]);
}

/* ---- the cut --------------------------------------------------------------------- */

static void need(int ret, const char *name, const char *what)
{
	if (ret < 0)
		die(EXIT_IO, "%s: %s: %s", name, what, errname(ret));
}

static void snap_make(struct side *s)
{
	char table[256], node[32];

	need(dm_make(s->snap_name, &s->snap_no), s->snap_name, "create");
	snprintf(table, sizeof(table), "0 %llu cbw-snapshot %u:%u %s 8 1 armed",
		 (ull)s->t.size / SECTOR, s->no.major, s->no.minor, s->store);
	need(dm_load(s->snap_name, table), s->snap_name, "load");
	need(dm_resume(s->snap_name), s->snap_name, "resume");
	snprintf(node, sizeof(node), "/dev/dm-%u", s->snap_no.minor);
	need(target_open(&s->snap, node, O_RDONLY), node, "open");
}

static void snap_remove(struct side *s)
{
	int i, ret;

	if (close(s->snap.fd))
		die(EXIT_IO, "%s: close: %s", s->snap_name, errname(errno));
	for (i = 0; i < 100; i++) {
		ret = dm_remove(s->snap_name);
		if (ret != -EBUSY)
			break;
		usleep(20000);	/* who else looks at new devices */
	}
	need(ret, s->snap_name, "remove");
}

static void cut_make(unsigned int cut, struct cbw_cut_id *id)
{
	struct cbw_action a[4] = { 0 };
	unsigned int w, d, n = 0;
	struct side *s;
	int ret;

	/* either one is the first */
	for (d = 0; d < 2; d++) {
		s = &side[(d + cut) % 2];
		a[n].type = CBW_ACTION_BITMAP_ROTATE;
		a[n].dev = s->no;
		a[n].name = (uintptr_t)bitmap.s;
		a[n++].name_len = bitmap.len;
		if (snapshots) {
			a[n].type = CBW_ACTION_SNAPSHOT_START;
			a[n++].dev = s->snap_no;
		}
	}
	for (d = 0; d < 2; d++)
		for (w = 0; w < writers; w++)
			side[d].lo[w] = writer[w].acked[d];
	ret = ctl_transaction(control, a, n, id, NULL);
	for (d = 0; d < 2; d++)
		for (w = 0; w < writers; w++)
			side[d].hi[w] = writer[w].issued[d];
	if (ret)
		die(EXIT_IO, "transaction: %s", errname(ret));
}

/* ---- what the snapshots hold ------------------------------------------------------- */

/* Is number @n of writer @w in the snapshot? */
static bool snap_has(struct side *s, unsigned int w, uint64_t n)
{
	static struct stamp *buf;
	uint64_t at = slot(s, w, n);
	int ret;

	if (!buf)
		buf = buffer_alloc(4096);
	ret = read_full(s->snap.fd, buf, SECTOR, at * SECTOR);
	if (ret)
		die(EXIT_IO, "%s: read: %s", s->snap_name, errname(ret));
	switch (stamp_check(buf, at, s - side)) {
	case STAMP_ZERO:
		return false;
	case STAMP_OK:
		if (buf->gen == gen && buf->seq == n)
			return true;
		if (buf->gen != gen || buf->seq == n - s->slots)
			return false;	/* from another run, or the round before */
		/* fallthrough */
	default:
		die(EXIT_DIFFERS, "%s: where writer %u's number %llu belongs: %s", s->snap_name,
		    w, (ull)n, stamp_describe(buf, at, s - side));
	}
}

static void snap_look(struct side *s, unsigned int cut, unsigned int w)
{
	uint64_t n, lo = s->lo[w], last = lo;

	if (lo && !snap_has(s, w, lo)) {
		violated(w, cut, "what was acknowledged before the cut is missing in a snapshot");
		last = 0;
	}
	for (n = lo + 1; n <= s->hi[w] + 1; n++) {
		if (!snap_has(s, w, n))
			continue;
		if (n > s->hi[w])
			violated(w, cut, "what was issued after the cut is in a snapshot");
		if (last != n - 1)
			violated(w, cut, "a number is missing in a snapshot");
		last = n;
	}
	s->seq[w] = last;
}

/* ---- what the frozen halves hold ---------------------------------------------------- */

static void frozen_read(struct side *s, const struct cbw_cut_id *id)
{
	struct cbw_extent *e;
	uint32_t granularity;
	size_t i, nr;

	need(ctl_extents(control, s->no, bitmap, id, 0, 1024, &e, &nr, &granularity), s->name,
	     "extents");
	if (granularity != SECTOR)
		die(EXIT_USAGE, "%s: the granularity has to be %u", s->name, SECTOR);
	memset(s->frozen, 0, s->t.size / SECTOR);
	for (i = 0; i < nr; i++)
		memset(s->frozen + e[i].offset / SECTOR, 1, e[i].length / SECTOR);
	free(e);
}

static void frozen_look(struct side *s, unsigned int cut, unsigned int w)
{
	uint64_t n, last = writer[w].last[s - side];
	unsigned int set = 0, other = 0;

	for (n = 0; n < s->slots; n++)
		set += s->frozen[w * s->slots + n];
	/* the one that was in flight at the cut before may be marked again */
	if (last && s->frozen[slot(s, w, last)])
		other++;
	for (n = last + 1; n <= s->hi[w] && s->frozen[slot(s, w, n)]; n++)
		other++;
	s->frozen_seq[w] = n - 1;
	if (other != set)
		violated(w, cut, "the frozen half has more than one run of numbers");
	if (s->frozen_seq[w] < s->lo[w])
		violated(w, cut, "what was acknowledged before the cut is missing in a frozen half");
}

static void look(unsigned int cut, const struct cbw_cut_id *id)
{
	unsigned int d, w;

	for (d = 0; d < 2; d++) {
		frozen_read(&side[d], id);
		for (w = 0; w < writers; w++) {
			frozen_look(&side[d], cut, w);
			side[d].seq[w] = side[d].frozen_seq[w];
			if (snapshots)
				snap_look(&side[d], cut, w);
		}
	}
	for (w = 0; w < writers; w++) {
		uint64_t a = side[0].seq[w], b = side[1].seq[w];
		uint64_t fa = side[0].frozen_seq[w], fb = side[1].frozen_seq[w];

		if (a < b)
			violated(w, cut, "B has what A has not");
		if (b + 1 < a)
			violated(w, cut, "A has what follows something that B has not");
		if (fa < fb)
			violated(w, cut, "frozen: B has what A has not");
		if (fb + 1 < fa)
			violated(w, cut, "frozen: A has what follows something that B has not");
		/* what was mapped after the cut cannot be in the snapshot */
		if (a > fa || b > fb)
			violated(w, cut, "a snapshot has what its frozen half has not");
		between += fa != fb;
		writer[w].last[0] = fa;
		writer[w].last[1] = fb;
		writer[w].floor = fb;
	}
	for (d = 0; d < 2; d++)
		need(ctl_commit(control, side[d].no, id, CBW_COMMIT_ON_SUCCESS), side[d].name,
		     "commit");
}

/* ---- the whole ----------------------------------------------------------------------- */

/* Earlier runs have left their marks. */
static void forget(void)
{
	struct cbw_action a[2] = { 0 };
	unsigned int d;

	for (d = 0; d < 2; d++) {
		a[d].type = CBW_ACTION_BITMAP_CLEAR;
		a[d].dev = side[d].no;
		a[d].name = (uintptr_t)bitmap.s;
		a[d].name_len = bitmap.len;
	}
	need(ctl_transaction(control, a, 2, NULL, NULL), side[0].name, "clear");
	gen = getpid();
}

static void run(unsigned int cuts)
{
	struct cbw_cut_id id;
	uint64_t steps = 0;
	unsigned int i, w;

	for (w = 0; w < writers; w++) {
		writer[w].id = w;
		if (pthread_create(&writer[w].thread, NULL, write_on, &writer[w]))
			die(EXIT_IO, "cannot start a writer");
	}
	for (i = 0; i < cuts && !violations; i++) {
		if (snapshots) {
			snap_make(&side[0]);
			snap_make(&side[1]);
		} else {
			usleep(3000 + i % 7 * 500);
		}
		cut_make(i, &id);
		look(i, &id);
		if (snapshots) {
			snap_remove(&side[1]);
			snap_remove(&side[0]);
		}
	}
	stopping = true;
	for (w = 0; w < writers; w++) {
		pthread_join(writer[w].thread, NULL);
		steps += writer[w].acked[1];
	}
	printf("cuts=%u steps=%llu between=%llu violations=%llu\n", i, (ull)steps, (ull)between,
	       (ull)violations);
}

static void side_open(struct side *s)
{
	char node[300];

	snprintf(node, sizeof(node), "/dev/mapper/%s", s->name);
	need(target_open(&s->t, node, O_RDWR), node, "open");
	need(ctl_devno(node, &s->no), node, "stat");
	s->slots = s->t.size / SECTOR / writers;
	if (s->slots < 64)
		die(EXIT_USAGE, "%s is too small", s->name);
	s->frozen = malloc(s->t.size / SECTOR);
	if (!s->frozen)
		die(EXIT_IO, "no memory");
}

int main(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "cuts", 1, NULL, 'c' },   { "writers", 1, NULL, 'w' },
		{ "stores", 1, NULL, 's' }, { "snapshots", 1, NULL, 'n' }, { 0 },
	};
	unsigned int cuts = 100;
	int c;

	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		if (strchr("sn", c) && optind >= argc)
			die(EXIT_USAGE, "two of them, for A and B");
		if (c == 'c') {
			cuts = parse_size(optarg);
		} else if (c == 'w') {
			writers = parse_size(optarg);
		} else if (c == 's') {
			side[0].store = optarg;
			side[1].store = argv[optind++];
			snapshots = true;
		} else if (c == 'n') {
			side[0].snap_name = optarg;
			side[1].snap_name = argv[optind++];
		} else {
			die(EXIT_USAGE, "see the head of cbw-order.c");
		}
	}
	if (argc - optind != 3 || !writers || writers > WRITERS_MAX ||
	    !side[0].store != !side[0].snap_name)
		die(EXIT_USAGE, "see the head of cbw-order.c");
	side[0].name = argv[optind];
	side[1].name = argv[optind + 1];
	bitmap.s = argv[optind + 2];
	bitmap.len = strlen(bitmap.s);
	side_open(&side[0]);
	side_open(&side[1]);
	if (side[0].slots != side[1].slots)
		die(EXIT_USAGE, "the two have different sizes");
	control = ctl_open();
	need(control, "/dev/cbw-control", "open");
	forget();
	run(cuts);
	return violations ? EXIT_DIFFERS : 0;
}
