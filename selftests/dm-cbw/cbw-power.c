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
#include <fcntl.h>
#include <getopt.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../powerlog/powerlog.h"
#include "stamp.h"

#define PIECE		(256u << 10)
#define DEVS		16
#define CHUNK		512u	/* sectors of a table's part */
#define NEVER		UINT64_MAX

typedef unsigned long long ull;

enum mode {
	NONE, ALL, ONLY_ONE, ALL_BUT_ONE, PREFIX, WHOLE, TORN, MIXED, MODES,
};

static const char *const mode_names[MODES] = {
	"none", "all", "only-one", "all-but-one", "prefix", "whole", "torn", "mixed",
};

struct mutation {
	bool flush, fua;
};

struct range {
	uint64_t off, len;
};

/* OUT.undo; the ranges follow */
struct undo {
	uint64_t magic;
	uint64_t ino, size;	/* of the base */
	int64_t sec, nsec;
	int64_t token;		/* nanoseconds of the output's time, at second UNDO_TIME */
	uint64_t nr;
};

#define UNDO_MAGIC	0x6f646e7572776f70ull
#define UNDO_TIME	1000000

struct image {
	uint32_t id;
	const char *base, *out;
	int base_fd, out_fd;
	uint64_t size;
	struct stat base_stat;
	struct range *patch;	/* what was written since it was equal */
	uint64_t patches, room;
};

static struct {
	uint64_t at, seed, order, from, to;
	bool ordered;
	uint32_t sector;
	int mode;
	bool discard_zeros;
	struct mutation all, of[DEVS];
	uint32_t of_id[DEVS];
	int nof;
} o = { .at = NEVER, .to = NEVER, .sector = SECTOR, .mode = -1 };

/* ---- the log ------------------------------------------------------------------ */

static struct {
	const struct powerlog_head *head;
	const struct powerlog_rec **rec;
	uint64_t nr;
} plog;

static void log_open(const char *path)
{
	const struct powerlog_rec *r;
	struct stat st;
	uint64_t pos, max = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *map;

	if (fd < 0 || fstat(fd, &st))
		die(EXIT_IO, "%s: %s", path, strerror(errno));
	if ((size_t)st.st_size < sizeof(*plog.head))
		die(EXIT_IO, "%s is not a log: too short", path);
	map = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		die(EXIT_IO, "%s: cannot map it: %s", path, strerror(errno));
	close(fd);
	plog.head = map;
	if (plog.head->magic != POWERLOG_MAGIC || plog.head->version != POWERLOG_VERSION)
		die(EXIT_IO, "%s is not a log", path);
	if (plog.head->bytes > (uint64_t)st.st_size)
		die(EXIT_IO, "%s is cut short", path);
	if (plog.head->state == POWERLOG_FULL)
		die(EXIT_IO, "%s: the log was full, events are missing", path);
	plog.rec = malloc((plog.head->records + 1) * sizeof(*plog.rec));
	if (!plog.rec)
		die(EXIT_IO, "no memory");
	for (pos = sizeof(*plog.head); pos < plog.head->bytes;) {
		r = (const void *)((const char *)map + pos);
		if (plog.head->bytes - pos < sizeof(*r) || plog.nr == plog.head->records)
			break;
		pos += sizeof(*r) + ((uint64_t)r->data + 7) / 8 * 8;
		if (pos > plog.head->bytes || r->submit <= max || !r->type || r->type > POWERLOG_MARK ||
		    (r->type == POWERLOG_WRITE && r->data != r->sectors * SECTOR))
			die(EXIT_IO, "%s: record %llu is wrong", path, (ull)plog.nr);
		max = r->submit;
		plog.rec[plog.nr++] = r;
	}
	if (pos != plog.head->bytes || plog.nr != plog.head->records)
		die(EXIT_IO, "%s: the records do not end where the log does", path);
}

static const char *data_of(const struct powerlog_rec *r)
{
	return (const char *)(r + 1);
}

static bool is_flush(const struct powerlog_rec *r)
{
	return r->type == POWERLOG_FLUSH || r->flags & POWERLOG_PREFLUSH;
}

/* Completed without an error up to @at. */
static bool done(const struct powerlog_rec *r, uint64_t at)
{
	return r->complete && r->complete <= at && !r->error;
}

