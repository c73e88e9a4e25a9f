/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a source to a sink: the one engine of copy, backup and restore.  It goes through the
 * source in ascending order, leaves out what is zero, compresses, and sums up.
 */
#ifndef CBW_ENGINE_H
#define CBW_ENGINE_H

#include "progress.h"
#include "ranges.h"
#include "sink.h"
#include "source.h"
#include "sums.h"

/**
 * struct engine - a copy
 * @what, @name: for progress: "backup", "vg-db"
 * @ranges: what to copy, multiples of the sink's unit but for the end; NULL: all
 * @zero: ranges that read as zeros and are not read, likewise, none of them in @ranges;
 *	NULL: none
 * @rate: bytes per second that are read, 0: no limit
 * @workers: threads, 0: one for each processor. Source and sink were opened for as many.
 * @sums: what the target gets is summed up here; NULL: it is not
 * @only_changed: what the target has already is not written; it can be read
 * @salvage: what cannot be read is told to @lost, and becomes zeros; in any order, and by any thread,
 *	one at a time
 * @chunk: what is released is whole chunks
 * @durable: called with ranges that are durable in the target, about every @sync_bytes (0: 64
 *	MiB); NULL: not. They are not before the end where @quiet, which flushes the sink each time.
 * @why: makes the text for a range that cannot be read; NULL: the errno's
 * @check: called now and then, also while reads hang: 0 or an error that ends it
 */
struct engine {
	const char *what, *name;
	struct source *src;
	struct sink *dst;
	const struct ranges *ranges;
	const struct ranges *zero;
	uint64_t rate;
	unsigned int workers;
	bool json;
	struct sums *sums;
	bool only_changed;
	bool salvage;
	uint32_t chunk;
	uint64_t sync_bytes;
	bool quiet;
	int (*durable)(void *arg, const struct ranges *r, struct cbw_error *err);
	int (*why)(void *arg, uint64_t offset, int code, struct cbw_error *err);
	int (*check)(void *arg, struct cbw_error *err);
	void (*lost)(void *arg, uint64_t offset, uint64_t length, const char *why);
	void *arg;
	/* out: bytes of data that were written, or were there already; of zeros; not readable */
	uint64_t copied;
	uint64_t unchanged;
	uint64_t zeros;
	uint64_t unreadable;
	/* out: a thread hangs in source or sink, so closing them does nothing, and the images
	 * that they are made of must stay open */
	bool stuck;
};

/**
 * engine_run - do it
 *
 * The sink is not flushed: what was written may not be durable yet.
 */
int engine_run(struct engine *e, struct cbw_error *err);

#endif
