/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parts of cbw-power (cbw-power.c says what it does):
 *
 *	power-log.c	the log
 *	power-image.c	images
 *	power-replay.c	from the one to the other
 *	cbw-power.c	arguments
 */
#ifndef POWER_H
#define POWER_H

#include <sys/stat.h>

#include "../powerlog/powerlog.h"
#include "stamp.h"

#define DEVS		16

typedef unsigned long long ull;

static inline uint64_t mix(uint64_t h, uint64_t v)
{
	h += v + 0x9e3779b97f4a7c15ull;
	h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
	h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
	return h ^ (h >> 31);
}

static inline uint64_t next(uint64_t *state)
{
	*state = mix(*state, 1);
	return *state;
}

/* ---- power-log.c ------------------------------------------------------------------ */

struct plog {
	const struct powerlog_head *head;
	const struct powerlog_rec **rec;
	uint64_t nr;
};

extern struct plog plog;

void log_open(const char *path);
const char *data_of(const struct powerlog_rec *r);
bool is_flush(const struct powerlog_rec *r);
/* Without an error, up to @at. */
bool completed(const struct powerlog_rec *r, uint64_t at);

void do_dump(void);
void do_info(uint64_t at);
void do_points(uint64_t want, uint64_t seed, uint64_t from, uint64_t to);

/* ---- power-image.c ---------------------------------------------------------------- */

struct range {
	uint64_t off, len;
};

struct image {
	uint32_t id;
	const char *base, *out;
	int base_fd, out_fd;
	uint64_t size;
	struct stat base_stat;
	struct range *patch;	/* what was written since it was equal */
	uint64_t patches, room;
};

void image_open(struct image *im);
/* Equal to its base, whatever it was. */
void image_revert(const struct image *im);
/* After that.  @buf NULL: a hole. */
void image_patch(struct image *im, const void *buf, size_t len, uint64_t off);
/* What was written can be taken back from now on. */
void image_close(struct image *im);

void do_save(const char *dev, const char *path);

/* ---- power-replay.c --------------------------------------------------------------- */

enum mode {
	NONE, ALL, ONLY_ONE, ALL_BUT_ONE, PREFIX, WHOLE, TORN, MIXED, MODES,
};

extern const char *const mode_names[MODES];

struct mutation {
	bool flush, fua;
};

/* Writes to an image, which it makes equal to its base first. */
void replay(struct image *im);

/* ---- cbw-power.c ------------------------------------------------------------------ */

/* @ordered: there is an @order; @mode: -1: any; the rest as the options are called */
struct options {
	uint64_t at, seed, order, from, to;
	bool ordered;
	uint32_t sector;
	int mode;
	bool discard_zeros;
	struct mutation all, of[DEVS];
	uint32_t of_id[DEVS];
	int nof;
};

extern struct options opt;

#endif