static void do_dump(void)
{
	static const char *const types[] = {
		[POWERLOG_WRITE] = "write", [POWERLOG_ZEROES] = "zeroes",
		[POWERLOG_DISCARD] = "discard", [POWERLOG_FLUSH] = "flush",
		[POWERLOG_MARK] = "mark",
	};
	const struct powerlog_rec *r;
	uint64_t i;

	printf("%10s %10s  id  what\n", "submitted", "completed");
	for (i = 0; i < plog.nr; i++) {
		r = plog.rec[i];
		printf("%10llu %10llu %3u  %s", (ull)r->submit, (ull)r->complete, r->id,
		       types[r->type]);
		if (r->type == POWERLOG_MARK)
			printf(" %s", data_of(r));
		else if (r->type != POWERLOG_FLUSH)
			printf(" %llu+%llu%s%s", (ull)r->sector, (ull)r->sectors,
			       r->flags & POWERLOG_PREFLUSH ? " preflush" : "",
			       r->flags & POWERLOG_FUA ? " fua" : "");
		if (r->error)
			printf(" error %u", r->error);
		putchar('\n');
	}
}

struct event {
	uint64_t seq;
	const struct powerlog_rec *r;
};

static int by_seq(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Marks and completed flushes up to @at, in order. */
static struct event *events(uint64_t at, bool marks, uint64_t *nr)
{
	struct event *e = malloc((plog.nr + 1) * sizeof(*e));
	const struct powerlog_rec *r;
	uint64_t i, n = 0;

	if (!e)
		die(EXIT_IO, "no memory");
	for (i = 0; i < plog.nr; i++) {
		r = plog.rec[i];
		if (done(r, at) && (is_flush(r) || (marks && r->type == POWERLOG_MARK)))
			e[n++] = (struct event){ r->complete, r };
	}
	qsort(e, n, sizeof(*e), by_seq);
	*nr = n;
	return e;
}

static void do_info(void)
{
	uint64_t n, i;
	struct event *e = events(o.at, true, &n);

	printf("events %llu records %llu\n", (ull)plog.head->seq, (ull)plog.nr);
	for (i = 0; i < n; i++)
		if (e[i].r->type == POWERLOG_MARK)
			printf("mark %llu %s\n", (ull)e[i].seq, data_of(e[i].r));
		else
			printf("flush %llu %u\n", (ull)e[i].seq, e[i].r->id);
	free(e);
}

/* ---- chance ------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t v)
{
	h += v + 0x9e3779b97f4a7c15ull;
	h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
	h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
	return h ^ (h >> 31);
}

static uint64_t next(uint64_t *state)
{
	*state = mix(*state, 1);
	return *state;
}

static void do_points(uint64_t want, uint64_t seed)
{
	uint64_t state = mix(seed, 17), last = plog.head->seq, n, i, first, nr = 0, k;
	struct event *e = events(o.to, false, &n);
	uint64_t *point = calloc(want + 1, sizeof(*point));

	if (!point)
		die(EXIT_IO, "no memory");
	if (o.to < last)
		last = o.to;
	first = o.from ? o.from : 1;
	if (first > last)
		die(EXIT_USAGE, "there is no event from %llu to %llu", (ull)first, (ull)last);
	for (i = 0, k = 0; i < n; i++)
		if (e[i].seq >= first)
			e[k++] = e[i];
	/* the first so many of a shuffle */
	for (i = 0; i < k && nr < want / 2; i++) {
		n = i + next(&state) % (k - i);
		point[nr++] = e[n].seq;
		e[n] = e[i];
	}
	while (nr < want)
		point[nr++] = first + next(&state) % (last - first + 1);
	qsort(point, nr, sizeof(*point), by_seq);
	for (i = 0; i < nr; i++)
		printf("%llu\n", (ull)point[i]);
	free(point);
	free(e);
}

/* ---- images ------------------------------------------------------------------- */

/* Where the next data is from @off on, and its end; false: there is none. */
static bool next_data(const struct image *im, int fd, uint64_t off, uint64_t *from, uint64_t *to)
{
	off_t data, hole;

	data = lseek(fd, off, SEEK_DATA);
	if (data < 0) {
		if (errno == ENXIO)
			return false;
		die(EXIT_IO, "%s: %s", im->out, strerror(errno));
	}
	hole = lseek(fd, data, SEEK_HOLE);
	if (hole < 0)
		die(EXIT_IO, "%s: %s", im->out, strerror(errno));
	*from = data;
	*to = hole;
	return true;
}

