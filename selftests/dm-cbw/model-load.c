// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Writers, and what their writes do to the model.
 *
 * A write W of a device is known by two ticks of one clock: one before it is issued, one
 * after it was acknowledged.  A call that cuts that device has two as well.  The rule for
 * what W marks, with "recording" for all bitmaps that record at that time:
 *
 *  1. W began and ended between two cuts: it is in the active half of all recording
 *     bitmaps, exactly.
 *  2. W's ticks and those of a cut overlap: it may have been mapped on either side, and it
 *     may have ended on either side.  When it is mapped it marks what records then; when it
 *     ends after a cut it marks again what records then.  So it may be in the active half
 *     of whatever records before the cut and of whatever records after it, and in what is
 *     merged from those.  No other granules may be dirty that need not be.
 *  3. What has to be dirty after such a W has ended: of a bitmap that has been recording
 *     since before W was issued, the active half, if it has not been rotated since; one of
 *     both halves, if it was rotated once and is still frozen; the active half, if that
 *     rotation was aborted.  If it was committed, nothing: W may have ended before the cut.
 *
 * Pinned writes are those whose ends are known: the device below is suspended before they
 * are issued, and they have been mapped when it is their turn to be cut (they are in
 * flight, says sysfs).  They mark when they are mapped and, if there was a cut, again when
 * they end, exactly.
 */
#include <linux/falloc.h>
#include <linux/fs.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "model.h"

#define THREADS		8u
#define RING		4096u
#define PINNED_MAX	16u
#define PIN_SECTORS	128u		/* one bio, of whatever kind */

enum { IO_WRITE, IO_DISCARD, IO_ZEROOUT, IO_PUNCH };

struct write {
	struct range r;
	bool spanning;
	_Atomic uint64_t issue, ack;
};

struct thread {
	pthread_t thread;
	uint64_t rng;
	struct write ring[RING];
	_Atomic uint64_t head, tail;
};

static struct thread threads[THREADS];
static unsigned int nr_threads;
static atomic_bool stopping;
static _Atomic uint64_t ticks, writes;

uint64_t tick(void)
{
	return ++ticks;
}

uint64_t rnd(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	*state = x;
	return x * 0x2545f4914f6cdd1dull >> 11;
}

uint64_t load_writes(void)
{
	return writes;
}

/* ---- one write ------------------------------------------------------------------------ */

void io_random(uint64_t *rng, struct range *r, unsigned int *op, uint64_t max_sectors)
{
	static const unsigned int aligns[] = { 1, 1, 8, 8, 128 };
	uint64_t nr, align = aligns[rnd(rng) % 5], size;

	r->dev = rnd(rng) % nr_devices;
	size = device[r->dev].nr;
	if (max_sectors > size)
		max_sectors = size;
	nr = 1 + rnd(rng) % (1ull << rnd(rng) % 11);
	nr = (nr + align - 1) / align * align;
	if (nr > max_sectors)
		nr = max_sectors;
	r->first = rnd(rng) % (size - nr + 1) / align * align;
	/* the last granule is a short one */
	if (rnd(rng) % 16 == 0)
		r->first = size - nr;
	r->nr = nr;
	*op = rnd(rng) % 10;
	*op = *op < 6 ? IO_WRITE : *op < 8 ? IO_DISCARD : *op < 9 ? IO_ZEROOUT : IO_PUNCH;
}

int io_do(const struct range *r, unsigned int op, const void *buf)
{
	uint64_t bytes[2] = { r->first * SECTOR, r->nr * SECTOR };
	int fd = device[r->dev].t.fd;

	writes++;
	switch (op) {
	case IO_WRITE:
		return write_full(fd, buf, bytes[1], bytes[0]);
	case IO_DISCARD:
		return ioctl(fd, BLKDISCARD, bytes) ? -errno : 0;
	case IO_PUNCH:
		/* write-zeroes, where the device has it */
		if (!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, bytes[0], bytes[1]))
			return 0;
		if (errno != EOPNOTSUPP)
			return -errno;
		break;
	}
	return ioctl(fd, BLKZEROOUT, bytes) ? -errno : 0;
}

