/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pipeline that moves data.  A piece goes through it in these steps:
 *
 *	next	the owner says which piece comes next (main thread, in order)
 *	read	by io_uring, or in a worker thread, or not at all (any order)
 *	work	what takes the processor: in a worker thread, if it is quick in the main one
 *		(any order)
 *	place	where it goes is decided (main thread, in order)
 *	write	by io_uring or in a worker (any order)
 *	done	reported (main thread, in order)
 *
 * So what is written lies in the order of what was read, however many are in flight.
 */
#ifndef CBW_XFER_H
#define CBW_XFER_H

#include <stdbool.h>
#include <stdint.h>

#include "libcbw.h"

#define XFER_PIECE	(1u << 20)	/* most a piece can have */
#define XFER_PIECE_MIN	(128u << 10)
#define XFER_SLOTS	128		/* pieces in flight, */
#define XFER_BUFFER	(32u << 20)	/* and bytes: a power of two */
#define XFER_WRITES_MAX	64		/* writes of one piece */
#define XFER_WORKERS_MAX 16

/**
 * enum xfer_how - who reads or writes
 * @XFER_RING: io_uring
 * @XFER_THREAD: a worker, by pread() or pwrite(): what only copies memory, as tmpfs, is
 *	faster so, and two processors share it
 * @XFER_CALL: a worker, by the owner's function
 * @XFER_NONE: nobody: there is nothing to read
 */
enum xfer_how {
	XFER_RING,
	XFER_THREAD,
	XFER_CALL,
	XFER_NONE,
};

/**
 * struct xfer_piece - a range to move
 * @max: filled in for next(): how long the piece may be at most, a power of two; with
 *	XFER_NONE any length
 * @offset: where it belongs; for the owner, the engine does not look at it
 * @length: bytes that have to be read
 * @ask: bytes to ask for, @length to @max: the read may end early, behind
 *	@length, at the end of the file (so that O_DIRECT can ask for whole blocks)
 * @how: who reads it
 * @fd, @src_offset: where, with XFER_RING and XFER_THREAD
 */
struct xfer_piece {
	uint32_t max;
	uint64_t offset;
	uint64_t length;
	uint32_t ask;
	enum xfer_how how;
	int fd;
	uint64_t src_offset;
};

/**
 * struct xfer_write - a part of a piece's data, and where it goes
 * @data: within the piece's buffers
 * @how: not XFER_NONE
 * @fd: with XFER_RING and XFER_THREAD
 */
struct xfer_write {
	void *data;
	uint32_t length;
	enum xfer_how how;
	int fd;
	uint64_t dst_offset;
};

/**
 * struct xfer_bufs - what belongs to a piece
 * @data: what was read: @length or @ask bytes, rounded up to 4096 and to params.piece_min
 * @extra: the same for the owner, if params.extra
 * @own: params.own_size bytes for the owner; 0 in the beginning
 */
struct xfer_bufs {
	char *data;
	char *extra;
	void *own;
};

/**
 * struct xfer_ops - the owner's part
 * @next: the next piece; 1, 0 no more, or an error
 * @read: with XFER_CALL: fill @bufs->data; worker thread; 0 or an error
 * @work: what is to be done with the data before it is placed; worker thread number
 *	@worker, or NULL: nothing. Not called with XFER_NONE. With params.quick the thread of
 *	xfer_run() calls it too, as worker 0, and the real worker 0 may be in it at the same
 *	time: then it must not have anything that belongs to a worker.
 * @place: up to XFER_WRITES_MAX writes of it; their number, or an error
 * @write: with XFER_CALL; worker thread; 0 or an error
 * @done: all writes of a piece have completed; may be NULL
 * @mark: what was done until now will be durable at the next @synced; may be NULL
 * @synced: it is; NULL: nothing is synced in between. With params.sync_fd -1 it has to
 *	make it durable itself: nothing that was placed is in flight then
 * @read_failed: makes the text for a read that failed; returns the error; or 0: it has
 *	filled in @bufs->data itself. @code EUCLEAN: the file ends before it should
 * @tick: called about five times a second, for progress and for what should end
 *	the run even while nothing completes; 0 or an error; may be NULL
 *
 * Where nothing else is said they are called in the thread of xfer_run().
 */