static void punch(const struct image *im, uint64_t off, uint64_t len)
{
	if (fallocate(im->out_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len))
		die(EXIT_IO, "%s: cannot punch a hole: %s", im->out, strerror(errno));
}

static void put(const struct image *im, const void *buf, size_t len, uint64_t off)
{
	int ret = write_full(im->out_fd, buf, len, off);

	if (ret)
		die(EXIT_IO, "%s: write at %llu: %s", im->out, (ull)off, errname(ret));
}

static void get(int fd, const char *path, void *buf, size_t len, uint64_t off)
{
	int ret = read_full(fd, buf, len, off);

	if (ret)
		die(EXIT_IO, "%s: read at %llu: %s", path, (ull)off, errname(ret));
}

/* Compared by the page, so that what is equal is not written. */
static void copy_range(const struct image *im, uint64_t off, uint64_t end)
{
	static char a[PIECE], b[PIECE];
	uint32_t len, i, run;

	for (; off < end; off += len) {
		len = end - off < PIECE ? end - off : PIECE;
		get(im->base_fd, im->base, a, len, off);
		get(im->out_fd, im->out, b, len, off);
		if (!memcmp(a, b, len))
			continue;
		for (i = 0; i < len; i += run) {
			run = len - i < 4096 ? len - i : 4096;
			if (memcmp(a + i, b + i, run))
				put(im, a + i, run, off + i);
		}
	}
}

static void image_open(struct image *im)
{
	struct stat base, out;

	im->base_fd = open(im->base, O_RDONLY | O_CLOEXEC);
	if (im->base_fd < 0 || fstat(im->base_fd, &base))
		die(EXIT_IO, "%s: %s", im->base, strerror(errno));
	im->out_fd = open(im->out, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (im->out_fd < 0 || fstat(im->out_fd, &out))
		die(EXIT_IO, "%s: %s", im->out, strerror(errno));
	if (!S_ISREG(base.st_mode) || !S_ISREG(out.st_mode))
		die(EXIT_USAGE, "%s and %s have to be regular files", im->base, im->out);
	if (base.st_dev == out.st_dev && base.st_ino == out.st_ino)
		die(EXIT_USAGE, "%s is both base and output", im->base);
	im->base_stat = base;
	im->size = base.st_size;
	if (out.st_size != base.st_size && ftruncate(im->out_fd, im->size))
		die(EXIT_IO, "%s: %s", im->out, strerror(errno));
}

static const char *undo_path(const struct image *im)
{
	static char path[4096];

	if (snprintf(path, sizeof(path), "%s.undo", im->out) >= (int)sizeof(path))
		die(EXIT_USAGE, "%s: too long a name", im->out);
	return path;
}

static void undo_head(const struct image *im, struct undo *u)
{
	*u = (struct undo){
		.magic = UNDO_MAGIC, .ino = im->base_stat.st_ino, .size = im->size,
		.sec = im->base_stat.st_mtim.tv_sec, .nsec = im->base_stat.st_mtim.tv_nsec,
	};
}

/* Takes back what we did, if nobody else did anything; in any case it is not known from here on. */
static bool undo(const struct image *im)
{
	int fd = open(undo_path(im), O_RDONLY | O_CLOEXEC);
	struct undo u, want;
	struct range r;
	struct stat st;
	bool ok;

	if (fd < 0)
		return false;
	undo_head(im, &want);
	ok = !read_full(fd, &u, sizeof(u), 0) && !fstat(im->out_fd, &st);
	want.token = u.token;
	want.nr = u.nr;
	ok = ok && !memcmp(&u, &want, sizeof(u)) && st.st_mtim.tv_sec == UNDO_TIME &&
	     st.st_mtim.tv_nsec == u.token;
	if (unlink(undo_path(im)))
		die(EXIT_IO, "%s: %s", undo_path(im), strerror(errno));
	for (uint64_t i = 0; ok && i < u.nr; i++) {
		get(fd, "what to undo", &r, sizeof(r), sizeof(u) + i * sizeof(r));
		copy_range(im, r.off, r.off + r.len);
	}
	close(fd);
	return ok;
}

static void patched(struct image *im, uint64_t off, uint64_t len)
{
	struct range *last = im->patches ? &im->patch[im->patches - 1] : NULL;

	if (last && last->off + last->len == off) {
		last->len += len;
		return;
	}
	if (im->patches == im->room) {
		im->room = im->room * 2 + 64;
		im->patch = realloc(im->patch, im->room * sizeof(*im->patch));
		if (!im->patch)
			die(EXIT_IO, "no memory");
	}
	im->patch[im->patches++] = (struct range){ off, len };
}

static void undo_write(const struct image *im)
{
	struct timespec now, times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = UNDO_TIME } };
	int fd = open(undo_path(im), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct undo u;
	int ret;

	undo_head(im, &u);
	clock_gettime(CLOCK_MONOTONIC, &now);
	u.token = times[1].tv_nsec = now.tv_nsec;
	u.nr = im->patches;
	if (fd < 0)
		die(EXIT_IO, "%s: %s", undo_path(im), strerror(errno));
	ret = write_full(fd, &u, sizeof(u), 0);
	if (!ret)
		ret = write_full(fd, im->patch, im->patches * sizeof(*im->patch), sizeof(u));
	if (ret || close(fd) || futimens(im->out_fd, times))
		die(EXIT_IO, "%s: it cannot be written", undo_path(im));
}

