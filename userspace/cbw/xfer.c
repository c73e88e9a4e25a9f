// SPDX-License-Identifier: GPL-2.0-or-later
/* moving data with io_uring */
#include <liburing.h>
#include <time.h>

#include "cbw.h"
#include "xfer.h"

#define SQ_ENTRIES	128
#define TICK_NS		200000000ull
/* how long to wait for requests in flight once the run has failed */
#define DRAIN_NS	10000000000ull

enum state {
	FREE,
	READING,
	READ,		/* waits for its turn to be placed */
	WRITING,
	WRITTEN,	/* waits for its turn to be reported */
};

/* kinds of requests, in the low bits of user_data */
enum kind {
	KIND_READ,
	KIND_WRITE,
	KIND_SYNC,
};

struct slot {
	enum state state;
	struct xfer_piece piece;
	char *buf;
	uint32_t got;		/* bytes read */
	unsigned int writes;	/* in flight */
	struct xfer_write write[XFER_WRITES_MAX];
};

struct xfer {
	const struct xfer_ops *ops;
	const struct xfer_params *params;
	void *ctx;
	struct io_uring ring;
	struct slot slot[XFER_DEPTH];
	/* counters of pieces: oldest, next to be placed, next to be read */
	uint64_t head, place, tail;
	unsigned int in_flight;
	bool end;		/* no more pieces */
	bool syncing;
	uint64_t read_bytes;
	uint64_t done_bytes;	/* since the last mark */
	uint64_t start;
	uint64_t ticked;
	uint64_t stopped;	/* when @ret was set */
	bool abandoned;		/* requests in flight were not waited for */
	int ret;		/* first error; then only drain */
	struct cbw_error *err;
};

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static struct slot *slot_of(struct xfer *x, uint64_t nr)
{
	return &x->slot[nr % XFER_DEPTH];
}

static void stop(struct xfer *x, int ret)
{
	if (!x->ret)
		x->ret = ret;
}

static struct cbw_error *err_of(struct xfer *x)
{
	return x->ret ? NULL : x->err;
}

static struct io_uring_sqe *get_sqe(struct xfer *x)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&x->ring);
	int ret;

	while (!sqe) {
		ret = io_uring_submit(&x->ring);
		if (ret < 0 && ret != -EINTR && ret != -EAGAIN &&
		    ret != -EBUSY) {
			stop(x, fail_with(err_of(x), ret, "io_uring: %s",
					  strerror(-ret)));
			return NULL;
		}
		sqe = io_uring_get_sqe(&x->ring);
	}
	return sqe;
}

static uint64_t tag(const struct xfer *x, const struct slot *s, enum kind kind,
		    unsigned int nr)
{
	return (uint64_t)(s - x->slot) << 16 | nr << 4 | kind;
}

static void submit_read(struct xfer *x, struct slot *s)
{
	struct io_uring_sqe *sqe = get_sqe(x);

	if (!sqe) {
		s->state = WRITTEN;
		return;
	}
	io_uring_prep_read(sqe, s->piece.fd, s->buf + s->got,
			   s->piece.ask - s->got, s->piece.src_offset + s->got);
	sqe->user_data = tag(x, s, KIND_READ, 0);
	s->state = READING;
	x->in_flight++;
}

static void submit_write(struct xfer *x, struct slot *s, unsigned int nr)
{
	struct io_uring_sqe *sqe = get_sqe(x);
	const struct xfer_write *w = &s->write[nr];

	if (!sqe)
		return;
	io_uring_prep_write(sqe, w->fd, s->buf + w->buf_offset, w->length,
			    w->dst_offset);
	sqe->user_data = tag(x, s, KIND_WRITE, nr);
	s->writes++;
	x->in_flight++;
}

/* Whether the rate lets another piece go; else in how many nanoseconds. */
static bool may_read(const struct xfer *x, uint64_t *wait)
{
	uint64_t due;

	if (!x->params->rate)
		return true;
	due = (uint64_t)((double)x->read_bytes * 1e9 / (double)x->params->rate);
	due += x->start;
	*wait = now_ns();
	if (due <= *wait)
		return true;
	*wait = due - *wait;
	return false;
}

