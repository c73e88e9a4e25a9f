/* SPDX-License-Identifier: GPL-2.0-or-later */
/* from a snapshot into one image */
#ifndef CBW_COPY_H
#define CBW_COPY_H

#include "libcbw.h"
#include "progress.h"
#include "sums.h"

struct qcow2_image;

/* a growing list of ranges, in order, neighbours merged */
struct ranges {
	struct cbw_range *v;
	size_t nr, room;
};

/* Appends; offsets must not go back. */
void ranges_add(struct ranges *r, uint64_t offset, uint64_t length);
void ranges_free(struct ranges *r);
/* Outwards to multiples of @unit, at most to @size. */
void ranges_widen(struct ranges *r, uint64_t unit, uint64_t size);
uint64_t ranges_total(const struct ranges *r);
/*
 * Moves what covers whole chunks from @from to @to; the rest stays, for what
 * comes behind it. The end of the device counts as the end of a chunk.
 */
void ranges_take_whole(struct ranges *from, struct ranges *to, uint64_t chunk,
		       uint64_t size);

/**
 * struct copy - a copy of ranges of a snapshot
 * @src: descriptor of the snapshot, O_DIRECT
 * @size: of the snapshot
 * @ranges: what to copy, multiples of the image's cluster, but for the end
 * @img: the new image; @img_fd: its file, O_DIRECT if it can
 * @zero: ranges that read as zeros and are not read, as multiples of the image's cluster;
 *	none of them in @ranges; NULL: none
 * @backed: the image has a backing file, so zeros have to be said
 * @compress: level of compression, 0: none
 * @release: called with ranges whose data is durable; NULL: not
 * @why: called when a read failed, makes the text; NULL: the errno's
 * @check: called now and then, also while reads hang: 0 or an error that ends it
 */
struct copy {
	const char *name;
	const char *target;
	int src;
	uint64_t size;
	const struct ranges *ranges;
	const struct ranges *zero;
	uint32_t chunk;
	struct qcow2_image *img;
	int img_fd;
	bool backed;
	int compress;
	uint64_t rate;
	bool json;
	int (*release)(void *arg, const struct ranges *r,
		       struct cbw_error *err);
	int (*why)(void *arg, uint64_t offset, int code,
		   struct cbw_error *err);
	int (*check)(void *arg, struct cbw_error *err);
	void *arg;
	/* out */
	uint64_t copied;
	uint64_t zeros;
	struct sums sums;	/* for sums_free(), when it went well */
};

/**
 * copy_run - do it
 *
 * Data is written and was released; the image's metadata is not flushed yet.
 */
int copy_run(struct copy *copy, struct cbw_error *err);

#endif