static void revert(const struct image *im)
{
	uint64_t pos = 0, from, to, hole_from, hole_to;

	if (undo(im))
		return;
	while (pos < im->size) {
		if (!next_data(im, im->base_fd, pos, &from, &to))
			from = to = im->size;
		/* up to there the base has a hole */
		while (pos < from && next_data(im, im->out_fd, pos, &hole_from, &hole_to) &&
		       hole_from < from) {
			if (hole_to > from)
				hole_to = from;
			punch(im, hole_from, hole_to - hole_from);
			pos = hole_to;
		}
		copy_range(im, from, to);
		pos = to;
	}
}

/* ---- replay ------------------------------------------------------------------- */

enum fate {
	GONE,
	THERE,
	PARTLY,
};

struct op {
	const struct powerlog_rec *r;
	uint64_t end;		/* it took effect up to here */
	bool durable;
	enum fate fate;
	uint64_t chance;	/* of a sector's being there, of 2^32 */
	uint64_t salt;
	uint64_t order;		/* salt of its key */
};

/* What is seen of a sector: the one with the largest key. */
struct cell {
	uint64_t key;
	uint32_t op;		/* from 1; 0: the base */
};

static struct mutation mutation_of(uint32_t id)
{
	struct mutation m = o.all;
	int i;

	for (i = 0; i < o.nof; i++)
		if (o.of_id[i] == id) {
			m.flush |= o.of[i].flush;
			m.fua |= o.of[i].fua;
		}
	return m;
}

static struct op *ops_of(const struct image *im, uint32_t *nr)
{
	struct op *ops = malloc((plog.nr + 1) * sizeof(*ops));
	struct mutation m = mutation_of(im->id);
	const struct powerlog_rec *r;
	uint64_t i, flushed = 0;
	uint32_t n = 0;
	struct op *op;

	if (!ops)
		die(EXIT_IO, "no memory");
	/* records are in the order of submission: the last one counts */
	for (i = 0; i < plog.nr && plog.rec[i]->submit <= o.at; i++) {
		r = plog.rec[i];
		if (r->id == im->id && is_flush(r) && done(r, o.at) && !m.flush)
			flushed = r->submit;
	}
	for (i = 0; i < plog.nr && plog.rec[i]->submit <= o.at; i++) {
		r = plog.rec[i];
		if (r->id != im->id || r->type > POWERLOG_DISCARD)
			continue;
		if (r->sector + r->sectors > im->size / SECTOR)
			die(EXIT_IO, "%s is smaller than what was written to device %u", im->base, im->id);
		op = &ops[n++];
		op->r = r;
		op->end = r->complete && r->complete <= o.at ? r->complete : o.at + 1;
		op->durable = done(r, o.at) &&
			      ((r->flags & POWERLOG_FUA && !m.fua) || r->complete < flushed);
		op->salt = mix(mix(o.seed, im->id), r->submit);
		op->order = o.ordered ? mix(mix(o.order, im->id), r->submit) : op->salt;
	}
	*nr = n;
	return ops;
}

