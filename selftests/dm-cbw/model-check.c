// SPDX-License-Identifier: GPL-2.0-or-later
/* What the module says against what the model says, and what to print when they differ. */
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#include "model.h"

#define LOG	30u
#define LINES	24u
#define PIECE	(1u << 20)

uint64_t checks, compared, hidden;
bool settling;

static char log_ring[LOG][2048];
static unsigned int log_nr;
static char why[65536];
static bool only_busy;		/* that is all that differs */

/* ---- words ------------------------------------------------------------------------------ */

const char *name_text(unsigned int name)
{
	static char text[4][32];
	static unsigned int i;
	char *s = text[++i % 4];

	if (name < NAMES_OFTEN - 2)
		return names[name].s;
	if (name < NAMES_OFTEN)
		return name == NAMES_OFTEN - 2 ? "(odd)" : "(long)";
	if (name < NAMES)
		return names[name].s;
	snprintf(s, sizeof(text[0]), "(bad %u)", name - NAMES);
	return s;
}

const char *cut_text(const struct cbw_cut_id *cut)
{
	static char text[4][16];
	static unsigned int i;
	char *s = text[++i % 4];

	snprintf(s, sizeof(text[0]), "%02x%02x%02x%02x", cut->b[0], cut->b[1], cut->b[2],
		 cut->b[3]);
	return s;
}

void log_op(const char *fmt, ...)
{
	char *s = log_ring[log_nr++ % LOG];
	va_list ap;
	int n;

	n = snprintf(s, sizeof(log_ring[0]), "%llu: ", (ull)ops_done);
	va_start(ap, fmt);
	vsnprintf(s + n, sizeof(log_ring[0]) - n, fmt, ap);
	va_end(ap);
}

/* Behind the last one. */
void log_result(const char *fmt, ...)
{
	char *s = log_ring[(log_nr - 1) % LOG];
	size_t n = strlen(s);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s + n, sizeof(log_ring[0]) - n, fmt, ap);
	va_end(ap);
}

void mismatch(const char *fmt, ...)
{
	unsigned int i;
	va_list ap;

	printf("the last operations:\n");
	for (i = log_nr > LOG ? log_nr - LOG : 0; i < log_nr; i++)
		printf("  %s\n", log_ring[i % LOG]);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	exit(EXIT_DIFFERS);
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
	size_t n = strlen(why);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why + n, sizeof(why) - n, fmt, ap);
	va_end(ap);
}

static void say_set(const char *what, const struct set *s)
{
	uint64_t start, end = 0;
	unsigned int n = 0;

	say("\n  %s:", what);
	while (set_next(s, &start, &end)) {
		if (n++ == LINES) {
			say(" ...");
			break;
		}
		say(" %llu+%llu", (ull)start, (ull)(end - start));
	}
}

/* ---- one bitmap --------------------------------------------------------------------------- */

static int query_fd(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = ctl_open();
	if (fd < 0)
		die(EXIT_IO, "/dev/cbw-control: %s", errname(fd));
	return fd;
}

/*
 * What was discarded reads as zeroes, on the devices that this runs on, and no write is of
 * zeroes but those that say so.
 */
static void discarded(const struct mdev *d, const struct bitmap *b, const struct cbw_extent *e)
{
	static unsigned char *buf;
	uint64_t at = e->offset, end = e->offset + e->length, n, i;
	int ret;

	if (!buf)
		buf = buffer_alloc(PIECE);
	for (; at < end; at += n) {
		n = end - at < PIECE ? end - at : PIECE;
		ret = read_full(d->of->t.fd, buf, n, at);
		if (ret)
			mismatch("%s: cannot be read: %s", d->of->name, errname(ret));
		for (i = 0; i < n; i++)
			if (buf[i])
				mismatch("%s: '%s': sector %llu is discarded, says extent %llu+%llu, and has data",
					 d->of->name, name_text(b->name),
					 (ull)((at + i) / SECTOR), (ull)e->offset,
					 (ull)e->length);
	}
	hidden += e->length;
}

/* One that does not record does not know what becomes of what was discarded. */
static bool flags_good(const struct bitmap *b, bool frozen, uint32_t flags)
{
	return flags == CBW_EXTENT_DIRTY ||
	       (flags == (CBW_EXTENT_DIRTY | CBW_EXTENT_DISCARDED) &&
		(frozen ? b->told : b->enabled));
}

