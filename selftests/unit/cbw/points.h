/* SPDX-License-Identifier: GPL-2.0-or-later */
/* chains of random content, with what each point in time has to be */
#ifndef POINTS_H
#define POINTS_H

#include "chain.h"
#include "common.h"

#define POINTS_MAX	64

/**
 * struct points - the reference
 * @size: of the volume
 * @data: content of each id, NULL: there is none
 * @dir: of the chain
 */
struct points {
	uint64_t size;
	unsigned char *data[POINTS_MAX];
	char *dir;
};

/* kinds of images that points_add() makes */
#define POINT_FULL	(1u << 0)
#define POINT_DEFLATE	(1u << 1)	/* compressed, where it pays */
#define POINT_ZSTD	(1u << 2)
#define POINT_DENSE	(1u << 4)	/* all of it has changed, and has data */
#define POINT_OLD	(1u << 3)	/* without details, as an older version made it */

void points_init(struct points *p, const char *dir, uint64_t size);
void points_free(struct points *p);

/* The next point in time, on top of @parent (0: a full one); seconds of its cut. */
void points_add(struct points *p, uint32_t parent, uint32_t cluster,
		unsigned int flags, int64_t when);

/* @nr of them on top of each other, an hour apart; of @kinds kinds in turn. */
void points_build(struct points *p, const char *dir, uint64_t size, unsigned int nr,
		  const uint32_t *cluster, const unsigned int *flags, size_t kinds);

/* Calls of progress_tick() that said more than all of it. */
extern unsigned int points_beyond;

/* Ends what was begun; then @id goes to what it stands on, if that is not @done. */
int points_merge(const char *dir, uint32_t id, uint32_t done, bool punch,
		 struct cbw_error *err);

/*
 * All that the manifest names is there, sound, and reads as it has to; nothing else is
 * there. @deep: qemu-img says so too.
 */
void points_check(const struct points *p, bool deep);

/* Entries that there are, as "1 3 7". */
void points_ids(const struct points *p, char text[256]);
/* They have to be these. */
void points_are(const struct points *p, const char *want);

#endif