/* A point of its time in flight; those of two that were not in flight together are in order. */
static uint64_t key_of(const struct op *op, uint64_t salt)
{
	uint64_t span = (op->end - op->r->submit) << 20;

	return (op->r->submit << 20) + mix(salt, 2) % (span + 1);
}

static enum mode draw(const struct image *im, struct op *ops, uint32_t nr)
{
	uint64_t state = mix(mix(o.seed, im->id), 3), cut, p, c;
	enum mode mode = o.mode >= 0 ? o.mode : (int)(next(&state) % MODES);
	uint32_t i, loose = 0, one, k = 0;

	for (i = 0; i < nr; i++)
		loose += !ops[i].durable;
	one = loose ? next(&state) % loose : 0;
	p = (1 + next(&state) % 7) << 29;
	/* so that those that are not durable are cut, not the whole log */
	cut = 0;
	for (i = 0; i < nr; i++)
		if (!ops[i].durable && k++ == one)
			cut = ops[i].end;
	for (i = 0, k = 0; i < nr; i++) {
		struct op *op = &ops[i];

		c = mix(op->salt, 5);
		op->fate = THERE;
		if (op->durable)
			goto discards;
		switch (mode) {
		case NONE:
			op->fate = GONE;
			break;
		case ONLY_ONE:
			op->fate = k == one ? THERE : GONE;
			break;
		case ALL_BUT_ONE:
			op->fate = k == one ? GONE : THERE;
			break;
		case PREFIX:
			op->fate = op->end <= cut ? THERE : GONE;
			break;
		case WHOLE:
			op->fate = (c & 0xffffffff) < p ? THERE : GONE;
			break;
		case TORN:
			op->fate = PARTLY;
			break;
		case MIXED:
			op->fate = c % 4 == 0 ? GONE : c % 4 == 1 ? THERE : PARTLY;
			break;
		default:
			break;
		}
		/* mostly half of it, but also nearly all and nearly nothing */
		op->chance = (1 + (c >> 40) % 15) << 28;
		k++;
discards:
		if (op->r->type == POWERLOG_DISCARD && !o.discard_zeros && mix(op->salt, 6) % 2)
			op->fate = GONE;
	}
	return mode;
}

static struct cell *cell_of(struct cell **table, uint64_t sector)
{
	struct cell **part = &table[sector / CHUNK];

	if (!*part)
		*part = calloc(CHUNK, sizeof(**part));
	if (!*part)
		die(EXIT_IO, "no memory");
	return &(*part)[sector % CHUNK];
}

static void place(struct cell **table, const struct op *op, uint32_t nr)
{
	uint64_t s = op->r->sector, end = s + op->r->sectors, unit = o.sector / SECTOR, stop, salt;
	uint64_t key = key_of(op, op->order);
	struct cell *c;

	for (; s < end; s = stop) {
		stop = (s / unit + 1) * unit;
		if (stop > end)
			stop = end;
		/* each unit for itself where it is torn */
		if (op->fate == PARTLY) {
			salt = mix(op->salt, s / unit + 100);
			if ((salt & 0xffffffff) >= op->chance)
				continue;
			if (!o.ordered)
				key = key_of(op, salt);
		}
		for (; s < stop; s++) {
			c = cell_of(table, s);
			if (key >= c->key)
				*c = (struct cell){ key, nr };
		}
	}
}

static void write_run(struct image *im, const struct op *op, uint64_t s, uint64_t n)
{
	patched(im, s * SECTOR, n * SECTOR);
	if (op->r->type == POWERLOG_WRITE)
		put(im, data_of(op->r) + (s - op->r->sector) * SECTOR, n * SECTOR, s * SECTOR);
	else
		punch(im, s * SECTOR, n * SECTOR);
}

/* Runs of sectors of the same operation. */
static void write_table(struct image *im, struct cell **table, const struct op *ops)
{
	uint64_t parts = (im->size / SECTOR + CHUNK - 1) / CHUNK, i, s, start = 0;
	uint32_t in = 0, op;

	for (i = 0; i <= parts; i++)
		for (s = i * CHUNK; s < (i + 1) * CHUNK; s++) {
			op = i < parts && table[i] ? table[i][s % CHUNK].op : 0;
			if (op != in) {
				if (in)
					write_run(im, &ops[in - 1], start, s - start);
				in = op;
				start = s;
			}
			if (i == parts || !table[i])
				break;
		}
}