/* @still: nothing is in flight, and nothing was written since this was recorded */
static struct set *found(const struct mdev *d, const struct bitmap *b,
			 const struct cbw_cut_id *cut, bool still)
{
	static const uint32_t rooms[] = { 1024, 1024, 1024, 64, 5 };
	struct set *s = set_new(d->of->nr);
	uint64_t g = b->granularity, end = 0;
	struct cbw_extent *e;
	uint32_t granularity;
	size_t i, nr;
	int ret;

	ret = ctl_extents(query_fd(), d->of->no, names[b->name], cut, 0, rooms[checks % 5], &e, &nr,
			  &granularity);
	if (ret)
		mismatch("%s: extents of '%s', cut %s: %s", d->of->name, name_text(b->name),
			 cut_text(cut), errname(ret));
	for (i = 0; i < nr; i++) {
		if (e[i].offset < end || e[i].offset % g || !e[i].length ||
		    e[i].offset + e[i].length > d->of->t.size ||
		    (e[i].length % g && e[i].offset + e[i].length != d->of->t.size) ||
		    !flags_good(b, !ctl_cut_none(cut), e[i].flags) || e[i].reserved || granularity != g)
			mismatch("%s: '%s': extent %llu+%llu flags %u, granularity %u: bad",
				 d->of->name, name_text(b->name), (ull)e[i].offset,
				 (ull)e[i].length, e[i].flags, granularity);
		end = e[i].offset + e[i].length;
		set_mark(s, e[i].offset / SECTOR, e[i].length / SECTOR, 0);
		if (still && e[i].flags & CBW_EXTENT_DISCARDED && !d->suspended)
			discarded(d, b, &e[i]);
	}
	free(e);
	return s;
}

static bool half_differs(const struct mdev *d, const struct bitmap *b, const struct half *h,
			 const char *which, const struct set *got, bool growing)
{
	uint64_t at;

	compared++;
	if (set_missing(h->must, got, NULL, &at))
		say("%s: '%s', %s half: sector %llu is not dirty and has to be", d->of->name,
		    name_text(b->name), which, (ull)at);
	else if (!growing && set_missing(got, h->may, NULL, &at))
		say("%s: '%s', %s half: sector %llu is dirty and must not be", d->of->name,
		    name_text(b->name), which, (ull)at);
	else
		return false;
	say_set("has to be (sectors)", h->must);
	if (set_missing(h->may, h->must, NULL, &at))
		say_set("may be", h->may);
	say_set("is", got);
	return true;
}

static bool extents_differ(const struct mdev *d, const struct bitmap *b, unsigned int how)
{
	static const struct cbw_cut_id none;
	struct set *frozen = NULL, *active;
	bool differs = false;
	uint64_t at;

	/* first the half that does not change */
	if (b->is_frozen && !(how & CHECK_PINNED)) {
		frozen = found(d, b, &b->cut, !(how & CHECK_LOADED) && b->writes == load_writes());
		differs = half_differs(d, b, &b->frozen, "frozen", frozen, false);
	}
	active = found(d, b, &none, !(how & (CHECK_LOADED | CHECK_PINNED)));
	differs = differs || half_differs(d, b, &b->active, "active", active, how & CHECK_LOADED);
	if (!differs && frozen && set_missing(b->either, frozen, active, &at)) {
		say("%s: '%s': sector %llu is dirty in neither half", d->of->name,
		    name_text(b->name), (ull)at);
		say_set("has to be in one", b->either);
		say_set("frozen", frozen);
		say_set("active", active);
		differs = true;
	}
	free(frozen);
	free(active);
	return differs;
}

static uint64_t bytes(const struct set *a, const struct set *b)
{
	return (b ? set_count_either(a, b) : set_count(a)) * SECTOR;
}