static void io_failed(const struct range *r, unsigned int op, int ret)
{
	die(EXIT_IO, "%s: operation %u at sector %llu+%llu: %s", device[r->dev].name, op,
	    (ull)r->first, (ull)r->nr, errname(ret));
}

/* ---- writers ---------------------------------------------------------------------------- */

static void *write_on(void *arg)
{
	void *buf = memset(buffer_alloc(1024 * SECTOR), 0xd0, 1024 * SECTOR);
	struct thread *t = arg;
	struct write *w;
	unsigned int op;
	int ret;

	while (!stopping) {
		if (t->head - t->tail == RING) {
			usleep(1000);
			continue;
		}
		w = &t->ring[t->head % RING];
		io_random(&t->rng, &w->r, &op, 1024);
		w->spanning = false;
		w->ack = 0;
		w->issue = tick();
		t->head++;
		ret = io_do(&w->r, op, buf);
		if (ret)
			io_failed(&w->r, op, ret);
		w->ack = tick();
	}
	free(buf);
	return NULL;
}

void load_start(unsigned int nr, uint64_t seed)
{
	unsigned int i;

	stopping = false;
	nr_threads = nr < THREADS ? nr : THREADS;
	for (i = 0; i < nr_threads; i++) {
		threads[i].rng = (seed + i + 1) * 0x9e3779b97f4a7c15ull;
		threads[i].head = 0;
		threads[i].tail = 0;
		if (pthread_create(&threads[i].thread, NULL, write_on, &threads[i]))
			die(EXIT_IO, "cannot start a writer");
	}
}

bool load_running(void)
{
	return nr_threads;
}

/* Rule 2, for what records now. */
static void may_mark(const struct range *r)
{
	struct mdev *d = &model->dev[r->dev];
	unsigned int i;

	for (i = 0; i < d->nr_bitmaps; i++)
		if (d->bitmap[i]->enabled)
			set_mark(d->bitmap[i]->active.may, r->first, r->nr,
				 shift_of(d->bitmap[i]));
}

/* Rule 3. */
static void must_mark(const struct range *r, uint64_t issue)
{
	struct mdev *d = &model->dev[r->dev];
	struct bitmap *b;
	unsigned int i;

	for (i = 0; i < d->nr_bitmaps; i++) {
		b = d->bitmap[i];
		if (!b->enabled || b->since > issue)
			continue;
		if (b->rotated[0] < issue)
			set_mark(b->active.must, r->first, r->nr, shift_of(b));
		else if (b->rotated[1] < issue && b->is_frozen)
			set_mark(b->either, r->first, r->nr, shift_of(b));
	}
}

static void ended(const struct write *w)
{
	if (!w->spanning) {
		model_wrote(model, &w->r);
		return;
	}
	may_mark(&w->r);
	must_mark(&w->r, w->issue);
}

void load_cut(unsigned int touched, uint64_t before, uint64_t after, struct overlap *overlap)
{
	static struct range in_flight[THREADS * RING];
	struct thread *t;
	struct write *w;
	uint64_t i, head;

	overlap->r = in_flight;
	overlap->nr = 0;
	overlap->now = after;
	for (t = threads; t < threads + nr_threads; t++) {
		head = t->head;
		for (i = t->tail; i < head; i++) {
			w = &t->ring[i % RING];
			if (w->issue > after)
				break;
			if (w->ack && w->ack < before) {
				ended(w);
				t->tail++;
				continue;
			}
			if (!(touched >> w->r.dev & 1))
				continue;
			w->spanning = true;
			in_flight[overlap->nr++] = w->r;
			may_mark(&w->r);
		}
	}
}

void load_cut_made(const struct overlap *overlap)
{
	unsigned int i;

	for (i = 0; i < overlap->nr; i++)
		may_mark(&overlap->r[i]);
}