static uint64_t start_reads(struct xfer *x)
{
	uint64_t wait = TICK_NS;

	while (!x->end && !x->ret && x->tail - x->head < XFER_DEPTH &&
	       may_read(x, &wait)) {
		struct slot *s = slot_of(x, x->tail);
		int ret = x->ops->next(x->ctx, &s->piece, x->err);

		if (ret < 0) {
			stop(x, ret);
			break;
		}
		if (!ret) {
			x->end = true;
			break;
		}
		s->got = 0;
		x->tail++;
		x->read_bytes += s->piece.length;
		submit_read(x, s);
	}
	return wait < TICK_NS ? wait : TICK_NS;
}

static void place(struct xfer *x)
{
	while (x->place < x->tail && !x->ret) {
		struct slot *s = slot_of(x, x->place);
		int nr, i;

		if (s->state != READ)
			break;
		nr = x->ops->place(x->ctx, &s->piece, s->buf, s->write, x->err);
		if (nr < 0) {
			stop(x, nr);
			break;
		}
		s->state = WRITING;
		s->writes = 0;
		for (i = 0; i < nr; i++)
			submit_write(x, s, (unsigned int)i);
		if (!s->writes)
			s->state = WRITTEN;
		x->place++;
	}
}

static void retire(struct xfer *x)
{
	while (x->head < x->place && !x->ret) {
		struct slot *s = slot_of(x, x->head);
		int ret = 0;

		if (s->state != WRITTEN)
			break;
		if (x->ops->done)
			ret = x->ops->done(x->ctx, &s->piece, x->err);
		if (ret) {
			stop(x, ret);
			break;
		}
		x->done_bytes += s->piece.length;
		s->state = FREE;
		x->head++;
	}
}

static void start_sync(struct xfer *x)
{
	bool all = x->end && x->head == x->tail;
	struct io_uring_sqe *sqe;

	if (!x->ops->synced || x->syncing || x->ret || !x->done_bytes ||
	    (x->done_bytes < x->params->sync_bytes && !all))
		return;
	sqe = get_sqe(x);
	if (!sqe)
		return;
	x->ops->mark(x->ctx);
	x->done_bytes = 0;
	io_uring_prep_fsync(sqe, x->params->sync_fd, IORING_FSYNC_DATASYNC);
	sqe->user_data = KIND_SYNC;
	x->syncing = true;
	x->in_flight++;
}

static void read_ended(struct xfer *x, struct slot *s, int res)
{
	int ret;

	if (res == -EINTR || res == -EAGAIN) {
		submit_read(x, s);
		return;
	}
	if (res > 0) {
		s->got += (uint32_t)res;
		if (s->got >= s->piece.length) {
			s->state = READ;
			return;
		}
		submit_read(x, s);
		return;
	}
	s->state = READ;
	if (x->ret)
		return;
	/* 0: the file ends before it should */
	ret = x->ops->read_failed(x->ctx, &s->piece, res ? -res : EUCLEAN,
				  x->err);
	stop(x, ret);
}

static void write_ended(struct xfer *x, struct slot *s, unsigned int nr,
			int res)
{
	struct xfer_write *w = &s->write[nr];

	s->writes--;
	if (res == -EINTR || res == -EAGAIN ||
	    (res > 0 && (uint32_t)res < w->length)) {
		if (res > 0) {
			w->buf_offset += (uint32_t)res;
			w->dst_offset += (uint32_t)res;
			w->length -= (uint32_t)res;
		}
		submit_write(x, s, nr);
		return;
	}
	if (res <= 0)
		stop(x, fail_with(err_of(x), res ? -res : EIO,
				  "%s: writing %u bytes at offset %llu: %s",
				  esc(x->params->target), w->length,
				  (ull)w->dst_offset,
				  res ? strerror(-res) : "nothing was written"));
	if (!s->writes)
		s->state = WRITTEN;
}

static void sync_ended(struct xfer *x, int res)
{
	int ret;

	x->syncing = false;
	if (res < 0) {
		stop(x, fail_with(err_of(x), -res, "%s: fdatasync: %s",
				  esc(x->params->target), strerror(-res)));
		return;
	}
	if (x->ret)
		return;
	ret = x->ops->synced(x->ctx, x->err);
	if (ret)
		stop(x, ret);
}

