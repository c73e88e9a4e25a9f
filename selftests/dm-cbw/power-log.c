// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cbw-power: the log, and what there is to say of it.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "power.h"

struct plog plog;

void log_open(const char *path)
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

const char *data_of(const struct powerlog_rec *r)
{
	return (const char *)(r + 1);
}

bool is_flush(const struct powerlog_rec *r)
{
	return r->type == POWERLOG_FLUSH || r->flags & POWERLOG_PREFLUSH;
}

bool completed(const struct powerlog_rec *r, uint64_t at)
{
	return r->complete && r->complete <= at && !r->error;
}

void do_dump(void)
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
		if (completed(r, at) && (is_flush(r) || (marks && r->type == POWERLOG_MARK)))
			e[n++] = (struct event){ r->complete, r };
	}
	qsort(e, n, sizeof(*e), by_seq);
	*nr = n;
	return e;
}

void do_info(uint64_t at)
{
	uint64_t n, i;
	struct event *e = events(at, true, &n);

	printf("events %llu records %llu\n", (ull)plog.head->seq, (ull)plog.nr);
	for (i = 0; i < n; i++)
		if (e[i].r->type == POWERLOG_MARK)
			printf("mark %llu %s\n", (ull)e[i].seq, data_of(e[i].r));
		else
			printf("flush %llu %u\n", (ull)e[i].seq, e[i].r->id);
	free(e);
}

void do_points(uint64_t want, uint64_t seed, uint64_t from, uint64_t to)
{
	uint64_t state = mix(seed, 17), last = plog.head->seq, n, i, first, nr = 0, k;
	struct event *e = events(to, false, &n);
	uint64_t *point = calloc(want + 1, sizeof(*point));

	if (!point)
		die(EXIT_IO, "no memory");
	if (to < last)
		last = to;
	first = from ? from : 1;
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