void load_stop(void)
{
	struct overlap none;
	unsigned int i;

	stopping = true;
	for (i = 0; i < nr_threads; i++)
		pthread_join(threads[i].thread, NULL);
	load_cut(0, UINT64_MAX, UINT64_MAX, &none);
	nr_threads = 0;
}

/* ---- pinned writes ------------------------------------------------------------------------ */

struct pinned {
	pthread_t thread;
	struct range r;
	unsigned int op;
};

static struct pinned pinned[PINNED_MAX];
static unsigned int nr_pinned, pin_touched;

static void *write_one(void *arg)
{
	void *buf = memset(buffer_alloc(PIN_SECTORS * SECTOR), 0xd1, PIN_SECTORS * SECTOR);
	struct pinned *p = arg;
	int ret = io_do(&p->r, p->op, buf);

	if (ret)
		io_failed(&p->r, p->op, ret);
	free(buf);
	return NULL;
}

static unsigned int in_flight(const struct device *d)
{
	unsigned int reads = 0, nr = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/inflight", d->no.major, d->no.minor);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%u %u", &reads, &nr) != 2)
		die(EXIT_IO, "%s: cannot read it", path);
	fclose(f);
	return nr;
}

static void lower_resume(void)
{
	unsigned int i;
	int ret;

	for (i = 0; i < nr_devices; i++) {
		if (!device[i].lower)
			continue;
		ret = dm_resume(device[i].lower);
		if (ret)
			die(EXIT_IO, "%s: resume: %s", device[i].lower, errname(ret));
	}
}

static void pin_wait(unsigned int dev)
{
	unsigned int i, nr = in_flight(&device[dev]), want = 0;

	for (i = 0; i < nr_pinned; i++)
		want += pinned[i].r.dev == dev;
	for (i = 0; i < 60000 && nr < want; i++) {
		usleep(1000);
		nr = in_flight(&device[dev]);
	}
	if (nr >= want)
		return;
	/* else nobody could end */
	lower_resume();
	die(EXIT_IO, "%s: only %u of %u writes are in flight", device[dev].name, nr, want);
}

void pin_start(unsigned int nr)
{
	unsigned int i, locked = 0;
	struct pinned *p;
	int ret;

	for (i = 0; i < nr_devices; i++) {
		if (!device[i].lower)
			continue;
		ret = dm_suspend(device[i].lower, DM_WITHOUT_FLUSH | DM_WITHOUT_FS);
		if (ret)
			die(EXIT_IO, "%s: suspend: %s", device[i].lower, errname(ret));
	}
	pin_touched = 0;
	for (nr_pinned = 0; nr_pinned < nr && nr_pinned < PINNED_MAX; nr_pinned++) {
		p = &pinned[nr_pinned];
		do {
			io_random(&ops_rng, &p->r, &p->op, PIN_SECTORS);
		} while (!device[p->r.dev].lower);
		/* of the others there is one at a time: they lock the page cache */
		if (locked >> p->r.dev & 1)
			p->op = IO_WRITE;
		else if (p->op != IO_WRITE)
			locked |= 1u << p->r.dev;
		/* one that is not aligned is two */
		if (p->op == IO_DISCARD)
			p->r.first -= p->r.first % PIN_SECTORS;
		log_op("pinned: operation %u on %u at sector %llu+%llu", p->op, p->r.dev,
		       (ull)p->r.first, (ull)p->r.nr);
		if (pthread_create(&p->thread, NULL, write_one, p))
			die(EXIT_IO, "cannot start a writer");
		model_wrote(model, &p->r);
	}
	for (i = 0; i < nr_devices; i++)
		pin_wait(i);
}

bool pin_active(void)
{
	return nr_pinned;
}

void pin_cut(unsigned int touched)
{
	pin_touched |= touched;
}

void pin_end(void)
{
	unsigned int i;

	log_op("pinned writes end");
	lower_resume();
	for (i = 0; i < nr_pinned; i++) {
		pthread_join(pinned[i].thread, NULL);
		if (pin_touched >> pinned[i].r.dev & 1)
			model_wrote(model, &pinned[i].r);
	}
	nr_pinned = 0;
}
