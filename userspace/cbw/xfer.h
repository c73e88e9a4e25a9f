/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine that moves data: io_uring, many requests in flight. Reads are issued,
 * data is handed over, and completed pieces are reported in the order of the
 * pieces; reads and writes themselves complete in any order.
 */
#ifndef CBW_XFER_H
#define CBW_XFER_H

#include <stdint.h>

#include "libcbw.h"

#define XFER_PIECE	(256u << 10)	/* most a piece can have */
#define XFER_DEPTH	32		/* pieces in flight */
#define XFER_WRITES_MAX	64		/* writes of one piece */

/**
 * struct xfer_piece - a range to move
 * @offset: where it belongs; for the owner, the engine does not look at it
 * @length: bytes that have to be read, at most XFER_PIECE
 * @ask: bytes to ask for, @length to XFER_PIECE: the read may end early, behind
 *	@length, at the end of the file (so that O_DIRECT can ask for whole blocks)
 * @fd, @src_offset: where to read
 */
struct xfer_piece {
	uint64_t offset;
	uint32_t length;
	uint32_t ask;
	int fd;
	uint64_t src_offset;
};

/** struct xfer_write - a part of a piece's buffer, and where it goes */
struct xfer_write {
	uint32_t buf_offset;
	uint32_t length;
	int fd;
	uint64_t dst_offset;
};

/**
 * struct xfer_ops - the owner's part; all called from xfer_run()
 * @next: the next piece; 1, 0 no more, or an error
 * @place: the data of a piece has come: up to XFER_WRITES_MAX writes of it; their
 *	number, or an error. @buf has room for XFER_PIECE.
 * @done: all writes of a piece have completed; may be NULL
 * @mark: what was done until now will be durable at the next @synced
 * @synced: it is; NULL: no fdatasync
 * @read_failed: makes the text for a read that failed; returns the error
 * @tick: called about five times a second, for progress and for what should end
 *	the run even while nothing completes; 0 or an error; may be NULL
 */
struct xfer_ops {
	int (*next)(void *ctx, struct xfer_piece *piece, struct cbw_error *err);
	int (*place)(void *ctx, const struct xfer_piece *piece, void *buf,
		     struct xfer_write *writes, struct cbw_error *err);
	int (*done)(void *ctx, const struct xfer_piece *piece,
		    struct cbw_error *err);
	void (*mark)(void *ctx);
	int (*synced)(void *ctx, struct cbw_error *err);
	int (*read_failed)(void *ctx, const struct xfer_piece *piece, int code,
			   struct cbw_error *err);
	int (*tick)(void *ctx, struct cbw_error *err);
};

/**
 * struct xfer_params
 * @target: name for messages about writes
 * @sync_fd: what to fdatasync for @synced
 * @sync_bytes: that often
 * @rate: bytes per second that are read, 0: no limit
 */
struct xfer_params {
	const char *target;
	int sync_fd;
	uint64_t sync_bytes;
	uint64_t rate;
};

/**
 * xfer_run - move everything
 *
 * Returns when nothing is in flight any more, after an error too. -EINTR: SIGINT or
 * SIGTERM came.
 */
int xfer_run(const struct xfer_ops *ops, void *ctx,
	     const struct xfer_params *params, struct cbw_error *err);

/** now_ns - monotonic clock */
uint64_t now_ns(void);

#endif