static bool entry_differs(const struct mdev *d, const struct bitmap *b,
			  const struct cbw_bitmap_entry *e, unsigned int how)
{
	uint32_t flags = (b->enabled ? CBW_BITMAP_ENABLED : 0) |
			 (b->is_frozen ? CBW_BITMAP_BUSY : 0);
	uint64_t least = bytes(b->active.must, b->frozen.must);
	uint64_t most = bytes(b->active.may, b->frozen.may);

	only_busy = e->flags == (flags | CBW_BITMAP_BUSY);
	if (e->flags != flags)
		say("%s: '%s': flags %#x, expected %#x", d->of->name, name_text(b->name), e->flags,
		    flags);
	else if (e->granularity != b->granularity)
		say("%s: '%s': granularity %u, expected %u", d->of->name, name_text(b->name),
		    e->granularity, b->granularity);
	else if (!ctl_cut_same(&e->base, &b->base))
		say("%s: '%s': base %s, expected %s", d->of->name, name_text(b->name),
		    cut_text(&e->base), cut_text(&b->base));
	else if (!ctl_cut_same(&e->cut, &b->cut))
		say("%s: '%s': cut %s, expected %s", d->of->name, name_text(b->name),
		    cut_text(&e->cut), cut_text(&b->cut));
	else if (e->dirty_bytes < least || (e->dirty_bytes > most && !(how & CHECK_LOADED)))
		say("%s: '%s': %llu bytes are dirty, expected %llu to %llu", d->of->name,
		    name_text(b->name), (ull)e->dirty_bytes, (ull)least, (ull)most);
	else
		return false;
	return true;
}

/* ---- all of them ---------------------------------------------------------------------------- */

static struct bitmap *find_bytes(struct mdev *d, const struct cbw_bitmap_entry *e)
{
	unsigned int i;

	for (i = 0; i < d->nr_bitmaps; i++)
		if (names[d->bitmap[i]->name].len == e->name_len &&
		    !memcmp(names[d->bitmap[i]->name].s, e->name, e->name_len))
			return d->bitmap[i];
	return NULL;
}

static bool device_differs(struct mdev *d, unsigned int how)
{
	struct cbw_bitmap_entry *buf, *e;
	bool differs = false;
	struct bitmap *b;
	uint64_t size;
	uint32_t i, nr;
	int ret = ctl_list(query_fd(), d->of->no, &buf, &nr, &size);

	if (ret)
		mismatch("%s: list: %s", d->of->name, errname(ret));
	if (nr != d->nr_bitmaps || size != d->of->t.size) {
		say("%s: %u bitmaps, expected %u; %llu bytes, expected %llu", d->of->name, nr,
		    d->nr_bitmaps, (ull)size, (ull)d->of->t.size);
		differs = true;
	}
	for (i = 0, e = buf; i < nr && !differs; i++, e = ctl_list_next(e)) {
		b = find_bytes(d, e);
		if (!b) {
			say("%s: there is a bitmap '%.*s'", d->of->name, (int)e->name_len, e->name);
			differs = true;
		} else {
			differs = entry_differs(d, b, e, how);
		}
	}
	free(buf);
	if (how & CHECK_LIST)
		return differs;
	for (i = 0; i < d->nr_bitmaps && !differs; i++)
		differs = extents_differ(d, d->bitmap[i], how);
	return differs;
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static bool all_differ(unsigned int how)
{
	unsigned int i;

	why[0] = '\0';
	only_busy = false;
	for (i = 0; i < nr_devices; i++)
		if (device_differs(&model->dev[i], how))
			return true;
	return false;
}

void check_all(unsigned int how)
{
	double end = seconds() + 60;

	/* An abort in the background ends some time; meanwhile the bitmap is busy. */
	while (settling && all_differ(how | CHECK_LIST) && only_busy) {
		if (seconds() > end)
			mismatch("an abort does not end: %s", why);
		usleep(2000);
	}
	settling = false;
	checks++;
	if (all_differ(how))
		mismatch("%s", why);
}

void check_settle(void)
{
	if (settling)
		check_all(load_running() ? CHECK_LOADED | CHECK_LIST : CHECK_LIST);
}

static void resync(struct half *h, struct set *got)
{
	set_copy(h->must, got);
	set_copy(h->may, got);
	free(got);
}

void check_resync(void)
{
	static const struct cbw_cut_id none;
	struct bitmap *b;
	struct mdev *d;
	unsigned int i;

	for (d = model->dev; d < model->dev + nr_devices; d++)
		for (i = 0; i < d->nr_bitmaps; i++) {
			b = d->bitmap[i];
			resync(&b->active, found(d, b, &none, false));
			if (!b->is_frozen)
				continue;
			resync(&b->frozen, found(d, b, &b->cut, false));
			set_empty(b->either);
		}
}
