/* SPDX-License-Identifier: GPL-2.0-or-later */
/* from a snapshot into one image, or whatever a target is */
#ifndef CBW_COPY_H
#define CBW_COPY_H

#include "libcbw.h"
#include "ranges.h"
#include "sums.h"

struct qcow2_image;
struct sink;

/**
 * struct copy - a copy of ranges of a snapshot
 * @src: descriptor of the snapshot
 * @size: of the snapshot
 * @ranges: what to copy, multiples of the image's cluster, but for the end
 * @zero: ranges that read as zeros and are not read, as multiples of the image's cluster;
 *	none of them in @ranges; NULL: none
 * @dst: where it goes, of the caller; NULL: @img
 * @img: the new image; @img_fd: its file, O_DIRECT if it can
 * @backed: the image has a backing file, so zeros have to be said
 * @compress: level of compression, 0: none
 * @quiet: what is released is durable in the image for who opens it later, not only for this run
 * @sync_bytes: how often; 0: the engine's own
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
	struct sink *dst;
	struct qcow2_image *img;
	int img_fd;
	bool backed;
	int compress;
	uint64_t rate;
	bool json;
	bool quiet;
	uint64_t sync_bytes;
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
 * The image is durable then, and what was copied has been released; @dst was not flushed, so the
 * last of it may be neither.
 */
int copy_run(struct copy *copy, struct cbw_error *err);

#endif
