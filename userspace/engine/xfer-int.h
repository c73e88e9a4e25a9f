/* SPDX-License-Identifier: GPL-2.0-or-later */
/* the parts of the pipeline among themselves; xfer.h is for the others */
#ifndef CBW_XFER_INT_H
#define CBW_XFER_INT_H

#include <liburing.h>
#include <stdatomic.h>

#include "pace.h"
#include "workers.h"
#include "xfer-bufs.h"
#include "xfer.h"

enum state {
	FREE,
	READING,	/* by the ring, or waits for or is in a worker */
	READ,		/* waits for its turn to be placed */
	WRITING,
	WRITTEN,	/* waits for its turn to be reported */
};

/* what a worker is to do */
enum task {
	TASK_READ,	/* and the work, if that went well */
	TASK_WORK,
	TASK_WRITE,
};

/**
 * struct slot - a piece on its way
 * @job, @task: while it is with a worker the rest is the worker's, too
 * @job_read: what TASK_READ failed with; the main thread asks the owner then
 * @job_ret, @err: of the job
 * @mark: where its buffers end, for bufs_give()
 * @got: bytes read
 * @writes: in flight; those of a worker count as one
 */
struct slot {
	struct job job;
	enum task task;
	int job_read;
	int job_ret;
	struct cbw_error err;
	enum state state;
	struct xfer_piece piece;
	struct xfer_bufs bufs;
	uint64_t mark;
	uint32_t got;
	unsigned int writes;
	unsigned int nr;
	struct xfer_write write[XFER_WRITES_MAX];
};

/**
 * struct xfer - a run
 *
 * Of the thread that runs it, but for what is said otherwise: workers read @ops, @params, @ctx,
 * which stay as they are, and @abandoned.
 */
struct xfer {
	struct xfer_ops ops;
	struct xfer_params params;
	void *ctx;
	struct io_uring ring;
	struct workers *workers;
	unsigned int nr_workers;
	uint64_t event;			/* what is read from the workers' eventfd */
	bool event_armed;
	struct bufs bufs;
	bool fixed;			/* they are registered */
	struct slot slot[XFER_SLOTS];
	/* counters of pieces: oldest, next to be placed, next to be read */
	uint64_t head, place, tail;
	unsigned int in_flight;		/* requests, jobs */
	struct pace pace;
	enum xfer_how how;		/* of the last piece that was read */
	bool end;			/* no more pieces */
	bool syncing;
	bool quiet;			/* nothing more is placed until it has been synced */
	uint64_t read_bytes;
	uint64_t done_bytes;		/* since the last mark */
	uint64_t start;
	uint64_t ticked;
	uint64_t stopped;		/* when @ret was set */
	atomic_bool abandoned;		/* what is in flight was not waited for, nor may it go on */
	int ret;			/* first error; then only drain */
	struct cbw_error *err;
};

/* What a worker does with a slot; @ctx: the struct xfer */
void xfer_job(void *ctx, struct job *job, unsigned int worker);
/* One write that is not the ring's: 0, or an error, with the text in the slot. In a worker. */
int xfer_thread_write(struct xfer *x, struct slot *s, const struct xfer_write *w,
		      unsigned int worker);

#endif