struct xfer_ops {
	int (*next)(void *ctx, struct xfer_piece *piece, struct cbw_error *err);
	int (*read)(void *ctx, const struct xfer_piece *piece, const struct xfer_bufs *bufs,
		    unsigned int worker, struct cbw_error *err);
	int (*work)(void *ctx, const struct xfer_piece *piece, const struct xfer_bufs *bufs,
		    unsigned int worker, struct cbw_error *err);
	int (*place)(void *ctx, const struct xfer_piece *piece, const struct xfer_bufs *bufs,
		     struct xfer_write *writes, struct cbw_error *err);
	int (*write)(void *ctx, const struct xfer_write *write, unsigned int worker,
		     struct cbw_error *err);
	int (*done)(void *ctx, const struct xfer_piece *piece,
		    struct cbw_error *err);
	void (*mark)(void *ctx);
	int (*synced)(void *ctx, struct cbw_error *err);
	int (*read_failed)(void *ctx, const struct xfer_piece *piece,
			   const struct xfer_bufs *bufs, int code, struct cbw_error *err);
	int (*tick)(void *ctx, struct cbw_error *err);
};

/**
 * struct xfer_params
 * @target: name for messages about writes
 * @sync_fd: what to fdatasync for @synced, -1: @synced does it
 * @sync_bytes: that often
 * @rate: bytes per second that are read, 0: no limit
 * @piece_min, @piece_max: pieces are not to be shorter, but at an end, or longer; powers of
 *	two, 0: as it likes
 * @quick: how long a piece may be for work() to be called in the thread of xfer_run() (as
 *	worker 0), since handing it over takes longer than the work; 0: none
 * @extra: a second buffer for each piece
 * @own_size: see struct xfer_bufs
 * @workers: threads, 0: one for each processor
 * @bytes: about how much there is to be moved, 0: not known
 */
struct xfer_params {
	const char *target;
	int sync_fd;
	uint64_t sync_bytes;
	uint64_t rate;
	uint32_t piece_min, piece_max;
	uint32_t quick;
	bool extra;
	uint32_t own_size;
	unsigned int workers;
	uint64_t bytes;
};

/** xfer_workers - how many threads xfer_run() will have with @params */
unsigned int xfer_workers(const struct xfer_params *params);

/**
 * xfer_run - move everything
 *
 * Returns when nothing is in flight any more, after an error too. What hangs is not waited for
 * longer than ten seconds: then @abandoned (may be NULL) is true, and a worker may still be in
 * one of the owner's functions, so what these use must stay. -EINTR: SIGINT or SIGTERM came.
 */
int xfer_run(const struct xfer_ops *ops, void *ctx,
	     const struct xfer_params *params, bool *abandoned, struct cbw_error *err);

/**
 * xfer_run_mem - the same, where all that is read and written lies in memory
 *
 * Nothing goes through the ring, and nothing is synced: @ops->synced is NULL, and there is no rate.
 * Pieces are begun in order, but placed and done in any. Of the functions that are called in the
 * thread of xfer_run() any thread calls next(), place() and done(), but one at a time next(), done()
 * and tick(), and one at a time place(); read_failed() as read() is. What hangs is waited for.
 */
int xfer_run_mem(const struct xfer_ops *ops, void *ctx, const struct xfer_params *params,
		 struct cbw_error *err);

/**
 * xfer_how_of - how to read or write a file best
 *
 * XFER_THREAD for what lies in memory, else XFER_RING.
 */
enum xfer_how xfer_how_of(int fd);

/** now_ns - monotonic clock */
uint64_t now_ns(void);

#endif