static void complete(struct xfer *x, const struct io_uring_cqe *cqe)
{
	struct slot *s = &x->slot[cqe->user_data >> 16];

	x->in_flight--;
	switch ((enum kind)(cqe->user_data & 15)) {
	case KIND_READ:
		read_ended(x, s, cqe->res);
		break;
	case KIND_WRITE:
		write_ended(x, s, (unsigned int)(cqe->user_data >> 4 & 0xfff),
			    cqe->res);
		break;
	case KIND_SYNC:
		sync_ended(x, cqe->res);
		break;
	}
}

static void wait_some(struct xfer *x, uint64_t ns)
{
	struct __kernel_timespec ts = {
		.tv_sec = (long long)(ns / 1000000000ull),
		.tv_nsec = (long long)(ns % 1000000000ull),
	};
	struct io_uring_cqe *cqe;
	unsigned int head, nr = 0;
	int ret;

	ret = io_uring_submit(&x->ring);
	if (ret >= 0)
		ret = io_uring_wait_cqe_timeout(&x->ring, &cqe, &ts);
	if (ret < 0 && ret != -ETIME && ret != -EINTR && ret != -EAGAIN &&
	    ret != -EBUSY)
		stop(x, fail_with(err_of(x), ret, "io_uring: %s", strerror(-ret)));
	io_uring_for_each_cqe(&x->ring, head, cqe) {
		complete(x, cqe);
		nr++;
	}
	io_uring_cq_advance(&x->ring, nr);
}

static void loop(struct xfer *x)
{
	for (;;) {
		uint64_t wait;
		int ret;

		if (stop_signal && !x->ret)
			stop(x, fail_with(x->err, EINTR, "stopped by signal %d",
					  (int)stop_signal));
		retire(x);
		wait = start_reads(x);
		place(x);
		retire(x);
		start_sync(x);
		if (x->ops->tick && now_ns() - x->ticked >= TICK_NS) {
			x->ticked = now_ns();
			ret = x->ops->tick(x->ctx, err_of(x));
			if (ret)
				stop(x, ret);
		}
		if (x->ret && !x->stopped)
			x->stopped = now_ns();
		/* What hangs is left to the kernel, its buffers too. */
		x->abandoned = x->ret && x->in_flight &&
			       now_ns() - x->stopped >= DRAIN_NS;
		if (x->ret ? !x->in_flight || x->abandoned :
		    x->end && x->head == x->tail && !x->syncing &&
		    (!x->ops->synced || !x->done_bytes))
			return;
		wait_some(x, wait);
	}
}

int xfer_run(const struct xfer_ops *ops, void *ctx,
	     const struct xfer_params *params, struct cbw_error *err)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_CQSIZE,
		.cq_entries = XFER_DEPTH * XFER_WRITES_MAX,
	};
	struct xfer *x = xcalloc(1, sizeof(*x));
	char *bufs;
	int ret, i;

	x->ops = ops;
	x->params = params;
	x->ctx = ctx;
	x->err = err;
	if (posix_memalign((void **)&bufs, 4096,
			   (size_t)XFER_DEPTH * XFER_PIECE)) {
		free(x);
		return fail_with(err, ENOMEM, "out of memory");
	}
	for (i = 0; i < XFER_DEPTH; i++)
		x->slot[i].buf = bufs + (size_t)i * XFER_PIECE;
	ret = io_uring_queue_init_params(SQ_ENTRIES, &x->ring, &p);
	if (ret) {
		free(bufs);
		free(x);
		return fail_with(err, -ret,
				 "io_uring cannot be set up: %s%s", strerror(-ret),
				 ret == -EPERM || ret == -ENOSYS ?
				 " (is kernel.io_uring_disabled set?)" : "");
	}
	x->start = now_ns();
	loop(x);
	io_uring_queue_exit(&x->ring);
	ret = x->ret;
	if (!x->abandoned)
		free(bufs);
	free(x);
	return ret;
}