static void replay(struct image *im)
{
	uint64_t parts = (im->size / SECTOR + CHUNK - 1) / CHUNK, i;
	struct cell **table = calloc(parts + 1, sizeof(*table));
	uint32_t nr, n, durable = 0, fates[3] = { 0 };
	struct op *ops = ops_of(im, &nr);
	enum mode mode = draw(im, ops, nr);

	if (!table)
		die(EXIT_IO, "no memory");
	revert(im);
	for (n = 0; n < nr; n++) {
		durable += ops[n].durable;
		if (!ops[n].durable)
			fates[ops[n].fate]++;
		if (ops[n].fate != GONE)
			place(table, &ops[n], n + 1);
	}
	write_table(im, table, ops);
	printf("id=%u mode=%s durable=%u there=%u torn=%u gone=%u\n", im->id, mode_names[mode],
	       durable, fates[THERE], fates[PARTLY], fates[GONE]);
	for (i = 0; i < parts; i++)
		free(table[i]);
	free(table);
	free(ops);
}

/* ---- save --------------------------------------------------------------------- */

static void do_save(const char *dev, const char *path)
{
	void *buf = buffer_alloc(PIECE);
	struct image im = { .out = path };
	struct target t;
	uint64_t off;
	uint32_t len, i, run;
	int ret = target_open(&t, dev, O_RDONLY);

	if (ret)
		die(EXIT_IO, "%s: %s", dev, errname(ret));
	im.out_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (im.out_fd < 0 || ftruncate(im.out_fd, t.size))
		die(EXIT_IO, "%s: %s", path, strerror(errno));
	for (off = 0; off < t.size; off += len) {
		len = t.size - off < PIECE ? t.size - off : PIECE;
		get(t.fd, dev, buf, len, off);
		for (i = 0; i < len; i += run) {
			const char *p = (char *)buf + i;

			run = len - i < 4096 ? len - i : 4096;
			if (*p || memcmp(p, p + 1, run - 1))
				put(&im, p, run, off + i);
		}
	}
	free(buf);
}

/* ---- arguments ---------------------------------------------------------------- */

static void parse_mutation(char *s)
{
	char *id = strchr(s, ':');
	struct mutation *m = &o.all;

	if (id) {
		*id++ = '\0';
		if (o.nof == DEVS)
			die(EXIT_USAGE, "too many mutations");
		o.of_id[o.nof] = parse_size(id);
		m = &o.of[o.nof++];
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
			o.at = parse_size(optarg);
			break;
		case 's':
			o.seed = parse_size(optarg);
			break;
		case 'S':
			o.sector = parse_size(optarg);
			break;
		case 'c':
			o.mode = parse_mode(optarg);
			break;
		case 'm':
			parse_mutation(optarg);
			break;
		case 'd':
			o.discard_zeros = !strcmp(optarg, "zeros");
			break;
		case 'o':
			o.order = parse_size(optarg);
			o.ordered = true;
			break;
		case 'f':
			o.from = parse_size(optarg);
			break;
		case 't':
			o.to = parse_size(optarg);
			break;
		default:
			die(EXIT_USAGE, "see the head of cbw-power.c");
		}
	}
	if (o.sector < SECTOR || o.sector & (o.sector - 1))
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
			do_info();
			return 0;
		}
		if (!strcmp(cmd, "points") && argc == 3) {
			do_points(parse_size(argv[1]), parse_size(argv[2]));
			return 0;
		}
		if (!is_replay || argc < 2)
			die(EXIT_USAGE, "see the head of cbw-power.c");
		if (o.at > plog.head->seq)
			die(EXIT_USAGE, "--at is a number up to %llu", (ull)plog.head->seq);
	}
	for (; i < argc; i++) {
		im = parse_image(argv[i], is_replay);
		image_open(&im);
		if (is_replay)
			replay(&im);
		else
			revert(&im);
		undo_write(&im);
		free(im.patch);
		close(im.base_fd);
		close(im.out_fd);
	}
	return 0;
}
